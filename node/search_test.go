package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/index"
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

// What the operator API does not know is refused by its name; what is wrong is
// said, and where.
func TestTheOperatorAPIRefusesWhatItDoesNotKnow(t *testing.T) {
	r := region(t, "RX1")
	defer r[0].stop()
	for _, c := range []struct {
		method, path, body string
		want               []string
	}{
		{"GET", "/api/v1/studies?patientid=A1", "", []string{`"patientid"`, "patient, issuer, nhs"}},
		{"GET", "/api/v1/studies?sort=name", "", []string{`"sort"`, "limit, offset, after"}},
		{"GET", "/api/v1/studies?patient=", "", []string{"patient is empty", "leave it out"}},
		{"GET", "/api/v1/studies?patient=A1&patient=A2", "", []string{"patient is given 2 times"}},
		{"GET", "/api/v1/studies?patient=A1;name=x", "", []string{"query string"}},
		{"GET", "/api/v1/studies?since=2024-13-01", "", []string{"since must be a date"}},
		{"GET", "/api/v1/studies?since=2024-02-02&until=2024-02-01", "", []string{"until is before since"}},
		{"GET", "/api/v1/studies?limit=ten", "", []string{"limit must be a number from 1 to 1000"}},
		{"GET", "/api/v1/studies?offset=100001", "", []string{"offset must be a number from 0 to 100000"}},
		{"GET", "/api/v1/studies?after=x", "", []string{"not what a page of before ended with"}},
		{"GET", "/api/v1/studies?study=x", "", []string{"study must be a Study Instance UID"}},
		{"GET", "/api/v1/studies?name=" + strings.Repeat("x", index.MaxText+1), "", []string{"over the limit of 1024"}},
		{"GET", "/api/v1/studies?name=a%00b", "", []string{"control characters"}},
		{"GET", "/api/v1/status?verbose=1", "", []string{`"verbose"`, "no query parameters"}},
		{"POST", "/api/v1/instances?arrival=yes", "", []string{"arrival must be true or false"}},
		{"POST", "/api/v1/fetches", `{"study": "1.2", "urgent": true}`, []string{`"urgent"`, `"study"`}},
		{"POST", "/api/v1/fetches", `{"study": 12}`, []string{`"study"`, "number"}},
		{"POST", "/api/v1/fetches", `{"study": "1.2"} {}`, []string{"something follows"}},
		{"POST", "/api/v1/fetches", ``, []string{"no body"}},
		{"POST", "/api/v1/fetches", `[1]`, []string{"no JSON object"}},
		{"POST", "/api/v1/pins", `{"study": "1.2", "why": "x"}`, []string{`"why"`, `"reason"`}},
		{"POST", "/api/v1/erasures", `{"study": "1.2", "Grund": "x"}`, []string{`"Grund"`, `"reason"`}},
		{"POST", "/api/v1/admissions", `{"cards": "x"}`, []string{`"cards"`, `"card"`}},
		{"POST", "/api/v1/verifications", `{"speed": 1}`, []string{`"speed"`, `"rate"`, `"study"`}},
		{"POST", "/api/v1/backups", `{"folder": "/x"}`, []string{`"folder"`, `"target"`, `"without_kek"`}},
	} {
		var got struct{ Error string }
		if code := r[0].operator(c.method, c.path, []byte(c.body), &got); code != 400 {
			t.Errorf("%s %.60s %s: %d %s", c.method, c.path, c.body, code, got.Error)
		}
		for _, want := range c.want {
			if !strings.Contains(got.Error, want) {
				t.Errorf("%s %.60s %s: no %s in %q", c.method, c.path, c.body, want, got.Error)
			}
		}
	}
	for _, query := range []string{"PatientName=a%01b", "StudyDate=20240202-20240101", "fuzzymatching=true&PatientName=-", "StudyDate=2024", "limit=0", "PatientID=" + strings.Repeat("x", index.MaxText+1)} {
		if res, b := r[0].get("/dicom-web/studies?"+query, "application/dicom+json"); res.StatusCode != 400 {
			t.Errorf("%.60s: %s %s", query, res.Status, b)
		}
	}
	if res, b := r[0].get("/dicom-web/studies?PatientID=", "application/dicom+json"); res.StatusCode != 200 {
		t.Errorf("universal matching: %s %s", res.Status, b)
	}
	if f := r[0].finds("trust=RX9"); len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0], "RX9 is not a trust of this region; there are RX1") {
		t.Errorf("%q", f.Warnings)
	}
}

