package node_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom/dicomtest"
)

// A study without a birth date, or without a study date, is in no answer to a question for one: that
// there is such a study is said, whether it has none, a year alone, or a day that does not exist.
func TestWhatHasNoDateIsSaid(t *testing.T) {
	r := region(t, "RX1")
	person := func(id, name, born string) dicomtest.Instance {
		p := dicomtest.Instance{PatientID: id, Name: name, BirthDate: born, Sex: "F"}
		if id == "9434765919" {
			p.Issuer = "NHS"
		}
		return p
	}
	for i, s := range []struct {
		p    dicomtest.Instance
		date string
	}{
		{person("K1", "Trauma^Tom", ""), "20240101"},
		{person("K2", "Half^Hanna", "1960"), "20240101"},
		{person("K3", "Zero^Zoe", "19600000"), "20240101"},
		{person("9434765919", "Nina^Nora", ""), "20240101"},
		{person("K4", "Full^Fay", "19600606"), "20240101"},
		{person("K4", "Full^Fay", "19600606"), "2024"},
		{person("K5", "Neither^Ned", ""), ""},
		{person("K6", "Two^Ann", ""), "20240101"},
		{person("K6", "Two^Ann", ""), "20240102"},
	} {
		r[0].imports(study(fmt.Sprintf("1.2.3.%d", i+1), s.p, s.date, 1)...)
	}
	r[0].wait("all are found", func() (bool, string) {
		got := r[0].searched("")
		return len(got) == 9, fmt.Sprint(got)
	})
	const birth, date, both = "no birth date, or none", "has no study date, or none", "no birth date and no study date"
	for query, want := range map[string]string{
		"name=trauma^tom*&born=19700101":             "0 1 " + birth,
		"patient=K1&born=19700101":                   "0 1 " + birth,
		"patient=K?&born=19700101":                   "0 6 " + birth,
		"patient=K2&born=19700101":                   "0 1 " + birth,
		"patient=K3&born=19600606":                   "0 1 " + birth,
		"patient=K6&born=19700101":                   "0 2 " + birth,
		"nhs=9434765919&born=19700101":               "0 1 " + birth,
		"name=full^fay&born=19600606":                "2",
		"name=full^fay&born=19700101":                "0",
		"name=full^fay&since=20230101":               "1 1 " + date,
		"patient=K4&since=20230101":                  "1 1 " + date,
		"patient=K5&born=19700101":                   "0 1 " + birth,
		"name=neither*&born=19700101&since=20240101": "0 1 " + both,
		"name=trauma*&born=19700101&since=20240101":  "0 1 " + birth,
		"name=trauma*&born=19700101&since=20240102":  "0",
		"born=19700101":                              "0", // of whom?
		"name=*&born=19700101":                       "0",
	} {
		f := r[0].finds(strings.ReplaceAll(query, "^", "%5E"))
		got := fmt.Sprint(len(f.Studies))
		for _, w := range f.Warnings {
			for _, what := range []string{birth, date, both} {
				if strings.Contains(w, what) {
					got += " " + w[:strings.Index(w, " ")] + " " + what
				}
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q; said %q", query, got, want, f.Warnings)
		}
	}
	for query, want := range map[string]string{
		"PatientID=K1&PatientBirthDate=19600606":                          birth,
		"PatientID=K3&PatientBirthDate=19590101-19601231":                 "",
		"PatientID=K3&PatientBirthDate=19600101-19601231":                 birth,
		"PatientName=full*&StudyDate=20240101-20241231":                   date,
		"PatientName=trauma&fuzzymatching=true&PatientBirthDate=19600606": birth,
	} {
		q, _ := url.ParseQuery(query)
		res, _ := r[0].get("/dicom-web/studies?"+q.Encode(), "application/dicom+json")
		warned := strings.Join(res.Header.Values("Warning"), " ")
		if want != "" && !strings.Contains(warned, want) || want == "" && strings.Contains(warned, "none that is a full date") {
			t.Errorf("%s: warned %q, want %q", query, warned, want)
		}
	}
}

// Of very many studies not all are looked at for a missing birth date, and that is said; a missing study date is found among any.
func TestWhatHasNoDateAmongVeryMany(t *testing.T) {
	r := region(t, "RX1")
	p := dicomtest.Instance{PatientID: "C1", Name: "Crowd^Cara", BirthDate: "19700101", Sex: "F"}
	const many = 260
	all := study("1.2.3.1", p, "", 1)
	for i := range many - 1 {
		all = append(all, study(fmt.Sprintf("1.2.3.%d", i+2), p, "20240101", 1)...)
	}
	if code, b := r[0].stow(all...); code != 200 {
		t.Fatalf("%d %s", code, b)
	}
	r[0].wait("all are found", func() (bool, string) {
		n := r[0].finds("patient=C1").Total
		return n == many, fmt.Sprint(n)
	})
	for query, want := range map[string]string{
		"name=crowd*&born=19800101":                "not all that matches in all else was looked at to see whether there are studies with no birth date",
		"patient=C1&since=20250101":                "1 study has no study date",
		"name=crowd*&since=20250101":               "1 study has no study date",
		"name=crowd*&born=19800101&since=20250101": "",
	} {
		f := r[0].finds(query)
		if said := strings.Join(f.Warnings, "; "); len(f.Studies) != 0 || !strings.Contains(said, want) || want == "" && said != "" {
			t.Errorf("%s: %d studies; %q, want %q", query, len(f.Studies), f.Warnings, want)
		}
	}
}

// Of an instance of another patient in a study the birth date is not known: that the study is
// left out for the first one's is said.
func TestABirthDateOfAnotherPatientOfTheStudyIsSaid(t *testing.T) {
	r := region(t, "RX1")
	both := study("1.2.3.1", dicomtest.Instance{PatientID: "P1", Name: "Pair^Adam", BirthDate: "19500101", Sex: "M"}, "20240101", 2)
	both[1].PatientID, both[1].Name, both[1].BirthDate, both[1].Sex = "P2", "Pair^Eve", "19600606", "F"
	r[0].imports(both...)
	r[0].wait("it is found by either number", func() (bool, string) {
		f := r[0].finds("patient=P2")
		return len(f.Studies) == 1 && f.Studies[0].MixedPatient, fmt.Sprint(f.Studies)
	})
	if f := r[0].finds("patient=P2&born=19600606"); len(f.Studies) != 0 || !strings.Contains(strings.Join(f.Warnings, "; "), "1 study that matches in all else has instances of several patients") {
		t.Errorf("%+v", f)
	}
	if f := r[0].finds("patient=P2&born=19500101"); strings.Contains(strings.Join(f.Warnings, "; "), "matches in all else") {
		t.Errorf("%+v", f)
	}
}
