package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"path/filepath"
)

const (
	// groupBytes is how much one sync of the disk covers.
	groupBytes = 16 << 20
	// bufferBytes is how much one write hands to the disk.
	bufferBytes = 4 << 20
)

// write is what one call wants done by the writing goroutine.
type write struct {
	shelf ShelfID

	put     []Block
	digests [][sha256.Size]byte
	crcs    []uint32
	whole   []place // where a block of put was held and could be read
	bytes   int64   // of the records of put

	deletes bool
	del     [][sha256.Size]byte

	// What the collector wants.
	moves  []move
	seal   uint64 // the pack, if it is the one being written, ends
	settle bool   // all that was done is durable in the locator too
	ends   map[uint64]packEnd

	upto int // of the records of its group, those that it waits for
	err  error
	done chan error
}

// move is a block that gets a new place if it is at the old one still.
type move struct {
	id   blockID
	from place
	data []byte
	crc  uint32
}

// packRecord is a record to be written.
type packRecord struct {
	id   blockID
	data []byte
	crc  uint32
}

func (r packRecord) extent() int64 { return recordHeader + int64(len(r.data)) }

// writer is what the writing goroutine knows.
type writer struct {
	next  uint64 // number of the next pack
	pack  uint64
	file  File // of pack; nil: there is none, the next write begins one
	end   int64
	fresh bool // the name of pack is not durable
	buf   []byte
	// ends is what the locator is to be told with the next change: before a
	// Delete is acknowledged it has to know that a pack has ended, or what
	// lies behind the end would be taken in when the store is opened.
	ends     map[uint64]packEnd
	rotated  bool // a pack was ended since the locator was synced
	unsynced bool // a deletion was made and may not be durable
}

// write hands w to the writing goroutine. Until it has taken it, ctx may end
// the wait; from then on the answer comes within a sync or two and is waited
// for, so that nobody reads the caller's bytes after the return.
func (d *Disk) write(ctx context.Context, w *write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.done = make(chan error, 1)
	select {
	case <-d.quit:
		return ErrClosed
	default:
	}
	select {
	case d.writes <- w:
		return <-w.done
	case <-ctx.Done():
		return ctx.Err()
	case <-d.quit:
		return ErrClosed
	}
}

// writeLoop is the writing goroutine.
func (d *Disk) writeLoop() {
	for {
		select {
		case <-d.quit:
			return
		case w := <-d.writes:
			d.commitGroup(w)
		}
	}
}

// commitGroup commits w with all that waits beside it.
func (d *Disk) commitGroup(w *write) {
	group, size := []*write{w}, w.size()
	for size < groupBytes {
		select {
		case w := <-d.writes:
			group = append(group, w)
			size += w.size()
			continue
		default:
		}
		break
	}
	d.commit(group)
	if d.l.takeDied() {
		select {
		case d.kick <- struct{}{}:
		default:
		}
	}
	for _, w := range group {
		w.done <- w.err
	}
}

func (w *write) size() int64 {
	n := w.bytes + recordHeader*int64(len(w.del))
	for _, m := range w.moves {
		n += recordHeader + int64(len(m.data))
	}
	return n
}

