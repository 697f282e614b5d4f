package cas

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// S3 is a Store in a bucket of an S3 object store. Several processes may use
// one bucket and prefix at the same time.
type S3 struct {
	s3client
	mu  sync.Mutex
	bad map[badBlock]struct{}
}

// badBlock is a block that Get found corrupt: Put replaces it.
type badBlock struct {
	shelf  ShelfID
	digest [sha256.Size]byte
}

// maxBad bounds how many corrupt blocks are remembered. What is forgotten is
// found again by the next Get.
const maxBad = 1 << 16

// Names in the bucket, behind the prefix; doc.go gives the layout.
const (
	s3Format  = "format"
	s3Shelves = "shelves/"
	s3Keys    = "keys/"

	s3FormatText = "priormesh bucket 1\n"
)

// OpenS3 opens the store in a bucket, or makes it unless the options say that
// it must be there. It refuses a bucket that would keep what is erased, or in
// which two nodes could tear each other's writes.
func OpenS3(ctx context.Context, o S3Options) (*S3, error) {
	c, err := newS3client(o)
	if err != nil {
		return nil, err
	}
	s := &S3{s3client: *c, bad: make(map[badBlock]struct{})}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *S3) open(ctx context.Context) error {
	if err := s.erasable(ctx); err != nil {
		return err
	}
	key := s.prefix + s3Format
	have, err := s.read(ctx, key, maxValue)
	if errors.Is(err, fs.ErrNotExist) {
		if s.o.Existing {
			return s.unfit("there is no store in it, though this node has kept studies there: look whether endpoint, bucket and prefix are right")
		}
		if err := s.list(ctx, s.prefix, "", true, func(string, int64) error {
			return s.unfit("it holds other things and no store: choose an empty bucket or another prefix")
		}); err != nil {
			return err
		}
		if err = s.write(ctx, key, []byte(s3FormatText), condition{create: true}); errors.Is(err, fs.ErrExist) {
			err = nil // another node was faster
		}
		have = []byte(s3FormatText)
	}
	if err != nil {
		return err
	}
	if string(have) != s3FormatText {
		if bytes.HasPrefix(have, []byte("priormesh bucket ")) {
			return fmt.Errorf("%w: the store in bucket %s is a %q; update this node", ErrVersion, s.o.Bucket, strings.TrimSpace(string(have)))
		}
		return s.unfit("what it says about its format is not ours: choose an empty bucket or another prefix")
	}
	// The same bytes again, so that it does no harm if it is let through.
	if err := s.write(ctx, key, []byte(s3FormatText), condition{create: true}); !errors.Is(err, fs.ErrExist) {
		if err != nil {
			return err
		}
		return s.unfit("its object store passes over If-None-Match, so that two nodes could overwrite each other: use another, or a newer version of it")
	}
	return nil
}

// Shelf implements Store.
func (s *S3) Shelf(id ShelfID) Shelf { return s3Shelf{s, id} }

// Shelves implements Store.
func (s *S3) Shelves(ctx context.Context, after ShelfID, fn func(ShelfID) error) error {
	prefix := s.prefix + s3Shelves
	from := ""
	if after != (ShelfID{}) {
		from = prefix + after.String() + "0" // behind all that begins with the shelf and "/"
	}
	return s.list(ctx, prefix, from, false, func(name string, _ int64) error {
		id, err := hex.DecodeString(strings.TrimSuffix(strings.TrimPrefix(name, prefix), "/"))
		if err != nil || len(id) != len(ShelfID{}) || !strings.HasSuffix(name, "/") {
			return nil // not ours
		}
		return fn(ShelfID(id))
	})
}

// Drop implements Store.
func (s *S3) Drop(ctx context.Context, id ShelfID) error {
	if err := s.erasable(ctx); err != nil {
		return err
	}
	return s.destroyAll(ctx, s.shelfPrefix(id))
}

func (s *S3) shelfPrefix(id ShelfID) string { return s.prefix + s3Shelves + id.String() + "/" }

// Close cuts off what is under way, which is then ErrClosed, and waits until it
// has ended. It may be called twice.
func (s *S3) Close() error {
	s.close()
	return nil
}

// noteBad remembers or forgets that a block is corrupt.
func (s *S3) noteBad(b badBlock, bad bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bad {
		delete(s.bad, b)
	} else if len(s.bad) < maxBad {
		s.bad[b] = struct{}{}
	}
}

func (s *S3) isBad(b badBlock) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, bad := s.bad[b]
	return bad
}

type s3Shelf struct {
	s  *S3
	id ShelfID
}

func (h s3Shelf) key(digest [sha256.Size]byte) string {
	return h.s.shelfPrefix(h.id) + hex.EncodeToString(digest[:])
}

// Get implements Getter. What comes from a bucket comes from outside: it is
// hashed.
func (h s3Shelf) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	digest, err := digestOf(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	}
	b, err := h.s.read(ctx, h.key(digest), MaxBlock)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s", ErrNotFound, c)
	case errors.Is(err, ErrTooLarge):
		err = fmt.Errorf("%w: %s: %w", ErrCorrupt, c, err)
	case err != nil:
		return nil, err
	case sha256.Sum256(b) != digest:
		err = corrupt(c, "what the bucket gives has not its SHA-256")
	}
	if err != nil {
		h.s.noteBad(badBlock{h.id, digest}, true)
		return nil, err
	}
	return b, nil
}

// Has implements Shelf.
func (h s3Shelf) Has(ctx context.Context, c cid.Cid) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	digest, err := digestOf(c)
	if err != nil {
		return false, nil
	}
	return h.s.has(ctx, h.key(digest))
}

