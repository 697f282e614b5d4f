package cas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"
)

func testCID(i int) cid.Cid { return Sum([]byte(fmt.Sprint("block ", i))) }

// nativeManifest is an instance of 3 frames of 1,000 bytes.
func nativeManifest() InstanceManifest {
	return InstanceManifest{
		UID: "1.2.3", Class: "1.2.840.10008.5.1.4.1.1.2", TransferSyntax: "1.2.840.10008.1.2.1",
		Size: 4012, SHA256: sha256.Sum256([]byte("instance")), HeaderLen: 1000,
		Blocks: []BlockRef{{testCID(0), 1012}, {testCID(1), 2000}, {testCID(2), 1000}},
		Pixel:  &PixelLayout{Off: 1012, Len: 3000, Run: FrameRun{Off: 1012, Bits: 8000, Count: 3}},
	}
}

func encapsulatedManifest() InstanceManifest {
	m := nativeManifest()
	m.Pixel = &PixelLayout{Off: 1012, Len: 3000, Encapsulated: true, Frames: [][]Range{
		{{1028, 500}, {1536, 400}}, {{3000, 12}}, nil, {{2000, 0}}, {{1900, 100}}, // the last is stored before the others
	}}
	return m
}

func seriesManifest() SeriesManifest {
	return SeriesManifest{UID: "1.2", Attrs: []byte("attributes"), Instances: []InstanceEntry{
		{UID: "1.2.3", Attrs: []byte("a"), Size: 1 << 33, Manifest: Ref{testCID(3), 300}},
		{UID: "1.2.4", Size: 0, Manifest: Ref{testCID(4), MaxPlain + 1}},
	}}
}

func studyManifest() StudyManifest {
	return StudyManifest{UID: "1", Revision: math.MaxUint64, Attrs: []byte("attributes"), Series: []SeriesEntry{
		{UID: "1.2", Attrs: []byte("b"), Manifest: Ref{testCID(5), 600}},
	}}
}

// kind is one kind of manifest with its functions, so that a test runs over all.
type kind struct {
	name    string
	example [][]byte
	decode  func([]byte) (any, error)
	encode  func(any) ([]byte, error)
}

func kinds(t testing.TB) []kind {
	enc := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	bare := InstanceManifest{UID: "1"}
	return []kind{
		{"instance", [][]byte{enc(EncodeInstance(nativeManifest())), enc(EncodeInstance(encapsulatedManifest())), enc(EncodeInstance(bare))},
			func(b []byte) (any, error) { return DecodeInstance(b) },
			func(m any) ([]byte, error) { return EncodeInstance(m.(InstanceManifest)) }},
		{"series", [][]byte{enc(EncodeSeries(seriesManifest())), enc(EncodeSeries(SeriesManifest{UID: "1"}))},
			func(b []byte) (any, error) { return DecodeSeries(b) },
			func(m any) ([]byte, error) { return EncodeSeries(m.(SeriesManifest)) }},
		{"study", [][]byte{enc(EncodeStudy(studyManifest())), enc(EncodeStudy(StudyManifest{UID: "1"}))},
			func(b []byte) (any, error) { return DecodeStudy(b) },
			func(m any) ([]byte, error) { return EncodeStudy(m.(StudyManifest)) }},
		{"reference", [][]byte{enc(Ref{testCID(1), 5}.MarshalCBOR()), enc(Ref{testCID(1), MaxObject}.MarshalCBOR())},
			func(b []byte) (any, error) { var r Ref; err := r.UnmarshalCBOR(b); return r, err },
			func(r any) ([]byte, error) { return r.(Ref).MarshalCBOR() }},
		{"chunk list", [][]byte{encodeList(2*MaxPlain, []cid.Cid{testCID(1), testCID(2)})},
			func(b []byte) (any, error) { n, c, err := decodeList(b); return list{n, c}, err },
			func(l any) ([]byte, error) { return encodeList(l.(list).size, l.(list).chunks), nil }},
	}
}

type list struct {
	size   int64
	chunks []cid.Cid
}

// named are all the errors a decoder may give.
var named = []error{ErrMalformed, ErrTruncated, ErrTooMany, ErrTooLarge, ErrVersion, ErrLengths, ErrDuplicate, ErrBadCID}

func isNamed(err error) bool {
	return slices.ContainsFunc(named, func(n error) bool { return errors.Is(err, n) })
}

