// Package index holds what every node of a region knows: facts, the logs they travel in, the join of all logs, the queries over it, and
// the roster that the votes among the facts come to.
//
// It knows no network and no DICOM. Peers are brought together by package mesh, which carries the messages of [Sync]; what a name means
// comes in as functions ([Options.FoldName], [Options.NamesAgree]). No clock decides anything in it, and no goroutine outlives the call that
// began it.
//
// # Facts and logs
//
// A fact is one statement of one node: a kind, a subject, a body. A node says facts in its own log and nowhere else, numbered 1, 2, 3, …
// within an epoch; a node restored from backup starts the next epoch ([Index.NewEpoch]). Of what one author says of one kind and subject,
// the newest (epoch, then number) holds. What several authors say of one subject stands side by side ([Authored]).
//
// Facts go into a log by signed batches of 1 to [MaxFacts]. A batch is a header, a signature, and beside them the payloads. All CBOR here is
// core deterministic (RFC 8949 4.2.1); headers and payloads are kept, hashed, verified and relayed as the bytes that came.
//
//	header   = map: 0 version (1 or later), 1 node (32 bytes), 2 epoch, 3 first number, 4 hash of the batch before (absent when 3 is 1),
//	           5 commitments: for each fact SHA-256(salt || payload)
//	hash     = SHA-256(header)
//	sig      = Ed25519 by the node over "priormesh-head-1" 00 || node || epoch (8 bytes) || last number (8 bytes) || hash
//	payload  = map: 0 kind, 1 subject, 2 body, 3 version of the body (absent: 1); with it a salt of 16 bytes
//
// The signature signs a [Head], so a head can be shown without its batch. A payload may be absent: the batch verifies without it, the hole is
// counted ([Lag]), asked for at later exchanges, and filled by whoever has the payload. Facts of unknown kinds, and unknown fields of known
// ones, are stored and relayed. A fact of a known kind that cannot be read, or whose body is of a newer version, is stored, relayed and counted.
// A later version of the program, whose understanding has a higher number, reads all of these again when it opens the index. An older one does
// not open it.
//
// By a retraction ([Retraction]) an author takes back what it said of a study, a holding, a link, a report or an offer. It names the subject by a hash, and lists the
// positions of the facts: every node drops their payloads, neither asks for them nor takes them again, and removes what they brought about
// from its tables; [Index.Purge] then takes it off the disk. Only the author's own facts before the retraction are taken back, and of those
// only the ones about that subject. What the author says of the subject later holds. The state does not depend on the order in which
// batches and payloads come in, as long as a retraction lists all that it takes back; one that leaves some out hurts its author only.
//
// Two batches of one log that no single history holds are a fork. Its proof is kept ([Fork]), nothing more of that epoch is taken, and what
// was taken before stays, marked [Authored].Quarantined. So nodes may differ in the last facts of a forked epoch until its author starts another.
//
// # Bodies
//
// Bodies of known kinds are CBOR maps whose keys are the numbers in the tags of [Study], [Holding] and [NodeFact]. Subjects: of a study its UID;
// of a holding the study UID, "@" and the origin's node ID; of a node its ID; of a vote its hash in hex; of a retraction, in hex,
// SHA-256("priormesh-retraction-1" 00 || kind || 00 || subject) of what it takes back. [Link], [Report] and [Offer] are such maps too. The text
// of an [Identifier] is "nhs" 00 number, or "id" 00 issuer 00 ID. The subject of a link is, in hex, SHA-256("priormesh-link-1" 00 || text || 00 00 ||
// text), the lesser identifier first (IDs by issuer, then ID; NHS numbers after them), and so it stands in the body, but for a merge. The subject of
// a report is its study, "@", and in hex SHA-256("priormesh-report-1" 00 || issuer || 00 || ID); of an offer its study, "@", its origin, "@", its ID. A [Vote] is signed field by field and
// has one form only; its hash is SHA-256("priormesh-vote-1" 00 || the vote without its signature). So has a [Revocation], whose subject is the node, "@", the trust.
//
// The body of a retraction is a map: 1 why ("erased"), 2 the position of the last fact taken back, 3 the positions of up to [MaxRetracted]
// facts, ascending. A position is 8 bytes: one of the epoch, seven of the number.
//
// # Messages
//
// A message is a CBOR map of at most [MaxMessage] bytes; 0 is its type:
//
//	1 Heads    2 heads, each the CBOR of a Head as bytes, sorted by node, epoch, last number and hash
//	2 Want     8 ID (not 0), 6 limit, 9 logs: for each node (32 bytes), epoch and after as varints (unsigned LEB128)
//	3 Batches  8 ID of the Want (0 or absent: pushed), 7 batches, each the CBOR [header, sig, [[salt, payload], …]] as bytes,
//	           2 heads of wanted logs that go on
//	4 Digest   10 for each of the 16 buckets its hash (16 bytes); logs of nodes that are let in no more are left out, or end where a revocation says
//	5 Summary  11 buckets that differ, each: number (1 byte), hash (16), marks
//	6 Show     12 marks
//	8 SnapshotOffer, 9 WantParts, 10 Parts: see snapshot_message.go
//
//	bucket     = the logs whose node begins with the same four bits
//	its hash   = the first 16 bytes of SHA-256 over node || epoch (8 bytes) || last number (8) || hash (32) of each log's head, sorted;
//	             of a log with a proof of a fork number and hash are zero
//	mark       = first 8 bytes of the node, epoch and last number as varints, first 4 bytes of the head's hash; number 0: forked. Sorted.
//	             In a Show only node and epoch count
//
// An exchange: Digest; if it is not the receiver's own, Summary; then Wants for what the first lacks, Heads for what the other lacks, a Show
// for logs that it does not know, that differ at one number, or that forked; a Show is answered by Heads, of a forked log both that prove it.
// [Sync] says when. A message of an unknown type, and an unknown field, is ignored, so that a later version may add them. A batch header of a
// later version may add fields within the limits of this one, under a higher version number; it is stored and relayed as it is.
//
// # Snapshots
//
// An author says from time to time, by a [Snapshot], which of its facts hold ([Index.MakeSnapshot]). Whoever has the pages takes its head for
// the beginning of the log: nothing of before is asked for, taken or given but in pages ([SnapshotLogs]).
//
// # Text forms
//
// Cards and invitations are lines to copy: "priormesh-card-1:" and "priormesh-invitation-1:", then in unpadded base64url the content and the
// first four bytes of SHA-256(kind || content). A card's content is its CBOR; an invitation's is deflated (RFC 1951).
//
// # Keys in Badger
//
// The database is shared with others; here every key begins with a byte of 01 to 3f. Numbers in keys are big-endian; varint is unsigned
// LEB128; node is 32 bytes. Texts in keys end with 00, which no text holds; in query tables they are cut to 64 bytes, and what is found is
// compared with the record. Three things have short names here, which mean something in this database only:
//
//	author   2 bytes: a number for each node whose log is here, by the order in which they came
//	study    8 bytes of SHA-256(secret || "s" || study UID)
//	person   3 bytes: how the folded name begins, zeros after a shorter one (ff: it has several groups); then 8 bytes of
//	         SHA-256(secret || "p" || CBOR of what is said of a patient)
//	position 8 bytes: one of the epoch, seven of the number
//	place    where a fact lies: epoch (1 byte), number (varint), last number of its part less its own (varint)
//	trust    length (1) and text; empty: that of the author row
//
//	01 name                              meta: f format (1), r region, e epoch of the own log and b when it was begun, s present while NewEpoch is at work,
//	                                     k the secret (32), u number (8) of the understanding by which all was read
//	02 author position                   batch, by the position of its last fact: 0, length (varint) and bytes of the header; or 1, length
//	                                     and hash of the batch before, the header being what this version writes; then length and
//	                                     signature, number of facts (varint); after a 1, for each payload that is absent or is to go,
//	                                     its place in the batch (1) and commitment (32)
//	0d author position                   part of a batch, up to 4 facts, by the position of its last: their number, then for each 0, or
//	                                     length of the payload + 1 (varint), salt (16), payload
//	03 author                            author: node, and text of the trust it was of when it was first heard
//	04 author epoch(1)                   log: CBOR of its head, its author's trust, and counts (logRow)
//	05 node epoch(1)                     fork: CBOR of Fork
//	06 author position                   hole: a fact whose payload is absent; empty
//	07 author own(1) serial(4) hash      vote: the body of a vote fact and its SHA-256; own is 0 if the author's trust has signed it, else 1.
//	                                     The first 512 of each author
//	08 kind 00 subject 00 author         current fact, but of studies and holdings: place, trust, then 0 and body, or 1 for one over 512 bytes
//	09 study                             current statements: for each, by author: author, place, trust
//	0a trust                             count: how many studies the trust speaks of (8); without trust: how many there are; 00: persons
//	0b study author node                 holding of the node's study: place, trust, revision and instances (varints)
//	0c person                            person: CBOR map: 1 identifiers, 2 NHS number, 3 name, 4 birth date, 5 sex
//
// A person is what one or more statements say of their patient, word for word. Persons are found by what is said of them, studies by person:
//
//	10 id 00 issuer 00 person            patient identifier
//	11 nhs 00 person                     NHS number
//	12 name 00 person                    each group of the folded patient name, components joined by ^
//	13 word 00 person                    each folded word of the name, up to 16; with an empty word: it has more
//	14 yyyymmdd 00 person                birth date
//	1d person when study author          studies of a person
//
// Rows of studies end with when, study and author, and but for the first have no value. when is 99999999 less the date (4 bytes) and 999999
// less the time (3), and all ones where these are absent, so that ascending keys are newest first. One statement leaves its rows at one place
// in all tables.
//
//	15 when study author                      every study; its person
//	16 accession 00 issuer 00 when study author   accession number
//	17 modality 00 when study author          each modality
//	18 trust 00 when study author             the trust of the statement's author
//
//	19 author position                   dropped: a payload that is not wanted, its author having retracted it; empty, or 1 where nothing
//	                                     was ever here, which is asked for: it may be something else
//	1a author hash                       retraction: the last position (8) that the author has taken back of a subject
//	1b author position                   doomed: a retracted payload that is still in the files, with all it brought about; empty
//	1c 00|ff key                         saved: a row that is put back under its key when a purge is over
//	20 identifier author pair            link that joins: SHA-256("priormesh-identifier-1" 00 || text), author, and the subject's 32 bytes; empty
//	21 identifier author pair            link that parts, the same way
//	22 author position                   unread: b (a body not understood; counted) or k (an unknown kind)
//
//	23 author position                   block: of the 4 positions up to this one, which is a multiple of 4, those whose facts came in pages or are
//	                                     covered by a snapshot: for each its number in the block (1), and 0 and commitment (32), or length of
//	                                     the payload + 1 (varint), salt (16), payload
//	24 author position hash              page that is here: which facts of its group (8)
//	25 author row                        p pending snapshot: stage (1: it is the beginning of the log), and the batch that says it; f finished one: 0,
//	                                     batch; t when that was, in seconds (8); x root of one that contradicts the log
//	26 author root(8) number(4)          sheet of a snapshot by its number + 1; 0: the list of sheets
//
//	27 key                               stale: a row from which a snapshot has left something out; its former versions go at the next purge
//
// A place whose last varint is 4 or more lies in a block, and that is 4 more than it would be. The row of a log that begins with a snapshot
// has the snapshot's head beside its own (logRow).
//
// A row with the user meta 70 is none: it is there for the moment of a purge (purge.go).
//
// A batch, its facts, and all rows they bring about are written in one transaction.
package index
