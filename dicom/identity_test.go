package dicom

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNHSNumber(t *testing.T) {
	for _, c := range []struct {
		in, want string
	}{
		{"9434765919", "9434765919"},
		{"943 476 5919", "9434765919"},
		{"943-476-5919", "9434765919"},
		{" 943\u00a0476\u20135919 ", "9434765919"},
		{"4010232137", "4010232137"},
		{"9434765918", ""}, // check digit
		{"9434765870", "9434765870"},
		{"9434765919x", ""},  // not digits
		{"943476591", ""},    // nine
		{"94347659190", ""},  // eleven
		{"943/476/5919", ""}, // another separator
		{"", ""},
		{"٩٤٣٤٧٦٥٩١٩", ""}, // digits, of another script
		{"0000000000", ""}, // passes modulus 11
		{"1111111111", ""}, // passes modulus 11
		{"9999999999", ""}, // passes modulus 11
		{"1000000010", ""}, // its check would be 10
	} {
		got, ok := NHSNumber(c.in)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%q: %q %v, want %q", c.in, got, ok, c.want)
		}
	}
}

func TestNHSNumberCatchesSlips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(100000000, 999999999).Draw(t, "nine digits")
		var valid string
		for d := range 10 {
			if s, ok := NHSNumber(fmt.Sprintf("%d%d", n, d)); ok {
				if valid != "" {
					t.Fatalf("two check digits for %d", n)
				}
				valid = s
			}
		}
		if valid == "" {
			return
		}
		i := rapid.IntRange(0, 9).Draw(t, "position")
		d := byte('0' + rapid.IntRange(0, 9).Draw(t, "digit"))
		slip := []byte(valid)
		slip[i] = d
		if string(slip) != valid {
			if _, ok := NHSNumber(string(slip)); ok {
				t.Fatalf("%s for %s is not noticed", slip, valid)
			}
		}
		j := rapid.IntRange(0, 8).Draw(t, "swap")
		swap := []byte(valid)
		swap[j], swap[j+1] = swap[j+1], swap[j]
		if string(swap) != valid {
			if _, ok := NHSNumber(string(swap)); ok {
				t.Fatalf("%s for %s is not noticed", swap, valid)
			}
		}
	})
}

func TestFoldName(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"SMITH^JOHN", "smith^john"},
		{"Smith ^ John^^^ ", "smith^john"},
		{"O'Neill^Seán", "oneill^sean"},
		{"O’Neill", "oneill"},
		{"Smith-Jones^Mary Ann", "smithjones^maryann"},
		{"Smith\u2010Jones", "smithjones"},
		{"Buc^Jérôme", "buc^jerome"},
		{"Äneas^Rüdiger", "aneas^rudiger"},
		{"Straße", "strasse"},
		{"Ørsted^Łukasz", "orsted^lukasz"},
		{"Æther", "aether"},
		{"St. John^J.", "stjohn^j"},
		{"Διονύσιος", "διονυσιοσ"},
		{"Ёлкин", "елкин"},
		{"ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ^タロウ"}, // voicing is no accent
		{"がく", "がく"},
		{"Ｓｍｉｔｈ", "smith"},
		{"Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou=山田^太郎=やまだ^たろう"},
		{"Wang^XiaoDong=王^小東=", "wang^xiaodong=王^小東"},
		{"สมชาย^ใจดี", "สมชาย^ใจดี"},
		{"SMI*^J?N", "smi*^j?n"},
		{"^^=", ""},
		{"", ""},
	} {
		if got := FoldName(c.in); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
		if again := FoldName(FoldName(c.in)); again != FoldName(c.in) {
			t.Errorf("%q folds on to %q", c.in, again)
		}
	}
}

