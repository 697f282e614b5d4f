package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"github.com/priormesh/priormesh/node/archive"
)

// openIndex opens the database of index and catalogue. Of some damage Badger
// makes a panic, in a goroutine of its own for tables that are cut off: they are
// looked at first.
func openIndex(dir string) (*badger.DB, error) {
	return openDatabase(IndexOptions(dir))
}

func openDatabase(o badger.Options) (db *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("%w (%v)", archive.ErrIndexDamaged, r)
		}
	}()
	if err := checkTables(o); err != nil {
		return nil, err
	}
	for _, logs := range []string{".mem", ".vlog"} {
		if err := dropEmpty(o.Dir, logs); err != nil {
			return nil, err
		}
	}
	db, err = badger.Open(o)
	if err != nil && !ofMachine(err) {
		err = fmt.Errorf("%w (%w)", archive.ErrIndexDamaged, err)
	}
	return db, err
}

// dropEmpty removes Badger's logs that have no byte, which it does not open: a
// process that is killed while it makes one leaves that, and one that is killed
// while it removes one whose rows are in a table.
func dropEmpty(dir, logs string) error {
	all, err := filesOf(dir, logs)
	if err != nil {
		return err
	}
	for _, path := range all {
		if info, err := os.Stat(path); err != nil {
			return err
		} else if info.Size() > 0 {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// ofMachine says that an error is the machine's and says nothing of the files.
// Badger wraps errors as texts.
func ofMachine(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return strings.Contains(err.Error(), "directory lock") || strings.Contains(err.Error(), "unsupported version")
}

// checkTables looks at the tables that the database is made of, and at the
// others that lie there. A table that a crash has left half written is none of
// them, and Badger removes it.
func checkTables(o badger.Options) error {
	if _, err := os.Stat(o.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil // a new one
	}
	path := filepath.Join(o.Dir, badger.ManifestFilename)
	manifest, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return checkUnnamed(o, nil, badger.Manifest{}, 0)
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	m, end, err := badger.ReplayManifestFile(f, o.ExternalMagicVersion, o)
	if err != nil {
		return nil // Badger will say what it is, before it changes anything
	}
	for id := range m.Tables {
		path := table.NewFilename(id, o.Dir)
		if err := checkTable(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w (the table %s is missing)", archive.ErrIndexDamaged, filepath.Base(path))
		} else if err != nil {
			return err
		}
	}
	return checkUnnamed(o, manifest, m, end)
}

// checkTable compares the end of a table's file with its checksum: a table ends
// with its index, the index's length (4 bytes), checksum, and the checksum's length (4).
func checkTable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := info.Size()
	part := func(n int64) ([]byte, error) {
		if n < 1 || n > end {
			return nil, fmt.Errorf("%w (the table %s is cut off or altered)", archive.ErrIndexDamaged, filepath.Base(path))
		}
		b := make([]byte, n)
		end -= n
		_, err := f.ReadAt(b, end)
		return b, err
	}
	sized := func() ([]byte, error) {
		n, err := part(4)
		if err != nil {
			return nil, err
		}
		return part(int64(binary.BigEndian.Uint32(n)))
	}
	raw, err := sized()
	if err != nil {
		return err
	}
	rows, err := sized()
	if err != nil {
		return err
	}
	sum := new(pb.Checksum)
	if err := proto.Unmarshal(raw, sum); err != nil {
		return fmt.Errorf("%w (the table %s: %w)", archive.ErrIndexDamaged, filepath.Base(path), err)
	}
	if err := y.VerifyChecksum(rows, sum); err != nil {
		return fmt.Errorf("%w (the table %s: %w)", archive.ErrIndexDamaged, filepath.Base(path), err)
	}
	return nil
}
