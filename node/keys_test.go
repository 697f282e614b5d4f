package node_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/node"
)

// refuses says that a home does not start, and why.
func (tr *trust) refuses(want error, text string) {
	tr.t.Helper()
	n, err := node.Open(context.Background(), tr.home, node.Options{})
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		tr.t.Errorf("got %v, want %v with %q", err, want, text)
	}
	if n != nil {
		n.Close()
	}
}

func TestANodeWithoutItsStoreDoesNotStart(t *testing.T) {
	r := region(t, "RX1")
	r[0].imports(study("1.2.3.1", ada, "20240101", 1)...)
	r[0].stop()
	for _, c := range []struct {
		lost string
		want error
	}{{"blocks", node.ErrStoreLost}, {"keys", node.ErrStoreLost}, {"keys/keyring", node.ErrStoreLost}, {"kek", cas.ErrKEK}} {
		path := filepath.Join(r[0].home.Dir, c.lost)
		if err := os.Rename(path, path+" elsewhere"); err != nil {
			t.Fatal(err)
		}
		for range 2 { // refusing makes nothing that would be taken for it
			r[0].refuses(c.want, "restore")
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+" elsewhere", path); err != nil {
			t.Fatal(err)
		}
	}
	r[0].start()
	if code, _, _ := r[0].retrieve("studies/1.2.3.1"); code != 200 {
		t.Errorf("after all is back: %d", code)
	}
}

func TestRekey(t *testing.T) {
	r := region(t, "RX1")
	list := study("1.2.3.1", ada, "20240101", 2)
	r[0].imports(list...)
	if _, err := r[0].home.Rekey(t.Context(), node.RekeyOptions{Rand: rand.Reader}); !errors.Is(err, node.ErrInUse) {
		t.Fatalf("while the node runs: %v", err)
	}
	r[0].stop()
	read := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(r[0].home.Dir, "kek"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	serves := func() {
		t.Helper()
		r[0].start()
		code, _, parts := r[0].retrieve("studies/1.2.3.1")
		if code != 200 {
			t.Fatal(code)
		}
		same(t, parts, list)
		r[0].stop()
	}
	first := read()
	keys := 0
	done, err := r[0].home.Rekey(t.Context(), node.RekeyOptions{Rand: rand.Reader, Progress: func(n, _ int) { keys = n }})
	if err != nil || done.Setting != "" || keys != 1 {
		t.Fatal(done, keys, err)
	}
	second := read()
	if second == first {
		t.Error("the KEK is the same")
	}
	serves()

	// A KEK that was lent by another file of the same trust's node.
	given, err := cas.NewKEK(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	lent := filepath.Join(t.TempDir(), "lent")
	if err := cas.WriteKEK(cas.OS(), lent, given); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second changes nothing
		if done, err = r[0].home.Rekey(t.Context(), node.RekeyOptions{New: "file:" + lent, Rand: rand.Reader}); err != nil || done.Setting != "" {
			t.Fatal(done, err)
		}
		if read() != string(given.Text()) {
			t.Error("the file does not hold the KEK that was given")
		}
		serves()
	}

	// Out of the file, into the environment.
	next, err := cas.NewKEK(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PRIORMESH_TEST_NODE_KEK", string(next.Text()))
	done, err = r[0].home.Rekey(t.Context(), node.RekeyOptions{New: "env:PRIORMESH_TEST_NODE_KEK", Rand: rand.Reader})
	if err != nil || done.Setting != "env:PRIORMESH_TEST_NODE_KEK" {
		t.Fatal(done, err)
	}
	r[0].refuses(cas.ErrWrongKEK, "rekey")
	r[0].home.Config.Keys.KEK = done.Setting
	serves()
	if _, err := r[0].home.Rekey(t.Context(), node.RekeyOptions{Rand: rand.Reader}); !errors.Is(err, node.ErrNoNewKEK) {
		t.Errorf("no new one named: %v", err)
	}

	// From the environment to a command.
	last, err := cas.NewKEK(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kms")
	if err := cas.WriteKEK(cas.OS(), file, last); err != nil {
		t.Fatal(err)
	}
	command := []string{"/bin/cat", file}
	done, err = r[0].home.Rekey(t.Context(), node.RekeyOptions{New: "command", NewCommand: command, Rand: rand.Reader})
	if err != nil || done.Setting != "command" {
		t.Fatal(done, err)
	}
	r[0].home.Config.Keys = node.KeysConfig{KEK: "command", KEKCommand: command}
	serves()
	for _, text := range []string{first, second, string(given.Text()), string(next.Text()), string(last.Text())} {
		nowhere(t, r[0].home.Dir, strings.TrimSpace(text), "kek")
	}
}

// nowhere fails if a KEK is in any file of a home, but for one.
func nowhere(t *testing.T, dir, text, but string) {
	t.Helper()
	raw, err := hex.DecodeString(text[strings.LastIndex(text, ":")+1:])
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Base(path) == but {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), text) || strings.Contains(string(b), string(raw)) {
			t.Errorf("%s has a KEK", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
