// Package dicom turns the bytes of one DICOM instance into meaning: where the
// header, each frame and the rest lie ([Scan]), what the attributes say
// ([Dataset]), in which characters, and whose they are ([Dataset.PatientIDs],
// [NHSNumber], [NamesAgree]).
//
// It never changes an instance and never decodes pixels. One parser decides
// what a header says; the data dictionary comes from suyashkumar/dicom.
// Services over a network live in dicomweb and dimse; storage lives elsewhere,
// and this package knows of neither.
//
// # What Scan gives
//
// One pass over the bytes cuts an instance into pieces:
//
//	Header   preamble, meta header, attributes, the Pixel Data element's own
//	         header and its offset table
//	Bulk     a value longer than Limits.Value (an encapsulated document, say)
//	Frame    the frames, each beginning its own piece; for encapsulated frames
//	         with the item headers of their fragments
//	Trailer  whatever follows the pixel data, padding and all
//	Opaque   the compressed body of a deflated instance
//
// Pieces put end to end are the instance, byte for byte. Where they are cut
// depends on the bytes alone, never on how a reader delivered them, so one
// instance always gives the same pieces.
//
// # The encoded form of attributes
//
// [Dataset.Encode] writes attributes as Explicit VR Little Endian without
// preamble or meta header, ascending by tag, text as UTF-8 and (0008,0005) =
// ISO_IR 192 first, sequences and items with explicit lengths. One set of
// attributes has one encoded form.
package dicom
