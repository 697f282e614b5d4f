package index

import (
	"container/heap"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// What a region of healNodes must keep to. Times are virtual, so they are the same on every machine.
const (
	healNodes    = 200
	healWithin   = 5 * time.Second // until all are equal, at the 99th percentile
	idleLimit    = 2 << 10         // bytes a second that a node sends when nothing is said
	healLink     = 50 * time.Millisecond
	healJitter   = 10 * time.Millisecond // beside it, either way
	healLoss     = 0.01
	healPass     = 100 * time.Millisecond // as package mesh does
	healPush     = 100 * time.Millisecond
	healApart    = 4 * time.Second
	healIdle     = 10 * time.Second
	healPatience = 60 * time.Second
)

// healing is a region in virtual time: 200 nodes that all know each other, links that lose and delay, and one seed.
type healing struct {
	rnd     *rand.Rand
	salt    seeded
	now     time.Duration
	events  events
	count   uint64
	nodes   []*healNode
	byID    map[NodeID]int
	checked *Checked
	apart   bool
	bytes   int64 // sent by all
	sent    int   // messages
	most    int   // bytes of the largest message but batches
	err     error
}

type healNode struct {
	key   ed25519.PrivateKey
	id    NodeID
	half  int
	logs  *memoryLogs
	sync  *Sync
	peers [2][]NodeID // all, and those of its half
}

type event struct {
	at time.Duration
	n  uint64
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func newHealing(seed uint64) *healing {
	h := &healing{
		rnd: rand.New(rand.NewPCG(seed, 3)), salt: newSeeded(fmt.Sprint("heal ", seed)),
		byID: map[NodeID]int{}, checked: NewChecked(1 << 16),
	}
	var all []NodeID
	for i := range healNodes {
		key := testKey(fmt.Sprint("healing node ", i))
		n := &healNode{key: key, id: NodeIDOf(key), half: i % 2}
		n.logs = &memoryLogs{logs: map[logID]*memoryLog{}, checked: h.checked, anybody: true}
		n.sync = NewSync(n.logs, SyncOptions{Self: n.id, Rand: rand.New(rand.NewPCG(seed, uint64(i))), Checked: h.checked})
		h.nodes = append(h.nodes, n)
		h.byID[n.id] = i
		all = append(all, n.id)
	}
	for _, n := range h.nodes {
		n.peers[0] = all
		n.peers[1] = slices.DeleteFunc(slices.Clone(all), func(o NodeID) bool { return h.nodes[h.byID[o]].half != n.half })
		h.after(h.upTo(DefaultTick), func() { h.tick(n) })
		h.after(h.upTo(healPass), func() { h.pass(n) })
	}
	return h
}

func (h *healing) upTo(d time.Duration) time.Duration { return time.Duration(h.rnd.Int64N(int64(d))) }

func (h *healing) after(d time.Duration, do func()) {
	h.count++
	heap.Push(&h.events, event{h.now + d, h.count, do})
}

func (h *healing) run(until time.Duration, enough func() bool) bool {
	for len(h.events) > 0 && h.events[0].at <= until && h.err == nil {
		e := heap.Pop(&h.events).(event)
		h.now = e.at
		e.do()
		if enough != nil && enough() {
			return true
		}
	}
	h.now = max(h.now, until)
	return false
}

func (h *healing) tick(n *healNode) {
	peers := n.peers[0]
	if h.apart {
		peers = n.peers[1]
	}
	h.send(n)(n.sync.Tick(peers))
	h.after(DefaultTick*2/3+h.upTo(DefaultTick*2/3), func() { h.tick(n) })
}

func (h *healing) pass(n *healNode) {
	h.send(n)(n.sync.Pass(healPass))
	h.after(healPass, func() { h.pass(n) })
}

// say says a fact, which is pushed a moment later.
func (h *healing) say(n *healNode, st Statement) {
	id := logID{n.id, 1}
	v, err := sealBatch(n.key, n.logs.log(id).chain().last.head, 1, []Statement{st}, h.salt)
	if err == nil {
		_, err = n.logs.Take([]Verified{v})
	}
	if err != nil {
		panic(err)
	}
	h.after(healPush, func() { h.send(n)(n.sync.Said()) })
}

func (h *healing) send(n *healNode) func([]Outgoing, error) {
	return func(out []Outgoing, err error) {
		if err != nil && h.err == nil {
			h.err = err
		}
		for _, o := range out {
			size := 4 // of the frame
			if m, ok := o.Message.(Batches); ok {
				size += m.size()
			} else {
				size += len(o.Message.Encode())
				h.most = max(h.most, size)
			}
			h.bytes += int64(size)
			h.sent++
			to := h.nodes[h.byID[o.To]]
			if h.rnd.Float64() < healLoss {
				continue
			}
			h.after(healLink-healJitter+h.upTo(2*healJitter), func() {
				if h.apart && n.half != to.half {
					return
				}
				h.send(to)(to.sync.Step(n.id, o.Message))
			})
		}
	}
}

// equal says that all have all that was said.
func (h *healing) equal(said Seq) bool {
	for _, n := range h.nodes {
		if n.logs.reached != said {
			return false
		}
	}
	return true
}

// heal lets both halves say facts while they are apart, and returns how long it takes until all have all of them, and what a node sends
// a second when that is over.
func (h *healing) heal(t *testing.T) (took time.Duration, idle float64) {
	t.Helper()
	for _, n := range h.nodes {
		h.after(h.upTo(healApart-time.Second), func() { h.say(n, note("x", "said in one half")) })
	}
	const said = healNodes
	h.apart = true
	h.run(healApart, nil)
	for _, n := range h.nodes {
		if n.logs.reached >= said || n.logs.reached < said/4 {
			t.Fatalf("a node has %d of %d facts while the halves are apart", n.logs.reached, said)
		}
	}
	h.apart = false
	began := h.now
	looked := h.now
	ok := h.run(began+healPatience, func() bool {
		if h.now-looked < 5*time.Millisecond {
			return false
		}
		looked = h.now
		return h.equal(said)
	})
	if h.err != nil {
		t.Fatalf("an honest node was accused: %v", h.err)
	}
	if !ok {
		t.Fatalf("not equal %v after the halves met", healPatience)
	}
	took = h.now - began
	for _, n := range h.nodes[1:] {
		if !slices.EqualFunc(n.logs.Heads(), h.nodes[0].logs.Heads(), Head.same) {
			t.Fatal("as many facts, but not the same")
		}
	}
	h.run(h.now+3*time.Second, nil)
	before := h.bytes
	h.run(h.now+healIdle, nil)
	return took, float64(h.bytes-before) / healIdle.Seconds() / healNodes
}

// After a partition of 200 nodes heals all are equal soon; and where nothing is said next to nothing is sent. PRIORMESH_SOAK says how
// many seeds are tried.
func TestHalvesHeal(t *testing.T) {
	seeds := 2
	if raced {
		seeds = 1
	}
	seeds = soak(t, seeds)
	took := make([]time.Duration, seeds)
	idle := make([]float64, seeds)
	most := make([]int, seeds)
	t.Run("seeds", func(t *testing.T) {
		for i := range seeds {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				h := newHealing(uint64(i))
				took[i], idle[i] = h.heal(t)
				most[i] = h.most
				t.Logf("equal after %v", took[i])
			})
		}
	})
	if t.Failed() {
		return
	}
	slices.Sort(took)
	slices.Sort(idle)
	p99 := took[(99*seeds+99)/100-1]
	t.Logf("%d seeds: equal after %v (half of them), %v (99 of 100), %v at most; %.0f bytes a second sent by a node when idle, %.0f at most; largest message but batches %d bytes",
		seeds, took[(seeds-1)/2], p99, took[seeds-1], idle[(seeds-1)/2], idle[seeds-1], slices.Max(most))
	if p99 > healWithin {
		t.Errorf("equal %v after the halves met, want %v", p99, healWithin)
	}
	if idle[seeds-1] > idleLimit {
		t.Errorf("%.0f bytes a second sent by a node when nothing is said, want %d", idle[seeds-1], idleLimit)
	}
	if idle[0] == 0 {
		t.Error("nothing was exchanged at all")
	}
}

