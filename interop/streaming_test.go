package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What a node may use of memory while an instance of any size passes through
// it, and of its disk while one frame of it is served.
const (
	memoryMost = 200 << 20
	readMost   = 8 << 20
)

// multiframe is an instance that nobody has in memory: its frames are made
// when they are read.
type multiframe struct {
	file
	header  []byte
	frame   func(i int) []byte // valid until the next call
	trailer []byte
	size    int64
}

const (
	frameSide  = 512
	frameBytes = frameSide * frameSide * 2
)

// native has frames of 16-bit samples back to back.
func native(seed uint64, frames int) *multiframe {
	m := newMultiframe(seed, frames)
	m.header = part10Header(m.file, "1.2.840.10008.1.2.1", frameSide, frameSide, 1)
	m.header = append(m.header, 0xE0, 0x7F, 0x10, 0x00, 'O', 'W', 0, 0)
	m.header = binary.LittleEndian.AppendUint32(m.header, uint32(frames*frameBytes))
	// All frames are cut from one stretch of noise at different places, so
	// that they cost a copy each, and no two are the same.
	rng := rand.New(rand.NewPCG(seed, 1))
	noise := make([]byte, 4*frameBytes)
	for i := 0; i < len(noise); i += 2 {
		binary.LittleEndian.PutUint16(noise[i:], uint16(1000+rng.IntN(40)))
	}
	frame := make([]byte, frameBytes)
	m.frame = func(i int) []byte {
		at := i * 7919 * 2 % (len(noise) - frameBytes)
		copy(frame, noise[at:])
		binary.LittleEndian.PutUint64(frame, uint64(i))
		return frame
	}
	m.size = int64(len(m.header)) + int64(frames)*frameBytes
	return m
}

const itemHeader = 8

// encapsulated has a fragment a frame, of different lengths, which do not
// compress. Nothing here decodes them.
func encapsulated(seed uint64, frames int) *multiframe {
	m := newMultiframe(seed, frames)
	m.header = part10Header(m.file, "1.2.840.10008.1.2.4.90", frameSide, frameSide, 1)
	m.header = append(m.header, 0xE0, 0x7F, 0x10, 0x00, 'O', 'B', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF)
	m.header = append(m.header, 0xFE, 0xFF, 0x00, 0xE0, 0, 0, 0, 0) // an empty offset table, PS3.5 A.4
	m.trailer = []byte{0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0}
	length := func(i int) int { return 400<<10 + i%100*1000 }
	frame := make([]byte, length(99))
	m.frame = func(i int) []byte {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed<<32|uint64(i))
		f := frame[:length(i)]
		rand.NewChaCha8(key).Read(f)
		return f
	}
	m.size = int64(len(m.header) + len(m.trailer))
	for i := range frames {
		m.size += int64(itemHeader + length(i))
	}
	return m
}

func newMultiframe(seed uint64, frames int) *multiframe {
	root := fmt.Sprintf("2.25.%d", seed+1<<41)
	return &multiframe{file: file{patient: fmt.Sprintf("STREAM%d", seed), study: root + ".1", series: root + ".2", instance: root + ".3", frames: frames}}
}

// reader gives the instance from its first byte to its last.
func (m *multiframe) reader() io.Reader {
	next := 0
	return &pieces{have: m.header, more: func() []byte {
		next++
		switch {
		case next > m.frames+1:
			return nil
		case next > m.frames:
			return m.trailer
		case m.trailer == nil:
			return m.frame(next - 1)
		}
		f := m.frame(next - 1)
		item := binary.LittleEndian.AppendUint32([]byte{0xFE, 0xFF, 0x00, 0xE0}, uint32(len(f)))
		return append(item, f...)
	}}
}

// pieces reads one piece after the other, until one is empty.
type pieces struct {
	have []byte
	more func() []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.have) == 0 {
		if p.have = p.more(); len(p.have) == 0 {
			return 0, io.EOF
		}
	}
	n := copy(b, p.have)
	p.have = p.have[n:]
	return n, nil
}

func (m *multiframe) url(n *node) string {
	return n.web + "/studies/" + m.study + "/series/" + m.series + "/instances/" + m.instance
}

// store sends the instance by STOW-RS as one request and returns its SHA-256.
func (m *multiframe) store(t *testing.T, n *node) string {
	t.Helper()
	const boundary = "streamed-e1f6"
	before := "\r\n--" + boundary + "\r\nContent-Type: application/dicom\r\n\r\n"
	after := "\r\n--" + boundary + "--\r\n"
	hash := sha256.New()
	body := io.MultiReader(strings.NewReader(before), io.TeeReader(m.reader(), hash), strings.NewReader(after))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.web+"/studies/"+m.study, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(before)) + m.size + int64(len(after))
	req.Header.Set("Content-Type", `multipart/related; type="application/dicom"; boundary=`+boundary)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("an instance of %d bytes was answered with %s %v: %.500s", m.size, resp.Status, err, answer)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// onePart reads an answer of one part without keeping it.
