package dicom

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
)

// charset is how the text of a dataset is decoded, as Specific Character Set
// says: PS3.3 C.12.1.1.2, PS3.5 6.1 and its annexes H to K.
type charset struct {
	whole  encoding.Encoding // UTF-8, GB18030 or GBK: no code extensions
	g0, g1 *set              // at the start of text and after a delimiter
	guess  bool              // no 8-bit characters are declared: UTF-8 is recognised
}

// set is a coded character set of ISO 2022. Single sets map one byte, double
// ones are decoded in runs of pairs.
type set struct {
	single func(b byte) rune // b as it stands; nil for double sets
	double encoding.Encoding // of pairs with their high bits set
	lead   []byte            // before each pair, for double
}

var (
	ascii  = &set{single: func(b byte) rune { return rune(b) }}
	romaji = &set{single: func(b byte) rune { // JIS X 0201, ISO-IR 14
		switch b {
		case 0x5C:
			return '¥'
		case 0x7E:
			return '‾'
		}
		return rune(b)
	}}
	katakana = &set{single: func(b byte) rune { // JIS X 0201, ISO-IR 13
		if b |= 0x80; b >= 0xA1 && b <= 0xDF {
			return 0xFF61 + rune(b-0xA1)
		}
		return utf8.RuneError
	}}
	kanji    = &set{double: japanese.EUCJP}                     // JIS X 0208
	kanji2   = &set{double: japanese.EUCJP, lead: []byte{0x8F}} // JIS X 0212
	hangul   = &set{double: korean.EUCKR}                       // KS X 1001
	hanzi    = &set{double: simplifiedchinese.GBK}              // GB 2312
	latin1   = table(charmap.Windows1252)                       // with the letters and quotes that Windows writes into C1
	latin2   = table(charmap.ISO8859_2)
	latin3   = table(charmap.ISO8859_3)
	latin4   = table(charmap.ISO8859_4)
	cyrillic = table(charmap.ISO8859_5)
	arabic   = table(charmap.ISO8859_6)
	greek    = table(charmap.ISO8859_7)
	hebrew   = table(charmap.ISO8859_8)
	latin5   = table(charmap.ISO8859_9)
	latin9   = table(charmap.ISO8859_15)
	thai     = &set{single: func(b byte) rune { // TIS 620 is Windows 874 without what that puts into C1
		if b < 0xA1 {
			return utf8.RuneError
		}
		return charmap.Windows874.DecodeByte(b)
	}}
)

func table(m *charmap.Charmap) *set {
	return &set{single: func(b byte) rune {
		if r := m.DecodeByte(b); r >= 0xA0 {
			return r
		}
		return utf8.RuneError
	}}
}

// defined are the terms of Specific Character Set by their registration
// number: the sets they put into G0 and G1.
var defined = map[string][2]*set{
	"6":   {ascii, nil},
	"100": {ascii, latin1},
	"101": {ascii, latin2},
	"109": {ascii, latin3},
	"110": {ascii, latin4},
	"144": {ascii, cyrillic},
	"127": {ascii, arabic},
	"126": {ascii, greek},
	"138": {ascii, hebrew},
	"148": {ascii, latin5},
	"203": {ascii, latin9},
	"13":  {romaji, katakana},
	"14":  {romaji, katakana},
	"166": {ascii, thai},
	"87":  {ascii, nil},
	"159": {ascii, nil},
	"149": {ascii, hangul},
	"58":  {ascii, hanzi},
}

// escapes are the sequences that put a set into G0 or G1, PS3.3 tables C.12-3
// and C.12-4, and two older ones for JIS X 0208 and katakana that writers use.
var escapes = []struct {
	code string
	g    int
	set  *set
}{
	{"(B", 0, ascii},
	{"(J", 0, romaji},
	{"(I", 0, katakana},
	{")I", 1, katakana},
	{"-A", 1, latin1},
	{"-B", 1, latin2},
	{"-C", 1, latin3},
	{"-D", 1, latin4},
	{"-L", 1, cyrillic},
	{"-G", 1, arabic},
	{"-F", 1, greek},
	{"-H", 1, hebrew},
	{"-M", 1, latin5},
	{"-b", 1, latin9},
	{"-T", 1, thai},
	{"$B", 0, kanji},
	{"$@", 0, kanji},
	{"$(B", 0, kanji},
	{"$(D", 0, kanji2},
	{"$)C", 1, hangul},
	{"$)A", 1, hanzi},
}

