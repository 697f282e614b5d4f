package node_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/index"
)

// What one member tells of one study keeps no other from being listed, and makes no
// answer's headers larger than proxies take.
func TestOneStudyOfAMemberHarmsNoAnswer(t *testing.T) {
	r := region(t, "RX1", "RX2")
	r[0].imports(study("1.2.3.1", ada, "20200101", 3)...)
	long := index.Study{UID: "1.2.3.9", Patient: []index.PatientID{{ID: ada.PatientID, Issuer: "TEST"}}, Name: ada.Name, BirthDate: ada.BirthDate, Instances: 1}
	for i := range 31 {
		long.Modalities = append(long.Modalities, fmt.Sprint(i)+strings.Repeat("x", 1000))
	}
	r[1].tells(long)
	mine := long
	mine.UID = "1.2.3.1"
	r[1].tells(mine)
	r[0].wait("knows both", func() (bool, string) {
		return len(r[0].find("1.2.3.9")) == 1 && len(r[0].find("1.2.3.1")[0].Versions) == 2, ""
	})
	for path, want := range map[string]int{"series?PatientID=" + ada.PatientID: 1, "instances?PatientID=" + ada.PatientID: 3, "series": 1, "instances": 3, "studies": 2} {
		res, body := r[0].get("/dicom-web/"+path, "application/dicom+json")
		warnings := strings.Join(res.Header.Values("Warning"), " ")
		if n := strings.Count(string(body), `"0020000D"`); res.StatusCode != 200 || n != want {
			t.Errorf("%s: %d, %d of %d", path, res.StatusCode, n, want)
		}
		if len(warnings) > 4000 {
			t.Errorf("%s: %d bytes of warnings", path, len(warnings))
		}
		if strings.HasPrefix(path, "studies") == strings.Contains(warnings, "left out") {
			t.Errorf("%s: %s", path, warnings)
		}
	}
}
