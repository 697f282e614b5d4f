package index

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Patient is the studies of one patient, newest first.
type Patient struct {
	Certain    []string   // studies of the patient, the one asked about included
	Possible   []string   // studies that may be the patient's: a person decides
	Contested  []string   // those of the possible ones of whose identifiers somebody says one thing and somebody another
	Surviving  Identifier // for display: what a merge says to call the patient by; zero where there is none
	Read       int        // persons that were read for it: what it has cost
	Incomplete bool       // a limit was met: some candidates were not looked at, and links that may be one too many count for less

	// Crowded are numbers followed under which too many people are found: of those who bear one only who agrees wholly is certain by it,
	// and the patient may have more studies under it than are in any of these lists.
	Crowded []Identifier
}

// Limits on the search for one patient's studies. Where one is met, the answer is Incomplete.
const (
	MaxPatient = 4096 // studies looked at

	maxIdentifiers = 64   // identifiers followed
	maxLookedUnder = 256  // identifiers looked under, to see who bears them
	maxRead        = 1024 // persons read, to see who bears which identifiers; then no further identifier is looked under
	maxPersons     = 512  // persons whose studies are listed
	maxBearers     = 256  // persons under an identifier; more than that are nobody
	maxNamesakes   = 2048 // persons born on a day
	maxPeople      = 8    // birth dates, or family names, under an identifier; more than that are a crowd
	maxSpellings   = 64   // names with birth dates under an identifier; more than that are a crowd
	maxLinked      = 32   // identifiers that links make one
	maxLinks       = 16   // links of an identifier by one author; more than that make nothing certain
	maxLinkAuthors = 64   // authors of links of an identifier
)

// personID names a person while one question is answered. Different nodes have different ones.
type personID uint32

// identifiers lists the identifiers that a person bears, sorted.
func (p person) identifiers() []Identifier {
	var out []Identifier
	for _, id := range p.Patient {
		out = append(out, Identifier{ID: id.ID, Issuer: id.Issuer})
	}
	if validNHS(p.NHS) {
		out = append(out, Identifier{NHS: p.NHS})
	}
	slices.SortFunc(out, Identifier.compare)
	return slices.Compact(out)
}

// studyOf is a study of a person.
type studyOf struct {
	uid, place string
	alone      bool // all statements of it are of this person, and none says Mixed: there is no need to look
}

// linkWord is what an author says of two identifiers.
type linkWord struct {
	author      NodeID
	link        Link
	quarantined bool
}

// people is what the search reads: a view of one moment. Each list is in an order that depends on what is there only, and no longer than
// the limit passed in; more says that it would be.
type people interface {
	// statements returns the persons that a study's statements are of, without repetitions; none where nobody says the study.
	statements(uid string) (of []personID, mixed bool, place string, err error)
	person(p personID) (person, error)
	// studies lists the studies that have a statement of a person, newest first.
	studies(p personID, limit int) (list []studyOf, more bool, err error)
	// bearers lists the persons that bear an identifier.
	bearers(id Identifier, limit int) (list []personID, more bool, err error)
	// namesakes lists the persons with a birth date (eight digits) and a name: at least those whose name agrees.
	namesakes(date, name string, limit int) (list []personID, more bool, err error)
	// joins lists the links that join an identifier with another: of each author up to a number, of up to a number of authors.
	joins(id Identifier, each, authors int) (list []linkWord, more bool, err error)
	// parts says whether somebody says that an identifier and any other are two people's.
	parts(id Identifier) (bool, error)
	// parted says whether somebody says so of these two.
	parted(a, b Identifier) (bool, error)
}

// Patient returns the studies of the patient of a study. docs/decisions/0006, 0024 and 0030 say why it is as it is.
//
// What it looks at are units: a study's statements together, or all studies of which one and the same is said. Two units are joined when
// they share an identifier, or when links make two of theirs one. Units agree when each person of the one agrees with each of the other:
// both birth dates are there and equal, or one is missing and the names agree; and names and sex do not tell them apart (apart.go). Two unlike birth dates are two people. A link that nobody contests stands for agreement.
//
// A unit is certain when it agrees with the start; and is joined to it, at once or through units that agree with both; and no unit
// that is joined to either agrees with one of them and is another person than the other. That is the same from either side. A Mixed
// study agrees with none. What bears one of the identifiers and is not certain is possible; so is what agrees in birth date and name,
// or is joined by a link that somebody contests.
//
// An identifier under which too many people are found joins only units that agree wholly: their birth date, family and given name are equal.
//
// The answer depends on what is said, not on the order in which it came, unless it is Incomplete.
//
// An unknown study has no patient: all lists are empty.
func (x *Index) Patient(ctx context.Context, uid string) (Patient, error) {
	if err := checkUID(uid); err != nil {
		return Patient{}, err
	}
	var p Patient
	err := x.View(func(txn *badger.Txn) (err error) {
		p, err = patientOf(uid, x.peopleIn(ctx, txn), x.fold, x.opt.NamesAgree)
		return err
	})
	return p, err
}

