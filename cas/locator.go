package cas

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// The locator's tables; see doc.go.
const (
	keyFormat = 0x00
	keyPlace  = 0x01
	keyShelf  = 0x02
	keyPack   = 0x03
	keyLast   = 0xff
)

const locatorFormat = "priormesh locator 1"

// Badger is tuned for being small: a block is some 120 bytes in a memtable
// and some 40 in a table.
const (
	locatorMemTable   = 4 << 20
	locatorIndexCache = 16 << 20
	volatileMemTable  = 1 << 20

	// changesAtOnce keeps a transaction well below what the smaller memtable
	// allows for one.
	changesAtOnce = 400
	// pageKeys is how many keys one step of an enumeration reads, so that no
	// transaction stays open while the caller works.
	pageKeys = 1024
)

// errLocatorDamaged says the locator contradicts itself or cannot be read. It
// is then made anew from the packs.
var errLocatorDamaged = errors.New("the locator is damaged")

// packInfo is what the locator knows of a pack.
type packInfo struct {
	size   int64 // everything before is in the locator
	live   int64 // bytes of records that a place points to
	blocks int64 // their number
	ended  bool  // nothing behind size counts
	again  int64 // where it could not all be read from; it is read again when the store is opened; 0: it could
}

// settled says that the locator knows all that is in a pack, and it is not
// written any more. No other pack is collected.
func (p packInfo) settled() bool { return p.ended && p.again == 0 }

// dead says that a pack has nothing that is wanted.
func (p packInfo) dead() bool { return p.settled() && p.blocks == 0 }

// change is one thing to do to the locator.
type change struct {
	id blockID
	to place // where the block is from now on; zero: nowhere
}

// locator says where each block is. One goroutine at a time changes it; all
// may read. It is a Badger of its own, in a folder or in memory.
type locator struct {
	db       *badger.DB
	dir      string // "" in memory
	volatile bool

	mu     sync.Mutex
	packs  map[uint64]packInfo
	blocks int64
	live   int64
	size   int64
	died   bool // a pack has come to have nothing live
}

// openLocator opens what is in dir or, with dir empty, one in memory.
func openLocator(dir string, log *slog.Logger) (l *locator, err error) {
	fresh := true
	if dir != "" {
		if fresh, err = readThrough(dir); err != nil {
			return nil, err
		}
	}
	opts := badger.DefaultOptions(dir).
		WithLogger(badgerLog{log}).
		WithMetricsEnabled(false).
		WithSyncWrites(false).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false). // there is one writer
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(locatorIndexCache).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithMemTableSize(locatorMemTable).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithValueThreshold(1 << 10). // every value stays in the tree
		WithValueLogFileSize(1 << 20)
	if dir == "" {
		opts = opts.WithInMemory(true).WithMemTableSize(volatileMemTable)
	}
	defer func() {
		if r := recover(); r != nil {
			l, err = nil, fmt.Errorf("%w: opening it failed: %v", errLocatorDamaged, r)
		}
	}()
	db, err := badger.Open(opts)
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "Another process is using this Badger database"):
		return nil, fmt.Errorf("%w: %s", ErrInUse, dir)
	case notDamage(err):
		return nil, fmt.Errorf("opening the locator in %s: %w", dir, err)
	default:
		return nil, fmt.Errorf("%w: %w", errLocatorDamaged, err)
	}
	l = &locator{db: db, dir: dir, volatile: dir == "", packs: map[uint64]packInfo{}}
	if fresh {
		err = db.Update(func(txn *badger.Txn) error {
			return errors.Join(txn.Set([]byte{keyFormat}, []byte(locatorFormat)), txn.Set([]byte{keyLast}, nil))
		})
	} else {
		err = l.load()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return l, nil
}

// readThrough reads every file once, and says whether there is none. What the
// disk cannot read is an error here; met through Badger's mapping it would be
// the end of the process, and of the next one.
func readThrough(dir string) (empty bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("opening the locator: %w", err)
	}
	buf := make([]byte, 1<<20)
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == "LOCK" {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err == nil {
			for err == nil {
				_, err = f.Read(buf)
			}
			if err == io.EOF {
				err = nil
			}
			err = errors.Join(err, f.Close())
		}
		switch {
		case err == nil:
		case notDamage(err):
			return false, fmt.Errorf("opening the locator: %w", err)
		default:
			return false, fmt.Errorf("%w: %w", errLocatorDamaged, err)
		}
	}
	return len(entries) == 0, nil
}

