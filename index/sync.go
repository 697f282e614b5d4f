package index

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Logs is what Sync needs of a store of logs. Index is one.
type Logs interface {
	// Heads lists the head of every log (node and epoch), sorted by node, then epoch.
	Heads() []Head
	// Heard takes note of a head said to exist. behind says that the log is to be asked for after the
	// returned position. Errors: *UncertifiedError and *ForkError (no more is taken of this log for now),
	// *ForgedError and *MalformedError (whoever said it misbehaves); any other is the store's own.
	Heard(h Head) (after Seq, behind bool, err error)
	// Range returns batches of a log that end after a position, in order: at least one if there is one, and beyond that
	// no more than maxBytes.
	Range(node NodeID, epoch Epoch, after Seq, maxBytes int) ([]Batch, error)
	// Take stores batches of one log; those already there are passed over. fresh counts those that brought something. An error says
	// why it stopped; what came before is kept. Errors: as Heard's, and *GapError.
	Take(batches []Verified) (fresh int, err error)
}

// SyncOptions configure a Sync.
type SyncOptions struct {
	Self NodeID
	Rand *rand.Rand // chooses whom to ask; seeded by the caller
}

// Outgoing is a message to be sent.
type Outgoing struct {
	To      NodeID
	Message Message
}

// Limits on an exchange.
const (
	MaxAsked   = 4    // questions a peer has to answer at one time: bounds what can come in at once
	MaxUseless = 64   // messages a peer may send between two ticks that bring nothing new
	maxPeers   = 1024 // peers whose words are remembered
	patience   = 2    // ticks after which a question is taken for lost
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
// Every Tick it exchanges heads with one peer at random; where the peer is ahead it asks for batches, a bounded answer at a time, until
// it has what the peer said it had. Gossiped heads lead to the same questions sooner. What is lost, late, doubled or out of order is
// made good by a later exchange: messages carry no numbers and no answer depends on an earlier one. Logs of authors that are not certified
// yet are left alone until the votes that certify them have come.
//
// It is a step machine: no goroutine, no clock, and no I/O but that of its Logs. It is not safe for concurrent use: its owner calls it
// from one place at a time, and sends what it returns.
type Sync struct {
	logs  Logs
	self  NodeID
	rand  *rand.Rand
	ticks uint64
	peers map[NodeID]*peer
	asked map[logID]question
}

type peer struct {
	ahead   map[logID]Head // what it said it has and these logs have not
	useless int
}

type question struct {
	to NodeID
	at uint64
}

// NewSync returns a Sync over logs.
func NewSync(logs Logs, opt SyncOptions) *Sync {
	return &Sync{logs: logs, self: opt.Self, rand: opt.Rand, peers: map[NodeID]*peer{}, asked: map[logID]question{}}
}

// Tick begins an exchange with one of peers, chosen at random, and gives up on questions long unanswered.
func (s *Sync) Tick(peers []NodeID) []Outgoing {
	s.ticks++
	for id, q := range s.asked {
		if s.ticks-q.at >= patience || !slices.Contains(peers, q.to) {
			delete(s.asked, id)
		}
	}
	for id, p := range s.peers {
		p.useless = 0
		if !slices.Contains(peers, id) {
			delete(s.peers, id)
		}
	}
	others := slices.DeleteFunc(slices.Clone(peers), func(n NodeID) bool { return n == s.self })
	if len(others) == 0 {
		return nil
	}
	slices.SortFunc(others, NodeID.Compare)
	to := others[s.rand.IntN(len(others))]
	return []Outgoing{{To: to, Message: Heads{Heads: s.heads(), Ask: true}}}
}

// heads is the version vector: all heads, or a part that begins anywhere when there are too many for a message.
func (s *Sync) heads() []Head {
	all := s.logs.Heads()
	if len(all) <= MaxHeads {
		return all
	}
	from := s.rand.IntN(len(all))
	part := make([]Head, 0, MaxHeads)
	for i := range MaxHeads {
		part = append(part, all[(from+i)%len(all)])
	}
	slices.SortFunc(part, compareHeads)
	return part
}

// Gossiped takes a head heard by gossip, and asks from for what is missing. Errors are those of Step.
func (s *Sync) Gossiped(from NodeID, h Head) ([]Outgoing, error) {
	if _, err := s.hear(from, h); err != nil {
		return nil, err
	}
	return s.ask(from)
}

// Step takes a message from a peer. A *PeerError says that the peer misbehaved, and how.
func (s *Sync) Step(from NodeID, msg Message) ([]Outgoing, error) {
	switch m := msg.(type) {
	case Heads:
		return s.stepHeads(from, m)
	case Want:
		return s.stepWant(from, m)
	case Batches:
		return s.stepBatches(from, m)
	}
	return nil, &PeerError{Peer: from, Err: &MalformedError{What: "message", Why: "of no known type"}}
}

func (s *Sync) peer(id NodeID) *peer {
	p := s.peers[id]
	if p == nil {
		if len(s.peers) >= maxPeers {
			clear(s.peers)
		}
		p = &peer{ahead: map[logID]Head{}}
		s.peers[id] = p
	}
	return p
}

func (s *Sync) stepHeads(from NodeID, m Heads) ([]Outgoing, error) {
	if len(m.Heads) > MaxHeads {
		return nil, &PeerError{Peer: from, Err: &LimitError{What: "heads in a message", Got: len(m.Heads), Limit: MaxHeads}}
	}
	clear(s.peer(from).ahead)
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
	out, err := s.ask(from)
	if err == nil && m.Ask {
		out = append(out, Outgoing{To: from, Message: Heads{Heads: s.heads()}})
	}
	return out, err
}

// hear notes that from has a head. An author not certified, or quarantined, is no fault of from's.
func (s *Sync) hear(from NodeID, h Head) (behind bool, err error) {
	_, behind, err = s.logs.Heard(h)
	if err != nil {
		return false, s.fault(from, err)
	}
	id := logID{h.Node, h.Epoch}
	if behind {
		s.peer(from).ahead[id] = h
	} else {
		delete(s.peer(from).ahead, id)
	}
	return behind, nil
}

// ask asks a peer for what it is ahead in, as far as it has not too much to answer already.
func (s *Sync) ask(from NodeID) ([]Outgoing, error) {
	open := 0
	for _, q := range s.asked {
		if q.to == from {
			open++
		}
	}
	p := s.peer(from)
	var out []Outgoing
	for _, id := range slices.SortedFunc(maps.Keys(p.ahead), logID.compare) {
		if open >= MaxAsked {
			break
		}
		if _, busy := s.asked[id]; busy {
			continue
		}
		h := p.ahead[id]
		after, behind, err := s.logs.Heard(h)
		if err := s.fault(from, err); err != nil {
			return out, err
		}
		if err != nil || !behind {
			delete(p.ahead, id)
			continue
		}
		s.asked[id] = question{to: from, at: s.ticks}
		out = append(out, Outgoing{To: from, Message: Want{Node: id.Node, Epoch: id.Epoch, After: after, Limit: MaxAnswer}})
		open++
	}
	return out, nil
}

func (s *Sync) stepWant(from NodeID, m Want) ([]Outgoing, error) {
	limit := m.Limit
	if limit <= 0 || limit > MaxAnswer {
		limit = MaxAnswer
	}
	batches, err := s.logs.Range(m.Node, m.Epoch, m.After, limit)
	if err != nil {
		return nil, err
	}
	return []Outgoing{{To: from, Message: Batches{Node: m.Node, Epoch: m.Epoch, Batches: batches}}}, nil
}

func (s *Sync) stepBatches(from NodeID, m Batches) ([]Outgoing, error) {
	id := logID{m.Node, m.Epoch}
	answer := s.asked[id].to == from && !from.IsZero()
	if answer {
		delete(s.asked, id)
	}
	fresh, err := s.take(m)
	if fresh == 0 {
		// Asking for the same again would bring the same: the next exchange tries anew.
		delete(s.peer(from).ahead, id)
		if !answer {
			if err := s.wasted(from); err != nil {
				return nil, err
			}
		}
	}
	var gap *GapError
	if err != nil && !errors.As(err, &gap) {
		delete(s.peer(from).ahead, id)
		if err := s.fault(from, err); err != nil {
			return nil, err
		}
	}
	return s.ask(from)
}

func (s *Sync) take(m Batches) (fresh int, err error) {
	verified := make([]Verified, 0, len(m.Batches))
	for _, b := range m.Batches {
		v, verr := b.Verify()
		if verr == nil && (v.link.head.Node != m.Node || v.link.head.Epoch != m.Epoch) {
			verr = &MalformedError{What: "message", Why: "a batch is of another log than it says"}
		}
		if verr != nil {
			err = verr
			break
		}
		verified = append(verified, v)
	}
	if len(verified) == 0 {
		return 0, err
	}
	fresh, terr := s.logs.Take(verified)
	if err == nil {
		err = terr
	}
	return fresh, err
}

func (s *Sync) wasted(from NodeID) error {
	p := s.peer(from)
	if p.useless++; p.useless > MaxUseless {
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
	)
	switch {
	case err == nil, errors.As(err, &uncertified), errors.As(err, &fork), errors.As(err, &version):
		return nil // a batch of a newer version is its author's doing
	case errors.As(err, &forged), errors.As(err, &malformed), errors.As(err, &limit):
		return &PeerError{Peer: from, Err: err}
	}
	return err
}
