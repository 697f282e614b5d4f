package cas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
)

const (
	// MaxBlock is the most bytes a sealed block may have.
	MaxBlock = 1 << 20
	// MaxPlain is the most plaintext one block can hold.
	MaxPlain = MaxBlock - Overhead
)

var (
	// ErrNotFound says the store does not hold the block.
	ErrNotFound = errors.New("block is not here")
	// ErrCorrupt says bytes are not what their address promises. Fetch the
	// block from another holder; putting it again mends the store (see Putter).
	ErrCorrupt = errors.New("block is corrupt")
	// ErrTooLarge says a block or an object is over its limit.
	ErrTooLarge = errors.New("over the size limit")
	// ErrBadCID says an address is not a CIDv1 with the raw codec and SHA-256.
	ErrBadCID = errors.New("not the address of a sealed block")
	// ErrClosed says a store, reader or writer is used after its end.
	ErrClosed = errors.New("already closed")
)

// Block is sealed bytes and their address.
type Block struct {
	CID  cid.Cid
	Data []byte
}

// Verify is the door: whatever comes from outside passes it before anything
// else looks at it. It returns ErrTooLarge, ErrBadCID or ErrCorrupt.
func (b Block) Verify() error {
	if len(b.Data) > MaxBlock {
		return fmt.Errorf("%w: block has %d bytes, the limit is %d; refuse its sender", ErrTooLarge, len(b.Data), MaxBlock)
	}
	want, err := digestOf(b.CID)
	if err != nil {
		return err
	}
	if got := sha256.Sum256(b.Data); got != want {
		return corrupt(b.CID, "its SHA-256 is not the one in its address")
	}
	return nil
}

// Getter reads blocks. It is all a Reader or a Load function needs, so that
// what reads may stand on a store, on a peer, or on one behind the other.
type Getter interface {
	// Get returns the sealed bytes; the slice is the caller's own. It
	// returns ErrNotFound when the block is not held and ErrCorrupt when the
	// backend can tell that it no longer has what was put.
	Get(context.Context, cid.Cid) ([]byte, error)
}

// Putter stores blocks.
type Putter interface {
	// Put stores the blocks and returns when all are durable: after nil a
	// power cut loses none of them. A block already held is left as it is;
	// one for which Get would return ErrCorrupt is replaced. A store over a
	// network replaces only what a Get of this process found corrupt or it
	// can tell cheaply, by size or checksum: who repairs calls Get before, or
	// Delete, and Get after.
	// Put trusts the addresses; see PutVerified. It keeps no reference to
	// Data after it returns. After an error any part of the blocks may be
	// stored; putting them again is always right.
	Put(context.Context, ...Block) error
}

// ShelfID names a shelf: the blocks that one study key seals. It is drawn from
// that key (see Key.Shelf) and tells nothing of it.
type ShelfID [16]byte

// String is the id in hex.
func (id ShelfID) String() string { return hex.EncodeToString(id[:]) }

// Store keeps sealed blocks on shelves, one for each study key: blocks are
// shared inside a study and never between studies, so a study's shelf can be
// counted, swept and dropped without knowing what is on it. All methods may be
// called concurrently.
type Store interface {
	// Shelf returns the shelf, which may be empty. It costs nothing.
	Shelf(ShelfID) Shelf
	// Shelves calls fn with each shelf that has a block, in the order of the
	// ids, beginning behind after (the zero ShelfID: at the start). fn may use
	// the store; its error ends the enumeration and is returned as it is.
	Shelves(ctx context.Context, after ShelfID, fn func(ShelfID) error) error
	// Drop forgets all blocks of a shelf, durably.
	Drop(context.Context, ShelfID) error
	// Close waits until what is under way has ended; a store over a network
	// cuts it off, with ErrClosed. It may be called twice.
	Close() error
}

// Shelf holds the sealed blocks of one study by address. All methods may be
// called concurrently. An address that no block can have (see ErrBadCID) is
// simply not held: Has is false, Get is ErrNotFound.
type Shelf interface {
	Getter
	Putter
	Has(context.Context, cid.Cid) (bool, error)
	// Delete forgets the blocks, durably; one not held is no error.
	Delete(context.Context, ...cid.Cid) error
	// Enumerate calls fn with address and sealed size of each block, in the
	// order of the digests, beginning behind after (cid.Undef: at the
	// start). What is held for the whole of the call is seen exactly once;
	// what comes or goes meanwhile is seen at most once. fn may use the
	// store; its error ends the enumeration and is returned as it is.
	Enumerate(ctx context.Context, after cid.Cid, fn func(c cid.Cid, size int64) error) error
	// Size is how many blocks are on the shelf and their sealed bytes.
	Size(context.Context) (blocks int, bytes int64, err error)
}

// PutVerified puts blocks that come from outside: every one passes
// Block.Verify before any is stored.
func PutVerified(ctx context.Context, s Putter, blocks ...Block) error {
	for _, b := range blocks {
		if err := b.Verify(); err != nil {
			return err
		}
	}
	return s.Put(ctx, blocks...)
}

// Verified is the coat a shelf wears where blocks come from outside: its Put
// is PutVerified.
func Verified(s Shelf) Shelf { return verified{s} }

type verified struct{ Shelf }

func (v verified) Put(ctx context.Context, blocks ...Block) error {
	return PutVerified(ctx, v.Shelf, blocks...)
}

// Copy puts on one shelf what is on another.
func Copy(ctx context.Context, to Putter, from Shelf) error {
	return from.Enumerate(ctx, cid.Undef, func(c cid.Cid, _ int64) error {
		data, err := from.Get(ctx, c)
		if err != nil {
			return err
		}
		return to.Put(ctx, Block{CID: c, Data: data})
	})
}

// cidPrefix is CIDv1, raw codec, SHA2-256, 32 bytes.
var cidPrefix = []byte{0x01, 0x55, 0x12, 0x20}

const cidLen = 4 + sha256.Size

// Sum is the address of sealed bytes.
func Sum(sealed []byte) cid.Cid { return cidOf(sha256.Sum256(sealed)) }

// ParseCID reads the binary form of an address and refuses every other kind
// of CID with ErrBadCID.
func ParseCID(b []byte) (cid.Cid, error) {
	if len(b) != cidLen || !bytes.HasPrefix(b, cidPrefix) {
		return cid.Undef, fmt.Errorf("%w: %d bytes do not begin a CIDv1 of raw bytes by SHA-256", ErrBadCID, len(b))
	}
	return cidOf([sha256.Size]byte(b[len(cidPrefix):])), nil
}

func cidOf(digest [sha256.Size]byte) cid.Cid {
	b := make([]byte, 0, cidLen)
	_, c, err := cid.CidFromBytes(append(append(b, cidPrefix...), digest[:]...))
	if err != nil {
		panic("cas: a well-formed CID was refused: " + err.Error())
	}
	return c
}

func digestOf(c cid.Cid) (d [sha256.Size]byte, err error) {
	s := c.KeyString()
	if len(s) != cidLen || s[:len(cidPrefix)] != string(cidPrefix) {
		return d, fmt.Errorf("%w: %d bytes do not begin a CIDv1 of raw bytes by SHA-256", ErrBadCID, len(s))
	}
	copy(d[:], s[len(cidPrefix):])
	return d, nil
}

func corrupt(c cid.Cid, why string) error {
	return fmt.Errorf("%w: %s: %s; fetch it again from another holder", ErrCorrupt, c, why)
}
