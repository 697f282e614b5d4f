// Package castest is the contract of cas.Store as one test suite that every
// backend passes.
package castest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
)

// Backend is what the suite runs against. The stores it opens close
// themselves at the end of the test.
type Backend struct {
	// Open opens an empty store.
	Open func(t *testing.T) cas.Store
	// Reopen closes a store and opens what it left behind. Optional: only
	// what keeps blocks beyond its life has it.
	Reopen func(t *testing.T, s cas.Store) cas.Store
	// Corrupt damages the kept bytes of a block on a shelf and returns the
	// store that then has them, which may be another one. Optional.
	Corrupt func(t *testing.T, s cas.Store, shelf cas.ShelfID, b cas.Block) cas.Store
	// Slow says that every call goes over a network: tests of many blocks use
	// fewer.
	Slow bool
}

// many is how many blocks a test uses that uses many.
func (b Backend) many(n int) int {
	if b.Slow {
		return n / 6
	}
	return n
}

// Run checks the whole contract.
func Run(t *testing.T, b Backend) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Backend)
	}{
		{"get returns what was put", putGet},
		{"what is not held is not found", notFound},
		{"put again changes nothing", idempotence},
		{"put refuses what is no block", refusals},
		{"delete forgets", deletes},
		{"enumerate is ordered and exact", enumerate},
		{"enumerate begins behind a block", enumerateAfter},
		{"enumerate stops when told", enumerateStops},
		{"enumerate while others write", enumerateWhileWriting},
		{"enumerate lets its caller delete", enumerateDeleting},
		{"slices are not shared", aliasing},
		{"cancelled contexts", cancelled},
		{"cancelling never half-acknowledges", cancelling},
		{"concurrent writers", concurrent},
		{"writers and deleters of one block", contention},
		{"many small blocks at once", manySmall},
		{"many large blocks at once", manyLarge},
		{"reopen", reopen},
		{"corruption", corruption},
		{"shelves are apart", apart},
		{"shelves are listed in order", shelves},
		{"listing shelves begins behind one and stops when told", shelvesAfter},
		{"shelves may be dropped while they are listed", shelvesDropping},
		{"drop forgets one shelf", drop},
		{"drop while others write", dropWhileWriting},
		{"size counts", size},
		{"corruption on one of two shelves", corruptionApart},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, b) })
	}
}

// Blocks makes n different blocks of a size, the same ones for the same seed.
// Their bytes are random, not sealed: a store does not look inside.
func Blocks(seed uint64, n, size int) []cas.Block {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	rnd := rand.NewChaCha8(key)
	blocks := make([]cas.Block, n)
	for i := range blocks {
		data := make([]byte, size)
		rnd.Read(data)
		blocks[i] = cas.Block{CID: cas.Sum(data), Data: data}
	}
	return blocks
}

func putGet(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	for i, size := range []int{1, 30, 1000, 1023, 1024, 1025, 65536, cas.MaxBlock - 1, cas.MaxBlock} {
		block := Blocks(uint64(i), 1, size)[0]
		must(t, s.Put(ctx, block))
		holds(t, s, block)
	}
	must(t, s.Put(ctx))
}

func notFound(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	must(t, s.Put(ctx, Blocks(1, 1, 100)...))
	foreign := cid.NewCidV1(cid.DagProtobuf, Blocks(1, 1, 100)[0].CID.Hash())
	for name, c := range map[string]cid.Cid{
		"another block": Blocks(2, 1, 100)[0].CID,
		"another codec": foreign,
		"version 0":     cid.NewCidV0(foreign.Hash()),
		"undefined":     cid.Undef,
	} {
		if _, err := s.Get(ctx, c); !errors.Is(err, cas.ErrNotFound) {
			t.Errorf("Get of %s: %v, want ErrNotFound", name, err)
		}
		if has, err := s.Has(ctx, c); has || err != nil {
			t.Errorf("Has of %s: %v, %v", name, has, err)
		}
		must(t, s.Delete(ctx, c))
	}
	holds(t, s, Blocks(1, 1, 100)[0])
}

