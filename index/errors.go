package index

import "fmt"

// MalformedError says that bytes or text from outside do not have the form they must have.
type MalformedError struct{ What, Why string }

func (e *MalformedError) Error() string { return fmt.Sprintf("malformed %s: %s", e.What, e.Why) }

// LimitError says that something from outside, or about to be written, is larger than allowed.
type LimitError struct {
	What       string
	Got, Limit int
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: %d is over the limit of %d", e.What, e.Got, e.Limit)
}

// FullError says that this node keeps as many of something as it can: a limit of its own, and nobody's fault.
type FullError struct {
	What  string
	Limit int
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%s: there are %d, and no more can be kept: found a new region", e.What, e.Limit)
}

// VersionError says that a newer program wrote this.
type VersionError struct {
	What string
	Got  uint64
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s of version %d was written by a newer program: update this one", e.What, e.Got)
}

// UncertifiedError refuses an author that no trust on the roster certifies. It
// says nothing about who brought the log: the votes that admit the author may
// not have come in yet.
type UncertifiedError struct{ Node NodeID }

func (e *UncertifiedError) Error() string {
	return fmt.Sprintf("node %s is not certified by a trust on the roster: admit its trust, or wait for the votes to arrive", e.Node)
}

// ForgedError says that a signature, hash or commitment does not verify. Whoever sent it misbehaves.
type ForgedError struct {
	What string
	Node NodeID
}

func (e *ForgedError) Error() string {
	return fmt.Sprintf("%s said to be of node %s does not verify", e.What, e.Node)
}

// GapError says that a batch does not follow on what is stored: After is the last stored position.
type GapError struct {
	Node  NodeID
	Epoch Epoch
	After Seq
	First Seq
}

func (e *GapError) Error() string {
	return fmt.Sprintf("log of node %s epoch %d: batch begins at %d but the log ends at %d: ask for what is between", e.Node, e.Epoch, e.First, e.After)
}

// ForkError says that a node signed two histories. The proof is kept (see Index.Forks).
type ForkError struct{ Fork Fork }

func (e *ForkError) Error() string {
	return fmt.Sprintf("node %s signed two histories of epoch %d near position %d: nothing more is taken from that epoch until its operator starts a new one", e.Fork.Node, e.Fork.Epoch, e.Fork.Seq)
}
