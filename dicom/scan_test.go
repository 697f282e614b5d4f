package dicom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// kind names the sort of an error, for comparing two ways of reading.
func kind(err error) string {
	var (
		missing   ErrMissingUID
		limit     ErrLimit
		malformed ErrMalformed
	)
	switch {
	case err == nil:
		return "fine"
	case errors.Is(err, ErrNotDICOM):
		return "not DICOM"
	case errors.Is(err, ErrTruncated):
		return "truncated"
	case errors.Is(err, ErrMediaDirectory):
		return "directory"
	case errors.As(err, &missing):
		return "missing " + missing.Tag.Keyword()
	case errors.As(err, &limit):
		return "limit " + limit.What
	case errors.As(err, &malformed):
		return "malformed"
	}
	return err.Error()
}

// differ names the first field in which two readings of one instance differ.
func differ(a, b *Instance) string {
	va, vb := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range va.NumField() {
		if va.Type().Field(i).IsExported() && !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			return va.Type().Field(i).Name
		}
	}
	return ""
}

func mustScan(t *testing.T, b []byte) *scanned {
	t.Helper()
	s, err := scanBytes(t, b, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEverySyntaxGivesTheSameMeaning(t *testing.T) {
	body := func(d *draft) {
		d.put(TagSpecificCharacterSet, CS, "ISO_IR 192")
		d.ids()
		d.seq(0x00081140, true, func(d *draft) { d.put(0x00081155, UI, "1.9") }, func(d *draft) {
			d.seq(0x0040A170, false, func(d *draft) { d.put(0x00080100, SH, "inner") })
		})
		d.image("2", 2, 3, 16)
		d.pixels(OW, "abcdefghijkl"+"ABCDEFGHIJKL")
	}
	for _, c := range []struct {
		name string
		make func() []byte
		ts   UID
	}{
		{"explicit little", func() []byte { d := newDraft(ExplicitVRLittleEndian); body(d); return d.b }, ExplicitVRLittleEndian},
		{"implicit little", func() []byte { d := newDraft(ImplicitVRLittleEndian); body(d); return d.b }, ImplicitVRLittleEndian},
		{"explicit big", func() []byte { d := newDraft(ExplicitVRBigEndian); body(d); return d.b }, ExplicitVRBigEndian},
		{"deflated", func() []byte { d := &draft{}; body(d); return deflated(t, d.b) }, DeflatedLittleEndian},
		{"unknown syntax", func() []byte { d := newDraft("1.3.46.670589.99"); body(d); return d.b }, "1.3.46.670589.99"},
		{"syntax that says explicit and is implicit", func() []byte {
			d := newDraft(ExplicitVRLittleEndian)
			d.implicit = true
			body(d)
			return d.b
		}, ExplicitVRLittleEndian},
		{"syntax that says implicit and is explicit", func() []byte {
			d := newDraft(ImplicitVRLittleEndian)
			d.implicit = false
			body(d)
			return d.b
		}, ImplicitVRLittleEndian},
		{"no meta header, explicit little", func() []byte { d := &draft{}; body(d); return d.b }, ExplicitVRLittleEndian},
		{"no meta header, implicit little", func() []byte { d := &draft{syntax: syntax{implicit: true}}; body(d); return d.b }, ImplicitVRLittleEndian},
		{"no meta header, explicit big", func() []byte { d := &draft{syntax: syntax{big: true}}; body(d); return d.b }, ExplicitVRBigEndian},
		{"no meta header, implicit big", func() []byte { d := &draft{syntax: syntax{big: true, implicit: true}}; body(d); return d.b }, ""},
		{"no preamble", func() []byte { d := newDraft(ExplicitVRLittleEndian); body(d); return d.b[132:] }, ExplicitVRLittleEndian},
		{"group length too short", func() []byte {
			d := newDraft(ExplicitVRLittleEndian)
			binary.LittleEndian.PutUint32(d.b[140:], 3)
			body(d)
			return d.b
		}, ExplicitVRLittleEndian},
		{"group length too long", func() []byte {
			d := newDraft(ExplicitVRLittleEndian)
			binary.LittleEndian.PutUint32(d.b[140:], 1<<30)
			body(d)
			return d.b
		}, ExplicitVRLittleEndian},
		{"implicit meta header", func() []byte {
			d := &draft{syntax: syntax{implicit: true}}
			d.put(TagTransferSyntaxUID, UI, string(ExplicitVRLittleEndian))
			d.implicit = false
			body(d)
			return d.b
		}, ExplicitVRLittleEndian},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustScan(t, c.make())
			if s.TransferSyntax != c.ts {
				t.Errorf("transfer syntax %q, want %q", s.TransferSyntax, c.ts)
			}
			if s.Study != testStudy || s.Series != testSeries || s.Instance.Instance != testInstance || s.Class != testClass {
				t.Errorf("UIDs %v", s.UIDs)
			}
			if got := s.Data.String(TagPatientName); got != "Doe^Jane" {
				t.Errorf("name %q", got)
			}
			items := s.Data.Items(0x00081140)
			if len(items) != 2 || items[0].String(0x00081155) != "1.9" {
				t.Fatalf("items %v", items)
			}
			inner := items[1].Items(0x0040A170)
			if len(inner) != 1 || inner[0].String(0x00080100) != "inner" {
				t.Errorf("inner %v", inner)
			}
			if n, ok := s.Data.Int(TagColumns); !ok || n != 3 {
				t.Errorf("columns %d", n)
			}
			p := s.Pixel
			if p == nil || len(p.Frames) != 2 || p.Encapsulated || p.NumberOfFrames != 2 {
				t.Fatalf("pixel data %+v", p)
			}
			if a, b := s.frame(t, 0), s.frame(t, 1); a != "abcdefghijkl" || b != "ABCDEFGHIJKL" {
				t.Errorf("frames %q %q", a, b)
			}
		})
	}
}

