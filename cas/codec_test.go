package cas

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/huff0"
	"pgregory.net/rapid"
)

func TestPackChoosesWhatGains(t *testing.T) {
	for _, c := range []struct {
		name  string
		plain []byte
		codec byte
		from  filter
	}{
		{"empty", nil, codecStored, filter{}},
		{"noise", noise(1, 50_000), codecStored, filter{}},
		{"much noise", noise(1, 500_000), codecStored, filter{}},
		{"header", bytes.Repeat([]byte("SeriesDescription "), 40), codecZstd, filter{}},
		{"text", []byte(strings.Repeat("The heart is not enlarged. ", 4000)), codecZstd, filter{}},
		{"one value", make([]byte, 500_000), codecZstd, filter{}},
		{"16 bits", image(1, 50_000), codecPlanes, filter{unitLE, 1}},
		{"16 bits, high byte first", swapped(image(1, 500_001)), codecPlanes, filter{unitBE, 1}},
		{"8 bits", byteImage(1, 500_000, 1), codecPlanes, filter{unitByte, 1}},
		{"colours", byteImage(1, 500_000, 3), codecPlanes, filter{unitByte, 3}},
		{"few values without order", few(500_000), codecPlanes, filter{unitByte, 0}},
	} {
		codec, payload := new(packer).pack(c.plain)
		if codec != c.codec {
			t.Errorf("%s: codec %d, %d of %d bytes", c.name, codec, len(payload), len(c.plain))
		} else if codec == codecPlanes && (filter{unit(payload[0]), payload[1]}) != c.from {
			t.Errorf("%s: filter %d", c.name, payload[:2])
		}
	}
}

// few is bytes that Huffman coding makes smaller and nothing else.
func few(n int) []byte {
	b := noise(1, n)
	for i := range b {
		b[i] = "0123456789abcdef"[b[i]&15]
	}
	return b
}

// What a packer has done before must not show in what it makes.
func TestPackersHaveNoMemory(t *testing.T) {
	used := new(packer)
	rapid.Check(t, func(t *rapid.T) {
		plain := plaintext(t)
		before := bytes.Clone(plain)
		codec, payload := used.pack(plain)
		again, fresh := new(packer).pack(plain)
		if codec != again || !bytes.Equal(payload, fresh) {
			t.Fatalf("codec %d and %d, %d and %d bytes", codec, again, len(payload), len(fresh))
		}
		if !bytes.Equal(plain, before) {
			t.Fatal("the plaintext was altered")
		}
	})
}

func TestPlanesRoundTrip(t *testing.T) {
	p, u := new(packer), new(unpacker)
	rapid.Check(t, func(t *rapid.T) {
		plain := plaintext(t)
		f := filter{unit(rapid.IntRange(0, 2).Draw(t, "unit")), rapid.OneOf(rapid.ByteRange(0, 5), rapid.Byte()).Draw(t, "lag")}
		payload := p.planes.encode(&p.huff, nil, plain, f)
		got, err := u.unpack(codecPlanes, payload)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%v: %d of %d bytes back, %v", f, len(got), len(plain), err)
		}
	})
}

// TestUnpackFormat reads payloads made by the letter of doc.go.
func TestUnpackFormat(t *testing.T) {
	group := strings.Repeat("abcdefgh", 4)
	words := func(v ...uint16) string {
		var b []byte
		for _, w := range v {
			b = binary.LittleEndian.AppendUint16(b, w)
		}
		return string(b)
	}
	huffman, _, err := huff0.Compress4X(bytes.Repeat([]byte("aaabbcabbbbaacd "), 16), &huff0.Scratch{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, payload, plain string }{
		{"nothing", "\x00\x00\x00\x00\x00", ""},
		{"less than a group", "\x02\x09\x00\x00\x03abc", "abc"},
		{"bytes as they are", "\x00\x00\x00\x00\x21" + "\x00\x01" + "\x00" + group + "!", group + "!"},
		{"a run, counted up", "\x00\x01\x00\x00\x20" + "\x00\x01" + "\x01\x01",
			"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20"},
		{"every third", "\x00\x03\x00\x00\x20" + "\x00\x01" + "\x00xyz" + strings.Repeat("\x00", 27) + "\x01\xff",
			strings.Repeat("xyz", 10) + "yx"},
		{"zero, low, both", "\x01\x00\x00\x00\x60" + "\x00\x24" + // marks 0, 1, 2
			"\x00" + "\x00\x01\x02\x03" + strings.Repeat("\x04", 12) + "\xff" + strings.Repeat("\x06", 15) +
			"\x00" + "\xff\x01" + strings.Repeat("\x00", 14),
			words(make([]uint16, 16)...) +
				words(0, 0xffff, 1, 0xfffe, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2) +
				words(0x8000, 0x83, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3)},
		{"words wrap around", "\x01\x01\x00\x00\x20" + "\x00\x02" + "\x01\xfe" + "\x01\xff",
			words(0x7fff, 0xfffe, 0x7ffd, 0xfffc, 0x7ffb, 0xfffa, 0x7ff9, 0xfff8, 0x7ff7, 0xfff6, 0x7ff5, 0xfff4, 0x7ff3, 0xfff2, 0x7ff1, 0xfff0)},
		{"high byte first", "\x02\x01\x00\x00\x20" + "\x00\x01" + "\x00\x02" + strings.Repeat("\x00", 15),
			strings.Repeat("\x00\x01", 16)},
		{"two words back", "\x01\x02\x00\x00\x20" + "\x00\x01" + "\x00\x02\x01" + strings.Repeat("\x00", 14),
			strings.Repeat(words(1, 0xffff), 8)},
		{"Huffman", "\x00\x00\x00\x01\x00" + "\x00\x55\x55" + "\x02\x00" + string(rune(len(huffman))) + string(huffman),
			strings.Repeat("aaabbcabbbbaacd ", 16)},
	} {
		got, err := new(unpacker).unpack(codecPlanes, []byte(c.payload))
		if err != nil || string(got) != c.plain {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.plain)
		}
	}
}