func TestNamesAgree(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"Smith^John", "SMITH^JOHN", true},
		{"Smith^John^^^", "Smith^John", true},
		{"Smith^John^^Dr", "Smith^John^^Mr", true},
		{"Smith^John", "Smith^J", true},
		{"Smith^John", "Smith^J.", true},
		{"Smith^John", "Smith", true},
		{"Smith^John^Paul", "Smith^John", true},
		{"Smith^John^Paul", "Smith^John^P", true},
		{"Smith^John Paul", "Smith^John^Paul", true},
		{"O'Neill^Seán", "ONeill^Sean", true},
		{"Smith-Jones^Mary", "Smith Jones^MARY", true},
		{"Yamada^Tarou=山田^太郎", "Yamada^Tarou", true},
		{"Yamada^Tarou=山田^太郎", "=山田^太郎", true},
		{"Yamada^Tarou=山田^太郎", "山田^太郎", false}, // the alphabetic groups differ
		{"=山田^太郎", "山田^太郎", true},
		{"=山田^太郎", "=山田^太郎=やまだ^たろう", true},

		{"Smith^John", "Smith^James", false}, // twins
		{"Smith^John", "Smith^Jo", false},    // Jo is no initial
		{"Smith^Twin One", "Smith^Twin Two", false},
		{"Smith^Baby", "Smith^Jane", false},
		{"Smith^John", "Smyth^John", false},
		{"Smith^John", "John^Smith", false},
		{"Smith^John^Paul", "Smith^John^Peter", false},
		{"Smith^Mary Ann", "Smith^Mary", false},
		{"Smith^John^^^Jr", "Smith^John^^^Sr", false},
		{"Smith^John^^^Jr", "Smith^John", true},
		{"Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^次郎", false},
		{"=王^小", "=王^小東", false}, // one Han character is no initial
		{"=李^伟", "=李^伟明", false},
		{"", "", false},
		{"", "Smith^John", false},
		{"^John", "^John", false},
		{"UNKNOWN^MALE", "Unknown^Male", false},
		{"Anonymous", "Anonymous", false},
		{"M\uFFFDller^Hans", "M\uFFFDller^Hans", false},
		{"ガク^ア", "カク^ア", false},
	} {
		if got := NamesAgree(c.a, c.b); got != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
		if got := NamesAgree(c.b, c.a); got != c.want {
			t.Errorf("%q and %q the other way: %v", c.b, c.a, got)
		}
	}
}

func TestNamesAgreeHoldsForAnyNames(t *testing.T) {
	name := rapid.StringMatching(`[A-Za-zÀ-ÿ' ^=山田-]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		if NamesAgree(a, b) != NamesAgree(b, a) {
			t.Fatal("not symmetric")
		}
		if NamesAgree(a, b) != NamesAgree(strings.ToUpper(a), b) {
			t.Fatal("case counts")
		}
		if NamesAgree(a, b) != NamesAgree(FoldName(a), FoldName(b)) {
			t.Fatal("folding changes the answer")
		}
	})
}

func TestPatientIDs(t *testing.T) {
	build := func(f func(*draft)) Dataset {
		d := newDraft(ExplicitVRLittleEndian)
		d.put(TagSOPInstanceUID, UI, testInstance)
		f(d)
		d.put(TagStudyInstanceUID, UI, testStudy)
		d.put(TagSeriesInstanceUID, UI, testSeries)
		return mustScan(t, d.b).Data
	}
	other := func(id, issuer string) func(*draft) {
		return func(d *draft) {
			d.put(TagPatientID, LO, id)
			if issuer != "" {
				d.put(TagIssuerOfPatientID, LO, issuer)
			}
			d.put(TagTypeOfPatientID, CS, "TEXT")
		}
	}
	for _, c := range []struct {
		name string
		f    func(*draft)
		want []PatientID
	}{
		{"none", func(d *draft) { d.put(TagPatientID, LO, "") }, nil},
		{"bare", func(d *draft) { d.put(TagPatientID, LO, " 123 ") }, []PatientID{{ID: "123"}}},
		{"issuer", func(d *draft) {
			d.put(TagPatientID, LO, "123")
			d.put(TagIssuerOfPatientID, LO, "RXX")
		}, []PatientID{{ID: "123", Issuer: "RXX"}}},
		{"issuer in qualifiers", func(d *draft) {
			d.put(TagPatientID, LO, "123")
			d.seq(TagIssuerOfPatientIDQualifiers, true, func(d *draft) {
				d.put(TagUniversalEntityID, UT, "2.16.840.1.113883.2.1.4.1")
				d.put(TagUniversalEntityIDType, CS, "ISO")
			})
		}, []PatientID{{ID: "123", Issuer: "2.16.840.1.113883.2.1.4.1"}}},
		{"others", func(d *draft) {
			d.put(TagPatientID, LO, "123")
			d.put(TagIssuerOfPatientID, LO, "RXX")
			d.put(TagOtherPatientIDs, LO, `7\8`)
			d.seq(TagOtherPatientIDsSequence, false, other("9434765919", "NHS"), other("123", "RXX"), other("123", "RYY"), other("5", ""))
		}, []PatientID{{ID: "123", Issuer: "RXX"}, {"9434765919", "NHS", "TEXT"}, {"123", "RYY", "TEXT"}}},
	} {
		if got := build(c.f).PatientIDs(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	d := build(func(d *draft) {
		d.seq(TagIssuerOfAccessionNumber, true, func(d *draft) { d.put(TagLocalNamespaceEntityID, UT, "RIS") })
	})
	if got := d.AccessionIssuer(); got != "RIS" {
		t.Errorf("accession issuer %q", got)
	}
}
