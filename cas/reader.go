package cas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// MaxFrame is the largest frame ReadFrame returns. A larger one is read by
// its ranges; see PixelLayout.Frame.
const MaxFrame = 512 << 20

// openBlocks is how many opened blocks a Reader keeps: the one being read,
// and the header a caller keeps going back to.
const openBlocks = 2

// Reader reads the plaintext of an instance: an io.ReadSeekCloser and an
// io.ReaderAt. It fetches and opens only the blocks that hold what is asked.
// ReadAt and ReadFrame may be called concurrently.
type Reader struct {
	ctx  context.Context
	get  Getter
	open *sealer
	m    InstanceManifest
	ends []int64

	pos int64 // of Read and Seek; those are for one goroutine

	mu     sync.Mutex
	recent []openBlock // newest first
	closed bool
}

type openBlock struct {
	i     int
	plain []byte
}

// Reader reads the instance; ctx governs every read.
func (m InstanceManifest) Reader(ctx context.Context, g Getter, k Key) *Reader {
	return &Reader{ctx: ctx, get: g, open: newSealer(k), m: m, ends: m.ends()}
}

// Size is the size of the instance.
func (r *Reader) Size() int64 { return r.m.Size }

func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.read(p, r.pos)
	r.pos += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: offset %d", errOffset, off)
	}
	for n < len(p) && err == nil {
		var k int
		k, err = r.read(p[n:], off+int64(n))
		n += k
	}
	if n == len(p) {
		err = nil
	}
	return n, err
}

var errOffset = errors.New("offset before the start")

// Seek implements io.Seeker.
func (r *Reader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		off += r.pos
	case io.SeekEnd:
		off += r.m.Size
	default:
		return r.pos, fmt.Errorf("whence %d is none of start, current and end", whence)
	}
	if off < 0 {
		return r.pos, fmt.Errorf("%w: %d", errOffset, off)
	}
	r.pos = off
	return off, nil
}

// Close forgets what is opened. Reads after it return ErrClosed.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed, r.recent = true, nil
	return nil
}

// ReadFrame returns the bytes of frame i (from 0). A 1-bit native frame that
// begins inside a byte is moved to begin at the lowest bit of the first one,
// and the bits behind it are zero.
func (r *Reader) ReadFrame(i int) ([]byte, error) {
	parts, bit, err := r.m.Pixel.Frame(i)
	if err != nil {
		return nil, err
	}
	var size int64
	for _, p := range parts {
		if p.Len < 0 || p.Len > MaxFrame-size {
			return nil, fmt.Errorf("%w: frame %d has over %d bytes; read it by its ranges", ErrTooLarge, i, MaxFrame)
		}
		size += p.Len
	}
	frame := make([]byte, size)
	at := frame
	for _, p := range parts {
		if _, err := r.ReadAt(at[:p.Len], p.Off); err != nil {
			return nil, err
		}
		at = at[p.Len:]
	}
	if !r.m.Pixel.Encapsulated {
		frame = align(frame, bit, r.m.Pixel.Run.Bits)
	}
	return frame, nil
}

// align moves bits [bit, bit+n) to the front; pixel 0 is the lowest bit
// (PS3.5 8.1.1).
func align(b []byte, bit int, n int64) []byte {
	if bit > 0 {
		for i := range b {
			b[i] >>= bit
			if i+1 < len(b) {
				b[i] |= b[i+1] << (8 - bit)
			}
		}
	}
	b = b[:(n+7)/8]
	if tail := n % 8; tail > 0 {
		b[len(b)-1] &= 1<<tail - 1
	}
	return b
}

// read reads from one block.
func (r *Reader) read(p []byte, off int64) (int, error) {
	if off >= r.m.Size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	i := blockAt(r.ends, off)
	if i == len(r.ends) {
		return 0, fmt.Errorf("%w: no block holds byte %d of %d", ErrLengths, off, r.m.Size)
	}
	plain, err := r.block(i)
	if err != nil {
		return 0, err
	}
	return copy(p, plain[off-(r.ends[i]-r.m.Blocks[i].Len):]), nil
}

// block opens block i, or finds it opened.
func (r *Reader) block(i int) ([]byte, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, fmt.Errorf("reading an instance: %w", ErrClosed)
	}
	if at := slices.IndexFunc(r.recent, func(b openBlock) bool { return b.i == i }); at >= 0 {
		b := r.recent[at]
		copy(r.recent[1:at+1], r.recent[:at])
		r.recent[0] = b
		r.mu.Unlock()
		return b.plain, nil
	}
	r.mu.Unlock()

	ref := r.m.Blocks[i]
	plain, err := r.open.get(r.ctx, r.get, domData, ref.CID)
	if err != nil {
		return nil, err
	}
	if int64(len(plain)) != ref.Len {
		return nil, fmt.Errorf("%w: block %s holds %d bytes, its manifest says %d", ErrLengths, ref.CID, len(plain), ref.Len)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.recent = slices.Insert(r.recent, 0, openBlock{i, plain})
		r.recent = r.recent[:min(len(r.recent), openBlocks)]
	}
	return plain, nil
}
