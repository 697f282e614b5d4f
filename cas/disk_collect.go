package cas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

const (
	// deadShare of a pack makes it worth copying the rest of it; when it is
	// asked for space, the collector goes further.
	deadShare    = 0.3
	deadShareNow = 0.05
	// smallPacks that restarts left are merged; a pack is small below
	// 1/smallShare of a whole one.
	smallPacks = 4
	smallShare = 4
	// sealDead is how much has to be dead in the pack that is being written
	// for the collector to end it.
	sealDead = 1 << 20
	// moveBytes and moveBlocks are one turn of the collector among the
	// writers, a quarter of what a group takes.
	moveBytes  = groupBytes / 4
	moveBlocks = 1024
)

// collect asks for a pass.
type collect struct{ done chan error }

// collector is what the collecting goroutine knows.
type collector struct {
	ctx    context.Context // ends with the store
	cancel context.CancelFunc
	// stuck packs have live records that cannot be read; they are let alone
	// until they have as many no longer.
	stuck map[uint64]int64
	said  string        // the error that was logged last
	still chan struct{} // full: packs are being copied, or a pass is under way
}

// Collect gives back the space of what is deleted, now, and returns when that
// is done: for after an eviction, not for every delete. A pack of which less
// than a twentieth is dead stays as it is.
func (d *Disk) Collect(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &collect{make(chan error, 1)}
	select {
	case d.collects <- c:
	case <-ctx.Done():
		return ctx.Err()
	case <-d.quit:
		return ErrClosed
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// collectLoop is the collecting goroutine.
func (d *Disk) collectLoop() {
	var tick <-chan time.Time
	kick := d.kick
	if d.o.CollectEvery > 0 {
		t := time.NewTicker(d.o.CollectEvery)
		defer t.Stop()
		tick = t.C
	} else {
		kick = nil
	}
	for {
		select {
		case <-d.quit:
			return
		case <-kick:
			d.tell(d.unlessHeld(d.removeDead))
		case <-tick:
			d.tell(d.unlessHeld(func() error { return d.pass(deadShare) }))
		case c := <-d.collects:
			c.done <- d.unlessHeld(func() error { return d.pass(deadShareNow) })
		}
	}
}

// unlessHeld does a pass, unless packs are being copied.
func (d *Disk) unlessHeld(pass func() error) error {
	select {
	case d.c.still <- struct{}{}:
		defer func() { <-d.c.still }()
		return pass()
	default:
		return ErrHeld
	}
}

// tell logs an error once, not with every tick.
func (d *Disk) tell(err error) {
	switch {
	case err == nil:
		d.c.said = ""
	case errors.Is(err, ErrClosed) || errors.Is(err, ErrHeld) || errors.Is(err, context.Canceled) || err.Error() == d.c.said:
	default:
		d.c.said = err.Error()
		d.log.Warn("block store: space of deleted blocks was not given back; it is tried again", "err", err)
	}
}

// pass collects every pack of which more than share is dead.
func (d *Disk) pass(share float64) error {
	open, dead := d.openDead()
	if info, _ := d.l.pack(open); dead >= sealDead && float64(dead) > share*float64(info.size) || dead > 0 && share == deadShareNow {
		if err := d.write(d.c.ctx, &write{seal: open}); err != nil {
			return err
		}
	}
	if err := d.removeDead(); err != nil {
		return err
	}
	packs := d.l.allPacks()
	var want, small []uint64
	for n, p := range packs {
		if stuck, ok := d.c.stuck[n]; ok && stuck == p.live {
			continue
		}
		delete(d.c.stuck, n)
		switch {
		case !p.settled() || p.blocks == 0:
		case float64(p.size-p.live) > share*float64(p.size):
			want = append(want, n)
		case p.size < d.o.PackSize/smallShare:
			small = append(small, n)
		}
	}
	if len(small) >= smallPacks {
		want = append(want, small...)
	}
	// What gives most for the least copying comes first.
	slices.SortFunc(want, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(packs[a].live, packs[b].live), cmp.Compare(a, b))
	})
	for _, n := range want {
		if err := d.empty(n); err != nil {
			return err
		}
		if err := d.removeDead(); err != nil {
			return err
		}
	}
	return nil
}

