// Command bench measures a node's store, its index of a large region, and how
// fast it brings studies from another node.
//
// The store is held against others, in one run on one
// disk: how fast instances are taken in by 1, 4 and 16 writers beside plain
// files, Orthanc and Kubo; where the time goes; what lies on disk for what was
// taken in; what an idle node holds in memory.
//
//	go run ./interop/bench [-dir DIR] [-time 2s] [-rounds 2] [-only NAME,…]
//
// The index is that of the first of eight trusts with a million synthetic
// studies (package simulations/synthetic), loaded as a node loads it: the other
// trusts' logs were made before and come as a peer's answers to its step
// machine, its own are appended. Then it is weighed and asked, an empty node is
// filled from it over a link of limited rate, and Orthanc and a node are asked
// the same questions over HTTP. Each node, and each peer, is a process of its own,
// this program started again, so that memory and CPU time are its own.
//
//	go run ./interop/bench index [-studies 10000000] [-only NAME,…] [-dir DIR] [-kept DIR]
//
// With -kept what was loaded stays in that folder, and another run asks it
// again without loading.
//
// A transfer is a study of many instances, and one instance of many frames, from
// one node to another that has nothing of it, until it is there and durable:
// beside a plain libp2p stream and bitswap alone (package mesh/bare), two
// Orthancs and two Kubos; and on what the CPU time of both sides goes.
//
//	go run ./interop/bench transfer [-rounds 3] [-only loopback,profile] [-dir DIR]
//
// Others are measured as their makers ship them, as processes of their own, and
// left out with one line where they are not installed. All read the same files
// and answer for them before the next; a rate counts what was answered for.
// Nothing here asserts a time.
//
// What lives here: the clients, the table. What may not: anything that a test
// needs.
package main
