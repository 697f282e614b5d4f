package index

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What tells two people apart of whom one number is said, and one birth date: given names that share nothing, wherever in the name they stand;
// what children of one birth, or father and son of one name, are told apart by; and the sex. docs/decisions/0031 says why it is as it is.

// apartness is how far two people are told apart.
type apartness byte

const (
	notApart  apartness = iota
	doubtful            // they do not bear each other out, and may be one all the same
	twoPeople           // clearly
)

// maxFamilyWords is how many words of a name that does not say which they are may be its family name.
const maxFamilyWords = 4

// called is a name made ready to be compared.
type called struct {
	whole     string   // in canonical form
	families  []string // of each group, the first component
	groups    []calledGroup
	sex       string // that words of it say: M or F
	illegible bool
	familiar  bool // some group has a family name
}

type calledGroup struct {
	over       bool // it has too many words to be a name
	anonymous  bool // its given name stands for one that is not known, or not given yet
	generation string
	newborn    bool
	ordinals   []string
	readings   []reading
}

// reading is one way to read a name. All is folded; family and given are without what divides their words.
type reading struct {
	how           manner
	family, given string
	families      []string // the words of the family name
	givens        []string // those of the given name, and then of middle names
}

// manner is how it is known which words of a name are the family name.
type manner byte

const (
	written manner = iota + 1 // the name says it
	swapped                   // it says the contrary
	guess                     // it says nothing
)

// titles are no names. Who bears the first is a man, who the next three a woman.
var titles = []string{"mr", "mrs", "miss", "ms", "dr", "prof", "professor", "sir", "rev", "mstr", "mx"}

// sexWords are those of newbornWords that say a sex.
var sexWords = map[string]string{"boy": "M", "male": "M", "girl": "F", "female": "F"}

// generations tell father and son of one name apart.
var generations = map[string]string{
	"jr": "jr", "jnr": "jr", "junior": "jr", "sr": "sr", "snr": "sr", "senior": "sr", "ii": "2", "2nd": "2", "iii": "3", "3rd": "3", "iv": "4", "4th": "4",
}

// called reads a name.
func (fold folder) called(name string) *called {
	c := &called{whole: strings.Join(fold.canonical(name), "="), illegible: strings.ContainsRune(name, utf8.RuneError)}
	for _, g := range fold.canonical(name) {
		family, _ := familyGiven(g)
		c.families = append(c.families, family)
	}
	sexes := map[string]bool{}
	for _, text := range strings.SplitN(name, "=", nameGroups) {
		words := fold.allWords(strings.ReplaceAll(text, "^", " "))
		g := calledGroup{over: len(words) > nameWords}
		g.newborn, g.ordinals = fold.unnamed(text)
		if !g.over {
			fold.read(text, &g)
			for _, w := range words {
				if sex := sexOfWord(w); sex != "" {
					sexes[sex] = true
				}
			}
		}
		c.familiar = c.familiar || slices.ContainsFunc(g.readings, func(r reading) bool { return r.how == written && r.family != "" || r.how == guess })
		c.groups = append(c.groups, g)
	}
	if len(sexes) == 1 {
		for sex := range sexes {
			c.sex = sex
		}
	}
	return c
}

// sexOfWord is what sex a word of a name says: that a child without a name is called by, or a title.
func sexOfWord(w string) string {
	switch slices.Index(titles, w) {
	case 0:
		return "M"
	case 1, 2, 3:
		return "F"
	}
	kinds, _ := newbornWord(w)
	sex := ""
	for _, k := range kinds {
		of := sexWords[k]
		if sex != "" && of != "" && of != sex {
			return ""
		}
		sex = cmp.Or(sex, of)
	}
	return sex
}

