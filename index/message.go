package index

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"slices"
)

// Limits on messages.
const (
	MaxMessage = 1 << 20   // bytes of an encoded message
	MaxHeads   = 4096      // heads, or batches, in a message
	MaxMarks   = 16384     // logs in a Summary or a Show
	MaxWanted  = 256       // logs in a Want
	MaxAnswer  = 768 << 10 // bytes of the batches in a message: fewer than MaxHeads, none is under 200 bytes
)

// Message is a Digest, Summary, Show, Heads, Want or Batches, or an Unknown of a later version.
type Message interface{ Encode() []byte }

// DigestBuckets is how many parts the logs are divided into, by the first four bits of their node.
const DigestBuckets = 16

// Digest begins an exchange: a hash over the heads of each bucket. Who has the same says nothing.
type Digest struct{ Buckets [DigestBuckets][16]byte }

// Summary answers a Digest with the logs of the buckets that differ.
type Summary struct{ Buckets []SummaryBucket }

// SummaryBucket is one bucket: its hash, and a mark for each of its logs, sorted.
type SummaryBucket struct {
	Number int
	Hash   [16]byte
	Marks  []Mark
}

// Mark is how far a log goes, in about 16 bytes. It is a hint whom to ask for what and proves nothing. Seq 0: the sender has a proof that
// the log forked.
type Mark struct {
	Prefix [8]byte // of the node
	Epoch  Epoch
	Seq    Seq
	Hash   [4]byte // the beginning of the head's
}

// Show asks for the signed heads of logs, and of forked ones for both that prove it. Only Prefix and Epoch of the marks count.
type Show struct{ Marks []Mark }

// Heads says, signed, how far logs go: those that the receiver seems to lack, or that it asked for.
type Heads struct {
	Heads []Head // sorted by node, epoch, position and hash
}

// Want asks for the batches of logs after positions: Limit bytes in all, or one batch if that is larger. Limit 0 is MaxAnswer.
type Want struct {
	ID    uint64 // the answer carries it too; not 0
	Limit int
	Logs  []Wanted // in the order in which they are to be answered
}

// Wanted is one log of a Want.
type Wanted struct {
	Node  NodeID
	Epoch Epoch
	After Seq
}

// Batches answers the Want of the same ID, each log's in order; with ID 0 they are pushed, being new. Heads are those of wanted logs that
// go on after the last batch here.
type Batches struct {
	ID      uint64
	Batches []Batch
	Heads   []Head
}

// Unknown is a message of a type that a later version has added. It is ignored.
type Unknown struct{ Type uint64 }

const (
	typeHeads   = 1
	typeWant    = 2
	typeBatches = 3
	typeDigest  = 4
	typeSummary = 5
	typeShow    = 6
)

// wireMessage is the CBOR form of every message: a map with the fields its type needs.
type wireMessage struct {
	Type    uint64   `cbor:"0,keyasint"`
	Heads   [][]byte `cbor:"2,keyasint,omitempty"`
	Limit   uint64   `cbor:"6,keyasint,omitempty"`
	Batches [][]byte `cbor:"7,keyasint,omitempty"`
	ID      uint64   `cbor:"8,keyasint,omitempty"`
	Logs    []byte   `cbor:"9,keyasint,omitempty"`
	Digest  []byte   `cbor:"10,keyasint,omitempty"`
	Buckets [][]byte `cbor:"11,keyasint,omitempty"`
	Marks   []byte   `cbor:"12,keyasint,omitempty"`
}

// Encode returns the message's deterministic CBOR.
func (m Digest) Encode() []byte {
	var b []byte
	for _, h := range m.Buckets {
		b = append(b, h[:]...)
	}
	return encode(wireMessage{Type: typeDigest, Digest: b})
}

// Encode returns the message's deterministic CBOR.
func (m Summary) Encode() []byte {
	w := wireMessage{Type: typeSummary}
	for _, b := range m.Buckets {
		w.Buckets = append(w.Buckets, slices.Concat([]byte{byte(b.Number)}, b.Hash[:], packMarks(b.Marks)))
	}
	return encode(w)
}

// Encode returns the message's deterministic CBOR.
func (m Show) Encode() []byte { return encode(wireMessage{Type: typeShow, Marks: packMarks(m.Marks)}) }

// Encode returns the message's deterministic CBOR.
func (m Heads) Encode() []byte {
	return encode(wireMessage{Type: typeHeads, Heads: packHeads(m.Heads)})
}

