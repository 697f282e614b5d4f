package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"
)

func retract(t testing.TB, x *Index, kind Kind, subject string, want int) {
	t.Helper()
	if n, err := x.Retract(context.Background(), kind, subject); n != want || err != nil {
		t.Fatalf("%d facts retracted, want %d (%v)", n, want, err)
	}
}

// What is awaited has its turn among what is missing: an author that withholds something else keeps nobody from asking for it.
func TestWhatIsAwaitedIsAskedForBesideWhatIsMissing(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	retraction := Statement{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, "1.2.3"), Body: Retraction{Why: Erased, Through: Position{1, 3}, Positions: []Position{{1, 3}}}.encode()}
	log := sealed(t, nodeKeyOf("RBB"), 1, []Statement{note("x", "1")}, []Statement{note("x", "2")}, []Statement{mustStudy(t, Study{UID: "1.2.3"})}, []Statement{retraction})
	x := openTest(t, "RAA", r)
	for i, v := range log {
		if i < 3 {
			v = bare(t, v, 0)
		}
		if _, err := x.Take([]Verified{v}); err != nil {
			t.Fatal(err)
		}
	}
	var asked []Seq
	for range 6 {
		after, ask, err := x.Heard(log[3].Head())
		if !ask || err != nil {
			t.Fatal(ask, err)
		}
		asked = append(asked, after+1)
	}
	if want := []Seq{1, 2, 3, 1, 2, 3}; !slices.Equal(asked, want) {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

// A retraction that names nothing takes nothing back, whatever comes first.
func TestARetractionThatNamesNothing(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	log := sealed(t, nodeKeyOf("RBB"), 1, []Statement{mustStudy(t, Study{UID: "1.2.3"})},
		[]Statement{{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, "1.2.3"), Body: Retraction{Why: Erased, Through: Position{1, 1}}.encode()}})
	for name, order := range map[string][]Verified{"in order": log, "the study late": {bare(t, log[0], 0), log[1], log[0]}} {
		x := openTest(t, "RAA", r)
		for _, v := range order {
			if _, err := x.Take([]Verified{v}); err != nil {
				t.Fatal(err)
			}
		}
		if lag := lagOf(t, x, nodeOf("RBB")); !shows(t, x, "1.2.3") || lag.Unread != 1 || lag.Missing != 0 {
			t.Errorf("%s: shown %v, %+v", name, shows(t, x, "1.2.3"), lag)
		}
	}
}

// A member takes back what it gave to some and kept from others, under the name of something else: who has not got it finds out what it was
// from who has, and all have the same members.
func TestWhatIsTakenBackUnseenIsAskedFor(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	vote := func(by TrustID) Statement {
		v, err := Admit(trustKeyOf(by), r.roster(), cardOf("RCC"), r.roster().NextSerial(by))
		if err != nil {
			t.Fatal(err)
		}
		return Statement{Kind: KindVote, Subject: v.subject(), Body: v.Encode()}
	}
	p := Position{1, 1}
	retraction := Statement{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, "1.2.3"), Body: Retraction{Why: Erased, Through: p, Positions: []Position{p}}.encode()}
	for name, c := range map[string]struct {
		said    Statement
		members int
	}{
		"a vote": {vote("RBB"), 3}, "the study": {mustStudy(t, Study{UID: "1.2.3"}), 2},
	} {
		log := sealed(t, nodeKeyOf("RBB"), 1, []Statement{c.said}, []Statement{retraction})
		whole := openTest(t, "RAA", r)
		say(t, whole, vote("RAA"))
		if _, err := whole.Take(log); err != nil {
			t.Fatal(err)
		}
		db := openDB(t, "")
		defer db.Close()
		opt := testOptions("RAA", r)
		x := openIn(t, db, opt)
		say(t, x, vote("RAA"))
		for _, v := range []Verified{bare(t, log[0], 0), log[1]} {
			if _, err := x.Take([]Verified{v}); err != nil {
				t.Fatal(err)
			}
		}
		asked := func(want bool) {
			t.Helper()
			for _, start := range []string{"", ", after a restart"} {
				if start != "" {
					x = openIn(t, db, opt)
				}
				after, ask, err := x.Heard(log[1].Head())
				if err != nil || ask != want || after != 0 || (len(x.Holes()) > 0) != want {
					t.Errorf("%s%s: asked for %v after %d, %d holes, %v", name, start, ask, after, len(x.Holes()), err)
				}
				if lag := lagOf(t, x, nodeOf("RBB")); lag.Missing != 0 || x.Behind(nodeOf("RBB")) {
					t.Errorf("%s%s: it is missed: %+v", name, start, lag)
				}
			}
		}
		asked(true)
		if _, err := x.Take(log[:1]); err != nil {
			t.Fatal(err)
		}
		asked(false)
		for who, y := range map[string]*Index{"who had all": whole, "who asked": x} {
			if n := len(y.Roster().Members); n != c.members {
				t.Errorf("%s: %s has %d members, want %d", name, who, n, c.members)
			}
			if shows(t, y, "1.2.3") {
				t.Errorf("%s: %s shows what was taken back", name, who)
			}
		}
	}
}

