package index

import (
	"crypto/ed25519"
	"fmt"
)

// Limits on messages.
const (
	MaxMessage = 1 << 20   // bytes of an encoded message
	MaxHeads   = 4096      // heads, or batches, in a message
	MaxAnswer  = 768 << 10 // bytes of the batches in a message: fewer than MaxHeads, none is under 200 bytes
)

// Message is a Heads, a Want or a Batches.
type Message interface{ Encode() []byte }

// Heads says how far the sender's logs go: all of them, or as many as MaxHeads. Ask wants the receiver's in return.
type Heads struct {
	Heads []Head // sorted by node, then epoch
	Ask   bool
}

// Want asks for the batches of a log after a position: Limit bytes, or one batch if that is larger. Limit 0 is MaxAnswer.
type Want struct {
	Node  NodeID
	Epoch Epoch
	After Seq
	Limit int
}

// Batches answers a Want, in the log's order.
type Batches struct {
	Node    NodeID
	Epoch   Epoch
	Batches []Batch
}

const (
	typeHeads   = 1
	typeWant    = 2
	typeBatches = 3
)

// wireMessage is the CBOR form of every message: a map with the fields its type needs.
type wireMessage struct {
	Type    uint64   `cbor:"0,keyasint"`
	Ask     bool     `cbor:"1,keyasint,omitempty"`
	Heads   [][]byte `cbor:"2,keyasint,omitempty"`
	Node    []byte   `cbor:"3,keyasint,omitempty"`
	Epoch   Epoch    `cbor:"4,keyasint,omitempty"`
	After   Seq      `cbor:"5,keyasint,omitempty"`
	Limit   uint64   `cbor:"6,keyasint,omitempty"`
	Batches [][]byte `cbor:"7,keyasint,omitempty"`
}

// Encode returns the message's deterministic CBOR.
func (m Heads) Encode() []byte {
	w := wireMessage{Type: typeHeads, Ask: m.Ask}
	for _, h := range m.Heads {
		w.Heads = append(w.Heads, h.Encode())
	}
	return encode(w)
}

// Encode returns the message's deterministic CBOR.
func (m Want) Encode() []byte {
	return encode(wireMessage{Type: typeWant, Node: m.Node[:], Epoch: m.Epoch, After: m.After, Limit: uint64(max(m.Limit, 0))})
}

// Encode returns the message's deterministic CBOR.
func (m Batches) Encode() []byte {
	w := wireMessage{Type: typeBatches, Node: m.Node[:], Epoch: m.Epoch}
	for _, b := range m.Batches {
		w.Batches = append(w.Batches, encode(b))
	}
	return encode(w)
}

// DecodeMessage reads one message of at most MaxMessage bytes and checks its form. Signatures are checked by Sync.
func DecodeMessage(b []byte) (Message, error) {
	if len(b) > MaxMessage {
		return nil, &LimitError{What: "bytes of a message", Got: len(b), Limit: MaxMessage}
	}
	var w wireMessage
	if err := decode(wideMode, "message", b, &w); err != nil {
		return nil, err
	}
	malformed := func(why string) (Message, error) { return nil, &MalformedError{What: "message", Why: why} }
	if w.Type == typeHeads {
		m := Heads{Ask: w.Ask, Heads: make([]Head, 0, len(w.Heads))}
		for i, raw := range w.Heads {
			h, err := DecodeHead(raw)
			if err != nil {
				return nil, err
			}
			if i > 0 && compareHeads(m.Heads[i-1], h) >= 0 {
				return malformed("its heads are not sorted, each log once")
			}
			m.Heads = append(m.Heads, h)
		}
		return m, nil
	}
	if w.Type != typeWant && w.Type != typeBatches {
		return nil, &VersionError{What: "message", Got: w.Type}
	}
	if len(w.Node) != ed25519.PublicKeySize || w.Epoch < 1 || w.Epoch > MaxEpoch || w.After > MaxSeq {
		return malformed("it names no log or position")
	}
	if w.Type == typeWant {
		if w.Limit > MaxMessage {
			return malformed(fmt.Sprintf("it asks for more than %d bytes", MaxMessage))
		}
		return Want{Node: NodeID(w.Node), Epoch: w.Epoch, After: w.After, Limit: int(w.Limit)}, nil
	}
	m := Batches{Node: NodeID(w.Node), Epoch: w.Epoch, Batches: make([]Batch, 0, len(w.Batches))}
	for _, raw := range w.Batches {
		b, err := decodeBatch(raw)
		if err != nil {
			return nil, err
		}
		m.Batches = append(m.Batches, b)
	}
	return m, nil
}
