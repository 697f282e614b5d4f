package index

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/dicom"
)

// toldOf is a name with a sex and a birth date: FAMILY^GIVEN|F|19700203. What is not said of the date is 19700203.
func toldOf(uid, text string) Study {
	parts := append(strings.Split(text, "|"), "", "")
	if len(parts) < 5 {
		parts[2] = "19700203"
	}
	return Study{UID: uid, Patient: []PatientID{{"7", "RAA"}}, Name: parts[0], Sex: parts[1], BirthDate: strings.TrimSpace(parts[2])}
}

// onePatient says of two of one number, told each from the other, whether they are certainly one patient.
func onePatient(t testing.TB, one, two string) bool {
	t.Helper()
	m := newMemoryPeople()
	m.study("RAA", toldOf("1", one))
	m.study("RAA", toldOf("2", two))
	certain := 0
	for _, uid := range []string{"1", "2"} {
		p, err := patientOf(uid, m, dicom.FoldName, dicom.NamesAgree)
		if err != nil || p.Incomplete || len(p.Certain)+len(p.Possible) != 2 {
			t.Fatalf("%s, %s: %s, %v", one, two, p, err)
		}
		certain += len(p.Certain) - 1
	}
	if certain == 1 {
		t.Errorf("%s is certain of %s, but not the other way round", one, two)
	}
	return certain == 2
}

