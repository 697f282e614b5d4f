package node_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node/audit"
)

// events are those of a name in a trust's audit log.
func (tr *trust) events(name string) (out []audit.Event) {
	tr.t.Helper()
	files, err := filepath.Glob(filepath.Join(tr.home.Dir, "audit", "*"))
	if err != nil {
		tr.t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			tr.t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var e audit.Event
			if json.Unmarshal([]byte(line), &e) == nil && e.Event == name {
				out = append(out, e)
			}
		}
	}
	return out
}

// A grant stands in the audit log at both ends, with whom it is for, why, and until when.
func TestAGrantStandsAtBothEnds(t *testing.T) {
	r := region(t, "RX1", "RX2")
	list := study("1.2.3.1", ada, "20240101", 2)
	r[1].imports(list...)
	r[0].serves("1.2.3.1", list)
	var given, got []audit.Event
	r[0].wait("both ends have written it down", func() (bool, string) {
		got, given = r[0].events("grant.got"), r[1].events("grant.given") // in this order: each was given before it was got
		return len(got) > 0, fmt.Sprintf("given %+v, got %+v", given, got)
	})
	// What was given need not have been got: who asked may have hung up by then, because what it wanted came another way.
	for _, h := range got {
		i := slices.IndexFunc(given, func(g audit.Event) bool { return g.Expires.Equal(h.Expires) })
		if i < 0 {
			t.Errorf("nobody gave %+v; given %+v", h, given)
			continue
		}
		g := given[i]
		if g.Trust != "RX1" || h.Trust != "RX2" || g.Node == "" || h.Node == "" || g.Node == h.Node || g.Study == "" || g.Study != h.Study || strings.Contains(g.Study, "1.2.3") ||
			g.Purpose != "direct care" || h.Purpose != g.Purpose || g.Expires.IsZero() {
			t.Errorf("given %+v, got %+v", g, h)
		}
	}
}
