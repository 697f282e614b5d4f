package archive

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// paused makes whoever next asks for the time wait until goOn is closed.
func (h *house) paused() (reached, goOn chan struct{}) {
	reached, goOn = make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	armed.Store(true)
	now := h.Options.Now
	h.Options.Now = func() time.Time {
		if armed.CompareAndSwap(true, false) {
			close(reached)
			<-goOn
		}
		return now()
	}
	return reached, goOn
}

// shut says whether a source's gate is being kept shut.
func (h *house) shut(id sourceID) bool {
	h.space.gate.mu.Lock()
	defer h.space.gate.mu.Unlock()
	e := h.space.gate.of[id]
	return e != nil && e.shut != nil
}

// waitFor polls: what it waits for comes, or the test hangs for good.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("this never comes: ", what)
		}
	}
}

// lockMate is a study that shares the lock of another.
func lockMate(study string) string {
	for i := 1; ; i++ {
		if s := fmt.Sprintf("1.2.9.%d", i); lockOf(s) == lockOf(study) {
			return s
		}
	}
}

// A study that is condemned while it is being published is erased: neither waits for the other, and nobody for them.
func TestPublishingMakesWayForAnErasure(t *testing.T) {
	h := furnished(t)
	mate := lockMate(doomedStudy)
	for _, study := range []string{doomedStudy, mate} {
		if err := h.take(image(study, 9, 9)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reached, goOn := h.paused()
	published, erased := make(chan error, 1), make(chan error, 1)
	go func() { _, err := h.publish(ctx, doomedStudy); published <- err }()
	<-reached // it has the study's lock and has seen that nothing is erased
	if _, err := h.erase.condemn(sourceID{Study: doomedStudy}, "a test"); err != nil {
		t.Fatal(err)
	}
	go func() { erased <- h.erase.all(ctx) }()
	waitFor(t, "the gate is shut", func() bool { return h.shut(h.id(doomedStudy)) })
	close(goOn)
	for what, done := range map[string]chan error{"publication": published, "erasure": erased} {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the %s ended with %v", what, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("the %s never ends", what)
		}
	}
	if where := h.named(doomedStudy); len(where) > 0 {
		t.Errorf("the study is still named in tables %x", where)
	}
	if err := h.take(image(mate, 2, 1)); err != nil {
		t.Fatal(err)
	}
}

// An erasure waits for who is telling of the study without writing to it.
func TestAnErasureWaitsForWhoIsSettlingTheStudy(t *testing.T) {
	h := furnished(t) // published, not settled
	h.clock.step(2 * time.Minute)
	reached, goOn := h.paused()
	published, erased := make(chan error, 1), make(chan error, 1)
	var telling atomic.Bool
	telling.Store(true)
	h.eraseFault = func(step string) error {
		if step == "keys" && telling.Load() {
			t.Error("keys are destroyed while somebody tells of the study")
		}
		return nil
	}
	go func() { _, err := h.publish(context.Background(), doomedStudy); published <- err }()
	<-reached
	if _, err := h.erase.condemn(sourceID{Study: doomedStudy}, "a test"); err != nil {
		t.Fatal(err)
	}
	go func() { erased <- h.erase.all(context.Background()) }()
	waitFor(t, "the gate is shut", func() bool { return h.shut(h.id(doomedStudy)) })
	time.Sleep(50 * time.Millisecond) // what must not happen would happen now
	telling.Store(false)
	close(goOn)
	if err := <-published; err != nil {
		t.Error(err)
	}
	if err := <-erased; err != nil {
		t.Error(err)
	}
	if where := h.named(doomedStudy); len(where) > 0 {
		t.Errorf("the study is still named in tables %x", where)
	}
}

// What has been taken and is not published yet can be asked about: a fetch of the same study may be under way.
func TestAStudyIsAskedAboutBeforeItIsPublished(t *testing.T) {
	h := furnished(t)
	const study = "1.2.9.4"
	if err := h.take(image(study, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if here, err := h.Here(study); err != nil || !here {
		t.Errorf("here %v, %v", here, err)
	}
	all, err := h.versions(study)
	if err != nil || len(all) != 1 || all[0].said.UID != study || all[0].said.Instances != 1 {
		t.Errorf("%+v, %v", all, err)
	}
}
