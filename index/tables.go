package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// First bytes of the keys in Badger; doc.go describes each layout.
const (
	tabMeta    = 0x01
	tabBatch   = 0x02
	tabPayload = 0x03
	tabLog     = 0x04
	tabFork    = 0x05
	tabHole    = 0x06
	tabVote    = 0x07
	tabFact    = 0x08
	tabStudy   = 0x09
	tabCount   = 0x0a

	tabPatient   = 0x10
	tabNHS       = 0x11
	tabName      = 0x12
	tabWord      = 0x13
	tabBirth     = 0x14
	tabDate      = 0x15
	tabAccession = 0x16
	tabModality  = 0x17
	tabTrust     = 0x18

	tabDropped = 0x19
	tabRetract = 0x1a
	tabDoomed  = 0x1b
	tabSaved   = 0x1c
)

// maxKeyText is how much of a text goes into a key. What a key finds is compared with the record, so a cut hides nothing.
const maxKeyText = 64

func logPrefix(table byte, l logID) []byte {
	k := append([]byte{table}, l.Node[:]...)
	return binary.BigEndian.AppendUint64(k, uint64(l.Epoch))
}

func logKey(table byte, l logID, seq Seq) []byte {
	return binary.BigEndian.AppendUint64(logPrefix(table, l), uint64(seq))
}

func keySeq(k []byte) Seq { return Seq(binary.BigEndian.Uint64(k[len(k)-8:])) }

// factPrefix is the key of all facts about a subject; the author's 32 bytes complete it.
func factPrefix(kind Kind, subject string) []byte {
	k := make([]byte, 0, 3+len(kind)+len(subject)+32)
	k = append(append(append(k, tabFact), kind...), 0)
	return append(append(k, subject...), 0)
}

func factKey(kind Kind, subject string, author NodeID) []byte {
	return append(factPrefix(kind, subject), author[:]...)
}

func readFactKey(k []byte) (kind Kind, subject string, author NodeID, ok bool) {
	if len(k) < 1+2+32 {
		return "", "", NodeID{}, false
	}
	head, tail := k[1:len(k)-32], k[len(k)-32:]
	parts := bytes.Split(head, []byte{0})
	if len(parts) != 3 {
		return "", "", NodeID{}, false
	}
	return Kind(parts[0]), string(parts[1]), NodeID(tail), true
}

// record is a current fact as the fact table holds it.
type record struct {
	epoch Epoch
	seq   Seq
	trust TrustID
	body  []byte
}

func (r record) encode() []byte {
	v := binary.BigEndian.AppendUint64(make([]byte, 0, 17+len(r.trust)+len(r.body)), uint64(r.epoch))
	v = binary.BigEndian.AppendUint64(v, uint64(r.seq))
	v = append(append(v, byte(len(r.trust))), r.trust...)
	return append(v, r.body...)
}

func readRecord(v []byte) (record, error) {
	if len(v) < 17 || len(v) < 17+int(v[16]) {
		return record{}, errDamaged("a fact")
	}
	n := 17 + int(v[16])
	return record{
		epoch: Epoch(binary.BigEndian.Uint64(v)), seq: Seq(binary.BigEndian.Uint64(v[8:])),
		trust: TrustID(v[17:n]), body: v[n:],
	}, nil
}

// older says whether a fact at (epoch, seq) replaces r.
func (r record) older(epoch Epoch, seq Seq) bool {
	return r.epoch < epoch || r.epoch == epoch && r.seq < seq
}

// DamagedError says that a row of the database does not hold what this package wrote there.
type DamagedError struct{ What string }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the index database is damaged at %s: restore it from backup, or remove it and let the peers fill it again", e.What)
}

func errDamaged(what string) error { return &DamagedError{What: what} }

// get returns a copy of a row, or ok false.
func get(txn *badger.Txn, key []byte) (v []byte, ok bool, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) || err == nil && Purged(item) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	v, err = item.ValueCopy(nil)
	return v, err == nil, err
}

