package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
	"github.com/priormesh/priormesh/node/audit"
)

const (
	maxHolders  = 3               // drawn from at once
	openTimeout = 5 * time.Second // for one holder to answer with a grant
	openHedge   = 2 * time.Second // nothing from those asked: the next is asked too
	openSlow    = 5               // times that long, and they are slow: so is the next
	lingerFor   = 5 * time.Second // that holders stay open after the last use
	maxIdle     = 4               // studies that stay open so: a holder has few streams for a node
	readAhead   = 2 << 20         // bytes of an instance that are asked for with what is read of it
	bringRun    = landingWrite    // bytes that are brought before it is looked whether the disk keeps up
)

// remote is one version of a study at those who hold it, for as long as somebody
// reads it from there or brings it here. They share its grants, and what has come:
// readers have it at once, and it is written by and by.
type remote struct {
	a   *Archive
	id  sourceID
	st  index.Study
	ref cas.Ref // st's manifest

	priority uint8 // of whoever opened it

	users int         // remotes.mu guards it
	idle  *time.Timer // and it
	left  uint64      // and it: when the last user left
	ctx   context.Context
	stop  context.CancelCauseFunc
	ready chan struct{} // closed when it is open, or err says why not
	err   error

	draw  *mesh.Draw
	tasks sync.WaitGroup
	came  atomic.Int64 // bytes; that it grows is what readers look for

	mu       sync.Mutex
	key      cas.Key
	land     *landing // nil until the key is proven
	spare    []index.NodeID
	failures []error
	asked    map[index.NodeID]*giver // what is known of those that were asked
	at       *attempt                // what it is used for, besides readers; may be nil
	opening  sync.Mutex              // held while a spare holder is asked
}

// remotes are those that are open.
type remotes struct {
	mu   sync.Mutex
	of   map[remoteID]*remote
	left uint64 // counts those that were left
	over bool   // no more are opened
	runs sync.WaitGroup
}

// end waits for those that are open, whose context has ended, and keeps others
// from being opened.
func (rs *remotes) end() {
	rs.mu.Lock()
	rs.over = true
	rs.mu.Unlock()
	rs.runs.Wait()
}

// leave notes that nobody uses one any more. mu is held.
func (rs *remotes) leave(r *remote) {
	rs.left++
	r.left = rs.left
	idle, oldest := 0, r
	for _, o := range rs.of {
		if o.users == 0 && o.ctx.Err() == nil {
			idle++
			if o.left < oldest.left {
				oldest = o
			}
		}
	}
	if idle > maxIdle {
		oldest.stop(nil)
	}
}

type remoteID struct {
	sourceID
	manifest cid.Cid
}

// errOvertaken says that what was being opened is opened anew.
var errOvertaken = errors.New("opened anew for somebody who waits")

