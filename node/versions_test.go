package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/api"
)

func (tr *trust) finds(query string) api.Found {
	tr.t.Helper()
	var f api.Found
	if code := tr.operator("GET", "/api/v1/studies?"+query, nil, &f); code != 200 {
		tr.t.Fatalf("%s: %d", query, code)
	}
	return f
}

// What two trusts received of one study is found as one: all modalities, series
// and instances, and who received what. What may be another patient's is no part of it.
func TestWhatSeveralTrustsReceivedIsFoundTogether(t *testing.T) {
	r := region(t, "RX1", "RX2")
	numbered := func(uid string, p dicomtest.Instance, modality, series string, from, to int) (out []dicomtest.Instance) {
		for _, i := range study(uid, p, "20200101", to)[from-1:] {
			i.Modality, i.Series = modality, uid+series
			out = append(out, i)
		}
		return out
	}
	// Nothing in common; some in common; two patients.
	r[0].imports(numbered("1.2.3.1", ada, "CT", ".1", 1, 2)...)
	r[1].imports(numbered("1.2.3.1", ada, "MR", ".2", 3, 5)...)
	r[0].imports(numbered("1.2.3.2", ada, "CT", ".1", 1, 2)...)
	r[1].imports(numbered("1.2.3.2", ada, "CT", ".1", 2, 4)...)
	r[0].imports(numbered("1.2.3.3", ada, "CT", ".1", 1, 1)...)
	r[1].imports(numbered("1.2.3.3", grace, "MR", ".2", 2, 9)...)
	one := func(f api.Found) api.Study {
		if len(f.Studies) != 1 {
			t.Fatalf("%+v", f)
		}
		return f.Studies[0]
	}
	for uid, all := range map[string]int{"1.2.3.1": 5, "1.2.3.2": 5, "1.2.3.3": 9} {
		for _, tr := range r {
			tr.wait("knows all of both versions", func() (bool, string) {
				f := tr.finds("study=" + uid)
				return len(f.Studies) == 1 && len(f.Studies[0].Versions) == 2 && f.Studies[0].Versions[0].Instances+f.Studies[0].Versions[1].Instances == all, fmt.Sprintf("%+v", f.Studies)
			})
		}
	}
	for _, tr := range r {
		s := one(tr.finds("study=1.2.3.1"))
		if strings.Join(s.Modalities, " ") != "CT MR" || s.Series != 2 || s.Instances != 5 || s.AtLeast || s.MixedPatient || len(s.Trusts) != 2 {
			t.Errorf("nothing in common, at %s: %+v", tr.home.Config.Trust, s)
		}
		if !s.PartlyHere || s.Availability != "NEARLINE" {
			t.Errorf("received here and elsewhere, at %s: partly here %v, %s", tr.home.Config.Trust, s.PartlyHere, s.Availability)
		}
		res, b := tr.get("/dicom-web/studies?StudyInstanceUID=1.2.3.1&includefield=all", "application/dicom+json")
		for _, want := range []string{`"00080061":{"vr":"CS","Value":["CT","MR"]}`, `"00201206":{"vr":"IS","Value":[2]}`, `"00201208":{"vr":"IS","Value":[5]}`} {
			if !strings.Contains(string(b), want) {
				t.Errorf("no %s in %s", want, b)
			}
		}
		if w := strings.Join(res.Header.Values("Warning"), " "); !strings.Contains(w, "RX1 received 2 instances in 1 series (CT)") || !strings.Contains(w, "RX2 received 3 instances in 1 series (MR)") {
			t.Errorf("who received what: %q", w)
		}
	}
	s := one(r[0].finds("study=1.2.3.2"))
	if s.Instances != 3 || s.Series != 1 || !s.AtLeast || !slices.ContainsFunc(r[0].finds("study=1.2.3.2").Warnings, func(w string) bool { return strings.Contains(w, "counted at the least") }) {
		t.Errorf("some in common, before the other list is here: %+v", s)
	}
	r[0].wait("brings the other version", func() (bool, string) {
		_, _, parts := r[0].retrieve("studies/1.2.3.2")
		return len(parts) == 4, fmt.Sprint(len(parts))
	})
	r[0].wait("counts what both have together", func() (bool, string) {
		s := one(r[0].finds("study=1.2.3.2"))
		return s.Instances == 4 && s.Series == 1 && !s.AtLeast && s.Availability == "ONLINE", fmt.Sprintf("%+v", s)
	})
	s = one(r[0].finds("study=1.2.3.3"))
	if s.Name != ada.Name || strings.Join(s.Modalities, " ") != "CT" || s.Instances != 1 || s.Series != 1 || !s.MixedPatient || s.Versions[0].OtherPatient || !s.Versions[1].OtherPatient {
		t.Errorf("two patients: %+v", s)
	}
	// Who asks for the other patient finds that, and is told that this node gives this one's images.
	f := r[0].finds("patient=G1")
	if s := one(f); s.Name != grace.Name || s.PatientID != "G1" || s.Instances != 8 || strings.Join(s.Modalities, " ") != "MR" || !s.MixedPatient || s.Availability != "UNAVAILABLE" ||
		s.Versions[0].Trust != "RX2" || s.Versions[0].OtherPatient || s.Versions[1].Trust != "RX1" || !s.Versions[1].OtherPatient {
		t.Errorf("the other patient: %+v", s)
	}
	if !slices.ContainsFunc(f.Warnings, func(w string) bool { return strings.Contains(w, "(1.2.3.3) what matches is a version that names") }) {
		t.Errorf("the other patient: %q", f.Warnings)
	}
	res, b := r[0].get("/dicom-web/studies?PatientID=G1", "application/dicom+json")
	for _, want := range []string{"1.2.3.3", grace.Name, `"00080056":{"vr":"CS","Value":["UNAVAILABLE"]}`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the other patient: no %s in %s", want, b)
		}
	}
	if w := strings.Join(res.Header.Values("Warning"), " "); strings.Contains(string(b), ada.Name) || !strings.Contains(w, "(1.2.3.3) what matches is a version that names") {
		t.Errorf("the other patient: %s %s", b, w)
	}
	// Its series are not listed with this one's.
	if res, b := r[0].get("/dicom-web/series?PatientID=G1", "application/dicom+json"); strings.Contains(string(b), "1.2.3.3") {
		t.Errorf("series of two patients: %s %s", res.Status, b)
	}
	if got := r[1].searched("PatientID=G1"); len(got) != 1 {
		t.Errorf("where it is the other patient's: %v", got)
	}
}

