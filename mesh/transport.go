package mesh

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/priormesh/priormesh/index"
)

const (
	gossipPackets = 'p' // frames, each one packet; an empty frame is a heartbeat
	gossipStream  = 's' // one of memberlist's own exchanges

	maxGossipPacket  = 2 * gossipPacketSize
	maxGossipStream  = 4 << 20 // bytes of one exchange
	maxGossipNodes   = 4096    // that an exchange may announce
	maxGossipStreams = 4       // exchanges at once with one peer
	maxExchanges     = 64      // and with all
)

// transport carries memberlist's packets and streams over libp2p streams.
// Nothing here dials: who is not connected cannot be reached.
type transport struct {
	m         *Mesh
	packets   chan *memberlist.Packet
	streams   chan net.Conn
	exchanges *limiter
	over      chan struct{}
	end       sync.Once

	mu      sync.Mutex
	current map[index.NodeID]network.Stream // the packet stream of each peer
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(m *Mesh) *transport {
	return &transport{
		m: m,
		// Buffered: memberlist must never make a peer's stream wait.
		packets:   make(chan *memberlist.Packet, 256),
		streams:   make(chan net.Conn, 16),
		exchanges: newLimiter(maxExchanges, maxGossipStreams),
		over:      make(chan struct{}),
		current:   make(map[index.NodeID]network.Stream),
	}
}

// FinalAdvertiseAddr returns the address made from the node's own name.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return gossipIP(t.m.self), gossipPort, nil
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// WriteTo cannot work: packets go to names.
func (t *transport) WriteTo([]byte, string) (time.Time, error) {
	return time.Time{}, errors.New("a packet needs a node's name")
}

// DialTimeout cannot work: streams go to names.
func (t *transport) DialTimeout(string, time.Duration) (net.Conn, error) {
	return nil, errors.New("a stream needs a node's name")
}

// WriteToAddress queues a packet, or drops it: it is gossip.
func (t *transport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	now := time.Now()
	id, err := index.ParseNodeID(to.Name)
	if err != nil {
		return now, err
	}
	l := t.m.peers.link(id)
	if l == nil {
		// memberlist takes this error for the other side's failure.
		return now, &net.OpError{Op: "write", Net: "udp", Err: ErrNotConnected}
	}
	if !l.packets.push(slices.Clone(b)) {
		t.m.counters.gossipDropped.Add(1)
	}
	return now, nil
}

// DialAddressTimeout opens a stream to a connected node.
func (t *transport) DialAddressTimeout(to memberlist.Address, d time.Duration) (net.Conn, error) {
	id, err := index.ParseNodeID(to.Name)
	if err != nil {
		return nil, err
	}
	select {
	case <-t.over:
		return nil, ErrClosed
	default:
	}
	if t.m.peers.link(id) == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ErrNotConnected}
	}
	ctx, cancel := context.WithTimeout(t.m.ctx, d)
	defer cancel()
	s, err := t.m.openStream(ctx, id, protocolGossip)
	if err != nil {
		return nil, err
	}
	if err := s.SetDeadline(time.Now().Add(d)); err != nil {
		return nil, errors.Join(err, s.Reset())
	}
	if _, err := s.Write([]byte{gossipStream}); err != nil {
		return nil, errors.Join(err, s.Reset())
	}
	return t.conn(s, id, func() {}), nil
}

// Shutdown lets nothing in or out any more. memberlist reads the channels
// until after this returns, so nobody is stuck in one.
func (t *transport) Shutdown() error {
	t.end.Do(func() { close(t.over) })
	return nil
}

// serve takes an inbound stream.
func (t *transport) serve(s network.Stream, from index.NodeID) error {
	_ = s.SetReadDeadline(time.Now().Add(t.m.cfg.Timing.Idle))
	var kind [1]byte
	if _, err := io.ReadFull(s, kind[:]); err != nil {
		return err
	}
	switch kind[0] {
	case gossipPackets:
		return t.servePackets(s, from)
	case gossipStream:
		return t.serveExchange(s, from)
	}
	return &streamError{network.StreamProtocolViolation, ErrBadMessage}
}

