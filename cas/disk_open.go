package cas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

const (
	// scanBatch is how many records of a pack the locator takes in at once.
	scanBatch = 4096
	// maxStrikes is how often the process may end while the locator is opened
	// before that is made anew.
	maxStrikes = 2
	// sayEvery so many packs a long scan says how far it is.
	sayEvery = 16
)

// OpenDisk opens or creates the store in dir, which no other process may have
// open (ErrInUse) and which holds nothing else.
//
// What the locator does not know of the packs is read from them: after a crash
// the end of the last one, without a locator all of them. That takes as long
// as the disk takes to read them.
func OpenDisk(dir string, o DiskOptions) (*Disk, error) {
	if o.FS == nil {
		o.FS = OS()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Reserve == 0 {
		o.Reserve = defaultReserve
	}
	if o.PackSize == 0 {
		o.PackSize = defaultPackSize
	}
	o.PackSize = min(o.PackSize, maxPackSize)
	if o.CollectEvery == 0 {
		o.CollectEvery = defaultCollectEvery
	}
	d := &Disk{
		fs: o.FS, dir: dir, log: o.Log, o: o,
		writes: make(chan *write), collects: make(chan *collect), kick: make(chan struct{}, 1), quit: make(chan struct{}),
		w: writer{ends: map[uint64]packEnd{}},
		c: collector{stuck: map[uint64]int64{}, still: make(chan struct{}, 1)},
	}
	d.f = newPackFiles(func(n uint64) (File, error) { return d.fs.Open(d.packPath(n)) })
	if err := d.open(); err != nil {
		d.f.close()
		if d.l != nil {
			err = errors.Join(err, d.l.close())
		}
		if d.lock != nil {
			err = errors.Join(err, d.lock.Close())
		}
		return nil, err
	}
	d.c.ctx, d.c.cancel = context.WithCancel(context.Background())
	d.own.Go(d.writeLoop)
	d.own.Go(d.collectLoop)
	d.own.Go(func() { <-d.quit; d.c.cancel() })
	return d, nil
}

func (d *Disk) open() error {
	if err := d.prepare(); err != nil {
		return err
	}
	names, err := d.fs.ReadDir(filepath.Join(d.dir, "packs"))
	if err != nil {
		return fmt.Errorf("opening the block store: %w", err)
	}
	var packs []uint64
	for _, name := range names {
		if n, ok := parsePackName(name); ok {
			packs = append(packs, n)
		}
	}
	if err := d.locatorRoom(); err != nil {
		return fmt.Errorf("opening the block store in %s: %w; make room and start again, nothing is lost", d.dir, err)
	}
	if err := d.openLocator(len(packs) > 0); err != nil {
		return err
	}
	if err := d.takeIn(packs); err != nil {
		return err
	}
	d.w.next = 1
	for n := range d.l.allPacks() {
		d.w.next = max(d.w.next, n+1)
	}
	return nil
}

// prepare makes the folders and takes the lock.
func (d *Disk) prepare() error {
	names, err := d.fs.ReadDir(d.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening the block store: %w", err)
	}
	if slices.Contains(names, "MANIFEST") {
		return fmt.Errorf("block store: %w: %s was written by a version before packs; read its studies with that version and store them here again", ErrVersion, d.dir)
	}
	packs := filepath.Join(d.dir, "packs")
	if err := d.fs.MkdirAll(packs); err != nil {
		return fmt.Errorf("opening the block store: %w", err)
	}
	if d.lock = io.Closer(noLock{}); d.fs == OS() {
		if d.lock, err = lockFile(filepath.Join(d.dir, "lock")); err != nil {
			d.lock = nil
			return fmt.Errorf("opening the block store in %s: %w", d.dir, err)
		}
	}
	for _, dir := range []string{packs, d.dir, filepath.Dir(d.dir)} {
		if err := d.fs.SyncDir(dir); err != nil {
			return fmt.Errorf("opening the block store: %w: %w", ErrDiskFailed, err)
		}
	}
	return nil
}

type noLock struct{}

func (noLock) Close() error { return nil }

// openLocator opens the locator, or an empty one when it is of no use.
func (d *Disk) openLocator(packs bool) (err error) {
	if d.o.Volatile {
		d.l, err = openLocator("", d.log)
		return err
	}
	dir := filepath.Join(d.dir, "locator")
	aside := dir + ".old"
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("opening the block store: %w", err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && packs {
		d.log.Warn("block store: there is no locator; it is made from the packs, and blocks deleted lately may come back", "folder", d.dir)
	}
	// Badger checks little of what it opens, and some damage ends the process,
	// in a goroutine of Badger's where nobody can stop it. That must not go on
	// for ever.
	strikes := dir + ".opening"
	died, err := os.ReadFile(strikes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening the block store: %w", err)
	}
	if len(died) >= maxStrikes {
		err = fmt.Errorf("%w: the process ended while it was opened, %d times", errLocatorDamaged, len(died))
	} else if err = os.WriteFile(strikes, append(died, '.'), 0o600); err != nil {
		return fmt.Errorf("opening the block store: %w", err)
	} else if d.l, err = openLocator(dir, d.log); !errors.Is(err, errLocatorDamaged) {
		return errors.Join(err, os.Remove(strikes))
	}
	d.log.Error("block store: the locator is made anew from the packs, and blocks deleted lately may come back", "folder", d.dir, "err", err)
	if err = os.Rename(dir, aside); err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.RemoveAll(aside)
	}
	if err == nil {
		d.l, err = openLocator(dir, d.log)
	}
	return errors.Join(err, os.Remove(strikes))
}

// uncacher is a File that can be read from the disk itself from now on.
type uncacher interface{ Uncache() error }

// takeIn brings the locator up to date with the packs that there are. After
// it, every pack has ended: none of an earlier life is ever appended to.
func (d *Disk) takeIn(packs []uint64) error {
	there := map[uint64]bool{}
	var todo []uint64
	for _, n := range packs {
		there[n] = true
		if p, ok := d.l.pack(n); !ok || !p.settled() {
			todo = append(todo, n)
		}
	}
	for n, p := range d.l.allPacks() {
		if there[n] {
			continue
		}
		if p.blocks > 0 {
			d.log.Error("block store: a pack is gone and blocks with it; fetch them again from another holder", "pack", packName(n), "blocks", p.blocks)
		}
		if _, err := d.l.apply(nil, map[uint64]packEnd{n: {ended: true}}); err != nil {
			return err
		}
	}
	slices.Sort(todo)
	for i, n := range todo {
		if i > 0 && i%sayEvery == 0 {
			d.log.Info("block store: reading packs that the locator does not know", "read", i, "of", len(todo))
		}
		if err := d.takeInPack(n, there); err != nil {
			return err
		}
	}
	// From here on numbers of packs that are gone may be given again, and what
	// an earlier process told the locator of them may be in memory only.
	if err := d.l.sync(); err != nil {
		return fmt.Errorf("opening the block store: %w: %w", ErrDiskFailed, err)
	}
	return nil
}

func (d *Disk) takeInPack(n uint64, there map[uint64]bool) error {
	info, _ := d.l.pack(n)
	fail := func(err error) error {
		return fmt.Errorf("opening the block store: pack %s: %w", packName(n), err)
	}
	from := max(info.size, packHeader)
	if info.again > 0 {
		from = info.again
	}
	again := func(why error) error {
		d.log.Error("block store: a pack cannot be read; what is in it and not in the locator is missing until it can",
			"pack", packName(n), "err", why)
		_, err := d.l.apply(nil, map[uint64]packEnd{n: {size: info.size, ended: true, again: from}})
		return err
	}
	f, err := d.fs.Open(d.packPath(n))
	if err != nil {
		if errors.Is(err, syscall.EIO) {
			return again(err)
		}
		return fail(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return fail(err)
	}
	// What an earlier process wrote and did not sync is in the file and not
	// on the disk; it counts only when it is. And where a sync failed before,
	// only the disk knows what it has.
	if err := f.Sync(); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrDiskFailed, err))
	}
	if u, ok := f.(uncacher); ok {
		if err := u.Uncache(); err != nil {
			return fail(err)
		}
	}
	head := make([]byte, packHeader)
	if n, _ := f.ReadAt(head, 0); n == packHeader {
		if err := checkPackHeader(head); err != nil {
			return fail(err)
		}
	}
	var batch []change
	flush := func() error {
		_, err := d.l.apply(batch, map[uint64]packEnd{n: {again: from}}) // until the scan has come to its end
		batch = batch[:0]
		return err
	}
	res, err := scanPack(f, from, size, true, func(offset int64, h header, _ []byte) error {
		to := place{n, uint32(offset), uint32(h.length)}
		at, held, err := d.l.find(h.id)
		if err != nil {
			return err
		}
		// Of two records that are whole the later one was written because the
		// earlier one could not be read, or was about to be collected.
		if held && there[at.pack] && !at.before(to) {
			return nil
		}
		if batch = append(batch, change{h.id, to}); len(batch) == scanBatch {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return fail(err)
	}
	end := packEnd{size: size, ended: true}
	if res.unreadable > 0 {
		end.again = from
		d.log.Error("block store: parts of a pack cannot be read; what is in them is missing until they can", "pack", packName(n), "reads", res.unreadable)
	} else if res.damaged > 0 {
		d.log.Warn("block store: bytes of a pack belong to no whole record: damage, or what was under way in a crash", "pack", packName(n), "bytes", res.damaged)
	}
	if _, err := d.l.apply(nil, map[uint64]packEnd{n: end}); err != nil {
		return fail(err)
	}
	return nil
}
