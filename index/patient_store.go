package index

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// peopleRows is what is said of people, read within one transaction. Persons are numbered as they are met.
type peopleRows struct {
	ctx    context.Context
	runs   *runCache
	ids    map[personKey]personID
	keys   []personKey
	read   map[personID]person
	places map[studyKey][]statement

	rows, unwanted int // maxKeyRows and maxUnwanted, but in tests
}

func (x *Index) peopleIn(ctx context.Context, txn *badger.Txn) people {
	return &peopleRows{ctx: ctx, runs: x.reading(txn), ids: map[personKey]personID{}, read: map[personID]person{}, places: map[studyKey][]statement{}, rows: maxKeyRows, unwanted: maxUnwanted}
}

func (r *peopleRows) number(k personKey) personID {
	id, ok := r.ids[k]
	if !ok {
		id = personID(len(r.keys))
		r.ids[k] = id
		r.keys = append(r.keys, k)
	}
	return id
}

// said reads what is said of the studies under a key.
func (r *peopleRows) said(k studyKey) ([]statement, error) {
	if all, ok := r.places[k]; ok {
		return all, nil
	}
	all, err := r.runs.statements(k)
	if err == nil {
		r.places[k] = all
	}
	return all, err
}

// summary is what statements of one study come to: whom they are of, and where the study stands.
func (r *peopleRows) summary(all []statement, uid string) (of []personID, mixed bool, place string) {
	first := true
	for _, st := range all {
		if st.study.UID != uid {
			continue
		}
		of = append(of, r.number(r.runs.x.personKey(st.study.person())))
		mixed = mixed || st.study.Mixed
		if w := st.study.when(); first || string(w[:]) < place {
			place, first = string(w[:]), false
		}
	}
	slices.Sort(of)
	return slices.Compact(of), mixed, place
}

func (r *peopleRows) statements(uid string) ([]personID, bool, string, error) {
	all, err := r.said(r.runs.x.studyKey(uid))
	if err != nil {
		return nil, false, "", err
	}
	of, mixed, place := r.summary(all, uid)
	return of, mixed, place, nil
}

func (r *peopleRows) person(id personID) (p person, err error) {
	if p, ok := r.read[id]; ok {
		return p, nil
	}
	if p, err = r.runs.person(r.keys[id]); err == nil {
		r.read[id] = p
	}
	return p, err
}

func identifierKey(id Identifier) []byte {
	if id.NHS != "" {
		return tableKey(tabNHS, id.NHS)
	}
	return tableKey(tabPatient, id.ID, id.Issuer)
}

// Limits on what is looked at to list persons.
const (
	maxKeyRows  = 1 << 18 // rows under a key
	maxUnwanted = 4096    // persons who are read and not wanted: anybody may say a longer text that begins as a cut key does
)

// list lists the persons under a key that are wanted: keys are cut, what is said is not. Only of those that may be wanted it is read. They are
// in the order of what is said of them. more says that there are others, or may be.
func (r *peopleRows) list(key []byte, limit int, may func(nameHead) bool, want func(person) bool) (out []personID, more bool, err error) {
	n, unwanted := 0, 0
	err = scan(r.runs.txn, key, key, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
		if len(k) != len(key)+len(personKey{}) {
			return false, errDamaged("a query table")
		}
		if n++; n%stride == 0 && r.ctx.Err() != nil {
			return false, r.ctx.Err()
		}
		if more = n > r.rows || unwanted > r.unwanted; more {
			return false, nil
		}
		if !may(nameHead(k[len(key):])) {
			return true, nil
		}
		id := r.number(personKey(k[len(key):]))
		p, err := r.person(id)
		if err != nil {
			return false, err
		}
		if !want(p) {
			unwanted++
			return true, nil
		}
		if len(out) == limit {
			more = true
			return false, nil
		}
		out = append(out, id)
		return true, nil
	})
	if err != nil {
		return nil, false, err
	}
	texts := make(map[personID][]byte, len(out))
	for _, id := range out {
		texts[id] = encode(r.read[id])
	}
	slices.SortFunc(out, func(a, b personID) int { return bytes.Compare(texts[a], texts[b]) })
	return out, more, nil
}

func (r *peopleRows) bearers(id Identifier, limit int) ([]personID, bool, error) {
	return r.list(identifierKey(id), limit, func(nameHead) bool { return true }, func(p person) bool { return slices.Contains(p.identifiers(), id) })
}