func (t *transport) servePackets(s network.Stream, from index.NodeID) error {
	t.mu.Lock()
	if old := t.current[from]; old != nil {
		_ = old.ResetWithError(network.StreamSupplanted)
	}
	t.current[from] = s
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		if t.current[from] == s {
			delete(t.current, from)
		}
		t.mu.Unlock()
	}()
	at := packetAddr(gossipAddr(from))
	f := newFrames(s, maxGossipPacket, t.m.silence(), t.m.cfg.Timing.Idle, func() { t.m.heard(from) })
	for {
		b, err := f.read()
		if err != nil {
			return err
		}
		if len(b) == 0 {
			continue
		}
		t.m.counters.gossipReceived.Add(1)
		if err := checkPacket(b, from); err != nil {
			t.m.counters.gossipRefused.Add(1)
			t.m.wronged(from, wrongGossip)
			return &streamError{network.StreamProtocolViolation, err}
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: b, From: at, Timestamp: time.Now()}:
		case <-t.over:
			return nil
		default:
			t.m.counters.gossipDropped.Add(1)
		}
	}
}

// serveExchange gives the stream to memberlist and waits until it is done
// with it.
func (t *transport) serveExchange(s network.Stream, from index.NodeID) error {
	if !t.exchanges.enter(from) {
		return &streamError{network.StreamResourceLimitExceeded, ErrBusy}
	}
	defer t.exchanges.leave(from)
	done := make(chan struct{})
	c := t.conn(s, from, sync.OnceFunc(func() { close(done) }))
	select {
	case t.streams <- c:
	case <-t.over:
		return ErrClosed
	}
	timer := time.NewTimer(4 * gossipTimeout) // memberlist's own deadline is shorter
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return ErrIdle
	case <-t.m.ctx.Done():
		return ErrClosed
	}
}

func (t *transport) conn(s network.Stream, peer index.NodeID, closed func()) net.Conn {
	return &gossipConn{
		Stream: s, r: bufio.NewReaderSize(s, 4<<10), left: maxGossipStream, closed: closed,
		local: packetAddr(gossipAddr(t.m.self)), remote: packetAddr(gossipAddr(peer)),
		heard: func() { t.m.heard(peer) },
	}
}

// packetAddr is a net.Addr for memberlist's eyes.
type packetAddr string

func (packetAddr) Network() string  { return "libp2p" }
func (a packetAddr) String() string { return string(a) }

// gossipConn is a stream as memberlist wants it. It lets through only as much
// as an honest exchange needs: memberlist makes room for as many nodes as a
// header announces before one of them has come.
type gossipConn struct {
	network.Stream
	r             *bufio.Reader
	begun         bool
	left          int
	local, remote net.Addr
	heard, closed func()
}

func (c *gossipConn) LocalAddr() net.Addr  { return c.local }
func (c *gossipConn) RemoteAddr() net.Addr { return c.remote }

func (c *gossipConn) Close() error {
	defer c.closed()
	// The multistream handshake of a stream that was never read is read now;
	// the deadline memberlist has set bounds that.
	return c.Stream.Close()
}

func (c *gossipConn) Read(b []byte) (int, error) {
	if !c.begun {
		if err := checkExchange(c.r); err != nil {
			return 0, err
		}
		c.begun = true
	}
	if c.left <= 0 {
		return 0, fmt.Errorf("%w: an exchange of gossip is over %d bytes", ErrBadMessage, maxGossipStream)
	}
	n, err := c.r.Read(b[:min(len(b), c.left)])
	c.left -= n
	if n > 0 {
		c.heard()
	}
	return n, err
}

// memberlist's message types (its net.go).
const (
	mlPing = iota
	mlIndirectPing
	mlAck
	mlSuspect
	mlAlive
	mlDead
	mlPushPull
	mlCompound
	mlUser
	mlCompress
	mlEncrypt
	mlNack
	mlHasCRC
	mlError
)

