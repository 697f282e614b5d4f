package cas

import (
	"context"
	"errors"
)

// Reader reads the plaintext of an instance: an io.ReadSeekCloser and an
// io.ReaderAt. It fetches and opens only the blocks that hold what is asked.
// ReadAt and ReadFrame may be called concurrently.
type Reader struct{}

// Reader reads the instance; ctx governs every read.
func (m InstanceManifest) Reader(ctx context.Context, g Getter, k Key) *Reader { return &Reader{} }

func (r *Reader) Read(p []byte) (int, error)                { return 0, errors.New("not yet") }
func (r *Reader) ReadAt(p []byte, off int64) (int, error)   { return 0, errors.New("not yet") }
func (r *Reader) Seek(off int64, whence int) (int64, error) { return 0, errors.New("not yet") }
func (r *Reader) Size() int64                               { return 0 }
func (r *Reader) Close() error                              { return nil }

// ReadFrame returns the bytes of frame i (from 0). A 1-bit native frame that
// begins inside a byte is shifted to begin at the lowest bit of the first.
func (r *Reader) ReadFrame(i int) ([]byte, error) { return nil, errors.New("not yet") }
