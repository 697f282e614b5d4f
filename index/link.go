package index

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Identifier names a patient: an ID with who issued it, or an NHS number.
type Identifier struct {
	ID     string `cbor:"1,keyasint,omitempty"`
	Issuer string `cbor:"2,keyasint,omitempty"`
	NHS    string `cbor:"3,keyasint,omitempty"` // ten digits; then the others are empty
}

// text is an identifier's one form: what is hashed, and what it is sorted by. No text in it holds a zero byte.
func (i Identifier) text() string {
	if i.NHS != "" {
		return "nhs\x00" + i.NHS
	}
	return "id\x00" + i.Issuer + "\x00" + i.ID
}

// compare orders identifiers as their texts are ordered.
func (i Identifier) compare(o Identifier) int {
	if (i.NHS == "") != (o.NHS == "") {
		if i.NHS == "" {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(i.NHS, o.NHS), cmp.Compare(i.Issuer, o.Issuer), cmp.Compare(i.ID, o.ID))
}

// hash is what an identifier is called in keys.
func (i Identifier) hash() [32]byte {
	return sha256.Sum256([]byte("priormesh-identifier-1\x00" + i.text()))
}

func (i Identifier) check() error {
	if i.NHS != "" {
		if i.ID != "" || i.Issuer != "" || !validNHS(i.NHS) {
			return &MalformedError{What: "link", Why: "an NHS number is none, or an ID stands beside it"}
		}
		return nil
	}
	for _, t := range []string{i.ID, i.Issuer} {
		switch {
		case t == "":
			return &MalformedError{What: "link", Why: "an identifier or its issuer is empty"}
		case len(t) > MaxText:
			return &LimitError{What: "bytes of an identifier in a link", Got: len(t), Limit: MaxText}
		case !plain(t):
			return &MalformedError{What: "link", Why: "an identifier holds control characters or is not UTF-8"}
		}
	}
	return nil
}

// Verdict is what a link says of two identifiers.
type Verdict string

// The verdicts this version knows. Another one counts as Withdrawn: it takes the place of what its author said before.
const (
	Same      Verdict = "same"      // they are one person's
	Merged    Verdict = "merged"    // they are one person's, and the second is used from now on (HL7 v2 A40: MRG-1, PID-3)
	Different Verdict = "different" // they are two people's
	Withdrawn Verdict = "withdrawn" // the author takes back what it said of the two
)

// Link is the body of a "link" fact: what its author says of two identifiers, in place of whatever it said of them before. What the
// words of several authors come to is in docs/decisions/0024.
type Link struct {
	One     Identifier `cbor:"1,keyasint"` // of a merge: the one given up
	Two     Identifier `cbor:"2,keyasint"` // of a merge: the one that survives
	Verdict Verdict    `cbor:"3,keyasint"`
	Source  string     `cbor:"4,keyasint,omitempty"` // what it was decided by, for people to read
}

const maxVerdict = 32

// LinkStatement checks a link and makes its statement.
func LinkStatement(l Link) (Statement, error) {
	l.Source = fit(l.Source)
	if l.Verdict != Merged && l.One.compare(l.Two) > 0 {
		l.One, l.Two = l.Two, l.One
	}
	if err := l.check(); err != nil {
		return Statement{}, err
	}
	return Statement{Kind: KindLink, Subject: LinkSubject(l.One, l.Two), Body: encode(l)}, nil
}

// LinkSubject is the subject of all links of two identifiers, whichever comes first.
func LinkSubject(a, b Identifier) string {
	h := linkHash(a, b)
	return hex.EncodeToString(h[:])
}

func linkHash(a, b Identifier) [32]byte {
	if a.compare(b) > 0 {
		a, b = b, a
	}
	// Neither text holds two zero bytes together.
	return sha256.Sum256([]byte("priormesh-link-1\x00" + a.text() + "\x00\x00" + b.text()))
}

func (l Link) check() error {
	if err := l.One.check(); err != nil {
		return err
	}
	if err := l.Two.check(); err != nil {
		return err
	}
	switch {
	case l.One == l.Two:
		return &MalformedError{What: "link", Why: "it links an identifier to itself"}
	case l.Verdict != Merged && l.One.compare(l.Two) > 0:
		return &MalformedError{What: "link", Why: "its identifiers are not in order"}
	case len(l.Verdict) == 0 || len(l.Verdict) > maxVerdict || !plain(string(l.Verdict)):
		return &MalformedError{What: "link", Why: fmt.Sprintf("its verdict is empty, over %d bytes or no plain text", maxVerdict)}
	case len(l.Source) > MaxText || !plain(l.Source):
		return &MalformedError{What: "link", Why: fmt.Sprintf("its source is over %d bytes or no plain text", MaxText)}
	}
	return nil
}

// joins says whether a link says that the two are one person's.
func (l Link) joins() bool { return l.Verdict == Same || l.Verdict == Merged }

// other is the identifier that stands beside one.
func (l Link) other(id Identifier) (Identifier, bool) {
	switch id {
	case l.One:
		return l.Two, true
	case l.Two:
		return l.One, true
	}
	return Identifier{}, false
}

func decodeLink(subject string, body []byte) (Link, error) {
	var l Link
	if err := decode(factMode, "link", body, &l); err != nil {
		return l, err
	}
	if err := l.check(); err != nil {
		return l, err
	}
	if LinkSubject(l.One, l.Two) != subject {
		return l, &MalformedError{What: "link", Why: "its subject is another"}
	}
	return l, nil
}

// Rows that find links by identifier: table, hash of the identifier, author, hash of the pair. They have no values: what is said is read
// from the fact. Words that join stand in one table and words that part in another, so that neither hides the other.
const (
	tabJoin   = 0x20
	tabParted = 0x21
)

// linkKeys lists the rows that find an author's link.
func linkKeys(author authorNo, l Link) [][]byte {
	var table byte
	switch {
	case l.joins():
		table = tabJoin
	case l.Verdict == Different:
		table = tabParted
	default:
		return nil
	}
	pair := linkHash(l.One, l.Two)
	var keys [][]byte
	for _, id := range []Identifier{l.One, l.Two} {
		h := id.hash()
		k := binary.BigEndian.AppendUint16(append([]byte{table}, h[:]...), uint16(author))
		keys = append(keys, append(k, pair[:]...))
	}
	return keys
}

// applyLink brings the rows that find an author's link of two identifiers from what it said before to what it says now.
func (w *writing) applyLink(a author, subject string, l Link) error {
	if err := w.removeLink(a, subject); err != nil {
		return err
	}
	for _, k := range linkKeys(a.no, l) {
		if err := w.set(k, nil); err != nil {
			return err
		}
	}
	return nil
}

// removeLink takes away the rows that find an author's current link. The fact itself is still there, if there was one.
func (w *writing) removeLink(a author, subject string) error {
	v, ok, err := get(w.txn, factKey(KindLink, subject, a.no))
	if err != nil || !ok {
		return err
	}
	r, err := readRecord(v)
	if err != nil {
		return err
	}
	body, err := w.read.body(a.no, r)
	if err != nil {
		return err
	}
	l, err := decodeLink(subject, body)
	if err != nil {
		return nil // taken when links were not read yet: it has no rows
	}
	for _, k := range linkKeys(a.no, l) {
		if err := w.delete(k); err != nil {
			return err
		}
	}
	return nil
}

// Links returns what each author says of two identifiers now, sorted by author.
func (x *Index) Links(a, b Identifier) ([]Authored[Link], error) {
	for _, id := range []Identifier{a, b} {
		if err := id.check(); err != nil {
			return nil, err
		}
	}
	var out []Authored[Link]
	err := x.View(func(txn *badger.Txn) (err error) {
		out, err = x.reading(txn).linksOf(a, b)
		return err
	})
	return out, err
}

func (c *runCache) linksOf(one, two Identifier) (out []Authored[Link], err error) {
	subject := LinkSubject(one, two)
	prefix := factPrefix(KindLink, subject)
	err = scan(c.txn, prefix, prefix, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
		v, err := value()
		if err != nil {
			return false, err
		}
		r, err := readRecord(v)
		if err != nil {
			return false, err
		}
		a, err := c.x.author(c.txn, authorNo(binary.BigEndian.Uint16(k[len(k)-2:])))
		if err != nil {
			return false, err
		}
		body, err := c.body(a.no, r)
		if err != nil {
			return false, err
		}
		l, err := decodeLink(subject, body)
		if err != nil {
			return false, errDamaged("a link")
		}
		out = append(out, authored(c.x, a.node, cmp.Or(r.trust, a.trust), r.at, l))
		return true, nil
	})
	slices.SortFunc(out, func(a, b Authored[Link]) int { return a.Author.Compare(b.Author) })
	return out, err
}

// Nobody says of an identifier that it is one in form only: what people and devices write where they know none. The list is short and
// exact; what it misses, the number of people found under it gives away.
func (i Identifier) Nobody() bool {
	if i.NHS != "" {
		return false
	}
	s := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r > 0x7f {
			return r
		}
		return -1
	}, strings.ToUpper(i.ID))
	if strings.Trim(s, "0") == "" || strings.Trim(s, "X") == "" || strings.HasPrefix(s, "ANON") {
		return true
	}
	if digits(s) && (len(s) >= 4 && strings.Trim(s, s[:1]) == "" || len(s) >= 3 && strings.HasPrefix("1234567890", s) || s == "0123456789") {
		return true
	}
	switch s {
	case "1", "UNKNOWN", "UNK", "UNKNOWNPATIENT", "NONE", "NULL", "NIL", "NA", "NOID", "NOPATIENTID", "PATIENT", "PATIENTID", "ID",
		"TEST", "TESTPATIENT", "DUMMY", "PHANTOM", "QA", "TBC":
		return true
	}
	return false
}
