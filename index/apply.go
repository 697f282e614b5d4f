package index

import (
	"bytes"
	"errors"
	"maps"

	"github.com/dgraph-io/badger/v4"
)

// writing is one transaction in which batches and all they bring about become visible together.
type writing struct {
	x        *Index
	txn      *badger.Txn
	read     *runCache
	rows     int
	bytes    int
	states   map[logID]logState
	authors  []author          // new ones
	droppers map[authorNo]bool // whose facts were taken back
	runs     map[string]*run   // looked at or written
	changed  map[string]bool   // those of which commitments are to be noted
	blocks   map[string]*block // looked at or written
	pages    map[authorNo]bool // authors of whom pages are here from now on
	gone     []logID           // logs of earlier epochs that a snapshot covers
	bases    map[NodeID]Position
	events   []Fact
	votes    []voteRow // that came to be looked at, or are not any more
	nodes    []nodeWord
	revoked  []heardRevocation
	epoch    Epoch             // the own log's, when it moves
	careful  bool              // it must not come to be too large
	taken    map[TrustID]int64 // bytes of other trusts' facts
}

func (x *Index) begin() *writing {
	w := &writing{x: x, txn: x.db.NewTransaction(true), states: map[logID]logState{}, droppers: map[authorNo]bool{}, runs: map[string]*run{}, changed: map[string]bool{},
		blocks: map[string]*block{}, pages: map[authorNo]bool{}, bases: map[NodeID]Position{}, taken: map[TrustID]int64{}}
	w.read = x.reading(w.txn)
	return w
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
	item, err := w.txn.Get(k)
	if errors.Is(err, badger.ErrKeyNotFound) || err == nil && Purged(item) {
		return false, nil
	}
	return err == nil, err
}

func (w *writing) setRun(r *run) error {
	w.runs[string(r.key())] = r
	for _, p := range r.parts() {
		w.read.keep(p)
		if err := w.set(p.key(), p.encode()); err != nil {
			return err
		}
	}
	return w.set(r.key(), r.encode())
}

// cover is cover within the transaction.
func (w *writing) cover(no authorNo, p Position) (*run, error) {
	for _, r := range w.runs {
		if r.no == no && r.epoch == p.Epoch && r.first() <= p.Seq && p.Seq <= r.last {
			return r, nil
		}
	}
	r, err := cover(w.txn, no, p)
	if err == nil && r != nil {
		w.runs[string(r.key())] = r
	}
	return r, err
}

func (w *writing) state(id logID) logState {
	if st, ok := w.states[id]; ok {
		return st
	}
	return w.x.state(id)
}

// author is a node whose log is here. Trust is whose it was when it was first heard.
type author struct {
	no    authorNo
	node  NodeID
	trust TrustID
}

func (a author) encode() []byte { return append(a.node[:], a.trust...) }

func readAuthor(no authorNo, v []byte) (author, error) {
	if len(v) < 32 {
		return author{}, errDamaged("an author")
	}
	return author{no, NodeID(v[:32]), TrustID(v[32:])}, nil
}

// author returns the author with a number.
func (x *Index) author(txn *badger.Txn, no authorNo) (author, error) {
	x.mu.RLock()
	if int(no) <= len(x.authors) && no > 0 {
		a := x.authors[no-1]
		x.mu.RUnlock()
		return a, nil
	}
	x.mu.RUnlock()
	v, ok, err := get(txn, authorKey(tabAuthor, no)) // one that is being committed
	if err != nil {
		return author{}, err
	}
	if !ok {
		return author{}, errDamaged("an author")
	}
	return readAuthor(no, v)
}

// known returns the author that a node is, if a log of it is here.
func (x *Index) known(n NodeID) (author, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	no, ok := x.numbers[n]
	if !ok {
		return author{}, false
	}
	return x.authors[no-1], true
}

func (w *writing) author(no authorNo) (author, error) {
	for _, a := range w.authors {
		if a.no == no {
			return a, nil
		}
	}
	return w.x.author(w.txn, no)
}

