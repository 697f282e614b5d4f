package dicom

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// Encode gives the attributes in the form doc.go describes. Of two elements
// with one tag the first counts. An element whose value is not held (Bulk) is
// left out, as are group lengths, the meta header and Specific Character Set,
// which is always ISO_IR 192.
func (d Dataset) Encode() []byte {
	b := appendElement(nil, Element{Tag: TagSpecificCharacterSet, VR: CS, Value: []byte("ISO_IR 192")})
	return d.append(b, d.characters())
}

func (d Dataset) append(b []byte, around *charset) []byte {
	c := around
	if d.charset != nil {
		c = d.charset
	} else if e, ok := d.Find(TagSpecificCharacterSet); ok && len(e.Value) > 0 {
		c = newCharset(e.Value)
	}
	d.charset = c
	sorted := slices.Clone(d.Elements)
	slices.SortStableFunc(sorted, func(a, b Element) int { return cmp.Compare(a.Tag, b.Tag) })
	for i, e := range sorted {
		switch {
		case i > 0 && e.Tag == sorted[i-1].Tag, e.Bulk != nil, e.Tag == TagSpecificCharacterSet,
			e.Tag.Element() == 0, e.Tag.Group() <= 2, e.Tag.Group() == 0xFFFE:
			continue
		}
		switch {
		case e.VR == SQ || e.Items != nil:
			e.VR, e.Value = SQ, nil
			for _, item := range e.Items {
				body := item.append(nil, c)
				e.Value = appendTag(e.Value, itemTag)
				e.Value = binary.LittleEndian.AppendUint32(e.Value, uint32(len(body)))
				e.Value = append(e.Value, body...)
			}
		case e.VR.IsText():
			e.Value = []byte(strings.Join(d.Text(e), `\`))
		case e.VR.IsString():
			e.Value = bytes.Trim(e.Value, " \x00")
		case !e.VR.Known():
			e.VR = UN
		}
		b = appendElement(b, e)
	}
	return b
}

func appendTag(b []byte, t Tag) []byte {
	b = binary.LittleEndian.AppendUint16(b, t.Group())
	return binary.LittleEndian.AppendUint16(b, t.Element())
}

func appendElement(b []byte, e Element) []byte {
	pad := len(e.Value) % 2
	n := len(e.Value) + pad
	vr := e.VR
	if n > 0xFFFF && !vr.long() {
		vr = UN // PS3.5 6.2.2 note 2: what does not fit a 16-bit length
	}
	b = appendTag(b, e.Tag)
	b = append(b, vr...)
	if vr.long() {
		b = append(b, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	} else {
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
	}
	b = append(b, e.Value...)
	if pad == 1 {
		filler := byte(0)
		if e.VR.IsString() && e.VR != UI {
			filler = ' '
		}
		b = append(b, filler)
	}
	return b
}

// Decode reads what Encode wrote. Attributes longer than lim.Value or more
// than lim allows are refused with ErrLimit, anything unreadable with
// ErrMalformed.
func Decode(b []byte, lim Limits) (Dataset, error) {
	n := int64(len(b))
	lim = lim.withDefaults()
	lim.Budget = nil // b is in memory already, and nobody would release the dataset
	s := newScanner(newSource(bytes.NewReader(b), nil, n), lim, Handler{})
	d, err := s.item(0, syntax{}, n, n, 0)
	if err != nil {
		return Dataset{}, err
	}
	if d.hasBulk() {
		return Dataset{}, ErrLimit{"Value", lim.Value}
	}
	d.inherit(nil)
	return d, nil
}

func (d Dataset) hasBulk() bool {
	for _, e := range d.Elements {
		if e.Bulk != nil {
			return true
		}
		for _, item := range e.Items {
			if item.hasBulk() {
				return true
			}
		}
	}
	return false
}
