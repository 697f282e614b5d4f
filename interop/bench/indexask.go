package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/simulations/synthetic"
)

// A question is asked of a study drawn at random: query makes it, and check
// holds the answer against what is known of the study.
type question struct {
	name   string
	target string
	ask    func(x *index.Index, r *synthetic.Region, i int, rnd *rand.Rand) (found int, err error)
}

// asked is how long one question took.
type asked struct {
	Name          string
	Target        string
	Draws         int
	P50, P99, Max time.Duration
	Found         float64 // studies on average
	GaveUp        int     // answers that say they are incomplete
}

// told is what a node that was asked reports.
type told struct {
	Open  time.Duration
	Asked []asked
}

var errGaveUp = fmt.Errorf("incomplete")

// study asks for studies and wants the one drawn among them, unless the page is full.
func studyOf(uid string, q index.Query) func(x *index.Index) (int, error) {
	return func(x *index.Index) (int, error) {
		a, err := x.Studies(context.Background(), q)
		if err != nil {
			return 0, err
		}
		if a.Incomplete {
			return len(a.Studies), errGaveUp
		}
		if !a.More && q.Offset == 0 && !slices.ContainsFunc(a.Studies, func(s index.StudyAnswer) bool { return s.UID == uid }) {
			return 0, fmt.Errorf("the study asked for is not among the %d of the answer", len(a.Studies))
		}
		return len(a.Studies), nil
	}
}

func query(name, target string, of func(s index.Study, rnd *rand.Rand) index.Query) question {
	return question{name, target, func(x *index.Index, r *synthetic.Region, i int, rnd *rand.Rand) (int, error) {
		_, s := r.Study(i)
		return studyOf(s.UID, of(s, rnd))(x)
	}}
}

// around is a range of days that holds a date.
func around(date string, days int, rnd *rand.Rand) index.Range {
	d, err := time.Parse("20060102", date)
	if err != nil {
		panic(err) // the region's own
	}
	from := d.AddDate(0, 0, -rnd.IntN(days))
	return index.Range{From: from.Format("20060102"), To: from.AddDate(0, 0, days-1).Format("20060102")}
}

// prefix is how a family name begins: 3 to 5 letters.
func prefix(name string, rnd *rand.Rand) string {
	family, _, _ := strings.Cut(name, "^")
	r := []rune(family)
	return string(r[:min(len(r), 3+rnd.IntN(3))]) + "*"
}

