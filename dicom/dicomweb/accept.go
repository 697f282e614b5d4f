package dicomweb

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/priormesh/priormesh/dicom"
)

// maxRanges bounds the media ranges of one request. Clients send a dozen.
const maxRanges = 128

// mediaRange is one element of an Accept header (RFC 9110 12.5.1; PS3.18 8.7.5).
type mediaRange struct {
	name   string // "multipart/related", "image/*", "*/*"; lower case
	inner  string // the type parameter of multipart/related
	syntax string // the transfer-syntax parameter; "*" for any, "" for none given
	q      float64
}

type accepted []mediaRange

// offer is a form in which an answer can be given.
type offer struct {
	multipart bool
	// names of the media type: what the standard says, then names that older
	// versions of it and clients use.
	names []string
	// syntaxes that a client may name to get this; none for what has no syntax.
	syntaxes []dicom.UID
	// raw says that the content is uncompressed, which is what
	// application/octet-stream without a syntax means (PS3.18 8.7.3.3.1).
	raw bool
}

const (
	octetStream = "application/octet-stream"
	dicomFile   = "application/dicom"
	dicomJSON   = "application/dicom+json"
	related     = "multipart/related"
)

// accept reads what the client accepts: the accept query parameter where there
// is one (PS3.18 8.3.3.1), else the Accept header; nothing said accepts all.
func (s *server) accept(r *http.Request) (accepted, error) {
	values := r.Header.Values("Accept")
	if len(r.URL.RawQuery) > s.Limits.QueryLength {
		return nil, ErrLimit{"QueryLength", int64(s.Limits.QueryLength)}
	}
	if q := r.URL.Query()["accept"]; len(q) > 0 {
		values = q
	}
	text := strings.Join(values, ",")
	if len(text) > s.Limits.Accept {
		return nil, ErrLimit{"Accept", int64(s.Limits.Accept)}
	}
	return parseAccept(text)
}

// parseAccept is lenient where real clients are loose: the type of
// multipart/related unquoted in spite of its slash, "*" for "*/*", stray
// separators. A range that makes no sense is left out; when none is left the
// header is refused.
func parseAccept(text string) (accepted, error) {
	if strings.TrimSpace(text) == "" {
		return accepted{{name: "*/*", q: 1}}, nil
	}
	var a accepted
	for rest := text; rest != ""; {
		var item string
		item, rest = cutQuoted(rest, ',')
		if strings.TrimSpace(item) == "" {
			continue
		}
		if len(a) == maxRanges {
			return nil, ErrLimit{"maxRanges", maxRanges}
		}
		if m, ok := parseRange(item); ok {
			a = append(a, m)
		}
	}
	if len(a) == 0 {
		return nil, badRequest("the Accept header names no media type")
	}
	return a, nil
}

func parseRange(item string) (mediaRange, bool) {
	name, params := cutQuoted(item, ';')
	m := mediaRange{name: strings.ToLower(strings.TrimSpace(name)), q: 1}
	if m.name == "*" {
		m.name = "*/*"
	}
	if !validMediaType(m.name) {
		return m, false
	}
	for params != "" {
		var p string
		p, params = cutQuoted(params, ';')
		key, value, _ := strings.Cut(p, "=")
		value = unquote(strings.TrimSpace(value))
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "type":
			if m.inner = strings.ToLower(value); !validMediaType(m.inner) {
				return m, false
			}
		case "transfer-syntax":
			if m.syntax = value; value != "*" && !dicom.UID(value).Valid() {
				return m, false
			}
		case "q":
			q, err := strconv.ParseFloat(value, 64)
			if err != nil || !(q >= 0 && q <= 1) {
				return m, false
			}
			m.q = q
		}
	}
	return m, true
}

// cutQuoted cuts at the first sep outside quoted-strings.
func cutQuoted(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	s = s[1 : len(s)-1]
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// validMediaType reports two tokens (RFC 9110 5.6.2) with a slash between.
func validMediaType(s string) bool {
	main, sub, ok := strings.Cut(s, "/")
	return ok && validToken(main) && validToken(sub)
}

func validToken(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// How closely a range names an offer; the closest range decides its weight.
const (
	noMatch = iota
	anything
	someOfKind // image/*, multipart/related without a type
	named
	namedWithSyntax
)

// match says how closely m names o, and by which of its names.
func (m mediaRange) match(o offer) (closeness int, name string) {
	name = o.names[0]
	inner := m.name
	if m.name == "*/*" {
		return anything, name
	}
	if o.multipart {
		switch {
		case m.name == "multipart/*":
			return someOfKind, name
		case m.name != related:
			return noMatch, ""
		case m.inner == "":
			inner = "*/*"
		default:
			inner = m.inner
		}
	}
	main, _, _ := strings.Cut(name, "/")
	closeness = noMatch
	switch {
	case inner == "*/*" || inner == main+"/*":
		closeness = someOfKind
	default:
		for _, n := range o.names {
			if n == inner && (n != octetStream || o.raw || m.syntax != "") {
				closeness, name = named, n
			}
		}
		// octet-stream with an explicit syntax, or with any, asks for the bytes
		// as they are encoded; they are sent under their own media type, so
		// that compressed bytes are never taken for pixels.
		if closeness == noMatch && inner == octetStream && m.syntax != "" && len(o.syntaxes) > 0 {
			closeness = named
		}
	}
	if closeness == noMatch || m.syntax == "" || m.syntax == "*" {
		return closeness, name
	}
	for _, u := range o.syntaxes {
		if string(u) == m.syntax {
			return namedWithSyntax, name
		}
	}
	return noMatch, ""
}

// weight is what the closest range says of o (RFC 9110 12.5.1: the most
// specific reference has precedence).
func (a accepted) weight(o offer) (q float64, name string) {
	best := noMatch
	for _, m := range a {
		c, n := m.match(o)
		if c > best || c == best && c != noMatch && m.q > q {
			best, q, name = c, m.q, n
		}
	}
	return q, name
}

// choose takes the offer the client likes best, among equals the first.
func (a accepted) choose(offers []offer) (o offer, name string, ok bool) {
	var best float64
	for _, candidate := range offers {
		if q, n := a.weight(candidate); q > best {
			best, o, name, ok = q, candidate, n, true
		}
	}
	return o, name, ok
}

// notAcceptable says what there is.
func notAcceptable(offers []offer) error {
	var list []string
	for _, o := range offers {
		t := o.names[0]
		if o.multipart {
			t = related + `; type="` + t + `"`
		}
		if len(o.syntaxes) > 0 {
			t += "; transfer-syntax=" + string(o.syntaxes[0])
		}
		list = append(list, t)
	}
	return &problem{http.StatusNotAcceptable, "not available in a form that the Accept header names, and nothing is transcoded here; available: " +
		strings.Join(list, ", ") + "; or send transfer-syntax=*"}
}
