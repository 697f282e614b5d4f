package cas_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/minio/minio-go/v7"

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
		Slow: true,
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

func TestS3Cabinet(t *testing.T) {
	server := s3test.Start(t)
	s := openS3(t, s3Options(server, server.Bucket("keys", false), "a/b"))
	c := s.Cabinet()
	ctx := t.Context()
	if _, err := c.Read(ctx, "one"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	fine(t, c.CreateNew(ctx, "g1/one", []byte("first")))
	if err := c.CreateNew(ctx, "g1/one", []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if err := c.Replace(ctx, "g1/one", []byte("second"), []byte("third")); !errors.Is(err, cas.ErrReplaced) {
		t.Error(err)
	}
	if err := c.Replace(ctx, "g1/none", nil, []byte("third")); !errors.Is(err, cas.ErrReplaced) {
		t.Error(err)
	}
	fine(t, c.Replace(ctx, "g1/one", []byte("first"), []byte("fourth")))
	if b, err := c.Read(ctx, "g1/one"); err != nil || string(b) != "fourth" {
		t.Error(string(b), err)
	}
	// Of many that replace the same, one does.
	var done atomic.Int32
	var users sync.WaitGroup
	for i := range 16 {
		users.Go(func() {
			err := c.Replace(ctx, "g1/one", []byte("fourth"), fmt.Append(nil, i))
			if err == nil {
				done.Add(1)
			} else if !errors.Is(err, cas.ErrReplaced) {
				t.Error(err)
			}
		})
	}
	users.Wait()
	if done.Load() != 1 {
		t.Errorf("%d replaced the same", done.Load())
	}
	fine(t, c.CreateNew(ctx, "g2/two", []byte("x")))
	var names []string
	fine(t, c.List(ctx, "", func(name string) error { names = append(names, name); return nil }))
	if !slices.Equal(names, []string{"g1/one", "g2/two"}) {
		t.Error(names)
	}
	for range 2 {
		fine(t, c.Destroy(ctx, "g1/one"))
	}
	names = nil
	fine(t, c.List(ctx, "g1/", func(name string) error { names = append(names, name); return nil }))
	if len(names) > 0 {
		t.Error(names)
	}

	// A keyring in the bucket, used by two nodes, put under another KEK by one.
	old, err := cas.NewKEK(rand.Reader)
	fine(t, err)
	next, err := cas.NewKEK(rand.Reader)
	fine(t, err)
	fine(t, c.Destroy(ctx, "g2/two"))
	a, err := cas.OpenKeyring(ctx, c, old, rand.Reader)
	fine(t, err)
	other := openS3(t, s3Options(server, "keys", "a/b"))
	b, err := cas.OpenKeyring(ctx, other.Cabinet(), old, rand.Reader)
	fine(t, err)
	k, err := a.Create("study")
	fine(t, err)
	if got, err := b.Get("study"); err != nil || got != k {
		t.Error(err)
	}
	if got, err := b.Create("study"); err != nil || got != k {
		t.Error(err)
	}
	fine(t, a.Rekey(ctx, next, nil))
	if _, err := b.Get("study"); !errors.Is(err, cas.ErrRekeyed) {
		t.Error(err)
	}
	if _, err := cas.OpenKeyring(ctx, other.Cabinet(), old, rand.Reader); !errors.Is(err, cas.ErrWrongKEK) {
		t.Error(err)
	}
	b, err = cas.OpenKeyring(ctx, other.Cabinet(), next, rand.Reader)
	fine(t, err)
	if got, err := b.Get("study"); err != nil || got != k {
		t.Error(err)
	}
	fine(t, b.Delete("study"))
	if _, err := a.Get("study"); !errors.Is(err, cas.ErrNoKey) {
		t.Error(err)
	}
	fine(t, a.Add("another", k))
	fine(t, filepath.WalkDir(server.Root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, k[:]) {
			t.Errorf("%s has a key that is not wrapped", path)
		}
		return err
	}))
}

