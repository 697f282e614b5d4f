package mesh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// hostile is a region of two honest nodes and a member whose key is in the
// wrong hands.
func hostile(t *testing.T, tune ...func(*mesh.Config)) (r *region, me, friend, villain *node, h host.Host) {
	t.Helper()
	r = newRegion(t, 3)
	me, friend, villain = r.nodes[0], r.nodes[1], r.nodes[2]
	for _, n := range []*node{me, friend} {
		n.tune = func(c *mesh.Config, _ *mesh.Deps) {
			c.Timing.Idle = time.Second
			for _, f := range tune {
				f(c)
			}
		}
		n.start()
	}
	r.meet(me, friend)
	h = rawHost(t, villain.key)
	must(t, dial(t, h, me))
	return
}

// well says that honest nodes still serve each other.
func (r *region) well(a, b *node) {
	r.t.Helper()
	uid := fmt.Sprintf("1.9.%d", time.Now().UnixNano())
	a.say(uid)
	eventually(r.t, "facts travel among the honest", func() bool { return b.knows(uid) })
	blocks := blocksOf(3, 3000)
	b.give(a, blocks...)
	s := a.open(b)
	defer s.Close()
	var basket basket
	if missing, err := s.Blocks(context.Background(), cidsOf(blocks), basket.got); err != nil || len(missing) > 0 {
		r.t.Fatalf("studies do not travel among the honest: %d missing, %v", len(missing), err)
	}
}

// ends reads until the other side ends the stream.
func ends(t *testing.T, s network.Stream) {
	t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := io.Copy(io.Discard, s)
	var ne interface{ Timeout() bool }
	if errors.As(err, &ne) && ne.Timeout() {
		t.Fatal("the stream was left open")
	}
}

func requestBytes(t *testing.T, study string, origin index.NodeID) []byte {
	t.Helper()
	b, err := cbor.Marshal([]any{1, study, origin[:], "direct-care", 1, 0, "", ""})
	must(t, err)
	return b
}

// A member that asks without a right to it gets, whatever it asks for, the
// same bytes, and no block.
func TestMemberWithoutAGrant(t *testing.T) {
	t.Parallel()
	r, me, friend, _, h := hostile(t)
	blocks := blocksOf(3, 1000)
	me.give(friend, blocks...) // somebody else has the study
	var answers [][]byte
	for _, req := range [][]byte{
		requestBytes(t, uid, me.id),          // is here, not for it
		requestBytes(t, "1.2.3.4", me.id),    // is not here
		requestBytes(t, uid, index.NodeID{}), // nobody's
	} {
		s := stream(t, h, me, study)
		_, err := s.Write(frame(req))
		must(t, err)
		_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
		b, err := io.ReadAll(s)
		must(t, err)
		answers = append(answers, b)
	}
	for _, a := range answers {
		if !bytes.Equal(a, answers[0]) || !bytes.Equal(a, frame([]byte{0x81, 3})) {
			t.Fatalf("refusals differ: %x", answers)
		}
	}
	// Wanting blocks before, or without, an answer brings nothing either.
	s := stream(t, h, me, study)
	want, err := cbor.Marshal([]any{4, 0, [][]byte{blocks[0].CID.Bytes()}})
	must(t, err)
	_, err = s.Write(frame(want))
	must(t, err)
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(s); err == nil || len(b) > 0 {
		t.Fatalf("a want without a request brought %d bytes, %v", len(b), err)
	}
	if got := me.mesh.Counters().BlocksServed; got != 0 {
		t.Fatalf("%d blocks were served", got)
	}
	r.well(me, friend)
}

func packed(t *testing.T, b []byte) []byte {
	t.Helper()
	p, err := index.NewPacker()
	must(t, err)
	out := p.Pack(b)
	if bytes.Equal(out, b) {
		t.Fatal("nothing was packed")
	}
	return out
}

