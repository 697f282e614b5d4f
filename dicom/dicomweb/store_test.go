package dicomweb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/dicom"
)

const storeTypeHeader = `multipart/related; type="application/dicom"; boundary=XX`

// multipartBody puts contents into parts; a content that begins with "--raw:"
// is a whole part with its own headers.
func multipartBody(contents ...string) string {
	var b strings.Builder
	for _, c := range contents {
		b.WriteString("\r\n--XX\r\n")
		if raw, ok := strings.CutPrefix(c, "--raw:"); ok {
			b.WriteString(raw)
			continue
		}
		b.WriteString("Content-Type: application/dicom\r\n\r\n" + c)
	}
	b.WriteString("\r\n--XX--\r\n")
	return b.String()
}

func plain(study, sop string, more ...[]byte) string {
	return string(instanceFile(dicom.ExplicitVRLittleEndian, study, study+".1", sop, more...))
}

// receipt is the response module in short: "ok UID", "failed UID CODE" and
// "other CODE" for each instance, sorted.
func receipt(t *testing.T, body []byte) (list []string, studyURL string) {
	t.Helper()
	type values struct {
		VR    string `json:"vr"`
		Value []json.RawMessage
	}
	var ds map[string]values
	if err := json.Unmarshal(body, &ds); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	item := func(raw json.RawMessage) map[string]string {
		var m map[string]struct{ Value []any }
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		out := make(map[string]string)
		for k, v := range m {
			out[k] = fmt.Sprint(v.Value[0])
		}
		return out
	}
	for _, raw := range ds["00081199"].Value {
		m := item(raw)
		list = append(list, "ok "+m["00081155"])
		if m["00081150"] == "" || !strings.HasSuffix(m["00081190"], "/instances/"+m["00081155"]) {
			t.Errorf("%v", m)
		}
	}
	for _, raw := range ds["00081198"].Value {
		m := item(raw)
		list = append(list, "failed "+m["00081155"]+" "+m["00081197"])
		if m["00000902"] == "" || len([]rune(m["00000902"])) > 64 {
			t.Errorf("comment %q", m["00000902"])
		}
	}
	for _, raw := range ds["0008119A"].Value {
		list = append(list, "other "+item(raw)["00081197"])
	}
	if v := ds["00081190"].Value; len(v) > 0 {
		studyURL = string(v[0])
	}
	slices.Sort(list)
	return list, studyURL
}

