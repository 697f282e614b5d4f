package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

func TestErase(t *testing.T) {
	done := api.Erasure{Study: "1.2", State: "erased", Reason: "why", Versions: 2, Instances: 7, Bytes: 3 << 20, Copies: []string{"RX2", "RX3"}, Others: []string{"RX4"}}
	yes := &fake{answers: map[string]any{"POST /api/v1/erasures": done}}
	slow := &fake{answers: map[string]any{"POST /api/v1/erasures": api.Erasure{Study: "1.2", State: "active", Problem: "the disk is slow"}, "GET /api/v1/erasures/1.2": done}}
	none := &fake{answers: map[string]any{"POST /api/v1/erasures": &api.Error{Status: 404, Text: "nothing is kept here of such a study"}}}
	busy := &fake{answers: map[string]any{"POST /api/v1/erasures": &api.Error{Status: 409, Text: "the study is being erased already"}}}
	for name, c := range map[string]struct {
		node           *fake
		args           []string
		code           int
		stdout, stderr string
	}{
		"erase":               {yes, []string{"--yes", "--reason", "why", "1.2"}, 0, `(?s)^erased: 1\.2, 2 versions, 7 instances, .*copies: 2 trusts that said.*\(RX2, RX3\).*others: what 1 other trust received of it \(RX4\) stays there.*backups:`, ""},
		"erase in JSON":       {yes, []string{"--yes", "--json", "--reason", "why", "1.2"}, 0, `^\{"study":"1.2","state":"erased".*"copies":\["RX2","RX3"\],"others":\["RX4"\]\}\n$`, ""},
		"erase, slowly":       {slow, []string{"--yes", "--reason", "why", "1.2"}, 0, `^erased: 1\.2`, `could not go on: the disk is slow`},
		"erase the unknown":   {none, []string{"--yes", "--reason", "why", "1.2"}, 4, "", `nothing is kept here of such a study`},
		"erase twice":         {busy, []string{"--yes", "--reason", "why", "1.2"}, 1, "", `being erased already`},
		"erase what is none":  {yes, []string{"--yes", "--reason", "why", "DOE"}, 2, "", `no Study Instance UID`},
		"erase for no reason": {yes, []string{"--yes", "1.2"}, 2, "", `--reason`},
		"nobody is asked":     {&fake{answers: map[string]any{"GET /api/v1/studies": api.Found{}}}, []string{"--reason", "why", "1.2"}, 2, "", `say --yes`},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, "erase\n", append([]string{"erase", "--home", homeOf(t, c.node)}, c.args...)...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			for what, got := range map[string][2]string{"stdout": {r.stdout, c.stdout}, "stderr": {r.stderr, c.stderr}} {
				if got[1] == "" && got[0] != "" || !regexp.MustCompile(got[1]).MatchString(got[0]) {
					t.Errorf("%s is\n%s\nwant %s", what, got[0], got[1])
				}
			}
		})
	}
	for _, a := range yes.asked {
		if want := `POST /api/v1/erasures {"reason":"why","study":"1.2"}`; a != want {
			t.Errorf("asked %s, want %s", a, want)
		}
	}
	if r := run(t, "", "erase", "--home", makeHome(t, "RX1", ""), "--yes", "--reason", "why", "1.2"); r.code != 3 || !strings.Contains(r.stderr, "the node is not running: start it") {
		t.Errorf("no node: %+v", r)
	}
	if r := run(t, "", "erase", "--help"); !regexp.MustCompile(`(?s)never put a\s+patient's name`).MatchString(r.stdout) {
		t.Errorf("the help does not warn: %s", r.stdout)
	}
}

