package mesh

import "sync"

// queue holds what is to be sent to one peer, within bounds: a slow peer loses
// messages, and whoever sends does not wait.
type queue struct {
	maxItems, maxBytes int

	mu    sync.Mutex
	items [][]byte
	bytes int
	ready chan struct{} // holds a token when there may be something
}

func newQueue(maxItems, maxBytes int) *queue {
	return &queue{maxItems: maxItems, maxBytes: maxBytes, ready: make(chan struct{}, 1)}
}

// push says whether there was room.
func (q *queue) push(b []byte) bool {
	q.mu.Lock()
	ok := len(q.items) < q.maxItems && q.bytes+len(b) <= q.maxBytes
	if ok {
		q.items = append(q.items, b)
		q.bytes += len(b)
	}
	q.mu.Unlock()
	if ok {
		select {
		case q.ready <- struct{}{}:
		default:
		}
	}
	return ok
}

// pop returns the oldest item, or nil.
func (q *queue) pop() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil
	}
	b := q.items[0]
	q.items[0] = nil
	q.items = q.items[1:]
	q.bytes -= len(b)
	return b
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0
}
