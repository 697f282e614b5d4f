package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// Limits of what is looked at to tell apart the patients of an answer.
const (
	maxUnder    = 256  // studies, the newest
	maxPeople   = 8    // patients
	maxAsked    = 32   // times that the index is asked for a patient: once for all studies of which the same is said
	maxPersons  = 8192 // persons that the index reads for that: who bear a number together with very many others cost much
	maxPossible = 64   // possible further studies that are named
	maxFurther  = 64   // further studies of the patients' that are named
)

// people is whose the studies are that were asked for.
type people struct {
	// person tells patients apart, by study, from 1; 0: a further patient, or one that
	// was not looked at. It has no entries where all are one patient's as far as anybody says.
	person   map[string]int
	further  []archive.Found // studies that are the patients' and do not bear the number that was asked for
	possible []archive.Found // studies that may be
	said     []string
}

// peopleOf tells apart the patients of the studies that a question asks for by a
// number of a patient or a pattern of such, whatever page is asked for: a number
// may stand on two people's studies, by mistake or because its issuer was not
// asked for. And it finds what else may be theirs, also for a question for one study.
func peopleOf(ctx context.Context, a *archive.Archive, q index.Query) (people, error) {
	under := index.Query{PatientID: q.PatientID, Issuer: q.Issuer, NHS: q.NHS}
	pattern := false
	switch {
	case q.NHS == "" && strings.Trim(q.PatientID, "*") == "":
		if len(q.StudyUIDs) != 1 {
			return people{}, nil
		}
		under = index.Query{StudyUIDs: q.StudyUIDs}
	case strings.ContainsAny(q.PatientID, "*?"):
		pattern, under = true, q // whom else the pattern fits is another question
		under.After, under.Offset = "", 0
	}
	under.Limit = maxUnder
	if a.Index.Check(under) != nil {
		return people{}, nil // the search itself says what is wrong with it
	}
	ans, err := a.Index.Studies(ctx, under)
	if err != nil {
		return people{}, err
	}
	l := lineup{index: a.Index, person: make(map[string]int), placed: make(map[string]bool), views: make(map[string]*view), left: ans.More || ans.Incomplete, pattern: pattern}
	for _, s := range ans.Studies {
		l.placed[s.UID] = true
		if err := l.place(ctx, s); err != nil {
			return people{}, err
		}
	}
	p := people{said: l.say()}
	if l.people > 1 {
		p.person = l.person
	}
	if pattern {
		return p, nil
	}
	if len(under.StudyUIDs) == 0 {
		if err := p.findFurther(ctx, a, q, under, l); err != nil {
			return p, err
		}
	}
	if err := p.asNHSNumber(ctx, a, q, l); err != nil {
		return p, err
	}
	possible := l.possible()
	if len(possible) == 0 {
		return p, nil
	}
	named := possible[:min(len(possible), maxPossible)]
	if p.possible, _, err = a.Studies(ctx, index.Query{StudyUIDs: named, Limit: maxPossible}); err != nil || len(p.possible) == 0 {
		return p, err
	}
	count := counted(len(p.possible), "further study", "further studies")
	if len(possible) > len(named) {
		count = fmt.Sprintf("more than %d further studies", len(named))
	}
	p.said = append(p.said, fmt.Sprintf("%s may be of a patient of this answer, and not among its studies: number, birth date, name or sex differ, or too little is said; received by %s. A person decides: no node brings such a study by itself", count, trustsOf(p.possible)))
	return p, nil
}

// asNHSNumber says what a Patient ID without an issuer does not find, and would as
// the NHS number that its digits are.
func (p *people) asNHSNumber(ctx context.Context, a *archive.Archive, q index.Query, l lineup) error {
	number, ok := dicom.NHSNumber(q.PatientID)
	if !ok || q.Issuer != "" || q.NHS != "" {
		return nil
	}
	ans, err := a.Index.Studies(ctx, index.Query{NHS: number, Limit: maxUnder})
	if err != nil {
		return err
	}
	n := 0
	for _, s := range ans.Studies {
		if !l.placed[s.UID] && !slices.ContainsFunc(p.further, func(f archive.Found) bool { return f.UID == s.UID }) {
			n++
		}
	}
	if n > 0 {
		p.said = append(p.said, counted(n, "study is not found by this Patient ID although it has", "studies are not found by this Patient ID although they have")+" its digits as an NHS number: find them with --nhs (QIDO-RS: with IssuerOfPatientID NHS)")
	}
	return nil
}

