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
	"github.com/priormesh/priormesh/node/audit"
)

const (
	// evictRows is how many catalogue rows one transaction takes away.
	evictRows = 500
	// freedWithin is how long a store may take to give back what was dropped;
	// until then it is not evicted for again.
	freedWithin = 3 * time.Minute
)

// look evicts copies when they are over their quota, or when the disk is
// nearly at its reserve: the least recently used first.
func (s *space) look(ctx context.Context, now time.Time) {
	s.mu.Lock()
	s.dropped = slices.DeleteFunc(s.dropped, func(d dropped) bool { return now.Sub(d.at) >= freedWithin })
	s.mu.Unlock()
	quota, disk := s.need()
	if need := max(quota, disk); need > 0 && !now.Before(s.again) {
		why := "the copies are over their quota"
		if disk > quota {
			why = "the disk is nearly full"
		}
		any, young := s.evict(ctx, need, why)
		if !any {
			s.again = now.Add(min(evictAgain, max(young, lookEvery)))
		}
		if any && disk > 0 {
			s.collect(ctx)
		}
		quota, _ = s.need()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if over := quota > 0; over != s.over && ctx.Err() == nil {
		s.over = over
		if over {
			s.a.Log.Warn("the copies of other trusts' studies are over their quota, and all of them are pinned, in use, or nowhere else to be had", "bytes", quota)
		}
	}
}

// collect has the store give back at once what was dropped, if it can.
func (s *space) collect(ctx context.Context) {
	c, ok := s.a.Copies.(interface{ Collect(context.Context) error })
	if !ok {
		return
	}
	if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
		s.a.Log.Error("the space of evicted copies could not be given back at once; the store tries again by itself", "error", err)
	}
}

// need is how many bytes of copies are too many, for the quota and for the disk.
func (s *space) need() (quota, disk int64) {
	s.mu.Lock()
	for id, c := range s.copies {
		if s.foreign(id) {
			quota += c.bytes
		}
	}
	coming := int64(0) // what was dropped and the store has not given back yet
	for _, d := range s.dropped {
		coming += d.bytes
	}
	s.mu.Unlock()
	if quota -= s.a.Space.Copies; s.a.Space.Copies <= 0 {
		quota = 0
	}
	if s.a.Room != nil {
		free, reserve := s.a.Room.Free()
		disk = reserve + reserve/4 - free - coming
	}
	return max(quota, 0), max(disk, 0)
}

