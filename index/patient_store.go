package index

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// peopleRows is what is said of people, read from the tables of studies within one transaction. Persons are numbered as they are met.
type peopleRows struct {
	x       *Index
	txn     *badger.Txn
	ids     map[string]personID
	persons []person
	said    map[string]saidOf
	lists   map[string]*listing
}

// saidOf is what is said of a study.
type saidOf struct {
	of    []personID // one for each statement
	mixed bool
	place string
}

func (x *Index) peopleIn(txn *badger.Txn) people {
	return &peopleRows{x: x, txn: txn, ids: map[string]personID{}, said: map[string]saidOf{}, lists: map[string]*listing{}}
}

// maxRows is how many studies under one key are read.
const maxRows = 2 * MaxPatient

func personOf(s Study) person {
	return person{Patient: s.Patient, NHS: s.NHS, Name: s.Name, BirthDate: s.BirthDate, Sex: s.Sex}
}

func (p person) key() string {
	return fmt.Sprintf("%q %q %q %q %q", p.Patient, p.NHS, p.Name, p.BirthDate, p.Sex)
}

func (r *peopleRows) number(p person) personID {
	k := p.key()
	id, ok := r.ids[k]
	if !ok {
		id = personID(len(r.persons))
		r.ids[k] = id
		r.persons = append(r.persons, p)
	}
	return id
}

func (r *peopleRows) read(uid string) (saidOf, error) {
	if s, ok := r.said[uid]; ok {
		return s, nil
	}
	all, err := studyStatements(r.txn, uid)
	if err != nil {
		return saidOf{}, err
	}
	var s saidOf
	for _, st := range all {
		s.of = append(s.of, r.number(personOf(st.study)))
		s.mixed = s.mixed || st.study.Mixed
		if p := st.place(); s.place == "" || p < s.place {
			s.place = p
		}
	}
	r.said[uid] = s
	return s, nil
}

func (r *peopleRows) statements(uid string) ([]personID, bool, string, error) {
	s, err := r.read(uid)
	of := slices.Clone(s.of)
	slices.Sort(of)
	return slices.Compact(of), s.mixed, s.place, err
}

func (r *peopleRows) person(p personID) (person, error) { return r.persons[p], nil }

func identifierKey(id Identifier) []byte {
	if id.NHS != "" {
		return tableKey(tabNHS, id.NHS)
	}
	return tableKey(tabPatient, id.ID, id.Issuer)
}

// listing is the persons under a key and their studies there, newest first.
type listing struct {
	persons []personID // in the order of what is said of them
	studies map[personID][]studyOf
	more    bool // there are more persons
	cut     bool // there are more studies
}

// list reads the studies under a key, until there are more than a number of persons that want wants. Keys are cut, names are not.
func (r *peopleRows) list(name string, key []byte, limit int, want func(person) bool) (*listing, error) {
	if l, ok := r.lists[name]; ok {
		return l, nil
	}
	l := &listing{studies: map[personID][]studyOf{}}
	n := 0
	seen := map[string]bool{}
	err := prefixSpan(key).keys(r.txn, func(c candidate) (bool, error) {
		if n++; n > maxRows {
			l.cut = true
			return false, nil
		}
		if seen[c.uid] {
			return true, nil
		}
		seen[c.uid] = true
		s, err := r.read(c.uid)
		if err != nil {
			return false, err
		}
		of := slices.Compact(slices.Sorted(slices.Values(s.of)))
		for _, p := range of {
			if !want(r.persons[p]) {
				continue
			}
			if _, known := l.studies[p]; !known {
				if len(l.persons) == limit {
					l.more, l.cut = true, true
					return false, nil
				}
				l.persons = append(l.persons, p)
			}
			l.studies[p] = append(l.studies[p], studyOf{uid: c.uid, place: s.place, alone: len(of) == 1 && !s.mixed})
		}
		return true, nil
	})
	slices.SortFunc(l.persons, func(a, b personID) int { return cmp.Compare(r.persons[a].key(), r.persons[b].key()) })
	if err == nil {
		r.lists[name] = l
	}
	return l, err
}

