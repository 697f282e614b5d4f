package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/dicom"
)

// drawFiles makes files of few people, studies and instances, so that much is
// shared: patients with several studies, numbers used by several people,
// studies that name two people, SOP Instance UIDs in several studies.
func drawFiles(t *rapid.T) []demoFile {
	people := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) person {
		p := person{
			name: rapid.SampledFrom([]string{"", "DOE^JANE", "DOE^JOHN", "ROE^MARY", "Doe^J"}).Draw(t, "name"),
			born: rapid.SampledFrom([]string{"", "19700101", "19820202", "0"}).Draw(t, "born"),
		}
		for range rapid.IntRange(0, 2).Draw(t, "ids") {
			p.ids = append(p.ids, dicom.PatientID{ID: rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "id"), Issuer: rapid.SampledFrom([]string{demoIssuer, "RX9"}).Draw(t, "issuer")})
		}
		return p
	}), 1, 4).Draw(t, "people")
	type header struct {
		person person
		when   string
	}
	studies := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) header {
		return header{rapid.SampledFrom(people).Draw(t, "person"), rapid.SampledFrom([]string{"", "20010101", "20020202120000", "20030303"}).Draw(t, "when")}
	}), 1, 8).Draw(t, "studies")
	var files []demoFile
	for i := range rapid.IntRange(0, 30).Draw(t, "files") {
		s := rapid.IntRange(0, len(studies)-1).Draw(t, "study")
		f := demoFile{path: fmt.Sprintf("%02d", i), readable: rapid.IntRange(0, 9).Draw(t, "readable") > 0}
		if f.readable {
			f.person, f.when = studies[s].person, studies[s].when
			if rapid.IntRange(0, 19).Draw(t, "mixed") == 0 {
				f.person = rapid.SampledFrom(people).Draw(t, "stranger")
			}
			f.uids = dicom.UIDs{Study: dicom.UID(fmt.Sprintf("1.%d", s)), Series: dicom.UID(fmt.Sprintf("1.%d.1", s)),
				Instance: dicom.UID(fmt.Sprintf("2.%d", rapid.IntRange(0, 40).Draw(t, "instance")))}
		}
		files = append(files, f)
	}
	return files
}

func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		files := drawFiles(t)
		trusts := rapid.IntRange(2, 5).Draw(t, "trusts")
		plan := makePlan(slices.Clone(files), trusts)

		// Every file is in exactly one place.
		times := make([]int, len(files))
		trustOf, bundleOf := map[dicom.UID]int{}, map[dicom.UID]int{}
		for n, b := range plan.bundles {
			if b.trust < 0 || b.trust >= trusts {
				t.Fatalf("a bundle is at trust %d of %d", b.trust, trusts)
			}
			if len(b.arriving) > 0 && b.trust != 0 {
				t.Fatalf("a new study arrives at trust %d", b.trust)
			}
			if !slices.IsSorted(b.imported) || !slices.IsSorted(b.arriving) {
				t.Fatal("files are not offered in the order of paths")
			}
			for _, f := range slices.Concat(b.imported, b.arriving) {
				times[f]++
				u := plan.files[f].uids
				if !plan.files[f].readable {
					if b.trust != 0 || slices.Contains(b.arriving, f) {
						t.Fatal("an unreadable file is not imported at the first trust")
					}
					continue
				}
				// No study is at two trusts; files that share a SOP Instance UID follow each other.
				if at, ok := trustOf[u.Study]; ok && at != b.trust {
					t.Fatalf("study %s is at two trusts", u.Study)
				}
				trustOf[u.Study] = b.trust
				if at, ok := bundleOf[u.Instance]; ok && at != n {
					t.Fatalf("files with SOP Instance UID %s are not in one bundle", u.Instance)
				}
				bundleOf[u.Instance] = n
			}
		}
		if slices.ContainsFunc(times, func(n int) bool { return n != 1 }) {
			t.Fatalf("files are offered %v times", times)
		}

		// A study is wholly imported or wholly arrives.
		arrives, imported := map[dicom.UID]bool{}, map[dicom.UID]bool{}
		for _, b := range plan.bundles {
			for _, f := range b.arriving {
				arrives[plan.files[f].uids.Study] = true
			}
			for _, f := range b.imported {
				imported[plan.files[f].uids.Study] = true
			}
		}
		for uid := range arrives {
			if imported[uid] {
				t.Fatalf("study %s arrives and is imported", uid)
			}
		}

		// Of each patient with several studies exactly the newest arrives.
		studies := studiesOf(plan.files, func(int) bool { return true })
		for _, p := range patientsOf(studies) {
			for i, s := range p {
				if want := i == 0 && len(p) > 1; arrives[studies[s].uid] != want {
					t.Fatalf("study %d of %d of a patient arrives: %v", i, len(p), !want)
				}
				if studies[s].when > studies[p[0]].when {
					t.Fatal("a newer study is called a prior")
				}
			}
		}

		// The order in which the files were found does not matter.
		shuffled := rapid.Permutation(files).Draw(t, "shuffled")
		if again := makePlan(shuffled, trusts); !reflect.DeepEqual(again, plan) {
			t.Fatal("another order of files gives another plan")
		}

		// What is expected was imported at another trust and is of the patient of
		// a study that arrived; refused files take nothing in that nothing else does.
		took := make([]bool, len(files))
		for i := range took {
			took[i] = rapid.Bool().Draw(t, "took")
		}
		accepted := studiesOf(plan.files, func(i int) bool { return took[i] })
		expected, _ := plan.priors(took)
		for _, uid := range expected {
			if trustOf[uid] == 0 || arrives[uid] {
				t.Fatalf("%s is expected although it is at the first trust", uid)
			}
			i := slices.IndexFunc(accepted, func(s *demoStudy) bool { return s.uid == uid })
			if i < 0 || accepted[i].mixed {
				t.Fatalf("%s is expected although nobody took it, or it is of several people", uid)
			}
			if !slices.ContainsFunc(accepted, func(s *demoStudy) bool {
				return arrives[s.uid] && !s.mixed && s.person.confirms(accepted[i].person)
			}) {
				t.Fatalf("%s is expected although no study of its patient arrived", uid)
			}
		}
		if elsewhere, here := plan.priors(make([]bool, len(files))); len(elsewhere)+len(here) > 0 {
			t.Fatal("something is expected although nothing was accepted")
		}
	})
}

