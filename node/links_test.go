package node_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

func (tr *trust) links(r api.LinkRequest) (api.Link, int) {
	tr.t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		tr.t.Fatal(err)
	}
	var l api.Link
	code := tr.operator("POST", "/api/v1/links", body, &l)
	return l, code
}

// A person's word that two numbers are one patient's joins their studies at every
// node; another trust's word against it leaves them possible; and what is taken
// back restores what was.
func TestAPersonDecidesOfTwoNumbers(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a, b := r[0], r[1]
	one, two := grace, grace
	one.Issuer, two.Issuer, two.PatientID = "TEST", "TEST", "B7"
	a.imports(study("1.2.3.1", one, "20240101", 1)...)
	b.imports(study("1.2.3.2", two, "20230101", 1)...)
	shows := func(further, possible string) {
		t.Helper()
		for _, tr := range r {
			tr.wait("shows "+further+"|"+possible, func() (bool, string) {
				f := tr.finds("patient=G1&issuer=TEST")
				got := [2]string{}
				for i, list := range [][]api.Study{f.Further, f.Possible} {
					for _, s := range list {
						got[i] += s.Study
					}
				}
				return len(f.Studies) == 1 && got == [2]string{further, possible}, fmt.Sprintf("%q %q", got, f.Warnings)
			})
		}
	}
	shows("", "1.2.3.2")
	ask := api.LinkRequest{One: api.Identifier{ID: "G1", Issuer: "TEST"}, Two: api.Identifier{ID: "B7", Issuer: "TEST"}}
	says := func(tr *trust, verdict, standing string, words int) {
		t.Helper()
		req := ask
		req.Verdict, req.Reason = verdict, "letter 12"
		if l, code := tr.links(req); code != 200 || l.Standing != standing || len(l.Said) != words || l.OneStudies != 1 || l.TwoStudies != 1 {
			t.Fatalf("%s: %d %+v", verdict, code, l)
		}
	}
	if l, code := a.links(ask); code != 200 || l.Standing != "none" {
		t.Fatalf("%d %+v", code, l)
	}
	says(a, "same", "same", 1)
	shows("1.2.3.2", "")
	says(b, "different", "contested", 2)
	shows("", "1.2.3.2")
	says(b, "withdrawn", "same", 1)
	shows("1.2.3.2", "")
	says(a, "different", "different", 1)
	shows("", "1.2.3.2")
	ask.One, ask.Two = ask.Two, ask.One // whichever comes first
	says(a, "merged", "same", 1)
	shows("1.2.3.2", "")
	if l, _ := b.links(ask); len(l.Said) != 1 || l.Said[0].Trust != "RX1" || l.Said[0].Own || l.Said[0].Survives == nil || l.Said[0].Survives.ID != "G1" || l.Said[0].Reason != "letter 12" {
		t.Errorf("%+v", l)
	}
	if e := a.events("link.said"); len(e) != 3 || strings.Contains(e[0].Detail, "G1") || strings.Contains(e[0].Detail, "B7") {
		t.Errorf("%+v", e)
	}
	// Only who said it takes it back.
	for name, req := range map[string]api.LinkRequest{
		"another's word":     {One: ask.One, Two: ask.Two, Verdict: "withdrawn"},
		"without a reason":   {One: ask.One, Two: ask.Two, Verdict: "same"},
		"of no verdict":      {One: ask.One, Two: ask.Two, Verdict: "perhaps", Reason: "why"},
		"of one":             {One: ask.One, Two: ask.One, Verdict: "same", Reason: "why"},
		"without an issuer":  {One: ask.One, Two: api.Identifier{ID: "7"}, Verdict: "same", Reason: "why"},
		"no NHS number":      {One: ask.One, Two: api.Identifier{ID: "9434765918", Issuer: "NHS"}, Verdict: "same", Reason: "why"},
		"nobody's":           {One: ask.One, Two: api.Identifier{ID: "UNKNOWN", Issuer: "RX1"}, Verdict: "same", Reason: "why"},
		"control characters": {One: ask.One, Two: api.Identifier{ID: "7\x00", Issuer: "RX1"}, Verdict: "same", Reason: "why"},
		"a long number":      {One: ask.One, Two: api.Identifier{ID: strings.Repeat("7", 5000), Issuer: "RX1"}, Verdict: "same", Reason: "why"},
	} {
		if l, code := b.links(req); code != 400 {
			t.Errorf("%s: %d %+v", name, code, l)
		}
	}
	says(a, "withdrawn", "none", 0)
	shows("", "1.2.3.2")
	// However an NHS number is written, it is one.
	if l, code := a.links(api.LinkRequest{One: ask.One, Two: api.Identifier{ID: "943 476 5919", Issuer: "nhs"}, Verdict: "same", Reason: "why"}); code != 200 || l.Two != (api.Identifier{ID: "9434765919", Issuer: "NHS"}) {
		t.Errorf("%d %+v", code, l)
	}
}
