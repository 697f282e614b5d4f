package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/audit"
)

func TestAudit(t *testing.T) {
	const study = "1.2.826.0.1.3680043.8.498.1"
	dir := makeHome(t, "RX1", "One")
	if r := run(t, "", "audit", "--home", dir); r.code != 4 {
		t.Errorf("a home that did nothing: %+v", r)
	}
	home, err := node.OpenHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	folder, tail := home.Audit()
	l, err := audit.Open(folder, audit.Options{Now: time.Now, Tail: tail})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []audit.Event{
		{Event: "grant.given", Trust: "RX2", Node: "12D3KooWx", Study: dicom.UID(study).Short(), Purpose: "direct care", Expires: time.Now().Add(time.Hour)},
		{Event: "grant.refused", Trust: "RX3", Node: "12D3KooWy", Study: dicom.UID("1.2.3").Short(), Purpose: "research", Detail: "not\x1b[31m here"},
	} {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		has  string
		not  string
	}{
		{nil, 0, "RX3", "\x1b"},
		{[]string{"--study", study}, 0, "RX2", "RX3"},
		{[]string{"--event", "grant.", "--trust", "rx3"}, 0, "research", "RX2"},
		{[]string{"--node", "12D3KooWx", "--since", "1h"}, 0, "RX2", "RX3"},
		{[]string{"--purpose", "research"}, 0, "RX3", "RX2"},
		{[]string{"--until", "2020-01-01"}, 4, "", "RX2"},
		{[]string{"--since", "2020-01-01 10:00", "--until", "2099-01-01"}, 0, "RX2", ""},
		{[]string{"--since", "yesterday"}, 2, "", "RX2"},
		{[]string{"--since", "1h", "--until", "2h"}, 2, "", "RX2"},
		{[]string{"--study", "x"}, 2, "", "RX2"},
		{[]string{"--verify", "--trust", "RX2"}, 2, "", "RX2"},
		{[]string{"--verify"}, 0, "as it was written", ""},
	} {
		r := run(t, "", append([]string{"audit", "--home", dir}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.stdout, c.has) || c.not != "" && strings.Contains(r.stdout, c.not) {
			t.Errorf("%q: %+v", c.args, r)
		}
	}
	raw, err := os.ReadFile(filepath.Join(folder, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if r := run(t, "", "audit", "--home", dir, "--json"); r.stdout != string(raw) {
		t.Errorf("the lines are not as they stand in the log: %+v", r)
	}

	// While the node runs, too; and it says that the end was cut off.
	running := startRun(t, dir)
	if r := run(t, "", "audit", "--home", dir, "--trust", "RX2"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	running.end(t, syscall.SIGTERM)
	lines := bytes.SplitAfter(raw, []byte("\n"))
	if err := os.WriteFile(filepath.Join(folder, "audit.jsonl"), lines[0], 0o600); err != nil {
		t.Fatal(err)
	}
	var report audit.Report
	r := run(t, "", "audit", "--home", dir, "--verify", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 7 || len(report.Problems) != 1 {
		t.Errorf("%+v", r)
	}
	running = startRun(t, dir)
	if r := run(t, "", "status", "--home", dir); !strings.Contains(r.stdout+r.stderr, "priormesh audit --verify") {
		t.Errorf("%+v", r)
	}
	running.end(t, syscall.SIGTERM)
	if r := run(t, "", "audit", "--home", dir, "--verify"); r.code != 7 || !strings.Contains(r.stdout, "behind event 1") {
		t.Errorf("%+v", r)
	}
}
