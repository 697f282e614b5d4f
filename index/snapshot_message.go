package index

import (
	"crypto/ed25519"
	"fmt"
)

// Messages about snapshots:
//
//	 8 SnapshotOffer   21 the batch that holds the snapshot fact, as CBOR
//	 9 WantParts       3 node, 6 limit, 16 root, 17 part, 18 index, 19 count
//	10 Parts           3 node, 16 root, 17 part, 18 index, 20 parts, each as bytes: a list, sheets, or the CBOR [header, [[salt, payload], …]] of pages
//
// Parts are numbered within their kind: sheets 0, 1, …; pages 0, 1, … through all sheets, 1024 to each but the last.

// Part is a kind of part of a snapshot.
type Part uint64

// The parts of a snapshot. PartOffer asks for a SnapshotOffer and names no root.
const (
	PartOffer Part = 0
	PartList  Part = 1
	PartSheet Part = 2
	PartPages Part = 3
)

func (p Part) String() string {
	switch p {
	case PartOffer:
		return "offer"
	case PartList:
		return "list"
	case PartSheet:
		return "sheet"
	case PartPages:
		return "page"
	}
	return fmt.Sprintf("part %d", uint64(p))
}

// maxPart is what the largest part of a kind takes.
func (p Part) maxPart() int {
	switch p {
	case PartList:
		return maxListIn
	case PartSheet:
		return maxSheetIn
	}
	return MaxPageBytes
}

// MaxParts is the number of parts that one question asks for, at most.
const MaxParts = 1024

// SnapshotOffer shows a snapshot by the signed batch that holds its fact: in answer to a question for parts of another one, for an offer, or
// for batches that the sender has no more because it has the snapshot.
type SnapshotOffer struct{ Batch Batch }

// WantParts asks for parts of a snapshot, from Index on: as many of Count as fit into Limit bytes, but one if there is one. Limit 0 is MaxAnswer.
// The answer is Parts, without any when the receiver has not the one at Index; or the SnapshotOffer of another snapshot.
type WantParts struct {
	Node  NodeID
	Root  [32]byte
	Part  Part
	Index uint64
	Count uint64
	Limit int
}

// Parts answers WantParts.
type Parts struct {
	Node  NodeID
	Root  [32]byte
	Part  Part
	Index uint64
	Parts [][]byte
}

const (
	typeSnapshotOffer = 8
	typeWantParts     = 9
	typeParts         = 10
)

// wireSnapshot is the CBOR form of these messages. Its numbers are none of wireMessage's, but where they mean the same.
type wireSnapshot struct {
	Type  uint64   `cbor:"0,keyasint"`
	Node  []byte   `cbor:"3,keyasint,omitempty"`
	Limit uint64   `cbor:"6,keyasint,omitempty"`
	Root  []byte   `cbor:"16,keyasint,omitempty"`
	Part  Part     `cbor:"17,keyasint,omitempty"`
	Index uint64   `cbor:"18,keyasint,omitempty"`
	Count uint64   `cbor:"19,keyasint,omitempty"`
	Parts [][]byte `cbor:"20,keyasint,omitempty"`
	Batch []byte   `cbor:"21,keyasint,omitempty"`
}

// Encode returns the message's deterministic CBOR.
func (m SnapshotOffer) Encode() []byte {
	return encode(wireSnapshot{Type: typeSnapshotOffer, Batch: encode(m.Batch)})
}

// Encode returns the message's deterministic CBOR.
func (m WantParts) Encode() []byte {
	return encode(wireSnapshot{
		Type: typeWantParts, Node: m.Node[:], Limit: uint64(max(m.Limit, 0)), Root: m.Root[:], Part: m.Part, Index: m.Index, Count: m.Count,
	})
}

// Encode returns the message's deterministic CBOR.
func (m Parts) Encode() []byte {
	return encode(wireSnapshot{Type: typeParts, Node: m.Node[:], Root: m.Root[:], Part: m.Part, Index: m.Index, Parts: m.Parts})
}

