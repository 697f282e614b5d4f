package index

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// madeFacts are facts at positions, with bodies of a size.
func madeFacts(size int, at ...Seq) []PageFact {
	var out []PageFact
	for _, seq := range at {
		salt := bytes.Repeat([]byte{byte(seq), byte(seq >> 8), byte(seq >> 16), 7}, 4)
		out = append(out, PageFact{Seq: seq, Payload: Payload{Salt: salt, Data: encode(note(fmt.Sprint("s", seq), strings.Repeat("x", size)))}})
	}
	return out
}

func each(facts []PageFact) iter.Seq2[PageFact, error] {
	return func(yield func(PageFact, error) bool) {
		for _, f := range facts {
			if !yield(f, nil) {
				return
			}
		}
	}
}

func cut(t testing.TB, facts []PageFact) (out []VerifiedPage) {
	t.Helper()
	for v, err := range CutPages(nodeOf("RAA"), 1, each(facts)) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func headAt(t testing.TB, epoch Epoch, seq Seq) Head {
	t.Helper()
	h := Head{Node: nodeOf("RAA"), Epoch: epoch, Seq: seq, Hash: [32]byte{1}}
	h.Sig = signHead(nodeKeyOf("RAA"), h)
	return h
}

func built(t testing.TB, seq Seq, facts []PageFact) (Snapshot, *shelfOut) {
	t.Helper()
	out := &shelfOut{sheets: map[int][]byte{}}
	s, err := BuildSnapshot(headAt(t, 1, seq), each(facts), out)
	if err != nil {
		t.Fatal(err)
	}
	return s, out
}

func seqs(from, to Seq) (out []Seq) {
	for i := from; i <= to; i++ {
		out = append(out, i)
	}
	return out
}

func TestPagesAreAligned(t *testing.T) {
	for name, c := range map[string]struct {
		size int
		at   []Seq
		want string
	}{
		"none":              {10, nil, ""},
		"first":             {10, []Seq{1}, "1:1"},
		"last of a group":   {10, []Seq{64}, "64:1"},
		"either side":       {10, []Seq{64, 65}, "64:1 65:1"},
		"a group":           {10, seqs(1, 64), "1:64"},
		"gaps":              {10, []Seq{3, 60, 130, 700}, "3:2 130:1 700:1"},
		"split by payload":  {60 << 10, seqs(1, 8), "1:3 4:3 7:2"},
		"split, then align": {60 << 10, seqs(62, 70), "62:3 65:3 68:3"},
		"high":              {10, []Seq{MaxSeq - 1, MaxSeq}, fmt.Sprintf("%d:2", MaxSeq-1)},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, v := range cut(t, madeFacts(c.size, c.at...)) {
				got = append(got, fmt.Sprintf("%d:%d", v.Ref().First, v.Len()))
				again, err := v.Page().Verify(nodeOf("RAA"), v.Ref().Hash)
				if err != nil || again.Ref() != v.Ref() || !slices.EqualFunc(slices.Collect(again.Facts()), slices.Collect(v.Facts()), func(a, b PageFact) bool {
					return a.Seq == b.Seq && a.Commitment == b.Commitment && bytes.Equal(a.Payload.Data, b.Payload.Data)
				}) {
					t.Fatalf("a page that was cut does not verify as the same: %v", err)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Fatalf("pages %s, want %s", s, c.want)
			}
		})
	}
}

