package dicom

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	oracle "github.com/suyashkumar/dicom"
)

const realFiles = "../../shared/testdata/dicom"

// realFile is a line of the real files' manifest.
type realFile struct {
	path, syntax, patient, study, instance, frames string
	size                                           int64
}

func readReal(t *testing.T) []realFile {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(realFiles, "MANIFEST.tsv"))
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("real DICOM files are not here: " + err.Error())
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	column := map[string]int{}
	for i, name := range strings.Split(lines[0], "\t") {
		column[name] = i
	}
	var out []realFile
	for _, l := range lines[1:] {
		c := strings.Split(l, "\t")
		size, err := strconv.ParseInt(c[column["bytes"]], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, realFile{
			path: c[column["path"]], syntax: c[column["transfer_syntax"]], patient: c[column["patient_id"]],
			study: c[column["study_uid"]], instance: c[column["sop_instance_uid"]], frames: c[column["frames"]], size: size,
		})
	}
	return out
}

// named says which file an error is about.
type named struct {
	testing.TB
	path string
}

func (n named) Errorf(format string, args ...any) {
	n.Helper()
	n.TB.Errorf("%s: "+format, append([]any{n.path}, args...)...)
}

// brokenFiles is what becomes of the files that are meant to be refused or survived.
var brokenFiles = map[string]string{
	"3gb-bulk-data-truncated.dcm":                "malformed", // and its SOP Instance UID has letters
	"ExplVR_BigEndNoMeta.dcm":                    "fine",
	"ExplVR_LitEndNoMeta.dcm":                    "fine",
	"GH179B.dcm":                                 "malformed",
	"GH340.dcm":                                  "missing StudyInstanceUID",
	"GH364.dcm":                                  "malformed",
	"GH626.dcm":                                  "malformed",
	"JLSL_RGB_ILV0.dcm":                          "missing StudyInstanceUID",
	"JLSL_RGB_ILV2.dcm":                          "missing StudyInstanceUID",
	"JLSN_RGB_ILV0.dcm":                          "missing StudyInstanceUID",
	"JPEGLosslessP14SV1_1s_1f_u_16_16.dcm":       "missing StudyInstanceUID",
	"JPEGLossless_1s_1f_i_16_16_bad.dcm":         "fine", // its boundaries are sound
	"MR_truncated.dcm":                           "truncated",
	"SC_rgb_jpeg.dcm":                            "fine",
	"chrSQEncoding1.dcm":                         "missing StudyInstanceUID",
	"empty_charset_LEI.dcm":                      "missing StudyInstanceUID",
	"explicit_VR-UN.dcm":                         "fine",
	"invalid-vr-length-test.dcm":                 "fine",
	"meta_missing_tsyntax.dcm":                   "missing StudyInstanceUID",
	"nested_priv_SQ.dcm":                         "missing StudyInstanceUID",
	"no_meta_group_length.dcm":                   "missing StudyInstanceUID",
	"no_preamble_dicm_in_data.dcm":               "not DICOM",
	"priv_SQ.dcm":                                "missing StudyInstanceUID",
	"rtplan_truncated.dcm":                       "truncated",
	"test_files_dicomdirtests_DICOMDIR-nooffset": "directory",
}

