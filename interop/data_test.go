package interop

import (
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// demoPatient is the patient of the bundled files who has priors.
const demoPatient = "98890234"

// file is one DICOM file and what others than us read in it.
type file struct {
	path                    string
	sha256                  string
	patient                 string
	study, series, instance string
	frames                  int
}

// readManifest reads a tab-separated table of files; the paths in it are
// relative to its folder. Columns it does not have are left empty.
func readManifest(t testing.TB, path string) []file {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes = '\t', true
	rows, err := r.ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("%s: %d rows, %v", path, len(rows), err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	var files []file
	for _, row := range rows[1:] {
		at := func(name string) string {
			if i, ok := column[name]; ok {
				return row[i]
			}
			return ""
		}
		frames, _ := strconv.Atoi(at("frames"))
		files = append(files, file{
			path: filepath.Join(filepath.Dir(path), filepath.FromSlash(at("path"))), sha256: at("sha256"), patient: at("patient_id"),
			study: at("study_uid"), series: at("series_uid"), instance: at("sop_instance_uid"), frames: frames,
		})
	}
	return files
}

const bundled = "../testdata/demo"

func bundledFiles(t testing.TB) []file {
	t.Helper()
	return readManifest(t, "../testdata/MANIFEST.tsv")
}

// priorsOf are the bundled files of one patient.
func priorsOf(t testing.TB, patient string) []file {
	t.Helper()
	files := slices.DeleteFunc(bundledFiles(t), func(f file) bool { return f.patient != patient })
	if len(files) == 0 {
		t.Fatalf("no bundled file is of patient %s", patient)
	}
	return files
}

// byStudy groups files.
func byStudy(files []file) map[string][]file {
	studies := map[string][]file{}
	for _, f := range files {
		studies[f.study] = append(studies[f.study], f)
	}
	return studies
}

func paths(files []file) []string {
	var p []string
	for _, f := range files {
		p = append(p, f.path)
	}
	return p
}

func sums(files []file) []string {
	var s []string
	for _, f := range files {
		s = append(s, f.sha256)
	}
	return s
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// sameSums holds the bytes that arrived against those that were sent: each
// once, none beside them.
func sameSums(t testing.TB, got map[string]int, want []string) {
	t.Helper()
	missing := 0
	left := map[string]int{}
	for s, n := range got {
		left[s] = n
	}
	for _, s := range want {
		if left[s] == 0 {
			missing++
			continue
		}
		if left[s]--; left[s] == 0 {
			delete(left, s)
		}
	}
	if missing > 0 || len(left) > 0 {
		t.Fatalf("of %d instances %d did not arrive byte for byte, and %d others arrived that were not sent", len(want), missing, len(left))
	}
}

// Every bundled file is a known, unchanged copy of a file whose licence lies beside it.
func TestBundledFilesAreWhatTheManifestSays(t *testing.T) {
	onDisk := map[string]bool{}
	err := filepath.WalkDir(bundled, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			onDisk[filepath.ToSlash(path)] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range bundledFiles(t) {
		b, err := os.ReadFile(f.path)
		if err != nil {
			t.Error(err)
			continue
		}
		if sum(b) != f.sha256 {
			t.Errorf("%s is not the file that the manifest means", f.path)
		}
		delete(onDisk, filepath.ToSlash(f.path))
	}
	for path := range onDisk {
		t.Errorf("%s has no line in the manifest", path)
	}
	table, err := os.ReadFile("../testdata/MANIFEST.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(table)), "\n")[1:] {
		licence := strings.Split(line, "\t")[3]
		if b, err := os.ReadFile(filepath.Join("../testdata", licence)); err != nil || len(b) == 0 {
			t.Errorf("licence %s: %v", licence, err)
		}
	}
}

// The demo needs a patient with a study for each of three trusts and one more that arrives.
func TestBundledPatientHasPriors(t *testing.T) {
	if n := len(byStudy(priorsOf(t, demoPatient))); n < 4 {
		t.Fatalf("patient %s has %d studies, want 4", demoPatient, n)
	}
}
