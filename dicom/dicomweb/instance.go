package dicomweb

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/priormesh/priormesh/dicom"
)

// sequenceDelimiter is the length of what ends a value of undefined length, PS3.5 7.5.
const sequenceDelimiter = 8

// one is the instance that ref names.
func (s *server) one(ctx context.Context, ref Ref) (Object, error) {
	for o, err := range s.archive.Objects(ctx, ref) {
		return o, err
	}
	return nil, ErrNotFound
}

// instance is an Object that is being read. Offsets of a deflated one count in
// its inflated stream, which src is then.
type instance struct {
	io.Closer
	uids   dicom.UIDs
	size   int64 // of what was received
	limits Limits
	src    io.ReadSeeker
	layout *Layout
	inst   *dicom.Instance // where the instance had to be read for its layout
	cut    dicom.Range     // what header left out
}

// open reads as much of an instance as is needed to know its layout.
func (s *server) open(ctx context.Context, o Object) (_ *instance, err error) {
	rc, err := o.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			rc.Close()
		}
	}()
	in := &instance{Closer: rc, uids: o.UIDs(), size: o.Size(), limits: s.Limits, src: rc}
	syntax := in.uids.TransferSyntax
	if !syntax.Deflated() && !syntax.BigEndian() {
		if in.layout = o.Layout(); in.layout != nil {
			return in, nil
		}
	}
	if in.inst, err = dicom.Scan(rc, s.Limits.Instance, dicom.Handler{}); err != nil {
		return nil, err
	}
	in.layout = layoutOf(in.inst)
	if in.inst.Deflated {
		in.src = &inflated{src: rc, limits: s.Limits, pos: -1}
	}
	return in, nil
}

func layoutOf(inst *dicom.Instance) *Layout {
	l := &Layout{HeaderLen: inst.HeaderLen}
	if p := inst.Pixel; p != nil {
		l.Pixels, l.Value, l.Encapsulated, l.NumFrames = true, p.Value, p.Encapsulated, len(p.Frames)
		l.Frame = func(i int) (dicom.Frame, error) { return p.Frames[i], nil }
	}
	return l
}

// header gives all attributes but the pixel data, without reading that.
func (in *instance) header() (dicom.Dataset, error) {
	if in.inst != nil {
		return in.inst.Data, nil
	}
	if in.layout.Pixels {
		in.cut = dicom.Range{Off: in.layout.HeaderLen, Len: in.layout.Value.End() - in.layout.HeaderLen}
		switch rest := in.size - in.layout.Value.End(); {
		case !in.layout.Encapsulated || rest <= 0:
		case rest == sequenceDelimiter:
			// Nothing comes behind the value but what ends it: to read that would be
			// to read the block that it is in, which holds the last of the frames.
			in.cut.Len += rest
		default:
			// The value ends before its sequence delimiter.
			var b [sequenceDelimiter]byte
			if n, err := in.readAt(b[:], in.cut.End()); err != nil && n < len(b) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return dicom.Dataset{}, err
			}
			if binary.LittleEndian.Uint64(b[:]) == 0xE0DD_FFFE {
				in.cut.Len += int64(len(b))
			}
		}
	}
	inst, err := dicom.Scan(&without{src: in.src, cut: in.cut, at: -1}, in.limits.Instance, dicom.Handler{})
	if err != nil {
		return dicom.Dataset{}, err
	}
	return inst.Data, nil
}

// bulk is where a value lies that header did not keep.
func (in *instance) bulk(r dicom.Range) dicom.Range {
	if in.cut.Len > 0 && r.Off >= in.cut.Off {
		r.Off += in.cut.Len
	}
	return r
}

// pixelElement is the tag and VR of the pixel data.
func (in *instance) pixelElement() (dicom.Tag, dicom.VR, error) {
	if in.inst != nil {
		return in.inst.Pixel.Tag, in.inst.Pixel.VR, nil
	}
	var b [6]byte
	if _, err := in.readAt(b[:], in.layout.HeaderLen); err != nil {
		return 0, "", err
	}
	tag := dicom.Tag(uint32(binary.LittleEndian.Uint16(b[:]))<<16 | uint32(binary.LittleEndian.Uint16(b[2:])))
	if vr := dicom.VR(b[4:]); !in.uids.TransferSyntax.Implicit() && vr.Known() {
		return tag, vr, nil
	}
	return tag, tag.DictVR(), nil
}