// Whatever a member sends, its stream ends in bounded time and the node goes on.
func TestHostileBytes(t *testing.T) {
	t.Parallel()
	r, me, friend, villain, h := hostile(t)
	villainStudy := func() { me.study.allow(uid, villain.id) }
	villainStudy()
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0}
	granted := append(frame(requestBytes(t, uid, me.id)), 0) // and then something of a second frame
	granted = granted[:len(granted)-1]
	pushPull := func(nodes uint32, state uint32) []byte {
		b := append([]byte{'s', 6, 0x83, 0xa5}, "Nodes"...)
		b = binary.BigEndian.AppendUint32(append(b, 0xce), nodes)
		b = append(append(b, 0xac), "UserStateLen"...)
		b = binary.BigEndian.AppendUint32(append(b, 0xce), state)
		return append(append(append(b, 0xa4), "Join"...), 0xc3)
	}
	for _, c := range []struct {
		name, protocol string
		bytes          []byte
	}{
		{"study: a huge frame", study, huge},
		{"study: an empty frame", study, frame(nil)},
		{"study: no CBOR", study, frame([]byte("GET / HTTP/1.1"))},
		{"study: nested CBOR", study, frame(bytes.Repeat([]byte{0x81}, 400))},
		{"study: a long array", study, frame([]byte{0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})},
		{"study: a huge want", study, append(bytes.Clone(granted), huge...)},
		{"study: a want of nothing", study, append(bytes.Clone(granted), frame([]byte{0x83, 4, 0, 0x80})...)},
		{"study: a want of no address", study, append(bytes.Clone(granted), frame([]byte{0x83, 4, 0, 0x81, 0x41, 0})...)},
		{"study: half a request", study, frame(requestBytes(t, uid, me.id))[:9]},
		{"log: a huge frame", logs, huge},
		{"log: no message", logs, frame([]byte("hello"))},
		{"log: a packed message of no kind", logs, frame(packed(t, bytes.Repeat([]byte("hello"), 100)))},
		{"log: a packed message that is damaged", logs, frame(packed(t, bytes.Repeat([]byte("hello"), 100))[:20])},
		{"log: a packed message that would fill the memory", logs, frame([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 0, 0})},
		{"log: half a frame", logs, []byte{0, 0, 1, 0, 1}},
		{"gossip: of no kind", gossip, []byte("x")},
		{"gossip: nothing", gossip, []byte{}},
		{"gossip: a huge packet", gossip, append([]byte{'p'}, huge...)},
		{"gossip: a compressed packet", gossip, append([]byte{'p'}, frame([]byte{9, 0x82, 0xa4})...)},
		{"gossip: a compression in a compound", gossip, append([]byte{'p'}, frame([]byte{7, 1, 0, 1, 9})...)},
		{"gossip: a cut compound", gossip, append([]byte{'p'}, frame([]byte{7, 200, 0})...)},
		{"gossip: an exchange of a million nodes", gossip, pushPull(1<<20, 0)},
		{"gossip: an exchange of much state", gossip, pushPull(0, 20<<20)},
		{"gossip: an exchange that never comes", gossip, pushPull(1000, 0)},
		{"gossip: a compressed exchange", gossip, []byte{'s', 9, 0x82}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := stream(t, h, me, c.protocol)
			if _, err := s.Write(c.bytes); err != nil {
				return // ended while it was being written
			}
			ends(t, s)
		})
	}
	r.well(me, friend)
	if me.mesh.Counters().LogMisbehaved == 0 || me.mesh.Counters().GossipRefused == 0 {
		t.Fatal("misbehaviour was not counted")
	}
	if got := me.log.count("does not allow"); got != 1 {
		t.Fatalf("misbehaviour was logged %d times, want once", got)
	}
}

