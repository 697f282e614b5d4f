package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// finishing is how far Finish has come, in memory only: after a break it finds that there is less to do.
type finishing struct {
	root  [32]byte
	of    Position // up to where it covers: the next one may have the same pages
	list  []PageRef
	sheet int // whose facts are moved next
	page  int
	table int    // whose rows are looked at next
	after []byte // the last row that was
	masks map[int]map[uint64]uint64
}

// Finish implements SnapshotStore. What has been taken back goes out of the files first, for what it leaves behind is found by its
// payload: until the next Purge it waits.
func (s *snapshotStore) Finish(o Offered) (done bool, err error) {
	if err := s.x.room(s.node == s.x.self); err != nil {
		return false, err
	}
	s.x.write.Lock()
	defer s.x.write.Unlock()
	if doomed, err := s.doomed(o); err != nil || doomed {
		return false, err
	}
	w := s.x.begin()
	defer w.discard()
	a, now, stage, pending, ok, err := s.current(w.txn)
	if err != nil || !ok || !pending || now.Snapshot.Root != o.Snapshot.Root {
		return err == nil, err
	}
	if s.at.root != o.Snapshot.Root || s.at.of != o.Snapshot.through() || s.at.masks == nil {
		s.at = finishing{root: o.Snapshot.Root, of: o.Snapshot.through(), masks: map[int]map[uint64]uint64{}}
		raw, ok, err := get(w.txn, sheetKey(a.no, o.Snapshot.Root, -1))
		if err == nil && !ok {
			err = errDamaged("the list of a snapshot")
		}
		if err == nil {
			s.at.list, err = o.Snapshot.ReadList(raw)
		}
		if err != nil {
			s.at.masks = nil
			return false, err
		}
	}
	before := s.at
	switch {
	case stage == stageTaking && s.at.sheet < len(s.at.list):
		err = s.moveSome(w, a, o)
	case stage == stageTaking && s.node == s.x.self && s.made && s.late != s.x.late:
		// Something came of an earlier epoch of the own log that was not said again before the snapshot was made.
		return true, cmp.Or(w.letGo(a), ErrEarlier)
	case stage == stageTaking:
		// Batches that came since it was begun with may end otherwise.
		if err = s.x.judge(o.Snapshot.Head); err == nil {
			err = s.beginAt(w, a, o)
		}
	case s.at.table < len(droppedTables):
		err = s.dropSome(w, a, o)
	default:
		err = s.end(w, a, o)
		done = true
	}
	if err == nil {
		err = w.commit()
	}
	if err != nil {
		s.at = before
		return false, err
	}
	return done, nil
}

// letGo gives up the pending snapshot.
func (w *writing) letGo(a author) error {
	if err := w.delete(snapshotKey(a.no, rowPending)); err != nil {
		return err
	}
	return w.commit()
}

// doomed says whether the files still hold something that the author has taken back of what a snapshot covers.
func (s *snapshotStore) doomed(o Offered) (any bool, err error) {
	a, ok := s.x.known(s.node)
	if !ok {
		return false, nil
	}
	err = s.x.View(func(txn *badger.Txn) error {
		any = false
		prefix := authorKey(tabDoomed, a.no)
		return scan(txn, prefix, prefix, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
			any = keyPosition(k).compare(o.Snapshot.through()) <= 0
			return false, nil
		})
	})
	return any, err
}

func (s *snapshotStore) sheet(txn *badger.Txn, a author, o Offered, i int) ([]PageRef, error) {
	raw, ok, err := get(txn, sheetKey(a.no, o.Snapshot.Root, i))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errDamaged("a sheet of a snapshot")
	}
	return o.Snapshot.ReadSheet(s.at.list, i, raw)
}