func idempotence(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	blocks := Blocks(1, 5, 2000)
	must(t, s.Put(ctx, append(slices.Clone(blocks), blocks...)...))
	must(t, s.Put(ctx, blocks...))
	holds(t, s, blocks...)
	enumerates(t, s, blocks)
}

func refusals(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	good := Blocks(1, 1, 100)[0]
	large := Blocks(2, 1, cas.MaxBlock+1)[0]
	for _, c := range []struct {
		name  string
		block cas.Block
		want  error
	}{
		{"too large", large, cas.ErrTooLarge},
		{"empty", cas.Block{CID: cas.Sum(nil)}, cas.ErrTruncated},
		{"undefined address", cas.Block{Data: good.Data}, cas.ErrBadCID},
		{"another codec", cas.Block{CID: cid.NewCidV1(cid.DagCBOR, good.CID.Hash()), Data: good.Data}, cas.ErrBadCID},
	} {
		if err := s.Put(ctx, good, c.block); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	must(t, s.Put(ctx, good))
	enumerates(t, s, []cas.Block{good})
}

func deletes(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	blocks := append(Blocks(1, 3, 500), Blocks(2, 3, 5000)...)
	must(t, s.Put(ctx, blocks...))
	must(t, s.Delete(ctx, blocks[0].CID, blocks[5].CID, Blocks(3, 1, 10)[0].CID))
	lacks(t, s, blocks[0], blocks[5])
	enumerates(t, s, blocks[1:5])
	must(t, s.Delete(ctx, blocks[0].CID))
	must(t, s.Delete(ctx))
	must(t, s.Put(ctx, blocks[0]))
	enumerates(t, s, blocks[:5])
	if b.Reopen != nil {
		s = shelved(b.Reopen(t, s.store))
		lacks(t, s, blocks[5])
		enumerates(t, s, blocks[:5])
	}
}

func enumerate(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	enumerates(t, s, nil)
	var blocks []cas.Block
	for i, size := range []int{
		1, 127, 128, 129, 1023, 1024, 1025, 16382, 16383, 16384, 16385, 16386, 16387,
		65535, 65536, 1 << 19, cas.MaxBlock - 1, cas.MaxBlock,
	} {
		blocks = append(blocks, Blocks(uint64(i), 2, size)...)
	}
	must(t, s.Put(ctx, blocks...))
	enumerates(t, s, blocks)
}

func enumerateAfter(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	blocks := sorted(Blocks(1, 40, 50))
	must(t, s.Put(ctx, blocks...))
	after := func(c cid.Cid) (n int) {
		must(t, s.Enumerate(ctx, c, func(cid.Cid, int64) error { n++; return nil }))
		return n
	}
	for i, block := range blocks {
		if n := after(block.CID); n != 39-i {
			t.Errorf("%d blocks behind number %d, want %d", n, i, 39-i)
		}
	}
	must(t, s.Delete(ctx, blocks[10].CID))
	if n := after(blocks[10].CID); n != 29 {
		t.Errorf("%d blocks behind a deleted one, want 29", n)
	}
	err := s.Enumerate(ctx, cid.NewCidV1(cid.DagCBOR, blocks[0].CID.Hash()), func(cid.Cid, int64) error { return nil })
	if !errors.Is(err, cas.ErrBadCID) {
		t.Errorf("behind a foreign address: %v, want ErrBadCID", err)
	}
}

func enumerateStops(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	must(t, s.Put(ctx, Blocks(1, 10, 50)...))
	stop, n := errors.New("enough"), 0
	err := s.Enumerate(ctx, cid.Undef, func(cid.Cid, int64) error {
		if n++; n == 4 {
			return stop
		}
		return nil
	})
	if err != stop || n != 4 {
		t.Errorf("stopped after %d with %v", n, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	n = 0
	err = s.Enumerate(ctx, cid.Undef, func(cid.Cid, int64) error { n++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || n == 10 {
		t.Errorf("cancelled after %d with %v", n, err)
	}
}

func enumerateWhileWriting(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	stay, come, gone := Blocks(1, b.many(3000), 40), Blocks(2, b.many(500), 40), Blocks(3, b.many(500), 40)
	must(t, s.Put(ctx, append(slices.Clone(stay), gone...)...))
	var writers sync.WaitGroup
	started := make(chan struct{})
	writers.Go(func() {
		<-started
		for i := range come {
			if err := s.Put(ctx, come[i]); err != nil {
				t.Error(err)
			}
			if err := s.Delete(ctx, gone[i].CID); err != nil {
				t.Error(err)
			}
		}
	})
	seen := map[cid.Cid]int{}
	var last cid.Cid
	must(t, s.Enumerate(ctx, cid.Undef, func(c cid.Cid, _ int64) error {
		if len(seen) == 0 {
			close(started)
		}
		if seen[c]++; len(seen) > 1 && digest(c) <= digest(last) {
			t.Errorf("%s comes behind %s", c, last)
		}
		last = c
		return nil
	}))
	writers.Wait()
	for _, block := range stay {
		if seen[block.CID] != 1 {
			t.Fatalf("a block that stayed was seen %d times", seen[block.CID])
		}
	}
	for c, n := range seen {
		if n > 1 {
			t.Errorf("%s was seen %d times", c, n)
		}
	}
	enumerates(t, s, append(slices.Clone(stay), come...))
}

func enumerateDeleting(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	must(t, s.Put(ctx, Blocks(1, 50, 60)...))
	must(t, s.Enumerate(ctx, cid.Undef, func(c cid.Cid, _ int64) error { return s.Delete(ctx, c) }))
	enumerates(t, s, nil)
}

func aliasing(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	for _, size := range []int{100, 5000} {
		block := Blocks(1, 1, size)[0]
		want := bytes.Clone(block.Data)
		must(t, s.Put(ctx, block))
		clear(block.Data)
		got, err := s.Get(ctx, block.CID)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatal("the store keeps the slice it was given")
		}
		clear(got)
		_ = append(got, 1, 2, 3)
		if got, err = s.Get(ctx, block.CID); err != nil || !bytes.Equal(got, want) {
			t.Fatal("the store gives out what it keeps")
		}
	}
}

func cancelled(t *testing.T, b Backend) {
	s := open(t, b)
	there, new := Blocks(1, 1, 100)[0], Blocks(2, 1, 100)[0]
	must(t, s.Put(t.Context(), there))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, there.CID)
	_, hasErr := s.Has(ctx, there.CID)
	for name, err := range map[string]error{
		"Put":       s.Put(ctx, new),
		"Get":       getErr,
		"Has":       hasErr,
		"Delete":    s.Delete(ctx, there.CID),
		"Enumerate": s.Enumerate(ctx, cid.Undef, func(cid.Cid, int64) error { return nil }),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	enumerates(t, s, []cas.Block{there})
}

func cancelling(t *testing.T, b Backend) {
	s := open(t, b)
	blocks := Blocks(1, 200, 3000)
	acked := make([]bool, len(blocks))
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := w; i < len(blocks); i += 4 {
				ctx, cancel := context.WithCancel(t.Context())
				go cancel()
				data := bytes.Clone(blocks[i].Data)
				err := s.Put(ctx, cas.Block{CID: blocks[i].CID, Data: data})
				clear(data)
				if acked[i] = err == nil; err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	writers.Wait()
	for i, block := range blocks {
		has, err := s.Has(t.Context(), block.CID)
		must(t, err)
		if acked[i] && !has {
			t.Fatal("an acknowledged block is missing")
		}
		if has {
			holds(t, s, block)
		}
	}
}

func concurrent(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	blocks := append(Blocks(1, b.many(200), 300), Blocks(2, b.many(100), 20_000)...)
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 0))
			for _, i := range rnd.Perm(len(blocks)) {
				if err := s.Put(ctx, blocks[i], blocks[(i+1)%len(blocks)]); err != nil {
					t.Error(err)
				}
				if got, err := s.Get(ctx, blocks[i].CID); err != nil || !bytes.Equal(got, blocks[i].Data) {
					t.Errorf("just put, now %d bytes, %v", len(got), err)
				}
			}
		})
	}
	workers.Wait()
	enumerates(t, s, blocks)
}

