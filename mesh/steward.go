package mesh

import (
	"context"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"

	"github.com/priormesh/priormesh/index"
)

const (
	stewardRound = time.Second // the steward looks at least this often
	maxDials     = 16          // dials under way at once
	maxAddrs     = 16          // addresses tried of one member
	staleBeats   = 6           // a connected peer silent for so many beats is not there
	unheardDials = 2           // connections closed before a word, until that is said in the log
)

// dialState is how dialling a peer goes. The steward alone decides; a dial
// that ended only leaves its outcome here.
type dialState struct {
	busy    bool
	wait    time.Duration // before the next dial; doubles with each failure
	next    time.Time
	addrs   string    // of the last dial
	opened  time.Time // when the last dial succeeded; zero once judged
	unheard int       // connections in a row that ended before a word
}

// steward keeps links for those who are connected and dials those who are
// not. It looks at how things are, not at events, so that no event can be
// missed or come in the wrong order.
func (m *Mesh) steward() {
	wake := func(network.Network, network.Conn) { m.look() }
	events := &network.NotifyBundle{ConnectedF: wake, DisconnectedF: wake}
	m.host.Network().Notify(events)
	defer m.host.Network().StopNotify(events)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if m.recheck.Swap(false) {
			m.dropStrangers()
		}
		m.reconcile()
		timer.Reset(min(m.dialDue(), stewardRound))
		select {
		case <-m.ctx.Done():
			for _, l := range m.peers.allLinks() {
				m.endLink(l)
			}
			return
		case <-m.wake:
		case <-timer.C:
		}
	}
}

// look makes the steward look again soon.
func (m *Mesh) look() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Recheck soon closes the connections of peers that are not allowed any more,
// and dials those that are newly allowed. Call it when the roster changed; it
// does not wait, so it may be called from within a watcher of the index.
func (m *Mesh) Recheck() {
	m.recheck.Store(true)
	m.look()
}

func (m *Mesh) dropStrangers() {
	for _, c := range m.host.Network().Conns() {
		if id, ok := nodeOf(c.RemotePeer()); !ok || !m.allowed(id) {
			m.log.Warn("a connection is closed: its node is not on the roster any more", "node", c.RemotePeer().String())
			_ = c.CloseWithError(network.ConnGated)
		}
	}
	m.peers.mu.Lock()
	defer m.peers.mu.Unlock()
	for _, c := range m.peers.contacts {
		c.dial.wait, c.dial.next = 0, time.Time{}
	}
}

func (m *Mesh) reconcile() {
	connected := make(map[index.NodeID]map[string]bool)
	opened := make(map[index.NodeID]time.Time)
	for _, c := range m.host.Network().Conns() {
		id, ok := nodeOf(c.RemotePeer())
		if !ok || c.IsClosed() {
			continue
		}
		if connected[id] == nil {
			connected[id] = make(map[string]bool)
		}
		if at := c.Stat().Opened; opened[id].IsZero() || at.Before(opened[id]) {
			opened[id] = at
		}
		connected[id][c.ID()] = true
	}
	now := time.Now()
	for _, l := range m.peers.allLinks() {
		conns := connected[l.id]
		if overlap(l.conns, conns) {
			l.conns = conns
			delete(connected, l.id)
			m.dropStale(l, now)
			continue
		}
		m.endLink(l)
	}
	for id, conns := range connected {
		m.log.Info("a node is connected", "node", id.String())
		m.startLink(id, conns, opened[id])
		m.gossip.look()
	}
}

func overlap(a, b map[string]bool) bool {
	for k := range a {
		if b[k] {
			return true
		}
	}
	return false
}

func (m *Mesh) endLink(l *link) {
	l.cancel()
	m.peers.mu.Lock()
	if m.peers.links[l.id] == l {
		delete(m.peers.links, l.id)
	}
	m.peers.mu.Unlock()
	if m.ctx.Err() == nil {
		m.log.Info("the connection to a node is gone", "node", l.id.String())
	}
}

