package index

import (
	"slices"
	"strings"
	"testing"
)

// What the head of a name rules out is no name's beginning and no name's family.
func TestHeadsRuleOutNothingThatIs(t *testing.T) {
	fold := folder(testFold)
	names := []string{
		"", "^", "^JO", "LI", "LI^WEI", "LI^^X", "L^I", "LIN^WEI", "Lí^Wei", "SMI", "SMITH", "SMITH^JOHN", "Smi^Th", "SMIT^H", "van der Berg^Jan", "VAN-DER BERG", "VAN^DER",
		"山^太", "山田^太郎", "YAMADA^TARO=山田^太郎=やまだ^たろう", "=山田^太郎", "==LI^WEI", "LI^WEI=李^伟", "李^伟", "a=b=c=d",
	}
	ruledOut := 0
	for _, a := range names {
		h := fold.head(a)
		groups := fold.canonical(a)
		for _, b := range names {
			for _, g := range fold.canonical(b) {
				for n := range len(g) + 1 {
					begins := g != "" && slices.ContainsFunc(groups, func(o string) bool { return strings.HasPrefix(o, g[:n]) && o != "" })
					if begins && !h.mayBegin(g[:n]) {
						t.Errorf("the head %q of %q rules out that it begins with %q", h, a, g[:n])
					}
				}
			}
			for _, family := range fold.families(b) {
				switch is := slices.Contains(fold.families(a), family); {
				case is && !h.mayBeOf(family):
					t.Errorf("the head %q of %q rules out the family %q", h, a, family)
				case !is && !h.mayBeOf(family):
					ruledOut++
				}
			}
		}
	}
	for head, family := range map[string]string{"SMITH^JOHN": "smythe", "LI^WEI": "lin", "LIN^WEI": "li", "LI": "l", "SMI": "smart"} {
		if fold.head(head).mayBeOf(family) {
			t.Errorf("the head of %s does not rule out %s", head, family)
		}
	}
	if ruledOut == 0 {
		t.Error("nothing is ruled out")
	}
}
