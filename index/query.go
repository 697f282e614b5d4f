package index

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/wildcard"
)

// Range is an inclusive range of dates (YYYYMMDD) or times (HH, HHMM or HHMMSS); an empty end is open.
type Range struct{ From, To string }

// Query asks for studies. Every field that is set must match, and it must be one author's statement that matches them all.
//
// Texts may hold the wildcards * (any run of characters) and ? (any one). Name, Referring and Description are compared without
// regard to case and accents, all other texts as they are. A name without ^ and wildcards also finds all who bear it as family name.
// A range of times whose end is before its start goes over midnight.
type Query struct {
	StudyUIDs       []string // any of these
	PatientID       string
	Issuer          string // of PatientID
	NHS             string
	Name            string
	Fuzzy           bool // every word of Name begins some word of the name
	BirthDate       Range
	Sex             string
	Date            Range
	Time            Range
	Accession       string
	AccessionIssuer string
	Modalities      []string // the study has any of these
	Description     string
	StudyID         string
	Referring       string
	BodyPart        string
	Trust           TrustID // said by a node of this trust
	Zone            string  // "+HHMM" or "-HHMM": Date and Time are meant there, and studies that name another are converted
	Combined        bool    // Date and Time are one range: from the first time of the first date to the last of the last
	HeldBy          NodeID  // said by this node, or a copy is there
	Oldest          bool    // oldest first; else newest first
	After           Cursor  // go on after an earlier answer
	Offset, Limit   int     // Limit 0 is MaxPage
}

// Cursor is where an answer ended: what comes after it is the same whatever has come in since. It is a text for a URL.
type Cursor string

// Limits on queries.
const (
	MaxPage     = 1000    // studies in an answer
	MaxPageSize = 8 << 20 // bytes of statements in an answer, about: one study is given in any case
	MaxHoldings = 64      // copies of one study by one author in an answer: each is of what another node received
	MaxUIDs     = 4096    // study UIDs in a query
	MaxPattern  = 256     // bytes of a text with wildcards in a query
	MaxExamined = 100_000 // studies a query reads before it gives up

	maxHeldLook   = 1024      // rows of copies of one study by one author that are looked at
	maxWalked     = 4_000_000 // rows a query walks before it gives up
	maxAsked      = 1 << 19   // persons it reads before it gives up
	maxCounted    = 1 << 20   // studies that are counted by their rows alone
	maxCandidates = 200_000   // statements of persons that are collected: of more it walks
)

// StudyAnswer is a study with what each author says of it and where copies are.
type StudyAnswer struct {
	UID        string
	Statements []Authored[Study]   // those that match first, newest first, then by author
	Matching   int                 // how many of them match
	Holdings   []Authored[Holding] // copies there are now: up to MaxHoldings by each author
	Left       bool                // an author says that it holds more, which are left out
}

// Answer is a page of studies, by date and time of the newest matching statement, and where these are equal in an order that stays.
type Answer struct {
	Studies    []StudyAnswer
	More       bool   // there are further studies after this page
	Full       bool   // it has fewer than asked for, for it reached MaxPageSize: go on after Next
	Next       Cursor // where it ended, if it has any
	Incomplete bool   // the search was given up: studies may be missing, narrow the query
}