// Put implements Putter. The blocks go side by side.
func (h s3Shelf) Put(ctx context.Context, blocks ...Block) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	digests, err := admit(blocks)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(h.s.o.Parallel)
	seen := make(map[[sha256.Size]byte]bool, len(blocks))
	for i, b := range blocks {
		if seen[digests[i]] {
			continue
		}
		seen[digests[i]] = true
		// A request that is given up may go on reading its body.
		g.Go(func() error { return h.put(gctx, digests[i], bytes.Clone(b.Data)) })
	}
	err = g.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (h s3Shelf) put(ctx context.Context, digest [sha256.Size]byte, data []byte) error {
	key, b := h.key(digest), badBlock{h.id, digest}
	if !h.s.isBad(b) {
		err := h.s.write(ctx, key, data, condition{create: true})
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if sound, err := h.sound(ctx, key, digest, data); sound || err != nil {
			return err
		}
	}
	err := h.s.write(ctx, key, data, condition{})
	if err == nil {
		h.s.noteBad(b, false)
	}
	return err
}

// sound says whether what is there already is what should be. Size and, where
// the object store makes one of it, MD5 tell that without reading it; if they
// do not fit it is read. That the bytes have changed under an object store that
// does not notice is found by Get.
func (h s3Shelf) sound(ctx context.Context, key string, digest [sha256.Size]byte, data []byte) (bool, error) {
	size, etag, err := h.s.stat(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // deleted just now
	}
	if err != nil {
		return false, err
	}
	sum := md5.Sum(data)
	if size == int64(len(data)) && etag == hex.EncodeToString(sum[:]) {
		return true, nil
	}
	b, err := h.s.read(ctx, key, MaxBlock)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrTooLarge) {
		return false, nil
	}
	return err == nil && sha256.Sum256(b) == digest, err
}

// Delete implements Shelf.
func (h s3Shelf) Delete(ctx context.Context, cids ...cid.Cid) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := h.s.erasable(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(h.s.o.Parallel)
	for _, c := range cids {
		digest, err := digestOf(c)
		if err != nil {
			continue // nothing is held under it
		}
		g.Go(func() error { return h.s.remove(gctx, h.key(digest)) })
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Enumerate implements Shelf.
func (h s3Shelf) Enumerate(ctx context.Context, after cid.Cid, fn func(cid.Cid, int64) error) error {
	begin, err := cursor(after)
	if err != nil {
		return err
	}
	prefix := h.s.shelfPrefix(h.id)
	from := ""
	if begin != nil {
		from = prefix + hex.EncodeToString(begin)
	}
	return h.s.list(ctx, prefix, from, true, func(name string, size int64) error {
		digest, err := hex.DecodeString(strings.TrimPrefix(name, prefix))
		if err != nil || len(digest) != sha256.Size {
			return nil // not ours
		}
		return fn(cidOf([sha256.Size]byte(digest)), size)
	})
}

// Size implements Shelf.
func (h s3Shelf) Size(ctx context.Context) (blocks int, size int64, err error) {
	err = h.Enumerate(ctx, cid.Undef, func(_ cid.Cid, n int64) error {
		blocks++
		size += n
		return nil
	})
	return blocks, size, err
}

// Cabinet is where a Keyring may lie beside the blocks.
func (s *S3) Cabinet() Cabinet { return s3Cabinet{s} }

type s3Cabinet struct{ s *S3 }

func (c s3Cabinet) String() string { return c.s.String() }

func (c s3Cabinet) key(name string) string { return c.s.prefix + s3Keys + name }

// Read implements Cabinet.
func (c s3Cabinet) Read(ctx context.Context, name string) ([]byte, error) {
	return c.s.read(ctx, c.key(name), maxValue)
}

// CreateNew implements Cabinet.
func (c s3Cabinet) CreateNew(ctx context.Context, name string, value []byte) error {
	return c.conditional(ctx, name, value, condition{create: true})
}

// Replace implements Cabinet.
func (c s3Cabinet) Replace(ctx context.Context, name string, old, value []byte) error {
	_, etag, err := c.s.stat(ctx, c.key(name))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrReplaced
	}
	if err != nil {
		return err
	}
	have, err := c.Read(ctx, name)
	if err != nil {
		return err
	}
	// Whoever replaced it between the two has changed its tag.
	if bytes.Equal(have, old) {
		err = c.conditional(ctx, name, value, condition{replace: etag})
	}
	if !bytes.Equal(have, old) || errors.Is(err, fs.ErrExist) {
		return ErrReplaced
	}
	return err
}

// conditional writes under a condition. If that does not hold it may be because
// an earlier try of the same request had an effect and its answer was lost.
func (c s3Cabinet) conditional(ctx context.Context, name string, value []byte, cond condition) error {
	err := c.s.write(ctx, c.key(name), value, cond)
	if errors.Is(err, fs.ErrExist) {
		have, rerr := c.Read(ctx, name)
		if rerr == nil && bytes.Equal(have, value) {
			return nil
		}
	}
	return err
}

// Destroy implements Cabinet.
func (c s3Cabinet) Destroy(ctx context.Context, name string) error {
	if err := c.s.erasable(ctx); err != nil {
		return err
	}
	return c.s.remove(ctx, c.key(name))
}

// List implements Cabinet.
func (c s3Cabinet) List(ctx context.Context, prefix string, fn func(string) error) error {
	return c.s.list(ctx, c.key(prefix), "", true, func(name string, _ int64) error {
		return fn(strings.TrimPrefix(name, c.key("")))
	})
}
