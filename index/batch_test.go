package index

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestBatchVerifiesAsStored(t *testing.T) {
	v := sealed(t, testKey("a"), 1, []Statement{note("x", "one"), note("y", "two")})[0]
	if h := v.Head(); h.Node != NodeIDOf(testKey("a")) || h.Epoch != 1 || h.Seq != 2 || v.First() != 1 {
		t.Fatalf("head %+v, first %d", h, v.First())
	}
	again, err := decodeBatch(encode(v.Batch()))
	if err != nil {
		t.Fatal(err)
	}
	w, err := again.Verify()
	if err != nil {
		t.Fatal(err)
	}
	if !w.Head().same(v.Head()) {
		t.Fatal("another head after a round trip")
	}
	s, err := decodePayload(w.Batch().Payloads[1].Data)
	if err != nil || s.Subject != "y" || string(s.Body) != "two" {
		t.Fatalf("%+v, %v", s, err)
	}
}

// A field of a later version is kept, signed and verified with the rest: the stored bytes are what counts.
func TestBatchHeaderKeepsUnknownFields(t *testing.T) {
	key := testKey("a")
	node := NodeIDOf(key)
	p := Payload{Salt: make([]byte, saltSize), Data: []byte("x")}
	c := p.commitment()
	raw := encode(map[int]any{0: 1, 1: node[:], 2: 1, 3: 1, 5: [][]byte{c[:]}, 9: "of a later version"})
	b := Batch{Header: raw, Sig: signHeader(key, raw, 1), Payloads: []Payload{p}}
	v, err := b.Verify()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(v.Batch().Header, raw) {
		t.Fatal("the header changed")
	}
}

func TestBatchRefusals(t *testing.T) {
	key := testKey("a")
	node := NodeIDOf(key)
	good := sealed(t, key, 1, []Statement{note("x", "one"), note("y", "two")})[0].Batch()
	hash := make([]byte, 32)
	signed := func(h map[int]any, seq Seq) Batch {
		raw := encode(h)
		return Batch{Header: raw, Sig: signHeader(key, raw, seq), Payloads: []Payload{{}}}
	}
	head := func(change func(map[int]any)) map[int]any {
		h := map[int]any{0: 1, 1: node[:], 2: 1, 3: 1, 5: [][]byte{hash}}
		change(h)
		return h
	}
	changed := func(f func(b *Batch)) Batch {
		b := Batch{Header: bytes.Clone(good.Header), Sig: bytes.Clone(good.Sig)}
		for _, p := range good.Payloads {
			b.Payloads = append(b.Payloads, Payload{Salt: bytes.Clone(p.Salt), Data: bytes.Clone(p.Data)})
		}
		f(&b)
		return b
	}
	many := func(n int) (out [][]byte) {
		for range n {
			out = append(out, hash)
		}
		return out
	}
	for name, c := range map[string]struct {
		batch Batch
		want  any
	}{
		"nothing":           {Batch{}, new(*MalformedError)},
		"another signature": {changed(func(b *Batch) { b.Sig[5] ^= 1 }), new(*ForgedError)},
		"short signature":   {changed(func(b *Batch) { b.Sig = b.Sig[:63] }), new(*MalformedError)},
		"another payload":   {changed(func(b *Batch) { b.Payloads[0].Data[3] ^= 1 }), new(*ForgedError)},
		"another salt":      {changed(func(b *Batch) { b.Payloads[0].Salt[3] ^= 1 }), new(*ForgedError)},
		"salt and data shifted": {changed(func(b *Batch) {
			p := &b.Payloads[0]
			p.Data = append(p.Salt[15:16:16], p.Data...)
			p.Salt = p.Salt[:15]
		}), new(*MalformedError)},
		"payloads swapped":      {changed(func(b *Batch) { b.Payloads[0], b.Payloads[1] = b.Payloads[1], b.Payloads[0] }), new(*ForgedError)},
		"a payload too few":     {changed(func(b *Batch) { b.Payloads = b.Payloads[:1] }), new(*MalformedError)},
		"data without its salt": {changed(func(b *Batch) { b.Payloads[0].Salt = nil }), new(*MalformedError)},
		"too large":             {changed(func(b *Batch) { b.Payloads[0].Data = make([]byte, MaxBatch) }), new(*LimitError)},
		"large payload":         {changed(func(b *Batch) { b.Payloads[0].Data = make([]byte, MaxPayload+1) }), new(*LimitError)},
		"large header":          {Batch{Header: make([]byte, maxHeader+1), Sig: good.Sig}, new(*LimitError)},
		"no version":            {signed(head(func(h map[int]any) { h[0] = 0 }), 1), new(*MalformedError)},
		"newer, not the known":  {signed(head(func(h map[int]any) { h[0] = 2; h[5] = "another form" }), 1), new(*MalformedError)},
		"no epoch":              {signed(head(func(h map[int]any) { h[2] = 0 }), 1), new(*MalformedError)},
		"absurd epoch":          {signed(head(func(h map[int]any) { h[2] = 256 }), 1), new(*MalformedError)},
		"position zero":         {signed(head(func(h map[int]any) { h[3] = 0 }), 0), new(*MalformedError)},
		"absurd position":       {signed(head(func(h map[int]any) { h[3] = uint64(1) << 63; h[4] = hash }), 0), new(*MalformedError)},
		"first with a previous": {signed(head(func(h map[int]any) { h[4] = hash }), 1), new(*MalformedError)},
		"no previous":           {signed(head(func(h map[int]any) { h[3] = 2 }), 2), new(*MalformedError)},
		"short previous":        {signed(head(func(h map[int]any) { h[3] = 2; h[4] = hash[:31] }), 2), new(*MalformedError)},
		"no facts":              {signed(head(func(h map[int]any) { h[5] = [][]byte{} }), 1), new(*MalformedError)},
		"too many facts":        {signed(head(func(h map[int]any) { h[5] = many(MaxFacts + 1) }), MaxFacts+1), new(*MalformedError)},
		"short commitment":      {signed(head(func(h map[int]any) { h[5] = [][]byte{hash[:31]} }), 1), new(*MalformedError)},
		"short node":            {signed(head(func(h map[int]any) { h[1] = node[:31] }), 1), new(*MalformedError)},
		"signed for elsewhere":  {signed(head(func(map[int]any) {}), 2), new(*ForgedError)},
	} {
		if _, err := c.batch.Verify(); err == nil || !errors.As(err, c.want) {
			t.Errorf("%s: %v, want a %T", name, err, c.want)
		}
	}
}

