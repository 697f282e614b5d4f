package index

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// Logs is what Sync needs of a store of logs. Index is one.
type Logs interface {
	// Heads lists the head of every log (node and epoch), sorted by node, then epoch.
	Heads() []Head
	// Forks lists the proofs of forks, sorted by node and epoch.
	Forks() []Fork
	// Holes lists the heads of logs of which payloads are missing. Heard of one says after which position.
	Holes() []Head
	// Ended says of a log whose node is let in no more where it ends for all; 0: nothing of it is asked for. over is false of other logs.
	Ended(node NodeID, epoch Epoch) (end Seq, over bool)
	// Heard takes note of a head said to exist. behind says that the log is to be asked for after the
	// returned position. Errors: *UncertifiedError and *ForkError (no more is taken of this log for now),
	// *ForgedError and *MalformedError (whoever said it misbehaves); any other is the store's own.
	Heard(h Head) (after Seq, behind bool, err error)
	// Range returns batches of a log that end after a position, in order: at least one if there is one, and beyond that
	// no more than maxBytes.
	Range(node NodeID, epoch Epoch, after Seq, maxBytes int) ([]Batch, error)
	// Take stores batches of one log; those already there are passed over. fresh counts those that brought something. An error says
	// why it stopped; what came before is kept. Errors: as Heard's, *GapError, and *FullError (this log is not kept here).
	Take(batches []Verified) (fresh int, err error)
}

// SyncOptions configure a Sync. All but Self and Rand may be left out.
type SyncOptions struct {
	Self    NodeID
	Rand    *rand.Rand    // chooses whom to ask; seeded by the caller
	Tick    time.Duration // between two Ticks; 0: DefaultTick
	Pull    int           // bytes a second that are asked for; 0: DefaultPull
	Send    int           // bytes a second of batches that are sent, asked for or new; 0: DefaultSend
	Checked *Checked      // remembers signatures; nil: one of its own
}

// Defaults of SyncOptions.
const (
	DefaultTick = 1500 * time.Millisecond
	DefaultPull = 16 << 20
	DefaultSend = 16 << 20
)

// Outgoing is a message to be sent.
type Outgoing struct {
	To      NodeID
	Message Message
}

// Limits on an exchange.
const (
	Fanout     = 3         // peers that are given what is new, or told that something is
	MaxPush    = 256 << 10 // bytes of new batches that are pushed at once; of more only the head is told
	MaxAsked   = 4         // questions a peer has to answer at one time: bounds what can come in at once
	MaxUseless = 64        // messages a peer may send between two ticks that bring nothing new, beside doubles of what was new
	MaxUnknown = 256       // messages of unknown types a peer may send between two ticks
	MaxHeld    = 32 << 20  // bytes of batches that wait for the ones before them
	MaxHeldOf  = 4 << 20   // and of one author

	minAnswer = 16 << 10  // bytes asked of a peer that did not answer in time
	firstAsk  = 128 << 10 // bytes of the first question to a peer; doubled by each answer that came in time
	holeAsk   = 64 << 10
	maxPeers  = 8192 // peers whose words are remembered

	patience = 1500 * time.Millisecond // after which another peer may be asked as well
	lost     = 30 * time.Second        // after which an answer is not expected any more
	eager    = 250 * time.Millisecond  // at least between two exchanges begun because something was pulled
	maxLate  = 3                       // questions in a row unanswered, after which what a peer said it has counts no more

	maxHoleRest = 256  // ticks for which who answered without a payload is not asked for it again
	maxHoles    = 1024 // holes of which it is remembered who was asked in vain
	holeLooks   = 16   // holes that are looked at to find one to ask for

	maxRest = 32 // ticks for which nothing is asked while the store fails, or of a peer what it did not give again and again

	rememberedBatches    = 4096
	rememberedSignatures = 8192
)

// PeerError says that a peer misbehaved. Any other error of a Sync is its store's.
type PeerError struct {
	Peer NodeID
	Err  error
}

func (e *PeerError) Error() string { return fmt.Sprintf("peer %s: %v", e.Peer, e.Err) }
func (e *PeerError) Unwrap() error { return e.Err }

// FloodError says that a peer sends without end what brings nothing new.
type FloodError struct{ Limit int }

func (e *FloodError) Error() string {
	return fmt.Sprintf("more than %d messages that bring nothing new between two exchanges", e.Limit)
}

