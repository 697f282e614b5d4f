package index

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
)

// Revocation is a trust's word that a node of a region is not its own any more: its key was stolen, or has been replaced. It cannot be
// taken back; the node gets a new key and a new certificate. Any node may say it in its log: the signature is the trust key's.
type Revocation struct {
	Region   RegionID          `cbor:"1,keyasint"`
	Trust    TrustID           `cbor:"2,keyasint"`
	TrustKey ed25519.PublicKey `cbor:"3,keyasint"`
	Node     NodeID            `cbor:"4,keyasint"`
	// Ends are where the node's logs end, by epoch: what it has said up to there is still the trust's word, and is taken from others. An
	// epoch that is not among them has nothing that counts. Without any, nothing more is taken, and what each node has stays as it is.
	Ends []LogEnd `cbor:"5,keyasint,omitempty"`
	Sig  []byte   `cbor:"6,keyasint"`
}

// LogEnd is the last fact that counts in an epoch.
type LogEnd struct {
	Epoch Epoch `cbor:"1,keyasint"`
	Seq   Seq   `cbor:"2,keyasint"`
}

// MaxRevocation bounds the content of a revocation's text form.
const MaxRevocation = 8 << 10

// Revoke makes a revocation. ends are the last facts that are vouched for, by epoch; none: as far as each node has heard.
func Revoke(trustKey ed25519.PrivateKey, region RegionID, trust TrustID, node NodeID, ends ...LogEnd) (Revocation, error) {
	r := Revocation{Region: region, Trust: trust, TrustKey: trustKey.Public().(ed25519.PublicKey), Node: node, Ends: ends}
	r.Sig = ed25519.Sign(trustKey, r.signed())
	return r, r.Verify()
}

func (r Revocation) signed() []byte {
	r.Sig = nil
	return append([]byte("priormesh-revocation-1\x00"), encode(r)...)
}

// Verify checks form and signature. Whether the key is the trust's, a roster knows.
func (r Revocation) Verify() error {
	malformed := func(why string) error { return &MalformedError{What: "revocation", Why: why} }
	switch {
	case !r.Trust.Valid():
		return badTrust
	case r.Region.IsZero() || r.Node.IsZero():
		return malformed("it names no region or no node")
	case len(r.TrustKey) != ed25519.PublicKeySize || len(r.Sig) != ed25519.SignatureSize:
		return malformed("a key or signature has the wrong length")
	}
	for i, e := range r.Ends {
		if e.Epoch < 1 || e.Epoch > MaxEpoch || e.Seq < 1 || e.Seq > maxPosition || i > 0 && r.Ends[i-1].Epoch >= e.Epoch {
			return malformed("the ends of its logs cannot be, or are not sorted")
		}
	}
	if !ed25519.Verify(r.TrustKey, r.signed(), r.Sig) {
		return &ForgedError{What: "a revocation", Node: r.Node}
	}
	return nil
}

// Supersedes says which of two revocations of a node counts: one that vouches for its logs, and of those the one that vouches for less.
func (r Revocation) Supersedes(o Revocation) bool {
	if (len(r.Ends) == 0) != (len(o.Ends) == 0) {
		return len(r.Ends) > 0
	}
	return cmp.Or(cmp.Compare(r.vouched(), o.vouched()), bytes.Compare(encode(r), encode(o))) < 0
}

// vouched is how many facts still count.
func (r Revocation) vouched() (n uint64) {
	for _, e := range r.Ends {
		n += uint64(e.Seq)
	}
	return n
}

// end is the last fact that counts of an epoch; 0: none does.
func (r Revocation) end(e Epoch) Seq {
	for _, at := range r.Ends {
		if at.Epoch == e {
			return at.Seq
		}
	}
	return 0
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

// Unspoken lists what the roster rests on, or what revokes a node, and nobody who is let in says: the votes of trusts that are expelled,
// which their logs have and nobody takes any more. Whoever says them again keeps all rosters the same. A node that is not let in itself
// has nothing to say again: nobody would hear it.
func (x *Index) Unspoken() (out []Statement, err error) {
	r := x.Roster()
	if _, in := r.Allowed(x.self); !in || len(r.Expelled)+len(r.Revoked) == 0 {
		return nil, nil
	}
	for _, v := range r.signed {
		st, err := VoteStatement(v)
		if err != nil {
			return nil, err
		}
		said, err := x.standsSaid(r, st, func(author NodeID) (bool, error) { return x.looksAt(author, v) })
		if err != nil {
			return nil, err
		}
		if !said {
			out = append(out, st)
		}
	}
	for _, v := range r.Revocations() {
		st, err := RevocationStatement(v)
		if err != nil {
			return nil, err
		}
		said, err := x.standsSaid(r, st, func(NodeID) (bool, error) { return true, nil })
		if err != nil {
			return nil, err
		}
		if !said {
			out = append(out, st)
		}
	}
	return out, nil
}

// standsSaid says whether this node has said something, or one that is let in has and is heard about it.
func (x *Index) standsSaid(r Roster, st Statement, heard func(author NodeID) (bool, error)) (bool, error) {
	said, err := x.Facts(st.Kind, st.Subject)
	if err != nil {
		return false, err
	}
	for _, f := range said {
		if _, in := r.Allowed(f.Author); !in || !bytes.Equal(f.Value, st.Body) {
			continue
		}
		if f.Author == x.self {
			return true, nil
		}
		if ok, err := heard(f.Author); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// looksAt says whether a vote is among those of an author's logs that are looked at.
func (x *Index) looksAt(author NodeID, v Vote) (bool, error) {
	x.mu.RLock()
	no := x.numbers[author]
	x.mu.RUnlock()
	for _, own := range []bool{false, true} {
		if _, ok, err := x.row(voteKey(no, own, v)); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}