func TestNativeFrames(t *testing.T) {
	ybr := func(pi string) func(*draft) {
		return func(d *draft) {
			d.us(TagSamplesPerPixel, 3)
			d.put(TagPhotometricInterpretation, CS, pi)
			d.us(TagRows, 2)
			d.us(TagColumns, 2)
			d.us(TagBitsAllocated, 8)
		}
	}
	for _, c := range []struct {
		name   string
		image  func(*draft)
		tag    Tag
		value  string
		frames []string
	}{
		{"one", func(d *draft) { d.image("", 2, 2, 8) }, 0, "abcd", []string{"abcd"}},
		{"one that says zero frames", func(d *draft) { d.image("0", 2, 2, 8) }, 0, "abcd", []string{"abcd"}},
		{"odd frames with a byte of padding", func(d *draft) { d.image("3", 1, 3, 8) }, 0, "abcdefghi\x00", []string{"abc", "def", "ghi"}},
		{"more padding than one byte", func(d *draft) { d.image("2", 2, 2, 8) }, 0, "abcdefgh\x00\x00", []string{"abcd", "efgh"}},
		{"sizes that do not add up divide", func(d *draft) { d.image("2", 9, 9, 8) }, 0, "abcdefgh", []string{"abcd", "efgh"}},
		{"sizes that do not even divide", func(d *draft) { d.image("3", 9, 9, 8) }, 0, "abcdefgh", []string{"abcdefgh"}},
		{"no sizes", func(d *draft) {}, 0, "abcdefgh", []string{"abcdefgh"}},
		{"twice what one frame takes", func(d *draft) { d.image("", 2, 2, 8) }, 0, "abcdefgh", []string{"abcdefgh"}},
		{"empty", func(d *draft) { d.image("2", 2, 2, 8) }, 0, "", nil},
		{"4:2:2", ybr("YBR_FULL_422"), 0, "abcdefgh", []string{"abcdefgh"}},
		{"4:2:2 that is written in full", ybr("YBR_FULL_422"), 0, "abcdefghijkl", []string{"abcdefghijkl"}},
		{"4:2:0", ybr("YBR_PARTIAL_420"), 0, "abcdef", []string{"abcdef"}},
		{"12 bits", func(d *draft) { d.image("2", 2, 2, 12) }, 0, "abcdefghijkl", []string{"abcdef", "ghijkl"}},
		{"float", func(d *draft) { d.image("2", 1, 1, 8) }, TagFloatPixelData, "abcdefgh", []string{"abcd", "efgh"}},
		{"double", func(d *draft) { d.image("1", 1, 1, 8) }, TagDoubleFloatPixelData, "abcdefgh", []string{"abcdefgh"}},
		{"sizes that overflow", func(d *draft) { d.image("2147483647", 65535, 65535, 64) }, 0, "abcdefgh", []string{"abcdefgh"}},
		// 3 frames of 5 bits: 01101 10110 00111, first bit lowest.
		{"single bits", func(d *draft) { d.image("3", 1, 5, 1) }, 0, "\xcd\x1e", []string{"\x0d", "\x16", "\x07"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDraft(ExplicitVRLittleEndian)
			d.ids()
			c.image(d)
			tag, vr := TagPixelData, OB
			switch c.tag {
			case TagFloatPixelData:
				tag, vr = c.tag, OF
			case TagDoubleFloatPixelData:
				tag, vr = c.tag, OD
			}
			head := len(d.b)
			d.head(tag, vr, uint32(len(c.value)))
			d.b = append(d.b, c.value...)
			s := mustScan(t, d.b)
			if s.HeaderLen != int64(head) || s.Pixel.Tag != tag || s.Pixel.VR != vr {
				t.Errorf("header %d, pixel data %+v; want header %d", s.HeaderLen, s.Pixel, head)
			}
			var frames []string
			for i := range s.Pixel.Frames {
				frames = append(frames, s.frame(t, i))
			}
			if !reflect.DeepEqual(frames, c.frames) {
				t.Errorf("frames %q, want %q", frames, c.frames)
			}
		})
	}
}

const (
	soi = "\xFF\xD8\xFF\xE0"
	eoi = "\xFF\xD9"
	soc = "\xFF\x4F\xFF\x51"
)