// A byte a second holds nothing open for long.
func TestDribble(t *testing.T) {
	t.Parallel()
	r, me, friend, villain, h := hostile(t)
	me.study.allow(uid, villain.id)
	var wg sync.WaitGroup
	for _, c := range []struct {
		protocol string
		bytes    []byte
	}{
		{study, frame(requestBytes(t, uid, me.id))},
		{logs, append([]byte{0, 0x0f, 0, 0}, make([]byte, 100)...)},
		{gossip, append([]byte{'p', 0, 0, 0x10, 0}, make([]byte, 100)...)},
	} {
		wg.Go(func() {
			s := stream(t, h, me, c.protocol)
			begin := time.Now()
			for _, b := range c.bytes {
				if _, err := s.Write([]byte{b}); err != nil {
					return
				}
				_ = s.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
				if _, err := s.Read(make([]byte, 1)); err != nil {
					var ne interface{ Timeout() bool }
					if errors.As(err, &ne) && ne.Timeout() {
						continue
					}
					return
				}
				if time.Since(begin) > 20*time.Second {
					break
				}
			}
			t.Errorf("%s: a dribbled stream was never ended", c.protocol)
		})
	}
	wg.Wait()
	r.well(me, friend)
}

// A thousand streams of one member take only its own share.
func TestThousandStreams(t *testing.T) {
	t.Parallel()
	// None rests so long that its place is another's before all have been opened.
	r, me, friend, villain, h := hostile(t, func(c *mesh.Config) { c.Timing.Idle = 5 * time.Minute })
	me.study.allow(uid, villain.id)
	var open atomic.Int64
	var wg sync.WaitGroup
	req := frame(requestBytes(t, uid, me.id))
	for range 40 {
		wg.Go(func() {
			for range 25 {
				s, err := tryStream(h, me, study)
				if err != nil {
					continue
				}
				if _, err := s.Write(req); err != nil {
					continue
				}
				_ = s.SetReadDeadline(time.Now().Add(time.Minute)) // who is turned away is told at once
				if b, err := readFrame(s); err == nil && len(b) > 2 {
					open.Add(1) // granted; it stays open
				}
			}
		})
	}
	wg.Wait()
	if got := open.Load(); got == 0 || got > 16 {
		t.Fatalf("%d of 1000 streams were granted, want some, and no more than one peer may have", got)
	}
	if now := me.mesh.Counters().StudyStreamsNow; now > 16 {
		t.Fatalf("%d streams are served to one peer", now)
	}
	if me.mesh.Counters().StudyStreamsBusy == 0 {
		t.Fatal("nobody was turned away")
	}
	r.well(friend, me)
}

// Ten thousand streams of one member, whatever it says on them or if it says
// nothing, take only its own share, which the table names.
func TestTenThousandStreams(t *testing.T) {
	t.Parallel()
	r, me, friend, villain, h := hostile(t, func(c *mesh.Config) { c.Timing.Beat = time.Minute }) // it says nothing, and is not left for that
	id, err := peer.Decode(me.id.String())
	must(t, err)
	shares := mesh.Shares(false, false)
	const each = 10_000 / 5
	for _, protocol := range []string{"", gossip, logs, study, "/ipfs/bitswap/1.2.0"} {
		share := maxStreamsOfPeer
		if protocol != "" {
			share = shares[protocol] + 16 // some are just being refused
		}
		var wg sync.WaitGroup
		var opened atomic.Int64
		for range 40 {
			wg.Go(func() {
				for range each / 40 {
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					s, err := h.Network().NewStream(network.WithNoDial(ctx, "test"), id)
					cancel()
					if err != nil {
						continue
					}
					opened.Add(1)
					if protocol != "" { // multistream, and not a word after it
						_, _ = s.Write([]byte("\x13/multistream/1.0.0\n" + string(rune(len(protocol)+1)) + protocol + "\n"))
					}
				}
			})
		}
		wg.Wait()
		if opened.Load() < each/2 {
			t.Fatalf("only %d streams could be opened", opened.Load())
		}
		r.well(friend, me) // by a stream to the node that is flooded
		eventually(t, "no more than its share is left", func() bool { return me.mesh.Inbound(villain.id) <= share })
		for _, c := range h.Network().ConnsToPeer(id) {
			for _, s := range c.GetStreams() {
				_ = s.Reset()
			}
		}
		eventually(t, "all have ended", func() bool { return me.mesh.Inbound(villain.id) <= 16 })
	}
	r.well(friend, me)
}

// maxStreamsOfPeer is what all of a peer's streams may be.
const maxStreamsOfPeer = 256