// Whose is a text of what is said of whose a study is. Studies of which it is the same are seen alike by Patient, but for themselves.
func Whose(said []Authored[Study]) string {
	var texts []string
	for _, s := range said {
		v := s.Value
		texts = append(texts, fmt.Sprintf("%q %q %q %q %q %t", v.Patient, v.NHS, v.Name, v.BirthDate, v.Sex, v.Mixed))
	}
	slices.Sort(texts)
	return fmt.Sprintf("%q", slices.Compact(texts))
}

// patientOf answers Patient from what is said of people.
func patientOf(uid string, from people, fold folder, agree func(a, b string) bool) (Patient, error) {
	g := grouping{
		people: from, fold: fold, agree: agree,
		persons: map[personID]*someone{}, looks: map[look]int{}, relations: map[[2]int]relation{},
		units: map[string]*unit{}, unitsOf: map[personID][]*unit{}, words: map[Identifier][]linkWord{}, seen: map[string]bool{},
		known: map[Identifier]*bearing{}, comps: map[Identifier]*linked{}, partings: map[[2]Identifier]bool{},
		followed: map[lead]bool{}, crowd: map[lead]*linked{}, wholes: map[int]string{}, names: map[int]bool{}, aside: map[Identifier]bool{}, listed: map[personID]bool{}, oks: map[[2]personID]bool{},
	}
	return g.group(uid)
}

// someone is a person with what is derived from it.
type someone struct {
	person
	ids    []Identifier
	look   int          // which look it has
	parted []Identifier // those that somebody says are another's than some other
	asked  bool         // parted is known
}

// look is what persons are compared by. It has no identifiers: many persons look the same.
type look struct{ name, date, sex string }

// unit is studies that have the same persons.
type unit struct {
	persons []personID   // sorted
	ids     []Identifier // of all of them, sorted
	mixed   bool
	studies []studyOf
	knots   []*linked // once tied
	tied    bool
	doubt   bool // reached by what may only make it possible
	contest bool // by what is contested
}

// bearing is what is known of an identifier.
type bearing struct {
	persons []personID
	nobody  bool // it identifies nobody: a placeholder, or too many people are found under it
	crowded bool // it is no placeholder, and all who bear it are known: who agree wholly are joined by it
	one     int  // 1: no two persons under it contradict each other; -1: some do; 0: not looked at yet
	looks   []int
}

// linked are the identifiers that links make one.
type linked struct {
	ids    []Identifier        // sorted
	aside  map[Identifier]bool // joined to one of them by what makes a match possible only; true where it is contested
	merges []Link
}

// lead is an identifier to look under; if it is crowded, for those of whom one and the same is said.
type lead struct {
	Identifier
	whole string
}

type grouping struct {
	people people
	fold   folder
	agree  func(a, b string) bool

	persons   map[personID]*someone
	looks     map[look]int
	lookList  []look
	called    []*called // their names
	relations map[[2]int]relation
	oks       map[[2]personID]bool

	wholes map[int]string // by look
	names  map[int]bool   // looks that have a name that says anything

	known    map[Identifier]*bearing
	comps    map[Identifier]*linked
	partings map[[2]Identifier]bool
	words    map[Identifier][]linkWord
	crowd    map[lead]*linked

	start    *unit
	units    map[string]*unit
	unitsOf  map[personID][]*unit
	seen     map[string]bool   // studies
	listed   map[personID]bool // persons whose studies are in units
	queue    []lead
	followed map[lead]bool
	reached  map[*unit]bool      // by path
	aside    map[Identifier]bool // true where it is contested
	studies  int
	full     bool
}

func (g *grouping) group(uid string) (Patient, error) {
	of, mixed, place, err := g.people.statements(uid)
	if err != nil || len(of) == 0 {
		return Patient{}, err
	}
	if g.start, err = g.put(of, mixed, studyOf{uid: uid, place: place}); err != nil {
		return Patient{}, err
	}
	g.start.doubt, g.start.contest = false, false
	if err := g.follow(g.start); err != nil {
		return Patient{}, err
	}
	for len(g.queue) > 0 {
		l := g.queue[0]
		g.queue = g.queue[1:]
		if err := g.bring(l); err != nil {
			return Patient{}, err
		}
	}
	if err := g.bringAside(); err != nil {
		return Patient{}, err
	}
	if err := g.bringNamesakes(); err != nil {
		return Patient{}, err
	}
	p, err := g.answer(uid)
	p.Read = len(g.persons)
	return p, err
}

