package mesh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

func protocolID(s string) protocol.ID { return protocol.ID(s) }

// Facts said at one node are at all others soon.
func TestFactsTravel(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	for _, n := range r.nodes {
		n.tune = func(c *mesh.Config, _ *mesh.Deps) { c.Timing = mesh.Timing{} } // a node's own
	}
	begin := time.Now()
	r.start()
	t.Logf("met after %v", time.Since(begin))
	for i := range 6 {
		author := r.nodes[i%3]
		uid := fmt.Sprintf("1.2.%d", i)
		begin := time.Now()
		author.say(uid)
		for _, n := range r.nodes {
			eventually(t, "the fact is everywhere", func() bool { return n.knows(uid) })
		}
		t.Logf("fact %d everywhere after %v", i, time.Since(begin))
	}
}

// A node that starts late gets what was said before, also from authors that
// are away.
func TestLateNodeCatchesUp(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	a.start()
	b.start()
	for i := range 100 {
		a.say(fmt.Sprintf("1.2.%d", i))
	}
	eventually(t, "b has all of a's facts", func() bool { return b.knows("1.2.99") })
	must(t, a.mesh.Close())
	c.start()
	eventually(t, "c has all of a's facts", func() bool { return c.knows("1.2.0") && c.knows("1.2.99") })
}

// Facts reach a node that has no connection to their author.
func TestFactsGoAround(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	for _, n := range r.nodes {
		n.tune = func(_ *mesh.Config, d *mesh.Deps) {
			allowed := d.Allowed
			d.Allowed = func(id index.NodeID) bool {
				if (n == a && id == c.id) || (n == c && id == a.id) {
					return false
				}
				return allowed(id)
			}
		}
	}
	for _, n := range r.nodes {
		n.start()
	}
	r.meet(a, b)
	r.meet(b, c)
	a.say("1.2.1")
	eventually(t, "c knows by way of b", func() bool { return c.knows("1.2.1") })
	if p := c.peer(a); p.Connected {
		t.Fatal("c is connected to a")
	}
}

// Whoever is not on the roster gets no stream, and the log says so once.
func TestStrangerIsRefused(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	h := rawHost(t, key)
	n := r.nodes[0]
	for range 5 {
		_ = dial(t, h, n) // TLS 1.3 tells the dialling side of a refusal only afterwards
		for _, p := range []string{gossip, logs, study, "/ipfs/bitswap/1.2.0", "/ipfs/id/1.0.0"} {
			s, err := tryStream(h, n, p)
			if err != nil {
				continue
			}
			_ = s.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = s.Write([]byte{'p'})
			if k, err := s.Read(make([]byte, 1)); err == nil {
				t.Fatalf("a stranger read %d bytes on %s", k, p)
			}
		}
	}
	eventually(t, "the refusals are counted", func() bool { return n.mesh.Counters().RefusedConnections >= 5 })
	if got := n.log.count("not on the roster"); got != 1 {
		t.Fatalf("the refusal was logged %d times, want once", got)
	}
	if len(h.Network().Peers()) != 0 {
		eventually(t, "the stranger is rid of its connections", func() bool { return len(h.Network().Peers()) == 0 })
	}
}

// A key that is no Ed25519 key names no node, whatever the roster says.
func TestOtherKeysAreRefused(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 1)
	r.nodes[0].tune = func(_ *mesh.Config, d *mesh.Deps) { d.Allowed = func(index.NodeID) bool { return true } }
	r.start()
	h := rawHostRSA(t)
	_ = dial(t, h, r.nodes[0])
	eventually(t, "the refusal is counted", func() bool { return r.nodes[0].mesh.Counters().RefusedConnections > 0 })
}

