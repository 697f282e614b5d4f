package index

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// A search finds the statements that match a query, in the order of answers, and reads as little as it can for it.
//
// Studies are found in two ways. Rows of the query tables lie in the order of answers and can be walked until a page is full. Or rows, or
// the rows of persons, are collected, sorted and read. Which is cheaper is found out by counting: each way is followed for a while, then
// for longer, and what has come to its end is held against each other. If nothing has, sets of many persons are collected and looked
// through; and else studies are walked in the order of answers, along an accession number, a modality, a trust or all of them, and of each
// the person is looked at before the study is.
type search struct {
	m        *matcher
	runs     *runCache
	aside    [readers - 1]*runCache // of those who read beside
	persons  map[personKey]bool     // whether they match
	examined int
	walked   int
	all      bool // all that match are wanted, not a page
}

func (m *matcher) search(txn *badger.Txn) *search {
	s := &search{m: m, runs: m.x.reading(txn), persons: map[personKey]bool{}}
	for i := range s.aside {
		s.aside[i] = m.x.reading(txn)
	}
	return s
}

// Rounds of counting: how many rows are looked at in each way before the next is.
var rounds = []int{128, 2048, 16384}

const (
	keptPersons   = 1 << 16 // persons remembered as matching or not
	rowsPerPerson = 24      // walking so many rows costs as much as looking up one person's studies beside others'
	rowsPerNamed  = 8       // and if they all bear one name
	nearRows      = 32      // whose name begins alike are next to each other: so many rows are passed before their place is sought
	farRows       = 4       // and so many after it had to be
	fewRows       = 64      // so many studies are read without looking for something better
	sampleOf      = 256     // persons that are looked at to see whether most are asked for
	denseFrom     = 8       // one in so many is: then they are met soon enough
	maxCommon     = 1 << 17 // rows of persons collected for what several ways have in common
)

// found is a study that matches.
type found struct {
	at       placed // its newest matching statement
	uid      string
	all      []statement // those that match first, newest first
	matching int
}

func (p placed) cursor() Cursor { return Cursor(hex.EncodeToString(p.append(nil))) }

func (c Cursor) placed() (placed, error) {
	b, err := hex.DecodeString(string(c))
	if err != nil || len(b) != placedSize {
		return placed{}, &MalformedError{What: "query", Why: "what to go on after is not what a page of before ended with; leave it out to begin again"}
	}
	return readPlaced(b), nil
}

// span is a run of keys of one table: those with prefix, from start (inclusive) to end (exclusive, nil: all).
type span struct {
	prefix, start, end []byte
}

func prefixSpan(prefix []byte) span { return span{prefix: prefix, start: prefix} }

// scan calls fn with the keys of a span, in the order of answers if the span is; value reads the row.
func (s *search) scan(sp span, reverse bool, fn func(k []byte, item *badger.Item) (bool, error)) error {
	opt := badger.IteratorOptions{Prefix: sp.prefix, Reverse: reverse}
	it := s.runs.txn.NewIterator(opt)
	defer it.Close()
	start := sp.start
	if reverse {
		if start = sp.end; start == nil {
			start = append(bytes.Clone(sp.prefix), bytes.Repeat([]byte{0xff}, placedSize+1)...)
		}
	}
	for it.Seek(start); it.ValidForPrefix(sp.prefix); it.Next() {
		item := it.Item()
		k := item.Key()
		switch {
		case Purged(item):
			continue
		case !reverse && sp.end != nil && bytes.Compare(k, sp.end) >= 0, reverse && bytes.Compare(k, sp.start) < 0:
			return nil
		case reverse && sp.end != nil && bytes.Compare(k, sp.end) >= 0:
			continue
		}
		if more, err := fn(k, item); err != nil || !more {
			return err
		}
	}
	return nil
}

// collect reads the statements of rows; all is false when there are more than limit.
func (s *search) collect(spans []span, limit int) (out []placed, all bool, err error) {
	all = true
	for _, sp := range spans {
		err := s.scan(sp, false, func(k []byte, _ *badger.Item) (bool, error) {
			if len(k) < len(sp.prefix)+placedSize {
				return false, errDamaged("a query table")
			}
			if len(out) == limit {
				all = false
				return false, nil
			}
			out = append(out, readPlaced(k))
			return true, nil
		})
		if err != nil || !all {
			return nil, all, err
		}
	}
	return out, true, nil
}

