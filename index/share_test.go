package index

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// One trust that floods the region takes half of the room that is left, and nothing of what the others need; with more room it is heard again.
func TestNobodyTakesTheRoomOfTheOthers(t *testing.T) {
	region := foundRegion("RAA", "RBB", "RCC")
	opt := testOptions("RAA", region)
	const room, most = 8 << 20, 1 << 20
	left := int64(room)
	opt.Left = func() int64 { return left }
	db := openDB(t, "")
	defer db.Close()
	x := openIn(t, db, opt)
	x.freeShare = most
	flood, other := notes(t, "RBB", 400, 50<<10), notes(t, "RCC", 40, 50<<10)
	took := 0
	for len(flood) > 0 {
		n, err := x.Take(flood[:1])
		var over *ShareError
		if errors.As(err, &over) {
			if over.Trust != "RBB" || over.Left != left {
				t.Fatal(over)
			}
			break
		}
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
		took += flood[0].batch.size()
		left -= int64(flood[0].batch.size())
		flood = flood[1:]
	}
	if len(flood) == 0 || took > room/2+50<<10 || took < room/2-50<<10 {
		t.Fatalf("%d bytes of it are taken", took)
	}
	if got := x.Overdrawn(); !slices.Equal(got, []Share{{"RBB", int64(took)}}) {
		t.Error(got)
	}
	left = 0 // whatever took it
	if n, err := x.Take(other[:20]); n != 20 || err != nil {
		t.Errorf("of another trust %d of 20: %v", n, err)
	}
	var over *ShareError
	if n, err := x.Take(other[20:]); n > 1 || !errors.As(err, &over) || over.Trust != "RCC" || len(x.Overdrawn()) != 2 {
		t.Errorf("of another trust, where nothing is left, %d more: %v, %v", n, err, x.Overdrawn())
	}
	if _, err := x.Append(t.Context(), mustStudy(t, Study{UID: uidOf(1)})); err != nil {
		t.Errorf("its own: %v", err)
	}
	left = 1 << 30
	if n, err := x.Take(flood); n != len(flood) || err != nil || len(x.Overdrawn()) != 0 {
		t.Errorf("with more room %d of %d: %v, %v", n, len(flood), err, x.Overdrawn())
	}
}

// sharing are logs of which one trust's is not taken beyond a position.
type sharing struct {
	*memoryLogs
	node NodeID
	most Seq
}

func (s *sharing) Take(batches []Verified) (n int, err error) {
	for _, v := range batches {
		if h := v.Head(); h.Node == s.node && h.Seq > s.most {
			return n, &ShareError{}
		}
		one, err := s.memoryLogs.Take([]Verified{v})
		if err != nil {
			return n, err
		}
		n += one
	}
	return n, nil
}

// What is not taken of one trust keeps nothing of the others' back, is nobody's fault, and is asked for ever more seldom; when there is room it comes.
func TestARefusedShareKeepsNothingElseBack(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	flood, other := notes(t, "RAA", 300, 4<<10), notes(t, "RCC", 300, 4<<10)
	all := newMemoryLogs("RCC", r)
	for _, vs := range [][]Verified{flood, other} {
		if _, err := all.Take(vs); err != nil {
			t.Fatal(err)
		}
	}
	here := &sharing{newMemoryLogs("RBB", r), nodeOf("RAA"), 100}
	s, from := NewSync(here, SyncOptions{Self: nodeOf("RBB"), Rand: rand.New(rand.NewPCG(1, 2))}), newTestSync("RCC", all)
	wants := 0
	var send func(out []Outgoing, err error)
	send = func(out []Outgoing, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			if _, ok := o.Message.(Want); ok {
				wants++
			}
			back, err := from.Step(s.self, o.Message)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range back {
				send(s.Step(nodeOf("RCC"), m.Message))
			}
		}
	}
	head := func(trust TrustID) (seq Seq) {
		for _, h := range here.Heads() {
			if h.Node == nodeOf(trust) {
				seq = h.Seq
			}
		}
		return seq
	}
	run := func(ticks int) {
		wants = 0
		for range ticks {
			send(s.Tick([]NodeID{nodeOf("RCC")}))
			if _, err := from.Tick(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(50)
	if head("RAA") != 100 || head("RCC") != 300 {
		t.Errorf("%d of the trust that takes too much, %d of the other", head("RAA"), head("RCC"))
	}
	if run(300); wants > 30 {
		t.Errorf("asked %d times in 300 exchanges for what is refused", wants)
	}
	// Who hands it on is not accused of sending what brings nothing new.
	for i := range 4 * MaxUseless {
		v := flood[100+i%200 : 101+i%200]
		if _, err := s.Step(nodeOf("RCC"), Batches{Batches: batchesOf(v)}); err != nil {
			t.Fatal(err)
		}
	}
	here.most = 1 << 20
	if run(100); head("RAA") != 300 {
		t.Errorf("with more room %d of 300 have come", head("RAA"))
	}
}

// What comes in the pages of a snapshot counts like any other.
func TestPagesCountForAShare(t *testing.T) {
	region := foundRegion("RAA", "RBB")
	from := openTest(t, "RBB", region)
	for i := range 3 {
		say(t, from, note("x", string(rune('a'+i))))
	}
	if _, err := from.MakeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	offer, root, ok, err := from.Offer(from.Self())
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	v, err := offer.Batch.Verify()
	if err != nil {
		t.Fatal(err)
	}
	o, err := ReadSnapshot(v)
	if err != nil {
		t.Fatal(err)
	}
	opt := testOptions("RAA", region)
	left := int64(0)
	opt.Left = func() int64 { return left }
	db := openDB(t, "")
	defer db.Close()
	x := openIn(t, db, opt)
	x.freeShare = 1
	store := x.Snapshots(from.Self())
	if news, err := store.Begin(o); err != nil || !news {
		t.Fatal(news, err)
	}
	part := func(p Part) []byte {
		raw, ok, err := from.Part(from.Self(), root, p, 0)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		return raw
	}
	refs, err := o.Snapshot.ReadList(part(PartList))
	if err == nil {
		refs, err = o.Snapshot.ReadSheet(refs, 0, part(PartSheet))
	}
	if err != nil {
		t.Fatal(err)
	}
	page, err := o.Snapshot.ReadPage(refs[0], part(PartPages))
	if err != nil {
		t.Fatal(err)
	}
	var over *ShareError
	if _, err := store.TakePages([]VerifiedPage{page}); !errors.As(err, &over) || over.Trust != "RBB" {
		t.Errorf("without room: %v", err)
	}
	left = 1 << 20
	if states, err := store.TakePages([]VerifiedPage{page}); err != nil || len(states) != 1 {
		t.Errorf("with room: %v, %v", states, err)
	}
	left = 0
	if _, err := store.TakePages([]VerifiedPage{page}); !errors.As(err, &over) || over.Bytes == 0 {
		t.Errorf("what came was not counted: %v", err)
	}
}