// Two nodes of one trust: what one has put the other has, whoever came first.
func TestTwoNodesOneBucket(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket("shared", false)
	stores := []*cas.S3{openS3(t, s3Options(server, bucket, "")), openS3(t, s3Options(server, bucket, ""))}
	blocks := castest.Blocks(1, 60, 3000)
	shelf := cas.ShelfID{7}
	var users sync.WaitGroup
	for i, s := range stores {
		users.Go(func() {
			for j := range blocks {
				if err := s.Shelf(shelf).Put(t.Context(), blocks[(j+30*i)%60], blocks[j]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	users.Wait()
	for _, s := range stores {
		if n, size, err := s.Shelf(shelf).Size(t.Context()); n != 60 || size != 60*3000 || err != nil {
			t.Error(n, size, err)
		}
		for _, b := range blocks {
			if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
				t.Fatal(err)
			}
		}
	}
	fine(t, stores[0].Drop(t.Context(), shelf))
	if _, err := stores[1].Shelf(shelf).Get(t.Context(), blocks[0].CID); !errors.Is(err, cas.ErrNotFound) {
		t.Error(err)
	}
}

// The server is killed again and again while blocks are put: retries carry that
// through, and what was acknowledged is there.
func TestS3ServerIsKilled(t *testing.T) {
	server := s3test.Start(t)
	s := openS3(t, s3Options(server, server.Bucket("blocks", false), ""))
	shelf := s.Shelf(cas.ShelfID{1})
	blocks := castest.Blocks(1, 400, 40_000)
	var next, acked atomic.Int32
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for {
				i := int(next.Add(4)) - 4
				if i >= len(blocks) {
					return
				}
				if err := shelf.Put(t.Context(), blocks[i:i+4]...); err != nil {
					t.Error(err)
					return
				}
				acked.Add(4)
			}
		})
	}
	for kill := int32(1); kill <= 3; kill++ {
		for acked.Load() < kill*80 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		server.Stop()
		server.Start()
	}
	writers.Wait()
	for _, b := range blocks {
		if got, err := shelf.Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(err)
		}
	}
	server.Stop()
	o := s3Options(server, "blocks", "")
	o.Retry = cas.S3Retry{Total: 300 * time.Millisecond}
	if _, err := cas.OpenS3(t.Context(), o); !errors.Is(err, cas.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- shelf.Put(t.Context(), castest.Blocks(2, 1, 100)...) }()
	time.Sleep(50 * time.Millisecond) // it is, or will be, trying again
	fine(t, s.Close())
	if err := <-done; !errors.Is(err, cas.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// What only a bucket can have: an object of another size under a block's name.
func TestS3PutReplacesWhatIsWrong(t *testing.T) {
	server := s3test.Start(t)
	s := openS3(t, s3Options(server, server.Bucket("blocks", false), ""))
	shelf, id := cas.ShelfID{1}, strings.Repeat("00", 15)
	b := castest.Blocks(1, 1, 500)[0]
	name := fmt.Sprintf("shelves/01%s/%x", id, []byte(b.CID.Hash()[2:]))
	for _, wrong := range [][]byte{nil, b.Data[:499], bytes.Repeat([]byte{1}, 500), make([]byte, 2<<20)} {
		if _, err := server.Client().PutObject(t.Context(), "blocks", name, bytes.NewReader(wrong), int64(len(wrong)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		fine(t, s.Shelf(shelf).Put(t.Context(), b)) // without a Get before
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Errorf("%d wrong bytes: %v", len(wrong), err)
		}
	}
	bad := b
	bad.Data = bytes.Repeat([]byte{2}, 500)
	if err := s.Shelf(cas.ShelfID{2}).Put(t.Context(), bad); err == nil {
		if _, err := s.Shelf(cas.ShelfID{2}).Get(t.Context(), b.CID); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("bytes that are not those of the address were given: %v", err)
		}
	}
}

func TestS3RefusesABucket(t *testing.T) {
	server := s3test.Start(t, "--versioning-dir", t.TempDir())
	refused := func(what string, o cas.S3Options, want error, text string) {
		t.Helper()
		s, err := cas.OpenS3(t.Context(), o)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && strings.Contains(err.Error(), s3test.Secret) {
			t.Errorf("%s: the error has the secret: %v", what, err)
		}
		if s != nil {
			s.Close()
		}
	}
	ctx := t.Context()
	refused("no bucket", s3Options(server, "none", ""), cas.ErrBucket, "no such bucket")
	plain := server.Bucket("plain", false)
	wrong := s3Options(server, plain, "")
	wrong.SecretKey = "wrong"
	refused("a wrong secret", wrong, cas.ErrDenied, "SignatureDoesNotMatch")
	wrong.AccessKey = "nobody"
	refused("a wrong account", wrong, cas.ErrDenied, plain)
	lost := s3Options(server, plain, "")
	lost.Existing = true
	refused("a store that should be there", lost, cas.ErrBucket, "kept studies")
	if _, err := server.Client().PutObject(ctx, plain, "x/thesis.docx", strings.NewReader("x"), 1, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	refused("another's things", s3Options(server, plain, "x"), cas.ErrBucket, "other things")
	fine(t, openS3(t, s3Options(server, plain, "y")).Close())
	if _, err := server.Client().PutObject(ctx, plain, "y/format", strings.NewReader("priormesh bucket 2\n"), 19, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	refused("a later format", s3Options(server, plain, "y"), cas.ErrVersion, "update")
	if _, err := server.Client().PutObject(ctx, plain, "y/format", strings.NewReader("hello"), 5, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	refused("another format", s3Options(server, plain, "y"), cas.ErrBucket, "not ours")

	versioned := server.Bucket("versioned", false)
	fine(t, server.Client().EnableVersioning(ctx, versioned))
	refused("versioning", s3Options(server, versioned, ""), cas.ErrBucket, "versioning is Enabled")
	fine(t, server.Client().SuspendVersioning(ctx, versioned))
	refused("suspended versioning", s3Options(server, versioned, ""), cas.ErrBucket, "versioning is Suspended")
	refused("object lock", s3Options(server, server.Bucket("locked", true), ""), cas.ErrBucket, "cannot be used")

	// Versioning that begins later: nothing is said to be stored or erased.
	late := server.Bucket("late", false)
	s := openS3(t, s3Options(server, late, ""))
	shelf := s.Shelf(cas.ShelfID{1})
	blocks := castest.Blocks(1, 2, 100)
	fine(t, shelf.Put(ctx, blocks[0]))
	fine(t, server.Client().EnableVersioning(ctx, late))
	if err := shelf.Put(ctx, blocks[1]); !errors.Is(err, cas.ErrBucket) {
		t.Errorf("Put: %v", err)
	}
	if err := shelf.Delete(ctx, blocks[0].CID); !errors.Is(err, cas.ErrBucket) {
		t.Errorf("Delete: %v", err)
	}
	if err := s.Drop(ctx, cas.ShelfID{1}); !errors.Is(err, cas.ErrBucket) {
		t.Errorf("Drop: %v", err)
	}
	if err := s.Cabinet().Destroy(ctx, "g1/x"); !errors.Is(err, cas.ErrBucket) {
		t.Errorf("Destroy: %v", err)
	}
}

func TestS3Options(t *testing.T) {
	for _, c := range []struct{ endpoint, bucket, prefix, wrong string }{
		{"https://s3.example.nhs.uk", "originals", "", ""},
		{"https://s3.example.nhs.uk:9000/", "originals", "rx1/archive", ""},
		{"http://localhost:7070", "originals", "rx1/", ""},
		{"http://[::1]:7070", "originals", "", ""},
		{"http://s3.example.nhs.uk", "originals", "", "not encrypted"},
		{"s3.example.nhs.uk", "originals", "", "not an address"},
		{"https://", "originals", "", "not an address"},
		{"https://user:secret@s3.example.nhs.uk", "originals", "", "not an address"},
		{"https://s3.example.nhs.uk/path", "originals", "", "not an address"},
		{"ftp://s3.example.nhs.uk", "originals", "", "not an address"},
		{"https://s3.example.nhs.uk", "Originals", "", "name of a bucket"},
		{"https://s3.example.nhs.uk", "", "", "name of a bucket"},
		{"https://s3.example.nhs.uk", "originals", "/x", "not a prefix"},
		{"https://s3.example.nhs.uk", "originals", "x//y", "not a prefix"},
		{"https://s3.example.nhs.uk", "originals", "../x", "not a prefix"},
	} {
		err := cas.CheckS3(c.endpoint, c.bucket, c.prefix)
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A server that is broken or hostile: errors with names, in bounded time and
// memory.
func TestHostileS3(t *testing.T) {
	block := castest.Blocks(1, 1, 1000)[0]
	headers := func(w http.ResponseWriter) {
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		w.Header().Set("ETag", `"0123456789abcdef0123456789abcdef"`)
	}
	endless := func(w http.ResponseWriter, begin string) {
		io.WriteString(w, begin)
		junk := bytes.Repeat([]byte("<Key>x</Key>"), 1000)
		for {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	}
	said := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	get := func(s *cas.S3) error { _, err := s.Shelf(cas.ShelfID{1}).Get(t.Context(), block.CID); return err }
	has := func(s *cas.S3) error { _, err := s.Shelf(cas.ShelfID{1}).Has(t.Context(), block.CID); return err }
	put := func(s *cas.S3) error { return s.Shelf(cas.ShelfID{1}).Put(t.Context(), block) }
	list := func(s *cas.S3) error {
		return s.Shelf(cas.ShelfID{1}).Enumerate(t.Context(), cid.Undef, func(cid.Cid, int64) error { return nil })
	}
	shelves := func(s *cas.S3) error {
		return s.Shelves(t.Context(), cas.ShelfID{}, func(cas.ShelfID) error { return nil })
	}
	listed := func(more bool, token string, keys ...string) string {
		out := fmt.Sprintf(`<ListBucketResult><Name>blocks</Name><IsTruncated>%t</IsTruncated><NextContinuationToken>%s</NextContinuationToken>`, more, token)
		for _, k := range keys {
			out += "<Contents><Key>" + k + "</Key><Size>1</Size><LastModified>2006-01-02T15:04:05.000Z</LastModified></Contents>"
		}
		return out + "</ListBucketResult>"
	}
	one := "shelves/01" + strings.Repeat("00", 15) + "/" + strings.Repeat("11", 32)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		do     func(*cas.S3) error
		want   error
		most   int32 // requests; 0: any number
	}{
		{"an object too large", func(w http.ResponseWriter, r *http.Request) {
			headers(w)
			w.Header().Set("Content-Length", "1099511627776")
			w.Write(make([]byte, 100))
		}, get, cas.ErrCorrupt, 1},
		{"an object that does not end", func(w http.ResponseWriter, r *http.Request) {
			headers(w)
			endless(w, "")
		}, get, cas.ErrCorrupt, 1},
		{"wrong bytes", func(w http.ResponseWriter, r *http.Request) {
			headers(w)
			w.Write(make([]byte, 1000))
		}, get, cas.ErrCorrupt, 1},
		{"no bytes", func(w http.ResponseWriter, r *http.Request) { headers(w) }, get, cas.ErrCorrupt, 1},
		{"a torn answer", func(w http.ResponseWriter, r *http.Request) {
			headers(w)
			w.Header().Set("Content-Length", "1000")
			w.Write(block.Data[:500])
		}, get, cas.ErrUnavailable, 0},
		{"a storm of 500", said(500, ""), get, cas.ErrUnavailable, 0},
		{"a storm of 503 SlowDown", said(503, "<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"), put, cas.ErrUnavailable, 0},
		{"a storm of 429", said(429, ""), has, cas.ErrUnavailable, 0},
		{"an endless error", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			endless(w, "<Error><Message>")
		}, put, cas.ErrUnavailable, 0},
		{"forbidden", said(403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"), put, cas.ErrDenied, 1},
		{"forbidden to look", said(403, ""), has, cas.ErrDenied, 1},
		{"an account that is gone", said(404, "<Error><Code>NoSuchAccount</Code></Error>"), get, cas.ErrDenied, 1},
		{"an account that is gone, looking", said(404, "<Error><Code>NoSuchAccount</Code></Error>"), has, cas.ErrDenied, 1},
		{"the clock", said(403, "<Error><Code>RequestTimeTooSkewed</Code></Error>"), get, cas.ErrDenied, 1},
		{"no bucket any more", said(404, "<Error><Code>NoSuchBucket</Code></Error>"), get, cas.ErrBucket, 1},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusTemporaryRedirect)
		}, get, cas.ErrBucket, 1},
		{"a redirect of a write", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusMovedPermanently)
		}, put, cas.ErrBucket, 1},
		{"hanging", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, get, cas.ErrUnavailable, 0},
		{"a drip", func(w http.ResponseWriter, r *http.Request) {
			headers(w)
			for r.Context().Err() == nil {
				w.Write([]byte{1})
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond)
			}
		}, get, cas.ErrUnavailable, 0},
		{"cut off", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, put, cas.ErrUnavailable, 0},
		{"an endless list", func(w http.ResponseWriter, r *http.Request) {
			endless(w, "<ListBucketResult><Contents>")
		}, list, nil, 0},
		{"a list that does not go on", said(200, listed(true, "again")), list, nil, 200},
		{"a list that repeats itself", func() http.HandlerFunc {
			keys := make([]string, 1000)
			for i := range keys {
				keys[i] = one
			}
			return said(200, listed(true, "again", keys...))
		}(), list, cas.ErrBucket, 2},
		{"a list of other things", said(200, listed(false, "", "elsewhere/x")), list, cas.ErrBucket, 1},
		{"a list that is none", said(200, "<html>"), shelves, cas.ErrUnavailable, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var hostile atomic.Bool
			var n atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if hostile.Load() {
					n.Add(1)
					c.answer(w, r)
					return
				}
				tame(w, r)
			}))
			defer server.Close()
			s := openS3(t, cas.S3Options{Endpoint: server.URL, Bucket: "blocks", AccessKey: "a", SecretKey: "top-secret", Rand: rand.Reader,
				Retry: cas.S3Retry{Min: time.Millisecond, Max: 20 * time.Millisecond, Try: 500 * time.Millisecond, Total: 1500 * time.Millisecond}})
			hostile.Store(true)
			err := c.do(s)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if c.most > 0 && n.Load() > c.most {
				t.Errorf("%d requests, %d are enough", n.Load(), c.most)
			}
			text := err.Error()
			if strings.Contains(text, "top-secret") || len(text) > 1000 || c.want != cas.ErrCorrupt && !strings.Contains(text, "blocks at "+server.URL) {
				t.Errorf("the error is %s", text)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Shelf(cas.ShelfID{1}).Put(ctx, block); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// One request that fails again and again pauses most of its time: others go
// meanwhile, also where only one may go at a time.
func TestS3PausesWithoutAPlace(t *testing.T) {
	blocks := castest.Blocks(1, 2, 1000)
	failed := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]; name {
		case fmt.Sprintf("%x", []byte(blocks[0].CID.Hash()[2:])):
			w.WriteHeader(503)
			failed <- struct{}{}
		case fmt.Sprintf("%x", []byte(blocks[1].CID.Hash()[2:])):
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
			w.Write(blocks[1].Data)
		default:
			tame(w, r)
		}
	}))
	defer server.Close()
	s := openS3(t, cas.S3Options{Endpoint: server.URL, Bucket: "blocks", AccessKey: "a", SecretKey: "b", Parallel: 1,
		Retry: cas.S3Retry{Min: time.Hour, Max: time.Hour, Total: 2 * time.Hour}})
	pausing, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := s.Shelf(cas.ShelfID{1}).Get(pausing, blocks[0].CID); done <- err }()
	<-failed
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if b, err := s.Shelf(cas.ShelfID{1}).Get(ctx, blocks[1].CID); err != nil || !bytes.Equal(b, blocks[1].Data) {
		t.Error(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Two nodes put one block: neither may tear what the other has written.
func TestS3PutsOnlyWhatIsNotThere(t *testing.T) {
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.Method != "PUT" || !strings.Contains(r.URL.Path, "/shelves/") {
			tame(w, r)
			return
		}
		n.Add(1)
		if got := r.Header.Get("If-None-Match"); got != "*" {
			t.Errorf("a block is put with If-None-Match %q", got)
		}
		w.Header().Set("ETag", `"0123456789abcdef0123456789abcdef"`)
	}))
	defer server.Close()
	s := openS3(t, cas.S3Options{Endpoint: server.URL, Bucket: "blocks", AccessKey: "a", SecretKey: "b"})
	fine(t, s.Shelf(cas.ShelfID{1}).Put(t.Context(), castest.Blocks(1, 5, 1000)...))
	if n.Load() != 5 {
		t.Errorf("%d of 5 blocks were put", n.Load())
	}
}

