package dicomweb

import (
	"strings"

	"github.com/priormesh/priormesh/dicom"
)

const encapsulatedUncompressed dicom.TransferSyntax = "1.2.840.10008.1.2.1.98"

// compressedTypes are the media types of one frame, PS3.18 Table 8.7.3-5: first
// the standard's name, then names that its earlier editions or clients use.
// Nil where it has none.
func compressedTypes(u dicom.TransferSyntax) []string {
	const jpegFamily = "1.2.840.10008.1.2.4."
	if u == dicom.RLELossless {
		return []string{"image/dicom-rle", "image/x-dicom-rle"}
	}
	process, ok := strings.CutPrefix(string(u), jpegFamily)
	if !ok {
		return nil
	}
	process, _ = strings.CutSuffix(process, ".1") // fragmentable video, PS3.5 A.4.5 ff
	switch process {
	case "50", "51", "52", "53", "54", "55", "56", "57", "58", "59", "60", "61", "62", "63", "64", "65", "66", "70":
		return []string{"image/jpeg"}
	case "80", "81":
		return []string{"image/jls", "image/x-jls"}
	case "90", "91":
		return []string{"image/jp2"}
	case "92", "93":
		return []string{"image/jpx"}
	case "100", "101":
		return []string{"video/mpeg2", "video/mpeg"}
	case "102", "103", "104", "105", "106":
		return []string{"video/mp4"}
	case "107", "108":
		return []string{"video/h265"}
	case "110", "111", "112":
		return []string{"image/jxl"}
	case "201", "202", "203":
		return []string{"image/jphc", "image/jhc"}
	}
	return nil
}

// pixelOffer is the form in which pixels encoded in u can be given, one frame
// or all of them: nothing is transcoded, native ones are put into little endian.
func pixelOffer(u dicom.TransferSyntax, encapsulated, multipart bool) offer {
	switch {
	case !encapsulated:
		o := offer{multipart: multipart, names: []string{octetStream}, syntaxes: []dicom.UID{dicom.ExplicitVRLittleEndian}, raw: true}
		if u.Implicit() {
			o.syntaxes = append(o.syntaxes, u) // the same bytes
		}
		return o
	case u == encapsulatedUncompressed:
		return offer{multipart: multipart, names: []string{octetStream}, syntaxes: []dicom.UID{u}, raw: true}
	}
	names := compressedTypes(u)
	if names == nil {
		names = []string{octetStream}
	}
	return offer{multipart: multipart, names: names, syntaxes: []dicom.UID{u}}
}

// contentType is the Content-Type of a part or of a body by itself.
func (o offer) contentType(name string) string {
	if len(o.syntaxes) == 0 {
		return name
	}
	return name + "; transfer-syntax=" + string(o.syntaxes[0])
}