// Encode returns the message's deterministic CBOR.
func (m Want) Encode() []byte {
	w := wireMessage{Type: typeWant, ID: m.ID, Limit: uint64(max(m.Limit, 0))}
	for _, l := range m.Logs {
		w.Logs = append(w.Logs, l.Node[:]...)
		w.Logs = binary.AppendUvarint(w.Logs, uint64(l.Epoch))
		w.Logs = binary.AppendUvarint(w.Logs, uint64(l.After))
	}
	return encode(w)
}

// Encode returns the message's deterministic CBOR.
func (m Batches) Encode() []byte {
	w := wireMessage{Type: typeBatches, ID: m.ID, Heads: packHeads(m.Heads)}
	for _, b := range m.Batches {
		w.Batches = append(w.Batches, encode(b))
	}
	return encode(w)
}

// Encode returns a message of the type, without its fields.
func (m Unknown) Encode() []byte { return encode(wireMessage{Type: m.Type}) }

// size is about what the message takes when it is sent.
// sized is a message whose bytes are charged.
type sized interface{ size() int }

func (m SnapshotOffer) size() int { return m.Batch.size() }

func (m Parts) size() int {
	n := 128
	for _, p := range m.Parts {
		n += len(p) + 8
	}
	return n
}

func (m Batches) size() int {
	n := 32 + 192*len(m.Heads)
	for _, b := range m.Batches {
		n += b.size()
	}
	return n
}

func packHeads(heads []Head) (out [][]byte) {
	for _, h := range heads {
		out = append(out, h.Encode())
	}
	return out
}

func packMarks(marks []Mark) (b []byte) {
	for _, m := range marks {
		b = append(b, m.Prefix[:]...)
		b = binary.AppendUvarint(b, uint64(m.Epoch))
		b = binary.AppendUvarint(b, uint64(m.Seq))
		b = append(b, m.Hash[:]...)
	}
	return b
}

func (m Mark) compare(o Mark) int {
	if c := bytes.Compare(m.Prefix[:], o.Prefix[:]); c != 0 {
		return c
	}
	return int(m.Epoch) - int(o.Epoch)
}

// reader reads packed fields. After the first that is cut off or out of range, bad is set and the rest is empty.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if len(r.b) < n {
		r.b, r.bad = nil, true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) number(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit || n > 1 && r.b[n-1] == 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) epoch() Epoch {
	e := Epoch(r.number(uint64(MaxEpoch)))
	r.bad = r.bad || e < 1
	return e
}

func unpackMarks(b []byte) ([]Mark, error) {
	r := reader{b: b}
	var out []Mark
	for len(r.b) > 0 {
		m := Mark{Prefix: [8]byte(r.bytes(8)), Epoch: r.epoch(), Seq: Seq(r.number(uint64(MaxSeq))), Hash: [4]byte(r.bytes(4))}
		switch {
		case r.bad:
			return nil, &MalformedError{What: "message", Why: "its marks are cut off or out of range"}
		case len(out) == MaxMarks:
			return nil, &LimitError{What: "marks in a message, at least", Got: MaxMarks + 1, Limit: MaxMarks}
		case len(out) > 0 && out[len(out)-1].compare(m) > 0:
			return nil, &MalformedError{What: "message", Why: "its marks are not sorted"}
		}
		out = append(out, m)
	}
	return out, nil
}