// remote opens a version of a study where it is held, or joins those who have it
// open. p is what holders push along if it is not open yet. done must be called.
// An attempt of the queue, if it is done for one, is told what the holders do.
func (a *Archive) remote(ctx context.Context, id sourceID, st index.Study, p mesh.Push) (r *remote, done func(), err error) {
	if a.running == nil {
		return nil, nil, errors.New("nothing is brought while the node does not run")
	}
	ref, err := parseRef(st.Manifest)
	if err != nil {
		return nil, nil, err
	}
	for {
		if r, done = a.useRemote(ctx, id, st, ref, p); r == nil {
			return nil, nil, mesh.ErrClosed
		}
		if err = r.attach(attemptOf(ctx)); err == nil {
			err = r.patiently(ctx, func(ctx context.Context) error {
				select {
				case <-r.ready:
					return r.err
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}
		if err == nil {
			return r, done, nil
		}
		done()
		if !errors.Is(err, errOvertaken) || a.running.Err() != nil {
			return nil, nil, err
		}
	}
}

// useRemote counts one more user of what is open, or begins to open it. What is
// still being opened while nobody waited comes with the share of the line of that,
// so it is opened anew for who does wait. nil: the node ends.
func (a *Archive) useRemote(ctx context.Context, id sourceID, st index.Study, ref cas.Ref, p mesh.Push) (r *remote, done func()) {
	at, priority := attemptOf(ctx), mesh.Urgent
	if at != nil {
		priority = at.Priority.onLine()
	}
	k := remoteID{id, ref.CID}
	a.remotes.mu.Lock()
	defer a.remotes.mu.Unlock()
	if a.remotes.over {
		return nil, nil
	}
	r = a.remotes.of[k]
	if r != nil && priority < mesh.Unattended && r.priority >= mesh.Unattended && !r.opened() {
		r.stop(errOvertaken)
	}
	if r == nil || r.ctx.Err() != nil {
		r = &remote{a: a, id: id, st: st, ref: ref, priority: priority, at: at, ready: make(chan struct{}), asked: make(map[index.NodeID]*giver)}
		r.ctx, r.stop = context.WithCancelCause(a.running)
		a.remotes.of[k] = r
		a.remotes.runs.Go(func() { r.run(p, at) })
	}
	r.users++
	if r.idle != nil {
		r.idle.Stop()
	}
	return r, sync.OnceFunc(func() {
		r.detach(at)
		a.remotes.mu.Lock()
		defer a.remotes.mu.Unlock()
		if r.users--; r.users == 0 {
			a.remotes.leave(r)
			r.idle = time.AfterFunc(lingerFor, func() {
				a.remotes.mu.Lock()
				defer a.remotes.mu.Unlock()
				if r.users == 0 {
					r.stop(nil)
				}
			})
		}
	})
}

func (r *remote) opened() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// patiently runs f for somebody who waits, with a context that ends when nothing
// has come for as long as a reader is to wait: then the error is *Unavailable. An
// attempt of the queue has other patience.
func (r *remote) patiently(ctx context.Context, f func(context.Context) error) error {
	if attemptOf(ctx) != nil {
		return f(ctx)
	}
	set := r.a.fetching()
	quiet := &Unavailable{
		Reason:     fmt.Sprintf("the study is held elsewhere and nothing of it arrived for %s. It stays queued and is tried again by itself", set.ReadThrough),
		RetryAfter: set.RetryMin,
	}
	waits, cancel := context.WithCancelCause(ctx)
	looks := make(chan struct{})
	go func() {
		defer close(looks)
		timer := time.NewTimer(set.ReadThrough)
		defer timer.Stop()
		for seen := r.came.Load(); ; {
			select {
			case <-waits.Done():
				return
			case <-timer.C:
			}
			now := r.came.Load()
			if now == seen {
				cancel(quiet)
				return
			}
			seen = now
			timer.Reset(set.ReadThrough)
		}
	}()
	err := f(waits)
	cancel(nil)
	<-looks
	if err != nil && ctx.Err() == nil && context.Cause(waits) == error(quiet) {
		return quiet
	}
	return err
}

// begin lets the users begin, unless it is being opened anew.
func (r *remote) begin() bool {
	r.a.remotes.mu.Lock()
	defer r.a.remotes.mu.Unlock()
	if r.ctx.Err() != nil {
		return false
	}
	close(r.ready)
	return true
}

// attach has an attempt told of what holders do, and have done. It counts among
// those that come from them, and is errFull if it may not.
func (r *remote) attach(at *attempt) error {
	if at == nil {
		return nil
	}
	most := r.a.fetching().PeerTransfers
	r.mu.Lock()
	defer r.mu.Unlock()
	for h, g := range r.asked {
		if g.granted && !r.a.comings.enter(at, h, most) {
			at.with(h, func(g *giver) { g.full = true })
			return errFull
		}
	}
	for h, known := range r.asked {
		at.with(h, func(g *giver) {
			g.granted, g.away, g.other, g.refused = known.granted, known.away, known.other, known.refused
		})
	}
	r.at = at
	return nil
}

func (r *remote) detach(at *attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == at {
		r.at = nil
	}
}

// note keeps what a holder did, and tells the attempt.
func (r *remote) note(h index.NodeID, f func(*giver)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.asked[h]
	if g == nil {
		g = new(giver)
		r.asked[h] = g
	}
	f(g)
	if r.at != nil {
		r.at.with(h, f)
	}
}

// enter says whether a holder may be asked: not if as many studies come from it
// as may that nobody waits for.
func (r *remote) enter(h index.NodeID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil || r.a.comings.enter(r.at, h, r.a.fetching().PeerTransfers) {
		return true
	}
	r.at.with(h, func(g *giver) { g.full = true })
	return false
}

// took counts what came from a holder.
func (r *remote) took(h index.NodeID, n int) {
	r.came.Add(int64(n))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[h].bytes += int64(n)
	if r.at != nil {
		r.at.took(h, n, r.a.Now())
	}
}

// gave lists those from whom something came.
func (r *remote) gave() (out []index.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for h, g := range r.asked {
		if g.bytes > 0 {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, index.NodeID.Compare)
	return out
}

// closeRemotes ends those of a source at once, unless somebody uses them.
func (a *Archive) closeRemotes(id sourceID) {
	a.remotes.mu.Lock()
	defer a.remotes.mu.Unlock()
	for k, r := range a.remotes.of {
		if k.sourceID == id && r.users == 0 {
			r.stop(nil)
		}
	}
}

// run is a remote from its opening to its end.
func (r *remote) run(p mesh.Push, at *attempt) {
	a := r.a
	err := r.whileOpen(p, at)
	if why := r.stopped(); why != nil {
		err = why
	}
	a.remotes.mu.Lock()
	if k := (remoteID{r.id, r.ref.CID}); a.remotes.of[k] == r {
		delete(a.remotes.of, k)
	}
	if r.idle != nil {
		r.idle.Stop()
	}
	a.remotes.mu.Unlock()
	r.stop(nil)
	select {
	case <-r.ready:
	default:
		r.err = err
		close(r.ready)
	}
}

func (r *remote) whileOpen(p mesh.Push, at *attempt) error {
	a := r.a
	leave, err := a.writing(r.ctx, r.id)
	if err != nil {
		return err
	}
	defer leave()
	ctx, end := a.erase.attend(r.ctx, r.id)
	defer end()
	defer context.AfterFunc(ctx, func() { r.stop(context.Cause(ctx)) })()
	if _, told := a.statementOf(r.id); !told {
		return errMoved
	}
	if a.erase.pending(r.id) {
		return errRetracted
	}
	r.draw = a.transfers.Draw(
		func(b cas.Block) error {
			r.came.Add(int64(len(b.Data))) // also what bitswap brings
			return r.land.take(b)
		},
		func(c cid.Cid) bool { return r.land.has(c) })
	defer r.tasks.Wait()
	defer r.draw.Close()
	defer r.stop(nil)
	if err := r.open(r.ctx, p, at); err != nil {
		return err
	}
	if !r.begin() {
		return r.ctx.Err()
	}
	for range maxHolders - 1 {
		r.tasks.Go(func() { r.further(r.ctx) })
	}
	<-r.ctx.Done()
	return r.ctx.Err()
}

// open asks the holders, one after the other, for a grant with what they push
// along, and goes on with the first that gives both. Who has refused the attempt
// that it is opened for so often that it is for good is not asked.
func (r *remote) open(ctx context.Context, p mesh.Push, at *attempt) error {
	a := r.a
	if key, err := a.Keys.Get(r.id.keyName()); err == nil {
		r.prove(key)
	} else if p.Depth == mesh.PushNothing {
		p.Depth = mesh.PushLists // a key is proven by what it opens
	}
	holders := r.holders(at)
	if len(holders) == 0 {
		return errNobody
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		holder index.NodeID
		stream *mesh.StudyStream
		err    error
	}
	answers := make(chan answer, len(holders))
	var moved atomic.Int64
	asked, waiting := 0, 0
	ask := func() {
		if asked == len(holders) {
			return
		}
		h := holders[asked]
		asked++
		waiting++
		r.tasks.Go(func() {
			s, err := r.ask(ctx, h, p, func() { moved.Add(1) })
			answers <- answer{h, s, err}
		})
	}
	ask()
	hedge := time.NewTicker(openHedge)
	defer hedge.Stop()
	var late lateness
	var failures []error
	ahead := false
	for waiting > 0 {
		select {
		case an := <-answers:
			waiting--
			if an.err == nil {
				r.draw.Add(an.stream)
				cancel()
				spare := slices.Clone(holders[asked:])
				for ; waiting > 0; waiting-- {
					switch an := <-answers; {
					case an.err == nil: // whoever was as fast is welcome too
						r.draw.Add(an.stream)
					case errors.Is(an.err, context.Canceled): // and who was slow may help yet
						spare = append(spare, an.holder)
					default:
						failures = append(failures, a.explain(an.holder, an.err))
					}
				}
				r.mu.Lock()
				r.spare, r.failures = spare, failures
				r.mu.Unlock()
				return nil
			}
			ahead = ahead || errors.Is(an.err, errMoved)
			failures = append(failures, a.explain(an.holder, an.err))
			ask()
		case <-hedge.C:
			if late.look(moved.Load()) && waiting < maxHolders {
				ask()
			}
		}
	}
	if ahead {
		return errMoved
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("no holder of the study can give it now: %w", errors.Join(failures...))
}

// lateness says, looked at every openHedge, when those that were asked keep
// somebody waiting: nothing moves, or, for all that does, it is not done.
type lateness struct {
	moved int64
	looks int // since somebody was late
}

func (l *lateness) look(moved int64) (late bool) {
	l.looks++
	late = moved == l.moved || l.looks == openSlow
	if l.moved = moved; late {
		l.looks = 0
	}
	return late
}

// holders lists the nodes to ask, the best first: those that never sent wrong
// bytes, those that are connected, the origin.
func (r *remote) holders(at *attempt) []index.NodeID {
	rank := make(map[index.NodeID]int)
	for _, p := range r.a.transfers.Peers() {
		if !p.Connected {
			rank[p.ID] = 1
		}
		if p.WrongBlocks > 0 {
			rank[p.ID] += 2
		}
	}
	holders := slices.DeleteFunc(r.a.holdersOf(r.id, r.st.Revision), func(h index.NodeID) bool {
		return at.spent(h, r.id.Origin, r.st.Revision)
	})
	slices.SortStableFunc(holders, func(x, y index.NodeID) int { return rank[x] - rank[y] })
	return holders
}

// ask asks one holder for a grant and takes what it pushes.
func (r *remote) ask(ctx context.Context, h index.NodeID, p mesh.Push, moved func()) (*mesh.StudyStream, error) {
	if !r.enter(h) {
		return nil, errFull
	}
	r.note(h, func(*giver) {})
	octx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, err := r.a.transfers.OpenStudy(octx, h, mesh.StudyRequest{Study: r.id.Study, Origin: r.id.Origin, Purpose: string(access.DirectCare), Priority: r.priority, Push: p})
	r.note(h, func(g *giver) {
		switch {
		case err == nil:
			g.granted = true
		case errors.Is(err, mesh.ErrRefused):
			g.refused = append(g.refused, Refusal{Holder: h, Origin: r.id.Origin, Revision: r.st.Revision, Times: 1})
		case errors.Is(err, mesh.ErrNotConnected):
			g.away = true
		case errors.Is(err, mesh.ErrVersion):
			g.other = true
		}
	})
	if err != nil {
		return nil, err
	}
	s.Count(func(n int) { r.took(h, n) })
	moved()
	g := s.Grant()
	switch {
	case g.Revision > r.st.Revision:
		err = errMoved
	case g.Revision != r.st.Revision || g.Manifest != r.ref:
		err = errors.New("it offers another revision than the one its origin announced")
	default:
		err = r.unfold(ctx, s, p, moved)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// unfold takes what a holder pushes. Its key is believed when it has opened the
// manifest that the study's origin announced: a holder that gives a wrong one must
// not be able to block the right one, nor leave anything on the disk.
func (r *remote) unfold(ctx context.Context, s *mesh.StudyStream, p mesh.Push, moved func()) error {
	key := s.Grant().Key
	get := &pushed{r: r, s: s, moved: moved, proven: r.proven(key)}
	err := follow(ctx, get, key, r.ref, p, func(m cas.StudyManifest) error {
		if err := ofStudy(m, r.id.Study); err != nil {
			return err
		}
		return get.opened(ctx, key)
	})
	if err == nil && !get.proven {
		r.a.Log.Error("the key that a holder granted does not open the study's manifest; trying another holder's", "study", short(r.id.Study), "holder", s.Holder())
		err = errors.New("its key does not open the study's manifest, or it lacks it")
	}
	if err != nil {
		return err
	}
	_, more, err := s.Pushed(ctx)
	if err == nil && more {
		err = s.Misbehaved()
	}
	return err
}

// pushed reads blocks as they are pushed: each must be the one that is asked for.
type pushed struct {
	r      *remote
	s      *mesh.StudyStream
	moved  func()
	proven bool
	before []cas.Block // came before the key was proven
}

func (g *pushed) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	b, more, err := g.s.Pushed(ctx)
	if err != nil {
		return nil, err
	}
	if !more || b.CID != c {
		return nil, g.s.Misbehaved()
	}
	g.moved()
	if b.Data == nil {
		return nil, fmt.Errorf("%w at the holder", cas.ErrNotFound)
	}
	if !g.proven {
		g.before = append(g.before, b)
		return b.Data, nil
	}
	if err := g.r.land.take(b); err != nil {
		return nil, err
	}
	return b.Data, g.r.land.room(ctx)
}

func (g *pushed) opened(ctx context.Context, key cas.Key) error {
	if g.proven {
		return nil
	}
	if err := g.r.a.returns(g.r.id); err != nil {
		return err
	}
	if err := g.r.a.Keys.Add(g.r.id.keyName(), key); err != nil {
		return err
	}
	g.r.prove(key)
	g.proven = true
	for _, b := range g.before {
		if err := replace(ctx, g.r.land.shelf, b); err != nil {
			return err
		}
	}
	g.before = nil
	return nil
}

// prove says which key is the study's. There is only one that opens its manifest.
func (r *remote) prove(key cas.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.land != nil {
		return
	}
	r.key = key
	r.land = newLanding(r.a.shelf(r.id, key), r.a.remotes.share, r.draw.Hold)
	r.tasks.Go(func() { r.stop(r.land.run(r.ctx)) })
}

func (r *remote) proven(key cas.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.land != nil && r.key == key
}

// share is how many bytes of one study may wait for the disk.
func (rs *remotes) share() int {
	rs.mu.Lock()
	n := len(rs.of)
	rs.mu.Unlock()
	return min(max(landingAll/max(n, 1), landingLeast), landingMost)
}

// further has one more holder asked, if there is one.
func (r *remote) further(ctx context.Context) bool {
	for {
		r.mu.Lock()
		if len(r.spare) == 0 {
			r.mu.Unlock()
			return false
		}
		h := r.spare[0]
		r.spare = r.spare[1:]
		r.mu.Unlock()
		s, err := r.ask(ctx, h, mesh.Push{}, func() {})
		if err == nil && !r.proven(s.Grant().Key) {
			s.Close()
			err = errors.New("its key is not the study's")
		}
		if err == nil {
			r.draw.Add(s)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		r.mu.Lock()
		r.failures = append(r.failures, r.a.explain(h, err))
		r.mu.Unlock()
	}
}

// fetch waits for blocks, from whoever can give them.
func (r *remote) fetch(ctx context.Context, wants []mesh.Want, priority uint8) error {
	for {
		missing, err := r.draw.Fetch(ctx, wants, priority)
		if len(missing) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if lerr := r.land.failed(); lerr != nil && !errors.Is(lerr, errLanded) {
			return lerr
		}
		if why := r.stopped(); why != nil {
			return why
		}
		if r.ctx.Err() != nil {
			return cmp.Or(err, r.ctx.Err())
		}
		r.opening.Lock()
		more := r.further(ctx)
		r.opening.Unlock()
		if !more {
			r.mu.Lock()
			err = errors.Join(append([]error{err}, r.failures...)...)
			r.mu.Unlock()
			if len(r.draw.Holders()) == 0 {
				r.stop(nil) // whoever comes next asks all of them anew
			}
			if err == nil {
				return fmt.Errorf("no holder could supply %d of the study's blocks", len(missing))
			}
			return err
		}
		wants = slices.DeleteFunc(slices.Clone(wants), func(w mesh.Want) bool { return !slices.Contains(missing, w.CID) })
	}
}

// stopped says why it was ended, if there is a reason that says more than that it
// was.
func (r *remote) stopped() error {
	if why := context.Cause(r.ctx); why != nil && !errors.Is(why, context.Canceled) {
		return why
	}
	return nil
}

// has says whether a block is here, durable or not.
func (r *remote) has(ctx context.Context, c cid.Cid) (bool, error) {
	if r.land.has(c) {
		return true, nil
	}
	return r.land.shelf.Has(ctx, c)
}

// read returns a block for somebody who waits for it, and has what he will want
// next asked for with it.
func (r *remote) read(ctx context.Context, c cid.Cid, next []mesh.Want) ([]byte, error) {
	const tries = 3
	for i := 1; ; i++ {
		if data := r.land.get(c); data != nil {
			return data, nil
		}
		data, err := whole(ctx, r.land.shelf, c)
		if !cas.Damaged(err) || i == tries {
			return data, err
		}
		var ahead []mesh.Want
		for _, w := range next {
			if here, err := r.has(ctx, w.CID); err == nil && !here {
				ahead = append(ahead, w)
			}
		}
		wants := []mesh.Want{{CID: c}}
		r.draw.Ask(append(wants, ahead...), mesh.Urgent) // and not taken back: it is little
		if err := r.patiently(ctx, func(ctx context.Context) error { return r.fetch(ctx, wants, mesh.Urgent) }); err != nil {
			return nil, err
		}
		r.a.news.tell(r.id.Study)
	}
}

// Get and Mend make it a Getter that has everything.
func (r *remote) Get(ctx context.Context, c cid.Cid) ([]byte, error) { return r.read(ctx, c, nil) }

// Mend implements cas.Mender for what was written here and is damaged.
func (r *remote) Mend(ctx context.Context, c cid.Cid, _ error) (data []byte, err error) {
	missing, err := r.draw.Fetch(ctx, []mesh.Want{{CID: c}}, mesh.Urgent)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%w at any holder", cas.ErrNotFound)
	}
	if err == nil {
		err = r.land.settle(ctx)
	}
	if err != nil {
		return nil, err
	}
	return whole(ctx, r.land.shelf, c)
}

// bring has those blocks here that are not.
func (r *remote) bring(ctx context.Context, wants []mesh.Want, priority uint8) error {
	var need []mesh.Want
	for _, w := range wants {
		here, err := r.has(ctx, w.CID)
		if err != nil {
			return err
		}
		if !here {
			need = append(need, w)
		}
	}
	for len(need) > 0 {
		n, size := 0, 0
		for n < len(need) && size < bringRun {
			size += cmp.Or(need[n].Size, cas.MaxBlock)
			n++
		}
		if err := r.fetch(ctx, need[:n], priority); err != nil {
			return err
		}
		if need = need[n:]; len(need) > 0 {
			if err := r.land.room(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// objects has manifests here: first what the refs name, then the parts of those
// that are chunked.
func (r *remote) objects(ctx context.Context, refs []cas.Ref, priority uint8) error {
	roots := make([]mesh.Want, len(refs))
	for i, ref := range refs {
		roots[i] = mesh.Want{CID: ref.CID, Size: int(ref.Size) + cas.Overhead}
	}
	if err := r.bring(ctx, roots, priority); err != nil {
		return err
	}
	var parts []mesh.Want
	for _, ref := range refs {
		cids, err := ref.Blocks(ctx, r, r.key)
		if err != nil {
			return err
		}
		for _, c := range cids[1:] { // the first is the root
			parts = append(parts, mesh.Want{CID: c})
		}
	}
	return r.bring(ctx, parts, priority)
}

// lists has here what a push would have brought: for whoever joins what is open
// already, in as many questions as there are levels.
func (r *remote) lists(ctx context.Context, p mesh.Push) error {
	if err := r.objects(ctx, []cas.Ref{r.ref}, mesh.Urgent); err != nil {
		return err
	}
	study, err := cas.LoadStudy(ctx, r, r.key, r.ref)
	if err != nil {
		return err
	}
	var refs []cas.Ref
	for _, se := range study.Series {
		if p.Series == "" || se.UID == p.Series {
			refs = append(refs, se.Manifest)
		}
	}
	if err := r.objects(ctx, refs, mesh.Urgent); err != nil || p.Depth < mesh.PushManifests {
		return err
	}
	var instances []cas.Ref
	for _, ref := range refs {
		series, err := cas.LoadSeries(ctx, r, r.key, ref)
		if err != nil {
			return err
		}
		for _, ie := range series.Instances {
			if p.Instance == "" || ie.UID == p.Instance {
				instances = append(instances, ie.Manifest)
			}
		}
	}
	if err := r.objects(ctx, instances, mesh.Urgent); err != nil || p.Depth < mesh.PushHeaders {
		return err
	}
	var headers []mesh.Want
	for _, ref := range instances {
		m, err := cas.LoadInstance(ctx, r, r.key, ref)
		if err != nil {
			return err
		}
		headers = append(headers, wantsOf(headerOf(m))...)
	}
	return r.bring(ctx, headers, mesh.Urgent)
}

func wantsOf(blocks []cas.BlockRef) []mesh.Want {
	out := make([]mesh.Want, len(blocks))
	for i, b := range blocks {
		out[i] = mesh.Want{CID: b.CID, Size: int(b.Len) + cas.Overhead}
	}
	return out
}

// bringLists has a remote study's lists here, and as much more as p says.
func (a *Archive) bringLists(ctx context.Context, id sourceID, st index.Study, p mesh.Push) error {
	r, done, err := a.remote(ctx, id, st, p)
	if err != nil {
		return err
	}
	defer done()
	if err := r.patiently(ctx, func(ctx context.Context) error { return r.lists(ctx, p) }); err != nil {
		return err
	}
	return r.land.settle(ctx)
}

// validUIDs refuses a series manifest that names something by what is no UID.
func validUIDs(m cas.SeriesManifest) error {
	if !dicom.UID(m.UID).Valid() {
		return errors.New("a series manifest is of what is no UID")
	}
	for _, e := range m.Instances {
		if !dicom.UID(e.UID).Valid() {
			return errors.New("a series manifest names an instance by what is no UID")
		}
	}
	return nil
}

// audited is the mesh with what holders answer written down before anything of a
// study is taken: a grant stands in the audit log at both ends.
type audited struct {
	Transfers
	a *Archive
}

// OpenStudy implements Transfers.
func (s audited) OpenStudy(ctx context.Context, h index.NodeID, req mesh.StudyRequest) (*mesh.StudyStream, error) {
	stream, err := s.Transfers.OpenStudy(ctx, h, req)
	if err != nil && !errors.Is(err, mesh.ErrRefused) {
		return nil, err
	}
	trust, _ := s.a.Index.TrustOf(h)
	event := audit.Event{Event: "grant.denied", Node: h.String(), Trust: string(trust), Study: short(req.Study), Purpose: req.Purpose}
	if err == nil {
		event.Event, event.Expires = "grant.got", stream.Grant().Expires
	}
	if aerr := s.a.Audit.Append(event); aerr != nil {
		if stream != nil {
			stream.Close()
		}
		return nil, fmt.Errorf("the answer of a holder could not be written into the audit log: %w", aerr)
	}
	return stream, err
}
