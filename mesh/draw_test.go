package mesh_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

func wantsOf(blocks []cas.Block) []mesh.Want {
	out := make([]mesh.Want, len(blocks))
	for i, b := range blocks {
		out[i] = mesh.Want{CID: b.CID, Size: len(b.Data)}
	}
	return out
}

// What is pushed comes right after the grant, in its order, with what the holder
// lacks in its place; then the stream is like any other.
func TestPush(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	a, b := r.nodes[0], r.nodes[1]
	blocks := blocksOf(12, 3000)
	lost := cas.Block{CID: cas.Sum([]byte("lost"))}
	b.give(a, blocks...)
	pushes := append(append([]cas.Block{}, blocks[:5]...), lost, blocks[5])
	b.study.mu.Lock()
	b.study.pushes = pushes
	b.study.mu.Unlock()
	req := ask(b.id)
	req.Push = mesh.Push{Depth: mesh.PushHeaders, Series: "1.2.840.1.1"}
	s, err := a.mesh.OpenStudy(context.Background(), b.id, req)
	must(t, err)
	defer s.Close()
	for _, want := range pushes {
		got, more, err := s.Pushed(context.Background())
		must(t, err)
		if !more || got.CID != want.CID || string(got.Data) != string(want.Data) {
			t.Fatalf("%s came with %d bytes, want %s", got.CID, len(got.Data), want.CID)
		}
	}
	for range 2 {
		if _, more, err := s.Pushed(context.Background()); more || err != nil {
			t.Fatalf("after the end: %v, %v", more, err)
		}
	}
	b.study.mu.Lock()
	got := b.study.asked
	b.study.mu.Unlock()
	if len(got) != 1 || got[0] != req.Push {
		t.Fatalf("the node was asked for %v", got)
	}
	var basket basket
	missing, err := s.Blocks(context.Background(), cidsOf(blocks), basket.got)
	must(t, err)
	if len(missing) > 0 {
		t.Fatalf("%d are missing", len(missing))
	}
	basket.check(t, blocks)
	for name, p := range map[string]mesh.Push{
		"of nothing, of a series":     {Series: "1.2"},
		"of an instance of no series": {Depth: mesh.PushLists, Instance: "1.2"},
		"of a depth that is none":     {Depth: mesh.PushHeaders + 1},
		"of a long name":              {Depth: mesh.PushLists, Series: strings.Repeat("1", 65)},
	} {
		req.Push = p
		if _, err := a.mesh.OpenStudy(context.Background(), b.id, req); !errors.Is(err, mesh.ErrBadMessage) {
			t.Errorf("a push %s: %v, want ErrBadMessage", name, err)
		}
	}
}

// A study that several hold is drawn from all, and more from the faster.
func TestFasterHoldersGiveMore(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	me, slow, fast := r.nodes[0], r.nodes[1], r.nodes[2]
	for holder, rate := range map[*node]int{slow: 1 << 20, fast: 8 << 20} {
		holder.tune = func(_ *mesh.Config, d *mesh.Deps) { // so that nobody meets but over its line
			d.Addrs = func() map[index.NodeID][]string { return nil }
		}
		holder.start()
		line := newRelay(t, address(holder), rate)
		r.mu.Lock()
		r.addrs[holder.id] = []string{line.multiaddr()}
		r.mu.Unlock()
	}
	me.start()
	eventually(t, "they meet", func() bool { return me.peer(slow).Connected && me.peer(fast).Connected })
	blocks := blocksOf(160, 64<<10)
	slow.give(me, blocks...)
	fast.give(me, blocks...)
	var basket basket
	missing, err := me.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{me.open(slow), me.open(fast)}, cidsOf(blocks), basket.got)
	must(t, err)
	if len(missing) > 0 {
		t.Fatalf("%d are missing", len(missing))
	}
	basket.check(t, blocks)
	few, many := slow.mesh.Counters().BlocksServed, fast.mesh.Counters().BlocksServed
	t.Logf("the slow one gave %d, the fast one %d", few, many)
	if few == 0 || many <= few {
		t.Fatalf("the slow one gave %d blocks and the fast one %d", few, many)
	}
}

