package dicomweb

import (
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/wildcard"
)

// Match is one attribute that a search asks for.
type Match struct {
	// Path is the attribute, reached through sequences: all but its last tag are
	// sequences.
	Path []dicom.Tag
	// Values is the value asked for, as sent: with wildcards, or a range. Only a
	// list of UIDs or of code strings (CS) has several values, one of which must
	// match. Universal matching (an empty value, or "*") has none.
	Values []string
}

// Tag is the attribute that is matched.
func (m Match) Tag() dicom.Tag { return m.Path[len(m.Path)-1] }

// Range is the value as a range: both ends are the same for a single value, and
// an end that is open is empty.
func (m Match) Range() (from, to string) {
	if len(m.Values) == 0 {
		return "", ""
	}
	if m.Tag().DictVR() == dicom.DT {
		return cutDateTimes(m.Values[0])
	}
	return cutRange(m.Values[0])
}

// Matches reports whether a dataset satisfies every match as PS3.4 C.2.2.2
// defines it: single value, list of UIDs, universal, wildcard, range and
// sequence matching. Matches that lead into one sequence must hold in one item
// of it (C.2.2.2.6). An attribute with several values matches by any of them.
//
// Person names match without regard to case, accents and trailing delimiters,
// as C.2.2.2.1 allows, and by any of their component groups. All else is
// literal. A code string may be a list like UIDs: viewers send
// ModalitiesInStudy=CT,MR.
func Matches(ds dicom.Dataset, ms ...Match) bool { return matchesFrom(ds, ms, 0) }