func TestManifestsComeBack(t *testing.T) {
	unknown := nativeManifest() // pixel data whose frames cannot be told
	unknown.Pixel.Run = FrameRun{Off: 1012}
	for _, want := range []InstanceManifest{nativeManifest(), encapsulatedManifest(), unknown, {UID: "1"}} {
		b, err := EncodeInstance(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeInstance(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\n got %+v\nwant %+v", err, got, want)
		}
	}
	b, err := EncodeSeries(seriesManifest())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeSeries(b); err != nil || !reflect.DeepEqual(got, seriesManifest()) {
		t.Errorf("%v\n got %+v", err, got)
	}
	if b, err = EncodeStudy(studyManifest()); err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeStudy(b); err != nil || !reflect.DeepEqual(got, studyManifest()) {
		t.Errorf("%v\n got %+v", err, got)
	}
}

// The bytes are checked against another CBOR implementation: it reads them,
// and writes the same ones in its canonical mode.
func TestManifestsAreCanonicalCBOR(t *testing.T) {
	enc, err := cbor.EncOptions{Sort: cbor.SortLengthFirst}.EncMode()
	if err != nil {
		t.Fatal(err)
	}
	dec, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden}.DecMode()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds(t) {
		for _, b := range k.example {
			var v any
			if err := dec.Unmarshal(b, &v); err != nil {
				t.Errorf("%s: %v", k.name, err)
			}
			again, err := enc.Marshal(v)
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s: %v\n ours %x\nother %x", k.name, err, b, again)
			}
		}
	}
	b, _ := EncodeStudy(studyManifest())
	var m map[string]any
	if err := dec.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	ref := m["series"].([]any)[0].([]any)[2].([]any)
	link := ref[0].(cbor.Tag)
	if link.Number != 42 || !bytes.Equal(link.Content.([]byte), append([]byte{0}, testCID(5).Bytes()...)) {
		t.Errorf("a link is %v", link)
	}
}

func TestManifestsHaveOneForm(t *testing.T) {
	for _, k := range kinds(t) {
		for _, b := range k.example {
			oneForm(t, k, b)
			for n := range b {
				if _, err := k.decode(b[:n]); !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrMalformed) {
					t.Errorf("%s cut to %d of %d bytes: %v", k.name, n, len(b), err)
				}
			}
			if _, err := k.decode(append(bytes.Clone(b), 0)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s with a byte behind it: %v", k.name, err)
			}
			for i := range 8 * len(b) {
				bad := bytes.Clone(b)
				bad[i/8] ^= 1 << (i % 8)
				oneForm(t, k, bad)
			}
		}
	}
}

// oneForm says that what decodes at all has no other bytes than these.
func oneForm(t testing.TB, k kind, b []byte) {
	t.Helper()
	m, err := k.decode(b)
	if err != nil {
		if !isNamed(err) {
			t.Fatalf("%s: an error without a name: %v", k.name, err)
		}
		return
	}
	if again, err := k.encode(m); err != nil || !bytes.Equal(again, b) {
		t.Fatalf("%s: decoded, and encoded otherwise: %v\n%x\n%x", k.name, err, b, again)
	}
}