// load reads the counters and checks them against the places: Badger takes a
// table block that does not check for one that has nothing, and cuts a log off
// where it does not check, and says neither.
func (l *locator) load() error {
	type sums struct{ blocks, bytes int64 }
	packs, shelves := map[uint64]sums{}, map[ShelfID]sums{}
	err := l.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get([]byte{keyFormat})
		if err != nil {
			return fmt.Errorf("%w: it does not say its format: %w", errLocatorDamaged, err)
		}
		v, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		if string(v) != locatorFormat {
			return fmt.Errorf("block store: %w: the locator says %q; use the version that wrote it", ErrVersion, v)
		}
		it := txn.NewIterator(badger.IteratorOptions{})
		defer it.Close()
		shelf, shelfSums, whole := ShelfID{}, sums{}, false
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			key := item.Key()
			err := item.Value(func(v []byte) error {
				switch {
				case key[0] == keyPlace && len(key) == placeKeyLen && len(v) == placeLen:
					p := decodePlace(v)
					s := packs[p.pack]
					packs[p.pack] = sums{s.blocks + 1, s.bytes + p.extent()}
					if id := ShelfID(key[1:]); id != shelf {
						shelf, shelfSums = id, sums{}
					}
					shelfSums = sums{shelfSums.blocks + 1, shelfSums.bytes + int64(p.length)}
					shelves[shelf] = shelfSums
				case key[0] == keyShelf && len(key) == shelfKeyLen && len(v) == shelfLen:
					id := ShelfID(key[1:])
					blocks, bytes := decodeShelf(v)
					if shelves[id] != (sums{blocks, bytes}) {
						return fmt.Errorf("%w: a shelf's blocks are not all there", errLocatorDamaged)
					}
					delete(shelves, id)
				case key[0] == keyPack && len(key) == packKeyLen && len(v) == packLen:
					n, p := binary.BigEndian.Uint64(key[1:]), decodePack(v)
					if packs[n] != (sums{p.blocks, p.live}) {
						return fmt.Errorf("%w: a pack's blocks are not all there", errLocatorDamaged)
					}
					delete(packs, n)
					l.setPack(n, p)
				case key[0] == keyFormat && len(key) == 1:
				case key[0] == keyLast && len(key) == 1:
					whole = true
				default:
					return fmt.Errorf("%w: it has an entry of another kind", errLocatorDamaged)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		if !whole || len(packs) != 0 || len(shelves) != 0 {
			return fmt.Errorf("%w: blocks are not counted", errLocatorDamaged)
		}
		return nil
	})
	return err
}

const (
	placeKeyLen = 1 + 16 + sha256.Size
	placeLen    = 16
	shelfKeyLen = 1 + 16
	shelfLen    = 16
	packKeyLen  = 1 + 8
	packLen     = 33
)

func placeKey(id blockID) []byte {
	b := make([]byte, 0, placeKeyLen)
	return append(append(append(b, keyPlace), id.shelf[:]...), id.digest[:]...)
}

func encodePlace(p place) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, placeLen), p.pack)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, p.offset), p.length)
}

func decodePlace(b []byte) place {
	return place{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])}
}

func shelfKey(id ShelfID) []byte { return append([]byte{keyShelf}, id[:]...) }

func encodeShelf(blocks, bytes int64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, shelfLen), uint64(blocks))
	return binary.BigEndian.AppendUint64(b, uint64(bytes))
}

func decodeShelf(b []byte) (blocks, bytes int64) {
	return int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
}

func packKey(n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, packKeyLen), keyPack), n)
}

