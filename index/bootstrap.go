package index

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// PageState says how much of a page a store has.
type PageState byte

// The states of a page.
const (
	PageAbsent PageState = iota
	PageHoled            // with facts whose payload is absent though nobody is known to have taken it back
	PageWhole
)

// SnapshotStore is what Bootstrap needs of a store to take up the snapshots of one log. What a call has done is on disk when it returns;
// a call that fails may have done it or not, and is made again. Calls come one at a time. Errors are the store's own, but where another
// is named.
//
// A store has at most one snapshot of a log that is being taken up (pending), beside the newest one that it has finished. Everything that
// it holds of the log goes on being shown, and batches go on being taken, whatever the state of a pending snapshot. Where there is no
// pending one, the calls about sheets and pages are about the finished one (see Bootstrap.Refill), and Finish has nothing to do.
type SnapshotStore interface {
	// Pending is the snapshot that is being taken up, as given to Begin; ok is false when there is none.
	Pending() (o Offered, ok bool, err error)

	// Begin makes a snapshot the pending one, in place of an older one; pages that were taken for that stay. It does nothing when the
	// snapshot is pending already, and says news false when it is no news: one that covers as much is finished, or a newer is pending, or
	// Finish has been called for the pending one and has not come to its end.
	// It judges the snapshot's head against the log, as Logs.Heard does. Errors: *UncertifiedError and *ForkError (this author's
	// snapshots are not taken for now), *ForgedError and *MalformedError (whoever sent it misbehaves). A *ForkError of TakePages and of
	// Finish says that the log has been found to be forked since: nothing of it changes any more.
	// The batch of the offer need not follow on the log. It is kept, for it is what the snapshot is shown to others by.
	Begin(o Offered) (news bool, err error)

	// Sheet returns a sheet of the pending snapshot as TakeSheet was given it, and nil if it was not. A store that can cut all pages of
	// a snapshot itself may have made it (BuildSnapshot), if its root is the snapshot's. i is -1 for the list of sheets.
	Sheet(i int) ([]byte, error)

	// TakeSheet keeps a sheet of the pending snapshot, or for i -1 its list: to go on after a break, and to serve it.
	TakeSheet(i int, raw []byte) error

	// Have says of each page of a sheet how much of it is here: because TakePages took it, for this snapshot or another one; because
	// it is a page of the snapshot before; or because the store cuts the same page (CutPages) from the facts of the log that hold at
	// the snapshot's head. Pages are the same if their hashes are. It reads up to 65,536 positions, and nothing that is not between
	// the first and the last page.
	Have(refs []PageRef) ([]PageState, error)

	// TakePages takes pages of the pending snapshot, in any order and more than once, and says how much of each is here now. The payloads
	// of one page may come at several times; those that the log has under the same positions fill it too. Facts are applied as
	// those of a batch: visible at once, beside what was there, the newest position of a kind and subject winning; payloads that their
	// author is known to have taken back are dropped, and not waited for.
	TakePages(pages []VerifiedPage) ([]PageState, error)

	// Finish makes the snapshot the beginning of the log; it is called when every page is here. It does a bounded piece of the work and
	// says whether that was the last: until it was, it is called again, also after a break, and readers see either what was or what
	// will be of each fact, never neither. All that the author said at positions that the snapshot covers and that is in none of its pages
	// goes: payloads (out of the files too, if they were taken back), the rows they brought about, batches, logs of earlier epochs, their
	// holes and what is kept of dropped payloads. Proofs of forks stay. Then the snapshot's head is the log's where that ended before it;
	// batches after it stay, and follow on it. From then on nothing covered is asked for, taken or served but as a page.
	Finish(o Offered) (done bool, err error)
}

// Limits on taking up a snapshot.
const (
	MaxSources     = 64      // peers that are asked for parts
	MaxPartsAsked  = 2       // questions of one machine that a peer has to answer at a time
	MaxOutstanding = 8 << 20 // bytes that all peers together may be about to send
	maxOpenSheets  = 4       // sheets in memory
	holeTries      = 3       // peers asked for a page that lacks payloads
	partPatience   = 2       // ticks after which a question is taken for lost
	penance        = 30      // ticks for which a peer that lied is not asked
	lackPatience   = 8       // ticks after which a peer that had not the snapshot is asked again
)

