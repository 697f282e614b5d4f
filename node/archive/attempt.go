package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

const (
	// refusedTries is how often a holder is asked before its refusal counts as its
	// last word: a holder in trouble (its audit log cannot be written, it was
	// restored a moment ago) cannot be told from one that means no.
	refusedTries = 3
	// rateOver is what a rate is taken over.
	rateOver = 4 * time.Second
)

// Fetching are the settings of the fetch queue. They may change at any time.
type Fetching struct {
	Workers int // studies brought at once
	// PeerTransfers is how many studies come from one node at once that nobody
	// waits for; 0: any. Of several places one is always left for what comes from
	// other nodes.
	PeerTransfers                   int
	ReadThrough, RetryMin, RetryMax time.Duration
}

// shared is f with a place left for others: a node that grants and then gives
// nothing would hold all of them up until it is given up.
func (f Fetching) shared() Fetching {
	if f.Workers > 1 && (f.PeerTransfers == 0 || f.PeerTransfers >= f.Workers) {
		f.PeerTransfers = f.Workers - 1
	}
	return f
}

// wait is the pause after so many failures.
func (f Fetching) wait(attempts int) time.Duration {
	d := f.RetryMin << min(attempts, 16)
	if d <= 0 || d > f.RetryMax {
		d = f.RetryMax
	}
	return d
}

// attempt is one try to bring what a task is about.
type attempt struct {
	Task
	ctx   context.Context
	end   context.CancelCauseFunc
	began time.Time

	mu     sync.Mutex
	givers map[index.NodeID]*giver
	count  meter
}

// giver is what a holder does for an attempt.
type giver struct {
	bytes   int64
	granted bool
	refused []Refusal // of this attempt
	away    bool      // it cannot be reached
	other   bool      // it gives studies in another way, as other versions do
	full    bool      // as many studies come from it as may
	counted bool      // among those that come from it
}

// Giver is a holder that an attempt has asked.
type Giver struct {
	Node  index.NodeID
	Bytes int64 // that came from it, sealed
	State string
}

type attemptKey struct{}

func newAttempt(ctx context.Context, t Task, now time.Time) *attempt {
	at := &attempt{Task: t, began: now, givers: make(map[index.NodeID]*giver)}
	at.Refusals = slices.Clone(t.Refusals)
	at.ctx, at.end = context.WithCancelCause(context.WithValue(ctx, attemptKey{}, at))
	return at
}

// attemptOf is the attempt that something is done for, if it is for one.
func attemptOf(ctx context.Context) *attempt {
	at, _ := ctx.Value(attemptKey{}).(*attempt)
	return at
}

// stop breaks the attempt off at the block that is coming.
func (at *attempt) stop(why error) { at.end(why) }

// with runs f on what is known of a holder.
func (at *attempt) with(h index.NodeID, f func(*giver)) {
	at.mu.Lock()
	defer at.mu.Unlock()
	g := at.givers[h]
	if g == nil {
		g = new(giver)
		at.givers[h] = g
	}
	f(g)
}

// spent says that a holder has given its last word, which is no. Without an
// attempt nothing is known of that.
func (at *attempt) spent(h, origin index.NodeID, revision uint64) bool {
	return at != nil && spent(at.Refusals, h, origin, revision)
}

// spent says that a holder has refused a revision so often that it is not asked.
func spent(refusals []Refusal, h, origin index.NodeID, revision uint64) bool {
	return slices.ContainsFunc(refusals, func(r Refusal) bool {
		return r.Holder == h && r.Origin == origin && r.Revision == revision && r.Times >= refusedTries
	})
}

// refuses is what is known of refusals after the attempt.
func (at *attempt) refuses() []Refusal {
	at.mu.Lock()
	defer at.mu.Unlock()
	out := slices.Clone(at.Refusals)
	for _, g := range at.givers {
		for _, r := range g.refused {
			same := func(o Refusal) bool { return o.Holder == r.Holder && o.Origin == r.Origin }
			if i := slices.IndexFunc(out, same); i >= 0 && out[i].Revision == r.Revision {
				out[i].Times++
			} else {
				out = append(slices.DeleteFunc(out, same), r)
			}
		}
	}
	slices.SortFunc(out, func(x, y Refusal) int {
		return strings.Compare(string(x.Holder[:])+string(x.Origin[:]), string(y.Holder[:])+string(y.Origin[:]))
	})
	return out
}

