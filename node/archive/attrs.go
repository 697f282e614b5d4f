package archive

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
)

// What manifests and the catalogue keep of each level, in tag order: the
// matching and return attributes of PS3.18 10.6 that the level has.
var (
	studyTags = []dicom.Tag{
		dicom.TagStudyDate, dicom.TagStudyTime, dicom.TagAccessionNumber, dicom.TagIssuerOfAccessionNumber, dicom.TagReferringPhysicianName, dicom.TagTimezoneOffsetFromUTC, dicom.TagStudyDescription,
		dicom.TagPatientName, dicom.TagPatientID, dicom.TagIssuerOfPatientID, dicom.TagIssuerOfPatientIDQualifiers, dicom.TagPatientBirthDate, dicom.TagPatientSex, dicom.TagOtherPatientIDsSequence,
		dicom.TagStudyInstanceUID, dicom.TagStudyID,
	}
	seriesTags = []dicom.Tag{
		0x00080021, 0x00080031, dicom.TagModality, dicom.TagTimezoneOffsetFromUTC, 0x0008103E, dicom.TagBodyPartExamined, dicom.TagSeriesInstanceUID, dicom.TagSeriesNumber,
		0x00200060, 0x00400244, 0x00400245, 0x00400275,
	}
	instanceTags = []dicom.Tag{
		dicom.TagSOPClassUID, dicom.TagSOPInstanceUID, 0x00080022, 0x00080032, dicom.TagTimezoneOffsetFromUTC, 0x00200012, dicom.TagInstanceNumber, 0x00280008, 0x00280010, 0x00280011, 0x00280100,
	}
)

// maxAttr keeps one absurd value from growing every manifest that carries it.
const maxAttr = 4 << 10

// pick takes the named attributes that are there.
func pick(d dicom.Dataset, tags []dicom.Tag) dicom.Dataset {
	var out []dicom.Element
	for _, t := range tags {
		e, ok := d.Find(t)
		if !ok || e.Bulk != nil || len(e.Value) > maxAttr {
			continue
		}
		if len(e.Items) > 0 {
			one := d
			one.Elements = []dicom.Element{e}
			if len(one.Encode()) > maxAttr {
				continue
			}
		}
		out = append(out, e)
	}
	d.Elements = out // keeps the character set
	return d
}

// fill adds to what is known of a study what an instance says beyond it: an
// instance without a birth date, say, must not hide that the next one has
// another than the third.
func fill(known, inst dicom.Dataset) dicom.Dataset {
	// Through the encoder, so that both are in one character set.
	more, err := dicom.Decode(pick(inst, studyTags).Encode(), dicom.DefaultLimits())
	if err != nil {
		return known
	}
	for _, t := range studyTags {
		old, ok := known.Find(t)
		if t == dicom.TagPatientName && len(more.String(t)) > len(known.String(t)) {
			// Of two names that agree the fuller one: "SMITH" agrees with every
			// given name, and would hide that two of them differ.
			ok = false
		}
		if e, said := more.Find(t); said && len(e.Value)+len(e.Items) > 0 && (!ok || len(old.Value)+len(old.Items) == 0) {
			known.Elements = slices.DeleteFunc(known.Elements, func(x dicom.Element) bool { return x.Tag == t })
			known.Elements = append(known.Elements, e)
		}
	}
	slices.SortFunc(known.Elements, func(a, b dicom.Element) int { return cmp.Compare(a.Tag, b.Tag) })
	return known
}

// mixedNumbers is how many patients' numbers a mixed study is found by: as many as
// a study is told with.
const mixedNumbers = index.MaxPatientIDs

// alsoNumbered has a study of which an instance names another patient found by
// that one's number too: who looks for him must learn that images are there.
func (a *Archive) alsoNumbered(said, more dicom.Dataset) dicom.Dataset {
	id, issuer := more.String(dicom.TagPatientID), a.issuerOf(more)
	known := said.PatientIDs()
	if id == "" || len(known) >= mixedNumbers || slices.ContainsFunc(known, func(k dicom.PatientID) bool {
		return k.ID == id && cmp.Or(k.Issuer, a.Issuer) == issuer
	}) {
		return said
	}
	item := dicom.Dataset{Elements: []dicom.Element{
		{Tag: dicom.TagPatientID, VR: dicom.LO, Value: []byte(id)},
		{Tag: dicom.TagIssuerOfPatientID, VR: dicom.LO, Value: []byte(issuer)},
	}}
	others := dicom.Element{Tag: dicom.TagOtherPatientIDsSequence, VR: dicom.SQ}
	if e, ok := said.Find(dicom.TagOtherPatientIDsSequence); ok {
		others = e
	}
	others.Items = append(slices.Clip(others.Items), item)
	said.Elements = slices.DeleteFunc(slices.Clone(said.Elements), func(e dicom.Element) bool { return e.Tag == others.Tag })
	said.Elements = append(said.Elements, others)
	slices.SortFunc(said.Elements, func(a, b dicom.Element) int { return cmp.Compare(a.Tag, b.Tag) })
	return said
}

