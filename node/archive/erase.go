package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/audit"
)

// Erasing a study is the death of its keys; the rest is that nothing which
// names it stays behind. What is to be erased is written down first and done in
// steps that can each be done again, so whatever is cut off is finished at the
// next start:
//
//	keys       of all versions that are kept here
//	shelves    the sealed blocks
//	catalogue  every row of the study, and every trace of it in the files
//	index      what this node has said of it is retracted, and purged from the files
//	record     what was to be done, which names the study, gives way to what was
//	           done, which names it by a hash
//
// While a study is being erased nobody writes to it, reads it or is granted it;
// who sends it waits and then begins a new study with a new key.

// MaxReason is the most bytes of the reason for an erasure.
const MaxReason = 200

const (
	retractedWhy = "its origin has erased it"
	eraseRetry   = time.Minute           // after a step that failed
	eraseRows    = 500                   // catalogue rows changed together
	gateLook     = 10 * time.Millisecond // whether the last writer has left
	purgeRest    = 20                    // times as long as purging took, nothing is purged on others' behalf
)

// ErrErasing says that a study is being erased already.
var ErrErasing = errors.New("the study is being erased already")

// errRetracted says that a copy is to be erased before the study may come anew.
var errRetracted = errors.New("its origin has erased it, and what is kept of it here goes first")

// errErased ends what somebody was doing with a study.
var errErased = &Unavailable{Reason: "the study is being erased here; if it is to be stored again, send it again shortly", RetryAfter: 5 * time.Second}

// Rows of the table of erasures begin with one of these after the table byte.
const (
	erasureOpen  byte = 0 // SHA-256 of the study's UID: openErasure
	erasureDone  byte = 1 // SHA-256 of the study's UID: Erasure
	erasureHeard byte = 2 // author, hash of the subject: the last position (epoch, number) that has been dealt with
	erasureAnew  byte = 3 // the epoch that this node began when it was last restored from a backup
)

// openErasure is what is to be erased.
type openErasure struct {
	Study   string      `cbor:"1,keyasint"`
	Whole   bool        `cbor:"2,keyasint"` // all that is here of the study, not one copy
	Sources []condemned `cbor:"3,keyasint"`
	Erasure Erasure     `cbor:"4,keyasint"`
	Apart   bool        `cbor:"5,keyasint"` // siblings have versions of the study, which stay
}

// condemned is one version of the study.
type condemned struct {
	Origin index.NodeID `cbor:"1,keyasint"`
	Shelf  []byte       `cbor:"2,keyasint,omitempty"` // none if no key was here that says which
}

// Erasure is what an erasure has done, or is about to do.
type Erasure struct {
	When      time.Time       `cbor:"1,keyasint"`
	Reason    string          `cbor:"2,keyasint"`
	Instances int             `cbor:"3,keyasint"`
	Bytes     int64           `cbor:"4,keyasint"`
	Versions  int             `cbor:"5,keyasint"` // of the study, that were here: this node's own and copies
	Copies    []index.TrustID `cbor:"6,keyasint"` // trusts that said they hold a copy of this node's version
	Others    []index.TrustID `cbor:"7,keyasint"` // trusts that have received the study themselves: theirs stays
	Done      bool            `cbor:"8,keyasint"`
	Unclean   bool            `cbor:"9,keyasint"` // done, but for the record's own traces in the files
	Problem   string          `cbor:"-"`          // why it could not go on yet
}

func erasureKey(kind byte, study string) []byte {
	h := sha256.Sum256([]byte(study))
	return append([]byte{tableErasure, kind}, h[:]...)
}

// erasures are those under way.
type erasures struct {
	a    *Archive
	wake chan struct{}

	mu      sync.Mutex
	open    map[sourceID]*erasing // the zero Origin: the whole study
	cancels map[sourceID]map[int]context.CancelCauseFunc
	tokens  int
	heard   map[heardKey]int // retractions that have not been dealt with, and how often they were heard
	rested  time.Time        // nothing is purged for others before

	one sync.Mutex // one erasure at a time

	hold hold
}

type heardKey struct {
	author  index.NodeID
	subject string
}

// erasing is one erasure under way.
type erasing struct {
	done    chan struct{}
	problem string
	record  Erasure
}

