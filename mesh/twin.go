package mesh

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"

	"github.com/priormesh/priormesh/index"
)

// Two processes with one key are two homes of one node: a copy, or a backup that
// was restored while the old home runs. To libp2p they are one peer with several
// connections, of which one is kept: one of the two is turned away, and what it
// says is heard by nobody. Each process names itself anew in what identify says,
// so that its peers can tell: one that is there before and after another was there
// is not what the other has become, and both run.

const (
	agent       = "priormesh"
	maxRuns     = 8                // processes of one node that are remembered
	maxTold     = 512              // bytes of a message about a twin
	tellWithin  = 5 * time.Second  // for a message about a twin
	tellAgain   = 30 * time.Second // before a connection is told once more
	twinFor     = 2 * time.Minute  // after it was seen last a twin is still spoken of: a node that is turned away dials several times in that time
	sayTwinOnce = 10 * time.Minute // in the log
)

// Twin says that two processes run with the key of a node.
type Twin struct {
	Seen time.Time    // by Config.Now; zero: there are no two
	At   []string     // multiaddrs from which they speak, as far as it is known
	By   index.NodeID // who says it, of this node's own key
	last time.Time    // by the machine's clock
}

type twins struct {
	m   *Mesh
	run string // this process

	mu   sync.Mutex
	of   map[index.NodeID]*runs
	own  Twin
	said map[index.NodeID]time.Time
}

// runs are the processes that were seen of a node.
type runs struct {
	all   map[string]*span
	conns map[string]string // connection -> process
	told  map[string]time.Time
	twin  Twin
}

type span struct {
	first, last time.Time
	at          string
}

func newTwins(m *Mesh, run []byte) *twins {
	return &twins{m: m, run: hex.EncodeToString(run), of: make(map[index.NodeID]*runs), said: make(map[index.NodeID]time.Time)}
}

// watch hears of every connection which process it leads to.
func (t *twins) watch(sub event.Subscription) {
	defer sub.Close()
	for {
		select {
		case <-t.m.ctx.Done():
			return
		case e := <-sub.Out():
			if e, ok := e.(event.EvtPeerIdentificationCompleted); ok {
				t.identified(e)
			}
		}
	}
}

func (t *twins) identified(e event.EvtPeerIdentificationCompleted) {
	id, ok := nodeOf(e.Peer)
	name, run, named := strings.Cut(e.AgentVersion, "/")
	if !ok || !named || name != agent || len(run) == 0 || len(run) > 64 || !t.m.allowed(id) {
		return // of a version that does not say it
	}
	t.mu.Lock()
	r := t.of[id]
	if r == nil {
		r = &runs{all: make(map[string]*span), conns: make(map[string]string), told: make(map[string]time.Time)}
		t.of[id] = r
	}
	open := make(map[string]bool)
	for _, c := range t.m.host.Network().ConnsToPeer(e.Peer) {
		open[c.ID()] = true
	}
	for c := range r.conns {
		if !open[c] {
			delete(r.conns, c)
			delete(r.told, c)
		}
	}
	r.conns[e.Conn.ID()] = run
	t.mu.Unlock()
	t.lives(id, e.Conn)
}

