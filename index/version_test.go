package index

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// laterNode is a node of a later version beside nodes of this one. It speaks as this version does, and: sends a message of a new type with
// every answer, signs headers that have a field more, says facts of a new kind, and studies with a new field. It understands all of it.
type laterNode struct {
	*Index
	sync *Sync
	key  TrustID
}

const laterType = 77

// say says in the later version's way, in a log of its own.
func (l *laterNode) say(t *testing.T, st ...Statement) {
	t.Helper()
	h, _ := l.Head(l.Self())
	v, err := sealBatch(nodeKeyOf(l.key), h, 1, st, newSeeded("later"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := laterHeader(nodeKeyOf(l.key), v).Verify()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take([]Verified{w}); err != nil {
		t.Fatal(err)
	}
}

// out adds what only a later version says.
func (l *laterNode) out(out []Outgoing) []Outgoing {
	var more []Outgoing
	for _, o := range out {
		more = append(more, o, Outgoing{To: o.To, Message: Unknown{Type: laterType}})
	}
	return more
}

// Nodes of this version and of a later one live side by side: what the later adds is stored, relayed and not understood here, nobody is
// accused, and all end with the same logs, to the byte.
func TestVersionsSideBySide(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC", "RDD")
	// RBB and RCC are of this version, RAA and RDD of a later one; RAA and RDD only ever meet RBB and RCC.
	nodes := map[NodeID]*laterNode{}
	for _, trust := range []TrustID{"RAA", "RBB", "RCC", "RDD"} {
		x := openTest(t, trust, r)
		nodes[x.Self()] = &laterNode{Index: x, key: trust, sync: NewSync(x, SyncOptions{Self: x.Self(), Rand: rand.New(rand.NewPCG(1, uint64(trust[1])))})}
	}
	isLater := func(n NodeID) bool { return n == nodeOf("RAA") || n == nodeOf("RDD") }
	ignored := 0
	var wire []envelope
	send := func(from NodeID, out []Outgoing, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", nameOf(from), err)
		}
		if isLater(from) {
			out = nodes[from].out(out)
		}
		for _, o := range out {
			raw := o.Message.Encode()
			if o.Message == (Unknown{Type: laterType}) {
				raw = encode(map[int]any{0: laterType, 7: "another use of a known field", 99: map[string]int{"x": 1}})
			} else if isLater(from) {
				raw = withField(t, raw)
			}
			m, err := DecodeMessage(raw)
			if err != nil {
				t.Fatal(err)
			}
			wire = append(wire, envelope{from, o.To, m})
		}
	}
	exchange := func() {
		t.Helper()
		for range 12 {
			for _, meets := range [][]TrustID{{"RAA", "RBB"}, {"RBB", "RAA", "RCC"}, {"RCC", "RBB", "RDD"}, {"RDD", "RCC"}} {
				a := meets[0]
				var peers []NodeID
				for _, p := range meets[1:] {
					peers = append(peers, nodeOf(p))
				}
				out, err := nodes[nodeOf(a)].sync.Tick(peers)
				send(nodeOf(a), out, err)
				out, err = nodes[nodeOf(a)].sync.Said()
				send(nodeOf(a), out, err)
			}
			for len(wire) > 0 {
				e := wire[0]
				wire = wire[1:]
				if _, ok := e.msg.(Unknown); ok && !isLater(e.to) {
					ignored++
				} else if ok {
					continue // a later version knows it
				}
				out, err := nodes[e.to].sync.Step(e.from, e.msg)
				send(e.to, out, err)
			}
		}
	}
	a, b, c, d := nodes[nodeOf("RAA")], nodes[nodeOf("RBB")], nodes[nodeOf("RCC")], nodes[nodeOf("RDD")]
	said := mustStudy(t, Study{UID: "1.2.3", Patient: []PatientID{{"1", "RAA"}}, Name: "DOE^JOHN", Date: "20260101", Revision: 1})
	a.say(t, Statement{Kind: "hologram", Subject: "x", Body: []byte("of a later version")},
		Statement{Kind: KindStudy, Subject: "1.2.3", Body: withField(t, said.Body)})
	say(t, b.Index, note("x", "1"))
	exchange()
	a.say(t, Statement{Kind: KindStudy, Subject: "1.2.4", Body: withField(t, mustStudy(t, Study{UID: "1.2.4", Name: "ROE^JANE", Revision: 1}).Body)})
	say(t, c.Index, mustStudy(t, Study{UID: "1.2.5", Name: "LEE^ANN", Revision: 1}))
	d.say(t, Statement{Kind: "hologram", Subject: "y", Body: []byte("another")})
	exchange()

	if ignored == 0 {
		t.Fatal("no message of a later version was sent")
	}
	heads := a.Heads()
	if len(heads) != 4 {
		t.Fatalf("%d logs", len(heads))
	}
	for id, x := range nodes {
		if got := x.Heads(); !slices.EqualFunc(got, heads, Head.same) {
			t.Fatalf("%s ends elsewhere: %v, not %v", nameOf(id), got, heads)
		}
		for _, h := range heads {
			want, err := a.Range(h.Node, h.Epoch, 0, MaxAnswer)
			if err != nil {
				t.Fatal(err)
			}
			got, err := x.Range(h.Node, h.Epoch, 0, MaxAnswer)
			if err != nil || !bytes.Equal(encode(got), encode(want)) {
				t.Fatalf("%s has other bytes of the log of %s (%v)", nameOf(id), nameOf(h.Node), err)
			}
			if l := lagOf(t, x.Index, h.Node); l.Applied != h.Seq || l.Missing != 0 || l.Unread != 0 || l.Quarantined {
				t.Fatalf("%s: %+v", nameOf(id), l)
			}
		}
		for _, uid := range []string{"1.2.3", "1.2.4", "1.2.5"} {
			if s, ok := told(x.Index, uid); !ok || len(s) != 1 {
				t.Fatalf("%s does not know study %s", nameOf(id), uid)
			}
		}
		f, err := x.Facts("hologram", "x")
		if err != nil || len(f) != 1 || string(f[0].Value) != "of a later version" {
			t.Fatalf("%s: %+v, %v", nameOf(id), f, err)
		}
		f, err = x.Facts(KindStudy, "1.2.3")
		if err != nil || len(f) != 1 || !bytes.Equal(f[0].Value, withField(t, said.Body)) {
			t.Fatalf("%s lost the field of a later version", nameOf(id))
		}
	}
	raw, err := d.Range(a.Self(), 1, 0, MaxAnswer)
	if err != nil || len(raw) != 2 {
		t.Fatalf("%d batches, %v", len(raw), err)
	}
	var h header
	if decode(batchMode, "batch header", raw[0].Header, &h) != nil || h.Version != batchVersion+1 {
		t.Fatal("the header is not of the later version")
	}
}

// withField adds a field that this version does not know to a CBOR map.
func withField(t *testing.T, raw []byte) []byte {
	t.Helper()
	var m map[int]any
	if err := decode(wideMode, "map", raw, &m); err != nil {
		t.Fatal(err)
	}
	m[60] = "of a later version"
	return encode(m)
}
