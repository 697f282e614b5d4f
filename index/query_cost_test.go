package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// sayPeople says so many studies of so many persons in turn, the newest first; of says what is said of one.
func sayPeople(t *testing.T, x *Index, persons, studies int, of func(i int) Study) {
	t.Helper()
	var list []Statement
	for i := range persons * studies {
		s := of(i % persons)
		s.UID, s.Date, s.Time = uidOf(i), fmt.Sprintf("2024%02d%02d", 12-i/28%12, 28-i%28), "1200"
		list = append(list, mustStudy(t, s))
	}
	for some := range slices.Chunk(list, MaxFacts) {
		say(t, x, some...)
	}
}

func smith(i int) Study {
	return Study{Name: fmt.Sprintf("SMITH^GIVEN%04d", i), Sex: "F", Patient: []PatientID{{fmt.Sprint("S", i), "A"}}}
}

// Whoever is asked for by a name that many bear and by something else is found, though the studies of all of that name are more than are
// read, or walked: by a page, by all pages, and by a count.
func TestANameOfManyAndSomethingElse(t *testing.T) {
	const persons, studies = 300, 3
	for name, lower := range map[string]func(*costs){
		"counted":         func(c *costs) { c.rounds = []int{4, 32, 1024}; c.examined = 2 * persons },
		"counted at last": func(c *costs) { c.rounds = []int{4, 32, 128}; c.examined, c.trial = 2*persons, 128 },
		"not walked so far": func(c *costs) {
			c.rounds = []int{4, 32, 128}
			c.trial, c.walked, c.rowsPerNamed, c.rowsPerPerson = 128, 2*persons, 1, 1
		},
		"few persons a read": func(c *costs) { c.rounds = []int{4, 32, 1024}; c.examined, c.asked = 2*persons, persons+10 },
	} {
		t.Run(name, func(t *testing.T) {
			x := openTest(t, "RAA", foundRegion("RAA"))
			sayPeople(t, x, persons, studies, smith)
			one := Study{UID: "1.1", Name: "SMITH^ZEBULONA", Sex: "O", Patient: []PatientID{{"P1", "A"}}, BirthDate: "19000101", Date: "20010101"}
			say(t, x, mustStudy(t, one))
			lower(&x.costs)
			for _, q := range []Query{
				{Name: "SMITH", Sex: "O"}, {Name: "SMITH*", Sex: "O"}, {Name: "SMITH*ZEBULONA"}, {Name: "SMITH^*A"}, {Name: "SM*", Issuer: "A", Sex: "O"},
				{Name: "smith", Fuzzy: true, Sex: "O"}, {Name: "SMITH", PatientID: "P*"}, {Name: "SMITH", BirthDate: Range{From: "19000101"}, Sex: "O"},
			} {
				for _, q.Limit = range []int{0, 1, 10} {
					for _, q.Oldest = range []bool{false, true} {
						a, err := x.Studies(bg, q)
						if err != nil || a.Incomplete || a.More || !slices.Equal(uidsOf(a), []string{"1.1"}) {
							t.Errorf("%+v: %v, incomplete %v, %v", q, uidsOf(a), a.Incomplete, err)
						}
					}
				}
				if n, exact, err := x.Count(bg, q); n != 1 || !exact || err != nil {
					t.Errorf("%+v: counted %d, exact %v, %v", q, n, exact, err)
				}
			}
		})
	}
}

// A page of a name that many bear is walked to, and none of its persons is read beside those of the page.
func TestAPageOfANameOfManyReadsNoPersons(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	sayPeople(t, x, 300, 3, smith)
	x.costs.rounds = []int{4, 32, 1024}
	for _, q := range []Query{{Name: "SMITH*", Limit: 5}, {Name: "SMITH", Limit: 5}, {Name: "SMITH*", Date: Range{From: "20240101"}, Limit: 5}} {
		if s := searched(t, x, q, 5); s.asked > 5 || s.walked > 20 || s.walked < 5 || s.examined > 20 || s.examined < 5 {
			t.Errorf("%+v: %d persons read, %d rows walked, %d studies read", q, s.asked, s.walked, s.examined)
		}
	}
	// And none is collected of a name that more bear than are counted.
	x.costs.rounds, x.costs.trial = []int{4, 32, 64}, 64
	if s := searched(t, x, Query{Name: "SMITH*", Limit: 5}, 5); s.asked > 5 || s.walked > 20 || s.rows > 250 {
		t.Errorf("%d persons read, %d rows walked, %d looked at", s.asked, s.walked, s.rows)
	}
	x.costs = queryCosts
	// Where the guess of what is walked is wrong, no more is lost than reading all their studies costs.
	say(t, x, mustStudy(t, Study{UID: "1.1", Name: "SMITH^JOHN", Description: "RARE", Date: "20010101"}))
	if s := searched(t, x, Query{Name: "SMITH*", Description: "RARE", Limit: 1}, 1); s.asked > 0 || s.walked > 301*x.costs.rowsPerNamed {
		t.Errorf("%d persons read, %d rows walked", s.asked, s.walked)
	}
}

