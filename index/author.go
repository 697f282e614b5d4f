package index

import (
	"crypto/ed25519"
	"io"
)

// SealBatch makes the signed batch of statements that follows on last, the zero Head before the first of an epoch. An Index
// does it for its own node (Append); this is for simulations and benchmarks, which speak for nodes that have none.
func SealBatch(key ed25519.PrivateKey, last Head, epoch Epoch, st []Statement, rand io.Reader) (Verified, error) {
	return sealBatch(key, last, epoch, st, rand)
}
