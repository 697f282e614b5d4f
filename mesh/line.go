package mesh

import (
	"context"
	"net"
	"syscall"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptransport "github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	goyamux "github.com/libp2p/go-yamux/v5"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	// streamWindow is how many bytes of a stream may be on their way, or here and
	// unread, from its beginning: more than a line of 100 Mbit/s and 50 ms holds, and
	// for all streams that a peer may open no more than maxMemoryPerPeer. yamux would
	// begin with yamuxWindow. Each time that it doubles a window it forgets to tell
	// the sender of half of it, so that he runs dry before he may go on; that hurts
	// the less, the larger it was at first.
	streamWindow = 1 << 20
	mostOfStream = 16 << 20
	unaccepted   = 64          // streams of a connection; any more are reset
	message      = 16<<10 - 12 // with its header, a record of TLS; 64 wait for the line, whatever they are of
	yamuxWindow  = 256 << 10   // what it reserves for a stream, whatever the window

	// unsent is how many bytes a connection of TCP takes that it has not sent. More
	// would be what is urgent waiting behind what is not: the order of streams is
	// settled before bytes get there.
	unsent = 128 << 10
)

// muxer is yamux with streamWindow, which counts as much memory as it may take.
type muxer struct{ config goyamux.Config }

func newMuxer() *muxer {
	c := *yamux.DefaultTransport.Config()
	c.InitialStreamWindowSize, c.MaxStreamWindowSize = streamWindow, mostOfStream
	c.AcceptBacklog, c.MaxMessageSize = unaccepted, message
	return &muxer{c}
}

// NewConn implements network.Multiplexer.
func (m *muxer) NewConn(c net.Conn, server bool, scope network.PeerScope) (network.MuxedConn, error) {
	config, begin := m.config, goyamux.Client
	if server {
		begin = goyamux.Server
	}
	s, err := begin(c, &config, func() (goyamux.MemoryManager, error) {
		span, err := scope.BeginSpan()
		return windowed{span}, err
	})
	if err != nil {
		return nil, err
	}
	return yamux.NewMuxedConn(s), nil
}

// windowed reserves the window that a stream begins with.
type windowed struct{ network.ResourceScopeSpan }

// ReserveMemory implements yamux.MemoryManager.
func (w windowed) ReserveMemory(size int, prio uint8) error {
	if size == yamuxWindow && prio == network.ReservationPriorityAlways {
		size = streamWindow
	}
	return w.ResourceScopeSpan.ReserveMemory(size, prio)
}

// newTCP is libp2p's TCP with connections that hold back little.
func newTCP(u libp2ptransport.Upgrader, limits network.ResourceManager, shared *tcpreuse.ConnMgr) (*tcp.TcpTransport, error) {
	return tcp.NewTCPTransport(prompt{u}, limits, shared, tcp.DisableReuseport())
}

// prompt sees each connection before anything is written to it.
type prompt struct{ libp2ptransport.Upgrader }

// Upgrade implements transport.Upgrader for connections that were dialled.
func (p prompt) Upgrade(ctx context.Context, t libp2ptransport.Transport, c manet.Conn, dir network.Direction, id peer.ID, scope network.ConnManagementScope) (libp2ptransport.CapableConn, error) {
	holdLittle(c)
	return p.Upgrader.Upgrade(ctx, t, c, dir, id, scope)
}

// GateMaListener implements transport.Upgrader for those that are accepted.
func (p prompt) GateMaListener(l manet.Listener) libp2ptransport.GatedMaListener {
	return p.Upgrader.GateMaListener(promptListener{l})
}

type promptListener struct{ manet.Listener }

func (l promptListener) Accept() (manet.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		holdLittle(c)
	}
	return c, err
}

// holdLittle has the kernel take no more than unsent of what it has not sent. One
// that cannot takes more; nothing else changes.
func holdLittle(c manet.Conn) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(setUnsent)
}
