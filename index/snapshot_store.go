package index

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/dgraph-io/badger/v4"
)

// snapshotStore takes up the snapshots of one log in the database: it is Bootstrap's SnapshotStore for an Index.
//
// Pages are kept by their facts (block.go) and a row that says which facts are of a page. Of a log that is here already pages are only
// noted, until Finish moves their facts from the batches into blocks: then the log begins anew (logState.base), and what is left of
// batches, and of blocks, and is in no page goes. Each step leaves a state that can be read, and says what is to come next.
type snapshotStore struct {
	x    *Index
	node NodeID
	at   finishing
	made bool   // here, of the own log
	late uint64 // Index.late, before all was said again
}

// Snapshots returns what takes up a node's snapshots. There may be one for a node at a time.
func (x *Index) Snapshots(n NodeID) SnapshotStore { return &snapshotStore{x: x, node: n} }

// Stages of a pending snapshot.
const (
	stageTaking   byte = 0
	stageDropping byte = 1 // the log begins with it; what it leaves out goes
)

// Rows of the table of snapshots.
const (
	rowPending  byte = 'p'
	rowFinished byte = 'f'
	rowRefused  byte = 'x' // the root of one that contradicts the log
	rowWhen     byte = 't' // when the finished one was, by this node's clock
)

const (
	movedPages = 16  // pages whose facts are moved in one transaction
	lookedAt   = 256 // rows that are looked at in one transaction, to drop them
)

func snapshotKey(no authorNo, row byte) []byte { return append(authorKey(tabSnapshot, no), row) }

func sheetKey(no authorNo, root [32]byte, i int) []byte {
	return binary.BigEndian.AppendUint32(append(authorKey(tabSheet, no), root[:8]...), uint32(i+1))
}

func pageKey(no authorNo, epoch Epoch, ref PageRef) []byte {
	return append(logKey(tabPage, no, Position{epoch, ref.First}), ref.Hash[:]...)
}

const pageKeySize = 1 + 2 + positionSize + 32

// offer reads a row of the table of snapshots.
func (x *Index) offer(txn *badger.Txn, no authorNo, row byte) (o Offered, stage byte, ok bool, err error) {
	v, ok, err := get(txn, snapshotKey(no, row))
	if err != nil || !ok {
		return o, 0, false, err
	}
	if len(v) < 1 {
		return o, 0, false, errDamaged("a snapshot")
	}
	b, err := decodeBatch(v[1:])
	if err == nil {
		var ver Verified
		if ver, err = b.Verify(); err == nil {
			o, err = ReadSnapshot(ver)
		}
	}
	if err != nil {
		return o, 0, false, errDamaged("a snapshot")
	}
	return o, v[0], true, nil
}

func (w *writing) setOffer(no authorNo, row, stage byte, o Offered) error {
	return w.set(snapshotKey(no, row), append([]byte{stage}, encode(o.Batch.Batch())...))
}

// current is the pending snapshot, or where there is none the finished one.
func (s *snapshotStore) current(txn *badger.Txn) (a author, o Offered, stage byte, pending, ok bool, err error) {
	a, known := s.x.known(s.node)
	if !known {
		return
	}
	if o, stage, ok, err = s.x.offer(txn, a.no, rowPending); err != nil || ok {
		return a, o, stage, true, ok, err
	}
	o, stage, ok, err = s.x.offer(txn, a.no, rowFinished)
	return a, o, stage, false, ok, err
}

// Pending implements SnapshotStore.
func (s *snapshotStore) Pending() (o Offered, ok bool, err error) {
	err = s.x.View(func(txn *badger.Txn) error {
		var pending bool
		_, o, _, pending, ok, err = s.current(txn)
		ok = ok && pending
		return err
	})
	return o, ok, err
}

