package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// Priorities: lower goes first, here and at the holder.
const (
	// Urgent is the priority of a block that somebody waits for this very moment.
	Urgent uint8 = 0
	// Unattended is the first of those of what nobody waits for at all; between the
	// two are studies that somebody does wait for.
	Unattended uint8 = 3
)

const (
	urgentBytes = 8 << 20                // urgent blocks asked for beyond a holder's window
	stallAfter  = 2 * time.Second        // without a byte, and others are asked as well
	lookEvery   = 250 * time.Millisecond // for holders that stall
	lateAfter   = 500 * time.Millisecond // a holder that needs longer for what it was asked for is helped by one that has nothing to do
	scanMost    = 1024                   // blocks that a holder lacks which are passed over to find one that it has
)

// Want is a block that is wanted, and about how many bytes it has: without
// that it counts as full.
type Want struct {
	CID  cid.Cid
	Size int
}

func (w Want) size() int {
	if w.Size <= 0 {
		return cas.MaxBlock
	}
	return min(w.Size, cas.MaxBlock)
}

// Draw draws blocks of one study from all who have granted it, at once. Each
// holder is asked for small runs, in the order of wanting, and for as much at a
// time as its line holds; so the faster gives more, and nobody has to know
// beforehand which that is. What one lacks, or has not given when it stalls,
// lies or dies, the others are asked for.
//
// Its methods may be called concurrently.
type Draw struct {
	m    *Mesh
	got  func(cas.Block) error
	have func(cid.Cid) bool

	giving sync.Mutex // held while got runs

	mu       sync.Mutex
	items    map[cid.Cid]*item // wanted, and not here
	lanes    [2]lane           // those to be asked for: the urgent, the others
	from     []*StudyStream
	gone     []*StudyStream // those that were in from
	failures []error        // why
	held     bool
	over     bool
	stop     error // of got
	asks     uint64
	looking  bool
	ended    chan struct{}
}

type lane struct{ items []*item }

// item is a block that is wanted.
type item struct {
	Want
	priority uint8
	queued   bool // in a lane
	asked    int  // of how many streams now
	kept     int  // how often it was asked for by who does not wait
	taken    bool // it is here, and being given to got
	calls    []*call
}

func (it *item) lane() int {
	if it.priority == Urgent {
		return 0
	}
	return 1
}

// call is somebody who waits for blocks.
type call struct {
	open map[cid.Cid]bool
	lost []cid.Cid // that no holder can give
	done chan struct{}
}

func (c *call) end(which cid.Cid) {
	if delete(c.open, which); len(c.open) == 0 {
		close(c.done)
	}
}

// outstanding is what a Draw knows of one of its streams.
type outstanding struct {
	asked map[cid.Cid]owed
	bytes int       // asked for
	part  int       // and here already, of the block that is coming
	since time.Time // when it had nothing to answer last, or answered
	lacks map[cid.Cid]bool
	slow  bool // it stalls
	ask   []toAsk
	pace  pace
}

type owed struct {
	*item
	at     time.Time
	number uint64
	alone  bool // nothing else was asked for before it
}

type toAsk struct {
	priority uint8
	cid      cid.Cid
}

// Draw begins with no holder. got is called once for each block that comes,
// verified, one at a time, and must not wait long; Data is the callee's own. An
// error of got ends the Draw. have, if it is not nil, says that got was given a
// block: then it is not asked for again. It must not call back.
func (m *Mesh) Draw(got func(cas.Block) error, have func(cid.Cid) bool) *Draw {
	if have == nil {
		have = func(cid.Cid) bool { return false }
	}
	return &Draw{m: m, got: got, have: have, items: make(map[cid.Cid]*item), ended: make(chan struct{})}
}