func TestEncapsulatedFrames(t *testing.T) {
	const jpeg, j2k = UID("1.2.840.10008.1.2.4.50"), UID("1.2.840.10008.1.2.4.90")
	type frames [][]string
	for _, c := range []struct {
		name      string
		ts        UID
		number    string
		table     []uint32
		fragments []string
		frames    frames
	}{
		{"one a frame, table", jpeg, "2", []uint32{0, 14}, []string{soi + "a" + eoi[:1], soi + "bb"}, frames{{soi + "a\xFF"}, {soi + "bb"}}},
		{"one a frame, no table", jpeg, "2", nil, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"several a frame, table", jpeg, "2", []uint32{0, 22}, []string{"aaaa", "bb", "cc"}, frames{{"aaaa", "bb"}, {"cc"}}},
		{"several a frame, JPEG marks", jpeg, "2", nil, []string{soi + "aa", "bb" + eoi, soi + eoi}, frames{{soi + "aa", "bb" + eoi}, {soi + eoi}}},
		{"several a frame, JPEG 2000 marks", j2k, "2", nil, []string{soc, "bb", soc, "dd"}, frames{{soc, "bb"}, {soc, "dd"}}},
		{"one frame of all fragments", jpeg, "", nil, []string{"aa", "bb", "cc"}, frames{{"aa", "bb", "cc"}}},
		{"one frame of all fragments, table", jpeg, "1", []uint32{0}, []string{"aa", "bb"}, frames{{"aa", "bb"}}},
		{"table lies, one a frame", jpeg, "2", []uint32{0, 4000000000}, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"table begins late", jpeg, "2", []uint32{4, 10}, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"table goes back", jpeg, "2", []uint32{10, 0}, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"table repeats", jpeg, "2", []uint32{0, 0}, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"table of the first frame only", jpeg, "2", []uint32{0}, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"table knows more frames than the attribute", jpeg, "", []uint32{0, 10}, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"frames that cannot be told", jpeg, "2", nil, []string{"aa", "bb", "cc"}, frames{{"aa", "bb", "cc"}}},
		{"RLE does not look like JPEG", RLELossless, "2", nil, []string{soi, soi}, frames{{soi}, {soi}}},
		{"video is one stream", "1.2.840.10008.1.2.4.102", "2", nil, []string{"aa", "bb"}, frames{{"aa", "bb"}}},
		{"fragmentable video", "1.2.840.10008.1.2.4.104.1", "2", nil, []string{"aa", "bb"}, frames{{"aa", "bb"}}},
		{"deflated frames", DeflatedImageFrame, "2", []uint32{0, 10}, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"private syntax", "1.3.46.670589.33.1.4.1", "2", nil, []string{"aa", "bb"}, frames{{"aa"}, {"bb"}}},
		{"empty fragment", RLELossless, "1", nil, []string{"", "bb"}, frames{{"", "bb"}}},
		{"no fragments", jpeg, "1", nil, nil, frames{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDraft(c.ts)
			d.ids()
			d.image(c.number, 8, 8, 8)
			d.fragments(c.table, c.fragments...)
			d.put(0xFFFCFFFC, OB, "\x00\x00")
			s := mustScan(t, d.b)
			if !s.Pixel.Encapsulated || len(s.Pixel.Fragments) != len(c.fragments) {
				t.Fatalf("pixel data %+v", s.Pixel)
			}
			got := frames{}
			for _, f := range s.Pixel.Frames {
				var parts []string
				for _, p := range f.Parts {
					parts = append(parts, string(d.b[p.Off:p.End()]))
				}
				got = append(got, parts)
			}
			if !reflect.DeepEqual(got, c.frames) {
				t.Errorf("frames %q, want %q", got, c.frames)
			}
			if want := (Range{int64(len(d.b)) - 14, 14}); s.Trailer != want {
				t.Errorf("trailer %v, want %v", s.Trailer, want)
			}
		})
	}
}

func TestExtendedOffsetTable(t *testing.T) {
	words := func(n ...uint64) string {
		var b []byte
		for _, v := range n {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		return string(b)
	}
	for _, c := range []struct {
		name    string
		offsets string
		lengths string
		first   string
	}{
		{"true", words(0, 12), words(3, 4), "aaa"},
		{"lengths lie", words(0, 12), words(1<<63, 1), "aaa\x00"},
		{"offsets lie", words(0, 1<<40), words(3, 4), "aaa\x00"},
		{"fewer lengths", words(0, 12), words(3), "aaa\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDraft("1.2.840.10008.1.2.4.90")
			d.ids()
			d.image("2", 8, 8, 8)
			d.put(TagExtendedOffsetTable, OV, c.offsets)
			d.put(TagExtendedOffsetTableLengths, OV, c.lengths)
			d.fragments(nil, "aaa\x00", "bbbb")
			s := mustScan(t, d.b)
			want := c.first
			if c.name == "offsets lie" {
				want = "aaa" // one fragment a frame, and the lengths still fit
			}
			if len(s.Pixel.Frames) != 2 || s.frame(t, 0) != want || s.frame(t, 1) != "bbbb" {
				t.Errorf("frames %+v: %q", s.Pixel.Frames, s.frame(t, 0))
			}
			if len(s.Pixel.Offsets) != 2 {
				t.Errorf("offsets %v", s.Pixel.Offsets)
			}
		})
	}
}

func TestMissingSequenceDelimiter(t *testing.T) {
	for _, c := range []struct {
		name      string
		ts        UID
		frames    string
		fragments []string
		want      string
	}{
		{"all frames there", "1.2.840.10008.1.2.4.70", "2", []string{soi + eoi, soi + "b" + eoi + "\x00"}, "fine"},
		{"last frame without its end", "1.2.840.10008.1.2.4.70", "2", []string{soi + eoi, soi + "bb"}, "truncated"},
		{"a frame short", "1.2.840.10008.1.2.4.70", "2", []string{soi + eoi}, "truncated"},
		{"a codec that does not mark its end", RLELossless, "1", []string{"aa"}, "truncated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDraft(c.ts)
			d.ids()
			d.image(c.frames, 8, 8, 8)
			d.fragments(nil, c.fragments...)
			_, err := scanBytes(t, d.b[:len(d.b)-8], Limits{})
			if kind(err) != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
			if _, err := scanBytes(t, d.b[:len(d.b)-9], Limits{}); !errors.Is(err, ErrTruncated) {
				t.Errorf("a byte less: %v", err)
			}
		})
	}
}

