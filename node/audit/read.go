package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Problem is a place where a log is not as it was written.
type Problem struct {
	File string `json:"file"`
	// After is the last event before it that is in its place.
	After uint64 `json:"after_event"`
	What  string `json:"what"`
}

// Report is what Verify has seen.
type Report struct {
	Files    int       `json:"files"`
	Events   uint64    `json:"events"`
	First    uint64    `json:"first_event"`
	Last     uint64    `json:"last_event"`
	LastHash string    `json:"last_hash"` // to be kept elsewhere by who wants to
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
	Problems []Problem `json:"problems"`
	More     int       `json:"more_problems,omitempty"` // that are not listed
}

const (
	maxProblems = 100
	followEvery = 500 * time.Millisecond
)

// Verify reads a whole log, that of a running node too, and says where it is
// not as it was written. tailPath is Options.Tail.
func Verify(dir, tailPath string) (Report, error) {
	for tries := 0; ; tries++ {
		r, again, err := verify(dir, tailPath)
		if err != nil || !again || tries == 2 {
			return r, err
		}
	}
}

// verify is one try; again says that files were set aside meanwhile.
func verify(dir, tailPath string) (r Report, again bool, err error) {
	known, err := readTail(tailPath)
	if err != nil {
		return r, false, err
	}
	paths, err := filesOf(dir)
	if err != nil {
		return r, false, err
	}
	r.Problems = []Problem{}
	file := ""
	problem := func(after uint64, what string) {
		if len(r.Problems) == maxProblems {
			r.More++
			return
		}
		r.Problems = append(r.Problems, Problem{file, after, what})
	}
	var last *place
	at, hashAt := uint64(0), ""
	if known != nil {
		at = known.last.seq
	}
	for _, path := range paths {
		file = filepath.Base(path)
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return r, true, nil
		}
		if err != nil {
			return r, false, err
		}
		w := walker{r: f, at: at, start: last, broken: func(after place, why string) bool {
			problem(after.seq, why)
			return true
		}, line: func(l line, _ []byte) error {
			if r.Events == 0 {
				r.First, r.From = l.Seq, l.Time
				r.begins(known, l, problem)
			}
			r.Events++
			r.To = l.Time
			return nil
		}}
		p, err := w.run()
		f.Close()
		if err != nil {
			return r, false, err
		}
		if w.hashAt != "" {
			hashAt = w.hashAt
		}
		if p.seq > 0 {
			last = &p
			r.Last, r.LastHash = p.seq, p.hash
		}
		r.Files++
	}
	if now, err := filesOf(dir); err != nil || len(now) != len(paths) {
		return r, err == nil, err
	}
	file = ""
	switch {
	case known == nil && tailPath != "" && r.Events > 0:
		problem(r.Last, fmt.Sprintf("%s is missing or damaged: an end that was cut off could not be seen", filepath.Base(tailPath)))
	case known == nil:
	case r.Last < known.last.seq:
		problem(r.Last, fmt.Sprintf("events %d to %d are missing at the end", r.Last+1, known.last.seq))
	case hashAt != "" && hashAt != known.last.hash:
		problem(known.last.seq, fmt.Sprintf("event %d is not the one that was written", known.last.seq))
	}
	return r, false, nil
}

// begins judges the first event.
func (r *Report) begins(known *tail, l line, problem func(uint64, string)) {
	first := place{1, zeroHash}
	if known != nil {
		first = known.first
	}
	switch {
	case l.Seq > first.seq:
		problem(0, fmt.Sprintf("events %d to %d are missing at the beginning", first.seq, l.Seq-1))
	case l.Seq == first.seq && l.Prev != first.hash:
		problem(0, "the first event does not follow on the one that was removed last")
	}
}

// filesOf lists the files of a log, the oldest first.
func filesOf(dir string) ([]string, error) {
	segments, err := segmentsOf(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range segments {
		out = append(out, s.path)
	}
	current := filepath.Join(dir, currentFile)
	if _, err := os.Stat(current); err == nil {
		out = append(out, current)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return out, nil
}

// Entry is an event as it stands in a log.
type Entry struct {
	Seq  uint64
	Time time.Time
	Event
	Raw []byte // the line as it is, without its end
}

// Filter says which events are wanted. Zero fields want all.
type Filter struct {
	Since, Until time.Time // until, itself not
	Event        string    // the whole name, or with its dot the beginning: "grant."
	Trust        string
	Node         string // beginning of its name
	Study        string // shortened as in the log
	Purpose      string
	after        uint64
}

func (f Filter) wants(l line) bool {
	event := f.Event == "" || l.Event.Event == f.Event || strings.HasSuffix(f.Event, ".") && strings.HasPrefix(l.Event.Event, f.Event)
	return event && l.Seq > f.after && !l.Time.Before(f.Since) && (f.Until.IsZero() || l.Time.Before(f.Until)) &&
		(f.Trust == "" || strings.EqualFold(l.Trust, f.Trust)) && strings.HasPrefix(l.Node, f.Node) &&
		(f.Study == "" || l.Study == f.Study) && (f.Purpose == "" || strings.EqualFold(l.Purpose, f.Purpose))
}

// Search gives fn the events that are wanted, the oldest first, of a running
// node too. What was altered is passed over: Verify names it.
func Search(dir string, want Filter, fn func(Entry) error) error {
	_, err := search(dir, want, fn)
	return err
}

func search(dir string, want Filter, fn func(Entry) error) (last uint64, err error) {
	paths, err := filesOf(dir)
	if err != nil {
		return 0, err
	}
	last = want.after
	for i, path := range paths {
		if p, err := lastOf(path); i < len(paths)-1 && err == nil && p.seq <= want.after {
			continue
		}
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return last, err
		}
		w := walker{r: f, broken: func(place, string) bool { return true }, line: func(l line, raw []byte) error {
			last = max(last, l.Seq)
			if !want.wants(l) {
				return nil
			}
			return fn(Entry{Seq: l.Seq, Time: l.Time, Event: l.Event, Raw: bytes.Clone(raw)})
		}}
		_, err = w.run()
		f.Close()
		if err != nil {
			return last, err
		}
	}
	return last, nil
}

// Follow is Search, and then gives fn what comes, until ctx ends.
func Follow(ctx context.Context, dir string, want Filter, fn func(Entry) error) error {
	last, err := search(dir, want, fn)
	if err != nil {
		return err
	}
	want.after = last
	size := int64(-1)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		info, err := os.Stat(filepath.Join(dir, currentFile))
		if err != nil || info.Size() == size {
			continue
		}
		size = info.Size()
		if want.after, err = search(dir, want, fn); err != nil {
			return err
		}
	}
}