func encodePack(p packInfo) []byte {
	b := make([]byte, 0, packLen)
	for _, n := range []int64{p.size, p.live, p.blocks, p.again} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if p.ended {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodePack(b []byte) packInfo {
	return packInfo{
		size: int64(binary.BigEndian.Uint64(b)), live: int64(binary.BigEndian.Uint64(b[8:])),
		blocks: int64(binary.BigEndian.Uint64(b[16:])), again: int64(binary.BigEndian.Uint64(b[24:])), ended: b[32] != 0,
	}
}

// find returns where a block is.
func (l *locator) find(id blockID) (p place, ok bool, err error) {
	err = l.db.View(func(txn *badger.Txn) error {
		p, ok, err = findIn(txn, id)
		return err
	})
	return p, ok, locatorErr(err)
}

func findIn(txn *badger.Txn, id blockID) (p place, ok bool, err error) {
	item, err := txn.Get(placeKey(id))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	return p, true, item.Value(func(v []byte) error {
		if len(v) != placeLen {
			return errLocatorDamaged
		}
		p = decodePlace(v)
		return nil
	})
}

// apply makes the changes in order, and what is said of packs by ends. It is
// atomic in parts only, in such an order that the size of a pack is never
// beyond what the locator has of it. The counters follow from the changes. It
// returns how many blocks have another place now, or none.
func (l *locator) apply(changes []change, ends map[uint64]packEnd) (changed int, err error) {
	for {
		n := min(len(changes), changesAtOnce)
		var last map[uint64]packEnd
		if n == len(changes) {
			last = ends
		}
		m, err := l.applyOnce(changes[:n], last)
		if changed += m; err != nil {
			return changed, err
		}
		if changes = changes[n:]; len(changes) == 0 {
			return changed, nil
		}
	}
}

// packEnd says of a pack that it has come to its end, or to where.
type packEnd struct {
	size  int64
	ended bool
	again int64
	gone  bool // the pack is no more; it had nothing live
}

func (l *locator) applyOnce(changes []change, ends map[uint64]packEnd) (changed int, err error) {
	type count struct{ blocks, bytes int64 }
	packs, shelves := map[uint64]packInfo{}, map[ShelfID]count{}
	var gone []uint64
	known := func(n uint64) packInfo {
		if p, ok := packs[n]; ok {
			return p
		}
		p, _ := l.pack(n)
		return p
	}
	err = l.db.Update(func(txn *badger.Txn) error {
		for _, c := range changes {
			s, ok := shelves[c.id.shelf]
			if !ok {
				item, err := txn.Get(shelfKey(c.id.shelf))
				if err == nil {
					err = item.Value(func(v []byte) error { s.blocks, s.bytes = decodeShelf(v); return nil })
				}
				if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
					return err
				}
			}
			was, held, err := findIn(txn, c.id)
			if err != nil {
				return err
			}
			if held {
				p := known(was.pack)
				p.live -= was.extent()
				p.blocks--
				packs[was.pack] = p
				s.blocks--
				s.bytes -= int64(was.length)
			}
			if c.to != (place{}) {
				p := known(c.to.pack)
				p.live += c.to.extent()
				p.blocks++
				p.size = max(p.size, c.to.end())
				packs[c.to.pack] = p
				s.blocks++
				s.bytes += int64(c.to.length)
				err = txn.Set(placeKey(c.id), encodePlace(c.to))
			} else if held {
				err = txn.Delete(placeKey(c.id))
			}
			if err != nil {
				return err
			}
			if held || c.to != (place{}) {
				changed++
				shelves[c.id.shelf] = s
			}
		}
		for n, e := range ends {
			p := known(n)
			if !e.gone {
				p.size, p.ended, p.again = max(p.size, e.size), e.ended, e.again
				packs[n] = p
			} else if p.blocks == 0 {
				gone = append(gone, n)
				delete(packs, n)
			}
		}
		for n, p := range packs {
			if err := txn.Set(packKey(n), encodePack(p)); err != nil {
				return err
			}
		}
		for _, n := range gone {
			if err := txn.Delete(packKey(n)); err != nil {
				return err
			}
		}
		for id, s := range shelves {
			var err error
			if s.blocks == 0 {
				err = txn.Delete(shelfKey(id))
			} else {
				err = txn.Set(shelfKey(id), encodeShelf(s.blocks, s.bytes))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, locatorErr(err)
	}
	for n, p := range packs {
		l.setPack(n, p)
	}
	for _, n := range gone {
		l.forgetPack(n)
	}
	return changed, nil
}

func (l *locator) setPack(n uint64, p packInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.packs[n]
	l.packs[n] = p
	if p.dead() && !was.dead() {
		l.died = true
	}
	l.blocks += p.blocks - was.blocks
	l.live += p.live - was.live
	l.size += p.size - was.size
}

func (l *locator) forgetPack(n uint64) {
	l.setPack(n, packInfo{})
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.packs, n)
}

// pack returns what is known of a pack.
func (l *locator) pack(n uint64) (packInfo, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.packs[n]
	return p, ok
}

// takeDied says whether a pack has come to have nothing live since it was asked last.
func (l *locator) takeDied() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	died := l.died
	l.died = false
	return died
}

// allPacks returns what is known of each pack.
func (l *locator) allPacks() map[uint64]packInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.packs)
}

