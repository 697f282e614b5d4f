package cas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Cabinet keeps small values by name, for a Keyring. Names are of lower-case
// letters, digits and at most one "/". All methods may be called concurrently;
// what they change is durable on return.
type Cabinet interface {
	// Read returns a value, or fs.ErrNotExist.
	Read(ctx context.Context, name string) ([]byte, error)
	// CreateNew keeps a value under a name that has none, else fs.ErrExist.
	CreateNew(ctx context.Context, name string, value []byte) error
	// Replace puts a value in the place of old; ErrReplaced if it is not there
	// any more.
	Replace(ctx context.Context, name string, old, value []byte) error
	// Destroy makes a value unreadable for good, as far as the place allows.
	// One that is not there is no error.
	Destroy(ctx context.Context, name string) error
	// List calls fn with the names that begin with prefix, which is empty or
	// ends in "/", in order. fn may use the cabinet.
	List(ctx context.Context, prefix string, fn func(name string) error) error
	// String says for people where it is.
	String() string
}

// ErrReplaced says that a value is no longer what the caller knew.
var ErrReplaced = errors.New("it was replaced meanwhile by another process")

// maxValue bounds what is read back of a cabinet.
const maxValue = 4096

const tmpSuffix = ".tmp"

// Folder is a Cabinet in a folder, for one process at a time.
type Folder struct {
	fs  FS
	dir string
	mu  sync.Mutex // writers
}

// OpenFolder opens or makes a folder, and destroys what a crash left in it
// half written.
func OpenFolder(f FS, dir string) (*Folder, error) {
	c := &Folder{fs: f, dir: dir}
	if err := f.MkdirAll(dir); err != nil {
		return nil, err
	}
	if err := f.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	return c, c.walk("", func(name string) error {
		if strings.HasSuffix(name, tmpSuffix) {
			return c.destroy(name)
		}
		return nil
	})
}

func (c *Folder) String() string { return c.dir }

func (c *Folder) path(name string) string { return filepath.Join(c.dir, filepath.FromSlash(name)) }

// Read implements Cabinet.
func (c *Folder) Read(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := readSmall(c.fs, c.path(name))
	if err == nil && len(b) > 0 && bytes.Equal(b, destroyed(len(b))) {
		return nil, &fs.PathError{Op: "read", Path: c.path(name), Err: fs.ErrNotExist} // a crash came between destroying and removing it
	}
	return b, err
}

// CreateNew implements Cabinet.
func (c *Folder) CreateNew(ctx context.Context, name string, value []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch _, err := c.Read(ctx, name); {
	case err == nil:
		return &fs.PathError{Op: "create", Path: c.path(name), Err: fs.ErrExist}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return c.write(name, value)
}

// Replace implements Cabinet.
func (c *Folder) Replace(ctx context.Context, name string, old, value []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	have, err := c.Read(ctx, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !bytes.Equal(have, old) {
		return ErrReplaced
	}
	return c.write(name, value)
}

func (c *Folder) write(name string, value []byte) error {
	path := c.path(name)
	dir := filepath.Dir(path)
	if dir != c.dir {
		if err := c.fs.MkdirAll(dir); err != nil {
			return err
		}
		if err := c.fs.SyncDir(c.dir); err != nil {
			return err
		}
	}
	return writeDurably(c.fs, path, value)
}

// Destroy implements Cabinet: the file is overwritten, synced and removed. A
// file system that does not write in place keeps the old bytes until it reuses
// their space; they are wrapped.
func (c *Folder) Destroy(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.destroy(name)
}

func (c *Folder) destroy(name string) error {
	err := destroyFile(c.fs, c.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// List implements Cabinet.
func (c *Folder) List(ctx context.Context, prefix string, fn func(string) error) error {
	return c.walk(prefix, func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.HasSuffix(name, tmpSuffix) {
			return nil
		}
		return fn(name)
	})
}

// walk visits the files below prefix, those of half-written values included.
func (c *Folder) walk(prefix string, fn func(name string) error) error {
	names, err := c.fs.ReadDir(c.path(prefix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if prefix == "" && isGeneration(name) {
			if err := c.walk(name+"/", fn); err != nil {
				return err
			}
			continue
		}
		if err := fn(prefix + name); err != nil {
			return err
		}
	}
	return nil
}

// readSmall reads a file that should be tiny, without trusting that it is.
func readSmall(f FS, path string) ([]byte, error) {
	file, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	if size > maxValue {
		return nil, fmt.Errorf("%w: %s has %d bytes, the limit is %d", ErrTooLarge, path, size, maxValue)
	}
	b := make([]byte, size)
	n, err := file.ReadAt(b, 0)
	if n == len(b) {
		err = nil
	}
	return b[:n], err
}

// writeDurably makes the file appear whole or not at all: written beside,
// synced, renamed, and the folder synced.
func writeDurably(f FS, path string, b []byte) error {
	tmp := path + tmpSuffix
	if err := destroyFile(f, tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := f.Create(tmp)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(b, 0)
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = f.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, destroyFile(f, tmp))
	}
	return f.SyncDir(filepath.Dir(path))
}

// destroyFile overwrites a file in place, removes it and makes both durable.
func destroyFile(f FS, path string) error {
	file, err := f.Open(path)
	if err != nil {
		return err
	}
	size, err := file.Size()
	for off := int64(0); err == nil && off < size; off += maxValue {
		_, err = file.WriteAt(destroyed(int(min(size-off, maxValue))), off)
	}
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = f.Remove(path)
	}
	if err == nil {
		err = f.SyncDir(filepath.Dir(path))
	}
	return err
}

// DestroyFile overwrites a file in place, removes it and makes both durable.
func DestroyFile(f FS, path string) error { return destroyFile(f, path) }

// destroyed is what a file of n bytes is overwritten with.
func destroyed(n int) []byte { return bytes.Repeat([]byte{0xff}, n) }

// isGeneration says whether a name is that of a generation of keys: "g" and a
// number.
func isGeneration(name string) bool {
	digits, ok := strings.CutPrefix(name, "g")
	return ok && digits != "" && !slices.ContainsFunc([]byte(digits), func(b byte) bool { return b < '0' || b > '9' })
}
