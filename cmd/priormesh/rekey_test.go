package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/priormesh/priormesh/node"
)

func TestRekey(t *testing.T) {
	home := makeHome(t, "RX1", "One")
	running := startRun(t, home)
	if r := run(t, "", "rekey", "--home", home); r.code != 1 || !strings.Contains(r.stderr, "stop the node first") {
		t.Errorf("while the node runs: %+v", r)
	}
	running.end(t, syscall.SIGTERM)
	kek := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(home, "kek"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := kek()
	r := run(t, "", "rekey", "--json", "--home", home)
	var said node.Rekeyed
	if err := json.Unmarshal([]byte(r.stdout), &said); err != nil || r.code != 0 || len(said.Keyrings) != 1 || said.Setting != "" || kek() == first {
		t.Fatalf("%+v", r)
	}
	if strings.Contains(r.stdout+r.stderr, strings.TrimSpace(kek())) {
		t.Error("the KEK is printed")
	}
	startRun(t, home).end(t, syscall.SIGTERM)

	t.Setenv("PRIORMESH_TEST_REKEY", first)
	r = run(t, "", "rekey", "--home", home, "--new-kek", "env:PRIORMESH_TEST_REKEY")
	if r.code != 0 || !strings.Contains(r.stdout, `write kek = "env:PRIORMESH_TEST_REKEY" under [keys]`) {
		t.Fatalf("%+v", r)
	}
	config := filepath.Join(home, "config.toml")
	b, err := os.ReadFile(config)
	if err != nil || !strings.Contains(string(b), "kek = 'file:kek'") {
		t.Fatalf("%v\n%s", err, b)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(b), "kek = 'file:kek'", "kek = 'env:PRIORMESH_TEST_REKEY'", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	startRun(t, home).end(t, syscall.SIGTERM)

	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{nil, 2, "--new-kek"},
		{[]string{"--new-kek", "env:PRIORMESH_TEST_NONE"}, 2, "is not set"},
		{[]string{"--new-kek", "vault"}, 2, "file:PATH"},
		{[]string{"--new-kek", "command"}, 2, "list of its words"},
		{[]string{"--new-kek", "env:X", "--new-command", "/bin/true"}, 2, "goes with"},
		{[]string{"--new-kek", "command", "--new-command", "/bin/sh", "--new-command=-c", "--new-command", "echo no login >&2; exit 1"}, 2, "no login"},
	} {
		if r := run(t, "", append([]string{"rekey", "--home", home}, c.args...)...); r.code != c.code || !strings.Contains(r.stderr, c.text) {
			t.Errorf("%q: %+v", c.args, r)
		}
	}
}

func TestAFurtherNodeOfATrust(t *testing.T) {
	first := makeHome(t, "RX1", "One")
	second := filepath.Join(t.TempDir(), "second")
	conf := node.DefaultConfig()
	if err := freePorts(&conf); err != nil {
		t.Fatal(err)
	}
	args := []string{"init", "--home", second, "--trust", "RX1", "--name", "Trust RX1", "--http", conf.HTTP, "--mesh", conf.Mesh[0], "--trust-key", filepath.Join(first, "trust.key")}
	if r := run(t, "", append(args, "--found", "Two")...); r.code != 2 || !strings.Contains(r.stderr, "cannot found one") {
		t.Errorf("founding with another's key: %+v", r)
	}
	if r := run(t, "", args...); r.code != 0 || !strings.Contains(r.stdout, "next: give a running node of RX1") {
		t.Fatalf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(second, "trust.key")); err == nil {
		t.Error("the trust's key was copied")
	}
	one := startRun(t, first)
	card := run(t, "", "card", "--home", second)
	r := run(t, card.stdout, "admit", "--home", first, "-")
	if r.code != 0 || !strings.HasPrefix(r.stdout, "priormesh-invitation-1:") {
		t.Fatalf("%+v", r)
	}
	if r := run(t, r.stdout, "join", "--home", second, "-"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	two := startRun(t, second)
	eventually(t, "the nodes of one trust hear each other", func() bool {
		r := run(t, "", "peers", "--json", "--home", first)
		return strings.Contains(r.stdout, `"connected":true`) || strings.Contains(r.stdout, `"connected": true`)
	})
	two.end(t, syscall.SIGTERM)
	one.end(t, syscall.SIGTERM)
}
