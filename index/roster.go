package index

import "crypto/ed25519"

// The operations a vote may name. Votes of other operations are ignored.
const (
	OpFound = "found"
	OpAdmit = "admit"
)

// Vote is one trust's signed word on who belongs to the region.
type Vote struct {
	Region RegionID // zero in the founding vote, whose hash it is
	Name   string   // the region's name, in the founding vote only
	Op     string
	Card   Card
	Basis  []TrustID // sorted: the roster as its author sees it; empty in the founding vote
	By     TrustID
	Serial uint64 // 1, 2, 3, … for each author
	Sig    []byte // by By's trust key
}

// Hash names the vote. That of the founding vote is the region's ID.
func (v Vote) Hash() [32]byte { return [32]byte{} }

// Encode returns the vote's deterministic CBOR.
func (v Vote) Encode() []byte { return nil }

// DecodeVote reads what Encode writes. It checks form, not signature: a vote's key is known only by the roster.
func DecodeVote(b []byte) (Vote, error) { return Vote{}, errNotYet }

// Found makes the founding vote of a region called name by the card's own trust.
func Found(trustKey ed25519.PrivateKey, name string, card Card) (Vote, error) {
	return Vote{}, errNotYet
}

// Admit makes the vote of trustKey's trust to admit card, on the basis of roster. serial must be roster.NextSerial(by).
func Admit(trustKey ed25519.PrivateKey, roster Roster, card Card, serial uint64) (Vote, error) {
	return Vote{}, errNotYet
}

// Member is a trust on the roster.
type Member struct {
	Trust    TrustID
	Name     string
	TrustKey ed25519.PublicKey
	Card     Card
	Founder  bool
	Disputed bool // admitted under two keys: it keeps its seat, but none of its nodes is let in
}

// Roster is who belongs to a region. It is a pure function of the votes: see EvalRoster.
type Roster struct {
	Region  RegionID
	Name    string
	Members []Member // sorted by Trust
}

// EvalRoster computes the roster of region from votes and the node certificates known beside the cards.
func EvalRoster(region RegionID, votes []Vote, certs []NodeCert) Roster { return Roster{} }

// Allowed returns the trust that certifies the node, if one on the roster does.
func (r Roster) Allowed(n NodeID) (TrustID, bool) { return "", false }

// Member returns the member named t.
func (r Roster) Member(t TrustID) (Member, bool) { return Member{}, false }

// Nodes lists the nodes certified by members, sorted.
func (r Roster) Nodes() []NodeID { return nil }

// Quorum is how many members of this roster must vote to admit a trust.
func (r Roster) Quorum() int { return 0 }

// Standing says how many votes a card has, how many it needs, and whose they are.
func (r Roster) Standing(cardHash [32]byte) (have, need int, by []TrustID) { return 0, 0, nil }

// NextSerial is the serial of t's next vote.
func (r Roster) NextSerial(t TrustID) uint64 { return 0 }
