package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// window is how many blocks are on their way at once.
const window = 48

var (
	// ErrRefused is the one answer to "no" and to "not here": ask another
	// holder, or have the holder's policy changed.
	ErrRefused = errors.New("the holder does not give this study")
	// ErrBusy says the holder serves as many streams as it can: try later or
	// ask another.
	ErrBusy = errors.New("the holder is busy")
	// ErrExpired says the grant has run out by the holder's clock: open the
	// study again.
	ErrExpired = errors.New("the grant has expired")
	// ErrIdle says the other side made no progress for too long.
	ErrIdle = errors.New("no progress for too long")
	// ErrBadGrant says a grant is not signed by its holder or is not what was
	// asked for.
	ErrBadGrant = errors.New("grant does not verify")
	// ErrBadMessage says the other side sent what the protocol does not have.
	ErrBadMessage = errors.New("malformed message")
	// ErrWrongBlock is matched by every WrongBlockError.
	ErrWrongBlock = errors.New("block is not what its address says")
)

// WrongBlockError says a holder sent bytes that are not those of the address.
type WrongBlockError struct {
	Peer index.NodeID
	CID  cid.Cid
}

func (e *WrongBlockError) Error() string {
	return fmt.Sprintf("node %s sent for block %s bytes that do not hash to it; the stream was closed, fetch from another holder and have that node's store verified", e.Peer, e.CID)
}

// Is makes errors.Is(err, ErrWrongBlock) true.
func (e *WrongBlockError) Is(target error) bool { return target == ErrWrongBlock }

// StudyRequest asks a holder for its copy of Origin's revision of a study.
type StudyRequest struct {
	Study    string
	Origin   index.NodeID
	Purpose  string
	Priority uint8 // lower goes first; from 2 on nobody waits for it
	Flow     *Flow // not sent; may be nil
}

// Flow is what whoever asks has to do with the bytes that come.
type Flow struct {
	Took func(n int)     // is told of them
	Stop <-chan struct{} // when it is closed, none wait for their share of the line any more
}

// StudyStream is one granted study at one holder. Its methods may be called
// concurrently; calls of Blocks take turns.
type StudyStream struct {
	m      *Mesh
	holder index.NodeID
	grant  Grant
	s      network.Stream
	f      *frames
	turn   chan struct{} // holds a token while nobody fetches
	spoilt atomic.Bool   // it gave a wrong block or its grant has run out: not to be asked by bitswap either
	ended  chan struct{}
	end    sync.Once
}

// OpenStudy asks a holder for a study. The stream ends with Close, when the
// grant expires, or when it rests for too long; ctx bounds only the opening.
// Errors: ErrRefused, ErrBusy, ErrNotConnected, ErrIdle, ErrBadGrant,
// ErrBadMessage, ErrClosed.
func (m *Mesh) OpenStudy(ctx context.Context, holder index.NodeID, req StudyRequest) (*StudyStream, error) {
	request, err := encodeRequest(req)
	if err != nil {
		return nil, err
	}
	if !m.tasks.enter() {
		return nil, ErrClosed
	}
	defer m.tasks.leave()
	if m.peers.link(holder) == nil {
		return nil, fmt.Errorf("%w %s", ErrNotConnected, holder)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	s, err := m.openStream(ctx, holder, protocolStudy)
	if err != nil {
		return nil, m.openError(ctx, holder, err)
	}
	f := newFrames(s, maxAnswer, grantPatience+m.cfg.Timing.Idle, m.cfg.Timing.Idle, func() { m.heard(holder) })
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	g, err := ask(f, request)
	if err == nil {
		err = g.fits(holder, m.self, req)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = s.Reset()
		return nil, m.openError(ctx, holder, err)
	}
	f.max, f.idle = maxBlock, m.cfg.Timing.Idle
	flow := req.Flow
	if flow == nil {
		flow = &Flow{Took: func(int) {}}
	}
	f.take = func(n int) error {
		if err := m.taking.wait(m.ctx, flow.Stop, holder, req.Priority, n); err != nil {
			return err
		}
		flow.Took(n)
		return nil
	}
	st := &StudyStream{m: m, holder: holder, grant: g, s: s, f: f, turn: make(chan struct{}, 1), ended: make(chan struct{})}
	st.turn <- struct{}{}
	return st, nil
}

// ask sends the request and reads what answers it.
func ask(f *frames, request []byte) (Grant, error) {
	if err := f.write(request); err != nil {
		return Grant{}, err
	}
	b, err := f.read()
	if err != nil {
		return Grant{}, err
	}
	if len(b) >= 2 && b[1] == typeRefused {
		var w bareWire
		if err := decode.Unmarshal(b, &w); err != nil {
			return Grant{}, fmt.Errorf("%w: a refusal: %w", ErrBadMessage, err)
		}
		return Grant{}, ErrRefused
	}
	var w grantedWire
	if err := decode.Unmarshal(b, &w); err != nil {
		return Grant{}, fmt.Errorf("%w: an answer to a request: %w", ErrBadMessage, err)
	}
	if w.Type != typeGranted {
		return Grant{}, fmt.Errorf("%w: an answer of type %d to a request", ErrBadMessage, w.Type)
	}
	return decodeGrant(w.Grant, w.Sig)
}

// openError gives what libp2p says its name.
func (m *Mesh) openError(ctx context.Context, holder index.NodeID, err error) error {
	for _, named := range []error{ErrRefused, ErrIdle, ErrBadGrant, ErrBadMessage} {
		if errors.Is(err, named) && ctx.Err() == nil {
			return fmt.Errorf("node %s: %w", holder, err)
		}
	}
	var se *network.StreamError
	switch {
	case m.ctx.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &se) && se.Remote && se.ErrorCode == network.StreamResourceLimitExceeded:
		return fmt.Errorf("node %s: %w", holder, ErrBusy)
	}
	return fmt.Errorf("%w %s: %w", ErrNotConnected, holder, err)
}