// Where nothing is awaited, to find a hole does not mean to read through all that was ever taken back.
func TestAHoleIsFoundPastWhatWasTakenBack(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	cost := func(studies int) float64 {
		var said, taken []Statement
		for i := range studies {
			uid, p := fmt.Sprintf("1.2.%d", i), Position{1, Seq(i + 1)}
			said = append(said, mustStudy(t, Study{UID: uid}))
			taken = append(taken, Statement{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, uid), Body: Retraction{Why: Erased, Through: p, Positions: []Position{p}}.encode()})
		}
		groups := append(slices.Collect(slices.Chunk(said, MaxFacts)), slices.Collect(slices.Chunk(taken, MaxFacts))...)
		log := sealed(t, nodeKeyOf("RBB"), 1, append(groups, []Statement{note("x", "1")})...)
		x := openTest(t, "RAA", r)
		last := len(log) - 1
		log[last] = bare(t, log[last], 0)
		if _, err := x.Take(log); err != nil {
			t.Fatal(err)
		}
		return testing.AllocsPerRun(10, func() {
			if after, ask, err := x.Heard(log[last].Head()); err != nil || !ask || after != Seq(2*studies) {
				t.Fatal(after, ask, err)
			}
		})
	}
	if few, many := cost(2), cost(400); many > few+200 {
		t.Errorf("it takes %v allocations where 400 studies were taken back, %v where 2 were", many, few)
	}
}

