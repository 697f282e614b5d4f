package index

import (
	"bytes"
	"runtime"
	"testing"
)

func FuzzPage(f *testing.F) {
	good := cut(f, madeFacts(10, 1, 5, 64))[0]
	f.Add(encode(good.page))
	f.Add(encode(Page{Header: good.page.Header, Payloads: make([]Payload, 3)}))
	f.Add(encode(Page{Header: encode(pageHeader{Version: 1, Node: make([]byte, 32), Epoch: 1, Group: 1 << 50, Which: 1, Commit: make([]byte, 32)}), Payloads: make([]Payload, 1)}))
	f.Add([]byte{0x82, 0x40, 0x9b, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := decodePage(raw)
		if err != nil {
			return
		}
		v, err := p.Verify(nodeOf("RAA"), sum(p.Header))
		if err != nil {
			return
		}
		last := Seq(0)
		n := 0
		for f := range v.Facts() {
			if f.Seq <= last || n > 0 && (f.Seq-1)/PageSpan != (last-1)/PageSpan || n == 0 && f.Seq != v.Ref().First {
				t.Fatalf("fact %d after %d", f.Seq, last)
			}
			if !f.Payload.dropped() && f.Payload.commitment() != f.Commitment {
				t.Fatal("a payload of another commitment was accepted")
			}
			last = f.Seq
			n++
		}
		if n == 0 || n != v.Len() || n > PageSpan || v.Holes() > n {
			t.Fatalf("%d facts, %d of them holes", n, v.Holes())
		}
		again, err := decodePage(encode(p))
		if err != nil || !bytes.Equal(again.Header, p.Header) {
			t.Fatalf("not the same again: %v", err)
		}
		// Whoever has just these facts cuts the same page, but for fields of the header that this version does not know.
		if v.Holes() == 0 && bytes.Equal(encode(v.header), p.Header) {
			for w, err := range CutPages(nodeOf("RAA"), v.Epoch(), func(yield func(PageFact, error) bool) {
				for f := range v.Facts() {
					if !yield(f, nil) {
						return
					}
				}
			}) {
				if err != nil || w.Ref() != v.Ref() {
					t.Fatalf("cut again it is another page: %v", err)
				}
			}
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	s, _ := built(f, 200, madeFacts(10, 1, 70, 200))
	st, err := SnapshotStatement(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(st.Body)
	f.Add(encode(snapshotBody{Version: 1, Epoch: 1, Seq: 1, Hash: make([]byte, 32), Sig: make([]byte, 64), Pages: 1 << 63, Facts: 1 << 63, Root: make([]byte, 32)}))
	f.Add(encode(map[int]any{0: 1, 1: -1}))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := decodeSnapshot(nodeOf("RAA").String(), body)
		if err != nil {
			return
		}
		again, err := SnapshotStatement(s)
		if err != nil {
			t.Fatalf("accepted, but not said again: %v", err)
		}
		if s.sheets() > MaxSheets || s.Pages > 0 && s.inSheet(s.sheets()-1) < 1 {
			t.Fatalf("%d sheets", s.sheets())
		}
		if got, err := decodeSnapshot(again.Subject, again.Body); err != nil || got.Root != s.Root || got.Pages != s.Pages {
			t.Fatalf("not the same again: %v", err)
		}
	})
}

func FuzzSheet(f *testing.F) {
	s, out := built(f, 2000, madeFacts(10, seqs(1, 2000)...))
	f.Add(out.sheets[0], uint16(s.Pages))
	f.Add(out.sheets[-1], uint16(1))
	f.Add(encodeRefs(nil), uint16(0))
	f.Add(encodeRefs([]PageRef{{First: 5}, {First: 5}}), uint16(2))
	f.Add([]byte{0xa2, 0, 1, 1, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(1))
	f.Fuzz(func(t *testing.T, raw []byte, want uint16) {
		refs, err := readRefs("sheet", nodeOf("RAA"), raw, sum(raw), int(want), MaxSheets)
		if err != nil {
			return
		}
		if len(refs) != int(want) || len(refs) > MaxSheets || !bytes.Equal(encodeRefs(refs), raw) {
			t.Fatal("a list of another form was accepted")
		}
	})
}

func FuzzSnapshotMessage(f *testing.F) {
	owner := newShelf(f, "RAA")
	owner.say(note("a", "1"), note("b", "2"))
	o := owner.snapshot()
	root, node := o.Snapshot.Root, nodeOf("RAA")
	f.Add(SnapshotOffer{Batch: o.Batch.Batch()}.Encode())
	for _, p := range []Part{PartList, PartSheet, PartPages} {
		m := WantParts{Node: node, Root: root, Part: p, Count: 1, Limit: 1000}
		f.Add(m.Encode())
		f.Add(mustAnswer(f, owner, m).Encode())
	}
	f.Add(WantParts{Node: node, Part: PartOffer}.Encode())
	f.Add(Parts{Node: node, Root: root, Part: PartPages, Parts: [][]byte{{}, {0x80}}}.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		owner.t = t
		m, err := DecodeMessage(raw)
		if err != nil {
			return
		}
		again, err := DecodeMessage(m.Encode())
		if err != nil || !bytes.Equal(again.Encode(), m.Encode()) {
			t.Fatalf("not the same again: %v", err)
		}
		if w, ok := m.(WantParts); ok {
			if got := mustAnswer(t, owner, w); len(got.Encode()) > MaxMessage {
				t.Fatal("an answer over the limit")
			}
			return
		}
		// At every stage of taking up, whatever comes leaves nothing that was not signed.
		s := newShelf(t, "RAA")
		b := bootstrapOver(t, s, 1)
		out, err := b.Tick([]NodeID{node})
		for stage := 0; stage < 4 && err == nil; stage++ {
			_, _ = b.Step(node, m)
			for b.Busy() {
				if _, err := b.Work(); err != nil {
					t.Fatal(err)
				}
			}
			if len(out) == 0 {
				break
			}
			out, err = b.Step(node, mustAnswer(t, owner, out[0].Message.(WantParts)))
			for b.Busy() {
				more, err := b.Work()
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, more...)
			}
		}
		for at, fact := range s.facts {
			if owner.facts[at].Commitment != fact.Commitment {
				t.Fatalf("a fact at %v that nobody said", at)
			}
		}
	})
}

// What the decoders of snapshots allocate stays in proportion to what they read, whatever counts the bytes claim.
func TestSnapshotDecodersAllocateInProportion(t *testing.T) {
	array := func(n int, with byte) []byte {
		return append([]byte{0x9a, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, bytes.Repeat([]byte{with}, n)...)
	}
	var inputs [][]byte
	for _, with := range []byte{0xf6, 0x40, 0x80} {
		for _, n := range []int{PageSpan, MaxSheet, MaxHeads, 500_000} {
			a := array(n, with)
			for field := range byte(22) {
				inputs = append(inputs, append([]byte{0xa2, 0x00, 0x0a, field | 1}, a...), append([]byte{0xa2, 0x00, 0x0a, 0x14}, a...))
			}
			inputs = append(inputs, append([]byte{0x82, 0x40}, a...))
		}
	}
	inputs = append(inputs, bytes.Repeat([]byte{0x81}, 200_000), bytes.Repeat([]byte{0xa1}, 200_000), []byte{0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	for name, read := range map[string]func([]byte){
		"offer":    func(b []byte) { _, _ = decodeSnapshotMessage(typeSnapshotOffer, b) },
		"want":     func(b []byte) { _, _ = decodeSnapshotMessage(typeWantParts, b) },
		"parts":    func(b []byte) { _, _ = decodeSnapshotMessage(typeParts, b) },
		"page":     func(b []byte) { _, _ = decodePage(b) },
		"header":   func(b []byte) { _, _ = Page{Header: b}.Verify(NodeID{}, sum(b)) },
		"sheet":    func(b []byte) { _, _ = readRefs("sheet", NodeID{}, b, sum(b), MaxSheet, MaxSheet) },
		"snapshot": func(b []byte) { _, _ = decodeSnapshot(nodeOf("RAA").String(), b) },
	} {
		for _, in := range inputs {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			read(in)
			runtime.ReadMemStats(&after)
			if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(64*len(in)+64<<10); got > limit {
				t.Errorf("%s: %d bytes allocated for %d read (%x…)", name, got, len(in), in[:min(len(in), 9)])
			}
		}
	}
}
