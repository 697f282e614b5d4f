package cas_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest"
	"github.com/priormesh/priormesh/cas/castest/s3test"
)

func s3Options(s *s3test.Server, bucket, prefix string) cas.S3Options {
	return cas.S3Options{Endpoint: s.Endpoint, Bucket: bucket, Prefix: prefix, AccessKey: s3test.Access, SecretKey: s3test.Secret, Rand: rand.Reader}
}

func openS3(t *testing.T, o cas.S3Options) *cas.S3 {
	t.Helper()
	s, err := cas.OpenS3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestS3(t *testing.T) {
	server := s3test.Start(t, "--disable-object-lock-file")
	bucket := server.Bucket("blocks", false)
	var n atomic.Int32
	options := map[cas.Store]cas.S3Options{}
	open := func(t *testing.T, o cas.S3Options) cas.Store {
		s := openS3(t, o)
		options[s] = o
		return s
	}
	castest.Run(t, castest.Backend{
		Open: func(t *testing.T) cas.Store {
			return open(t, s3Options(server, bucket, fmt.Sprint("store-", n.Add(1))))
		},
		Reopen: func(t *testing.T, s cas.Store) cas.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			o := options[s]
			o.Existing = true
			return open(t, o)
		},
		Corrupt: func(t *testing.T, s cas.Store, shelf cas.ShelfID, b cas.Block) cas.Store {
			path := filepath.Join(server.Root, bucket, options[s].Prefix, "shelves", shelf.String(), fmt.Sprintf("%x", []byte(b.CID.Hash()[2:])))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{b.Data[len(b.Data)/2] ^ 1}, int64(len(b.Data)/2)); err != nil {
				t.Fatal(err)
			}
			return s
		},
	})
}