// A holder that takes wants and gives nothing is not waited for.
func TestStallingHolder(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	me, friend, villain := r.nodes[0], r.nodes[1], r.nodes[2]
	me.start()
	friend.start()
	r.meet(me, friend)
	h := rawHost(t, villain.key)
	must(t, dial(t, h, me))
	eventually(t, "the node has a connection to the villain", func() bool { return me.mesh.Counters().ConnectedNow == 2 })
	fakeHolder(h, func(s network.Stream) {
		_, _ = s.Write(frame(grantBytes(t, villain.key, func(g map[int]any) { g[2], g[3], g[4] = villain.id[:], villain.id[:], me.id[:] })))
		_, _ = io.Copy(io.Discard, s)
	})
	blocks := blocksOf(100, 10000)
	friend.give(me, blocks...)
	streams := []*mesh.StudyStream{me.open(villain), me.open(friend)}
	var basket basket
	missing, err := me.mesh.FetchBlocks(context.Background(), streams, cidsOf(blocks), basket.got)
	must(t, err)
	if len(missing) > 0 {
		t.Fatalf("%d are missing", len(missing))
	}
	basket.check(t, blocks)
	if friend.mesh.Counters().BlocksServed != 100 {
		t.Fatal("the friend did not give all")
	}
}

// What is urgent goes before what was wanted long ago.
func TestUrgentOvertakes(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	me, holder := r.nodes[0], r.nodes[1]
	r.startOverLines(me, holder, 8<<20)
	blocks := blocksOf(400, 64<<10)
	holder.give(me, blocks...)
	var mu sync.Mutex
	var order []cid.Cid
	begun, all := make(chan struct{}), make(chan struct{})
	d := me.mesh.Draw(func(b cas.Block) error {
		mu.Lock()
		defer mu.Unlock()
		if order = append(order, b.CID); len(order) == 20 {
			close(begun)
		}
		if len(order) == len(blocks) {
			close(all)
		}
		return nil
	}, nil)
	defer d.Close()
	d.Add(me.open(holder))
	d.Ask(wantsOf(blocks), mesh.Urgent+3)
	<-begun
	last := blocks[len(blocks)-1]
	missing, err := d.Fetch(context.Background(), wantsOf([]cas.Block{last}), mesh.Urgent)
	must(t, err)
	mu.Lock()
	before := len(order)
	mu.Unlock()
	if len(missing) > 0 || before > len(blocks)/2 {
		t.Fatalf("the urgent block came after %d of %d others; missing %v", before, len(blocks), missing)
	}
	// Held back, nothing but the urgent is asked for.
	<-all
	more := blocksOf(3, 1000)
	holder.give(me, more...)
	d.Hold(true)
	d.Ask(wantsOf(more[:2]), mesh.Urgent+3)
	missing, err = d.Fetch(context.Background(), wantsOf(more[2:]), mesh.Urgent)
	must(t, err)
	mu.Lock()
	before = len(order)
	mu.Unlock()
	if len(missing) > 0 || before != len(blocks)+1 {
		t.Fatalf("%d blocks came of a draw that is held, missing %v", before, missing)
	}
	d.Hold(false)
	missing, err = d.Fetch(context.Background(), wantsOf(more[:2]), mesh.Urgent+3)
	must(t, err)
	if len(missing) > 0 {
		t.Fatalf("missing %v", missing)
	}
}

