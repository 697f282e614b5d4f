package mesh

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/priormesh/priormesh/index"
)

// Path is the way a connection takes.
type Path struct {
	Transport string       // "tcp" or "quic": of a relayed one, that of the way to the relay
	Relay     index.NodeID // who carries it; zero: it is direct
	Remote    string       // multiaddr of the other end, or of the relay
	Since     time.Time    // by the machine's clock
}

// Relayed says whether somebody else carries the connection.
func (p Path) Relayed() bool { return !p.Relay.IsZero() }

// RelayAddr among a node's addresses says that it carries circuits for
// members.
const RelayAddr = "/p2p-circuit"

// When several addresses of a peer are dialled, those of a later kind wait for
// so long; a connection that is made keeps them from being dialled at all. TCP
// comes first: it was measured to be as fast as QUIC or faster wherever it
// gets through and loses nothing. IPv6 comes before IPv4.
const (
	familyDelay    = 250 * time.Millisecond
	transportDelay = 500 * time.Millisecond
)

// dialOrder is libp2p's DialRanker.
func dialOrder(addrs []multiaddr.Multiaddr) []network.AddrDelay {
	var any4, any6 bool
	tcp := slices.ContainsFunc(addrs, func(a multiaddr.Multiaddr) bool { return transportOf(a) == "tcp" })
	for _, a := range addrs {
		any6 = any6 || has(a, multiaddr.P_IP6)
		any4 = any4 || has(a, multiaddr.P_IP4)
	}
	out := make([]network.AddrDelay, 0, len(addrs))
	for _, a := range addrs {
		var d time.Duration
		if tcp && transportOf(a) == "quic" {
			d += transportDelay
		}
		if any4 && any6 && has(a, multiaddr.P_IP4) {
			d += familyDelay
		}
		out = append(out, network.AddrDelay{Addr: a, Delay: d})
	}
	slices.SortStableFunc(out, func(a, b network.AddrDelay) int { return cmp.Compare(a.Delay, b.Delay) })
	return out
}

func has(a multiaddr.Multiaddr, protocol int) bool {
	_, err := a.ValueForProtocol(protocol)
	return err == nil
}

// transportOf names what a node dials or listens by; "" is none of them.
func transportOf(a multiaddr.Multiaddr) string {
	switch {
	case has(a, multiaddr.P_QUIC_V1):
		return "quic"
	case has(a, multiaddr.P_TCP):
		return "tcp"
	}
	return ""
}

// dialable reads the addresses of a member: the direct ones, in their order,
// and whether it is a relay. What is no address of this node's kinds, or names
// another node, is left out: nothing else is dialled, or looked up, on a
// peer's word.
func dialable(id peer.ID, addrs []string) (direct []multiaddr.Multiaddr, relay bool) {
	for _, s := range addrs {
		if s == RelayAddr {
			relay = true
			continue
		}
		full, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			continue
		}
		at, named := peer.SplitAddr(full)
		if len(at) == 0 || named != "" && named != id || transportOf(at) == "" || has(at, multiaddr.P_CIRCUIT) {
			continue
		}
		switch at[0].Protocol().Code {
		case multiaddr.P_IP4, multiaddr.P_IP6, multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6:
			direct = append(direct, at)
		}
	}
	return direct[:min(len(direct), maxAddrs)], relay
}

// quicFirst says whether an announced list asks to be dialled by QUIC first.
func quicFirst(direct []multiaddr.Multiaddr) bool {
	return len(direct) > 0 && transportOf(direct[0]) == "quic"
}

func only(transport string, addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a multiaddr.Multiaddr) bool { return transportOf(a) != transport })
}

// pathOf describes a connection.
func pathOf(c network.Conn) Path {
	at := c.RemoteMultiaddr()
	p := Path{Transport: transportOf(at), Remote: at.String(), Since: c.Stat().Opened}
	if !has(at, multiaddr.P_CIRCUIT) {
		return p
	}
	first, _ := multiaddr.SplitFunc(at, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_CIRCUIT })
	way, relay := peer.SplitAddr(first)
	p.Relay, _ = nodeOf(relay)
	p.Remote = way.String()
	return p
}

// better says which of two connections to a peer to keep. Both ends know what
// it rests on, so both keep the same one: direct before relayed, TCP before
// QUIC, and of two alike the one that the node with the smaller name dialled.
func (m *Mesh) better(a, b network.Conn) bool {
	pa, pb := pathOf(a), pathOf(b)
	if pa.Relayed() != pb.Relayed() {
		return pb.Relayed()
	}
	if pa.Relay != pb.Relay {
		return pa.Relay.Compare(pb.Relay) < 0
	}
	if pa.Transport != pb.Transport {
		return pa.Transport == "tcp"
	}
	if da, db := a.Stat().Direction, b.Stat().Direction; da != db {
		mine := bytes.Compare(m.self[:], remoteOf(a)) < 0
		return (da == network.DirOutbound) == mine
	}
	return pa.Since.Before(pb.Since)
}

func remoteOf(c network.Conn) []byte {
	id, _ := nodeOf(c.RemotePeer())
	return id[:]
}

// best is the connection to keep, of at least one.
func (m *Mesh) best(conns []network.Conn) network.Conn {
	best := conns[0]
	for _, c := range conns[1:] {
		if m.better(c, best) {
			best = c
		}
	}
	return best
}

// Addrs lists the multiaddrs under which others are told to dial this node:
// Config.Announce, else those it listens on as far as it can know them, which
// behind a NAT or a firewall it cannot. Loopback and link-local addresses are
// only among them when there are no others. What Config.Listen names first
// comes first, and others begin with it.
func (m *Mesh) Addrs() []string {
	out := slices.Clone(m.cfg.Announce)
	if len(out) == 0 {
		out = m.ownAddrs()
	}
	room := index.MaxAddrs
	if m.cfg.Relay {
		room--
	}
	out = out[:min(len(out), room)]
	if m.cfg.Relay {
		out = append(out, RelayAddr)
	}
	return out
}

func (m *Mesh) ownAddrs() []string {
	var near, far []multiaddr.Multiaddr
	for _, a := range m.host.Addrs() {
		switch {
		case transportOf(a) == "":
		case manet.IsIPLoopback(a) || manet.IsIP6LinkLocal(a):
			near = append(near, a)
		default:
			far = append(far, a)
		}
	}
	if len(far) == 0 {
		far = near
	}
	first := "tcp"
	if len(m.cfg.Listen) > 0 && strings.Contains(m.cfg.Listen[0], "/quic-v1") {
		first = "quic"
	}
	slices.SortFunc(far, func(a, b multiaddr.Multiaddr) int {
		if x, y := transportOf(a) == first, transportOf(b) == first; x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a.String(), b.String())
	})
	out := make([]string, len(far))
	for i, a := range far {
		out[i] = a.String()
	}
	return out
}
