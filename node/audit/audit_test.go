package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func fixed() time.Time { return time.Unix(1_700_000_000, 0) }

// at is where a test's log and its tail lie.
type at struct{ dir, tail string }

func place1(t *testing.T) at {
	t.Helper()
	home := t.TempDir()
	return at{filepath.Join(home, "audit"), filepath.Join(home, "audited")}
}

func (a at) options() Options { return Options{Now: fixed, Tail: a.tail} }

func (a at) current() string { return filepath.Join(a.dir, currentFile) }

func open(t *testing.T, a at, o Options) *Log {
	t.Helper()
	l, err := Open(a.dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func fill(t *testing.T, a at, o Options, n int) {
	t.Helper()
	l := open(t, a, o)
	for range n {
		if err := l.Append(Event{Event: "grant.given", Trust: "RX1", Study: "ab12cd34", Purpose: "direct care"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func verified(t *testing.T, a at) Report {
	t.Helper()
	r, err := Verify(a.dir, a.tail)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func whole(t *testing.T, a at, n uint64) {
	t.Helper()
	if r := verified(t, a); r.Events != n || r.Last != n || len(r.Problems) > 0 {
		t.Fatalf("%+v, want %d events and no problem", r, n)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLogContinuesItsChainAfterReopening(t *testing.T) {
	a := place1(t)
	fill(t, a, a.options(), 3)
	fill(t, a, a.options(), 2)
	whole(t, a, 5)
}

func TestTamperingIsSeenWhereverItIs(t *testing.T) {
	a := place1(t)
	fill(t, a, a.options(), 4)
	good := read(t, a.current())
	lines := bytes.SplitAfter(good, []byte("\n"))
	cases := map[string][]byte{
		"a line removed":   bytes.Join([][]byte{lines[0], lines[2], lines[3]}, nil),
		"lines swapped":    bytes.Join([][]byte{lines[1], lines[0], lines[2], lines[3]}, nil),
		"a line repeated":  bytes.Join([][]byte{lines[0], lines[0], lines[1], lines[2], lines[3]}, nil),
		"a line of noise":  append([]byte("{}\n"), good...),
		"an endless line":  append(bytes.Clone(good), append(bytes.Repeat([]byte("x"), 1<<20), '\n')...),
		"the first is cut": bytes.Join(lines[1:], nil),
		"the last is cut":  bytes.Join(lines[:3], nil),
		"all is cut":       nil,
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1
		cases[fmt.Sprintf("byte %d changed", i)] = b
	}
	for name, b := range cases {
		write(t, a.current(), b)
		if r := verified(t, a); len(r.Problems) == 0 {
			t.Errorf("%s: nothing was noticed", name)
		}
	}
	if err := os.Remove(a.current()); err != nil {
		t.Fatal(err)
	}
	if r := verified(t, a); len(r.Problems) == 0 {
		t.Error("the file is gone and nothing was noticed")
	}
}

// Whoever can write the files can make a chain that holds. The end of the true one was noted elsewhere.
func TestAnotherChainIsNotTaken(t *testing.T) {
	a := place1(t)
	fill(t, a, a.options(), 4)
	forger := place1(t)
	l := open(t, forger, forger.options())
	for range 6 {
		if err := l.Append(Event{Event: "nothing.happened"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, a.current(), read(t, forger.current()))
	if r := verified(t, a); len(r.Problems) != 1 {
		t.Errorf("%+v", r)
	}
	if l := open(t, a, a.options()); len(l.Warnings()) != 1 {
		t.Errorf("%q", l.Warnings())
	} else if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is wrong keeps nobody from going on, and is named for ever.
func TestAnEndThatWasCutOffIsNoticedAndStays(t *testing.T) {
	a := place1(t)
	fill(t, a, a.options(), 5)
	good := read(t, a.current())
	lines := bytes.SplitAfter(good, []byte("\n"))
	write(t, a.current(), bytes.Join(lines[:3], nil))
	l := open(t, a, a.options())
	if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "events 4 to 5") {
		t.Fatalf("%q", w)
	}
	if err := l.Append(Event{Event: "later"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is not forgotten by opening it again
		r := verified(t, a)
		if len(r.Problems) != 1 || r.Problems[0].After != 3 || r.Last != 7 {
			t.Fatalf("%+v", r)
		}
		l := open(t, a, a.options())
		if len(l.Warnings()) > 0 {
			t.Fatalf("%q", l.Warnings())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var events []string
	if err := Search(a.dir, Filter{}, func(e Entry) error { events = append(events, e.Event.Event); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(events[3:], " "); got != "audit.broken later" {
		t.Errorf("%s", got)
	}
}

func TestABrokenFileIsSetAsideAndKept(t *testing.T) {
	a := place1(t)
	fill(t, a, a.options(), 5)
	b := read(t, a.current())
	b[len(b)/2] ^= 1
	write(t, a.current(), b)
	fill(t, a, a.options(), 2)
	r := verified(t, a)
	if len(r.Problems) == 0 || r.Last != 8 || r.Files != 2 {
		t.Fatalf("%+v", r)
	}
	segments, err := segmentsOf(a.dir)
	if err != nil || len(segments) != 1 || !bytes.Equal(read(t, segments[0].path), b) {
		t.Fatalf("%v, %v: what was found is not kept as it was", segments, err)
	}
}

func TestATailThatIsGoneIsNoticed(t *testing.T) {
	a := place1(t)
	fill(t, a, a.options(), 2)
	if err := os.Remove(a.tail); err != nil {
		t.Fatal(err)
	}
	if r := verified(t, a); len(r.Problems) != 1 {
		t.Fatalf("%+v", r)
	}
	l := open(t, a, a.options())
	if len(l.Warnings()) != 1 {
		t.Fatalf("%q", l.Warnings())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	moved := place1(t)
	fill(t, moved, moved.options(), 2)
	if err := os.Remove(moved.tail); err != nil {
		t.Fatal(err)
	}
	o := moved.options()
	o.Moved = true
	fill(t, moved, o, 1)
	whole(t, moved, 3)
}

// A crash may leave the tail behind the log, with half a slot, or of an older write: never before it.
func TestATailThatIsBehindIsNoProblem(t *testing.T) {
	a := place1(t)
	fill(t, a, a.options(), 2)
	old := read(t, a.tail)
	fill(t, a, a.options(), 3)
	write(t, a.tail, old)
	whole(t, a, 5)
	torn := bytes.Clone(old)
	for i := range torn[:tailSlot] {
		torn[i] ^= 1 // one slot is not readable
	}
	write(t, a.tail, torn)
	fill(t, a, a.options(), 1)
	whole(t, a, 6)
}

func TestALineCutShortByACrashIsSetAside(t *testing.T) {
	a := place1(t)
	fill(t, a, a.options(), 2)
	write(t, a.current(), append(read(t, a.current()), `{"seq":3,"time":"20`...))
	fill(t, a, a.options(), 1)
	whole(t, a, 3)
}

func TestLogGoesOnAfterAFailedWrite(t *testing.T) {
	a := place1(t)
	l := open(t, a, a.options())
	if err := l.Append(Event{Event: "first"}); err != nil {
		t.Fatal(err)
	}
	good := l.f
	var err error
	if l.f, err = os.Open(a.current()); err != nil { // cannot be written
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Append(Event{Event: "lost"}); err == nil {
			t.Fatal("an event that was not written is acknowledged")
		}
	}
	l.f.Close()
	l.f = good
	if _, err := good.WriteString(`{"seq":2,"half a li`); err != nil { // what a full disk leaves
		t.Fatal(err)
	}
	for _, e := range []string{"second", "third"} {
		if err := l.Append(Event{Event: e}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole(t, a, 3)
	if bytes.Contains(read(t, a.current()), []byte("lost")) {
		t.Error("an event that was not acknowledged stands in the log")
	}
}

// Events that come while others are being synced share the next sync, and none is acknowledged before its own.
func TestEventsThatComeTogetherAreSyncedTogether(t *testing.T) {
	const n = 50
	a := place1(t)
	l := open(t, a, a.options())
	begun, goOn := make(chan struct{}), make(chan struct{})
	syncs := 0
	l.sync = func(f *os.File) error {
		if syncs++; syncs == 1 {
			close(begun)
			<-goOn
		}
		return f.Sync()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Append(Event{Event: "first"}); err != nil {
			t.Error(err)
		}
	})
	<-begun
	for i := range n {
		wg.Go(func() {
			e := fmt.Sprintf("event %d", i)
			if err := l.Append(Event{Event: e}); err != nil {
				t.Error(err)
			}
			if b, err := os.ReadFile(a.current()); err != nil || !bytes.Contains(b, []byte(e)) {
				t.Errorf("%s is acknowledged and not written: %v", e, err)
			}
		})
	}
	for waiting := 0; waiting < n; runtime.Gosched() {
		l.mu.Lock()
		if l.pending != nil {
			waiting = len(l.pending.events)
		}
		l.mu.Unlock()
	}
	close(goOn)
	wg.Wait()
	if syncs != 2 {
		t.Errorf("%d syncs for %d events", syncs, n+1)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole(t, a, n+1)
}

// A sync that fails acknowledges none of those that shared it.
func TestAFailedSyncAcknowledgesNobody(t *testing.T) {
	a := place1(t)
	l := open(t, a, a.options())
	l.sync = func(*os.File) error { return io.ErrShortWrite }
	if err := l.Append(Event{Event: "lost"}); !errors.Is(err, io.ErrShortWrite) {
		t.Fatal(err)
	}
	l.sync = (*os.File).Sync
	if err := l.Append(Event{Event: "kept"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole(t, a, 1)
}

func TestFilesFollowOnEachOtherAndTheOldestGo(t *testing.T) {
	a := place1(t)
	o := a.options()
	o.Segment, o.Keep = 2<<10, 8<<10
	fill(t, a, o, 20)
	r := verified(t, a)
	if r.Files < 2 || len(r.Problems) > 0 || r.First != 1 {
		t.Fatalf("%+v", r)
	}
	fill(t, a, o, 200)
	r = verified(t, a)
	if len(r.Problems) > 0 || r.First == 1 || r.Last < 220 {
		t.Fatalf("%+v", r)
	}
	size := int64(0)
	segments, err := segmentsOf(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range segments {
		size += s.size
	}
	if size > o.Keep+o.Segment+1<<10 {
		t.Errorf("%d bytes are kept", size)
	}
	expired := 0
	if err := Search(a.dir, Filter{Event: "audit.expired"}, func(Entry) error { expired++; return nil }); err != nil || expired == 0 {
		t.Errorf("%d, %v: it is not written down that the oldest went", expired, err)
	}
	// One in the middle, or one more of the oldest, is not gone in silence.
	for _, s := range []segment{segments[1], segments[0]} {
		b := read(t, s.path)
		if err := os.Remove(s.path); err != nil {
			t.Fatal(err)
		}
		if r := verified(t, a); len(r.Problems) != 1 {
			t.Errorf("without %s: %+v", filepath.Base(s.path), r)
		}
		write(t, s.path, b)
	}
	// The present file, too.
	if err := os.Remove(a.current()); err != nil {
		t.Fatal(err)
	}
	if r := verified(t, a); len(r.Problems) != 1 {
		t.Errorf("%+v", r)
	}
	l := open(t, a, o)
	if len(l.Warnings()) != 1 {
		t.Errorf("%q", l.Warnings())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestACopyIsWhole(t *testing.T) {
	a := place1(t)
	o := a.options()
	o.Segment = 1 << 10
	fill(t, a, o, 20)
	l := open(t, a, o)
	to := place1(t)
	if err := os.MkdirAll(to.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Copy(func(name string, size int64, r io.Reader) error {
		b, err := io.ReadAll(r)
		if err == nil && int64(len(b)) != size {
			err = fmt.Errorf("%d of %d bytes", len(b), size)
		}
		write(t, filepath.Join(to.dir, name), b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	to.tail = a.tail
	whole(t, to, 20)
}

func TestSearch(t *testing.T) {
	a := place1(t)
	now := fixed()
	o := a.options()
	o.Segment = 1 << 10
	o.Now = func() time.Time { now = now.Add(time.Minute); return now }
	l := open(t, a, o)
	for i := range 10 {
		for _, e := range []Event{
			{Event: "grant.given", Trust: "RX1", Node: "12D3KooWaaa", Study: "s1", Purpose: "direct care"},
			{Event: "grant.refused", Trust: "RX2", Node: "12D3KooWbbb", Study: fmt.Sprint("s", i), Purpose: "research"},
		} {
			if err := l.Append(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		f    Filter
		want int
	}{
		"all":      {Filter{}, 20},
		"event":    {Filter{Event: "grant.refused"}, 10},
		"family":   {Filter{Event: "grant."}, 20},
		"no name":  {Filter{Event: "grant"}, 0},
		"trust":    {Filter{Trust: "rx2"}, 10},
		"node":     {Filter{Node: "12D3KooWa"}, 10},
		"study":    {Filter{Study: "s1"}, 11},
		"purpose":  {Filter{Purpose: "research", Study: "s1"}, 1},
		"time":     {Filter{Since: fixed().Add(5 * time.Minute), Until: fixed().Add(8 * time.Minute)}, 3},
		"nothing":  {Filter{Trust: "RX3"}, 0},
		"position": {Filter{after: 15}, 5},
	} {
		n := 0
		if err := Search(a.dir, c.f, func(e Entry) error {
			if _, hash, ok := decodeLine(append(bytes.Clone(e.Raw), '\n')); !ok || hash == "" {
				return errors.New("the line is not as it was written")
			}
			n++
			return nil
		}); err != nil || n != c.want {
			t.Errorf("%s: %d, %v; want %d", name, n, err, c.want)
		}
	}
}

func FuzzWalk(f *testing.F) {
	dir := f.TempDir()
	l, err := Open(dir, Options{Now: fixed})
	if err != nil {
		f.Fatal(err)
	}
	for range 3 {
		if err := l.Append(Event{Event: "x", Detail: `a","hash":"b`}); err != nil {
			f.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, currentFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		w := walker{r: bytes.NewReader(b), broken: func(place, string) bool { return true }}
		if _, err := w.run(); err != nil {
			t.Fatal(err)
		}
		if w.end > int64(len(b)) {
			t.Fatalf("%d bytes of %d", w.end, len(b))
		}
		decodeTail(b)
	})
}