// The side that is refused says in its log what it must do, once.
func TestRefusedSideKnowsWhy(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	for _, n := range r.nodes {
		n.tune = func(c *mesh.Config, d *mesh.Deps) {
			c.Timing.RedialMin, c.Timing.RedialMax = 20*time.Millisecond, 100*time.Millisecond
			if n == a {
				d.Allowed = func(index.NodeID) bool { return false }
			}
		}
		n.start()
	}
	eventually(t, "b says why", func() bool { return b.log.count("was admitted") > 0 })
	before := a.mesh.Counters().RefusedConnections
	eventually(t, "b has tried more often", func() bool { return a.mesh.Counters().RefusedConnections > before+5 })
	if got := b.log.count("was admitted"); got != 1 {
		t.Fatalf("b said %d times why, want once", got)
	}
	if got := a.log.count("not on the roster"); got != 1 {
		t.Fatalf("a said %d times that b is refused, want once", got)
	}
	if !b.peer(a).LastHeard.IsZero() {
		t.Fatal("b thinks that it heard from a, which lets it in nowhere")
	}
}

// An expelled node loses its connections at once and gets them back when it is
// let in again.
func TestRecheck(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	r.start()
	out := r.nodes[2]
	r.mu.Lock()
	r.barred[out.id] = true
	r.mu.Unlock()
	for _, n := range r.nodes[:2] {
		n.mesh.Recheck()
	}
	eventually(t, "nobody is connected to the expelled node", func() bool {
		for _, p := range out.mesh.Peers() {
			if p.Connected {
				return false
			}
		}
		return true
	})
	r.nodes[0].say("1.2.3")
	eventually(t, "the others go on", func() bool { return r.nodes[1].knows("1.2.3") })
	if out.knows("1.2.3") {
		t.Fatal("the expelled node still hears facts")
	}
	for _, n := range r.nodes[:2] {
		for _, p := range n.mesh.Peers() {
			if p.ID == out.id {
				t.Fatal("the expelled node is still listed")
			}
		}
	}
	r.mu.Lock()
	delete(r.barred, out.id)
	r.mu.Unlock()
	for _, n := range r.nodes {
		n.mesh.Recheck()
	}
	r.meet(r.nodes...)
	eventually(t, "it hears again", func() bool { return out.knows("1.2.3") })
}

// A stream that is under way ends with the connection, at both ends, also when nobody tells the mesh that the roster has changed.
func TestStrangersAreDroppedUnasked(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	r.start()
	holder, out := r.nodes[0], r.nodes[2]
	blocks := blocksOf(2, 1000)
	holder.give(out, blocks...)
	stream := out.open(holder)
	defer stream.Close()
	if missing, err := stream.Blocks(t.Context(), cidsOf(blocks[:1]), new(basket).got); err != nil || len(missing) > 0 {
		t.Fatalf("%d missing, %v", len(missing), err)
	}
	r.mu.Lock()
	r.barred[out.id] = true
	r.mu.Unlock()
	eventually(t, "the connections are gone", func() bool { return holder.mesh.Conns(out.id) == 0 && out.mesh.Conns(holder.id) == 0 })
	if missing, err := stream.Blocks(t.Context(), cidsOf(blocks[1:]), new(basket).got); err == nil && len(missing) == 0 {
		t.Fatal("the stream still gives blocks")
	}
	if holder.mesh.Conns(r.nodes[1].id) == 0 {
		t.Fatal("a member was dropped too")
	}
}

// Changed addresses are picked up without a restart.
func TestAddressesChange(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	a.start()
	b.tune = func(_ *mesh.Config, d *mesh.Deps) {
		d.Addrs = func() map[index.NodeID][]string { return nil } // b dials nobody
	}
	b.start()
	good := b.mesh.Addrs()
	r.mu.Lock()
	r.addrs[b.id] = []string{"/ip4/127.0.0.1/tcp/1", "nonsense", good[0] + "/p2p/" + a.id.String()}
	r.mu.Unlock()
	time.Sleep(500 * time.Millisecond) // long enough for a dial to fail
	if a.peer(b).Connected {
		t.Fatal("a reached b by addresses that are not b's")
	}
	r.mu.Lock()
	r.addrs[b.id] = []string{good[0] + "/p2p/" + b.id.String()}
	r.mu.Unlock()
	eventually(t, "a reaches b", func() bool { return a.peer(b).Connected })
}

