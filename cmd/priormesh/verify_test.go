package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/dicom"
)

func TestSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Lengths around the buffer's are what goes wrong.
		b := bytes.Repeat([]byte{1, 2, 3}, rapid.SampledFrom([]int{0, 1, 21845, 21846, 50000}).Draw(t, "thirds"))
		other := slices.Clone(b)
		want := true
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 1:
			if len(other) > 0 {
				other[rapid.IntRange(0, len(other)-1).Draw(t, "at")] ^= 0x80
				want = false
			}
		case 2:
			other, want = append(other, 0), false
		case 3:
			if len(other) > 0 {
				other, want = other[:len(other)-1], false
			}
		case 4:
			if len(other) > 0 {
				other, want = nil, false
			}
		}
		got, err := sameBytes(iotest.HalfReader(bytes.NewReader(b)), iotest.DataErrReader(bytes.NewReader(other)))
		if err != nil || got != want {
			t.Fatalf("%d and %d bytes: %v, %v, want %v", len(b), len(other), got, err, want)
		}
	})
	broken := io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrClosedPipe))
	if same, err := sameBytes(broken, strings.NewReader("abc")); err == nil || same {
		t.Errorf("a stream that breaks off: %v, %v", same, err)
	}
}

func TestWithoutRepeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		files := make([]demoFile, 6)
		for i := range files {
			files[i].uids.Instance = dicom.UID(rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "uid"))
		}
		order := rapid.SliceOfDistinct(rapid.IntRange(0, 5), func(i int) int { return i }).Draw(t, "order")
		runs := withoutRepeats(files, order)
		if got := slices.Concat(runs...); !slices.Equal(got, order) {
			t.Fatalf("runs %v of %v", runs, order)
		}
		for _, run := range runs {
			seen := map[dicom.UID]bool{}
			for _, f := range run {
				if seen[files[f].uids.Instance] {
					t.Fatalf("a run has a UID twice: %v", runs)
				}
				seen[files[f].uids.Instance] = true
			}
		}
	})
}

const storeAnswer = `{
 "00081198": {"vr":"SQ","Value":[
   {"00081150":{"vr":"UI","Value":["1.2.840"]},"00081155":{"vr":"UI","Value":["1.1"]},"00081197":{"vr":"US","Value":[273]}},
   {"00081155":{"vr":"UI","Value":["1.3"]},"00081197":{"vr":"US","Value":[4242]}},
   {"00081197":{"vr":"US","Value":[49152]}}]},
 "00081199": {"vr":"SQ","Value":[{"00081155":{"vr":"UI","Value":["1.2"]},"00081190":{"vr":"UR","Value":["http://x"]}}]}
}`

