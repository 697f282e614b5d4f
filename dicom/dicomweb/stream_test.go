package dicomweb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/dicom"
)

var discard = slog.New(slog.DiscardHandler)

// recorder is a ResponseWriter without a network.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{header: make(http.Header)} }

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) { r.status = status }

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = 200
	}
	return r.body.Write(b)
}

// failing breaks off after some bytes of what Open gives.
type failing struct {
	io.ReadSeeker
	after int64
	err   error
}

func (f *failing) Read(b []byte) (int, error) {
	if f.after <= 0 {
		return 0, f.err
	}
	n, err := f.ReadSeeker.Read(b[:min(int64(len(b)), f.after)])
	f.after -= int64(n)
	return n, err
}

// An answer that has begun and cannot be finished is broken off: no client may
// take a part for the whole.
func TestBrokenOff(t *testing.T) {
	big := bytes.Repeat([]byte("pixels.."), 1<<17) // 1 MiB, more than is read ahead
	file := instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, nativeUID, image(1024, 1024, 1, element(dicom.TagPixelData, dicom.OB, big))...)
	second := instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, jlsUID)
	const instance = "/studies/" + studyA + "/series/" + seriesA + "/instances/" + nativeUID
	laterFails := func(a *memory) {
		a.between = func(i int) error {
			if i == 1 {
				return &Unavailable{"the holder broke off", time.Second}
			}
			return nil
		}
	}
	breaksAt := func(after int64) func(*memory) {
		return func(a *memory) {
			a.layouts = true // nothing is read before the content is
			a.reading = func(r io.ReadSeeker) io.ReadSeeker { return &failing{r, after, errTest} }
		}
	}
	for _, c := range []struct {
		name, path, accept string
		prepare            func(*memory)
		status             int // 0: broken off after 200
	}{
		{"study, the second instance is not to be had", "/studies/" + studyA, "", laterFails, 0},
		{"metadata, the second instance is not to be had", "/studies/" + studyA + "/metadata", "", laterFails, 0},
		{"instance, within", instance, "", breaksAt(600_000), 0},
		{"instance in a single part, within", instance, "application/dicom", breaksAt(600_000), 0},
		{"frame, within", instance + "/frames/1", "", breaksAt(600_000), 0},
		{"bulk data, within", instance + "/bulkdata/7FE00010", "application/octet-stream", breaksAt(600_000), 0},
		{"instance, before anything was read", instance, "", breaksAt(1000), 500},
		{"frame, before anything was read", instance + "/frames/1", "", breaksAt(1000), 500},
		{"study, before anything was read", "/studies/" + studyA, "", breaksAt(1000), 500},
		{"not broken", "/studies/" + studyA, "", func(*memory) {}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := filled(t, file, second)
			c.prepare(mem)
			r, err := http.NewRequestWithContext(t.Context(), "GET", serve(t, mem, Options{})+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.accept != "" {
				r.Header.Set("Accept", c.accept)
			}
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			_, err = io.ReadAll(res.Body)
			switch {
			case c.status == 0 && (res.StatusCode != 200 || !errors.Is(err, io.ErrUnexpectedEOF)):
				t.Errorf("status %d, body ends with %v", res.StatusCode, err)
			case c.status != 0 && (res.StatusCode != c.status || err != nil):
				t.Errorf("status %d, %v", res.StatusCode, err)
			}
		})
	}
}

// An instance that is shorter or longer than it says is never sent as whole.
func TestSizeIsKept(t *testing.T) {
	file := instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, nativeUID, str(dicom.TagPatientID, dicom.LO, "x"))
	for _, size := range []int{len(file) - 1, len(file) + 1} {
		mem := filled(t, file)
		mem.objects[0].data = append(slices.Clip(file), 0)[:size]
		o := &announced{mem.objects[0], int64(len(file))}
		s := newServer(mem, Options{Rand: strings.NewReader(strings.Repeat("r", 100)), Limits: DefaultLimits(), Log: discard})
		w := newRecorder()
		out := s.newSender(w, must(http.NewRequest("GET", "/", nil)))
		rc, err := o.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := out.send(instanceOffers("1.2", true)[1], dicomFile, "", rc, o.Size()); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes where %d were announced: %v", size, len(file), err)
		}
	}
}