// Two people of one number and one birth date, however their names are written.
func TestTwoPeopleOfOneNumberAndDate(t *testing.T) {
	for _, pair := range [][2]string{
		{"MOSS JOHN", "MOSS JANE"}, {"MOSS, JOHN", "MOSS, JANE"}, {"JOHN MOSS", "JANE MOSS"}, {"MOSS, JOHN", "MOSS JANE"}, {"MOSS^JOHN", "JANE MOSS"},
		{"MILLS^ANNA", "MILLS EMMA"}, {"MILLS^ANNA", "MILLS, EMMA"}, {"MILLS^ANNA", "EMMA MILLS"}, {"MILLS^ANNA", "MISS EMMA MILLS"},
		{"MOSS^JOHN", "MOS^JANE"}, {"SMYTH^ANNA", "SMITH^EMMA"}, {"SMITH^AB", "SMYTH^CD"}, {"SMITH^AB", "SMIITH^EF"},
		{"MOSS-REED^JOHN", "MOSS^JANE"}, {"AL-HASSAN^ALI", "HASSAN^OMAR"}, {"AL-HASSAN^OMAR", "HASSAN^ALI"}, {"AL HASSAN OMAR", "HASSAN^ALI"},
		{"AL HASSAN OMAR", "HASSAN ALI"}, {"VAN DER BERG^ALI", "BERG^OMAR"}, {"VAN BERG VERA", "BERG^VANESSA"},
		{"MOSS^JOHN^LEE", "REED^JANE^LEE"}, {"MOSS^JOHN LEE", "MOSS^JANE LEE"}, {"MOSS JOHN LEE", "MOSS JANE LEE"}, {"JOHN LEE MOSS", "JANE LEE MOSS"},
		{"KHAN^MOHAMMED ALI", "KHAN^MOHAMMED OMAR"}, {"KHAN^MOHAMMED^ALI", "KHAN^MOHAMMED^OMAR"}, {"KHAN MOHAMMED ALI", "KHAN^MOHAMMED^OMAR"},
		{"HILL^MARIA", "HILL^MARIE"}, {"HILL^DANIEL", "HILL^DANIELA"}, {"HILL MARIA", "HILL MARIE"}, {"MARIA HILL", "HILL, MARIE"}, {"HYLL^MARIA", "HILL^MARIE"},
		{"HILL^MARIA", "MARIE^HILL"}, {"MOSS^JOHN", "REED JOHN"}, {"JAMES^OLIVER", "SMITH^J"}, {"JOHNSON^JAMES", "JAMES^JOHN"}, {"SENIOR^JANE", "JONES^JOAN"}, {"MOSS", "REED^JOHN"}, {"MOSS", "REED"}, {"^MOSS", "REED"},
		{"SMITH BABY BOY", "SMITH BABY GIRL"}, {"SMITH, BABY BOY", "SMITH, BABY GIRL"}, {"BABY BOY^SMITH", "BABY GIRL^SMITH"}, {"SMITH BABYBOY", "SMITH BABYGIRL"},
		{"SMITH BABY BOY|M", "SMITH BABY GIRL|F"}, {"SMITH, BABY BOY|M", "SMITH, BABY GIRL|F"}, {"BABYBOY^SMITH", "BABYGIRL^SMITH"}, {"SMITH^BABYBOY2", "SMITH^BABYBOY1"}, {"SMITH^BABYBOYTWO", "SMITH^BABYBOY"},
		{"SMITH BOY OF ANNA", "SMITH GIRL OF ANNA"}, {"SMITH SON OF ANNA", "SMITH DAUGHTER OF ANNA"}, {"BABY BOY SMITH", "BABY GIRL SMITH"}, {"BOY^", "GIRL^"}, {"SMITH^MALE", "SMITH^FEMALE"},
		{"SMITH^BABY|M", "SMITH^BABY|F"}, {"|M", "|F"}, {"UNKNOWN^PATIENT|M", "UNKNOWN^PATIENT|F"}, {"PATEL|M", "PATEL|F"}, {"SMITH^BABY BOY", "SMITH^BABY|F"},
		{"|M|", "|F|"}, {"PATEL|m", "PATEL|f"}, {"PATEL|M|", "PATEL|F|"}, {"FERN^JOHN|M|", "FERN^JOHN|F|"}, {"MOSS^J|M", "MOSS^J|F"}, {"MOSS^SAM|M", "MOSS^SAMANTHA|F"}, {"|M", "MOSS^JANE|F"},
		{"BABY BOY^SMITH|F", "BABY GIRL^SMITH|F"}, {"M�LLER^JOHN", "MOSS^JANE"}, {"^ANNA", "SMITH^EMMA"}, {"UNKNOWN^JOHN", "UNKNOWN^JANE"}, {"MOSS^MR", "MOSS^MRS"}, {"MOSS^J^^MR", "MOSS^J^^MRS"}, {"MOSS^JANE|F", "MOSS^JANE|M"}, {"DOE^JANE|F", "ROE^JANE|M"},
		{"HILL^BABY", "JONES^BABY"}, {"HILL^BABY BOY|M", "JONES^BABY BOY|M"}, {"HILL^MALE", "JONES^MALE"}, {"HILL^INFANT", "JONES^INFANT"}, {"HILL^UNKNOWN", "JONES^UNKNOWN"}, {"HILL^BABY JANE", "JONES^BABY JANE"}, {"HILL^NFN", "JONES^NFN"}, {"王^丽", "王^丽娟"},
		{"FERN^JOHN^^^JR", "FERN^JOHN^^^SR"}, {"FERN^JOHN JR", "FERN^JOHN SR"}, {"FERN JOHN JR", "FERN, JOHN SENIOR"}, {"FERN JR^JOHN", "FERN^JOHN^^^SR"}, {"FERN^JOHN^^^II", "FERN^JOHN^^^III"},
		{"FERN^JOHN^^^JR|M|", "FERN^JOHN^^^SR|M|"}, {"SILVA^JUNIOR", "SILVA^JOSE"}, {"=王^小東", "=王^小西"}, {"王^小東", "王小西"}, {"YAMADA^TARO=山田^太郎", "YAMADA^JIRO=山田^太郎"},
		{"MOSS,JOHN", "MOSS^JANE"}, {"MILLS^ANNA", "MRS EMMA MILLS"}, {"HASSAN ALI", "AL-HASSAN^OMAR"}, {"MOSS^JOHN^LEE", "REED JANE LEE"}, {"MOSS^ANNA", "MOSS^EMMA^ANNA"}, {"MOSS^^ANNA", "MOSS^^EMMA"},
		{"SMITH^BABY BOY", "SMITH^BABY GIRL"}, {"SMITH^MALE INFANT", "SMITH^FEMALE INFANT"}, {"SMITH^BABY BOY 1", "SMITH^BABY BOY 2"}, {"FERN JOHN JUNIOR", "FERN JOHN SENIOR"}, {"PATEL^ASHA|F ", "PATEL^ASHA|m"},
	} {
		if onePatient(t, pair[0], pair[1]) {
			t.Errorf("%s and %s are certainly one", pair[0], pair[1])
		}
		if !onePatient(t, pair[0], pair[0]) && !strings.HasSuffix(pair[0], "|M|") {
			t.Errorf("%s is not one with itself", pair[0])
		}
	}
}

