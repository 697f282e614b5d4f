package node_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom/dicomtest"
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
	for _, uid := range []string{"1.2.3.1", "1.2.3.2", "1.2.3.3"} {
		for _, tr := range r {
			tr.wait("knows both versions", func() (bool, string) {
				f := tr.finds("study=" + uid)
				return len(f.Studies) == 1 && len(f.Studies[0].Versions) == 2 && f.Studies[0].Versions[0].Instances+f.Studies[0].Versions[1].Instances >= 5, fmt.Sprintf("%+v", f.Studies)
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
	// Who asks for the other patient is not given this one's images, and is told.
	if f := r[0].finds("patient=G1"); len(f.Studies) != 0 || !slices.ContainsFunc(f.Warnings, func(w string) bool { return strings.Contains(w, "left out") && strings.Contains(w, "1.2.3.3") }) {
		t.Errorf("the other patient: %+v", f)
	}
	if res, b := r[0].get("/dicom-web/studies?PatientID=G1", "application/dicom+json"); strings.Contains(string(b), "1.2.3.3") || !strings.Contains(strings.Join(res.Header.Values("Warning"), " "), "left out") {
		t.Errorf("the other patient: %s %s", b, res.Header)
	}
	if got := r[1].searched("PatientID=G1"); len(got) != 1 {
		t.Errorf("where it is the other patient's: %v", got)
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
	if f := r[0].finds("patient=9434765919&issuer=RX9"); len(f.Studies) != 1 {
		t.Errorf("of another issuer: %+v", f.Studies)
	}
}
