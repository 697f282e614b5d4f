package archive

import (
	"testing"

	"github.com/priormesh/priormesh/index"
)

// Two people may each agree with a version that says little: they are not shown
// together for that.
func TestAVersionThatSaysLittleJoinsNoTwoPeople(t *testing.T) {
	said := []index.Study{{}, {Name: "Lovelace^Ada"}, {Name: "Hopper^Grace"}, {BirthDate: "18151210"}, {Name: "Lovelace^Ada", BirthDate: "19061209"}, {Mixed: true}}
	got := strangersAmong(len(said), func(i int) index.Study { return said[i] })
	for i, want := range []bool{false, false, true, false, true, true} {
		if got[i] != want {
			t.Errorf("%d: %v, want %v", i, got[i], want)
		}
	}
}