// runningNode is the home of a node that runs until the test ends.
func runningNode(t *testing.T) (dir string) {
	t.Helper()
	dir = makeHome(t, "RX1", "Test region")
	home, err := node.OpenHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	home.Config.HTTP, home.Config.Mesh = "127.0.0.1:0", []string{"/ip4/127.0.0.1/tcp/0"}
	n, err := node.Open(context.Background(), home, node.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Whoever imports two patients' images under one Study Instance UID is told at
// once, and once of each study.
func TestImportWarnsOfAMixedStudy(t *testing.T) {
	dir, files := runningNode(t), t.TempDir()
	for n, name := range []string{"DOE^JANE", "ROE^MARY", "ROE^MARY", "DOE^JANE"} {
		i := dicomtest.Instance{Study: "1.2.3", Series: "1.2.3.1", SOP: fmt.Sprint("1.2.3.1.", n+1), PatientID: name[:1], Name: name, Date: "20240102", Modality: "CT", Frames: 1}
		if n == 3 {
			i.Study, i.Series = "1.2.4", "1.2.4.1"
		}
		if err := os.WriteFile(filepath.Join(files, fmt.Sprint(n)), i.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := run(t, "", "import", "--home", dir, files)
	if r.code != 0 || strings.Count(r.stderr, "warning: instances of study 1.2.3 name several patients") != 1 || strings.Contains(r.stderr, "1.2.4") {
		t.Errorf("%+v", r)
	}
}

func TestAuditSaysWhichNameNoEventHas(t *testing.T) {
	dir, files := runningNode(t), t.TempDir()
	i := dicomtest.Instance{Study: "1.2.3", Series: "1.2.3.1", SOP: "1.2.3.1.1", PatientID: "7", Name: "DOE^JANE", Modality: "CT", Frames: 1}
	if err := os.WriteFile(filepath.Join(files, "one"), i.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, "", "import", "--home", dir, files); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if r := run(t, "", "erase", "--home", dir, "--yes", "--reason", "request 12", "1.2.3"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	for args, want := range map[string]string{
		"study.erse":   `none of the whole log is named "study.erse"`,
		"study.":       "",
		"study.erased": "",
	} {
		r := run(t, "", "audit", "--home", dir, "--event", args)
		if (r.code == 0) != (want == "") || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if r := run(t, "", "audit", "--home", dir, "--event", "study.erased", "--study", "1.2.4"); r.code != 4 || strings.Contains(r.stderr, "whole log") {
		t.Errorf("%+v", r)
	}
}

func TestEraseAtANode(t *testing.T) {
	dir, files := runningNode(t), t.TempDir()
	for _, uid := range []string{"1.2.5113", "1.2.6224"} {
		i := dicomtest.Instance{Study: uid, Series: uid + ".1", SOP: uid + ".1.1", PatientID: "7", Name: "DOE^JANE", Date: "20240102", Modality: "CT", Frames: 1}
		if err := os.WriteFile(filepath.Join(files, uid+".dcm"), i.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := run(t, "", "import", "--home", dir, files); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	r := run(t, "", "erase", "--home", dir, "--json", "--yes", "--reason", "request 12", "1.2.5113")
	var e api.Erasure
	if err := json.Unmarshal([]byte(r.stdout), &e); r.code != 0 || err != nil || e.State != "erased" || e.Instances != 1 || e.Versions != 1 || e.Bytes == 0 || len(e.Copies) != 0 {
		t.Fatalf("%+v", r)
	}
	if r := run(t, "", "find", "--home", dir, "--study", "1.2.5113"); r.code != 4 {
		t.Errorf("it is still found: %+v", r)
	}
	if r := run(t, "", "find", "--home", dir, "--study", "1.2.6224"); r.code != 0 {
		t.Errorf("the other is not: %+v", r)
	}
	if r := run(t, "", "erase", "--home", dir, "--yes", "--reason", "request 12", "1.2.5113"); r.code != 4 || !strings.Contains(r.stderr, "nothing is kept here") {
		t.Errorf("erased twice: %+v", r)
	}
	if r := run(t, "", "erase", "--home", dir, "--yes", "--reason", strings.Repeat("x", 201), "1.2.6224"); r.code != 2 || !strings.Contains(r.stderr, "200 bytes") {
		t.Errorf("a long reason: %+v", r)
	}
}
