package priors

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// world is an index and an archive in which each study knows its patient's
// others.
type world struct {
	mu       sync.Mutex
	certain  map[string][]string
	possible map[string][]string
	arrivals map[string]time.Time
	asked    []string
	failing  bool
}

func (w *world) Study(uid string) ([]index.Authored[index.Study], bool) {
	_, ok := w.certain[uid]
	return []index.Authored[index.Study]{{Value: index.Study{UID: uid}}}, ok
}

func (w *world) Patient(uid string) (index.Patient, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing {
		w.failing = false
		return index.Patient{}, errors.New("the disk does not answer")
	}
	return index.Patient{Certain: append([]string{uid}, w.certain[uid]...), Possible: w.possible[uid]}, nil
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
				if err := e.apply("new"); err == nil {
					t.Fatal("a failure was taken for an answer")
				}
			}
			e.arrived, _ = w.Arrivals(now.Add(-window))
			for _, s := range c.heard {
				if err := e.apply(s); err != nil {
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
