package cas

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
)

var (
	// ErrNoKey says the keyring has no such key: it never had, or it was erased.
	ErrNoKey = errors.New("no such study key: it was never here or has been erased")
	// ErrKeyConflict says another key is already there under that name.
	ErrKeyConflict = errors.New("another study key is already there under this name")
	// ErrWrongKEK says the key-encryption key is not the one this keyring is
	// under.
	ErrWrongKEK = errors.New("the key-encryption key is not this keyring's")
	// ErrRekeyed says that another process has begun or ended to put the
	// keyring under another key-encryption key. A change that was asked for was
	// made where this process looks, and perhaps not where it counts: the key
	// may live on, or not have come to be. Make it again after the new start.
	ErrRekeyed = errors.New("the keyring is being put under another key-encryption key, or has been: start this node again with that one")
)

const (
	keyringVersion = 2
	keyringRecord  = "keyring"
	recordLen      = 1 + 3*4 + 16 + sha256.Size
	keyVersion     = 2
	// maxKeyName is the most bytes a key's name may have.
	maxKeyName  = 223
	keyPlainLen = len(Key{}) + 1 + maxKeyName
	keyFileLen  = 1 + nonceLen + keyPlainLen + tagLen

	// rekeyAtOnce is how many keys are wrapped anew at the same time: in a
	// bucket each waits for the network.
	rekeyAtOnce = 16
	// openTries bounds how often a keyring that others change is read again.
	openTries = 5
)

// Keyring keeps study keys at rest, each a value of its own in a Cabinet,
// wrapped by a key-encryption key (KEK). It keeps no study key in memory, so
// that a deleted one is gone. All methods may be called concurrently. Several
// processes may share a cabinet, if the cabinet allows it.
type Keyring struct {
	cabinet Cabinet
	rand    io.Reader
	random  sync.Mutex // over rand

	names [64]sync.Mutex // over what is done to a key, by its place

	mu     sync.RWMutex // over what follows; held for the length of each use
	record record
	raw    []byte // record as it is in the cabinet
	now    generation
	also   []generation // being made, or not yet destroyed; the same changes go there

	rekey sync.Mutex
}

// generation is the keys as one KEK wraps them.
type generation struct {
	number  uint32
	aead    cipher.AEAD
	nameKey []byte
	markKey []byte
}

func newGeneration(number uint32, k KEK) (generation, error) {
	aead, err := newAEAD(subKey(k.key[:], "priormesh keyring 2: wrap"))
	return generation{number, aead, subKey(k.key[:], "priormesh keyring 2: names"), subKey(k.key[:], "priormesh keyring 2: mark")}, err
}

// record says which generation counts.
type record struct {
	number uint32 // of the generation in use
	next   uint32 // of the one being made; 0 when there is none
	last   uint32 // the highest number ever used: none is used twice
}

// encode marks the record as one under the KEK of g. The random part makes every
// record another one, so that Replace can tell them apart.
func (r record) encode(g generation, rand io.Reader) ([]byte, error) {
	b := make([]byte, 1+3*4+16, recordLen)
	b[0] = keyringVersion
	binary.BigEndian.PutUint32(b[1:], r.number)
	binary.BigEndian.PutUint32(b[5:], r.next)
	binary.BigEndian.PutUint32(b[9:], r.last)
	if _, err := io.ReadFull(rand, b[13:]); err != nil {
		return nil, err
	}
	return append(b, g.mark(b)...), nil
}

// mark tells whether a record is under the generation's KEK, and whole.
func (g generation) mark(record []byte) []byte {
	mac := hmac.New(sha256.New, g.markKey)
	mac.Write(record)
	return mac.Sum(nil)
}