// What is here of a study is given whoever else has told of it: one that is out
// of reach, or one that tells of what cannot be brought.
func TestWhatIsHereIsGivenWhoeverElseTellsOfIt(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	a, b, c := r[0], r[1], r[2]
	kept := make(map[string][][]byte)
	knows := func(tr *trust, uid string) {
		tr.wait("knows both versions of "+uid, func() (bool, string) {
			f := tr.finds("study=" + uid)
			return len(f.Studies) == 1 && len(f.Studies[0].Versions) == 2, fmt.Sprintf("%+v", f.Studies)
		})
	}
	const less, more, void = "1.2.3.1", "1.2.3.2", "1.2.3.3" // what the other one tells of
	for _, uid := range []string{less, more, void} {
		kept[uid] = images(uid, 3)
		a.stores(kept[uid])
		b.copies(uid, kept[uid], a)
	}
	b.stop()
	others := func(uid string, n int) (out [][]byte) {
		for _, i := range study(uid, ada, "20200101", 3+n)[3:] {
			out = append(out, i.Bytes())
		}
		return out
	}
	c.stores(others(less, 1))
	c.stores(others(more, 7))
	st, err := index.StudyStatement(index.Study{UID: void, Name: ada.Name, BirthDate: ada.BirthDate, Revision: 1, Instances: 1<<31 - 1, Bytes: 1<<63 - 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.n.Archive().Index.Append(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	for uid := range kept {
		knows(a, uid)
	}
	c.stop()
	b.start()
	for uid, want := range kept {
		knows(b, uid)
		for _, tr := range []*trust{a, b} {
			tr.reads(uid, want)
			for path, parts := range map[string]int{"/metadata": 3, "/instances": 3, "/series": 1, "/series/" + uid + ".1/instances/" + uid + ".1.1/metadata": 1} {
				resp, body := tr.get("/dicom-web/studies/"+uid+path, "application/dicom+json")
				var list []any
				if err := json.Unmarshal(body, &list); err != nil || resp.StatusCode != 200 || len(list) != parts {
					t.Errorf("%s, %s%s: %d, %d of %d, %v", tr.home.Config.Trust, uid, path, resp.StatusCode, len(list), parts, err)
				}
			}
			res, _ := tr.get("/dicom-web/studies/"+uid+"/metadata", "application/dicom+json")
			if w := strings.Join(res.Header.Values("Warning"), " "); !strings.Contains(w, "RX3 has told of more") && !strings.Contains(w, "RX3 tells of this study and names no list") {
				t.Errorf("%s says nothing of what it lacks of %s: %q", tr.home.Config.Trust, uid, w)
			}
		}
		if s := b.finds("study=" + uid).Studies[0]; s.Name != ada.Name || s.Bytes < 0 || (s.Availability == "ONLINE") != (uid == void) {
			t.Errorf("%+v", s)
		}
	}
	// What nobody can give now is not said to be unknown.
	if resp, body := b.get("/dicom-web/studies/"+less+"/series/"+less+".1/instances/"+less+".1.4", "*/*"); resp.StatusCode != 503 {
		t.Errorf("an instance that only the other one has: %d %.200s", resp.StatusCode, body)
	}
}

// One trust filed two people's images under one Study Instance UID: who looks for
// either learns that images may be his, and is told whose else.
func TestAMixedStudyIsFoundByEachPatientsNumber(t *testing.T) {
	r := region(t, "RX1", "RX2")
	list := study("1.2.3.1", ada, "20240101", 3)
	list[1].PatientID, list[1].Name, list[1].BirthDate = grace.PatientID, grace.Name, grace.BirthDate
	list[2].PatientID, list[2].Name, list[2].BirthDate = grace.PatientID, grace.Name, grace.BirthDate // said once
	r[0].imports(list...)
	for _, tr := range r {
		for _, number := range []string{ada.PatientID, grace.PatientID} {
			tr.wait("finds it by "+number, func() (bool, string) {
				f := tr.finds("patient=" + number)
				return len(f.Studies) == 1 && f.Studies[0].MixedPatient && f.Studies[0].Instances == 3 &&
					slices.ContainsFunc(f.Warnings, func(w string) bool {
						return strings.Contains(w, "name several patients") && strings.Contains(w, "1.2.3.1")
					}), fmt.Sprintf("%+v", f)
			})
			res, b := tr.get("/dicom-web/studies?PatientID="+number, "application/dicom+json")
			if w := strings.Join(res.Header.Values("Warning"), " "); !strings.Contains(string(b), "1.2.3.1") || !strings.Contains(w, "name several patients") {
				t.Errorf("by %s at %s: %s %q", number, tr.home.Config.Trust, b, w)
			}
		}
		res, _ := tr.get("/dicom-web/studies/1.2.3.1/metadata", "application/dicom+json")
		if w := strings.Join(res.Header.Values("Warning"), " "); res.StatusCode != 200 || !strings.Contains(w, "name several patients") {
			t.Errorf("its images at %s: %d %q", tr.home.Config.Trust, res.StatusCode, w)
		}
	}
}

// An NHS number is one number however it is written, also where a Patient ID is asked for.
func TestAnNHSNumberIsFoundAsAPatientIDHoweverItIsWritten(t *testing.T) {
	r := region(t, "RX1")
	for i, number := range []string{"9434765919", "943 476 5919", "943-476-5919"} {
		one := ada
		one.PatientID, one.Issuer = number, "NHS"
		r[0].imports(study(fmt.Sprint("1.2.3.", i), one, "20240101", 1)...)
	}
	other := ada
	other.PatientID, other.Issuer = "9434765919", "RX9"
	r[0].imports(study("1.2.3.9", other, "20240101", 1)...)
	for _, asked := range []string{"9434765919", "943%20476%205919", "943-476-5919"} {
		if f := r[0].finds("patient=" + asked + "&issuer=NHS"); len(f.Studies) != 3 {
			t.Errorf("%s: %d studies", asked, len(f.Studies))
		}
		if got := r[0].searched("PatientID=" + asked + "&IssuerOfPatientID=NHS"); len(got) != 3 {
			t.Errorf("QIDO, %s: %v", asked, got)
		}
	}
	// Without an issuer a Patient ID is what was written; of what it does not find as the NHS number that it is there is a word.
	for asked, hint := range map[string]bool{"9434765919": false, "943%20476%205919": false, "943-4765919": true} {
		res, _ := r[0].get("/dicom-web/studies?PatientID="+asked, "application/dicom+json")
		w := strings.Join(res.Header.Values("Warning"), " ")
		f := r[0].finds("patient=" + asked)
		for where, said := range map[string]string{"QIDO": w, "find": strings.Join(f.Warnings, " ")} {
			if strings.Contains(said, "3 studies are not found by this Patient ID although they have its digits as an NHS number") != hint {
				t.Errorf("%s, %s: %q (%d studies)", where, asked, said, len(f.Studies))
			}
		}
	}
	if f := r[0].finds("patient=9434765919&issuer=RX9"); len(f.Studies) != 1 {
		t.Errorf("of another issuer: %+v", f.Studies)
	}
}

// tells has a node say something of a study that it never received.
func (tr *trust) tells(s index.Study) {
	tr.t.Helper()
	s.Revision, s.Series, s.Date = max(s.Revision, 1), 1, "20200101"
	st, err := index.StudyStatement(s)
	if err == nil {
		_, err = tr.n.Archive().Index.Append(context.Background(), st)
	}
	if err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *trust) waitVersions(uid string, n int) {
	tr.t.Helper()
	tr.wait("knows the versions", func() (bool, string) {
		s := tr.find(uid)
		return len(s) == 1 && len(s[0].Versions) == n, fmt.Sprintf("%+v", s)
	})
}

// A member that tells of instances and names no list of them keeps nobody from what
// others have.
func TestAVersionWithoutAListKeepsNothingBack(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	want := study("1.2.3.1", ada, "20200101", 3)
	r[1].imports(want...)
	r[0].wait("knows all", func() (bool, string) { s := r[0].find("1.2.3.1"); return len(s) == 1 && s[0].Instances == 3, "" })
	lie := index.Study{UID: "1.2.3.1", Patient: []index.PatientID{{ID: ada.PatientID, Issuer: "TEST"}}, Name: ada.Name, BirthDate: ada.BirthDate, Instances: 1 << 40, Bytes: 1 << 60, Modalities: []string{"CT"}}
	r[2].tells(lie)
	lie.UID, lie.Manifest = "1.2.3.2", []byte("no reference")
	r[2].tells(lie)
	r[0].waitVersions("1.2.3.1", 2)
	r[0].waitVersions("1.2.3.2", 1)

	for _, path := range []string{"", "/metadata", "/series", "/instances", "/series/1.2.3.1.1/instances/" + want[2].SOP + "/metadata"} {
		res, b := r[0].get("/dicom-web/studies/1.2.3.1"+path, map[bool]string{true: "", false: "application/dicom+json"}[path == ""])
		if w := strings.Join(res.Header.Values("Warning"), " "); res.StatusCode != 200 || !strings.Contains(w, "RX3 ") && !strings.Contains(path, want[2].SOP) {
			t.Errorf("%q: %d %.300s, Warning %q", path, res.StatusCode, b, w)
		}
	}
	code, header, parts := r[0].retrieve("studies/1.2.3.1")
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "RX3 tells of this study and names no list of its contents") {
		t.Errorf("%d, Warning %q", code, w)
	}
	same(t, parts, want)
	r[0].waitAvailability("1.2.3.1", "ONLINE")
	r[0].wait("has brought it", func() (bool, string) {
		var f api.Fetch
		r[0].operator("GET", "/api/v1/fetches/1.2.3.1", nil, &f)
		return f.State == "here", fmt.Sprintf("%+v", f)
	})
	s := r[0].find("1.2.3.1")[0]
	if s.Instances != 3 || s.AtLeast || s.MixedPatient || s.Versions[0].Trust != "RX2" || !s.Versions[1].Unlisted || s.Versions[1].OtherPatient {
		t.Errorf("%+v", s)
	}
	// Where nobody has more than a word of it, that is said.
	for _, path := range []string{"studies/1.2.3.2", "studies/1.2.3.2/series"} {
		if code, _, b := r[0].retrieve(path); path == "studies/1.2.3.2" && (code != 503 || !strings.Contains(string(b[0]), "RX3 tells of this study and names no list")) {
			t.Errorf("%s: %d %s", path, code, b)
		}
	}
	if res, b := r[0].get("/dicom-web/studies/1.2.3.2/series", "application/dicom+json"); res.StatusCode != 503 || !strings.Contains(string(b), "RX3 tells of this study and names no list") {
		t.Errorf("series: %d %s", res.StatusCode, b)
	}
	r[0].wait("says why it cannot be brought", func() (bool, string) {
		var f api.Fetch
		r[0].operator("GET", "/api/v1/fetches/1.2.3.2", nil, &f)
		return f.State == "waiting" && f.Attempts < 20 && strings.Contains(f.Error, "names no list of its contents"), fmt.Sprintf("%+v", f)
	})
}

// Of a study that two trusts received a third gives what it has, whoever is away.
func TestWhatIsHereIsGivenWhicheverTrustIsAway(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	a, b, c := r[0], r[1], r[2]
	all := study("1.2.3.1", ada, "20200101", 5)
	for i := range all[2:] {
		all[2+i].Series = "1.2.3.1.2"
	}
	a.imports(all[:2]...)
	c.wait("knows the study", func() (bool, string) { s := c.find("1.2.3.1"); return len(s) == 1 && s[0].Instances == 2, "" })
	_, _, parts := c.retrieve("studies/1.2.3.1")
	same(t, parts, all[:2])
	c.waitAvailability("1.2.3.1", "ONLINE")
	// RX2 receives more of it while RX3 is away, and is away when that is back.
	c.stop()
	b.imports(all[2:]...)
	a.wait("knows all of the other version", func() (bool, string) {
		s := a.find("1.2.3.1")
		return len(s[0].Versions) == 2 && s[0].Versions[1].Instances == 3, ""
	})
	b.stop()
	c.start()
	c.waitVersions("1.2.3.1", 2)
	missing := "RX2 has told of more of this study than is here yet"
	code, header, parts := c.retrieve("studies/1.2.3.1")
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, missing) {
		t.Errorf("%d, Warning %q", code, w)
	}
	same(t, parts, all[:2])
	code, _, parts = c.retrieve("studies/1.2.3.1/series/1.2.3.1.1/instances/" + all[1].SOP)
	if code != 200 {
		t.Fatalf("an instance that is here: %d %s", code, parts)
	}
	same(t, parts, all[1:2])
	for _, path := range []string{"/metadata", "/series", "/instances"} {
		res, body := c.get("/dicom-web/studies/1.2.3.1"+path, "application/dicom+json")
		if w := strings.Join(res.Header.Values("Warning"), " "); res.StatusCode != 200 || !strings.Contains(string(body), "1.2.3.1.1") || !strings.Contains(w, missing) {
			t.Errorf("%s: %d %.300s, Warning %q", path, res.StatusCode, body, w)
		}
	}
	// What only RX2 has is not denied.
	if code, _, _ := c.retrieve("studies/1.2.3.1/series/1.2.3.1.2"); code != 503 {
		t.Errorf("a series that is elsewhere: %d", code)
	}
	if res, body := c.get("/dicom-web/studies/1.2.3.1/series/1.2.3.1.2/instances", "application/dicom+json"); res.StatusCode != 503 {
		t.Errorf("its instances: %d %s", res.StatusCode, body)
	}
	if s := c.find("1.2.3.1")[0]; !s.PartlyHere || s.Availability != "NEARLINE" {
		t.Errorf("%+v", s)
	}
	b.start()
	c.waitAvailability("1.2.3.1", "ONLINE")
	_, _, parts = c.retrieve("studies/1.2.3.1")
	same(t, parts, slices.Concat(all[2:], all[:2])) // who has more of it is first
}

// A member that gives a patient's study another name and many instances does not take
// it out of answers, nor out of reach.
func TestAnotherNameDisplacesNobody(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	want := study("1.2.3.1", ada, "20200101", 3)
	r[1].imports(want...)
	r[2].wait("knows all", func() (bool, string) { s := r[2].find("1.2.3.1"); return len(s) == 1 && s[0].Instances == 3, "" })
	said, _ := r[2].n.Archive().Index.Study("1.2.3.1")
	r[2].tells(index.Study{UID: "1.2.3.1", Patient: []index.PatientID{{ID: "O1", Issuer: "TEST"}}, Name: "Other^Oscar", BirthDate: "19500101", Instances: 900, Manifest: said[0].Value.Manifest, Modalities: []string{"CT"}})
	r[0].waitVersions("1.2.3.1", 2)
	r[0].wait("knows all of the patient's", func() (bool, string) {
		f := r[0].finds("patient=" + ada.PatientID)
		return len(f.Studies) == 1 && f.Studies[0].Instances == 3, fmt.Sprintf("%+v", f.Studies)
	})

	for patient, name := range map[string]string{ada.PatientID: ada.Name, "O1": "Other^Oscar"} {
		f := r[0].finds("patient=" + patient)
		if len(f.Studies) != 1 || f.Studies[0].Name != name || f.Studies[0].PatientID != patient || !f.Studies[0].MixedPatient || len(f.Studies[0].Versions) != 2 || !f.Studies[0].Versions[1].OtherPatient {
			t.Errorf("%s: %+v", patient, f)
		}
		res, b := r[0].get("/dicom-web/studies?PatientID="+patient, "application/dicom+json")
		if w := strings.Join(res.Header.Values("Warning"), " "); strings.Count(string(b), `"0020000D"`) != 1 || !strings.Contains(string(b), name) || !strings.Contains(w, "another patient") {
			t.Errorf("%s: %s, Warning %q", patient, b, w)
		}
	}
	if s := r[0].finds("patient=" + ada.PatientID).Studies[0]; s.Instances != 3 {
		t.Errorf("counted together: %+v", s)
	}
	// It is read although nobody can give what is told under the other name.
	code, header, parts := r[0].retrieve("studies/1.2.3.1")
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "another patient") {
		t.Errorf("%d, Warning %q", code, w)
	}
	same(t, parts, want)
	// It is brought, and then the other's word goes behind it.
	var f api.Fetch
	if code := r[0].operator("POST", "/api/v1/fetches", []byte(`{"study": "1.2.3.1"}`), &f); code != 202 {
		t.Fatalf("%d %+v", code, f)
	}
	r[0].wait("has the patient's", func() (bool, string) {
		f := r[0].finds("patient=" + ada.PatientID)
		return len(f.Studies) == 1 && f.Studies[0].Availability == "ONLINE", fmt.Sprintf("%+v", f.Studies)
	})
	code, header, parts = r[0].retrieve("studies/1.2.3.1")
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "RX3") || !strings.Contains(w, "another patient") {
		t.Errorf("%d, Warning %q", code, w)
	}
	same(t, parts, want)
	if s := r[0].finds("patient=O1").Studies[0]; s.Availability != "UNAVAILABLE" {
		t.Errorf("%+v", s)
	}
}

