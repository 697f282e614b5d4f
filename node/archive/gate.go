package archive

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errBusy says that somebody writes to a source, or wants to.
var errBusy = errors.New("the study is being written to")

// gate keeps apart those who write blocks of a source and those who delete
// blocks of it. A writer counts on blocks that he finds on the shelf before
// anything refers to them; a sweep would take exactly these away. Writers do
// not disturb each other, and whoever deletes makes way for them at once.
type gate struct {
	mu sync.Mutex
	of map[sourceID]*entrance
}

type entrance struct {
	writers int
	noted   bool          // one of the writers inside has noted on disk that there is something to sweep
	waiting int           // writers that wait for it to open
	shut    chan struct{} // closed when it opens again; nil while it is open
}

// enter lets a writer in. leave may be called more than once.
func (g *gate) enter(ctx context.Context, id sourceID) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.of[id]
	if e == nil {
		e = new(entrance)
		g.of[id] = e
	}
	for e.shut != nil {
		opens := e.shut
		e.waiting++
		g.mu.Unlock()
		select {
		case <-opens:
		case <-ctx.Done():
		}
		g.mu.Lock()
		e.waiting--
		if ctx.Err() != nil {
			g.tidy(id, e)
			return nil, ctx.Err()
		}
	}
	e.writers++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if e.writers--; e.writers == 0 {
			e.noted = false
		}
		g.tidy(id, e)
	}), nil
}

// note says, inside, that the source's note is on disk; whether it is says noted.
func (g *gate) note(id sourceID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.of[id].noted = true
}

func (g *gate) noted(id sourceID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.of[id].noted
}

// shut keeps writers out, or fails with errBusy. Whoever holds it shut asks
// wanted often, and opens when it says so.
func (g *gate) shut(id sourceID) (open func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.of[id]
	if e == nil {
		e = new(entrance)
		g.of[id] = e
	}
	if e.writers > 0 || e.waiting > 0 || e.shut != nil {
		return nil, errBusy
	}
	opens := make(chan struct{})
	e.shut = opens
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		e.shut = nil
		close(opens)
		g.tidy(id, e)
	}), nil
}

// clear keeps writers out and waits until those inside have left. Unlike shut it
// does not make way: who wants in waits until it opens.
func (g *gate) clear(ctx context.Context, id sourceID) (open func(), err error) {
	opens := make(chan struct{})
	open = sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if e := g.of[id]; e != nil && e.shut == opens {
			e.shut = nil
			close(opens)
			g.tidy(id, e)
		}
	})
	look := time.NewTicker(gateLook)
	defer look.Stop()
	for {
		g.mu.Lock()
		e := g.of[id]
		if e == nil {
			e = new(entrance)
			g.of[id] = e
		}
		if e.shut == nil {
			e.shut = opens
		}
		done := e.shut == opens && e.writers == 0
		g.mu.Unlock()
		if done {
			return open, nil
		}
		select {
		case <-ctx.Done():
			open()
			return nil, ctx.Err()
		case <-look.C:
		}
	}
}

// wanted says that a writer waits.
func (g *gate) wanted(id sourceID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.of[id]
	return e != nil && e.waiting > 0
}

// tidy forgets an entrance that nobody uses.
func (g *gate) tidy(id sourceID, e *entrance) {
	if e.writers == 0 && e.waiting == 0 && e.shut == nil && g.of[id] == e {
		delete(g.of, id)
	}
}