// BootstrapOptions configure a Bootstrap.
type BootstrapOptions struct {
	Node         NodeID // whose log
	Self         NodeID
	Rand         *rand.Rand // chooses whom to ask; seeded by the caller
	BytesPerTick int        // what may be asked for between two ticks; 0 sets no limit
}

// Bootstrap takes up snapshots of one log: list of sheets, sheets, pages, from any peers that have them, each part checked as it comes
// and kept, so that after a break, or when a newer snapshot comes, nothing is fetched twice. Of a log that is here already only the pages
// that differ are fetched.
//
// It is a step machine like Sync: no goroutine, no clock, and no I/O but that of its store. Messages carry no numbers; what is lost
// is asked for again, elsewhere if there is anywhere else. A peer that lies is named by a *PeerError and left alone for a while. The owner
// calls Tick every few seconds, Step for each message, and Work as long as it is Busy and does not fail, and sends what they return.
//
// While it knows of no snapshot it asks for one, a peer at each tick. So one is made for a log that has a snapshot to be taken up, or of
// which a peer says more than it can give as batches; and let go when its Progress is Done.
type Bootstrap struct {
	store     SnapshotStore
	opt       BootstrapOptions
	ticks     uint64
	allowance int
	sources   []*source // sorted by node; slots are their places in masks
	slots     uint64
	now       *taking
	last      Offered // the newest finished here; zero if there was none
	wire      uint64
}

// source is a peer that may have parts.
type source struct {
	node    NodeID
	slot    int
	asked   []partQuestion
	silent  int    // questions it has left unanswered since it last was of use
	barred  uint64 // the tick until which it is not asked
	without uint64 // the tick until which it is taken not to have the snapshot
	useless int
}

type partQuestion struct {
	part  Part
	index uint64
	count uint64
	limit int
	at    uint64
}

// taking is a snapshot being taken up.
type taking struct {
	offer     Offered
	list      []PageRef
	looked    bool // for the list, in the store
	listed    bool
	lacks     uint64 // sources without the list
	open      []*openSheet
	next      int // the first sheet that was not opened yet
	done      uint64
	holed     uint64
	finishing bool
}

// openSheet is a sheet of which not every page is here.
type openSheet struct {
	index int
	lacks uint64 // sources without the sheet
	refs  []PageRef
	pages []openPage
	left  int // pages that are still wanted
}

type openPage struct {
	state PageState
	asked bool
	over  bool   // nothing more is wanted of it
	tried uint64 // sources that gave it with holes
	lacks uint64 // sources that have it not
}

// NewBootstrap returns a Bootstrap that goes on with what the store has begun.
func NewBootstrap(store SnapshotStore, opt BootstrapOptions) (*Bootstrap, error) {
	b := &Bootstrap{store: store, opt: opt, allowance: opt.BytesPerTick}
	o, ok, err := store.Pending()
	if err != nil {
		return nil, err
	}
	if ok {
		b.now = &taking{offer: o}
	}
	return b, nil
}

// Progress is how far a snapshot has been taken up.
type Progress struct {
	Snapshot Snapshot
	Pages    uint64 // pages that are here, of Snapshot.Pages. After a break it begins at 0 and soon is where it was
	Holed    uint64 // of these, pages that lack payloads although several peers were asked
	Bytes    uint64 // bytes of parts that came from peers since the machine was made
	Dropping bool   // every page is here; what the snapshot leaves out is being dropped
	Done     bool
	Sources  int // peers that may be asked now
}

// Progress says how far the snapshot has been taken up. The zero Snapshot says that there is none.
func (b *Bootstrap) Progress() Progress {
	p := Progress{Bytes: b.wire}
	for _, s := range b.sources {
		if b.usable(s) {
			p.Sources++
		}
	}
	switch {
	case b.now != nil:
		p.Snapshot, p.Pages, p.Holed, p.Dropping = b.now.offer.Snapshot, b.now.done, b.now.holed, b.now.finishing
	case b.last.Snapshot.Head.Seq > 0:
		p.Snapshot, p.Pages, p.Done = b.last.Snapshot, b.last.Snapshot.Pages, true
	}
	return p
}

