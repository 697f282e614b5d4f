package index

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/dicom"
)

// saidBy is a statement with the trust whose node makes it.
type saidBy struct {
	by TrustID
	st Statement
}

// hears gives an index the logs of several trusts, each statement a batch of its own.
func hears(t testing.TB, x *Index, said []saidBy) {
	t.Helper()
	logs := map[TrustID][][]Statement{}
	for _, s := range said {
		logs[s.by] = append(logs[s.by], []Statement{s.st})
	}
	for by, groups := range logs {
		if _, err := x.Take(sealed(t, nodeKeyOf(by), 1, groups...)); err != nil {
			t.Fatal(err)
		}
	}
}

func answerOf(t testing.TB, x *Index, uid string) Patient {
	t.Helper()
	p, err := x.Patient(bg, uid)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]string{p.Certain, p.Possible, p.Contested} {
		sort.Strings(list)
	}
	return p
}

func (p Patient) String() string {
	s := strings.Join(p.Certain, " ") + " | " + strings.Join(p.Possible, " ")
	if len(p.Contested) > 0 {
		s += " | " + strings.Join(p.Contested, " ")
	}
	if p.Surviving != (Identifier{}) {
		s += " = " + p.Surviving.Issuer + p.Surviving.NHS + "/" + p.Surviving.ID
	}
	if p.Incomplete {
		s += " …"
	}
	return s
}

