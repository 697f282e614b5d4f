package cas

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// testKey is a key that is the same in every run.
func testKey(seed byte) Key {
	k := Key{}
	for i := range k {
		k[i] = seed + byte(i)
	}
	return k
}

// noise is bytes that do not compress.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// image is bytes that compress about as native pixel data do: a gradient
// with noise in the low bits of 16-bit samples.
func image(seed uint64, n int) []byte {
	b := noise(seed, n)
	for i := 0; i+1 < n; i += 2 {
		v := uint16(i/64) + uint16(b[i]&7)
		binary.LittleEndian.PutUint16(b[i:], v)
	}
	return b
}

// byteImage is image with samples of 8 bits, of so many colours.
func byteImage(seed uint64, n, colours int) []byte {
	b := noise(seed, n)
	for i := range b {
		b[i] = b[i]%7 - 3
		if i >= colours {
			b[i] += b[i-colours]
		}
	}
	return b
}

// swapped has the other byte order.
func swapped(b []byte) []byte {
	b = bytes.Clone(b)
	for i := 0; i+1 < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return b
}

func plaintext(t *rapid.T) []byte {
	small, large := rapid.IntRange(0, 3000), rapid.IntRange(MaxPlain-3, MaxPlain)
	n := rapid.OneOf(small, small, small, small, small, small, small, small, rapid.IntRange(0, 100_000), large).Draw(t, "size")
	seed := rapid.Uint64().Draw(t, "seed")
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		return noise(seed, n)
	case 1:
		return image(seed, n)
	case 2:
		return swapped(image(seed, n))
	case 3:
		return byteImage(seed, n, 1)
	case 4:
		return byteImage(seed, n, 3)
	default:
		return bytes.Repeat([]byte{byte(seed)}, n)
	}
}

func TestSealOpenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, plain := testKey(rapid.Byte().Draw(t, "key")), plaintext(t)
		b, err := k.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Verify(); err != nil {
			t.Fatal(err)
		}
		if len(b.Data) > len(plain)+Overhead {
			t.Fatalf("%d bytes became %d", len(plain), len(b.Data))
		}
		got, err := k.Open(b)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes back, %v", len(got), err)
		}
	})
}

func TestSealIsDeterministicForAKeyOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plain := plaintext(t)
		one, two := testKey(1), testKey(2)
		a, _ := one.Seal(plain)
		again, _ := one.Seal(bytes.Clone(plain))
		if a.CID != again.CID || !bytes.Equal(a.Data, again.Data) {
			t.Fatal("the same bytes under the same key gave two blocks")
		}
		other, _ := two.Seal(plain)
		if len(plain) > 0 && common(a.Data[2:], other.Data[2:]) > 8 {
			t.Fatal("two keys gave related blocks")
		}
		if len(plain) > 16 && bytes.Contains(a.Data, plain[:16]) {
			t.Fatal("plaintext shows")
		}
	})
}