func TestManifestRefusals(t *testing.T) {
	with := func(change func(*InstanceManifest)) InstanceManifest {
		m := nativeManifest()
		change(&m)
		return m
	}
	frames := func(f ...[]Range) InstanceManifest {
		m := encapsulatedManifest()
		m.Pixel.Frames = f
		return m
	}
	for _, c := range []struct {
		name string
		m    InstanceManifest
		want error
	}{
		{"no UID", with(func(m *InstanceManifest) { m.UID = "" }), ErrMalformed},
		{"UID too long", with(func(m *InstanceManifest) { m.UID = strings.Repeat("1", MaxName+1) }), ErrTooLarge},
		{"class not UTF-8", with(func(m *InstanceManifest) { m.Class = "\xff" }), ErrMalformed},
		{"size does not add up", with(func(m *InstanceManifest) { m.Size++ }), ErrLengths},
		{"size negative", with(func(m *InstanceManifest) { m.Size = -1 }), ErrTooLarge},
		{"size too large", with(func(m *InstanceManifest) { m.Size = MaxInstance + 1 }), ErrTooLarge},
		{"block over the limit", with(func(m *InstanceManifest) { m.Blocks[0].Len = MaxPlain + 1 }), ErrTooLarge},
		{"block empty", with(func(m *InstanceManifest) { m.Blocks[0].Len = 0 }), ErrLengths},
		{"block negative", with(func(m *InstanceManifest) { m.Blocks[0].Len = math.MinInt64 }), ErrLengths},
		{"block without address", with(func(m *InstanceManifest) { m.Blocks[0].CID = cid.Undef }), ErrBadCID},
		{"too many blocks", with(func(m *InstanceManifest) { m.Blocks = make([]BlockRef, MaxBlocks+1) }), ErrTooMany},
		{"header longer than the instance", with(func(m *InstanceManifest) { m.HeaderLen = 4013 }), ErrLengths},
		{"header negative", with(func(m *InstanceManifest) { m.HeaderLen = -1 }), ErrLengths},
		{"pixels in the header", with(func(m *InstanceManifest) { m.Pixel.Off = 999 }), ErrLengths},
		{"pixels beyond the end", with(func(m *InstanceManifest) { m.Pixel.Len = 3001 }), ErrLengths},
		{"pixels beyond all numbers", with(func(m *InstanceManifest) { m.Pixel.Len = math.MaxInt64 }), ErrLengths},
		{"pixels negative", with(func(m *InstanceManifest) { m.Pixel.Len = -1 }), ErrLengths},
		{"run beyond the pixels", with(func(m *InstanceManifest) { m.Pixel.Run.Count = 4 }), ErrLengths},
		{"run one bit beyond", with(func(m *InstanceManifest) { m.Pixel.Run = FrameRun{1012, 24001, 1} }), ErrLengths},
		{"run before the pixels", with(func(m *InstanceManifest) { m.Pixel.Run.Off = 1011 }), ErrLengths},
		{"run beyond all numbers", with(func(m *InstanceManifest) { m.Pixel.Run.Bits = math.MaxInt64 }), ErrLengths},
		{"run of no bits", with(func(m *InstanceManifest) { m.Pixel.Run.Bits = 0 }), ErrLengths},
		{"run of negative count", with(func(m *InstanceManifest) { m.Pixel.Run.Count = -1 }), ErrLengths},
		{"run of no frames at a negative offset", with(func(m *InstanceManifest) { m.Pixel.Run = FrameRun{Off: -1} }), ErrLengths},
		{"a billion frames in a run", with(func(m *InstanceManifest) { m.Pixel.Run.Count = 1e9 }), ErrTooMany},
		{"run and list", with(func(m *InstanceManifest) { m.Pixel.Frames = make([][]Range, 1) }), ErrMalformed},
		{"list and run", with(func(m *InstanceManifest) { m.Pixel.Encapsulated = true }), ErrMalformed},
		{"frame before the pixels", frames([]Range{{1011, 1}}), ErrLengths},
		{"frame beyond the pixels", frames([]Range{{4011, 2}}), ErrLengths},
		{"frame beyond all numbers", frames([]Range{{1012, math.MaxInt64}}), ErrLengths},
		{"frame negative", frames([]Range{{1012, -1}}), ErrLengths},
		{"too many frames", frames(make([][]Range, MaxFrames+1)...), ErrTooMany},
		{"too many parts", frames(slices.Repeat([]Range{{1012, 1}}, MaxParts+1)), ErrTooMany},
	} {
		if b, err := EncodeInstance(c.m); !errors.Is(err, c.want) || b != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}

	twice, far, longAttrs := seriesManifest(), seriesManifest(), seriesManifest()
	twice.Instances[1].UID = twice.Instances[0].UID
	far.Instances[0].Size = -1
	longAttrs.Attrs = make([]byte, MaxAttrs+1)
	noRef, longEntry := studyManifest(), studyManifest()
	noRef.Series[0].Manifest.CID = cid.Undef
	longEntry.Series[0].Attrs = make([]byte, MaxAttrs+1)
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"one UID twice", second(EncodeSeries(twice)), ErrDuplicate},
		{"instance of negative size", second(EncodeSeries(far)), ErrTooLarge},
		{"attributes too long", second(EncodeSeries(longAttrs)), ErrTooLarge},
		{"entry attributes too long", second(EncodeStudy(longEntry)), ErrTooLarge},
		{"entry without manifest", second(EncodeStudy(noRef)), ErrBadCID},
		{"too many entries", second(EncodeStudy(StudyManifest{UID: "1", Series: make([]SeriesEntry, MaxEntries+1)})), ErrTooMany},
		{"reference too large", second(Ref{testCID(0), MaxObject + 1}.MarshalCBOR()), ErrTooLarge},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// What only a stranger's bytes can hold, because no encoder writes it.
