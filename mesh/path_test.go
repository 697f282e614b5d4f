package mesh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

const (
	byTCP  = "/ip4/127.0.0.1/tcp/0"
	byQUIC = "/ip4/127.0.0.1/udp/0/quic-v1"
	hop    = "/libp2p/circuit/relay/0.2.0/hop"
)

// listening makes nodes listen on these addresses, patient as tests are.
func listening(nodes []*node, more func(*mesh.Config), addrs ...string) {
	for _, n := range nodes {
		n.tune = func(c *mesh.Config, _ *mesh.Deps) {
			c.Listen, c.UseRelays = addrs, true
			c.Timing.RelayAfter, c.Timing.RedialMin, c.Timing.RedialMax = 100*time.Millisecond, 50*time.Millisecond, 500*time.Millisecond
			if more != nil {
				more(c)
			}
		}
	}
}

// way waits until both ends of a connection say that it takes a way.
func (r *region) way(a, b *node, what string, ok func(mesh.Path) bool) {
	r.t.Helper()
	eventually(r.t, string(a.trust)+" and "+string(b.trust)+" are connected "+what, func() bool {
		pa, pb := a.peer(b), b.peer(a)
		return pa.Connected && pb.Connected && ok(pa.Path) && ok(pb.Path)
	})
}

func direct(transport string) func(mesh.Path) bool {
	return func(p mesh.Path) bool {
		return p.Transport == transport && !p.Relayed() && !p.Since.IsZero() && p.Remote != ""
	}
}

func relayedBy(n *node) func(mesh.Path) bool {
	return func(p mesh.Path) bool { return p.Relay == n.id }
}

func relayed(p mesh.Path) bool { return p.Relayed() }

// Facts and studies travel by every transport and family, and which it is can
// be seen.
func TestTransports(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		a, b []string
		want string
	}{
		"TCP":                    {[]string{byTCP}, []string{byTCP}, "tcp"},
		"QUIC":                   {[]string{byQUIC}, []string{byQUIC}, "quic"},
		"both":                   {[]string{byTCP, byQUIC}, []string{byTCP, byQUIC}, "tcp"},
		"one asks for QUIC":      {[]string{byQUIC, byTCP}, []string{byTCP, byQUIC}, "quic"},
		"IPv6 by TCP":            {[]string{"/ip6/::1/tcp/0"}, []string{"/ip6/::1/tcp/0"}, "tcp"},
		"IPv6 by QUIC":           {[]string{"/ip6/::1/udp/0/quic-v1"}, []string{"/ip6/::1/udp/0/quic-v1"}, "quic"},
		"one only dials":         {[]string{byTCP}, nil, "tcp"},
		"one only dials by QUIC": {[]string{byQUIC}, nil, "quic"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegion(t, 2)
			a, b := r.nodes[0], r.nodes[1]
			listening(r.nodes[:1], nil, c.a...)
			listening(r.nodes[1:], nil, c.b...)
			r.start()
			r.way(a, b, "by "+c.want, direct(c.want))
			r.well(a, b)
			r.well(b, a)
		})
	}
}

// Two nodes that only dial reach each other by a third, for facts and for
// studies.
func TestRelayed(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	carrier, a, b := r.nodes[0], r.nodes[1], r.nodes[2]
	listening(r.nodes[:1], func(c *mesh.Config) { c.Relay = true }, byTCP, byQUIC)
	listening(r.nodes[1:], nil)
	r.start()
	r.way(a, b, "by the relay", relayedBy(carrier))
	r.way(a, carrier, "directly", direct("tcp"))
	r.well(a, b)
	r.well(b, a)
	blocks := blocksOf(20, cas.MaxBlock) // far more than a public relay carries
	a.give(b, blocks...)
	s := b.open(a)
	defer s.Close()
	var basket basket
	missing, err := s.Blocks(context.Background(), cidsOf(blocks), basket.got)
	must(t, err)
	if len(missing) > 0 {
		t.Fatalf("%d blocks did not come", len(missing))
	}
	basket.check(t, blocks)
	if c := carrier.mesh.Counters(); c.CircuitsNow == 0 || c.RelayedBytes < 20*cas.MaxBlock {
		t.Fatalf("the relay counts %d circuits and %d bytes", c.CircuitsNow, c.RelayedBytes)
	}
	if c := carrier.mesh.Counters(); c.BlocksServed > 6 {
		t.Fatalf("the relay served %d blocks itself", c.BlocksServed)
	}
}

