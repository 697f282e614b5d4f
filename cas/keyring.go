package cas

import (
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

var (
	// ErrNoKey says the keyring has no such key: it never had, or it was erased.
	ErrNoKey = errors.New("no such study key: it was never here or has been erased")
	// ErrKeyConflict says another key is already there under that name.
	ErrKeyConflict = errors.New("another study key is already there under this name")
	// ErrWrongKEK says the key-encryption key is not the one this keyring
	// was made with.
	ErrWrongKEK = errors.New("the key-encryption key is not this keyring's")
	// ErrKEK says the key-encryption key cannot be used as it is.
	ErrKEK = errors.New("the key-encryption key is not usable")
)

const (
	keyVersion  = 1
	keyFileLen  = 1 + nonceLen + len(Key{}) + tagLen
	keySuffix   = ".key"
	tmpSuffix   = ".tmp"
	markFile    = "keyring"
	maxKeyFile  = 4096
	kekTextLine = "priormesh-kek-1:"
)

// Keyring keeps study keys at rest, each in a file of its own, wrapped by a
// key-encryption key (KEK). It keeps no key in memory, so that a deleted one
// is gone. All methods may be called concurrently; the directory is for one
// Keyring at a time.
type Keyring struct {
	dir     string
	rand    io.Reader
	aead    cipher.AEAD
	nameKey []byte

	mu sync.Mutex
}

// OpenKeyring opens or creates the keyring in dir. kekFile holds the KEK; it
// is made, readable by its owner only, when the keyring is new. A keyring
// whose KEK file is missing, readable by others or another one is refused:
// without that KEK nothing in it can be read.
func OpenKeyring(dir, kekFile string, rand io.Reader) (*Keyring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the keyring: %w", err)
	}
	mark, err := readSmall(filepath.Join(dir, markFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening the keyring: %w", err)
	}
	isNew := err != nil
	if isNew {
		if keys, err := filepath.Glob(filepath.Join(dir, "*"+keySuffix)); err != nil || len(keys) > 0 {
			return nil, fmt.Errorf("%w: %s has keys but no %q file; restore the folder whole", ErrWrongKEK, dir, markFile)
		}
	}
	kek, err := readKEK(kekFile)
	if errors.Is(err, fs.ErrNotExist) {
		if !isNew {
			return nil, fmt.Errorf("%w: %s is missing; restore it from its backup, nothing else opens the study keys", ErrKEK, kekFile)
		}
		kek, err = makeKEK(kekFile, rand)
	}
	if err != nil {
		return nil, err
	}
	r := &Keyring{dir: dir, rand: rand, nameKey: subKey(kek, "priormesh keyring 1: names")}
	if r.aead, err = newAEAD(subKey(kek, "priormesh keyring 1: wrap")); err != nil {
		return nil, err
	}
	want := append([]byte{keyVersion}, subKey(kek, "priormesh keyring 1: mark")...)
	switch {
	case isNew:
		err = writeDurably(filepath.Join(dir, markFile), want)
	case len(mark) > 0 && mark[0] != keyVersion:
		err = fmt.Errorf("%w: keyring of version %d, known is %d; update this node", ErrVersion, mark[0], keyVersion)
	case !hmac.Equal(mark, want):
		err = fmt.Errorf("%w: %s does not fit %s", ErrWrongKEK, kekFile, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the keyring: %w", err)
	}
	return r, r.sweep()
}

// sweep destroys what a crash left half written.
func (r *Keyring) sweep() error {
	left, err := filepath.Glob(filepath.Join(r.dir, "*"+tmpSuffix))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := destroy(path); err != nil {
			return fmt.Errorf("keyring: removing what a crash left: %w", err)
		}
	}
	return nil
}

// path hides the name, which may be a UID: only who has the KEK can tell
// which file belongs to which study.
func (r *Keyring) path(name string) (path string, id []byte) {
	mac := hmac.New(sha256.New, r.nameKey)
	io.WriteString(mac, name)
	id = mac.Sum(nil)
	return filepath.Join(r.dir, hex.EncodeToString(id)+keySuffix), id
}

// Get returns the key, or ErrNoKey.
func (r *Keyring) Get(name string) (Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read(name)
}

// Create makes a key, durable on return; a key that is already there is returned.
func (r *Keyring) Create(name string) (Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, err := r.read(name)
	if !errors.Is(err, ErrNoKey) {
		return k, err
	}
	if k, err = NewKey(r.rand); err != nil {
		return Key{}, err
	}
	if err := r.store(name, k); err != nil {
		return Key{}, err
	}
	return k, nil
}

// Add keeps a key made elsewhere, durable on return. The same key again is
// fine, another one is ErrKeyConflict.
func (r *Keyring) Add(name string, k Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.read(name)
	switch {
	case errors.Is(err, ErrNoKey):
		return r.store(name, k)
	case err != nil:
		return err
	case !hmac.Equal(have[:], k[:]):
		return fmt.Errorf("%w; delete it first if it is no longer wanted", ErrKeyConflict)
	}
	return nil
}

// Delete destroys the key, durably: its file is overwritten, synced and
// removed. One that is not there is no error.
func (r *Keyring) Delete(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	path, _ := r.path(name)
	err := destroy(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("destroying a study key: %w", err)
	}
	return nil
}

func (r *Keyring) read(name string) (Key, error) {
	path, id := r.path(name)
	b, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && bytes.Equal(b, destroyed(keyFileLen)) {
		return Key{}, ErrNoKey // the second: a crash came between destroying and removing it
	}
	if err != nil {
		return Key{}, fmt.Errorf("reading a study key: %w", err)
	}
	k, err := r.unwrap(id, b)
	if err != nil {
		return Key{}, fmt.Errorf("study key file %s: %w", filepath.Base(path), err)
	}
	return k, nil
}

func (r *Keyring) store(name string, k Key) error {
	path, id := r.path(name)
	b, err := r.wrap(id, k)
	if err == nil {
		err = writeDurably(path, b)
	}
	if err != nil {
		return fmt.Errorf("keeping a study key: %w", err)
	}
	return nil
}

// wrap binds the key to its name, so that swapped files do not open.
func (r *Keyring) wrap(id []byte, k Key) ([]byte, error) {
	b := make([]byte, 1+nonceLen, keyFileLen)
	b[0] = keyVersion
	if _, err := io.ReadFull(r.rand, b[1:]); err != nil {
		return nil, err
	}
	return r.aead.Seal(b, b[1:], k[:], append([]byte{keyVersion}, id...)), nil
}

func (r *Keyring) unwrap(id, b []byte) (Key, error) {
	if len(b) > 0 && b[0] != keyVersion {
		return Key{}, fmt.Errorf("%w: version %d, known is %d; update this node", ErrVersion, b[0], keyVersion)
	}
	if len(b) != keyFileLen {
		return Key{}, fmt.Errorf("%w: it has %d bytes, not %d; restore it from a backup", ErrTruncated, len(b), keyFileLen)
	}
	k, err := r.aead.Open(nil, b[1:1+nonceLen], b[1+nonceLen:], append([]byte{keyVersion}, id...))
	if err != nil {
		return Key{}, fmt.Errorf("%w: it was altered or belongs to another name; restore it from a backup", ErrMalformed)
	}
	return Key(k), nil
}

// readKEK reads a KEK file: one line, the prefix and 64 hex digits.
func readKEK(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: others may read %s (mode %04o); make it 0600", ErrKEK, path, info.Mode().Perm())
	}
	b, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	return parseKEK(b, path)
}