func TestStore(t *testing.T) {
	const (
		duplicate, wrongStudy, noResources, processing, cannot = "273", "43264", "42752", "272", "49152"
	)
	one, two := plain("1.5", "1.5.1"), plain("1.5", "1.5.2")
	for _, c := range []struct {
		name, path, contentType, body string
		prepare                       func(*memory)
		limits                        Limits
		headers                       map[string]string
		status                        int
		receipt                       []string
		warning                       string // contained in a Warning
		header                        string
	}{
		{name: "10.5.1 all stored", path: "/studies", body: multipartBody(one, two), status: 200, receipt: []string{"ok 1.5.1", "ok 1.5.2"}},
		{name: "10.5.1 to a study", path: "/studies/1.5", body: multipartBody(one), status: 200, receipt: []string{"ok 1.5.1"}},
		{name: "10.5.1 a single instance without multipart", path: "/studies", contentType: "application/dicom", body: one, status: 200, receipt: []string{"ok 1.5.1"}},
		{name: "type without quotes", path: "/studies", contentType: `multipart/related;type=application/dicom;boundary="XX"`, body: multipartBody(one), status: 200, receipt: []string{"ok 1.5.1"}},
		{name: "a part without Content-Type", path: "/studies", body: multipartBody("--raw:\r\n" + one), status: 200, receipt: []string{"ok 1.5.1"}},
		{name: "the same bytes again", path: "/studies", body: multipartBody(one, one), status: 200, receipt: []string{"ok 1.5.1", "ok 1.5.1"}},
		{name: "a preamble before the first part", path: "/studies", body: "This is a message.\r\n" + multipartBody(one), status: 200, receipt: []string{"ok 1.5.1"}},
		{name: "an Accept that cannot be met loses no images", path: "/studies", body: multipartBody(one), headers: map[string]string{"Accept": "application/dicom+xml"}, status: 200, receipt: []string{"ok 1.5.1"}},
		{name: "10.5.3.1 some stored: one of another study", path: "/studies/1.5", body: multipartBody(plain("1.6", "1.6.1"), two), status: 202, receipt: []string{"failed 1.6.1 " + wrongStudy, "ok 1.5.2"}, warning: "part 1"},
		{name: "10.5.3.1 some stored: garbage between", path: "/studies", body: multipartBody(one, "garbage", two), status: 202, receipt: []string{"ok 1.5.1", "ok 1.5.2", "other " + cannot}, warning: "part 2: dicom: not a DICOM instance"},
		{name: "an instance cut short harms no other", path: "/studies", body: multipartBody(one[:len(one)-3], two), status: 202, receipt: []string{"ok 1.5.2", "other " + cannot}, warning: "part 1"},
		{name: "the UID is taken by other bytes", path: "/studies", body: multipartBody(one, plain("1.5", "1.5.1", str(dicom.TagPatientSex, dicom.CS, "F"))), status: 202, receipt: []string{"failed 1.5.1 " + duplicate, "ok 1.5.1"}, warning: "already stored with different bytes"},
		{name: "10.5.3.1 none stored", path: "/studies/1.7", body: multipartBody(one), status: 409, receipt: []string{"failed 1.5.1 " + wrongStudy}},
		{name: "none stored: garbage", path: "/studies", body: multipartBody("x", "y"), status: 409, receipt: []string{"other " + cannot, "other " + cannot}},
		{name: "none stored: no Study Instance UID", path: "/studies", body: multipartBody(string(withMeta(dicom.ExplicitVRLittleEndian, "1.2", str(dicom.TagPatientID, dicom.LO, "x")))), status: 409, receipt: []string{"other " + cannot}, warning: "StudyInstanceUID"},
		{name: "a part of another type", path: "/studies", body: multipartBody("--raw:Content-Type: application/dicom+json\r\n\r\n[]", one), status: 202, receipt: []string{"ok 1.5.1", "other " + cannot}},
		{name: "multipart within multipart", path: "/studies", body: multipartBody("--raw:Content-Type: multipart/related; boundary=YY\r\n\r\n--YY\r\n\r\nx\r\n--YY--", one), status: 202, receipt: []string{"ok 1.5.1", "other " + cannot}},
		{name: "a transfer encoding of mail", path: "/studies", body: multipartBody("--raw:Content-Type: application/dicom\r\nContent-Transfer-Encoding: base64\r\n\r\nRElDTQ==", one), status: 202, receipt: []string{"ok 1.5.1", "other " + cannot}},
		{name: "no space", path: "/studies", prepare: func(a *memory) { a.storeErr = fmt.Errorf("x: %w", ErrNoSpace) }, body: multipartBody(one), status: 507, receipt: []string{"failed 1.5.1 " + noResources}, warning: "no space"},
		{name: "the archive is stopping", path: "/studies", prepare: func(a *memory) { a.storeErr = &Unavailable{"the node is stopping", 3 * time.Second} }, body: multipartBody(one), status: 503, receipt: []string{"failed 1.5.1 " + noResources}, header: "Retry-After: 3"},
		{name: "what only the log may say", path: "/studies", prepare: func(a *memory) { a.storeErr = errTest }, body: multipartBody(one), status: 409, receipt: []string{"failed 1.5.1 " + processing}, warning: "log says why"},
		{name: "an archive that does not read to the end has stored nothing", path: "/studies", prepare: func(a *memory) {
			a.storing = func(r io.Reader) { io.CopyN(io.Discard, r, 5) }
			a.storeErr = errTest
		}, body: multipartBody(one), status: 409, receipt: []string{"other " + cannot}},
		{name: "10.5.3.1 no closing boundary", path: "/studies", body: strings.TrimSuffix(multipartBody(one, two), "\r\n--XX--\r\n"), status: 202, receipt: []string{"failed 1.5.2 " + processing, "ok 1.5.1"}, warning: "closing boundary"},
		{name: "10.5.3.1 cut within the first part", path: "/studies", body: multipartBody(one)[:200], status: 400, receipt: []string{"other " + processing}},
		{name: "a single instance cut short", path: "/studies", contentType: "application/dicom", body: one[:300], status: 409, receipt: []string{"other " + cannot}},
		{name: "Part, one too long", path: "/studies", limits: Limits{Part: 400}, body: multipartBody(plain("1.5", "1.5.3", str(dicom.TagStudyDescription, dicom.LO, strings.Repeat("x", 500))), plain("1.5", "1.5.4")), status: 202, receipt: []string{"ok 1.5.4", "other " + noResources}, warning: "Part = 400"},
		{name: "Part, all too long", path: "/studies", limits: Limits{Part: 100}, body: multipartBody(one), status: 413, receipt: []string{"other " + noResources}},
		{name: "Parts", path: "/studies", limits: Limits{Parts: 1}, body: multipartBody(one, two), status: 202, receipt: []string{"ok 1.5.1"}, warning: "Parts = 1"},
		{name: "Request, known from its length", path: "/studies", limits: Limits{Request: 1000}, body: multipartBody(strings.Repeat("x", 1000)), status: 413},
		{name: "PartHeader", path: "/studies", limits: Limits{PartHeader: 8 << 10}, body: multipartBody(one, "--raw:X: "+strings.Repeat("x", 100_000)+"\r\n\r\n"+two), status: 202, receipt: []string{"ok 1.5.1"}, warning: "PartHeader = 8192"},
		{name: "PartHeader, many headers", path: "/studies", limits: Limits{PartHeader: 8 << 10}, body: multipartBody(one, "--raw:"+strings.Repeat("X: y\r\n", 20_000)+"\r\n"+two), status: 202, receipt: []string{"ok 1.5.1"}, warning: "PartHeader"},
		{name: "PartHeader, an endless preamble", path: "/studies", body: strings.Repeat("x\r\n", 100_000), status: 413},
		{name: "a part header that is none", path: "/studies", body: multipartBody(one, "--raw:nonsense\r\n\r\n"+two), status: 202, receipt: []string{"ok 1.5.1"}, warning: "header is none"},
		{name: "no parts", path: "/studies", body: "--XX--\r\n", status: 400},
		{name: "an empty body", path: "/studies", body: "", status: 400},
		{name: "another boundary in the body", path: "/studies", body: strings.ReplaceAll(multipartBody(one), "--XX", "--YY"), status: 400},
		{name: "the boundary's beginning in the content", path: "/studies", body: multipartBody(plain("1.5", "1.5.5", element(0x00420011, dicom.OB, []byte("\r\n--X\r\n-\r\n--XY\r\n")))), status: 200, receipt: []string{"ok 1.5.5"}},
		{name: "no boundary", path: "/studies", contentType: `multipart/related; type="application/dicom"`, body: multipartBody(one), status: 400},
		{name: "a boundary too long", path: "/studies", contentType: `multipart/related; type="application/dicom"; boundary=` + strings.Repeat("x", 71), body: multipartBody(one), status: 400},
		{name: "a boundary of lines", path: "/studies", contentType: `multipart/related; type="application/dicom"; boundary="a;b"`, body: multipartBody(one), status: 400},
		{name: "10.5.3.1 metadata and bulk data", path: "/studies", contentType: `multipart/related; type="application/dicom+json"; boundary=XX`, body: multipartBody("[]"), status: 415},
		{name: "10.5.3.1 another type", path: "/studies", contentType: "text/plain", body: "x", status: 415},
		{name: "10.5.3.1 no type", path: "/studies", contentType: " ", body: "x", status: 415},
		{name: "compressed", path: "/studies", headers: map[string]string{"Content-Encoding": "gzip"}, body: "x", status: 415},
		{name: "PS3.5 9.1 no UID", path: "/studies/x", body: multipartBody(one), status: 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := &memory{}
			if c.prepare != nil {
				c.prepare(mem)
			}
			web := serve(t, mem, Options{Limits: c.limits})
			headers := map[string]string{"Content-Type": storeTypeHeader}
			if c.contentType != "" {
				headers["Content-Type"] = strings.TrimSpace(c.contentType)
			}
			for k, v := range c.headers {
				headers[k] = v
			}
			res, body := request(t, "POST", web+c.path, headers, strings.NewReader(c.body))
			if res.StatusCode != c.status {
				t.Fatalf("status %d, want %d: %s", res.StatusCode, c.status, body)
			}
			if c.receipt == nil {
				if len(mem.objects) != 0 {
					t.Errorf("%d instances stored", len(mem.objects))
				}
				return
			}
			got, study := receipt(t, body)
			if !slices.Equal(got, c.receipt) {
				t.Errorf("got %q, want %q: %s", got, c.receipt, body)
			}
			if c.status == 200 && study != `"`+web+`/studies/1.5"` {
				t.Errorf("study at %s", study)
			}
			stored := 0
			for _, o := range mem.objects {
				if slices.Contains(got, "ok "+string(o.inst.Instance)) {
					stored++
				}
			}
			if stored != len(mem.objects) {
				t.Errorf("%d instances stored, said of %d", len(mem.objects), stored)
			}
			warnings := strings.Join(res.Header.Values("Warning"), "\n")
			if !strings.Contains(warnings, c.warning) || c.status == 200 && warnings != "" {
				t.Errorf("warnings %q, want %q", warnings, c.warning)
			}
			if k, v, ok := strings.Cut(c.header, ": "); ok && res.Header.Get(k) != v {
				t.Errorf("%s %q", k, res.Header.Get(k))
			}
		})
	}
}