// lives notes that the process at the other end of a connection lives, and says
// so where it follows that there are two.
func (t *twins) lives(id index.NodeID, c network.Conn) {
	now := time.Now()
	t.mu.Lock()
	r := t.of[id]
	if r == nil {
		t.mu.Unlock()
		return
	}
	run, known := r.conns[c.ID()]
	if !known {
		t.mu.Unlock()
		return
	}
	s := r.all[run]
	if s == nil {
		s = &span{first: now}
		r.all[run] = s
	}
	s.last, s.at = now, pathOf(c).Remote
	for len(r.all) > maxRuns {
		oldest := ""
		for name, o := range r.all {
			if oldest == "" || o.last.Before(r.all[oldest].last) {
				oldest = name
			}
		}
		delete(r.all, oldest)
	}
	var other *span
	for name, o := range r.all {
		if name != run && o.last.After(s.first) && (other == nil || o.last.After(other.last)) {
			other = o
		}
	}
	// One that was last seen long ago has ended since.
	if other == nil || now.Sub(other.last) > twinFor {
		t.mu.Unlock()
		return
	}
	r.twin = Twin{Seen: t.m.cfg.Now(), At: []string{other.at, s.at}, last: now}
	say := now.Sub(t.said[id]) >= sayTwinOnce
	if say {
		t.said[id] = now
	}
	var tell []network.Conn
	for _, c := range t.m.host.Network().ConnsToPeer(peerOf(id)) {
		if _, known := r.conns[c.ID()]; known && now.Sub(r.told[c.ID()]) >= tellAgain {
			r.told[c.ID()] = now
			tell = append(tell, c)
		}
	}
	at := slices.Clone(r.twin.At)
	t.mu.Unlock()
	if say {
		t.m.log.Error("two nodes run with one key: one of them is turned away, and what it receives nobody hears of; its trust has to end one of them for good", "node", id.String(), "at", at)
	}
	for _, c := range tell {
		t.m.tasks.run(func() {
			if err := t.tell(c, at); err != nil {
				t.m.log.Debug("a node could not be told that another one runs with its key", "node", id.String(), "error", err)
			}
		})
	}
}

// twin returns what is known of a node's twin now.
func (t *twins) twin(id index.NodeID) Twin {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.of[id]; r != nil && time.Since(r.twin.last) < twinFor {
		return r.twin
	}
	return Twin{}
}

// Twin says that another process runs with this node's own key, as a member has
// told lately.
func (m *Mesh) Twin() Twin {
	m.twins.mu.Lock()
	defer m.twins.mu.Unlock()
	if time.Since(m.twins.own.last) < twinFor {
		return m.twins.own
	}
	return Twin{}
}

// tell says to the process at the other end of a connection that there are two.
func (t *twins) tell(c network.Conn, at []string) error {
	ctx, cancel := context.WithTimeout(t.m.ctx, tellWithin)
	defer cancel()
	s, err := c.NewStream(ctx)
	if err != nil {
		return err
	}
	if err := s.SetDeadline(time.Now().Add(tellWithin)); err != nil {
		return err
	}
	err = s.SetProtocol(protocolTwin)
	if err == nil {
		err = multistream.SelectProtoOrFail(protocolTwin, s)
	}
	if err == nil {
		text := strings.Join(at, "\n")
		_, err = io.WriteString(s, text[:min(len(text), maxTold)])
	}
	if err != nil {
		_ = s.Reset()
		return err
	}
	return s.Close()
}

// serve hears from a member that another process runs with this node's key.
func (t *twins) serve(s network.Stream, from index.NodeID) error {
	if err := s.SetReadDeadline(time.Now().Add(tellWithin)); err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(s, maxTold+1))
	if err != nil || len(b) > maxTold {
		return fmt.Errorf("a message about a twin: %w", ErrBadMessage)
	}
	var at []string
	for line := range strings.Lines(string(b)) {
		if a, err := multiaddr.NewMultiaddr(strings.TrimSpace(line)); err == nil && len(at) < 2 {
			at = append(at, a.String())
		}
	}
	now := time.Now()
	t.mu.Lock()
	t.own = Twin{Seen: t.m.cfg.Now(), At: at, By: from, last: now}
	say := now.Sub(t.said[t.m.self]) >= sayTwinOnce
	if say {
		t.said[t.m.self] = now
	}
	t.mu.Unlock()
	if say {
		t.m.log.Error("another node runs with this node's key, as a member sees both: members hear one of the two and turn the other away, and what that receives nobody hears of. End one of them for good: the home that a backup was restored from, or a copy. If there is no other home, the key is in other hands",
			"by", from.String(), "at", at)
	}
	return nil
}
