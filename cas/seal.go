package cas

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
)

// Overhead is what sealing adds to a plaintext: version, codec, nonce and
// tag. Compression can only make a block smaller than that.
const Overhead = 2 + nonceLen + tagLen

const (
	nonceLen = 12
	tagLen   = 16

	sealVersion = 1
)

// A domain says what a sealed block is for. It is not in the block but is
// authenticated with it, so that pixel data chosen by a stranger can never be
// read as a manifest.
type domain byte

const (
	domData   domain = iota // part of an instance
	domObject               // a whole object
	domChunk                // part of an object
	domList                 // the list of an object's chunks
)

var (
	// ErrWrongKey says a block is whole but does not open under this key,
	// or was sealed for another use than it is now read for.
	ErrWrongKey = errors.New("block does not open under this key")
	// ErrVersion says something was written by a later Priormesh.
	ErrVersion = errors.New("written in a format this version does not know")
)

// Key is a study key. It never shows itself when printed.
type Key [32]byte

// NewKey makes a key from a source of randomness, such as crypto/rand.Reader.
func NewKey(rand io.Reader) (Key, error) {
	var k Key
	if _, err := io.ReadFull(rand, k[:]); err != nil {
		return Key{}, fmt.Errorf("making a study key: %w", err)
	}
	return k, nil
}

// Format hides the key from every fmt verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "cas.Key(hidden)") }

// MarshalJSON refuses: JSON is for people and logs.
func (Key) MarshalJSON() ([]byte, error) { return nil, errors.New("a study key is not for JSON") }

// Shelf names the shelf of the blocks that this key seals.
func (k Key) Shelf() ShelfID { return ShelfID(subKey(k[:], "priormesh cas 1: shelf")[:16]) }

// Seal encrypts one block of at most MaxPlain bytes. The same bytes under the
// same key always give the same block; under another key an unrelated one.
func (k Key) Seal(plain []byte) (Block, error) { return newSealer(k).seal(domData, plain) }

// Open returns the plaintext of a sealed block. It returns ErrCorrupt when
// the bytes are not those of the address, ErrWrongKey when they are but were
// sealed under another key (or are no data block), and ErrVersion.
func (k Key) Open(b Block) ([]byte, error) { return newSealer(k).open(domData, b) }

// sealer is a Key made ready. It may be used concurrently.
type sealer struct {
	aead cipher.AEAD
	macs sync.Pool // HMACs under K_nonce
}

func newSealer(k Key) *sealer {
	aead, err := newAEAD(subKey(k[:], "priormesh cas 1: seal"))
	if err != nil {
		panic("cas: " + err.Error())
	}
	nonceKey := subKey(k[:], "priormesh cas 1: nonce")
	return &sealer{aead: aead, macs: sync.Pool{New: func() any { return hmac.New(sha256.New, nonceKey) }}}
}

func subKey(k []byte, use string) []byte {
	b, err := hkdf.Key(sha256.New, k, nil, use, 32)
	if err != nil {
		panic("cas: " + err.Error()) // only a length over 255 hashes can do that
	}
	return b
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(c)
}

func (s *sealer) seal(dom domain, plain []byte) (Block, error) {
	if len(plain) > MaxPlain {
		return Block{}, fmt.Errorf("%w: %d bytes for one block, the limit is %d; cut them before sealing", ErrTooLarge, len(plain), MaxPlain)
	}
	p := packers.Get().(*packer)
	defer packers.Put(p)
	codec, payload := p.pack(plain)
	return s.sealPayload(dom, codec, payload), nil
}

func (s *sealer) sealPayload(dom domain, codec byte, payload []byte) Block {
	aad := []byte{sealVersion, codec, byte(dom)}
	out := make([]byte, 2+nonceLen, len(payload)+Overhead)
	copy(out, aad[:2])
	s.nonce(out[2:], aad, payload)
	out = s.aead.Seal(out, out[2:2+nonceLen], payload, aad)
	return Block{CID: Sum(out), Data: out}
}

// nonce is over exactly what is encrypted and authenticated (the payload
// after compression, and the domain), never over the plaintext alone: a
// nonce may come twice only when everything under it is the same, also when
// a later version compresses differently.
func (s *sealer) nonce(nonce, aad, payload []byte) {
	mac := s.macs.Get().(hash.Hash)
	defer s.macs.Put(mac)
	mac.Reset()
	mac.Write(aad)
	mac.Write(payload)
	var sum [sha256.Size]byte
	copy(nonce[:nonceLen], mac.Sum(sum[:0]))
}

func (s *sealer) open(dom domain, b Block) ([]byte, error) {
	plain, err := s.openTrusting(dom, b)
	if err != nil {
		// Hashing is dear, so the address is asked only now: is it the bytes
		// that are wrong, or what we tried with them?
		if door := b.Verify(); door != nil {
			return nil, door
		}
		return nil, err
	}
	return plain, nil
}

func (s *sealer) openTrusting(dom domain, b Block) ([]byte, error) {
	switch d := b.Data; {
	case len(d) > MaxBlock:
		return nil, fmt.Errorf("%w: block has %d bytes, the limit is %d", ErrTooLarge, len(d), MaxBlock)
	case len(d) < Overhead:
		return nil, fmt.Errorf("%w: %s: %d bytes are less than any sealed block has", ErrTruncated, b.CID, len(d))
	case d[0] != sealVersion:
		return nil, fmt.Errorf("%w: block %s is of version %d, known is %d; update this node", ErrVersion, b.CID, d[0], sealVersion)
	case d[1] >= codecs:
		return nil, fmt.Errorf("%w: block %s has codec %d; update this node", ErrVersion, b.CID, d[1])
	}
	codec, nonce, sealed := b.Data[1], b.Data[2:2+nonceLen], b.Data[2+nonceLen:]
	u := unpackers.Get().(*unpacker)
	defer unpackers.Put(u)
	into := u.payload[:0]
	if codec == codecStored {
		into = nil // the payload is what the caller gets
	}
	payload, err := s.aead.Open(into, nonce, sealed, []byte{sealVersion, codec, byte(dom)})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: ask its origin for the study's key again", ErrWrongKey, b.CID)
	}
	if codec == codecStored {
		return payload, nil
	}
	u.payload = payload
	plain, err := u.unpack(codec, payload)
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", b.CID, err)
	}
	return plain, nil
}
