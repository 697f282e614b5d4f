package index

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// ErrEarlier says that this node's log has facts of an earlier epoch that still hold, and are to be said again before a snapshot: some came
// while one was made.
var ErrEarlier = errors.New("something that this node had said in an earlier epoch of its log has only come back now; it is said again before the next snapshot")

// ErrEarlierForked says that an earlier epoch of this node's log went two ways. What it said on the other is known in the region and cannot
// be had here: a snapshot would withdraw it.
var ErrEarlierForked = errors.New("an earlier epoch of this node's log is forked, as when the home was copied or put back without `restore`: a snapshot would withdraw what the region knows of its other branch, so none is made")

func (x *Index) earlierForked() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for id, st := range x.logs {
		if id.Node == x.self && id.Epoch < x.epoch && st.fork != nil {
			return true
		}
	}
	return false
}

// errNothing says that there is nothing to make a snapshot of.
var errNothing = errors.New("this node has said nothing yet in this epoch of its log")

// errOvertaken says that another snapshot of this node's log was taken up while one was made.
var errOvertaken = errors.New("another snapshot of this node's log is being finished; a newer one is made after it, if it is due")

// builtSnapshot keeps what is made of a snapshot until it can be written: a byte and a half for each fact.
type builtSnapshot struct {
	list   []byte
	sheets [][]byte
	pages  []row
	no     authorNo
}

func (b *builtSnapshot) Page(_ uint64, v VerifiedPage) error {
	b.pages = append(b.pages, row{pageKey(b.no, v.header.Epoch, v.ref), binary.BigEndian.AppendUint64(nil, v.header.Which)})
	return nil
}

func (b *builtSnapshot) Sheet(_ int, raw []byte) error { b.sheets = append(b.sheets, raw); return nil }
func (b *builtSnapshot) List(raw []byte) error         { b.list = raw; return nil }