var questions = []question{
	query("patient, by number and issuer", "p99 < 5 ms", func(s index.Study, _ *rand.Rand) index.Query {
		return index.Query{PatientID: s.Patient[0].ID, Issuer: s.Patient[0].Issuer}
	}),
	{"patient, by NHS number", "p99 < 5 ms", func(x *index.Index, r *synthetic.Region, i int, _ *rand.Rand) (int, error) {
		_, s := r.Study(i)
		for ; s.NHS == ""; i = (i + 1) % r.Len() {
			_, s = r.Study(i)
		}
		return studyOf(s.UID, index.Query{NHS: s.NHS})(x)
	}},
	{"patient, derived from a study", "p99 < 5 ms", func(x *index.Index, r *synthetic.Region, i int, _ *rand.Rand) (int, error) {
		_, s := r.Study(i)
		p, err := x.Patient(context.Background(), s.UID)
		if err == nil && !slices.Contains(p.Certain, s.UID) {
			err = fmt.Errorf("a study is not among those of its patient")
		}
		return len(p.Certain) + len(p.Possible), err
	}},
	query("worklist: a day, first 100", "p99 < 20 ms", func(s index.Study, _ *rand.Rand) index.Query {
		return index.Query{Date: index.Range{From: s.Date, To: s.Date}, Limit: 100}
	}),
	query("worklist: a day and modality, first 100", "p99 < 20 ms", func(s index.Study, _ *rand.Rand) index.Query {
		return index.Query{Date: index.Range{From: s.Date, To: s.Date}, Modalities: s.Modalities[:1], Limit: 100}
	}),
	{"worklist: a day of one trust, first 100", "p99 < 20 ms", func(x *index.Index, r *synthetic.Region, i int, _ *rand.Rand) (int, error) {
		t, s := r.Study(i)
		return studyOf(s.UID, index.Query{Date: index.Range{From: s.Date, To: s.Date}, Trust: r.Trusts()[t].ID, Limit: 100})(x)
	}},
	query("name prefix, a week", "p99 < 50 ms", func(s index.Study, rnd *rand.Rand) index.Query {
		return index.Query{Name: prefix(s.Name, rnd), Date: around(s.Date, 7, rnd), Limit: 100}
	}),
	query("name prefix, a month", "p99 < 50 ms", func(s index.Study, rnd *rand.Rand) index.Query {
		return index.Query{Name: prefix(s.Name, rnd), Date: around(s.Date, 30, rnd), Limit: 100}
	}),
	query("name prefix, a year", "p99 < 50 ms", func(s index.Study, rnd *rand.Rand) index.Query {
		return index.Query{Name: prefix(s.Name, rnd), Date: around(s.Date, 365, rnd), Limit: 100}
	}),
	query("family and given name, any date", "", func(s index.Study, _ *rand.Rand) index.Query {
		c := strings.Split(s.Name, "^")
		return index.Query{Name: c[0] + "^" + c[1] + "*", Limit: 100}
	}),
	query("fuzzy name, two words", "", func(s index.Study, _ *rand.Rand) index.Query {
		c := strings.Split(s.Name, "^")
		return index.Query{Name: c[1] + " " + c[0], Fuzzy: true, Limit: 100}
	}),
	query("accession number and issuer", "p99 < 5 ms", func(s index.Study, _ *rand.Rand) index.Query {
		return index.Query{Accession: s.Accession, AccessionIssuer: s.AccessionIssuer}
	}),
	query("accession number alone", "", func(s index.Study, _ *rand.Rand) index.Query {
		return index.Query{Accession: s.Accession}
	}),
	{"20 study UIDs", "", func(x *index.Index, r *synthetic.Region, i int, rnd *rand.Rand) (int, error) {
		_, s := r.Study(i)
		uids := []string{s.UID}
		for len(uids) < min(20, r.Len()) {
			if _, s := r.Study(rnd.IntN(r.Len())); !slices.Contains(uids, s.UID) {
				uids = append(uids, s.UID)
			}
		}
		a, err := x.Studies(context.Background(), index.Query{StudyUIDs: uids})
		if err == nil && len(a.Studies) != len(uids) {
			err = fmt.Errorf("%d of %d studies were found", len(a.Studies), len(uids))
		}
		return len(a.Studies), err
	}},
	query("modality in a month, fifth 100", "", func(s index.Study, rnd *rand.Rand) index.Query {
		return index.Query{Modalities: s.Modalities[:1], Date: around(s.Date, 30, rnd), Offset: 400, Limit: 100}
	}),
	{"count of a week", "", func(x *index.Index, r *synthetic.Region, i int, rnd *rand.Rand) (int, error) {
		_, s := r.Study(i)
		n, exact, err := x.Count(context.Background(), index.Query{Date: around(s.Date, 7, rnd)})
		if err == nil && n < 1 {
			err = fmt.Errorf("nothing was counted in a week that holds a study")
		}
		if err == nil && !exact {
			err = errGaveUp
		}
		return n, err
	}},
}

// askPart opens an index and asks it, each question of studies drawn anew.
func askPart(ctx context.Context, p part) (any, error) {
	r, err := synthetic.New(p.Region)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	x, db, err := openNode(p)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	out := told{Open: time.Since(began)}
	// The first questions after a start find every cache of the process empty, and have a row of their own.
	first := questions[0]
	first.name, first.target = first.name+fmt.Sprintf(": the first %d after a start", firstDraws), ""
	for n, q := range slices.Concat([]question{first}, questions) {
		draws := p.Draws
		if n == 0 {
			draws = min(draws, firstDraws)
		}
		a, err := askDraws(ctx, q, x, r, rand.New(rand.NewPCG(p.Region.Seed, uint64(n))), draws, p.Each)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", q.name, err)
		}
		out.Asked = append(out.Asked, a)
	}
	return out, db.Close()
}

// firstDraws is how many questions are asked before the caches count as filled: until most pages of ten million studies' files are mapped.
const firstDraws = 2000

// askDraws asks one question of studies drawn by rnd, draws times or for as long as each says.
func askDraws(ctx context.Context, q question, x *index.Index, r *synthetic.Region, rnd *rand.Rand, draws int, each time.Duration) (asked, error) {
	a := asked{Name: q.name, Target: q.target}
	var took []time.Duration
	sum := 0
	for began := time.Now(); len(took) < draws && (len(took) < 3 || time.Since(began) < each); {
		if err := ctx.Err(); err != nil {
			return a, err
		}
		i := rnd.IntN(r.Len())
		r.Study(i) // making it up is not the question's
		at := time.Now()
		found, err := q.ask(x, r, i, rnd)
		took = append(took, time.Since(at))
		if err == errGaveUp {
			a.GaveUp++
		} else if err != nil {
			return a, err
		}
		sum += found
	}
	a.Draws, a.Found = len(took), float64(sum)/float64(len(took))
	a.P50, a.P99, a.Max = quantiles(took)
	return a, nil
}

func quantiles(took []time.Duration) (p50, p99, most time.Duration) {
	slices.Sort(took)
	at := func(p float64) time.Duration { return took[min(len(took)-1, int(p*float64(len(took))))] }
	return at(0.5), at(0.99), took[len(took)-1]
}
