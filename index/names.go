package index

import (
	"slices"
	"strings"
	"unicode"

	"github.com/priormesh/priormesh/wildcard"
)

// A DICOM person name (PS3.5 6.2.1) has up to three groups (alphabetic,
// ideographic, phonetic) divided by =, each of up to five components divided by ^.
// Here a name is compared group by group in canonical form: each component
// folded by Options.FoldName, joined by ^, without trailing ^.

const (
	nameGroups     = 3
	nameComponents = 5
	nameWords      = 16 // words of a name that have rows of their own
)

type folder func(string) string

// canonical returns the name's groups in canonical form; empty groups stay in place.
func (fold folder) canonical(name string) []string {
	var out []string
	for _, g := range strings.SplitN(name, "=", nameGroups) {
		comps := strings.SplitN(g, "^", nameComponents)
		for i, c := range comps {
			comps[i] = strings.TrimSpace(fold(c))
		}
		out = append(out, strings.TrimRight(strings.Join(comps, "^"), "^"))
	}
	return out
}

// nameHeadSize is how many bytes of a name stand in the keys of persons.
const nameHeadSize = 3

type nameHead [nameHeadSize]byte

// anyHead is of a name that may begin in several ways; no text has these bytes.
var anyHead = nameHead{0xff, 0xff, 0xff}

// head is how a name begins: the first bytes of its one group in canonical form, zeros after a shorter one.
func (fold folder) head(name string) (h nameHead) {
	one := ""
	for _, g := range fold.canonical(name) {
		switch {
		case g == "":
		case one != "":
			return anyHead
		default:
			one = g
		}
	}
	copy(h[:], one)
	return h
}

// mayBegin says whether a name of which this is the head may begin with a text.
func (h nameHead) mayBegin(text string) bool {
	n := min(len(text), nameHeadSize)
	return string(h[:n]) == text[:n] || h == anyHead
}

// families lists the family names of a name's groups.
func (fold folder) families(name string) (out []string) {
	for _, g := range fold.canonical(name) {
		if family, _ := familyGiven(g); family != "" {
			out = append(out, family)
		}
	}
	return out
}

// mayBeOf says whether a name of which this is the head may have a family name.
func (h nameHead) mayBeOf(family string) bool {
	if h == anyHead {
		return true
	}
	n := min(len(family), nameHeadSize)
	return string(h[:n]) == family[:n] && (n == nameHeadSize || h[n] == 0 || h[n] == '^')
}

// words returns the distinct folded words of what somebody searches for.
func (fold folder) words(name string) []string {
	var out []string
	for _, c := range nameParts(name) {
		for _, w := range splitWords(c) {
			out = fold.addWord(out, w)
		}
	}
	return out
}

// nameWordsOf returns the words by which a name is found: those of its components, and whole components of several, for a fold may
// draw them together (van der Berg, vanderberg).
func (fold folder) nameWordsOf(name string) []string {
	out := fold.words(name)
	for _, c := range nameParts(name) {
		out = fold.addWord(out, c)
	}
	return out
}

// newbornWords stand for the name of a child that has none yet; some say its sex.
var newbornWords = map[string]string{
	"baby": "", "infant": "", "newborn": "", "neonate": "", "twin": "", "triplet": "", "quad": "",
	"boy": "M", "male": "M", "girl": "F", "female": "F",
}

// ordinals are what children of one birth are told apart by.
var ordinals = []string{"1", "2", "3", "4", "5", "6", "i", "ii", "iii", "iv", "v", "vi", "a", "b", "c", "d", "e", "f", "one", "two", "three", "four", "first", "second", "third"}

// toldApart says of two names that a number, a letter or the sex tells apart children of one birth who have no names yet: TWIN I and TWIN II,
// BABY and BABY B, BABY BOY and BABY GIRL. The words alone would make one the beginning of the other.
func (fold folder) toldApart(a, b string) bool {
	one, two := strings.SplitN(a, "=", nameGroups), strings.SplitN(b, "=", nameGroups)
	for i := range min(len(one), len(two)) {
		x, y := fold.unnamed(one[i]), fold.unnamed(two[i])
		if (x.yes || y.yes) && (!slices.Equal(x.by, y.by) || x.sex != "" && y.sex != "" && x.sex != y.sex) {
			return true
		}
	}
	return false
}

