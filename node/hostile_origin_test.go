package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/api"
)

// rewrites has a node tell of another list of a study that it received, one that its own program would not make.
func (tr *trust) rewrites(uid string, change func(cas.Shelf, cas.Key, cas.StudyManifest) cas.StudyManifest) (revision uint64) {
	tr.t.Helper()
	fatal := func(err error) {
		tr.t.Helper()
		if err != nil {
			tr.t.Fatal(err)
		}
	}
	ctx := context.Background()
	shelf, key := tr.shelf(uid, tr)
	self := tr.n.Archive().Self
	said, err := tr.n.Archive().Index.Study(uid)
	fatal(err)
	var ref cas.Ref
	fatal(ref.UnmarshalCBOR(said[0].Value.Manifest))
	m, err := cas.LoadStudy(ctx, shelf, key, ref)
	fatal(err)
	m = change(shelf, key, m)
	m.Revision++
	ref, err = cas.SaveStudy(ctx, shelf, key, m)
	fatal(err)
	raw, err := ref.MarshalCBOR()
	fatal(err)
	// The catalogue's row of the study: 1 is its revision, 2 the reference to its manifest.
	row := append(append([]byte{0x42}, uid+"\x00"...), self[:]...)
	fatal(tr.n.DB().Update(func(txn *badger.Txn) error {
		item, err := txn.Get(row)
		if err != nil {
			return err
		}
		fields := make(map[uint64]cbor.RawMessage)
		if err := item.Value(func(b []byte) error { return cbor.Unmarshal(b, &fields) }); err != nil {
			return err
		}
		revision, err := cbor.Marshal(m.Revision)
		if err != nil {
			return err
		}
		fields[1], fields[2] = revision, raw
		b, err := cbor.Marshal(fields)
		if err != nil {
			return err
		}
		return txn.Set(row, b)
	}))
	s := said[0].Value
	s.Revision, s.Manifest = m.Revision, raw
	st, err := index.StudyStatement(s)
	fatal(err)
	_, err = tr.n.Archive().Index.Append(ctx, st)
	fatal(err)
	return m.Revision
}

// An origin whose lists name under one UID what is another study's, series' or instance's: nothing of it is shown under that UID, by
// reading it or by bringing it, and the reason is said.
func TestAListThatNamesWhatIsAnothersIsNotShown(t *testing.T) {
	r := region(t, "RX1", "RX2")
	origin, reader := r[0], r[1]
	save := func(ref cas.Ref, err error) cas.Ref {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	ctx := context.Background()
	series := func(shelf cas.Shelf, key cas.Key, e cas.SeriesEntry) cas.SeriesManifest {
		t.Helper()
		m, err := cas.LoadSeries(ctx, shelf, key, e.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for i, c := range []struct {
		name, why string
		change    func(cas.Shelf, cas.Key, cas.StudyManifest) cas.StudyManifest
		listed    bool // its lists agree with each other
	}{
		{"nothing wrong", "", func(_ cas.Shelf, _ cas.Key, m cas.StudyManifest) cas.StudyManifest { return m }, true},
		{"another study's list", "of another study", func(_ cas.Shelf, _ cas.Key, m cas.StudyManifest) cas.StudyManifest {
			m.UID = "1.2.3.99"
			return m
		}, false},
		{"another series'", "a series manifest contradicts its study's", func(shelf cas.Shelf, key cas.Key, m cas.StudyManifest) cas.StudyManifest {
			s := series(shelf, key, m.Series[0])
			s.UID += ".9"
			m.Series[0].Manifest = save(cas.SaveSeries(ctx, shelf, key, s))
			return m
		}, false},
		{"another instance's", "an instance manifest contradicts its series'", func(shelf cas.Shelf, key cas.Key, m cas.StudyManifest) cas.StudyManifest {
			s := series(shelf, key, m.Series[0])
			s.Instances[0].Manifest, s.Instances[1].Manifest = s.Instances[1].Manifest, s.Instances[0].Manifest
			m.Series[0].Manifest = save(cas.SaveSeries(ctx, shelf, key, s))
			return m
		}, true},
		{"an instance of another size", "an instance manifest contradicts its series'", func(shelf cas.Shelf, key cas.Key, m cas.StudyManifest) cas.StudyManifest {
			s := series(shelf, key, m.Series[0])
			s.Instances[0].Size++
			m.Series[0].Manifest = save(cas.SaveSeries(ctx, shelf, key, s))
			return m
		}, true},
	} {
		uid := fmt.Sprint("1.2.3.", i+1)
		patient := ada // each another's: a study that is read brings its patient's others
		patient.PatientID, patient.Name = fmt.Sprint("P", i), string(rune('A'+i))+"^Case"
		want := study(uid, patient, "20240101", 2)
		origin.imports(want...)
		origin.settled(uid, 2)
		revision := origin.rewrites(uid, c.change)
		reader.wait("knows "+c.name, func() (bool, string) {
			said, err := reader.n.Archive().Index.Study(uid)
			return err == nil && len(said) == 1 && said[0].Value.Revision == revision, fmt.Sprintf("%+v %v", said, err)
		})
		code, _, parts := reader.retrieve("studies/" + uid)
		res, list := reader.get("/dicom-web/studies/"+uid+"/instances", "application/dicom+json")
		one, _, _ := reader.retrieve("studies/" + uid + "/series/" + want[0].Series + "/instances/" + want[0].SOP)
		if c.why == "" {
			if code != 200 || one != 200 || res.StatusCode != 200 {
				t.Errorf("%s: %d, %d, %d", c.name, code, one, res.StatusCode)
			}
			same(t, parts, want)
			continue
		}
		if code != 503 || one != 503 || !strings.Contains(string(parts[0]), c.why) {
			t.Errorf("%s: it is read: %d %.300s, an instance of it %d", c.name, code, parts[0], one)
		}
		if c.listed != (res.StatusCode == 200) {
			t.Errorf("%s: its instances: %d %.300s", c.name, res.StatusCode, list)
		}
		reader.wait("says why "+c.name+" is not brought", func() (bool, string) {
			var f api.Fetch
			reader.operator("GET", "/api/v1/fetches/"+uid, nil, &f)
			b, _ := json.Marshal(f)
			return f.State == "waiting" && strings.Contains(f.Error, c.why), string(b)
		})
		if here, err := reader.n.Archive().Here(uid); here || err != nil {
			t.Errorf("%s: here %v, %v", c.name, here, err)
		}
	}
}
