package index

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
)

// Revocation is a trust's word that a node is not its own any more: its key was stolen, or has been replaced. It cannot be taken
// back; the node gets a new key and a new certificate. Any node may say it in its log: the signature is the trust key's.
type Revocation struct {
	Trust    TrustID           `cbor:"1,keyasint"`
	TrustKey ed25519.PublicKey `cbor:"2,keyasint"`
	Node     NodeID            `cbor:"3,keyasint"`
	// Epoch and Seq are where the node's log ends: what it has said up to there is still the trust's word, and is taken from others.
	// Zero: nothing more is taken.
	Epoch Epoch  `cbor:"4,keyasint,omitempty"`
	Seq   Seq    `cbor:"5,keyasint,omitempty"`
	Sig   []byte `cbor:"6,keyasint"`
}

// MaxRevocation bounds the content of a revocation's text form.
const MaxRevocation = 1 << 10

// Revoke makes a revocation. last is the last position of the node's log that is vouched for; zero: none.
func Revoke(trustKey ed25519.PrivateKey, trust TrustID, node NodeID, last Position) (Revocation, error) {
	r := Revocation{Trust: trust, TrustKey: trustKey.Public().(ed25519.PublicKey), Node: node, Epoch: last.Epoch, Seq: last.Seq}
	r.Sig = ed25519.Sign(trustKey, r.signed())
	return r, r.Verify()
}

func (r Revocation) signed() []byte {
	r.Sig = nil
	return append([]byte("priormesh-revocation-1\x00"), encode(r)...)
}

// Verify checks form and signature. Whether the key is the trust's, a roster knows.
func (r Revocation) Verify() error {
	switch {
	case !r.Trust.Valid():
		return badTrust
	case len(r.TrustKey) != ed25519.PublicKeySize || len(r.Sig) != ed25519.SignatureSize:
		return &MalformedError{What: "revocation", Why: "a key or signature has the wrong length"}
	case r.Node.IsZero() || r.Epoch > MaxEpoch || (r.Epoch == 0) != (r.Seq == 0):
		return &MalformedError{What: "revocation", Why: "its node or position cannot be"}
	case !ed25519.Verify(r.TrustKey, r.signed(), r.Sig):
		return &ForgedError{What: "a revocation", Node: r.Node}
	}
	return nil
}

// before says which of two revocations of a node counts: one that vouches for its log, and of those the one that vouches for less.
func (r Revocation) before(o Revocation) bool {
	if (r.Seq == 0) != (o.Seq == 0) {
		return r.Seq > 0
	}
	return cmp.Or(Position{r.Epoch, r.Seq}.compare(Position{o.Epoch, o.Seq}), bytes.Compare(encode(r), encode(o))) < 0
}

// covers says whether a position is one that is still vouched for.
func (r Revocation) covers(p Position) bool {
	return p.compare(Position{r.Epoch, r.Seq}) <= 0
}

// String returns the text form, "priormesh-revocation-1:...".
func (r Revocation) String() string { return writeText("revocation", encode(r)) }

// ParseRevocation reads and verifies the text form.
func ParseRevocation(s string) (Revocation, error) {
	b, err := readText("revocation", s, MaxRevocation)
	if err != nil {
		return Revocation{}, err
	}
	return decodeRevocation(b)
}

func decodeRevocation(b []byte) (Revocation, error) {
	r, err := decodeStrict[Revocation]("revocation", b)
	if err != nil {
		return r, err
	}
	return r, r.Verify()
}

// RevocationStatement makes the statement of a revocation.
func RevocationStatement(r Revocation) (Statement, error) {
	if err := r.Verify(); err != nil {
		return Statement{}, err
	}
	return Statement{Kind: KindRevocation, Subject: r.subject(), Body: encode(r)}, nil
}

// subject is the trust too: what another trust says of the node takes no place.
func (r Revocation) subject() string { return r.Node.String() + "@" + string(r.Trust) }

func decodeRevocationFact(subject string, body []byte) (Revocation, error) {
	r, err := decodeRevocation(body)
	if err == nil && r.subject() != subject {
		err = &MalformedError{What: "revocation", Why: "its subject is another"}
	}
	return r, err
}

// Revocation returns the word by which a member's key revoked a node.
func (r Roster) Revocation(n NodeID) (Revocation, bool) {
	v, ok := r.revoked[n]
	return v, ok
}

// Revocations lists what revokes nodes of members, sorted by node: an invitation carries it.
func (r Roster) Revocations() []Revocation {
	out := make([]Revocation, 0, len(r.Revoked))
	for _, n := range r.Revoked {
		out = append(out, r.revoked[n])
	}
	return out
}