// When a process stops, however it does, it is soon not alive and not heard;
// when it comes back it is soon both.
func TestDeathAndReturn(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"closed", "killed"} {
		t.Run(way, func(t *testing.T) {
			r := newRegion(t, 3)
			r.start()
			a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
			if way == "closed" {
				must(t, c.mesh.Close())
			} else {
				c.mesh.Crash()
			}
			begin := time.Now()
			for _, n := range []*node{a, b} {
				eventually(t, "the stopped node is not connected", func() bool { return !n.peer(c).Connected })
				last := n.peer(c).LastHeard
				eventually(t, "the stopped node is not alive", func() bool { return !n.peer(c).Alive })
				if p := n.peer(c); p.LastHeard.After(last) {
					t.Fatal("a stopped node was heard")
				}
				if !n.peer(r.other(n, c)).Alive {
					t.Fatal("a running node is not held for alive")
				}
			}
			t.Logf("not alive after %v", time.Since(begin))
			a.say("1.2.9")
			last := a.peer(c).LastHeard
			begin = time.Now()
			c.start()
			r.meet(r.nodes...)
			t.Logf("back after %v", time.Since(begin))
			eventually(t, "it is heard again", func() bool { return a.peer(c).LastHeard.After(last) })
			eventually(t, "it has caught up", func() bool { return c.knows("1.2.9") })
		})
	}
}

// other is the third of three nodes.
func (r *region) other(a, b *node) *node {
	for _, n := range r.nodes {
		if n != a && n != b {
			return n
		}
	}
	return nil
}

// A line that goes dead without a word is noticed, and its stale connection
// does not stand in the way of a new one.
func TestDeadLine(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	for _, n := range r.nodes {
		n.tune = func(c *mesh.Config, _ *mesh.Deps) {
			c.Timing.Beat = 200 * time.Millisecond
			c.Timing.Probe, c.Timing.ProbeTimeout = 200*time.Millisecond, 100*time.Millisecond
			c.Timing.RedialMin, c.Timing.RedialMax = 50*time.Millisecond, 500*time.Millisecond
		}
	}
	lineTo := r.startOverLines(a, b, 0)
	for _, line := range lineTo {
		line.silence(true)
	}
	eventually(t, "the dead line is noticed at both ends", func() bool {
		pa, pb := a.peer(b), b.peer(a)
		return !pa.Connected && !pb.Connected && !pa.Alive && !pb.Alive
	})
	for _, line := range lineTo {
		line.silence(false)
	}
	r.meet(a, b)
	a.say("1.2.4")
	eventually(t, "facts travel again", func() bool { return b.knows("1.2.4") })
}

// startOverLines starts two nodes that reach each other over relays.
func (r *region) startOverLines(a, b *node, rate int) map[index.NodeID]*relay {
	return r.startOverLinesAs(a, b, rate, byTCP)
}

func (r *region) startOverLinesAs(a, b *node, rate int, listen ...string) map[index.NodeID]*relay {
	t := r.t.(*testing.T)
	lineTo := map[index.NodeID]*relay{}
	for _, n := range []*node{a, b} {
		tune := n.tune
		n.tune = func(c *mesh.Config, d *mesh.Deps) {
			c.Listen = listen
			if tune != nil {
				tune(c, d)
			}
		}
		n.start()
		lineTo[n.id] = newRelay(t, address(n), rate)
	}
	r.mu.Lock()
	for id, line := range lineTo {
		r.addrs[id] = []string{line.multiaddr()}
	}
	r.mu.Unlock()
	eventually(t, "they meet", func() bool { return a.peer(b).Connected && b.peer(a).Connected })
	dropAll(a, b) // they may have met before there were lines
	r.meet(a, b)
	return lineTo
}

