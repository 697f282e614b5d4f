package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node/api"
)

// pretend is a node as the demo sees it.
type pretend struct {
	studies []api.Study
	fetches []api.Fetch
	refuse  bool // what arrives by STOW-RS
}

func (p *pretend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	switch {
	case r.URL.Path == "/api/v1/studies":
		_ = json.NewEncoder(w).Encode(api.Found{Studies: p.studies, Total: len(p.studies)})
	case r.URL.Path == "/api/v1/status":
		_ = json.NewEncoder(w).Encode(api.Status{Peer: "12D3", Fetches: p.fetches, Studies: api.StudyCounts{Own: 1}})
	case strings.HasPrefix(r.URL.Path, "/api/v1/fetches/"):
		_ = json.NewEncoder(w).Encode(api.Fetch{State: "waiting", Instances: 1, Error: "RX2 is away"})
	case r.URL.Path == "/dicom-web/studies":
		tag := "00081199"
		if p.refuse {
			tag = "00081198"
		}
		fmt.Fprintf(w, `{"%s":{"Value":[{"00081155":{"Value":["1.4.1.d"]}}]}}`, tag)
	default:
		http.NotFound(w, r)
	}
}

// pretended is a demo of two trusts after the import: at the second one there
// is a prior, 1.3, of the study 1.4 that is to arrive at the first, and a
// stranger's study 1.9.
func pretended(t *testing.T, first, second *pretend) (*demo, *bytes.Buffer) {
	t.Helper()
	out := new(bytes.Buffer)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "d"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &demo{p: &program{stdout: out, stderr: out}, told: out, web: http.DefaultClient, data: dir, region: &demoRegion{dir: dir}}
	d.plan = demoPlan{trusts: 2, files: []demoFile{
		one("c", "1.3", "2003", "7", "DOE^JANE", ""), one("d", "1.4", "2004", "7", "DOE^JANE", ""), one("e", "1.9", "2005", "8", "ROE^MARY", "")},
		bundles: []bundle{{trust: 1, imported: []int{0}}, {trust: 0, arriving: []int{1}}, {trust: 1, imported: []int{2}}}}
	d.receipts = []api.Receipt{{Outcome: api.Stored, Study: "1.3", Bytes: 5}, {}, {Outcome: api.Stored, Study: "1.9", Bytes: 6}}
	for i, p := range []*pretend{first, second} {
		s := httptest.NewServer(p)
		t.Cleanup(s.Close)
		d.region.trusts = append(d.region.trusts, &demoTrust{ods: fmt.Sprintf("RX%d", i+1), web: s.URL, client: api.NewClient(s.URL, "t", nil)})
		d.result.Trusts = append(d.result.Trusts, demoTrustResult{})
	}
	return d, out
}

func at(uid, availability string) api.Study {
	return api.Study{Study: uid, Instances: 1, Availability: availability}
}

func TestDemoJudges(t *testing.T) {
	expected := []dicom.UID{"1.3"}
	for name, c := range map[string]struct {
		first, second pretend
		different     int
		expected      []dicom.UID
		code          int
		says          string
	}{
		"as it should be": {pretend{studies: []api.Study{at("1.3", "ONLINE"), at("1.4", "ONLINE"), at("1.9", "NEARLINE")}},
			pretend{studies: []api.Study{at("1.3", "ONLINE"), at("1.4", "NEARLINE"), at("1.9", "ONLINE")}}, 0, expected, 0, "nothing else was moved"},
		"a stranger's study at the first trust": {pretend{studies: []api.Study{at("1.3", "ONLINE"), at("1.4", "ONLINE"), at("1.9", "ONLINE")}},
			pretend{}, 0, expected, 1, "must never happen: RX1: " + dicom.UID("1.9").Short()},
		"a stranger's study on its way": {pretend{studies: []api.Study{at("1.3", "ONLINE")}, fetches: []api.Fetch{{Study: "1.9", State: "waiting"}}},
			pretend{}, 0, expected, 1, "must never happen: RX1: " + dicom.UID("1.9").Short()},
		"the new study at another trust": {pretend{studies: []api.Study{at("1.3", "ONLINE")}},
			pretend{studies: []api.Study{at("1.4", "ONLINE")}}, 0, expected, 1, "must never happen: RX2: " + dicom.UID("1.4").Short()},
		"other bytes": {pretend{}, pretend{}, 1, expected, 1, "1 of 2 instances are not the bytes"},
		"no priors":   {pretend{}, pretend{}, 0, nil, 4, "no prior to bring"},
	} {
		t.Run(name, func(t *testing.T) {
			d, out := pretended(t, &c.first, &c.second)
			d.receipts[1] = api.Receipt{Outcome: api.Stored, Study: "1.4"}
			d.result.Verified = demoVerified{Instances: 2, Different: c.different}
			err := d.judge(t.Context(), c.expected)
			said := out.String()
			if err != nil {
				said = err.Error()
			}
			if exitCode(err) != c.code || !strings.Contains(said, c.says) {
				t.Errorf("code %d, %s", exitCode(err), said)
			}
		})
	}
}

