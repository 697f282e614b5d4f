package dicomweb

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/priormesh/priormesh/dicom"
)

// parseQuery reads the parameters of a search, PS3.18 8.3.4. What it does not
// understand is refused where ignoring it would change which studies come
// back, and otherwise left out with a warning.
func (l Limits) parseQuery(raw string, level Level, ref Ref) (q Query, warnings []string, err error) {
	q = Query{Level: level, Ref: ref, Limit: l.Results}
	if ref.Study != "" {
		q.Limit = l.InStudy
	}
	if len(raw) > l.QueryLength {
		return q, nil, ErrLimit{"QueryLength", int64(l.QueryLength)}
	}
	if strings.Count(raw, "&") >= l.QueryKeys {
		return q, nil, ErrLimit{"QueryKeys", int64(l.QueryKeys)}
	}
	seen := make(map[string]bool)
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		key, err1 := url.QueryUnescape(k)
		value, err2 := url.QueryUnescape(v)
		if err1 != nil || err2 != nil || !utf8.ValidString(key) || !utf8.ValidString(value) {
			return q, nil, badRequest("the query string is not percent-encoded UTF-8")
		}
		switch key {
		case "accept": // the handler's Accept
			continue
		case "includefield":
			unknown, err := l.include(&q.Include, value)
			if err != nil {
				return q, nil, err
			}
			for _, field := range unknown {
				warnings = append(warnings, fmt.Sprintf("The attribute %.64s of includefield is unknown and was ignored.", field))
			}
			continue
		}
		path, known, err := l.path(key)
		if err != nil {
			return q, nil, err
		}
		if known {
			m, err := l.match(path, value)
			if err != nil {
				return q, nil, err
			}
			i := slices.IndexFunc(q.Match, func(o Match) bool { return slices.Equal(o.Path, m.Path) })
			switch {
			case i < 0:
				q.Match = append(q.Match, m)
			case m.Tag().DictVR() != dicom.UI || len(m.Values) == 0 || len(q.Match[i].Values) == 0:
				return q, nil, badRequest("attribute %s is asked for twice", name(path))
			default:
				if q.Match[i].Values = append(q.Match[i].Values, m.Values...); len(q.Match[i].Values) > l.ListValues {
					return q, nil, ErrLimit{"ListValues", int64(l.ListValues)}
				}
			}
			continue
		}
		if seen[key] {
			return q, nil, badRequest("parameter %.32q is given twice", key)
		}
		seen[key] = true
		switch key {
		case "limit":
			n, ok := count(value, q.Limit)
			if !ok || n == 0 {
				return q, nil, badRequest("limit must be a whole number from 1 up")
			}
			q.Limit = n
		case "offset":
			n, ok := count(value, l.Offset+1)
			if !ok {
				return q, nil, badRequest("offset must be a whole number from 0 up")
			}
			if n > l.Offset {
				return q, nil, ErrLimit{"Offset", int64(l.Offset)}
			}
			q.Offset = n
		case "fuzzymatching":
			if q.Fuzzy, err = boolean(key, value); err != nil {
				return q, nil, err
			}
		case "emptyvaluematching", "multiplevaluematching":
			on, err := boolean(key, value)
			if err != nil {
				return q, nil, err
			}
			if on {
				warnings = append(warnings, "The "+key+" parameter is not supported. Only literal matching has been performed.")
			}
		case "charset":
			if !strings.EqualFold(value, "utf-8") {
				warnings = append(warnings, "The charset parameter is not supported. The answer is UTF-8.")
			}
		default:
			warnings = append(warnings, fmt.Sprintf("The parameter %.64s is unknown and was ignored.", key))
		}
	}
	return q, warnings, nil
}

// count reads a whole number and gives most for any beyond it.
func count(s string, most int) (int, bool) {
	if s == "" {
		return 0, false
	}
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int(c-'0'); n > most {
			n = most
		}
	}
	return n, true
}

