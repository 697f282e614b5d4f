// Package mesh is peers and bytes in motion: who is there, what their logs
// say, and the blocks of studies. It is the only importer of libp2p,
// memberlist and boxo's bitswap. What a fact means, who may have a study and
// where blocks rest is not decided here; Deps asks the node for it.
//
// A Mesh is one libp2p host: the node's Ed25519 key is its identity, so its
// peer ID is the text of its index.NodeID. It speaks TLS over TCP, and QUIC,
// by IPv4 and IPv6; there is no DHT, no discovery by multicast, no hole
// punching and no port mapping. Every connection, whoever dialled it and
// whoever carries it, passes a gate that asks Deps.Allowed. One goroutine, the
// steward, keeps connections to all known members; nobody else dials.
//
// # Ways
//
// A node tells in its node fact where it is dialled: multiaddrs of an IP
// address or a DNS name with /tcp/PORT or /udp/PORT/quic-v1; others dial
// nothing else. TCP is dialled first and QUIC half a second later, unless
// either of the two lists begins with QUIC: then that is. The word
//
//	/p2p-circuit
//
// among the addresses says that the node is a relay: libp2p's circuit v2, for
// members only, without its limits of time and bytes. A node with
// Config.UseRelays keeps a slot at every relay that it has a direct connection
// to, and asks those that it is connected to for a circuit when it cannot dial
// somebody directly. A circuit carries what TCP would: TLS between its two ends,
// which the gates of both judge by the name that TLS proves. The relay has two
// names and ciphertext.
//
// Of several connections to a peer one is kept, the same at both ends: direct
// before relayed, TCP before QUIC, then the one that the node with the smaller
// name dialled. The other is closed when no study is on it any more, at the
// latest after a minute. While there is only a relayed one, a direct way is
// tried every Timing.Upgrade and whenever the addresses change.
//
// How many streams a peer may have open for each protocol is in one table
// (shares, in limits.go); what is not in it gets none.
//
// Below, a frame is a length of four bytes, big endian, and that many bytes.
// An empty frame is a heartbeat: on the gossip and log streams a connected
// peer sends something every Timing.Beat, and one that was silent for five of
// them is taken for gone and dialled anew: a dead path is noticed within 11 s.
// CBOR is the core deterministic encoding of RFC 8949.
//
// # /priormesh/gossip/1
//
// memberlist's traffic. The first byte of a stream says which kind:
//
//	'p'  packets, one way, a frame each of at most 16 KiB. There is one such
//	     stream in each direction between connected peers; packets that find
//	     its queue full are dropped.
//	's'  one exchange of states, in memberlist's own form, both ways, at most
//	     4 MiB.
//
// A node's name in memberlist is the text of its node ID. Its address is fd
// followed by the first 15 bytes of SHA-256(node ID), port 7946: stable, and
// leading nowhere. Packets hold memberlist's messages of protocol version 5,
// at most one compound deep, with or without checksum, never compressed. The
// one user message is a head:
//
//	01 || node ID of the sender of this copy, who holds the log || head as index encodes it
//
// # /priormesh/log/1
//
// Frames of at most index.MaxMessage, each a message of index.Sync, as it is or
// packed by index.Packer: a zstd frame that says its length. A peer opens a
// stream for what it sends and reads the one that the other opened; the newest
// stream of a peer counts. An exchange begins when a stream is new. A message
// that index holds against its sender resets the stream (code 0x1004), and
// further streams of that peer for a while (0x1003).
//
// # /priormesh/twin/1
//
// A process names itself in identify's agent version: "priormesh/" and 16 hex
// digits of its own. Whoever sees two processes with the key of one node tells
// each, on its own connection: a stream with the two multiaddrs, a line each, of 512
// bytes at most.
//
// # /priormesh/study/2
//
// One stream is one study at one holder. A node speaks this version alone, and
// says of a holder that does not that it runs another (ErrVersion). Frames of CBOR
// arrays; the first element is the type:
//
//	1  Request  [1, study, origin, purpose, priority, depth, series, instance]
//	                                                     requester, once, first
//	2  Granted  [2, grant, signature]                    holder, once
//	3  Refused  [3]                                      holder, instead; the stream ends
//	4  Want     [4, priority, [address, …]]              requester, 1 to 64 addresses
//	5  Block    [5, address, bytes]                      holder
//	6  Missing  [6, address]                             holder
//	7  Expired  [7]                                      holder, then the stream ends
//	8  Pushed   [8]                                      holder, after the last block of a push
//
// Study, purpose, series and instance are texts of at most 64 bytes, origin is
// 32 bytes, an address a CID's 36 bytes. Priority is 0 to 255, and lower goes
// first: 0 is a block that somebody waits for at that moment, 1 and 2 are studies
// that somebody waits for, 3 and above what nobody does. That of a request is the
// push's.
//
// Depth says what the holder sends unasked, right behind the grant:
//
//	0  nothing
//	1  the manifests of the study and of its series
//	2  and of the instances
//	3  and the blocks that hold the instances' headers
//
// in the order in which the manifests name them, each instance's header behind
// its manifest, a chunked manifest's list before its chunks, a header block that
// came already left out, and Pushed at the end. Series and instance, unless they
// are empty, narrow depth 1 to 3 to that series and instance. A Missing stands in
// the place of a block that the holder lacks, and nothing that it names follows.
// So a requester that follows the manifests knows at each moment which block must
// come, and takes no other. It wants nothing before Pushed.
//
// The holder answers every address wanted once, with a Block or a Missing: the
// most urgent first, those of one priority in the order of wanting; Missing is
// also what it says of a block that the grant does not cover. While a stream has
// something to send, those of the same peer that are less urgent make way for it,
// for at most 250 ms with each 64 KiB. Where the rate is bounded, what is being
// sent, or taken, is as urgent as the most urgent that stands behind it on its
// stream. A requester has at most 1024 addresses
// unanswered, and as many bytes as the holder's line holds; a holder takes 2048
// addresses and then stops reading. Refused is the one answer to "no" and to "not
// here", and is sent a multiple of Timing.Refusal after the request. A holder with
// too many streams resets with code 0x1002.
//
// The grant is a byte string that holds the CBOR map
//
//	1 study  2 origin  3 holder  4 requester  5 purpose
//	6 expires, in milliseconds since 1970 by the holder's clock
//	7 revision  8 settled  9 manifest, a cas.Ref's CBOR as bytes  10 study key
//
// and the signature is Ed25519 by the holder's node key over
// "priormesh grant 1" || 00 || those bytes.
//
// # Bitswap
//
// boxo's, with its own protocol names. It serves a block only to whom
// StudyServer.GrantedBlock allows it, asks only holders that granted the study
// that is being fetched, shows its wants to nobody else, and writes nothing.
package mesh
