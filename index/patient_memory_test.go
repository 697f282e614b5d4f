package index

import (
	"cmp"
	"maps"
	"slices"
)

// memoryPeople is what is said of people, without a database: the facts as they hold, and the persons that they name.
type memoryPeople struct {
	said    map[string]map[TrustID]memoryStudy
	links   map[string]map[TrustID]Link
	persons map[string]personID // by CBOR
	list    []memoryPerson      // in the order in which they were first named
	bears   map[Identifier][]personID
}

type memoryStudy struct {
	Study
	of personID
}

type memoryPerson struct {
	person
	text  string         // its CBOR
	named map[string]int // by study: how many statements name it
}

func newMemoryPeople() *memoryPeople {
	return &memoryPeople{said: map[string]map[TrustID]memoryStudy{}, links: map[string]map[TrustID]Link{}, persons: map[string]personID{}, bears: map[Identifier][]personID{}}
}

func (m *memoryPeople) study(by TrustID, s Study) {
	m.unsay(by, s.UID)
	if m.said[s.UID] == nil {
		m.said[s.UID] = map[TrustID]memoryStudy{}
	}
	p := m.number(s)
	m.said[s.UID][by] = memoryStudy{s, p}
	m.at(p).named[s.UID]++
}

// unsay takes back what a trust says of a study.
func (m *memoryPeople) unsay(by TrustID, uid string) {
	s, ok := m.said[uid][by]
	if !ok {
		return
	}
	delete(m.said[uid], by)
	named := m.at(s.of).named
	if named[uid]--; named[uid] == 0 {
		delete(named, uid)
	}
}

func (m *memoryPeople) link(by TrustID, l Link) {
	subject := LinkSubject(l.One, l.Two)
	if m.links[subject] == nil {
		m.links[subject] = map[TrustID]Link{}
	}
	m.links[subject][by] = l
}

func (m *memoryPeople) retract(by TrustID, kind Kind, subject string) {
	if kind == KindStudy {
		m.unsay(by, subject)
	} else {
		delete(m.links[subject], by)
	}
}

func (m *memoryPeople) number(s Study) personID {
	p := s.person()
	text := string(encode(p))
	id, ok := m.persons[text]
	if !ok {
		id = personID(1000 - len(m.list)) // another numbering than the index has
		m.persons[text] = id
		m.list = append(m.list, memoryPerson{p, text, map[string]int{}})
		for _, i := range p.identifiers() {
			if b := m.bears[i]; len(b) == 0 || b[len(b)-1] != id {
				m.bears[i] = append(b, id)
			}
		}
	}
	return id
}

func (m *memoryPeople) at(p personID) memoryPerson { return m.list[1000-p] }

func (m *memoryPeople) person(p personID) (person, error) { return m.at(p).person, nil }

func (m *memoryPeople) statements(uid string) (of []personID, mixed bool, place string, err error) {
	for _, s := range m.said[uid] {
		of = append(of, s.of)
		mixed = mixed || s.Mixed
		if w := s.when(); place == "" || string(w[:]) < place {
			place = string(w[:])
		}
	}
	slices.Sort(of)
	return slices.Compact(of), mixed, place, nil
}

func (m *memoryPeople) studies(p personID, limit int) (list []studyOf, more bool, err error) {
	for _, uid := range slices.Sorted(maps.Keys(m.at(p).named)) {
		of, mixed, place, _ := m.statements(uid)
		list = append(list, studyOf{uid: uid, place: place, alone: len(of) == 1 && !mixed})
	}
	slices.SortStableFunc(list, func(a, b studyOf) int { return cmp.Compare(a.place, b.place) })
	return list[:min(len(list), limit)], len(list) > limit, nil
}

// some lists those of whom something is said, in the order of their CBOR.
func (m *memoryPeople) some(of []personID, limit int) ([]personID, bool, error) {
	var list []personID
	for _, p := range of {
		if len(m.at(p).named) > 0 {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b personID) int { return cmp.Compare(m.at(a).text, m.at(b).text) })
	return list[:min(len(list), limit)], len(list) > limit, nil
}

func (m *memoryPeople) bearers(id Identifier, limit int) ([]personID, bool, error) {
	return m.some(m.bears[id], limit)
}

// namesakes lists all who were born on a day: whoever asks looks at the names.
func (m *memoryPeople) namesakes(date, _ string, limit int) ([]personID, bool, error) {
	var list []personID
	for i, p := range m.list {
		if cleanDate(p.BirthDate) == date {
			list = append(list, personID(1000-i))
		}
	}
	return m.some(list, limit)
}

func (m *memoryPeople) words(id Identifier) (list []linkWord) {
	for _, words := range m.links {
		for by, l := range words {
			if _, ok := l.other(id); ok {
				list = append(list, linkWord{author: nodeOf(by), link: l})
			}
		}
	}
	return list
}

func (m *memoryPeople) joins(id Identifier, _, _ int) ([]linkWord, bool, error) {
	return slices.DeleteFunc(m.words(id), func(w linkWord) bool { return !w.link.joins() }), false, nil
}

func (m *memoryPeople) parts(id Identifier) (bool, error) {
	return slices.ContainsFunc(m.words(id), func(w linkWord) bool { return w.link.Verdict == Different }), nil
}

func (m *memoryPeople) parted(a, b Identifier) (bool, error) {
	return slices.ContainsFunc(m.words(a), func(w linkWord) bool {
		o, _ := w.link.other(a)
		return o == b && w.link.Verdict == Different
	}), nil
}
