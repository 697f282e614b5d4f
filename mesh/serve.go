package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

const (
	maxQueuedWants = 2048             // addresses a holder takes before it stops reading
	grantPatience  = 15 * time.Second // for the node to decide
	serverIdle     = 3                // times Idle that a granted stream may rest between wants
)

// StudyServer is the holder's side of study streams. The node implements it.
type StudyServer interface {
	// Grant decides. It returns ErrRefused for "no" and for "not here"
	// alike; any other error is logged here and looks the same to the peer.
	// The mesh fills in Holder, Requester, Study, Origin and Purpose as they
	// were asked for, and signs.
	Grant(ctx context.Context, from index.NodeID, req StudyRequest) (Grant, error)
	// GrantedBlock says whether the peer may have this block now.
	GrantedBlock(from index.NodeID, c cid.Cid) bool
	// Push yields what a peer that was given a grant asked to have with it, in
	// the order in which the manifests name it; Data is nil for what is not
	// here, and then nothing that it names follows. It ends with an error when
	// it cannot go on.
	Push(ctx context.Context, from index.NodeID, g Grant, p Push) iter.Seq2[cas.Block, error]
}

// serveStudy is a holder's side of one study stream.
func (m *Mesh) serveStudy(s network.Stream, from index.NodeID) error {
	if !m.studies.enter(from) {
		m.counters.studyStreamsBusy.Add(1)
		return &streamError{network.StreamResourceLimitExceeded, ErrBusy}
	}
	defer m.studies.leave(from)

	f := newFrames(s, maxRequest, m.cfg.Timing.Idle, m.cfg.Timing.Idle, func() { m.heard(from) })
	b, err := f.read()
	if err != nil {
		return err
	}
	asked := time.Now()
	req, err := decodeRequest(b)
	if err != nil {
		return &streamError{network.StreamProtocolViolation, err}
	}
	g, reply, err := m.grant(from, req)
	if err != nil {
		m.counters.studiesRefused.Add(1)
		if !errors.Is(err, ErrRefused) {
			m.log.Error("a grant could not be decided, and was refused", "to", from.String(), "error", err)
		}
		// The time of a refusal must not tell "no" from "not here".
		step := m.cfg.Timing.Refusal
		if !sleep(m.ctx, step-time.Since(asked)%step) {
			return ErrClosed
		}
		return f.writeBare(typeRefused)
	}
	m.counters.studiesGranted.Add(1)
	if err := f.write(reply); err != nil {
		return err
	}
	f.max = maxWantLen
	return m.serveBlocks(f, from, g, req)
}

// grant asks the node, and signs.
func (m *Mesh) grant(from index.NodeID, req StudyRequest) (Grant, []byte, error) {
	ctx, cancel := context.WithTimeout(m.ctx, grantPatience)
	defer cancel()
	g, err := m.deps.Studies.Grant(ctx, from, req)
	if err != nil {
		return Grant{}, nil, err
	}
	g.Holder, g.Requester = m.self, from
	g.Study, g.Origin, g.Purpose = req.Study, req.Origin, req.Purpose
	g.Expires = g.Expires.UTC().Truncate(time.Millisecond)
	signed, err := g.sign(m.cfg.Key)
	if err != nil {
		return Grant{}, nil, err
	}
	reply, err := encode.Marshal(grantedWire{Type: typeGranted, Grant: signed, Sig: g.Sig})
	return g, reply, err
}

// serveBlocks sends what is to be pushed and answers wants, each address once,
// until the other side closes, rests for too long or the grant expires. Among
// wants the most urgent goes first, in the order of wanting, and a push when
// nothing is wanted. One goroutine reads wants, bounded by maxQueuedWants, while
// this one sends.
func (m *Mesh) serveBlocks(f *frames, from index.NodeID, g Grant, req StudyRequest) error {
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()

	queue := newWants()
	ended := make(chan error, 1)
	m.tasks.run(func() { ended <- m.readWants(ctx, f, from, queue) })
	turn := m.turns.join(from)
	defer turn.leave()
	f.give = func(n int) error {
		turn.wait()
		return m.serving.wait(m.ctx, nil, from, queue.atLeast(turn.priority), n)
	}
	var next func() (cas.Block, error, bool)
	if req.Push.Depth != PushNothing {
		var stop func()
		next, stop = m.pull(m.deps.Studies.Push(ctx, from, g, req.Push))
		defer stop()
	}
	rest := time.NewTimer(serverIdle * m.cfg.Timing.Idle)
	defer rest.Stop()
	for {
		select {
		case err := <-ended:
			// What was wanted before the other side closed is not sent: it
			// closes when it has all it wants.
			return err
		case <-m.ctx.Done():
			return ErrClosed
		default:
		}
		var err error
		switch c, priority, ok := queue.pop(); {
		case !ok && next == nil:
			turn.end()
			select {
			case <-queue.ready:
				continue
			case err := <-ended:
				return err
			case <-rest.C:
				return ErrIdle
			case <-m.ctx.Done():
				return ErrClosed
			}
		case !m.cfg.Now().Before(g.Expires):
			return f.writeBare(typeExpired)
		case ok:
			turn.begin(priority)
			var data []byte
			if data, err = m.block(from, c); err == nil {
				err = m.sendBlock(f, c, data)
			}
		default:
			turn.begin(req.Priority)
			b, perr, more := next()
			switch {
			case !m.allowed(from):
				return &streamError{network.StreamGated, nil}
			case !more:
				next = nil
				err = f.writeBare(typePushed)
			case perr != nil:
				return fmt.Errorf("what was asked to be pushed cannot be read: %w", perr)
			default:
				err = m.sendBlock(f, b.CID, b.Data)
			}
		}
		if err != nil {
			return err
		}
		rest.Reset(serverIdle * m.cfg.Timing.Idle)
	}
}

