package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// need returns the path of a tool, or ends the test: skipped where a person
// runs it, failed where CI does.
func need(t testing.TB, tool, path string, err error) string {
	t.Helper()
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: %v", tool, err)
	}
	t.Skipf("%s is missing (%v); as root, interop/setup installs it", tool, err)
	return ""
}

func command(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	return need(t, name, path, err)
}

// dicomwebPlugin is Orthanc's DICOMweb plugin as Debian installs it.
func dicomwebPlugin(t testing.TB) string {
	t.Helper()
	for _, pattern := range []string{"/usr/share/orthanc/plugins/libOrthancDicomWeb.so", "/usr/lib/orthanc/libOrthancDicomWeb.so*", "/usr/lib/*/orthanc/libOrthancDicomWeb.so*"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	return need(t, "Orthanc's DICOMweb plugin", "", os.ErrNotExist)
}

// dicomwebClient is the script that drives dicomweb-client.
func dicomwebClient(t testing.TB) (node, script string) {
	t.Helper()
	node = command(t, "node")
	_, err := os.Stat("js/node_modules/dicomweb-client/package.json")
	return node, need(t, "dicomweb-client", "js/client.mjs", err)
}

// pydicomPython is a Python that has pydicom: Debian's own, not one that a
// person may have put before it.
func pydicomPython(t testing.TB) string {
	t.Helper()
	const python = "/usr/bin/python3"
	out, err := exec.Command(python, "-c", "import pydicom").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return need(t, "pydicom", python, err)
}

// bigSet is the large collection of real files that a machine may have beside
// the repository.
func bigSet(t testing.TB) string {
	t.Helper()
	const dir = "../../shared/testdata/dicom"
	_, err := os.Stat(filepath.Join(dir, "MANIFEST.tsv"))
	if err != nil && os.Getenv("CI") != "true" {
		t.Skipf("there is no %s; the bundled files are tested by the other tests", dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
