// Package audit keeps what was done, in a form that shows tampering. It also
// searches and verifies it.
//
// The log is audit/audit.jsonl in the home folder: one JSON object a line,
// appended and synced before Append returns. Events that come while others are
// being synced share the next sync.
//
//	{"seq":1,"time":"…","prev":"<hex>","event":"grant.given", … ,"hash":"<hex>"}
//
// hash is SHA-256 over the line's bytes up to and without `,"hash":"…"}`; prev
// is the hash of the line before (64 zeros for the first). A line that was
// changed, removed or put in between breaks the chain at that line, and Verify
// names it. A last line that a crash cut short was never acknowledged and is
// set aside when the log is opened.
//
// A file that has become long is renamed to audit-NUMBER.jsonl, by the number
// of its first event, and the next one goes on with its chain. When all are too
// long together the oldest goes; the event audit.expired says so.
//
// Beside the folder, in the file audited, stands how far the log has come and
// where it begins: two slots of 256 bytes that are written in turn,
//
//	priormesh audit tail 1 FIRST HASH-BEFORE-IT LAST ITS-HASH sum CHECK
//
// It is written after each sync of the log and not synced itself, so after a
// crash it may be behind the log and never before it. A log that is behind it
// has lost its end. The chain then goes on behind the number that was noted, in
// a file of its own: the gap stays visible, and what was lost would fit if it
// came back. A file that is broken is kept as audit-NUMBER-brokenN.jsonl. None
// of this keeps a node from starting: patients need it.
//
// Events name nodes, trusts and shortened study identifiers; never a patient.
package audit