// Sync keeps logs in step with those of peers.
//
// Every Tick it sends a Digest to one peer at random. If the peer has the same it says nothing. Else it answers with a Summary of the parts
// that differ; the first then asks for what it lacks (Want), and tells by signed heads where the peer is behind, which then asks in turn.
// What differs at the same position is asked for as well: it is the proof of a fork. Whoever came into step by such an exchange begins one
// with a few others soon. New batches of the own log (Said) are pushed to a few peers at once, which hand on what was new to them. A batch
// that comes before the ones it follows on is held until they have come.
//
// What is lost, late, doubled or out of order is made good by a later exchange. Marks in a Summary are hints: they lead to questions, and
// only what is signed is believed. Logs of authors that are not certified yet are left alone until the votes that certify them have come.
//
// What is asked for and what is sent is bounded by bytes a second. Questions that have to wait are answered later, each peer in turn.
//
// It is a step machine: no goroutine, no clock, and no I/O but that of its Logs. Time passes by Tick, and between two of them by Pass. It
// is not safe for concurrent use: its owner calls it from one place at a time, and sends what it returns.
type Sync struct {
	logs    Logs
	self    NodeID
	rand    *rand.Rand
	tick    time.Duration
	checked *Checked

	now     time.Duration // since NewSync
	passed  time.Duration // since the last Tick
	ticks   uint64        // since NewSync
	peers   map[NodeID]*peer
	present []NodeID // peers by the last Tick, and those met since, sorted

	questions  map[uint64]*question
	asked      map[logID]*question // who is being asked for a log
	lastID     uint64
	pull, send bucket
	turn       []NodeID // peers whose questions wait, in the order of their turn

	held             held
	seen             recent // hashes of batches that were taken whole
	news, newsBefore int    // batches that were new since the last Tick, and between the two before
	said             Head   // how far the own log has been pushed
	claims           bool   // some peer may be ahead
	stirred          bool   // something was pulled
	stir             time.Duration
	store            rest // from asking for what cannot be stored
	holes            map[hole]*unfilled
	boots            boots
	later            []Outgoing // about snapshots, to go with what is sent next
}

// hole is a payload that is missing after a position.
type hole struct {
	log   logID
	after Seq
}

// unfilled remembers who was asked for a payload and answered without it. They are asked again after the rest, which begins anew with
// each such answer and gets longer each time all are asked. Who has not been asked yet, or has been away, is not waited for.
type unfilled struct {
	rest
	asked map[NodeID]bool
}

// rest is a number of ticks to leave something alone, each time twice as long as before.
type rest struct{ ticks, until uint64 }

func (r *rest) begin(now, most uint64) {
	r.ticks = min(max(1, 2*r.ticks), most)
	r.until = now + r.ticks
}

// vain says that a peer that was asked for a log brought nothing of it: the log still ends there.
type vain struct {
	rest
	at Seq
}

type peer struct {
	ahead   map[logID]Seq // what it said it has and these logs have not
	vain    map[logID]vain
	from    logID // the log answered last: the next question begins after it
	limit   int   // bytes of the next question
	late    int   // questions in a row without an answer in time
	useless int
	unknown int
	waiting []Want
	parts   []WantParts
}

type question struct {
	to    NodeID
	at    time.Duration
	limit int
	logs  []logID
	after []Seq // of each
	late  bool  // and so not counted on
	hole  hole  // or the payload asked for
}

// bucket is an allowance: of bytes, so many a second, for one second and one message at most.
type bucket struct{ rate, bytes int64 }

func (b *bucket) most() int64 { return max(b.rate, MaxMessage) }
func (b *bucket) pass(d time.Duration) {
	// By microseconds of an hour at most: bytes a second times nanoseconds might overflow.
	b.bytes = min(b.most(), b.bytes+b.rate*min(d, time.Hour).Microseconds()/1_000_000)
}
func (b *bucket) empty() bool { return b.bytes <= 0 }

// NewSync returns a Sync over logs.
func NewSync(logs Logs, opt SyncOptions) *Sync {
	s := &Sync{
		logs: logs, self: opt.Self, rand: opt.Rand, tick: opt.Tick, checked: opt.Checked,
		peers: map[NodeID]*peer{}, questions: map[uint64]*question{}, asked: map[logID]*question{},
		pull: bucket{rate: int64(opt.Pull)}, send: bucket{rate: int64(opt.Send)},
		held: held{logs: map[logID]*heldLog{}}, seen: recent{limit: rememberedBatches}, holes: map[hole]*unfilled{},
		boots: boots{of: map[NodeID]*Bootstrap{}, moved: map[NodeID]moved{}},
	}
	s.boots.logs, _ = logs.(SnapshotLogs)
	if s.tick <= 0 {
		s.tick = DefaultTick
	}
	if s.pull.rate <= 0 {
		s.pull.rate = DefaultPull
	}
	if s.send.rate <= 0 {
		s.send.rate = DefaultSend
	}
	if s.checked == nil {
		s.checked = NewChecked(rememberedSignatures)
	}
	s.pull.bytes, s.send.bytes = s.pull.most(), s.send.most()
	s.said, _ = s.own()
	return s
}

// own is the head of the newest epoch of the own log.
func (s *Sync) own() (Head, bool) {
	var own Head
	for _, h := range s.logs.Heads() {
		if h.Node == s.self {
			own = h // the last of them is the newest
		}
	}
	return own, own.Seq > 0
}

func (s *Sync) peer(id NodeID) *peer {
	p := s.peers[id]
	if p == nil {
		if len(s.peers) >= maxPeers {
			for id := range s.peers {
				s.forget(id)
			}
		}
		p = &peer{ahead: map[logID]Seq{}, vain: map[logID]vain{}, limit: firstAsk}
		s.peers[id] = p
	}
	return p
}

func (s *Sync) forget(id NodeID) {
	delete(s.peers, id)
	for _, u := range s.holes {
		delete(u.asked, id)
	}
	s.turn = slices.DeleteFunc(s.turn, func(n NodeID) bool { return n == id })
	for n, q := range s.questions {
		if q.to == id {
			s.close(n, q)
		}
	}
}