type announced struct {
	*memoryObject
	size int64
}

func (a *announced) Size() int64 { return a.size }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Instances reach the client as they become available, not when the last has.
func TestRetrieveStreams(t *testing.T) {
	first := instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, "1.2.3.9.1", str(dicom.TagPatientID, dicom.LO, "the first"))
	second := instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, "1.2.3.9.2", str(dicom.TagPatientID, dicom.LO, "the second"))
	for _, path := range []string{"", "/metadata"} {
		mem := filled(t, first, second)
		seen := make(chan struct{})
		mem.between = func(i int) error {
			if i == 1 {
				select {
				case <-seen:
				case <-time.After(20 * time.Second):
					return errors.New("the client has not seen the first instance while the second was awaited")
				}
			}
			return nil
		}
		res, err := http.Get(serve(t, mem, Options{}) + "/studies/" + studyA + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		r := bufio.NewReader(res.Body)
		var got strings.Builder
		for !strings.Contains(got.String(), "the first") {
			b, err := r.ReadByte()
			if err != nil {
				t.Fatalf("%q: %v after %q", path, err, got.String())
			}
			got.WriteByte(b)
		}
		close(seen)
		rest, err := io.ReadAll(r)
		if err != nil || !strings.Contains(string(rest), "the second") {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// What is asked for beyond reason gets a named limit, soon.
func TestHostileRequests(t *testing.T) {
	web := serve(t, fixture(t), Options{})
	const instance = "/studies/" + studyA + "/series/" + seriesA + "/instances/" + nativeUID
	var list strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&list, "%d,", i+1)
	}
	deflated := "/studies/" + studyB + "/series/" + seriesOther + "/instances/" + deflatedUID
	for _, c := range []struct {
		name, path, accept string
		status             int
		text               string
	}{
		{"a hundred thousand frames", instance + "/frames/" + list.String() + "1", "", 400, "Frames = 10000"},
		{"a frame number beyond int64", instance + "/frames/" + strings.Repeat("9", 1000), "", 404, "this instance has 2"},
		{"an offset of 10^12", "/studies?offset=1000000000000", "", 400, "Offset"},
		{"an endless Accept header", instance, strings.Repeat("a/b, ", 10_000), 400, "Accept = 8192"},
		{"an endless query", "/studies?" + strings.Repeat("x", 100_000), "", 400, "QueryLength"},
		{"an endless query to retrieve", instance + "?accept=" + strings.Repeat("x", 100_000), "", 400, "QueryLength"},
		{"a thousand parameters", "/studies?" + strings.Repeat("x=1&", 1000), "", 400, "QueryKeys"},
		{"a path of a thousand sequences", "/studies?" + strings.Repeat("00400275.", 1000) + "00400009=x", "", 400, "PathDepth"},
		{"a bulk data path without end", instance + "/bulkdata/" + strings.Repeat("00400275/1/", 20_000) + "00400009", "", 400, "Instance.Depth"},
		{"a UID without end", "/studies/" + strings.Repeat("1", 10_000), "", 400, "UID"},
		{"inflating again and again", deflated + "/frames/2,1", "", 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, body := request(t, "GET", web+c.path, map[string]string{"Accept": c.accept}, nil)
			if res.StatusCode != c.status || !strings.Contains(string(body), c.text) {
				t.Errorf("%d %.200s", res.StatusCode, body)
			}
		})
	}
}

