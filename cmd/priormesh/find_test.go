package main

import (
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

// Of what a restored node has lost it is said where it comes from; nobody is asked to
// send again what others hold.
func TestFindSaysWhereWhatIsLostComesFrom(t *testing.T) {
	var l lostStudies
	for _, s := range []api.Study{
		{},
		{Lost: true, LostCopies: []string{"RCC", "RAA"}, Coming: true},
		{Lost: true, LostCopies: []string{"RAA"}, Coming: true},
		{Lost: true, LostCopies: []string{"RAA"}},
		{Lost: true, Copies: []string{"RBB"}}, // of what another trust received
	} {
		l.add(s)
	}
	got := l.texts()
	if len(got) != 3 {
		t.Fatalf("%q", got)
	}
	for i, want := range []string{"2 studies were received", "1 study was received", "1 study was received"} {
		if !strings.Contains(got[i], "lost here: "+want) {
			t.Errorf("%q", got[i])
		}
	}
	for i, want := range []string{"copies at RAA, RCC: being brought", "copies at RAA, RCC: bring them with `priormesh fetch`", "no copy is known: have them sent again"} {
		if !strings.HasSuffix(got[i], want) && !strings.Contains(got[i], want+", or") {
			t.Errorf("%q, want %q", got[i], want)
		}
	}
	if got := new(lostStudies).texts(); got != nil {
		t.Errorf("%q", got)
	}
}

// Where nothing is shown, what was warned of is said whichever page was asked for: a search
// that was given up has not found that there is no more.
func TestFindThatShowsNothingWarns(t *testing.T) {
	given := []string{"the search was given up"}
	for name, c := range map[string]struct {
		got    api.Found
		offset int
		after  string
		want   string // without the warnings
		sure   string // if nothing is warned of
	}{
		"nothing at all":     {api.Found{}, 0, "", "no study matched in what this node has heard, which may not be all there is", "no study matched"},
		"beyond what is":     {api.Found{Total: 5}, 9, "", "no study was found from --offset 9 on: 5 were counted, and there may be more", "no study from --offset 9 on: there are 5"},
		"after the last one": {api.Found{Total: 5}, 0, "c", "no study was found after this page, and there may be more", "no study after this page"},
		"all left out":       {api.Found{Total: 5}, 2, "", "no study is shown", ""},
		"a page left out":    {api.Found{Total: 5, Next: "n"}, 0, "", "no study is shown of this page", ""},
	} {
		if c.sure != "" {
			if err := nothingShown(c.got, c.offset, c.after); err.Error() != c.sure || exitCode(err) != exitNotFound {
				t.Errorf("%s: %v", name, err)
			}
		}
		c.got.Warnings = given
		if err := nothingShown(c.got, c.offset, c.after); !strings.HasPrefix(err.Error(), c.want) || !strings.HasSuffix(err.Error(), ": "+given[0]) || exitCode(err) != exitNotFound {
			t.Errorf("%s, given up: %v", name, err)
		}
	}
}

// What is proposed for a name finds it however it is stored: who writes a given name first is not sent to
// look for it as a family name alone.
func TestTheHintForANameFindsIt(t *testing.T) {
	for name, want := range map[string][]string{
		"Ann Weir":         {"if the family name is last, --name 'Weir*' finds", "--name '*Ann*' all names", "if it is first, --name 'Ann*'"},
		"Ann Mary O'Neill": {`--name 'O'\''Neill*'`, "--name '*Ann*'"},
		"Weir":             {"--name 'Weir*'", "--name '*Weir*'"},
		"weir^ann":         {"--name 'weir*'", "--name '*weir*'"},
		"Weir, Ann":        {"--name 'Weir*'", "--name '*Weir*'"},
		"van der Berg^Ann": {"--name 'van der Berg*'"},
		"^":                {"--name '^*'"},
	} {
		for _, w := range want {
			if got := nameHint(name); !strings.Contains(got, w) {
				t.Errorf("%s: %q, want %q", name, got, w)
			}
		}
	}
}