// The answer to a write that had its effect is lost: the write is tried again,
// finds its own work, and is no conflict.
func TestS3AnswerIsLost(t *testing.T) {
	server := s3test.Start(t)
	way := &losing{RoundTripper: http.DefaultTransport}
	o := s3Options(server, server.Bucket("blocks", false), "")
	o.Transport = way
	o.Retry.Min = time.Millisecond
	s := openS3(t, o)
	c, shelf := s.Cabinet(), s.Shelf(cas.ShelfID{1})
	block := castest.Blocks(1, 1, 1000)[0]
	for _, write := range []struct {
		name string
		do   func() error
		got  func() ([]byte, error)
		want string
	}{
		{"Put", func() error { return shelf.Put(t.Context(), block) }, func() ([]byte, error) { return shelf.Get(t.Context(), block.CID) }, string(block.Data)},
		{"CreateNew", func() error { return c.CreateNew(t.Context(), "one", []byte("first")) }, func() ([]byte, error) { return c.Read(t.Context(), "one") }, "first"},
		{"Replace", func() error { return c.Replace(t.Context(), "one", []byte("first"), []byte("second")) }, func() ([]byte, error) { return c.Read(t.Context(), "one") }, "second"},
	} {
		way.lose.Store(true)
		if err := write.do(); err != nil {
			t.Errorf("%s: %v", write.name, err)
		}
		if way.lose.Load() {
			t.Errorf("%s: no answer was lost", write.name)
		}
		if b, err := write.got(); err != nil || string(b) != write.want {
			t.Errorf("%s: %q, %v", write.name, b, err)
		}
	}
}

