package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// What a request asks for is understood as a whole or refused: a word that is
// passed over would give more than was asked for, and nobody would notice.

// parameters are the query parameters of each route that has any.
var parameters = map[string][]string{
	"POST /api/v1/instances": {"arrival"},
	"GET /api/v1/studies": {"patient", "issuer", "nhs", "name", "born", "accession", "description", "body", "trust", "modality",
		"since", "until", "study", "limit", "offset", "after"},
}

// asked refuses a request with a query that the handler does not understand.
func asked(h func(http.ResponseWriter, *http.Request) error, names ...string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return fmt.Errorf("%w: the query string cannot be read: separate parameters with & and percent-encode their values", ErrWrongUse)
		}
		for name, values := range q {
			switch {
			case len(names) == 0:
				return fmt.Errorf("%w: %.64q: this address takes no query parameters", ErrWrongUse, name)
			case !slices.Contains(names, name):
				return fmt.Errorf("%w: there is no parameter %.64q; there are %s", ErrWrongUse, name, strings.Join(names, ", "))
			case len(values) > 1:
				return fmt.Errorf("%w: %s is given %d times", ErrWrongUse, name, len(values))
			case strings.TrimSpace(values[0]) == "":
				return fmt.Errorf("%w: %s is empty; leave it out to ask for any", ErrWrongUse, name)
			}
		}
		return h(w, r)
	}
}

// errNoBody says that a request has no body.
var errNoBody = fmt.Errorf("%w: there is no body; send a JSON object", ErrWrongUse)

// body reads the JSON object that a request carries, and no field more than into
// has.
func body(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			return fmt.Errorf("%w: something follows the JSON object", ErrWrongUse)
		}
	}
	var tooLarge *http.MaxBytesError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return errNoBody
	case errors.As(err, &tooLarge), r.Context().Err() != nil:
		return err
	case errors.As(err, &typed) && typed.Field != "":
		return fmt.Errorf("%w: the field %q cannot be a JSON %s; %s", ErrWrongUse, typed.Field, typed.Value, fields(into))
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("%w: there is no field %.64s; %s", ErrWrongUse, name, fields(into))
	}
	return fmt.Errorf("%w: the body is no JSON object; %s", ErrWrongUse, fields(into))
}

// fields names the fields of what a body is read into.
func fields(into any) string {
	var names []string
	t := reflect.TypeOf(into).Elem()
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, fmt.Sprintf("%q (%s)", name, strings.Replace(f.Type.Kind().String(), "int64", "number", 1)))
	}
	return "the fields are " + strings.Join(names, ", ")
}

// flag reads a parameter that is true or false, or absent.
func flag(q url.Values, name string) (bool, error) {
	switch v := q.Get(name); v {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	}
	return false, fmt.Errorf("%w: %s must be true or false", ErrWrongUse, name)
}

// byNHSNumber makes a question for a Patient ID whose issuer gives NHS numbers
// one for the NHS number: the study may have it written otherwise, or among
// other Patient IDs.
func byNHSNumber(q *index.Query) {
	if n, ok := archive.NHSNumberOf(q.PatientID, q.Issuer); ok && (q.NHS == "" || q.NHS == n) {
		q.NHS, q.PatientID, q.Issuer = n, "", ""
	}
}

// filter reads which studies are asked for.
func filter(q url.Values) (index.Query, error) {
	var first error
	wrong := func(format string, args ...any) {
		if first == nil {
			first = fmt.Errorf("%w: %s", ErrWrongUse, fmt.Sprintf(format, args...))
		}
	}
	iq := index.Query{PatientID: q.Get("patient"), Issuer: q.Get("issuer"), Name: q.Get("name"), Accession: q.Get("accession"),
		Description: q.Get("description"), BodyPart: strings.ToUpper(q.Get("body")), Trust: index.TrustID(strings.ToUpper(q.Get("trust"))),
		After: index.Cursor(q.Get("after")), Limit: 100}
	if v := q.Get("nhs"); v != "" {
		n, ok := dicom.NHSNumber(v)
		if !ok {
			wrong("this is no NHS number: ten digits whose last one checks the others")
		}
		iq.NHS = n
	}
	if v := q.Get("modality"); v != "" {
		iq.Modalities = []string{strings.ToUpper(v)}
	}
	if v := q.Get("study"); v != "" {
		if !dicom.UID(v).Valid() {
			wrong("study must be a Study Instance UID: 1 to 64 digits and dots")
		}
		iq.StudyUIDs = []string{v}
	}
	if iq.Trust != "" && !iq.Trust.Valid() {
		wrong("trust must be an ODS code such as RX1")
	}
	date := func(name string) string {
		v := strings.ReplaceAll(q.Get(name), "-", "")
		if _, err := time.Parse("20060102", v); err != nil && v != "" {
			wrong("%s must be a date such as 2024-03-31", name)
		}
		return v
	}
	born := date("born")
	iq.BirthDate = index.Range{From: born, To: born}
	iq.Date = index.Range{From: date("since"), To: date("until")}
	if iq.Date.From != "" && iq.Date.To != "" && iq.Date.To < iq.Date.From {
		wrong("until is before since")
	}
	number := func(name string, into *int, least, most int) {
		v := q.Get(name)
		if v == "" {
			return
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			wrong("%s must be a number from %d to %d", name, least, most)
		}
		*into = n
	}
	number("limit", &iq.Limit, 1, maxFind)
	number("offset", &iq.Offset, 0, index.MaxExamined)
	if iq.After != "" && iq.Offset > 0 {
		wrong("give after or offset, not both")
	}
	byNHSNumber(&iq)
	return iq, first
}

// noTrust says that a trust is none of the region's.
func noTrust(trust string, region []Basis) string {
	var known []string
	for _, b := range region {
		known = append(known, b.Trust)
	}
	return fmt.Sprintf("%s is not a trust of this region; there are %s", trust, strings.Join(known, ", "))
}
