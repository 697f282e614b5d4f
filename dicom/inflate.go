package dicom

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
)

// freeInflation is how much may come out before Limits.Ratio is asked: blank
// images compress a thousandfold.
const freeInflation = 64 << 20

// inflate decompresses a bounded body and says what is wrong with it.
type inflate struct {
	raw   *source
	z     io.ReadCloser
	lim   Limits
	start int64 // where the body begins in raw
	n     int64 // bytes given
}

func newInflate(raw *source, lim Limits) *inflate {
	return &inflate{raw: raw, z: flate.NewReader(raw), lim: lim, start: raw.off}
}

func (f *inflate) Read(p []byte) (int, error) {
	n, err := f.z.Read(p)
	f.n += int64(n)
	if f.n > f.lim.Inflated {
		return 0, ErrLimit{"Inflated", f.lim.Inflated}
	}
	if f.n > freeInflation && f.n/f.lim.Ratio > f.raw.off-f.start {
		return 0, ErrLimit{"Ratio", f.lim.Ratio}
	}
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &corrupt):
		err = ErrMalformed{Offset: f.raw.off, Why: "the deflated body is no valid deflate stream"}
	case err == io.ErrUnexpectedEOF && f.raw.err == io.EOF:
		err = fmt.Errorf("%w: the deflated body ends unfinished at byte %d", ErrTruncated, f.raw.off)
	}
	return n, err
}

// inflatedBody reads attributes from what the rest of raw inflates to.
func (s *scanner) inflatedBody() error {
	if err := s.raw.enter(SectionOpaque, 0); err != nil {
		return err
	}
	base := s.raw.off + s.metaGrowth()
	s.src = newSource(newInflate(s.raw, s.lim), nil, base+s.lim.Head)
	s.src.off, s.src.start, s.src.mem = base, base, s.mem
	b, err := s.src.peek(12)
	if err != nil {
		return s.fail(err, 0)
	}
	x, _ := sniff(b, syntax{})
	if err := s.body(x); err != nil {
		return err
	}
	if !s.begun {
		return ErrMissingUID{s.missing()}
	}
	if err := s.raw.enter(SectionTrailer, 0); err != nil {
		return err
	}
	s.inst.Trailer = Range{Off: s.raw.off}
	if err := s.raw.rest(); err != nil {
		return s.fail(err, 0)
	}
	s.inst.Trailer.Len = s.raw.off - s.inst.Trailer.Off
	return nil
}

// explicitUID is the value Inflate gives Transfer Syntax UID.
const explicitUID = string(ExplicitVRLittleEndian) + "\x00"

// metaGrowth is by how much the meta header of Inflate's stream is longer.
func (s *scanner) metaGrowth() int64 { return int64(len(explicitUID)) - s.metaSyntax.length }

// newMeta is the bytes up to the body, of which old begins at offset 0, with
// the transfer syntax replaced and the group length adjusted.
func (s *scanner) newMeta(old []byte) []byte {
	f := s.metaSyntax
	value := f.off + int64(f.size)
	head := append([]byte(nil), old[f.off:value]...)
	if f.implicit || f.vr.long() {
		f.order().PutUint32(head[len(head)-4:], uint32(len(explicitUID)))
	} else {
		f.order().PutUint16(head[len(head)-2:], uint16(len(explicitUID)))
	}
	var b []byte
	b = append(b, old[:f.off]...)
	b = append(b, head...)
	b = append(b, explicitUID...)
	b = append(b, old[value+f.length:]...)
	if g := s.metaLength; g.found && g.length == 4 && g.off < f.off {
		at := g.off + int64(g.size)
		n := g.order().Uint32(b[at:])
		g.order().PutUint32(b[at:], uint32(int64(n)+s.metaGrowth()))
	}
	return b
}

// inflater is Inflate's reader; it looks at the instance when first asked.
type inflater struct {
	r   io.Reader
	lim Limits
	out io.Reader
}

func newInflater(r io.Reader, lim Limits) io.Reader { return &inflater{r: r, lim: lim} }

func (f *inflater) Read(p []byte) (int, error) {
	if f.out == nil {
		f.open()
	}
	return f.out.Read(p)
}

func (f *inflater) open() {
	src := newSource(f.r, func(Piece) error { return nil }, f.lim.Head)
	f.lim.Budget = nil // it holds no more than one head
	s := newScanner(src, f.lim, Handler{})
	_, deflated, err := s.prologue()
	seen := append([]byte(nil), src.buf[src.out:src.lo]...)
	src.emit, src.held, src.out = nil, false, src.lo
	if err != nil || !deflated {
		f.out = io.MultiReader(bytes.NewReader(seen), src)
		return
	}
	f.out = io.MultiReader(bytes.NewReader(s.newMeta(seen)), newInflate(src, f.lim))
}