// collectPersons reads the persons of rows; all is false when there are more than limit rows.
func (s *search) collectPersons(spans []span, limit int) (out map[personKey]bool, all bool, err error) {
	all = true
	out = map[personKey]bool{}
	n := 0
	for _, sp := range spans {
		err := s.scan(sp, false, func(k []byte, _ *badger.Item) (bool, error) {
			if len(k) < 1+len(personKey{}) {
				return false, errDamaged("a query table")
			}
			if n++; n > limit {
				all = false
				return false, nil
			}
			if pk := personKey(k[len(k)-len(personKey{}):]); s.m.mayBe(pk) {
				out[pk] = true
			}
			return true, nil
		})
		if err != nil || !all {
			return nil, all, err
		}
	}
	return out, true, nil
}

// ofPersons collects the statements about persons, side by side if they are many; all is false when there are more than limit.
func (s *search) ofPersons(persons map[personKey]bool, limit int) (out []placed, all bool, err error) {
	keys := make([]personKey, 0, len(persons))
	for k := range persons {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b personKey) int { return bytes.Compare(a[:], b[:]) })
	var (
		share [readers][]placed
		ended [readers]bool
		errs  [readers]error
		wg    sync.WaitGroup
	)
	read := func(n, of int) {
		share[n], ended[n], errs[n] = s.ofSome(keys[n*len(keys)/of:(n+1)*len(keys)/of], limit)
	}
	if len(keys) <= fewRows {
		read(0, 1)
		return share[0], ended[0], errs[0]
	}
	for n := 1; n < readers; n++ {
		wg.Go(func() { read(n, readers) })
	}
	read(0, readers)
	wg.Wait()
	out = slices.Concat(share[:]...)
	return out, len(out) <= limit && !slices.Contains(ended[:], false), errors.Join(errs[:]...)
}

// ofSome is ofPersons for some of them, in the order of their keys.
func (s *search) ofSome(keys []personKey, limit int) (out []placed, all bool, err error) {
	it := s.runs.txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tabOf}})
	defer it.Close()
	ahead := farRows
	for _, k := range keys {
		sp := s.m.dated(append([]byte{tabOf}, k[:]...))
		reached := false
		for range ahead {
			if !it.Valid() {
				break
			}
			if reached = bytes.Compare(it.Item().Key(), sp.start) >= 0; reached {
				break
			}
			it.Next()
		}
		if ahead = nearRows; !reached {
			ahead = farRows
			it.Seek(sp.start)
		}
		for ; it.ValidForPrefix(sp.prefix); it.Next() {
			key := it.Item().Key()
			if sp.end != nil && bytes.Compare(key, sp.end) >= 0 {
				break
			}
			if Purged(it.Item()) {
				continue
			}
			if len(key) != 1+len(personKey{})+placedSize {
				return nil, false, errDamaged("a query table")
			}
			if len(out) == limit {
				return nil, false, nil
			}
			out = append(out, readPlaced(key))
		}
	}
	return out, true, nil
}

// mayBe says of a person, before it is read, whether the name may be the one that is asked for.
func (m *matcher) mayBe(k personKey) bool {
	return m.begins == "" || nameHead(k[:nameHeadSize]).mayBegin(m.begins)
}

// matches says whether a person is one that is asked for.
func (s *search) matches(k personKey) (bool, error) {
	if ok, seen := s.persons[k]; seen {
		return ok, nil
	}
	p, err := s.runs.person(k)
	if err != nil {
		return false, err
	}
	if len(s.persons) >= keptPersons {
		clear(s.persons)
	}
	ok := s.m.matchesPerson(p)
	s.persons[k] = ok
	return ok, nil
}

func (c *runCache) person(k personKey) (p person, err error) {
	v, ok, err := get(c.txn, personRow(k))
	if err != nil {
		return p, err
	}
	if !ok || decode(factMode, "person", v, &p) != nil {
		return p, errDamaged("a person")
	}
	return p, nil
}

