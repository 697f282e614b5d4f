package index

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

const (
	shortUID = "1.2.3.1"
	longUID  = "1.2.3.10"
)

// neighbours is an index on disk with two studies of one patient in one part of a batch, and two rows of others of which the key of one
// continues that of the other.
func neighbours(t *testing.T) (*Index, func(uid string) Statement) {
	db := openDB(t, t.TempDir())
	t.Cleanup(func() { db.Close() })
	x := openIn(t, db, testOptions("RAA", foundRegion("RAA")))
	st := func(uid string) Statement {
		return mustStudy(t, Study{UID: uid, Name: "DOE^JANE", Patient: []PatientID{{"P1", "RAA"}}, Date: "20240101", Modalities: []string{"CT"}})
	}
	say(t, x, st(shortUID), st(longUID))
	if err := x.Update(func(txn *badger.Txn) error {
		return errors.Join(txn.Set([]byte("\x48"+shortUID), []byte("a")), txn.Set([]byte("\x48"+longUID), []byte("b")))
	}); err != nil {
		t.Fatal(err)
	}
	return x, st
}

// everythingThere says what is not found of what nobody has deleted.
func everythingThere(x *Index) error {
	if said, ok := told(x, longUID); !ok || len(said) != 1 {
		return errors.New("Study misses it")
	}
	for _, q := range []Query{{PatientID: "P1"}, {StudyUIDs: []string{longUID}}, {}, {Name: "doe*"}} {
		a, err := x.Studies(bg, q)
		if err != nil {
			return err
		}
		found := 0
		for _, s := range a.Studies {
			if s.UID == longUID && len(s.Statements) == 1 {
				found++
			}
		}
		if found != 1 {
			return fmt.Errorf("%+v misses it", q)
		}
		if n, _, err := x.Count(bg, q); n < 1 || err != nil {
			return fmt.Errorf("%+v counts %d, %w", q, n, err)
		}
	}
	subjects, err := x.Said(KindStudy, longUID)
	if err != nil || len(subjects) != 1 {
		return fmt.Errorf("Said lists %q, %w", subjects, err)
	}
	if facts, err := x.Facts(KindStudy, longUID); err != nil || len(facts) != 1 {
		return fmt.Errorf("%d facts, %w", len(facts), err)
	}
	if h := holders(x, longUID, x.self); len(h) != 1 {
		return fmt.Errorf("%d holders", len(h))
	}
	p, err := x.Patient(bg, longUID)
	if err != nil || len(p.Certain) == 0 {
		return fmt.Errorf("%+v, %w", p, err)
	}
	return x.View(func(txn *badger.Txn) error {
		_, err := txn.Get([]byte("\x48" + longUID))
		return err
	})
}

