package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
)

// Limits of what a manifest may say. They bound the work of whoever reads one.
const (
	MaxName     = 128     // bytes of a UID
	MaxAttrs    = 1 << 20 // bytes of the attributes of one entry
	MaxEntries  = 1 << 18 // series of a study, instances of a series
	MaxBlocks   = 1 << 20 // blocks of an instance: 512 GiB and more
	MaxFrames   = 1 << 20 // frames of an instance
	MaxParts    = 4 << 20 // parts of all its frames
	MaxInstance = MaxBlocks * MaxPlain

	manifestVersion = 1
)

var (
	// ErrLengths says the sizes in a manifest do not add up.
	ErrLengths = errors.New("lengths do not add up")
	// ErrDuplicate says a manifest has two entries under one UID.
	ErrDuplicate = errors.New("the same UID twice")
	// ErrNoFrame says there is no frame of that number.
	ErrNoFrame = errors.New("no such frame")
)

// BlockRef is a block and how many plaintext bytes it holds.
type BlockRef struct {
	CID cid.Cid
	Len int64
}

// Range is a run of bytes in the plaintext of an instance.
type Range struct{ Off, Len int64 }

// InstanceManifest names the blocks of one instance. Their plaintexts, one
// after the other, are exactly the bytes that were received.
type InstanceManifest struct {
	UID, Class, TransferSyntax string
	Size                       int64
	SHA256                     [sha256.Size]byte // of the instance
	HeaderLen                  int64             // bytes before the Pixel Data element; Size when there is none
	Blocks                     []BlockRef
	Pixel                      *PixelLayout // nil when there is none
}

// PixelLayout says where the frames are. Native pixel data is a Run of equal
// frames; encapsulated pixel data lists its Frames.
type PixelLayout struct {
	Off, Len     int64 // the value of the Pixel Data element
	Encapsulated bool
	Run          FrameRun
	Frames       [][]Range // for each frame the parts whose concatenation it is
}

// FrameRun is Count frames of equal size back to back from Off. The size is
// in bits because 1-bit frames may begin inside a byte (PS3.5 8.1.1).
type FrameRun struct {
	Off   int64
	Bits  int64
	Count int
}

// NumFrames is how many frames there are.
func (p *PixelLayout) NumFrames() int {
	switch {
	case p == nil:
		return 0
	case p.Encapsulated:
		return len(p.Frames)
	default:
		return p.Run.Count
	}
}

// Frame is where frame i (from 0) is: the parts whose concatenation holds it
// and, for 1-bit native frames only, the bit of the first byte it begins at.
func (p *PixelLayout) Frame(i int) (parts []Range, bit int, err error) {
	if i < 0 || i >= p.NumFrames() {
		return nil, 0, fmt.Errorf("%w: frame %d of %d, counted from 0", ErrNoFrame, i, p.NumFrames())
	}
	if p.Encapsulated {
		return p.Frames[i], 0, nil
	}
	first := int64(i) * p.Run.Bits
	bit = int(first % 8)
	return []Range{{Off: p.Run.Off + first/8, Len: (int64(bit) + p.Run.Bits + 7) / 8}}, bit, nil
}

// InstanceEntry is an instance as its series lists it.
type InstanceEntry struct {
	UID      string
	Attrs    []byte // query attributes, in a form cas does not know
	Size     int64  // plaintext bytes of the instance
	Manifest Ref
}

// SeriesManifest lists the instances of a series.
type SeriesManifest struct {
	UID       string
	Attrs     []byte
	Instances []InstanceEntry
}

// SeriesEntry is a series as its study lists it.
type SeriesEntry struct {
	UID      string
	Attrs    []byte
	Manifest Ref
}

// StudyManifest lists the series of a study.
type StudyManifest struct {
	UID      string
	Revision uint64
	Attrs    []byte
	Series   []SeriesEntry
}

// SaveInstance stores the manifest, durably on return.
func SaveInstance(ctx context.Context, s Putter, k Key, m InstanceManifest) (Ref, error) {
	return save(ctx, s, k, m, EncodeInstance)
}

// SealInstance seals the manifest. Once the blocks are stored, the Ref names it.
func SealInstance(k Key, m InstanceManifest) (Ref, []Block, error) {
	b, err := EncodeInstance(m)
	if err != nil {
		return Ref{}, nil, err
	}
	return SealObject(k, b)
}