// Begin implements SnapshotStore.
func (s *snapshotStore) Begin(o Offered) (news bool, err error) {
	x := s.x
	trust, err := x.certified(s.node)
	if err != nil {
		return false, err
	}
	if err := x.room(s.node == x.self); err != nil {
		return false, err
	}
	x.write.Lock()
	defer x.write.Unlock()
	if err := x.judge(o.Snapshot.Head); err != nil {
		return false, err
	}
	w := x.begin()
	defer w.discard()
	a, err := w.known(s.node, trust)
	if err != nil {
		return false, err
	}
	finished, _, ok, err := x.offer(w.txn, a.no, rowFinished)
	if err != nil || ok && !o.newer(finished) {
		return false, err
	}
	if refused, ok, err := get(w.txn, snapshotKey(a.no, rowRefused)); err != nil || ok && bytes.Equal(refused, o.Snapshot.Root[:]) {
		return false, err
	}
	was, stage, ok, err := x.offer(w.txn, a.no, rowPending)
	if err != nil || ok && (stage == stageDropping || was.newer(o)) {
		return false, err
	}
	if ok && was.Snapshot.Root != o.Snapshot.Root {
		if err := w.dropSheets(a.no, func(root []byte) bool {
			return bytes.Equal(root, o.Snapshot.Root[:8]) || bytes.Equal(root, finished.Snapshot.Root[:8])
		}); err != nil {
			return false, err
		}
	}
	w.pages[a.no] = true
	if err := w.setOffer(a.no, rowPending, stageTaking, o); err != nil {
		return false, err
	}
	return true, w.commit()
}

// judge holds the head of a snapshot against the log. The caller holds write.
func (x *Index) judge(h Head) error {
	id := logID{h.Node, h.Epoch}
	st := x.state(id)
	if st.fork != nil {
		return &ForkError{Fork: *st.fork}
	}
	if end, ok := x.ended(id); ok && h.Seq > end {
		return &UncertifiedError{Node: h.Node}
	}
	if x.covered(id, h.Seq) {
		return nil
	}
	verdict, fork, err := x.chain(id, st).judgeHead(h)
	if err != nil || verdict != forked {
		return err
	}
	if err := x.keepFork(id, fork); err != nil {
		return err
	}
	return &ForkError{Fork: *fork}
}

// dropSheets drops the sheets of snapshots of an author but those whose root is to stay. There are as many as snapshots have sheets.
func (w *writing) dropSheets(no authorNo, stays func(root []byte) bool) error {
	var gone [][]byte
	prefix := authorKey(tabSheet, no)
	if err := scan(w.txn, prefix, prefix, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
		if len(k) != 3+8+4 {
			return false, errDamaged("a sheet of a snapshot")
		}
		if !stays(k[3:11]) {
			gone = append(gone, bytes.Clone(k))
		}
		return true, nil
	}); err != nil {
		return err
	}
	for _, k := range gone {
		if err := w.delete(k); err != nil {
			return err
		}
	}
	return nil
}

// Sheet implements SnapshotStore.
func (s *snapshotStore) Sheet(i int) (raw []byte, err error) {
	err = s.x.View(func(txn *badger.Txn) error {
		raw = nil
		a, o, _, _, ok, err := s.current(txn)
		if err != nil || !ok {
			return err
		}
		raw, _, err = get(txn, sheetKey(a.no, o.Snapshot.Root, i))
		return err
	})
	return raw, err
}

// TakeSheet implements SnapshotStore.
func (s *snapshotStore) TakeSheet(i int, raw []byte) error {
	if err := s.x.room(s.node == s.x.self); err != nil {
		return err
	}
	return s.x.Update(func(txn *badger.Txn) error {
		a, o, _, _, ok, err := s.current(txn)
		if err != nil || !ok {
			return err
		}
		return txn.Set(sheetKey(a.no, o.Snapshot.Root, i), raw)
	})
}