func newErasures(a *Archive) *erasures {
	return &erasures{a: a, wake: make(chan struct{}, 1), open: make(map[sourceID]*erasing),
		cancels: make(map[sourceID]map[int]context.CancelCauseFunc), heard: make(map[heardKey]int)}
}

func (e *erasures) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// under says whether a version of a study is being erased.
func (e *erasures) under(id sourceID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.underLocked(id)
}

func (e *erasures) underLocked(id sourceID) bool {
	return e.open[id] != nil || e.open[sourceID{Study: id.Study}] != nil
}

// pending says whether the origin of a copy has retracted it and the copy has
// not been looked for yet.
func (e *erasures) pending(id sourceID) bool {
	subject := index.RetractionSubject(index.KindStudy, id.Study)
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.heard[heardKey{id.Origin, subject}]
	return ok
}

// attend gives a context that ends when an erasure of the source begins.
func (e *erasures) attend(ctx context.Context, id sourceID) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tokens++
	token := e.tokens
	if e.underLocked(id) {
		cancel(errErased)
	}
	if e.cancels[id] == nil {
		e.cancels[id] = make(map[int]context.CancelCauseFunc)
	}
	e.cancels[id][token] = cancel
	return ctx, func() {
		cancel(nil)
		e.mu.Lock()
		defer e.mu.Unlock()
		if delete(e.cancels[id], token); len(e.cancels[id]) == 0 {
			delete(e.cancels, id)
		}
	}
}

// recover finds erasures that a stop has cut off, and keeps everybody out of
// them until they are done.
func (e *erasures) recover() error {
	return e.a.db.View(func(txn *badger.Txn) error {
		return eachRecord(txn, []byte{tableErasure, erasureOpen}, func(_ []byte, r openErasure) error {
			e.begin(r)
			return nil
		})
	})
}

// prefixes are those of what is to be erased in one of the studyTables.
func (r openErasure) prefixes(table byte) (out [][]byte) {
	if r.Whole && !r.Apart { // rows of versions that are no longer here too
		return [][]byte{append(append([]byte{table}, r.Study...), 0)}
	}
	for _, c := range r.Sources {
		out = append(out, sourceID{r.Study, c.Origin}.key(table))
	}
	return out
}

func (r openErasure) scope() sourceID {
	if r.Whole {
		return sourceID{Study: r.Study}
	}
	return sourceID{r.Study, r.Sources[0].Origin}
}

// begin notes that an erasure is under way and ends what others do with the
// study.
func (e *erasures) begin(r openErasure) *erasing {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := &erasing{done: make(chan struct{}), record: r.Erasure}
	e.open[r.scope()] = x
	for id, cancels := range e.cancels {
		if e.underLocked(id) {
			for _, cancel := range cancels {
				cancel(errErased)
			}
		}
	}
	return x
}

// Erase erases all that is kept here of a study: this node's own version and
// copies of others'. It returns when that is done, or when ctx ends; then it is
// carried on, and Erased tells how far it is. If the study is being erased
// already it waits for that, and what is written down stays as it is.
// ErrNotFound if nothing is here.
func (a *Archive) Erase(ctx context.Context, study, reason string) (Erasure, error) {
	if len(reason) == 0 || len(reason) > MaxReason {
		return Erasure{}, fmt.Errorf("the reason must have 1 to %d bytes", MaxReason)
	}
	for {
		x, err := a.erase.condemn(sourceID{Study: study}, reason)
		whole := err == nil
		if errors.Is(err, ErrErasing) {
			if x, whole = a.erase.of(study); x == nil {
				continue // it has ended just now
			}
		} else if err != nil {
			return Erasure{}, err
		}
		a.erase.poke()
		select {
		case <-x.done:
		case <-ctx.Done():
			if !whole {
				return Erasure{}, ErrErasing // and the rest is not written down yet
			}
		}
		if whole {
			return a.Erased(study)
		}
	}
}

// of finds the erasure of a study that is under way: of all of it, or of one
// copy.
func (e *erasures) of(study string) (x *erasing, whole bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x = e.open[sourceID{Study: study}]; x != nil {
		return x, true
	}
	for id, x := range e.open {
		if id.Study == study {
			return x, false
		}
	}
	return nil, false
}

