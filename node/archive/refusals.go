package archive

import (
	"fmt"
	"sync"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/audit"
)

// A node that asks for what it does not get, again and again, must not fill the
// audit log: after so many refusals in such a time the rest are counted, and one
// line says how many there were.
const (
	maxRefusals   = 100
	refusalsEvery = time.Hour
)

// refusals bounds what is written of the requests that were refused.
type refusals struct {
	mu sync.Mutex
	of map[index.NodeID]*refused
}

type refused struct {
	since   time.Time // the first of this while
	written int
	left    int // out, since the last line
	last    audit.Event
}

// write passes an event on to the log, or counts it.
func (r *refusals) write(from index.NodeID, e audit.Event, now time.Time, log func(audit.Event) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.passed(now, log); err != nil {
		return err
	}
	x := r.of[from]
	if x == nil {
		if r.of == nil {
			r.of = make(map[index.NodeID]*refused)
		}
		x = &refused{since: now}
		r.of[from] = x
	}
	if x.written == maxRefusals {
		x.left++
		x.last = e
		return nil
	}
	x.written++
	return log(e)
}

// passed writes how many were left out of each while that has passed.
func (r *refusals) passed(now time.Time, log func(audit.Event) error) error {
	for from, x := range r.of {
		if now.Sub(x.since) < refusalsEvery && !now.Before(x.since) {
			continue
		}
		if err := x.sum(log); err != nil {
			return err
		}
		delete(r.of, from)
	}
	return nil
}

// end writes what is left to be said.
func (r *refusals) end(log func(audit.Event) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for from, x := range r.of {
		if err := x.sum(log); err != nil {
			return err
		}
		delete(r.of, from)
	}
	return nil
}

func (x *refused) sum(log func(audit.Event) error) error {
	if x.left == 0 {
		return nil
	}
	e := x.last
	e.Study, e.Detail = "", fmt.Sprintf("%d requests more were refused since %s; the last: %s", x.left, x.since.UTC().Format(time.RFC3339), e.Detail)
	return log(e)
}