// commit does what a group wants. None of its calls has returned, so they may
// be taken in any order; first what is written, then what is deleted.
//
// Only this goroutine changes the locator: what is found there is durable, and
// stays as it is found until this goroutine changes it.
func (d *Disk) commit(group []*write) {
	var puts, moves []packRecord
	at := map[blockID]int{} // in puts
	var bytes int64
	for _, g := range group {
		for i, b := range g.put {
			id := blockID{g.shelf, g.digests[i]}
			if n, ok := at[id]; ok {
				g.upto = max(g.upto, n+1)
				continue
			}
			p, held, err := d.l.find(id)
			if err != nil {
				g.err = err
				break
			}
			if held && p != g.whole[i] {
				_, _, err := d.read(p, id)
				held = err == nil
			}
			if held {
				continue
			}
			crc := g.crcs[i]
			if g.whole[i] != (place{}) {
				crc = crc32.Checksum(b.Data, castagnoli) // it was held when the caller looked
			}
			puts = append(puts, packRecord{id, b.Data, crc})
			bytes += recordHeader + int64(len(b.Data))
			at[id] = len(puts) - 1
			g.upto = len(puts)
		}
	}
	if len(puts) > 0 {
		if err := d.room(bytes, d.o.Reserve); err != nil {
			for _, g := range group {
				if g.upto > 0 && g.err == nil {
					g.err = err
				}
			}
			puts = nil
		}
	}
	bytes = 0
	for _, g := range group {
		for _, m := range g.moves {
			if _, ok := at[m.id]; ok && puts != nil {
				continue
			}
			p, held, err := d.l.find(m.id)
			if err != nil {
				g.err = err
				break
			}
			if held && p == m.from {
				moves = append(moves, packRecord{m.id, m.data, m.crc})
				bytes += recordHeader + int64(len(m.data))
				g.upto = len(puts) + len(moves)
			}
		}
	}
	if len(moves) > 0 {
		if err := d.room(bytes, d.o.Reserve/4); err != nil {
			for _, g := range group {
				if len(g.moves) > 0 && g.err == nil {
					g.err = err
				}
			}
			moves = nil
		}
	}
	done, err := d.append(append(puts, moves...))
	for _, g := range group {
		if g.upto > done && g.err == nil {
			g.err = err
		}
	}
	if err := d.applyDeletes(group); err != nil {
		for _, g := range group {
			if g.deletes {
				g.err = err
			}
		}
	}
	d.serveCollector(group)
}

func (d *Disk) applyDeletes(group []*write) error {
	var changes []change
	any := false
	for _, g := range group {
		any = any || g.deletes
		for _, digest := range g.del {
			changes = append(changes, change{id: blockID{g.shelf, digest}})
		}
	}
	if !any {
		return nil
	}
	if len(changes) > 0 {
		if err := d.locatorRoom(); err != nil {
			return err
		}
		changed, err := d.apply(changes)
		d.w.unsynced = d.w.unsynced || changed > 0
		if err != nil {
			return err
		}
	}
	if !d.w.unsynced {
		return nil
	}
	return d.syncLocator()
}

// serveCollector does what the collector asks for.
func (d *Disk) serveCollector(group []*write) {
	for _, g := range group {
		if g.seal != 0 && d.w.file != nil && d.w.pack == g.seal && d.w.end > 0 {
			d.seal()
		}
		maps.Copy(d.w.ends, g.ends)
	}
	var err error
	if len(d.w.ends) > 0 {
		if err = d.locatorRoom(); err == nil {
			_, err = d.apply(nil)
		}
	}
	settle := d.w.rotated
	for _, g := range group {
		settle = settle || g.settle
	}
	if settle && err == nil {
		err = d.syncLocator()
	}
	if err == nil {
		return
	}
	asked := false
	for _, g := range group {
		if (g.seal != 0 || g.settle || g.ends != nil) && g.err == nil {
			g.err, asked = err, true
		}
	}
	if !asked {
		d.log.Warn("block store: the locator was not brought up to date; it is tried again with the next write", "err", err)
	}
}

// apply changes the locator, and tells it what it has not been told of packs.
func (d *Disk) apply(changes []change) (int, error) {
	n, err := d.l.apply(changes, d.w.ends)
	if err != nil {
		return n, failed(err)
	}
	clear(d.w.ends)
	return n, nil
}

func (d *Disk) syncLocator() error {
	if err := d.l.sync(); err != nil {
		return failed(err)
	}
	d.w.rotated, d.w.unsynced = false, false
	return nil
}

