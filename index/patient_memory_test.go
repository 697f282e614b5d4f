package index

import (
	"cmp"
	"maps"
	"slices"
)

// memoryPeople is what is said of people, without a database: the facts as they hold, and every list read off them anew.
type memoryPeople struct {
	said    map[string]map[TrustID]Study
	links   map[string]map[TrustID]Link
	persons map[string]personID
	list    []person
}

func newMemoryPeople() *memoryPeople {
	return &memoryPeople{said: map[string]map[TrustID]Study{}, links: map[string]map[TrustID]Link{}, persons: map[string]personID{}}
}

func (m *memoryPeople) study(by TrustID, s Study) {
	if m.said[s.UID] == nil {
		m.said[s.UID] = map[TrustID]Study{}
	}
	m.said[s.UID][by] = s
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
		delete(m.said[subject], by)
	} else {
		delete(m.links[subject], by)
	}
}

func (m *memoryPeople) number(s Study) personID {
	p := s.person()
	id, ok := m.persons[string(encode(p))]
	if !ok {
		id = personID(1000 - len(m.list)) // another numbering than the index has
		m.persons[string(encode(p))] = id
		m.list = append(m.list, p)
	}
	return id
}

func (m *memoryPeople) person(p personID) (person, error) { return m.list[1000-p], nil }

func (m *memoryPeople) statements(uid string) (of []personID, mixed bool, place string, err error) {
	for _, s := range m.said[uid] {
		of = append(of, m.number(s))
		mixed = mixed || s.Mixed
		if w := s.when(); place == "" || string(w[:]) < place {
			place = string(w[:])
		}
	}
	slices.Sort(of)
	return slices.Compact(of), mixed, place, nil
}

func (m *memoryPeople) studies(p personID, limit int) (list []studyOf, more bool, err error) {
	for _, uid := range slices.Sorted(maps.Keys(m.said)) {
		of, mixed, place, _ := m.statements(uid)
		if slices.Contains(of, p) {
			list = append(list, studyOf{uid: uid, place: place, alone: len(of) == 1 && !mixed})
		}
	}
	slices.SortStableFunc(list, func(a, b studyOf) int { return cmp.Compare(a.place, b.place) })
	return list[:min(len(list), limit)], len(list) > limit, nil
}

func (m *memoryPeople) where(limit int, want func(person) bool) (list []personID, more bool, err error) {
	for _, uid := range slices.Sorted(maps.Keys(m.said)) {
		of, _, _, _ := m.statements(uid)
		for _, p := range of {
			if who, _ := m.person(p); want(who) && !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list[:min(len(list), limit)], len(list) > limit, nil
}

func (m *memoryPeople) bearers(id Identifier, limit int) ([]personID, bool, error) {
	return m.where(limit, func(p person) bool { return slices.Contains(p.identifiers(), id) })
}

func (m *memoryPeople) namesakes(date, name string, limit int) ([]personID, bool, error) {
	return m.where(limit, func(p person) bool { return cleanDate(p.BirthDate) == date && testNamesAgree(p.Name, name) })
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
