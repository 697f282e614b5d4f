package index

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// Head is a log's newest position, signed by its node. Its signature is that of
// the batch that ends at Seq, whose hash is Hash.
type Head struct {
	_     struct{} `cbor:",toarray"`
	Node  NodeID
	Epoch Epoch
	Seq   Seq
	Hash  [32]byte
	Sig   []byte
}

// Encode returns the head's deterministic CBOR, for gossip (about 150 bytes).
func (h Head) Encode() []byte { return encode(h) }

// DecodeHead reads what Encode writes. It checks the form only: Sync.Gossiped checks the signature.
func DecodeHead(b []byte) (Head, error) {
	if len(b) > maxHeadBytes {
		return Head{}, &LimitError{What: "bytes of a head", Got: len(b), Limit: maxHeadBytes}
	}
	h, err := decodeStrict[Head]("head", b)
	if err != nil {
		return Head{}, err
	}
	return h, h.check()
}

const maxHeadBytes = 256

func (h Head) check() error {
	switch {
	case h.Epoch < 1 || h.Epoch > MaxEpoch:
		return &MalformedError{What: "head", Why: fmt.Sprintf("epoch outside 1 to %d", MaxEpoch)}
	case h.Seq < 1 || h.Seq > MaxSeq:
		return &MalformedError{What: "head", Why: fmt.Sprintf("position outside 1 to %d", MaxSeq)}
	case len(h.Sig) != ed25519.SignatureSize:
		return &MalformedError{What: "head", Why: "signature is not 64 bytes"}
	}
	return nil
}

func (h Head) signed() []byte {
	b := append([]byte("priormesh-head-1\x00"), h.Node[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Seq))
	return append(b, h.Hash[:]...)
}

func (h Head) verify() error {
	if err := h.check(); err != nil {
		return err
	}
	if !ed25519.Verify(h.Node[:], h.signed(), h.Sig) {
		return &ForgedError{What: "a head", Node: h.Node}
	}
	return nil
}

// same says that two heads name the same history; signatures aside.
func (h Head) same(o Head) bool {
	return h.Node == o.Node && h.Epoch == o.Epoch && h.Seq == o.Seq && h.Hash == o.Hash
}

// Batch is a run of facts as it is stored and sent: the signed header bytes, the
// signature, and beside them the payloads the header commits to.
type Batch struct {
	_        struct{} `cbor:",toarray"`
	Header   []byte
	Sig      []byte
	Payloads []Payload
}

// Payload is one fact's bytes and the salt of its commitment. An empty Salt says
// that the payload was dropped: the batch still verifies.
type Payload struct {
	_    struct{} `cbor:",toarray"`
	Salt []byte
	Data []byte
}

func (p Payload) dropped() bool { return len(p.Salt) == 0 }

const saltSize = 16

// commitment binds a payload into a header. The salt keeps a dropped payload
// from being guessed: names and numbers are easily enumerated.
func (p Payload) commitment() [32]byte {
	return sha256.Sum256(append(bytes.Clone(p.Salt), p.Data...))
}

// size is what the batch adds to a message, generously.
func (b Batch) size() int {
	n := len(b.Header) + len(b.Sig) + 16
	for _, p := range b.Payloads {
		n += len(p.Salt) + len(p.Data) + 8
	}
	return n
}

const batchVersion = 1

// header is what this version knows of a batch header. A later version may add fields, within maxHeader and the limits of the decoder, and
// says so by a higher version; what it keeps must mean the same. Such headers are stored and relayed as the bytes they are.
type header struct {
	Version uint64   `cbor:"0,keyasint"`
	Node    []byte   `cbor:"1,keyasint"`
	Epoch   Epoch    `cbor:"2,keyasint"`
	First   Seq      `cbor:"3,keyasint"`
	Prev    []byte   `cbor:"4,keyasint,omitempty"` // hash of the batch before; absent when First is 1
	Commit  [][]byte `cbor:"5,keyasint"`
}

// link is a batch's place in its log: what its header says, and the head it makes.
type link struct {
	head   Head
	first  Seq
	prev   [32]byte
	commit [][]byte
	header []byte
}

// readLink checks a header's form and the signature over its bytes as they are.
func readLink(raw, sig []byte) (link, error) {
	l, err := parseLink(raw, sig)
	if err != nil {
		return link{}, err
	}
	return l, l.head.verify()
}

