package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
)

var (
	// ErrInUse says another process has the directory open.
	ErrInUse = errors.New("another process has this store open; stop it first")
	// ErrDiskFull says the disk has less free space than the store keeps back,
	// or none at all.
	ErrDiskFull = errors.New("the disk is nearly full; free space or add some")
	// ErrDiskFailed says a write may not have reached the disk. What was
	// acknowledged before is not touched by it; the store goes on reading and
	// tries the next write afresh.
	ErrDiskFailed = errors.New("the disk failed to take a write; check it")
)

// DiskOptions tunes a Disk; the zero value is right for a node.
type DiskOptions struct {
	// FS is where the packs lie; nil: OS().
	FS FS
	// Volatile keeps the locator in memory: it is made from the packs whenever
	// the store is opened, and what was deleted and lies in a pack still is
	// back then. For tests and simulations.
	Volatile bool
	Log      *slog.Logger // nil: silent
	// Reserve is how many bytes of disk are left alone: a Put that would leave
	// less is refused with ErrDiskFull. 0: 512 MiB; negative: no check. The
	// collector may use three quarters of it, because that makes room.
	Reserve int64
	// PackSize is where a pack ends, up to 1 GiB; 0: 256 MiB.
	PackSize int64
	// CollectEvery is how often the collector looks for space to give back;
	// 0: a minute; negative: only when Collect is called.
	CollectEvery time.Duration
}

const (
	defaultReserve      = 512 << 20
	defaultPackSize     = 256 << 20
	maxPackSize         = 1 << 30
	defaultCollectEvery = time.Minute

	// locatorRoom is the free space without which the locator is not written:
	// Badger writes through mappings of sparse files, and on a full disk that
	// is the end of the process and not an error.
	locatorRoom = 64 << 20
)

// Disk is a Store in a directory of its own: blocks in packs, and a locator
// that says where. One goroutine does all writing, in groups with one sync of
// the disk each; another gives back the space of what is deleted. Close waits
// for both.
type Disk struct {
	fs   FS
	dir  string
	log  *slog.Logger
	o    DiskOptions
	l    *locator
	f    *packFiles
	lock io.Closer

	writes   chan *write
	collects chan *collect
	kick     chan struct{} // a pack has nothing live any more
	quit     chan struct{}
	own      sync.WaitGroup

	mu     sync.RWMutex // held for reading while the store is in use, so Close can wait
	closed bool

	ending sync.Mutex // by Close
	ended  bool       // nothing is left to be closed

	w writer    // the writing goroutine's
	c collector // the collecting goroutine's
}

// Space is what blocks take on disk.
type Space struct {
	Blocks int64 // held
	Live   int64 // bytes of their records
	Dead   int64 // bytes that the collector can give back
}

// Space tells of all packs. It costs nothing.
func (d *Disk) Space() Space {
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	return Space{d.l.blocks, d.l.live, d.l.size - d.l.live}
}

type diskShelf struct {
	*Disk
	id ShelfID
}

// Shelf implements Store.
func (d *Disk) Shelf(id ShelfID) Shelf { return diskShelf{d, id} }

// Shelves implements Store.
func (d *Disk) Shelves(ctx context.Context, after ShelfID, fn func(ShelfID) error) error {
	for {
		var ids []ShelfID
		err := d.use(ctx, func() (err error) { ids, err = d.l.shelves(after); return err })
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(id); err != nil {
				return err
			}
		}
		if len(ids) < pageKeys {
			return nil
		}
		after = ids[len(ids)-1]
	}
}

// Drop implements Store. Other writes get their turn in between.
func (d *Disk) Drop(ctx context.Context, id ShelfID) error {
	var page []listed
	var after []byte
	for {
		err := d.use(ctx, func() (err error) { page, err = d.l.page(id, after, page); return err })
		if err != nil {
			return err
		}
		digests := make([][sha256.Size]byte, len(page))
		for i, e := range page {
			digests[i] = e.digest
		}
		// Also with nothing to delete: an earlier Drop may have failed after
		// it deleted, and what it deleted is durable after this one.
		if err := d.write(ctx, &write{shelf: id, del: digests, deletes: true}); err != nil {
			return err
		}
		if len(page) < pageKeys {
			return nil
		}
		last := page[len(page)-1].digest
		after = last[:]
	}
}

