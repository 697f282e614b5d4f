package index

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// PatientID is a patient identifier with who issued it. Issuer is never empty in
// a fact: the node fills it in before it says anything.
type PatientID struct {
	ID     string `cbor:"1,keyasint"`
	Issuer string `cbor:"2,keyasint,omitempty"`
}

// Study is the body of a "study" fact: what its author knows of a study it first stored.
type Study struct {
	UID             string      `cbor:"1,keyasint"`
	Patient         []PatientID `cbor:"2,keyasint,omitempty"` // all identifiers, the main one first
	NHS             string      `cbor:"3,keyasint,omitempty"` // ten digits, or empty
	Name            string      `cbor:"4,keyasint,omitempty"` // DICOM PN as received
	BirthDate       string      `cbor:"5,keyasint,omitempty"` // YYYYMMDD
	Sex             string      `cbor:"6,keyasint,omitempty"`
	Date            string      `cbor:"7,keyasint,omitempty"` // YYYYMMDD
	Time            string      `cbor:"8,keyasint,omitempty"` // HHMMSS[.F]
	TimezoneOffset  string      `cbor:"9,keyasint,omitempty"`
	Accession       string      `cbor:"10,keyasint,omitempty"`
	AccessionIssuer string      `cbor:"11,keyasint,omitempty"`
	Description     string      `cbor:"12,keyasint,omitempty"`
	StudyID         string      `cbor:"13,keyasint,omitempty"`
	Referring       string      `cbor:"14,keyasint,omitempty"` // DICOM PN
	Modalities      []string    `cbor:"15,keyasint,omitempty"`
	BodyParts       []string    `cbor:"16,keyasint,omitempty"`
	Series          int         `cbor:"17,keyasint,omitempty"`
	Instances       int         `cbor:"18,keyasint,omitempty"`
	Bytes           int64       `cbor:"19,keyasint,omitempty"`
	Manifest        []byte      `cbor:"20,keyasint,omitempty"` // reference to the study manifest, opaque here
	Revision        uint64      `cbor:"21,keyasint,omitempty"` // grows with every new manifest
	Settled         bool        `cbor:"22,keyasint,omitempty"` // no instance has come for a while
	Received        time.Time   `cbor:"23,keyasint,omitzero"`  // by the author's own clock, to the second
	Mixed           bool        `cbor:"24,keyasint,omitempty"` // its instances disagree on whose study it is: never certainly anybody's
}

// Holding is the body of a "holding" fact: a whole copy of Origin's revision is
// with the author. Instances 0 says that the copy is no longer there.
type Holding struct {
	Study     string `cbor:"1,keyasint"`
	Origin    NodeID `cbor:"2,keyasint"`
	Revision  uint64 `cbor:"3,keyasint,omitempty"`
	Instances int    `cbor:"4,keyasint,omitempty"`
}

// NodeFact is the body of a "node" fact: a certified node and where it is reached.
// A node says it of itself; a sibling of the same trust must say it first, so
// that peers let a new node in.
type NodeFact struct {
	Cert  NodeCert `cbor:"1,keyasint"`
	Addrs []string `cbor:"2,keyasint,omitempty"` // multiaddrs
	URL   string   `cbor:"3,keyasint,omitempty"` // HTTP base URL, optional
}

// Limits on what facts hold.
const (
	MaxUID      = 64   // bytes of a UID
	MaxText     = 1024 // bytes of any other text: three groups of 64 characters of 4 bytes, and some
	MaxManifest = 512  // bytes of a manifest reference

	MaxPatientIDs = 32            // of a study
	maxList       = MaxPatientIDs // and modalities, body parts
)

// StudyStatement checks a study and makes its statement. So that no odd header keeps a study out, descriptive texts
// over MaxText bytes are cut, control characters in them become blanks, and lists are cut to their first 32. A UID or identifier that
// does not fit, or an identifier without its issuer, is an error.
func StudyStatement(s Study) (Statement, error) {
	for _, p := range s.Patient {
		if p.ID == "" || p.Issuer == "" {
			return Statement{}, &MalformedError{What: "study", Why: "a patient identifier or its issuer is empty: fill in the issuer, or leave the identifier out"}
		}
	}
	s.Patient = s.Patient[:min(len(s.Patient), maxList)]
	for _, t := range []*string{&s.Name, &s.Sex, &s.TimezoneOffset, &s.Description, &s.StudyID, &s.Referring} {
		*t = fit(*t)
	}
	s.Modalities, s.BodyParts = fitList(s.Modalities), fitList(s.BodyParts)
	if !s.Received.IsZero() {
		s.Received = s.Received.UTC().Truncate(time.Second)
	}
	if err := s.check(); err != nil {
		return Statement{}, err
	}
	return Statement{Kind: KindStudy, Subject: s.UID, Body: encode(s)}, nil
}