// A Huffman chunk is what RFC 8878 has for literals: any zstd decoder reads
// it inside of a frame with nothing but literals.
func TestHuffmanChunksAreOfZstd(t *testing.T) {
	for _, plain := range [][]byte{image(1, 2048), few(1000), few(planesChunk - 1), few(planesChunk)} {
		chunk := appendStream(&huff0.Scratch{}, nil, plain)
		if chunk[0] != chunkHuffman || int(chunk[1])<<8|int(chunk[2]) != len(chunk)-3 {
			t.Fatalf("%d bytes: % x…", len(plain), chunk[:3])
		}
		coded := chunk[3:]
		// Frame header with a size of four bytes, one last block of literals
		// (compressed, four streams, sizes of 18 bits), no sequences.
		frame := binary.LittleEndian.AppendUint32([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}, uint32(len(plain)))
		literals := uint64(2|3<<2) | uint64(len(plain))<<4 | uint64(len(coded))<<22
		block := append(binary.LittleEndian.AppendUint64(nil, literals)[:5], coded...)
		block = append(block, 0)
		head := 1 | 2<<1 | len(block)<<3
		frame = append(frame, byte(head), byte(head>>8), byte(head>>16))
		got, err := unzstd(append(frame, block...))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %d bytes, %v", len(plain), len(got), err)
		}
	}
}

// A sealer with the key may still lie about what is inside.
func TestUnpackIsBounded(t *testing.T) {
	bomb := compressor().EncodeAll(make([]byte, 16<<20), nil)
	p := new(packer)
	_, payload := p.pack(image(1, 200_000))
	good := bytes.Clone(payload)
	for _, c := range []struct {
		name    string
		codec   byte
		payload []byte
		want    error
	}{
		{"not zstd", codecZstd, []byte("not zstd at all"), ErrMalformed},
		{"no zstd", codecZstd, nil, ErrMalformed},
		{"zstd claims too much", codecZstd, bomb, ErrTooLarge},
		{"zstd claims 16 EiB", codecZstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0}, ErrTooLarge},
		{"zstd claims more than it has", codecZstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x60, 0, 1, 1, 0, 0}, ErrMalformed},
		{"zstd cut", codecZstd, compressor().EncodeAll(make([]byte, 1000), nil)[:10], ErrMalformed},

		{"no planes", codecPlanes, nil, ErrTruncated},
		{"half a head", codecPlanes, []byte{0, 0, 0, 0}, ErrTruncated},
		{"no such unit", codecPlanes, []byte{3, 0, 0, 0, 0}, ErrMalformed},
		{"planes claim too much", codecPlanes, []byte{0, 0, 0x0f, 0xff, 0xff, 1, 0}, ErrTooLarge},
		{"no marks", codecPlanes, []byte{0, 0, 0, 0, 32}, ErrTruncated},
		{"mark 3", codecPlanes, []byte{1, 0, 0, 0, 32, 0, 3}, ErrMalformed},
		{"high bytes of bytes", codecPlanes, []byte{0, 0, 0, 0, 32, 0, 2}, ErrMalformed},
		{"a mark after the last", codecPlanes, []byte{0, 0, 0, 0, 32, 0, 4}, ErrMalformed},
		{"no low bytes", codecPlanes, []byte{1, 0, 0, 0, 32, 0, 2}, ErrTruncated},
		{"no high bytes", codecPlanes, []byte{1, 0, 0, 0, 32, 0, 2, 1, 7}, ErrTruncated},
		{"half a raw chunk", codecPlanes, append([]byte{0, 0, 0, 0, 32, 0, 1, 0}, make([]byte, 31)...), ErrTruncated},
		{"no such chunk", codecPlanes, []byte{0, 0, 0, 0, 32, 3, 0}, ErrMalformed},
		{"half a length", codecPlanes, []byte{0, 0, 0, 0, 32, 2, 0}, ErrTruncated},
		{"Huffman chunk longer than all", codecPlanes, []byte{0, 0, 0, 0, 32, 2, 0, 9, 1, 2, 3}, ErrTruncated},
		{"no Huffman tree", codecPlanes, []byte{0, 0, 0, 0, 32, 2, 0, 3, 1, 2, 3}, ErrMalformed},
		{"less at the end", codecPlanes, []byte{0, 0, 0, 0, 4, 1, 2, 3}, ErrMalformed},
		{"more at the end", codecPlanes, []byte{0, 0, 0, 0, 2, 1, 2, 3}, ErrMalformed},
		{"a byte more", codecPlanes, append(bytes.Clone(good), 0), ErrMalformed},
		{"a later codec", codecs, []byte("?"), ErrVersion},
	} {
		if got, err := new(unpacker).unpack(c.codec, c.payload); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %d bytes, %v, want %v", c.name, len(got), err, c.want)
		}
	}
	u := new(unpacker)
	for n := 0; n < len(good); n += 1 + n/16 {
		if got, err := u.unpack(codecPlanes, good[:n]); err == nil || got != nil {
			t.Errorf("cut to %d of %d bytes: %d bytes", n, len(good), len(got))
		}
	}
}