// A name that does not fit into a key is looked at in what is said.
func TestALongNameOfMany(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	long := "SMITH^" + strings.Repeat("A", maxKeyText)
	sayPeople(t, x, 200, 1, func(i int) Study { return Study{Name: fmt.Sprint(long, i)} })
	say(t, x, mustStudy(t, Study{UID: "1.1", Name: long + "Z", Date: "20010101"}))
	x.costs.rounds, x.costs.examined = []int{4, 32, 1024}, 100
	if a, err := x.Studies(bg, Query{Name: "SMITH*Z"}); err != nil || a.Incomplete || !slices.Equal(uidsOf(a), []string{"1.1"}) {
		t.Error(uidsOf(a), a.Incomplete, err)
	}
}

// What a search weighs its ways by is in the database too, and can be damaged.
func TestAQueryFailsWithTheCountOfPersons(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	sayPeople(t, x, 50, 1, smith)
	x.costs.rounds, x.costs.fewRows = []int{1, 2, 100}, 1
	if err := x.db.Update(func(txn *badgerTxn) error { return txn.Set(append([]byte{tabCount}, countPersons...), []byte{1}) }); err != nil {
		t.Fatal(err)
	}
	var damaged *DamagedError
	if _, err := x.Studies(bg, Query{Name: "SMITH*"}); !errors.As(err, &damaged) {
		t.Error(err)
	}
}

// searched is a search that found as many as a page holds.
func searched(t *testing.T, x *Index, q Query, page int) (s *search) {
	t.Helper()
	m, err := x.matcher(q)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = x.db.View(func(txn *badgerTxn) error {
		s = m.search(bg, txn)
		_, err := s.each(func(found) (bool, error) {
			n++
			return n < page, nil
		})
		return err
	})
	if err != nil || n != page {
		t.Fatal(n, err)
	}
	return s
}

// Whatever bound a query meets, it says that studies may be missing, and a count that it is not exact; where it meets none it does not.
func TestAQueryThatIsGivenUpSaysSo(t *testing.T) {
	const persons, studies = 40, 2
	x := openTest(t, "RAA", foundRegion("RAA"))
	sayPeople(t, x, persons, studies, func(i int) Study {
		return Study{Name: fmt.Sprintf("NAME%02d", i), Sex: "F", Modalities: []string{"CT"}, Description: "HEAD"}
	})
	for name, c := range map[string]struct {
		q     Query
		bound func(*costs) *int
		least int // the lowest bound with which all is found
	}{
		"studies read":               {Query{Description: "HEAD"}, func(c *costs) *int { return &c.examined }, persons * studies},
		"studies read, along a row":  {Query{Description: "HEAD", Modalities: []string{"CT"}}, func(c *costs) *int { return &c.examined }, persons * studies},
		"rows walked":                {Query{Description: "HEAD"}, func(c *costs) *int { return &c.walked }, persons * studies},
		"rows walked, by modality":   {Query{Description: "HEAD", Modalities: []string{"CT"}}, func(c *costs) *int { return &c.walked }, persons * studies},
		"persons read":               {Query{Sex: "F"}, func(c *costs) *int { return &c.asked }, persons},
		"persons of whom none is it": {Query{Sex: "X"}, func(c *costs) *int { return &c.asked }, persons},
	} {
		for below := range 2 {
			x.costs = queryCosts
			x.costs.rounds, x.costs.fewRows = []int{1, 2, 4}, 1
			*c.bound(&x.costs) = c.least - below
			a, err := x.Studies(bg, c.q)
			if err != nil || a.Incomplete != (below > 0) {
				t.Errorf("%s: bound %d below: incomplete %v, %v", name, below, a.Incomplete, err)
			}
			n, exact, err := x.Count(bg, c.q)
			if err != nil || exact != (below == 0) || exact && n != len(a.Studies) {
				t.Errorf("%s: bound %d below: counted %d, exact %v, %v", name, below, n, exact, err)
			}
			if want := persons * studies; below == 0 && c.q.Sex != "X" && n != want {
				t.Errorf("%s: %d found, want %d", name, n, want)
			}
		}
	}
	// What is counted by rows alone is held, and bounded too.
	for _, bound := range []func(*costs) *int{func(c *costs) *int { return &c.counted }, func(c *costs) *int { return &c.walked }} {
		for below := range 2 {
			x.costs = queryCosts
			*bound(&x.costs) = persons*studies - below
			n, exact, err := x.Count(bg, Query{Modalities: []string{"CT"}, Date: Range{From: "20240101"}})
			if err != nil || exact != (below == 0) || n != persons*studies-below {
				t.Errorf("bound %d below: counted %d, exact %v, %v", below, n, exact, err)
			}
		}
	}
}

