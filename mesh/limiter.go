package mesh

import (
	"sync"

	"github.com/priormesh/priormesh/index"
)

// limiter bounds how many of something there are at once, in all and for each
// peer.
type limiter struct {
	total, perPeer int

	mu sync.Mutex
	n  int
	by map[index.NodeID]int
}

func newLimiter(total, perPeer int) *limiter {
	return &limiter{total: total, perPeer: perPeer, by: make(map[index.NodeID]int)}
}

// enter says whether there was room; then leave must follow.
func (l *limiter) enter(id index.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n >= l.total || l.by[id] >= l.perPeer {
		return false
	}
	l.n++
	l.by[id]++
	return true
}

func (l *limiter) leave(id index.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n--
	if l.by[id]--; l.by[id] == 0 {
		delete(l.by, id)
	}
}

func (l *limiter) now() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}
