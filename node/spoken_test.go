package node_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
)

// A node that has spoken does not start with an index that does not know of it, and leaves what is there of it as it is.
func TestAnIndexThatForgotWhatWasSaid(t *testing.T) {
	r := region(t, "RX1")
	r[0].stop()
	dir := filepath.Join(r[0].home.Dir, "index")
	manifest, err := os.ReadFile(filepath.Join(dir, "MANIFEST"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "MANIFEST")); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal("there are no tables", err)
	}
	r[0].refuses(node.ErrStoreLost, "priormesh restore")
	for _, name := range tables {
		if _, err := os.Stat(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	r[0].start()
	r[0].stop()
	// Another index in its place.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := openIndexOf(t, r[0]).Close(); err != nil {
		t.Fatal(err)
	}
	var lost *index.LostError
	if n, err := node.Open(context.Background(), r[0].home, node.Options{}); !errors.As(err, &lost) {
		n.Close()
		t.Fatal(err)
	}
}
