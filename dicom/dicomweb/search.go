package dicomweb

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/priormesh/priormesh/dicom"
)

const (
	tagInstanceAvailability       dicom.Tag = 0x00080056
	tagModalitiesInStudy          dicom.Tag = 0x00080061
	tagRetrieveURL                dicom.Tag = 0x00081190
	tagNumberOfStudyRelatedSeries dicom.Tag = 0x00201206
	tagInstancesInStudy           dicom.Tag = 0x00201208
	tagInstancesInSeries          dicom.Tag = 0x00201209
	tagPerformedStepStartDate     dicom.Tag = 0x00400244
	tagPerformedStepStartTime     dicom.Tag = 0x00400245
	tagRequestAttributesSequence  dicom.Tag = 0x00400275
)

// What every answer has as far as the archive knows it, PS3.18 Tables 10.6.3-3
// to 10.6.3-5. Beyond the tables: the issuer of the Patient ID, because an
// identifier without it names nobody in a region of many issuers.
var (
	studyAttributes = []dicom.Tag{
		dicom.TagSpecificCharacterSet, dicom.TagStudyDate, dicom.TagStudyTime, dicom.TagAccessionNumber, tagInstanceAvailability,
		tagModalitiesInStudy, dicom.TagReferringPhysicianName, dicom.TagTimezoneOffsetFromUTC, tagRetrieveURL,
		dicom.TagPatientName, dicom.TagPatientID, dicom.TagIssuerOfPatientID, dicom.TagPatientBirthDate, dicom.TagPatientSex,
		dicom.TagStudyInstanceUID, dicom.TagStudyID, tagNumberOfStudyRelatedSeries, tagInstancesInStudy,
	}
	seriesAttributes = []dicom.Tag{
		dicom.TagSpecificCharacterSet, tagInstanceAvailability, dicom.TagModality, dicom.TagTimezoneOffsetFromUTC,
		dicom.TagSeriesDescription, tagRetrieveURL, dicom.TagStudyInstanceUID, dicom.TagSeriesInstanceUID, dicom.TagSeriesNumber,
		tagInstancesInSeries, tagPerformedStepStartDate, tagPerformedStepStartTime, tagRequestAttributesSequence,
	}
	instanceAttributes = []dicom.Tag{
		dicom.TagSpecificCharacterSet, dicom.TagSOPClassUID, dicom.TagSOPInstanceUID, tagInstanceAvailability,
		dicom.TagTimezoneOffsetFromUTC, tagRetrieveURL, dicom.TagStudyInstanceUID, dicom.TagSeriesInstanceUID,
		dicom.TagInstanceNumber, dicom.TagRows, dicom.TagColumns, dicom.TagBitsAllocated, dicom.TagNumberOfFrames,
	}
)

// attributes are those an answer to q may have; nil: all.
func (q Query) attributes() map[dicom.Tag]bool {
	if q.Include.All {
		return nil
	}
	set := make(map[dicom.Tag]bool)
	add := func(tags []dicom.Tag) {
		for _, t := range tags {
			set[t] = true
		}
	}
	switch q.Level {
	case Instances:
		add(instanceAttributes)
		if q.Ref.Series == "" {
			add(seriesAttributes)
		}
	case Series:
		add(seriesAttributes)
	}
	if q.Level == Studies || q.Ref.Study == "" {
		add(studyAttributes)
	}
	for _, m := range q.Match {
		set[m.Path[0]] = true
	}
	for _, p := range q.Include.Paths {
		set[p[0]] = true
	}
	return set
}

// search answers QIDO-RS, PS3.18 10.6.
func (s *server) search(level Level) func(http.ResponseWriter, *http.Request, Ref) error {
	return func(w http.ResponseWriter, r *http.Request, ref Ref) error {
		accept, err := s.accept(r)
		if err != nil {
			return err
		}
		_, contentType, ok := accept.choose(jsonOffers)
		if !ok {
			return notAcceptable(jsonOffers)
		}
		q, warnings, err := s.Limits.parseQuery(r.URL.RawQuery, level, ref)
		if err != nil {
			return err
		}
		most := s.Limits.Results
		if ref.Study != "" {
			most = s.Limits.InStudy
		}
		res, err := s.archive.Query(r.Context(), q)
		if err != nil {
			return err
		}
		if len(res.Datasets) > q.Limit {
			res.Datasets, res.More = res.Datasets[:q.Limit], true
		}
		// There is room for so many warnings only. What concerns the patients that are found
		// is of a few kinds, and goes before who is silent, who may be many.
		warnings = slices.Concat(res.Warnings, s.archive.Completeness(r.Context(), ref), warnings)
		if res.More && q.Limit == most {
			warnings = append([]string{fmt.Sprintf("The number of results exceeded the maximum supported by the server (%d). Additional results can be requested with offset.", most)}, warnings...)
		}
		s.warn(w, warnings)
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodHead {
			return nil
		}

		only, base := q.attributes(), s.base(r)
		b := make([]byte, 0, bufferSize)
		b = append(b, '[')
		for i, ds := range res.Datasets {
			if i > 0 {
				b = append(b, ',')
			}
			b = jsonModel{}.append(b, answer(ds, q, only, base), "")
			if len(b) >= bufferSize/2 {
				if _, err := w.Write(b); err != nil {
					return err
				}
				b = b[:0]
			}
		}
		_, err = w.Write(append(b, ']'))
		return err
	}
}

var jsonOffers = []offer{{names: []string{dicomJSON, "application/json"}}}

// answer is ds with the attributes that were asked for, the UIDs that the path
// implied and the address.
func answer(ds dicom.Dataset, q Query, only map[dicom.Tag]bool, base string) dicom.Dataset {
	ref := q.Ref
	elements := make([]dicom.Element, 0, len(ds.Elements)+3)
	for _, e := range ds.Elements {
		if e.Tag != tagRetrieveURL && (only == nil || only[e.Tag]) {
			elements = append(elements, e)
		}
	}
	uid := func(at *dicom.UID, tag dicom.Tag) {
		if v := ds.String(tag); v != "" {
			*at = dicom.UID(v)
		} else if *at != "" {
			elements = slices.DeleteFunc(elements, func(e dicom.Element) bool { return e.Tag == tag })
			elements = append(elements, textElement(tag, dicom.UI, string(*at)))
		}
	}
	uid(&ref.Study, dicom.TagStudyInstanceUID)
	if q.Level != Studies {
		uid(&ref.Series, dicom.TagSeriesInstanceUID)
	}
	if q.Level == Instances {
		uid(&ref.Instance, dicom.TagSOPInstanceUID)
	}
	elements = append(elements, textElement(tagRetrieveURL, dicom.UR, ref.url(base)))
	slices.SortStableFunc(elements, byTag)
	ds.Elements = elements
	return ds
}

func textElement(t dicom.Tag, vr dicom.VR, s string) dicom.Element {
	return dicom.Element{Tag: t, VR: vr, Value: []byte(s)}
}