func (in *instance) readAt(b []byte, off int64) (int, error) {
	if _, err := in.src.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	return io.ReadFull(in.src, b)
}

// width is how many bytes of a value of vr change places to be little endian.
func (in *instance) width(vr dicom.VR) int {
	if !in.uids.TransferSyntax.BigEndian() {
		return 1
	}
	return wordSize(vr)
}

// wordSize is the size of what byte order matters to in a value of vr, PS3.5 7.3.
func wordSize(vr dicom.VR) int {
	switch vr {
	case dicom.AT, dicom.OW, dicom.SS, dicom.US:
		return 2
	case dicom.FL, dicom.OF, dicom.OL, dicom.SL, dicom.UL:
		return 4
	case dicom.FD, dicom.OD, dicom.OV, dicom.SV, dicom.UV:
		return 8
	}
	return 1
}

// frame is the content of frame i, from 0, as PS3.18 8.7.3.3 has it: without
// item headers, little endian, its first bit the lowest of the first byte.
func (in *instance) frame(i int) (io.Reader, error) {
	f, err := in.layout.Frame(i)
	if err != nil {
		return nil, err
	}
	width := 1
	if in.inst != nil && !in.layout.Encapsulated {
		width = in.width(in.inst.Pixel.VR)
	}
	readers := make([]io.Reader, len(f.Parts))
	for j, part := range f.Parts {
		readers[j] = in.read(part, in.layout.Value, width)
	}
	r := io.MultiReader(readers...)
	if f.Bits > 0 {
		r = &bitReader{src: r, shift: uint(f.BitOffset), left: f.Bits}
	}
	return r, nil
}

// read gives the bytes of part, which lies in a value of words of width bytes.
func (in *instance) read(part, value dicom.Range, width int) io.Reader {
	if width == 1 {
		return &section{src: in.src, Range: part}
	}
	w := int64(width)
	lead := (part.Off - value.Off) % w
	whole := dicom.Range{Off: part.Off - lead, Len: (lead + part.Len + w - 1) / w * w}
	whole.Len = min(whole.Len, value.End()-whole.Off)
	return &swapper{src: &section{src: in.src, Range: whole}, width: width, skip: int(lead), left: part.Len}
}

// section reads a range of src, which nothing else reads meanwhile.
type section struct {
	src io.ReadSeeker
	dicom.Range
	begun bool
}

func (s *section) Read(b []byte) (int, error) {
	if s.Len == 0 {
		return 0, io.EOF
	}
	if !s.begun {
		if _, err := s.src.Seek(s.Off, io.SeekStart); err != nil {
			return 0, err
		}
		s.begun = true
	}
	if int64(len(b)) > s.Len {
		b = b[:s.Len]
	}
	n, err := s.src.Read(b)
	s.Len -= int64(n)
	if err == io.EOF && s.Len > 0 {
		err = io.ErrUnexpectedEOF
	} else if err == io.EOF {
		err = nil
	}
	return n, err
}

// swapper turns big endian words into little endian ones and gives left bytes
// of them after the first skip.
type swapper struct {
	src   io.Reader
	width int
	skip  int
	left  int64
	buf   [4096]byte
	have  []byte
}

func (s *swapper) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	if len(s.have) == 0 {
		n, err := io.ReadFull(s.src, s.buf[:])
		if n == 0 {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return 0, err
		}
		for i := 0; i+s.width <= n; i += s.width {
			for a, z := i, i+s.width-1; a < z; a, z = a+1, z-1 {
				s.buf[a], s.buf[z] = s.buf[z], s.buf[a]
			}
		}
		s.have = s.buf[min(s.skip, n):n]
		s.skip = 0
	}
	n := copy(b, s.have[:min(int64(len(s.have)), s.left)])
	s.have = s.have[n:]
	s.left -= int64(n)
	return n, nil
}

