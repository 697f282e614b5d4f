// Package reporting will let trusts read and report for each other: a worklist
// over the region, addenda, on-call rotas, and lists for multidisciplinary
// meetings.
//
// Nothing is here yet: a node shares studies, not reports.
//
// What will live here: report facts of one kind, whether they came as a
// structured report, an encapsulated PDF, HL7 v2 or FHIR; their versions and
// addenda, linked and never overwritten; offers of work and who took them. What
// may not: storage of its own (facts are index's, documents are blocks of cas),
// peers, or HTTP (node/api's).
//
// The format it will write is the body of a report fact: deterministic CBOR
// with a version number, as all fact bodies are.
package reporting
