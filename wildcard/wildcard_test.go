package wildcard

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMatch(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"?", "", false}, {"?", "ä", true},
		{"a*c", "abbbc", true}, {"a*c", "abbbd", false}, {"a*b*c", "aXbYc", true}, {"*a", "ba", true}, {"*a", "ab", false},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"**a**", "a", true}, {"a*?", "a", false}, {"a*?", "ab", true},
		{"a*a", "a", false}, {"ab*ba", "aba", false}, {"*?*?*", "a", false}, {"*?*?*", "ab", true}, {"\xff", "\ufffd", true}, {"?", "\xff", true}, {"?", "\xff\xff", false},
		{strings.Repeat("*a", 100), strings.Repeat("a", 99), false}, {strings.Repeat("*a", 100), strings.Repeat("a", 500), true},
		{"*" + long + "?" + long + "*", "y" + long + "z" + long + "y", true}, {"*" + long + "?" + long + "*", "y" + long + "z" + long[1:] + "y", false},
	} {
		if got := Match(c.pattern, c.s); got != c.want {
			t.Errorf("%.20q matches %.20q: %v", c.pattern, c.s, got)
		}
	}
}

// Wildcards mean what a regular expression says they mean.
func TestMatchIsWhatARegularExpressionSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*?é]{0,12}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[abé]{0,12}`).Draw(t, "s")
		re := regexp.MustCompile(`\A` + strings.NewReplacer("*", ".*", "?", ".").Replace(pattern) + `\z`)
		if got, want := Match(pattern, s), re.MatchString(s); got != want {
			t.Fatalf("Match(%q, %q) = %v", pattern, s, got)
		}
	})
}

// What would take a minute and more if every beginning were tried at every place comes at once.
func TestManyWildcards(t *testing.T) {
	const n = 1 << 20
	as := strings.Repeat("a", n)
	for pattern, want := range map[string]bool{
		strings.Repeat("*a", n/2) + "b":         false,
		"*" + strings.Repeat("a", n/2) + "b*":   false,
		"*" + strings.Repeat("a", n/2) + "*":    true,
		strings.Repeat("*a?", n/4):              true,
		"*" + strings.Repeat("a?", 1000) + "b*": false,
	} {
		if got := Match(pattern, as); got != want {
			t.Errorf("%.10q…: %v", pattern, got)
		}
	}
}
