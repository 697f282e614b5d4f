package index

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// A page of an earlier epoch of the own log comes while a snapshot is made: what it brings was said by this node, and is not withdrawn.
func TestSnapshotPageOfAnEarlierEpochComesLate(t *testing.T) {
	now, lost, _ := restoredPair(t)
	ctx := context.Background()
	old, err := lost.MakeSnapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	offer, root, ok, err := lost.Offer(lost.Self())
	if err != nil || !ok {
		t.Fatal(err)
	}
	v, _ := offer.Batch.Verify()
	o, err := ReadSnapshot(v)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := now.EarlierLacks(); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	store := now.Snapshots(now.Self())
	if news, err := store.Begin(o); err != nil || !news {
		t.Fatal(news, err)
	}
	if n, err := now.EarlierLacks(); err != nil || n != old.Facts {
		t.Fatalf("while the earlier snapshot comes back %d facts are said to lack (%v), want %d", n, err, old.Facts)
	}
	list, _, _ := lost.Part(lost.Self(), root, PartList, 0)
	sheet, _, _ := lost.Part(lost.Self(), root, PartSheet, 0)
	raw, ok, err := lost.Part(lost.Self(), root, PartPages, 0)
	if err != nil || !ok {
		t.Fatal(err)
	}
	refs, err := old.ReadList(list)
	if err != nil {
		t.Fatal(err)
	}
	refs, err = old.ReadSheet(refs, 0, sheet)
	if err != nil {
		t.Fatal(err)
	}
	page, err := old.ReadPage(refs[0], raw)
	if err != nil {
		t.Fatal(err)
	}
	came := false
	now.writes = func() {
		if p, ok, _ := now.Snapshots(now.Self()).Pending(); ok && p.Snapshot.Head.Epoch == 2 && !came {
			came = true
			now.write.Unlock() // between two steps of Finish
			_, err := store.TakePages([]VerifiedPage{page})
			now.write.Lock()
			if err != nil {
				t.Error(err)
			}
		}
	}
	_, err = now.MakeSnapshot(ctx)
	now.writes = nil
	if !came || !errors.Is(err, ErrEarlier) {
		t.Fatalf("the page came: %v; %v, want that the snapshot is given up", came, err)
	}
	if !shows(t, now, "1.2.3") {
		t.Error("a study that this node had said, and that came in a page while its snapshot was made, is withdrawn")
	}
}

// A snapshot that was broken off is finished, and no other said for it.
func TestFinishingASnapshotSaysNoOther(t *testing.T) {
	ctx := context.Background()
	x := openTest(t, "RAA", foundRegion("RAA"))
	for range 5 {
		say(t, x, note("x", "1"))
	}
	type killed struct{}
	func() {
		defer func() {
			if p := recover(); p != (killed{}) {
				t.Fatalf("it was not broken off: %v", p)
			}
		}()
		x.writes = func() {
			if _, ok, _ := x.begun(); ok {
				panic(killed{})
			}
		}
		_, _ = x.MakeSnapshot(ctx)
	}()
	again, err := Open(x.db, x.opt)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := again.Head(again.Self())
	for _, want := range []bool{true, false} {
		begun, err := again.FinishSnapshot(ctx)
		if after, _ := again.Head(again.Self()); err != nil || begun != want || after.Seq != before.Seq {
			t.Fatalf("%v %v, want %v; the log went from %d to %d", begun, err, want, before.Seq, after.Seq)
		}
	}
	if s, _, ok, err := again.SnapshotOf(again.Self()); err != nil || !ok || s.Head.Seq != 5 {
		t.Fatalf("finished is %+v %v", s, err)
	}
}

