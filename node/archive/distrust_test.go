package archive

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	if looked < 400 { // of 539, some of which are no instances, or the same again
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

// An instance whose attributes one trust gives wrongly is listed as another gives it.
func TestAListThatCannotBeReadHidesNoOtherInstance(t *testing.T) {
	ctx := context.Background()
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	open := func(trust index.TrustID) *house { return newHouse(t, t.TempDir(), trust, clock, "RAA", "RBB", "RCC") }
	right, wrong, reader := open("RAA"), open("RBB"), open("RCC")
	const study = "1.2.3"
	for sop := range 3 {
		for _, h := range []*house{right, wrong} {
			if h == right && sop == 2 {
				continue // the other has more, and goes first
			}
			if err := h.take(image(study, sop, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	right.publishAll()
	wrong.publishAll()
	id := wrong.id(study)
	key, err := wrong.Keys.Get(id.keyName())
	if err != nil {
		t.Fatal(err)
	}
	st, _ := wrong.statementOf(id)
	ref, err := parseRef(st.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	shelf := wrong.shelf(id, key)
	m, err := cas.LoadStudy(ctx, shelf, key, ref)
	if err != nil {
		t.Fatal(err)
	}
	se, err := cas.LoadSeries(ctx, shelf, key, m.Series[0].Manifest)
	if err != nil {
		t.Fatal(err)
	}
	se.Instances[0].Attrs = []byte{0xff, 1, 2}
	if m.Series[0].Manifest, err = cas.SaveSeries(ctx, shelf, key, se); err != nil {
		t.Fatal(err)
	}
	m.Revision++
	if ref, err = cas.SaveStudy(ctx, shelf, key, m); err != nil {
		t.Fatal(err)
	}
	st.Revision++
	if st.Manifest, err = ref.MarshalCBOR(); err != nil {
		t.Fatal(err)
	}
	s, err := index.StudyStatement(st)
	if err == nil {
		_, err = wrong.Index.Append(ctx, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []*house{right, wrong} {
		if err := reader.carry(from, study, true); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // before it is known, and after
		list, err := reader.List(ctx, Ref{Study: study}, false)
		if err != nil || len(list) != 2 || list[0].Node != right.Self || list[1].Node != right.Self || list[0].Instance == list[1].Instance {
			t.Errorf("%+v, %v", list, err)
		}
	}
	caveats, err := reader.Caveats(study)
	if err != nil || len(caveats) == 0 || !slices.ContainsFunc(caveats, func(c string) bool {
		return strings.Contains(c, "RBB tells of this study and its lists contradict each other")
	}) {
		t.Errorf("%q, %v", caveats, err)
	}
}