// read finds the ways to read a group of a name: as its components say, or its comma; else any of its first words, and of its last, may be the
// family name.
func (fold folder) read(text string, g *calledGroup) {
	comps := append(strings.SplitN(text, "^", nameComponents), make([]string, nameComponents)...)
	if family, given, comma := strings.Cut(comps[0], ","); comma && strings.Trim(strings.Join(comps[1:3], ""), " ") == "" {
		comps[0], comps[1] = family, given
	}
	var parts [3][]string
	for i := range parts {
		parts[i] = fold.allWords(comps[i])
	}
	if !g.newborn {
		for _, w := range fold.allWords(comps[4]) {
			g.generation = cmp.Or(g.generation, generations[w])
		}
	}
	// Titles and generations are left out where something is left.
	whole := slices.Concat(parts[0], parts[1], parts[2])
	for i := range parts {
		parts[i] = slices.DeleteFunc(parts[i], func(w string) bool { return slices.Contains(titles, w) })
	}
	for i := range parts {
		for last := len(parts[i]) - 1; !g.newborn && (last > 0 || i == 2 && last == 0 && len(parts[1]) > 0); last-- {
			gen, ok := generations[parts[i][last]]
			if !ok {
				break
			}
			g.generation, parts[i] = cmp.Or(g.generation, gen), parts[i][:last]
		}
	}
	if len(parts[0])+len(parts[1])+len(parts[2]) == 0 {
		parts[0] = whole
	}
	family, given, middle := parts[0], parts[1], parts[2]
	if len(given) > 0 {
		g.anonymous = g.newborn || !slices.ContainsFunc(given, isName)
		g.readings = append(g.readings, readingOf(written, family, given, middle))
		if len(family) > 0 {
			g.readings = append(g.readings, readingOf(swapped, given, family, middle))
		}
		return
	}
	words := slices.Concat(family, middle)
	if len(words) == 0 {
		return
	}
	g.readings = append(g.readings, readingOf(guess, words, nil, nil))
	if len(words) == 1 {
		g.readings = append(g.readings, readingOf(guess, nil, words, nil))
	}
	for n := 1; n <= maxFamilyWords && n < len(words); n++ {
		g.readings = append(g.readings, readingOf(guess, words[:n], words[n:], nil), readingOf(guess, words[len(words)-n:], words[:len(words)-n], nil))
	}
}

func readingOf(how manner, family, given, middle []string) reading {
	return reading{how: how, family: strings.Join(family, ""), given: strings.Join(given, ""), families: family, givens: slices.Concat(given, middle)}
}

// toldApart says of two names that a number or a letter tells apart children of one birth who have no names yet: TWIN I and TWIN II, BABY
// and BABY B. The words alone would make one the beginning of the other.
func (c *called) toldApart(o *called) bool {
	for i := range min(len(c.groups), len(o.groups)) {
		x, y := &c.groups[i], &o.groups[i]
		if (x.newborn || y.newborn) && !slices.Equal(x.ordinals, y.ordinals) {
			return true
		}
	}
	return false
}

// sameFamily says whether two names have one family name in a group.
func (c *called) sameFamily(o *called) bool {
	for i := range min(len(c.families), len(o.families)) {
		if c.families[i] != "" && c.families[i] == o.families[i] {
			return true
		}
	}
	return false
}

// nameApart is what two names say. In groups that both have each must be readable as the other's.
func nameApart(a, b *called) apartness {
	if a.whole == b.whole {
		return notApart
	}
	apart := notApart
	for i := range min(len(a.groups), len(b.groups)) {
		x, y := &a.groups[i], &b.groups[i]
		switch {
		case x.over || y.over: // nobody's name; it costs certainty
			return twoPeople
		case len(x.readings) == 0 || len(y.readings) == 0:
			continue
		case x.generation != "" && y.generation != "" && x.generation != y.generation:
			return twoPeople
		}
		apart = max(apart, x.apart(y))
	}
	return apart
}

func (x *calledGroup) apart(y *calledGroup) apartness {
	apart := twoPeople
	for i := range x.readings {
		for j := range y.readings {
			a, b := &x.readings[i], &y.readings[j]
			if a.mayBe(b) {
				if !x.anonymous || !y.anonymous || a.how != written || b.how != written || a.family == "" || b.family == "" || a.family == b.family || mistyped(a.family, b.family) {
					return notApart
				}
				continue // two newborns of other families have one name
			}
			// An initial, or a short form, where the other has its family name.
			if a.how == written && b.how == written && a.family != "" && b.family != "" && (begins(a.given, b.family) || begins(b.given, a.family)) {
				apart = doubtful
			}
		}
	}
	return apart
}

// mayBe says whether two readings may be of one person. Where both names say which is the given name, that is what counts: the family name
// changes by marriage. Else who bears another family name may as well bear another given name.
func (a *reading) mayBe(b *reading) bool {
	if a.how == written && b.how == written {
		return a.likeGiven(b)
	}
	switch {
	case a.family == "" || b.family == "": // there is but a given name
		return a.given != "" && b.given != "" && (a.given == b.given || a.how != swapped && b.how != swapped && a.likeGiven(b))
	case a.given == "" || b.given == "": // or but a family name, or all in one
		return a.likeFamily(b, false) || a.family+a.given == b.family+b.given
	}
	if (a.how == swapped || b.how == swapped) && a.given != b.given && utf8.RuneCountInString(a.given) > 1 && utf8.RuneCountInString(b.given) > 1 {
		return false // JOHN James and JAMES Johnson
	}
	return a.likeFamily(b, a.given == b.given) && a.likeGiven(b)
}