// Tick names the peers there are, gives up on questions long unanswered, and asks anew.
func (b *Bootstrap) Tick(peers []NodeID) ([]Outgoing, error) {
	b.ticks++
	b.allowance = b.opt.BytesPerTick
	b.meet(peers)
	for _, s := range b.sources {
		s.useless = 0
		s.asked = slices.DeleteFunc(s.asked, func(q partQuestion) bool {
			late := b.ticks-q.at >= partPatience
			if late {
				s.silent++
				b.unask(q)
			}
			return late
		})
	}
	if b.now == nil {
		if b.last.Snapshot.Head.Seq > 0 {
			return nil, nil // a newer one is heard of in the log
		}
		return b.askOffer(), nil
	}
	b.forgive()
	return b.ask(), nil
}

// Meet lets a peer be asked, if there is room, before the next Tick names all.
func (b *Bootstrap) Meet(n NodeID) {
	if b.source(n) == nil {
		peers := []NodeID{n}
		for _, s := range b.sources {
			peers = append(peers, s.node)
		}
		b.meet(peers)
	}
}

// meet makes the peers the sources, as far as there is room.
func (b *Bootstrap) meet(peers []NodeID) {
	b.sources = slices.DeleteFunc(b.sources, func(s *source) bool {
		if slices.Contains(peers, s.node) {
			return false
		}
		for _, q := range s.asked {
			b.unask(q)
		}
		b.slots &^= 1 << s.slot
		b.forget(1 << s.slot)
		return true
	})
	for _, n := range peers {
		if len(b.sources) == MaxSources {
			break
		}
		i, known := slices.BinarySearchFunc(b.sources, n, func(s *source, n NodeID) int { return s.node.Compare(n) })
		if known || n == b.opt.Self {
			continue
		}
		slot := bits.TrailingZeros64(^b.slots)
		b.slots |= 1 << slot
		b.sources = slices.Insert(b.sources, i, &source{node: n, slot: slot})
	}
}

// forget clears what is noted of the sources in a mask.
func (b *Bootstrap) forget(mask uint64) {
	if b.now == nil {
		return
	}
	b.now.lacks &^= mask
	for _, o := range b.now.open {
		o.lacks &^= mask
		for i := range o.pages {
			o.pages[i].tried &^= mask
			o.pages[i].lacks &^= mask
		}
	}
}

// forgive lets sources be asked again that were silent, or for what they had not, once in a while: they may be taking up the same snapshot.
func (b *Bootstrap) forgive() {
	if b.ticks%lackPatience != 0 {
		return
	}
	for _, s := range b.sources {
		s.silent = 0
	}
	b.now.lacks = 0
	for _, o := range b.now.open {
		o.lacks = 0
		for i := range o.pages {
			o.pages[i].lacks = 0
		}
	}
}

func (b *Bootstrap) source(n NodeID) *source {
	if i, ok := slices.BinarySearchFunc(b.sources, n, func(s *source, n NodeID) int { return s.node.Compare(n) }); ok {
		return b.sources[i]
	}
	return nil
}

func (b *Bootstrap) usable(s *source) bool { return b.ticks >= s.barred && b.ticks >= s.without }

// Take takes a snapshot that is known from elsewhere: from the log itself, when the batch with its fact was taken. One that comes while
// what another leaves out is being dropped is passed over: it is to be given again when that is Done.
func (b *Bootstrap) Take(o Offered) ([]Outgoing, error) {
	if err := b.begin(o); err != nil {
		return nil, err
	}
	return b.ask(), nil
}

// Refill asks for payloads that are absent in pages of the newest finished snapshot, once for each page: there was nobody who had them.
func (b *Bootstrap) Refill(finished Offered) {
	if b.now == nil {
		b.now = &taking{offer: finished}
	}
}

