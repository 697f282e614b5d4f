package node_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/node/api"
)

// found lists which of the texts are anywhere in the files of a home.
func found(t *testing.T, dir string, texts map[string][]byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		b, err := written(path)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		b = append(b, filepath.Base(path)...)
		for name, text := range texts {
			if bytes.Contains(b, text) {
				out[name] = strings.TrimPrefix(path, dir)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// written is what was written of a file: logs that are mapped into memory are mostly holes.
func written(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if runtime.GOOS != "linux" {
		return io.ReadAll(f)
	}
	const seekData, seekHole = 3, 4
	var out []byte
	for off := int64(0); ; {
		from, err := f.Seek(off, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if off, err = f.Seek(from, seekHole); err != nil {
			return nil, err
		}
		b := make([]byte, off-from)
		if _, err := f.ReadAt(b, from); err != nil && err != io.EOF {
			return nil, err
		}
		out = append(out, b...)
	}
}

// rows lists which of the texts are in any version of any row of a stopped home's index.
func rows(t *testing.T, dir string, texts map[string][]byte) map[string]string {
	t.Helper()
	db, err := badger.Open(badger.DefaultOptions(filepath.Join(dir, "index")).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	return rowsIn(t, db, texts)
}

func rowsIn(t *testing.T, db *badger.DB, texts map[string][]byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{AllVersions: true, PrefetchValues: true, PrefetchSize: 100})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			b := append(append(it.Item().KeyCopy(nil), 0xff), v...)
			for name, text := range texts {
				if bytes.Contains(b, text) {
					out[name] = fmt.Sprintf("a row of table %x", b[0])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (tr *trust) erase(study, reason string) (api.Erasure, int) {
	tr.t.Helper()
	body, _ := json.Marshal(map[string]string{"study": study, "reason": reason})
	var e api.Erasure
	code := tr.operator("POST", "/api/v1/erasures", body, &e)
	return e, code
}

// settled waits until the region has been told of so many instances.
func (tr *trust) settled(study string, instances int) {
	tr.t.Helper()
	tr.wait("has told of the study", func() (bool, string) {
		var f api.Found
		tr.operator("GET", "/api/v1/studies?study="+study, nil, &f)
		return len(f.Studies) == 1 && f.Studies[0].Settled && f.Studies[0].Instances == instances, fmt.Sprintf("%+v", f.Studies)
	})
}

// secrets is what must be nowhere once the study is erased.
func secrets(t *testing.T, list []dicomtest.Instance, more map[string][]byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{
		"the study UID": []byte(list[0].Study), "the series UID": []byte(list[0].Series), "the patient ID": []byte(list[0].PatientID),
		"the description": []byte(list[0].Description), "the accession number": []byte(list[0].Accession),
		// A run of the pixels, which in this test are one after the other.
		"the pixels": list[0].Bytes()[len(list[0].Bytes())-512 : len(list[0].Bytes())-448],
	}
	family, given, _ := strings.Cut(list[0].Name, "^")
	out["the family name"], out["the given name"] = []byte(family), []byte(given)
	out["the folded name"] = []byte(strings.ToLower(family))
	for _, i := range list {
		out["the SOP UID "+i.SOP] = []byte(i.SOP)
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

func TestAnErasedStudyIsInNoFile(t *testing.T) {
	all := region(t, "RA", "RB")
	a, b := all[0], all[1]
	patient := dicomtest.Instance{PatientID: "QWX7ZVKPLM", Name: "Zqxjvkwpfh^Trblmnqzkd", BirthDate: "19210317", Sex: "F",
		Description: "Jxqvz wkpfbd", Accession: "VKJ83XQZWP"}
	doomed := study("1.2.826.0.1.3680043.77.5113", patient, "20240102", 12)
	other := study("1.2.826.0.1.3680043.77.6224", grace, "20240102", 3)
	for i, part := range [][]dicomtest.Instance{doomed[:1], doomed[1:4], doomed[4:]} { // told three times
		if code, body := a.stow(part...); code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		a.settled(doomed[0].Study, []int{1, 4, 12}[i])
	}
	a.stow(other...)
	a.settled(other[0].Study, 3)
	for _, s := range []string{doomed[0].Study, other[0].Study} {
		b.waitAvailability(s, "NEARLINE")
		var f api.Fetch
		if code := b.operator("POST", "/api/v1/fetches", []byte(`{"study":"`+s+`"}`), &f); code != 202 {
			t.Fatalf("%d %+v", code, f)
		}
		b.waitAvailability(s, "ONLINE")
	}
	a.wait("has heard that there is a copy", func() (bool, string) {
		var f api.Found
		a.operator("GET", "/api/v1/studies?study="+doomed[0].Study, nil, &f)
		return len(f.Studies) == 1 && len(f.Studies[0].Copies) == 1, fmt.Sprintf("%+v", f.Studies)
	})
	var st api.Status
	a.operator("GET", "/api/v1/status", nil, &st)
	key, err := a.n.StudyKey(doomed[0].Study, st.Peer)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := b.n.StudyKey(doomed[0].Study, st.Peer)
	if err != nil || copied != key {
		t.Fatal("the copy has another key", err)
	}
	shelf := key.Shelf()
	gone := secrets(t, doomed, map[string][]byte{"the study key": key[:]})
	for name, tr := range map[string]*trust{"RA": a, "RB": b} {
		have := found(t, tr.home.Dir, gone)
		for secret := range gone {
			if _, ok := have[secret]; !ok && secret != "the study key" && secret != "the pixels" {
				t.Errorf("%s: %s is not found before it is erased: this test proves nothing", name, secret)
			}
		}
		if len(found(t, tr.home.Dir, map[string][]byte{"shelf": shelf[:]})) == 0 {
			t.Errorf("%s: the shelf is not found before it is erased", name)
		}
	}
	code, _, before := a.retrieve("studies/" + doomed[0].Study)
	if code != 200 {
		t.Fatal(code)
	}
	same(t, before, doomed)

	e, code := a.erase(doomed[0].Study, "consent withdrawn, request 12")
	if code != 200 || e.State != "erased" || e.Versions != 1 || e.Instances != 12 || e.Bytes == 0 || len(e.Copies) != 1 || e.Copies[0] != "RB" {
		t.Fatalf("%d %+v", code, e)
	}
	if code, _, _ := a.retrieve("studies/" + doomed[0].Study); code != 404 {
		t.Fatalf("after the erasure: %d", code)
	}
	if got := a.availability(doomed[0].Study); got != "" {
		t.Fatalf("the study is still found: %s", got)
	}
	if _, err := a.n.StudyKey(doomed[0].Study, st.Peer); err == nil {
		t.Fatal("the key is still there")
	}
	have := found(t, a.home.Dir, gone)
	delete(have, "the study UID") // who holds a copy names it until it has heard
	if len(have) > 0 {
		t.Fatalf("still in files: %v", have)
	}
	// By themselves the copies go, and then the last that names the study.
	for _, tr := range all {
		tr.wait("has nothing of the study any more", func() (bool, string) {
			have := found(t, tr.home.Dir, gone)
			maps.Copy(have, rowsIn(t, tr.n.DB(), gone)) // they are packed in the files
			return len(have) == 0, fmt.Sprint(have)
		})
		if got := tr.availability(doomed[0].Study); got != "" {
			t.Errorf("the study is still found: %s", got)
		}
		code, _, got := tr.retrieve("studies/" + other[0].Study)
		if code != 200 {
			t.Fatalf("the other study: %d", code)
		}
		same(t, got, other)
		tr.waitAvailability(other[0].Study, "ONLINE")
	}
	if code, _, _ := b.retrieve("studies/" + doomed[0].Study); code != 404 {
		t.Fatalf("the copy: %d", code)
	}
	audited, err := os.ReadFile(filepath.Join(a.home.Dir, "audit", "audit.jsonl"))
	if err != nil || !bytes.Contains(audited, []byte(`"study.erase"`)) || !bytes.Contains(audited, []byte("consent withdrawn, request 12")) || !bytes.Contains(audited, []byte(`"study.erased"`)) {
		t.Errorf("the audit log does not say it: %v", err)
	}
	b.wait("says in its audit log that the copy is gone", func() (bool, string) { // it is said when all is done
		audited, err := os.ReadFile(filepath.Join(b.home.Dir, "audit", "audit.jsonl"))
		return err == nil && bytes.Contains(audited, []byte(`"copy.erased"`)), fmt.Sprint(err)
	})
	for _, tr := range all {
		tr.stop()
		if have := found(t, tr.home.Dir, gone); len(have) > 0 {
			t.Errorf("in files after the end: %v", have)
		}
		if have := rows(t, tr.home.Dir, gone); len(have) > 0 {
			t.Errorf("in rows of the index: %v", have)
		}
		if have := rows(t, tr.home.Dir, map[string][]byte{"other": []byte(other[0].SOP)}); len(have) != 1 {
			t.Error("rows are not found at all")
		}
	}
	for _, tr := range all {
		tr.start()
		code, _, got := tr.retrieve("studies/" + other[0].Study)
		if code != 200 {
			t.Fatalf("the other study after a restart: %d", code)
		}
		same(t, got, other)
	}

	// Received again it is a new study.
	if code, body := a.stow(doomed[:3]...); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	a.settled(doomed[0].Study, 3)
	anew, err := a.n.StudyKey(doomed[0].Study, st.Peer)
	if err != nil || anew == key {
		t.Fatalf("the new study has the old key, %v", err)
	}
	code, _, got := a.retrieve("studies/" + doomed[0].Study)
	if code != 200 {
		t.Fatal(code)
	}
	same(t, got, doomed[:3])
	b.waitAvailability(doomed[0].Study, "NEARLINE")
	code, _, got = b.retrieve("studies/" + doomed[0].Study)
	if code != 200 {
		t.Fatal(code)
	}
	same(t, got, doomed[:3])

	if e, code := a.erase("1.2.3.4", "there is none"); code != 404 {
		t.Fatalf("%d %+v", code, e)
	}
	for _, reason := range []string{"", "  ", "two\nlines", strings.Repeat("x", 201)} {
		if e, code := a.erase(doomed[0].Study, reason); code != 400 {
			t.Errorf("%q: %d %+v", reason, code, e)
		}
	}
}
