package mesh

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/multiformats/go-multiaddr"
)

// The protocols a node speaks. Bitswap comes with its own.
const (
	protocolGossip = protocol.ID("/priormesh/gossip/1")
	protocolLog    = protocol.ID("/priormesh/log/1")
	protocolStudy  = protocol.ID("/priormesh/study/2")
	protocolTwin   = protocol.ID("/priormesh/twin/1")
)

const dialTimeout = 10 * time.Second

// hostOptions are what a host is made of.
type hostOptions struct {
	key                 ed25519.PrivateKey
	listen              []string
	gate                *gate
	log                 *slog.Logger
	studyStreamsPerPeer int
	relay               bool   // it carries circuits of others
	useRelays           bool   // it is reached, and reaches others, by circuits
	run                 string // names this process
}

func newHost(o hostOptions) (host.Host, error) {
	identity, err := crypto.UnmarshalEd25519PrivateKey(o.key)
	if err != nil {
		return nil, fmt.Errorf("the node's key is not an Ed25519 key: %w", err)
	}
	limits, err := resourceLimits(o)
	if err != nil {
		return nil, err
	}
	conns, err := connmgr.NewConnManager(maxConns-maxConns/4, maxConns, connmgr.WithGracePeriod(time.Minute))
	if err != nil {
		return nil, err
	}
	circuits := libp2p.DisableRelay
	if o.useRelays {
		circuits = libp2p.EnableRelay
	}
	h, err := libp2p.New(
		libp2p.Identity(identity),
		libp2p.NoListenAddrs, // see listenOn
		libp2p.Transport(newTCP),
		libp2p.Transport(quic.NewTransport),
		libp2p.Security(tls.ID, tls.New),
		libp2p.Muxer(yamux.ID, newMuxer()),
		libp2p.ConnectionGater(o.gate),
		libp2p.ConnectionManager(conns),
		libp2p.ResourceManager(limits),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.SwarmOpts(swarm.WithDialRanker(dialOrder)),
		// These would stop dialling by UDP or IPv6 once that has failed often,
		// whoever it was that could not be reached. The steward backs off by itself.
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.IPv6BlackHoleSuccessCounter(nil),
		circuits(),
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.Ping(false),
		libp2p.UserAgent(agent+"/"+o.run),
	)
	if err != nil {
		return nil, errors.Join(err, limits.Close(), conns.Close())
	}
	if err := listenOn(h.Network(), o.listen, o.log); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// listenOn listens on each address; without any the node only dials. One that fails is named in the log, so
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
			failed = append(failed, fmt.Errorf("cannot listen on %s (is another program there, such as the node of a home that this one was copied or restored from, or is it not an address of this machine?): %w", a, err))
		}
	}
	if len(failed) > 0 && len(failed) == len(addrs) {
		return errors.Join(append(failed, errors.New("no address to listen on is left"))...)
	}
	for _, err := range failed {
		log.Warn("one of the configured addresses is not served", "error", err)
	}
	return nil
}