func (b *Bootstrap) begin(o Offered) error {
	if o.Snapshot.Head.Node != b.opt.Node || b.now != nil && (b.now.finishing || !o.newer(b.now.offer)) || !o.newer(b.last) {
		return nil
	}
	news, err := b.store.Begin(o)
	if err != nil || !news {
		return err
	}
	b.now = &taking{offer: o}
	for _, s := range b.sources {
		s.asked, s.without = nil, 0
	}
	return nil
}

// Step takes a SnapshotOffer or Parts from a peer. A *PeerError says that the peer misbehaved, and how; what it sent before is kept.
func (b *Bootstrap) Step(from NodeID, msg Message) (out []Outgoing, err error) {
	s := b.source(from)
	if s == nil {
		return nil, nil // it is no peer any more, or one too many
	}
	switch m := msg.(type) {
	case SnapshotOffer:
		err = b.stepOffer(s, m)
	case Parts:
		err = b.stepParts(s, m)
	default:
		err = &MalformedError{What: "message", Why: "it is none about snapshots"}
	}
	if b.abandons(err) {
		return nil, nil
	}
	if err = b.fault(s, err); err != nil {
		var lied *PeerError
		if !errors.As(err, &lied) {
			return nil, err
		}
	}
	return b.ask(), err
}

// abandons lets go of what is taken up where its author is at fault: it is not taken from anybody.
func (b *Bootstrap) abandons(err error) bool {
	var contradiction *ContradictionError
	var fork *ForkError
	if !errors.As(err, &contradiction) && !errors.As(err, &fork) {
		return false
	}
	b.now = nil
	for _, s := range b.sources {
		s.asked = nil
	}
	return true
}

// fault sorts errors as Sync does, and leaves a peer that lied alone for a while.
func (b *Bootstrap) fault(s *source, err error) error {
	var (
		uncertified *UncertifiedError
		fork        *ForkError
		version     *VersionError
		forged      *ForgedError
		malformed   *MalformedError
		limit       *LimitError
		flood       *FloodError
	)
	switch {
	case err == nil, errors.As(err, &uncertified), errors.As(err, &fork), errors.As(err, &version):
		return nil
	case errors.As(err, &forged), errors.As(err, &malformed), errors.As(err, &limit), errors.As(err, &flood):
		s.barred = b.ticks + penance
		for _, q := range s.asked {
			b.unask(q)
		}
		s.asked = nil
		return &PeerError{Peer: s.node, Err: err}
	}
	return err
}

func (b *Bootstrap) wasted(s *source) error {
	if s.useless++; s.useless > MaxUseless {
		return &FloodError{Limit: MaxUseless}
	}
	return nil
}

func (b *Bootstrap) stepOffer(s *source, m SnapshotOffer) error {
	v, err := m.Batch.Verify()
	if err != nil {
		return err
	}
	if v.link.head.Node != b.opt.Node {
		return b.wasted(s)
	}
	o, err := ReadSnapshot(v)
	if err != nil {
		return err
	}
	was := b.now
	if err := b.begin(o); err != nil {
		return err
	}
	if b.now != was {
		s.silent = 0
		return nil
	}
	// It is no news: this peer has an older snapshot than the one it was asked for, or the same.
	if len(s.asked) == 0 {
		return b.wasted(s)
	}
	if b.now != nil && o.Snapshot.Root != b.now.offer.Snapshot.Root {
		for _, q := range s.asked {
			b.unask(q)
		}
		s.asked, s.without = nil, b.ticks+lackPatience
		return nil
	}
	s.asked = slices.DeleteFunc(s.asked, func(q partQuestion) bool { return q.part == PartOffer })
	return b.wasted(s)
}

