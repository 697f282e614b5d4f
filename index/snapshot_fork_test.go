package index

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// A node signs a snapshot of one history, and batches of another. Whichever comes first, the fork is proven when the snapshot's end is
// held against the log's, the log stays as it was, and the snapshot is let go.
func TestSnapshotOfAnotherHistory(t *testing.T) {
	for _, when := range []string{"before the pages come", "after the pages have come"} {
		t.Run(when, func(t *testing.T) {
			ctx := context.Background()
			r := foundRegion("RAA", "RBB")
			one, other := openTest(t, "RAA", r), openTest(t, "RAA", r)
			// They differ in a fact that no page has: it was said again.
			say(t, one, mustStudy(t, Study{UID: "1.2.1", Name: "Family^Given", Date: "20250101"}))
			say(t, other, mustStudy(t, Study{UID: "1.2.1", Name: "Family^Never", Date: "20250101"}))
			for _, x := range []*Index{one, other} {
				for _, uid := range []string{"1.2.1", "1.2.2", "1.2.3"} {
					say(t, x, mustStudy(t, Study{UID: uid, Name: "Another^Given", Date: "20250101"}))
				}
			}
			for range 3 { // the snapshot's end is not the log's
				say(t, other, mustStudy(t, Study{UID: "1.2.9", Name: "Another^Given", Date: "20250102"}))
			}
			if _, err := one.MakeSnapshot(ctx); err != nil {
				t.Fatal(err)
			}
			x := openTest(t, "RBB", r)
			b, err := NewBootstrap(x.Snapshots(one.Self()), BootstrapOptions{Node: one.Self(), Self: x.Self(), Rand: rand.New(rand.NewPCG(1, 1))})
			if err != nil {
				t.Fatal(err)
			}
			out, err := b.Tick([]NodeID{one.Self()})
			if err != nil {
				t.Fatal(err)
			}
			var was Offered
			for pages, forked := 0, false; len(out) > 0 || b.Busy(); {
				if !forked && (when == "before the pages come" && b.Progress().Snapshot.Head.Seq > 0 || pages > 0) {
					forked = true
					copyLog(t, other, x, one.Self())
					if len(x.Forks()) != 0 || !shows(t, x, "1.2.3") {
						t.Fatal("the other history is not there before it is held against the snapshot")
					}
				}
				if p := b.Progress(); p.Snapshot.Head.Seq > 0 {
					was = b.now.offer
				}
				if len(out) == 0 {
					if out, err = b.Work(); err != nil {
						t.Fatal(err)
					}
					continue
				}
				answer, err := AnswerParts(one, out[0].Message.(WantParts))
				if err != nil {
					t.Fatal(err)
				}
				if out[0].Message.(WantParts).Part == PartPages {
					pages++
				}
				if out, err = b.Step(one.Self(), answer); err != nil {
					t.Fatal(err)
				}
			}
			if p := b.Progress(); p.Done || p.Snapshot.Head.Seq != 0 {
				t.Fatalf("the snapshot of another history is still taken up: %+v", p)
			}
			if base := x.base(one.Self()); base != (Position{}) {
				t.Fatalf("the log begins with a snapshot of another history, at %v", base)
			}
			for _, uid := range []string{"1.2.1", "1.2.3", "1.2.9"} {
				if !shows(t, x, uid) {
					t.Errorf("%s of the log is not shown any more", uid)
				}
			}
			if f := x.Forks(); len(f) != 1 || f[0].Verify() != nil {
				t.Fatalf("the fork is not proven: %v", f)
			}
			again, err := Open(x.db, x.opt)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := again.Snapshots(one.Self()).Begin(was); !errors.As(err, new(*ForkError)) {
				t.Fatalf("the snapshot is begun again after a start: %v", err)
			}
		})
	}
}

// The head that a log begins with proves a fork, also when the log has gone on.
func TestForkAtTheEndOfASnapshot(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	author, x := openTest(t, "RAA", r), openTest(t, "RBB", r)
	say(t, author, note("x", "1"))
	say(t, author, note("x", "2"))
	at, _ := author.Head(author.Self())
	if _, err := author.MakeSnapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	bringSnapshot(t, x, author.Self(), map[NodeID]*Index{author.Self(): author})
	other := sealed(t, nodeKeyOf("RAA"), 1, []Statement{note("y", "1"), note("y", "2")})[0].Head()
	if other.Seq != at.Seq || other.Hash == at.Hash {
		t.Fatal("no fork")
	}
	for _, step := range []string{"as the log ends there", "as it has gone on"} {
		if step == "as it has gone on" {
			x = openTest(t, "RBB", r)
			bringSnapshot(t, x, author.Self(), map[NodeID]*Index{author.Self(): author})
			copyLog(t, author, x, author.Self())
		}
		_, _, err := x.Heard(other)
		if f := x.Forks(); !errors.As(err, new(*ForkError)) || len(f) != 1 || f[0].Verify() != nil {
			t.Errorf("%s: %v, want a fork", step, err)
		}
	}
}
