package mesh

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/memberlist"
	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// pipe is a stream without deadlines over bytes in memory.
type pipe struct {
	io.Reader
	io.Writer
}

func (pipe) SetReadDeadline(time.Time) error  { return nil }
func (pipe) SetWriteDeadline(time.Time) error { return nil }

func framesOf(r io.Reader, w io.Writer, max int) *frames {
	return newFrames(pipe{r, w}, max, time.Second, time.Second, func() {})
}

func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 3, 1000, chunk - 5, chunk - 4, chunk, chunk + 1, 3*chunk + 7, writeRun + 1}), 0, 6).Draw(t, "sizes")
		var b bytes.Buffer
		out := framesOf(nil, &b, 0)
		var want [][]byte
		for i, n := range sizes {
			body := bytes.Repeat([]byte{byte(i + 1)}, n)
			cut := rapid.IntRange(0, n).Draw(t, "cut")
			if err := out.write(body[:cut], body[cut:]); err != nil {
				t.Fatal(err)
			}
			want = append(want, body)
		}
		in := framesOf(&b, nil, max(writeRun+1, 3*chunk+7))
		for _, w := range want {
			got, err := in.read()
			if err != nil || !bytes.Equal(got, w) {
				t.Fatalf("a frame of %d bytes came as %d, %v", len(w), len(got), err)
			}
		}
		if _, err := in.read(); err != io.EOF {
			t.Fatalf("after the last frame: %v, want EOF", err)
		}
	})
}

// A frame that only announces itself costs a chunk, not what it announces.
func TestAnnouncedFrameCostsNothing(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, 1<<30)
	if _, err := framesOf(bytes.NewReader(head), nil, 1<<20).read(); !errors.Is(err, ErrBadMessage) {
		t.Fatalf("got %v, want ErrBadMessage", err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := framesOf(bytes.NewReader(head), nil, 1<<30).read(); err != io.ErrUnexpectedEOF {
		t.Fatalf("got %v", err)
	}
	runtime.ReadMemStats(&after)
	// Tests beside this one allocate too; the frame announced a thousand times more.
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
		t.Fatalf("%d bytes were made room for", got)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 9})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 1, 0, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := framesOf(bytes.NewReader(b), nil, 1<<16)
		total := 0
		for {
			got, err := in.read()
			if err != nil {
				break
			}
			total += frameHeader + len(got)
		}
		if total > len(b) {
			t.Fatalf("%d bytes of frames came out of %d", total, len(b))
		}
	})
}

func aGrant(t testing.TB) (Grant, []byte) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	g := Grant{
		Study: "1.2.3", Origin: index.NodeID{1}, Holder: index.NodeIDOf(key), Requester: index.NodeID{2}, Purpose: "direct-care",
		Expires: time.UnixMilli(1893456000123).UTC(), Revision: 7, Settled: true,
		Manifest: cas.Ref{CID: cas.Sum([]byte("m")), Size: 99}, Key: cas.Key{5},
	}
	b, err := g.sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return g, b
}

func TestGrantRoundTrip(t *testing.T) {
	g, b := aGrant(t)
	got, err := decodeGrant(b, g.Sig)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := got.bytes(); err != nil || !bytes.Equal(again, b) {
		t.Fatalf("a grant encodes differently the second time: %v", err)
	}
	if err := got.Verify(); err != nil {
		t.Fatal(err)
	}
}

