package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
)

// A key outlives the catalogue's rows of its study only if they were lost, for an
// erasure and an eviction take both, or if the node ended while the first instances
// of the study came in. What is on the study's shelf whole is stored again from
// there. Lost is only what was acknowledged: its rows were counted, or its study told.

// ErrIndexDamaged says that files of the index have changed on the disk.
var ErrIndexDamaged = errors.New("the index on this node's disk is damaged, so what it shows may be wrong or lack studies; stop the node, check the disk, and restore the whole home from a backup")

// CheckIndex reads every table of the index and the catalogue, and names one
// that is damaged.
func CheckIndex(db *badger.DB) error {
	err := caught(db.VerifyChecksum)
	if err == nil {
		return nil
	}
	for _, t := range db.Tables() {
		path := table.NewFilename(t.ID, db.Opts().Dir)
		if bad := checkTable(path, db.Opts()); bad != nil && !errors.Is(bad, fs.ErrNotExist) { // it was compacted meanwhile
			return fmt.Errorf("%w (the table %s is damaged)", ErrIndexDamaged, filepath.Base(path))
		}
	}
	return fmt.Errorf("%w (%w)", ErrIndexDamaged, err)
}

// checkTable reads all blocks of a table's file.
func checkTable(path string, o badger.Options) error {
	f, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close(-1) // no shorter than it is
	return caught(func() error {
		t, err := table.OpenTable(f, table.Options{ReadOnly: true, ChkMode: o.ChecksumVerificationMode, BlockSize: o.BlockSize, Compression: o.Compression})
		if err != nil {
			return err
		}
		return t.VerifyChecksum()
	})
}

// caught makes an error of a panic: Badger panics at a block that is damaged.
func caught(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return fn()
}

// Blank says that a catalogue has no rows at all. One that ever had a key made
// has some for as long as the key is there.
func Blank(db *badger.DB) (blank bool, err error) {
	err = db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{})
		defer it.Close()
		it.Seek([]byte{tableInstance})
		blank = !it.Valid() || it.Item().Key()[0] > 0x4f
		return nil
	})
	return blank, err
}

func (a *Archive) checkIndex() error {
	err := CheckIndex(a.DB)
	a.indexDamaged.Store(err != nil)
	return err
}

// IndexDamaged says that the last look at the index's files found damage.
func (a *Archive) IndexDamaged() bool { return a.indexDamaged.Load() }

// RecoverLost finds own studies, and instances of them, that the catalogue has
// lost, stores them again and tells of them. It returns how many instances came
// back. It may be called before Start too, when the index is known to have lost
// what it had.
func (a *Archive) RecoverLost(ctx context.Context) (instances int, err error) {
	type missed struct {
		id   sourceID
		lost bool
	}
	var all []missed
	if err := a.Keys.Shelves(ctx, func(name string, _ cas.ShelfID) error {
		id, ok := parseKeyName(name)
		if !ok || id.Origin != a.Self || a.erase.under(id) {
			return nil
		}
		missing, lost, err := a.missesRows(id)
		if missing {
			all = append(all, missed{id, lost})
		}
		return err
	}); err != nil {
		return 0, err
	}
	for _, m := range all {
		n, err := a.recoverSource(ctx, m.id)
		instances += n
		if err != nil && ctx.Err() == nil { // a full disk, say: nothing of it is swept before it was tried again
			a.Log.Error("instances that the catalogue has lost could not be stored again yet; it is tried again by itself", "study", short(m.id.Study), "error", err)
			err = a.lookAgain(m.id)
		}
		switch {
		case err != nil:
			return instances, err
		case n == 0:
		case m.lost:
			a.Log.Error("the catalogue had lost instances of a study; they were stored again from their blocks. Something is wrong with the disk that the index lies on",
				"study", short(m.id.Study), "instances", n)
		default:
			a.Log.Info("instances of a study that had come in whole when the node ended were stored; they had not been acknowledged yet",
				"study", short(m.id.Study), "instances", n)
		}
	}
	return instances, nil
}

