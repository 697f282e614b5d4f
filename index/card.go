package index

import (
	"bytes"
	"compress/flate"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

// NodeCert is a trust's word that a node is its own, countersigned by the node:
// no trust can claim another's node.
type NodeCert struct {
	Trust   TrustID `cbor:"1,keyasint"`
	Node    NodeID  `cbor:"2,keyasint"`
	Serial  uint64  `cbor:"3,keyasint"`
	Sig     []byte  `cbor:"4,keyasint"` // by the trust key
	NodeSig []byte  `cbor:"5,keyasint"` // by the node key
}

// NewNodeCert certifies nodeKey's node for the trust. Of a trust's certificates those with the highest serials
// count when there are more than MaxNodes.
func NewNodeCert(trustKey ed25519.PrivateKey, trust TrustID, nodeKey ed25519.PrivateKey, serial uint64) (NodeCert, error) {
	c := NodeCert{Trust: trust, Node: NodeIDOf(nodeKey), Serial: serial}
	pub := trustKey.Public().(ed25519.PublicKey)
	c.Sig = ed25519.Sign(trustKey, c.signed("trust", pub))
	c.NodeSig = ed25519.Sign(nodeKey, c.signed("node", pub))
	return c, c.Verify(pub)
}

// signed is what trust and node sign. The trust key is in it: a certificate
// says nothing for a trust of the same code and another key.
func (c NodeCert) signed(role string, trustKey ed25519.PublicKey) []byte {
	return append([]byte("priormesh-"+role+"-cert-1\x00"), encode([]any{string(c.Trust), []byte(trustKey), c.Node[:], c.Serial})...)
}

// Verify checks both signatures.
func (c NodeCert) Verify(trustKey ed25519.PublicKey) error {
	switch {
	case !c.Trust.Valid():
		return badTrust
	case len(trustKey) != ed25519.PublicKeySize || len(c.Sig) != ed25519.SignatureSize || len(c.NodeSig) != ed25519.SignatureSize:
		return &MalformedError{What: "node certificate", Why: "a key or signature has the wrong length"}
	case !ed25519.Verify(trustKey, c.signed("trust", trustKey), c.Sig), !ed25519.Verify(c.Node[:], c.signed("node", trustKey), c.NodeSig):
		return &ForgedError{What: "a certificate", Node: c.Node}
	}
	return nil
}

var badTrust = &MalformedError{What: "trust", Why: "an ODS code is 1 to 12 of A-Z and 0-9"}

// Limits on cards and invitations.
const (
	MaxName       = 128     // bytes of a trust's or region's name
	MaxAddrs      = 16      // addresses of a node
	MaxAddr       = 256     // bytes of an address
	MaxCard       = 8 << 10 // bytes of a card
	MaxInvitation = 4 << 20 // bytes of an invitation, deflated or not
)

// Card introduces a trust: who it is, its key, its first node and where that is reached.
// Its holder and the member that admits it compare the Fingerprint by another way than the card came.
type Card struct {
	Trust    TrustID           `cbor:"1,keyasint"`
	Name     string            `cbor:"2,keyasint"`
	TrustKey ed25519.PublicKey `cbor:"3,keyasint"`
	NodeCert NodeCert          `cbor:"4,keyasint"`
	Addrs    []string          `cbor:"5,keyasint,omitempty"`
}

// Verify checks the card against itself: form, and the node's certificate by the card's own key.
func (c Card) Verify() error {
	switch {
	case !c.Trust.Valid():
		return badTrust
	case !plain(c.Name) || len(c.Name) > MaxName:
		return &MalformedError{What: "card", Why: fmt.Sprintf("the name is over %d bytes or holds control characters", MaxName)}
	case c.NodeCert.Trust != c.Trust:
		return &MalformedError{What: "card", Why: "its certificate is of another trust"}
	}
	if err := checkAddrs(c.Addrs); err != nil {
		return err
	}
	return c.NodeCert.Verify(c.TrustKey)
}

func checkAddrs(addrs []string) error {
	if len(addrs) > MaxAddrs {
		return &LimitError{What: "addresses of a node", Got: len(addrs), Limit: MaxAddrs}
	}
	for _, a := range addrs {
		if len(a) > MaxAddr {
			return &LimitError{What: "bytes of an address", Got: len(a), Limit: MaxAddr}
		}
		if !plain(a) {
			return &MalformedError{What: "address", Why: "holds control characters"}
		}
	}
	return nil
}

// Hash names what a vote admits: trust, name and trust key. Addresses and nodes
// may change without dividing the votes.
func (c Card) Hash() [32]byte {
	return sha256.Sum256(append([]byte("priormesh-card-1\x00"), encode([]any{string(c.Trust), c.Name, []byte(c.TrustKey)})...))
}

// Fingerprint is the trust key in a form two people can compare by telephone: 80 bits in groups of four.
func (c Card) Fingerprint() string {
	h := sha256.Sum256(c.TrustKey)
	s := base32.StdEncoding.EncodeToString(h[:10])
	return s[0:4] + "-" + s[4:8] + "-" + s[8:12] + "-" + s[12:16]
}

// String returns the text form, "priormesh-card-1:...".
func (c Card) String() string { return writeText("card", encode(c)) }

// ParseCard reads and verifies the text form of a card.
func ParseCard(s string) (Card, error) {
	b, err := readText("card", s, MaxCard)
	if err != nil {
		return Card{}, err
	}
	c, err := decodeStrict[Card]("card", b)
	if err != nil {
		return Card{}, err
	}
	return c, c.Verify()
}

// Invitation lets an admitted trust compute the roster, see that it is on it, and dial.
type Invitation struct {
	Region     RegionID
	RegionName string
	Votes      []Vote
	Nodes      []NodeFact
	Revoked    []Revocation // nodes of members that are let in no more
}

type wireInvitation struct {
	Region RegionID `cbor:"1,keyasint"`
	Name   string   `cbor:"2,keyasint"`
	Votes  [][]byte `cbor:"3,keyasint"`
	Nodes  [][]byte `cbor:"4,keyasint,omitempty"`
	Gone   [][]byte `cbor:"5,keyasint,omitempty"`
}

// String returns the text form, "priormesh-invitation-1:...".
func (i Invitation) String() string {
	w := wireInvitation{Region: i.Region, Name: i.RegionName}
	for _, v := range i.Votes {
		w.Votes = append(w.Votes, v.Encode())
	}
	for _, n := range i.Nodes {
		w.Nodes = append(w.Nodes, encode(n))
	}
	for _, v := range i.Revoked {
		w.Gone = append(w.Gone, encode(v))
	}
	return writeText("invitation", deflate(encode(w)))
}

// deflate (RFC 1951) makes invitations short enough to paste: the votes repeat each other's cards.
func deflate(b []byte) []byte {
	var out bytes.Buffer
	w := must(flate.NewWriter(&out, flate.BestCompression))
	_ = must(w.Write(b))
	if err := w.Close(); err != nil {
		panic(err) // a buffer takes everything
	}
	return out.Bytes()
}

func inflate(b []byte, limit int) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), int64(limit)+1))
	if err != nil {
		return nil, &MalformedError{What: "invitation", Why: "not deflated as it must be"}
	}
	if len(out) > limit {
		return nil, &LimitError{What: "bytes of an invitation", Got: len(out), Limit: limit}
	}
	return out, nil
}

