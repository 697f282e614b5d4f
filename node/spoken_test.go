package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// A node that has spoken does not start with an index that does not know of it, and leaves what is there of it as it is.
func TestAnIndexThatForgotWhatWasSaid(t *testing.T) {
	r := region(t, "RX1")
	r[0].stop()
	dir := filepath.Join(r[0].home.Dir, "index")
	manifest, err := os.ReadFile(filepath.Join(dir, "MANIFEST"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "MANIFEST")); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal("there are no tables", err)
	}
	r[0].refuses(node.ErrStoreLost, "priormesh restore")
	if n, err := node.Open(context.Background(), r[0].home, node.Options{}); err == nil {
		n.Close()
	} else if strings.Contains(err.Error(), "init") {
		t.Errorf("it advises a new home, with the tables at hand: %v", err)
	}
	for _, name := range tables {
		if _, err := os.Stat(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	r[0].start()
	r[0].stop()
	// Another index in its place.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := openIndexOf(t, r[0]).Close(); err != nil {
		t.Fatal(err)
	}
	var lost *index.LostError
	if n, err := node.Open(context.Background(), r[0].home, node.Options{}); !errors.As(err, &lost) {
		n.Close()
		t.Fatal(err)
	}
}

// indexAsItIs is the folder of a running node's index, as a process that is killed now would leave it.
func (tr *trust) indexAsItIs() string {
	tr.t.Helper()
	to := filepath.Join(tr.t.TempDir(), "index")
	if err := os.CopyFS(to, os.DirFS(filepath.Join(tr.home.Dir, "index"))); err != nil {
		tr.t.Fatal(err)
	}
	return to
}

func (tr *trust) putsIndex(from string) {
	tr.t.Helper()
	dir := filepath.Join(tr.home.Dir, "index")
	if err := os.RemoveAll(dir); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *trust) knows(n int) {
	tr.t.Helper()
	tr.wait(fmt.Sprintf("knows %d studies", n), func() (bool, string) {
		var f api.Found
		tr.operator("GET", "/api/v1/studies", nil, &f)
		return len(f.Studies) == n, fmt.Sprintf("%d", len(f.Studies))
	})
}

// A disk has lost the newest writes to the index, and no member is there to tell the node what it had said: it stores again what it had
// acknowledged, and says it in a new epoch, which nothing of before contradicts.
func TestAnIndexThatLostItsNewestWritesGoesOnInANewEpoch(t *testing.T) {
	r := region(t, "RX1", "RX2")
	r[1].imports(study("1.2.3.1", ada, "20240101", 1)...)
	r[0].knows(1)
	old := r[1].indexAsItIs()
	r[1].imports(study("1.2.3.2", ada, "20240102", 2)...)
	r[1].imports(study("1.2.3.3", ada, "20240103", 1)...)
	r[0].knows(3)
	r[0].stop()
	r[1].stop()
	r[1].putsIndex(old)
	r[1].start()
	var f api.Found
	r[1].operator("GET", "/api/v1/studies", nil, &f) // at once
	if len(f.Studies) != 3 {
		t.Errorf("it shows %d studies of the 3 that it had acknowledged", len(f.Studies))
	}
	lost := func() bool {
		return slices.ContainsFunc(r[1].status().Warnings, func(w string) bool {
			return strings.Contains(w, "lost its newest writes") && strings.Contains(w, "See to the disk")
		})
	}
	if !lost() {
		t.Errorf("status does not say it: %q", r[1].status().Warnings)
	}
	r[1].imports(study("1.2.3.4", ada, "20240104", 1)...)
	r[0].start()
	r[0].knows(4)
	r[1].knows(4)
	for _, tr := range r {
		if s := tr.status(); len(s.Forked) > 0 {
			t.Errorf("%s sees a fork: %+v", tr.home.Config.Trust, s.Forked)
		}
		if head, _ := tr.n.Index().Head(r[1].n.Index().Self()); head.Epoch != 2 {
			t.Errorf("%s has %s in epoch %d", tr.home.Config.Trust, r[1].home.Config.Trust, head.Epoch)
		}
	}
	for _, tr := range r {
		code, _, parts := tr.retrieve("studies/1.2.3.2")
		if code != 200 || len(parts) != 2 {
			t.Errorf("%s gives %d, %d instances", tr.home.Config.Trust, code, len(parts))
		}
	}
	r[1].stop()
	r[1].start()
	if head, _ := r[1].n.Index().Head(r[1].n.Index().Self()); head.Epoch != 2 || lost() {
		t.Errorf("after another start: epoch %d", head.Epoch)
	}
	r[1].knows(4)
}

