package archive

import (
	"context"
	"errors"
	"sort"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Priority orders the fetch queue; lower goes first.
type Priority uint8

// The classes of the fetch queue.
const (
	Emergency   Priority = 0
	Interactive Priority = 1 // somebody is reading
	Prior       Priority = 2 // brought before it is asked for
	Background  Priority = 3
)

func (p Priority) String() string {
	switch p {
	case Emergency:
		return "emergency"
	case Interactive:
		return "interactive"
	case Prior:
		return "prior"
	}
	return "background"
}

// Task is one study to be brought here. It lies on disk from the moment
// Enqueue returns until the study is whole.
type Task struct {
	Study     string    `cbor:"1,keyasint" json:"study"`
	Priority  Priority  `cbor:"2,keyasint" json:"priority"`
	Reason    string    `cbor:"3,keyasint" json:"reason"`
	Created   time.Time `cbor:"4,keyasint" json:"created"`
	Attempts  int       `cbor:"5,keyasint" json:"attempts"`
	NotBefore time.Time `cbor:"6,keyasint" json:"not_before"`
	LastError string    `cbor:"7,keyasint" json:"last_error,omitempty"`
	// Order sorts within a priority: priors go newest study first.
	Order string `cbor:"8,keyasint" json:"-"`
}

// Progress is how far a task's transfer is.
type Progress struct {
	Active                   bool  `json:"active"`
	Instances, InstancesHere int   `json:"-"`
	Bytes, BytesHere         int64 `json:"-"`
}

// queue is the durable fetch queue. Tasks are few (thousands), so they are all
// in memory too; disk is the truth after a restart.
type queue struct {
	update func(func(*badger.Txn) error) error
	now    func() time.Time

	mu     sync.Mutex
	tasks  map[string]*queued
	wakeup chan struct{} // closed and replaced whenever something may have become due
}

type queued struct {
	Task
	active   bool
	again    bool // asked for again while active: what is newest may be newer than what is being brought
	progress Progress
}

func taskKey(study string) []byte { return append([]byte{tableTask}, study...) }

func openQueue(db *badger.DB, now func() time.Time) (*queue, error) {
	q := &queue{update: db.Update, now: now, tasks: make(map[string]*queued), wakeup: make(chan struct{})}
	err := db.View(func(txn *badger.Txn) error {
		return eachRecord(txn, []byte{tableTask}, func(_ []byte, t Task) error {
			t.NotBefore = time.Time{} // a wait by a clock that may have been wrong
			q.tasks[t.Study] = &queued{Task: t}
			return nil
		})
	})
	return q, err
}

func (q *queue) save(t Task) error {
	return q.update(func(txn *badger.Txn) error { return putRecord(txn, taskKey(t.Study), t) })
}

// forget drops a study's task without a trace; what is on disk of it is the
// caller's to remove.
func (q *queue) forget(study string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.tasks, study)
}

func (q *queue) wakeLocked() {
	close(q.wakeup)
	q.wakeup = make(chan struct{})
}

// add queues a study, or makes a queued one more urgent. A task that waits
// after a failure is due at once if somebody is reading.
func (q *queue) add(t Task) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.tasks[t.Study]
	if e == nil {
		t.Created = q.now()
		if err := q.save(t); err != nil {
			return err
		}
		q.tasks[t.Study] = &queued{Task: t}
		q.wakeLocked()
		return nil
	}
	e.again = e.active
	if t.Priority >= e.Priority && (t.Priority > Interactive || e.NotBefore.IsZero()) {
		return nil
	}
	next := e.Task
	if t.Priority < next.Priority {
		next.Priority, next.Reason, next.Order = t.Priority, t.Reason, t.Order
	}
	next.NotBefore = time.Time{}
	if err := q.save(next); err != nil {
		return err
	}
	e.Task = next
	q.wakeLocked()
	return nil
}

// take waits for the most urgent due task, of priority least or above, and
// marks it active.
func (q *queue) take(ctx context.Context, least Priority) (Task, error) {
	for {
		q.mu.Lock()
		var best *queued
		var soonest time.Time
		now := q.now()
		for _, e := range q.tasks {
			if e.active || e.Priority > least {
				continue
			}
			if e.NotBefore.After(now) {
				if soonest.IsZero() || e.NotBefore.Before(soonest) {
					soonest = e.NotBefore
				}
				continue
			}
			if best == nil || e.before(best) {
				best = e
			}
		}
		if best != nil {
			best.active, best.again, best.progress = true, false, Progress{Active: true}
			t := best.Task
			q.mu.Unlock()
			return t, nil
		}
		wake := q.wakeup
		q.mu.Unlock()

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
			return Task{}, ctx.Err()
		}
	}
}

func (e *queued) before(o *queued) bool {
	if e.Priority != o.Priority {
		return e.Priority < o.Priority
	}
	if e.Order != o.Order {
		return e.Order > o.Order
	}
	return e.Created.Before(o.Created)
}

// done ends an attempt. With err nil the task is gone, unless it was asked for
// again meanwhile; otherwise it waits and is tried again.
func (q *queue) done(study string, wait time.Duration, err error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.tasks[study]
	if e == nil {
		return nil
	}
	e.active = false
	e.progress.Active = false
	defer q.wakeLocked()
	if errors.Is(err, context.Canceled) {
		return nil // stopping, not failing: as it was, for the next start
	}
	if err == nil && !e.again {
		if err := q.update(func(txn *badger.Txn) error { return txn.Delete(taskKey(study)) }); err != nil {
			return err
		}
		delete(q.tasks, study)
		return nil
	}
	if err != nil {
		if !errors.Is(err, errMoved) { // the newer revision's fact is on its way
			e.Attempts++
		}
		e.LastError = err.Error()
		e.NotBefore = q.now().Add(wait)
	}
	return q.save(e.Task)
}

// kick makes every waiting task due: a peer came back.
func (q *queue) kick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.tasks {
		e.NotBefore = time.Time{}
	}
	q.wakeLocked()
}

// due makes one study's waiting task due: there is a new holder.
func (q *queue) due(study string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.tasks[study]; e != nil {
		e.NotBefore = time.Time{}
		q.wakeLocked()
	}
}

func (q *queue) report(study string, p Progress) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.tasks[study]; e != nil {
		p.Active = e.active
		e.progress = p
	}
}

// TaskStatus is a task and how far it is.
type TaskStatus struct {
	Task
	Progress
}

func (q *queue) list() []TaskStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	entries := make([]*queued, 0, len(q.tasks))
	for _, e := range q.tasks {
		entries = append(entries, e)
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].before(entries[j]) })
	out := make([]TaskStatus, len(entries))
	for i, e := range entries {
		out[i] = TaskStatus{Task: e.Task, Progress: e.progress}
	}
	return out
}

func (q *queue) get(study string) (TaskStatus, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.tasks[study]
	if e == nil {
		return TaskStatus{}, false
	}
	return TaskStatus{Task: e.Task, Progress: e.progress}, true
}
