package index

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

func packer(t testing.TB) *Packer {
	t.Helper()
	p, err := NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Whatever is packed comes out again, and is never longer than it was.
func TestPackAndUnpack(t *testing.T) {
	p := packer(t)
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "word")
		msg := append([]byte{0xa1}, bytes.Repeat(word, rapid.IntRange(0, 2000).Draw(t, "times"))...)
		msg = append(msg, rapid.SliceOf(rapid.Byte()).Draw(t, "end")...)
		b := p.Pack(msg)
		if len(b) > len(msg) {
			t.Fatalf("%d bytes became %d", len(msg), len(b))
		}
		got, err := p.Unpack(b)
		if err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("%d bytes packed as %d came out as %d, %v", len(msg), len(b), len(got), err)
		}
	})
}

// Batches of studies take less than two thirds of their bytes: salts and commitments do not pack.
func TestPackedBatches(t *testing.T) {
	var say []Statement
	for i := range MaxFacts {
		say = append(say, mustStudy(t, Study{UID: fmt.Sprintf("1.2.826.0.1.3680043.8.%d", 1000+i*i), Date: "20250311", Time: "101500", Description: "CT Thorax with contrast",
			Modalities: []string{"CT"}, Accession: fmt.Sprintf("A%07d", i), AccessionIssuer: "RAA",
			Patient: []PatientID{{fmt.Sprintf("P%05d", i*7919), "RAA"}}, Name: "Mustermann^Erika", BirthDate: "19640812", Sex: "F"}))
	}
	v := sealed(t, nodeKeyOf("RAA"), 1, say)[0]
	msg := Batches{Batches: []Batch{v.batch}}.Encode()
	got := packer(t).Pack(msg)
	t.Logf("%d bytes became %d", len(msg), len(got))
	if 3*len(got) > 2*len(msg) {
		t.Errorf("%d bytes of batches were packed as %d", len(msg), len(got))
	}
}

func TestUnpackRefuses(t *testing.T) {
	p := packer(t)
	frame := func(msg []byte, opts ...zstd.EOption) []byte {
		e, err := zstd.NewWriter(nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return e.EncodeAll(msg, nil)
	}
	stream := func(msg []byte) []byte { // of unknown length
		var b bytes.Buffer
		e, err := zstd.NewWriter(&b)
		if err == nil {
			_, err = e.Write(msg)
		}
		if err = errors.Join(err, e.Flush(), e.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	some := bytes.Repeat([]byte("Hæmorrhage? 17 series "), 20)
	packed := p.Pack(some)
	damaged := bytes.Clone(packed)
	damaged[len(damaged)-1] ^= 1 // of the checksum
	for name, b := range map[string][]byte{
		"too long":             frame(bytes.Repeat([]byte{7}, MaxMessage+1)),
		"a bomb":               frame(bytes.Repeat([]byte{7}, MaxMessage)),
		"of unknown length":    stream(bytes.Repeat(some, 3000)),
		"a cut head":           packed[:5],
		"cut":                  packed[:len(packed)-5],
		"damaged":              damaged,
		"two":                  append(bytes.Clone(packed), packed...),
		"with more behind it":  append(bytes.Clone(packed), 1, 2, 3),
		"of a dictionary":      {0x28, 0xb5, 0x2f, 0xfd, 0x21, 0x01, 0x10, 0x01, 0x00, 0x00},
		"of a huge length":     {0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00, 0x00},
		"of a reserved marker": {0x28, 0xb5, 0x2f, 0xfd, 0x28, 0x10, 0x00, 0x00},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := p.Unpack(b)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: unpacked as %d bytes", name, len(got))
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
			t.Errorf("%s: %d bytes were allocated for %d", name, n, len(b))
		}
	}
}

func FuzzUnpack(f *testing.F) {
	p := packer(f)
	f.Add([]byte{0xa1, 0, 1})
	f.Add(p.Pack(bytes.Repeat([]byte("17 series "), 100)))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x24, 0x01, 0x09, 0x00, 0x00, 0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, err := p.Unpack(b)
		if err != nil {
			return
		}
		if len(msg) > max(len(b), min(MaxMessage, packedRatio*len(b))) {
			t.Fatalf("%d bytes of %d", len(msg), len(b))
		}
		if again, err := p.Unpack(p.Pack(msg)); err != nil || !bytes.HasPrefix(msg, packedMagic) && !bytes.Equal(again, msg) {
			t.Fatalf("does not come out again: %v", err)
		}
	})
}
