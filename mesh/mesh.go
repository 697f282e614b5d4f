package mesh

import (
	"context"
	"crypto/ed25519"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// Config is what a Mesh is told once.
type Config struct {
	Key    ed25519.PrivateKey // the node's identity; its public half is its name
	Listen []string           // multiaddrs such as /ip4/0.0.0.0/tcp/4001 or /ip6/::/udp/4001/quic-v1; none: this node only dials
	// Announce is told to others instead of the addresses of this machine, for
	// a node that is reached under others.
	Announce  []string
	Relay     bool             // carry connections between members that cannot reach each other
	UseRelays bool             // be reached, and reach others, by members' relays
	Now       func() time.Time // judges grants and says when a peer was heard
	Rand      io.Reader        // seeds jitter and the choice of peers
	Log       *slog.Logger
	Timing    Timing // zero fields take their defaults
	Limits    Limits // zero fields take their defaults
}

// Timing is how often and how patiently. The deadlines of sockets and the
// intervals are real time, whatever Config.Now says.
type Timing struct {
	Probe        time.Duration // between probes of a member by gossip (1 s)
	ProbeTimeout time.Duration // within which a probed member must answer (500 ms)
	Gossip       time.Duration // between rounds of gossip (200 ms)
	Beat         time.Duration // a connected peer hears at least this often (2 s)
	Tick         time.Duration // between exchanges about the logs with a random peer (index.DefaultTick), jittered
	RedialMin    time.Duration // first wait after a failed dial (500 ms); it doubles
	RedialMax    time.Duration // up to this (15 s)
	Idle         time.Duration // a stream without progress for this long is given up (20 s)
	Refusal      time.Duration // a refusal is sent at a multiple of this after the question (100 ms)
	RelayAfter   time.Duration // a member that has no address is given so long to dial by itself, before it is dialled by a relay (3 s)
	Upgrade      time.Duration // between looks for a direct way to a peer that is connected by a relay (1 min), jittered
	Penalty      time.Duration // first wait of a peer whose log messages misbehave (1 s); it doubles, 64 times at most
}

// Limits bound what peers can make this node hold.
type Limits struct {
	StudyStreams        int // study streams served at once, all peers together (128)
	StudyStreamsPerPeer int // and for one peer (16)
	LogPull             int // bytes a second of facts that are asked for (index.DefaultPull)
	LogSend             int // and that are sent, all peers together (index.DefaultSend)
}

// Deps is what a Mesh asks of the node around it. None of these functions may
// call back into the Mesh.
type Deps struct {
	// Allowed is the roster gate. It is asked at every dial, at every
	// handshake, for every name heard by gossip and of every connection each
	// second and after Recheck: it must be quick.
	Allowed func(index.NodeID) bool
	// Addrs lists the known members and their multiaddrs. It is asked again
	// all the time, so that changes are picked up.
	Addrs   func() map[index.NodeID][]string
	Index   Logs
	Studies StudyServer
	Blocks  Blocks
}

// Blocks is what a Mesh gives blocks from, once StudyServer has allowed it.
type Blocks interface {
	cas.Getter
	Has(context.Context, cid.Cid) (bool, error)
}

// Logs is what a Mesh keeps in step with its peers. *index.Index is one.
type Logs interface {
	index.Logs
	Head(index.NodeID) (index.Head, bool)
	Behind(index.NodeID) bool
	Watch(func(index.Fact)) (stop func())
}

// Peer is a known member as this node sees it.
type Peer struct {
	ID          index.NodeID
	Connected   bool          // there is an authenticated connection and a word was heard on it
	Alive       bool          // gossip holds it for running: a hint, not a promise
	LastHeard   time.Time     // last authenticated word of any kind; zero if none
	InStep      time.Time     // when it last told of its own log, and nothing that it told of was lacking here; zero if never
	Agreed      time.Time     // when it last told how far it has its own log and this node's, and both ended there where they end here; zero if never
	RTT         time.Duration // of the last probe it answered; zero if unknown
	Path        Path          // the way of its connection; zero if it is not connected
	WrongBlocks int           // how often it sent bytes that were not those asked for
	WrongLog    int           // and messages about logs that are forged, or none
	WrongGossip int           // and packets of gossip
	WrongLast   time.Time     // when it did one of these last, by Config.Now; zero: never
	Twin        Twin          // two processes run with its key
	Addrs       []string
}

var (
	// ErrClosed says the mesh, or the stream, has been closed.
	ErrClosed = errors.New("mesh is closed")
	// ErrNotConnected says there is no connection to the peer. It is dialled
	// again all the time: try later or another holder.
	ErrNotConnected = errors.New("no connection to the peer")
)

const (
	maxRefusedNames = 1024 // strangers that are named in the log
	closeLeave      = 500 * time.Millisecond
)

// Mesh is this node among its peers.
type Mesh struct {
	cfg  Config
	deps Deps
	self index.NodeID
	log  *slog.Logger

	host     host.Host
	relay    *circuit.Relay // nil: this node is none
	gossip   *gossip
	logs     *logSync
	packer   *index.Packer
	twins    *twins
	bitswap  *bitswap
	studies  *limiter
	taking   *line // blocks from peers
	serving  *line // and to them
	turns    *turns
	streams  atomic.Uint64 // study streams opened
	counters counters
	refused  *once // strangers that were named in the log
	unwanted *once // members that do not let this node in

	ctx    context.Context
	cancel context.CancelFunc
	tasks  tasks

	rng struct {
		sync.Mutex
		*rand.Rand
	}
	life struct { // held while Deps are asked from goroutines that are not ours
		sync.RWMutex
		over bool
	}
	peers   peers
	recheck atomic.Bool
	wake    chan struct{} // a token makes the steward look again
}

// Open starts listening, dialling and gossiping. The Mesh lives until Close;
// ctx bounds only the opening.
func Open(ctx context.Context, cfg Config, deps Deps) (*Mesh, error) {
	if len(cfg.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("mesh: the node's key is missing")
	}
	if deps.Allowed == nil || deps.Addrs == nil || deps.Index == nil || deps.Studies == nil || deps.Blocks == nil {
		return nil, errors.New("mesh: every field of Deps is needed")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	var seed [32]byte
	if _, err := io.ReadFull(cfg.Rand, seed[:]); err != nil {
		return nil, fmt.Errorf("mesh: no randomness: %w", err)
	}
	packer, err := index.NewPacker()
	if err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	m := &Mesh{
		cfg: cfg, deps: deps, self: index.NodeIDOf(cfg.Key), log: cfg.Log, packer: packer,
		studies:  newLimiter(cfg.Limits.StudyStreams, cfg.Limits.StudyStreamsPerPeer),
		taking:   newLine(time.Now),
		serving:  newLine(time.Now),
		turns:    newTurns(),
		refused:  newOnce(maxRefusedNames, cfg.Now),
		unwanted: newOnce(maxRefusedNames, cfg.Now),
		wake:     make(chan struct{}, 1),
	}
	m.rng.Rand = rand.New(rand.NewChaCha8(seed))
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.peers.init()
	run := make([]byte, 8)
	if _, err := io.ReadFull(cfg.Rand, run); err != nil {
		return nil, fmt.Errorf("mesh: no randomness: %w", err)
	}
	m.twins = newTwins(m, run)

	m.host, err = newHost(hostOptions{
		key: cfg.Key, listen: cfg.Listen, log: m.log, studyStreamsPerPeer: cfg.Limits.StudyStreamsPerPeer,
		relay: cfg.Relay, useRelays: cfg.UseRelays, run: m.twins.run,
		gate: &gate{
			allowed: m.allowed, refused: func() { m.counters.refusedConnections.Add(1) }, once: m.refused, log: m.log,
		},
	})
	if err != nil {
		m.cancel()
		return nil, fmt.Errorf("mesh: %w", err)
	}
	if cfg.Relay {
		if m.relay, err = newRelay(m.host, m.allowed, &m.counters); err != nil {
			m.cancel()
			return nil, errors.Join(fmt.Errorf("mesh: the relay does not start: %w", err), m.host.Close())
		}
	}
	if m.gossip, err = newGossip(m); err != nil {
		m.cancel()
		return nil, errors.Join(fmt.Errorf("mesh: gossip does not start: %w", err), m.closeHost())
	}
	seen, err := m.host.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted), eventbus.BufSize(64))
	if err != nil {
		m.cancel()
		return nil, errors.Join(fmt.Errorf("mesh: %w", err), m.closeHost())
	}
	m.logs = newLogSync(m)
	m.bitswap = newBitswap(m)
	m.handle(protocolGossip, m.gossip.serve)
	m.handle(protocolLog, m.logs.serve)
	m.handle(protocolStudy, m.serveStudy)
	m.handle(protocolTwin, m.twins.serve)
	m.tasks.run(func() { m.twins.watch(seen) })
	m.tasks.run(m.logs.run)
	m.tasks.run(m.gossip.join)
	m.tasks.run(m.steward)
	return m, nil
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = crand.Reader
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Timing.Probe, time.Second},
		{&c.Timing.ProbeTimeout, 500 * time.Millisecond},
		{&c.Timing.Gossip, 200 * time.Millisecond},
		{&c.Timing.Beat, 2 * time.Second},
		{&c.Timing.Tick, index.DefaultTick},
		{&c.Timing.RedialMin, 500 * time.Millisecond},
		{&c.Timing.RedialMax, 15 * time.Second},
		{&c.Timing.Idle, 20 * time.Second},
		{&c.Timing.Refusal, 100 * time.Millisecond},
		{&c.Timing.RelayAfter, 3 * time.Second},
		{&c.Timing.Upgrade, time.Minute},
		{&c.Timing.Penalty, time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.Limits.StudyStreams <= 0 {
		c.Limits.StudyStreams = 128
	}
	if c.Limits.StudyStreamsPerPeer <= 0 {
		c.Limits.StudyStreamsPerPeer = 16
	}
	return c
}

