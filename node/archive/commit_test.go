package archive

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
)

// ingestsTogether has instances received so that they are all made visible together, and returns what each sender is told.
func (h *house) ingestsTogether(t *testing.T, studies ...string) []error {
	t.Helper()
	told := make([]chan error, len(studies))
	h.commits.turn.Lock()
	for i, study := range studies {
		told[i] = make(chan error, 1)
		go func() { told[i] <- h.take(image(study, 20+i, byte(20+i))) }()
	}
	waitFor(t, "all wait to be made visible", func() bool {
		h.commits.mu.Lock()
		defer h.commits.mu.Unlock()
		return len(h.commits.waiting) == len(studies)
	})
	h.commits.turn.Unlock()
	out := make([]error, len(studies))
	for i := range told {
		out[i] = <-told[i]
	}
	return out
}

// A record that cannot be read refuses its own study and no other that comes at the same time.
func TestADamagedRecordRefusesItsOwnStudyOnly(t *testing.T) {
	h := furnished(t)
	const bad = "1.2.6666"
	if err := h.take(image(bad, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := h.update(func(txn *badger.Txn) error { return txn.Set(h.id(bad).key(tableSource), []byte{0xff, 0x00}) }); err != nil {
		t.Fatal(err)
	}
	studies := []string{otherStudy, doomedStudy, bad, otherStudy, "1.2.7777", bad, doomedStudy}
	for i, err := range h.ingestsTogether(t, studies...) {
		if refused := err != nil; refused != (studies[i] == bad) {
			t.Errorf("study %s: %v", studies[i], err)
		}
	}
	for study, n := range map[string]int{otherStudy: 5, doomedStudy: 5, "1.2.7777": 1, bad: 1} {
		if list, err := h.instancesOf(h.id(study)); err != nil || len(list) != n {
			t.Errorf("study %s has %d instances, not %d: %v", study, len(list), n, err)
		}
	}
}

// Instances of a study that somebody works at wait for him alone; those of other studies do not wait for them, and when he has done
// all that wait are made visible.
func TestATakenStudyHoldsUpNoOther(t *testing.T) {
	h := furnished(t)
	const known = "1.2.6666"
	if err := h.take(image(known, 1, 1)); err != nil {
		t.Fatal(err)
	}
	lock := h.lock(doomedStudy)
	lock.Lock()
	const n = 20
	told := make(chan error, n)
	for i := range n {
		go func() { told <- h.take(image(doomedStudy, 20+i, byte(i))) }()
	}
	waitFor(t, "all are put apart", func() bool { return h.apart(doomedStudy) == n })
	for i := range 3 {
		for _, study := range []string{known, "1.2.7777"} {
			if err := h.take(image(study, 40+i, byte(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if list, err := h.instancesOf(h.id(doomedStudy)); err != nil || len(list) != 3 {
		t.Fatalf("%d instances of the study whose lock is taken, %v", len(list), err)
	}
	lock.Unlock()
	for range n {
		if err := <-told; err != nil {
			t.Error(err)
		}
	}
	if list, err := h.instancesOf(h.id(doomedStudy)); err != nil || len(list) != 3+n {
		t.Errorf("%d instances, %v", len(list), err)
	}
}

// apart is how many instances wait for the lock of a study.
func (h *house) apart(study string) int {
	h.commits.mu.Lock()
	defer h.commits.mu.Unlock()
	return len(h.commits.apart[lockOf(study)])
}

// Senders of many studies, somebody who takes their locks again and again, and those who publish: all get to an end.
func TestNobodyWaitsForEver(t *testing.T) {
	h := furnished(t)
	const senders, each = 12, 15
	studies := []string{doomedStudy, otherStudy, "1.2.7777", lockMate(doomedStudy)}
	stop := make(chan struct{})
	var work, nuisance sync.WaitGroup
	for _, study := range studies {
		nuisance.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				h.lock(study).Lock()
				time.Sleep(time.Millisecond)
				h.lock(study).Unlock()
				if _, err := h.publish(t.Context(), study); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for s := range senders {
		work.Go(func() {
			for i := range each {
				if err := h.take(image(studies[(s+i)%len(studies)], 100+s*each+i, byte(i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	close(stop)
	nuisance.Wait()
	all := 0
	for _, study := range studies {
		list, err := h.instancesOf(h.id(study))
		if err != nil {
			t.Fatal(err)
		}
		all += len(list)
	}
	if want := senders*each + 6; all != want {
		t.Errorf("%d instances, not %d", all, want)
	}
}

// lookedFor calls a function once, when a study key is first asked for.
type lookedFor struct {
	Keys
	seen atomic.Bool
	then func()
}

func (k *lookedFor) Get(name string) (cas.Key, error) {
	if k.seen.CompareAndSwap(false, true) {
		k.then()
	}
	return k.Keys.Get(name)
}

// An instance that is received while its study's manifests are being written, and is not among them, is told of later.
func TestAnInstanceIsToldThatCameWhileItsStudyWasPublished(t *testing.T) {
	h := furnished(t)
	if err := h.take(image(doomedStudy, 8, 8)); err != nil {
		t.Fatal(err)
	}
	reached, goOn := make(chan struct{}), make(chan struct{})
	h.Keys = &lookedFor{Keys: h.Keys, then: func() { close(reached); <-goOn }}
	published, stored := make(chan error, 1), make(chan error, 1)
	go func() { _, err := h.publish(t.Context(), doomedStudy); published <- err }()
	<-reached // what is published has been gathered
	go func() { stored <- h.take(image(doomedStudy, 9, 9)) }()
	waitFor(t, "it is made visible, or waits for that", func() bool { return len(stored) == 1 || h.apart(doomedStudy) == 1 })
	close(goOn)
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	if err := <-stored; err != nil {
		t.Fatal(err)
	}
	if _, err := h.publish(t.Context(), doomedStudy); err != nil {
		t.Fatal(err)
	}
	if s, ok := h.statementOf(h.id(doomedStudy)); !ok || s.Instances != 5 {
		t.Errorf("the region is told of %d instances, not 5", s.Instances)
	}
}