// likeFamily says whether two family names, of which one is a guess, may be one. Against a name that says its family name, it may be
// mistyped in a letter, and where the given name is the same one, it may have a word more.
func (a *reading) likeFamily(b *reading, sameGiven bool) bool {
	if a.family == b.family {
		return true
	}
	if a.how != written && b.how != written || a.how == swapped || b.how == swapped {
		return false
	}
	return mistyped(a.family, b.family) || sameGiven && slices.ContainsFunc(a.families, func(w string) bool { return slices.Contains(b.families, w) })
}

// likeGiven says whether given names may be one person's: one begins the other, but is not the other with a letter more (DANIEL, DANIELA);
// and with middle names, not each has one that the other lacks.
func (a *reading) likeGiven(b *reading) bool {
	if a.given == "" || b.given == "" || strings.ContainsRune(a.given+b.given, utf8.RuneError) {
		return true
	}
	if !begins(a.given, b.given) || a.given != b.given && a.givens[0] != b.givens[0] && mistyped(a.givens[0], b.givens[0]) {
		return false
	}
	return strings.Join(a.givens, "") == strings.Join(b.givens, "") || !a.hasMore(b) || !b.hasMore(a)
}

// hasMore says whether a given or middle name has no like in another name.
func (a *reading) hasMore(b *reading) bool {
	return slices.ContainsFunc(a.givens, func(w string) bool {
		return !slices.Contains(b.families, w) && !slices.ContainsFunc(b.givens, func(o string) bool { return begins(w, o) || mistyped(w, o) })
	})
}

// begins says whether one of two texts begins the other; an empty one begins nothing.
// Where a character is a word or a syllable, and no letter, it is no initial of others.
func begins(a, b string) bool {
	if a == "" || b == "" || !strings.HasPrefix(a, b) && !strings.HasPrefix(b, a) {
		return false
	}
	return a == b || !strings.ContainsFunc(a+b, func(r rune) bool {
		return unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana)
	})
}

// noNames stand where no given name is known.
var noNames = []string{"unknown", "unk", "nfn", "none", "nil", "noname", "name", "na", "child", "son", "daughter"}

// isName says whether a word of a given name is one, as far as that can be told.
func isName(w string) bool {
	kinds, _ := newbornWord(w)
	return len(kinds) == 0 && !slices.Contains(noNames, w)
}

// sexOf is the sex that a statement says, if it is one that another contradicts.
func sexOf(said string) string {
	switch s := strings.ToUpper(strings.TrimSpace(said)); s {
	case "M", "F":
		return s
	case "MALE", "FEMALE":
		return s[:1]
	}
	return ""
}

// sexesApart says whether two are said to be of two sexes: as their statements have it, or words of a name where a statement has nothing.
func sexesApart(a string, x *called, b string, y *called) bool {
	differ := func(s, t string) bool { return s != "" && t != "" && s != t }
	return differ(cmp.Or(a, x.sex), cmp.Or(b, y.sex)) || differ(x.sex, y.sex)
}

// fullName is the folded family and given name of a name that has both, so that with a birth date and a number they are one person's: not an
// initial, nor a child's who has no name yet.
func (fold folder) fullName(name string) string {
	family, given := fold.parts(name)
	if family == "" || utf8.RuneCountInString(given) < 2 || fold.newborn(name) {
		return ""
	}
	return family + "^" + given
}

// TwoPeople says whether two statements are clearly of two people by name and sex. It is the rule of [Index.Patient], for those who have to
// know of two statements on one study; foldName is Options.FoldName. Birth dates are theirs to compare.
func TwoPeople(foldName func(string) string, x, y Study) bool {
	fold := folder(foldName)
	a, b := fold.called(x.Name), fold.called(y.Name)
	if a.toldApart(b) || nameApart(a, b) == twoPeople {
		return true
	}
	full := fold.fullName(x.Name)
	return sexesApart(sexOf(x.Sex), a, sexOf(y.Sex), b) && (full == "" || full != fold.fullName(y.Name))
}