func TestWhatFollowsTheDataset(t *testing.T) {
	image := func() *draft {
		d := newDraft(ExplicitVRLittleEndian)
		d.ids()
		d.image("", 2, 2, 8)
		d.pixels(OB, "abcd")
		return d
	}
	report := func() *draft {
		d := newDraft(ExplicitVRLittleEndian)
		d.ids()
		return d
	}
	for _, c := range []struct {
		name   string
		draft  *draft
		tail   string
		want   string
		inData bool
	}{
		{"nothing", image(), "", "fine", false},
		{"one byte after an image", image(), "\x00", "fine", false},
		{"zeros after an image", image(), strings.Repeat("\x00", 4096), "fine", false},
		{"anything after an image", image(), "this was in the writer's buffer", "fine", false},
		{"0xFF after an image", image(), strings.Repeat("\xFF", 512), "fine", false},
		{"Data Set Trailing Padding", image(), "\xFC\xFF\xFC\xFFOB\x00\x00\x02\x00\x00\x00\x00\x00", "fine", true},
		{"padding cut short", image(), "\xFC\xFF\xFC\xFFOB\x00\x00\x20\x00\x00\x00\x00\x00", "truncated", false},
		{"a second instance", image(), string(image().b), "fine", false},
		{"zeros after a report", report(), strings.Repeat("\x00", 1000), "fine", false},
		{"three zeros after a report", report(), "\x00\x00\x00", "fine", false},
		{"half an attribute after a report", report(), "\x40\x00\x00", "truncated", false},
		{"junk after a report", report(), "\x00\x00\x00\x00\x00\x00\x00\x00junk", "malformed", false},
		{"a stray delimiter after a report", report(), "\xFE\xFF\xDD\xE0\x00\x00\x00\x00", "fine", false},
		{"zeros where pixel data should be", func() *draft { d := report(); d.image("", 2, 2, 8); return d }(), strings.Repeat("\x00", 100), "malformed", false},
		{"an image without pixel data", func() *draft { d := report(); d.image("", 2, 2, 8); return d }(), "", "fine", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			size := int64(len(c.draft.b))
			s, err := scanBytes(t, append(c.draft.b, c.tail...), Limits{})
			if kind(err) != c.want {
				t.Fatalf("%v, want %s", err, c.want)
			}
			if err != nil {
				return
			}
			stray := strings.HasPrefix(c.tail, "\xFE\xFF")
			if want := (Range{size, int64(len(c.tail))}); s.Trailer != want && !stray {
				t.Errorf("trailer %v, want %v", s.Trailer, want)
			}
			if _, ok := s.Data.Find(0xFFFCFFFC); ok != c.inData {
				t.Errorf("trailing padding as an attribute: %v", ok)
			}
		})
	}
}

func TestMissingUIDsAreNamed(t *testing.T) {
	for _, tag := range []Tag{TagStudyInstanceUID, TagSeriesInstanceUID, TagSOPInstanceUID} {
		for _, value := range []string{"absent", "", "  ", "\x00"} {
			d := newDraft(ExplicitVRLittleEndian)
			for _, e := range []struct {
				t Tag
				v string
			}{{TagSOPInstanceUID, testInstance}, {TagStudyInstanceUID, testStudy}, {TagSeriesInstanceUID, testSeries}} {
				switch {
				case e.t != tag:
					d.put(e.t, UI, e.v)
				case value != "absent":
					d.put(e.t, UI, value)
				}
			}
			var missing ErrMissingUID
			if _, err := scanBytes(t, d.b, Limits{}); !errors.As(err, &missing) || missing.Tag != tag {
				t.Errorf("%v %q: %v", tag, value, err)
			}
		}
	}
}

func TestMissingUIDBeforeLongPixelData(t *testing.T) {
	d := newDraft(ExplicitVRLittleEndian)
	d.put(TagSOPInstanceUID, UI, testInstance)
	d.put(TagStudyInstanceUID, UI, testStudy)
	d.image("", 1000, 1000, 8)
	d.pixels(OB, strings.Repeat("x", 1000*1000))
	var missing ErrMissingUID
	if _, err := scanBytes(t, d.b, Limits{Head: 64 << 10}); !errors.As(err, &missing) || missing.Tag != TagSeriesInstanceUID {
		t.Error(err)
	}
}

func TestUIDsOutOfOrder(t *testing.T) {
	d := newDraft(ExplicitVRLittleEndian)
	d.image("2", 2, 2, 8)
	d.pixels(OB, "abcdefgh")
	d.ids()
	s := mustScan(t, d.b)
	if got, want := s.sections(), "header frame0 frame1 trailer"; got != want {
		t.Errorf("pieces %s, want %s", got, want)
	}
	if s.Data.String(TagPatientID) != "P1" {
		t.Error("attributes after the pixel data are lost")
	}
}

func TestOneIdentityOnly(t *testing.T) {
	for _, c := range []struct {
		tag   Tag
		vr    VR
		value string
		want  string
	}{
		{TagPatientID, LO, "P2", "malformed"},
		{TagPatientName, PN, "Doe^John", "malformed"},
		{TagPatientBirthDate, DA, "19500101", "fine"},
		{TagPatientID, LO, "P1", "fine"},
		{TagSOPInstanceUID, UI, "1.2.9", "malformed"},
		{TagStudyInstanceUID, UI, testStudy, "fine"},
		{TagStudyInstanceUID, UI, "1.2.9", "malformed"},
		{TagStudyInstanceUID, UI, "", "malformed"},
	} {
		d := newDraft(ExplicitVRLittleEndian)
		d.ids()
		d.put(c.tag, c.vr, c.value)
		if _, err := scanBytes(t, d.b, Limits{}); kind(err) != c.want {
			t.Errorf("%v %q a second time: %v, want %s", c.tag, c.value, err, c.want)
		}
	}
}

