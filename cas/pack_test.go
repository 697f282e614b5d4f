package cas

import (
	"bytes"
	"crypto/sha256"
	"hash/crc32"
	"slices"
	"testing"
)

// FuzzPack: whatever bytes a pack has, reading it ends, in bounded memory, and
// what is passed on is whole and in order.
func FuzzPack(f *testing.F) {
	rec := func(data []byte) []byte {
		id := blockID{ShelfID{1}, sha256.Sum256(data)}
		return append(appendRecordHeader(nil, id, len(data), crc32.Checksum(data, castagnoli)), data...)
	}
	one, two := rec(bytes.Repeat([]byte("a"), 100)), rec(bytes.Repeat([]byte("b"), 300))
	pack := slices.Concat(appendPackHeader(nil, 7), one, two)
	f.Add(pack)
	f.Add(pack[:len(pack)-7])
	f.Add(slices.Concat(pack[:90], two, one))
	f.Add(slices.Concat(pack[:40], rec(slices.Concat(one, two)), one))
	f.Add(bytes.Repeat(recordMagic, 100))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = checkPackHeader(b)
		for _, withData := range []bool{true, false} {
			at, n := int64(packHeader), 0
			res, err := scanPack(bytes.NewReader(b), packHeader, int64(len(b)), withData, func(off int64, h header, data []byte) error {
				end := off + recordHeader + int64(h.length)
				if off < at || end > int64(len(b)) {
					t.Fatalf("a record from %d to %d behind one that ends at %d, of %d", off, end, at, len(b))
				}
				if withData {
					if got, _, why := checkRecord(b[off:end], h.id); why != "" || !bytes.Equal(got, data) {
						t.Fatalf("a record that is not whole: %s", why)
					}
				}
				at, n = end, n+1
				return nil
			})
			if err != nil || res.unreadable != 0 || res.damaged > int64(len(b)) {
				t.Fatal(res, err)
			}
		}
	})
}
