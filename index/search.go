package index

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// A search finds the statements that match a query, in the order of answers, and reads as little as it can for it.
//
// Studies are found in two ways. Rows of the query tables lie in the order of answers and can be walked until a page is full. Or rows, or
// the rows of persons, are collected, sorted and read. Which is cheaper is found out by counting: all ways are followed for a round, then
// for a longer one, and when some have come to their end what these have in common is read, or walked to where that is cheaper (counted).
//
// If none does, and persons are asked for, studies are walked by date for a while, for a page of many may soon be full; then persons are
// collected for longer, and held against all that is asked of them (common). What is left is walked: along the rows of an accession number,
// a modality or a trust if those are asked for and nothing of a person, else along all by date. Of each study by date the person is looked
// at before the study is.
type search struct {
	ctx      context.Context
	m        *matcher
	costs    costs
	runs     *runCache
	aside    [readers - 1]*runCache // of those who read beside
	persons  map[personKey]bool     // whether they match, of those that were asked
	rows     int                    // looked at
	examined int
	asked    int // persons read, each once
	walked   int
	all      bool // all that match are wanted, not a page
}

func (m *matcher) search(ctx context.Context, txn *badger.Txn) *search {
	s := &search{ctx: ctx, m: m, costs: m.x.costs, runs: m.x.reading(txn), persons: map[personKey]bool{}}
	for i := range s.aside {
		s.aside[i] = m.x.reading(txn)
	}
	return s
}

const (
	nearRows = 32   // whose name begins alike are next to each other: so many rows are passed before their place is sought
	farRows  = 4    // and so many after it had to be
	stride   = 1024 // rows after which is looked whether the answer is still wanted
)