// A fetch that is still under way is waited for before the demo judges.
func TestDemoWaitsForTheQueue(t *testing.T) {
	d, _ := pretended(t, &pretend{fetches: []api.Fetch{{Study: "1.3", State: "active"}}}, &pretend{})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errTimeout)
	defer cancel()
	if err := d.judge(ctx, []dicom.UID{"1.3"}); !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), "still bringing") {
		t.Errorf("got %v", err)
	}
}

func TestDemoArrival(t *testing.T) {
	first := &pretend{studies: []api.Study{at("1.3", "NEARLINE"), at("1.4", "ONLINE"), at("1.9", "NEARLINE")}}
	d, _ := pretended(t, first, &pretend{})
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errTimeout)
	defer cancel()
	_, err := d.arrive(ctx)
	if want := "1 of 1 priors have not come to RX1: study " + dicom.UID("1.3").Short() + " (waiting, 0 of 1 instances: RX2 is away)"; !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), want) {
		t.Errorf("a prior that does not come: %v", err)
	}
	if p := d.result.Priors; p.Expected != 1 || p.Delivered != 0 {
		t.Errorf("%+v", p)
	}

	first = &pretend{studies: []api.Study{at("1.3", "ONLINE"), at("1.4", "ONLINE")}}
	d, out := pretended(t, first, &pretend{})
	expected, err := d.arrive(t.Context())
	if p := d.result.Priors; err != nil || len(expected) != 1 || p.Delivered != 1 || p.SecondsToAll < p.SecondsToFirst {
		t.Errorf("%v, %+v\n%s", err, p, out)
	}
	if i := d.result.Imported; i.Files != 3 || i.Accepted != 3 || i.Refused != 0 {
		t.Errorf("%+v", i)
	}

	first.refuse = true
	d, _ = pretended(t, first, &pretend{})
	if expected, err = d.arrive(t.Context()); err != nil || len(expected) != 0 {
		t.Errorf("after the new study was refused %v is expected, %v", expected, err)
	}
	if i, r := d.result.Imported, d.result.Refusals; i.Files != 3 || i.Accepted != 2 || i.Refused != 1 || len(r) != 1 || r[0].File != "d" || r[0].Reason == "" {
		t.Errorf("%+v, %+v", i, r)
	}
}

func TestDemoListsRefusals(t *testing.T) {
	d, out := pretended(t, &pretend{}, &pretend{})
	for i := range toldRefusals + 5 {
		d.result.Refusals = append(d.result.Refusals, refusal{fmt.Sprintf("%d\x1b.dcm", i), "because"})
	}
	d.refusals()
	if n := strings.Count(out.String(), "because"); n != toldRefusals || !strings.Contains(out.String(), "and 5 more") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%s", out)
	}
}

// demoRun starts a demo as a process; its temporary files are the test's.
func demoRun(t *testing.T, args ...string) *running {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	return start(t, append([]string{"demo"}, args...)...)
}

var processText = regexp.MustCompile(`\(process (\d+),`)

// nodes are the processes that a demo says it has started.
func (r *running) nodes(t *testing.T) []int {
	t.Helper()
	var pids []int
	for _, m := range processText.FindAllStringSubmatch(r.stdout.String()+r.stderr.String(), -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// gone waits until none of the processes is there. One that has ended but was
// not waited for by whoever inherited it counts as gone.
func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool {
			if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				return true
			}
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && bytes.Contains(b, []byte(") Z "))
		})
	}
}