// A home that was put back without `restore` forks its log and then begins an epoch: it cannot know what it had said on the other branch, which
// the region shows. It makes no snapshot, for that would withdraw it.
func TestNoSnapshotAfterAForkOfOnesOwn(t *testing.T) {
	ctx := context.Background()
	r := foundRegion("RAA", "RBB")
	lost, now, peer := openTest(t, "RAA", r), openTest(t, "RAA", r), openTest(t, "RBB", r)
	lost.opt.Rand = newSeeded("other")
	study := func(uid string) Statement {
		return mustStudy(t, Study{UID: uid, Name: "Family^Given", Date: "20250101"})
	}
	say(t, lost, study("1.2.1"))
	copyLog(t, lost, now, lost.Self()) // the disk that was put back
	say(t, lost, study("1.2.2"))
	copyLog(t, lost, peer, lost.Self())
	say(t, now, study("1.2.9"))
	other, _ := lost.Head(lost.Self())
	if _, _, err := now.Heard(other); !errors.As(err, new(*ForkError)) {
		t.Fatalf("%v, want a fork", err)
	}
	if err := now.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	say(t, now, study("1.3.1"))
	copyEpochs(t, now, peer, now.Self(), 2)
	if _, err := now.MakeSnapshot(ctx); !errors.Is(err, ErrEarlierForked) {
		t.Fatalf("%v, want that none is made", err)
	}
	copyEpochs(t, now, peer, now.Self(), 2)
	for _, uid := range []string{"1.2.1", "1.2.2", "1.2.9", "1.3.1"} {
		if !shows(t, peer, uid) {
			t.Errorf("%s is not shown by a peer that knew it", uid)
		}
	}
}

// copyEpochs moves a node's log from an epoch on.
func copyEpochs(t *testing.T, from, to *Index, n NodeID, least Epoch) {
	t.Helper()
	for _, h := range from.Heads() {
		if h.Node != n || h.Epoch < least {
			continue
		}
		bs, err := from.Range(n, h.Epoch, 0, MaxAnswer)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range bs {
			v, err := x.Verify()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := to.Take([]Verified{v}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// An author takes back more facts about a study than one retraction names, and begins an epoch before a node whose log of it is forked has got
// them all. Each retraction is said again: the study goes there too.
func TestErasedOfManyFactsAfterAFork(t *testing.T) {
	ctx := context.Background()
	r := foundRegion("RAA", "RBB")
	a, b := openTest(t, "RAA", r), openTest(t, "RBB", r)
	for i := range 40 {
		say(t, a, mustStudy(t, Study{UID: "1.2.1", Name: "Erased^Given", Date: "20250101", Description: fmt.Sprint(i)}))
		if i == 31 {
			copyLog(t, a, b, a.Self())
		}
	}
	if _, err := a.Retract(ctx, KindStudy, "1.2.1"); err != nil {
		t.Fatal(err)
	}
	// a second history of epoch 1 reaches b only (a clone of the home at 20 spoke)
	clone := openTest(t, "RAA", r)
	clone.opt.Rand = newSeeded("clone")

	for after := Seq(0); after < 20; {
		bs, _ := b.Range(a.Self(), 1, after, 1)
		v, err := bs[0].Verify()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := clone.Take([]Verified{v}); err != nil {
			t.Fatal(err)
		}
		after = v.Head().Seq
	}
	say(t, clone, mustStudy(t, Study{UID: "1.2.7", Name: "X^Y"}))
	ch, _ := clone.Head(a.Self())
	for _, x := range []*Index{a, b} {
		if _, _, err := x.Heard(ch); !errors.As(err, new(*ForkError)) {
			t.Fatalf("%v, want a fork", err)
		}
	}
	if err := a.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	copyEpochs(t, a, b, a.Self(), 2)
	if shows(t, a, "1.2.1") || shows(t, b, "1.2.1") {
		t.Error("an erased study is still shown at a node that has taken the new epoch with its retractions")
	}
	// Begun anew once more, it says each of them once more and no more.
	before, _ := a.Head(a.Self())
	if err := a.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	if after, _ := a.Head(a.Self()); after.Epoch != 3 || after.Seq != before.Seq {
		t.Errorf("the third epoch has %d facts, the second had %d", after.Seq, before.Seq)
	}
}