// bare is a batch without the payloads at some places.
func bare(t testing.TB, v Verified, drop ...int) Verified {
	t.Helper()
	b := Batch{Header: v.Batch().Header, Sig: v.Batch().Sig, Payloads: slices.Clone(v.Batch().Payloads)}
	for _, i := range drop {
		b.Payloads[i] = Payload{}
	}
	w, err := b.Verify()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// dump is every row of a database but what is only waiting for a purge.
func dump(t testing.TB, x *Index) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := x.db.View(func(txn *badger.Txn) error {
		return scan(txn, nil, nil, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
			if k[0] >= 0x40 { // another's
				return false, nil
			}
			v, err := value()
			out[string(k)] = string(v)
			return err == nil, err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	waiting := doomed{goes: map[string]bool{}}
	for k := range out {
		waiting.goes[k] = k[0] == tabDoomed
	}
	for k, v := range maps.Clone(out) {
		switch k[0] {
		case tabDoomed:
			delete(out, k)
		case tabPart: // without what waits for the purge
			b, err := waiting.without([]byte(k), []byte(v))
			if err != nil {
				t.Fatal(err)
			}
			out[k] = string(b)
		}
	}
	return out
}

// logRowOf is the row of an author's log.
func logRowOf(t testing.TB, x *Index, n NodeID) string {
	t.Helper()
	a, ok := x.known(n)
	if !ok {
		t.Fatal("no such author")
	}
	return dump(t, x)[string(epochKey(tabLog, a.no, 1))]
}

func TestWhatIsRetractedIsNoLongerShownAnywhere(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC", "RDD")
	a, b, c, d := openTest(t, "RAA", r), openTest(t, "RBB", r), openTest(t, "RCC", r), openTest(t, "RDD", r)
	study := Study{UID: "1.2.3", Name: "DOE^JON", Accession: "A1", Date: "20240101", Patient: []PatientID{{"7", "RAA"}}}
	say(t, a, mustStudy(t, study), note("x", "1"), mustStudy(t, Study{UID: "1.2.30", Name: "ROE^RICHARD", Date: "20240101"}))
	study.Name = "DOE^JOHN"
	say(t, a, mustStudy(t, study))
	say(t, c, mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JOHN", Accession: "C1", Date: "20240102"}))
	h, err := HoldingStatement(Holding{Study: "1.2.3", Origin: a.Self(), Revision: 1, Instances: 1})
	if err != nil {
		t.Fatal(err)
	}
	say(t, b, h)
	for _, x := range []*Index{a, b, c} {
		for _, y := range []*Index{a, b, c} {
			if x != y {
				copyLog(t, x, y, x.Self())
			}
		}
	}
	var heard []Fact
	b.Watch(func(f Fact) { heard = append(heard, f) })
	retract(t, a, KindStudy, "1.2.3", 2)
	retract(t, a, KindStudy, "1.2.3", 0) // nothing is said twice
	copyLog(t, a, b, a.Self())
	copyLog(t, a, c, a.Self())
	if len(heard) != 1 || heard[0].Kind != KindRetraction || heard[0].Subject != RetractionSubject(KindStudy, "1.2.3") {
		t.Fatalf("heard %+v", heard)
	}
	// Who comes late gets the log without the payloads, misses nothing, and asks whether anybody has what was named.
	copyLog(t, b, d, a.Self())
	copyLog(t, c, d, c.Self())
	copyLog(t, b, d, b.Self())
	for i, x := range []*Index{a, b, c, d} {
		got, ok := told(x, "1.2.3")
		if !ok || len(got) != 1 || got[0].Trust != "RCC" {
			t.Errorf("%d: %+v", i, got)
		}
		for q, want := range map[*Query]int{{}: 2, {Trust: "RAA"}: 1, {Trust: "RCC"}: 1, {Accession: "A1"}: 0, {Accession: "C1"}: 1, {PatientID: "7"}: 0, {Name: "DOE"}: 1, {Name: "ROE"}: 1} {
			n, _, err := x.Count(bg, *q)
			ans, aerr := x.Studies(bg, *q)
			if n != want || len(ans.Studies) != want || err != nil || aerr != nil {
				t.Errorf("%d: %+v finds %d, counts %d, want %d (%v, %v)", i, q, len(ans.Studies), n, want, err, aerr)
			}
		}
		if got := holders(x, "1.2.3", a.Self()); len(got) != 1 || got[0].Origin {
			t.Errorf("%d: %+v", i, got) // the copy is its holder's to take back
		}
		if l := lagOf(t, x, a.Self()); l.Missing != 0 || l.Unread != 0 {
			t.Errorf("%d: %+v", i, l)
		}
		head, _ := a.Head(a.Self())
		if _, asks, err := x.Heard(head); asks != (i == 3) || err != nil {
			t.Errorf("%d: asks for more: %v, %v", i, asks, err)
		}
		batches, err := x.Range(a.Self(), 1, 0, MaxAnswer)
		if err != nil || !batches[0].Payloads[0].dropped() || batches[0].Payloads[1].dropped() || batches[0].Payloads[2].dropped() || !batches[1].Payloads[0].dropped() {
			t.Errorf("%d: gives %+v, %v", i, batches, err)
		}
		gone, err := x.Retractions()
		if err != nil || len(gone) != 1 || gone[0] != (Retracted{a.Self(), RetractionSubject(KindStudy, "1.2.3"), Position{1, 4}}) {
			t.Errorf("%d: %+v, %v", i, gone, err)
		}
		before := dump(t, x)
		if err := x.Purge(context.Background()); err != nil {
			t.Fatal(err)
		}
		if after := dump(t, x); !reflect.DeepEqual(after, before) {
			t.Errorf("%d: the purge took more away, or less: %d rows before, %d after", i, len(before), len(after))
		}
	}
	retract(t, b, KindHolding, h.Subject, 1)
	copyLog(t, b, a, b.Self())
	if got := holders(a, "1.2.3", a.Self()); len(got) != 0 {
		t.Fatalf("%+v", got)
	}
	// Said anew it is a study like any other.
	study.Name = "DOE^JOHN"
	say(t, a, mustStudy(t, study))
	copyLog(t, a, d, a.Self())
	for i, x := range []*Index{a, d} {
		if got, _ := told(x, "1.2.3"); len(got) != 2 {
			t.Errorf("%d: %+v", i, got)
		}
		if n, _, _ := x.Count(bg, Query{Accession: "A1"}); n != 1 {
			t.Errorf("%d: %d", i, n)
		}
	}
	retract(t, a, KindStudy, "1.2.3", 1)
	if got, _ := told(a, "1.2.3"); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	for kind, subject := range map[Kind]string{KindNode: a.Self().String(), KindVote: "x", "note": "x"} {
		if _, err := a.Retract(context.Background(), kind, subject); err == nil {
			t.Errorf("a %s was taken back", kind)
		}
	}
}

// A retraction of many facts is several.
func TestRetractionOfManyFacts(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	a, b := openTest(t, "RAA", r), openTest(t, "RBB", r)
	const n = 2*MaxRetracted + 3
	var said []Statement
	for i := range n {
		said = append(said, mustStudy(t, Study{UID: "1.2.3", Description: fmt.Sprint(i)}), note("x", fmt.Sprint(i)))
	}
	for part := range slices.Chunk(said, MaxFacts) {
		say(t, a, part...)
	}
	copyLog(t, a, b, a.Self())
	retract(t, a, KindStudy, "1.2.3", n)
	copyLog(t, a, b, a.Self())
	if h, _ := a.Head(a.Self()); h.Seq != 2*n+3 {
		t.Fatalf("the log ends at %d", h.Seq)
	}
	if logRowOf(t, a, a.Self()) != logRowOf(t, b, a.Self()) {
		t.Fatal("the logs differ")
	}
	for _, x := range []*Index{a, b} {
		if _, ok := told(x, "1.2.3"); ok {
			t.Fatal("still there")
		}
		if err := x.Purge(context.Background()); err != nil {
			t.Fatal(err)
		}
		payloads := 0
		for k, v := range dump(t, x) {
			if k[0] == tabPart {
				r, err := readPart([]byte(k), []byte(v))
				if err != nil {
					t.Fatal(err)
				}
				payloads += len(slices.DeleteFunc(r.payloads, Payload.dropped))
			}
		}
		if payloads != n+3 {
			t.Fatalf("%d payloads, want %d", payloads, n+3)
		}
	}
}

// What an author retracts again after it began a new epoch is the same, and what it said since stays said.
func TestRetractionsAreRestated(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	a, b := openTest(t, "RAA", r), openTest(t, "RBB", r)
	say(t, a, mustStudy(t, Study{UID: "1.2.3"}), mustStudy(t, Study{UID: "1.2.4"}))
	retract(t, a, KindStudy, "1.2.3", 1)
	retract(t, a, KindStudy, "1.2.4", 1)
	say(t, a, mustStudy(t, Study{UID: "1.2.4", Description: "again"}))
	if err := a.NewEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	copyLog(t, a, b, a.Self())
	for _, x := range []*Index{a, b} {
		if _, ok := told(x, "1.2.3"); ok {
			t.Fatal("it is back")
		}
		if s, _ := told(x, "1.2.4"); len(s) != 1 || s[0].Epoch != 2 {
			t.Fatalf("%+v", s)
		}
		if n, _, _ := x.Count(bg, Query{}); n != 1 {
			t.Fatal(n)
		}
	}
}

// A list that names what is not the author's to take back, or not there, changes nothing but the author's own word.
func TestHostileRetractionsAreHarmless(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	b := openTest(t, "RBB", r)
	say(t, b, mustStudy(t, Study{UID: "1.2.3"}))
	hash := RetractionSubject(KindStudy, "1.2.3")
	body := func(ret Retraction) Statement {
		return Statement{Kind: KindRetraction, Subject: hash, Body: ret.encode()}
	}
	var all []Position
	for i := range Seq(MaxRetracted) {
		all = append(all, Position{1, i + 1})
	}
	log := sealed(t, nodeKeyOf("RAA"), 1,
		[]Statement{mustStudy(t, Study{UID: "1.2.4"}), note("x", "1"), mustStudy(t, Study{UID: "1.2.3"})},
		[]Statement{
			body(Retraction{Why: Erased, Through: Position{1, 2}, Positions: all[:2]}), // of other subjects
			body(Retraction{Why: Erased, Through: Position{2, 1}, Positions: all}),     // of what is still to come
			body(Retraction{Why: "otherwise", Through: Position{1, 3}, Positions: all[:3]}),
			{Kind: KindRetraction, Subject: "1.2.3", Body: Retraction{Why: Erased, Through: Position{1, 3}}.encode()},
			{Kind: KindRetraction, Subject: hash, Body: []byte{0xa0}},
			{Kind: KindRetraction, Subject: hash, Body: encode(retractionBody{Why: Erased, Through: all[0].append(nil), Positions: make([]byte, (MaxRetracted+1)*positionSize)})},
			{Kind: KindRetraction, Subject: hash, Body: encode(retractionBody{Why: Erased, Through: all[0].append(nil), Positions: append(all[1].append(nil), all[0].append(nil)...)})},
		},
		slices.Repeat([]Statement{body(Retraction{Why: Erased, Through: Position{1, 2}, Positions: all[:2]})}, MaxFacts))
	if n, err := b.Take(log); n != len(log) || err != nil {
		t.Fatal(n, err)
	}
	if l := lagOf(t, b, nodeOf("RAA")); l.Unread != 5 || l.Missing != 0 {
		t.Fatalf("%+v", l)
	}
	if s, _ := told(b, "1.2.3"); len(s) != 2 {
		t.Fatalf("%+v", s)
	}
	if _, ok := told(b, "1.2.4"); !ok {
		t.Fatal("a fact of another subject is gone")
	}
	// The largest list there can be, in the largest batch, of positions in all epochs.
	var far []Position
	for i := range MaxRetracted {
		far = append(far, Position{Epoch(i + 1), 1 << 55})
	}
	most := make([]Statement, MaxFacts)
	for i := range most {
		most[i] = Statement{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, fmt.Sprint(i)), Body: Retraction{Why: Erased, Through: far[len(far)-1], Positions: far}.encode()}
	}
	if n, err := b.Take(sealed(t, nodeKeyOf("RAA"), MaxEpoch, most)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	var epochs []Epoch
	for _, l := range b.Lags() {
		if l.Node == nodeOf("RAA") {
			epochs = append(epochs, l.Epoch)
		}
	}
	if !slices.Equal(epochs, []Epoch{1, MaxEpoch}) {
		t.Errorf("it has logs of the epochs %v", epochs)
	}
	if err := b.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// What is said anew after it was taken back stays, also where the words that took it back come last.
func TestALateRetractionTakesNothingSaidAfterIt(t *testing.T) {
	report := func(title string) Statement {
		st, err := ReportStatement(Report{Study: "1.2.3", ID: "R1", Issuer: "RBB", Status: ReportFinal, MediaType: "text/plain", Title: title})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	subject := report("").Subject
	p := Position{1, 1}
	takenBack := Statement{Kind: KindRetraction, Subject: RetractionSubject(KindReport, subject), Body: Retraction{Why: Erased, Through: p, Positions: []Position{p}}.encode()}
	log := sealed(t, nodeKeyOf("RBB"), 1, []Statement{report("ERRONEOUS FINDING")}, []Statement{takenBack}, []Statement{report("TRUE FINDING")})
	for name, order := range map[string][]Verified{
		"first":                     log,
		"last":                      {log[0], bare(t, log[1], 0), log[2], log[1]},
		"before what it takes back": {bare(t, log[0], 0), log[1], log[2], log[0]},
	} {
		x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
		for _, v := range order {
			if _, err := x.Take([]Verified{v}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := x.Facts(KindReport, subject)
		if err != nil || len(got) != 1 || !strings.Contains(string(got[0].Value), "TRUE FINDING") {
			t.Errorf("the retraction comes %s: %d reports, %v", name, len(got), err)
		}
		if l := lagOf(t, x, nodeOf("RBB")); l.Missing != 0 {
			t.Errorf("the retraction comes %s: %d facts are missing", name, l.Missing)
		}
	}
}

// What its list leaves out is taken back too, if it is not newer than what is: it is shown and handed on no more, whenever it came.
func TestARetractionTakesBackWhatItsListLeavesOut(t *testing.T) {
	log := sealed(t, nodeKeyOf("RBB"), 1,
		[]Statement{mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JON"}), mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JOHN"}), mustStudy(t, Study{UID: "1.2.4"})},
		[]Statement{{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, "1.2.3"), Body: Retraction{Why: Erased, Through: Position{1, 2}, Positions: []Position{{1, 1}}}.encode()}})
	for name, order := range map[string][]Verified{"before": log, "after": {bare(t, log[0], 1), log[1], log[0]}} {
		x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
		for _, v := range order {
			if _, err := x.Take([]Verified{v}); err != nil {
				t.Fatal(err)
			}
		}
		if got, _ := told(x, "1.2.3"); len(got) != 0 {
			t.Errorf("it came %s: %+v", name, got)
		}
		if _, ok := told(x, "1.2.4"); !ok {
			t.Errorf("it came %s: another study is gone", name)
		}
		b, err := x.Range(nodeOf("RBB"), 1, 0, MaxAnswer)
		if err != nil || len(b) != 2 {
			t.Fatal(len(b), err)
		}
		for i, p := range b[0].Payloads {
			if want := i < 2; p.dropped() != want {
				t.Errorf("it came %s: fact %d is not handed on: %v, want %v", name, i+1, p.dropped(), want)
			}
		}
		if l := lagOf(t, x, nodeOf("RBB")); l.Missing != 0 {
			t.Errorf("it came %s: %d facts are missing", name, l.Missing)
		}
	}
}

// What its list leaves out and has been said anew since is taken back in whatever order it comes, and handed on by nobody.
func TestWhatAListLeavesOutIsTakenBackInAnyOrder(t *testing.T) {
	takesBack := func(kind Kind, subject string) Statement {
		return Statement{Kind: KindRetraction, Subject: RetractionSubject(kind, subject), Body: Retraction{Why: Erased, Through: Position{1, 2}, Positions: []Position{{1, 2}}}.encode()}
	}
	holding := func(revision uint64) Statement {
		h, err := HoldingStatement(Holding{Study: "1.2.3", Origin: nodeOf("RAA"), Revision: revision, Instances: 1})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	report := func(title string) Statement {
		st, err := ReportStatement(Report{Study: "1.2.3", ID: "R1", Issuer: "RBB", Status: ReportFinal, MediaType: "text/plain", Title: title})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	for kind, said := range map[Kind][]Statement{
		KindStudy:   {mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JON"}), mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JOHN"})},
		KindHolding: {holding(1), holding(2)},
		KindReport:  {report("ERRONEOUS"), report("ERRONEOUS TOO")},
	} {
		log := sealed(t, nodeKeyOf("RBB"), 1, append(said, mustStudy(t, Study{UID: "1.2.4"})), []Statement{takesBack(kind, said[0].Subject)})
		for name, order := range map[string][]Verified{
			"in order":           log,
			"the named one late": {bare(t, log[0], 1), log[1], log[0]},
			"the other late":     {bare(t, log[0], 0), log[1], log[0]},
			"both late":          {bare(t, log[0], 0, 1), log[1], log[0]},
			"the named one last": {bare(t, log[0], 0, 1), log[1], bare(t, log[0], 1), log[0]},
			"the other last":     {bare(t, log[0], 0, 1), log[1], bare(t, log[0], 0), log[0]},
			"what names it last": {bare(t, log[0], 1), bare(t, log[1], 0), log[0], log[1]},
		} {
			x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
			for _, v := range order {
				if _, err := x.Take([]Verified{v}); err != nil {
					t.Fatal(err)
				}
			}
			for _, purged := range []bool{false, true} {
				if purged {
					if err := x.Purge(bg); err != nil {
						t.Fatal(err)
					}
				}
				reports, err := x.Facts(KindReport, report("").Subject)
				if shows(t, x, "1.2.3") || len(holders(x, "1.2.3", nodeOf("RAA"))) > 0 || len(reports) > 0 || err != nil {
					t.Errorf("%s, %s: it is still shown (%v)", kind, name, err)
				}
				if !shows(t, x, "1.2.4") {
					t.Errorf("%s, %s: another study is gone", kind, name)
				}
				b, err := x.Range(nodeOf("RBB"), 1, 0, MaxAnswer)
				if err != nil || len(b) != 2 {
					t.Fatal(len(b), err)
				}
				for i, p := range b[0].Payloads {
					if want := i < 2; p.dropped() != want {
						t.Errorf("%s, %s: fact %d is not handed on: %v, want %v", kind, name, i+1, p.dropped(), want)
					}
				}
				if l := lagOf(t, x, nodeOf("RBB")); l.Missing != 0 || l.Unread != 0 || len(x.Holes()) != 0 {
					t.Errorf("%s, %s: %+v, %d holes", kind, name, l, len(x.Holes()))
				}
			}
		}
	}
}

// What could not be read and is taken back is not counted as unread any more, also after a restart.
func TestWhatIsTakenBackIsNotUnread(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	p := Position{1, 1}
	log := sealed(t, nodeKeyOf("RBB"), 1,
		[]Statement{{Kind: KindStudy, Subject: "1.2.3", Body: []byte{0xa0, 0xa0}}, {Kind: KindStudy, Subject: "1.2.4", Body: []byte{0xa0, 0xa0}}},
		[]Statement{{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, "1.2.3"), Body: Retraction{Why: Erased, Through: p, Positions: []Position{p}}.encode()}})
	db := openDB(t, "")
	defer db.Close()
	x := openIn(t, db, testOptions("RAA", r))
	for i, want := range []int{2, 1} {
		if _, err := x.Take(log[i : i+1]); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if l := lagOf(t, x, nodeOf("RBB")); l.Unread != want || l.Missing != 0 {
				t.Errorf("after batch %d: %d unread, want %d; %d missing", i+1, l.Unread, want, l.Missing)
			}
			x = openIn(t, db, testOptions("RAA", r))
		}
	}
}

// Who is in the region stays so, whoever takes back his vote: it is kept, counted and handed on, whether it came before what takes it back
// or after. So does what is of no kind that is taken back.
func TestVotesAreNotTakenBack(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	admits := func(by TrustID) (Vote, Statement) {
		v, err := Admit(trustKeyOf(by), r.roster(), cardOf("RCC"), r.roster().NextSerial(by))
		if err != nil {
			t.Fatal(err)
		}
		return v, Statement{Kind: KindVote, Subject: v.subject(), Body: v.Encode()}
	}
	_, first := admits("RAA")
	vote, second := admits("RBB")
	takesBack := func(kind Kind, subject string, seq Seq) Statement {
		p := Position{1, seq}
		return Statement{Kind: KindRetraction, Subject: RetractionSubject(kind, subject), Body: Retraction{Why: Erased, Through: p, Positions: []Position{p}}.encode()}
	}
	log := sealed(t, nodeKeyOf("RBB"), 1, []Statement{second, note("x", "1")}, []Statement{takesBack(KindVote, vote.subject(), 1), takesBack("note", "x", 2)})
	for name, order := range map[string][]Verified{"before": log, "after": {bare(t, log[0], 0, 1), log[1], log[0]}} {
		db := openDB(t, "")
		defer db.Close()
		opt := testOptions("RAA", r)
		x := openIn(t, db, opt)
		say(t, x, first)
		for _, v := range order {
			if _, err := x.Take([]Verified{v}); err != nil {
				t.Fatal(err)
			}
		}
		for _, when := range []string{"", ", after a purge", ", after a restart"} {
			switch when {
			case ", after a purge":
				if err := x.Purge(bg); err != nil {
					t.Fatal(err)
				}
			case ", after a restart":
				x = openIn(t, db, opt)
			}
			if n := len(x.Roster().Members); n != 3 {
				t.Errorf("the vote came %s%s: %d members", name, when, n)
			}
			b, err := x.Range(nodeOf("RBB"), 1, 0, MaxAnswer)
			if err != nil || len(b) != 2 {
				t.Fatalf("the vote came %s%s: %d batches, %v", name, when, len(b), err)
			}
			for i, p := range b[0].Payloads {
				if p.dropped() {
					t.Errorf("the vote came %s%s: others are not given fact %d", name, when, i+1)
				}
			}
		}
	}
}

// In whatever order batches of two epochs and payloads come in, whatever is held back at first, the state is the same.
func TestRetractionsAreIndependentOfOrder(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	rapid.Check(t, func(rt *rapid.T) {
		key := nodeKeyOf("RAA")
		said := map[string][]Position{}
		var logs [][]Verified
		for epoch := Epoch(1); epoch <= 2; epoch++ {
			var groups [][]Statement
			seq := Seq(0)
			for range rapid.IntRange(1, 4).Draw(rt, "batches") {
				var st []Statement
				for range rapid.IntRange(1, 4).Draw(rt, "facts") {
					seq++
					uid := fmt.Sprintf("1.2.%d", rapid.IntRange(1, 2).Draw(rt, "study"))
					switch rapid.IntRange(0, 4).Draw(rt, "kind") {
					case 0:
						st = append(st, note(uid, fmt.Sprint(seq)))
					case 1:
						if at := said[uid]; len(at) > 0 {
							st = append(st, Statement{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, uid), Body: Retraction{Why: Erased, Through: at[len(at)-1], Positions: at}.encode()})
							said[uid] = nil
							continue
						}
						st = append(st, note("none", uid))
					case 2:
						h, _ := HoldingStatement(Holding{Study: uid, Origin: nodeOf("RBB"), Revision: uint64(seq), Instances: 1})
						st = append(st, h)
					default:
						st = append(st, mustStudy(t, Study{UID: uid, Name: fmt.Sprintf("NAME^%d", seq), Accession: fmt.Sprint(seq % 2)}))
						said[uid] = append(said[uid], Position{epoch, seq})
					}
				}
				groups = append(groups, st)
			}
			logs = append(logs, sealed(t, key, epoch, groups...))
		}
		take := func(x *Index, v ...Verified) {
			if _, err := x.Take(v); err != nil {
				rt.Fatal(err)
			}
		}
		open := func() *Index {
			db := openDB(t, "")
			rt.Cleanup(func() { db.Close() })
			return openIn(t, db, testOptions("RBB", r))
		}
		want := open()
		for _, log := range logs {
			take(want, log...)
		}
		got := open()
		next := []int{0, 0}
		some := func(v Verified) Verified {
			var drop []int
			for i := range v.Batch().Payloads {
				if rapid.Bool().Draw(rt, "held back") {
					drop = append(drop, i)
				}
			}
			return bare(t, v, drop...)
		}
		for next[0] < len(logs[0]) || next[1] < len(logs[1]) {
			e := rapid.IntRange(0, 1).Draw(rt, "epoch")
			switch {
			case next[e] < len(logs[e]) && rapid.Bool().Draw(rt, "new"):
				take(got, some(logs[e][next[e]]))
				next[e]++
			case next[e] > 0:
				take(got, some(logs[e][rapid.IntRange(0, next[e]-1).Draw(rt, "again")]))
			case next[1-e] == len(logs[1-e]):
				take(got, some(logs[e][next[e]]))
				next[e]++
			}
			if rapid.IntRange(0, 9).Draw(rt, "purge") == 0 {
				if err := got.Purge(context.Background()); err != nil {
					rt.Fatal(err)
				}
			}
		}
		for _, log := range logs {
			take(got, log...)
		}
		same := func() {
			a, b := dump(t, want), dump(t, got)
			for k := range maps.Keys(a) {
				if v, ok := b[k]; !ok || v != a[k] {
					rt.Errorf("row %x is %x, want %x (%v)", k, v, a[k], ok)
				}
			}
			for k := range b {
				if _, ok := a[k]; !ok {
					rt.Errorf("row %x should not be", k)
				}
			}
		}
		same()
		for _, x := range []*Index{want, got} {
			if err := x.Purge(context.Background()); err != nil {
				rt.Fatal(err)
			}
			for k := range dump(t, x) {
				if k[0] == tabDoomed || k[0] == tabSaved {
					rt.Errorf("row %x is left by the purge", k)
				}
			}
		}
		same()
	})
}

// page is how much of a file is looked at together: files that are mapped are mostly empty.
const page = 4096

// pages calls fn for each page of a file that is not all zeros.
func pages(path string, fn func(b []byte, at int64) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var zeros [page]byte
	b := make([]byte, 64*page)
	for at := int64(0); ; {
		n, err := io.ReadFull(f, b)
		for some := range slices.Chunk(b[:n], page) {
			if !bytes.Equal(some, zeros[:len(some)]) {
				if err := fn(some, at); err != nil {
					return err
				}
			}
			at += int64(len(some))
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// occurrences counts texts in all files of a folder.
func occurrences(t testing.TB, dir string, texts ...string) map[string]int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, f := range files {
		var all []byte
		var end int64
		if err := pages(f, func(b []byte, at int64) error {
			if at > end {
				all = append(all, 0) // for the zeros between
			}
			all, end = append(all, b...), at+int64(len(b))
			return nil
		}); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, text := range texts {
			n[text] += bytes.Count(all, []byte(text))
		}
	}
	return n
}

// After a purge no file of the database holds what was retracted, and rows whose keys begin with those that went are as they were.
func TestPurgeLeavesNothingInTheFiles(t *testing.T) {
	dir := t.TempDir()
	r := foundRegion("RAA", "RBB")
	db := openDB(t, dir)
	x := openIn(t, db, testOptions("RBB", r))
	doomed := []string{"QWXZJVKPLM", "BRTHGFDSNC", "71625344", "PLKQZJXVWB"}
	study := func(i int, uid string) Statement {
		return mustStudy(t, Study{UID: uid, Name: doomed[0] + "^" + fmt.Sprint(i), Accession: doomed[1], Patient: []PatientID{{doomed[2], "RAA"}}, Description: doomed[3], Date: "20240101"})
	}
	other := func(i int) Statement {
		return mustStudy(t, Study{UID: fmt.Sprintf("1.2.71.%d", i), Name: fmt.Sprintf("OTHER^%d", i), Date: "20240101", Modalities: []string{"CT"}})
	}
	var groups [][]Statement
	var others []Statement
	for i := range 300 {
		if others = append(others, other(i), other(1000+i)); i%25 == 0 {
			groups = append(groups, others)
			others = nil
		}
		if i%50 == 0 {
			groups = append(groups, []Statement{study(i, "1.2.71.5.9"), mustStudy(t, Study{UID: "1.2.71.5.99", Name: "OTHER^99", Date: "20240101", Modalities: []string{"CT"}})})
		}
		if i == 150 { // down into the lower levels
			if _, err := x.Take(sealed(t, nodeKeyOf("RAA"), 1, groups...)); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = openDB(t, dir)
			if err := db.Flatten(1); err != nil {
				t.Fatal(err)
			}
			x = openIn(t, db, testOptions("RBB", r))
		}
	}
	log := sealed(t, nodeKeyOf("RAA"), 1, append(groups, others)...)
	if _, err := x.Take(log); err != nil {
		t.Fatal(err)
	}
	before := dump(t, x)
	const uid, longer = "1.2.71.5.9", "1.2.71.5.99"
	there := occurrences(t, dir, append(doomed, uid)...)
	for _, text := range append(doomed, uid) {
		if there[text] == 0 {
			t.Fatalf("%s is not found before: the test proves nothing", text)
		}
	}
	var at []Position
	for _, v := range log {
		for i, p := range v.Batch().Payloads {
			if bytes.Contains(p.Data, []byte(doomed[0])) {
				at = append(at, Position{1, v.First() + Seq(i)})
			}
		}
	}
	last := log[len(log)-1].Head()
	ret, err := sealBatch(nodeKeyOf("RAA"), last, 1, []Statement{{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, "1.2.71.5.9"),
		Body: Retraction{Why: Erased, Through: at[len(at)-1], Positions: at}.encode()}}, newSeeded("ret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Take([]Verified{ret}); err != nil {
		t.Fatal(err)
	}
	// Interrupted, it goes on where it was.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := x.Purge(ctx); err == nil {
		t.Fatal("a purge that was stopped says that it is done")
	}
	if err := x.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		left := occurrences(t, dir, append(doomed, uid, longer)...)
		for _, text := range doomed {
			if left[text] != 0 {
				t.Errorf("%s is still found %d times", text, left[text])
			}
		}
		if left[uid] != left[longer] {
			t.Errorf("the UID is still found: %d, of which %d are another's", left[uid], left[longer])
		}
	}
	check()
	after := dump(t, x)
	author, _ := x.known(nodeOf("RAA"))
	trail := map[string]bool{}
	for i := range 300 {
		for _, k := range x.trail(author, study(i, "1.2.71.5.9")) {
			trail[string(k)] = true
		}
	}
	for k, v := range before {
		gone := trail[k] || k[0] == tabPart && strings.Contains(v, doomed[0]) || k[0] == tabCount || k[0] == tabLog || k[0] == tabRun
		if !gone && after[k] != v {
			t.Fatalf("row %q is %q, was %q", k, after[k], v)
		}
	}
	if s, ok := told(x, "1.2.71.5.99"); !ok || s[0].Value.Name != "OTHER^99" {
		t.Fatal("a study whose UID goes on where the other's ends is gone")
	}
	if n, _, _ := x.Count(bg, Query{}); n != 601 {
		t.Fatalf("%d studies", n)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check()
	db = openDB(t, dir)
	defer db.Close()
	check()
	err = db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{AllVersions: true, PrefetchValues: true})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			row := string(it.Item().Key()) + "\xff" + string(v)
			for _, text := range append(doomed, "1.2.71.5.9\x00", "1.2.71.5.9\xff") {
				if strings.Contains(row, text) {
					t.Errorf("%s is in a row of table %x", text, row[0])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Rows that were kept aside when the power went are put back.
func TestInterruptedPurgePutsBack(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	x := openIn(t, db, testOptions("RAA", foundRegion("RAA")))
	if err := x.Update(func(txn *badger.Txn) error {
		return txn.Set(append([]byte{tabSaved}, "\x41kept"...), []byte("value"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, dir)
	defer db.Close()
	x = openIn(t, db, testOptions("RAA", foundRegion("RAA")))
	if v, ok, err := x.row([]byte("\x41kept")); !ok || err != nil || string(v) != "value" {
		t.Fatalf("%q, %v, %v", v, ok, err)
	}
	if _, ok, _ := x.row([]byte("\x1c\x41kept")); ok {
		t.Fatal("kept twice")
	}
}

func TestDropTakesKeysAndPrefixes(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	defer db.Close()
	x := openIn(t, db, testOptions("RAA", foundRegion("RAA")))
	set := func(kv ...string) {
		if err := x.Update(func(txn *badger.Txn) error {
			for _, k := range kv {
				if err := txn.Set([]byte(k), []byte("value of "+k)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	set("\x40QWXZ\x00one", "\x40QWXZ\x00two", "\x40QWXZJ\x00three", "\x41JVKP", "\x41JVKP1", "\x41PLMB", "\x41PLMB7", "\x45ZZZ")
	if err := x.Update(func(txn *badger.Txn) error { return txn.Delete([]byte("\x41PLMB")) }); err != nil {
		t.Fatal(err)
	}
	if err := x.Drop(context.Background(), [][]byte{[]byte("\x41JVKP"), []byte("\x41PLMB"), []byte("\x41none")}, [][]byte{[]byte("\x40QWXZ\x00"), []byte("\x44QWXZ\x00")}); err != nil {
		t.Fatal(err)
	}
	var left []string
	if err := db.View(func(txn *badger.Txn) error {
		return anyVersion(txn, nil, func(k []byte) {
			if k[0] >= 0x40 && !slices.Contains(left, string(k)) {
				left = append(left, string(k))
			}
		})
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"\x40QWXZJ\x00three", "\x41JVKP1", "\x41PLMB7", "\x45ZZZ"}; !slices.Equal(left, want) {
		t.Fatalf("%q left, want %q", left, want)
	}
	got := occurrences(t, dir, "QWXZ\x00", "JVKP", "JVKP1", "PLMB", "PLMB7")
	for text, n := range map[string]int{"QWXZ\x00": 0, "JVKP": got["JVKP1"], "PLMB": got["PLMB7"]} {
		if got[text] != n {
			t.Errorf("%q is found %d times, want %d", text, got[text], n)
		}
	}
	if v, ok, _ := x.row([]byte("\x41JVKP1")); !ok || string(v) != "value of \x41JVKP1" {
		t.Fatalf("%q", v)
	}
}

// More is taken back than one round of a purge takes: what waits for the next keeps its payload until then, for that says what else goes.
func TestAPurgeTakesOnlyWhatItKnowsTheTrailOf(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	const n = purgeFacts + 40
	for i := 0; i < n; i += 8 {
		var st []Statement
		for j := range 8 {
			st = append(st, mustStudy(t, Study{UID: uidOf(i + j), Name: fmt.Sprintf("NAME%d^X", i+j)}))
		}
		say(t, x, st...)
	}
	for i := range n {
		retract(t, x, KindStudy, uidOf(i), 1)
	}
	work, err := x.doomed()
	if err != nil || len(work.at) != purgeFacts {
		t.Fatal(len(work.at), err)
	}
	if err := x.purge(context.Background(), doomedKeys{keys: work.parts, kind: rewritten, rewrite: work.without}); err != nil {
		t.Fatal(err)
	}
	here := 0
	err = x.View(func(txn *badger.Txn) error {
		here = 0
		return scan(txn, []byte{tabDoomed}, []byte{tabDoomed}, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
			r, err := cover(txn, 1, keyPosition(k))
			if err == nil && (r.here(keyPosition(k).Seq) != nil) == work.goes[string(k)] {
				t.Errorf("position %v: here %v, but goes now %v", keyPosition(k), r.here(keyPosition(k).Seq) != nil, work.goes[string(k)])
			}
			if r.here(keyPosition(k).Seq) != nil {
				here++
			}
			return true, err
		})
	})
	if err != nil || here != n-purgeFacts {
		t.Fatal(here, err)
	}
	if err := x.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	for k := range dump(t, x) {
		if k[0] == tabName || k[0] == tabDoomed || k[0] == tabPerson {
			t.Errorf("row %q is left", k)
		}
	}
}

// As much as a batch can take back, of one study said over and over, is taken.
func TestTheFullestRetractionsAreTaken(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	x := openTest(t, "RBB", r)
	var groups [][]Statement
	var at []Position
	for i := range MaxRetracted {
		g := make([]Statement, MaxFacts)
		for j := range g {
			g[j] = mustStudy(t, Study{UID: "1.2.3", Description: fmt.Sprint(i, j)})
			at = append(at, Position{1, Seq(i*MaxFacts + j + 1)})
		}
		groups = append(groups, g)
	}
	var ret []Statement
	for part := range slices.Chunk(at, MaxRetracted) {
		ret = append(ret, Statement{Kind: KindRetraction, Subject: RetractionSubject(KindStudy, "1.2.3"), Body: Retraction{Why: Erased, Through: at[len(at)-1], Positions: part}.encode()})
	}
	log := sealed(t, nodeKeyOf("RAA"), 1, append(groups, ret)...)
	if n, err := x.Take(log); n != len(log) || err != nil {
		t.Fatal(n, err)
	}
	if _, ok := told(x, "1.2.3"); ok {
		t.Fatal("it is still there")
	}
	if err := x.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// The mark that a purge leaves when it is cut off is no row: what comes after does not take it for one.
func TestAMarkIsNoRow(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	s := Study{UID: "1.2.3", Name: "DOE^JANE"}
	if err := x.db.Update(func(txn *badger.Txn) error {
		return txn.SetEntry(badger.NewEntry(personRow(x.personKey(s.person())), nil).WithMeta(purgeMark))
	}); err != nil {
		t.Fatal(err)
	}
	say(t, x, mustStudy(t, s))
	if a, err := x.Studies(bg, Query{Name: "DOE"}); err != nil || len(a.Studies) != 1 {
		t.Fatal(len(a.Studies), err)
	}
}
