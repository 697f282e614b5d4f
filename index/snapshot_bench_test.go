package index

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// benchFacts yields facts of made-up studies, no two the same.
func benchFacts(b *testing.B, n int) func(func(PageFact, error) bool) {
	rnd := rand.NewChaCha8([32]byte{1})
	modalities := []string{"CT", "MR", "CR", "US", "DX"}
	return func(yield func(PageFact, error) bool) {
		for i := range n {
			p := i * 7 % (n/6 + 1)
			salt, manifest := make([]byte, saltSize), make([]byte, 40)
			_, _ = rnd.Read(salt)
			_, _ = rnd.Read(manifest)
			s := Study{
				UID: fmt.Sprintf("1.2.826.0.1.3680043.9.%d", i), Name: fmt.Sprintf("SMITH%d^JOHN", p%997),
				Patient: []PatientID{{fmt.Sprintf("P%07d", p), "RAA"}}, BirthDate: fmt.Sprintf("19%02d%02d%02d", p%100, 1+p%12, 1+p%28), Sex: "F",
				Date: fmt.Sprintf("20%02d%02d%02d", 16+i%10, 1+i%12, 1+i%28), Time: fmt.Sprintf("%02d%02d%02d", i%24, i%60, i%59),
				Accession: fmt.Sprintf("A%07d", i), Description: "CT Thorax abdomen pelvis with contrast", Referring: "GREY^MEREDITH",
				Modalities: []string{modalities[i%5]}, Series: 3, Instances: 400, Bytes: 200 << 20, Manifest: manifest, Revision: 1, Settled: true, Received: testNow,
			}
			st := Statement{Kind: KindStudy, Subject: s.UID, Body: encode(s)}
			if !yield(PageFact{Seq: Seq(i + 1), Payload: Payload{Salt: salt, Data: encode(st)}}, nil) {
				return
			}
		}
	}
}

// BenchmarkBuildSnapshot builds a snapshot of a million facts from memory.
func BenchmarkBuildSnapshot(b *testing.B) {
	const n = 1_000_000
	h := Head{Node: nodeOf("RAA"), Epoch: 1, Seq: n, Hash: [32]byte{1}}
	h.Sig = signHead(nodeKeyOf("RAA"), h)
	group := 0
	var facts []PageFact
	for f := range benchFacts(b, 64*64) {
		facts = append(facts, f)
	}
	var s Snapshot
	for b.Loop() {
		var err error
		s, err = BuildSnapshot(h, func(yield func(PageFact, error) bool) {
			for i := range n {
				f := facts[i%len(facts)]
				binary.BigEndian.PutUint64(f.Payload.Salt, uint64(group+i)) // as many commitments as facts
				f.Seq = Seq(i + 1)
				if !yield(f, nil) {
					return
				}
			}
		}, &counted{})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "facts/s")
	b.ReportMetric(float64(s.Bytes)/n, "B/fact")
	b.ReportMetric(float64(s.Pages*refSize)/n, "listB/fact")
}

// BenchmarkReadPage checks pages as they come from a peer, and says what they take on the wire.
func BenchmarkReadPage(b *testing.B) {
	var pages []VerifiedPage
	var raw [][]byte
	size, packed, facts := 0, 0, 0
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		b.Fatal(err)
	}
	var answer []byte
	for v, err := range CutPages(nodeOf("RAA"), 1, benchFacts(b, 64*200)) {
		if err != nil {
			b.Fatal(err)
		}
		pages = append(pages, v)
		raw = append(raw, encode(v.page))
		size += len(raw[len(raw)-1])
		facts += v.Len()
		if answer = append(answer, raw[len(raw)-1]...); len(answer) > MaxAnswer || facts == 64*200 {
			packed += len(enc.EncodeAll(answer, nil))
			answer = answer[:0]
		}
	}
	s := Snapshot{Head: Head{Node: nodeOf("RAA"), Epoch: 1, Seq: 64 * 200}}
	i := 0
	for b.Loop() {
		if _, err := s.ReadPage(pages[i%len(pages)].Ref(), raw[i%len(raw)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
	b.ReportMetric(float64(b.N*PageSpan)/b.Elapsed().Seconds(), "facts/s")
	b.ReportMetric(float64(size)/float64(facts), "B/fact")
	b.ReportMetric(float64(packed)/float64(facts), "zstdB/fact")
}
