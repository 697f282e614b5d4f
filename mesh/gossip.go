package mesh

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/priormesh/priormesh/index"
)

const (
	// memberlist wants addresses. A node's is made from its name: it never
	// changes, so memberlist never sees a conflict, and it leads nowhere.
	gossipPort = 7946

	gossipPacketSize = 8 << 10 // bytes memberlist fills a packet to
	gossipTimeout    = 3 * time.Second
	pushPullEvery    = 30 * time.Second
	forgetTheDead    = 30 * time.Second
	rejoinEvery      = time.Second
	closeFlush       = 300 * time.Millisecond // for queued packets to leave the queue
	closeGrace       = 50 * time.Millisecond  // and then the machine

	headMessage  = 1 // first byte of a user message that carries a head
	maxHeadBytes = 1 << 10
)

var errNotAMember = errors.New("not on the roster")

// gossip is memberlist, and what it is told and tells.
type gossip struct {
	m         *Mesh
	transport *transport
	list      *memberlist.Memberlist
	heads     memberlist.TransmitLimitedQueue
	rejoin    chan struct{}

	mu   sync.RWMutex // held while memberlist calls in
	over bool
}

func newGossip(m *Mesh) (*gossip, error) {
	g := &gossip{m: m, rejoin: make(chan struct{}, 1)}
	g.transport = newTransport(m)
	g.heads.RetransmitMult = 3
	g.heads.NumNodes = func() int { _, alive := m.peers.count(); return alive + 1 }

	t := m.cfg.Timing
	c := memberlist.DefaultLANConfig()
	c.Name = m.self.String()
	c.Transport = g.transport
	c.ProtocolVersion = memberlist.ProtocolVersionMax
	c.TCPTimeout = gossipTimeout
	c.RequireNodeNames = true
	c.EnableCompression = false // checkPacket refuses what is compressed
	c.UDPBufferSize = gossipPacketSize
	c.ProbeInterval, c.ProbeTimeout = t.Probe, t.ProbeTimeout
	c.GossipInterval = t.Gossip
	c.GossipToTheDeadTime = forgetTheDead
	c.PushPullInterval = pushPullEvery
	c.DisableTcpPings = true // a second stream of the same connection tells nothing new
	// A node that stopped is dead after 3 to 6 probe intervals of suspicion.
	c.SuspicionMult, c.SuspicionMaxTimeoutMult, c.AwarenessMaxMultiplier = 3, 2, 2
	c.Delegate, c.Events, c.Alive, c.Merge, c.Ping, c.Conflict = g, g, g, g, g, g
	c.Logger = log.New(debugLog{m.log}, "", 0)
	var err error
	g.list, err = memberlist.Create(c)
	return g, err
}

// close tells the others, within d, that this node leaves, and ends
// memberlist. Its goroutines may take a moment longer; they find nothing to
// do any more.
func (g *gossip) close(d time.Duration) {
	if err := g.list.Leave(d); err != nil {
		g.m.log.Debug("gossip did not take leave in time", "error", err)
	}
	g.flush()
	if err := g.list.Shutdown(); err != nil {
		g.m.log.Debug("gossip did not end well", "error", err)
	}
	g.mu.Lock()
	g.over = true
	g.mu.Unlock()
}

// flush gives what is queued, the leave above all, a moment to get out: closing
// the connection would overtake it.
func (g *gossip) flush() {
	links := g.m.peers.allLinks()
	if len(links) == 0 {
		return
	}
	for end := time.Now().Add(closeFlush); time.Now().Before(end); time.Sleep(closeGrace / 10) {
		if !slices.ContainsFunc(links, func(l *link) bool { return !l.packets.empty() }) {
			break
		}
	}
	time.Sleep(closeGrace)
}

// look makes join look again soon.
func (g *gossip) look() {
	select {
	case g.rejoin <- struct{}{}:
	default:
	}
}

