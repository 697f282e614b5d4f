package mesh

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"golang.org/x/time/rate"

	"github.com/priormesh/priormesh/index"
)

const (
	pushEvery  = 100 * time.Millisecond // own facts said within this are pushed together
	passEvery  = 100 * time.Millisecond // what waits for its allowance is looked at
	heardHeads = 256                    // heads heard by gossip that wait to be looked at

	messageRate  = 200 // messages a second that are taken of a peer; more wait in its stream
	messageBurst = 400

	unpackedRate  = 32 << 20 // bytes of unpacked messages a second that are taken of a peer
	unpackedBurst = 4 * index.MaxMessage

	maxPenalty = 64               // times Timing.Penalty
	sayAgain   = 10 * time.Minute // before the log names a misbehaving peer again
)

// logSync runs index.Sync: one goroutine owns it, streams feed it.
type logSync struct {
	m      *Mesh
	sync   *index.Sync
	in     chan logMessage
	opened chan index.NodeID
	heads  chan heardHead
	news   chan struct{} // a token says that dirty is not empty

	mu      sync.Mutex
	dirty   map[index.NodeID]bool // logs that grew
	current map[index.NodeID]network.Stream
	faults  map[index.NodeID]*fault
	said    time.Time // trouble with the index
	taking  map[index.NodeID]index.Progress
}

type logMessage struct {
	from   index.NodeID
	msg    index.Message
	answer chan error
}

type heardHead struct {
	holder index.NodeID
	head   index.Head
}

// fault is what a misbehaving peer has coming.
type fault struct {
	wait  time.Duration
	until time.Time
	said  time.Time
}

func newLogSync(m *Mesh) *logSync {
	var seed [32]byte
	m.rng.Lock()
	for i := range seed {
		seed[i] = byte(m.rng.Uint32())
	}
	m.rng.Unlock()
	return &logSync{
		m: m,
		sync: index.NewSync(m.deps.Index, index.SyncOptions{
			Self: m.self, Rand: rand.New(rand.NewChaCha8(seed)), Tick: m.cfg.Timing.Tick,
			Pull: m.cfg.Limits.LogPull, Send: m.cfg.Limits.LogSend,
		}),
		in:      make(chan logMessage),
		opened:  make(chan index.NodeID, 64),
		heads:   make(chan heardHead, heardHeads),
		news:    make(chan struct{}, 1),
		dirty:   make(map[index.NodeID]bool),
		current: make(map[index.NodeID]network.Stream),
		faults:  make(map[index.NodeID]*fault),
	}
}

// run owns the step machine.
func (g *logSync) run() {
	stop := g.m.deps.Index.Watch(func(f index.Fact) { g.grew(f.Author) })
	defer stop()
	g.grew(g.m.self)
	tick := time.NewTimer(g.m.jitter(g.m.cfg.Timing.Tick))
	defer tick.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	pass := time.NewTicker(passEvery)
	defer pass.Stop()
	passed := time.Now()
	var pushed time.Time
	for {
		select {
		case <-g.m.ctx.Done():
			return
		case in := <-g.in:
			out, err := g.sync.Step(in.from, in.msg)
			g.post(out)
			if err == nil {
				g.told(in.from, in.msg)
			}
			in.answer <- err
		case id := <-g.opened:
			g.post(g.sync.Met(id))
		case <-tick.C:
			var ids []index.NodeID
			for _, l := range g.m.peers.allLinks() {
				ids = append(ids, l.id)
			}
			g.try(g.sync.Tick(ids))
			// Between 2/3 and 4/3 of the interval.
			tick.Reset(g.m.jitter(g.m.cfg.Timing.Tick * 4 / 3))
		case <-pass.C:
			now := time.Now()
			g.try(g.sync.Pass(now.Sub(passed)))
			passed = now
			taking := g.sync.Bootstraps()
			g.mu.Lock()
			g.taking = taking
			g.mu.Unlock()
		case h := <-g.heads:
			g.take(h)
		case <-g.news:
			if g.gossip() {
				due.Reset(max(0, pushEvery-time.Since(pushed)))
			}
		case <-due.C:
			pushed = time.Now()
			g.try(g.sync.Said())
		}
	}
}

// try posts what the step machine has to say by itself.
func (g *logSync) try(out []index.Outgoing, err error) {
	g.post(out)
	if err != nil {
		_ = g.troubled(err)
	}
}

// told notes that nothing is lacking here of what a peer has just told of its
// own log: only its own node can say that there is nothing newer. A digest may
// say the same of this node's log. Where the peer's key has signed a head that
// has not come, now or before, or contents of its facts have not, something is.
func (g *logSync) told(from index.NodeID, msg index.Message) {
	agreed := false
	switch m := msg.(type) {
	case index.Digest:
		if !g.sync.Agree(m, from) {
			return
		}
		agreed = g.sync.Agree(m, g.m.self)
	case index.Heads:
		if !slices.ContainsFunc(m.Heads, func(h index.Head) bool { return h.Node == from }) {
			return // of others' logs only
		}
	default:
		return
	}
	now := g.m.cfg.Now()
	behind := g.m.deps.Index.Behind(from)
	g.m.peers.with(from, func(c *contact) {
		if !behind {
			c.inStep = now
		}
		if agreed {
			c.agreed = now
		}
	})
}

// Bootstraps says how far the snapshots of nodes' logs that are being taken up
// have come.
func (m *Mesh) Bootstraps() map[index.NodeID]index.Progress {
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	return m.logs.taking
}

// connected begins an exchange with a peer soon.
func (g *logSync) connected(id index.NodeID) {
	select {
	case g.opened <- id:
	case <-g.m.ctx.Done():
	}
}