// Every protocol that a node answers to has its share in the table, and there
// is none in it that has no bound.
func TestEveryProtocolHasAShare(t *testing.T) {
	t.Parallel()
	for _, relay := range []bool{false, true} {
		r := newRegion(t, 1)
		listening(r.nodes, func(c *mesh.Config) { c.Relay, c.UseRelays = relay, relay }, byTCP)
		r.start()
		shares := mesh.Shares(relay, relay)
		for _, p := range r.nodes[0].mesh.Protocols() {
			if n := shares[p]; n < 1 || n > maxStreamsOfPeer {
				t.Errorf("relay %v: %s is answered, and its share is %d", relay, p, n)
			}
		}
		if shares["/ipfs/ping/1.0.0"] != 0 || (shares[hop] > 0) != relay {
			t.Error("what is not served has a share")
		}
	}
}

// A peer that is over its limit is told so.
func TestBusyHolder(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 2)
	a, b := r.nodes[0], r.nodes[1]
	b.tune = func(c *mesh.Config, _ *mesh.Deps) { c.Limits.StudyStreamsPerPeer = 2 }
	r.start()
	b.give(a)
	first := a.open(b)
	defer a.open(b).Close()
	if _, err := a.mesh.OpenStudy(context.Background(), b.id, ask(b.id)); !errors.Is(err, mesh.ErrBusy) {
		t.Fatalf("got %v, want ErrBusy", err)
	}
	must(t, first.Close())
	eventually(t, "there is room again", func() bool {
		s, err := a.mesh.OpenStudy(context.Background(), b.id, ask(b.id))
		if err == nil {
			must(t, s.Close())
		}
		return err == nil
	})
}

// A reader that never reads costs the sender bounded memory and nobody else
// anything.
func TestPeerThatNeverReads(t *testing.T) {
	t.Parallel()
	// It says nothing either, and is not left for that: it is the stream that is given up.
	r, me, friend, villain, h := hostile(t, func(c *mesh.Config) { c.Timing.Beat = time.Minute })
	for _, p := range []string{gossip, logs} {
		h.SetStreamHandler(protocolID(p), func(s network.Stream) {}) // taken, never read
	}
	blocks := blocksOf(64, cas.MaxBlock)
	me.give(villain, blocks...)
	s := stream(t, h, me, study)
	_, err := s.Write(frame(requestBytes(t, uid, me.id)))
	must(t, err)
	want := make([][]byte, 64)
	for i, b := range blocks {
		want[i] = b.CID.Bytes()
	}
	b, err := cbor.Marshal([]any{4, 0, want})
	must(t, err)
	_, err = s.Write(frame(b))
	must(t, err)
	r.well(me, friend)
	eventually(t, "the holder gives the stream up", func() bool { return me.mesh.Counters().StudyStreamsNow == 0 })
	if got := me.mesh.Counters().BytesServed; got > 32<<20 {
		t.Fatalf("%d bytes were sent to a peer that reads nothing", got)
	}
}

// A forged head is believed by nobody and costs its sender the stream.
func TestForgedHeads(t *testing.T) {
	t.Parallel()
	r, me, friend, villain, h := hostile(t)
	head := friend.say("1.2.7")
	eventually(t, "it arrived", func() bool { return me.knows("1.2.7") })
	before := me.mesh.Counters()
	forged := head
	forged.Seq += 5
	s := stream(t, h, me, logs)
	_, err := s.Write(frame(index.Heads{Heads: []index.Head{forged}}.Encode()))
	must(t, err)
	ends(t, s)
	if me.mesh.Counters().LogMisbehaved == before.LogMisbehaved {
		t.Fatal("a forged head on the log stream was not held against its sender")
	}
	// Nor is it by gossip.
	g := stream(t, h, me, gossip)
	message := append([]byte{8, 1}, villain.id[:]...)
	_, err = g.Write(append([]byte{'p'}, frame(append(message, forged.Encode()...))...))
	must(t, err)
	eventually(t, "the gossip is refused", func() bool { return me.mesh.Counters().GossipRefused > before.GossipRefused })
	got, _ := me.index.Head(friend.id)
	if got.Seq != head.Seq {
		t.Fatalf("the forged head was believed: %d", got.Seq)
	}
	r.well(me, friend)
}

