package index

import (
	"bytes"
	"errors"

	"github.com/dgraph-io/badger/v4"
)

// writing is one transaction in which batches and all they bring about become visible together.
type writing struct {
	x      *Index
	txn    *badger.Txn
	rows   int
	bytes  int
	states map[logID]logState
	events []Fact
	votes  []Vote
	nodes  []nodeWord
	epoch  Epoch // the own log's, when it moves
}

func (x *Index) begin() *writing {
	return &writing{x: x, txn: x.db.NewTransaction(true), states: map[logID]logState{}}
}

func (w *writing) discard() { w.txn.Discard() }

// rowBytes is what Badger counts for a row beside its key and value: 12 of its own and a version, and some.
const rowBytes = 16

func (w *writing) set(k, v []byte) error {
	w.rows++
	w.bytes += len(k) + len(v) + rowBytes
	return w.txn.Set(k, v)
}

func (w *writing) delete(k []byte) error {
	w.rows++
	w.bytes += len(k) + rowBytes
	return w.txn.Delete(k)
}

func (w *writing) has(k []byte) (bool, error) {
	_, ok, err := get(w.txn, k)
	return ok, err
}

func (w *writing) state(id logID) logState {
	if st, ok := w.states[id]; ok {
		return st
	}
	return w.x.state(id)
}

// room says whether a batch surely fits into the transaction beside what is in it.
func (w *writing) room(v Verified) bool {
	rows := w.rows + factEntries*len(v.link.commit)
	bytes := w.bytes + 3*v.batch.size() + maxFactBytes*len(v.link.commit)
	return int64(rows) < w.x.db.MaxBatchCount() && int64(bytes) < w.x.db.MaxBatchSize()
}

// maxFactBytes is what the query tables take for one fact beside its body: about 15 KB for the fullest study.
const maxFactBytes = 16 << 10

// append stores a batch that follows on its log, and applies its facts.
func (w *writing) append(v Verified, trust TrustID) error {
	id := logID{v.link.head.Node, v.link.head.Epoch}
	st := w.state(id)
	st.trust = trust
	if err := w.set(logKey(tabBatch, id, v.link.head.Seq), encode(storedBatch{Header: v.batch.Header, Sig: v.batch.Sig})); err != nil {
		return err
	}
	for i, p := range v.batch.Payloads {
		seq := v.link.first + Seq(i)
		if p.dropped() {
			if gone, err := w.has(logKey(tabDropped, id, seq)); err != nil || gone {
				if err != nil {
					return err
				}
				continue
			}
			st.missing++
			if err := w.set(logKey(tabHole, id, seq), nil); err != nil {
				return err
			}
			continue
		}
		if err := w.payload(id, seq, p, trust, &st); err != nil {
			return err
		}
	}
	st.last = v.link
	if id.Node == w.x.self && id.Epoch > w.x.ownEpoch() {
		// An older copy of this home learns from its peers that it has lived on: it goes on from there.
		w.epoch = id.Epoch
		if err := w.set(metaEpoch, []byte{byte(id.Epoch)}); err != nil {
			return err
		}
	}
	return w.keep(id, st)
}

// fill supplies payloads that were missing from a batch that is already stored. It says whether there were any.
func (w *writing) fill(v Verified) (bool, error) {
	id := logID{v.link.head.Node, v.link.head.Epoch}
	st := w.state(id)
	if st.missing == 0 {
		if any, err := w.anyDropped(id); err != nil || !any {
			return false, err
		}
	}
	filled := false
	for i, p := range v.batch.Payloads {
		seq := v.link.first + Seq(i)
		if p.dropped() {
			continue
		}
		hole, err := w.has(logKey(tabHole, id, seq))
		if err != nil {
			return false, err
		}
		if !hole {
			wanted, err := w.misnamed(id, seq, p)
			if err != nil {
				return false, err
			}
			if !wanted {
				continue
			}
		} else {
			if err := w.delete(logKey(tabHole, id, seq)); err != nil {
				return false, err
			}
			st.missing--
		}
		filled = true
		if err := w.payload(id, seq, p, st.trust, &st); err != nil {
			return false, err
		}
	}
	if !filled {
		return false, nil
	}
	return true, w.keep(id, st)
}

func (w *writing) keep(id logID, st logState) error {
	w.states[id] = st
	return w.set(logPrefix(tabLog, id), encode(logRow{
		Head: st.last.head, Trust: st.trust, Missing: st.missing, Unread: st.unread, Votes: st.votes,
	}))
}