// What links come to: certain | possible | contested = surviving, of study 1.
func TestLinkedPatients(t *testing.T) {
	doe := func(uid, id, issuer, name, born string) Statement {
		return mustStudy(t, Study{UID: uid, Patient: []PatientID{{id, issuer}}, Name: name, BirthDate: born})
	}
	link := func(v Verdict, a, b Identifier) Statement { return mustLink(t, v, a, b) }
	a7, b9, c5 := at("7", "RAA"), at("9", "RBB"), at("5", "RCC")
	jane := doe("1", "7", "RAA", "DOE^JANE", "19700203")
	emergency := doe("2", "9", "RBB", "UNKNOWN^MALE", "")
	for name, c := range map[string]struct {
		said []saidBy
		want string
	}{
		"a merge of an unknown emergency patient": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RBB", link(Merged, b9, a7)}}, "1 2 |  = RAA/7"},
		"said by somebody else":                   {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RCC", link(Same, b9, a7)}}, "1 2 | "},
		"without the merge":                       {[]saidBy{{"RAA", jane}, {"RBB", emergency}}, "1 | "},
		"an age that was guessed": {[]saidBy{{"RAA", jane}, {"RBB", doe("2", "9", "RBB", "UNKNOWN^MALE", "19800101")},
			{"RBB", link(Merged, b9, a7)}}, "1 2 |  = RAA/7"},
		"a wrong merge": {[]saidBy{{"RAA", jane}, {"RBB", doe("2", "9", "RBB", "ROE^MARY", "19820304")},
			{"RBB", link(Merged, b9, a7)}}, "1 | 2 = RAA/7"},
		"a birth date mistyped": {[]saidBy{{"RAA", jane}, {"RBB", doe("2", "9", "RBB", "DOE^JANE", "19700302")},
			{"RBB", link(Same, b9, a7)}}, "1 2 | "},
		"a baby that got its name": {[]saidBy{{"RAA", doe("1", "7", "RAA", "SMITH^BABY", "20240506")},
			{"RAA", doe("2", "8", "RAA", "SMITH^JACK", "20240506")}, {"RAA", link(Merged, a7, at("8", "RAA"))}}, "1 2 |  = RAA/8"},
		"a baby that got its name, and nobody says so": {[]saidBy{{"RAA", doe("1", "7", "RAA", "SMITH^BABY", "20240506")},
			{"RAA", doe("2", "7", "RAA", "SMITH^JACK", "20240506")}}, "1 | 2"},
		"contested": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RBB", link(Merged, b9, a7)}, {"RCC", link(Different, a7, b9)}}, "1 | 2 | 2"},
		"contested, even where all agrees": {[]saidBy{{"RAA", jane}, {"RBB", doe("2", "9", "RBB", "DOE^JANE", "19700203")},
			{"RBB", link(Same, b9, a7)}, {"RCC", link(Different, a7, b9)}}, "1 | 2 | 2"},
		"a contest leaves other links alone": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RCC", doe("3", "5", "RCC", "UNKNOWN^FEMALE", "")},
			{"RAA", link(Same, a7, b9)}, {"RCC", link(Different, a7, b9)}, {"RAA", link(Same, a7, c5)}}, "1 3 | 2 | 2"},
		"different, with one NHS number": {[]saidBy{
			{"RAA", mustStudy(t, Study{UID: "1", Patient: []PatientID{{"7", "RAA"}}, NHS: nhsAnna, Name: "DOE^JANE", BirthDate: "19700203"})},
			{"RBB", mustStudy(t, Study{UID: "2", Patient: []PatientID{{"9", "RBB"}}, NHS: nhsAnna, Name: "DOE^JANE", BirthDate: "19700203"})},
			{"RCC", link(Different, a7, b9)}}, "1 | 2 | 2"},
		"withdrawn": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RBB", link(Merged, b9, a7)}, {"RBB", link(Withdrawn, a7, b9)}}, "1 | "},
		"the contest withdrawn": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RBB", link(Merged, b9, a7)},
			{"RCC", link(Different, a7, b9)}, {"RCC", link(Withdrawn, a7, b9)}}, "1 2 |  = RAA/7"},
		"one who changes its mind contests nothing": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RBB", link(Different, b9, a7)},
			{"RBB", link(Same, a7, b9)}}, "1 2 | "},
		"a word of a newer version takes back the old one": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RBB", link(Same, b9, a7)},
			{"RBB", link("perhaps", a7, b9)}}, "1 | "},
		// A loop among three trusts is one patient; what survives is the same wherever one begins.
		"merges that go round": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RCC", doe("3", "5", "RCC", "DOE^JANE", "19700203")},
			{"RAA", link(Merged, a7, b9)}, {"RBB", link(Merged, b9, c5)}, {"RCC", link(Merged, c5, a7)}}, "1 2 3 |  = RAA/7"},
		"merged both ways": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RAA", link(Merged, a7, b9)}, {"RBB", link(Merged, b9, a7)}}, "1 2 |  = RAA/7"},
		"a contest of the ends of a chain": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RCC", doe("3", "5", "RCC", "DOE^JANE", "19700203")},
			{"RAA", link(Same, a7, b9)}, {"RBB", link(Same, b9, c5)}, {"RCC", link(Different, a7, c5)}}, "1 | 2 3 | 2 3"},
		// 2 is linked to two people: it is surely neither's.
		"linked to two people": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RCC", doe("3", "5", "RCC", "ROE^MARY", "19820304")},
			{"RAA", link(Same, a7, b9)}, {"RBB", link(Same, b9, c5)}}, "1 | 2 3"},
		// Under 9 are a mother and her child: the link does not say which of them is meant.
		"a link to a number of two people": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RBB", doe("3", "9", "RBB", "DOE^JANE", "19700203")},
			{"RBB", doe("4", "9", "RBB", "DOE^BABY", "20240101")}, {"RBB", link(Same, a7, b9)}}, "1 3 | 2 4"},
		"a link to a number that is none": {[]saidBy{{"RAA", jane}, {"RBB", doe("2", "UNKNOWN", "RBB", "ROE^MARY", "")},
			{"RBB", doe("3", "UNKNOWN", "RBB", "DOE^JANE", "")}, {"RBB", link(Merged, at("UNKNOWN", "RBB"), a7)}}, "1 | 3"},
		"a mixed study": {[]saidBy{{"RAA", jane}, {"RBB", mustStudy(t, Study{UID: "2", Patient: []PatientID{{"9", "RBB"}}, Name: "DOE^JANE", Mixed: true})},
			{"RBB", link(Same, a7, b9)}}, "1 | 2"},
		"links lead on": {[]saidBy{{"RAA", jane}, {"RBB", emergency}, {"RCC", doe("3", "5", "RCC", "DOE^JANE", "")},
			{"RAA", link(Same, a7, b9)}, {"RBB", link(Same, b9, c5)}}, "1 2 3 | "},
	} {
		t.Run(name, func(t *testing.T) {
			x := openTest(t, "RAA", foundRegion("RAA", "RBB", "RCC"))
			hears(t, x, c.said)
			if got := answerOf(t, x, "1").String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// Who has what, without links: certain | possible, of study 1.
func TestPeopleWhoLookAlike(t *testing.T) {
	s := func(uid, id, nhs, name, born string) Statement {
		st := Study{UID: uid, NHS: nhs, Name: name, BirthDate: born}
		if id != "" {
			st.Patient = []PatientID{{id, "RAA"}}
		}
		return mustStudy(t, st)
	}
	swapped := nhsAnna[:7] + nhsAnna[8:9] + nhsAnna[7:8] + nhsAnna[9:]
	for name, c := range map[string]struct {
		said []Statement
		want string
	}{
		"father and son of one name": {[]Statement{s("1", "7", nhsAnna, "SMITH^JOHN", "19500304"), s("2", "7", nhsAnna, "SMITH^JOHN", "19800304")}, "1 | 2"},
		"and a study without a date": {[]Statement{s("1", "7", "", "SMITH^JOHN", "19500304"), s("2", "7", "", "SMITH^JOHN", "19800506"),
			s("3", "7", "", "SMITH^JOHN", ""), s("4", "7", "", "SMITH^JOHN", "19500304")}, "1 4 | 2 3"},
		"asked from the study without a date": {[]Statement{s("1", "7", "", "SMITH^JOHN", ""), s("2", "7", "", "SMITH^JOHN", "19800506"),
			s("3", "7", "", "SMITH^JOHN", "19500304"), s("4", "7", "", "SMITH^JOHN", "")}, "1 4 | 2 3"},
		"day and month swapped":      {[]Statement{s("1", "7", "", "DOE^JANE", "19700203"), s("2", "7", "", "DOE^JANE", "19700302")}, "1 | 2"},
		"digits of the NHS number":   {[]Statement{s("1", "", nhsAnna, "DOE^JANE", "19700203"), s("2", "", swapped, "DOE^JANE", "19700203")}, "1 | 2"},
		"twins under one NHS number": {[]Statement{s("1", "7", nhsAnna, "DOE^ANNA", "20200102"), s("2", "8", nhsAnna, "DOE^BEN", "20200102")}, "1 | 2"},
		"a name changed by marriage": {[]Statement{s("1", "7", "", "DOE^JANE", "19700203"), s("2", "7", "", "ROE^JANE", "19700203")}, "1 2 | "},
		"no birth date":              {[]Statement{s("1", "7", "", "DOE^JANE", "19700203"), s("2", "7", "", "DOE^JANE", "")}, "1 2 | "},
		"no birth date, another":     {[]Statement{s("1", "7", "", "DOE^JANE", "19700203"), s("2", "7", "", "ROE^JANE", "")}, "1 | 2"},
		"nobody's number, nobody's birth date": {[]Statement{s("1", "0000", "", "DOE^JANE", ""), s("2", "0000", "", "DOE^JANE", ""),
			s("3", "0000", "", "ROE^MARY", "")}, "1 | 2"},
		// A and B agree by birth date, B and C by name; A and C do not.
		"agreement that leads on": {[]Statement{s("1", "7", "", "DOE^JANE", "19700203"), s("2", "7", "", "ROE^JANE", "19700203"), s("3", "7", "", "ROE^JANE", "")}, "1 2 | 3"},
		// Two trusts' numbers, and studies with and without the NHS number: the way from 1 to 4 leads over two studies.
		"numbers that lead on": {[]Statement{s("1", "7", "", "DOE^JANE", "19700203"), s("2", "7", nhsAnna, "DOE^JANE", "19700203"),
			s("3", "8", nhsAnna, "DOE^JANE", "19700203"), s("4", "8", "", "DOE^JANE", "19700203")}, "1 2 3 4 | "},
		"nothing at all": {[]Statement{s("1", "", "", "", ""), s("2", "", "", "", "")}, "1 | "},
	} {
		t.Run(name, func(t *testing.T) {
			x := openTest(t, "RAA", foundRegion("RAA"))
			say(t, x, c.said...)
			if got := answerOf(t, x, "1").String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// A person's word joins who changed name and sex, and who had no date; it joins no
// adult with a child for a first of January, nor people of two names and two sexes
// who do not share a birth date.
func TestWhatALinkIsWorth(t *testing.T) {
	for _, c := range []struct {
		one, two Study
		certain  bool
	}{
		{Study{Name: "MOSS^JANE", BirthDate: "19800203", Sex: "F"}, Study{Name: "HILL^PETER", BirthDate: "19800203", Sex: "M"}, true},
		{Study{Name: "MOSS^JANE", BirthDate: "19800203", Sex: "F"}, Study{Name: "HILL^PETER", BirthDate: "20100101", Sex: "M"}, false},
		{Study{Name: "MOSS^JANE", BirthDate: "19800203", Sex: "F"}, Study{Name: "HILL^PETER", BirthDate: "19850101", Sex: "M"}, false},
		{Study{Name: "MOSS^JANE", BirthDate: "19800203", Sex: "F"}, Study{Name: "HILL^PETER", Sex: "M"}, false},
		{Study{Name: "MOSS^JANE", BirthDate: "19800203", Sex: "F"}, Study{Name: "HILL^ANNE", Sex: "F"}, true},
		{Study{Name: "HILL^PETER", BirthDate: "19800203", Sex: "M"}, Study{Name: "UNKNOWN^MALE", BirthDate: "19900101", Sex: "M"}, true},
		{Study{Name: "HILL^PETER", BirthDate: "19800203", Sex: "M"}, Study{Name: "UNKNOWN^MALE", BirthDate: "19910101", Sex: "M"}, false},
	} {
		m := newMemoryPeople()
		c.one.UID, c.one.Patient = "1", []PatientID{{"7", "RAA"}}
		c.two.UID, c.two.Patient = "2", []PatientID{{"8", "RAA"}}
		m.study("RAA", c.one)
		m.study("RAA", c.two)
		m.link("RAA", Link{One: Identifier{ID: "7", Issuer: "RAA"}, Two: Identifier{ID: "8", Issuer: "RAA"}, Verdict: Same})
		for i, uid := range []string{"1", "2"} {
			p, err := patientOf(uid, m, dicom.FoldName, dicom.NamesAgree)
			other := []string{"2", "1"}[i]
			if err != nil || slices.Contains(p.Certain, other) != c.certain || slices.Contains(p.Possible, other) == c.certain {
				t.Errorf("%+v and %+v from %s: %s, %v", c.one, c.two, uid, p, err)
			}
		}
	}
}

// Whoever bears a number together with many others costs no more than so many persons
// read, however many bear those, and it is said that not all was looked at.
func TestSoManyPersonsAreReadForOne(t *testing.T) {
	m := newMemoryPeople()
	m.study("RAA", Study{UID: "1", Patient: []PatientID{{"7", "RAA"}}, Name: "DOE^JANE", BirthDate: "19700203"})
	n := 1
	for i := range 30 { // identifiers beside the patient's, each borne by others too
		for k := range 60 {
			n++
			ids := []PatientID{{fmt.Sprint("X", i), "RAA"}}
			if k == 0 {
				ids = append(ids, PatientID{"7", "RAA"})
			}
			m.study("RAA", Study{UID: fmt.Sprint(n), Patient: ids, Name: fmt.Sprint("DOE^JANE^^P", n)})
		}
	}
	p, err := patientOf("1", m, dicom.FoldName, dicom.NamesAgree)
	if err != nil || !p.Incomplete || p.Read > maxRead+maxBearers || p.Read < maxRead {
		t.Errorf("%d persons read, incomplete: %v, %v", p.Read, p.Incomplete, err)
	}
	small := newMemoryPeople()
	for i := range 3 {
		small.study("RAA", Study{UID: fmt.Sprint(i + 1), Patient: []PatientID{{"7", "RAA"}}, Name: "DOE^JANE", BirthDate: "19700203", Sex: []string{"", "F", "O"}[i]})
	}
	if p, err := patientOf("1", small, dicom.FoldName, dicom.NamesAgree); err != nil || p.Incomplete || len(p.Certain) != 3 || p.Read > 3 {
		t.Errorf("%s, %d read, %v", p, p.Read, err)
	}
}

func TestIdentifiersOfNobody(t *testing.T) {
	for id, want := range map[string]bool{
		"0": true, "00000": true, "0-0": true, "1": true, "123456": true, "12345": true, "1234567890": true, "999999": true, "UNKNOWN": true, "unk": true,
		"Anon.": true, "ANONYMOUS7": true, "TEST": true, "N/A": true, "None": true, "---": true, "XXX": true,
		"2": false, "7": false, "12": false, "111": false, "1235": false, "123457": false, "4711": false, "R0001": false, "TEST7": false, "患者": false,
		"01": false, "10": false, "AXX": false,
	} {
		if got := at(id, "RAA").Nobody(); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
	if (Identifier{NHS: nhsAnna}).Nobody() {
		t.Error("an NHS number is nobody's")
	}
}

// Under a number of too many people only those are one who agree wholly, and it is said.
func TestANumberOfManyPeople(t *testing.T) {
	for _, c := range []struct {
		others int
		want   string
	}{
		{maxPeople - 1, "1 2 3 | 10 11 12 13 14 15 16 4"},
		{maxPeople, "1 2 | 3"}, // who has no date is only like; strangers are nobody's business
	} {
		x := openTest(t, "RAA", foundRegion("RAA"))
		s := func(uid, name, born string) Statement {
			return mustStudy(t, Study{UID: uid, Patient: []PatientID{{"7", "RAA"}}, Name: name, BirthDate: born})
		}
		st := []Statement{s("1", "DOE^JOHN", "19700203"), s("2", "DOE^JOHN", "19700203"), s("3", "DOE^JOHN", ""), s("4", "DOE^JON", "19700203")}
		for i := range c.others {
			st = append(st, s(fmt.Sprint(10+i), "ROE^MARY", fmt.Sprint(19800203+i)))
		}
		say(t, x, st...)
		p := answerOf(t, x, "1")
		if got := p.String(); p.Incomplete || got != c.want {
			t.Errorf("%d others: %s, want %s", c.others, got, c.want)
		}
		if crowded := len(p.Crowded) > 0; crowded != (c.others >= maxPeople) || crowded && !slices.Equal(p.Crowded, []Identifier{at("7", "RAA")}) {
			t.Errorf("%d others: crowded are %v", c.others, p.Crowded)
		}
	}
}

// One trust's wrong numbers take no prior from a patient elsewhere, and make no two people one.
func TestWhoAgreesWhollyUnderACrowdedNumber(t *testing.T) {
	s := func(uid, id, name, born string) Study {
		return Study{UID: uid, Patient: []PatientID{{id, "RCC"}}, NHS: nhsAnna, Name: name, BirthDate: born}
	}
	for name, c := range map[string]struct {
		start Study
		more  []Study
		want  string
	}{
		"the patient's own":            {s("1", "A", "DOE^JANE", "19700203"), []Study{s("2", "B", "Doe^Jane", "19700203"), s("3", "C", "DOE^JANE^MARY", "19700203")}, "1 2 3 | "},
		"what the own number leads to": {s("1", "A", "DOE^JANE", "19700203"), []Study{s("2", "B", "DOE^JANE", "19700203"), {UID: "3", Patient: []PatientID{{"B", "RCC"}}, Name: "DOE^J", BirthDate: "19700203"}}, "1 2 3 | "},
		"a twin":                       {s("1", "A", "DOE^JANE", "19700203"), []Study{s("2", "B", "DOE^JUNE", "19700203")}, "1 | "},
		"a changed family name":        {s("1", "A", "DOE^JANE", "19700203"), []Study{s("2", "B", "ROE^JANE", "19700203")}, "1 | 2"},
		"an initial":                   {s("1", "A", "DOE^J", "19700203"), []Study{s("2", "B", "DOE^J", "19700203")}, "1 | 2"},
		"a guessed birth date":         {s("1", "A", "DOE^JANE", "19700101"), []Study{s("2", "B", "DOE^JANE", "19700101")}, "1 | 2"},
		"no birth date":                {s("1", "A", "DOE^JANE", ""), []Study{s("2", "B", "DOE^JANE", "")}, "1 | 2"},
		"children without names":       {s("1", "A", "DOE^BABY", "20240203"), []Study{s("2", "B", "DOE^BABY", "20240203")}, "1 | 2"},
		"of whom two things are said":  {s("1", "A", "DOE^JANE", "19700203"), []Study{{UID: "2", Patient: []PatientID{{"B", "RCC"}}, NHS: nhsAnna, Name: "DOE^JANE", BirthDate: "19700203", Mixed: true}}, "1 | 2"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemoryPeople()
			for i := range maxPeople + 1 {
				m.study("RBB", Study{UID: fmt.Sprint(10 + i), NHS: nhsAnna, Name: "POE^EDGAR", BirthDate: fmt.Sprint(19400203 + i)})
			}
			for _, s := range append(c.more, c.start) {
				m.study("RCC", s)
			}
			p, err := patientOf("1", m, testFold, testNamesAgree)
			if got := p.String(); err != nil || got != c.want || len(p.Crowded) != 1 || p.Incomplete {
				t.Errorf("%s, crowded %v, %v; want %s", got, p.Crowded, err, c.want)
			}
			for _, uid := range p.Certain {
				back, err := patientOf(uid, m, testFold, testNamesAgree)
				if err != nil || !slices.Equal(back.Certain, p.Certain) && !slices.Contains(back.Certain, "1") {
					t.Errorf("from %s: %s, %v", uid, back, err)
				}
			}
		})
	}
}

// What is certain by a crowded number is so from either side, and never of two who are two people.
func TestACrowdedNumberIsTheSameFromEitherSide(t *testing.T) {
	initials := func(a, b string) bool { // of given names
		fa, ga := folder(testFold).parts(a)
		fb, gb := folder(testFold).parts(b)
		return fa != "" && fa == fb && ga != "" && gb != "" && (ga == gb || len(ga) == 1 && ga[0] == gb[0] || len(gb) == 1 && ga[0] == gb[0])
	}
	rapid.Check(t, func(rt *rapid.T) {
		m := newMemoryPeople()
		for i := range maxPeople + 1 {
			m.study("RBB", Study{UID: fmt.Sprint(10 + i), NHS: nhsAnna, Name: "POE^EDGAR", BirthDate: fmt.Sprint(19400203 + i)})
		}
		uids := []string{"1", "2", "3", "4", "5", "6"}
		for i, uid := range append(uids, rapid.SliceOfN(rapid.SampledFrom(uids), 0, 4).Draw(rt, "again")...) {
			s := Study{
				UID: uid, Name: rapid.SampledFrom([]string{"DOE^JANE", "DOE^J", "DOE^JUNE", "ROE^JANE", "DOE^JANE^X", "DOE^BABY", "DOE JANE", "JANE, DOE"}).Draw(rt, "name"),
				Sex:       rapid.SampledFrom([]string{"", "", "M", "F"}).Draw(rt, "sex"),
				BirthDate: rapid.SampledFrom([]string{"19700203", "19700203", "19700302", "", "19700101"}).Draw(rt, "born"),
			}
			if rapid.IntRange(0, 3).Draw(rt, "nhs") > 0 {
				s.NHS = nhsAnna
			}
			if id := rapid.SampledFrom([]string{"", "A", "B", "C"}).Draw(rt, "id"); id != "" {
				s.Patient = []PatientID{{id, "RCC"}}
			}
			m.study([]TrustID{"RAA", "RCC"}[i/len(uids)], s)
		}
		answers := map[string]Patient{}
		for _, uid := range uids {
			p, err := patientOf(uid, m, testFold, initials)
			if err != nil || p.Incomplete {
				rt.Fatalf("%s: %s, %v", uid, p, err)
			}
			answers[uid] = p
		}
		for uid, p := range answers {
			for _, o := range p.Certain {
				if !slices.Contains(answers[o].Certain, uid) {
					rt.Fatalf("%s is certain of %s, and not the other way: %s; %s", uid, o, p, answers[o])
				}
				for _, one := range m.said[uid] {
					for _, two := range m.said[o] {
						if a, b := one.BirthDate, two.BirthDate; uid != o && a != "" && b != "" && a != b {
							rt.Fatalf("%s and %s are one, and born on two days: %s", uid, o, p)
						}
						if a, b := one.Sex, two.Sex; uid != o && a != "" && b != "" && a != b {
							rt.Fatalf("%s and %s are one, and a man and a woman: %s", uid, o, p)
						}
					}
				}
			}
		}
	})
}

// A merge and its reverse, a hundred times over: what comes of it is what the last word says.
func TestMergedAndReversed(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	a, b := at("7", "RAA"), at("9", "RAA")
	say(t, x, mustStudy(t, Study{UID: "1", Patient: []PatientID{{"7", "RAA"}}, Name: "DOE^JANE"}),
		mustStudy(t, Study{UID: "2", Patient: []PatientID{{"9", "RAA"}}, Name: "UNKNOWN"}))
	rows := func() map[string]string {
		out := map[string]string{}
		for k, v := range dump(t, x) {
			if k[0] == tabJoin || k[0] == tabParted {
				out[k] = v
			}
		}
		return out
	}
	before := [2]string{answerOf(t, x, "1").String(), answerOf(t, x, "2").String()}
	for i := range 100 {
		say(t, x, mustLink(t, Merged, b, a))
		if got := answerOf(t, x, "1").String(); got != "1 2 |  = RAA/7" {
			t.Fatalf("%d: merged: %s", i, got)
		}
		say(t, x, mustLink(t, Withdrawn, a, b))
		if after := [2]string{answerOf(t, x, "1").String(), answerOf(t, x, "2").String()}; after != before || len(rows()) > 0 {
			t.Fatalf("%d: reversed: %q, was %q", i, after, before)
		}
	}
}

// A trust that links everything makes nothing certain, and what others have said of the same patients stands.
func TestATrustThatLinksEverything(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA", "RBB", "RCC", "RDD"))
	const many, half = 1000, 500
	var said []Statement
	for i := range many {
		said = append(said, mustStudy(t, Study{UID: uidOf(i), Patient: []PatientID{{fmt.Sprint("P", i), "RAA"}}, Name: fmt.Sprintf("NAME%d^X", i)}))
	}
	for part := range slices.Chunk(said, MaxFacts) {
		say(t, x, part...)
	}
	p := func(i int) Identifier { return at(fmt.Sprint("P", i), "RAA") }
	var star []Statement
	for i := 1; i < half; i++ {
		star = append(star, mustLink(t, Same, p(0), p(i)))
	}
	if _, err := x.Take(sealed(t, nodeKeyOf("RBB"), 1, slices.Collect(slices.Chunk(star, MaxFacts))...)); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Take(sealed(t, nodeKeyOf("RCC"), 1, []Statement{mustLink(t, Same, p(0), p(7))})); err != nil {
		t.Fatal(err)
	}
	hub := answerOf(t, x, uidOf(0))
	if len(hub.Certain) != 2 || !slices.Contains(hub.Certain, uidOf(7)) || len(hub.Possible) == 0 || len(hub.Possible) > maxLinks+1 {
		t.Errorf("the hub: %s", hub)
	}
	if ray := answerOf(t, x, uidOf(5)); len(ray.Certain) != 1 || !slices.Contains(ray.Possible, uidOf(0)) {
		t.Errorf("a ray: %s", ray)
	}
	// The same in a chain of the others, by an author that links none to more than two.
	var chain []Statement
	for i := half; i < many-1; i++ {
		chain = append(chain, mustLink(t, Same, p(i), p(i+1)))
	}
	if _, err := x.Take(sealed(t, nodeKeyOf("RDD"), 1, slices.Collect(slices.Chunk(chain, MaxFacts))...)); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{half, half + many/4, many - 1} {
		if got := answerOf(t, x, uidOf(i)); len(got.Certain) != 1 || len(got.Possible) == 0 || !got.Incomplete {
			t.Errorf("%d of the chain: %s", i, got)
		}
	}
}

// Any facts by anybody, in any order, give the same patients on every node; and what is certain is so from either side.
func TestPatientsDoNotDependOnTheOrder(t *testing.T) {
	trusts := []TrustID{"RAA", "RBB", "RCC"}
	region := foundRegion(trusts...)
	uids := []string{"1", "2", "3", "4", "5", "6"}
	rapid.Check(t, func(rt *rapid.T) {
		ids := []Identifier{at("7", "RAA"), at("8", "RAA"), at("9", "RBB"), at("5", "RCC"), at("UNKNOWN", "RBB"), {NHS: nhsAnna}, {NHS: nhsBen}}
		pick := rapid.SampledFrom(ids)
		logs := map[TrustID][][]Statement{}
		model := newMemoryPeople()
		for i := range rapid.SampledFrom([]int{0, 0, maxPeople - 1, maxPeople + 1}).Draw(rt, "crowd") { // a trust's wrong numbers, of too many people
			s := Study{UID: fmt.Sprint(10 + i), NHS: nhsAnna, Name: "POE^EDGAR", BirthDate: fmt.Sprint(19400203 + i)}
			model.study("RBB", s)
			logs["RBB"] = append(logs["RBB"], []Statement{mustStudy(t, s)})
		}
		for range rapid.IntRange(1, 30).Draw(rt, "facts") {
			by := rapid.SampledFrom(trusts).Draw(rt, "by")
			var st Statement
			switch rapid.IntRange(0, 4).Draw(rt, "kind") {
			case 0, 1:
				s := Study{
					UID: rapid.SampledFrom(uids).Draw(rt, "uid"), Name: rapid.SampledFrom([]string{
						"", "DOE^JANE", "DOE^ANNA", "ROE^JANE", "DOE", "POE^EDGAR", "DOE JANE", "Doe, Jane", "JANE DOE", "DOE ANNA", "DÖE-ROE^JANE^MARY", "JANE^DOE", "ROE^J", "DOE^JANE^ANN",
						"DOE BABY BOY", "DOE^BABYGIRL", "DOE^BABY", "DOE^JANE^^MRS", "DOE^JANE^^^SR", "DOE JANE JR", "UNKNOWN^PATIENT", "ANNA",
					}).Draw(rt, "name"),
					Sex:       rapid.SampledFrom([]string{"", "", "M", "F", "O"}).Draw(rt, "sex"),
					BirthDate: rapid.SampledFrom([]string{"", "19700203", "19700302", "19880909", "19800101", "19000101"}).Draw(rt, "born"),
					Date:      rapid.SampledFrom([]string{"", "20240101", "20230101"}).Draw(rt, "date"), Mixed: rapid.IntRange(0, 9).Draw(rt, "mixed") == 0,
				}
				for range rapid.IntRange(0, 2).Draw(rt, "ids") {
					if id := pick.Draw(rt, "id"); id.NHS != "" {
						s.NHS = id.NHS
					} else if p := (PatientID{id.ID, id.Issuer}); !slices.Contains(s.Patient, p) {
						s.Patient = append(s.Patient, p)
					}
				}
				st = mustStudy(t, s)
				model.study(by, s)
			case 2, 3:
				l := Link{One: pick.Draw(rt, "one"), Two: pick.Draw(rt, "two"), Verdict: rapid.SampledFrom([]Verdict{Same, Merged, Different, Withdrawn, "later"}).Draw(rt, "verdict")}
				if l.One == l.Two {
					continue
				}
				st = mustLink(t, l.Verdict, l.One, l.Two)
				model.link(by, l)
			default:
				at := rapid.IntRange(0, 1).Draw(rt, "what")
				kind, subject := KindStudy, rapid.SampledFrom(uids).Draw(rt, "gone")
				if at == 1 {
					a, b := pick.Draw(rt, "one"), pick.Draw(rt, "two")
					kind, subject = KindLink, LinkSubject(a, b)
				}
				r := Retraction{Why: Erased, Through: Position{1, Seq(max(len(logs[by]), 1))}}
				for i, g := range logs[by] {
					if g[0].Kind == kind && g[0].Subject == subject && len(r.Positions) < MaxRetracted {
						r.Positions = append(r.Positions, Position{1, Seq(i + 1)})
					}
				}
				if len(r.Positions) == 0 {
					continue
				}
				st = Statement{Kind: KindRetraction, Subject: RetractionSubject(kind, subject), Body: r.encode()}
				model.retract(by, kind, subject)
			}
			logs[by] = append(logs[by], []Statement{st})
		}
		var want []string
		for node := range 3 {
			var all [][]Verified
			for _, by := range trusts {
				if len(logs[by]) > 0 {
					all = append(all, sealed(t, nodeKeyOf(by), 1, logs[by]...))
				}
			}
			db := openDB(t, "")
			defer db.Close()
			opt := testOptions("RDD", region) // a stranger, who says nothing
			opt.FoldName, opt.NamesAgree = dicom.FoldName, dicom.NamesAgree
			x := openIn(t, db, opt)
			for len(all) > 0 {
				i := rapid.IntRange(0, len(all)-1).Draw(rt, "next")
				v := all[i][0]
				if rapid.IntRange(0, 3).Draw(rt, "late") == 0 { // its payload comes later
					if _, err := x.Take([]Verified{bare(t, v, 0)}); err != nil {
						rt.Fatal(err)
					}
					all = append(all, []Verified{v})
				} else if _, err := x.Take([]Verified{v}); err != nil {
					rt.Fatal(err)
				}
				if all[i] = all[i][1:]; len(all[i]) == 0 {
					all = slices.Delete(all, i, i+1)
				}
			}
			var got []string
			answers := map[string]Patient{}
			for _, u := range uids {
				p, err := x.Patient(bg, u)
				if err != nil || p.Incomplete {
					rt.Fatalf("%s: %s, %v", u, p, err)
				}
				answers[u] = p
				got = append(got, p.String())
			}
			for u, p := range answers {
				for _, o := range p.Certain {
					back, ok := answers[o]
					if !ok { // one of the crowd
						back, _ = x.Patient(bg, o)
					}
					if !slices.Contains(back.Certain, u) {
						rt.Fatalf("%s is certain of %s, and not the other way: %s; %s", u, o, p, back)
					}
				}
			}
			if node == 0 {
				want = got
				for i, u := range uids {
					p, err := patientOf(u, model, dicom.FoldName, dicom.NamesAgree)
					if err != nil || p.String() != got[i] {
						rt.Fatalf("study %s: the index says %s, the model %s (%v)", u, got[i], p, err)
					}
				}
			} else if !slices.Equal(got, want) {
				rt.Fatalf("node %d says %q, the first %q", node, got, want)
			}
		}
	})
}

// countedPeople counts what is asked.
type countedPeople struct {
	*memoryPeople
	persons, lists, studiesRead int
}

func (c *countedPeople) person(p personID) (person, error) {
	c.persons++
	return c.memoryPeople.person(p)
}

func (c *countedPeople) bearers(id Identifier, limit int) ([]personID, bool, error) {
	c.lists++
	return c.memoryPeople.bearers(id, limit)
}

func (c *countedPeople) statements(uid string) ([]personID, bool, string, error) {
	c.studiesRead++
	return c.memoryPeople.statements(uid)
}

// The work is by person and bounded: it does not grow with the studies of a patient, nor with the people under a number.
func TestTheSearchForAPatientIsBounded(t *testing.T) {
	m := newMemoryPeople()
	for i := range 3000 {
		m.study("RAA", Study{UID: uidOf(i), Patient: []PatientID{{"7", "RAA"}}, NHS: nhsAnna, Name: "DOE^JANE", BirthDate: "19700203"})
	}
	c := &countedPeople{memoryPeople: m}
	p, err := patientOf(uidOf(0), c, testFold, testNamesAgree)
	if err != nil || len(p.Certain) != 3000 || p.Incomplete {
		t.Fatalf("%d certain, incomplete %v, %v", len(p.Certain), p.Incomplete, err)
	}
	if c.persons != 1 || c.studiesRead != 1 || c.lists != 2 {
		t.Errorf("%d persons, %d studies and %d lists read for one patient of 3000 studies", c.persons, c.studiesRead, c.lists)
	}
	// A number of 10,000 people.
	m = newMemoryPeople()
	for i := range 10_000 {
		m.study("RAA", Study{UID: uidOf(i), Patient: []PatientID{{"A", "RAA"}}, Name: fmt.Sprintf("NAME%d^X", i)})
	}
	m.study("RAA", Study{UID: "1.2.2", Patient: []PatientID{{"A", "RAA"}}, NHS: nhsAnna, Name: "DOE^JANE", BirthDate: "19700203"})
	m.study("RAA", Study{UID: "1.2.3", NHS: nhsAnna, Name: "DOE^JANE", BirthDate: "19700203"})
	c = &countedPeople{memoryPeople: m}
	p, err = patientOf("1.2.2", c, testFold, testNamesAgree)
	if err != nil || !p.Incomplete || !slices.Equal(p.Certain, []string{"1.2.2", "1.2.3"}) || len(p.Possible) > 0 {
		t.Fatalf("%s, %v", p, err)
	}
	if c.persons > maxBearers+2 {
		t.Errorf("%d persons read under a number of 10,000", c.persons)
	}
}

// The worst that anybody can say: identifiers that many spellings of one person share, each with some others.
func worstPeople() *memoryPeople {
	m := newMemoryPeople()
	id := func(i int) PatientID { return PatientID{fmt.Sprint("P", i), "RAA"} }
	for i := range 1000 {
		m.study("RAA", Study{UID: uidOf(i), Patient: []PatientID{id(i / 60), id(i/60 + 1)}, Name: fmt.Sprintf("DOE^JANE^^%d", i%60), BirthDate: "19700203"})
	}
	return m
}

// quickPeople knows the studies of its persons.
type quickPeople struct {
	*memoryPeople
	of map[personID][]studyOf
}

func (q *quickPeople) studies(p personID, _ int) ([]studyOf, bool, error) { return q.of[p], false, nil }

func BenchmarkWorstPatient(b *testing.B) {
	m := &quickPeople{memoryPeople: worstPeople(), of: map[personID][]studyOf{}}
	for uid := range m.said {
		of, _, place, _ := m.statements(uid)
		m.of[of[0]] = append(m.of[of[0]], studyOf{uid: uid, place: place, alone: true})
	}
	for b.Loop() {
		if p, err := patientOf(uidOf(0), m, testFold, testNamesAgree); err != nil || len(p.Certain) < 2 {
			b.Fatalf("%s, %v", p, err)
		}
	}
}
