package api

import (
	"reflect"
	"testing"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomweb"
	"github.com/priormesh/priormesh/index"
)

func TestDateAndTimeRanges(t *testing.T) {
	cases := []struct {
		read func(string) (index.Range, bool)
		in   string
		want index.Range
		bad  bool
	}{
		{dateRange, "20240131", index.Range{From: "20240131", To: "20240131"}, false},
		{dateRange, "20240101-20240131", index.Range{From: "20240101", To: "20240131"}, false},
		{dateRange, "20240101-", index.Range{From: "20240101"}, false},
		{dateRange, "-20240131", index.Range{To: "20240131"}, false},
		{dateRange, "-", index.Range{}, true},
		{dateRange, "2024", index.Range{}, true},
		{dateRange, "yesterday", index.Range{}, true},
		{timeRange, "10", index.Range{From: "100000", To: "105959"}, false},
		{timeRange, "1015-1130", index.Range{From: "101500", To: "113059"}, false},
		{timeRange, "101500.25-", index.Range{From: "101500"}, false},
		{timeRange, "-0900", index.Range{To: "090059"}, false},
		{timeRange, "101", index.Range{}, true},
		{timeRange, "-", index.Range{}, true},
	}
	for _, c := range cases {
		got, bad := c.read(c.in)
		if got != c.want || bad != c.bad {
			t.Errorf("%q: got %+v bad %v, want %+v bad %v", c.in, got, bad, c.want, c.bad)
		}
	}
}

// What cannot be matched is said, never silently taken as matching.
func TestWhatIsNotUnderstoodIsSaid(t *testing.T) {
	match := func(tag dicom.Tag, v string) dicomweb.Match {
		return dicomweb.Match{Path: []dicom.Tag{tag}, Values: []string{v}}
	}
	q, rest, warnings := studyQuery(dicomweb.Query{Match: []dicomweb.Match{
		match(dicom.TagPatientID, "A1"), match(dicom.TagStudyDate, "last week"), match(0x00081080, "fracture"),
	}}, index.NodeID{})
	if q.PatientID != "A1" || len(warnings) != 1 || len(rest) != 1 || rest[0].Tag() != 0x00081080 {
		t.Errorf("got %+v, rest %v, warnings %q", q, rest, warnings)
	}
}

func TestWhatASearchForStudiesAsksOfTheIndex(t *testing.T) {
	self := index.NodeID{1}
	match := func(v string, path ...dicom.Tag) dicomweb.Match {
		return dicomweb.Match{Path: path, Values: []string{v}}
	}
	for name, c := range map[string]struct {
		match    dicomweb.Match
		level    dicomweb.Level
		want     index.Query
		rest     int
		warnings int
	}{
		"zone":                        {match("+0100", dicom.TagTimezoneOffsetFromUTC), dicomweb.Studies, index.Query{Zone: "+0100"}, 0, 0},
		"no zone":                     {match("CET", dicom.TagTimezoneOffsetFromUTC), dicomweb.Studies, index.Query{}, 0, 1},
		"body part":                   {match("HEAD", tagBodyPart), dicomweb.Studies, index.Query{BodyPart: "HEAD"}, 0, 0},
		"body part of a series":       {match("HEAD", tagBodyPart), dicomweb.Series, index.Query{}, 1, 0},
		"here":                        {match("ONLINE", tagAvailability), dicomweb.Studies, index.Query{HeldBy: self}, 0, 0},
		"elsewhere":                   {match("NEARLINE", tagAvailability), dicomweb.Studies, index.Query{}, 1, 0},
		"issuer of accession":         {match("RIS", dicom.TagIssuerOfAccessionNumber, dicom.TagLocalNamespaceEntityID), dicomweb.Studies, index.Query{AccessionIssuer: "RIS"}, 0, 0},
		"another attribute of issuer": {match("ISO", dicom.TagIssuerOfAccessionNumber, dicom.TagUniversalEntityIDType), dicomweb.Studies, index.Query{}, 1, 0},
		"times over midnight":         {match("22-05", dicom.TagStudyTime), dicomweb.Studies, index.Query{Time: index.Range{From: "220000", To: "055959"}}, 0, 0},
	} {
		q, rest, warnings := studyQuery(dicomweb.Query{Level: c.level, Match: []dicomweb.Match{c.match}}, self)
		if !reflect.DeepEqual(q, c.want) || len(rest) != c.rest || len(warnings) != c.warnings {
			t.Errorf("%s: got %+v, rest %v, warnings %q", name, q, rest, warnings)
		}
	}
}

// Pages go on where the one before ended; of what was not asked for lately that is forgotten.
func TestPagesGoOnWhereTheyEnded(t *testing.T) {
	p := newPages()
	one, other := pageOf(index.Query{Name: "A", Offset: 5, Limit: 7}), pageOf(index.Query{Name: "B"})
	if one != pageOf(index.Query{Name: "A", After: "x"}) || one == other || other == pageOf(index.Query{Referring: "B"}) {
		t.Fatal("queries are not told apart by what they ask, and by nothing else")
	}
	p.ended(one, 100, "here")
	if c, ok := p.after(one, 100); !ok || c != "here" {
		t.Error(c, ok)
	}
	for _, k := range []struct {
		query [32]byte
		seen  int
	}{{one, 0}, {one, 99}, {other, 100}} {
		if c, ok := p.after(k.query, k.seen); ok {
			t.Errorf("%d: %s", k.seen, c)
		}
	}
	for i := range keptPages {
		p.ended(other, i+1, "there")
	}
	if _, ok := p.after(one, 100); !ok {
		t.Error("forgotten at once")
	}
	for i := range 3 * keptPages {
		p.ended(other, i+1, "there")
		if len(p.ends)+len(p.old) > 2*keptPages {
			t.Fatal("too many are kept")
		}
	}
	if _, ok := p.after(one, 100); ok {
		t.Error("never forgotten")
	}
}
