package cas

import (
	"context"
	"errors"
	"syscall"

	"github.com/ipfs/go-cid"
)

// Mender is a Getter that can have another try at a block that is missing or
// damaged, at whatever that costs: it may ask other holders for it. Readers and
// Load functions turn to it only then, so ordinary reads pay nothing.
type Mender interface {
	Getter
	// Mend returns the sealed bytes as they should have been. damage is what
	// was wrong: Damaged says so of it.
	Mend(ctx context.Context, c cid.Cid, damage error) ([]byte, error)
}

// Damaged says of an error that a store no longer has a block as it was put,
// and nothing else: not that the store is closed or cannot be reached.
func Damaged(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) || errors.Is(err, syscall.EIO)
}

// get reads a block and opens it.
func (s *sealer) get(ctx context.Context, g Getter, dom domain, c cid.Cid) ([]byte, error) {
	b, err := g.Get(ctx, c)
	if err == nil {
		var plain []byte
		if plain, err = s.open(dom, Block{CID: c, Data: b}); err == nil {
			return plain, nil
		}
	}
	m, ok := g.(Mender)
	if !ok || !Damaged(err) {
		return nil, err
	}
	if b, err = m.Mend(ctx, c, err); err != nil {
		return nil, err
	}
	return s.open(dom, Block{CID: c, Data: b})
}