// Add has a further holder asked. The stream is the Draw's from now on; what is
// pushed on it has been read.
func (d *Draw) Add(s *StudyStream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over || s.closed() || !s.pushed || !s.owner.CompareAndSwap(nil, d) {
		d.gone = append(d.gone, s)
		d.failures = append(d.failures, fmt.Errorf("node %s: %w", s.holder, ErrClosed))
		_ = s.Close()
		d.settleAll()
		return
	}
	s.out.asked, s.out.lacks, s.out.since = make(map[cid.Cid]owed), make(map[cid.Cid]bool), time.Now()
	s.out.bytes, s.out.part, s.out.slow, s.out.ask = 0, 0, false, nil
	d.from = append(d.from, s)
	s.reads.Do(func() {
		s.f.grew = s.grew
		s.m.tasks.run(s.read)
		s.m.tasks.run(s.write)
	})
	if !d.looking {
		d.looking = true
		d.m.tasks.run(d.look)
	}
	d.assign(s)
}

// Holders lists those that are being drawn from.
func (d *Draw) Holders() []index.NodeID {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]index.NodeID, len(d.from))
	for i, s := range d.from {
		out[i] = s.holder
	}
	return out
}

// Close ends the Draw and its streams.
func (d *Draw) Close() {
	d.mu.Lock()
	streams := d.endLocked(ErrClosed)
	d.mu.Unlock()
	for _, s := range streams {
		_ = s.Close()
	}
}

// release ends the Draw and leaves those streams open that owe it nothing. When
// it returns, got runs no more.
func (d *Draw) release() {
	d.mu.Lock()
	streams := d.endLocked(ErrClosed)
	for _, s := range streams {
		if len(s.out.asked) > 0 {
			_ = s.Close()
		}
		s.owner.CompareAndSwap(d, nil)
	}
	d.mu.Unlock()
	d.giving.Lock() // when it is free, whoever gave something is done
	d.got = nil
	d.giving.Unlock()
}

func (d *Draw) endLocked(why error) (streams []*StudyStream) {
	if d.over {
		return nil
	}
	d.over = true
	if d.stop == nil {
		d.stop = why
	}
	close(d.ended)
	for c, it := range d.items {
		for _, call := range it.calls {
			call.lost = append(call.lost, c)
			call.end(c)
		}
		it.calls = nil
	}
	return d.from
}

// Hold keeps the Draw from asking for anything that is not urgent: whoever takes
// the blocks is behind.
func (d *Draw) Hold(held bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held = held; !held {
		d.assignAll()
	}
}

// Ask asks for blocks and does not wait for them. Those wanted already become
// as urgent as they are now. leave takes the wish back; what is on its way by then
// still comes.
func (d *Draw) Ask(wants []Want, priority uint8) (leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return func() {}
	}
	items := make([]*item, 0, len(wants))
	for _, w := range wants {
		if !d.have(w.CID) {
			it := d.want(w, priority)
			it.kept++
			items = append(items, it)
		}
	}
	d.assignAll()
	d.settle(items)
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, it := range items {
			it.kept--
		}
		d.sweep(items)
	})
}

// Fetch waits until each block has been given to got, or nobody has it: no
// holder, nor, then asked by bitswap, anyone of those that granted the study.
// missing lists those in the order given; err says why, if it was not that every
// holder said that it lacks them.
func (d *Draw) Fetch(ctx context.Context, wants []Want, priority uint8) (missing []cid.Cid, err error) {
	return d.fetch(ctx, wants, priority, true)
}

func (d *Draw) fetch(ctx context.Context, wants []Want, priority uint8, bitswap bool) (missing []cid.Cid, err error) {
	c := &call{open: make(map[cid.Cid]bool, len(wants)), done: make(chan struct{})}
	d.mu.Lock()
	if d.over {
		defer d.mu.Unlock()
		return addresses(wants), d.stop
	}
	var items []*item
	for _, w := range wants {
		if !c.open[w.CID] && !d.have(w.CID) {
			c.open[w.CID] = true
			it := d.want(w, priority)
			it.calls = append(it.calls, c)
			items = append(items, it)
		}
	}
	if len(items) == 0 {
		d.mu.Unlock()
		return nil, nil
	}
	d.assignAll()
	d.settle(items)
	d.mu.Unlock()

	select {
	case <-c.done:
	case <-ctx.Done():
	case <-d.m.ctx.Done():
	}
	d.mu.Lock()
	left := c.open
	for _, it := range items {
		it.calls = slices.DeleteFunc(it.calls, func(o *call) bool { return o == c })
	}
	d.sweep(items)
	for _, which := range c.lost {
		left[which] = true
	}
	missing = among(wants, left)
	stop, failures := d.stop, errors.Join(d.failures...)
	d.mu.Unlock()
	switch {
	case len(missing) == 0:
		return nil, nil
	case stop != nil:
		return missing, stop
	case ctx.Err() != nil:
		return missing, ctx.Err()
	case d.m.ctx.Err() != nil:
		return missing, ErrClosed
	}
	if bitswap {
		if missing, err = d.byBitswap(ctx, missing); err != nil || len(missing) == 0 {
			return missing, err
		}
	}
	if failures != nil {
		return missing, fmt.Errorf("%d of %d blocks did not come: %w", len(missing), len(wants), failures)
	}
	return missing, nil
}

