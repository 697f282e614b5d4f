package cas

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"
)

// counting remembers which blocks were asked for.
type counting struct {
	Getter
	mu  sync.Mutex
	got []cid.Cid
}

func (c *counting) Get(ctx context.Context, id cid.Cid) ([]byte, error) {
	c.mu.Lock()
	c.got = append(c.got, id)
	c.mu.Unlock()
	return c.Getter.Get(ctx, id)
}

// stored writes plaintext as blocks of the given sizes and names them.
func stored(t interface{ Fatal(...any) }, s Putter, k Key, plain []byte, sizes ...int) InstanceManifest {
	m := InstanceManifest{UID: "1.2.3", Size: int64(len(plain)), HeaderLen: int64(len(plain))}
	for _, n := range sizes {
		b, err := k.Seal(plain[:n])
		if err == nil {
			err = s.Put(context.Background(), b)
		}
		if err != nil {
			t.Fatal(err)
		}
		m.Blocks = append(m.Blocks, BlockRef{b.CID, int64(n)})
		plain = plain[n:]
	}
	return m
}

func TestReaderIsAReader(t *testing.T) {
	k, s := testKey(0), NewMemory().Shelf(ShelfID{})
	for _, sizes := range [][]int{{}, {1}, {100, 1, 5000, 37}} {
		n := 0
		for _, size := range sizes {
			n += size
		}
		plain := noise(1, n)
		r := stored(t, s, k, plain, sizes...).Reader(t.Context(), s, k)
		if err := iotest.TestReader(r, plain); err != nil {
			t.Errorf("%v: %v", sizes, err)
		}
		if r.Size() != int64(n) {
			t.Errorf("size %d, want %d", r.Size(), n)
		}
	}
}

func TestReaderGivesTheBytesAtAnyOffset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, s := testKey(0), NewMemory().Shelf(ShelfID{})
		sizes := rapid.SliceOfN(rapid.IntRange(1, 3000), 1, 8).Draw(t, "sizes")
		n := 0
		for _, size := range sizes {
			n += size
		}
		plain := noise(rapid.Uint64().Draw(t, "seed"), n)
		m := stored(t, s, k, plain, sizes...)
		get := &counting{Getter: s}
		r := m.Reader(context.Background(), get, k)
		defer r.Close()
		whole := bytes.NewReader(plain)
		for range rapid.IntRange(1, 10).Draw(t, "reads") {
			off := int64(rapid.IntRange(0, n+10).Draw(t, "off"))
			buf := make([]byte, rapid.IntRange(0, n+10).Draw(t, "len"))
			want := make([]byte, len(buf))
			wn, wantErr := whole.ReadAt(want, off)
			get.got = nil
			gn, err := r.ReadAt(buf, off)
			if gn != wn || !bytes.Equal(buf[:gn], want[:wn]) || (err == nil) != (wantErr == nil) && len(buf) > 0 {
				t.Fatalf("ReadAt %d at %d: %d, %v; want %d, %v", len(buf), off, gn, err, wn, wantErr)
			}
			need := m.Covering(Range{off, int64(len(buf))})
			for _, c := range get.got {
				if !slices.ContainsFunc(need, func(b BlockRef) bool { return b.CID == c }) {
					t.Fatalf("reading %d at %d asked for a block that holds none of it", len(buf), off)
				}
			}
		}
	})
}

func TestFrameReadsTouchNoOtherFrame(t *testing.T) {
	k, s := testKey(0), NewMemory().Shelf(ShelfID{})
	plain := noise(1, 1000+4*500+300)
	m := stored(t, s, k, plain, 1000, 500, 250, 250, 1000, 300) // header; frame 0; 1; 2 and 3; trailer
	m.HeaderLen = 1000
	m.Pixel = &PixelLayout{Off: 1000, Len: 2000, Run: FrameRun{Off: 1000, Bits: 4000, Count: 4}}
	for i, want := range [][]int{{1}, {2, 3}, {4}, {4}} {
		get := &counting{Getter: s}
		r := m.Reader(t.Context(), get, k)
		got, err := r.ReadFrame(i)
		if err != nil || !bytes.Equal(got, plain[1000+500*i:1500+500*i]) {
			t.Errorf("frame %d: %d bytes, %v", i, len(got), err)
		}
		var cids []cid.Cid
		for _, b := range want {
			cids = append(cids, m.Blocks[b].CID)
		}
		if !slices.Equal(get.got, cids) {
			t.Errorf("frame %d took blocks %v, want %v", i, get.got, cids)
		}
		r.Close()
	}
}

