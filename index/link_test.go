package index

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func at(id, issuer string) Identifier { return Identifier{ID: id, Issuer: issuer} }

func mustLink(t testing.TB, v Verdict, one, two Identifier) Statement {
	t.Helper()
	st, err := LinkStatement(Link{One: one, Two: two, Verdict: v})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func fullReport() Report {
	return Report{
		Study: "1.2.3", ID: "R7", Issuer: "RAA", Version: "2", Status: ReportAmended, Relation: Amends, OtherID: "R6", OtherIssuer: "RBB",
		MediaType: "application/pdf", Title: "CT chest", Author: "Dr A", Time: testNow, Content: []byte{1, 2}, SOPInstance: "1.2.3.4",
	}
}

func fullOffer() Offer {
	return Offer{
		Study: "1.2.3", ID: "7", Origin: nodeOf("RAA"), Work: "report", Skills: []string{"paediatric"}, Note: "tonight", Deadline: testNow,
		State: OfferTaken, By: "Dr B",
	}
}

// What may not be said is refused when it is said and when it is heard.
func TestBodiesThatMayNotBeSaid(t *testing.T) {
	a, b, anna := at("7", "RAA"), at("9", "RBB"), Identifier{NHS: nhsAnna}
	long := strings.Repeat("7", MaxText+1)
	refused := func(st Statement, err error, kind Kind, subject string, body []byte) {
		t.Helper()
		if err == nil {
			t.Errorf("said: %+v", st)
		}
		_, heard := thisUnderstanding().understand(Statement{Kind: kind, Subject: subject, Body: body})
		var malformed *MalformedError
		var limit *LimitError
		if !errors.As(heard, &malformed) && !errors.As(heard, &limit) {
			t.Errorf("heard: %v", heard)
		}
	}
	for _, l := range []Link{
		{One: a, Two: a, Verdict: Same},
		{One: a, Two: b},
		{One: a, Two: b, Verdict: Verdict(strings.Repeat("v", maxVerdict+1))},
		{One: a, Two: b, Verdict: "same\n"},
		{One: a, Two: at("9", ""), Verdict: Same},
		{One: a, Two: at("", "RBB"), Verdict: Same},
		{One: a, Two: Identifier{}, Verdict: Merged},
		{One: a, Two: at(long, "RBB"), Verdict: Same},
		{One: a, Two: at("9\x00", "RBB"), Verdict: Same},
		{One: a, Two: Identifier{NHS: "9434765918"}, Verdict: Same},
		{One: a, Two: Identifier{NHS: "1111111111"}, Verdict: Same},
		{One: a, Two: Identifier{NHS: nhsAnna, Issuer: "NHS"}, Verdict: Same},
	} {
		st, err := LinkStatement(l)
		refused(st, err, KindLink, LinkSubject(l.One, l.Two), encode(l))
	}
	for _, change := range []func(*Report){
		func(r *Report) { r.Study = "x" }, func(r *Report) { r.ID = "" }, func(r *Report) { r.Issuer = "" }, func(r *Report) { r.Status = "done" },
		func(r *Report) { r.Relation = "" }, func(r *Report) { r.Relation = "undoes" }, func(r *Report) { r.OtherIssuer = "" },
		func(r *Report) { r.OtherID, r.OtherIssuer = r.ID, r.Issuer }, func(r *Report) { r.MediaType = "" },
		func(r *Report) { r.MediaType = long }, func(r *Report) { r.SOPInstance = "x" }, func(r *Report) { r.Content = make([]byte, MaxManifest+1) },
		func(r *Report) { r.Version = "\x7f" },
	} {
		r := fullReport()
		change(&r)
		st, err := ReportStatement(r)
		refused(st, err, KindReport, r.subject(), encode(r))
	}
	for _, change := range []func(*Offer){
		func(o *Offer) { o.Study = "" }, func(o *Offer) { o.ID = "" }, func(o *Offer) { o.ID = strings.Repeat("7", maxOfferID+1) },
		func(o *Offer) { o.Origin = NodeID{} }, func(o *Offer) { o.Work = "" }, func(o *Offer) { o.State = "lost" }, func(o *Offer) { o.Work = long },
		func(o *Offer) { o.ID = "a\n" },
	} {
		o := fullOffer()
		change(&o)
		st, err := OfferStatement(o)
		refused(st, err, KindOffer, o.subject(), encode(o))
	}
	// What is out of order, or under another subject, is not heard.
	for name, st := range map[string]Statement{
		"order":   {Kind: KindLink, Subject: LinkSubject(anna, a), Body: encode(Link{One: anna, Two: a, Verdict: Same})},
		"link":    {Kind: KindLink, Subject: LinkSubject(a, anna), Body: encode(Link{One: a, Two: b, Verdict: Same})},
		"report":  {Kind: KindReport, Subject: "1.2.3@", Body: encode(fullReport())},
		"offer":   {Kind: KindOffer, Subject: "1.2.3", Body: encode(fullOffer())},
		"skills":  {Kind: KindOffer, Subject: fullOffer().subject(), Body: encode(func() Offer { o := fullOffer(); o.Skills = make([]string, maxList+1); return o }())},
		"version": {Kind: KindOffer, Subject: fullOffer().subject(), Body: encode(fullOffer()), Version: 2},
	} {
		if _, err := thisUnderstanding().understand(st); err == nil {
			t.Errorf("%s: understood", name)
		}
	}
}

func TestBodiesComeBackAsTheyWereSaid(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	r, o := fullReport(), fullOffer()
	rs, err := ReportStatement(r)
	if err != nil {
		t.Fatal(err)
	}
	os, err := OfferStatement(o)
	if err != nil {
		t.Fatal(err)
	}
	a, b := at("7", "RAA"), Identifier{NHS: nhsAnna}
	// Either order is one subject and, but for a merge, one body.
	one, two := mustLink(t, Same, a, b), mustLink(t, Same, b, a)
	if !reflect.DeepEqual(one, two) {
		t.Fatal("a link depends on the order of its identifiers")
	}
	if m, n := mustLink(t, Merged, a, b), mustLink(t, Merged, b, a); m.Subject != one.Subject || n.Subject != one.Subject || string(m.Body) == string(n.Body) {
		t.Fatal("a merge has lost which identifier survives")
	}
	say(t, x, rs, os, one, mustLink(t, Merged, b, a))
	if got, err := x.Links(b, a); err != nil || len(got) != 1 || got[0].Value != (Link{One: b, Two: a, Verdict: Merged}) || got[0].Trust != "RAA" {
		t.Fatalf("%+v, %v", got, err)
	}
	for st, decoded := range map[*Statement]any{&rs: r, &os: o} {
		facts, err := x.Facts(st.Kind, st.Subject)
		if err != nil || len(facts) != 1 {
			t.Fatalf("%+v, %v", facts, err)
		}
		var got any
		if st.Kind == KindReport {
			got, err = decodeReport(st.Subject, facts[0].Value)
		} else {
			got, err = decodeOffer(st.Subject, facts[0].Value)
		}
		if err != nil || !reflect.DeepEqual(got, decoded) {
			t.Errorf("%+v, want %+v (%v)", got, decoded, err)
		}
	}
	if r.Time = r.Time.Add(time.Hour); r.subject() != rs.Subject {
		t.Error("another version of a report has another subject")
	}
}

// A link, also one retracted and purged, leaves no row behind that finds it.
func TestLinksLeaveNoRows(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	a, b := at("7", "RAA"), at("9", "RBB")
	rows := func() (n int) {
		for k := range dump(t, x) {
			if k[0] == tabJoin || k[0] == tabParted {
				n++
			}
		}
		return n
	}
	for _, step := range []struct {
		v    Verdict
		want int
	}{{Same, 2}, {Merged, 2}, {Different, 2}, {Withdrawn, 0}, {"later", 0}, {Same, 2}} {
		say(t, x, mustLink(t, step.v, a, b))
		if got := rows(); got != step.want {
			t.Fatalf("%s: %d rows", step.v, got)
		}
	}
	retract(t, x, KindLink, LinkSubject(a, b), 6)
	if got := rows(); got != 0 {
		t.Fatalf("%d rows of a retracted link", got)
	}
	if err := x.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	for k, v := range dump(t, x) {
		if strings.Contains(v, "RBB") || strings.Contains(k, "RBB") {
			t.Errorf("row %x still names an identifier", k)
		}
	}
}