// someone reads a person.
func (g *grouping) someone(p personID) (*someone, error) {
	if s, ok := g.persons[p]; ok {
		return s, nil
	}
	read, err := g.people.person(p)
	if err != nil {
		return nil, err
	}
	s := &someone{person: read, ids: read.identifiers()}
	l := look{name: read.Name, date: cleanDate(read.BirthDate), sex: sexOf(read.Sex)}
	if !lived(l.date) {
		l.date = ""
	}
	n, ok := g.looks[l]
	if !ok {
		n = len(g.lookList)
		g.looks[l] = n
		g.lookList, g.called = append(g.lookList, l), append(g.called, g.fold.called(l.name))
	}
	s.look = n
	g.persons[p] = s
	return s, nil
}

// lived says of a date that somebody may have been born on it: what stands for "unknown" (00000000, 99999999, 11111111, the first day of
// a century, the day from which some system counts) proves nothing.
func lived(date string) bool {
	switch date {
	case "18581117", "18991230", "18991231", "19000101", "19001231", "19010101", "19111111", "20991231":
		return false
	}
	_, err := time.Parse("20060102", date)
	return err == nil && date >= "18500102" && date < "2100"
}

// put puts a study into the unit it belongs to.
func (g *grouping) put(of []personID, mixed bool, s studyOf) (*unit, error) {
	g.seen[s.uid] = true
	g.studies++
	slices.Sort(of)
	key := make([]byte, 0, 4*len(of)+1)
	var ids []Identifier
	for _, p := range of {
		s, err := g.someone(p)
		if err != nil {
			return nil, err
		}
		ids = append(ids, s.ids...)
		key = append(key, byte(p>>24), byte(p>>16), byte(p>>8), byte(p))
	}
	if mixed {
		key = append(key, 'm')
	}
	u := g.units[string(key)]
	if u == nil {
		slices.SortFunc(ids, Identifier.compare)
		u = &unit{persons: of, ids: slices.Compact(ids), mixed: mixed, doubt: true, contest: true}
		g.units[string(key)] = u
		for _, p := range of {
			g.unitsOf[p] = append(g.unitsOf[p], u)
		}
	}
	u.studies = append(u.studies, s)
	return u, nil
}

// list brings a person's studies. A unit is in doubt, or contested, when all ways to it are.
func (g *grouping) list(p personID, doubt, contest bool) error {
	if g.listed[p] {
		if !doubt { // there was a way that counted less
			for _, u := range g.unitsOf[p] {
				u.doubt, u.contest = false, false
			}
		}
		return nil
	}
	if len(g.listed) >= maxPersons {
		g.full = true
		return nil
	}
	g.listed[p] = true
	found, more, err := g.people.studies(p, max(MaxPatient-g.studies, 0)+1)
	if err != nil {
		return err
	}
	g.full = g.full || more
	for _, s := range found {
		if !g.seen[s.uid] {
			if g.studies >= MaxPatient {
				g.full = true
				break
			}
			of, mixed, place := []personID{p}, false, s.place
			if !s.alone {
				if of, mixed, place, err = g.people.statements(s.uid); err != nil {
					return err
				}
			}
			if _, err := g.put(of, mixed, studyOf{uid: s.uid, place: place}); err != nil {
				return err
			}
		}
	}
	for _, u := range g.unitsOf[p] {
		u.doubt, u.contest = u.doubt && doubt, u.contest && contest
	}
	return nil
}

// follow queues the identifiers of a unit that agrees with the start, and what links make one with them.
func (g *grouping) follow(u *unit) error {
	for _, id := range u.ids {
		comp, err := g.linked(id)
		if err != nil {
			return err
		}
		for _, id := range comp.ids {
			g.goOn(lead{Identifier: id})
		}
		for id, contested := range comp.aside {
			g.aside[id] = g.aside[id] || contested
		}
		whole, err := g.whole(u, id)
		if err != nil {
			return err
		}
		if whole != "" {
			g.goOn(lead{id, whole})
		}
	}
	return nil
}

func (g *grouping) goOn(l lead) {
	if g.followed[l] {
		return
	}
	if len(g.followed) >= maxIdentifiers {
		g.full = true
		return
	}
	g.followed[l] = true
	g.queue = append(g.queue, l)
}

// whole is what is said of a unit by all who say that it bears a crowded identifier; empty where that is too little, or not one and the
// same, or the identifier is not crowded.
func (g *grouping) whole(u *unit, id Identifier) (string, error) {
	b, err := g.bearing(id)
	if err != nil || !b.crowded {
		return "", err
	}
	said := ""
	for _, p := range u.persons {
		s, err := g.someone(p)
		if err != nil {
			return "", err
		}
		if !slices.Contains(s.ids, id) {
			continue
		}
		whole := g.wholeOf(s.look)
		if whole == "" || said != "" && said != whole {
			return "", nil
		}
		said = whole
	}
	return said, nil
}

