package archive

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// deaf is a mesh at which nobody gives anything.
type deaf struct {
	answers map[index.NodeID]error
	asked   []mesh.StudyRequest
}

func (d *deaf) OpenStudy(_ context.Context, h index.NodeID, req mesh.StudyRequest) (*mesh.StudyStream, error) {
	d.asked = append(d.asked, req)
	return nil, d.answers[h]
}

func (d *deaf) FetchBlocks(context.Context, []*mesh.StudyStream, []cid.Cid, func(cas.Block) error) ([]cid.Cid, error) {
	panic("nobody gave a stream")
}

func (d *deaf) Draw(got func(cas.Block) error, have func(cid.Cid) bool) *mesh.Draw {
	return (*mesh.Mesh)(nil).Draw(got, have)
}

func (d *deaf) Peers() []mesh.Peer { return nil }

// Who refuses is asked a few times, and then not before he says something new;
// who is away is asked when he is back, for as long as it takes.
func TestRefusedIsNotAway(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	set := Fetching{Workers: 1, PeerTransfers: 1, RetryMin: time.Second, RetryMax: time.Minute, ReadThrough: time.Second}
	b.SetFetching(set)
	const study = "1.2.3"
	if err := a.take(image(study, 1, 1)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	b.hear(a)
	d := &deaf{answers: map[index.NodeID]error{a.Self: mesh.ErrRefused}}
	b.transfers, b.running = d, t.Context()
	try := func() {
		t.Helper()
		at := begins(t, b.queue)
		if at == nil {
			t.Fatal("it is not tried")
		}
		b.try(at)
	}
	state := func(want State, why string) {
		t.Helper()
		if st, _ := b.TaskOf(study); st.State != want || !strings.Contains(st.Why, why) {
			t.Fatalf("%s, it waits for %q, last %q; want %s and %q", st.State, st.Why, st.LastError, want, why)
		}
	}
	if err := b.Enqueue(study, Prior, "a prior", ""); err != nil {
		t.Fatal(err)
	}
	for range refusedTries - 1 {
		try()
		state(Waiting, "refused")
		clock.step(time.Hour)
	}
	try()
	state(Refused, "refused by RAA")
	if st, _ := b.TaskOf(study); !strings.Contains(st.LastError, "RAA refused it") {
		t.Errorf("the reason kept: %q", st.LastError)
	}
	if Interactive.onLine() >= mesh.Unattended || Prior.onLine() != mesh.Unattended {
		t.Error("the mesh has another idea of what somebody waits for")
	}
	if n := len(d.asked); n != refusedTries || d.asked[0].Priority != Prior.onLine() {
		t.Fatalf("asked %d times, first with %+v", n, d.asked[0])
	}
	clock.step(24 * time.Hour)
	b.Kick()
	b.Back(a.Self)
	b.Due(study, b.Self) // somebody who has nothing
	try()
	state(Refused, "refused by RAA")
	if n := len(d.asked); n != refusedTries {
		t.Fatalf("asked %d times", n)
	}
	b.Archive = b.open()
	b.SetFetching(set)
	b.transfers, b.running = d, t.Context()
	state(Refused, "refused by RAA")

	// A newer revision.
	if err := a.take(image(study, 2, 2)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	b.hear(a)
	b.Due(study, a.Self)
	d.answers[a.Self] = fmt.Errorf("%w %s", mesh.ErrNotConnected, a.Self)
	for range 2 * refusedTries {
		try()
		state(Waiting, "RAA cannot be reached")
		b.Back(b.Self)
		if begins(t, b.queue) != nil {
			t.Fatal("somebody else is back, and it is tried")
		}
		b.Back(a.Self)
	}

	// It runs another version.
	d.answers[a.Self] = fmt.Errorf("node %s: %w", a.Self, mesh.ErrVersion)
	try()
	state(Waiting, "RAA runs a version")
	b.Back(b.Self)
	if begins(t, b.queue) != nil {
		t.Fatal("somebody else is back, and it is tried")
	}
	b.Back(a.Self)
	d.answers[a.Self] = fmt.Errorf("%w %s", mesh.ErrNotConnected, a.Self)

	// One place for what comes from a node and nobody waits for.
	other := newAttempt(t.Context(), Task{Study: "1.2.4", Priority: Background}, clock.now())
	if !b.comings.enter(other, a.Self, 1) {
		t.Fatal("there is no place")
	}
	asked := len(d.asked)
	try()
	state(Waiting, "peer_transfers")
	if len(d.asked) != asked {
		t.Error("it was asked for over the limit")
	}
	if err := b.Ask(study, Emergency, "asked for by the operator"); err != nil {
		t.Fatal(err)
	}
	try()
	if len(d.asked) != asked+1 || d.asked[asked].Priority != Emergency.onLine() {
		t.Error("an emergency is held to the limit of what nobody waits for")
	}
	state(Waiting, "RAA cannot be reached")
}

// stalls is a mesh at which one node never answers, and of the others it is seen that they are asked.
type stalls struct {
	deaf
	silent index.NodeID
	other  chan index.NodeID
}

func (s *stalls) OpenStudy(ctx context.Context, h index.NodeID, _ mesh.StudyRequest) (*mesh.StudyStream, error) {
	if h != s.silent {
		select {
		case s.other <- h:
		default:
		}
		return nil, mesh.ErrRefused
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// A node that says nothing when it is asked for studies does not keep what others have from coming, however many of its own are wanted, and whatever
// the settings allow it.
func TestASilentHolderLeavesAPlaceForOthers(t *testing.T) {
	for _, most := range []int{0, 2, 5} {
		clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
		a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB", "RCC")
		b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB", "RCC")
		c := newHouse(t, t.TempDir(), "RCC", clock, "RAA", "RBB", "RCC")
		b.SetFetching(Fetching{Workers: 2, PeerTransfers: most, RetryMin: time.Second, RetryMax: time.Minute, ReadThrough: time.Second})
		for i := range 4 {
			if err := a.take(image(fmt.Sprintf("1.2.%d", i), 1, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.take(image("1.3", 1, 1)); err != nil {
			t.Fatal(err)
		}
		for _, h := range []*house{a, c} {
			h.publishAll()
			b.hear(h)
		}
		ctx, cancel := context.WithCancel(t.Context())
		s := &stalls{silent: a.Self, other: make(chan index.NodeID, 1)}
		b.transfers, b.running, b.group = s, ctx, new(errgroup.Group)
		for i := range 4 {
			if err := b.Enqueue(fmt.Sprintf("1.2.%d", i), Prior, "a prior", ""); err != nil {
				t.Fatal(err)
			}
		}
		ended := make(chan struct{})
		go func() { defer close(ended); b.dispatch(ctx) }()
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) { // it has what it may have
			b.comings.mu.Lock()
			n := b.comings.of[a.Self]
			b.comings.mu.Unlock()
			if n > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("nothing is asked of it")
			}
		}
		time.Sleep(20 * time.Millisecond)
		if err := b.Enqueue("1.3", Prior, "a prior", ""); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.other:
		case <-time.After(5 * time.Second):
			t.Errorf("with peer_transfers of %d nobody else is asked", most)
		}
		cancel()
		<-ended
		b.group.Wait()
		b.remotes.end()
	}
}
