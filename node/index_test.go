package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/archive"
)

// openIndexOf opens the index of a stopped node as it lies on disk.
func openIndexOf(t *testing.T, tr *trust) *badger.DB {
	t.Helper()
	db, err := badger.Open(badger.DefaultOptions(filepath.Join(tr.home.Dir, "index")).WithLogger(nil).WithCompression(options.Snappy))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestInstancesThatTheCatalogueHasLostComeBackFromTheirBlocks(t *testing.T) {
	for name, lost := range map[string]func(key []byte, study string) bool{
		"every row of a study": func(k []byte, study string) bool {
			return k[0] >= 0x40 && k[0] < 0x60 && bytes.Contains(k, []byte(study))
		},
		"one instance's row": func(k []byte, study string) bool {
			return k[0] == 0x40 && bytes.Contains(k, []byte(study)) && bytes.HasSuffix(k, []byte(".1.2"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := region(t, "RX1")
			list, other := study("1.2.3.1", ada, "20240101", 3), study("1.2.9.1", ada, "20230101", 2)
			r[0].imports(list...)
			r[0].imports(other...)
			r[0].stop()
			db := openIndexOf(t, r[0])
			n := 0
			if err := db.Update(func(txn *badger.Txn) error {
				it := txn.NewIterator(badger.IteratorOptions{})
				defer it.Close()
				for it.Rewind(); it.Valid(); it.Next() {
					if k := it.Item().KeyCopy(nil); lost(k, "1.2.3.1") {
						n++
						if err := txn.Delete(k); err != nil {
							return err
						}
					}
				}
				return nil
			}); err != nil || n == 0 {
				t.Fatal(n, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			r[0].start()
			defer r[0].stop()
			r[0].wait("the lost instances", func() (bool, string) {
				code, _, parts := r[0].retrieve("studies/1.2.3.1")
				return code == 200 && len(parts) == 3, ""
			})
			_, _, parts := r[0].retrieve("studies/1.2.3.1")
			same(t, parts, list)
			_, _, parts = r[0].retrieve("studies/1.2.9.1")
			same(t, parts, other)
		})
	}
}

// alter changes what files hold; nil takes them away.
func alter(glob string, how func([]byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, glob))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, path := range files {
			if how == nil {
				err = os.Remove(path)
			} else {
				var b []byte
				if b, err = os.ReadFile(path); err == nil {
					err = os.WriteFile(path, how(b), 0o600)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestANodeWhoseIndexIsDamagedOrGoneDoesNotStart(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(t *testing.T, dir string)
		want error
	}{
		"a bit of a table": {func(t *testing.T, dir string) {
			tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
			if err != nil || len(tables) == 0 {
				t.Fatal(tables, err)
			}
			for _, path := range tables {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				b[len(b)/8] ^= 1
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, archive.ErrIndexDamaged},
		"tables that are cut off": {alter("*.sst", func(b []byte) []byte { return b[:len(b)/2] }), archive.ErrIndexDamaged},
		"tables of zeros":         {alter("*.sst", func(b []byte) []byte { return make([]byte, len(b)) }), archive.ErrIndexDamaged},
		"an empty manifest":       {alter("MANIFEST", func(b []byte) []byte { return nil }), archive.ErrIndexDamaged},
		"tables that are gone":    {alter("*.sst", nil), archive.ErrIndexDamaged},
		"a table that a crash left half written": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "000999.sst"), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		"a log that a crash left without a byte": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "00099.mem"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		"an older log that a crash left without a byte": {func(t *testing.T, dir string) {
			for name, b := range map[string][]byte{"00098.mem": nil, "00099.mem": make([]byte, 64<<10)} {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, nil},
		"all of it": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, node.ErrStoreLost},
	} {
		t.Run(name, func(t *testing.T) {
			r := region(t, "RX1")
			r[0].imports(study("1.2.3.1", ada, "20240101", 2)...)
			r[0].stop()
			c.harm(t, filepath.Join(r[0].home.Dir, "index"))
			n, err := node.Open(context.Background(), r[0].home, node.Options{})
			if n != nil && err == nil {
				n.Close()
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("it starts with %v, want %v", err, c.want)
			}
		})
	}
}

// A byte that has changed, or a piece of zeros, wherever it lies: the table that has it is named, and what to do.
func TestATableThatIsDamagedIsNamed(t *testing.T) {
	r := region(t, "RX1")
	r[0].imports(study("1.2.3.1", ada, "20240101", 2)...)
	r[0].stop()
	db := openIndexOf(t, r[0]) // with a table of many blocks
	noise := rand.NewChaCha8([32]byte{})
	if err := db.Update(func(txn *badger.Txn) error {
		for i := range 1000 {
			v := make([]byte, 100)
			noise.Read(v)
			if err := txn.Set(fmt.Appendf(nil, "\xf0%d", i), v); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(r[0].home.Dir, "index", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	for _, path := range tables {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			at := len(whole) * i / 8
			for name, harm := range map[string]func([]byte){
				"a bit":   func(b []byte) { b[at] ^= 1 },
				"a block": func(b []byte) { clear(b[at:min(len(b), at+4<<10)]) },
			} {
				b := bytes.Clone(whole)
				harm(b)
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				n, err := node.Open(context.Background(), r[0].home, node.Options{})
				if err == nil {
					n.Close()
				}
				if !errors.Is(err, archive.ErrIndexDamaged) || !strings.Contains(err.Error(), filepath.Base(path)) || strings.Contains(err.Error(), "nil pointer") || !strings.Contains(err.Error(), "restore") {
					t.Errorf("%s at %d of %d: %v", name, at, len(b), err)
				}
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r[0].start()
	r[0].stop()
}