func TestRealFiles(t *testing.T) {
	files := readReal(t)
	var accepted, broken int
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(realFiles, f.path))
		if err != nil {
			t.Fatal(err)
		}
		s, err := scanBytes(named{t, f.path}, b, Limits{})
		want := "fine"
		base, isBroken := strings.CutPrefix(f.path, "broken/")
		switch {
		case isBroken:
			broken++
			want = brokenFiles[base]
		case strings.Contains(f.path, "DICOMDIR"):
			want = "directory"
		case f.study == "" && f.instance != "":
			want = "missing StudyInstanceUID"
		}
		if kind(err) != want {
			t.Errorf("%s: %v, want %s", f.path, err, want)
		}
		if err != nil {
			continue
		}
		accepted++
		if string(s.Study) != f.study && f.study != "" || string(s.Instance.Instance) != f.instance {
			t.Errorf("%s: UIDs differ from the manifest's", f.path)
		}
		if f.syntax != "" && string(s.TransferSyntax) != f.syntax {
			t.Errorf("%s: transfer syntax %s, manifest says %s", f.path, s.TransferSyntax, f.syntax)
		}
		if got := s.Data.String(TagPatientID); f.patient != "" && got != f.patient {
			t.Errorf("%s: Patient ID differs from the manifest's", f.path)
		}
		if n := s.Data.String(TagNumberOfFrames); f.frames != "" && n != f.frames {
			t.Errorf("%s: %s frames, manifest says %s", f.path, n, f.frames)
		}
		if p := s.Pixel; p != nil && p.Value.Len > 0 {
			if len(p.Frames) != p.NumberOfFrames {
				t.Errorf("%s: %d of %d frames found", f.path, len(p.Frames), p.NumberOfFrames)
			}
			checkFrames(t, f.path, s)
		}
		// What is kept for queries survives its encoding.
		again, err := Decode(s.Data.Encode(), Limits{})
		if err != nil {
			t.Errorf("%s: encoded attributes: %v", f.path, err)
		} else if !reflect.DeepEqual(meaning(again), meaning(withoutBulk(s.Data))) {
			t.Errorf("%s: encoded attributes differ", f.path)
		}
	}
	if accepted < 480 || broken != len(brokenFiles) {
		t.Errorf("%d files accepted, %d broken ones", accepted, broken)
	}
	t.Logf("%d of %d files accepted", accepted, len(files))
}

// withoutBulk is what Encode can encode.
func withoutBulk(d Dataset) Dataset {
	out := Dataset{charset: d.charset}
	for _, e := range d.Elements {
		if e.Bulk != nil || e.Tag.Element() == 0 {
			continue
		}
		if e.Items != nil {
			items := make([]Dataset, len(e.Items))
			for i := range items {
				items[i] = withoutBulk(e.Items[i])
			}
			e.Items = items
		}
		out.Elements = append(out.Elements, e)
	}
	return out
}

// checkFrames checks that frames look like frames: the size that the
// attributes ask for, or the mark that the codec begins with.
func checkFrames(t *testing.T, path string, s *scanned) {
	t.Helper()
	rows, _ := s.Data.Int(TagRows)
	columns, _ := s.Data.Int(TagColumns)
	samples, _ := s.Data.Int(TagSamplesPerPixel)
	depth, _ := s.Data.Int(TagBitsAllocated)
	size := (rows*columns*samples*depth + 7) / 8
	if s.Data.String(TagPhotometricInterpretation) == "YBR_FULL_422" {
		size = size / 3 * 2
	}
	switch path {
	case "healthcare-dicom-dicomweb-adapter/example3.dcm", "fo-dicom/genFile.dcm":
		return // whoever made these for a test put no JPEG into the fragment
	}
	for i := range s.Pixel.Frames {
		frame := s.frame(t, i)
		switch {
		case !s.Pixel.Encapsulated && len(frame) != size:
			t.Errorf("%s: frame %d has %d bytes, attributes ask for %d", path, i, len(frame), size)
		case s.Pixel.Encapsulated && marked(s.TransferSyntax) && !beginsCodestream([]byte(frame), s.TransferSyntax):
			t.Errorf("%s: frame %d begins with % x", path, i, frame[:8])
		}
	}
}

// TestAgainstOracle compares all plain string values with suyashkumar/dicom's,
// wherever that can read the file.
func TestAgainstOracle(t *testing.T) {
	files := readReal(t)
	var parsed, panicked, refused, values int
	for _, f := range files {
		if strings.HasPrefix(f.path, "broken/") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(realFiles, f.path))
		if err != nil {
			t.Fatal(err)
		}
		i, err := Scan(bytes.NewReader(b), Limits{}, Handler{})
		if err != nil {
			continue
		}
		their, err := parseWithOracle(b)
		switch {
		case err == nil:
			parsed++
		case strings.HasPrefix(err.Error(), "panic"):
			panicked++
			continue
		default:
			refused++
			continue
		}
		all := Dataset{Elements: append(append([]Element(nil), i.Meta.Elements...), i.Data.Elements...)}
		n, differences := compare(all, their.Elements)
		values += n
		for _, d := range differences {
			t.Errorf("%s: %s", f.path, d)
		}
	}
	if parsed < 450 || values < 50000 {
		t.Errorf("only %d files and %d values compared", parsed, values)
	}
	t.Logf("%d values of %d files agree; the oracle refuses %d and panics on %d", values, parsed, refused, panicked)
}

