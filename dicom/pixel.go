package dicom

import (
	"bytes"
	"fmt"
	"io"
	"math/bits"
	"strings"
)

func isPixels(t Tag) bool {
	return t == TagPixelData || t == TagFloatPixelData || t == TagDoubleFloatPixelData
}

// pixels reads the pixel data attribute h stands before.
func (s *scanner) pixels(h header, x syntax) error {
	if err := s.count(elementMemory); err != nil {
		return err
	}
	p := &PixelData{Tag: h.tag, VR: h.vr, NumberOfFrames: 1}
	if p.VR == "" {
		p.VR = h.tag.DictVR()
	}
	if n, ok := s.inst.Data.Int(TagNumberOfFrames); ok && n > 0 {
		p.NumberOfFrames = n
	}
	s.inst.Pixel = p
	s.inst.HeaderLen = h.off
	if err := s.src.skip(int64(h.size)); err != nil {
		return s.fail(err, h.tag)
	}
	var err error
	if h.length == undefined {
		err = s.encapsulated(p, x)
	} else {
		err = s.native(p, h.length)
	}
	if err != nil {
		return s.fail(err, h.tag)
	}
	s.inst.Trailer.Off = s.src.off
	s.home = SectionTrailer
	return s.src.enter(SectionTrailer, 0)
}

// native reads frames that lie one after the other, PS3.5 8.1.
func (s *scanner) native(p *PixelData, n int64) error {
	count, size := s.layout(p, n)
	if count > s.lim.Frames {
		return ErrLimit{"Frames", int64(s.lim.Frames)}
	}
	if err := s.src.allow(n); err != nil {
		return err
	}
	p.Value = Range{s.src.off, n}
	from := func(i int) int64 { return (int64(i)*size + 7) / 8 }
	if s.src.emit == nil || count == 0 {
		if err := s.src.skip(n); err != nil {
			return err
		}
	} else {
		for i := range count {
			end := from(i + 1)
			if i == count-1 {
				end = n
			}
			if err := s.src.enter(SectionFrame, i); err != nil {
				return err
			}
			if err := s.src.skip(end - from(i)); err != nil {
				return err
			}
		}
	}
	if err := s.mem.use(int64(count) * frameMemory); err != nil {
		return err
	}
	p.Frames = make([]Frame, count)
	parts := make([]Range, count)
	for i := range p.Frames {
		first, end := int64(i)*size, int64(i+1)*size
		parts[i] = Range{p.Value.Off + first/8, from(i+1) - first/8}
		p.Frames[i].Parts = parts[i : i+1 : i+1]
		if first%8 != 0 || end%8 != 0 {
			p.Frames[i].BitOffset, p.Frames[i].Bits = first%8, size
		}
	}
	return nil
}

// layout tells how many frames n bytes are and how many bits each takes.
func (s *scanner) layout(p *PixelData, n int64) (count int, size int64) {
	if n == 0 {
		return 0, 0
	}
	frames := int64(p.NumberOfFrames)
	for _, exact := range []bool{true, false} {
		for _, size := range s.frameBits(p) {
			hi, total := bits.Mul64(uint64(size), uint64(frames))
			if size == 0 || hi != 0 || total > 1<<62 {
				continue
			}
			over := n - int64(total+7)/8
			// One byte pads to even length, PS3.5 8.1.1; more, short of another
			// frame, is what some writers leave.
			if over == 0 || over == 1 || !exact && over > 0 && over < size/8 {
				return p.NumberOfFrames, size
			}
		}
	}
	if n%frames == 0 {
		return p.NumberOfFrames, n / frames * 8
	}
	return 1, n * 8
}

