// Package node is one trust's node: the only place where the parts meet.
//
// [InitHome] makes a home folder, [Open] starts the node that lives in it, and
// Close ends it. Everything that the parts need from outside (time,
// randomness, log) comes in by [Options]; the parts know nothing of each other
// beyond their small interfaces. What may not be here: rules of DICOM, of
// storage, of protocols. They have packages of their own.
//
// # The home folder
//
//	config.toml     settings; every one may be left out but trust (config.go)
//	node.key        the node's Ed25519 key, PKCS #8 PEM: its name on the mesh
//	trust.key       the trust's Ed25519 key, PKCS #8 PEM: signs certificates and
//	                votes only; may be kept elsewhere between admissions
//	card.txt        this trust's card, to be given to a member
//	region.txt      the invitation (or the founding vote) by which it knows its region
//	operator.token  admits to the operator API
//	run.json        {"pid","http"} while a process runs, for the commands
//	lock            held by the process that uses the folder
//	kek             wraps the study keys, unless that key comes from elsewhere
//	                (package cas); kek.new while it is being changed (keys.go)
//	keys/           wrapped study keys, a file each (package cas); with originals in
//	                a bucket only those of copies, the others are in the bucket
//	originals       where what was received here lies: "disk", or "bucket NAME/PREFIX"
//	blocks/         sealed blocks in packs (package cas)
//	index/          Badger: index tables 0x01-0x3f (package index), catalogue and
//	                fetch queue 0x40-0x6f (node/archive), and 0x70 N -> Unix ms when
//	                node N was last heard from, and 8 bytes more: Unix ms when it last
//	                told of its own log and nothing of that was lacking (hearing.go);
//	                0x71 't' trust, 0x71 'n' N: the audit log has that they were shut
//	                out (shutting.go)
//	said            at 0 or 512 "priormesh said 2 EPOCH NUMBER CRC": how far the node's own
//	                log has come; an index that knows of less is lost (spoken.go)
//	reached         "priormesh reached 1 CRC", then "NODE EPOCH NUMBER" a line: how far the logs
//	                of other nodes had come (reached.go)
//	restored.json   there from a restore, or from the finding that the index has lost
//	                what was said, until the node has begun anew (restore.go)
//	gap.json        {"taken","restored"} of the backup of the last restore: what was received
//	                in between and nobody had heard of is known to nobody (restore.go)
//	audit/          what was granted and brought (node/audit)
//	audited         how far the audit log had come
//	reserve         bytes to live on when the disk is full (disk.go)
//
// Everything in it is readable by its owner only.
package node