func fit(s string) string {
	if plain(s) && len(s) <= MaxText {
		return s
	}
	out := make([]byte, 0, min(len(s), MaxText))
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			r = ' '
		}
		if len(out)+utf8.RuneLen(r) > MaxText {
			break
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

func fitList(in []string) []string {
	var out []string
	for _, s := range in {
		if s = fit(s); s != "" && len(out) < maxList && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// size is how many bytes a study takes, about.
func (s *Study) size() int {
	n := 256 + len(s.UID) + len(s.Manifest)
	for _, t := range s.texts() {
		n += len(t)
	}
	return n
}

func (s *Study) texts() []string {
	texts := []string{
		s.NHS, s.Name, s.BirthDate, s.Sex, s.Date, s.Time, s.TimezoneOffset, s.Accession, s.AccessionIssuer,
		s.Description, s.StudyID, s.Referring,
	}
	for _, p := range s.Patient {
		texts = append(texts, p.ID, p.Issuer)
	}
	return append(append(texts, s.Modalities...), s.BodyParts...)
}

// check says whether a study may be said, and whether one that was said is understood.
func (s Study) check() error {
	if err := checkUID(s.UID); err != nil {
		return err
	}
	for _, t := range s.texts() {
		if len(t) > MaxText {
			return &LimitError{What: "bytes of a text in a study", Got: len(t), Limit: MaxText}
		}
		if !plain(t) {
			return &MalformedError{What: "study", Why: "a text holds control characters or is not UTF-8"}
		}
	}
	switch {
	case len(s.Patient) > maxList:
		return &LimitError{What: "patient identifiers in a study", Got: len(s.Patient), Limit: maxList}
	case len(s.Modalities) > maxList:
		return &LimitError{What: "modalities in a study", Got: len(s.Modalities), Limit: maxList}
	case len(s.BodyParts) > maxList:
		return &LimitError{What: "body parts in a study", Got: len(s.BodyParts), Limit: maxList}
	case len(s.Manifest) > MaxManifest:
		return &LimitError{What: "bytes of a manifest reference", Got: len(s.Manifest), Limit: MaxManifest}
	case s.Series < 0 || s.Instances < 0 || s.Bytes < 0:
		return &MalformedError{What: "study", Why: "a count is negative"}
	case s.Received.Year() < 1 || s.Received.Year() > 9999:
		return &MalformedError{What: "study", Why: "the time of receipt is no date"}
	}
	return nil
}

func checkUID(uid string) error {
	if len(uid) < 1 || len(uid) > MaxUID {
		return &LimitError{What: "bytes of a UID", Got: len(uid), Limit: MaxUID}
	}
	for _, c := range []byte(uid) {
		if (c < '0' || c > '9') && c != '.' {
			return &MalformedError{What: "UID", Why: "holds other characters than digits and dots"}
		}
	}
	return nil
}

// decodeStudy reads a fact's study. An identifier without an issuer names nobody: it is passed over, the study is not.
func decodeStudy(subject string, body []byte) (Study, error) {
	var s Study
	if err := decode(factMode, "study", body, &s); err != nil {
		return s, err
	}
	if s.UID != subject {
		return s, &MalformedError{What: "study", Why: "its subject is another"}
	}
	if err := s.check(); err != nil {
		return s, err
	}
	if !s.Received.IsZero() {
		s.Received = s.Received.UTC()
	}
	s.Patient = slices.DeleteFunc(s.Patient, func(p PatientID) bool { return p.ID == "" || p.Issuer == "" })
	return s, nil
}

// HoldingStatement makes the statement of a holding.
func HoldingStatement(h Holding) (Statement, error) {
	if err := h.check(); err != nil {
		return Statement{}, err
	}
	return Statement{Kind: KindHolding, Subject: h.subject(), Body: encode(h)}, nil
}

func (h Holding) subject() string { return h.Study + "@" + h.Origin.String() }

func (h Holding) check() error {
	if h.Instances < 0 {
		return &MalformedError{What: "holding", Why: "a count is negative"}
	}
	return checkUID(h.Study)
}

func decodeHolding(subject string, body []byte) (Holding, error) {
	var h Holding
	if err := decode(factMode, "holding", body, &h); err != nil {
		return h, err
	}
	if h.subject() != subject {
		return h, &MalformedError{What: "holding", Why: "its subject is another"}
	}
	return h, h.check()
}

// NodeStatement makes the statement of a node.
func NodeStatement(n NodeFact) (Statement, error) {
	if err := n.check(); err != nil {
		return Statement{}, err
	}
	return Statement{Kind: KindNode, Subject: n.Cert.Node.String(), Body: encode(n)}, nil
}

func (n NodeFact) check() error {
	if !n.Cert.Trust.Valid() {
		return badTrust
	}
	if len(n.URL) > MaxText || !plain(n.URL) {
		return &MalformedError{What: "node", Why: fmt.Sprintf("its URL is over %d bytes or holds control characters", MaxText)}
	}
	return checkAddrs(n.Addrs)
}

func decodeNode(body []byte) (NodeFact, error) {
	var n NodeFact
	if err := decode(factMode, "node", body, &n); err != nil {
		return n, err
	}
	return n, n.check()
}

func decodeNodeFact(subject string, body []byte) (NodeFact, error) {
	n, err := decodeNode(body)
	if err == nil && n.Cert.Node.String() != subject {
		err = &MalformedError{What: "node", Why: "its subject is another"}
	}
	return n, err
}

// VoteStatement makes the statement of a vote.
func VoteStatement(v Vote) (Statement, error) {
	if err := v.check(); err != nil {
		return Statement{}, err
	}
	return Statement{Kind: KindVote, Subject: v.subject(), Body: v.Encode()}, nil
}

func (v Vote) subject() string {
	h := v.Hash()
	return hex.EncodeToString(h[:])
}

func decodeVoteFact(subject string, body []byte) (Vote, error) {
	v, err := DecodeVote(body)
	if err == nil && v.subject() != subject {
		err = &MalformedError{What: "vote", Why: "its subject is another"}
	}
	return v, err
}

// validNHS says whether s is an NHS number: ten digits, the last a modulus 11
// check digit over the weights 10 to 2 (NHS Data Dictionary, NHS NUMBER), and not
// one digit repeated, which passes the check but is what people type for "none".
func validNHS(s string) bool {
	if len(s) != 10 {
		return false
	}
	sum, repeated := 0, true
	for i := range 10 {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		repeated = repeated && s[i] == s[0]
		if i < 9 {
			sum += int(s[i]-'0') * (10 - i)
		}
	}
	check := (11 - sum%11) % 11
	return !repeated && check != 10 && check == int(s[9]-'0')
}
