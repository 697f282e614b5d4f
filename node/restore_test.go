package node

import (
	"bytes"
	"os"
	"path/filepath"
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