// which lists the holders of which f is true.
func (at *attempt) which(f func(*giver) bool) []index.NodeID {
	at.mu.Lock()
	defer at.mu.Unlock()
	var out []index.NodeID
	for h, g := range at.givers {
		if f(g) {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, index.NodeID.Compare)
	return out
}

// took counts what came from a holder.
func (at *attempt) took(h index.NodeID, n int, now time.Time) {
	at.with(h, func(g *giver) {
		g.bytes += int64(n)
		at.count.add(now, n)
	})
}

// seen is what people are shown of an attempt.
func (at *attempt) seen(now time.Time) (rate float64, givers []Giver) {
	at.mu.Lock()
	defer at.mu.Unlock()
	for h, g := range at.givers {
		s := Giver{Node: h, Bytes: g.bytes, State: "asked"}
		switch {
		case g.granted:
			s.State = "gives"
		case len(g.refused) > 0:
			s.State = "refused"
		case g.away:
			s.State = "away"
		case g.other:
			s.State = "version"
		case g.full:
			s.State = "full"
		}
		givers = append(givers, s)
	}
	slices.SortFunc(givers, func(x, y Giver) int { return x.Node.Compare(y.Node) })
	return at.count.rate(now), givers
}

// meter is how fast something comes, by a clock from outside.
type meter struct {
	since, at time.Time
	slots     [8]int64 // of rateOver, a ring
}

const slotOf = rateOver / time.Duration(len(meter{}.slots))

func (m *meter) advance(now time.Time) {
	if m.since.IsZero() || now.Before(m.at) { // it begins, or the clock was set back
		*m = meter{since: now, at: now}
		return
	}
	for range len(m.slots) {
		if now.Sub(m.at) < slotOf {
			return
		}
		m.at = m.at.Add(slotOf)
		m.slots[m.slot()] = 0
	}
	m.at = now // nothing came for so long that all are empty
}

func (m *meter) slot() int { return int(m.at.Sub(m.since)/slotOf) % len(m.slots) }

func (m *meter) add(now time.Time, n int) {
	m.advance(now)
	m.slots[m.slot()] += int64(n)
}

// rate is in bytes a second.
func (m *meter) rate(now time.Time) float64 {
	if m.since.IsZero() {
		return 0
	}
	m.advance(now)
	var sum int64
	for _, n := range m.slots {
		sum += n
	}
	over := min(now.Sub(m.since), rateOver)
	return float64(sum) / max(over, slotOf).Seconds()
}

// errFull says that a limit of this node's keeps it from asking a holder now.
var errFull = errors.New("as many studies come from it as may at once (fetch.peer_transfers)")

// comings are how many studies come from each node.
type comings struct {
	mu sync.Mutex
	of map[index.NodeID]int
}

// enter says whether one more may come from a node; it counts until leave. What
// somebody waits for always may: the places of the queue bound it.
func (c *comings) enter(at *attempt, h index.NodeID, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ok := true
	at.with(h, func(g *giver) {
		if g.counted {
			return
		}
		if ok = most == 0 || at.Priority <= Interactive || c.of[h] < most; ok {
			c.of[h]++
			g.counted = true
		}
	})
	return ok
}

// leave ends what counts for an attempt, and lists the nodes.
func (c *comings) leave(at *attempt) []index.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := at.which(func(g *giver) bool { return g.counted })
	for _, h := range left {
		at.with(h, func(g *giver) { g.counted = false })
		if c.of[h]--; c.of[h] == 0 {
			delete(c.of, h)
		}
	}
	return left
}

// dispatch begins what the queue gives, until the archive closes.
func (a *Archive) dispatch(ctx context.Context) {
	for _, t := range a.queue.list() {
		// What changed that was not seen to before the node ended.
		if t.State == Refused && !a.refusedByAll(t.Study, t.Refusals) {
			a.queue.changed(t.Study, index.NodeID{})
		}
	}
	for {
		at, err := a.queue.take(ctx)
		if err != nil {
			return
		}
		a.group.Go(func() error { a.try(at); return nil })
	}
}

// try brings what a task is about, or finds out why it cannot be.
func (a *Archive) try(at *attempt) {
	defer at.stop(nil)
	study := at.Study
	err := a.bring(at.ctx, at.Task)
	if err == nil {
		// What was brought may have been overtaken while it came.
		if here, herr := a.Here(study); herr == nil && !here {
			err = errMoved
		}
	}
	o := a.outcome(at, err)
	freed := a.comings.leave(at)
	if err := a.queue.done(at, o); err != nil {
		a.queue.failed(err)
	}
	a.queue.freed(freed)
	if !errors.Is(err, errMoved) {
		a.news.tell(study)
	}
	switch {
	case err == nil:
		a.Log.Info("study is here", "study", short(study), "why", at.Reason, "took", a.Now().Sub(at.began).Round(time.Millisecond))
	case at.ctx.Err() != nil:
		if why := context.Cause(at.ctx); errors.Is(why, errPaused) || errors.Is(why, errOff) {
			a.Log.Info("bringing a study has been broken off", "study", short(study), "why", why)
		}
	case o.refused:
		a.Log.Warn("study was refused by everybody who has it, and is not asked for until something changes", "study", short(study), "error", err)
		if err := a.queue.prune(); err != nil {
			a.queue.failed(err)
		}
	case !o.free:
		a.Log.Warn("study could not be brought yet", "study", short(study), "attempt", at.Attempts+1, "again_in", o.wait, "error", err)
	}
}