// checkPacket lets through what memberlist of this version sends: one simple
// message, or a compound of them, with or without a checksum. Above all it
// lets through nothing compressed: a packet of nested compressions grows
// without bound. What memberlist would drop in silence is refused here, where it
// is known who sent it.
func checkPacket(b []byte, from index.NodeID) error {
	if len(b) >= 5 && b[0] == mlHasCRC {
		if crc32.ChecksumIEEE(b[5:]) != binary.BigEndian.Uint32(b[1:]) {
			return fmt.Errorf("%w: a packet of gossip does not have its checksum", ErrBadMessage)
		}
		b = b[5:]
	}
	if len(b) == 0 || b[0] != mlCompound {
		return checkSimple(b, from)
	}
	b = b[1:]
	if len(b) < 1 || len(b) < 1+2*int(b[0]) {
		return fmt.Errorf("%w: a compound packet is cut short", ErrBadMessage)
	}
	n := int(b[0])
	lengths, rest := b[1:1+2*n], b[1+2*n:]
	for i := range n {
		size := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if size > len(rest) {
			return fmt.Errorf("%w: a compound packet is cut short", ErrBadMessage)
		}
		if err := checkSimple(rest[:size], from); err != nil {
			return err
		}
		rest = rest[size:]
	}
	return nil
}

func checkSimple(b []byte, from index.NodeID) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: an empty gossip message", ErrBadMessage)
	}
	switch b[0] {
	case mlUser: // not passed on by others
		holder, _, err := decodeHeadMessage(b[1:])
		if err == nil && holder != from {
			err = fmt.Errorf("%w: gossip of another node", ErrBadMessage)
		}
		return err
	case mlPing, mlIndirectPing, mlAck, mlNack, mlSuspect, mlAlive, mlDead:
		if len(b) > 1 && (b[1]&0xf0 == 0x80 || b[1] == 0xde) { // a map, as MessagePack
			return nil
		}
	}
	return fmt.Errorf("%w: gossip of type %d", ErrBadMessage, b[0])
}

// checkExchange looks at the beginning of an exchange without taking it.
func checkExchange(r *bufio.Reader) error {
	b, err := r.Peek(1)
	if err != nil {
		return err
	}
	switch b[0] {
	case mlError:
		return nil
	case mlPushPull:
	default:
		return fmt.Errorf("%w: an exchange of type %d", ErrBadMessage, b[0])
	}
	// The header is a MessagePack map of three short keys.
	for n := 2; n <= 64; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return err
		}
		nodes, userState, ok, err := pushPullHeader(b[1:])
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if nodes > maxGossipNodes || userState != 0 {
			return fmt.Errorf("%w: an exchange announces %d nodes and %d bytes", ErrBadMessage, nodes, userState)
		}
		return nil
	}
	return fmt.Errorf("%w: an exchange begins with too long a header", ErrBadMessage)
}

// pushPullHeader reads {"Join": bool, "Nodes": int, "UserStateLen": int} as
// memberlist writes it; ok is false when more bytes are needed.
func pushPullHeader(b []byte) (nodes, userState uint64, ok bool, err error) {
	bad := fmt.Errorf("%w: an exchange begins with no header of memberlist's", ErrBadMessage)
	if len(b) == 0 {
		return 0, 0, false, nil
	}
	if b[0] != 0x83 { // a map of three
		return 0, 0, false, bad
	}
	b = b[1:]
	for range 3 {
		if len(b) == 0 {
			return 0, 0, false, nil
		}
		n := int(b[0]) - 0xa0 // a string of up to 31 bytes
		if n < 1 || n > 16 {
			return 0, 0, false, bad
		}
		if len(b) < 1+n+1 {
			return 0, 0, false, nil
		}
		key := string(b[1 : 1+n])
		b = b[1+n:]
		var v uint64
		size := 0
		switch c := b[0]; {
		case c <= 0x7f:
			v = uint64(c)
		case c == 0xc2 || c == 0xc3:
			v = uint64(c & 1)
		case c >= 0xcc && c <= 0xcf: // unsigned, 1 to 8 bytes
			size = 1 << (c - 0xcc)
		case c >= 0xd0 && c <= 0xd3: // signed; negative ones become huge
			size = 1 << (c - 0xd0)
		default:
			return 0, 0, false, bad
		}
		if len(b) < 1+size {
			return 0, 0, false, nil
		}
		for _, x := range b[1 : 1+size] {
			v = v<<8 | uint64(x)
		}
		b = b[1+size:]
		switch key {
		case "Nodes":
			nodes = v
		case "UserStateLen":
			userState = v
		case "Join":
		default:
			return 0, 0, false, bad
		}
	}
	return nodes, userState, true, nil
}