// What an unpacker has met before, and failed at, must not show either.
func TestUnpackersHaveNoMemory(t *testing.T) {
	p, used := new(packer), new(unpacker)
	rapid.Check(t, func(t *rapid.T) {
		codec, payload := p.pack(plaintext(t))
		if codec == codecStored {
			return
		}
		bad := bytes.Clone(payload)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= rapid.Byte().Draw(t, "with")
		for _, payload := range [][]byte{bad, payload} {
			got, err := used.unpack(codec, payload)
			fresh, freshErr := new(unpacker).unpack(codec, payload)
			if (err == nil) != (freshErr == nil) || !bytes.Equal(got, fresh) {
				t.Fatalf("%d bytes, %v; fresh %d bytes, %v", len(got), err, len(fresh), freshErr)
			}
		}
	})
}

func FuzzUnpack(f *testing.F) {
	p := new(packer)
	for _, plain := range [][]byte{
		[]byte("seed"), make([]byte, 100), bytes.Repeat([]byte("zstd"), 50),
		image(1, 5000), swapped(image(1, 5001)), byteImage(1, 6000, 1), byteImage(1, 6000, 3), few(4500),
	} {
		codec, payload := p.pack(plain)
		f.Add(codec, bytes.Clone(payload))
		f.Add(byte(codecZstd), compressor().EncodeAll(plain, nil))
		f.Add(byte(codecPlanes), p.planes.encode(&p.huff, nil, plain, filter{unitLE, 2}))
	}
	u := new(unpacker)
	f.Fuzz(func(t *testing.T, codec byte, payload []byte) {
		payload = slices.Clip(payload)
		plain, err := u.unpack(codec, payload)
		if err != nil {
			if plain != nil || !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrVersion) {
				t.Fatalf("%d bytes, %v", len(plain), err)
			}
			return
		}
		if len(plain) > MaxPlain {
			t.Fatalf("%d bytes", len(plain))
		}
		again, payload := p.pack(plain)
		if again == codecStored {
			return
		}
		if back, err := u.unpack(again, payload); err != nil || !bytes.Equal(back, plain) {
			t.Fatalf("packed again: %v", err)
		}
	})
}

// FuzzPlanes is that whatever is taken apart comes together again.
func FuzzPlanes(f *testing.F) {
	f.Add([]byte("seed"), byte(0), byte(0))
	f.Add(image(1, 200), byte(1), byte(1))
	f.Add(noise(1, 1100), byte(2), byte(255))
	p, u := new(packer), new(unpacker)
	f.Fuzz(func(t *testing.T, plain []byte, as, lag byte) {
		if len(plain) > MaxPlain {
			return
		}
		payload := p.planes.encode(&p.huff, nil, plain, filter{unit(as % 3), lag})
		if got, err := u.unpack(codecPlanes, payload); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d of %d bytes, %v", len(got), len(plain), err)
		}
	})
}
