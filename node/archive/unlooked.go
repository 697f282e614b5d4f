package archive

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// An index that has lost its newest writes counts the instances of a study that grew
// in that time as it did before: neither its rows nor its counts say that some are
// lacking. Their blocks are on the disk, and reading all of them is the only way to
// find out. So every study that was received here is noted, looked through in turn,
// and not swept before; what is noted outlives a restart.

const (
	lookBatch        = 1000            // notes in one transaction
	lookThroughAgain = 5 * time.Minute // before what could not be looked through is again
)

// LookThroughAll notes all studies that were received here: their blocks may be of
// more instances than the catalogue has.
func (a *Archive) LookThroughAll(ctx context.Context) error {
	var ids []sourceID
	if err := a.Keys.Shelves(ctx, func(name string, _ cas.ShelfID) error {
		if id, ok := parseKeyName(name); ok && id.Origin == a.Self {
			ids = append(ids, id)
		}
		return nil
	}); err != nil {
		return err
	}
	for part := range slices.Chunk(ids, lookBatch) {
		if err := a.update(func(txn *badger.Txn) error {
			for _, id := range part {
				if err := putRecord(txn, id.key(tableUnlooked), a.Now().UnixMilli()); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	a.unlookedLeft.Store(int64(len(ids)))
	return nil
}

// lookAgain notes one study of which not all could be stored again.
func (a *Archive) lookAgain(id sourceID) error {
	a.unlookedMu.Lock()
	defer a.unlookedMu.Unlock()
	fresh := false
	if err := a.update(func(txn *badger.Txn) error {
		noted, err := hasRecord(txn, id.key(tableUnlooked))
		if fresh = !noted; noted || err != nil {
			return err
		}
		return putRecord(txn, id.key(tableUnlooked), a.Now().UnixMilli())
	}); err != nil {
		return err
	}
	if fresh {
		a.unlookedLeft.Add(1)
	}
	select {
	case a.unlookedNew <- struct{}{}:
	default:
	}
	return nil
}

// looked takes a note back.
func (a *Archive) looked(key []byte) error {
	a.unlookedMu.Lock()
	defer a.unlookedMu.Unlock()
	err := a.update(func(txn *badger.Txn) error { return txn.Delete(key) })
	if err == nil {
		a.unlookedLeft.Add(-1)
	}
	return err
}

// Unlooked is how many studies have not been looked through since the index lost its
// newest writes: of these, instances that were acknowledged may not be shown.
func (a *Archive) Unlooked() int { return int(a.unlookedLeft.Load()) }

func (a *Archive) unlooked(id sourceID) (bool, error) {
	if a.Unlooked() == 0 || id.Origin != a.Self {
		return false, nil
	}
	err := a.db.View(func(txn *badger.Txn) error {
		_, err := getRecord[int64](txn, id.key(tableUnlooked))
		return err
	})
	if errors.Is(err, errNoRecord) {
		return false, nil
	}
	return err == nil, err
}

// countUnlooked finds how many an earlier run has left.
func (a *Archive) countUnlooked() error {
	a.unlookedMu.Lock()
	defer a.unlookedMu.Unlock()
	n := int64(0)
	if err := a.db.View(func(txn *badger.Txn) error {
		n = 0
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableUnlooked}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if !index.Purged(it.Item()) {
				n++
			}
		}
		return nil
	}); err != nil {
		return err
	}
	a.unlookedLeft.Store(n)
	return nil
}

// lookThrough looks through what is noted, half of the time at most.
func (a *Archive) lookThrough(ctx context.Context) {
	for ctx.Err() == nil {
		var wait <-chan time.Time
		if a.Unlooked() > 0 {
			if failed := a.lookThroughOnce(ctx); !failed {
				continue
			}
			wait = time.After(lookThroughAgain)
		}
		select {
		case <-ctx.Done():
		case <-wait:
		case <-a.unlookedNew:
		}
	}
}

func (a *Archive) lookThroughOnce(ctx context.Context) (failed bool) {
	found, studies := 0, 0
	for after := []byte(nil); ctx.Err() == nil; {
		id, key, err := a.nextUnlooked(after)
		if err != nil {
			a.Log.Error("which studies have to be looked through cannot be read", "error", err)
			return true
		}
		if key == nil {
			break
		}
		after = key
		began := time.Now()
		n, err := 0, error(nil)
		if !a.erase.under(id) {
			n, err = a.recoverSource(ctx, id)
		}
		if n > 0 {
			found, studies = found+n, studies+1
			a.Log.Error("the catalogue had lost instances of a study; they were stored again from their blocks. Something is wrong with the disk that the index lies on",
				"study", short(id.Study), "instances", n)
		}
		if err == nil {
			err = a.looked(key)
		}
		if err != nil {
			if ctx.Err() == nil {
				a.Log.Error("a study could not be looked through for instances that the catalogue has lost; it is tried again", "study", short(id.Study), "error", err)
			}
			failed = true
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Since(began)):
		}
	}
	if !failed && ctx.Err() == nil {
		if err := a.countUnlooked(); err != nil { // an erasure takes its notes along
			a.Log.Error("which studies have to be looked through cannot be read", "error", err)
			return true
		}
		if a.Unlooked() == 0 {
			a.Log.Info("all studies that were received here have been looked through for what the index had lost", "instances_found", found, "studies", studies)
		}
	}
	return failed
}

// nextUnlooked is the first note behind a key; no key: there is none.
func (a *Archive) nextUnlooked(after []byte) (id sourceID, key []byte, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		id, key = sourceID{}, nil
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableUnlooked}})
		defer it.Close()
		if after == nil {
			it.Rewind()
		} else {
			it.Seek(after)
		}
		for ; it.Valid(); it.Next() {
			k := it.Item().KeyCopy(nil)
			if x, _, ok := parseSourceID(k); ok && !bytes.Equal(k, after) && !index.Purged(it.Item()) {
				id, key = x, k
				return nil
			}
		}
		return nil
	})
	return id, key, err
}
