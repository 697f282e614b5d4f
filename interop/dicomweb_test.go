package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a DICOMweb server must do for clients of other makes. Each of these is
// run against Orthanc too, so they ask nothing that is ours alone. Byte
// identity is asked with transfer-syntax=*, which means "as you hold it"
// (PS3.18 8.7.3.5).

// bodyLimit bounds what a test reads of one answer.
const bodyLimit = 256 << 20

func get(url string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, bodyLimit))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.300s", url, resp.Status, b)
	}
	return b, err
}

// dataset is one element of a DICOM JSON array (PS3.18 F.2), as far as tests look.
type dataset map[string]struct {
	VR    string            `json:"vr"`
	Value []json.RawMessage `json:"Value"`
}

// text is the first value of an attribute, as JSON text without quotes.
func (d dataset) text(tag string) string {
	v := d[tag].Value
	if len(v) == 0 {
		return ""
	}
	return strings.Trim(string(v[0]), `"`)
}

// Tags that the tests look at.
const (
	tagSOPInstance   = "00080018"
	tagModality      = "00080060"
	tagPatientID     = "00100020"
	tagStudy         = "0020000D"
	tagSeries        = "0020000E"
	tagAvailability  = "00080056"
	tagStudySeries   = "00201206"
	tagStudyInst     = "00201208"
	tagModalitiesIn  = "00080061"
	tagNumberOfFrame = "00280008"
)

// answer is what curl brought.
type answer struct {
	status int
	header http.Header
	body   []byte
	took   time.Duration
}

// curl makes one request with curl, whatever the status of its answer.
func curl(t testing.TB, args ...string) answer {
	t.Helper()
	dir := t.TempDir()
	head, body := filepath.Join(dir, "head"), filepath.Join(dir, "body")
	began := time.Now()
	must(t, command(t, "curl"), append([]string{"--silent", "--show-error", "--max-time", "100", "--http1.1",
		"--dump-header", head, "--output", body}, args...)...)
	a := answer{took: time.Since(began), header: http.Header{}}
	h, err := os.ReadFile(head)
	if err != nil {
		t.Fatal(err)
	}
	a.body, err = os.ReadFile(body)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	// The last block of headers is the answer's; those before it are interim (100 Continue).
	blocks := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(h), "\r\n", "\n")), "\n\n")
	lines := strings.Split(blocks[len(blocks)-1], "\n")
	if _, err := fmt.Sscanf(lines[0], "HTTP/1.1 %d", &a.status); err != nil {
		t.Fatalf("curl %s: status line %q", strings.Join(args, " "), lines[0])
	}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		a.header.Add(textproto.CanonicalMIMEHeaderKey(name), strings.TrimSpace(value))
	}
	return a
}

// datasets reads a DICOM JSON answer.
func (a answer) datasets(t testing.TB) []dataset {
	t.Helper()
	if a.status == http.StatusNoContent {
		return nil
	}
	if a.status != http.StatusOK {
		t.Fatalf("status %d, want 200 or 204: %.300s", a.status, a.body)
	}
	if ct := a.header.Get("Content-Type"); !strings.HasPrefix(ct, "application/dicom+json") {
		t.Fatalf("content type %q, want application/dicom+json", ct)
	}
	var d []dataset
	if err := json.Unmarshal(a.body, &d); err != nil {
		t.Fatalf("%v: %.300s", err, a.body)
	}
	return d
}

// parts reads a multipart/related answer: the bytes of each part.
func (a answer) parts(t testing.TB) [][]byte {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("status %d, want 200: %.300s", a.status, a.body)
	}
	kind, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil || kind != "multipart/related" {
		t.Fatalf("content type %q: %v", a.header.Get("Content-Type"), err)
	}
	var parts [][]byte
	for r := multipart.NewReader(bytes.NewReader(a.body), params["boundary"]); ; {
		p, err := r.NextPart()
		if err == io.EOF {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, b)
	}
}

func (a answer) sums(t testing.TB) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, p := range a.parts(t) {
		got[sum(p)]++
	}
	return got
}

const (
	acceptJSON  = "Accept: application/dicom+json"
	acceptAsIs  = `Accept: multipart/related; type="application/dicom"; transfer-syntax=*`
	acceptFrame = `Accept: multipart/related; type="application/octet-stream"; transfer-syntax=*`
)

// qido queries with curl and returns the datasets.
func qido(t testing.TB, web, path string, keys ...string) []dataset {
	t.Helper()
	return curl(t, "-H", acceptJSON, web+path+"?"+strings.Join(keys, "&")).datasets(t)
}