// append writes records to the packs. The first done of them are durable, and
// the locator knows them.
func (d *Disk) append(records []packRecord) (done int, err error) {
	for done < len(records) {
		n, err := d.appendRun(records[done:])
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// appendRun writes as many records as one sync and one pack take.
func (d *Disk) appendRun(records []packRecord) (n int, err error) {
	w := &d.w
	if w.file != nil && w.end > packHeader && w.end+records[0].extent() > d.o.PackSize {
		d.seal()
	}
	if w.file == nil {
		if err := d.begin(); err != nil {
			return 0, err
		}
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, bufferBytes)
	}
	buf, written, end := w.buf[:0], w.end, w.end
	if end == 0 {
		buf = appendPackHeader(buf, w.pack)
		end = packHeader
	}
	flush := func() error {
		n, err := w.file.WriteAt(buf, written)
		if err == nil && n < len(buf) {
			err = fmt.Errorf("%d of %d bytes were written", n, len(buf))
		}
		written += int64(len(buf))
		buf = buf[:0]
		return err
	}
	changes := make([]change, 0, min(len(records), 1024))
	for ; n < len(records); n++ {
		r := records[n]
		if n > 0 && (end+r.extent() > d.o.PackSize || end-w.end+r.extent() > groupBytes) {
			break
		}
		if int64(len(buf))+r.extent() > int64(cap(buf)) {
			if err := flush(); err != nil {
				return 0, d.writeFailed(err)
			}
		}
		buf = append(appendRecordHeader(buf, r.id, len(r.data), r.crc), r.data...)
		changes = append(changes, change{r.id, place{w.pack, uint32(end), uint32(len(r.data))}})
		end += r.extent()
	}
	if err := flush(); err != nil {
		return 0, d.writeFailed(err)
	}
	if err := w.file.Sync(); err != nil {
		// What the disk has of it nobody knows, and a second sync would not
		// tell: after a failed one the kernel may take the pages for clean.
		d.abandon(err)
		return 0, failed(err)
	}
	if w.fresh {
		if err := d.fs.SyncDir(filepath.Join(d.dir, "packs")); err != nil {
			d.abandon(err)
			return 0, failed(err)
		}
		w.fresh = false
	}
	w.end = end
	if _, err := d.apply(changes); err != nil {
		return 0, err
	}
	return n, nil
}

// begin begins a pack.
func (d *Disk) begin() error {
	w := &d.w
	for {
		n := w.next
		f, err := d.fs.Create(d.packPath(n))
		if errors.Is(err, fs.ErrExist) {
			w.next++
			continue
		}
		if err != nil {
			return failed(err)
		}
		w.next++
		w.pack, w.file, w.end, w.fresh = n, f, 0, true
		return nil
	}
}

// seal ends the pack that is being written; all that is in it is durable.
func (d *Disk) seal() {
	w := &d.w
	if err := w.file.Close(); err != nil {
		d.log.Warn("block store: closing a pack failed", "pack", packName(w.pack), "err", err)
	}
	w.ends[w.pack] = packEnd{size: w.end, ended: true}
	w.file, w.rotated = nil, true
}

// abandon ends the pack that is being written where it was durable last.
func (d *Disk) abandon(why error) {
	w := &d.w
	size, err := w.file.Size()
	if err != nil {
		size = w.end
	}
	_ = w.file.Close() // its pages are given up anyway
	w.ends[w.pack] = packEnd{size: max(size, w.end, packHeader), ended: true}
	w.file, w.rotated = nil, true
	d.log.Error("block store: the disk failed to take a write; what was not acknowledged is tried in a new pack",
		"pack", packName(w.pack), "err", why)
}

// truncater is a File that can be cut.
type truncater interface{ Truncate(size int64) error }

// writeFailed is after a write that failed, before any sync of it. When only
// room was lacking the pack goes on where it was, without the part that was
// written: that could hold a whole record, and come back.
func (d *Disk) writeFailed(err error) error {
	if t, ok := d.w.file.(truncater); !isFull(err) || !ok || t.Truncate(d.w.end) != nil {
		d.abandon(err)
	}
	return failed(err)
}

// failed names the error of a write.
func failed(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return fmt.Errorf("%w: %w", ErrDiskFailed, err)
}

// room says whether n bytes may be written when keep are to stay free.
func (d *Disk) room(n, keep int64) error {
	if d.o.Reserve < 0 {
		return nil
	}
	if !d.o.Volatile {
		keep = max(keep, locatorRoom)
	}
	free, err := d.fs.Free(d.dir)
	if err != nil {
		return fmt.Errorf("%w: asking for free space: %w", ErrDiskFailed, err)
	}
	if free-n < keep {
		return fmt.Errorf("%w: %d MiB are free, %d MiB are kept back", ErrDiskFull, free>>20, keep>>20)
	}
	return nil
}

// locatorRoom says whether the locator may be written.
func (d *Disk) locatorRoom() error {
	if d.o.Volatile {
		return nil
	}
	return d.room(0, 0)
}

// finish ends the pack that is being written, when the goroutines are gone.
func (d *Disk) finish() error {
	if d.w.file != nil {
		d.seal()
	}
	if len(d.w.ends) == 0 {
		return nil
	}
	_, err := d.apply(nil)
	return err
}