// grew notes that a log has a new head. It is called from within the index.
func (g *logSync) grew(author index.NodeID) {
	g.mu.Lock()
	g.dirty[author] = true
	g.mu.Unlock()
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// gossip tells everybody, by gossip, of the logs that grew, and says whether
// this node's own is among them.
func (g *logSync) gossip() (own bool) {
	g.mu.Lock()
	dirty := g.dirty
	g.dirty = make(map[index.NodeID]bool)
	g.mu.Unlock()
	for author := range dirty {
		if h, ok := g.m.deps.Index.Head(author); ok {
			g.m.gossip.announce(h)
		}
	}
	return dirty[g.m.self]
}

// gossiped takes a head from memberlist, or drops it: it will come again.
func (g *logSync) gossiped(holder index.NodeID, h index.Head) {
	select {
	case g.heads <- heardHead{holder, h}:
	default:
		g.m.counters.gossipDropped.Add(1)
	}
}

// take asks for what a gossiped head says is missing: the node that says it
// holds it, else the author.
func (g *logSync) take(h heardHead) {
	from := h.holder
	if g.m.peers.link(from) == nil {
		from = h.head.Node
	}
	if g.m.peers.link(from) == nil {
		return
	}
	out, err := g.sync.Gossiped(from, h.head)
	g.post(out)
	if err != nil {
		// Who brought it says that it holds the log up to there.
		g.m.counters.gossipRefused.Add(1)
		var forged *index.ForgedError
		if errors.As(err, &forged) {
			g.m.wronged(h.holder, wrongGossip)
		}
		g.m.log.Debug("a gossiped head was not believed", "author", h.head.Node.String(), "error", err)
	}
}

func (g *logSync) post(out []index.Outgoing) {
	for _, o := range out {
		l := g.m.peers.link(o.To)
		if l == nil {
			continue
		}
		if !l.messages.push(o.Message.Encode()) {
			g.m.counters.logDropped.Add(1)
		}
	}
}

// serve reads the messages of one peer. The newest stream of a peer is the
// one that counts: an older one is of a connection that is gone.
func (g *logSync) serve(s network.Stream, from index.NodeID) error {
	if wait := g.penalty(from); wait > 0 {
		return &streamError{network.StreamRateLimited, fmt.Errorf("still refused for %v", wait)}
	}
	g.mu.Lock()
	if old := g.current[from]; old != nil {
		_ = old.ResetWithError(network.StreamSupplanted)
	}
	g.current[from] = s
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		if g.current[from] == s {
			delete(g.current, from)
		}
		g.mu.Unlock()
	}()
	f := newFrames(s, index.MaxMessage, g.m.silence(), g.m.cfg.Timing.Idle, func() { g.m.heard(from) })
	answer := make(chan error, 1)
	pace, size := rate.NewLimiter(messageRate, messageBurst), rate.NewLimiter(unpackedRate, unpackedBurst)
	for {
		b, err := f.read()
		if errors.Is(err, ErrBadMessage) {
			return g.misbehaved(from, err)
		}
		if err != nil {
			return err
		}
		if len(b) == 0 {
			continue
		}
		if err := pace.Wait(g.m.ctx); err != nil {
			return ErrClosed
		}
		if b, err = g.m.packer.Unpack(b); err != nil {
			return g.misbehaved(from, err)
		}
		if err := size.WaitN(g.m.ctx, len(b)); err != nil {
			return ErrClosed
		}
		msg, err := index.DecodeMessage(b)
		if err != nil {
			return g.misbehaved(from, err)
		}
		select {
		case g.in <- logMessage{from, msg, answer}:
		case <-g.m.ctx.Done():
			return ErrClosed
		}
		select {
		case err = <-answer:
		case <-g.m.ctx.Done():
			return ErrClosed
		}
		var fault *index.PeerError
		if errors.As(err, &fault) {
			return g.misbehaved(from, fault.Err)
		}
		if err != nil {
			return g.troubled(err)
		}
		g.m.counters.logReceived.Add(1)
		g.behaved(from)
	}
}

// misbehaved makes a peer wait before its next stream is taken, longer each
// time, and says so once a while.
func (g *logSync) misbehaved(from index.NodeID, err error) error {
	g.m.counters.logMisbehaved.Add(1)
	g.m.wronged(from, wrongLog)
	now := time.Now()
	g.mu.Lock()
	f := g.faults[from]
	if f == nil {
		f = new(fault)
		g.faults[from] = f
	}
	p := g.m.cfg.Timing.Penalty
	f.wait = min(max(2*f.wait, p), maxPenalty*p)
	f.until = now.Add(f.wait)
	say := f.said.IsZero() || now.Sub(f.said) > sayAgain
	if say {
		f.said = now
	}
	g.mu.Unlock()
	if say {
		g.m.log.Warn("a node sent what its log or the protocol does not allow; its streams are reset and refused for a while each time",
			"node", from.String(), "error", err)
	}
	return &streamError{network.StreamProtocolViolation, err}
}

// troubled says once a while that the index could not do its part. The stream
// ends, so that the peer does not send into the void; it opens the next one.
func (g *logSync) troubled(err error) error {
	g.mu.Lock()
	say := g.said.IsZero() || time.Since(g.said) > sayAgain
	if say {
		g.said = time.Now()
	}
	g.mu.Unlock()
	if say && g.m.ctx.Err() == nil {
		g.m.log.Error("the index could not take or give facts; logs are not in step until this is mended", "error", err)
	}
	return err
}

func (g *logSync) behaved(from index.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.faults[from]; f != nil && time.Since(f.until) > maxPenalty*g.m.cfg.Timing.Penalty {
		delete(g.faults, from)
	}
}

func (g *logSync) penalty(from index.NodeID) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.faults[from]
	if f == nil {
		return 0
	}
	return time.Until(f.until)
}
