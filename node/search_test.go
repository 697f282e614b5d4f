package node_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node/api"
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

// The operator finds studies by whatever the index knows of them, and is told which word of the question is wrong.
func TestOperatorsFindStudies(t *testing.T) {
	r := region(t, "RX1")
	defer r[0].stop()
	r[0].imports(study("1.2.3.1", ada, "20240101", 1)...)
	r[0].imports(study("1.2.3.2", grace, "20240102", 1)...)
	r[0].wait("both are found", func() (bool, string) {
		got := r[0].searched("")
		return len(got) == 2, fmt.Sprint(got)
	})
	for query, want := range map[string]string{
		"born=1815-12-10": "1.2.3.1", "born=18151210": "1.2.3.1", "born=1815-12-11": "", "name=hopper": "1.2.3.2", "trust=rx1": "1.2.3.2 1.2.3.1",
		"trust=RX2": "", "accession=none": "", "description=none*": "", "body=head": "", "since=2024-01-02": "1.2.3.2", "patient=A1": "1.2.3.1",
	} {
		var f api.Found
		if code := r[0].operator("GET", "/api/v1/studies?"+query, nil, &f); code != 200 {
			t.Errorf("%s: %d", query, code)
		}
		var got []string
		for _, s := range f.Studies {
			got = append(got, s.Study)
		}
		if strings.Join(got, " ") != want || f.Total != len(got) {
			t.Errorf("%s: %v of %d, want %s", query, got, f.Total, want)
		}
	}
	for _, query := range []string{"born=yesterday", "trust=Royal+Free", "nhs=1", "limit=0", "since=2024"} {
		if code := r[0].operator("GET", "/api/v1/studies?"+query, nil, &struct{}{}); code != 400 {
			t.Errorf("%s: %d", query, code)
		}
	}
}