// moveSome moves the facts of some pages from batches into blocks.
func (s *snapshotStore) moveSome(w *writing, a author, o Offered) error {
	refs, err := s.sheet(w.txn, a, o, s.at.sheet)
	if err != nil {
		return err
	}
	epoch := o.Snapshot.Head.Epoch
	id := logID{a.node, epoch}
	st := w.state(id)
	st.trust = cmp.Or(st.trust, a.trust)
	txn := s.x.db.NewTransaction(false) // one that writes has one iterator at a time. Nobody else writes, and no purge runs
	defer txn.Discard()
	r := s.x.pageReader(txn, a, epoch)
	defer r.close()
	w.pages[a.no] = true
	touched := map[*block]bool{}
	n := 0
	for ; s.at.page < len(refs) && n < movedPages; s.at.page++ {
		if n > 0 && !w.roomForBlocks(touched) {
			break
		}
		n++
		ref := refs[s.at.page]
		which, ok, err := readWhich(w.txn, pageKey(a.no, epoch, ref))
		if err != nil {
			return err
		}
		if !ok {
			return errDamaged("a page of a snapshot")
		}
		group := uint64(ref.First-1) / PageSpan
		facts, err := r.group(group)
		if err != nil {
			return err
		}
		for left := which; left != 0; left &= left - 1 {
			f := facts[bits.TrailingZeros64(left)]
			if !f.found {
				return errDamaged("a fact of a page")
			}
			p := Position{epoch, f.Seq}
			if !f.slot || !f.Payload.dropped() && !f.at.block {
				b, err := w.block(a.no, p)
				if err != nil {
					return err
				}
				slot := b.at(f.Seq)
				slot.in, slot.payload, slot.commit = true, f.Payload, f.Commitment
				touched[b] = true
				if !f.Payload.dropped() {
					if said, err := decodePayload(f.Payload.Data); err == nil {
						if err := w.move(a, said, inBlock(p)); err != nil {
							return err
						}
					}
				}
			}
			if !f.Payload.dropped() {
				continue
			}
			gone, err := w.dropped(a.no, p)
			if err != nil {
				return err
			}
			hole, err := w.has(logKey(tabHole, a.no, p))
			if err != nil {
				return err
			}
			if !gone && !hole {
				st.missing++
				if err := w.set(logKey(tabHole, a.no, p), nil); err != nil {
					return err
				}
			}
		}
	}
	for b := range touched {
		if err := w.setBlock(b); err != nil {
			return err
		}
	}
	if s.at.page == len(refs) {
		s.at.sheet, s.at.page = s.at.sheet+1, 0
	}
	return w.keep(id, st)
}

// roomForBlocks says whether another page of the longest payloads may be moved beside blocks that are still to be written.
func (w *writing) roomForBlocks(touched map[*block]bool) bool {
	size := w.bytes
	for b := range touched {
		size += b.size()
	}
	return int64(size) < w.x.db.MaxBatchSize()/4 && int64(w.rows) < w.x.db.MaxBatchCount()/2
}

// beginAt makes the snapshot the beginning of the log. Nothing that goes has gone yet, and nothing that stays lies in batches any more.
func (s *snapshotStore) beginAt(w *writing, a author, o Offered) error {
	h := o.Snapshot.Head
	id := logID{h.Node, h.Epoch}
	st := w.state(id)
	st.trust, st.base = cmp.Or(st.trust, a.trust), h
	if st.last.head.Seq <= h.Seq {
		st.last = baseLink(h)
	}
	s.x.mu.RLock()
	for other := range s.x.logs {
		if other.Node == h.Node && other.Epoch < h.Epoch {
			w.gone = append(w.gone, other)
		}
	}
	s.x.mu.RUnlock()
	for _, other := range w.gone {
		if err := w.delete(epochKey(tabLog, a.no, other.Epoch)); err != nil {
			return err
		}
	}
	w.bases[h.Node] = o.Snapshot.through()
	if err := w.setOffer(a.no, rowPending, stageDropping, o); err != nil {
		return err
	}
	return w.keep(id, st)
}

// droppedTables are looked through in turn for what a snapshot leaves out: what says where things are goes last.
var droppedTables = []byte{tabRun, tabBlock, tabHole, tabUnread, tabDropped, tabPage}

// dropSome looks at some rows and drops what is in none of the pages.
func (s *snapshotStore) dropSome(w *writing, a author, o Offered) error {
	table := droppedTables[s.at.table]
	prefix := authorKey(table, a.no)
	start := prefix
	if s.at.after != nil {
		start = append(bytes.Clone(s.at.after), 0)
	}
	through := o.Snapshot.through()
	id := logID{a.node, through.Epoch}
	st := w.state(id)
	type looked struct{ k, v []byte }
	var rows []looked
	ended, bytesRead := true, 0
	err := scan(w.txn, prefix, start, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
		p := s.placeOf(table, k)
		if table == tabBlock {
			p.Seq -= partSize - 1 // its first position
		}
		if p.compare(through) > 0 {
			return false, nil
		}
		v, err := value()
		if err != nil {
			return false, err
		}
		rows = append(rows, looked{bytes.Clone(k), v})
		bytesRead += len(v)
		ended = len(rows) < lookedAt && bytesRead < MaxPagePayload
		return ended, nil
	})
	if err != nil {
		return err
	}
	for i, row := range rows {
		if i > 0 && !w.roomForMany() {
			ended = false
			break
		}
		waits, err := s.dropRow(w, a, o, table, row.k, row.v, &st)
		if err != nil {
			return err
		}
		if waits { // something is to go out of the files first: it is looked at again after that
			ended = false
			break
		}
		s.at.after = row.k
	}
	if ended {
		s.at.table, s.at.after = s.at.table+1, nil
	}
	return w.keep(id, st)
}

