package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/simulations/synthetic"
)

// The benchmark starts processes of its own program: here that is the test's.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer cancel()
		if err := commands[os.Args[1]](ctx, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if *program != "" {
		_ = os.RemoveAll(filepath.Dir(*program))
	}
	os.Exit(code)
}

// withProgram has the benchmarks of all tests measure one program, which none of them removes.
func withProgram(t *testing.T) {
	t.Helper()
	built, err := priormesh()
	if err != nil {
		t.Fatal(err)
	}
	*program = built
}

// All of `make bench BENCH=Index` runs, and finds what it looks for, in a region of 2,000 studies.
func TestIndexBench(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	withProgram(t)
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

// All parts of `make bench BENCH=Transfer` run, with little to move.
func TestTransferBench(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	withProgram(t)
	var err error
	var out bytes.Buffer
	b := &transferBench{dir: t.TempDir(), rounds: 1, parts: strings.Split(transferParts, ","), slices: 3, frames: 3, next: 1, out: &out, lineMB: thirdShare, lineOf: "QUIC, 1 %", tries: 1, few: 3}
	if b.model, err = openModel(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Fatal(err)
	}
	if err := b.run(ctx); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	want := []string{"Priormesh / the plain stream", "the sender", "the receiver", "Over a line of"}
	for _, m := range movings {
		want = append(want, m.name)
	}
	if strings.Contains(out.String(), "not measured: ") {
		if os.Getenv("CI") == "true" {
			t.Errorf("lines were not measured:\n%s", out.Bytes())
		}
		t.Log("NOT TESTED: fetches over a line, which needs Linux and root")
	} else {
		want = append(want, "QUIC, 1 %", "from three such")
	}
	for _, w := range want {
		if !strings.Contains(out.String(), w) {
			t.Errorf("the table lacks %q:\n%s", w, out.Bytes())
		}
	}
	t.Logf("%s", out.Bytes())
}

// An instance of many frames is one for our scanner, and no two frames are equal.
func TestMultiframeIsDICOM(t *testing.T) {
	m, err := openModel(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "one", "0.dcm")
	st, err := m.writeMultiframe(path, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) != st.bytes {
		t.Fatalf("%d bytes, want %d: %v", len(b), st.bytes, err)
	}
	in, err := dicom.Scan(bytes.NewReader(b), dicom.DefaultLimits(), dicom.Handler{})
	if err != nil || in.Pixel == nil || len(in.Pixel.Frames) != 3 {
		t.Fatalf("%+v: %v", in, err)
	}
	frame := m.pixels.Len
	pixels := b[in.Pixel.Value.Off:]
	if bytes.Equal(pixels[:frame], pixels[frame:2*frame]) {
		t.Error("two frames are equal")
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 3}, 3}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(slices.Clone(c.of)); got != c.want {
			t.Errorf("the median of %v is %v, want %v", c.of, got, c.want)
		}
	}
}
