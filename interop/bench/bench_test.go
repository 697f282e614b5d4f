package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/simulations/synthetic"
)

// The benchmark starts processes of its own program: here that is the test's.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && indexCommands[os.Args[1]] != nil {
		if err := indexCommands[os.Args[1]](context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// All of `make bench BENCH=Index` runs, and finds what it looks for, in a region of 2,000 studies.
func TestIndexBench(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var out bytes.Buffer
	b := &indexBench{dir: t.TempDir(), region: synthetic.Defaults(2000), small: 500, batch: index.MaxFacts, draws: 20, each: 5 * time.Second,
		parts: strings.Split(indexParts, ","), rate: 1000, orthanc: 100, out: &out}
	if err := b.run(ctx); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	want := []string{"others' logs, from a peer", "own, appended", "Resident while loading", "On disk after a stop", "compacted:",
		"Resident while asked", "packed, as the mesh sends them", "A snapshot of a log of", "pages, packed"}
	for _, q := range questions {
		want = append(want, q.name)
	}
	if _, err := exec.LookPath("Orthanc"); err == nil {
		for _, q := range httpQuestions {
			want = append(want, q.name)
		}
		if n := strings.Count(out.String(), "20 of 20"); n != len(httpQuestions) {
			t.Errorf("a node and Orthanc give the same answers to %d of %d questions:\n%s", n, len(httpQuestions), out.Bytes())
		}
	} else {
		want = append(want, "is not installed")
	}
	for _, w := range want {
		if !strings.Contains(out.String(), w) {
			t.Errorf("the table lacks %q:\n%s", w, out.Bytes())
		}
	}
	if strings.Contains(out.String(), "given up") {
		t.Errorf("questions were given up in a small region:\n%s", out.Bytes())
	}
	t.Logf("%s", out.Bytes())
}

// A peer that answers from files says exactly what was written.
func TestWrittenLogs(t *testing.T) {
	dir := t.TempDir()
	opt := synthetic.Defaults(1500)
	r, err := synthetic.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	own, others, err := writeLogs(t.Context(), dir, r, 7)
	if err != nil {
		t.Fatal(err)
	}
	facts := 0
	for range r.Facts() {
		facts++
	}
	if own+others != facts || own == 0 {
		t.Fatalf("%d own and %d other facts were written, %d were said", own, others, facts)
	}
	w, err := openWritten(dir, r.Trusts())
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Heads()) != len(r.Trusts())-1 {
		t.Fatalf("%d heads", len(w.Heads()))
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	got := 0
	for _, h := range w.Heads() {
		var after index.Seq
		for after < h.Seq {
			batches, err := w.Range(h.Node, h.Epoch, after, 1+rnd.IntN(20_000))
			if err != nil || len(batches) == 0 {
				t.Fatalf("%d batches after %d: %v", len(batches), after, err)
			}
			for _, b := range batches {
				v, err := b.Verify()
				if err != nil || v.First() != after+1 || v.Head().Node != h.Node {
					t.Fatalf("a batch from %d after %d: %v", v.First(), after, err)
				}
				got += len(b.Payloads)
				after = v.Head().Seq
			}
		}
		if after != h.Seq {
			t.Fatalf("the log ends at %d, its head at %d", after, h.Seq)
		}
		if more, err := w.Range(h.Node, h.Epoch, h.Seq, 1000); err != nil || len(more) != 0 {
			t.Fatalf("%d batches after the head: %v", len(more), err)
		}
	}
	if got != others {
		t.Fatalf("%d facts came back of %d", got, others)
	}
}

func TestStatementsComeBack(t *testing.T) {
	st := []index.Statement{{Kind: index.KindStudy, Subject: "1.2.3", Body: []byte("one")}, {Kind: index.KindStudy, Subject: "1.2.4", Body: []byte{}}}
	got := decodeStatements(encodeStatements(st))
	if !slices.EqualFunc(got, st, func(a, b index.Statement) bool {
		return a.Kind == b.Kind && a.Subject == b.Subject && string(a.Body) == string(b.Body)
	}) {
		t.Fatalf("%v came back as %v", st, got)
	}
}

// A limit that cannot be set is said; one that can holds the process that is put into it.
func TestMemoryIsLimited(t *testing.T) {
	b, why := newBox(64 << 20)
	if b == nil {
		if !strings.Contains(why, "not limited") {
			t.Fatalf("no limit, and no reason: %q", why)
		}
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip("NOT TESTED: ", why)
	}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	cmd := exec.Command("sh", "-c", "echo 0 > "+filepath.Join(b.dir, "cgroup.procs")+" && cat /proc/self/cgroup")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), filepath.Base(b.dir)) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestQuantiles(t *testing.T) {
	var took []time.Duration
	for i := range 200 {
		took = append(took, time.Duration(200-i))
	}
	if p50, p99, most := quantiles(took); p50 != 101 || p99 != 199 || most != 200 {
		t.Fatalf("%d, %d, %d", p50, p99, most)
	}
}
