package node_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// [fetch] is in force when it is written; a file that is wrong changes nothing,
// and is said to be, with the line; what else is changed waits for a start.
func TestSettingsChangeWhileTheNodeRuns(t *testing.T) {
	tr := newTrust(t, "RX1", "Test region")
	tr.start()
	path := filepath.Join(tr.home.Dir, "config.toml")
	write := func(b []byte) {
		t.Helper()
		// As editors do it: another file takes its place.
		if err := os.WriteFile(path+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	status := func() (s api.Status) {
		t.Helper()
		if code := tr.operator("GET", "/api/v1/status", nil, &s); code != 200 {
			t.Fatal(code)
		}
		return s
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set := func(b []byte, under, name, value string) []byte {
		t.Helper()
		section := bytes.Index(b, []byte("\n["+under+"]\n"))
		i := section + bytes.Index(b[section:], []byte("\n"+name+" = "))
		if section < 0 || i < section {
			t.Fatalf("there is no %s.%s in\n%s", under, name, b)
		}
		j := i + 1 + bytes.IndexByte(b[i+1:], '\n')
		return append(append(append([]byte{}, b[:i+1]...), name+" = "+value...), b[j:]...)
	}
	if s := status(); s.Settings.Problem != "" || len(s.Settings.Restart) != 0 || s.Settings.Rate != 0 {
		t.Errorf("at the start: %+v", s.Settings)
	}
	limited := set(set(good, "fetch", "rate", "'10MiB'"), "fetch", "background_rate", "'1MiB'")
	write(limited)
	// Seen by itself; and not before it has been the same at two looks.
	tr.wait("takes the new settings by itself", func() (bool, string) {
		s := status()
		return s.Settings.Rate == 10<<20 && s.Settings.Background == 1<<20 && !s.Settings.FullSpeed, s.Settings.Problem
	})
	write(set(limited, "fetch", "full_speed", "['00:00-24:00']"))
	tr.n.Reload()
	if s := status().Settings; !s.FullSpeed || s.Background != 0 || s.Rate != 10<<20 {
		t.Errorf("at full speed: %+v", s)
	}
	for _, bad := range []struct{ name, value, why string }{
		{"workers", "0", "fetch.workers: 0 is not between"},
		{"full_speed", "['8-9']", "is not a time of the day"},
		{"background_rate", "'1KiB'", "fetch.background_rate"},
		{"peer_rate", "nonsense", ""},
	} {
		b := set(limited, "fetch", bad.name, bad.value)
		write(b)
		tr.n.Reload()
		s := status()
		if !strings.Contains(s.Settings.Problem, bad.why) || !strings.Contains(s.Settings.Problem, "line ") || s.Settings.Rate != 10<<20 || !s.Settings.FullSpeed {
			t.Errorf("%s = %s: %+v", bad.name, bad.value, s.Settings)
		}
		if !strings.Contains(strings.Join(s.Warnings, "\n"), "config.toml is wrong") {
			t.Errorf("nobody is warned: %q", s.Warnings)
		}
	}
	write(set(limited, "archive", "publish_after", "'1s'"))
	tr.n.Reload()
	if s := status().Settings; s.Problem != "" || len(s.Restart) != 1 || s.Restart[0] != "archive.publish_after" || s.FullSpeed {
		t.Errorf("what needs a start: %+v", s)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	tr.n.Reload()
	if s := status().Settings; s.Problem == "" || s.Rate != 10<<20 {
		t.Errorf("without the file: %+v", s)
	}
	write(good)
	tr.n.Reload()
	if s := status().Settings; s.Problem != "" || s.Rate != 0 {
		t.Errorf("as at first: %+v", s)
	}
}

// A node that grants studies and gives nothing must leave a place for what others give.
func TestOneNodeDoesNotTakeAllPlaces(t *testing.T) {
	if c := node.DefaultConfig().Fetch; c.PeerTransfers == 0 || c.PeerTransfers >= c.Workers {
		t.Errorf("%d of %d places are one node's", c.PeerTransfers, c.Workers)
	}
}