func TestStowAnswer(t *testing.T) {
	got, err := stowAnswer([]byte(storeAnswer))
	want := map[dicom.UID]stored{
		"1.1": {reason: "conflict: its SOP Instance UID is already stored with different bytes, and the first is kept (failure reason 0111)"},
		"1.2": {accepted: true},
		"1.3": {reason: "refused (failure reason 1092)"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", "<html>", `{"00081199":{"Value":[7]}}`} {
		if got, err := stowAnswer([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func FuzzStowAnswer(f *testing.F) {
	f.Add([]byte(storeAnswer))
	f.Add([]byte(`{"00081199":{"Value":[{"00081155":{"Value":[1]}}]}}`))
	f.Add([]byte(`{"00081198":{"Value":[{"00081155":{"Value":["1"]},"00081197":{"Value":["x"]}}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := stowAnswer(b)
		for uid, s := range got {
			if err != nil || s.accepted != (s.reason == "") {
				t.Errorf("%q: %+v beside %v", uid, s, err)
			}
		}
	})
}

// writeFiles makes files with the given contents, of one study.
func writeFiles(t *testing.T, contents ...string) (dir string, files []demoFile) {
	t.Helper()
	dir = t.TempDir()
	for i, c := range contents {
		f := demoFile{path: fmt.Sprintf("sub/%d.dcm", i), size: int64(len(c)), readable: true,
			uids: dicom.UIDs{Study: "1.1", Series: "1.1.1", Instance: dicom.UID(fmt.Sprintf("1.%d", i+1))}}
		path := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return dir, files
}

func TestStowSendsTheFilesAsTheyAre(t *testing.T) {
	dir, files := writeFiles(t, "DICM\r\none", "--\r\n\r\n", "")
	var parts []string
	status, whole := http.StatusAccepted, true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != "multipart/related" || params["type"] != "application/dicom" || r.URL.Path != "/dicom-web/studies" || r.Method != "POST" {
			t.Errorf("%s %s with %q", r.Method, r.URL.Path, r.Header.Get("Content-Type"))
		}
		in := multipart.NewReader(r.Body, params["boundary"])
		for p, err := in.NextRawPart(); err == nil; p, err = in.NextRawPart() {
			b, err := io.ReadAll(p)
			if whole && err != nil || p.Header.Get("Content-Type") != "application/dicom" {
				t.Errorf("part %v, %v", p.Header, err)
			}
			parts = append(parts, string(b))
		}
		w.WriteHeader(status)
		io.WriteString(w, storeAnswer)
	}))
	defer s.Close()
	got, err := stow(t.Context(), s.Client(), s.URL, dir, files)
	if err != nil || len(got) != 3 || !got["1.2"].accepted {
		t.Errorf("got %v, %v", got, err)
	}
	if want := []string{"DICM\r\none", "--\r\n\r\n", ""}; !slices.Equal(parts, want) {
		t.Errorf("sent %q, want %q", parts, want)
	}
	status = http.StatusServiceUnavailable
	if _, err := stow(t.Context(), s.Client(), s.URL, dir, files); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a refusal of the whole request: %v", err)
	}
	files[1].path, whole = "missing", false
	if _, err := stow(t.Context(), s.Client(), s.URL, dir, files); err == nil {
		t.Error("a file that cannot be read is sent")
	}
}

// viewed is a server that answers WADO-RS with the parts it is told to.
func viewed(t *testing.T, status int, parts ...string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/dicom-web/studies/1.1/series/1.1.1/instances/1.1" || r.Header.Get("Accept") != `multipart/related; type="application/dicom"; transfer-syntax=*` {
			t.Errorf("asked for %s as %q", r.URL.Path, r.Header.Get("Accept"))
		}
		m := multipart.NewWriter(w)
		w.Header().Set("Content-Type", `multipart/related; type="application/dicom"; boundary=`+m.Boundary())
		w.WriteHeader(status)
		for _, p := range parts {
			part, err := m.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/dicom"}})
			if err == nil {
				_, err = io.WriteString(part, p)
			}
			if err != nil {
				t.Error(err)
			}
		}
		m.Close()
	}))
	t.Cleanup(s.Close)
	return s
}

func TestWadoHoldsBytesAgainstTheFile(t *testing.T) {
	dir, files := writeFiles(t, "DICM the bytes")
	path := filepath.Join(dir, files[0].path)
	h := sha256.Sum256([]byte("DICM the bytes"))
	sum := hex.EncodeToString(h[:])
	for name, c := range map[string]struct {
		status int
		parts  []string
		sum    string
		same   bool
		fails  bool
	}{
		"the same":                    {200, []string{"DICM the bytes"}, sum, true, false},
		"one bit":                     {200, []string{"DICM the bytfs"}, sum, false, false},
		"cut short":                   {200, []string{"DICM the byte"}, sum, false, false},
		"longer":                      {200, []string{"DICM the bytes!"}, sum, false, false},
		"not what the importer took":  {200, []string{"DICM the bytes"}, strings.Repeat("0", 64), false, false},
		"two instances":               {200, []string{"DICM the bytes", "DICM the bytes"}, sum, false, true},
		"nothing":                     {200, nil, sum, false, true},
		"refused":                     {404, []string{"DICM the bytes"}, sum, false, true},
		"an answer that says partial": {206, []string{"DICM the bytes"}, sum, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := viewed(t, c.status, c.parts...)
			same, err := wado(t.Context(), s.Client(), s.URL, files[0].uids, path, c.sum)
			if same != c.same || (err != nil) != c.fails {
				t.Errorf("got %v, %v", same, err)
			}
		})
	}
}