// One person, whose name is written in several ways.
func TestOnePersonHoweverTheNameIsWritten(t *testing.T) {
	for _, pair := range [][2]string{
		{"MOSS^JOHN", "MOSS^JOHN^LEE"}, {"MOSS^JOHN LEE", "MOSS^JOHN"}, {"MOSS^JOHN LEE", "MOSS^JOHN^L"}, {"MOSS^JOHN^LEE", "JOHN LEE MOSS"}, {"MOSS JOHN LEE", "MOSS JOHN"},
		{"MOSS JOHN", "MOSS^JOHN"}, {"Moss, John", "MOSS^JOHN"}, {"JOHN MOSS", "MOSS^JOHN"}, {"JOHN MOSS", "MOSS JOHN"}, {"MOSS^JOHN", "JOHN^MOSS"}, {"MOSSJOHN", "MOSS JOHN"}, {"MOSSJOHN", "MOSS^JOHN"},
		{"MÜLLER^ZOË", "Muller^Zoe"}, {"müller zoë", "MULLER^ZOE"}, {"Moss, John", "MOSS, JOHN"},
		{"SMITH-JONES^ANNA", "SMITH JONES^ANNA"}, {"SMITH-JONES ANNA", "SMITH JONES^ANNA"}, {"SMITH-JONES ANNA", "SMITH JONES ANNA"}, {"SMITH-JONES^ANNA", "SMITH^ANNA"}, {"SMITH-JONES ANNA", "SMITH^ANNA"},
		{"HILL^ANNE-MARIE", "HILL^ANNEMARIE"}, {"HILL^ANNE MARIE", "HILL ANNEMARIE"}, {"HILL^ANNE MARIE", "HILL^ANNE^MARIE"},
		{"VAN DER BERG^JAN", "VANDERBERG^JAN"}, {"VAN DER BERG JAN", "VANDERBERG^JAN"}, {"VAN DER BERG", "VAN DER BERG^JAN"}, {"AL-HASSAN^ALI", "HASSAN^ALI"}, {"AL HASSAN ALI", "AL-HASSAN^ALI"},
		{"MOSS^JOHN^^MR", "MOSS^JOHN"}, {"MOSS^MR JOHN", "MOSS^JOHN"}, {"MR JOHN MOSS", "MOSS^JOHN^^DR^PHD"}, {"MOSS, JOHN, MR", "MOSS JOHN"}, {"MOSS DR JOHN", "MOSS^JOHN"}, {"MOSS, MRS JANE|F", "MOSS^JANE|F"},
		{"DOE^JANE", "ROE^JANE"}, {"DOE, JANE", "ROE^JANE"}, {"DOE, JANE|F", "ROE, JANE|F"}, {"DOE^JANE^^MISS", "ROE^JANE^^MRS"}, {"DOE^JANE^ANN", "ROE^JANE^DOE"}, {"DOE^JANE|F", "ROE^JANE|O"}, {"DOE^JANE|F", "DOE-ROE^JANE|F"},
		{"MOSS^JO", "MOSS^JOSEPH"}, {"MOSS^JOSEPH", "MOSS JO"}, {"MOSS^J", "MOSS JOHN"}, {"MOSS^JO^LEE", "MOSS^JOSEPH^LEE"},
		{"SMITH^ANNA", "SMYTH^ANNA"}, {"SMITH^ANNA", "SMYTH ANNA"}, {"SMITH^ANNA", "SMYTH"}, {"SMITH^ANNA", "SMITH"}, {"SMITH^ANNA", "ANNA"}, {"SMITH^ANNA", "^ANNA"}, {"SMITH^ANNA", ""},
		{"PATEL|M", "PATEL|"}, {"PATEL|F", "PATEL|O"}, {"PATEL|M", "PATEL|M"}, {"|M", "|"}, {"|F", "MOSS^JANE|F"}, {"PATEL|M|", "PATEL|O|"}, {"UNKNOWN^PATIENT|M", "UNKNOWN^PATIENT"}, {"UNKNOWN^PATIENT", "MOSS^JANE"}, {"M�LLER^J�RG", "MÜLLER^JÖRG"},
		{"SMITH^BABY BOY", "SMITH BABYBOY"}, {"SMITH^BABY", "SMYTH^BABY"}, {"HILL^BABY", "HILL^BABY"}, {"SMITH^BABY|M", "SMITH^BABY BOY"}, {"SMITH^BABY BOY", "BABY BOY^SMITH"}, {"MALE^JANE|F", "JONES^JANE|F"}, {"MALE^JANE", "JONES^JANE"},
		{"FERN^JOHN^^^JR", "FERN^JOHN"}, {"FERN^JOHN JR", "FERN^JOHN^^^JUNIOR"}, {"FERN JR^JOHN", "FERN^JOHN^^^JNR"}, {"FERN^JOHN^^^JR|M|", "FERN^JOHN|M|"}, {"SILVA^JUNIOR", "SILVA^JUNIOR"}, {"SENIOR^JANE", "JONES^JANE^^^JR"}, {"FERN^JOHN^JR", "FERN JR, JOHN"}, {"JAMES^JOHN", "J^JAMES"},
		{"=王^小東", "=王^小東"}, {"王^小東", "王小東"}, {"YAMADA^TARO=山田^太郎", "YAMADA^TARO"}, {"YAMADA^TARO=山田^太郎", "=山田^太郎"},
		{"MOSS, JOHN LEE", "MOSS^JOHN"}, {"MOSS J", "MOSS JOHN"}, {"MR JOHN MOSS", "DR JOHN MOSS"}, {"MOSS^JOHN^^DR", "MR JOHN MOSS"}, {"MÜLLER^ÉVA", "muller^eva"}, {"SMITH JONES ANNA", "SMITH-JONES^ANNA"},
		{"VAN DER BERG^ALI", "VANDERBERG ALI"}, {"SMITH^ANNA", "JONES^ANNA"}, {"ANNA^SMITH", "SMITH^ANNA"}, {"MOSS", "MOSS^JOHN"}, {"", "MOSS^JOHN"}, {"SMITH^BABY BOY", "SMITH^BABY"},
		{"PATEL^ASHA|F", "PATEL^ASHA|O"}, {"PATEL^ASHA|F", "PATEL^ASHA"}, {"PATEL^ASHA|F", "PATEL^ASHA|unknown"},
	} {
		if !onePatient(t, pair[0], pair[1]) {
			t.Errorf("%s and %s are not certainly one", pair[0], pair[1])
		}
	}
}

