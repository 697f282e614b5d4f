package cas

import (
	"bytes"
	"errors"
	"testing"

	"github.com/ipfs/go-cid"
)

func TestTheDoor(t *testing.T) {
	good, err := testKey(0).Seal([]byte("plain"))
	if err != nil {
		t.Fatal(err)
	}
	altered := Block{good.CID, bytes.Clone(good.Data)}
	altered.Data[20] ^= 1
	for _, c := range []struct {
		name string
		b    Block
		want error
	}{
		{"whole", good, nil},
		{"altered", altered, ErrCorrupt},
		{"another's address", Block{Sum([]byte("other")), good.Data}, ErrCorrupt},
		{"cut", Block{good.CID, good.Data[:10]}, ErrCorrupt},
		{"empty", Block{good.CID, nil}, ErrCorrupt},
		{"too large", Block{Sum(make([]byte, MaxBlock+1)), make([]byte, MaxBlock+1)}, ErrTooLarge},
		{"no address", Block{cid.Undef, good.Data}, ErrBadCID},
		{"another codec", Block{cid.NewCidV1(cid.DagCBOR, good.CID.Hash()), good.Data}, ErrBadCID},
		{"version 0", Block{cid.NewCidV0(good.CID.Hash()), good.Data}, ErrBadCID},
	} {
		if err := c.b.Verify(); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		m := NewMemory().Shelf(ShelfID{})
		first, err := testKey(0).Seal([]byte("a whole one before it"))
		if err != nil {
			t.Fatal(err)
		}
		err = Verified(m).Put(t.Context(), first, c.b)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: put: %v, want %v", c.name, err, c.want)
		}
		if has, err := m.Has(t.Context(), first.CID); has != (c.want == nil) || err != nil {
			t.Errorf("%s: the whole block before it is stored: %v, %v", c.name, has, err)
		}
	}
}

func TestParseCID(t *testing.T) {
	want := Sum([]byte("x"))
	if got, err := ParseCID(want.Bytes()); err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "cut": want.Bytes()[:35], "longer": append(want.Bytes(), 0),
		"dag-pb": cid.NewCidV1(cid.DagProtobuf, want.Hash()).Bytes(), "version 0": cid.NewCidV0(want.Hash()).Bytes(),
		"SHA-512/256": append([]byte{1, 0x55, 0x13, 0x20}, want.Hash()[2:]...),
	} {
		if got, err := ParseCID(b); !errors.Is(err, ErrBadCID) || got.Defined() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
