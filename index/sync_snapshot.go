package index

import (
	"cmp"
	"errors"
	"slices"
)

// SnapshotLogs is what Sync needs of logs beside Logs, to give and to take up snapshots. Index is one; of logs that are none, there are none.
type SnapshotLogs interface {
	SnapshotSource
	// Snapshots is what takes up a node's snapshots.
	Snapshots(NodeID) SnapshotStore
	// Taking lists the nodes of whom a snapshot is to be taken up: one that has been begun, or that was said in a log that is here.
	Taking() ([]NodeID, error)
	// Newest is the newest snapshot said in a node's log as far as it is here, ok false when it has been taken up, or there is none.
	Newest(NodeID) (o Offered, ok bool, err error)
	// Base is up to where a snapshot covers a node's log: up to there nothing is given or taken but pages.
	Base(NodeID) Position
	// Holed lists finished snapshots that lack payloads.
	Holed() ([]Offered, error)
}

// Limits on snapshots that are taken up.
const (
	bootStalls  = 8   // ticks without anything new, after which the log is asked for as batches too
	bootsAtOnce = 4   // logs whose snapshots are taken up at a time
	bootTurn    = 128 // ticks after which another log has its turn, if others wait
	refillEvery = 256 // ticks after which payloads that nobody had are asked for again
	maxBoots    = 4096
	worksAPass  = 4 // pieces of work in a Pass

	leastPartAnswer = 4 << 10 // bytes that any answer about a snapshot is charged: it has to be looked for
)

// boots are the snapshots that are taken up, each by a Bootstrap.
type boots struct {
	logs   SnapshotLogs // nil: none
	of     map[NodeID]*Bootstrap
	queue  []NodeID // the first are at work
	since  uint64   // the tick at which their turn began
	refill uint64
	began  bool // Taking has been asked
	rest        // from work that fails
	moved  map[NodeID]moved
}

// moved is when something last came of what is taken up.
type moved struct {
	pages, bytes uint64
	at           uint64 // tick
}

func (s *Sync) atWork(n NodeID) bool {
	i := slices.Index(s.boots.queue, n)
	return i >= 0 && i < bootsAtOnce
}

// boot is what takes up a node's snapshots, made if there is none yet; nil when there is no room for another, or they are none of its own
// to take: the snapshots of the own log are finished by who makes them.
func (s *Sync) boot(n NodeID) (*Bootstrap, error) {
	if b := s.boots.of[n]; b != nil || s.boots.logs == nil || len(s.boots.of) >= maxBoots {
		return b, nil
	}
	perTick := s.pull.rate * s.tick.Milliseconds() / 1000 / bootsAtOnce
	b, err := NewBootstrap(s.boots.logs.Snapshots(n), BootstrapOptions{Node: n, Self: s.self, Rand: s.rand, BytesPerTick: int(max(perTick, MaxAnswer))})
	if err != nil {
		return nil, err
	}
	s.boots.of[n] = b
	s.boots.moved[n] = moved{at: s.ticks}
	s.boots.queue = append(s.boots.queue, n)
	return b, nil
}

// taking says that a log's beginning comes in pages, and is coming: what is asked for as batches would come twice. Where nothing comes
// it is asked for as batches all the same: its author may be gone before anybody else had the snapshot.
func (s *Sync) taking(id logID, have Seq) bool {
	b := s.boots.of[id.Node]
	if b == nil {
		return false
	}
	p := b.Progress()
	if s.ticks-s.boots.moved[id.Node].at >= bootStalls {
		return false
	}
	return !p.Done && p.Snapshot.Head.Seq > 0 && Position{id.Epoch, have}.compare(p.Snapshot.through()) < 0 && id.Epoch <= p.Snapshot.Head.Epoch
}

// ownPresent says that a snapshot is of what this node has said and has here: who made it finishes it. One that was made before this node
// was restored from a backup is taken up like any other's.
func (s *Sync) ownPresent(o Offered) bool {
	own, ok := s.own()
	h := o.Snapshot.Head
	return h.Node == s.self && ok && own.Epoch == h.Epoch && own.Seq >= h.Seq
}

