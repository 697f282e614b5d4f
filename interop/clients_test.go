package interop

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Clients of other makes work with a node as they do with Orthanc
// (TestHarnessAgainstOrthanc), also where the studies are at another trust.

func TestCurlReadsAndStores(t *testing.T) {
	members := region(t, "RAA", "RBB")
	a, b := members[0], members[1]
	files := priorsOf(t, demoPatient)
	curlStores(t, b.web, files)
	for uid, files := range byStudy(files) {
		a.knows(t, uid, len(files))
	}
	t.Run("where they were stored", func(t *testing.T) { curlReads(t, b.web, demoPatient) })
	t.Run("from another trust", func(t *testing.T) { curlReads(t, a.web, demoPatient) })
	t.Run("stored again", func(t *testing.T) { curlStores(t, b.web, files) })
}

func TestDICOMwebClientReadsAndStores(t *testing.T) {
	dicomwebClient(t)
	members := region(t, "RAA", "RBB")
	a, b := members[0], members[1]
	files := priorsOf(t, demoPatient)
	clientStores(t, b.web, files)
	for uid, files := range byStudy(files) {
		a.knows(t, uid, len(files))
	}
	t.Run("from another trust", func(t *testing.T) { clientReads(t, a.web, demoPatient) })
	t.Run("where they were stored", func(t *testing.T) { clientReads(t, b.web, demoPatient) })
}

func TestOrthancRetrievesAndStores(t *testing.T) {
	command(t, "Orthanc")
	members := region(t, "RAA", "RBB")
	a, b := members[0], members[1]
	all := bundledFiles(t)
	o := startOrthanc(t, map[string]string{"a": a.web + "/", "b": b.web + "/"})
	b.take(t, bundled)
	for uid, files := range byStudy(all) {
		a.knows(t, uid, len(files))
	}
	t.Run("retrieves from another trust", func(t *testing.T) { orthancRetrieves(t, o, "a", all) })
	t.Run("stores", func(t *testing.T) {
		// A region of its own, so that the studies are not there yet.
		fresh := region(t, "RCC")[0]
		sender := startOrthanc(t, map[string]string{"fresh": fresh.web + "/"})
		orthancStores(t, sender, "fresh", all)
		for uid, files := range byStudy(all) {
			fresh.has(t, uid, len(files))
			fresh.serves(t, uid, sums(files))
		}
	})
}

// pydicom reads in the metadata of the bundled files, of all transfer syntaxes
// and character sets, what it reads in the files.
func TestMetadataAsPydicomReadsIt(t *testing.T) {
	python := pydicomPython(t)
	n := region(t, "RAA")[0]
	n.take(t, bundled)
	dir := t.TempDir()
	var pairs []string
	for i, f := range bundledFiles(t) {
		meta := curl(t, "-H", acceptJSON, n.web+"/studies/"+f.study+"/series/"+f.series+"/instances/"+f.instance+"/metadata")
		if meta.status != 200 {
			t.Fatalf("metadata of %s: status %d: %.200s", f.path, meta.status, meta.body)
		}
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(path, meta.body, 0o600); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, f.path, path)
	}
	if r := try(t, python, append([]string{"py/metadata.py"}, pairs...)...); r.code != 0 {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// DCMTK's own conversions of one image are stored and served as they are.
func TestDCMTKConversions(t *testing.T) {
	dcmconv, dcmodify := command(t, "dcmconv"), command(t, "dcmodify")
	n := region(t, "RAA")[0]
	dir := t.TempDir()
	i := slices.IndexFunc(bundledFiles(t), func(f file) bool { return strings.HasSuffix(f.path, "CT_small.dcm") })
	source := bundledFiles(t)[i].path
	var converted []string
	for name, option := range map[string]string{"implicit": "+ti", "big-endian": "+tb", "deflated": "+td", "undefined-lengths": "-e", "explicit-lengths": "+e"} {
		out := dir + "/" + name
		must(t, dcmconv, option, source, out)
		must(t, dcmodify, "--no-backup", "--gen-inst-uid", out)
		converted = append(converted, out)
	}
	n.take(t, converted...)
	var want []string
	for _, path := range converted {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, sum(b))
	}
	n.serves(t, bundledFiles(t)[i].study, want)
}
