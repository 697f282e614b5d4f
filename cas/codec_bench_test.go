package cas

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom"
)

// ct is a slice of a CT as a phantom gives it: 512 by 512 words, a noisy body
// with a denser ring in air that is noisy as well, outside of it one value.
func ct(seed uint64) []byte {
	b := noise(seed, 512*512*2)
	for i := 0; i < len(b); i += 2 {
		x, y := i/2%512-256, i/2/512-256
		v, r := -2000, x*x+y*y*3/2
		// The sum of four uniform numbers is nearly normal; this has a
		// deviation of 18.
		n := int(b[i]&15) + int(b[i]>>4) + int(b[i+1]&15) + int(b[i+1]>>4) - 30
		switch {
		case r < 150*150 || r > 180*180 && r < 200*200:
			v = 40 + 2*n + (x+y)/40*10
		case r < 200*200:
			v = 700 + 2*n + x/3
		case x*x+y*y < 250*250:
			v = -1000 + n/2
		}
		binary.LittleEndian.PutUint16(b[i:], uint16(v))
	}
	return b
}

// What a block of a CT costs, step by step: BenchmarkHash is once the
// plaintext for the manifest, the rest is Seal and Open.
func BenchmarkHash(b *testing.B) {
	plain := ct(1)
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		sha256.Sum256(plain)
	}
}

func BenchmarkCompress(b *testing.B) {
	p, plain := new(packer), ct(1)
	b.SetBytes(int64(len(plain)))
	n := 0
	for b.Loop() {
		_, payload := p.pack(plain)
		n = len(payload)
	}
	b.ReportMetric(float64(len(plain))/float64(n), "times-smaller")
}

// BenchmarkCompressed is what it costs to see that nothing is to be gained.
func BenchmarkCompressed(b *testing.B) {
	p, plain := new(packer), noise(1, 512<<10)
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		p.pack(plain)
	}
}

// BenchmarkSealOnly is of what compression leaves: nonce, encryption,
// address. Its MB/s are of the plaintext.
func BenchmarkSealOnly(b *testing.B) {
	plain, s := ct(1), newSealer(testKey(0))
	codec, payload := new(packer).pack(plain)
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		s.sealPayload(domData, codec, payload)
	}
}

func BenchmarkDecompress(b *testing.B) {
	u, plain := new(unpacker), ct(1)
	codec, payload := new(packer).pack(plain)
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		if _, err := u.unpack(codec, payload); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCodecs is what packing gains on the real files, and what it costs,
// by what is in a block. Blocks are cut as the archive has them cut.
func BenchmarkCodecs(b *testing.B) {
	kinds := realBlocks(b)
	all := slices.Concat(slices.Collect(maps.Values(kinds))...)
	kinds["everything"] = all
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		blocks := kinds[kind]
		type packed struct {
			codec   byte
			payload []byte
		}
		var done []packed
		p, u := new(packer), new(unpacker)
		plain, kept, zstd := 0, 0, 0
		chosen := [codecs]int{}
		for _, block := range blocks {
			codec, payload := p.pack(block)
			done = append(done, packed{codec, slices.Clone(payload)})
			chosen[codec] += len(block)
			plain += len(block)
			kept += len(payload) + Overhead
			z := len(compressor().EncodeAll(block, nil))
			if z >= len(block)-len(block)/8 {
				z = len(block)
			}
			zstd += z + Overhead
		}
		b.Run(kind+"/pack", func(b *testing.B) {
			b.SetBytes(int64(plain))
			for b.Loop() {
				for _, block := range blocks {
					p.pack(block)
				}
			}
			b.ReportMetric(float64(len(blocks)), "blocks")
			b.ReportMetric(float64(plain)/1e6, "MB")
			b.ReportMetric(float64(plain)/float64(kept), "times-smaller")
			b.ReportMetric(float64(plain)/float64(zstd), "by-zstd")
			b.ReportMetric(float64(100*chosen[codecPlanes])/float64(plain), "%planes")
			b.ReportMetric(float64(100*chosen[codecZstd])/float64(plain), "%zstd")
		})
		b.Run(kind+"/unpack", func(b *testing.B) {
			b.SetBytes(int64(plain))
			for b.Loop() {
				for _, d := range done {
					if d.codec == codecStored {
						continue
					}
					if _, err := u.unpack(d.codec, d.payload); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// realBlocks are the plaintexts of the blocks of the real files, by kind.
func realBlocks(b *testing.B) map[string][][]byte {
	root := filepath.Join("..", "..", "shared", "testdata", "dicom")
	if _, err := os.Stat(root); err != nil {
		b.Skip("no real files beside the repository: " + err.Error())
	}
	kinds := map[string][][]byte{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, ".tsv") {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		store := NewMemory().Shelf(ShelfID{})
		w := NewWriter(b.Context(), store, testKey(0))
		var sections []dicom.Range // where each section begins
		size := int64(0)
		in, err := dicom.Scan(f, dicom.Limits{}, dicom.Handler{Piece: func(p dicom.Piece) error {
			if n := len(sections); n == 0 || dicom.Section(sections[n-1].Len) != p.Section {
				sections = append(sections, dicom.Range{Off: size, Len: int64(p.Section)})
			}
			size += int64(len(p.Data))
			return w.Write(Span{Group: uint8(p.Section), Unit: p.Frame}, p.Data)
		}})
		got, closed := w.Close()
		if err != nil {
			return nil // the archive refuses it as well
		}
		if closed != nil {
			return closed
		}
		at := int64(0)
		for _, ref := range got.Blocks {
			block, err := store.Get(b.Context(), ref.CID)
			if err != nil {
				return err
			}
			plain, err := testKey(0).Open(Block{ref.CID, block})
			if err != nil {
				return err
			}
			i := len(sections) - 1
			for sections[i].Off > at {
				i--
			}
			kind := kindOf(in, dicom.Section(sections[i].Len))
			kinds[kind] = append(kinds[kind], plain)
			at += ref.Len
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return kinds
}

func kindOf(in *dicom.Instance, section dicom.Section) string {
	if section != dicom.SectionFrame {
		return section.String()
	}
	bits, _ := in.Data.Int(dicom.Tag(0x0028_0100))
	samples, _ := in.Data.Int(dicom.Tag(0x0028_0002))
	switch {
	case in.Pixel.Encapsulated:
		switch uid := string(in.TransferSyntax); {
		case strings.HasPrefix(uid, "1.2.840.10008.1.2.4.9"):
			return "JPEG 2000"
		case strings.HasPrefix(uid, "1.2.840.10008.1.2.4.8"):
			return "JPEG-LS"
		case strings.HasPrefix(uid, "1.2.840.10008.1.2.4.7"), uid == "1.2.840.10008.1.2.4.57":
			return "JPEG lossless"
		case strings.HasPrefix(uid, "1.2.840.10008.1.2.4.5"):
			return "JPEG"
		case uid == "1.2.840.10008.1.2.5":
			return "RLE"
		}
		return "encapsulated, other"
	case bits == 16 && samples == 1 && in.TransferSyntax.BigEndian():
		return "16 bits, high byte first"
	case bits == 16 && samples == 1:
		switch m := in.Data.String(dicom.Tag(0x0008_0060)); m {
		case "CT", "MR", "NM":
			return "16 bits " + m
		}
		return "16 bits, other"
	case bits == 8 && samples == 3:
		return "8 bits, colours"
	}
	return fmt.Sprintf("%d bits", bits*max(samples, 1))
}
