package archive

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"

	"github.com/priormesh/priormesh/index"
)

// How many of the studies that this node has lost are looked at.
const (
	maxLost       = 100_000 // counted
	maxLostListed = 1000    // and named

	quickCount = 100 * time.Millisecond // a count that took less is always made anew
)

// Lost is a study that this node has received and told, and has nothing of, or not all
// that it had told of, since it was restored from an older backup.
type Lost struct {
	Study      string
	Here, Told int             // instances; Here 0: it comes back by itself where there are copies
	Copies     []index.TrustID // who is said to hold a copy, or one with more than is here; empty: it is to be sent here again
}

// lostNote is what of a study had been told before this node was restored.
type lostNote struct {
	Instances int `cbor:"1,keyasint"`
}

// UnmarshalCBOR reads also the notes of before, which were times: of these whole
// studies are known, and not how many instances they had.
func (n *lostNote) UnmarshalCBOR(b []byte) error {
	var at int64
	if cbor.Unmarshal(b, &at) == nil {
		*n = lostNote{}
		return nil
	}
	type plain lostNote
	return cbor.Unmarshal(b, (*plain)(n))
}

func (a *Archive) noteLost(id sourceID, st index.Study) error {
	return a.update(func(txn *badger.Txn) error { return putRecord(txn, id.key(tableLost), lostNote{st.Instances}) })
}

// lostPart says of what was received here how many instances this node had told of
// before it was restored, if it has fewer since.
func (a *Archive) lostPart(id sourceID, here source) (told int, err error) {
	if id.Origin != a.Self || here.lost() {
		return 0, nil
	}
	var n lostNote
	err = a.db.View(func(txn *badger.Txn) (err error) {
		n, err = getRecord[lostNote](txn, id.key(tableLost))
		return err
	})
	if errors.Is(err, errNoRecord) {
		return 0, nil
	}
	if err != nil || n.Instances <= here.Instances {
		return 0, err
	}
	return n.Instances, nil
}

// fuller lists the trusts that are let in and hold a copy of what was received here
// with more than is here.
func (a *Archive) fuller(id sourceID, here source) (out []index.TrustID, err error) {
	holders, err := a.Index.Holders(id.Study, id.Origin)
	roster := a.Index.Roster()
	for _, h := range holders {
		if _, in := roster.Allowed(h.Node); in && !h.Origin && h.Instances > here.Instances {
			out = addTrust(out, h.Trust)
		}
	}
	return out, err
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
	var told []int
	err = a.db.View(func(txn *badger.Txn) error {
		ids, told = nil, nil
		return eachRecord(txn, []byte{tableLost}, func(k []byte, n lostNote) error {
			if id, _, ok := parseSourceID(k); ok && len(ids) < maxLost {
				ids, told = append(ids, id), append(told, n.Instances)
			}
			return nil
		})
	})
	for i, id := range ids {
		said, err := a.Index.Study(id.Study)
		if err != nil {
			return list, all, alone, err
		}
		s, err := a.source(id)
		if err != nil && !errors.Is(err, errNoRecord) {
			return list, all, alone, err
		}
		own := slices.IndexFunc(said, func(st index.Authored[index.Study]) bool { return st.Author == id.Origin })
		if own < 0 || !s.lost() && s.Instances >= told[i] {
			if err := a.update(func(txn *badger.Txn) error { return txn.Delete(id.key(tableLost)) }); err != nil {
				return list, all, alone, err
			}
			continue
		}
		all++
		l := Lost{Study: id.Study, Here: s.Instances, Told: told[i]}
		if !s.lost() {
			if l.Copies, err = a.fuller(id, s); err != nil {
				return list, all, alone, err
			}
		} else {
			for _, h := range a.returnsFrom(id, said[own].Value.Revision) {
				trust, _ := a.Index.TrustOf(h)
				l.Copies = addTrust(l.Copies, trust)
			}
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
