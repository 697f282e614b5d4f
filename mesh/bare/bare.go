// Package bare moves blocks between two libp2p hosts with nothing around it:
// no roster, grant, queue or store. It is what the mesh is measured against,
// and lives here because mesh and its folders alone import libp2p. Only
// benchmarks import it; nothing that a node does may.
//
// A Giver makes blocks up from a seed and keeps them in memory. By a stream
// (TLS or Noise over TCP, QUIC) it sends them one behind the other, each as
// 32 bytes of SHA-256 and 4 of length, big endian, before its bytes, once the
// taker has sent one byte. By bitswap the taker first gets the addresses, and
// then asks for all of them in one session. Take hashes every block, holds it
// against its address, and forgets it.
package bare

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

// A Way is how blocks move.
type Way string

// The ways there are. Bitswap goes over TLS and TCP, as it does in the mesh.
const (
	TLS     Way = "tls"
	Noise   Way = "noise"
	QUIC    Way = "quic"
	Bitswap Way = "bitswap"
)

const (
	protocolPlain = protocol.ID("/priormesh/bare/plain/1")
	protocolList  = protocol.ID("/priormesh/bare/list/1")

	maxBlock  = 4 << 20
	maxBlocks = 1 << 20
	buffer    = 256 << 10
)

func newHost(way Way, listen ...string) (host.Host, error) {
	options := []libp2p.Option{libp2p.DisableRelay(), libp2p.DisableMetrics(), libp2p.Ping(false), libp2p.ResourceManager(&network.NullResourceManager{})}
	switch way {
	case TLS, Bitswap:
		options = append(options, libp2p.Transport(tcp.NewTCPTransport), libp2p.Security(tls.ID, tls.New))
	case Noise:
		options = append(options, libp2p.Transport(tcp.NewTCPTransport), libp2p.Security(noise.ID, noise.New))
	case QUIC:
		options = append(options, libp2p.Transport(quic.NewTransport))
	default:
		return nil, fmt.Errorf("there is no way %q to move blocks", way)
	}
	if len(listen) > 0 {
		options = append(options, libp2p.ListenAddrStrings(listen...))
	} else {
		options = append(options, libp2p.NoListenAddrs)
	}
	return libp2p.New(options...)
}

// Giver gives blocks to whoever asks.
type Giver struct {
	host    host.Host
	swap    *bitswap.Bitswap
	blocks  []blocks.Block
	address string
}

// Give makes n blocks of size bytes and waits for a taker on ip.
func Give(ctx context.Context, way Way, ip string, n, size int, seed uint64) (*Giver, error) {
	if size < 1 || size > maxBlock || n < 1 || n > maxBlocks {
		return nil, fmt.Errorf("%d blocks of %d bytes", n, size)
	}
	g := &Giver{}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	bytes := rand.NewChaCha8(key)
	for range n {
		data := make([]byte, size)
		_, _ = bytes.Read(data)
		sum := sha256.Sum256(data)
		b, err := blocks.NewBlockWithCid(data, cid.NewCidV1(cid.Raw, append([]byte{0x12, 32}, sum[:]...)))
		if err != nil {
			return nil, err
		}
		g.blocks = append(g.blocks, b)
	}
	listen := "/ip4/" + ip + "/tcp/0"
	if way == QUIC {
		listen = "/ip4/" + ip + "/udp/0/quic-v1"
	}
	h, err := newHost(way, listen)
	if err != nil {
		return nil, err
	}
	g.host = h
	if len(h.Addrs()) == 0 {
		return nil, errors.Join(errors.New("the host listens nowhere"), h.Close())
	}
	g.address = h.Addrs()[0].String() + "/p2p/" + h.ID().String()
	if way == Bitswap {
		store := blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
		if err := store.PutMany(ctx, g.blocks); err != nil {
			return nil, errors.Join(err, h.Close())
		}
		g.swap = bitswap.New(ctx, bsnet.NewFromIpfsHost(h), nobody{}, store)
		h.SetStreamHandler(protocolList, g.list)
		return g, nil
	}
	h.SetStreamHandler(protocolPlain, g.send)
	return g, nil
}

// Address is where a taker finds the giver.
func (g *Giver) Address() string { return g.address }

// Close ends the giver.
func (g *Giver) Close() error {
	var err error
	if g.swap != nil {
		err = g.swap.Close()
	}
	return errors.Join(err, g.host.Close())
}

