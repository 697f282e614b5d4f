package priors

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// Index is what the rules read.
type Index interface {
	Study(uid string) ([]index.Authored[index.Study], bool)
	Patient(uid string) (index.Patient, error)
}

// Archive is what the rules ask of the archive.
type Archive interface {
	Arrivals(since time.Time) (map[string]time.Time, error)
	ArrivedAt(study string) (time.Time, error)
	Enqueue(study string, p archive.Priority, reason, order string) error
	// Refresh brings the newest revision of a study of which a copy is here.
	Refresh(study string) error
}

// Options configure an Engine.
type Options struct {
	Index   Index
	Archive Archive
	Self    index.NodeID
	Window  time.Duration
	Now     func() time.Time
	Log     *slog.Logger
}

// Engine applies the rules to what the index hears.
type Engine struct {
	Options
	arrived map[string]time.Time // within the window; only run touches it
	mu      sync.Mutex
	heard   map[string]bool // studies to look at
	wake    chan struct{}
	stopped chan struct{}
	cancel  context.CancelFunc
}

// retryAfter is the wait after the rules could not be applied (a failing disk).
const retryAfter = 5 * time.Second

// New makes an engine. Nothing happens until Start.
func New(o Options) *Engine {
	return &Engine{Options: o, heard: make(map[string]bool), wake: make(chan struct{}, 1)}
}

// Start applies the rules to what arrived before the start, and from then on
// to what Heard names.
func (e *Engine) Start() error {
	var err error
	if e.arrived, err = e.Archive.Arrivals(e.Now().Add(-e.Window)); err != nil {
		return err
	}
	for study := range e.arrived {
		e.Heard(study)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel, e.stopped = cancel, make(chan struct{})
	go e.run(ctx)
	return nil
}

// Close waits for the rule that is being applied.
func (e *Engine) Close() {
	if e.cancel != nil {
		e.cancel()
		<-e.stopped
	}
}

// Heard says that the index has heard something of a study. It does not block.
func (e *Engine) Heard(study string) {
	e.mu.Lock()
	e.heard[study] = true
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *Engine) run(ctx context.Context) {
	defer close(e.stopped)
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		}
		e.mu.Lock()
		heard := e.heard
		e.heard = make(map[string]bool)
		e.mu.Unlock()
		var err error
		for study := range heard {
			if err == nil {
				err = e.apply(study)
			}
			if err != nil {
				e.Heard(study)
			}
		}
		if err != nil {
			e.Log.Error("the prior rules could not be applied; trying again", "in", retryAfter, "error", err)
			t := time.NewTimer(retryAfter)
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			t.Stop()
		}
	}
}

// current says whether a study arrived here within the window, and forgets
// those that did so before.
func (e *Engine) current(study string) bool {
	at, ok := e.arrived[study]
	if ok && e.Now().Sub(at) > e.Window {
		delete(e.arrived, study)
		ok = false
	}
	return ok
}

// apply brings what study is a prior of, or what is a prior of it.
func (e *Engine) apply(study string) error {
	if _, known := e.Index.Study(study); !known {
		return nil // not told yet: the fact will come
	}
	at, err := e.Archive.ArrivedAt(study)
	if err != nil {
		return err
	}
	if !at.IsZero() {
		e.arrived[study] = at
	}
	p, err := e.Index.Patient(study)
	if err != nil {
		return err
	}
	if p.Incomplete {
		e.Log.Warn("there are too many studies under this patient's identifiers to look at all: priors may be missing", "study", dicom.UID(study).Short())
	}
	// A copy follows its origin, however it came here.
	if err := e.Archive.Refresh(study); err != nil && !errors.Is(err, archive.ErrNotFound) {
		return err
	}
	// It is the arrived study's view of the patient that decides, whichever was
	// heard of last; and what was heard of may be the link to others.
	for _, current := range slices.Concat(p.Certain, p.Possible, []string{study}) {
		if !e.current(current) {
			continue
		}
		its, err := e.Index.Patient(current)
		if err != nil {
			return err
		}
		if current != study && !slices.Contains(its.Certain, study) {
			continue
		}
		for _, prior := range its.Certain {
			if err := e.bring(prior, current); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) bring(prior, current string) error {
	if prior == current {
		return nil
	}
	said, _ := e.Index.Study(prior)
	order := ""
	for _, st := range said {
		if st.Author == e.Self {
			continue
		}
		order = max(order, st.Value.Date+st.Value.Time)
	}
	err := e.Archive.Enqueue(prior, archive.Prior, "a prior of study "+dicom.UID(current).Short(), order)
	if errors.Is(err, archive.ErrNotFound) {
		return nil
	}
	return err
}
