package index

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
	KindRetraction Kind = "retraction" // reserved: stored and relayed
	KindLink       Kind = "link"       // reserved: patient links and merges, stored and relayed
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

// Statement is a fact about to be said. StudyStatement, HoldingStatement,
// NodeStatement and VoteStatement make those this version understands.
type Statement struct {
	Kind    Kind
	Subject string
	Body    []byte
}

// Head is a log's newest position, signed by its node. Its signature is that of
// the batch that ends at Seq, whose hash is Hash.
type Head struct {
	Node  NodeID
	Epoch Epoch
	Seq   Seq
	Hash  [32]byte
	Sig   []byte
}

// Authored is a value with who said it.
type Authored[T any] struct {
	Author      NodeID
	Trust       TrustID // the author's trust when the fact was accepted
	Epoch       Epoch
	Seq         Seq
	Quarantined bool // the author signed two histories: see Index.Forks
	Value       T
}

// Limits on what a log may carry.
const (
	MaxKind    = 32        // bytes of a kind
	MaxSubject = 256       // bytes of a subject
	MaxBody    = 64 << 10  // bytes of a body
	MaxFacts   = 64        // facts in a batch
	MaxBatch   = 256 << 10 // bytes of a batch with its payloads
	MaxEpoch   = 255       // epochs of a node
)