// takeSnapshot takes up a snapshot that was said in a log.
func (s *Sync) takeSnapshot(o Offered) ([]Outgoing, error) {
	if s.boots.logs == nil || s.ownPresent(o) {
		return nil, nil
	}
	b, err := s.boot(o.Snapshot.Head.Node)
	if err != nil || b == nil {
		return nil, err
	}
	out, err := b.Take(o)
	s.letGo(o.Snapshot.Head.Node)
	return out, s.fault(NodeID{}, err) // an author whose snapshots are not taken now is nobody's fault
}

// snapshotsIn looks for snapshots among batches that were taken.
func (s *Sync) snapshotsIn(run []Verified) error {
	if s.boots.logs == nil {
		return nil
	}
	for _, v := range run {
		if !slices.ContainsFunc(v.batch.Payloads, func(p Payload) bool { return saysSnapshot(p.Data) }) {
			continue
		}
		o, err := ReadSnapshot(v)
		if err != nil {
			continue // of a later version, or its author's mistake
		}
		out, err := s.takeSnapshot(o)
		if err != nil {
			return err
		}
		s.later = append(s.later, out...)
	}
	return nil
}

// stepSnapshot takes a message about snapshots.
func (s *Sync) stepSnapshot(from NodeID, msg Message) ([]Outgoing, error) {
	if s.boots.logs == nil {
		return nil, s.wasted(from)
	}
	var node NodeID
	switch m := msg.(type) {
	case WantParts:
		return s.stepWantParts(from, m)
	case Parts:
		node = m.Node
		if s.boots.of[node] == nil {
			return nil, s.wasted(from)
		}
	case SnapshotOffer:
		v, err := m.Batch.Verify()
		if err != nil {
			return nil, s.fault(from, err)
		}
		o, err := ReadSnapshot(v)
		if err != nil {
			return nil, s.fault(from, err)
		}
		node = o.Snapshot.Head.Node
		if s.ownPresent(o) {
			return nil, s.wasted(from)
		}
		if s.boots.of[node] == nil { // strangers' are nobody's business
			if _, _, err := s.logs.Heard(o.Snapshot.Head); err != nil {
				return nil, cmp.Or(s.fault(from, err), s.wasted(from))
			}
		}
		if s.boots.of[node] == nil || !s.atWork(node) {
			if _, err := s.takeSnapshot(o); err != nil || s.boots.of[node] == nil || !s.atWork(node) {
				return nil, cmp.Or(err, s.wasted(from))
			}
		}
	}
	b := s.boots.of[node]
	if b == nil || !s.atWork(node) {
		return nil, s.wasted(from)
	}
	b.Meet(from)
	out, err := b.Step(from, msg)
	s.letGo(node)
	var lied *PeerError
	if errors.As(err, &lied) {
		return out, err
	}
	return out, s.fault(from, err)
}

// letGo forgets what takes up nothing.
func (s *Sync) letGo(n NodeID) {
	b := s.boots.of[n]
	if b == nil {
		return
	}
	if p := b.Progress(); p.Done || p.Snapshot.Head.Seq == 0 {
		delete(s.boots.of, n)
		delete(s.boots.moved, n)
		s.boots.queue = slices.DeleteFunc(s.boots.queue, func(o NodeID) bool { return o == n })
	}
}

// stepWantParts answers at once what it may send now, and the rest in its turn.
func (s *Sync) stepWantParts(from NodeID, m WantParts) ([]Outgoing, error) {
	p := s.peer(from)
	if len(p.waiting)+len(p.parts) == 0 {
		s.turn = append(s.turn, from)
	}
	if len(p.parts) >= bootsAtOnce*MaxPartsAsked {
		p.parts = p.parts[1:]
	}
	p.parts = append(p.parts, m)
	return s.serve()
}

// offers shows a peer the snapshots of logs whose beginning it has asked for and is not here any more but in pages.
func (s *Sync) offers(to NodeID, want Want) (out []Outgoing, err error) {
	if s.boots.logs == nil {
		return nil, nil
	}
	for _, l := range want.Logs {
		base := s.boots.logs.Base(l.Node)
		if (Position{l.Epoch, l.After}).compare(base) >= 0 || len(out) == MaxAsked {
			continue
		}
		offer, _, ok, err := s.boots.logs.Offer(l.Node)
		if err != nil {
			return out, err
		}
		if ok {
			s.send.bytes -= max(int64(offer.size()), leastPartAnswer)
			out = append(out, Outgoing{To: to, Message: offer})
		}
	}
	return out, nil
}

