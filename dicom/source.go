package dicom

import (
	"errors"
	"fmt"
	"io"
)

// errHead: more bytes would have to be held before the UIDs are known.
var errHead = errors.New("dicom: head limit")

// source reads an instance forward through one buffer and hands what has been
// consumed on as pieces. Pieces are cut at the section changes its user
// announces and every MaxPiece bytes from there, so never where a read ended.
type source struct {
	r    io.Reader
	seek io.Seeker // set when long runs may be skipped
	left int64     // with seek: bytes that r had when it was handed over
	base int64     // with seek: where r stood then

	buf    []byte
	lo, hi int   // buf[lo:hi] is read and not consumed
	off    int64 // offset of buf[lo] in the instance
	start  int64 // offset of the first byte
	err    error // why r gives no more

	emit    func(Piece) error // nil: pieces are not wanted
	held    bool              // Begin has not been called: nothing may be emitted
	head    int64             // offset that may not be passed while held
	out     int               // buf[out:lo] is consumed and not emitted
	section Section
	frame   int
	runs    []run // complete runs, held
	inRuns  int   // their bytes
	mem     *account
}

// run is consumed bytes of one section that wait for Begin.
type run struct {
	section Section
	frame   int
	len     int
}

const firstBuffer = 32 << 10

func newSource(r io.Reader, emit func(Piece) error, head int64) *source {
	s := &source{r: r, emit: emit, held: true, head: head}
	if emit != nil {
		return s
	}
	// A pipe is an io.Seeker too, and only says no when asked.
	if sk, ok := r.(io.Seeker); ok {
		base, err := sk.Seek(0, io.SeekCurrent)
		if err != nil {
			return s
		}
		end, err := sk.Seek(0, io.SeekEnd)
		if err != nil {
			return s
		}
		if _, err = sk.Seek(base, io.SeekStart); err != nil {
			s.err = fmt.Errorf("dicom: seeking back: %w", err)
			return s
		}
		s.seek, s.base, s.left = sk, base, end-base
	}
	return s
}

// fill makes n bytes available, n being small. Its error is io.EOF where the
// instance ends before them.
func (s *source) fill(n int) error {
	idle := 0
	for s.hi-s.lo < n {
		if s.err != nil {
			return s.err
		}
		if s.hi == len(s.buf) {
			if err := s.room(); err != nil {
				return err
			}
		}
		k, err := s.r.Read(s.buf[s.hi:])
		if k < 0 || k > len(s.buf)-s.hi {
			return errors.New("dicom: reader returned an impossible count")
		}
		s.hi += k
		switch {
		case err == io.EOF:
			s.err = io.EOF
		case err != nil:
			s.err = err
		case k == 0:
			if idle++; idle > 100 {
				s.err = io.ErrNoProgress
			}
		}
	}
	return nil
}

// room makes space behind hi: by moving what must stay, or by growing, which
// happens only when bytes that were read fill the buffer.
func (s *source) room() error {
	keep := s.out
	if len(s.buf) > 0 && keep >= len(s.buf)/2 {
		copy(s.buf, s.buf[keep:s.hi])
	} else {
		size := max(2*len(s.buf), firstBuffer)
		if err := s.mem.use(int64(size - len(s.buf))); err != nil {
			return err
		}
		buf := make([]byte, size)
		copy(buf, s.buf[keep:s.hi])
		s.buf = buf
	}
	s.hi -= keep
	s.lo -= keep
	s.out = 0
	return nil
}

// peek shows up to n bytes without consuming them; fewer only at the end.
func (s *source) peek(n int) ([]byte, error) {
	if err := s.fill(n); err != nil && err != io.EOF {
		return nil, err
	}
	return s.buf[s.lo:min(s.hi, s.lo+n)], nil
}

// allow says no to n more bytes where too many are held already.
func (s *source) allow(n int64) error {
	if s.held && n > s.head-s.off {
		return errHead
	}
	return nil
}