// addresses of wants, each once.
func addresses(wants []Want) []cid.Cid {
	all := make(map[cid.Cid]bool, len(wants))
	for _, w := range wants {
		all[w.CID] = true
	}
	return among(wants, all)
}

// among lists those wanted that are in a set, each once.
func among(wants []Want, set map[cid.Cid]bool) []cid.Cid {
	if len(set) == 0 {
		return nil
	}
	out := make([]cid.Cid, 0, len(set))
	seen := make(map[cid.Cid]bool, len(set))
	for _, w := range wants {
		if set[w.CID] && !seen[w.CID] {
			seen[w.CID] = true
			out = append(out, w.CID)
		}
	}
	return out
}

// want returns the item of a block, at least as urgent as this.
func (d *Draw) want(w Want, priority uint8) *item {
	it := d.items[w.CID]
	if it == nil {
		it = &item{Want: w, priority: priority}
		d.items[w.CID] = it
		d.enqueue(it)
		return it
	}
	if priority < it.priority {
		was := it.lane()
		if it.priority = priority; it.queued && it.lane() != was {
			d.lanes[was].drop(it)
			it.queued = false
			d.enqueue(it)
		}
	}
	return it
}

func (d *Draw) enqueue(it *item) {
	if !it.queued {
		it.queued = true
		l := &d.lanes[it.lane()]
		l.items = append(l.items, it)
	}
}

// again puts blocks at the front that were asked for in vain.
func (d *Draw) again(items []*item) {
	for i := range d.lanes {
		var front []*item
		for _, it := range items {
			if !it.queued && !it.taken && it.lane() == i {
				it.queued = true
				front = append(front, it)
			}
		}
		d.lanes[i].items = append(front, d.lanes[i].items...)
	}
}

func (l *lane) drop(it *item) {
	if i := slices.Index(l.items, it); i >= 0 {
		l.items = slices.Delete(l.items, i, i+1)
	}
}

// sweep drops those items that nobody wants. An answer that is on its way is
// thrown away, unless the block is wanted again by then.
func (d *Draw) sweep(items []*item) {
	queued := false
	for _, it := range items {
		if len(it.calls) == 0 && it.kept == 0 && !it.taken && d.items[it.CID] == it {
			queued = queued || it.queued
			it.queued = false
			delete(d.items, it.CID)
		}
	}
	for i := range d.lanes {
		if l := &d.lanes[i]; queued {
			l.items = slices.DeleteFunc(l.items, func(it *item) bool { return !it.queued })
		}
	}
}

// pick takes the first item out of the lane that a stream can be asked for.
func (l *lane) pick(s *StudyStream) *item {
	for i, it := range l.items {
		if i == scanMost {
			return nil
		}
		if _, asked := s.out.asked[it.CID]; asked || s.out.lacks[it.CID] {
			continue
		}
		if i == 0 {
			l.items[0] = nil
			l.items = l.items[1:]
		} else {
			l.items = slices.Delete(l.items, i, i+1)
		}
		it.queued = false
		return it
	}
	return nil
}

func (d *Draw) assignAll() {
	// What is urgent goes to whoever will have it here first.
	sorted := slices.Clone(d.from)
	slices.SortStableFunc(sorted, func(a, b *StudyStream) int {
		return cmp.Compare(a.out.pace.left(a.out.bytes), b.out.pace.left(b.out.bytes))
	})
	for _, s := range sorted {
		d.assign(s)
	}
}

