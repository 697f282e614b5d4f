package api

import (
	"strings"
	"testing"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// An answer says that it does not name every copy.
func TestCopiesThatAreNotNamedAreSaid(t *testing.T) {
	f := archive.Found{Study: index.Study{UID: "1.2.3"}, Versions: []archive.Version{{Trust: "RX1"}}}
	if said := told([]archive.Found{f}); len(said) != 0 {
		t.Errorf("of a study all of whose copies are named: %q", said)
	}
	f.MoreCopies = true
	if said := told([]archive.Found{f}); len(said) != 1 || !strings.Contains(said[0], "of 1 study not all copies are named") {
		t.Errorf("%q", said)
	}
}