// outcome says what comes of an attempt that ended with err.
func (a *Archive) outcome(at *attempt, err error) outcome {
	set := a.fetching()
	o := outcome{err: err, refusals: at.refuses(), wait: set.wait(at.Attempts)}
	if err == nil {
		return o // the pause is for a queue that cannot be written
	}
	if errors.Is(err, errMoved) { // the newer revision's fact is on its way
		o.free, o.wait, o.why = true, movedWait, "the fact of a newer revision is on its way"
		return o
	}
	away := at.which(func(g *giver) bool { return g.away })
	roster := a.Index.Roster()
	var out []index.NodeID // that are let in no more: they come back only if they are admitted again
	for _, h := range away {
		if _, in := roster.Allowed(h); !in {
			out = append(out, h)
		}
	}
	full := at.which(func(g *giver) bool { return g.full })
	other := at.which(func(g *giver) bool { return g.other })
	gave := at.which(func(g *giver) bool { return g.granted })
	switch {
	case errors.Is(err, cas.ErrDiskFull):
		o.why = "there is no room on this node's disk"
	case len(gave) > 0:
		o.why = "the transfer broke off"
		o.on = slices.Concat(gave, away, other)
	case len(full) > 0:
		o.free, o.on, o.place, o.why = true, full, true, fmt.Sprintf("as many studies come from %s as may at once (fetch.peer_transfers)", a.trustsOf(full))
	case len(out) > 0 && len(out) == len(away):
		o.on, o.why = slices.Concat(away, other), fmt.Sprintf("%s is let in no more (expelled, or its node revoked), and nobody else is known to have the study: it stays queued in case somebody is", a.trustsOf(out))
	case len(away) > 0:
		o.on, o.why = slices.Concat(away, other), fmt.Sprintf("%s cannot be reached now; tried when it is back", a.trustsOf(away))
	case len(other) > 0:
		o.on, o.why = other, fmt.Sprintf("%s runs a version of Priormesh that gives studies in another way; tried when it has been updated", a.trustsOf(other))
	case len(at.which(func(g *giver) bool { return len(g.refused) > 0 })) > 0:
		o.why = "it was refused; asked again in case that was trouble at the holder"
	}
	if len(gave)+len(full)+len(away)+len(other) == 0 {
		o.refused = a.refusedByAll(at.Study, o.refusals)
	}
	return o
}

// refusedByAll says of what is still to be brought of a study that everybody who
// has it has refused it for good.
func (a *Archive) refusedByAll(study string, refusals []Refusal) bool {
	versions, err := a.versions(study)
	if err != nil {
		return false
	}
	some := false
	for _, v := range versions {
		if !toBring(versions, v) || !v.behind() {
			continue
		}
		holders := a.holdersOf(v.id, v.said.Revision)
		if len(holders) == 0 {
			return false // who has it may be heard of yet
		}
		for _, h := range holders {
			if !spent(refusals, h, v.id.Origin, v.said.Revision) {
				return false
			}
		}
		some = true
	}
	return some
}

// holdersOf lists the other nodes that say they have a revision of a source, the
// origin first.
func (a *Archive) holdersOf(id sourceID, revision uint64) []index.NodeID {
	holders, err := a.Index.Holders(id.Study, id.Origin)
	if err != nil {
		a.Log.Error("who has a study cannot be read", "study", short(id.Study), "error", err)
	}
	var out []index.NodeID
	for _, h := range holders {
		if h.Node != a.Self && h.Revision >= revision {
			out = append(out, h.Node)
		}
	}
	return out
}

// returnsFrom lists those of them from whom something may come back: that are let in.
func (a *Archive) returnsFrom(id sourceID, revision uint64) []index.NodeID {
	roster := a.Index.Roster()
	return slices.DeleteFunc(a.holdersOf(id, revision), func(h index.NodeID) bool {
		_, in := roster.Allowed(h)
		return !in
	})
}

// trustsOf names the trusts of nodes, for people.
func (a *Archive) trustsOf(nodes []index.NodeID) string {
	var out []string
	for _, n := range nodes {
		if trust, ok := a.Index.TrustOf(n); ok && !slices.Contains(out, string(trust)) {
			out = append(out, string(trust))
		}
	}
	if len(out) == 0 {
		return "its holder"
	}
	return strings.Join(out, ", ")
}

// sayWhy says for people what a task waits for, and for whom.
func (a *Archive) sayWhy(t *TaskStatus) {
	places := a.fetching().Workers
	switch t.State {
	case Active:
		var asked []index.NodeID
		for _, g := range t.Givers {
			if g.State == "gives" {
				return
			}
			asked = append(asked, g.Node)
		}
		t.Why = "looks who has it"
		if len(asked) > 0 {
			t.Why = "waits for an answer of " + a.trustsOf(asked)
		}
	case Queued, Paused:
		t.Why = fmt.Sprintf("waits for a place: %d under way (fetch.workers is %d), %d before it", t.Running, places, t.Ahead)
		if t.State == Paused {
			t.Why = "has made room for a more urgent one and goes on where it was; " + t.Why
		}
	case Refused:
		var by []index.NodeID
		for _, r := range t.Refusals {
			by = append(by, r.Holder)
		}
		t.Why = fmt.Sprintf("refused by %s: tried again when another trust has it, there is a newer revision, or somebody asks for it", a.trustsOf(by))
	}
}