// A sex alone, or the end of a name alone, is no way by persons: studies are walked by date, and of each the person is read. So with dates
// no more are read than have a study then, however many there are, and the list of a day is whole. Dates that hold more do not help.
func TestDatesBoundThePersonsThatAreRead(t *testing.T) {
	const persons = 200
	x := openTest(t, "RAA", foundRegion("RAA"))
	sayPeople(t, x, persons, 1, func(i int) Study {
		return Study{Name: fmt.Sprintf("NAME%03d^X", i), Sex: []string{"F", "M"}[i%2], Modalities: []string{"CT"}}
	})
	month, day := Range{From: "20241201", To: "20241231"}, Range{From: "20241210", To: "20241210"} // 28 studies and one
	for name, rounds := range map[string][]int{"counted": {128, 2048, 16384}, "not counted": {1, 2, 4}} {
		x.costs = queryCosts
		x.costs.rounds, x.costs.fewRows, x.costs.asked = rounds, 1, 28
		for _, c := range []struct {
			q          Query
			found      int
			incomplete bool
		}{
			{Query{Sex: "F", Date: month}, 14, false},
			{Query{Sex: "X", Date: month}, 0, false},
			{Query{Name: "*X", Date: month}, 28, false},
			{Query{Name: "*Y", Date: month}, 0, false},
			{Query{Sex: "F", Date: month, Modalities: []string{"CT"}}, 14, false},
			{Query{Sex: "F", Date: day}, 1, false},
			{Query{Sex: "F"}, 14, true},
			{Query{Sex: "X"}, 0, true},
			{Query{Name: "*X"}, 28, true},
			{Query{Sex: "F", Date: Range{From: "20241101"}}, 14, true},
		} {
			a, err := x.Studies(bg, c.q)
			if err != nil || len(a.Studies) != c.found || a.Incomplete != c.incomplete {
				t.Errorf("%s: %+v: %d studies, incomplete %v, %v", name, c.q, len(a.Studies), a.Incomplete, err)
			}
		}
		// A page that is full before the bound is met lacks nothing.
		if a, err := x.Studies(bg, Query{Sex: "F", Limit: 5}); err != nil || len(a.Studies) != 5 || !a.More || a.Incomplete {
			t.Errorf("%s: a page of %d, incomplete %v, %v", name, len(a.Studies), a.Incomplete, err)
		}
	}
}

// A study of which several authors speak is counted once, whatever they say of its date.
func TestACountByRowsAloneCountsAStudyOnce(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
	var other []Statement
	for i := range 6 {
		say(t, x, mustStudy(t, Study{UID: uidOf(i), Date: "20240102", Modalities: []string{"CT"}}))
		other = append(other, mustStudy(t, Study{UID: uidOf(i), Date: []string{"20240102", "20240105"}[i%2], Modalities: []string{"CT"}}))
	}
	if _, err := x.Take(sealed(t, nodeKeyOf("RBB"), 1, other)); err != nil {
		t.Fatal(err)
	}
	for _, q := range []Query{{Modalities: []string{"CT"}}, {Date: Range{From: "20240101"}}} {
		if n, exact, err := x.Count(bg, q); n != 6 || !exact || err != nil {
			t.Errorf("%+v: counted %d, exact %v, %v", q, n, exact, err)
		}
	}
}

// endsAfter is a context that ends when it has been asked so often whether it has.
type endsAfter struct {
	context.Context
	left int
}

func (e *endsAfter) Err() error {
	if e.left--; e.left < 0 {
		return context.Canceled
	}
	return nil
}