// MakeSnapshot makes and says a snapshot of all that this node says, and takes it for the beginning of its own log. It is for the owner to
// know that the node has heard back from the region all that it ever said: what is not here then is withdrawn by it. An interruption loses
// nothing but the work.
func (x *Index) MakeSnapshot(ctx context.Context) (Snapshot, error) {
	a, ok := x.known(x.self)
	if !ok {
		return Snapshot{}, nil // nothing has been said yet
	}
	if _, err := x.FinishSnapshot(ctx); err != nil {
		return Snapshot{}, err
	}
	if x.earlierForked() {
		return Snapshot{}, ErrEarlierForked
	}
	x.write.Lock()
	late := x.late
	x.write.Unlock()
	if err := x.restateEarlier(ctx, a); err != nil {
		return Snapshot{}, err
	}
	var built *builtSnapshot
	var snap Snapshot
	err := x.View(func(txn *badger.Txn) error {
		built = &builtSnapshot{no: a.no}
		head, err := x.ownHead(txn, a)
		if err != nil {
			return err
		}
		r := x.pageReader(txn, a, head.Epoch)
		defer r.close()
		facts := func(yield func(PageFact, error) bool) {
			for f, err := range r.holding(head, 0, uint64(head.Seq-1)/PageSpan) {
				if err == nil {
					err = ctx.Err()
				}
				if !yield(f, err) {
					return
				}
			}
		}
		snap, err = BuildSnapshot(head, facts, built)
		return err
	})
	if err != nil {
		return Snapshot{}, err
	}
	write := func(rows []row) error {
		return x.Update(func(txn *badger.Txn) error {
			for _, r := range rows {
				if err := txn.Set(r.key, r.value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	rows := []row{{sheetKey(a.no, snap.Root, -1), built.list}}
	for i, raw := range built.sheets {
		rows = append(rows, row{sheetKey(a.no, snap.Root, i), raw})
	}
	for _, r := range rows {
		if err := write([]row{r}); err != nil {
			return Snapshot{}, err
		}
	}
	for some := range slices.Chunk(built.pages, MaxSheet) {
		if err := write(some); err != nil {
			return Snapshot{}, err
		}
	}
	st, err := SnapshotStatement(snap)
	if err != nil {
		return Snapshot{}, err
	}
	x.write.Lock()
	var v Verified
	if err = ErrEarlier; x.late == late {
		v, err = x.saySealed(ctx, []Statement{st})
	}
	x.write.Unlock()
	x.tell()
	if err != nil {
		return Snapshot{}, err
	}
	o, err := ReadSnapshot(v)
	if err != nil {
		return Snapshot{}, err
	}
	store := &snapshotStore{x: x, node: x.self, made: true, late: late}
	news, err := store.Begin(o)
	if err == nil && !news {
		err = errOvertaken
	}
	if err != nil {
		return Snapshot{}, err
	}
	if err = x.finish(ctx, store, o); errors.Is(err, ErrEarlier) {
		// The snapshot has been said, and others drop what it leaves out: what came late is said again after it, at once.
		err = cmp.Or(x.restateEarlier(ctx, a), err)
	}
	if err != nil {
		return Snapshot{}, err
	}
	if made, _, _, err := x.SnapshotOf(x.self); err != nil || made.Root != snap.Root || made.Head.Seq != snap.Head.Seq {
		return Snapshot{}, cmp.Or(err, errOvertaken)
	}
	return snap, nil
}

func (x *Index) finish(ctx context.Context, store SnapshotStore, o Offered) error {
	for {
		if err := x.Purge(ctx); err != nil {
			return err
		}
		if done, err := store.Finish(o); err != nil || done {
			return err
		}
	}
}

// FinishSnapshot drops the rest of what a snapshot of this node's own leaves out, if that was broken off, and says whether it was.
func (x *Index) FinishSnapshot(ctx context.Context) (begun bool, err error) {
	o, begun, err := x.begun()
	if err != nil || !begun {
		return false, err
	}
	return true, x.finish(ctx, x.Snapshots(x.self), o)
}

func (x *Index) begun() (o Offered, ok bool, err error) {
	a, known := x.known(x.self)
	if !known {
		return o, false, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		var stage byte
		o, stage, ok, err = x.offer(txn, a.no, rowPending)
		ok = ok && stage == stageDropping
		return err
	})
	return o, ok, err
}

// SnapshotOf is the newest snapshot of a node that was finished here, and when.
func (x *Index) SnapshotOf(n NodeID) (s Snapshot, at time.Time, ok bool, err error) {
	a, known := x.known(n)
	if !known {
		return s, at, false, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		var o Offered
		if o, _, ok, err = x.offer(txn, a.no, rowFinished); err != nil || !ok {
			return err
		}
		s = o.Snapshot
		v, _, err := get(txn, snapshotKey(a.no, rowWhen))
		if err == nil && len(v) == 8 {
			at = time.Unix(int64(binary.BigEndian.Uint64(v)), 0)
		}
		return err
	})
	return s, at, ok, err
}

// SnapshotCounts counts what SnapshotDue asks for. What holds is counted by reading the own log, and only when so much was said since it
// was last counted that it may matter.
func (x *Index) SnapshotCounts(ctx context.Context) (c SnapshotCounts, err error) {
	a, ok := x.known(x.self)
	if !ok {
		return c, nil
	}
	finished, _, _, err := x.SnapshotOf(x.self)
	if err != nil {
		return c, err
	}
	x.mu.RLock()
	for id, st := range x.logs {
		if id.Node == x.self {
			c.Since += uint64(st.last.head.Seq - min(st.base.Seq, st.last.head.Seq))
		}
	}
	counted := x.counted
	x.mu.RUnlock()
	c.InLog = finished.Facts + c.Since
	err = x.View(func(txn *badger.Txn) error {
		c.Withdrawn = 0
		prefix := authorKey(tabDropped, a.no)
		return scan(txn, prefix, prefix, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
			c.Withdrawn++
			return true, nil
		})
	})
	if err != nil {
		return c, err
	}
	c.Hold = c.InLog // as far as is known
	if _, due := SnapshotDue(c); due || c.Since < snapshotFewest {
		return c, nil
	}
	if c.InLog < counted.InLog+max(snapshotFewest, counted.Hold/16) && c.InLog >= counted.InLog {
		c.Hold = counted.Hold + c.InLog - counted.InLog
		return c, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		c.Hold = 0
		head, err := x.ownHead(txn, a)
		if err != nil {
			return err
		}
		r := x.pageReader(txn, a, head.Epoch)
		defer r.close()
		for _, err := range r.holding(head, 0, uint64(head.Seq-1)/PageSpan) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			c.Hold++
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	x.mu.Lock()
	x.counted = c
	x.mu.Unlock()
	return c, nil
}

// EpochBegan is when this node's log was begun anew; ok is false when it never was.
func (x *Index) EpochBegan() (at time.Time, ok bool) {
	v, ok, err := x.row(metaBegan)
	if err != nil || !ok || len(v) != 8 {
		if x.ownEpoch() > 1 {
			return x.opt.Now(), true // when is not known: it counts as now
		}
		return at, false
	}
	return time.Unix(int64(binary.BigEndian.Uint64(v)), 0), true
}

// ownHead is the head of the own log's newest epoch, as a transaction sees it.
func (x *Index) ownHead(txn *badger.Txn, a author) (Head, error) {
	v, ok, err := get(txn, epochKey(tabLog, a.no, x.ownEpoch()))
	if err != nil {
		return Head{}, err
	}
	var r logRow
	if ok && decode(factMode, "log", v, &r) != nil {
		return Head{}, errDamaged("a log")
	}
	if !ok || r.Head.Seq == 0 {
		return Head{}, errNothing
	}
	return r.Head, nil
}

// EarlierLacks is how many facts that this node said in earlier epochs of its log it has not got back, or cannot read: a snapshot would
// withdraw them. While a snapshot of an earlier epoch comes back, all of its facts are counted.
func (x *Index) EarlierLacks() (n uint64, err error) {
	a, ok := x.known(x.self)
	if !ok {
		return 0, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		o, stage, pending, err := x.offer(txn, a.no, rowPending)
		if n = 0; pending && stage == stageTaking && o.Snapshot.Head.Epoch < x.ownEpoch() {
			n = o.Snapshot.Facts
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	for id, st := range x.logs {
		if id.Node == x.self && id.Epoch < x.epoch {
			n += uint64(st.missing + st.unread)
		}
	}
	return n, nil
}

// restateEarlier says again what was said in earlier epochs and still holds: a snapshot is of one epoch.
func (x *Index) restateEarlier(ctx context.Context, a author) error {
	epoch := x.ownEpoch()
	earlier := false
	x.mu.RLock()
	for id := range x.logs {
		earlier = earlier || id.Node == x.self && id.Epoch < epoch
	}
	x.mu.RUnlock()
	if !earlier {
		return nil
	}
	return x.restate(ctx)
}
