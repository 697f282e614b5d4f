package castest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"testing"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest"
)

// The drive is what the crash tests lean on: what it promises it keeps for
// every seed, and what it does not promise it breaks for some.
func overSeeds(t *testing.T, want []string, one func(t *testing.T, d *castest.Drive) string) {
	t.Helper()
	seen := map[string]int{}
	for seed := range uint64(300) {
		seen[one(t, castest.NewDrive(seed))]++
	}
	for _, w := range want {
		if seen[w] == 0 {
			t.Errorf("never %s: %v", w, seen)
		}
		delete(seen, w)
	}
	if len(seen) > 0 {
		t.Errorf("it may not be %v", seen)
	}
}

func create(t *testing.T, f cas.FS, name string, data []byte) cas.File {
	t.Helper()
	file, err := f.Create(name)
	must(t, err)
	write(t, file, data, 0)
	return file
}

func write(t *testing.T, file cas.File, data []byte, at int64) {
	t.Helper()
	n, err := file.WriteAt(data, at)
	if n != len(data) || err != nil {
		t.Fatal(n, err)
	}
}

func read(t *testing.T, f cas.FS, name string) []byte {
	t.Helper()
	file, err := f.Open(name)
	must(t, err)
	size, err := file.Size()
	must(t, err)
	b := make([]byte, size)
	_, err = file.ReadAt(b, 0)
	must(t, errors.Join(err, file.Close()))
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSyncedBytesSurviveACut(t *testing.T) {
	old, new := bytes.Repeat([]byte("old"), 250), bytes.Repeat([]byte("new"), 250)
	overSeeds(t, []string{"all old", "all new", "mixed"}, func(t *testing.T, d *castest.Drive) string {
		f := d.FS()
		file := create(t, f, "/a", old)
		must(t, file.Sync())
		must(t, f.SyncDir("/"))
		write(t, file, new, 0)
		other := create(t, f, "/b", nil)
		must(t, other.Sync())
		d.Cut()
		if _, err := file.WriteAt(old, 0); !errors.Is(err, castest.ErrPowerCut) {
			t.Fatalf("a file of before the cut: %v", err)
		}
		if _, err := f.Open("/a"); !errors.Is(err, castest.ErrPowerCut) {
			t.Fatalf("a file system of before the cut: %v", err)
		}
		got := read(t, d.FS(), "/a")
		switch {
		case len(got) != len(old):
			return fmt.Sprint(len(got), " bytes")
		case bytes.Equal(got, old):
			return "all old"
		case bytes.Equal(got, new):
			return "all new"
		}
		for i, b := range got {
			if b != old[i] && b != new[i] {
				return "something else"
			}
		}
		return "mixed"
	})
}

func TestSizeThatWasNotSynced(t *testing.T) {
	overSeeds(t, []string{"as synced", "as written", "between"}, func(t *testing.T, d *castest.Drive) string {
		f := d.FS()
		file := create(t, f, "/a", make([]byte, 100))
		must(t, errors.Join(file.Sync(), f.SyncDir("/")))
		write(t, file, make([]byte, 5000), 100)
		d.Cut()
		switch n := len(read(t, d.FS(), "/a")); {
		case n == 100:
			return "as synced"
		case n == 5100:
			return "as written"
		case n > 100 && n < 5100:
			return "between"
		default:
			return fmt.Sprint(n)
		}
	})
}

func TestNamesThatWereNotSynced(t *testing.T) {
	overSeeds(t, []string{"[kept]", "[kept new]", "[kept renamed]", "[kept renamed]-"}, func(t *testing.T, d *castest.Drive) string {
		f := d.FS()
		must(t, create(t, f, "/kept", nil).Sync())
		must(t, create(t, f, "/gone", nil).Sync())
		must(t, errors.Join(f.Remove("/gone"), f.SyncDir("/")))
		must(t, create(t, f, "/new", []byte("x")).Sync())
		must(t, f.Rename("/new", "/renamed"))
		must(t, f.MkdirAll("/folder"))
		must(t, create(t, f, "/folder/x", nil).Sync())
		must(t, f.SyncDir("/folder"))
		d.Cut()
		names, err := d.FS().ReadDir("/")
		must(t, err)
		if i := slices.Index(names, "folder"); i >= 0 {
			inside, err := d.FS().ReadDir("/folder")
			if err != nil || len(inside) != 1 {
				return fmt.Sprint("a folder with ", inside, err)
			}
			return fmt.Sprint(slices.Delete(names, i, i+1), "-")
		}
		return fmt.Sprint(names)
	})
}

// After a Sync that failed the bytes are read back, and the next Sync says
// nothing, and only some of them are on disk.
func TestFailedSyncLies(t *testing.T) {
	old, new := bytes.Repeat([]byte("o"), 3000), bytes.Repeat([]byte("n"), 3000)
	overSeeds(t, []string{"mixed"}, func(t *testing.T, d *castest.Drive) string {
		f := d.FS()
		file := create(t, f, "/a", old)
		must(t, errors.Join(file.Sync(), f.SyncDir("/")))
		write(t, file, new, 0)
		d.FailNth(castest.OpSync, 1, syscall.EIO)
		if err := file.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		must(t, file.Sync())
		if !bytes.Equal(read(t, f, "/a"), new) {
			return "not read back"
		}
		must(t, file.(interface{ Uncache() error }).Uncache())
		uncached := read(t, f, "/a")
		d.Cut()
		if got := read(t, d.FS(), "/a"); !bytes.Equal(got, uncached) {
			return "uncached is not what is on disk"
		}
		if bytes.Equal(uncached, new) || bytes.Equal(uncached, old) {
			return "mixed" // by chance, all or none of six sectors
		}
		return "mixed"
	})
}

func TestCapacity(t *testing.T) {
	d := castest.NewDrive(1)
	f := d.FS()
	d.Capacity(1000)
	file := create(t, f, "/a", make([]byte, 700))
	n, err := file.WriteAt(make([]byte, 500), 600)
	if n != 400 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%d bytes were written: %v", n, err)
	}
	if free, err := f.Free("/"); free != 0 || err != nil {
		t.Fatal(free, err)
	}
	write(t, file, make([]byte, 1000), 0) // no new room needed
	must(t, file.(interface{ Truncate(int64) error }).Truncate(250))
	if free, err := f.Free("/"); free != 750 || err != nil {
		t.Fatal(free, err)
	}
	must(t, f.Remove("/a"))
	if d.Used() != 0 {
		t.Fatal(d.Used())
	}
}