// known returns the author that a node is, with a number of its own from now on.
func (w *writing) known(n NodeID, trust TrustID) (author, error) {
	if a, ok := w.x.known(n); ok {
		return a, nil
	}
	for _, a := range w.authors {
		if a.node == n {
			return a, nil
		}
	}
	w.x.mu.RLock()
	next := len(w.x.authors) + len(w.authors) + 1
	w.x.mu.RUnlock()
	if next > maxNumbered {
		return author{}, &FullError{What: "nodes whose logs are kept", Limit: maxNumbered}
	}
	a := author{authorNo(next), n, trust}
	w.authors = append(w.authors, a)
	return a, w.set(authorKey(tabAuthor, a.no), a.encode())
}

// maxNumbered is how many nodes there can be in the life of a region.
const maxNumbered = 1<<16 - 1

// room says whether a batch fits into the transaction beside what is in it: for sure, or as far as batches are as they mostly are.
func (w *writing) room(v Verified) bool {
	facts, bytes := factEntries, maxFactBytes
	if !w.careful {
		facts, bytes = usualEntries, usualFactBytes
	}
	n := len(v.link.commit)
	return int64(w.rows+facts*n) < w.x.db.MaxBatchCount() && int64(w.bytes+3*v.batch.size()+bytes*n) < w.x.db.MaxBatchSize()
}

// roomForOne is room for one fact, for sure.
func (w *writing) roomForOne() bool {
	return int64(w.rows+factEntries) < w.x.db.MaxBatchCount() && int64(w.bytes+3*MaxPayload+maxFactBytes) < w.x.db.MaxBatchSize()
}

const (
	// maxFactBytes is what the query tables take for one fact beside its body: about 15 KB for the fullest study.
	maxFactBytes = 16 << 10
	// factEntries bounds the rows one fact may write: those of the old statement and of the new, or what a retraction names, and a few
	// for the log.
	factEntries = 2*(2*maxList+nameWords+nameGroups+10) + 3*MaxRetracted + 12

	usualEntries   = 32
	usualFactBytes = 2 << 10
)

// took counts bytes of another trust's facts.
func (w *writing) took(trust TrustID, n int) {
	if trust != w.x.opt.Trust {
		w.taken[trust] += int64(n)
	}
}

// append stores a batch that follows on its log, and applies its facts.
func (w *writing) append(v Verified, trust TrustID) error {
	id := logID{v.link.head.Node, v.link.head.Epoch}
	a, err := w.known(id.Node, trust)
	if err != nil {
		return err
	}
	for i, c := range v.link.commit {
		p := Position{id.Epoch, v.link.first + Seq(i)}
		if s, err := w.slot(a.no, p); err != nil {
			return err
		} else if s != nil && s.commitment() != [32]byte(c) {
			return &ContradictionError{a.node, p}
		}
	}
	w.took(trust, v.batch.size())
	st := w.state(id)
	st.trust = trust
	// What its author has retracted is not stored, nor what a retraction has named.
	payloads := make([]Payload, len(v.batch.Payloads))
	for i, p := range v.batch.Payloads {
		pos := Position{id.Epoch, v.link.first + Seq(i)}
		if p.dropped() {
			gone, err := w.dropped(a.no, pos)
			if err != nil {
				return err
			}
			s, err := w.slot(a.no, pos)
			if err != nil {
				return err
			}
			switch {
			case s != nil && !s.payload.dropped(): // it came in a page
			case gone:
				if err := w.setAwaited(a.no, pos, &st); err != nil {
					return err
				}
			default:
				st.missing++
				if err := w.set(logKey(tabHole, a.no, pos), nil); err != nil {
					return err
				}
			}
			continue
		}
		keep, _, err := w.wanted(id, a, pos, p, &st)
		if err != nil {
			return err
		}
		if keep {
			payloads[i] = p
		}
	}
	r := newRun(a.no, v, payloads)
	if err := w.setRun(r); err != nil {
		return err
	}
	for i, p := range payloads {
		if p.dropped() {
			continue
		}
		if s, err := w.slot(a.no, Position{id.Epoch, v.link.first + Seq(i)}); err != nil || s != nil && !s.payload.dropped() {
			if err != nil {
				return err
			}
			continue // it came in a page
		}
		if err := w.payload(id, a, r.loc(v.link.first+Seq(i)), p, trust, &st); err != nil {
			return err
		}
	}
	st.last = v.link
	if id.Node == w.x.self && id.Epoch < w.x.ownEpoch() {
		w.x.late++
	}
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
	a, ok := w.x.known(id.Node)
	if !ok || st.missing == 0 && !w.drops(a.no) || w.x.covered(id, v.link.first) {
		return false, nil
	}
	filled, err := w.cover(a.no, Position{id.Epoch, v.link.first})
	if err != nil {
		return false, err
	}
	if filled == nil {
		return false, errDamaged("a batch")
	}
	var fresh []int
	any := false
	for i, p := range v.batch.Payloads {
		pos := Position{id.Epoch, v.link.first + Seq(i)}
		if p.dropped() || i >= len(filled.payloads) || !filled.payloads[i].dropped() {
			continue
		}
		hole, err := w.has(logKey(tabHole, a.no, pos))
		if err != nil {
			return false, err
		}
		if hole {
			if err := w.delete(logKey(tabHole, a.no, pos)); err != nil {
				return false, err
			}
			st.missing--
			any = true
		}
		keep, told, err := w.wanted(id, a, pos, p, &st)
		if err != nil {
			return false, err
		}
		any = any || told
		if keep {
			filled.payloads[i], filled.commit[i] = p, nil
			w.took(st.trust, len(p.Salt)+len(p.Data))
			fresh = append(fresh, i)
			any = true
		}
	}
	if !any {
		return false, nil
	}
	if len(fresh) > 0 {
		if err := w.setRun(filled); err != nil {
			return false, err
		}
	}
	for _, i := range fresh {
		if s, err := w.slot(a.no, Position{id.Epoch, v.link.first + Seq(i)}); err != nil || s != nil && !s.payload.dropped() {
			if err != nil {
				return false, err
			}
			continue // it came in a page
		}
		if id.Node == w.x.self && id.Epoch < w.x.ownEpoch() {
			w.x.late++
		}
		if err := w.payload(id, a, filled.loc(v.link.first+Seq(i)), filled.payloads[i], st.trust, &st); err != nil {
			return false, err
		}
	}
	return true, w.keep(id, st)
}

