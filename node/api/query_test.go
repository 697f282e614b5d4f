package api

import (
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
	}})
	if q.PatientID != "A1" || len(warnings) != 1 || len(rest) != 1 || rest[0].Tag() != 0x00081080 {
		t.Errorf("got %+v, rest %v, warnings %q", q, rest, warnings)
	}
}