// matchesFrom matches what is at or below depth in the paths.
func matchesFrom(ds dicom.Dataset, ms []Match, depth int) bool {
	var done []dicom.Tag
	for i, m := range ms {
		tag := m.Path[depth]
		if len(m.Path) == depth+1 {
			if !m.inElement(ds) {
				return false
			}
			continue
		}
		if contains(done, tag) {
			continue
		}
		done = append(done, tag)
		var same []Match
		universal := true
		for _, other := range ms[i:] {
			if len(other.Path) > depth+1 && other.Path[depth] == tag {
				same = append(same, other)
				universal = universal && len(other.Values) == 0
			}
		}
		if universal {
			continue
		}
		found := false
		for _, item := range ds.Items(tag) {
			if found = matchesFrom(item, same, depth+1); found {
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}

func contains(tags []dicom.Tag, t dicom.Tag) bool {
	for _, u := range tags {
		if u == t {
			return true
		}
	}
	return false
}

func (m Match) inElement(ds dicom.Dataset) bool {
	if len(m.Values) == 0 {
		return true
	}
	e, ok := ds.Find(m.Tag())
	if !ok {
		return false
	}
	for _, want := range m.Values {
		if matchElement(ds, e, want) {
			return true
		}
	}
	return false
}

func matchElement(ds dicom.Dataset, e dicom.Element, want string) bool {
	if e.VR.IsInt() || e.VR.IsFloat() {
		return matchNumber(e.Floats(), want)
	}
	zone := ds.String(dicom.TagTimezoneOffsetFromUTC)
	values := ds.Text(e)
	if e.VR == dicom.UN {
		values = []string{strings.Trim(string(e.Value), " \x00")}
	}
	for _, have := range values {
		if matchText(e.VR, have, want, zone) {
			return true
		}
	}
	return false
}

func matchText(vr dicom.VR, have, want, zone string) bool {
	switch vr {
	case dicom.PN:
		return matchName(have, want)
	case dicom.DA:
		return matchSpan(have, want, dateSpan)
	case dicom.TM:
		return matchSpan(have, want, timeSpan)
	case dicom.DT:
		from, to := cutDateTimes(want)
		return inRange(have, from, to, func(s string) (span, bool) { return dateTimeSpan(s, zone) })
	case dicom.IS, dicom.DS:
		f, err := strconv.ParseFloat(have, 64)
		return have == want || err == nil && matchNumber([]float64{f}, want)
	case dicom.UI, dicom.AS, dicom.UN:
		return have == want // C.2.2.2.4: no wildcards
	}
	return wildcard.Match(strings.TrimSpace(want), have)
}

func matchNumber(have []float64, want string) bool {
	w, err := strconv.ParseFloat(strings.TrimSpace(want), 64)
	if err != nil {
		return false
	}
	for _, h := range have {
		if h == w {
			return true
		}
	}
	return false
}

func matchName(have, want string) bool {
	want = foldName(want)
	if strings.Contains(want, "=") {
		return wildcard.Match(want, foldName(have))
	}
	for _, group := range strings.Split(have, "=") {
		if wildcard.Match(want, foldName(group)) {
			return true
		}
	}
	return false
}

// foldName takes away what C.2.2.2.1 lets a matcher disregard in names, and
// leaves wildcards alone.
func foldName(s string) string {
	var b strings.Builder
	for _, r := range norm.NFD.String(s) {
		if !unicode.Is(unicode.Mn, r) {
			b.WriteRune(unicode.ToLower(r))
		}
	}
	groups := strings.Split(norm.NFC.String(b.String()), "=")
	for i, g := range groups {
		components := strings.Split(g, "^")
		for j, c := range components {
			components[j] = strings.TrimSpace(c)
		}
		groups[i] = strings.TrimRight(strings.Join(components, "^"), "^")
	}
	return strings.TrimRight(strings.Join(groups, "="), "=")
}

// span is the time a value of limited precision covers, both ends included.
type span struct{ first, last time.Time }

func matchSpan(have, want string, parse func(string) (span, bool)) bool {
	from, to := cutRange(want)
	return inRange(have, from, to, parse)
}

// inRange reports whether the span of have meets [from, to]; an open end is
// empty. A value that cannot be parsed matches only its own text.
func inRange(have, from, to string, parse func(string) (span, bool)) bool {
	h, ok := parse(have)
	if !ok {
		return have == from && from == to
	}
	if from != "" {
		f, ok := parse(from)
		if !ok || h.last.Before(f.first) {
			return false
		}
	}
	if to != "" {
		t, ok := parse(to)
		if !ok || h.first.After(t.last) {
			return false
		}
	}
	return from != "" || to != ""
}

// cutRange splits "a-b", "-b", "a-" and gives a, a for a single value.
func cutRange(s string) (from, to string) {
	from, to, ranged := strings.Cut(s, "-")
	from, to = strings.TrimSpace(from), strings.TrimSpace(to)
	if !ranged {
		return from, from
	}
	return from, to
}

// cutDateTimes splits a range of DT, in which a hyphen may also begin an offset
// from UTC: followed by exactly four digits that are one (PS3.5 6.2: -1200 to
// +1400), it is no range (C.2.2.2.5.3).
func cutDateTimes(s string) (from, to string) {
	s = strings.ReplaceAll(s, " ", "")
	for i := 0; i < len(s); i++ {
		if s[i] != '-' {
			continue
		}
		if i > 0 && isOffset(s[i+1:]) {
			i += 4
			continue
		}
		return s[:i], s[i+1:]
	}
	return s, s
}

func isOffset(s string) bool {
	if len(s) < 4 || len(s) > 4 && s[4] != '-' {
		return false
	}
	n, err := strconv.ParseUint(s[:4], 10, 16)
	return err == nil && n <= 1400 && n%100 < 60
}

// dateSpan reads YYYYMMDD, and YYYY.MM.DD of the standard's first edition
// (PS3.5 6.2).
func dateSpan(s string) (span, bool) {
	layout := "20060102"
	if len(s) == 10 {
		layout = "2006.01.02"
	}
	t, err := time.Parse(layout, s)
	if err != nil {
		return span{}, false
	}
	return span{t, t.AddDate(0, 0, 1).Add(-1)}, true
}

// timeSpan reads HH[MM[SS[.F…]]], with colons too (PS3.5 6.2).
func timeSpan(s string) (span, bool) {
	if len(s) > 2 && s[2] == ':' {
		s = strings.ReplaceAll(s, ":", "")
	}
	return momentSpan("19700101"+s, 10, time.UTC)
}

// dateTimeSpan reads YYYY[MM[DD[HH[MM[SS[.F…]]]]]][&ZZXX]. zone is Timezone
// Offset From UTC of the dataset; without one UTC stands for local time.
func dateTimeSpan(s, zone string) (span, bool) {
	if i := strings.IndexAny(s, "+-"); i >= 0 {
		s, zone = s[:i], s[i:]
	}
	loc := time.UTC
	if len(zone) == 5 && isOffset(zone[1:]) {
		n, _ := strconv.Atoi(zone[1:])
		seconds := (n/100*60 + n%100) * 60
		if zone[0] == '-' {
			seconds = -seconds
		}
		loc = time.FixedZone("", seconds)
	}
	return momentSpan(s, 4, loc)
}

func momentSpan(s string, least int, loc *time.Location) (span, bool) {
	whole, fraction, hasFraction := strings.Cut(s, ".")
	if len(whole) < least || len(whole) > 14 || len(whole)%2 != 0 || hasFraction && len(whole) != 14 {
		return span{}, false
	}
	// A leap second (60) counts as the second before it.
	if len(whole) == 14 && whole[12:] == "60" {
		whole = whole[:12] + "59"
	}
	first, err := time.ParseInLocation("20060102150405"[:len(whole)], whole, loc)
	if err != nil {
		return span{}, false
	}
	if hasFraction {
		if len(fraction) < 1 || len(fraction) > 6 {
			return span{}, false
		}
		n, err := strconv.ParseUint(fraction+"000000000"[len(fraction):], 10, 32)
		if err != nil {
			return span{}, false
		}
		first = first.Add(time.Duration(n))
		width := time.Second
		for range fraction {
			width /= 10
		}
		return span{first, first.Add(width - 1)}, true
	}
	var next time.Time
	switch len(whole) {
	case 4:
		next = first.AddDate(1, 0, 0)
	case 6:
		next = first.AddDate(0, 1, 0)
	case 8:
		next = first.AddDate(0, 0, 1)
	case 10:
		next = first.Add(time.Hour)
	case 12:
		next = first.Add(time.Minute)
	default:
		next = first.Add(time.Second)
	}
	return span{first, next.Add(-1)}, true
}
