package cas

import (
	"errors"
	"io"
	"os"
	"slices"
)

// FS is the file system below a store or a keyring: the machine's own, or one
// that fails on purpose. Names are paths as package os takes them.
type FS interface {
	// Create makes a file that is not there yet, readable by its owner only.
	Create(name string) (File, error)
	// Open opens a file for reading and writing; fs.ErrNotExist if there is none.
	Open(name string) (File, error)
	Remove(name string) error
	Rename(from, to string) error
	MkdirAll(dir string) error
	// ReadDir lists the names in a folder, sorted.
	ReadDir(dir string) ([]string, error)
	// SyncDir makes durable which names a folder has.
	SyncDir(dir string) error
	// Free is how many bytes may still be written below a folder.
	Free(dir string) (int64, error)
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Sync returns when the bytes and the size are on disk. After an error
	// nobody knows which bytes since the Sync before are.
	Sync() error
}

// OS is the machine's own file system.
func OS() FS { return osFS{} }

type osFS struct{}

func (osFS) Create(name string) (File, error) {
	return osOpen(name, os.O_CREATE|os.O_EXCL|os.O_RDWR)
}

func (osFS) Open(name string) (File, error) { return osOpen(name, os.O_RDWR) }

func osOpen(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Remove(name string) error     { return os.Remove(name) }
func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) MkdirAll(dir string) error    { return os.MkdirAll(dir, 0o700) }
func (osFS) SyncDir(dir string) error     { return syncDir(dir) }

func (osFS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, err
}

func (osFS) Free(dir string) (int64, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	return freeSpace(d)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type osFile struct{ *os.File }

func (f osFile) Sync() error { return syncData(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Uncache makes the reads that follow come from the disk itself, as far as the
// system does as it is told.
func (f osFile) Uncache() error { return uncache(f.File) }
