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
func startOrthanc(t *testing.T, servers map[string]string) *orthanc {
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
		// Orthanc otherwise refuses to send to or fetch from itself by name.
		"OverwriteInstances": false,
		"Plugins":            []string{plugin},
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
func (o *orthanc) post(t *testing.T, path string, body any) []byte {
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
func (o *orthanc) upload(t *testing.T, file string) string {
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
func (o *orthanc) instances(t *testing.T) map[string]int {
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

// The harness itself: what these tests think of a DICOMweb server is first
// held against a server that is not ours.
func TestHarnessAgainstOrthanc(t *testing.T) {
	o := startOrthanc(t, nil)
	web := o.url + "/dicom-web"
	var want []string
	for _, f := range priorsOf(t, demoPatient) {
		o.upload(t, f.path)
		want = append(want, f.sha256)
	}
	t.Run("curl", func(t *testing.T) { curlReads(t, web, demoPatient) })
	t.Run("curl stores", func(t *testing.T) {
		empty := startOrthanc(t, nil)
		curlStores(t, empty.url+"/dicom-web", priorsOf(t, demoPatient))
		sameSums(t, empty.instances(t), want)
	})
	t.Run("dicomweb-client", func(t *testing.T) { clientReads(t, web, demoPatient) })
	t.Run("dicomweb-client stores", func(t *testing.T) {
		empty := startOrthanc(t, nil)
		clientStores(t, empty.url+"/dicom-web", priorsOf(t, demoPatient))
		sameSums(t, empty.instances(t), want)
	})
	t.Run("another Orthanc", func(t *testing.T) {
		other := startOrthanc(t, map[string]string{"there": web + "/"})
		orthancRetrieves(t, other, "there", priorsOf(t, demoPatient))
		back := startOrthanc(t, nil)
		sender := startOrthanc(t, map[string]string{"there": back.url + "/dicom-web/"})
		orthancStores(t, sender, "there", priorsOf(t, demoPatient))
		sameSums(t, back.instances(t), want)
	})
}
