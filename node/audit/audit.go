package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// maxLine bounds one event; everything in it is named and short.
const maxLine = 16 << 10

// ErrBroken says that the log is not as it was written.
var ErrBroken = errors.New("the audit log's chain is broken")

// Event is one thing that was done, or refused.
type Event struct {
	Event   string `json:"event"`             // "grant.given", "grant.refused", "fetch.done", …
	Node    string `json:"node,omitempty"`    // the other node
	Trust   string `json:"trust,omitempty"`   // the other trust
	Study   string `json:"study,omitempty"`   // shortened
	Purpose string `json:"purpose,omitempty"` //
	Detail  string `json:"detail,omitempty"`
}

type line struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Prev string    `json:"prev"`
	Event
}

// Log is an open audit log. It may be used by many goroutines.
type Log struct {
	mu   sync.Mutex
	f    *os.File
	now  func() time.Time
	seq  uint64
	prev string
	end  int64 // of the last event that is on disk
	torn bool  // there is something behind it, which was never acknowledged
}

var zeroHash = strings.Repeat("0", 64)

// Open verifies dir's log and opens it for appending.
func Open(dir string, now func() time.Time) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "audit.jsonl"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	seq, prev, end, err := walk(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	if err := f.Truncate(end); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Seek(end, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return &Log{f: f, now: now, seq: seq, prev: prev, end: end}, nil
}

// Verify walks a log and returns how many events it holds, or where it breaks.
func Verify(r io.Reader) (uint64, error) {
	seq, _, _, err := walk(r)
	return seq, err
}

func walk(r io.Reader) (seq uint64, prev string, end int64, err error) {
	prev = zeroHash
	br := bufio.NewReaderSize(r, maxLine)
	for {
		raw, err := br.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return seq, prev, end, nil // raw, if any, was never acknowledged
		}
		if err != nil {
			return seq, prev, end, fmt.Errorf("%w after event %d: %w", ErrBroken, seq, err)
		}
		body, hash, ok := bytes.Cut(bytes.TrimSuffix(raw, []byte("\"}\n")), []byte(`,"hash":"`))
		sum := sha256.Sum256(body)
		var l line
		if !ok || string(hash) != hex.EncodeToString(sum[:]) || json.Unmarshal(append(bytes.Clone(body), '}'), &l) != nil || l.Seq != seq+1 || l.Prev != prev {
			return seq, prev, end, fmt.Errorf("%w at event %d", ErrBroken, seq+1)
		}
		seq, prev = l.Seq, string(hash)
		end += int64(len(raw))
	}
}

// Append writes one event and syncs it. After a failure, such as of a full
// disk, the next one takes the place of what was not written whole.
func (l *Log) Append(e Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		if err := l.mend(); err != nil {
			return fmt.Errorf("the audit log cannot be written, so nothing is granted: %w", err)
		}
	}
	body, err := json.Marshal(line{Seq: l.seq + 1, Time: l.now().UTC(), Prev: l.prev, Event: e})
	if err != nil {
		return err
	}
	body = body[:len(body)-1]
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	out := append(body, `,"hash":"`+hash+"\"}\n"...)
	if len(out) > maxLine {
		return fmt.Errorf("an audit event of %d bytes is over the limit of %d", len(out), maxLine)
	}
	if _, err = l.f.Write(out); err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		l.torn = true
		return fmt.Errorf("the audit log cannot be written, so nothing is granted: %w", err)
	}
	l.seq, l.prev, l.end = l.seq+1, hash, l.end+int64(len(out))
	return nil
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

// Size is how long the log is up to the last event that is on disk.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// Close closes the file.
func (l *Log) Close() error { return l.f.Close() }
