package mesh

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	frameHeader = 4         // bytes of a frame's length
	chunk       = 64 << 10  // the least progress that keeps a stream alive
	writeRun    = 256 << 10 // bytes written under one deadline
)

// duplex is what frames need of a stream.
type duplex interface {
	io.Reader
	io.Writer
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// frames reads and writes frames on a stream: a length of four bytes, big
// endian, and that many bytes. The other side may keep still for idle between
// frames; within one it must move a chunk within pace, however slow its line.
// One goroutine may read while another writes.
type frames struct {
	s     duplex
	r     *bufio.Reader
	max   int // most bytes of a frame that is read
	idle  time.Duration
	pace  time.Duration
	heard func()      // called whenever bytes came
	grew  func(n int) // if set, called whenever more of a frame came: n bytes of it are here

	// Called before so many bytes of a frame are read, or written; nil: neither
	// waits. An error ends the stream.
	take, give func(n int) error
}

func newFrames(s duplex, max int, idle, pace time.Duration, heard func()) *frames {
	return &frames{s: s, r: bufio.NewReaderSize(s, 16<<10), max: max, idle: idle, pace: pace, heard: heard}
}

// await waits for a frame to begin. After ErrIdle it may be called again:
// nothing has been lost.
func (f *frames) await(d time.Duration) error {
	if err := f.s.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if b, err := f.r.Peek(frameHeader); err != nil {
		if len(b) > 0 && errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return idleError(err)
	}
	f.heard()
	return nil
}

// read returns the next frame, which may be empty. io.EOF says that the other
// side ended the stream between frames.
func (f *frames) read() ([]byte, error) {
	if err := f.await(f.idle); err != nil {
		return nil, err
	}
	var h [frameHeader]byte
	if _, err := io.ReadFull(f.r, h[:]); err != nil {
		return nil, idleError(err)
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > uint32(f.max) {
		return nil, fmt.Errorf("%w: a frame of %d bytes was announced, the limit is %d", ErrBadMessage, n, f.max)
	}
	// Memory follows what has arrived: the whole frame is only made room for
	// when its first chunk is here.
	size := int(n)
	buf := make([]byte, 0, min(size, chunk))
	for len(buf) < size {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, size), buf...)
		}
		step := min(size-len(buf), cap(buf)-len(buf), chunk)
		if f.take != nil {
			if err := f.take(step); err != nil {
				return nil, err
			}
		}
		if err := f.s.SetReadDeadline(time.Now().Add(f.pace)); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(f.r, buf[len(buf):len(buf)+step]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, idleError(err)
		}
		buf = buf[:len(buf)+step]
		f.heard()
		if f.grew != nil && len(buf) < size {
			f.grew(len(buf))
		}
	}
	return buf, nil
}

// write sends one frame made of parts.
func (f *frames) write(parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	head := make([]byte, frameHeader, frameHeader+min(n, chunk))
	binary.BigEndian.PutUint32(head, uint32(n))
	for len(parts) > 0 && len(head)+len(parts[0]) <= chunk {
		head = append(head, parts[0]...)
		parts = parts[1:]
	}
	if err := f.writeRaw(head); err != nil {
		return err
	}
	for _, p := range parts {
		if err := f.writeRaw(p); err != nil {
			return err
		}
	}
	return nil
}

func (f *frames) writeRaw(b []byte) error {
	for len(b) > 0 {
		run := b[:min(len(b), writeRun)]
		if f.give != nil {
			run = run[:min(len(run), chunk)]
			if err := f.give(len(run)); err != nil {
				return err
			}
		}
		if err := f.s.SetWriteDeadline(time.Now().Add(f.pace)); err != nil {
			return err
		}
		if _, err := f.s.Write(run); err != nil {
			return idleError(err)
		}
		b = b[len(run):]
	}
	return nil
}

// idleError gives a passed deadline its name.
func idleError(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return ErrIdle
	}
	return err
}
