package dicom

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNumbers(t *testing.T) {
	le := func(v ...any) []byte {
		var b bytes.Buffer
		for _, x := range v {
			if err := binary.Write(&b, binary.LittleEndian, x); err != nil {
				t.Fatal(err)
			}
		}
		return b.Bytes()
	}
	for _, c := range []struct {
		name   string
		vr     VR
		value  []byte
		ints   []int64
		uints  []uint64
		floats []float64
	}{
		{"US", US, le(uint16(1), uint16(65535)), []int64{1, 65535}, []uint64{1, 65535}, []float64{1, 65535}},
		{"SS", SS, le(int16(-1)), []int64{-1}, nil, []float64{-1}},
		{"UL", UL, le(uint32(1 << 31)), []int64{1 << 31}, []uint64{1 << 31}, []float64{1 << 31}},
		{"SL", SL, le(int32(-5)), []int64{-5}, nil, []float64{-5}},
		{"SV", SV, le(int64(math.MinInt64)), []int64{math.MinInt64}, nil, []float64{math.MinInt64}},
		{"UV", UV, le(uint64(7)), []int64{7}, []uint64{7}, []float64{7}},
		{"UV beyond int64", UV, le(uint64(math.MaxUint64)), nil, []uint64{math.MaxUint64}, []float64{math.MaxUint64}},
		{"AT", AT, le(uint16(0x0010), uint16(0x0020)), []int64{0x00100020}, []uint64{0x00100020}, []float64{0x00100020}},
		{"OL", OL, le(uint32(9)), []int64{9}, []uint64{9}, []float64{9}},
		{"OV", OV, le(uint64(1 << 63)), nil, []uint64{1 << 63}, []float64{1 << 63}},
		{"OW", OW, le(uint16(3), uint16(4)), []int64{3, 4}, []uint64{3, 4}, []float64{3, 4}},
		{"OB", OB, []byte{5, 255}, []int64{5, 255}, []uint64{5, 255}, []float64{5, 255}},
		{"FL", FL, le(float32(0.5), float32(-2)), nil, nil, []float64{0.5, -2}},
		{"FD", FD, le(1e300), nil, nil, []float64{1e300}},
		{"OF", OF, le(float32(1)), nil, nil, []float64{1}},
		{"OD", OD, le(2.5), nil, nil, []float64{2.5}},
		{"IS", IS, []byte(` 12\-3\+4 `), []int64{12, -3, 4}, nil, []float64{12, -3, 4}},
		{"DS whole", DS, []byte(`1\2.0\1e3`), []int64{1, 2, 1000}, []uint64{1, 2, 1000}, []float64{1, 2, 1000}},
		{"DS", DS, []byte(`1.5\-2`), nil, nil, []float64{1.5, -2}},
		{"IS with a hole", IS, []byte(`1\\2`), nil, nil, nil},
		{"IS of letters", IS, []byte("one"), nil, nil, nil},
		{"empty", US, nil, nil, nil, nil},
		{"half a number", UL, []byte{1, 2}, nil, nil, nil},
		{"a number and a half", US, []byte{1, 0, 2}, []int64{1}, []uint64{1}, []float64{1}},
		{"text", LO, []byte("12"), nil, nil, nil},
		{"UN", UN, []byte{1, 0}, nil, nil, nil},
	} {
		e := Element{VR: c.vr, Value: c.value}
		if got := e.Ints(); !reflect.DeepEqual(got, c.ints) {
			t.Errorf("%s: ints %v, want %v", c.name, got, c.ints)
		}
		if got := e.Uints(); !reflect.DeepEqual(got, c.uints) {
			t.Errorf("%s: uints %v, want %v", c.name, got, c.uints)
		}
		if got := e.Floats(); !reflect.DeepEqual(got, c.floats) {
			t.Errorf("%s: floats %v, want %v", c.name, got, c.floats)
		}
	}
}

