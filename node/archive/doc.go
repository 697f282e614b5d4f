// Package archive is the node's three verbs: ingest, find, fetch. Everything
// else the node does is built from them.
//
// Ingest takes one instance as a stream, cuts and seals it into blocks, and
// acknowledges when blocks and catalogue are synced; then it tells the region,
// many instances as one fact. Find answers from the index and the catalogue,
// never by asking a peer, except that the list of a remote study's series and
// instances is fetched once and kept. Fetch brings a study: a durable queue,
// grants from holders, blocks verified at the door, instances visible as they
// become whole. Until then whoever reads one has it block by block from the
// holders, by what the queue has open, or opens it (remote).
//
// What may not be here: HTTP and DIMSE (node/api and dicom/… speak those),
// which study to bring (node/priors), who may have one (node/access).
//
// # What it keeps
//
// Blocks lie in the block store, study keys in the keyring, and the catalogue
// in the index's Badger database. Keys begin with a table byte; S is a Study
// Instance UID, O the 32 bytes of the node that first stored this version of
// it (two trusts that received the same study are two versions, with two
// keys), X a Series, I a SOP Instance UID, 0 a zero byte. Values are CBOR maps
// with small integer keys (catalogue.go, tasks.go).
//
//	0x40 S 0 O X 0 I   an instance that is here
//	0x41 I             who took this SOP Instance UID first, and the SHA-256 of its bytes
//	0x42 S 0 O         a version of a study: revision, manifest, how whole
//	0x43 S 0 O X       series-level attributes (dicom.Dataset.Encode)
//	0x44 S 0 O X 0 I   an instance kept out: its UID is taken by other bytes
//	0x45 S 0 O         the study arrived as new (not by a backfill), Unix ms
//	0x46 S 0 O C       damage: C is the address of a block, nothing for the study key
//	0x47 S 0 O         a shelf that has, or had, a block: size, last use, whether swept
//	0x48 S             a study that is pinned
//	0x49 00 H          an erasure under way; H is SHA-256 of S
//	0x49 01 H          what an erasure has done
//	0x49 02 A R        a retraction that has been dealt with: author, subject
//	0x49 03            the epoch that began when this home was last restored from a backup
//	0x4a               how far the background verification is
//	0x4b S 0 O         a study that was received here and is gone since a restore, wholly or in
//	                   part: CBOR {1: how many instances had been told of}
//	0x4c S 0 O         a study to be looked through for what the index has lost, Unix ms
//	0x60 S             a fetch task
package archive
