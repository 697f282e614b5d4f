package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func fixed() time.Time { return time.Unix(1_700_000_000, 0) }

func fill(t *testing.T, dir string, n int) string {
	t.Helper()
	l, err := Open(dir, fixed)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := l.Append(Event{Event: "grant.given", Trust: "RX1", Study: "ab12cd34", Purpose: "direct care"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "audit.jsonl")
}

func TestLogContinuesItsChainAfterReopening(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 3)
	path := fill(t, dir, 2)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := Verify(bytes.NewReader(b)); n != 5 || err != nil {
		t.Fatalf("got %d events and %v, want 5 and no error", n, err)
	}
}

func TestTamperingIsSeenWhereverItIs(t *testing.T) {
	path := fill(t, t.TempDir(), 4)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	cases := map[string][]byte{
		"a line removed":   bytes.Join([][]byte{lines[0], lines[2], lines[3]}, nil),
		"lines swapped":    bytes.Join([][]byte{lines[1], lines[0], lines[2], lines[3]}, nil),
		"a line repeated":  bytes.Join([][]byte{lines[0], lines[0], lines[1]}, nil),
		"a line of noise":  append([]byte("{}\n"), good...),
		"an endless line":  bytes.Repeat([]byte("x"), 1<<20),
		"the first is cut": bytes.Join(lines[1:], nil),
	}
	for i := range good {
		if good[i] == '\n' {
			continue
		}
		b := bytes.Clone(good)
		b[i] ^= 1
		if n, err := Verify(bytes.NewReader(b)); err == nil && n == 4 {
			t.Fatalf("byte %d changed and nothing was noticed", i)
		}
	}
	for name, b := range cases {
		if _, err := Verify(bytes.NewReader(b)); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: got %v, want ErrBroken", name, err)
		}
	}
}

func TestALineCutShortByACrashIsSetAside(t *testing.T) {
	dir := t.TempDir()
	path := fill(t, dir, 2)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"time":"20`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	fill(t, dir, 1)
	b, _ := os.ReadFile(path)
	if n, err := Verify(bytes.NewReader(b)); n != 3 || err != nil {
		t.Fatalf("got %d events and %v, want 3 and no error", n, err)
	}
}

func TestLogGoesOnAfterAFailedWrite(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir, fixed)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(Event{Event: "first"}); err != nil {
		t.Fatal(err)
	}
	good := l.f
	path := filepath.Join(dir, "audit.jsonl")
	if l.f, err = os.Open(path); err != nil { // cannot be written
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
	b, _ := os.ReadFile(path)
	if n, err := Verify(bytes.NewReader(b)); n != 3 || err != nil || bytes.Contains(b, []byte("lost")) {
		t.Fatalf("%d events, %v:\n%s", n, err, b)
	}
}
