package dicom

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

// draft writes instances for tests, right or wrong.
type draft struct {
	syntax
	b []byte
}

const (
	testStudy    = "1.2.3"
	testSeries   = "1.2.3.4"
	testInstance = "1.2.3.4.5"
	testClass    = "1.2.840.10008.5.1.4.1.1.7"
)

func (d *draft) tag(t Tag) {
	d.b = d.order().AppendUint16(d.b, t.Group())
	d.b = d.order().AppendUint16(d.b, t.Element())
}

func (d *draft) u32(n uint32) { d.b = d.order().AppendUint32(d.b, n) }

// order is syntax.order for appending.
func (d *draft) order() interface {
	AppendUint16([]byte, uint16) []byte
	AppendUint32([]byte, uint32) []byte
} {
	if d.big {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// head writes what stands before a value, n as a claim only.
func (d *draft) head(t Tag, vr VR, n uint32) {
	d.tag(t)
	switch {
	case d.implicit || t.Group() == 0xFFFE:
		d.u32(n)
	case vr.long():
		d.b = append(append(d.b, vr...), 0, 0)
		d.u32(n)
	default:
		d.b = append(d.b, vr...)
		d.b = d.order().AppendUint16(d.b, uint16(n))
	}
}

func (d *draft) put(t Tag, vr VR, value string) {
	if len(value)%2 == 1 {
		if vr == UI || !vr.IsString() {
			value += "\x00"
		} else {
			value += " "
		}
	}
	d.head(t, vr, uint32(len(value)))
	d.b = append(d.b, value...)
}

func (d *draft) us(t Tag, n uint16) {
	d.head(t, US, 2)
	d.b = d.order().AppendUint16(d.b, n)
}

// seq writes a sequence of items, each made by one of the functions.
func (d *draft) seq(t Tag, open bool, items ...func(*draft)) {
	var body draft
	body.syntax = d.syntax
	for _, f := range items {
		item := draft{syntax: d.syntax}
		f(&item)
		n := uint32(len(item.b))
		if open {
			n = 0xFFFFFFFF
		}
		body.head(itemTag, "", n)
		body.b = append(body.b, item.b...)
		if open {
			body.head(itemDelimiter, "", 0)
		}
	}
	n := uint32(len(body.b))
	if open {
		n = 0xFFFFFFFF
		body.head(sequenceDelimiter, "", 0)
	}
	d.head(t, SQ, n)
	d.b = append(d.b, body.b...)
}

// meta writes preamble and meta header.
func (d *draft) meta(ts UID) {
	m := draft{}
	m.put(TagMediaStorageSOPClassUID, UI, testClass)
	m.put(TagMediaStorageSOPInstanceUID, UI, testInstance)
	m.put(TagTransferSyntaxUID, UI, string(ts))
	f := draft{b: append(make([]byte, 128), "DICM"...)}
	f.head(TagMetaGroupLength, UL, 4)
	f.u32(uint32(len(m.b)))
	d.b = append(append(d.b, f.b...), m.b...)
}

func (d *draft) ids() {
	d.put(TagSOPClassUID, UI, testClass)
	d.put(TagSOPInstanceUID, UI, testInstance)
	d.put(TagPatientName, PN, "Doe^Jane")
	d.put(TagPatientID, LO, "P1")
	d.put(TagStudyInstanceUID, UI, testStudy)
	d.put(TagSeriesInstanceUID, UI, testSeries)
}

func (d *draft) image(frames string, rows, cols, bits uint16) {
	d.us(TagSamplesPerPixel, 1)
	if frames != "" {
		d.put(TagNumberOfFrames, IS, frames)
	}
	d.us(TagRows, rows)
	d.us(TagColumns, cols)
	d.us(TagBitsAllocated, bits)
}

func (d *draft) pixels(vr VR, value string) {
	d.head(TagPixelData, vr, uint32(len(value)))
	d.b = append(d.b, value...)
}

// fragments writes encapsulated pixel data; table nil is an empty one.
func (d *draft) fragments(table []uint32, fragments ...string) {
	d.head(TagPixelData, OB, 0xFFFFFFFF)
	d.head(itemTag, "", uint32(4*len(table)))
	for _, n := range table {
		d.u32(n)
	}
	for _, f := range fragments {
		d.head(itemTag, "", uint32(len(f)))
		d.b = append(d.b, f...)
	}
	d.head(sequenceDelimiter, "", 0)
}

func newDraft(ts UID) *draft {
	d := &draft{}
	d.meta(ts)
	d.syntax = syntax{big: ts.BigEndian(), implicit: ts.Implicit()}
	return d
}

// deflated compresses what follows the meta header.
func deflated(t testing.TB, body []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w, err := flate.NewWriter(&z, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d := newDraft(DeflatedLittleEndian)
	return append(d.b, z.Bytes()...)
}

// stream hides all but Read.
type stream struct{ io.Reader }

// scanned is an instance and the pieces it came in.
type scanned struct {
	*Instance
	begun  UIDs
	pieces []Piece
	bytes  []byte
}

// scanBytes scans b as a stream and checks what holds for every instance:
// Begin once and first, pieces within bounds, together the very bytes, frames
// beginning pieces, and the same answer when values are skipped.
func scanBytes(t testing.TB, b []byte, lim Limits) (*scanned, error) {
	t.Helper()
	s := &scanned{}
	begins := 0
	inst, err := Scan(stream{bytes.NewReader(b)}, lim, Handler{
		Begin: func(u UIDs) error {
			begins++
			s.begun = u
			return nil
		},
		Piece: func(p Piece) error {
			if begins != 1 {
				t.Errorf("piece before Begin")
			}
			if len(p.Data) == 0 || len(p.Data) > MaxPiece {
				t.Errorf("piece of %d bytes", len(p.Data))
			}
			p.Data = bytes.Clone(p.Data)
			s.pieces = append(s.pieces, p)
			s.bytes = append(s.bytes, p.Data...)
			return nil
		},
	})
	skipped, skipErr := Scan(bytes.NewReader(b), lim, Handler{})
	if kind(err) != kind(skipErr) {
		t.Errorf("reading says %v, skipping says %v", err, skipErr)
	}
	if !bytes.HasPrefix(b, s.bytes) {
		t.Errorf("pieces are not the bytes read")
	}
	if err != nil {
		return nil, err
	}
	s.Instance = inst
	if begins != 1 || s.begun.Study != inst.Study || s.begun.Series != inst.Series || s.begun.Instance != inst.Instance {
		t.Errorf("Begin called %d times with %v, instance has %v", begins, s.begun, inst.UIDs)
	}
	if !bytes.Equal(s.bytes, b) || inst.Size != int64(len(b)) {
		t.Errorf("%d of %d bytes came in pieces, size %d", len(s.bytes), len(b), inst.Size)
	}
	if skipErr == nil {
		if d := differ(inst, skipped); d != "" {
			t.Errorf("skipping differs in %s", d)
		}
	}
	if !inst.Deflated {
		s.checkCuts(t)
	}
	return s, nil
}

// checkCuts checks that every frame begins a piece: at its first byte where
// native, at its first fragment's item where encapsulated.
func (s *scanned) checkCuts(t testing.TB) {
	t.Helper()
	if s.Pixel == nil {
		return
	}
	cuts := map[int64]bool{}
	off := int64(0)
	for _, p := range s.pieces {
		cuts[off] = true
		off += int64(len(p.Data))
	}
	for i, f := range s.Pixel.Frames {
		if len(f.Parts) == 0 {
			t.Errorf("frame %d has no bytes", i)
			continue
		}
		at := f.Parts[0].Off
		switch {
		case s.Pixel.Encapsulated:
			at -= 8
		case f.BitOffset > 0:
			at++
			if f.Bits+f.BitOffset <= 8 {
				continue // lies in one byte with its predecessor
			}
		}
		if !cuts[at] {
			t.Errorf("no piece begins at frame %d, byte %d", i, at)
		}
		for _, p := range f.Parts {
			if p.Off < s.Pixel.Value.Off || p.End() > s.Pixel.Value.End() {
				t.Errorf("frame %d at %v leaves the value %v", i, p, s.Pixel.Value)
			}
		}
	}
}

// frame gives a frame's bytes.
func (s *scanned) frame(t testing.TB, i int) string {
	t.Helper()
	var r io.ReaderAt = bytes.NewReader(s.bytes)
	if s.Deflated {
		b, err := io.ReadAll(Inflate(bytes.NewReader(s.bytes), Limits{}))
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(b)
	}
	b, err := io.ReadAll(s.Pixel.Frames[i].Reader(r))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sections is the pieces as "header:280 frame0:16 …".
func (s *scanned) sections() string {
	var out []string
	for _, p := range s.pieces {
		name := p.Section.String()
		if p.Section == SectionFrame {
			name += string(rune('0' + p.Frame))
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}
