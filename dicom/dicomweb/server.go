package dicomweb

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/priormesh/priormesh/dicom"
)

// ErrLimit: a request asks for more than one request may.
type ErrLimit struct {
	What  string // the field of Limits
	Limit int64
}

func (e ErrLimit) Error() string {
	return fmt.Sprintf("the request exceeds the limit %s = %d; ask for less at a time, or have the limit raised", e.What, e.Limit)
}

// problem is a request that cannot be answered as it is.
type problem struct {
	status int
	text   string
}

func (p *problem) Error() string { return p.text }

func badRequest(format string, a ...any) error {
	return &problem{http.StatusBadRequest, fmt.Sprintf(format, a...)}
}

type server struct {
	Options
	archive Archive
	mux     *http.ServeMux
	buffers sync.Pool // *[]byte of bufferSize
}

const bufferSize = 256 << 10

func newServer(a Archive, o Options) *server {
	s := &server{Options: o, archive: a, mux: http.NewServeMux()}
	s.buffers.New = func() any { b := make([]byte, bufferSize); return &b }

	const (
		study    = "/studies/{study}"
		series   = study + "/series/{series}"
		instance = series + "/instances/{instance}"
	)
	for path, h := range map[string]func(http.ResponseWriter, *http.Request, Ref) error{
		"GET /studies":                            s.search(Studies),
		"GET /series":                             s.search(Series),
		"GET /instances":                          s.search(Instances),
		"GET " + study + "/series":                s.search(Series),
		"GET " + study + "/instances":             s.search(Instances),
		"GET " + series + "/instances":            s.search(Instances),
		"GET " + study:                            s.retrieve,
		"GET " + series:                           s.retrieve,
		"GET " + instance:                         s.retrieve,
		"GET " + study + "/metadata":              s.metadata,
		"GET " + series + "/metadata":             s.metadata,
		"GET " + instance + "/metadata":           s.metadata,
		"GET " + instance + "/frames/{frames}":    s.frames,
		"GET " + instance + "/bulkdata/{path...}": s.bulkdata,
		"POST /studies":                           s.store,
		"POST " + study:                           s.store,
	} {
		s.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			out := &tracked{ResponseWriter: w}
			w.Header().Set("Vary", "Accept")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			ref, err := refOf(r)
			if err == nil {
				err = h(out, r, ref)
			}
			if err != nil {
				s.fail(out, r, ref, err)
			}
		})
	}
	return s
}

// ServeHTTP keeps ServeMux from redirecting to a cleaned path: under a stripped
// prefix it would point outside.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := r.URL.Path
	if len(p) > 1 && strings.HasSuffix(p, "/") {
		p = p[:len(p)-1]
	}
	if p == "" || p[0] != '/' || path.Clean(p) != p {
		http.NotFound(w, r)
		return
	}
	if p != r.URL.Path || r.URL.RawPath != "" {
		u := *r.URL
		u.Path, u.RawPath = p, ""
		r2 := *r
		r2.URL = &u
		r = &r2
	}
	s.mux.ServeHTTP(w, r)
}

// tracked remembers whether the answer has begun.
type tracked struct {
	http.ResponseWriter
	begun bool
}

func (t *tracked) WriteHeader(code int) { t.begun = true; t.ResponseWriter.WriteHeader(code) }

func (t *tracked) Write(b []byte) (int, error) { t.begun = true; return t.ResponseWriter.Write(b) }

func (t *tracked) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func refOf(r *http.Request) (Ref, error) {
	ref := Ref{dicom.UID(r.PathValue("study")), dicom.UID(r.PathValue("series")), dicom.UID(r.PathValue("instance"))}
	for _, u := range []dicom.UID{ref.Study, ref.Series, ref.Instance} {
		if u != "" && !u.Valid() {
			return Ref{}, badRequest("a UID in the path is none: 1 to 64 digits and dots are allowed (PS3.5 9.1)")
		}
	}
	return ref, nil
}