// newCharset reads the value of (0008,0005). What it does not know counts as
// not declared.
func newCharset(value []byte) *charset {
	c := &charset{g0: ascii, guess: true}
	for i, term := range strings.Split(string(value), `\`) {
		id := characterSetID(term)
		switch id {
		case "192":
			c.whole = encoding.Nop
			return c
		case "GB18030":
			c.whole = simplifiedchinese.GB18030
			return c
		case "GBK":
			c.whole = simplifiedchinese.GBK
			return c
		}
		if g, ok := defined[id]; ok && i == 0 {
			c.g0, c.g1, c.guess = g[0], g[1], g[1] == nil
		}
	}
	return c
}

// characterSetID reduces a defined term, as real files write it, to its
// registration number or name: "ISO_IR 100", "ISO-IR 100", "ISO 2022 IR 100"
// and "iso8859-1" are 100.
func characterSetID(term string) string {
	var b strings.Builder
	for _, c := range []byte(strings.ToUpper(term)) {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' {
			b.WriteByte(c)
		}
	}
	s := b.String()
	switch s {
	case "":
		return "6"
	case "UTF8", "ISO10646", "UNICODE":
		return "192"
	case "GB2312", "EUCCN":
		return "GBK"
	case "SHIFTJIS", "SJIS", "JISX0201":
		return "13"
	case "EUCKR", "KSX1001", "KSC5601":
		return "149"
	case "ASCII", "USASCII":
		return "6"
	case "LATIN1", "ISO88591", "WINDOWS1252":
		return "100"
	case "ISO88592":
		return "101"
	case "ISO88593":
		return "109"
	case "ISO88594":
		return "110"
	case "ISO88595":
		return "144"
	case "ISO88596":
		return "127"
	case "ISO88597":
		return "126"
	case "ISO88598":
		return "138"
	case "ISO88599":
		return "148"
	case "ISO885915":
		return "203"
	case "TIS620", "ISO885911":
		return "166"
	}
	s = strings.TrimPrefix(s, "ISO")
	if strings.HasPrefix(s, "2022IR") {
		s = s[4:]
	}
	return strings.TrimPrefix(s, "IR")
}

// decode gives the values of v, split at backslashes if asked to; in person
// names the component and group delimiters reset the sets too.
func (c *charset) decode(v []byte, split, name bool) []string {
	switch c.whole {
	case nil:
		return c.decode2022(v, split, name)
	case encoding.Nop:
		var out []string
		parts := [][]byte{v}
		if split {
			parts = bytes.Split(v, []byte{'\\'})
		}
		for _, p := range parts {
			out = append(out, validUTF8(p))
		}
		return out
	}
	return c.decodeGB(v, split)
}

// validUTF8 puts U+FFFD for each byte that is no UTF-8.
func validUTF8(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return string([]rune(string(b)))
}

// decodeGB walks GB18030 and GBK, in whose characters a backslash byte is no
// backslash.
func (c *charset) decodeGB(v []byte, split bool) []string {
	var out []string
	start := 0
	for i := 0; i < len(v); {
		switch {
		case v[i] == '\\' && split:
			out = append(out, decodeAll(c.whole, v[start:i]))
			i++
			start = i
		case v[i] < 0x81 || v[i] == 0xFF || i+1 == len(v):
			i++
		case v[i+1] >= '0' && v[i+1] <= '9' && c.whole == simplifiedchinese.GB18030:
			i += 4
		case v[i+1] >= 0x40:
			i += 2
		default:
			i++
		}
		i = min(i, len(v))
	}
	return append(out, decodeAll(c.whole, v[start:]))
}

func decodeAll(e encoding.Encoding, b []byte) string {
	out, err := e.NewDecoder().Bytes(b)
	if err != nil { // these decoders replace and do not fail
		return strings.Repeat("\uFFFD", len(b))
	}
	return string(out)
}

// decode2022 walks text with code extensions, PS3.5 6.1.2.5.
func (c *charset) decode2022(v []byte, split, name bool) []string {
	var (
		out    []string
		text   strings.Builder
		pairs  []byte // of run, waiting to be decoded together
		run    *set
		g0, g1 = c.g0, c.g1
	)
	flush := func() {
		if len(pairs) > 0 {
			text.WriteString(decodeAll(run.double, pairs))
			pairs = pairs[:0]
		}
	}
	pair := func(s *set, a, b byte) {
		if s != run {
			flush()
			run = s
		}
		pairs = append(append(pairs, s.lead...), a|0x80, b|0x80)
	}
	for i := 0; i < len(v); {
		b := v[i]
		next := byte(0)
		if i+1 < len(v) {
			next = v[i+1]
		}
		switch {
		case b < 0x80 && g0.double != nil && b > 0x20 && b < 0x7F:
			if next > 0x20 && next < 0x7F {
				pair(g0, b, next)
				i += 2
				continue
			}
		case b >= 0xA1 && g1 != nil && g1.double != nil && next >= 0xA1:
			pair(g1, b, next)
			i += 2
			continue
		}
		flush()
		i++
		switch {
		case b == 0x1B:
			known := false
			for _, e := range escapes {
				if bytes.HasPrefix(v[i:], []byte(e.code)) {
					if e.g == 0 {
						g0 = e.set
					} else {
						g1 = e.set
					}
					i += len(e.code)
					known = true
					break
				}
			}
			if !known {
				text.WriteRune(utf8.RuneError)
			}
		case b == '\\' && split:
			out = append(out, text.String())
			text.Reset()
			g0, g1 = c.g0, c.g1
		case b == '\r' || b == '\n' || b == '\f' || b == '\t' || name && (b == '^' || b == '='):
			text.WriteByte(b)
			g0, g1 = c.g0, c.g1
		case b <= 0x20:
			text.WriteByte(b)
		case b == 0x7F || b < 0x80 && g0.double != nil:
			text.WriteRune(utf8.RuneError)
		case b < 0x80:
			text.WriteRune(g0.single(b))
		case g1 == nil:
			r, n := rune(utf8.RuneError), 1
			if c.guess {
				r, n = utf8.DecodeRune(v[i-1:])
			}
			text.WriteRune(r)
			i += n - 1
		case g1 == katakana && (b < 0xA0 || b >= 0xE0) && next >= 0x40:
			// Shift-JIS, which much software writes and calls JIS X 0201.
			text.WriteString(decodeAll(japanese.ShiftJIS, []byte{b, next}))
			i++
		case g1.double != nil:
			text.WriteRune(utf8.RuneError)
		default:
			text.WriteRune(g1.single(b))
		}
	}
	flush()
	return append(out, text.String())
}
