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
	Known  bool              // it is only hashed; see Unless
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
	// batchBytes is how many sealed bytes one put carries.
	batchBytes = 2 << 20
	// batches is how many puts of one Writer are under way at once, inFlight
	// how many blocks are being sealed or waiting for a put. Together they
	// bound the memory of a Writer to about 12 MiB.
	batches  = 2
	inFlight = 4
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

	known  func() bool   // nil: it is not
	slots  chan struct{} // one for each block that is being sealed or put
	puts   chan struct{} // one for each put
	under  sync.WaitGroup
	mu     sync.Mutex // guards what follows
	err    error
	blocks []BlockRef
	sealed []Block // not yet put
	held   int     // bytes in sealed

	written *Written // once all is sealed
	done    bool
}

// plains are buffers for the plaintext of one block.
var plains = sync.Pool{New: func() any { b := make([]byte, 0, MaxPlain); return &b }}

// NewWriter begins an instance. Close or Abort must be called.
func NewWriter(ctx context.Context, s Putter, k Key) *Writer {
	ctx, cancel := context.WithCancel(ctx)
	return &Writer{ctx: ctx, cancel: cancel, store: s, seal: newSealer(k), sum: sha256.New(), slots: make(chan struct{}, inFlight), puts: make(chan struct{}, batches)}
}

// Unless has nothing sealed or stored, only hashed, if known says so. It is
// called before the first Write; known is asked once and beside the writing.
func (w *Writer) Unless(known func() bool) { w.known = sync.OnceValue(known) }

// Write takes the next bytes; it does not keep p. It waits while as much as
// may be under way is under way. After an error only Abort is of use.
func (w *Writer) Write(s Span, p []byte) error {
	if w.done || w.written != nil {
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
		if w.buf == nil {
			w.buf = *plains.Get().(*[]byte)
		}
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

// cut makes a block of the first n bytes of buf and has it sealed.
func (w *Writer) cut(n int) {
	plain, rest := w.buf[:n], w.buf[n:]
	w.buf, w.whole = nil, 0
	if len(rest) > 0 {
		w.buf = append(*plains.Get().(*[]byte), rest...)
	}
	w.mu.Lock()
	at := len(w.blocks)
	w.blocks = append(w.blocks, BlockRef{Len: int64(n)})
	w.mu.Unlock()
	select {
	case w.slots <- struct{}{}:
	case <-w.ctx.Done():
		w.fail(context.Cause(w.ctx))
		return
	}
	w.under.Go(func() {
		defer func() { <-w.slots }()
		if err := w.ctx.Err(); err != nil {
			w.fail(err)
			return
		}
		known := w.known != nil && w.known()
		var b Block
		var err error
		if !known {
			b, err = w.seal.seal(domData, plain)
		}
		plain = plain[:0]
		plains.Put(&plain)
		if known {
			return
		}
		if err != nil {
			w.fail(err)
			return
		}
		if batch := w.take(at, b); batch != nil {
			w.puts <- struct{}{}
			defer func() { <-w.puts }()
			if err := w.store.Put(w.ctx, batch...); err != nil {
				w.fail(err)
			}
		}
	})
}

// take keeps a sealed block and returns what is due to be put.
func (w *Writer) take(at int, b Block) (batch []Block) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blocks[at].CID = b.CID
	w.sealed = append(w.sealed, b)
	if w.held += len(b.Data); w.held < batchBytes {
		return nil
	}
	batch, w.sealed, w.held = w.sealed, nil, 0
	return batch
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

// Seal ends the instance and says what has been written. All blocks have
// their addresses then; the last of them are stored by Close.
func (w *Writer) Seal() (Written, error) {
	if w.done {
		return Written{}, fmt.Errorf("closing an instance: %w", ErrClosed)
	}
	if w.written == nil {
		if len(w.buf) > 0 {
			w.endUnit(true)
		}
		w.under.Wait()
		w.written = &Written{Blocks: slices.Clip(w.blocks), Size: w.size, SHA256: [sha256.Size]byte(w.sum.Sum(nil))}
		if w.written.Known = w.known != nil && w.known(); w.written.Known {
			w.written.Blocks = nil
		}
	}
	return *w.written, w.failed()
}

// Close returns when everything written is durable, and with it the blocks
// that belong to it, such as those of its manifest. Blocks of a Writer that
// failed may be stored in part; nothing names them.
func (w *Writer) Close(with ...Block) (Written, error) {
	written, err := w.Seal()
	if w.done {
		return written, err
	}
	if err == nil {
		if last := append(w.sealed, with...); len(last) > 0 {
			err = w.store.Put(w.ctx, last...)
		}
	}
	w.done = true
	w.cancel()
	if err != nil {
		return Written{}, err
	}
	return written, nil
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
