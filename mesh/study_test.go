package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

const uid = "1.2.840.1"

func ask(of index.NodeID) mesh.StudyRequest {
	return mesh.StudyRequest{Study: uid, Origin: of, Purpose: "direct-care", Priority: 1}
}

// give stores blocks at a node and lets the requester have them.
func (n *node) give(to *node, blocks ...cas.Block) {
	n.r.t.Helper()
	must(n.r.t, n.store.Put(context.Background(), blocks...))
	n.study.allow(uid, to.id, cidsOf(blocks)...)
}

func (n *node) open(holder *node) *mesh.StudyStream {
	n.r.t.Helper()
	s, err := n.mesh.OpenStudy(context.Background(), holder.id, ask(holder.id))
	must(n.r.t, err)
	return s
}

func TestStudyIsStreamed(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.nodes[1].study.key = cas.Key{1, 2, 3}
	r.start()
	a, b := r.nodes[0], r.nodes[1]
	blocks := blocksOf(300, 20000)
	blocks[7] = cas.Block{CID: cas.Sum([]byte{7}), Data: []byte{7}}
	big := make([]byte, cas.MaxBlock)
	blocks[8] = cas.Block{CID: cas.Sum(big), Data: big}
	b.give(a, blocks...)

	s := a.open(b)
	g := s.Grant()
	if g.Study != uid || g.Holder != b.id || g.Requester != a.id || g.Origin != b.id || g.Purpose != "direct-care" ||
		g.Revision != 3 || !g.Settled || g.Key != b.study.key || g.Manifest.CID != cas.Sum([]byte("m")) {
		t.Fatalf("the grant is not the one given: %v", g)
	}
	must(t, g.Verify())
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d"} {
		if text := fmt.Sprintf(verb, g); strings.Contains(text, "1 2 3") || strings.Contains(text, uid) || strings.Contains(text, "010203") {
			t.Fatalf("a grant prints what it must not: %s", text)
		}
	}

	var order []cid.Cid
	var basket basket
	missing, err := s.Blocks(context.Background(), append(cidsOf(blocks), blocks[0].CID), func(b cas.Block) error {
		order = append(order, b.CID)
		return basket.got(b)
	})
	must(t, err)
	if len(missing) != 0 {
		t.Fatalf("%d blocks are missing", len(missing))
	}
	basket.check(t, blocks)
	for i, c := range cidsOf(blocks) {
		if order[i] != c {
			t.Fatalf("block %d came out of order", i)
		}
	}

	// What the holder lacks, and what it does not grant, is missing alike.
	here := blocksOf(3, 100)
	b.give(a, here[0], here[2])
	must(t, b.store.Put(context.Background(), here[1]))
	nowhere := cas.Sum([]byte("nowhere"))
	missing, err = s.Blocks(context.Background(), []cid.Cid{here[0].CID, here[1].CID, nowhere, here[2].CID}, func(cas.Block) error { return nil })
	must(t, err)
	if len(missing) != 2 || missing[0] != here[1].CID || missing[1] != nowhere {
		t.Fatalf("missing is %v", missing)
	}
	must(t, s.Close())
	if _, err := s.Blocks(context.Background(), cidsOf(here), nil); !errors.Is(err, mesh.ErrClosed) {
		t.Fatalf("a closed stream says %v", err)
	}
	if c := b.mesh.Counters(); c.BlocksServed != 302 || c.StudiesGranted != 1 {
		t.Fatalf("the holder counted %d blocks and %d grants", c.BlocksServed, c.StudiesGranted)
	}
	eventually(t, "the holder is rid of the stream", func() bool { return b.mesh.Counters().StudyStreamsNow == 0 })
}

