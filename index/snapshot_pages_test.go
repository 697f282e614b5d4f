package index

import (
	"context"
	"fmt"
	"testing"
)

// Page of retractions, each of as many positions as one may name, held by a node with pages alone.
func TestSnapshotOfManyRetractions(t *testing.T) {
	ctx := context.Background()
	r := foundRegion("RAA", "RBB")
	author := openTest(t, "RAA", r)
	for s := range 64 {
		uid := fmt.Sprintf("1.2.%d", s)
		var st []Statement
		for i := range MaxRetracted {
			st = append(st, mustStudy(t, Study{UID: uid, Name: "F^G", Date: "20250101", Description: fmt.Sprint(i)}))
			if len(st) == MaxFacts {
				say(t, author, st...)
				st = nil
			}
		}
		if len(st) > 0 {
			say(t, author, st...)
		}
	}
	for s := range 64 {
		if _, err := author.Retract(ctx, KindStudy, fmt.Sprintf("1.2.%d", s)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := author.MakeSnapshot(ctx); err != nil {
		t.Fatal(err)
	}
	fresh := openTest(t, "RBB", r)
	bringSnapshot(t, fresh, author.Self(), map[NodeID]*Index{author.Self(): author})
	if got, want := tables(t, fresh), tables(t, author); got != want {
		t.Errorf("it answers\n%s\nwant\n%s", got, want)
	}
	got, err := fresh.Retractions()
	if err != nil || len(got) != 64 {
		t.Errorf("%d retractions came in pages, want 64; %v", len(got), err)
	}
}

// Two snapshots in a row, the second with the same pages, taken up by one store that had begun the first.
func TestSnapshotsOfTheSamePages(t *testing.T) {
	ctx := context.Background()
	r := foundRegion("RAA", "RBB")
	author := openTest(t, "RAA", r)
	for i := range 200 {
		say(t, author, note(fmt.Sprint("n", i%20), fmt.Sprint(i)))
	}
	other := openTest(t, "RBB", r)
	copyLog(t, author, other, author.Self())
	store := other.Snapshots(author.Self())
	take := func() Offered {
		offer, root, _, err := author.Offer(author.Self())
		if err != nil {
			t.Fatal(err)
		}
		v, _ := offer.Batch.Verify()
		o, _ := ReadSnapshot(v)
		if news, err := store.Begin(o); err != nil || !news {
			t.Fatal(news, err)
		}
		list, _, _ := author.Part(author.Self(), root, PartList, 0)
		if err := store.TakeSheet(-1, list); err != nil {
			t.Fatal(err)
		}
		sheet, _, _ := author.Part(author.Self(), root, PartSheet, 0)
		if err := store.TakeSheet(0, sheet); err != nil {
			t.Fatal(err)
		}
		refs, _ := o.Snapshot.ReadList(list)
		refs, _ = o.Snapshot.ReadSheet(refs, 0, sheet)
		if _, err := store.Have(refs); err != nil {
			t.Fatal(err)
		}
		for {
			done, err := store.Finish(o)
			if err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
			if err := other.Purge(ctx); err != nil {
				t.Fatal(err)
			}
		}
		return o
	}
	s1, err := author.MakeSnapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	take()
	copyLog(t, author, other, author.Self())
	s2, err := author.MakeSnapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s1.Root != s2.Root {
		t.Fatal("what holds is the same, and the two snapshots have different roots")
	}
	take()
	a, _ := other.known(author.Self())
	n := 0
	err = other.View(func(txn *badgerTxn) error {
		n = 0
		p := authorKey(tabRun, a.no)
		return scan(txn, p, p, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
			if keyPosition(k).compare(other.base(author.Self())) <= 0 {
				n++
			}
			return true, nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if n > 0 {
		t.Errorf("%d batches are left below the beginning of the log", n)
	}
}
