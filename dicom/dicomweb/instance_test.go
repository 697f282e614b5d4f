package dicomweb

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/priormesh/priormesh/dicom"
)

// Values too long to be kept in memory are found in the instance: before the
// pixel data, after it, in sequences, as text of another character set.
func TestLongValues(t *testing.T) {
	const after dicom.Tag = 0x7FE10010 + 0x1000 // of a private block behind the pixel data
	octets := bytes.Repeat([]byte{1, 2, 3, 4}, 1000)
	words := bytes.Repeat([]byte{5, 6}, 1500)
	text := strings.Repeat("\xE4rger ", 600) // ISO_IR 100
	for name, pixels := range map[string][]byte{
		"native":     element(dicom.TagPixelData, dicom.OB, bytes.Repeat([]byte{9}, 5000)),
		"compressed": encapsulated(bytes.Repeat([]byte{9}, 5000)),
		"none":       nil,
	} {
		for _, layouts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/layouts=%v", name, layouts), func(t *testing.T) {
				elements := [][]byte{
					str(dicom.TagSpecificCharacterSet, dicom.CS, "ISO_IR 100"),
					element(0x00420011, dicom.OB, octets),
					str(0x0040A160, dicom.UT, text),
					seq(0x00400275, nil, element(0x00189810, dicom.OW, words)),
					element(after, dicom.OB, octets),
				}
				syntax := dicom.ExplicitVRLittleEndian
				if name == "compressed" {
					syntax = jlsSyntax
				}
				if pixels != nil {
					elements = append(elements, image(50, 100, 1, pixels)...)
				}
				mem := filled(t, instanceFile(syntax, studyA, seriesA, nativeUID, elements...))
				mem.layouts = layouts
				h := New(mem, Options{Limits: Limits{Instance: dicom.Limits{Value: 1000}}})
				at := Ref{studyA, seriesA, nativeUID}.url("")
				_, _, metadata := get(t, h, at+"/metadata", "")
				for path, want := range map[string]string{
					"00420011":            string(octets),
					"0040A160":            strings.TrimRight(strings.ReplaceAll(text, "\xE4", "ä"), " "),
					"00400275/2/00189810": string(words),
					after.Hex():           string(octets),
				} {
					if !strings.Contains(string(metadata), `"BulkDataURI":"http://h`+at+"/bulkdata/"+path+`"`) {
						t.Errorf("no address of %s: %s", path, metadata)
					}
					status, _, body := get(t, h, at+"/bulkdata/"+path, octetStream)
					if status != 200 || strings.TrimRight(string(body), " ") != want {
						t.Errorf("%s: %d, %d bytes, want %d", path, status, len(body), len(want))
					}
				}
				if pixels == nil {
					return
				}
				if status, _, body := get(t, h, at+"/frames/1", "*/*"); status != 200 || !bytes.Contains(body, bytes.Repeat([]byte{9}, 5000)) {
					t.Errorf("frame: %d, %d bytes", status, len(body))
				}
			})
		}
	}
}

// counting counts what is read of an instance, and how far into it.
type counting struct {
	io.ReadSeeker
	n, end *int
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.ReadSeeker.Read(b)
	if at, serr := c.Seek(0, io.SeekCurrent); serr == nil && n > 0 {
		*c.end = max(*c.end, int(at))
	}
	*c.n += n
	return n, err
}

// With a known layout, metadata and a frame are served without reading the
// rest of the pixels: those may not have arrived yet.
func TestReadsWhatIsNeeded(t *testing.T) {
	var frames [][]byte
	for i := range 50 {
		frames = append(frames, bytes.Repeat([]byte{byte(i)}, 20_000))
	}
	for name, file := range map[string][]byte{
		"native":     instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, nativeUID, image(100, 200, 50, element(dicom.TagPixelData, dicom.OB, bytes.Join(frames, nil)))...),
		"compressed": instanceFile(jlsSyntax, studyA, seriesA, nativeUID, image(100, 200, 50, encapsulated(frames...))...),
	} {
		mem := filled(t, file)
		mem.layouts = true
		read, end := 0, 0
		mem.reading = func(r io.ReadSeeker) io.ReadSeeker { return counting{r, &read, &end} }
		h := New(mem, Options{})
		at := Ref{studyA, seriesA, nativeUID}.url("")
		for path, most := range map[string]int{"/metadata": 200_000, "/frames/7": 25_000, "/frames/7,3": 45_000} {
			read, end = 0, 0
			if status, _, _ := get(t, h, at+path, "*/*"); status != 200 || read > most {
				t.Errorf("%s%s: %d, %d bytes read of %d, want at most %d", name, path, status, read, len(file), most)
			}
			// The last block of pixels holds what ends them: it may be far away.
			if path == "/metadata" && end > len(file)/2 {
				t.Errorf("%s: the metadata were read up to byte %d of %d", name, end, len(file))
			}
		}
	}
}