// Have implements SnapshotStore.
func (s *snapshotStore) Have(refs []PageRef) (states []PageState, err error) {
	type newPage struct{ key, which []byte }
	var fresh []newPage
	err = s.x.View(func(txn *badger.Txn) error {
		states, fresh = make([]PageState, len(refs)), nil
		a, o, _, _, ok, err := s.current(txn)
		if err != nil || !ok || len(refs) == 0 {
			return err
		}
		head := o.Snapshot.Head
		r := s.x.pageReader(txn, a, head.Epoch)
		defer r.close()
		for i, ref := range refs {
			key := pageKey(a.no, head.Epoch, ref)
			which, ok, err := readWhich(txn, key)
			if err != nil {
				return err
			}
			if ok {
				_, state, ok, err := r.page(ref, which)
				if err != nil {
					return err
				}
				if ok {
					states[i] = state
				}
				continue
			}
			group := uint64(ref.First-1) / PageSpan
			for v, err := range CutPages(s.node, head.Epoch, r.holding(head, group, group)) {
				if err != nil {
					return err
				}
				if v.ref != ref {
					continue
				}
				if _, states[i], ok, err = r.page(ref, v.header.Which); err != nil {
					return err
				}
				if !ok {
					states[i] = PageAbsent
					continue
				}
				fresh = append(fresh, newPage{key, binary.BigEndian.AppendUint64(nil, v.header.Which)})
			}
		}
		return nil
	})
	if err != nil || len(fresh) == 0 {
		return states, err
	}
	return states, s.x.Update(func(txn *badger.Txn) error {
		for _, p := range fresh {
			if err := txn.Set(p.key, p.which); err != nil {
				return err
			}
		}
		return nil
	})
}

func readWhich(txn *badger.Txn, key []byte) (uint64, bool, error) {
	v, ok, err := get(txn, key)
	if err != nil || !ok {
		return 0, false, err
	}
	if len(v) != 8 {
		return 0, false, errDamaged("a page")
	}
	return binary.BigEndian.Uint64(v), true, nil
}

// TakePages implements SnapshotStore.
func (s *snapshotStore) TakePages(pages []VerifiedPage) (states []PageState, err error) {
	x := s.x
	trust, err := x.certified(s.node)
	if err != nil {
		return nil, err
	}
	if err := x.room(s.node == x.self); err != nil {
		return nil, err
	}
	x.write.Lock()
	if fork := x.state(logID{s.node, pages[0].header.Epoch}).fork; fork != nil {
		err = &ForkError{Fork: *fork}
	}
	for rest := pages; len(rest) > 0 && err == nil; {
		var n int
		if n, err = s.takeSome(rest, trust, false); errors.Is(err, badger.ErrTxnTooBig) {
			n, err = s.takeSome(rest, trust, true)
		}
		rest = rest[n:]
	}
	var contradiction *ContradictionError
	if errors.As(err, &contradiction) {
		err = errors.Join(err, s.giveUp())
	}
	x.write.Unlock()
	x.tell()
	if err != nil {
		return nil, err
	}
	err = x.View(func(txn *badger.Txn) error {
		states = make([]PageState, len(pages))
		a, _ := x.known(s.node)
		r := x.pageReader(txn, a, pages[0].header.Epoch)
		defer r.close()
		for i, v := range pages {
			_, state, ok, err := r.page(v.ref, v.header.Which)
			if err != nil {
				return err
			}
			if ok {
				states[i] = state
			}
		}
		return nil
	})
	return states, err
}

// takeSome takes as many of the pages as one transaction holds, or one.
func (s *snapshotStore) takeSome(pages []VerifiedPage, trust TrustID, one bool) (n int, err error) {
	w := s.x.begin()
	defer w.discard()
	a, err := w.known(s.node, trust)
	if err != nil {
		return 0, err
	}
	for n < len(pages) && (n == 0 || !one && w.roomForPage(pages[n])) {
		if err := w.takePage(a, trust, pages[n]); err != nil {
			return 0, err
		}
		n++
	}
	return n, w.commit()
}