// A later version may add to the header: its batches are taken as the bytes they are.
func TestHeaderOfALaterVersion(t *testing.T) {
	key := testKey("a")
	b := laterHeader(key, sealed(t, key, 1, []Statement{note("x", "one")})[0])
	v, err := b.Verify()
	if err != nil {
		t.Fatal(err)
	}
	if v.First() != 1 || v.Head().Seq != 1 || !bytes.Equal(v.Batch().Header, b.Header) {
		t.Fatalf("%+v", v)
	}
	b.Header = bytes.Clone(b.Header)
	b.Header[len(b.Header)-1] ^= 1 // of the field that is not known
	var forged *ForgedError
	if _, err := b.Verify(); !errors.As(err, &forged) {
		t.Fatalf("a change of an unknown field: %v", err)
	}
}

func TestDroppedPayloadStillVerifies(t *testing.T) {
	b := sealed(t, testKey("a"), 1, []Statement{note("x", "one"), note("y", "two")})[0].Batch()
	b.Payloads[0] = Payload{}
	if _, err := b.Verify(); err != nil {
		t.Fatal(err)
	}
}

// No bit of an encoded batch can change without the change being seen: refused, or (a payload made a dropped one) no other fact.
func TestNoBitOfABatchCanChange(t *testing.T) {
	good := encode(sealed(t, testKey("a"), 1, []Statement{note("x", "one")})[0].Batch())
	rapid.Check(t, func(t *rapid.T) {
		raw := bytes.Clone(good)
		i := rapid.IntRange(0, len(raw)*8-1).Draw(t, "bit")
		raw[i/8] ^= 1 << (i % 8)
		b, err := decodeBatch(raw)
		if err != nil {
			return
		}
		if _, err := b.Verify(); err == nil {
			t.Fatalf("bit %d changed unseen", i)
		}
	})
}

func TestHeadText(t *testing.T) {
	h := sealed(t, testKey("a"), 3, []Statement{note("x", "one")})[0].Head()
	got, err := DecodeHead(h.Encode())
	if err != nil || !got.same(h) || got.verify() != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, change := range map[string]func(h *Head){
		"node":  func(h *Head) { h.Node[0] ^= 1 },
		"epoch": func(h *Head) { h.Epoch++ },
		"seq":   func(h *Head) { h.Seq++ },
		"hash":  func(h *Head) { h.Hash[0] ^= 1 },
		"sig":   func(h *Head) { h.Sig = bytes.Clone(h.Sig); h.Sig[0] ^= 1 },
	} {
		w := h
		change(&w)
		if err := w.verify(); err == nil {
			t.Errorf("a head with another %s verifies", name)
		}
	}
}

func TestNodeIDText(t *testing.T) {
	// The peer ID libp2p gives the key of 32 zero bytes' seed.
	n := nodeOf("RAA")
	s := n.String()
	if s[:8] != "12D3KooW" {
		t.Fatalf("%s is not how peer IDs of Ed25519 keys begin", s)
	}
	if got, err := ParseNodeID(s); err != nil || got != n {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "12D3", s[:len(s)-1], s + "1", "Qm" + s, "0OIl", string(make([]byte, 1000))} {
		if _, err := ParseNodeID(bad); err == nil {
			t.Errorf("%q is taken for a node ID", bad)
		}
	}
}