// Close takes leave of the peers, ends everything and waits for it. After it
// returns no function of Deps is called any more.
func (m *Mesh) Close() error {
	if !m.tasks.stop() {
		m.tasks.wait()
		return nil
	}
	m.gossip.close(closeLeave)
	m.cancel()
	err := errors.Join(m.bitswap.Close(), m.closeHost())
	m.tasks.wait()
	m.life.Lock()
	m.life.over = true
	m.life.Unlock()
	return err
}

func (m *Mesh) closeHost() error {
	if m.relay == nil {
		return m.host.Close()
	}
	return errors.Join(m.relay.Close(), m.host.Close())
}

// allowed asks the roster, as long as there is one to ask.
func (m *Mesh) allowed(id index.NodeID) bool {
	m.life.RLock()
	defer m.life.RUnlock()
	return !m.life.over && id != m.self && m.deps.Allowed(id)
}

// Self names this node.
func (m *Mesh) Self() index.NodeID { return m.self }

// handle serves inbound streams of a protocol, each in a goroutine that Close
// waits for. An error of serve resets the stream, with the code of a
// streamError; after nil it is closed.
func (m *Mesh) handle(p protocol.ID, serve func(network.Stream, index.NodeID) error) {
	m.host.SetStreamHandler(p, func(s network.Stream) {
		id, ok := nodeOf(s.Conn().RemotePeer())
		if !ok || !m.tasks.enter() {
			_ = s.ResetWithError(network.StreamShutdown)
			return
		}
		defer m.tasks.leave()
		err := error(&streamError{network.StreamGated, nil})
		if m.allowed(id) {
			err = serve(s, id)
		}
		if err != nil {
			m.log.Debug("a peer's stream ended", "protocol", string(p), "node", id.String(), "error", err)
		}
		var coded *streamError
		switch {
		case err == nil:
			_ = s.Close()
		case errors.As(err, &coded):
			_ = s.ResetWithError(coded.code)
		default:
			_ = s.Reset()
		}
	})
}

// streamError is why a stream is reset, in words for this side and a code for
// the other.
type streamError struct {
	code network.StreamErrorCode
	err  error
}

func (e *streamError) Error() string {
	return fmt.Sprintf("stream error 0x%x: %v", uint32(e.code), e.err)
}
func (e *streamError) Unwrap() error { return e.err }

// jitter is a random duration between d/2 and d.
func (m *Mesh) jitter(d time.Duration) time.Duration {
	m.rng.Lock()
	defer m.rng.Unlock()
	return d/2 + time.Duration(m.rng.Int64N(int64(d/2)+1))
}

// sleep waits for d or the end of ctx, and says whether it was d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tasks are the goroutines that Close waits for.
type tasks struct {
	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

// enter says whether there is still time to begin; then leave must follow.
func (t *tasks) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.wg.Add(1)
	return true
}

func (t *tasks) leave() { t.wg.Done() }

// run runs f in a goroutine, unless it is too late.
func (t *tasks) run(f func()) {
	if t.enter() {
		go func() {
			defer t.leave()
			f()
		}()
	}
}

// stop lets nothing begin any more; it is true for the first caller.
func (t *tasks) stop() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.stopped
	t.stopped = true
	return first
}

func (t *tasks) wait() { t.wg.Wait() }
