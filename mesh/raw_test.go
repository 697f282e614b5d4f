package mesh_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"

	"github.com/priormesh/priormesh/mesh"
)

const (
	gossip = "/priormesh/gossip/1"
	logs   = "/priormesh/log/1"
	study  = "/priormesh/study/2"
)

// rawHost is a peer that speaks no protocol of its own: what a stranger, or a
// member that turned hostile, can make of libp2p.
func rawHost(t *testing.T, key ed25519.PrivateKey) host.Host {
	t.Helper()
	identity, err := crypto.UnmarshalEd25519PrivateKey(key)
	must(t, err)
	h, err := libp2p.New(
		libp2p.Identity(identity), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport), libp2p.Transport(quic.NewTransport), libp2p.Security(tls.ID, tls.New), libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.DisableRelay(), libp2p.DisableMetrics(), libp2p.DisableIdentifyAddressDiscovery(), libp2p.Ping(false),
		libp2p.ResourceManager(&network.NullResourceManager{}),
	)
	must(t, err)
	t.Cleanup(func() { must(t, h.Close()) })
	return h
}

// dial connects a raw host to a node.
func dial(t *testing.T, h host.Host, n *node) error {
	t.Helper()
	info := peer.AddrInfo{}
	for _, a := range n.mesh.Addrs() {
		if a == mesh.RelayAddr {
			continue
		}
		addr, err := multiaddr.NewMultiaddr(a)
		must(t, err)
		info.Addrs = append(info.Addrs, addr)
	}
	id, err := peer.Decode(n.id.String())
	must(t, err)
	info.ID = id
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return h.Connect(ctx, info)
}

// stream opens a stream to a connected node.
func stream(t *testing.T, h host.Host, n *node, protocol string) network.Stream {
	t.Helper()
	s, err := tryStream(h, n, protocol)
	must(t, err)
	return s
}

func tryStream(h host.Host, n *node, protocol string) (network.Stream, error) {
	id, err := peer.Decode(n.id.String())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return h.NewStream(network.WithNoDial(ctx, "test"), id, protocolID(protocol))
}

func frame(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func readFrame(s io.Reader) ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(s, h[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(h[:]))
	_, err := io.ReadFull(s, b)
	return b, err
}

// relay is a TCP line that can be cut, or go dead without a word.
type relay struct {
	l    net.Listener
	to   string
	rate int // bytes a second in each direction; 0: unbounded

	mu    sync.Mutex
	dead  bool
	conns map[net.Conn]bool
	done  sync.WaitGroup
}

func newRelay(t *testing.T, to string, rate int) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{l: l, to: to, rate: rate, conns: map[net.Conn]bool{}}
	r.done.Add(1)
	go r.accept()
	t.Cleanup(func() {
		_ = l.Close()
		r.cut()
		r.done.Wait()
	})
	return r
}

func (r *relay) multiaddr() string {
	return "/ip4/127.0.0.1/tcp/" + strings.TrimPrefix(r.l.Addr().String(), "127.0.0.1:")
}

// address is where a node listens.
func address(n *node) string {
	return strings.NewReplacer("/ip4/", "", "/tcp/", ":").Replace(n.mesh.Addrs()[0])
}

func (r *relay) accept() {
	defer r.done.Done()
	for {
		in, err := r.l.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		dead := r.dead
		r.mu.Unlock()
		out, err := net.Dial("tcp", r.to)
		if err != nil || dead {
			_ = in.Close()
			if out != nil {
				_ = out.Close()
			}
			continue
		}
		r.mu.Lock()
		r.conns[in], r.conns[out] = true, true
		r.mu.Unlock()
		r.done.Add(2)
		go r.copy(in, out)
		go r.copy(out, in)
	}
}

func (r *relay) copy(from, to net.Conn) {
	defer r.done.Done()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			_, _ = from.Close(), to.Close()
			return
		}
		r.mu.Lock()
		dead := r.dead
		r.mu.Unlock()
		if dead {
			continue // swallowed: as on a line that leads nowhere
		}
		if r.rate > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(r.rate))
		}
		if _, err := to.Write(b[:n]); err != nil {
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

// silence swallows everything, and lets nobody connect, until heal.
func (r *relay) silence(dead bool) {
	r.mu.Lock()
	r.dead = dead
	r.mu.Unlock()
}

// cut closes all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
	clear(r.conns)
}

func rawHostRSA(t *testing.T) host.Host {
	t.Helper()
	identity, _, err := crypto.GenerateRSAKeyPair(2048, rand.Reader)
	must(t, err)
	h, err := libp2p.New(
		libp2p.Identity(identity), libp2p.NoListenAddrs,
		libp2p.Transport(tcp.NewTCPTransport), libp2p.Security(tls.ID, tls.New), libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.DisableRelay(), libp2p.DisableMetrics(), libp2p.ResourceManager(&network.NullResourceManager{}),
	)
	must(t, err)
	t.Cleanup(func() { must(t, h.Close()) })
	return h
}
