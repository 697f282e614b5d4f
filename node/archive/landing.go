package archive

import (
	"context"
	"errors"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
)

const (
	landingAll   = 96 << 20 // bytes of all that comes which may wait for the disk
	landingMost  = 24 << 20 // and of one study
	landingLeast = 2 << 20  // what one study may have, however many come at once
	landingWrite = 16 << 20 // written together: what one sync of the disk covers
)

// errLanded says that a landing takes nothing more.
var errLanded = errors.New("nobody brings the study any more")

// landing is where blocks come down that others send: with readers at once, and
// on the disk in batches, while the next ones come. It makes nobody wait, but
// says when it has too much.
type landing struct {
	shelf cas.Shelf
	most  func() int      // bytes that may wait
	hold  func(full bool) // told when it has too much, and when no longer

	telling sync.Mutex // held while hold is called; before mu

	mu      sync.Mutex
	fresh   map[cid.Cid][]byte // not durable yet
	queue   []cas.Block
	bytes   int
	full    bool
	taken   uint64        // blocks so far
	durable uint64        // of these
	changed chan struct{} // closed and replaced when durable, full or err changes
	work    chan struct{} // a token says that there is something to write
	err     error         // why it takes nothing more
}

func newLanding(shelf cas.Shelf, most func() int, hold func(bool)) *landing {
	return &landing{shelf: shelf, most: most, hold: hold, fresh: make(map[cid.Cid][]byte),
		changed: make(chan struct{}), work: make(chan struct{}, 1)}
}

// take takes a verified block.
func (l *landing) take(b cas.Block) error {
	l.mu.Lock()
	if _, again := l.fresh[b.CID]; again || l.err != nil {
		defer l.mu.Unlock()
		return l.err
	}
	l.fresh[b.CID] = b.Data
	l.queue = append(l.queue, b)
	l.bytes += len(b.Data)
	l.taken++
	select {
	case l.work <- struct{}{}:
	default:
	}
	over := !l.full && l.bytes > l.most()
	l.full = l.full || over
	l.mu.Unlock()
	if over {
		l.tell()
	}
	return nil
}

// tell tells whether there is too much. mu is not held: whoever is told may be
// asking has.
func (l *landing) tell() {
	l.telling.Lock()
	defer l.telling.Unlock()
	l.mu.Lock()
	full := l.full
	l.mu.Unlock()
	l.hold(full)
}

// has says whether a block is here and not durable yet.
func (l *landing) has(c cid.Cid) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.fresh[c]
	return ok
}

// get is has, with the bytes.
func (l *landing) get(c cid.Cid) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fresh[c]
}

// run writes until ctx ends, and then what is left, or until it cannot. What
// comes after that is refused: nobody would write it.
func (l *landing) run(ctx context.Context) error {
	for {
		select {
		case <-l.work:
		case <-ctx.Done():
		}
		for l.write(ctx) {
		}
		if err := l.failed(); err != nil {
			return err
		}
		if ctx.Err() != nil && l.end() {
			return nil
		}
	}
}

// end ends it, unless something has come meanwhile.
func (l *landing) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 {
		return false
	}
	l.err = errLanded
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

func (l *landing) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// write writes one batch; false: there is none.
func (l *landing) write(ctx context.Context) bool {
	l.mu.Lock()
	n, size := 0, 0
	for n < len(l.queue) && size < landingWrite {
		size += len(l.queue[n].Data)
		n++
	}
	batch := l.queue[:n:n]
	l.queue = l.queue[n:]
	failed := l.err
	l.mu.Unlock()
	if n == 0 || failed != nil {
		return false
	}
	// What has come is kept, also when nobody waits for it any more.
	err := l.shelf.Put(context.WithoutCancel(ctx), batch...)

	l.mu.Lock()
	for _, b := range batch {
		delete(l.fresh, b.CID)
	}
	l.bytes -= size
	if err != nil {
		l.err, l.queue, l.bytes = err, nil, 0
		clear(l.fresh)
	} else {
		l.durable += uint64(n)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	easier := l.full && l.bytes <= l.most()/2
	l.full = l.full && !easier
	l.mu.Unlock()
	if easier {
		l.tell()
	}
	return err == nil
}

// settle returns when all that came before is durable.
func (l *landing) settle(ctx context.Context) error {
	l.mu.Lock()
	upto := l.taken
	l.mu.Unlock()
	return l.until(ctx, func() bool { return l.durable >= upto })
}

// room returns when it has not too much, for those who can wait.
func (l *landing) room(ctx context.Context) error {
	return l.until(ctx, func() bool { return l.err == nil && !l.full })
}

// until waits for something that is so while mu is held.
func (l *landing) until(ctx context.Context, so func() bool) error {
	for {
		l.mu.Lock()
		done, err, changed := so(), l.err, l.changed
		l.mu.Unlock()
		if done {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