// findFurther finds what is certainly the patients', all else that was asked for
// fits, and does not bear the number that was asked for.
func (p *people) findFurther(ctx context.Context, a *archive.Archive, q, under index.Query, l lineup) error {
	q.After, q.Offset, q.Limit, q.Oldest = "", 0, maxFurther, false
	further := l.further()
	if l.left && len(further) > 0 { // some may bear the number all the same
		under.StudyUIDs, under.Limit = further, len(further)
		ans, err := a.Index.Studies(ctx, under)
		if err != nil {
			return err
		}
		further = slices.DeleteFunc(further, func(uid string) bool {
			return slices.ContainsFunc(ans.Studies, func(s index.StudyAnswer) bool { return s.UID == uid })
		})
	}
	if len(further) == 0 {
		return nil
	}
	q.PatientID, q.Issuer, q.NHS = "", "", ""
	q.StudyUIDs = further
	found, ans, err := a.Studies(ctx, q)
	if err != nil || len(found) == 0 {
		return err
	}
	p.further = found
	count := counted(len(found), "further study is", "further studies are")
	if ans.More {
		count = fmt.Sprintf("more than %d further studies are", len(found))
	}
	p.said = append(p.said, fmt.Sprintf("%s certainly of a patient of this answer, and not among its studies for another number or none: received by %s. Ask by the patient's other numbers, or by UID", count, trustsOf(found)))
	for _, f := range found {
		if p.person != nil && l.person[f.UID] > 0 {
			p.person[f.UID] = l.person[f.UID]
		}
	}
	return nil
}

// dateless says how many studies are left out of an answer for nothing but a birth date or
// a study date that they do not have, or that is no full date, such as 1960: the patient who
// is asked for by a number or a name may be among them. One page is looked at.
func dateless(ctx context.Context, x *index.Index, q index.Query) (said []string, err error) {
	if strings.Trim(q.PatientID, "*?") == "" && q.NHS == "" && strings.Trim(q.Name, "*?^= ") == "" && strings.Trim(q.Accession, "*?") == "" && len(q.StudyUIDs) == 0 {
		return nil, nil // whatever has no date is not about anybody
	}
	born, date := q.BirthDate, q.Date
	if born == (index.Range{}) && date == (index.Range{}) {
		return nil, nil
	}
	if x.Check(q) != nil {
		return nil, nil // the search itself says what is wrong with it
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxDateless, errDateless)
	defer cancel()
	for _, c := range []struct {
		birth, study  bool
		none, without string
	}{
		{true, false, "no birth date", "without the birth date"},
		{false, true, "no study date", "without the study date"},
		{true, true, "no birth date and no study date", "without both dates"},
	} {
		if c.birth && born == (index.Range{}) || c.study && date == (index.Range{}) {
			continue
		}
		all := q
		all.After, all.Offset, all.Limit = "", 0, maxUnder
		all.Oldest = c.study // what has no study date comes first then
		if c.birth {
			all.BirthDate = index.Range{}
		}
		if c.study {
			all.Date, all.Time, all.Combined = index.Range{}, index.Range{}, false
		}
		ans, err := x.Studies(ctx, all)
		if err != nil && context.Cause(ctx) == errDateless {
			ans, err = index.Answer{Incomplete: true}, nil
		}
		if err != nil {
			return nil, err
		}
		left := ans.Incomplete || ans.More
		if end := len(ans.Studies); c.study && end > 0 && !unreadable(ans.Studies[end-1].Statements[0].Value.Date, date) {
			left = ans.Incomplete // all the others have one too
		}
		n, mixed := 0, 0
		for _, s := range ans.Studies {
			says, several, found := false, false, false
			for _, st := range s.Statements[:s.Matching] {
				v := st.Value
				says = says || c.birth && !unreadable(v.BirthDate, born) || c.study && !unreadable(v.Date, date)
				several, found = several || v.Mixed, found || !outside(v.BirthDate, born)
			}
			switch {
			case !says:
				n++
			case !c.study && several && !found: // whose birth date is it?
				mixed++
			}
		}
		if mixed > 0 {
			said = append(said, fmt.Sprintf("%s several patients, and the birth date that is known of it may be another's than of who was asked for: ask without the birth date", counted(mixed, "study that matches in all else has instances of", "studies that match in all else have each instances of")))
		}
		switch least := ""; {
		case n > 0:
			if left {
				least = "at least "
			}
			rest := "and match in all else: they are not in this answer, ask " + c.without + " to find them"
			if n == 1 {
				rest = "and matches in all else: it is not in this answer, ask " + c.without + " to find it"
			}
			said = append(said, fmt.Sprintf("%s%s %s, or none that is a full date, %s", least, counted(n, "study has", "studies have"), c.none, rest))
		case left:
			said = append(said, fmt.Sprintf("not all that matches in all else was looked at to see whether there are studies with %s: narrow the search, or ask %s", c.none, c.without))
		}
	}
	return said, nil
}