func TestOrderedFailures(t *testing.T) {
	d := castest.NewDrive(1)
	f := d.FS()
	file := create(t, f, "/a", make([]byte, 100))
	d.FailNth(castest.OpWrite, 2, syscall.EIO)
	write(t, file, []byte("x"), 0)
	if n, err := file.WriteAt(make([]byte, 50), 0); !errors.Is(err, syscall.EIO) || n == 50 {
		t.Fatal(n, err)
	}
	write(t, file, []byte("x"), 0)
	d.Fail(castest.OpSync, 1)
	if err := file.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.Heal()
	must(t, file.Sync())
	before := read(t, f, "/a")
	d.Flip(1)
	differ := 0
	for i, b := range read(t, f, "/a") {
		if b != before[i] {
			differ++
		}
	}
	if differ != 1 {
		t.Fatalf("%d bytes are flipped", differ)
	}
	d.Heal()
	if !bytes.Equal(read(t, f, "/a"), before) {
		t.Fatal("a read changed the file")
	}
	if d.Rot([]byte("x"), 3) != 1 || bytes.Equal(read(t, f, "/a"), before) {
		t.Fatal("nothing has rotted")
	}
	must(t, f.SyncDir("/"))
	d.CutAfter(2)
	must(t, file.Sync())
	if err := file.Sync(); !errors.Is(err, castest.ErrPowerCut) || !d.IsCut(f) {
		t.Fatal(err)
	}
	if _, err := d.FS().Open("/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}
