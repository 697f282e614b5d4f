package index

import (
	"slices"
	"strings"
	"testing"
)

const (
	nhsAnna = "9434765919"
	nhsBen  = "4010232137"
)

func TestNHSNumbers(t *testing.T) {
	for s, want := range map[string]bool{
		"9434765919": true, "4010232137": true, "9434765918": false, "943476591": false, "94347659190": false,
		"1111111111": false, "0000000000": false, "943476591x": false, "": false, "123 456 7": false,
		"1000000028": true, "1000000029": false, "1000000060": true, // checks 8 and 0
		"1000000010": false, "1000000011": false, // a check of 10 is no digit
	} {
		if got := validNHS(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// Who is one patient: the studies of each table are said by as many trusts as they name, and the first is asked about.
func TestOnePatient(t *testing.T) {
	type said struct {
		by TrustID
		s  Study
	}
	id := func(id, issuer string) []PatientID { return []PatientID{{id, issuer}} }
	for name, c := range map[string]struct {
		studies           []said
		certain, possible string // besides the first study
	}{
		"the same number, name and birth date": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
		}, "2", ""},
		"the same number of two issuers": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
			{"RBB", Study{UID: "2", Patient: id("7", "RBB"), Name: "ROE^MARY", BirthDate: "19820202"}},
		}, "", ""},
		"123456 used by three people": {[]said{
			{"RAA", Study{UID: "1", Patient: id("123456", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("123456", "RAA"), Name: "ROE^MARY", BirthDate: "19820202"}},
			{"RAA", Study{UID: "3", Patient: id("123456", "RAA"), Name: "POE^EDGAR", BirthDate: "19400303"}},
			{"RAA", Study{UID: "4", Patient: id("123456", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
		}, "", "4"}, // strangers under a number that is none are nobody's business
		"a married name": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "SMITH^JANE", BirthDate: "19700101"}},
		}, "2", ""},
		"a mistyped birth date": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700110"}},
		}, "", "2"},
		"twins with numbers of their own": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), NHS: nhsAnna, Name: "DOE^ANNA", BirthDate: "20200101"}},
			{"RAA", Study{UID: "2", Patient: id("8", "RAA"), NHS: nhsBen, Name: "DOE^BEN", BirthDate: "20200101"}},
		}, "", ""},
		"a twin under the other twin's number": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^ANNA", BirthDate: "20200101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^BEN", BirthDate: "20200101"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "DOE^A", BirthDate: "20200101"}},
		}, "3", "2"},
		"mother and child under one number": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19900101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^BABY", BirthDate: "20200606"}},
		}, "", "2"},
		"swapped digits": {[]said{
			{"RAA", Study{UID: "1", Patient: id("4711", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("4171", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
			{"RAA", Study{UID: "3", Patient: id("4171", "RAA"), Name: "ROE^MARY", BirthDate: "19820202"}},
		}, "", "2"},
		"swapped digits into another patient's number": {[]said{
			{"RAA", Study{UID: "1", Patient: id("4711", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("4711", "RAA"), Name: "ROE^MARY", BirthDate: "19820202"}},
		}, "", "2"},
		"no birth dates, but the name": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JOHN"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^JOHN"}},
		}, "2", ""},
		"no birth date on one, another name": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "ROE^MARY"}},
		}, "", "2"},
		"nothing but the number": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA")}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA")}},
		}, "", "2"},
		"birth dates that are none": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JOHN", BirthDate: "unknown"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "ROE^MARY", BirthDate: "unknown"}},
		}, "", "2"},
		"no name, the same birth date": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^JOHN", BirthDate: "19700101"}},
		}, "2", ""},
		"the NHS number across trusts": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), NHS: nhsAnna, Name: "DOE^ANNA", BirthDate: "19700101"}},
			{"RBB", Study{UID: "2", Patient: id("9", "RBB"), NHS: nhsAnna, Name: "DOE^ANNA", BirthDate: "19700101"}},
			{"RBB", Study{UID: "3", Patient: id("9", "RBB"), Name: "DOE^ANNA", BirthDate: "19700101"}},
		}, "2 3", ""},
		"an NHS number that is none": {[]said{
			{"RAA", Study{UID: "1", NHS: "1111111111", Name: "DOE^ANNA", BirthDate: "19700101"}},
			{"RBB", Study{UID: "2", NHS: "1111111111", Name: "ROE^MARY", BirthDate: "19700101"}},
			{"RBB", Study{UID: "3", NHS: "9434765918", Name: "DOE^ANNA", BirthDate: "19700101"}},
		}, "", "3"},
		"name and birth date without a number": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^ANNA", BirthDate: "19700101"}},
			{"RBB", Study{UID: "2", Patient: id("8", "RBB"), Name: "Doe^Anna", BirthDate: "19700101"}},
			{"RBB", Study{UID: "3", Patient: id("9", "RBB"), Name: "DOE^ANNA", BirthDate: "19700102"}},
			{"RBB", Study{UID: "4", Patient: id("9", "RBB"), Name: "DOE^ANNA"}},
		}, "", "2"},
		// 1 and 2 agree in name only, 2 and 3 in birth date only: 3 is not brought in by 2, and 4 not by its number.
		"agreement does not chain": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: []PatientID{{"7", "RAA"}, {"9", "RBB"}}, Name: "DOE^JANE", BirthDate: "19820202"}},
			{"RBB", Study{UID: "3", Patient: id("9", "RBB"), Name: "ROE^MARY", BirthDate: "19820202"}},
			{"RBB", Study{UID: "4", Patient: id("9", "RBB"), Name: "DOE^JANE", BirthDate: "19700101"}},
		}, "", "2 4"},
		"identifiers do not chain through a stranger": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: []PatientID{{"7", "RAA"}, {"9", "RBB"}}, Name: "ROE^MARY", BirthDate: "19820202"}},
			{"RBB", Study{UID: "3", Patient: id("9", "RBB"), Name: "DOE^JANE", BirthDate: "19710101"}},
		}, "", "2"},
		"two trusts contradict each other about the study": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RBB", Study{UID: "1", Patient: id("9", "RBB"), Name: "ROE^MARY", BirthDate: "19820202"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RBB", Study{UID: "3", Patient: id("9", "RBB"), Name: "ROE^MARY", BirthDate: "19820202"}},
		}, "", "2 3"},
		"two trusts contradict each other about the other study": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RBB", Study{UID: "2", Patient: id("9", "RBB"), Name: "ROE^MARY", BirthDate: "19820202"}},
		}, "", "2"},
		"two trusts agree": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RBB", Study{UID: "1", Patient: id("9", "RBB"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RBB", Study{UID: "2", Patient: id("9", "RBB"), Name: "DOE^JANE", BirthDate: "19700101"}},
		}, "2", ""},
		"a birth date that says unknown": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "00000000"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "ROE^MARY", BirthDate: "00000000"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "00000000"}},
		}, "3", "2"},
		"instances of two people in the study asked about": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101", Mixed: true}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
		}, "", "2"},
		"instances of two people in another study": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: []PatientID{{"7", "RAA"}, {"9", "RAA"}}, Name: "DOE^JANE", BirthDate: "19700101", Mixed: true}},
			{"RAA", Study{UID: "3", Patient: id("9", "RAA"), Name: "DOE^JANE", BirthDate: "19710101"}},
		}, "", "2"},
		"dates that stand for unknown, and unlike names": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19000101"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "ROE^MARY", BirthDate: "19000101"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), BirthDate: "19000101"}},
		}, "", "2 3"},
		"equal birth dates and clearly unlike names": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19700203"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "SMITH^MARY", BirthDate: "19700203"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "JANE^DOE", BirthDate: "19700203"}},
			{"RAA", Study{UID: "4", Patient: id("7", "RAA"), Name: "SMITH^J", BirthDate: "19700203"}},
			{"RAA", Study{UID: "5", Patient: id("7", "RAA"), Name: "=王^小東", BirthDate: "19700203"}},
		}, "3 4", "2 5"}, // whose name is in another script may be either
		"who agrees with two people, without dates": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "WREN^J"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "WREN^JIM"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "WREN^JOHN"}},
		}, "", "2 3"},
		"who has no name, and a birth date of two people": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), BirthDate: "19700303"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "JONES^ANN", BirthDate: "19700303"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "SMITH^BOB", BirthDate: "19700303"}},
		}, "", "2 3"},
		"twins without names": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "HILL^TWIN I", BirthDate: "20240707"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "HILL^TWIN II", BirthDate: "20240707"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "HILL^TWIN I", BirthDate: "20240707"}},
		}, "3", "2"},
		"a baby, and another baby": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "HILL^BABY B", BirthDate: "20240707"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "HILL^BABY", BirthDate: "20240707"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "HILL^BABYB"}},
			{"RAA", Study{UID: "4", Patient: id("7", "RAA"), Name: "HILL^BABY A"}},
			{"RAA", Study{UID: "5", Patient: id("7", "RAA"), Name: "OTHER^BABY A", BirthDate: "20240707"}},
			{"RAA", Study{UID: "6", Patient: id("7", "RAA"), Name: "HILL^BABY B", BirthDate: "20240707"}},
		}, "3 6", "2 4 5"},
		"a middle initial, and a number behind a name": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "HILL^JOHN B", BirthDate: "19700303"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "HILL^JOHN", BirthDate: "19700303"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "HILL^JOHN^B", BirthDate: "19700303"}},
		}, "2 3", ""},
		"a name mistyped in one letter": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "SMITH^AB", BirthDate: "19700203"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "SMYTH^AB", BirthDate: "19700203"}},
		}, "2", ""},
		"a name with a letter too many": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "SMITH^AB", BirthDate: "19700203"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "SMIITH", BirthDate: "19700203"}},
		}, "2", ""},
		"a name mistyped in one letter, and another given name": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "SMITH^AB", BirthDate: "19700203"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "SMYTH^CD", BirthDate: "19700203"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "SMIITH^EF", BirthDate: "19700203"}},
		}, "", "2 3"},
		"a name mistyped in several letters": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "SMITH^AB", BirthDate: "19700203"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "SYMHT^CD", BirthDate: "19700203"}},
		}, "", "2"},
		"twins by the second group of their names": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "=王^小東", BirthDate: "20200203"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "=王^小西", BirthDate: "20200203"}},
		}, "", "2"},
		"123456 at three trusts": {[]said{
			{"RAA", Study{UID: "1", Patient: id("123456", "RAA"), Name: "DOE^JOHN", BirthDate: "19700203"}},
			{"RBB", Study{UID: "2", Patient: id("123456", "RBB"), Name: "ROE^MARY", BirthDate: "19700203"}},
			{"RBB", Study{UID: "3", Patient: []PatientID{{"123456", "RAA"}, {"123456", "RBB"}}, Name: "POE^EDGAR", BirthDate: "19700203"}},
			{"RBB", Study{UID: "4", Patient: id("123456", "RBB"), Name: "DOE^JOHN", BirthDate: "19700203"}},
			{"RAA", Study{UID: "5", Patient: id("123456", "RAA"), Name: "DOE^JOHN", BirthDate: "19700203"}},
		}, "", "4 5"},
		"mother and child under one number, without dates": {[]said{
			{"RAA", Study{UID: "1", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "19900203"}},
			{"RAA", Study{UID: "2", Patient: id("7", "RAA"), Name: "DOE^BABY", BirthDate: "11111111"}},
			{"RAA", Study{UID: "3", Patient: id("7", "RAA"), Name: "DOE", BirthDate: "20200606"}},
			{"RAA", Study{UID: "4", Patient: id("7", "RAA"), Name: "DOE^JANE", BirthDate: "18000101"}},
		}, "4", "2 3"},
		"swapped digits of the birth date and of the number": {[]said{
			{"RAA", Study{UID: "1", Patient: id("4711", "RAA"), Name: "DOE^JOHN", BirthDate: "19700213"}},
			{"RAA", Study{UID: "2", Patient: id("4711", "RAA"), Name: "DOE^JOHN", BirthDate: "19700231"}},
			{"RAA", Study{UID: "3", Patient: id("4711", "RAA"), Name: "DOE^JOHN", BirthDate: "19700123"}},
			{"RAA", Study{UID: "4", Patient: id("4171", "RAA"), Name: "DOE^JOHN", BirthDate: "19700213"}},
		}, "", "2 3 4"},
		"long identifiers that begin alike": {[]said{
			{"RAA", Study{UID: "1", Patient: id(strings.Repeat("7", 64)+"1", "RAA"), Name: "DOE^JANE", BirthDate: "19700101"}},
			{"RAA", Study{UID: "2", Patient: id(strings.Repeat("7", 64)+"2", "RAA"), Name: "ROE^JANE", BirthDate: "19700101"}},
			{"RAA", Study{UID: "3", Patient: id(strings.Repeat("7", 64)+"1", "RAA"), Name: "ROE^JANE", BirthDate: "19700101"}},
		}, "3", ""},
	} {
		t.Run(name, func(t *testing.T) {
			x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
			logs := map[TrustID][]Statement{}
			for _, s := range c.studies {
				logs[s.by] = append(logs[s.by], mustStudy(t, s.s))
			}
			for by, st := range logs {
				if _, err := x.Take(sealed(t, nodeKeyOf(by), 1, st)); err != nil {
					t.Fatal(err)
				}
			}
			first := c.studies[0].s.UID
			p, err := x.Patient(bg, first)
			if err != nil || p.Incomplete {
				t.Fatalf("%+v, %v", p, err)
			}
			if !slices.Contains(p.Certain, first) {
				t.Fatal("the study itself is not its patient's")
			}
			p.Certain = slices.DeleteFunc(p.Certain, func(u string) bool { return u == first })
			slices.Sort(p.Certain)
			slices.Sort(p.Possible)
			if got := strings.Join(p.Certain, " "); got != c.certain {
				t.Errorf("certain %q, want %q", got, c.certain)
			}
			if got := strings.Join(p.Possible, " "); got != c.possible {
				t.Errorf("possible %q, want %q", got, c.possible)
			}
			// Nobody is certainly one with whom it is not certainly one the other way round.
			for _, u := range p.Certain {
				back, err := x.Patient(bg, u)
				if err != nil || !slices.Contains(back.Certain, first) {
					t.Errorf("%s is certain of %s, but not the other way: %+v, %v", u, first, back, err)
				}
			}
		})
	}
}

