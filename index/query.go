package index

// Range is an inclusive range of dates (YYYYMMDD) or times (HHMMSS); an empty end is open.
type Range struct{ From, To string }

// Query asks for studies. Every field that is set must match, and one author's statement must match them all.
// Texts match exactly but for the wildcards * and ?; names, descriptions and referring physicians without regard to case and accents.
type Query struct {
	StudyUIDs       []string // any of these
	PatientID       string
	Issuer          string // of PatientID; empty: any
	NHS             string
	Name            string
	Fuzzy           bool // every word of Name begins a word of the name, in any order
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
	Trust           TrustID // said by a node of this trust
	Offset, Limit   int     // Limit 0 is MaxAnswer
}

// StudyAnswer is a study with what each author says of it and where copies are.
type StudyAnswer struct {
	UID        string
	Statements []Authored[Study] // the matching one first
	Holdings   []Authored[Holding]
}

// Answer is a page of studies, newest first, then by UID.
type Answer struct {
	Studies    []StudyAnswer
	More       bool // there are further studies after this page
	Incomplete bool // the search was given up at MaxExamined records: narrow it
}

// Patient is the studies of one patient, newest first.
type Patient struct {
	Certain    []string // studies of the patient, the one asked about included
	Possible   []string // studies that may be the patient's: a person decides
	Incomplete bool     // there were more than MaxPatient candidates
}

// Holder is a node that has a copy of a study.
type Holder struct {
	Node  NodeID
	Trust TrustID
	Holding
}

// Study returns what each author says of a study.
func (x *Index) Study(uid string) ([]Authored[Study], bool) { return nil, false }

// Studies answers a query.
func (x *Index) Studies(q Query) (Answer, error) { return Answer{}, errNotYet }

// Count counts what a query without Offset and Limit would answer; exact is false when it gave up at MaxExamined.
func (x *Index) Count(q Query) (n int, exact bool, err error) { return 0, false, errNotYet }

// Patient returns the studies of the patient of a study.
func (x *Index) Patient(uid string) (Patient, error) { return Patient{}, errNotYet }

// Holders returns the nodes that have a copy of origin's study: origin first, then the newest revisions.
func (x *Index) Holders(study string, origin NodeID) []Holder { return nil }
