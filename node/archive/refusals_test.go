package archive

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/audit"
)

// A node that is refused without end is written down so often an hour, and the rest is counted: nothing is left unsaid.
func TestRefusalsWithoutEndAreCounted(t *testing.T) {
	var r refusals
	var lines []audit.Event
	log := func(e audit.Event) error { lines = append(lines, e); return nil }
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	refuse := func(from byte, times int) {
		for i := range times {
			if err := r.write(index.NodeID{from}, audit.Event{Event: "grant.refused", Node: fmt.Sprint(from), Study: "x", Detail: fmt.Sprint("why ", i)}, now, log); err != nil {
				t.Fatal(err)
			}
		}
	}
	refuse(1, 5000)
	refuse(2, 3)
	if len(lines) != maxRefusals+3 {
		t.Fatalf("%d lines of 5,003 refusals in no time", len(lines))
	}
	lines, now = nil, now.Add(refusalsEvery)
	refuse(2, 1)
	if len(lines) != 2 || lines[0].Node != "1" || lines[0].Study != "" || !strings.HasPrefix(lines[0].Detail, "4900 requests more were refused since 2026-01-01T12:00:00Z; the last: why 4999") || lines[1].Study != "x" {
		t.Fatalf("after the hour: %+v", lines)
	}
	lines = nil
	refuse(1, maxRefusals+2)
	if len(lines) != maxRefusals {
		t.Fatalf("in the second hour: %d lines", len(lines))
	}
	lines = nil
	if err := r.end(log); err != nil || len(lines) != 1 || !strings.HasPrefix(lines[0].Detail, "2 requests more") {
		t.Fatalf("at the end: %v, %+v", err, lines)
	}
	lines = nil
	now = now.Add(-48 * time.Hour) // a clock that was put back
	refuse(1, 1)
	if len(lines) != 1 || len(r.of) != 1 {
		t.Errorf("%+v, %d nodes remembered", lines, len(r.of))
	}
}
