package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// RestoredOptions say what a home that was restored from a backup lacks.
type RestoredOptions struct {
	// Known are this node's own retractions in the backup, by subject. What it
	// has learned of by others since it had erased after the backup.
	Known map[string]index.Position
	// Copies says that the backup had the copies of other trusts' studies.
	Copies bool
}

// Restoration says what was done about it.
type Restoration struct {
	Erased  int // studies erased again
	Copies  int // copies that the backup did not have, forgotten
	Renewed int // studies told anew, because the region knew of more than is here now
	Lost    int // studies that this node had told it received, and that are not here
}

const erasedAgain = "it had been erased here after the backup that this home was restored from"

// Restored brings what is here in line with what the region knows, before
// anything of it is given to anybody: before Start, and after the index has
// begun a new epoch. What is cut off can be done again.
func (a *Archive) Restored(ctx context.Context, o RestoredOptions) (r Restoration, err error) {
	known := o.Known
	again := func() (found int, err error) {
		own, err := a.OwnRetractions()
		if err != nil {
			return 0, err
		}
		var late []string
		for subject, through := range own {
			if known[subject] != through {
				late = append(late, subject)
			}
		}
		n, err := a.eraseAgain(ctx, late)
		r.Erased += n
		known = own
		return len(late), err
	}
	if _, err := again(); err != nil {
		return r, err
	}
	if err := a.erase.all(ctx); err != nil { // what the backup had half done
		return r, err
	}
	if !o.Copies {
		if r.Copies, err = a.forgetCopies(ctx); err != nil {
			return r, err
		}
	}
	if err := a.erase.catchUp(); err != nil {
		return r, err
	}
	if err := a.erase.listen(ctx); err != nil {
		return r, err
	}
	for { // what has come meanwhile, and what the erasures themselves have said
		n, err := again()
		if err != nil {
			return r, err
		}
		if n == 0 {
			break
		}
	}
	if r.Renewed, r.Lost, err = a.tellAnew(); err != nil {
		return r, err
	}
	return r, a.erase.anew(known)
}

// OwnRetractions is what this node has taken back, by subject.
func (a *Archive) OwnRetractions() (map[string]index.Position, error) {
	all, err := a.Index.Retractions()
	out := make(map[string]index.Position)
	for _, r := range all {
		if r.Author == a.Self {
			out[r.Subject] = r.Through
		}
	}
	return out, err
}

// eraseAgain erases what is here of studies that this node has retracted,
// named by the hash of the subject.
func (a *Archive) eraseAgain(ctx context.Context, subjects []string) (n int, err error) {
	if len(subjects) == 0 {
		return 0, nil
	}
	gone := make(map[string]bool, len(subjects))
	for _, s := range subjects {
		gone[s] = true
	}
	found := make(map[string]bool)
	if err := a.db.View(func(txn *badger.Txn) error {
		clear(found)
		for _, table := range []byte{tableSource, tableShelved, tableInstance} {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{table}})
			for it.Rewind(); it.Valid(); it.Next() {
				id, _, ok := parseSourceID(it.Item().Key())
				if ok && !index.Purged(it.Item()) && !found[id.Study] && gone[index.RetractionSubject(index.KindStudy, id.Study)] {
					found[id.Study] = true
				}
			}
			it.Close()
		}
		return nil
	}); err != nil {
		return 0, err
	}
	for study := range found {
		_, err := a.erase.condemn(sourceID{Study: study}, erasedAgain)
		if errors.Is(err, ErrErasing) {
			if err := a.erase.all(ctx); err != nil {
				return n, err
			}
			_, err = a.erase.condemn(sourceID{Study: study}, erasedAgain)
		}
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrSiblings) {
			continue
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, a.erase.all(ctx)
}

// forgetCopies takes every copy out of the catalogue: their blocks are not
// here. They come back when somebody wants them.
func (a *Archive) forgetCopies(ctx context.Context) (n int, err error) {
	var list []sourceID
	if err := a.db.View(func(txn *badger.Txn) error {
		list = nil
		seen := make(map[sourceID]bool)
		for _, table := range []byte{tableSource, tableShelved} {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{table}})
			for it.Rewind(); it.Valid(); it.Next() {
				id, _, ok := parseSourceID(it.Item().Key())
				if ok && !index.Purged(it.Item()) && !a.ours(id.Origin) && !seen[id] {
					seen[id] = true
					list = append(list, id)
				}
			}
			it.Close()
		}
		return nil
	}); err != nil {
		return 0, err
	}
	told, err := a.Index.Said(index.KindHolding, "")
	if err != nil {
		return 0, err
	}
	said := make(map[string]bool, len(told))
	for _, subject := range told {
		said[subject] = true
	}
	// The region first: it must not count on them.
	for part := range slices.Chunk(list, index.MaxFacts) {
		var say []index.Statement
		for _, id := range part {
			if !said[id.Study+"@"+id.Origin.String()] {
				continue
			}
			src, err := a.source(id)
			if err != nil && !errors.Is(err, errNoRecord) {
				return n, err
			}
			st, err := index.HoldingStatement(index.Holding{Study: id.Study, Origin: id.Origin, Revision: src.Revision})
			if err != nil {
				return n, err
			}
			say = append(say, st)
		}
		if len(say) > 0 {
			if _, err := a.Index.Append(ctx, say...); err != nil {
				return n, err
			}
		}
	}
	for _, id := range list {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		if err := a.forgetCopy(ctx, id); err != nil {
			return n, fmt.Errorf("a copy of study %s: %w", short(id.Study), err)
		}
		n++
	}
	return n, nil
}

