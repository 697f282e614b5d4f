package index

import "crypto/ed25519"

// NodeCert is a trust's word that a node is its own, countersigned by the node:
// no trust can claim another's node.
type NodeCert struct {
	Trust   TrustID
	Node    NodeID
	Serial  uint64
	Sig     []byte // by the trust key
	NodeSig []byte // by the node key
}

// NewNodeCert certifies nodeKey's node for the trust.
func NewNodeCert(trustKey ed25519.PrivateKey, trust TrustID, nodeKey ed25519.PrivateKey, serial uint64) (NodeCert, error) {
	return NodeCert{}, errNotYet
}

// Verify checks both signatures.
func (c NodeCert) Verify(trustKey ed25519.PublicKey) error { return errNotYet }

// Card introduces a trust: who it is, its key, its first node and where that is reached.
type Card struct {
	Trust    TrustID
	Name     string
	TrustKey ed25519.PublicKey
	NodeCert NodeCert
	Addrs    []string
}

// Verify checks the card against itself: form, and the node's certificate by the card's own key.
func (c Card) Verify() error { return errNotYet }

// Hash names what a vote admits: trust, name and trust key. Addresses and nodes
// may change without dividing the votes.
func (c Card) Hash() [32]byte { return [32]byte{} }

// Fingerprint is the trust key in a form two people can compare by telephone.
func (c Card) Fingerprint() string { return "" }

// String returns the text form, "priormesh-card-1:...".
func (c Card) String() string { return "" }

// ParseCard reads and verifies the text form of a card.
func ParseCard(s string) (Card, error) { return Card{}, errNotYet }

// Invitation lets an admitted trust compute the roster, see that it is on it, and dial.
type Invitation struct {
	Region     RegionID
	RegionName string
	Votes      []Vote
	Nodes      []NodeFact
}

// String returns the text form, "priormesh-invitation-1:...".
func (i Invitation) String() string { return "" }

// ParseInvitation reads the text form of an invitation. VerifyInvitation says what it is worth.
func ParseInvitation(s string) (Invitation, error) { return Invitation{}, errNotYet }

// VerifyInvitation computes the roster of an invitation and checks that card's trust is on it with card's key.
func VerifyInvitation(inv Invitation, card Card) (Roster, error) { return Roster{}, errNotYet }
