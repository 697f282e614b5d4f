package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

// A snapshot of one trust's log goes round: who has the log begins it anew, who joins later gets it in pages, both find what they found, and
// what was erased is not among it. Status and metrics tell.
func TestSnapshotsBetweenNodes(t *testing.T) {
	r := region(t, "RX1", "RX2")
	for i := range 8 {
		r[0].imports(study(fmt.Sprintf("1.2.3.%d", i+1), ada, fmt.Sprintf("2024010%d", i+1), 1)...)
	}
	found := func(tr *trust, n int) {
		t.Helper()
		tr.wait("finds what there is", func() (bool, string) {
			got := tr.searched("PatientID=A1")
			return len(got) == n, fmt.Sprint(got)
		})
	}
	found(r[0], 8)
	found(r[1], 8)
	if e, err := r[0].client().Erase(context.Background(), "1.2.3.4", "asked for", func(api.Erasure) {}); err != nil || e.State != "erased" {
		t.Fatal(e, err)
	}
	found(r[1], 7)
	snap, err := r[0].n.Index().MakeSnapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	covered := func(tr *trust) {
		t.Helper()
		tr.wait("has taken up the snapshot", func() (bool, string) {
			base, st := tr.n.Index().Base(snap.Head.Node), tr.n.Index().Lags()
			s, err := tr.n.Status(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return base.Seq == snap.Head.Seq && len(s.Taking) == 0, fmt.Sprint(base, st, s.Taking)
		})
	}
	covered(r[1])
	found(r[1], 7)
	r = joined(t, r, "RX3")
	covered(r[2])
	found(r[2], 7)

	// What is said after it, what is restarted, and who has it from somebody else than its author.
	r[0].imports(study("1.2.3.9", ada, "20240109", 1)...)
	for _, tr := range r {
		found(tr, 8)
	}
	r[0].stop()
	r[2].stop()
	r[2].start()
	found(r[2], 8)
	s, err := r[2].n.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Snapshot.Made.IsZero() {
		t.Errorf("it shows a snapshot of its own: %+v", s.Snapshot)
	}
	r[0].start()
	if s, err = r[0].n.Status(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s.Snapshot.Made.IsZero() || s.Snapshot.Facts != snap.Facts || s.Snapshot.Position != uint64(snap.Head.Seq) {
		t.Errorf("status of the author: %+v, made was %+v", s.Snapshot, snap)
	}
	_, b := r[0].get("/metrics", "")
	if !strings.Contains(string(b), "priormesh_snapshot_last_timestamp_seconds 1.") {
		t.Error("metrics do not tell when the snapshot was made")
	}
}
