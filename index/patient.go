package index

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Patient is the studies of one patient, newest first.
type Patient struct {
	Certain    []string // studies of the patient, the one asked about included
	Possible   []string // studies that may be the patient's: a person decides
	Incomplete bool     // there were more candidates than MaxPatient: some were not looked at
}

// Limits on the search for one patient's studies.
const (
	MaxPatient     = 4096 // studies looked at
	maxIdentifiers = 64   // identifiers followed
)

// Patient returns the studies of the patient of a study. See docs/decisions/0006 for why.
//
// Identifiers are followed outward from the study: those it carries, those of the studies found certain by them, and so on. A study
// that carries one of them is certain when all that is said of it agrees with all that is said of the study asked about, never
// only with a study in between; else it is possible. Two statements agree when both birth dates are there and equal, or the names
// agree; but equal birth dates do not outweigh names of one family with unlike given names: those are twins.
// A study that carries none of the identifiers is possible when birth date and names both agree. A study that any author says is Mixed
// agrees with none.
//
// An unknown study has no patient: both lists are empty.
func (x *Index) Patient(uid string) (Patient, error) {
	if err := checkUID(uid); err != nil {
		return Patient{}, err
	}
	var p Patient
	err := x.View(func(txn *badger.Txn) error {
		g := grouping{x: x, txn: txn, runs: x.reading(txn), seen: map[string]bool{}, queued: map[identifier]bool{}}
		var err error
		p, err = g.group(uid)
		return err
	})
	return p, err
}

// identifier is a qualified number: a patient ID with its issuer, or an NHS number (issuer "").
type identifier struct{ id, issuer string }

type grouping struct {
	x      *Index
	txn    *badger.Txn
	runs   *runCache
	start  []statement
	seen   map[string]bool // studies decided
	queued map[identifier]bool
	queue  []identifier
	full   bool
}

func (g *grouping) group(uid string) (Patient, error) {
	var err error
	if g.start, err = g.runs.studyStatements(uid); err != nil || len(g.start) == 0 {
		return Patient{}, err
	}
	g.seen[uid] = true
	certain := []candidate{g.place(uid, g.start)}
	var possible []candidate
	g.follow(g.start)
	for len(g.queue) > 0 {
		id := g.queue[0]
		g.queue = g.queue[1:]
		found, err := g.bearers(id)
		if err != nil {
			return Patient{}, err
		}
		for _, c := range found {
			all, ok, err := g.read(c.uid)
			if err != nil {
				return Patient{}, err
			}
			if !ok {
				continue
			}
			if g.agreesWithStart(all) {
				certain = append(certain, g.place(c.uid, all))
				g.follow(all)
			} else {
				possible = append(possible, g.place(c.uid, all))
			}
		}
	}
	more, err := g.namesakes()
	if err != nil {
		return Patient{}, err
	}
	return Patient{Certain: inPlace(certain), Possible: inPlace(append(possible, more...)), Incomplete: g.full}, nil
}

// read reads a study not looked at before.
func (g *grouping) read(uid string) (all []statement, ok bool, err error) {
	if g.seen[uid] {
		return nil, false, nil
	}
	if len(g.seen) >= MaxPatient {
		g.full = true
		return nil, false, nil
	}
	g.seen[uid] = true
	all, err = g.runs.studyStatements(uid)
	return all, err == nil && len(all) > 0, err
}

// follow queues the identifiers of a certain study.
func (g *grouping) follow(all []statement) {
	add := func(id identifier) {
		if g.queued[id] {
			return
		}
		if len(g.queued) >= maxIdentifiers {
			g.full = true
			return
		}
		g.queued[id] = true
		g.queue = append(g.queue, id)
	}
	for _, st := range all {
		for _, p := range st.study.Patient {
			add(identifier{p.ID, p.Issuer})
		}
		if validNHS(st.study.NHS) {
			add(identifier{st.study.NHS, ""})
		}
	}
}

// bearers lists the studies that carry an identifier. The rows hold texts cut to maxKeyText, so the records are compared.
func (g *grouping) bearers(id identifier) ([]candidate, error) {
	prefix := tableKey(tabPatient, id.id, id.issuer)
	if id.issuer == "" {
		prefix = tableKey(tabNHS, id.id)
	}
	found, err := g.rows(prefix)
	if err != nil || len(id.id) < maxKeyText && len(id.issuer) < maxKeyText {
		return found, err
	}
	var out []candidate
	for _, c := range found {
		all, err := g.runs.studyStatements(c.uid)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(all, func(st statement) bool {
			return slices.Contains(st.study.Patient, PatientID{ID: id.id, Issuer: id.issuer})
		}) {
			out = append(out, c)
		}
	}
	return out, nil
}