// one is a file of its own study.
func one(path, study, when, id, name, born string) demoFile {
	f := demoFile{path: path, readable: true, when: when, person: person{name: name, born: born},
		uids: dicom.UIDs{Study: dicom.UID(study), Series: dicom.UID(study + ".1"), Instance: dicom.UID(study + ".1." + path)}}
	if id != "" {
		f.person.ids = []dicom.PatientID{{ID: id, Issuer: demoIssuer}}
	}
	return f
}

func all(n int) []bool { return slices.Repeat([]bool{true}, n) }

func TestPlanDealsPriorsOut(t *testing.T) {
	files := []demoFile{
		one("a", "1.1", "2001", "7", "DOE^JANE", ""),
		one("b", "1.2", "2002", "7", "DOE^JANE", ""),
		one("c", "1.3", "2003", "7", "DOE^JANE", ""),
		one("d", "1.4", "2004", "7", "DOE^JANE", ""),
		one("e", "1.9", "2005", "8", "ROE^MARY", ""),
	}
	plan := makePlan(files, 3)
	at := map[string]string{}
	for _, b := range plan.bundles {
		for _, f := range b.imported {
			at[plan.files[f].path] = fmt.Sprint(b.trust)
		}
		for _, f := range b.arriving {
			at[plan.files[f].path] = "new"
		}
	}
	delete(at, "e") // anywhere
	if want := map[string]string{"a": "0", "b": "2", "c": "1", "d": "new"}; !maps.Equal(at, want) {
		t.Errorf("dealt %v, want %v", at, want)
	}
	got, here := plan.priors(all(5))
	if want := []dicom.UID{"1.2", "1.3"}; !slices.Equal(got, want) || !slices.Equal(here, []dicom.UID{"1.1"}) {
		t.Errorf("expected %v, want %v; already here %v", got, want, here)
	}
	// Nothing is expected of a new study that no node took, nor of a prior that none took.
	if got, here := plan.priors([]bool{true, true, true, false, true}); len(got)+len(here) > 0 {
		t.Errorf("expected %v although the new study was refused", got)
	}
	got, _ = plan.priors([]bool{true, true, false, true, true})
	if want := []dicom.UID{"1.2"}; !slices.Equal(got, want) {
		t.Errorf("expected %v, want %v", got, want)
	}
	if patient, study := plan.example(); patient != "7" || study != "1.4" {
		t.Errorf("the example is %s %s", patient, study)
	}
}

func TestPlanKeepsConflictsTogether(t *testing.T) {
	files := []demoFile{
		one("a", "1.1", "2001", "7", "DOE^JANE", ""),
		one("b", "1.2", "2002", "7", "DOE^JANE", ""), // arrives
		one("c", "2.1", "2001", "8", "ROE^MARY", ""), // shares its UID with a
		one("d", "3.1", "2001", "9", "POE^ANNE", ""), // shares its UID with b
	}
	files[2].uids.Instance = files[0].uids.Instance
	files[3].uids.Instance = files[1].uids.Instance
	plan := makePlan(files, 3)
	for _, b := range plan.bundles {
		switch got := fmt.Sprint(b.trust, b.imported, b.arriving); got {
		case "1 [0 2] []", "0 [3] [1]":
		default:
			t.Errorf("bundle %s", got)
		}
	}
}