// sync returns when every change so far is on disk. Badger's own Sync is not
// enough: it leaves out a log that was full and is not yet a table, and the
// names of new files.
func (l *locator) sync() error {
	if l.volatile {
		return nil
	}
	if err := l.db.Sync(); err != nil {
		return locatorErr(err)
	}
	names, err := OS().ReadDir(l.dir)
	if err != nil {
		return locatorErr(err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".mem") {
			continue
		}
		f, err := OS().Open(filepath.Join(l.dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // it has become a table, which Badger syncs
		}
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return locatorErr(err)
		}
	}
	return locatorErr(OS().SyncDir(l.dir))
}

func (l *locator) close() error { return l.db.Close() }

// shelves lists at most pageKeys ids behind after.
func (l *locator) shelves(after ShelfID) (ids []ShelfID, err error) {
	err = l.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{keyShelf}})
		defer it.Close()
		for it.Seek(shelfKey(after)); it.Valid() && len(ids) < pageKeys; it.Next() {
			if id := ShelfID(it.Item().Key()[1:]); id != after || after == (ShelfID{}) {
				ids = append(ids, id)
			}
		}
		return nil
	})
	return ids, locatorErr(err)
}

func (l *locator) shelfSize(id ShelfID) (blocks, bytes int64, err error) {
	err = l.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(shelfKey(id))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error { blocks, bytes = decodeShelf(v); return nil })
	})
	return blocks, bytes, locatorErr(err)
}

type listed struct {
	digest [sha256.Size]byte
	length int64
}

// page lists at most pageKeys blocks of a shelf behind a digest (nil: from
// the start), in page's memory.
func (l *locator) page(id ShelfID, after []byte, page []listed) ([]listed, error) {
	page = page[:0]
	err := l.db.View(func(txn *badger.Txn) error {
		prefix := append([]byte{keyPlace}, id[:]...)
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Seek(append(bytes.Clone(prefix), after...)); it.Valid() && len(page) < pageKeys; it.Next() {
			item := it.Item()
			e := listed{digest: [sha256.Size]byte(item.Key()[1+len(id):])}
			if after != nil && bytes.Equal(e.digest[:], after) {
				continue
			}
			if err := item.Value(func(v []byte) error { e.length = int64(decodePlace(v).length); return nil }); err != nil {
				return err
			}
			page = append(page, e)
		}
		return nil
	})
	return page, locatorErr(err)
}

func locatorErr(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("block store: locator: %w", err)
}

// badgerLog passes Badger's words on.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(format string, args ...any)   { l.log.Error(l.line(format, args)) }
func (l badgerLog) Warningf(format string, args ...any) { l.log.Warn(l.line(format, args)) }
func (l badgerLog) Infof(string, ...any)                {}
func (l badgerLog) Debugf(string, ...any)               {}

func (badgerLog) line(format string, args []any) string {
	return "block store: locator: " + strings.TrimSpace(fmt.Sprintf(format, args...))
}

// notDamage says that an error tells of this process or the whole disk and
// not of what is in a file.
func notDamage(err error) bool {
	for _, e := range []error{fs.ErrPermission, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EROFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return isFull(err)
}

// isFull says that there was no room for a write.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
