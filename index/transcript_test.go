package index

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/*.txt anew from what happens now")

// names gives node IDs back their trust's code.
var names = func() map[NodeID]TrustID {
	out := map[NodeID]TrustID{}
	for c := 'A'; c <= 'Z'; c++ {
		t := TrustID("R" + strings.Repeat(string(c), 2))
		out[nodeOf(t)] = t
	}
	return out
}()

func nameOf(n NodeID) string {
	if t, ok := names[n]; ok {
		return string(t)
	}
	return "node " + n.String()[:12]
}

func headText(h Head) string { return fmt.Sprintf("%s %d/%d", nameOf(h.Node), h.Epoch, h.Seq) }

func markText(k Mark) string {
	who := fmt.Sprintf("%x", k.Prefix)
	for n, t := range names {
		if [8]byte(n[:8]) == k.Prefix {
			who = string(t)
		}
	}
	return fmt.Sprintf("%s %d/%d", who, k.Epoch, k.Seq)
}

func messageText(m Message) string {
	switch m := m.(type) {
	case Heads:
		var hs []string
		for _, h := range m.Heads {
			hs = append(hs, headText(h))
		}
		if len(hs) > 8 {
			hs = []string{fmt.Sprintf("(%d heads)", len(hs))}
		}
		if len(hs) == 0 {
			hs = []string{"none"}
		}
		return "heads " + strings.Join(hs, ", ")
	case Digest:
		return "digest"
	case Summary:
		var ms []string
		for _, b := range m.Buckets {
			for _, k := range b.Marks {
				ms = append(ms, markText(k))
			}
		}
		if len(ms) > 8 {
			ms = []string{fmt.Sprintf("(%d logs)", len(ms))}
		}
		if len(ms) == 0 {
			ms = []string{"nothing"}
		}
		return "summary " + strings.Join(ms, ", ")
	case Show:
		var ms []string
		for _, k := range m.Marks {
			ms = append(ms, markText(k))
		}
		return "show " + strings.Join(ms, ", ")
	case Want:
		var ws []string
		for _, l := range m.Logs {
			ws = append(ws, fmt.Sprintf("%s epoch %d after %d", nameOf(l.Node), l.Epoch, l.After))
		}
		return fmt.Sprintf("want (%d) %s, %d KiB", m.ID, strings.Join(ws, ", "), m.Limit>>10)
	case Unknown:
		return fmt.Sprintf("message of type %d", m.Type)
	case Batches:
		var bs []string
		var last NodeID
		for _, b := range m.Batches {
			l, err := parseLink(b.Header, b.Sig)
			if err != nil {
				bs = append(bs, "unreadable")
				continue
			}
			without := 0
			for _, p := range b.Payloads {
				if p.dropped() {
					without++
				}
			}
			span := fmt.Sprintf("%d/%d-%d", l.head.Epoch, l.first, l.head.Seq)
			if l.head.Node != last {
				span = nameOf(l.head.Node) + " " + span
				last = l.head.Node
			}
			if without > 0 {
				span += fmt.Sprintf(" (%d without payload)", without)
			}
			bs = append(bs, span)
		}
		if len(bs) > 8 {
			bs = []string{bs[0], "…", bs[len(bs)-1], fmt.Sprintf("(%d batches)", len(bs))}
		}
		if len(bs) == 0 {
			bs = []string{"none"}
		}
		s := fmt.Sprintf("batches (%d) %s", m.ID, strings.Join(bs, " "))
		if m.ID == 0 {
			s = "push " + strings.Join(bs, " ")
		}
		for _, h := range m.Heads {
			s += "; more to " + headText(h)
		}
		return s
	}
	return "unknown"
}

// envelope is a message on its way.
type envelope struct {
	from, to NodeID
	msg      Message
}

// stage plays a transcript.
type stage struct {
	t      *testing.T
	region *region
	logs   map[TrustID]*memoryLogs
	syncs  map[TrustID]*Sync
	epochs map[TrustID]Epoch
	salt   seeded
	wire   []envelope
	out    strings.Builder
}

func (s *stage) join(t TrustID, votes []Vote) {
	r := &region{id: s.region.id, votes: votes, checked: signatures{}}
	s.logs[t] = newMemoryLogs(t, r)
	s.syncs[t] = NewSync(s.logs[t], SyncOptions{Self: nodeOf(t), Rand: rand.New(rand.NewPCG(1, 2))})
	s.epochs[t] = 1
}

func (s *stage) sent(from TrustID, out []Outgoing, err error) {
	if err != nil {
		// Node IDs of the stage are given back their names, the rest is as it is.
		text := err.Error()
		for n, t := range names {
			text = strings.ReplaceAll(text, n.String(), string(t))
		}
		s.printf("  %s says: %s", from, text)
	}
	for _, o := range out {
		raw := o.Message.Encode()
		if len(raw) > MaxMessage {
			s.t.Fatalf("a message of %d bytes", len(raw))
		}
		got, derr := DecodeMessage(raw)
		if derr != nil || !bytes.Equal(got.Encode(), raw) || reflect.TypeOf(got) != reflect.TypeOf(o.Message) {
			s.t.Fatalf("%s does not survive encoding: %v", messageText(o.Message), derr)
		}
		s.wire = append(s.wire, envelope{nodeOf(from), o.To, got})
	}
}

func (s *stage) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *stage) deliver() {
	e := s.wire[0]
	s.wire = s.wire[1:]
	s.printf("%s -> %s  %s", nameOf(e.from), nameOf(e.to), messageText(e.msg))
	to := TrustID(nameOf(e.to))
	out, err := s.syncs[to].Step(e.from, e.msg)
	s.sent(to, out, err)
}

func (s *stage) run(limit int) {
	for len(s.wire) > 0 {
		if limit--; limit < 0 {
			s.t.Fatal("the conversation does not end")
		}
		s.deliver()
	}
}

// play carries out one line of a transcript.
func (s *stage) play(line string) {
	f := strings.Fields(line)
	trust := func(i int) TrustID { return TrustID(f[i]) }
	switch f[0] {
	case "region": // region RAA RBB …: founded and admitted, and all have the votes
		var ts []TrustID
		for _, t := range f[1:] {
			ts = append(ts, TrustID(t))
		}
		s.region = foundRegion(ts...)
		for _, t := range ts {
			s.join(t, s.region.votes)
		}
	case "invite": // invite RCC: it has an invitation of all votes so far, and no facts
		s.join(trust(1), s.region.votes)
	case "vote": // vote RAA RCC: RAA votes for RCC, in its log only
		m := s.logs[trust(1)]
		v, err := Admit(trustKeyOf(trust(1)), m.roster, cardOf(trust(2)), m.roster.NextSerial(trust(1)))
		if err != nil {
			s.t.Fatal(err)
		}
		st, err := VoteStatement(v)
		if err != nil {
			s.t.Fatal(err)
		}
		s.region.votes = append(s.region.votes, v)
		s.printf("%s", headText(m.say(s.epochs[trust(1)], s.salt, st)))
	case "say": // say RAA note/x one note/y two …: one batch
		var st []Statement
		for i := 2; i+1 < len(f); i += 2 {
			kind, subject, _ := strings.Cut(f[i], "/")
			st = append(st, Statement{Kind: Kind(kind), Subject: subject, Body: []byte(f[i+1])})
		}
		s.printf("%s", headText(s.logs[trust(1)].say(s.epochs[trust(1)], s.salt, st...)))
	case "erase": // erase RAA study/1.2.3: it takes back what it said of it
		kind, subject, _ := strings.Cut(f[2], "/")
		s.printf("%s", headText(s.logs[trust(1)].erase(s.epochs[trust(1)], s.salt, Kind(kind), subject)))
	case "fill": // fill RAA 40 50000: 40 batches of one fact of 50000 bytes
		var n, size int
		if _, err := fmt.Sscan(f[2]+" "+f[3], &n, &size); err != nil {
			s.t.Fatal(err)
		}
		var h Head
		for i := range n {
			h = s.logs[trust(1)].say(s.epochs[trust(1)], s.salt, note(fmt.Sprint("fill ", i), strings.Repeat("x", size)))
		}
		s.printf("%s", headText(h))
	case "epoch": // epoch RAA: restored, with nothing of its log
		s.epochs[trust(1)]++
	case "lose": // lose RAA: its home is an older copy, without its own log
		s.join(trust(1), s.region.votes)
	case "tick": // tick RAA RBB …: RAA begins an exchange with one of the others
		var peers []NodeID
		for _, t := range f[2:] {
			peers = append(peers, nodeOf(TrustID(t)))
		}
		out, err := s.syncs[trust(1)].Tick(peers)
		s.sent(trust(1), out, err)
	case "know": // know RAA RBB …: RAA is connected to the others
		for _, t := range f[2:] {
			s.syncs[trust(1)].Met(nodeOf(TrustID(t)))
		}
	case "push": // push RAA: RAA pushes what it has said
		out, err := s.syncs[trust(1)].Said()
		s.sent(trust(1), out, err)
	case "pass": // pass RAA 1s: time passes
		d, err := time.ParseDuration(f[2])
		if err != nil {
			s.t.Fatal(err)
		}
		out, err := s.syncs[trust(1)].Pass(d)
		s.sent(trust(1), out, err)
	case "lack": // lack RBB RAA 1 3: RBB has RAA's log of epoch 1, without the payload of position 3
		e, err := strconv.Atoi(f[3])
		if err != nil {
			s.t.Fatal(err)
		}
		at, err := strconv.Atoi(f[4])
		if err != nil {
			s.t.Fatal(err)
		}
		m := s.logs[trust(1)]
		for _, v := range s.logs[trust(2)].logs[logID{nodeOf(trust(2)), Epoch(e)}].batches {
			b := v.Batch()
			if v.link.first <= Seq(at) && Seq(at) <= v.link.head.Seq {
				b = lack(v, Seq(at))
			}
			w, err := b.Verify()
			if err == nil {
				_, err = m.Take([]Verified{w})
			}
			if err != nil {
				s.t.Fatal(err)
			}
		}
	case "send": // send RAA 1024: RAA may send so many bytes a second
		rate, err := strconv.Atoi(f[2])
		if err != nil {
			s.t.Fatal(err)
		}
		s.syncs[trust(1)] = NewSync(s.logs[trust(1)], SyncOptions{Self: nodeOf(trust(1)), Rand: rand.New(rand.NewPCG(1, 2)), Send: rate})
	case "later": // what is to come next comes last
		s.wire = append(s.wire[1:], s.wire[0])
	case "gossip": // gossip RAA RBB: RBB hears RAA's newest head
		var newest Head
		for _, h := range s.logs[trust(1)].Heads() {
			if h.Node == nodeOf(trust(1)) {
				newest = h
			}
		}
		s.printf("%s ~> %s  %s", f[1], f[2], headText(newest))
		out, err := s.syncs[trust(2)].Gossiped(nodeOf(trust(1)), newest)
		s.sent(trust(2), out, err)
	case "deliver":
		s.deliver()
	case "run":
		s.run(200)
	case "lost":
		s.printf("%s -> %s  %s  (lost)", nameOf(s.wire[0].from), nameOf(s.wire[0].to), messageText(s.wire[0].msg))
		s.wire = s.wire[1:]
	case "double":
		s.wire = append(s.wire, s.wire[0])
	case "state":
		lines := strings.Split(strings.TrimSpace(s.logs[trust(1)].state()), "\n")
		if n := len(lines); n > 12 {
			lines = append(lines[:4], fmt.Sprintf("… (%d lines)", n), lines[n-1])
		}
		s.printf("%s", strings.Join(lines, "\n"))
	case "hostile": // hostile RBB RAA what: RBB sends RAA what it should not
		s.hostile(trust(1), trust(2), strings.Join(f[3:], " "))
	default:
		s.t.Fatalf("unknown line %q", line)
	}
}

func (s *stage) hostile(from, to TrustID, what string) {
	victim := nodeOf("RAA")
	step := func(m Message) error {
		out, err := s.syncs[to].Step(nodeOf(from), m)
		s.sent(to, out, err)
		return err
	}
	own := s.logs["RAA"].Heads()[0]
	batch := func() Batch {
		b, _ := s.logs["RAA"].Range(victim, 1, 0, MaxAnswer)
		c := Batch{Header: bytes.Clone(b[0].Header), Sig: bytes.Clone(b[0].Sig)}
		for _, p := range b[0].Payloads {
			c.Payloads = append(c.Payloads, Payload{Salt: bytes.Clone(p.Salt), Data: bytes.Clone(p.Data)})
		}
		return c
	}
	raw := func(v any) {
		_, err := DecodeMessage(encode(v))
		s.printf("  not decoded: %v", err)
	}
	far := Head{Node: victim, Epoch: 1, Seq: 1 << 40, Hash: [32]byte{1}, Sig: make([]byte, 64)}
	summary := func(h Head) Summary {
		return Summary{Buckets: []SummaryBucket{{Number: int(h.Node[0] >> 4), Marks: []Mark{markOf(h, false)}}}}
	}
	switch what {
	case "forged head":
		_ = step(Heads{Heads: []Head{far}})
	case "forged gossip":
		out, err := s.syncs[to].Gossiped(nodeOf(from), far)
		s.sent(to, out, err)
	case "forged signature":
		b := batch()
		b.Sig[0] ^= 1
		_ = step(Batches{Batches: []Batch{b}})
	case "wrong hash":
		b := batch()
		b.Payloads[0].Data[len(b.Payloads[0].Data)-1] ^= 1
		_ = step(Batches{Batches: []Batch{b}})
	case "more heads than fit":
		_ = step(Heads{Heads: make([]Head, MaxHeads+1)})
	case "absurd counts":
		for _, b := range [][]byte{
			{0xa2, 0x00, 0x01, 0x02, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
			{0xa2, 0x00, 0x01, 0x02, 0x9a, 0x10, 0x00, 0x00, 0x00},
			{0xa2, 0x00, 0x05, 0x0b, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
			{0xa2, 0x00, 0x06, 0x0c, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
			{0xbb, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00},
			bytes.Repeat([]byte{0x81}, 1000),
			make([]byte, MaxMessage+1),
		} {
			_, err := DecodeMessage(b)
			s.printf("  not decoded: %v", err)
		}
		raw(wireMessage{Type: typeShow, Marks: bytes.Repeat(packMarks([]Mark{markOf(own, false)}), MaxMarks+1)})
		raw(wireMessage{Type: typeWant, ID: 1, Logs: bytes.Repeat(append(victim[:], 1, 0), MaxWanted+1)})
	case "out of order":
		h := own.Encode()
		raw(wireMessage{Type: typeHeads, Heads: [][]byte{h, h}})
		bucket := append([]byte{3}, make([]byte, 16)...)
		raw(wireMessage{Type: typeSummary, Buckets: [][]byte{bucket, bucket}})
		raw(wireMessage{Type: typeSummary, Buckets: [][]byte{bucket[:9]}})
		a, b := Mark{Prefix: [8]byte{1}, Epoch: 1}, Mark{Prefix: [8]byte{2}, Epoch: 1}
		raw(wireMessage{Type: typeShow, Marks: packMarks([]Mark{b, a})})
		_ = step(Summary{Buckets: []SummaryBucket{{Number: int(^victim[0] >> 4), Marks: []Mark{markOf(own, false)}}}})
	case "absurd want":
		raw(wireMessage{Type: typeWant, ID: 1, Logs: append(victim[:], 1, 0), Limit: 1 << 40})
		raw(wireMessage{Type: typeWant, ID: 1, Logs: append(victim[:], 0x80, 0x80, 1, 0)})
		raw(wireMessage{Type: typeWant, ID: 1, Logs: victim[:3]})
		raw(wireMessage{Type: typeWant, Logs: append(victim[:], 1, 0)})
	case "unknown message":
		m, err := DecodeMessage(encode(map[int]any{0: 77, 1: "of a later version", 9: []int{1, 2}}))
		if err != nil {
			s.t.Fatal(err)
		}
		s.printf("%s -> %s  %s", from, to, messageText(m))
		_ = step(m)
	case "endless unknown messages":
		s.endless(from, to, Unknown{Type: 77})
	case "stranger's log":
		v := sealed(s.t, nodeKeyOf("RXX"), 1, []Statement{note("x", "1")})[0]
		_ = step(Heads{Heads: []Head{v.Head()}})
		_ = step(Batches{Batches: []Batch{v.Batch()}})
	case "stranger in a summary":
		_ = step(summary(sealed(s.t, nodeKeyOf("RXX"), 1, []Statement{note("x", "1")})[0].Head()))
	case "claims to be ahead":
		_ = step(summary(Head{Node: victim, Epoch: 1, Seq: own.Seq + 1000, Hash: [32]byte{1}}))
	case "says more and gives nothing":
		id := s.syncs[to].lastID
		_ = step(Batches{ID: id, Heads: []Head{own}})
	case "gap":
		b, _ := s.logs["RAA"].Range(victim, 1, 0, MaxAnswer)
		_ = step(Batches{Batches: b[1:]})
	case "endless batches":
		s.endless(from, to, Batches{Batches: []Batch{batch()}})
	case "endless heads":
		s.endless(from, to, Heads{Heads: s.logs["RAA"].Heads()})
	case "endless digests":
		s.endless(from, to, Digest{})
	case "endless summaries":
		s.endless(from, to, Summary{})
	case "endless shows":
		s.endless(from, to, Show{Marks: []Mark{markOf(own, true)}})
	default:
		s.t.Fatalf("unknown hostility %q", what)
	}
}

// endless sends a message until the receiver has had enough.
func (s *stage) endless(from, to TrustID, m Message) {
	for i := 1; ; i++ {
		_, err := s.syncs[to].Step(nodeOf(from), m)
		if err != nil || i > 10*MaxUnknown {
			s.printf("  after %d of them:", i)
			s.sent(to, nil, err)
			return
		}
	}
}

// TestTranscripts plays testdata/*.txt and compares what happens with what is written there.
//
// A transcript is a conversation of the sync protocol for a person to read: lines to play (see stage.play), a line ----, what
// happened, an empty line. Comments begin with #.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &stage{t: t, logs: map[TrustID]*memoryLogs{}, syncs: map[TrustID]*Sync{}, epochs: map[TrustID]Epoch{}, salt: newSeeded("stage")}
			var got strings.Builder
			skip := false
			for line := range strings.Lines(string(raw)) {
				line = strings.TrimRight(line, "\n")
				switch {
				case skip && line != "":
				case line == "----":
					skip = true
				case strings.HasPrefix(line, "#"), line == "":
					if skip || s.out.Len() > 0 {
						got.WriteString("----\n" + s.out.String())
						s.out.Reset()
					}
					skip = false
					got.WriteString(line + "\n")
				default:
					got.WriteString(line + "\n")
					s.play(line)
				}
			}
			if s.out.Len() > 0 || skip {
				got.WriteString("----\n" + s.out.String())
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != string(raw) {
				t.Fatalf("this happens now (run with -update when it should):\n%s", got.String())
			}
		})
	}
}