// dropAll makes two nodes connect anew, by the addresses known now.
func dropAll(a, b *node) {
	for _, n := range []*node{a, b} {
		n.r.mu.Lock()
		n.r.barred[a.id], n.r.barred[b.id] = true, true
		n.r.mu.Unlock()
		n.mesh.Recheck()
	}
	eventually(a.r.t, "both are alone", func() bool {
		return len(a.mesh.Peers()) == 0 && len(b.mesh.Peers()) == 0 && a.mesh.Counters().ConnectedNow == 0 && b.mesh.Counters().ConnectedNow == 0
	})
	a.r.mu.Lock()
	clear(a.r.barred)
	a.r.mu.Unlock()
	a.mesh.Recheck()
	b.mesh.Recheck()
}

// A study that fills a slow line does not hold up facts.
func TestFactsOvertakeStudies(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	me, holder := r.nodes[0], r.nodes[1]
	r.startOverLines(me, holder, 4<<20)
	blocks := blocksOf(10, cas.MaxBlock)
	holder.give(me, blocks...)
	s := me.open(holder)
	defer s.Close()
	var came atomic.Int64
	flowing := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := s.Blocks(context.Background(), cidsOf(blocks), func(cas.Block) error {
			if came.Add(1) == 2 {
				close(flowing)
			}
			return nil
		})
		done <- err
	}()
	<-flowing
	begin := time.Now()
	holder.say("1.2.5")
	eventually(t, "the fact is here", func() bool { return me.knows("1.2.5") })
	t.Logf("a fact took %v", time.Since(begin))
	if n := came.Load(); n == int64(len(blocks)) {
		t.Fatal("the fact came only after the whole study")
	}
	must(t, <-done)
}

// Close is prompt, also while peers hang in a question, and can be repeated.
func TestClosePromptly(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	r.start()
	a, b := r.nodes[0], r.nodes[1]
	hung := make(chan error, 1)
	asked := make(chan struct{})
	b.study.mu.Lock() // the holder's node hangs
	go func() {
		close(asked)
		_, err := a.mesh.OpenStudy(context.Background(), b.id, mesh.StudyRequest{Study: "1.2.3", Origin: b.id, Purpose: "direct-care"})
		hung <- err
	}()
	<-asked
	begin := time.Now()
	must(t, a.mesh.Close())
	t.Logf("closed after %v", time.Since(begin))
	if err := <-hung; err == nil {
		t.Fatal("a question ended well on a mesh that was closed")
	}
	b.study.mu.Unlock()
	must(t, a.mesh.Close())
	if _, err := a.mesh.OpenStudy(context.Background(), b.id, mesh.StudyRequest{Study: "1"}); !errors.Is(err, mesh.ErrClosed) {
		t.Fatalf("a closed mesh says %v, want ErrClosed", err)
	}
	if _, err := a.mesh.FetchBlocks(context.Background(), nil, nil, nil); err != nil {
		t.Fatalf("fetching nothing: %v", err)
	}
}

