package cas

import (
	"context"
	"crypto/sha256"
	"errors"
)

// Span tells the Writer what bytes belong to, and so where it may cut.
// Bytes of different Groups never share a block. Of one Group, whole small
// Units (frames) may share one; a Unit that needs several blocks shares none.
type Span struct {
	Group uint8
	Unit  int
}

// Written is what a Writer has stored.
type Written struct {
	Blocks []BlockRef
	Size   int64
	SHA256 [sha256.Size]byte // of the whole plaintext
}

// Writer cuts a stream of plaintext into blocks, seals and stores them. The
// same bytes with the same spans are always cut alike, whatever the sizes of
// the pieces. It is for one goroutine.
type Writer struct{}

// NewWriter begins an instance. Close or Abort must be called.
func NewWriter(ctx context.Context, s Putter, k Key) *Writer { return &Writer{} }

// Write takes the next bytes; it does not keep p.
func (w *Writer) Write(s Span, p []byte) error { return errors.New("not yet") }

// Close returns when everything written is durable.
func (w *Writer) Close() (Written, error) { return Written{}, errors.New("not yet") }

// Abort gives up and returns when nothing is under way any more. Blocks
// already stored stay: other instances may share them. It does nothing after Close.
func (w *Writer) Abort() {}
