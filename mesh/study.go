package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"

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

// StudyServer is the holder's side of study streams. The node implements it.
type StudyServer interface {
	// Grant decides. It returns ErrRefused for "no" and for "not here"
	// alike; any other error is logged here and looks the same to the peer.
	// The mesh fills in Holder, Requester, Study, Origin and Purpose from the
	// request, and signs.
	Grant(ctx context.Context, from index.NodeID, req StudyRequest) (Grant, error)
	// GrantedBlock says whether the peer may have this block now.
	GrantedBlock(from index.NodeID, c cid.Cid) bool
}

// StudyRequest asks a holder for its copy of Origin's revision of a study.
type StudyRequest struct {
	Study    string
	Origin   index.NodeID
	Purpose  string
	Priority uint8
}

// Grant is a holder's signed permission for one requester, purpose and study.
// It carries the study key and never shows it when printed.
type Grant struct {
	Study     string
	Origin    index.NodeID
	Holder    index.NodeID
	Requester index.NodeID
	Purpose   string
	Expires   time.Time // by the holder's clock; whole milliseconds, UTC
	Revision  uint64
	Settled   bool
	Manifest  cas.Ref
	Key       cas.Key
	Sig       []byte // by the holder's node key
}

// Verify checks the signature against Holder.
func (g Grant) Verify() error { return errors.New("not yet") }

// StudyStream is one granted study at one holder. Its methods may be called
// concurrently; calls of Blocks take turns.
type StudyStream struct{}

// OpenStudy asks a holder for a study. The stream ends with Close, when the
// grant expires, or when it is idle for too long; ctx bounds only the opening.
// Errors: ErrRefused, ErrBusy, ErrNotConnected, ErrIdle, ErrBadGrant,
// ErrBadMessage, ErrClosed.
func (m *Mesh) OpenStudy(ctx context.Context, holder index.NodeID, req StudyRequest) (*StudyStream, error) {
	return nil, errors.New("not yet")
}

// Grant returns what the holder granted.
func (s *StudyStream) Grant() Grant { return Grant{} }

// Holder names the other side.
func (s *StudyStream) Holder() index.NodeID { return index.NodeID{} }

// Blocks fetches blocks in the order given. got is called for each, verified,
// one at a time; Data is its own. missing lists those the holder does not
// have, or that did not come because of err. After an error other than got's
// own or the context's the stream is of no more use. Errors: ErrExpired,
// ErrIdle, ErrWrongBlock, ErrBadMessage, ErrClosed, what got returned.
func (s *StudyStream) Blocks(ctx context.Context, cids []cid.Cid, got func(cas.Block) error) (missing []cid.Cid, err error) {
	return cids, errors.New("not yet")
}

// Close ends the stream.
func (s *StudyStream) Close() error { return nil }

// FetchBlocks is the one door for blocks: the first stream gives what it can,
// then the others, then bitswap asks all those holders at once for what is
// still missing. got is called once for each block, verified, one at a time.
// missing lists what nobody gave; err then says why each holder failed. An
// error of got or of ctx ends the fetch at once and is returned as it is.
func (m *Mesh) FetchBlocks(ctx context.Context, streams []*StudyStream, cids []cid.Cid, got func(cas.Block) error) (missing []cid.Cid, err error) {
	return cids, errors.New("not yet")
}
