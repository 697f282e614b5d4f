package index

import (
	"crypto/sha256"
	"iter"
	"math/bits"

	"github.com/dgraph-io/badger/v4"
)

// pageReader reads facts by position, wherever they lie.
type pageReader struct {
	x     *Index
	txn   *badger.Txn
	read  *runCache
	a     author
	epoch Epoch
	parts *badger.Iterator
}

func (x *Index) pageReader(txn *badger.Txn, a author, epoch Epoch) *pageReader {
	return &pageReader{x, txn, x.reading(txn), a, epoch, txn.NewIterator(badger.IteratorOptions{Prefix: epochKey(tabPart, a.no, epoch)})}
}

func (r *pageReader) close() { r.parts.Close() }

// placedFact is a fact and where it lies.
type placedFact struct {
	PageFact
	at    loc
	slot  bool // a page has brought it
	found bool // there is such a position here
}

// group reads the 64 positions of a group: those that are in blocks, else as they lie in batches.
func (r *pageReader) group(group uint64) (out [PageSpan]placedFact, err error) {
	first := Seq(group)*PageSpan + 1
	for end := first + partSize - 1; end < first+PageSpan; end += partSize {
		b, err := blockIn(r.txn, r.a.no, Position{r.epoch, end})
		if err != nil {
			return out, err
		}
		for i := 0; b != nil && i < partSize; i++ {
			if s := &b.slots[i]; s.in {
				seq := b.first() + Seq(i)
				out[seq-first] = placedFact{PageFact{Seq: seq, Payload: s.payload, Commitment: s.commit}, inBlock(Position{r.epoch, seq}), true, true}
			}
		}
	}
	base := r.x.base(r.a.node) // batches up to there do not count any more
	if (Position{r.epoch, first + PageSpan - 1}).compare(base) <= 0 {
		return out, nil
	}
	var of *run
	for r.parts.Seek(logKey(tabPart, r.a.no, Position{r.epoch, first})); r.parts.Valid(); r.parts.Next() {
		item := r.parts.Item()
		if Purged(item) {
			continue
		}
		v, err := item.ValueCopy(nil)
		if err != nil {
			return out, err
		}
		p, err := readPart(item.Key(), v)
		if err != nil {
			return out, err
		}
		if p.first() >= first+PageSpan {
			break
		}
		for i, pl := range p.payloads {
			seq := p.first() + Seq(i)
			if seq < first || seq >= first+PageSpan || (Position{r.epoch, seq}).compare(base) <= 0 {
				continue
			}
			f := &out[seq-first]
			if f.slot && !f.Payload.dropped() {
				continue
			}
			f.Seq, f.found = seq, true
			if !pl.dropped() {
				f.Payload, f.at = pl, loc{Position: Position{r.epoch, seq}, last: p.last}
				continue
			}
			if f.slot {
				continue
			}
			if of == nil || seq < of.first() || seq > of.last {
				if of, err = cover(r.txn, r.a.no, Position{r.epoch, seq}); err != nil {
					return out, err
				}
				if of == nil {
					return out, errDamaged("a batch")
				}
			}
			if f.Commitment, err = of.commitment(r.a.node, seq); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// commitment is what a run's header commits to at a position.
func (r *run) commitment(node NodeID, seq Seq) (c [32]byte, err error) {
	i := seq - r.first()
	if pl := r.payloads[i]; !pl.dropped() {
		return pl.commitment(), nil
	}
	if b := r.commit[i]; b != nil {
		return [32]byte(b), nil
	}
	l, err := r.link(node)
	if err != nil {
		return c, err
	}
	return [32]byte(l.commit[i]), nil
}

// holds says whether a fact holds at a head, as far as can be told from what holds now: of one that has been replaced after the head
// it is taken for granted.
func (r *pageReader) holds(f placedFact, head Head) (bool, error) {
	p := Position{r.epoch, f.Seq}
	if f.Payload.dropped() {
		_, gone, err := get(r.txn, logKey(tabDropped, r.a.no, p))
		return !gone, err
	}
	s, err := decodePayload(f.Payload.Data)
	if err != nil {
		return true, nil
	}
	if s.Kind == KindSnapshot {
		return false, nil
	}
	if _, gone, err := get(r.txn, logKey(tabDropped, r.a.no, p)); err != nil || gone {
		return false, err
	}
	now, ok, err := r.read.newest(r.a, s)
	if err != nil {
		return false, err
	}
	if ok && now.Position == p {
		return true, nil
	}
	if ok && now.compare(Position{head.Epoch, head.Seq}) > 0 {
		return true, nil
	}
	_, unread, err := get(r.txn, logKey(tabUnread, r.a.no, p))
	return unread, err
}

// newest is where what an author says of a subject now lies.
func (c *runCache) newest(a author, s Statement) (at loc, ok bool, err error) {
	switch s.Kind {
	case KindStudy:
		list, err := saidOf(c.txn, c.x.studyKey(s.Subject))
		for _, o := range list {
			if o.author == a.no {
				return o.at, true, err
			}
		}
		return loc{}, false, err
	case KindHolding:
		h, err := decodeHolding(s.Subject, s.Body)
		if err != nil {
			return loc{}, false, nil // it was never understood
		}
		v, ok, err := get(c.txn, holdingKey(c.x.studyKey(h.Study), a.no, h.Origin))
		if err != nil || !ok {
			return loc{}, false, err
		}
		row, err := readCopy(v)
		return row.at, err == nil, err
	}
	v, ok, err := get(c.txn, factKey(s.Kind, s.Subject, a.no))
	if err != nil || !ok {
		return loc{}, false, err
	}
	r, err := readRecord(v)
	return r.at, err == nil, err
}

// move says that what an author says of a subject now lies elsewhere, if it lies at a position.
func (w *writing) move(a author, s Statement, to loc) error {
	switch s.Kind {
	case KindStudy:
		key := w.x.studyKey(s.Subject)
		list, err := saidOf(w.txn, key)
		if err != nil {
			return err
		}
		for i := range list {
			if list[i].author == a.no && list[i].at.Position == to.Position {
				list[i].at = to
				return w.set(studyRow(key), encodeSaid(list))
			}
		}
		return nil
	case KindHolding:
		h, err := decodeHolding(s.Subject, s.Body)
		if err != nil {
			return nil
		}
		key := holdingKey(w.x.studyKey(h.Study), a.no, h.Origin)
		v, ok, err := get(w.txn, key)
		if err != nil || !ok {
			return err
		}
		row, err := readCopy(v)
		if err != nil || row.at.Position != to.Position {
			return err
		}
		row.at = to
		return w.set(key, row.encode())
	}
	key := factKey(s.Kind, s.Subject, a.no)
	v, ok, err := get(w.txn, key)
	if err != nil || !ok {
		return err
	}
	r, err := readRecord(v)
	if err != nil || r.at.Position != to.Position {
		return err
	}
	r.at = to
	if r.long {
		r.body = make([]byte, maxInline+1) // it stays where only its place is told
	}
	return w.set(key, r.encode())
}

// holding yields the facts of some groups that hold at a head.
func (r *pageReader) holding(head Head, from, to uint64) iter.Seq2[PageFact, error] {
	return func(yield func(PageFact, error) bool) {
		for g := from; g <= to; g++ {
			facts, err := r.group(g)
			if err != nil {
				yield(PageFact{}, err)
				return
			}
			for _, f := range facts {
				if !f.found || f.Seq > head.Seq {
					continue
				}
				ok, err := r.holds(f, head)
				if err != nil {
					yield(PageFact{}, err)
					return
				}
				if ok && !yield(f.PageFact, nil) {
					return
				}
			}
		}
	}
}

// page reads a page by which of a group it has; ok is false when a fact of it is not known here.
func (r *pageReader) page(ref PageRef, which uint64) (v VerifiedPage, state PageState, ok bool, err error) {
	group := uint64(ref.First-1) / PageSpan
	facts, err := r.group(group)
	if err != nil {
		return v, PageAbsent, false, err
	}
	state = PageWhole
	drops := r.x.drops(r.a.no)
	h := pageHeader{Version: snapshotVersion, Node: r.a.node[:], Epoch: r.epoch, Group: group, Which: which}
	for left := which; left != 0; left &= left - 1 {
		f := facts[bits.TrailingZeros64(left)]
		if !f.found {
			return v, PageAbsent, false, nil
		}
		p := Position{r.epoch, f.Seq}
		c := f.Commitment
		_, gone, err := get(r.txn, logKey(tabDropped, r.a.no, p))
		if err != nil {
			return v, PageAbsent, false, err
		}
		if !f.Payload.dropped() {
			c = f.Payload.commitment()
			if s, derr := decodePayload(f.Payload.Data); !gone && drops && derr == nil {
				if _, gone, err = takenBack(r.txn, r.a.no, p, s); err != nil {
					return v, PageAbsent, false, err
				}
			}
		}
		switch {
		case gone:
			f.Payload = Payload{}
		case f.Payload.dropped():
			state = PageHoled
		}
		h.Commit = append(h.Commit, c[:]...)
		v.page.Payloads = append(v.page.Payloads, f.Payload)
	}
	v.page.Header, v.header, v.ref = encode(h), h, ref
	return v, state, sha256.Sum256(v.page.Header) == ref.Hash, nil
}
