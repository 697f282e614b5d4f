package dicomweb

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/dicom"
)

func le[T any](t *testing.T, values ...T) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestJSONModel(t *testing.T) {
	for _, c := range []struct {
		name string
		e    dicom.Element
		want string
	}{
		{"AE", textElement(0x00020016, dicom.AE, "PACS "), `{"vr":"AE","Value":["PACS"]}`},
		{"AS", textElement(0x00101010, dicom.AS, "042Y"), `{"vr":"AS","Value":["042Y"]}`},
		{"AT", dicom.Element{Tag: 0x00280009, VR: dicom.AT, Value: []byte{0x18, 0x00, 0x63, 0x10, 0x08, 0x00, 0xFF, 0xAB}}, `{"vr":"AT","Value":["00181063","0008ABFF"]}`},
		{"CS, several", textElement(0x00080008, dicom.CS, `ORIGINAL\PRIMARY `), `{"vr":"CS","Value":["ORIGINAL","PRIMARY"]}`},
		{"an empty value among others, F.2.5", textElement(0x00080008, dicom.CS, `ORIGINAL\\AXIAL`), `{"vr":"CS","Value":["ORIGINAL",null,"AXIAL"]}`},
		{"empty, F.2.5", textElement(0x00080008, dicom.CS, ""), `{"vr":"CS"}`},
		{"only padding", textElement(0x00080008, dicom.CS, "  "), `{"vr":"CS"}`},
		{"DA", textElement(0x00080020, dicom.DA, "20200203"), `{"vr":"DA","Value":["20200203"]}`},
		{"DS keeps its digits", textElement(0x00280030, dicom.DS, `0.100\+1.5\.5\-05\1.\1e3\0000 `), `{"vr":"DS","Value":[0.100,1.5,0.5,-5,1,1e3,0]}`},
		{"DS that is none", textElement(0x00280030, dicom.DS, `1,5\1e400\0x10\NaN\.\1e`), `{"vr":"DS","Value":["1,5","1e400","0x10","NaN",".","1e"]}`},
		{"DT", textElement(0x0008002A, dicom.DT, "20200203103000.5+0100"), `{"vr":"DT","Value":["20200203103000.5+0100"]}`},
		{"FD", dicom.Element{Tag: 0x00189073, VR: dicom.FD, Value: le(t, 0.1, math.NaN(), math.Inf(1), math.Inf(-1), 1e300)}, `{"vr":"FD","Value":[0.1,"NaN","Infinity","-Infinity",1e+300]}`},
		{"FL", dicom.Element{Tag: 0x00089459, VR: dicom.FL, Value: le(t, float32(0.5), float32(-1.25))}, `{"vr":"FL","Value":[0.5,-1.25]}`},
		{"IS", textElement(0x00200013, dicom.IS, `007\-3\+4\1.5\`), `{"vr":"IS","Value":[7,-3,4,"1.5",null]}`},
		{"LO with quotes and controls", textElement(0x00081030, dicom.LO, "a\"b\x1bc\t"), `{"vr":"LO","Value":["a\"b\u001bc\t"]}`},
		{"LT keeps backslashes and lines", textElement(0x00104000, dicom.LT, "a\\b\r\nc "), `{"vr":"LT","Value":["a\\b\r\nc"]}`},
		{"OB", dicom.Element{Tag: 0x00282000, VR: dicom.OB, Value: []byte{1, 2, 3, 4}}, `{"vr":"OB","InlineBinary":"AQIDBA=="}`},
		{"OB, empty", dicom.Element{Tag: 0x00282000, VR: dicom.OB}, `{"vr":"OB"}`},
		{"OW", dicom.Element{Tag: 0x00281201, VR: dicom.OW, Value: le(t, uint16(0x0102))}, `{"vr":"OW","InlineBinary":"AgE="}`},
		{"OF", dicom.Element{Tag: 0x00660016, VR: dicom.OF, Value: le(t, float32(1))}, `{"vr":"OF","InlineBinary":"AACAPw=="}`},
		{"PN in three groups, F.2.2", textElement(0x00100010, dicom.PN, "Yamada^Tarou=山田^太郎=やまだ^たろう"), `{"vr":"PN","Value":[{"Alphabetic":"Yamada^Tarou","Ideographic":"山田^太郎","Phonetic":"やまだ^たろう"}]}`},
		{"PN without the first group", textElement(0x00100010, dicom.PN, "=山田"), `{"vr":"PN","Value":[{"Ideographic":"山田"}]}`},
		{"PN, several, one empty", textElement(0x00081050, dicom.PN, `A^B\\C`), `{"vr":"PN","Value":[{"Alphabetic":"A^B"},null,{"Alphabetic":"C"}]}`},
		{"SH", textElement(0x00200010, dicom.SH, "7"), `{"vr":"SH","Value":["7"]}`},
		{"SL", dicom.Element{Tag: 0x00186020, VR: dicom.SL, Value: le(t, int32(-7))}, `{"vr":"SL","Value":[-7]}`},
		{"SS", dicom.Element{Tag: 0x00280107, VR: dicom.SS, Value: le(t, int16(-2), int16(3))}, `{"vr":"SS","Value":[-2,3]}`},
		{"SV beyond exact numbers is a string, F.2.3", dicom.Element{Tag: 0x00720082, VR: dicom.SV, Value: le(t, int64(-5), int64(math.MinInt64))}, `{"vr":"SV","Value":[-5,"-9223372036854775808"]}`},
		{"TM", textElement(0x00080030, dicom.TM, "1030 "), `{"vr":"TM","Value":["1030"]}`},
		{"UC", textElement(0x00189908, dicom.UC, `a\b`), `{"vr":"UC","Value":["a","b"]}`},
		{"UI", textElement(0x0020000D, dicom.UI, "1.2.3\x00"), `{"vr":"UI","Value":["1.2.3"]}`},
		{"UL", dicom.Element{Tag: 0x00081161, VR: dicom.UL, Value: le(t, uint32(math.MaxUint32))}, `{"vr":"UL","Value":[4294967295]}`},
		{"UN", dicom.Element{Tag: 0x00091001, VR: dicom.UN, Value: []byte("ab")}, `{"vr":"UN","InlineBinary":"YWI="}`},
		{"UR", textElement(0x00081190, dicom.UR, "http://x/?a=b "), `{"vr":"UR","Value":["http://x/?a=b"]}`},
		{"US", dicom.Element{Tag: 0x00280010, VR: dicom.US, Value: le(t, uint16(512))}, `{"vr":"US","Value":[512]}`},
		{"US of an odd number of bytes keeps them as UN", dicom.Element{Tag: 0x00280010, VR: dicom.US, Value: []byte{1, 2, 3}}, `{"vr":"UN","InlineBinary":"AQID"}`},
		{"UV", dicom.Element{Tag: 0x00720083, VR: dicom.UV, Value: le(t, uint64(math.MaxUint64), uint64(9))}, `{"vr":"UV","Value":["18446744073709551615",9]}`},
		{"UT with characters beyond ASCII", textElement(0x00420013, dicom.UT, "Ärger \U0001F9B4"), `{"vr":"UT","Value":["Ärger 🦴"]}`},
		{"SQ, an empty item, a nested one", dicom.Element{Tag: 0x00400275, VR: dicom.SQ, Items: []dicom.Dataset{{}, {Elements: []dicom.Element{textElement(0x00400009, dicom.SH, "1")}}}}, `{"vr":"SQ","Value":[{},{"00400009":{"vr":"SH","Value":["1"]}}]}`},
		{"SQ, empty", dicom.Element{Tag: 0x00400275, VR: dicom.SQ}, `{"vr":"SQ"}`},
		{"UN that was read as a sequence", dicom.Element{Tag: 0x00091002, VR: dicom.UN, Items: []dicom.Dataset{{}}}, `{"vr":"SQ","Value":[{}]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			ds := dicom.Dataset{Elements: []dicom.Element{textElement(dicom.TagSpecificCharacterSet, dicom.CS, "ISO_IR 192"), c.e}}
			if c.e.Tag < dicom.TagSpecificCharacterSet {
				slices.Reverse(ds.Elements)
			}
			got := string(jsonModel{}.append(nil, ds, ""))
			var all map[string]json.RawMessage
			if err := json.Unmarshal([]byte(got), &all); err != nil {
				t.Fatalf("%v: %s", err, got)
			}
			if g := string(all[c.e.Tag.Hex()]); g != c.want {
				t.Errorf("got  %s\nwant %s", g, c.want)
			}
		})
	}
}

func TestJSONModelStructure(t *testing.T) {
	long := make([]byte, 20)
	nested := dicom.Element{Tag: 0x54000100, VR: dicom.SQ, Items: []dicom.Dataset{{}, {Elements: []dicom.Element{{Tag: 0x54001010, VR: dicom.OW, Value: long}}}}}
	bulk := dicom.Element{Tag: 0x00420011, VR: dicom.OB, Bulk: &dicom.Range{Off: 1, Len: 2}}
	ds := dicom.Dataset{Elements: []dicom.Element{
		nested, // out of order, as broken writers do
		textElement(dicom.TagPatientID, dicom.LO, "first"),
		textElement(dicom.TagPatientID, dicom.LO, "second"),
		{Tag: 0x00100000, VR: dicom.UL, Value: make([]byte, 4)},
		{Tag: trailingPadding, VR: dicom.OB, Value: long},
		bulk,
	}}
	for _, c := range []struct {
		name string
		j    jsonModel
		want string
	}{
		{"with a place for bulk data: tags ascend, group lengths and padding are out, a name occurs once (F.2.2, F.2.6)", jsonModel{bulk: "http://h/bulkdata/", inline: 16},
			`{"00100020":{"vr":"LO","Value":["first"]},"00420011":{"vr":"OB","BulkDataURI":"http://h/bulkdata/00420011"},` +
				`"54000100":{"vr":"SQ","Value":[{},{"54001010":{"vr":"OW","BulkDataURI":"http://h/bulkdata/54000100/2/54001010"}}]}}`},
		{"without", jsonModel{},
			`{"00100020":{"vr":"LO","Value":["first"]},"54000100":{"vr":"SQ","Value":[{},{"54001010":{"vr":"OW","InlineBinary":"` + strings.Repeat("A", 27) + `="}}]}}`},
	} {
		if got := string(c.j.append(nil, ds, "")); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

// Whatever bytes an attribute has, the model is valid JSON, and a text that is
// UTF-8 comes back as it was.
func TestJSONAlwaysValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vrs := []dicom.VR{"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OW", "PN", "SH", "SL", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UN", "UR", "US", "UT", "UV", "ZZ"}
		ds := dicom.Dataset{Elements: []dicom.Element{
			{Tag: 0x00081030, VR: rapid.SampledFrom(vrs).Draw(t, "vr"), Value: rapid.SliceOf(rapid.Byte()).Draw(t, "value")},
			{Tag: 0x00081031, VR: rapid.SampledFrom(vrs).Draw(t, "vr2"), Value: []byte(rapid.StringMatching(`[-+0-9.eE\\=^"]{0,12}`).Draw(t, "digits"))},
		}}
		b := jsonModel{}.append(nil, ds, "")
		if !json.Valid(b) {
			t.Fatalf("%q", b)
		}
		s := rapid.String().Draw(t, "s")
		var back string
		if err := json.Unmarshal(appendString(nil, s), &back); err != nil || back != strings.ToValidUTF8(s, "\uFFFD") {
			t.Fatalf("%q became %q: %v", s, back, err)
		}
	})
}
