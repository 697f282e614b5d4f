package cas

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func openKeyring(t testing.TB, home string) *Keyring {
	t.Helper()
	r, err := OpenKeyring(filepath.Join(home, "keys"), filepath.Join(home, "kek"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKeyringKeeps(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home)
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
	for range 2 {
		r = openKeyring(t, home)
		for name, want := range map[string]Key{"1.2.3": k, "1.2.4": other, "1.2.5": testKey(1)} {
			if got, err := r.Get(name); err != nil || got != want {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestKeyringDestroys(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home)
	if err := r.Add("gone", testKey(1)); err != nil {
		t.Fatal(err)
	}
	path, _ := r.path("gone")
	hold := filepath.Join(home, "another name of the same file")
	if err := os.Link(path, hold); err != nil {
		t.Fatal(err)
	}
	wrapped, err := os.ReadFile(path)
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
	err = filepath.WalkDir(home, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		k := testKey(1)
		if bytes.Contains(b, wrapped[13:]) || bytes.Contains(b, k[:]) {
			t.Errorf("%s still has the key", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if k, err := r.Create("gone"); err != nil || k == testKey(1) {
		t.Errorf("a new key after destroying: %v", err)
	}
}

func TestKeyringAfterACrash(t *testing.T) {
	home := t.TempDir()
	r := openKeyring(t, home)
	if err := r.Add("half destroyed", testKey(1)); err != nil {
		t.Fatal(err)
	}
	path, _ := r.path("half destroyed")
	if err := os.WriteFile(path, destroyed(keyFileLen), 0o600); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(home, "keys", strings.Repeat("ab", 32)+keySuffix+"-123"+tmpSuffix)
	if err := os.WriteFile(half, []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = openKeyring(t, home)
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
	r := openKeyring(t, home)
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
	if err != nil || count != 3 { // the KEK, the mark, one key
		t.Fatal(count, err)
	}
}

func TestKeyringRefuses(t *testing.T) {
	setup := func(t *testing.T) (home, keys, kek string, r *Keyring) {
		home = t.TempDir()
		r = openKeyring(t, home)
		if err := errors.Join(r.Add("one", testKey(1)), r.Add("two", testKey(2))); err != nil {
			t.Fatal(err)
		}
		return home, filepath.Join(home, "keys"), filepath.Join(home, "kek"), r
	}
	do := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		wreck func(t *testing.T, keys, kek string)
		want  error
	}{
		{"KEK missing", func(t *testing.T, _, kek string) { do(t, os.Remove(kek)) }, ErrKEK},
		{"KEK readable by others", func(t *testing.T, _, kek string) { do(t, os.Chmod(kek, 0o640)) }, ErrKEK},
		{"KEK empty", func(t *testing.T, _, kek string) { do(t, os.WriteFile(kek, nil, 0o600)) }, ErrKEK},
		{"KEK too short", func(t *testing.T, _, kek string) { do(t, os.WriteFile(kek, []byte(kekTextLine+"abcd"), 0o600)) }, ErrKEK},
		{"KEK of another keyring", func(t *testing.T, _, kek string) {
			do(t, os.WriteFile(kek, []byte(kekTextLine+strings.Repeat("ab", 32)), 0o600))
		}, ErrWrongKEK},
		{"mark missing", func(t *testing.T, keys, _ string) { do(t, os.Remove(filepath.Join(keys, markFile))) }, ErrWrongKEK},
		{"mark of a later version", func(t *testing.T, keys, _ string) {
			do(t, os.WriteFile(filepath.Join(keys, markFile), []byte{2, 1, 2, 3}, 0o600))
		}, ErrVersion},
		{"mark damaged", func(t *testing.T, keys, _ string) {
			do(t, os.WriteFile(filepath.Join(keys, markFile), make([]byte, 33), 0o600))
		}, ErrVersion},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, keys, kek, _ := setup(t)
			c.wreck(t, keys, kek)
			if _, err := OpenKeyring(keys, kek, rand.Reader); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}

	t.Run("swapped files", func(t *testing.T) {
		_, _, _, r := setup(t)
		one, _ := r.path("one")
		two, _ := r.path("two")
		do(t, os.Rename(one, two))
		if k, err := r.Get("two"); !errors.Is(err, ErrMalformed) || k != (Key{}) {
			t.Errorf("another study's key was read: %v", err)
		}
		if _, err := r.Create("two"); !errors.Is(err, ErrMalformed) {
			t.Errorf("a damaged key was replaced: %v", err)
		}
	})
	t.Run("damaged file", func(t *testing.T) {
		_, _, _, r := setup(t)
		path, _ := r.path("one")
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
		if _, err := r.Get("one"); err == nil {
			t.Error("a key file of a mebibyte was read")
		}
	})
	t.Run("no randomness", func(t *testing.T) {
		home := t.TempDir()
		if _, err := OpenKeyring(filepath.Join(home, "keys"), filepath.Join(home, "kek"), bytes.NewReader(nil)); err == nil {
			t.Error("a KEK out of nothing")
		}
		openKeyring(t, home)
		r, err := OpenKeyring(filepath.Join(home, "keys"), filepath.Join(home, "kek"), bytes.NewReader(make([]byte, 40)))
		do(t, err)
		if k, err := r.Create("one"); err == nil || k != (Key{}) {
			t.Error("a key was kept without a nonce of its own")
		}
	})
}

func TestKeyringConcurrently(t *testing.T) {
	r := openKeyring(t, t.TempDir())
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

func FuzzKeyFile(f *testing.F) {
	r := openKeyring(f, f.TempDir())
	_, id := r.path("name")
	good, err := r.wrap(id, testKey(0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:30])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := r.unwrap(id, b); err == nil && k != testKey(0) {
			t.Fatal("a key that was never kept")
		}
	})
}

func FuzzKEKFile(f *testing.F) {
	f.Add([]byte(kekTextLine + strings.Repeat("0f", 32) + "\n"))
	f.Add([]byte("priormesh-kek-2:00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if kek, err := parseKEK(b, "kek"); (err == nil) != (len(kek) == 32) || err != nil && !errors.Is(err, ErrKEK) {
			t.Fatal(len(kek), err)
		}
	})
}
