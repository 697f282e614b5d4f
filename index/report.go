package index

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// ReportStatus is FHIR's DiagnosticReport.status (R4).
type ReportStatus string

// The states of a report.
const (
	ReportRegistered  ReportStatus = "registered"
	ReportPartial     ReportStatus = "partial"
	ReportPreliminary ReportStatus = "preliminary"
	ReportFinal       ReportStatus = "final"
	ReportAmended     ReportStatus = "amended"
	ReportCorrected   ReportStatus = "corrected"
	ReportAppended    ReportStatus = "appended"
	ReportCancelled   ReportStatus = "cancelled"
	ReportInError     ReportStatus = "entered-in-error"
	ReportUnknown     ReportStatus = "unknown"
)

func (s ReportStatus) known() bool {
	switch s {
	case ReportRegistered, ReportPartial, ReportPreliminary, ReportFinal, ReportAmended, ReportCorrected, ReportAppended, ReportCancelled, ReportInError, ReportUnknown:
		return true
	}
	return false
}

// Relation says what a report is to an earlier one.
type Relation string

// The relations between reports.
const (
	Replaces Relation = "replaces" // the other is not to be read any more
	Amends   Relation = "amends"   // an addendum: both are to be read
)

// Report is the body of a "report" fact: a report on a study, whatever it came as: SR, encapsulated PDF, HL7 ORU or FHIR. What it says is
// not in the fact: Content refers to it, or SOPInstance names the instance of the study that it is.
type Report struct {
	Study       string       `cbor:"1,keyasint"`
	ID          string       `cbor:"2,keyasint"` // with Issuer, one report in all its versions
	Issuer      string       `cbor:"3,keyasint"`
	Version     string       `cbor:"4,keyasint,omitempty"` // the issuer's
	Status      ReportStatus `cbor:"5,keyasint"`
	Relation    Relation     `cbor:"6,keyasint,omitempty"` // to the report OtherID of OtherIssuer
	OtherID     string       `cbor:"7,keyasint,omitempty"`
	OtherIssuer string       `cbor:"8,keyasint,omitempty"`
	MediaType   string       `cbor:"9,keyasint"`
	Title       string       `cbor:"10,keyasint,omitempty"`
	Author      string       `cbor:"11,keyasint,omitempty"` // who wrote it, as text
	Time        time.Time    `cbor:"12,keyasint,omitzero"`  // of the report, by its issuer's clock, to the second
	Content     []byte       `cbor:"13,keyasint,omitempty"` // opaque, like Study.Manifest
	SOPInstance string       `cbor:"14,keyasint,omitempty"`
}

// ReportStatement checks a report and makes its statement. Title and author are cut to MaxText bytes.
func ReportStatement(r Report) (Statement, error) {
	r.Title, r.Author = fit(r.Title), fit(r.Author)
	if !r.Time.IsZero() {
		r.Time = r.Time.UTC().Truncate(time.Second)
	}
	if err := r.check(); err != nil {
		return Statement{}, err
	}
	return Statement{Kind: KindReport, Subject: r.subject(), Body: encode(r)}, nil
}

// subject is the same for all versions of a report. It begins with the study, by which reports are looked for.
func (r Report) subject() string {
	h := sha256.Sum256([]byte("priormesh-report-1\x00" + r.Issuer + "\x00" + r.ID))
	return r.Study + "@" + hex.EncodeToString(h[:])
}

func (r Report) check() error {
	if err := checkUID(r.Study); err != nil {
		return err
	}
	if r.SOPInstance != "" {
		if err := checkUID(r.SOPInstance); err != nil {
			return err
		}
	}
	if err := checkTexts("report", r.ID, r.Issuer, r.Version, r.OtherID, r.OtherIssuer, r.MediaType, r.Title, r.Author); err != nil {
		return err
	}
	why := ""
	switch {
	case r.ID == "" || r.Issuer == "":
		why = "its identifier or the issuer is empty"
	case !r.Status.known():
		why = "its status is none of FHIR's"
	case r.Relation == "" && (r.OtherID != "" || r.OtherIssuer != ""):
		why = "it names another report and not what it is to it"
	case r.Relation != "" && r.Relation != Replaces && r.Relation != Amends:
		why = "what it is to another report is not known"
	case r.Relation != "" && (r.OtherID == "" || r.OtherIssuer == ""):
		why = "it does not name the other report with its issuer"
	case r.Relation != "" && r.OtherID == r.ID && r.OtherIssuer == r.Issuer:
		why = "it replaces or amends itself: that is another version"
	case r.MediaType == "":
		why = "its media type is empty"
	case len(r.Content) > MaxManifest:
		return &LimitError{What: "bytes of a report's content reference", Got: len(r.Content), Limit: MaxManifest}
	case r.Time.Year() < 1 || r.Time.Year() > 9999:
		why = "its time is no date"
	}
	if why != "" {
		return &MalformedError{What: "report", Why: why}
	}
	return nil
}

func decodeReport(subject string, body []byte) (Report, error) {
	var r Report
	if err := decode(factMode, "report", body, &r); err != nil {
		return r, err
	}
	if err := r.check(); err != nil {
		return r, err
	}
	if r.subject() != subject {
		return r, &MalformedError{What: "report", Why: "its subject is another"}
	}
	if !r.Time.IsZero() {
		r.Time = r.Time.UTC()
	}
	return r, nil
}

// checkTexts says whether texts are plain and within MaxText.
func checkTexts(what string, texts ...string) error {
	for _, t := range texts {
		if len(t) > MaxText {
			return &LimitError{What: "bytes of a text in a " + what, Got: len(t), Limit: MaxText}
		}
		if !plain(t) {
			return &MalformedError{What: what, Why: "a text holds control characters or is not UTF-8"}
		}
	}
	return nil
}
