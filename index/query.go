package index

import (
	"bytes"
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Range is an inclusive range of dates (YYYYMMDD) or times (HH, HHMM or HHMMSS); an empty end is open.
type Range struct{ From, To string }

// Query asks for studies. Every field that is set must match, and it must be one author's statement that matches them all.
//
// Texts may hold the wildcards * (any run of characters) and ? (any one). Name, Referring and Description are compared without
// regard to case and accents, all other texts as they are. A name without ^ and wildcards also finds all who bear it as family name.
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
	Offset, Limit   int     // Limit 0 is MaxPage
}

// Limits on queries.
const (
	MaxPage     = 1000    // studies in an answer
	MaxUIDs     = 4096    // study UIDs in a query
	MaxExamined = 100_000 // records a query looks at before it gives up

	maxCandidates = 200_000 // keys a query collects; a row of a table takes about 80 bytes while it does
	probe         = 256     // keys counted to tell a narrow table from a wide one
)

// StudyAnswer is a study with what each author says of it and where copies are.
type StudyAnswer struct {
	UID        string
	Statements []Authored[Study]   // those that match first, newest first, then by author
	Matching   int                 // how many of them match
	Holdings   []Authored[Holding] // copies there are now
}

// Answer is a page of studies, by date and time of the newest matching statement, newest first, then by UID.
type Answer struct {
	Studies    []StudyAnswer
	More       bool // there are further studies after this page
	Incomplete bool // the search was given up at MaxExamined records: studies may be missing, narrow the query
}

// Study returns what each author says of a study, sorted by author, and whether anybody does. A database that cannot be read is
// logged as such.
func (x *Index) Study(uid string) ([]Authored[Study], bool) {
	if checkUID(uid) != nil {
		return nil, false
	}
	var out []Authored[Study]
	err := x.View(func(txn *badger.Txn) error {
		out = nil
		all, err := studyStatements(txn, uid)
		for _, st := range all {
			out = append(out, authored(x, st.author, st.record, st.study))
		}
		return err
	})
	if err != nil {
		x.opt.Log.Error("a study cannot be read from the index", "error", err)
		return nil, false
	}
	return out, len(out) > 0
}

// Studies answers a query.
func (x *Index) Studies(q Query) (Answer, error) {
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
		skip := q.Offset
		a = Answer{}
		holdings := newHoldings(txn)
		defer holdings.close()
		complete, err := m.each(txn, func(uid string, all []statement, matching int) (bool, error) {
			if skip > 0 {
				skip--
				return true, nil
			}
			if len(a.Studies) == limit {
				a.More = true
				return false, nil
			}
			s := StudyAnswer{UID: uid, Matching: matching}
			for _, st := range all {
				s.Statements = append(s.Statements, authored(x, st.author, st.record, st.study))
			}
			err := holdings.of(uid, NodeID{}, func(author NodeID, r record, h Holding) {
				s.Holdings = append(s.Holdings, authored(x, author, r, h))
			})
			a.Studies = append(a.Studies, s)
			return true, err
		})
		a.Incomplete = !complete
		return err
	})
	return a, err
}