// LoadInstance reads a manifest and checks all it says.
func LoadInstance(ctx context.Context, g Getter, k Key, r Ref) (InstanceManifest, error) {
	return load(ctx, g, k, r, "instance", DecodeInstance, func(m InstanceManifest) bool {
		return slices.ContainsFunc(m.Blocks, func(b BlockRef) bool { return b.CID == r.CID })
	})
}

// FindInstances reads a whole shelf and calls fn with every instance manifest
// on it, in no particular order: for when what names them is lost. Blocks that
// cannot be read or are something else are passed over.
func FindInstances(ctx context.Context, s Shelf, k Key, fn func(InstanceManifest) error) error {
	open := newSealer(k)
	return s.Enumerate(ctx, cid.Undef, func(c cid.Cid, _ int64) error {
		data, err := s.Get(ctx, c)
		if err != nil {
			if Damaged(err) {
				return nil
			}
			return err
		}
		b := Block{CID: c, Data: data}
		object, err := open.openTrusting(domObject, b)
		if err != nil {
			list, err := open.openTrusting(domList, b)
			if err != nil {
				return nil // part of an instance, or damaged
			}
			size, _, err := decodeList(list)
			if err != nil {
				return nil
			}
			if object, err = GetObject(ctx, s, k, Ref{CID: c, Size: size}); err != nil {
				return ctx.Err()
			}
		}
		m, err := DecodeInstance(object)
		if err != nil {
			return nil // of a series or a study
		}
		return fn(m)
	})
}

// SaveSeries stores the manifest, durably on return.
func SaveSeries(ctx context.Context, s Putter, k Key, m SeriesManifest) (Ref, error) {
	return save(ctx, s, k, m, EncodeSeries)
}

// LoadSeries reads a manifest and checks all it says.
func LoadSeries(ctx context.Context, g Getter, k Key, r Ref) (SeriesManifest, error) {
	return load(ctx, g, k, r, "series", DecodeSeries, func(m SeriesManifest) bool {
		return slices.ContainsFunc(m.Instances, func(e InstanceEntry) bool { return e.Manifest.CID == r.CID })
	})
}

// SaveStudy stores the manifest, durably on return.
func SaveStudy(ctx context.Context, s Putter, k Key, m StudyManifest) (Ref, error) {
	return save(ctx, s, k, m, EncodeStudy)
}

// LoadStudy reads a manifest and checks all it says.
func LoadStudy(ctx context.Context, g Getter, k Key, r Ref) (StudyManifest, error) {
	return load(ctx, g, k, r, "study", DecodeStudy, func(m StudyManifest) bool {
		return slices.ContainsFunc(m.Series, func(e SeriesEntry) bool { return e.Manifest.CID == r.CID })
	})
}

func save[M any](ctx context.Context, s Putter, k Key, m M, encode func(M) ([]byte, error)) (Ref, error) {
	b, err := encode(m)
	if err != nil {
		return Ref{}, err
	}
	return PutObject(ctx, s, k, b)
}

func load[M any](ctx context.Context, g Getter, k Key, r Ref, kind string, decode func([]byte) (M, error), self func(M) bool) (M, error) {
	var none M
	b, err := GetObject(ctx, g, k, r)
	if err != nil {
		return none, fmt.Errorf("%s manifest: %w", kind, err)
	}
	m, err := decode(b)
	if err != nil {
		return none, fmt.Errorf("%s: %w", r.CID, err)
	}
	if self(m) {
		return none, fmt.Errorf("%w: %s manifest %s", ErrSelfReference, kind, r.CID)
	}
	return m, nil
}

// EncodeInstance refuses what DecodeInstance would refuse.
func EncodeInstance(m InstanceManifest) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("instance manifest: %w", err)
	}
	b := appendOpening(nil, 10, m.UID, "instance")
	b = appendInt(appendText(b, "size"), m.Size)
	b = appendText(appendText(b, "class"), m.Class)
	b = appendPixel(appendText(b, "pixel"), m.Pixel)
	b = appendHead(appendText(b, "blocks"), majArray, uint64(len(m.Blocks)))
	for _, r := range m.Blocks {
		b = appendHead(b, majArray, 2)
		b = appendInt(appendLink(b, r.CID), r.Len)
	}
	b = appendInt(appendText(b, "header"), m.HeaderLen)
	b = appendBytes(appendText(b, "sha256"), m.SHA256[:])
	b = appendText(appendText(b, "syntax"), m.TransferSyntax)
	return sized(b)
}