func (g *Giver) send(s network.Stream) {
	defer s.Close()
	var ask [1]byte
	if _, err := io.ReadFull(s, ask[:]); err != nil {
		_ = s.Reset()
		return
	}
	w := bufio.NewWriterSize(s, buffer)
	for _, b := range g.blocks {
		head := binary.BigEndian.AppendUint32(digest(b.Cid()), uint32(len(b.RawData())))
		if _, err := w.Write(head); err != nil {
			_ = s.Reset()
			return
		}
		if _, err := w.Write(b.RawData()); err != nil {
			_ = s.Reset()
			return
		}
	}
	if w.Flush() != nil {
		_ = s.Reset()
	}
}

func (g *Giver) list(s network.Stream) {
	defer s.Close()
	w := bufio.NewWriter(s)
	for _, b := range g.blocks {
		_, _ = w.Write(digest(b.Cid()))
	}
	if w.Flush() != nil {
		_ = s.Reset()
	}
}

// digest is a new slice of a block's SHA-256.
func digest(c cid.Cid) []byte { return append([]byte(nil), c.Hash()[2:]...) }

// Taken is what came.
type Taken struct {
	Blocks int
	Bytes  int64
	Took   time.Duration // from the first question to the last block that was found right; the connection was there before
}

// Take takes all that a giver has. now is the clock.
func Take(ctx context.Context, way Way, address string, now func() time.Time) (t Taken, err error) {
	h, err := newHost(way)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	addr, err := multiaddr.NewMultiaddr(address)
	if err != nil {
		return t, err
	}
	info, err := peer.AddrInfoFromP2pAddr(addr)
	if err != nil {
		return t, err
	}
	if err := h.Connect(ctx, *info); err != nil {
		return t, err
	}
	if way == Bitswap {
		return takeBitswap(ctx, h, info.ID, now)
	}
	return takeStream(ctx, h, info.ID, now)
}

func takeStream(ctx context.Context, h host.Host, from peer.ID, now func() time.Time) (t Taken, err error) {
	began := now()
	s, err := h.NewStream(ctx, from, protocolPlain)
	if err != nil {
		return t, err
	}
	defer s.Close()
	if _, err := s.Write([]byte{1}); err != nil {
		return t, err
	}
	r := bufio.NewReaderSize(s, buffer)
	var head [sha256.Size + 4]byte
	data := make([]byte, maxBlock)
	for {
		if _, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return t, err
		}
		n := binary.BigEndian.Uint32(head[sha256.Size:])
		if n > maxBlock {
			return t, fmt.Errorf("a block of %d bytes", n)
		}
		if _, err := io.ReadFull(r, data[:n]); err != nil {
			return t, err
		}
		if sha256.Sum256(data[:n]) != [sha256.Size]byte(head[:]) {
			return t, errors.New("a block is not what its address says")
		}
		t.Blocks, t.Bytes = t.Blocks+1, t.Bytes+int64(n)
	}
	t.Took = now().Sub(began)
	return t, nil
}

func takeBitswap(ctx context.Context, h host.Host, from peer.ID, now func() time.Time) (t Taken, err error) {
	s, err := h.NewStream(ctx, from, protocolList)
	if err != nil {
		return t, err
	}
	list, err := io.ReadAll(io.LimitReader(s, maxBlocks*sha256.Size))
	if err = errors.Join(err, s.Close()); err != nil {
		return t, err
	}
	if len(list) == 0 || len(list)%sha256.Size != 0 {
		return t, errors.New("the list of addresses is cut off")
	}
	var cids []cid.Cid
	for at := 0; at < len(list); at += sha256.Size {
		cids = append(cids, cid.NewCidV1(cid.Raw, append([]byte{0x12, 32}, list[at:at+sha256.Size]...)))
	}
	store := blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	swap := bitswap.New(ctx, bsnet.NewFromIpfsHost(h), nobody{}, store)
	defer func() { err = errors.Join(err, swap.Close()) }()
	began := now()
	in, err := swap.NewSession(ctx).GetBlocks(ctx, cids)
	if err != nil {
		return t, err
	}
	for b := range in {
		if sha256.Sum256(b.RawData()) != [sha256.Size]byte(digest(b.Cid())) {
			return t, errors.New("a block is not what its address says")
		}
		t.Blocks, t.Bytes = t.Blocks+1, t.Bytes+int64(len(b.RawData()))
	}
	t.Took = now().Sub(began)
	if t.Blocks != len(cids) {
		return t, fmt.Errorf("%d of %d blocks came", t.Blocks, len(cids))
	}
	return t, ctx.Err()
}

// nobody is a content discovery that knows no provider: the two hosts are connected.
type nobody struct{}

func (nobody) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	none := make(chan peer.AddrInfo)
	close(none)
	return none
}
