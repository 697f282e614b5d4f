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
	"slices"
	"strings"
)

// Names of the log's files.
const (
	currentFile   = "audit.jsonl"
	segmentPrefix = "audit-"
	segmentSuffix = ".jsonl"
	brokenSuffix  = "-broken"
)

var zeroHash = strings.Repeat("0", 64)

// place is an event's number and hash.
type place struct {
	seq  uint64
	hash string
}

var hashMark = []byte(`,"hash":"`)

func encodeLine(l line) (text []byte, hash string, err error) {
	body, err := json.Marshal(l)
	if err != nil {
		return nil, "", err
	}
	body = body[:len(body)-1]
	sum := sha256.Sum256(body)
	hash = hex.EncodeToString(sum[:])
	return append(append(append(body, hashMark...), hash...), "\"}\n"...), hash, nil
}

// decodeLine reads a line with its end, and checks its own hash.
func decodeLine(raw []byte) (l line, hash string, ok bool) {
	rest, whole := bytes.CutSuffix(raw, []byte("\"}\n"))
	i := bytes.LastIndex(rest, hashMark)
	if !whole || i < 0 {
		return l, "", false
	}
	body, h := rest[:i], rest[i+len(hashMark):]
	sum := sha256.Sum256(body)
	if string(h) != hex.EncodeToString(sum[:]) || json.Unmarshal(append(bytes.Clone(body), '}'), &l) != nil {
		return l, "", false
	}
	return l, string(h), true
}

// walker reads one file of a log.
type walker struct {
	r      io.Reader
	at     uint64 // an event whose hash is wanted
	hashAt string
	end    int64                              // behind the last whole line
	line   func(l line, raw []byte) error     // may be nil; raw is without its end, and not to be kept
	broken func(after place, why string) bool // to go on with the next line that is whole; nil: it ends
	start  *place                             // behind which the file must go on; nil: what its first line says
}

// run reads to the end, or to where the chain breaks, and returns the last event.
func (w *walker) run() (last place, err error) {
	if w.start != nil {
		last = *w.start
	}
	known := w.start != nil
	br := bufio.NewReaderSize(w.r, maxLine)
	skipping := false // the rest of a line that is too long
	fault := func(why string) bool {
		known = false
		if w.broken == nil || !w.broken(last, why) {
			err = fmt.Errorf("%w behind event %d: %s", ErrBroken, last.seq, why)
			return false
		}
		return true
	}
	for {
		raw, rerr := br.ReadSlice('\n')
		switch {
		case errors.Is(rerr, io.EOF):
			return last, nil // raw, if any, was never acknowledged
		case errors.Is(rerr, bufio.ErrBufferFull):
			w.end += int64(len(raw))
			if !skipping && !fault("a line is too long") {
				return last, err
			}
			skipping = true
			continue
		case rerr != nil:
			return last, rerr
		}
		if skipping {
			w.end += int64(len(raw))
			skipping = false
			continue
		}
		l, hash, ok := decodeLine(raw)
		switch {
		case !ok:
			if !fault("a line was altered") {
				return last, err
			}
			w.end += int64(len(raw))
			continue
		case known && l.Seq != last.seq+1:
			why := fmt.Sprintf("event %d is next", l.Seq)
			if l.Seq > last.seq+1 {
				why = fmt.Sprintf("events %d to %d are missing", last.seq+1, l.Seq-1)
			}
			if !fault(why) {
				return last, err
			}
		case known && l.Prev != last.hash:
			if !fault("the next event follows on another one") {
				return last, err
			}
		}
		known = true
		last = place{l.Seq, hash}
		w.end += int64(len(raw))
		if l.Seq == w.at {
			w.hashAt = hash
		}
		if w.line != nil {
			if err := w.line(l, bytes.TrimSuffix(raw, []byte("\n"))); err != nil {
				return last, err
			}
		}
	}
}

// segment is a file that nothing is appended to any more.
type segment struct {
	path   string
	first  uint64
	size   int64
	broken bool
}

// segmentsOf lists the files of a log but the present one, the oldest first.
func segmentsOf(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []segment
	for _, e := range entries {
		mid, ok := strings.CutPrefix(e.Name(), segmentPrefix)
		if !ok {
			continue
		}
		if mid, ok = strings.CutSuffix(mid, segmentSuffix); !ok {
			continue
		}
		s := segment{path: filepath.Join(dir, e.Name()), broken: strings.Contains(mid, brokenSuffix)}
		if _, err := fmt.Sscanf(mid, "%d", &s.first); err != nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // it expired meanwhile
		}
		if err != nil {
			return nil, err
		}
		s.size = info.Size()
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b segment) int { return strings.Compare(a.path, b.path) })
	return out, nil
}

// asideName is a name for the present file when the next is begun: by its first
// event. A file without one needs none.
func asideName(dir string, f *os.File, broken bool) (string, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return "", err
	}
	first := uint64(0)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	found := errors.New("found")
	w := walker{r: f, line: func(l line, _ []byte) error { first = l.Seq; return found }, broken: func(place, string) bool { return true }}
	if _, err := w.run(); err != nil && !errors.Is(err, found) {
		return "", err
	}
	name := filepath.Join(dir, fmt.Sprintf("%s%020d", segmentPrefix, first))
	for i := 0; ; i++ {
		try := name
		if broken {
			try = fmt.Sprintf("%s%s%d", name, brokenSuffix, i)
		}
		if _, err := os.Lstat(try + segmentSuffix); errors.Is(err, os.ErrNotExist) {
			return try + segmentSuffix, nil
		} else if err != nil {
			return "", err
		} else if !broken {
			broken = true // there is a file of that name: neither is lost
		}
	}
}

// lastOf is the last event of a file.
func lastOf(path string) (place, error) {
	f, err := os.Open(path)
	if err != nil {
		return place{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return place{}, err
	}
	b := make([]byte, min(size, 2*maxLine))
	if _, err := f.ReadAt(b, size-int64(len(b))); err != nil {
		return place{}, err
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	if len(b) > 0 {
		raw := b[bytes.LastIndexByte(b[:len(b)-1], '\n')+1:]
		if l, hash, ok := decodeLine(raw); ok {
			return place{l.Seq, hash}, nil
		}
	}
	return place{}, ErrBroken
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