// frameBits are the sizes a frame may have, likelier first.
func (s *scanner) frameBits(p *PixelData) []int64 {
	d := s.inst.Data
	number := func(t Tag, limit int) int64 {
		n, _ := d.Int(t)
		if n < 0 || n > limit {
			return 0
		}
		return int64(n)
	}
	samples := number(TagSamplesPerPixel, 1<<10)
	if samples == 0 {
		samples = 1
	}
	depth := number(TagBitsAllocated, 1<<7)
	switch p.Tag {
	case TagFloatPixelData:
		depth = 32
	case TagDoubleFloatPixelData:
		depth = 64
	}
	pixels := number(TagRows, 1<<16) * number(TagColumns, 1<<16)
	full := pixels * samples * depth
	// Chrominance shared by neighbours, PS3.3 C.7.6.3.1.2.
	pi := d.String(TagPhotometricInterpretation)
	switch {
	case samples == 3 && strings.HasSuffix(pi, "_422"):
		return []int64{pixels * 2 * depth, full}
	case samples == 3 && strings.HasSuffix(pi, "_420"):
		return []int64{pixels * 3 * depth / 2, full}
	}
	return []int64{full}
}

// encapsulated reads an offset table and fragments, PS3.5 A.4.
func (s *scanner) encapsulated(p *PixelData, x syntax) error {
	p.Encapsulated = true
	p.Value.Off = s.src.off
	var basic []uint64
	var begins []bool // of each fragment: it starts with a codec's first mark
	wide, _ := s.inst.Data.Find(TagExtendedOffsetTable)
	extended := wide.Uints()
	frame, ended := 0, false
	for item := 0; ; item++ {
		b, err := s.src.peek(24)
		if err != nil {
			return err
		}
		if len(b) == 0 && ended && p.complete(begins, s.inst.TransferSyntax) {
			p.Value.Len = s.src.off - p.Value.Off
			break
		}
		if len(b) < 8 {
			return io.EOF
		}
		if y := (syntax{big: !x.big}); item == 0 && y.tag(b) == itemTag {
			x = y
		}
		off, t, n := s.src.off, x.tag(b), length32(x.order().Uint32(b[4:]))
		if t == sequenceDelimiter {
			p.Value.Len = off - p.Value.Off
			if err := s.src.skip(8); err != nil {
				return err
			}
			break
		}
		if t != itemTag || n == undefined {
			return ErrMalformed{Offset: off, Tag: p.Tag, Why: fmt.Sprintf("%v stands where a fragment or the end of the fragments must", t)}
		}
		begin := beginsCodestream(b[8:], s.inst.TransferSyntax)
		if item == 0 && !begin {
			if n > 4*int64(s.lim.Frames) {
				return ErrLimit{"Frames", int64(s.lim.Frames)}
			}
			if err := s.src.skip(8); err != nil {
				return err
			}
			table, err := s.src.take(n, &s.arena)
			if err != nil {
				return err
			}
			if err := s.mem.use(2 * int64(len(table))); err != nil { // of each four bytes eight are made
				return err
			}
			for ; len(table) >= 4; table = table[4:] {
				basic = append(basic, uint64(x.order().Uint32(table)))
			}
			continue
		}
		if len(p.Fragments) == s.lim.Fragments {
			return ErrLimit{"Fragments", int64(s.lim.Fragments)}
		}
		if err := s.mem.use(fragmentMemory + frameMemory); err != nil {
			return err
		}
		offsets := extended
		if len(offsets) == 0 {
			offsets = basic
		}
		several := p.NumberOfFrames > 1 || len(offsets) > 1
		if len(p.Fragments) == 0 {
			if err := s.src.enter(SectionFrame, 0); err != nil {
				return err
			}
		} else if several {
			switch rel := uint64(off - (p.Fragments[0].Off - 8)); {
			case len(offsets) > 1:
				if frame+1 < len(offsets) && offsets[frame+1] == rel {
					frame++
				}
			case frame+1 < p.NumberOfFrames && (begin || !marked(s.inst.TransferSyntax)):
				frame++
			}
			if err := s.src.enter(SectionFrame, frame); err != nil {
				return err
			}
		}
		p.Fragments = append(p.Fragments, Range{off + 8, n})
		begins = append(begins, begin)
		if err := s.src.skip(8 + max(n-4, 0)); err != nil {
			return err
		}
		if b, err = s.src.peek(int(min(n, 4))); err != nil {
			return err
		}
		ended = endsCodestream(b)
		if err := s.src.skip(min(n, 4)); err != nil {
			return err
		}
	}
	p.Offsets = extended
	if len(extended) == 0 {
		p.Offsets = basic
	}
	groups := p.group(extended, basic, begins, s.inst.TransferSyntax)
	if len(groups) > s.lim.Frames {
		return ErrLimit{"Frames", int64(s.lim.Frames)}
	}
	p.Frames = make([]Frame, len(groups))
	at := 0
	for i, n := range groups {
		p.Frames[i].Parts = p.Fragments[at : at+n : at+n]
		at += n
	}
	s.trimFrames(p, len(extended))
	return nil
}

