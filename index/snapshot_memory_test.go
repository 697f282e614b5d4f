package index

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
)

// shelf is a SnapshotStore and SnapshotSource of one log, without a disk.
type shelf struct {
	t        testing.TB
	author   TrustID
	rnd      seeded
	epoch    Epoch
	batches  []Verified            // of the newest epoch, after the base
	facts    map[Position]PageFact // all that the log consists of here; those of pages without a place in a batch too
	ended    map[Position]bool     // payloads dropped because they were taken back
	until    map[Position]Position // what replaced a fact or took it back, first
	newest   map[string]Position
	pages    map[[32]byte]VerifiedPage // taken
	sheets   map[[32]byte]map[int][]byte
	pending  *Offered
	finished *Offered
	refuse   error // of Begin
	taken    int   // pages that TakePages was given
	steps    int   // calls of Finish
	begins   int   // calls of Begin
	broken   error // of TakePages, once
}

func newShelf(t testing.TB, author TrustID) *shelf {
	return &shelf{
		t: t, author: author, epoch: 1, rnd: newSeeded("shelf"), facts: map[Position]PageFact{}, ended: map[Position]bool{}, until: map[Position]Position{}, newest: map[string]Position{},
		pages: map[[32]byte]VerifiedPage{}, sheets: map[[32]byte]map[int][]byte{},
	}
}

func (s *shelf) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) head() Head {
	if n := len(s.batches); n > 0 {
		return s.batches[n-1].Head()
	}
	if s.finished != nil && s.finished.Snapshot.Head.Epoch == s.epoch {
		return s.finished.Snapshot.Head
	}
	return Head{}
}

// say seals statements as the log's author, in the epoch that the log is in.
func (s *shelf) say(st ...Statement) Verified {
	s.t.Helper()
	var v Verified
	for group := range slices.Chunk(st, MaxFacts) {
		size := 0
		for len(group) > 0 {
			n := 0
			for size = 0; n < len(group) && (n == 0 || size+len(group[n].Body) < MaxBatch/2); n++ {
				size += len(group[n].Body)
			}
			var err error
			v, err = sealBatch(nodeKeyOf(s.author), s.head(), s.epoch, group[:n], s.rnd)
			s.must(err)
			s.take(v)
			group = group[n:]
		}
	}
	return v
}

// take takes a batch that follows.
func (s *shelf) take(v Verified) {
	if e := v.Head().Epoch; e > s.epoch {
		s.epoch, s.batches = e, nil
	}
	if v.First() != s.head().Seq+1 {
		s.t.Fatalf("a batch from %d after %d", v.First(), s.head().Seq)
	}
	s.batches = append(s.batches, v)
	for i, p := range v.batch.Payloads {
		at := Position{v.Head().Epoch, v.First() + Seq(i)}
		if s.ended[at] {
			p = Payload{}
		}
		s.facts[at] = PageFact{Seq: at.Seq, Payload: p, Commitment: [32]byte(v.link.commit[i])}
		s.apply(at, p)
	}
}

// apply notes which facts a fact ends, and drops what a retraction takes back.
func (s *shelf) apply(at Position, p Payload) {
	st, err := decodePayload(p.Data)
	if err != nil {
		return
	}
	key := string(st.Kind) + " " + st.Subject
	switch old, ok := s.newest[key]; {
	case !ok || old.compare(at) < 0:
		s.newest[key] = at
		if ok {
			s.end(old, at)
		}
	case old != at:
		s.end(at, old)
	}
	if st.Kind != KindRetraction {
		return
	}
	r, err := decodeRetraction(st.Subject, st.Body)
	s.must(err)
	for _, gone := range r.Positions {
		s.ended[gone] = true
		s.end(gone, at)
		if f, ok := s.facts[gone]; ok {
			f.Payload = Payload{}
			s.facts[gone] = f
		}
		for hash, v := range s.pages {
			if v.Epoch() != gone.Epoch {
				continue
			}
			i := 0
			for f := range v.Facts() {
				if f.Seq == gone.Seq {
					v.page.Payloads = slices.Clone(v.page.Payloads)
					v.page.Payloads[i] = Payload{}
					s.pages[hash] = v
				}
				i++
			}
		}
	}
}

func (s *shelf) end(at, by Position) {
	if old, ok := s.until[at]; !ok || by.compare(old) < 0 {
		s.until[at] = by
	}
}

// newEpoch says all that is current anew, as a restored node does.
func (s *shelf) newEpoch() {
	s.t.Helper()
	var st []Statement
	for _, at := range s.positions() {
		if _, over := s.until[at]; over || saysSnapshot(s.facts[at].Payload.Data) {
			continue
		}
		said, err := decodePayload(s.facts[at].Payload.Data)
		s.must(err)
		st = append(st, said)
	}
	s.epoch, s.batches = s.epoch+1, nil
	s.say(st...)
}

