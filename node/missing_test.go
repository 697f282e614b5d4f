package node_test

import (
	"strings"
	"testing"
)

// What a node has of a study is an older revision, and its origin is out of reach: the rows of its series and instances say so, however they are asked for.
func TestASearchOverStudiesSaysWhatIsMissing(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	a, b, c := r[0], r[1], r[2]
	all := study("1.2.3.1", ada, "20200101", 5)
	for i := range all[2:] {
		all[2+i].Series = "1.2.3.1.2"
	}
	a.imports(all[:2]...)
	c.wait("knows the study", func() (bool, string) { s := c.find("1.2.3.1"); return len(s) == 1 && s[0].Instances == 2, "" })
	c.retrieve("studies/1.2.3.1")
	c.waitAvailability("1.2.3.1", "ONLINE")
	c.stop()
	a.imports(all[2:]...)
	b.wait("knows", func() (bool, string) { s := b.find("1.2.3.1"); return len(s) == 1 && s[0].Instances == 5, "" })
	a.stop()
	c.start()
	c.wait("knows of more", func() (bool, string) { s := c.find("1.2.3.1"); return len(s) == 1 && s[0].Instances == 5, "" })
	for _, path := range []string{"studies/1.2.3.1/series", "series?StudyInstanceUID=1.2.3.1", "series?PatientID=" + ada.PatientID, "studies/1.2.3.1/instances", "instances?StudyInstanceUID=1.2.3.1", "instances?PatientID=" + ada.PatientID} {
		res, _ := c.get("/dicom-web/"+path, "application/dicom+json")
		w := strings.Join(res.Header.Values("Warning"), " | ")
		if !strings.Contains(w, "told of more") {
			t.Errorf("%s: Warning %q", path, w)
		}
	}
}
