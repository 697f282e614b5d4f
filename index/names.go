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

// newbornWords stand for the name of a child that has none yet.
var newbornWords = []string{"baby", "infant", "newborn", "neonate", "twin", "triplet", "quad", "boy", "girl", "male", "female"}

// ordinals are what children of one birth are told apart by.
var ordinals = []string{"1", "2", "3", "4", "5", "6", "i", "ii", "iii", "iv", "v", "vi", "a", "b", "c", "d", "e", "f", "one", "two", "three", "four", "first", "second", "third"}

// newborn says whether some group of a name is that of a child without one.
func (fold folder) newborn(name string) bool {
	return slices.ContainsFunc(strings.SplitN(name, "=", nameGroups), func(group string) bool {
		yes, _ := fold.unnamed(group)
		return yes
	})
}

// unnamed says whether a group of a name is that of a child without one, and lists what it is told apart by: words, or ends of words, that
// are ordinals. What sex it is called by tells it apart from the other sex only: BABY may be BABY BOY.
func (fold folder) unnamed(group string) (yes bool, by []string) {
	for _, w := range fold.words(group) {
		if slices.Contains(ordinals, w) {
			by = append(by, w)
			continue
		}
		if kinds, ordinal := newbornWord(w); len(kinds) > 0 {
			yes = true
			if ordinal != "" {
				by = append(by, ordinal)
			}
		}
	}
	slices.Sort(by)
	return yes, by
}

// newbornWord takes a word apart that stands for the name of a child without one, such as TWINB or BABYBOY: into newbornWords, and the
// ordinal after them. Of other words it finds none.
func newbornWord(w string) (kinds []string, ordinal string) {
	for w != "" {
		i := slices.IndexFunc(newbornWords, func(n string) bool { return strings.HasPrefix(w, n) })
		if i < 0 {
			if len(kinds) == 0 || !slices.Contains(ordinals, w) {
				return nil, ""
			}
			return kinds, w
		}
		kinds, w = append(kinds, newbornWords[i]), w[len(newbornWords[i]):]
	}
	return kinds, ""
}

// allWords returns the folded words of a text in their order.
func (fold folder) allWords(text string) (out []string) {
	for _, w := range splitWords(text) {
		if w = strings.TrimSpace(fold(w)); w != "" {
			out = append(out, w)
		}
	}
	return out
}

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
