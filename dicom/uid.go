package dicom

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// UID is a unique identifier without its padding, PS3.5 9.
type UID string

// TransferSyntax is the UID that says how an instance is encoded.
type TransferSyntax = UID

const (
	ImplicitVRLittleEndian   TransferSyntax = "1.2.840.10008.1.2"
	ExplicitVRLittleEndian   TransferSyntax = "1.2.840.10008.1.2.1"
	ExplicitVRBigEndian      TransferSyntax = "1.2.840.10008.1.2.2"
	DeflatedLittleEndian     TransferSyntax = "1.2.840.10008.1.2.1.99"
	DeflatedImageFrame       TransferSyntax = "1.2.840.10008.1.2.8.1"
	EncapsulatedUncompressed TransferSyntax = "1.2.840.10008.1.2.1.98"
	RLELossless              TransferSyntax = "1.2.840.10008.1.2.5"

	mediaStorageDirectory UID = "1.2.840.10008.1.3.10"
)

// Valid reports 1 to 64 characters of digits and dots. PS3.5 9.1 asks for more
// (no leading zeros, no empty component), but real files break that and their
// UIDs still name one thing.
func (u UID) Valid() bool {
	if len(u) == 0 || len(u) > 64 {
		return false
	}
	for _, c := range []byte(u) {
		if c != '.' && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// Short is what logs and errors may show of a UID: 8 hexadecimal digits of its
// SHA-256, enough to compare two lines and too little to look a patient up.
func (u UID) Short() string {
	sum := sha256.Sum256([]byte(u))
	return hex.EncodeToString(sum[:4])
}

// Implicit reports whether VRs are left out and the dictionary supplies them.
func (u UID) Implicit() bool { return u == ImplicitVRLittleEndian }

// BigEndian reports the retired Explicit VR Big Endian.
func (u UID) BigEndian() bool { return u == ExplicitVRBigEndian }

// Deflated reports syntaxes in which all after the meta header is compressed as
// one stream: PS3.5 A.5 and the two JPIP Referenced Deflate syntaxes.
func (u UID) Deflated() bool {
	return u == DeflatedLittleEndian || u == "1.2.840.10008.1.2.4.95" || u == "1.2.840.10008.1.2.4.205"
}

// Encapsulated reports the standard's syntaxes that write frames as fragments. Unknown
// and private syntaxes report false; Scan goes by how Pixel Data is written.
func (u UID) Encapsulated() bool {
	if u.Deflated() || u == "1.2.840.10008.1.2.4.94" || u == "1.2.840.10008.1.2.4.204" {
		return false // JPIP: the pixels are not in the instance
	}
	return u == RLELossless || u == DeflatedImageFrame || u == EncapsulatedUncompressed || strings.HasPrefix(string(u), "1.2.840.10008.1.2.4.")
}

// Video reports syntaxes whose fragments are one stream of pictures, in which
// no frame can be found without decoding (PS3.5 8.2.5 to 8.2.12): MPEG-2, MPEG-4
// AVC and HEVC, 1.2.840.10008.1.2.4.100 to .108 and their fragmentable forms.
func (u UID) Video() bool {
	rest, ok := strings.CutPrefix(string(u), "1.2.840.10008.1.2.4.10")
	return ok && rest != "" && rest[0] >= '0' && rest[0] <= '8' && (len(rest) == 1 || rest[1:] == ".1")
}