func TestMetaAndDatasetDisagree(t *testing.T) {
	d := newDraft(ExplicitVRLittleEndian)
	d.put(TagSOPClassUID, UI, "1.2.840.10008.5.1.4.1.1.2")
	d.put(TagSOPInstanceUID, UI, "1.9")
	d.put(TagStudyInstanceUID, UI, testStudy)
	d.put(TagSeriesInstanceUID, UI, testSeries)
	s := mustScan(t, d.b)
	if s.Instance.Instance != "1.9" || s.Class != "1.2.840.10008.5.1.4.1.1.2" {
		t.Errorf("the dataset must decide: %v", s.UIDs)
	}
}

func TestMediaDirectory(t *testing.T) {
	meta := draft{}
	meta.b = append(make([]byte, 128), "DICM"...)
	meta.put(TagMediaStorageSOPClassUID, UI, "1.2.840.10008.1.3.10")
	meta.put(TagTransferSyntaxUID, UI, string(ExplicitVRLittleEndian))
	records := newDraft(ExplicitVRLittleEndian)
	records.put(0x00041130, CS, "DISC")
	bare := draft{}
	bare.put(0x00041130, CS, "DISC")
	for _, d := range []*draft{&meta, records, &bare} {
		if _, err := scanBytes(t, d.b, Limits{}); err != ErrMediaDirectory {
			t.Error(err)
		}
	}
}

