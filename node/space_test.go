package node_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// A copy that must go is first taken back, so that no trust counts on it; a
// reader brings it again.
func TestACopyOverTheQuotaGoesAndComesAgain(t *testing.T) {
	first := newTrust(t, "RX1", "Test region")
	first.home.Config.Space.Reserve = 256 << 20
	first.home.Config.Space.Copies, first.home.Config.Space.KeepCopies = 1, node.Duration(3*time.Second)
	r := regionOf(t, first, "RX2")
	pinned, going := study("1.2.3.1", ada, "20200101", 2), study("1.2.3.2", ada, "20200102", 3)
	read := func(list []dicomtest.Instance) {
		t.Helper()
		r[0].wait("gives the study", func() (bool, string) {
			code, _, got := r[0].retrieve("studies/" + list[0].Study)
			if code != 200 || len(got) < len(list) {
				return false, fmt.Sprintf("HTTP %d, %d parts", code, len(got))
			}
			same(t, got, list)
			return true, ""
		})
	}
	for i, list := range [][]dicomtest.Instance{pinned, going} {
		r[1].imports(list...)
		r[0].waitAvailability(list[0].Study, "NEARLINE")
		if i == 0 {
			var pin api.Pin
			if code := r[0].operator("POST", "/api/v1/pins", fmt.Appendf(nil, `{"study": %q, "reason": "teaching"}`, list[0].Study), &pin); code != 200 || pin.Here || pin.Reason != "teaching" {
				t.Fatalf("pin: %d %+v", code, pin)
			}
		}
		read(list)
	}
	holds := func(study string) (bool, string) {
		var f api.Found
		r[1].operator("GET", "/api/v1/studies?study="+study, nil, &f)
		return len(f.Studies) == 1 && strings.Contains(fmt.Sprint(f.Studies[0].Copies), "RX1"), fmt.Sprintf("%+v", f.Studies)
	}
	r[0].waitAvailability(going[0].Study, "NEARLINE")
	r[1].wait("no longer believes that RX1 has a copy", func() (bool, string) {
		has, said := holds(going[0].Study)
		return !has, said
	})
	if has, said := holds(pinned[0].Study); !has || r[0].availability(pinned[0].Study) != "ONLINE" {
		t.Errorf("the pinned copy is gone: %s", said)
	}
	read(going)
	r[1].wait("knows of the copy again", func() (bool, string) { return holds(going[0].Study) })

	var pins []api.Pin
	if code := r[0].operator("GET", "/api/v1/pins", nil, &pins); code != 200 || len(pins) != 1 || !pins[0].Here {
		t.Errorf("pins: %d %+v", code, pins)
	}
	var un api.Unpinned
	if code := r[0].operator("DELETE", "/api/v1/pins/"+pinned[0].Study, nil, &un); code != 200 || !un.Was {
		t.Errorf("unpin: %d %+v", code, un)
	}
	for _, s := range []string{pinned[0].Study, going[0].Study} {
		r[0].waitAvailability(s, "NEARLINE")
	}
	r[0].wait("says that nothing is left", func() (bool, string) {
		var st api.Status
		r[0].operator("GET", "/api/v1/status", nil, &st)
		return st.Space.Copies == api.Held{} && st.Space.Quota == 1 && st.Space.Pinned == 0 && st.Space.Level == "ok" && st.Space.Reserve > 0, fmt.Sprintf("%+v", st.Space)
	})
	var failed map[string]string
	if code := r[0].operator("POST", "/api/v1/pins", []byte(`{"study": "1.2.3.99"}`), &failed); code != http.StatusNotFound {
		t.Errorf("pinning a study that nobody has: %d %v", code, failed)
	}
	if code := r[0].operator("POST", "/api/v1/pins", []byte(`{"study": "../x"}`), &failed); code != http.StatusBadRequest {
		t.Errorf("pinning what is no UID: %d %v", code, failed)
	}
}