// newborn says whether some group of a name is that of a child without one.
func (fold folder) newborn(name string) bool {
	return slices.ContainsFunc(strings.SplitN(name, "=", nameGroups), func(group string) bool {
		return fold.unnamed(group).yes
	})
}

// unnamed is what a group of a name says of a child without one.
type unnamed struct {
	yes bool
	by  []string // what it is told apart by: words, or ends of words, that are ordinals
	sex string
}

func (fold folder) unnamed(group string) (u unnamed) {
	for _, w := range fold.words(group) {
		if slices.Contains(ordinals, w) {
			u.by = append(u.by, w)
			continue
		}
		yes, sex, rest := newbornWord(w)
		if !yes || rest != "" && !slices.Contains(ordinals, rest) {
			continue
		}
		u.yes = true
		if rest != "" {
			u.by = append(u.by, rest)
		}
		if sex != "" {
			u.sex = sex
		}
	}
	slices.Sort(u.by)
	return u
}

// newbornWord takes the words that stand for a name off the front of a word: babyboy2 is a boy, and 2 is left.
func newbornWord(w string) (yes bool, sex, rest string) {
	for more := true; more; {
		more = false
		for word, says := range newbornWords {
			if left, begins := strings.CutPrefix(w, word); begins {
				yes, more, w = true, true, left
				if says != "" {
					sex = says
				}
				break
			}
		}
	}
	return yes, sex, w
}

// titles say nothing of who somebody is.
var titles = []string{"mr", "mrs", "ms", "miss", "master", "dr", "prof", "professor", "sir", "dame", "lord", "lady", "rev", "revd"}

// generations tell father and son apart who bear one name.
var generations = map[string]string{"jr": "jr", "jnr": "jr", "junior": "jr", "sr": "sr", "snr": "sr", "senior": "sr"}

// spoken is a group of a name as it is read. A name of which nobody has marked what is family and what is given name is loose.
type spoken struct {
	family, given string   // folded; family is empty where the name is loose
	words         []string // of the family name, or of all of a loose one
	generation    string
}

// read reads a group: FAMILY^GIVEN, FAMILY, GIVEN or words in any order.
func (fold folder) read(group string) (s spoken) {
	comps := strings.SplitN(group, "^", nameComponents)
	family, given := comps[0], strings.Join(comps[1:min(len(comps), 3)], " ")
	if len(comps) > 1 && comps[1] != "" {
		given = comps[1]
	}
	if f, g, comma := strings.Cut(family, ","); comma && strings.TrimSpace(given) == "" {
		family, given = f, g
	}
	for _, part := range comps {
		for _, w := range fold.words(part) {
			if gen := generations[w]; gen != "" {
				s.generation = gen
			}
		}
	}
	says := func(part string) (out []string) {
		for _, w := range fold.words(part) {
			if generations[w] == "" && !slices.Contains(titles, w) {
				out = append(out, w)
			}
		}
		return out
	}
	if given := says(given); len(given) > 0 {
		s.given, s.family = strings.Join(given, ""), strings.Join(says(family), "")
	}
	s.words = says(family)
	return s
}

// otherGiven says of two names that they are told apart by their given names, or by which generation of a family they are of, however they
// are written: neither given name begins the other, and none has changed places with the other's family name. Of a loose name the given name is
// what is no family name of the other; of two loose ones each has a word that the other lacks.
func (fold folder) otherGiven(a, b string) bool {
	one, two := strings.SplitN(a, "=", nameGroups), strings.SplitN(b, "=", nameGroups)
	for i := range min(len(one), len(two)) {
		x, y := fold.read(one[i]), fold.read(two[i])
		if x.generation != "" && y.generation != "" && x.generation != y.generation || x.otherGiven(y) {
			return true
		}
	}
	return false
}