// each calls fn with every study that matches, in the order of answers. complete says that the search was not given up.
func (s *search) each(fn func(found) (more bool, err error)) (complete bool, err error) {
	v := s.visiting(fn)
	if len(s.m.q.StudyUIDs) > 0 {
		listed, err := s.listed()
		if err != nil {
			return false, err
		}
		err = v.inOrder(listed)
		return v.complete, err
	}
	plans := s.m.plans()
	last := plans[len(plans)-1]
	if last.alone {
		err := v.walk(last.rows[0], nil)
		return v.complete, err
	}
	for i, round := range rounds {
		ways := plans
		if i == len(rounds)-1 && s.m.begins != "" && s.m.date.set() && !s.all {
			// Of a name that more bear than are counted a page is full before so many studies have been walked: how many the dates hold does not matter.
			ways = plans[:len(plans)-1]
		}
		c, err := s.count(ways, round)
		if err != nil {
			return false, err
		}
		if c.any {
			if c, err = s.refine(ways, c); err != nil {
				return false, err
			}
			err := s.counted(v, c, last.rows[0])
			return v.complete, err
		}
	}
	// Nothing is narrow by itself. Two sets of persons may have few in common.
	if persons, err := s.common(plans); err != nil || persons != nil {
		if err == nil {
			err = s.counted(v, counts{persons: persons, dated: -1}, last.rows[0])
		}
		return v.complete, err
	}
	// Walk what is in order.
	for _, p := range plans {
		if p.ordered && !s.m.ofPerson() {
			err := v.walk(p.rows[0], nil)
			return v.complete, err
		}
	}
	err = v.walk(last.rows[0], nil)
	return v.complete, err
}

// counts is what came to its end in a round of counting: what all those ways have in common, for one statement stands at one place in
// all tables.
type counts struct {
	any     bool
	rows    []placed           // nil: no way by rows of studies did
	persons map[personKey]bool // nil: no way by persons did
	ended   []bool             // the ways that did
	dated   int                // rows of all studies in the dates asked for; -1: more than were counted
}

// counted goes on when something has been counted.
func (s *search) counted(v *visiting, c counts, dated span) error {
	if c.rows != nil && len(c.rows) <= fewRows {
		return v.inOrder(c.rows)
	}
	if c.persons != nil {
		if err := s.only(c.persons); err != nil {
			return err
		}
		if len(c.persons) == 0 {
			return v.inOrder(nil)
		}
	}
	if c.persons == nil {
		if c.dated >= 0 && s.m.ofPerson() && c.dated <= rowsPerPerson*len(c.rows) {
			return v.walk(dated, nil)
		}
		return v.inOrder(c.rows)
	}
	each := rowsPerPerson
	if s.m.begins != "" {
		each = rowsPerNamed
	}
	walk, err := s.toWalk(c)
	if err != nil {
		return err
	}
	if walk < each*len(c.persons) && (!s.all || c.dated >= 0) {
		return v.walk(dated, c.persons)
	}
	rows, all, err := s.ofPersons(c.persons, maxCandidates)
	if err != nil {
		return err
	}
	if !all {
		return v.walk(dated, c.persons)
	}
	if c.rows != nil {
		rows = both(rows, c.rows)
	}
	return v.inOrder(rows)
}

// only leaves those of many persons that are asked for, if they are few: to read the studies of all would be to read most of them in vain,
// until the search is given up. Where many are, those that are not are passed over as their studies come.
func (s *search) only(persons map[personKey]bool) error {
	if len(persons) <= fewRows {
		return nil
	}
	looked, asked := 0, 0
	for k := range persons { // in no order
		ok, err := s.matches(k)
		if err != nil {
			return err
		}
		if looked++; ok {
			asked++
		} else {
			delete(persons, k)
		}
		if looked == sampleOf && asked*denseFrom >= looked {
			return nil
		}
	}
	return nil
}

// refine follows the ways by persons that have not come to their end for as long as reading what was counted would take.
func (s *search) refine(plans []plan, c counts) (counts, error) {
	if c.rows != nil && len(c.rows) <= fewRows {
		return c, nil
	}
	many := len(c.rows)
	if c.persons != nil {
		many = len(c.persons)
	}
	if many <= fewRows {
		return c, nil
	}
	limit := min(rowsPerPerson*many, maxCommon)
	for i, p := range plans {
		if p.persons == nil || c.ended[i] {
			continue
		}
		got, all, err := s.collectPersons(p.persons, limit)
		if err != nil {
			return c, err
		}
		if all {
			c.persons = among(c.persons, got)
		}
	}
	if c.persons != nil && len(c.persons) == 0 {
		c.rows = []placed{}
	}
	return c, nil
}