// retract takes back what the author says of a subject.
func (s *shelf) retract(kind Kind, subject string) {
	r := Retraction{Why: Erased}
	for _, at := range s.positions() {
		if st, err := decodePayload(s.facts[at].Payload.Data); err == nil && st.Kind == kind && st.Subject == subject {
			r.Positions = append(r.Positions, at)
		}
	}
	r.Through = r.Positions[len(r.Positions)-1]
	s.say(Statement{Kind: KindRetraction, Subject: RetractionSubject(kind, subject), Body: r.encode()})
}

func (s *shelf) positions() []Position {
	var out []Position
	for at := range s.facts {
		out = append(out, at)
	}
	slices.SortFunc(out, Position.compare)
	return out
}

// holding yields the facts that hold at a head: those said up to it and not replaced or taken back up to it.
func (s *shelf) holding(head Head) iter.Seq2[PageFact, error] {
	return func(yield func(PageFact, error) bool) {
		for _, at := range s.positions() {
			if at.Epoch != head.Epoch || at.Seq > head.Seq || saysSnapshot(s.facts[at].Payload.Data) {
				continue
			}
			if until, ok := s.until[at]; ok && until.compare(Position{head.Epoch, head.Seq}) <= 0 {
				continue
			}
			if !yield(s.facts[at], nil) {
				return
			}
		}
	}
}

type shelfOut struct {
	pages  []VerifiedPage
	sheets map[int][]byte
}

func (o *shelfOut) Page(i uint64, v VerifiedPage) error {
	if i != uint64(len(o.pages)) {
		return fmt.Errorf("page %d after %d", i, len(o.pages))
	}
	o.pages = append(o.pages, v)
	return nil
}

func (o *shelfOut) Sheet(i int, raw []byte) error { o.sheets[i] = raw; return nil }
func (o *shelfOut) List(raw []byte) error         { o.sheets[-1] = raw; return nil }

// snapshot makes a snapshot at the log's head, says it, and takes it up itself.
func (s *shelf) snapshot() Offered {
	s.t.Helper()
	o := s.sayOf(s.build(s.head()))
	news, err := s.Begin(o)
	s.must(err)
	if !news {
		s.t.Fatal("the author's snapshot is no news to it")
	}
	for {
		done, err := s.Finish(o)
		s.must(err)
		if done {
			return o
		}
	}
}

func (s *shelf) build(head Head) Snapshot {
	s.t.Helper()
	out := &shelfOut{sheets: map[int][]byte{}}
	snap, err := BuildSnapshot(head, s.holding(head), out)
	s.must(err)
	s.sheets[snap.Root] = out.sheets
	for _, v := range out.pages {
		s.pages[v.ref.Hash] = v
	}
	return snap
}

func (s *shelf) sayOf(snap Snapshot) Offered {
	s.t.Helper()
	st, err := SnapshotStatement(snap)
	s.must(err)
	o, err := ReadSnapshot(s.say(st))
	s.must(err)
	return o
}

func (s *shelf) Pending() (Offered, bool, error) {
	if s.pending == nil {
		return Offered{}, false, nil
	}
	return *s.pending, true, nil
}

func (s *shelf) Begin(o Offered) (bool, error) {
	s.begins++
	if s.refuse != nil {
		return false, s.refuse
	}
	if s.finished != nil && !o.newer(*s.finished) || s.pending != nil && (s.pending.newer(o) || s.steps%2 == 1) {
		return false, nil
	}
	s.pending = &o
	if s.sheets[o.Snapshot.Root] == nil {
		s.sheets[o.Snapshot.Root] = map[int][]byte{}
	}
	return true, nil
}

func (s *shelf) current() *Offered {
	if s.pending != nil {
		return s.pending
	}
	return s.finished
}

func (s *shelf) Sheet(i int) ([]byte, error) { return s.sheets[s.current().Snapshot.Root][i], nil }

func (s *shelf) TakeSheet(i int, raw []byte) error {
	s.sheets[s.current().Snapshot.Root][i] = raw
	return nil
}

func (s *shelf) stateOf(v VerifiedPage) PageState {
	for f := range v.Facts() {
		if f.Payload.dropped() && !s.ended[Position{v.Epoch(), f.Seq}] {
			return PageHoled
		}
	}
	return PageWhole
}

func (s *shelf) Have(refs []PageRef) ([]PageState, error) {
	out := make([]PageState, len(refs))
	cut := map[[32]byte]VerifiedPage{}
	for v, err := range CutPages(nodeOf(s.author), s.current().Snapshot.Head.Epoch, s.holding(s.current().Snapshot.Head)) {
		s.must(err)
		cut[v.ref.Hash] = v
	}
	for i, r := range refs {
		v, ok := s.pages[r.Hash]
		if !ok {
			if v, ok = cut[r.Hash]; ok {
				s.pages[r.Hash] = v
			}
		}
		if ok {
			out[i] = s.stateOf(v)
		}
	}
	return out, nil
}