func TestCuttingRefuses(t *testing.T) {
	f := madeFacts(10, 1, 2, 3)
	broken := errors.New("disk")
	for name, facts := range map[string]iter.Seq2[PageFact, error]{
		"descending": each([]PageFact{f[1], f[0]}),
		"twice":      each([]PageFact{f[1], f[1]}),
		"zero":       each([]PageFact{{Payload: f[0].Payload}}),
		"too large":  each([]PageFact{{Seq: 1, Payload: Payload{Salt: f[0].Payload.Salt, Data: make([]byte, MaxPayload+1)}}}),
		"short salt": each([]PageFact{{Seq: 1, Payload: Payload{Salt: []byte{1}}}}),
		"after head": each(madeFacts(10, 9, 11)),
		"disk":       func(yield func(PageFact, error) bool) { yield(PageFact{}, broken) },
	} {
		_, err := BuildSnapshot(headAt(t, 1, 10), facts, &shelfOut{sheets: map[int][]byte{}})
		if err == nil || name == "disk" && !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := headAt(t, 1, 10)
	h.Seq++
	if _, err := BuildSnapshot(h, each(nil), &shelfOut{sheets: map[int][]byte{}}); err == nil {
		t.Error("a snapshot at a head of no signature is built")
	}
}

// A payload that is dropped changes nothing but itself: the page is the same and verifies.
func TestPageWithoutPayload(t *testing.T) {
	facts := madeFacts(10, 1, 2, 3)
	whole := cut(t, facts)[0]
	p := whole.Page()
	p.Payloads = slices.Clone(p.Payloads)
	p.Payloads[1] = Payload{}
	v, err := p.Verify(nodeOf("RAA"), whole.Ref().Hash)
	if err != nil || v.Holes() != 1 || v.Len() != 3 {
		t.Fatalf("%d holes of %d, %v", v.Holes(), v.Len(), err)
	}
	got := slices.Collect(v.Facts())
	if !got[1].Payload.dropped() || got[1].Seq != 2 || got[1].Commitment != facts[1].Payload.commitment() {
		t.Fatalf("the hole is %+v", got[1])
	}
	if again := cut(t, got)[0]; again.Ref() != whole.Ref() {
		t.Fatal("who has dropped a payload cuts another page")
	}
}

func TestPageVerifyRefuses(t *testing.T) {
	node := nodeOf("RAA")
	good := cut(t, madeFacts(10, 1, 2))[0]
	sealedAs := func(change func(h *pageHeader)) Page {
		h := good.header
		h.Commit = bytes.Clone(h.Commit)
		change(&h)
		return Page{Header: encode(h), Payloads: slices.Clone(good.page.Payloads)}
	}
	var (
		forged    *ForgedError
		malformed *MalformedError
		limit     *LimitError
	)
	large := madeFacts(60<<10, 1, 2, 3, 4)
	overfull := Page{Header: encode(pageHeader{Version: 1, Node: node[:], Epoch: 1, Which: 0xf, Commit: func() (b []byte) {
		for _, f := range large {
			c := f.Payload.commitment()
			b = append(b, c[:]...)
		}
		return b
	}()})}
	for _, f := range large {
		overfull.Payloads = append(overfull.Payloads, f.Payload)
	}
	for name, c := range map[string]struct {
		page Page
		as   any
	}{
		"version":      {sealedAs(func(h *pageHeader) { h.Version = 2 }), &malformed},
		"node":         {sealedAs(func(h *pageHeader) { h.Node = bytes.Repeat([]byte{1}, 32) }), &malformed},
		"short node":   {sealedAs(func(h *pageHeader) { h.Node = h.Node[:31] }), &malformed},
		"no epoch":     {sealedAs(func(h *pageHeader) { h.Epoch = 0 }), &malformed},
		"epoch":        {sealedAs(func(h *pageHeader) { h.Epoch = 256 }), &malformed},
		"group":        {sealedAs(func(h *pageHeader) { h.Group = 1 << 60 }), &malformed},
		"nothing":      {sealedAs(func(h *pageHeader) { h.Which, h.Commit = 0, nil }), &malformed},
		"more facts":   {sealedAs(func(h *pageHeader) { h.Which = 7 }), &malformed},
		"commitment":   {sealedAs(func(h *pageHeader) { h.Commit[0] ^= 1 }), &forged},
		"cut short":    {sealedAs(func(h *pageHeader) { h.Commit = h.Commit[:33] }), &malformed},
		"payload gone": {Page{Header: good.page.Header, Payloads: good.page.Payloads[:1]}, &malformed},
		"swapped":      {Page{Header: good.page.Header, Payloads: []Payload{good.page.Payloads[1], good.page.Payloads[0]}}, &forged},
		"salt":         {Page{Header: good.page.Header, Payloads: []Payload{{Salt: []byte{1}}, {}}}, &malformed},
		"saltless":     {Page{Header: good.page.Header, Payloads: []Payload{{Data: []byte{1}}, {}}}, &malformed},
		"long header":  {Page{Header: make([]byte, maxPageHeader+1)}, &limit},
		"overfull":     {overfull, &limit},
		"huge":         {Page{Header: good.page.Header, Payloads: []Payload{{Data: make([]byte, MaxPageBytes)}}}, &limit},
		"no CBOR":      {Page{Header: []byte{0xff}}, &malformed},
	} {
		hash := sum(c.page.Header)
		if _, err := c.page.Verify(node, hash); err == nil || !errors.As(err, c.as) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := good.page.Verify(node, [32]byte{}); !errors.As(err, &forged) {
		t.Errorf("another hash: %v", err)
	}
}

// No bit of a page can change unseen, but that a payload becomes a dropped one.
func TestNoBitOfAPageCanChange(t *testing.T) {
	good := cut(t, madeFacts(10, 1, 2))[0]
	raw := encode(good.page)
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(raw)
		i := rapid.IntRange(0, len(b)*8-1).Draw(t, "bit")
		b[i/8] ^= 1 << (i % 8)
		p, err := decodePage(b)
		if err != nil {
			return
		}
		if _, err := p.Verify(nodeOf("RAA"), good.Ref().Hash); err == nil {
			t.Fatalf("bit %d changed unseen", i)
		}
	})
}

