package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/api"
)

// NetworkConfig is about how other nodes are reached.
type NetworkConfig struct {
	Announce  []string `toml:"announce" comment:"Addresses that other nodes are told to dial instead of those of this machine, such as /ip4/203.0.113.7/tcp/4001 or /dns4/mesh.rx1.example/tcp/4001: for a node behind NAT or a port forward. The first says what they try first. Empty: those that this machine has; they are told anew when they change"`
	Relay     bool     `toml:"relay" comment:"Carry connections between members that cannot reach each other. They go through this node's line, in and out; it cannot read what they say"`
	UseRelays bool     `toml:"use_relays" comment:"Be reached, and reach other nodes, through members that are relays, where no direct way is open"`
}

func (c NetworkConfig) check() error {
	var errs []error
	if most := index.MaxAddrs - 1; len(c.Announce) > most {
		errs = append(errs, fmt.Errorf("network.announce: %d addresses are more than the %d that others take", len(c.Announce), most))
	}
	for _, a := range c.Announce {
		if err := checkAddr(a, true); err != nil {
			errs = append(errs, fmt.Errorf("network.announce: %q %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// checkAddr says what is wrong with a multiaddr to listen on or, if it is
// announced, to be dialled at: an IP address of its family or, announced, a
// name; then tcp and a port, or udp, a port and quic-v1.
func checkAddr(s string, announced bool) error {
	const tcp, quic = "/ip4/0.0.0.0/tcp/4001", "/ip6/::/udp/4001/quic-v1"
	what := "is not a multiaddr to listen on, such as " + tcp + " or " + quic
	if announced {
		what = "is not a multiaddr that others can dial, such as /ip4/203.0.113.7/tcp/4001 or /dns4/mesh.rx1.example/udp/4001/quic-v1"
	}
	wrong := func(why string) error {
		if why != "" {
			why = ": " + why
		}
		return errors.New(what + why)
	}
	p := strings.Split(s, "/")
	if len(p) > 2 && p[0] == "" && p[1] == "ip6zone" && !announced { // of a link-local address
		p = append([]string{""}, p[3:]...)
	}
	if len(p) < 5 || p[0] != "" {
		return wrong("")
	}
	family, host, transport, port, rest := p[1], p[2], p[3], p[4], strings.Join(p[5:], "/")
	ip, err := netip.ParseAddr(host)
	switch family {
	case "ip4", "ip6":
		if err != nil || ip.Zone() != "" || ip.Is4() != (family == "ip4") {
			return wrong(fmt.Sprintf("%q is not an address of %s", host, family))
		}
		if announced && ip.IsUnspecified() {
			return wrong(host + " stands for every address of this machine; name one")
		}
	case "dns", "dns4", "dns6":
		if !announced {
			return wrong("it takes an IP address; a name goes into network.announce")
		}
		if host == "" {
			return wrong("the name is missing")
		}
	default:
		return wrong("")
	}
	if !isPort(port) || announced && port == "0" {
		return wrong(fmt.Sprintf("%q is not a port", port))
	}
	switch {
	case transport == "tcp" && rest == "", transport == "udp" && rest == "quic-v1":
		return nil
	case transport == "udp" && rest == "":
		return wrong("QUIC is written /udp/" + port + "/quic-v1")
	case transport == "udp" && rest == "quic":
		return wrong("of QUIC there is quic-v1")
	}
	return wrong("a node speaks TCP and QUIC, written /tcp/" + port + " and /udp/" + port + "/quic-v1")
}

// announced are the addresses for a card that is made before the node runs:
// without those that nobody else could dial (wildcards and port 0). The node
// tells its real ones as soon as it runs.
func announced(c Config) []string {
	if len(c.Network.Announce) > 0 {
		return c.Network.Announce
	}
	var out []string
	for _, a := range c.Mesh {
		if strings.HasPrefix(a, "/ip4/0.0.0.0/") || strings.HasPrefix(a, "/ip6/::/") || strings.HasSuffix(a, "/tcp/0") || strings.HasSuffix(a, "/udp/0/quic-v1") {
			continue
		}
		out = append(out, a)
	}
	return out
}

// moveEvery is how often a node looks whether its addresses have changed.
const moveEvery = 10 * time.Second

// moves tells the region when this node is reached elsewhere.
type moves struct {
	addrs func() []string
	tell  func(context.Context) error // what addrs says
	told  []string
	seen  []string
}

// look tells of addresses that it has seen twice: a line that comes and goes
// is no news. What could not be told is told at the next look.
func (v *moves) look(ctx context.Context) error {
	now := v.addrs()
	again := slices.Equal(now, v.seen)
	v.seen = now
	if !again || len(now) == 0 || slices.Equal(now, v.told) {
		return nil
	}
	if err := v.tell(ctx); err != nil {
		return err
	}
	v.told = now
	return nil
}

func (n *Node) watchMoves(ctx context.Context) {
	v := moves{addrs: n.mesh.Addrs, told: n.mesh.Addrs(), tell: func(ctx context.Context) error {
		if n.learning.Load() {
			return errLearning
		}
		return n.introduce(ctx)
	}}
	tick := time.NewTicker(moveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := v.look(ctx); err != nil && ctx.Err() == nil {
			n.Log.Warn("this node's addresses have changed, and the region cannot be told yet", "error", err)
		}
	}
}

// way describes a peer's connection for the operator.
func way(p mesh.Peer, roster index.Roster) api.Way {
	if !p.Connected {
		return api.Way{}
	}
	w := api.Way{Transport: p.Path.Transport, At: p.Path.Remote, Since: p.Path.Since.UTC()}
	if p.Path.Relayed() {
		trust, _ := roster.Allowed(p.Path.Relay)
		w.Relay, w.RelayTrust = p.Path.Relay.String(), string(trust)
	}
	return w
}