// Studies of which much is said fill an answer before it has as many as were
// asked for; it says so, and where to go on.
func TestAnAnswerHasBytesForSoMuch(t *testing.T) {
	r := region(t, "RX1")
	defer r[0].stop()
	long := func(i, n int) string { return fmt.Sprintf("%d-%d-", i, n) + strings.Repeat("x", index.MaxText-16) }
	const each, studies = 2 * 30 * (index.MaxText - 16), 2*index.MaxPageSize/(2*30*(index.MaxText-16)) + 3
	for i := range studies {
		s := index.Study{UID: fmt.Sprintf("1.2.3.%d", i+1), Date: "20240101", Series: 1, Instances: 1}
		for n := range 30 {
			s.Patient = append(s.Patient, index.PatientID{ID: long(i, n), Issuer: "RX1"})
			s.Modalities = append(s.Modalities, long(i, n))
		}
		st, err := index.StudyStatement(s)
		if err == nil {
			_, err = r[0].n.Archive().Index.Append(context.Background(), st)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	pages := 0
	for after := ""; ; pages++ {
		f := r[0].finds("limit=1000" + after)
		size := 0
		for _, s := range f.Studies {
			seen[s.Study], size = true, size+each
		}
		if size > index.MaxPageSize+2*each || f.Total != studies {
			t.Errorf("a page of %d bytes, %d in all", size, f.Total)
		}
		if f.Next == "" {
			break
		}
		if w := strings.Join(f.Warnings, " "); !strings.Contains(w, "over 8 MiB: there are more") {
			t.Errorf("not said: %s", w)
		}
		after = "&after=" + f.Next
	}
	if len(seen) != studies || pages < 2 {
		t.Errorf("%d of %d studies on %d pages", len(seen), studies, pages+1)
	}
	clear(seen)
	for offset := 0; ; {
		res, b := r[0].get(fmt.Sprintf("/dicom-web/studies?offset=%d", offset), "application/dicom+json")
		n := strings.Count(string(b), `"0020000D"`)
		offset += n
		if w := strings.Join(res.Header.Values("Warning"), " "); !strings.Contains(w, fmt.Sprintf("go on with offset=%d", offset)) {
			if offset != studies {
				t.Errorf("%d of %d studies: %s", offset, studies, w)
			}
			break
		}
	}
}

// A number may stand on two people's studies. Who asks by it is told, and is given the studies of each apart.
func TestANumberOfTwoPeopleTellsThemApart(t *testing.T) {
	r := region(t, "RX1")
	defer r[0].stop()
	other := grace
	other.PatientID = ada.PatientID
	r[0].imports(study("1.2.3.1", ada, "20240101", 1)...)
	r[0].imports(study("1.2.3.2", other, "20240102", 1)...)
	r[0].imports(study("1.2.3.3", ada, "20240103", 1)...)
	find := func(query string) (people string, warnings []string) {
		var f api.Found
		if code := r[0].operator("GET", "/api/v1/studies?"+query, nil, &f); code != 200 {
			t.Fatalf("%s: %d", query, code)
		}
		for _, s := range f.Studies {
			people += fmt.Sprintf("%s=%d ", s.Study, s.Person)
		}
		return people, f.Warnings
	}
	r[0].wait("all are found", func() (bool, string) {
		got := r[0].searched("")
		return len(got) == 3, fmt.Sprint(got)
	})
	got, warnings := find("patient=A1")
	if got != "1.2.3.3=1 1.2.3.2=2 1.2.3.1=1 " || len(warnings) != 1 || !strings.Contains(warnings[0], "not known to be one patient's: 2 patients are told apart") {
		t.Errorf("by the number: %s, warned %q", got, warnings)
	}
	// Whatever page, and whatever else is asked for.
	for query, want := range map[string]string{"patient=A1&limit=1": "1.2.3.3=1 ", "patient=A1&limit=1&offset=1": "1.2.3.2=2 ", "patient=A1&until=2024-01-01": "1.2.3.1=1 "} {
		if got, warnings := find(query); got != want || len(warnings) != 1 {
			t.Errorf("%s: %s, warned %q", query, got, warnings)
		}
	}
	for _, query := range []string{"patient=A*", "patient=?1&until=2024-01-02"} { // a pattern fits several patients' numbers
		if got, warnings := find(query); !strings.Contains(got, "=1 ") || !strings.Contains(got, "=2 ") || len(warnings) != 1 || !strings.Contains(warnings[0], "match this pattern are not known to be one patient's") {
			t.Errorf("%s: %s, warned %q", query, got, warnings)
		}
	}
	for _, query := range []string{"name=lovelace", "patient=A*&until=2024-01-01", "patient=*"} {
		if got, warnings := find(query); strings.Contains(got, "=1 ") || strings.Contains(got, "=2 ") || len(warnings) != 0 {
			t.Errorf("%s: %s, warned %q", query, got, warnings)
		}
	}
	for _, query := range []string{"studies?PatientID=A1", "studies?PatientID=A1&limit=1", "series?PatientID=A1", "instances?PatientID=A1", "studies?PatientID=A*", "series?PatientID=A*"} {
		res, _ := r[0].get("/dicom-web/"+query, "application/dicom+json")
		if said := strings.Join(res.Header.Values("Warning"), " "); !strings.Contains(said, "not known to be one patient's") {
			t.Errorf("QIDO-RS %s warns %q", query, said)
		}
	}
	if res, _ := r[0].get("/dicom-web/studies?PatientName=Lovelace", "application/dicom+json"); strings.Contains(strings.Join(res.Header.Values("Warning"), " "), "patient's") {
		t.Errorf("QIDO-RS warns of one patient: %q", res.Header.Values("Warning"))
	}
}

// What may be the patient's is shown beside the answer, in a list of its own: a name that differs by a letter, and one name with another number.
func TestWhatMayBeThePatientsIsShown(t *testing.T) {
	r := region(t, "RX1")
	defer r[0].stop()
	slip, elsewhere := grace, grace
	slip.Name, elsewhere.PatientID = "Hopper^Grece", "B7"
	r[0].imports(study("1.2.3.1", grace, "20240101", 1)...)
	r[0].imports(study("1.2.3.2", slip, "20240102", 1)...)
	if code, b := r[0].stow(study("1.2.3.3", elsewhere, "20240103", 1)...); code != 200 {
		t.Fatal(code, string(b))
	}
	r[0].imports(study("1.2.3.4", ada, "20240104", 1)...)
	r[0].wait("all are found", func() (bool, string) {
		got := r[0].searched("")
		return len(got) == 4, fmt.Sprint(got)
	})
	for query, want := range map[string]string{"study=1.2.3.1": "1.2.3.3 1.2.3.2 ", "patient=G1": "1.2.3.3 ", "patient=B7": "1.2.3.1 ", "study=1.2.3.4": "", "name=hopper": "", "study=1.2.9": ""} {
		f := r[0].finds(query)
		got := ""
		for _, s := range f.Possible {
			got += s.Study + " "
		}
		if said := strings.Contains(strings.Join(f.Warnings, " "), "may be of a patient of this answer"); got != want || said != (want != "") {
			t.Errorf("%s: possible %q, want %q; warned %q", query, got, want, f.Warnings)
		}
	}
	r[0].wait("status counts the one that arrived", func() (bool, string) {
		d := r[0].status().Doubts
		return d.Possible == 1 && d.Crowded+d.Limited == 0 && slices.Equal(d.Studies, []string{"1.2.3.3"}), fmt.Sprintf("%+v", d)
	})
	res, _ := r[0].get("/dicom-web/studies?StudyInstanceUID=1.2.3.1", "application/dicom+json")
	if said := strings.Join(res.Header.Values("Warning"), " "); !strings.Contains(said, "2 further studies may be of a patient of this answer") || !strings.Contains(said, "received by RX1") {
		t.Errorf("QIDO-RS warns %q", said)
	}
}

// However many people bear a number, who agrees wholly with the first of them is told as that one, and that they are so many is said.
func TestANumberOfTooManyPeopleIsSaid(t *testing.T) {
	r := region(t, "RX1")
	defer r[0].stop()
	const wrong = 12
	r[0].imports(study("1.2.3.1", grace, "20240101", 1)...)
	for i := range wrong {
		other := grace
		other.Name, other.BirthDate = "Byron^George", fmt.Sprint(19060203+i)
		r[0].imports(study(fmt.Sprintf("1.2.3.%d", i+2), other, fmt.Sprint(20240102+i), 1)...)
	}
	r[0].imports(study("1.2.3.99", grace, "20250101", 1)...)
	r[0].wait("all are found", func() (bool, string) {
		got := r[0].searched("")
		return len(got) == wrong+2, fmt.Sprint(got)
	})
	f := r[0].finds("patient=G1")
	person, unknown := map[string]int{}, 0
	for _, s := range f.Studies {
		person[s.Study] = s.Person
		if s.Person == 0 {
			unknown++
		}
	}
	if person["1.2.3.99"] != 1 || person["1.2.3.1"] != 1 || unknown != wrong-7 {
		t.Errorf("told apart: %v", person)
	}
	if said := strings.Join(f.Warnings, " "); !strings.Contains(said, "8 and perhaps more patients") || !strings.Contains(said, "borne by so many people") {
		t.Errorf("warned %q", f.Warnings)
	}
}

// The digits of an NHS number whose issuer is not the NHS are not found as one, and the empty answer says why.
func TestAnNHSNumberOfAnotherIssuerIsExplained(t *testing.T) {
	r := region(t, "RX1")
	defer r[0].stop()
	numbered := ada
	numbered.PatientID = "9434765919"
	r[0].imports(study("1.2.3.1", numbered, "20240101", 1)...)
	spaced := grace // and beside what is found
	spaced.PatientID = "401 023 2137"
	r[0].imports(study("1.2.3.2", spaced, "20240101", 1)...)
	spaced.Issuer = "nhs"
	r[0].imports(study("1.2.3.3", spaced, "20240101", 1)...)
	r[0].wait("all are found", func() (bool, string) {
		got := r[0].searched("")
		return len(got) == 3, fmt.Sprint(got)
	})
	var f api.Found
	for query, want := range map[string]int{"nhs=943+476+5919": 1, "nhs=4010232137": 1, "nhs=4857773406": 0, "patient=9434765919": 0} {
		f.Warnings = nil
		code := r[0].operator("GET", "/api/v1/studies?"+query, nil, &f)
		f.Warnings = slices.DeleteFunc(f.Warnings, func(w string) bool { return strings.Contains(w, "may be of a patient of this answer") }) // hers under the other number
		if code != 200 || len(f.Warnings) != want || want == 1 && !strings.Contains(f.Warnings[0], "1 study is not found by this NHS number although it has its digits") {
			t.Errorf("%s: %d, warned %q", query, code, f.Warnings)
		}
	}
}
