package main

import (
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

// Of what a restored node has lost it is said where it comes from; nobody is asked to
// send again what others hold.
func TestFindSaysWhereWhatIsLostComesFrom(t *testing.T) {
	var l lostStudies
	for _, s := range []api.Study{
		{},
		{Lost: true, LostCopies: []string{"RCC", "RAA"}, Coming: true},
		{Lost: true, LostCopies: []string{"RAA"}, Coming: true},
		{Lost: true, LostCopies: []string{"RAA"}},
		{Lost: true, Copies: []string{"RBB"}}, // of what another trust received
	} {
		l.add(s)
	}
	got := l.texts()
	if len(got) != 3 {
		t.Fatalf("%q", got)
	}
	for i, want := range []string{"2 studies were received", "1 study was received", "1 study was received"} {
		if !strings.Contains(got[i], "lost here: "+want) {
			t.Errorf("%q", got[i])
		}
	}
	for i, want := range []string{"copies at RAA, RCC: being brought", "copies at RAA, RCC: bring them with `priormesh fetch`", "no copy is known: have them sent again"} {
		if !strings.HasSuffix(got[i], want) && !strings.Contains(got[i], want+", or") {
			t.Errorf("%q, want %q", got[i], want)
		}
	}
	if got := new(lostStudies).texts(); got != nil {
		t.Errorf("%q", got)
	}
}
