package index

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What cannot be asked is refused by name, and which part of the query it is; nothing is passed over in silence.
func TestBadQueries(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	for field, list := range map[string][]Query{
		"Date": {{Date: Range{From: "2024"}}, {Date: Range{To: "20241301"}}, {Date: Range{From: "20240100"}}, {Date: Range{From: "20240132"}},
			{Date: Range{From: "20240102", To: "20240101"}}, {Date: Range{From: "2024010a"}}, {Date: Range{From: " "}}},
		"BirthDate":   {{BirthDate: Range{From: "19701399", To: "19801231"}}, {BirthDate: Range{From: "19700102", To: "19700101"}}, {BirthDate: Range{To: "yesterday"}}},
		"Time":        {{Time: Range{From: "2400"}}, {Time: Range{To: "1260"}}, {Time: Range{From: "1"}}},
		"Limit":       {{Limit: -1}, {Limit: MaxPage + 1}},
		"Offset":      {{Offset: -1}, {Offset: MaxExamined + 1}},
		"Zone":        {{Zone: "GMT"}, {Zone: "+2500"}},
		"After":       {{After: "x"}, {After: Cursor(strings.Repeat("0", 1<<20))}},
		"Name":        {{Name: strings.Repeat("*a", 200)}, {Name: strings.Repeat("a", MaxText+1)}, {Name: "a\x00"}, {Name: "-", Fuzzy: true}},
		"Modalities":  {{Modalities: make([]string, maxList+1)}, {Modalities: []string{strings.Repeat("?", MaxPattern+1)}}, {Modalities: []string{"\xff"}}},
		"StudyUIDs":   {{StudyUIDs: make([]string, MaxUIDs+1)}},
		"Description": {{Description: strings.Repeat("?", MaxPattern+1)}},
	} {
		for _, q := range list {
			var bad *QueryError
			if err := x.Check(q); !errors.As(err, &bad) || bad.Field != field || !strings.Contains(err.Error(), field) {
				t.Errorf("%s: %v", field, err)
			}
			if _, err := x.Studies(bg, q); !errors.As(err, &bad) {
				t.Errorf("%s: asked, and got %v", field, err)
			}
			if _, _, err := x.Count(bg, q); !errors.As(err, &bad) {
				t.Errorf("%s: counted, and got %v", field, err)
			}
		}
	}
	for _, q := range []Query{
		{Date: Range{"20240201", "20240231"}}, {Date: Range{"00010101", "99991231"}}, {Time: Range{"2300", "0100"}}, {Time: Range{"235960", ""}},
		{Combined: true, Date: Range{"20240101", "20240102"}, Time: Range{"12", "11"}}, {Name: strings.Repeat("a", MaxText)},
	} {
		if err := x.Check(q); err != nil {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// A count goes on where an answer ended, as the answer does.
func TestCountAfter(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	for i := range 9 {
		say(t, x, mustStudy(t, Study{UID: uidOf(i), Name: "DOE^JANE", Date: fmt.Sprintf("202401%02d", 1+i), Modalities: []string{"CT"}}))
	}
	for _, q := range []Query{{}, {Trust: "RAA"}, {Modalities: []string{"CT"}}, {Date: Range{From: "20240101"}}, {Name: "DOE^JANE"}, {Oldest: true}} {
		q.Limit = 4
		a, err := x.Studies(bg, q)
		if err != nil {
			t.Fatal(err)
		}
		q.After = a.Next
		if n, exact, err := x.Count(bg, q); n != 5 || !exact || err != nil {
			t.Errorf("%+v: %d after four of nine, %v, %v", q, n, exact, err)
		}
	}
}

// Whoever has many words in his name is found by each of them, and by all, in whatever order they are said and asked for.
func TestManyWords(t *testing.T) {
	var words []string
	for i := range 40 {
		words = append(words, fmt.Sprintf("word%c%c", 'a'+i/26, 'a'+i%26))
	}
	back := slices.Clone(words)
	slices.Reverse(back)
	x := openTest(t, "RAA", foundRegion("RAA"))
	names := map[string][]string{"1.1": words, "1.2": back}
	for uid, n := range names {
		say(t, x, mustStudy(t, Study{UID: uid, Name: strings.Join(n[:20], " ") + "^" + strings.Join(n[20:], " ")}))
	}
	found := func(name string) int {
		a, err := x.Studies(bg, Query{Name: name, Fuzzy: true})
		if err != nil || a.Incomplete {
			t.Fatal(err)
		}
		return len(a.Studies)
	}
	for _, w := range words {
		if n := found(w); n != 2 {
			t.Errorf("%d found by %s", n, w)
		}
	}
	if n := found(strings.Join(words, " ")); n != 2 {
		t.Errorf("%d found by all words", n)
	}
	for _, n := range []string{strings.Join(words, " ") + " nobody", "nobody " + strings.Join(back, " ")} {
		if n := found(n); n != 0 {
			t.Errorf("%d found by a word too many", n)
		}
	}
	// What is said no more is not found any more.
	for uid := range names {
		say(t, x, mustStudy(t, Study{UID: uid, Name: "DOE^JANE"}))
	}
	if n := found(words[0]) + found(words[39]); n != 0 {
		t.Errorf("%d found by a name that nobody has", n)
	}
}

// Of many persons whose names begin alike those are looked for that all else that is asked of a person fits: their studies are read and
// not those of all. Where most fit, nobody is looked at before a page is full.
func TestOfManyPersonsThoseAreReadThatAreAskedFor(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	const persons, each = 1200, 3
	var all []Statement
	for i := range persons {
		name, sex := fmt.Sprintf("SMITH^P%dN", i), "F"
		if i == 700 {
			name, sex = "SMITH^ZEBULONA", "O"
		}
		for k := range each {
			all = append(all, mustStudy(t, Study{UID: fmt.Sprintf("1.%d.%d", i, k), Patient: []PatientID{{fmt.Sprint("P", i), "RAA"}}, Name: name, Sex: sex, Date: "20240101"}))
		}
	}
	for group := range slices.Chunk(all, MaxFacts) {
		say(t, x, group...)
	}
	for name, c := range map[string]struct {
		q                       Query
		found, examined, looked int
	}{
		"a name and a sex":              {Query{Name: "SMITH", Sex: "O", Limit: 10}, each, 2 * each, persons},
		"the end of a name":             {Query{Name: "SMITH^*BULONA", Limit: 10}, each, 2 * each, persons},
		"what most are":                 {Query{Name: "SMITH", Sex: "F", Limit: 10}, 10, 100, 100},
		"a name that nobody else bears": {Query{Name: "SMITH^ZEB*", Limit: 10}, each, 2 * each, 3},
		"nobody":                        {Query{Name: "SMITH", Sex: "M", Limit: 10}, 0, 0, persons},
	} {
		m, err := x.matcher(c.q)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.db.View(func(txn *badgerTxn) error {
			s := m.search(bg, txn)
			got := map[string]bool{}
			complete, err := s.each(func(f found) (bool, error) { got[f.uid] = true; return len(got) < c.q.Limit, nil })
			if len(got) != c.found || !complete || s.examined > c.examined || s.asked > c.looked {
				t.Errorf("%s: %d studies, complete: %v; %d records and %d persons were looked at", name, len(got), complete, s.examined, s.asked)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// A query passes over so many rows and no more, in however many walks, and says so.
func TestAQueryWalksSoFarAndNoFurther(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	for i := range 20 {
		say(t, x, mustStudy(t, Study{UID: uidOf(i), Date: "20240101"}))
	}
	m, err := x.matcher(Query{Description: "NOTHING"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		left, walks int
		complete    bool
	}{{60, 3, true}, {59, 3, false}, {20, 1, true}, {19, 1, false}, {20, 2, false}} {
		err := x.db.View(func(txn *badgerTxn) error {
			s := m.search(bg, txn)
			s.walked = maxWalked - c.left
			v := s.visiting(func(found) (bool, error) { return true, nil })
			for range c.walks {
				if err := v.walk(m.plans()[0].rows[0], nil); err != nil {
					return err
				}
			}
			if v.complete != c.complete {
				t.Errorf("%+v: complete %v", c, v.complete)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