// placeOf is the position that a row is of.
func (s *snapshotStore) placeOf(table byte, k []byte) Position {
	if table == tabPage && len(k) == pageKeySize {
		return keyPosition(k[:len(k)-32])
	}
	return keyPosition(k)
}

// roomForMany is room for what the fullest batch of facts has brought about, as they mostly are.
func (w *writing) roomForMany() bool {
	return int64(w.rows+usualEntries*MaxFacts) < w.x.db.MaxBatchCount()/2 && int64(w.bytes+usualFactBytes*MaxFacts) < w.x.db.MaxBatchSize()/2
}

// dropRow drops what of a row the snapshot does not have. waits says that it was only marked for a purge.
func (s *snapshotStore) dropRow(w *writing, a author, o Offered, table byte, k, v []byte, st *logState) (waits bool, err error) {
	through := o.Snapshot.through()
	p := s.placeOf(table, k)
	switch table {
	case tabRun:
		if p.compare(through) > 0 {
			return false, nil
		}
		r, err := readRun(k, v)
		if err == nil {
			err = r.load(w.txn)
		}
		if err != nil {
			return false, err
		}
		var left []leftOut
		for i, pl := range r.payloads {
			if left, err = s.leftOut(w, a, o, left, Position{r.epoch, r.first() + Seq(i)}, pl); err != nil {
				return false, err
			}
		}
		if waits, err := w.leaveOut(a, left); err != nil || waits {
			return waits, err
		}
		for _, part := range r.parts() {
			if err := w.delete(part.key()); err != nil {
				return false, err
			}
			if err := w.stale(part.key()); err != nil {
				return false, err
			}
		}
		return false, w.delete(k)
	case tabBlock:
		b, err := w.block(a.no, p)
		if err != nil {
			return false, err
		}
		var left []leftOut
		var empty []*slot
		for i := range b.slots {
			at := Position{p.Epoch, b.first() + Seq(i)}
			if !b.slots[i].in || at.compare(through) > 0 {
				continue
			}
			in, err := s.inPages(w.txn, a, o, at)
			if err != nil {
				return false, err
			}
			if in {
				continue
			}
			if left, err = s.leftOut(w, a, o, left, at, b.slots[i].payload); err != nil {
				return false, err
			}
			empty = append(empty, &b.slots[i])
		}
		if waits, err := w.leaveOut(a, left); err != nil || waits || len(empty) == 0 {
			return waits, err
		}
		for _, e := range empty {
			*e = slot{}
		}
		if err := w.stale(b.key()); err != nil {
			return false, err
		}
		return false, w.setBlock(b)
	case tabPage:
		stays := false
		if p.Epoch == through.Epoch && len(k) == pageKeySize {
			if stays, err = s.isPage(w.txn, a, o, PageRef{First: p.Seq, Hash: [32]byte(k[len(k)-32:])}); err != nil {
				return false, err
			}
		}
		if stays {
			return false, nil
		}
		return false, w.delete(k)
	}
	if p.compare(through) > 0 {
		return false, nil
	}
	in, err := s.inPages(w.txn, a, o, p)
	if err != nil || in {
		return false, err
	}
	if p.Epoch == through.Epoch {
		switch {
		case table == tabHole:
			st.missing--
		case table == tabDropped && bytes.Equal(v, awaited):
			st.awaited--
		case table == tabUnread && len(v) == 1 && v[0] == unreadBody:
			st.unread--
		}
	}
	return false, w.delete(k)
}

// stale notes a row whose former versions are to go out of the files at the next purge.
func (w *writing) stale(key []byte) error { return w.set(append([]byte{tabStale}, key...), nil) }