// Who agrees with two people who do not agree is neither's: the first with the others, who are two people.
func TestWhoAgreesWithTwoPeople(t *testing.T) {
	for _, c := range [][3]string{
		{"FERN^JOHN||", "FERN^JOHN^^^JR||", "FERN^JOHN^^^SR||"}, {"FERN^JOHN", "FERN^JOHN JR", "FERN^JOHN^^^SR"}, {"FERN JOHN", "FERN JOHN JR", "FERN^JOHN^^^SR"},
		{"MOSS", "MOSS JOHN", "MOSS^JANE"}, {"MOSS", "MOSS, JOHN", "JANE MOSS"}, {"", "MOSS JOHN", "MOSS JANE"}, {"", "SMYTH^ANNA", "SMITH^EMMA"},
		{"SMITH^BABY", "SMITH^BABY BOY", "SMITH^BABY GIRL"}, {"SMITH^BABY", "SMITH^BABY|M", "SMITH^BABY|F"}, {"PATEL", "PATEL|M", "PATEL|F"}, {"", "|M", "|F"}, {"|O", "|M", "|F"},
		{"KHAN^MOHAMMED", "KHAN^MOHAMMED^ALI", "KHAN^MOHAMMED^OMAR"}, {"MOSS^J", "MOSS^J|M", "MOSS^J|F"}, {"PATEL||", "PATEL|M|", "PATEL|F|"},
	} {
		m := newMemoryPeople()
		for i, text := range c {
			m.study("RAA", toldOf(fmt.Sprint(i+1), text))
		}
		for i, want := range []string{"1", "2", "3"} {
			p, err := patientOf(want, m, dicom.FoldName, dicom.NamesAgree)
			if err != nil || !slices.Equal(p.Certain, []string{want}) || len(p.Possible) != 2 {
				t.Errorf("%q: from %s: %s, %v", c, c[i], p, err)
			}
		}
	}
}