func contention(t *testing.T, b Backend) {
	s, ctx := open(t, b), t.Context()
	block := Blocks(1, 1, 2000)[0]
	var busy atomic.Int32
	var workers sync.WaitGroup
	for w := range 4 {
		busy.Add(1)
		workers.Go(func() {
			defer busy.Add(-1)
			for i := range 25 {
				var err error
				if (i+w)%2 == 0 {
					err = s.Put(ctx, block)
				} else {
					err = s.Delete(ctx, block.CID)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Go(func() {
		for busy.Load() > 0 {
			got, err := s.Get(ctx, block.CID)
			if err == nil && !bytes.Equal(got, block.Data) || err != nil && !errors.Is(err, cas.ErrNotFound) {
				t.Errorf("%d bytes, %v", len(got), err)
				return
			}
		}
	})
	workers.Wait()
	must(t, s.Put(ctx, block))
	enumerates(t, s, []cas.Block{block})
}

func manySmall(t *testing.T, b Backend) {
	s := open(t, b)
	n := b.many(9000)
	blocks := append(Blocks(1, n, 64), Blocks(2, n/9, 1200)...)
	must(t, s.Put(t.Context(), blocks...))
	holds(t, s, blocks[0], blocks[n-1], blocks[len(blocks)-1])
	enumerates(t, s, blocks)
}

func manyLarge(t *testing.T, b Backend) {
	s := open(t, b)
	blocks := Blocks(1, 64, cas.MaxBlock)
	must(t, s.Put(t.Context(), blocks...))
	holds(t, s, blocks...)
	enumerates(t, s, blocks)
}

func reopen(t *testing.T, b Backend) {
	if b.Reopen == nil {
		t.Skip("this backend keeps nothing beyond its life")
	}
	s := open(t, b)
	var all []cas.Block
	for i, size := range []int{50, 1500, 70_000, cas.MaxBlock} {
		blocks := Blocks(uint64(i), 5, size)
		must(t, s.Put(t.Context(), blocks...))
		all = append(all, blocks...)
		s = shelved(b.Reopen(t, s.store))
		holds(t, s, all...)
	}
	enumerates(t, s, all)
}

func corruption(t *testing.T, b Backend) {
	if b.Corrupt == nil {
		t.Skip("this backend's bytes cannot be reached")
	}
	s, ctx := open(t, b), t.Context()
	blocks := Blocks(1, 3, 9000)
	must(t, s.Put(ctx, blocks...))
	s = shelved(b.Corrupt(t, s.store, s.id, blocks[1]))
	if got, err := s.Get(ctx, blocks[1].CID); !errors.Is(err, cas.ErrCorrupt) || got != nil {
		t.Fatalf("a damaged block gives %d bytes and %v, want ErrCorrupt", len(got), err)
	}
	if has, err := s.Has(ctx, blocks[1].CID); !has || err != nil {
		t.Fatalf("a damaged block is still known, so that its damage can be named: %v, %v", has, err)
	}
	holds(t, s, blocks[0], blocks[2])
	enumerates(t, s, blocks)
	must(t, s.Put(ctx, blocks[1]))
	holds(t, s, blocks...)
	if b.Reopen != nil {
		s = shelved(b.Reopen(t, s.store))
		holds(t, s, blocks...)
	}
}

// corruptionApart damages a block on one shelf; the same block on another is
// not what mends it, nor is it harmed.
func corruptionApart(t *testing.T, b Backend) {
	if b.Corrupt == nil {
		t.Skip("this backend's bytes cannot be reached")
	}
	s, ctx := b.Open(t), t.Context()
	block := Blocks(1, 1, 9000)[0]
	must(t, s.Shelf(cas.ShelfID{1}).Put(ctx, block))
	must(t, s.Shelf(cas.ShelfID{2}).Put(ctx, block))
	s = b.Corrupt(t, s, cas.ShelfID{2}, block)
	holds(t, s.Shelf(cas.ShelfID{1}), block)
	must(t, s.Shelf(cas.ShelfID{1}).Put(ctx, block))
	if got, err := s.Shelf(cas.ShelfID{2}).Get(ctx, block.CID); !errors.Is(err, cas.ErrCorrupt) || got != nil {
		t.Fatalf("a damaged block gives %d bytes and %v, want ErrCorrupt", len(got), err)
	}
	must(t, s.Shelf(cas.ShelfID{2}).Delete(ctx, block.CID))
	lacks(t, s.Shelf(cas.ShelfID{2}), block)
	holds(t, s.Shelf(cas.ShelfID{1}), block)
}

func apart(t *testing.T, b Backend) {
	s, ctx := b.Open(t), t.Context()
	one, two := s.Shelf(cas.ShelfID{1}), s.Shelf(cas.ShelfID{2})
	blocks := Blocks(1, 4, 3000)
	must(t, one.Put(ctx, blocks[:3]...))
	must(t, two.Put(ctx, blocks[2:]...))
	holds(t, one, blocks[:3]...)
	lacks(t, one, blocks[3])
	holds(t, two, blocks[2:]...)
	lacks(t, two, blocks[:2]...)
	enumerates(t, one, blocks[:3])
	enumerates(t, two, blocks[2:])
	must(t, one.Delete(ctx, blocks[2].CID, blocks[3].CID))
	lacks(t, one, blocks[2])
	holds(t, two, blocks[2:]...)
	if b.Reopen != nil {
		s = b.Reopen(t, s)
		enumerates(t, s.Shelf(cas.ShelfID{1}), blocks[:2])
		enumerates(t, s.Shelf(cas.ShelfID{2}), blocks[2:])
	}
}

// someShelves are ids whose order is not the order in which they are made,
// among them the lowest and the highest that there are.
func someShelves() []cas.ShelfID {
	high := cas.ShelfID{}
	for i := range high {
		high[i] = 0xff
	}
	return []cas.ShelfID{{9}, high, {0, 1}, {3, 0xff}, {}, {3}, {4}}
}

func listShelves(t *testing.T, s cas.Store, after cas.ShelfID) (ids []cas.ShelfID) {
	t.Helper()
	must(t, s.Shelves(t.Context(), after, func(id cas.ShelfID) error { ids = append(ids, id); return nil }))
	return ids
}

func shelves(t *testing.T, b Backend) {
	s, ctx := b.Open(t), t.Context()
	if got := listShelves(t, s, cas.ShelfID{}); len(got) != 0 {
		t.Fatalf("an empty store has shelves %v", got)
	}
	block := Blocks(1, 1, 100)[0]
	want := someShelves()
	for _, id := range want {
		must(t, s.Shelf(id).Put(ctx, block))
	}
	s.Shelf(cas.ShelfID{7}) // has no block
	slices.SortFunc(want, func(a, b cas.ShelfID) int { return bytes.Compare(a[:], b[:]) })
	if got := listShelves(t, s, cas.ShelfID{}); !slices.Equal(got, want) {
		t.Fatalf("shelves\n got %v\nwant %v", got, want)
	}
	must(t, s.Shelf(want[2]).Delete(ctx, block.CID))
	want = slices.Delete(want, 2, 3)
	if got := listShelves(t, s, cas.ShelfID{}); !slices.Equal(got, want) {
		t.Fatalf("a shelf without blocks is listed:\n got %v\nwant %v", got, want)
	}
	if b.Reopen != nil {
		if got := listShelves(t, b.Reopen(t, s), cas.ShelfID{}); !slices.Equal(got, want) {
			t.Fatalf("shelves after opening again\n got %v\nwant %v", got, want)
		}
	}
}

func shelvesAfter(t *testing.T, b Backend) {
	s, ctx := b.Open(t), t.Context()
	block := Blocks(1, 1, 100)[0]
	all := someShelves()
	for _, id := range all {
		must(t, s.Shelf(id).Put(ctx, block))
	}
	slices.SortFunc(all, func(a, b cas.ShelfID) int { return bytes.Compare(a[:], b[:]) })
	for i, id := range all {
		if id == (cas.ShelfID{}) {
			continue
		}
		if got := listShelves(t, s, id); !slices.Equal(got, all[i+1:]) {
			t.Errorf("behind %v: %v, want %v", id, got, all[i+1:])
		}
	}
	if got := listShelves(t, s, cas.ShelfID{3, 1}); !slices.Equal(got, all[3:]) {
		t.Errorf("behind an id without a shelf: %v, want %v", got, all[3:])
	}
	stop, n := errors.New("enough"), 0
	err := s.Shelves(ctx, cas.ShelfID{}, func(cas.ShelfID) error {
		if n++; n == 2 {
			return stop
		}
		return nil
	})
	if err != stop || n != 2 {
		t.Errorf("stopped after %d with %v", n, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Shelves(ctx, cas.ShelfID{}, func(cas.ShelfID) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := s.Drop(ctx, all[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("drop, cancelled: %v", err)
	}
	if _, _, err := s.Shelf(all[0]).Size(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("size, cancelled: %v", err)
	}
}

func shelvesDropping(t *testing.T, b Backend) {
	s, ctx := b.Open(t), t.Context()
	block := Blocks(1, 1, 100)[0]
	for _, id := range someShelves() {
		must(t, s.Shelf(id).Put(ctx, block))
	}
	n := 0
	must(t, s.Shelves(ctx, cas.ShelfID{}, func(id cas.ShelfID) error { n++; return s.Drop(ctx, id) }))
	if left := listShelves(t, s, cas.ShelfID{}); n != len(someShelves()) || len(left) != 0 {
		t.Fatalf("%d shelves were listed, %v are left", n, left)
	}
}

func drop(t *testing.T, b Backend) {
	s, ctx := b.Open(t), t.Context()
	stay, gone := s.Shelf(cas.ShelfID{1}), s.Shelf(cas.ShelfID{2})
	n := b.many(1500)
	blocks := append(Blocks(1, n, 60), Blocks(2, 3, 70_000)...)
	must(t, stay.Put(ctx, blocks...))
	must(t, gone.Put(ctx, blocks...))
	must(t, s.Drop(ctx, cas.ShelfID{2}))
	must(t, s.Drop(ctx, cas.ShelfID{3})) // has nothing
	check := func() {
		t.Helper()
		enumerates(t, s.Shelf(cas.ShelfID{2}), nil)
		lacks(t, s.Shelf(cas.ShelfID{2}), blocks[0], blocks[n+2])
		enumerates(t, s.Shelf(cas.ShelfID{1}), blocks)
		holds(t, s.Shelf(cas.ShelfID{1}), blocks[0], blocks[n+1])
		if ids := listShelves(t, s, cas.ShelfID{}); !slices.Equal(ids, []cas.ShelfID{{1}}) {
			t.Fatalf("shelves %v", ids)
		}
	}
	check()
	if b.Reopen != nil {
		s = b.Reopen(t, s)
		check()
	}
	must(t, s.Shelf(cas.ShelfID{2}).Put(ctx, blocks[0]))
	enumerates(t, s.Shelf(cas.ShelfID{2}), blocks[:1])
}

func dropWhileWriting(t *testing.T, b Backend) {
	s, ctx := b.Open(t), t.Context()
	stay, gone := s.Shelf(cas.ShelfID{1}), s.Shelf(cas.ShelfID{2})
	before, others, into := Blocks(1, b.many(600), 300), Blocks(2, 60, 3000), Blocks(3, 60, 3000)
	must(t, stay.Put(ctx, before...))
	must(t, gone.Put(ctx, before...))
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := w; i < len(others); i += 3 {
				if err := errors.Join(stay.Put(ctx, others[i]), gone.Put(ctx, into[i])); err != nil {
					t.Error(err)
				}
			}
		})
	}
	must(t, s.Drop(ctx, cas.ShelfID{2}))
	lacks(t, gone, before...)
	writers.Wait()
	enumerates(t, stay, append(slices.Clone(before), others...))
	// What came while the shelf was dropped is there whole, or not at all.
	for _, block := range into {
		has, err := gone.Has(ctx, block.CID)
		must(t, err)
		if has {
			holds(t, gone, block)
		}
	}
	must(t, s.Drop(ctx, cas.ShelfID{2}))
	enumerates(t, gone, nil)
	enumerates(t, stay, append(slices.Clone(before), others...))
}

func size(t *testing.T, b Backend) {
	s, ctx := b.Open(t), t.Context()
	check := func(id cas.ShelfID, blocks []cas.Block) {
		t.Helper()
		var want int64
		for _, b := range blocks {
			want += int64(len(b.Data))
		}
		if n, bytes, err := s.Shelf(id).Size(ctx); n != len(blocks) || bytes != want || err != nil {
			t.Fatalf("shelf %v has %d blocks, %d bytes, %v; want %d, %d", id, n, bytes, err, len(blocks), want)
		}
	}
	one, two := cas.ShelfID{1}, cas.ShelfID{2}
	blocks := append(Blocks(1, 5, 100), Blocks(2, 5, 20_000)...)
	check(one, nil)
	must(t, s.Shelf(one).Put(ctx, blocks...))
	must(t, s.Shelf(one).Put(ctx, append(slices.Clone(blocks[:3]), blocks[:3]...)...))
	check(one, blocks)
	must(t, s.Shelf(two).Put(ctx, blocks[8:]...))
	check(two, blocks[8:])
	must(t, s.Shelf(one).Delete(ctx, blocks[9].CID, blocks[9].CID, Blocks(3, 1, 10)[0].CID))
	must(t, s.Shelf(one).Delete(ctx, blocks[9].CID))
	check(one, blocks[:9])
	check(two, blocks[8:])
	if b.Reopen != nil {
		s = b.Reopen(t, s)
		check(one, blocks[:9])
		check(two, blocks[8:])
	}
	must(t, s.Drop(ctx, one))
	check(one, nil)
	check(two, blocks[8:])
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, s cas.Shelf, blocks ...cas.Block) {
	t.Helper()
	for _, b := range blocks {
		got, err := s.Get(t.Context(), b.CID)
		if err != nil || !bytes.Equal(got, b.Data) {
			t.Fatalf("%s: %d bytes, %v; want %d bytes", b.CID, len(got), err, len(b.Data))
		}
		if has, err := s.Has(t.Context(), b.CID); !has || err != nil {
			t.Fatalf("Has %s: %v, %v", b.CID, has, err)
		}
	}
}

func lacks(t *testing.T, s cas.Shelf, blocks ...cas.Block) {
	t.Helper()
	for _, b := range blocks {
		if has, err := s.Has(t.Context(), b.CID); has || err != nil {
			t.Fatalf("Has %s: %v, %v", b.CID, has, err)
		}
		if _, err := s.Get(t.Context(), b.CID); !errors.Is(err, cas.ErrNotFound) {
			t.Fatalf("Get %s: %v", b.CID, err)
		}
	}
}

// enumerates says the store holds exactly these blocks, and lists them in order.
func enumerates(t *testing.T, s cas.Shelf, want []cas.Block) {
	t.Helper()
	var got []string
	must(t, s.Enumerate(t.Context(), cid.Undef, func(c cid.Cid, size int64) error {
		got = append(got, fmt.Sprint(c, " ", size))
		return nil
	}))
	var list []string
	for _, b := range sorted(want) {
		list = append(list, fmt.Sprint(b.CID, " ", len(b.Data)))
	}
	if !slices.Equal(got, list) {
		for i := range max(len(got), len(list)) {
			if i >= len(got) || i >= len(list) || got[i] != list[i] {
				t.Fatalf("enumerated %d blocks, want %d; they differ from number %d on:\n got %q\nwant %q", len(got), len(list), i,
					got[min(i, len(got)):min(i+1, len(got))], list[min(i, len(list)):min(i+1, len(list))])
			}
		}
	}
}

func sorted(blocks []cas.Block) []cas.Block {
	return slices.SortedFunc(slices.Values(blocks), func(a, b cas.Block) int { return cmp.Compare(digest(a.CID), digest(b.CID)) })
}

func digest(c cid.Cid) string { return string(c.Hash()) }

// kept is one shelf of a store.
type kept struct {
	cas.Shelf
	store cas.Store
	id    cas.ShelfID
}

func open(t *testing.T, b Backend) kept { return shelved(b.Open(t)) }

func shelved(s cas.Store) kept {
	id := cas.ShelfID{1}
	return kept{s.Shelf(id), s, id}
}
