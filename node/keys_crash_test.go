package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/priormesh/priormesh/cas"
)

var errPower = errors.New("the power is gone")

// powerFS is the machine's file system until the power goes.
type powerFS struct {
	cas.FS
	left atomic.Int64
	half bool
}

func (f *powerFS) change() error {
	if f.left.Add(-1) < 0 {
		return errPower
	}
	return nil
}

func (f *powerFS) Create(name string) (cas.File, error) {
	if err := f.change(); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name)
	return powerFile{file, f}, err
}

func (f *powerFS) Open(name string) (cas.File, error) {
	if f.left.Load() < 0 {
		return nil, errPower
	}
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return powerFile{file, f}, nil
}

func (f *powerFS) Remove(name string) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f *powerFS) Rename(from, to string) error {
	if err := f.change(); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

type powerFile struct {
	cas.File
	fs *powerFS
}

func (f powerFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.fs.change(); err != nil {
		if f.fs.half && f.fs.left.Load() == -1 {
			f.File.WriteAt(b[:len(b)/2], off)
		}
		return 0, err
	}
	return f.File.WriteAt(b, off)
}

// Wherever a change of the KEK file is cut off, the home starts again with all
// its keys, in two keyrings, and can be changed again.
func TestRekeyingAHomeIsCutOffAnywhere(t *testing.T) {
	stride := int64(Stride(3))
	for from, half := range []bool{false, true} {
		switched := int64(0)
		for steps := int64(from); ; steps += stride {
			home := t.TempDir()
			source, err := cas.ParseKEKSource("file:kek", home, nil)
			if err != nil {
				t.Fatal(err)
			}
			with := func(f cas.FS) keyrings {
				t.Helper()
				k := keyrings{fs: f, source: source, rand: rand.Reader}
				for _, name := range []string{"keys", "bucket"} {
					c, err := cas.OpenFolder(f, filepath.Join(home, name))
					if err != nil {
						t.Fatal(err)
					}
					k.cabinets = append(k.cabinets, c)
				}
				return k
			}
			rings, err := with(cas.OS()).open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var keys [2]cas.Key
			for i, r := range rings {
				if keys[i], err = r.Create("study"); err != nil {
					t.Fatal(err)
				}
			}
			power := &powerFS{FS: cas.OS(), half: half}
			power.left.Store(1 << 30)
			cut := with(power)
			power.left.Store(steps)
			old, err := readKEKFile(source.File())
			if err != nil {
				t.Fatal(err)
			}
			next, err := cas.NewKEK(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			rerr := cut.rekey(t.Context(), next)
			if rerr != nil && !errors.Is(rerr, errPower) {
				t.Fatal(rerr)
			}
			check := func(when string) cas.KEK {
				t.Helper()
				rings, err := with(cas.OS()).open(t.Context())
				if err != nil {
					t.Fatalf("cut off after %d steps, %s: %v", steps, when, err)
				}
				for i, r := range rings {
					if k, err := r.Get("study"); err != nil || k != keys[i] {
						t.Fatalf("cut off after %d steps, %s, keyring %d: %v", steps, when, i, err)
					}
				}
				if _, err := os.Stat(source.File() + kekNext); !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("cut off after %d steps, %s: the file of a change is still there: %v", steps, when, err)
				}
				now, err := readKEKFile(source.File())
				if err != nil {
					t.Fatal(err)
				}
				return now
			}
			now := check("started")
			if !now.Equal(old) && !now.Equal(next) {
				t.Fatal("a KEK of its own")
			}
			if now.Equal(next) {
				switched += stride
			} else if rerr == nil {
				t.Fatal("done, and still the old KEK")
			}
			if err := with(cas.OS()).rekey(t.Context(), next); err != nil {
				t.Fatalf("cut off after %d steps, again: %v", steps, err)
			}
			if !check("again").Equal(next) {
				t.Fatal("still the old KEK")
			}
			for _, c := range with(cas.OS()).cabinets {
				if fits, err := cas.KeyringFits(t.Context(), c, old); fits || err != nil {
					t.Fatal(fmt.Sprint(c, " is still under the old KEK"), err)
				}
			}
			if rerr == nil {
				if steps < 20 || switched < 10 {
					t.Fatalf("%d steps, %d of them after the switch", steps, switched)
				}
				break
			}
		}
	}
}
