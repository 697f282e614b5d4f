package cas

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"sync"
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

const (
	// packUntil is when a block of small units is full enough.
	packUntil = 64 << 10
	// packAtMost is the most a block of several units may hold, so that
	// reading a small unit never costs much more than the unit.
	packAtMost = 2 * packUntil
	// cutEvery is where a unit that is too large for one block is cut. It
	// divides common frame sizes; what is left at the end may fill a whole
	// block, so no cut leaves a crumb.
	cutEvery = 512 << 10
	// batchBytes is how much plaintext one put carries.
	batchBytes = 2 << 20
	// batches is how many puts of one Writer are under way at once. With
	// batchBytes it bounds the memory of a Writer to about 10 MiB.
	batches = 2
)

// Writer cuts a stream of plaintext into blocks, seals and stores them. The
// same bytes with the same spans are always cut alike, whatever the sizes of
// the pieces. It is for one goroutine.
type Writer struct {
	ctx    context.Context
	cancel context.CancelFunc
	store  Putter
	seal   *sealer

	sum  hash.Hash
	size int64
	span Span

	buf   []byte // bytes not yet cut
	whole int    // how many of them are whole units
	split bool   // the unit in buf has blocks already

	plains [][]byte // cut, not yet handed on
	held   int      // bytes in plains
	blocks []BlockRef

	slots chan struct{} // one for each put that may begin
	under sync.WaitGroup
	mu    sync.Mutex // guards err and the CIDs in blocks
	err   error
	done  bool
}

// NewWriter begins an instance. Close or Abort must be called.
func NewWriter(ctx context.Context, s Putter, k Key) *Writer {
	ctx, cancel := context.WithCancel(ctx)
	return &Writer{ctx: ctx, cancel: cancel, store: s, seal: newSealer(k), sum: sha256.New(), slots: make(chan struct{}, batches)}
}

// Write takes the next bytes; it does not keep p. It waits while as much as
// may be under way is under way. After an error only Abort is of use.
func (w *Writer) Write(s Span, p []byte) error {
	if w.done {
		return fmt.Errorf("writing an instance: %w", ErrClosed)
	}
	if err := w.failed(); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	if s != w.span && len(w.buf) > 0 {
		w.endUnit(s.Group != w.span.Group)
	}
	w.span = s
	w.sum.Write(p)
	w.size += int64(len(p))
	for len(p) > 0 {
		n := min(len(p), MaxPlain-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		if w.whole > 0 && len(w.buf) > packAtMost {
			w.cut(w.whole)
		}
		if len(p) > 0 && len(w.buf) == MaxPlain {
			w.cut(cutEvery)
			w.split = true
		}
	}
	return w.failed()
}

// endUnit says the unit in buf is complete. Only small units stay, for
// others to join them.
func (w *Writer) endUnit(endGroup bool) {
	if endGroup || w.split || len(w.buf) >= packUntil {
		w.cut(len(w.buf))
	} else {
		w.whole = len(w.buf)
	}
	w.split = false
}

// cut makes a block of the first n bytes of buf.
func (w *Writer) cut(n int) {
	plain := w.buf[:n:n]
	w.buf = append(make([]byte, 0, max(len(w.buf)-n, packUntil)), w.buf[n:]...)
	w.whole = 0
	w.plains = append(w.plains, plain)
	if w.held += n; w.held >= batchBytes {
		w.flush()
	}
}

// flush hands what is cut on to be sealed and stored.
func (w *Writer) flush() {
	if len(w.plains) == 0 {
		return
	}
	plains := w.plains
	w.plains, w.held = nil, 0
	w.mu.Lock()
	first := len(w.blocks)
	for _, p := range plains {
		w.blocks = append(w.blocks, BlockRef{Len: int64(len(p))})
	}
	w.mu.Unlock()
	select {
	case w.slots <- struct{}{}:
	case <-w.ctx.Done():
		w.fail(context.Cause(w.ctx))
		return
	}
	w.under.Add(1)
	go func() {
		defer w.under.Done()
		defer func() { <-w.slots }()
		if err := w.put(first, plains); err != nil {
			w.fail(err)
		}
	}()
}

func (w *Writer) put(first int, plains [][]byte) error {
	sealed := make([]Block, len(plains))
	for i, p := range plains {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		b, err := w.seal.seal(domData, p)
		if err != nil {
			return err
		}
		sealed[i] = b
		w.mu.Lock()
		w.blocks[first+i].CID = b.CID
		w.mu.Unlock()
	}
	return w.store.Put(w.ctx, sealed...)
}

func (w *Writer) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// fail keeps the first error and stops the rest.
func (w *Writer) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.cancel()
}

// Close returns when everything written is durable. Blocks of a Writer that
// failed may be stored in part; nothing names them.
func (w *Writer) Close() (Written, error) {
	if w.done {
		return Written{}, fmt.Errorf("closing an instance: %w", ErrClosed)
	}
	if len(w.buf) > 0 {
		w.endUnit(true)
	}
	w.flush()
	w.under.Wait()
	w.done = true
	w.cancel()
	if w.err != nil {
		return Written{}, w.err
	}
	return Written{Blocks: slices.Clip(w.blocks), Size: w.size, SHA256: [sha256.Size]byte(w.sum.Sum(nil))}, nil
}

// Abort gives up and returns when nothing is under way any more. Blocks
// already stored stay: other instances may share them. After Close it does
// nothing, so it may be deferred.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.cancel()
	w.under.Wait()
}