// Erased says how far the erasure of a study is, or what it has done.
// ErrNotFound if there was none.
func (a *Archive) Erased(study string) (Erasure, error) {
	a.erase.mu.Lock()
	if x := a.erase.open[sourceID{Study: study}]; x != nil {
		r := x.record
		r.Problem = x.problem
		a.erase.mu.Unlock()
		return r, nil
	}
	a.erase.mu.Unlock()
	var r Erasure
	err := a.db.View(func(txn *badger.Txn) (err error) {
		r, err = getRecord[Erasure](txn, erasureKey(erasureDone, study))
		return err
	})
	if errors.Is(err, errNoRecord) {
		err = ErrNotFound
	}
	r.When = r.When.UTC()
	return r, err
}

// condemn writes down what is to be erased: everything of a study, or with an
// Origin one copy.
func (e *erasures) condemn(scope sourceID, reason string) (*erasing, error) {
	a := e.a
	e.one.Lock() // nothing is half begun while another looks
	defer e.one.Unlock()
	e.mu.Lock()
	for id := range e.open {
		if id.Study == scope.Study {
			e.mu.Unlock()
			return nil, ErrErasing
		}
	}
	e.mu.Unlock()
	r := openErasure{Study: scope.Study, Whole: scope.Origin == index.NodeID{}, Erasure: Erasure{When: a.Now().UTC(), Reason: reason}}
	origins := map[index.NodeID]bool{}
	if !r.Whole {
		r.Sources = []condemned{{Origin: scope.Origin}}
	}
	if err := a.db.View(func(txn *badger.Txn) error {
		clear(origins)
		r.Erasure.Instances = 0
		if !r.Whole {
			origins[scope.Origin] = true // it may have been here
		}
		for _, table := range studyTables {
			for _, prefix := range r.prefixes(table) {
				it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
				for it.Rewind(); it.Valid(); it.Next() {
					id, _, ok := parseSourceID(it.Item().Key())
					if !ok || index.Purged(it.Item()) {
						continue
					}
					origins[id.Origin] = true
					if table == tableInstance && !a.sibling(id.Origin) {
						r.Erasure.Instances++
					}
				}
				it.Close()
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	said, err := a.Index.Study(scope.Study)
	if err != nil {
		return nil, err
	}
	told := slices.ContainsFunc(said, func(s index.Authored[index.Study]) bool { return s.Author == a.Self })
	if r.Whole && told {
		origins[a.Self] = true
	}
	for origin := range origins {
		if r.Whole && a.sibling(origin) {
			r.Apart = true
			delete(origins, origin)
		}
	}
	if len(origins) == 0 {
		if r.Apart {
			return nil, ErrSiblings
		}
		return nil, ErrNotFound
	}
	sources, err := a.sourcesOf(scope.Study)
	if err != nil {
		return nil, err
	}
	r.Sources = nil
	for origin := range origins {
		c := condemned{Origin: origin}
		key, err := a.Keys.Get(sourceID{scope.Study, origin}.keyName())
		switch {
		case err == nil:
			shelf := key.Shelf()
			c.Shelf = shelf[:]
		case !keyDamaged(err):
			return nil, err
		}
		r.Sources = append(r.Sources, c)
		r.Erasure.Bytes += sources[origin].Bytes
	}
	slices.SortFunc(r.Sources, func(x, y condemned) int { return x.Origin.Compare(y.Origin) })
	r.Erasure.Versions = len(r.Sources)
	if r.Whole {
		for _, s := range said {
			if s.Author != a.Self && !slices.Contains(r.Erasure.Others, s.Trust) {
				r.Erasure.Others = append(r.Erasure.Others, s.Trust)
			}
		}
		holders, err := a.Index.Holders(scope.Study, a.Self)
		if err != nil {
			return nil, err
		}
		for _, h := range holders {
			if h.Node != a.Self && h.Instances > 0 && !slices.Contains(r.Erasure.Copies, h.Trust) {
				r.Erasure.Copies = append(r.Erasure.Copies, h.Trust)
			}
		}
	}
	trust, _ := a.Index.TrustOf(r.Sources[0].Origin)
	event := audit.Event{Event: "study.erase", Study: short(scope.Study), Detail: reason}
	if !r.Whole {
		event = audit.Event{Event: "copy.erase", Node: scope.Origin.String(), Trust: string(trust), Study: short(scope.Study), Detail: reason}
	}
	if err := a.Audit.Append(event); err != nil {
		return nil, err
	}
	if err := a.update(func(txn *badger.Txn) error {
		return putRecord(txn, erasureKey(erasureOpen, scope.Study), r)
	}); err != nil {
		return nil, err
	}
	return e.begin(r), nil
}

// run carries out what has been condemned, and looks for copies that their
// origins have retracted, until ctx ends.
func (e *erasures) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := e.pass(ctx)
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// pass says how long there is nothing to do.
func (e *erasures) pass(ctx context.Context) time.Duration {
	done, ok := e.hold.begin()
	if !ok {
		return heldAgain
	}
	defer done()
	wait := time.Hour
	failed := func(what string, err error) {
		if ctx.Err() == nil {
			e.a.Log.Error(what+"; it is tried again", "in", eraseRetry, "error", err)
			wait = eraseRetry
		}
	}
	if err := e.conclude(ctx); err != nil {
		failed("the traces of an erasure's record could not be removed", err)
	}
	if err := e.catchUp(); err != nil {
		failed("what other trusts have erased could not be read from the index", err)
	}
	if err := e.again(ctx); err != nil {
		failed("what had been erased here before the restore could not be erased again", err)
	}
	if err := e.all(ctx); err != nil {
		failed("an erasure could not be finished", err)
	}
	if err := e.listen(ctx); err != nil {
		failed("what other trusts have erased could not be looked for here", err)
	}
	// What others erase is purged too, but they must not be able to keep this
	// node purging.
	now := e.a.Now()
	if e.rested.After(now) {
		return min(wait, e.rested.Sub(now))
	}
	if err := e.a.Index.Purge(ctx); err != nil {
		failed("what was retracted could not be removed from the index's files", err)
	}
	e.rested = e.a.Now().Add(purgeRest * e.a.Now().Sub(now))
	return wait
}

// all carries out every erasure that is written down.
func (e *erasures) all(ctx context.Context) error {
	var list []openErasure
	if err := e.a.db.View(func(txn *badger.Txn) error {
		list = nil
		return eachRecord(txn, []byte{tableErasure, erasureOpen}, func(_ []byte, r openErasure) error {
			list = append(list, r)
			return nil
		})
	}); err != nil {
		return err
	}
	var errs []error
	for _, r := range list {
		e.mu.Lock()
		x := e.open[r.scope()]
		e.mu.Unlock()
		if x == nil {
			continue // being written down
		}
		var gates []func()
		err := e.carryOut(ctx, r, &gates)
		e.ended(r.scope(), x, err)
		for _, open := range gates { // who waited begins anew
			open()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("study %s: %w", short(r.Study), err))
			continue
		}
		e.a.Log.Info("a study was erased", "study", short(r.Study), "versions", r.Erasure.Versions, "instances", r.Erasure.Instances, "why", r.Erasure.Reason)
	}
	return errors.Join(errs...)
}

// ended notes that an erasure is done, or why it is not.
func (e *erasures) ended(scope sourceID, x *erasing, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		x.problem = err.Error()
		return
	}
	delete(e.open, scope)
	close(x.done)
	e.a.news.tell(scope.Study)
}

// step is a place where tests may stop an erasure.
func (e *erasures) step(name string) error {
	if e.a.eraseFault == nil {
		return nil
	}
	return e.a.eraseFault(name)
}

// carryOut does all the steps. The gates of the sources are shut when it
// returns.
func (e *erasures) carryOut(ctx context.Context, r openErasure, gates *[]func()) error {
	a := e.a
	for _, c := range r.Sources {
		open, err := a.space.gate.clear(ctx, sourceID{r.Study, c.Origin})
		if err != nil {
			return err
		}
		*gates = append(*gates, open)
	}
	// Who published looked before this erasure began; from here on nobody does.
	l := a.lock(r.Study)
	l.Lock()
	//lint:ignore SA2001 it is a barrier
	l.Unlock()
	if r.Whole {
		a.pub.forget(r.Study)
	}
	for _, c := range r.Sources {
		a.grants.withdraw(sourceID{r.Study, c.Origin})
	}
	if err := e.step("keys"); err != nil {
		return err
	}
	for _, c := range r.Sources {
		if a.sibling(c.Origin) {
			continue // its own node does, and may have begun anew under the same name
		}
		if err := a.Keys.Delete(sourceID{r.Study, c.Origin}.keyName()); err != nil {
			return err
		}
	}
	if err := e.step("shelves"); err != nil {
		return err
	}
	for _, c := range r.Sources {
		if len(c.Shelf) != len(cas.ShelfID{}) || a.sibling(c.Origin) {
			continue // the next round drops what no key opens
		}
		if err := a.store(c.Origin).Drop(ctx, cas.ShelfID(c.Shelf)); err != nil {
			return err
		}
	}
	if err := e.step("catalogue"); err != nil {
		return err
	}
	if err := e.uncatalogue(ctx, r); err != nil {
		return err
	}
	if err := e.step("index"); err != nil {
		return err
	}
	if err := e.retract(ctx, r); err != nil {
		return err
	}
	if err := e.step("purge"); err != nil {
		return err
	}
	if err := a.Index.Purge(ctx); err != nil {
		return err
	}
	if err := e.step("record"); err != nil {
		return err
	}
	return e.finish(ctx, r)
}

// studyTables are those whose rows begin with study and origin.
var studyTables = []byte{tableInstance, tableSource, tableSeries, tableConflict, tableArrival, tableDamage, tableShelved, tableLost, tableUnlooked}

// uncatalogue removes every row that names the study, and their former
// versions with them.
func (e *erasures) uncatalogue(ctx context.Context, r openErasure) error {
	a := e.a
	var keys, prefixes [][]byte
	for _, c := range r.Sources {
		id := sourceID{r.Study, c.Origin}
		// The source first: from then on nobody finds that it is here.
		if err := a.update(func(txn *badger.Txn) error { return txn.Delete(id.key(tableSource)) }); err != nil {
			return err
		}
	}
	left, err := a.sourcesOf(r.Study)
	if err != nil {
		return err
	}
	for _, prefix := range r.prefixes(tableInstance) {
		free, unhidden, err := e.releaseUIDs(prefix, left)
		for _, study := range unhidden {
			a.bringAgain(study)
		}
		if err != nil {
			return err
		}
		keys = append(keys, free...)
	}
	said, err := a.Index.Study(r.Study)
	if err != nil {
		return err
	}
	if r.Whole || len(left) == 0 && len(said) == 0 {
		keys = append(keys, pinKey(r.Study), taskKey(r.Study))
		a.queue.forget(r.Study)
	}
	// The SOP Instance UIDs before the rows that tell which they are.
	if err := a.Index.Drop(ctx, keys, nil); err != nil {
		return err
	}
	if err := e.step("rows"); err != nil {
		return err
	}
	for _, table := range studyTables {
		prefixes = append(prefixes, r.prefixes(table)...)
	}
	if err := a.Index.Drop(ctx, nil, prefixes); err != nil {
		return err
	}
	for _, c := range r.Sources {
		id := sourceID{r.Study, c.Origin}
		a.space.gone(id)
		a.damage.gone(id)
		a.grants.withdraw(id)
	}
	return nil
}

// releaseUIDs gives up the SOP Instance UIDs that were taken by instances of a
// prefix, also of those that are no longer here. It returns what
// Archive.releaseUIDs does.
func (e *erasures) releaseUIDs(prefix []byte, others map[index.NodeID]source) (free [][]byte, unhidden []string, err error) {
	a := e.a
	var rows [][]byte
	if err := a.db.View(func(txn *badger.Txn) error {
		rows = nil
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, AllVersions: true})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if k := it.Item().Key(); len(rows) == 0 || !bytes.Equal(rows[len(rows)-1], k) {
				rows = append(rows, bytes.Clone(k))
			}
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	for part := range slices.Chunk(rows, eraseRows) {
		var gone [][]byte
		var shown []string
		if err := a.update(func(txn *badger.Txn) (err error) {
			gone, shown, err = a.releaseUIDs(txn, part, others)
			return err
		}); err != nil {
			return nil, unhidden, err
		}
		free, unhidden = append(free, gone...), append(unhidden, shown...)
	}
	return free, unhidden, nil
}

// retract takes back what this node has told of the study: that it has it, and
// of copies that they are, or were, here.
func (e *erasures) retract(ctx context.Context, r openErasure) error {
	x := e.a.Index
	of := r.Study + "@"
	if !r.Whole {
		of += r.Sources[0].Origin.String()
	} else if _, err := x.Retract(ctx, index.KindStudy, r.Study); err != nil {
		return err
	}
	copies, err := x.Said(index.KindHolding, of)
	if err != nil {
		return err
	}
	for _, subject := range copies {
		if _, err := x.Retract(ctx, index.KindHolding, subject); err != nil {
			return err
		}
	}
	return nil
}

// finish replaces the record of what is to be done by that of what was done.
func (e *erasures) finish(ctx context.Context, r openErasure) error {
	a := e.a
	done := r.Erasure
	done.Done, done.Unclean = true, true
	event := audit.Event{Event: "study.erased", Study: short(r.Study), Detail: fmt.Sprintf("%d versions, %d instances", done.Versions, done.Instances)}
	if !r.Whole {
		trust, _ := a.Index.TrustOf(r.Sources[0].Origin)
		event.Event, event.Node, event.Trust = "copy.erased", r.Sources[0].Origin.String(), string(trust)
	}
	if err := a.Audit.Append(event); err != nil {
		return err
	}
	own, err := a.OwnRetractions()
	if err != nil {
		return err
	}
	subject := index.RetractionSubject(index.KindStudy, r.Study)
	if err := a.update(func(txn *badger.Txn) error {
		if err := putRecord(txn, erasureKey(erasureDone, r.Study), done); err != nil {
			return err
		}
		// What comes of the study from now on is not what was retracted.
		if through, ok := own[subject]; ok && r.Whole {
			if err := putRecord(txn, heardRow(heardKey{a.Self, subject}), through); err != nil {
				return err
			}
		}
		return txn.Delete(erasureKey(erasureOpen, r.Study))
	}); err != nil {
		return err
	}
	return e.clean(ctx)
}

// conclude ends erasures of which only traces of the record are left.
func (e *erasures) conclude(ctx context.Context) error {
	if err := e.clean(ctx); err != nil {
		return err
	}
	e.one.Lock()
	defer e.one.Unlock()
	e.mu.Lock()
	open := maps.Clone(e.open)
	e.mu.Unlock()
	for scope, x := range open {
		err := e.a.db.View(func(txn *badger.Txn) error {
			_, err := getRecord[openErasure](txn, erasureKey(erasureOpen, scope.Study))
			return err
		})
		if errors.Is(err, errNoRecord) {
			e.ended(scope, x, nil)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// clean removes what the files still have of the records of finished erasures.
func (e *erasures) clean(ctx context.Context) error {
	a := e.a
	if err := e.step("clean"); err != nil {
		return err
	}
	var keys, rows [][]byte
	if err := a.db.View(func(txn *badger.Txn) error {
		keys, rows = nil, nil
		return eachRecord(txn, []byte{tableErasure, erasureDone}, func(k []byte, r Erasure) error {
			if r.Unclean {
				rows = append(rows, bytes.Clone(k))
				open := bytes.Clone(k)
				open[1] = erasureOpen
				keys = append(keys, open)
			}
			return nil
		})
	}); err != nil || len(keys) == 0 {
		return err
	}
	// One that is under way again under the same hash keeps its record.
	if err := a.db.View(func(txn *badger.Txn) error {
		for i := len(keys) - 1; i >= 0; i-- {
			if _, err := getRecord[openErasure](txn, keys[i]); err == nil {
				keys, rows = slices.Delete(keys, i, i+1), slices.Delete(rows, i, i+1)
			} else if !errors.Is(err, errNoRecord) {
				return err
			}
		}
		return nil
	}); err != nil || len(keys) == 0 {
		return err
	}
	if err := a.Index.Drop(ctx, keys, nil); err != nil {
		return err
	}
	return a.update(func(txn *badger.Txn) error {
		for _, k := range rows {
			r, err := getRecord[Erasure](txn, k)
			if err != nil {
				return err
			}
			r.Unclean = false
			if err := putRecord(txn, k, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Retracted is told of a retraction that the index has heard: a copy of what it
// is about is erased here too, and of this node's own what it has forgotten that
// it erased. It does not block.
func (a *Archive) Retracted(author index.NodeID, subject string) {
	if author != a.Self {
		a.erase.mu.Lock()
		a.erase.heard[heardKey{author, subject}]++
		a.erase.mu.Unlock()
	}
	a.erase.poke()
}

// CatchUp has the archive look for retractions that the index heard while nobody
// told of them.
func (a *Archive) CatchUp() { a.erase.poke() }

func heardRow(k heardKey) []byte {
	return append(append([]byte{tableErasure, erasureHeard}, k.author[:]...), k.subject...)
}

// catchUp finds the retractions that the index has heard and that have not been
// dealt with.
func (e *erasures) catchUp() error {
	all, err := e.a.Index.Retractions()
	if err != nil {
		return err
	}
	var open []heardKey
	if err := e.a.db.View(func(txn *badger.Txn) error {
		open = nil
		for _, r := range all {
			k := heardKey{r.Author, r.Subject}
			at, err := getRecord[index.Position](txn, heardRow(k))
			if err != nil && !errors.Is(err, errNoRecord) {
				return err
			}
			if r.Author != e.a.Self && at != r.Through {
				open = append(open, k)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, k := range open {
		e.heard[k]++
	}
	return nil
}

// listen looks for copies of what their origins have retracted, and erases
// them.
func (e *erasures) listen(ctx context.Context) error {
	a := e.a
	e.mu.Lock()
	heard := maps.Clone(e.heard)
	e.mu.Unlock()
	if len(heard) == 0 {
		return nil
	}
	said, err := a.Index.Retractions()
	if err != nil {
		return err
	}
	found, err := e.retractedCopies(heard)
	if err != nil {
		return err
	}
	for _, id := range found {
		_, err := e.condemn(id, retractedWhy)
		if errors.Is(err, ErrErasing) { // another version of the study
			if err := e.all(ctx); err != nil {
				return err
			}
			_, err = e.condemn(id, retractedWhy)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	if err := e.all(ctx); err != nil {
		return err
	}
	for _, r := range said {
		k := heardKey{r.Author, r.Subject}
		if heard[k] == 0 {
			continue
		}
		if err := a.update(func(txn *badger.Txn) error { return putRecord(txn, heardRow(k), r.Through) }); err != nil {
			return err
		}
		e.mu.Lock()
		if e.heard[k] == heard[k] {
			delete(e.heard, k)
		}
		e.mu.Unlock()
	}
	for _, id := range found {
		a.queue.due(id.Study) // what its origin has received anew may come
	}
	return nil
}

// retractedCopies lists what is kept here of studies that their origins have
// retracted, and what this node has told that it kept.
func (e *erasures) retractedCopies(heard map[heardKey]int) (found []sourceID, err error) {
	by := make(map[index.NodeID]bool)
	for k := range heard {
		by[k.author] = true
	}
	told, err := e.a.Index.Said(index.KindHolding, "")
	if err != nil {
		return nil, err
	}
	seen := make(map[sourceID]bool)
	consider := func(id sourceID) {
		if by[id.Origin] && !seen[id] && heard[heardKey{id.Origin, index.RetractionSubject(index.KindStudy, id.Study)}] > 0 {
			seen[id] = true
			found = append(found, id)
		}
	}
	for _, subject := range told {
		study, origin, _ := strings.Cut(subject, "@")
		if node, err := index.ParseNodeID(origin); err == nil {
			consider(sourceID{study, node})
		}
	}
	err = e.a.db.View(func(txn *badger.Txn) error {
		for _, table := range []byte{tableSource, tableShelved} { // one of them has every copy
			it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{table}})
			for it.Rewind(); it.Valid(); it.Next() {
				if id, _, ok := parseSourceID(it.Item().Key()); ok && !index.Purged(it.Item()) {
					consider(id)
				}
			}
			it.Close()
		}
		return nil
	})
	return found, err
}