// fakeHolder serves study streams by a script: it gets the request's frame,
// and the stream to do what it likes with.
func fakeHolder(h host.Host, serve func(s network.Stream)) {
	h.SetStreamHandler(protocolID(study), func(s network.Stream) {
		defer s.Close()
		if _, err := readFrame(s); err != nil {
			return
		}
		serve(s)
	})
}

// grantBytes is what a holder sends to grant.
func grantBytes(t *testing.T, key ed25519.PrivateKey, change func(map[int]any)) []byte {
	ref, err := (cas.Ref{CID: cas.Sum([]byte("m")), Size: 1}).MarshalCBOR()
	must(t, err)
	g := map[int]any{1: uid, 5: "direct-care", 6: time.Now().Add(time.Hour).UnixMilli(), 7: 1, 8: false, 9: ref, 10: make([]byte, 32)}
	change(g)
	mode, err := cbor.CoreDetEncOptions().EncMode()
	must(t, err)
	b, err := mode.Marshal(g)
	must(t, err)
	out, err := mode.Marshal([]any{2, b, ed25519.Sign(key, append([]byte("priormesh grant 1\x00"), b...))})
	must(t, err)
	return out
}

// The holder closes the connection on which it is asked, as it does with the worse
// of two: it is asked on the other, and where there is none its absence is said.
func TestAStudyIsAskedForOnTheConnectionThatStays(t *testing.T) {
	t.Parallel()
	for _, read := range []bool{false, true} { // before it has the question, and after
		_, me, _, villain, h := hostile(t)
		second := rawHost(t, villain.key)
		must(t, dial(t, second, me))
		var asked atomic.Int32
		var all atomic.Bool
		both := []host.Host{h, second}
		for i, h := range both {
			h.SetStreamHandler(protocolID(study), func(s network.Stream) {
				defer s.Close()
				if asked.Load() == 0 { // the node may have closed the other connection by now
					_ = dial(t, both[1-i], me)
				}
				if read {
					_, _ = readFrame(s)
				}
				if asked.Add(1) == 1 || all.Load() {
					_ = s.Conn().Close()
					return
				}
				if !read {
					_, _ = readFrame(s)
				}
				_, _ = s.Write(frame(grantBytes(t, villain.key, func(g map[int]any) { g[2], g[3], g[4] = villain.id[:], villain.id[:], me.id[:] })))
			})
		}
		eventually(t, "the node has both connections", func() bool { return me.mesh.Conns(villain.id) == 2 })
		s, err := me.mesh.OpenStudy(context.Background(), villain.id, ask(villain.id))
		if err != nil {
			t.Fatalf("asked %d times: %v", asked.Load(), err)
		}
		s.Close()
		if n := asked.Load(); n != 2 {
			t.Errorf("it was asked %d times, want 2", n)
		}
		all.Store(true)
		if _, err := me.mesh.OpenStudy(context.Background(), villain.id, ask(villain.id)); !errors.Is(err, mesh.ErrNotConnected) {
			t.Errorf("no connection is left: %v", err)
		}
	}
}