// A body of unknown length that goes beyond Request: what came before is kept
// and said to be.
func TestStoreRequestLimit(t *testing.T) {
	one := plain("1.5", "1.5.1")
	web := serve(t, &memory{}, Options{Limits: Limits{Request: int64(len(multipartBody(one)) + 100)}})
	body := io.MultiReader(strings.NewReader(multipartBody(one, plain("1.5", "1.5.2"))))
	res, b := request(t, "POST", web+"/studies", map[string]string{"Content-Type": storeTypeHeader}, body)
	got, _ := receipt(t, b)
	if res.StatusCode != 202 || !slices.Equal(got, []string{"ok 1.5.1", "other 42752"}) {
		t.Errorf("%d %q", res.StatusCode, got)
	}
}

// Parts go to the archive as they arrive: the first bytes of an instance are
// with the archive before its last ones are sent.
func TestStoreStreams(t *testing.T) {
	mem := &memory{}
	started := make(chan struct{})
	mem.storing = func(r io.Reader) {
		close(started)
	}
	web := serve(t, mem, Options{})
	body := multipartBody(plain("1.5", "1.5.1", element(0x00420011, dicom.OB, bytes.Repeat([]byte("x"), 1<<20))))
	pr, pw := io.Pipe()
	go func() {
		io.WriteString(pw, body[:1<<19])
		select {
		case <-started:
			io.WriteString(pw, body[1<<19:])
			pw.Close()
		case <-time.After(20 * time.Second):
			pw.CloseWithError(errors.New("the archive was not asked before the instance was whole"))
		}
	}()
	res, b := request(t, "POST", web+"/studies", map[string]string{"Content-Type": storeTypeHeader}, pr)
	if res.StatusCode != 200 {
		t.Errorf("%d %s", res.StatusCode, b)
	}
}