// roomForPage is room for a page whose facts are as they mostly are.
func (w *writing) roomForPage(v VerifiedPage) bool {
	return int64(w.rows+usualEntries*v.Len()) < w.x.db.MaxBatchCount() && int64(w.bytes+3*v.page.size()+usualFactBytes*v.Len()) < w.x.db.MaxBatchSize()
}

// ContradictionError says that a node's snapshot has another fact at a position than its log. The snapshot is not taken.
type ContradictionError struct {
	Node NodeID
	At   Position
}

func (e *ContradictionError) Error() string {
	return "node " + e.Node.String() + " has signed a snapshot with another fact in it than it has said in its log: the snapshot is not taken"
}

// giveUp lets go of the pending snapshot for good. The caller holds write.
func (s *snapshotStore) giveUp() error {
	w := s.x.begin()
	defer w.discard()
	a, o, stage, pending, ok, err := s.current(w.txn)
	if err != nil || !ok || !pending || stage == stageDropping {
		return err
	}
	s.x.opt.Log.Error("a snapshot contradicts the log of its node and is not taken", "node", s.node.String())
	if err := w.set(snapshotKey(a.no, rowRefused), o.Snapshot.Root[:]); err != nil {
		return err
	}
	if err := w.delete(snapshotKey(a.no, rowPending)); err != nil {
		return err
	}
	return w.commit()
}

// takePage stores the facts of a page that are not here, and applies them.
func (w *writing) takePage(a author, trust TrustID, v VerifiedPage) error {
	id := logID{a.node, v.header.Epoch}
	st := w.state(id)
	st.trust = trust
	w.pages[a.no] = true
	touched := map[*block]bool{}
	var fresh []PageFact
	for f := range v.Facts() {
		p := Position{id.Epoch, f.Seq}
		b, err := w.block(a.no, p)
		if err != nil {
			return err
		}
		slot := b.at(f.Seq)
		var r *run
		if f.Seq <= st.last.head.Seq && f.Seq > st.base.Seq {
			if r, err = w.cover(a.no, p); err != nil {
				return err
			}
			if r == nil || f.Seq < r.first() {
				return errDamaged("a batch")
			}
			c, err := r.commitment(a.node, f.Seq)
			if err != nil {
				return err
			}
			if c != f.Commitment {
				return &ContradictionError{a.node, p}
			}
		}
		switch {
		case slot.in && slot.commitment() != f.Commitment:
			return &ContradictionError{a.node, p}
		case slot.in && !slot.payload.dropped(), r.here(f.Seq) != nil:
			continue
		}
		if !slot.in && r == nil || !f.Payload.dropped() {
			if !slot.in {
				w.took(trust, len(f.Commitment))
			}
			slot.in, slot.commit = true, f.Commitment
			touched[b] = true
		}
		if f.Payload.dropped() {
			continue
		}
		hole, err := w.has(logKey(tabHole, a.no, p))
		if err != nil {
			return err
		}
		if hole {
			st.missing--
			if err := w.delete(logKey(tabHole, a.no, p)); err != nil {
				return err
			}
		}
		keep, _, err := w.wanted(id, a, p, f.Payload, &st)
		if err != nil {
			return err
		}
		if keep {
			slot.payload = f.Payload
			w.took(trust, len(f.Payload.Salt)+len(f.Payload.Data))
			fresh = append(fresh, f)
		}
	}
	for b := range touched {
		if err := w.setBlock(b); err != nil {
			return err
		}
	}
	if len(fresh) > 0 && id.Node == w.x.self && id.Epoch < w.x.ownEpoch() {
		w.x.late++
	}
	for _, f := range fresh {
		if err := w.payload(id, a, inBlock(Position{id.Epoch, f.Seq}), f.Payload, trust, &st); err != nil {
			return err
		}
	}
	if err := w.set(pageKey(a.no, id.Epoch, v.ref), binary.BigEndian.AppendUint64(nil, v.header.Which)); err != nil {
		return err
	}
	return w.keep(id, st)
}