func (w *writing) keep(id logID, st logState) error {
	a, err := w.known(id.Node, st.trust)
	if err != nil {
		return err
	}
	st.noted = 0
	if st.heard.Seq > st.last.head.Seq {
		st.noted = st.heard.Seq
	}
	w.states[id] = st
	row := logRow{Head: st.last.head, Trust: st.trust, Missing: st.missing, Unread: st.unread}
	if row.Head.Seq == 0 {
		row.Head = Head{Node: id.Node, Epoch: id.Epoch}
	}
	if st.base.Seq > 0 {
		row.Base = &st.base
	}
	if st.noted > 0 {
		row.Heard = &st.heard
	}
	return w.set(epochKey(tabLog, a.no, id.Epoch), encode(row))
}

// drops says whether any position of an author's logs is not wanted.
func (w *writing) drops(no authorNo) bool { return w.droppers[no] || w.x.drops(no) }

func (x *Index) drops(no authorNo) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.droppers[no]
}

// dropped says whether a position is one that is not wanted.
func (w *writing) dropped(no authorNo, p Position) (bool, error) {
	if !w.drops(no) {
		return false, nil
	}
	return w.has(logKey(tabDropped, no, p))
}

func (w *writing) setDropped(no authorNo, p Position) error {
	w.droppers[no] = true
	return w.set(logKey(tabDropped, no, p), nil)
}

// A retraction may name a position whose payload is not here, and of which nobody can tell what it was: the author took it back, and
// then nobody has it any more; or it is something else, a vote perhaps, which others have and go by. So it is not missed, and is asked for
// all the same.
var awaited = []byte{1}

// setAwaited marks a position that was named, and at which nothing was ever here.
func (w *writing) setAwaited(no authorNo, p Position, st *logState) error {
	v, _, err := get(w.txn, logKey(tabDropped, no, p))
	if err != nil || bytes.Equal(v, awaited) {
		return err
	}
	w.droppers[no] = true
	st.awaited++
	return w.set(logKey(tabDropped, no, p), awaited)
}