// parseRecord reads a record that is under the KEK of g.
func parseRecord(b []byte, g generation) (record, error) {
	const marked = recordLen - sha256.Size
	switch {
	case len(b) == 0:
		return record{}, fmt.Errorf("%w: its record is empty; restore it from a backup", ErrTruncated)
	case b[0] != keyringVersion:
		return record{}, fmt.Errorf("%w: keyring of version %d, known is %d; update this node", ErrVersion, b[0], keyringVersion)
	case len(b) != recordLen:
		return record{}, fmt.Errorf("%w: its record has %d bytes, not %d; restore it from a backup", ErrTruncated, len(b), recordLen)
	case !hmac.Equal(g.mark(b[:marked]), b[marked:]):
		return record{}, ErrWrongKEK
	}
	r := record{number: binary.BigEndian.Uint32(b[1:]), next: binary.BigEndian.Uint32(b[5:]), last: binary.BigEndian.Uint32(b[9:])}
	if r.number == 0 || r.number > r.last || r.next > r.last {
		return record{}, fmt.Errorf("%w: its record contradicts itself; restore it from a backup", ErrMalformed)
	}
	return r, nil
}

// KeyringFits says whether a cabinet's keyring is under a KEK. If there is no
// keyring it returns fs.ErrNotExist.
func KeyringFits(ctx context.Context, c Cabinet, k KEK) (bool, error) {
	b, err := c.Read(ctx, keyringRecord)
	if err != nil {
		return false, err
	}
	g, err := newGeneration(0, k)
	if err != nil {
		return false, err
	}
	_, err = parseRecord(b, g)
	if errors.Is(err, ErrWrongKEK) {
		return false, nil
	}
	return err == nil, err
}

