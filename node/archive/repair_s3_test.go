package archive

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest"
	"github.com/priormesh/priormesh/cas/castest/s3test"
)

// A bucket whose bytes change while size and MD5 stay is mended by a node that
// was started anew and so does not know of the damage.
func TestSilentDamageInABucketIsMended(t *testing.T) {
	server := s3test.Start(t)
	o := cas.S3Options{Endpoint: server.Endpoint, Bucket: server.Bucket("blocks", false), AccessKey: s3test.Access, SecretKey: s3test.Secret, Rand: rand.Reader}
	id := cas.ShelfID{1}
	h := newHouse(t, t.TempDir(), "RX1", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RX1")
	for i, way := range []struct {
		name string
		put  func(cas.Shelf, cas.Block) error
	}{
		{"replace", func(s cas.Shelf, b cas.Block) error { return replace(t.Context(), s, b) }},
		{"restoring", func(s cas.Shelf, b cas.Block) error { return restoring{s, h.Archive, sourceID{}}.Put(t.Context(), b) }},
	} {
		t.Run(way.name, func(t *testing.T) {
			b := castest.Blocks(uint64(i+1), 1, 5000)[0]
			open := func() *cas.S3 {
				s, err := cas.OpenS3(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
			if err := open().Shelf(id).Put(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(filepath.Join(server.Root, "blocks", "shelves", id.String(), fmt.Sprintf("%x", []byte(b.CID.Hash()[2:]))), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte{b.Data[9] ^ 1}, 9)
			if cerr := f.Close(); err != nil || cerr != nil {
				t.Fatal(err, cerr)
			}
			if err := way.put(open().Shelf(id), b); err != nil {
				t.Fatal(err)
			}
			if got, err := open().Shelf(id).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
				t.Errorf("still damaged: %v", err)
			}
		})
	}
}
