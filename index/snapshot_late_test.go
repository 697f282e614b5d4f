package index

import (
	"context"
	"errors"
	"testing"
)

// restoredPair gives a node that was restored from an early backup, and its lost self that has said more in epoch 1.
func restoredPair(t *testing.T) (now, lost *Index, batches []Verified) {
	ctx := context.Background()
	r := foundRegion("RAA", "RBB")
	now, lost = openTest(t, "RAA", r), openTest(t, "RAA", r)
	lost.opt.Rand = newSeeded("other")
	for i, uid := range []string{"1.2.1", "1.2.2", "1.2.3"} {
		say(t, lost, mustStudy(t, Study{UID: uid, Name: "Family^Given", Date: "20250101", Description: string(rune('a' + i))}))
	}
	bs, err := lost.Range(lost.Self(), 1, 0, MaxAnswer)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bs {
		v, err := b.Verify()
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, v)
	}
	if _, err := now.Take(batches[:1]); err != nil { // the backup
		t.Fatal(err)
	}
	if err := now.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	return now, lost, batches
}

func shows(t *testing.T, x *Index, uid string) bool {
	t.Helper()
	a, err := x.Studies(bg, Query{StudyUIDs: []string{uid}})
	if err != nil {
		t.Fatal(err)
	}
	return len(a.Studies) == 1
}

// The node is killed after its snapshot was said and before it is the beginning of its log; then the rest of the earlier epoch comes back.
// Sync leaves the pending snapshot to who makes the next.
func TestSnapshotLateAfterRestart(t *testing.T) {
	now, _, batches := restoredPair(t)
	type killed struct{}
	died := false
	func() {
		defer func() {
			p := recover()
			if _, died = p.(killed); p != nil && !died {
				panic(p)
			}
		}()
		now.writes = func() {
			if o, ok, _ := now.Snapshots(now.Self()).Pending(); ok && o.Snapshot.Head.Seq > 0 {
				panic(killed{})
			}
		}
		_, _ = now.MakeSnapshot(context.Background())
	}()
	if !died {
		t.Fatal("it was not killed: the test proves nothing")
	}
	again, err := Open(now.db, now.opt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Take(batches[1:]); err != nil {
		t.Fatal(err)
	}
	if !shows(t, again, "1.2.3") {
		t.Fatal("it never came")
	}
	m := newMates(t, again, openTest(t, "RBB", foundRegion("RAA", "RBB")))
	m.run(20)
	if !shows(t, again, "1.2.3") {
		t.Error("a study that holds is gone at its author: its pending snapshot was finished without what came late")
	}
	if _, begun, _ := again.begun(); begun {
		t.Error("still begun")
	}
}

// What fills a hole of an earlier epoch of the own log while a snapshot is made is late too: it is not withdrawn.
func TestSnapshotFilledLate(t *testing.T) {
	now, _, batches := restoredPair(t)
	holed := batches[2].Batch()
	holed.Payloads = []Payload{{}}
	v, err := holed.Verify()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := now.Take([]Verified{batches[1], v}); err != nil {
		t.Fatal(err)
	}
	filled := false
	now.writes = func() {
		if filled {
			return
		}
		if _, ok, _ := now.Snapshots(now.Self()).Pending(); ok {
			filled = true
			now.write.Unlock() // between two steps of Finish
			_, err := now.Take(batches[2:])
			now.write.Lock()
			if err != nil {
				t.Error(err)
			}
		}
	}
	_, err = now.MakeSnapshot(context.Background())
	if !filled || err != nil && !errors.Is(err, ErrEarlier) {
		t.Fatalf("filled meanwhile: %v; the snapshot: %v", filled, err)
	}
	if !shows(t, now, "1.2.3") {
		t.Error("a study whose payload was missing in an earlier epoch of the own log is withdrawn by the snapshot")
	}
}

// A node knows what it lacks of what it had said in earlier epochs.
func TestEarlierEpochsLack(t *testing.T) {
	now, _, batches := restoredPair(t)
	holed := batches[2].Batch()
	holed.Payloads = []Payload{{}}
	v, err := holed.Verify()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := now.Take([]Verified{batches[1], v}); err != nil {
		t.Fatal(err)
	}
	if n, err := now.EarlierLacks(); n != 1 || err != nil {
		t.Errorf("%d facts of earlier epochs are known to be lacking", n)
	}
	if _, err := now.Take(batches[2:]); err != nil {
		t.Fatal(err)
	}
	if n, err := now.EarlierLacks(); n != 0 || err != nil {
		t.Errorf("%d facts of earlier epochs are lacking still", n)
	}
	if _, err = now.MakeSnapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !shows(t, now, "1.2.3") {
		t.Error("a study that came back before the snapshot is withdrawn by it")
	}
}

// A snapshot that is given up because something came late has been said: peers that have the log take it up and drop what it leaves out.
// What came late is said again after it, so that it is shown there.
func TestSnapshotGivenUpIsSaidAgain(t *testing.T) {
	now, _, batches := restoredPair(t)
	r := foundRegion("RAA", "RBB")
	other := openTest(t, "RBB", r)
	came := false
	now.writes = func() {
		if _, ok, _ := now.Snapshots(now.Self()).Pending(); ok && !came {
			came = true
			now.write.Unlock() // as between two steps of Finish
			_, err := now.Take(batches[1:])
			now.write.Lock()
			if err != nil {
				t.Error(err)
			}
		}
	}
	_, err := now.MakeSnapshot(context.Background())
	now.writes = nil
	if !came || !errors.Is(err, ErrEarlier) {
		t.Fatalf("came meanwhile: %v; the snapshot: %v", came, err)
	}
	m := newMates(t, now, other)
	m.run(30)
	for _, x := range []*Index{now, other} {
		if !shows(t, x, "1.2.3") {
			t.Error("a study that holds is not shown")
		}
	}
}