func (s spoken) otherGiven(o spoken) bool {
	switch {
	case len(s.words) > nameWords || len(o.words) > nameWords:
		return true // nobody's name; it costs certainty
	case s.given != "" && o.given != "":
		if begins(s.given, o.given) {
			return false
		}
		return s.family == "" || o.family == "" || !begins(s.given, o.family) && !begins(s.family, o.given)
	case s.given == "" && o.given == "":
		return len(without(s.words, o.words)) > 0 && len(without(o.words, s.words)) > 0
	case s.given == "":
		s, o = o, s
	}
	rest := without(o.words, s.words)
	if i := slices.Index(o.words, s.family); i >= 0 { // vanderberg, of the words van der berg
		rest = slices.DeleteFunc(rest, func(w string) bool { return w == s.family })
	}
	return len(rest) > 0 && !slices.ContainsFunc(rest, func(w string) bool { return begins(w, s.given) })
}

// without lists the words that are none of others, nor the initial of one, nor have theirs there.
func without(words, others []string) (out []string) {
	for _, w := range words {
		if !slices.ContainsFunc(others, func(o string) bool { return w == o || min(len(w), len(o)) == 1 && begins(w, o) }) {
			out = append(out, w)
		}
	}
	return out
}

func begins(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

func (fold folder) addWord(out []string, s string) []string {
	if w := strings.TrimSpace(fold(s)); w != "" && !slices.Contains(out, w) {
		out = append(out, w)
	}
	return out
}

func nameParts(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return r == '^' || r == '=' })
}

// splitWords divides before anything is folded: a fold may drop blanks and hyphens.
func splitWords(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) || strings.ContainsRune("*?,", r)
	})
}

// pattern folds a pattern and leaves its wildcards standing.
func (fold folder) pattern(p string) string {
	var out strings.Builder
	for len(p) > 0 {
		i := strings.IndexAny(p, "*?")
		lit := p
		if i >= 0 {
			lit = p[:i]
		}
		out.WriteString(strings.TrimSpace(fold(lit)))
		if i < 0 {
			break
		}
		out.WriteByte(p[i])
		p = p[i+1:]
	}
	return out.String()
}

// namePattern is a query's name made ready.
type namePattern struct {
	groups  []string // canonical patterns
	anyways bool     // one pattern, for whichever group
}

func (fold folder) namePattern(q string) namePattern {
	groups := strings.SplitN(q, "=", nameGroups)
	p := namePattern{anyways: len(groups) == 1}
	for _, g := range groups {
		comps := strings.SplitN(g, "^", nameComponents)
		for i, c := range comps {
			comps[i] = fold.pattern(c)
		}
		p.groups = append(p.groups, strings.TrimRight(strings.Join(comps, "^"), "^"))
	}
	return p
}

// begins is what a group of every name that matches begins with. A name ends without the ^ that a pattern may have at its end.
func (p namePattern) begins() string {
	if !p.anyways {
		return ""
	}
	return strings.TrimRight(literal(p.groups[0]), "^")
}

// matches compares with a name in canonical form.
func (p namePattern) matches(name []string) bool {
	if p.anyways {
		return slices.ContainsFunc(name, func(g string) bool { return g != "" && matchGroup(p.groups[0], g) })
	}
	for i, g := range p.groups {
		if g != "" && (i >= len(name) || !matchGroup(g, name[i])) {
			return false
		}
	}
	return true
}

// matchGroup matches one group. Absent components count as empty, so DOE^* finds DOE;
// and a plain family name finds all who bear it.
func matchGroup(pattern, group string) bool {
	if wildcard.Match(pattern, group) {
		return true
	}
	if n := nameComponents - 1 - strings.Count(group, "^"); n > 0 && strings.Contains(pattern, "^") {
		if wildcard.Match(pattern, group+strings.Repeat("^", n)) {
			return true
		}
	}
	family, _, more := strings.Cut(group, "^")
	return more && !strings.ContainsAny(pattern, "^*?") && pattern == family
}

// literal is what every match of a pattern begins with.
func literal(pattern string) string {
	if i := strings.IndexAny(pattern, "*?"); i >= 0 {
		return pattern[:i]
	}
	return pattern
}

func wild(pattern string) bool { return strings.ContainsAny(pattern, "*?") }