func boolean(key, value string) (bool, error) {
	switch value {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, badRequest("%s must be true or false", key)
}

// include adds to in what can be included and gives the rest.
func (l Limits) include(in *Include, value string) (unknown []string, err error) {
	for field := range strings.SplitSeq(value, ",") {
		field = strings.TrimSpace(field)
		switch field {
		case "":
			continue
		case "all":
			in.All = true
			continue
		}
		path, known, err := l.path(field)
		switch {
		case err != nil:
			return nil, err
		case known:
			in.Paths = append(in.Paths, path)
		default:
			unknown = append(unknown, field)
		}
	}
	return unknown, nil
}

// path reads "00100020", "PatientID" or a path through sequences with dots
// between. known is false where the first step is no attribute.
func (l Limits) path(s string) (path []dicom.Tag, known bool, err error) {
	for step := range strings.SplitSeq(s, ".") {
		tag, ok := attribute(step)
		if !ok {
			if len(path) == 0 {
				return nil, false, nil
			}
			return nil, false, badRequest("%.64q is no attribute path: step %d is neither eight hexadecimal digits nor a keyword", s, len(path)+1)
		}
		if len(path) == l.PathDepth {
			return nil, false, ErrLimit{"PathDepth", int64(l.PathDepth)}
		}
		if len(path) > 0 {
			if vr := path[len(path)-1].DictVR(); vr != dicom.SQ && vr != dicom.UN {
				return nil, false, badRequest("%.64q is no attribute path: step %d is no sequence", s, len(path))
			}
		}
		path = append(path, tag)
	}
	return path, true, nil
}

func attribute(s string) (dicom.Tag, bool) {
	if len(s) == 8 {
		if n, err := strconv.ParseUint(s, 16, 32); err == nil {
			return dicom.Tag(n), true
		}
	}
	if s == "" || s[0] < 'A' || s[0] > 'Z' || strings.ContainsRune(s, ',') { // no keyword looks so
		return 0, false
	}
	t, err := dicom.ParseTag(s)
	return t, err == nil
}

func name(path []dicom.Tag) string {
	var steps []string
	for _, t := range path {
		if k := t.Keyword(); k != "" {
			steps = append(steps, k)
		} else {
			steps = append(steps, t.Hex())
		}
	}
	return strings.Join(steps, ".")
}

// match checks a value against what its attribute can hold: a date that is none
// would match nothing, and nothing found reads like "no priors".
func (l Limits) match(path []dicom.Tag, value string) (Match, error) {
	m := Match{Path: path}
	value = strings.TrimSpace(value)
	if value == "" || value == "*" {
		return m, nil
	}
	bad := func(why string) (Match, error) {
		return m, badRequest("the value for %s %s", name(path), why)
	}
	m.Values = []string{value}
	switch vr := m.Tag().DictVR(); vr {
	case dicom.SQ:
		return bad("cannot be given: it is a sequence; ask for an attribute in it, with a dot between the two")
	case dicom.UI, dicom.CS:
		m.Values = nil
		for v := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == '\\' }) {
			if v = strings.TrimSpace(v); v == "" {
				continue
			}
			if vr == dicom.UI && !dicom.UID(v).Valid() {
				return bad("is no UID, or list of UIDs with commas between")
			}
			if len(m.Values) == l.ListValues {
				return m, ErrLimit{"ListValues", int64(l.ListValues)}
			}
			m.Values = append(m.Values, v)
		}
		if len(m.Values) == 0 {
			return bad("is an empty list")
		}
	case dicom.DA:
		return m.ranged(bad, ".", dateSpan, "is no date YYYYMMDD, or range of dates YYYYMMDD-YYYYMMDD with either end open")
	case dicom.TM:
		return m.ranged(bad, ":", timeSpan, "is no time HHMMSS, or range of times HHMMSS-HHMMSS with either end open")
	case dicom.DT:
		from, to := cutDateTimes(value)
		for _, end := range []string{from, to} {
			if _, ok := dateTimeSpan(end, ""); !ok && end != "" {
				return bad("is no date and time YYYYMMDDHHMMSS, or range of them with either end open")
			}
		}
		if from == "" && to == "" {
			return bad("is an empty range")
		}
	case dicom.IS, dicom.DS, dicom.US, dicom.SS, dicom.UL, dicom.SL, dicom.UV, dicom.SV, dicom.FL, dicom.FD:
		if _, err := strconv.ParseFloat(value, 64); err != nil {
			return bad("is no number")
		}
	case dicom.OB, dicom.OW, dicom.OF, dicom.OD, dicom.OL, dicom.OV, dicom.AT:
		return bad("cannot be matched: it is binary")
	}
	return m, nil
}

// ranged checks both ends and writes them without spaces and old delimiters.
func (m Match) ranged(bad func(string) (Match, error), delimiter string, parse func(string) (span, bool), why string) (Match, error) {
	from, to := cutRange(m.Values[0])
	for _, end := range []string{from, to} {
		if _, ok := parse(end); !ok && end != "" {
			return bad(why)
		}
	}
	if from == "" && to == "" {
		return bad("is an empty range")
	}
	// A range of times may go over midnight (C.2.2.2.5.2).
	if f, ok := parse(from); ok && m.Tag().DictVR() == dicom.DA {
		if t, ok := parse(to); ok && t.last.Before(f.first) {
			return bad("is a range that ends before it begins")
		}
	}
	from, to = strings.ReplaceAll(from, delimiter, ""), strings.ReplaceAll(to, delimiter, "")
	if strings.Contains(m.Values[0], "-") {
		m.Values[0] = from + "-" + to
	} else {
		m.Values[0] = from
	}
	return m, nil
}