// A sex that was mistyped, or corrected, costs certainty between those two and takes nothing from what does not say a sex.
func TestASexMistyped(t *testing.T) {
	m := newMemoryPeople()
	for i, text := range []string{"MOSS^JANE|F", "MOSS^JANE|M", "MOSS^JANE", "MOSS^JANE|F"} {
		m.study("RAA", toldOf(fmt.Sprint(i+1), text))
	}
	for uid, want := range map[string]string{"1": "1 3 4 | 2", "2": "2 3 | 1 4", "3": "1 2 3 4 | "} {
		p, err := patientOf(uid, m, dicom.FoldName, dicom.NamesAgree)
		slices.Sort(p.Certain)
		slices.Sort(p.Possible)
		if err != nil || p.String() != want {
			t.Errorf("from %s: %s, %v; want %s", uid, p, err, want)
		}
	}
}

// What two names say of each other is the same from either side, and none contradicts itself.
func TestNamesAreToldApartAlikeFromEitherSide(t *testing.T) {
	fold := folder(dicom.FoldName)
	word := rapid.SampledFrom([]string{"", "MOSS", "Moos", "JOHN", "JO", "J", "JANE", "JANET", "LEE", "AL", "ALI", "VAN", "DER", "BABY", "BABYBOY", "GIRL", "B", "II", "JR", "Sr", "MR", "MRS", "李", "李伟", "\ufffd"})
	between := rapid.SampledFrom([]string{"^", "^", " ", " ", "-", ",", ", ", "="})
	name := rapid.Custom(func(rt *rapid.T) string {
		var text strings.Builder
		for i := range rapid.IntRange(0, 6).Draw(rt, "words") {
			if i > 0 {
				text.WriteString(between.Draw(rt, "between"))
			}
			text.WriteString(word.Draw(rt, "word"))
		}
		return text.String()
	})
	rapid.Check(t, func(rt *rapid.T) {
		one, two := name.Draw(rt, "one"), name.Draw(rt, "two")
		a, b := fold.called(one), fold.called(two)
		if there, back := nameApart(a, b), nameApart(b, a); there != back {
			rt.Fatalf("%q, %q: %d, and the other way %d", one, two, there, back)
		}
		again := fold.called(one)
		again.whole += "," // so that it is compared
		if nameApart(a, again) != notApart || TwoPeople(dicom.FoldName, Study{Name: one, Sex: "F"}, Study{Name: one, Sex: "F"}) {
			rt.Fatalf("%q is not one with itself", one)
		}
	})
}

// Names of any length take little time.
func TestNamesOfManyWords(t *testing.T) {
	fold := folder(dicom.FoldName)
	most := 0
	for _, text := range []string{strings.Repeat("A ", 500), "X" + strings.Repeat("^A B C D E F", 4), "A B C D E F G H I J K L M N O P", strings.Repeat("A,", 512)} {
		for _, g := range fold.called(text).groups {
			most = max(most, len(g.readings))
		}
	}
	if most != 2*maxFamilyWords+1 {
		t.Errorf("a name is read in %d ways", most)
	}
	if again := fold.called(strings.Repeat("A ", 500)); !again.groups[0].over {
		t.Error("one word many times is a name")
	}
	if long := strings.Join(strings.Split("ABCDEFGHIJKLMNOPQ", ""), " "); nameApart(fold.called(long), fold.called("A")) != twoPeople {
		t.Error("a name of too many words says something")
	}
}

// Studies that Patient sees differently are of different texts.
func TestWhoseTellsApartWhatCounts(t *testing.T) {
	texts := map[string]bool{}
	said := Study{UID: "1", Patient: []PatientID{{"7", "RAA"}}, NHS: nhsAnna, Name: "MOSS^JANE", BirthDate: "19700203", Sex: "F"}
	for _, change := range []func(*Study){
		func(*Study) {}, func(s *Study) { s.Patient = nil }, func(s *Study) { s.NHS = "" }, func(s *Study) { s.Name = "" }, func(s *Study) { s.BirthDate = "" },
		func(s *Study) { s.Sex = "M" }, func(s *Study) { s.Mixed = true },
	} {
		s := said
		change(&s)
		texts[Whose([]Authored[Study]{{Value: s}})] = true
	}
	if len(texts) != 7 {
		t.Errorf("%d texts of 7 studies", len(texts))
	}
	other := said
	other.UID, other.Date = "2", "20240101"
	if Whose([]Authored[Study]{{Value: other}}) != Whose([]Authored[Study]{{Value: said}}) {
		t.Error("a study's own UID and date are in the text")
	}
}
