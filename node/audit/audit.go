package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Limits of the log.
const (
	maxLine        = 16 << 10 // bytes of one event; everything in it is named and short
	defaultSegment = 32 << 20 // bytes of a file, until the next is begun
)

// ErrBroken says that the log is not as it was written.
var ErrBroken = errors.New("the audit log's chain is broken")

// Event is one thing that was done, or refused.
type Event struct {
	Event   string    `json:"event"`             // "grant.given", "grant.refused", "fetch.done", …
	Node    string    `json:"node,omitempty"`    // the other node
	Trust   string    `json:"trust,omitempty"`   // the other trust
	Study   string    `json:"study,omitempty"`   // shortened
	Purpose string    `json:"purpose,omitempty"` //
	Expires time.Time `json:"expires,omitzero"`  // of a grant, by the holder's clock: the same at both ends
	Detail  string    `json:"detail,omitempty"`
}

// line is an event in its place.
type line struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Prev string    `json:"prev"`
	Event
}

// Options are what a log is opened with.
type Options struct {
	Now func() time.Time
	// Tail is a file outside the log's folder that keeps how far the log had
	// come, so that an end that was cut off is noticed. Empty: none is kept.
	Tail    string
	Segment int64 // bytes of a file, until the next is begun; 0: 32 MiB
	Keep    int64 // bytes of all files together; the oldest go. 0: all are kept
	// Moved says that the log was put here from elsewhere, and Tail is not missing.
	Moved bool
	Log   *slog.Logger // may be nil
}

// Log is an open audit log. It may be used by many goroutines.
type Log struct {
	opt  Options
	dir  string
	sync func(*os.File) error // in tests another

	mu      sync.Mutex
	pending *batch // takes events until it is written
	found   []string

	flush sync.Mutex // held by who writes, and guards what follows
	f     *os.File
	tail  *tailFile
	last  place
	first place // of the first event that is kept, and the hash before it
	end   int64 // of the last event that is on disk
	torn  bool  // there is something behind it, which was never acknowledged
	old   int64 // bytes of the files before this one
}

// batch is what is written and synced together.
type batch struct {
	events []line
	done   chan struct{}
	err    error
}

// Open opens dir's log for appending. What is wrong with it keeps nobody from
// going on: it is named in Warnings and by an event, and Verify names it for
// ever. The chain goes on behind the last event that is known to have been there.
func Open(dir string, o Options) (*Log, error) {
	if o.Segment <= 0 {
		o.Segment = defaultSegment
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &Log{opt: o, dir: dir, sync: (*os.File).Sync}
	if err := l.open(); err != nil {
		if l.f != nil {
			l.f.Close()
		}
		l.tail.close()
		return nil, err
	}
	if len(l.found) > 0 {
		for _, what := range l.found {
			o.Log.Error("the audit log is not as it was written", "what", what)
			if err := l.Append(Event{Event: "audit.broken", Detail: what}); err != nil {
				return nil, errors.Join(err, l.Close())
			}
		}
	}
	return l, nil
}

// Warnings say what was wrong with the log when it was opened.
func (l *Log) Warnings() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.found
}

func (l *Log) open() error {
	segments, err := segmentsOf(l.dir)
	if err != nil {
		return err
	}
	var known *tail
	if l.opt.Tail != "" {
		if l.tail, known, err = openTail(l.opt.Tail); err != nil {
			return err
		}
	}
	here := place{hash: zeroHash}
	l.first = place{seq: 1, hash: zeroHash}
	if known != nil {
		l.first = known.first
	}
	for i, s := range segments {
		l.old += s.size
		if i == len(segments)-1 {
			if p, err := lastOf(s.path); err == nil {
				here = p
			} else if !s.broken {
				l.found = append(l.found, fmt.Sprintf("%s does not end with an event", filepath.Base(s.path)))
			}
		}
	}
	if len(segments) == 0 && known != nil && known.first.seq > 1 {
		here = place{known.first.seq - 1, known.first.hash}
	}
	path := filepath.Join(l.dir, currentFile)
	if l.f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	at := uint64(0)
	if known != nil {
		at = known.last.seq
	}
	w := walker{r: l.f, at: at}
	p, err := w.run()
	whole := err == nil
	switch {
	case errors.Is(err, ErrBroken):
		l.found = append(l.found, fmt.Sprintf("%s is broken behind event %d; it was set aside", currentFile, p.seq))
	case err != nil:
		return err
	}
	if p.seq > 0 {
		here = p
	}
	if known != nil {
		switch {
		case here.seq < known.last.seq && whole:
			whole = false
			l.found = append(l.found, fmt.Sprintf("events %d to %d are missing at its end", here.seq+1, known.last.seq))
		case here.seq < known.last.seq:
		case w.hashAt != "" && w.hashAt != known.last.hash:
			whole = false
			l.found = append(l.found, fmt.Sprintf("event %d is not the one that was written", known.last.seq))
		}
		if !whole {
			here = place{max(here.seq, known.last.seq), known.last.hash}
		}
	} else if l.tail != nil && here.seq > 0 && !l.opt.Moved {
		l.found = append(l.found, fmt.Sprintf("how far it had come is not known: %s is missing or damaged, or the log was begun by a version that kept none", filepath.Base(l.opt.Tail)))
	}
	l.last, l.end = here, w.end
	if !whole {
		return l.begin(true)
	}
	// A line that a crash cut short was never acknowledged.
	if err := l.f.Truncate(l.end); err != nil {
		return err
	}
	_, err = l.f.Seek(l.end, io.SeekStart)
	return err
}

