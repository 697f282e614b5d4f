package node_test

import (
	"fmt"
	"strings"
	"testing"
)

// A patient's studies under another number are shown beside those under the number
// that was asked for, by whichever it is, and a PACS is told that there are some.
func TestWhatIsThePatientsUnderAnotherNumberIsShown(t *testing.T) {
	r := region(t, "RX1", "RX2")
	local, both, nhs, other := grace, grace, grace, ada
	const number = "9434765919"
	both.OtherID = number
	nhs.PatientID, nhs.Issuer = number, "NHS"
	both.PatientID, both.Issuer, both.OtherID = number, "NHS", local.PatientID // its other ID has issuer TEST
	local.Issuer = "TEST"
	other.Issuer = "TEST"
	r[0].imports(study("1.2.3.1", local, "20240101", 1)...)
	r[0].imports(study("1.2.3.2", both, "20230101", 1)...)
	r[1].imports(study("1.2.3.3", nhs, "20220101", 1)...)
	undated := study("1.2.3.4", nhs, "", 1)
	r[1].imports(undated...)
	r[1].imports(study("1.2.3.5", other, "20240101", 1)...)
	r[0].wait("all are found", func() (bool, string) {
		got := r[0].searched("")
		return len(got) == 5, fmt.Sprint(got)
	})
	for query, want := range map[string]string{
		"patient=" + local.PatientID + "&issuer=TEST":    "1.2.3.1 1.2.3.2 | 1.2.3.3 1.2.3.4",
		"patient=" + local.PatientID:                     "1.2.3.1 1.2.3.2 | 1.2.3.3 1.2.3.4",
		"patient=" + local.PatientID + "&since=20230601": "1.2.3.1 |",
		"patient=" + local.PatientID + "&until=20221231": "| 1.2.3.3",
		"nhs=" + number:                     "1.2.3.2 1.2.3.3 1.2.3.4 | 1.2.3.1",
		"nhs=" + number + "&since=20200101": "1.2.3.2 1.2.3.3 | 1.2.3.1",
		"patient=" + other.PatientID:        "1.2.3.5 |",
		"study=1.2.3.1":                     "1.2.3.1 |",
		"name=hopper":                       "1.2.3.1 1.2.3.2 1.2.3.3 1.2.3.4 |",
	} {
		f := r[0].finds(query)
		got := ""
		for _, s := range f.Studies {
			got += s.Study + " "
		}
		got += "|"
		for _, s := range f.Further {
			got += " " + s.Study
		}
		said := strings.Join(f.Warnings, "; ")
		if got != want || strings.Contains(said, "certainly of a patient of this answer") != (len(f.Further) > 0) {
			t.Errorf("%s: %q, want %q; warned %q", query, got, want, said)
		}
		if strings.Contains(said, "no study date") != (strings.HasPrefix(query, "nhs=") && strings.Contains(query, "since")) {
			t.Errorf("%s: of what has no date: %q", query, said)
		}
	}
	res, body := r[0].get("/dicom-web/studies?PatientID="+local.PatientID, "application/dicom+json")
	if w := strings.Join(res.Header.Values("Warning"), " "); !strings.Contains(w, "2 further studies are certainly of a patient of this answer") || !strings.Contains(w, "received by RX2") || strings.Contains(w, number) {
		t.Errorf("QIDO-RS warns %q of %s", w, body)
	}
}
