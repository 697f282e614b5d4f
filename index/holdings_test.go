package index

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
)

// Who says that it holds a study of very many nodes is shown with a few of them, and it is said; what others say is shown all the same.
func TestHoldingsShownAreBounded(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB", "RCC"))
	const uid = "1.2.3"
	say(t, x, mustStudy(t, Study{UID: uid, Name: "DOE^JANE"}))
	claims := func(by TrustID, from, to int) {
		var groups [][]Statement
		for i := from; i < to; {
			var g []Statement
			for ; i < to && len(g) < MaxFacts; i++ {
				st, err := HoldingStatement(Holding{Study: uid, Origin: sha256.Sum256([]byte(fmt.Sprint(i))), Instances: 1})
				if err != nil {
					t.Fatal(err)
				}
				g = append(g, st)
			}
			groups = append(groups, g)
		}
		if _, err := x.Take(sealed(t, nodeKeyOf(by), 1, groups...)); err != nil {
			t.Fatal(err)
		}
	}
	shown := func(by TrustID) (n int, left bool) {
		a, err := x.Studies(bg, Query{StudyUIDs: []string{uid}})
		if err != nil || len(a.Studies) != 1 {
			t.Fatalf("%+v, %v", a, err)
		}
		for _, h := range a.Studies[0].Holdings {
			if h.Author == nodeOf(by) {
				n++
			}
		}
		return n, a.Studies[0].Left
	}
	claims("RCC", 0, MaxHoldings)
	if n, left := shown("RCC"); n != MaxHoldings || left {
		t.Fatalf("%d shown, more left: %v", n, left)
	}
	claims("RBB", 0, 2*maxHeldLook)
	for _, by := range []TrustID{"RBB", "RCC"} {
		if n, left := shown(by); n != MaxHoldings || !left {
			t.Errorf("%s: %d shown, more left: %v", by, n, left)
		}
	}
	// Whoever is asked about is found, however much is said.
	for _, i := range []int{0, maxHeldLook + 7, 2*maxHeldLook - 1} {
		origin := NodeID(sha256.Sum256([]byte(fmt.Sprint(i))))
		held := 1
		if i < MaxHoldings {
			held = 2
		}
		if h := holders(x, uid, origin); len(h) != held {
			t.Errorf("%d hold that of %d", len(h), i)
		}
	}
	for _, by := range []TrustID{"RAA", "RBB", "RCC"} {
		if a, err := x.Studies(bg, Query{HeldBy: nodeOf(by)}); err != nil || len(a.Studies) != 1 {
			t.Errorf("%s: %+v, %v", by, a, err)
		}
	}
}

// That an author says more of a study than is shown is said whether it holds one copy too many, or says of so many that it holds them no
// more that not all is looked at; and who comes after it in the answer takes nothing from that.
func TestMoreHoldingsThanAreShown(t *testing.T) {
	for name, c := range map[string]struct {
		held, gone int // copies that RBB says it holds, and that it holds no more
		want       bool
	}{
		"as many as are shown":     {held: MaxHoldings},
		"one more":                 {held: MaxHoldings + 1, want: true},
		"as many as are looked at": {gone: maxHeldLook},
		"one more that it has not": {gone: maxHeldLook + 1, want: true},
	} {
		x := openTest(t, "RAA", foundRegion("RAA", "RBB", "RCC"))
		const uid = "1.2.3"
		say(t, x, mustStudy(t, Study{UID: uid, Name: "DOE^JANE"}))
		claims := func(by TrustID, instances ...int) {
			var said []Statement
			for i, n := range instances {
				st, err := HoldingStatement(Holding{Study: uid, Origin: sha256.Sum256([]byte(fmt.Sprint(i))), Instances: n})
				if err != nil {
					t.Fatal(err)
				}
				said = append(said, st)
			}
			if _, err := x.Take(sealed(t, nodeKeyOf(by), 1, slices.Collect(slices.Chunk(said, MaxFacts))...)); err != nil {
				t.Fatal(err)
			}
		}
		claims("RBB", append(slices.Repeat([]int{1}, c.held), make([]int, c.gone)...)...)
		claims("RCC", 1)
		a, err := x.Studies(bg, Query{StudyUIDs: []string{uid}})
		if err != nil || len(a.Studies) != 1 {
			t.Fatalf("%+v, %v", a, err)
		}
		if s := a.Studies[0]; s.Left != c.want || len(s.Holdings) != min(c.held, MaxHoldings)+1 {
			t.Errorf("%s: %d shown, more left: %v", name, len(s.Holdings), s.Left)
		}
	}
}
