package archive

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// Priority is a class of the fetch queue; lower goes first.
type Priority uint8

// The classes of the fetch queue. Somebody waits for what is Interactive or above.
const (
	Emergency   Priority = 0
	Interactive Priority = 1 // somebody is reading
	Prior       Priority = 2 // brought before it is asked for
	Background  Priority = 3
	classes              = 4
)

var classNames = [classes]string{"emergency", "interactive", "prior", "background"}

func (p Priority) String() string { return classNames[min(p, Background)] }

// onLine is how urgent a class is among all that moves on a line: behind the
// blocks that a reader waits for at that moment.
func (p Priority) onLine() uint8 { return mesh.Urgent + 1 + uint8(p) }

// ParsePriority reads what String writes.
func ParsePriority(s string) (Priority, bool) {
	i := slices.Index(classNames[:], s)
	return Priority(max(i, 0)), i >= 0
}

const (
	// fairTurn is how often, of what begins in a class, the one that has waited
	// longest goes before the one that is wanted most.
	fairTurn = 4
	// keepRefused is how long a task that ended as refused is shown.
	keepRefused = 30 * 24 * time.Hour
	maxOff      = 1000 // studies of which is known that they were taken off
)

var (
	errPaused = errors.New("paused for a more urgent one")
	errRaised = errors.New("begins again as a more urgent one")
	errOff    = errors.New("taken off the queue")
)

// Task is one study to be brought here. It lies on disk from the moment
// Enqueue returns until the study is whole, it is taken off, or some time after
// every holder has refused it.
type Task struct {
	Study    string    `cbor:"1,keyasint"`
	Priority Priority  `cbor:"2,keyasint"`
	Reason   string    `cbor:"3,keyasint"`
	Created  time.Time `cbor:"4,keyasint"`
	Attempts int       `cbor:"5,keyasint"` // that failed, since it was queued or last asked for after a refusal
	// 6 was the end of a wait.
	LastError string `cbor:"7,keyasint"`
	// Order sorts within a priority: priors go newest study first.
	Order string `cbor:"8,keyasint"`
	// Refusals are by whom it was refused. Who has refused often enough is not
	// asked again.
	Refusals []Refusal `cbor:"9,keyasint,omitempty"`
	// Refused is when it ended because everybody who has it had refused it (Unix
	// ms); 0: it has not.
	Refused int64 `cbor:"10,keyasint,omitempty"`
}

// Refusal is that a holder refused a revision of a version of a study.
type Refusal struct {
	Holder   index.NodeID `cbor:"1,keyasint"`
	Origin   index.NodeID `cbor:"2,keyasint"`
	Revision uint64       `cbor:"3,keyasint"`
	Times    int          `cbor:"4,keyasint"`
}

// Progress is how far a task's transfer is.
type Progress struct {
	Instances, InstancesHere int
	Bytes, BytesHere         int64
}

// queue is the durable fetch queue. Tasks are few (thousands), so they are all
// in memory too; disk is the truth after a restart.
//
// A record is written with its study's lock of records held, and mu is not:
// who looks at the queue, or takes from it, never waits for a disk.
type queue struct {
	update  func(func(*badger.Txn) error) error
	now     func() time.Time
	failed  func(error) // is told what could not be written
	records [studyLocks]sync.Mutex

	mu     sync.Mutex
	tasks  map[string]*queued
	places int             // studies brought at once; what somebody waits for has one more
	turns  uint64          // counts what got in line
	begun  [classes]uint64 // what began in each class
	said   []saidOf        // that is to be seen to
	off    map[string]bool // taken off and not asked for since, the last ones
	wakeup chan struct{}   // closed and replaced whenever something may have become due
}

type queued struct {
	Task
	turn     uint64   // its place among those that wait as long
	at       *attempt // nil: it is not under way
	again    bool     // asked for again while under way: what is newest may be newer than what is being brought
	off      bool     // taken off while under way: shown to nobody, and gone when that has ended
	nudged   bool     // became due while under way
	pardoned bool     // those who have refused it may be asked again, also who did in the attempt that is under way
	paused   bool     // it has made room for a more urgent one
	wait     waiting
	progress Progress
}

