package index

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// visiting gives each study once to fn, at the place of its newest statement that matches.
type visiting struct {
	s        *search
	fn       func(found) (bool, error)
	complete bool
	sure     bool     // the persons for whom is walked match all that is asked of a person
	after    *placed  // what comes in the order of answers up to it is passed over
	next     []placed // to be read together
}

func (s *search) visiting(fn func(found) (bool, error)) *visiting {
	return &visiting{s: s, fn: fn, complete: true, after: s.m.after}
}

// Studies are read some at a time, by several readers side by side: most of the time a read takes is waiting and unpacking.
const (
	readers   = 4
	readAhead = 16 // at most; no more than the page has room for
)

func (s *search) ahead() int {
	if s.all || s.m.q.Limit == 0 {
		return readAhead
	}
	return min(max(s.m.q.Limit, readers), readAhead)
}

func (v *visiting) inOrder(rows []placed) error {
	slices.SortFunc(rows, placed.compare)
	rows = slices.Compact(rows)
	if v.s.m.q.Oldest {
		slices.Reverse(rows)
	}
	for _, c := range rows {
		if more, err := v.visit(c); err != nil || !more {
			return err
		}
	}
	return v.rest()
}

// walk goes along rows that are in the order of answers, to their end or until enough is found. Of rows that name a person only those are
// read whose person is one of persons, if there are any, and matches.
func (v *visiting) walk(sp span, persons map[personKey]bool) error {
	_, err := v.walkFor(sp, persons, math.MaxInt)
	return err
}

// walkFor is walk for so many rows. ended is false when there are more: what is visited then goes on after them.
func (v *visiting) walkFor(sp span, persons map[personKey]bool, rows int) (ended bool, err error) {
	s := v.s
	look := sp.prefix[0] == tabDate && s.m.ofPerson()
	if a := v.after; a != nil {
		if at := a.append(bytes.Clone(sp.prefix)); s.m.q.Oldest {
			if sp.end == nil || bytes.Compare(at, sp.end) < 0 {
				sp.end = at
			}
		} else if bytes.Compare(at, sp.start) > 0 {
			sp.start = at
		}
	}
	full, ended := false, true
	var last placed
	err = s.scan(sp, s.m.q.Oldest, func(k []byte, item *badger.Item) (bool, error) {
		if rows == 0 {
			ended = false
			return false, nil
		}
		rows--
		if s.walked++; s.walked > s.costs.walked {
			v.complete = false
			return false, nil
		}
		if len(k) < len(sp.prefix)+placedSize {
			return false, errDamaged("a query table")
		}
		last = readPlaced(k)
		if look {
			var pk personKey
			if err := item.Value(func(b []byte) error {
				if len(b) != len(pk) {
					return errDamaged("a query table")
				}
				copy(pk[:], b)
				return nil
			}); err != nil {
				return false, err
			}
			if !s.m.mayBe(pk) || persons != nil && !persons[pk] {
				return true, nil
			}
			if persons == nil || !v.sure {
				switch ok, err := s.matches(pk); {
				case errors.Is(err, errGivenUp):
					v.complete = false
					return false, nil
				case err != nil || !ok:
					return err == nil, err
				}
			}
		}
		more, err := v.visit(last)
		full = !more
		return more, err
	})
	switch {
	case err != nil || full:
		return true, err
	case !ended:
		if last != (placed{}) {
			v.after = &last
		}
		return false, nil
	}
	return true, v.rest()
}

// visit takes a place, and when some are together gives fn what is there. After more is false nothing may be visited.
func (v *visiting) visit(c placed) (more bool, err error) {
	if a := v.after; a != nil {
		if d := c.compare(*a); d == 0 || (d < 0) != v.s.m.q.Oldest {
			return true, nil
		}
	}
	if v.next = append(v.next, c); len(v.next) < v.s.ahead() {
		return true, nil
	}
	return v.flush()
}

// rest gives fn what has not been read yet. It comes last.
func (v *visiting) rest() error {
	_, err := v.flush()
	return err
}

func (v *visiting) flush() (more bool, err error) {
	s := v.s
	if err := s.ctx.Err(); err != nil {
		return false, err
	}
	next := v.next
	v.next = v.next[:0]
	read, err := s.readTogether(next)
	if err != nil {
		return false, err
	}
	for i, c := range next {
		if s.examined++; s.examined > s.costs.examined {
			v.complete = false
			return false, nil
		}
		f, ok, err := s.examine(c, read[i])
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		if more, err := v.fn(f); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// readTogether reads what is said of studies, side by side. A transaction that only reads may be used so.
func (s *search) readTogether(places []placed) ([][]statement, error) {
	out, errs := make([][]statement, len(places)), make([]error, readers)
	read := func(n int, c *runCache) {
		for i := n; i < len(places) && errs[n] == nil; i += readers {
			out[i], errs[n] = c.statements(places[i].study)
		}
	}
	var wg sync.WaitGroup
	for n := 1; n < min(readers, len(places)); n++ {
		wg.Go(func() { read(n, s.aside[n-1]) })
	}
	read(0, s.runs)
	wg.Wait()
	return out, errors.Join(errs...)
}

// examine reads a study and says whether it stands at a place: at that of its newest matching statement. A study whose authors name
// different dates has rows at each; this way it is answered once.
func (s *search) examine(c placed, all []statement) (f found, ok bool, err error) {
	for _, st := range all {
		if st.no == c.author {
			f.uid = st.study.UID
		}
	}
	if f.uid == "" {
		return f, false, nil // a row of a view that a purge has overlapped
	}
	var newest *placed
	match := make(map[authorNo]bool, len(all))
	for _, st := range all {
		if st.study.UID != f.uid || !s.m.matches(st) {
			continue
		}
		match[st.no] = true
		if at := (placed{st.study.when(), ref{c.study, st.no}}); newest == nil || at.compare(*newest) < 0 {
			newest = &at
		}
	}
	if newest == nil || *newest != c {
		return f, false, nil
	}
	if held, err := s.held(f.uid, all); err != nil || !held {
		return f, false, err
	}
	f.at = c
	f.all = slices.DeleteFunc(all, func(st statement) bool { return st.study.UID != f.uid })
	f.matching = len(match)
	slices.SortFunc(f.all, func(a, b statement) int {
		if match[a.no] != match[b.no] {
			if match[a.no] {
				return -1
			}
			return 1
		}
		x, y := a.study.when(), b.study.when()
		return cmp.Or(bytes.Compare(x[:], y[:]), a.author.Compare(b.author))
	})
	return f, true, nil
}

// held says whether a study is where the query wants it to be.
func (s *search) held(uid string, all []statement) (bool, error) {
	want := s.m.q.HeldBy
	if want.IsZero() || slices.ContainsFunc(all, func(st statement) bool { return st.author == want && st.study.UID == uid }) {
		return true, nil
	}
	h := newHoldings(s.runs)
	defer h.close()
	held := false
	a, ok := s.m.x.known(want)
	if !ok {
		return false, nil
	}
	err := h.by(uid, a.no, func(b heldBy) error {
		held = held || b.instances > 0
		return nil
	})
	return held, err
}
