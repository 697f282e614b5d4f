package mesh

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/priormesh/priormesh/index"
)

const (
	queuedPackets  = 256
	queuedMessages = 64
	queuedBytes    = 4 << 20 // for each queue of each connected peer

	senderWaitMin = 250 * time.Millisecond
	senderWaitMax = 10 * time.Second
	senderProven  = 10 * time.Second // a stream that lived this long was a good one
)

// peers is what is known of everybody.
type peers struct {
	mu       sync.Mutex
	contacts map[index.NodeID]*contact
	links    map[index.NodeID]*link
}

// contact is what is remembered of a peer, connected or not.
type contact struct {
	lastHeard time.Time // by Config.Now
	inStep    time.Time // by Config.Now
	agreed    time.Time // by Config.Now
	heardAt   time.Time // by the machine's monotonic clock
	alive     bool
	rtt       time.Duration
	wrong     [wrongs]int
	wrongAt   time.Time // by Config.Now
	dial      dialState
}

// link is a connected peer: two queues, and a goroutine each that sends them.
type link struct {
	id       index.NodeID
	peer     peer.ID
	since    time.Time // the steward made the link
	opened   time.Time // its first connection, which is earlier
	conns    map[string]bool
	path     Path // of the connection to keep; the steward writes it
	slot     slot // at this peer, if it is a relay
	proof    proof
	ctx      context.Context
	cancel   context.CancelFunc
	packets  *queue
	messages *queue
}

func (p *peers) init() {
	p.contacts = make(map[index.NodeID]*contact)
	p.links = make(map[index.NodeID]*link)
}

// with calls f with the contact of a peer, made if need be.
func (p *peers) with(id index.NodeID, f func(*contact)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.contacts[id]
	if c == nil {
		c = new(contact)
		p.contacts[id] = c
	}
	f(c)
}

// link returns the link to a peer, or nil.
func (p *peers) link(id index.NodeID) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[id]
}

func (p *peers) allLinks() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*link, 0, len(p.links))
	for _, l := range p.links {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *link) int { return a.id.Compare(b.id) })
	return all
}

func (p *peers) count() (connected, alive int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.contacts {
		if c.alive {
			alive++
		}
	}
	return len(p.links), alive
}

// heard notes an authenticated word of a peer.
func (m *Mesh) heard(id index.NodeID) {
	now, at := m.cfg.Now(), time.Now()
	m.peers.with(id, func(c *contact) { c.lastHeard, c.heardAt = now, at })
}

// What a peer sends that is not what it must be.
const (
	wrongBlock = iota
	wrongLog
	wrongGossip
	wrongs
)

// wronged notes that a peer sent what it must not.
func (m *Mesh) wronged(id index.NodeID, what int) {
	now := m.cfg.Now()
	m.peers.with(id, func(c *contact) {
		c.wrong[what]++
		c.wrongAt = now
	})
}

// Peers lists all known members but this node, sorted.
func (m *Mesh) Peers() []Peer {
	known := m.deps.Addrs()
	m.peers.mu.Lock()
	for id := range m.peers.links {
		if _, ok := known[id]; !ok {
			known = cloneWith(known, id)
		}
	}
	m.peers.mu.Unlock()
	out := make([]Peer, 0, len(known))
	for id, addrs := range known {
		if !m.allowed(id) {
			continue
		}
		p := Peer{ID: id, Addrs: slices.Clone(addrs)}
		m.peers.mu.Lock()
		if c := m.peers.contacts[id]; c != nil {
			// A connection alone says little: who dials has one before the
			// other side has looked at the roster and closes it.
			l := m.peers.links[id]
			if p.Connected = l != nil && c.heardAt.After(l.opened); p.Connected {
				p.Path = l.path
			}
			p.Alive, p.LastHeard, p.InStep, p.Agreed, p.RTT = c.alive, c.lastHeard, c.inStep, c.agreed, c.rtt
			p.WrongBlocks, p.WrongLog, p.WrongGossip, p.WrongLast = c.wrong[wrongBlock], c.wrong[wrongLog], c.wrong[wrongGossip], c.wrongAt
		}
		m.peers.mu.Unlock()
		p.Twin = m.twins.twin(id)
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Peer) int { return a.ID.Compare(b.ID) })
	return out
}