// Frames of a deflated instance in falling order have it inflated anew for
// each, which has a limit.
func TestRewinds(t *testing.T) {
	mem := fixture(t)
	s := newServer(mem, Options{Rand: strings.NewReader(strings.Repeat("r", 100)), Limits: Limits{Rewinds: 2}.withDefaults(), Log: discard})
	o, err := s.one(t.Context(), Ref{studyB, seriesOther, deflatedUID})
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for i := range 6 {
		f, err := in.frame((i + 1) % 2) // every second one is a fall
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if i == 5 {
			if limit := (ErrLimit{"Rewinds", 2}); !errors.Is(err, limit) {
				t.Errorf("the third fall: %v", err)
			}
			continue
		}
		if want := [][]byte{{5, 6, 7, 8}, {1, 2, 3, 4}}[i%2]; err != nil || !bytes.Equal(b, want) {
			t.Fatalf("frame %d: %v %v", i, b, err)
		}
	}
}

// A path that ServeMux would redirect is not there: the redirect would leave
// the prefix.
func TestNoRedirects(t *testing.T) {
	h := New(fixture(t), Options{})
	for _, path := range []string{"//studies", "/studies//", "/./studies", "/studies/..", "", "studies"} {
		w := newRecorder()
		h.ServeHTTP(w, &http.Request{Method: "GET", URL: &url.URL{Path: path}, Header: http.Header{}})
		if w.status != 404 {
			t.Errorf("%q: %d %v", path, w.status, w.header)
		}
	}
}

// Bits moved to the start of a byte are the bits one by one.
func TestBitReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "src")
		shift := rapid.IntRange(0, 7).Draw(t, "shift")
		bits := rapid.IntRange(1, len(src)*8-shift).Draw(t, "bits")
		want := make([]byte, (bits+7)/8)
		for i := range bits {
			at := shift + i
			want[i/8] |= src[at/8] >> (at % 8) & 1 << (i % 8)
		}
		// The source has just the bytes the bits lie in.
		src = src[:(shift+bits+7)/8]
		r := io.Reader(&bitReader{src: iotest.HalfReader(bytes.NewReader(src)), shift: uint(shift), left: int64(bits)})
		if rapid.Bool().Draw(t, "bytewise") {
			r = iotest.OneByteReader(r)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%08b shift %d bits %d: %08b, want %08b: %v", src, shift, bits, got, want, err)
		}
		if _, err := io.ReadAll(&bitReader{src: bytes.NewReader(src[:len(src)-1]), shift: uint(shift), left: int64(bits)}); err == nil {
			t.Fatal("a source cut short gave a frame")
		}
	})
}

// A range of big endian words is the range of the value turned round whole.
func TestSwapper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width := rapid.SampledFrom([]int{2, 4, 8}).Draw(t, "width")
		value := rapid.SliceOfN(rapid.Byte(), 0, 10_000).Draw(t, "value")
		value = value[:len(value)/width*width]
		off := rapid.IntRange(0, len(value)).Draw(t, "off")
		n := rapid.IntRange(0, len(value)-off).Draw(t, "n")
		want := bytes.Clone(value)
		for i := 0; i < len(want); i += width {
			for a, z := i, i+width-1; a < z; a, z = a+1, z-1 {
				want[a], want[z] = want[z], want[a]
			}
		}
		const before = 100
		in := &instance{src: bytes.NewReader(append(make([]byte, before), value...))}
		r := in.read(dicom.Range{Off: int64(before + off), Len: int64(n)}, dicom.Range{Off: before, Len: int64(len(value))}, width)
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want[off:off+n]) {
			t.Fatalf("%v", err)
		}
	})
}

// A stream without a range reads and seeks as if the range had never been.
func TestWithout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "all")
		off := rapid.IntRange(0, len(all)).Draw(t, "off")
		n := rapid.IntRange(0, len(all)-off).Draw(t, "n")
		want := append(bytes.Clone(all[:off]), all[off+n:]...)
		w := &without{src: bytes.NewReader(all), cut: dicom.Range{Off: int64(off), Len: int64(n)}, at: -1}
		if err := iotest.TestReader(w, want); err != nil {
			t.Fatal(err)
		}
	})
}
