package index

import "testing"

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