// A holder cannot pass off what is not its own, or not what was asked for.
func TestFakeHolder(t *testing.T) {
	t.Parallel()
	_, me, friend, villain, h := hostile(t)
	eventually(t, "the node has a connection to the villain", func() bool { return me.mesh.Counters().ConnectedNow == 2 })
	honest := func(g map[int]any) { g[2], g[3], g[4] = villain.id[:], villain.id[:], me.id[:] }
	blocks := blocksOf(4, 1000)
	block := func(c, data []byte) []byte {
		b, err := cbor.Marshal([]any{5, c, data})
		must(t, err)
		return frame(b)
	}
	send := func(b []byte) func(network.Stream) {
		return func(s network.Stream) { _, _ = s.Write(frame(b)) }
	}
	t.Run("opening", func(t *testing.T) {
		for _, c := range []struct {
			name  string
			serve func(network.Stream)
			want  error
		}{
			{"another holder's grant", send(grantBytes(t, villain.key, func(g map[int]any) { honest(g); g[3] = friend.id[:] })), mesh.ErrBadGrant},
			{"another requester's", send(grantBytes(t, villain.key, func(g map[int]any) { honest(g); g[4] = friend.id[:] })), mesh.ErrBadGrant},
			{"another study's", send(grantBytes(t, villain.key, func(g map[int]any) { honest(g); g[1] = "1.2.3" })), mesh.ErrBadGrant},
			{"another origin's", send(grantBytes(t, villain.key, func(g map[int]any) { honest(g); g[2] = friend.id[:] })), mesh.ErrBadGrant},
			{"another purpose", send(grantBytes(t, villain.key, func(g map[int]any) { honest(g); g[5] = "research" })), mesh.ErrBadGrant},
			{"signed by another key", send(grantBytes(t, friend.key, honest)), mesh.ErrBadGrant},
			{"with a short key", send(grantBytes(t, villain.key, func(g map[int]any) { honest(g); g[10] = []byte{1} })), mesh.ErrBadMessage},
			{"with an unknown field", send(grantBytes(t, villain.key, func(g map[int]any) { honest(g); g[11] = 1 })), mesh.ErrBadMessage},
			{"nonsense", send([]byte("nonsense")), mesh.ErrBadMessage},
			{"too much", func(s network.Stream) { _, _ = s.Write([]byte{0, 1, 0, 0}) }, mesh.ErrBadMessage},
			{"hanging up", func(s network.Stream) {}, mesh.ErrNotConnected},
			{"a refusal", send([]byte{0x81, 3}), mesh.ErrRefused},
		} {
			fakeHolder(h, c.serve)
			_, err := me.mesh.OpenStudy(context.Background(), villain.id, ask(villain.id))
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
		}
	})
	t.Run("blocks", func(t *testing.T) {
		for _, c := range []struct {
			name string
			sent []byte
			want error
			came int
		}{
			{"a wrong block", append(block(blocks[0].CID.Bytes(), blocks[0].Data), block(blocks[1].CID.Bytes(), blocks[2].Data)...), mesh.ErrWrongBlock, 1},
			{"a block nobody asked for", block(blocks[3].CID.Bytes(), blocks[3].Data), mesh.ErrBadMessage, 0},
			{"the same block twice", append(block(blocks[0].CID.Bytes(), blocks[0].Data), block(blocks[0].CID.Bytes(), blocks[0].Data)...), mesh.ErrBadMessage, 1},
			{"a block that is too large", []byte{0xff, 0, 0, 0}, mesh.ErrBadMessage, 0},
			{"a block in another encoding", frame(append(append([]byte{0x83, 5, 0x59, 0, 36}, blocks[0].CID.Bytes()...), 0x41, 0)), mesh.ErrBadMessage, 0},
			{"silence", nil, mesh.ErrIdle, 0},
		} {
			fakeHolder(h, func(s network.Stream) {
				_, _ = s.Write(frame(grantBytes(t, villain.key, honest)))
				if _, err := readFrame(s); err != nil {
					return
				}
				_, _ = s.Write(c.sent)
				_, _ = io.Copy(io.Discard, s)
			})
			s := me.open(villain)
			came := 0
			missing, err := s.Blocks(context.Background(), cidsOf(blocks[:3]), func(cas.Block) error { came++; return nil })
			if !errors.Is(err, c.want) || came != c.came || len(missing) != 3-came {
				t.Errorf("%s: %d came, %d missing, %v; want %d and %v", c.name, came, len(missing), err, c.came, c.want)
			}
			var wrong *mesh.WrongBlockError
			if c.want == mesh.ErrWrongBlock && (!errors.As(err, &wrong) || wrong.Peer != villain.id || wrong.CID != blocks[1].CID) {
				t.Errorf("the error does not name peer and block: %v", err)
			}
		}
		if got := me.peer(villain).WrongBlocks; got != 5 {
			t.Errorf("the peer has %d wrong blocks against it, want 5: silence is none", got)
		}
	})
	t.Run("pushes", func(t *testing.T) {
		good := block(blocks[0].CID.Bytes(), blocks[0].Data)
		const none = 0
		for _, c := range []struct {
			name    string
			sent    []byte
			want    error
			came    int
			against int
		}{
			{"a wrong block", slices.Concat(good, block(blocks[1].CID.Bytes(), blocks[2].Data)), mesh.ErrWrongBlock, 1, 1},
			{"a block that is too large", slices.Concat(good, []byte{0xff, 0, 0, 0}), mesh.ErrBadMessage, 1, 1},
			{"a message that is none", slices.Concat(good, frame([]byte("nonsense"))), mesh.ErrBadMessage, 1, 1},
			{"a request", slices.Concat(good, frame([]byte{0x83, 4, 1, 0x80})), mesh.ErrBadMessage, 1, 1},
			{"hanging up", slices.Concat(good, good[:20]), mesh.ErrNotConnected, 1, none},
			{"the end of the grant", slices.Concat(good, frame([]byte{0x81, 7})), mesh.ErrExpired, 1, none},
			{"blocks without end", slices.Repeat(good, 200), nil, 200, none},
		} {
			before := me.peer(villain).WrongBlocks
			endless, want, against := c.want == nil, c.want, c.against
			stays := endless || want == mesh.ErrBadMessage || want == mesh.ErrWrongBlock
			fakeHolder(h, func(s network.Stream) {
				_, _ = s.Write(frame(grantBytes(t, villain.key, honest)))
				_, _ = s.Write(c.sent)
				if stays {
					_, _ = io.Copy(io.Discard, s)
				}
			})
			req := ask(villain.id)
			req.Push = mesh.Push{Depth: mesh.PushHeaders}
			s, err := me.mesh.OpenStudy(context.Background(), villain.id, req)
			must(t, err)
			came := 0
			for err == nil && came < c.came+1 {
				if came == c.came && endless { // who follows the manifests has had enough
					err = s.Misbehaved()
					break
				}
				var b cas.Block
				if b, _, err = s.Pushed(context.Background()); err == nil {
					came++
					if string(b.Data) != string(blocks[0].Data) {
						t.Errorf("%s: %d bytes of something", c.name, len(b.Data))
					}
				}
			}
			if endless {
				want, against = mesh.ErrBadMessage, 1
			}
			if !errors.Is(err, want) || came != c.came {
				t.Errorf("%s: %d came, %v; want %d and %v", c.name, came, err, c.came, want)
			}
			if _, _, err := s.Pushed(context.Background()); err == nil {
				t.Errorf("%s: the stream goes on", c.name)
			}
			if got := me.peer(villain).WrongBlocks - before; got != against {
				t.Errorf("%s: %d wrong blocks are counted, want %d", c.name, got, against)
			}
		}
	})
	t.Run("others make good", func(t *testing.T) {
		fakeHolder(h, func(s network.Stream) {
			_, _ = s.Write(frame(grantBytes(t, villain.key, honest)))
			if _, err := readFrame(s); err != nil {
				return
			}
			_, _ = s.Write(block(blocks[0].CID.Bytes(), []byte("poison")))
		})
		friend.give(me, blocks...)
		var basket basket
		missing, err := me.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{me.open(villain), me.open(friend)}, cidsOf(blocks), basket.got)
		must(t, err)
		if len(missing) != 0 {
			t.Fatalf("%d missing", len(missing))
		}
		basket.check(t, blocks)
	})
}

