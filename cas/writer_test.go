package cas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

const (
	groupHeader = iota
	groupFrame
	groupTrailer
)

// piece is bytes as a scanner would hand them to a Writer.
type piece struct {
	span Span
	data []byte
}

// instance makes header, frames and trailer of the given sizes.
func instance(seed uint64, header, trailer int, frames ...int) (pieces []piece) {
	add := func(group uint8, unit, n int) {
		if n > 0 {
			seed++
			pieces = append(pieces, piece{Span{group, unit}, noise(seed, n)})
		}
	}
	add(groupHeader, 0, header)
	for i, n := range frames {
		add(groupFrame, i, n)
	}
	add(groupTrailer, 0, trailer)
	return pieces
}

func plainOf(pieces []piece) (all []byte) {
	for _, p := range pieces {
		all = append(all, p.data...)
	}
	return all
}

func writeAll(t interface{ Fatal(...any) }, s Putter, k Key, pieces []piece) Written {
	w := NewWriter(context.Background(), s, k)
	defer w.Abort()
	for _, p := range pieces {
		if err := w.Write(p.span, p.data); err != nil {
			t.Fatal(err)
		}
	}
	got, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// shatter cuts pieces into smaller ones with the same spans.
func shatter(pieces []piece, rnd *rand.Rand, most int) (out []piece) {
	for _, p := range pieces {
		for rest := p.data; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(most))
			out = append(out, piece{p.span, rest[:n]})
			rest = rest[n:]
		}
	}
	return out
}

func drawInstance(t *rapid.T) []piece {
	small, middle := rapid.IntRange(1, 500), rapid.IntRange(1, 100_000)
	sizes := rapid.OneOf(small, small, middle, middle, middle, rapid.IntRange(MaxPlain-5, MaxPlain+5), rapid.IntRange(1, 2_600_000))
	return instance(rapid.Uint64Range(0, 1<<40).Draw(t, "seed"),
		rapid.IntRange(0, 100_000).Draw(t, "header"), rapid.IntRange(0, 3000).Draw(t, "trailer"),
		rapid.SliceOfN(sizes, 0, 6).Draw(t, "frames")...)
}

func TestWriterKeepsTheBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, s, pieces := testKey(0), NewMemory().Shelf(ShelfID{}), drawInstance(t)
		plain := plainOf(pieces)
		got := writeAll(t, s, k, pieces)
		if got.Size != int64(len(plain)) || got.SHA256 != sha256.Sum256(plain) {
			t.Fatal("size or hash is not that of the bytes")
		}
		m := InstanceManifest{UID: "1", Size: got.Size, SHA256: got.SHA256, HeaderLen: got.Size, Blocks: got.Blocks}
		if _, err := EncodeInstance(m); err != nil {
			t.Fatal(err)
		}
		r := m.Reader(context.Background(), s, k)
		defer r.Close()
		if back, err := io.ReadAll(r); err != nil || !bytes.Equal(back, plain) {
			t.Fatalf("%d bytes back of %d: %v", len(back), len(plain), err)
		}
	})
}

func TestCuttingDoesNotDependOnPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, pieces := testKey(0), drawInstance(t)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "pieces"), 0))
		most := rapid.SampledFrom([]int{1000, 70_000, 1_044_480, 5_000_000}).Draw(t, "most")
		one := writeAll(t, NewMemory().Shelf(ShelfID{}), k, pieces)
		two := writeAll(t, NewMemory().Shelf(ShelfID{}), k, shatter(pieces, rnd, most))
		if !slices.Equal(one.Blocks, two.Blocks) {
			t.Fatalf("cut into\n%v\nand\n%v", one.Blocks, two.Blocks)
		}
	})
}

// A block holds one group; of frames, whole ones, or a part of one.
func TestCutsRespectSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := drawInstance(t)
		got := writeAll(t, NewMemory().Shelf(ShelfID{}), testKey(0), pieces)
		type unit struct{ from, to int64 }
		var units []unit
		var spans []Span
		var at int64
		for _, p := range pieces {
			units = append(units, unit{at, at + int64(len(p.data))})
			spans = append(spans, p.span)
			at += int64(len(p.data))
		}
		at = 0
		for i, b := range got.Blocks {
			from, to := at, at+b.Len
			at = to
			var in []int
			for j, u := range units {
				if u.from < to && from < u.to {
					in = append(in, j)
				}
			}
			for _, j := range in {
				if spans[j].Group != spans[in[0]].Group {
					t.Fatalf("block %d holds two groups", i)
				}
				if whole := from <= units[j].from && units[j].to <= to; len(in) > 1 && !whole {
					t.Fatalf("block %d holds part of unit %d beside another", i, j)
				}
			}
			if len(in) > 1 && b.Len > packAtMost {
				t.Fatalf("block %d packs %d bytes", i, b.Len)
			}
			if part := len(in) == 1 && b.Len < units[in[0]].to-units[in[0]].from; part && b.Len < cutEvery-Overhead {
				t.Fatalf("block %d is a crumb of %d bytes", i, b.Len)
			}
		}
	})
}

