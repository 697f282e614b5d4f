// Package mesh is peers and bytes in motion: who is there, what their logs
// say, and the blocks of studies. It is the only importer of libp2p,
// memberlist and boxo's bitswap.
package mesh