// payload stores one fact's bytes and applies the fact. What cannot be read stays stored and is relayed: a newer
// version may understand it. What its author has retracted is not stored.
func (w *writing) payload(id logID, seq Seq, p Payload, trust TrustID, st *logState) error {
	s, err := decodePayload(p.Data)
	if err == nil {
		gone, rerr := w.retracted(id, seq, s)
		if rerr != nil {
			return rerr
		}
		if gone {
			return w.set(logKey(tabDropped, id, seq), nil)
		}
	}
	if named, err := w.has(logKey(tabDropped, id, seq)); err != nil {
		return err
	} else if named { // by a retraction of something else
		if err := w.delete(logKey(tabDropped, id, seq)); err != nil {
			return err
		}
	}
	if err := w.set(logKey(tabPayload, id, seq), append(bytes.Clone(p.Salt), p.Data...)); err != nil {
		return err
	}
	var retraction Retraction
	if err == nil {
		err = understand(s)
	}
	if err == nil && s.Kind == KindRetraction {
		retraction, err = decodeRetraction(s.Subject, s.Body)
		if err == nil && retraction.Through.compare(Position{id.Epoch, seq}) >= 0 {
			err = &MalformedError{What: "retraction", Why: "it is of what has not been said yet"}
		}
	}
	if err != nil {
		st.unread++
		return nil
	}
	w.events = append(w.events, Fact{Author: id.Node, Epoch: id.Epoch, Seq: seq, Kind: s.Kind, Subject: s.Subject, Body: s.Body})
	if s.Kind == KindVote {
		// Counted by position in the log, so that all nodes look at the same ones.
		if st.votes++; st.votes <= maxLogVotes {
			v, err := DecodeVote(s.Body)
			if err != nil {
				return err
			}
			w.votes = append(w.votes, v)
			if err := w.set(logKey(tabVote, id, seq), s.Body); err != nil {
				return err
			}
		}
	}
	if s.Kind == KindRetraction {
		if err := w.retract(id, s.Subject, retraction, st); err != nil {
			return err
		}
	}
	key := factKey(s.Kind, s.Subject, id.Node)
	v, ok, err := get(w.txn, key)
	if err != nil {
		return err
	}
	if ok {
		r, err := readRecord(v)
		if err != nil {
			return err
		}
		if !r.older(id.Epoch, seq) {
			return nil
		}
	}
	switch s.Kind {
	case KindStudy:
		study, err := decodeStudy(s.Subject, s.Body)
		if err != nil {
			return err
		}
		if err := w.applyStudy(id.Node, trust, study); err != nil {
			return err
		}
	case KindNode:
		n, err := decodeNode(s.Body)
		if err != nil {
			return err
		}
		if n.Cert.Trust == trust { // another trust's node is that trust's to speak of
			w.nodes = append(w.nodes, nodeWord{author: id.Node, fact: n})
		}
	}
	return w.set(key, record{epoch: id.Epoch, seq: seq, trust: trust, body: s.Body}.encode())
}

// commit makes everything durable and visible, and queues the facts for the watchers.
func (w *writing) commit() error {
	x := w.x
	x.gate.RLock()
	err := errAside
	if !x.purging() {
		err = w.txn.Commit()
	}
	x.gate.RUnlock()
	if err != nil {
		return err
	}
	x.mu.Lock()
	for id, st := range w.states {
		now := x.logs[id] // what is in memory only may have moved meanwhile
		st.heard, st.hole = now.heard, now.hole
		x.logs[id] = st
	}
	x.epoch = max(x.epoch, w.epoch)
	for _, v := range w.votes {
		x.hearVote(v)
	}
	for _, n := range w.nodes {
		x.hearNode(n)
	}
	x.mu.Unlock()
	if len(w.votes)+len(w.nodes) > 0 {
		x.elect()
	}
	x.mu.Lock()
	x.events = append(x.events, w.events...)
	x.mu.Unlock()
	return nil
}

// Take implements Logs.
func (x *Index) Take(batches []Verified) (fresh int, err error) {
	if err := x.room(false); err != nil {
		return 0, err
	}
	x.write.Lock()
	fresh, err = x.take(batches)
	x.write.Unlock()
	x.tell()
	return fresh, err
}

func (x *Index) take(batches []Verified) (fresh int, err error) {
	w := x.begin()
	defer func() { w.discard() }()
	pending := 0
	flush := func() error {
		if pending == 0 {
			return nil
		}
		if err := w.commit(); err != nil {
			return err
		}
		fresh += pending
		w, pending = x.begin(), 0
		return nil
	}
	for _, v := range batches {
		var brought bool
		if brought, err = x.takeOne(&w, v, flush); err != nil {
			break
		}
		if brought {
			pending++
		}
	}
	var store *storeError
	if errors.As(err, &store) {
		return fresh, store.err // the transaction may be half written: nothing of it is kept
	}
	if ferr := flush(); ferr != nil {
		return fresh, ferr
	}
	return fresh, err
}

// storeError is a failure of the database, against a refusal of a batch.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }

func stored(err error) error {
	if err != nil {
		return &storeError{err}
	}
	return nil
}

// takeOne takes one batch. Every error but a *storeError refuses the batch and leaves the transaction as it was.
func (x *Index) takeOne(w **writing, v Verified, flush func() error) (brought bool, err error) {
	id := logID{v.link.head.Node, v.link.head.Epoch}
	trust, err := x.certified(id.Node)
	if err != nil {
		return false, err
	}
	st := (*w).state(id)
	if st.fork != nil {
		return false, &ForkError{Fork: *st.fork}
	}
	if !(*w).room(v) || v.link.first <= st.last.head.Seq {
		// What is stored is looked up outside this transaction.
		if err := flush(); err != nil {
			return false, stored(err)
		}
		st = (*w).state(id)
	}
	verdict, fork, err := x.chain(id, st).judgeBatch(v.link)
	if err != nil {
		return false, stored(err)
	}
	switch verdict {
	case follows:
		return true, stored((*w).append(v, trust))
	case known:
		filled, err := (*w).fill(v)
		return filled, stored(err)
	case ahead:
		return false, &GapError{Node: id.Node, Epoch: id.Epoch, After: st.last.head.Seq, First: v.link.first}
	}
	if err := flush(); err != nil {
		return false, stored(err)
	}
	if err := x.keepFork(id, fork); err != nil {
		return false, stored(err)
	}
	return false, &ForkError{Fork: *fork}
}
