package dicomweb

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom"
)

func TestParseQuery(t *testing.T) {
	one := func(tag dicom.Tag, values ...string) Match { return Match{[]dicom.Tag{tag}, values} }
	const requestAttributes, stepID = tagRequestAttributesSequence, dicom.Tag(0x00400009)
	limits := DefaultLimits()
	for _, c := range []struct {
		name, raw string
		want      Query // Limit 0: the default
		warnings  int
	}{
		{name: "nothing", raw: ""},
		{name: "keyword", raw: "PatientID=4711", want: Query{Match: []Match{one(dicom.TagPatientID, "4711")}}},
		{name: "eight digits, either case", raw: "0020000d=1.2&0008103E=x", want: Query{Match: []Match{one(dicom.TagStudyInstanceUID, "1.2"), one(dicom.TagSeriesDescription, "x")}}},
		{name: "percent encoding and plus", raw: "PatientName=M%C3%BCller%5EJ%2A&StudyDescription=CT+head", want: Query{Match: []Match{one(dicom.TagPatientName, "Müller^J*"), one(dicom.TagStudyDescription, "CT head")}}},
		{name: "UID list with commas", raw: "StudyInstanceUID=1.2,1.3", want: Query{Match: []Match{one(dicom.TagStudyInstanceUID, "1.2", "1.3")}}},
		{name: "UID list with backslashes, and repeated", raw: `StudyInstanceUID=1.2%5C1.3&0020000D=1.4`, want: Query{Match: []Match{one(dicom.TagStudyInstanceUID, "1.2", "1.3", "1.4")}}},
		{name: "list of code strings", raw: "ModalitiesInStudy=CT,MR", want: Query{Match: []Match{one(tagModalitiesInStudy, "CT", "MR")}}},
		{name: "universal", raw: "PatientID=&PatientName=*", want: Query{Match: []Match{one(dicom.TagPatientID), one(dicom.TagPatientName)}}},
		{name: "a comma in a text is text", raw: "StudyDescription=a,b", want: Query{Match: []Match{one(dicom.TagStudyDescription, "a,b")}}},
		{name: "date range, spaces and old delimiters taken out", raw: "StudyDate=2020.01.02%20-%2020200304", want: Query{Match: []Match{one(dicom.TagStudyDate, "20200102-20200304")}}},
		{name: "open ranges", raw: "StudyDate=-20200304&StudyTime=0930-", want: Query{Match: []Match{one(dicom.TagStudyDate, "-20200304"), one(dicom.TagStudyTime, "0930-")}}},
		{name: "sequence path", raw: "RequestAttributesSequence.ScheduledProcedureStepID=7&00400275.00400009=", want: Query{}, warnings: -1},
		{name: "sequence path by tags", raw: "00400275.00400009=7", want: Query{Match: []Match{{[]dicom.Tag{requestAttributes, stepID}, []string{"7"}}}}},
		{name: "private attribute", raw: "00091001=x", want: Query{Match: []Match{one(0x00091001, "x")}}},
		{name: "include", raw: "includefield=PatientSex,00081030&includefield=00400275.00400009", want: Query{Include: Include{Paths: [][]dicom.Tag{{dicom.TagPatientSex}, {dicom.TagStudyDescription}, {requestAttributes, stepID}}}}},
		{name: "include all", raw: "includefield=all", want: Query{Include: Include{All: true}}},
		{name: "include what no dictionary knows", raw: "includefield=AttributeOfTomorrow,PatientSex", want: Query{Include: Include{Paths: [][]dicom.Tag{{dicom.TagPatientSex}}}}, warnings: 1},
		{name: "paging and fuzzy", raw: "limit=7&offset=14&fuzzymatching=true", want: Query{Limit: 7, Offset: 14, Fuzzy: true}},
		{name: "a limit beyond reason is the greatest there is", raw: "limit=1000000000000&offset=0", want: Query{Limit: limits.Results}},
		{name: "a limit beyond int64", raw: "limit=" + strings.Repeat("9", 100), want: Query{Limit: limits.Results}},
		{name: "unknown parameters", raw: "colour=red&_=17", want: Query{}, warnings: 2},
		{name: "what is not done here", raw: "emptyvaluematching=true&multiplevaluematching=false&charset=latin1", want: Query{}, warnings: 2},
		{name: "negotiation is not a match", raw: "accept=application/dicom%2Bjson", want: Query{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, warnings, err := limits.parseQuery(c.raw, Studies, Ref{})
			if c.warnings < 0 {
				if err == nil {
					t.Fatal("an attribute asked for twice was accepted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.want.Limit == 0 {
				c.want.Limit = limits.Results
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if len(warnings) != c.warnings {
				t.Errorf("warnings %q, want %d", warnings, c.warnings)
			}
		})
	}
	if q, _, _ := limits.parseQuery("", Instances, Ref{Study: "1.2"}); q.Limit != limits.InStudy {
		t.Errorf("within a study the limit is %d, want %d", q.Limit, limits.InStudy)
	}
}

func TestParseQueryRefuses(t *testing.T) {
	limits := DefaultLimits()
	var many []string
	for i := range 1001 {
		many = append(many, fmt.Sprint("1.2.", i))
	}
	for _, c := range []struct {
		name, raw, limit string // limit: which ErrLimit; "" a bad request
	}{
		{"date", "StudyDate=2020-01-02", ""},
		{"not a date", "PatientBirthDate=yesterday", ""},
		{"day that does not exist", "StudyDate=20230230", ""},
		{"empty range", "StudyDate=-", ""},
		{"time", "StudyTime=9am", ""},
		{"date and time", "AcquisitionDateTime=2020x", ""},
		{"UID with letters", "StudyInstanceUID=1.2.abc", ""},
		{"UID with a wildcard", "StudyInstanceUID=1.2.*", ""},
		{"empty list", "StudyInstanceUID=,", ""},
		{"number", "InstanceNumber=one", ""},
		{"binary", "PixelData=x", ""},
		{"sequence itself", "RequestAttributesSequence=x", ""},
		{"path through what is no sequence", "PatientID.PatientName=x", ""},
		{"path to nowhere", "RequestAttributesSequence.Nonsense=x", ""},
		{"twice", "PatientID=1&00100020=2", ""},
		{"limit 0", "limit=0", ""}, // an empty answer would read as "no priors"
		{"negative limit", "limit=-1", ""},
		{"limit twice", "limit=1&limit=2", ""},
		{"offset", "offset=x", ""},
		{"fuzzy", "fuzzymatching=yes", ""},
		{"include a path to nowhere", "includefield=RequestAttributesSequence.Nonsense", ""},
		{"encoding", "PatientName=%zz", ""},
		{"not UTF-8", "PatientName=%FF", ""},
		{"offset too far", "offset=1000000000000", "Offset"},
		{"query too long", "PatientName=" + strings.Repeat("x", 64<<10), "QueryLength"},
		{"too many parameters", strings.Repeat("&", 200), "QueryKeys"},
		{"too many UIDs", "StudyInstanceUID=" + strings.Join(many, ","), "ListValues"},
		{"too many UIDs in two lists", "StudyInstanceUID=" + strings.Join(many[:600], ",") + "&StudyInstanceUID=" + strings.Join(many[600:], ","), "ListValues"},
		{"too deep", strings.Repeat("00400275.", 8) + "00400009=1", "PathDepth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := limits.parseQuery(c.raw, Studies, Ref{})
			var (
				limit ErrLimit
				p     *problem
			)
			switch {
			case c.limit != "":
				if !errors.As(err, &limit) || limit.What != c.limit {
					t.Errorf("%v, want the limit %s", err, c.limit)
				}
			case !errors.As(err, &p) || p.status != http.StatusBadRequest:
				t.Errorf("%v, want a bad request", err)
			}
			// An answer may be kept in logs along the way.
			if err != nil && strings.Contains(err.Error(), "yesterday") {
				t.Errorf("the error repeats the value: %v", err)
			}
		})
	}
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{
		"PatientName=M%C3%BCller%5E*&StudyDate=20200101-20201231&limit=10&offset=5",
		"StudyInstanceUID=1.2,1.3&includefield=all&fuzzymatching=true",
		"00400275.00400009=7&AcquisitionDateTime=20200101120000.5%2B0100-", "&&=&a", "limit=99999999999999999999",
		"StudyTime=10:30-&ModalitiesInStudy=CT%5CMR&includefield=00400275.00400009",
	} {
		f.Add(s)
	}
	l := DefaultLimits()
	ds := dicom.Dataset{Elements: []dicom.Element{
		textElement(dicom.TagStudyDate, dicom.DA, "20200203"), textElement(dicom.TagStudyTime, dicom.TM, "103000"),
		textElement(dicom.TagPatientName, dicom.PN, "Doe^J"), textElement(0x0008002A, dicom.DT, "20200101120000+0000"),
	}}
	f.Fuzz(func(t *testing.T, raw string) {
		q, _, err := l.parseQuery(raw, Series, Ref{})
		if err != nil {
			return
		}
		if q.Limit < 1 || q.Limit > l.Results || q.Offset < 0 || q.Offset > l.Offset {
			t.Fatalf("limit %d, offset %d", q.Limit, q.Offset)
		}
		seen := make(map[string]bool)
		for _, m := range q.Match {
			if len(m.Path) == 0 || len(m.Path) > l.PathDepth || len(m.Values) > l.ListValues || seen[fmt.Sprint(m.Path)] {
				t.Fatalf("%+v", q.Match)
			}
			seen[fmt.Sprint(m.Path)] = true
			m.Range()
		}
		Matches(ds, q.Match...)
		// What was understood can be said again, to the same effect.
		var pairs []string
		for _, m := range q.Match {
			var steps []string
			for _, tag := range m.Path {
				steps = append(steps, tag.Hex())
			}
			pairs = append(pairs, strings.Join(steps, ".")+"="+url.QueryEscape(strings.Join(m.Values, ",")))
		}
		again := strings.Join(pairs, "&")
		if len(again) > l.QueryLength {
			return
		}
		if q2, _, err := l.parseQuery(again, Series, Ref{}); err != nil || !reflect.DeepEqual(q2.Match, q.Match) {
			t.Fatalf("%+v became %+v: %v", q.Match, q2.Match, err)
		}
	})
}