func (a *Archive) forgetCopy(ctx context.Context, id sourceID) error {
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	if _, err := a.uncatalogue(id); err != nil {
		return err
	}
	for {
		list, err := a.damageAfter(id, nil, evictRows)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		for _, x := range list {
			if err := a.forgetDamage(id, x.c); err != nil {
				return err
			}
		}
	}
	key, err := a.Keys.Get(id.keyName())
	switch {
	case err == nil:
		return a.space.remove(ctx, id, key)
	case errors.Is(err, cas.ErrNoKey) || keyDamaged(err):
		return a.space.forget(id)
	}
	return err
}

// tellAnew finds studies of which the region knows more than is here since the
// home was restored. Those that are here in part are told anew, as they are.
func (a *Archive) tellAnew() (renewed, lost int, err error) {
	told, err := a.Index.Said(index.KindStudy, "")
	if err != nil {
		return 0, 0, err
	}
	for _, study := range told {
		id := sourceID{study, a.Self}
		s, err := a.source(id)
		if err != nil && !errors.Is(err, errNoRecord) {
			return renewed, lost, err
		}
		st, ok := a.statementOf(id)
		if ok && st.Instances > s.Instances {
			if err := a.noteLost(id, st); err != nil {
				return renewed, lost, err
			}
		}
		if s.lost() {
			lost++
			if err := a.regain(study); err != nil {
				return renewed, lost, err
			}
			continue
		}
		if !ok {
			continue
		}
		ref, err := parseRef(st.Manifest)
		if err == nil && s.Manifest != nil && ref == *s.Manifest && st.Revision == s.Revision || s.Dirty {
			continue
		}
		l := a.lock(study)
		l.Lock()
		err = a.updateSource(id, func(_ *badger.Txn, s *source) error {
			s.Dirty = true
			return nil
		})
		l.Unlock()
		if err != nil {
			return renewed, lost, err
		}
		a.pub.touch(study)
		renewed++
	}
	return renewed, lost, nil
}

// anew notes the epoch that a restored node has begun, and which of its own
// retractions have been dealt with. Others of earlier epochs that are heard
// from now on are of what it had erased after the backup.
func (e *erasures) anew(known map[string]index.Position) error {
	a := e.a
	head, ok := a.Index.Head(a.Self)
	if !ok {
		return nil // it has never said anything
	}
	for part := range slices.Chunk(slices.Collect(maps.Keys(known)), eraseRows) {
		if err := a.update(func(txn *badger.Txn) error {
			for _, subject := range part {
				if err := putRecord(txn, heardRow(heardKey{a.Self, subject}), known[subject]); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return a.update(func(txn *badger.Txn) error {
		return putRecord(txn, []byte{tableErasure, erasureAnew}, index.Position{Epoch: head.Epoch})
	})
}

// again erases what this node had erased before it was restored from a backup,
// and has heard of only since it has begun anew.
func (e *erasures) again(ctx context.Context) error {
	a := e.a
	own, err := a.OwnRetractions()
	if err != nil || len(own) == 0 {
		return err
	}
	var late []string
	if err := a.db.View(func(txn *badger.Txn) error {
		late = nil
		begun, err := getRecord[index.Position](txn, []byte{tableErasure, erasureAnew})
		if errors.Is(err, errNoRecord) {
			return nil // it never was
		}
		if err != nil {
			return err
		}
		for subject, through := range own {
			if through.Epoch >= begun.Epoch {
				continue // said here since
			}
			at, err := getRecord[index.Position](txn, heardRow(heardKey{a.Self, subject}))
			if err != nil && !errors.Is(err, errNoRecord) {
				return err
			}
			if at != through {
				late = append(late, subject)
			}
		}
		return nil
	}); err != nil || len(late) == 0 {
		return err
	}
	if _, err := a.eraseAgain(ctx, late); err != nil {
		return err
	}
	if own, err = a.OwnRetractions(); err != nil { // as the erasures have left them
		return err
	}
	return a.update(func(txn *badger.Txn) error {
		for _, subject := range late {
			if err := putRecord(txn, heardRow(heardKey{a.Self, subject}), own[subject]); err != nil {
				return err
			}
		}
		return nil
	})
}