// wanted says whether a payload that comes is to be stored: not if its author has taken it back. A position that a retraction of
// something else has named is wanted all the same. told says that it told something that was not known.
func (w *writing) wanted(id logID, a author, p Position, pl Payload, st *logState) (keep, told bool, err error) {
	if !w.drops(a.no) {
		return true, false, nil // nothing was ever taken back
	}
	row := logKey(tabDropped, a.no, p)
	v, named, err := get(w.txn, row)
	if err != nil {
		return false, false, err
	}
	if bytes.Equal(v, awaited) {
		st.awaited--
		told = true
	}
	if s, err := decodePayload(pl.Data); err == nil {
		through, gone, err := takenBack(w.txn, a.no, p, s)
		if err != nil {
			return false, told, err
		}
		if gone { // the retraction may not have known what it was of, where all that it names was absent
			if err := w.setDropped(a.no, p); err != nil {
				return false, told, err
			}
			removed, err := w.withdraw(id, a, s, hashOf(s.Kind, s.Subject), through, st)
			return false, told || removed, err
		}
	}
	if named {
		err = w.delete(row)
	}
	return true, told, err
}

// payload applies the fact of a payload. What cannot be read stays stored and is relayed: a newer version may understand it.
func (w *writing) payload(id logID, a author, at loc, p Payload, trust TrustID, st *logState) error {
	s, err := decodePayload(p.Data)
	if err != nil {
		return w.noteUnread(a.no, at.Position, unreadBody, st)
	}
	return w.apply(id, a, at, s, trust, st)
}

// apply applies a fact that is stored.
func (w *writing) apply(id logID, a author, at loc, s Statement, trust TrustID, st *logState) error {
	body, err := w.x.knows.understand(s)
	if err == nil && !w.x.knows.knows(s.Kind) {
		if err := w.noteUnread(a.no, at.Position, unreadKind, st); err != nil {
			return err
		}
	}
	if r, ok := body.(Retraction); ok && err == nil && r.Through.compare(at.Position) >= 0 {
		err = &MalformedError{What: "retraction", Why: "it is of what has not been said yet"}
	}
	if err != nil {
		return w.noteUnread(a.no, at.Position, unreadBody, st)
	}
	w.events = append(w.events, Fact{Author: id.Node, Epoch: id.Epoch, Seq: at.Seq, Kind: s.Kind, Subject: s.Subject, Body: s.Body})
	switch body := body.(type) {
	case Study:
		if err = w.applyStudy(a, at, trust, body); errors.Is(err, errMet) {
			w.x.opt.Log.Error("a study is not shown: its UID has the same hash as another's", "node", id.Node.String())
			return w.noteUnread(a.no, at.Position, unreadBody, st)
		}
		return err
	case Holding:
		return w.applyHolding(a, at, trust, body)
	case Vote:
		if err := w.applyVote(a, trust, body); err != nil {
			return err
		}
	case Retraction:
		if err := w.retract(id, a, s.Subject, body, st); err != nil {
			return err
		}
	}
	key := factKey(s.Kind, s.Subject, a.no)
	v, ok, err := get(w.txn, key)
	if err != nil {
		return err
	}
	if ok {
		r, err := readRecord(v)
		if err != nil {
			return err
		}
		if !r.at.older(at.Position) {
			return nil
		}
	}
	if l, ok := body.(Link); ok {
		if err := w.applyLink(a, s.Subject, l); err != nil {
			return err
		}
	}
	if n, ok := body.(NodeFact); ok {
		if n.Cert.Trust == trust { // another trust's node is that trust's to speak of
			w.nodes = append(w.nodes, nodeWord{author: id.Node, fact: n})
		}
	}
	r := record{at: at, body: s.Body}
	if trust != a.trust {
		r.trust = trust
	}
	if v, ok := body.(Revocation); ok {
		w.revoked = append(w.revoked, heardRevocation{id.Node, v})
	}
	return w.set(key, r.encode())
}

// heardRevocation is a revocation and who says it.
type heardRevocation struct {
	author NodeID
	Revocation
}

// voteRow is a vote that has a row, or has lost it.
type voteRow struct {
	vote Vote
	gone bool
}

// applyVote keeps a vote among those of its author's logs that are looked at: the first maxLogVotes in the order of their keys, so that all
// nodes look at the same ones. Those that the author's own trust has signed come first, by serial: nothing that is not displaces one, nor
// do later ones.
func (w *writing) applyVote(a author, trust TrustID, v Vote) error {
	key := voteKey(a.no, w.x.castBy(v, trust), v)
	if have, err := w.has(key); err != nil || have {
		return err
	}
	if err := w.set(key, v.Encode()); err != nil {
		return err
	}
	w.votes = append(w.votes, voteRow{vote: v})
	prefix, n, last := authorKey(tabVote, a.no), 0, []byte(nil)
	if err := scan(w.txn, prefix, prefix, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
		if n++; n > w.x.maxVotes {
			last = bytes.Clone(k)
		}
		return true, nil
	}); err != nil || last == nil {
		return err
	}
	raw, _, err := get(w.txn, last)
	if err != nil {
		return err
	}
	if v, err = keptVote(raw); err != nil {
		return err
	}
	w.votes = append(w.votes, voteRow{vote: v, gone: true})
	return w.delete(last)
}

