package archive

import (
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"syscall"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
)

// groupMost is how many instances one transaction makes visible.
const groupMost = 64

// commits makes instances visible. Those that come at the same time share one
// transaction and so one sync of the disk, also when they are of one study.
//
// Nobody waits for a study's lock while he holds the turn: it may be held over
// slow work, and then all that arrives would stand. Instances whose lock is
// taken are put apart; who sent them waits for the lock alone, and whoever of
// them gets it first takes the others along.
type commits struct {
	a *Archive

	mu      sync.Mutex
	waiting []*commit
	apart   [studyLocks][]*commit // by the lock that they wait for

	turn sync.Mutex // held by the one who commits for all that wait
}

// commit is one instance whose blocks are durable.
type commit struct {
	id      sourceID
	uids    dicom.UIDs
	rec     instance
	data    dicom.Dataset
	arrival bool

	apart bool // changed by who has the turn
	// The rest is changed by who has the turn until it is put apart, and from then
	// on by who has the lock.
	done  bool
	dup   bool // these very bytes were here already
	first bool // nobody has been told of the study yet
	mixed bool // instances of the study name several patients
	err   error
}

// do returns when c is durable and visible, or is not. Whoever waits here waits
// for a lock and not to be told, so nobody can be forgotten: he takes along
// what waits until his own is done.
func (g *commits) do(c *commit) error {
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	g.mu.Unlock()
	if g.inTurn(c) {
		return c.err
	}
	i := lockOf(c.id.Study)
	g.a.locks[i].Lock()
	defer g.a.locks[i].Unlock()
	for !c.done {
		g.run(g.take(&g.apart[i]))
	}
	return c.err
}

// inTurn is false when c has been put apart.
func (g *commits) inTurn(c *commit) bool {
	g.turn.Lock()
	defer g.turn.Unlock()
	for !c.apart && !c.done { // until whoever had the turn before took it along
		group, unlock := g.tryLocks(g.take(&g.waiting))
		if len(group) > 0 {
			g.run(group)
		}
		unlock()
	}
	return !c.apart
}

// take takes the next group out of a list.
func (g *commits) take(list *[]*commit) []*commit {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(*list), groupMost)
	group := slices.Clone((*list)[:n])
	*list = slices.Delete(*list, 0, n)
	return group
}

// tryLocks takes the locks of the studies of a group, and puts those instances
// apart whose lock somebody has.
func (g *commits) tryLocks(group []*commit) (locked []*commit, unlock func()) {
	got := make(map[int]bool)
	for _, c := range group {
		i := lockOf(c.id.Study)
		ok, tried := got[i]
		if !tried {
			ok = g.a.locks[i].TryLock()
			got[i] = ok
		}
		if ok {
			locked = append(locked, c)
			continue
		}
		c.apart = true
		g.mu.Lock()
		g.apart[i] = append(g.apart[i], c)
		g.mu.Unlock()
	}
	return locked, func() {
		for i, ok := range got {
			if ok {
				g.a.locks[i].Unlock()
			}
		}
	}
}

// run commits a group. The caller has the locks of its studies.
func (g *commits) run(group []*commit) {
	err := g.together(group)
	if err != nil && len(group) > 1 && !hopeless(err) {
		// Whatever is wrong with one, a record that cannot be read say, is not
		// the others' concern. Or they are too many for one transaction.
		half := len(group) / 2
		g.run(group[:half])
		g.run(group[half:])
		return
	}
	for _, c := range group {
		c.done = true
		if c.err == nil {
			c.err = err
		}
	}
}

// hopeless says of an error that it is everybody's.
func hopeless(err error) bool {
	return errors.Is(err, cas.ErrDiskFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, badger.ErrDBClosed) || errors.Is(err, badger.ErrBlockedWrites)
}

// together is one transaction, synced before it returns. A conflict is its
// instance's own error and keeps out no other.
func (g *commits) together(group []*commit) error {
	return g.a.update(func(txn *badger.Txn) error {
		for _, c := range group {
			c.dup, c.first, c.mixed, c.err = false, false, false, nil
			err := g.a.commitIn(txn, c)
			var conflict *Conflict
			if errors.As(err, &conflict) {
				c.err = err
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// commitIn writes the records of one instance. It writes nothing before it
// knows that there is no conflict.
func (a *Archive) commitIn(txn *badger.Txn, c *commit) error {
	id, uids, rec := c.id, c.uids, c.rec
	now := a.Now().UnixMilli()
	var err error
	if c.dup, err = a.takenIn(txn, uids, [sha256.Size]byte(rec.SHA256)); err != nil {
		return err
	}
	if c.arrival {
		if err := putRecord(txn, id.key(tableArrival), now); err != nil {
			return err
		}
	}
	key := id.instanceKey(tableInstance, string(uids.Series), string(uids.Instance))
	s, err := getRecord[source](txn, id.key(tableSource))
	isNew := errors.Is(err, errNoRecord) || err == nil && s.lost()
	if err != nil && !isNew {
		return err
	}
	if c.dup {
		// It was stored again because its blocks had been lost. Compressed by a
		// later version they may have other addresses now.
		old, err := getRecord[instance](txn, key)
		if err != nil && !errors.Is(err, errNoRecord) {
			return err
		}
		if old.Manifest != rec.Manifest {
			s.Dirty = true
			if err := putRecord(txn, id.key(tableSource), s); err != nil {
				return err
			}
		}
		return putRecord(txn, key, rec)
	}
	if isNew {
		s = source{Whole: true, Attrs: pick(c.data, studyTags).Encode()}
	} else {
		said, err := dicom.Decode(s.Attrs, a.Limits)
		if err != nil {
			return err
		}
		s.Mixed = s.Mixed || !a.samePerson(said, c.data)
		if s.Mixed {
			said = a.alsoNumbered(said, c.data)
		} else {
			said = fill(said, c.data)
		}
		s.Attrs = said.Encode()
	}
	c.first, c.mixed = s.Revision == 0, s.Mixed
	s.Dirty, s.LastChange, s.Settled = true, now, false
	s.Instances++
	s.Bytes += rec.Size
	if err := putRecord(txn, id.key(tableSource), s); err != nil {
		return err
	}
	if err := putRecord(txn, key, rec); err != nil {
		return err
	}
	seriesKey := id.seriesKey(string(uids.Series))
	if known, err := hasRecord(txn, seriesKey); err != nil {
		return err
	} else if !known {
		if err := txn.Set(seriesKey, pick(c.data, seriesTags).Encode()); err != nil {
			return err
		}
	}
	sopKey := append([]byte{tableSOP}, uids.Instance...)
	if copied, err := getRecord[sop](txn, sopKey); err == nil {
		if err := a.displace(txn, copied, uids.Instance, rec.SHA256); err != nil {
			return err
		}
	} else if !errors.Is(err, errNoRecord) {
		return err
	}
	return putRecord(txn, sopKey, sop{Study: id.Study, Series: string(uids.Series), Origin: id.Origin, SHA256: rec.SHA256})
}
