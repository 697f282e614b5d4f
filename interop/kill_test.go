package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/node/api"
)

// seed makes the random moments of a run repeatable. A soak uses another one
// each round.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := uint64(1)
	if round := os.Getenv("PRIORMESH_SOAK"); round != "" {
		n, err := strconv.ParseUint(round, 10, 64)
		if err != nil {
			t.Fatalf("PRIORMESH_SOAK=%s: %v", round, err)
		}
		s += n
	}
	t.Logf("seed %d", s)
	return s
}

// acknowledged are the receipts that a running `import --json` has printed,
// and those of them that say that the instance is safe.
func acknowledged(t testing.TB, p *process) (all, safe []imported) {
	t.Helper()
	all = receipts(t, read(t, p.stdout))
	for _, r := range all {
		if r.Outcome == api.Stored || r.Outcome == api.Duplicate {
			safe = append(safe, r)
		}
	}
	return all, safe
}

// A node that is killed while it stores has everything that it acknowledged.
func TestKillNineDuringImport(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 9))
	dir := t.TempDir()
	var files []file
	for s := range uint64(3) {
		files = append(files, synthesize(t, dir, 100+s, 40, 256<<10)...)
	}
	byPath := map[string]file{}
	for _, f := range files {
		byPath[f.path] = f
	}
	n := newNode(t, "RAA", "Kill")
	n.set(t, quick)
	n.run(t)
	acked := map[string]file{} // by instance
	for round := range 4 {
		importer := start(t, "import", priormesh(t), "import", "--home", n.home, "--json", dir)
		// Files of earlier rounds are duplicates, so the moments move forward.
		after := len(acked) + rng.IntN((len(files)-len(acked))/2+1)
		eventually(t, runDeadline, "the import gets going", func() error {
			if all, _ := acknowledged(t, importer); len(all) < after && importer.running() {
				return fmt.Errorf("%d of %d files answered", len(all), after)
			}
			return nil
		})
		time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
		n.kill(t)
		n.blamesNoDisk(t)
		select {
		case <-importer.done:
		case <-time.After(runDeadline):
			t.Fatalf("the import goes on although its node is dead")
		}
		_, safe := acknowledged(t, importer)
		for _, r := range safe {
			f, ok := byPath[r.File]
			if !ok || f.instance != r.Instance || f.sha256 != r.SHA256 {
				t.Fatalf("a receipt for %s that is not its own: %+v", r.File, r)
			}
			acked[f.instance] = f
		}
		if len(safe) < len(files) && importer.err == nil {
			t.Error("the import ended with 0 although files were not accepted")
		}
		t.Logf("round %d: killed with %d of %d instances acknowledged", round, len(acked), len(files))

		n.run(t)
		for uid, studyFiles := range byStudy(files) {
			known := map[string]bool{}
			for _, f := range studyFiles {
				known[f.sha256] = true
			}
			must := 0
			for _, f := range studyFiles {
				if _, ok := acked[f.instance]; ok {
					must++
				}
			}
			if must == 0 {
				continue
			}
			got := curl(t, "-H", acceptAsIs, n.web+"/studies/"+uid).sums(t)
			for s := range got {
				if !known[s] {
					t.Fatalf("after the kill, round %d: the study has an instance that nobody sent", round)
				}
			}
			for _, f := range studyFiles {
				if _, ok := acked[f.instance]; ok && got[f.sha256] != 1 {
					t.Fatalf("after the kill, round %d: an acknowledged instance is there %d times", round, got[f.sha256])
				}
			}
		}
	}
	n.blamesNoDisk(t) // as it started after the last kill
	n.take(t, dir)
	for uid, studyFiles := range byStudy(files) {
		n.has(t, uid, len(studyFiles))
		n.serves(t, uid, sums(studyFiles))
	}
}

// blamesNoDisk expects that a node that was killed, and has lost nothing that it
// acknowledged, did not say at its start that the disk is bad.
func (n *node) blamesNoDisk(t testing.TB) {
	t.Helper()
	if log, err := os.ReadFile(n.stderr); err != nil || bytes.Contains(log, []byte("Something is wrong with the disk")) {
		t.Errorf("nothing that was acknowledged is lost, and the node blames the disk: %v", err)
	}
}

// operator makes one call of a node's operator API. The commands would do, but
// not as quickly as the moments of these tests need.
func (n *node) operator(t testing.TB, method, path string, body any) api.Fetch {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(n.home, "operator.token"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, strings.TrimSuffix(n.web, "/dicom-web")+"/api/v1"+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var f api.Fetch
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %v", method, path, resp.Status, err)
	}
	return f
}

// request asks for a study; when it returns the node has the wish on disk.
func (n *node) request(t testing.TB, uid string) {
	t.Helper()
	n.operator(t, http.MethodPost, "/fetches", map[string]string{"study": uid})
}

// A fetch goes on by itself after either end of it was killed.
func TestKillNineDuringFetch(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 9))
	// More than a node asks for at once (32 MiB), so that there are halves to be left with.
	const instances, size = 96, 512 << 10
	members := region(t, "RAA", "RBB")
	a, b := members[0], members[1]
	bring := func(number uint64) (uid string, files []file) {
		dir := t.TempDir()
		files = synthesize(t, dir, 200+number, instances, size)
		b.take(t, dir)
		a.knows(t, files[0].study, instances)
		return files[0].study, files
	}

	// Undisturbed, to know how long there is to disturb: the shorter of two.
	whole := runDeadline
	for number := range uint64(2) {
		uid, files := bring(number)
		began := time.Now()
		a.request(t, uid)
		for a.operator(t, http.MethodGet, "/fetches/"+uid, nil).State != "here" {
			if time.Since(began) > runDeadline {
				t.Fatal("an undisturbed fetch does not end")
			}
			time.Sleep(2 * time.Millisecond)
		}
		whole = min(whole, time.Since(began))
		a.serves(t, uid, sums(files))
	}
	t.Logf("undisturbed: %v", whole)

	for round := range uint64(4) {
		uid, files := bring(10 + round)
		victim := members[round%2]
		a.request(t, uid)
		time.Sleep(time.Duration(rng.Int64N(int64(whole))))
		at := a.operator(t, http.MethodGet, "/fetches/"+uid, nil)
		victim.kill(t)
		t.Logf("round %d: killed %s when the fetch was %s, with %d of %d instances", round, victim.trust, at.State, at.InstancesHere, instances)
		victim.run(t)
		a.has(t, uid, instances)
		a.serves(t, uid, sums(files))
	}
}