// fail answers with an error, or breaks the answer off where it has begun.
func (s *server) fail(w *tracked, r *http.Request, ref Ref, err error) {
	gone := r.Context().Err() != nil
	log := s.Log.With("request", r.Pattern, "study", short(ref.Study), "series", short(ref.Series), "instance", short(ref.Instance))
	if w.begun {
		if !gone {
			log.Warn("answer broken off so that it cannot be taken for a whole one", "error", err)
		}
		panic(http.ErrAbortHandler)
	}
	if gone {
		panic(http.ErrAbortHandler)
	}
	var (
		p       *problem
		limit   ErrLimit
		wait    *Unavailable
		query   *BadQuery
		refused *Refused
		status  = http.StatusInternalServerError
		text    = "the node could not do this; its log says why; try again, and tell its operator if it stays so"
	)
	switch {
	case errors.As(err, &p):
		status, text = p.status, p.text
	case errors.As(err, &query):
		status, text = http.StatusBadRequest, query.Reason
	case errors.As(err, &limit):
		status, text = http.StatusBadRequest, limit.Error()
	case errors.Is(err, ErrNotFound):
		status, text = http.StatusNotFound, ErrNotFound.Error()
		s.warn(w, s.archive.Completeness(r.Context(), ref)) // it may be at a trust that is not heard from
	case errors.Is(err, ErrGone):
		status, text = http.StatusGone, ErrGone.Error()
	case errors.As(err, &wait):
		status, text = http.StatusServiceUnavailable, wait.Reason
		if wait.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64((wait.RetryAfter+time.Second-1)/time.Second), 10))
		}
	case errors.As(err, &refused):
		status, text = http.StatusForbidden, refused.Reason
	case noSpace(err):
		status, text = http.StatusInsufficientStorage, ErrNoSpace.Error()
	default:
		log.Error("request failed", "error", err)
	}
	h := w.Header()
	for _, k := range []string{"Content-Length", "Content-Type", "Content-Location"} {
		h.Del(k)
	}
	if r.Method == http.MethodPost {
		h.Set("Connection", "close") // answer at once, without reading on a body that is not wanted
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

func noSpace(err error) bool {
	return errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func short(u dicom.UID) string {
	if u == "" {
		return ""
	}
	return u.Short()
}

// maxWarnings bounds the Warning headers of one answer: clients refuse headers
// of more than some kilobytes.
const maxWarnings = 16

// maxWarning bounds the text of each.
const maxWarning = 600

// warn adds Warning headers (RFC 7234 5.5; PS3.18 uses code 299 throughout).
func (s *server) warn(w http.ResponseWriter, texts []string) {
	h := w.Header()
	for i, text := range texts {
		if i == maxWarnings-1 && len(texts) > maxWarnings {
			h.Add("Warning", warning(fmt.Sprintf("and %d warnings more, which do not fit into this answer", len(texts)-i)))
			return
		}
		h.Add("Warning", warning(text))
	}
}

// warning is a header value with the text as a quoted-string (RFC 9110 5.6.4).
func warning(text string) string {
	var b strings.Builder
	b.WriteString(`299 priormesh "`)
	if len(text) > maxWarning {
		text = text[:maxWarning] + "..."
	}
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7F:
			b.WriteByte(' ')
		case r > 0x7F:
			b.WriteByte('?') // header values are ASCII
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// base is the URL under which the client reaches this handler.
func (s *server) base(r *http.Request) string {
	if s.BaseURL != "" {
		return strings.TrimSuffix(s.BaseURL, "/")
	}
	scheme, host := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if s.TrustForwarded {
		if p := strings.ToLower(forwarded(r, "X-Forwarded-Proto")); p == "http" || p == "https" {
			scheme = p
		}
		if h := forwarded(r, "X-Forwarded-Host"); validHost(h) {
			host = h
		}
	}
	return scheme + "://" + host + strings.TrimSuffix(s.Prefix, "/")
}

// forwarded is what the proxy nearest to the client said.
func forwarded(r *http.Request, name string) string {
	v, _, _ := strings.Cut(r.Header.Get(name), ",")
	return strings.TrimSpace(v)
}

func validHost(h string) bool {
	if h == "" || len(h) > 255+6 {
		return false
	}
	for _, c := range []byte(h) {
		if c <= ' ' || c >= 0x7F || strings.IndexByte(`/\?#@"<>`, c) >= 0 {
			return false
		}
	}
	return true
}

// url is the address of what ref names.
func (ref Ref) url(base string) string {
	u := base + "/studies/" + string(ref.Study)
	if ref.Series != "" {
		u += "/series/" + string(ref.Series)
	}
	if ref.Instance != "" {
		u += "/instances/" + string(ref.Instance)
	}
	return u
}

func refTo(u dicom.UIDs) Ref { return Ref{u.Study, u.Series, u.Instance} }