func left(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "priormesh-demo-*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

const bundled = "../../testdata/demo"

func TestDemoOnce(t *testing.T) {
	r := demoRun(t, "--once", "--json", "--data", bundled)
	if err := r.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, r.stderr.String())
	}
	d := json.NewDecoder(bytes.NewReader(r.stdout.Bytes()))
	d.DisallowUnknownFields()
	var got demoResult
	if err := d.Decode(&got); err != nil || d.More() {
		t.Fatalf("stdout is not one object (%v):\n%s", err, r.stdout.String())
	}
	files, err := scanFolder(bundled)
	if err != nil {
		t.Fatal(err)
	}
	if i := got.Imported; i.Files != len(files) || i.Accepted+i.Refused != i.Files || len(got.Refusals) != i.Refused || i.Bytes == 0 {
		t.Errorf("of %d files: %+v, %d refusals", len(files), i, len(got.Refusals))
	}
	if p := got.Priors; p.Expected < 2 || p.Delivered != p.Expected || p.SecondsToFirst <= 0 || p.SecondsToAll < p.SecondsToFirst || p.SecondsToAll > got.Seconds {
		t.Errorf("%+v in %v s", p, got.Seconds)
	}
	if v := got.Verified; v.Instances < 2 || v.Identical != v.Instances || v.Different != 0 {
		t.Errorf("%+v", v)
	}
	peers := map[string]bool{}
	for i, trust := range got.Trusts {
		peers[trust.Peer] = true
		if trust.ODS != fmt.Sprintf("RX%d", i+1) || trust.Studies < 1 || !strings.HasPrefix(trust.HTTP, "http://127.0.0.1:") {
			t.Errorf("%+v", trust)
		}
	}
	if len(peers) != 3 {
		t.Errorf("%d different nodes", len(peers))
	}
	pids := r.nodes(t)
	if len(pids) != 3 {
		t.Errorf("processes %v", pids)
	}
	gone(t, pids)
	if l := left(t); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

// A demo that keeps running, on few files.
func demoStays(t *testing.T, more ...string) *running {
	t.Helper()
	r := demoRun(t, append([]string{"--trusts", "2", "--data", bundled + "/pydicom"}, more...)...)
	eventually(t, "the region can be tried", func() bool { return strings.Contains(r.stdout.String(), "The nodes' logs are") })
	return r
}

func TestDemoUntilInterrupted(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "kept")
	r := demoStays(t, "--keep", keep)
	pids := r.nodes(t)
	// What it says to try works.
	for line := range strings.Lines(r.stdout.String()) {
		args := strings.Fields(line)
		switch {
		case strings.Contains(line, " find --home "), strings.Contains(line, " status --home "):
			if got := run(t, "", args[1:]...); got.code != 0 || got.stdout == "" {
				t.Errorf("%s: %+v", line, got)
			}
		case strings.HasPrefix(line, "  curl "):
			resp, err := http.Get(strings.Trim(args[len(args)-1], "'"))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 200 || !json.Valid(b) || len(b) < 100 {
				t.Errorf("%s: %s, %v, %.100s", line, resp.Status, err, b)
			}
		}
	}
	r.end(t, os.Interrupt)
	gone(t, pids)
	if len(pids) != 2 {
		t.Errorf("processes %v", pids)
	}
	for _, name := range []string{"RX1/config.toml", "RX2.log"} {
		if _, err := os.Stat(filepath.Join(keep, name)); err != nil {
			t.Errorf("not kept: %v", err)
		}
	}
	if l := left(t); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}

// However the demo ends, its nodes end with it.
func TestDemoKilled(t *testing.T) {
	r := demoStays(t)
	pids := r.nodes(t)
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait()
	if len(pids) != 2 {
		t.Errorf("processes %v", pids)
	}
	gone(t, pids)
}

// A node that ends by itself ends the demo, which says which and shows its log.
func TestDemoLosesANode(t *testing.T) {
	r := demoStays(t)
	pids := r.nodes(t)
	if len(pids) != 2 {
		t.Fatalf("processes %v", pids)
	}
	if err := syscall.Kill(pids[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait()
	if said := r.stderr.String(); r.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said, "RX2's node has ended by itself (signal: killed)") || !strings.Contains(said, "the node runs") {
		t.Errorf("code %d, %s", r.cmd.ProcessState.ExitCode(), said)
	}
	gone(t, pids)
	if l := left(t); len(l) > 0 {
		t.Errorf("left behind: %v", l)
	}
}