func TestBigEndianNumbersAreTurned(t *testing.T) {
	d := newDraft(ExplicitVRBigEndian)
	d.ids()
	put := func(tag Tag, vr VR, v any) {
		var b bytes.Buffer
		if err := binary.Write(&b, binary.BigEndian, v); err != nil {
			t.Fatal(err)
		}
		d.put(tag, vr, b.String())
	}
	put(0x00720062, AT, []uint16{0x0010, 0x0020})
	put(0x00720064, FD, 2.5)
	put(0x00720065, FL, float32(-1))
	put(0x00720067, SL, int32(-7))
	put(0x00720068, SV, int64(-8))
	put(0x00720069, OW, []uint16{1, 2})
	put(0x0072006A, UV, uint64(9))
	put(0x0072006B, OB, []byte{1, 2, 3, 4})
	s := mustScan(t, d.b)
	for tag, want := range map[Tag]float64{0x00720062: 0x00100020, 0x00720064: 2.5, 0x00720065: -1, 0x00720067: -7, 0x00720068: -8, 0x00720069: 1, 0x0072006A: 9, 0x0072006B: 1} {
		if got, ok := s.Data.Float(tag); !ok || got != want {
			t.Errorf("%v: %v, want %v", tag, got, want)
		}
	}
}

func TestTags(t *testing.T) {
	for _, c := range []struct {
		in      string
		tag     Tag
		keyword string
		vr      VR
	}{
		{"00100020", TagPatientID, "PatientID", LO},
		{"(0010,0020)", TagPatientID, "PatientID", LO},
		{"0010,0020", TagPatientID, "PatientID", LO},
		{"PatientID", TagPatientID, "PatientID", LO},
		{"7fe00010", TagPixelData, "PixelData", OW},
		{"StudyInstanceUID", TagStudyInstanceUID, "StudyInstanceUID", UI},
		{"60020010", 0x60020010, "OverlayRows", US},
		{"60023000", 0x60023000, "OverlayData", OW},
		{"00280106", 0x00280106, "SmallestImagePixelValue", US},
		{"00090010", 0x00090010, "", LO},
		{"00091001", 0x00091001, "", UN},
		{"00090000", 0x00090000, "", UL},
		{"00080000", 0x00080000, "GenericGroupLength", UL},
		{"12340042", 0x12340042, "", UN},
	} {
		got, err := ParseTag(c.in)
		if err != nil || got != c.tag || got.Keyword() != c.keyword || got.DictVR() != c.vr {
			t.Errorf("%q: %v %q %v %v", c.in, got, got.Keyword(), got.DictVR(), err)
		}
	}
	for _, in := range []string{"", "0010002", "Patient ID", "patientid", "(0010,0020", "0010;0020", "0010002g", strings.Repeat("x", 1000), "+0010020"} {
		if got, err := ParseTag(in); err == nil || len(err.Error()) > 300 {
			t.Errorf("%.20q: %v %v", in, got, err)
		}
	}
	if s := TagPatientID.String() + TagPatientID.Hex(); s != "(0010,0020)00100020" {
		t.Error(s)
	}
	if vr := Tag(0x00280106).dictVR(true); vr != SS {
		t.Errorf("signed pixels: %v", vr)
	}
}

func TestVRKinds(t *testing.T) {
	known := 0
	for a := 'A'; a <= 'Z'; a++ {
		for b := 'A'; b <= 'Z'; b++ {
			v := VR(string(a) + string(b))
			n := 0
			for _, is := range []bool{v.IsString(), v.IsInt(), v.IsFloat(), v.IsBinary(), v == SQ} {
				if is {
					n++
				}
			}
			if v.Known() {
				known++
			}
			if v.Known() != (n == 1) || v.IsText() && !v.IsString() || v.IsSingle() && !v.IsString() {
				t.Errorf("%s is of %d kinds, known %v", v, n, v.Known())
			}
		}
	}
	if known != 34 {
		t.Errorf("%d VRs, PS3.5 6.2 has 34", known)
	}
	for _, v := range []VR{SH, LO, ST, PN, LT, UC, UT} {
		if !v.IsText() {
			t.Errorf("%s is governed by the character set", v)
		}
	}
}

