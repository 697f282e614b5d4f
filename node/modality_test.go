package node_test

import (
	"fmt"
	"strings"
	"testing"
)

// A word that is no code of a modality finds nothing: which code is meant is said, and nobody's own code is refused.
func TestAModalityThatIsNoCodeIsSaid(t *testing.T) {
	r := region(t, "RX1")
	own := study("1.2.3.1", ada, "20240101", 1)
	own[0].Modality = "XYZ"
	r[0].imports(own...)
	r[0].imports(study("1.2.3.2", ada, "20240101", 1)...)
	r[0].wait("all are found", func() (bool, string) {
		got := r[0].searched("")
		return len(got) == 2, fmt.Sprint(got)
	})
	for query, want := range map[string]string{
		"modality=MRI":                "MRI is no modality code of DICOM: MR is",
		"modality=Ultrasound":         "ULTRASOUND is no modality code of DICOM: US is",
		"modality=ABC":                "ABC is no modality code of DICOM: such are CT, MR",
		"modality=XYZ":                "",
		"modality=XYZ&since=20250101": "XYZ is no modality code",
		"modality=MR":                 "",
		"modality=M*":                 "",
	} {
		if said := strings.Join(r[0].finds(query).Warnings, "; "); !strings.Contains(said, want) || want == "" && strings.Contains(said, "modality code") {
			t.Errorf("%s: %q, want %q", query, said, want)
		}
	}
	for path, want := range map[string]string{
		"studies?ModalitiesInStudy=MRI":                   "MRI is no modality code of DICOM: MR is",
		"studies?ModalitiesInStudy=CT%5CUltrasound":       "ULTRASOUND is no modality code of DICOM: US is",
		"studies/1.2.3.2/series?Modality=MRI":             "MRI is no modality code of DICOM: MR is",
		"studies/1.2.3.2/series?Modality=CT":              "",
		"studies?ModalitiesInStudy=CT%5CXYZ&PatientID=A1": "",
	} {
		res, _ := r[0].get("/dicom-web/"+path, "application/dicom+json")
		if said := strings.Join(res.Header.Values("Warning"), "; "); !strings.Contains(said, want) || want == "" && strings.Contains(said, "modality code") {
			t.Errorf("%s: %q, want %q", path, said, want)
		}
	}
}
