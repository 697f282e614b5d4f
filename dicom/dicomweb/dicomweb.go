package dicomweb

import (
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
	Results     int   // matches in one answer; the default where the client names no limit
	Offset      int   // matches skipped
	QueryLength int   // bytes of the query string
	QueryKeys   int   // parameters of a search
	PathDepth   int   // tags in one attribute path
	ListValues  int   // UIDs in one list
	Frames      int   // frames in one request
	Accept      int   // bytes of Accept headers
	Parts       int   // parts in one store request
	Part        int64 // bytes of one part
	PartHeader  int   // bytes of one part's header
	Request     int64 // bytes of one store request
	Instance    dicom.Limits
}

// New makes the handler.
func New(a Archive, o Options) http.Handler { return newServer(a, o) }

// Matches reports whether a dataset satisfies every match as PS3.4 C.2.2.2
// defines it: single value, list of UIDs, universal, wildcard, range and
// sequence matching.
func Matches(ds dicom.Dataset, ms ...Match) bool {
	for _, m := range ms {
		if !m.in(ds) {
			return false
		}
	}
	return true
}

// LayoutOf is the layout that dicom.Scan found. Nil for a deflated instance.
func LayoutOf(inst *dicom.Instance) *Layout { return layoutOf(inst) }