func TestUIDs(t *testing.T) {
	for _, u := range []UID{"1", "1.2.840.10008.1.2", "111", "1.02.3", UID(strings.Repeat("1", 64))} {
		if !u.Valid() {
			t.Errorf("%s is refused", u)
		}
	}
	for _, u := range []UID{"", "1.2.a", "1.2 ", "../../etc", "1.2\x00", UID(strings.Repeat("1", 65)), "1,2", "１.２"} {
		if u.Valid() {
			t.Errorf("%q is accepted", u)
		}
	}
	if s := UID("1.2.3").Short(); len(s) != 8 || s == UID("1.2.4").Short() || strings.Contains(s, "1.2") {
		t.Errorf("short form %q", s)
	}
	for u, want := range map[UID]string{
		ImplicitVRLittleEndian: "implicit", ExplicitVRLittleEndian: "", ExplicitVRBigEndian: "big", DeflatedLittleEndian: "deflated",
		DeflatedImageFrame: "encapsulated", RLELossless: "encapsulated", EncapsulatedUncompressed: "encapsulated",
		"1.2.840.10008.1.2.4.50": "encapsulated", "1.2.840.10008.1.2.4.201": "encapsulated", "1.2.840.10008.1.2.4.112": "encapsulated",
		"1.2.840.10008.1.2.4.94": "", "1.2.840.10008.1.2.4.95": "deflated", "1.2.840.10008.1.2.4.205": "deflated",
		"1.2.840.10008.1.2.4.100": "encapsulated video", "1.2.840.10008.1.2.4.108": "encapsulated video", "1.2.840.10008.1.2.4.106.1": "encapsulated video",
		"1.2.840.113619.5.2": "", "": "",
	} {
		var is []string
		for name, yes := range map[string]bool{"implicit": u.Implicit(), "big": u.BigEndian(), "deflated": u.Deflated()} {
			if yes {
				is = append(is, name)
			}
		}
		if u.Encapsulated() {
			is = append(is, "encapsulated")
		}
		if u.Video() {
			is = append(is, "video")
		}
		if got := strings.Join(is, " "); got != want {
			t.Errorf("%s is %q, want %q", u, got, want)
		}
	}
}

func TestErrorsSayWhatWhereAndWhatToDo(t *testing.T) {
	for _, c := range []struct {
		err  error
		want []string
	}{
		{ErrMissingUID{TagStudyInstanceUID}, []string{"StudyInstanceUID", "(0020,000D)", "send it again"}},
		{ErrLimit{"Depth", 128}, []string{"Depth", "128", "raise the limit"}},
		{ErrMalformed{Offset: 42, Tag: TagPatientID, Why: "reason"}, []string{"byte 42", "(0010,0020)", "reason", "send it again"}},
		{ErrNotDICOM, []string{"not a DICOM instance", "check"}},
		{ErrMediaDirectory, []string{"DICOMDIR", "send the files it lists"}},
		{ErrTruncated, []string{"cut short", "send it again"}},
	} {
		for _, w := range c.want {
			if !strings.Contains(c.err.Error(), w) {
				t.Errorf("%q does not say %q", c.err, w)
			}
		}
	}
}

// drawDataset makes any small set of attributes.
func drawDataset(t *rapid.T, depth int) Dataset {
	var d Dataset
	if rapid.Bool().Draw(t, "charset") {
		cs := rapid.SampledFrom([]string{"ISO_IR 100", "ISO_IR 192", "GB18030", `\ISO 2022 IR 87`, "ISO_IR 13", ""}).Draw(t, "which")
		d.Elements = append(d.Elements, Element{Tag: TagSpecificCharacterSet, VR: CS, Value: []byte(cs)})
	}
	for range rapid.IntRange(0, 6).Draw(t, "elements") {
		e := Element{Tag: Tag(rapid.SampledFrom([]uint32{0x00100010, 0x00100020, 0x00081030, 0x00091010, 0x00280010, 0x00189087, 0x0040A160, 0x00081140, 0x00091001}).Draw(t, "tag"))}
		e.VR = e.Tag.DictVR()
		switch {
		case e.VR == SQ && depth < 3:
			e.Items = []Dataset{}
			for range rapid.IntRange(0, 2).Draw(t, "items") {
				e.Items = append(e.Items, drawDataset(t, depth+1))
			}
		case e.VR == SQ:
			continue
		default:
			e.Value = rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, "value")
			if n := max(vrs[e.VR].width, 1); len(e.Value)%n != 0 {
				e.Value = e.Value[:len(e.Value)/n*n]
			}
		}
		d.Elements = append(d.Elements, e)
	}
	return d
}

