package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/simulations/link"
)

// built is the program under test, built once for all tests.
var built struct {
	once sync.Once
	path string
	err  error
}

// priormesh is the path of the program. In a soak it is built with the race
// detector.
func priormesh(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		built.path = filepath.Join(scratch, "priormesh")
		args := []string{"build", "-o", built.path}
		if soaking() {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./cmd/priormesh")...)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("building priormesh: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// scratch outlives single tests.
var scratch string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "priormesh-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scratch = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func soaking() bool { return os.Getenv("PRIORMESH_SOAK") != "" }

// node is one trust's node and its home folder. It is driven by commands only.
type node struct {
	trust, home string
	web         string      // DICOMweb's root
	place       *link.Place // where it runs; nil: here
	*process                // the running node, the last one if it ran several times
}

// newNode makes a home folder by `priormesh init`; found names a region to
// found, or is empty.
func newNode(t testing.TB, trust, found string) *node {
	t.Helper()
	return newNodeIn(t, nil, trust, found)
}

// newNodeIn makes a node that runs in a place; nil: here. Its HTTP is reached
// from here all the same.
func newNodeIn(t testing.TB, place *link.Place, trust, found string) *node {
	t.Helper()
	http, mesh, ip := freePort(t), freePort(t), "127.0.0.1"
	if place != nil {
		ip = place.Addr().String()
		if err := place.Forward(http); err != nil {
			t.Fatal(err)
		}
	}
	n := &node{place: place, trust: trust, home: filepath.Join(t.TempDir(), trust), web: fmt.Sprintf("http://127.0.0.1:%d/dicom-web", http)}
	args := []string{"init", "--home", n.home, "--trust", trust, "--name", "Trust " + trust,
		"--http", fmt.Sprintf("127.0.0.1:%d", http), "--mesh", fmt.Sprintf("/ip4/%s/tcp/%d", ip, mesh)}
	if found != "" {
		args = append(args, "--found", found)
	}
	must(t, priormesh(t), args...)
	return n
}

// set changes settings in config.toml as an operator would with an editor.
func (n *node) set(t testing.TB, settings map[string]string) {
	t.Helper()
	path := filepath.Join(n.home, "config.toml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range settings {
		line := regexp.MustCompile(`(?m)^(\s*)` + regexp.QuoteMeta(key) + ` = .*$`)
		if len(line.FindAllIndex(b, -1)) != 1 {
			t.Fatalf("config.toml has no single line for %s:\n%s", key, b)
		}
		b = line.ReplaceAll(b, []byte("${1}"+key+" = "+value))
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run starts the node and waits until it says that it is ready.
func (n *node) run(t testing.TB) {
	t.Helper()
	n.process = startIn(t, n.place, "node "+n.trust, priormesh(t), "run", "--home", n.home)
	ready := strings.TrimSuffix(n.web, "/dicom-web") + "/readyz"
	eventually(t, startDeadline, "node "+n.trust+" is ready", func() error {
		if !n.running() {
			t.Fatalf("node %s ended while starting: %v", n.trust, n.err)
		}
		_, err := get(ready)
		return err
	})
}

// try runs a command on this node's home, whatever its exit code.
func (n *node) try(t testing.TB, command string, args ...string) result {
	t.Helper()
	return try(t, priormesh(t), append([]string{command, "--home", n.home}, args...)...)
}

// must runs a command on this node's home and insists on exit code 0.
func (n *node) must(t testing.TB, command string, args ...string) string {
	t.Helper()
	return must(t, priormesh(t), append([]string{command, "--home", n.home}, args...)...)
}

// Exit codes of commands that are answers, not failures.
const (
	codeNotRunning = 3
	codeNotFound   = 4
	codePartly     = 5
	codeNotYet     = 6
)

// ask runs a command with --json and reads its answer into out. The command
// must end with 0 or with one of the given codes.
func (n *node) ask(t testing.TB, out any, command string, args []string, codes ...int) {
	t.Helper()
	r := n.try(t, command, append([]string{"--json"}, args...)...)
	if r.code != 0 && !slices.Contains(codes, r.code) {
		t.Fatalf("%s %s: exit code %d\n%s%s", command, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), out); err != nil {
		t.Fatalf("%s --json: %v\n%s%s", command, err, r.stdout, r.stderr)
	}
}

func (n *node) card(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(n.must(t, "card"))
}

func (n *node) status(t testing.TB) api.Status {
	t.Helper()
	var s api.Status
	n.ask(t, &s, "status", nil)
	return s
}

func (n *node) peers(t testing.TB) []api.Peer {
	t.Helper()
	var p []api.Peer
	n.ask(t, &p, "peers", nil)
	return p
}

// find is `priormesh find`.
func (n *node) find(t testing.TB, args ...string) api.Found {
	t.Helper()
	var f api.Found
	n.ask(t, &f, "find", args, codeNotFound)
	return f
}

// imported is one line of `priormesh import --json`.
type imported struct {
	File string `json:"file"`
	api.Receipt
}

// receipts reads the whole lines of `priormesh import --json`: one for each
// file, and one that sums up, which is left out.
func receipts(t testing.TB, text string) []imported {
	t.Helper()
	var all []imported
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			break // still being written
		}
		var r imported
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("import --json: %v\n%s", err, line)
		}
		if r.File != "" {
			all = append(all, r)
		}
	}
	return all
}

// take imports files and insists that each is accepted.
func (n *node) take(t testing.TB, paths ...string) {
	t.Helper()
	for _, r := range receipts(t, n.must(t, "import", append([]string{"--json"}, paths...)...)) {
		if r.Outcome != api.Stored && r.Outcome != api.Duplicate {
			t.Fatalf("import of %s at %s: %s: %s", r.File, n.trust, r.Outcome, r.Reason)
		}
	}
}

// admit has members endorse a newcomer one after the other until it is
// admitted, and returns the invitation.
func admit(t testing.TB, newcomer *node, members ...*node) string {
	t.Helper()
	card := newcomer.card(t)
	var a api.Admission
	for _, m := range members {
		m.ask(t, &a, "admit", []string{card}, codeNotYet)
		if a.Admitted {
			return a.Invitation
		}
	}
	// The last member may not have heard the others' endorsements yet.
	// Endorsing again changes nothing.
	last := members[len(members)-1]
	eventually(t, startDeadline, newcomer.trust+" is admitted", func() error {
		last.ask(t, &a, "admit", []string{card}, codeNotYet)
		if !a.Admitted {
			return fmt.Errorf("%d of %d endorsements, by %v", a.Have, a.Need, a.By)
		}
		return nil
	})
	return a.Invitation
}

// quick are settings that make a region notice things sooner than a hospital
// needs, and trusts that share one numbering of patients.
var quick = map[string]string{"heard_within": `"3s"`, "read_through": `"3s"`, "settle_after": `"1s"`, "retry_min": `"500ms"`, "retry_max": `"2s"`,
	"default_issuer": `"NORTH"`}

// region makes and runs a region of trusts, admitted one after the other by
// the members before them, and waits until all hear each other.
func region(t testing.TB, trusts ...string) []*node {
	t.Helper()
	var members []*node
	for i, trust := range trusts {
		found := ""
		if i == 0 {
			found = "Interop"
		}
		n := newNode(t, trust, found)
		n.set(t, quick)
		if i > 0 {
			n.must(t, "join", admit(t, n, members...))
		}
		n.run(t)
		members = append(members, n)
	}
	hearEachOther(t, members...)
	return members
}

// hearEachOther waits until every node hears every other one's trust.
func hearEachOther(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		eventually(t, startDeadline, n.trust+" hears everybody", func() error {
			s := n.status(t)
			var errs []error
			for _, m := range nodes {
				i := slices.IndexFunc(s.Trusts, func(o api.TrustStatus) bool { return o.Trust == m.trust })
				if m != n && (i < 0 || !s.Trusts[i].Heard || s.Trusts[i].Behind > 0) {
					errs = append(errs, fmt.Errorf("not %s: %+v", m.trust, s.Trusts))
				}
			}
			return errors.Join(errs...)
		})
	}
}

// knows waits until a node knows a whole study, wherever it is.
func (n *node) knows(t testing.TB, uid string, instances int) {
	t.Helper()
	eventually(t, startDeadline, n.trust+" knows the study", func() error {
		f := n.find(t, "--study", uid)
		if len(f.Studies) != 1 || f.Studies[0].Instances != instances {
			return fmt.Errorf("found %+v, want one study of %d instances", f.Studies, instances)
		}
		return nil
	})
}

// has waits until a node holds a whole study itself.
func (n *node) has(t testing.TB, uid string, instances int) {
	t.Helper()
	eventually(t, startDeadline, n.trust+" holds the study", func() error {
		f := n.find(t, "--study", uid)
		if len(f.Studies) != 1 || f.Studies[0].Instances != instances || f.Studies[0].Availability != "ONLINE" {
			return fmt.Errorf("found %+v, want one study of %d instances, ONLINE; fetches: %+v", f.Studies, instances, n.status(t).Fetches)
		}
		return nil
	})
}

// serves holds what a node serves of a study against the files.
func (n *node) serves(t testing.TB, uid string, want []string) {
	t.Helper()
	sameSums(t, curl(t, "-H", acceptAsIs, n.web+"/studies/"+uid).sums(t), want)
}
