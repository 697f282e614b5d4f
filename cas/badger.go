package cas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/ipfs/go-cid"
)

var (
	// ErrInUse says another process has the directory open.
	ErrInUse = errors.New("another process has this store open; stop it first")
	// ErrDiskFull says the disk has less free space than the store keeps back.
	ErrDiskFull = errors.New("the disk is nearly full; free space or add some")
	// ErrDiskFailed says a write may not have reached the disk. The store
	// takes no more writes until it is opened again.
	ErrDiskFailed = errors.New("the disk failed to take a write; check it and restart")
)

// BadgerOptions tunes a Badger store; the zero value is right for a node.
type BadgerOptions struct {
	Log        *slog.Logger  // nil: silent
	GCInterval time.Duration // how often space is reclaimed; 0: 10 minutes, negative: only by Reclaim
	MinFree    int64         // bytes of disk below which nothing is stored; 0: 512 MiB, negative: no check
	FileSize   int64         // of a value log file, 1 MiB to 1 GiB; 0: 512 MiB
}

const (
	defaultGCInterval = 10 * time.Minute
	defaultMinFree    = 512 << 20
	// A value log file is what one damaged byte can cost: after a crash
	// Badger cuts the newest file off at the first entry that does not check.
	// It is also one mapping and one open file, of which a process has
	// some 65,000.
	defaultFileSize = 512 << 20

	// inlineBelow keeps tiny blocks in the LSM tree. Everything larger goes
	// to the value log, written once and never moved by compaction.
	inlineBelow = 1 << 10
	// memTable holds keys and pointers only, so a small one does for
	// some 80,000 blocks.
	memTable   = 8 << 20
	indexCache = 16 << 20

	// groupBytes is how much one group commit gathers.
	groupBytes = 16 << 20
	// pageKeys is how many keys one step of an enumeration reads, so that no
	// transaction stays open while the caller works.
	pageKeys = 1024

	// gcRatio is the part of a value log file that must be dead before it is
	// rewritten.
	gcRatio = 0.5
)

// Badger's keys; see doc.go.
const (
	keyFormat  = 0x00
	keyBlock   = 0x01
	keyScratch = 0x02
)

var formatValue = []byte("priormesh blocks 1")

// Badger is a Store in a directory of its own. One goroutine of its own does
// all writing, in groups, and reclaims space in between; Close waits for it.
type Badger struct {
	db  *badger.DB
	dir *os.File
	log *slog.Logger
	o   BadgerOptions

	writes   chan *write
	reclaims chan chan error
	quit     chan struct{}
	own      sync.WaitGroup

	mu     sync.RWMutex // held for reading while db is in use, so Close can wait
	closed bool

	failed atomic.Bool // Badger told of a sync that failed

	dead int64 // bytes deleted since the last flush; the writing goroutine's
}

// write is what one Put or Delete wants done.
type write struct {
	put  []Block
	keys [][]byte // of put, or to be deleted
	done chan error
}

// OpenBadger opens or creates the store in dir, which no other process may
// have open (ErrInUse) and which holds nothing else.
func OpenBadger(dir string, o BadgerOptions) (*Badger, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.GCInterval == 0 {
		o.GCInterval = defaultGCInterval
	}
	if o.MinFree == 0 {
		o.MinFree = defaultMinFree
	}
	if o.FileSize == 0 {
		o.FileSize = defaultFileSize
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the block store: %w", err)
	}
	b := &Badger{log: o.Log, o: o, writes: make(chan *write), reclaims: make(chan chan error), quit: make(chan struct{})}
	opts := badger.DefaultOptions(dir).
		WithLogger(badgerLog{b}).
		WithMetricsEnabled(false).
		WithSyncWrites(true).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false). // there is one writer
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(indexCache).
		WithMemTableSize(memTable).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithCompactL0OnClose(true).
		WithValueThreshold(inlineBelow).
		WithValueLogFileSize(o.FileSize).
		WithVerifyValueChecksum(true)
	db, err := badger.Open(opts)
	if err != nil {
		if strings.Contains(err.Error(), "Another process is using this Badger database") {
			return nil, fmt.Errorf("%w: %s", ErrInUse, dir)
		}
		return nil, fmt.Errorf("opening the block store in %s: %w", dir, err)
	}
	b.db = db
	if err := b.checkFormat(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if b.dir, err = os.Open(dir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	b.own.Go(b.loop)
	return b, nil
}

func (b *Badger) checkFormat() error {
	return b.db.Update(func(txn *badger.Txn) error {
		item, err := txn.Get([]byte{keyFormat})
		if errors.Is(err, badger.ErrKeyNotFound) {
			it := txn.NewIterator(badger.IteratorOptions{})
			defer it.Close()
			if it.Rewind(); it.Valid() {
				return fmt.Errorf("block store: %w: the database is of something else; give the store a folder of its own", ErrVersion)
			}
			return txn.Set([]byte{keyFormat}, formatValue)
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			if string(v) != string(formatValue) {
				return fmt.Errorf("block store: %w: it says %q; use the version that wrote it", ErrVersion, v)
			}
			return nil
		})
	})
}

