package node

import (
	"context"
	"sync"
	"time"

	"github.com/priormesh/priormesh/index"
)

// adoptAgain is the wait after an adoption that could not be queued.
const adoptAgain = 10 * time.Second

// adoption has what other nodes of this trust put into the bucket written into
// this node's catalogue. It lies between the index, which must not be kept
// waiting, and the fetch queue, which is on disk.
type adoption struct {
	n    *Node
	wake chan struct{}
	mu   sync.Mutex
	todo map[string]bool
}

func newAdoption(n *Node) *adoption {
	return &adoption{n: n, wake: make(chan struct{}, 1), todo: make(map[string]bool)}
}

// heard notes a study that a node has told of.
func (d *adoption) heard(f index.Fact) {
	if !d.n.shared || f.Author == d.n.index.Self() {
		return
	}
	if trust, _ := d.n.index.TrustOf(f.Author); trust != d.n.home.Config.Trust {
		return
	}
	d.mu.Lock()
	d.todo[f.Subject] = true
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run begins with what was heard before the node started, and may not have
// reached the queue.
func (d *adoption) run(ctx context.Context) {
	if !d.n.shared {
		return
	}
	for q := (index.Query{Trust: d.n.home.Config.Trust}); ctx.Err() == nil; {
		ans, err := d.n.index.Studies(ctx, q)
		if err != nil {
			d.n.Log.Error("what other nodes of this trust have stored could not be looked for", "error", err)
			break
		}
		for _, s := range ans.Studies {
			d.adopt(s.UID)
		}
		if q.After = ans.Next; !ans.More {
			break
		}
	}
	for {
		d.mu.Lock()
		todo := d.todo
		d.todo = make(map[string]bool)
		d.mu.Unlock()
		for study := range todo {
			if ctx.Err() != nil {
				return
			}
			d.adopt(study)
		}
		d.mu.Lock()
		failed := len(d.todo) > 0
		d.mu.Unlock()
		var again <-chan time.Time
		var timer *time.Timer
		if failed {
			timer = time.NewTimer(adoptAgain)
			again = timer.C
		}
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-again:
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (d *adoption) adopt(study string) {
	if err := d.n.archive.Adopt(study); err != nil {
		d.n.Log.Error("a study of another node of this trust could not be queued; it is tried again", "error", err)
		d.mu.Lock()
		d.todo[study] = true
		d.mu.Unlock()
	}
}
