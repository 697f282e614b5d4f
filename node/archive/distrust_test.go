package archive

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// What this program has taken and listed itself agrees with its lists, whatever is in real files: else honest priors would not come.
func TestRealFilesAreWhatTheirListsSay(t *testing.T) {
	const files = "../../../shared/testdata/dicom"
	if _, err := os.Stat(files); errors.Is(err, fs.ErrNotExist) {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("NOT TESTED: real files, which are not at %s", files)
	}
	ctx := context.Background()
	h := newHouse(t, t.TempDir(), "RAA", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RAA")
	looked := 0
	err := filepath.WalkDir(files, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if i, err := f.Stat(); err != nil || i.Size() > 64<<20 {
			return err
		}
		got, err := h.Ingest(ctx, f, IngestOptions{})
		if err != nil {
			return nil // no DICOM instance, or one that is refused
		}
		id := h.id(string(got.UIDs.Study))
		rec, err := h.instanceOf(id, string(got.UIDs.Series), string(got.UIDs.Instance))
		if err != nil {
			return err
		}
		key, err := h.Keys.Get(id.keyName())
		if err != nil {
			return err
		}
		m, err := cas.LoadInstance(ctx, h.shelf(id, key), key, rec.Manifest)
		if err != nil {
			return err
		}
		if err := ofInstance(m, cas.InstanceEntry{UID: string(got.UIDs.Instance), Size: rec.Size}); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
		r := m.Reader(ctx, h.shelf(id, key), key)
		defer r.Close()
		if _, err := h.agrees(r, m, id.Study, string(got.UIDs.Series), index.Study{}); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
		if _, err := h.attrs(rec.Attrs, instanceTags); err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
		looked++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if looked < 100 {
		t.Errorf("only %d files were looked at", looked)
	}
	// And whose study it is said to be agrees with what each of its instances names.
	h.publishAll()
	studies, _, err := h.Studies(ctx, index.Query{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range studies {
		if s.Mixed {
			continue
		}
		id := h.id(s.UID)
		key, err := h.Keys.Get(id.keyName())
		if err != nil {
			t.Fatal(err)
		}
		all, err := h.instancesOf(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range all {
			rec, err := h.instanceOf(id, i.Series, i.SOP)
			if err != nil {
				t.Fatal(err)
			}
			m, err := cas.LoadInstance(ctx, h.shelf(id, key), key, rec.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			r := m.Reader(ctx, h.shelf(id, key), key)
			if same, err := h.agrees(r, m, id.Study, i.Series, s.Study); err != nil || !same {
				t.Errorf("an instance of %s, said to be of %q born %q: the same %v, %v", s.UID, s.Name, s.BirthDate, same, err)
			}
			r.Close()
		}
	}
}