func TestPageOutsideItsSnapshot(t *testing.T) {
	facts := madeFacts(10, 60, 63)
	v := cut(t, facts)[0]
	raw := encode(v.page)
	for name, c := range map[string]struct {
		head  Head
		first Seq
		want  string
	}{
		"as it is":        {headAt(t, 1, 63), 60, ""},
		"above the head":  {headAt(t, 1, 62), 60, "after the end"},
		"another epoch":   {headAt(t, 2, 63), 60, "another epoch"},
		"another place":   {headAt(t, 1, 63), 59, "begin where"},
		"another's pages": {Head{Node: nodeOf("RBB"), Epoch: 1, Seq: 63}, 60, "another node"},
	} {
		_, err := Snapshot{Head: c.head}.ReadPage(PageRef{First: c.first, Hash: v.Ref().Hash}, raw)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who has the same facts, in whatever way they came, makes the same snapshot; in a bounded way, one page at a time.
func TestOwnerAndPeerMakeTheSameSnapshot(t *testing.T) {
	owner, peer := newShelf(t, "RAA"), newShelf(t, "RAA")
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 40 {
		var st []Statement
		for range 1 + rnd.IntN(60) {
			st = append(st, note(fmt.Sprint("s", rnd.IntN(900)), strings.Repeat("y", rnd.IntN(3000))))
		}
		owner.say(st...)
		if i == 20 {
			owner.retract("note", "s7")
		}
	}
	for _, v := range owner.batches {
		peer.take(v)
	}
	at := owner.head()
	a := owner.build(at)
	// What is said and taken back afterwards makes no difference.
	for _, st := range [][]Statement{{note("s1", "later")}, {note("s2", "later"), note("new", "later")}} {
		peer.take(owner.say(st...))
	}
	before := len(owner.batches)
	owner.retract("note", "s3")
	for _, v := range owner.batches[before:] {
		peer.take(v)
	}
	b := peer.build(at)
	if a.Root != b.Root || a.Facts != b.Facts || a.Pages != b.Pages {
		t.Fatalf("owner %d facts in %d pages, root %x; peer %d in %d, %x", a.Facts, a.Pages, a.Root[:4], b.Facts, b.Pages, b.Root[:4])
	}
	if a.Pages < 5 || a.Facts < 400 {
		t.Fatalf("too little to see anything: %+v", a)
	}
	if st, err := SnapshotStatement(a); err != nil {
		t.Fatal(err)
	} else if got, err := decodeSnapshot(st.Subject, st.Body); err != nil || got.Root != a.Root || got.Facts != a.Facts || !got.Head.same(a.Head) || got.Bytes != a.Bytes {
		t.Fatalf("%+v, %v", got, err)
	}
}

// Changing or taking away facts changes the pages of their groups, and no other.
func TestOnlyTouchedPagesChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held := map[Seq]int{}
		for _, s := range rapid.SliceOfNDistinct(rapid.IntRange(1, 2000), 1, 100, rapid.ID).Draw(t, "positions") {
			held[Seq(s)] = rapid.SampledFrom([]int{0, 10, 100, 60_000}).Draw(t, "size")
		}
		pages := func(gone map[Seq]bool) map[[32]byte]uint64 {
			var facts []PageFact
			for s := Seq(1); s <= 2000; s++ {
				if size, ok := held[s]; ok && !gone[s] {
					facts = append(facts, madeFacts(size, s)...)
				}
			}
			out := map[[32]byte]uint64{}
			for v, err := range CutPages(nodeOf("RAA"), 1, each(facts)) {
				if err != nil {
					t.Fatal(err)
				}
				out[v.Ref().Hash] = v.header.Group
			}
			return out
		}
		var all []Seq
		for s := range held {
			all = append(all, s)
		}
		slices.Sort(all)
		gone, touched := map[Seq]bool{}, map[uint64]bool{}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(all)-1), 1, 5).Draw(t, "taken away") {
			gone[all[i]] = true
			touched[uint64(all[i]-1)/PageSpan] = true
		}
		before, after := pages(nil), pages(gone)
		for hash, group := range before {
			if _, same := after[hash]; !same && !touched[group] {
				t.Fatalf("a page of group %d changed, and nothing of it was touched", group)
			}
		}
		for hash, group := range after {
			if _, same := before[hash]; !same && !touched[group] {
				t.Fatalf("group %d has a new page, and nothing of it was touched", group)
			}
		}
	})
}