func TestPatientOfNoStudy(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	if p, err := x.Patient(bg, "1.2.3"); err != nil || len(p.Certain)+len(p.Possible) > 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := x.Patient(bg, "no uid"); err == nil {
		t.Fatal("asked about no UID")
	}
}

func TestPatientStudiesComeNewestFirst(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	for uid, date := range map[string]string{"1": "20200101", "2": "20240101", "3": "", "4": "20220101"} {
		say(t, x, mustStudy(t, Study{UID: uid, Patient: []PatientID{{"7", "RAA"}}, Name: "DOE^JANE", Date: date}))
	}
	p, err := x.Patient(bg, "1")
	if err != nil || strings.Join(p.Certain, " ") != "2 4 1 3" {
		t.Fatalf("%+v, %v", p, err)
	}
}

// A number that everybody bears is given up on, and it is said that it was.
func TestPatientIsBounded(t *testing.T) {
	t.Parallel()
	x := openTest(t, "RAA", foundRegion("RAA", "RBB"))
	var groups [][]Statement
	for i := 0; i <= MaxPatient; {
		var g []Statement
		for range MaxFacts {
			g = append(g, mustStudy(t, Study{UID: uidOf(i), Patient: []PatientID{{"7", "RBB"}}, Name: "DOE^JOHN"}))
			i++
		}
		groups = append(groups, g)
	}
	if _, err := x.Take(sealed(t, nodeKeyOf("RBB"), 1, groups...)); err != nil {
		t.Fatal(err)
	}
	p, err := x.Patient(bg, uidOf(0))
	if err != nil || !p.Incomplete || len(p.Certain) != MaxPatient {
		t.Fatalf("%d certain, incomplete %v, %v", len(p.Certain), p.Incomplete, err)
	}
}

// What is put for a birth date that nobody knows makes no two one, whatever stands for it.
func TestBirthDatesThatAreNone(t *testing.T) {
	m := newMemoryPeople()
	for i, date := range []string{"19000101", "18000101", "00010101", "19010101", "11111111", "18991230", "18581117", "99991231", "22220202", "00000000", "19700230", "19111111"} {
		for n, name := range []string{"", "DOE^JANE", "ROE^MARY"} {
			m.study("RAA", Study{UID: uidOf(10*i + n), Patient: []PatientID{{uidOf(i), "RAA"}}, Name: name, BirthDate: date})
		}
		for n := range 3 {
			p, err := patientOf(uidOf(10*i+n), m, testFold, testNamesAgree)
			if err != nil || len(p.Certain) != 1 || len(p.Possible) != 2 {
				t.Errorf("%s: %s, %v", date, p, err)
			}
		}
	}
}