// complete reports that the fragments are all there although no delimiter
// follows the last: some writers forget it. There must be as many frames as
// the instance says, and (the caller knows) the last ends with its codec's mark.
func (p *PixelData) complete(begins []bool, ts UID) bool {
	n := 0
	for _, b := range begins {
		if b {
			n++
		}
	}
	return marked(ts) && !ts.Video() && n == p.NumberOfFrames && begins[0]
}

// group tells how many fragments each frame has.
func (p *PixelData) group(extended, basic []uint64, begins []bool, ts UID) []int {
	n := len(p.Fragments)
	if n == 0 {
		return nil
	}
	if ts.Video() {
		return []int{n}
	}
	var byTable []int
	for _, offsets := range [][]uint64{extended, basic} {
		if byTable == nil {
			byTable = p.groupBy(offsets)
		}
	}
	if len(byTable) == p.NumberOfFrames {
		return byTable
	}
	if p.NumberOfFrames == 1 && len(byTable) == 0 {
		return []int{n}
	}
	if n == p.NumberOfFrames {
		each := make([]int, n)
		for i := range each {
			each[i] = 1
		}
		return each
	}
	var byMark []int
	for _, b := range begins {
		if b {
			byMark = append(byMark, 0)
		}
		if len(byMark) == 0 {
			break
		}
		byMark[len(byMark)-1]++
	}
	if len(byMark) == p.NumberOfFrames {
		return byMark
	}
	if len(byTable) > 1 {
		return byTable
	}
	return []int{n}
}

// groupBy follows an offset table; nil when it is absent or lies.
func (p *PixelData) groupBy(offsets []uint64) []int {
	if len(offsets) == 0 || len(offsets) > len(p.Fragments) || offsets[0] != 0 {
		return nil
	}
	groups := make([]int, 0, len(offsets))
	base := p.Fragments[0].Off
	for _, f := range p.Fragments {
		k := len(groups)
		if k < len(offsets) && offsets[k] == uint64(f.Off-base) {
			groups = append(groups, 0)
			k++
		}
		groups[k-1]++
	}
	if len(groups) != len(offsets) {
		return nil
	}
	return groups
}

// trimFrames takes the padding byte off frames whose true length the Extended
// Offset Table Lengths tell, PS3.3 C.7.6.3.1.8.
func (s *scanner) trimFrames(p *PixelData, extended int) {
	e, _ := s.inst.Data.Find(TagExtendedOffsetTableLengths)
	lengths := e.Uints()
	if extended == 0 || len(lengths) != extended || len(lengths) != len(p.Frames) {
		return
	}
	for i, n := range lengths {
		parts := p.Frames[i].Parts
		if len(parts) == 1 && n > 0 && n == uint64(parts[0].Len-1) {
			p.Frames[i].Parts = []Range{{parts[0].Off, int64(n)}}
		}
	}
}

// marked reports syntaxes whose codestreams begin with a mark that cannot
// stand within one: all but RLE, deflated and uncompressed frames.
func marked(ts UID) bool {
	return ts != RLELossless && ts != DeflatedImageFrame && ts != EncapsulatedUncompressed
}

