package cas_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"syscall"
	"testing"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest"
)

// What a folder said is durable is so after a power cut, and what is gone is.
func TestFolderAfterAPowerCut(t *testing.T) {
	for seed := range uint64(40) {
		drive := castest.NewDrive(seed)
		var c *cas.Folder
		cut := func() {
			t.Helper()
			drive.Cut()
			var err error
			c, err = cas.OpenFolder(drive.FS(), "/keys")
			must(t, err)
		}
		holds := func(name, want string) {
			t.Helper()
			b, err := c.Read(t.Context(), name)
			if want == "" && !errors.Is(err, fs.ErrNotExist) || want != "" && (err != nil || string(b) != want) {
				t.Fatalf("seed %d: %s is %q, want %q: %v", seed, name, b, want, err)
			}
		}
		cut()
		must(t, c.CreateNew(t.Context(), "record", []byte("one")))
		cut()
		holds("record", "one")
		must(t, c.CreateNew(t.Context(), "g1/a", []byte("two")))
		cut()
		holds("g1/a", "two")
		must(t, c.Replace(t.Context(), "record", []byte("one"), []byte("three")))
		must(t, c.CreateNew(t.Context(), "g1/b", []byte("four")))
		must(t, c.Destroy(t.Context(), "g1/a"))
		cut()
		holds("record", "three")
		holds("g1/a", "")
		holds("g1/b", "four")
		names, err := drive.FS().ReadDir("/keys/g1")
		if err != nil || len(names) != 1 {
			t.Fatalf("seed %d: what was destroyed has left %v, %v", seed, names, err)
		}
		// Removed before its bytes are overwritten on disk, it would lie there.
		drive.FailNth(castest.OpSync, 1, syscall.EIO)
		if err := c.Destroy(t.Context(), "g1/b"); !errors.Is(err, syscall.EIO) {
			t.Fatalf("seed %d: destroyed without being overwritten: %v", seed, err)
		}
	}
}

// A value that is replaced is there whole, old or new, and one whose destruction
// was acknowledged is gone, wherever the power is cut.
func TestFolderIsCutOffAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		drive := castest.NewDrive(uint64(n))
		c, err := cas.OpenFolder(drive.FS(), "/keys")
		must(t, err)
		must(t, c.CreateNew(t.Context(), "record", []byte("old")))
		must(t, c.CreateNew(t.Context(), "g1/a", []byte("key")))
		drive.CutAfter(n)
		rerr := c.Replace(t.Context(), "record", []byte("old"), []byte("new and longer"))
		derr := c.Destroy(t.Context(), "g1/a")
		drive.Cut()
		c, err = cas.OpenFolder(drive.FS(), "/keys")
		must(t, err)
		b, err := c.Read(t.Context(), "record")
		if err != nil || string(b) != "new and longer" && (rerr == nil || string(b) != "old") {
			t.Fatalf("cut at %d: %q, %v; replaced: %v", n, b, err, rerr)
		}
		b, err = c.Read(t.Context(), "g1/a")
		if err == nil && derr == nil {
			t.Fatalf("cut at %d: what was destroyed is %q", n, b)
		}
		if derr == nil {
			if n < 15 {
				t.Fatalf("only %d operations", n)
			}
			return
		}
	}
}

func kekOf(t *testing.T, n int) cas.KEK {
	t.Helper()
	k, err := cas.ParseKEK(fmt.Appendf(nil, "priormesh-kek-1:%064x", n), fmt.Sprint("KEK ", n))
	must(t, err)
	return k
}

func keyringOn(t *testing.T, drive *castest.Drive, k cas.KEK) *cas.Keyring {
	t.Helper()
	c, err := cas.OpenFolder(drive.FS(), "/keys")
	must(t, err)
	r, err := cas.OpenKeyring(t.Context(), c, k, rand.Reader)
	must(t, err)
	return r
}

// opensOn counts the files in a folder and those below it that a KEK opens.
func opensOn(t *testing.T, f cas.FS, dir string, k cas.KEK) (n int) {
	t.Helper()
	names, err := f.ReadDir(dir)
	must(t, err)
	for _, name := range names {
		full := path.Join(dir, name)
		if _, err := f.ReadDir(full); err == nil {
			n += opensOn(t, f, full, k)
			continue
		}
		file, err := f.Open(full)
		must(t, err)
		b, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
		must(t, errors.Join(err, file.Close()))
		if cas.Opens(k, full, b) {
			n++
		}
	}
	return n
}

// Wherever a change of the KEK is cut off, the keyring opens with one of the
// two, has every key, and after one more change nothing of the older is left.
func TestRekeyIsCutOffAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		drive := castest.NewDrive(uint64(n))
		r := keyringOn(t, drive, kekOf(t, 1))
		for i := range 3 {
			must(t, r.Add(fmt.Sprint("study ", i), cas.Key{byte(i)}))
		}
		drive.Cut()
		r = keyringOn(t, drive, kekOf(t, 1))
		drive.CutAfter(n)
		rerr := r.Rekey(t.Context(), kekOf(t, 2), nil)
		if rerr != nil && !errors.Is(rerr, castest.ErrPowerCut) {
			t.Fatal(rerr)
		}
		drive.Cut()
		now, then := kekOf(t, 1), kekOf(t, 2)
		c, err := cas.OpenFolder(drive.FS(), "/keys")
		must(t, err)
		fits, err := cas.KeyringFits(t.Context(), c, then)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if fits {
			now, then = then, now
		} else if rerr == nil {
			t.Fatal("done, and still under the old KEK")
		}
		if m := opensOn(t, drive.FS(), "/keys", then); m != 0 && rerr == nil {
			t.Fatalf("done, and the old KEK opens %d files", m)
		}
		r = keyringOn(t, drive, now)
		for i := range 3 {
			if k, err := r.Get(fmt.Sprint("study ", i)); err != nil || k != (cas.Key{byte(i)}) {
				t.Fatalf("cut at %d, study %d: %v", n, i, err)
			}
		}
		drive.Cut()
		if m := opensOn(t, drive.FS(), "/keys", then); m != 0 {
			t.Fatalf("cut at %d: the other KEK opens %d files", n, m)
		}
		r = keyringOn(t, drive, now)
		must(t, r.Delete("study 1"))
		if !fits {
			must(t, r.Rekey(t.Context(), kekOf(t, 2), nil))
		}
		drive.Cut()
		r = keyringOn(t, drive, kekOf(t, 2))
		if _, err := r.Get("study 1"); !errors.Is(err, cas.ErrNoKey) {
			t.Fatalf("cut at %d: a deleted key is back: %v", n, err)
		}
		if a, b := opensOn(t, drive.FS(), "/keys", kekOf(t, 1)), opensOn(t, drive.FS(), "/keys", kekOf(t, 2)); a != 0 || b != 2 {
			t.Fatalf("cut at %d: the old KEK opens %d files, the new one %d", n, a, b)
		}
		if rerr == nil {
			if n < 50 {
				t.Fatalf("only %d operations", n)
			}
			return
		}
	}
}