func cloneWith(known map[index.NodeID][]string, id index.NodeID) map[index.NodeID][]string {
	c := make(map[index.NodeID][]string, len(known)+1)
	for k, v := range known {
		c[k] = v
	}
	c[id] = nil
	return c
}

// startLink begins sending to a peer that has just connected.
func (m *Mesh) startLink(id index.NodeID, conns []network.Conn) {
	ctx, cancel := context.WithCancel(m.ctx)
	l := &link{
		id: id, peer: peerOf(id), since: time.Now(), conns: make(map[string]bool, len(conns)), ctx: ctx, cancel: cancel,
		packets:  newQueue(queuedPackets, queuedBytes),
		messages: newQueue(queuedMessages, queuedBytes),
	}
	for _, c := range conns {
		l.conns[c.ID()] = true
		if at := c.Stat().Opened; l.opened.IsZero() || at.Before(l.opened) {
			l.opened = at
		}
	}
	m.peers.mu.Lock()
	m.peers.links[id] = l
	m.peers.mu.Unlock()
	m.tasks.run(func() {
		m.send(l, l.packets, protocolGossip, []byte{gossipPackets}, func() {}, plain, &m.counters.gossipSent)
	})
	m.tasks.run(func() {
		m.send(l, l.messages, protocolLog, nil, func() { m.logs.connected(id) }, m.packer.Pack, &m.counters.logSent)
	})
}

// send keeps a stream to a peer open and sends the queue on it, and an empty
// frame when there has been nothing else for a beat. opened is called each
// time that a stream is new, pack for each frame.
func (m *Mesh) send(l *link, q *queue, p protocol.ID, hello []byte, opened func(), pack func([]byte) []byte, sent interface{ Add(uint64) uint64 }) {
	wait := senderWaitMin
	for l.ctx.Err() == nil {
		began := time.Now()
		s, err := m.openStream(l.ctx, l.id, p)
		if err == nil {
			opened()
			err = m.pump(l, s, q, hello, pack, sent)
			_ = s.Reset()
		}
		if l.ctx.Err() != nil {
			return
		}
		if time.Since(began) > senderProven {
			wait = senderWaitMin
		}
		m.log.Debug("a stream ended", "protocol", string(p), "node", l.id.String(), "error", err)
		sleep(l.ctx, m.jitter(wait))
		wait = min(2*wait, senderWaitMax)
	}
}

// plain packs nothing.
func plain(b []byte) []byte { return b }

func (m *Mesh) pump(l *link, s network.Stream, q *queue, hello []byte, pack func([]byte) []byte, sent interface{ Add(uint64) uint64 }) error {
	stop := context.AfterFunc(l.ctx, func() { _ = s.Reset() })
	defer stop()
	f := newFrames(s, 0, m.cfg.Timing.Idle, m.cfg.Timing.Idle, func() {})
	if len(hello) > 0 {
		if err := f.writeRaw(hello); err != nil {
			return err
		}
	}
	beat := time.NewTicker(m.cfg.Timing.Beat)
	defer beat.Stop()
	if err := f.write(); err != nil {
		return err
	}
	quiet := false
	for {
		if b := q.pop(); b != nil {
			if err := f.write(pack(b)); err != nil {
				return err
			}
			sent.Add(1)
			quiet = false
			continue
		}
		select {
		case <-l.ctx.Done():
			return l.ctx.Err()
		case <-q.ready:
		case <-beat.C:
			if quiet {
				if err := f.write(); err != nil {
					return err
				}
			}
			quiet = true
		}
	}
}

// openStream opens a stream to a peer that is connected; it never dials.
func (m *Mesh) openStream(ctx context.Context, id index.NodeID, p protocol.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "only the steward dials"), m.cfg.Timing.Idle)
	defer cancel()
	return m.host.NewStream(ctx, peerOf(id), p)
}