// pull is iter.Pull2 for what the node yields: it is asked only while there is a
// node to ask.
func (m *Mesh) pull(blocks iter.Seq2[cas.Block, error]) (next func() (cas.Block, error, bool), stop func()) {
	pull, stop := iter.Pull2(blocks)
	return func() (cas.Block, error, bool) {
		m.life.RLock()
		defer m.life.RUnlock()
		if m.life.over {
			return cas.Block{}, ErrClosed, true
		}
		return pull()
	}, stop
}

// sendBlock sends a block, or says that it is not here.
func (m *Mesh) sendBlock(f *frames, c cid.Cid, data []byte) error {
	if data == nil {
		missing, err := encode.Marshal(missingWire{Type: typeMissing, CID: c.Bytes()})
		if err != nil {
			return err
		}
		return f.write(missing)
	}
	if err := f.write(blockHeader(c, len(data)), data); err != nil {
		return err
	}
	m.counters.blocksServed.Add(1)
	m.counters.bytesServed.Add(uint64(len(data)))
	return nil
}

func (f *frames) writeBare(kind uint8) error {
	b, err := encode.Marshal(bareWire{Type: kind})
	if err != nil {
		return err
	}
	return f.write(b)
}

// wants are the addresses that a peer waits for.
type wants struct {
	mu    sync.Mutex
	of    map[uint8][]cid.Cid // by priority, none empty
	n     int
	ready chan struct{} // a token says that there may be something to send
	room  chan struct{} // and that there may be room for more
}

func newWants() *wants {
	return &wants{of: make(map[uint8][]cid.Cid), ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// push adds addresses, as soon as there is room for them.
func (w *wants) push(ctx context.Context, priority uint8, cids []cid.Cid) error {
	for {
		w.mu.Lock()
		fits := w.n+len(cids) <= maxQueuedWants
		if fits {
			w.of[priority] = append(w.of[priority], cids...)
			w.n += len(cids)
		}
		w.mu.Unlock()
		if fits {
			token(w.ready)
			return nil
		}
		select {
		case <-w.room:
		case <-ctx.Done():
			return ErrClosed
		}
	}
}

// pop takes the most urgent address.
func (w *wants) pop() (c cid.Cid, priority uint8, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.of {
		if !ok || p < priority {
			priority, ok = p, true
		}
	}
	if !ok {
		return cid.Undef, 0, false
	}
	list := w.of[priority]
	c, list[0] = list[0], cid.Undef
	if w.of[priority] = list[1:]; len(list) == 1 {
		delete(w.of, priority)
	}
	w.n--
	token(w.room)
	return c, priority, true
}

// atLeast is the priority of something that is being sent: what stands behind it
// waits for it.
func (w *wants) atLeast(priority uint8) uint8 {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.of {
		priority = min(priority, p)
	}
	return priority
}

// token puts a token into a channel of one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// block returns a block that the peer may have, or nil: for "no" and for "not
// here" alike.
func (m *Mesh) block(from index.NodeID, c cid.Cid) ([]byte, error) {
	if !m.granted(from, c) {
		return nil, nil
	}
	return m.read(m.ctx, c)
}

// read returns a block of the store, or nil when it is not held or damaged:
// others may still have it whole.
func (m *Mesh) read(ctx context.Context, c cid.Cid) ([]byte, error) {
	m.life.RLock()
	defer m.life.RUnlock()
	if m.life.over {
		return nil, ErrClosed
	}
	data, err := m.deps.Blocks.Get(ctx, c)
	switch {
	case err == nil:
		return data, nil
	case errors.Is(err, cas.ErrNotFound):
		return nil, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	m.log.Error("a block that is held cannot be read; verify the store", "block", c.String(), "error", err)
	return nil, nil
}

// granted is the filter for every block, by stream and by bitswap.
func (m *Mesh) granted(from index.NodeID, c cid.Cid) bool {
	m.life.RLock()
	defer m.life.RUnlock()
	return !m.life.over && from != m.self && m.deps.Allowed(from) && m.deps.Studies.GrantedBlock(from, c)
}

// readWants reads Want messages until the stream ends. nil says that the
// other side closed it.
func (m *Mesh) readWants(ctx context.Context, f *frames, from index.NodeID, queue *wants) error {
	for {
		// How long the other side may rest is judged by the sender, who knows
		// whether it is still busy sending; a want that has begun must come on.
		err := f.await(f.idle)
		if errors.Is(err, ErrIdle) && ctx.Err() == nil {
			continue
		}
		if err == nil {
			var b []byte
			if b, err = f.read(); err == nil {
				var priority uint8
				var cids []cid.Cid
				if priority, cids, err = decodeWant(b); err == nil {
					m.counters.studyWants.Add(1)
					if priority == 0 {
						m.counters.urgentWants.Add(1)
					}
					if err := queue.push(ctx, priority, cids); err != nil {
						return err
					}
					continue
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, ErrBadMessage) {
			return &streamError{network.StreamProtocolViolation, fmt.Errorf("from node %s: %w", from, err)}
		}
		return err
	}
}