// Names that agree have a family name in common (Options.NamesAgree).
func (r *peopleRows) namesakes(date, name string, limit int) ([]personID, bool, error) {
	families := r.runs.x.fold.families(name)
	may := func(h nameHead) bool { return slices.ContainsFunc(families, h.mayBeOf) }
	return r.list(tableKey(tabBirth, date), limit, may, func(p person) bool { return cleanDate(p.BirthDate) == date })
}

func (r *peopleRows) studies(id personID, limit int) (list []studyOf, more bool, err error) {
	if err := r.ctx.Err(); err != nil {
		return nil, false, err
	}
	k := r.keys[id]
	prefix := append([]byte{tabOf}, k[:]...)
	seen := map[string]bool{}
	err = scan(r.runs.txn, prefix, prefix, false, func(key []byte, _ func() ([]byte, error)) (bool, error) {
		if len(key) != len(prefix)+placedSize {
			return false, errDamaged("a query table")
		}
		at := readPlaced(key)
		all, err := r.said(at.study)
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(all, func(st statement) bool { return st.no == at.author })
		if i < 0 {
			return false, errDamaged("a study")
		}
		uid := all[i].study.UID
		if seen[uid] {
			return true, nil
		}
		seen[uid] = true
		if len(list) == limit {
			more = true
			return false, nil
		}
		of, mixed, place := r.summary(all, uid)
		list = append(list, studyOf{uid: uid, place: place, alone: len(of) == 1 && !mixed})
		return true, nil
	})
	slices.SortStableFunc(list, func(a, b studyOf) int { return cmp.Compare(a.place, b.place) })
	return list, more, err
}

// joins reads the rows of an author until there are enough of them, and goes on with the next author.
func (r *peopleRows) joins(id Identifier, each, authors int) (list []linkWord, more bool, err error) {
	h := id.hash()
	prefix := append([]byte{tabJoin}, h[:]...)
	var last authorNo
	seen, of := 0, 0
	it := r.runs.txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
	defer it.Close()
	for it.Seek(prefix); it.ValidForPrefix(prefix); {
		if Purged(it.Item()) {
			it.Next()
			continue
		}
		k := it.Item().KeyCopy(nil)
		if len(k) != len(prefix)+2+32 {
			return nil, false, errDamaged("the key of a link")
		}
		no := authorNo(binary.BigEndian.Uint16(k[len(prefix):]))
		if no != last || seen == 0 {
			if seen++; seen > authors {
				more = true
				break
			}
			last, of = no, 0
		}
		if of++; of > each {
			it.Seek(append(bytes.Clone(k[:len(prefix)+2]), bytes.Repeat([]byte{0xff}, 33)...))
			continue
		}
		w, err := r.word(no, fmt.Sprintf("%x", k[len(prefix)+2:]))
		if err != nil {
			return nil, false, err
		}
		if _, ok := w.link.other(id); ok {
			list = append(list, w)
		}
		it.Next()
	}
	slices.SortFunc(list, func(a, b linkWord) int {
		return cmp.Or(a.author.Compare(b.author), cmp.Compare(LinkSubject(a.link.One, a.link.Two), LinkSubject(b.link.One, b.link.Two)))
	})
	return list, more, nil
}

func (r *peopleRows) word(no authorNo, subject string) (linkWord, error) {
	v, ok, err := get(r.runs.txn, factKey(KindLink, subject, no))
	if err != nil {
		return linkWord{}, err
	}
	rec, err := readRecord(v)
	if !ok || err != nil {
		return linkWord{}, errDamaged("a link")
	}
	a, err := r.runs.x.author(r.runs.txn, no)
	if err != nil {
		return linkWord{}, err
	}
	body, err := r.runs.body(no, rec)
	if err != nil {
		return linkWord{}, err
	}
	l, err := decodeLink(subject, body)
	if err != nil {
		return linkWord{}, errDamaged("a link")
	}
	return linkWord{author: a.node, link: l, quarantined: r.runs.x.doubtful(logID{a.node, rec.at.Epoch}, rec.at.Seq)}, nil
}

func (r *peopleRows) parts(id Identifier) (any bool, err error) {
	h := id.hash()
	prefix := append([]byte{tabParted}, h[:]...)
	err = scan(r.runs.txn, prefix, prefix, false, func([]byte, func() ([]byte, error)) (bool, error) {
		any = true
		return false, nil
	})
	return any, err
}

func (r *peopleRows) parted(a, b Identifier) (bool, error) {
	said, err := r.runs.linksOf(a, b)
	return slices.ContainsFunc(said, func(l Authored[Link]) bool { return l.Value.Verdict == Different }), err
}
