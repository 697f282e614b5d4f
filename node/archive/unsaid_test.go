package archive

import (
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/index"
)

// A copy of which nobody says any more whose it is is given beside nobody's images.
func TestACopyThatNobodyTellsOfIsGivenBesideNothing(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	if err := a.take(image("1.2.3", 1, 1)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	own, err := a.versions("1.2.3")
	if err != nil || len(own) != 1 || own[0].stranger() {
		t.Fatalf("%+v, %v", own, err)
	}
	id := sourceID{"1.2.3", index.NodeID{7}}
	if err := a.update(func(txn *badger.Txn) error {
		return putRecord(txn, id.key(tableSource), source{Whole: true, Instances: 2})
	}); err != nil {
		t.Fatal(err)
	}
	got, err := a.versions("1.2.3")
	if err != nil || len(got) != 2 || !got[0].own || got[0].stranger() || !got[1].stranger() {
		t.Fatalf("%+v, %v", got, err)
	}
}