// "No", "not here" and "something is wrong here" are one answer.
func TestRefusalsAreAlike(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	a, b := r.nodes[0], r.nodes[1]
	ctx := context.Background()
	if _, err := a.mesh.OpenStudy(ctx, b.id, ask(b.id)); !errors.Is(err, mesh.ErrRefused) {
		t.Fatalf("got %v, want ErrRefused", err)
	}
	b.study.fail = errors.New("the disk is on fire")
	if _, err := a.mesh.OpenStudy(ctx, b.id, ask(b.id)); !errors.Is(err, mesh.ErrRefused) {
		t.Fatalf("got %v, want ErrRefused", err)
	} else if strings.Contains(err.Error(), "fire") {
		t.Fatalf("the refusal says why: %v", err)
	}
	if b.log.count("the disk is on fire") != 1 {
		t.Fatal("the holder's log does not say what was wrong")
	}
	if _, err := a.mesh.OpenStudy(ctx, index.NodeID{1}, ask(b.id)); !errors.Is(err, mesh.ErrNotConnected) {
		t.Fatalf("got %v, want ErrNotConnected", err)
	}
	if _, err := a.mesh.OpenStudy(ctx, b.id, mesh.StudyRequest{Study: strings.Repeat("1", 65)}); err == nil {
		t.Fatal("a study with too long a name was asked for")
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.mesh.OpenStudy(gone, b.id, ask(b.id)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}
}

// A holder that gives studies by another version of the protocol is not taken for
// one that is away.
func TestHolderOfAnotherVersion(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	me, old := r.nodes[0], r.nodes[1]
	me.start()
	h := rawHost(t, old.key)
	h.SetStreamHandler("/priormesh/study/1", func(s network.Stream) { _ = s.Reset() })
	must(t, dial(t, h, me))
	eventually(t, "the node has a connection to it", func() bool { return me.mesh.Counters().ConnectedNow == 1 })
	_, err := me.mesh.OpenStudy(context.Background(), old.id, ask(old.id))
	if !errors.Is(err, mesh.ErrVersion) || errors.Is(err, mesh.ErrNotConnected) {
		t.Fatalf("got %v, want ErrVersion", err)
	}
}

// A question that is given up does not wait for the holder.
func TestOpeningCanBeGivenUp(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	a, b := r.nodes[0], r.nodes[1]
	b.study.mu.Lock()
	defer b.study.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := a.mesh.OpenStudy(ctx, b.id, ask(b.id)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the context's error", err)
	}
}

// The holder's clock, not the requester's, ends a grant.
func TestGrantExpires(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	var clock struct {
		sync.Mutex
		now time.Time
	}
	clock.now = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	b.tune = func(c *mesh.Config, _ *mesh.Deps) {
		c.Now = func() time.Time { clock.Lock(); defer clock.Unlock(); return clock.now }
	}
	b.study.expires = clock.now.Add(time.Minute)
	r.start()
	blocks := blocksOf(10, 1000)
	b.give(a, blocks...)
	s := a.open(b)
	var n int
	missing, err := s.Blocks(context.Background(), cidsOf(blocks[:5]), func(cas.Block) error { n++; return nil })
	must(t, err)
	if n != 5 || len(missing) != 0 {
		t.Fatalf("%d blocks came and %d are missing while the grant runs", n, len(missing))
	}
	clock.Lock()
	clock.now = clock.now.Add(time.Minute)
	clock.Unlock()
	missing, err = s.Blocks(context.Background(), cidsOf(blocks[5:]), func(cas.Block) error { n++; return nil })
	if !errors.Is(err, mesh.ErrExpired) || n != 5 || len(missing) != 5 {
		t.Fatalf("after the grant's end: %d blocks, %d missing, %v", n, len(missing), err)
	}
}

// got's error and the context end a fetch, and come back as they are.
func TestFetchCanBeStopped(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	a, b := r.nodes[0], r.nodes[1]
	blocks := blocksOf(200, 50000)
	b.give(a, blocks...)
	full := errors.New("disk full")
	n := 0
	missing, err := a.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{a.open(b)}, cidsOf(blocks), func(cas.Block) error {
		if n == 10 {
			return full
		}
		n++
		return nil
	})
	if err != full || len(missing) != 190 {
		t.Fatalf("%d missing, %v", len(missing), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n = 0
	missing, err = a.mesh.FetchBlocks(ctx, []*mesh.StudyStream{a.open(b)}, cidsOf(blocks), func(cas.Block) error {
		if n++; n == 20 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(missing) != 200-n {
		t.Fatalf("%d came, %d missing, %v", n, len(missing), err)
	}
}

// Two who share a stream take turns; both get everything.
func TestStreamIsShared(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	a, b := r.nodes[0], r.nodes[1]
	blocks := blocksOf(100, 10000)
	b.give(a, blocks...)
	s := a.open(b)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			part := blocks[i*25 : (i+1)*25]
			var basket basket
			if missing, err := s.Blocks(context.Background(), cidsOf(part), basket.got); err != nil || len(missing) != 0 {
				t.Errorf("%d missing, %v", len(missing), err)
				return
			}
			basket.check(t, part)
		})
	}
	wg.Wait()
	must(t, s.Close())
}

// A lacks some blocks and dies in the middle; B supplies the rest.
func TestOthersFillHoles(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	r.start()
	me, a, b := r.nodes[0], r.nodes[1], r.nodes[2]
	blocks := blocksOf(400, 20000)
	lost := blocks[3:9]
	a.give(me, append(blocks[:3:3], blocks[9:]...)...)
	b.give(me, blocks...)
	streams := []*mesh.StudyStream{me.open(a), me.open(b)}
	var basket basket
	var once sync.Once
	missing, err := me.mesh.FetchBlocks(context.Background(), streams, cidsOf(blocks), func(blk cas.Block) error {
		if blk.CID == blocks[100].CID {
			once.Do(func() { a.mesh.Crash() })
		}
		return basket.got(blk)
	})
	must(t, err)
	if len(missing) != 0 {
		t.Fatalf("%d blocks are missing", len(missing))
	}
	basket.check(t, blocks)
	served := b.mesh.Counters().BlocksServed
	if served < uint64(len(lost)) || served >= uint64(len(blocks)) {
		t.Fatalf("b served %d blocks, want those that a lost or had no time for", served)
	}
}

// When streams break off but their holders live, bitswap brings the rest from
// several of them.
func TestBitswapFillsHoles(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	r.start()
	me, a, b := r.nodes[0], r.nodes[1], r.nodes[2]
	blocks := blocksOf(60, 20000)
	a.give(me, blocks[:40]...)
	b.give(me, blocks[20:]...)
	sa, sb := me.open(a), me.open(b)
	must(t, sa.Close())
	must(t, sb.Close())
	var basket basket
	begin := time.Now()
	missing, err := me.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{sa, sb}, cidsOf(blocks), basket.got)
	must(t, err)
	t.Logf("bitswap took %v", time.Since(begin))
	if len(missing) != 0 {
		t.Fatalf("%d blocks are missing", len(missing))
	}
	basket.check(t, blocks)
	if got := me.mesh.Counters().BlocksByBitswap; got != 60 {
		t.Fatalf("%d blocks came by bitswap, want 60", got)
	}
	if all, err := me.store.Has(context.Background(), blocks[0].CID); err != nil || all {
		t.Fatal("bitswap wrote to the store behind the node's back")
	}
}