// Tick begins an exchange with one of peers, chosen at random. Who is not among peers is forgotten.
func (s *Sync) Tick(peers []NodeID) ([]Outgoing, error) {
	s.present = slices.DeleteFunc(slices.Clone(peers), func(n NodeID) bool { return n == s.self })
	slices.SortFunc(s.present, NodeID.Compare)
	s.present = slices.Compact(s.present)
	for id, p := range s.peers {
		p.useless, p.unknown = 0, 0
		if _, ok := slices.BinarySearchFunc(s.present, id, NodeID.Compare); !ok {
			s.forget(id)
		}
	}
	s.ticks++
	s.news, s.newsBefore = 0, s.news
	var out []Outgoing
	if s.passed == 0 {
		var err error
		if out, err = s.Pass(s.tick); err != nil {
			return out, err
		}
	}
	s.passed = 0
	more, failed := s.tickBoots()
	out = append(out, more...)
	if err := s.closeGaps(); err != nil || len(s.present) == 0 {
		return out, cmp.Or(err, failed)
	}
	to := s.present[s.rand.IntN(len(s.present))]
	begun := slices.ContainsFunc(out, func(o Outgoing) bool { _, ok := o.Message.(Digest); return ok && o.To == to })
	if !begun {
		out = append(out, Outgoing{To: to, Message: s.view().digest()})
	}
	holes, err := s.askHoles(to)
	return append(out, holes...), cmp.Or(err, failed)
}

// Met begins an exchange with a peer that has just connected.
func (s *Sync) Met(id NodeID) []Outgoing {
	if i, ok := slices.BinarySearchFunc(s.present, id, NodeID.Compare); !ok && id != s.self {
		s.present = slices.Insert(s.present, i, id)
	}
	return []Outgoing{{To: id, Message: s.view().digest()}}
}

// Pass lets time pass: what was bounded by bytes a second goes on, and questions that stayed without answer are asked anew. If it is not
// called between two Ticks, SyncOptions.Tick has passed.
func (s *Sync) Pass(d time.Duration) ([]Outgoing, error) {
	if d <= 0 {
		return nil, nil
	}
	s.now += d
	s.passed += d
	s.pull.pass(d)
	s.send.pass(d)
	s.expire()
	out, err := s.serve()
	if err != nil {
		return out, err
	}
	work, failed := s.workBoots()
	out = append(append(out, s.later...), work...)
	s.later = nil
	if s.claims {
		more, any := s.askAll()
		out, s.claims = append(out, more...), any
	}
	if s.stirred && !s.claims && len(s.asked) == 0 && s.now >= s.stir {
		s.stirred, s.stir = false, s.now+eager
		digest := s.view().digest()
		for _, id := range s.some(NodeID{}, NodeID{}) {
			out = append(out, Outgoing{To: id, Message: digest})
		}
	}
	return out, failed
}

// askAll asks all peers that are ahead, and says whether any is.
func (s *Sync) askAll() (out []Outgoing, any bool) {
	var ahead []NodeID
	for id, p := range s.peers {
		if len(p.ahead) > 0 {
			ahead = append(ahead, id)
		}
	}
	slices.SortFunc(ahead, NodeID.Compare)
	if n := len(ahead); n > 1 { // not always the same first
		k := s.number(n)
		ahead = slices.Concat(ahead[k:], ahead[:k])
	}
	for _, id := range ahead {
		out = append(out, s.ask(id)...)
		any = any || len(s.peers[id].ahead) > 0
	}
	return out, any
}

// expire gives up on questions that stayed without an answer.
func (s *Sync) expire() {
	for n, q := range s.questions {
		switch {
		case s.now-q.at >= lost:
			s.close(n, q)
		case !q.late && s.now-q.at >= patience:
			s.release(q)
			q.late = true
			p := s.peer(q.to)
			p.limit = max(minAnswer, p.limit/2)
			if p.late++; p.late >= maxLate {
				clear(p.ahead) // until it says so again
			}
		}
	}
}

// release gives back what a question has taken up.
func (s *Sync) release(q *question) {
	if q.late {
		return
	}
	s.pull.bytes += int64(q.limit)
	for _, id := range q.logs {
		if s.asked[id] == q {
			delete(s.asked, id)
		}
	}
}

func (s *Sync) close(n uint64, q *question) {
	s.release(q)
	delete(s.questions, n)
}

// some are a few present peers at random, but not those named.
func (s *Sync) some(but, nor NodeID) []NodeID {
	of := slices.DeleteFunc(slices.Clone(s.present), func(n NodeID) bool { return n == but || n == nor })
	for i := range min(Fanout, len(of)) {
		k := i + s.rand.IntN(len(of)-i)
		of[i], of[k] = of[k], of[i]
	}
	return of[:min(Fanout, len(of))]
}

// Said pushes what is new in the own log to a few peers. It is called after facts were said; what is said within a moment goes together.
func (s *Sync) Said() ([]Outgoing, error) {
	own, ok := s.own()
	if !ok || own.same(s.said) {
		return nil, nil
	}
	after := s.said.Seq
	if own.Epoch != s.said.Epoch {
		after = 0
	}
	batches, err := s.logs.Range(s.self, own.Epoch, after, MaxPush)
	if err != nil {
		return nil, err
	}
	s.said = own
	whole := false
	if n := len(batches); n > 0 {
		l, err := parseLink(batches[n-1].Header, batches[n-1].Sig)
		whole = err == nil && l.head.Seq >= own.Seq
	}
	if !whole {
		batches = nil
	}
	return s.push(batches, []Head{own}, NodeID{}, NodeID{}), nil
}