// A million parts cost neither memory nor time: the answer comes when the limit
// is reached, while the sender still holds the rest.
// countedBody gives what is asked for and counts how often that is.
type countedBody struct {
	io.Reader
	reads int
}

func (c *countedBody) Read(b []byte) (int, error) { c.reads++; return c.Reader.Read(b) }
func (c *countedBody) Close() error               { return nil }

// Each read of a body is a system call or more.
func TestStoreReadsInLargePieces(t *testing.T) {
	const size = 4 << 20
	big := image(1024, 2048, 1, element(dicom.TagPixelData, dicom.OW, bytes.Repeat([]byte("pixels.."), size/8)))
	body := &countedBody{Reader: strings.NewReader(multipartBody(plain(studyA, nativeUID, big...)))}
	r, err := http.NewRequest(http.MethodPost, "/studies", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", storeTypeHeader)
	w := newRecorder()
	New(filled(t), Options{Log: discard}).ServeHTTP(w, r)
	if w.status != http.StatusOK {
		t.Fatalf("status %d: %s", w.status, w.body.Bytes())
	}
	if most := 2 * size / readAhead; body.reads > most {
		t.Errorf("%d bytes were read in %d pieces, at most %d are right", size, body.reads, most)
	}
}

func TestStoreManyParts(t *testing.T) {
	limits := Limits{Parts: 1000}
	web := serve(t, &memory{}, Options{Limits: limits})
	pr, pw := io.Pipe()
	go io.WriteString(pw, strings.Repeat("\r\n--XX\r\n\r\nx", limits.Parts+1)+"\r\n--XX\r\n")
	res, b := request(t, "POST", web+"/studies", map[string]string{"Content-Type": storeTypeHeader}, pr)
	pr.Close()
	got, _ := receipt(t, b)
	if res.StatusCode != http.StatusRequestEntityTooLarge || len(got) != limits.Parts {
		t.Errorf("%d, %d outcomes", res.StatusCode, len(got))
	}
}

func TestShortened(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"short", "short"},
		{`back\slash` + "\n", "back slash "},
		{strings.Repeat("x", 64), strings.Repeat("x", 64)},
		{strings.Repeat("word ", 20), strings.TrimSpace(strings.Repeat("word ", 12)) + "…"},
		{strings.Repeat("ü", 100), strings.Repeat("ü", 63) + "…"},
	} {
		if got := shortened(c.in); got != c.want || len([]rune(got)) > 64 {
			t.Errorf("%q became %q", c.in, got)
		}
	}
}

