package node_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// searched lists the studies of one page of a search for studies, in order.
func (tr *trust) searched(query string) (uids []string) {
	tr.t.Helper()
	res, b := tr.get("/dicom-web/studies?"+query, "application/dicom+json")
	if res.StatusCode != 200 && res.StatusCode != 204 {
		tr.t.Fatalf("%s: %s", res.Status, b)
	}
	var out []map[string]struct{ Value []any }
	if err := json.Unmarshal(b, &out); err != nil && len(b) > 0 {
		tr.t.Fatalf("%v in %q", err, b)
	}
	for _, s := range out {
		uids = append(uids, fmt.Sprint(s["0020000D"].Value[0]))
	}
	return uids
}

// Who turns pages sees each study once, though newer ones come in meanwhile; who begins again sees those too.
func TestPagesStayWhileStudiesComeIn(t *testing.T) {
	r := region(t, "RX1")
	defer r[0].stop()
	for i := range 6 {
		r[0].imports(study(fmt.Sprintf("1.2.3.%d", i+1), ada, fmt.Sprintf("2024010%d", i+1), 1)...)
	}
	all := func(n int) func() (bool, string) {
		return func() (bool, string) {
			got := r[0].searched("PatientID=A1")
			return len(got) == n, fmt.Sprint(got)
		}
	}
	r[0].wait("all are found", all(6))
	pages := []string{strings.Join(r[0].searched("PatientID=A1&limit=2"), " ")}
	r[0].imports(study("1.2.3.7", ada, "20240107", 1)...)
	r[0].wait("the newest is found", all(7))
	for _, offset := range []int{2, 4, 6} {
		pages = append(pages, strings.Join(r[0].searched(fmt.Sprintf("PatientID=A1&limit=2&offset=%d", offset)), " "))
	}
	if got, want := strings.Join(pages, " | "), "1.2.3.6 1.2.3.5 | 1.2.3.4 1.2.3.3 | 1.2.3.2 1.2.3.1 | "; got != want {
		t.Errorf("page by page %q, want %q", got, want)
	}
	if got := strings.Join(r[0].searched("PatientID=A1&limit=2"), " "); got != "1.2.3.7 1.2.3.6" {
		t.Errorf("begun again: %s", got)
	}
	if got := strings.Join(r[0].searched("PatientID=A1&limit=2&offset=2"), " "); got != "1.2.3.5 1.2.3.4" {
		t.Errorf("and turned: %s", got)
	}
	if got := r[0].searched("PatientID=A1&InstanceAvailability=ONLINE&limit=3"); len(got) != 3 {
		t.Errorf("here: %q", got)
	}
}
