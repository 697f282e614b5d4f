package archive

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// Room says what may still be written to the node's disk. Its errors wrap
// cas.ErrDiskFull.
type Room interface {
	// Store says why no images may be stored now; nil when they may.
	Store() error
	// Note says why not even records may be written now, own ones or what comes
	// from outside; nil when they may.
	Note(own bool) error
	// Free is how many bytes may still be written, and how many of them are to
	// be left free.
	Free() (free, reserve int64)
}

// SpaceOptions are about what deletion frees and which copies are kept. The
// zero value keeps every copy.
type SpaceOptions struct {
	Copies int64 // sealed bytes that copies of other trusts' studies may have; 0: as many as fit
	// SweepAfter is how long after its last writer a source is swept of what
	// nothing refers to, and how long a copy's replaced blocks stay for readers.
	SweepAfter time.Duration
	// KeepFor protects a copy that was brought, read, granted or asked for.
	KeepFor time.Duration
	// RoundEvery is how often shelves that no key opens are looked for.
	RoundEvery time.Duration
	// Shared says that other nodes have shelves in Blocks too, which this
	// node's keyring may not know.
	Shared bool
}

const (
	usedEvery   = time.Hour        // a copy's last use is written no more often
	lookEvery   = 5 * time.Second  // at quota and disk
	evictAgain  = time.Minute      // when nothing could go
	sumsFor     = 10 * time.Second // what SpaceUsed said is said again
	countOwn    = 5 * time.Second  // after the last instance of a study
	sweepRetry  = time.Minute      // a source that somebody was writing to
	damageRetry = 6 * time.Hour    // a source with a manifest that cannot be read
)

// shelved is what the catalogue keeps of a source's shelf. The record is
// written before the first block and goes after the last, so whatever is cut
// off in between is found again.
type shelved struct {
	Used   int64 `cbor:"1,keyasint"` // Unix ms: brought, read, granted or asked for; an hour late at most
	Blocks int   `cbor:"2,keyasint"` // on the shelf, when it was last counted
	Bytes  int64 `cbor:"3,keyasint"` // sealed
	Clean  bool  `cbor:"4,keyasint"` // swept since it was last written to
}

// space is the archive's housekeeper: it sweeps shelves, evicts copies, and
// knows how much there is of what.
type space struct {
	a    *Archive
	gate gate
	wake chan struct{}
	hold hold // of all that deletes blocks

	mu      sync.Mutex
	sweeps  map[sourceID]time.Time // when to sweep what
	counts  map[sourceID]time.Time // when to count what
	copies  map[sourceID]copied    // every copy of which there is a block
	damaged map[sourceID]bool      // could not be swept
	unknown map[cas.ShelfID]bool   // shelves that no key opened in the round before
	round   time.Time              // the next one
	again   time.Time              // when to look at quota and disk after nothing could go
	dropped []dropped              // what evictions have not given back yet
	over    bool                   // copies are over their quota and none may go

	sums struct {
		sync.Mutex
		at, took time.Time
		SpaceUsed
	}
}

// copied is one copy: its sealed bytes, when it was used, and when the
// catalogue says that it was.
type copied struct {
	bytes       int64
	used, saved time.Time
}

type dropped struct {
	at    time.Time
	bytes int64
}

func newSpace(a *Archive) *space {
	s := &space{
		a: a, wake: make(chan struct{}, 1), sweeps: make(map[sourceID]time.Time), counts: make(map[sourceID]time.Time),
		copies: make(map[sourceID]copied), damaged: make(map[sourceID]bool), unknown: make(map[cas.ShelfID]bool),
	}
	s.gate.of = make(map[sourceID]*entrance)
	return s
}

