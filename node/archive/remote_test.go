package archive

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// slow is a mesh whose holders do not answer what is asked for first, and refuse
// the rest.
type slow struct {
	deaf
	mu    sync.Mutex
	asked []uint8 // with what priority
	first chan struct{}
}

func (s *slow) OpenStudy(ctx context.Context, _ index.NodeID, req mesh.StudyRequest) (*mesh.StudyStream, error) {
	s.mu.Lock()
	s.asked = append(s.asked, req.Priority)
	n := len(s.asked)
	s.mu.Unlock()
	if n == 1 {
		close(s.first)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, mesh.ErrRefused
}

// What is being opened in the background is opened anew for a reader, with his
// share of the line; the attempt it was opened for goes on with it.
func TestAReaderDoesNotWaitForWhatIsOpenedInTheBackground(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	const study = "1.2.3"
	if err := a.take(image(study, 1, 1)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	b.hear(a)
	s := &slow{first: make(chan struct{})}
	b.transfers, b.running = s, t.Context()
	id := a.id(study)
	st, _ := b.statementOf(id)
	at := newAttempt(t.Context(), Task{Study: study, Priority: Prior}, clock.now())
	tried := make(chan error, 1)
	go func() {
		_, _, err := b.remote(at.ctx, id, st, mesh.Push{Depth: mesh.PushManifests})
		tried <- err
	}()
	<-s.first
	if n := b.comings.of[a.Self]; n != 1 {
		t.Fatalf("%d studies are counted that come from the holder", n)
	}
	if _, _, err := b.remote(t.Context(), id, st, mesh.Push{Depth: mesh.PushLists}); err == nil || errors.Is(err, errOvertaken) {
		t.Fatalf("the reader is told %v", err)
	}
	if err := <-tried; err == nil || errors.Is(err, errOvertaken) || errors.Is(err, context.Canceled) {
		t.Fatalf("the attempt ends with %v", err)
	}
	if len(s.asked) < 2 || s.asked[0] != Prior.onLine() || s.asked[1] != mesh.Urgent {
		t.Fatalf("asked with the priorities %v", s.asked)
	}
	if got := at.refuses(); len(got) != 1 || got[0].Times != 1 {
		t.Fatalf("the attempt knows of the refusals %v", got)
	}
	b.remotes.end()
	if len(b.remotes.of) != 0 {
		t.Fatal("what could not be opened is left")
	}
	if _, _, err := b.remote(t.Context(), id, st, mesh.Push{}); !errors.Is(err, mesh.ErrClosed) {
		t.Fatalf("at the end of the node it says %v", err)
	}
}

// Whoever waits for an answer that does not come is told after a while; as long as
// something comes he goes on waiting.
func TestAReaderDoesNotWaitForEver(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	b.SetFetching(Fetching{Workers: 1, ReadThrough: 10 * time.Millisecond})
	const study = "1.2.3"
	if err := a.take(image(study, 1, 1)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	b.hear(a)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.transfers, b.running = &slow{first: make(chan struct{})}, ctx
	st, _ := b.statementOf(a.id(study))
	_, _, err := b.remote(t.Context(), a.id(study), st, mesh.Push{Depth: mesh.PushLists})
	if gone := new(Unavailable); !errors.As(err, &gone) || !strings.Contains(gone.Reason, "nothing of it arrived") {
		t.Fatalf("a reader of what does not come is told %v", err)
	}
	cancel()
	b.remotes.end()

	synctest.Test(t, func(t *testing.T) {
		r := &remote{a: b.Archive}
		err := r.patiently(t.Context(), func(ctx context.Context) error {
			for range 10 {
				time.Sleep(9 * time.Millisecond)
				r.came.Add(1)
			}
			if ctx.Err() != nil {
				t.Error("it is given up while something comes")
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if gone := new(Unavailable); !errors.As(err, &gone) {
			t.Errorf("when nothing comes any more it says %v", err)
		}
		if err := r.patiently(t.Context(), func(context.Context) error { return errNobody }); !errors.Is(err, errNobody) {
			t.Errorf("got %v", err)
		}
		at := newAttempt(t.Context(), Task{}, time.Now())
		defer at.stop(nil)
		if err := r.patiently(at.ctx, func(ctx context.Context) error { time.Sleep(time.Hour); return ctx.Err() }); err != nil {
			t.Errorf("an attempt of the queue: %v", err)
		}
	})
}

// A holder that gives nothing, or a little now and then, does not keep others from
// being asked.
func TestASlowOpeningIsHelped(t *testing.T) {
	var l lateness
	late := ""
	for _, moved := range []int64{1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 11, 12} {
		late += map[bool]string{true: "x", false: "."}[l.look(moved)]
	}
	if want := ".x....x....xxx."; late != want {
		t.Fatalf("others are asked at %s, want %s", late, want)
	}
}

// An attempt that joins what a reader has open is told what the holders did and
// do, and is held to the limits of what comes from them.
func TestAnAttemptJoinsWhatAReaderHasOpen(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	b.SetFetching(Fetching{Workers: 1, PeerTransfers: 1})
	gives, refuses, later := index.NodeID{1}, index.NodeID{2}, index.NodeID{3}
	r := &remote{a: b.Archive, asked: make(map[index.NodeID]*giver)}
	r.note(gives, func(g *giver) { g.granted = true })
	r.note(refuses, func(g *giver) { g.refused = []Refusal{{Holder: refuses, Times: 1}} })
	r.took(gives, 1000)

	other := newAttempt(t.Context(), Task{Study: "1.9", Priority: Prior}, clock.now())
	if !b.comings.enter(other, gives, 1) {
		t.Fatal("there is no place")
	}
	at := newAttempt(t.Context(), Task{Study: "1.2", Priority: Prior}, clock.now())
	if err := r.attach(at); !errors.Is(err, errFull) {
		t.Fatalf("over the limit: %v", err)
	}
	if _, givers := at.seen(clock.now()); len(givers) != 1 || givers[0].State != "full" {
		t.Fatalf("over the limit it shows %v", givers)
	}
	b.comings.leave(other)
	at = newAttempt(t.Context(), Task{Study: "1.2", Priority: Prior}, clock.now())
	if err := r.attach(at); err != nil {
		t.Fatal(err)
	}
	r.took(gives, 500)
	if !b.comings.enter(other, later, 1) || r.enter(later) {
		t.Fatal("a further holder may be asked over the limit")
	}
	_, givers := at.seen(clock.now())
	want := []Giver{{gives, 500, "gives"}, {refuses, 0, "refused"}, {later, 0, "full"}}
	if len(givers) != 3 || givers[0] != want[0] || givers[1] != want[1] || givers[2] != want[2] {
		t.Fatalf("it shows %v, want %v", givers, want)
	}
	if left := b.comings.leave(at); len(left) != 1 || left[0] != gives {
		t.Fatalf("it counted at %v", left)
	}
	r.detach(at)
	r.took(gives, 500)
	if _, givers = at.seen(clock.now()); givers[0].Bytes != 500 {
		t.Error("it is told of what comes after it has left")
	}
}

// Of the studies that nobody reads any more few stay open, the last ones.
func TestFewStudiesStayOpenUnused(t *testing.T) {
	rs := remotes{of: make(map[remoteID]*remote)}
	var all []*remote
	for i := range maxIdle + 3 {
		r := &remote{}
		r.ctx, r.stop = context.WithCancelCause(t.Context())
		rs.of[remoteID{sourceID: sourceID{Study: string(rune('a' + i))}}] = r
		r.users = 1
		all = append(all, r)
	}
	for _, r := range all[1:] {
		r.users = 0
		rs.leave(r)
	}
	for i, r := range all {
		if ended := r.ctx.Err() != nil; ended != (i == 1 || i == 2) {
			t.Errorf("number %d: ended is %v", i, ended)
		}
	}
}
