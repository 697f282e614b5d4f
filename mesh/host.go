package mesh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/multiformats/go-multiaddr"
)

// The protocols a node speaks. Bitswap comes with its own.
const (
	protocolGossip = protocol.ID("/priormesh/gossip/1")
	protocolLog    = protocol.ID("/priormesh/log/1")
	protocolStudy  = protocol.ID("/priormesh/study/1")
)

// Bounds on what libp2p may hold, whatever peers do. They do not grow with
// the machine: a region is some tens of nodes.
const (
	maxConns           = 512
	maxConnsPerPeer    = 16
	maxConnsPerAddress = 64 // several trusts may come from behind one address
	maxHandshakes      = 128
	maxDialsPerSecond  = 5 // from one address, after a burst of maxConnsPerAddress; loopback is exempt
	maxStreams         = 8192
	maxStreamsPerPeer  = 512
	maxMemory          = 1 << 30
	maxMemoryPerPeer   = 256 << 20
	maxFiles           = 1024

	dialTimeout = 10 * time.Second
)

func newHost(key ed25519.PrivateKey, listen []string, g *gate, log *slog.Logger, studyStreamsPerPeer int) (host.Host, error) {
	identity, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("the node's key is not an Ed25519 key: %w", err)
	}
	limits, err := resourceLimits(studyStreamsPerPeer)
	if err != nil {
		return nil, err
	}
	conns, err := connmgr.NewConnManager(maxConns-maxConns/4, maxConns, connmgr.WithGracePeriod(time.Minute))
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(
		libp2p.Identity(identity),
		libp2p.NoListenAddrs, // see listenOn
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.Security(tls.ID, tls.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ConnectionGater(g),
		libp2p.ConnectionManager(conns),
		libp2p.ResourceManager(limits),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.Ping(false),
		libp2p.UserAgent("priormesh"),
	)
	if err != nil {
		return nil, errors.Join(err, limits.Close(), conns.Close())
	}
	if err := listenOn(h.Network(), listen, log); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// listenOn listens on each address. One that fails is named in the log, so
// that a node does not serve half of them in silence; it is an error when none
// is left. (libp2p.New would say nothing, and leave goroutines behind when it
// fails.)
func listenOn(n network.Network, addrs []string, log *slog.Logger) error {
	var failed []error
	for _, a := range addrs {
		addr, err := multiaddr.NewMultiaddr(a)
		if err == nil {
			err = n.Listen(addr)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("cannot listen on %s (is another program there, or is it not an address of this machine?): %w", a, err))
		}
	}
	if len(failed) == len(addrs) {
		return errors.Join(append(failed, errors.New("no address to listen on is left"))...)
	}
	for _, err := range failed {
		log.Warn("one of the configured addresses is not served", "error", err)
	}
	return nil
}

func resourceLimits(studyStreamsPerPeer int) (network.ResourceManager, error) {
	perPeer := func(streams int) rcmgr.ResourceLimits {
		return rcmgr.ResourceLimits{StreamsInbound: rcmgr.LimitVal(streams), StreamsOutbound: rcmgr.Unlimited, Streams: rcmgr.Unlimited}
	}
	base := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&base)
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: maxConns, ConnsInbound: maxConns * 3 / 4, ConnsOutbound: maxConns / 2, FD: maxFiles,
			Streams: maxStreams, StreamsInbound: maxStreams / 2, StreamsOutbound: maxStreams / 2, Memory: maxMemory,
		},
		// Transient is what has not told its name yet.
		Transient: rcmgr.ResourceLimits{
			Conns: maxHandshakes, ConnsInbound: maxHandshakes / 2, ConnsOutbound: maxHandshakes / 2, FD: maxHandshakes,
			Streams: maxStreamsPerPeer, StreamsInbound: maxStreamsPerPeer / 2, StreamsOutbound: maxStreamsPerPeer / 2, Memory: maxMemoryPerPeer / 4,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: maxConnsPerPeer, ConnsInbound: maxConnsPerPeer / 2, ConnsOutbound: maxConnsPerPeer / 2, FD: maxConnsPerPeer,
			Streams: maxStreamsPerPeer, StreamsInbound: maxStreamsPerPeer / 2, StreamsOutbound: maxStreamsPerPeer / 2, Memory: maxMemoryPerPeer,
		},
		ProtocolDefault: rcmgr.ResourceLimits{
			Streams: rcmgr.Unlimited, StreamsInbound: rcmgr.Unlimited, StreamsOutbound: rcmgr.Unlimited, Memory: rcmgr.Unlimited64,
		},
		ProtocolPeerDefault: rcmgr.ResourceLimits{
			Streams: rcmgr.Unlimited, StreamsInbound: rcmgr.Unlimited, StreamsOutbound: rcmgr.Unlimited, Memory: rcmgr.Unlimited64,
		},
		ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{
			protocolGossip: perPeer(2 * maxGossipStreams),
			protocolLog:    perPeer(4),
			protocolStudy:  perPeer(2 * studyStreamsPerPeer),
		},
	}
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
