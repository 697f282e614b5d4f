package dicom

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// PatientID is an identifier and who gave it.
type PatientID struct {
	ID     string
	Issuer string // "" when the instance does not say
	Type   string // Type of Patient ID, "" when the instance does not say
}

// PatientIDs are the identifiers an instance states: Patient ID, first, then
// those of Other Patient IDs Sequence that name their issuer, each once. Only
// the first may lack an issuer, which then is whoever sent the instance. An
// other identifier is by its name somebody else's, so without an issuer nobody
// can tell whose it is; such ones, and the retired Other Patient IDs
// (0010,1000) that never say, are left out.
//
// An issuer is Issuer of Patient ID (0010,0021), else the Universal Entity ID
// of Issuer of Patient ID Qualifiers Sequence (0010,0024).
func (d Dataset) PatientIDs() []PatientID {
	var out []PatientID
	add := func(d Dataset, other bool) {
		id := PatientID{
			ID:     d.String(TagPatientID),
			Issuer: d.String(TagIssuerOfPatientID),
			Type:   d.String(TagTypeOfPatientID),
		}
		if id.ID == "" {
			return
		}
		if id.Issuer == "" {
			id.Issuer = issuer(d.Items(TagIssuerOfPatientIDQualifiers), TagUniversalEntityID)
		}
		if other && id.Issuer == "" {
			return
		}
		same := func(o PatientID) bool { return o.ID == id.ID && o.Issuer == id.Issuer }
		if !slices.ContainsFunc(out, same) {
			out = append(out, id)
		}
	}
	add(d, false)
	for _, item := range d.Items(TagOtherPatientIDsSequence) {
		add(item, true)
	}
	return out
}

// AccessionIssuer says who gave the Accession Number, "" when the instance
// does not: Issuer of Accession Number Sequence (0008,0051).
func (d Dataset) AccessionIssuer() string {
	return issuer(d.Items(TagIssuerOfAccessionNumber), TagLocalNamespaceEntityID, TagUniversalEntityID)
}

func issuer(items []Dataset, tags ...Tag) string {
	for _, item := range items {
		for _, t := range tags {
			if s := item.String(t); s != "" {
				return s
			}
		}
	}
	return ""
}

// NHSNumber gives the ten digits of an NHS number written with or without
// spaces and dashes. False: it is not ten digits, the check digit (modulus 11)
// is wrong, or all digits are the same.
func NHSNumber(s string) (string, bool) {
	var digits []byte
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			if digits = append(digits, byte(c)); len(digits) > 10 {
				return "", false
			}
		case c == '-' || unicode.Is(unicode.Pd, c) || unicode.IsSpace(c):
		default:
			return "", false
		}
	}
	if len(digits) != 10 {
		return "", false
	}
	sum, same := 0, true
	for i, c := range digits[:9] {
		sum += int(c-'0') * (10 - i)
		same = same && c == digits[9]
	}
	check := (11 - sum%11) % 11
	if same || check != int(digits[9]-'0') { // a check of 10 is no digit
		return "", false
	}
	return string(digits), true
}

// FoldName is the comparable form of a person name, PS3.5 6.2.1: lower case,
// without accents, spaces, hyphens, apostrophes and full stops, in compatible
// forms of one character, and without empty components and groups at the end.
// Components stay apart by ^ and groups by =. The wildcards * and ? stay, so a
// folded pattern finds folded names.
func FoldName(s string) string {
	groups := strings.Split(s, "=")
	for i, g := range groups {
		components := strings.Split(g, "^")
		for j, c := range components {
			components[j] = foldComponent(c)
		}
		groups[i] = strings.TrimRight(strings.Join(components, "^"), "^")
	}
	return strings.TrimRight(strings.Join(groups, "="), "=")
}

// unaccented are Latin letters that no decomposition takes apart.
var unaccented = map[rune]string{
	'ø': "o", 'đ': "d", 'ł': "l", 'ħ': "h", 'ŧ': "t", 'ı': "i", 'ð': "d",
	'æ': "ae", 'œ': "oe", 'þ': "th",
}

