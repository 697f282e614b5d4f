package index

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// mates are nodes with databases that talk to each other.
type mates struct {
	t     testing.TB
	nodes map[NodeID]*mate
	order []*mate
	rnd   *rand.Rand
	lose  float64
	sent  int // messages but digests
}

type mate struct {
	x *Index
	s *Sync
}

func newMates(t testing.TB, xs ...*Index) *mates {
	m := &mates{t: t, nodes: map[NodeID]*mate{}, rnd: rand.New(rand.NewPCG(5, 5))}
	for _, x := range xs {
		m.add(x)
	}
	return m
}

func (m *mates) add(x *Index) {
	n := &mate{x, NewSync(x, SyncOptions{Self: x.Self(), Rand: rand.New(rand.NewPCG(uint64(len(m.order)), 9))})}
	m.nodes[x.Self()] = n
	m.order = append(m.order, n)
}

// run lets time pass: a tick, and its passes.
func (m *mates) run(ticks int) {
	m.t.Helper()
	type letter struct {
		from NodeID
		out  Outgoing
	}
	var wire []letter
	post := func(n *mate, out []Outgoing, err error) {
		if err != nil {
			m.t.Fatal(err)
		}
		for _, o := range out {
			if m.nodes[o.To] != nil && m.rnd.Float64() >= m.lose {
				wire = append(wire, letter{n.x.Self(), o})
			}
		}
	}
	deliver := func() {
		for len(wire) > 0 {
			l := wire[0]
			wire = wire[1:]
			if _, ok := l.out.Message.(Digest); !ok {
				m.sent++
			}
			raw := l.out.Message.Encode()
			msg, err := DecodeMessage(raw)
			if err != nil {
				m.t.Fatalf("%T: %v", l.out.Message, err)
			}
			to := m.nodes[l.out.To]
			out, err := to.s.Step(l.from, msg)
			post(to, out, err)
		}
	}
	for range ticks {
		for _, n := range m.order {
			var peers []NodeID
			for id := range m.nodes {
				peers = append(peers, id)
			}
			out, err := n.s.Tick(peers)
			post(n, out, err)
			deliver()
		}
		for range 4 {
			for _, n := range m.order {
				if err := n.x.Purge(context.Background()); err != nil {
					m.t.Fatal(err)
				}
				out, err := n.s.Pass(DefaultTick / 4)
				post(n, out, err)
				deliver()
			}
		}
	}
}

// settled runs until all answer alike.
func (m *mates) settled(want string) {
	m.t.Helper()
	for range 60 {
		m.run(1)
		equal := true
		for _, n := range m.order {
			equal = equal && tables(m.t, n.x) == want
		}
		if equal {
			return
		}
	}
	for i, n := range m.order {
		if got := tables(m.t, n.x); got != want {
			m.t.Fatalf("node %d answers\n%s\nwant\n%s", i, got, want)
		}
	}
}

// covered runs until all have taken up a snapshot.
func (m *mates) covered(s Snapshot) {
	m.t.Helper()
	for range 60 {
		m.run(1)
		all := true
		for _, n := range m.order {
			all = all && n.x.Base(s.Head.Node) == s.through() && len(n.s.Bootstraps()) == 0
		}
		if all {
			return
		}
	}
	for i, n := range m.order {
		m.t.Errorf("node %d: %v, %v", i, n.x.Base(s.Head.Node), n.s.Bootstraps())
	}
	m.t.Fatalf("the snapshot at %v was not taken up by all", s.through())
}

