package dicomweb

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/priormesh/priormesh/dicom"
)

// jsonModel writes datasets in the DICOM JSON model, PS3.18 F.2.
type jsonModel struct {
	// bulk is where an instance's values can be had: BulkDataURI is bulk plus the
	// path of the attribute. Empty: there is no such place, and what is not at
	// hand is left out.
	bulk string
	// inline is the most bytes a binary value may have before it becomes a
	// BulkDataURI. It counts only with bulk.
	inline int
}

// append writes ds as a JSON object. path is how its elements are reached below
// bulk: "" or "00400275/1/".
func (j jsonModel) append(b []byte, ds dicom.Dataset, path string) []byte {
	elements := ds.Elements
	if !slices.IsSortedFunc(elements, byTag) {
		elements = slices.Clone(elements)
		slices.SortStableFunc(elements, byTag)
	}
	b = append(b, '{')
	first := true
	for i, e := range elements {
		switch {
		case e.Tag.Element() == 0: // group lengths, F.2.2
			continue
		case e.Tag == trailingPadding: // PS3.10 7.2: no meaning
			continue
		case i > 0 && elements[i-1].Tag == e.Tag: // names in an object are unique
			continue
		case e.Bulk != nil && j.bulk == "":
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, e.Tag.Hex()...)
		b = append(b, `":`...)
		b = j.appendElement(b, ds, e, path)
	}
	return append(b, '}')
}

const trailingPadding dicom.Tag = 0xFFFCFFFC

func byTag(a, b dicom.Element) int {
	switch {
	case a.Tag < b.Tag:
		return -1
	case a.Tag > b.Tag:
		return 1
	}
	return 0
}

