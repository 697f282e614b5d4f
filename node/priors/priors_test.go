package priors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// world is an index and an archive in which each study knows its patient's
// others.
type world struct {
	mu         sync.Mutex
	certain    map[string][]string
	possible   map[string][]string
	crowded    map[string]bool
	incomplete bool
	arrivals   map[string]time.Time
	asked      []string
	failing    bool
	name       func(uid string) string // of the patient, as a study has it; nil: each has another
	looks      int                     // calls of Patient
	on         func()                  // called at each
}

func (w *world) Study(uid string) ([]index.Authored[index.Study], error) {
	if _, ok := w.certain[uid]; !ok {
		return nil, nil
	}
	name := uid
	if w.name != nil {
		name = w.name(uid)
	}
	return []index.Authored[index.Study]{{Value: index.Study{UID: uid, Patient: []index.PatientID{{ID: "0000"}}, Name: name}}}, nil
}

func (w *world) Patient(_ context.Context, uid string) (index.Patient, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	if w.on != nil {
		w.on()
	}
	if w.failing {
		w.failing = false
		return index.Patient{}, errors.New("the disk does not answer")
	}
	p := index.Patient{Certain: append([]string{uid}, w.certain[uid]...), Possible: w.possible[uid], Incomplete: w.incomplete}
	if w.crowded[uid] {
		p.Crowded = []index.Identifier{{NHS: "9434765919"}}
	}
	return p, nil
}

func (w *world) Arrivals(since time.Time) (map[string]time.Time, error) {
	out := make(map[string]time.Time)
	for s, at := range w.arrivals {
		if !at.Before(since) {
			out[s] = at
		}
	}
	return out, nil
}

func (w *world) ArrivedAt(study string) (time.Time, error) { return w.arrivals[study], nil }

func (w *world) Refresh(string) error { return nil }

func (w *world) Enqueue(study string, p archive.Priority, _, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p != archive.Prior {
		return errors.New("a prior is queued as one")
	}
	w.asked = append(w.asked, study)
	return nil
}

func TestWhatIsBrought(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const window = 24 * time.Hour
	for name, c := range map[string]struct {
		world *world
		heard []string
		want  []string
	}{
		"the priors of a study that arrives": {
			&world{certain: map[string][]string{"new": {"a", "b"}, "a": {"new", "b"}, "b": {"new", "a"}}, arrivals: map[string]time.Time{"new": now}},
			[]string{"new"}, []string{"a", "b"}},
		"a possible match never": {
			&world{certain: map[string][]string{"new": nil, "a": nil}, possible: map[string][]string{"new": {"a"}, "a": {"new"}}, arrivals: map[string]time.Time{"new": now}},
			[]string{"new", "a"}, nil},
		"nothing for a backfill": {
			&world{certain: map[string][]string{"old": {"a"}, "a": {"old"}}},
			[]string{"old", "a"}, nil},
		"a prior that is heard of after the arrival": {
			&world{certain: map[string][]string{"new": {"a"}, "a": {"new"}}, arrivals: map[string]time.Time{"new": now.Add(-window)}},
			[]string{"a"}, []string{"a"}},
		"nothing after the window": {
			&world{certain: map[string][]string{"new": {"a"}, "a": {"new"}}, arrivals: map[string]time.Time{"new": now.Add(-window - 1)}},
			[]string{"new", "a"}, nil},
		"nothing when the arrived study's own view says no": {
			&world{certain: map[string][]string{"new": nil, "a": {"new"}}, arrivals: map[string]time.Time{"new": now}},
			[]string{"new", "a"}, nil},
		"yes when only the arrived study's view says so": {
			&world{certain: map[string][]string{"new": {"a"}, "a": nil}, possible: map[string][]string{"a": {"new"}}, arrivals: map[string]time.Time{"new": now}},
			[]string{"a"}, []string{"a"}},
		"after a failing disk": {
			&world{certain: map[string][]string{"new": {"a"}, "a": {"new"}}, arrivals: map[string]time.Time{"new": now}, failing: true},
			[]string{"new"}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := c.world
			e := New(Options{Index: w, Archive: w, Window: window, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
			if w.failing {
				e.arrived = map[string]time.Time{}
				if failed, err := e.apply(t.Context(), map[string]bool{"new": true}); err == nil || !slices.Equal(failed, []string{"new"}) {
					t.Fatalf("a failure was taken for an answer: %v, to try again %v", err, failed)
				}
			}
			e.arrived, _ = w.Arrivals(now.Add(-window))
			for _, s := range c.heard {
				if _, err := e.apply(t.Context(), map[string]bool{s: true}); err != nil {
					t.Fatal(err)
				}
			}
			slices.Sort(w.asked)
			if got := slices.Compact(w.asked); !slices.Equal(got, c.want) {
				t.Errorf("brought %v, want %v", got, c.want)
			}
		})
	}
}

// What is not brought since a person decides is counted for as long as the window lasts, and said once, with no more of a UID than is shown.
func TestWhatIsNotBroughtIsSaid(t *testing.T) {
	const arrived, other, window = "1.2.826.0.1.3680043.8.498.11111111", "1.2.826.0.1.3680043.8.498.22222222", time.Hour
	now := time.Unix(1_700_000_000, 0)
	w := &world{certain: map[string][]string{arrived: nil, other: nil}, possible: map[string][]string{arrived: {other, "b"}}, crowded: map[string]bool{other: true},
		arrivals: map[string]time.Time{arrived: now, other: now}}
	var said strings.Builder
	e := New(Options{Index: w, Archive: w, Window: window, Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&said, nil))})
	e.arrived = map[string]time.Time{}
	for range 2 {
		if _, err := e.apply(t.Context(), map[string]bool{arrived: true, other: true}); err != nil {
			t.Fatal(err)
		}
	}
	if got := e.Doubts(); !reflect.DeepEqual(got, Doubts{Possible: 1, Crowded: 1, Studies: []string{arrived, other}}) {
		t.Errorf("%+v", got)
	}
	if log := said.String(); strings.Count(log, "not brought") != 2 || strings.Count(log, "possible=2") != 1 || strings.Contains(log, arrived) || strings.Contains(log, other) {
		t.Errorf("said %s", log)
	}
	now = now.Add(window + 1)
	if got := e.Doubts(); !reflect.DeepEqual(got, Doubts{}) {
		t.Errorf("after the window: %+v", got)
	}
}

