package index

import "math/rand/v2"

// MaxMessage bounds an encoded message.
const MaxMessage = 1 << 20

// Message is one of Heads, Want and Batches.
type Message interface{ Encode() []byte }

// Heads says how far the sender's logs go. Ask wants the receiver's in return.
type Heads struct {
	Heads []Head
	Ask   bool
}

// Want asks for the batches of a log after a position, Limit bytes at most.
type Want struct {
	Node  NodeID
	Epoch Epoch
	After Seq
	Limit int
}

// Batches answers a Want.
type Batches struct {
	Node    NodeID
	Epoch   Epoch
	Batches []Batch
}

// Encode returns the message's deterministic CBOR.
func (m Heads) Encode() []byte { return nil }

// Encode returns the message's deterministic CBOR.
func (m Want) Encode() []byte { return nil }

// Encode returns the message's deterministic CBOR.
func (m Batches) Encode() []byte { return nil }

// DecodeMessage reads one message of at most MaxMessage bytes.
func DecodeMessage(b []byte) (Message, error) { return nil, errNotYet }

// EncodeHead returns a head's deterministic CBOR, for gossip.
func EncodeHead(h Head) []byte { return nil }

// DecodeHead reads what EncodeHead writes. The signature is checked by Sync.Gossiped.
func DecodeHead(b []byte) (Head, error) { return Head{}, errNotYet }

// Logs is what Sync needs of a store of logs. Index is one.
type Logs interface {
	// Heads lists the head of every log (node and epoch), sorted by node, then epoch.
	Heads() []Head
	// Heard takes note of a head said to exist. behind says that the log is to be asked for after the
	// returned position. Errors: *UncertifiedError, *ForkError, *ForgedError (the sender misbehaves).
	Heard(h Head) (after Seq, behind bool, err error)
	// Range returns batches of a log after a position, in order: at least one if there is one, and no more than maxBytes otherwise.
	Range(node NodeID, epoch Epoch, after Seq, maxBytes int) ([]Batch, error)
	// Take stores verified batches, all of one log; those already there are passed over. fresh counts the new ones.
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

// Sync keeps logs in step with those of peers. It is a step machine: no goroutine, no clock, and no I/O but
// that of its Logs. It is not safe for concurrent use: its owner calls it from one place at a time.
type Sync struct{}

// NewSync returns a Sync over logs.
func NewSync(logs Logs, opt SyncOptions) *Sync { return &Sync{} }

// Tick begins an exchange with one of peers, chosen at random, and gives up on questions long unanswered.
func (s *Sync) Tick(peers []NodeID) []Outgoing { return nil }

// Step takes a message from a peer. An error says that the peer misbehaved, and how; the messages returned with it are still to be sent.
func (s *Sync) Step(from NodeID, msg Message) ([]Outgoing, error) { return nil, errNotYet }

// Gossiped takes a head heard by gossip, and asks from for what is missing.
func (s *Sync) Gossiped(from NodeID, h Head) ([]Outgoing, error) { return nil, errNotYet }