func (b *Bootstrap) stepParts(s *source, m Parts) error {
	if m.Node != b.opt.Node || len(m.Parts) > MaxParts {
		return &MalformedError{What: "message", Why: "these parts were not asked for"}
	}
	if b.now == nil {
		s.asked = nil // it has nothing to offer
		return b.wasted(s)
	}
	if m.Root != b.now.offer.Snapshot.Root {
		return b.wasted(s) // an answer from before a newer snapshot came
	}
	i := slices.IndexFunc(s.asked, func(q partQuestion) bool { return q.part == m.Part && q.index == m.Index })
	if i < 0 {
		return b.wasted(s) // late, doubled or made up
	}
	q := s.asked[i]
	s.asked = slices.Delete(s.asked, i, i+1)
	b.unask(q)
	size := 0
	for _, p := range m.Parts {
		size += len(p)
	}
	if b.opt.BytesPerTick > 0 {
		b.allowance = min(b.allowance+max(q.limit-size, 0), b.opt.BytesPerTick)
	}
	switch {
	case uint64(len(m.Parts)) > q.count:
		return &LimitError{What: "parts in an answer", Got: len(m.Parts), Limit: int(q.count)}
	case len(m.Parts) > 1 && size > q.limit:
		return &LimitError{What: "bytes of an answer", Got: size, Limit: q.limit}
	case len(m.Parts) == 0:
		b.lacking(s, q)
		return nil
	}
	b.wire += uint64(size)
	var err error
	switch m.Part {
	case PartList:
		err = b.takeList(m.Parts[0])
	case PartSheet:
		err = b.takeSheet(q.index, m.Parts[0])
	default:
		err = b.takePages(s, q.index, m.Parts)
	}
	if err == nil {
		s.silent = 0
	}
	return err
}

// lacking notes that a source has not what it was asked for.
func (b *Bootstrap) lacking(s *source, q partQuestion) {
	bit := uint64(1) << s.slot
	switch q.part {
	case PartList:
		b.now.lacks |= bit
	case PartSheet:
		if o := b.sheet(q.index); o != nil {
			o.lacks |= bit
		}
	case PartPages:
		if p := b.page(q.index); p != nil {
			p.lacks |= bit
		}
	}
}

// sheet is an open sheet by its number.
func (b *Bootstrap) sheet(i uint64) *openSheet {
	if b.now != nil {
		for _, o := range b.now.open {
			if uint64(o.index) == i {
				return o
			}
		}
	}
	return nil
}

// page is a page of an open sheet by its number.
func (b *Bootstrap) page(i uint64) *openPage {
	if o := b.sheet(i / MaxSheet); o != nil && o.refs != nil {
		return &o.pages[i%MaxSheet]
	}
	return nil
}

// unask makes what a question was about free to be asked for elsewhere.
func (b *Bootstrap) unask(q partQuestion) {
	if q.part != PartPages {
		return
	}
	for i := range q.count {
		if p := b.page(q.index + i); p != nil {
			p.asked = false
		}
	}
}

func (b *Bootstrap) takeList(raw []byte) error {
	if b.now.listed {
		return nil
	}
	list, err := b.now.offer.Snapshot.ReadList(raw)
	if err != nil {
		return err
	}
	if err := b.store.TakeSheet(-1, raw); err != nil {
		return err
	}
	b.now.list, b.now.listed = list, true
	return nil
}

func (b *Bootstrap) takeSheet(i uint64, raw []byte) error {
	o := b.sheet(i)
	if o == nil || o.refs != nil {
		return nil
	}
	refs, err := b.now.offer.Snapshot.ReadSheet(b.now.list, o.index, raw)
	if err != nil {
		return err
	}
	if err := b.store.TakeSheet(o.index, raw); err != nil {
		return err
	}
	return b.openPages(o, refs)
}

// openPages finds out which pages of a sheet are here.
func (b *Bootstrap) openPages(o *openSheet, refs []PageRef) error {
	states, err := b.store.Have(refs)
	if err != nil {
		return err
	}
	if len(states) != len(refs) {
		return fmt.Errorf("index: a store of snapshots knows of %d pages when asked for %d", len(states), len(refs))
	}
	o.refs, o.pages, o.left = refs, make([]openPage, len(refs)), len(refs)
	for i, st := range states {
		b.settle(o, i, st)
	}
	b.close(o)
	return nil
}

// settle notes how much of a page is here.
func (b *Bootstrap) settle(o *openSheet, i int, st PageState) {
	p := &o.pages[i]
	if p.over {
		return
	}
	p.state = st
	if st == PageWhole || st == PageHoled && bits.OnesCount64(p.tried) >= holeTries {
		p.over = true
		o.left--
		b.now.done++
		if st == PageHoled {
			b.now.holed++
		}
	}
}

