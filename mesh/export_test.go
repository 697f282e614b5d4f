package mesh

import (
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/priormesh/priormesh/index"
)

// Conns counts the connections to a peer.
func (m *Mesh) Conns(id index.NodeID) int { return len(m.host.Network().ConnsToPeer(peerOf(id))) }

// Inbound counts the streams that a peer has open here.
func (m *Mesh) Inbound(id index.NodeID) int {
	n := 0
	for _, c := range m.host.Network().ConnsToPeer(peerOf(id)) {
		for _, s := range c.GetStreams() {
			if s.Stat().Direction == network.DirInbound {
				n++
			}
		}
	}
	return n
}

// Protocols lists what the mesh answers to.
func (m *Mesh) Protocols() []string {
	var out []string
	for _, p := range m.host.Mux().Protocols() {
		out = append(out, string(p))
	}
	return out
}

// Shares is how many streams each peer may have open for each protocol.
func Shares(relay, useRelays bool) map[string]int {
	out := map[string]int{}
	for _, s := range shares(hostOptions{studyStreamsPerPeer: 16, relay: relay, useRelays: useRelays}) {
		for _, p := range s.protocols {
			out[string(p)] = s.each
		}
	}
	return out
}

// Crash ends the mesh as a killed process would: nobody is told.
func (m *Mesh) Crash() {
	m.tasks.stop()
	m.gossip.mu.Lock()
	m.gossip.over = true
	m.gossip.mu.Unlock()
	_ = m.gossip.list.Shutdown()
	m.cancel()
	_ = m.bitswap.Close()
	_ = m.closeHost()
	m.tasks.wait()
}