// wholeOf is birth date, family and given name of a look, which together with a number are one person's: not those of a guessed date, an
// initial, or a child who has no name yet.
func (g *grouping) wholeOf(i int) string {
	whole, known := g.wholes[i]
	if known {
		return whole
	}
	l := g.lookList[i]
	if full := g.fold.fullName(l.name); full != "" && l.date != "" && !guessed(l.date) && g.named(i) {
		whole = l.date + full
	}
	g.wholes[i] = whole
	return whole
}

// bring looks at the persons under an identifier, and follows those that agree with the start.
func (g *grouping) bring(l lead) error {
	b, err := g.bearing(l.Identifier)
	if err != nil {
		return err
	}
	doubt := false
	want := func(personID) (bool, error) { return true, nil }
	switch {
	case l.whole != "":
		want = func(p personID) (bool, error) { return g.wholeOf(g.persons[p].look) == l.whole, nil }
	case b.nobody:
		want, doubt = g.likeStart, true
	}
	if err := g.listBearers(b, want, doubt, false); err != nil || doubt {
		return err
	}
	for _, u := range g.ordered() {
		if u == g.start || u.doubt {
			continue
		}
		ok, err := g.agreeing(g.start, u)
		if err != nil {
			return err
		}
		if ok {
			if err := g.follow(u); err != nil {
				return err
			}
		}
	}
	return nil
}

// listBearers brings the studies of the persons under an identifier that are wanted, the start's first.
func (g *grouping) listBearers(b *bearing, want func(personID) (bool, error), doubt, contest bool) error {
	for _, starts := range []bool{true, false} {
		for _, p := range b.persons {
			if slices.Contains(g.start.persons, p) != starts {
				continue
			}
			if ok, err := want(p); err != nil || !ok {
				if err != nil {
					return err
				}
				continue
			}
			if err := g.list(p, doubt, contest); err != nil {
				return err
			}
		}
	}
	return nil
}

// ordered lists the units found so far, the same way each time.
func (g *grouping) ordered() []*unit {
	out := make([]*unit, 0, len(g.units))
	for _, k := range slices.Sorted(maps.Keys(g.units)) {
		out = append(out, g.units[k])
	}
	return out
}

// likeStart says whether a person agrees with one of the start by name or birth date.
func (g *grouping) likeStart(p personID) (bool, error) {
	s, err := g.someone(p)
	if err != nil {
		return false, err
	}
	for _, q := range g.start.persons {
		if g.relation(g.persons[q].look, s.look) == agrees {
			return true, nil
		}
	}
	return false, nil
}

// bringAside looks at the persons under identifiers that a contested link, or one of too many, joins.
func (g *grouping) bringAside() error {
	n := 0
	for _, id := range slices.SortedFunc(maps.Keys(g.aside), Identifier.compare) {
		if g.followed[lead{Identifier: id}] {
			continue
		}
		if n++; n > maxIdentifiers {
			g.full = true
			break
		}
		b, err := g.bearing(id)
		if err != nil {
			return err
		}
		want := func(personID) (bool, error) { return true, nil }
		if b.nobody {
			want = g.likeStart
		}
		if err := g.listBearers(b, want, true, g.aside[id]); err != nil {
			return err
		}
	}
	return nil
}

