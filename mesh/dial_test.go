package mesh

import (
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/priormesh/priormesh/index"
)

func TestDialOrder(t *testing.T) {
	const tcp4, tcp6 = "/ip4/10.0.0.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"
	const quic4, quic6 = "/ip4/10.0.0.1/udp/4001/quic-v1", "/ip6/2001:db8::1/udp/4001/quic-v1"
	for name, c := range map[string]struct {
		addrs []string
		want  map[string]time.Duration
	}{
		"all":        {[]string{quic4, quic6, tcp4, tcp6}, map[string]time.Duration{tcp6: 0, tcp4: familyDelay, quic6: transportDelay, quic4: transportDelay + familyDelay}},
		"IPv4":       {[]string{quic4, tcp4}, map[string]time.Duration{tcp4: 0, quic4: transportDelay}},
		"only QUIC":  {[]string{quic6, quic4}, map[string]time.Duration{quic6: 0, quic4: familyDelay}},
		"only one":   {[]string{quic4}, map[string]time.Duration{quic4: 0}},
		"by a relay": {[]string{"/p2p/12D3KooWEZXjE41uU4EL2gpkAQeDXYok6wghN7wwNVPF5bwkaNfS/p2p-circuit"}, map[string]time.Duration{"/p2p/12D3KooWEZXjE41uU4EL2gpkAQeDXYok6wghN7wwNVPF5bwkaNfS/p2p-circuit": 0}},
	} {
		var in []multiaddr.Multiaddr
		for _, s := range c.addrs {
			in = append(in, multiaddr.StringCast(s))
		}
		got := dialOrder(in)
		for i, a := range got {
			if want, ok := c.want[a.Addr.String()]; !ok || want != a.Delay || i > 0 && got[i-1].Delay > a.Delay {
				t.Errorf("%s: %s after %v, want %v", name, a.Addr, a.Delay, want)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %d addresses, want %d", name, len(got), len(c.want))
		}
	}
}

// What a member says of its addresses makes this node dial nothing but its own
// kinds of addresses, and look up nothing by them.
func TestOnlyOwnKindsAreDialled(t *testing.T) {
	id := index.NodeIDOf(ed25519.NewKeyFromSeed(make([]byte, 32)))
	self, other := peerOf(id).String(), "12D3KooWEZXjE41uU4EL2gpkAQeDXYok6wghN7wwNVPF5bwkaNfS"
	direct, relay := dialable(peerOf(id), []string{
		"/ip4/10.0.0.1/tcp/1", "/ip6/::1/udp/2/quic-v1/p2p/" + self, "/dns4/mesh.example/tcp/3", RelayAddr,
		"nonsense", "", "/ip4/10.0.0.1/tcp/4/p2p/" + other, "/p2p/" + self, "/ip4/10.0.0.1/udp/5", "/unix/tmp/socket",
		"/dnsaddr/mesh.example/tcp/6", "/ip4/10.0.0.1/tcp/7/p2p/" + other + "/p2p-circuit", "/ip4/10.0.0.1/tcp/7/p2p/" + other + "/p2p-circuit/p2p/" + self,
		"/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234",
	})
	var got []string
	for _, a := range direct {
		got = append(got, a.String())
	}
	if want := []string{"/ip4/10.0.0.1/tcp/1", "/ip6/::1/udp/2/quic-v1", "/dns4/mesh.example/tcp/3"}; !slices.Equal(got, want) || !relay {
		t.Errorf("dialled are %q (a relay: %v), want %q", got, relay, want)
	}
}

// A dead path is noticed within 15 s whatever the order of events: silence is
// judged from the last word on, and looked at once a round.
func TestSilenceIsShort(t *testing.T) {
	m := &Mesh{cfg: Config{}.withDefaults()}
	if d := m.silence() + stewardRound; d > 14*time.Second {
		t.Errorf("a dead path is noticed after %v", d)
	}
	if m.silence() < 2*2*m.cfg.Timing.Beat {
		t.Error("one beat that is lost ends a connection")
	}
}