// Where not all was looked at that is counted, whether the index says so or the rules have looked at too much.
func TestWhatIsNotLookedAtIsCounted(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w := &world{certain: map[string][]string{"new": nil}, arrivals: map[string]time.Time{"new": now}, incomplete: true}
	e := engine(w, now)
	for _, want := range []Doubts{{Limited: 1, Studies: []string{"new"}}, {}} {
		w.incomplete = want.Limited > 0
		if _, err := e.apply(t.Context(), map[string]bool{"new": true}); err != nil {
			t.Fatal(err)
		}
		if got := e.Doubts(); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	w, heard := group(1000, now)
	e = engine(w, now)
	if _, err := e.apply(t.Context(), heard); err != nil {
		t.Fatal(err)
	}
	if got, most := e.Doubts(), 1000-w.looks; got.Limited != most {
		t.Errorf("%d of %d that were not looked at", got.Limited, most)
	}
}

// What is remembered of arrivals goes with the window, and only what is in doubt is remembered as such; nor are identifiers without bound.
func TestWhatIsRememberedIsBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w, heard := group(50, now)
	w.possible = map[string][]string{"s0001": {"x"}}
	e := engine(w, now)
	e.Now = func() time.Time { return now }
	if _, err := e.apply(t.Context(), heard); err != nil {
		t.Fatal(err)
	}
	if len(e.arrived) != 50 || len(e.doubts) != 1 {
		t.Errorf("%d arrivals, %d doubts", len(e.arrived), len(e.doubts))
	}
	now = now.Add(e.Window + 1)
	if _, err := e.apply(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if len(e.arrived) != 0 || len(e.doubts) != 0 {
		t.Errorf("after the window: %d arrivals, %d doubts", len(e.arrived), len(e.doubts))
	}
	b := burst{Engine: e}
	for i := range 3*maxExcess + 1 {
		b.tooMany("1.2", &statement{under: []index.PatientID{{ID: fmt.Sprint(i)}}})
	}
	if n := len(e.excess) + len(e.before); n > 2*maxExcess {
		t.Errorf("%d identifiers", n)
	}
	var said strings.Builder
	e.Log = slog.New(slog.NewTextHandler(&said, nil))
	for _, id := range []int{3 * maxExcess, 3*maxExcess - 1} {
		b.tooMany("1.2", &statement{under: []index.PatientID{{ID: fmt.Sprint(id)}}})
	}
	if said.Len() > 0 {
		t.Errorf("said again: %s", said.String())
	}
}

// What arrived before a crash is looked at again after it.
func TestStartLooksAtWhatArrivedBefore(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w := &world{certain: map[string][]string{"new": {"a"}, "a": {"new"}}, arrivals: map[string]time.Time{"new": now}}
	e := New(Options{Index: w, Archive: w, Window: time.Hour, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		got := slices.Clone(w.asked)
		w.mu.Unlock()
		slices.Sort(got)
		if slices.Equal(slices.Compact(got), []string{"a"}) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("brought %v", got)
		}
	}
}

// group makes n studies of one patient, all of which arrived now.
func group(n int, now time.Time) (*world, map[string]bool) {
	w := &world{certain: map[string][]string{}, arrivals: map[string]time.Time{}}
	heard := map[string]bool{}
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("s%04d", i)
		heard[all[i]] = true
		w.arrivals[all[i]] = now
	}
	for i, s := range all {
		w.certain[s] = slices.Concat(all[:i], all[i+1:])
	}
	return w, heard
}

