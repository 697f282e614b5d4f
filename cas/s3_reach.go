package cas

import (
	"errors"
	"sync"
	"time"
)

// An object store that has not been there for s3Away, and was missed within
// s3Lately, gets one try of each request: whoever asks hears at once. What was
// begun before goes on trying, and finds out that it is back.
const (
	s3Away   = 15 * time.Second
	s3Lately = 10 * time.Second
)

// reach remembers whether an object store could be reached.
type reach struct {
	mu    sync.Mutex
	since time.Time // it is away; zero if it is not
	tried time.Time // in vain
}

// noted is told how each try ended.
func (r *reach) noted(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(err, ErrUnavailable) {
		r.since = time.Time{}
		return
	}
	r.tried = time.Now()
	if r.since.IsZero() {
		r.since = r.tried
	}
}

// long says whether there is no sense in waiting for it.
func (r *reach) long() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.since.IsZero() && r.tried.Sub(r.since) >= s3Away && time.Since(r.tried) < s3Lately
}

// Away says since when the object store could not be reached, and when that was
// tried last. Both are zero if the last request reached it. No request is made.
func (s *S3) Away() (since, tried time.Time) {
	r := &s.state.reach
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since.IsZero() {
		return since, tried
	}
	return r.since, r.tried
}
