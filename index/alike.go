package index

import (
	"slices"
	"strings"
)

// relation is what two looks say of each other.
type relation byte

const (
	silent  relation = iota + 1 // too little is said
	agrees                      // one person's
	slipped                     // birth dates that differ as one date mistyped does
	unlike                      // names that do not agree, and one has no birth date
	strange                     // the same, or equal birth dates, and names that are clearly two people's, or two sexes
	another                     // two people's: other birth dates, or twins
)

func (g *grouping) relation(a, b int) relation {
	if a > b {
		a, b = b, a
	}
	if r, ok := g.relations[[2]int{a, b}]; ok {
		return r
	}
	r := g.relate(a, b)
	g.relations[[2]int{a, b}] = r
	return r
}

func (g *grouping) relate(i, j int) relation {
	a, b := g.lookList[i], g.lookList[j]
	same := g.sameName(i, j)
	named := g.named(i) && g.named(j)
	sexes := a.sex != "" && b.sex != "" && a.sex != b.sex
	switch {
	case a.date == "" || b.date == "":
		switch {
		case sexes:
			return strange
		case same:
			return agrees
		case !named:
			return silent
		case g.twins(a.name, b.name) || g.fold.toldApart(a.name, b.name) || g.strangers(a.name, b.name) || g.fold.otherGiven(a.name, b.name):
			return strange
		}
		return unlike
	case a.date == b.date:
		switch {
		case !same && (g.twins(a.name, b.name) || g.fold.toldApart(a.name, b.name)):
			return another
		case sexes:
			return strange
		case !same && named && (g.strangers(a.name, b.name) || g.fold.otherGiven(a.name, b.name)):
			return strange
		}
		return agrees
	case !slip(a.date, b.date) || !same && named:
		return another
	}
	return slipped
}

// sameName says whether two names agree, in both directions.
func (g *grouping) sameName(i, j int) bool {
	a, b := g.lookList[i].name, g.lookList[j].name
	return a != "" && b != "" && g.agree(a, b) && g.agree(b, a) && !g.fold.toldApart(a, b)
}

// named says whether a look has a name that says anything: one that stands for an unknown person does not agree with itself.
func (g *grouping) named(i int) bool { return g.sameName(i, i) }

// twins says of two with one birth date that they look like twins: one family name, and given names of which neither begins
// the other, in any group of the name. A name changed by marriage keeps the given name, and is no twin's.
func (g *grouping) twins(a, b string) bool {
	one, two := g.fold.canonical(a), g.fold.canonical(b)
	for i := range min(len(one), len(two)) {
		familyA, givenA := familyGiven(one[i])
		familyB, givenB := familyGiven(two[i])
		if familyA != "" && familyA == familyB && givenA != "" && givenB != "" &&
			!strings.HasPrefix(givenA, givenB) && !strings.HasPrefix(givenB, givenA) {
			return true
		}
	}
	return false
}

// strangers says of two names that they are clearly two people's: there is a group that both have, and in none such has a word of the one
// its like in the other. Who marries keeps the given name, family and given name change places, and a slip of a finger changes a letter.
func (g *grouping) strangers(a, b string) bool {
	one, two := strings.SplitN(a, "=", nameGroups), strings.SplitN(b, "=", nameGroups)
	shared := false
	for i := range min(len(one), len(two)) {
		words, others := g.fold.words(one[i]), g.fold.words(two[i])
		if len(words) > nameWords || len(others) > nameWords {
			return true // nobody's name; it costs certainty
		}
		shared = shared || len(words) > 0 && len(others) > 0
		for _, w := range words {
			for _, o := range others {
				if strings.HasPrefix(w, o) || strings.HasPrefix(o, w) || mistyped(w, o) {
					return false
				}
			}
		}
	}
	return shared
}

// mistyped says whether two words of four characters or more differ in one: another, or one more.
func mistyped(a, b string) bool {
	long, short := []rune(a), []rune(b)
	if len(long) < len(short) {
		long, short = short, long
	}
	if len(short) < 4 || len(long)-len(short) > 1 {
		return false
	}
	i := 0
	for i < len(short) && long[i] == short[i] {
		i++
	}
	rest := short[i:]
	if len(long) == len(short) {
		rest = rest[min(1, len(rest)):]
	}
	return slices.Equal(long[min(i+1, len(long)):], rest)
}

// parts returns the folded family and given name of a name's first group.
func (fold folder) parts(name string) (family, given string) {
	return familyGiven(fold.canonical(name)[0])
}

func familyGiven(group string) (family, given string) {
	comps := strings.Split(group, "^")
	if len(comps) > 1 {
		given = comps[1]
	}
	return comps[0], given
}

// slip says whether two dates of eight digits differ as one date does from the same one mistyped: in one digit, in two neighbours that
// changed places, or in day and month that did.
func slip(a, b string) bool {
	if a[:4] == b[:4] && a[4:6] == b[6:] && a[6:] == b[4:6] {
		return true
	}
	var at []int
	for i := range len(a) {
		if a[i] != b[i] {
			at = append(at, i)
		}
	}
	return len(at) == 1 || len(at) == 2 && at[1] == at[0]+1 && a[at[0]] == b[at[1]] && a[at[1]] == b[at[0]]
}

// mergeable says whether two birth dates may be one person's by the word of a link: but for two full dates, neither of which is one
// that is put for an age that was guessed, and which no slip of a finger tells apart.
func mergeable(a, b string) bool {
	return a == "" || b == "" || guessed(a) || guessed(b) || a == b || slip(a, b)
}

// guessed says of a birth date that it may be one that is put for an age that was guessed.
func guessed(date string) bool { return strings.HasSuffix(date, "0101") }

// sexOf is a Patient's Sex that tells two people apart: M or F. O and what is no code (PS3.3 C.7.1.1) contradict nothing.
func sexOf(sex string) string {
	switch s := strings.ToUpper(strings.TrimSpace(sex)); s {
	case "M", "F":
		return s
	}
	return ""
}