// Grant returns what the holder granted.
func (s *StudyStream) Grant() Grant { return s.grant }

// Holder names the other side.
func (s *StudyStream) Holder() index.NodeID { return s.holder }

// Close ends the stream. A Blocks that is under way returns ErrClosed.
func (s *StudyStream) Close() error {
	s.end.Do(func() {
		close(s.ended)
		// A stream that is closed well says so to the holder at once; Close
		// could wait for it, Reset does not.
		_ = s.s.CloseWrite()
		_ = s.s.Reset()
	})
	return nil
}

// Blocks fetches blocks in the order given. got is called for each, verified,
// one at a time; Data is the callee's own. missing lists those that the
// holder does not have, or that did not come because of err. After an error,
// got's and the context's included, the stream is closed. Errors: ErrExpired,
// ErrIdle, ErrWrongBlock, ErrBadMessage, ErrNotConnected, ErrClosed, what got
// returned.
func (s *StudyStream) Blocks(ctx context.Context, cids []cid.Cid, got func(cas.Block) error) (missing []cid.Cid, err error) {
	cids = distinct(cids)
	if !s.m.tasks.enter() {
		return cids, ErrClosed
	}
	defer s.m.tasks.leave()
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-s.ended:
		return cids, ErrClosed
	case <-ctx.Done():
		return cids, ctx.Err()
	}
	abort := func() { _ = s.s.Reset() }
	defer context.AfterFunc(ctx, abort)()
	defer context.AfterFunc(s.m.ctx, abort)()

	missing, err = s.fetch(ctx, cids, got)
	if err != nil {
		select {
		case <-s.ended:
			err = ErrClosed
		default:
		}
		_ = s.Close()
	}
	return missing, err
}

// fetch keeps up to window addresses asked for and takes the answers, which
// come in the order of asking.
func (s *StudyStream) fetch(ctx context.Context, cids []cid.Cid, got func(cas.Block) error) (missing []cid.Cid, err error) {
	asked, done := 0, 0
	fail := func(err error) ([]cid.Cid, error) {
		return append(missing, cids[done:]...), s.fetchError(ctx, err)
	}
	for done < len(cids) {
		if n := min(window-(asked-done), len(cids)-asked, maxWant); n > 0 && (asked-done <= window/2 || asked+n == len(cids)) {
			want, err := encodeWant(cids[asked : asked+n])
			if err != nil {
				return fail(err)
			}
			if err := s.f.write(want); err != nil {
				return fail(err)
			}
			asked += n
			continue
		}
		b, err := s.f.read()
		if err != nil {
			return fail(err)
		}
		a, err := decodeAnswer(b)
		if err != nil {
			return fail(err)
		}
		if a.kind == typeExpired {
			s.spoilt.Store(true)
			return fail(ErrExpired)
		}
		c := cids[done]
		if a.cid != c {
			return fail(fmt.Errorf("%w: an answer for another block than the next one asked for", ErrBadMessage))
		}
		if a.kind == typeMissing {
			missing = append(missing, c)
			done++
			continue
		}
		block := cas.Block{CID: c, Data: a.data}
		if err := block.Verify(); err != nil {
			s.spoilt.Store(true)
			s.m.counters.wrongBlocks.Add(1)
			s.m.peers.with(s.holder, func(c *contact) { c.wrong++ })
			wrong := &WrongBlockError{Peer: s.holder, CID: c}
			s.m.log.Error("a node sent a wrong block", "node", s.holder.String(), "block", c.String())
			return fail(wrong)
		}
		if err := got(block); err != nil {
			return append(missing, cids[done:]...), err
		}
		s.m.counters.blocksFetched.Add(1)
		s.m.counters.bytesFetched.Add(uint64(len(a.data)))
		done++
	}
	return missing, nil
}

func (s *StudyStream) fetchError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.m.ctx.Err() != nil:
		return ErrClosed
	case errors.Is(err, io.EOF), errors.Is(err, network.ErrReset), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w %s: the stream broke off: %w", ErrNotConnected, s.holder, err)
	}
	return fmt.Errorf("node %s: %w", s.holder, err)
}

// distinct drops repeated addresses, keeping the order.
func distinct(cids []cid.Cid) []cid.Cid {
	seen := make(map[cid.Cid]bool, len(cids))
	out := make([]cid.Cid, 0, len(cids))
	for _, c := range cids {
		if !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	return out
}