// bitReader moves a run of bits to the start of a byte. The lowest bit of a
// byte is its first (PS3.5 8.1.1); bits after the last are zero.
type bitReader struct {
	src   io.Reader
	shift uint
	left  int64 // bits
	carry byte
	begun bool
}

func (r *bitReader) Read(b []byte) (int, error) {
	if r.left <= 0 {
		return 0, io.EOF
	}
	if r.shift > 0 && !r.begun {
		var first [1]byte
		if _, err := io.ReadFull(r.src, first[:]); err != nil {
			return 0, unexpected(err)
		}
		r.carry, r.begun = first[0], true
	}
	if want := (r.left + 7) / 8; int64(len(b)) > want {
		b = b[:want]
	}
	n := len(b)
	// The last byte may need no more than the carry.
	need := n
	if r.shift > 0 && int64(n) == (r.left+7)/8 && r.left-int64(n-1)*8 <= int64(8-r.shift) {
		need--
	}
	if _, err := io.ReadFull(r.src, b[:need]); err != nil && need > 0 {
		return 0, unexpected(err)
	}
	if r.shift > 0 {
		for i := range n {
			next := byte(0)
			if i < need {
				next = b[i]
			}
			b[i] = r.carry>>r.shift | next<<(8-r.shift)
			r.carry = next
		}
	}
	if r.left -= int64(n) * 8; r.left < 0 {
		b[n-1] &= 0xFF >> uint(-r.left)
	}
	return n, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// without is src as if the bytes of cut were not there.
type without struct {
	src io.ReadSeeker
	cut dicom.Range
	pos int64 // as the reader sees it
	at  int64 // where src is, -1: not known
}

func (w *without) Read(b []byte) (int, error) {
	want := w.pos
	if w.cut.Len > 0 && w.pos >= w.cut.Off {
		want += w.cut.Len
	} else if w.cut.Len > 0 && int64(len(b)) > w.cut.Off-w.pos {
		b = b[:w.cut.Off-w.pos]
	}
	if w.at != want {
		if _, err := w.src.Seek(want, io.SeekStart); err != nil {
			return 0, err
		}
	}
	n, err := w.src.Read(b)
	w.at = want + int64(n)
	w.pos += int64(n)
	return n, err
}

func (w *without) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += w.pos
	case io.SeekEnd:
		end, err := w.src.Seek(0, io.SeekEnd)
		if err != nil {
			return 0, err
		}
		w.at = end
		off += end - w.cut.Len
	}
	if off < 0 {
		return 0, errors.New("dicomweb: seek before the start")
	}
	w.pos = off
	return off, nil
}

// inflated is a deflated instance as a stream that can be sought in: backwards
// by inflating it anew.
type inflated struct {
	src     io.ReadSeeker
	limits  Limits
	r       io.Reader
	pos     int64 // of r; -1 before the first use
	rewinds int
}

func (f *inflated) Read(b []byte) (int, error) {
	if f.pos < 0 {
		if err := f.rewind(); err != nil {
			return 0, err
		}
	}
	n, err := f.r.Read(b)
	f.pos += int64(n)
	return n, err
}

func (f *inflated) rewind() error {
	if _, err := f.src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f.r, f.pos = dicom.Inflate(f.src, f.limits.Instance), 0
	return nil
}

func (f *inflated) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		return 0, errors.New("dicomweb: a deflated instance is sought in from its start only")
	}
	if f.pos < 0 || off < f.pos {
		if f.pos >= 0 {
			if f.rewinds++; f.rewinds > f.limits.Rewinds {
				return 0, ErrLimit{"Rewinds", int64(f.limits.Rewinds)}
			}
		}
		if err := f.rewind(); err != nil {
			return 0, err
		}
	}
	n, err := io.CopyN(io.Discard, f.r, off-f.pos)
	f.pos += n
	return f.pos, unexpected(err)
}
