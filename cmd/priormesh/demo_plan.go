package main

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
)

// The demo's own idea of what must happen, worked out from the files and from
// nothing that a node says: who has which study first, and which priors must
// come to the first trust.

// demoIssuer is the numbering that the demo's trusts share.
const demoIssuer = "DEMO"

// demoFile is a file of the data folder and what the demo read in it.
type demoFile struct {
	path     string // in the data folder, with slashes
	size     int64
	readable bool // it could be scanned; if not, a node is to say why
	uids     dicom.UIDs
	person   person
	when     string // Study Date and Time
}

// person is whom an instance says it is of.
type person struct {
	ids        []dicom.PatientID // qualified
	nhs        []string
	name, born string
}

// nhsIssuers are who issues NHS numbers, as instances name them.
var nhsIssuers = []string{"NHS", "2.16.840.1.113883.2.1.4.1", "https://fhir.nhs.uk/Id/nhs-number"}

func personOf(d dicom.Dataset) person {
	p := person{name: d.String(dicom.TagPatientName), born: d.String(dicom.TagPatientBirthDate)}
	for _, id := range d.PatientIDs() {
		if id.ID == "" {
			continue
		}
		if id.Issuer == "" {
			id.Issuer = demoIssuer
		}
		p.ids = append(p.ids, dicom.PatientID{ID: id.ID, Issuer: id.Issuer})
		if n, ok := dicom.NHSNumber(id.ID); ok && slices.Contains(nhsIssuers, id.Issuer) {
			p.nhs = append(p.nhs, n)
		}
	}
	return p
}

// numbers are what p is known by: qualified identifiers and NHS numbers, but not what stands for none.
func (p person) numbers() []dicom.PatientID {
	all := slices.DeleteFunc(slices.Clone(p.ids), func(id dicom.PatientID) bool {
		return index.Identifier{ID: id.ID, Issuer: id.Issuer}.Nobody()
	})
	for _, n := range p.nhs {
		all = append(all, dicom.PatientID{ID: n, Issuer: nhsIssuers[0]})
	}
	return all
}

// confirms reports whether names or dates of birth bear it out that two who
// have a number in common are one person. Twins have one date of birth and one
// family name; a father and a son have one name and two dates of birth.
func (p person) confirms(q person) bool {
	born, err := time.Parse("20060102", strings.ReplaceAll(p.born, ".", ""))
	other, oerr := time.Parse("20060102", strings.ReplaceAll(q.born, ".", ""))
	switch {
	case err == nil && oerr == nil && !born.Equal(other):
		return false
	case dicom.NamesAgree(p.name, q.name):
		return true
	case err != nil || oerr != nil:
		return false
	}
	family, given := nameParts(p.name)
	otherFamily, otherGiven := nameParts(q.name)
	twins := family != "" && family == otherFamily && given != "" && otherGiven != "" &&
		!strings.HasPrefix(given, otherGiven) && !strings.HasPrefix(otherGiven, given)
	return !twins
}

// another reports whether two are two people: both dates of birth are known, and names and dates do not bear out that they are one.
func (p person) another(q person) bool {
	for _, born := range []string{p.born, q.born} {
		if _, err := time.Parse("20060102", strings.ReplaceAll(born, ".", "")); err != nil {
			return false
		}
	}
	return !p.confirms(q)
}

func nameParts(name string) (family, given string) {
	group, _, _ := strings.Cut(dicom.FoldName(name), "=")
	parts := strings.Split(group, "^")
	if len(parts) > 1 {
		given = parts[1]
	}
	return parts[0], given
}

// contradicts reports whether two instances of one study name two people.
func (p person) contradicts(q person) bool {
	main := func(x person) dicom.PatientID {
		if len(x.ids) == 0 {
			return dicom.PatientID{}
		}
		return x.ids[0]
	}
	a, b := main(p), main(q)
	return a.ID != "" && b.ID != "" && a != b ||
		p.born != "" && q.born != "" && p.born != q.born ||
		p.name != "" && q.name != "" && !dicom.NamesAgree(p.name, q.name)
}

// demoStudy is a study as its files tell it.
type demoStudy struct {
	uid    dicom.UID
	files  []int // in the order of paths
	person person
	mixed  bool // its instances name several people: it is certainly nobody's
	when   string
}

