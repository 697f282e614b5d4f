package index

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// packedRatio is how many times smaller packing makes a message at most: one that would become smaller still is sent as it is. So what
// a foreign message can take up is known from what has arrived of it.
const packedRatio = 64

// packMin is the size below which packing gains nothing.
const packMin = 256

// A zstd frame begins with these bytes, and no message does: a message is a CBOR map.
var packedMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Packer packs encoded messages for the way between two nodes. Facts of one batch are much alike, and go in a third of the bytes. It may be
// used by several goroutines at once, and needs no closing.
type Packer struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewPacker makes a Packer.
func NewPacker() (*Packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(MaxMessage), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(MaxMessage), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &Packer{enc, dec}, nil
}

// Pack returns an encoded message as one zstd frame (RFC 8878) that says how long the message is, or as it is where that is shorter.
func (p *Packer) Pack(msg []byte) []byte {
	if len(msg) < packMin {
		return msg
	}
	b := p.enc.EncodeAll(msg, make([]byte, 0, len(msg)/2))
	if len(b) >= len(msg) || len(b)*packedRatio < len(msg) {
		return msg
	}
	return b
}

// Unpack undoes Pack. It takes up no more memory than MaxMessage, nor than packedRatio times what came.
func (p *Packer) Unpack(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, packedMagic) {
		return b, nil
	}
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return nil, &MalformedError{What: "packed message", Why: err.Error()}
	}
	switch {
	case !h.HasFCS:
		return nil, &MalformedError{What: "packed message", Why: "it does not say its length"}
	case h.FrameContentSize > MaxMessage:
		return nil, &LimitError{What: "bytes of a message", Got: int(min(h.FrameContentSize, 1<<40)), Limit: MaxMessage}
	case h.FrameContentSize > uint64(len(b))*packedRatio:
		return nil, &MalformedError{What: "packed message", Why: fmt.Sprintf("it is over %d times longer than what came", packedRatio)}
	}
	msg, err := p.dec.DecodeAll(b, make([]byte, 0, h.FrameContentSize))
	if err != nil {
		return nil, &MalformedError{What: "packed message", Why: err.Error()}
	}
	if uint64(len(msg)) != h.FrameContentSize {
		return nil, &MalformedError{What: "packed message", Why: "it is shorter than it says"}
	}
	return msg, nil
}