func parseKEK(b []byte, path string) ([]byte, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(string(b)), kekTextLine)
	kek, err := hex.DecodeString(text)
	if !ok || err != nil || len(kek) != 32 {
		return nil, fmt.Errorf("%w: %s is not one line of %q and 64 hex digits", ErrKEK, path, kekTextLine)
	}
	return kek, nil
}

func makeKEK(path string, rand io.Reader) ([]byte, error) {
	kek := make([]byte, 32)
	if _, err := io.ReadFull(rand, kek); err != nil {
		return nil, fmt.Errorf("making the key-encryption key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the key-encryption key: %w", err)
	}
	if err := writeDurably(path, []byte(kekTextLine+hex.EncodeToString(kek)+"\n")); err != nil {
		return nil, fmt.Errorf("making the key-encryption key: %w", err)
	}
	return kek, nil
}

// readSmall reads a file that should be tiny, without trusting that it is.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

// writeDurably makes the file appear whole or not at all: written beside,
// synced, renamed, and the folder synced.
func writeDurably(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*"+tmpSuffix) // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, destroy(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// destroy overwrites a file in place, removes it and makes both durable. A
// file system that does not write in place keeps the old bytes until it
// reuses their space; they are wrapped.
func destroy(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(destroyed(int(info.Size())), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

// destroyed is what a file of n bytes is overwritten with.
func destroyed(n int) []byte { return bytes.Repeat([]byte{0xff}, n) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
