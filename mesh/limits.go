package mesh

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/x/rate"
)

// Bounds on what libp2p may hold, whatever peers do. They do not grow with
// the machine: a region is some tens of nodes.
const (
	maxConns           = 512
	maxConnsPerPeer    = 16
	maxConnsPerAddress = 64 // several trusts may come from behind one address, or by one relay
	maxHandshakes      = 128
	maxDialsPerSecond  = 5 // from one address, after a burst of maxConnsPerAddress; loopback is exempt
	maxStreams         = 8192
	maxStreamsPerPeer  = 512
	maxUnnamed         = 8 * maxStreamsPerPeer / 2                    // streams that have not said their protocol: more than a few peers can fill
	maxMemory          = 2 << 30                                      // reserved, not used: the windows of all streams
	maxMemoryPerPeer   = maxStreamsPerPeer / 2 * streamWindow * 3 / 2 // what may come in, what has not been accepted, and what this node opens
	maxFiles           = 1024

	maxWays = 3 // connections tried to open one study, when one after the other ends beneath it

	maxSlots          = 256      // nodes that wait for circuits at this relay
	maxCircuits       = 512      // carried by this node
	maxCircuitsOfPeer = 64       // of one node, at a relay and at the node itself
	circuitBuffer     = 64 << 10 // bytes, in each direction
)

// bitswapProtocols are boxo's, which has the newest first.
var bitswapProtocols = []protocol.ID{bsnet.ProtocolBitswap, bsnet.ProtocolBitswapOneOne, bsnet.ProtocolBitswapOneZero, bsnet.ProtocolBitswapNoVers}

// share is how many streams peers may have open at this node for something, all
// of them together and each.
type share struct {
	what      string
	protocols []protocol.ID
	all, each int
}

// shares is the one table of every protocol that a node knows. What is not in
// it, or has no share, gets no stream. Where a protocol counts for itself and
// answers "busy" (study, gossip), its share here is larger, so that its answer
// is heard.
func shares(o hostOptions) []share {
	hop, stop := 0, 0
	if o.relay {
		hop = maxCircuitsOfPeer + 4 // and what asks for a slot
	}
	if o.useRelays {
		stop = maxCircuitsOfPeer
	}
	return []share{
		{"gossip", []protocol.ID{protocolGossip}, 1024, 2 * maxGossipStreams},
		{"log", []protocol.ID{protocolLog}, 512, 4},
		{"twin", []protocol.ID{protocolTwin}, 64, 2},
		{"study", []protocol.ID{protocolStudy}, 1024, 2 * o.studyStreamsPerPeer},
		{"bitswap", bitswapProtocols, 1024, 64},
		{"identify", []protocol.ID{identify.ID, identify.IDPush}, 256, 8},
		{"ping", []protocol.ID{ping.ID}, 0, 0},
		{"relay", []protocol.ID{circuit.ProtoIDv2Hop}, 2 * maxCircuits, hop},
		{"relayed", []protocol.ID{circuit.ProtoIDv2Stop}, maxCircuits, stop},
	}
}

// limit makes a share libp2p's. What this node opens itself is not bounded here.
func (s share) limit(n int) rcmgr.ResourceLimits {
	in := rcmgr.LimitVal(n)
	if n == 0 {
		in = rcmgr.BlockAllLimit
	}
	return rcmgr.ResourceLimits{StreamsInbound: in, StreamsOutbound: rcmgr.Unlimited, Streams: rcmgr.Unlimited, Memory: rcmgr.Unlimited64}
}

func resourceLimits(o hostOptions) (network.ResourceManager, error) {
	none := share{}.limit(0)
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: maxConns, ConnsInbound: maxConns * 3 / 4, ConnsOutbound: maxConns / 2, FD: maxFiles,
			Streams: maxStreams, StreamsInbound: maxStreams / 2, StreamsOutbound: maxStreams / 2, Memory: maxMemory,
		},
		// Transient is what has not told its name yet: a connection its peer's, a stream its protocol's.
		Transient: rcmgr.ResourceLimits{
			Conns: maxHandshakes, ConnsInbound: maxHandshakes / 2, ConnsOutbound: maxHandshakes / 2, FD: maxHandshakes,
			Streams: 2 * maxUnnamed, StreamsInbound: maxUnnamed, StreamsOutbound: maxUnnamed, Memory: maxMemoryPerPeer / 4,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: maxConnsPerPeer, ConnsInbound: maxConnsPerPeer / 2, ConnsOutbound: maxConnsPerPeer / 2, FD: maxConnsPerPeer,
			Streams: maxStreamsPerPeer, StreamsInbound: maxStreamsPerPeer / 2, StreamsOutbound: maxStreamsPerPeer / 2, Memory: maxMemoryPerPeer,
		},
		ProtocolDefault: none, ProtocolPeerDefault: none,
		Protocol: map[protocol.ID]rcmgr.ResourceLimits{}, ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{},
		// A circuit is two streams at its relay, and two buffers.
		Service: map[string]rcmgr.ResourceLimits{
			relay.ServiceName: {Streams: 2 * maxCircuits, StreamsInbound: 2 * maxCircuits, StreamsOutbound: maxCircuits, Memory: 4 * maxCircuits * circuitBuffer},
		},
		ServicePeer: map[string]rcmgr.ResourceLimits{
			relay.ServiceName: {Streams: 2 * maxCircuitsOfPeer, StreamsInbound: 2 * maxCircuitsOfPeer, StreamsOutbound: maxCircuitsOfPeer, Memory: maxMemoryPerPeer / 4},
		},
	}
	for _, s := range shares(o) {
		for _, p := range s.protocols {
			limits.Protocol[p], limits.ProtocolPeer[p] = s.limit(min(s.all, s.all*s.each)), s.limit(s.each)
		}
	}
	base := rcmgr.DefaultLimits
	v4 := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: maxConnsPerAddress}}
	v6 := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 64, ConnCount: maxConnsPerAddress}}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Build(base.Scale(maxMemory, maxFiles))),
		rcmgr.WithMetricsDisabled(), rcmgr.WithLimitPerSubnet(v4, v6), rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: rate.Limit{RPS: maxDialsPerSecond, Burst: maxConnsPerAddress}}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 64, Limit: rate.Limit{RPS: maxDialsPerSecond, Burst: maxConnsPerAddress}}},
				GracePeriod:      time.Minute,
			},
		}))
}

// carriesStudy says whether a protocol's streams are worth waiting for.
func carriesStudy(p protocol.ID) bool {
	return p == protocolStudy || slices.Contains(bitswapProtocols, p)
}
