package api

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/priormesh/priormesh/node/archive"
)

// Searches at once, and those that wait for one of them to end. A search may keep a core busy for seconds.
const (
	maxSearching = 8
	maxWaiting   = 256
	searchAgain  = 5 * time.Second // when to ask again after that
)

// turns lets so many searches run at once and so many wait; the others are
// told to ask again.
type turns struct {
	free     chan struct{}
	waiting  atomic.Int64
	most     int64
	stopping context.Context // nil: never
}

func newTurns(running, waiting int, stopping context.Context) *turns {
	return &turns{free: make(chan struct{}, running), most: int64(waiting), stopping: stopping}
}

// take calls fn when it is its turn. It ends when nobody waits for it any more,
// or the node stops.
func (t *turns) take(ctx context.Context, fn func(context.Context) error) error {
	asker := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if t.stopping != nil {
		defer context.AfterFunc(t.stopping, cancel)()
	}
	err := t.wait(ctx)
	if err == nil {
		defer func() { <-t.free }()
		err = fn(ctx)
	}
	if errors.Is(err, context.Canceled) && asker.Err() == nil && t.stopping != nil && t.stopping.Err() != nil {
		return &archive.Unavailable{Reason: "the node is stopping", RetryAfter: searchAgain}
	}
	return err
}

func (t *turns) wait(ctx context.Context) error {
	select {
	case t.free <- struct{}{}:
		return nil
	default:
	}
	defer t.waiting.Add(-1)
	if t.waiting.Add(1) > t.most {
		return &archive.Unavailable{Reason: "so many searches wait at this node that it takes no more for now; ask again in some seconds", RetryAfter: searchAgain}
	}
	select {
	case t.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