// The same seed gives the same run, to the byte.
func TestHealingReplays(t *testing.T) {
	t.Parallel()
	run := func() (int64, int, time.Duration) {
		h := newHealing(7)
		h.say(h.nodes[3], note("x", "1"))
		h.run(2*time.Second, nil)
		return h.bytes, h.sent, h.now
	}
	b1, s1, _ := run()
	b2, s2, _ := run()
	if b1 != b2 || s1 != s2 || s1 < healNodes {
		t.Fatalf("%d bytes in %d messages, then %d in %d", b1, s1, b2, s2)
	}
}

// A fact that is said reaches most of the region by push within a second, and all of it by the exchanges that follow.
func TestPushReachesTheRegion(t *testing.T) {
	t.Parallel()
	h := newHealing(11)
	h.run(time.Second, nil)
	said := h.now
	h.say(h.nodes[5], note("x", "1"))
	counts := map[time.Duration]int{}
	for _, at := range []time.Duration{300, 400, 500, 1000, 5000} {
		at *= time.Millisecond
		h.run(said+healPush+at, nil)
		for _, n := range h.nodes {
			counts[at] += int(n.logs.reached)
		}
	}
	if h.err != nil {
		t.Fatal(h.err)
	}
	t.Logf("of %d nodes have it after: %v", healNodes, counts)
	if counts[500*time.Millisecond] < healNodes/2 || counts[time.Second] < healNodes*3/4 || counts[5*time.Second] != healNodes {
		t.Errorf("of %d nodes have it after: %v", healNodes, counts)
	}
}
