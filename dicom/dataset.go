package dicom

import (
	"bytes"
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

// Strings are the values of a string attribute: decoded from its character set,
// split at backslashes where the VR has several values, padding trimmed. An
// absent, empty or non-string attribute has none.
func (d Dataset) Strings(t Tag) []string {
	e, ok := d.Find(t)
	if !ok {
		return nil
	}
	return d.Text(e)
}

// Text is Strings for an element of d that is at hand.
func (d Dataset) Text(e Element) []string {
	return nil
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

// Ints are the values of AT, SL, SS, SV, UL, US, UV, OL, OV, OW, IS, and of DS
// where they are whole. It is nil when one is no whole number or does not fit:
// a UV may exceed int64 (see Uints).
func (e Element) Ints() []int64 {
	return nil
}

// Uints are Ints that are not negative, the whole range of UV and OV included.
func (e Element) Uints() []uint64 {
	return nil
}

// Floats are the values of FD, FL, OD, OF, DS and of all that Ints reads.
func (e Element) Floats() []float64 {
	return nil
}

// Encode gives the attributes in the form doc.go describes. An element whose
// value is not held (Bulk) is left out.
func (d Dataset) Encode() []byte { return nil }

// Decode reads what Encode wrote.
func Decode(b []byte, lim Limits) (Dataset, error) { return Dataset{}, ErrNotDICOM }

var _ = bytes.NewReader
var _ = binary.LittleEndian
var _ = math.MaxInt
var _ = strconv.Itoa
var _ = strings.Join
