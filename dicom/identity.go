package dicom

// PatientID is an identifier and who gave it.
type PatientID struct {
	ID     string
	Issuer string // "" when the instance does not say
	Type   string // Type of Patient ID, "" when the instance does not say
}

// PatientIDs are the identifiers an instance states: Patient ID with its
// issuer, then those of Other Patient IDs Sequence, each once.
//
// An issuer is Issuer of Patient ID (0010,0021), else the Universal Entity ID
// of Issuer of Patient ID Qualifiers Sequence (0010,0024).
func (d Dataset) PatientIDs() []PatientID { return nil }

// NHSNumber gives the ten digits of an NHS number written with or without
// spaces and dashes. False: not ten digits, the check digit (modulus 11) is
// wrong, or all digits are the same.
func NHSNumber(s string) (string, bool) { return "", false }

// FoldName is the comparable form of a person name.
func FoldName(s string) string { return s }

// NamesAgree reports whether two person names may be one person's.
func NamesAgree(a, b string) bool { return false }
