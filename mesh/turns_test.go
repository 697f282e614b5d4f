package mesh

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// A stream makes way for a more urgent one of the same peer, unless that does
// not move, and never for ever.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		peer, other := index.NodeID{1}, index.NodeID{2}
		urgent, fill, else0 := turns.join(peer), turns.join(peer), turns.join(other)
		took := func(s *turn) time.Duration { begin := time.Now(); s.wait(); return time.Since(begin) }
		fill.begin(3)
		if d := took(fill); d != 0 {
			t.Fatalf("with nobody before it a stream waited %v", d)
		}
		urgent.begin(0)
		else0.begin(3)
		if took(urgent) != 0 || took(else0) != 0 {
			t.Fatal("the urgent one, or another peer's, waited")
		}
		go func() { time.Sleep(100 * time.Millisecond); urgent.end() }()
		if d := took(fill); d != 100*time.Millisecond {
			t.Fatalf("it waited %v for an urgent one that took 100ms", d)
		}
		urgent.begin(0)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for ctx.Err() == nil { // sends all the time
				urgent.wait()
				time.Sleep(10 * time.Millisecond)
			}
		}()
		if d := took(fill); d != yieldMost {
			t.Fatalf("behind one that never ends it waited %v", d)
		}
		cancel()
		time.Sleep(yieldTo + 20*time.Millisecond) // it is stuck now
		if d := took(fill); d != 0 {
			t.Fatalf("behind one that is stuck it waited %v", d)
		}
		for _, s := range []*turn{urgent, fill, else0} {
			s.leave()
		}
		if len(turns.of) != 0 {
			t.Fatal("peers without a stream are remembered")
		}
	})
}

// The window grows until the line is full, and what waits behind it is little.
func TestPaceFillsTheLine(t *testing.T) {
	for _, line := range []struct {
		rate float64 // bytes a second
		rtt  time.Duration
	}{{125e6, 50 * time.Millisecond}, {12.5e6, 50 * time.Millisecond}, {3.75e6, 50 * time.Millisecond}, {125e3, 200 * time.Millisecond}} {
		p := pace{}
		p.answered(line.rtt)
		now := time.Unix(0, 0)
		p.asked(now)
		for range 60 { // one window after the other
			w := float64(p.window())
			took := max(line.rtt, time.Duration(w/line.rate*float64(time.Second)))
			for range 8 {
				now = now.Add(took / 8)
				p.came(int(w)/8, now)
			}
		}
		onLine := line.rate * line.rtt.Seconds()
		if w := float64(p.window()); w < onLine || w > 1.3*onLine+line.rate*lookAhead.Seconds()*1.1+leastWindow {
			t.Errorf("%.0f bytes a second and %v: a window of %.0f, the line holds %.0f", line.rate, line.rtt, w, onLine)
		}
	}
}

func TestWantsAreOrdered(t *testing.T) {
	w := newWants()
	var cids []cid.Cid
	for i := range byte(6) {
		cids = append(cids, cas.Sum([]byte{i}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	for _, c := range []struct {
		priority uint8
		cids     []cid.Cid
	}{{3, cids[2:4]}, {0, cids[:1]}, {3, cids[4:]}, {0, cids[1:2]}} {
		if err := w.push(ctx, c.priority, c.cids); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range cids {
		if got, p, ok := w.pop(); !ok || got != want || (p == 0) != (i < 2) {
			t.Fatalf("number %d is %v of priority %d", i, got, p)
		}
	}
	if _, _, ok := w.pop(); ok {
		t.Fatal("something is left")
	}
	for w.n+len(cids) <= maxQueuedWants {
		if err := w.push(ctx, 1, cids); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := w.push(ctx, 1, cids); err == nil {
		t.Fatal("the queue has no bound")
	}
}

// A Draw that is over does not touch its streams any more: they may be another's.
func TestADrawThatIsOverLeavesItsStreams(t *testing.T) {
	m := &Mesh{log: slog.New(slog.DiscardHandler)}
	d, next := m.Draw(nil, nil), m.Draw(nil, nil)
	s, o := &StudyStream{m: m}, &StudyStream{m: m}
	d.from = []*StudyStream{s, o}
	d.endLocked(ErrClosed)
	c := cas.Sum([]byte("x"))
	s.owner.Store(next)
	s.out.asked = map[cid.Cid]owed{c: {item: &item{}}} // long ago
	s.out.part = 5
	d.stalled(time.Now())
	if _, ok := d.owed(s, c); ok || s.out.slow || d.urgency(s) != 0 || d.owns(s) || !next.owns(s) {
		t.Fatal("it takes another's stream for its own")
	}
}