// studiesOf groups files by study, in the order of UIDs. Only files that take
// is true for are looked at.
func studiesOf(files []demoFile, take func(i int) bool) []*demoStudy {
	byUID := map[dicom.UID]*demoStudy{}
	var all []*demoStudy
	for i, f := range files {
		if !f.readable || !take(i) {
			continue
		}
		s := byUID[f.uids.Study]
		if s == nil {
			s = &demoStudy{uid: f.uids.Study, person: f.person, when: f.when}
			byUID[s.uid] = s
			all = append(all, s)
		}
		s.mixed = s.mixed || slices.ContainsFunc(s.files, func(j int) bool { return files[j].person.contradicts(f.person) })
		s.files = append(s.files, i)
	}
	slices.SortFunc(all, func(a, b *demoStudy) int { return cmp.Compare(a.uid, b.uid) })
	return all
}

// patientOf are the studies that are certainly of the patient of one of them,
// that one included: those that carry one of the patient's numbers and agree
// with it. The patient's numbers are its own and those of studies found so.
// Who agrees with two people under such a number is certainly neither's.
func patientOf(one *demoStudy, studies []*demoStudy) []*demoStudy {
	if one.mixed {
		return []*demoStudy{one}
	}
	found := []*demoStudy{one}
	for i := 0; i < len(found); i++ {
		numbers := found[i].person.numbers()
		for _, s := range studies {
			if !s.mixed && !slices.Contains(found, s) && s.bears(numbers) && one.person.confirms(s.person) && !torn(one, s, studies) {
				found = append(found, s)
			}
		}
	}
	return found
}

func (s *demoStudy) bears(numbers []dicom.PatientID) bool {
	return slices.ContainsFunc(s.person.numbers(), func(n dicom.PatientID) bool { return slices.Contains(numbers, n) })
}

// torn reports whether a study with a number of either agrees with one of them and is another person's than the other.
func torn(a, b *demoStudy, studies []*demoStudy) bool {
	return slices.ContainsFunc(studies, func(s *demoStudy) bool {
		if s.mixed || !s.bears(a.person.numbers()) && !s.bears(b.person.numbers()) {
			return false
		}
		return s.person.confirms(a.person) && s.person.another(b.person) || s.person.confirms(b.person) && s.person.another(a.person)
	})
}

// groups joins n things that belong together in pairs.
type groups []int

func newGroups(n int) groups {
	g := make(groups, n)
	for i := range g {
		g[i] = i
	}
	return g
}

func (g groups) of(i int) int {
	for g[i] != i {
		g[i] = g[g[i]]
		i = g[i]
	}
	return i
}

func (g groups) join(i, j int) { g[g.of(j)] = g.of(i) }

// demoPlan says where each file is offered first.
type demoPlan struct {
	files   []demoFile // in the order of paths
	trusts  int
	bundles []bundle
}

// bundle is files that go to one trust one after the other: a study, or
// several that share a SOP Instance UID, so that the trust sees the conflict
// and which of them it keeps does not depend on chance.
type bundle struct {
	trust    int   // from 0
	imported []int // before the new studies arrive
	arriving []int // by STOW-RS, as new
}

// makePlan spreads files over trusts. Of a patient with several studies the
// newest arrives at the first trust and the earlier ones are dealt out from
// the second trust on; a patient's only study lies with any trust. No study is
// at two trusts. What cannot be read goes to the first trust.
func makePlan(files []demoFile, trusts int) demoPlan {
	slices.SortFunc(files, func(a, b demoFile) int { return cmp.Compare(a.path, b.path) })
	studies := studiesOf(files, func(int) bool { return true })

	bundleOf := newGroups(len(studies))
	firstWith := map[dicom.UID]int{}
	for i, s := range studies {
		for _, f := range s.files {
			sop := files[f].uids.Instance
			if j, ok := firstWith[sop]; ok {
				bundleOf.join(j, i)
			} else {
				firstWith[sop] = i
			}
		}
	}

	at := map[int]int{} // bundle -> trust
	arrives := map[int]bool{}
	patients := patientsOf(studies)
	for _, p := range patients {
		if len(p) > 1 {
			arrives[p[0]] = true
			at[bundleOf.of(p[0])] = 0
		}
	}
	for _, p := range patients {
		next := 1
		for _, s := range p {
			b := bundleOf.of(s)
			if _, placed := at[b]; placed {
				continue
			}
			if len(p) == 1 {
				h := fnv.New32a()
				h.Write([]byte(studies[s].uid))
				at[b] = int(h.Sum32() % uint32(trusts))
				continue
			}
			at[b] = next % trusts
			next++
		}
	}

	plan := demoPlan{files: files, trusts: trusts}
	made := map[int]int{}
	for i, s := range studies {
		b := bundleOf.of(i)
		n, ok := made[b]
		if !ok {
			n = len(plan.bundles)
			made[b] = n
			plan.bundles = append(plan.bundles, bundle{trust: at[b]})
		}
		if arrives[i] {
			plan.bundles[n].arriving = append(plan.bundles[n].arriving, s.files...)
		} else {
			plan.bundles[n].imported = append(plan.bundles[n].imported, s.files...)
		}
	}
	for i, f := range files {
		if !f.readable {
			plan.bundles = append(plan.bundles, bundle{imported: []int{i}})
		}
	}
	for _, b := range plan.bundles {
		slices.Sort(b.imported)
		slices.Sort(b.arriving)
	}
	return plan
}