// KeyringExists says whether a cabinet holds a keyring.
func KeyringExists(ctx context.Context, c Cabinet) (bool, error) {
	_, err := c.Read(ctx, keyringRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// OpenKeyring opens the keyring of a cabinet, or makes it. A keyring that is
// under another KEK is refused: without its own nothing in it can be read. A
// change of the KEK that was cut off before its switch is undone, one that was
// cut off after it is finished.
func OpenKeyring(ctx context.Context, c Cabinet, k KEK, rand io.Reader) (*Keyring, error) {
	r := &Keyring{cabinet: c, rand: rand}
	if err := r.open(ctx, k); err != nil {
		return nil, fmt.Errorf("opening the keyring in %s with %s: %w", c, k, err)
	}
	return r, nil
}

func (r *Keyring) open(ctx context.Context, k KEK) (err error) {
	if r.now, err = newGeneration(0, k); err != nil {
		return err
	}
	for range openTries {
		if err = r.load(ctx); !errors.Is(err, fs.ErrExist) && !errors.Is(err, ErrReplaced) {
			break // else another process was faster
		}
	}
	if err != nil {
		return err
	}
	for n := uint32(1); n <= r.record.last; n++ {
		if n != r.record.number {
			if err := r.destroyGeneration(ctx, n); err != nil {
				return fmt.Errorf("destroying keys that no longer count: %w", err)
			}
		}
	}
	return nil
}

// load reads the record, or makes the first.
func (r *Keyring) load(ctx context.Context) (err error) {
	r.raw, err = r.cabinet.Read(ctx, keyringRecord)
	if errors.Is(err, fs.ErrNotExist) {
		r.raw, err = r.begin(ctx)
	}
	if err != nil {
		return err
	}
	if r.record, err = parseRecord(r.raw, r.now); err != nil {
		return err
	}
	r.now.number = r.record.number
	if r.record.next == 0 {
		return nil
	}
	// First the record, then the keys that it no longer names: a process that
	// is making them finds out when it switches.
	undone := r.record
	undone.next = 0
	return r.replace(ctx, undone, r.now)
}

// begin makes a new keyring, unless there are keys without one.
func (r *Keyring) begin(ctx context.Context) ([]byte, error) {
	if err := r.cabinet.List(ctx, "", func(string) error {
		switch _, err := r.cabinet.Read(ctx, keyringRecord); {
		case err == nil:
			return fs.ErrExist // another process has just begun it
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		return fmt.Errorf("%w: there are keys, but no %q to say under which KEK; restore all of it from a backup", ErrWrongKEK, keyringRecord)
	}); err != nil {
		return nil, err
	}
	b, err := record{number: 1, last: 1}.encode(r.now, r.rand)
	if err != nil {
		return nil, err
	}
	return b, r.cabinet.CreateNew(ctx, keyringRecord, b)
}

// replace writes another record, under the KEK of g, in place of the one that
// this process knows.
func (r *Keyring) replace(ctx context.Context, to record, g generation) error {
	r.random.Lock()
	b, err := to.encode(g, r.rand)
	r.random.Unlock()
	if err != nil {
		return err
	}
	if err := r.cabinet.Replace(ctx, keyringRecord, r.raw, b); err != nil {
		return err
	}
	r.record, r.raw = to, b
	return nil
}

func (r *Keyring) destroyGeneration(ctx context.Context, n uint32) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(rekeyAtOnce)
	err := r.cabinet.List(gctx, generation{number: n}.prefix(), func(name string) error {
		g.Go(func() error { return r.cabinet.Destroy(gctx, name) })
		return nil
	})
	if gerr := g.Wait(); gerr != nil {
		return gerr
	}
	return err
}

func (g generation) prefix() string { return fmt.Sprintf("g%d/", g.number) }

// place hides the name, which may be a UID: only who has the KEK can tell
// which value belongs to which study.
func (g generation) place(name string) (place string, id []byte) {
	mac := hmac.New(sha256.New, g.nameKey)
	io.WriteString(mac, name)
	id = mac.Sum(nil)
	return g.prefix() + hex.EncodeToString(id), id
}

// Get returns the key, or ErrNoKey.
func (r *Keyring) Get(name string) (Key, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ctx := context.Background()
	k, err := r.read(ctx, name)
	if errors.Is(err, ErrNoKey) {
		if cerr := r.current(ctx); cerr != nil {
			return Key{}, cerr // it may be where this process does not look
		}
	}
	return k, err
}

// Create makes a key, durable on return; a key that is already there is returned.
func (r *Keyring) Create(name string) (Key, error) {
	unlock := r.lock(name)
	defer unlock()
	ctx := context.Background()
	k, err := r.read(ctx, name)
	if errors.Is(err, ErrNoKey) {
		if k, err = r.newKey(); err == nil {
			k, err = r.store(ctx, name, k)
		}
	}
	if err == nil {
		err = r.spread(ctx, name, k)
	}
	if err == nil {
		err = r.current(ctx)
	}
	if err != nil {
		return Key{}, err
	}
	return k, nil
}

// Add keeps a key made elsewhere, durable on return. The same key again is
// fine, another one is ErrKeyConflict.
func (r *Keyring) Add(name string, k Key) error {
	unlock := r.lock(name)
	defer unlock()
	ctx := context.Background()
	have, err := r.read(ctx, name)
	if errors.Is(err, ErrNoKey) {
		have, err = r.store(ctx, name, k)
	}
	switch {
	case err != nil:
		return err
	case !hmac.Equal(have[:], k[:]):
		return fmt.Errorf("%w; delete it first if it is no longer wanted", ErrKeyConflict)
	}
	if err := r.spread(ctx, name, k); err != nil {
		return err
	}
	return r.current(ctx)
}

// Delete destroys the key, durably. One that is not there is no error.
func (r *Keyring) Delete(name string) error {
	unlock := r.lock(name)
	defer unlock()
	ctx := context.Background()
	// The one in use last: until then the study is readable, and Delete can be
	// told again.
	for _, g := range slices.Concat(r.also, []generation{r.now}) {
		place, _ := g.place(name)
		if err := r.destroy(ctx, place); err != nil {
			return fmt.Errorf("destroying a study key: %w", err)
		}
	}
	return r.current(ctx)
}

// asideMark sets the place of a value that was set aside apart from a key's.
const asideMark = "x"

// SetAside frees the name of a key that cannot be opened. What is there is kept
// beside, for whoever may still make something of it, until the key is deleted
// or the KEK changed. A key that can be opened stays, and none is no error.
func (r *Keyring) SetAside(name string) error {
	unlock := r.lock(name)
	defer unlock()
	ctx := context.Background()
	switch _, err := r.read(ctx, name); {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoKey), errors.Is(err, ErrMalformed), errors.Is(err, ErrTruncated):
	default:
		return err
	}
	// Whoever puts another key there puts it into all of them.
	for _, g := range slices.Concat(r.also, []generation{r.now}) {
		place, _ := g.place(name)
		b, err := r.cabinet.Read(ctx, place)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for n := 0; err == nil; n++ {
			err = r.cabinet.CreateNew(ctx, asidePlace(place, n), b)
			if err == nil {
				break
			}
			if errors.Is(err, fs.ErrExist) {
				err = nil
			}
		}
		if err == nil {
			err = r.cabinet.Destroy(ctx, place)
		}
		if err != nil {
			return fmt.Errorf("setting aside a study key that cannot be opened: %w", err)
		}
	}
	return r.current(ctx)
}

func asidePlace(place string, n int) string { return fmt.Sprintf("%s%s%d", place, asideMark, n) }

// destroy destroys the key at a place and what was set aside of it. That goes
// from the last on, so that whatever is cut off can be done again.
func (r *Keyring) destroy(ctx context.Context, place string) error {
	n := 0
	for ; ; n++ {
		_, err := r.cabinet.Read(ctx, asidePlace(place, n))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil && !errors.Is(err, syscall.EIO) {
			return err
		}
	}
	for n--; n >= 0; n-- {
		if err := r.cabinet.Destroy(ctx, asidePlace(place, n)); err != nil {
			return err
		}
	}
	return r.cabinet.Destroy(ctx, place)
}

// Shelves calls fn with the name of each key and the shelf that it opens. A key that is made
// meanwhile may be among them or not. After nil no other was there at the
// beginning: a key that cannot be read is an error, as is a change of the KEK.
func (r *Keyring) Shelves(ctx context.Context, fn func(name string, id ShelfID) error) error {
	r.mu.RLock()
	g := r.now
	r.mu.RUnlock()
	if err := r.cabinet.List(ctx, g.prefix(), func(place string) error {
		if strings.Contains(place, asideMark) {
			return nil
		}
		b, err := r.cabinet.Read(ctx, place)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		id, err := hex.DecodeString(strings.TrimPrefix(place, g.prefix()))
		if err != nil {
			return fmt.Errorf("study key %s: %w: that is no name of a key", place, ErrMalformed)
		}
		k, name, err := g.unwrap(id, b)
		if err != nil {
			return fmt.Errorf("study key %s: %w", place, err)
		}
		return fn(name, k.Shelf())
	}); err != nil {
		return err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.now.number != g.number {
		return ErrRekeyed
	}
	return r.current(ctx)
}

// lock keeps the KEK from changing, and others from the key, until unlock.
func (r *Keyring) lock(name string) (unlock func()) {
	r.mu.RLock()
	place, _ := r.now.place(name)
	return r.lockPlace(place)
}

// lockPlace is lock by the place in the generation in use. The caller has
// taken mu, and unlock gives it back.
func (r *Keyring) lockPlace(place string) (unlock func()) {
	h := fnv.New32a()
	io.WriteString(h, place)
	l := &r.names[h.Sum32()%uint32(len(r.names))]
	l.Lock()
	return func() {
		l.Unlock()
		r.mu.RUnlock()
	}
}

// current says ErrRekeyed when another process has changed the record. Asked
// after a change it proves that the change was made where it counts: whoever
// puts the keyring under another KEK says so first and looks through it after.
func (r *Keyring) current(ctx context.Context) error {
	b, err := r.cabinet.Read(ctx, keyringRecord)
	if err != nil {
		return fmt.Errorf("looking whether the keyring is still under the same KEK: %w", err)
	}
	if !bytes.Equal(b, r.raw) {
		return ErrRekeyed
	}
	return nil
}

func (r *Keyring) newKey() (Key, error) {
	r.random.Lock()
	defer r.random.Unlock()
	return NewKey(r.rand)
}

func (r *Keyring) read(ctx context.Context, name string) (Key, error) {
	place, id := r.now.place(name)
	b, err := r.cabinet.Read(ctx, place)
	if errors.Is(err, fs.ErrNotExist) {
		return Key{}, ErrNoKey
	}
	if err != nil {
		return Key{}, fmt.Errorf("reading a study key: %w", err)
	}
	k, got, err := r.now.unwrap(id, b)
	if err == nil && got != name {
		err = fmt.Errorf("%w: it belongs to another name", ErrMalformed)
	}
	if err != nil {
		return Key{}, fmt.Errorf("study key %s in %s: %w", place, r.cabinet, err)
	}
	return k, nil
}

// store keeps a key in the generation in use. Where another process was faster
// it returns that one's key.
func (r *Keyring) store(ctx context.Context, name string, k Key) (Key, error) {
	err := r.put(ctx, r.now, name, k)
	if errors.Is(err, fs.ErrExist) {
		return r.read(ctx, name)
	}
	if err != nil {
		return Key{}, fmt.Errorf("keeping a study key: %w", err)
	}
	return k, nil
}

// spread keeps a key that is in use in the other generations too. It may have
// failed before, so that finding the key in the one in use proves nothing.
func (r *Keyring) spread(ctx context.Context, name string, k Key) error {
	for _, g := range r.also {
		if err := r.put(ctx, g, name, k); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("keeping a study key: %w", err)
		}
	}
	return nil
}

func (r *Keyring) put(ctx context.Context, g generation, name string, k Key) error {
	place, id := g.place(name)
	r.random.Lock()
	b, err := g.wrap(id, name, k, r.rand)
	r.random.Unlock()
	if err != nil {
		return err
	}
	return r.cabinet.CreateNew(ctx, place, b)
}

// wrap binds the key to its place, so that swapped values do not open, and
// keeps the name with it, so that it can be given its place under another KEK.
func (g generation) wrap(id []byte, name string, k Key, rand io.Reader) ([]byte, error) {
	if len(name) > maxKeyName {
		return nil, fmt.Errorf("%w: the name of a key has %d bytes, the limit is %d", ErrTooLarge, len(name), maxKeyName)
	}
	var plain [keyPlainLen]byte
	copy(plain[:], k[:])
	plain[len(k)] = byte(len(name))
	copy(plain[len(k)+1:], name)
	b := make([]byte, 1+nonceLen, keyFileLen)
	b[0] = keyVersion
	if _, err := io.ReadFull(rand, b[1:]); err != nil {
		return nil, err
	}
	return g.aead.Seal(b, b[1:], plain[:], append([]byte{keyVersion}, id...)), nil
}

func (g generation) unwrap(id, b []byte) (k Key, name string, err error) {
	if len(b) > 0 && b[0] != keyVersion {
		return Key{}, "", fmt.Errorf("%w: version %d, known is %d; update this node", ErrVersion, b[0], keyVersion)
	}
	if len(b) != keyFileLen {
		return Key{}, "", fmt.Errorf("%w: it has %d bytes, not %d; restore it from a backup", ErrTruncated, len(b), keyFileLen)
	}
	plain, err := g.aead.Open(nil, b[1:1+nonceLen], b[1+nonceLen:], append([]byte{keyVersion}, id...))
	if err != nil || int(plain[len(k)]) > maxKeyName {
		return Key{}, "", fmt.Errorf("%w: it was altered or belongs to another name; restore it from a backup", ErrMalformed)
	}
	copy(k[:], plain)
	return k, string(plain[len(k)+1:][:plain[len(k)]]), nil
}

// Rekey puts the keyring under another KEK: every key is wrapped anew, then the
// new ones are made to count in one step, then the old ones are destroyed. The
// keyring can be used meanwhile. It may be cut off anywhere: until the step the
// keyring is under the old KEK, after it under the new one, and the next
// OpenKeyring destroys what no longer counts. After nil the old KEK opens
// nothing that the cabinet holds.
func (r *Keyring) Rekey(ctx context.Context, k KEK, progress func(done, total int)) error {
	r.rekey.Lock()
	defer r.rekey.Unlock()
	err := r.beginRekey(ctx, k)
	if err == nil {
		if err = r.copyAll(ctx, progress); err == nil {
			err = r.switchOver(ctx)
		}
		if err != nil {
			err = errors.Join(err, r.undo(context.WithoutCancel(ctx)))
		}
	}
	if err == nil {
		err = r.retire(ctx)
	}
	if errors.Is(err, ErrReplaced) {
		err = fmt.Errorf("%w: %w", ErrRekeyed, err)
	}
	if err != nil {
		return fmt.Errorf("putting the keyring in %s under another KEK: %w", r.cabinet, err)
	}
	return nil
}

// beginRekey says in the record that a generation is being made, and has it
// take all changes from now on.
func (r *Keyring) beginRekey(ctx context.Context, k KEK) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	to := record{number: r.record.number, next: r.record.last + 1, last: r.record.last + 1}
	if to.next == 0 {
		return fmt.Errorf("%w: it has been under as many KEKs as it can", ErrTooLarge)
	}
	next, err := newGeneration(to.next, k)
	if err != nil {
		return err
	}
	if hmac.Equal(next.markKey, r.now.markKey) {
		return fmt.Errorf("%w: the new one is the old one", ErrKEK)
	}
	if err := r.replace(ctx, to, r.now); err != nil {
		return err
	}
	r.also = append(r.also, next)
	return nil
}