// push gives batches to a few peers, or tells them of the heads where batches are too many, or more than may be sent now.
func (s *Sync) push(batches []Batch, heads []Head, but, nor NodeID) []Outgoing {
	var msg Message = Batches{Batches: batches}
	size := msg.(Batches).size()
	tell := len(batches) == 0 || size > MaxPush+MaxPush/8
	var out []Outgoing
	for _, id := range s.some(but, nor) {
		if tell || s.send.empty() {
			out = append(out, Outgoing{To: id, Message: Heads{Heads: heads}})
			continue
		}
		s.send.bytes -= int64(size)
		out = append(out, Outgoing{To: id, Message: msg})
	}
	return out
}

// Gossiped takes a head heard by gossip, and asks from for what is missing. Errors are those of Step.
func (s *Sync) Gossiped(from NodeID, h Head) ([]Outgoing, error) {
	if _, err := s.hear(from, h); err != nil {
		return nil, err
	}
	return s.ask(from), nil
}

// Step takes a message from a peer. A *PeerError says that the peer misbehaved, and how; what is returned with it is to be sent to others.
func (s *Sync) Step(from NodeID, msg Message) ([]Outgoing, error) {
	switch m := msg.(type) {
	case Digest:
		return s.stepDigest(from, m)
	case Summary:
		return s.stepSummary(from, m)
	case Show:
		return s.stepShow(from, m)
	case Heads:
		return s.stepHeads(from, m)
	case Want:
		return s.stepWant(from, m)
	case Batches:
		return s.stepBatches(from, m)
	case SnapshotOffer, WantParts, Parts:
		return s.stepSnapshot(from, m)
	case Unknown:
		p := s.peer(from)
		if p.unknown++; p.unknown > MaxUnknown {
			return nil, &PeerError{Peer: from, Err: &FloodError{Limit: MaxUnknown}}
		}
		return nil, nil
	}
	return nil, &PeerError{Peer: from, Err: &MalformedError{What: "message", Why: "of no known type"}}
}

func (s *Sync) stepDigest(from NodeID, m Digest) ([]Outgoing, error) {
	v := s.view()
	if v.digest() == m {
		return nil, nil
	}
	if err := s.wasted(from); err != nil {
		return nil, err
	}
	var sum Summary
	total := 0
	first := s.number(DigestBuckets) // another each time, so that what does not fit comes another time
	for i := range DigestBuckets {
		n := (first + i) % DigestBuckets
		if v.hash[n] == m.Buckets[n] {
			continue
		}
		b := SummaryBucket{Number: n, Hash: v.hash[n]}
		for _, h := range v.heads[n] {
			b.Marks = append(b.Marks, markOf(h, v.forked(h)))
		}
		slices.SortFunc(b.Marks, Mark.compare)
		if len(b.Marks) > MaxMarks {
			from := s.number(len(b.Marks) - MaxMarks + 1)
			b.Marks = b.Marks[from : from+MaxMarks]
		}
		if total += len(b.Marks); total > MaxMarks && len(sum.Buckets) > 0 {
			break
		}
		sum.Buckets = append(sum.Buckets, b)
	}
	slices.SortFunc(sum.Buckets, func(a, b SummaryBucket) int { return a.Number - b.Number })
	return []Outgoing{{To: from, Message: sum}}, nil
}

// number is a random one from 0 to n-1.
func (s *Sync) number(n int) int {
	if s.rand == nil || n < 2 {
		return 0
	}
	return s.rand.IntN(n)
}

// stepSummary compares a peer's marks with these logs.
func (s *Sync) stepSummary(from NodeID, m Summary) ([]Outgoing, error) {
	v := s.view()
	p := s.peer(from)
	var tell []Head
	var show []Mark
	news := false
	for _, b := range m.Buckets {
		if b.Number < 0 || b.Number >= DigestBuckets || v.hash[b.Number] == b.Hash {
			continue
		}
		ours, theirs := map[Mark][]Head{}, map[Mark][]Mark{}
		var keys []Mark
		key := func(m Mark) Mark {
			k := Mark{Prefix: m.Prefix, Epoch: m.Epoch}
			if len(ours[k])+len(theirs[k]) == 0 {
				keys = append(keys, k)
			}
			return k
		}
		for _, h := range v.heads[b.Number] {
			k := key(markOf(h, true))
			ours[k] = append(ours[k], h)
		}
		for _, t := range b.Marks {
			if int(t.Prefix[0]>>4) != b.Number {
				return nil, &PeerError{Peer: from, Err: &MalformedError{What: "message", Why: "a mark in the wrong bucket"}}
			}
			k := key(t)
			theirs[k] = append(theirs[k], t)
		}
		before := len(tell) + len(show)
		explained := false
		for _, k := range keys {
			o, t := ours[k], theirs[k]
			switch {
			case len(o) > 1 || len(t) > 1: // two nodes with one prefix
				tell, show = append(tell, v.shown(o)...), append(show, k)
			case len(t) == 0:
				tell = append(tell, v.shown(o)...)
			case len(o) == 0:
				show = append(show, k)
			case v.forked(o[0]) && t[0].Seq == 0:
			case v.forked(o[0]):
				tell = append(tell, v.shown(o)...)
			case t[0].Seq == 0:
				show = append(show, k)
			case t[0].Seq > o[0].Seq:
				explained = true
				news = s.claim(p, logID{o[0].Node, o[0].Epoch}, o[0].Seq, t[0].Seq) || news
			case t[0].Seq < o[0].Seq:
				tell = append(tell, o[0])
			case markOf(o[0], false) != t[0]: // proof of a fork, if theirs is signed too
				tell, show = append(tell, o[0]), append(show, k)
			}
		}
		if len(tell)+len(show) == before && !explained {
			// The marks are the same, the hashes are not: somebody made two heads that begin alike.
			tell, show = append(tell, v.shown(v.heads[b.Number])...), append(show, keys...)
		}
	}
	if !news {
		if err := s.wasted(from); err != nil {
			return nil, err
		}
	}
	out := s.ask(from)
	if len(tell) > 0 {
		out = append(out, Outgoing{To: from, Message: headsOf(tell)})
	}
	if len(show) > 0 {
		show = sortMarks(show)
		out = append(out, Outgoing{To: from, Message: Show{Marks: show[:min(len(show), MaxHeads/2)]}})
	}
	return out, nil
}