func parseWithOracle(b []byte) (d oracle.Dataset, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v %s", r, debug.Stack())
		}
	}()
	return oracle.Parse(bytes.NewReader(b), int64(len(b)), nil, oracle.SkipPixelData())
}

// compare counts equal plain string values and lists the others.
func compare(ours Dataset, theirs []*oracle.Element) (n int, differences []string) {
	seen := map[Tag]int{}
	for _, e := range theirs {
		tag := Tag(e.Tag.Uint32())
		seen[tag]++
		our, ok := ours.nth(tag, seen[tag])
		if isPixels(tag) {
			continue
		}
		if !ok {
			differences = append(differences, fmt.Sprintf("%v is only theirs", tag))
			continue
		}
		switch v := e.Value.GetValue().(type) {
		case []*oracle.SequenceItemValue:
			if our.VR != SQ || len(our.Items) != len(v) {
				differences = append(differences, fmt.Sprintf("%v has %d items, theirs %d", tag, len(our.Items), len(v)))
				continue
			}
			for i := range v {
				m, d := compare(our.Items[i], v[i].GetValue().([]*oracle.Element))
				n += m
				differences = append(differences, d...)
			}
		case []string:
			if our.Bulk != nil || !plain(our.Value) || !our.VR.IsString() {
				continue
			}
			want := trimAll(strings.Split(strings.Join(v, `\`), `\`))
			got := trimAll(strings.Split(strings.Join(ours.Text(our), `\`), `\`))
			if !reflect.DeepEqual(got, want) {
				differences = append(differences, fmt.Sprintf("%v is %q, theirs %q", tag, got, want))
				continue
			}
			n += len(got)
		case []int:
			got := our.Ints()
			if our.VR == AT { // two numbers there
				pairs := make([]int64, 0, 2*len(got))
				for _, n := range got {
					pairs = append(pairs, n>>16, n&0xFFFF)
				}
				got = pairs
			}
			if len(got) == 0 && len(v) == 0 || our.VR == UN || our.VR == OW {
				continue
			}
			for i := range v {
				same := len(got) == len(v) && int64(v[i]) == got[i]
				if our.VR == SS && !same { // which of US and SS is meant, Pixel Representation says
					same = len(got) == len(v) && int64(int16(v[i])) == got[i]
				}
				if !same {
					differences = append(differences, fmt.Sprintf("%v is %v, theirs %v", tag, got, v))
					break
				}
				n++
			}
		}
	}
	return n, differences
}

func (d Dataset) nth(t Tag, n int) (Element, bool) {
	for _, e := range d.Elements {
		if e.Tag == t {
			if n--; n == 0 {
				return e, true
			}
		}
	}
	return Element{}, false
}

// plain is text that every character set reads alike.
func plain(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf || c == 0x1B || c == '~' {
			return false
		}
	}
	return true
}

func trimAll(s []string) []string {
	for i := range s {
		s[i] = strings.Trim(s[i], " \x00")
	}
	return s
}

func TestRealFilesInflateAndRangesHold(t *testing.T) {
	for _, f := range readReal(t) {
		if !UID(f.syntax).Deflated() {
			continue
		}
		file, err := os.Open(filepath.Join(realFiles, f.path))
		if err != nil {
			t.Fatal(err)
		}
		flat, err := io.ReadAll(Inflate(file, Limits{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		as, err := Scan(bytes.NewReader(b), Limits{}, Handler{})
		if err != nil {
			t.Fatal(err)
		}
		is, err := Scan(bytes.NewReader(flat), Limits{}, Handler{})
		if err != nil {
			t.Fatal(err)
		}
		if !as.Deflated || is.Deflated || !reflect.DeepEqual(as.Pixel, is.Pixel) || !reflect.DeepEqual(as.Data, is.Data) || as.HeaderLen != is.HeaderLen {
			t.Errorf("%s: the deflated and the inflated instance differ", f.path)
		}
	}
}