// values are the distinct values of one attribute over datasets, sorted.
func values(datasets []dataset, tag string) []string {
	set := map[string]bool{}
	for _, d := range datasets {
		set[d.text(tag)] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// sameUIDs holds a set of UIDs against the expected one.
func sameUIDs(t testing.TB, what string, got, want []string) {
	t.Helper()
	want = slices.Compact(slices.Sorted(slices.Values(want)))
	if !slices.Equal(got, want) {
		t.Fatalf("%s: found %d, want %d: %q, want %q", what, len(got), len(want), got, want)
	}
}

// of maps files to one of their identifiers.
func of(files []file, id func(file) string) []string {
	var ids []string
	for _, f := range files {
		ids = append(ids, id(f))
	}
	return ids
}

func study(f file) string    { return f.study }
func series(f file) string   { return f.series }
func instance(f file) string { return f.instance }

// curlReads finds and retrieves all that the bundled set has of a patient, by curl.
func curlReads(t testing.TB, web, patient string) {
	t.Helper()
	files := priorsOf(t, patient)
	found := qido(t, web, "/studies", "PatientID="+patient, "includefield="+tagModalitiesIn)
	sameUIDs(t, "studies", values(found, tagStudy), of(files, study))
	if none := qido(t, web, "/studies", "PatientID=nobody"); len(none) != 0 {
		t.Fatalf("%d studies of nobody", len(none))
	}
	for uid, files := range byStudy(files) {
		s := qido(t, web, "/studies/"+uid+"/series")
		sameUIDs(t, "series", values(s, tagSeries), of(files, series))
		i := qido(t, web, "/studies/"+uid+"/instances")
		sameUIDs(t, "instances", values(i, tagSOPInstance), of(files, instance))

		sameSums(t, curl(t, "-H", acceptAsIs, web+"/studies/"+uid).sums(t), sums(files))
		f := files[0]
		inSeries := slices.DeleteFunc(slices.Clone(files), func(g file) bool { return g.series != f.series })
		sameSums(t, curl(t, "-H", acceptAsIs, web+"/studies/"+uid+"/series/"+f.series).sums(t), sums(inSeries))
		one := web + "/studies/" + uid + "/series/" + f.series + "/instances/" + f.instance
		sameSums(t, curl(t, "-H", acceptAsIs, one).sums(t), []string{f.sha256})

		meta := curl(t, "-H", acceptJSON, web+"/studies/"+uid+"/metadata").datasets(t)
		sameUIDs(t, "metadata", values(meta, tagSOPInstance), of(files, instance))
		for _, d := range meta {
			if d.text(tagPatientID) != patient {
				t.Fatalf("metadata says patient %s", d.text(tagPatientID))
			}
		}
	}
	f := files[0]
	frame := curl(t, "-H", acceptFrame, web+"/studies/"+f.study+"/series/"+f.series+"/instances/"+f.instance+"/frames/1")
	if n := len(frame.parts(t)); n != 1 {
		t.Fatalf("%d parts for one frame", n)
	}
	if a := curl(t, "-H", acceptAsIs, web+"/studies/1.2.3.4.5.6.7.8.9"); a.status != http.StatusNotFound {
		t.Fatalf("a study that nobody has: status %d, want 404", a.status)
	}
}

// curlStores sends files by STOW-RS in one request of curl's own making.
func curlStores(t testing.TB, web string, files []file) {
	t.Helper()
	// curl adds the boundary to a content type that it is given.
	args := []string{"-H", `Content-Type: multipart/related; type="application/dicom"`, "-H", acceptJSON}
	for _, f := range files {
		args = append(args, "-F", "file=@"+f.path+";type=application/dicom")
	}
	a := curl(t, append(args, web+"/studies")...)
	if a.status != http.StatusOK {
		t.Fatalf("STOW-RS: status %d, want 200: %.500s", a.status, a.body)
	}
	var response struct {
		Referenced struct{ Value []dataset } `json:"00081199"`
		Failed     struct{ Value []dataset } `json:"00081198"`
	}
	if err := json.Unmarshal(a.body, &response); err != nil {
		t.Fatalf("%v: %.300s", err, a.body)
	}
	if len(response.Failed.Value) != 0 {
		t.Fatalf("STOW-RS: %d of %d failed: %.500s", len(response.Failed.Value), len(files), a.body)
	}
	sameUIDs(t, "instances that STOW-RS says were stored", values(response.Referenced.Value, "00081155"), of(files, instance))
}

// client is a running dicomweb-client.
type client struct {
	ask    *json.Encoder
	answer *json.Decoder
}

// startClient starts dicomweb-client for one server, until the test ends.
func startClient(t testing.TB, web string) *client {
	t.Helper()
	node, script := dicomwebClient(t)
	cmd := exec.Command(node, script, web)
	cmd.SysProcAttr = endWithParent()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It ends with its input; a hung one is ended.
	hung := time.AfterFunc(runDeadline, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("dicomweb-client: %v\n%s", err, stderr.String())
		}
		hung.Stop()
	})
	return &client{ask: json.NewEncoder(in), answer: json.NewDecoder(out)}
}

// do runs one operation and reads what it gave into out.
func (c *client) do(t testing.TB, operation string, options, out any) {
	t.Helper()
	if err := c.ask.Encode(map[string]any{"operation": operation, "options": options}); err != nil {
		t.Fatalf("%s: %v", operation, err)
	}
	var a struct {
		Value  json.RawMessage
		Status int
		Body   any
	}
	if err := c.answer.Decode(&a); err != nil {
		t.Fatalf("%s: %v", operation, err)
	}
	if a.Status != 0 {
		t.Fatalf("%s: status %d: %v", operation, a.Status, a.Body)
	}
	if len(a.Value) == 0 { // undefined, in JavaScript
		return
	}
	if err := json.Unmarshal(a.Value, out); err != nil {
		t.Fatalf("%s: %v: %.300s", operation, err, a.Value)
	}
}

