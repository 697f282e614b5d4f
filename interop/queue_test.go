package interop

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

// What nobody waits for is held to its share; an emergency is not, and comes
// meanwhile; a restart loses neither; and the limit is lifted in a node that runs.
func TestAnEmergencyOvertakes(t *testing.T) {
	const instances, size = 24, 512 << 10
	members := region(t, "RAA", "RBB")
	a, b := members[0], members[1]
	dir, small := t.TempDir(), t.TempDir()
	slow := synthesize(t, dir, 301, instances, size)
	quick := synthesize(t, small, 302, 2, size)
	b.take(t, dir)
	b.take(t, small)
	a.knows(t, slow[0].study, instances)
	a.knows(t, quick[0].study, 2)
	settings := func(set map[string]string, want func(api.Settings) bool) {
		t.Helper()
		a.set(t, set)
		eventually(t, startDeadline, "the settings are in force", func() error {
			if s := a.status(t).Settings; !want(s) {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	settings(map[string]string{"background_rate": "'64KiB'"}, func(s api.Settings) bool { return s.Background == 64<<10 })
	a.operator(t, http.MethodPost, "/fetches", map[string]string{"study": slow[0].study, "priority": "background"})
	var at api.Fetch
	eventually(t, startDeadline, "it comes", func() error {
		at = a.operator(t, http.MethodGet, "/fetches/"+slow[0].study, nil)
		if at.State != "active" || len(at.Holders) != 1 || at.Holders[0].Bytes == 0 {
			return fmt.Errorf("%+v", at)
		}
		return nil
	})
	if at.Priority != "background" || at.Holders[0].Trust != "RBB" || at.Holders[0].State != "gives" {
		t.Errorf("%+v", at)
	}
	must(t, priormesh(t), "fetch", "--home", a.home, "--priority", "emergency", quick[0].study)
	if at = a.operator(t, http.MethodGet, "/fetches/"+slow[0].study, nil); at.State == "here" {
		t.Error("12 MB came by 64 KiB a second in no time")
	}
	a.kill(t)
	a.run(t)
	if s := a.status(t); len(s.Fetches) != 1 || s.Fetches[0].Study != slow[0].study || s.Fetches[0].Priority != "background" {
		t.Errorf("after a kill the queue has %+v", s.Fetches)
	}
	a.serves(t, quick[0].study, sums(quick))
	settings(map[string]string{"background_rate": "'0'"}, func(s api.Settings) bool { return s.Background == 0 })
	a.has(t, slow[0].study, instances)
	a.serves(t, slow[0].study, sums(slow))
}
