package dicomweb

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom"
)

// pydicomPython is Debian's: pydicom comes with it (python3-pydicom).
const pydicomPython = "/usr/bin/python3"

type jsonAttribute struct {
	VR           string            `json:"vr"`
	Value        []json.RawMessage `json:"Value"`
	InlineBinary *string           `json:"InlineBinary"`
	BulkDataURI  *string           `json:"BulkDataURI"`
}

type model map[string]jsonAttribute

// pydicomSays is what another reader makes of the same file.
type pydicomSays struct {
	Path        string
	Model       model
	Frames      []string
	FramesError string `json:"frames_error"`
	Error       string
}

// askPydicom reads the files with pydicom, one after the other, and calls told
// with each while the next is being read.
func askPydicom(t *testing.T, paths []string, told func(pydicomSays)) {
	t.Helper()
	if out, err := exec.Command(pydicomPython, "-c", "import pydicom").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("python3-pydicom is not installed: %v %s", err, out)
		}
		t.Skip("NOT COMPARED with pydicom, which is not here: install the Debian package python3-pydicom")
	}
	cmd := exec.CommandContext(t.Context(), pydicomPython, filepath.Join("testdata", "pydicom_model.py"))
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var s pydicomSays
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatalf("%v: %.200s", err, lines.Bytes())
		}
		told(s)
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
}

// get asks a handler without a network.
func get(t *testing.T, h http.Handler, path, accept string) (int, http.Header, []byte) {
	t.Helper()
	u, err := url.Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	w := newRecorder()
	r := (&http.Request{Method: "GET", URL: u, Host: "h", Header: http.Header{"Accept": {accept}}}).WithContext(t.Context())
	h.ServeHTTP(flushable{w}, r)
	return w.status, w.header, w.body.Bytes()
}

type flushable struct{ *recorder }

func (flushable) Flush() {}

// Every real file, served: its bytes as they are, its frames and its metadata
// as pydicom has them. Differences are allowed only by name, with the reason.
func TestAgainstPydicom(t *testing.T) {
	t.Parallel()
	files := realFiles(t)
	var paths []string
	root := filepath.Join("..", "..", "..", "shared", "testdata", "dicom")
	for rel := range files {
		if !strings.HasPrefix(rel, "broken") {
			paths = append(paths, filepath.Join(root, rel))
		}
	}
	slices.Sort(paths)

	told, accepted, frames, attributes := 0, 0, 0, 0
	allowed := make(map[string]int)
	askPydicom(t, paths, func(s pydicomSays) {
		told++
		rel, _ := filepath.Rel(root, s.Path)
		mem := &memory{layouts: told%2 == 0}
		got, err := mem.store("", bytes.NewReader(files[rel]))
		if err != nil {
			return // what Scan refuses is tested where Scan is
		}
		accepted++
		h := New(mem, Options{Limits: Limits{Inline: 1 << 10}})
		at := refTo(got.UIDs).url("")

		status, header, body := get(t, h, at, "application/dicom")
		if status != 200 || !bytes.Equal(body, files[rel]) || header.Get("Content-Type") != "application/dicom; transfer-syntax="+string(got.UIDs.TransferSyntax) {
			t.Errorf("%s: instance %d %v, %d of %d bytes", rel, status, header, len(body), len(files[rel]))
		}

		frames += compareFrames(t, rel, h, at, s)

		status, _, body = get(t, h, at+"/metadata", dicomJSON)
		var ours []model
		if err := json.Unmarshal(body, &ours); err != nil || status != 200 || len(ours) != 1 {
			t.Errorf("%s: metadata %d %v", rel, status, err)
			return
		}
		if s.Model == nil {
			t.Errorf("%s: pydicom: %s", rel, s.Error)
			return
		}
		c := comparison{t: t, h: h, file: rel, allowed: allowed}
		c.datasets("", ours[0], s.Model)
		attributes += c.n
	})
	t.Logf("%d files, %d frames, %d attributes compared", accepted, frames, attributes)
	for _, l := range legitimate {
		t.Logf("%5d times %s", allowed[l.clause], l.clause)
		if allowed[l.clause] == 0 {
			t.Errorf("no file shows this difference any more; take it out: %s", l.clause)
		}
	}
	if told != len(paths) || accepted < 480 || frames < 700 || attributes < 90_000 {
		t.Errorf("compared too little: %d files, %d frames, %d attributes", accepted, frames, attributes)
	}
}