// scan calls fn with every key from start on that begins with prefix, until fn says stop. Keys are valid during the call only;
// value reads the row.
func scan(txn *badger.Txn, prefix, start []byte, values bool, fn func(k []byte, value func() ([]byte, error)) (more bool, err error)) error {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = prefix
	opt.PrefetchValues = values
	opt.PrefetchSize = 64
	it := txn.NewIterator(opt)
	defer it.Close()
	for it.Seek(start); it.ValidForPrefix(prefix); it.Next() {
		item := it.Item()
		if Purged(item) {
			continue
		}
		more, err := fn(item.Key(), func() ([]byte, error) { return item.ValueCopy(nil) })
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func keyText(s string) string {
	if len(s) > maxKeyText {
		return s[:maxKeyText]
	}
	return s
}

// sortKey turns a study's date and time round, so that keys in ascending order are studies newest first. A digit d
// becomes 9-d; what is absent becomes ~ and comes last.
func sortKey(date, time string) string {
	return turn(date, 8) + turn(time, 6)
}

const sortSize = 14

func turn(digits string, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = '~'
		if i < len(digits) {
			b[i] = '0' + '9' - digits[i]
		}
	}
	return string(b)
}

// cleanDate returns the eight digits of a date, or "" when it is none.
func cleanDate(s string) string {
	if s = strings.ReplaceAll(strings.TrimSpace(s), ".", ""); len(s) != 8 || !digits(s) {
		return ""
	}
	return s
}

// cleanTime returns the six digits of a time, the minutes and seconds it does not say as zero, or "".
func cleanTime(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), ".")
	s = strings.ReplaceAll(s, ":", "")
	if len(s) < 2 || len(s) > 6 || len(s)%2 == 1 || !digits(s) {
		return ""
	}
	return (s + "0000")[:6]
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// tableKey builds a key of a query table: the table, each part with a zero byte after it.
func tableKey(table byte, parts ...string) []byte {
	k := []byte{table}
	for _, p := range parts {
		k = append(append(k, keyText(p)...), 0)
	}
	return k
}

// studyKeys lists the rows of the query tables that find one author's statement of a study.
func studyKeys(fold folder, s Study, trust TrustID) [][]byte {
	sort := sortKey(cleanDate(s.Date), cleanTime(s.Time))
	var keys [][]byte
	add := func(prefix []byte) { keys = append(keys, append(append(prefix, sort...), s.UID...)) }
	for _, p := range s.Patient {
		add(tableKey(tabPatient, p.ID, p.Issuer))
	}
	if s.NHS != "" {
		add(tableKey(tabNHS, s.NHS))
	}
	for _, g := range fold.canonical(s.Name) {
		if g != "" {
			add(tableKey(tabName, g))
		}
	}
	for _, w := range fold.nameWordsOf(s.Name) {
		add(tableKey(tabWord, w))
	}
	if d := cleanDate(s.BirthDate); d != "" {
		add(tableKey(tabBirth, d))
	}
	add([]byte{tabDate})
	if s.Accession != "" {
		add(tableKey(tabAccession, s.Accession, s.AccessionIssuer))
	}
	for _, m := range s.Modalities {
		add(tableKey(tabModality, m))
	}
	add(tableKey(tabTrust, string(trust)))
	return keys
}

// studyAuthors reads who says something of a study.
func studyAuthors(txn *badger.Txn, uid string) ([]NodeID, error) {
	v, ok, err := get(txn, append([]byte{tabStudy}, uid...))
	if err != nil || !ok {
		return nil, err
	}
	if len(v)%32 != 0 {
		return nil, errDamaged("the authors of a study")
	}
	out := make([]NodeID, 0, len(v)/32)
	for ; len(v) > 0; v = v[32:] {
		out = append(out, NodeID(v[:32]))
	}
	return out, nil
}

// statement is one author's current word on a study.
type statement struct {
	author NodeID
	record record
	study  Study
}