// Nothing that names a patient or a study is logged.
func TestLogIsDiscreet(t *testing.T) {
	var log bytes.Buffer
	mem := fixture(t)
	o := Options{Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	h := New(mem, o)
	instance := Ref{studyA, seriesA, nativeUID}.url("")
	mem.objectsErr = errTest
	for _, path := range []string{"/studies?PatientName=Doe&PatientID=4711", instance, instance + "/frames/1", instance + "/metadata?accept=*/*"} {
		get(t, h, path, "*/*")
	}
	mem.objectsErr = nil
	mem.storeErr = errTest
	r := must(http.NewRequest("POST", "/studies/"+studyA, strings.NewReader(multipartBody(plain(studyA, "1.5.1.77", str(dicom.TagPatientName, dicom.PN, "Doe^Jane")), "x"))))
	r.Header.Set("Content-Type", storeTypeHeader)
	h.ServeHTTP(newRecorder(), r)
	mem.between = func(i int) error {
		if i == 1 {
			return errTest
		}
		return nil
	}
	func() {
		defer func() {
			if r := recover(); r != http.ErrAbortHandler {
				t.Errorf("not broken off: %v", r)
			}
		}()
		get(t, h, "/studies/"+studyA, "*/*")
	}()
	text := log.String()
	for _, want := range []string{"request failed", "instance not stored", "not all of a store request", "broken off", errTest.Error(), dicom.UID(studyA).Short()} {
		if !strings.Contains(text, want) {
			t.Errorf("the log says nothing of %q: %s", want, text)
		}
	}
	for _, secret := range []string{studyA, "1.5.1.77", "Doe", "4711"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log has %q: %s", secret, text)
		}
	}
}

// Many clients at once, for the race detector.
func TestConcurrent(t *testing.T) {
	mem := fixture(t)
	mem.completeness = []string{"RX2 has not been heard from"}
	h := New(mem, Options{})
	at := Ref{studyA, seriesA, nativeUID}.url("")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 10 {
				for _, path := range []string{"/studies", "/studies/" + studyA, at + "/frames/2,1", at + "/metadata", at + "/bulkdata/00281201"} {
					if status, _, body := get(t, h, path, "*/*"); status != 200 || len(body) == 0 {
						t.Errorf("%s: %d", path, status)
					}
				}
				w := newRecorder()
				r, _ := http.NewRequest("POST", "/studies", strings.NewReader(multipartBody(plain("1.8", fmt.Sprint("1.8.", i)))))
				r.Header.Set("Content-Type", storeTypeHeader)
				if h.ServeHTTP(flushable{w}, r); w.status != 200 {
					t.Errorf("store: %d", w.status)
				}
			}
		})
	}
	wg.Wait()
}

// A stored document cannot act as a page of the node that serves it.
func TestDocumentsAreNoPages(t *testing.T) {
	for media, want := range map[string]string{"text/html": "sandbox", "application/pdf": ""} {
		mem := filled(t, instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, nativeUID, str(0x00420012, dicom.LO, media), element(0x00420011, dicom.OB, []byte("<script>alert(1)</script>"))))
		status, header, _ := get(t, New(mem, Options{}), Ref{studyA, seriesA, nativeUID}.url("")+"/bulkdata/00420011", media)
		if status != 200 || header.Get("Content-Type") != media || header.Get("Content-Security-Policy") != want || header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Vary") != "Accept" {
			t.Errorf("%s: %d %v", media, status, header)
		}
	}
}