// compareFrames asks for all frames at once and says how many were compared.
func compareFrames(t *testing.T, rel string, h http.Handler, at string, s pydicomSays) int {
	if len(s.Frames) == 0 || len(s.Frames) > 2000 {
		return 0
	}
	var list []string
	for n := range s.Frames {
		list = append(list, strconv.Itoa(n+1))
	}
	status, header, body := get(t, h, at+"/frames/"+strings.Join(list, ","), "*/*")
	if status != 200 {
		t.Errorf("%s: frames: %d %s", rel, status, body)
		return 0
	}
	_, params, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		t.Errorf("%s: %v", rel, err)
		return 0
	}
	mr := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for n, want := range s.Frames {
		p, err := mr.NextRawPart()
		if err != nil {
			t.Errorf("%s: frame %d: %v", rel, n+1, err)
			return n
		}
		b, err := io.ReadAll(p)
		if err != nil || sum(b) != want {
			t.Errorf("%s: frame %d (%d bytes) is another than pydicom's: %v", rel, n+1, len(b), err)
		}
	}
	return len(s.Frames)
}

type comparison struct {
	t       *testing.T
	h       http.Handler
	file    string
	allowed map[string]int
	n       int
}

func (c *comparison) datasets(at string, ours, theirs model) {
	for tag, o := range ours {
		if at == "" && (tag == "7FE00010" || tag == "7FE00008" || tag == "7FE00009") {
			if o.BulkDataURI == nil {
				c.t.Errorf("%s: pixel data without an address", c.file)
			}
			continue
		}
		c.n++
		p, ok := theirs[tag]
		if !ok {
			c.differ(at+tag, onlyOurs, o, p)
			continue
		}
		c.attributes(at+tag, o, p)
	}
	for tag, p := range theirs {
		if _, ok := ours[tag]; !ok {
			c.differ(at+tag, onlyTheirs, jsonAttribute{}, p)
		}
	}
}

// legitimate are the differences that may be: by what clause, and how to tell.
// pydicom is 2.3.1, Debian 12's.
var legitimate = []struct {
	clause string
	is     func(file, tag, how string, o, p jsonAttribute) bool
}{
	{"PS3.18 F.2.2: group lengths are not part of the model", func(_, tag, how string, _, _ jsonAttribute) bool {
		return how == onlyTheirs && strings.HasSuffix(tag, "0000")
	}},
	{"PS3.10 7.2: Data Set Trailing Padding means nothing", func(_, tag, how string, _, _ jsonAttribute) bool {
		return how == onlyTheirs && tag == "FFFCFFFC"
	}},
	{"PS3.5 6.2.2 and 7.8: a private attribute's VR is unknown where Implicit VR does not say it; pydicom has a dictionary of vendors", func(_, tag, how string, o, _ jsonAttribute) bool {
		n, _ := strconv.ParseUint(tag, 16, 32)
		return how == otherVR && o.VR == "UN" && dicom.Tag(n).Private()
	}},
	{"PS3.18 F.2.5: an empty value among others is null, in pydicom an empty string", func(_, _, how string, o, p jsonAttribute) bool {
		return how == otherValue && eachValue(o, p, func(o, p string) bool { return o == "null" && p == `""` })
	}},
	{"PS3.5 6.2: spaces after a CS do not count", func(_, _, how string, o, p jsonAttribute) bool {
		return how == otherValue && o.VR == "CS" && eachValue(o, p, func(o, p string) bool {
			return o == strings.TrimRight(strings.TrimSuffix(p, `"`), " ")+`"`
		})
	}},
	{"PS3.5 6.1.2.3: Specific Character Set does not govern CS; bytes beyond ASCII in it are no characters", func(file, tag, how string, _, _ jsonAttribute) bool {
		return how == otherValue && file == "fo-dicom/GH1301.dcm" && tag == "00100040"
	}},
	{"PS3.5 6.1.2.5: the escape sequence to ISO-IR 58 is no text; pydicom leaves it in", func(file, tag, how string, _, p jsonAttribute) bool {
		return how == otherValue && file == "fo-dicom/chrGB2312.dcm" && tag == "00100010" && strings.Contains(string(p.Value[0]), `\u001b$)A`)
	}},
	{"PS3.18 F.2.3: a DS that is no number is kept as a string; pydicom leaves the attribute out", func(_, _, how string, o, _ jsonAttribute) bool {
		return how == onlyOurs && o.VR == "DS" && len(o.Value) == 1 && o.Value[0][0] == '"'
	}},
}

