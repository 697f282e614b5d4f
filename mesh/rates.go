package mesh

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/priormesh/priormesh/index"
)

// Rates bound how many bytes of blocks a second move in one direction; 0 is no
// bound. All and Peer hold for everything. Background holds, within these, for
// what nobody waits for.
type Rates struct {
	All        int64 // of all peers together
	Peer       int64 // of each peer
	Background int64 // of all that nobody waits for, together
}

// LeastRate is the least of a bound that is set: a stream that is slower than
// the other side's patience breaks off.
const LeastRate = 64 << 10

const (
	burstFor   = 100 * time.Millisecond // of a rate that was not used may be made up for
	fairGrant  = 16                     // so often, who has waited longest goes first: no stream starves
	maxBuckets = 1024                   // peers whose rates are remembered
)

// SetRates bounds what is taken from peers and what is served to them, from now
// on, also what is under way.
func (m *Mesh) SetRates(taking, serving Rates) {
	m.taking.set(taking)
	m.serving.set(serving)
}

// line is one direction of this node's line. Whoever wants to move bytes waits
// for his turn: the more urgent first, and those of a priority in the order of
// coming. While no bound is set it costs nothing.
type line struct {
	now     func() time.Time
	bounded atomic.Bool

	mu         sync.Mutex
	rates      Rates
	all        bucket
	background bucket
	peers      map[index.NodeID]*bucket
	waiting    []*mover // the most urgent first
	came       uint64
	grants     uint64
	timer      *time.Timer
}

// mover waits to move n bytes.
type mover struct {
	peer     index.NodeID // zero: it is not known which
	priority uint8
	n        int
	came     uint64
	turn     chan struct{} // closed when it may
}

// bucket fills at a rate. It may be taken from while anything is in it, also
// more than is in it: what is owed is filled up first.
type bucket struct {
	level float64
	at    time.Time
}

func (b *bucket) fill(rate int64, now time.Time) {
	most := max(float64(rate)*burstFor.Seconds(), chunk)
	switch d := now.Sub(b.at); {
	case b.at.IsZero():
		b.level = most
	case d > 0:
		b.level = min(b.level+float64(rate)*d.Seconds(), most)
	}
	b.at = now
}

// until is how long a bucket that was filled just now has nothing in it.
func (b *bucket) until(rate int64) time.Duration {
	if b.level > 0 {
		return 0
	}
	return time.Duration((1 - b.level) / float64(rate) * float64(time.Second))
}

func newLine(now func() time.Time) *line {
	return &line{now: now, peers: make(map[index.NodeID]*bucket)}
}

func (l *line) set(r Rates) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rates = r
	l.bounded.Store(r != Rates{})
	l.arrange()
}

// wait returns when n bytes may move, or ctx or stop ends first.
func (l *line) wait(ctx context.Context, stop <-chan struct{}, peer index.NodeID, priority uint8, n int) error {
	if !l.bounded.Load() {
		return nil
	}
	w := l.join(peer, priority, n)
	select {
	case <-w.turn:
		return nil
	case <-stop:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(o *mover) bool { return o == w })
	return ErrClosed
}

func (l *line) join(peer index.NodeID, priority uint8, n int) *mover {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.came++
	w := &mover{peer: peer, priority: priority, n: n, came: l.came, turn: make(chan struct{})}
	i, _ := slices.BinarySearchFunc(l.waiting, w, func(x, y *mover) int {
		return cmp.Or(cmp.Compare(x.priority, y.priority), cmp.Compare(x.came, y.came))
	})
	l.waiting = slices.Insert(l.waiting, i, w)
	l.arrange()
	return w
}

// arrange lets go who may go now, and comes back when the next may.
func (l *line) arrange() {
	next := l.grant(l.now())
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if next > 0 {
		l.timer = time.AfterFunc(next, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.arrange()
		})
	}
}

// grant lets go who may go at a time, and says after how long to look again; 0
// if nobody waits any more.
func (l *line) grant(now time.Time) (next time.Duration) {
	l.all.fill(l.rates.All, now)
	l.background.fill(l.rates.Background, now)
	if len(l.peers) > maxBuckets {
		clear(l.peers)
	}
	for _, b := range l.peers {
		b.fill(l.rates.Peer, now)
	}
	for len(l.waiting) > 0 {
		next = 0
		pick := -1
		for i, w := range l.waiting {
			d := l.until(w, now)
			if d > 0 {
				if next == 0 || d < next {
					next = d
				}
				continue
			}
			if pick < 0 || l.grants%fairGrant == fairGrant-1 && w.came < l.waiting[pick].came {
				pick = i
			}
		}
		if pick < 0 {
			return max(next, time.Millisecond)
		}
		w := l.waiting[pick]
		l.waiting = slices.Delete(l.waiting, pick, pick+1)
		l.grants++
		for _, b := range l.buckets(w, now) {
			b.level -= float64(w.n)
		}
		close(w.turn)
	}
	return 0
}

// each calls f for each bucket that a mover takes from.
func (l *line) each(w *mover, now time.Time, f func(b *bucket, rate int64)) {
	if l.rates.All > 0 {
		f(&l.all, l.rates.All)
	}
	if l.rates.Background > 0 && w.priority >= Unattended {
		f(&l.background, l.rates.Background)
	}
	if l.rates.Peer > 0 && w.peer != (index.NodeID{}) {
		b := l.peers[w.peer]
		if b == nil {
			b = new(bucket)
			b.fill(l.rates.Peer, now)
			l.peers[w.peer] = b
		}
		f(b, l.rates.Peer)
	}
}

func (l *line) buckets(w *mover, now time.Time) (out []*bucket) {
	l.each(w, now, func(b *bucket, _ int64) { out = append(out, b) })
	return out
}

func (l *line) until(w *mover, now time.Time) (d time.Duration) {
	l.each(w, now, func(b *bucket, rate int64) { d = max(d, b.until(rate)) })
	return d
}