func TestCutsOfCommonInstances(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces []piece
		least  int
		most   int
	}{
		{"CT slice", instance(1, 4000, 0, 512*512*2), 2, 2},
		{"MR slice", instance(1, 4000, 0, 256*256*2), 2, 2},
		{"1,250 tiny frames", instance(1, 10_000, 200, slices.Repeat([]int{800}, 1250)...), 10, 20},
		{"frames of 2 MiB", instance(1, 5000, 0, 2<<20, 2<<20), 9, 9},
		{"frames of 1 MiB", instance(1, 5000, 0, 1<<20, 1<<20), 5, 5},
		{"one frame of 30 MB", instance(1, 5000, 0, 30_000_000), 57, 60},
		{"no pixels", instance(1, 300_000, 0), 1, 1},
	} {
		got := writeAll(t, NewMemory().Shelf(ShelfID{}), testKey(0), c.pieces)
		if n := len(got.Blocks); n < c.least || n > c.most {
			t.Errorf("%s: %d blocks, want %d to %d", c.name, n, c.least, c.most)
		}
	}
	if got := writeAll(t, NewMemory().Shelf(ShelfID{}), testKey(0), nil); len(got.Blocks) != 0 || got.Size != 0 || got.SHA256 != sha256.Sum256(nil) {
		t.Errorf("nothing written: %+v", got)
	}
}

func TestHeaderEditRestoresOnlyTheHeader(t *testing.T) {
	k, s := testKey(0), NewMemory().Shelf(ShelfID{})
	pieces := instance(1, 6000, 300, slices.Repeat([]int{300_000}, 8)...)
	first := writeAll(t, s, k, pieces)
	pieces[0].data = append([]byte("a longer patient name"), pieces[0].data...)
	second := writeAll(t, s, k, pieces)
	new := 0
	for _, b := range second.Blocks {
		if !slices.Contains(first.Blocks, b) {
			new++
		}
	}
	if new != 1 {
		t.Errorf("%d blocks of %d were stored again for an edit in the header", new, len(second.Blocks))
	}
}

// failing is a store whose disk breaks after some puts.
type failing struct {
	Shelf
	left atomic.Int32
}

var errDisk = errors.New("no more disk")

func (f *failing) Put(ctx context.Context, b ...Block) error {
	if f.left.Add(-1) < 0 {
		return errDisk
	}
	return f.Shelf.Put(ctx, b...)
}

func TestWriterFails(t *testing.T) {
	for puts := range int32(4) {
		s := &failing{Shelf: NewMemory().Shelf(ShelfID{})}
		s.left.Store(puts)
		w := NewWriter(t.Context(), s, testKey(0))
		var err error
		for i := 0; err == nil && i < 100; i++ {
			err = w.Write(Span{Unit: i}, noise(uint64(i), 900_000))
		}
		if !errors.Is(err, errDisk) {
			t.Errorf("after %d puts: Write says %v", puts, err)
		}
		if got, err := w.Close(); !errors.Is(err, errDisk) || got.Blocks != nil {
			t.Errorf("after %d puts: Close says %v, %v", puts, got, err)
		}
	}
	s := &failing{Shelf: NewMemory().Shelf(ShelfID{})}
	w := NewWriter(t.Context(), s, testKey(0))
	if err := w.Write(Span{}, []byte("little")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); !errors.Is(err, errDisk) {
		t.Errorf("the last put failed: %v", err)
	}
}

// stuck is a store that never answers while the context lives.
type stuck struct{ Store }

func (stuck) Put(ctx context.Context, _ ...Block) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestWriterEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := NewWriter(ctx, stuck{}, testKey(0))
	done := make(chan error)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			err = w.Write(Span{Unit: i}, make([]byte, 900_000))
		}
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := w.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("Close after cancelling: %v", err)
	}

	w = NewWriter(t.Context(), stuck{}, testKey(0))
	for i := range 3 {
		if err := w.Write(Span{Unit: i}, make([]byte, 1_000_000)); err != nil {
			t.Fatal(err)
		}
	}
	w.Abort()
	w.Abort()
	if _, err := w.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("Close after Abort: %v", err)
	}
	if err := w.Write(Span{}, []byte{1}); !errors.Is(err, ErrClosed) {
		t.Errorf("Write after Abort: %v", err)
	}
}

// gauge counts what is under way.
type gauge struct {
	Shelf
	mu        sync.Mutex
	now, most int
}

func (g *gauge) Put(ctx context.Context, blocks ...Block) error {
	n := 0
	for _, b := range blocks {
		n += len(b.Data)
	}
	g.mu.Lock()
	g.now += n
	g.most = max(g.most, g.now)
	g.mu.Unlock()
	err := g.Shelf.Put(ctx, blocks...)
	g.mu.Lock()
	g.now -= n
	g.mu.Unlock()
	return err
}

func TestWriterBoundsWhatIsUnderWay(t *testing.T) {
	g := &gauge{Shelf: NewMemory().Shelf(ShelfID{})}
	writeAll(t, g, testKey(0), instance(1, 5000, 0, slices.Repeat([]int{700_000}, 60)...))
	if limit := batches * (batchBytes + MaxBlock); g.most > limit {
		t.Errorf("%d bytes were under way, the limit is %d", g.most, limit)
	}
}
