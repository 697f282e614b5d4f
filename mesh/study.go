package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

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
	// ErrVersion says the holder gives studies by another version of the protocol.
	ErrVersion = errors.New("it runs a version of Priormesh that gives studies in another way; both nodes have to run the same")
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
	Priority uint8 // of what is pushed
	Push     Push
}

// Push is what the holder sends unasked right after the grant, so that nobody
// waits for a list before he can ask for what is on it. Series and Instance
// narrow it down where they are set.
type Push struct {
	Depth    Depth
	Series   string
	Instance string // of Series
}

// Depth is how far a push follows the manifests of a study.
type Depth uint8

// The depths. Each includes those before it. What an instance has behind its
// header is always asked for by address: only so can it be drawn from several
// holders, be overtaken by what is urgent, and go on at the block where a
// stream broke off.
const (
	PushNothing   Depth = iota
	PushLists           // the manifests of the study and of its series
	PushManifests       // and of their instances
	PushHeaders         // and the blocks with their headers
)

// StudyStream is one granted study at one holder: first what is pushed, which
// Pushed reads, then what a Draw asks for.
type StudyStream struct {
	m      *Mesh
	id     uint64 // the order in which streams are claimed
	holder index.NodeID
	grant  Grant
	s      network.Stream
	f      *frames
	pushed bool          // all that was to be pushed has come
	turn   chan struct{} // holds a token while no fetch has claimed it
	blamed atomic.Bool   // what it sent is counted against its holder
	spoilt atomic.Bool   // it gave a wrong block or its grant has run out: not to be asked by bitswap either
	moved  atomic.Int64  // when bytes came last, Unix nanoseconds
	bound  atomic.Bool   // it waits for its share of this node's line
	count  func(n int)   // may be nil
	reads  sync.Once     // starts the reading goroutine
	sends  chan struct{} // a token says that out.ask has something
	ended  chan struct{}
	end    sync.Once

	priority uint8 // of what comes while nothing is asked for
	owner    atomic.Pointer[Draw]
	out      outstanding // the owner's to change
}

// OpenStudy asks a holder for a study. The stream ends with Close, when the
// grant expires, or when it rests for too long; ctx bounds only the opening.
// Errors: ErrRefused, ErrBusy, ErrVersion, ErrNotConnected, ErrIdle, ErrBadGrant,
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
	for try := 1; ; try++ {
		st, s, err := m.tryStudy(ctx, holder, req, request)
		if err == nil {
			return st, nil
		}
		// The connection may have ended beneath the stream, and the peer be there by
		// another: of two it closes the worse, and cannot know what is on its way to it.
		lost := s == nil || s.Conn().IsClosed()
		if err = m.openError(ctx, holder, err); !lost || try == maxWays || !errors.Is(err, ErrNotConnected) {
			return nil, err
		}
	}
}

// tryStudy asks on one connection. It gives the stream also where that failed, but
// nil where none could be opened.
func (m *Mesh) tryStudy(ctx context.Context, holder index.NodeID, req StudyRequest, request []byte) (*StudyStream, network.Stream, error) {
	s, err := m.openStream(ctx, holder, protocolStudy)
	if err != nil {
		return nil, nil, err
	}
	asked := time.Now()
	st := &StudyStream{m: m, id: m.streams.Add(1), holder: holder, s: s, pushed: req.Push.Depth == PushNothing,
		turn: make(chan struct{}, 1), sends: make(chan struct{}, 1), ended: make(chan struct{})}
	st.turn <- struct{}{}
	f := newFrames(s, maxAnswer, grantPatience+m.cfg.Timing.Idle, m.cfg.Timing.Idle, func() {
		st.moved.Store(time.Now().UnixNano())
		m.heard(holder)
	})
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
		return nil, s, err
	}
	f.max, f.idle = maxBlock, m.cfg.Timing.Idle
	st.f, st.grant, st.priority = f, g, req.Priority
	st.out.pace.answered(time.Since(asked))
	f.take = st.take
	return st, s, nil
}