// When a relay is gone, however it goes, another takes its place.
func TestRelayVanishes(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 4)
	relays, a, b := r.nodes[:2], r.nodes[2], r.nodes[3]
	listening(relays, func(c *mesh.Config) { c.Relay = true }, byTCP)
	listening(r.nodes[2:], nil)
	r.start()
	r.way(a, b, "by a relay", relayed)
	gone, other := relays[0], relays[1]
	if a.peer(b).Path.Relay == other.id {
		gone, other = other, gone
	}
	gone.mesh.Crash()
	r.way(a, b, "by the other relay", relayedBy(other))
	r.well(a, b)
}

// A direct way, once there is one, takes the place of a relayed one; and of
// two connections one stays.
func TestDirectReplacesRelayed(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	carrier, a, b := r.nodes[0], r.nodes[1], r.nodes[2]
	listening(r.nodes[:1], func(c *mesh.Config) { c.Relay = true }, byTCP)
	listening(r.nodes[1:2], nil)
	listening(r.nodes[2:], nil, byTCP)
	for _, n := range r.nodes {
		n.start()
		if n == b { // as from behind a firewall
			r.mu.Lock()
			r.addrs[b.id] = nil
			r.mu.Unlock()
		}
	}
	r.way(a, b, "by the relay", relayedBy(carrier))
	r.mu.Lock()
	r.addrs[b.id] = b.mesh.Addrs()
	r.mu.Unlock()
	r.way(a, b, "directly", direct("tcp"))
	eventually(t, "one connection is left", func() bool { return a.mesh.Conns(b.id) == 1 && b.mesh.Conns(a.id) == 1 })
	r.well(a, b)
	r.well(b, a)
}

// Of two connections between the same nodes the worse is closed.
func TestOneConnectionStays(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	listening(r.nodes[:1], nil, byTCP)
	listening(r.nodes[1:], nil, byTCP, byQUIC)
	r.start()
	// A second connection between the same two, as when both dial at once.
	h := rawHost(t, a.key)
	id, err := peer.Decode(b.id.String())
	must(t, err)
	byQUIC, err := multiaddr.NewMultiaddr(b.mesh.Addrs()[1])
	must(t, err)
	must(t, h.Connect(context.Background(), peer.AddrInfo{ID: id, Addrs: []multiaddr.Multiaddr{byQUIC}}))
	eventually(t, "one connection is left", func() bool {
		return len(h.Network().Peers()) == 0 && a.mesh.Conns(b.id) == 1 && b.mesh.Conns(a.id) == 1
	})
	r.way(a, b, "by TCP", direct("tcp"))
	r.well(a, b)
}