func TestNotDICOM(t *testing.T) {
	for _, s := range []string{"", "x", "DICM", "GIF89a\x00\x00\x00\x00\x00\x00\x00\x00", "%PDF-1.7 and so on and on",
		strings.Repeat("\x00", 500), strings.Repeat("\xFF", 500), "\x89PNG\r\n\x1a\n0000000000000000"} {
		if _, err := scanBytes(t, []byte(s), Limits{}); err != ErrNotDICOM {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	report := func() *draft {
		d := newDraft(ExplicitVRLittleEndian)
		d.ids()
		d.seq(0x00081140, true, func(d *draft) { d.put(0x00081155, UI, "1.9") })
		return d
	}
	native := report()
	native.image("2", 2, 2, 8)
	start := len(native.b)
	native.pixels(OB, "abcdefgh")
	fragments := report()
	fragments.image("2", 2, 2, 8)
	fragments.fragments([]uint32{0, 10}, "aa", "bb")
	body := &draft{}
	body.ids()
	for i := start + 1; i < len(native.b); i++ {
		if _, err := scanBytes(t, native.b[:i], Limits{}); !errors.Is(err, ErrTruncated) {
			t.Errorf("native image cut at %d: %v", i, err)
		}
	}
	for i := start + 1; i < len(fragments.b); i++ {
		if _, err := scanBytes(t, fragments.b[:i], Limits{}); !errors.Is(err, ErrTruncated) {
			t.Errorf("fragments cut at %d: %v", i, err)
		}
	}
	// Before that a cut between two attributes cannot be seen, only named.
	for i := range start {
		_, err := scanBytes(t, native.b[:i], Limits{})
		if k := kind(err); k != "truncated" && k != "not DICOM" && k != "fine" && !strings.HasPrefix(k, "missing") {
			t.Errorf("header cut at %d: %v", i, err)
		}
	}
	z := deflated(t, body.b)
	for i := len(newDraft(DeflatedLittleEndian).b) + 1; i < len(z); i++ {
		if _, err := scanBytes(t, z[:i], Limits{}); !errors.Is(err, ErrTruncated) {
			t.Errorf("deflated cut at %d: %v", i, err)
		}
	}
}

func TestSequencesAsWritten(t *testing.T) {
	inner := func(d *draft) { d.put(0x00080100, SH, "code") }
	seq := func(f func(*draft)) []byte {
		d := newDraft(ExplicitVRLittleEndian)
		d.put(TagSOPClassUID, UI, testClass)
		d.put(TagSOPInstanceUID, UI, testInstance)
		f(d)
		d.put(TagStudyInstanceUID, UI, testStudy)
		d.put(TagSeriesInstanceUID, UI, testSeries)
		return d.b
	}
	implicit := func(f func(*draft)) string {
		d := draft{syntax: syntax{implicit: true}}
		f(&d)
		return string(d.b)
	}
	items := func(x syntax, fs ...func(*draft)) string {
		d := draft{syntax: x}
		for _, f := range fs {
			i := draft{syntax: x}
			f(&i)
			d.head(itemTag, "", uint32(len(i.b)))
			d.b = append(d.b, i.b...)
		}
		return string(d.b)
	}
	const tag = Tag(0x00081032)
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"explicit lengths", seq(func(d *draft) { d.seq(tag, false, inner) })},
		{"undefined lengths", seq(func(d *draft) { d.seq(tag, true, inner) })},
		{"undefined item in a sequence of known length", seq(func(d *draft) {
			d.head(tag, SQ, 8+8+4+8)
			d.head(itemTag, "", 0xFFFFFFFF)
			inner(d)
			d.head(itemDelimiter, "", 0)
		})},
		{"item delimiter missing, sequence ends", seq(func(d *draft) {
			d.head(tag, SQ, 8+8+4)
			d.head(itemTag, "", 0xFFFFFFFF)
			inner(d)
		})},
		{"item delimiter missing, delimiter of the sequence", seq(func(d *draft) {
			d.head(tag, SQ, 0xFFFFFFFF)
			d.head(itemTag, "", 0xFFFFFFFF)
			inner(d)
			d.head(sequenceDelimiter, "", 0)
		})},
		{"delimiters after known lengths", seq(func(d *draft) {
			d.head(tag, SQ, 8+12+8+8)
			d.head(itemTag, "", 12)
			inner(d)
			d.head(itemDelimiter, "", 0)
			d.head(sequenceDelimiter, "", 0)
		})},
		{"UN of undefined length is implicit inside", seq(func(d *draft) {
			d.head(tag, UN, 0xFFFFFFFF)
			d.b = append(d.b, items(syntax{implicit: true}, inner)...)
			d.head(sequenceDelimiter, "", 0)
		})},
		{"UN of undefined length that is explicit inside", seq(func(d *draft) {
			d.head(tag, UN, 0xFFFFFFFF)
			d.b = append(d.b, items(syntax{}, inner)...)
			d.head(sequenceDelimiter, "", 0)
		})},
		{"UN of known length", seq(func(d *draft) { d.put(tag, UN, items(syntax{implicit: true}, inner)) })},
		{"implicit items in explicit", seq(func(d *draft) { d.put(tag, SQ, items(syntax{implicit: true}, inner)) })},
		{"implicit item of undefined length in explicit", seq(func(d *draft) {
			d.head(tag, SQ, 0xFFFFFFFF)
			d.head(itemTag, "", 0xFFFFFFFF)
			d.b = append(d.b, implicit(inner)...)
			d.head(itemDelimiter, "", 0)
			d.head(sequenceDelimiter, "", 0)
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustScan(t, c.b)
			items := s.Data.Items(tag)
			if len(items) != 1 || items[0].String(0x00080100) != "code" {
				t.Errorf("items %+v", items)
			}
		})
	}
	empty := mustScan(t, seq(func(d *draft) { d.seq(tag, false) }))
	if e, ok := empty.Data.Find(tag); !ok || e.VR != SQ || e.Items == nil || len(e.Items) != 0 {
		t.Errorf("an empty sequence is %+v", e)
	}
	broken := mustScan(t, seq(func(d *draft) { d.put(tag, UN, "neither item nor sense") }))
	if e, _ := broken.Data.Find(tag); e.VR != UN || string(e.Value) != "neither item nor sense" {
		t.Errorf("UN that is no sequence stays bytes: %+v", e)
	}
	for name, b := range map[string][]byte{
		"item longer than its sequence": seq(func(d *draft) {
			d.head(tag, SQ, 8+12)
			d.head(itemTag, "", 13)
			inner(d)
		}),
		"value longer than its item": seq(func(d *draft) {
			d.head(tag, SQ, 8+12)
			d.head(itemTag, "", 12)
			d.head(0x00080100, SH, 5)
			d.b = append(d.b, "code"...)
		}),
		"item within an item": seq(func(d *draft) {
			d.head(tag, SQ, 16)
			d.head(itemTag, "", 8)
			d.head(itemTag, "", 0)
		}),
		"no item": seq(func(d *draft) { d.put(tag, SQ, "\x08\x00\x00\x01SH\x00\x00") }),
	} {
		if _, err := scanBytes(t, b, Limits{}); kind(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnknownVRs(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes string
		vr    VR
		value string
	}{
		{"question marks", "\x09\x00\x01\x10??\x04\x00abcd", UN, "abcd"},
		{"blanks", "\x09\x00\x01\x10  \x04\x00abcd", UN, "abcd"},
		{"zeros", "\x09\x00\x01\x10\x00\x00\x04\x00abcd", UN, "abcd"},
		{"a VR of the future", "\x09\x00\x01\x10ZZ\x00\x00\x04\x00\x00\x00abcd", UN, "abcd"},
		{"a mistyped VR", "\x09\x00\x01\x10LX\x04\x00abcd", UN, "abcd"},
		{"implicit in the midst of explicit", "\x10\x00\x10\x00\x04\x00\x00\x00abcd", PN, "abcd"},
		{"UN for a known attribute", "\x10\x00\x40\x00UN\x00\x00\x02\x00\x00\x00F ", CS, "F "},
	} {
		d := newDraft(ExplicitVRLittleEndian)
		d.put(TagSOPInstanceUID, UI, testInstance)
		d.b = append(d.b, c.bytes...)
		d.put(TagStudyInstanceUID, UI, testStudy)
		d.put(TagSeriesInstanceUID, UI, testSeries)
		s, err := scanBytes(t, d.b, Limits{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		e := s.Data.Elements[1]
		if e.VR != c.vr || string(e.Value) != c.value {
			t.Errorf("%s: %v %q", c.name, e.VR, e.Value)
		}
	}
}

func TestLongValuesAreNotKept(t *testing.T) {
	lim := Limits{Value: 1000}
	long := strings.Repeat("x", 1002)
	d := newDraft(ExplicitVRLittleEndian)
	d.ids()
	top := len(d.b) + 12
	d.put(0x00420011, OB, long)
	d.seq(0x00880200, true, func(d *draft) {
		d.put(0x00281201, OW, long)
		d.put(0x00080100, SH, "after")
		d.fragments(nil, "icon", long)
	})
	s, err := scanBytes(t, d.b, lim)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.sections(), "header bulk header bulk header bulk header"; got != want {
		t.Errorf("pieces %s, want %s", got, want)
	}
	e, _ := s.Data.Find(0x00420011)
	if e.Bulk == nil || *e.Bulk != (Range{int64(top), 1002}) || e.Value != nil {
		t.Errorf("document %+v", e)
	}
	item := s.Data.Items(0x00880200)[0]
	e, _ = item.Find(0x00281201)
	if e.Bulk == nil || string(d.b[e.Bulk.Off:e.Bulk.End()]) != long {
		t.Errorf("palette %+v", e)
	}
	if item.String(0x00080100) != "after" {
		t.Error("what follows a long value is lost")
	}
	e, _ = item.Find(TagPixelData)
	if e.Bulk == nil || e.Bulk.Len != 8+8+4+8+1002 {
		t.Errorf("icon %+v", e.Bulk)
	}
	if s.Pixel != nil {
		t.Error("an icon is not the instance's pixel data")
	}
}

func TestHeaderLimitMakesBulk(t *testing.T) {
	d := newDraft(ExplicitVRLittleEndian)
	d.ids()
	for i := range 10 {
		d.put(Tag(0x00091000+i), LO, strings.Repeat("v", 600))
	}
	d.put(TagModality, CS, "CT")
	s, err := scanBytes(t, d.b, Limits{Header: 3000})
	if err != nil {
		t.Fatal(err)
	}
	bulk := 0
	for _, e := range s.Data.Elements {
		if e.Bulk != nil {
			bulk++
		}
	}
	if bulk < 5 || bulk > 7 || s.Data.String(TagModality) != "CT" {
		t.Errorf("%d values not kept, modality %q", bulk, s.Data.String(TagModality))
	}
	if s.sections() != "header" {
		t.Errorf("pieces %s", s.sections())
	}
}

func TestPiecesDoNotDependOnTheReader(t *testing.T) {
	d := newDraft(ExplicitVRLittleEndian)
	d.ids()
	d.put(0x00091001, LO, "x")
	d.put(0x00420011, OB, strings.Repeat("pdf!", 270000))
	d.image("2", 750, 750, 16)
	d.pixels(OW, strings.Repeat("pixl", 750*750))
	d.put(0xFFFCFFFC, OB, strings.Repeat("\x00", 5000))
	cuts := func(r io.Reader) string {
		var out strings.Builder
		_, err := Scan(r, Limits{}, Handler{Piece: func(p Piece) error {
			fmt.Fprintf(&out, "%v%d:%d ", p.Section, p.Frame, len(p.Data))
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := cuts(bytes.NewReader(d.b))
	full := fmt.Sprint(MaxPiece)
	if !strings.HasPrefix(want, "header0:") || strings.Count(want, "frame1:") != (750*750*2+MaxPiece-1)/MaxPiece || !strings.Contains(want, "bulk0:"+full+" ") || !strings.Contains(want, "frame1:"+full+" ") {
		t.Errorf("pieces %s", want)
	}
	for name, r := range map[string]io.Reader{
		"halves": iotest.HalfReader(bytes.NewReader(d.b)),
		"bytes":  iotest.OneByteReader(bytes.NewReader(d.b)),
		"eof":    iotest.DataErrReader(bytes.NewReader(d.b)),
	} {
		if got := cuts(r); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// BenchmarkScan is one slice of a CT, its pieces copied as who stores them does.
func BenchmarkScan(b *testing.B) {
	d := newDraft(ExplicitVRLittleEndian)
	d.ids()
	d.image("1", 512, 512, 16)
	d.pixels(OW, strings.Repeat("pixl", 512*512/2))
	to := make([]byte, len(d.b))
	b.SetBytes(int64(len(d.b)))
	b.ReportAllocs()
	for b.Loop() {
		at := 0
		if _, err := Scan(io.MultiReader(bytes.NewReader(d.b)), Limits{}, Handler{Piece: func(p Piece) error {
			at += copy(to[at:], p.Data)
			return nil
		}}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestErrorsOfOthersPassThrough(t *testing.T) {
	d := newDraft(ExplicitVRLittleEndian)
	d.ids()
	d.image("2", 2, 2, 8)
	d.pixels(OB, "abcdefgh")
	mine := errors.New("disk full")
	body := &draft{}
	body.ids()
	for name, b := range map[string][]byte{"plain": d.b, "deflated": deflated(t, body.b)} {
		if _, err := Scan(bytes.NewReader(b), Limits{}, Handler{Begin: func(UIDs) error { return mine }}); err != mine {
			t.Errorf("%s, Begin: %v", name, err)
		}
		pieces := 0
		if _, err := Scan(bytes.NewReader(b), Limits{}, Handler{Piece: func(Piece) error { pieces++; return mine }}); err != mine || pieces != 1 {
			t.Errorf("%s, Piece called %d times: %v", name, pieces, err)
		}
		for i := range len(b) {
			r := io.MultiReader(bytes.NewReader(b[:i]), iotest.ErrReader(mine))
			if _, err := Scan(r, Limits{}, Handler{}); !errors.Is(err, mine) && err != ErrNotDICOM {
				t.Fatalf("%s, reader broken at %d: %v", name, i, err)
			}
		}
	}
}

// pipe seeks as a pipe does: not at all.
type pipe struct{ io.Reader }

func (pipe) Seek(int64, int) (int64, error) { return 0, errors.New("illegal seek") }

func TestReadersThatCannotSeek(t *testing.T) {
	d := newDraft(ExplicitVRLittleEndian)
	d.ids()
	d.image("", 300, 300, 16)
	d.pixels(OW, strings.Repeat("ab", 300*300))
	if i, err := Scan(pipe{bytes.NewReader(d.b)}, Limits{}, Handler{}); err != nil || i.Size != int64(len(d.b)) {
		t.Error(err)
	}
	// From where the reader stands, not from its beginning.
	r := bytes.NewReader(append([]byte("prefix"), d.b...))
	if _, err := r.Seek(6, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if i, err := Scan(r, Limits{}, Handler{}); err != nil || i.Size != int64(len(d.b)) {
		t.Error(err)
	}
}

func TestIconsInSequences(t *testing.T) {
	build := func(f func(*draft)) []byte {
		d := newDraft(ExplicitVRLittleEndian)
		d.ids()
		d.head(0x00880200, SQ, 0xFFFFFFFF)
		d.head(itemTag, "", 0xFFFFFFFF)
		d.head(TagPixelData, OB, 0xFFFFFFFF)
		f(d)
		d.head(itemDelimiter, "", 0)
		d.head(sequenceDelimiter, "", 0)
		return d.b
	}
	for _, c := range []struct {
		name string
		f    func(*draft)
		want string
	}{
		{"empty", func(d *draft) { d.head(sequenceDelimiter, "", 0) }, "fine"},
		{"no items", func(d *draft) { d.put(TagRows, US, "ab") }, "malformed"},
		{"fragment of undefined length", func(d *draft) { d.head(itemTag, "", 0xFFFFFFFF) }, "malformed"},
		{"delimiter with a length", func(d *draft) { d.head(sequenceDelimiter, "", 4) }, "malformed"},
		{"fragment that never ends", func(d *draft) { d.head(itemTag, "", 5000) }, "truncated"},
	} {
		if _, err := scanBytes(t, build(c.f), Limits{}); kind(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	closed := newDraft(ExplicitVRLittleEndian)
	closed.ids()
	closed.head(0x00880200, SQ, 8+12+8)
	closed.head(itemTag, "", 12+8)
	closed.head(TagPixelData, OB, 0xFFFFFFFF)
	closed.head(itemTag, "", 100)
	if _, err := scanBytes(t, append(closed.b, make([]byte, 200)...), Limits{}); kind(err) != "malformed" {
		t.Errorf("fragment beyond its item: %v", err)
	}
}

func TestFragmentsThatAreNone(t *testing.T) {
	for name, f := range map[string]func(*draft){
		"an attribute":        func(d *draft) { d.us(TagRows, 1) },
		"an undefined length": func(d *draft) { d.head(itemTag, "", 0xFFFFFFFF) },
		"an item delimiter":   func(d *draft) { d.head(itemDelimiter, "", 0) },
	} {
		d := newDraft(RLELossless)
		d.ids()
		d.head(TagPixelData, OB, 0xFFFFFFFF)
		d.head(itemTag, "", 0)
		f(d)
		if _, err := scanBytes(t, append(d.b, make([]byte, 50)...), Limits{}); kind(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	two := newDraft(ExplicitVRLittleEndian)
	two.ids()
	two.put(TagFloatPixelData, OF, "abcd")
	two.pixels(OB, "ab")
	if _, err := scanBytes(t, two.b, Limits{}); kind(err) != "malformed" {
		t.Errorf("two pixel data attributes: %v", err)
	}
}

func TestOffsetTableMissing(t *testing.T) {
	d := newDraft("1.2.840.10008.1.2.4.50")
	d.ids()
	d.image("", 8, 8, 8)
	d.head(TagPixelData, OB, 0xFFFFFFFF)
	d.head(itemTag, "", 6)
	d.b = append(d.b, soi+eoi...)
	d.head(sequenceDelimiter, "", 0)
	s := mustScan(t, d.b)
	if len(s.Pixel.Frames) != 1 || s.frame(t, 0) != soi+eoi {
		t.Errorf("%+v", s.Pixel)
	}
}

func TestWhatFollowsAnImplicitDataset(t *testing.T) {
	for _, c := range []struct {
		name   string
		tail   string
		inData bool
		want   string
	}{
		{"padding attribute", "\xFC\xFF\xFC\xFF\x02\x00\x00\x00\x00\x00", true, "fine"},
		{"private block", "\xE1\x7F\x10\x00\x04\x00\x00\x00ACME\xE1\x7F\x01\x10\x02\x00\x00\x00ab", true, "fine"},
		{"private block cut short", "\xE1\x7F\x10\x00\x04\x00\x00\x00ACME\xE1\x7F\x01\x10\x09\x00\x00\x00ab", true, "truncated"},
		{"text", "left over from an earlier file", false, "fine"},
		{"high tags by chance", "\x35\x81\x77\x99\x10\x00\x00\x00", false, "fine"},
		{"unknown tags of the standard", "\x34\x81\x77\x99\xFF\x00\x00\x00", false, "fine"},
		{"attributes again", "\x08\x00\x18\x00\xFF\xFF\x00\x00", false, "fine"},
		{"a sequence delimiter", "\xFE\xFF\xDD\xE0\x00\x00\x00\x00", false, "fine"},
		{"an item", "\xFE\xFF\x00\xE0\xFF\x00\x00\x00", false, "fine"},
	} {
		d := newDraft(ImplicitVRLittleEndian)
		d.ids()
		d.image("", 2, 2, 8)
		d.pixels(OW, "abcd")
		size := int64(len(d.b))
		s, err := scanBytes(t, append(d.b, c.tail...), Limits{})
		if kind(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		if err != nil {
			continue
		}
		if s.Trailer != (Range{size, int64(len(c.tail))}) {
			t.Errorf("%s: trailer %v", c.name, s.Trailer)
		}
		last := s.Data.Elements[len(s.Data.Elements)-1].Tag
		if (last > TagPixelData) != c.inData {
			t.Errorf("%s: last attribute %v", c.name, last)
		}
	}
}
