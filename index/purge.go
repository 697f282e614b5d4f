package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Badger keeps what was deleted: in the logs of its memtables, and in tables until they happen to be compacted, which for the lower
// levels may be never. What removes every version of a key is DropPrefix: it writes the memtables out, and rewrites the tables of
// level 0 and, of the other levels, those that hold such a key, leaving it out. It passes over a prefix under which no live row is, so
// one is put there first, marked so that nobody takes it for one. And it goes by prefix: rows of others whose keys begin with a doomed
// key are kept aside in the table of saved rows and put back.

// purgeMark is the user meta of the rows that DropPrefix is shown.
const purgeMark byte = 0x70

// Purged says of a row that it is none: it stands there for the moment while what was there before is removed from the files. Whoever
// reads the database with an iterator of his own passes over such rows.
func Purged(item *badger.Item) bool { return item.UserMeta() == purgeMark }

const (
	purgeFacts = 256 // facts purged together
	purgeKeys  = 512 // prefixes given to DropPrefix at once
	purgeTries = 3
	filesGone  = 30 * time.Second // for readers to let go of files that are replaced
	filesLook  = 20 * time.Millisecond
)

// ErrPurge says that what was deleted may still be in the database's files. Purging again is always right.
var ErrPurge = errors.New("what was deleted may still be in files of the index; it is tried again")

// Update is badger's, for everybody who shares the index's database: it waits while files are being purged, when badger takes no writes.
// fn must not call Update, nor anything of Index that writes.
func (x *Index) Update(fn func(*badger.Txn) error) error {
	x.gate.RLock()
	defer x.gate.RUnlock()
	return x.db.Update(fn)
}

// view is db.View for who compares rows with each other. A purge takes all versions of a row, also those that an open view has not read
// yet: what looks like damage then is looked at anew.
func (x *Index) view(fn func(*badger.Txn) error) error {
	for {
		x.gate.RLock()
		before := x.purges
		x.gate.RUnlock()
		err := x.db.View(fn)
		var damaged *DamagedError
		if !errors.As(err, &damaged) {
			return err
		}
		x.gate.RLock()
		after := x.purges
		x.gate.RUnlock()
		if before == after {
			return err
		}
	}
}