// Of two connections the better is not kept when its path has gone dead: a node
// that comes back by another way would be shut out.
func TestDeadConnectionIsNotKept(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	lineTo := r.startOverLinesAs(a, b, 0, byTCP, byQUIC)
	for _, line := range lineTo {
		line.silence(true)
	}
	h := rawHost(t, b.key) // b, from elsewhere
	id, err := peer.Decode(a.id.String())
	must(t, err)
	byQUIC, err := multiaddr.NewMultiaddr(a.mesh.Addrs()[1])
	must(t, err)
	must(t, h.Connect(context.Background(), peer.AddrInfo{ID: id, Addrs: []multiaddr.Multiaddr{byQUIC}}))
	s := stream(t, h, a, logs)
	stop := make(chan struct{})
	var talk sync.WaitGroup
	talk.Go(func() { // it has more to say than the silence that a connection is left for
		for {
			if _, err := s.Write(frame(nil)); err != nil {
				t.Errorf("the live connection was closed: %v", err)
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	defer talk.Wait()
	defer close(stop)
	eventually(t, "the live connection alone is left", func() bool {
		return a.mesh.Conns(b.id) == 1 && a.peer(b).Path.Transport == "quic"
	})
}

// tap is a host whose streams can be overheard: what a relay can see.
type tap struct {
	host.Host
	mu   sync.Mutex
	seen bytes.Buffer
}

func (h *tap) SetStreamHandler(p protocol.ID, f network.StreamHandler) {
	h.Host.SetStreamHandler(p, func(s network.Stream) { f(&tapped{s, h}) })
}

func (h *tap) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	s, err := h.Host.NewStream(ctx, p, ids...)
	if err != nil {
		return nil, err
	}
	return &tapped{s, h}, nil
}

type tapped struct {
	network.Stream
	h *tap
}

func (s *tapped) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	s.h.mu.Lock()
	s.h.seen.Write(b[:n])
	s.h.mu.Unlock()
	return n, err
}

// A relay carries every byte and can read none of them.
func TestRelaySeesCiphertextOnly(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	curious, a, b := r.nodes[0], r.nodes[1], r.nodes[2]
	h := &tap{Host: rawHost(t, curious.key)}
	relay, err := circuit.New(h, circuit.WithInfiniteLimits())
	must(t, err)
	t.Cleanup(func() { must(t, relay.Close()) })
	r.addrs[curious.id] = []string{h.Addrs()[0].String(), mesh.RelayAddr}
	listening(r.nodes[1:], func(c *mesh.Config) { c.Timing.Beat = time.Minute }) // the relay says nothing itself
	a.start()
	b.start()
	r.way(a, b, "by the relay", relayedBy(curious))
	const secret, saidUID = "a name that nobody else may read", "1.2.826.0.1.3680043.99.4711"
	a.say(saidUID)
	eventually(t, "the fact is there", func() bool { return b.knows(saidUID) })
	data := bytes.Repeat([]byte(secret), 10_000)
	block := cas.Block{CID: cas.Sum(data), Data: data}
	a.give(b, block)
	s := b.open(a)
	defer s.Close()
	var basket basket
	_, err = s.Blocks(context.Background(), cidsOf([]cas.Block{block}), basket.got)
	must(t, err)
	basket.check(t, []cas.Block{block})
	h.mu.Lock()
	seen := bytes.Clone(h.seen.Bytes())
	h.mu.Unlock()
	if len(seen) < len(data) || !bytes.Contains(seen, []byte("/tls/1.0.0")) {
		t.Fatalf("the test overheard %d bytes, which cannot be all", len(seen))
	}
	for _, text := range []string{secret, saidUID, uid, "/priormesh/", "/ipfs/", "direct-care", "T01"} {
		if bytes.Contains(seen, []byte(text)) {
			t.Errorf("the relay can read %q", text)
		}
	}
	if bytes.Contains(seen, block.CID.Bytes()) {
		t.Error("the relay can read what was asked for")
	}
}

// Whoever is not on the roster gets no slot and no circuit, cannot tell who
// waits at the relay, and a member gets none to anybody who is not on it.
func TestRelayIsForMembers(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	carrier, a, b := r.nodes[0], r.nodes[1], r.nodes[2]
	listening(r.nodes[:1], func(c *mesh.Config) { c.Relay = true }, byTCP)
	listening(r.nodes[1:], nil)
	r.start()
	r.way(a, b, "by the relay", relayedBy(carrier))
	circuits := carrier.mesh.Counters().CircuitsNow
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	h := rawHost(t, key)
	carrierID, err := peer.Decode(carrier.id.String())
	must(t, err)
	for _, target := range []index.NodeID{a.id, {1, 2, 3}} {
		_ = dial(t, h, carrier) // TLS 1.3 tells the dialling side of a refusal only afterwards
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if _, err := client.Reserve(network.WithNoDial(ctx, "test"), h, peer.AddrInfo{ID: carrierID}); err == nil {
			t.Fatal("a stranger got a slot")
		}
		cancel()
		s, err := tryStream(h, carrier, hop)
		if err != nil {
			continue
		}
		_, _ = s.Write(connectMessage(target))
		_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := s.Read(make([]byte, 1)); err == nil {
			t.Fatalf("a stranger read %d bytes of the relay", n)
		}
	}
	if now := carrier.mesh.Counters().CircuitsNow; now > circuits {
		t.Fatalf("%d circuits are carried, %d were before the stranger came", now, circuits)
	}
	// A member, or who has its key.
	must(t, a.mesh.Close())
	h = rawHost(t, a.key)
	must(t, dial(t, h, carrier))
	for name, target := range map[string]index.NodeID{"a stranger": {1, 2, 3}, "itself": carrier.id} {
		s := stream(t, h, carrier, hop)
		_, err := s.Write(connectMessage(target))
		must(t, err)
		_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer, err := io.ReadAll(s)
		must(t, err)
		if !bytes.Contains(answer, []byte{0x28, 0xca, 0x01}) { // status 202, PERMISSION_DENIED
			t.Errorf("a circuit to %s: %x", name, answer)
		}
	}
	if carrier.mesh.Counters().CircuitsRefused < 2 {
		t.Error("refused circuits are not counted")
	}
}

// connectMessage asks a relay for a circuit (circuit v2's HopMessage).
func connectMessage(to index.NodeID) []byte {
	id := append([]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}, to[:]...)
	p := append([]byte{0x0a, byte(len(id))}, id...)
	m := append([]byte{0x08, 0x01, 0x12, byte(len(p))}, p...)
	return append([]byte{byte(len(m))}, m...)
}

// A node that has expelled another is not reached by it through a relay that
// has not heard of that yet.
func TestExpelledIsRefusedOverRelays(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	carrier, a, b := r.nodes[0], r.nodes[1], r.nodes[2]
	listening(r.nodes[:1], func(c *mesh.Config) { c.Relay = true }, byTCP)
	listening(r.nodes[1:], nil)
	tuned := b.tune
	b.tune = func(c *mesh.Config, d *mesh.Deps) {
		tuned(c, d)
		allowed := d.Allowed
		d.Allowed = func(id index.NodeID) bool { return id != a.id && allowed(id) }
	}
	for _, n := range r.nodes {
		n.start()
	}
	r.meet(carrier, a)
	r.meet(carrier, b)
	eventually(t, "the expelled node was refused", func() bool { return b.mesh.Counters().RefusedConnections > 0 })
	if a.peer(b).Connected || !a.peer(b).LastHeard.IsZero() {
		t.Fatal("the expelled node hears who expelled it")
	}
}

// A path that goes dead without a word is noticed at both ends within 15 s,
// with a node's own patience, and dialled anew when it leads somewhere again.
func TestDeadPathIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	for _, n := range r.nodes {
		n.tune = func(c *mesh.Config, _ *mesh.Deps) { c.Timing = mesh.Timing{} }
	}
	lineTo := r.startOverLines(a, b, 0)
	for _, line := range lineTo {
		line.silence(true)
	}
	began := time.Now()
	for a.peer(b).Connected || b.peer(a).Connected {
		if time.Since(began) > 15*time.Second {
			t.Fatal("a dead path is taken for a live one after 15 s")
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("noticed after %v", time.Since(began))
	for _, line := range lineTo {
		line.silence(false)
	}
	r.meet(a, b)
}

// So it is with QUIC.
func TestDeadPathByQUIC(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	listening(r.nodes[:1], func(c *mesh.Config) { c.Timing.Beat = time.Second }, byQUIC)
	listening(r.nodes[1:], func(c *mesh.Config) { c.Timing.Beat = time.Second })
	a.start()
	line := newUDPLine(t, strings.NewReplacer("/ip4/", "", "/udp/", ":", "/quic-v1", "").Replace(a.mesh.Addrs()[0]))
	r.mu.Lock()
	r.addrs[a.id] = []string{"/ip4/127.0.0.1/udp/" + line.port() + "/quic-v1"}
	r.mu.Unlock()
	b.start()
	r.way(a, b, "by QUIC", direct("quic"))
	line.silence(true)
	eventually(t, "the dead path is noticed at both ends", func() bool { return !a.peer(b).Connected && !b.peer(a).Connected })
	line.silence(false)
	r.way(a, b, "by QUIC", direct("quic"))
	r.well(a, b)
}

// udpLine forwards datagrams, or swallows them.
type udpLine struct {
	in   *net.UDPConn
	to   *net.UDPAddr
	done sync.WaitGroup

	mu   sync.Mutex
	dead bool
	outs map[string]*net.UDPConn
}

func newUDPLine(t *testing.T, to string) *udpLine {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp4", to)
	must(t, err)
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	l := &udpLine{in: in, to: addr, outs: map[string]*net.UDPConn{}}
	l.done.Go(l.forward)
	t.Cleanup(func() {
		_ = in.Close()
		l.mu.Lock()
		for _, out := range l.outs {
			_ = out.Close()
		}
		l.mu.Unlock()
		l.done.Wait()
	})
	return l
}

func (l *udpLine) port() string {
	_, port, _ := net.SplitHostPort(l.in.LocalAddr().String())
	return port
}

func (l *udpLine) silence(dead bool) {
	l.mu.Lock()
	l.dead = dead
	l.mu.Unlock()
}

func (l *udpLine) swallows() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *udpLine) forward() {
	b := make([]byte, 2048)
	for {
		n, from, err := l.in.ReadFromUDP(b)
		if err != nil {
			return
		}
		l.mu.Lock()
		out := l.outs[from.String()]
		if out == nil {
			if out, err = net.DialUDP("udp4", nil, l.to); err == nil {
				l.outs[from.String()] = out
				l.done.Go(func() { l.back(out, from) })
			}
		}
		l.mu.Unlock()
		if err == nil && !l.swallows() {
			_, _ = out.Write(b[:n])
		}
	}
}

func (l *udpLine) back(out *net.UDPConn, to *net.UDPAddr) {
	b := make([]byte, 2048)
	for {
		n, err := out.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && !l.swallows() {
			_, _ = l.in.WriteToUDP(b[:n], to)
		}
	}
}

// What a node tells others of its addresses.
func TestAnnouncedAddresses(t *testing.T) {
	t.Parallel()
	many := make([]string, 40)
	for i := range many {
		many[i] = "/dns4/mesh.example/tcp/4001"
	}
	for name, c := range map[string]struct {
		listen, announce []string
		relay            bool
		want             func([]string) bool
	}{
		"TCP first": {[]string{byTCP, byQUIC}, nil, false, func(a []string) bool {
			return len(a) == 2 && strings.Contains(a[0], "/tcp/") && strings.HasSuffix(a[1], "/quic-v1")
		}},
		"QUIC first": {[]string{byQUIC, byTCP}, nil, false, func(a []string) bool { return len(a) == 2 && strings.HasSuffix(a[0], "/quic-v1") }},
		"no address": {nil, nil, false, func(a []string) bool { return len(a) == 0 }},
		"a relay":    {[]string{byTCP}, nil, true, func(a []string) bool { return len(a) == 2 && a[1] == mesh.RelayAddr }},
		"another address": {[]string{byTCP}, []string{"/dns4/mesh.example/tcp/4001"}, false, func(a []string) bool {
			return len(a) == 1 && a[0] == "/dns4/mesh.example/tcp/4001"
		}},
		"too many": {[]string{byTCP}, many, true, func(a []string) bool { return len(a) == index.MaxAddrs && a[len(a)-1] == mesh.RelayAddr }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegion(t, 1)
			listening(r.nodes, func(cfg *mesh.Config) { cfg.Announce, cfg.Relay = c.announce, c.relay }, c.listen...)
			r.start()
			if got := r.nodes[0].mesh.Addrs(); !c.want(got) {
				t.Errorf("it tells %q", got)
			}
		})
	}
}