// parseLink is readLink without the signature: for what was checked before it was stored.
func parseLink(raw, sig []byte) (link, error) {
	if len(raw) > maxHeader {
		return link{}, &LimitError{What: "bytes of a batch header", Got: len(raw), Limit: maxHeader}
	}
	var h header
	if err := decode(batchMode, "batch header", raw, &h); err != nil {
		return link{}, err
	}
	malformed := func(why string) (link, error) { return link{}, &MalformedError{What: "batch header", Why: why} }
	switch {
	case h.Version < batchVersion:
		return malformed("of no version")
	case len(h.Node) != 32:
		return malformed("node is not 32 bytes")
	case h.First < 1 || h.First > MaxSeq-MaxFacts:
		return malformed("first position out of range")
	case len(h.Commit) < 1 || len(h.Commit) > MaxFacts:
		return malformed(fmt.Sprintf("%d facts, want 1 to %d", len(h.Commit), MaxFacts))
	case h.First == 1 && len(h.Prev) != 0, h.First > 1 && len(h.Prev) != 32:
		return malformed("hash of the batch before is absent or misplaced")
	}
	for _, c := range h.Commit {
		if len(c) != 32 {
			return malformed("a commitment is not 32 bytes")
		}
	}
	l := link{
		head: Head{
			Node: NodeID(h.Node), Epoch: h.Epoch, Seq: h.First + Seq(len(h.Commit)) - 1,
			Hash: sha256.Sum256(raw), Sig: sig,
		},
		first: h.First, commit: h.Commit, header: raw,
	}
	copy(l.prev[:], h.Prev)
	return l, l.head.check()
}

const maxHeader = 4 << 10

// Verified is a batch whose form, signature and commitments have been checked.
// Only Batch.Verify makes one. Whether it follows on a log is for the log to say.
type Verified struct {
	link  link
	batch Batch
}

// Head is the head the batch makes.
func (v Verified) Head() Head { return v.link.head }

// First is the position of the batch's first fact.
func (v Verified) First() Seq { return v.link.first }

// Batch returns what was verified.
func (v Verified) Batch() Batch { return v.batch }

// Verify checks a batch by itself.
func (b Batch) Verify() (Verified, error) {
	l, err := parseLink(b.Header, b.Sig)
	if err != nil {
		return Verified{}, err
	}
	return b.verify(l, nil)
}

// verify is Verify with the header parsed, and a memory of signatures.
func (b Batch) verify(l link, checked *Checked) (Verified, error) {
	if n := b.size(); n > MaxBatch {
		return Verified{}, &LimitError{What: "bytes of a batch", Got: n, Limit: MaxBatch}
	}
	if err := checked.head(l.head); err != nil {
		return Verified{}, err
	}
	if len(b.Payloads) != len(l.commit) {
		return Verified{}, &MalformedError{What: "batch", Why: fmt.Sprintf("%d payloads for %d commitments", len(b.Payloads), len(l.commit))}
	}
	for i, p := range b.Payloads {
		switch {
		case p.dropped():
			if len(p.Data) != 0 {
				return Verified{}, &MalformedError{What: "batch", Why: "a payload without its salt"}
			}
		case len(p.Salt) != saltSize:
			return Verified{}, &MalformedError{What: "batch", Why: fmt.Sprintf("a salt is not %d bytes", saltSize)}
		case len(p.Data) > MaxPayload:
			return Verified{}, &LimitError{What: "bytes of a payload", Got: len(p.Data), Limit: MaxPayload}
		case p.commitment() != [32]byte(l.commit[i]):
			return Verified{}, &ForgedError{What: fmt.Sprintf("the payload of fact %d", l.first+Seq(i)), Node: l.head.Node}
		}
	}
	return Verified{link: l, batch: b}, nil
}

// sealBatch makes the batch of statements that follows on last, the zero Head before the first.
func sealBatch(key ed25519.PrivateKey, last Head, epoch Epoch, st []Statement, rand io.Reader) (Verified, error) {
	if len(st) < 1 || len(st) > MaxFacts {
		return Verified{}, &LimitError{What: "facts in a batch", Got: len(st), Limit: MaxFacts}
	}
	node := NodeIDOf(key)
	h := header{Version: batchVersion, Node: node[:], Epoch: epoch, First: last.Seq + 1}
	if last.Seq > 0 {
		h.Prev = last.Hash[:]
	}
	var b Batch
	for _, s := range st {
		if err := s.check(); err != nil {
			return Verified{}, err
		}
		p := Payload{Salt: make([]byte, saltSize), Data: encode(s)}
		if _, err := io.ReadFull(rand, p.Salt); err != nil {
			return Verified{}, fmt.Errorf("salt for a fact: %w", err)
		}
		c := p.commitment()
		h.Commit = append(h.Commit, c[:])
		b.Payloads = append(b.Payloads, p)
	}
	b.Header = encode(h)
	head := Head{Node: node, Epoch: epoch, Seq: last.Seq + Seq(len(st)), Hash: sha256.Sum256(b.Header)}
	b.Sig = ed25519.Sign(key, head.signed())
	return b.Verify()
}

// decodeBatch reads one batch of a message.
func decodeBatch(raw []byte) (Batch, error) {
	var b Batch
	err := decode(batchMode, "batch", raw, &b)
	return b, err
}
