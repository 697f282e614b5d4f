// Package dicomweb speaks DICOMweb (PS3.18), the HTTP face of DICOM: search
// (QIDO-RS), retrieve (WADO-RS) and store (STOW-RS), over a small interface,
// [Archive], that whoever keeps the instances implements.
//
// It turns requests into calls and answers into the forms PS3.18 asks for:
// DICOM JSON (PS3.18 F), multipart/related bodies, status codes and Warning
// headers. What may not be here: storage, peers, policy, the decision who may
// read what, or any import of this project other than dicom.
package dicomweb