// What a study had gained when the index lost its newest writes is found on the disk,
// however often the node is stopped before, and nothing of it is swept.
func TestAStudyThatGrewInWhatTheIndexLostIsWholeAgain(t *testing.T) {
	for _, stops := range []int{0, 1, 2} {
		r := region(t, "RX1", "RX2")
		r[1].stop()
		r[1].home.Config.Space.SweepAfter, r[1].home.Config.Space.RoundEvery = node.Duration(20*time.Millisecond), node.Duration(50*time.Millisecond)
		r[1].start()
		all := study("1.2.3.1", ada, "20240101", 5)
		r[1].imports(all[:1]...)
		r[1].imports(study("1.2.3.2", grace, "20240101", 2)...)
		r[0].knows(2)
		old := r[1].indexAsItIs()
		r[1].imports(all[1:]...)
		r[0].wait("knows five", func() (bool, string) { s := r[0].find("1.2.3.1"); return len(s) == 1 && s[0].Instances == 5, "" })
		r[1].stop()
		r[1].putsIndex(old)
		r[1].start()
		for range stops {
			r[1].stop()
			r[1].start()
		}
		for _, tr := range r {
			tr.wait("shows all five", func() (bool, string) {
				s := tr.find("1.2.3.1")
				return len(s) == 1 && s[0].Instances == 5, fmt.Sprintf("%+v", s)
			})
			var parts [][]byte
			tr.wait("gives it", func() (bool, string) {
				var code int
				code, _, parts = tr.retrieve("studies/1.2.3.1")
				return code == 200 && len(parts) == 5, fmt.Sprintf("%d, %d instances", code, len(parts))
			})
			same(t, parts, all)
		}
		r[1].wait("has looked through all", func() (bool, string) {
			return !slices.ContainsFunc(r[1].n.Silence(), func(s string) bool { return strings.Contains(s, "not looked through yet") }), strings.Join(r[1].n.Silence(), "; ")
		})
		time.Sleep(200 * time.Millisecond) // sweeps go on
		if v := r[1].verifies(); v.Left != 0 {
			t.Errorf("%+v", v)
		}
	}
}

// A process that is killed leaves its index as it is: nothing is lost, and no epoch begins.
func TestANodeThatWasKilledBeginsNoEpoch(t *testing.T) {
	r := region(t, "RX1")
	for i := range 3 {
		r[0].imports(study(fmt.Sprintf("1.2.3.%d", i+1), ada, "20240101", 2)...)
		said, err := os.ReadFile(filepath.Join(r[0].home.Dir, "said"))
		if err != nil {
			t.Fatal(err)
		}
		left := r[0].indexAsItIs()
		r[0].stop()
		r[0].putsIndex(left)
		if err := os.WriteFile(filepath.Join(r[0].home.Dir, "said"), said, 0o600); err != nil {
			t.Fatal(err)
		}
		r[0].start()
		r[0].knows(i + 1)
		if head, _ := r[0].n.Index().Head(r[0].n.Index().Self()); head.Epoch != 1 || head.Seq == 0 {
			t.Fatalf("it goes on in epoch %d", head.Epoch)
		}
	}
}

// An index that ends before what it once had of another node's log says so in every answer, while nobody is there to tell it again; when somebody
// is, it has all and says no more.
func TestAnIndexThatLostWhatOthersSaidSaysSoInEveryAnswer(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a, b := r[0], r[1]
	old := a.indexAsItIs()
	b.imports(study("1.2.3.1", ada, "20240101", 1)...)
	a.knows(1)
	head, _ := b.n.Index().Head(b.n.Index().Self())
	a.stop()
	b.stop()
	a.putsIndex(old)
	a.start()
	says := func(warnings []string) bool {
		return slices.ContainsFunc(warnings, func(w string) bool { return strings.HasPrefix(w, "RX2: this node's index has lost ") })
	}
	var f api.Found
	a.operator("GET", "/api/v1/studies", nil, &f)
	if !says(f.Warnings) || len(f.Studies) != 0 {
		t.Errorf("%d studies, and no word of what is lost: %q", len(f.Studies), f.Warnings)
	}
	for _, x := range f.Basis {
		if x.Trust == "RX2" && (x.Behind == 0 || x.Logs[0].Seq+x.Behind != uint64(head.Seq) || !x.AsOf.IsZero()) {
			t.Errorf("RX2 had come to %d: %+v", head.Seq, x)
		}
	}
	resp, _ := a.get("/dicom-web/studies", "application/dicom+json")
	if !strings.Contains(strings.Join(resp.Header.Values("Warning"), "\n"), "index has lost") {
		t.Errorf("QIDO-RS: %q", resp.Header.Values("Warning"))
	}
	if !says(a.status().Warnings) {
		t.Errorf("status: %q", a.status().Warnings)
	}
	a.stop() // and it is not forgotten by another start
	a.start()
	if !says(a.n.Silence()) {
		t.Errorf("after another start: %q", a.n.Silence())
	}
	b.start()
	a.knows(1)
	a.wait("lacks nothing", func() (bool, string) { return len(a.n.Silence()) == 0, strings.Join(a.n.Silence(), "; ") })
}

// A note of how far the others had come that is damaged stops nothing; it is made anew.
func TestANoteOfHowFarTheOthersHadComeThatIsDamagedIsMadeAnew(t *testing.T) {
	r := region(t, "RX1", "RX2")
	r[0].stop()
	path := filepath.Join(r[0].home.Dir, "reached")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{nil, whole[:len(whole)-3], append(slices.Clone(whole), whole...)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r[0].start()
		r[0].stop()
		if again, err := os.ReadFile(path); err != nil || string(again) != string(whole) {
			t.Fatalf("%q, %v", again, err)
		}
	}
}