// bringNamesakes looks at the persons that agree with one of the start in birth date and name both.
func (g *grouping) bringNamesakes() error {
	done := map[int]bool{}
	for _, of := range g.start.persons {
		me := g.persons[of]
		l := g.lookList[me.look]
		if done[me.look] || l.date == "" || l.name == "" {
			continue
		}
		done[me.look] = true
		found, more, err := g.people.namesakes(l.date, l.name, maxNamesakes)
		if err != nil {
			return err
		}
		g.full = g.full || more
		for _, p := range found {
			if g.listed[p] {
				continue
			}
			s, err := g.someone(p)
			if err != nil {
				return err
			}
			if o := g.lookList[s.look]; o.date == l.date && g.sameName(me.look, s.look) {
				if err := g.list(p, true, false); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (g *grouping) answer(uid string) (Patient, error) {
	all := g.ordered()
	agreeing := map[*unit]bool{}
	for _, u := range all {
		ok, err := g.agreeing(g.start, u)
		if err != nil {
			return Patient{}, err
		}
		agreeing[u] = ok && !u.doubt
	}
	var p Patient
	var certain, possible, contested []studyOf
	for _, u := range all {
		ok := false
		if agreeing[u] {
			var err error
			if ok, err = g.certain(u, all, agreeing); err != nil {
				return p, err
			}
		}
		apart := u.contest
		if !ok && !apart && u != g.start {
			var err error
			if apart, err = g.apart(g.start, u); err != nil {
				return p, err
			}
		}
		for _, s := range u.studies {
			switch {
			case ok || s.uid == uid:
				certain = append(certain, s)
			case apart:
				contested = append(contested, s)
				fallthrough
			default:
				possible = append(possible, s)
			}
		}
	}
	p.Certain, p.Possible, p.Contested = inPlace(certain), inPlace(possible), inPlace(contested)
	err := g.surviving(&p)
	p.Incomplete = g.full
	for l := range g.followed {
		if b := g.known[l.Identifier]; l.whole == "" && b != nil && b.crowded {
			p.Crowded = append(p.Crowded, l.Identifier)
		}
	}
	slices.SortFunc(p.Crowded, Identifier.compare)
	return p, err
}

// certain says whether a unit that agrees with the start is certainly one with it.
func (g *grouping) certain(u *unit, all []*unit, agreeing map[*unit]bool) (bool, error) {
	joined, err := g.joined(g.start, u)
	if err != nil {
		return false, err
	}
	if !joined { // through others
		if joined, err = g.path(u, all, agreeing); err != nil || !joined {
			return false, err
		}
	}
	// Whoever agrees with two people is surely neither's.
	for _, c := range all {
		if c.mixed || c.doubt || c == u || c == g.start {
			continue
		}
		for _, side := range [][2]*unit{{g.start, u}, {u, g.start}} {
			ok, err := g.agreeing(side[1], c)
			if err != nil {
				return false, err
			}
			if !ok {
				continue
			}
			other, err := g.others(side[0], c)
			if err != nil {
				return false, err
			}
			if !other {
				continue
			}
			a, err := g.joined(g.start, c)
			if err != nil {
				return false, err
			}
			b, err := g.joined(u, c)
			if a || b || err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// path says whether units that agree with the start and with u lead from the one to the other.
func (g *grouping) path(u *unit, all []*unit, agreeing map[*unit]bool) (bool, error) {
	var with, between []*unit
	for _, c := range all {
		if c != g.start && agreeing[c] {
			with = append(with, c)
			ok, err := g.agreeing(u, c)
			if err != nil {
				return false, err
			}
			if ok || c == u {
				between = append(between, c)
			}
		}
	}
	if g.reached == nil {
		var err error
		if g.reached, err = g.reach(with); err != nil {
			return false, err
		}
	}
	if !g.reached[u] || len(between) == len(with) {
		return g.reached[u], nil
	}
	reached, err := g.reach(between)
	return reached[u], err
}

// reach finds which of some units are joined to the start, at once or through others of them.
func (g *grouping) reach(units []*unit) (map[*unit]bool, error) {
	by := map[*linked][]*unit{}
	for _, u := range units {
		knots, err := g.knots(u)
		if err != nil {
			return nil, err
		}
		for _, k := range knots {
			by[k] = append(by[k], u)
		}
	}
	edge, err := g.knots(g.start)
	if err != nil {
		return nil, err
	}
	edge = slices.Clone(edge)
	reached := map[*unit]bool{}
	for len(edge) > 0 {
		k := edge[0]
		edge = edge[1:]
		for _, u := range by[k] {
			if !reached[u] {
				reached[u] = true
				edge = append(edge, u.knots...)
			}
		}
		delete(by, k)
	}
	return reached, nil
}

// knots lists what joins a unit with others: its identifiers that identify somebody, those that links make one being one; of a
// crowded one, those who bear it and agree wholly.
func (g *grouping) knots(u *unit) ([]*linked, error) {
	if u.tied {
		return u.knots, nil
	}
	for _, id := range u.ids {
		b, err := g.bearing(id)
		if err != nil {
			return nil, err
		}
		comp, err := g.linked(id)
		if err != nil {
			return nil, err
		}
		if b.crowded {
			whole, err := g.whole(u, id)
			if err != nil {
				return nil, err
			}
			if whole != "" {
				u.knots = append(u.knots, g.crowdOf(lead{id, whole}))
			}
		}
		if !b.nobody && !slices.Contains(u.knots, comp) {
			u.knots = append(u.knots, comp)
		}
	}
	u.tied = true
	return u.knots, nil
}

// crowdOf is the knot of those who bear a crowded identifier and of whom the same is said.
func (g *grouping) crowdOf(l lead) *linked {
	if g.crowd[l] == nil {
		g.crowd[l] = &linked{ids: []Identifier{l.Identifier}}
	}
	return g.crowd[l]
}

// joined says whether two units share an identifier that identifies somebody, or have two that links make one.
func (g *grouping) joined(a, b *unit) (bool, error) {
	one, err := g.knots(a)
	if err != nil {
		return false, err
	}
	two, err := g.knots(b)
	return slices.ContainsFunc(one, func(k *linked) bool { return slices.Contains(two, k) }), err
}

// agreeing says whether each person of a unit agrees with each of another. Where authors contradict each other about a study, it agrees
// with none.
func (g *grouping) agreeing(a, b *unit) (bool, error) {
	if a.mixed || b.mixed {
		return false, nil
	}
	for _, p := range a.persons {
		for _, q := range b.persons {
			if ok, err := g.ok(p, q); err != nil || !ok {
				return false, err
			}
		}
	}
	return true, nil
}

// others says whether two units have persons that are two people's as far as is said of them.
func (g *grouping) others(a, b *unit) (bool, error) {
	for _, p := range a.persons {
		for _, q := range b.persons {
			ok, err := g.ok(p, q)
			if err != nil {
				return false, err
			}
			if ok {
				continue
			}
			switch g.relation(g.persons[p].look, g.persons[q].look) {
			case another, slipped, strange:
				return true, nil
			}
			if apart, err := g.personsApart(p, q); err != nil || apart {
				return apart, err
			}
		}
	}
	return false, nil
}

// apart says whether somebody says of two units that they are two people's.
func (g *grouping) apart(a, b *unit) (bool, error) {
	for _, p := range a.persons {
		for _, q := range b.persons {
			if apart, err := g.personsApart(p, q); err != nil || apart {
				return apart, err
			}
		}
	}
	return false, nil
}

// ok says whether two persons may certainly be one.
func (g *grouping) ok(p, q personID) (bool, error) {
	if p > q {
		p, q = q, p
	}
	if ok, known := g.oks[[2]personID{p, q}]; known {
		return ok, nil
	}
	ok, err := g.decide(p, q)
	if err == nil {
		g.oks[[2]personID{p, q}] = ok
	}
	return ok, err
}

func (g *grouping) decide(p, q personID) (bool, error) {
	a, err := g.someone(p)
	if err != nil {
		return false, err
	}
	b, err := g.someone(q)
	if err != nil {
		return false, err
	}
	if apart, err := g.personsApart(p, q); err != nil || apart {
		return false, err
	}
	if g.relation(a.look, b.look) == agrees {
		return true, nil
	}
	x, y := g.lookList[a.look], g.lookList[b.look]
	if !mergeable(x.date, y.date) {
		return false, nil
	}
	// A person may get another name, and another sex with it: then the birth date is equal.
	if x.date != y.date && g.apartness(a.look, b.look) == twoPeople && sexesApart(x.sex, g.called[a.look], y.sex, g.called[b.look]) {
		return false, nil
	}
	for _, i := range a.ids {
		comp, err := g.linked(i)
		if err != nil {
			return false, err
		}
		if len(comp.ids) == 1 {
			continue
		}
		for _, j := range b.ids {
			if i == j {
				continue
			}
			if _, in := slices.BinarySearchFunc(comp.ids, j, Identifier.compare); !in {
				continue
			}
			if vouches, err := g.vouches(comp); err != nil || vouches {
				return vouches, err
			}
		}
	}
	return false, nil
}

// personsApart says whether somebody says of any two identifiers of two persons that they are two people's.
func (g *grouping) personsApart(p, q personID) (bool, error) {
	a, err := g.partedOf(p)
	if err != nil || len(a) == 0 {
		return false, err
	}
	b, err := g.partedOf(q)
	if err != nil {
		return false, err
	}
	for _, i := range a {
		for _, j := range b {
			if parted, err := g.parted(i, j); err != nil || parted {
				return parted, err
			}
		}
	}
	return false, nil
}

func (g *grouping) partedOf(p personID) ([]Identifier, error) {
	s, err := g.someone(p)
	if err != nil {
		return nil, err
	}
	if s.asked {
		return s.parted, nil
	}
	for _, id := range s.ids {
		any, err := g.anyParting(id)
		if err != nil {
			return nil, err
		}
		if any {
			s.parted = append(s.parted, id)
		}
	}
	s.asked = true
	return s.parted, nil
}

func (g *grouping) parted(i, j Identifier) (bool, error) {
	if i.compare(j) > 0 {
		i, j = j, i
	}
	key := [2]Identifier{i, j}
	if i == j {
		return false, nil
	}
	if parted, known := g.partings[key]; known {
		return parted, nil
	}
	parted, err := g.anyParting(i)
	if err == nil && parted {
		if parted, err = g.anyParting(j); err == nil && parted {
			parted, err = g.people.parted(i, j)
		}
	}
	if err == nil {
		g.partings[key] = parted
	}
	return parted, err
}

// anyParting says whether an identifier is said to be another person's than any other. What is known of it lies with itself.
func (g *grouping) anyParting(i Identifier) (bool, error) {
	key := [2]Identifier{i, i}
	if any, known := g.partings[key]; known {
		return any, nil
	}
	any, err := g.people.parts(i)
	if err == nil {
		g.partings[key] = any
	}
	return any, err
}

// bearing reads who bears an identifier.
func (g *grouping) bearing(id Identifier) (*bearing, error) {
	if b, ok := g.known[id]; ok {
		return b, nil
	}
	if len(g.known) >= maxLookedUnder || len(g.persons) >= maxRead {
		g.full = true
		return &bearing{nobody: true}, nil
	}
	found, more, err := g.people.bearers(id, maxBearers)
	if err != nil {
		return nil, err
	}
	b := &bearing{persons: found, nobody: more || id.Nobody()}
	dates, families, spellings := map[string]bool{}, map[string]bool{}, map[int]bool{}
	for _, p := range found {
		s, err := g.someone(p)
		if err != nil {
			return nil, err
		}
		l := g.lookList[s.look]
		if l.date != "" {
			dates[l.date] = true
		}
		if family, _ := g.fold.parts(l.name); family != "" {
			families[family] = true
		}
		spellings[s.look] = true
	}
	g.full = g.full || more
	b.crowded = !b.nobody && (len(dates) > maxPeople || len(families) > maxPeople || len(spellings) > maxSpellings)
	b.nobody = b.nobody || b.crowded
	b.looks = slices.Sorted(maps.Keys(spellings))
	g.known[id] = b
	return b, nil
}

// linked finds what links make one with an identifier.
func (g *grouping) linked(id Identifier) (*linked, error) {
	if l, ok := g.comps[id]; ok {
		return l, nil
	}
	comp := &linked{ids: []Identifier{id}, aside: map[Identifier]bool{}}
	for i := 0; i < len(comp.ids) && len(comp.ids) <= maxLinked; i++ {
		at := comp.ids[i]
		found, err := g.linksOf(at)
		if err != nil {
			return nil, err
		}
		for _, l := range found {
			if l.standing != joining {
				comp.aside[l.other] = comp.aside[l.other] || l.standing == contested
				continue
			}
			if l.link.Verdict == Merged {
				comp.merges = append(comp.merges, l.link)
			}
			if !slices.Contains(comp.ids, l.other) {
				comp.ids = append(comp.ids, l.other)
			}
		}
	}
	broken := len(comp.ids) > maxLinked
	g.full = g.full || broken
	for i, a := range comp.ids {
		for _, b := range comp.ids[:i] {
			parted, err := g.parted(a, b)
			if err != nil {
				return nil, err
			}
			if parted {
				broken = true
				for _, other := range comp.ids {
					comp.aside[other] = true
				}
			}
		}
	}
	if broken {
		// Nothing joins any more, from whichever of them one looks: the others are there to be seen.
		for _, other := range comp.ids {
			if _, ok := comp.aside[other]; !ok {
				comp.aside[other] = false
			}
		}
		comp.ids, comp.merges = []Identifier{id}, nil
	}
	slices.SortFunc(comp.ids, Identifier.compare)
	for _, of := range comp.ids {
		delete(comp.aside, of)
	}
	for _, of := range comp.ids { // what one is joined to, all are
		g.comps[of] = comp
	}
	return comp, nil
}

// standing is what a link counts for.
type standing byte

const (
	joining   standing = iota + 1
	weak               // it only makes a match possible
	contested          // and somebody says the contrary
)

// standingLink is a link of an identifier with another.
type standingLink struct {
	link     Link
	other    Identifier
	standing standing
}

// linksOf lists the links that join an identifier, and what each counts for. Only for a possible match do those count that somebody
// contests, those of an author in quarantine, those of an author who joins either end with more than maxLinks others, and those of an
// identifier that identifies nobody.
func (g *grouping) linksOf(id Identifier) ([]standingLink, error) {
	found, err := g.wordsOn(id)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	one, err := g.bearing(id)
	if err != nil {
		return nil, err
	}
	var out []standingLink
	for _, w := range found {
		l := standingLink{link: w.link, standing: joining}
		l.other, _ = w.link.other(id)
		counts, err := g.counts(w, found, one, l.other)
		if err != nil {
			return nil, err
		}
		parted, err := g.parted(id, l.other)
		if err != nil {
			return nil, err
		}
		switch {
		case parted:
			l.standing = contested
		case !counts:
			l.standing = weak
		}
		out = append(out, l)
	}
	return out, nil
}

// counts says of a link of an identifier, about which all of found is said, whether it may make anything certain. The cheap reasons
// against it come first.
func (g *grouping) counts(w linkWord, found []linkWord, one *bearing, other Identifier) (bool, error) {
	if w.quarantined || one.nobody || tooMany(found, w.author) {
		return false, nil
	}
	theirs, err := g.wordsOn(other)
	if err != nil || tooMany(theirs, w.author) {
		return false, err
	}
	two, err := g.bearing(other)
	return err == nil && !two.nobody, err
}

func (g *grouping) wordsOn(id Identifier) ([]linkWord, error) {
	if found, ok := g.words[id]; ok {
		return found, nil
	}
	found, more, err := g.people.joins(id, maxLinks+1, maxLinkAuthors)
	if err != nil {
		return nil, err
	}
	g.full = g.full || more
	g.words[id] = found
	return found, nil
}

func tooMany(words []linkWord, author NodeID) bool {
	n := 0
	for _, w := range words {
		if w.author == author {
			n++
		}
	}
	return n > maxLinks
}

// vouches says whether links stand for agreement: under each identifier there is one person.
func (g *grouping) vouches(comp *linked) (bool, error) {
	for _, id := range comp.ids {
		b, err := g.bearing(id)
		if err != nil || !g.onePerson(b) {
			return false, err
		}
	}
	return len(comp.ids) > 1, nil
}

// onePerson says whether no two persons under an identifier contradict each other.
func (g *grouping) onePerson(b *bearing) bool {
	if b.one == 0 {
		b.one = 1
		for i, p := range b.looks {
			for _, q := range b.looks[:i] {
				if rel := g.relation(p, q); rel == another || rel == unlike || rel == strange {
					b.one = -1
				}
			}
		}
	}
	return b.one > 0 && !b.nobody
}

// surviving finds what merges say to call the patient by: of what no merge gives up the first; where merges go round, the first.
func (g *grouping) surviving(p *Patient) error {
	for _, id := range g.start.ids {
		comp, err := g.linked(id)
		if err != nil {
			return err
		}
		if len(comp.merges) == 0 {
			continue
		}
		gone, into := map[Identifier]bool{}, map[Identifier]bool{}
		for _, l := range comp.merges {
			gone[l.One], into[l.Two] = true, true
		}
		for _, id := range comp.ids {
			if into[id] && !gone[id] {
				p.Surviving = id
				return nil
			}
		}
		p.Surviving = comp.ids[0]
		return nil
	}
	return nil
}

// relation is what two looks say of each other.
type relation byte

const (
	silent  relation = iota + 1 // too little is said
	agrees                      // one person's
	slipped                     // birth dates that differ as one date mistyped does
	unlike                      // they do not bear each other out: names that do not agree, and one has no birth date; or it is doubtful
	strange                     // one has no birth date, or they are equal, and names or sex are clearly two people's
	another                     // other birth dates
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
	apart := g.apartness(i, j)
	equal := a.date != "" && a.date == b.date
	switch {
	case a.date != "" && b.date != "" && !equal:
		if !slip(a.date, b.date) || apart == twoPeople || g.named(i) && g.named(j) && (apart == doubtful || !g.sameName(i, j)) {
			return another
		}
		return slipped
	case apart == twoPeople:
		return strange
	case apart == doubtful:
		return unlike
	case equal || g.sameName(i, j):
		return agrees
	case !g.named(i) || !g.named(j):
		return silent
	}
	return unlike
}

// apartness is how far names and sex tell two looks apart. A sex is mistyped, and corrected: who agrees wholly but for it may be one. A name
// that stands for an unknown person contradicts no other but of its own family name.
func (g *grouping) apartness(i, j int) apartness {
	a, b := g.lookList[i], g.lookList[j]
	x, y := g.called[i], g.called[j]
	apart := notApart
	if x.toldApart(y) {
		apart = twoPeople
	} else if g.speaks(i) && g.speaks(j) || x.sameFamily(y) {
		apart = nameApart(x, y)
	}
	if apart < twoPeople && sexesApart(a.sex, x, b.sex, y) {
		apart = twoPeople
		if whole := g.wholeOf(i); whole != "" && whole == g.wholeOf(j) {
			apart = doubtful
		}
	}
	return apart
}

// speaks says whether a look has a name that may contradict another: also one without a family name, or with characters that were lost.
func (g *grouping) speaks(i int) bool {
	return g.named(i) || g.called[i].illegible || !g.called[i].familiar
}

// sameName says whether two names agree, in both directions.
func (g *grouping) sameName(i, j int) bool {
	a, b := g.lookList[i].name, g.lookList[j].name
	return a != "" && b != "" && g.agree(a, b) && g.agree(b, a) && !g.called[i].toldApart(g.called[j])
}

// named says whether a look has a name that says anything: one that stands for an unknown person does not agree with itself.
func (g *grouping) named(i int) bool {
	named, known := g.names[i]
	if !known {
		named = g.sameName(i, i)
		g.names[i] = named
	}
	return named
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
	return a == "" || b == "" || a == b || slip(a, b) || (guessed(a) || guessed(b)) && yearsApart(a, b) <= maxGuess
}

// maxGuess is by how many years a guessed age may be wrong.
const maxGuess = 10

func yearsApart(a, b string) int {
	x, _ := strconv.Atoi(a[:4]) // dates are of eight digits here
	y, _ := strconv.Atoi(b[:4])
	return max(x-y, y-x)
}

// guessed says of a birth date that it may be one that is put for an age that was guessed.
func guessed(date string) bool { return strings.HasSuffix(date, "0101") }

func inPlace(found []studyOf) []string {
	slices.SortFunc(found, func(a, b studyOf) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.uid, b.uid))
	})
	out := make([]string, 0, len(found))
	for _, s := range found {
		out = append(out, s.uid)
	}
	return out
}
