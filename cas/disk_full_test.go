package cas_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest"
)

// roomFS is the machine's file system with as much room as the test says.
type roomFS struct {
	cas.FS
	free *atomic.Int64
}

func (f roomFS) Free(string) (int64, error) { return f.free.Load(), nil }

func TestAFullDiskIsNeitherOpenedNorWrittenAtTheEnd(t *testing.T) {
	fs := roomFS{cas.OS(), new(atomic.Int64)}
	dir := t.TempDir()
	o := cas.DiskOptions{FS: fs, Reserve: 1 << 20}
	if s, err := cas.OpenDisk(dir, o); !errors.Is(err, cas.ErrDiskFull) {
		t.Fatalf("opened without room: %v, %v", s, err)
	}
	fs.free.Store(1 << 40)
	s, err := cas.OpenDisk(dir, o)
	must(t, err)
	block := castest.Blocks(1, 1, 5000)[0]
	must(t, s.Shelf(shelf).Put(t.Context(), block))
	fs.free.Store(1 << 20)
	before := files(t, filepath.Join(dir, "locator"))
	must(t, s.Close())
	if after := files(t, filepath.Join(dir, "locator")); after != before {
		t.Errorf("the locator had %d files, and has %d after Close on a full disk", before, after)
	}
	fs.free.Store(1 << 40)
	must(t, s.Close()) // or goroutines would be left behind
	// The next process has nothing but the packs, at worst.
	next := filepath.Join(t.TempDir(), "store")
	must(t, os.Mkdir(next, 0o700))
	must(t, os.CopyFS(filepath.Join(next, "packs"), os.DirFS(filepath.Join(dir, "packs"))))
	s, err = cas.OpenDisk(next, o)
	must(t, err)
	defer s.Close()
	data, err := s.Shelf(shelf).Get(t.Context(), block.CID)
	must(t, err)
	must(t, cas.Block{CID: block.CID, Data: data}.Verify())
}

// files counts the files in a folder: Badger's tables are new files.
func files(t *testing.T, dir string) int {
	entries, err := os.ReadDir(dir)
	must(t, err)
	return len(entries)
}
