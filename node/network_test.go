package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/index"
)

func TestMeshAddresses(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]struct{ listen, announce string }{ // "": it will do
		"/ip4/0.0.0.0/tcp/4001":                 {"", "stands for every address"},
		"/ip6/::/udp/4001/quic-v1":              {"", "stands for every address"},
		"/ip4/10.0.0.1/tcp/4001":                {"", ""},
		"/ip6/2001:db8::1/udp/4001/quic-v1":     {"", ""},
		"/ip4/127.0.0.1/tcp/0":                  {"", "not a port"},
		"/ip6zone/eth0/ip6/fe80::1/tcp/4001":    {"", "not a multiaddr"},
		"/dns4/mesh.example/tcp/4001":           {"a name goes into network.announce", ""},
		"/dns/mesh.example/udp/4001/quic-v1":    {"a name goes into network.announce", ""},
		"/dns4//tcp/4001":                       {"a name goes into network.announce", "the name is missing"},
		"/dnsaddr/mesh.example/tcp/4001":        {"not a multiaddr", "not a multiaddr"},
		"10.0.0.1:4001":                         {"not a multiaddr to listen on, such as", "not a multiaddr that others can dial"},
		"/ip4/::1/tcp/4001":                     {"not an address of ip4", "not an address of ip4"},
		"/ip4/10.0.0.1/tcp/65536":               {"not a port", "not a port"},
		"/ip4/10.0.0.1/udp/4001":                {"QUIC is written /udp/4001/quic-v1", "QUIC is written"},
		"/ip4/10.0.0.1/udp/4001/quic":           {"of QUIC there is quic-v1", "of QUIC there is quic-v1"},
		"/ip4/10.0.0.1/tcp/4001/ws":             {"a node speaks TCP and QUIC", "a node speaks TCP and QUIC"},
		"/ip4/10.0.0.1/udp/1/quic-v1/p2p/12D3K": {"a node speaks TCP and QUIC", "a node speaks TCP and QUIC"},
		"":                                      {"not a multiaddr", "not a multiaddr"},
	} {
		for announced, want := range map[bool]string{false: want.listen, true: want.announce} {
			err := checkAddr(s, announced)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%q (announced: %v): %v, want %q", s, announced, err, want)
			}
		}
	}
	c := DefaultConfig()
	c.Trust = "RX1"
	if err := c.Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	c.Mesh = nil
	if err := c.Check(); err != nil {
		t.Errorf("a node that only dials: %v", err)
	}
	c.Network.Relay = true
	if c.Check() == nil {
		t.Error("a relay that nobody can reach is let through")
	}
	c.Network.Announce = slices.Repeat([]string{"/ip4/10.0.0.1/tcp/1"}, index.MaxAddrs)
	if err := c.Check(); err == nil || !strings.Contains(err.Error(), "network.announce") {
		t.Errorf("more addresses than others take: %v", err)
	}
	c.Network.Announce = []string{"/dns4/mesh.example/tcp/4001"}
	if got := announced(c); !slices.Equal(got, c.Network.Announce) {
		t.Errorf("the card says %q", got)
	}
	c.Network.Announce, c.Mesh = nil, []string{"/ip4/0.0.0.0/tcp/4001", "/ip6/::/udp/4001/quic-v1", "/ip4/10.0.0.1/tcp/0", "/ip4/10.0.0.1/udp/0/quic-v1", "/ip4/10.0.0.1/tcp/4001"}
	if got := announced(c); !slices.Equal(got, c.Mesh[4:]) {
		t.Errorf("the card says %q", got)
	}
}

// A change of address is told once, when it lasts, and again if it could not be.
func TestMovesAreTold(t *testing.T) {
	t.Parallel()
	var now, heard []string
	var fail error
	v := moves{told: []string{"a"}, addrs: func() []string { return now }, tell: func(context.Context) error {
		if fail == nil {
			heard = append(heard, now...)
		}
		return fail
	}}
	for i, step := range []struct {
		now  []string
		fail error
		want string
	}{
		{[]string{"a"}, nil, ""}, {[]string{"a"}, nil, ""},
		{[]string{"b"}, nil, ""}, {[]string{"a"}, nil, ""}, {[]string{"b"}, nil, ""}, // it comes and goes
		{[]string{"b"}, errors.New("the disk is full"), ""}, {[]string{"b"}, nil, "b"}, {[]string{"b"}, nil, "b"},
		{nil, nil, "b"}, {nil, nil, "b"}, // the line is down
		{[]string{"c"}, nil, "b"}, {[]string{"c"}, nil, "b c"}, {[]string{"c"}, nil, "b c"},
	} {
		now, fail = step.now, step.fail
		if err := v.look(context.Background()); (err != nil) != (step.fail != nil) {
			t.Errorf("step %d: %v", i, err)
		}
		if got := strings.Join(heard, " "); got != step.want {
			t.Errorf("step %d: %q was told, want %q", i, got, step.want)
		}
	}
}
