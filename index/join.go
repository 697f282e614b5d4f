package index

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// The join of what is said of studies: which rows a statement leaves, and how they change when its author says something else.

// person is what a study says of its patient. Studies that say the very same share one, and names, identifiers and birth dates are
// looked up by person: a patient has many studies and few names.
type person struct {
	Patient   []PatientID `cbor:"1,keyasint,omitempty"`
	NHS       string      `cbor:"2,keyasint,omitempty"`
	Name      string      `cbor:"3,keyasint,omitempty"`
	BirthDate string      `cbor:"4,keyasint,omitempty"`
	Sex       string      `cbor:"5,keyasint,omitempty"`
}

func (s Study) person() person {
	return person{Patient: s.Patient, NHS: s.NHS, Name: s.Name, BirthDate: s.BirthDate, Sex: s.Sex}
}

func (x *Index) personKey(p person) (k personKey) {
	head, hash := x.fold.head(p.Name), x.hash8('p', encode(p))
	copy(k[copy(k[:], head[:]):], hash[:])
	return k
}

func personRow(k personKey) []byte { return append([]byte{tabPerson}, k[:]...) }

// ref names a statement: a study and who says it.
type ref struct {
	study  studyKey
	author authorNo
}

// placed is a statement and where its study stands among others.
type placed struct {
	when when
	ref
}

const placedSize = whenSize + 8 + 2

func (p placed) append(b []byte) []byte {
	return binary.BigEndian.AppendUint16(append(append(b, p.when[:]...), p.study[:]...), uint16(p.author))
}

func readPlaced(k []byte) (p placed) {
	k = k[len(k)-placedSize:]
	copy(p.when[:], k)
	copy(p.study[:], k[whenSize:])
	p.author = authorNo(binary.BigEndian.Uint16(k[whenSize+8:]))
	return p
}

func (p placed) compare(o placed) int {
	var a, b [placedSize]byte
	return bytes.Compare(p.append(a[:0]), o.append(b[:0]))
}

func (s Study) when() when { return whenOf(cleanDate(s.Date), cleanTime(s.Time)) }

// rows lists the rows of the query tables that find one author's statement of a study.
func (x *Index) rows(s Study, author authorNo, trust TrustID) (rows []row, person person, pk personKey) {
	person = s.person()
	pk = x.personKey(person)
	at := placed{s.when(), ref{x.studyKey(s.UID), author}}
	add := func(prefix, value []byte) { rows = append(rows, row{at.append(prefix), value}) }
	add([]byte{tabDate}, pk[:])
	add(append([]byte{tabOf}, pk[:]...), nil)
	if s.Accession != "" {
		add(tableKey(tabAccession, s.Accession, s.AccessionIssuer), nil)
	}
	for _, m := range s.Modalities {
		add(tableKey(tabModality, m), nil)
	}
	add(tableKey(tabTrust, string(trust)), nil)
	return rows, person, pk
}

// personRows lists the rows that find a person.
func (x *Index) personRows(p person, k personKey) (keys [][]byte) {
	add := func(prefix []byte) { keys = append(keys, slices.Concat(prefix, k[:])) }
	for _, id := range p.Patient {
		add(tableKey(tabPatient, id.ID, id.Issuer))
	}
	if p.NHS != "" {
		add(tableKey(tabNHS, p.NHS))
	}
	for _, g := range x.fold.canonical(p.Name) {
		if g != "" {
			add(tableKey(tabName, g))
		}
	}
	words := x.fold.nameWordsOf(p.Name)
	for _, w := range words[:min(len(words), nameWords)] {
		add(tableKey(tabWord, w))
	}
	if len(words) > nameWords {
		add(manyWords)
	}
	if d := cleanDate(p.BirthDate); d != "" {
		add(tableKey(tabBirth, d))
	}
	return keys
}

// manyWords begins the rows of persons whose names have more words than have rows: whoever looks for a word looks at these too.
var manyWords = tableKey(tabWord, "")

// said is where one author's current statement of a study lies.
type said struct {
	author authorNo
	at     loc
	trust  TrustID // when it is not that of the author row
}

func studyRow(k studyKey) []byte { return append([]byte{tabStudy}, k[:]...) }

func readSaid(v []byte) (out []said, err error) {
	f := fields{b: v}
	for len(f.b) > 0 {
		out = append(out, said{author: f.author(), at: f.loc(), trust: f.trust()})
	}
	if f.bad {
		return nil, errDamaged("a study")
	}
	return out, nil
}

func encodeSaid(list []said) []byte {
	var b []byte
	for _, s := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(s.author))
		b = appendTrust(s.at.append(b), s.trust)
	}
	return b
}

func saidOf(txn *badger.Txn, k studyKey) ([]said, error) {
	v, ok, err := get(txn, studyRow(k))
	if err != nil || !ok {
		return nil, err
	}
	return readSaid(v)
}

// statement is one author's current word on a study.
type statement struct {
	no     authorNo
	author NodeID
	trust  TrustID
	at     loc
	study  Study
}

