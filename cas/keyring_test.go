package cas

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func testKEK(b byte) KEK {
	k := KEK{from: fmt.Sprint("KEK ", b)}
	for i := range k.key {
		k.key[i] = b + byte(i)
	}
	return k
}

func openFolder(t testing.TB, f FS, dir string) *Folder {
	t.Helper()
	c, err := OpenFolder(f, dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func openKeyring(t testing.TB, home string, k KEK) *Keyring {
	t.Helper()
	r, err := OpenKeyring(t.Context(), openFolder(t, OS(), filepath.Join(home, "keys")), k, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// file is where a key lies.
func file(r *Keyring, name string) string {
	place, _ := r.now.place(name)
	return r.cabinet.(*Folder).path(place)
}

func TestKeyringKeeps(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home, testKEK(1))
	if _, err := r.Get("1.2.3"); !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	k, err := r.Create("1.2.3")
	if err != nil || k == (Key{}) {
		t.Fatal(err)
	}
	if again, err := r.Create("1.2.3"); err != nil || again != k {
		t.Fatalf("created anew: %v", err)
	}
	other, err := r.Create("1.2.4")
	if err != nil || other == k {
		t.Fatalf("two names, one key: %v", err)
	}
	if err := r.Add("1.2.5", testKey(1)); err != nil {
		t.Fatal(err)
	}
	if err := r.Add("1.2.5", testKey(1)); err != nil {
		t.Errorf("the same key again: %v", err)
	}
	if err := r.Add("1.2.5", testKey(2)); !errors.Is(err, ErrKeyConflict) {
		t.Errorf("another key: %v", err)
	}
	long := strings.Repeat("1", maxKeyName)
	if err := r.Add(long, testKey(7)); err != nil {
		t.Error(err)
	}
	if err := r.Add(long+"1", testKey(7)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a name that does not fit: %v", err)
	}
	for range 2 {
		r = openKeyring(t, home, testKEK(1))
		shelves := map[ShelfID]bool{}
		if err := r.Shelves(t.Context(), func(_ string, id ShelfID) error { shelves[id] = true; return nil }); err != nil {
			t.Error(err)
		}
		if want := map[ShelfID]bool{k.Shelf(): true, other.Shelf(): true, testKey(1).Shelf(): true, testKey(7).Shelf(): true}; !maps.Equal(shelves, want) {
			t.Errorf("shelves %v, want %v", shelves, want)
		}
		for name, want := range map[string]Key{"1.2.3": k, "1.2.4": other, "1.2.5": testKey(1), long: testKey(7)} {
			if got, err := r.Get(name); err != nil || got != want {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// lacksBytes fails if any file below dir has one of the bytes.
func lacksBytes(t *testing.T, dir string, what map[string][]byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		for name, w := range what {
			if bytes.Contains(b, w) {
				t.Errorf("%s has %s", path, name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeyringDestroys(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home, testKEK(1))
	if err := r.Add("gone", testKey(1)); err != nil {
		t.Fatal(err)
	}
	hold := filepath.Join(home, "another name of the same file")
	if err := os.Link(file(r, "gone"), hold); err != nil {
		t.Fatal(err)
	}
	wrapped, err := os.ReadFile(hold)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Delete("gone"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Get("gone"); !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	left, err := os.ReadFile(hold)
	if err != nil || !bytes.Equal(left, destroyed(len(wrapped))) {
		t.Errorf("the bytes are still there: %x, %v", left, err)
	}
	k := testKey(1)
	lacksBytes(t, home, map[string][]byte{"the wrapped key": wrapped[13:], "the key": k[:]})
	if k, err := r.Create("gone"); err != nil || k == testKey(1) {
		t.Errorf("a new key after destroying: %v", err)
	}
}

func TestKeyringAfterACrash(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home, testKEK(1))
	if err := r.Add("half destroyed", testKey(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file(r, "half destroyed"), destroyed(keyFileLen), 0o600); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(home, "keys", "g1", strings.Repeat("ab", 32)+tmpSuffix)
	if err := os.WriteFile(half, []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = openKeyring(t, home, testKEK(1))
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a crash left is still there: %v", err)
	}
	if _, err := r.Get("half destroyed"); !errors.Is(err, ErrNoKey) {
		t.Errorf("destroyed but not removed: %v", err)
	}
	if err := r.Delete("half destroyed"); err != nil {
		t.Error(err)
	}
	if err := r.Add("half destroyed", testKey(2)); err != nil {
		t.Error(err)
	}
}

func TestKeyFiles(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home, testKEK(1))
	const uid = "1.2.840.113619.2.55.3"
	if err := r.Add(uid, testKey('A')); err != nil {
		t.Fatal(err)
	}
	count := 0
	err := filepath.WalkDir(home, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 && path != home {
			t.Errorf("%s has mode %04o", e.Name(), info.Mode().Perm())
		}
		if strings.Contains(path, "840") || strings.Contains(path, hex.EncodeToString([]byte(uid))) {
			t.Errorf("a file name tells the UID: %s", path)
		}
		if e.IsDir() {
			return nil
		}
		count++
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("ABCD")) || bytes.Contains(b, []byte("113619")) {
			t.Errorf("%s is not wrapped", path)
		}
		return err
	})
	if err != nil || count != 2 { // the record, one key
		t.Fatal(count, err)
	}
}

func TestKeyringRefuses(t *testing.T) {
	setup := func(t *testing.T) (keys string, r *Keyring) {
		home := t.TempDir()
		r = openKeyring(t, home, testKEK(1))
		if err := errors.Join(r.Add("one", testKey(1)), r.Add("two", testKey(2))); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(home, "keys"), r
	}
	do := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("another KEK", func(t *testing.T) {
		keys, _ := setup(t)
		if _, err := OpenKeyring(t.Context(), openFolder(t, OS(), keys), testKEK(2), rand.Reader); !errors.Is(err, ErrWrongKEK) {
			t.Error(err)
		}
	})
	t.Run("record", func(t *testing.T) {
		keys, r := setup(t)
		path := filepath.Join(keys, keyringRecord)
		good := r.raw
		open := func() error {
			_, err := OpenKeyring(t.Context(), openFolder(t, OS(), keys), testKEK(1), rand.Reader)
			return err
		}
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1
			do(t, os.WriteFile(path, bad, 0o600))
			if err := open(); !errors.Is(err, ErrWrongKEK) && !errors.Is(err, ErrVersion) {
				t.Errorf("byte %d altered: %v", i, err)
			}
			do(t, os.WriteFile(path, good[:i], 0o600))
			if err := open(); !errors.Is(err, ErrTruncated) {
				t.Errorf("cut to %d: %v", i, err)
			}
		}
		do(t, os.Remove(path))
		if err := open(); !errors.Is(err, ErrWrongKEK) {
			t.Errorf("missing: %v", err)
		}
	})
	t.Run("swapped files", func(t *testing.T) {
		_, r := setup(t)
		do(t, os.Rename(file(r, "one"), file(r, "two")))
		if k, err := r.Get("two"); !errors.Is(err, ErrMalformed) || k != (Key{}) {
			t.Errorf("another study's key was read: %v", err)
		}
		if _, err := r.Create("two"); !errors.Is(err, ErrMalformed) {
			t.Errorf("a damaged key was replaced: %v", err)
		}
	})
	t.Run("damaged file", func(t *testing.T) {
		_, r := setup(t)
		path := file(r, "one")
		good, err := os.ReadFile(path)
		do(t, err)
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1
			do(t, os.WriteFile(path, bad, 0o600))
			if k, err := r.Get("one"); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) || k != (Key{}) {
				t.Errorf("byte %d: %v", i, err)
			}
			do(t, os.WriteFile(path, good[:i], 0o600))
			if _, err := r.Get("one"); !errors.Is(err, ErrTruncated) {
				t.Errorf("cut to %d: %v", i, err)
			}
		}
		do(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
		if _, err := r.Get("one"); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a key file of a mebibyte: %v", err)
		}
	})
	t.Run("no randomness", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := OpenKeyring(t.Context(), openFolder(t, OS(), dir), testKEK(1), bytes.NewReader(nil)); err == nil {
			t.Error("a record without a random part")
		}
		r, err := OpenKeyring(t.Context(), openFolder(t, OS(), dir), testKEK(1), bytes.NewReader(make([]byte, 16+40)))
		do(t, err)
		if k, err := r.Create("one"); err == nil || k != (Key{}) {
			t.Error("a key was kept without a nonce of its own")
		}
	})
}

// Another process makes the keyring between two looks of this one.
func TestKeyringIsBegunByTwo(t *testing.T) {
	folder := openFolder(t, OS(), t.TempDir())
	var k Key
	c := &interrupted{Folder: folder, before: func() {
		r, err := OpenKeyring(t.Context(), folder, testKEK(1), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if k, err = r.Create("study"); err != nil {
			t.Fatal(err)
		}
	}}
	r, err := OpenKeyring(t.Context(), c, testKEK(1), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Get("study"); err != nil || got != k {
		t.Error(err)
	}
}

// interrupted lets another process in before the first list.
type interrupted struct {
	*Folder
	before func()
}

func (c *interrupted) List(ctx context.Context, prefix string, fn func(string) error) error {
	if f := c.before; f != nil {
		c.before = nil
		f()
	}
	return c.Folder.List(ctx, prefix, fn)
}

// A list of shelves without one that a key opens would have that one dropped.
func TestKeyringListsAllShelvesOrNone(t *testing.T) {
	r := openKeyring(t, t.TempDir(), testKEK(1))
	for _, name := range []string{"1", "2", "3"} {
		if _, err := r.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	list := func() (n int, err error) {
		err = r.Shelves(t.Context(), func(string, ShelfID) error { n++; return nil })
		return n, err
	}
	if n, err := list(); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if err := r.Rekey(t.Context(), testKEK(2), nil); err != nil {
		t.Fatal(err)
	}
	if n, err := list(); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if err := r.Shelves(t.Context(), func(string, ShelfID) error {
		if r.record.number == 2 {
			return r.Rekey(t.Context(), testKEK(3), nil)
		}
		return nil
	}); err == nil {
		t.Error("the list is called whole although the KEK changed while it was made")
	}
	damage(t, file(r, "2"))
	if _, err := list(); !errors.Is(err, ErrMalformed) {
		t.Error("a key that cannot be read was passed over:", err)
	}
}

func damage(t *testing.T, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKeyringConcurrently(t *testing.T) {
	r := openKeyring(t, t.TempDir(), testKEK(1))
	keys := make([]Key, 16)
	var users sync.WaitGroup
	for i := range keys {
		users.Go(func() {
			var err error
			if keys[i], err = r.Create("the same"); err != nil {
				t.Error(err)
			}
			name := string(rune('a' + i))
			if err := errors.Join(r.Add(name, testKey(byte(i))), r.Delete(name), r.Add(name, testKey(byte(i+1)))); err != nil {
				t.Error(err)
			}
			if k, err := r.Get(name); err != nil || k != testKey(byte(i+1)) {
				t.Error(err)
			}
		})
	}
	users.Wait()
	for _, k := range keys {
		if k != keys[0] {
			t.Fatal("one name got two keys")
		}
	}
}

func TestRekey(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home, testKEK(1))
	for i := range 40 {
		if err := r.Add(fmt.Sprint("study ", i), testKey(byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Delete("study 7"); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(file(r, "study 3"))
	if err != nil {
		t.Fatal(err)
	}
	record := r.raw
	if err := r.Rekey(t.Context(), testKEK(1), nil); !errors.Is(err, ErrKEK) {
		t.Errorf("to the same: %v", err)
	}
	var most, last int
	if err := r.Rekey(t.Context(), testKEK(2), func(done, total int) { last, most = done, total }); err != nil {
		t.Fatal(err)
	}
	if last != 39 || most != 39 {
		t.Errorf("progress ended at %d of %d", last, most)
	}
	check := func(r *Keyring) {
		t.Helper()
		for i := range 40 {
			k, err := r.Get(fmt.Sprint("study ", i))
			if i == 7 {
				if !errors.Is(err, ErrNoKey) {
					t.Errorf("a deleted key is back: %v", err)
				}
			} else if err != nil || k != testKey(byte(i)) {
				t.Errorf("study %d: %v", i, err)
			}
		}
	}
	check(r)
	check(openKeyring(t, home, testKEK(2)))
	if _, err := OpenKeyring(t.Context(), openFolder(t, OS(), filepath.Join(home, "keys")), testKEK(1), rand.Reader); !errors.Is(err, ErrWrongKEK) {
		t.Errorf("the old KEK still opens it: %v", err)
	}
	k := testKey(3)
	lacksBytes(t, home, map[string][]byte{"a key under the old KEK": old[13:], "a bare key": k[:], "the old record": record[13:]})
	if n := opens(t, home, testKEK(1)); n != 0 {
		t.Errorf("the old KEK opens %d files", n)
	}
	if n := opens(t, home, testKEK(2)); n != 39 {
		t.Errorf("the new KEK opens %d files, want 39", n)
	}
}

// opens counts the files below dir that a KEK opens, wherever they lie.
func opens(t *testing.T, dir string, k KEK) (n int) {
	t.Helper()
	g, err := newGeneration(0, k)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if id, herr := hex.DecodeString(e.Name()); herr == nil {
			if _, _, err := g.unwrap(id, b); err == nil {
				n++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKeyringIsUsedWhileRekeyed(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home, testKEK(1))
	for i := range 60 {
		if err := r.Add(fmt.Sprint("old ", i), testKey(byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	var users sync.WaitGroup
	kept := make([]map[string]Key, 4)
	stop := make(chan struct{})
	for w := range kept {
		kept[w] = map[string]Key{}
		users.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprint(w, " new ", i)
				k, err := r.Create(name)
				if err != nil {
					t.Error(err)
					return
				}
				kept[w][name] = k
				if i%3 == 1 {
					gone := fmt.Sprint(w, " new ", i-1)
					if err := r.Delete(gone); err != nil {
						t.Error(err)
					}
					kept[w][gone] = Key{}
				}
				if k, err := r.Get(fmt.Sprint("old ", i%60)); err != nil || k != testKey(byte(i%60)) {
					t.Error(err)
				}
			}
		})
	}
	for i := range 5 {
		if err := r.Rekey(t.Context(), testKEK(byte(2+i)), nil); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	users.Wait()
	r = openKeyring(t, home, testKEK(6))
	for _, m := range kept {
		for name, want := range m {
			got, err := r.Get(name)
			if want == (Key{}) && !errors.Is(err, ErrNoKey) || want != (Key{}) && (err != nil || got != want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for i := range 5 {
		if n := opens(t, home, testKEK(byte(1+i))); n != 0 {
			t.Errorf("KEK %d still opens %d files", i+1, n)
		}
	}
}

var errPower = errors.New("the power is gone")

// Several processes on one cabinet: none may keep a key where nobody looks.
func TestKeyringIsRekeyedByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	shared := openFolder(t, OS(), dir)
	open := func(k KEK) *Keyring {
		t.Helper()
		r, err := OpenKeyring(t.Context(), shared, k, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	mine, other := open(testKEK(1)), open(testKEK(1))
	if err := mine.Add("study", testKey(1)); err != nil {
		t.Fatal(err)
	}
	if err := other.beginRekey(t.Context(), testKEK(2)); err != nil {
		t.Fatal(err)
	}
	refused := func() {
		t.Helper()
		_, err := mine.Create("new")
		_, again := mine.Create("new")
		for what, err := range map[string]error{
			"Create": err, "Create again": again, "Add": mine.Add("another", testKey(2)), "Delete": mine.Delete("study"),
			"Rekey": mine.Rekey(t.Context(), testKEK(3), nil),
		} {
			if !errors.Is(err, ErrRekeyed) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	refused()
	if err := mine.Add("study", testKey(1)); !errors.Is(err, ErrRekeyed) {
		t.Errorf("Add: %v", err)
	}
	if err := errors.Join(other.copyAll(t.Context(), nil), other.switchOver(t.Context()), other.retire(t.Context())); err != nil {
		t.Fatal(err)
	}
	refused()
	if _, err := mine.Get("study"); !errors.Is(err, ErrRekeyed) {
		t.Errorf("Get: %v", err)
	}
	after := open(testKEK(2))
	if err := after.Delete("study"); err != nil {
		t.Error(err)
	}

	// A process that starts with the old KEK undoes, and who was changing it
	// learns of that before anything is lost.
	if err := after.Add("kept", testKey(4)); err != nil {
		t.Fatal(err)
	}
	if err := after.beginRekey(t.Context(), testKEK(3)); err != nil {
		t.Fatal(err)
	}
	if err := after.copyAll(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	third := open(testKEK(2))
	if err := after.switchOver(t.Context()); !errors.Is(err, ErrReplaced) {
		t.Errorf("switched after it was undone: %v", err)
	}
	if k, err := third.Get("kept"); err != nil || k != testKey(4) {
		t.Error(err)
	}
	if err := third.Rekey(t.Context(), testKEK(3), nil); err != nil {
		t.Error(err)
	}
	if k, err := open(testKEK(3)).Get("kept"); err != nil || k != testKey(4) {
		t.Error(err)
	}
}

// A cabinet that fails for a while must not leave a key in one generation only.
func TestKeyIsSpread(t *testing.T) {
	dir := t.TempDir()
	c := &stubborn{Folder: openFolder(t, OS(), dir)}
	r, err := OpenKeyring(t.Context(), c, testKEK(1), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.beginRekey(t.Context(), testKEK(2)); err != nil {
		t.Fatal(err)
	}
	if err := r.copyAll(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	c.refuse = "g2/"
	if _, err := r.Create("study"); !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	c.refuse = ""
	k, err := r.Create("study")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.switchOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Get("study"); err != nil || got != k {
		t.Error(err)
	}
}

type stubborn struct {
	*Folder
	refuse string
}

func (s *stubborn) CreateNew(ctx context.Context, name string, value []byte) error {
	if s.refuse != "" && strings.HasPrefix(name, s.refuse) {
		return errPower
	}
	return s.Folder.CreateNew(ctx, name, value)
}

// Until an old generation is destroyed for good, what is deleted goes there too.
func TestDeleteReachesWhatIsNotYetDestroyed(t *testing.T) {
	home := t.TempDir()
	c := &lastListFails{Folder: openFolder(t, OS(), filepath.Join(home, "keys"))}
	r, err := OpenKeyring(t.Context(), c, testKEK(1), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.left = 3 // copied, destroyed, destroyed for good
	c.last = func() {
		if _, err := r.Create("late"); err != nil {
			t.Error(err)
		}
	}
	if err := r.Rekey(t.Context(), testKEK(2), nil); !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	if n := opens(t, home, testKEK(1)); n != 1 {
		t.Fatalf("the old KEK opens %d files, want the one that came late", n)
	}
	if err := r.Delete("late"); err != nil {
		t.Fatal(err)
	}
	if n := opens(t, home, testKEK(1)) + opens(t, home, testKEK(2)); n != 0 {
		t.Errorf("a deleted key lies in %d files", n)
	}
}

// lastListFails fails the last of some lists of the first generation, and calls
// last after the one before it.
type lastListFails struct {
	*Folder
	left int
	last func()
}

func (c *lastListFails) List(ctx context.Context, prefix string, fn func(string) error) error {
	if prefix != "g1/" || c.left == 0 {
		return c.Folder.List(ctx, prefix, fn)
	}
	if c.left--; c.left == 0 {
		return errPower
	}
	err := c.Folder.List(ctx, prefix, fn)
	if c.left == 1 {
		c.last()
	}
	return err
}

func FuzzKeyFile(f *testing.F) {
	g, err := newGeneration(1, testKEK(1))
	if err != nil {
		f.Fatal(err)
	}
	_, id := g.place("name")
	good, err := g.wrap(id, "name", testKey(0), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:30])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, name, err := g.unwrap(id, b); err == nil && (k != testKey(0) || name != "name") {
			t.Fatal("a key that was never kept")
		}
	})
}

func FuzzKeyringRecord(f *testing.F) {
	g, err := newGeneration(1, testKEK(1))
	if err != nil {
		f.Fatal(err)
	}
	good, err := record{number: 3, next: 4, last: 4}.encode(g, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:10])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRecord(b, g); err == nil && r != (record{3, 4, 4}) {
			t.Fatal("a record that was never written")
		}
	})
}