func (r *peopleRows) bearers(id Identifier, limit int) ([]personID, bool, error) {
	l, err := r.list(id.text(), identifierKey(id), limit, func(p person) bool { return slices.Contains(p.identifiers(), id) })
	if err != nil {
		return nil, false, err
	}
	return l.persons, l.more, nil
}

func (r *peopleRows) namesakes(date, _ string, limit int) ([]personID, bool, error) {
	l, err := r.list(date, tableKey(tabBirth, date), limit, func(p person) bool { return cleanDate(p.BirthDate) == date })
	if err != nil {
		return nil, false, err
	}
	return l.persons, l.more || l.cut, nil
}

// studies looks in the listings there are: it is by one of them that the person was met.
func (r *peopleRows) studies(p personID, limit int) (list []studyOf, more bool, err error) {
	of := r.persons[p]
	names := []string{cleanDate(of.BirthDate)}
	for _, id := range of.identifiers() {
		names = append(names, id.text())
	}
	for _, name := range names {
		l, ok := r.lists[name]
		if !ok || len(l.studies[p]) == 0 {
			continue
		}
		list = l.studies[p]
		return list[:min(len(list), limit)], l.cut || len(list) > limit, nil
	}
	return nil, false, nil
}

// joins reads the rows of an author until there are enough of them, and goes on with the next author.
func (r *peopleRows) joins(id Identifier, each, authors int) (list []linkWord, more bool, err error) {
	h := id.hash()
	prefix := append([]byte{tabJoin}, h[:]...)
	var last NodeID
	seen, of := 0, 0
	opt := badger.DefaultIteratorOptions
	opt.Prefix, opt.PrefetchValues = prefix, false
	it := r.txn.NewIterator(opt)
	defer it.Close()
	for it.Seek(prefix); it.ValidForPrefix(prefix); {
		if Purged(it.Item()) {
			it.Next()
			continue
		}
		k := it.Item().KeyCopy(nil)
		if len(k) != 1+32+32+32 {
			return nil, false, errDamaged("the key of a link")
		}
		author := NodeID(k[33:65])
		if author != last || seen == 0 {
			if seen++; seen > authors {
				return list, true, nil
			}
			last, of = author, 0
		}
		if of++; of > each {
			it.Seek(append(bytes.Clone(k[:65]), bytes.Repeat([]byte{0xff}, 33)...))
			continue
		}
		w, err := r.word(author, fmt.Sprintf("%x", k[65:]))
		if err != nil {
			return nil, false, err
		}
		if _, ok := w.link.other(id); ok {
			list = append(list, w)
		}
		it.Next()
	}
	return list, false, nil
}

func (r *peopleRows) word(author NodeID, subject string) (linkWord, error) {
	v, ok, err := get(r.txn, factKey(KindLink, subject, author))
	if err != nil {
		return linkWord{}, err
	}
	rec, err := readRecord(v)
	if !ok || err != nil {
		return linkWord{}, errDamaged("a link")
	}
	l, err := decodeLink(subject, rec.body)
	if err != nil {
		return linkWord{}, errDamaged("a link")
	}
	return linkWord{author: author, link: l, quarantined: r.x.state(logID{author, rec.epoch}).fork != nil}, nil
}

func (r *peopleRows) parts(id Identifier) (any bool, err error) {
	h := id.hash()
	prefix := append([]byte{tabPart}, h[:]...)
	err = scan(r.txn, prefix, prefix, false, func([]byte, func() ([]byte, error)) (bool, error) {
		any = true
		return false, nil
	})
	return any, err
}

func (r *peopleRows) parted(a, b Identifier) (bool, error) {
	said, err := r.x.linksOf(r.txn, a, b)
	return slices.ContainsFunc(said, func(l Authored[Link]) bool { return l.Value.Verdict == Different }), err
}