// parseKeyName undoes keyName.
func parseKeyName(name string) (id sourceID, ok bool) {
	study, origin, ok := strings.Cut(name, "/")
	if !ok {
		return id, false
	}
	node, err := index.ParseNodeID(origin)
	return sourceID{study, node}, err == nil
}

// missesRows says whether the catalogue has fewer instances of an own source
// than it counted, or does not know it at all; and whether it has lost them.
func (a *Archive) missesRows(id sourceID) (missing, lost bool, err error) {
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	s, err := a.source(id)
	if errors.Is(err, errNoRecord) {
		// The first instance of a study is told before it is acknowledged.
		_, told := a.statementOf(id)
		return true, told, nil
	}
	if err != nil {
		return false, false, err
	}
	rows, err := a.instancesOf(id)
	missing = len(rows) < s.Instances
	return missing, missing, err
}

// recoverSource stores instances again of which only the blocks are left. With an
// error there may be more, which must not be swept: the disk was full, or a block
// could not be read.
func (a *Archive) recoverSource(ctx context.Context, id sourceID) (n int, err error) {
	key, err := a.Keys.Get(id.keyName())
	if errors.Is(err, cas.ErrNoKey) {
		return 0, nil // erased meanwhile
	}
	if err != nil {
		return 0, err
	}
	before, err := a.instancesOf(id)
	if err != nil {
		return 0, err
	}
	known := make(map[string]bool, len(before))
	for _, i := range before {
		known[i.SOP] = true
	}
	shelf := a.shelf(id, key)
	found := make(map[string]*cas.InstanceManifest)
	if err := cas.FindInstances(ctx, shelf, key, func(m cas.InstanceManifest) error {
		switch other, twice := found[m.UID]; {
		case known[m.UID]:
		case twice && (other == nil || other.SHA256 != m.SHA256):
			found[m.UID] = nil // one of the two was refused, and nobody can say which
		default:
			found[m.UID] = &m
		}
		return nil
	}); err != nil {
		return 0, err
	}
	var left error // why some could not be stored
	for _, m := range found {
		if m == nil {
			a.Log.Error("an instance that the catalogue has lost is there twice, with different bytes; send it again from where it came", "study", short(id.Study))
			continue
		}
		// It passes the same door as what is sent: its bytes say what it is.
		r := m.Reader(ctx, shelf, key)
		got, err := a.Ingest(ctx, r, IngestOptions{})
		r.Close()
		var conflict *Conflict
		var limit dicom.ErrLimit
		switch {
		case err == nil && got.SHA256 == m.SHA256:
			n++
		case ctx.Err() != nil:
			return n, ctx.Err()
		case errors.As(err, &conflict):
			// It was refused when it came, and has not been swept yet.
		case Rejected(err) && !errors.As(err, &limit): // limits may be set anew
			a.Log.Error("an instance that the catalogue has lost is refused as it is; send it again from where it came", "study", short(id.Study), "error", err)
		case err != nil:
			left = cmp.Or(left, err)
		}
	}
	if n == 0 {
		return 0, left
	}
	if err := a.recount(id); err != nil {
		return n, err
	}
	if _, err := a.publish(ctx, id.Study); err != nil && ctx.Err() == nil {
		a.Log.Error("a study that was stored again could not be told to the region at once; it is tried again", "study", short(id.Study), "error", err)
	}
	return n, left
}

// recount sets what a source says of itself to what its rows are.
func (a *Archive) recount(id sourceID) error {
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	err := a.updateSource(id, func(txn *badger.Txn, s *source) error {
		s.Instances, s.Bytes, s.Dirty, s.Settled = 0, 0, true, false
		return eachRecord(txn, id.key(tableInstance), func(_ []byte, i instance) error {
			s.Instances++
			s.Bytes += i.Size
			return nil
		})
	})
	if err == nil {
		a.pub.touch(id.Study)
	}
	return err
}
