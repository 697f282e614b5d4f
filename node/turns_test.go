package node_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

// asked counts what others have asked of a node: streams, and messages for blocks
// on them. Each is a round trip for who waits.
func (tr *trust) asked() (streams, messages int) {
	c := tr.n.Transfers()
	return int(c.StudiesGranted), int(c.UrgentWants)
}

// The headers of a long series come behind one request, and whoever waits for them
// asks for no block besides; a frame of a study that is elsewhere takes one request
// and at most two messages for blocks.
func TestOpeningARemoteStudyTakesThreeRoundTrips(t *testing.T) {
	r := region(t, "RX1", "RX2")
	for uid, instances := range map[string]int{"1.2.3.1": 1000, "1.2.3.2": 50} {
		patient := ada // each another's: a study that is read brings its patient's others
		patient.PatientID, patient.Name = "P"+uid, fmt.Sprint("Case^", instances)
		list := study(uid, patient, "20200101", instances)
		for i := range list {
			list[i].Frames = 10_000 / instances
		}
		r[1].imports(list...)
		r[0].wait("knows all of the study", func() (bool, string) {
			var f api.Found
			r[0].operator("GET", "/api/v1/studies?study="+uid, nil, &f)
			return len(f.Studies) == 1 && f.Studies[0].Instances == instances, fmt.Sprintf("%+v", f.Studies)
		})
	}
	res, body := r[0].get("/dicom-web/studies/1.2.3.1/series/1.2.3.1.1/metadata", "application/dicom+json")
	var list []map[string]any
	if err := json.Unmarshal(body, &list); err != nil || res.StatusCode != 200 || len(list) != 1000 {
		t.Fatalf("%d, %d instances, %v", res.StatusCode, len(list), err)
	}
	streams, messages := r[1].asked()
	if streams != 1 || messages != 0 {
		t.Errorf("the metadata took %d requests, and %d messages for blocks", streams, messages)
	}
	res, body = r[0].get("/dicom-web/studies/1.2.3.2/series/1.2.3.2.1/instances/1.2.3.2.1.50/frames/1", `multipart/related; type="application/octet-stream"`)
	if res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	s, m := r[1].asked() // no message: the queue was faster
	if s, m = s-streams, m-messages; s != 1 || m > 2 {
		t.Errorf("a frame took %d requests, and %d messages for blocks", s, m)
	}
}