func (c *runCache) study(s said) (Study, error) {
	st, err := c.statement(s.author, s.at)
	if err != nil {
		return Study{}, err
	}
	study, err := decodeStudy(st.Subject, st.Body)
	if err != nil {
		return Study{}, errDamaged("a study's statement")
	}
	return study, nil
}

// statements reads what each author says of the studies under a key: of one study, but for a meeting of hashes.
func (c *runCache) statements(k studyKey) ([]statement, error) {
	list, err := saidOf(c.txn, k)
	if err != nil {
		return nil, err
	}
	out := make([]statement, 0, len(list))
	for _, s := range list {
		a, err := c.x.author(c.txn, s.author)
		if err != nil {
			return nil, err
		}
		st := statement{no: s.author, author: a.node, trust: s.trust, at: s.at}
		if st.trust == "" {
			st.trust = a.trust
		}
		if st.study, err = c.study(s); err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

// studyStatements reads what each author says of a study, sorted by author.
func (c *runCache) studyStatements(uid string) ([]statement, error) {
	all, err := c.statements(c.x.studyKey(uid))
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(st statement) bool { return st.study.UID != uid })
	slices.SortFunc(all, func(a, b statement) int { return a.author.Compare(b.author) })
	return all, nil
}

// errMet says that two UIDs of one author have the same key: once in ten thousand regions, or less.
var errMet = &MalformedError{What: "study", Why: "its UID and another's have the same hash here"}

// applyStudy brings the query tables from what an author said of a study to what it says now.
func (w *writing) applyStudy(a author, at loc, trust TrustID, s Study) error {
	key := w.x.studyKey(s.UID)
	list, err := saidOf(w.txn, key)
	if err != nil {
		return err
	}
	var old []row
	var oldPerson person
	var oldKey personKey
	i := slices.IndexFunc(list, func(o said) bool { return o.author == a.no })
	if i >= 0 {
		if !list[i].at.older(at.Position) {
			return nil
		}
		before, err := w.read.study(list[i])
		if err != nil {
			return err
		}
		if before.UID != s.UID {
			return errMet
		}
		old, oldPerson, oldKey = w.x.rows(before, a.no, list[i].of(a))
	}
	now, person, pk := w.x.rows(s, a.no, trust)
	for _, o := range old {
		if !slices.ContainsFunc(now, func(n row) bool { return bytes.Equal(n.key, o.key) }) {
			if err := w.delete(o.key); err != nil {
				return err
			}
		}
	}
	for _, n := range now {
		if !slices.ContainsFunc(old, func(o row) bool { return bytes.Equal(n.key, o.key) && bytes.Equal(n.value, o.value) }) {
			if err := w.set(n.key, n.value); err != nil {
				return err
			}
		}
	}
	if i < 0 || pk != oldKey {
		if err := w.addPerson(person, pk); err != nil {
			return err
		}
	}
	if i >= 0 && pk != oldKey {
		if err := w.dropPerson(oldPerson, oldKey); err != nil {
			return err
		}
	}
	was := TrustID("")
	entry := said{author: a.no, at: at}
	if trust != a.trust {
		entry.trust = trust
	}
	if i >= 0 {
		was = list[i].of(a)
		list[i] = entry
	} else {
		list = append(list, entry)
		slices.SortFunc(list, func(x, y said) int { return int(x.author) - int(y.author) })
	}
	if err := w.recount(list, a.no, len(list) == 1 && i < 0, was, trust); err != nil {
		return err
	}
	return w.set(studyRow(key), encodeSaid(list))
}

func (s said) of(a author) TrustID {
	if s.trust != "" {
		return s.trust
	}
	return a.trust
}

// recount keeps the numbers of studies: of all, and of each trust. list is without, or beside, the entry of the author in question.
func (w *writing) recount(list []said, no authorNo, first bool, was, now TrustID) error {
	if first {
		if err := w.count("", 1); err != nil {
			return err
		}
	}
	if was == now {
		return nil
	}
	others := func(t TrustID) (bool, error) {
		for _, s := range list {
			if s.author == no {
				continue
			}
			a, err := w.author(s.author)
			if err != nil || s.of(a) == t {
				return err == nil, err
			}
		}
		return false, nil
	}
	for _, c := range []struct {
		trust TrustID
		by    int
	}{{was, -1}, {now, 1}} {
		if c.trust == "" {
			continue
		}
		if also, err := others(c.trust); err != nil || also {
			if err != nil {
				return err
			}
			continue
		}
		if err := w.count(c.trust, c.by); err != nil {
			return err
		}
	}
	return nil
}

func (w *writing) addPerson(p person, k personKey) error {
	if have, err := w.has(personRow(k)); err != nil || have {
		return err
	}
	if err := w.set(personRow(k), encode(p)); err != nil {
		return err
	}
	if err := w.count(countPersons, 1); err != nil {
		return err
	}
	for _, row := range w.x.personRows(p, k) {
		if err := w.set(row, nil); err != nil {
			return err
		}
	}
	return nil
}

// dropPerson removes a person of whom no study speaks any more.
func (w *writing) dropPerson(p person, k personKey) error {
	used := false
	prefix := append([]byte{tabOf}, k[:]...)
	if err := scan(w.txn, prefix, prefix, false, func([]byte, func() ([]byte, error)) (bool, error) {
		used = true
		return false, nil
	}); err != nil || used {
		return err
	}
	if err := w.count(countPersons, -1); err != nil {
		return err
	}
	for _, row := range append(w.x.personRows(p, k), personRow(k)) {
		if err := w.delete(row); err != nil {
			return err
		}
	}
	return nil
}

// removeStudy takes an author's statement of a study out of the tables, if it was said up to a position.
func (w *writing) removeStudy(a author, uid string, through Position) (at loc, removed bool, err error) {
	key := w.x.studyKey(uid)
	list, err := saidOf(w.txn, key)
	if err != nil {
		return loc{}, false, err
	}
	i := slices.IndexFunc(list, func(o said) bool { return o.author == a.no })
	if i < 0 || list[i].at.Position.compare(through) > 0 {
		return loc{}, false, nil
	}
	entry := list[i]
	s, err := w.read.study(entry)
	if err != nil || s.UID != uid {
		return loc{}, false, err
	}
	rows, person, pk := w.x.rows(s, a.no, entry.of(a))
	for _, r := range rows {
		if err := w.delete(r.key); err != nil {
			return loc{}, false, err
		}
	}
	if err := w.dropPerson(person, pk); err != nil {
		return loc{}, false, err
	}
	list = slices.Delete(list, i, i+1)
	if err := w.recount(list, a.no, false, entry.of(a), ""); err != nil {
		return loc{}, false, err
	}
	if len(list) > 0 {
		return entry.at, true, w.set(studyRow(key), encodeSaid(list))
	}
	if err := w.count("", -1); err != nil {
		return loc{}, false, err
	}
	return entry.at, true, w.delete(studyRow(key))
}

// countPersons is the row of how many persons there are.
const countPersons = "\x00"

// count adds to the number of studies of a trust, or of all ("").
func (w *writing) count(t TrustID, by int) error {
	n, err := readCount(w.txn, t)
	if err != nil {
		return err
	}
	if n+by <= 0 {
		return w.delete(append([]byte{tabCount}, t...))
	}
	return w.set(append([]byte{tabCount}, t...), binary.BigEndian.AppendUint64(nil, uint64(n+by)))
}

func readCount(txn *badger.Txn, t TrustID) (int, error) {
	v, ok, err := get(txn, append([]byte{tabCount}, t...))
	if err != nil || !ok {
		return 0, err
	}
	if len(v) != 8 {
		return 0, errDamaged("a count")
	}
	return int(binary.BigEndian.Uint64(v)), nil
}

// Holdings: one row for each study, holder and origin.

func holdingKey(k studyKey, holder authorNo, origin NodeID) []byte {
	b := append([]byte{tabHolding}, k[:]...)
	return append(binary.BigEndian.AppendUint16(b, uint16(holder)), origin[:]...)
}

const holdingKeySize = 1 + 8 + 2 + 32

// copyRow is a row of the holding table.
type copyRow struct {
	at        loc
	trust     TrustID
	revision  uint64
	instances int
}

func (h copyRow) encode() []byte {
	b := appendTrust(h.at.append(nil), h.trust)
	return binary.AppendUvarint(binary.AppendUvarint(b, h.revision), uint64(h.instances))
}

func readCopy(v []byte) (copyRow, error) {
	f := fields{b: v}
	h := copyRow{at: f.loc(), trust: f.trust(), revision: f.uvarint(), instances: int(f.uvarint())}
	if f.bad || len(f.b) != 0 || h.instances < 0 {
		return h, errDamaged("a holding")
	}
	return h, nil
}

func (w *writing) applyHolding(a author, at loc, trust TrustID, h Holding) error {
	key := holdingKey(w.x.studyKey(h.Study), a.no, h.Origin)
	v, ok, err := get(w.txn, key)
	if err != nil {
		return err
	}
	if ok {
		before, err := readCopy(v)
		if err != nil || !before.at.older(at.Position) {
			return err
		}
	}
	row := copyRow{at: at, revision: h.Revision, instances: h.Instances}
	if trust != a.trust {
		row.trust = trust
	}
	return w.set(key, row.encode())
}

// removeHolding takes an author's word about a copy out of the table, if it was said up to a position.
func (w *writing) removeHolding(a author, h Holding, through Position) (at loc, removed bool, err error) {
	key := holdingKey(w.x.studyKey(h.Study), a.no, h.Origin)
	v, ok, err := get(w.txn, key)
	if err != nil || !ok {
		return loc{}, false, err
	}
	before, err := readCopy(v)
	if err != nil || before.at.Position.compare(through) > 0 {
		return loc{}, false, err
	}
	return before.at, true, w.delete(key)
}