// take waits for the stream's share of this node's line. What comes is as urgent
// as the most urgent that is still to come: that waits for it.
func (s *StudyStream) take(n int) error {
	if s.m.taking.bounded.Load() {
		priority := s.priority
		if d := s.owner.Load(); d != nil {
			priority = d.urgency(s)
		}
		s.bound.Store(true)
		err := s.m.taking.wait(s.m.ctx, s.ended, s.holder, priority, n)
		s.moved.Store(time.Now().UnixNano())
		s.bound.Store(false)
		if err != nil {
			return err
		}
	}
	if s.count != nil {
		s.count(n)
	}
	return nil
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
	var other multistream.ErrNotSupported[protocol.ID]
	switch {
	case m.ctx.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &se) && se.Remote && se.ErrorCode == network.StreamResourceLimitExceeded:
		return fmt.Errorf("node %s: %w", holder, ErrBusy)
	case errors.As(err, &other):
		return fmt.Errorf("node %s: %w", holder, ErrVersion)
	}
	return fmt.Errorf("%w %s: %w", ErrNotConnected, holder, err)
}

// Grant returns what the holder granted.
func (s *StudyStream) Grant() Grant { return s.grant }

// Holder names the other side.
func (s *StudyStream) Holder() index.NodeID { return s.holder }

// Count has f told of the bytes that come. It is called before any is read.
func (s *StudyStream) Count(f func(n int)) { s.count = f }

// Close ends the stream. Whoever waits for something of it is told.
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

func (s *StudyStream) closed() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// Pushed returns the next block that the holder pushes, verified; Data is nil
// for one that it lacks. more is false at the end. After an error the stream is
// closed. Whoever expects a certain block refuses another with Misbehaved.
func (s *StudyStream) Pushed(ctx context.Context) (b cas.Block, more bool, err error) {
	if s.pushed {
		return cas.Block{}, false, nil
	}
	if !s.m.tasks.enter() {
		return cas.Block{}, false, ErrClosed
	}
	defer s.m.tasks.leave()
	abort := func() { _ = s.Close() }
	defer context.AfterFunc(ctx, abort)()
	defer context.AfterFunc(s.m.ctx, abort)()
	fail := func(err error) (cas.Block, bool, error) {
		if s.closed() && ctx.Err() == nil {
			err = ErrClosed
		} else {
			err = s.fetchError(ctx, err)
		}
		_ = s.Close()
		return cas.Block{}, false, err
	}
	frame, err := s.f.read()
	if err != nil {
		return fail(err)
	}
	a, err := decodeAnswer(frame)
	if err != nil {
		return fail(err)
	}
	switch a.kind {
	case typePushed:
		s.pushed = true
		return cas.Block{}, false, nil
	case typeExpired:
		s.spoilt.Store(true)
		return fail(ErrExpired)
	case typeMissing:
		return cas.Block{CID: a.cid}, true, nil
	}
	b = cas.Block{CID: a.cid, Data: a.data}
	if err := s.verify(b); err != nil {
		return fail(err)
	}
	s.m.counters.blocksFetched.Add(1)
	s.m.counters.bytesFetched.Add(uint64(len(a.data)))
	return b, true, nil
}

// Misbehaved ends a stream whose holder pushed what its manifests do not name.
func (s *StudyStream) Misbehaved() error {
	_ = s.Close()
	s.blame("a block was pushed that is not the next one of the study")
	return fmt.Errorf("node %s: %w: a block was pushed that is not the next one of the study", s.holder, ErrBadMessage)
}

// verify is the door. A holder whose block is not what its address says is
// named, counted, and asked for nothing more.
func (s *StudyStream) verify(b cas.Block) error {
	if err := b.Verify(); err == nil {
		return nil
	}
	s.blame("block " + b.CID.String() + " is not what its address says")
	return &WrongBlockError{Peer: s.holder, CID: b.CID}
}

// blame counts against the holder what it must not send, once a stream: others are
// asked first from then on.
func (s *StudyStream) blame(what string) {
	s.spoilt.Store(true)
	if s.blamed.Swap(true) {
		return
	}
	s.m.counters.wrongBlocks.Add(1)
	s.m.wronged(s.holder, wrongBlock)
	s.m.log.Error("a node sent a wrong block", "node", s.holder.String(), "what", what)
}

func (s *StudyStream) fetchError(ctx context.Context, err error) error {
	var wrong *WrongBlockError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.m.ctx.Err() != nil:
		return ErrClosed
	case errors.As(err, &wrong):
		return err
	case errors.Is(err, ErrBadMessage):
		s.blame(err.Error())
	case errors.Is(err, io.EOF), errors.Is(err, network.ErrReset), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w %s: the stream broke off: %w", ErrNotConnected, s.holder, err)
	}
	return fmt.Errorf("node %s: %w", s.holder, err)
}
