package mesh

import (
	"sync"
	"time"

	"github.com/priormesh/priormesh/index"
)

const (
	// yieldMost is how long a stream lets more urgent ones of the same peer go
	// first before it sends a part all the same: nothing starves.
	yieldMost = 250 * time.Millisecond
	// yieldTo is how long a stream that cannot send on is made way for: its
	// reader may be the slow one.
	yieldTo = 250 * time.Millisecond
)

// turns lets what is urgent for a peer go before its other streams. Nobody holds
// anything while he sends: a stream that its reader has let run full must not
// keep the others waiting.
type turns struct {
	mu sync.Mutex
	of map[index.NodeID]*peerTurns
}

type peerTurns struct {
	streams map[*turn]struct{}
	changed chan struct{} // closed and replaced when a stream has nothing more to send
}

// turn is one stream's part in that.
type turn struct {
	t        *turns
	peer     index.NodeID
	busy     bool
	priority uint8
	moved    time.Time // when it last sent something, or began to
}

func newTurns() *turns { return &turns{of: make(map[index.NodeID]*peerTurns)} }

// join adds a stream to a peer's; leave must follow.
func (t *turns) join(peer index.NodeID) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.of[peer]
	if p == nil {
		p = &peerTurns{streams: make(map[*turn]struct{}), changed: make(chan struct{})}
		t.of[peer] = p
	}
	s := &turn{t: t, peer: peer}
	p.streams[s] = struct{}{}
	return s
}

func (s *turn) leave() {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	p := s.t.of[s.peer]
	delete(p.streams, s)
	if len(p.streams) == 0 {
		delete(s.t.of, s.peer)
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// begin says that the stream has something to send.
func (s *turn) begin(priority uint8) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.busy, s.priority, s.moved = true, priority, time.Now()
}

// end says that it has nothing more to send.
func (s *turn) end() {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if !s.busy {
		return
	}
	s.busy = false
	p := s.t.of[s.peer]
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait returns when the stream may send its next part.
func (s *turn) wait() {
	var most *time.Timer
	for {
		s.t.mu.Lock()
		now := time.Now()
		behind := false
		p := s.t.of[s.peer]
		for o := range p.streams {
			behind = behind || o != s && o.busy && o.priority < s.priority && now.Sub(o.moved) < yieldTo
		}
		changed := p.changed
		if !behind {
			s.moved = now
		}
		s.t.mu.Unlock()
		if !behind {
			if most != nil {
				most.Stop()
			}
			return
		}
		if most == nil {
			most = time.NewTimer(yieldMost)
		}
		select {
		case <-changed:
		case <-most.C:
			s.t.mu.Lock()
			s.moved = time.Now()
			s.t.mu.Unlock()
			return
		}
	}
}
