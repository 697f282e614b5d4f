// Package cas keeps bytes at rest: blocks that are sealed before they are
// addressed, the manifests that name them, and the keys that open them. It
// knows no DICOM and no network.
//
// A Store holds sealed blocks by address; Disk keeps them on disk, S3 in a
// bucket, Memory for tests. A Key seals and opens. A Writer cuts an instance into blocks, an
// InstanceManifest names them, its Reader reads them back. A Keyring keeps
// study keys. Everything below is what is on disk and on the wire; numbers
// are big-endian, || joins bytes.
//
// # Address
//
// The address of a block is the CIDv1 of its sealed bytes with the raw codec
// and SHA2-256: 01 55 12 20 || SHA-256(sealed bytes). Nothing else is ever
// an address here.
//
// # Sealed block
//
// At most MaxBlock bytes:
//
//	offset  size  field
//	0       1     version: 1
//	1       1     codec of the payload: 0 the plaintext itself,
//	              1 one zstd frame (RFC 8878) that tells its content size,
//	              2 planes
//	2       12    nonce
//	14      n     AES-256-GCM ciphertext of the payload
//	14+n    16    tag
//
// With two keys drawn from the study key by HKDF-SHA256 without salt,
//
//	K_seal  = HKDF(study key, info "priormesh cas 1: seal")
//	K_nonce = HKDF(study key, info "priormesh cas 1: nonce")
//
// the ciphertext is made under K_seal with additional data
// version || codec || domain, and the nonce is the first 12 bytes of
// HMAC-SHA256(K_nonce, version || codec || domain || payload). The domain is
// one byte that is not stored, because whoever follows an address knows what
// to expect there:
//
//	0  part of an instance      2  chunk of an object
//	1  whole object             3  chunk list of an object
//
// Another codec than 0 is used when it saves at least an eighth of the
// plaintext. Which plaintexts that are, and the bytes of a frame or a Huffman
// chunk, belong to the version of the compressor; what is stored stays
// readable whatever a later one does.
//
// # Planes
//
// Codec 2 is for native pixels. The plaintext is read as samples of one or two
// bytes, a sample is replaced by its difference from an earlier one, and the
// low and the high bytes of the differences go into streams of their own:
//
//	0  1  unit: 0 bytes, 1 words of 16 bits with the low byte first,
//	      2 words with the high byte first
//	1  1  lag: how many samples back the earlier one lies; 0 for no difference
//	2  3  n, bytes of plaintext, at most MaxPlain
//	5     the streams of marks, low bytes and high bytes, one after another
//	      the last n mod 32 bytes of the plaintext as they are
//
// All of the plaintext but its end is groups of 32 bytes: 32 samples, or 16.
// For each sample s[i],
//
//	d[i] = s[i] - s[i-lag]  modulo 256 or 65536; s[i-lag] is 0 where i < lag;
//	                        with lag 0, d[i] = s[i]
//	z[i] = d[i]             for bytes
//	z[i] = 2·d[i]           for words, when d[i] < 32768
//	z[i] = 2·(65536-d[i])-1 for words otherwise
//
// The mark of a group is two bits: 0 when each z of it is 0; 1 when each is
// under 256; else 2. It is 0 or 1 for bytes. Four marks make a byte, the first
// in its lowest bits; the bits after the last mark are 0. The stream of low
// bytes holds z modulo 256 of the groups with mark 1 or 2, 32 or 16 bytes each;
// the one of high bytes z / 256 of the groups with mark 2, 16 bytes each.
//
// A stream is cut every 65536 bytes. A chunk of m bytes is one of
//
//	0 || the m bytes
//	1 || one byte, that comes m times
//	2 || length, 2 bytes || so many bytes that are a Huffman tree description,
//	     a jump table and four streams, as in a literals section of RFC 8878
//	     (3.1.1.3.1, 4.2) after its header
//
// How long a stream is follows from n and from the marks; an empty one has no
// chunk. Nothing follows the last byte of the plaintext.
//
// # Shelf
//
// The blocks that one study key seals are a shelf, named by the first 16 bytes
// of HKDF-SHA256(study key, info "priormesh cas 1: shelf"). Blocks are shared
// inside a shelf and never between shelves.
//
// # Object and reference
//
// An object is up to MaxObject bytes, a Ref names it. Up to MaxPlain bytes it
// is one block. A larger one is cut every MaxPlain bytes, and the Ref names
// its chunk list:
//
//	{"v": 1, "size": bytes of the object, "chunks": [link, ...]}
//
// A Ref is [link, size]. A size over MaxPlain tells that the link is to a
// chunk list; lists do not nest.
//
// # Manifests
//
// Manifests are objects in DAG-CBOR, in its only canonical form: shortest
// heads, definite lengths, map keys in the order shown here (by length, then
// bytes), a link as tag 42 over 00 || CID, no floats. Decoding refuses every
// other form, so a manifest has one encoding. UIDs are texts of 1 to MaxName
// bytes; class and syntax may be empty. Attributes are bytes that cas does
// not look into.
//
//	instance  {"v": 1, "uid": text, "kind": "instance", "size": bytes,
//	           "class": text, "pixel": pixel or null,
//	           "blocks": [[link, plaintext bytes], ...],
//	           "header": bytes before the Pixel Data element,
//	           "sha256": SHA-256 of the instance, "syntax": text}
//	pixel     {"len": bytes, "off": offset, "run": [offset, bits of a frame, frames]}
//	       or {"len": bytes, "off": offset, "frames": [[gap, bytes, ...], ...]}
//	series    {"v": 1, "uid": text, "kind": "series", "attrs": bytes,
//	           "instances": [[uid, attrs, size, Ref], ...]}
//	study     {"v": 1, "uid": text, "kind": "study", "attrs": bytes,
//	           "series": [[uid, attrs, Ref], ...], "revision": number}
//
// The plaintexts of the blocks, in order, are the instance. len and off are
// of the value of the Pixel Data element. A run is native pixel data: equal
// frames back to back from its offset. frames is encapsulated pixel data: for
// each frame its parts, each as the gap since the end of the part before it
// (of the first: since off; negative when it lies before) and its length.
//
// # S3
//
// A store in a bucket, below a prefix that may be empty:
//
//	format                    "priormesh bucket 1" and a line feed: the format
//	shelves/SHELF/SHA-256     a sealed block; shelf and digest in hex
//	keys/NAME                 what a Keyring keeps; see below
//
// Nothing but these names is needed to find a thing: only Enumerate, Shelves,
// Size and Drop list. A block is written with If-None-Match: *, so that one
// that is there is left as it is, unless a Get of the same process has found it
// corrupt or its size or MD5 is wrong. Bytes that changed under an object store
// that goes on giving their old MD5 are found by Get alone, so that who repairs
// looks with Get or deletes first. Each write carries the SHA-256 of its bytes. The record of
// the keyring is replaced with If-Match. A bucket with versions (suspended
// ones too) or object lock is refused, because what is deleted would live on
// in it, and so is an object store that passes over If-None-Match.
//
// # Keyring
//
// Study keys lie in a Cabinet, small values by name: a folder, where "/" in a
// name is a folder below it, or a bucket. A key-encryption key (KEK) wraps
// them. The KEK comes as one line, "priormesh-kek-1:" and 64 hex digits, from a
// file of mode 0600, the environment, a credential of the service manager or a
// command. From its 32 bytes come, by HKDF-SHA256 without salt, with the infos
// "priormesh keyring 2: wrap", "… names" and "… mark", the keys K_wrap, K_names
// and K_mark.
//
// The keys as one KEK wraps them are a generation, numbered from 1; no number
// is used twice. The record "keyring" says which one counts:
//
//	0   1   version: 2
//	1   4   the generation in use
//	5   4   the one that a change of the KEK is making; 0 when there is none
//	9   4   the highest number used so far
//	13  16  random, another one each time
//	29  32  HMAC-SHA256(K_mark, the 29 bytes before) under the KEK of the
//	        generation in use: it tells whether a KEK is the right one
//
// Each study key is a value g<generation>/hex(HMAC-SHA256(K_names, name)) of
// 285 bytes:
//
//	0   1    version: 2
//	1   12   random nonce
//	13  272  AES-256-GCM under K_wrap, with additional data version ||
//	         HMAC-SHA256(K_names, name), and its tag, of: the study key (32),
//	         the length of its name (1), the name and zeros (223)
//
// Changing the KEK is: a record that names the next number as being made; every
// key wrapped anew, while what is made or deleted goes to both generations; a
// record, under the new KEK, with that number in use, in place of exactly the
// one before; the old generation destroyed. Opening a keyring takes back a
// number that is being made and destroys all generations but the one in use.
// Several processes may share a bucket: each asks after a change whether the
// record is still the one that it knows, and says ErrRekeyed if it is not.
//
// In a folder, values appear by renaming a file NAME.tmp and are destroyed by
// overwriting them with ff before they are removed; opening destroys what a
// crash left of either.
//
// # Packs and locator
//
// A Disk is a folder that holds
//
//	packs/<16 hex digits>.pack   the blocks
//	locator/                     where each of them is; can be made anew
//	locator.opening              a byte for each process that ended while it
//	                             opened the locator; after two it is made anew
//	lock                         held by the process that has the store open
//
// A pack begins with a header of 32 bytes and goes on with records, each
// directly behind the one before:
//
//	offset  size  field
//	0       8     "PMPACK" 0d 0a
//	8       4     version: 1
//	12      8     number of the pack
//	20      8     zero
//	28      4     CRC-32C of the 28 bytes before
//
//	offset  size  field of a record
//	0       4     89 "PMR"
//	4       16    shelf
//	20      32    SHA-256 of the data, which is the address of the block
//	52      4     n, bytes of data, 1 to MaxBlock
//	56      4     CRC-32C of the data
//	60      4     CRC-32C of the 60 bytes before
//	64      n     data: the sealed block
//
// Numbers grow in the order in which packs are begun. A pack is written by one
// process, from its begin to its end, and is never written again.
//
// The locator is a Badger database that holds nothing else; keys begin with a
// byte for the table:
//
//	00                      → "priormesh locator 1", the format
//	01 || shelf || SHA-256  → pack (8) || offset of the record (4) || n (4)
//	02 || shelf             → blocks (8) || bytes of their data (8)
//	03 || pack              → size (8) || bytes of live records (8) || blocks (8)
//	                          || from where it could not all be read, or 0 (8)
//	                          || whether the pack has ended (1)
//	ff                      → empty; that it is there says that a scan of the
//	                          database came to its end
//
// Everything in a pack before its size is in the locator; nothing behind the
// size of a pack that has ended counts. A change of places and the counters
// that follow from it are one transaction, and only what is durable in a pack
// gets a place: a block is acknowledged after a sync of its pack, if that is
// new a sync of the folder, and then the transaction.
//
// The locator itself is not synced for that. When the store is opened, what
// packs have behind their size is taken in: packs that have not ended, and
// packs that the locator does not know. They are synced and then read from the
// disk first, for what an earlier process wrote may be in memory only. A
// record counts when it is whole. Damage and what a crash left half written
// are skipped, and where no header is in its place the next one is searched
// for; behind such a place a record counts only if its data has its digest,
// because blocks come from strangers and may hold anything. Of two records of
// one block the later one counts. A pack that could not all be read is read
// again when the store is opened again, and is not collected until it could.
//
// A locator that cannot be read, or whose counters are not the sums of its
// places, is removed and made anew from all packs. Nothing that was put is
// lost by that, but what was deleted and lies in a pack still is back; whoever
// deletes for good deletes the key. Otherwise deletions are durable when they
// return, by a sync of the locator.
//
// Damage is named, never hidden: a block that the locator knows and the disk
// has lost stays known, and Get says ErrCorrupt until it is put again.
//
// # Space
//
// The collector gives back what is deleted. A pack with nothing live is
// removed at once. Every minute (DiskOptions.CollectEvery) the pack that is
// being written is ended if more than 30 % of it is dead, and at least 1 MiB;
// and of every pack of which more than 30 % is dead, and of packs below a
// quarter of PackSize when there are four or more, the live records are copied
// to the pack that is being written, and then they are removed. So deleted
// space is back after a minute and the time the copying takes, except that up
// to 30 % of each pack, and less than 1 MiB in the last one, may stay dead. Collect does
// the same at once, down to 5 %. Copying takes at most a quarter of what
// writers write. A pack with a live block that cannot be read is kept until
// the block is put again or deleted.
package cas