// join meets, by a full exchange of states, every connected peer that
// memberlist does not hold for alive. It never ends: there is no seed, and a
// peer that comes back is met like one that comes.
func (g *gossip) join() {
	for {
		var strangers []string
		for _, l := range g.m.peers.allLinks() {
			g.m.peers.with(l.id, func(c *contact) {
				if !c.alive {
					strangers = append(strangers, l.id.String()+"/"+gossipAddr(l.id))
				}
			})
		}
		for _, s := range strangers {
			if g.m.ctx.Err() == nil {
				_, _ = g.list.Join([]string{s}) // tried again until it is alive
			}
		}
		timer := time.NewTimer(g.m.jitter(2 * rejoinEvery))
		select {
		case <-g.rejoin:
		case <-timer.C:
		case <-g.m.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// announce gossips a head whose log this node holds. An older head of the
// same node that is still queued is dropped.
func (g *gossip) announce(h index.Head) {
	g.heads.QueueBroadcast(headBroadcast{h.Node.String(), encodeHeadMessage(g.m.self, h)})
}

// A head is gossiped as the byte 1, the 32 bytes of the node that sends this
// copy and holds the log up to the head, and the head as index encodes it.
func encodeHeadMessage(holder index.NodeID, h index.Head) []byte {
	return append(append([]byte{headMessage}, holder[:]...), h.Encode()...)
}

func decodeHeadMessage(b []byte) (holder index.NodeID, h index.Head, err error) {
	if len(b) < 1+len(holder) || len(b) > maxHeadBytes || b[0] != headMessage {
		return holder, h, fmt.Errorf("%w: gossip of %d bytes is not a head", ErrBadMessage, len(b))
	}
	copy(holder[:], b[1:])
	h, err = index.DecodeHead(slices.Clone(b[1+len(holder):]))
	return holder, h, err
}

type headBroadcast struct {
	name    string
	message []byte
}

func (b headBroadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(headBroadcast)
	return ok && o.name == b.name
}
func (b headBroadcast) Message() []byte { return b.message }
func (b headBroadcast) Finished()       {}
func (b headBroadcast) Name() string    { return b.name }

// What follows is called by memberlist, some of it with its lock held: it may
// neither block nor call memberlist.

// NodeMeta has nothing to say: who a node is, the roster knows.
func (g *gossip) NodeMeta(int) []byte { return nil }

// NotifyMsg takes a head heard by gossip.
func (g *gossip) NotifyMsg(b []byte) {
	holder, h, err := decodeHeadMessage(b)
	if err != nil {
		g.m.counters.gossipRefused.Add(1)
		return
	}
	g.m.logs.gossiped(holder, h)
}

// GetBroadcasts hands out queued heads.
func (g *gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.heads.GetBroadcasts(overhead, limit)
}

// LocalState and MergeRemoteState have no use here: logs are kept in step by
// a protocol of their own.
func (g *gossip) LocalState(bool) []byte        { return nil }
func (g *gossip) MergeRemoteState([]byte, bool) {}

// NotifyAlive refuses a name that is not on the roster or that does not fit
// its address, and versions with which memberlist would refuse everybody.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	id, err := checkNode(n)
	if err != nil {
		g.m.counters.gossipRefused.Add(1)
		return err
	}
	const speak = memberlist.ProtocolVersionMax
	if n.PCur != speak || n.PMin > speak || n.PMax < speak || n.DMin != 0 || n.DMax != 0 || n.DCur != 0 {
		g.m.counters.gossipRefused.Add(1)
		return fmt.Errorf("it speaks version %d (%d to %d) of gossip, this node speaks %d", n.PCur, n.PMin, n.PMax, speak)
	}
	if !g.member(id) {
		return errNotAMember
	}
	return nil
}

// NotifyMerge refuses a peer's whole list when a name in it does not fit its
// address: such a list is forged. Names not on the roster are left to
// NotifyAlive, one by one: the peer's roster may be newer than ours.
func (g *gossip) NotifyMerge(nodes []*memberlist.Node) error {
	for _, n := range nodes {
		if _, err := checkNode(n); err != nil {
			g.m.counters.gossipRefused.Add(1)
			return err
		}
	}
	return nil
}

func (g *gossip) member(id index.NodeID) bool {
	if id == g.m.self {
		return true
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	return !g.over && g.m.allowed(id)
}

// NotifyJoin, NotifyLeave and NotifyUpdate keep who is alive.
func (g *gossip) NotifyJoin(n *memberlist.Node)   { g.setAlive(n, true) }
func (g *gossip) NotifyLeave(n *memberlist.Node)  { g.setAlive(n, false) }
func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.setAlive(n, true) }

func (g *gossip) setAlive(n *memberlist.Node, alive bool) {
	id, err := index.ParseNodeID(n.Name)
	if err != nil || id == g.m.self {
		return
	}
	g.m.peers.with(id, func(c *contact) { c.alive = alive })
	if !alive {
		g.look()
	}
}

// NotifyConflict cannot happen: an address follows from its name.
func (g *gossip) NotifyConflict(_, _ *memberlist.Node) { g.m.counters.gossipRefused.Add(1) }

// AckPayload has nothing to add.
func (g *gossip) AckPayload() []byte { return nil }

// NotifyPingComplete keeps the round trip time.
func (g *gossip) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, _ []byte) {
	if id, err := index.ParseNodeID(n.Name); err == nil {
		g.m.peers.with(id, func(c *contact) { c.rtt = rtt })
	}
}

// checkNode parses a name and compares its address.
func checkNode(n *memberlist.Node) (index.NodeID, error) {
	id, err := index.ParseNodeID(n.Name)
	if err != nil {
		return id, err
	}
	if !n.Addr.Equal(gossipIP(id)) || n.Port != gossipPort {
		return id, fmt.Errorf("%w: a name does not fit its address", ErrBadMessage)
	}
	return id, nil
}

// gossipIP is a node's address for memberlist: a unique local address
// (RFC 4193) whose other 120 bits are of the SHA-256 of the name.
func gossipIP(id index.NodeID) net.IP {
	sum := sha256.Sum256(id[:])
	return append(net.IP{0xfd}, sum[:net.IPv6len-1]...)
}

func gossipAddr(id index.NodeID) string {
	return net.JoinHostPort(gossipIP(id).String(), strconv.Itoa(gossipPort))
}

// debugLog gives memberlist's log to slog: whatever it worries about, the
// mesh has its own words for.
type debugLog struct{ log *slog.Logger }

func (d debugLog) Write(b []byte) (int, error) {
	if d.log.Enabled(context.Background(), slog.LevelDebug) {
		d.log.Debug("memberlist", "says", strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// serve takes an inbound gossip stream. Its first byte says which kind.
func (g *gossip) serve(s network.Stream, from index.NodeID) error { return g.transport.serve(s, from) }
