// Package dimse will speak DIMSE (PS3.7) over the DICOM upper layer (PS3.8):
// the older network face of DICOM, by which most PACS and modalities store
// (C-STORE), query (C-FIND) and retrieve (C-MOVE, C-GET).
//
// Nothing is here yet: a node serves DICOMweb only, and the dimse address in
// its configuration is not listened on.
//
// What will live here: associations and their negotiation, PDUs and the
// command sets in them, with a limit on every length and count that a peer
// sends; a server over a small interface in the manner of dicom/dicomweb, and
// a client. What may not: storage, peers, policy, or any import of this
// project other than dicom.
//
// The format is the standard's: PDUs are a type byte, a reserved byte and a
// 32-bit big-endian length (PS3.8 9.3); command sets are Implicit VR Little
// Endian (PS3.7 6.3).
package dimse
