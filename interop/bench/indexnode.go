package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	randv2 "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/simulations/synthetic"
)

// part is what a process of the index benchmark is told. Each holds one thing
// and nothing else, so that what it takes of memory and CPU is that thing's.
type part struct {
	Region  synthetic.Options
	Home    string        // folder of an index
	Trust   index.TrustID // whose node
	Logs    string        // folder of written logs
	Network string        // where to listen or dial
	Addr    string
	Packed  bool   // messages are packed, as the mesh does it
	Cgroup  string // to join first
	Profile string // CPU profile
	Own     bool   // the own trust's statements are said too
	Draws   int
	Each    time.Duration // at most for one question
}

// loaded is what a node that took logs in reports.
type loaded struct {
	Open, Take, Append       time.Duration
	TakeCPU, AppendCPU       time.Duration
	Facts, Own, Batches      int   // taken; said; batches received
	Twice                    int   // facts that were received again
	Received                 int64 // bytes of messages
	Studies                  int
	Messages, Ticks, Answers int
}

// confined joins a part's cgroup and writes its profile.
func confined(do func(context.Context, part) (any, error)) func(context.Context, part) (any, error) {
	return func(ctx context.Context, p part) (any, error) {
		if p.Cgroup != "" {
			if err := os.WriteFile(filepath.Join(p.Cgroup, "cgroup.procs"), []byte("0\n"), 0); err != nil {
				return nil, err
			}
		}
		if p.Profile != "" {
			f, err := os.Create(p.Profile)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			if err := pprof.StartCPUProfile(f); err != nil {
				return nil, err
			}
			defer pprof.StopCPUProfile()
		}
		return do(ctx, p)
	}
}

// openNode opens an index exactly as a node does.
func openNode(p part) (*index.Index, *badger.DB, error) {
	trusts := p.Region.Trusts
	if trusts == nil {
		trusts = synthetic.Trusts()
	}
	m, err := newMembers(trusts)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(p.Home, 0o700); err != nil {
		return nil, nil, err
	}
	db, err := badger.Open(node.IndexOptions(p.Home))
	if err != nil {
		return nil, nil, err
	}
	x, err := index.Open(db, index.Options{
		Self: m.nodes[p.Trust], Trust: p.Trust, Region: m.id, Votes: m.votes, FoldName: dicom.FoldName, NamesAgree: dicom.NamesAgree,
		Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return x, db, nil
}

// wire carries messages as the mesh does: each behind its length.
type wire struct {
	c     net.Conn
	r     io.Reader
	w     *bufio.Writer
	p     *index.Packer // nil: messages go as they are
	in    chan index.Message
	err   error // after in is closed
	bytes int64
}

func newWire(c net.Conn, packed bool) (*wire, error) {
	w := &wire{c: c, r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriterSize(c, 64<<10), in: make(chan index.Message)}
	if packed {
		p, err := index.NewPacker()
		if err != nil {
			return nil, err
		}
		w.p = p
	}
	return w, nil
}

// read decodes messages until the other side is gone.
func (w *wire) read(ctx context.Context) {
	defer close(w.in)
	for {
		b, err := readRecord(w.r)
		if err != nil {
			w.err = err
			return
		}
		if w.p != nil {
			if b, err = w.p.Unpack(b); err != nil {
				w.err = err
				return
			}
		}
		m, err := index.DecodeMessage(b)
		if err != nil {
			w.err = err
			return
		}
		w.bytes += int64(len(b))
		select {
		case w.in <- m:
		case <-ctx.Done():
			return
		}
	}
}

func (w *wire) send(out []index.Outgoing) error {
	for _, o := range out {
		b := o.Message.Encode()
		if w.p != nil {
			b = w.p.Pack(b)
		}
		if err := writeRecord(w.w, b); err != nil {
			return err
		}
	}
	return w.w.Flush()
}

// passEvery is how often the machine is told that time has passed. It is not held back: the link is what bounds the bytes here.
const (
	passEvery = 100 * time.Millisecond
	unbounded = 1 << 30
)

// exchange runs the step machine with one peer until it is done.
func exchange(ctx context.Context, c net.Conn, packed bool, logs index.Logs, self, peer index.NodeID, done func(*index.Sync) bool) (l loaded, err error) {
	w, err := newWire(c, packed)
	if err != nil {
		return l, err
	}
	ctx, cancel := context.WithCancel(ctx)
	read := make(chan struct{})
	go func() { w.read(ctx); close(read) }()
	defer func() { cancel(); c.Close(); <-read; l.Received = w.bytes }()
	s := index.NewSync(logs, index.SyncOptions{Self: self, Rand: randv2.New(randv2.NewPCG(1, 1)), Pull: unbounded, Send: unbounded})
	tick, pass := time.NewTicker(index.DefaultTick), time.NewTicker(passEvery)
	defer tick.Stop()
	defer pass.Stop()
	out, err := s.Tick([]index.NodeID{peer})
	if err != nil {
		return l, err
	}
	for {
		if err := w.send(out); err != nil {
			return l, err
		}
		if done(s) {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return l, ctx.Err()
		case <-tick.C:
			l.Ticks++
			if out, err = s.Tick([]index.NodeID{peer}); err != nil {
				return l, err
			}
		case <-pass.C:
			if out, err = s.Pass(passEvery); err != nil {
				return l, err
			}
		case m, ok := <-w.in:
			if !ok {
				return l, w.err
			}
			l.Messages++
			if b, is := m.(index.Batches); is {
				l.Answers++
				l.Batches += len(b.Batches)
				for _, b := range b.Batches {
					l.Facts += len(b.Payloads)
				}
			}
			if out, err = s.Step(peer, m); err != nil {
				return l, err
			}
		}
	}
}

// answerPart answers a peer's questions from written logs, or from the index
// in Home, until the peer is gone.
func answerPart(ctx context.Context, p part) (any, error) {
	r, err := synthetic.New(p.Region)
	if err != nil {
		return nil, err
	}
	m, err := newMembers(r.Trusts())
	if err != nil {
		return nil, err
	}
	var logs index.Logs
	if p.Logs != "" {
		if logs, err = openWritten(p.Logs, r.Trusts()); err != nil {
			return nil, err
		}
	} else {
		x, db, err := openNode(p)
		if err != nil {
			return nil, err
		}
		defer db.Close()
		logs = x
	}
	l, err := net.Listen(p.Network, p.Addr)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	listening(l.Addr().String())
	c, err := l.Accept()
	if err != nil {
		return nil, err
	}
	self, peer := index.NodeIDOf(m.nodes[p.Trust]), index.NodeIDOf(m.nodes[newcomer])
	if p.Logs != "" {
		self, peer = index.NodeIDOf(m.nodes[r.Trusts()[len(r.Trusts())-1].ID]), index.NodeIDOf(m.nodes[r.Trusts()[0].ID])
	}
	cpu := cpuTime()
	out, err := exchange(ctx, c, p.Packed, logs, self, peer, func(*index.Sync) bool { return false })
	out.TakeCPU = cpuTime() - cpu
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || isReset(err) {
		err = nil
	}
	return out, err
}

func isReset(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "connection reset") || strings.Contains(err.Error(), "broken pipe"))
}