// leftOut is a fact that a snapshot does not have.
type leftOut struct {
	at   Position
	said Statement
}

// leftOut appends a fact to a list, if the snapshot does not have it and it can be read.
func (s *snapshotStore) leftOut(w *writing, a author, o Offered, list []leftOut, p Position, pl Payload) ([]leftOut, error) {
	if pl.dropped() {
		return list, nil
	}
	in, err := s.inPages(w.txn, a, o, p)
	if err != nil || in {
		return list, err
	}
	if said, err := decodePayload(pl.Data); err == nil {
		list = append(list, leftOut{p, said})
	}
	return list, nil
}

// leaveOut takes what facts brought about out of the join. waits says that their author has taken some of them back, and that these
// were marked to go out of the files first.
func (w *writing) leaveOut(a author, list []leftOut) (waits bool, err error) {
	for _, f := range list {
		gone, err := w.retracted(a.no, f.at, f.said)
		if err != nil {
			return false, err
		}
		if gone {
			if err := w.condemn(a.no, f.at); err != nil {
				return false, err
			}
			waits = true
		}
	}
	for _, f := range list {
		now, ok, err := w.read.newest(a, f.said)
		if err != nil {
			return false, err
		}
		if !ok || now.Position != f.at {
			continue
		}
		switch f.said.Kind {
		case KindStudy:
			_, _, err = w.removeStudy(a, f.said.Subject, f.at)
		case KindHolding:
			var h Holding
			if h, err = decodeHolding(f.said.Subject, f.said.Body); err == nil {
				_, _, err = w.removeHolding(a, h, f.at)
			}
		default:
			_, _, err = w.removeFact(a, f.said, f.at)
		}
		if err != nil {
			return false, err
		}
	}
	return waits, nil
}

func byFirst(r PageRef, seq Seq) int { return cmp.Compare(r.First, seq) }

// sheetOf is the sheet of a snapshot that a position belongs to, -1 where there is none.
func (s *snapshotStore) sheetOf(seq Seq) int {
	i, ok := slices.BinarySearchFunc(s.at.list, seq, byFirst)
	if ok {
		return i
	}
	return i - 1
}

// inPages says whether the snapshot has a fact.
func (s *snapshotStore) inPages(txn *badger.Txn, a author, o Offered, p Position) (bool, error) {
	if p.Epoch != o.Snapshot.Head.Epoch {
		return false, nil
	}
	i := s.sheetOf(p.Seq)
	if i < 0 {
		return false, nil
	}
	m := s.at.masks[i]
	if m == nil {
		refs, err := s.sheet(txn, a, o, i)
		if err != nil {
			return false, err
		}
		m = make(map[uint64]uint64, len(refs))
		for _, ref := range refs {
			which, ok, err := readWhich(txn, pageKey(a.no, p.Epoch, ref))
			if err != nil {
				return false, err
			}
			if !ok {
				return false, errDamaged("a page of a snapshot")
			}
			m[uint64(ref.First-1)/PageSpan] |= which
		}
		if len(s.at.masks) >= maxOpenSheets {
			clear(s.at.masks)
		}
		s.at.masks[i] = m
	}
	group := uint64(p.Seq-1) / PageSpan
	return m[group]>>(uint64(p.Seq-1)%PageSpan)&1 == 1, nil
}

// isPage says whether a page is one of the snapshot's.
func (s *snapshotStore) isPage(txn *badger.Txn, a author, o Offered, ref PageRef) (bool, error) {
	i := s.sheetOf(ref.First)
	if i < 0 {
		return false, nil
	}
	refs, err := s.sheet(txn, a, o, i)
	if err != nil {
		return false, err
	}
	at, ok := slices.BinarySearchFunc(refs, ref.First, byFirst)
	return ok && refs[at] == ref, nil
}

// end makes a snapshot whose rest has been dropped the finished one.
func (s *snapshotStore) end(w *writing, a author, o Offered) error {
	if err := w.dropSheets(a.no, func(root []byte) bool { return bytes.Equal(root, o.Snapshot.Root[:8]) }); err != nil {
		return err
	}
	if err := w.delete(snapshotKey(a.no, rowPending)); err != nil {
		return err
	}
	if err := w.set(snapshotKey(a.no, rowWhen), binary.BigEndian.AppendUint64(nil, uint64(s.x.opt.Now().Unix()))); err != nil {
		return err
	}
	return w.setOffer(a.no, rowFinished, stageTaking, o)
}
