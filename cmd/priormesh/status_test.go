package main

import (
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

// Each reason why something was not brought is said, with of how many studies, and no other.
func TestDoubtsAreSaid(t *testing.T) {
	texts := []string{"3 have studies that only may be", "4 are of a number that more people bear", "5 have more studies than are brought"}
	for i, d := range []api.Doubts{{Possible: 3}, {Crowded: 4}, {Limited: 5}} {
		var out strings.Builder
		doubtText(&out, d)
		for j, text := range texts {
			if strings.Contains(out.String(), text) != (i == j) {
				t.Errorf("%+v: %s", d, out.String())
			}
		}
	}
	var out strings.Builder
	doubtText(&out, api.Doubts{})
	if out.Len() > 0 {
		t.Error(out.String())
	}
	doubtText(&out, api.Doubts{Possible: 3, Crowded: 4, Limited: 5, Studies: strings.Fields(strings.Repeat("1.2.3 ", 24))})
	if strings.Count(out.String(), "\n  1.2.3\n") == 0 || !strings.Contains(out.String(), "and 4 more") {
		t.Error(out.String())
	}
	for _, text := range texts {
		if !strings.Contains(out.String(), text) {
			t.Errorf("%s: lacks %q", out.String(), text)
		}
	}
}
