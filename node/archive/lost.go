package archive

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/index"
)

// How many of the studies that this node has lost are looked at.
const (
	maxLost       = 100_000 // counted
	maxLostListed = 1000    // and named

	quickCount = 100 * time.Millisecond // a count that took less is always made anew
)

// Lost is a study that this node has received and told, and has nothing of since it
// was restored from an older backup.
type Lost struct {
	Study  string
	Copies []index.TrustID // who is said to hold a copy; empty: it is to be sent here again
}

// lostStudies is what was counted last.
type lostStudies struct {
	mu         sync.Mutex
	at, took   time.Time // when counting began and ended
	list       []Lost
	all, alone int
}

// LostStudies lists up to most of those, in the order of their UIDs; alone is how
// many of them nobody is known to hold. Where counting is long it costs a twentieth
// of the time at most: until then the list is the one of the last count.
func (a *Archive) LostStudies(most int) (list []Lost, all, alone int, err error) {
	l := &a.lostStudies
	l.mu.Lock()
	defer l.mu.Unlock()
	now, cost := a.Now(), l.took.Sub(l.at)
	if cost < quickCount || now.Sub(l.took) >= 20*cost || now.Before(l.at) {
		list, all, alone, err := a.countLost()
		if err != nil {
			return nil, 0, 0, err
		}
		l.at, l.took, l.list, l.all, l.alone = now, a.Now(), list, all, alone
	}
	return slices.Clone(l.list[:min(len(l.list), most)]), l.all, l.alone, nil
}

// countLost counts those that were noted when the home was restored. Those that have
// come back since are noted no more.
func (a *Archive) countLost() (list []Lost, all, alone int, err error) {
	var ids []sourceID
	err = a.db.View(func(txn *badger.Txn) error {
		ids = nil
		return eachRecord(txn, []byte{tableLost}, func(k []byte, _ int64) error {
			if id, _, ok := parseSourceID(k); ok && len(ids) < maxLost {
				ids = append(ids, id)
			}
			return nil
		})
	})
	for _, id := range ids {
		said, err := a.Index.Study(id.Study)
		if err != nil {
			return list, all, alone, err
		}
		s, err := a.source(id)
		if err != nil && !errors.Is(err, errNoRecord) {
			return list, all, alone, err
		}
		own := slices.IndexFunc(said, func(st index.Authored[index.Study]) bool { return st.Author == id.Origin })
		if own < 0 || !s.lost() {
			if err := a.update(func(txn *badger.Txn) error { return txn.Delete(id.key(tableLost)) }); err != nil {
				return list, all, alone, err
			}
			continue
		}
		all++
		l := Lost{Study: id.Study}
		for _, h := range a.returnsFrom(id, said[own].Value.Revision) {
			trust, _ := a.Index.TrustOf(h)
			l.Copies = addTrust(l.Copies, trust)
		}
		if len(l.Copies) == 0 {
			alone++
		}
		if len(list) < maxLostListed {
			list = append(list, l)
		}
	}
	return list, all, alone, err
}
