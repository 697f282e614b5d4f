package index

import (
	"slices"
	"testing"
)

// If two UIDs ever had one hash, the second of an author would be counted as unread, and nobody's study taken for another's.
func TestUIDsThatMeet(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
	x.meet = true
	say(t, x, mustStudy(t, Study{UID: "1.1", Name: "DOE^JANE", Date: "20240101"}), mustStudy(t, Study{UID: "1.2", Name: "SMITH^JOHN", Date: "20240102"}))
	if _, err := x.Take(sealed(t, nodeKeyOf("RBB"), 1, []Statement{mustStudy(t, Study{UID: "1.3", Name: "GREY^ANN", Date: "20240103"})})); err != nil {
		t.Fatal(err)
	}
	for _, l := range x.Lags() {
		if want := map[TrustID]int{"RAA": 1}[l.Trust]; l.Unread != want {
			t.Errorf("%s: %d unread", l.Trust, l.Unread)
		}
	}
	for _, c := range []struct {
		q    Query
		want []string
	}{
		{Query{}, []string{"1.3", "1.1"}}, {Query{Name: "DOE*"}, []string{"1.1"}}, {Query{Name: "SMITH*"}, []string{}}, {Query{Name: "GREY*"}, []string{"1.3"}},
		{Query{StudyUIDs: []string{"1.1"}}, []string{"1.1"}}, {Query{StudyUIDs: []string{"1.2"}}, []string{}},
	} {
		a, err := x.Studies(bg, c.q)
		if err != nil || !slices.Equal(uidsOf(a), c.want) {
			t.Errorf("%+v: %v, want %v (%v)", c.q, uidsOf(a), c.want, err)
		}
		for _, s := range a.Studies {
			if len(s.Statements) != 1 || s.Statements[0].Value.UID != s.UID {
				t.Errorf("%+v: %+v", c.q, s)
			}
		}
	}
}

// What is heard of a log while something of it is being stored is not forgotten with that.
func TestWhatIsHeardDuringATakeStays(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
	v := sealed(t, nodeKeyOf("RBB"), 1, []Statement{note("a", "1")}, []Statement{note("b", "1")}, []Statement{note("c", "1")})
	x.writes = func() {
		x.writes = nil
		if _, behind, err := x.Heard(v[2].Head()); !behind || err != nil {
			t.Error(behind, err)
		}
	}
	if _, err := x.Take(v[:1]); err != nil {
		t.Fatal(err)
	}
	for _, l := range x.Lags() {
		if l.Node == nodeOf("RBB") && (l.Applied != 1 || l.Heard != 3) {
			t.Errorf("%+v", l)
		}
	}
}