// maxDateless bounds how long is looked for studies without a date: a name is found fast beside a birth date, and perhaps not without.
const maxDateless = 2 * time.Second

var errDateless = errors.New("studies without a date were looked for too long")

// unreadable says whether a date says nothing of whether it is in a range: it is none, or such as 1960 or 19600000.
func unreadable(da string, r index.Range) bool {
	da = plainDate(da)
	if len(da) != len("20060102") || !digits(da, len(da)) {
		return true
	}
	_, err := time.Parse("20060102", da)
	return err != nil && outside(da, r) // else it was found all the same
}

func outside(da string, r index.Range) bool {
	da = plainDate(da)
	return da < r.From || r.To != "" && da > r.To
}

func plainDate(da string) string { return strings.ReplaceAll(strings.TrimSpace(da), ".", "") }

func trustsOf(found []archive.Found) string {
	var at []string
	for _, f := range found {
		for _, t := range f.Trusts {
			at = append(at, string(t))
		}
	}
	slices.Sort(at)
	return strings.Join(slices.Compact(at), ", ")
}

// lineup gives studies to patients, one after the other.
type lineup struct {
	index   *index.Index
	person  map[string]int   // by study
	placed  map[string]bool  // studies
	views   map[string]*view // by what is said of whose a study is
	order   []*view
	people  int
	read    int  // persons, by the index
	pattern bool // people are told apart, but not those beyond the limit: they are anybody
	left    bool // there are further studies, or patients
}

// view is the patient of studies of which the same is said.
type view struct {
	index.Patient
	rep string // the study it is seen from
	who int    // the patient that study was given to
}

// certain lists what is certainly one patient's with a study of which the same
// is said as of the one that the view is seen from.
func (v *view) certain(study string) []string {
	if slices.Contains(v.Certain, study) {
		return v.Certain
	}
	return append(slices.DeleteFunc(slices.Clone(v.Certain), func(uid string) bool { return uid == v.rep }), study)
}

// place gives a study to the patient of whom a study is certain with it, or to a new one.
func (l *lineup) place(ctx context.Context, s index.StudyAnswer) error {
	text := index.Whose(s.Statements)
	v := l.views[text]
	if v == nil {
		if len(l.views) == maxAsked || l.read >= maxPersons || l.pattern && l.people == maxPeople {
			l.left = l.left || l.person[s.UID] == 0
			return nil
		}
		p, err := l.index.Patient(ctx, s.UID)
		if err != nil {
			return err
		}
		l.read += p.Read
		v = &view{Patient: p, rep: s.UID}
		l.views[text], l.order = v, append(l.order, v)
	}
	certain := v.certain(s.UID)
	who := l.person[s.UID]
	for _, uid := range certain { // whichever of a patient's studies is looked at first
		if who == 0 {
			who = l.person[uid]
		}
	}
	if who == 0 {
		if l.people == maxPeople {
			l.left = true
			return nil
		}
		l.people++
		who = l.people
	}
	for _, uid := range certain {
		if l.person[uid] == 0 {
			l.person[uid] = who
		}
	}
	if s.UID == v.rep {
		v.who = who
	}
	return nil
}

