package index

import (
	"bytes"
	"crypto/ed25519"
	"math/rand/v2"
	"runtime"
	"testing"
)

// Whatever the bytes, a decoder returns a value or an error; and a value it accepts is written and read again the same.

func FuzzBatch(f *testing.F) {
	v := sealed(f, testKey("a"), 1, []Statement{note("x", "1"), note("y", "2")}, []Statement{note("x", "3")})
	f.Add(encode(v[0].Batch()))
	f.Add(encode(v[1].Batch()))
	f.Add(encode(Batch{Header: v[0].Batch().Header, Sig: v[0].Batch().Sig, Payloads: make([]Payload, 2)}))
	f.Add([]byte{0x83, 0x40, 0x40, 0x9b, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := decodeBatch(raw)
		if err != nil {
			return
		}
		_, _ = parseLink(b.Header, b.Sig)
		v, err := b.Verify()
		if err != nil {
			return
		}
		if h := v.Head(); h.Seq < v.First() || h.Seq-v.First() >= MaxFacts {
			t.Fatalf("head %+v of a batch that begins at %d", h, v.First())
		}
		again, err := decodeBatch(encode(v.Batch()))
		if err != nil || !bytes.Equal(again.Header, b.Header) {
			t.Fatalf("not the same again: %v", err)
		}
	})
}