// castBy says whether a vote is a trust's own.
func (x *Index) castBy(v Vote, trust TrustID) bool {
	key := v.Card.TrustKey // of a founding vote
	if m, ok := x.Roster().Member(trust); ok {
		key = m.TrustKey
	} else if v.Op != OpFound {
		return false
	}
	return v.By == trust && x.checked.vote(v, key)
}

// commit makes everything durable and visible, and queues the facts for the watchers.
func (w *writing) commit() error {
	x := w.x
	for k := range w.changed {
		if err := w.set([]byte(k), w.runs[k].encode()); err != nil {
			return err
		}
	}
	if x.writes != nil {
		x.writes()
	}
	x.gate.RLock()
	err := errAside
	if !x.purging() {
		err = w.txn.Commit()
	}
	x.gate.RUnlock()
	if err != nil {
		return err
	}
	for id, st := range w.states {
		if id.Node == x.self && x.lost == nil {
			x.noteSpoken(Position{id.Epoch, st.last.head.Seq})
		}
	}
	x.mu.Lock()
	for id, st := range w.states {
		now := x.logs[id] // what is in memory only may have moved meanwhile
		st.heard, st.hole = now.heard, now.hole
		x.logs[id] = st
	}
	for _, a := range w.authors {
		x.authors, x.numbers[a.node] = append(x.authors, a), a.no
	}
	maps.Copy(x.droppers, w.droppers)
	for trust, n := range w.taken {
		x.taken[trust] += n
	}
	maps.Copy(x.blocks, w.pages)
	maps.Copy(x.bases, w.bases)
	for _, id := range w.gone {
		if fork := x.logs[id].fork; fork != nil {
			x.logs[id] = logState{fork: fork, trust: x.logs[id].trust} // the proof stays
		} else {
			delete(x.logs, id)
		}
	}
	x.epoch = max(x.epoch, w.epoch)
	for _, r := range w.votes {
		if r.gone {
			x.forgetVote(r.vote)
		} else {
			x.hearVote(r.vote)
		}
	}
	for _, v := range w.revoked {
		x.hearRevocation(v.author, v.Revocation)
	}
	for _, n := range w.nodes {
		x.hearNode(n)
	}
	x.mu.Unlock()
	if len(w.votes)+len(w.nodes)+len(w.revoked) > 0 {
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
	fresh, err = x.take(batches, false)
	if errors.Is(err, badger.ErrTxnTooBig) {
		var more int
		more, err = x.take(batches, true)
		fresh += more
	}
	x.write.Unlock()
	x.tell()
	return fresh, err
}

func (x *Index) take(batches []Verified, careful bool) (fresh int, err error) {
	begin := func() *writing {
		w := x.begin()
		w.careful = careful
		return w
	}
	w := begin()
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
		w, pending = begin(), 0
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

// sayFull tells the operator, once, that logs are passed over.
func (x *Index) sayFull(err *FullError) {
	x.full.Do(func() { x.opt.Log.Error("the logs of further nodes are not taken", "error", err) })
}

// takeOne takes one batch. Every error but a *storeError refuses the batch and leaves the transaction as it was.
func (x *Index) takeOne(w **writing, v Verified, flush func() error) (brought bool, err error) {
	id := logID{v.link.head.Node, v.link.head.Epoch}
	trust, err := x.certified(id.Node)
	if err != nil {
		return false, err
	}
	if end, ok := x.ended(id); ok && v.link.first > end {
		return false, &UncertifiedError{Node: id.Node}
	}
	st := (*w).state(id)
	if st.fork != nil {
		return false, &ForkError{Fork: *st.fork}
	}
	if x.covered(id, v.link.head.Seq) {
		return false, nil
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
		err := (*w).append(v, trust)
		var full *FullError
		if errors.As(err, &full) { // known before anything is written
			x.sayFull(full)
			return false, err
		}
		return true, stored(err)
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
