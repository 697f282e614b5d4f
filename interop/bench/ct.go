package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomtest"
)

// A model is the instance that all others are made from: its header is kept
// but for UIDs, names and numbers, its pixels are kept but for noise.
type model struct {
	file   []byte
	pixels dicom.Range
	from   string
}

// columns is the width of the made-up image; a real one brings its own.
const columns = 512

// openModel reads a CT of 16 bits in Explicit VR Little Endian, or makes one up.
func openModel(path string) (model, error) {
	b, err := os.ReadFile(path)
	from := filepath.Base(path)
	if errors.Is(err, os.ErrNotExist) {
		b, from = phantom(), "a made-up disc (there is no "+path+")"
	} else if err != nil {
		return model{}, err
	}
	in, err := dicom.Scan(bytes.NewReader(b), dicom.DefaultLimits(), dicom.Handler{})
	if err != nil {
		return model{}, fmt.Errorf("%s: %w", path, err)
	}
	if in.Pixel == nil || in.Pixel.Encapsulated || in.UIDs.TransferSyntax != dicom.ExplicitVRLittleEndian {
		return model{}, fmt.Errorf("%s: not native pixels in Explicit VR Little Endian", path)
	}
	return model{b, in.Pixel.Value, from}, nil
}

// phantom is a noisy disc in air.
func phantom() []byte {
	noise := rand.New(rand.NewPCG(1, 1))
	pixels := make([]byte, columns*columns*2)
	for i := range columns * columns {
		x, y := i%columns-columns/2, i/columns-columns/2
		if x*x+y*y < 200*200 {
			binary.LittleEndian.PutUint16(pixels[2*i:], uint16(1040+noise.NormFloat64()*12))
		}
	}
	uid := func(n int) string { return fmt.Sprintf("2.25.1%030d", n) }
	b := dicomtest.Instance{Study: uid(1), Series: uid(2), SOP: uid(3), PatientID: "B0000000", Name: "Bench^Mark", Modality: "CT", Number: 1}.Bytes()
	for _, e := range []struct{ elem, value uint16 }{{0x0010, columns}, {0x0011, columns}, {0x0100, 16}, {0x0101, 12}, {0x0102, 11}, {0x0103, 0}} {
		b = append(b, 0x28, 0x00, byte(e.elem), byte(e.elem>>8), 'U', 'S', 2, 0)
		b = binary.LittleEndian.AppendUint16(b, e.value)
	}
	b = append(b, 0xE0, 0x7F, 0x10, 0x00, 'O', 'W', 0, 0)
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(pixels))), pixels...)
}

// slice is instance i of study s: no two have the same UIDs or pixels.
func (m model) slice(s, i int) []byte { return m.pixelsOf(s, i, m.header(s, i, patient(s))) }

// renamed is the slice under another patient's name and, since the old UID
// stands for the old bytes, with a SOP Instance UID of its own.
func (m model) renamed(s, i int) []byte {
	return m.pixelsOf(s, i, m.header(s, i+renumber, "Corrected^"+patient(s)))
}

const renumber = 50000

func (m model) pixelsOf(s, i int, header []byte) []byte {
	noise := rand.NewPCG(uint64(s), uint64(i))
	out := make([]byte, 0, len(header)+int(m.pixels.Len)+len(m.file)-int(m.pixels.End()))
	out = append(out, header...)
	pixels := m.file[m.pixels.Off:m.pixels.End()]
	// Another slice shows another part of the noise: the picture is moved, and
	// one sample in four is off by one, which the noise of a CT hides.
	at := int(noise.Uint64()%uint64(len(pixels)/2)) * 2
	out = append(append(out, pixels[at:]...), pixels[:at]...)
	moved := out[len(header):]
	for o := 0; o+64 <= len(moved); o += 64 {
		bits := noise.Uint64()
		for k := 0; k < 64; k += 2 {
			v := binary.LittleEndian.Uint16(moved[o+k:])
			if bits&3 == 3 && int16(v) > -1000 {
				binary.LittleEndian.PutUint16(moved[o+k:], v^1)
			}
			bits >>= 2
		}
	}
	return append(out, m.file[m.pixels.End():]...)
}

// header is that of the model with other values in it.
func (m model) header(s, i int, name string) []byte {
	h := bytes.Clone(m.file[:m.pixels.Off])
	for tag, n := range map[dicom.Tag]string{
		dicom.TagStudyInstanceUID: fmt.Sprintf("1%08d", s), dicom.TagSeriesInstanceUID: fmt.Sprintf("2%08d", s),
		dicom.TagSOPInstanceUID: fmt.Sprintf("3%08d%08d", s, i), 0x00020003: fmt.Sprintf("3%08d%08d", s, i),
	} {
		// Of the length that it has, so that no other length changes.
		h = replace(h, tag, "UI", func(old int) string {
			return "2.25." + n + strings.Repeat("0", max(0, old-5-len(n)))
		})
	}
	h = replace(h, dicom.TagPatientName, "PN", func(int) string { return even(name) })
	h = replace(h, dicom.TagPatientID, "LO", func(int) string { return even(fmt.Sprintf("B%07d", s)) })
	return replace(h, dicom.TagInstanceNumber, "IS", func(int) string { return even(fmt.Sprint(i + 1)) })
}

// patient is a name of study s's own: to look for namesakes costs a node time.
func patient(s int) string {
	name := ""
	for range 6 {
		name += string(rune('a' + s%26))
		s /= 26
	}
	return "Bench" + name + "^" + name
}

func even(s string) string {
	if len(s)%2 == 1 {
		s += " "
	}
	return s
}

