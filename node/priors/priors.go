package priors

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// Index is what the rules read.
type Index interface {
	Study(uid string) ([]index.Authored[index.Study], error)
	Patient(ctx context.Context, uid string) (index.Patient, error)
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
	heard   map[string]bool          // studies to look at
	doubts  map[string]doubt         // of studies that arrived within the window and are in doubt
	excess  map[index.PatientID]bool // identifiers of more than is looked at; said once, and only run touches it
	before  map[index.PatientID]bool // those that were in excess when it was full
	wake    chan struct{}
	stopped chan struct{}
	cancel  context.CancelFunc
}

// Limits on what is done for one patient at once. A patient's studies stay far
// below them; those under the number of a test object, or of all who have
// none, may not. What is beyond them comes when somebody asks for it.
const (
	maxPriors = 1024     // studies brought for one arrival, the newest
	maxLooks  = 16 << 10 // studies under one identifier that the rules look at in one burst
	maxExcess = 4096     // identifiers that are remembered as said to be of more; twice as many for a while
)

// retryAfter is the wait after the rules could not be applied (a failing disk).
const retryAfter = 5 * time.Second

// New makes an engine. Nothing happens until Start.
func New(o Options) *Engine {
	return &Engine{Options: o, heard: make(map[string]bool), doubts: make(map[string]doubt), excess: make(map[index.PatientID]bool), wake: make(chan struct{}, 1)}
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

// Close waits for the step of a rule that is being taken. What was still to be
// looked at is looked at when the node starts again.
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
		failed, err := e.apply(ctx, heard)
		for _, study := range failed {
			e.Heard(study)
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

// current says whether a study arrived here within the window.
func (e *Engine) current(study string) bool {
	at, ok := e.arrived[study]
	return ok && e.Now().Sub(at) <= e.Window
}

// forget drops what arrived before the window.
func (e *Engine) forget() {
	now := e.Now()
	maps.DeleteFunc(e.arrived, func(_ string, at time.Time) bool { return now.Sub(at) > e.Window })
	e.mu.Lock()
	maps.DeleteFunc(e.doubts, func(_ string, d doubt) bool { return now.Sub(d.at) > e.Window })
	e.mu.Unlock()
}

// apply brings what the studies heard of are priors of, and what is a prior of
// them. It returns those that could not be seen to, and why one could not.
//
// It costs one look at the index for all that the same is said of, however many
// they are: see view.
func (e *Engine) apply(ctx context.Context, heard map[string]bool) (failed []string, err error) {
	e.forget()
	b := burst{Engine: e, ctx: ctx, heard: heard, said: make(map[string]*statement), views: make(map[string]*view), looks: make(map[index.PatientID]int)}
	at := make(map[string]time.Time, len(heard))
	for study := range heard {
		if ctx.Err() != nil {
			return nil, nil
		}
		t, wrong := e.Archive.ArrivedAt(study)
		if wrong != nil {
			failed, err = append(failed, study), wrong
			continue
		}
		if at[study] = t; !t.IsZero() {
			e.arrived[study] = t
		}
	}
	newest := slices.SortedFunc(maps.Keys(at), func(x, y string) int {
		return cmp.Or(at[y].Compare(at[x]), cmp.Compare(x, y))
	})
	for _, study := range newest {
		if ctx.Err() != nil {
			return nil, nil
		}
		if wrong := b.study(study); wrong != nil {
			failed, err = append(failed, study), wrong
		}
	}
	return failed, err
}

// burst is one round of the rules.
type burst struct {
	*Engine
	ctx   context.Context
	heard map[string]bool
	said  map[string]*statement // by study; nil: it is not known
	views map[string]*view      // by what is said
	looks map[index.PatientID]int
}

// statement is what all authors say of whose a study is.
type statement struct {
	text  string
	under []index.PatientID
	order string // of the newest, as what others say has it
}

// view is how the patient of a study looks. The index works it out from what is
// said of whose the study is and from nothing else, so all studies of which the
// same is said share one.
type view struct {
	rep     string // the study it was worked out from
	patient index.Patient
	heard   bool // what was heard of has been followed from it
	brought bool // its priors have been brought
}

func (b *burst) statement(study string) (*statement, error) {
	if st, known := b.said[study]; known {
		return st, nil
	}
	all, err := b.Index.Study(study)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		b.said[study] = nil
		return nil, nil
	}
	st := &statement{}
	st.text = index.Whose(all)
	for _, s := range all {
		v := s.Value
		ids := slices.Clone(v.Patient)
		if v.NHS != "" && strings.Trim(v.NHS, v.NHS[:1]) != "" { // one digit repeated stands for none
			ids = append(ids, index.PatientID{ID: v.NHS})
		}
		st.under = append(st.under, ids...)
		if s.Author != b.Self {
			st.order = max(st.order, v.Date+v.Time)
		}
	}
	b.said[study] = st
	return st, nil
}

// view is the view of a study's patient; nil where too much was looked at.
func (b *burst) view(study string, st *statement) (*view, error) {
	if v, known := b.views[st.text]; known {
		return v, nil
	}
	for _, id := range st.under {
		if b.looks[id] >= maxLooks {
			b.tooMany(study, st)
			b.views[st.text] = nil
			return nil, nil
		}
	}
	p, err := b.Index.Patient(b.ctx, study)
	if err != nil {
		return nil, err
	}
	for _, id := range st.under {
		b.looks[id] += max(len(p.Certain)+len(p.Possible), p.Read)
	}
	if p.Incomplete || len(p.Certain) > maxPriors {
		b.tooMany(study, st)
	}
	v := &view{rep: study, patient: p}
	b.views[st.text] = v
	return v, nil
}

// tooMany says, once for an identifier, that not all under it is looked at.
func (b *burst) tooMany(study string, st *statement) {
	known := len(st.under) > 0
	for _, id := range st.under {
		known = known && (b.excess[id] || b.before[id])
		if len(b.excess) >= maxExcess {
			b.before, b.excess = b.excess, make(map[index.PatientID]bool)
		}
		b.excess[id] = true
	}
	if !known {
		b.Log.Warn("there are too many studies under this patient's identifiers to bring all before they are asked for: the newest are", "study", dicom.UID(study).Short())
	}
}

// study applies the rules to a study that was heard of.
func (b *burst) study(study string) error {
	st, err := b.statement(study)
	if err != nil || st == nil {
		return err // nil: not told yet, the fact will come
	}
	// A copy follows its origin, however it came here.
	if err := b.Archive.Refresh(study); err != nil && !errors.Is(err, archive.ErrNotFound) {
		return err
	}
	v, err := b.view(study, st)
	if err != nil {
		return err
	}
	if b.current(study) {
		if err := b.arrival(v, study, st); err != nil {
			return err
		}
	}
	if v == nil || v.heard {
		return nil
	}
	// It is the arrived study's view of the patient that decides, whichever was
	// heard of last; and what was heard of may be the link to others.
	for _, of := range [][]string{v.patient.Certain, v.patient.Possible} {
		for _, current := range of {
			if b.ctx.Err() != nil {
				return nil
			}
			if current == study || !b.current(current) {
				continue
			}
			st, err := b.statement(current)
			if err != nil {
				return err
			}
			if st == nil {
				continue
			}
			its, err := b.view(current, st)
			if err != nil {
				return err
			}
			if err := b.arrival(its, current, st); err != nil {
				return err
			}
		}
	}
	v.heard = true
	return nil
}

// doubt is what was not brought for a study that arrived.
type doubt struct {
	at       time.Time // of the arrival
	possible int       // studies that may be the patient's
	crowded  bool      // too many people bear a number of the patient
	limited  bool      // not all was looked at, or is brought
}

// note keeps what is not brought for a study that arrived, and says it when it changes.
func (b *burst) note(v *view, current string) {
	d := doubt{at: b.arrived[current], limited: v == nil}
	if v != nil {
		d.possible, d.crowded = len(v.patient.Possible), len(v.patient.Crowded) > 0
		d.limited = v.patient.Incomplete || len(v.patient.Certain) > maxPriors
	}
	b.mu.Lock()
	was := b.doubts[current]
	if d.possible > 0 || d.crowded || d.limited {
		b.doubts[current] = d
	} else {
		delete(b.doubts, current)
	}
	b.mu.Unlock()
	if d != was && (d.possible > 0 || d.crowded) {
		b.Log.Info("not brought, for a person decides: studies that may be the patient's of one that arrived; `priormesh find --study` lists them", "study", dicom.UID(current).Short(), "possible", d.possible, "number_of_too_many_people", d.crowded)
	}
}

// Doubts counts the studies that arrived within the window and for which something was not brought.
type Doubts struct {
	Possible int // there are studies that may be the patient's
	Crowded  int // too many people bear a number of the patient
	Limited  int // not all was looked at, or is brought
	// Studies are those that arrived, the newest first, as far as maxDoubts.
	Studies []string
}

// maxDoubts is how many are named.
const maxDoubts = 100

// Doubts says for how many arrivals something was not brought.
func (e *Engine) Doubts() (n Doubts) {
	now := e.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for study, d := range e.doubts {
		if now.Sub(d.at) > e.Window {
			delete(e.doubts, study)
			continue
		}
		if d.possible > 0 {
			n.Possible++
		}
		if d.crowded {
			n.Crowded++
		}
		if d.limited {
			n.Limited++
		}
		n.Studies = append(n.Studies, study)
	}
	slices.SortFunc(n.Studies, func(x, y string) int {
		return cmp.Or(e.doubts[y].at.Compare(e.doubts[x].at), strings.Compare(x, y))
	})
	n.Studies = n.Studies[:min(len(n.Studies), maxDoubts)]
	return n
}

// arrival brings the priors of a study that arrived within the window, if it or
// one of them was heard of.
func (b *burst) arrival(v *view, current string, st *statement) error {
	b.note(v, current)
	if v == nil || v.brought {
		return nil
	}
	if !b.heard[current] && !slices.ContainsFunc(v.patient.Certain, func(s string) bool { return b.heard[s] }) {
		return nil
	}
	// The view holds the study that it was worked out from, which need not be a
	// prior of those of which the same is said: it is when they are priors of it.
	priors := v.patient.Certain[:min(len(v.patient.Certain), maxPriors)]
	alike, other := false, ""
	for _, s := range priors {
		if b.ctx.Err() != nil {
			return nil
		}
		its, err := b.statement(s)
		if err != nil {
			return err
		}
		if its == nil || its.text != st.text {
			continue
		}
		alike = alike || s != v.rep
		if s != current && b.current(s) {
			other = s
		}
	}
	for _, prior := range priors {
		if b.ctx.Err() != nil {
			return nil
		}
		of := current
		switch {
		case prior == v.rep && !alike:
			continue
		case prior == current && other == "":
			continue
		case prior == current:
			of = other
		}
		if err := b.bring(prior, of); err != nil {
			return err
		}
	}
	v.brought = true
	return nil
}

func (b *burst) bring(prior, current string) error {
	order := ""
	st, err := b.statement(prior)
	if err != nil {
		return err
	}
	if st != nil {
		order = st.order
	}
	err = b.Archive.Enqueue(prior, archive.Prior, "a prior of study "+dicom.UID(current).Short(), order)
	if errors.Is(err, archive.ErrNotFound) {
		return nil
	}
	return err
}