// DecodeMessage reads one message of at most MaxMessage bytes and checks its form. Signatures are checked by Sync.
func DecodeMessage(b []byte) (Message, error) {
	if len(b) > MaxMessage {
		return nil, &LimitError{What: "bytes of a message", Got: len(b), Limit: MaxMessage}
	}
	var w wireMessage
	if err := decode(wideMode, "message", b, &w); err != nil {
		// A later version's message may use the fields for something else.
		var any struct {
			Type uint64 `cbor:"0,keyasint"`
		}
		if decode(wideMode, "message", b, &any) != nil || any.Type <= typeShow {
			return nil, err
		}
		w.Type = any.Type
	}
	malformed := func(why string) (Message, error) { return nil, &MalformedError{What: "message", Why: why} }
	switch w.Type {
	case 0:
		return malformed("of no type")
	case typeDigest:
		var m Digest
		if len(w.Digest) != len(m.Buckets)*len(m.Buckets[0]) {
			return malformed("a digest of another length")
		}
		for i := range m.Buckets {
			copy(m.Buckets[i][:], w.Digest[16*i:])
		}
		return m, nil
	case typeSummary:
		return w.summary()
	case typeShow:
		marks, err := unpackMarks(w.Marks)
		if err != nil {
			return nil, err
		}
		return Show{Marks: marks}, nil
	case typeHeads:
		heads, err := unpackHeads(w.Heads)
		if err != nil {
			return nil, err
		}
		return Heads{Heads: heads}, nil
	case typeWant:
		return w.want()
	case typeBatches:
		heads, err := unpackHeads(w.Heads)
		if err != nil {
			return nil, err
		}
		m := Batches{ID: w.ID, Heads: heads}
		for _, raw := range w.Batches {
			b, err := decodeBatch(raw)
			if err != nil {
				return nil, err
			}
			m.Batches = append(m.Batches, b)
		}
		return m, nil
	}
	if w.Type >= typeSnapshotOffer && w.Type <= typeParts {
		return decodeSnapshotMessage(w.Type, b)
	}
	return Unknown{Type: w.Type}, nil
}

func unpackHeads(raw [][]byte) ([]Head, error) {
	var out []Head
	for i, r := range raw {
		h, err := DecodeHead(r)
		if err != nil {
			return nil, err
		}
		if i > 0 && compareSigned(out[i-1], h) >= 0 {
			return nil, &MalformedError{What: "message", Why: "its heads are not sorted, each once"}
		}
		out = append(out, h)
	}
	return out, nil
}

// compareSigned orders heads as compareHeads does, and two of one log by position and hash.
func compareSigned(a, b Head) int {
	if c := compareHeads(a, b); c != 0 {
		return c
	}
	if a.Seq != b.Seq {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	}
	return bytes.Compare(a.Hash[:], b.Hash[:])
}

func (w wireMessage) summary() (Message, error) {
	var m Summary
	total := 0
	for _, raw := range w.Buckets {
		if len(raw) < 17 || raw[0] >= DigestBuckets {
			return nil, &MalformedError{What: "message", Why: "a bucket without number or hash"}
		}
		b := SummaryBucket{Number: int(raw[0]), Hash: [16]byte(raw[1:17])}
		if n := len(m.Buckets); n > 0 && m.Buckets[n-1].Number >= b.Number {
			return nil, &MalformedError{What: "message", Why: "its buckets are not sorted, each once"}
		}
		marks, err := unpackMarks(raw[17:])
		if err != nil {
			return nil, err
		}
		if total += len(marks); total > MaxMarks {
			return nil, &LimitError{What: "marks in a message", Got: total, Limit: MaxMarks}
		}
		b.Marks = marks
		m.Buckets = append(m.Buckets, b)
	}
	return m, nil
}

func (w wireMessage) want() (Message, error) {
	if w.Limit > MaxMessage {
		return nil, &MalformedError{What: "message", Why: fmt.Sprintf("it asks for more than %d bytes", MaxMessage)}
	}
	if w.ID == 0 {
		return nil, &MalformedError{What: "message", Why: "a question without number"}
	}
	m := Want{ID: w.ID, Limit: int(w.Limit)}
	r := reader{b: w.Logs}
	for len(r.b) > 0 {
		l := Wanted{Node: NodeID(r.bytes(ed25519.PublicKeySize)), Epoch: r.epoch(), After: Seq(r.number(uint64(MaxSeq)))}
		if r.bad {
			return nil, &MalformedError{What: "message", Why: "it names no log or position"}
		}
		if len(m.Logs) == MaxWanted {
			return nil, &LimitError{What: "logs in a question, at least", Got: MaxWanted + 1, Limit: MaxWanted}
		}
		m.Logs = append(m.Logs, l)
	}
	if len(m.Logs) == 0 {
		return nil, &MalformedError{What: "message", Why: "it names no log or position"}
	}
	return m, nil
}

// markOf is the mark of a head, and of a forked log.
func markOf(h Head, forked bool) Mark {
	m := Mark{Prefix: [8]byte(h.Node[:8]), Epoch: h.Epoch}
	if !forked {
		m.Seq, m.Hash = h.Seq, [4]byte(h.Hash[:4])
	}
	return m
}

func sortMarks(marks []Mark) []Mark {
	slices.SortFunc(marks, Mark.compare)
	return slices.Compact(marks)
}