// common is the length of the common prefix.
func common(a, b []byte) (n int) {
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// These addresses are what is stored in the field. When a change to sealing,
// or to a compressor, alters one of them, every re-sent instance is stored a
// second time: that needs a new codec number and a reason.
func TestSealKeepsItsAddresses(t *testing.T) {
	for _, c := range []struct {
		name  string
		plain []byte
		codec byte
		want  string
	}{
		{"empty", nil, codecStored, "bafkreieolmqam6hrklksbr6vx43sunznkgkmu56zv63oeltbdxys46nrva"},
		{"short", []byte("no patient here"), codecStored, "bafkreihhsaavmfpnmsxbf4cry7cjcue6ssop25ypd5756ctd2blzth4vcy"},
		{"noise", noise(1, 100_000), codecStored, "bafkreiaz3tarxkorpwzaag6meviyiqvapcrrfij27kak6vpvsblgqrmpha"},
		{"one value", make([]byte, MaxPlain), codecZstd, "bafkreicu3qzf3k4zfyqt2ehqopzuy6rxwnep6pgou6exe23xafev7r276u"},
		{"image", image(1, 512<<10), codecPlanes, "bafkreigffur425stpmnvs2othbu75e6m7ao6sbabwyfwvbf4iwkgigu3xy"},
		{"image, high byte first", swapped(image(1, 512<<10)), codecPlanes, "bafkreihike6tnqidxfnemjq3lcxi4224erapsbze4sqeftlf3oxve3wpbq"},
		{"image of bytes", byteImage(1, 300_001, 1), codecPlanes, "bafkreic3xwgkjclxlszwroucv4xi5zcyykqwiagwqzll7pd3mdhwlo2dea"},
		{"image of three colours", byteImage(1, 300_002, 3), codecPlanes, "bafkreih5ahf4gnl73u64zlbeeqijpnbjesergckdjvjvdqxne25ms5v2lu"},
	} {
		b, err := testKey(0).Seal(c.plain)
		if err != nil {
			t.Fatal(err)
		}
		if b.CID.String() != c.want || b.Data[1] != c.codec {
			t.Errorf("%s: codec %d, %s, want %d, %s", c.name, b.Data[1], b.CID, c.codec, c.want)
		}
	}
}

// Blocks of codecs that are no longer chosen stay where they are and open.
func TestOldBlocksOpen(t *testing.T) {
	plain := image(1, 512<<10)
	b := newSealer(testKey(0)).sealPayload(domData, codecZstd, compressor().EncodeAll(plain, nil))
	if want := "bafkreihpn2qxzk64ouqjajoybhxtjlkpfkbouu2anleobglt4v3elvkmxq"; b.CID.String() != want {
		t.Errorf("%s, want %s", b.CID, want)
	}
	for name, b := range map[string]Block{"zstd": b, "stored": newSealer(testKey(0)).sealPayload(domData, codecStored, plain)} {
		if got, err := testKey(0).Open(b); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestSealRefusesTooMuch(t *testing.T) {
	if _, err := testKey(0).Seal(make([]byte, MaxPlain+1)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
}

func TestOpenRefusesEveryAlteredByte(t *testing.T) {
	k := testKey(0)
	for _, plain := range [][]byte{noise(1, 200), image(1, 2000)} {
		b, err := k.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Data {
			bad := bytes.Clone(b.Data)
			bad[i] ^= 1 << (i % 8)
			if got, err := k.Open(Block{b.CID, bad}); !errors.Is(err, ErrCorrupt) || got != nil {
				t.Fatalf("byte %d altered: %v", i, err)
			}
			// Even under an address that fits, as from a lying holder.
			got, err := k.Open(Block{Sum(bad), bad})
			if !errors.Is(err, ErrWrongKey) && !errors.Is(err, ErrVersion) || got != nil {
				t.Fatalf("byte %d altered, address as well: %v", i, err)
			}
		}
		for n := range b.Data {
			cut := b.Data[:n]
			if _, err := k.Open(Block{b.CID, cut}); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
			if _, err := k.Open(Block{Sum(cut), cut}); err == nil {
				t.Fatalf("cut to %d bytes, address as well: opened", n)
			}
		}
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	k := testKey(0)
	b, err := k.Seal([]byte("whole"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testKey(1).Open(b); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	later := bytes.Clone(b.Data)
	later[0] = 2
	if _, err := k.Open(Block{Sum(later), later}); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	later = bytes.Clone(b.Data)
	later[1] = 9
	if _, err := k.Open(Block{Sum(later), later}); !errors.Is(err, ErrVersion) {
		t.Errorf("an unknown codec: %v", err)
	}
	large := make([]byte, MaxBlock+1)
	if _, err := k.Open(Block{Sum(large), large}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func TestDomainsDoNotMix(t *testing.T) {
	s := newSealer(testKey(0))
	doms := []domain{domData, domObject, domChunk, domList}
	cids := map[string]bool{}
	for _, made := range doms {
		b, err := s.seal(made, []byte("the same bytes"))
		if err != nil {
			t.Fatal(err)
		}
		cids[b.CID.String()] = true
		for _, read := range doms {
			if _, err := s.open(read, b); (err == nil) != (read == made) {
				t.Errorf("sealed as %d, opened as %d: %v", made, read, err)
			}
		}
	}
	if len(cids) != len(doms) {
		t.Error("two domains gave one address")
	}
}

func TestKeyDoesNotShow(t *testing.T) {
	k := testKey('A')
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "key", k, "in", struct{ K Key }{k})
	for _, s := range []string{
		fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %x %X %s %q %d", k, k, k, k, k, k, k, k),
		fmt.Sprintf("%v %+v %#v", struct{ K Key }{k}, &k, []Key{k}), log.String(),
	} {
		for _, leak := range []string{"ABCD", "4142", "65 66", "0x41"} {
			if strings.Contains(s, leak) {
				t.Errorf("a key shows: %s", s)
			}
		}
	}
}

func TestKeyIsNotForJSON(t *testing.T) {
	if b, err := json.Marshal(struct{ K Key }{testKey(0)}); err == nil {
		t.Errorf("a key went into JSON: %s", b)
	}
}

func FuzzOpen(f *testing.F) {
	k := testKey(0)
	for _, plain := range [][]byte{nil, []byte("seed"), image(1, 3000)} {
		b, err := k.Seal(plain)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b.Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err := k.Open(Block{Sum(data), data})
		if err != nil {
			return
		}
		// Only who has the key makes blocks that open; the seeds did.
		if _, err := k.Seal(plain); err != nil {
			t.Fatal(err)
		}
	})
}