// Put implements Putter. Concurrent calls share one sync of the disk.
func (b badgerShelf) Put(ctx context.Context, blocks ...Block) error {
	digests, err := admit(blocks)
	if err != nil {
		return err
	}
	return b.write(ctx, &write{put: blocks, keys: blockKeys(b.id, digests)})
}

// Delete implements Store.
func (b badgerShelf) Delete(ctx context.Context, cids ...cid.Cid) error {
	var digests [][sha256.Size]byte
	for _, c := range cids {
		if d, err := digestOf(c); err == nil {
			digests = append(digests, d)
		}
	}
	return b.write(ctx, &write{keys: blockKeys(b.id, digests)})
}

type badgerShelf struct {
	*Badger
	id ShelfID
}

// Shelf implements Store.
func (b *Badger) Shelf(id ShelfID) Shelf { return badgerShelf{b, id} }

// Shelves implements Store.
func (b *Badger) Shelves(ctx context.Context, after ShelfID, fn func(ShelfID) error) error {
	from := append([]byte{keyBlock}, after[:]...)
	for {
		var id ShelfID
		found := false
		err := b.use(ctx, func() error {
			return b.db.View(func(txn *badger.Txn) error {
				it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{keyBlock}})
				defer it.Close()
				if it.Seek(from); it.Valid() {
					found = true
					copy(id[:], it.Item().Key()[1:])
				}
				return nil
			})
		})
		if err != nil || !found {
			return err
		}
		if id != after || after == (ShelfID{}) {
			if err := fn(id); err != nil {
				return err
			}
		}
		from = append(append([]byte{keyBlock}, id[:]...), bytes.Repeat([]byte{0xff}, sha256.Size)...)
	}
}

// Drop implements Store.
func (b *Badger) Drop(ctx context.Context, id ShelfID) error {
	s := badgerShelf{b, id}
	return s.Enumerate(ctx, cid.Undef, func(c cid.Cid, _ int64) error { return s.Delete(ctx, c) })
}

// Size implements Shelf.
func (b badgerShelf) Size(ctx context.Context) (blocks int, bytes int64, err error) {
	err = b.Enumerate(ctx, cid.Undef, func(_ cid.Cid, n int64) error { blocks++; bytes += n; return nil })
	return blocks, bytes, err
}

func (b badgerShelf) prefix() []byte { return append([]byte{keyBlock}, b.id[:]...) }

func blockKeys(shelf ShelfID, digests [][sha256.Size]byte) [][]byte {
	all := make([]byte, 0, len(digests)*(1+len(shelf)+sha256.Size))
	keys := make([][]byte, len(digests))
	for i, d := range digests {
		at := len(all)
		all = append(append(append(all, keyBlock), shelf[:]...), d[:]...)
		keys[i] = all[at:len(all):len(all)]
	}
	return keys
}

// write hands w to the committer. Until it has taken it, ctx may end the
// wait; from then on the answer comes within a sync or two and is waited
// for, so that nobody reads the caller's bytes after the return.
func (b *Badger) write(ctx context.Context, w *write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.done = make(chan error, 1)
	select {
	case b.writes <- w:
		return <-w.done
	case <-ctx.Done():
		return ctx.Err()
	case <-b.quit:
		return ErrClosed
	}
}

