package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// First bytes of the keys in Badger; doc.go describes each layout.
const (
	tabMeta    = 0x01
	tabRun     = 0x02
	tabAuthor  = 0x03
	tabLog     = 0x04
	tabFork    = 0x05
	tabHole    = 0x06
	tabVote    = 0x07
	tabFact    = 0x08
	tabStudy   = 0x09
	tabCount   = 0x0a
	tabHolding = 0x0b
	tabPerson  = 0x0c
	tabPart    = 0x0d

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
	tabOf      = 0x1d

	tabBlock    = 0x23
	tabPage     = 0x24
	tabSnapshot = 0x25
	tabSheet    = 0x26
	tabStale    = 0x27
)

// maxKeyText is how much of a text goes into a key. What a key finds is compared with the record, so a cut hides nothing.
const maxKeyText = 64

// authorNo is this database's number for a node whose log is in it.
type authorNo uint16

// studyKey and personKey stand for a study UID and for what is said of a patient. They are hashes keyed with a secret of this
// database: nobody can choose a UID that meets another's. That of a person has the beginning of the name before the hash: of the studies
// of a week it tells which may be of a name, and persons of like names lie together.
type (
	studyKey  [8]byte
	personKey [nameHeadSize + 8]byte
)

func (x *Index) hash8(what byte, b []byte) (k [8]byte) {
	h := sha256.New()
	h.Write(x.secret[:])
	h.Write([]byte{what})
	h.Write(b)
	copy(k[:], h.Sum(nil))
	return k
}

func (x *Index) studyKey(uid string) studyKey {
	if x.meet {
		return studyKey{}
	}
	return x.hash8('s', []byte(uid))
}

func authorKey(table byte, no authorNo) []byte {
	return binary.BigEndian.AppendUint16([]byte{table}, uint16(no))
}

func epochKey(table byte, no authorNo, epoch Epoch) []byte {
	return append(authorKey(table, no), byte(epoch))
}

// logKey is a position in a log: 1 byte of the epoch, 7 of the number.
func logKey(table byte, no authorNo, p Position) []byte {
	return p.append(authorKey(table, no))
}

// voteKey tells votes apart by all of what they are: those of the author's own trust first, by serial.
func voteKey(no authorNo, own bool, v Vote) []byte {
	k := append(authorKey(tabVote, no), 1)
	if own {
		k[len(k)-1] = 0
	}
	h := sha256.Sum256(v.Encode())
	return append(binary.BigEndian.AppendUint32(k, uint32(v.Serial)), h[:]...)
}

func keyPosition(k []byte) Position {
	v := binary.BigEndian.Uint64(k[len(k)-positionSize:])
	return Position{Epoch(v >> 56), Seq(v) & maxPosition}
}

// factPrefix is the key of all facts about a subject; the author's number completes it.
func factPrefix(kind Kind, subject string) []byte {
	k := make([]byte, 0, 3+len(kind)+len(subject)+2)
	k = append(append(append(k, tabFact), kind...), 0)
	return append(append(k, subject...), 0)
}

func factKey(kind Kind, subject string, author authorNo) []byte {
	return binary.BigEndian.AppendUint16(factPrefix(kind, subject), uint16(author))
}

func readFactKey(k []byte) (kind Kind, subject string, author authorNo, ok bool) {
	if len(k) < 1+2+2 {
		return "", "", 0, false
	}
	head, tail := k[1:len(k)-2], k[len(k)-2:]
	parts := bytes.Split(head, []byte{0})
	if len(parts) != 3 || len(parts[2]) != 0 {
		return "", "", 0, false
	}
	return Kind(parts[0]), string(parts[1]), authorNo(binary.BigEndian.Uint16(tail)), true
}

// loc says where a fact lies: its position, and the last position of the part, or of the block, that holds it.
type loc struct {
	Position
	last  Seq
	block bool
}

func (l loc) append(b []byte) []byte {
	b = append(b, byte(l.Epoch))
	b = binary.AppendUvarint(b, uint64(l.Seq))
	d := uint64(l.last - l.Seq)
	if l.block {
		d += partSize
	}
	return binary.AppendUvarint(b, d)
}

// fields reads what the rows of this package hold, one after the other; what is cut off makes it bad.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) byte() byte {
	if len(f.b) < 1 {
		f.bad = true
		return 0
	}
	v := f.b[0]
	f.b = f.b[1:]
	return v
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.bad, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

// take returns the next n bytes.
func (f *fields) take(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.bad, f.b = true, nil
		return nil
	}
	v := f.b[:n:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) loc() loc {
	l := loc{Position: Position{Epoch: Epoch(f.byte()), Seq: Seq(f.uvarint())}}
	d := f.uvarint()
	if l.block = d >= partSize; l.block {
		d -= partSize
	}
	if d >= partSize {
		f.bad = true
	}
	l.last = l.Seq + Seq(d)
	return l
}

func (f *fields) author() authorNo {
	b := f.take(2)
	if f.bad {
		return 0
	}
	return authorNo(binary.BigEndian.Uint16(b))
}

// maxInline is how long a body may be that lies in the fact table too; longer ones are read from their run.
const maxInline = 512

// record is a current fact as the fact table holds it.
type record struct {
	at    loc
	trust TrustID // the author's when the fact was accepted; "" says the one of the author row
	long  bool    // the body is in the run only
	body  []byte
}

func (r record) encode() []byte {
	v := appendTrust(r.at.append(make([]byte, 0, 24+len(r.trust)+len(r.body))), r.trust)
	if len(r.body) > maxInline {
		return append(v, 1)
	}
	return append(append(v, 0), r.body...)
}

func readRecord(v []byte) (record, error) {
	f := fields{b: v}
	r := record{at: f.loc(), trust: f.trust()}
	r.long = f.byte() == 1
	r.body = f.b
	if f.bad {
		return record{}, errDamaged("a fact")
	}
	return r, nil
}

func appendTrust(b []byte, t TrustID) []byte {
	return append(append(b, byte(len(t))), t...)
}

func (f *fields) trust() TrustID { return TrustID(f.take(uint64(f.byte()))) }

// older says whether a fact at p replaces one that is at l.
func (l loc) older(p Position) bool { return l.Position.compare(p) < 0 }

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

// when is a study's date and time turned round, so that rows in ascending order are studies newest first: 99999999 less the date in
// four bytes, 999999 less the time in three. What is absent is all ones and comes last.
type when [whenSize]byte

const whenSize = 7

const absentDate = 1<<32 - 1

func dateBytes(date string) uint32 {
	n, err := strconv.ParseUint(date, 10, 32)
	if err != nil || len(date) != 8 {
		return absentDate
	}
	return uint32(99999999 - n)
}

func whenOf(date, time string) (w when) {
	binary.BigEndian.PutUint32(w[:], dateBytes(date))
	t := uint32(1<<24 - 1)
	if n, err := strconv.ParseUint(time, 10, 32); err == nil && len(time) == 6 {
		t = uint32(999999 - n)
	}
	w[4], w[5], w[6] = byte(t>>16), byte(t>>8), byte(t)
	return w
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