func TestWhoIsOnePatient(t *testing.T) {
	nhs := func(f demoFile) demoFile {
		f.person.nhs = []string{"9434765919"}
		return f
	}
	for name, c := range map[string]struct {
		files []demoFile
		want  string // studies of the patient of the first, the others
	}{
		"number and name":            {[]demoFile{one("a", "1", "", "7", "DOE^JANE", ""), one("b", "2", "", "7", "Doe^Jane", "")}, "1 2"},
		"number and birth":           {[]demoFile{one("a", "1", "", "7", "", "19700101"), one("b", "2", "", "7", "DOE^JANE", "19700101")}, "1 2"},
		"name after marriage":        {[]demoFile{one("a", "1", "", "7", "DOE^JANE", "19700101"), one("b", "2", "", "7", "ROE^JANE", "19700101")}, "1 2"},
		"number only":                {[]demoFile{one("a", "1", "", "7", "", ""), one("b", "2", "", "7", "", "")}, "1"},
		"one number, two people":     {[]demoFile{one("a", "1", "", "7", "DOE^JANE", "19700101"), one("b", "2", "", "7", "ROE^MARY", "19820202")}, "1"},
		"twins":                      {[]demoFile{one("a", "1", "", "7", "DOE^JANE", "19700101"), one("b", "2", "", "7", "DOE^MARY", "19700101")}, "1"},
		"name and birth, no number":  {[]demoFile{one("a", "1", "", "7", "DOE^JANE", "19700101"), one("b", "2", "", "8", "DOE^JANE", "19700101")}, "1"},
		"no date":                    {[]demoFile{one("a", "1", "", "7", "DOE^JANE", "00000000"), one("b", "2", "", "7", "ROE^MARY", "00000000")}, "1"},
		"NHS number":                 {[]demoFile{nhs(one("a", "1", "", "7", "DOE^JANE", "")), nhs(one("b", "2", "", "8", "DOE^JANE", "")), one("c", "3", "", "8", "DOE^JANE", "")}, "1 2 3"},
		"a mixed study is nobody's":  {[]demoFile{one("a", "1", "", "7", "DOE^JANE", ""), one("b", "2", "", "7", "DOE^JANE", ""), one("c", "2", "", "7", "ROE^MARY", "")}, "1"},
		"of a mixed study":           {[]demoFile{one("a", "1", "", "7", "DOE^JANE", ""), one("b", "1", "", "8", "DOE^JANE", ""), one("c", "2", "", "7", "DOE^JANE", "")}, "1"},
		"agreement is not inherited": {[]demoFile{one("a", "1", "", "7", "DOE^JANE", "19700101"), one("b", "2", "", "7", "DOE^J", "19700101"), one("c", "3", "", "7", "ROE^J", "19820202")}, "1 2"},
		"father and son":             {[]demoFile{one("a", "1", "", "7", "DOE^JOHN", "19500304"), one("b", "2", "", "7", "DOE^JOHN", "19800506")}, "1"},
		"a number that is none":      {[]demoFile{one("a", "1", "", "123456", "DOE^JANE", "19700101"), one("b", "2", "", "123456", "DOE^JANE", "19700101")}, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			studies := studiesOf(c.files, func(int) bool { return true })
			var got []string
			for _, s := range patientOf(studies[0], studies) {
				got = append(got, string(s.uid))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

// realData is a folder of real files beside the repository.
func realData(t *testing.T) string {
	t.Helper()
	dir := filepath.FromSlash("../../../shared/testdata/dicom")
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("the real DICOM files are not beside the repository")
	}
	return dir
}

// Three people use Patient ID 123456. They stay three, wherever their studies are.
func TestPlanOfRealFiles(t *testing.T) {
	files, err := scanFolder(realData(t))
	if err != nil {
		t.Fatal(err)
	}
	plan := makePlan(files, 3)
	studies := studiesOf(plan.files, func(int) bool { return true })
	named := func(s *demoStudy, id string) bool {
		return slices.ContainsFunc(s.person.ids, func(p dicom.PatientID) bool { return p.ID == id })
	}
	people := map[string]bool{}
	for _, s := range studies {
		if !named(s, "123456") {
			continue
		}
		people[dicom.FoldName(s.person.name)] = true
		for _, o := range patientOf(s, studies) {
			if !dicom.NamesAgree(o.person.name, s.person.name) && o != s {
				t.Errorf("study %s and %s are called one patient's", s.uid.Short(), o.uid.Short())
			}
		}
	}
	if len(people) != 3 {
		t.Errorf("Patient ID 123456 is used by %d people in the files, want 3", len(people))
	}
	doe := 0
	for _, s := range studies {
		if named(s, "98890234") {
			doe++
			if n := len(patientOf(s, studies)); n < 4 {
				t.Errorf("patient 98890234 has %d studies, want at least 4", n)
			}
		}
	}
	if doe < 4 {
		t.Errorf("%d studies of patient 98890234", doe)
	}
	if elsewhere, _ := plan.priors(all(len(files))); len(elsewhere) < 2 {
		t.Errorf("%d priors are to be brought", len(elsewhere))
	}
}

func TestScanFolderOffersEverything(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b/not-dicom.txt", "a.empty", "b/c/also"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("x", len(name)-7)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := scanFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.path)
		if f.readable {
			t.Errorf("%s is called readable", f.path)
		}
	}
	if want := []string{"a.empty", "b/c/also", "b/not-dicom.txt"}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if _, err := scanFolder(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there is scanned")
	}
}
