package dicomweb

import (
	"bytes"
	"crypto/sha256"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom"
)

// All real files in one request, the broken ones between the others: each part
// has its outcome, what was stored comes back byte for byte, study by study, and
// nothing of what was refused does.
func TestRealFilesThrough(t *testing.T) {
	t.Parallel()
	files := realFiles(t)
	mem := &memory{}
	web := serve(t, mem, Options{})
	pr, pw := io.Pipe()
	mw := multipart.NewWriter(pw)
	go func() {
		for _, path := range slices.Sorted(maps.Keys(files)) {
			p, err := mw.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/dicom"}})
			if err == nil {
				_, err = p.Write(files[path])
			}
			if err != nil {
				pw.CloseWithError(err)
				return
			}
		}
		pw.CloseWithError(mw.Close())
	}()
	res, body := request(t, "POST", web+"/studies", map[string]string{"Content-Type": `multipart/related; type="application/dicom"; boundary=` + mw.Boundary()}, pr)
	outcomes, _ := receipt(t, body)
	kinds := make(map[string]int)
	for _, o := range outcomes {
		kind, _, _ := strings.Cut(o, " ")
		kinds[kind]++
	}
	if res.StatusCode != http.StatusAccepted || len(outcomes) != len(files) || kinds["ok"] < 420 || kinds["failed"] < 20 || kinds["other"] < 20 {
		t.Fatalf("%d: %d outcomes for %d files: %v", res.StatusCode, len(outcomes), len(files), kinds)
	}

	sent := make(map[[sha256.Size]byte]bool)
	for _, b := range files {
		sent[sha256.Sum256(b)] = true
	}
	studies := make(map[dicom.UID]int)
	for _, o := range mem.objects {
		studies[o.inst.Study]++
	}
	back := 0
	for study, n := range studies {
		res, body := request(t, "GET", web+"/studies/"+string(study), map[string]string{"Accept": `multipart/related; type="application/dicom"; transfer-syntax=*`}, nil)
		parts := partsOf(t, res, body)
		if len(parts) != n {
			t.Errorf("study %s: %d instances, want %d", study.Short(), len(parts), n)
		}
		for _, p := range parts {
			if !sent[sha256.Sum256([]byte(p.content))] {
				t.Errorf("study %s: an instance is not as it was sent", study.Short())
			}
			back++
		}
	}
	if back != len(mem.objects) {
		t.Errorf("%d instances came back of %d", back, len(mem.objects))
	}
}

func benchmarkImage() []byte {
	pixels := element(dicom.TagPixelData, dicom.OB, bytes.Repeat([]byte{1, 2, 3, 4}, 512*512/4*16))
	return instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, nativeUID, image(512, 512, 16, pixels)...)
}

func benchmarkGet(b *testing.B, path string, size int) {
	mem := filled(b, benchmarkImage())
	mem.layouts = true
	h := New(mem, Options{})
	b.SetBytes(int64(size))
	for b.Loop() {
		w := newRecorder()
		h.ServeHTTP(flushable{w}, must(http.NewRequest("GET", path, nil)))
		if w.status != 200 || w.body.Len() < size {
			b.Fatal(w.status, w.body.Len())
		}
	}
}

const benchmarkPath = "/studies/" + studyA + "/series/" + seriesA + "/instances/" + nativeUID

func BenchmarkRetrieveInstance(b *testing.B) { benchmarkGet(b, benchmarkPath, 4<<20) }

func BenchmarkRetrieveFrame(b *testing.B) { benchmarkGet(b, benchmarkPath+"/frames/7", 256<<10) }

func BenchmarkMetadata(b *testing.B) { benchmarkGet(b, benchmarkPath+"/metadata", 500) }

// BenchmarkStore is the multipart reader alone: the archive throws all away.
func BenchmarkStore(b *testing.B) {
	body := multipartBody(string(benchmarkImage()))
	h := New(sink{}, Options{})
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		w := newRecorder()
		r := must(http.NewRequest("POST", "/studies", strings.NewReader(body)))
		r.Header.Set("Content-Type", storeTypeHeader)
		h.ServeHTTP(w, r)
		if w.status != 200 {
			b.Fatal(w.status)
		}
	}
}
