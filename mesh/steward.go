package mesh

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"

	"github.com/priormesh/priormesh/index"
)

const (
	stewardRound = time.Second // the steward looks at least this often
	maxDials     = 16          // dials under way at once
	maxAddrs     = 16          // addresses tried of one member
	staleBeats   = 5           // a connected peer silent for so many beats is not there
	unheardDials = 2           // connections closed before a word, until that is said in the log

	directWithin = 6 * time.Second // for a direct way, before relays are asked
	settled      = 2 * time.Second // both ends know of a connection that is so old
	proveWithin  = 5 * time.Second // for the best of several connections to answer
	moveWithin   = time.Minute     // studies on the worse of two connections may go on for so long
)

// dialState is how dialling a peer goes. The steward alone decides; a dial
// that ended only leaves its outcome here.
type dialState struct {
	busy    bool
	wait    time.Duration // before the next dial; doubles with each failure
	next    time.Time
	addrs   string    // of the last dial
	alone   time.Time // when it was first seen without a connection
	direct  time.Time // when a direct way is tried next, while it is connected by a relay
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
			m.dialAnew()
		}
		m.dropStrangers()
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
// does not wait, so it may be called from within a watcher of the index. A
// change that nobody tells of is noticed within stewardRound.
func (m *Mesh) Recheck() {
	m.recheck.Store(true)
	m.look()
}

// dropStrangers closes the connections of whoever is not allowed, and with them
// every stream. It is done each round, not only after Recheck: one that passed
// the gate just before the roster changed may come up after that was looked at.
func (m *Mesh) dropStrangers() {
	for _, c := range m.host.Network().Conns() {
		if id, ok := nodeOf(c.RemotePeer()); !ok || !m.allowed(id) {
			m.log.Warn("a connection is closed: its node is not on the roster any more", "node", c.RemotePeer().String())
			_ = c.CloseWithError(network.ConnGated)
		}
	}
}

// dialAnew dials everybody without a pause: some were not allowed before.
func (m *Mesh) dialAnew() {
	m.peers.mu.Lock()
	defer m.peers.mu.Unlock()
	for _, c := range m.peers.contacts {
		c.dial.wait, c.dial.next = 0, time.Time{}
	}
}

func (m *Mesh) reconcile() {
	connected := make(map[index.NodeID][]network.Conn)
	for _, c := range m.host.Network().Conns() {
		if id, ok := nodeOf(c.RemotePeer()); ok && !c.IsClosed() {
			connected[id] = append(connected[id], c)
		}
	}
	now := time.Now()
	for _, l := range m.peers.allLinks() {
		conns := connected[l.id]
		if l.renew(conns) {
			delete(connected, l.id)
			m.prune(l, conns, now)
			m.dropStale(l, now)
			continue
		}
		m.endLink(l)
	}
	for id, conns := range connected {
		m.startLink(id, conns)
		m.prune(m.peers.link(id), conns, now)
		m.gossip.look()
	}
}

// renew takes the peer's connections of now. It is false when none is one of
// those of before: then it is a new peer's.
func (l *link) renew(conns []network.Conn) bool {
	ids := make(map[string]bool, len(conns))
	same := false
	for _, c := range conns {
		ids[c.ID()] = true
		same = same || l.conns[c.ID()]
	}
	if same {
		l.conns = ids
	}
	return same
}

// prune finds the way to a peer. Where there are several, the best has to show
// that it leads somewhere: one whose path went dead is the best by its kind
// still. Then the others are closed when nothing of a study is on them any more.
func (m *Mesh) prune(l *link, conns []network.Conn, now time.Time) {
	best := m.best(conns)
	if way := pathOf(best); way != l.path {
		m.peers.mu.Lock()
		l.path = way
		m.peers.mu.Unlock()
		m.log.Info("a node is connected", "node", l.id.String(), "by", way.Transport, "relay", relayName(way))
	}
	age := now.Sub(l.path.Since)
	if len(conns) == 1 || age < settled {
		return
	}
	var newest time.Time
	for _, c := range conns {
		if at := c.Stat().Opened; at.After(newest) {
			newest = at
		}
	}
	if !l.proof.of(best, newest) {
		m.prove(l, best)
		return
	}
	for _, c := range conns {
		// One that is new has not said yet which process it leads to.
		if c == best || now.Sub(c.Stat().Opened) < settled || age < moveWithin && slices.ContainsFunc(c.GetStreams(), func(s network.Stream) bool { return carriesStudy(s.Protocol()) }) {
			continue
		}
		m.log.Debug("the worse of two connections is closed", "node", l.id.String(), "at", c.RemoteMultiaddr().String())
		_ = c.Close()
	}
}