// patientsOf groups studies that have numbers in common and confirm each other,
// directly or by way of others; in each group the newest comes first.
func patientsOf(studies []*demoStudy) [][]int {
	g := newGroups(len(studies))
	byNumber := map[dicom.PatientID][]int{}
	for i, s := range studies {
		if s.mixed {
			continue
		}
		for _, n := range s.person.numbers() {
			for _, j := range byNumber[n] {
				if studies[j].person.confirms(s.person) {
					g.join(j, i)
				}
			}
			byNumber[n] = append(byNumber[n], i)
		}
	}
	byGroup := map[int][]int{}
	var order []int
	for i := range studies {
		k := g.of(i)
		if byGroup[k] == nil {
			order = append(order, k)
		}
		byGroup[k] = append(byGroup[k], i)
	}
	var out [][]int
	for _, k := range order {
		p := byGroup[k]
		slices.SortFunc(p, func(a, b int) int {
			return cmp.Or(cmp.Compare(studies[b].when, studies[a].when), cmp.Compare(studies[b].uid, studies[a].uid))
		})
		out = append(out, p)
	}
	return out
}

// priors are the studies that are certainly of the patient of a study that
// arrived. Those accepted at another trust must come to the first one, the
// others are there already. accepted says of each file whether a node took it.
func (p demoPlan) priors(accepted []bool) (elsewhere, here []dicom.UID) {
	arriving, at := map[int]bool{}, map[int]int{}
	for _, b := range p.bundles {
		for _, f := range b.arriving {
			arriving[f] = true
		}
		for _, f := range b.imported {
			at[f] = b.trust
		}
	}
	studies := studiesOf(p.files, func(i int) bool { return accepted[i] })
	prior := map[dicom.UID]int{} // and which trust took it
	for _, s := range studies {
		if !arriving[s.files[0]] {
			continue
		}
		for _, other := range patientOf(s, studies) {
			if trust, imported := at[other.files[0]]; imported {
				prior[other.uid] = trust
			}
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(prior)) {
		if prior[uid] > 0 {
			elsewhere = append(elsewhere, uid)
		} else {
			here = append(here, uid)
		}
	}
	return elsewhere, here
}

// example is a patient who has priors, for a person to look at: the Patient ID
// and the study that arrives.
func (p demoPlan) example() (patient string, study dicom.UID) {
	for _, b := range p.bundles {
		for _, f := range b.arriving {
			if ids := p.files[f].person.ids; len(ids) > 0 {
				return ids[0].ID, p.files[f].uids.Study
			}
		}
	}
	return "", ""
}

// scanFolder reads what the files of a folder say. Files that cannot be
// scanned are in it too.
func scanFolder(dir string) ([]demoFile, error) {
	var files []demoFile
	err := walk([]string{dir}, func(f found) error {
		if f.err != nil {
			return fmt.Errorf("%s: %w", f.path, f.err)
		}
		rel, err := filepath.Rel(dir, f.path)
		if err != nil {
			return err
		}
		d, err := scanFile(f.path)
		if err != nil {
			return err
		}
		d.path, d.size = filepath.ToSlash(rel), f.size
		files = append(files, d)
		return nil
	})
	return files, err
}

func scanFile(path string) (demoFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return demoFile{}, err
	}
	defer f.Close()
	inst, err := dicom.Scan(f, dicom.DefaultLimits(), dicom.Handler{})
	var disk *fs.PathError
	switch {
	case errors.As(err, &disk):
		return demoFile{}, err
	case err != nil:
		return demoFile{}, nil
	}
	return demoFile{
		readable: true, uids: inst.UIDs, person: personOf(inst.Data),
		when: inst.Data.String(dicom.TagStudyDate) + inst.Data.String(dicom.TagStudyTime),
	}, nil
}
