package index

import (
	"strings"
	"testing"
)

// How much was taken of whom is counted once it is on disk, and once.
func TestMostTaken(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	x := openTest(t, "RAA", r)
	say(t, x, note("own", "does not count"))
	if trust, n := x.MostTaken(); trust != "" || n != 0 {
		t.Errorf("at first %s, %d", trust, n)
	}
	want := int64(0)
	for _, v := range notes(t, "RCC", 3, 1000) {
		want += int64(v.batch.size())
		for range 2 {
			if _, err := x.Take([]Verified{v}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := x.Take(notes(t, "RBB", 5, 10)); err != nil {
		t.Fatal(err)
	}
	if trust, n := x.MostTaken(); trust != "RCC" || n != want {
		t.Errorf("%s, %d; want RCC, %d", trust, n, want)
	}
}

// What comes late, and what comes in pages, counts as what comes at once does.
func TestMostTakenCountsWhatFillsHolesAndPages(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	from := openTest(t, "RBB", r)
	say(t, from, note("x", "1"), note("y", strings.Repeat("y", 1000)))
	say(t, from, note("z", strings.Repeat("z", 1000)))
	log := rangeOf(t, from)
	late := openTest(t, "RAA", r)
	want := int64(0)
	for _, v := range log {
		want += int64(v.batch.size())
	}
	for _, vs := range [][]Verified{{bare(t, log[0], 0, 1), bare(t, log[1], 0)}, {bare(t, log[0], 0)}, log, log} {
		if _, err := late.Take(vs); err != nil {
			t.Fatal(err)
		}
	}
	if trust, n := late.MostTaken(); trust != "RBB" || n != want {
		t.Errorf("of what came late %s, %d; want RBB, %d", trust, n, want)
	}
	if _, err := from.MakeSnapshot(bg); err != nil {
		t.Fatal(err)
	}
	x := openTest(t, "RAA", r)
	bringSnapshot(t, x, from.Self(), map[NodeID]*Index{from.Self(): from})
	trust, n := x.MostTaken()
	if trust != "RBB" || n < 2000 || n > want {
		t.Errorf("of what came in pages %s, %d; want RBB, at most %d", trust, n, want)
	}
}

func rangeOf(t *testing.T, x *Index) (out []Verified) {
	t.Helper()
	bs, err := x.Range(x.Self(), 1, 0, MaxAnswer)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bs {
		v, err := b.Verify()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}
