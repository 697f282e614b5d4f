package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// Config is what a Mesh is told once.
type Config struct {
	Key    ed25519.PrivateKey // the node's identity; its public half is its name
	Listen []string           // multiaddrs such as /ip4/0.0.0.0/tcp/4001
	Now    func() time.Time   // judges grants and says when a peer was heard
	Rand   io.Reader          // seeds jitter and the choice of peers
	Log    *slog.Logger
	Timing Timing // zero fields take their defaults
	Limits Limits // zero fields take their defaults
}

// Timing is how often and how patiently.
type Timing struct {
	Probe        time.Duration // between probes of a member by gossip
	ProbeTimeout time.Duration // within which a probed member must answer
	Gossip       time.Duration // between rounds of gossip
	Tick         time.Duration // between exchanges of log heads with a random peer
	RedialMin    time.Duration // first wait after a failed dial; it doubles
	RedialMax    time.Duration // up to this
	Idle         time.Duration // a stream without progress for this long is given up
}

// Limits bound what peers can make this node hold.
type Limits struct {
	StudyStreams        int // study streams served at once, all peers together
	StudyStreamsPerPeer int // and for one peer
}

// Deps is what a Mesh asks of the node around it. None of these functions may
// call back into the Mesh.
type Deps struct {
	// Allowed is the roster gate. It is asked at every dial, at every
	// handshake, for every name heard by gossip and again by Recheck: it must
	// be quick.
	Allowed func(index.NodeID) bool
	// Addrs lists the known members and their multiaddrs. It is asked again
	// all the time, so that changes are picked up.
	Addrs   func() map[index.NodeID][]string
	Index   Logs
	Studies StudyServer
	Blocks  cas.Store
}

// Logs is what a Mesh keeps in step with its peers. *index.Index is one.
type Logs interface {
	index.Logs
	Head(index.NodeID) (index.Head, bool)
	Watch(func(index.Fact)) (stop func())
}

// Peer is a known member as this node sees it.
type Peer struct {
	ID        index.NodeID
	Connected bool          // there is an authenticated connection
	Alive     bool          // gossip holds it for running: a hint, not a promise
	LastHeard time.Time     // last authenticated word of any kind; zero if none
	RTT       time.Duration // of the last probe it answered; zero if unknown
	Addrs     []string
}

var (
	// ErrClosed says the mesh, or the stream, has been closed.
	ErrClosed = errors.New("mesh is closed")
	// ErrNotConnected says there is no connection to the peer. It is dialled
	// again all the time: try later or another holder.
	ErrNotConnected = errors.New("no connection to the peer")
)

// Mesh is this node among its peers.
type Mesh struct{}

// Open starts listening, dialling and gossiping.
func Open(ctx context.Context, cfg Config, deps Deps) (*Mesh, error) {
	return nil, errors.New("not yet")
}

// Close takes leave of the peers, ends everything and waits for it.
func (m *Mesh) Close() error { return nil }

// Self names this node.
func (m *Mesh) Self() index.NodeID { return index.NodeID{} }

// Addrs lists the multiaddrs under which this node can be dialled, as far as
// it can know them.
func (m *Mesh) Addrs() []string { return nil }

// Recheck closes the connections of peers that are not allowed any more, and
// dials those that are newly allowed at once. Call it when the roster changed.
func (m *Mesh) Recheck() {}

// Peers lists all known members but this node, sorted.
func (m *Mesh) Peers() []Peer { return nil }

// Counters returns a snapshot of the mesh's counters.
func (m *Mesh) Counters() Counters { return Counters{} }

// Counters only ever grow, except those that say "now".
type Counters struct {
	ConnectedNow, AliveNow            uint64
	RefusedConnections                uint64
	GossipSent, GossipReceived        uint64
	GossipDropped, GossipRefused      uint64
	LogSent, LogReceived              uint64
	LogDropped, LogMisbehaved         uint64
	StudiesGranted, StudiesRefused    uint64
	StudyStreamsNow, StudyStreamsBusy uint64
	BlocksServed, BytesServed         uint64
	BlocksFetched, BytesFetched       uint64
	BlocksByBitswap, WrongBlocks      uint64
}
