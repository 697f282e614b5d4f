package dicom

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

// allocated is the memory f asks for in all.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// repeat gives a block over and over, n times.
type repeat struct {
	block []byte
	n     int
	rest  []byte
}

func (r *repeat) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(r.rest) == 0 {
			if r.n == 0 {
				if n == 0 {
					return 0, io.EOF
				}
				return n, nil
			}
			r.n--
			r.rest = r.block
		}
		k := copy(p[n:], r.rest)
		r.rest = r.rest[k:]
		n += k
	}
	return n, nil
}

func TestLongInstancesStream(t *testing.T) {
	const frames, side = 1700, 256 // 223 MB
	frame := bytes.Repeat([]byte{1, 2, 3, 4}, side*side*2/4)
	native := newDraft(ExplicitVRLittleEndian)
	native.ids()
	native.image("1700", side, side, 16)
	native.head(TagPixelData, OW, frames*side*side*2)

	fragment := draft{}
	fragment.head(itemTag, "", uint32(len(frame)))
	fragment.b = append(fragment.b, frame...)
	encapsulated := newDraft(RLELossless)
	encapsulated.ids()
	encapsulated.image("1700", side, side, 16)
	encapsulated.head(TagPixelData, OB, 0xFFFFFFFF)
	encapsulated.head(itemTag, "", 0)
	end := draft{}
	end.head(sequenceDelimiter, "", 0)

	for name, r := range map[string]io.Reader{
		"native":       io.MultiReader(bytes.NewReader(native.b), &repeat{block: frame, n: frames}),
		"encapsulated": io.MultiReader(bytes.NewReader(encapsulated.b), &repeat{block: fragment.b, n: frames}, bytes.NewReader(end.b)),
	} {
		var total int64
		pieces := make(map[int]int)
		var inst *Instance
		var err error
		used := allocated(func() {
			inst, err = Scan(r, Limits{}, Handler{Piece: func(p Piece) error {
				total += int64(len(p.Data))
				if p.Section == SectionFrame {
					pieces[p.Frame]++
				}
				return nil
			}})
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if total != inst.Size || inst.Size < 200<<20 || len(inst.Pixel.Frames) != frames || len(pieces) != frames {
			t.Errorf("%s: %d of %d bytes, %d frames, pieces of %d frames", name, total, inst.Size, len(inst.Pixel.Frames), len(pieces))
		}
		if used > 8<<20 {
			t.Errorf("%s: %d bytes of memory for %d of instance", name, used, inst.Size)
		}
	}
}

// costs scans and checks the error and that memory keeps to what was read.
func costs(t *testing.T, name string, r func() io.Reader, lim Limits, most int64, want string) {
	t.Helper()
	for _, h := range []Handler{{}, {Piece: func(Piece) error { return nil }}} {
		var err error
		used := allocated(func() { _, err = Scan(r(), lim, h) })
		if kind(err) != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
		if used > most {
			t.Errorf("%s: %d bytes of memory, at most %d expected", name, used, most)
		}
	}
}

func TestClaimsCostNothing(t *testing.T) {
	const little = 200 << 10
	after := func(ids bool, f func(*draft)) func() io.Reader {
		d := newDraft(ExplicitVRLittleEndian)
		if ids {
			d.ids()
		} else {
			d.put(TagSOPInstanceUID, UI, testInstance)
		}
		f(d)
		return func() io.Reader { return stream{bytes.NewReader(d.b)} }
	}
	small := draft{b: append(make([]byte, 128), "DICM"...)}
	small.put(TagTransferSyntaxUID, UI, string(ExplicitVRLittleEndian))
	small.head(0x00080018, UI, 0)
	small.head(0x00091001, OB, 0xFFFFFFFE)
	costs(t, "178 bytes that claim 4 GB", func() io.Reader { return bytes.NewReader(small.b) }, Limits{}, little, "limit Head")
	if len(small.b) > 190 {
		t.Errorf("%d bytes", len(small.b))
	}
	costs(t, "value", after(true, func(d *draft) { d.head(0x00420011, OB, 0xFFFFFFFE) }), Limits{}, little, "truncated")
	costs(t, "value of just the limit", after(true, func(d *draft) { d.head(0x00420011, OB, 1<<20) }), Limits{}, little, "truncated")
	costs(t, "sequence", after(true, func(d *draft) { d.head(0x00081140, SQ, 0xFFFFFFFE) }), Limits{}, little, "truncated")
	costs(t, "item", after(true, func(d *draft) {
		d.head(0x00081140, SQ, 0xFFFFFFFE)
		d.head(itemTag, "", 0xFFFFFF00)
	}), Limits{}, little, "truncated")
	costs(t, "item of more than its sequence", after(true, func(d *draft) {
		d.head(0x00081140, SQ, 100)
		d.head(itemTag, "", 0xFFFFFF00)
	}), Limits{}, little, "malformed")
	costs(t, "frames", after(true, func(d *draft) {
		d.image("1000000", 64, 64, 8)
		d.head(TagPixelData, OW, 0xFFFFFFFE)
	}), Limits{}, little, "truncated")
	costs(t, "more frames than anybody makes", after(true, func(d *draft) {
		d.image("2147483646", 1, 1, 8)
		d.head(TagPixelData, OW, 2147483646)
	}), Limits{}, little, "limit Frames")
	costs(t, "offset table", after(true, func(d *draft) {
		d.head(TagPixelData, OB, 0xFFFFFFFF)
		d.head(itemTag, "", 4<<20)
	}), Limits{}, little, "truncated")
	costs(t, "offset table of 4 GB", after(true, func(d *draft) {
		d.head(TagPixelData, OB, 0xFFFFFFFF)
		d.head(itemTag, "", 0xFFFFFFFE)
	}), Limits{}, little, "limit Frames")
	costs(t, "fragment", after(true, func(d *draft) {
		d.head(TagPixelData, OB, 0xFFFFFFFF)
		d.head(itemTag, "", 0)
		d.head(itemTag, "", 0xFFFFFFFE)
	}), Limits{}, little, "truncated")
	costs(t, "extended offset table", after(true, func(d *draft) { d.head(TagExtendedOffsetTable, OV, 8<<20) }), Limits{}, little, "truncated")
	costs(t, "meta header", func() io.Reader {
		d := draft{b: append(make([]byte, 128), "DICM"...)}
		d.head(0x00020102, OB, 0xFFFFFFFE)
		return bytes.NewReader(d.b)
	}, Limits{}, little, "limit Head")
}

func TestDepthIsBounded(t *testing.T) {
	const levels = 100000
	const most = 64 << 20
	deep := func(x syntax, vr VR) []byte {
		d := draft{syntax: x}
		d.ids()
		for range levels {
			d.head(0x0040A730, vr, 0xFFFFFFFF)
			d.head(itemTag, "", 0xFFFFFFFF)
		}
		return d.b
	}
	nested := func(vr VR, size uint32) []byte { // lengths that fit into one another
		d := draft{}
		d.ids()
		n := size * levels
		for range levels {
			n -= size
			d.head(0x0040A730, vr, n+8)
			d.head(itemTag, "", n)
		}
		return d.b
	}
	for name, b := range map[string][]byte{
		"undefined lengths": deep(syntax{}, SQ),
		"implicit":          deep(syntax{implicit: true}, SQ),
		"unknown VR":        deep(syntax{}, UN),
		"known lengths":     nested(SQ, 20),
	} {
		costs(t, name, func() io.Reader { return bytes.NewReader(b) }, Limits{}, most, "limit Depth")
	}
	// As UN of known length the whole is bytes in the end: nobody can say what
	// was meant, and reading it again must cost little.
	un := nested(UN, 20)
	d := draft{}
	d.ids()
	costs(t, "unknown VR of known lengths", func() io.Reader { return bytes.NewReader(un) }, Limits{Value: 8 << 20}, most, "fine")
	z := deflated(t, deep(syntax{}, SQ))
	costs(t, "deflated", func() io.Reader { return bytes.NewReader(z) }, Limits{}, most, "limit Depth")
	if _, err := Decode(deep(syntax{}, SQ)[len(d.b):], Limits{}); kind(err) != "limit Depth" {
		t.Errorf("Decode: %v", err)
	}
	shallow := newDraft(ExplicitVRLittleEndian)
	shallow.ids()
	f := func(*draft) {}
	for range 100 {
		inner := f
		f = func(d *draft) { d.seq(0x0040A730, true, inner) }
	}
	f(shallow)
	mustScan(t, shallow.b)
}

func TestTinyItemsAreBounded(t *testing.T) {
	start := newDraft(ExplicitVRLittleEndian)
	start.ids()
	start.head(0x0040A730, SQ, 0xFFFFFFFF)
	item := draft{}
	item.head(itemTag, "", 0)
	items := func() io.Reader {
		return stream{io.MultiReader(bytes.NewReader(start.b), &repeat{block: bytes.Repeat(item.b, 1000), n: 10000})}
	}
	costs(t, "ten million items", items, Limits{Elements: 300000}, 64<<20, "limit Elements")
	costs(t, "a thousand items too many", items, Limits{Elements: 1000}, 1<<20, "limit Elements")

	fragments := newDraft(RLELossless)
	fragments.ids()
	fragments.head(TagPixelData, OB, 0xFFFFFFFF)
	costs(t, "ten million fragments", func() io.Reader {
		return stream{io.MultiReader(bytes.NewReader(fragments.b), &repeat{block: bytes.Repeat(item.b, 1000), n: 10000})}
	}, Limits{Fragments: 100000}, 32<<20, "limit Fragments")

	attribute := draft{}
	attribute.head(0x00091001, LO, 0)
	flat := newDraft(ExplicitVRLittleEndian)
	flat.ids()
	costs(t, "ten million attributes", func() io.Reader {
		return stream{io.MultiReader(bytes.NewReader(flat.b), &repeat{block: bytes.Repeat(attribute.b, 1000), n: 10000})}
	}, Limits{Elements: 100000}, 64<<20, "limit Elements")
}

func TestDeflateBombs(t *testing.T) {
	body := draft{}
	body.ids()
	body.image("", 1, 1, 8)
	bomb := func(size int, block []byte) []byte {
		var z bytes.Buffer
		w, err := flate.NewWriter(&z, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		d := body
		d.head(TagPixelData, OB, uint32(size))
		if _, err := w.Write(d.b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, &repeat{block: block, n: size / len(block)}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return append(newDraft(DeflatedLittleEndian).b, z.Bytes()...)
	}
	zeros := bomb(68<<20, make([]byte, 1<<20)) // more than freeInflation
	open := func() io.Reader { return bytes.NewReader(zeros) }
	costs(t, "grows too far", open, Limits{Inflated: 8 << 20}, 1<<20, "limit Inflated")
	costs(t, "grows too fast", open, Limits{Ratio: 100}, 1<<20, "limit Ratio")
	for want, lim := range map[string]Limits{"limit Inflated": {Inflated: 8 << 20}, "fine": {Ratio: 2000}} {
		n, err := io.Copy(io.Discard, Inflate(open(), lim))
		if kind(err) != want || want != "fine" && n > 9<<20 {
			t.Errorf("Inflate: %d bytes, %v, want %s", n, err, want)
		}
	}
	// A long stream before any UID must not pile up.
	noise := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{1})
	if _, err := r.Read(noise); err != nil {
		t.Fatal(err)
	}
	d := draft{}
	d.put(TagSOPInstanceUID, UI, testInstance)
	d.head(0x00091001, OB, 64<<20)
	plain := append(d.b, bytes.Repeat(noise, 4)...)
	z := deflated(t, plain)
	costs(t, "no UIDs in sight", func() io.Reader { return bytes.NewReader(z) }, Limits{Head: 1 << 20}, 8<<20, "limit Head")
}

func TestDeflatedInstances(t *testing.T) {
	body := draft{}
	body.put(0x00080000, UL, "\x00\x00\x00\x00")
	body.ids()
	body.put(0x00420011, OB, strings.Repeat("doc", 1000))
	body.image("2", 2, 2, 8)
	body.pixels(OB, "abcdefgh")
	body.put(0xFFFCFFFC, OB, "\x00\x00")
	z := deflated(t, body.b)
	meta := len(newDraft(DeflatedLittleEndian).b)
	tail := "\x00padding"
	s, err := scanBytes(t, append(z[:len(z):len(z)], tail...), Limits{Value: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.sections(), "header opaque trailer"; got != want {
		t.Errorf("pieces %s, want %s", got, want)
	}
	if len(s.pieces[0].Data) != meta || !s.Deflated || s.Trailer != (Range{int64(len(z)), int64(len(tail))}) {
		t.Errorf("header piece %d of %d, %+v", len(s.pieces[0].Data), meta, s.Trailer)
	}
	flat, err := io.ReadAll(Inflate(bytes.NewReader(z), Limits{}))
	if err != nil {
		t.Fatal(err)
	}
	f, err := scanBytes(t, flat, Limits{Value: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if f.TransferSyntax != ExplicitVRLittleEndian || f.Deflated || f.HeaderLen != s.HeaderLen {
		t.Errorf("inflated: %s, header %d and %d", f.TransferSyntax, f.HeaderLen, s.HeaderLen)
	}
	if a, b := f.frame(t, 1), s.frame(t, 1); a != "efgh" || b != "efgh" {
		t.Errorf("frames %q %q", a, b)
	}
	e, _ := s.Data.Find(0x00420011)
	g, _ := f.Data.Find(0x00420011)
	if e.Bulk == nil || g.Bulk == nil || *e.Bulk != *g.Bulk || string(flat[e.Bulk.Off:][:3]) != "doc" {
		t.Errorf("long values at %v and %v", e.Bulk, g.Bulk)
	}
	// The group length of the inflated meta header is right.
	group := int64(binary.LittleEndian.Uint32(flat[140:]))
	if next := flat[144+group:]; !bytes.HasPrefix(next, body.b[:12]) {
		t.Errorf("group length %d leads to % x", group, next[:8])
	}

	plain := newDraft(ExplicitVRLittleEndian)
	plain.b = append(plain.b, body.b...)
	for name, b := range map[string][]byte{"plain": plain.b, "empty": nil, "no DICOM": []byte("hello"), "half a header": plain.b[:150]} {
		got, err := io.ReadAll(Inflate(stream{bytes.NewReader(b)}, Limits{}))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: Inflate must pass it on unchanged: %v", name, err)
		}
	}
	if _, err := io.ReadAll(Inflate(bytes.NewReader(z[:len(z)-10]), Limits{})); !errors.Is(err, ErrTruncated) {
		t.Errorf("cut short: %v", err)
	}
	z[meta+20] ^= 0xFF
	z[meta] |= 6 // a block type that does not exist
	if _, err := scanBytes(t, z, Limits{}); kind(err) != "malformed" {
		t.Errorf("damaged: %v", err)
	}
	// Named deflated and not deflated.
	wrong := newDraft(DeflatedLittleEndian)
	wrong.b = append(wrong.b, body.b...)
	if s := mustScan(t, wrong.b); s.Deflated || s.frame(t, 0) != "abcd" {
		t.Error("an instance that only says it is deflated")
	}
}

func TestStuckReader(t *testing.T) {
	if _, err := Scan(stuck{}, Limits{}, Handler{}); !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func FuzzScan(f *testing.F) {
	for _, ts := range []UID{ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian} {
		d := newDraft(ts)
		d.ids()
		d.seq(0x00081140, true, func(d *draft) { d.put(0x00081155, UI, "1.9") })
		d.seq(0x00880200, false, func(d *draft) { d.fragments(nil, "ab") })
		d.image("3", 1, 5, 1)
		d.pixels(OB, "\xcd\x1e")
		d.put(0xFFFCFFFC, OB, "\x00\x00")
		f.Add(d.b)
		f.Add(d.b[132:])
		f.Add(d.b[:len(d.b)-20])
	}
	e := newDraft("1.2.840.10008.1.2.4.50")
	e.ids()
	e.image("2", 8, 8, 8)
	start := len(e.b)
	e.fragments([]uint32{0, 12}, soi, "a", soi+eoi)
	f.Add(e.b)
	f.Add(e.b[:len(e.b)-8])
	e.b = e.b[:start]
	e.put(TagExtendedOffsetTable, OV, "\x00\x00\x00\x00\x00\x00\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00")
	e.put(TagExtendedOffsetTableLengths, OV, "\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00")
	e.fragments(nil, "ab", "cd")
	f.Add(e.b)
	body := draft{}
	body.ids()
	f.Add(deflated(f, body.b))
	un := newDraft(ExplicitVRLittleEndian)
	un.ids()
	un.put(0x00081140, UN, "\xFE\xFF\x00\xE0\x0a\x00\x00\x00\x08\x00\x55\x11\x02\x00\x00\x001\x00")
	f.Add(append(un.b, make([]byte, 50)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := Limits{Head: 8 << 10, Header: 4 << 10, Value: 256, Depth: 16, Elements: 2000, Fragments: 500, Frames: 500, Inflated: 1 << 20, Ratio: 100}
		s, err := scanBytes(t, b, lim)
		if err != nil {
			return
		}
		if !s.Study.Valid() || !s.Series.Valid() || !s.Instance.Instance.Valid() {
			t.Errorf("UIDs %v", s.UIDs)
		}
		if kept := s.Data.kept() + s.Meta.kept(); kept > len(b) && !s.Deflated {
			t.Errorf("%d bytes of values kept of %d", kept, len(b))
		}
		if s.Deflated {
			n, err := io.Copy(io.Discard, Inflate(bytes.NewReader(b), lim))
			if err != nil || n > 2<<20 {
				t.Errorf("inflates to %d, %v", n, err)
			}
			return
		}
		if !s.inBounds(s.Data) {
			t.Error("a range leaves the instance")
		}
		if p := s.Pixel; p != nil {
			for i := range p.Frames {
				s.frame(t, i)
			}
			if s.Trailer.End() != s.Size || s.Trailer.Off < p.Value.End() || s.HeaderLen > p.Value.Off {
				t.Errorf("header %d, value %v, trailer %v of %d", s.HeaderLen, p.Value, s.Trailer, s.Size)
			}
		}
	})
}

func (d Dataset) kept() int {
	n := 0
	for _, e := range d.Elements {
		n += len(e.Value)
		for _, i := range e.Items {
			n += i.kept()
		}
	}
	return n
}

func (s *scanned) inBounds(d Dataset) bool {
	for _, e := range d.Elements {
		if e.Bulk != nil && (e.Bulk.Off < 0 || e.Bulk.Len < 0 || e.Bulk.End() > s.Size) {
			return false
		}
		for _, i := range e.Items {
			if !s.inBounds(i) {
				return false
			}
		}
	}
	return true
}

// sparse is head and then zeros up to size; it counts what is read.
type sparse struct {
	head            []byte
	size, off, read int64
}

func (s *sparse) Read(p []byte) (int, error) {
	n := min(int64(len(p)), s.size-s.off)
	if n <= 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	if s.off < int64(len(s.head)) {
		n = int64(copy(p[:n], s.head[s.off:]))
	}
	s.off += n
	s.read += n
	return int(n), nil
}

func (s *sparse) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += s.off
	case io.SeekEnd:
		off += s.size
	}
	s.off = off
	return off, nil
}

func TestLongValuesAreSkipped(t *testing.T) {
	const frames, size = 1000, 1000 * 1000
	d := newDraft(ExplicitVRLittleEndian)
	d.ids()
	d.image("1000", 1000, 1000, 8)
	d.head(TagPixelData, OB, frames*size)
	s := &sparse{head: d.b, size: int64(len(d.b)) + frames*size}
	i, err := Scan(s, Limits{}, Handler{})
	if err != nil {
		t.Fatal(err)
	}
	if last := i.Pixel.Frames[frames-1].Parts[0]; i.Size != s.size || last.End() != s.size || s.read > 1<<20 {
		t.Errorf("size %d of %d, last frame %v, %d bytes read", i.Size, s.size, last, s.read)
	}
	for _, short := range []int64{1, 1000, size, frames * size} {
		s := &sparse{head: d.b, size: int64(len(d.b)) + frames*size - short}
		if _, err := Scan(s, Limits{}, Handler{}); !errors.Is(err, ErrTruncated) {
			t.Errorf("%d bytes short: %v", short, err)
		}
	}
	// What follows the pixels is skipped too, and a long attribute before them.
	tail := &sparse{head: d.b, size: int64(len(d.b)) + frames*size + 100*size}
	if i, err := Scan(tail, Limits{}, Handler{}); err != nil || i.Trailer.Len != 100*size || tail.read > 1<<20 {
		t.Errorf("%v, %d bytes read", err, tail.read)
	}
}
