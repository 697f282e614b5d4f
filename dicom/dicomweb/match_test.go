package dicomweb

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/priormesh/priormesh/dicom"
)

func TestMatches(t *testing.T) {
	const (
		steps     = tagRequestAttributesSequence
		stepID    = dicom.Tag(0x00400009)
		procedure = dicom.Tag(0x00401001)
		moment    = dicom.Tag(0x0008002A) // Acquisition DateTime
		slope     = dicom.Tag(0x00281053)
		flAngle   = dicom.Tag(0x00189073) // an FD
	)
	item := func(step, proc string) dicom.Dataset {
		return dicom.Dataset{Elements: []dicom.Element{textElement(stepID, dicom.SH, step), textElement(procedure, dicom.SH, proc)}}
	}
	ds := dicom.Dataset{Elements: []dicom.Element{
		textElement(dicom.TagSpecificCharacterSet, dicom.CS, "ISO_IR 192"),
		textElement(dicom.TagStudyDate, dicom.DA, "20200203"),
		textElement(moment, dicom.DT, "20200203103000.5+0100 "),
		textElement(dicom.TagStudyTime, dicom.TM, "1030"),
		textElement(tagModalitiesInStudy, dicom.CS, `CT\SR `),
		textElement(dicom.TagStudyDescription, dicom.LO, "CT Head "),
		textElement(dicom.TagPatientName, dicom.PN, "Müller^Jörg^^=MUELLER=みゅら"),
		textElement(dicom.TagPatientID, dicom.LO, "A*7"),
		textElement(dicom.TagStudyInstanceUID, dicom.UI, "1.2.3\x00"),
		{Tag: dicom.TagRows, VR: dicom.US, Value: binary.LittleEndian.AppendUint16(nil, 512)},
		textElement(dicom.TagInstanceNumber, dicom.IS, "007"),
		textElement(slope, dicom.DS, "1.50"),
		{Tag: flAngle, VR: dicom.FD, Value: binary.LittleEndian.AppendUint64(nil, math.Float64bits(2.5))},
		{Tag: steps, VR: dicom.SQ, Items: []dicom.Dataset{item("1", "a"), item("2", "b")}},
		{Tag: 0x00091001, VR: dicom.UN, Value: []byte("vendor ")},
	}}
	m := func(tag dicom.Tag, values ...string) []Match { return []Match{{[]dicom.Tag{tag}, values}} }
	in := func(tag dicom.Tag, v string) Match { return Match{[]dicom.Tag{steps, tag}, []string{v}} }
	for _, c := range []struct {
		clause string // of PS3.4
		ms     []Match
		want   bool
	}{
		{"C.2.2.2 no keys match all", nil, true},
		{"C.2.2.2.1 single value", m(dicom.TagStudyDescription, "CT Head"), true},
		{"C.2.2.2.1 is literal in case", m(dicom.TagStudyDescription, "ct head"), false},
		{"C.2.2.2.1 and whole", m(dicom.TagStudyDescription, "CT"), false},
		{"C.2.2.2.1 any of several values", m(tagModalitiesInStudy, "SR"), true},
		{"C.2.2.2.1 none of several values", m(tagModalitiesInStudy, "MR"), false},
		{"C.2.2.2.1 numbers as numbers", append(m(dicom.TagRows, "512"), append(m(dicom.TagInstanceNumber, "7"), append(m(slope, "1.5"), m(flAngle, "2.5")...)...)...), true},
		{"C.2.2.2.1 other number", m(dicom.TagRows, "511"), false},
		{"C.2.2.2.1 absent attribute", m(dicom.TagPatientSex, "F"), false},
		{"C.2.2.2.1 unknown VR", m(0x00091001, "vendor"), true},
		{"C.2.2.2.1 all keys must match", append(m(tagModalitiesInStudy, "CT"), m(dicom.TagStudyDate, "20200204")...), false},
		{"C.2.2.2.2 list of UIDs", m(dicom.TagStudyInstanceUID, "1.2", "1.2.3"), true},
		{"C.2.2.2.2 not in the list", m(dicom.TagStudyInstanceUID, "1.2", "1.2.4"), false},
		{"C.2.2.2.2 list of code strings", m(tagModalitiesInStudy, "MR", "CT"), true},
		{"C.2.2.2.3 universal, absent attribute", m(dicom.TagPatientSex), true},
		{"C.2.2.2.4 star", m(dicom.TagStudyDescription, "CT*"), true},
		{"C.2.2.2.4 star for nothing", m(dicom.TagStudyDescription, "*CT Head*"), true},
		{"C.2.2.2.4 question mark", m(dicom.TagStudyDescription, "?T Hea?"), true},
		{"C.2.2.2.4 question mark is one character", m(dicom.TagStudyDescription, "CT Head?"), false},
		{"C.2.2.2.4 a literal star matches the wildcard", m(dicom.TagPatientID, "A*7"), true},
		{"C.2.2.2.4 no wildcards in UIDs", m(dicom.TagStudyInstanceUID, "1.2.*"), false},
		{"C.2.2.2.1 names without case and accents", m(dicom.TagPatientName, "MULLER^jorg"), true},
		{"C.2.2.2.4 names with wildcards", m(dicom.TagPatientName, "mull*"), true},
		{"C.2.2.2.1 names in another component group", m(dicom.TagPatientName, "mueller"), true},
		{"C.2.2.2.1 names in the third", m(dicom.TagPatientName, "みゅら"), true},
		{"C.2.2.2.1 other name", m(dicom.TagPatientName, "Müller^Jana"), false},
		{"C.2.2.2.1 names with all groups", m(dicom.TagPatientName, "Müller^Jörg=MUELLER=*"), true},
		{"C.2.2.2.5.1 single date", m(dicom.TagStudyDate, "20200203"), true},
		{"C.2.2.2.5.1 dates, both ends included", m(dicom.TagStudyDate, "20200203-20200203"), true},
		{"C.2.2.2.5.1 after", m(dicom.TagStudyDate, "20200204-"), false},
		{"C.2.2.2.5.1 open begin", m(dicom.TagStudyDate, "-20200203"), true},
		{"C.2.2.2.5.1 open end", m(dicom.TagStudyDate, "20200101-"), true},
		{"C.2.2.2.5.2 time of limited precision", m(dicom.TagStudyTime, "103030-103031"), true},
		{"C.2.2.2.5.2 times", m(dicom.TagStudyTime, "1000-1029"), false},
		{"C.2.2.2.5.2 time with colons", m(dicom.TagStudyTime, "10:30"), true},
		{"C.2.2.2.5.3 moments", m(moment, "20200203-20200204"), true},
		{"C.2.2.2.5.3 offset from UTC counts", m(moment, "20200203093000+0000-20200203093001+0000"), true},
		{"C.2.2.2.5.3 other offset", m(moment, "20200203103000+0000-"), false},
		{"C.2.2.2.5.3 offset with a hyphen", m(moment, "20200203043000-0500-20200203043001-0500"), true},
		{"C.2.2.2.5.3 single moment with a hyphen", m(moment, "20200203043000.5-0500"), true},
		{"C.2.2.2.6 sequence", []Match{in(stepID, "2")}, true},
		{"C.2.2.2.6 keys in one item", []Match{in(stepID, "2"), in(procedure, "b")}, true},
		{"C.2.2.2.6 keys in different items do not match", []Match{in(stepID, "1"), in(procedure, "b")}, false},
		{"C.2.2.2.6 universal in an absent sequence", []Match{{[]dicom.Tag{0x00400100, stepID}, nil}}, true},
		{"C.2.2.2.6 absent sequence", []Match{{[]dicom.Tag{0x00400100, stepID}, []string{"1"}}}, false},
		{"C.2.2.2.6 beside other keys", []Match{in(stepID, "1"), {[]dicom.Tag{dicom.TagPatientID}, []string{"none"}}, in(procedure, "a")}, false},
	} {
		if got := Matches(ds, c.ms...); got != c.want {
			t.Errorf("%s: %v matches %v, want %v", c.clause, c.ms, got, c.want)
		}
	}
}

