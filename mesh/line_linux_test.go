package mesh

import (
	"context"
	"syscall"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptransport "github.com/libp2p/go-libp2p/core/transport"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sys/unix"
)

// seeing hands on what an upgrader is given.
type seeing struct {
	libp2ptransport.Upgrader
	listener manet.Listener
	dialled  manet.Conn
}

func (s *seeing) GateMaListener(l manet.Listener) libp2ptransport.GatedMaListener {
	s.listener = l
	return nil
}

func (s *seeing) Upgrade(_ context.Context, _ libp2ptransport.Transport, c manet.Conn, _ network.Direction, _ peer.ID, _ network.ConnManagementScope) (libp2ptransport.CapableConn, error) {
	s.dialled = c
	return nil, nil
}

// The kernel holds back little of what is sent, whoever dialled.
func TestConnectionsHoldLittle(t *testing.T) {
	addr, err := multiaddr.NewMultiaddr("/ip4/127.0.0.1/tcp/0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := manet.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sees := &seeing{}
	p := prompt{sees}
	p.GateMaListener(l)
	c, err := manet.Dial(l.Multiaddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := sees.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if _, err := p.Upgrade(t.Context(), nil, c, network.DirOutbound, "", nil); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]manet.Conn{"dialled": sees.dialled, "accepted": accepted} {
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got int
		var gerr error
		if err := raw.Control(func(fd uintptr) { got, gerr = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) }); err != nil || gerr != nil {
			t.Fatal(err, gerr)
		}
		if got != unsent {
			t.Errorf("%s: %d bytes may wait, want %d", name, got, unsent)
		}
	}
}