// A holder may be added while blocks are waited for, and what the first lacks
// comes from it.
func TestHoldersAreAddedAndLost(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	r.start()
	me, a, b := r.nodes[0], r.nodes[1], r.nodes[2]
	blocks := blocksOf(50, 20000)
	a.give(me, blocks[:30]...)
	b.give(me, blocks...)
	var first, second basket
	d := me.mesh.Draw(first.got, nil)
	defer d.Close()
	if missing, _ := d.Fetch(context.Background(), wantsOf(blocks[:2]), 1); len(missing) != 2 {
		t.Fatalf("with no holder %d are missing, want 2", len(missing))
	}
	d.Add(me.open(a))
	missing, err := d.Fetch(context.Background(), wantsOf(blocks[:30]), 1)
	must(t, err)
	if len(missing) > 0 || len(d.Holders()) != 1 {
		t.Fatalf("%d are missing, holders %v", len(missing), d.Holders())
	}
	d.Add(me.open(b))
	missing, err = d.Fetch(context.Background(), wantsOf(blocks[30:]), 1)
	must(t, err)
	if len(missing) > 0 {
		t.Fatalf("%d are missing", len(missing))
	}
	first.check(t, blocks)
	twice := me.open(b)
	defer twice.Close()
	missing, err = me.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{twice, twice}, cidsOf(blocks), second.got)
	must(t, err)
	if len(missing) > 0 {
		t.Fatalf("from a stream that is named twice %d are missing", len(missing))
	}
	second.check(t, blocks)
	d.Close()
	if missing, err := d.Fetch(context.Background(), wantsOf(blocks[:1]), 1); len(missing) != 1 || !errors.Is(err, mesh.ErrClosed) {
		t.Fatalf("a closed draw says %v", err)
	}
}

// What is taken back is not asked for any more; wanted again while it is still on
// its way it comes, or is missing, as if nothing had been.
func TestWishesAreTakenBack(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	me, holder := r.nodes[0], r.nodes[1]
	r.startOverLines(me, holder, 8<<20)
	blocks := blocksOf(300, 64<<10)
	here := append(append([]cas.Block{}, blocks[:5]...), blocks[6:]...) // one is lacking, among the first that are asked for
	holder.give(me, here...)
	var basket basket
	d := me.mesh.Draw(basket.got, nil)
	defer d.Close()
	d.Add(me.open(holder))
	leave := d.Ask(wantsOf(blocks), mesh.Unattended)
	leave()
	leave()
	missing, err := d.Fetch(context.Background(), wantsOf(blocks[:10]), mesh.Urgent)
	must(t, err)
	if len(missing) != 1 || missing[0] != blocks[5].CID {
		t.Fatalf("missing %v, want the one that the holder lacks", missing)
	}
	basket.check(t, here[:9])
	if served := holder.mesh.Counters().BlocksServed; served > 100 {
		t.Fatalf("%d blocks were served though the wish for them was taken back", served)
	}
}

// A stream waits for its share of this node's line as urgently as the most urgent
// block that it owes; what nobody waits for is bounded.
func TestUrgentBlocksAreNotBoundAsOthersAre(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	me, holder := r.nodes[0], r.nodes[1]
	me.mesh.SetRates(mesh.Rates{Background: mesh.LeastRate}, mesh.Rates{})
	holder.mesh.SetRates(mesh.Rates{}, mesh.Rates{Background: mesh.LeastRate})
	fill, urgent := blocksOf(100, 64<<10), blocksOf(100, 64<<10+1)
	holder.give(me, append(fill, urgent...)...)
	var mu sync.Mutex
	came := make(map[cid.Cid]bool)
	d := me.mesh.Draw(func(b cas.Block) error {
		mu.Lock()
		defer mu.Unlock()
		came[b.CID] = true
		return nil
	}, nil)
	defer d.Close()
	req := ask(holder.id)
	req.Priority = mesh.Unattended
	s, err := me.mesh.OpenStudy(context.Background(), holder.id, req)
	must(t, err)
	d.Add(s)
	d.Ask(wantsOf(fill), mesh.Unattended)
	missing, err := d.Fetch(context.Background(), wantsOf(urgent), mesh.Urgent)
	must(t, err)
	mu.Lock()
	defer mu.Unlock()
	n := 0
	for _, b := range fill {
		if came[b.CID] {
			n++
		}
	}
	if len(missing) > 0 || n > len(fill)/2 {
		t.Fatalf("%d missing; %d blocks came that nobody waits for, before what somebody does", len(missing), n)
	}
}