func TestForeignManifestRefusals(t *testing.T) {
	good, err := EncodeInstance(nativeManifest())
	if err != nil {
		t.Fatal(err)
	}
	swap := func(old, new string) []byte {
		if strings.Count(string(good), old) != 1 {
			t.Fatalf("%x is there %d times", old, strings.Count(string(good), old))
		}
		return []byte(strings.Replace(string(good), old, new, 1))
	}
	framesOf := func(rest string) []byte { return swap("crun\x83\x19\x03\xf4\x19\x1f\x40\x03", "fframes"+rest) }
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"version 2", swap("\x61v\x01", "\x61v\x02"), ErrVersion},
		{"a huge version", swap("\x61v\x01", "\x61v\x1b\xff\xff\xff\xff\xff\xff\xff\xff"), ErrVersion},
		{"version 2 of another shape", []byte("\xa2\x61v\x02\x63new\x00"), ErrVersion},
		{"another kind", swap("hinstance", "fseries"), ErrMalformed},
		{"a field more", append([]byte{good[0] + 1}, good[1:]...), ErrMalformed},
		{"a key renamed", swap("eclass", "eclasz"), ErrMalformed},
		{"a billion frames in a run", swap("\x19\x1f\x40\x03", "\x19\x1f\x40\x1a\x3b\x9a\xca\x00"), ErrTooMany},
		{"a billion frames in a list", framesOf("\x9a\x3b\x9a\xca\x00"), ErrTooMany},
		{"a million frames that are not there", framesOf("\x9a\x00\x0f\xff\xff"), ErrTruncated},
		{"a billion parts", framesOf("\x81\x9a\x3b\x9a\xca\x00"), ErrTooMany},
		{"a part without length", framesOf("\x81\x81\x00"), ErrMalformed},
		{"a part before the start", framesOf("\x81\x82\x3a\x3b\x9a\xca\x00\x01"), ErrLengths},
		{"a part beyond all numbers", framesOf("\x81\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01"), ErrLengths},
		{"a billion blocks", swap("fblocks\x83", "fblocks\x9a\x3b\x9a\xca\x00"), ErrTooMany},
		{"a million blocks that are not there", swap("fblocks\x83", "fblocks\x9a\x00\x0f\xff\xff"), ErrTruncated},
		{"an array without end", swap("fblocks\x83", "fblocks\x9f"), ErrMalformed},
		{"a text of a billion bytes", swap("cuid\x65", "cuid\x7a\x3b\x9a\xca\x00"), ErrTooLarge},
		{"a text longer than the rest", []byte("\xaa\x61v\x01cuid\x78\x801.2.3"), ErrTruncated},
		{"a long number written longer", swap("\x19\x0f\xac", "\x1a\x00\x00\x0f\xac"), ErrMalformed},
		{"another tag", []byte(strings.Replace(string(good), "\xd8\x2a", "\xd8\x2b", 1)), ErrMalformed},
		{"a link to another codec", []byte(strings.Replace(string(good), "\x58\x25\x00\x01\x55", "\x58\x25\x00\x01\x70", 1)), ErrMalformed},
		{"a short hash", swap("fsha256\x58\x20", "fsha256\x58\x1f"), ErrMalformed},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := DecodeInstance(c.b)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if !reflect.DeepEqual(m, InstanceManifest{}) {
			t.Errorf("%s: something comes with the error", c.name)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("%s: %d bytes were allocated for %d", c.name, got, len(c.b))
		}
	}
}

