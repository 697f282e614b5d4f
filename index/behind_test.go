package index

import (
	"errors"
	"testing"
)

// What a node's key has signed and nobody gives is lacking until it comes or the node begins anew, also after a restart: nobody tells of it twice.
func TestBehindUntilItComesOrANewEpochBegins(t *testing.T) {
	region := foundRegion("RAA", "RBB")
	other := nodeKeyOf("RBB")
	log := func(epoch Epoch) []Verified {
		var groups [][]Statement
		for i := range 3 {
			groups = append(groups, []Statement{mustStudy(t, Study{UID: uidOf(i), StudyID: string(rune('a' + int(epoch)))})})
		}
		return sealed(t, other, epoch, groups...)
	}
	first, second := log(1), log(2)
	db := openDB(t, "")
	defer db.Close()
	x := openIn(t, db, testOptions("RAA", region))
	take := func(v ...Verified) {
		t.Helper()
		if _, err := x.Take(v); err != nil {
			t.Fatal(err)
		}
	}
	heard := func(v Verified) {
		t.Helper()
		if _, _, err := x.Heard(v.Head()); err != nil {
			t.Fatal(err)
		}
	}
	behind := func(when string, want bool) {
		t.Helper()
		for _, start := range []string{"", ", after a restart", ", after another"} {
			if start != "" {
				x = openIn(t, db, testOptions("RAA", region))
			}
			if got := x.Behind(NodeIDOf(other)); got != want {
				t.Errorf("%s%s: behind %v", when, start, got)
			}
		}
	}
	behind("of whom nothing is known", false)
	heard(first[0])
	behind("of whom nothing has come", true)
	take(first[0])
	behind("of whom all has come", false)
	heard(first[2])
	behind("of whom two facts lack", true)
	take(first[1])
	behind("of whom one lacks", true)
	heard(second[0])
	behind("who began a new epoch, of which nothing has come", true)
	take(second[0])
	behind("who began a new epoch", false) // what lacks of the earlier one does not come any more
	heard(second[1])
	behind("of whose new epoch a fact lacks", true)
	take(second[1])
	behind("of whose new epoch all has come", false)
	take(first[2])
	behind("of whom all has come of both", false)
	third := log(3)
	take(bare(t, third[0], 0))
	behind("of whose fact the contents lack", true)
	take(third[0])
	behind("of whose fact the contents have come", false)
	take(bare(t, third[1], 0))
	take(log(4)[0])
	behind("of whose earlier epoch contents lack", true)
	take(third[1])
	behind("of whose earlier epoch the contents have come", false)
	// Also where it cannot be written down.
	opt := testOptions("RAA", region)
	opt.Room = func(bool) error { return errors.New("full") }
	x = openIn(t, db, opt)
	heard(log(4)[2])
	if !x.Behind(NodeIDOf(other)) {
		t.Error("on a full disk nothing is lacking")
	}
}
