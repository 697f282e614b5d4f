package mesh

import (
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/priormesh/priormesh/index"
)

// gate is the libp2p ConnectionGater: who is not on the roster gets no
// connection, whichever side dialled.
type gate struct {
	allowed func(index.NodeID) bool
	refused func() // counts
	once    *once
	log     *slog.Logger
}

func (g *gate) InterceptPeerDial(p peer.ID) bool {
	id, ok := nodeOf(p)
	return ok && g.allowed(id)
}

func (g *gate) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return true }

// InterceptAccept knows no name yet. How many may knock at once is bounded by
// the resource manager.
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }

func (g *gate) InterceptSecured(dir network.Direction, p peer.ID, at network.ConnMultiaddrs) bool {
	id, ok := nodeOf(p)
	if ok && g.allowed(id) {
		g.once.forget(p.String())
		return true
	}
	g.refused()
	if dir == network.DirInbound && g.once.first(p.String()) {
		g.log.Warn("a node was refused: it is not on the roster; if it belongs to the region, have its card admitted: that of a new trust by the members, that of a further node of a member at a running node of that member",
			"node", p.String(), "from", at.RemoteMultiaddr().String())
	}
	return false
}

func (g *gate) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	id, ok := nodeOf(c.RemotePeer())
	return ok && g.allowed(id), 0
}

// nodeOf returns the node that a peer ID names. Only Ed25519 keys name nodes.
func nodeOf(p peer.ID) (index.NodeID, bool) {
	key, err := p.ExtractPublicKey()
	if err != nil || key.Type() != pb.KeyType_Ed25519 {
		return index.NodeID{}, false
	}
	raw, err := key.Raw()
	if err != nil || len(raw) != len(index.NodeID{}) {
		return index.NodeID{}, false
	}
	return index.NodeID(raw), true
}

// peerOf returns the peer ID that names a node.
func peerOf(id index.NodeID) peer.ID {
	return peer.ID(append([]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}, id[:]...))
}

// once remembers what has been said already, so that it is said once. When it
// is full it forgets everything, at most once an hour, and keeps silent until
// then: a stranger with endless names cannot fill the log.
type once struct {
	max int
	now func() time.Time

	mu   sync.Mutex
	said map[string]bool
	full time.Time
}

func newOnce(max int, now func() time.Time) *once {
	return &once{max: max, now: now, said: make(map[string]bool)}
}

func (o *once) first(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.said[what] {
		return false
	}
	if len(o.said) >= o.max {
		now := o.now()
		if now.Sub(o.full) < time.Hour {
			return false
		}
		o.full = now
		clear(o.said)
	}
	o.said[what] = true
	return true
}

func (o *once) forget(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.said, what)
}