// Memory stays in proportion when everything that is cheap to write is
// written as often as it fits.
func TestDecodeMemoryIsBounded(t *testing.T) {
	m := encapsulatedManifest()
	m.Pixel.Frames = make([][]Range, MaxFrames/2)
	frames, err := EncodeInstance(m)
	if err != nil {
		t.Fatal(err)
	}
	m.Pixel.Frames = [][]Range{make([]Range, MaxParts/4)}
	for i := range m.Pixel.Frames[0] {
		m.Pixel.Frames[0][i].Off = 1012
	}
	parts, err := EncodeInstance(m)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"frames": frames, "parts": parts} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := DecodeInstance(b); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(25*len(b)+1<<20) {
			t.Errorf("%s: %d bytes were allocated for %d", name, got, len(b))
		}
	}
}

func TestNativeFramesTakeNoRoom(t *testing.T) {
	m := nativeManifest()
	m.Pixel.Run = FrameRun{Off: 1012, Bits: 1, Count: 24000}
	b, err := EncodeInstance(m)
	if err != nil {
		t.Fatal(err)
	}
	one, err := EncodeInstance(nativeManifest())
	if err != nil || len(b) > len(one)+2 {
		t.Errorf("24,000 frames take %d bytes, 3 take %d: %v", len(b), len(one), err)
	}
}

func TestFrame(t *testing.T) {
	m := nativeManifest()
	parts, bit, err := m.Pixel.Frame(2)
	if err != nil || bit != 0 || !slices.Equal(parts, []Range{{3012, 1000}}) {
		t.Error(parts, bit, err)
	}
	m.Pixel.Run = FrameRun{Off: 1012, Bits: 13, Count: 100}
	parts, bit, err = m.Pixel.Frame(3) // bits 39 to 51: from bit 7 of byte 4 to bit 3 of byte 6
	if err != nil || bit != 7 || !slices.Equal(parts, []Range{{1016, 3}}) {
		t.Error(parts, bit, err)
	}
	e := encapsulatedManifest()
	parts, _, err = e.Pixel.Frame(0)
	if err != nil || !slices.Equal(parts, []Range{{1028, 500}, {1536, 400}}) {
		t.Error(parts, err)
	}
	for _, c := range []struct {
		p *PixelLayout
		i int
	}{{m.Pixel, -1}, {m.Pixel, 100}, {e.Pixel, 5}, {nil, 0}} {
		if _, _, err := c.p.Frame(c.i); !errors.Is(err, ErrNoFrame) {
			t.Errorf("frame %d: %v", c.i, err)
		}
	}
}

func TestCoveringAndReadingOrder(t *testing.T) {
	m := nativeManifest() // blocks end at 1012, 3012, 4012
	at := func(refs []BlockRef) (is []int) {
		for _, r := range refs {
			is = append(is, slices.Index(m.Blocks, r))
		}
		return is
	}
	for _, c := range []struct {
		ranges []Range
		want   []int
	}{
		{nil, nil},
		{[]Range{{0, 1}}, []int{0}},
		{[]Range{{1011, 1}}, []int{0}},
		{[]Range{{1011, 2}}, []int{0, 1}},
		{[]Range{{1012, 2000}}, []int{1}},
		{[]Range{{4011, 1}, {0, 1}, {5, 5}}, []int{0, 2}},
		{[]Range{{0, math.MaxInt64}}, []int{0, 1, 2}},
		{[]Range{{4012, 5}, {-1, 5}, {5, 0}, {5, -1}}, nil},
	} {
		if got := at(m.Covering(c.ranges...)); !slices.Equal(got, c.want) {
			t.Errorf("%v: blocks %v, want %v", c.ranges, got, c.want)
		}
	}

	other := m
	other.Blocks = []BlockRef{{testCID(7), 1012}, m.Blocks[1], {testCID(8), 1000}} // shares a frame
	got := ReadingOrder(m, other)
	want := []BlockRef{m.Blocks[0], other.Blocks[0], m.Blocks[1], m.Blocks[2], other.Blocks[2]}
	if !slices.Equal(got, want) {
		t.Errorf("order %v\nwant  %v", got, want)
	}
}