// dropStale closes the connections of a peer whose machine or line went
// without a goodbye: TCP would notice only after minutes, and until then
// would be preferred to the peer's new connection.
func (m *Mesh) dropStale(l *link, now time.Time) {
	limit := m.silence()
	var heard time.Time
	m.peers.with(l.id, func(c *contact) { heard = c.heardAt })
	if now.Sub(l.since) < limit || now.Sub(heard) < limit {
		return
	}
	m.log.Info("a connected node has been silent for too long; its connection is closed and dialled anew", "node", l.id.String())
	_ = m.host.Network().ClosePeer(l.peer)
}

// dialDue dials whom it is time to dial and returns how long until the next.
func (m *Mesh) dialDue() time.Duration {
	next := stewardRound
	known := m.deps.Addrs()
	now := time.Now()
	m.peers.mu.Lock()
	busy := 0
	for _, c := range m.peers.contacts {
		if c.dial.busy {
			busy++
		}
	}
	m.peers.mu.Unlock()
	for id, addrs := range known {
		if id == m.self || len(addrs) == 0 || !m.allowed(id) || m.peers.link(id) != nil {
			continue
		}
		var due, unwanted, heard bool
		m.peers.with(id, func(c *contact) {
			d := &c.dial
			if d.busy {
				return
			}
			if !d.opened.IsZero() {
				if c.heardAt.After(d.opened) {
					d.wait, d.unheard, heard = 0, 0, true
				} else {
					d.unheard++
					unwanted = d.unheard >= unheardDials
				}
				d.opened = time.Time{}
				m.backOff(d, now)
			}
			if all := strings.Join(addrs, " "); all != d.addrs {
				d.addrs, d.wait, d.next = all, 0, time.Time{}
			}
			if d.next.After(now) {
				next = min(next, d.next.Sub(now))
				return
			}
			if busy < maxDials {
				due, d.busy = true, true
				busy++
			}
		})
		if heard {
			m.unwanted.forget(id.String())
		}
		if unwanted && m.unwanted.first(id.String()) {
			m.log.Warn("a node of the region closes every connection before a word is said: most likely it does not know yet that this node was admitted; if nobody has admitted this trust, give a member its card and ask for that",
				"node", id.String())
		}
		if due {
			m.tasks.run(func() { m.dial(id, addrs) })
		}
	}
	return max(next, 10*time.Millisecond)
}

// silence is how long a connected peer may say nothing: it beats far more
// often.
func (m *Mesh) silence() time.Duration { return staleBeats * m.cfg.Timing.Beat }

func (m *Mesh) backOff(d *dialState, now time.Time) {
	d.wait = min(max(2*d.wait, m.cfg.Timing.RedialMin), m.cfg.Timing.RedialMax)
	d.next = now.Add(m.jitter(d.wait))
}

func (m *Mesh) dial(id index.NodeID, addrs []string) {
	ctx, cancel := context.WithTimeout(m.ctx, dialTimeout)
	defer cancel()
	p := peerOf(id)
	info := peer.AddrInfo{ID: p}
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		full, err := multiaddr.NewMultiaddr(a)
		if err != nil {
			m.log.Debug("an address is not a multiaddr", "node", id.String(), "address", a)
			continue
		}
		at, named := peer.SplitAddr(full)
		if at == nil || (named != "" && named != p) {
			m.log.Debug("an address names nobody or another node", "node", id.String(), "address", a)
			continue
		}
		info.Addrs = append(info.Addrs, at)
	}
	// libp2p's own memory of addresses and failures would keep the node from
	// trying what the index says now.
	m.host.Peerstore().ClearAddrs(p)
	if s, ok := m.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(p)
	}
	opened := time.Now()
	err := m.host.Connect(ctx, info)
	if err != nil {
		m.log.Debug("a node cannot be dialled", "node", id.String(), "error", err)
	}
	now := time.Now()
	m.peers.with(id, func(c *contact) {
		c.dial.busy = false
		if err != nil {
			m.backOff(&c.dial, now)
		} else {
			c.dial.opened = opened
		}
	})
	m.look()
}