// assign asks a stream for as much as it has room for.
func (d *Draw) assign(s *StudyStream) {
	o := &s.out
	if d.over || o.slow {
		return
	}
	window := o.pace.window()
	for len(o.asked) < maxAsked {
		onWay := o.bytes - o.part
		var it *item
		if onWay < window+urgentBytes {
			it = d.lanes[0].pick(s)
		}
		if it == nil && onWay < window && !d.held {
			it = d.lanes[1].pick(s)
		}
		if it == nil {
			break
		}
		d.askFor(s, it)
	}
	if len(o.asked) == 0 && !d.held {
		d.help(s)
	}
}

func (d *Draw) askFor(s *StudyStream, it *item) {
	o, now := &s.out, time.Now()
	alone := len(o.asked) == 0
	if alone {
		o.since = now
		o.pace.asked(now)
	}
	d.asks++
	it.asked++
	o.asked[it.CID] = owed{item: it, at: now, number: d.asks, alone: alone}
	o.bytes += it.size()
	o.ask = append(o.ask, toAsk{it.priority, it.CID})
	token(s.sends)
}

// help has a stream that has nothing to do asked for what another one will be
// long about.
func (d *Draw) help(s *StudyStream) {
	var late *StudyStream
	for _, x := range d.from {
		if x != s && len(x.out.asked) > 0 && (late == nil || x.out.pace.left(x.out.bytes) > late.out.pace.left(late.out.bytes)) {
			late = x
		}
	}
	if late == nil || late.out.pace.left(late.out.bytes) < max(lateAfter, 2*s.out.pace.left(late.out.bytes/2)) {
		return
	}
	asks := late.inOrder()
	window := s.out.pace.window()
	for _, a := range slices.Backward(asks[len(asks)/2:]) { // those that it will come to last
		if s.out.bytes >= window {
			return
		}
		if a.asked == 1 && !a.taken && d.items[a.CID] == a.item && !s.out.lacks[a.CID] {
			d.askFor(s, a.item)
		}
	}
}

func (s *StudyStream) inOrder() []owed {
	out := make([]owed, 0, len(s.out.asked))
	for _, a := range s.out.asked {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b owed) int { return cmp.Compare(a.number, b.number) })
	return out
}

// settle tells those who wait for blocks that nobody can give them, if so.
func (d *Draw) settle(items []*item) {
	var lost []*item
	for _, it := range items {
		if !d.hopeless(it) {
			continue
		}
		for _, c := range it.calls {
			c.lost = append(c.lost, it.CID)
			c.end(it.CID)
		}
		it.calls, it.kept = nil, 0
		lost = append(lost, it)
	}
	d.sweep(lost)
}

// hopeless says that a block is wanted which every holder lacks.
func (d *Draw) hopeless(it *item) bool {
	return !it.taken && it.asked == 0 && d.items[it.CID] == it &&
		!slices.ContainsFunc(d.from, func(s *StudyStream) bool { return !s.out.lacks[it.CID] })
}

func (d *Draw) settleAll() { d.settle(slices.Collect(maps.Values(d.items))) }

// lose goes on without a stream.
func (d *Draw) lose(s *StudyStream, err error) {
	d.mu.Lock()
	i := slices.Index(d.from, s)
	if i < 0 || d.over {
		d.mu.Unlock()
		_ = s.Close()
		return
	}
	d.from = slices.Delete(d.from, i, i+1)
	d.gone = append(d.gone, s)
	d.failures = append(d.failures, err)
	var back []*item
	for _, a := range s.inOrder() {
		if a.asked--; a.asked == 0 && d.items[a.CID] == a.item {
			back = append(back, a.item)
		}
	}
	clear(s.out.asked)
	d.again(back)
	d.assignAll()
	d.settleAll()
	d.mu.Unlock()
	_ = s.Close()
}