func (j jsonModel) appendElement(b []byte, ds dicom.Dataset, e dicom.Element, path string) []byte {
	vr := e.VR
	if len(e.Items) > 0 {
		vr = dicom.SQ
	}
	numbers, numeric := appendNumbers(nil, e)
	if numeric && numbers == nil && len(e.Value) > 0 {
		vr = dicom.UN // no numbers of that VR; the bytes are kept
	}
	b = append(b, `{"vr":"`...)
	b = append(b, vr...)
	b = append(b, '"')
	switch {
	case vr == dicom.SQ:
		if len(e.Items) > 0 {
			b = append(b, `,"Value":[`...)
			for i, item := range e.Items {
				if i > 0 {
					b = append(b, ',')
				}
				b = j.append(b, item, path+e.Tag.Hex()+"/"+strconv.Itoa(i+1)+"/")
			}
			b = append(b, ']')
		}
	case e.Bulk != nil || vr.IsBinary() && j.bulk != "" && len(e.Value) > j.inline:
		b = append(b, `,"BulkDataURI":`...)
		b = appendString(b, j.bulk+path+e.Tag.Hex())
	case len(e.Value) == 0:
	case vr.IsBinary():
		b = append(b, `,"InlineBinary":"`...)
		b = base64.StdEncoding.AppendEncode(b, e.Value)
		b = append(b, '"')
	case numeric:
		b = append(b, `,"Value":[`...)
		b = append(b, numbers...)
		b = append(b, ']')
	default:
		values := ds.Text(e)
		if !slices.ContainsFunc(values, func(s string) bool { return s != "" }) && len(values) <= 1 {
			break // only padding, F.2.5
		}
		b = append(b, `,"Value":[`...)
		for i, s := range values {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendText(b, vr, s)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendText(b []byte, vr dicom.VR, s string) []byte {
	switch {
	case s == "":
		return append(b, "null"...) // F.2.5
	case vr == dicom.PN:
		return appendName(b, s)
	case vr == dicom.IS || vr == dicom.DS:
		if n, ok := jsonNumber(s, vr == dicom.IS); ok {
			return append(b, n...)
		}
	}
	return appendString(b, s)
}

// appendName writes the component groups that are not empty, F.2.2.
func appendName(b []byte, s string) []byte {
	b = append(b, '{')
	first := true
	for i, group := range strings.SplitN(s, "=", 3) {
		if group == "" {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, [...]string{`"Alphabetic":`, `"Ideographic":`, `"Phonetic":`}[i]...)
		b = appendString(b, group)
	}
	return append(b, '}')
}

// appendNumbers writes the values of a binary number. numeric is false for any
// other VR; nothing is written where the value has no whole number of them.
func appendNumbers(b []byte, e dicom.Element) (_ []byte, numeric bool) {
	sep := func() {
		if b != nil {
			b = append(b, ',')
		}
	}
	size := wordSize(e.VR)
	if e.VR == dicom.AT {
		size = 4
	}
	switch {
	case (e.VR.IsInt() || e.VR.IsFloat()) && len(e.Value)%size != 0:
	case e.VR == dicom.AT:
		for _, n := range e.Ints() {
			sep()
			b = append(b, '"')
			b = append(b, dicom.Tag(uint32(n)).Hex()...)
			b = append(b, '"')
		}
	case e.VR == dicom.UV:
		for _, n := range e.Uints() {
			sep()
			b = appendSafe(b, strconv.FormatUint(n, 10), n <= maxSafe)
		}
	case e.VR.IsInt():
		for _, n := range e.Ints() {
			sep()
			b = appendSafe(b, strconv.FormatInt(n, 10), -maxSafe <= n && n <= maxSafe)
		}
	case e.VR.IsFloat():
		for _, f := range e.Floats() {
			sep()
			switch {
			case math.IsNaN(f):
				b = append(b, `"NaN"`...)
			case math.IsInf(f, 1):
				b = append(b, `"Infinity"`...)
			case math.IsInf(f, -1):
				b = append(b, `"-Infinity"`...)
			default:
				b = strconv.AppendFloat(b, f, 'g', -1, 64)
			}
		}
	default:
		return b, false
	}
	return b, true
}

// maxSafe is the largest whole number that every JSON reader takes exactly
// (RFC 8259 6); beyond it SV and UV are strings, Table F.2.3-1.
const maxSafe = 1<<53 - 1

func appendSafe(b []byte, digits string, safe bool) []byte {
	if safe {
		return append(b, digits...)
	}
	b = append(b, '"')
	b = append(b, digits...)
	return append(b, '"')
}

// jsonNumber is a DS or IS as a JSON number of the same digits: without what
// JSON does not allow, a plus, leading zeros, a bare point. False where it is
// no number, or too large for one: then it is written as a string.
func jsonNumber(s string, whole bool) (string, bool) {
	rest := s
	sign := ""
	if rest != "" && (rest[0] == '+' || rest[0] == '-') {
		if rest[0] == '-' {
			sign = "-"
		}
		rest = rest[1:]
	}
	digits := func() string {
		n := 0
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		d := rest[:n]
		rest = rest[n:]
		return d
	}
	integer := digits()
	fraction, exponent := "", ""
	if !whole && strings.HasPrefix(rest, ".") {
		rest = rest[1:]
		fraction = digits()
	}
	if integer == "" && fraction == "" {
		return "", false
	}
	if !whole && rest != "" && (rest[0] == 'e' || rest[0] == 'E') {
		rest = rest[1:]
		exponent = "e"
		if rest != "" && (rest[0] == '+' || rest[0] == '-') {
			exponent += rest[:1]
			rest = rest[1:]
		}
		d := digits()
		if d == "" {
			return "", false
		}
		exponent += d
	}
	if rest != "" {
		return "", false
	}
	integer = strings.TrimLeft(integer, "0")
	if integer == "" {
		integer = "0"
	}
	out := sign + integer
	if fraction != "" {
		out += "." + fraction
	}
	out += exponent
	if f, err := strconv.ParseFloat(out, 64); err != nil || math.IsInf(f, 0) || whole && math.Abs(f) > maxSafe {
		return "", false
	}
	return out, true
}

// appendString writes a JSON string (RFC 8259 7). What is no UTF-8 becomes
// U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, `\n`...)
			case c == '\r':
				b = append(b, `\r`...)
			case c == '\t':
				b = append(b, `\t`...)
			case c < ' ' || c == 0x7F:
				b = append(b, `\u00`...)
				b = append(b, hex[c>>4], hex[c&15])
			default:
				b = append(b, c)
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		b = utf8.AppendRune(b, r)
		i += n
	}
	return append(b, '"')
}