func TestRange(t *testing.T) {
	for _, c := range []struct {
		tag            dicom.Tag
		v, first, last string
	}{
		{dicom.TagStudyDate, "20200102", "20200102", "20200102"},
		{dicom.TagStudyDate, "20200102-", "20200102", ""},
		{dicom.TagStudyDate, "-20200102", "", "20200102"},
		{dicom.TagStudyTime, "10-11", "10", "11"},
		{0x0008002A, "2020-0500", "2020-0500", "2020-0500"}, // an offset
		{0x0008002A, "2019-2020", "2019", "2020"},           // no offset: a range of years
		{0x0008002A, "2019-0500-2020-0500", "2019-0500", "2020-0500"},
		{0x0008002A, "2020+0100-", "2020+0100", ""},
		{0x0008002A, "-2020", "", "2020"},
	} {
		first, last := Match{[]dicom.Tag{c.tag}, []string{c.v}}.Range()
		if first != c.first || last != c.last {
			t.Errorf("%s: %q to %q, want %q to %q", c.v, first, last, c.first, c.last)
		}
	}
}

func TestSpans(t *testing.T) {
	for _, c := range []struct {
		in          string
		first, last string // "": not valid
	}{
		{"2020", "2020-01-01T00:00:00Z", "2020-12-31T23:59:59.999999999Z"},
		{"202002", "2020-02-01T00:00:00Z", "2020-02-29T23:59:59.999999999Z"},
		{"20200203103015.25", "2020-02-03T10:30:15.25Z", "2020-02-03T10:30:15.259999999Z"},
		{"20161231235960", "2016-12-31T23:59:59Z", "2016-12-31T23:59:59.999999999Z"}, // a leap second
		{"20200203+0100", "2020-02-03T00:00:00+01:00", "2020-02-03T23:59:59.999999999+01:00"},
		{"20200230", "", ""}, {"202", "", ""}, {"20200203.5", "", ""}, {"20200203103015.", "", ""}, {"20200203103015.1234567", "", ""}, {"", "", ""},
	} {
		s, ok := dateTimeSpan(c.in, "")
		const layout = "2006-01-02T15:04:05.999999999Z07:00"
		if !ok && c.first == "" {
			continue
		}
		if !ok || s.first.Format(layout) != c.first || s.last.Format(layout) != c.last {
			t.Errorf("%s: %v %v to %v", c.in, ok, s.first.Format(layout), s.last.Format(layout))
		}
	}
}