// Count counts what a query without Offset and Limit would answer. Not exact, it is the least there are. How many studies there are,
// and how many of a trust, it knows without looking.
func (x *Index) Count(q Query) (n int, exact bool, err error) {
	m, err := x.matcher(q)
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
		exact, err = m.each(txn, func(string, []statement, int) (bool, error) {
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
	q.Trust, q.Offset, q.Limit, q.Fuzzy = "", 0, 0, false
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

// Holders returns the nodes that have a copy of origin's study: origin first, then the newest revisions. A database that cannot be
// read is logged as such.
func (x *Index) Holders(study string, origin NodeID) []Holder {
	if checkUID(study) != nil {
		return nil
	}
	var out []Holder
	err := x.View(func(txn *badger.Txn) error {
		out = nil
		all, err := studyStatements(txn, study)
		if err != nil {
			return err
		}
		for _, st := range all {
			if st.author == origin {
				a := authored(x, st.author, st.record, st.study)
				out = append(out, Holder{Node: a.Author, Trust: a.Trust, Revision: a.Value.Revision, Instances: a.Value.Instances, Origin: true, Quarantined: a.Quarantined})
			}
		}
		holdings := newHoldings(txn)
		defer holdings.close()
		return holdings.of(study, origin, func(author NodeID, r record, h Holding) {
			if author != origin {
				a := authored(x, author, r, h)
				out = append(out, Holder{Node: author, Trust: a.Trust, Revision: h.Revision, Instances: h.Instances, Quarantined: a.Quarantined})
			}
		})
	})
	if err != nil {
		x.opt.Log.Error("the holders of a study cannot be read from the index", "error", err)
		return nil
	}
	slices.SortFunc(out, func(a, b Holder) int {
		switch {
		case a.Origin:
			return -1
		case b.Origin:
			return 1
		}
		return cmp.Or(cmp.Compare(b.Revision, a.Revision), a.Node.Compare(b.Node))
	})
	return out
}

// holdings reads holding facts with one iterator for a whole page.
type holdings struct {
	it *badger.Iterator
}

func newHoldings(txn *badger.Txn) holdings {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = append(append([]byte{tabFact}, KindHolding...), 0)
	opt.PrefetchValues = false
	return holdings{txn.NewIterator(opt)}
}

func (h holdings) close() { h.it.Close() }

// of calls fn for each copy there is now: of any origin's study, or of one origin's.
func (h holdings) of(study string, origin NodeID, fn func(author NodeID, r record, h Holding)) error {
	prefix := append(append([]byte{tabFact}, KindHolding...), 0)
	prefix = append(append(prefix, study...), '@')
	if !origin.IsZero() {
		prefix = append(append(prefix, origin.String()...), 0)
	}
	for h.it.Seek(prefix); h.it.ValidForPrefix(prefix); h.it.Next() {
		if Purged(h.it.Item()) {
			continue
		}
		k := h.it.Item().KeyCopy(nil)
		v, err := h.it.Item().ValueCopy(nil)
		if err != nil {
			return err
		}
		_, subject, author, ok := readFactKey(k)
		r, err := readRecord(v)
		if err != nil || !ok {
			return errDamaged("a holding")
		}
		held, err := decodeHolding(subject, r.body)
		if err != nil {
			return errDamaged("a holding")
		}
		if held.Instances > 0 {
			fn(author, r, held)
		}
	}
	return nil
}

// matcher is a query made ready: how a statement is compared, and where to look.
type matcher struct {
	x           *Index
	q           Query
	name        namePattern
	words       []string
	referring   namePattern
	description string
	date, birth Range
	time        Range
}

func (x *Index) matcher(q Query) (*matcher, error) {
	m := &matcher{x: x, q: q}
	switch {
	case len(q.StudyUIDs) > MaxUIDs:
		return nil, &LimitError{What: "study UIDs in a query", Got: len(q.StudyUIDs), Limit: MaxUIDs}
	case len(q.Modalities) > maxList:
		return nil, &LimitError{What: "modalities in a query", Got: len(q.Modalities), Limit: maxList}
	case q.Limit < 0 || q.Limit > MaxPage:
		return nil, &LimitError{What: "studies asked for at once", Got: q.Limit, Limit: MaxPage}
	case q.Offset < 0 || q.Offset > MaxExamined:
		return nil, &LimitError{What: "studies passed over (narrow the query instead)", Got: q.Offset, Limit: MaxExamined}
	}
	for _, t := range []string{q.PatientID, q.Issuer, q.NHS, q.Name, q.Sex, q.Accession, q.AccessionIssuer, q.Description, q.StudyID, q.Referring, q.BodyPart, string(q.Trust)} {
		if len(t) > MaxText {
			return nil, &LimitError{What: "bytes of a text in a query", Got: len(t), Limit: MaxText}
		}
		if !plain(t) {
			return nil, &MalformedError{What: "query", Why: "a text holds control characters or is not UTF-8"}
		}
	}
	var err error
	if m.date, err = dateRange("study date", q.Date); err != nil {
		return nil, err
	}
	if m.birth, err = dateRange("birth date", q.BirthDate); err != nil {
		return nil, err
	}
	if m.time, err = timeRange(q.Time); err != nil {
		return nil, err
	}
	if q.Fuzzy {
		m.words = x.fold.words(q.Name)
		if len(m.words) == 0 && strings.Trim(q.Name, "*?^= ") != "" {
			return nil, &MalformedError{What: "query", Why: "the name to search for has no letters or digits"}
		}
		if len(m.words) == 0 {
			m.q.Name = "" // any name
		}
	} else {
		m.name = x.fold.namePattern(q.Name)
	}
	m.referring = x.fold.namePattern(q.Referring)
	m.description = x.fold.pattern(q.Description)
	return m, nil
}

func dateRange(what string, r Range) (Range, error) {
	out := Range{cleanDate(r.From), cleanDate(r.To)}
	if out.From == "" && r.From != "" || out.To == "" && r.To != "" {
		return out, &MalformedError{What: what, Why: "want YYYYMMDD, or YYYYMMDD-YYYYMMDD with either end open"}
	}
	return out, nil
}

func timeRange(r Range) (Range, error) {
	out := Range{cleanTime(r.From), ""}
	if to, _, _ := strings.Cut(strings.ReplaceAll(r.To, ":", ""), "."); cleanTime(to) != "" {
		out.To = (to + "5959")[:6] // an hour ends with its last second
	}
	if out.From == "" && r.From != "" || out.To == "" && r.To != "" {
		return out, &MalformedError{What: "study time", Why: "want HH, HHMM or HHMMSS, or two with - between"}
	}
	return out, nil
}

func (r Range) set() bool { return r != Range{} }

// holds compares a cleaned date or time; what is absent is in no range.
func (r Range) holds(s string) bool {
	return s != "" && s >= r.From && (r.To == "" || s <= r.To)
}

func matchText(pattern, s string) bool { return pattern == "" || matchWild(pattern, s) }

// matches compares one statement with the whole query.
func (m *matcher) matches(st statement) bool {
	q, s := &m.q, &st.study
	switch {
	case q.Trust != "" && st.record.trust != q.Trust,
		q.NHS != "" && s.NHS != q.NHS,
		!matchText(q.Sex, s.Sex),
		!matchText(q.Accession, s.Accession),
		!matchText(q.AccessionIssuer, s.AccessionIssuer),
		!matchText(q.StudyID, s.StudyID),
		m.date.set() && !m.date.holds(cleanDate(s.Date)),
		m.birth.set() && !m.birth.holds(cleanDate(s.BirthDate)),
		m.time.set() && !m.time.holds(cleanTime(s.Time)):
		return false
	}
	if q.PatientID != "" || q.Issuer != "" {
		if !slices.ContainsFunc(s.Patient, func(p PatientID) bool {
			return matchText(q.PatientID, p.ID) && matchText(q.Issuer, p.Issuer)
		}) {
			return false
		}
	}
	if len(q.Modalities) > 0 && !slices.ContainsFunc(q.Modalities, func(p string) bool {
		return slices.ContainsFunc(s.Modalities, func(v string) bool { return matchText(p, v) })
	}) {
		return false
	}
	if q.BodyPart != "" && !slices.ContainsFunc(s.BodyParts, func(v string) bool { return matchText(q.BodyPart, v) }) {
		return false
	}
	if q.Description != "" && !matchWild(m.description, strings.TrimSpace(m.x.fold(s.Description))) {
		return false
	}
	if q.Referring != "" && !m.referring.matches(m.x.fold.canonical(s.Referring)) {
		return false
	}
	if q.Name == "" {
		return true
	}
	if !q.Fuzzy {
		return m.name.matches(m.x.fold.canonical(s.Name))
	}
	have := m.x.fold.nameWordsOf(s.Name)
	for _, w := range m.words {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.HasPrefix(h, w) }) {
			return false
		}
	}
	return true
}

// place is where a statement stands in an answer: its sort key.
func (st statement) place() string {
	return sortKey(cleanDate(st.study.Date), cleanTime(st.study.Time))
}

// examine reads a study and says whether it stands at place: at that of its newest matching statement. A study whose
// authors name different dates has rows at each; this way it is answered once.
func (m *matcher) examine(txn *badger.Txn, uid, place string) (all []statement, matching int, err error) {
	all, err = studyStatements(txn, uid)
	if err != nil {
		return nil, 0, err
	}
	newest := ""
	match := make(map[NodeID]bool, len(all))
	for _, st := range all {
		if m.matches(st) {
			match[st.author] = true
			if p := st.place(); newest == "" || p < newest {
				newest = p
			}
		}
	}
	if len(match) == 0 || place != "" && newest != place {
		return nil, 0, nil
	}
	slices.SortStableFunc(all, func(a, b statement) int {
		if match[a.author] != match[b.author] {
			if match[a.author] {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.place(), b.place())
	})
	return all, len(match), nil
}

// span is a run of keys of one table: those with prefix, from start (inclusive) to end (a prefix, inclusive).
type span struct {
	prefix, start, end []byte
}

func prefixSpan(prefix []byte) span { return span{prefix: prefix, start: prefix} }

// plan is where candidates come from: spans of one table. Ordered, the one span is in the order of answers.
type plan struct {
	spans   []span
	ordered bool
}

// dated narrows a span whose keys go on with the sort key to the dates asked for.
func (m *matcher) dated(prefix []byte) span {
	s := prefixSpan(prefix)
	if m.date.To != "" {
		s.start = append(bytes.Clone(prefix), turn(m.date.To, 8)...)
	}
	if m.date.From != "" {
		s.end = append(bytes.Clone(prefix), turn(m.date.From, 8)...)
	} else if m.date.set() {
		s.end = append(bytes.Clone(prefix), '9') // no date is no match
	}
	return s
}

// plans lists the tables that can answer, the narrow ones by nature first. The last is all studies by date.
func (m *matcher) plans() []plan {
	q := &m.q
	var out []plan
	text := func(table byte, value, qualifier string) {
		switch {
		case value == "":
		case wild(value):
			if lit := literal(value); lit != "" {
				out = append(out, plan{spans: []span{prefixSpan(append([]byte{table}, keyText(lit)...))}})
			}
		case qualifier == "" || wild(qualifier):
			out = append(out, plan{spans: []span{prefixSpan(tableKey(table, value))}})
		default:
			out = append(out, plan{spans: []span{m.dated(tableKey(table, value, qualifier))}, ordered: true})
		}
	}
	text(tabAccession, q.Accession, q.AccessionIssuer)
	if q.NHS != "" {
		out = append(out, plan{spans: []span{m.dated(tableKey(tabNHS, q.NHS))}, ordered: true})
	}
	text(tabPatient, q.PatientID, q.Issuer)
	if q.Name != "" && q.Fuzzy {
		for _, w := range m.words {
			out = append(out, plan{spans: []span{prefixSpan(append([]byte{tabWord}, keyText(w)...))}})
		}
	}
	if q.Name != "" && !q.Fuzzy && m.name.anyways {
		// Rows end where a name does: without trailing ^.
		if lit := strings.TrimRight(literal(m.name.groups[0]), "^"); lit != "" {
			out = append(out, plan{spans: []span{prefixSpan(append([]byte{tabName}, keyText(lit)...))}})
		}
	}
	if m.birth.set() {
		if m.birth.From == m.birth.To {
			out = append(out, plan{spans: []span{m.dated(tableKey(tabBirth, m.birth.From))}, ordered: true})
		} else {
			s := span{prefix: []byte{tabBirth}, start: append([]byte{tabBirth}, m.birth.From...)}
			if m.birth.To != "" {
				s.end = append([]byte{tabBirth}, m.birth.To...)
			}
			out = append(out, plan{spans: []span{s}})
		}
	}
	if len(q.Modalities) > 0 && !slices.ContainsFunc(q.Modalities, wild) {
		p := plan{ordered: len(q.Modalities) == 1}
		for _, mod := range q.Modalities {
			p.spans = append(p.spans, m.dated(tableKey(tabModality, mod)))
		}
		out = append(out, p)
	}
	if q.Trust != "" {
		out = append(out, plan{spans: []span{m.dated(tableKey(tabTrust, string(q.Trust)))}, ordered: true})
	}
	return append(out, plan{spans: []span{m.dated([]byte{tabDate})}, ordered: true})
}

// candidate is a row of a query table: a study and one place of it.
type candidate struct{ place, uid string }

// keys calls fn with the candidates of a span.
func (s span) keys(txn *badger.Txn, fn func(candidate) (bool, error)) error {
	return scan(txn, s.prefix, s.start, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
		if s.end != nil && bytes.Compare(k, s.end) > 0 && !bytes.HasPrefix(k, s.end) {
			return false, nil
		}
		// The sort key begins after the last zero byte: neither it nor a UID holds one. In the date table, after the table byte.
		i := bytes.LastIndexByte(k, 0) + 1
		if i == 0 {
			i = 1
		}
		if len(k) < i+sortSize+1 {
			return false, errDamaged("a query table")
		}
		return fn(candidate{string(k[i : i+sortSize]), string(k[i+sortSize:])})
	})
}

// choose picks the narrowest plan: it counts up to probe keys of each.
func (m *matcher) choose(txn *badger.Txn) (plan, error) {
	plans := m.plans()
	best, least := plans[0], probe
	for _, p := range plans {
		n := 0
		for _, s := range p.spans {
			err := s.keys(txn, func(candidate) (bool, error) {
				n++
				return n < least, nil
			})
			if err != nil {
				return best, err
			}
		}
		if n < least {
			best, least = p, n
		}
		if least <= probe/8 {
			break
		}
	}
	return best, nil
}

// each calls fn with every study that matches, in the order of answers. complete says that the search was not given up.
func (m *matcher) each(txn *badger.Txn, fn func(uid string, all []statement, matching int) (more bool, err error)) (complete bool, err error) {
	examined := 0
	visit := func(c candidate) (bool, error) {
		if examined++; examined > MaxExamined {
			complete = false
			return false, nil
		}
		all, matching, err := m.examine(txn, c.uid, c.place)
		if err != nil || matching == 0 {
			return err == nil, err
		}
		return fn(c.uid, all, matching)
	}
	complete = true
	if len(m.q.StudyUIDs) > 0 {
		found, err := m.listed(txn)
		if err != nil {
			return false, err
		}
		err = inOrder(found, visit)
		return complete, err
	}
	p, err := m.choose(txn)
	if err != nil {
		return false, err
	}
	if !p.ordered {
		found, all, err := collect(txn, p, maxCandidates)
		if err != nil {
			return false, err
		}
		if all {
			if found, err = m.narrow(txn, p, found, probe); err != nil {
				return false, err
			}
			err = inOrder(found, visit)
			return complete, err
		}
		// Too many to sort: go through all studies by date instead.
		p = m.plans()[len(m.plans())-1]
	}
	err = p.spans[0].keys(txn, visit)
	return complete, err
}

// listed finds the places of the studies asked for by UID.
func (m *matcher) listed(txn *badger.Txn) ([]candidate, error) {
	var found []candidate
	for _, uid := range m.q.StudyUIDs {
		if checkUID(uid) != nil {
			continue // names no study
		}
		all, matching, err := m.examine(txn, uid, "")
		if err != nil {
			return nil, err
		}
		if matching > 0 {
			found = append(found, candidate{all[0].place(), uid})
		}
	}
	return found, nil
}

// narrow keeps the candidates that other plans have too. A statement stands at the same place in every table, so one that matches is in
// all of them; and reading keys costs a tenth of reading records. It stops when few enough are left.
func (m *matcher) narrow(txn *badger.Txn, from plan, found []candidate, enough int) ([]candidate, error) {
	plans := m.plans()
	for _, p := range plans[:len(plans)-1] {
		if len(found) <= enough {
			break
		}
		if reflect.DeepEqual(p, from) {
			continue
		}
		other, all, err := collect(txn, p, 8*len(found))
		if err != nil {
			return nil, err
		}
		if !all {
			continue
		}
		in := make(map[candidate]bool, len(other))
		for _, c := range other {
			in[c] = true
		}
		found = slices.DeleteFunc(found, func(c candidate) bool { return !in[c] })
	}
	return found, nil
}

// collect reads the candidates of a plan; all is false when there are more than limit.
func collect(txn *badger.Txn, p plan, limit int) (found []candidate, all bool, err error) {
	all = true
	for _, s := range p.spans {
		err := s.keys(txn, func(c candidate) (bool, error) {
			if len(found) == limit {
				all = false
				return false, nil
			}
			found = append(found, c)
			return true, nil
		})
		if err != nil || !all {
			return nil, all, err
		}
	}
	return found, true, nil
}

func inOrder(found []candidate, visit func(candidate) (bool, error)) error {
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.uid, b.uid))
	})
	for _, c := range slices.Compact(found) {
		more, err := visit(c)
		if err != nil || !more {
			return err
		}
	}
	return nil
}