// DecodeInstance reads a manifest from anyone. It takes time and memory in
// proportion to the bytes, and returns ErrMalformed, ErrTruncated, ErrVersion,
// ErrTooMany, ErrTooLarge or ErrLengths.
func DecodeInstance(b []byte) (InstanceManifest, error) {
	d := &decoder{b: b}
	var m InstanceManifest
	m.UID = d.opening(10, "instance")
	d.key("size")
	m.Size = d.length("size")
	d.key("class")
	m.Class = d.text("class", MaxName)
	d.key("pixel")
	m.Pixel = d.pixel()
	d.key("blocks")
	n := d.array("blocks", MaxBlocks, 2+linkSize)
	if n > 0 {
		m.Blocks = make([]BlockRef, 0, n)
	}
	for range n {
		d.tuple("block", 2)
		m.Blocks = append(m.Blocks, BlockRef{CID: d.link("block"), Len: d.length("block length")})
	}
	d.key("header")
	m.HeaderLen = d.length("header")
	d.key("sha256")
	if p := d.take(majBytes, "sha256", sha256.Size); len(p) == sha256.Size {
		m.SHA256 = [sha256.Size]byte(p)
	} else {
		d.fail(ErrMalformed, "sha256 has %d bytes", len(p))
	}
	d.key("syntax")
	m.TransferSyntax = d.text("syntax", MaxName)
	err := d.end()
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return InstanceManifest{}, fmt.Errorf("instance manifest: %w", err)
	}
	return m, nil
}

func (m InstanceManifest) check() error {
	if err := checkNames(m.UID, m.Class, m.TransferSyntax); err != nil {
		return err
	}
	if m.Size < 0 || m.Size > MaxInstance {
		return fmt.Errorf("%w: instance of %d bytes, the limit is %d", ErrTooLarge, m.Size, int64(MaxInstance))
	}
	if len(m.Blocks) > MaxBlocks {
		return fmt.Errorf("%w: %d blocks, the limit is %d", ErrTooMany, len(m.Blocks), MaxBlocks)
	}
	var sum int64
	for i, b := range m.Blocks {
		if b.Len > MaxPlain {
			return fmt.Errorf("%w: block %d holds %d bytes, the limit is %d", ErrTooLarge, i, b.Len, MaxPlain)
		}
		if b.Len < 1 {
			return fmt.Errorf("%w: block %d holds %d bytes", ErrLengths, i, b.Len)
		}
		if _, err := digestOf(b.CID); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		sum += b.Len
	}
	if sum != m.Size {
		return fmt.Errorf("%w: the blocks hold %d bytes, the instance has %d", ErrLengths, sum, m.Size)
	}
	if m.HeaderLen < 0 || m.HeaderLen > m.Size {
		return fmt.Errorf("%w: a header of %d bytes in an instance of %d", ErrLengths, m.HeaderLen, m.Size)
	}
	if m.Pixel == nil {
		return nil
	}
	if p := m.Pixel; p.Off < m.HeaderLen || p.Len < 0 || p.Off > m.Size || p.Len > m.Size-p.Off {
		return fmt.Errorf("%w: pixel data of %d bytes at %d in an instance of %d with a header of %d", ErrLengths, p.Len, p.Off, m.Size, m.HeaderLen)
	}
	return m.Pixel.check()
}

// check needs Off and Len to be right.
func (p *PixelLayout) check() error {
	if !p.Encapsulated {
		return p.checkRun()
	}
	if p.Run != (FrameRun{}) {
		return fmt.Errorf("%w: encapsulated pixel data with a run of frames", ErrMalformed)
	}
	if len(p.Frames) > MaxFrames {
		return fmt.Errorf("%w: %d frames, the limit is %d", ErrTooMany, len(p.Frames), MaxFrames)
	}
	parts := 0
	for i, f := range p.Frames {
		if parts += len(f); parts > MaxParts {
			return fmt.Errorf("%w: %d parts of frames, the limit is %d", ErrTooMany, parts, MaxParts)
		}
		for _, r := range f {
			if r.Off < p.Off || r.Len < 0 || r.Off-p.Off > p.Len || r.Len > p.Len-(r.Off-p.Off) {
				return fmt.Errorf("%w: frame %d has a part of %d bytes at %d, outside the pixel data of %d bytes at %d", ErrLengths, i, r.Len, r.Off, p.Len, p.Off)
			}
		}
	}
	return nil
}