// ParseInvitation reads the text form of an invitation. VerifyInvitation says what it is worth.
func ParseInvitation(s string) (Invitation, error) {
	b, err := readText("invitation", s, MaxInvitation)
	if err != nil {
		return Invitation{}, err
	}
	if b, err = inflate(b, MaxInvitation); err != nil {
		return Invitation{}, err
	}
	var w wireInvitation
	if err := decode(wideMode, "invitation", b, &w); err != nil {
		return Invitation{}, err
	}
	i := Invitation{Region: w.Region, RegionName: w.Name}
	if !plain(w.Name) || len(w.Name) > MaxName {
		return Invitation{}, &MalformedError{What: "invitation", Why: fmt.Sprintf("the region's name is over %d bytes or holds control characters", MaxName)}
	}
	for _, raw := range w.Votes {
		v, err := DecodeVote(raw)
		if err != nil {
			return Invitation{}, err
		}
		i.Votes = append(i.Votes, v)
	}
	for _, raw := range w.Nodes {
		n, err := decodeNode(raw)
		if err != nil {
			return Invitation{}, err
		}
		i.Nodes = append(i.Nodes, n)
	}
	for _, raw := range w.Gone {
		v, err := decodeRevocation(raw)
		if err != nil {
			return Invitation{}, err
		}
		i.Revoked = append(i.Revoked, v)
	}
	return i, nil
}