func (b *Bootstrap) close(o *openSheet) {
	if o.left == 0 {
		b.now.open = slices.DeleteFunc(b.now.open, func(x *openSheet) bool { return x == o })
	}
}

func (b *Bootstrap) takePages(s *source, first uint64, raw [][]byte) error {
	o := b.sheet(first / MaxSheet)
	if o == nil || o.refs == nil {
		return nil // it was closed meanwhile
	}
	at := int(first % MaxSheet)
	var pages []VerifiedPage
	var err error
	for i, r := range raw { // no more than were asked for, which is within the sheet
		var v VerifiedPage
		if v, err = b.now.offer.Snapshot.ReadPage(o.refs[at+i], r); err != nil {
			break
		}
		pages = append(pages, v)
	}
	if len(pages) == 0 {
		return err
	}
	states, terr := b.store.TakePages(pages)
	if terr != nil {
		return terr
	}
	if len(states) != len(pages) {
		return fmt.Errorf("index: a store of snapshots took %d pages of %d", len(states), len(pages))
	}
	for i, st := range states {
		if st == PageHoled {
			o.pages[at+i].tried |= 1 << s.slot
		}
		b.settle(o, at+i, st)
	}
	b.close(o)
	return err
}

// Busy says that there is work to do that needs nobody else: Work does a piece of it.
func (b *Bootstrap) Busy() bool {
	t := b.now
	return t != nil && (t.finishing || t.listed && t.next < len(t.list) && len(t.open) < maxOpenSheets || b.complete() || !t.looked)
}

func (b *Bootstrap) complete() bool {
	return b.now.listed && b.now.next == len(b.now.list) && len(b.now.open) == 0
}