func (p *PixelLayout) checkRun() error {
	r := p.Run
	switch {
	case len(p.Frames) > 0:
		return fmt.Errorf("%w: native pixel data with a list of frames", ErrMalformed)
	case r.Count > MaxFrames:
		return fmt.Errorf("%w: %d frames, the limit is %d", ErrTooMany, r.Count, MaxFrames)
	case r.Count == 0 && r.Off >= 0 && r.Bits >= 0:
		// Pixel data whose frames nobody could tell; they are kept all the same.
	case r.Count < 1 || r.Bits < 1 || r.Off < p.Off || r.Off-p.Off > p.Len,
		r.Bits > math.MaxInt64/int64(r.Count) || (r.Bits*int64(r.Count)-1)/8 >= p.Len-(r.Off-p.Off):
		return fmt.Errorf("%w: %d frames of %d bits from %d are not inside the pixel data of %d bytes at %d", ErrLengths, r.Count, r.Bits, r.Off, p.Len, p.Off)
	}
	return nil
}

func appendPixel(b []byte, p *PixelLayout) []byte {
	if p == nil {
		return append(b, cborNull)
	}
	b = appendHead(b, majMap, 3)
	b = appendInt(appendText(b, "len"), p.Len)
	b = appendInt(appendText(b, "off"), p.Off)
	if !p.Encapsulated {
		b = appendHead(appendText(b, "run"), majArray, 3)
		b = appendInt(b, p.Run.Off)
		b = appendInt(b, p.Run.Bits)
		return appendInt(b, int64(p.Run.Count))
	}
	b = appendHead(appendText(b, "frames"), majArray, uint64(len(p.Frames)))
	end := p.Off
	for _, f := range p.Frames {
		b = appendHead(b, majArray, uint64(2*len(f)))
		for _, r := range f {
			b = appendInt(appendInt(b, r.Off-end), r.Len)
			end = r.Off + r.Len
		}
	}
	return b
}

func (d *decoder) pixel() *PixelLayout {
	if d.null() {
		return nil
	}
	if n := d.fields("pixel"); d.err == nil && n != 3 {
		d.fail(ErrMalformed, "pixel has %d fields, not 3", n)
	}
	p := &PixelLayout{}
	d.key("len")
	p.Len = d.length("pixel length")
	d.key("off")
	p.Off = d.length("pixel offset")
	switch name := d.text("frames", 32); {
	case d.err != nil:
	case name == "run":
		d.tuple("run", 3)
		p.Run = FrameRun{Off: d.length("run offset"), Bits: d.length("run bits")}
		n := d.head(majUint, "run count")
		if n > MaxFrames {
			d.fail(ErrTooMany, "%d frames, the limit is %d", n, MaxFrames)
		}
		p.Run.Count = int(min(n, MaxFrames))
	case name == "frames":
		p.Encapsulated = true
		p.Frames = d.frames(p.Off)
	default:
		d.fail(ErrMalformed, "pixel has neither run nor frames")
	}
	return p
}

// frames reads the list of frames: for each the gap since the end of the part
// before it, and the length, of each of its parts.
func (d *decoder) frames(end int64) [][]Range {
	n := d.array("frames", MaxFrames, 1)
	if n == 0 {
		return nil
	}
	frames := make([][]Range, 0, n)
	left := MaxParts
	for range n {
		k := d.array("parts of a frame", 2*left, 1)
		if k%2 != 0 {
			d.fail(ErrMalformed, "a frame has a part without a length")
		}
		left -= k / 2
		var f []Range
		if k > 0 {
			f = make([]Range, 0, k/2)
		}
		for range k / 2 {
			gap, length := d.int("part gap"), d.length("part length")
			if gap > math.MaxInt64-end || length > math.MaxInt64-(end+gap) || end+gap < 0 {
				d.fail(ErrLengths, "a part is nowhere")
			}
			if d.err != nil {
				return nil
			}
			f = append(f, Range{Off: end + gap, Len: length})
			end += gap + length
		}
		frames = append(frames, f)
	}
	return frames
}