type clientBytes struct {
	Bytes  int
	SHA256 string
}

func clientSums(got []clientBytes) map[string]int {
	m := map[string]int{}
	for _, g := range got {
		m[g.SHA256]++
	}
	return m
}

// clientReads finds and retrieves all that the bundled set has of a patient,
// with dicomweb-client. It names no transfer syntax (dicomweb-client 0.11.3
// cannot for whole studies), so the bytes must only be those of the files where
// these are in the default, Explicit VR Little Endian. The patient's are.
func clientReads(t testing.TB, web, patient string) {
	t.Helper()
	files := priorsOf(t, patient)
	c := startClient(t, web)
	var found []dataset
	c.do(t, "searchForStudies", map[string]any{"queryParams": map[string]string{"PatientID": patient}}, &found)
	sameUIDs(t, "studies", values(found, tagStudy), of(files, study))
	for uid, files := range byStudy(files) {
		c.readsStudy(t, uid, files)
	}
}

func (c *client) readsStudy(t testing.TB, uid string, files []file) {
	t.Helper()
	var found []dataset
	c.do(t, "searchForSeries", map[string]any{"studyInstanceUID": uid}, &found)
	sameUIDs(t, "series", values(found, tagSeries), of(files, series))
	c.do(t, "searchForInstances", map[string]any{"studyInstanceUID": uid}, &found)
	sameUIDs(t, "instances", values(found, tagSOPInstance), of(files, instance))

	var got []clientBytes
	c.do(t, "retrieveStudy", map[string]any{"studyInstanceUID": uid}, &got)
	sameSums(t, clientSums(got), sums(files))
	f := files[0]
	inSeries := slices.DeleteFunc(slices.Clone(files), func(g file) bool { return g.series != f.series })
	c.do(t, "retrieveSeries", map[string]any{"studyInstanceUID": uid, "seriesInstanceUID": f.series}, &got)
	sameSums(t, clientSums(got), sums(inSeries))
	one := map[string]any{"studyInstanceUID": uid, "seriesInstanceUID": f.series, "sopInstanceUID": f.instance}
	var alone clientBytes
	c.do(t, "retrieveInstance", one, &alone)
	sameSums(t, map[string]int{alone.SHA256: 1}, []string{f.sha256})

	c.do(t, "retrieveStudyMetadata", map[string]any{"studyInstanceUID": uid}, &found)
	sameUIDs(t, "study metadata", values(found, tagSOPInstance), of(files, instance))
	c.do(t, "retrieveSeriesMetadata", map[string]any{"studyInstanceUID": uid, "seriesInstanceUID": f.series}, &found)
	sameUIDs(t, "series metadata", values(found, tagSOPInstance), of(inSeries, instance))
	c.do(t, "retrieveInstanceMetadata", one, &found)
	sameUIDs(t, "instance metadata", values(found, tagSOPInstance), []string{f.instance})

	if f.frames > 0 {
		numbers := []int{1}
		if f.frames > 1 {
			numbers = []int{f.frames, 1} // any order may be asked for
		}
		with := maps.Clone(one)
		with["frameNumbers"] = numbers
		c.do(t, "retrieveInstanceFrames", with, &got)
		if len(got) != len(numbers) || got[0].Bytes == 0 {
			t.Fatalf("%d frames for %v: %v", len(got), numbers, got)
		}
	}
}

// clientStores sends files with dicomweb-client.
func clientStores(t testing.TB, web string, files []file) {
	t.Helper()
	var ignored any // dicomweb-client returns the response as text or as JSON, by version
	startClient(t, web).do(t, "storeInstances", map[string]any{"files": paths(files)}, &ignored)
}

// orthancRetrieves has Orthanc bring studies from a server it knows by name.
func orthancRetrieves(t testing.TB, o *orthanc, server string, files []file) {
	t.Helper()
	before := o.instances(t)
	var resources []map[string]string
	for uid := range byStudy(files) {
		resources = append(resources, map[string]string{"Study": uid})
	}
	o.post(t, "/dicom-web/servers/"+server+"/retrieve", map[string]any{"Resources": resources})
	got := o.instances(t)
	for s, n := range before {
		if got[s] -= n; got[s] == 0 {
			delete(got, s)
		}
	}
	sameSums(t, got, sums(files))
}

// orthancStores has Orthanc send files to a server it knows by name.
func orthancStores(t testing.TB, o *orthanc, server string, files []file) {
	t.Helper()
	var resources []string
	for _, f := range files {
		resources = append(resources, o.upload(t, f.path))
	}
	var done struct {
		FailedInstancesCount any
		InstancesCount       any
		RecipientsInstances  any
	}
	b := o.post(t, "/dicom-web/servers/"+server+"/stow", map[string]any{"Resources": resources, "Synchronous": true})
	if err := json.Unmarshal(b, &done); err != nil {
		t.Fatalf("%v: %.300s", err, b)
	}
}