// Wants of bitswap are shown to the granting holders and to no bystander.
func TestBitswapShowsWantsToNobodyElse(t *testing.T) {
	t.Parallel()
	r, me, friend, _, h := hostile(t)
	eventually(t, "the node has a connection to the villain", func() bool { return me.mesh.Counters().ConnectedNow == 2 })
	var seen atomic.Int64
	for _, p := range []string{"/ipfs/bitswap/1.2.0", "/ipfs/bitswap/1.1.0", "/ipfs/bitswap/1.0.0", "/ipfs/bitswap"} {
		h.SetStreamHandler(protocolID(p), func(s network.Stream) {
			if n, _ := io.Copy(io.Discard, s); n > 0 {
				seen.Add(n)
			}
		})
	}
	blocks := blocksOf(10, 1000)
	friend.give(me, blocks[:9]...)
	must(t, friend.store.Put(context.Background(), blocks[9])) // held, not granted: bitswap looks for it until it gives up
	s := me.open(friend)
	must(t, s.Close())
	missing, _ := me.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{s}, cidsOf(blocks), func(cas.Block) error { return nil })
	if len(missing) != 1 {
		t.Fatalf("%d missing, want 1", len(missing))
	}
	if n := seen.Load(); n > 0 {
		t.Fatalf("a bystander was sent %d bytes of bitswap", n)
	}
	r.well(me, friend)
}