// recover finds the copies, and the sources that a stop left unswept.
func (s *space) recover() error {
	at := s.a.Now().Add(s.a.Space.SweepAfter)
	s.round = at
	return s.a.db.View(func(txn *badger.Txn) error {
		if err := eachRecord(txn, []byte{tableShelved}, func(k []byte, r shelved) error {
			id, _, ok := parseSourceID(k)
			if ok && !r.Clean {
				s.sweeps[id] = at
			}
			if ok && r.Blocks == 0 {
				s.counts[id] = s.a.Now()
			}
			if ok && id.Origin != s.a.Self {
				used := time.UnixMilli(r.Used)
				s.copies[id] = copied{bytes: r.Bytes, used: used, saved: used}
			}
			return nil
		}); err != nil {
			return err
		}
		return eachRecord(txn, []byte{tableSource}, func(k []byte, _ source) error {
			id, _, ok := parseSourceID(k)
			if !ok {
				return nil
			}
			has, err := hasRecord(txn, id.key(tableShelved))
			if err == nil && !has { // from before there was this record
				s.sweeps[id] = s.a.Now()
			}
			return err
		})
	})
}

// writing must be called before the first block of a source is written, and
// what it returns after the last, when the catalogue refers to them or never
// will. In between nothing is swept from the source. It refuses when the disk
// is full.
func (a *Archive) writing(ctx context.Context, id sourceID) (done func(), err error) {
	if a.Room != nil {
		if err := a.Room.Store(); err != nil {
			return nil, err
		}
	}
	return a.space.enter(ctx, id)
}

// enter is writing on a full disk too.
func (s *space) enter(ctx context.Context, id sourceID) (done func(), err error) {
	leave, err := s.gate.enter(ctx, id)
	if err != nil {
		return nil, err
	}
	if s.a.erase.under(id) {
		leave()
		return nil, errErased
	}
	// The catalogue is looked at only by the first of several: a look waits for
	// the commits of the others.
	if !s.gate.noted(id) {
		if err := s.begun(id); err != nil {
			leave()
			return nil, err
		}
		s.gate.note(id)
	}
	return func() {
		leave()
		s.written(id)
	}, nil
}

