package archive

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
)

// sweepBatch is how many blocks are deleted at once: a writer that waits waits
// no longer than that takes.
const sweepBatch = 256

// sweep deletes from a source's shelf what nothing refers to any more: blocks
// of instances that were refused or broken off, manifests of revisions that
// are past. again is when to come back for what somebody may still be using.
// If anything that is needed cannot be read nothing is deleted.
//
// A source that turns out to have no instance, no manifest and no list goes as
// a whole, its key with it.
func (s *space) sweep(ctx context.Context, id sourceID) (again time.Duration, err error) {
	if s.a.sibling(id.Origin) {
		return 0, s.forget(id)
	}
	open, err := s.gate.shut(id)
	if err != nil {
		return 0, err
	}
	defer open()
	if unlooked, err := s.a.unlooked(id); unlooked || err != nil {
		return 0, cmp.Or(err, errBusy) // what the catalogue has lost lies there yet
	}
	if s.a.queue.wants(id.Study) {
		lost := false
		if id.Origin == s.a.Self {
			have, err := s.a.source(id)
			if err != nil && !errors.Is(err, errNoRecord) {
				return 0, err
			}
			lost = have.lost()
		}
		if lost || id.Origin != s.a.Self {
			return 0, errBusy // it goes on where it was, and counts on what has come
		}
	}
	key, err := s.a.Keys.Get(id.keyName())
	if errors.Is(err, cas.ErrNoKey) {
		if needed, ierr := s.a.catalogued(id); ierr != nil || needed {
			return 0, errors.Join(ierr, err)
		}
		return 0, s.forget(id)
	}
	if err != nil {
		return 0, err
	}
	shelf := s.a.shelf(id, key)
	r := references{s: s, ctx: ctx, id: id, key: key, shelf: shelf, set: make(map[uint64]struct{}), done: make(map[cid.Cid]bool)}
	if err := r.collect(); err != nil {
		return 0, err
	}
	if !r.any {
		return 0, s.remove(ctx, id, key)
	}
	freed := int64(0)
	var batch []cid.Cid
	flush := func() error {
		if s.gate.wanted(id) {
			return errBusy
		}
		err := shelf.Delete(ctx, batch...)
		batch = batch[:0]
		return err
	}
	err = shelf.Enumerate(ctx, cid.Undef, func(c cid.Cid, size int64) error {
		if _, needed := r.set[brief(c)]; needed {
			return nil
		}
		batch = append(batch, c)
		freed += size
		if len(batch) == sweepBatch {
			return flush()
		}
		return nil
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	if err != nil {
		return 0, err
	}
	if freed > 0 {
		s.a.Log.Debug("swept", "study", short(id.Study), "bytes", freed)
	}
	clean := r.again == 0
	return r.again, s.counted(ctx, id, shelf, &clean)
}

// brief stands for an address. Two that share it make the sweep keep a block
// too many, never one too few.
func brief(c cid.Cid) uint64 {
	k := c.KeyString()
	return binary.BigEndian.Uint64([]byte(k[len(k)-8:]))
}

// catalogued says whether the catalogue knows anything of a source.
func (a *Archive) catalogued(id sourceID) (known bool, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		if known, err = hasRecord(txn, id.key(tableSource)); known || err != nil {
			return err
		}
		it := txn.NewIterator(badger.IteratorOptions{Prefix: id.key(tableInstance)})
		defer it.Close()
		it.Rewind()
		known = it.Valid()
		return nil
	})
	return known, err
}

// references is what one source needs of its shelf.
type references struct {
	s     *space
	ctx   context.Context
	id    sourceID
	key   cas.Key
	shelf cas.Shelf

	set   map[uint64]struct{}
	done  map[cid.Cid]bool // manifests of instances that have been followed
	any   bool             // there is something to be kept
	again time.Duration    // when some of it will no longer be needed
}

func (r *references) collect() error {
	a := r.s.a
	s, err := a.source(r.id)
	here := err == nil
	if err != nil && !errors.Is(err, errNoRecord) {
		return err
	}
	r.any = here
	var rows []cas.Ref
	if err := a.db.View(func(txn *badger.Txn) error {
		rows = nil
		return eachRecord(txn, r.id.key(tableInstance), func(_ []byte, i instance) error {
			rows = append(rows, i.Manifest)
			return nil
		})
	}); err != nil {
		return err
	}
	for _, ref := range rows {
		r.any = true
		if err := r.instance(ref); err != nil {
			return err
		}
	}
	// What a copy's manifest lists beyond its rows was kept out: nobody can
	// read it here, and nobody is granted it.
	if here && s.Manifest != nil {
		if err := r.study(*s.Manifest, s.Conflicts == 0); err != nil {
			return err
		}
	}
	now := a.Now()
	for _, g := range a.grants.on(r.id) {
		if here && s.Manifest != nil && g.manifest == *s.Manifest {
			continue
		}
		if err := absent(r.study(g.manifest, true)); err != nil {
			return err
		}
		r.again = max(r.again, g.until.Sub(now))
	}
	// The list of what its origin has told of, which may be all that is here.
	if told, ok := a.statementOf(r.id); ok {
		ref, err := parseRef(told.Manifest)
		if err != nil || here && s.Manifest != nil && ref == *s.Manifest {
			return nil
		}
		has, err := r.shelf.Has(r.ctx, ref.CID)
		if err != nil {
			return err
		}
		if has {
			r.any = true
			return absent(r.study(ref, false))
		}
	}
	return nil
}