// studyStatements reads what each author says of a study, sorted by author.
func studyStatements(txn *badger.Txn, uid string) ([]statement, error) {
	authors, err := studyAuthors(txn, uid)
	if err != nil {
		return nil, err
	}
	out := make([]statement, 0, len(authors))
	for _, a := range authors {
		v, ok, err := get(txn, factKey(KindStudy, uid, a))
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, errDamaged("a study's statement")
		}
		st := statement{author: a}
		if st.record, err = readRecord(v); err != nil {
			return nil, err
		}
		if st.study, err = decodeStudy(uid, st.record.body); err != nil {
			return nil, errDamaged("a study's statement")
		}
		out = append(out, st)
	}
	return out, nil
}

// applyStudy brings the query tables from what was said of a study to what is said now.
func (w *writing) applyStudy(author NodeID, trust TrustID, s Study) error {
	fold := w.x.fold
	before, err := studyStatements(w.txn, s.UID)
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, k := range studyKeys(fold, s, trust) {
		want[string(k)] = true
	}
	keep := map[string]bool{}
	var old [][]byte
	authors := make([]NodeID, 0, len(before)+1)
	var was TrustID // the author's when it last spoke; what other trusts speak of the study does not change
	others := map[TrustID]bool{}
	for _, st := range before {
		keys := studyKeys(fold, st.study, st.record.trust)
		if st.author == author {
			old, was = keys, st.record.trust
			continue
		}
		authors = append(authors, st.author)
		others[st.record.trust] = true
		for _, k := range keys {
			keep[string(k)] = true
		}
	}
	for _, k := range old {
		if !want[string(k)] && !keep[string(k)] {
			if err := w.delete(k); err != nil {
				return err
			}
		}
		keep[string(k)] = true // stands already, or has just been removed
	}
	for k := range want {
		if !keep[k] {
			if err := w.set([]byte(k), nil); err != nil {
				return err
			}
		}
	}
	if trust != was {
		if was != "" && !others[was] {
			err = w.count(was, -1)
		}
		if err == nil && !others[trust] {
			err = w.count(trust, 1)
		}
		if err == nil && len(before) == 0 {
			err = w.count("", 1)
		}
		if err != nil {
			return err
		}
	}
	if old != nil {
		return nil
	}
	return w.authors(s.UID, append(authors, author))
}

// authors writes who says something of a study.
func (w *writing) authors(uid string, authors []NodeID) error {
	key := append([]byte{tabStudy}, uid...)
	if len(authors) == 0 {
		return w.delete(key)
	}
	slices.SortFunc(authors, NodeID.Compare)
	var row bytes.Buffer
	for _, a := range authors {
		row.Write(a[:])
	}
	return w.set(key, row.Bytes())
}

// removeStudy takes an author's statement of a study out of the query tables. The statement itself is still there.
func (w *writing) removeStudy(author NodeID, uid string) error {
	before, err := studyStatements(w.txn, uid)
	if err != nil {
		return err
	}
	var gone [][]byte
	var was TrustID
	var authors []NodeID
	keep, others := map[string]bool{}, map[TrustID]bool{}
	for _, st := range before {
		keys := studyKeys(w.x.fold, st.study, st.record.trust)
		if st.author == author {
			gone, was = keys, st.record.trust
			continue
		}
		authors = append(authors, st.author)
		others[st.record.trust] = true
		for _, k := range keys {
			keep[string(k)] = true
		}
	}
	if gone == nil {
		return nil
	}
	for _, k := range gone {
		if !keep[string(k)] {
			if err := w.delete(k); err != nil {
				return err
			}
		}
	}
	if !others[was] {
		err = w.count(was, -1)
	}
	if err == nil && len(authors) == 0 {
		err = w.count("", -1)
	}
	if err != nil {
		return err
	}
	return w.authors(uid, authors)
}

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

// factEntries bounds the rows one fact may write: what studyKeys lists for the
// old statement and for the new, or what a retraction names, and a few for the log.
const factEntries = 2*(2*maxList+nameWords+nameGroups+6) + 3*MaxRetracted + 12
