package index

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// Checked remembers signatures of heads that verified, so that what comes again, by another way, is not verified again. It is safe for
// concurrent use.
type Checked struct {
	mu   sync.Mutex
	seen recent
}

// NewChecked returns a Checked that remembers the last n signatures at least, and twice as many at most.
func NewChecked(n int) *Checked { return &Checked{seen: recent{limit: n}} }

// head is h.verify with a memory. A nil Checked has none.
func (c *Checked) head(h Head) error {
	if c == nil {
		return h.verify()
	}
	if err := h.check(); err != nil {
		return err
	}
	// The whole of what Ed25519 looks at: another signature of the same head is another entry.
	b := make([]byte, 0, 192)
	b = append(b, h.Node[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Seq))
	b = append(append(b, h.Hash[:]...), h.Sig...)
	k := sha256.Sum256(b)
	c.mu.Lock()
	ok := c.seen.has(k)
	c.mu.Unlock()
	if ok {
		return nil
	}
	if err := h.verify(); err != nil {
		return err
	}
	c.mu.Lock()
	c.seen.add(k)
	c.mu.Unlock()
	return nil
}

// recent is a set of hashes that forgets the older half when it is full.
type recent struct {
	limit    int // hashes in each half
	now, old map[[32]byte]struct{}
}

func (r *recent) has(k [32]byte) bool {
	if _, ok := r.now[k]; ok {
		return true
	}
	_, ok := r.old[k]
	return ok
}

func (r *recent) add(k [32]byte) {
	if r.now == nil || len(r.now) >= r.limit {
		r.now, r.old = make(map[[32]byte]struct{}), r.now
	}
	r.now[k] = struct{}{}
}
