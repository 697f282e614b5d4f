package archive

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// What a restored node had erased after the backup, and hears of only when it
// has begun anew, is erased again, even if it stops before it has done so; and
// nothing that was received since.
func TestLateRetractionsAreDoneAgain(t *testing.T) {
	ctx := context.Background()
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	old := newHouse(t, t.TempDir(), "RAA", clock, "RAA")
	const early = "1.2.7335" // erased, and received anew, before the backup
	for _, study := range []string{doomedStudy, otherStudy, early} {
		if err := old.take(image(study, 1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	old.publishAll()
	old.erases(early)
	if err := old.take(image(early, 1, 1)); err != nil {
		t.Fatal(err)
	}
	old.publishAll()

	// The same node, restored. What it has of the studies comes by this door here.
	h := newHouse(t, t.TempDir(), "RAA", clock, "RAA")
	h.hear(old)
	known, err := h.OwnRetractions()
	if err != nil || len(known) != 1 {
		t.Fatal(known, err)
	}
	if err := h.Index.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	for _, study := range []string{doomedStudy, otherStudy, early} {
		if err := h.take(image(study, 1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	h.publishAll()
	if r, err := h.Restored(ctx, RestoredOptions{Known: known, Copies: true}); err != nil || r.Erased != 0 {
		t.Fatal(r, err)
	}
	gives := func(studies ...string) {
		t.Helper()
		for range 2 {
			h.Archive = h.open() // what is only in memory is lost
			for range 2 {
				h.erase.pass(ctx)
			}
		}
		for _, study := range studies {
			if err := h.gives(h.id(study), image(study, 1, 1)); err != nil {
				t.Fatalf("%s is lost: %v", study, err)
			}
		}
	}
	gives(doomedStudy, otherStudy, early)

	old.erases(doomedStudy)
	h.hear(old)
	gives(otherStudy, early)
	if _, err := h.source(h.id(doomedStudy)); !errors.Is(err, errNoRecord) {
		t.Fatalf("what had been erased is still here: %v", err)
	}
	if e, err := h.Erased(doomedStudy); err != nil || !e.Done || e.Reason != erasedAgain {
		t.Fatalf("%+v %v", e, err)
	}
	// Received anew it stays, and so does what is erased and received anew here.
	h.erases(otherStudy)
	for _, study := range []string{doomedStudy, otherStudy} {
		if err := h.take(image(study, 1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	h.publishAll()
	gives(doomedStudy, otherStudy, early)
}

// A study whose row in the index cannot be read is not one that nobody knows.
func TestWhatCannotBeReadIsNotUnknown(t *testing.T) {
	h := newHouse(t, t.TempDir(), "RAA", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RAA")
	if err := h.take(image(doomedStudy, 1, 1)); err != nil {
		t.Fatal(err)
	}
	h.publishAll()
	if err := h.DB.Update(func(txn *badger.Txn) error { // the index's rows of studies
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{0x09}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := txn.Set(it.Item().KeyCopy(nil), []byte("damage")); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Index.Study(doomedStudy); err == nil {
		t.Fatal("the index is not damaged")
	}
	if _, err := h.Here(doomedStudy); err == nil {
		t.Error("it is said not to be here")
	}
	if err := h.Enqueue(doomedStudy, Prior, "a prior", ""); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a prior that cannot be looked up is passed over: %v", err)
	}
}

// What was learned before the new epoch, and what comes while the rest is done,
// is erased again before anything is given.
func TestRestoredErasesWhatItLearned(t *testing.T) {
	ctx := context.Background()
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	old := newHouse(t, t.TempDir(), "RAA", clock, "RAA")
	for _, study := range []string{doomedStudy, otherStudy} {
		if err := old.take(image(study, 1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	old.publishAll()
	h := newHouse(t, t.TempDir(), "RAA", clock, "RAA")
	h.hear(old)
	if err := h.Index.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	for _, study := range []string{doomedStudy, otherStudy} {
		if err := h.take(image(study, 1, 1)); err != nil {
			t.Fatal(err)
		}
	}
	h.publishAll()
	old.erases(doomedStudy)
	h.hear(old)
	for _, want := range []int{1, 0} { // a stop may have it done twice
		r, err := h.Restored(ctx, RestoredOptions{Copies: true})
		if err != nil || r.Erased != want {
			t.Fatalf("%+v %v, want %d erased", r, err, want)
		}
	}
	if _, err := h.source(h.id(doomedStudy)); !errors.Is(err, errNoRecord) {
		t.Fatalf("what had been erased is still here: %v", err)
	}
	if err := h.gives(h.id(otherStudy), image(otherStudy, 1, 1)); err != nil {
		t.Fatal(err)
	}
}

// A study of which this node's own word came late, from before the restore, may
// be erased and received anew.
func TestErasingALateWordTakesNothingAfterIt(t *testing.T) {
	ctx := context.Background()
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	old := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	other := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	h := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	if err := old.take(image(otherStudy, 1, 1)); err != nil {
		t.Fatal(err)
	}
	old.publishAll()
	h.hear(old)
	if err := h.Index.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Restored(ctx, RestoredOptions{Copies: true}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*house{old, other} {
		if err := x.take(image(doomedStudy, 1, 1)); err != nil {
			t.Fatal(err)
		}
		x.publishAll()
	}
	h.bringFrom(other, doomedStudy)
	h.hear(old)
	h.erases(doomedStudy)
	if err := h.take(image(doomedStudy, 1, 1)); err != nil {
		t.Fatal(err)
	}
	h.erase.pass(ctx)
	if err := h.gives(h.id(doomedStudy), image(doomedStudy, 1, 1)); err != nil {
		t.Fatalf("what was received after the erasure is lost: %v", err)
	}
}
