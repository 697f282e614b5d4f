package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

func TestAppendIsThereAfterReopening(t *testing.T) {
	dir := t.TempDir()
	r := foundRegion("RAA")
	db := openDB(t, dir)
	x := openIn(t, db, testOptions("RAA", r))
	h1 := say(t, x, note("a", "1"), note("b", "2"))
	h2 := say(t, x, mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JOHN", Date: "20240101"}))
	if h1.Seq != 2 || h2.Seq != 3 || h2.Epoch != 1 || h2.verify() != nil {
		t.Fatalf("heads %+v and %+v", h1, h2)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, dir)
	defer db.Close()
	x = openIn(t, db, testOptions("RAA", r))
	if h, ok := x.Head(x.Self()); !ok || !h.same(h2) {
		t.Fatalf("head %+v after reopening, want %+v", h, h2)
	}
	if got, ok := told(x, "1.2.3"); !ok || got[0].Value.Name != "DOE^JOHN" || got[0].Trust != "RAA" || got[0].Seq != 3 {
		t.Fatalf("%+v, %v", got, ok)
	}
	if n, exact, err := x.Count(bg, Query{}); n != 1 || !exact || err != nil {
		t.Fatalf("%d studies, %v, %v", n, exact, err)
	}
	if h := say(t, x, note("a", "3")); h.Seq != 4 {
		t.Fatalf("the log goes on at %d", h.Seq)
	}
}

func TestAppendRefusesWhatItCouldNotRead(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	long := strings.Repeat("x", MaxSubject+1)
	for name, st := range map[string][]Statement{
		"nothing":                   {},
		"too many":                  make([]Statement, MaxFacts+1),
		"no kind":                   {{Subject: "x"}},
		"no subject":                {{Kind: "note"}},
		"long subject":              {{Kind: "note", Subject: long}},
		"control character":         {{Kind: "note", Subject: "a\x00b"}},
		"large body":                {{Kind: "note", Subject: "x", Body: make([]byte, MaxBody+1)}},
		"large batch":               {note("a", string(make([]byte, MaxBody))), note("b", string(make([]byte, MaxBody))), note("c", string(make([]byte, MaxBody))), note("d", string(make([]byte, MaxBody)))},
		"study without a body":      {{Kind: KindStudy, Subject: "1.2.3"}},
		"study of another subject":  {{Kind: KindStudy, Subject: "1.2.4", Body: mustStudy(t, Study{UID: "1.2.3"}).Body}},
		"holding of no study":       {{Kind: KindHolding, Subject: "x", Body: encode(Holding{Study: "x"})}},
		"vote that is none":         {{Kind: KindVote, Subject: "x", Body: []byte{0xa0}}},
		"node that is none":         {{Kind: KindNode, Subject: "x", Body: []byte{0xa0}}},
		"the second of two is bad":  {note("a", "1"), {Kind: KindStudy, Subject: "1.2.3"}},
		"negative count in a study": {{Kind: KindStudy, Subject: "1.2.3", Body: encode(Study{UID: "1.2.3", Series: -1})}},
	} {
		if _, err := x.Append(context.Background(), st...); err == nil {
			t.Errorf("%s: said", name)
		}
	}
	if h := x.Heads(); len(h) != 0 {
		t.Fatalf("the log has grown to %d", h[0].Seq)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := x.Append(ctx, note("a", "1")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestNewestWinsForEachAuthorAndDisagreementIsShown(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	a, b := openTest(t, "RAA", r), openTest(t, "RBB", r)
	say(t, a, mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JON", Accession: "A1", Date: "20240101"}))
	say(t, b, mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JOHN", Accession: "B1", Date: "20240102"}))
	say(t, a, mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JOHNNY", Accession: "A2", Date: "20240101"}))
	copyLog(t, a, b, a.Self())
	copyLog(t, b, a, b.Self())
	for _, x := range []*Index{a, b} {
		got, ok := told(x, "1.2.3")
		if !ok || len(got) != 2 {
			t.Fatalf("%+v", got)
		}
		names := map[TrustID]string{}
		for _, g := range got {
			names[g.Trust] = g.Value.Name
		}
		if names["RAA"] != "DOE^JOHNNY" || names["RBB"] != "DOE^JOHN" {
			t.Fatalf("%v", names)
		}
		for acc, want := range map[string]int{"A1": 0, "A2": 1, "B1": 1} {
			if ans, err := x.Studies(bg, Query{Accession: acc}); err != nil || len(ans.Studies) != want {
				t.Errorf("accession %s finds %d studies, want %d (%v)", acc, len(ans.Studies), want, err)
			}
		}
		if n, _, _ := x.Count(bg, Query{}); n != 1 {
			t.Errorf("%d studies", n)
		}
		for _, trust := range []TrustID{"RAA", "RBB"} {
			if n, _, _ := x.Count(bg, Query{Trust: trust}); n != 1 {
				t.Errorf("%d studies of %s", n, trust)
			}
		}
	}
}

func TestUnknownKindsAreStoredAndRelayed(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	a, b, c := openTest(t, "RAA", r), openTest(t, "RBB", r), openTest(t, "RCC", r)
	// A kind of a later version, and a study with a field of a later version.
	withMore := map[int]any{1: "1.2.3", 4: "DOE^JOHN", 99: "more"}
	say(t, a, Statement{Kind: "hologram", Subject: "x", Body: []byte{1, 2, 3}}, Statement{Kind: KindStudy, Subject: "1.2.3", Body: encode(withMore)})
	copyLog(t, a, b, a.Self())
	copyLog(t, b, c, a.Self()) // relayed by one that does not understand it
	got, err := c.Facts("hologram", "x")
	if err != nil || len(got) != 1 || !bytes.Equal(got[0].Value, []byte{1, 2, 3}) || got[0].Author != a.Self() {
		t.Fatalf("%+v, %v", got, err)
	}
	body, err := c.Facts(KindStudy, "1.2.3")
	if err != nil || len(body) != 1 || !bytes.Equal(body[0].Value, encode(withMore)) {
		t.Fatalf("the study's body changed on the way: %+v, %v", body, err)
	}
	if s, ok := told(c, "1.2.3"); !ok || s[0].Value.Name != "DOE^JOHN" {
		t.Fatal("the study is not understood for its unknown field")
	}
}

// A fact this version cannot read is stored, relayed and counted; the log goes on.
func TestUnreadableFactsAreCounted(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	b, c := openTest(t, "RBB", r), openTest(t, "RCC", r)
	batches := sealed(t, nodeKeyOf("RAA"), 1,
		[]Statement{{Kind: KindStudy, Subject: "1.2.3", Body: []byte("no study")}, note("x", "1")},
		[]Statement{{Kind: KindStudy, Subject: "1.2.4", Body: mustStudy(t, Study{UID: "1.2.3"}).Body}})
	if n, err := b.Take(batches); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	copyLog(t, b, c, nodeOf("RAA"))
	for _, x := range []*Index{b, c} {
		if l := lagOf(t, x, nodeOf("RAA")); l.Applied != 3 || l.Unread != 2 || l.Missing != 0 {
			t.Fatalf("%+v", l)
		}
		if _, ok := told(x, "1.2.3"); ok {
			t.Fatal("a study came of it")
		}
	}
}

func lagOf(t *testing.T, x *Index, n NodeID) Lag {
	t.Helper()
	for _, l := range x.Lags() {
		if l.Node == n {
			return l
		}
	}
	t.Fatal("no lag of that node")
	return Lag{}
}

func TestUncertifiedAuthorsAreRefused(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
	v := sealed(t, nodeKeyOf("RXX"), 1, []Statement{note("x", "1")})
	var want *UncertifiedError
	if n, err := x.Take(v); n != 0 || !errors.As(err, &want) || want.Node != nodeOf("RXX") {
		t.Fatal(n, err)
	}
	if _, behind, err := x.Heard(v[0].Head()); behind || !errors.As(err, &want) {
		t.Fatal(behind, err)
	}
	if _, err := x.Take(sealed(t, nodeKeyOf("RBB"), 1, []Statement{note("x", "1")})); err != nil {
		t.Fatal(err)
	}
}

func TestGapsAndRepeats(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
	v := sealed(t, nodeKeyOf("RBB"), 1, []Statement{note("x", "1"), note("x", "2")}, []Statement{note("x", "3")}, []Statement{note("x", "4")})
	var gap *GapError
	if n, err := x.Take(v[1:]); n != 0 || !errors.As(err, &gap) || gap.After != 0 || gap.First != 3 {
		t.Fatal(n, err)
	}
	if n, err := x.Take([]Verified{v[0], v[2]}); n != 1 || !errors.As(err, &gap) || gap.After != 2 {
		t.Fatal(n, err)
	}
	if n, err := x.Take(v); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := x.Take(v); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if got, _ := x.Facts("note", "x"); len(got) != 1 || string(got[0].Value) != "4" {
		t.Fatalf("%+v", got)
	}
}

// What contradicts a stored log is a fork: its proof is kept and holds before anyone, the epoch is left at where it was, and what
// was taken stays.
func TestForksAreProven(t *testing.T) {
	t.Parallel()
	key := nodeKeyOf("RBB")
	base := sealed(t, key, 1, []Statement{note("x", "1")}, []Statement{note("x", "2"), note("x", "3")}, []Statement{note("x", "4")})
	other := func(last Head, st ...Statement) Verified {
		v, err := sealBatch(key, last, 1, st, newSeeded("other"))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	branch := other(Head{}, note("x", "another first"))
	for name, theirs := range map[string]Verified{
		"another first batch":            branch,
		"another second batch":           other(base[0].Head(), note("x", "2'"), note("x", "3'")),
		"a shorter second batch":         other(base[0].Head(), note("x", "2")),
		"a longer second batch":          other(base[0].Head(), note("x", "2"), note("x", "3"), note("x", "4"), note("x", "5")),
		"a batch that follows on others": other(other(other(branch.Head(), note("x", "2")).Head(), note("x", "3"), note("x", "4")).Head(), note("x", "5")),
	} {
		for _, how := range []string{"batch", "head"} {
			t.Run(name+" by its "+how, func(t *testing.T) {
				r := foundRegion("RAA", "RBB")
				dir := t.TempDir()
				db := openDB(t, dir)
				x := openIn(t, db, testOptions("RAA", r))
				if _, err := x.Take(base); err != nil {
					t.Fatal(err)
				}
				var fork *ForkError
				var err error
				if how == "batch" {
					_, err = x.Take([]Verified{theirs})
				} else {
					_, _, err = x.Heard(theirs.Head())
				}
				if how == "head" && theirs.Head().Seq > 4 {
					if err != nil { // ahead: only its batches can contradict
						t.Fatal(err)
					}
					return
				}
				if !errors.As(err, &fork) {
					t.Fatalf("%v, want a fork", err)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				db = openDB(t, dir)
				defer db.Close()
				x = openIn(t, db, testOptions("RAA", r))
				forks := x.Forks()
				if len(forks) != 1 || forks[0].Node != NodeIDOf(key) || !forks[0].Found.Equal(testNow) {
					t.Fatalf("%+v", forks)
				}
				if err := forks[0].Verify(); err != nil {
					t.Fatal(err)
				}
				next := other(base[2].Head(), note("x", "5"))
				if _, err := x.Take([]Verified{next}); !errors.As(err, &fork) {
					t.Fatalf("more was taken: %v", err)
				}
				got, err := x.Facts("note", "x")
				if err != nil || len(got) != 1 || string(got[0].Value) != "4" || !got[0].Quarantined {
					t.Fatalf("%+v, %v", got, err)
				}
				if l := lagOf(t, x, NodeIDOf(key)); !l.Quarantined || l.Applied != 4 {
					t.Fatalf("%+v", l)
				}
				// A new epoch is the author's way out.
				if _, err := x.Take(sealed(t, key, 2, []Statement{note("x", "again")})); err != nil {
					t.Fatal(err)
				}
				if got, _ := x.Facts("note", "x"); string(got[0].Value) != "again" || got[0].Quarantined {
					t.Fatalf("%+v", got)
				}
			})
		}
	}
}

func TestNoProofOfAForkWithoutContradiction(t *testing.T) {
	key := nodeKeyOf("RBB")
	v := sealed(t, key, 1, []Statement{note("x", "1")}, []Statement{note("x", "2")})
	apart := sealed(t, key, 2, []Statement{note("x", "1")})
	for name, f := range map[string]Fork{
		"one history":   {Node: NodeIDOf(key), Epoch: 1, Ours: v[0].link.evidence(), Theirs: v[1].link.evidence()},
		"the same side": {Node: NodeIDOf(key), Epoch: 1, Ours: v[0].link.evidence(), Theirs: v[0].link.evidence()},
		"two epochs":    {Node: NodeIDOf(key), Epoch: 1, Ours: v[0].link.evidence(), Theirs: apart[0].link.evidence()},
		"another node":  {Node: nodeOf("RAA"), Epoch: 1, Ours: v[0].link.evidence(), Theirs: v[1].link.evidence()},
		"heads only":    {Node: NodeIDOf(key), Epoch: 1, Ours: Evidence{Head: v[0].Head()}, Theirs: Evidence{Head: v[1].Head()}},
		"no signature":  {Node: NodeIDOf(key), Epoch: 1, Ours: v[0].link.evidence(), Theirs: Evidence{Head: Head{Node: NodeIDOf(key), Epoch: 1, Seq: 1, Sig: make([]byte, 64)}}},
	} {
		if f.Verify() == nil {
			t.Errorf("%s: taken for a proof", name)
		}
	}
}

func TestForgedHeadsAccuse(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
	v := sealed(t, nodeKeyOf("RBB"), 1, []Statement{note("x", "1")})
	if _, err := x.Take(v); err != nil {
		t.Fatal(err)
	}
	for _, seq := range []Seq{1, 9} {
		h := v[0].Head()
		h.Seq, h.Hash = seq, [32]byte{1}
		var forged *ForgedError
		if _, behind, err := x.Heard(h); behind || !errors.As(err, &forged) {
			t.Fatalf("position %d: %v, %v", seq, behind, err)
		}
	}
	if len(x.Forks()) != 0 || lagOf(t, x, nodeOf("RBB")).Heard != 1 {
		t.Fatal("an unsigned word had an effect")
	}
}

func TestLagTellsWhatWasHeardAndWhatIsHere(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB", "RCC"))
	v := sealed(t, nodeKeyOf("RBB"), 1, []Statement{note("x", "1")}, []Statement{note("x", "2")}, []Statement{note("x", "3")})
	if _, err := x.Take(v[:1]); err != nil {
		t.Fatal(err)
	}
	if after, behind, err := x.Heard(v[2].Head()); after != 1 || !behind || err != nil {
		t.Fatal(after, behind, err)
	}
	if _, _, err := x.Heard(v[1].Head()); err != nil {
		t.Fatal(err)
	}
	if l := lagOf(t, x, nodeOf("RBB")); l.Applied != 1 || l.Heard != 3 || l.Trust != "RBB" || l.Epoch != 1 {
		t.Fatalf("%+v", l)
	}
	if l := lagOf(t, x, nodeOf("RCC")); l.Applied != 0 || l.Epoch != 0 || l.Trust != "RCC" {
		t.Fatalf("%+v", l)
	}
	if _, err := x.Take(v); err != nil {
		t.Fatal(err)
	}
	if l := lagOf(t, x, nodeOf("RBB")); l.Applied != 3 || l.Heard != 3 {
		t.Fatalf("%+v", l)
	}
}

// A payload that did not come leaves a hole that is counted, asked for again, and filled by whoever has it.
func TestHolesAreCountedAndFilled(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	dir := t.TempDir()
	db := openDB(t, dir)
	x := openIn(t, db, testOptions("RAA", r))
	whole := sealed(t, nodeKeyOf("RBB"), 1,
		[]Statement{mustStudy(t, Study{UID: "1.2.3", Name: "OLD^NAME"}), note("x", "1")},
		[]Statement{mustStudy(t, Study{UID: "1.2.3", Name: "NEW^NAME"}), mustStudy(t, Study{UID: "1.2.4"})})
	holed := func(v Verified, drop ...int) Verified {
		b := Batch{Header: v.Batch().Header, Sig: v.Batch().Sig, Payloads: append([]Payload(nil), v.Batch().Payloads...)}
		for _, i := range drop {
			b.Payloads[i] = Payload{}
		}
		w, err := b.Verify()
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	if n, err := x.Take([]Verified{holed(whole[0], 0), holed(whole[1], 1)}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if l := lagOf(t, x, nodeOf("RBB")); l.Missing != 2 || l.Applied != 4 {
		t.Fatalf("%+v", l)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, dir)
	defer db.Close()
	x = openIn(t, db, testOptions("RAA", r))
	var asked []Seq
	for range 3 {
		after, behind, err := x.Heard(whole[1].Head())
		if err != nil || !behind {
			t.Fatal(behind, err)
		}
		asked = append(asked, after)
	}
	if !reflect.DeepEqual(asked, []Seq{0, 3, 0}) {
		t.Fatalf("asked after %v", asked)
	}
	// A holed copy served on is holed still, and brings nothing.
	served, err := x.Range(nodeOf("RBB"), 1, 0, MaxAnswer)
	if err != nil || len(served) != 2 || !served[0].Payloads[0].dropped() || served[0].Payloads[1].dropped() {
		t.Fatalf("%+v, %v", served, err)
	}
	if n, err := x.Take([]Verified{holed(whole[0], 0, 1)}); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := x.Take(whole); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if l := lagOf(t, x, nodeOf("RBB")); l.Missing != 0 {
		t.Fatalf("%+v", l)
	}
	if _, behind, _ := x.Heard(whole[1].Head()); behind {
		t.Fatal("still asking")
	}
	// The late older fact does not replace the newer one.
	if s, _ := told(x, "1.2.3"); len(s) != 1 || s[0].Value.Name != "NEW^NAME" {
		t.Fatalf("%+v", s)
	}
	if _, ok := told(x, "1.2.4"); !ok {
		t.Fatal("the filled fact was not applied")
	}
}

func TestWatchersHearDurableFactsInOrder(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	x := openTest(t, "RAA", r)
	var mu sync.Mutex
	heard := map[NodeID][]Seq{}
	said := false
	stop := x.Watch(func(f Fact) {
		if got, err := x.Facts(f.Kind, f.Subject); err != nil || len(got) == 0 {
			t.Errorf("told of a fact that is not there: %v", err)
		}
		mu.Lock()
		heard[f.Author] = append(heard[f.Author], f.Seq)
		again := f.Subject == "ask" && !said
		said = said || again
		mu.Unlock()
		if again { // a watcher may append
			if _, err := x.Append(context.Background(), note("answer", "1")); err != nil {
				t.Error(err)
			}
		}
	})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 5 {
				if _, err := x.Append(context.Background(), note(fmt.Sprint(i), fmt.Sprint(j)), note("ask", "?")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for _, v := range sealed(t, nodeKeyOf("RBB"), 1, []Statement{note("x", "1")}, []Statement{note("x", "2"), note("x", "3")}) {
			if _, err := x.Take([]Verified{v}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	mu.Lock()
	for n, want := range map[NodeID]int{x.Self(): 41, nodeOf("RBB"): 3} {
		if len(heard[n]) != want {
			t.Errorf("%d facts heard, want %d", len(heard[n]), want)
		}
		for i, s := range heard[n] {
			if s != Seq(i+1) {
				t.Fatalf("out of order: %v", heard[n])
			}
		}
	}
	mu.Unlock()
	stop()
	say(t, x, note("x", "unheard"))
	if len(heard[x.Self()]) != 41 {
		t.Fatal("told after stop")
	}
}

func TestNewEpochSaysEverythingAgain(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	a, b := openTest(t, "RAA", r), openTest(t, "RBB", r)
	var st []Statement
	for i := range 3 * MaxFacts {
		st = append(st, mustStudy(t, Study{UID: uidOf(i), Name: "DOE^JOHN"}))
	}
	for len(st) > 0 {
		say(t, a, st[:MaxFacts]...)
		st = st[MaxFacts:]
	}
	say(t, a, mustStudy(t, Study{UID: uidOf(0), Name: "DOE^JANE"}))
	if err := a.NewEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	h, _ := a.Head(a.Self())
	if h.Epoch != 2 || h.Seq != 3*MaxFacts {
		t.Fatalf("epoch %d ends at %d", h.Epoch, h.Seq)
	}
	// The second epoch alone is enough for a peer.
	batches, err := a.Range(a.Self(), 2, 0, 100<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range batches {
		v, err := raw.Verify()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Take([]Verified{v}); err != nil {
			t.Fatal(err)
		}
	}
	if n, _, _ := b.Count(bg, Query{}); n != 3*MaxFacts {
		t.Fatalf("%d studies at the peer", n)
	}
	// The first epoch, late, changes nothing.
	copyLog(t, a, b, a.Self())
	if s, _ := told(b, uidOf(0)); s[0].Value.Name != "DOE^JANE" || s[0].Epoch != 2 {
		t.Fatalf("%+v", s)
	}
	if len(b.Heads()) != 2 {
		t.Fatalf("%d logs", len(b.Heads()))
	}
}

// A home restored from backup that went on with its old log is caught, and refuses to go on with it until it starts a new epoch.
func TestRestoredHomeIsCaught(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	old, b := openTest(t, "RAA", r), openTest(t, "RBB", r)
	say(t, old, note("x", "1"))
	restored := openTest(t, "RAA", r)
	copyLog(t, old, restored, old.Self())
	say(t, old, note("x", "2"))
	copyLog(t, old, b, old.Self())
	say(t, restored, mustStudy(t, Study{UID: "1.2.3"}))
	head, _ := b.Head(old.Self())
	var fork *ForkError
	if _, _, err := restored.Heard(head); !errors.As(err, &fork) {
		t.Fatal(err)
	}
	if _, err := restored.Append(context.Background(), note("x", "3")); !errors.As(err, &fork) {
		t.Fatal(err)
	}
	if err := restored.NewEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	say(t, restored, note("x", "3"))
	batches, err := restored.Range(old.Self(), 2, 0, MaxAnswer)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range batches {
		v, _ := raw.Verify()
		if _, err := b.Take([]Verified{v}); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := told(b, "1.2.3"); !ok {
		t.Fatal("what was said after the restore is lost")
	}
	if got, _ := b.Facts("note", "x"); string(got[0].Value) != "3" {
		t.Fatalf("%s", got[0].Value)
	}
}

// A restored home that has said nothing yet takes its own log from its peers, and goes on where that ends.
func TestRestoredHomeLearnsItsOwnLog(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	old, b := openTest(t, "RAA", r), openTest(t, "RBB", r)
	say(t, old, note("x", "1"))
	if err := old.NewEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	say(t, old, note("x", "2"))
	copyLog(t, old, b, old.Self())
	restored := openTest(t, "RAA", r)
	copyLog(t, b, restored, old.Self())
	h := say(t, restored, note("x", "3"))
	if h.Epoch != 2 || h.Seq != 3 {
		t.Fatalf("went on at %d/%d", h.Epoch, h.Seq)
	}
	copyLog(t, restored, b, old.Self())
	if got, _ := b.Facts("note", "x"); string(got[0].Value) != "3" || len(b.Forks()) != 0 {
		t.Fatalf("%s", got[0].Value)
	}
}

// An interrupted NewEpoch is finished by the next Open.
func TestNewEpochSurvivesInterruption(t *testing.T) {
	dir := t.TempDir()
	r := foundRegion("RAA")
	db := openDB(t, dir)
	x := openIn(t, db, testOptions("RAA", r))
	say(t, x, note("x", "1"), note("y", "2"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := x.NewEpoch(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	say(t, x, note("x", "3")) // said in the new epoch already: not once more
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, dir)
	defer db.Close()
	x = openIn(t, db, testOptions("RAA", r))
	if got, _ := x.Facts("note", "x"); string(got[0].Value) != "3" {
		t.Fatalf("%s", got[0].Value)
	}
	if h, _ := x.Head(x.Self()); h.Epoch != 2 || h.Seq != 2 {
		t.Fatalf("epoch %d ends at %d", h.Epoch, h.Seq)
	}
	x = openIn(t, db, testOptions("RAA", r))
	if h, _ := x.Head(x.Self()); h.Epoch != 2 || h.Seq != 2 {
		t.Fatal("said a third time")
	}
}

func TestOpenRefusals(t *testing.T) {
	r := foundRegion("RAA")
	db := openDB(t, "")
	defer db.Close()
	openIn(t, db, testOptions("RAA", r))
	var other *RegionError
	if _, err := Open(db, testOptions("RAA", foundRegion("RBB"))); !errors.As(err, &other) {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"no key":         func(o *Options) { o.Self = nil },
		"no trust":       func(o *Options) { o.Trust = "raa" },
		"no FoldName":    func(o *Options) { o.FoldName = nil },
		"no NamesAgree":  func(o *Options) { o.NamesAgree = nil },
		"no Rand":        func(o *Options) { o.Rand = nil },
		"no Log, no Now": func(o *Options) { o.Log, o.Now = nil, nil },
	} {
		opt := testOptions("RAA", r)
		change(&opt)
		if _, err := Open(db, opt); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	small := openDB(t, "")
	defer small.Close()
	var limit *LimitError
	large := testOptions("RAA", r)
	large.smallTxn = false
	if _, err := Open(small, large); !errors.As(err, &limit) {
		t.Error(err)
	}
	lazy, err := badger.Open(testBadger(t.TempDir()).WithSyncWrites(false))
	if err != nil {
		t.Fatal(err)
	}
	defer lazy.Close()
	if _, err := Open(lazy, testOptions("RAA", r)); err == nil || !strings.Contains(err.Error(), "SyncWrites") {
		t.Error(err)
	}
	if err := db.Update(func(txn *badger.Txn) error { return txn.Set(metaFormat, []byte{9}) }); err != nil {
		t.Fatal(err)
	}
	var version *VersionError
	if _, err := Open(db, testOptions("RAA", r)); !errors.As(err, &version) {
		t.Error(err)
	}
	if err := db.Update(func(txn *badger.Txn) error { return txn.Set(metaFormat, []byte{1}) }); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(db, testOptions("RAA", r)); !errors.Is(err, ErrOldFormat) {
		t.Error(err)
	}
}

// fullestStudy fills as many rows of the query tables as a study can.
func fullestStudy(uid, mark string) Study {
	s := Study{UID: uid, NHS: "9434765919", BirthDate: "19700101", Date: "20240101", Time: "101112", Accession: strings.Repeat("A", 80) + mark, AccessionIssuer: strings.Repeat("I", 80)}
	var words []string
	for i := range maxList {
		s.Patient = append(s.Patient, PatientID{ID: fmt.Sprintf("%s%02d%s", mark, i, strings.Repeat("P", 26)), Issuer: strings.Repeat("Q", 28)})
		s.Modalities = append(s.Modalities, fmt.Sprintf("%s%02d%s", mark, i, strings.Repeat("M", 28)))
		words = append(words, fmt.Sprintf("%s%02d%s", mark, i, strings.Repeat("W", 20)))
	}
	s.Name = strings.Join(words, " ") + "=" + mark + strings.Repeat("x", 90) + "=" + mark + strings.Repeat("y", 90)
	return s
}

// The fullest batch anyone can sign fits into a transaction of the smallest database that Open accepts, and so do many at once.
func TestFullestBatchFits(t *testing.T) {
	t.Parallel()
	x := openLarge(t, "RAA", foundRegion("RAA", "RBB"))
	var groups [][]Statement
	for _, mark := range []string{"a", "b", "a"} {
		var g []Statement
		size := 0
		for i := range MaxFacts {
			st := mustStudy(t, fullestStudy(strings.Repeat("1", 60)+fmt.Sprint(1000+i), mark))
			if size += len(st.Body) + 200; size > MaxBatch {
				break
			}
			g = append(g, st)
		}
		groups = append(groups, g)
	}
	v := sealed(t, nodeKeyOf("RBB"), 1, groups...)
	if n, err := x.Take(v); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	for mark, want := range map[string]int{"a": len(groups[0]), "b": 0} {
		if ans, err := x.Studies(bg, Query{Modalities: []string{mark + "00" + strings.Repeat("M", 28)}}); err != nil || len(ans.Studies) != want {
			t.Fatalf("%s finds %d, want %d, %v", mark, len(ans.Studies), want, err)
		}
	}
}

// What a study leaves in the query tables is exactly what is said of it now, however it came about.
func TestQueryTablesHoldWhatIsSaidNow(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	x, y := openTest(t, "RAA", r), openTest(t, "RAA", r)
	full := mustStudy(t, fullestStudy("1.2.3", "a"))
	small := mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JOHN", Date: "20240101", Accession: "1", Modalities: []string{"CT"}})
	alike := mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JANE", Date: "20240101", Accession: "1", Modalities: []string{"MR", "CT"}})
	take := func(x *Index, v []Verified) {
		t.Helper()
		if _, err := x.Take(v); err != nil {
			t.Fatal(err)
		}
	}
	take(x, sealed(t, nodeKeyOf("RBB"), 1, []Statement{full, small}, []Statement{full}, []Statement{small}))
	take(x, sealed(t, nodeKeyOf("RCC"), 1, []Statement{small}, []Statement{full, alike}))
	take(y, sealed(t, nodeKeyOf("RBB"), 1, []Statement{small}))
	take(y, sealed(t, nodeKeyOf("RCC"), 1, []Statement{alike}))
	rows := func(x *Index) (out []string) {
		err := x.db.View(func(txn *badger.Txn) error {
			for _, tab := range []byte{tabCount, tabPerson, tabPatient, tabNHS, tabName, tabWord, tabBirth, tabDate, tabAccession, tabModality, tabTrust, tabOf} {
				if err := scan(txn, []byte{tab}, []byte{tab}, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
					v, err := value()
					out = append(out, fmt.Sprintf("%q=%x", k, v))
					return true, err
				}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if a, b := rows(x), rows(y); !reflect.DeepEqual(a, b) {
		t.Fatalf("by a long way:\n%s\ndirectly:\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}

// A home that changes hands takes its studies along, but not those that another node of the old trust speaks of too.
func TestCountsFollowTheAuthorsTrust(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	db := openDB(t, "")
	defer db.Close()
	opt := testOptions("RAA", r)
	opt.Self = testKey("a home")
	x := openIn(t, db, opt)
	say(t, x, mustStudy(t, Study{UID: "1.1"}), mustStudy(t, Study{UID: "1.2"}))
	if _, err := x.Take(sealed(t, nodeKeyOf("RAA"), 1, []Statement{mustStudy(t, Study{UID: "1.2"})})); err != nil {
		t.Fatal(err)
	}
	opt.Trust = "RBB"
	x = openIn(t, db, opt)
	say(t, x, mustStudy(t, Study{UID: "1.1"}), mustStudy(t, Study{UID: "1.2"}))
	for q, want := range map[TrustID]int{"": 2, "RAA": 1, "RBB": 2} {
		n, exact, err := x.Count(bg, Query{Trust: q})
		found, serr := x.Studies(bg, Query{Trust: q})
		if n != want || len(found.Studies) != want || !exact || err != nil || serr != nil {
			t.Errorf("%q: counted %d, found %d, want %d (%v, %v)", q, n, len(found.Studies), want, err, serr)
		}
	}
}

func TestHoldersComeOriginFirst(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC", "RDD")
	x := openTest(t, "RAA", r)
	origin := nodeOf("RBB")
	hold := func(rev uint64, n int) Statement {
		st, err := HoldingStatement(Holding{Study: "1.2.3", Origin: origin, Revision: rev, Instances: n})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	for _, v := range [][]Verified{
		sealed(t, nodeKeyOf("RBB"), 1, []Statement{mustStudy(t, Study{UID: "1.2.3", Revision: 3, Instances: 7}), mustStudy(t, Study{UID: "1.2.33", Revision: 1})}),
		sealed(t, nodeKeyOf("RCC"), 1, []Statement{hold(2, 5)}),
		sealed(t, nodeKeyOf("RDD"), 1, []Statement{hold(3, 7)}),
	} {
		if _, err := x.Take(v); err != nil {
			t.Fatal(err)
		}
	}
	say(t, x, hold(3, 7))
	say(t, x, hold(3, 0)) // and gone again
	var got []TrustID
	for _, h := range holders(x, "1.2.3", origin) {
		got = append(got, h.Trust)
	}
	if !reflect.DeepEqual(got, []TrustID{"RBB", "RDD", "RCC"}) {
		t.Fatalf("%v", got)
	}
	ans, err := x.Studies(bg, Query{StudyUIDs: []string{"1.2.3"}})
	if err != nil || len(ans.Studies) != 1 || len(ans.Studies[0].Holdings) != 2 || len(ans.Studies[0].Statements) != 1 {
		t.Fatalf("%+v, %v", ans, err)
	}
	if h := holders(x, "1.2.3", nodeOf("RCC")); len(h) != 0 {
		t.Fatalf("%+v hold what was never said", h)
	}
}

func TestNodesAreReachedByTheirOwnWord(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	opt := testOptions("RAA", r)
	second := testKey("second node of RBB")
	cert, err := NewNodeCert(trustKeyOf("RBB"), "RBB", second, 2)
	if err != nil {
		t.Fatal(err)
	}
	opt.Nodes = []NodeFact{{Cert: cardOf("RCC").NodeCert, Addrs: []string{"/invited"}}}
	db := openDB(t, "")
	defer db.Close()
	x := openIn(t, db, opt)
	node := func(c NodeCert, addr string) Statement {
		st, err := NodeStatement(NodeFact{Cert: c, Addrs: []string{addr}})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	addrs := func() map[NodeID]string {
		out := map[NodeID]string{}
		for _, k := range x.Nodes() {
			out[k.Node] = strings.Join(k.Addrs, " ")
		}
		return out
	}
	if got := addrs(); got[nodeOf("RBB")] != "/dns4/rbb.example/tcp/4400" || got[nodeOf("RCC")] != "/invited" || len(got) != 3 {
		t.Fatalf("%v", got)
	}
	if _, ok := x.Roster().Allowed(NodeIDOf(second)); ok {
		t.Fatal("let in before anyone certified it")
	}
	// RCC speaks of RBB's nodes: nobody listens. RBB does: it is heard.
	if _, err := x.Take(sealed(t, nodeKeyOf("RCC"), 1, []Statement{node(cert, "/evil"), node(cardOf("RBB").NodeCert, "/evil")})); err != nil {
		t.Fatal(err)
	}
	if _, ok := x.Roster().Allowed(NodeIDOf(second)); ok {
		t.Fatal("let in by another trust's word")
	}
	if _, err := x.Take(sealed(t, nodeKeyOf("RBB"), 1, []Statement{node(cert, "/sibling"), node(cardOf("RBB").NodeCert, "/own")})); err != nil {
		t.Fatal(err)
	}
	if trust, ok := x.Roster().Allowed(NodeIDOf(second)); !ok || trust != "RBB" {
		t.Fatal("the second node is not let in")
	}
	if got := addrs(); got[nodeOf("RBB")] != "/own" || got[NodeIDOf(second)] != "/sibling" {
		t.Fatalf("%v", got)
	}
	if _, err := x.Take(sealed(t, second, 1, []Statement{node(cert, "/itself")})); err != nil {
		t.Fatal(err)
	}
	if got := addrs(); got[NodeIDOf(second)] != "/itself" {
		t.Fatalf("%v", got)
	}
}

// Damage to the database is an error that says so, never a wrong or empty answer.
func TestDamageIsSaid(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	say(t, x, mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JOHN", Date: "20240101"}))
	if err := x.db.Update(func(txn *badger.Txn) error {
		return txn.Set(studyRow(x.studyKey("1.2.3")), []byte("damage"))
	}); err != nil {
		t.Fatal(err)
	}
	var damaged *DamagedError
	if _, err := x.Studies(bg, Query{}); !errors.As(err, &damaged) {
		t.Error(err)
	}
	if _, err := x.Patient(bg, "1.2.3"); !errors.As(err, &damaged) {
		t.Error(err)
	}
	if _, err := x.Study("1.2.3"); !errors.As(err, &damaged) {
		t.Error("who asks for the study is told that it is not known: ", err)
	}
	if _, err := x.Holders("1.2.3", x.Self()); !errors.As(err, &damaged) {
		t.Error("who looks for its holders is told that there are none: ", err)
	}
	if _, err := x.Append(context.Background(), mustStudy(t, Study{UID: "1.2.3"})); !errors.As(err, &damaged) {
		t.Error(err)
	}
}

// Everything at once, for the race detector; and what was said is there at the end.
func TestConcurrentUse(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	x := openTest(t, "RAA", r)
	theirs := sealed(t, nodeKeyOf("RBB"), 1, []Statement{mustStudy(t, Study{UID: "2.1"})}, []Statement{mustStudy(t, Study{UID: "2.2"})}, []Statement{mustStudy(t, Study{UID: "2.3"})})
	var said, asking sync.WaitGroup
	done := make(chan struct{})
	for i := range 3 {
		said.Go(func() {
			for j := range 10 {
				if _, err := x.Append(context.Background(), mustStudy(t, Study{UID: uidOf(10*i + j), Patient: []PatientID{{"7", "RAA"}}, Name: "DOE^JOHN"})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	said.Go(func() {
		for i := range theirs {
			if _, _, err := x.Heard(theirs[2].Head()); err != nil {
				t.Error(err)
			}
			if _, err := x.Take(theirs[:i+1]); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := x.Studies(bg, Query{Name: "doe*"}); err != nil {
					t.Error(err)
				}
				if _, err := x.Patient(bg, uidOf(0)); err != nil {
					t.Error(err)
				}
				if _, err := x.Range(x.Self(), 1, 0, MaxAnswer); err != nil {
					t.Error(err)
				}
				x.Heads()
				x.Lags()
				x.Nodes()
				x.Votes()
				holders(x, "2.1", nodeOf("RBB"))
			}
		})
	}
	said.Wait()
	close(done)
	asking.Wait()
	if n, _, err := x.Count(bg, Query{}); n != 33 || err != nil {
		t.Fatal(n, err)
	}
}