// Work looks a sheet up in the store, or does a piece of dropping what the snapshot leaves out.
func (b *Bootstrap) Work() ([]Outgoing, error) {
	t := b.now
	switch {
	case !b.Busy():
		return nil, nil
	case t.finishing || b.complete():
		t.finishing = true
		done, err := b.store.Finish(t.offer)
		if b.abandons(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if done {
			b.last, b.now = t.offer, nil
		}
		return nil, nil
	case !t.looked:
		raw, err := b.store.Sheet(-1)
		if err != nil {
			return nil, err
		}
		t.looked = true
		if raw != nil {
			if t.list, err = t.offer.Snapshot.ReadList(raw); err != nil {
				return nil, damagedPart(err)
			}
			t.listed = true
		}
	default:
		o := &openSheet{index: t.next}
		raw, err := b.store.Sheet(o.index)
		if err != nil {
			return nil, err
		}
		if raw != nil {
			refs, err := t.offer.Snapshot.ReadSheet(t.list, o.index, raw)
			if err != nil {
				return nil, damagedPart(err)
			}
			if err := b.openPages(o, refs); err != nil {
				return nil, err
			}
		}
		t.next++
		if raw == nil || o.left > 0 {
			t.open = append(t.open, o)
		}
	}
	return b.ask(), nil
}

func damagedPart(err error) error {
	return fmt.Errorf("index: a part of a snapshot that was checked when it was stored is damaged: %w", err)
}

// askOffer asks one peer whether it has a snapshot.
func (b *Bootstrap) askOffer() []Outgoing {
	var from []*source
	for _, s := range b.sources {
		if b.usable(s) && len(s.asked) == 0 {
			from = append(from, s)
		}
	}
	if len(from) == 0 {
		return nil
	}
	if answering := slices.DeleteFunc(slices.Clone(from), func(s *source) bool { return s.silent > 0 }); len(answering) > 0 {
		from = answering
	}
	return []Outgoing{b.question(from[b.opt.Rand.IntN(len(from))], partQuestion{part: PartOffer, limit: MaxBatch})}
}

func (b *Bootstrap) question(s *source, q partQuestion) Outgoing {
	q.at = b.ticks
	s.asked = append(s.asked, q)
	m := WantParts{Node: b.opt.Node, Part: q.part, Index: q.index, Count: q.count, Limit: q.limit}
	if b.now != nil {
		m.Root = b.now.offer.Snapshot.Root
	}
	return Outgoing{To: s.node, Message: m}
}

// ask asks sources for what is wanted, in turn, until each has enough to answer. Those that were silent are asked when there are no others.
func (b *Bootstrap) ask() []Outgoing {
	if b.now == nil || b.Busy() && len(b.now.open) == 0 {
		return nil // first see what is here
	}
	from := slices.DeleteFunc(slices.Clone(b.sources), func(s *source) bool { return !b.usable(s) })
	b.opt.Rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	b.giveUpHoles(from)
	if slices.ContainsFunc(from, func(s *source) bool { return s.silent == 0 }) {
		from = slices.DeleteFunc(from, func(s *source) bool { return s.silent > 0 })
	}
	var out []Outgoing
	for {
		asked := false
		for _, s := range from {
			limit := MaxPartsAsked
			if s.silent > 0 {
				limit = 1
			}
			if len(s.asked) >= limit || !b.room() {
				continue
			}
			if q, ok := b.wanted(s); ok {
				out = append(out, b.question(s, q))
				asked = true
			}
		}
		if !asked {
			return out
		}
	}
}

// room says whether more may be asked for now.
func (b *Bootstrap) room() bool {
	outstanding := 0
	for _, s := range b.sources {
		for _, q := range s.asked {
			outstanding += q.limit
		}
	}
	return outstanding+MaxAnswer <= MaxOutstanding && (b.opt.BytesPerTick == 0 || b.allowance > 0)
}

// giveUpHoles is content with pages that lack payloads where nobody else can be asked.
func (b *Bootstrap) giveUpHoles(from []*source) {
	if len(from) == 0 {
		return // there may be somebody later
	}
	for _, o := range slices.Clone(b.now.open) {
		for i := range o.pages {
			p := &o.pages[i]
			if p.over || p.asked || p.state != PageHoled {
				continue
			}
			if !slices.ContainsFunc(from, func(s *source) bool { return (p.tried|p.lacks)>>s.slot&1 == 0 }) && p.tried != 0 {
				p.over = true
				o.left--
				b.now.done++
				b.now.holed++
			}
		}
		if o.refs != nil {
			b.close(o)
		}
	}
}

// wanted is a question for a source: for something that nobody is asked for.
func (b *Bootstrap) wanted(s *source) (partQuestion, bool) {
	t := b.now
	if !t.listed {
		if t.lacks>>s.slot&1 == 1 || b.isAsked(PartList, 0) {
			return partQuestion{}, false
		}
		return b.reserve(partQuestion{part: PartList, count: 1}, maxListIn)
	}
	average := int(t.offer.Snapshot.Bytes/max(t.offer.Snapshot.Pages, 1)) + 1
	most := max(MaxAnswer*7/8/average, 1) // what an answer surely holds, so that no single pages are left over
	for _, o := range t.open {
		if o.refs == nil {
			if o.lacks>>s.slot&1 == 0 && !b.isAsked(PartSheet, uint64(o.index)) {
				return b.reserve(partQuestion{part: PartSheet, index: uint64(o.index), count: 1}, maxSheetIn)
			}
			continue
		}
		for i := 0; i < len(o.pages); i++ {
			n := 0
			for n < most && i+n < len(o.pages) && o.pages[i+n].wantedOf(s) {
				n++
			}
			if n == 0 {
				continue
			}
			for k := range n {
				o.pages[i+k].asked = true
			}
			return b.reserve(partQuestion{part: PartPages, index: uint64(o.index)*MaxSheet + uint64(i), count: uint64(n)}, min(n*MaxPageBytes, MaxAnswer))
		}
	}
	return partQuestion{}, false
}

func (b *Bootstrap) reserve(q partQuestion, limit int) (partQuestion, bool) {
	q.limit = limit
	b.allowance -= limit
	return q, true
}

func (p *openPage) wantedOf(s *source) bool {
	return !p.over && !p.asked && (p.tried|p.lacks)>>s.slot&1 == 0
}

func (b *Bootstrap) isAsked(part Part, index uint64) bool {
	for _, s := range b.sources {
		for _, q := range s.asked {
			if q.part == part && q.index == index {
				return true
			}
		}
	}
	return false
}