func TestEncapsulatedFrames(t *testing.T) {
	k, s := testKey(0), NewMemory().Shelf(ShelfID{})
	plain := noise(1, 3000)
	m := stored(t, s, k, plain, 1000, 2000)
	m.Pixel = &PixelLayout{Off: 1000, Len: 2000, Encapsulated: true, Frames: [][]Range{{{1008, 92}, {1108, 200}}, {{1316, 100}}, nil}}
	m.HeaderLen = 990
	r := m.Reader(t.Context(), s, k)
	for i, want := range [][]byte{append(bytes.Clone(plain[1008:1100]), plain[1108:1308]...), plain[1316:1416], {}} {
		if got, err := r.ReadFrame(i); err != nil || !bytes.Equal(got, want) {
			t.Errorf("frame %d: %d bytes, %v", i, len(got), err)
		}
	}
	if _, err := r.ReadFrame(3); !errors.Is(err, ErrNoFrame) {
		t.Error(err)
	}
}

func TestOneBitFrames(t *testing.T) {
	k, s := testKey(0), NewMemory().Shelf(ShelfID{})
	plain := noise(1, 200)
	for _, bits := range []int64{1, 5, 8, 13, 64, 99} {
		count := int(8 * 100 / bits)
		m := stored(t, s, k, plain, 100, 100)
		m.HeaderLen = 100
		m.Pixel = &PixelLayout{Off: 100, Len: 100, Run: FrameRun{Off: 100, Bits: bits, Count: count}}
		if _, err := EncodeInstance(m); err != nil {
			t.Fatal(err)
		}
		r := m.Reader(t.Context(), s, k)
		for i := range count {
			got, err := r.ReadFrame(i)
			if err != nil || int64(len(got)) != (bits+7)/8 {
				t.Fatalf("%d bits, frame %d: %d bytes, %v", bits, i, len(got), err)
			}
			for j := range int64(8 * len(got)) {
				var want byte
				if at := int64(i)*bits + j; j < bits {
					want = plain[100+at/8] >> (at % 8) & 1
				}
				if got[j/8]>>(j%8)&1 != want {
					t.Fatalf("%d bits, frame %d: bit %d is wrong", bits, i, j)
				}
			}
		}
	}
}

func TestReaderTellsWhatIsWrong(t *testing.T) {
	k, s := testKey(0), NewMemory().Shelf(ShelfID{})
	m := stored(t, s, k, noise(1, 3000), 1000, 1000, 1000)

	missing := NewMemory().Shelf(ShelfID{})
	stored(t, missing, k, noise(1, 3000), 1000)
	buf := make([]byte, 3000)
	n, err := m.Reader(t.Context(), missing, k).ReadAt(buf, 0)
	if n != 1000 || !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing block: %d, %v", n, err)
	}

	bad, err := s.Get(t.Context(), m.Blocks[1].CID)
	if err != nil {
		t.Fatal(err)
	}
	bad[500] ^= 1
	if _, err := m.Reader(t.Context(), lying{m.Blocks[1].CID: bad}, k).ReadAt(buf[:5], 1500); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a damaged block: %v", err)
	}
	if _, err := m.Reader(t.Context(), s, testKey(1)).ReadAt(buf, 0); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}

	short := m
	short.Blocks = slices.Clone(m.Blocks)
	short.Blocks[0].Len++
	short.Size++
	if _, err := short.Reader(t.Context(), s, k).ReadAt(buf, 0); !errors.Is(err, ErrLengths) {
		t.Errorf("a block of another length: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	r := m.Reader(ctx, s, k)
	cancel()
	if _, err := r.Read(buf); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := r.ReadAt(buf, -1); err == nil {
		t.Error("read before the start")
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("sought before the start")
	}
	if _, err := r.Seek(0, 3); err == nil {
		t.Error("sought from nowhere")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(buf, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}

	beyond := m
	beyond.Size += 10
	if n, err := beyond.Reader(t.Context(), s, k).ReadAt(make([]byte, 3005), 0); n != 3000 || !errors.Is(err, ErrLengths) {
		t.Errorf("a size beyond the blocks: %d, %v", n, err)
	}

	huge := m
	huge.Pixel = &PixelLayout{Encapsulated: true, Frames: [][]Range{{{0, MaxFrame}, {0, 1}}}}
	if _, err := huge.Reader(t.Context(), s, k).ReadFrame(0); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a frame over the limit: %v", err)
	}
}

func TestReaderConcurrently(t *testing.T) {
	k, s := testKey(0), NewMemory().Shelf(ShelfID{})
	plain := noise(1, 8000)
	r := stored(t, s, k, plain, slices.Repeat([]int{1000}, 8)...).Reader(t.Context(), s, k)
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() {
			buf := make([]byte, 1500)
			for j := range 100 {
				off := (i*977 + j*613) % 6500
				if _, err := r.ReadAt(buf, int64(off)); err != nil || !bytes.Equal(buf, plain[off:off+1500]) {
					t.Errorf("at %d: %v", off, err)
					return
				}
			}
		})
	}
	readers.Wait()
}
