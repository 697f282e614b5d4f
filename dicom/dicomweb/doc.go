// Package dicomweb speaks DICOMweb (PS3.18), the HTTP face of DICOM: search
// (QIDO-RS), retrieve (WADO-RS) and store (STOW-RS), over a small interface,
// [Archive], that whoever keeps the instances implements.
//
// It turns requests into calls and answers into the forms PS3.18 asks for:
// DICOM JSON (PS3.18 F), multipart/related bodies, status codes and Warning
// headers. What may not be here: storage, peers, policy, the decision who may
// read what, or any import of this project other than dicom.
//
// # What is served
//
// Below the prefix the handler is mounted under, with /s for
// /studies/{study}, /x for /series/{series}, /i for /instances/{instance}:
//
//	GET  /studies  /series  /instances  /s/series  /s/instances  /s/x/instances    search
//	GET  /s  /s/x  /s/x/i                                                          instances
//	GET  /s/metadata  /s/x/metadata  /s/x/i/metadata                               DICOM JSON
//	GET  /s/x/i/frames/1,2,3                                                       frames
//	GET  /s/x/i/bulkdata/PATH                                                      what BulkDataURI names
//	POST /studies  /s                                                              store
//
// PATH is a tag, "00420011", or leads through sequences by items counted from
// 1, "54000100/2/54001010". HEAD works where GET does. XML, rendering and
// stores of metadata apart from bulk data are not there (406, 404, 415).
//
// Nothing is transcoded: docs/decisions/0009 says what an Accept header gets.
//
// # What a client is told
//
// An error before the first byte of an answer has a status and a text that says
// what to do. One after it breaks the connection off: a part of a study is
// never taken for the whole.
//
//	400  the request cannot be understood, or exceeds a limit, which is named
//	403  the archive refuses
//	404  nothing by that name is known, or the instance has no such frame or value
//	406  not to be had in an acceptable form; the text lists those there are
//	410  erased or withdrawn
//	503  exists, but not to be had now; with Retry-After where that is known
//
// For a store 202 says that some instances were stored, 409 that none was, 413
// that the request or all its parts were too large, 507 that there is no room.
// Each part has its own outcome in the response dataset: Failure Reason 0111
// for a SOP Instance UID that other bytes have, A900 for an instance of another
// study than the address, C000 for what cannot be read, A700 for limits and
// want of room, else 0110. A part whose UIDs did not become known is in Other
// Failures Sequence.
//
// Warnings are headers of the form
//
//	Warning: 299 priormesh "text"
//
// one for each trust that was not heard from, then what the search ignored or
// cut short.
//
// # DICOM JSON
//
// As PS3.18 F.2 has it, where that leaves a choice so: DS and IS are numbers of
// the digits that are stored, strings where they are no numbers; SV and UV
// beyond 2^53 are strings; NaN and the infinities of FD and FL are the strings
// "NaN", "Infinity", "-Infinity"; the bytes of a number that is malformed are
// kept as UN; binary values longer than Limits.Inline become a BulkDataURI.
package dicomweb