// losing is a network on which the answer to the next PUT is lost.
type losing struct {
	http.RoundTripper
	lose atomic.Bool
}

func (l *losing) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := l.RoundTripper.RoundTrip(r)
	if err == nil && r.Method == "PUT" && l.lose.CompareAndSwap(true, false) {
		res.Body.Close()
		return nil, io.ErrUnexpectedEOF
	}
	return res, err
}

// tame answers as an object store does while a store is opened.
func tame(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Query().Has("versioning"):
		io.WriteString(w, `<VersioningConfiguration/>`)
	case r.URL.Query().Has("object-lock"):
		w.WriteHeader(404)
		io.WriteString(w, `<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>`)
	case r.Method == "GET":
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		io.WriteString(w, "priormesh bucket 1\n")
	default:
		w.WriteHeader(412)
		io.WriteString(w, `<Error><Code>PreconditionFailed</Code></Error>`)
	}
}

func TestS3MustKnowConditions(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			w.Header().Set("ETag", `"x"`)
			return // as if it had written
		}
		tame(w, r)
	}))
	defer server.Close()
	s, err := cas.OpenS3(t.Context(), cas.S3Options{Endpoint: server.URL, Bucket: "blocks", AccessKey: "a", SecretKey: "b"})
	if !errors.Is(err, cas.ErrBucket) || !strings.Contains(err.Error(), "If-None-Match") {
		t.Error(err)
	}
	if s != nil {
		s.Close()
	}
}

func fine(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
