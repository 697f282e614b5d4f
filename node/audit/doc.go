// Package audit keeps what was done, in a form that shows tampering.
//
// The log is one file, audit/audit.jsonl in the home folder: one JSON object
// a line, appended and synced before Append returns.
//
//	{"seq":1,"time":"…","prev":"<hex>","event":"grant.given", … ,"hash":"<hex>"}
//
// hash is SHA-256 over the line's bytes up to and without `,"hash":"…"}`; prev
// is the hash of the line before (64 zeros for the first). A line that was
// changed, removed or put in between breaks the chain at that line, and Verify
// names it. A last line that a crash cut short was never acknowledged and is
// set aside when the log is opened.
//
// Events name nodes, trusts and shortened study identifiers; never a patient.
package audit
