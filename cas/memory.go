package cas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
)

// Memory is a Store for tests and simulations.
type Memory struct {
	mu     sync.RWMutex
	blocks map[[sha256.Size]byte][]byte
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{blocks: map[[sha256.Size]byte][]byte{}} }

// Put implements Putter.
func (m *Memory) Put(ctx context.Context, blocks ...Block) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	digests, err := admit(blocks)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, d := range digests {
		if _, ok := m.blocks[d]; !ok {
			m.blocks[d] = bytes.Clone(blocks[i].Data)
		}
	}
	return nil
}

// Get implements Getter.
func (m *Memory) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := digestOf(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, ok := m.blocks[d]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	}
	return bytes.Clone(b), nil
}

// Has implements Store.
func (m *Memory) Has(ctx context.Context, c cid.Cid) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	d, err := digestOf(c)
	if err != nil {
		return false, nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	_, ok := m.blocks[d]
	return ok, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, cids ...cid.Cid) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range cids {
		if d, err := digestOf(c); err == nil {
			delete(m.blocks, d)
		}
	}
	return nil
}

// Enumerate implements Store.
func (m *Memory) Enumerate(ctx context.Context, after cid.Cid, fn func(cid.Cid, int64) error) error {
	from, err := cursor(after)
	if err != nil {
		return err
	}
	type entry struct {
		digest [sha256.Size]byte
		size   int64
	}
	var all []entry
	m.mu.RLock()
	for d, b := range m.blocks {
		if from == nil || bytes.Compare(d[:], from) > 0 {
			all = append(all, entry{d, int64(len(b))})
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(all, func(a, b entry) int { return bytes.Compare(a.digest[:], b.digest[:]) })
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(cidOf(e.digest), e.size); err != nil {
			return err
		}
	}
	return nil
}

// admit checks what every Put checks: sizes and the kind of address.
func admit(blocks []Block) ([][sha256.Size]byte, error) {
	digests := make([][sha256.Size]byte, len(blocks))
	for i, b := range blocks {
		if len(b.Data) == 0 {
			return nil, fmt.Errorf("%w: block %s has no bytes; seal it first", ErrTruncated, b.CID)
		}
		if len(b.Data) > MaxBlock {
			return nil, fmt.Errorf("%w: block has %d bytes, the limit is %d; cut it before sealing", ErrTooLarge, len(b.Data), MaxBlock)
		}
		d, err := digestOf(b.CID)
		if err != nil {
			return nil, err
		}
		digests[i] = d
	}
	return digests, nil
}

// cursor is the digest to begin behind; nil means the start.
func cursor(after cid.Cid) ([]byte, error) {
	if !after.Defined() {
		return nil, nil
	}
	d, err := digestOf(after)
	if err != nil {
		return nil, err
	}
	return d[:], nil
}
