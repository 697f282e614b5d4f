package archive

import (
	"context"
	"sync"
	"time"
)

// heldAgain is when what is held back looks again.
const heldAgain = 5 * time.Second

// hold keeps something from being done while what it would change is copied.
type hold struct {
	mu      sync.Mutex
	holders int
	busy    bool
	idle    chan struct{} // closed when what was busy is done
}

// begin says that something is being done until done, unless it is held back.
func (h *hold) begin() (done func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holders > 0 {
		return nil, false
	}
	h.busy, h.idle = true, make(chan struct{})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.busy = false
		close(h.idle)
	}, true
}

// take holds it back until release, and waits for what is being done.
func (h *hold) take(ctx context.Context) (release func(), err error) {
	h.mu.Lock()
	h.holders++
	var idle chan struct{}
	if h.busy {
		idle = h.idle
	}
	h.mu.Unlock()
	var once sync.Once
	release = func() {
		once.Do(func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.holders--
		})
	}
	if idle == nil {
		return release, nil
	}
	select {
	case <-idle:
		return release, nil
	case <-ctx.Done():
		release()
		return nil, ctx.Err()
	}
}

// HoldSweeps keeps everything that was stored from being swept or evicted until
// release.
func (a *Archive) HoldSweeps(ctx context.Context) (release func(), err error) {
	free, err := a.space.hold.take(ctx)
	if err != nil {
		return nil, err
	}
	return func() { free(); a.space.poke() }, nil
}

// HoldErasures keeps erasures from going on until release; what is asked for is
// written down meanwhile. So no key goes, and nothing is purged.
func (a *Archive) HoldErasures(ctx context.Context) (release func(), err error) {
	free, err := a.erase.hold.take(ctx)
	if err != nil {
		return nil, err
	}
	return func() { free(); a.erase.poke() }, nil
}