// loop is the writing goroutine. Collecting is done here too, a file at a
// time and in turn with writes: Badger's collector reads what its writer
// changes, without a lock.
func (b *Badger) loop() {
	var tick <-chan time.Time
	if b.o.GCInterval > 0 {
		t := time.NewTicker(b.o.GCInterval)
		defer t.Stop()
		tick = t.C
	}
	var waiting []chan error // callers of Reclaim
	answer := func(err error) {
		for _, done := range waiting {
			done <- err
		}
		waiting = nil
	}
	collecting := make(chan struct{})
	close(collecting)
	var more <-chan struct{} // collecting while there may be more to collect
	for {
		select {
		case <-b.quit:
			answer(ErrClosed)
			return
		case w := <-b.writes:
			b.commitGroup(w)
		case <-tick:
			if more = collecting; b.dead >= b.o.FileSize/2 {
				if err := b.flush(); err != nil {
					b.log.Warn("reclaiming disk space failed; it is tried again later", "err", err)
				}
			}
		case done := <-b.reclaims:
			waiting = append(waiting, done)
			if err := b.flush(); err != nil {
				answer(err)
			} else {
				more = collecting
			}
		case <-more:
			err := b.db.RunValueLogGC(gcRatio)
			if err == nil {
				break
			}
			more = nil
			if errors.Is(err, badger.ErrNoRewrite) {
				err = nil
			} else {
				b.log.Warn("reclaiming disk space failed; it is tried again later", "err", err)
			}
			answer(err)
		}
	}
}

// commitGroup commits w with all that waits beside it.
func (b *Badger) commitGroup(w *write) {
	group := []*write{w}
	size := w.size()
	for size < groupBytes {
		select {
		case w := <-b.writes:
			group = append(group, w)
			size += w.size()
			continue
		default:
		}
		break
	}
	err := b.commit(group, size)
	for _, w := range group {
		w.done <- err
	}
}

func (w *write) size() (n int) {
	for _, b := range w.put {
		n += len(b.Data)
	}
	return n
}

// commit makes a group durable. Because only the committer writes, a block
// that is found here is durable already; if the disk has lost it all the
// same, it is written anew.
func (b *Badger) commit(group []*write, size int) error {
	if b.failed.Load() {
		return ErrDiskFailed
	}
	if size > 0 && b.o.MinFree > 0 {
		// Badger writes through a mapping of a sparse file: on a full disk
		// the process would die of SIGBUS instead of getting an error.
		free, err := freeSpace(b.dir)
		if err != nil {
			return fmt.Errorf("asking for free disk space: %w", err)
		}
		if free-int64(size) < b.o.MinFree {
			return fmt.Errorf("%w: %d MiB are free, %d MiB are kept back", ErrDiskFull, free>>20, b.o.MinFree>>20)
		}
	}
	txn := b.db.NewTransaction(true)
	defer func() { txn.Discard() }()
	held := 0
	apply := func(set func(*badger.Txn) error, n int) error {
		err := set(txn)
		if errors.Is(err, badger.ErrTxnTooBig) || held > 0 && held+n > 2*groupBytes {
			if err := b.sync(txn); err != nil {
				return err
			}
			txn, held = b.db.NewTransaction(true), 0
			err = set(txn)
		}
		held += n
		return err
	}
	for _, w := range group {
		for i, key := range w.keys {
			item, err := txn.Get(key)
			there := err == nil
			if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
				return fmt.Errorf("block store: %w", err)
			}
			switch {
			case w.put != nil && !(there && readable(item)):
				data := w.put[i].Data
				err = apply(func(t *badger.Txn) error { return t.Set(key, data) }, len(data))
			case w.put == nil && there:
				b.dead += valueSize(item)
				err = apply(func(t *badger.Txn) error { return t.Delete(key) }, 0)
			default:
				err = nil
			}
			if err != nil {
				return fmt.Errorf("block store: %w", err)
			}
		}
	}
	return b.sync(txn)
}

// flush moves what is in memory into tables and merges the newest of them:
// Badger counts what is dead only when a deletion meets, in a compaction,
// what it deletes. It has no call for that; dropping a prefix begins with it.
func (b *Badger) flush() error {
	err := b.db.Update(func(txn *badger.Txn) error { return txn.Set([]byte{keyScratch}, nil) })
	if err == nil {
		err = b.db.DropPrefix([]byte{keyScratch})
	}
	if err != nil {
		return fmt.Errorf("block store: %w", err)
	}
	b.dead = 0
	return nil
}

// sync commits and returns when the bytes, the log that names them and the
// names of new files are on disk.
func (b *Badger) sync(txn *badger.Txn) error {
	err := txn.Commit()
	if err == nil {
		err = b.dir.Sync()
	}
	if err != nil {
		// What could not be synced is in memory and would look durable to
		// the next Put of the same block.
		b.failed.Store(true)
		return fmt.Errorf("%w: %w", ErrDiskFailed, err)
	}
	if b.failed.Load() {
		return ErrDiskFailed
	}
	return nil
}