// Whatever comes as a multipart body, each part has one outcome, what was said
// to be stored is, and the answer is one the standard knows.
func FuzzStore(f *testing.F) {
	one := plain("1.5", "1.5.1")
	for _, s := range []string{
		multipartBody(one), multipartBody("x", one), multipartBody(one)[:100], "--XX--", "--XX\r\n\r\n--XX\r\n\r\n--XX--",
		multipartBody("--raw:Content-Type: multipart/mixed; boundary=XX\r\n\r\n" + one), strings.ReplaceAll(multipartBody(one), "\r\n--XX", "\n--XX"),
		"--XX\r\nContent-Type: application/dicom\r\n\r\n" + one + "\r\n--XX-",
	} {
		f.Add(s, storeTypeHeader)
	}
	f.Add(one, "application/dicom")
	f.Add(one, `multipart/related;boundary="`)
	f.Fuzz(func(t *testing.T, body, contentType string) {
		mem := &memory{}
		limits := Limits{Parts: 20, Part: 1 << 16, PartHeader: 1 << 12, Request: 1 << 18}
		s := newServer(mem, Options{Rand: strings.NewReader(""), Limits: limits.withDefaults(), Log: discard})
		w := newRecorder()
		r, err := http.NewRequest("POST", "/studies", io.MultiReader(strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header["Content-Type"] = []string{contentType}
		s.ServeHTTP(w, r)
		switch w.status {
		case 200, 202:
			if len(mem.objects) == 0 {
				t.Fatalf("%d with nothing stored", w.status)
			}
		case 400, 409, 413, 415:
			if len(mem.objects) != 0 {
				t.Fatalf("%d with %d stored", w.status, len(mem.objects))
			}
		default:
			t.Fatalf("status %d: %s", w.status, w.body.Bytes())
		}
		if w.Header().Get("Content-Type") == dicomJSON && !json.Valid(w.body.Bytes()) {
			t.Fatalf("%q", w.body.Bytes())
		}
	})
}