// begun notes on disk that a source has, or will have, something to be swept.
func (s *space) begun(id sourceID) error {
	noted := false
	err := s.a.db.View(func(txn *badger.Txn) error {
		noted = false
		r, err := getRecord[shelved](txn, id.key(tableShelved))
		if errors.Is(err, errNoRecord) {
			return nil
		}
		noted = err == nil && !r.Clean
		return err
	})
	if err != nil || noted {
		return err
	}
	now := s.a.Now()
	err = s.a.update(func(txn *badger.Txn) error {
		r, err := getRecord[shelved](txn, id.key(tableShelved))
		if errors.Is(err, errNoRecord) {
			r.Used = now.UnixMilli()
		} else if err != nil {
			return err
		}
		r.Clean = false
		return putRecord(txn, id.key(tableShelved), r)
	})
	if err != nil || id.Origin == s.a.Self {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.copies[id]; !ok {
		s.copies[id] = copied{used: now, saved: now}
	}
	return nil
}

// unswept says in a transaction that something of a source has lost its last
// reference.
func (a *Archive) unswept(txn *badger.Txn, id sourceID) error {
	r, err := getRecord[shelved](txn, id.key(tableShelved))
	if errors.Is(err, errNoRecord) {
		return nil
	}
	if err != nil {
		return err
	}
	a.space.sweepAt(id, a.Now().Add(a.Space.SweepAfter))
	r.Clean = false
	return putRecord(txn, id.key(tableShelved), r)
}

// written says that a writer has left a source.
func (s *space) written(id sourceID) {
	count := s.a.Now()
	if id.Origin != s.a.Self {
		s.used(id)
	} else {
		count = count.Add(countOwn)
	}
	s.mu.Lock()
	s.counts[id] = count
	s.mu.Unlock()
	s.sweepAt(id, s.a.Now().Add(s.a.Space.SweepAfter))
	s.poke()
}

// sweepAt puts a sweep off to a time.
func (s *space) sweepAt(id sourceID, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweeps[id] = at
}

func (s *space) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// used says that a copy was brought, read, granted or asked for. It costs
// nothing.
func (s *space) used(id sourceID) {
	if id.Origin == s.a.Self {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.copies[id]; ok {
		c.used = s.a.Now()
		s.copies[id] = c
	}
}

// wanted says that somebody asked for a study that is here.
func (s *space) wanted(study string) {
	sources, err := s.a.sourcesOf(study)
	if err != nil {
		return // whoever asks will hear of it
	}
	for origin := range sources {
		s.used(sourceID{study, origin})
	}
}

func (s *space) run(ctx context.Context) {
	for ctx.Err() == nil {
		t := time.NewTimer(s.pass(ctx))
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// wait is how long there is nothing to do.
func (s *space) wait() time.Duration {
	now := s.a.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	next := lookEvery
	for _, at := range s.sweeps {
		next = min(next, at.Sub(now))
	}
	return max(next, 10*time.Millisecond)
}

// pass does what is due, and says how long there is nothing to do. While it is
// held back, and while the disk is full, what is due stays so.
func (s *space) pass(ctx context.Context) time.Duration {
	now := s.a.Now()
	if s.a.Room != nil && s.a.Room.Note(true) != nil {
		return heldAgain // every write could be the last
	}
	s.save(now)
	s.count(ctx, now)
	done, ok := s.hold.begin()
	if !ok {
		return heldAgain
	}
	defer done()
	s.look(ctx, now)
	for _, id := range s.due(now) {
		if ctx.Err() != nil {
			return heldAgain
		}
		s.tend(ctx, id)
	}
	if s.a.Space.RoundEvery > 0 && !now.Before(s.round) {
		s.mu.Lock()
		s.round = now.Add(s.a.Space.RoundEvery)
		s.mu.Unlock()
		if err := s.dropUnknown(ctx); err != nil && ctx.Err() == nil {
			s.a.Log.Error("shelves that nothing can read were looked for in vain", "error", err)
		}
	}
	return s.wait()
}

func (s *space) due(now time.Time) []sourceID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []sourceID
	for id, at := range s.sweeps {
		if !at.After(now) {
			out = append(out, id)
			delete(s.sweeps, id)
		}
	}
	return out
}

// tend sweeps one source, or says when to try again.
func (s *space) tend(ctx context.Context, id sourceID) {
	again, err := s.sweep(ctx, id)
	now := s.a.Now()
	s.mu.Lock()
	was := s.damaged[id]
	delete(s.damaged, id)
	if err != nil && !errors.Is(err, errBusy) && ctx.Err() == nil {
		s.damaged[id] = true
	}
	s.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, errBusy):
		s.sweepAgain(id, now.Add(sweepRetry))
	case err != nil:
		s.a.damage.look(id)
		if !was {
			s.a.Log.Error("nothing of a study is swept, because it cannot be told what it still needs; `priormesh verify` says what is damaged", "study", short(id.Study), "error", err)
		}
		s.sweepAgain(id, now.Add(damageRetry))
	case again > 0:
		s.sweepAgain(id, now.Add(again))
	}
}

// sweepAgain is sweepAt, unless a writer has put the sweep off meanwhile.
func (s *space) sweepAgain(id sourceID, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.sweeps[id]; !ok || old.Before(at) {
		s.sweeps[id] = at
	}
}

// save writes when copies were used.
func (s *space) save(now time.Time) {
	write := make(map[sourceID]time.Time)
	s.mu.Lock()
	for id, c := range s.copies {
		if c.used.After(c.saved) && now.Sub(c.saved) >= usedEvery {
			write[id] = c.used
		}
	}
	s.mu.Unlock()
	for id, used := range write {
		err := s.a.update(func(txn *badger.Txn) error {
			r, err := getRecord[shelved](txn, id.key(tableShelved))
			if errors.Is(err, errNoRecord) {
				return nil // gone meanwhile
			}
			if err != nil {
				return err
			}
			r.Used = max(r.Used, used.UnixMilli())
			return putRecord(txn, id.key(tableShelved), r)
		})
		if err != nil {
			s.a.Log.Error("when a copy was last used could not be noted", "study", short(id.Study), "error", err)
			return
		}
		s.mu.Lock()
		if c, ok := s.copies[id]; ok {
			c.saved = used
			s.copies[id] = c
		}
		s.mu.Unlock()
	}
}

// count counts what has changed: copies at once, so that the quota is kept while
// studies come, and what was received here when no more of it comes.
func (s *space) count(ctx context.Context, now time.Time) {
	var due []sourceID
	s.mu.Lock()
	for id, at := range s.counts {
		if !at.After(now) {
			due = append(due, id)
			delete(s.counts, id)
		}
	}
	s.mu.Unlock()
	for _, id := range due {
		if s.a.sibling(id.Origin) {
			continue
		}
		key, err := s.a.Keys.Get(id.keyName())
		if errors.Is(err, cas.ErrNoKey) {
			continue
		}
		if err == nil {
			err = s.counted(ctx, id, s.a.shelf(id, key), nil)
		}
		if err != nil && ctx.Err() == nil {
			s.a.Log.Error("the space that a study takes could not be counted", "study", short(id.Study), "error", err)
		}
	}
}

// counted notes how much is on a shelf, and with clean also whether it has
// been swept.
func (s *space) counted(ctx context.Context, id sourceID, shelf cas.Shelf, clean *bool) error {
	blocks, bytes, err := shelf.Size(ctx)
	if err != nil {
		return err
	}
	gone := false
	now := s.a.Now()
	err = s.a.update(func(txn *badger.Txn) error {
		r, err := getRecord[shelved](txn, id.key(tableShelved))
		if gone = errors.Is(err, errNoRecord) && clean == nil; gone {
			return nil
		}
		if errors.Is(err, errNoRecord) {
			r.Used = now.UnixMilli()
		} else if err != nil {
			return err
		}
		r.Blocks, r.Bytes = blocks, bytes
		if clean != nil {
			r.Clean = *clean
		}
		return putRecord(txn, id.key(tableShelved), r)
	})
	if err != nil || gone || id.Origin == s.a.Self {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.copies[id]
	if !ok {
		c.used, c.saved = now, now
	}
	c.bytes = bytes
	s.copies[id] = c
	return nil
}

// foreign says whether a source is another trust's: only such a copy is ever
// evicted.
func (s *space) foreign(id sourceID) bool {
	if id.Origin == s.a.Self {
		return false
	}
	own, _ := s.a.Index.TrustOf(s.a.Self)
	trust, known := s.a.Index.TrustOf(id.Origin)
	return !known || trust != own
}

// SpaceUsed is how much there is of what.
type SpaceUsed struct {
	Originals, Copies Held
	Pinned            int   // studies that are pinned
	Quota             int64 // of copies; 0: none
	Over              bool  // the copies are over it, and none of them may go yet
	Dead              int64 // bytes on disk that nothing can be read from any more
	Unswept           int   // sources that are still to be swept
	Damaged           int   // sources that are not swept because a manifest cannot be read
}

// Held counts studies.
type Held struct {
	Studies  int
	Received int64 // bytes as received
	Stored   int64 // sealed bytes on disk, of those that have been counted
	// Uncounted is how many studies are not in Stored yet.
	Uncounted int
}

// SpaceUsed says how much there is of what. It may be a few seconds old.
func (a *Archive) SpaceUsed() (SpaceUsed, error) {
	s := a.space
	s.sums.Lock()
	defer s.sums.Unlock()
	now := a.Now()
	// Counting again costs a twentieth of the time at most.
	if fresh := max(sumsFor, 20*s.sums.took.Sub(s.sums.at)); !s.sums.at.IsZero() && now.Sub(s.sums.took) < fresh && !now.Before(s.sums.at) {
		return s.sums.SpaceUsed, nil
	}
	var out SpaceUsed
	whose := make(map[index.NodeID]bool)
	held := func(id sourceID) *Held {
		f, ok := whose[id.Origin]
		if !ok {
			f = s.foreign(id)
			whose[id.Origin] = f
		}
		if f {
			return &out.Copies
		}
		return &out.Originals
	}
	err := a.db.View(func(txn *badger.Txn) error {
		out = SpaceUsed{Quota: a.Space.Copies}
		if err := eachRecord(txn, []byte{tableSource}, func(k []byte, r source) error {
			if id, _, ok := parseSourceID(k); ok {
				h := held(id)
				h.Studies++
				h.Received += r.Bytes
			}
			return nil
		}); err != nil {
			return err
		}
		if err := eachRecord(txn, []byte{tableShelved}, func(k []byte, r shelved) error {
			if id, _, ok := parseSourceID(k); ok {
				held(id).Stored += r.Bytes
				if r.Blocks == 0 {
					held(id).Uncounted++
				}
				if !r.Clean {
					out.Unswept++
				}
			}
			return nil
		}); err != nil {
			return err
		}
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tablePin}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			out.Pinned++
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	out.Dead = dead(a.Copies)
	if a.Blocks != a.Copies {
		out.Dead += dead(a.Blocks)
	}
	s.mu.Lock()
	out.Damaged, out.Over = len(s.damaged), s.over
	s.mu.Unlock()
	s.sums.at, s.sums.took, s.sums.SpaceUsed = now, a.Now(), out
	return out, nil
}

// dead is how many bytes of a store its collector will give back, as far as
// it says.
func dead(s cas.Store) int64 {
	if d, ok := s.(interface{ Space() cas.Space }); ok {
		return d.Space().Dead
	}
	return 0
}

// Pin is a study of which no copy is evicted.
type Pin struct {
	Study  string    `cbor:"-"`
	Reason string    `cbor:"1,keyasint"`
	Since  time.Time `cbor:"2,keyasint"`
}

func pinKey(study string) []byte { return append([]byte{tablePin}, study...) }

// Pin keeps the copies of a study from being evicted, also one that comes
// later. ErrNotFound if no trust says that it has such a study.
func (a *Archive) Pin(study, reason string) (Pin, error) {
	p := Pin{Study: study, Reason: reason, Since: a.Now().UTC().Truncate(time.Second)}
	if said, err := a.Index.Study(study); err != nil {
		return p, err
	} else if len(said) == 0 {
		if here, err := a.sourcesOf(study); err != nil || len(here) == 0 {
			return p, errors.Join(err, ErrNotFound)
		}
	}
	if a.Room != nil {
		if err := a.Room.Note(false); err != nil {
			return p, err
		}
	}
	defer a.space.changed()
	return p, a.update(func(txn *badger.Txn) error {
		if a.erase.under(sourceID{Study: study}) {
			return ErrNotFound
		}
		return putRecord(txn, pinKey(study), p)
	})
}

// changed has the next SpaceUsed count again.
func (s *space) changed() {
	s.sums.Lock()
	defer s.sums.Unlock()
	s.sums.at = time.Time{}
}

// Unpin takes a pin away; was says whether there was one.
func (a *Archive) Unpin(study string) (was bool, err error) {
	defer a.space.changed()
	err = a.update(func(txn *badger.Txn) error {
		if was, err = hasRecord(txn, pinKey(study)); !was || err != nil {
			return err
		}
		return txn.Delete(pinKey(study))
	})
	return was, err
}

// Pins lists what is pinned, in the order of the UIDs.
func (a *Archive) Pins() ([]Pin, error) {
	var out []Pin
	err := a.db.View(func(txn *badger.Txn) error {
		out = []Pin{}
		return eachRecord(txn, []byte{tablePin}, func(k []byte, p Pin) error {
			p.Study = string(k[1:])
			out = append(out, p)
			return nil
		})
	})
	return out, err
}

func (a *Archive) pinned(study string) (bool, error) {
	return a.hasRecord(pinKey(study))
}