// loose says whether studies were given to one patient that are not certain for each other.
func (l *lineup) loose() bool {
	for _, v := range l.order {
		for uid := range l.placed {
			if v.who > 0 && l.person[uid] == v.who && !slices.Contains(v.Certain, uid) {
				return true
			}
		}
	}
	return false
}

// further lists what is certainly a patient's of those, and is not among what was
// placed, as far as a query takes UIDs.
func (l *lineup) further() (studies []string) {
	seen := make(map[string]bool)
	for _, v := range l.order {
		for _, uid := range v.Certain {
			if !seen[uid] && !l.placed[uid] && len(studies) < index.MaxUIDs {
				seen[uid] = true
				studies = append(studies, uid)
			}
		}
	}
	return studies
}

// possible lists what may be the patients' and is not among what was placed.
func (l *lineup) possible() (studies []string) {
	seen := make(map[string]bool)
	for _, v := range l.order {
		for _, uid := range v.Possible {
			if !seen[uid] && !l.placed[uid] && l.person[uid] == 0 {
				seen[uid] = true
				studies = append(studies, uid)
			}
		}
	}
	return studies
}

// say says what is not certain of whose the studies are.
func (l *lineup) say() (said []string) {
	bear := "bear this number"
	if l.pattern {
		bear = "match this pattern"
	}
	count := fmt.Sprint(l.people)
	if l.left {
		count += " and perhaps more"
	}
	switch {
	case l.people > 1:
		said = append(said, fmt.Sprintf("the studies that %s are not known to be one patient's: %s patients are told apart by birth date, name, sex or issuer of the number; compare them before you take a study of one for a prior of another", bear, count))
	case l.left:
		said = append(said, fmt.Sprintf("more than %d studies, or %d ways of writing a patient, %s, and only the newest were looked at to see whether they are one patient's", maxUnder, maxAsked, bear))
	}
	if l.loose() {
		said = append(said, "of the studies that are given to one patient some are certain for others of that patient only, and not for all: compare their birth dates and names")
	}
	crowded, incomplete := false, false
	for _, v := range l.order {
		crowded, incomplete = crowded || len(v.Crowded) > 0, incomplete || v.Incomplete
	}
	if crowded {
		said = append(said, "a number of this patient is borne by so many people that only studies with the same birth date, family and given name count as one patient's: others may be the patient's too; look at all that bear the number, and see that the wrong ones get a number of their own")
	}
	if incomplete {
		said = append(said, "so much is said of this patient that not all of it was looked at: there may be further studies of the patient")
	}
	return said
}

// otherIssuer says where the digits of an NHS number stand as a Patient ID of
// an issuer that does not give NHS numbers: such studies are not found by it.
func otherIssuer(ctx context.Context, x *index.Index, q index.Query) ([]string, error) {
	if q.NHS == "" {
		return nil, nil
	}
	n, more := 0, false
	for _, written := range []string{q.NHS, q.NHS[:3] + " " + q.NHS[3:6] + " " + q.NHS[6:], q.NHS[:3] + "-" + q.NHS[3:6] + "-" + q.NHS[6:]} {
		ans, err := x.Studies(ctx, index.Query{PatientID: written, Limit: maxUnder})
		if err != nil {
			return nil, err
		}
		more = more || ans.More
		for _, s := range ans.Studies {
			other := true
			for _, st := range s.Statements {
				other = other && st.Value.NHS != q.NHS
			}
			if other {
				n++
			}
		}
	}
	if n == 0 {
		return nil, nil
	}
	count := counted(n, "study is not found by this NHS number although it has", "studies are not found by this NHS number although they have")
	if more {
		count = "at least " + count
	}
	return []string{count + " its digits as a Patient ID: the issuer there is another than the NHS, and what such a number means is for the issuer to say. Find them with --patient, and see that the images or the trust's identity.default_issuer name the issuer"}, nil
}