// skip consumes n bytes: io.EOF where there are fewer.
func (s *source) skip(n int64) error {
	if err := s.allow(n); err != nil {
		return err
	}
	for n > 0 {
		if s.lo == s.hi {
			if s.seek != nil && n > int64(max(len(s.buf), firstBuffer)) {
				return s.jump(n)
			}
			if err := s.fill(1); err != nil {
				return err
			}
		}
		k := min(n, int64(s.hi-s.lo))
		if s.emit != nil && !s.held {
			k = min(k, int64(MaxPiece-(s.lo-s.out)))
		}
		s.lo += int(k)
		s.off += k
		n -= k
		if s.emit == nil {
			s.out = s.lo
		} else if !s.held && s.lo-s.out == MaxPiece {
			if err := s.send(MaxPiece); err != nil {
				return err
			}
		}
	}
	return nil
}

// jump moves n bytes on without reading them. The buffer is empty.
func (s *source) jump(n int64) error {
	to := s.off - s.start + n
	if to > s.left {
		return io.EOF
	}
	if _, err := s.seek.Seek(s.base+to, io.SeekStart); err != nil {
		return fmt.Errorf("dicom: seeking: %w", err)
	}
	s.off += n
	return nil
}

// take consumes n bytes and gives a copy. Memory grows with what is read, not
// with n.
func (s *source) take(n int64, arena *[]byte) ([]byte, error) {
	if err := s.allow(n); err != nil {
		return nil, err
	}
	if n <= 512 {
		if err := s.fill(int(n)); err != nil {
			return nil, err
		}
		if err := s.mem.use(n); err != nil {
			return nil, err
		}
		if len(*arena) < int(n) {
			*arena = make([]byte, 8<<10)
		}
		v := (*arena)[:n:n]
		*arena = (*arena)[n:]
		copy(v, s.buf[s.lo:])
		return v, s.skip(n)
	}
	v := make([]byte, 0, min(n, int64(max(s.hi-s.lo, 4<<10))))
	for int64(len(v)) < n {
		if err := s.fill(1); err != nil {
			return nil, err
		}
		k := min(n-int64(len(v)), int64(s.hi-s.lo))
		if err := s.mem.use(k); err != nil {
			return nil, err
		}
		v = append(v, s.buf[s.lo:s.lo+int(k)]...)
		if err := s.skip(k); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// rest consumes all there is.
func (s *source) rest() error {
	if s.seek != nil {
		if n := s.left - (s.off - s.start); n > int64(s.hi-s.lo) {
			return s.skip(n)
		}
	}
	for {
		if err := s.fill(1); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.skip(int64(s.hi - s.lo)); err != nil {
			return err
		}
	}
}

// Read consumes.
func (s *source) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.fill(1); err != nil {
		return 0, err
	}
	n := copy(p, s.buf[s.lo:s.hi])
	return n, s.skip(int64(n))
}

// ReadByte lets a decompressor take not one byte more than its stream has.
func (s *source) ReadByte() (byte, error) {
	if s.lo == s.hi {
		if err := s.fill(1); err != nil {
			return 0, err
		}
	}
	b := s.buf[s.lo]
	return b, s.skip(1)
}

// enter says what the bytes from here on are. It always begins a piece.
func (s *source) enter(section Section, frame int) error {
	if err := s.cut(); err != nil {
		return err
	}
	s.section, s.frame = section, frame
	return nil
}

// cut ends the current piece here.
func (s *source) cut() error {
	if s.emit == nil {
		return nil
	}
	n := s.lo - s.out
	if s.held {
		if n -= s.inRuns; n > 0 {
			s.runs = append(s.runs, run{s.section, s.frame, n})
			s.inRuns += n
		}
		return nil
	}
	if n == 0 {
		return nil
	}
	return s.send(n)
}

// release ends the holding: what is complete goes out.
func (s *source) release() error {
	s.held = false
	if s.emit == nil {
		return nil
	}
	section, frame := s.section, s.frame
	for _, r := range s.runs {
		s.section, s.frame = r.section, r.frame
		for r.len > 0 {
			n := min(r.len, MaxPiece)
			if err := s.send(n); err != nil {
				return err
			}
			r.len -= n
		}
	}
	s.runs, s.inRuns = nil, 0
	s.section, s.frame = section, frame
	for s.lo-s.out >= MaxPiece {
		if err := s.send(MaxPiece); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) send(n int) error {
	p := Piece{Section: s.section, Data: s.buf[s.out : s.out+n : s.out+n]}
	if s.section == SectionFrame {
		p.Frame = s.frame
	}
	s.out += n
	return s.emit(p)
}