// replace gives the first element of a tag another value. Its VR has a length
// of two bytes (PS3.5 7.1.2).
func replace(h []byte, tag dicom.Tag, vr string, value func(old int) string) []byte {
	want := binary.LittleEndian.AppendUint16(nil, uint16(tag>>16))
	want = append(binary.LittleEndian.AppendUint16(want, uint16(tag)), vr...)
	at := bytes.Index(h, want)
	if at < 0 {
		return h
	}
	at += len(want)
	old := int(binary.LittleEndian.Uint16(h[at:]))
	v := value(old)
	out := append(bytes.Clone(h[:at]), byte(len(v)), byte(len(v)>>8))
	return append(append(out, v...), h[at+2+old:]...)
}

// writeMultiframe writes an instance of n frames, each as the pixels of a slice
// of a study of its own.
func (m model) writeMultiframe(path string, s, n int) (study, error) {
	st := study{dir: filepath.Dir(path), files: []string{path}}
	h := m.header(s, 0, patient(s))
	// (0028,0008) comes before (0028,0010), which every image has.
	rows := bytes.Index(h, []byte{0x28, 0x00, 0x10, 0x00, 'U', 'S'})
	if rows < 0 {
		return st, errors.New("the model has no Rows")
	}
	frames := even(fmt.Sprint(n))
	number := append([]byte{0x28, 0x00, 0x08, 0x00, 'I', 'S', byte(len(frames)), 0}, frames...)
	h = append(append(bytes.Clone(h[:rows]), number...), h[rows:]...)
	binary.LittleEndian.PutUint32(h[len(h)-4:], uint32(int64(n)*m.pixels.Len))
	if err := os.MkdirAll(st.dir, 0o700); err != nil {
		return st, err
	}
	f, err := os.Create(path)
	if err != nil {
		return st, err
	}
	defer f.Close()
	pieces := [][]byte{h}
	for i := 0; ; i++ {
		for _, b := range pieces {
			k, err := f.Write(b)
			if st.bytes += int64(k); err != nil {
				return st, err
			}
		}
		if i == n {
			return st, f.Close()
		}
		pieces = [][]byte{m.pixelsOf(s, i, nil)[:m.pixels.Len]}
	}
}

// fragment is how many bytes a frame has that does not compress.
const fragment = 256 << 10

// encapsulated is an instance whose pixels do not compress any more: one
// fragment of random bytes, as a coder's output looks from outside.
func (m model) encapsulated(s, i int) []byte {
	key := [32]byte{}
	binary.LittleEndian.PutUint64(key[:], uint64(s)<<32|uint64(i))
	random := make([]byte, fragment)
	rand.NewChaCha8(key).Read(random)
	h := m.header(s, i, patient(s))
	cut := bytes.LastIndex(h, []byte{0xE0, 0x7F, 0x10, 0x00, 'O', 'W'})
	h = replace(h[:cut], 0x00020010, "UI", func(old int) string { return "1.2.840.10008.1.2.4.90" })
	// The meta group has grown by what the longer UID is longer.
	h = replace(h, 0x00020000, "UL", func(int) string {
		meta := binary.LittleEndian.Uint32(m.file[140:])
		return string(binary.LittleEndian.AppendUint32(nil, meta+uint32(len("1.2.840.10008.1.2.4.90")-len("1.2.840.10008.1.2.1\x00"))))
	})
	h = append(h, 0xE0, 0x7F, 0x10, 0x00, 'O', 'B', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF) // undefined length, PS3.5 A.4
	h = append(h, 0xFE, 0xFF, 0x00, 0xE0, 0, 0, 0, 0)                             // empty offset table
	h = append(h, 0xFE, 0xFF, 0x00, 0xE0)
	h = append(binary.LittleEndian.AppendUint32(h, fragment), random...)
	return append(h, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0)
}

// smaller is how many times smaller zstd makes it, at its default level.
func smaller(b []byte) float64 {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer e.Close()
	return float64(len(b)) / float64(len(e.EncodeAll(b, nil)))
}

// uidsOf reads the UIDs of a file.
func uidsOf(path string) (dicom.UIDs, error) {
	f, err := os.Open(path)
	if err != nil {
		return dicom.UIDs{}, err
	}
	defer f.Close()
	enough := errors.New("known")
	var uids dicom.UIDs
	_, err = dicom.Scan(f, dicom.DefaultLimits(), dicom.Handler{Begin: func(u dicom.UIDs) error { uids = u; return enough }})
	if !errors.Is(err, enough) {
		return uids, fmt.Errorf("%s: no UIDs: %w", path, err)
	}
	return uids, nil
}

func studyUID(path string) (string, error) {
	uids, err := uidsOf(path)
	return string(uids.Study), err
}

// A study is a folder of instances.
type study struct {
	dir   string
	uid   string // Study Instance UID; empty where nobody asks for it
	files []string
	bytes int64
}

// writeStudies writes studies of n instances each, synced, so that nobody has
// to wait for them later.
func writeStudies(dir string, from, count, n int, make func(s, i int) []byte) ([]study, error) {
	var all []study
	for s := from; s < from+count; s++ {
		st := study{dir: filepath.Join(dir, fmt.Sprintf("study-%04d", s))}
		if err := os.MkdirAll(st.dir, 0o700); err != nil {
			return nil, err
		}
		for i := range n {
			b := make(s, i)
			name := filepath.Join(st.dir, fmt.Sprintf("%05d.dcm", i))
			if err := os.WriteFile(name, b, 0o600); err != nil {
				return nil, err
			}
			st.files, st.bytes = append(st.files, name), st.bytes+int64(len(b))
		}
		all = append(all, st)
	}
	return all, nil
}

// readAll is a file in memory.
func readAll(path string, buf *bytes.Buffer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf.Reset()
	_, err = io.Copy(buf, f)
	return err
}
