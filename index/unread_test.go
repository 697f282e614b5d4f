package index

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// before is what a version understood that knew neither links nor reports nor offers nor revocations.
func before() understanding {
	u := thisUnderstanding()
	u.number--
	u.kinds = maps.Clone(u.kinds)
	for _, k := range []Kind{KindLink, KindReport, KindOffer, KindRevocation} {
		delete(u.kinds, k)
	}
	return u
}

// later is what a version will understand that knows bodies of version 2; they are as those of version 1 are.
func later() understanding {
	u := thisUnderstanding()
	u.number++
	u.kinds = maps.Clone(u.kinds)
	for k := range u.kinds {
		u.kinds[k] = 2
	}
	return u
}

// A node that is upgraded reads what it could not read before: its tables are as if it had understood all from the start.
func TestWhatWasNotReadIsReadAfterAnUpgrade(t *testing.T) {
	region := foundRegion("RAA", "RBB")
	report, err := ReportStatement(fullReport())
	if err != nil {
		t.Fatal(err)
	}
	offer, err := OfferStatement(fullOffer())
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := at("7", "RAA"), at("9", "RBB"), at("5", "RBB")
	link := mustLink(t, Same, a, b)
	v, err := Revoke(trustKeyOf("RBB"), region.id, "RBB", NodeIDOf(testKey("second node of RBB")))
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := RevocationStatement(v)
	if err != nil {
		t.Fatal(err)
	}
	broken := func(st Statement) Statement { st.Body = []byte{0xa0}; return st }
	second := func(st Statement) Statement { st.Version = 2; return st }
	said := []Statement{
		mustStudy(t, Study{UID: "1", Patient: []PatientID{{"7", "RAA"}}, Name: "DOE^JANE"}),
		mustStudy(t, Study{UID: "2", Patient: []PatientID{{"9", "RBB"}}, Name: "ROE^MARY"}),
		second(mustStudy(t, Study{UID: "1", Patient: []PatientID{{"7", "RAA"}}, Name: "DOE^JANE", Date: "20240101"})),
		second(mustStudy(t, Study{UID: "3", Patient: []PatientID{{"5", "RBB"}}, Name: "POE^JANE"})),
		link, mustLink(t, Merged, b, a), broken(link), mustLink(t, Different, b, c), second(mustLink(t, Withdrawn, b, c)),
		report, broken(report), offer, revoked, broken(revoked), note("x", "1"), second(note("y", "2")),
		{Kind: KindStudy, Subject: "4", Body: []byte{0xa0}, Version: 2},
	}
	versions := []understanding{before(), thisUnderstanding(), later()}
	rapid.Check(t, func(rt *rapid.T) {
		order := rapid.Permutation(said).Draw(rt, "said")
		var groups [][]Statement
		for _, st := range order {
			groups = append(groups, []Statement{st})
		}
		if n := rapid.IntRange(0, len(order)).Draw(rt, "retracted"); n > 0 && retractable(order[n-1].Kind) {
			st := order[n-1]
			r := Retraction{Why: Erased, Through: Position{1, Seq(len(order))}}
			for i, o := range order {
				if o.Kind == st.Kind && o.Subject == st.Subject {
					r.Positions = append(r.Positions, Position{1, Seq(i + 1)})
				}
			}
			gone := Statement{Kind: KindRetraction, Subject: RetractionSubject(st.Kind, st.Subject), Body: r.encode(), Version: rapid.Uint64Range(0, 2).Draw(rt, "version")}
			groups = append(groups, []Statement{gone})
		}
		log := sealed(t, nodeKeyOf("RBB"), 1, groups...)
		from := rapid.IntRange(0, 1).Draw(rt, "from")
		to := rapid.IntRange(from+1, 2).Draw(rt, "to")

		dbFresh, dbOld := openDB(t, ""), openDB(t, "")
		defer dbFresh.Close()
		defer dbOld.Close()
		fresh, err := open(dbFresh, testOptions("RAA", region), versions[to])
		if err != nil {
			rt.Fatal(err)
		}
		cut := rapid.IntRange(0, len(log)).Draw(rt, "cut")
		for v, part := range [][]Verified{log[:cut], log[cut:]} {
			knows := versions[from]
			if v == 1 {
				knows = versions[to]
			}
			old, err := open(dbOld, testOptions("RAA", region), knows)
			if err != nil {
				rt.Fatal(err)
			}
			for _, x := range []*Index{fresh, old} {
				if _, err := x.Take(part); err != nil {
					rt.Fatal(err)
				}
			}
		}
		old, err := open(dbOld, testOptions("RAA", region), versions[to])
		if err != nil {
			rt.Fatal(err)
		}
		want, got := dump(t, fresh), dump(t, old)
		for k, v := range want {
			if got[k] != v {
				rt.Errorf("row %x is %x, want %x", k, got[k], v)
			}
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				rt.Errorf("row %x should not be there", k)
			}
		}
		if l, m := lagOf(t, fresh, nodeOf("RBB")), lagOf(t, old, nodeOf("RBB")); l.Unread != m.Unread {
			rt.Errorf("%d unread, want %d", m.Unread, l.Unread)
		}
		if p, q := fresh.Roster().Revoked, old.Roster().Revoked; !slices.Equal(p, q) {
			rt.Errorf("%v are revoked, want %v", q, p)
		}
		for _, uid := range []string{"1", "2", "3"} {
			if p, q := answerOf(t, fresh, uid), answerOf(t, old, uid); p.String() != q.String() {
				rt.Errorf("%s: %s, want %s", uid, q, p)
			}
		}
	})
}

// A program that understands less would lose what has been read: it does not start.
func TestAnOlderProgramDoesNotTakeOver(t *testing.T) {
	db := openDB(t, "")
	defer db.Close()
	if _, err := open(db, testOptions("RAA", foundRegion("RAA")), later()); err != nil {
		t.Fatal(err)
	}
	var version *VersionError
	if _, err := Open(db, testOptions("RAA", foundRegion("RAA"))); !errors.As(err, &version) {
		t.Fatalf("%v", err)
	}
}