// Two trusts received studies of two people under one UID. Where nothing of it is here
// either is found by who looks for it, both are brought, and one alone is given.
func TestTwoPeopleUnderOneUIDAreBothFoundWhereNothingIsHere(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	a, b, c := r[0], r[1], r[2]
	const uid = "1.2.3.1"
	hers, other := study(uid, ada, "20200101", 2), study(uid, grace, "20210101", 3)
	for i := range other {
		other[i].Modality, other[i].Series, other[i].SOP = "MR", uid+".2", fmt.Sprintf("%s.2.%d", uid, i+1)
	}
	a.imports(hers...)
	b.imports(other...)
	people := []struct {
		patient, name, trust string
		images               []dicomtest.Instance
	}{{ada.PatientID, ada.Name, "RX1", hers}, {grace.PatientID, grace.Name, "RX2", other}}
	c.wait("knows all of both", func() (bool, string) {
		s := c.find(uid)
		return len(s) == 1 && len(s[0].Versions) == 2 && s[0].Versions[0].Instances+s[0].Versions[1].Instances == 5, fmt.Sprintf("%+v", s)
	})
	both := func(here bool) {
		t.Helper()
		code, header, parts := c.retrieve("studies/" + uid)
		if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "another patient") {
			t.Fatalf("%d, Warning %q", code, w)
		}
		certain := 0
		for _, p := range people {
			f := c.finds("patient=" + p.patient)
			if len(f.Studies) != 1 {
				t.Fatalf("%s: %+v", p.patient, f)
			}
			s := f.Studies[0]
			if s.Name != p.name || s.PatientID != p.patient || s.Instances != len(p.images) || !s.MixedPatient || len(s.Versions) != 2 || s.Versions[0].Trust != p.trust || s.Versions[0].OtherPatient || !s.Versions[1].OtherPatient {
				t.Errorf("%s: %+v", p.patient, s)
			}
			if got := c.searched("PatientID=" + p.patient); !slices.Equal(got, []string{uid}) {
				t.Errorf("%s: %v", p.patient, got)
			}
			if s.Availability == "UNAVAILABLE" {
				if !slices.ContainsFunc(f.Warnings, func(w string) bool {
					return strings.Contains(w, uid) && strings.Contains(w, "what matches is a version that names")
				}) {
					t.Errorf("%s: nothing is said of it: %q", p.patient, f.Warnings)
				}
			} else { // who reads it is given this patient's, and nobody's else
				certain++
				if here || len(parts) == len(p.images) {
					same(t, parts, p.images)
				}
			}
			// An instance of either is given to who names it.
			code, _, one := c.retrieve("studies/" + uid + "/series/" + p.images[0].Series + "/instances/" + p.images[0].SOP)
			if code != 200 {
				t.Fatalf("%s: %d %s", p.patient, code, one)
			}
			same(t, one, p.images[:1])
		}
		if certain != 1 && (here || certain != 0) {
			t.Errorf("%d rows are of the patient whose images are given", certain)
		}
	}
	both(false)
	c.wait("has brought both", func() (bool, string) {
		here, err := c.n.Archive().Here(uid)
		return here, fmt.Sprint(err)
	})
	a.stop()
	b.stop()
	both(true)
}

