package cas

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// ErrHeld says that the collector does nothing for now: packs are being copied.
var ErrHeld = errors.New("packs are being copied, so no space is given back before that is done")

// Pack is a pack that has ended: its file does not change any more.
type Pack struct {
	Name   string // of the file in Dir
	Number uint64
	Size   int64
}

// PackDir is where the packs lie.
func (d *Disk) PackDir() string { return filepath.Join(d.dir, "packs") }

// Hold keeps the collector from removing packs until release. It waits for a
// pass that is under way.
func (d *Disk) Hold(ctx context.Context) (release func(), err error) {
	select {
	case d.c.still <- struct{}{}:
		return func() { <-d.c.still }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-d.quit:
		return nil, ErrClosed
	}
}

// Packs ends the pack that is being written and lists the packs that hold a
// block of a shelf that is wanted; with a nil want, all that hold any. All that
// was acknowledged before the call is in them. A pack that the disk has lost is
// listed too.
func (d *Disk) Packs(ctx context.Context, want func(ShelfID) bool) ([]Pack, error) {
	if open, _ := d.openDead(); open != 0 {
		if err := d.write(ctx, &write{seal: open}); err != nil {
			return nil, err
		}
	}
	var wanted map[uint64]bool
	err := d.use(ctx, func() (err error) { wanted, err = d.l.packsOf(ctx, want); return err })
	if err != nil {
		return nil, err
	}
	var out []Pack
	for n, p := range d.l.allPacks() {
		if wanted[n] && p.ended {
			out = append(out, Pack{packName(n), n, p.size})
		}
	}
	slices.SortFunc(out, func(a, b Pack) int { return cmp.Compare(a.Number, b.Number) })
	return out, nil
}

// ParsePackName says which number the name of a pack's file gives.
func ParsePackName(name string) (n uint64, ok bool) { return parsePackName(name) }

// packsOf says which packs hold blocks of shelves that are wanted.
func (l *locator) packsOf(ctx context.Context, want func(ShelfID) bool) (map[uint64]bool, error) {
	out := make(map[uint64]bool)
	err := l.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{keyPlace}, PrefetchValues: true, PrefetchSize: pageKeys})
		defer it.Close()
		var at ShelfID
		first, take := true, false
		for n := 0; ; n++ {
			if n == 0 {
				it.Rewind()
			} else {
				it.Next()
			}
			if !it.Valid() {
				return nil
			}
			if n%pageKeys == 0 {
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			item := it.Item()
			id := ShelfID(item.Key()[1 : 1+len(ShelfID{})])
			if first || id != at {
				first, at, take = false, id, want == nil || want(id)
			}
			if !take {
				continue
			}
			if err := item.Value(func(v []byte) error { out[decodePlace(v).pack] = true; return nil }); err != nil {
				return err
			}
		}
	})
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	return out, locatorErr(err)
}

// Place is where the key of a name lies in the cabinet.
func (r *Keyring) Place(name string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	place, _ := r.now.place(name)
	return place
}