// Bitswap gives a peer without a grant nothing, although it knows the address.
func TestBitswapNeedsAGrant(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	for _, n := range r.nodes {
		n.tune = func(c *mesh.Config, _ *mesh.Deps) { c.Timing.Idle = time.Second }
	}
	r.start()
	me, a := r.nodes[0], r.nodes[1]
	blocks := blocksOf(6, 5000)
	a.give(me, blocks[:3]...)
	must(t, a.store.Put(context.Background(), blocks[3:]...)) // held, not granted
	s := me.open(a)
	must(t, s.Close()) // so that only bitswap is left
	var basket basket
	missing, err := me.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{s}, cidsOf(blocks), basket.got)
	if err == nil || len(missing) != 3 {
		t.Fatalf("%d blocks are missing, %v; want the three without a grant", len(missing), err)
	}
	basket.check(t, blocks[:3])
}

// A block that is damaged at the holder is as good as not there, and keeps
// neither door from giving the others.
func TestDamagedBlockIsMissing(t *testing.T) {
	t.Parallel()
	for _, door := range []string{"stream", "bitswap"} {
		t.Run(door, func(t *testing.T) {
			r := newRegion(t, 2)
			me, a := r.nodes[0], r.nodes[1]
			blocks := blocksOf(8, 5000)
			for _, n := range r.nodes {
				n.tune = func(c *mesh.Config, d *mesh.Deps) {
					c.Timing.Idle = time.Second
					d.Blocks = damaged{d.Blocks, blocks[5].CID}
				}
			}
			r.start()
			a.give(me, blocks...)
			s := me.open(a)
			if door == "bitswap" {
				must(t, s.Close())
			}
			var basket basket
			missing, _ := me.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{s}, cidsOf(blocks), basket.got)
			if len(missing) != 1 || missing[0] != blocks[5].CID {
				t.Fatalf("missing is %v, want the damaged block", missing)
			}
			basket.check(t, append(blocks[:5:5], blocks[6:]...))
			if a.log.count("cannot be read") == 0 {
				t.Fatal("the holder's log does not say that a block is damaged")
			}
		})
	}
}

// damaged is a store whose disk has lost one block.
type damaged struct {
	mesh.Blocks
	bad cid.Cid
}

func (d damaged) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c == d.bad {
		return nil, cas.ErrCorrupt
	}
	return d.Blocks.Get(ctx, c)
}

func TestGrantCannotBeAltered(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	a, b := r.nodes[0], r.nodes[1]
	b.give(a)
	s := a.open(b)
	defer s.Close()
	good := s.Grant()
	for name, alter := range map[string]func(*mesh.Grant){
		"study":     func(g *mesh.Grant) { g.Study += "1" },
		"origin":    func(g *mesh.Grant) { g.Origin[0]++ },
		"holder":    func(g *mesh.Grant) { g.Holder = a.id },
		"requester": func(g *mesh.Grant) { g.Requester = b.id },
		"purpose":   func(g *mesh.Grant) { g.Purpose = "research" },
		"expires":   func(g *mesh.Grant) { g.Expires = g.Expires.Add(time.Hour) },
		"revision":  func(g *mesh.Grant) { g.Revision++ },
		"settled":   func(g *mesh.Grant) { g.Settled = !g.Settled },
		"manifest":  func(g *mesh.Grant) { g.Manifest.Size++ },
		"key":       func(g *mesh.Grant) { g.Key[31]++ },
		"signature": func(g *mesh.Grant) { g.Sig = bytes.Repeat([]byte{1}, 64) },
		"none":      func(g *mesh.Grant) { g.Sig = nil },
	} {
		bad := good
		alter(&bad)
		if err := bad.Verify(); !errors.Is(err, mesh.ErrBadGrant) {
			t.Errorf("a grant with another %s: %v, want ErrBadGrant", name, err)
		}
	}
}
