package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomtest"
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
	var said []index.Authored[index.Study]
	var err error
	// The catalogue's row of the study: 1 is its revision, 2 the reference to its manifest, 3 that it is settled, 4 that there is more.
	row := append(append([]byte{0x42}, uid+"\x00"...), self[:]...)
	fields := make(map[uint64]cbor.RawMessage)
	tr.wait("has done telling of the study", func() (bool, string) { // the row is written after the fact
		said, err = tr.n.Archive().Index.Study(uid)
		fatal(err)
		fatal(tr.n.DB().View(func(txn *badger.Txn) error {
			item, err := txn.Get(row)
			if err != nil {
				return err
			}
			return item.Value(func(b []byte) error { clear(fields); return cbor.Unmarshal(b, &fields) })
		}))
		revision, _ := cbor.Marshal(said[0].Value.Revision)
		return bytes.Equal(fields[1], revision) && bytes.Equal(fields[2], said[0].Value.Manifest) && bytes.Equal(fields[3], []byte{0xf5}) && !bytes.Equal(fields[4], []byte{0xf5}), fmt.Sprintf("%x", fields)
	})
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
	fatal(tr.n.DB().Update(func(txn *badger.Txn) error {
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
	}{
		{"nothing wrong", "", func(_ cas.Shelf, _ cas.Key, m cas.StudyManifest) cas.StudyManifest { return m }},
		{"another study's list", "of another study", func(_ cas.Shelf, _ cas.Key, m cas.StudyManifest) cas.StudyManifest {
			m.UID = "1.2.3.99"
			return m
		}},
		{"another series'", "a series manifest contradicts its study's", func(shelf cas.Shelf, key cas.Key, m cas.StudyManifest) cas.StudyManifest {
			s := series(shelf, key, m.Series[0])
			s.UID += ".9"
			m.Series[0].Manifest = save(cas.SaveSeries(ctx, shelf, key, s))
			return m
		}},
		{"another instance's", "an instance manifest contradicts its series'", func(shelf cas.Shelf, key cas.Key, m cas.StudyManifest) cas.StudyManifest {
			s := series(shelf, key, m.Series[0])
			s.Instances[0].Manifest, s.Instances[1].Manifest = s.Instances[1].Manifest, s.Instances[0].Manifest
			m.Series[0].Manifest = save(cas.SaveSeries(ctx, shelf, key, s))
			return m
		}},
		{"an instance of another size", "an instance manifest contradicts its series'", func(shelf cas.Shelf, key cas.Key, m cas.StudyManifest) cas.StudyManifest {
			s := series(shelf, key, m.Series[0])
			s.Instances[0].Size++
			m.Series[0].Manifest = save(cas.SaveSeries(ctx, shelf, key, s))
			return m
		}},
	} {
		uid := fmt.Sprint("1.2.3.", i+1)
		want := study(uid, caseOf(i), "20240101", 2)
		origin.imports(want...)
		origin.settled(uid, 2)
		revision := origin.rewrites(uid, c.change)
		reader.waitRevision(uid, revision)
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
		if res.StatusCode != 503 || !strings.Contains(string(list), c.why) {
			t.Errorf("%s: its instances are listed: %d %.300s", c.name, res.StatusCode, list)
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

// changed gives a list with its first instance, and what is said of that and of its series, as f makes them.
func changed(t *testing.T, shelf cas.Shelf, key cas.Key, m cas.StudyManifest, f func(*cas.InstanceManifest, *cas.InstanceEntry, *cas.SeriesManifest)) cas.StudyManifest {
	t.Helper()
	ctx := context.Background()
	s, err := cas.LoadSeries(ctx, shelf, key, m.Series[0].Manifest)
	if err != nil {
		t.Fatal(err)
	}
	im, err := cas.LoadInstance(ctx, shelf, key, s.Instances[0].Manifest)
	if err != nil {
		t.Fatal(err)
	}
	f(&im, &s.Instances[0], &s)
	s.Instances[0].Size = im.Size
	if s.Instances[0].Manifest, err = cas.SaveInstance(ctx, shelf, key, im); err != nil {
		t.Fatal(err)
	}
	m.Series[0].Attrs = s.Attrs
	if m.Series[0].Manifest, err = cas.SaveSeries(ctx, shelf, key, s); err != nil {
		t.Fatal(err)
	}
	return m
}

// stored puts other bytes into an instance's place.
func stored(t *testing.T, shelf cas.Shelf, key cas.Key, im *cas.InstanceManifest, b []byte) {
	t.Helper()
	w := cas.NewWriter(context.Background(), shelf, key)
	if err := w.Write(cas.Span{}, b); err != nil {
		t.Fatal(err)
	}
	out, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	im.Blocks, im.Size, im.SHA256, im.HeaderLen, im.Pixel = out.Blocks, out.Size, out.SHA256, out.Size, nil
}

func element(tag dicom.Tag, v string) dicom.Element {
	return dicom.Element{Tag: tag, VR: tag.DictVR(), Value: []byte(v)}
}

const unreadable = "attributes in a list cannot be read"

// wrong are ways in which an origin's lists and bytes may not be what it says they are.
var wrong = []struct {
	name, why string
	change    func(*testing.T, cas.Shelf, cas.Key, *cas.InstanceManifest, *cas.InstanceEntry, *cas.SeriesManifest)
}{
	{"bytes of another study", "the bytes of an instance are another's", func(t *testing.T, shelf cas.Shelf, key cas.Key, im *cas.InstanceManifest, _ *cas.InstanceEntry, _ *cas.SeriesManifest) {
		stored(t, shelf, key, im, study("9.9.9", grace, "20200101", 1)[0].Bytes())
	}},
	{"bytes of another study under this one's UIDs", "the bytes of an instance are another's", func(t *testing.T, shelf cas.Shelf, key cas.Key, im *cas.InstanceManifest, e *cas.InstanceEntry, s *cas.SeriesManifest) {
		x := study("9.9.9", grace, "20200101", 1)[0]
		x.Series, x.SOP = s.UID, e.UID
		stored(t, shelf, key, im, x.Bytes())
	}},
	{"bytes of another series", "the bytes of an instance are another's", func(t *testing.T, shelf cas.Shelf, key cas.Key, im *cas.InstanceManifest, e *cas.InstanceEntry, s *cas.SeriesManifest) {
		x := study(strings.TrimSuffix(s.UID, ".1"), grace, "20200101", 1)[0]
		x.Series, x.SOP = s.UID+".9", e.UID
		stored(t, shelf, key, im, x.Bytes())
	}},
	{"another class in the list", "the bytes of an instance are another's", func(_ *testing.T, _ cas.Shelf, _ cas.Key, im *cas.InstanceManifest, _ *cas.InstanceEntry, _ *cas.SeriesManifest) {
		im.Class = "1.2.840.10008.5.1.4.1.1.4"
	}},
	{"another transfer syntax in the list", "the bytes of an instance are another's", func(_ *testing.T, _ cas.Shelf, _ cas.Key, im *cas.InstanceManifest, _ *cas.InstanceEntry, _ *cas.SeriesManifest) {
		im.TransferSyntax = "1.2.840.10008.1.2"
	}},
	{"no DICOM", "is no DICOM instance", func(t *testing.T, shelf cas.Shelf, key cas.Key, im *cas.InstanceManifest, _ *cas.InstanceEntry, _ *cas.SeriesManifest) {
		stored(t, shelf, key, im, []byte(strings.Repeat("hello", 1000)))
	}},
	{"no header", "does not say where the header is", func(_ *testing.T, _ cas.Shelf, _ cas.Key, im *cas.InstanceManifest, _ *cas.InstanceEntry, _ *cas.SeriesManifest) {
		im.HeaderLen = 0
	}},
	{"frames over the header", "does not say where the header is", func(_ *testing.T, _ cas.Shelf, _ cas.Key, im *cas.InstanceManifest, _ *cas.InstanceEntry, _ *cas.SeriesManifest) {
		im.HeaderLen = 0
		im.Pixel = &cas.PixelLayout{Off: 0, Len: im.Size, Encapsulated: true, Frames: [][]cas.Range{{{Off: 0, Len: im.Size}}}}
	}},
	{"attributes that are none", unreadable, func(_ *testing.T, _ cas.Shelf, _ cas.Key, _ *cas.InstanceManifest, e *cas.InstanceEntry, _ *cas.SeriesManifest) {
		e.Attrs = []byte{0xff, 1, 2}
	}},
}

// gives has a node receive a study and tell of it wrongly, and says as which revision.
func (tr *trust) gives(uid string, list []dicomtest.Instance, change func(*testing.T, cas.Shelf, cas.Key, *cas.InstanceManifest, *cas.InstanceEntry, *cas.SeriesManifest)) (revision uint64) {
	tr.t.Helper()
	tr.imports(list...)
	tr.settled(uid, len(list))
	return tr.rewrites(uid, func(shelf cas.Shelf, key cas.Key, m cas.StudyManifest) cas.StudyManifest {
		return changed(tr.t, shelf, key, m, func(im *cas.InstanceManifest, e *cas.InstanceEntry, s *cas.SeriesManifest) {
			change(tr.t, shelf, key, im, e, s)
		})
	})
}

// waitRevision waits until a node has heard of a study's only version as of that revision.
func (tr *trust) waitRevision(uid string, revision uint64) {
	tr.t.Helper()
	tr.wait("knows the revision", func() (bool, string) {
		said, err := tr.n.Archive().Index.Study(uid)
		return err == nil && len(said) == 1 && said[0].Value.Revision == revision, fmt.Sprintf("%+v %v", said, err)
	})
}

// caseOf is a patient of its own: a study that is read brings its patient's others.
func caseOf(i int) dicomtest.Instance {
	p := ada
	p.PatientID, p.Name = fmt.Sprint("P", i), string(rune('A'+i))+"^Case"
	return p
}

// What an origin gives is not what its lists say: it is not taken, and then not shown, and whose it is is said.
func TestBytesThatAreNotWhatTheListsSayAreNotTaken(t *testing.T) {
	r := region(t, "RX1", "RX2")
	origin, reader := r[0], r[1]
	for i, c := range wrong {
		uid := fmt.Sprint("1.2.3.", i+1)
		patient := caseOf(i)
		list := study(uid, patient, "20240101", 2)
		reader.waitRevision(uid, origin.gives(uid, list, c.change))
		reader.get("/dicom-web/studies/"+uid+"/instances", "application/dicom+json")
		reader.retrieve("studies/" + uid) // has it brought
		reader.wait("says why "+c.name+" is not taken", func() (bool, string) {
			code, _, parts := reader.retrieve("studies/" + uid)
			return code == 503 && strings.Contains(string(parts[0]), "RX1 tells of this study and") && strings.Contains(string(parts[0]), c.why), fmt.Sprintf("%d %.300s", code, parts)
		})
		for _, path := range []string{"/series", "/instances", "/metadata", "/series/" + list[0].Series + "/instances/" + list[0].SOP, "/series/" + list[0].Series + "/instances/" + list[0].SOP + "/frames/1"} {
			if res, b := reader.get("/dicom-web/studies/"+uid+path, "*/*"); res.StatusCode != 503 || !strings.Contains(string(b), c.why) {
				t.Errorf("%s: %s: %d %.200s", c.name, path, res.StatusCode, b)
			}
		}
		if here, err := reader.n.Archive().Here(uid); here || err != nil {
			t.Errorf("%s: here %v, %v", c.name, here, err)
		}
		// A revision that is as it should be is taken again.
		origin.imports(study(uid, patient, "20240101", 3)[2])
		origin.settled(uid, 3)
		reader.wait("takes what agrees", func() (bool, string) {
			code, _, parts := reader.retrieve("studies/" + uid)
			return code == 200 && len(parts) == 3, fmt.Sprintf("%d %.200s", code, parts[0])
		})
	}
}

// Nor is it given to whoever asks first, before any of it has landed.
func TestTheFirstReaderIsNotGivenWhatIsWrong(t *testing.T) {
	r := region(t, "RX1", "RX2")
	n := 0
	for _, c := range wrong {
		if c.why == unreadable {
			continue // its bytes are what they should be, and who reads them reads nothing else
		}
		for _, of := range []string{"", "/series/%[1]s.1/instances/%[1]s.1.1/frames/1"} {
			n++
			uid := fmt.Sprint("1.2.3.", n)
			path := "studies/" + uid
			if of != "" {
				path += fmt.Sprintf(of, uid)
			}
			r[1].waitRevision(uid, r[0].gives(uid, study(uid, caseOf(n), "20240101", 2), c.change))
			r[1].wait("says why", func() (bool, string) { // at first the two nodes may be at different revisions
				res, b := r[1].get("/dicom-web/"+path, "*/*")
				if res.StatusCode != 503 {
					t.Errorf("%s: %s: %d %.300s", c.name, path, res.StatusCode, b)
					return true, ""
				}
				return strings.Contains(string(b), "RX1 tells of this study and") && strings.Contains(string(b), c.why), fmt.Sprintf("%s: %s: %.300s", c.name, path, b)
			})
		}
	}
}

// What another trust gives of a study that was received here keeps nothing of that back, and is named.
func TestWhatAnotherTrustGivesWronglyKeepsNothingBack(t *testing.T) {
	r := region(t, "RX1", "RX2")
	mine, other := r[0], r[1]
	for i, c := range wrong {
		uid := fmt.Sprint("1.2.3.", i+1)
		list := study(uid, caseOf(i), "20240101", 2)
		more := study(uid, caseOf(i), "20240101", 3)[2:]
		more[0].Series += ".5"
		mine.waitRevision(uid, other.gives(uid, more, c.change))
		mine.imports(list...)
		var first []any // whoever asks first is given what can be given, in one piece
		if res, b := mine.get("/dicom-web/studies/"+uid+"/metadata", "application/dicom+json"); res.StatusCode != 200 || json.Unmarshal(b, &first) != nil || len(first) < 2 {
			t.Errorf("%s: metadata at first: %d, %.200s", c.name, res.StatusCode, b)
		}
		mine.get("/dicom-web/studies/"+uid+"/instances", "application/dicom+json")
		mine.retrieve("studies/" + uid)
		mine.wait("names who gives what is wrong", func() (bool, string) {
			code, header, parts := mine.retrieve("studies/" + uid)
			w := strings.Join(header.Values("Warning"), " ")
			return code == 200 && len(parts) == 2 && strings.Contains(w, "RX2 tells of this study and") && strings.Contains(w, c.why), fmt.Sprintf("%d, %d parts, %q", code, len(parts), w)
		})
		for path, rows := range map[string]int{"/series": 1, "/instances": 2, "/metadata": 2} {
			res, b := mine.get("/dicom-web/studies/"+uid+path, "application/dicom+json")
			var got []any
			if err := json.Unmarshal(b, &got); err != nil || res.StatusCode != 200 || len(got) != rows {
				t.Errorf("%s: %s: %d, %d rows of %d, %v: %.200s", c.name, path, res.StatusCode, len(got), rows, err, b)
			}
		}
	}
}

// Instances that name another patient than their study's origin says are found out when they have come, and said. What a list says of an
// instance beside its place is not taken for who it is.
func TestWhomAnInstanceNames(t *testing.T) {
	r := region(t, "RX1", "RX2")
	origin, reader := r[0], r[1]
	other := grace
	for i, c := range []struct {
		name   string
		mixed  bool
		change func(cas.Shelf, cas.Key, *cas.InstanceManifest, *cas.InstanceEntry, *cas.SeriesManifest)
	}{
		{"as it is", false, func(cas.Shelf, cas.Key, *cas.InstanceManifest, *cas.InstanceEntry, *cas.SeriesManifest) {}},
		{"bytes of another patient", true, func(shelf cas.Shelf, key cas.Key, im *cas.InstanceManifest, e *cas.InstanceEntry, s *cas.SeriesManifest) {
			x := study("1.2.3.2", other, "20240101", 1)[0]
			x.Study, x.Series, x.SOP = "1.2.3.2", s.UID, e.UID
			stored(t, shelf, key, im, x.Bytes())
		}},
		{"attributes of another study", false, func(_ cas.Shelf, _ cas.Key, _ *cas.InstanceManifest, e *cas.InstanceEntry, s *cas.SeriesManifest) {
			d := dicom.Dataset{Elements: []dicom.Element{element(dicom.TagSOPInstanceUID, "9.9.9.1"), element(dicom.TagPatientName, other.Name), element(dicom.TagPatientID, other.PatientID), element(dicom.TagStudyInstanceUID, "9.9.9"), element(dicom.TagSeriesInstanceUID, "9.9.9.0")}}
			e.Attrs, s.Attrs = d.Encode(), d.Encode()
		}},
	} {
		uid := fmt.Sprint("1.2.3.", i+1)
		patient := ada
		patient.PatientID, patient.Name = fmt.Sprint("P", i), string(rune('A'+i))+"^Case"
		origin.imports(study(uid, patient, "20240101", 2)...)
		origin.settled(uid, 2)
		revision := origin.rewrites(uid, func(shelf cas.Shelf, key cas.Key, m cas.StudyManifest) cas.StudyManifest {
			return changed(t, shelf, key, m, func(im *cas.InstanceManifest, e *cas.InstanceEntry, s *cas.SeriesManifest) {
				c.change(shelf, key, im, e, s)
			})
		})
		reader.wait("knows "+c.name, func() (bool, string) {
			said, err := reader.n.Archive().Index.Study(uid)
			return err == nil && len(said) == 1 && said[0].Value.Revision == revision, fmt.Sprintf("%+v %v", said, err)
		})
		code, header, parts := reader.retrieve("studies/" + uid)
		if w := strings.Join(header.Values("Warning"), " "); code != 200 || strings.Contains(w, "name several patients") != c.mixed {
			t.Fatalf("%s: %d %.300s, Warning %q", c.name, code, parts[0], w)
		}
		reader.waitAvailability(uid, "ONLINE")
		for _, start := range []bool{false, true} {
			if start {
				reader.stop()
				reader.start()
			}
			_, header, _ := reader.retrieve("studies/" + uid)
			if w := strings.Join(header.Values("Warning"), " "); strings.Contains(w, "name several patients") != c.mixed {
				t.Errorf("%s: Warning %q", c.name, w)
			}
			if s := reader.find(uid)[0]; s.MixedPatient != c.mixed {
				t.Errorf("%s: %+v", c.name, s)
			}
		}
		for _, path := range []string{"/series", "/instances"} {
			if res, b := reader.get("/dicom-web/studies/"+uid+path+"?includefield=all", "application/dicom+json"); res.StatusCode != 200 || strings.Contains(string(b), "9.9.9") || strings.Contains(string(b), "Hopper") ||
				!strings.Contains(string(b), uid+".1") || !strings.Contains(string(b), patient.Name) {
				t.Errorf("%s: %s: %d %s", c.name, path, res.StatusCode, b)
			}
		}
	}
}

// Of two people under one UID each row has the study level of the patient whose series or instance it is, or there is none.
func TestRowsAreOfThePatientWhoseTheyAre(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	reader := r[0]
	const uid = "1.2.3.1"
	hers, his := study(uid, ada, "20200101", 2), study(uid, grace, "20200102", 3)
	for k := range his {
		his[k].Series += ".9"
		his[k].SOP += ".9"
	}
	r[2].imports(his...)
	reader.waitAvailability(uid, "NEARLINE")
	reader.retrieve("studies/" + uid)
	reader.waitAvailability(uid, "ONLINE")
	r[1].imports(hers...)
	reader.wait("knows both", func() (bool, string) {
		s := reader.find(uid)
		return len(s) == 1 && len(s[0].Versions) == 2 && s[0].Versions[0].Instances+s[0].Versions[1].Instances == 5, fmt.Sprintf("%+v", s)
	})
	path := func(series string) string {
		return "/dicom-web/studies/" + uid + "/series/" + series + "/instances?includefield=all"
	}
	reader.wait("lists all of hers", func() (bool, string) { // and not an older revision, which may have come whole
		_, b := reader.get(path(hers[0].Series), "application/dicom+json")
		_, coming := reader.n.Archive().TaskOf(uid)
		return !coming && strings.Contains(string(b), hers[0].SOP+`"`) && strings.Contains(string(b), hers[1].SOP+`"`), string(b)
	})
	for _, c := range []struct {
		path string
		hers int // rows
		his  int
	}{
		{path(hers[0].Series), 2, 0}, {path(his[0].Series), 0, 3},
		{path(hers[0].Series) + "&PatientName=Hopper*", 0, 0}, {path(his[0].Series) + "&PatientName=Hopper*", 0, 3},
		{path(his[0].Series) + "&PatientName=Lovelace*", 0, 0},
		{"/dicom-web/studies/" + uid + "/series?includefield=all", 0, 1},
	} {
		res, b := reader.get(c.path, "application/dicom+json")
		if res.StatusCode != 200 || strings.Count(string(b), ada.Name) != c.hers || strings.Count(string(b), grace.Name) != c.his ||
			strings.Contains(string(b), hers[0].SOP+`"`) != (c.hers > 1) || strings.Contains(string(b), his[0].SOP+`"`) != (c.his > 1) {
			t.Errorf("%s: %d, hers %d of %d, his %d of %d: %s", c.path, res.StatusCode, strings.Count(string(b), ada.Name), c.hers, strings.Count(string(b), grace.Name), c.his, b)
		}
	}
}

// Who has nothing of a study yet is given what one trust has of it although another, whose version has more and goes first, gives what is wrong
// under the same UIDs: also the first time.
func TestTheFirstReaderIsGivenWhatIsRight(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	for i, c := range slices.Concat(wrong, wrong, wrong) {
		paths := []string{"/metadata", "/instances"}
		if i >= len(wrong) {
			slices.Reverse(paths)
		}
		if i >= 2*len(wrong) {
			paths = nil
		}
		uid := fmt.Sprint("1.2.3.", i+1)
		revision := r[1].gives(uid, study(uid, caseOf(i), "20240101", 3), c.change)
		r[0].imports(study(uid, caseOf(i), "20240101", 2)...)
		r[2].wait("knows both", func() (bool, string) {
			s := r[2].find(uid)
			said, err := r[2].n.Archive().Index.Study(uid)
			return len(s) == 1 && len(s[0].Versions) == 2 && s[0].Versions[0].Instances == 3 && s[0].Versions[1].Instances == 2 && err == nil &&
				slices.ContainsFunc(said, func(st index.Authored[index.Study]) bool { return st.Trust == "RX2" && st.Value.Revision == revision }), fmt.Sprintf("%+v %v", s, err)
		})
		if paths == nil {
			code, _, parts := r[2].retrieve("studies/" + uid)
			if code != 200 {
				t.Errorf("%s: %d %.300s", c.name, code, parts)
			}
			if c.why == unreadable { // its bytes are what they should be
				same(t, parts, study(uid, caseOf(i), "20240101", 3))
			} else {
				same(t, parts, study(uid, caseOf(i), "20240101", 2))
			}
		}
		for _, path := range paths {
			res, b := r[2].get("/dicom-web/studies/"+uid+path, "application/dicom+json")
			var got []any
			if err := json.Unmarshal(b, &got); err != nil || res.StatusCode != 200 || len(got) < 2 || !strings.Contains(string(b), uid+".1.1") || !strings.Contains(string(b), uid+".1.2") {
				t.Errorf("%s: %s: %d, %d rows, %v: %.200s", c.name, path, res.StatusCode, len(got), err, b)
			}
		}
	}
}
