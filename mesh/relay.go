package mesh

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	pb "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"

	"github.com/priormesh/priormesh/index"
)

const (
	slotFor    = time.Hour        // a relay keeps a slot for so long
	slotRenew  = 20 * time.Minute // and is asked again after this
	slotRetry  = time.Minute      // or this, when it said no
	slotWithin = 10 * time.Second // for its answer
	maxRelays  = 8                // asked for one node
)

// newRelay makes a host carry circuits between members. A circuit has no limit
// of time or bytes: what it carries is a connection like any other, with TLS
// from end to end, and the limits of libp2p's public relays (2 minutes, 128
// KiB) would end it in the middle of an image. What is bounded is how many
// there are (see shares and resourceLimits).
func newRelay(h host.Host, allowed func(index.NodeID) bool, c *counters) (*circuit.Relay, error) {
	return circuit.New(h,
		circuit.WithResources(circuit.Resources{
			Limit:          nil,
			ReservationTTL: slotFor, MaxReservations: maxSlots, MaxReservationsPerIP: maxSlots, MaxReservationsPerASN: maxSlots,
			MaxCircuits: maxCircuitsOfPeer, BufferSize: circuitBuffer,
		}),
		circuit.WithACL(members{allowed}),
		circuit.WithReservationAddressFilter(func(multiaddr.Multiaddr) bool { return false }), // the roster has them
		circuit.WithMetricsTracer(relayCounters{c}),
	)
}

// members is the gate in the shape of the relay's door: slots and circuits are
// for nodes on the roster, at both ends. Who is not on it has no connection to
// ask by.
type members struct{ allowed func(index.NodeID) bool }

func (a members) AllowReserve(p peer.ID, _ multiaddr.Multiaddr) bool {
	id, ok := nodeOf(p)
	return ok && a.allowed(id)
}

func (a members) AllowConnect(from peer.ID, _ multiaddr.Multiaddr, to peer.ID) bool {
	return a.AllowReserve(from, nil) && a.AllowReserve(to, nil)
}

// relayCounters is the relay's MetricsTracer.
type relayCounters struct{ c *counters }

func (relayCounters) RelayStatus(bool)                    {}
func (r relayCounters) ConnectionOpened()                 { r.c.circuits.Add(1) }
func (r relayCounters) ConnectionClosed(time.Duration)    { r.c.circuits.Add(-1) }
func (relayCounters) ReservationAllowed(bool)             {}
func (relayCounters) ReservationClosed(int)               {}
func (relayCounters) ReservationRequestHandled(pb.Status) {}
func (r relayCounters) BytesTransferred(n int)            { r.c.relayedBytes.Add(uint64(n)) }
func (r relayCounters) ConnectionRequestHandled(s pb.Status) {
	if s != pb.Status_OK {
		r.c.circuitsRefused.Add(1)
	}
}

// slot is this node's place at a relay it is connected to, by which others
// reach it.
type slot struct {
	busy atomic.Bool
	next atomic.Int64 // when to ask, in nanoseconds since 1970
}

// keepSlot asks a connected relay for a slot, or for it to be kept.
func (m *Mesh) keepSlot(l *link) {
	if time.Now().UnixNano() < l.slot.next.Load() || l.slot.busy.Swap(true) {
		return
	}
	m.tasks.run(func() {
		defer l.slot.busy.Store(false)
		ctx, cancel := context.WithTimeout(network.WithNoDial(l.ctx, "only the steward dials"), slotWithin)
		defer cancel()
		wait := slotRenew
		if _, err := client.Reserve(ctx, m.host, peer.AddrInfo{ID: l.peer}); err != nil {
			m.log.Debug("a relay gives no slot", "node", l.id.String(), "error", err)
			wait = slotRetry
		}
		l.slot.next.Store(time.Now().Add(m.jitter(wait)).UnixNano())
	})
}

// circuitsBy lists the addresses of circuits by connected relays.
func circuitsBy(relays []peer.ID) []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	for _, r := range relays[:min(len(relays), maxRelays)] {
		if a, err := multiaddr.NewMultiaddr("/p2p/" + r.String() + RelayAddr); err == nil {
			out = append(out, a)
		}
	}
	return out
}