// headsOf makes a message of heads, of as many as fit.
func headsOf(heads []Head) Heads {
	slices.SortFunc(heads, compareSigned)
	heads = slices.CompactFunc(heads, Head.same)
	return Heads{Heads: heads[:min(len(heads), MaxHeads)]}
}

func (s *Sync) stepShow(from NodeID, m Show) ([]Outgoing, error) {
	if err := s.wasted(from); err != nil {
		return nil, err
	}
	v := s.view()
	var tell []Head
	for i, k := range m.Marks {
		n := int(k.Prefix[0] >> 4)
		if i > 0 && m.Marks[i-1].compare(k) == 0 {
			continue
		}
		at, _ := slices.BinarySearchFunc(v.heads[n], k, func(h Head, k Mark) int { return markOf(h, true).prefixOrder(k) })
		for ; at < len(v.heads[n]) && markOf(v.heads[n][at], true).prefixOrder(k) == 0; at++ {
			if h := v.heads[n][at]; h.Epoch == k.Epoch && len(tell) < MaxHeads {
				tell = append(tell, v.shown([]Head{h})...)
			}
		}
	}
	if len(tell) == 0 {
		return nil, nil
	}
	return []Outgoing{{To: from, Message: headsOf(tell)}}, nil
}

func (m Mark) prefixOrder(o Mark) int { m.Epoch, o.Epoch = 0, 0; return m.compare(o) }

func (s *Sync) stepHeads(from NodeID, m Heads) ([]Outgoing, error) {
	if len(m.Heads) > MaxHeads {
		return nil, &PeerError{Peer: from, Err: &LimitError{What: "heads in a message", Got: len(m.Heads), Limit: MaxHeads}}
	}
	useful := false
	for _, h := range m.Heads {
		behind, err := s.hear(from, h)
		if err != nil {
			return nil, err
		}
		useful = useful || behind
	}
	if !useful {
		if err := s.wasted(from); err != nil {
			return nil, err
		}
	}
	return s.ask(from), nil
}

// hear notes that from has a head. An author not certified, or quarantined, is no fault of from's.
func (s *Sync) hear(from NodeID, h Head) (claimed bool, err error) {
	after, behind, err := s.logs.Heard(h)
	if err != nil {
		delete(s.peer(from).ahead, logID{h.Node, h.Epoch})
		return false, s.fault(from, err)
	}
	return behind && s.claim(s.peer(from), logID{h.Node, h.Epoch}, after, h.Seq), nil
}

// claim notes that a peer says it has more of a log than there is here. Who was asked for it and gave nothing is not heard for a while.
func (s *Sync) claim(p *peer, id logID, have, more Seq) bool {
	if v, ok := p.vain[id]; ok && have <= v.at && s.ticks < v.until {
		return false
	}
	p.ahead[id], s.claims = more, true
	return true
}

// other says that somebody else has more of a log than there is here, who has not been asked for it in vain.
func (s *Sync) other(but NodeID, id logID, have Seq) bool {
	for n, p := range s.peers {
		if _, vain := p.vain[id]; n != but && !vain && p.late == 0 && p.ahead[id] > have {
			return true
		}
	}
	return false
}

// answered notes what came of a question, and where it was asked in vain: for a log of which there is no more than before, unless the
// answer was full with those asked for before it.
func (s *Sync) answered(p *peer, q *question, got taken) {
	brought := map[logID]bool{}
	for _, id := range got.logs {
		brought[id] = true
	}
	heads := s.logs.Heads()
	grew, last := false, 0
	for i, id := range q.logs {
		delete(p.ahead, id) // unless it tells, and proves, that there is more
		grew = grew || headIn(heads, id).Seq > q.after[i]
		if brought[id] {
			last = i
		}
	}
	for i, id := range q.logs {
		switch {
		case headIn(heads, id).Seq > q.after[i]:
			delete(p.vain, id)
		case !grew || i <= last:
			v := p.vain[id]
			if v.at != q.after[i] {
				v = vain{at: q.after[i]}
			}
			v.begin(s.ticks, maxRest)
			p.vain[id] = v
		}
	}
	if n := len(got.logs); n > 0 {
		p.from = got.logs[n-1]
	}
}

// headIn finds the head of a log among sorted ones; the zero Head is that of none.
func headIn(heads []Head, id logID) Head {
	i, ok := slices.BinarySearchFunc(heads, id, func(h Head, id logID) int { return logID{h.Node, h.Epoch}.compare(id) })
	if !ok {
		return Head{}
	}
	return heads[i]
}

