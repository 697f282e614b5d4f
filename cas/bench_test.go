package cas_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest"
)

// The numbers in docs/decisions/0002, 0003 and 0015 come from here:
//
//	go test -run '^$' -bench . ./cas

func key(b *testing.B) cas.Key {
	k, err := cas.NewKey(rand.NewChaCha8([32]byte{}))
	if err != nil {
		b.Fatal(err)
	}
	return k
}

// pixels is more or less a slice of a CT, a noisy disc of 16-bit samples in
// air; or, when not native, bytes that do not compress.
func pixels(seed uint64, n int, native bool) []byte {
	data := castest.Blocks(seed, 1, n)[0].Data
	if native {
		for i := 0; i+1 < n; i += 2 {
			x, y := i/2%512-256, i/2/512%512-256
			v := uint16(0)
			if x*x+y*y < 200*200 {
				v = 1000 + uint16(data[i]&31)
			}
			data[i], data[i+1] = byte(v), byte(v>>8)
		}
	}
	return data
}

func BenchmarkSeal(b *testing.B) {
	for _, c := range []struct {
		name   string
		native bool
	}{{"native", true}, {"encapsulated", false}} {
		b.Run(c.name, func(b *testing.B) {
			k, plain := key(b), pixels(1, 512<<10, c.native)
			b.SetBytes(int64(len(plain)))
			var sealed int
			for b.Loop() {
				block, err := k.Seal(plain)
				if err != nil {
					b.Fatal(err)
				}
				sealed = len(block.Data)
			}
			b.ReportMetric(float64(len(plain))/float64(sealed), "times-smaller")
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, c := range []struct {
		name   string
		native bool
	}{{"native", true}, {"encapsulated", false}} {
		b.Run(c.name, func(b *testing.B) {
			k, plain := key(b), pixels(1, 512<<10, c.native)
			block, err := k.Seal(plain)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				if _, err := k.Open(block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	block := castest.Blocks(1, 1, 512<<10)[0]
	b.SetBytes(int64(len(block.Data)))
	for b.Loop() {
		if err := block.Verify(); err != nil {
			b.Fatal(err)
		}
	}
}

var putSizes = []struct {
	name           string
	size, at, many int
}{
	{"512KiB one at a time", 512 << 10, 1, 1},
	{"512KiB by four", 512 << 10, 4, 1},
	{"512KiB in batches of 8", 512 << 10, 1, 8},
	{"8KiB one at a time", 8 << 10, 1, 1},
	{"8KiB by sixteen", 8 << 10, 16, 1},
}

func BenchmarkDiskPut(b *testing.B) {
	for _, c := range putSizes {
		b.Run(c.name, func(b *testing.B) {
			s := openDisk(b, b.TempDir(), cas.DiskOptions{}).Shelf(shelf)
			benchPut(b, c.at, c.many, c.size, func() cas.Putter { return s })
		})
	}
}

// BenchmarkPlainPut is what the disk allows: each writer appends to a file of
// its own and syncs it, and nothing else.
func BenchmarkPlainPut(b *testing.B) {
	for _, c := range putSizes {
		b.Run(c.name, func(b *testing.B) {
			dir, n := b.TempDir(), 0
			benchPut(b, c.at, c.many, c.size, func() cas.Putter {
				n++
				f, err := cas.OS().Create(filepath.Join(dir, fmt.Sprint(n)))
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { f.Close() })
				return &plainFile{f: f}
			})
		})
	}
}

type plainFile struct {
	f  cas.File
	at int64
}

func (p *plainFile) Put(_ context.Context, blocks ...cas.Block) error {
	for _, b := range blocks {
		if _, err := p.f.WriteAt(b.Data, p.at); err != nil {
			return err
		}
		p.at += int64(len(b.Data))
	}
	return p.f.Sync()
}

func benchPut(b *testing.B, at, many, size int, to func() cas.Putter) {
	b.SetBytes(int64(size * many))
	if at == 1 {
		s := to()
		for b.Loop() {
			put(b, s, many, size)
		}
		return
	}
	var mu sync.Mutex
	b.SetParallelism(max(at/runtime.GOMAXPROCS(0), 1))
	b.RunParallel(func(pb *testing.PB) {
		mu.Lock()
		s := to()
		mu.Unlock()
		for pb.Next() {
			put(b, s, many, size)
		}
	})
}

var template = castest.Blocks(1, 1, cas.MaxBlock)[0].Data

func put(b *testing.B, s cas.Putter, many, size int) {
	blocks := make([]cas.Block, many)
	for i := range blocks {
		data := slices.Clone(template[:size])
		for j := range 8 {
			data[j] = byte(rand.Uint32())
		}
		blocks[i] = cas.Block{CID: cas.Sum(data), Data: data}
	}
	if err := s.Put(context.Background(), blocks...); err != nil {
		b.Error(err)
	}
}

func BenchmarkDiskGet(b *testing.B) {
	s := openDisk(b, b.TempDir(), cas.DiskOptions{}).Shelf(shelf)
	blocks := castest.Blocks(1, 100, 512<<10)
	if err := s.Put(b.Context(), blocks...); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(512 << 10)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Get(b.Context(), blocks[i%len(blocks)].CID); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIngest is what a study costs from plaintext to disk and back: a CT
// of 200 slices, each with a header of its own.
func BenchmarkIngest(b *testing.B) {
	s := openDisk(b, b.TempDir(), cas.DiskOptions{}).Shelf(shelf)
	k := key(b)
	slice := pixels(1, 512<<10, true)
	b.SetBytes(200 * int64(len(slice)+4000))
	var m cas.InstanceManifest
	for round := 0; b.Loop(); round++ {
		for i := range 200 {
			copy(slice, fmt.Sprint("slice ", round, " ", i)) // so that none is there already
			w := cas.NewWriter(b.Context(), s, k)
			err := w.Write(cas.Span{Group: 0}, slice[:4000])
			if err == nil {
				err = w.Write(cas.Span{Group: 1}, slice)
			}
			if err != nil {
				b.Fatal(err)
			}
			got, err := w.Close()
			if err != nil {
				b.Fatal(err)
			}
			m = cas.InstanceManifest{UID: "1", Size: got.Size, SHA256: got.SHA256, Blocks: got.Blocks}
		}
	}
	if _, err := io.Copy(io.Discard, m.Reader(b.Context(), s, k)); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkHeaderEdit tells which part of an instance is stored again when
// its header grows by 20 bytes: for our cuts, and for blocks of fixed size.
func BenchmarkHeaderEdit(b *testing.B) {
	for _, c := range []struct {
		name  string
		fixed bool
	}{{"cut at elements", false}, {"cut every 512KiB", true}} {
		b.Run(c.name, func(b *testing.B) {
			k := key(b)
			header, frames := pixels(1, 6000, false), pixels(2, 40*512*1024, true)
			var share float64
			for b.Loop() {
				s := cas.NewMemory().Shelf(cas.ShelfID{})
				before := cutInto(b, s, k, c.fixed, header, frames)
				after := cutInto(b, s, k, c.fixed, append([]byte("20 bytes of new name"), header...), frames)
				var again, all int64
				for _, r := range after.Blocks {
					all += r.Len
					if !slices.ContainsFunc(before.Blocks, func(o cas.BlockRef) bool { return o.CID == r.CID }) {
						again += r.Len
					}
				}
				share = 100 * float64(again) / float64(all)
			}
			b.ReportMetric(share, "%-stored-again")
		})
	}
}

func cutInto(b *testing.B, s cas.Putter, k cas.Key, fixed bool, header, frames []byte) cas.Written {
	w := cas.NewWriter(b.Context(), s, k)
	defer w.Abort()
	at, unit := cas.Span{Group: 0}, 0
	if fixed {
		frames = append(slices.Clone(header), frames...)
	} else if err := w.Write(at, header); err != nil {
		b.Fatal(err)
	}
	for part := range slices.Chunk(frames, 512<<10) {
		if err := w.Write(cas.Span{Group: 1, Unit: unit}, part); err != nil {
			b.Fatal(err)
		}
		unit++
	}
	got, err := w.Close()
	if err != nil {
		b.Fatal(err)
	}
	return got
}

// BenchmarkRealFiles seals every real file there is, cut as by a Writer that
// knows no frames, and tells how much smaller compression makes them.
func BenchmarkRealFiles(b *testing.B) {
	root := filepath.Join("..", "..", "shared", "testdata", "dicom")
	if _, err := os.Stat(root); err != nil {
		b.Skip("no real files beside the repository: " + err.Error())
	}
	var files [][]byte
	var total int64
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, ".tsv") {
			return err
		}
		data, err := os.ReadFile(path)
		files, total = append(files, data), total+int64(len(data))
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	k := key(b)
	b.SetBytes(total)
	var kept int64
	for b.Loop() {
		s := cas.NewMemory().Shelf(cas.ShelfID{})
		for _, data := range files {
			w := cas.NewWriter(b.Context(), s, k)
			if err := w.Write(cas.Span{}, data); err != nil {
				b.Fatal(err)
			}
			if _, err := w.Close(); err != nil {
				b.Fatal(err)
			}
		}
		kept = 0
		if err := s.Enumerate(b.Context(), cid.Undef, func(_ cid.Cid, n int64) error { kept += n; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(total)/float64(kept), "times-smaller")
}