func TestObjectsOfEverySize(t *testing.T) {
	k, s := testKey(0), NewMemory().Shelf(ShelfID{})
	for _, n := range []int{0, 1, MaxPlain - 1, MaxPlain, MaxPlain + 1, 2 * MaxPlain, 3*MaxPlain + 5} {
		data := noise(uint64(n), n)
		r, err := PutObject(t.Context(), s, k, data)
		if err != nil || r.Size != int64(n) {
			t.Fatal(r, err)
		}
		got, err := GetObject(t.Context(), s, k, r)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %d back, %v", n, len(got), err)
		}
		blocks, err := r.Blocks(t.Context(), s, k)
		want := 1
		if n > MaxPlain {
			want += (n + MaxPlain - 1) / MaxPlain
		}
		if err != nil || len(blocks) != want || blocks[0] != r.CID {
			t.Errorf("%d bytes: %d blocks, %v", n, len(blocks), err)
		}
		for _, c := range blocks {
			if err := s.Delete(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if _, err := GetObject(t.Context(), s, k, r); !errors.Is(err, ErrNotFound) {
				t.Errorf("%d bytes without %s: %v", n, c, err)
			}
			if again, err := PutObject(t.Context(), s, k, data); err != nil || again != r {
				t.Fatal(again, err)
			}
		}
		for _, wrong := range []int64{r.Size - 1, r.Size + 1, r.Size + MaxPlain, -1, MaxObject + 1} {
			if data, err := GetObject(t.Context(), s, k, Ref{r.CID, wrong}); err == nil {
				t.Errorf("%d bytes read as %d: %d bytes", n, wrong, len(data))
			}
		}
		if _, err := GetObject(t.Context(), s, testKey(1), r); !errors.Is(err, ErrWrongKey) {
			t.Errorf("another key: %v", err)
		}
	}
	if _, err := PutObject(t.Context(), s, k, make([]byte, MaxObject+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	k, s, ctx := testKey(0), NewMemory().Shelf(ShelfID{}), t.Context()
	large := seriesManifest() // more than one block
	for i := range 3000 {
		large.Instances = append(large.Instances, InstanceEntry{UID: fmt.Sprint("1.2.5.", i), Attrs: noise(uint64(i), 700), Size: 5, Manifest: Ref{testCID(i), 9}})
	}
	ri, err := SaveInstance(ctx, s, k, nativeManifest())
	if err != nil {
		t.Fatal(err)
	}
	rs, err := SaveSeries(ctx, s, k, large)
	if err != nil || rs.Size <= MaxPlain {
		t.Fatal(rs.Size, err)
	}
	rt, err := SaveStudy(ctx, s, k, studyManifest())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := LoadInstance(ctx, s, k, ri); err != nil || !reflect.DeepEqual(got, nativeManifest()) {
		t.Error(err)
	}
	if got, err := LoadSeries(ctx, s, k, rs); err != nil || !reflect.DeepEqual(got, large) {
		t.Error(err)
	}
	if got, err := LoadStudy(ctx, s, k, rt); err != nil || !reflect.DeepEqual(got, studyManifest()) {
		t.Error(err)
	}
	if _, err := LoadStudy(ctx, s, k, rs); !errors.Is(err, ErrMalformed) {
		t.Errorf("a series read as a study: %v", err)
	}
	if _, err := LoadStudy(ctx, s, k, ri); !errors.Is(err, ErrMalformed) {
		t.Errorf("an instance read as a study: %v", err)
	}
	data, err := k.Seal([]byte("pixels that a stranger chose"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, data); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadStudy(ctx, s, k, Ref{data.CID, 28}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("pixel data read as a study: %v", err)
	}
	if _, err := SaveInstance(ctx, s, k, InstanceManifest{}); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// lying is a backend that gives other bytes than those of the address.
type lying map[cid.Cid][]byte

func (l lying) Get(_ context.Context, c cid.Cid) ([]byte, error) {
	if b, ok := l[c]; ok {
		return b, nil
	}
	return nil, ErrNotFound
}

func TestWhatNamesItself(t *testing.T) {
	k, s := testKey(0), newSealer(testKey(0))
	c := testCID(1)
	at := func(dom domain, plain []byte, err error) lying {
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.seal(dom, plain)
		if err != nil {
			t.Fatal(err)
		}
		return lying{c: b.Data}
	}
	im, sm, tm := nativeManifest(), seriesManifest(), studyManifest()
	im.Blocks[1].CID, sm.Instances[1].Manifest.CID, tm.Series[0].Manifest.CID = c, c, c
	b, err := EncodeInstance(im)
	_, err = LoadInstance(t.Context(), at(domObject, b, err), k, Ref{c, int64(len(b))})
	if !errors.Is(err, ErrSelfReference) {
		t.Errorf("instance: %v", err)
	}
	b, err = EncodeSeries(sm)
	_, err = LoadSeries(t.Context(), at(domObject, b, err), k, Ref{c, int64(len(b))})
	if !errors.Is(err, ErrSelfReference) {
		t.Errorf("series: %v", err)
	}
	b, err = EncodeStudy(tm)
	_, err = LoadStudy(t.Context(), at(domObject, b, err), k, Ref{c, int64(len(b))})
	if !errors.Is(err, ErrSelfReference) {
		t.Errorf("study: %v", err)
	}
	b = encodeList(2*MaxPlain, []cid.Cid{testCID(2), c})
	_, err = GetObject(t.Context(), at(domList, b, nil), k, Ref{c, 2 * MaxPlain})
	if !errors.Is(err, ErrSelfReference) {
		t.Errorf("chunk list: %v", err)
	}
}

func TestChunkListsThatDoNotFit(t *testing.T) {
	k, s := testKey(0), newSealer(testKey(0))
	chunk, err := s.seal(domChunk, []byte("too short"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		size   int64
		chunks []cid.Cid
		want   error
	}{
		{"too few chunks", 3 * MaxPlain, []cid.Cid{chunk.CID, chunk.CID}, ErrLengths},
		{"too many chunks", MaxPlain + 1, slices.Repeat([]cid.Cid{chunk.CID}, maxChunks+1), ErrTooMany},
		{"another size", 2*MaxPlain - 1, []cid.Cid{chunk.CID, chunk.CID}, ErrLengths},
		{"a short chunk", 2 * MaxPlain, []cid.Cid{chunk.CID, chunk.CID}, ErrLengths},
		{"a missing chunk", 2 * MaxPlain, []cid.Cid{testCID(1), chunk.CID}, ErrNotFound},
	} {
		l, err := s.seal(domList, encodeList(c.size, c.chunks))
		if err != nil {
			t.Fatal(err)
		}
		want := Ref{l.CID, c.size}
		if c.name == "another size" {
			want.Size = 2 * MaxPlain
		}
		_, err = GetObject(t.Context(), lying{l.CID: l.Data, chunk.CID: chunk.Data}, k, want)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestRandomManifestsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := InstanceManifest{
			UID: rapid.StringMatching(`[0-9.]{1,64}`).Draw(t, "uid"), Class: rapid.StringMatching(`[0-9.]{0,64}`).Draw(t, "class"),
			TransferSyntax: rapid.StringN(0, 30, 64).Draw(t, "syntax"),
		}
		for i, n := range rapid.SliceOfN(rapid.Int64Range(1, MaxPlain), 0, 40).Draw(t, "blocks") {
			m.Blocks = append(m.Blocks, BlockRef{testCID(i), n})
			m.Size += n
		}
		m.HeaderLen = rapid.Int64Range(0, m.Size).Draw(t, "header")
		if rapid.Bool().Draw(t, "pixel") {
			p := &PixelLayout{Off: rapid.Int64Range(m.HeaderLen, m.Size).Draw(t, "off"), Encapsulated: rapid.Bool().Draw(t, "encapsulated")}
			p.Len = rapid.Int64Range(0, m.Size-p.Off).Draw(t, "len")
			if p.Encapsulated {
				for range rapid.IntRange(0, 20).Draw(t, "frames") {
					var f []Range
					for range rapid.IntRange(0, 3).Draw(t, "parts") {
						off := rapid.Int64Range(0, p.Len).Draw(t, "part off")
						f = append(f, Range{p.Off + off, rapid.Int64Range(0, p.Len-off).Draw(t, "part len")})
					}
					p.Frames = append(p.Frames, f)
				}
			} else if p.Len > 0 && rapid.Bool().Draw(t, "frames") {
				p.Run = FrameRun{Off: p.Off, Bits: rapid.Int64Range(1, 8*p.Len).Draw(t, "bits")}
				p.Run.Count = rapid.IntRange(1, int(min(8*p.Len/p.Run.Bits, MaxFrames))).Draw(t, "count")
			}
			m.Pixel = p
		}
		b, err := EncodeInstance(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeInstance(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, m)
		}
	})
}

func FuzzDecode(f *testing.F) {
	all := kinds(f)
	for i, k := range all {
		for _, b := range k.example {
			f.Add(uint8(i), b)
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) { oneForm(t, all[int(i)%len(all)], b) })
}