// ask asks a peer for what it is ahead in, as far as nobody else is being asked, and it has not too much to answer already.
func (s *Sync) ask(to NodeID) []Outgoing {
	p := s.peers[to]
	if p == nil || len(p.ahead) == 0 || s.pull.empty() || s.ticks < s.store.until {
		return nil
	}
	open, most := 0, MaxAsked
	if p.late > 0 {
		most = 1
	}
	for _, q := range s.questions {
		if q.to == to && !q.late {
			open++
		}
	}
	if open >= most {
		return nil
	}
	heads := s.logs.Heads()
	ids := slices.SortedFunc(maps.Keys(p.ahead), logID.compare)
	first, _ := slices.BinarySearchFunc(ids, p.from, func(a, b logID) int {
		if a.compare(b) <= 0 {
			return -1
		}
		return 1
	})
	q := &question{to: to, at: s.now, limit: p.limit}
	want := Want{Limit: p.limit, Logs: make([]Wanted, 0, min(len(ids), MaxWanted))}
	for i := range ids {
		id := ids[(first+i)%len(ids)]
		have := headIn(heads, id).Seq
		if p.ahead[id] <= have {
			delete(p.ahead, id)
			delete(p.vain, id)
			continue
		}
		if s.taking(id, have) {
			delete(p.ahead, id) // it is told again
			continue
		}
		if v, ok := p.vain[id]; ok && have > v.at {
			delete(p.vain, id)
		} else if ok && s.other(to, id, have) {
			continue
		}
		if other := s.asked[id]; other != nil && (other.to == to || s.peer(other.to).late == 0) {
			continue
		}
		if len(want.Logs) == MaxWanted {
			break
		}
		want.Logs = append(want.Logs, Wanted{Node: id.Node, Epoch: id.Epoch, After: have})
		q.logs, q.after = append(q.logs, id), append(q.after, have)
		s.asked[id] = q
	}
	if len(want.Logs) == 0 {
		return nil
	}
	return []Outgoing{s.pose(q, want)}
}

func (s *Sync) pose(q *question, want Want) Outgoing {
	s.lastID++
	want.ID = s.lastID
	s.questions[want.ID] = q
	s.pull.bytes -= int64(q.limit)
	return Outgoing{To: q.to, Message: want}
}

// askHoles asks a peer for payloads that did not come with their batches.
func (s *Sync) askHoles(to NodeID) ([]Outgoing, error) {
	holes := s.logs.Holes()
	if len(holes) == 0 {
		clear(s.holes)
	}
	if len(holes) == 0 || s.pull.empty() || s.ticks < s.store.until {
		return nil, nil
	}
	for _, q := range s.questions {
		if q.to == to && q.hole != (hole{}) && !q.late {
			return nil, nil
		}
	}
	first := s.number(len(holes))
	var looked []hole
	for i := range holeLooks {
		h := holes[(first+i)%len(holes)]
		after, behind, err := s.logs.Heard(h) // another of the log each time, round and round
		if err != nil {
			return nil, s.fault(to, err)
		}
		at := hole{logID{h.Node, h.Epoch}, after}
		if slices.Contains(looked, at) {
			break
		}
		looked = append(looked, at)
		if !behind || !s.mayFill(to, at) {
			continue
		}
		q := &question{to: to, at: s.now, limit: holeAsk, hole: at}
		return []Outgoing{s.pose(q, Want{Limit: holeAsk, Logs: []Wanted{{Node: h.Node, Epoch: h.Epoch, After: after}}})}, nil
	}
	return nil, nil
}

// mayFill says whether a peer is to be asked for a payload.
func (s *Sync) mayFill(to NodeID, at hole) bool {
	u := s.holes[at]
	if u != nil && s.ticks >= u.until {
		clear(u.asked)
	}
	return u == nil || !u.asked[to]
}

// notFilled notes that a peer answered without the payload it was asked for.
func (s *Sync) notFilled(from NodeID, at hole) {
	u := s.holes[at]
	if u == nil {
		if len(s.holes) >= maxHoles {
			clear(s.holes)
		}
		u = &unfilled{asked: map[NodeID]bool{}}
		s.holes[at] = u
	}
	if len(u.asked) == 0 {
		u.begin(s.ticks, maxHoleRest)
	}
	u.asked[from] = true
	u.until = s.ticks + u.ticks
}

// stepWant answers at once what it may send now, and the rest later. Who has more than MaxAsked questions waiting has given up the oldest.
func (s *Sync) stepWant(from NodeID, m Want) ([]Outgoing, error) {
	if len(m.Logs) > MaxWanted {
		return nil, &PeerError{Peer: from, Err: &LimitError{What: "logs in a question", Got: len(m.Logs), Limit: MaxWanted}}
	}
	p := s.peer(from)
	if len(p.waiting)+len(p.parts) == 0 {
		s.turn = append(s.turn, from)
	}
	if len(p.waiting) >= MaxAsked {
		p.waiting = p.waiting[1:]
	}
	p.waiting = append(p.waiting, m)
	return s.serve()
}