// proof is the last answer that came on one connection of a peer.
type proof struct {
	mu   sync.Mutex
	busy bool
	conn string
	at   time.Time // it was asked for
}

// of says whether a connection has answered since.
func (p *proof) of(c network.Conn, since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn == c.ID() && p.at.After(since)
}

// prove asks for a word on one connection, which is closed when none comes.
func (m *Mesh) prove(l *link, c network.Conn) {
	l.proof.mu.Lock()
	defer l.proof.mu.Unlock()
	if l.proof.busy {
		return
	}
	l.proof.busy = true
	m.tasks.run(func() {
		at := time.Now()
		err := m.answers(c)
		l.proof.mu.Lock()
		l.proof.busy = false
		if err == nil {
			l.proof.conn, l.proof.at = c.ID(), at
		}
		l.proof.mu.Unlock()
		if err == nil {
			m.twins.lives(l.id, c)
		}
		if err != nil && m.ctx.Err() == nil {
			m.log.Info("of two connections to a node one leads nowhere any more and is closed", "node", l.id.String(), "error", err)
			_ = c.Close()
		}
		m.look()
	})
}

// answers reads a word of libp2p's identify, which every node serves.
func (m *Mesh) answers(c network.Conn) error {
	ctx, cancel := context.WithTimeout(m.ctx, proveWithin)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Reset() }()
	if err := s.SetDeadline(time.Now().Add(proveWithin)); err != nil {
		return err
	}
	if err := s.SetProtocol(identify.ID); err != nil {
		return err
	}
	if err := multistream.SelectProtoOrFail(identify.ID, s); err != nil {
		return err
	}
	_, err = io.ReadFull(s, make([]byte, 1))
	return err
}