func (g *grouping) rows(prefix []byte) ([]candidate, error) {
	sr := (&matcher{x: g.x}).search(g.txn)
	persons, all, err := sr.collectPersons([]span{prefixSpan(prefix)}, MaxPatient)
	if err != nil || !all {
		g.full = true
		return nil, err
	}
	places, all, err := sr.ofPersons(persons, MaxPatient)
	if err != nil || !all {
		g.full = true
		return nil, err
	}
	var found []candidate
	for _, p := range places {
		sts, err := g.runs.statements(p.study)
		if err != nil {
			return nil, err
		}
		for _, st := range sts {
			if st.no == p.author {
				found = append(found, candidate{p.when, st.study.UID})
			}
		}
	}
	return found, nil
}

type candidate struct {
	place when
	uid   string
}

// namesakes lists the studies not decided yet that agree with the start in birth date and name both.
func (g *grouping) namesakes() ([]candidate, error) {
	var out []candidate
	var dates []string
	for _, st := range g.start {
		if d := cleanDate(st.study.BirthDate); d != "" && !slices.Contains(dates, d) {
			dates = append(dates, d)
		}
	}
	for _, d := range dates {
		found, err := g.rows(tableKey(tabBirth, d))
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			all, ok, err := g.read(c.uid)
			if err != nil {
				return nil, err
			}
			if ok && slices.ContainsFunc(all, func(b statement) bool {
				return slices.ContainsFunc(g.start, func(a statement) bool {
					return sameBirth(a.study, b.study) && g.names(a.study, b.study)
				})
			}) {
				out = append(out, g.place(c.uid, all))
			}
		}
	}
	return out, nil
}

// agreesWithStart says whether every statement of a study agrees with every statement of the start. Where authors contradict
// each other about a study, nothing is certain.
func (g *grouping) agreesWithStart(all []statement) bool {
	for _, b := range all {
		for _, a := range g.start {
			if !g.agree(a.study, b.study) {
				return false
			}
		}
	}
	return true
}

func (g *grouping) agree(a, b Study) bool {
	if a.Mixed || b.Mixed {
		return false
	}
	if g.names(a, b) {
		return true
	}
	return sameBirth(a, b) && !g.twins(a, b)
}

func (g *grouping) names(a, b Study) bool {
	return a.Name != "" && b.Name != "" && g.x.opt.NamesAgree(a.Name, b.Name)
}

// sameBirth wants a day that there was: what stands for "unknown" (00000000,
// 99999999, the first day of the century) is nobody's birthday and proves nothing.
func sameBirth(a, b Study) bool {
	d := cleanDate(a.BirthDate)
	if d == "" || d != cleanDate(b.BirthDate) {
		return false
	}
	_, err := time.Parse("20060102", d)
	return err == nil && d >= "1850" && d != "19000101" && d != "19010101"
}

// twins says of two with one birth date that they look like twins: one family name, and given names of which neither begins
// the other. A name changed by marriage keeps the given name, and is no twin's.
func (g *grouping) twins(a, b Study) bool {
	familyA, givenA := g.x.fold.parts(a.Name)
	familyB, givenB := g.x.fold.parts(b.Name)
	return familyA != "" && familyA == familyB && givenA != "" && givenB != "" &&
		!strings.HasPrefix(givenA, givenB) && !strings.HasPrefix(givenB, givenA)
}

// parts returns the folded family and given name of a name's first group.
func (fold folder) parts(name string) (family, given string) {
	comps := strings.Split(fold.canonical(name)[0], "^")
	if len(comps) > 1 {
		given = comps[1]
	}
	return comps[0], given
}

func (g *grouping) place(uid string, all []statement) candidate {
	c := candidate{uid: uid}
	for i, st := range all {
		if p := st.study.when(); i == 0 || bytes.Compare(p[:], c.place[:]) < 0 {
			c.place = p
		}
	}
	return c
}

func inPlace(found []candidate) []string {
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(bytes.Compare(a.place[:], b.place[:]), cmp.Compare(a.uid, b.uid))
	})
	out := make([]string, 0, len(found))
	for _, c := range found {
		out = append(out, c.uid)
	}
	return out
}
