package dicom

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
)

// Dataset is attributes in the order they were stored, usually ascending.
type Dataset struct {
	Elements []Element
	charset  *charset // from (0008,0005) here or in what surrounds it; nil: look here
}

// Element is one attribute.
type Element struct {
	Tag   Tag
	VR    VR
	Value []byte    // as stored, but numbers always little endian; nil with Items or Bulk
	Items []Dataset // of a sequence
	Bulk  *Range    // where the value lies that was too long to keep
}

// Find gives the first element with the tag, at this level.
func (d Dataset) Find(t Tag) (Element, bool) {
	for i := range d.Elements {
		if d.Elements[i].Tag == t {
			return d.Elements[i], true
		}
	}
	return Element{}, false
}

// Strings are the values of a string attribute: decoded from its character
// set, split at backslashes where the VR has several values, padding trimmed.
// An absent, empty or non-string attribute has none. Bytes that the character
// set does not define are U+FFFD.
func (d Dataset) Strings(t Tag) []string {
	e, ok := d.Find(t)
	if !ok {
		return nil
	}
	return d.Text(e)
}

// Text is Strings for an element of d that is at hand.
func (d Dataset) Text(e Element) []string {
	if !e.VR.IsString() || len(e.Value) == 0 {
		return nil
	}
	c := d.characters()
	if !e.VR.IsText() {
		c = undeclared
	}
	values := c.decode(e.Value, !e.VR.IsSingle(), e.VR == PN)
	for i, v := range values {
		values[i] = e.VR.trim(v)
	}
	if len(values) == 1 && values[0] == "" {
		return nil
	}
	return values
}

// trim takes off what PS3.5 6.2 calls padding.
func (v VR) trim(s string) string {
	s = strings.TrimRight(s, " \x00")
	switch v {
	case LT, ST, UT, UC, UR:
		return s
	}
	return strings.TrimLeft(s, " ")
}

// String is the first value of Strings, "" when there is none.
func (d Dataset) String(t Tag) string {
	if s := d.Strings(t); len(s) > 0 {
		return s[0]
	}
	return ""
}

// Int is the first value of a whole number, binary or in digits (IS, DS).
func (d Dataset) Int(t Tag) (int, bool) {
	if e, ok := d.Find(t); ok {
		if n := e.Ints(); len(n) > 0 && int64(int(n[0])) == n[0] {
			return int(n[0]), true
		}
	}
	return 0, false
}

// Float is the first value of a number of any kind.
func (d Dataset) Float(t Tag) (float64, bool) {
	if e, ok := d.Find(t); ok {
		if n := e.Floats(); len(n) > 0 {
			return n[0], true
		}
	}
	return 0, false
}

// Items are the items of a sequence.
func (d Dataset) Items(t Tag) []Dataset {
	e, _ := d.Find(t)
	return e.Items
}

var undeclared = newCharset(nil)

func (d Dataset) characters() *charset {
	if d.charset != nil {
		return d.charset
	}
	if e, ok := d.Find(TagSpecificCharacterSet); ok {
		return newCharset(e.Value)
	}
	return undeclared
}

// inherit settles the character sets of d and its items: an item without its
// own has that of what surrounds it, PS3.5 7.5.3.
func (d *Dataset) inherit(around *charset) {
	d.charset = around
	if e, ok := d.Find(TagSpecificCharacterSet); ok && len(e.Value) > 0 {
		d.charset = newCharset(e.Value)
	}
	if d.charset == nil {
		d.charset = undeclared
	}
	for i := range d.Elements {
		for j := range d.Elements[i].Items {
			d.Elements[i].Items[j].inherit(d.charset)
		}
	}
}

// Ints are the values of AT, SL, SS, SV, UL, US, UV, OL, OV, OW and OB, and of
// IS and DS where they are whole. It is nil where one is no whole number, or
// does not fit: a UV may exceed int64 (see Uints).
func (e Element) Ints() []int64 {
	if e.VR == IS || e.VR == DS {
		var out []int64
		for _, s := range e.digits() {
			n, err := strconv.ParseInt(strings.TrimPrefix(s, "+"), 10, 64)
			if err != nil {
				f, err := strconv.ParseFloat(s, 64)
				if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
					return nil
				}
				n = int64(f)
			}
			out = append(out, n)
		}
		return out
	}
	v := e.Value
	w := e.width()
	if w == 0 || len(v) < w {
		return nil
	}
	out := make([]int64, 0, len(v)/w)
	for ; len(v) >= w; v = v[w:] {
		var n int64
		switch e.VR {
		case SS:
			n = int64(int16(binary.LittleEndian.Uint16(v)))
		case SL:
			n = int64(int32(binary.LittleEndian.Uint32(v)))
		case SV:
			n = int64(binary.LittleEndian.Uint64(v))
		default:
			u := e.unsigned(v)
			if u > math.MaxInt64 {
				return nil
			}
			n = int64(u)
		}
		out = append(out, n)
	}
	return out
}

// Uints are Ints that are not negative, the whole range of UV and OV included.
func (e Element) Uints() []uint64 {
	switch e.VR {
	case IS, DS, SS, SL, SV:
		var out []uint64
		for _, n := range e.Ints() {
			if n < 0 {
				return nil
			}
			out = append(out, uint64(n))
		}
		return out
	}
	v := e.Value
	w := e.width()
	if w == 0 || len(v) < w {
		return nil
	}
	out := make([]uint64, 0, len(v)/w)
	for ; len(v) >= w; v = v[w:] {
		out = append(out, e.unsigned(v))
	}
	return out
}

// Floats are the values of FD, FL, OD, OF and DS, and of all that Ints reads.
func (e Element) Floats() []float64 {
	var out []float64
	switch e.VR {
	case DS, IS:
		for _, s := range e.digits() {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil {
				return nil
			}
			out = append(out, f)
		}
	case FL, OF:
		for v := e.Value; len(v) >= 4; v = v[4:] {
			out = append(out, float64(math.Float32frombits(binary.LittleEndian.Uint32(v))))
		}
	case FD, OD:
		for v := e.Value; len(v) >= 8; v = v[8:] {
			out = append(out, math.Float64frombits(binary.LittleEndian.Uint64(v)))
		}
	case UV, OV:
		for _, n := range e.Uints() {
			out = append(out, float64(n))
		}
	default:
		for _, n := range e.Ints() {
			out = append(out, float64(n))
		}
	}
	return out
}

// digits are the values of IS or DS, nil when there are none or one is empty.
func (e Element) digits() []string {
	if len(e.Value) == 0 {
		return nil
	}
	s := strings.Split(string(e.Value), `\`)
	for i := range s {
		s[i] = strings.Trim(s[i], " \x00")
	}
	return s
}

// width is the bytes of one whole number, 0 for what holds none.
func (e Element) width() int {
	if e.VR == AT {
		return 4
	}
	switch e.VR {
	case OF, OD, UN:
		return 0
	}
	if e.VR.IsInt() || e.VR.IsBinary() {
		return vrs[e.VR].width
	}
	return 0
}

func (e Element) unsigned(v []byte) uint64 {
	switch e.width() {
	case 1:
		return uint64(v[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(v))
	case 8:
		return binary.LittleEndian.Uint64(v)
	}
	n := binary.LittleEndian.Uint32(v)
	if e.VR == AT { // group first, each of two bytes
		n = n<<16 | n>>16
	}
	return uint64(n)
}
