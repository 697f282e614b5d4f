package mesh

import (
	"context"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/index"
)

// lineAt is a line whose time is what the test says.
func lineAt(now *time.Time, r Rates) *line {
	l := newLine(func() time.Time { return *now })
	l.rates = r
	l.bounded.Store(r != Rates{})
	return l
}

// queued adds a mover without a timer that would follow real time.
func (l *line) queued(peer byte, priority uint8, n int) *mover {
	l.came++
	w := &mover{peer: index.NodeID{peer}, priority: priority, n: n, came: l.came, turn: make(chan struct{})}
	i := 0
	for i < len(l.waiting) && l.waiting[i].priority <= priority {
		i++
	}
	l.waiting = append(l.waiting[:i:i], append([]*mover{w}, l.waiting[i:]...)...)
	return w
}

func (w *mover) went() bool {
	select {
	case <-w.turn:
		return true
	default:
		return false
	}
}

// Movers that always want more get what the bounds say, no more than a burst
// over it, the urgent first, and nobody nothing.
func TestRatesHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		rate := func(name string) int64 { return rapid.SampledFrom([]int64{0, 1 << 20, 4 << 20}).Draw(t, name) }
		r := Rates{All: rate("all"), Peer: rate("peer"), Background: rate("background")}
		l := lineAt(&now, r)
		type flow struct {
			peer     byte
			priority uint8
			w        *mover
			moved    int64
		}
		flows := []*flow{{peer: 1, priority: 0}, {peer: 1, priority: 1}, {peer: 2, priority: 1}, {peer: 2, priority: 3}, {peer: 3, priority: 4}}
		flows = flows[rapid.IntRange(0, 3).Draw(t, "without"):]
		const over, step = 20 * time.Second, 5 * time.Millisecond
		for range over / step {
			now = now.Add(step)
			for again := true; again; {
				again = false
				for _, f := range flows {
					if f.w == nil {
						f.w = l.queued(f.peer, f.priority, chunk)
					}
				}
				l.grant(now)
				for _, f := range flows {
					if f.w.went() {
						f.w, f.moved = nil, f.moved+chunk
						again = r.All+r.Peer > 0 // else nothing bounds what is urgent
					}
				}
			}
		}
		var all, back int64
		peers := make(map[byte]int64)
		for _, f := range flows {
			if f.moved == 0 {
				t.Fatalf("a stream of priority %d got nothing in %v: %+v", f.priority, over, r)
			}
			all += f.moved
			peers[f.peer] += f.moved
			if f.priority >= Unattended {
				back += f.moved
			}
		}
		within := func(what string, got, rate int64) {
			most := int64(float64(rate)*(over+burstFor).Seconds()) + 2*chunk
			if rate > 0 && got > most {
				t.Fatalf("%s: %d bytes in %v, the bound is %d a second", what, got, over, rate)
			}
		}
		within("all", all, r.All)
		within("background", back, r.Background)
		for _, n := range peers {
			within("a peer", n, r.Peer)
		}
		if r.All > 0 && r.Peer == 0 && (flows[0].priority < Unattended || r.Background == 0) {
			if all < r.All*int64(over/time.Second)*9/10 {
				t.Fatalf("%d bytes in %v: much of %d a second is not used", all, over, r.All)
			}
			if first := flows[0]; first.priority == 0 && first.moved < all*8/10 {
				t.Fatalf("what is most urgent got %d of %d bytes", first.moved, all)
			}
		}
	})
}

func TestRatesChangeWhileSomebodyWaits(t *testing.T) {
	l := newLine(time.Now)
	if err := l.wait(t.Context(), nil, index.NodeID{1}, 3, 1<<30); err != nil {
		t.Fatal(err)
	}
	l.set(Rates{Background: LeastRate})
	if err := l.wait(t.Context(), nil, index.NodeID{1}, 3, 1<<30); err != nil { // it is owed from now on
		t.Fatal(err)
	}
	if err := l.wait(t.Context(), nil, index.NodeID{1}, 1, 1<<30); err != nil {
		t.Fatal("the bound of what nobody waits for holds for others too")
	}
	stop := make(chan struct{})
	close(stop)
	if err := l.wait(t.Context(), stop, index.NodeID{1}, 3, 1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.wait(ctx, nil, index.NodeID{1}, 3, 1); !errors.Is(err, ErrClosed) || len(l.waiting) != 0 {
		t.Fatal(err)
	}
	went := make(chan error, 1)
	w := l.join(index.NodeID{1}, 3, 1)
	go func() { went <- l.wait(t.Context(), nil, index.NodeID{1}, 3, 1) }()
	l.set(Rates{})
	<-w.turn
	if err := <-went; err != nil {
		t.Fatal(err)
	}
}