// look looks for streams that stall until the Draw ends.
func (d *Draw) look() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.ended:
			return
		case <-d.m.ctx.Done():
			return
		case now := <-tick.C:
			d.mu.Lock()
			d.stalled(now)
			d.mu.Unlock()
		}
	}
}

// stalled has others asked for what a stream owes that has not moved for long.
// It keeps its place: what comes after all is taken.
func (d *Draw) stalled(now time.Time) {
	if d.over { // its streams may be another's
		return
	}
	for _, s := range d.from {
		o := &s.out
		moved := time.Unix(0, s.moved.Load())
		quiet := now.Sub(later(moved, o.since))
		if o.slow || s.bound.Load() || len(o.asked) == 0 || quiet < max(stallAfter, 8*o.pace.rtt) || len(d.from) == 1 {
			continue
		}
		o.slow = true
		d.m.log.Warn("a node that a study is drawn from stalls; others are asked", "node", s.holder.String(), "for", quiet.Round(time.Millisecond), "blocks", len(o.asked))
		var back []*item
		for _, a := range s.inOrder() {
			if a.asked == 1 && d.items[a.CID] == a.item {
				back = append(back, a.item)
			}
		}
		d.again(back)
	}
	d.assignAll()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// owns says that a stream is this Draw's, and what is known of it this Draw's to
// look at and change, for as long as mu is held.
func (d *Draw) owns(s *StudyStream) bool { return s.owner.Load() == d }

// owed is what a stream was asked for by this Draw and has not answered.
func (d *Draw) owed(s *StudyStream, c cid.Cid) (o owed, ok bool) {
	if d.owns(s) {
		o, ok = s.out.asked[c]
	}
	return o, ok
}

// grew notes that a block is coming.
func (s *StudyStream) grew(n int) {
	d := s.owner.Load()
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.owns(s) {
		return
	}
	s.out.pace.came(n-s.out.part, time.Now())
	s.out.part = n
	d.assign(s)
}

// urgency is the priority of the most urgent block that a stream owes.
func (d *Draw) urgency(s *StudyStream) uint8 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.owns(s) || len(s.out.asked) == 0 {
		return s.priority
	}
	most := uint8(math.MaxUint8)
	for _, a := range s.out.asked {
		most = min(most, a.priority)
	}
	return most
}

// read takes a stream's answers until it ends.
func (s *StudyStream) read() {
	for {
		err := s.f.await(s.f.idle)
		if errors.Is(err, ErrIdle) && !s.overdue() {
			continue
		}
		var b []byte
		if err == nil {
			b, err = s.f.read()
		}
		var a answer
		if err == nil {
			a, err = decodeAnswer(b)
		}
		d := s.owner.Load()
		if err == nil && d == nil {
			err = errors.New("an answer that nobody waits for")
		}
		if err == nil {
			err = d.answered(s, a, len(b))
		}
		if err == nil {
			continue
		}
		err = s.fetchError(s.m.ctx, err)
		if s.closed() {
			err = ErrClosed
		}
		if d = s.owner.Load(); d != nil {
			d.lose(s, err)
		} else {
			_ = s.Close()
		}
		return
	}
}