func relayName(p Path) string {
	if !p.Relayed() {
		return "none"
	}
	return p.Relay.String()
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
// would be preferred to the peer's new connection. With the beats of Timing's
// default a dead path is left 11 seconds after the last word on it.
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
	relays := m.relays(known)
	for id, addrs := range known {
		l := m.peers.link(id)
		if id == m.self || !m.allowed(id) {
			continue
		}
		direct, _ := dialable(peerOf(id), addrs)
		if l != nil && (!l.path.Relayed() || len(direct) == 0) {
			m.peers.with(id, func(c *contact) { c.dial.alone = time.Time{} })
			continue
		}
		by := slices.DeleteFunc(slices.Clone(relays), func(r peer.ID) bool { return r == peerOf(id) })
		if l != nil {
			by = nil
		}
		if len(direct) == 0 && len(by) == 0 {
			continue
		}
		var due, unwanted, heard bool
		m.peers.with(id, func(c *contact) {
			d := &c.dial
			if d.busy {
				return
			}
			if all := strings.Join(addrs, " "); all != d.addrs {
				d.addrs, d.wait, d.next, d.direct = all, 0, time.Time{}, time.Time{}
			}
			at := d.next
			if l != nil {
				at, d.alone = d.direct, time.Time{}
			} else {
				if !d.opened.IsZero() {
					if c.heardAt.After(d.opened) {
						d.wait, d.unheard, heard = 0, 0, true
					} else {
						d.unheard++
						unwanted = d.unheard >= unheardDials
					}
					d.opened = time.Time{}
					m.backOff(d, now)
					at = d.next
				}
				if d.alone.IsZero() {
					d.alone = now
				}
				// Who cannot be dialled most likely dials by itself.
				if patient := d.alone.Add(m.cfg.Timing.RelayAfter); len(direct) == 0 && patient.After(at) {
					at = patient
				}
			}
			if at.After(now) {
				next = min(next, at.Sub(now))
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
		if unwanted && m.Twin().Seen.IsZero() && m.unwanted.first(id.String()) {
			m.log.Warn("a node of the region closes every connection before a word is said: most likely it does not know yet that this node was admitted; if nobody has admitted this trust, give a member its card and ask for that",
				"node", id.String())
		}
		if due {
			m.tasks.run(func() { m.dial(id, direct, by, l != nil) })
		}
	}
	return max(next, 10*time.Millisecond)
}

// relays lists the nodes with a direct connection that carry circuits, and has
// this node keep a slot at each.
func (m *Mesh) relays(known map[index.NodeID][]string) []peer.ID {
	if !m.cfg.UseRelays {
		return nil
	}
	var out []peer.ID
	for _, l := range m.peers.allLinks() {
		if _, relay := dialable(l.peer, known[l.id]); relay && !l.path.Relayed() && len(out) < maxRelays {
			out = append(out, l.peer)
			m.keepSlot(l)
		}
	}
	return out
}

// silence is how long a connected peer may say nothing: it beats far more
// often.
func (m *Mesh) silence() time.Duration { return staleBeats * m.cfg.Timing.Beat }

func (m *Mesh) backOff(d *dialState, now time.Time) {
	d.wait = min(max(2*d.wait, m.cfg.Timing.RedialMin), m.cfg.Timing.RedialMax)
	d.next = now.Add(m.jitter(d.wait))
}

// dial tries the direct ways to a peer, then those by relays. A peer that is
// connected by a relay already is only dialled for a better way.
func (m *Mesh) dial(id index.NodeID, direct []multiaddr.Multiaddr, relays []peer.ID, better bool) {
	opened := time.Now()
	err := m.connect(id, direct, relays, better)
	if err != nil {
		m.log.Debug("a node cannot be dialled", "node", id.String(), "error", err)
	}
	now := time.Now()
	m.peers.with(id, func(c *contact) {
		d := &c.dial
		d.busy = false
		switch {
		case better:
			d.direct = now.Add(m.jitter(m.cfg.Timing.Upgrade))
		case err != nil:
			m.backOff(d, now)
		default:
			d.opened, d.direct = opened, now.Add(m.jitter(m.cfg.Timing.Upgrade))
		}
	})
	m.look()
}

func (m *Mesh) connect(id index.NodeID, direct []multiaddr.Multiaddr, relays []peer.ID, better bool) error {
	p := peerOf(id)
	attempt := func(addrs []multiaddr.Multiaddr, within time.Duration) error {
		ctx, cancel := context.WithTimeout(m.ctx, within)
		defer cancel()
		if better {
			ctx = network.WithForceDirectDial(ctx, "there is a way by a relay")
		}
		// libp2p's own memory of addresses and failures would keep the node from
		// trying what the index says now.
		m.host.Peerstore().ClearAddrs(p)
		if s, ok := m.host.Network().(*swarm.Swarm); ok {
			s.Backoff().Clear(p)
		}
		return m.host.Connect(ctx, peer.AddrInfo{ID: p, Addrs: addrs})
	}
	within := dialTimeout
	if len(relays) > 0 {
		within = directWithin
	}
	var errs []error
	if byQUIC := only("quic", direct); len(byQUIC) > 0 && (quicFirst(direct) || m.quicFirst()) {
		err := attempt(byQUIC, directWithin)
		if err == nil {
			return nil
		}
		errs, direct = append(errs, err), only("tcp", direct)
	}
	if len(direct) > 0 {
		err := attempt(direct, within)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(relays) > 0 && m.ctx.Err() == nil {
		err := attempt(circuitsBy(relays), dialTimeout)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// quicFirst says whether this node asks others to dial it by QUIC first: then
// it does so too, and both ends agree whoever dials.
func (m *Mesh) quicFirst() bool {
	own, _ := dialable(m.host.ID(), m.Addrs())
	return quicFirst(own)
}