// serve answers questions, one of each peer in turn, as far as it may send now.
func (s *Sync) serve() ([]Outgoing, error) {
	var out []Outgoing
	for len(s.turn) > 0 && !s.send.empty() {
		id := s.turn[0]
		s.turn = s.turn[1:]
		p := s.peers[id]
		if p == nil || len(p.waiting)+len(p.parts) == 0 {
			continue
		}
		var want *Want
		var part *WantParts
		if len(p.waiting) > 0 {
			want, p.waiting = &p.waiting[0], p.waiting[1:]
		} else {
			part, p.parts = &p.parts[0], p.parts[1:]
		}
		if len(p.waiting)+len(p.parts) > 0 {
			s.turn = append(s.turn, id)
		}
		if part != nil {
			m, err := AnswerParts(s.boots.logs, *part)
			if err != nil {
				return out, err
			}
			s.send.bytes -= max(int64(m.(sized).size()), leastPartAnswer)
			out = append(out, Outgoing{To: id, Message: m})
			continue
		}
		m, err := s.answer(*want)
		if err != nil {
			return out, err
		}
		s.send.bytes -= int64(m.size())
		out = append(out, Outgoing{To: id, Message: m})
		more, err := s.offers(id, *want)
		if out = append(out, more...); err != nil {
			return out, err
		}
	}
	return out, nil
}

func (s *Sync) answer(want Want) (Batches, error) {
	m := Batches{ID: want.ID}
	left := want.Limit
	if left <= 0 || left > MaxAnswer {
		left = MaxAnswer
	}
	heads := s.logs.Heads()
	for _, l := range want.Logs {
		h := headIn(heads, logID{l.Node, l.Epoch})
		if h.Seq == 0 {
			continue
		}
		reached := l.After
		covered := s.boots.logs != nil && (Position{l.Epoch, l.After}).compare(s.boots.logs.Base(l.Node)) < 0 // it gets an offer
		if left > 0 && !covered {
			batches, err := s.logs.Range(l.Node, l.Epoch, l.After, left)
			if err != nil {
				return m, err
			}
			for _, b := range batches {
				if left -= b.size(); left < 0 && len(m.Batches) > 0 {
					break
				}
				m.Batches = append(m.Batches, b)
				if l, err := parseLink(b.Header, b.Sig); err == nil {
					reached = l.head.Seq
				}
			}
		}
		if h.Seq > reached && !covered {
			m.Heads = append(m.Heads, h)
		}
	}
	slices.SortFunc(m.Heads, compareSigned)
	m.Heads = slices.CompactFunc(m.Heads, Head.same)
	return m, nil
}

func (s *Sync) stepBatches(from NodeID, m Batches) ([]Outgoing, error) {
	p := s.peer(from)
	q := s.questions[m.ID]
	if q == nil || q.to != from {
		q = nil
	} else {
		if !q.late {
			p.late = 0
			if s.now-q.at < patience/2 {
				p.limit = min(2*p.limit, MaxAnswer)
			}
		}
		s.close(m.ID, q)
		s.pull.bytes -= int64(m.size())
	}
	got, err := s.take(from, m.Batches)
	s.news += len(got.fresh)
	var out []Outgoing
	if q == nil {
		out = s.handOn(from, got.fresh)
	} else if len(got.fresh) > 0 {
		s.stirred = true
	}
	var lied *PeerError
	failed := err != nil && !errors.As(err, &lied) // here: the peer is ahead still
	if q != nil && !failed {
		s.answered(p, q, got)
	}
	if err != nil && !failed {
		return out, err
	}
	for _, h := range m.Heads {
		claimed, herr := s.hear(from, h)
		if herr != nil {
			return out, cmp.Or(err, herr)
		}
		if claimed && len(got.logs) == 0 && !failed {
			delete(p.ahead, logID{h.Node, h.Epoch}) // it says so and gives nothing
		}
	}
	if failed {
		return out, err
	}
	if len(got.fresh) == 0 && !got.held {
		if err := s.wasted(from); err != nil {
			return out, err
		}
	}
	out = append(out, s.ask(from)...)
	if q == nil || q.hole == (hole{}) {
		return out, nil
	}
	if len(got.fresh) == 0 {
		s.notFilled(from, q.hole)
		return out, nil
	}
	delete(s.holes, q.hole)
	more, err := s.askHoles(from)
	return append(out, more...), err
}

// taken is what came of the batches in a message.
type taken struct {
	fresh []Verified
	logs  []logID // of which there were any, in order
	held  bool    // something waits for what is before it, or there is no room for it here
}

// take verifies and stores batches, one log after the other. What comes before an error is kept.
func (s *Sync) take(from NodeID, batches []Batch) (got taken, err error) {
	var run []Verified
	flush := func() error {
		vs := run
		run = nil
		return s.takeRun(from, vs, &got)
	}
	for _, b := range batches {
		l, perr := parseLink(b.Header, b.Sig)
		if perr != nil {
			err = perr
			break
		}
		id := logID{l.head.Node, l.head.Epoch}
		if n := len(got.logs); n == 0 || got.logs[n-1] != id {
			if err := flush(); err != nil {
				return got, err
			}
			got.logs = append(got.logs, id)
		}
		if s.seen.has(l.head.Hash) || s.held.has(id, l) {
			continue
		}
		v, verr := b.verify(l, s.checked)
		if verr != nil {
			err = verr
			break
		}
		run = append(run, v)
	}
	if err := flush(); err != nil {
		return got, err
	}
	return got, s.fault(from, err)
}