// overdue says whether a stream that is silent owes something, and for how long.
func (s *StudyStream) overdue() bool {
	d := s.owner.Load()
	if d == nil || s.closed() {
		return s.closed()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.owns(s) && len(s.out.asked) > 0 && time.Since(s.out.since) >= s.f.idle
}

// answered takes one answer.
func (d *Draw) answered(s *StudyStream, a answer, size int) error {
	if a.kind == typeExpired {
		s.spoilt.Store(true)
		return ErrExpired
	}
	d.mu.Lock()
	asked, ok := d.owed(s, a.cid)
	d.mu.Unlock()
	if !ok || a.kind == typePushed {
		return fmt.Errorf("%w: an answer that nobody asked for", ErrBadMessage)
	}
	block := cas.Block{CID: a.cid, Data: a.data}
	if a.kind == typeBlock {
		if err := s.verify(block); err != nil {
			return err
		}
	}

	d.mu.Lock()
	now, o := time.Now(), &s.out
	if _, ok := d.owed(s, a.cid); !ok || d.over {
		d.mu.Unlock()
		return nil // the Draw has ended meanwhile
	}
	delete(o.asked, a.cid)
	o.bytes -= asked.size()
	o.pace.came(max(size-o.part, 0), now)
	if asked.alone {
		o.pace.answered(now.Sub(asked.at))
	}
	o.part, o.since, o.slow = 0, now, false
	asked.asked--
	it := d.items[a.cid] // not what was asked for, if that was dropped and is wanted again
	open := it != nil && !it.taken
	if a.kind == typeMissing {
		o.lacks[a.cid] = true
		if open && it.asked == 0 {
			d.again([]*item{it})
			d.assignAll()
			d.settle([]*item{it})
		}
		d.assign(s)
		d.mu.Unlock()
		return nil
	}
	if open {
		it.taken = true
		if it.queued {
			d.lanes[it.lane()].drop(it)
			it.queued = false
		}
	}
	d.assign(s)
	d.mu.Unlock()
	if !open {
		return nil // another was faster, or nobody wants it any more
	}

	stop := d.give(block)
	if stop == nil {
		d.m.counters.blocksFetched.Add(1)
		d.m.counters.bytesFetched.Add(uint64(len(a.data)))
	}
	d.mu.Lock()
	delete(d.items, a.cid)
	for _, c := range it.calls {
		if stop != nil {
			c.lost = append(c.lost, a.cid)
		}
		c.end(a.cid)
	}
	it.calls = nil
	var streams []*StudyStream
	if stop != nil {
		streams = d.endLocked(stop)
	}
	d.mu.Unlock()
	for _, s := range streams {
		_ = s.Close()
	}
	return nil
}

// give hands a block to got, one at a time and none after the end.
func (d *Draw) give(b cas.Block) error {
	d.giving.Lock()
	defer d.giving.Unlock()
	d.mu.Lock()
	over, stop := d.over, d.stop
	d.mu.Unlock()
	if over {
		return stop
	}
	return d.got(b)
}

// write sends what is to be asked of a stream until it ends.
func (s *StudyStream) write() {
	for {
		select {
		case <-s.sends:
		case <-s.ended:
			return
		case <-s.m.ctx.Done():
			return
		}
		d := s.owner.Load()
		if d == nil {
			continue
		}
		d.mu.Lock()
		var list []toAsk
		if d.owns(s) {
			list, s.out.ask = s.out.ask, nil
		}
		d.mu.Unlock()
		for len(list) > 0 {
			n := 1
			for n < len(list) && n < maxWant && list[n].priority == list[0].priority {
				n++
			}
			cids := make([]cid.Cid, n)
			for i := range cids {
				cids[i] = list[i].cid
			}
			want, err := encodeWant(list[0].priority, cids)
			if err == nil {
				err = s.f.write(want)
			}
			if err != nil {
				d.lose(s, s.fetchError(s.m.ctx, err))
				return
			}
			list = list[n:]
		}
	}
}

// byBitswap asks those for blocks that granted the study and did not say that
// they lack them, but never one that sent a wrong block or whose grant has run
// out.
func (d *Draw) byBitswap(ctx context.Context, cids []cid.Cid) (missing []cid.Cid, err error) {
	holders := make(map[cid.Cid][]index.NodeID)
	var open []cid.Cid
	d.mu.Lock()
	for _, c := range cids {
		able := make(map[index.NodeID]bool)
		for _, s := range slices.Concat(d.from, d.gone) {
			if _, seen := able[s.holder]; !seen {
				able[s.holder] = true
			}
			able[s.holder] = able[s.holder] && !s.spoilt.Load() && !s.out.lacks[c]
		}
		for id, ok := range able {
			if ok && d.m.peers.link(id) != nil {
				holders[c] = append(holders[c], id)
			}
		}
		if len(holders[c]) > 0 {
			open = append(open, c)
		}
	}
	d.mu.Unlock()
	if len(open) == 0 {
		return cids, nil
	}
	came, err := d.m.bitswap.fetch(ctx, open, holders, d.give)
	return slices.DeleteFunc(slices.Clone(cids), func(c cid.Cid) bool { return came[c] }), err
}