// waiting is until when a task waits, and for what.
type waiting struct {
	until time.Time
	on    []index.NodeID // whose return ends it; none: anybody's
	place bool           // so does a place that gets free at one of them
	why   string         // for people
}

func taskKey(study string) []byte { return append([]byte{tableTask}, study...) }

func openQueue(db *badger.DB, now func() time.Time) (*queue, error) {
	q := &queue{update: db.Update, now: now, failed: func(error) {}, tasks: make(map[string]*queued), places: 1, off: make(map[string]bool), wakeup: make(chan struct{})}
	var all []Task
	err := db.View(func(txn *badger.Txn) error {
		all = nil
		return eachRecord(txn, []byte{tableTask}, func(_ []byte, t Task) error {
			t.Priority = min(t.Priority, Background)
			all = append(all, t)
			return nil
		})
	})
	slices.SortStableFunc(all, func(x, y Task) int { return x.Created.Compare(y.Created) })
	for _, t := range all {
		q.inLine(&queued{Task: t})
	}
	return q, err
}

// inLine puts a task at the end of the line. mu is held, or nobody knows q yet.
func (q *queue) inLine(e *queued) {
	q.turns++
	e.turn = q.turns
	q.tasks[e.Study] = e
}

// record locks a study's record.
func (q *queue) record(study string) (unlock func()) {
	l := &q.records[lockOf(study)]
	l.Lock()
	return l.Unlock
}

func (q *queue) save(t Task) error {
	return q.update(func(txn *badger.Txn) error { return putRecord(txn, taskKey(t.Study), t) })
}

func (q *queue) delete(study string) error {
	return q.update(func(txn *badger.Txn) error { return txn.Delete(taskKey(study)) })
}

// forget drops a study's task without a trace; what is on disk of it is the
// caller's to remove.
func (q *queue) forget(study string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(study)
}

func (q *queue) dropLocked(study string) {
	e := q.tasks[study]
	switch {
	case e == nil:
	case e.at == nil:
		delete(q.tasks, study)
	default:
		e.off, e.again = true, false
		e.at.stop(errOff)
	}
}

func (q *queue) wakeLocked() {
	close(q.wakeup)
	q.wakeup = make(chan struct{})
}

// setPlaces says how many studies are brought at once.
func (q *queue) setPlaces(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.places = n
	q.wakeLocked()
}