// Study returns what each author says of a study, sorted by author; nothing if nobody says anything. That it cannot be read is no answer: then
// nobody may believe that the study is not known.
func (x *Index) Study(uid string) ([]Authored[Study], error) {
	if checkUID(uid) != nil {
		return nil, nil
	}
	var out []Authored[Study]
	err := x.View(func(txn *badger.Txn) error {
		out = nil
		all, err := x.reading(txn).studyStatements(uid)
		for _, st := range all {
			out = append(out, st.authored(x))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("a study cannot be read from the index: %w", err)
	}
	return out, nil
}

func (st statement) authored(x *Index) Authored[Study] {
	return authored(x, st.author, st.trust, st.at, st.study)
}

// Check says what is wrong with a query, before it is asked: a *QueryError.
func (x *Index) Check(q Query) error {
	_, err := x.matcher(q)
	return err
}

// Studies answers a query. It, Count and Patient end with ctx.
func (x *Index) Studies(ctx context.Context, q Query) (Answer, error) {
	var a Answer
	m, err := x.matcher(q)
	if err != nil {
		return a, err
	}
	limit := q.Limit
	if limit == 0 {
		limit = MaxPage
	}
	err = x.View(func(txn *badger.Txn) error {
		skip, size := q.Offset, 0
		a = Answer{}
		s := m.search(ctx, txn)
		holdings := newHoldings(s.runs)
		defer holdings.close()
		complete, err := s.each(func(f found) (bool, error) {
			if skip > 0 {
				skip--
				return true, nil
			}
			if len(a.Studies) == limit || size >= MaxPageSize {
				a.More, a.Full = true, len(a.Studies) < limit
				return false, nil
			}
			a.Next = f.at.cursor()
			s := StudyAnswer{UID: f.uid, Matching: f.matching}
			for _, st := range f.all {
				s.Statements = append(s.Statements, st.authored(x))
				size += st.study.size()
			}
			shown := map[authorNo]int{}
			left, err := holdings.of(f.uid, NodeID{}, func(h heldBy) error {
				if h.instances > 0 && shown[h.author.no] == MaxHoldings {
					s.Left = true
				} else if h.instances > 0 {
					shown[h.author.no]++
					size += holdingKeySize
					s.Holdings = append(s.Holdings, authored(x, h.author.node, h.trust, h.at, h.holding(f.uid)))
				}
				return nil
			})
			s.Left = s.Left || left
			a.Studies = append(a.Studies, s)
			return true, err
		})
		a.Incomplete = !complete
		return err
	})
	return a, err
}

// Count counts what a query without Offset and Limit would answer, after After. Not exact, it is the least there are: the search was given up,
// or there are more than are counted. How many studies there are, and how many of a trust, it knows without looking.
func (x *Index) Count(ctx context.Context, q Query) (n int, exact bool, err error) {
	m, err := x.matcher(q)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, false, err
	}
	if trust, ok := q.onlyTrust(); ok {
		err = x.View(func(txn *badger.Txn) error {
			n, err = readCount(txn, trust)
			return err
		})
		return n, err == nil, err
	}
	err = x.View(func(txn *badger.Txn) (err error) {
		n = 0
		s := m.search(ctx, txn)
		if plans := m.plans(); len(q.StudyUIDs) == 0 && m.after == nil && plans[len(plans)-1].alone {
			n, exact, err = s.countRows(plans[len(plans)-1].rows[0])
			return err
		}
		s.all = true
		exact, err = s.each(func(found) (bool, error) {
			n++
			return true, nil
		})
		return err
	})
	return n, exact, err
}

// onlyTrust says whether the query asks for nothing but a trust, or for nothing.
func (q Query) onlyTrust() (TrustID, bool) {
	t := q.Trust
	q.Trust, q.Offset, q.Limit, q.Fuzzy, q.Oldest, q.Zone = "", 0, 0, false, false, ""
	return t, reflect.ValueOf(q).IsZero()
}

// Holder is a node that has a copy of a study.
type Holder struct {
	Node        NodeID
	Trust       TrustID
	Revision    uint64
	Instances   int
	Origin      bool // it said the study
	Quarantined bool
}

// Holders returns the nodes that have a copy of origin's study: origin first, then the newest revisions.
func (x *Index) Holders(study string, origin NodeID) ([]Holder, error) {
	if checkUID(study) != nil {
		return nil, nil
	}
	var out []Holder
	err := x.View(func(txn *badger.Txn) error {
		out = nil
		c := x.reading(txn)
		all, err := c.studyStatements(study)
		if err != nil {
			return err
		}
		for _, st := range all {
			if st.author == origin {
				a := st.authored(x)
				out = append(out, Holder{Node: a.Author, Trust: a.Trust, Revision: a.Value.Revision, Instances: a.Value.Instances, Origin: true, Quarantined: a.Quarantined})
			}
		}
		holdings := newHoldings(c)
		defer holdings.close()
		_, err = holdings.of(study, origin, func(h heldBy) error {
			if h.author.node != origin && h.instances > 0 {
				a := authored(x, h.author.node, h.trust, h.at, h.holding(study))
				out = append(out, Holder{Node: a.Author, Trust: a.Trust, Revision: a.Value.Revision, Instances: a.Value.Instances, Quarantined: a.Quarantined})
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("the holders of a study cannot be read from the index: %w", err)
	}
	slices.SortFunc(out, func(a, b Holder) int {
		if a.Origin != b.Origin {
			if a.Origin {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Revision, a.Revision), a.Node.Compare(b.Node))
	})
	return out, nil
}

// holdings reads the holding table with one iterator for a whole page.
type holdings struct {
	c  *runCache
	it *badger.Iterator
}

func newHoldings(c *runCache) holdings {
	return holdings{c, c.txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tabHolding}})}
}

func (h holdings) close() { h.it.Close() }

// heldBy is what somebody says of a copy: that it is there, or (instances 0) no more.
type heldBy struct {
	copyRow
	author author
	origin NodeID
	trust  TrustID
}

func (h heldBy) holding(uid string) Holding {
	return Holding{Study: uid, Origin: h.origin, Revision: h.revision, Instances: h.instances}
}

// of calls fn with what is said of copies of a study: of any origin's, or of one origin's; by each author in the order of origins. more
// says that an author says so much that it is not all looked at: nobody's word takes time from another's.
func (h holdings) of(uid string, origin NodeID, fn func(heldBy) error) (more bool, err error) {
	k := h.c.x.studyKey(uid)
	prefix := append([]byte{tabHolding}, k[:]...)
	for h.it.Seek(prefix); h.it.ValidForPrefix(prefix); {
		key := h.it.Item().Key()
		if len(key) != holdingKeySize {
			return more, errDamaged("the key of a holding")
		}
		no := authorNo(binary.BigEndian.Uint16(key[len(prefix):]))
		left, err := h.ofAuthor(k, no, origin, fn)
		if err != nil {
			return more, err
		}
		more = more || left
		if no == maxNumbered {
			break
		}
		h.it.Seek(holdingKey(k, no+1, NodeID{}))
	}
	return more, nil
}

// ofAuthor is of for one author.
func (h holdings) ofAuthor(k studyKey, no authorNo, origin NodeID, fn func(heldBy) error) (more bool, err error) {
	prefix := holdingKey(k, no, origin)
	if origin.IsZero() {
		prefix = prefix[:1+len(k)+2]
	}
	looked := 0
	for h.it.Seek(prefix); h.it.ValidForPrefix(prefix); h.it.Next() {
		if looked++; looked > maxHeldLook {
			return true, nil
		}
		if err := h.read(fn); err != nil {
			return false, err
		}
	}
	return false, nil
}

// by calls fn with what one author says of copies of a study, or ("") of all: with everything.
func (h holdings) by(uid string, no authorNo, fn func(heldBy) error) error {
	prefix := []byte{tabHolding}
	if uid != "" {
		k := h.c.x.studyKey(uid)
		prefix = holdingKey(k, no, NodeID{})[:1+len(k)+2]
	}
	for h.it.Seek(prefix); h.it.ValidForPrefix(prefix); h.it.Next() {
		if err := h.read(func(b heldBy) error {
			if b.author.no != no {
				return nil
			}
			return fn(b)
		}); err != nil {
			return err
		}
	}
	return nil
}

// read calls fn with the row where the iterator is, if it is one.
func (h holdings) read(fn func(heldBy) error) error {
	item := h.it.Item()
	if Purged(item) {
		return nil
	}
	k := item.Key()
	if len(k) != holdingKeySize {
		return errDamaged("the key of a holding")
	}
	b := heldBy{origin: NodeID(k[11:])}
	no := authorNo(binary.BigEndian.Uint16(k[9:]))
	v, err := item.ValueCopy(nil)
	if err == nil {
		b.copyRow, err = readCopy(v)
	}
	if err == nil {
		b.author, err = h.c.x.author(h.c.txn, no)
	}
	if err != nil {
		return err
	}
	b.trust = cmp.Or(b.copyRow.trust, b.author.trust)
	return fn(b)
}

// matcher is a query made ready: how a statement is compared, and where to look.
type matcher struct {
	x           *Index
	q           Query
	name        namePattern
	begins      string // what a group of the name begins with; empty: anything
	words       []string
	referring   namePattern
	description string
	date, birth Range
	time        Range
	zone        int // minutes east of UTC
	zoned       bool
	after       *placed
}

// QueryError says what is wrong with a query, and with what of it: it is the asker's to mend.
type QueryError struct {
	Field string // of Query
	Err   error
}

func (e *QueryError) Error() string { return "query, " + e.Field + ": " + e.Err.Error() }
func (e *QueryError) Unwrap() error { return e.Err }

func badQuery(field, why string) error {
	return &QueryError{field, &MalformedError{What: "query", Why: why}}
}

func (x *Index) matcher(q Query) (*matcher, error) {
	m := &matcher{x: x, q: q}
	for _, n := range []struct {
		field, what     string
		got, least, max int
	}{
		{"StudyUIDs", "study UIDs in a query", len(q.StudyUIDs), 0, MaxUIDs},
		{"Modalities", "modalities in a query", len(q.Modalities), 0, maxList},
		{"Limit", "studies asked for at once", q.Limit, 0, MaxPage},
		{"Offset", "studies passed over (narrow the query instead)", q.Offset, 0, MaxExamined},
	} {
		if n.got < n.least || n.got > n.max {
			return nil, &QueryError{n.field, &LimitError{What: n.what, Got: n.got, Limit: n.max}}
		}
	}
	texts := []struct{ field, text string }{
		{"PatientID", q.PatientID}, {"Issuer", q.Issuer}, {"NHS", q.NHS}, {"Name", q.Name}, {"Sex", q.Sex}, {"Accession", q.Accession},
		{"AccessionIssuer", q.AccessionIssuer}, {"Description", q.Description}, {"StudyID", q.StudyID}, {"Referring", q.Referring},
		{"BodyPart", q.BodyPart}, {"Trust", string(q.Trust)},
	}
	for _, mod := range q.Modalities {
		texts = append(texts, struct{ field, text string }{"Modalities", mod})
	}
	for _, t := range texts {
		switch {
		case len(t.text) > MaxText:
			return nil, &QueryError{t.field, &LimitError{What: "bytes of a text in a query", Got: len(t.text), Limit: MaxText}}
		case len(t.text) > MaxPattern && wild(t.text):
			return nil, &QueryError{t.field, &LimitError{What: "bytes of a pattern in a query", Got: len(t.text), Limit: MaxPattern}}
		case !plain(t.text):
			return nil, badQuery(t.field, "a text holds control characters or is not UTF-8")
		}
	}
	var err error
	if m.date, err = dateRange("Date", q.Date); err != nil {
		return nil, err
	}
	if m.birth, err = dateRange("BirthDate", q.BirthDate); err != nil {
		return nil, err
	}
	if m.time, err = timeRange(q.Time); err != nil {
		return nil, err
	}
	if q.Fuzzy {
		m.words = x.fold.words(q.Name)
		if len(m.words) == 0 && strings.Trim(q.Name, "*?^= ") != "" {
			return nil, badQuery("Name", "the name to search for has no letters or digits")
		}
		if len(m.words) == 0 {
			m.q.Name = "" // any name
		}
	} else {
		m.name = x.fold.namePattern(q.Name)
		m.begins = m.name.begins()
	}
	if q.Zone != "" {
		var ok bool
		if m.zone, ok = zoneMinutes(q.Zone); !ok {
			return nil, badQuery("Zone", "want +HHMM or -HHMM, from -1200 to +1400")
		}
		m.zoned = true
	}
	if q.After != "" {
		at, err := q.After.placed()
		if err != nil {
			return nil, &QueryError{"After", err}
		}
		m.after = &at
	}
	m.referring = x.fold.namePattern(q.Referring)
	m.description = x.fold.pattern(q.Description)
	return m, nil
}

// dateRange reads a range of dates. A day that its month has not may end one: 31 is said for the last of any.
func dateRange(field string, r Range) (Range, error) {
	out := Range{cleanDate(r.From), cleanDate(r.To)}
	for _, end := range [][2]string{{r.From, out.From}, {r.To, out.To}} {
		if d := end[1]; end[0] != "" && (d == "" || d[4:6] < "01" || d[4:6] > "12" || d[6:] < "01" || d[6:] > "31") {
			return out, badQuery(field, "want YYYYMMDD, or YYYYMMDD-YYYYMMDD with either end open")
		}
	}
	if out.To != "" && out.To < out.From {
		return out, badQuery(field, "its end is before its beginning")
	}
	return out, nil
}

func timeRange(r Range) (Range, error) {
	out := Range{cleanTime(r.From), ""}
	if to, _, _ := strings.Cut(strings.ReplaceAll(r.To, ":", ""), "."); cleanTime(to) != "" {
		out.To = (to + "5959")[:6] // an hour ends with its last second
	}
	for _, end := range [][2]string{{r.From, out.From}, {r.To, out.To}} {
		if t := end[1]; end[0] != "" && (t == "" || t[:2] > "23" || t[2:4] > "59" || t[4:] > "60") {
			return out, badQuery("Time", "want HH, HHMM or HHMMSS, or two with - between")
		}
	}
	return out, nil
}

func (r Range) set() bool { return r != Range{} }

// holds compares a cleaned date or time; what is absent is in no range.
func (r Range) holds(s string) bool {
	return s != "" && s >= r.From && (r.To == "" || s <= r.To)
}

func matchText(pattern, s string) bool { return pattern == "" || wildcard.Match(pattern, s) }

// zoneMinutes reads a timezone offset (PS3.3 C.12.1.1.8: &ZZXX).
func zoneMinutes(s string) (minutes int, ok bool) {
	if len(s) != 5 || s[0] != '+' && s[0] != '-' || !digits(s[1:]) {
		return 0, false
	}
	minutes = 60*(10*int(s[1]-'0')+int(s[2]-'0')) + 10*int(s[3]-'0') + int(s[4]-'0')
	if s[0] == '-' {
		minutes = -minutes
	}
	return minutes, minutes >= -12*60 && minutes <= 14*60 && s[3] < '6'
}

// IsZone says whether s is a timezone offset as DICOM writes it.
func IsZone(s string) bool {
	_, ok := zoneMinutes(s)
	return ok
}

// moment is a study's date and time as the query means them.
func (m *matcher) moment(s *Study) (date, clock string) {
	date, clock = cleanDate(s.Date), cleanTime(s.Time)
	if !m.zoned || date == "" || clock == "" {
		return date, clock
	}
	its, ok := zoneMinutes(s.TimezoneOffset)
	if !ok || its == m.zone {
		return date, clock
	}
	t, err := time.Parse("20060102150405", date+clock)
	if err != nil {
		return date, clock
	}
	moved := t.Add(time.Duration(m.zone-its) * time.Minute).Format("20060102150405")
	return moved[:8], moved[8:]
}

// inTime says whether a date and time are in the ranges asked for.
func (m *matcher) inTime(date, clock string) bool {
	if m.q.Combined && m.date.set() && m.time.set() {
		if !m.date.holds(date) {
			return false
		}
		// A study without a time may lie anywhere in its day.
		return clock == "" || (date != m.date.From || clock >= m.time.From) && (date != m.date.To || m.time.To == "" || clock <= m.time.To)
	}
	if m.date.set() && !m.date.holds(date) {
		return false
	}
	if !m.time.set() {
		return true
	}
	if m.time.To != "" && m.time.To < m.time.From { // over midnight
		return clock != "" && (clock >= m.time.From || clock <= m.time.To)
	}
	return m.time.holds(clock)
}

// matches compares one statement with the whole query.
func (m *matcher) matches(st statement) bool {
	q, s := &m.q, &st.study
	switch {
	case q.Trust != "" && st.trust != q.Trust,
		!matchText(q.Accession, s.Accession),
		!matchText(q.AccessionIssuer, s.AccessionIssuer),
		!matchText(q.StudyID, s.StudyID),
		!m.inTime(m.moment(s)):
		return false
	}
	if len(q.Modalities) > 0 && !slices.ContainsFunc(q.Modalities, func(p string) bool {
		return slices.ContainsFunc(s.Modalities, func(v string) bool { return matchText(p, v) })
	}) {
		return false
	}
	if q.BodyPart != "" && !slices.ContainsFunc(s.BodyParts, func(v string) bool { return matchText(q.BodyPart, v) }) {
		return false
	}
	if q.Description != "" && !wildcard.Match(m.description, strings.TrimSpace(m.x.fold(s.Description))) {
		return false
	}
	if q.Referring != "" && !m.referring.matches(m.x.fold.canonical(s.Referring)) {
		return false
	}
	return m.matchesPerson(s.person())
}

// ofPerson says whether the query asks for anything that a person says.
func (m *matcher) ofPerson() bool {
	q := &m.q
	return q.PatientID != "" || q.Issuer != "" || q.NHS != "" || q.Name != "" || q.Sex != "" || m.birth.set()
}

// matchesPerson compares what is said of a patient with what is asked of him.
func (m *matcher) matchesPerson(p person) bool {
	q := &m.q
	switch {
	case q.NHS != "" && p.NHS != q.NHS,
		!matchText(q.Sex, p.Sex),
		m.birth.set() && !m.birth.holds(cleanDate(p.BirthDate)):
		return false
	}
	if q.PatientID != "" || q.Issuer != "" {
		if !slices.ContainsFunc(p.Patient, func(id PatientID) bool {
			return matchText(q.PatientID, id.ID) && matchText(q.Issuer, id.Issuer)
		}) {
			return false
		}
	}
	if q.Name == "" {
		return true
	}
	if !q.Fuzzy {
		return m.name.matches(m.x.fold.canonical(p.Name))
	}
	have := m.x.fold.nameWordsOf(p.Name)
	for _, w := range m.words {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.HasPrefix(h, w) }) {
			return false
		}
	}
	return true
}
