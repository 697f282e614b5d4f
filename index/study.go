package index

import "time"

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
	Received        time.Time   `cbor:"23,keyasint,omitempty"` // by the author's own clock, to the second
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
// A node says it of itself; a sibling of the same trust may say it first, so
// that peers let a new node in.
type NodeFact struct {
	Cert  NodeCert `cbor:"1,keyasint"`
	Addrs []string `cbor:"2,keyasint,omitempty"` // multiaddrs
	URL   string   `cbor:"3,keyasint,omitempty"` // HTTP base URL, optional
}

// StudyStatement checks a study and makes its statement. Descriptive texts over
// MaxText bytes are cut; an identifier over it is an error.
func StudyStatement(s Study) (Statement, error) { return Statement{}, errNotYet }

// HoldingStatement makes the statement of a holding.
func HoldingStatement(h Holding) (Statement, error) { return Statement{}, errNotYet }

// NodeStatement makes the statement of a node.
func NodeStatement(n NodeFact) (Statement, error) { return Statement{}, errNotYet }

// VoteStatement makes the statement of a vote.
func VoteStatement(v Vote) (Statement, error) { return Statement{}, errNotYet }