// beginsCodestream recognises the first bytes of JPEG and JPEG-LS (SOI and
// another marker), JPEG 2000 (SOC and SIZ, or the JP2 box) and JPEG XL.
func beginsCodestream(b []byte, ts UID) bool {
	if !marked(ts) {
		return false
	}
	for _, mark := range []string{"\xFF\xD8\xFF", "\xFF\x4F\xFF\x51", "\x00\x00\x00\x0CjP  ", "\xFF\x0A", "\x00\x00\x00\x0CJXL "} {
		if bytes.HasPrefix(b, []byte(mark)) {
			return true
		}
	}
	return false
}

// endsCodestream recognises the mark that ends JPEG, JPEG-LS and JPEG 2000,
// with or without a byte of padding, in a fragment's last bytes.
func endsCodestream(b []byte) bool {
	end := []byte{0xFF, 0xD9}
	return bytes.HasSuffix(b, end) || len(b) > 2 && bytes.HasSuffix(b[:len(b)-1], end)
}

// fragments reads an undefined length binary value that is not the instance's
// pixel data: an icon's, say. It is kept as a range from its offset table to
// its delimiter.
func (s *scanner) fragments(e Element, h header, x syntax, stop int64) (Element, error) {
	start := s.src.off
	for {
		b, err := s.src.peek(8)
		if err != nil {
			return e, s.fail(err, h.tag)
		}
		if len(b) < 8 {
			return e, s.fail(io.EOF, h.tag)
		}
		off, t, n := s.src.off, x.tag(b), length32(x.order().Uint32(b[4:]))
		if t != itemTag && t != sequenceDelimiter || n == undefined || t == sequenceDelimiter && n != 0 {
			return e, ErrMalformed{Offset: off, Tag: h.tag, Why: fmt.Sprintf("%v stands where a fragment or the end of the fragments must", t)}
		}
		if stop != undefined && n > stop-off-8 {
			return e, ErrMalformed{Offset: off, Tag: h.tag, Why: "a fragment reaches beyond the item it is in"}
		}
		if err := s.src.skip(8); err != nil {
			return e, s.fail(err, h.tag)
		}
		if t == sequenceDelimiter {
			e.Bulk = &Range{start, off - start}
			return e, nil
		}
		if err := s.count(fragmentMemory); err != nil {
			return e, err
		}
		fragment := Element{Tag: h.tag}
		if err := s.bulk(&fragment, n); err != nil {
			return e, err
		}
	}
}

// Reader gives the frame's bytes from r, which reads the instance; bits that do
// not begin on a byte are moved so that they do, and the last byte's rest is zero.
func (f Frame) Reader(r io.ReaderAt) io.Reader {
	parts := make([]io.Reader, len(f.Parts))
	for i, p := range f.Parts {
		parts[i] = io.NewSectionReader(r, p.Off, p.Len)
	}
	all := io.MultiReader(parts...)
	if f.Bits == 0 {
		return all
	}
	return &bitReader{r: all, shift: uint(f.BitOffset), left: f.Bits}
}

// bitReader moves a run of bits down to the byte boundary, lowest bit first.
type bitReader struct {
	r     io.Reader
	shift uint
	left  int64 // bits still to give
	carry uint16
	some  bool // carry holds a byte
}

func (b *bitReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.EOF
	}
	want := min(int64(len(p)), (b.left+7)/8)
	if want == 0 {
		return 0, nil
	}
	var one [1]byte
	if !b.some {
		if _, err := io.ReadFull(b.r, one[:]); err != nil {
			return 0, err
		}
		b.carry, b.some = uint16(one[0]), true
	}
	raw := p[:want]
	n, err := io.ReadFull(b.r, raw)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return 0, err
	}
	clear(raw[n:])
	for i := range raw {
		next := uint16(raw[i])
		raw[i] = byte((b.carry | next<<8) >> b.shift)
		b.carry = next
		b.left -= 8
		if b.left < 0 {
			raw[i] &= 0xFF >> uint(-b.left)
		}
	}
	return int(want), nil
}