func foldComponent(s string) string {
	s = cases.Fold().String(norm.NFKD.String(s))
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= 0x300 && r <= 0x36F:
			// Accents of Latin, Greek and Cyrillic. Marks of other scripts make
			// other letters (kana voicing, Thai vowels) and stay.
		case r == '.' || r == '\'' || r == '’' || r == '‘' || r == 'ʼ' || r == '`' || r == '´':
		case unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Pd, r):
		default:
			if plain, ok := unaccented[r]; ok {
				b.WriteString(plain)
			} else {
				b.WriteRune(r)
			}
		}
	}
	return norm.NFC.String(b.String())
}

// personName is one group of a person name, folded.
type personName struct{ family, given, middle, suffix string }

// NamesAgree reports whether two person names can be the same person's. It is
// made to confirm an identifier and never to stand alone, and it would rather
// leave two studies of one person apart than show one person's to another:
//
//   - family names must be equal, folded (FoldName);
//   - given names must be equal, or one is the other's initial in an alphabet
//     that has initials, or one is absent. So twins, who share family name and
//     birth date, do not agree. Given and middle names may be divided
//     differently between their components;
//   - middle names and suffixes that both have must be equal or an initial;
//     prefixes are titles and do not count;
//   - alphabetic, ideographic and phonetic groups that both have must all
//     agree; where they share none, any group of one may agree with any of the other;
//   - an undecodable character (U+FFFD) and a name that stands for nobody
//     ("UNKNOWN", "ANONYMOUS") agree with nothing.
func NamesAgree(a, b string) bool {
	ga, gb := nameGroups(a), nameGroups(b)
	shared := false
	for i := range min(len(ga), len(gb)) {
		if ga[i] == (personName{}) || gb[i] == (personName{}) {
			continue
		}
		shared = true
		if !ga[i].agrees(gb[i]) {
			return false
		}
	}
	if shared {
		return true
	}
	for _, x := range ga {
		for _, y := range gb {
			if x.agrees(y) {
				return true
			}
		}
	}
	return false
}

func nameGroups(s string) []personName {
	var out []personName
	for i, g := range strings.Split(FoldName(s), "=") {
		if i == 3 {
			break
		}
		c := strings.Split(g, "^")
		for len(c) < 5 {
			c = append(c, "")
		}
		out = append(out, personName{family: c[0], given: c[1], middle: c[2], suffix: c[4]})
	}
	return out
}

func (n personName) agrees(o personName) bool {
	if n.family == "" || n.family != o.family || nobody(n.family) ||
		strings.ContainsRune(n.family+n.given+n.middle+o.given+o.middle, utf8.RuneError) {
		return false
	}
	if !alike(n.suffix, o.suffix) {
		return false
	}
	if n.given != "" && o.given != "" && n.given+n.middle == o.given+o.middle {
		return true
	}
	return alike(n.given, o.given) && alike(n.middle, o.middle)
}

// alike compares components of which one may be absent or an initial.
func alike(a, b string) bool {
	return a == "" || b == "" || a == b || isInitial(a, b) || isInitial(b, a)
}

// isInitial reports that a is one letter and b begins with it. One character
// of Han, kana or Hangul is a whole name.
func isInitial(a, b string) bool {
	r, n := utf8.DecodeRuneInString(a)
	return n == len(a) && unicode.In(r, unicode.Latin, unicode.Greek, unicode.Cyrillic) && strings.HasPrefix(b, a)
}

// nobody reports family names that stand for a person not known.
func nobody(family string) bool {
	switch family {
	case "unknown", "unk", "unidentified", "notknown", "anonymous", "anonymized", "anonymised", "anon",
		"noname", "name", "patient", "test", "x", "xx", "xxx", "xxxx":
		return true
	}
	return false
}