// add queues a study, or makes a queued one more urgent. If somebody waits for
// it a task that waits after a failure is due at once, and one that ended as
// refused begins anew; if a person asks for it, whatever its class, those who
// have refused it are asked again too.
func (q *queue) add(t Task, person bool) error {
	defer q.record(t.Study)()
	q.mu.Lock()
	e := q.tasks[t.Study]
	next, change := t, true
	if e != nil && !e.off {
		next, change = e.askedFor(t, person)
	} else {
		next.Created = q.now()
	}
	q.mu.Unlock()
	if change {
		if err := q.save(next); err != nil {
			return err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.off, t.Study)
	if e = q.tasks[t.Study]; e == nil {
		e = new(queued)
		e.Task = next
		q.inLine(e)
	}
	raised := next.Priority <= Interactive && e.Priority > Interactive
	e.Task, e.off, e.again = next, false, e.at != nil
	if next.Refused != 0 {
		return nil
	}
	if person || t.Priority <= Interactive {
		e.dueNow()
	}
	e.pardoned = e.pardoned || person
	if raised && e.at != nil {
		e.at.stop(errRaised) // it has begun with the share of a less urgent one
	}
	q.wakeLocked()
	return nil
}

// askedFor is what a task becomes when it is asked for once more, and whether
// that is a change.
func (e *queued) askedFor(t Task, person bool) (next Task, change bool) {
	next = e.Task
	switch {
	case next.Refused != 0 && !person && t.Priority > Interactive:
		return next, false
	case next.Refused != 0:
		next.Refused, next.Refusals, next.Attempts, next.LastError = 0, nil, 0, ""
		next.Priority, next.Reason, next.Order = t.Priority, t.Reason, t.Order
		return next, true
	}
	if person && next.Refusals != nil {
		next.Refusals, change = nil, true
	}
	if t.Priority < next.Priority {
		next.Priority, next.Reason, next.Order, change = t.Priority, t.Reason, t.Order, true
	}
	return next, change
}

// cancel takes a study off the queue, and says whether it was on it. An attempt
// that is under way ends at the block.
func (q *queue) cancel(study string) (was bool, err error) {
	defer q.record(study)()
	if _, was = q.get(study); !was {
		return false, nil
	}
	if err := q.delete(study); err != nil {
		return true, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(study)
	if len(q.off) >= maxOff {
		clear(q.off)
	}
	q.off[study] = true
	return true, nil
}

// cancelled says that a study was taken off the queue, and not asked for since.
func (q *queue) cancelled(study string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.off[study]
}

// take waits for the most urgent task that is due and for a place for it, and
// begins it. What is more urgent than something under way, and has somebody
// waiting for it, gets that one's place.
func (q *queue) take(ctx context.Context) (*attempt, error) {
	for {
		q.mu.Lock()
		if said := q.said; len(said) > 0 {
			q.said = nil
			q.mu.Unlock()
			for _, s := range said {
				if err := q.reopen(s); err != nil {
					q.failed(err)
				}
			}
			continue
		}
		at, soonest := q.beginLocked(ctx)
		wake, now := q.wakeup, q.now()
		q.mu.Unlock()
		if at != nil {
			return at, nil
		}
		var due <-chan time.Time
		var timer *time.Timer
		if !soonest.IsZero() {
			timer = time.NewTimer(soonest.Sub(now))
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-due:
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// beginLocked begins what is to begin now. If that is nothing, soonest is when
// the first task that waits for a time is due.
func (q *queue) beginLocked(ctx context.Context) (at *attempt, soonest time.Time) {
	var first, oldest [classes]*queued
	var active []*queued
	now := q.now()
	for _, e := range q.tasks {
		switch c := e.Priority; {
		case e.at != nil:
			active = append(active, e)
		case e.Refused != 0:
		case e.wait.until.After(now):
			if soonest.IsZero() || e.wait.until.Before(soonest) {
				soonest = e.wait.until
			}
		default:
			if first[c] == nil || e.before(first[c]) {
				first[c] = e
			}
			if oldest[c] == nil || e.turn < oldest[c].turn {
				oldest[c] = e
			}
		}
	}
	for c := range first {
		e, p := first[c], Priority(c)
		if e == nil {
			continue
		}
		places := q.places
		if p <= Interactive {
			places++ // somebody who reads never stands behind what nobody waits for
		}
		if len(active) >= places {
			if p <= Interactive {
				makeRoom(active, p)
			}
			return nil, soonest // there is none for those after it either
		}
		if q.begun[c]++; q.begun[c]%fairTurn == 0 {
			e = oldest[c]
		}
		e.again, e.nudged, e.pardoned, e.paused, e.wait = false, false, false, false, waiting{}
		e.at = newAttempt(ctx, e.Task, now)
		return e.at, soonest
	}
	return nil, soonest
}

// makeRoom pauses the least urgent of what is under way, of those the last that
// began, if it is less urgent than p.
func makeRoom(active []*queued, p Priority) {
	var least *queued
	for _, e := range active {
		if e.at.ctx.Err() != nil {
			return // a place is being left already
		}
		if e.Priority > p && (least == nil || e.Priority > least.Priority || e.Priority == least.Priority && e.at.began.After(least.at.began)) {
			least = e
		}
	}
	if least != nil {
		least.at.stop(errPaused)
	}
}

func (e *queued) before(o *queued) bool {
	if e.Priority != o.Priority {
		return e.Priority < o.Priority
	}
	if e.paused != o.paused {
		return e.paused
	}
	if e.Order != o.Order {
		return e.Order > o.Order
	}
	return e.turn < o.turn
}

// outcome is how an attempt ended that was not broken off by the queue itself.
type outcome struct {
	err      error // nil: what was known of the study is here
	free     bool  // err is nobody's failure, and counts as none
	refusals []Refusal
	refused  bool // everybody who has it has refused it: there is nobody left to ask
	wait     time.Duration
	on       []index.NodeID // whose return is waited for
	place    bool           // or a place at one of them
	why      string
}

// done ends an attempt. Without an error the task is gone, unless it was asked
// for again meanwhile; otherwise it waits and is tried again, at the end of the
// line, or has ended as refused. What the queue broke off goes on later as it
// was, and so does what a node that stops breaks off.
func (q *queue) done(at *attempt, o outcome) error {
	defer q.record(at.Study)()
	broken := at.ctx.Err() != nil && o.err != nil
	q.mu.Lock()
	e := q.tasks[at.Study]
	if e == nil || e.at != at {
		q.mu.Unlock()
		return nil
	}
	next := e.Task
	gone := e.off || o.err == nil && !e.again
	change := !e.off && !broken && (o.err != nil || gone)
	if o.err != nil && !broken {
		if !o.free {
			next.Attempts++
		}
		if !errors.Is(o.err, errNobody) || next.LastError == "" {
			next.LastError = o.err.Error()
		}
		if !e.pardoned {
			next.Refusals = o.refusals
			if o.refused {
				next.Refused = q.now().UnixMilli()
			}
		}
	}
	q.mu.Unlock()
	var err error
	switch {
	case change && gone:
		err = q.delete(at.Study)
	case change:
		err = q.save(next)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.wakeLocked()
	e.at = nil
	switch {
	case e.off, gone && err == nil:
		delete(q.tasks, at.Study)
	case broken:
		e.paused = errors.Is(context.Cause(at.ctx), errPaused)
	default:
		e.Task = next
		q.inLine(e)
		if (o.err != nil || err != nil) && !e.nudged {
			e.wait = waiting{until: q.now().Add(o.wait), on: o.on, place: o.place, why: o.why}
		}
	}
	return err
}

// kick makes every waiting task due: whatever was waited for may be so.
func (q *queue) kick() { q.dueIf(func(waiting) bool { return true }) }

// back makes due what waits for one of these nodes, or for nobody can tell what.
func (q *queue) back(nodes []index.NodeID) {
	q.dueIf(func(w waiting) bool { return len(w.on) == 0 || w.onOneOf(nodes) })
}

// freed makes due what waits for a place at one of these nodes.
func (q *queue) freed(nodes []index.NodeID) {
	if len(nodes) > 0 {
		q.dueIf(func(w waiting) bool { return w.place && w.onOneOf(nodes) })
	}
}

func (w waiting) onOneOf(nodes []index.NodeID) bool {
	return slices.ContainsFunc(nodes, func(id index.NodeID) bool { return slices.Contains(w.on, id) })
}

func (q *queue) dueIf(ends func(waiting) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.tasks {
		if ends(e.wait) {
			e.dueNow()
		}
	}
	q.wakeLocked()
}

func (e *queued) dueNow() { e.wait, e.nudged = waiting{}, e.at != nil }

// due makes one study's waiting task due. A task that has ended as refused is
// not made to begin: see changed.
func (q *queue) due(study string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.tasks[study]; e != nil {
		e.dueNow()
		q.wakeLocked()
	}
}

// saidOf is that a node has said something new of a study.
type saidOf struct {
	study string
	by    index.NodeID
}

// changed is due of a study of which a node has said something new: that it has
// it, or a revision of it. That node may be asked again, and so may others that
// are new or hold what is new, so a task that ended as refused begins anew. It
// does not wait for the disk: take sees to that.
func (q *queue) changed(study string, by index.NodeID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.tasks[study]
	if e == nil {
		return // as almost always
	}
	e.dueNow()
	e.pardoned = true
	if len(e.Refusals) > 0 {
		q.said = append(q.said, saidOf{study, by})
	}
	q.wakeLocked()
}

// reopen lets a node be asked again. What could not be written is so in memory.
func (q *queue) reopen(s saidOf) error {
	defer q.record(s.study)()
	q.mu.Lock()
	e := q.tasks[s.study]
	if e == nil || e.off || len(e.Refusals) == 0 {
		q.mu.Unlock()
		return nil
	}
	next := e.Task
	next.Refusals = slices.DeleteFunc(slices.Clone(next.Refusals), func(r Refusal) bool { return r.Holder == s.by })
	if next.Refused != 0 {
		next.Refused, next.Attempts = 0, 0
	}
	q.mu.Unlock()
	err := q.save(next)
	q.mu.Lock()
	defer q.mu.Unlock()
	if e = q.tasks[s.study]; e != nil && !e.off {
		e.Task, e.again = next, e.at != nil
	}
	return err
}

// prune forgets what was refused long ago.
func (q *queue) prune() error {
	before := q.now().Add(-keepRefused).UnixMilli()
	old := func(e *queued) bool { return e != nil && e.at == nil && e.Refused != 0 && e.Refused < before }
	var studies []string
	q.mu.Lock()
	for s, e := range q.tasks {
		if old(e) {
			studies = append(studies, s)
		}
	}
	q.mu.Unlock()
	forget := func(s string) error {
		defer q.record(s)()
		q.mu.Lock()
		still := old(q.tasks[s])
		q.mu.Unlock()
		if !still {
			return nil
		}
		if err := q.delete(s); err != nil {
			return err
		}
		q.forget(s)
		return nil
	}
	for _, s := range studies {
		if err := forget(s); err != nil {
			return err
		}
	}
	return nil
}

func (q *queue) report(study string, p Progress) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.tasks[study]; e != nil {
		e.progress = p
	}
}

// State is what a task does.
type State string

// States of a task.
const (
	Active  State = "active"
	Paused  State = "paused"  // it has made room for a more urgent one, and goes on where it was
	Queued  State = "queued"  // it is due, and waits for a place
	Waiting State = "waiting" // for a time or for somebody
	Refused State = "refused" // it has ended: everybody who has the study has refused it
)

// TaskStatus is a task and how far it is.
type TaskStatus struct {
	Task
	Progress
	State     State
	NotBefore time.Time // of one that waits: when it is tried in any case
	Why       string    // and for what it waits, for people
	Ahead     int       // tasks that go before it, if it is due
	Running   int       // tasks under way, in all
	Began     time.Time // of one under way
	Rate      float64   // bytes a second that arrive for it
	Arrived   int64     // bytes that have come in this attempt, sealed
	Givers    []Giver   // who has been asked in this attempt
}

func (q *queue) list() []TaskStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	entries := make([]*queued, 0, len(q.tasks))
	running := 0
	for _, e := range q.tasks {
		if e.off {
			continue
		}
		entries = append(entries, e)
		if e.at != nil {
			running++
		}
	}
	now := q.now()
	slices.SortFunc(entries, func(x, y *queued) int {
		switch {
		case x.before(y):
			return -1
		case y.before(x):
			return 1
		}
		return 0
	})
	out := make([]TaskStatus, len(entries))
	ahead := 0
	for i, e := range entries {
		out[i] = e.status(now)
		out[i].Running = running
		if s := out[i].State; s == Queued || s == Paused {
			out[i].Ahead = ahead
			ahead++
		}
	}
	return out
}

func (e *queued) status(now time.Time) TaskStatus {
	st := TaskStatus{Task: e.Task, Progress: e.progress, State: Queued}
	switch {
	case e.at != nil:
		st.State, st.Began = Active, e.at.began
		st.Rate, st.Givers = e.at.seen(now)
		for _, g := range st.Givers {
			st.Arrived += g.Bytes
		}
	case e.Refused != 0:
		st.State = Refused
	case e.wait.until.After(now):
		st.State, st.NotBefore, st.Why = Waiting, e.wait.until, e.wait.why
	case e.paused:
		st.State = Paused
	}
	return st
}

// get is a task's status, without what others do.
func (q *queue) get(study string) (TaskStatus, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.tasks[study]
	if e == nil || e.off {
		return TaskStatus{}, false
	}
	return e.status(q.now()), true
}

// wants says that a study is still to be brought.
func (q *queue) wants(study string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.tasks[study]
	return e != nil && (e.Refused == 0 || e.at != nil)
}