// takePart is a node that takes in what a peer has, and says what its own
// trust has to say.
func takePart(ctx context.Context, p part) (any, error) {
	r, err := synthetic.New(p.Region)
	if err != nil {
		return nil, err
	}
	m, err := newMembers(r.Trusts())
	if err != nil {
		return nil, err
	}
	want, err := readHeads(p.Logs, r.Trusts())
	if err != nil {
		return nil, err
	}
	began := time.Now()
	x, db, err := openNode(p)
	if err != nil {
		return nil, err
	}
	opened := time.Since(began)
	defer db.Close()
	teller := r.Trusts()[0].ID
	if p.Trust != newcomer {
		teller = r.Trusts()[len(r.Trusts())-1].ID
	}
	peer := index.NodeIDOf(m.nodes[teller])
	took := func(s *index.Sync) bool {
		for _, h := range want {
			if have, ok := x.Head(h.Node); !ok || have.Seq < h.Seq {
				return false
			}
		}
		if p.Trust == newcomer { // and the sender's own
			_, ok := x.Head(peer)
			n, _, err := x.Count(context.Background(), index.Query{})
			return ok && err == nil && n >= p.Region.Studies && len(s.Bootstraps()) == 0
		}
		return true
	}
	began, cpu := time.Now(), cpuTime()
	var l loaded
	if teller != p.Trust { // else there is nobody else
		c, err := net.Dial(p.Network, p.Addr)
		if err != nil {
			return nil, err
		}
		if l, err = exchange(ctx, c, p.Packed, x, x.Self(), peer, took); err != nil {
			return nil, err
		}
	}
	l.Open, l.Take, l.TakeCPU = opened, time.Since(began), cpuTime()-cpu
	received := l.Facts
	l.Facts = 0
	for _, h := range x.Heads() {
		l.Facts += int(h.Seq)
	}
	l.Twice = received - l.Facts
	if p.Own {
		began, cpu = time.Now(), cpuTime()
		f, err := os.Open(filepath.Join(p.Logs, ownFile))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		for in := bufio.NewReaderSize(f, 1<<20); ; {
			b, err := readRecord(in)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			st := decodeStatements(b)
			if _, err := x.Append(ctx, st...); err != nil {
				return nil, err
			}
			l.Own += len(st)
		}
		l.Append, l.AppendCPU = time.Since(began), cpuTime()-cpu
	}
	if l.Studies, _, err = x.Count(context.Background(), index.Query{}); err != nil {
		return nil, err
	}
	if l.Studies != p.Region.Studies {
		return nil, fmt.Errorf("the index has %d studies, %d were said", l.Studies, p.Region.Studies)
	}
	return l, db.Close()
}

// made is what making a snapshot took.
type made struct {
	Took, CPU    time.Duration
	Facts, Pages uint64
	Bytes        uint64
}

// snapshotPart makes a snapshot of the own log, and lets the log begin with it.
func snapshotPart(ctx context.Context, p part) (any, error) {
	x, db, err := openNode(p)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	began, cpu := time.Now(), cpuTime()
	s, err := x.MakeSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	return made{time.Since(began), cpuTime() - cpu, s.Facts, s.Pages, s.Bytes}, db.Close()
}

// restPart lets Badger compact all it can.
func restPart(_ context.Context, p part) (any, error) {
	db, err := badger.Open(node.IndexOptions(p.Home))
	if err != nil {
		return nil, err
	}
	return nil, errors.Join(db.Flatten(2), db.Close())
}