// A query ends when nobody waits for its answer any more, wherever it is.
func TestAQueryEndsWithItsContext(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	sayPeople(t, x, 5*stride, 1, smith)
	ended, cancel := context.WithCancel(bg)
	cancel()
	for _, q := range []Query{
		{}, {Description: "NOTHING"}, {Sex: "X"}, {Name: "SMITH*", Sex: "X"}, {Name: "SMITH*", Description: "NOTHING"}, {Modalities: []string{"CT"}}, {Date: Range{From: "20240101"}}, {StudyUIDs: []string{uidOf(0)}},
	} {
		if _, err := x.Studies(ended, q); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v: answered, %v", q, err)
		}
		if _, _, err := x.Count(ended, q); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v: counted, %v", q, err)
		}
	}
	if _, err := x.Patient(ended, uidOf(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("a patient was answered, %v", err)
	}
	// While it looks at rows that give nothing, and while it reads persons, or the studies of persons, side by side.
	x.costs.rounds = []int{1, 2, 4}
	for name, q := range map[string]Query{"walk": {Sex: "X"}, "collected": {Name: "SMITH*", Sex: "X"}, "rows": {Date: Range{From: "20240101"}}} {
		ctx := &endsAfter{bg, 3}
		_, _, err := x.Count(ctx, q)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// While it reads studies.
	m, err := x.matcher(Query{Description: "NOTHING"})
	if err != nil {
		t.Fatal(err)
	}
	err = x.db.View(func(txn *badgerTxn) error {
		s := m.search(&endsAfter{bg, 3}, txn)
		if _, err := s.each(func(found) (bool, error) { return true, nil }); !errors.Is(err, context.Canceled) || s.examined > 3*readAhead {
			t.Errorf("%d studies were read, %v", s.examined, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err = x.matcher(Query{Name: "SMITH*", Sex: "X"})
	if err != nil {
		t.Fatal(err)
	}
	err = x.db.View(func(txn *badgerTxn) error {
		got, _, err := m.search(bg, txn).collectPersons(m.plans()[0], maxCandidates, maxCandidates)
		if err != nil {
			return err
		}
		s := m.search(ended, txn)
		if _, err := s.sift(got.keys); !errors.Is(err, context.Canceled) {
			t.Errorf("all persons were read, %v", err)
		}
		if _, _, err := s.ofPersons(got.keys, maxCandidates); !errors.Is(err, context.Canceled) {
			t.Errorf("all their studies were looked up, %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Whichever of the readers side by side has too many studies, or comes to what is damaged, all of them are not answered.
func TestEachReaderOfManyPersonsIsHeard(t *testing.T) {
	const persons, more, limit = 100, 150, 140
	for share := range readers {
		x := openTest(t, "RAA", foundRegion("RAA"))
		sayPeople(t, x, persons, 1, smith)
		who, of := map[personKey]bool{}, map[personKey]Study{}
		for i := range persons {
			k := x.personKey(smith(i).person())
			who[k], of[k] = true, smith(i)
		}
		keys := slices.SortedFunc(maps.Keys(who), func(a, b personKey) int { return bytes.Compare(a[:], b[:]) })
		one := keys[(2*share+1)*persons/(2*readers)]
		var list []Statement
		for i := range more {
			s := of[one]
			s.UID = uidOf(1000 + i)
			list = append(list, mustStudy(t, s))
		}
		for some := range slices.Chunk(list, MaxFacts) {
			say(t, x, some...)
		}
		read := func(limit int) (rows []placed, all bool, err error) {
			m, err := x.matcher(Query{Name: "SMITH*"})
			if err != nil {
				t.Fatal(err)
			}
			err = x.db.View(func(txn *badgerTxn) (err error) {
				rows, all, err = m.search(bg, txn).ofPersons(who, limit)
				return err
			})
			return rows, all, err
		}
		if rows, all, err := read(persons + more); len(rows) != persons+more || !all || err != nil {
			t.Errorf("share %d: %d rows, all %v, %v", share, len(rows), all, err)
		}
		if _, all, err := read(limit); all || err != nil {
			t.Errorf("share %d: all %v, %v", share, all, err)
		}
		if err := x.db.Update(func(txn *badgerTxn) error { return txn.Set(append(append([]byte{tabOf}, one[:]...), 1), nil) }); err != nil {
			t.Fatal(err)
		}
		var damaged *DamagedError
		if _, _, err := read(persons + more); !errors.As(err, &damaged) {
			t.Errorf("share %d: what is damaged was passed over, %v", share, err)
		}
		// And of the readers of what is said of persons.
		if err := x.db.Update(func(txn *badgerTxn) error { return txn.Set(personRow(one), []byte{1}) }); err != nil {
			t.Fatal(err)
		}
		if _, err := x.Studies(bg, Query{Name: "SMITH*", Sex: "O"}); !errors.As(err, &damaged) {
			t.Errorf("share %d: a damaged person was passed over, %v", share, err)
		}
	}
}