// use keeps Close away while fn reads the database.
func (b *Badger) use(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return ErrClosed
	}
	return fn()
}

// Get implements Getter.
func (b badgerShelf) Get(ctx context.Context, c cid.Cid) (data []byte, err error) {
	d, err := digestOf(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	}
	err = b.use(ctx, func() error {
		for range 2 {
			data, err = b.read(c, d)
			if err != nil || len(data) > 0 {
				return err
			}
			// Once more: the value log file may just have been rewritten.
		}
		// Badger only logs that a value cannot be read or fails its
		// checksum, and gives nothing. No block has no bytes.
		return corrupt(c, "the disk no longer has it as it was")
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

func (b badgerShelf) read(c cid.Cid, digest [sha256.Size]byte) (data []byte, err error) {
	err = b.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(blockKeys(b.id, [][sha256.Size]byte{digest})[0])
		if errors.Is(err, badger.ErrKeyNotFound) {
			return fmt.Errorf("%w: %s", ErrNotFound, c)
		}
		if err == nil {
			data, err = item.ValueCopy(nil)
		}
		if err != nil {
			return fmt.Errorf("block store: %w", err)
		}
		return nil
	})
	return data, err
}

// Has implements Store.
func (b badgerShelf) Has(ctx context.Context, c cid.Cid) (has bool, err error) {
	d, err := digestOf(c)
	if err != nil {
		return false, ctx.Err()
	}
	err = b.use(ctx, func() error {
		return b.db.View(func(txn *badger.Txn) error {
			_, err := txn.Get(blockKeys(b.id, [][sha256.Size]byte{d})[0])
			if errors.Is(err, badger.ErrKeyNotFound) {
				return nil
			}
			has = err == nil
			return err
		})
	})
	return has, err
}

// Enumerate implements Store.
func (b badgerShelf) Enumerate(ctx context.Context, after cid.Cid, fn func(cid.Cid, int64) error) error {
	from, err := cursor(after)
	if err != nil {
		return err
	}
	type entry struct {
		digest [sha256.Size]byte
		size   int64
	}
	page := make([]entry, 0, pageKeys)
	for {
		page = page[:0]
		err := b.use(ctx, func() error {
			return b.db.View(func(txn *badger.Txn) error {
				it := txn.NewIterator(badger.IteratorOptions{Prefix: b.prefix()})
				defer it.Close()
				it.Seek(append(b.prefix(), from...))
				for ; it.Valid() && len(page) < pageKeys; it.Next() {
					item := it.Item()
					d := [sha256.Size]byte(item.Key()[1+len(b.id):])
					if from != nil && d == [sha256.Size]byte(from) {
						continue
					}
					page = append(page, entry{d, valueSize(item)})
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(cidOf(e.digest), e.size); err != nil {
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

// readable says whether the value is there and passes its checksum.
func readable(item *badger.Item) (ok bool) {
	err := item.Value(func(v []byte) error {
		ok = len(v) > 0
		return nil
	})
	return ok && err == nil
}

// valueSize is exact where Item.ValueSize is not: that takes the header of a
// value log entry for 6 bytes, and it has 7 when the value's length needs a
// varint of three bytes (from 16 KiB).
func valueSize(item *badger.Item) int64 {
	n := item.ValueSize()
	if n > 1<<14 {
		n--
	}
	return n
}

// Reclaim gives the space of deleted blocks back to the disk now. It is work:
// for after an eviction, not for every delete.
func (b *Badger) Reclaim(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	select {
	case b.reclaims <- done:
	case <-ctx.Done():
		return ctx.Err()
	case <-b.quit:
		return ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close waits for what is under way and closes the database. It may be called twice.
func (b *Badger) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	close(b.quit)
	b.mu.Unlock()
	b.own.Wait()
	err := b.db.Close()
	return errors.Join(err, b.dir.Close())
}

// badgerLog passes Badger's words on, and listens: a failed sync of the value
// log is told to the log only, never to the writer.
type badgerLog struct{ b *Badger }

func (l badgerLog) Errorf(format string, args ...any) {
	if strings.Contains(format, "sync") {
		l.b.failed.Store(true)
	}
	l.b.log.Error("block store: " + line(format, args))
}

func (l badgerLog) Warningf(format string, args ...any) {
	l.b.log.Warn("block store: " + line(format, args))
}

func (l badgerLog) Infof(string, ...any)  {}
func (l badgerLog) Debugf(string, ...any) {}

func line(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}

var _, _ Store = (*Badger)(nil), (*Memory)(nil)
