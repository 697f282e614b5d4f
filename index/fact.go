package index

import "unicode/utf8"

// Epoch numbers the lives of a node's log: a restore from backup starts the next one. The first is 1.
type Epoch uint64

// Seq numbers the facts of one log epoch without gaps. The first is 1.
type Seq uint64

// Kind says what a fact is about. Facts of unknown kinds are stored and relayed, not understood.
type Kind string

// The kinds this version knows by name.
const (
	KindStudy      Kind = "study"      // Study
	KindHolding    Kind = "holding"    // Holding
	KindNode       Kind = "node"       // NodeFact
	KindVote       Kind = "vote"       // Vote
	KindRetraction Kind = "retraction" // Retraction
	KindLink       Kind = "link"       // Link
	KindReport     Kind = "report"     // Report
	KindOffer      Kind = "offer"      // Offer
	KindRevocation Kind = "revocation" // Revocation
)

// Fact is one statement of one node.
type Fact struct {
	Author  NodeID
	Epoch   Epoch
	Seq     Seq
	Kind    Kind
	Subject string
	Body    []byte
}

// Statement is a fact about to be said. StudyStatement, HoldingStatement, NodeStatement, VoteStatement, LinkStatement, ReportStatement,
// OfferStatement and SnapshotStatement make those this version understands. A body of a version it does not know is stored, relayed and counted.
type Statement struct {
	Kind    Kind   `cbor:"0,keyasint"`
	Subject string `cbor:"1,keyasint"`
	Body    []byte `cbor:"2,keyasint"`
	Version uint64 `cbor:"3,keyasint,omitempty"` // of the body; absent: 1
}

// Authored is a value with who said it.
type Authored[T any] struct {
	Author      NodeID
	Trust       TrustID // the author's trust when the fact was accepted
	Epoch       Epoch
	Seq         Seq
	Quarantined bool // the author signed two histories (see Index.Forks), or its trust has revoked it and vouches for less
	Value       T
}

// Limits on what a log may carry.
const (
	MaxKind    = 32         // bytes of a kind
	MaxSubject = 256        // bytes of a subject
	MaxBody    = 64 << 10   // bytes of a body
	MaxPayload = 65 << 10   // bytes of a payload: kind, subject and body in CBOR
	MaxFacts   = 64         // facts in a batch
	MaxBatch   = 256 << 10  // bytes of a batch with its payloads
	MaxEpoch   = Epoch(255) // epochs of a node
	MaxSeq     = Seq(1) << 56
)

// check says whether a statement may stand in a log. Kind and subject become
// parts of keys, so they hold no control characters.
func (s Statement) check() error {
	switch {
	case len(s.Kind) == 0 || len(s.Kind) > MaxKind:
		return &LimitError{What: "bytes of a fact's kind", Got: len(s.Kind), Limit: MaxKind}
	case len(s.Subject) == 0 || len(s.Subject) > MaxSubject:
		return &LimitError{What: "bytes of a fact's subject", Got: len(s.Subject), Limit: MaxSubject}
	case len(s.Body) > MaxBody:
		return &LimitError{What: "bytes of a fact's body", Got: len(s.Body), Limit: MaxBody}
	case !plain(string(s.Kind)) || !plain(s.Subject):
		return &MalformedError{What: "fact", Why: "its kind or subject holds control characters"}
	}
	return nil
}

func decodePayload(b []byte) (Statement, error) {
	var s Statement
	if len(b) > MaxPayload {
		return s, &LimitError{What: "bytes of a payload", Got: len(b), Limit: MaxPayload}
	}
	if err := decode(factMode, "fact", b, &s); err != nil {
		return s, err
	}
	return s, s.check()
}

// plain says that s is UTF-8 without control characters.
func plain(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] == 0x7f {
			return false
		}
	}
	return true
}