// toWalk estimates how many studies by date are passed until a page is full of studies of some persons.
func (s *search) toWalk(c counts) (int, error) {
	page := s.m.q.Limit
	if page == 0 {
		page = MaxPage
	}
	all, err := readCount(s.runs.txn, countPersons)
	if err != nil {
		return 0, err
	}
	if all == 0 || len(c.persons) == 0 {
		all = maxWalked
	}
	n := min((page+s.m.q.Offset)*(all/max(len(c.persons), 1)), maxWalked)
	if c.dated >= 0 {
		n = min(n, c.dated)
	}
	return n, nil
}

// both is what two lists have in common.
func both(a, b []placed) []placed {
	in := make(map[placed]bool, len(b))
	for _, c := range b {
		in[c] = true
	}
	return slices.DeleteFunc(a, func(c placed) bool { return !in[c] })
}

// count follows every way for a round.
func (s *search) count(plans []plan, round int) (c counts, err error) {
	c.dated, c.ended = -1, make([]bool, len(plans))
	for i, p := range plans {
		if p.persons != nil {
			got, all, err := s.collectPersons(p.persons, round)
			if err != nil {
				return c, err
			}
			if !all {
				continue
			}
			c.persons = among(c.persons, got)
		} else {
			got, all, err := s.collect(p.rows, round)
			if err != nil {
				return c, err
			}
			if !all {
				continue
			}
			if p.all {
				c.dated = len(got)
			}
			if c.rows == nil {
				c.rows = append([]placed{}, got...)
			} else {
				c.rows = both(c.rows, got)
			}
		}
		c.any, c.ended[i] = true, true
		if c.persons != nil && len(c.persons) == 0 || c.rows != nil && len(c.rows) == 0 {
			return counts{any: true, rows: []placed{}}, nil
		}
	}
	return c, nil
}

// among is the persons of got that are among some; nil stands for all.
func among(some, got map[personKey]bool) map[personKey]bool {
	if some == nil {
		return got
	}
	for k := range some {
		if !got[k] {
			delete(some, k)
		}
	}
	return some
}

// common is what several ways by persons have in common, or who is on the one that there is, where more is asked of them than it says. nil: there
// is no such way that comes to an end.
func (s *search) common(plans []plan) (persons map[personKey]bool, err error) {
	ways := 0
	for _, p := range plans {
		if p.persons != nil {
			ways++
		}
	}
	if ways == 0 || ways == 1 && !s.m.choosy() {
		return nil, nil
	}
	for _, p := range plans {
		if p.persons == nil {
			continue
		}
		got, all, err := s.collectPersons(p.persons, maxCommon)
		if err != nil {
			return nil, err
		}
		if all {
			persons = among(persons, got)
		}
	}
	return persons, nil
}

// countRows counts the studies of rows that all match.
func (s *search) countRows(sp span) (n int, exact bool, err error) {
	exact = true
	seen := map[studyKey]bool{}
	err = s.scan(sp, false, func(k []byte, _ *badger.Item) (bool, error) {
		if s.walked++; s.walked > maxWalked {
			exact = false
			return false, nil
		}
		if len(k) < len(sp.prefix)+placedSize {
			return false, errDamaged("a query table")
		}
		seen[readPlaced(k).study] = true
		return true, nil
	})
	return len(seen), exact, err
}

// listed finds the places of the studies asked for by UID.
func (s *search) listed() (out []placed, err error) {
	for _, uid := range s.m.q.StudyUIDs {
		if checkUID(uid) != nil {
			continue // names no study
		}
		k := s.m.x.studyKey(uid)
		all, err := s.runs.studyStatements(uid)
		if err != nil {
			return nil, err
		}
		for _, st := range all {
			out = append(out, placed{st.study.when(), ref{k, st.no}})
		}
	}
	return out, nil
}
