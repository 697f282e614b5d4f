package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a failed restore takes away again is overwritten first, where it may be a
// key.
func TestFailedRestoreDestroysKeys(t *testing.T) {
	dir, kept := t.TempDir(), t.TempDir()
	secret := bytes.Repeat([]byte("secret"), 50)
	for i, name := range []string{"node.key", "kek", "keys/g1/ab", "blocks/packs/1.pack", "lock"} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, secret, 0o600); err != nil {
			t.Fatal(err)
		}
		if i < 3 { // a second name shows what became of the bytes
			if err := os.Link(file, filepath.Join(kept, filepath.Base(name))); err != nil {
				t.Fatal("a second name cannot be made: ", err)
			}
		}
	}
	if err := (&restoring{dir: dir}).undo(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	for _, name := range []string{"node.key", "kek", "ab"} {
		b, err := os.ReadFile(filepath.Join(kept, name))
		if err != nil || len(b) != len(secret) || bytes.Contains(b, []byte("secret")) {
			t.Errorf("%s is not overwritten: %v", name, err)
		}
	}
}

// A folder that a restore left broken off is not advised to become a new home.
func TestAFolderOfABrokenOffRestoreIsToBeRemoved(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "restoring"), []byte("20260101\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenHome(dir)
	if !errors.Is(err, ErrNoHome) || !strings.Contains(err.Error(), "priormesh restore") || strings.Contains(err.Error(), "init") {
		t.Error(err)
	}
}