func FuzzFact(f *testing.F) {
	f.Add("study", encode(Study{UID: "1.2.3", Patient: []PatientID{{"1", "A"}}, Name: "DOE^JOHN", Modalities: []string{"CT"}, Received: testNow}))
	f.Add("study", encode(map[int]any{1: "1.2.3", 23: -1 << 60}))
	f.Add("holding", encode(Holding{Study: "1.2.3", Origin: nodeOf("RAA"), Revision: 1, Instances: 2}))
	f.Add("node", encode(NodeFact{Cert: cardOf("RAA").NodeCert, Addrs: []string{"/x"}}))
	f.Add("vote", foundRegion("RAA", "RBB").votes[1].Encode())
	f.Add("vote", fuzzRegion.expels("RAA", 3, "RBB", []Turn{{"RBB", 3}, {"RCC", 2}}, "RAA", "RBB").Encode())
	for _, ends := range [][]LogEnd{nil, {{1, 7}, {3, 1}}, {{3, 1}, {1, 7}}, {{1, 0}}, {{0, 9}}} {
		v := Revocation{Region: fuzzRegion.id, Trust: "RBB", TrustKey: cardOf("RBB").TrustKey, Node: nodeOf("RBB"), Ends: ends}
		v.Sig = ed25519.Sign(trustKeyOf("RBB"), v.signed())
		f.Add("revocation", encode(v))
	}
	f.Add("retraction", Retraction{Why: Erased, Through: Position{1, 9}, Positions: []Position{{1, 2}, {1, 9}}}.encode())
	seven, anna := Identifier{ID: "7", Issuer: "RAA"}, Identifier{NHS: nhsAnna}
	f.Add("link", encode(Link{One: seven, Two: anna, Verdict: Same, Source: "PAS"}))
	f.Add("link", encode(Link{One: anna, Two: seven, Verdict: Merged}))
	f.Add("link", encode(Link{One: seven, Two: seven, Verdict: "later"}))
	f.Add("report", encode(fullReport()))
	f.Add("report", encode(map[int]any{1: "1.2.3", 12: -1 << 60}))
	f.Add("offer", encode(fullOffer()))
	f.Add("payload", encode(note("x", "1")))
	f.Add("payload", encode(Statement{Kind: KindLink, Subject: "x", Version: 2}))
	f.Add("fork", encode(Fork{Node: nodeOf("RAA"), Epoch: 1, Seq: 1}))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		var st Statement
		var err error
		switch kind {
		case "study":
			var s Study
			if err = decode(factMode, "study", body, &s); err != nil {
				return
			}
			if s, err = decodeStudy(s.UID, body); err != nil {
				return
			}
			x := &Index{fold: testFold}
			_, person, pk := x.rows(s, 1, "RAA")
			_ = x.personRows(person, pk)
			st, err = StudyStatement(s)
		case "holding":
			var h Holding
			if err = decode(factMode, "holding", body, &h); err != nil {
				return
			}
			if h, err = decodeHolding(h.subject(), body); err != nil {
				return
			}
			st, err = HoldingStatement(h)
		case "node":
			n, derr := decodeNode(body)
			if derr != nil {
				return
			}
			st, err = NodeStatement(n)
		case "vote":
			v, derr := DecodeVote(body)
			if derr != nil {
				return
			}
			if !bytes.Equal(v.Encode(), body) {
				t.Fatal("a vote of another form was accepted")
			}
			st, err = VoteStatement(v)
		case "revocation":
			v, derr := decodeRevocation(body)
			if derr != nil {
				return
			}
			if last := len(v.Ends) - 1; last >= 0 && (v.end(v.Ends[last].Epoch) != v.Ends[last].Seq || v.end(v.Ends[last].Epoch+1) != 0) {
				t.Fatal("the end of a log is another")
			}
			if st, err = RevocationStatement(v); err == nil && !bytes.Equal(st.Body, body) {
				t.Fatal("a revocation of another form was accepted")
			}
		case "retraction":
			subject := RetractionSubject(KindStudy, "1.2.3")
			r, derr := decodeRetraction(subject, body)
			if derr != nil {
				return
			}
			if len(r.Positions) > MaxRetracted {
				t.Fatal("a list over its limit was accepted")
			}
			st = Statement{Kind: KindRetraction, Subject: subject, Body: r.encode()}
		case "link":
			var l Link
			if decode(factMode, "link", body, &l) != nil {
				return
			}
			if l, err = decodeLink(LinkSubject(l.One, l.Two), body); err != nil {
				return
			}
			_ = linkKeys(1, l)
			if st, err = LinkStatement(l); err == nil && !bytes.Equal(st.Body, encode(l)) {
				t.Fatal("a link has two forms")
			}
		case "report":
			var r Report
			if decode(factMode, "report", body, &r) != nil {
				return
			}
			if r, err = decodeReport(r.subject(), body); err != nil {
				return
			}
			st, err = ReportStatement(r)
		case "offer":
			var o Offer
			if decode(factMode, "offer", body, &o) != nil {
				return
			}
			if o, err = decodeOffer(o.subject(), body); err != nil {
				return
			}
			st, err = OfferStatement(o)
		case "payload":
			st, err = decodePayload(body)
			if err != nil {
				return
			}
			err = st.check()
		default:
			var fork Fork
			if decode(factMode, "fork", body, &fork) == nil {
				_ = fork.Verify()
			}
			return
		}
		if err == nil && kind != "payload" {
			_, err = thisUnderstanding().understand(st)
		}
		if err != nil {
			t.Fatalf("accepted, but not said again: %v", err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	v := sealed(f, testKey("a"), 1, []Statement{note("x", "1")})[0]
	f.Add(Digest{Buckets: [DigestBuckets][16]byte{3: {1}}}.Encode())
	mark := markOf(Head{Node: nodeOf("RAA"), Epoch: 1, Seq: 7}, false)
	f.Add(Summary{Buckets: []SummaryBucket{{Number: int(mark.Prefix[0] >> 4), Marks: []Mark{mark}}}}.Encode())
	f.Add(Show{Marks: []Mark{mark, mark}}.Encode())
	f.Add(Heads{Heads: []Head{v.Head()}}.Encode())
	f.Add(Want{ID: 1, Limit: 1000, Logs: []Wanted{{Node: nodeOf("RAA"), Epoch: 1, After: 7}}}.Encode())
	f.Add(Batches{ID: 1, Batches: []Batch{v.Batch()}, Heads: []Head{v.Head()}}.Encode())
	f.Add(Unknown{Type: 77}.Encode())
	f.Add([]byte{0xa2, 0x00, 0x18, 0x4d, 0x07, 0x61, 0x41})
	f.Add(v.Head().Encode())
	f.Add([]byte{0xa2, 0x00, 0x01, 0x02, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, err := DecodeHead(raw); err == nil && !bytes.Equal(h.Encode(), raw) {
			t.Fatal("a head of another form was accepted")
		}
		m, err := DecodeMessage(raw)
		if err != nil {
			return
		}
		again, err := DecodeMessage(m.Encode())
		if err != nil || !bytes.Equal(again.Encode(), m.Encode()) {
			t.Fatalf("not the same again: %v", err)
		}
		logs := newMemoryLogs("RAA", fuzzRegion)
		logs.say(1, newSeeded("fuzz"), note("x", "1"))
		s := NewSync(logs, SyncOptions{Self: nodeOf("RAA"), Rand: rand.New(rand.NewPCG(1, 2))})
		s.Met(nodeOf("RCC"))
		said := s.view().digest()
		for range 2 {
			out, _ := s.Step(nodeOf("RBB"), m)
			for _, o := range out {
				raw := o.Message.Encode()
				if again, err := DecodeMessage(raw); err != nil || !bytes.Equal(again.Encode(), raw) {
					t.Fatalf("answered by what cannot be read: %v", err)
				}
			}
		}
		if _, err := s.Tick([]NodeID{nodeOf("RBB"), nodeOf("RCC")}); err != nil {
			t.Fatal(err)
		}
		if s.view().digest() != said {
			t.Fatal("a fuzzer signed a batch")
		}
	})
}

var fuzzRegion = foundRegion("RAA", "RBB")

func FuzzText(f *testing.F) {
	f.Add(cardOf("RAA").String())
	f.Add(Invitation{Region: fuzzRegion.id, RegionName: "Test region", Votes: fuzzRegion.votes, Nodes: []NodeFact{{Cert: cardOf("RAA").NodeCert}}}.String())
	revoked, err := Revoke(trustKeyOf("RBB"), fuzzRegion.id, "RBB", nodeOf("RBB"), LogEnd{1, 7})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(revoked.String())
	f.Add(Invitation{Region: fuzzRegion.id, RegionName: "Test region", Votes: fuzzRegion.votes, Revoked: []Revocation{revoked}}.String())
	f.Add("priormesh-card-1:")
	f.Add("priormesh-invitation-2:AAAA")
	f.Add(nodeOf("RAA").String())
	f.Fuzz(func(t *testing.T, s string) {
		// What is under the checksum is what is worth trying.
		for _, text := range []string{s, writeText("card", []byte(s)), writeText("invitation", []byte(s)), writeText("invitation", deflate([]byte(s))), writeText("revocation", []byte(s))} {
			if v, err := ParseRevocation(text); err == nil {
				if again, err := ParseRevocation(v.String()); err != nil || again.String() != v.String() {
					t.Fatalf("a revocation is not the same again: %v", err)
				}
			}
			if c, err := ParseCard(text); err == nil {
				if again, err := ParseCard(c.String()); err != nil || again.Hash() != c.Hash() {
					t.Fatalf("a card is not the same again: %v", err)
				}
			}
			if inv, err := ParseInvitation(text); err == nil {
				if _, err := ParseInvitation(inv.String()); err != nil {
					t.Fatalf("an invitation is not the same again: %v", err)
				}
				_, _ = VerifyInvitation(inv, cardOf("RBB"))
			}
		}
		if n, err := ParseNodeID(s); err == nil && n.String() != s {
			t.Fatalf("%q is another node's name", s)
		}
	})
}

// What a decoder allocates stays in proportion to what it reads, whatever counts the bytes claim.
func TestDecodersAllocateInProportion(t *testing.T) {
	array := func(n int, with byte) []byte {
		return append([]byte{0x9a, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, bytes.Repeat([]byte{with}, n)...)
	}
	const nothing, emptyBytes, emptyArray = 0xf6, 0x40, 0x80
	var inputs [][]byte
	for _, with := range []byte{nothing, emptyBytes, emptyArray} {
		for _, n := range []int{maxList, MaxFacts, MaxMembers, MaxHeads, 500_000} {
			a := array(n, with)
			for field := range byte(12) {
				inputs = append(inputs, append([]byte{0xa1, field}, a...), append([]byte{0xa2, 0x00, 0x01, field | 1}, a...))
			}
			inputs = append(inputs, append([]byte{0x83, 0x40, 0x40}, a...))
		}
	}
	inputs = append(inputs, bytes.Repeat([]byte{0x81}, 500_000), bytes.Repeat([]byte{0xa1}, 500_000), []byte{0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	for name, read := range map[string]func([]byte){
		"message":    func(b []byte) { _, _ = DecodeMessage(b) },
		"head":       func(b []byte) { _, _ = DecodeHead(b) },
		"batch":      func(b []byte) { _, _ = decodeBatch(b) },
		"header":     func(b []byte) { _, _ = parseLink(b, nil) },
		"payload":    func(b []byte) { _, _ = decodePayload(b) },
		"study":      func(b []byte) { _, _ = decodeStudy("", b) },
		"node":       func(b []byte) { _, _ = decodeNode(b) },
		"link":       func(b []byte) { _, _ = decodeLink("", b) },
		"report":     func(b []byte) { _, _ = decodeReport("", b) },
		"offer":      func(b []byte) { _, _ = decodeOffer("", b) },
		"vote":       func(b []byte) { _, _ = DecodeVote(b) },
		"revocation": func(b []byte) { _, _ = decodeRevocation(b) },
		"invitation": func(b []byte) { var w wireInvitation; _ = decode(wideMode, "invitation", b, &w) },
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