// wanted is asked at each of some rows, which n counts: the context's error when the answer is not wanted any more.
func (s *search) wanted(n *int) error {
	if *n++; *n%stride == 0 {
		return s.ctx.Err()
	}
	return nil
}

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
		if err := s.wanted(&s.rows); err != nil {
			return err
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

// crowd is some persons, and what is asked of persons and certain of all of them.
type crowd struct {
	keys map[personKey]bool // nil: everybody
	sure aspects
}

// collectPersons reads the persons of a way by persons; all is false when it has more than so many rows, or persons that may be asked for.
func (s *search) collectPersons(p plan, rows, persons int) (out crowd, all bool, err error) {
	all = true
	out = crowd{map[personKey]bool{}, p.of}
	n := 0
	for _, sp := range p.persons {
		err := s.scan(sp, false, func(k []byte, _ *badger.Item) (bool, error) {
			texts := len(k) - len(personKey{})
			if texts < 1 {
				return false, errDamaged("a query table")
			}
			if n++; n > rows {
				all = false
				return false, nil
			}
			pk := personKey(k[texts:])
			if !s.m.mayBe(pk) {
				return true, nil
			}
			if p.fits != nil {
				fits, sure := p.fits(k[1:texts])
				if !fits {
					return true, nil
				}
				if !sure {
					out.sure = 0
				}
			}
			if out.keys[pk] = true; len(out.keys) > persons {
				all = false
			}
			return all, nil
		})
		if err != nil || !all {
			return crowd{}, all, err
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
	)
	for r := range ended {
		ended[r] = true
	}
	err = sideBySide(len(keys), s.costs.fewRows, func(r, from, to int) (err error) {
		share[r], ended[r], err = s.ofSome(keys[from:to], limit)
		return err
	})
	out = slices.Concat(share[:]...)
	return out, len(out) <= limit && !slices.Contains(ended[:], false), err
}

// ofSome is ofPersons for some of them, in the order of their keys.
func (s *search) ofSome(keys []personKey, limit int) (out []placed, all bool, err error) {
	it := s.runs.txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tabOf}})
	defer it.Close()
	ahead, n := farRows, 0
	for _, k := range keys {
		sp := s.m.dated(append([]byte{tabOf}, k[:]...))
		reached := false
		if err := s.wanted(&n); err != nil {
			return nil, false, err
		}
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
			if err := s.wanted(&n); err != nil {
				return nil, false, err
			}
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

// errGivenUp says that more persons would have to be read than a query may read.
var errGivenUp = errors.New("too many persons were read for a query")

// matches says whether a person is one that is asked for.
func (s *search) matches(k personKey) (bool, error) {
	if ok, seen := s.persons[k]; seen {
		return ok, nil
	}
	if s.asked >= s.costs.asked {
		return false, errGivenUp
	}
	s.asked++
	p, err := s.runs.person(k)
	if err != nil {
		return false, err
	}
	ok := s.m.matchesPerson(p)
	s.persons[k] = ok
	return ok, nil
}

// sift drops of some persons who do not match all that is asked of a person: side by side if they are many. sifted is false, and they are
// as they were, when there are more than may be read.
func (s *search) sift(persons map[personKey]bool) (sifted bool, err error) {
	var ask []personKey
	for k := range persons {
		if _, seen := s.persons[k]; !seen {
			ask = append(ask, k)
		}
	}
	if s.asked+len(ask) > s.costs.asked {
		return false, nil
	}
	s.asked += len(ask)
	slices.SortFunc(ask, func(a, b personKey) int { return bytes.Compare(a[:], b[:]) })
	ok := make([]bool, len(ask))
	if err := sideBySide(len(ask), s.costs.fewRows, func(_, from, to int) error {
		n := 0
		for i := from; i < to; i++ {
			if err := s.wanted(&n); err != nil {
				return err
			}
			p, err := s.runs.person(ask[i])
			if err != nil {
				return err
			}
			ok[i] = s.m.matchesPerson(p)
		}
		return nil
	}); err != nil {
		return false, err
	}
	for k, ok := range s.persons {
		if !ok {
			delete(persons, k)
		}
	}
	for i, k := range ask {
		if !ok[i] {
			delete(persons, k)
		}
	}
	return true, nil
}

// sideBySide calls fn with a share of n things each for several readers; for one, with all, if they are few.
func sideBySide(n, few int, fn func(reader, from, to int) error) error {
	if n <= few {
		return fn(0, 0, n)
	}
	var errs [readers]error
	var wg sync.WaitGroup
	for r := 1; r < readers; r++ {
		wg.Go(func() { errs[r] = fn(r, r*n/readers, (r+1)*n/readers) })
	}
	errs[0] = fn(0, 0, n/readers)
	wg.Wait()
	return errors.Join(errs[:]...)
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
	if err := s.ctx.Err(); err != nil {
		return false, err
	}
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
	rounds := s.costs.rounds
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
	// Nothing is narrow by itself.
	byPerson := 0
	for _, p := range plans {
		if p.persons != nil {
			byPerson++
		}
	}
	if byPerson == 1 && !s.all {
		// So many persons that a page may soon be full.
		if ended, err := v.walkFor(last.rows[0], nil, s.costs.trial); err != nil || ended {
			return v.complete, err
		}
	}
	// All that is asked of them may be true of few.
	persons, err := s.common(plans)
	if err != nil {
		return false, err
	}
	if persons.keys != nil {
		err := s.counted(v, counts{persons: persons, dated: -1}, last.rows[0])
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
	rows    []placed // nil: no way by rows of studies did
	persons crowd    // of everybody: no way by persons did
	ended   []bool   // the ways that did
	dated   int      // rows of all studies in the dates asked for; -1: more than were counted
}

// counted goes on when something has been counted.
func (s *search) counted(v *visiting, c counts, dated span) error {
	if c.rows != nil && len(c.rows) <= s.costs.fewRows {
		return v.inOrder(c.rows)
	}
	persons := c.persons.keys
	if persons == nil {
		if c.dated >= 0 && s.m.ofPerson() && c.dated <= s.costs.rowsPerPerson*len(c.rows) {
			return v.walk(dated, nil)
		}
		return v.inOrder(c.rows)
	}
	v.sure = s.m.aspects()&^c.persons.sure == 0
	// Reading the studies of these persons costs as much as walking so many rows.
	worth := s.costs.rowsPerPerson * len(persons)
	if s.m.begins != "" {
		worth = s.costs.rowsPerNamed * len(persons)
	}
	passed, err := s.toWalk(c)
	if err != nil {
		return err
	}
	if passed < worth && (!s.all || c.dated >= 0) {
		// How many are passed is a guess. Where it is wrong, so much has been lost and no more.
		if ended, err := v.walkFor(dated, persons, worth); err != nil || ended {
			return err
		}
	}
	if !v.sure {
		if v.sure, err = s.sift(persons); err != nil {
			return err
		}
	}
	rows, all, err := s.ofPersons(persons, s.costs.candidates)
	if err != nil {
		return err
	}
	if !all {
		return v.walk(dated, persons)
	}
	if c.rows != nil {
		rows = both(rows, c.rows)
	}
	return v.inOrder(rows)
}

// refine follows the ways by persons that have not come to their end for as long as reading what was counted would take.
func (s *search) refine(plans []plan, c counts) (counts, error) {
	if c.rows != nil && len(c.rows) <= s.costs.fewRows {
		return c, nil
	}
	many := len(c.rows)
	if c.persons.keys != nil {
		many = len(c.persons.keys)
	}
	if many <= s.costs.fewRows {
		return c, nil
	}
	limit := min(s.costs.rowsPerPerson*many, s.costs.common)
	for i, p := range plans {
		if p.persons == nil || c.ended[i] {
			continue
		}
		got, all, err := s.collectPersons(p, limit, limit)
		if err != nil {
			return c, err
		}
		if all {
			c.persons = among(c.persons, got)
		}
	}
	if c.persons.keys != nil && len(c.persons.keys) == 0 {
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
	persons := len(c.persons.keys)
	n := s.costs.walked
	if all > 0 && persons > 0 {
		n = min((page+s.m.q.Offset)*(all/persons), n)
	}
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
			got, all, err := s.collectPersons(p, round, round)
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
		if c.persons.keys != nil && len(c.persons.keys) == 0 || c.rows != nil && len(c.rows) == 0 {
			return counts{any: true, rows: []placed{}}, nil
		}
	}
	return c, nil
}

// among is the persons of got that are among some.
func among(some, got crowd) crowd {
	if some.keys == nil {
		return got
	}
	for k := range some.keys {
		if !got.keys[k] {
			delete(some.keys, k)
		}
	}
	some.sure |= got.sure
	return some
}

// common is what the ways by persons have in common that come to an end in more rows than are counted.
func (s *search) common(plans []plan) (persons crowd, err error) {
	for _, p := range plans {
		if p.persons == nil {
			continue
		}
		got, all, err := s.collectPersons(p, s.costs.commonRows, s.costs.common)
		if err != nil {
			return crowd{}, err
		}
		if all {
			persons = among(persons, got)
		}
	}
	return persons, nil
}

// countRows counts the studies of rows that all match. Of those that more than one author speaks of there is a row for each, and not
// always side by side: so what was counted is held, and not without bound.
func (s *search) countRows(sp span) (n int, exact bool, err error) {
	exact = true
	var seen []uint64
	err = s.scan(sp, false, func(k []byte, _ *badger.Item) (bool, error) {
		if len(k) < len(sp.prefix)+placedSize {
			return false, errDamaged("a query table")
		}
		study := readPlaced(k).study
		id := binary.BigEndian.Uint64(study[:])
		if s.walked++; s.walked > s.costs.walked || len(seen) >= s.costs.counted {
			exact = false
			return false, nil
		}
		if len(seen) == 0 || seen[len(seen)-1] != id {
			seen = append(seen, id)
		}
		return true, nil
	})
	slices.Sort(seen)
	return len(slices.Compact(seen)), exact, err
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
