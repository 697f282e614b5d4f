package index

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// plan is a way to find studies: by rows of studies, or by rows of persons.
type plan struct {
	rows    []span
	persons []span
	of      aspects // what is asked of persons and decided by their rows
	// fits says of the texts in the key of a person's row whether it may be of one that is asked for; and whether that is certain, as far as
	// of goes. nil: it is.
	fits    func(texts []byte) (fits, sure bool)
	ordered bool // the one span of rows is in the order of answers
	all     bool // they are all studies of the dates asked for
	alone   bool // and each of its rows matches: nothing else is asked
}

// aspects are what can be asked of a person.
type aspects uint32

const (
	ofID aspects = 1 << iota
	ofNHS
	ofName
	ofBirth
	ofSex
	ofWord // of the first word of a name; those of the further ones follow
)

// aspects is what is asked of persons.
func (m *matcher) aspects() (of aspects) {
	q := &m.q
	for a, set := range map[aspects]bool{
		ofID: q.PatientID != "" || q.Issuer != "", ofNHS: q.NHS != "", ofName: q.Name != "" && !q.Fuzzy, ofBirth: m.birth.set(), ofSex: q.Sex != "",
	} {
		if set {
			of |= a
		}
	}
	if q.Name != "" && q.Fuzzy {
		of |= ofWord<<min(len(m.words), nameWords+1) - ofWord // what is beyond the words that have rows no row decides
	}
	return of
}

// mayBeCut says whether a text from a key may have been longer.
func mayBeCut(text []byte) bool { return len(text) >= maxKeyText }

// idFits, nameFits and wordFits are plan.fits.
func (m *matcher) idFits(texts []byte) (fits, sure bool) {
	id, issuer, _ := bytes.Cut(bytes.TrimSuffix(texts, []byte{0}), []byte{0})
	if mayBeCut(id) || mayBeCut(issuer) {
		return true, false
	}
	return matchText(m.q.PatientID, string(id)) && matchText(m.q.Issuer, string(issuer)), true
}

func (m *matcher) nameFits(texts []byte) (fits, sure bool) {
	group := bytes.TrimSuffix(texts, []byte{0})
	if mayBeCut(group) {
		return true, false
	}
	return m.name.matches([]string{string(group)}), true
}

func wordFits(word string) func([]byte) (fits, sure bool) {
	return func(texts []byte) (fits, sure bool) {
		text := bytes.TrimSuffix(texts, []byte{0})
		if mayBeCut(text) || len(text) == 0 { // it has more words
			return true, false
		}
		return strings.HasPrefix(string(text), word), true
	}
}

// days widens the dates asked for by what zones can shift.
func (m *matcher) days() Range {
	if !m.zoned {
		return m.date
	}
	// An end that cannot be shifted is left open: every study is compared with what was asked for.
	shift := func(d string, by int) string {
		t, err := time.Parse("20060102", d)
		if err != nil {
			return ""
		}
		if t = t.AddDate(0, 0, by); t.Year() < 1 || t.Year() > 9999 {
			return ""
		}
		return t.Format("20060102")
	}
	return Range{shift(m.date.From, -2), shift(m.date.To, 2)}
}

// dated narrows a span whose keys go on with a date to the dates asked for.
func (m *matcher) dated(prefix []byte) span {
	s := prefixSpan(prefix)
	if !m.date.set() {
		return s
	}
	days := m.days()
	if days.To != "" {
		s.start = binary.BigEndian.AppendUint32(bytes.Clone(prefix), dateBytes(days.To))
	}
	last := dateBytes("00000000") // no date is no match
	if days.From != "" {
		last = dateBytes(days.From)
	}
	s.end = binary.BigEndian.AppendUint32(bytes.Clone(prefix), last+1)
	return s
}

// plans lists the ways to find the studies. The last is all by date.
func (m *matcher) plans() (out []plan) {
	q := &m.q
	person := func(of aspects, fits func([]byte) (fits, sure bool), s ...span) {
		out = append(out, plan{persons: s, of: of, fits: fits})
	}
	// text is of a value that may have wildcards, and a qualifier that may be absent.
	text := func(table byte, value, qualifier string) (s span, exact, ok bool) {
		switch {
		case value == "":
			return s, false, false
		case wild(value):
			lit := literal(value)
			return prefixSpan(append([]byte{table}, keyText(lit)...)), false, lit != ""
		case qualifier == "" || wild(qualifier):
			return prefixSpan(tableKey(table, value)), false, true
		}
		return prefixSpan(tableKey(table, value, qualifier)), true, true
	}
	if s, exact, ok := text(tabAccession, q.Accession, q.AccessionIssuer); ok {
		if exact {
			s = m.dated(s.prefix)
		}
		out = append(out, plan{rows: []span{s}, ordered: exact})
	}
	if q.NHS != "" {
		person(ofNHS, func([]byte) (fits, sure bool) { return true, len(q.NHS) < maxKeyText }, prefixSpan(tableKey(tabNHS, q.NHS)))
	}
	if s, _, ok := text(tabPatient, q.PatientID, q.Issuer); ok {
		person(ofID, m.idFits, s)
	}
	if q.Name != "" && q.Fuzzy {
		for i, w := range m.words[:min(len(m.words), nameWords)] {
			person(ofWord<<i, wordFits(w), prefixSpan(append([]byte{tabWord}, keyText(w)...)), prefixSpan(manyWords))
		}
	}
	if m.begins != "" {
		person(ofName, m.nameFits, prefixSpan(append([]byte{tabName}, keyText(m.begins)...)))
	}
	if m.birth.set() {
		s := span{prefix: []byte{tabBirth}, start: append([]byte{tabBirth}, m.birth.From...)}
		if m.birth.To != "" {
			s.end = append(append([]byte{tabBirth}, m.birth.To...), 1)
		}
		person(ofBirth, nil, s)
	}
	if len(q.Modalities) > 0 && !slices.ContainsFunc(q.Modalities, wild) {
		p := plan{ordered: len(q.Modalities) == 1}
		for _, mod := range q.Modalities {
			p.rows = append(p.rows, m.dated(tableKey(tabModality, mod)))
		}
		out = append(out, p)
	}
	if q.Trust != "" {
		out = append(out, plan{rows: []span{m.dated(tableKey(tabTrust, string(q.Trust)))}, ordered: true})
	}
	dated := plan{rows: []span{m.dated([]byte{tabDate})}, ordered: true, all: true}
	switch asked := m.asked(); {
	case asked == 0:
		dated.alone = true
	case asked == 1 && (q.Trust != "" || len(q.Modalities) == 1 && len(q.Modalities[0]) < maxKeyText) && len(out) == 1:
		out[0].alone = true
		return out
	}
	return append(out, dated)
}

// asked is how many things a query asks for beside dates that rows are ordered by.
func (m *matcher) asked() (n int) {
	q := &m.q
	for _, set := range []bool{
		q.PatientID != "", q.Issuer != "", q.NHS != "", q.Name != "", m.birth.set(), q.Sex != "", q.Accession != "", q.AccessionIssuer != "",
		len(q.Modalities) > 0, q.Description != "", q.StudyID != "", q.Referring != "", q.BodyPart != "", q.Trust != "", !q.HeldBy.IsZero(),
		m.time.set(), m.zoned && m.date.set(),
	} {
		if set {
			n++
		}
	}
	return n
}