// meaning is what a dataset says, whatever its encoding.
func meaning(d Dataset) map[Tag]any {
	m := map[Tag]any{}
	for _, e := range d.Elements {
		if _, twice := m[e.Tag]; twice || e.Tag == TagSpecificCharacterSet {
			continue
		}
		switch {
		case e.VR == SQ:
			items := []any{}
			for _, i := range e.Items {
				items = append(items, meaning(i))
			}
			m[e.Tag] = items
		case e.VR.IsText():
			m[e.Tag] = strings.Join(d.Text(e), `\`)
		case e.VR.IsString():
			m[e.Tag] = strings.Trim(string(e.Value), " \x00")
		default:
			m[e.Tag] = strings.TrimRight(string(e.Value), "\x00")
		}
	}
	return m
}

func TestEncodedAttributesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDataset(t, 0)
		d.inherit(nil)
		b := d.Encode()
		again, err := Decode(b, Limits{})
		if err != nil {
			t.Fatalf("%v of % x", err, b)
		}
		if got, want := meaning(again), meaning(d); !reflect.DeepEqual(got, want) {
			t.Fatalf("%v came back as %v", want, got)
		}
		if twice := again.Encode(); !bytes.Equal(twice, b) {
			t.Fatalf("% x encodes again as % x", b, twice)
		}
	})
}

func TestEncodeIsOrderedUTF8(t *testing.T) {
	d := Dataset{Elements: []Element{
		{Tag: TagPatientName, VR: PN, Value: []byte("J\xe9")},
		{Tag: TagModality, VR: CS, Value: []byte("CT")},
		{Tag: TagSpecificCharacterSet, VR: CS, Value: []byte("ISO_IR 100")},
		{Tag: 0x00080000, VR: UL, Value: []byte{1, 0, 0, 0}},
		{Tag: TagPatientName, VR: PN, Value: []byte("second")},
		{Tag: 0x00420011, VR: OB, Bulk: &Range{0, 100}},
	}}
	want := "\x08\x00\x05\x00CS\x0a\x00ISO_IR 192" + "\x08\x00\x60\x00CS\x02\x00CT" + "\x10\x00\x10\x00PN\x04\x00Jé "
	if got := string(d.Encode()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	long := Dataset{Elements: []Element{{Tag: TagStudyDescription, VR: LO, Value: bytes.Repeat([]byte("é"), 40000)}}}
	again, err := Decode(long.Encode(), Limits{})
	if e, _ := again.Find(TagStudyDescription); err != nil || e.VR != LO || len(e.Value) != 80000 {
		t.Errorf("a value beyond 64 KiB: %v %d %v", e.VR, len(e.Value), err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	ok := Dataset{Elements: []Element{{Tag: TagPatientName, VR: PN, Value: []byte("Doe^Jane")}}}.Encode()
	for i := 1; i < len(ok); i++ {
		if i == 18 {
			continue // between two attributes
		}
		if d, err := Decode(ok[:i], Limits{}); err == nil {
			t.Errorf("cut at %d gives %v", i, d)
		}
	}
	if _, err := Decode(ok, Limits{Value: 4}); kind(err) != "limit Value" {
		t.Errorf("long value: %v", err)
	}
	if _, err := Decode(ok, Limits{Elements: 1}); kind(err) != "limit Elements" {
		t.Errorf("many elements: %v", err)
	}
	if _, err := Decode([]byte("this is no dataset at all"), Limits{}); err == nil {
		t.Error("nonsense is accepted")
	}
	if d, err := Decode(nil, Limits{}); err != nil || len(d.Elements) != 0 {
		t.Errorf("nothing is an empty dataset: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Dataset{}.Encode())
	d := draft{}
	d.ids()
	d.seq(0x00081140, true, func(d *draft) { d.put(0x00081155, UI, "1.9") })
	d.put(0x00091001, UN, "xyz")
	f.Add(d.b)
	i := draft{syntax: syntax{implicit: true}}
	i.ids()
	f.Add(i.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Decode(b, Limits{Depth: 20, Elements: 10000})
		if err != nil {
			return
		}
		once := d.Encode()
		again, err := Decode(once, Limits{})
		if err != nil {
			t.Fatalf("%v of % x", err, once)
		}
		if twice := again.Encode(); !bytes.Equal(once, twice) {
			t.Fatalf("% x encodes again as % x", once, twice)
		}
	})
}
