package api

import (
	"testing"

	"github.com/priormesh/priormesh/index"
)

// Of two who asked for the same page, between which studies went, neither passes over what the other has seen.
func TestAPageEndsAtTheNearerOfTwoEnds(t *testing.T) {
	p := newPages()
	q := pageOf(index.Query{PatientID: "A1"})
	p.ended(q, 4, "20") // one client
	p.ended(q, 4, "50") // another, after three of the four went
	if at, ok := p.after(q, 4); !ok || at != "20" {
		t.Errorf("goes on after %q, %v", at, ok)
	}
	p.ended(q, 4, "10") // newer ones came in
	if at, _ := p.after(q, 4); at != "10" {
		t.Errorf("goes on after %q", at)
	}
	for i := range 2 * keptPages { // until what was remembered is among the older ends
		if p.old[pageEnd{q, 4}] != "" {
			break
		}
		p.ended(q, 1000+i, "99")
	}
	p.ended(q, 4, "30")
	if at, _ := p.after(q, 4); at != "10" {
		t.Errorf("goes on after %q, though an end nearer to the newest is remembered", at)
	}
}