func onePart(t *testing.T, url, accept string, read func(io.Reader)) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		t.Fatalf("%s: %s %s", url, resp.Status, b)
	}
	_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	mr := multipart.NewReader(resp.Body, params["boundary"])
	p, err := mr.NextRawPart()
	if err != nil {
		t.Fatal(err)
	}
	read(p)
	if _, err := mr.NextRawPart(); err != io.EOF {
		t.Fatalf("after the only part: %v, want the end", err)
	}
}

// whole reads the instance back and returns its SHA-256.
func (m *multiframe) whole(t *testing.T, n *node) string {
	t.Helper()
	hash := sha256.New()
	onePart(t, m.url(n), `multipart/related; type="application/dicom"; transfer-syntax=*`, func(r io.Reader) {
		if _, err := io.Copy(hash, r); err != nil {
			t.Fatal(err)
		}
	})
	return hex.EncodeToString(hash.Sum(nil))
}

// serves one frame, counted from 1, and looks at what was read for it.
func (m *multiframe) servesFrame(t *testing.T, n *node, number int) {
	t.Helper()
	kind := `"application/octet-stream"`
	if m.trailer != nil {
		kind = `"image/jp2"`
	}
	before := readSoFar(t, n.cmd.Process.Pid)
	var got []byte
	onePart(t, fmt.Sprintf("%s/frames/%d", m.url(n), number), "multipart/related; type="+kind+"; transfer-syntax=*", func(r io.Reader) {
		var err error
		if got, err = io.ReadAll(io.LimitReader(r, 4<<20)); err != nil {
			t.Fatal(err)
		}
	})
	read := readSoFar(t, n.cmd.Process.Pid) - before
	if want := m.frame(number - 1); !bytes.Equal(got, want) {
		t.Errorf("frame %d has %d bytes that are not the %d sent", number, len(got), len(want))
	}
	if read > readMost {
		t.Errorf("to serve a frame of %d bytes %d bytes were read", len(got), read)
	}
	t.Logf("frame %d: %d bytes, %d read for it", number, len(got), read)
}

// readSoFar is how many bytes a process has read, from files or sockets, in
// the page cache or not (proc_pid_io(5)).
func readSoFar(t *testing.T, pid int) int64 {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/io", pid))) {
		if v, ok := strings.CutPrefix(line, "rchar:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("process %d has no rchar", pid)
	return 0
}

// small insists that a node has stayed small.
func (n *node) small(t *testing.T, during string) {
	t.Helper()
	peak, err := peakRSS(n.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after %s: at most %d MiB of memory so far", during, peak>>20)
	if peak > memoryMost && !soaking() { // the race detector takes some times as much
		t.Errorf("%s took %d MiB of memory, at most %d are right", during, peak>>20, memoryMost>>20)
	}
}

// An instance of 2 GiB passes through a node in little memory, and one of its
// frames is read without the others.
func TestLargeInstanceIsStreamed(t *testing.T) {
	const frames = 4096
	room(t, 6<<30)
	n := region(t, "RAA")[0]
	m := native(1, frames)
	sent := m.store(t, n)
	n.small(t, "ingest of 2 GiB")
	m.servesFrame(t, n, 2049)
	m.servesFrame(t, n, frames)
	n.small(t, "serving frames")
	if got := m.whole(t, n); got != sent {
		t.Errorf("what is served has SHA-256 %s, what was sent %s", got, sent)
	}
	n.small(t, "serving all of it")
}

// So does one whose frames are compressed and of different lengths.
func TestLargeEncapsulatedInstanceIsStreamed(t *testing.T) {
	const frames = 450 // 200 MiB
	n := region(t, "RAA")[0]
	m := encapsulated(2, frames)
	sent := m.store(t, n)
	for _, number := range []int{1, 226, frames} {
		m.servesFrame(t, n, number)
	}
	if got := m.whole(t, n); got != sent {
		t.Errorf("what is served has SHA-256 %s, what was sent %s", got, sent)
	}
	n.small(t, "ingest and serving of 200 MiB")
}

// room skips a test that needs more disk than there is.
func room(t *testing.T, bytes int64) {
	t.Helper()
	table := strings.Fields(must(t, "df", "-Pk", t.TempDir()))
	i := slices.Index(table, "Capacity") // the header's, before "Mounted on"
	if i < 0 || len(table) < i+7 {
		t.Fatalf("df prints %q", table)
	}
	kib, err := strconv.ParseInt(table[i+6], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if free := kib << 10; free < bytes {
		say := t.Skipf
		if os.Getenv("CI") == "true" {
			say = t.Fatalf
		}
		say("%d MiB are free in %s and the test needs %d; TMPDIR may name another folder", free>>20, os.TempDir(), bytes>>20)
	}
}