// The patient who was asked for is elsewhere and her trust is away: the row says that
// who reads the study may be given somebody else, and that is all of him and nobody else.
func TestWhoIsAwayIsNotTakenForWhoIsThere(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	a, b, c := r[0], r[1], r[2]
	reader := sibling(c, c)
	reader.start()
	const uid, other = "1.2.3.1", "1.2.3.2"
	numbered := func(uid string, p dicomtest.Instance, series string, from, to int) (out []dicomtest.Instance) {
		for _, i := range study(uid, p, "20200101", to)[from-1:] {
			i.Series, i.SOP = uid+series, uid+series+"."+i.SOP[len(i.SOP)-1:]
			out = append(out, i)
		}
		return out
	}
	hers, his, more := numbered(uid, ada, ".1", 1, 5), numbered(uid, grace, ".2", 1, 2), numbered(uid, grace, ".3", 3, 3)
	a.imports(hers...)
	b.imports(his...)
	c.imports(more...)
	reader.wait("knows all", func() (bool, string) {
		s := reader.find(uid)
		return len(s) == 1 && len(s[0].Versions) == 3 && s[0].Versions[0].Instances == 5 && s[0].Versions[1].Instances+s[0].Versions[2].Instances == 3, fmt.Sprintf("%+v", s)
	})
	a.stop()
	f := reader.finds("patient=" + ada.PatientID)
	if len(f.Studies) != 1 || f.Studies[0].Name != ada.Name || f.Studies[0].Instances != 5 || f.Studies[0].Availability != "UNAVAILABLE" {
		t.Errorf("%+v", f.Studies)
	}
	if !slices.ContainsFunc(f.Warnings, func(w string) bool {
		return strings.Contains(w, uid) && strings.Contains(w, "what matches is a version that names")
	}) {
		t.Errorf("%q", f.Warnings)
	}
	if _, b := reader.get("/dicom-web/series?PatientID="+ada.PatientID, "application/dicom+json"); strings.Contains(string(b), uid) {
		t.Errorf("series of another patient are listed as hers: %s", b)
	}
	res, list := reader.get("/dicom-web/studies/"+uid+"/series", "application/dicom+json")
	if res.StatusCode != 200 || strings.Count(string(list), `"0020000E"`) != 2 || !strings.Contains(string(list), uid+".2") || !strings.Contains(string(list), uid+".3") {
		t.Errorf("his series: %d %s", res.StatusCode, list)
	}
	code, header, parts := reader.retrieve("studies/" + uid)
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "another patient") {
		t.Errorf("%d, Warning %q", code, w)
	}
	same(t, parts, slices.Concat(his, more))

	// What a trust received itself is of its patient alone: nobody else's is brought or given beside it.
	mine := numbered(other, ada, ".1", 1, 1)
	c.imports(mine...)
	b.imports(numbered(other, grace, ".2", 1, 3)...)
	c.waitVersions(other, 2)
	if code := c.operator("POST", "/api/v1/fetches", []byte(`{"study": "`+other+`"}`), &api.Fetch{}); code != 202 && code != 200 {
		t.Fatal(code)
	}
	c.wait("is done with it", func() (bool, string) {
		var f api.Fetch
		c.operator("GET", "/api/v1/fetches/"+other, nil, &f)
		return f.State == "here", fmt.Sprintf("%+v", f)
	})
	for range 2 {
		_, _, parts = c.retrieve("studies/" + other)
		same(t, parts, mine)
		if code, _, got := c.retrieve("studies/" + other + "/series/" + other + ".2/instances/" + other + ".2.1"); code == 200 {
			t.Errorf("somebody else's instance is given: %d bytes", len(got[0]))
		}
		if res, b := c.get("/dicom-web/studies/"+other+"/series", "application/dicom+json"); strings.Contains(string(b), other+".2") {
			t.Errorf("somebody else's series are listed: %d %s", res.StatusCode, b)
		}
	}
	if n := c.status().Studies.Copies; n != 0 {
		t.Errorf("%d copies of somebody else's", n)
	}
}

// Dates and times in the form of before 1993 are found as what they are, and given in today's form.
func TestDatesAsTheyWereWritten(t *testing.T) {
	r := region(t, "RX1")
	old := ada
	old.BirthDate = "1915.12.10"
	list := study("1.2.3.1", old, "1994.11.05", 1)
	r[0].imports(list...)
	for _, date := range []string{"19941105", "19941101-19941130"} {
		res, b := r[0].get("/dicom-web/studies?includefield=all&StudyDate="+date, "application/dicom+json")
		if res.StatusCode != 200 || !strings.Contains(string(b), `"00080020":{"vr":"DA","Value":["19941105"]}`) || !strings.Contains(string(b), `"00100030":{"vr":"DA","Value":["19151210"]}`) {
			t.Errorf("%s: %d %s", date, res.StatusCode, b)
		}
	}
	for _, modality := range []string{"CT", "ct"} {
		if got := r[0].searched("ModalitiesInStudy=" + modality); len(got) != 1 {
			t.Errorf("%s: %v", modality, got)
		}
	}
	if s := r[0].find("1.2.3.1")[0]; s.Date != "19941105" || s.BirthDate != "19151210" {
		t.Errorf("%+v", s)
	}
}