// Who has a connection and says nothing may be about to close it: it counts
// as connected from its first word.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	_, me, friend, villain, h := hostile(t)
	eventually(t, "both have a connection", func() bool { return me.mesh.Counters().ConnectedNow == 2 })
	eventually(t, "the one that speaks is connected", func() bool { return me.peer(friend).Connected })
	if me.peer(villain).Connected {
		t.Fatal("a node that has said nothing counts as connected")
	}
	s := stream(t, h, me, logs)
	_, err := s.Write(frame(nil))
	must(t, err)
	eventually(t, "it is connected after its first word", func() bool { return me.peer(villain).Connected })
}

// Who sends what is forged, or nothing at all, is counted as such, of gossip as of logs, and nobody else is.
func TestWhoSendsWhatIsWrongIsCounted(t *testing.T) {
	t.Parallel()
	r, me, friend, villain, h := hostile(t)
	forged := friend.say("1.2.7")
	eventually(t, "it arrived", func() bool { return me.knows("1.2.7") })
	forged.Seq += 5
	of := func(n int) func() bool { return func() bool { return me.peer(villain).WrongLog >= n } }
	s := stream(t, h, me, logs)
	_, err := s.Write(frame(index.Heads{Heads: []index.Head{forged}}.Encode()))
	must(t, err)
	ends(t, s)
	eventually(t, "the forged head is counted", of(1))
	eventually(t, "the garbage is counted", func() bool {
		if s, err := h.NewStream(context.Background(), protocolPeer(t, me), logs); err == nil {
			_, _ = s.Write(frame([]byte("hello")))
			ends(t, s)
		}
		return of(2)()
	})
	asHolder := func(holder index.NodeID) []byte {
		return append(append([]byte{8, 1}, holder[:]...), forged.Encode()...)
	}
	for name, packet := range map[string][]byte{
		"of no type": {99, 1, 2}, "a ping that is none": []byte("\x00garbage"), "an ack that is none": {2, 0xff, 0xff}, "a head that is none": []byte("\x08garbage"),
		"with a wrong checksum": append([]byte{12, 1, 2, 3, 4, 0}, 0x80), "a forged head": asHolder(villain.id), "a head in another's name": asHolder(friend.id),
	} {
		before := me.peer(villain).WrongGossip
		eventually(t, name+" is counted", func() bool {
			s, err := h.NewStream(context.Background(), protocolPeer(t, me), gossip)
			if err != nil {
				return false
			}
			defer s.Reset()
			_, _ = s.Write(append([]byte{'p'}, frame(packet)...))
			time.Sleep(20 * time.Millisecond)
			return me.peer(villain).WrongGossip > before
		})
	}
	r.well(me, friend)
	p, other := me.peer(villain), me.peer(friend)
	if p.WrongLast.IsZero() || p.WrongBlocks != 0 {
		t.Errorf("%+v", p)
	}
	if other.WrongLog+other.WrongGossip+other.WrongBlocks != 0 || !other.WrongLast.IsZero() {
		t.Errorf("the friend is blamed: %+v", other)
	}
}

func protocolPeer(t *testing.T, n *node) peer.ID {
	t.Helper()
	id, err := peer.Decode(n.id.String())
	must(t, err)
	return id
}
