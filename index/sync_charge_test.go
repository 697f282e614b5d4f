package index

import (
	"math/rand/v2"
	"testing"
)

// Whatever is answered about snapshots counts as sent, and so does having looked in vain: who asks without end is answered at a pace.
func TestAnswersAboutSnapshotsAreCharged(t *testing.T) {
	l := newSnapLogs(t, "RAA")
	a := nodeOf("RAA")
	l.shelves[a].fill(70)
	l.shelves[a].snapshot()
	s := NewSync(l, SyncOptions{Self: nodeOf("RBB"), Rand: rand.New(rand.NewPCG(1, 1)), Send: 1})
	may := s.send.bytes
	answers := func(m WantParts) (n int) {
		for range 5000 {
			out, err := s.Step(nodeOf("RCC"), m)
			if err != nil {
				t.Fatal(err)
			}
			n += len(out)
		}
		return n
	}
	// Of another snapshot it gets an offer, and of an author who has none nothing: either costs.
	for _, m := range []WantParts{{Node: a, Root: [32]byte{9}, Part: PartList, Count: 1}, {Node: nodeOf("RDD"), Part: PartSheet, Count: 1}} {
		s.send.bytes = may
		if n := answers(m); n == 0 || int64(n) > may/leastPartAnswer+1 {
			t.Errorf("%d answers for %d bytes that may be sent", n, may)
		}
	}
}
