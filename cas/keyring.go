package cas

import (
	"errors"
	"io"
)

var (
	// ErrNoKey says the keyring has no such key: it never had, or it was erased.
	ErrNoKey = errors.New("no such study key: it was never here or has been erased")
	// ErrKeyConflict says another key is already there under that name.
	ErrKeyConflict = errors.New("another study key is already there under this name")
)

// Keyring keeps study keys at rest, each in a file of its own, wrapped by a
// key-encryption key (KEK). All methods may be called concurrently.
type Keyring struct{}

// OpenKeyring opens or creates the keyring in dir. kekFile holds the KEK; it
// is made, mode 0600, when the keyring is new.
func OpenKeyring(dir, kekFile string, rand io.Reader) (*Keyring, error) {
	return nil, errors.New("not yet")
}

// Get returns the key, or ErrNoKey.
func (r *Keyring) Get(name string) (Key, error) { return Key{}, errors.New("not yet") }

// Create makes a key, durable on return; a key that is already there is returned.
func (r *Keyring) Create(name string) (Key, error) { return Key{}, errors.New("not yet") }

// Add keeps a key made elsewhere, durable on return. The same key again is
// fine, another one is ErrKeyConflict.
func (r *Keyring) Add(name string, k Key) error { return errors.New("not yet") }

// Delete destroys the key: its bytes are in no file afterwards. One that is
// not there is no error.
func (r *Keyring) Delete(name string) error { return errors.New("not yet") }