func TestSheets(t *testing.T) {
	// One fact in each of 2500 groups: three sheets.
	var at []Seq
	for i := range Seq(2500) {
		at = append(at, i*PageSpan+1+i%PageSpan)
	}
	s, out := built(t, at[len(at)-1]+5, madeFacts(5, at...))
	if s.Pages != 2500 || s.Facts != 2500 || len(out.sheets) != 4 || s.sheets() != 3 || s.inSheet(2) != 2500-2048 {
		t.Fatalf("%+v, %d sheets with the list", s, len(out.sheets))
	}
	list, err := s.ReadList(out.sheets[-1])
	if err != nil || len(list) != 3 {
		t.Fatal(len(list), err)
	}
	n := 0
	for i := range list {
		refs, err := s.ReadSheet(list, i, out.sheets[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range refs {
			if r != out.pages[n].Ref() {
				t.Fatalf("entry %d is not that of its page", n)
			}
			if _, err := s.ReadPage(r, encode(out.pages[n].page)); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	var forged *ForgedError
	if _, err := s.ReadSheet(list, 0, out.sheets[1]); !errors.As(err, &forged) {
		t.Errorf("another sheet: %v", err)
	}
	if _, err := s.ReadList(append(bytes.Clone(out.sheets[-1]), 0)); !errors.As(err, &forged) {
		t.Errorf("a longer list: %v", err)
	}
	var limit *LimitError
	if _, err := s.ReadSheet(list, 0, make([]byte, maxSheetIn+1)); !errors.As(err, &limit) {
		t.Errorf("a huge sheet: %v", err)
	}
	// What its author signed is no excuse for a form that it must not have.
	refs, _ := s.ReadSheet(list, 2, out.sheets[2])
	for name, wrong := range map[string][]PageRef{
		"descending":         append([]PageRef{refs[0], refs[2], refs[1]}, refs[3:]...),
		"doubled":            append([]PageRef{refs[0], refs[1], refs[1]}, refs[3:]...),
		"one short":          refs[:len(refs)-1],
		"begins later":       append([]PageRef{{First: refs[0].First + 1, Hash: refs[0].Hash}}, refs[1:]...),
		"after the snapshot": append(slices.Clone(refs[:len(refs)-1]), PageRef{First: s.Head.Seq + 1}),
		"no position":        append([]PageRef{{}}, refs[1:]...),
	} {
		raw := encodeRefs(wrong)
		l := slices.Clone(list)
		l[2].Hash = sum(raw)
		var malformed *MalformedError
		if _, err := s.ReadSheet(l, 2, raw); !errors.As(err, &malformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	empty, out := built(t, 10, nil)
	if list, err := empty.ReadList(out.sheets[-1]); err != nil || len(list) != 0 || empty.sheets() != 0 {
		t.Fatalf("an empty snapshot has %d sheets, %v", len(list), err)
	}
}

func TestSnapshotBody(t *testing.T) {
	s, _ := built(t, 200, madeFacts(10, 1, 70, 200))
	st, err := SnapshotStatement(s)
	if err != nil {
		t.Fatal(err)
	}
	good := snapshotBody{Version: 1, Epoch: 1, Seq: 200, Hash: s.Head.Hash[:], Sig: s.Head.Sig, Facts: s.Facts, Pages: s.Pages, Bytes: s.Bytes, Root: s.Root[:]}
	if !bytes.Equal(encode(good), st.Body) {
		t.Fatal("the body is not what the form says")
	}
	var (
		version *VersionError
		wrong   *MalformedError
		limit   *LimitError
		forged  *ForgedError
	)
	for name, c := range map[string]struct {
		change func(b *snapshotBody)
		as     any
	}{
		"version":     {func(b *snapshotBody) { b.Version = 2 }, &version},
		"epoch":       {func(b *snapshotBody) { b.Epoch = 0 }, &wrong},
		"other epoch": {func(b *snapshotBody) { b.Epoch = 2 }, &forged},
		"seq":         {func(b *snapshotBody) { b.Seq = 0 }, &wrong},
		"other seq":   {func(b *snapshotBody) { b.Seq++ }, &forged},
		"hash":        {func(b *snapshotBody) { b.Hash = b.Hash[:31] }, &wrong},
		"root":        {func(b *snapshotBody) { b.Root = nil }, &wrong},
		"signature":   {func(b *snapshotBody) { b.Sig = b.Sig[1:] }, &wrong},
		"pages":       {func(b *snapshotBody) { b.Pages, b.Facts = maxPages+1, maxPages+1 }, &limit},
		"absurd":      {func(b *snapshotBody) { b.Pages = 1 << 63 }, &limit},
		"few facts":   {func(b *snapshotBody) { b.Facts = 2 }, &wrong},
		"many facts":  {func(b *snapshotBody) { b.Facts = 3*64 + 1 }, &wrong},
		"bytes":       {func(b *snapshotBody) { b.Bytes = 3*MaxPageBytes + 1 }, &wrong},
	} {
		b := good
		c.change(&b)
		if _, err := decodeSnapshot(st.Subject, encode(b)); err == nil || !errors.As(err, c.as) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decodeSnapshot("x", st.Body); !errors.As(err, &wrong) {
		t.Errorf("a subject that is no node: %v", err)
	}
	if _, err := decodeSnapshot(nodeOf("RBB").String(), st.Body); !errors.As(err, &forged) {
		t.Errorf("another's head: %v", err)
	}
}

// A snapshot counts only where its author may say it: in its own log, in the same epoch, after what it covers.
func TestWhereASnapshotIsSaid(t *testing.T) {
	s := newShelf(t, "RAA")
	s.say(note("a", "1"), note("b", "2"))
	snap := s.build(s.head())
	st, err := SnapshotStatement(snap)
	if err != nil {
		t.Fatal(err)
	}
	at := snap.Head
	good := s.say(note("c", "3"), st, note("d", "4"))
	o, err := ReadSnapshot(good)
	if err != nil || o.At != (Position{1, 4}) || o.Snapshot.Root != snap.Root {
		t.Fatalf("%+v, %v", o, err)
	}
	seal := func(key TrustID, last Head, epoch Epoch, st ...Statement) Verified {
		v, err := sealBatch(nodeKeyOf(key), last, epoch, st, newSeeded("x"))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for name, c := range map[string]struct {
		v    Verified
		want string
	}{
		"another's log": {seal("RBB", Head{}, 1, note("x", "y"), note("x", "y"), st), "another node's log"},
		"another epoch": {seal("RAA", Head{}, 2, note("x", "y"), note("x", "y"), st), "said in epoch 2"},
		"over itself":   {seal("RAA", Head{}, 1, note("x", "y"), st), "covers the position"},
		"none":          {seal("RAA", at, 1, note("x", "y")), "no snapshot is said"},
		"none, by name": {seal("RAA", at, 1, Statement{Kind: "note", Subject: "snapshot"}), "no snapshot is said"},
		"unreadable":    {seal("RAA", at, 1, Statement{Kind: KindSnapshot, Subject: "x"}), "no node ID"},
	} {
		if _, err := ReadSnapshot(c.v); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	later := Offered{Snapshot: snap, At: Position{1, 9}}
	if !later.newer(o) || o.newer(later) || o.newer(o) {
		t.Error("the later of two snapshots of the same is not the newer")
	}
	if !o.newer(Offered{}) {
		t.Error("a snapshot is not newer than none")
	}
}

func TestSnapshotDue(t *testing.T) {
	for name, c := range map[string]struct {
		c    SnapshotCounts
		want SnapshotReason
	}{
		"nothing":                      {SnapshotCounts{}, ""},
		"small and clean":              {SnapshotCounts{InLog: 5000, Hold: 5000, Since: 5000}, ""},
		"small, much replaced":         {SnapshotCounts{InLog: 9095, Hold: 5000, Since: 9095}, ""},
		"small, more replaced":         {SnapshotCounts{InLog: 9096, Hold: 5000, Since: 9096}, SnapshotForGarbage},
		"large, a fifth":               {SnapshotCounts{InLog: 12_000_000, Hold: 10_000_000, Since: 3_000_000}, ""},
		"large, a quarter":             {SnapshotCounts{InLog: 12_500_000, Hold: 10_000_000, Since: 3_000_000}, SnapshotForGarbage},
		"grown":                        {SnapshotCounts{InLog: 1 << 16, Hold: 1 << 16, Since: 1 << 16}, SnapshotForGrowth},
		"grown since":                  {SnapshotCounts{InLog: 300_000, Hold: 300_000, Since: 149_999}, ""},
		"doubled since":                {SnapshotCounts{InLog: 300_000, Hold: 300_000, Since: 150_000}, SnapshotForGrowth},
		"erased, few":                  {SnapshotCounts{InLog: 10_063, Hold: 10_000, Since: 63, Withdrawn: 63}, ""},
		"erased":                       {SnapshotCounts{InLog: 10_064, Hold: 10_000, Since: 64, Withdrawn: 64}, SnapshotForErasures},
		"erased, few of many":          {SnapshotCounts{InLog: 10_002_440, Hold: 10_000_000, Since: 2440, Withdrawn: 2440}, ""},
		"erased, of many":              {SnapshotCounts{InLog: 10_002_441, Hold: 10_000_000, Since: 2441, Withdrawn: 2441}, SnapshotForErasures},
		"nothing since":                {SnapshotCounts{InLog: 100_000, Hold: 10, Withdrawn: 100}, ""},
		"counts that cannot be, lower": {SnapshotCounts{InLog: 1, Hold: 100, Since: 1}, ""},
	} {
		got, due := SnapshotDue(c.c)
		if got != c.want || due != (c.want != "") {
			t.Errorf("%s: %q, %v", name, got, due)
		}
	}
}

func TestSnapshotMessages(t *testing.T) {
	node, root := nodeOf("RAA"), [32]byte{9}
	o := newShelf(t, "RAA")
	o.say(note("x", "y"))
	batch := o.batches[0].Batch()
	for _, m := range []Message{
		SnapshotOffer{Batch: batch},
		WantParts{Node: node, Part: PartOffer},
		WantParts{Node: node, Root: root, Part: PartPages, Index: maxPages - 1, Count: MaxParts, Limit: MaxMessage},
		Parts{Node: node, Root: root, Part: PartList},
		Parts{Node: node, Root: root, Part: PartSheet, Index: 3, Parts: [][]byte{make([]byte, maxSheetIn)}},
		Parts{Node: node, Root: root, Part: PartPages, Index: 3, Parts: [][]byte{make([]byte, MaxPageBytes), {1}}},
	} {
		raw := m.Encode()
		got, err := DecodeMessage(raw)
		if err != nil || !bytes.Equal(got.Encode(), raw) || fmt.Sprintf("%T", got) != fmt.Sprintf("%T", m) {
			t.Errorf("%T: %T, %v", m, got, err)
		}
	}
	full := Parts{Node: node, Root: root, Part: PartPages}
	for range MaxAnswer / MaxPageBytes {
		full.Parts = append(full.Parts, make([]byte, MaxPageBytes))
	}
	if n := len(full.Encode()); n > MaxMessage {
		t.Errorf("a full answer takes %d bytes", n)
	}
	if n := len((SnapshotOffer{Batch: Batch{Header: make([]byte, maxHeader), Payloads: []Payload{{Data: make([]byte, MaxBatch)}}}}).Encode()); n > MaxMessage {
		t.Errorf("the largest offer takes %d bytes", n)
	}
	for name, w := range map[string]wireSnapshot{
		"no node":         {Type: typeWantParts, Root: root[:]},
		"no root":         {Type: typeWantParts, Node: node[:]},
		"part":            {Type: typeWantParts, Node: node[:], Root: root[:], Part: 4},
		"index":           {Type: typeWantParts, Node: node[:], Root: root[:], Part: PartPages, Index: maxPages},
		"count":           {Type: typeWantParts, Node: node[:], Root: root[:], Part: PartPages, Count: MaxParts + 1},
		"limit":           {Type: typeWantParts, Node: node[:], Root: root[:], Part: PartPages, Limit: MaxMessage + 1},
		"an offer's part": {Type: typeParts, Node: node[:], Root: root[:]},
		"many parts":      {Type: typeParts, Node: node[:], Root: root[:], Part: PartPages, Parts: make([][]byte, MaxParts+1)},
		"large list":      {Type: typeParts, Node: node[:], Root: root[:], Part: PartList, Parts: [][]byte{make([]byte, maxListIn+1)}},
		"large sheet":     {Type: typeParts, Node: node[:], Root: root[:], Part: PartSheet, Parts: [][]byte{make([]byte, maxSheetIn+1)}},
		"large page":      {Type: typeParts, Node: node[:], Root: root[:], Part: PartPages, Parts: [][]byte{make([]byte, MaxPageBytes+1)}},
		"no batch":        {Type: typeSnapshotOffer},
	} {
		if m, err := DecodeMessage(encode(w)); err == nil {
			t.Errorf("%s is taken for %+v", name, m)
		}
	}
	for _, typ := range []uint64{typeSnapshotOffer - 1, typeParts + 1} {
		if m, err := DecodeMessage(encode(wireSnapshot{Type: typ, Node: node[:], Root: root[:], Part: PartPages})); err != nil || m != (Unknown{Type: typ}) {
			t.Errorf("type %d is taken for %+v, %v", typ, m, err)
		}
	}
}

// An answer is as much as fits, at least one part, and never over its limit.
func TestAnswerParts(t *testing.T) {
	s := newShelf(t, "RAA")
	for i := range 640 {
		s.say(note(fmt.Sprint("s", i), strings.Repeat("z", 2000)))
	}
	o := s.snapshot()
	ask := func(m WantParts) Message {
		t.Helper()
		m.Node = nodeOf("RAA")
		got, err := AnswerParts(s, m)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	root := o.Snapshot.Root
	for name, c := range map[string]struct {
		m    WantParts
		want int
	}{
		"list":            {WantParts{Root: root, Part: PartList, Count: 1}, 1},
		"sheet":           {WantParts{Root: root, Part: PartSheet, Count: 3}, 1},
		"no such sheet":   {WantParts{Root: root, Part: PartSheet, Index: 7, Count: 1}, 0},
		"pages by count":  {WantParts{Root: root, Part: PartPages, Index: 2, Count: 3}, 3},
		"pages by bytes":  {WantParts{Root: root, Part: PartPages, Count: 100}, 5},
		"pages, limited":  {WantParts{Root: root, Part: PartPages, Count: 100, Limit: 300_000}, 2},
		"one, over":       {WantParts{Root: root, Part: PartPages, Count: 100, Limit: 1}, 1},
		"to the end":      {WantParts{Root: root, Part: PartPages, Index: 8, Count: 100}, 2},
		"after the end":   {WantParts{Root: root, Part: PartPages, Index: 10, Count: 100}, 0},
		"none asked for":  {WantParts{Root: root, Part: PartPages}, 0},
		"limit over most": {WantParts{Root: root, Part: PartPages, Count: 100, Limit: MaxMessage}, 5},
	} {
		p, ok := ask(c.m).(Parts)
		if !ok || len(p.Parts) != c.want || p.Root != root || p.Index != c.m.Index {
			t.Errorf("%s: %T with %d parts, want %d", name, p, len(p.Parts), c.want)
		}
	}
	for name, m := range map[string]WantParts{"an offer": {Part: PartOffer}, "another root": {Root: [32]byte{1}, Part: PartList, Count: 1}} {
		offer, ok := ask(m).(SnapshotOffer)
		if !ok {
			t.Errorf("%s: no offer", name)
			continue
		}
		v, err := offer.Batch.Verify()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ReadSnapshot(v); err != nil || got.Snapshot.Root != root {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, ok := mustAnswer(t, newShelf(t, "RAA"), WantParts{Part: PartOffer}).(Parts); !ok || len(p.Parts) != 0 {
		t.Error("who has no snapshot offers one")
	}
}

func mustAnswer(t testing.TB, s *shelf, m WantParts) Message {
	t.Helper()
	got, err := AnswerParts(s, m)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// counted counts what it is given and keeps nothing.
type counted struct{ pages, sheets, lists int }

func (c *counted) Page(uint64, VerifiedPage) error { c.pages++; return nil }
func (c *counted) Sheet(int, []byte) error         { c.sheets++; return nil }
func (c *counted) List([]byte) error               { c.lists++; return nil }

// What building needs does not grow with the facts: it is asked for the next fact only after the page before has been given away.
func TestBuildingStreams(t *testing.T) {
	out := &counted{}
	salt := make([]byte, saltSize)
	data := encode(note("s", "x"))
	const n = 3000
	s, err := BuildSnapshot(headAt(t, 1, n*PageSpan), func(yield func(PageFact, error) bool) {
		for i := range Seq(n * PageSpan) {
			if ahead := int(i)/PageSpan - out.pages; ahead > 1 {
				t.Fatalf("%d pages are held back", ahead)
			}
			if !yield(PageFact{Seq: i + 1, Payload: Payload{Salt: salt, Data: data}}, nil) {
				return
			}
		}
	}, out)
	if err != nil || s.Pages != n || out.pages != n || out.sheets != 3 || out.lists != 1 {
		t.Fatalf("%+v %+v, %v", s, out, err)
	}
}
