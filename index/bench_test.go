package index

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

const benchStudies = 100_000

// benchIndex holds 100,000 made-up studies of 40,000 patients over ten years by three trusts; the same for every run.
func benchIndex(b *testing.B) *Index {
	b.Helper()
	trusts := []TrustID{"RAA", "RBB", "RCC"}
	r := foundRegion(trusts...)
	db := openDB(b, b.TempDir())
	b.Cleanup(func() { db.Close() })
	x := openIn(b, db, testOptions("RAA", r))
	rnd := rand.New(rand.NewPCG(1, 1))
	families := []string{"SMITH", "JONES", "TAYLOR", "BROWN", "WILLIAMS", "WILSON", "JOHNSON", "DAVIES", "PATEL", "ROBINSON", "WRIGHT", "THOMPSON", "EVANS", "WALKER", "WHITE", "ROBERTS", "GREEN", "HALL", "WOOD", "JACKSON", "KHAN", "CLARKE"}
	given := []string{"OLIVER", "GEORGE", "NOAH", "ARTHUR", "HARRY", "LEO", "MUHAMMAD", "JACK", "OLIVIA", "AMELIA", "ISLA", "AVA", "MIA", "IVY", "LILY", "GRACE"}
	modalities := []string{"CT", "MR", "CR", "US", "DX", "XA", "NM", "MG"}
	logs := map[TrustID][][]Statement{}
	for i := range benchStudies {
		t := trusts[i%3]
		p := rnd.IntN(40_000)
		s := Study{
			UID: fmt.Sprintf("1.2.826.0.1.3680043.9.%d", i), Name: families[p%len(families)] + fmt.Sprint(p%997) + "^" + given[p%len(given)],
			Patient:   []PatientID{{fmt.Sprintf("P%06d", p), string(t)}},
			BirthDate: fmt.Sprintf("19%02d%02d%02d", p%100, 1+p%12, 1+p%28), Sex: "F",
			Date: fmt.Sprintf("20%02d%02d%02d", 16+rnd.IntN(10), 1+rnd.IntN(12), 1+rnd.IntN(28)), Time: fmt.Sprintf("%02d%02d%02d", rnd.IntN(24), rnd.IntN(60), rnd.IntN(60)),
			Accession: fmt.Sprintf("A%07d", i), Description: "CT Thorax abdomen pelvis with contrast", Referring: "GREY^MEREDITH",
			Modalities: []string{modalities[rnd.IntN(len(modalities))]}, Series: 3, Instances: 400, Bytes: 200 << 20, Manifest: make([]byte, 40), Revision: 1, Settled: true, Received: testNow,
		}
		g := logs[t]
		if len(g) == 0 || len(g[len(g)-1]) == MaxFacts {
			g = append(g, nil)
		}
		g[len(g)-1] = append(g[len(g)-1], mustStudy(b, s))
		logs[t] = g
	}
	for _, t := range trusts {
		if _, err := x.Take(sealed(b, nodeKeyOf(t), 1, logs[t]...)); err != nil {
			b.Fatal(err)
		}
	}
	if n, _, err := x.Count(bg, Query{}); n != benchStudies || err != nil {
		b.Fatal(n, err)
	}
	return x
}

func BenchmarkQuery(b *testing.B) {
	x := benchIndex(b)
	one := Query{Accession: "A0050000"}
	a, err := x.Studies(bg, one)
	if err != nil || len(a.Studies) != 1 {
		b.Fatal(len(a.Studies), err)
	}
	s := a.Studies[0].Statements[0].Value
	for _, c := range []struct {
		name string
		q    Query
	}{
		{"accession", one},
		{"uid", Query{StudyUIDs: []string{s.UID}}},
		{"patient", Query{PatientID: s.Patient[0].ID, Issuer: s.Patient[0].Issuer}},
		{"name", Query{Name: "smith1*^*", Limit: 100}},
		{"given-name", Query{Name: "grace smith", Fuzzy: true, Limit: 100}},
		{"name-and-birth-date", Query{Name: "s*", BirthDate: Range{s.BirthDate, s.BirthDate}}},
		{"one-day", Query{Date: Range{s.Date, s.Date}, Limit: 100}},
		{"modality-in-a-month", Query{Modalities: []string{"MR"}, Date: Range{s.Date[:6] + "01", s.Date[:6] + "31"}, Limit: 100}},
		{"newest", Query{Limit: 100}},
		{"trust-newest", Query{Trust: "RBB", Limit: 100}},
		{"page-ten", Query{Limit: 100, Offset: 900}},
		{"rare-description", Query{Description: "*angio*", Limit: 100}},
	} {
		b.Run(c.name, func(b *testing.B) {
			found := 0
			for b.Loop() {
				a, err := x.Studies(bg, c.q)
				if err != nil {
					b.Fatal(err)
				}
				found = len(a.Studies)
			}
			b.ReportMetric(float64(found), "studies")
		})
	}
	b.Run("patient-of-study", func(b *testing.B) {
		for b.Loop() {
			if p, err := x.Patient(bg, s.UID); err != nil || len(p.Certain) == 0 {
				b.Fatal(err)
			}
		}
	})
	b.Run("count", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := x.Count(bg, Query{Trust: "RAA"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	db := openDB(b, b.TempDir())
	defer db.Close()
	x := openIn(b, db, testOptions("RAA", foundRegion("RAA")))
	for i := 0; b.Loop(); i++ {
		say(b, x, mustStudy(b, Study{UID: uidOf(i), Name: "DOE^JOHN", Date: "20240101", Accession: fmt.Sprint(i), Modalities: []string{"CT"}}))
	}
}