// evict takes copies away until so many bytes are gone. any says whether one
// went, young in what time the next will have been left alone for long enough.
func (s *space) evict(ctx context.Context, need int64, why string) (any bool, young time.Duration) {
	type candidate struct {
		id sourceID
		copied
	}
	var list []candidate
	now := s.a.Now()
	s.mu.Lock()
	young = evictAgain
	for id, c := range s.copies {
		if !s.foreign(id) {
			continue
		}
		if left := s.a.Space.KeepFor - now.Sub(c.used); left > 0 {
			young = min(young, left)
		} else {
			list = append(list, candidate{id, c})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(x, y candidate) int { return x.used.Compare(y.used) })
	for _, c := range list {
		if need <= 0 || ctx.Err() != nil {
			break
		}
		gone, err := s.evictOne(ctx, c.id, why)
		if err != nil {
			if ctx.Err() == nil {
				s.a.Log.Error("a copy could not be evicted; it is tried again later", "study", short(c.id.Study), "again_in", s.a.Space.KeepFor, "error", err)
			}
			s.used(c.id)
			continue
		}
		if gone {
			any = true
			need -= c.bytes
			s.mu.Lock()
			s.dropped = append(s.dropped, dropped{now, c.bytes})
			s.mu.Unlock()
		}
	}
	return any, young
}

// evictOne takes one copy away, unless somebody needs it here. What is cut off
// in the middle is a copy still, in the catalogue or by its shelved record, and
// evicted again; no order of events leaves a row without its blocks.
func (s *space) evictOne(ctx context.Context, id sourceID, why string) (gone bool, err error) {
	a := s.a
	var unhidden map[string]bool
	defer func() { // when it is let go of
		delete(unhidden, id.Study) // with that this copy would come back: it waits until somebody asks
		for study := range unhidden {
			a.bringAgain(study)
		}
	}()
	open, err := s.gate.shut(id)
	if err != nil {
		return false, nil // somebody is bringing it
	}
	defer open()
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	if keep, err := s.kept(id); keep || err != nil {
		return false, err
	}
	src, err := a.source(id)
	if err != nil && !errors.Is(err, errNoRecord) {
		return false, err
	}
	holders, err := a.Index.Holders(id.Study, id.Origin)
	if err != nil {
		return false, err
	}
	roster := a.Index.Roster()
	elsewhere := slices.ContainsFunc(holders, func(h index.Holder) bool {
		_, in := roster.Allowed(h.Node) // what one has who is out is not to be had
		return in && src.Beyond == 0 && h.Node != a.Self && !h.Quarantined && h.Revision >= src.Revision
	})
	if !elsewhere {
		if some, err := a.catalogued(id); some || err != nil {
			return false, err // the last one there is
		}
	}
	// Peers first: they must not count on what is about to go. They may do so
	// although it is not whole any more.
	if slices.ContainsFunc(holders, func(h index.Holder) bool { return h.Node == a.Self }) {
		st, err := index.HoldingStatement(index.Holding{Study: id.Study, Origin: id.Origin, Revision: src.Revision})
		if err != nil {
			return false, err
		}
		if _, err := a.Index.Append(ctx, st); err != nil {
			return false, err
		}
	}
	trust, _ := a.Index.TrustOf(id.Origin)
	if err := a.Audit.Append(audit.Event{Event: "copy.evicted", Node: id.Origin.String(), Trust: string(trust), Study: short(id.Study), Detail: why}); err != nil {
		return false, err
	}
	if unhidden, err = a.uncatalogue(id); err != nil {
		return false, err
	}
	for {
		list, err := a.damageAfter(id, nil, evictRows)
		if err != nil {
			return false, err
		}
		if len(list) == 0 {
			break
		}
		for _, x := range list {
			if err := a.forgetDamage(id, x.c); err != nil {
				return false, err
			}
		}
	}
	key, err := a.Keys.Get(id.keyName())
	switch {
	case err == nil:
		err = s.remove(ctx, id, key)
	case errors.Is(err, cas.ErrNoKey):
		err = s.forget(id) // the shelf goes with the next round
	}
	if err != nil {
		return false, err
	}
	a.news.tell(id.Study)
	a.Log.Info("a copy was evicted", "study", short(id.Study), "of", string(trust), "why", why)
	return true, nil
}

// kept says whether a copy must stay: pinned, asked for, granted, or used.
func (s *space) kept(id sourceID) (bool, error) {
	if pinned, err := s.a.pinned(id.Study); pinned || err != nil {
		return true, err
	}
	if s.a.queue.wants(id.Study) {
		return true, nil
	}
	if len(s.a.grants.on(id)) > 0 {
		return true, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.copies[id]
	return !ok || s.a.Now().Sub(c.used) < s.a.Space.KeepFor, nil
}

// uncatalogue takes all rows of a copy away, the source record first: from then
// on nobody is told that it is here. It returns the studies of which an instance
// is no longer kept out. The caller holds the study's lock.
func (a *Archive) uncatalogue(id sourceID) (unhidden map[string]bool, err error) {
	if err := a.update(func(txn *badger.Txn) error { return txn.Delete(id.key(tableSource)) }); err != nil {
		return nil, err
	}
	others, err := a.sourcesOf(id.Study)
	if err != nil {
		return nil, err
	}
	unhidden = make(map[string]bool)
	for _, table := range []byte{tableInstance, tableConflict, tableSeries} {
		for {
			var rows [][]byte
			err := a.db.View(func(txn *badger.Txn) error {
				rows = nil
				it := txn.NewIterator(badger.IteratorOptions{Prefix: id.key(table)})
				defer it.Close()
				for it.Rewind(); it.Valid() && len(rows) < evictRows; it.Next() {
					rows = append(rows, it.Item().KeyCopy(nil))
				}
				return nil
			})
			if err != nil {
				return unhidden, err
			}
			if len(rows) == 0 {
				break
			}
			var shown []string
			if err := a.update(func(txn *badger.Txn) (err error) {
				shown = nil
				if table == tableInstance {
					if _, shown, err = a.releaseUIDs(txn, rows, others); err != nil {
						return err
					}
				}
				for _, k := range rows {
					if err := txn.Delete(k); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				return unhidden, err
			}
			for _, study := range shown {
				unhidden[study] = true
			}
		}
	}
	return unhidden, nil
}

// releaseUIDs gives up the SOP Instance UIDs that the instances of some rows
// took, each to another version of the study that has the same bytes if there is
// one. It returns the rows of those UIDs that nobody has now, and the studies of
// which an instance was kept out because of one of them.
func (a *Archive) releaseUIDs(txn *badger.Txn, rows [][]byte, others map[index.NodeID]source) (free [][]byte, unhidden []string, err error) {
	freed := make(map[string]bool)
	for _, k := range rows {
		id, rest, ok := parseSourceID(k)
		series, uid, ok2 := bytes.Cut(rest, []byte{0})
		if !ok || !ok2 {
			continue
		}
		sopKey := append([]byte{tableSOP}, uid...)
		taken, err := a.releaseUID(txn, id, sopKey, string(series), string(uid), others)
		if err != nil {
			return nil, nil, err
		}
		if !taken && !freed[string(uid)] {
			freed[string(uid)] = true
			free = append(free, sopKey)
		}
	}
	if len(freed) > 0 {
		unhidden, err = a.unhide(txn, freed)
	}
	return free, unhidden, err
}

// releaseUID says whether anybody still has the UID.
func (a *Archive) releaseUID(txn *badger.Txn, id sourceID, sopKey []byte, series, uid string, others map[index.NodeID]source) (taken bool, err error) {
	first, err := getRecord[sop](txn, sopKey)
	if errors.Is(err, errNoRecord) {
		return false, nil
	}
	if err != nil || first.Origin != id.Origin || first.Study != id.Study {
		return true, err
	}
	for origin := range others {
		if origin == id.Origin {
			continue
		}
		other, err := getRecord[instance](txn, sourceID{id.Study, origin}.instanceKey(tableInstance, series, uid))
		if errors.Is(err, errNoRecord) {
			continue
		}
		if err != nil {
			return true, err
		}
		first.Origin, first.SHA256 = origin, other.SHA256
		return true, putRecord(txn, sopKey, first)
	}
	return false, txn.Delete(sopKey)
}

// unhide ends that instances are kept out because of SOP Instance UIDs which
// nobody has any more. Their copies are no longer whole, so that they are
// brought again.
func (a *Archive) unhide(txn *badger.Txn, freed map[string]bool) (studies []string, err error) {
	var rows [][]byte
	fewer := make(map[sourceID]int)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableConflict}})
	for it.Rewind(); it.Valid(); it.Next() {
		id, rest, ok := parseSourceID(it.Item().Key())
		if _, uid, ok2 := bytes.Cut(rest, []byte{0}); ok && ok2 && !index.Purged(it.Item()) && freed[string(uid)] {
			rows = append(rows, it.Item().KeyCopy(nil))
			fewer[id]++
		}
	}
	it.Close()
	for _, k := range rows {
		if err := txn.Delete(k); err != nil {
			return nil, err
		}
	}
	for id, n := range fewer {
		s, err := getRecord[source](txn, id.key(tableSource))
		if errors.Is(err, errNoRecord) {
			continue // it is being brought, or goes too
		}
		if err != nil {
			return nil, err
		}
		s.Whole, s.Conflicts = false, max(0, s.Conflicts-n)
		if err := putRecord(txn, id.key(tableSource), s); err != nil {
			return nil, err
		}
		studies = append(studies, id.Study)
	}
	return studies, nil
}

// bringAgain has studies brought of which an instance is no longer kept out. If
// that cannot be noted they come when somebody asks for them.
func (a *Archive) bringAgain(study string) {
	err := a.Enqueue(study, Background, "an instance that was kept out need not be any more", "")
	if err != nil && !errors.Is(err, ErrNotFound) {
		a.Log.Warn("a study with an instance that need not be kept out any more is brought only when somebody asks for it", "study", short(study), "error", err)
	}
}