// copyAll wraps every key anew. What is made meanwhile is there already.
func (r *Keyring) copyAll(ctx context.Context, progress func(done, total int)) error {
	r.mu.RLock()
	old, next := r.now, r.also[len(r.also)-1]
	r.mu.RUnlock()
	var places []string
	if err := r.cabinet.List(ctx, old.prefix(), func(place string) error {
		if !strings.Contains(place, asideMark) {
			places = append(places, place)
		}
		return nil
	}); err != nil {
		return err
	}
	var mu sync.Mutex
	done := 0
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(rekeyAtOnce)
	for _, place := range places {
		g.Go(func() error {
			if err := r.copyKey(ctx, old, next, place); err != nil {
				return fmt.Errorf("study key %s: %w", place, err)
			}
			if progress != nil {
				mu.Lock()
				defer mu.Unlock()
				done++
				progress(done, len(places))
			}
			return nil
		})
	}
	return g.Wait()
}

func (r *Keyring) copyKey(ctx context.Context, old, next generation, place string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.RLock()
	unlock := r.lockPlace(place)
	defer unlock()
	b, err := r.cabinet.Read(ctx, place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	id, err := hex.DecodeString(strings.TrimPrefix(place, old.prefix()))
	if err != nil {
		return fmt.Errorf("%w: that is no name of a key", ErrMalformed)
	}
	k, name, err := old.unwrap(id, b)
	if err != nil {
		return err
	}
	if err := r.put(ctx, next, name, k); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil // made after the beginning
}

// switchOver makes the new generation count, in one step.
func (r *Keyring) switchOver(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.also) - 1
	next := r.also[i]
	if err := r.replace(ctx, record{number: next.number, last: r.record.last}, next); err != nil {
		return err
	}
	r.also[i], r.now = r.now, next
	return nil
}

// undo forgets the generation that was being made. Should that fail it goes on
// taking changes, and the next open undoes it.
func (r *Keyring) undo(ctx context.Context) error {
	r.mu.Lock()
	err := r.replace(ctx, record{number: r.record.number, last: r.record.last}, r.now)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.retire(ctx)
}

// retire destroys the generations that do not count.
func (r *Keyring) retire(ctx context.Context) error {
	r.mu.RLock()
	also := slices.Clone(r.also)
	r.mu.RUnlock()
	for _, g := range also {
		if err := r.destroyGeneration(ctx, g.number); err != nil {
			return fmt.Errorf("destroying keys that no longer count: %w; starting the node again tries it again", err)
		}
	}
	// What was made in them meanwhile goes too, and now nothing more comes.
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range also {
		if err := r.destroyGeneration(ctx, g.number); err != nil {
			return fmt.Errorf("destroying keys that no longer count: %w; starting the node again tries it again", err)
		}
	}
	r.also = nil
	return nil
}