func TestOpenNeedsItsParts(t *testing.T) {
	t.Parallel()
	n := newRegion(t, 1).nodes[0]
	cfg, deps := n.config()
	bad := cfg
	bad.Key = nil
	if _, err := mesh.Open(context.Background(), bad, deps); err == nil {
		t.Error("opened without a key")
	}
	bad = cfg
	bad.Listen = []string{"/ip4/127.0.0.1/tcp/not-a-port"}
	if _, err := mesh.Open(context.Background(), bad, deps); err == nil {
		t.Error("opened without an address to listen on")
	}
	none := deps
	none.Studies = nil
	if _, err := mesh.Open(context.Background(), cfg, none); err == nil {
		t.Error("opened without a study server")
	}
	// An address that is taken is no reason to stay away, but one to say so.
	other, err := mesh.Open(context.Background(), cfg, deps)
	must(t, err)
	bad = cfg
	bad.Listen = []string{other.Addrs()[0], "/ip4/127.0.0.1/tcp/0"}
	half, err := mesh.Open(context.Background(), bad, deps)
	must(t, err)
	if len(half.Addrs()) != 1 || n.log.count("is not served") != 1 {
		t.Errorf("with one address taken it listens on %v and says so %d times", half.Addrs(), n.log.count("is not served"))
	}
	must(t, half.Close())
	bad.Listen = bad.Listen[:1]
	if _, err := mesh.Open(context.Background(), bad, deps); err == nil {
		t.Error("opened although its only address is taken")
	}
	must(t, other.Close())
	// The port of a mesh that failed to open, or was closed, is free again.
	m, err := mesh.Open(context.Background(), cfg, deps)
	must(t, err)
	at := m.Addrs()
	must(t, m.Close())
	cfg.Listen = at
	m, err = mesh.Open(context.Background(), cfg, deps)
	must(t, err)
	must(t, m.Close())
}

// A peer in step with its own log may still know more of this node's.
func TestAgreeingIsMoreThanBeingInStep(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	for r.nodes[0].id[0]>>4 == r.nodes[1].id[0]>>4 { // they would share a bucket
		r = newRegion(t, 2)
	}
	me, other := r.nodes[0], r.nodes[1]
	me.start()
	h := rawHost(t, other.key)
	must(t, dial(t, h, me))
	digest := index.NewSync(me.index, index.SyncOptions{Self: other.id}).Met(me.id)[0].Message.(index.Digest)
	s := stream(t, h, me, logs)
	send := func(d index.Digest) {
		_, err := s.Write(frame(d.Encode()))
		must(t, err)
	}
	further := digest
	further.Buckets[me.id[0]>>4][0] ^= 1
	send(further)
	eventually(t, "the peer is in step", func() bool { return !me.peer(other).InStep.IsZero() })
	if !me.peer(other).Agreed.IsZero() {
		t.Fatal("the peer has this node's log further than this node has, and is said to agree")
	}
	send(digest)
	eventually(t, "the peer agrees", func() bool { return !me.peer(other).Agreed.IsZero() })
}

// A peer whose key has signed facts that never come is not in step, whatever its digest says.
func TestHeadsThatNeverComeAreLacking(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	me, other := r.nodes[0], r.nodes[1]
	me.start()
	h := rawHost(t, other.key)
	must(t, dial(t, h, me))
	digest := index.NewSync(me.index, index.SyncOptions{Self: other.id}).Met(me.id)[0].Message
	s := stream(t, h, me, logs)
	send := func(m index.Message) {
		_, err := s.Write(frame(m.Encode()))
		must(t, err)
	}
	send(digest)
	eventually(t, "the peer is in step", func() bool { return !me.peer(other).InStep.IsZero() })
	claim := other.say("1.2.9")
	send(index.Heads{Heads: []index.Head{claim}})
	eventually(t, "the claim is heard", func() bool {
		return slices.ContainsFunc(me.index.Lags(), func(l index.Lag) bool { return l.Node == other.id && l.Heard == claim.Seq })
	})
	told := me.peer(other)
	send(digest)
	forged := claim
	forged.Seq++
	send(index.Heads{Heads: []index.Head{forged}})
	ends(t, s) // all before it has been looked at
	after := me.peer(other)
	if !after.InStep.Equal(told.InStep) {
		t.Errorf("a peer that claims facts which did not come is in step since %v, before %v", after.InStep, told.InStep)
	}
	if !after.Agreed.After(told.Agreed) {
		t.Errorf("a peer that claims facts which did not come no longer tells what it has of this node's log: %v, before %v", after.Agreed, told.Agreed)
	}
}