const (
	onlyOurs   = "only here"
	onlyTheirs = "only pydicom's"
	otherVR    = "VR"
	otherValue = "value"
)

// eachValue reports whether every pair of values is the same or excused.
func eachValue(o, p jsonAttribute, excused func(o, p string) bool) bool {
	for i := range o.Value {
		if !sameValue(o.Value[i], p.Value[i]) && !excused(string(o.Value[i]), string(p.Value[i])) {
			return false
		}
	}
	return true
}

func (c *comparison) differ(at, how string, o, p jsonAttribute) {
	tag := at[strings.LastIndexByte(at, '/')+1:]
	for _, l := range legitimate {
		if l.is(filepath.ToSlash(c.file), tag, how, o, p) {
			c.allowed[l.clause]++
			return
		}
	}
	c.t.Errorf("%s %s: %s: %.200s | %.200s", c.file, at, how, show(o), show(p))
}

func show(a jsonAttribute) string {
	b, _ := json.Marshal(a)
	return string(b)
}

func (c *comparison) attributes(at string, o, p jsonAttribute) {
	if o.VR != p.VR {
		c.differ(at, otherVR, o, p)
		return
	}
	if o.BulkDataURI != nil {
		u, err := url.Parse(*o.BulkDataURI)
		if err != nil {
			c.t.Fatal(err)
		}
		status, _, body := get(c.t, c.h, u.Path, octetStream)
		if status != 200 {
			c.t.Errorf("%s %s: bulk data: %d %s", c.file, at, status, body)
			return
		}
		inline := base64.StdEncoding.EncodeToString(body)
		o.InlineBinary = &inline
	}
	if (o.InlineBinary == nil) != (p.InlineBinary == nil) || o.InlineBinary != nil && *o.InlineBinary != *p.InlineBinary {
		c.differ(at, "binary", o, p)
		return
	}
	if len(o.Value) != len(p.Value) {
		c.differ(at, "number of values", o, p)
		return
	}
	for i := range o.Value {
		if o.VR == "SQ" {
			var a, b model
			if err := errors.Join(json.Unmarshal(o.Value[i], &a), json.Unmarshal(p.Value[i], &b)); err != nil {
				c.t.Fatal(err)
			}
			c.datasets(fmt.Sprintf("%s/%d/", at, i+1), a, b)
			continue
		}
		if !sameValue(o.Value[i], p.Value[i]) {
			c.differ(at, otherValue, o, p)
			return
		}
	}
}

func sameValue(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	switch x := x.(type) {
	case float64:
		y, ok := y.(float64)
		return ok && x == y
	case string:
		y, ok := y.(string)
		return ok && x == y
	case map[string]any:
		y, ok := y.(map[string]any)
		return ok && fmt.Sprint(x) == fmt.Sprint(y)
	}
	return false
}