func (s *shelf) TakePages(pages []VerifiedPage) ([]PageState, error) {
	if err := s.broken; err != nil {
		s.broken = nil
		return nil, err
	}
	var out []PageState
	for _, v := range pages {
		s.taken++
		v.page.Payloads = slices.Clone(v.page.Payloads)
		old, known := s.pages[v.ref.Hash]
		i := 0
		for f := range v.Facts() {
			at := Position{v.Epoch(), f.Seq}
			p := f.Payload
			if p.dropped() && known {
				p = old.page.Payloads[i]
			}
			if here, ok := s.facts[at]; p.dropped() && ok && here.Commitment == f.Commitment {
				p = here.Payload
			}
			if s.ended[at] {
				p = Payload{}
			}
			v.page.Payloads[i] = p
			i++
		}
		s.pages[v.ref.Hash] = v
		for f := range v.Facts() {
			at := Position{v.Epoch(), f.Seq}
			s.facts[at] = f
			s.apply(at, f.Payload)
		}
		out = append(out, s.stateOf(s.pages[v.ref.Hash]))
	}
	return out, nil
}

// Finish takes two steps, to see that it is called again.
func (s *shelf) Finish(o Offered) (bool, error) {
	if s.pending == nil {
		return true, nil
	}
	if s.steps++; s.steps%2 == 1 {
		return false, nil
	}
	snap := o.Snapshot
	list, err := snap.ReadList(s.sheets[snap.Root][-1])
	s.must(err)
	keep := map[[32]byte]VerifiedPage{}
	facts := map[Position]PageFact{}
	for i := range list {
		refs, err := snap.ReadSheet(list, i, s.sheets[snap.Root][i])
		s.must(err)
		for _, r := range refs {
			v, ok := s.pages[r.Hash]
			if !ok {
				return false, errors.New("a page is absent")
			}
			keep[r.Hash] = v
			for f := range v.Facts() {
				facts[Position{v.Epoch(), f.Seq}] = f
			}
		}
	}
	for at, f := range s.facts {
		if at.compare(snap.through()) > 0 {
			facts[at] = f
		}
	}
	for at := range s.ended {
		if _, held := facts[at]; !held && at.compare(snap.through()) <= 0 {
			delete(s.ended, at)
		}
	}
	s.facts, s.pages, s.pending, s.finished = facts, keep, nil, &o
	s.epoch = max(s.epoch, snap.Head.Epoch)
	s.batches = slices.DeleteFunc(s.batches, func(v Verified) bool {
		h := v.Head()
		return Position{h.Epoch, h.Seq}.compare(snap.through()) <= 0
	})
	for root := range s.sheets {
		if root != snap.Root {
			delete(s.sheets, root)
		}
	}
	return true, nil
}

func (s *shelf) Offer(NodeID) (SnapshotOffer, [32]byte, bool, error) {
	if s.finished == nil {
		return SnapshotOffer{}, [32]byte{}, false, nil
	}
	return SnapshotOffer{Batch: s.finished.Batch.Batch()}, s.finished.Snapshot.Root, true, nil
}

func (s *shelf) Part(_ NodeID, root [32]byte, part Part, index uint64) ([]byte, bool, error) {
	sheets := s.sheets[root]
	switch part {
	case PartList:
		raw := sheets[-1]
		return raw, raw != nil, nil
	case PartSheet:
		raw := sheets[int(index)]
		return raw, raw != nil, nil
	}
	var of *Offered
	for _, o := range []*Offered{s.pending, s.finished} {
		if o != nil && o.Snapshot.Root == root {
			of = o
		}
	}
	if of == nil || sheets[-1] == nil || sheets[int(index/MaxSheet)] == nil || index >= of.Snapshot.Pages {
		return nil, false, nil
	}
	list, err := of.Snapshot.ReadList(sheets[-1])
	s.must(err)
	refs, err := of.Snapshot.ReadSheet(list, int(index/MaxSheet), sheets[int(index/MaxSheet)])
	s.must(err)
	v, ok := s.pages[refs[index%MaxSheet].Hash]
	if !ok {
		return nil, false, nil
	}
	return encode(v.page), true, nil
}

// state is what the log says here, in words: the newest of each subject, and where it was said.
func (s *shelf) state() string {
	holes := 0
	var lines []string
	for _, at := range s.positions() {
		st, err := decodePayload(s.facts[at].Payload.Data)
		if _, over := s.until[at]; err != nil || over {
			if err != nil && !s.ended[at] {
				holes++
			}
			continue
		}
		switch body := string(st.Body); {
		case st.Kind == KindSnapshot || st.Kind == KindRetraction:
			lines = append(lines, fmt.Sprintf("%d/%d %s", at.Epoch, at.Seq, st.Kind))
		case len(body) > 24:
			lines = append(lines, fmt.Sprintf("%d/%d %s/%s %s… (%d bytes)", at.Epoch, at.Seq, st.Kind, st.Subject, body[:1], len(body)))
		default:
			lines = append(lines, fmt.Sprintf("%d/%d %s/%s %s", at.Epoch, at.Seq, st.Kind, st.Subject, body))
		}
	}
	return fmt.Sprintf("%d facts here, %d of them current, %d holes; head %d/%d\n%s", len(s.facts), len(lines), holes, s.head().Epoch, s.head().Seq, strings.Join(lines, "\n"))
}

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

func signHead(key ed25519.PrivateKey, h Head) []byte { return ed25519.Sign(key, h.signed()) }
