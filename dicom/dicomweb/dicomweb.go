package dicomweb

import (
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"

	"github.com/priormesh/priormesh/dicom"
)

// Options are the handler's settings.
type Options struct {
	Log  *slog.Logger
	Rand io.Reader // multipart boundaries; crypto/rand when nil

	// Prefix is the path the handler is mounted under ("/dicom-web"), which the
	// caller strips (http.StripPrefix). URLs in answers begin with it.
	Prefix string
	// BaseURL, where set, begins every URL in answers, Prefix included:
	// "https://pacs.example.nhs.uk/dicom-web". Otherwise the request's Host is taken.
	BaseURL string
	// TrustForwarded takes scheme and host from X-Forwarded-Proto and
	// X-Forwarded-Host. Only for a node behind a proxy that sets them itself.
	TrustForwarded bool

	Limits Limits
}

// Limits bound what a request may ask for. A zero field means its default.
type Limits struct {
	Results     int // matches in one answer of a search across studies
	InStudy     int // matches in one answer of a search within a study: a viewer that pages past none must see it whole
	Offset      int // matches skipped
	QueryLength int // bytes of the query string
	QueryKeys   int // parameters of a search
	PathDepth   int // tags in one attribute path
	ListValues  int // UIDs or code strings in one list
	Frames      int // frames in one request
	Rewinds     int // times a deflated instance is inflated anew for one request
	Accept      int // bytes of Accept headers
	Inline      int // bytes of a binary value in metadata; longer ones become a BulkDataURI

	Parts      int   // parts in one store request
	Part       int64 // bytes of one part
	PartHeader int   // bytes between the content of two parts
	Request    int64 // bytes of one store request

	Instance dicom.Limits // for reading instances
}

// DefaultLimits suit a region: a study of 100 000 instances, an instance of 16 GiB.
func DefaultLimits() Limits {
	return Limits{
		Results:     5_000,
		InStudy:     100_000,
		Offset:      10_000_000,
		QueryLength: 64 << 10,
		QueryKeys:   128,
		PathDepth:   8,
		ListValues:  1_000,
		Frames:      10_000,
		Rewinds:     16,
		Accept:      8 << 10,
		Inline:      16 << 10,
		Parts:       100_000,
		Part:        16 << 30,
		PartHeader:  16 << 10,
		Request:     256 << 30,
		Instance:    dicom.DefaultLimits(),
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ v, def *int }{
		{&l.Results, &d.Results}, {&l.InStudy, &d.InStudy}, {&l.Offset, &d.Offset}, {&l.QueryLength, &d.QueryLength},
		{&l.QueryKeys, &d.QueryKeys}, {&l.PathDepth, &d.PathDepth}, {&l.ListValues, &d.ListValues}, {&l.Frames, &d.Frames},
		{&l.Rewinds, &d.Rewinds}, {&l.Accept, &d.Accept}, {&l.Inline, &d.Inline}, {&l.Parts, &d.Parts}, {&l.PartHeader, &d.PartHeader},
	} {
		if *f.v <= 0 {
			*f.v = *f.def
		}
	}
	if l.Part <= 0 {
		l.Part = d.Part
	}
	if l.Request <= 0 {
		l.Request = d.Request
	}
	return l
}

// New makes the handler. Its paths begin at /studies, /series and /instances.
func New(a Archive, o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	o.Limits = o.Limits.withDefaults()
	return newServer(a, o)
}
