package index

import "time"

// How a log takes a batch or a head. The same judgement serves every store of logs.

type verdict int

const (
	follows verdict = iota // on the last batch
	known                  // already there
	ahead                  // something is missing between
	forked                 // contradicts what is there
)

// chain is one log epoch as far as it is stored.
type chain struct {
	last  link                          // zero before the first batch
	cover func(Seq) (link, bool, error) // the stored batch that contains a position
}

// judgeBatch says how a verified batch stands to the chain.
func (c chain) judgeBatch(b link) (verdict, *Fork, error) {
	last := c.last.head
	switch {
	case b.first > last.Seq+1:
		return ahead, nil, nil
	case b.first == last.Seq+1:
		if last.Seq == 0 || b.prev == last.Hash {
			return follows, nil, nil
		}
		return forked, newFork(c.last, b), nil
	}
	ours, ok, err := c.cover(b.first)
	if err != nil || !ok {
		return known, nil, err
	}
	if ours.head.same(b.head) {
		return known, nil, nil
	}
	return forked, newFork(ours, b), nil
}

// judgeHead says how a head stands to the chain. The head's signature is checked only where it decides something.
func (c chain) judgeHead(h Head) (verdict, *Fork, error) {
	if h.Seq > c.last.head.Seq {
		return ahead, nil, nil
	}
	ours, ok, err := c.cover(h.Seq)
	if err != nil || !ok {
		return known, nil, err
	}
	if ours.head.same(h) {
		return known, nil, nil
	}
	if err := h.verify(); err != nil {
		return known, nil, err
	}
	return forked, newFork(ours, link{head: h, first: h.Seq}), nil
}

// Fork is the proof that a node signed two histories.
type Fork struct {
	Node   NodeID
	Epoch  Epoch
	Seq    Seq // the first position known to be said twice
	Ours   Evidence
	Theirs Evidence
	Found  time.Time // when this node found it, by its own clock
}

// Evidence is one side of a fork: a signed head and, when it is at hand, the batch header it signs.
type Evidence struct {
	_      struct{} `cbor:",toarray"`
	Head   Head
	Header []byte
}

func newFork(ours, theirs link) *Fork {
	f := &Fork{
		Node: ours.head.Node, Epoch: ours.head.Epoch,
		Ours: ours.evidence(), Theirs: theirs.evidence(),
	}
	f.Seq = max(ours.first, theirs.first)
	if ours.head.Seq < theirs.first {
		f.Seq = ours.head.Seq
	}
	return f
}

func (l link) evidence() Evidence { return Evidence{Head: l.head, Header: l.header} }

func (e Evidence) link() (link, error) {
	if len(e.Header) == 0 {
		return link{head: e.Head, first: e.Head.Seq}, e.Head.verify()
	}
	l, err := readLink(e.Header, e.Head.Sig)
	if err == nil && !l.head.same(e.Head) {
		err = &MalformedError{What: "proof of a fork", Why: "a head is not that of its batch"}
	}
	return l, err
}

// Verify checks the proof: both sides carry the node's signature, and no single history holds both.
func (f Fork) Verify() error {
	a, err := f.Ours.link()
	if err != nil {
		return err
	}
	b, err := f.Theirs.link()
	if err != nil {
		return err
	}
	if a.head.Node != f.Node || b.head.Node != f.Node || a.head.Epoch != f.Epoch || b.head.Epoch != f.Epoch {
		return &MalformedError{What: "proof of a fork", Why: "its sides are of other logs"}
	}
	if a.head.Seq > b.head.Seq {
		a, b = b, a
	}
	switch {
	case a.head.Hash == b.head.Hash:
	case a.head.Seq >= b.first: // b's batch contains a's end, or both end there
		return nil
	case a.head.Seq == b.first-1 && b.prev != a.head.Hash && len(b.header) > 0:
		return nil
	}
	return &MalformedError{What: "proof of a fork", Why: "one history could hold both sides"}
}

// baseLink stands for the last batch that a snapshot covers.
func baseLink(h Head) link { return link{head: h, first: h.Seq} }
