package dicom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// syntax is how attributes are written: PS3.5 7.1 and 7.3.
type syntax struct{ big, implicit bool }

func (x syntax) order() binary.ByteOrder {
	if x.big {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

func (x syntax) tag(b []byte) Tag {
	o := x.order()
	return Tag(o.Uint16(b))<<16 | Tag(o.Uint16(b[2:]))
}

// undefined is a length that a delimiter ends.
const undefined = int64(-1)

func length32(n uint32) int64 {
	if n == 0xFFFFFFFF {
		return undefined
	}
	return int64(n)
}

// header is what stands before a value.
type header struct {
	tag    Tag
	vr     VR
	length int64
	off    int64 // of the tag
	size   int
	exact  bool // written as x requires, no leniency was needed
}

// scanner reads one instance.
type scanner struct {
	raw  *source // the instance
	src  *source // where attributes come from: raw, or what raw inflates to
	lim  Limits
	h    Handler
	inst *Instance
	mem  *account // of inst

	begun    bool
	home     Section // of what is neither bulk nor frame
	elements int     // attributes and items so far
	kept     int64   // bytes of values so far
	arena    []byte
	signed   bool // Pixel Representation is 1
	inUN     bool // reading a value of unknown VR again
	identity map[Tag][]byte

	metaLength, metaSyntax metaField
}

// metaField is where a field of the meta header lies, for Inflate to change.
type metaField struct {
	header
	syntax
	found bool
}

func scan(r io.Reader, lim Limits, h Handler) (_ *Instance, err error) {
	s := newScanner(newSource(r, h.Piece, lim.Head), lim, h)
	s.mem = newAccount(lim.Budget)
	s.inst.mem, s.src.mem = s.mem, s.mem
	done := false
	defer func() {
		if !done { // also when a handler panics
			s.inst.Release()
		}
	}()
	x, deflated, err := s.prologue()
	if err != nil {
		return nil, err
	}
	if deflated {
		err = s.inflatedBody()
	} else {
		err = s.body(x)
	}
	if err == nil {
		err = s.finish()
	}
	if err != nil {
		return nil, err
	}
	done = true
	s.mem.less(int64(len(s.raw.buf)))
	if s.src != s.raw {
		s.mem.less(int64(len(s.src.buf)))
	}
	return s.inst, nil
}

func newScanner(src *source, lim Limits, h Handler) *scanner {
	return &scanner{raw: src, src: src, lim: lim, h: h, inst: &Instance{}, identity: make(map[Tag][]byte)}
}

// prologue reads preamble and meta header and tells how the rest is written.
func (s *scanner) prologue() (x syntax, deflated bool, err error) {
	b, err := s.src.peek(132)
	if err != nil {
		return x, false, err
	}
	if len(b) == 132 && string(b[128:]) == "DICM" {
		s.inst.HasPreamble = true
		if err := s.src.skip(132); err != nil {
			return x, false, s.fail(err, 0)
		}
	} else if !beginsDataset(b) {
		return x, false, ErrNotDICOM
	}
	if err := s.meta(); err != nil {
		return x, false, err
	}
	e, _ := s.inst.Meta.Find(TagTransferSyntaxUID)
	ts := trimUID(e.Value)
	if c, _ := s.inst.Meta.Find(TagMediaStorageSOPClassUID); trimUID(c.Value) == mediaStorageDirectory {
		return x, false, ErrMediaDirectory
	}
	s.inst.TransferSyntax = ts
	x = syntax{big: ts.BigEndian(), implicit: ts.Implicit()}

	// What the attributes look like decides over what the meta header says:
	// real files name a syntax and use another.
	if b, err = s.src.peek(12); err != nil {
		return x, false, err
	}
	found, ok := sniff(b, x)
	if ts.Deflated() && (!ok || found.implicit || found.big) {
		s.inst.Deflated = true
		return x, true, nil
	}
	if ok {
		x = found
	} else if !s.inst.HasMeta && len(b) > 0 {
		return x, false, ErrNotDICOM
	}
	if ts == "" {
		switch {
		case x.big && !x.implicit:
			s.inst.TransferSyntax = ExplicitVRBigEndian
		case x.implicit && !x.big:
			s.inst.TransferSyntax = ImplicitVRLittleEndian
		case !x.implicit:
			s.inst.TransferSyntax = ExplicitVRLittleEndian
		}
	}
	return x, false, nil
}

// beginsDataset recognises files without a preamble: they begin with the meta
// header or with group 0008, in whichever byte order.
func beginsDataset(b []byte) bool {
	x, ok := sniff(b, syntax{})
	if !ok {
		return false
	}
	switch x.tag(b).Group() {
	case 0x0002, 0x0004, 0x0008:
		return true
	}
	return false
}

// sniff tells how the attribute that b begins with is written, trying declared first.
func sniff(b []byte, declared syntax) (syntax, bool) {
	for _, x := range []syntax{declared, {}, {big: true}, {implicit: true}, {big: true, implicit: true}} {
		if plausible(b, x, 1<<16) {
			return x, true
		}
	}
	return declared, false
}

// plausible reports whether b begins with an attribute written in x, with at
// most room bytes of value where VRs are implicit.
func plausible(b []byte, x syntax, room int64) bool {
	if len(b) < 8 {
		return false
	}
	t := x.tag(b)
	switch t.Group() {
	case 0, 0xFFFE, 0xFFFF:
		return false
	}
	if t.Element() != 0 && !t.Private() && t.Keyword() == "" {
		return false
	}
	if !x.implicit {
		return VR(b[4:6]).Known()
	}
	n := length32(x.order().Uint32(b[4:]))
	return n <= room && !showsVR(b, t)
}

// showsVR reports a VR in b where Implicit VR has the low half of a length.
func showsVR(b []byte, t Tag) bool {
	vr := VR(b[4:6])
	if !vr.Known() {
		return false
	}
	if t.Private() || t.Element() == 0 || vr == UN {
		return true
	}
	info, ok := t.lookup()
	if !ok {
		return false
	}
	for _, v := range info.VRs {
		if VR(v) == vr {
			return true
		}
	}
	return false
}

// meta reads group 0002. It ends where the group ends: the group length is
// wrong in too many files to be followed.
func (s *scanner) meta() error {
	for {
		b, err := s.src.peek(12)
		if err != nil {
			return err
		}
		if len(b) < 8 {
			return nil
		}
		var x syntax
		switch uint16(0x0002) {
		case binary.LittleEndian.Uint16(b):
		case binary.BigEndian.Uint16(b):
			x.big = true
		default:
			return nil
		}
		x.implicit = !VR(b[4:6]).Known()
		h, why := parseHeader(b, x, s.src.off)
		if why != "" {
			return ErrMalformed{Offset: h.off, Tag: h.tag, Why: why}
		}
		s.inst.HasMeta = true
		switch h.tag {
		case TagMetaGroupLength:
			s.metaLength = metaField{h, x, true}
		case TagTransferSyntaxUID:
			s.metaSyntax = metaField{h, x, true}
		}
		e, err := s.element(h, x, undefined, 0)
		if err != nil {
			return err
		}
		s.inst.Meta.Elements = append(s.inst.Meta.Elements, e)
	}
}

// parseHeader reads what stands before a value from b, the next 12 bytes or
// fewer at the end of the instance. why is empty when it could.
func parseHeader(b []byte, x syntax, off int64) (h header, why string) {
	o := x.order()
	h = header{tag: x.tag(b), off: off, size: 8, exact: true}
	if h.tag.Group() == 0xFFFE { // items and delimiters have no VR, PS3.5 7.5
		h.length = length32(o.Uint32(b[4:]))
		return h, ""
	}
	if x.implicit {
		h.length = length32(o.Uint32(b[4:]))
		return h, ""
	}
	h.vr = knownVR(b[4], b[5])
	long := h.vr.long()
	if h.vr == "" {
		h.vr, h.exact = UN, false
		switch {
		case upper(b[4]) && upper(b[5]):
			// A VR newer than this program has a 32-bit length, PS3.5 7.1.2; a
			// mistyped old one shows a length where the reserved bytes are.
			long = b[6] == 0 && b[7] == 0
		case blank(b[4]) && blank(b[5]):
			// "??", spaces or zeros stand for a VR the writer did not know.
		default:
			// Implicit VR in the midst of explicit.
			h.vr = ""
			h.length = length32(o.Uint32(b[4:]))
			if h.length > 1<<24 {
				return h, "no VR stands where one must"
			}
			return h, ""
		}
	}
	if !long {
		h.length = int64(o.Uint16(b[6:]))
		return h, ""
	}
	if len(b) < 12 {
		h.size, h.length = 12, 0 // the value cannot be there either: reading it finds the end
		return h, ""
	}
	h.size, h.length = 12, length32(o.Uint32(b[8:]))
	return h, ""
}

func upper(c byte) bool { return c >= 'A' && c <= 'Z' }

func blank(c byte) bool { return c == 0 || c == ' ' || c == '?' || c == '-' }

// knownVR gives the constant for two bytes, "" for what is no VR.
func knownVR(a, b byte) VR { return vrs[VR([]byte{a, b})].vr }

// body reads the dataset to the end of src.
func (s *scanner) body(x syntax) error {
	last := Tag(0)
	for {
		b, err := s.src.peek(12)
		if err != nil {
			return s.fail(err, last)
		}
		if len(b) == 0 {
			break
		}
		if len(b) < 8 {
			return s.tail(last)
		}
		h, why := parseHeader(b, x, s.src.off)
		if s.beyondData(h, why, b, x, last) {
			return s.tail(last)
		}
		if why != "" {
			return ErrMalformed{Offset: h.off, Tag: h.tag, Why: why}
		}
		switch h.tag.Group() {
		case 0xFFFE:
			if h.tag != itemTag && h.length == 0 { // a delimiter too many delimits nothing
				if err := s.src.skip(8); err != nil {
					return s.fail(err, last)
				}
				continue
			}
			return ErrMalformed{Offset: h.off, Tag: h.tag, Why: "an item outside of any sequence"}
		case 0x0004:
			return ErrMediaDirectory
		}
		last = h.tag
		if isPixels(h.tag) {
			if s.inst.Pixel != nil {
				return ErrMalformed{Offset: h.off, Tag: h.tag, Why: "a second pixel data attribute"}
			}
			if err := s.pixels(h, x); err != nil {
				return err
			}
			continue
		}
		e, err := s.element(h, x, undefined, 0)
		if err != nil {
			return err
		}
		s.inst.Data.Elements = append(grown(s.inst.Data.Elements), e)
		if err := s.identify(h, e); err != nil {
			return err
		}
	}
	s.end(s.src.off)
	return nil
}

// end notes where the attributes ended, once.
func (s *scanner) end(off int64) {
	if s.inst.Pixel == nil {
		s.inst.HeaderLen = off
		s.inst.Trailer = Range{Off: off}
	}
}

// beyondData reports that the dataset has ended and other bytes follow. Real
// files are padded to whole sectors, or carry what was in the writer's buffer.
func (s *scanner) beyondData(h header, why string, b []byte, x syntax, last Tag) bool {
	if h.tag.Group() == 0 {
		return true
	}
	if s.inst.Pixel == nil {
		return false
	}
	if why != "" || !h.exact || h.tag.Group() == 0xFFFF {
		return true
	}
	if h.tag.Group() == 0xFFFE {
		return h.tag == itemTag || h.length != 0
	}
	if !x.implicit {
		return !(h.tag > last || showsVR(b, h.tag))
	}
	// Without a VR, chance bytes pass more easily: ask for order, and for a tag
	// that the dictionary or a private creator announces.
	if h.tag <= last {
		return true
	}
	if h.tag.Private() {
		creator := h.tag.Element() >= 0x10 && h.tag.Element() <= 0xFF && h.length <= 64
		return !creator && h.tag.Group() != last.Group() && h.tag.Element() != 0
	}
	return h.tag.Keyword() == "" && h.tag.Element() != 0
}

// tail consumes what follows the dataset. After the pixels it may be anything.
// Where none came, only zeros after something that is no image are harmless:
// all else may be the remains of what is missing.
func (s *scanner) tail(last Tag) error {
	off := s.src.off
	if s.inst.Pixel != nil {
		return s.fail(s.src.rest(), last)
	}
	s.end(off)
	if err := s.src.enter(SectionTrailer, 0); err != nil {
		return err
	}
	for {
		b, err := s.src.peek(512)
		if err != nil {
			return s.fail(err, last)
		}
		if len(b) == 0 {
			break
		}
		if len(bytes.Trim(b, "\x00")) != 0 {
			if s.src.off == off && len(b) < 8 {
				return s.fail(io.EOF, last)
			}
			return ErrMalformed{Offset: off, Tag: last, Why: "unreadable bytes follow this attribute"}
		}
		if err := s.src.skip(int64(len(b))); err != nil {
			return s.fail(err, last)
		}
	}
	if _, image := s.inst.Data.Find(TagRows); image {
		return ErrMalformed{Offset: off, Tag: last, Why: "zeros follow this attribute where pixel data should"}
	}
	s.inst.Trailer.Len = s.src.off - off
	return nil
}

// finish completes what only the end tells.
func (s *scanner) finish() error {
	if !s.begun {
		return ErrMissingUID{s.missing()}
	}
	if err := s.raw.cut(); err != nil {
		return err
	}
	i := s.inst
	i.Size = s.raw.off
	if i.Pixel != nil && !i.Deflated {
		i.Trailer.Len = i.Size - i.Trailer.Off
	}
	i.Meta.inherit(nil)
	i.Data.inherit(nil)
	return nil
}

// identify takes note of the attributes that say what and whose an instance is.
func (s *scanner) identify(h header, e Element) error {
	var uid *UID
	switch h.tag {
	case TagSOPClassUID:
		s.inst.Class = trimUID(e.Value)
		return nil
	case TagPixelRepresentation:
		s.signed = len(e.Value) > 0 && e.Value[0] == 1
		return nil
	case TagStudyInstanceUID:
		uid = &s.inst.Study
	case TagSeriesInstanceUID:
		uid = &s.inst.Series
	case TagSOPInstanceUID:
		uid = &s.inst.Instance
	case TagPatientName, TagPatientID, TagPatientBirthDate:
	default:
		return nil
	}
	// Readers differ in which of two they believe, so one of them would file the
	// instance under somebody else.
	if v, twice := s.identity[h.tag]; twice && !bytes.Equal(v, e.Value) {
		return ErrMalformed{Offset: h.off, Tag: h.tag, Why: "stands there twice with different values"}
	}
	s.identity[h.tag] = e.Value
	if uid == nil {
		return nil
	}
	*uid = trimUID(e.Value)
	if *uid != "" && !uid.Valid() {
		return ErrMalformed{Offset: h.off, Tag: h.tag, Why: "the value is no UID"}
	}
	return s.begin()
}

func (s *scanner) missing() Tag {
	switch {
	case s.inst.Study == "":
		return TagStudyInstanceUID
	case s.inst.Series == "":
		return TagSeriesInstanceUID
	case s.inst.Instance == "":
		return TagSOPInstanceUID
	}
	return 0
}

func (s *scanner) begin() error {
	if s.begun || s.missing() != 0 {
		return nil
	}
	s.begun = true
	if s.inst.Class == "" {
		e, _ := s.inst.Meta.Find(TagMediaStorageSOPClassUID)
		s.inst.Class = trimUID(e.Value)
	}
	if s.inst.Class == mediaStorageDirectory {
		return ErrMediaDirectory
	}
	if s.h.Begin != nil {
		if err := s.h.Begin(s.inst.UIDs); err != nil {
			return err
		}
	}
	if s.raw != s.src {
		if err := s.src.release(); err != nil {
			return err
		}
	}
	return s.raw.release()
}

func trimUID(v []byte) UID { return UID(strings.Trim(string(v), " \x00")) }

// fail says where reading ended.
func (s *scanner) fail(err error, at Tag) error {
	switch {
	case err == io.EOF:
		return fmt.Errorf("%w: it ends within or before attribute %v, at byte %d", ErrTruncated, at, s.src.off)
	case errors.Is(err, errHead):
		if t := s.missing(); at > t && t != 0 {
			return ErrMissingUID{t}
		}
		return ErrLimit{"Head", s.lim.Head}
	}
	return err
}

// count bounds how many attributes and items there may be; each takes memory.
func (s *scanner) count(memory int64) error {
	if s.elements++; s.elements > s.lim.Elements {
		return ErrLimit{"Elements", int64(s.lim.Elements)}
	}
	return s.mem.use(memory)
}

// element reads the attribute h stands before. Its value must end by stop, an
// offset or undefined.
func (s *scanner) element(h header, x syntax, stop int64, depth int) (Element, error) {
	e := Element{Tag: h.tag, VR: h.vr}
	if e.VR == "" {
		e.VR = h.tag.dictVR(s.signed)
	}
	if err := s.count(elementMemory); err != nil {
		return e, err
	}
	value := h.off + int64(h.size)
	if stop != undefined && (value > stop || h.length > stop-value) {
		return e, ErrMalformed{Offset: h.off, Tag: h.tag, Why: "the value reaches beyond the item it is in"}
	}
	if err := s.src.skip(int64(h.size)); err != nil {
		return e, s.fail(err, h.tag)
	}

	if h.length == undefined {
		switch {
		case isPixels(h.tag) || e.VR.IsBinary() && e.VR != UN:
			return s.fragments(e, h, x, stop)
		case e.VR == UN:
			x = syntax{implicit: true} // PS3.5 6.2.2
		}
		e.VR = SQ
	}
	if e.VR == SQ {
		items, err := s.sequence(h, x, stop, depth+1)
		e.Items = items
		return e, err
	}

	n := h.length
	long := s.lim.Value
	if h.tag == TagExtendedOffsetTable || h.tag == TagExtendedOffsetTableLengths {
		long = max(long, 8*int64(s.lim.Frames))
	}
	if n > long || s.kept+n > s.lim.Header && n > 64 {
		return e, s.bulk(&e, n)
	}
	v, err := s.src.take(n, &s.arena)
	if err != nil {
		return e, s.fail(err, h.tag)
	}
	s.kept += n
	if e.VR == UN && !h.tag.Private() {
		s.restoreVR(&e, v, x, value, depth)
		if err := s.mem.failed(); err != nil {
			return e, err
		}
	}
	if e.Items == nil {
		if x.big {
			swap(v, vrs[e.VR].width)
		}
		e.Value = v
	}
	return e, nil
}

// bulk consumes a value without keeping it. It is its own piece when it is
// longer than Limits.Value.
func (s *scanner) bulk(e *Element, n int64) error {
	e.Bulk = &Range{s.src.off, n}
	apart := n > s.lim.Value
	if apart {
		if err := s.src.enter(SectionBulk, 0); err != nil {
			return err
		}
	}
	if err := s.src.skip(n); err != nil {
		return s.fail(err, e.Tag)
	}
	if apart {
		return s.src.enter(s.home, 0)
	}
	return nil
}

// restoreVR gives an attribute of the standard that was written as UN its VR
// back, PS3.5 6.2.2 note 2. A sequence that cannot be read stays bytes.
func (s *scanner) restoreVR(e *Element, v []byte, x syntax, off int64, depth int) {
	vr := e.Tag.dictVR(s.signed)
	if vr != SQ {
		e.VR = vr
		return
	}
	if s.inUN || len(v) == 0 {
		return
	}
	sub := newScanner(newSource(bytes.NewReader(v), nil, off+int64(len(v))), s.lim, Handler{})
	sub.src.off, sub.src.start = off, off
	sub.inUN, sub.signed = true, s.signed
	sub.mem, sub.src.mem = s.mem, s.mem
	sub.elements, sub.kept = s.elements, s.kept
	h := header{tag: e.Tag, off: off, length: int64(len(v))}
	items, err := sub.sequence(h, syntax{implicit: true}, off+int64(len(v)), depth+1)
	s.mem.less(int64(len(sub.src.buf)))
	if err != nil || len(items) == 0 {
		return
	}
	s.elements, s.kept = sub.elements, sub.kept
	e.VR, e.Items = SQ, items
}

// swap turns numbers of width bytes around.
func swap(v []byte, width int) {
	if width < 2 {
		return
	}
	for ; len(v) >= width; v = v[width:] {
		for i, j := 0, width-1; i < j; i, j = i+1, j-1 {
			v[i], v[j] = v[j], v[i]
		}
	}
}

// sequence reads items, the sequence's own header being consumed. Never nil
// without an error.
func (s *scanner) sequence(h header, x syntax, stop int64, depth int) ([]Dataset, error) {
	if depth > s.lim.Depth {
		return nil, ErrLimit{"Depth", int64(s.lim.Depth)}
	}
	end := undefined
	if h.length != undefined {
		end = s.src.off + h.length
		stop = end
	}
	items := []Dataset{}
	for {
		off := s.src.off
		if off == end || end == undefined && stop != undefined && off == stop {
			return items, nil
		}
		b, err := s.src.peek(16)
		if err != nil {
			return nil, s.fail(err, h.tag)
		}
		if len(b) < 8 {
			return nil, s.fail(io.EOF, h.tag)
		}
		if stop != undefined && off+8 > stop {
			return nil, ErrMalformed{Offset: off, Tag: h.tag, Why: "the sequence ends within an item's header"}
		}
		// Implicit VR inside UN is little endian whatever surrounds it, or so it
		// should be: the item's tag shows.
		if y := (syntax{big: !x.big, implicit: x.implicit}); y.tag(b) == itemTag {
			x = y
		}
		t, n := x.tag(b), length32(x.order().Uint32(b[4:]))
		if err := s.src.skip(8); err != nil {
			return nil, s.fail(err, h.tag)
		}
		switch {
		case t == sequenceDelimiter && end == undefined:
			return items, nil
		case (t == sequenceDelimiter || t == itemDelimiter) && n == 0:
			continue // one delimiter too many
		case t != itemTag:
			return nil, ErrMalformed{Offset: off, Tag: h.tag, Why: fmt.Sprintf("%v stands where the sequence must have an item", t)}
		case n != undefined && stop != undefined && n > stop-off-8:
			return nil, ErrMalformed{Offset: off, Tag: h.tag, Why: "an item reaches beyond its sequence"}
		}
		if err := s.count(itemMemory); err != nil {
			return nil, err
		}
		itemEnd, room := undefined, int64(1<<20)
		if n != undefined {
			itemEnd = off + 8 + n
			room = n - 8
		}
		y := x
		if len(b) == 16 && (n == undefined || n >= 8) {
			y = itemSyntax(b[8:], x, room)
		}
		d, err := s.item(h.tag, y, itemEnd, stop, depth)
		if err != nil {
			return nil, err
		}
		items = append(grown(items), d)
	}
}

// itemSyntax tells explicit from implicit VR in an item: some writers mix them.
func itemSyntax(b []byte, x syntax, room int64) syntax {
	t := x.tag(b)
	if t.Group() == 0xFFFE {
		return x
	}
	if x.implicit {
		fits := length32(x.order().Uint32(b[4:])) <= room
		if showsVR(b, t) && !(t.Private() && fits) {
			x.implicit = false
		}
		return x
	}
	y := syntax{big: x.big, implicit: true}
	if !VR(b[4:6]).Known() && plausible(b, y, room) {
		return y
	}
	return x
}

// item reads the attributes of one item up to end, or to a delimiter when that
// is undefined. stop is where what surrounds it ends.
func (s *scanner) item(parent Tag, x syntax, end, stop int64, depth int) (Dataset, error) {
	var d Dataset
	open := end == undefined
	if !open {
		stop = end
	}
	for s.src.off != stop {
		b, err := s.src.peek(12)
		if err != nil {
			return d, s.fail(err, parent)
		}
		if len(b) < 8 {
			return d, s.fail(io.EOF, parent)
		}
		h, why := parseHeader(b, x, s.src.off)
		if why != "" {
			return d, ErrMalformed{Offset: h.off, Tag: h.tag, Why: why}
		}
		if stop != undefined && h.off+8 > stop {
			return d, ErrMalformed{Offset: h.off, Tag: parent, Why: "the item ends within an attribute"}
		}
		if h.tag.Group() == 0xFFFE {
			if open && h.tag != itemDelimiter {
				return d, nil // the delimiter is missing, what follows the item is there
			}
			if h.tag == itemTag {
				return d, ErrMalformed{Offset: h.off, Tag: parent, Why: "an item directly within an item"}
			}
			if err := s.src.skip(8); err != nil {
				return d, s.fail(err, parent)
			}
			if open {
				return d, nil
			}
			continue
		}
		e, err := s.element(h, x, stop, depth)
		if err != nil {
			return d, err
		}
		d.Elements = append(grown(d.Elements), e)
	}
	return d, nil
}

// grown makes room for one more by doubling. append grows long slices by a
// quarter, which leaves several times as much behind as it makes.
func grown[T any](s []T) []T {
	if len(s) < cap(s) || len(s) < 256 {
		return s
	}
	return slices.Grow(s, len(s))
}