// takeRun stores consecutive batches of one log, holds those before which something is missing, and takes those that were held for them.
func (s *Sync) takeRun(from NodeID, run []Verified, got *taken) error {
	if len(run) == 0 {
		return nil
	}
	id := logID{run[0].link.head.Node, run[0].link.head.Epoch}
	fresh, err := s.keep(run)
	var gap *GapError
	early := len(run)
	if errors.As(err, &gap) {
		err = nil
		early = max(0, slices.IndexFunc(run, func(v Verified) bool { return v.link.first > gap.After+1 }))
		for _, v := range run[early:] {
			got.held = s.held.add(id, v) || got.held
		}
		// Who has this has what is before it, too.
		if _, err := s.hear(from, run[len(run)-1].Head()); err != nil {
			return err
		}
	}
	if err == nil {
		for _, v := range run[:early] {
			s.remember(v)
		}
	}
	if fresh > 0 {
		got.fresh = append(got.fresh, s.brought(id, run[:early], fresh)...)
		if err == nil && early > 0 {
			err = s.closeGap(id, run[early-1].link.head.Seq)
		}
	}
	var fork *ForkError
	if errors.As(err, &fork) {
		s.held.drop(id)
	}
	var full *FullError
	got.held = got.held || errors.As(err, &full) // the peer has done its part
	return s.fault(from, err)
}

// keep has batches taken. When the store fails, nothing more is asked for until a later Tick: it would be thrown away.
func (s *Sync) keep(run []Verified) (fresh int, err error) {
	fresh, err = s.logs.Take(run)
	if fresh > 0 {
		err = cmp.Or(err, s.snapshotsIn(run))
	}
	var lied *PeerError
	switch failed := s.fault(NodeID{}, err); {
	case failed != nil && !errors.As(failed, &lied):
		if s.ticks >= s.store.until { // else it is an answer to what was asked before
			s.store.begin(s.ticks, maxRest)
		}
	case fresh > 0:
		s.store = rest{}
	}
	return fresh, err
}

// brought are those of a run by which a log grew, where so many of them brought something: not what was there before, nor what comes
// after the place where it stopped.
func (s *Sync) brought(id logID, run []Verified, fresh int) []Verified {
	if fresh < len(run) {
		reached := headIn(s.logs.Heads(), id).Seq
		run = slices.DeleteFunc(slices.Clone(run), func(v Verified) bool { return v.link.head.Seq > reached })
		run = run[max(0, len(run)-fresh):]
	}
	return run
}

// remember notes that a batch is stored. One without all of its payloads may yet come with them.
func (s *Sync) remember(v Verified) {
	if !slices.ContainsFunc(v.batch.Payloads, Payload.dropped) {
		s.seen.add(v.link.head.Hash)
	}
}

// closeGap takes what was held of a log that has reached a position.
func (s *Sync) closeGap(id logID, reached Seq) error {
	for {
		run := s.held.next(id, reached, MaxAnswer)
		if len(run) == 0 {
			return nil
		}
		fresh, err := s.keep(run)
		s.news += fresh
		if err != nil {
			s.held.drop(id)
			return err
		}
		for _, v := range run {
			s.remember(v)
			reached = max(reached, v.link.head.Seq)
		}
	}
}

// closeGaps takes what was held and follows now, whoever brought what was before it.
func (s *Sync) closeGaps() error {
	if len(s.held.logs) == 0 {
		return nil
	}
	heads := s.logs.Heads()
	for _, id := range slices.SortedFunc(maps.Keys(s.held.logs), logID.compare) {
		if err := s.fault(NodeID{}, s.closeGap(id, headIn(heads, id).Seq)); err != nil {
			return err
		}
	}
	return nil
}

// handOn pushes to a few others what was new when it was pushed here.
func (s *Sync) handOn(from NodeID, fresh []Verified) []Outgoing {
	if len(fresh) == 0 {
		return nil
	}
	var batches []Batch
	newest := map[logID]Head{}
	for _, v := range fresh {
		batches = append(batches, v.batch)
		newest[logID{v.link.head.Node, v.link.head.Epoch}] = v.link.head
	}
	var author NodeID
	if len(newest) == 1 {
		author = fresh[0].link.head.Node
	}
	return s.push(batches, headsOf(slices.Collect(maps.Values(newest))).Heads, from, author)
}

// wasted counts a message that brought nothing new. What was new comes from each peer that hands it on: that is no fault.
func (s *Sync) wasted(from NodeID) error {
	p := s.peer(from)
	if p.useless++; p.useless > MaxUseless+s.news+s.newsBefore {
		return &PeerError{Peer: from, Err: &FloodError{Limit: MaxUseless}}
	}
	return nil
}

// fault sorts the errors of Logs and Verify: what says nothing against the peer is nil, what does is a *PeerError, the rest is the store's.
func (s *Sync) fault(from NodeID, err error) error {
	var (
		uncertified *UncertifiedError
		fork        *ForkError
		forged      *ForgedError
		malformed   *MalformedError
		limit       *LimitError
		version     *VersionError
		gap         *GapError
		full        *FullError
		contrary    *ContradictionError
	)
	switch {
	case err == nil, errors.As(err, &uncertified), errors.As(err, &fork), errors.As(err, &contrary), errors.As(err, &version), errors.As(err, &gap), errors.As(err, &full):
		return nil // a batch of a newer version is its author's doing, and what is full is full here
	case errors.As(err, &forged), errors.As(err, &malformed), errors.As(err, &limit):
		return &PeerError{Peer: from, Err: err}
	}
	return err
}