// EncodeSeries refuses what DecodeSeries would refuse.
func EncodeSeries(m SeriesManifest) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("series manifest: %w", err)
	}
	b := appendOpening(nil, 5, m.UID, "series")
	b = appendBytes(appendText(b, "attrs"), m.Attrs)
	b = appendHead(appendText(b, "instances"), majArray, uint64(len(m.Instances)))
	for _, e := range m.Instances {
		b = appendHead(b, majArray, 4)
		b = appendBytes(appendText(b, e.UID), e.Attrs)
		b = appendRef(appendInt(b, e.Size), e.Manifest)
	}
	return sized(b)
}

// DecodeSeries is to series what DecodeInstance is to instances; it may also
// return ErrDuplicate.
func DecodeSeries(b []byte) (SeriesManifest, error) {
	d := &decoder{b: b}
	m := SeriesManifest{UID: d.opening(5, "series")}
	d.key("attrs")
	m.Attrs = d.bytes("attributes", MaxAttrs)
	d.key("instances")
	n := d.array("instances", MaxEntries, 5+linkSize)
	if n > 0 {
		m.Instances = make([]InstanceEntry, 0, n)
	}
	for range n {
		d.tuple("instance", 4)
		m.Instances = append(m.Instances, InstanceEntry{
			UID: d.text("instance UID", MaxName), Attrs: d.bytes("attributes", MaxAttrs),
			Size: d.length("instance size"), Manifest: d.ref("instance manifest"),
		})
	}
	err := d.end()
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return SeriesManifest{}, fmt.Errorf("series manifest: %w", err)
	}
	return m, nil
}

func (m SeriesManifest) check() error {
	if err := checkNames(m.UID); err != nil {
		return err
	}
	return checkEntries(m.Attrs, len(m.Instances), func(i int) (string, []byte, Ref, error) {
		e := m.Instances[i]
		if e.Size < 0 || e.Size > MaxInstance {
			return "", nil, Ref{}, fmt.Errorf("%w: instance of %d bytes, the limit is %d", ErrTooLarge, e.Size, int64(MaxInstance))
		}
		return e.UID, e.Attrs, e.Manifest, nil
	})
}

// EncodeStudy refuses what DecodeStudy would refuse.
func EncodeStudy(m StudyManifest) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("study manifest: %w", err)
	}
	b := appendOpening(nil, 6, m.UID, "study")
	b = appendBytes(appendText(b, "attrs"), m.Attrs)
	b = appendHead(appendText(b, "series"), majArray, uint64(len(m.Series)))
	for _, e := range m.Series {
		b = appendHead(b, majArray, 3)
		b = appendBytes(appendText(b, e.UID), e.Attrs)
		b = appendRef(b, e.Manifest)
	}
	b = appendHead(appendText(b, "revision"), majUint, m.Revision)
	return sized(b)
}

// DecodeStudy is to studies what DecodeSeries is to series.
func DecodeStudy(b []byte) (StudyManifest, error) {
	d := &decoder{b: b}
	m := StudyManifest{UID: d.opening(6, "study")}
	d.key("attrs")
	m.Attrs = d.bytes("attributes", MaxAttrs)
	d.key("series")
	n := d.array("series", MaxEntries, 4+linkSize)
	if n > 0 {
		m.Series = make([]SeriesEntry, 0, n)
	}
	for range n {
		d.tuple("series", 3)
		m.Series = append(m.Series, SeriesEntry{
			UID: d.text("series UID", MaxName), Attrs: d.bytes("attributes", MaxAttrs), Manifest: d.ref("series manifest"),
		})
	}
	d.key("revision")
	m.Revision = d.uint("revision", math.MaxUint64)
	err := d.end()
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return StudyManifest{}, fmt.Errorf("study manifest: %w", err)
	}
	return m, nil
}

func (m StudyManifest) check() error {
	if err := checkNames(m.UID); err != nil {
		return err
	}
	return checkEntries(m.Attrs, len(m.Series), func(i int) (string, []byte, Ref, error) {
		return m.Series[i].UID, m.Series[i].Attrs, m.Series[i].Manifest, nil
	})
}