// begin sets the present file aside and begins the next.
func (l *Log) begin(broken bool) error {
	if l.end > 0 || broken {
		name, err := asideName(l.dir, l.f, broken)
		if err != nil {
			return err
		}
		if name != "" {
			if err := os.Rename(filepath.Join(l.dir, currentFile), name); err != nil {
				return err
			}
		}
	}
	f, err := os.OpenFile(filepath.Join(l.dir, currentFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syncDir(l.dir); err != nil {
		f.Close()
		return err
	}
	l.f.Close()
	l.f, l.old, l.end = f, l.old+l.end, 0
	return nil
}

// Append writes one event; it is on disk when Append returns. Events that are
// appended at the same time are synced together. After a failure, such as of a
// full disk, the next one takes the place of what was not written whole.
func (l *Log) Append(e Event) error {
	if b, err := json.Marshal(line{Seq: 1 << 63, Prev: zeroHash, Event: e}); err != nil {
		return err
	} else if len(b) > maxLine-256 {
		return fmt.Errorf("an audit event of %d bytes is over the limit of %d", len(b), maxLine-256)
	}
	l.mu.Lock()
	leads := l.pending == nil
	if leads {
		l.pending = &batch{done: make(chan struct{})}
	}
	b := l.pending
	b.events = append(b.events, line{Time: l.opt.Now().UTC(), Event: e})
	l.mu.Unlock()
	if !leads {
		<-b.done
		return b.err
	}
	l.flush.Lock()
	defer l.flush.Unlock()
	l.mu.Lock()
	l.pending = nil // who comes now waits for the next
	l.mu.Unlock()
	b.err = l.write(b.events)
	close(b.done)
	return b.err
}

// write puts events behind the last. The caller holds flush.
func (l *Log) write(events []line) error {
	failed := func(err error) error {
		return fmt.Errorf("the audit log cannot be written, so nothing is granted: %w", err)
	}
	if l.torn {
		if err := l.mend(); err != nil {
			return failed(err)
		}
	}
	if l.end >= l.opt.Segment {
		if err := l.begin(false); err != nil {
			return failed(err)
		}
		var err error
		if events, err = l.expire(events); err != nil {
			return failed(err)
		}
	}
	last := l.last
	var out []byte
	for _, e := range events {
		e.Seq, e.Prev = last.seq+1, last.hash
		text, hash, err := encodeLine(e)
		if err != nil {
			return failed(err)
		}
		out = append(out, text...)
		last = place{e.Seq, hash}
	}
	_, err := l.f.Write(out)
	if err == nil {
		err = l.sync(l.f)
	}
	if err != nil {
		l.torn = true
		return failed(err)
	}
	l.last, l.end = last, l.end+int64(len(out))
	// Not synced: it may be behind the log, and never is before it.
	if err := l.tail.write(tail{first: l.first, last: l.last}); err != nil {
		l.opt.Log.Error("how far the audit log has come cannot be noted", "error", err)
	}
	return nil
}

// expire removes the oldest files while all together are too many bytes. That
// it was done stands in the log.
func (l *Log) expire(events []line) ([]line, error) {
	if l.opt.Keep <= 0 || l.old <= l.opt.Keep {
		return events, nil
	}
	segments, err := segmentsOf(l.dir)
	if err != nil {
		return nil, err
	}
	for _, s := range segments {
		if l.old <= l.opt.Keep {
			break
		}
		p, err := lastOf(s.path)
		if err == nil && p.seq >= l.first.seq {
			was := l.first.seq
			l.first = place{p.seq + 1, p.hash}
			if err := l.tail.write(tail{first: l.first, last: l.last}); err != nil {
				return nil, err
			}
			if err := l.tail.sync(); err != nil {
				return nil, err
			}
			events = append([]line{{Time: l.opt.Now().UTC(), Event: Event{Event: "audit.expired",
				Detail: fmt.Sprintf("events %d to %d were removed to keep the log within its bounds; the last had hash %s", was, p.seq, p.hash)}}}, events...)
		}
		if err := os.Remove(s.path); err != nil {
			return nil, err
		}
		l.old -= s.size
	}
	return events, syncDir(l.dir)
}

// mend cuts the log off behind the last event that is on disk.
func (l *Log) mend() error {
	if err := l.f.Truncate(l.end); err != nil {
		return err
	}
	if _, err := l.f.Seek(l.end, io.SeekStart); err != nil {
		return err
	}
	if err := l.f.Sync(); err != nil {
		return err
	}
	l.torn = false
	return nil
}

// Copy gives fn each file of the log, the oldest first, with what is on disk
// of it and acknowledged.
func (l *Log) Copy(fn func(name string, size int64, r io.Reader) error) (err error) {
	var files []*os.File
	var sizes []int64
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	list := func() error {
		l.flush.Lock() // so that none is renamed, or removed, before it is open
		defer l.flush.Unlock()
		segments, err := segmentsOf(l.dir)
		if err != nil {
			return err
		}
		for _, s := range append(segments, segment{path: filepath.Join(l.dir, currentFile), size: l.end}) {
			f, err := os.Open(s.path)
			if err != nil {
				return err
			}
			files, sizes = append(files, f), append(sizes, s.size)
		}
		return nil
	}
	if err := list(); err != nil {
		return err
	}
	for i, f := range files {
		// What was the present file may have another name by now.
		name := currentFile
		if i < len(files)-1 {
			name = filepath.Base(f.Name())
		}
		if err := fn(name, sizes[i], io.LimitReader(f, sizes[i])); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the file. Nothing may be appended any more.
func (l *Log) Close() error {
	l.flush.Lock()
	defer l.flush.Unlock()
	return errors.Join(l.tail.sync(), l.tail.close(), l.f.Close())
}