// absent forgives that a list is not here whole: it is brought again when it
// is asked for.
func absent(err error) error {
	if errors.Is(err, cas.ErrNotFound) {
		return nil
	}
	return err
}

func (r *references) add(c cid.Cid) { r.set[brief(c)] = struct{}{} }

func (r *references) object(ref cas.Ref) error {
	if r.s.gate.wanted(r.id) {
		return errBusy
	}
	blocks, err := ref.Blocks(r.ctx, r.shelf, r.key)
	for _, c := range blocks {
		r.add(c)
	}
	return err
}

func (r *references) instance(ref cas.Ref) error {
	if r.done[ref.CID] {
		return nil
	}
	if err := r.object(ref); err != nil {
		return fmt.Errorf("the manifest of an instance: %w", err)
	}
	m, err := cas.LoadInstance(r.ctx, r.shelf, r.key, ref)
	if err != nil {
		return fmt.Errorf("the manifest of an instance: %w", err)
	}
	for _, b := range m.Blocks {
		r.add(b.CID)
	}
	r.done[ref.CID] = true
	return nil
}

// study follows a study manifest to its series, and with whole to everything.
func (r *references) study(ref cas.Ref, whole bool) error {
	if err := r.object(ref); err != nil {
		return fmt.Errorf("the manifest of a study: %w", err)
	}
	study, err := cas.LoadStudy(r.ctx, r.shelf, r.key, ref)
	if err != nil {
		return fmt.Errorf("the manifest of a study: %w", err)
	}
	for _, se := range study.Series {
		if err := r.object(se.Manifest); err != nil {
			return fmt.Errorf("the manifest of a series: %w", err)
		}
		series, err := cas.LoadSeries(r.ctx, r.shelf, r.key, se.Manifest)
		if err != nil {
			return fmt.Errorf("the manifest of a series: %w", err)
		}
		for _, e := range series.Instances {
			if !whole {
				break
			}
			if err := r.instance(e.Manifest); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove drops a shelf that holds nothing anybody knows of, its key, and last
// the record that would have it tried again. The gate is shut.
func (s *space) remove(ctx context.Context, id sourceID, key cas.Key) error {
	if s.a.sibling(id.Origin) {
		return s.forget(id)
	}
	if err := s.a.store(id.Origin).Drop(ctx, key.Shelf()); err != nil {
		return err
	}
	if err := s.a.Keys.Delete(id.keyName()); err != nil {
		return err
	}
	return s.forget(id)
}

// forget is for a source that has no shelf any more.
func (s *space) forget(id sourceID) error {
	err := s.a.update(func(txn *badger.Txn) error {
		// A deletion of what is not there would write its key again, and that of an
		// erased study is to be nowhere.
		if shelved, err := hasRecord(txn, id.key(tableShelved)); !shelved || err != nil {
			return err
		}
		return txn.Delete(id.key(tableShelved))
	})
	if err != nil {
		return err
	}
	s.gone(id)
	return nil
}

// gone is for a source of which the catalogue knows nothing any more.
func (s *space) gone(id sourceID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.copies, id)
	delete(s.counts, id)
	delete(s.sweeps, id)
	delete(s.damaged, id)
}

// dropUnknown drops the shelves that no key opens: an erasure that was cut
// off has left them, or a rebuilt store has found them again. What no key opens
// nobody can ever read, so nothing is lost whatever else has gone wrong; that
// the catalogue does not know a shelf would be no reason. They must have been
// there a round ago too.
func (s *space) dropUnknown(ctx context.Context) error {
	// A key that is lost may come back from a holder of the study: until then
	// its shelf looks as unknown as those that nobody will ever read.
	if lost, err := s.a.lostKeys(ctx); err != nil || lost {
		return err
	}
	type found struct {
		store cas.Store
		id    cas.ShelfID
	}
	var all []found
	stores := []cas.Store{s.a.Copies}
	if s.a.Blocks != s.a.Copies && !s.a.Space.Shared {
		stores = append(stores, s.a.Blocks)
	}
	for _, store := range stores {
		if err := store.Shelves(ctx, cas.ShelfID{}, func(id cas.ShelfID) error {
			all = append(all, found{store, id})
			return nil
		}); err != nil {
			return err
		}
	}
	if lost, err := s.a.lostKeys(ctx); err != nil || lost {
		return err // a holder may give it back, and with it what it opens
	}
	// The keys after the shelves: a key is there before its first block.
	keys, err := s.keyShelves(ctx)
	if err != nil {
		return err
	}
	before := s.unknown
	s.unknown = make(map[cas.ShelfID]bool)
	n := 0
	for _, f := range all {
		if keys[f.id] {
			continue
		}
		if !before[f.id] {
			s.unknown[f.id] = true
			continue
		}
		if err := f.store.Drop(ctx, f.id); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		s.a.Log.Info("shelves that no key opens have been dropped", "shelves", n)
	}
	return nil
}

// keyShelves is the shelf of each key of the keyring.
func (s *space) keyShelves(ctx context.Context) (map[cas.ShelfID]bool, error) {
	out := make(map[cas.ShelfID]bool)
	return out, s.a.Keys.Shelves(ctx, func(_ string, id cas.ShelfID) error {
		out[id] = true
		return nil
	})
}