// checkEntries names entries by position: their UIDs are not for error texts.
func checkEntries(attrs []byte, n int, entry func(int) (uid string, attrs []byte, manifest Ref, err error)) error {
	if len(attrs) > MaxAttrs {
		return fmt.Errorf("%w: attributes of %d bytes, the limit is %d", ErrTooLarge, len(attrs), MaxAttrs)
	}
	if n > MaxEntries {
		return fmt.Errorf("%w: %d entries, the limit is %d", ErrTooMany, n, MaxEntries)
	}
	seen := make(map[string]int, n)
	for i := range n {
		uid, attrs, ref, err := entry(i)
		if err == nil {
			err = checkNames(uid)
		}
		if err == nil && len(attrs) > MaxAttrs {
			err = fmt.Errorf("%w: attributes of %d bytes, the limit is %d", ErrTooLarge, len(attrs), MaxAttrs)
		}
		if err == nil {
			err = ref.check()
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if first, ok := seen[uid]; ok {
			return fmt.Errorf("%w: entries %d and %d", ErrDuplicate, first, i)
		}
		seen[uid] = i
	}
	return nil
}

// checkNames wants the first name to be there; the others may be empty.
func checkNames(names ...string) error {
	if names[0] == "" {
		return fmt.Errorf("%w: no UID", ErrMalformed)
	}
	for _, s := range names {
		if len(s) > MaxName {
			return fmt.Errorf("%w: a UID of %d bytes, the limit is %d", ErrTooLarge, len(s), MaxName)
		}
		if !utf8.ValidString(s) {
			return fmt.Errorf("%w: a UID is not UTF-8", ErrMalformed)
		}
	}
	return nil
}

// appendOpening writes what every manifest begins with.
func appendOpening(b []byte, fields uint64, uid, kind string) []byte {
	b = appendHead(b, majMap, fields)
	b = appendInt(appendText(b, "v"), manifestVersion)
	b = appendText(appendText(b, "uid"), uid)
	return appendText(appendText(b, "kind"), kind)
}

func (d *decoder) opening(fields uint64, kind string) (uid string) {
	if len(d.b) > MaxObject {
		d.fail(ErrTooLarge, "%d bytes, the limit is %d", len(d.b), MaxObject)
	}
	d.open("manifest", manifestVersion, fields)
	d.key("uid")
	uid = d.text("UID", MaxName)
	d.key("kind")
	if got := d.text("kind", 32); d.err == nil && got != kind {
		d.fail(ErrMalformed, "a manifest of another kind")
	}
	return uid
}

func sized(b []byte) ([]byte, error) {
	if len(b) > MaxObject {
		return nil, fmt.Errorf("%w: a manifest of %d bytes, the limit is %d", ErrTooLarge, len(b), MaxObject)
	}
	return b, nil
}

// Covering lists the blocks that hold any byte of the ranges, in order, each
// position once: what has to be here before those bytes can be read.
func (m InstanceManifest) Covering(ranges ...Range) []BlockRef {
	ends := m.ends()
	want := make([]bool, len(m.Blocks))
	for _, r := range ranges {
		if r.Len < 1 || r.Off < 0 {
			continue
		}
		for i := blockAt(ends, r.Off); i < len(ends) && ends[i]-m.Blocks[i].Len-r.Off < r.Len; i++ {
			want[i] = true
		}
	}
	var refs []BlockRef
	for i, w := range want {
		if w {
			refs = append(refs, m.Blocks[i])
		}
	}
	return refs
}

// ends is where each block ends in the instance.
func (m InstanceManifest) ends() []int64 {
	ends := make([]int64, len(m.Blocks))
	var end int64
	for i, b := range m.Blocks {
		end += b.Len
		ends[i] = end
	}
	return ends
}

// blockAt is the block that holds the byte at off, len(ends) when none does.
func blockAt(ends []int64, off int64) int {
	return sort.Search(len(ends), func(i int) bool { return ends[i] > off })
}

// ReadingOrder is the order in which a receiver wants the blocks of
// instances: the header blocks of all, so that a viewer can lay them out,
// then the rest of each in turn. Each address comes once.
func ReadingOrder(instances ...InstanceManifest) []BlockRef {
	var order []BlockRef
	seen := map[cid.Cid]bool{}
	add := func(refs []BlockRef) {
		for _, r := range refs {
			if !seen[r.CID] {
				seen[r.CID] = true
				order = append(order, r)
			}
		}
	}
	for _, m := range instances {
		add(m.Covering(Range{0, m.HeaderLen}))
	}
	for _, m := range instances {
		add(m.Blocks)
	}
	return order
}
