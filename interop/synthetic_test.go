package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// A study that is large enough to be interrupted. The bundled files are not.

// synthesize writes a study of one series into dir: instances of size random
// bytes of pixels each, whose bytes and UIDs depend on the seed alone.
func synthesize(t testing.TB, dir string, seed uint64, instances, size int) []file {
	t.Helper()
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	pixels := rand.NewChaCha8(key)
	// 2.25 is the root for UIDs that nobody registers (PS3.5 B.2).
	root := fmt.Sprintf("2.25.%d", seed+1<<40)
	var files []file
	for i := range instances {
		f := file{path: filepath.Join(dir, fmt.Sprintf("%d-%d.dcm", seed, i)), patient: fmt.Sprintf("SYNTH%d", seed),
			study: root + ".1", series: root + ".2", instance: fmt.Sprintf("%s.3.%d", root, i+1), frames: 1}
		const columns = 256
		rows := size / (2 * columns)
		raw := make([]byte, rows*columns*2)
		if _, err := pixels.Read(raw); err != nil {
			t.Fatal(err)
		}
		b := part10(f, rows, columns, i+1, raw)
		f.sha256 = sum(b)
		if err := os.WriteFile(f.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// part10 is a secondary capture image in Explicit VR Little Endian (PS3.10 7, PS3.5 7.1.2).
func part10(f file, rows, columns, number int, pixels []byte) []byte {
	return append(part10Header(f, "1.2.840.10008.1.2.1", rows, columns, number), element(0x7fe0, 0x0010, "OW", pixels)...)
}

// part10Header is all that comes before the pixel data.
func part10Header(f file, syntax string, rows, columns, number int) []byte {
	class := "1.2.840.10008.5.1.4.1.1.7"
	if f.frames > 1 {
		class = "1.2.840.10008.5.1.4.1.1.7.3" // multi-frame grayscale word
	}
	meta := element(0x0002, 0x0001, "OB", []byte{0, 1})
	meta = append(meta, element(0x0002, 0x0002, "UI", class)...)
	meta = append(meta, element(0x0002, 0x0003, "UI", f.instance)...)
	meta = append(meta, element(0x0002, 0x0010, "UI", syntax)...)
	meta = append(meta, element(0x0002, 0x0012, "UI", "2.25.1")...)
	var b bytes.Buffer
	b.Write(make([]byte, 128))
	b.WriteString("DICM")
	b.Write(element(0x0002, 0x0000, "UL", binary.LittleEndian.AppendUint32(nil, uint32(len(meta)))))
	b.Write(meta)
	for _, e := range []struct {
		group, elem uint16
		vr          string
		value       any
	}{
		{0x0008, 0x0016, "UI", class},
		{0x0008, 0x0018, "UI", f.instance},
		{0x0008, 0x0020, "DA", "20240301"},
		{0x0008, 0x0030, "TM", "101500"},
		{0x0008, 0x0060, "CS", "OT"},
		{0x0008, 0x0064, "CS", "SYN"},
		{0x0010, 0x0010, "PN", "Synthetic^" + f.patient},
		{0x0010, 0x0020, "LO", f.patient},
		{0x0010, 0x0030, "DA", "19700101"},
		{0x0010, 0x0040, "CS", "O"},
		{0x0020, 0x000d, "UI", f.study},
		{0x0020, 0x000e, "UI", f.series},
		{0x0020, 0x0010, "SH", "1"},
		{0x0020, 0x0011, "IS", "1"},
		{0x0020, 0x0013, "IS", fmt.Sprint(number)},
		{0x0028, 0x0002, "US", uint16(1)},
		{0x0028, 0x0004, "CS", "MONOCHROME2"},
		{0x0028, 0x0008, "IS", fmt.Sprint(max(f.frames, 1))},
		{0x0028, 0x0010, "US", uint16(rows)},
		{0x0028, 0x0011, "US", uint16(columns)},
		{0x0028, 0x0100, "US", uint16(16)},
		{0x0028, 0x0101, "US", uint16(16)},
		{0x0028, 0x0102, "US", uint16(15)},
		{0x0028, 0x0103, "US", uint16(0)},
	} {
		b.Write(element(e.group, e.elem, e.vr, e.value))
	}
	return b.Bytes()
}

func element(group, elem uint16, vr string, value any) []byte {
	var v []byte
	switch x := value.(type) {
	case string:
		v = []byte(x)
	case uint16:
		v = binary.LittleEndian.AppendUint16(nil, x)
	case []byte:
		v = x
	}
	if len(v)%2 == 1 {
		pad := byte(' ')
		if vr == "UI" {
			pad = 0
		}
		v = append(v, pad)
	}
	b := binary.LittleEndian.AppendUint16(nil, group)
	b = binary.LittleEndian.AppendUint16(b, elem)
	b = append(b, vr...)
	if vr == "OB" || vr == "OW" {
		b = append(b, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
	} else {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(v)))
	}
	return append(b, v...)
}

// Others read what the tests made up.
func TestSyntheticStudiesAreDICOM(t *testing.T) {
	python := pydicomPython(t)
	files := synthesize(t, t.TempDir(), 7, 2, 4<<10)
	for _, f := range files {
		got := must(t, python, "-c", `import sys, pydicom
d = pydicom.dcmread(sys.argv[1])
print(d.StudyInstanceUID, d.SeriesInstanceUID, d.SOPInstanceUID, d.PatientID, d.Rows * d.Columns * 2 == len(d.PixelData))`, f.path)
		if want := fmt.Sprintf("%s %s %s %s True\n", f.study, f.series, f.instance, f.patient); got != want {
			t.Errorf("pydicom reads %q, want %q", got, want)
		}
	}
}
