package dicom

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/encoding/simplifiedchinese"
)

func text(charset string, vr VR, value string) []string {
	d := Dataset{Elements: []Element{
		{Tag: TagSpecificCharacterSet, VR: CS, Value: []byte(charset)},
		{Tag: TagPatientName, VR: vr, Value: []byte(value)},
	}}
	return d.Strings(TagPatientName)
}

func TestCharacterSets(t *testing.T) {
	for _, c := range []struct {
		name    string
		charset string
		vr      VR
		value   string
		want    []string
	}{
		// The standard's examples: PS3.5 H.3, I.2, J and K.
		{"Japanese, romaji and kanji", `\ISO 2022 IR 87`, PN,
			"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
			[]string{"Yamada^Tarou=山田^太郎=やまだ^たろう"}},
		{"Japanese, katakana and kanji", `ISO 2022 IR 13\ISO 2022 IR 87`, PN,
			"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
			[]string{"ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"}},
		{"Korean", `\ISO 2022 IR 149`, PN,
			"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
			[]string{"Hong^Gildong=洪^吉洞=홍^길동"}},
		{"Korean, text of several lines", `\ISO 2022 IR 149`, LT,
			"\x1b$)C\xb1\xe6\xb5\xbf\r\n\x1b$)C\xc8\xab.", []string{"길동\r\n홍."}},
		{"Chinese in UTF-8", "ISO_IR 192", PN, "Wang^XiaoDong=王^小東=", []string{"Wang^XiaoDong=王^小東="}},
		{"Chinese in GB18030", "GB18030", PN, "Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", []string{"Wang^XiaoDong=王^小东="}},
		{"Chinese in GBK", "GBK", PN, "Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", []string{"Wang^XiaoDong=王^小东="}},
		{"Chinese with code extensions", `\ISO 2022 IR 58`, PN,
			"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", []string{"Zhang^XiaoDong=张^小东="}},
		{"Chinese with code extensions, lines", `\ISO 2022 IR 58`, UT,
			"The first line includes\x1b$)A\xd6\xd0\xce\xc4.\r\nThe second line includes\x1b$)A\xd6\xd0\xce\xc4, too.\r\n",
			[]string{"The first line includes中文.\r\nThe second line includes中文, too.\r\n"}},
		{"Arabic", "ISO_IR 127", PN, "\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", []string{"قباني^لنزار"}},
		{"French", "ISO_IR 100", PN, "Buc^J\xe9r\xf4me", []string{"Buc^Jérôme"}},
		{"German", "ISO_IR 100", PN, "\xc4neas^R\xfcdiger", []string{"Äneas^Rüdiger"}},
		{"Greek", "ISO_IR 126", PN, "\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", []string{"Διονυσιος"}},
		{"Hebrew", "ISO_IR 138", PN, "\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", []string{"שרון^דבורה"}},
		{"Russian", "ISO_IR 144", PN, "\xbb\xee\xda\x63\x65\xdc\xd1\x79\xe0\x33", []string{"Люкceмбyр3"}},
		{"Thai", "ISO_IR 166", LO, "\xb9\xd2\xc1\xca\xa1\xd8\xc5", []string{"นามสกุล"}},

		{"Latin 2", "ISO_IR 101", PN, "Wa\xb3\xeasa", []string{"Wałęsa"}},
		{"Latin 3", "ISO_IR 109", PN, "\xa6a\xfdo", []string{"Ĥaŭo"}},
		{"Latin 4", "ISO_IR 110", PN, "\xaeukov", []string{"Žukov"}},
		{"Latin 5", "ISO_IR 148", PN, "\xddstanbul", []string{"İstanbul"}},
		{"Latin 9", "ISO_IR 203", LO, "\xa4 5", []string{"€ 5"}},
		{"katakana alone", "ISO_IR 13", PN, "\xd4\xcf\xc0\xde", []string{"ﾔﾏﾀﾞ"}},
		{"yen and overline", "ISO_IR 13", ST, "\x5c100~", []string{"¥100‾"}},
		{"a yen that is a delimiter", "ISO_IR 13", LO, "a\x5cb", []string{"a", "b"}},
		{"supplementary kanji", `\ISO 2022 IR 159`, LO, "\x1b$(D0!\x1b(B", []string{"丂"}},

		// Code extensions.
		{"single-byte sets side by side", `ISO 2022 IR 100\ISO 2022 IR 144\ISO 2022 IR 126`, LO,
			`J` + "\xe9" + `\` + "\x1b-L\xbb\xee" + `\` + "\xe9" + `\` + "\x1b-F\xc4", []string{"Jé", "Лю", "é", "Δ"}},
		{"reset at ^ and = of a name", `ISO 2022 IR 100\ISO 2022 IR 144`, PN, "\x1b-L\xbb^\xe9=\xe9", []string{"Л^é=é"}},
		{"no reset at ^ of other text", `ISO 2022 IR 100\ISO 2022 IR 144`, LO, "\x1b-L\xbb^\xbb", []string{"Л^Л"}},
		{"reset at TAB, FF and LF", `ISO 2022 IR 100\ISO 2022 IR 144`, LT, "\x1b-L\xbb\t\xe9\x1b-L\xbb\f\xe9\x1b-L\xbb\n\xe9",
			[]string{"Л\té" + "Л\fé" + "Л\né"}},
		{"escapes that were not declared", "", PN, "\x1b$B;3ED\x1b(B", []string{"山田"}},
		{"older escape for kanji", `\ISO 2022 IR 87`, PN, "\x1b$@;3ED\x1b(J", []string{"山田"}},
		{"escape nobody defined", "ISO 2022 IR 100", LO, "a\x1b*Zb", []string{"a\uFFFD*Zb"}},
		{"escape at the end", "ISO 2022 IR 100", LO, "a\x1b", []string{"a\uFFFD"}},
		{"half a kanji", `\ISO 2022 IR 87`, LO, "\x1b$B;3E\x1b(Bx", []string{"山\uFFFDx"}},

		// A backslash byte within a character is none.
		{"kanji whose second byte is a backslash", `\ISO 2022 IR 87`, LO, "\x1b$B%\\\x1b(B\\b", []string{decodeEUC("\xa5\xdc"), "b"}},
		{"kanji whose second byte is ^ or =", `\ISO 2022 IR 87`, PN, "\x1b$B;^;=\x1b(B^x", []string{decodeEUC("\xbb\xde\xbb\xbd") + "^x"}},
		{"GB18030 with a backslash byte", "GB18030", LO, "\x81\x5c\x5c\x81\x5c", []string{"乗", "乗"}},
		{"GBK with a backslash byte", "GBK", LO, "a\x5c\x81\x5c", []string{"a", "乗"}},
		{"GB18030 of four bytes", "GB18030", LO, "\x95\x32\x82\x36\\x", []string{"𠀀", "x"}},
		{"Shift-JIS in the place of JIS X 0201", "ISO_IR 13", LO, "\x83\x5c\x83\x6a\x81\x5b\\\x8e\x52", []string{"ソニー", "山"}},

		// Which VRs.
		{"several values", "ISO_IR 192", LO, `é\\ü `, []string{"é", "", "ü"}},
		{"ST has one value", "ISO_IR 192", ST, `a\b `, []string{`a\b`}},
		{"LT keeps leading spaces", "ISO_IR 192", LT, "  a  ", []string{"  a"}},
		{"CS is not governed", "GB18030", CS, "\xcd\xf5", []string{"\uFFFD\uFFFD"}},
		{"blank is nothing", "ISO_IR 192", LO, "  ", nil},

		// As real files write it.
		{"misspelt ISO-IR 100", "ISO-IR 100", PN, "J\xe9", []string{"Jé"}},
		{"misspelt ISO_IR_100", "ISO_IR_100", PN, "J\xe9", []string{"Jé"}},
		{"misspelt ISO IR 100", "ISO IR 100 ", PN, "J\xe9", []string{"Jé"}},
		{"misspelt ISOIR100", "ISOIR100", PN, "J\xe9", []string{"Jé"}},
		{"misspelt iso8859-1", "iso8859-1", PN, "J\xe9", []string{"Jé"}},
		{"misspelt UTF-8", "UTF-8", PN, "Jé", []string{"Jé"}},
		{"misspelt ISO 2022 GB18030", "GB 18030", PN, "\xcd\xf5", []string{"王"}},
		{"single ISO 2022 IR 6", "ISO 2022 IR 6", PN, "Doe", []string{"Doe"}},
		{"single ISO 2022 IR 100", "ISO 2022 IR 100", PN, "J\xe9", []string{"Jé"}},
		{"single ISO 2022 IR 149", "ISO 2022 IR 149", PN, "\xb1\xe6\xb5\xbf", []string{"길동"}},
		{"single ISO_IR 149", "ISO_IR 149", PN, "\xb1\xe6\xb5\xbf", []string{"길동"}},
		{"ISO_IR 6 first, UTF-8 after", `ISO 2022 IR 6\ISO_IR 192`, PN, "Jé", []string{"Jé"}},
		{"curly quotes of Windows in Latin 1", "ISO_IR 100", LO, "\x93so\x94", []string{"“so”"}},

		// What is not declared.
		{"no character set, ASCII", "", PN, "Doe", []string{"Doe"}},
		{"no character set, UTF-8", "", PN, "Jé", []string{"Jé"}},
		{"no character set, Latin 1", "", PN, "J\xe9", []string{"J\uFFFD"}},
		{"unknown character set", "KLINGON", PN, "J\xe9", []string{"J\uFFFD"}},
		{"declared ASCII", "ISO_IR 6", PN, "J\xe9", []string{"J\uFFFD"}},
		{"broken UTF-8", "ISO_IR 192", PN, "J\xe9\xe9x", []string{"J\uFFFD\uFFFDx"}},
		{"a byte Latin 3 does not have", "ISO_IR 109", LO, "a\xa5", []string{"a\uFFFD"}},
		{"a byte Thai does not have", "ISO_IR 166", LO, "a\xfc", []string{"a\uFFFD"}},
		{"C1 control", "ISO_IR 101", LO, "a\x85b", []string{"a\uFFFDb"}},
		{"half a hangul", `\ISO 2022 IR 149`, LO, "\x1b$)C\xb1", []string{"\uFFFD"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := text(c.charset, c.vr, c.value); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestTermsAsWritten(t *testing.T) {
	for id, terms := range map[string][]string{
		"6":       {"", " ", "ISO_IR 6", "ISO 2022 IR 6", "ISO2022IR6", "ASCII", "US-ASCII"},
		"100":     {"ISO_IR 100", "ISO-IR 100", "ISO_IR_100", "ISO IR 100", "iso_ir 100", "ISO 2022-IR 100", "ISO_2022_IR_100", "ISO 8859-1", "latin1", "IR 100"},
		"101":     {"ISO_IR 101", "ISO 8859-2"},
		"109":     {"ISO_IR 109", "ISO 8859-3"},
		"110":     {"ISO_IR 110", "ISO 8859-4"},
		"144":     {"ISO_IR 144", "ISO 8859-5"},
		"127":     {"ISO_IR 127", "ISO 8859-6"},
		"126":     {"ISO_IR 126", "ISO 8859-7"},
		"138":     {"ISO_IR 138", "ISO 8859-8"},
		"148":     {"ISO_IR 148", "ISO 8859-9"},
		"203":     {"ISO_IR 203", "ISO 8859-15"},
		"166":     {"ISO_IR 166", "TIS-620", "ISO 8859-11"},
		"13":      {"ISO_IR 13", "ISO 2022 IR 13", "SHIFT_JIS"},
		"149":     {"ISO 2022 IR 149", "EUC-KR", "KS X 1001"},
		"192":     {"ISO_IR 192", "UTF-8", "utf8", "ISO 10646"},
		"GBK":     {"GBK", "GB2312"},
		"GB18030": {"GB18030", "gb 18030"},
	} {
		for _, term := range terms {
			if got := characterSetID(term); got != id {
				t.Errorf("%q is %s, want %s", term, got, id)
			}
		}
	}
	for _, term := range []string{"ISO_IR 2022", "ISO_IR", "2022", "KLINGON", "ISO_IR 1000"} {
		if c := newCharset([]byte(term)); c.whole != nil || c.g1 != nil || !c.guess {
			t.Errorf("%q is taken for a character set", term)
		}
	}
}

// decodeEUC writes down kanji of which only the bytes matter.
func decodeEUC(s string) string { return decodeAll(kanji.double, []byte(s)) }

func TestBackslashBytesAreWhereTheTestsSay(t *testing.T) {
	b, err := simplifiedchinese.GBK.NewEncoder().String("乗")
	if err != nil || b != "\x81\x5c" {
		t.Errorf("% x %v", b, err)
	}
	for _, s := range []string{decodeEUC("\xa5\xdc"), decodeEUC("\xbb\xde\xbb\xbd")} {
		if strings.ContainsRune(s, utf8.RuneError) {
			t.Errorf("%q is no text", s)
		}
	}
}

func TestItemsInheritTheCharacterSet(t *testing.T) {
	d := newDraft(ExplicitVRLittleEndian)
	d.put(TagSpecificCharacterSet, CS, "ISO_IR 100")
	d.put(TagSOPInstanceUID, UI, testInstance)
	name := func(v string) func(*draft) { return func(d *draft) { d.put(TagPatientName, PN, v) } }
	d.seq(0x00081140, false, name("J\xe9"), func(d *draft) {
		d.put(TagSpecificCharacterSet, CS, "ISO_IR 144")
		d.put(TagPatientName, PN, "\xbb\xee")
		d.seq(0x00081140, false, name("\xbb\xee"))
	}, func(d *draft) {
		d.put(TagSpecificCharacterSet, CS, "")
		d.put(TagPatientName, PN, "J\xe9")
	})
	d.put(TagStudyInstanceUID, UI, testStudy)
	d.put(TagSeriesInstanceUID, UI, testSeries)
	s := mustScan(t, d.b)
	items := s.Data.Items(0x00081140)
	var got []string
	for _, i := range append(items, items[1].Items(0x00081140)...) {
		got = append(got, i.String(TagPatientName))
	}
	if want := []string{"Jé", "Лю", "Jé", "Лю"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzCharset(f *testing.F) {
	for _, s := range []struct{ charset, value string }{
		{`\ISO 2022 IR 87`, "Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"},
		{`ISO 2022 IR 13\ISO 2022 IR 87`, "\xd4\xcf\xc0\xde\\\x83\x5c\x1b(J\x1b)I"},
		{`\ISO 2022 IR 149`, "\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce"},
		{"GB18030", "\x81\x30\x81\x30\\\x81\x5c\xff"},
		{"GBK", "\x81"},
		{"ISO_IR 192", "\xe9\\é"},
		{"ISO_IR 166", "\xb9\xd2"},
	} {
		f.Add(s.charset, []byte(s.value), "PN")
		f.Add(s.charset, []byte(s.value), "UT")
	}
	f.Fuzz(func(t *testing.T, charset string, value []byte, vr string) {
		d := Dataset{Elements: []Element{
			{Tag: TagSpecificCharacterSet, VR: CS, Value: []byte(charset)},
			{Tag: TagPatientName, VR: VR(vr), Value: value},
		}}
		values := d.Strings(TagPatientName)
		if !VR(vr).IsString() && values != nil {
			t.Errorf("%q is no string VR and gave %q", vr, values)
		}
		if len(values) > len(value)+1 {
			t.Errorf("%d values of %d bytes", len(values), len(value))
		}
		total := 0
		for _, v := range values {
			total += len(v)
			if !utf8.ValidString(v) {
				t.Errorf("%q is no UTF-8", v)
			}
			if len(values) > 1 && strings.Contains(v, `\`) {
				t.Errorf("%q holds a delimiter", v)
			}
		}
		if total > 4*len(value) {
			t.Errorf("%d bytes became %d", len(value), total)
		}
		again, err := Decode(d.Encode(), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := again.Strings(TagPatientName); VR(vr).IsText() && strings.Join(got, `\`) != strings.Join(values, `\`) {
			t.Errorf("%q came back as %q", values, got)
		}
	})
}
