package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mostMemory is what one node may keep resident at its peak.
const mostMemory = 1 << 30

// demoResult is what `priormesh demo --json` prints, as far as tests look.
type demoResult struct {
	Trusts   []struct{ ODS, Peer, HTTP string }
	Imported struct{ Files, Accepted, Refused int }
	Refusals []struct{ File, Reason string }
	Priors   struct{ Expected, Delivered int }
	Verified struct{ Instances, Identical, Different int }
}

// descendants are a process and all that it started, by /proc.
func descendants(pid int) []int {
	parent := map[int]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range dirs {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		// The name, in parentheses, may hold anything; what follows it may not (proc(5)).
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent[child], _ = strconv.Atoi(fields[1])
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		for child, p := range parent {
			if p == all[i] {
				all = append(all, child)
			}
		}
	}
	return all
}

// demo runs the demo once over a folder and returns what it printed, whatever
// its exit code, and the peak memory of each of its processes. None of them
// may be left.
func demo(t testing.TB, data string, within time.Duration) (result demoResult, code int, peak map[int]int64) {
	t.Helper()
	args := []string{"demo", "--once", "--json"}
	if data != "" {
		args = append(args, "--data", data)
	}
	p := start(t, "demo", priormesh(t), args...)
	peak = map[int]int64{}
	deadline := time.After(within)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-p.done:
			running = false
		case <-deadline:
			t.Fatalf("the demo takes longer than %v", within)
		case <-tick.C:
			for _, pid := range descendants(p.cmd.Process.Pid) {
				// A process that has just ended has no peak any more.
				if rss, err := peakRSS(pid); err == nil {
					peak[pid] = max(peak[pid], rss)
				}
			}
		}
	}
	for pid := range peak {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d outlives the demo", pid)
		}
	}
	code = p.cmd.ProcessState.ExitCode()
	if err := json.Unmarshal([]byte(read(t, p.stdout)), &result); err != nil {
		t.Fatalf("exit code %d, and the result is no JSON: %v", code, err)
	}
	for pid, rss := range peak {
		t.Logf("process %d: at most %d MiB", pid, rss>>20)
		if rss > mostMemory && !soaking() {
			t.Errorf("process %d had %d MiB resident, want at most %d", pid, rss>>20, mostMemory>>20)
		}
	}
	if len(peak) < 4 {
		t.Errorf("the demo ran in %d processes, want one for each of three trusts beside its own", len(peak))
	}
	return result, code, peak
}

// sound holds what the demo says of itself against what must always be true.
func (r demoResult) sound(t testing.TB, files int) {
	t.Helper()
	if r.Imported.Files != files || r.Imported.Accepted+r.Imported.Refused != files || len(r.Refusals) != r.Imported.Refused {
		t.Errorf("of %d files %d were accepted and %d refused, %d with a reason; it counts %d", files, r.Imported.Accepted, r.Imported.Refused, len(r.Refusals), r.Imported.Files)
	}
	for _, f := range r.Refusals {
		if f.Reason == "" {
			t.Errorf("%s was refused without a reason", f.File)
		}
	}
	if r.Priors.Expected == 0 || r.Priors.Delivered != r.Priors.Expected {
		t.Errorf("%d of %d priors were delivered", r.Priors.Delivered, r.Priors.Expected)
	}
	if r.Verified.Instances == 0 || r.Verified.Different != 0 || r.Verified.Identical != r.Verified.Instances {
		t.Errorf("of %d instances %d are identical and %d different", r.Verified.Instances, r.Verified.Identical, r.Verified.Different)
	}
}

func TestDemoOnBundledFiles(t *testing.T) {
	result, code, _ := demo(t, bundled, 3*time.Minute)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	files := bundledFiles(t)
	result.sound(t, len(files))
	if result.Imported.Refused != 0 {
		t.Errorf("refused: %+v", result.Refusals)
	}
	// Each trust has one of the patient's studies when the newest arrives at
	// the first one, so two have to come.
	if result.Priors.Expected != 2 {
		t.Errorf("%d priors, want 2", result.Priors.Expected)
	}
}

func TestDemoOnTheBigSet(t *testing.T) {
	dir := bigSet(t)
	result, code, _ := demo(t, dir, 5*time.Minute)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	files := readManifest(t, filepath.Join(dir, "MANIFEST.tsv"))
	onDisk := 0
	if err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			onDisk++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	result.sound(t, onDisk)

	refused := map[string]string{}
	for _, f := range result.Refusals {
		refused[filepath.Join(dir, filepath.FromSlash(f.File))] = f.Reason
	}
	// A file that names its study and itself is taken, unless its SOP Instance
	// UID is that of a file with other bytes: then the first to come is taken,
	// and every one that comes later may be refused.
	versions := map[string]map[string]bool{} // of a SOP Instance UID: the SHA-256 of each
	accepted := map[string]bool{}            // SOP Instance UIDs of which one file was taken
	for _, f := range files {
		if f.instance == "" {
			continue
		}
		if versions[f.instance] == nil {
			versions[f.instance] = map[string]bool{}
		}
		versions[f.instance][f.sha256] = true
		if _, no := refused[f.path]; !no {
			accepted[f.instance] = true
		}
	}
	sameUID, whole := 0, 0
	for _, f := range files {
		if strings.HasPrefix(f.path, filepath.Join(dir, "broken")+string(filepath.Separator)) || f.study == "" || f.instance == "" {
			continue
		}
		whole++
		reason, no := refused[f.path]
		switch {
		case !no:
		case len(versions[f.instance]) > 1 && accepted[f.instance]:
			sameUID++
		default:
			t.Errorf("%s was refused: %s", f.path, reason)
		}
	}
	t.Logf("%d files, %d of them whole; refused %d, of which %d for a SOP Instance UID that other bytes have", onDisk, whole, len(refused), sameUID)
}