// decodeSnapshotMessage reads a message of one of the types above, whose size DecodeMessage has bounded, and checks its form. Whether a
// part is the one asked for is checked by Bootstrap, which knows its hash.
func decodeSnapshotMessage(typ uint64, raw []byte) (Message, error) {
	malformed := func(why string) (Message, error) { return nil, &MalformedError{What: "message", Why: why} }
	var w wireSnapshot
	if err := decode(wideMode, "message", raw, &w); err != nil {
		return nil, err
	}
	if w.Type != typ {
		return malformed("it is of another type than it seems")
	}
	if typ == typeSnapshotOffer {
		b, err := decodeBatch(w.Batch)
		if err != nil {
			return nil, err
		}
		return SnapshotOffer{Batch: b}, nil
	}
	switch {
	case len(w.Node) != ed25519.PublicKeySize || len(w.Root) != 32:
		return malformed("it names no snapshot")
	case w.Part > PartPages:
		return malformed("it names no part of a snapshot")
	case w.Index >= maxPages:
		return malformed(fmt.Sprintf("it names a part over the limit of %d", maxPages))
	}
	if typ == typeWantParts {
		switch {
		case w.Limit > MaxMessage:
			return malformed(fmt.Sprintf("it asks for more than %d bytes", MaxMessage))
		case w.Count > MaxParts:
			return malformed(fmt.Sprintf("it asks for more than %d parts", MaxParts))
		}
		return WantParts{Node: NodeID(w.Node), Root: [32]byte(w.Root), Part: w.Part, Index: w.Index, Count: w.Count, Limit: int(w.Limit)}, nil
	}
	switch {
	case w.Part == PartOffer:
		return malformed("an offer is another message")
	case len(w.Parts) > MaxParts:
		return nil, &LimitError{What: "parts in a message", Got: len(w.Parts), Limit: MaxParts}
	}
	for _, p := range w.Parts {
		if len(p) > w.Part.maxPart() {
			return nil, &LimitError{What: fmt.Sprintf("bytes of a %s", w.Part), Got: len(p), Limit: w.Part.maxPart()}
		}
	}
	return Parts{Node: NodeID(w.Node), Root: [32]byte(w.Root), Part: w.Part, Index: w.Index, Parts: w.Parts}, nil
}

// SnapshotSource is what serving snapshots needs of a store. The same parts are served by whoever has them, their author or not.
type SnapshotSource interface {
	// Offer is the newest snapshot of a node of which every part is here.
	Offer(node NodeID) (offer SnapshotOffer, root [32]byte, ok bool, err error)
	// Part is a part of a snapshot as it was made, or, of a page, with payloads dropped; ok is false when it is not here. One of a
	// snapshot that is still being fetched may be given too.
	Part(node NodeID, root [32]byte, part Part, index uint64) (raw []byte, ok bool, err error)
}

// AnswerParts answers a question for parts of a snapshot.
func AnswerParts(from SnapshotSource, m WantParts) (Message, error) {
	limit := m.Limit
	if limit <= 0 || limit > MaxAnswer {
		limit = MaxAnswer
	}
	answer := Parts{Node: m.Node, Root: m.Root, Part: m.Part, Index: m.Index}
	if m.Part == PartOffer {
		answer.Part = PartList // an answer without parts, should there be no offer
	}
	size := 0
	for i := uint64(0); i < min(m.Count, MaxParts) && m.Part != PartOffer; i++ {
		raw, ok, err := from.Part(m.Node, m.Root, m.Part, m.Index+i)
		if err != nil {
			return nil, err
		}
		if size += len(raw) + 8; !ok || size > limit && i > 0 {
			break
		}
		answer.Parts = append(answer.Parts, raw)
	}
	if len(answer.Parts) > 0 {
		return answer, nil
	}
	offer, root, ok, err := from.Offer(m.Node)
	if err != nil {
		return nil, err
	}
	if ok && (root != m.Root || m.Part == PartOffer) {
		return offer, nil
	}
	return answer, nil
}