// Put implements Putter. Concurrent calls share one sync of the disk.
func (s diskShelf) Put(ctx context.Context, blocks ...Block) error {
	digests, err := admit(blocks)
	if err != nil {
		return err
	}
	// What can be done beside the writing goroutine is done here: checksums,
	// and whether what is held can be read.
	w := &write{shelf: s.id, put: blocks, digests: digests, crcs: make([]uint32, len(blocks)), whole: make([]place, len(blocks))}
	for i, b := range blocks {
		w.bytes += recordHeader + int64(len(b.Data))
		err := s.use(ctx, func() error {
			id := blockID{s.id, digests[i]}
			p, held, err := s.l.find(id)
			if err == nil && held {
				if _, _, err := s.read(p, id); err == nil {
					w.whole[i] = p
					return nil
				}
			}
			w.crcs[i] = crc32.Checksum(b.Data, castagnoli)
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.write(ctx, w)
}

// Delete implements Shelf.
func (s diskShelf) Delete(ctx context.Context, cids ...cid.Cid) error {
	var digests [][sha256.Size]byte
	for _, c := range cids {
		if d, err := digestOf(c); err == nil {
			digests = append(digests, d)
		}
	}
	return s.write(ctx, &write{shelf: s.id, del: digests, deletes: true})
}

// use keeps Close away while fn reads.
func (d *Disk) use(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return ErrClosed
	}
	return fn()
}

// Get implements Getter.
func (s diskShelf) Get(ctx context.Context, c cid.Cid) (data []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	digest, err := digestOf(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	}
	id := blockID{s.id, digest}
	err = s.use(ctx, func() error {
		var was place
		var failed error
		for {
			p, held, err := s.l.find(id)
			if err != nil {
				return err
			}
			if !held {
				return fmt.Errorf("%w: %s", ErrNotFound, c)
			}
			if p == was {
				return failed
			}
			// A pack may go while it is read: then the block is elsewhere.
			if data, _, failed = s.read(p, id); failed == nil {
				return nil
			}
			was = p
		}
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// read returns the data at a place, which is the caller's own, or an error
// that says what is wrong: ErrCorrupt when the bytes are lost, whatever the
// disk said when asked for them.
func (d *Disk) read(p place, id blockID) (data []byte, crc uint32, err error) {
	c := cidOf(id.digest)
	if p.length < 1 || p.length > MaxBlock {
		return nil, 0, corrupt(c, "the locator does not know its length")
	}
	f, err := d.f.acquire(p.pack)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, corrupt(c, "the pack that has it is gone")
		}
		return nil, 0, readErr(c, err)
	}
	defer d.f.release(f)
	b := make([]byte, p.extent())
	n, err := f.file.ReadAt(b, int64(p.offset))
	if n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			return nil, 0, corrupt(c, "the pack that has it ends before it")
		}
		return nil, 0, readErr(c, err)
	}
	data, crc, why := checkRecord(b, id)
	if why != "" {
		return nil, 0, corrupt(c, why)
	}
	return data, crc, nil
}

// readErr tells a disk that has lost bytes from a process that cannot ask.
func readErr(c cid.Cid, err error) error {
	if errors.Is(err, syscall.EIO) {
		return fmt.Errorf("%w: %s: %w; fetch it again from another holder, and check the disk", ErrCorrupt, c, err)
	}
	return fmt.Errorf("block store: reading %s: %w", c, err)
}

// Has implements Shelf.
func (s diskShelf) Has(ctx context.Context, c cid.Cid) (has bool, err error) {
	digest, err := digestOf(c)
	if err != nil {
		return false, ctx.Err()
	}
	err = s.use(ctx, func() (err error) { _, has, err = s.l.find(blockID{s.id, digest}); return err })
	return has, err
}

// Enumerate implements Shelf.
func (s diskShelf) Enumerate(ctx context.Context, after cid.Cid, fn func(cid.Cid, int64) error) error {
	from, err := cursor(after)
	if err != nil {
		return err
	}
	var page []listed
	for {
		err := s.use(ctx, func() (err error) { page, err = s.l.page(s.id, from, page); return err })
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(cidOf(e.digest), e.length); err != nil {
				return err
			}
		}
		if len(page) < pageKeys {
			return nil
		}
		last := page[len(page)-1].digest
		from = last[:]
	}
}

// Size implements Shelf.
func (s diskShelf) Size(ctx context.Context) (blocks int, bytes int64, err error) {
	err = s.use(ctx, func() error {
		n, b, err := s.l.shelfSize(s.id)
		blocks, bytes = int(n), b
		return err
	})
	return blocks, bytes, err
}

// Close waits for what is under way and closes the store. It may be called twice.
func (d *Disk) Close() error {
	d.ending.Lock()
	defer d.ending.Unlock()
	d.mu.Lock()
	first := !d.closed
	d.closed = true
	d.mu.Unlock()
	if first {
		close(d.quit)
		d.own.Wait()
		d.f.close()
	}
	if d.ended {
		return nil
	}
	if err := d.locatorRoom(); err != nil {
		// To close the locator is to write it, and on a full disk that is the end
		// of the process. Left as a crash leaves it nothing is lost. Until the
		// process ends, or Close finds room, nobody can open the store.
		d.log.Warn("block store: the locator is left as it is, with nothing lost", "err", err)
		return nil
	}
	d.ended = true
	err := d.finish()
	if err == nil {
		err = d.l.sync()
	}
	return errors.Join(err, d.l.close(), d.lock.Close())
}

func (d *Disk) packPath(n uint64) string { return filepath.Join(d.dir, "packs", packName(n)) }

var _, _ Store = (*Disk)(nil), (*Memory)(nil)