// FuzzStudyMessages: no bytes make a decoder panic, and what a decoder takes
// is what the encoder writes.
func FuzzStudyMessages(f *testing.F) {
	g, signed := aGrant(f)
	granted, err := encode.Marshal(grantedWire{Type: typeGranted, Grant: signed, Sig: g.Sig})
	if err != nil {
		f.Fatal(err)
	}
	request, err := encodeRequest(StudyRequest{Study: "1.2.3", Origin: index.NodeID{3}, Purpose: "x", Priority: 2, Push: Push{PushHeaders, "1.2.3.4", ""}})
	if err != nil {
		f.Fatal(err)
	}
	want, err := encodeWant(3, []cid.Cid{cas.Sum([]byte("a")), cas.Sum([]byte("b"))})
	if err != nil {
		f.Fatal(err)
	}
	block := append(blockHeader(cas.Sum([]byte("a")), 300), make([]byte, 300)...)
	missing, err := encode.Marshal(missingWire{Type: typeMissing, CID: cas.Sum([]byte("a")).Bytes()})
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range [][]byte{granted, request, want, block, missing, {0x81, typeRefused}, {0x81, typeExpired}, {0x81, typePushed}, {0x83, 5, 0x58, 0x24}, {}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRequest(b); err == nil {
			again, err := encodeRequest(r)
			if err != nil {
				t.Fatalf("a request that was taken cannot be sent: %v", err)
			}
			if back, err := decodeRequest(again); err != nil || back != r {
				t.Fatalf("a request changes: %+v, %+v, %v", r, back, err)
			}
		}
		if priority, cids, err := decodeWant(b); err == nil {
			again, err := encodeWant(priority, cids)
			if err != nil {
				t.Fatal(err)
			}
			if p, back, err := decodeWant(again); err != nil || p != priority || !slices.Equal(back, cids) {
				t.Fatalf("a want changes: %v", err)
			}
		}
		if a, err := decodeAnswer(b); err == nil && a.kind == typeBlock {
			if !bytes.Equal(append(blockHeader(a.cid, len(a.data)), a.data...), b) {
				t.Fatal("a block is taken in two encodings")
			}
		}
		if g, err := ask(framesOf(bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)), io.Discard, maxAnswer), nil); err == nil {
			if _, err := g.bytes(); err != nil {
				t.Fatalf("a grant that was taken cannot be encoded: %v", err)
			}
		}
	})
}

func TestBlockHeaderIsCBOR(t *testing.T) {
	c := cas.Sum([]byte("a"))
	for _, n := range []int{0, 1, 23, 24, 255, 256, 65535, 65536, cas.MaxBlock} {
		data := bytes.Repeat([]byte{7}, n)
		b := append(blockHeader(c, n), data...)
		var w struct {
			_    struct{} `cbor:",toarray"`
			Type uint8
			CID  []byte
			Data []byte
		}
		if err := cbor.Unmarshal(b, &w); err != nil || w.Type != typeBlock || !bytes.Equal(w.CID, c.Bytes()) || !bytes.Equal(w.Data, data) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		a, err := decodeAnswer(b)
		if err != nil || a.kind != typeBlock || a.cid != c || !bytes.Equal(a.data, data) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if len(b) > maxBlock {
			t.Fatalf("a block message of %d bytes is over its own limit", len(b))
		}
	}
}

// FuzzGossip: what passes the checks is no bomb, and nothing panics.
func FuzzGossip(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{7, 2, 0, 1, 0, 1, 8, 8})
	f.Add([]byte{12, 0, 0, 0, 0, 7, 1, 0, 1, 9})
	f.Add([]byte("\x06\x83\xa5Nodes\x02\xacUserStateLen\x00\xa4Join\xc3"))
	f.Add(encodeHeadMessage(index.NodeID{1}, index.Head{Node: index.NodeID{2}, Epoch: 1, Seq: 9, Sig: make([]byte, 64)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := checkPacket(b, index.NodeID{1}); err == nil {
			for _, m := range simpleMessages(b) {
				if len(m) == 0 || m[0] == mlCompress || m[0] == mlCompound || m[0] == mlEncrypt || m[0] == mlHasCRC {
					t.Fatalf("a message of type %v passed inside a packet", m)
				}
			}
		}
		r := bufio.NewReader(bytes.NewReader(b))
		if err := checkExchange(r); err == nil {
			rest, _ := io.ReadAll(r)
			if !bytes.Equal(rest, b) {
				t.Fatal("looking at an exchange took something of it")
			}
		}
		if holder, h, err := decodeHeadMessage(b); err == nil {
			if back, same, err := decodeHeadMessage(encodeHeadMessage(holder, h)); err != nil || back != holder || same.Node != h.Node || same.Seq != h.Seq {
				t.Fatalf("a head changes: %v", err)
			}
		}
	})
}

// simpleMessages splits a packet as memberlist does.
func simpleMessages(b []byte) (out [][]byte) {
	if len(b) >= 5 && b[0] == mlHasCRC {
		b = b[5:]
	}
	if len(b) == 0 || b[0] != mlCompound {
		return [][]byte{b}
	}
	n := int(b[1])
	rest := b[2+2*n:]
	for i := range n {
		size := int(binary.BigEndian.Uint16(b[2+2*i:]))
		out = append(out, rest[:size])
		rest = rest[size:]
	}
	return out
}