// A snapshot goes round by itself: who has the log drops what it covers, who comes late begins with it, over a net that loses messages, also
// when its author is gone; and when all have it nothing is sent.
func TestSnapshotsGoRound(t *testing.T) {
	for seed := range uint64(3) {
		ctx := context.Background()
		r := foundRegion("RAA", "RBB", "RCC", "RDD", "REE")
		rnd := rand.New(rand.NewPCG(seed, 2))
		author, second := openTest(t, "RAA", r), openTest(t, "RBB", r)
		busyLog(t, author, rnd, 120)
		m := newMates(t, author, second)
		m.lose = 0.05
		m.settled(tables(t, author))
		if seed == 1 {
			if err := author.NewEpoch(ctx); err != nil {
				t.Fatal(err)
			}
		}
		snap, err := author.MakeSnapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		busyLog(t, author, rnd, 40)
		want := tables(t, author)
		m.add(openTest(t, "RCC", r))
		m.settled(want)
		m.covered(snap)
		m.settled(want)

		// Another snapshot while a new node takes up the first, and then the author is gone.
		m.add(openTest(t, "RDD", r))
		m.run(1)
		if _, err := author.Retract(ctx, KindStudy, "1.2.7"); err != nil {
			t.Fatal(err)
		}
		if snap, err = author.MakeSnapshot(ctx); err != nil {
			t.Fatal(err)
		}
		want = tables(t, author)
		m.settled(want)
		m.covered(snap)
		delete(m.nodes, author.Self())
		m.order = m.order[1:]
		m.add(openTest(t, "REE", r))
		m.settled(want)
		m.covered(snap)

		m.lose = 0
		m.run(30)
		m.sent = 0
		m.run(50)
		if m.sent > 0 {
			t.Errorf("seed %d: %d messages were sent though all have the same", seed, m.sent)
		}
		for i, n := range m.order {
			for _, l := range n.x.Lags() {
				if l.Applied != l.Heard || l.Missing > 0 || l.Unread > 0 || l.Quarantined {
					t.Errorf("seed %d, node %d: %+v", seed, i, l)
				}
			}
			if err := n.x.Purge(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What a peer makes up about snapshots costs it the stream, and nobody else anything.
func TestHostileSnapshots(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	author, x := openTest(t, "RAA", r), openTest(t, "RBB", r)
	busyLog(t, author, rand.New(rand.NewPCG(1, 1)), 50)
	if _, err := author.MakeSnapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	offer, root, ok, err := author.Offer(author.Self())
	if err != nil || !ok {
		t.Fatal(err)
	}
	s := NewSync(x, SyncOptions{Self: x.Self(), Rand: rand.New(rand.NewPCG(1, 2))})
	peer := nodeOf("RCC")
	if _, err := s.Tick([]NodeID{peer}); err != nil {
		t.Fatal(err)
	}
	forged := offer
	forged.Batch.Sig = append([]byte{}, offer.Batch.Sig...)
	forged.Batch.Sig[0] ^= 1
	var lied *PeerError
	if _, err := s.Step(peer, forged); !errors.As(err, &lied) {
		t.Fatalf("a forged offer: %v", err)
	}
	if _, err := s.Step(peer, offer); err != nil {
		t.Fatal(err)
	}
	if p := s.Bootstraps()[author.Self()]; p.Snapshot.Root != root {
		t.Fatalf("it takes up %+v", p)
	}
	asked := false
	for range 3 {
		out, err := s.Pass(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			if w, ok := o.Message.(WantParts); ok && w.Part == PartList {
				asked = true
				if _, err := s.Step(peer, Parts{Node: w.Node, Root: w.Root, Part: w.Part, Parts: [][]byte{[]byte("no list")}}); !errors.As(err, &lied) {
					t.Fatalf("a wrong list: %v", err)
				}
			}
		}
	}
	if !asked {
		t.Fatal("it asked for no list")
	}
	// Without end.
	for i := 0; ; i++ {
		_, err := s.Step(peer, Parts{Node: author.Self(), Root: root, Part: PartPages, Index: uint64(i)})
		if errors.As(err, &lied) {
			break
		}
		if err != nil || i > 4*MaxUseless {
			t.Fatalf("after %d useless parts: %v", i, err)
		}
	}
	// A stranger's snapshot is nobody's business.
	stranger := openTest(t, "RZZ", nil)
	say(t, stranger, note("x", "y"))
	if _, err := stranger.MakeSnapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	foreign, _, _, err := stranger.Offer(stranger.Self())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Step(nodeOf("RAA"), foreign); err != nil {
		t.Fatal(err)
	}
	if len(s.Bootstraps()) != 1 {
		t.Fatal(fmt.Sprint("it takes up ", len(s.Bootstraps())))
	}
}
