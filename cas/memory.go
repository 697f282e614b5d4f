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
	mu      sync.RWMutex
	shelves map[ShelfID]map[[sha256.Size]byte][]byte
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{shelves: map[ShelfID]map[[sha256.Size]byte][]byte{}}
}

// Shelf implements Store.
func (m *Memory) Shelf(id ShelfID) Shelf { return memoryShelf{m, id} }

// Shelves implements Store.
func (m *Memory) Shelves(ctx context.Context, after ShelfID, fn func(ShelfID) error) error {
	var all []ShelfID
	m.mu.RLock()
	for id := range m.shelves {
		if after == (ShelfID{}) || bytes.Compare(id[:], after[:]) > 0 {
			all = append(all, id)
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(all, func(a, b ShelfID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Drop implements Store.
func (m *Memory) Drop(ctx context.Context, id ShelfID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.shelves, id)
	return nil
}

// Close implements Store.
func (m *Memory) Close() error { return nil }

type memoryShelf struct {
	m  *Memory
	id ShelfID
}

// Put implements Putter.
func (s memoryShelf) Put(ctx context.Context, blocks ...Block) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	digests, err := admit(blocks)
	if err != nil || len(blocks) == 0 {
		return err
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.m.shelves[s.id] == nil {
		s.m.shelves[s.id] = map[[sha256.Size]byte][]byte{}
	}
	for i, d := range digests {
		if _, ok := s.m.shelves[s.id][d]; !ok {
			s.m.shelves[s.id][d] = bytes.Clone(blocks[i].Data)
		}
	}
	return nil
}

// Get implements Getter.
func (s memoryShelf) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := digestOf(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	}
	s.m.mu.RLock()
	defer s.m.mu.RUnlock()
	b, ok := s.m.shelves[s.id][d]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	}
	return bytes.Clone(b), nil
}

// Has implements Shelf.
func (s memoryShelf) Has(ctx context.Context, c cid.Cid) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	d, err := digestOf(c)
	if err != nil {
		return false, nil
	}
	s.m.mu.RLock()
	defer s.m.mu.RUnlock()
	_, ok := s.m.shelves[s.id][d]
	return ok, nil
}

// Delete implements Shelf.
func (s memoryShelf) Delete(ctx context.Context, cids ...cid.Cid) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for _, c := range cids {
		if d, err := digestOf(c); err == nil {
			delete(s.m.shelves[s.id], d)
		}
	}
	if len(s.m.shelves[s.id]) == 0 {
		delete(s.m.shelves, s.id)
	}
	return nil
}

// Enumerate implements Shelf.
func (s memoryShelf) Enumerate(ctx context.Context, after cid.Cid, fn func(cid.Cid, int64) error) error {
	from, err := cursor(after)
	if err != nil {
		return err
	}
	type entry struct {
		digest [sha256.Size]byte
		size   int64
	}
	var all []entry
	s.m.mu.RLock()
	for d, b := range s.m.shelves[s.id] {
		if from == nil || bytes.Compare(d[:], from) > 0 {
			all = append(all, entry{d, int64(len(b))})
		}
	}
	s.m.mu.RUnlock()
	slices.SortFunc(all, func(a, b entry) int { return bytes.Compare(a.digest[:], b.digest[:]) })
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(cidOf(e.digest), e.size); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Size implements Shelf.
func (s memoryShelf) Size(ctx context.Context) (blocks int, bytes int64, err error) {
	s.m.mu.RLock()
	defer s.m.mu.RUnlock()
	for _, b := range s.m.shelves[s.id] {
		bytes += int64(len(b))
	}
	return len(s.m.shelves[s.id]), bytes, ctx.Err()
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