// VerifyInvitation computes the roster of an invitation and checks that card's trust is on it with card's key.
// Whether the region is the one meant, its name and founder tell a person: anyone can found a region and invite to it.
func VerifyInvitation(inv Invitation, card Card) (Roster, error) {
	var certs []NodeCert
	for _, n := range inv.Nodes {
		certs = append(certs, n.Cert)
	}
	r := EvalRoster(inv.Region, inv.Votes, certs, inv.Revoked...)
	if len(r.Members) == 0 {
		return Roster{}, &InvitationError{Trust: card.Trust, Why: "the founding vote of its region is not in it: ask for a new invitation"}
	}
	if r.Name != inv.RegionName {
		return Roster{}, &InvitationError{Trust: card.Trust, Why: "the name of its region is not that of the founding vote: ask for a new invitation"}
	}
	m, ok := r.Member(card.Trust)
	switch {
	case !ok:
		have, need, _ := r.Standing(card.Hash())
		return Roster{}, &InvitationError{Trust: card.Trust, Why: fmt.Sprintf("it holds %d of the %d votes needed: give the card to further members, and use the invitation the last one prints", have, need)}
	case !bytes.Equal(m.TrustKey, card.TrustKey):
		return Roster{}, &InvitationError{Trust: card.Trust, Why: "the members admitted another key under this code (fingerprint " + m.Card.Fingerprint() + ", yours is " + card.Fingerprint() + "): a wrong card was admitted, tell them"}
	case m.Disputed:
		return Roster{}, &InvitationError{Trust: card.Trust, Why: "the members admitted two different keys under this code: tell them"}
	}
	return r, nil
}

// InvitationError says why an invitation does not let a trust in.
type InvitationError struct {
	Trust TrustID
	Why   string
}

func (e *InvitationError) Error() string {
	return fmt.Sprintf("this invitation does not let %s in: %s", e.Trust, e.Why)
}

// Text forms: "priormesh-" kind "-1:" and, in unpadded base64url, the content (a card's CBOR, an invitation's deflated CBOR) and the
// first four bytes of the SHA-256 over kind and content. White space anywhere is passed over: mail programs break long lines.

func writeText(kind string, b []byte) string {
	return "priormesh-" + kind + "-1:" + base64.RawURLEncoding.EncodeToString(append(bytes.Clone(b), checksum(kind, b)...))
}

func checksum(kind string, b []byte) []byte {
	h := sha256.Sum256(append([]byte(kind), b...))
	return h[:4]
}

func readText(kind, s string, limit int) ([]byte, error) {
	if n := len(s); n > 2*limit {
		return nil, &LimitError{What: "characters of a" + article(kind) + " " + kind, Got: n, Limit: 2 * limit}
	}
	s = strings.Join(strings.Fields(s), "")
	malformed := func(why string) ([]byte, error) { return nil, &MalformedError{What: kind, Why: why} }
	head, body, ok := strings.Cut(s, ":")
	rest, is := strings.CutPrefix(head, "priormesh-")
	if !ok || !is {
		return malformed("it begins with priormesh-" + kind + "-1: and this does not")
	}
	name, version, _ := strings.Cut(rest, "-")
	if name != kind {
		if name == "card" || name == "invitation" || name == "revocation" {
			return malformed("this is a" + article(name) + " " + name + ", not a" + article(kind) + " " + kind)
		}
		return malformed("it begins with priormesh-" + kind + "-1: and this does not")
	}
	if version != "1" {
		return malformed("it was written by another version of the program: update both to the same")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) < 4 || !bytes.Equal(b[len(b)-4:], checksum(kind, b[:len(b)-4])) {
		return malformed("it is incomplete or was altered when it was copied: copy the whole text again")
	}
	b = b[:len(b)-4]
	if len(b) > limit {
		return nil, &LimitError{What: "bytes of a" + article(kind) + " " + kind, Got: len(b), Limit: limit}
	}
	return b, nil
}

func article(noun string) string {
	if noun == "invitation" {
		return "n"
	}
	return ""
}