// statement is what this node says of a study in the index.
func (a *Archive) statement(id sourceID, s source, series []dicom.Dataset) (index.Study, error) {
	d, err := dicom.Decode(s.Attrs, a.Limits)
	if err != nil {
		return index.Study{}, err
	}
	var manifest []byte
	if s.Manifest != nil { // there is none before the first publication
		if manifest, err = s.Manifest.MarshalCBOR(); err != nil {
			return index.Study{}, err
		}
	}
	st := index.Study{
		UID: id.Study, Name: d.String(dicom.TagPatientName), BirthDate: tidy(d.String(dicom.TagPatientBirthDate)), Sex: d.String(dicom.TagPatientSex),
		Date: tidy(d.String(dicom.TagStudyDate)), Time: tidy(d.String(dicom.TagStudyTime)), TimezoneOffset: d.String(dicom.TagTimezoneOffsetFromUTC),
		Accession: tidy(d.String(dicom.TagAccessionNumber)), AccessionIssuer: tidy(entity(d, dicom.TagIssuerOfAccessionNumber)), Description: d.String(dicom.TagStudyDescription),
		StudyID: d.String(dicom.TagStudyID), Referring: d.String(dicom.TagReferringPhysicianName),
		Series: len(series), Instances: s.Instances, Bytes: s.Bytes,
		Manifest: manifest, Revision: s.Revision, Settled: s.Settled, Mixed: s.Mixed,
	}
	for _, p := range d.PatientIDs() {
		if p.ID == "" {
			continue
		}
		if tidy(p.ID) == "" || p.Issuer != "" && tidy(p.Issuer) == "" {
			a.Log.Warn("a patient identifier holds control characters or is too long: the study is kept and found, but nobody's by this identifier", "study", short(id.Study))
			continue
		}
		if p.Issuer == "" {
			p.Issuer = a.Issuer
		}
		st.Patient = append(st.Patient, index.PatientID{ID: p.ID, Issuer: p.Issuer})
		if st.NHS == "" && NHSIssuer(p.Issuer) {
			if n, ok := dicom.NHSNumber(p.ID); ok {
				st.NHS = n
			}
		}
	}
	for _, ds := range series {
		st.Modalities = addOnce(st.Modalities, ds.String(dicom.TagModality))
		st.BodyParts = addOnce(st.BodyParts, ds.String(dicom.TagBodyPartExamined))
	}
	sort.Strings(st.Modalities)
	sort.Strings(st.BodyParts)
	return st, nil
}

func addOnce(list []string, v string) []string {
	if v == "" || slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// NHSNumberOf gives the digits of a Patient ID that is an NHS number: its issuer
// says so, however it is written.
func NHSNumberOf(id, issuer string) (digits string, ok bool) {
	if !NHSIssuer(issuer) {
		return "", false
	}
	return dicom.NHSNumber(id)
}

// NHSIssuer says whether an issuer's numbers are NHS numbers. A number counts
// as one only when its issuer says so: a hospital's own ten-digit numbering
// passes the check digit one time in eleven.
func NHSIssuer(issuer string) bool {
	switch strings.ToUpper(strings.TrimSpace(issuer)) {
	case "NHS", "2.16.840.1.113883.2.1.4.1", "HTTPS://FHIR.NHS.UK/ID/NHS-NUMBER":
		return true
	}
	return false
}

// entity reads an HL7v2 Hierarchic Designator (PS3.3 10.14).
func entity(d dicom.Dataset, t dicom.Tag) string {
	e, ok := d.Find(t)
	if !ok || len(e.Items) == 0 {
		return ""
	}
	if v := e.Items[0].String(dicom.TagLocalNamespaceEntityID); v != "" {
		return v
	}
	return e.Items[0].String(dicom.TagUniversalEntityID)
}

// tidy is a value that an index entry can hold: one that cannot is left out
// there, so that no odd header keeps a stored study from being found.
func tidy(v string) string {
	if len(v) > index.MaxText || strings.ContainsFunc(v, unicode.IsControl) || !utf8.ValidString(v) {
		return ""
	}
	return v
}

// parseRef reads the manifest reference of a study fact.
func parseRef(b []byte) (cas.Ref, error) {
	var r cas.Ref
	if err := r.UnmarshalCBOR(b); err != nil {
		return r, fmt.Errorf("the study's statement names no manifest that can be read: %w", err)
	}
	return r, nil
}

// SeriesAttributes and InstanceAttributes are what List gives of each level.
func SeriesAttributes() []dicom.Tag { return slices.Clone(seriesTags) }

// InstanceAttributes: see SeriesAttributes.
func InstanceAttributes() []dicom.Tag { return slices.Clone(instanceTags) }
