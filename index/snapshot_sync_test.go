package index

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// snapLogs are Logs and Snapshots of nodes each of which has one log, without a disk.
type snapLogs struct {
	t       testing.TB
	shelves map[NodeID]*shelf
	failing error // of Take
}

func newSnapLogs(t testing.TB, of ...TrustID) *snapLogs {
	l := &snapLogs{t: t, shelves: map[NodeID]*shelf{}}
	for _, a := range of {
		l.shelves[nodeOf(a)] = newShelf(t, a)
	}
	return l
}

func (l *snapLogs) Heads() (out []Head) {
	for _, s := range l.shelves {
		if h := s.head(); h.Seq > 0 {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, compareHeads)
	return out
}

func (l *snapLogs) Forks() []Fork                   { return nil }
func (l *snapLogs) Holes() []Head                   { return nil }
func (l *snapLogs) Ended(NodeID, Epoch) (Seq, bool) { return 0, false }

func (l *snapLogs) Heard(h Head) (Seq, bool, error) {
	s := l.shelves[h.Node]
	if s == nil {
		return 0, false, &UncertifiedError{Node: h.Node}
	}
	if err := h.verify(); err != nil {
		return 0, false, err
	}
	return s.head().Seq, h.Seq > s.head().Seq, nil
}

func (l *snapLogs) Range(n NodeID, e Epoch, after Seq, most int) (out []Batch, err error) {
	s := l.shelves[n]
	if s == nil || s.epoch != e {
		return nil, nil
	}
	size := 0
	for _, v := range s.batches {
		if v.link.head.Seq <= after {
			continue
		}
		if size += v.batch.size(); size > most && len(out) > 0 {
			break
		}
		out = append(out, v.batch)
	}
	return out, nil
}

func (l *snapLogs) Take(vs []Verified) (fresh int, err error) {
	if l.failing != nil {
		return 0, l.failing
	}
	for _, v := range vs {
		h := v.Head()
		s := l.shelves[h.Node]
		switch at := s.head().Seq; {
		case h.Seq <= at:
		case v.First() > at+1:
			return fresh, &GapError{Node: h.Node, Epoch: h.Epoch, After: at, First: v.First()}
		default:
			s.take(v)
			fresh++
		}
	}
	return fresh, nil
}

func (l *snapLogs) Snapshots(n NodeID) SnapshotStore {
	if s := l.shelves[n]; s != nil {
		return s
	}
	s := newShelf(l.t, "")
	s.refuse = &UncertifiedError{Node: n}
	return s
}

func (l *snapLogs) Taking() (out []NodeID, err error) {
	for n, s := range l.shelves {
		if s.pending != nil {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, NodeID.Compare)
	return out, nil
}
func (l *snapLogs) Newest(NodeID) (Offered, bool, error) { return Offered{}, false, nil }
func (l *snapLogs) Holed() ([]Offered, error)            { return nil, nil }

func (l *snapLogs) Base(n NodeID) Position {
	if s := l.shelves[n]; s != nil && s.finished != nil {
		return s.finished.Snapshot.through()
	}
	return Position{}
}

func (l *snapLogs) Offer(n NodeID) (SnapshotOffer, [32]byte, bool, error) {
	if s := l.shelves[n]; s != nil {
		return s.Offer(n)
	}
	return SnapshotOffer{}, [32]byte{}, false, nil
}

func (l *snapLogs) Part(n NodeID, root [32]byte, p Part, i uint64) ([]byte, bool, error) {
	if s := l.shelves[n]; s != nil {
		return s.Part(n, root, p, i)
	}
	return nil, false, nil
}

// snapRegion is nodes in one thread that all know each other.
type snapRegion struct {
	t     testing.TB
	logs  map[NodeID]*snapLogs
	syncs map[NodeID]*Sync
	nodes []NodeID
	wire  []envelope
	sent  map[string]int
	bend  func(e envelope) []envelope // what becomes of a message on its way
	lied  map[NodeID]int              // who was accused
	seed  uint64
}

func newSnapRegion(t testing.TB) *snapRegion {
	return &snapRegion{t: t, logs: map[NodeID]*snapLogs{}, syncs: map[NodeID]*Sync{}, sent: map[string]int{}, lied: map[NodeID]int{}}
}

func (r *snapRegion) add(trust TrustID, l *snapLogs) NodeID {
	n := nodeOf(trust)
	r.logs[n] = l
	if !slices.Contains(r.nodes, n) {
		r.nodes = append(r.nodes, n)
	}
	r.seed++
	r.syncs[n] = NewSync(l, SyncOptions{Self: n, Rand: rand.New(rand.NewPCG(r.seed, 7))})
	return n
}

func (r *snapRegion) post(from NodeID, out []Outgoing) {
	for _, o := range out {
		r.sent[fmt.Sprintf("%T", o.Message)]++
		r.wire = append(r.wire, envelope{from, o.To, o.Message})
	}
}

// round lets each node tick once and carries what comes of it, at most so many messages.
func (r *snapRegion) round(most int) {
	r.t.Helper()
	for _, n := range r.nodes {
		out, err := r.syncs[n].Tick(slices.DeleteFunc(slices.Clone(r.nodes), func(o NodeID) bool { return o == n }))
		if err != nil && r.logs[n].failing == nil {
			r.t.Fatal(err)
		}
		r.post(n, out)
	}
	for len(r.wire) > 0 {
		if most--; most < 0 {
			return
		}
		e := r.wire[0]
		r.wire = r.wire[1:]
		all := []envelope{e}
		if r.bend != nil {
			all = r.bend(e)
		}
		for _, e := range all {
			msg, err := DecodeMessage(e.msg.Encode())
			if err != nil {
				r.t.Fatal(err)
			}
			out, err := r.syncs[e.to].Step(e.from, msg)
			var lied *PeerError
			switch {
			case errors.As(err, &lied):
				r.lied[lied.Peer]++
			case err != nil && r.logs[e.to].failing == nil:
				r.t.Fatal(err)
			}
			r.post(e.to, out)
			more, err := r.syncs[e.to].Pass(20 * time.Millisecond)
			if err != nil && r.logs[e.to].failing == nil {
				r.t.Fatal(err)
			}
			r.post(e.to, more)
		}
	}
}

// agree lets the nodes exchange until the last of them has what the first has of a log, and says after how many rounds.
func (r *snapRegion) agree(of NodeID, most int) int {
	r.t.Helper()
	for n := range most {
		same := true
		want := r.logs[r.nodes[0]].shelves[of]
		for _, o := range r.nodes {
			s := r.logs[o].shelves[of]
			same = same && s.state() == want.state() && s.finished != nil && s.finished.Snapshot.Root == want.finished.Snapshot.Root && s.pending == nil
		}
		if same {
			return n
		}
		r.round(20000)
	}
	for _, o := range r.nodes {
		r.t.Logf("%v of %s: base %v, %+v", nameOf(o), nameOf(of), r.logs[o].Base(of), r.syncs[o].Bootstraps())
	}
	r.t.Fatalf("no agreement after %d rounds; %v", most, r.sent)
	return 0
}

// fill says many facts, some of them again.
func (s *shelf) fill(n int) {
	for i := range n {
		s.say(note(fmt.Sprint("s", i%(n*2/3+1)), fmt.Sprint("as said the ", i, strings.Repeat(" x", 300))))
	}
}

// Who has nothing, who has some of the log, and who has all of it take up the snapshot of a node whose batches are gone; what was said
// after it comes as batches; and when all have it, nothing is said any more but digests.
func TestSyncTakesUpSnapshots(t *testing.T) {
	t.Parallel()
	r := newSnapRegion(t)
	author, none, some, whole := newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA")
	a := nodeOf("RAA")
	of := author.shelves[a]
	of.fill(100)
	for _, v := range of.batches {
		some.shelves[a].take(v)
		whole.shelves[a].take(v)
	}
	n := len(of.batches)
	of.fill(200)
	for _, v := range of.batches[n:] {
		whole.shelves[a].take(v)
	}
	of.snapshot()
	of.fill(30)
	r.add("RAA", author)
	r.add("RBB", none)
	r.add("RCC", some)
	r.add("RDD", whole)
	r.agree(a, 60)
	if len(r.lied) > 0 {
		t.Fatalf("honest nodes were accused: %v", r.lied)
	}
	if got, all := whole.shelves[a].taken, none.shelves[a].taken; got > all/4 {
		t.Errorf("who has the log fetched %d pages, who has nothing %d", got, all)
	}
	clear(r.sent)
	for range 40 {
		r.round(1000)
	}
	if len(r.sent) != 1 || r.sent["index.Digest"] == 0 {
		t.Errorf("a region in step still says %v", r.sent)
	}
}

// A break loses nothing that has come: it is not asked for again.
func TestSyncGoesOnWithSnapshots(t *testing.T) {
	t.Parallel()
	r := newSnapRegion(t)
	author, fresh := newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA")
	a := nodeOf("RAA")
	author.shelves[a].fill(3000)
	snap := author.shelves[a].snapshot().Snapshot
	r.add("RAA", author)
	r.add("RBB", fresh)
	breaks, came := 0, false
	r.bend = func(e envelope) []envelope {
		if came { // then the node goes down, and what is under way is lost
			return nil
		}
		m, ok := e.msg.(Parts)
		came = ok && m.Part == PartPages && len(m.Parts) > 0
		return []envelope{e}
	}
	for rounds := 0; fresh.shelves[a].finished == nil && rounds < 100; rounds++ {
		if r.round(20000); came {
			r.wire, came = nil, false
			breaks++
			r.add("RBB", fresh) // as it is after a restart
		}
	}
	r.bend = nil
	r.agree(a, 20)
	if got := fresh.shelves[a].taken; breaks < 3 || uint64(got) != snap.Pages {
		t.Errorf("%d pages were taken of %d, with %d breaks", got, snap.Pages, breaks)
	}
}

// Who alters pages, answers with other ones, or shows a snapshot that its author has not signed, is named and left alone for a while, and
// the snapshot comes from others. Who answers what nobody asked, or says nothing, is not waited for.
func TestSyncTakesSnapshotsAmongLiars(t *testing.T) {
	t.Parallel()
	for lie, named := range map[string]bool{"altered": true, "too many": true, "other": true, "forged": true, "unasked": false, "silent": false} {
		t.Run(lie, func(t *testing.T) {
			t.Parallel()
			r := newSnapRegion(t)
			author, liar, fresh := newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA")
			a := nodeOf("RAA")
			author.shelves[a].fill(600)
			author.shelves[a].snapshot()
			r.add("RAA", author)
			bad := r.add("RBB", liar)
			r.agree(a, 60)
			r.add("RCC", fresh)
			told := 0
			r.bend = func(e envelope) []envelope {
				if e.from != bad {
					switch e.msg.(type) {
					case Parts, SnapshotOffer:
						if told == 0 { // the liar is heard first
							return nil
						}
					}
					return []envelope{e}
				}
				honest := e.msg.Encode()
				defer func() {
					if !bytes.Equal(e.msg.Encode(), honest) {
						told++
					}
				}()
				switch m := e.msg.(type) {
				case Parts:
					switch lie {
					case "silent":
						told++
						return nil
					case "altered":
						m.Parts = slices.Clone(m.Parts)
						for i := range m.Parts {
							m.Parts[i] = slices.Clone(m.Parts[i])
							m.Parts[i][len(m.Parts[i])-1] ^= 1
						}
					case "too many":
						for len(m.Parts) > 0 && len(m.Parts) < MaxParts && len(m.Parts)*len(m.Parts[0]) < MaxMessage/2 {
							m.Parts = append(slices.Clone(m.Parts), m.Parts[0])
						}
					case "other":
						m.Parts = slices.Clone(m.Parts)
						slices.Reverse(m.Parts)
					case "unasked":
						m.Index++
					}
					e.msg = m
				case SnapshotOffer:
					switch lie {
					case "silent":
						told++
						return nil
					case "forged":
						m.Batch.Sig = slices.Clone(m.Batch.Sig)
						m.Batch.Sig[0] ^= 1
					}
					e.msg = m
				}
				return []envelope{e}
			}
			rounds := r.agree(a, 200)
			for n := range r.lied {
				if n != bad {
					t.Errorf("%s was accused", nameOf(n))
				}
			}
			if told == 0 {
				t.Error("no lie was told: the test proves nothing")
			}
			if got := r.lied[bad]; (got > 0) != named {
				t.Errorf("who lied was named %d times for %d lies", got, told)
			} else if most := 1 + rounds/penance; lie != "forged" && got > most {
				t.Errorf("who lied was named %d times in %d rounds, want no more than %d: it is asked again at once", got, rounds, most)
			}
		})
	}
}

// A newer snapshot comes while one is being taken up: it is that one which is taken in the end, by all.
func TestSyncTakesANewerSnapshot(t *testing.T) {
	t.Parallel()
	r := newSnapRegion(t)
	author, one, two := newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA")
	a := nodeOf("RAA")
	author.shelves[a].fill(900)
	author.shelves[a].snapshot()
	r.add("RAA", author)
	r.add("RBB", one)
	r.add("RCC", two)
	for range 4 {
		r.round(12)
		author.shelves[a].fill(90)
		author.shelves[a].snapshot()
	}
	r.agree(a, 120)
	if len(r.lied) > 0 {
		t.Fatalf("honest nodes were accused: %v", r.lied)
	}
}

// Questions about snapshots that nobody has, offers of what is known, and parts that nobody asked for end in being refused.
func TestSyncBearsNoFloodOfSnapshots(t *testing.T) {
	t.Parallel()
	l := newSnapLogs(t, "RAA")
	a := nodeOf("RAA")
	l.shelves[a].fill(70)
	o := l.shelves[a].snapshot()
	s := NewSync(l, SyncOptions{Self: nodeOf("RBB"), Rand: rand.New(rand.NewPCG(1, 1))})
	for _, m := range []Message{SnapshotOffer{Batch: o.Batch.Batch()}, Parts{Node: a, Part: PartPages, Parts: [][]byte{{1}}}} {
		if _, err := s.Tick([]NodeID{nodeOf("RCC")}); err != nil {
			t.Fatal(err)
		}
		var lied *PeerError
		n := 0
		for ; n < 2*MaxUseless && lied == nil; n++ {
			out, err := s.Step(nodeOf("RCC"), m)
			if errors.As(err, &lied); lied == nil && (err != nil || len(out) > 0) {
				t.Fatalf("%T: %v, %v", m, out, err)
			}
		}
		if lied == nil {
			t.Errorf("%d times %T and no end", n, m)
		}
	}
	stranger := newShelf(t, "RXX")
	stranger.fill(70)
	if out, err := s.Step(nodeOf("RDD"), SnapshotOffer{Batch: stranger.snapshot().Batch.Batch()}); err != nil || len(out) > 0 {
		t.Errorf("the snapshot of a node that nobody has certified leads to %v, %v", out, err)
	}
}

// A node that was restored to before its last snapshot learns by pages what it had said: its peers have nothing else of it.
func TestSyncTakesUpItsOwnSnapshot(t *testing.T) {
	t.Parallel()
	r := newSnapRegion(t)
	peer, restored := newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA")
	a := nodeOf("RAA")
	of := peer.shelves[a]
	of.fill(60)
	for _, v := range of.batches {
		restored.shelves[a].take(v)
	}
	of.fill(200)
	of.snapshot()
	of.fill(20)
	r.add("RBB", peer)
	r.add("RAA", restored)
	r.agree(a, 60)
	if len(r.lied) > 0 {
		t.Fatalf("honest nodes were accused: %v", r.lied)
	}
}

// While nobody can give the parts of a snapshot, its author being away, a log goes on being pulled from who has it as batches.
func TestSyncPullsBesideASnapshotNobodyHas(t *testing.T) {
	t.Parallel()
	r := newSnapRegion(t)
	author, whole, some := newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA"), newSnapLogs(t, "RAA")
	a := nodeOf("RAA")
	of := author.shelves[a]
	of.fill(60)
	n := len(of.batches)
	of.fill(60)
	for i, v := range of.batches {
		whole.shelves[a].take(v)
		if i < n {
			some.shelves[a].take(v)
		}
	}
	o := of.sayOf(of.build(of.head()))
	whole.shelves[a].take(o.Batch)
	r.add("RBB", whole)
	r.add("RCC", some)
	// Both have heard of the snapshot, and the author is gone.
	for _, n := range r.nodes {
		if _, err := r.syncs[n].Step(nodeOf("RBB"), SnapshotOffer{Batch: o.Batch.Batch()}); err != nil {
			t.Fatal(err)
		}
	}
	for range 80 {
		r.round(2000)
	}
	if got, want := some.shelves[a].head(), whole.shelves[a].head(); got.Seq != want.Seq {
		t.Errorf("the log is at %d of %d", got.Seq, want.Seq)
	}
}

// Offers of strangers' snapshots do not take the place of others.
func TestSyncQueuesNoStrangersSnapshots(t *testing.T) {
	t.Parallel()
	trusts := []TrustID{"RAA", "RBB", "RCC", "RDD", "REE", "RFF"}
	author, l := newSnapLogs(t, trusts...), newSnapLogs(t, trusts...)
	s := NewSync(l, syncOptions(nodeOf("RZZ"), l))
	peer := nodeOf("RAA")
	if _, err := s.Tick([]NodeID{peer}); err != nil {
		t.Fatal(err)
	}
	for _, of := range trusts[1:] {
		author.shelves[nodeOf(of)].fill(70)
		if _, err := s.Step(peer, SnapshotOffer{Batch: author.shelves[nodeOf(of)].snapshot().Batch.Batch()}); err != nil {
			t.Fatal(err)
		}
	}
	before := queued(s)
	for i := range 30 {
		stranger := newShelf(t, TrustID(fmt.Sprintf("X%02d", i)))
		stranger.fill(3)
		_, err := s.Step(peer, SnapshotOffer{Batch: stranger.snapshot().Batch.Batch()})
		var lied *PeerError
		if err != nil && !errors.As(err, &lied) {
			t.Fatal(err)
		}
	}
	if n := queued(s); n > before {
		t.Errorf("%d wait to be taken up, %d more than there are of nodes that are certified", n, n-before)
	}
}

func syncOptions(self NodeID, l *snapLogs) SyncOptions {
	return SyncOptions{Self: self, Rand: rand.New(rand.NewPCG(1, 1))}
}

func queued(s *Sync) int { return len(s.boots.queue) }
