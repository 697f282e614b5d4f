package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// orthanc is a running Orthanc with its DICOMweb plugin, on loopback, with an
// empty storage of its own and its DIMSE server off.
type orthanc struct {
	*process
	url string // of its REST API; DICOMweb is at /dicom-web
}

// startOrthanc starts an Orthanc that knows other DICOMweb servers by name.
func startOrthanc(t testing.TB, servers map[string]string) *orthanc {
	t.Helper()
	program, plugin := command(t, "Orthanc"), dicomwebPlugin(t)
	dir := t.TempDir()
	port := freePort(t)
	known := map[string]any{}
	for name, url := range servers {
		known[name] = map[string]any{"Url": url, "HasDelete": false}
	}
	config, err := json.MarshalIndent(map[string]any{
		"Name":                  "interop",
		"StorageDirectory":      filepath.Join(dir, "storage"),
		"IndexDirectory":        filepath.Join(dir, "storage"),
		"HttpPort":              port,
		"RemoteAccessAllowed":   false,
		"AuthenticationEnabled": false,
		"DicomServerEnabled":    false,
		"Plugins":               []string{plugin},
		"DicomWeb": map[string]any{
			"Enable": true, "Root": "/dicom-web/", "Servers": known,
			"StudiesMetadata": "Full", "SeriesMetadata": "Full",
		},
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "orthanc.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	o := &orthanc{url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	o.process = start(t, "Orthanc", program, path)
	eventually(t, startDeadline, "Orthanc answers", func() error {
		if !o.running() {
			t.Fatalf("Orthanc ended: %v", o.err)
		}
		_, err := get(o.url + "/system")
		return err
	})
	return o
}

// post sends JSON to Orthanc's REST API and returns its answer.
func (o *orthanc) post(t testing.TB, path string, body any) []byte {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(o.url+path, "application/json", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("Orthanc %s: %s %v\n%s", path, resp.Status, err, answer)
	}
	return answer
}

// upload gives Orthanc a file and returns Orthanc's name for the instance.
func (o *orthanc) upload(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(o.url+"/instances", "application/dicom", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ ID, Status string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "Success" {
		t.Fatalf("Orthanc took %s as %q: %s %v", file, answer.Status, resp.Status, err)
	}
	return answer.ID
}

// instances are the bytes of all instances Orthanc holds, by SHA-256.
func (o *orthanc) instances(t testing.TB) map[string]int {
	t.Helper()
	list, err := get(o.url + "/instances")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	if err := json.Unmarshal(list, &ids); err != nil {
		t.Fatal(err)
	}
	sums := map[string]int{}
	for _, id := range ids {
		b, err := get(o.url + "/instances/" + id + "/file")
		if err != nil {
			t.Fatal(err)
		}
		sums[sum(b)]++
	}
	return sums
}

// clear forgets all instances.
func (o *orthanc) clear(t testing.TB) {
	t.Helper()
	list, err := get(o.url + "/patients")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	if err := json.Unmarshal(list, &ids); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		req, err := http.NewRequest(http.MethodDelete, o.url+"/patients/"+id, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("Orthanc would not forget a patient: %s", resp.Status)
		}
	}
}

// The harness itself: what these tests think of a DICOMweb server is first
// held against a server that is not ours.
func TestHarnessAgainstOrthanc(t *testing.T) {
	o := startOrthanc(t, nil)
	other := startOrthanc(t, map[string]string{"there": o.url + "/dicom-web/"})
	files := priorsOf(t, demoPatient)
	t.Run("curl stores", func(t *testing.T) {
		curlStores(t, o.url+"/dicom-web", files)
		sameSums(t, o.instances(t), sums(files))
	})
	t.Run("curl reads", func(t *testing.T) { curlReads(t, o.url+"/dicom-web", demoPatient) })
	t.Run("dicomweb-client stores", func(t *testing.T) {
		dicomwebClient(t) // before anything is cleared for it
		o.clear(t)
		clientStores(t, o.url+"/dicom-web", files)
		sameSums(t, o.instances(t), sums(files))
	})
	t.Run("dicomweb-client reads", func(t *testing.T) { clientReads(t, o.url+"/dicom-web", demoPatient) })
	t.Run("another Orthanc retrieves", func(t *testing.T) { orthancRetrieves(t, other, "there", files) })
	t.Run("another Orthanc stores", func(t *testing.T) {
		o.clear(t)
		other.clear(t)
		orthancStores(t, other, "there", files)
		sameSums(t, o.instances(t), sums(files))
	})
}