func engine(w *world, now time.Time) *Engine {
	e := New(Options{Index: w, Archive: w, Window: time.Hour, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	e.arrived = map[string]time.Time{}
	return e
}

// A test object is examined every day under one number.
func TestABurstOfOnePatientIsOneLook(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const n = 300
	w, heard := group(n, now)
	w.name = func(string) string { return "PHANTOM^QA" }
	if _, err := engine(w, now).apply(t.Context(), heard); err != nil {
		t.Fatal(err)
	}
	if w.looks != 1 || len(w.asked) != n {
		t.Errorf("%d looks at the patient and %d requests for %d studies of which the same is said", w.looks, len(w.asked), n)
	}
	slices.Sort(w.asked)
	if got := len(slices.Compact(w.asked)); got != n {
		t.Errorf("%d of %d studies brought: each is a prior of the others", got, n)
	}
}

// One of each name arrived; what has no prior is not made one by its namesake.
func TestOneOfManyAlikeArrived(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w, heard := group(5, now)
	w.name = func(string) string { return "PHANTOM^QA" }
	w.arrivals = map[string]time.Time{"s0003": now}
	if _, err := engine(w, now).apply(t.Context(), heard); err != nil {
		t.Fatal(err)
	}
	slices.Sort(w.asked)
	if want := []string{"s0000", "s0001", "s0002", "s0004"}; !slices.Equal(w.asked, want) {
		t.Errorf("brought %v, want %v", w.asked, want)
	}

	// Authors contradict each other about these: none is certainly another's.
	w, heard = group(3, now)
	w.name = func(string) string { return "PHANTOM^QA" }
	for s := range w.certain {
		w.possible = map[string][]string{"s0000": {"s0001", "s0002"}}
		w.certain[s] = nil
	}
	if _, err := engine(w, now).apply(t.Context(), heard); err != nil {
		t.Fatal(err)
	}
	if len(w.asked) > 0 {
		t.Errorf("brought %v, which are not certainly priors", w.asked)
	}
}

// Under the number of all who have none there are many names.
func TestManyNamesUnderOneNumber(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, n := range []int{100, 1000} {
		w, heard := group(n, now)
		e := engine(w, now)
		if _, err := e.apply(t.Context(), heard); err != nil {
			t.Fatal(err)
		}
		if most := min(n, maxLooks/n+1); w.looks != most {
			t.Errorf("%d looks of %d studies each, %d were to be made", w.looks, n, most)
		}
		if over := len(e.excess) > 0; over != (n == 1000) {
			t.Errorf("of %d studies: was said to be too much: %t", n, over)
		}
	}
}

func TestOnlyTheNewestOfTooManyPriors(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w, _ := group(maxPriors+100, now)
	w.name = func(string) string { return "PHANTOM^QA" }
	w.arrivals = map[string]time.Time{"s0000": now}
	e := engine(w, now)
	if _, err := e.apply(t.Context(), map[string]bool{"s0000": true}); err != nil {
		t.Fatal(err)
	}
	if want := w.certain["s0000"][:maxPriors-1]; !slices.Equal(w.asked, want) {
		t.Errorf("brought %d, from %v to %v", len(w.asked), w.asked[0], w.asked[len(w.asked)-1])
	}
	if len(e.excess) != 1 {
		t.Error("nothing was said of the others")
	}
	if got := e.Doubts(); got.Limited != 1 || got.Possible+got.Crowded > 0 || len(got.Studies) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestClosingEndsABurst(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w, heard := group(100, now)
	ctx, cancel := context.WithCancel(t.Context())
	w.on = func() {
		if w.looks == 2 {
			cancel()
		}
	}
	failed, err := engine(w, now).apply(ctx, heard)
	if err != nil || len(failed) > 0 {
		t.Fatal(failed, err)
	}
	if w.looks != 2 || len(w.asked) > 100 {
		t.Errorf("after the end of the engine there were %d looks, and %d studies brought", w.looks-2, len(w.asked))
	}
}
