package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

const (
	maxQueuedWants = 256              // addresses a holder takes before it stops reading
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
		refused, err := encode.Marshal(bareWire{Type: typeRefused})
		if err != nil {
			return err
		}
		return f.write(refused)
	}
	m.counters.studiesGranted.Add(1)
	if err := f.write(reply); err != nil {
		return err
	}
	f.max = maxWantLen
	f.give = func(n int) error { return m.serving.wait(m.ctx, nil, from, req.Priority, n) }
	return m.serveBlocks(f, from, g)
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

// serveBlocks answers wants, each address once and in order, until the other
// side closes, rests for too long or the grant expires. One goroutine reads
// wants, bounded by maxQueuedWants, while this one sends.
func (m *Mesh) serveBlocks(f *frames, from index.NodeID, g Grant) error {
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()

	wants := make(chan cid.Cid, maxQueuedWants)
	ended := make(chan error, 1)
	m.tasks.run(func() { ended <- m.readWants(ctx, f, from, wants) })
	rest := time.NewTimer(serverIdle * m.cfg.Timing.Idle)
	defer rest.Stop()
	for {
		var c cid.Cid
		select {
		case c = <-wants:
		case err := <-ended:
			// What was wanted before the other side closed is not sent: it
			// closes when it has all it wants.
			return err
		case <-rest.C:
			return ErrIdle
		case <-m.ctx.Done():
			return ErrClosed
		}
		if !m.cfg.Now().Before(g.Expires) {
			expired, err := encode.Marshal(bareWire{Type: typeExpired})
			if err != nil {
				return err
			}
			return f.write(expired)
		}
		data, err := m.block(from, c)
		if err != nil {
			return err
		}
		if data == nil {
			missing, err := encode.Marshal(missingWire{Type: typeMissing, CID: c.Bytes()})
			if err != nil {
				return err
			}
			err = f.write(missing)
			if err != nil {
				return err
			}
		} else {
			if err := f.write(blockHeader(c, len(data)), data); err != nil {
				return err
			}
			m.counters.blocksServed.Add(1)
			m.counters.bytesServed.Add(uint64(len(data)))
		}
		rest.Reset(serverIdle * m.cfg.Timing.Idle)
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
func (m *Mesh) readWants(ctx context.Context, f *frames, from index.NodeID, wants chan<- cid.Cid) error {
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
				var cids []cid.Cid
				if cids, err = decodeWant(b); err == nil {
					for _, c := range cids {
						select {
						case wants <- c:
						case <-ctx.Done():
							return ErrClosed
						}
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