// openDead is the pack that has not ended, and what is dead in it. 0: none.
func (d *Disk) openDead() (n uint64, dead int64) {
	for n, p := range d.l.allPacks() {
		if !p.ended {
			return n, p.size - p.live - packHeader
		}
	}
	return 0, 0
}

// empty copies what is live in a pack to the pack that is being written. What
// cannot be read stays where it is, and the pack with it.
func (d *Disk) empty(n uint64) error {
	f, err := d.f.acquire(n)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			d.stick(n, "the pack is gone")
			return nil
		}
		return fmt.Errorf("block store: collecting: %w", err)
	}
	defer d.f.release(f)
	info, _ := d.l.pack(n)
	var batch []move
	var bytes int
	flush := func() error {
		err := d.write(d.c.ctx, &write{moves: batch})
		batch, bytes = nil, 0
		return err
	}
	_, err = scanPack(f.file, packHeader, info.size, false, func(offset int64, h header, _ []byte) error {
		p := place{n, uint32(offset), uint32(h.length)}
		at, held, err := d.l.find(h.id)
		if err != nil || !held || at != p {
			return err
		}
		data, crc, err := d.read(p, h.id)
		if err != nil {
			return nil // it stays live, and keeps the pack
		}
		batch = append(batch, move{h.id, p, data, crc})
		if bytes += len(data); bytes >= moveBytes || len(batch) >= moveBlocks {
			return flush()
		}
		return nil
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	if err != nil {
		return err
	}
	if left, _ := d.l.pack(n); left.blocks != 0 {
		d.stick(n, "blocks in it cannot be read")
	}
	return nil
}

func (d *Disk) stick(n uint64, why string) {
	p, _ := d.l.pack(n)
	d.c.stuck[n] = p.live
	d.log.Warn("block store: a pack is kept although most of it is dead: "+why+"; fetch them again from another holder",
		"pack", packName(n), "blocks", p.blocks)
}

// removeDead removes the packs that have nothing live. At every point in
// between a crash leaves what the next opening takes up: the locator is
// durable first, and it knows of the pack until the removal is durable.
func (d *Disk) removeDead() error {
	var dead []uint64
	for n, p := range d.l.allPacks() {
		if p.dead() {
			dead = append(dead, n)
		}
	}
	if len(dead) == 0 {
		return nil
	}
	if err := d.write(d.c.ctx, &write{settle: true}); err != nil {
		return err
	}
	slices.Sort(dead)
	ends := map[uint64]packEnd{}
	var failure error
	for _, n := range dead {
		err := d.nothingIn(n)
		if err == nil {
			d.f.forget(n)
			err = d.fs.Remove(d.packPath(n))
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			ends[n] = packEnd{gone: true}
		} else if failure == nil {
			failure = fmt.Errorf("removing pack %s: %w", packName(n), err)
		}
		if err := d.c.ctx.Err(); err != nil {
			return err
		}
	}
	if len(ends) == 0 {
		return failure
	}
	if err := d.fs.SyncDir(filepath.Join(d.dir, "packs")); err != nil {
		return fmt.Errorf("removing packs: %w", err)
	}
	return errors.Join(failure, d.write(d.c.ctx, &write{ends: ends}))
}

// nothingIn looks once more, in the pack itself, before it is removed: what is
// removed is removed for good.
func (d *Disk) nothingIn(n uint64) error {
	f, err := d.f.acquire(n)
	if err != nil {
		return err
	}
	defer d.f.release(f)
	info, _ := d.l.pack(n)
	_, err = scanPack(f.file, packHeader, info.size, false, func(offset int64, h header, _ []byte) error {
		at, held, err := d.l.find(h.id)
		if err == nil && held && at == (place{n, uint32(offset), uint32(h.length)}) {
			err = fmt.Errorf("%w: it counts no blocks in a pack that has some; stop the node, remove the folder locator and start it", errLocatorDamaged)
		}
		return err
	})
	return err
}