// Purge removes from the files of the database what retractions have taken back, if there is any.
func (x *Index) Purge(ctx context.Context) error {
	for {
		work, err := x.doomed()
		if err != nil || len(work.at) == 0 {
			return err
		}
		// Two steps: the payloads say what else has to go, so they go last.
		if err := x.purge(ctx, nil, work.dead, nil); err != nil {
			return err
		}
		if err := x.purge(ctx, work.payloads, nil, nil); err != nil {
			return err
		}
		if err := x.Update(func(txn *badger.Txn) error {
			for _, k := range work.at {
				if err := txn.Delete(k); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

// doomed is what a purge has to remove.
type doomed struct {
	at       [][]byte // rows of the table of doomed payloads
	payloads [][]byte
	dead     [][]byte // rows that the facts brought about; one that is there again stays
}

func (x *Index) doomed() (d doomed, err error) {
	err = x.db.View(func(txn *badger.Txn) error {
		err := scan(txn, []byte{tabDoomed}, []byte{tabDoomed}, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
			d.at = append(d.at, bytes.Clone(k))
			return len(d.at) < purgeFacts, nil
		})
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, at := range d.at {
			key := append([]byte{tabPayload}, at[1:]...)
			d.payloads = append(d.payloads, key)
			v, ok, err := get(txn, key)
			if err != nil {
				return err
			}
			if !ok || len(v) < saltSize || len(at) != 1+32+8+8 {
				continue
			}
			s, err := decodePayload(v[saltSize:])
			if err != nil {
				continue
			}
			author := NodeID(at[1:33])
			keys := [][]byte{factKey(s.Kind, s.Subject, author)}
			if study, err := decodeStudy(s.Subject, s.Body); s.Kind == KindStudy && err == nil {
				keys = append(keys, append([]byte{tabStudy}, study.UID...))
				for _, t := range x.trustsOf(author) {
					keys = append(keys, studyKeys(x.fold, study, t)...)
				}
			}
			for _, k := range keys {
				if !seen[string(k)] {
					seen[string(k)] = true
					d.dead = append(d.dead, k)
				}
			}
		}
		return nil
	})
	return d, err
}

// trustsOf lists whose a node has been while its logs were taken.
func (x *Index) trustsOf(n NodeID) (out []TrustID) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for id, st := range x.logs {
		if id.Node == n && !slices.Contains(out, st.trust) {
			out = append(out, st.trust)
		}
	}
	return out
}

// Drop removes rows from the database and everything that was ever under their keys from its files: those with one of the keys, and
// those whose keys begin with one of the prefixes. It is for tables of others who share the database. While it works nobody writes and
// readers wait.
func (x *Index) Drop(ctx context.Context, keys, prefixes [][]byte) error {
	return x.purge(ctx, keys, nil, prefixes)
}

// purge drops exact keys, keys under which no row is, and whole prefixes.
func (x *Index) purge(ctx context.Context, exact, dead, below [][]byte) error {
	for part := range slices.Chunk(exact, purgeKeys) {
		if err := x.purgeSome(ctx, part, nil, nil); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(dead, purgeKeys) {
		if err := x.purgeSome(ctx, nil, part, nil); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(below, purgeKeys) {
		if err := x.purgeSome(ctx, nil, nil, part); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) purgeSome(ctx context.Context, exact, dead, below [][]byte) error {
	old, err := x.files()
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		any, left, err := x.dropOnce(exact, dead, below)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPurge, err)
		}
		if !any {
			return nil
		}
		if !left {
			break
		}
		if try == purgeTries {
			return ErrPurge
		}
	}
	return x.awaitGone(ctx, old)
}

// dropOnce says whether there was anything to drop, and whether anything of it is left.
func (x *Index) dropOnce(exact, dead, below [][]byte) (any, left bool, err error) {
	x.write.Lock()
	defer x.write.Unlock()
	x.gate.Lock()
	defer x.gate.Unlock()
	x.purges++
	var p dropPlan
	if err := x.db.View(func(txn *badger.Txn) (err error) {
		p, err = planDrop(txn, exact, dead, below)
		return err
	}); err != nil || len(p.prefixes) == 0 {
		return false, false, err
	}
	if err := x.writeMany(len(p.saved), func(txn *badger.Txn, i int) error {
		return txn.Set(append([]byte{tabSaved}, p.saved[i].key...), p.saved[i].value)
	}); err != nil {
		return false, false, err
	}
	if err := x.writeMany(len(p.empty), func(txn *badger.Txn, i int) error {
		return txn.SetEntry(badger.NewEntry(p.empty[i], nil).WithMeta(purgeMark))
	}); err != nil {
		return false, false, err
	}
	if err := x.db.DropPrefix(p.prefixes...); err != nil {
		return false, false, err
	}
	if err := x.putBack(); err != nil {
		return false, false, err
	}
	err = x.db.View(func(txn *badger.Txn) error {
		for _, k := range slices.Concat(p.exact, below) {
			if err := anyVersion(txn, k, func(found []byte) {
				left = left || bytes.Equal(found, k) || !slices.ContainsFunc(p.saved, func(r row) bool { return bytes.Equal(r.key, found) })
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return true, left, err
}

// anyVersion calls fn with the keys that begin with a prefix and of which any version is left, deleted ones too.
func anyVersion(txn *badger.Txn, prefix []byte, fn func([]byte)) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, AllVersions: true})
	defer it.Close()
	for it.Rewind(); it.ValidForPrefix(prefix); it.Next() {
		fn(it.Item().Key())
	}
	return nil
}

type row struct{ key, value []byte }

// dropPlan is what to give to DropPrefix and what to do about it.
type dropPlan struct {
	exact    [][]byte // the single keys that go
	prefixes [][]byte
	empty    [][]byte // those of them under which no row is
	saved    []row    // rows of others under them
}

// planDrop finds few prefixes that cover the keys and, if it can be, no row of others. Nobody writes meanwhile.
func planDrop(txn *badger.Txn, exact, dead, below [][]byte) (dropPlan, error) {
	var p dropPlan
	p.exact = slices.Clone(exact)
	for _, k := range dead {
		_, live, err := get(txn, k)
		if err != nil {
			return p, err
		}
		if !live {
			p.exact = append(p.exact, k)
		}
	}
	slices.SortFunc(p.exact, bytes.Compare)
	p.exact = slices.CompactFunc(p.exact, bytes.Equal)
	goes := make(map[string]bool, len(p.exact))
	for _, k := range p.exact {
		goes[string(k)] = true
	}
	// under says whether there are rows under a prefix, and which of them stay.
	under := func(prefix []byte, all bool) (some bool, stay []row, err error) {
		err = scan(txn, prefix, prefix, false, func(k []byte, value func() ([]byte, error)) (bool, error) {
			some = true
			if goes[string(k)] {
				return true, nil
			}
			r := row{key: bytes.Clone(k)}
			if all {
				var err error
				if r.value, err = value(); err != nil {
					return false, err
				}
			}
			stay = append(stay, r)
			return all, nil
		})
		return some, stay, err
	}
	add := func(prefix []byte, some bool, stay []row) {
		p.prefixes = append(p.prefixes, prefix)
		p.saved = append(p.saved, stay...)
		if !some {
			p.empty = append(p.empty, prefix)
		}
	}
	var cover func(keys [][]byte) error
	cover = func(keys [][]byte) error {
		if len(keys) == 0 {
			return nil
		}
		prefix := common(keys[0], keys[len(keys)-1])
		if len(keys) == 1 {
			some, stay, err := under(prefix, true)
			if err == nil {
				add(prefix, some, stay)
			}
			return err
		}
		if len(prefix) > 1 {
			some, stay, err := under(prefix, false)
			if err != nil {
				return err
			}
			if len(stay) == 0 {
				add(prefix, some, nil)
				return nil
			}
		}
		if err := cover(keys[:len(keys)/2]); err != nil {
			return err
		}
		return cover(keys[len(keys)/2:])
	}
	if err := cover(p.exact); err != nil {
		return p, err
	}
	for _, prefix := range below {
		some := false
		err := scan(txn, prefix, prefix, false, func([]byte, func() ([]byte, error)) (bool, error) {
			some = true
			return false, nil
		})
		if err != nil {
			return p, err
		}
		add(prefix, some, nil)
	}
	return p, nil
}

func common(a, b []byte) []byte {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

// putBack restores the rows that were kept aside, also after an interruption.
func (x *Index) putBack() error {
	for {
		var rows []row
		err := x.db.View(func(txn *badger.Txn) error {
			return scan(txn, []byte{tabSaved}, []byte{tabSaved}, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
				v, err := value()
				rows = append(rows, row{bytes.Clone(k[1:]), v})
				return err == nil && len(rows) < purgeKeys, err
			})
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		err = x.writeMany(len(rows), func(txn *badger.Txn, i int) error {
			if err := txn.Set(rows[i].key, rows[i].value); err != nil {
				return err
			}
			return txn.Delete(append([]byte{tabSaved}, rows[i].key...))
		})
		if err != nil {
			return err
		}
	}
}

// writeMany writes n rows in as many transactions as they take. The caller keeps everybody else from writing.
func (x *Index) writeMany(n int, write func(*badger.Txn, int) error) error {
	const each = 64
	for i := 0; i < n; i += each {
		if err := x.db.Update(func(txn *badger.Txn) error {
			for j := i; j < min(i+each, n); j++ {
				if err := write(txn, j); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// files lists the files of the database that hold rows.
func (x *Index) files() (out []string, err error) {
	if x.db.Opts().InMemory {
		return nil, nil
	}
	for _, pattern := range []string{"*.mem", "*.sst"} {
		names, err := filepath.Glob(filepath.Join(x.db.Opts().Dir, pattern))
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	return out, nil
}

// awaitGone waits until those of the files that the database no longer uses are gone: a reader keeps them open until it ends.
func (x *Index) awaitGone(ctx context.Context, old []string) error {
	if len(old) == 0 {
		return nil
	}
	used := map[string]bool{}
	for _, t := range x.db.Tables() {
		used[filepath.Join(x.db.Opts().Dir, fmt.Sprintf("%06d.sst", t.ID))] = true
	}
	ctx, cancel := context.WithTimeout(ctx, filesGone)
	defer cancel()
	look := time.NewTicker(filesLook)
	defer look.Stop()
	for {
		left := 0
		for _, name := range old {
			if _, err := os.Stat(name); err == nil && !used[name] {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d files are still being read", ErrPurge, left)
		case <-look.C:
		}
	}
}
