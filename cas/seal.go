package cas

import (
	"errors"
	"fmt"
	"io"
)

// Overhead is what sealing adds to a plaintext.
const Overhead = 30

var (
	// ErrWrongKey says a block is whole but does not open under this key.
	ErrWrongKey = errors.New("block does not open under this key")
	// ErrVersion says something was written by a later Priormesh.
	ErrVersion = errors.New("written in a format this version does not know")
)

// Key is a study key. It never shows itself when printed.
type Key [32]byte

// NewKey makes a key from a source of randomness, such as crypto/rand.Reader.
func NewKey(rand io.Reader) (Key, error) {
	var k Key
	_, err := io.ReadFull(rand, k[:])
	return k, err
}

// Format hides the key from every fmt verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "cas.Key(hidden)") }

// Seal encrypts one block of at most MaxPlain bytes. The same bytes under the
// same key always give the same block; under another key an unrelated one.
func (k Key) Seal(plain []byte) (Block, error) { return Block{}, errors.New("not yet") }

// Open returns the plaintext of a sealed block. It returns ErrCorrupt when
// the bytes are not those of the address, ErrWrongKey when they are but were
// sealed under another key (or are no data block), and ErrVersion.
func (k Key) Open(b Block) ([]byte, error) { return nil, errors.New("not yet") }
