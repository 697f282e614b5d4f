package index

import "testing"

// What stands where no given name is known is none, and a character that is a word or a syllable is nobody's initial.
func TestWhatIsNoNameAndNoInitial(t *testing.T) {
	for _, w := range []string{"unknown", "unk", "nfn", "none", "nil", "noname", "name", "na", "child", "son", "daughter", "baby", "twin"} {
		if isName(w) {
			t.Errorf("%q is taken for a name", w)
		}
	}
	for _, w := range []string{"ada", "nina", "sonia", "nat"} {
		if !isName(w) {
			t.Errorf("%q is taken for none", w)
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "ada", true}, {"ada", "a", true}, {"ada", "ada", true}, {"b", "ada", false}, {"", "ada", false},
		{"李", "李娟", false}, {"李", "李", true}, {"김", "김수", false}, {"は", "はな", false}, {"ア", "アダ", false},
	} {
		if got := begins(c.a, c.b); got != c.want {
			t.Errorf("%q begins %q: %v", c.a, c.b, got)
		}
	}
}