// Whatever is read while something else is purged is all there.
func TestAPurgeHidesNothingElse(t *testing.T) {
	x, st := neighbours(t)
	for i := range 100 {
		say(t, x, st(fmt.Sprintf("1.2.9.%d", i)))
	}
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for !stop.Load() {
				if err := everythingThere(x); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range soak(t, 6) {
		say(t, x, st(shortUID))
		if _, err := x.Retract(context.Background(), KindStudy, shortUID); err != nil {
			t.Error(err)
		}
		if err := x.Purge(context.Background()); err != nil {
			t.Error(err)
		}
		if err := x.Drop(context.Background(), [][]byte{[]byte("\x48" + shortUID)}, nil); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	readers.Wait()
}

// A view that a purge has overlapped is begun anew, and one that is overlapped again and again makes the purge wait.
func TestAViewIsRepeatedAfterAPurge(t *testing.T) {
	x, _ := neighbours(t)
	taken := make(chan struct{}, 1)
	x.dropped = func() { taken <- struct{}{} }
	var purges sync.WaitGroup
	calls, missing := 0, 0
	if err := x.View(func(txn *badger.Txn) error {
		calls++
		if calls < viewTries {
			purges.Go(func() {
				if err := x.Drop(context.Background(), [][]byte{[]byte("\x48" + shortUID)}, nil); err != nil {
					t.Error(err)
				}
			})
			<-taken
		} else if x.turn.TryLock() {
			t.Error("it may be overlapped by another purge")
			x.turn.Unlock()
		}
		_, err := txn.Get([]byte("\x48" + longUID))
		if errors.Is(err, badger.ErrKeyNotFound) {
			missing++
			if calls == viewTries {
				return err
			}
			return nil // as if there were no such row
		}
		if calls < viewTries { // so that there is something to drop again
			return errors.New("it is there while it is not")
		}
		return err
	}); err != nil || calls != viewTries || missing != viewTries-1 {
		t.Fatalf("%d calls, %d times without the row, %v", calls, missing, err)
	}
	purges.Wait()
}

// When rows cannot be put back nobody is told that they are not there, and nobody writes; the next purge puts them back.
func TestRowsThatCannotBePutBack(t *testing.T) {
	x, st := neighbours(t)
	broken := errors.New("the disk is gone")
	x.putBackFault = func() error { return broken }
	retract(t, x, KindStudy, shortUID, 1)
	if err := x.Purge(context.Background()); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if _, err := x.Studies(bg, Query{}); !errors.Is(err, errAside) {
		t.Fatal(err)
	}
	if err := x.View(func(*badger.Txn) error { return nil }); !errors.Is(err, errAside) {
		t.Fatal(err)
	}
	if err := x.Update(func(*badger.Txn) error { return nil }); !errors.Is(err, errAside) {
		t.Fatal(err)
	}
	if _, err := x.Append(context.Background(), st("1.2.3.4")); err == nil {
		t.Fatal("something was written")
	}
	if err := x.Purge(context.Background()); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	x.putBackFault = nil
	if err := x.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := everythingThere(x); err != nil {
		t.Fatal(err)
	}
	if _, ok := told(x, shortUID); ok {
		t.Fatal("what was retracted is there again")
	}
	say(t, x, st("1.2.3.4"))
}

// Who holds write and reads, while a purge that has failed is to be made good, does not wait for the one who waits for him.
func TestWhoWritesReadsWhileAPurgeWaits(t *testing.T) {
	x, _ := neighbours(t)
	broken := errors.New("the disk is gone")
	x.putBackFault = func() error { return broken }
	retract(t, x, KindStudy, shortUID, 1)
	if err := x.Purge(context.Background()); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	var purge sync.WaitGroup
	x.write.Lock()
	purge.Go(func() {
		if err := x.Purge(context.Background()); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
	for x.turn.TryRLock() { // until it waits for write
		x.turn.RUnlock()
		runtime.Gosched()
	}
	if err := x.View(func(*badger.Txn) error { return nil }); !errors.Is(err, errAside) {
		t.Error(err)
	}
	x.write.Unlock()
	purge.Wait()
}

// A new epoch holds no view open while it says things: whoever hears them may purge.
func TestAPurgeWhileANewEpochIsSaid(t *testing.T) {
	x, st := neighbours(t)
	for i := range MaxFacts {
		say(t, x, st(fmt.Sprintf("1.2.9.%d", i)))
	}
	told := 0
	defer x.Watch(func(f Fact) {
		if told++; told%MaxFacts != 1 || f.Epoch != 2 {
			return
		}
		key := []byte{0x48, byte(told / MaxFacts)}
		if err := x.Update(func(txn *badger.Txn) error { return txn.Set(key, nil) }); err != nil {
			t.Error(err)
		}
		if err := x.Drop(context.Background(), [][]byte{key}, nil); err != nil {
			t.Error(err)
		}
	})()
	if err := x.NewEpoch(context.Background()); err != nil || told != MaxFacts+2 {
		t.Fatalf("%d facts, %v", told, err)
	}
}

// No more is dropped at once than the tables that it rewrites allow; of one prefix whatever it takes.
func TestDropsAreBoundedByWhatTheyRewrite(t *testing.T) {
	x, _ := neighbours(t)
	var keys [][]byte
	for i := range byte(8) {
		keys = append(keys, []byte{0x49 + i, 1})
	}
	if err := x.Update(func(txn *badger.Txn) error {
		for _, k := range keys {
			if err := errors.Join(txn.Set(k, nil), txn.Set([]byte{k[0], 2}, nil)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	table := func(level int, size uint32, from, to byte) badger.TableInfo {
		return badger.TableInfo{Level: level, OnDiskSize: size, Left: []byte{from, 0}, Right: []byte{to, 9}}
	}
	tables := []badger.TableInfo{
		table(0, 1000, 0, 0xff), table(5, 40, 0x49, 0x4a), table(6, 40, 0x49, 0x4c), table(6, 500, 0x4d, 0x4d), table(6, 10, 0x4e, 0x7f),
	}
	var lots []int
	for rest := slices.Clone(keys); len(rest) > 0; {
		var p dropPlan
		if err := x.View(func(txn *badger.Txn) (err error) {
			p, err = planDrop(txn, doomedKeys{keys: rest}, newRewrite(tables, 100))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		lots = append(lots, len(p.prefixes))
		rest = p.rest
	}
	if !slices.Equal(lots, []int{4, 1, 3}) {
		t.Fatalf("lots of %v", lots)
	}
}