func TestExchangeHeader(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		ok          bool
	}{
		{"as memberlist writes it", "\x06\x83\xa4Join\xc3\xa5Nodes\x03\xacUserStateLen\x00", true},
		{"up to the limit", "\x06\x83\xa4Join\xc2\xa5Nodes\xcd\x10\x00\xacUserStateLen\x00", true},
		{"over the limit", "\x06\x83\xa4Join\xc2\xa5Nodes\xcd\x10\x01\xacUserStateLen\x00", false},
		{"the last of two counts", "\x06\x83\xa5Nodes\x01\xa5Nodes\xce\x00\x10\x00\x00\xacUserStateLen\x00", false},
		{"with state", "\x06\x83\xa4Join\xc2\xa5Nodes\x01\xacUserStateLen\x01", false},
		{"of unknown keys", "\x06\x83\xa4Moin\xc2\xa5Nodes\x01\xacUserStateLen\x00", false},
		{"of two keys", "\x06\x82\xa5Nodes\x01\xacUserStateLen\x00", false},
		{"cut short", "\x06\x83\xa4Join", false},
		{"a ping", "\x00\x81", false},
		{"a user message", "\x08\x81", false},
		{"an error", "\x0d\x81\xa5Error\xa1x", true},
		{"nothing", "", false},
	} {
		if err := checkExchange(bufio.NewReader(strings.NewReader(c.bytes))); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestNamesInGossip(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id := index.NodeIDOf(key)
	if back, ok := nodeOf(peerOf(id)); !ok || back != id {
		t.Fatal("a node's peer ID does not name it")
	}
	if peerOf(id).String() != id.String() {
		t.Fatalf("peer ID text %s and node ID text %s differ", peerOf(id), id)
	}
	good := memberlist.Node{Name: id.String(), Addr: gossipIP(id), Port: gossipPort}
	if _, err := checkNode(&good); err != nil {
		t.Fatal(err)
	}
	for name, alter := range map[string]func(*memberlist.Node){
		"another's address": func(n *memberlist.Node) { n.Addr = gossipIP(index.NodeID{9}) },
		"another port":      func(n *memberlist.Node) { n.Port++ },
		"no name":           func(n *memberlist.Node) { n.Name = "" },
		"a host's name":     func(n *memberlist.Node) { n.Name = "localhost" },
	} {
		bad := good
		alter(&bad)
		if _, err := checkNode(&bad); err == nil {
			t.Errorf("a node with %s was taken", name)
		}
	}
}

func TestQueueIsBounded(t *testing.T) {
	q := newQueue(3, 100)
	for i, c := range []struct {
		size int
		ok   bool
	}{{50, true}, {51, false}, {50, true}, {0, true}, {0, false}} {
		if got := q.push(make([]byte, c.size)); got != c.ok {
			t.Fatalf("push %d: %v", i, got)
		}
	}
	for _, want := range []int{50, 50, 0} {
		if got := q.pop(); len(got) != want {
			t.Fatalf("got %d bytes, want %d", len(got), want)
		}
	}
	if q.pop() != nil || !q.push(make([]byte, 100)) {
		t.Fatal("an emptied queue has no room")
	}
}

func TestLimiter(t *testing.T) {
	l := newLimiter(3, 2)
	a, b := index.NodeID{1}, index.NodeID{2}
	for i, c := range []struct {
		id index.NodeID
		ok bool
	}{{a, true}, {a, true}, {a, false}, {b, true}, {b, false}} {
		if got := l.enter(c.id); got != c.ok {
			t.Fatalf("enter %d: %v", i, got)
		}
	}
	l.leave(a)
	if l.now() != 2 || !l.enter(b) || l.enter(a) {
		t.Fatal("a place that was left is not free")
	}
}

// What is said once is said once; a flood of names silences only itself.
func TestOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	o := newOnce(2, func() time.Time { return now })
	if !o.first("a") || o.first("a") || !o.first("b") {
		t.Fatal("not once each")
	}
	if !o.first("c") || !o.first("d") || o.first("e") || o.first("f") {
		t.Fatal("a flood is not bounded")
	}
	o.forget("d")
	if !o.first("d") {
		t.Fatal("what was forgotten is not said again")
	}
	now = now.Add(time.Hour)
	if !o.first("e") {
		t.Fatal("silent for ever")
	}
}
