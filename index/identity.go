package index

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"

	"github.com/mr-tron/base58"
)

// NodeID names a node: its Ed25519 public key.
type NodeID [32]byte

// peerIDPrefix is what a libp2p peer ID puts before an Ed25519 key: an identity
// multihash (00, length 24 hex) over a protobuf PublicKey (type 1, 32 bytes).
var peerIDPrefix = []byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}

// NodeIDOf returns the node named by the public half of key.
func NodeIDOf(key ed25519.PrivateKey) NodeID {
	return NodeID(key.Public().(ed25519.PublicKey))
}

// ParseNodeID reads the libp2p peer ID text of an Ed25519 key.
func ParseNodeID(s string) (NodeID, error) {
	if len(s) > 64 {
		return NodeID{}, &MalformedError{What: "node ID", Why: "longer than 64 characters"}
	}
	b, err := base58.Decode(s)
	if err != nil {
		return NodeID{}, &MalformedError{What: "node ID", Why: "not base58"}
	}
	if len(b) != len(peerIDPrefix)+32 || !bytes.HasPrefix(b, peerIDPrefix) {
		return NodeID{}, &MalformedError{What: "node ID", Why: "not the peer ID of an Ed25519 key (they begin with 12D3KooW)"}
	}
	return NodeID(b[len(peerIDPrefix):]), nil
}

// String returns the libp2p peer ID text.
func (n NodeID) String() string {
	return base58.Encode(append(append(make([]byte, 0, 38), peerIDPrefix...), n[:]...))
}

// MarshalText and UnmarshalText use the peer ID text.
func (n NodeID) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads the peer ID text.
func (n *NodeID) UnmarshalText(b []byte) error {
	id, err := ParseNodeID(string(b))
	if err == nil {
		*n = id
	}
	return err
}

// IsZero says that no node is named.
func (n NodeID) IsZero() bool { return n == NodeID{} }

// Compare orders node IDs by their bytes.
func (n NodeID) Compare(o NodeID) int { return bytes.Compare(n[:], o[:]) }

// TrustID names a trust by its ODS code: 1 to 12 of [A-Z0-9].
type TrustID string

// Valid says whether t has the form of an ODS code.
func (t TrustID) Valid() bool {
	if len(t) < 1 || len(t) > 12 {
		return false
	}
	for _, c := range []byte(t) {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// RegionID names a region: the hash of its founding vote. The zero RegionID is no region.
type RegionID [32]byte

// IsZero says that no region is named.
func (r RegionID) IsZero() bool { return r == RegionID{} }

// String returns the region ID in hex.
func (r RegionID) String() string { return hex.EncodeToString(r[:]) }