// tickBoots lets those at work ask, and after a while others have their turn.
func (s *Sync) tickBoots() (out []Outgoing, err error) {
	if s.boots.logs == nil {
		return nil, nil
	}
	if s.ticks < s.boots.until {
		return nil, nil
	}
	if !s.boots.began {
		nodes, err := s.boots.logs.Taking()
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			if err := s.beginNewest(n); err != nil {
				return nil, err
			}
		}
		s.boots.began = true
	}
	if s.ticks >= s.boots.refill {
		if s.boots.refill > 0 {
			holed, err := s.boots.logs.Holed()
			if err != nil {
				return nil, err
			}
			for _, o := range holed {
				if s.boots.of[o.Snapshot.Head.Node] != nil {
					continue
				}
				if b, err := s.boot(o.Snapshot.Head.Node); err != nil {
					return nil, err
				} else if b != nil {
					b.Refill(o)
				}
			}
		}
		s.boots.refill = s.ticks + refillEvery
	}
	if len(s.boots.queue) > bootsAtOnce && s.ticks-s.boots.since >= bootTurn {
		s.boots.queue = append(s.boots.queue[bootsAtOnce:], s.boots.queue[:bootsAtOnce]...)
		s.boots.since = s.ticks
	}
	for _, n := range slices.Clone(s.boots.queue[:min(bootsAtOnce, len(s.boots.queue))]) {
		b := s.boots.of[n]
		p, m := b.Progress(), s.boots.moved[n]
		if p.Pages != m.pages || p.Bytes != m.bytes {
			s.boots.moved[n] = moved{p.Pages, p.Bytes, s.ticks}
		}
		more, terr := b.Tick(s.present)
		err = cmp.Or(err, s.fault(NodeID{}, terr)) // one that fails does not keep the others
		out = append(out, more...)
	}
	return out, err
}

// beginNewest goes on with what was begun, or begins what was said, of a node's snapshots.
func (s *Sync) beginNewest(n NodeID) error {
	o, ok, err := s.boots.logs.Newest(n)
	if err != nil {
		return err
	}
	if ok {
		out, err := s.takeSnapshot(o)
		s.later = append(s.later, out...)
		return err
	}
	if _, err := s.boot(n); err != nil {
		return err
	}
	s.letGo(n)
	return nil
}

// workBoots does what is to be done here: a few pieces.
func (s *Sync) workBoots() (out []Outgoing, err error) {
	if s.ticks < s.boots.until {
		return nil, nil
	}
	done := 0
	for _, n := range slices.Clone(s.boots.queue[:min(bootsAtOnce, len(s.boots.queue))]) {
		b := s.boots.of[n]
		for done < worksAPass && b.Busy() {
			done++
			more, werr := b.Work()
			out = append(out, more...)
			if werr = s.fault(NodeID{}, werr); werr != nil {
				err = cmp.Or(err, werr)
				break
			}
		}
		if p := b.Progress(); p.Done {
			s.letGo(n)
			s.claims, s.stirred = true, true
			err = cmp.Or(err, s.beginNewest(n)) // one that came meanwhile
		}
		s.letGo(n) // if its author turned out to be at fault
	}
	if err != nil {
		s.boots.begin(s.ticks, maxRest)
	} else if done > 0 {
		s.boots.rest = rest{}
	}
	return out, err
}

// Bootstraps says how far snapshots have been taken up that are not finished.
func (s *Sync) Bootstraps() map[NodeID]Progress {
	out := make(map[NodeID]Progress, len(s.boots.of))
	for n, b := range s.boots.of {
		if p := b.Progress(); !p.Done {
			out[n] = p
		}
	}
	return out
}

// Taking implements SnapshotLogs.
func (x *Index) Taking() (out []NodeID, err error) {
	x.mu.RLock()
	authors := slices.Clone(x.authors)
	x.mu.RUnlock()
	for _, a := range authors {
		o, pending, err := x.Snapshots(a.node).Pending()
		if err != nil {
			return nil, err
		}
		if h := o.Snapshot.Head; pending && a.node == x.self && x.state(logID{h.Node, h.Epoch}).last.head.Seq >= h.Seq {
			continue // MakeSnapshot was broken off: whether it still says all that holds, the next one knows
		}
		if !pending {
			if _, pending, err = x.Newest(a.node); err != nil {
				return nil, err
			}
		}
		if pending {
			out = append(out, a.node)
		}
	}
	return out, nil
}
