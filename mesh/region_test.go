package mesh_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// goroutines of libraries that outlive whoever started them.
var ignored = []goleak.Option{
	// A process-wide ticker of go-flow-metrics and a cache sweeper of glog,
	// which badger brings.
	goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
}

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("4") // most of the time these tests wait
	}
	code := m.Run()
	if code == 0 {
		if err := leaked(20 * time.Second); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaked waits for goroutines to end: those of memberlist do so a moment
// after its Shutdown.
func leaked(patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		err := goleak.Find(ignored...)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// logbook is a log that tests read.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logbook) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), what)
}

// region is trusts of one node each, with real indexes and real stores.
type region struct {
	t     testing.TB
	mu    sync.Mutex
	nodes []*node
	// barred is kept out although the roster has it; nil: nobody
	barred map[index.NodeID]bool
	addrs  map[index.NodeID][]string
}

type node struct {
	r     *region
	trust index.TrustID
	key   ed25519.PrivateKey
	id    index.NodeID
	index *index.Index
	store cas.Shelf
	study *studies
	log   *logbook
	mesh  *mesh.Mesh
	tune  func(*mesh.Config, *mesh.Deps)
}

func newRegion(t testing.TB, size int) *region {
	t.Helper()
	r := &region{t: t, barred: map[index.NodeID]bool{}, addrs: map[index.NodeID][]string{}}
	var votes []index.Vote
	var region index.RegionID
	trustKeys := map[index.TrustID]ed25519.PrivateKey{}
	for i := range size {
		n := &node{r: r, trust: index.TrustID(fmt.Sprintf("T%02d", i)), store: cas.NewMemory().Shelf(cas.ShelfID{1}), log: new(logbook)}
		trustPub, trustKey, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		_, n.key, err = ed25519.GenerateKey(rand.Reader)
		must(t, err)
		n.id = index.NodeIDOf(n.key)
		n.study = newStudies()
		cert, err := index.NewNodeCert(trustKey, n.trust, n.key, 1)
		must(t, err)
		card := index.Card{Trust: n.trust, Name: string(n.trust), TrustKey: trustPub, NodeCert: cert}
		if i == 0 {
			v, err := index.Found(trustKey, "region", card)
			must(t, err)
			votes, region = append(votes, v), index.RegionID(v.Hash())
		} else {
			roster := index.EvalRoster(region, votes, nil)
			for _, m := range roster.Members[:roster.Quorum()] {
				now := index.EvalRoster(region, votes, nil)
				v, err := index.Admit(trustKeys[m.Trust], roster, card, now.NextSerial(m.Trust))
				must(t, err)
				votes = append(votes, v)
			}
		}
		trustKeys[n.trust] = trustKey
		r.nodes = append(r.nodes, n)
	}
	for _, n := range r.nodes {
		db, err := badger.Open(badger.DefaultOptions(t.TempDir()).WithSyncWrites(true).WithLogger(nil).WithMemTableSize(16 << 20))
		must(t, err)
		t.Cleanup(func() { must(t, db.Close()) })
		n.index, err = index.Open(db, index.Options{
			Self: n.key, Trust: n.trust, Region: region, Votes: votes,
			FoldName: strings.ToLower, NamesAgree: strings.EqualFold, Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler),
		})
		must(t, err)
	}
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, n := range r.nodes {
			if n.mesh != nil {
				wg.Go(func() {
					if err := n.mesh.Close(); err != nil {
						t.Errorf("closing %s: %v", n.trust, err)
					}
				})
			}
		}
		wg.Wait()
	})
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// config is a node's configuration with the patience of tests.
func (n *node) config() (mesh.Config, mesh.Deps) {
	cfg := mesh.Config{
		Key: n.key, Listen: []string{"/ip4/127.0.0.1/tcp/0"},
		Log:    slog.New(slog.NewTextHandler(n.log, nil)),
		Timing: mesh.Timing{Gossip: 50 * time.Millisecond, Penalty: time.Millisecond},
	}
	deps := mesh.Deps{
		Allowed: func(id index.NodeID) bool {
			n.r.mu.Lock()
			defer n.r.mu.Unlock()
			_, ok := n.index.Roster().Allowed(id)
			return ok && !n.r.barred[id]
		},
		Addrs: func() map[index.NodeID][]string {
			n.r.mu.Lock()
			defer n.r.mu.Unlock()
			out := make(map[index.NodeID][]string)
			for _, id := range n.index.Roster().Nodes() {
				out[id] = slices.Clone(n.r.addrs[id])
			}
			return out
		},
		Index: n.index, Studies: n.study, Blocks: n.store,
	}
	if n.tune != nil {
		n.tune(&cfg, &deps)
	}
	return cfg, deps
}

// start opens a node's mesh and makes its addresses known.
func (n *node) start() {
	n.r.t.Helper()
	cfg, deps := n.config()
	m, err := mesh.Open(context.Background(), cfg, deps)
	must(n.r.t, err)
	n.mesh = m
	n.r.mu.Lock()
	n.r.addrs[n.id] = m.Addrs()
	n.r.mu.Unlock()
}

func (r *region) start() {
	r.t.Helper()
	for _, n := range r.nodes {
		n.start()
	}
	r.meet(r.nodes...)
}

// meet waits until all hold each other for connected and alive.
func (r *region) meet(nodes ...*node) {
	r.t.Helper()
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				eventually(r.t, fmt.Sprintf("%s sees %s", a.trust, b.trust), func() bool {
					p := a.peer(b)
					return p.Connected && p.Alive && !p.LastHeard.IsZero()
				})
			}
		}
	}
}

func (n *node) peer(other *node) mesh.Peer {
	for _, p := range n.mesh.Peers() {
		if p.ID == other.id {
			return p
		}
	}
	return mesh.Peer{}
}

func (n *node) say(uid string) index.Head {
	n.r.t.Helper()
	st, err := index.StudyStatement(index.Study{UID: uid, Patient: []index.PatientID{{ID: "1", Issuer: string(n.trust)}}, Date: "20250102", Revision: 1})
	must(n.r.t, err)
	h, err := n.index.Append(context.Background(), st)
	must(n.r.t, err)
	return h
}

func (n *node) knows(uid string) bool {
	all, err := n.index.Facts(index.KindStudy, uid)
	must(n.r.t, err)
	return len(all) > 0
}

// studies is a StudyServer: who may have what.
type studies struct {
	mu      sync.Mutex
	key     cas.Key
	grants  map[string]map[index.NodeID]bool // study, requester
	blocks  map[index.NodeID]map[cid.Cid]bool
	pushes  []cas.Block // what is pushed to whoever asks for a push
	asked   []mesh.Push
	expires time.Time
	fail    error
}

func newStudies() *studies {
	return &studies{
		grants: map[string]map[index.NodeID]bool{}, blocks: map[index.NodeID]map[cid.Cid]bool{},
		expires: time.Now().Add(time.Hour),
	}
}

// allow lets a requester have a study and its blocks.
func (s *studies) allow(study string, to index.NodeID, cids ...cid.Cid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grants[study] == nil {
		s.grants[study] = map[index.NodeID]bool{}
	}
	s.grants[study][to] = true
	if s.blocks[to] == nil {
		s.blocks[to] = map[cid.Cid]bool{}
	}
	for _, c := range cids {
		s.blocks[to][c] = true
	}
}

func (s *studies) Grant(_ context.Context, from index.NodeID, req mesh.StudyRequest) (mesh.Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return mesh.Grant{}, s.fail
	}
	if !s.grants[req.Study][from] {
		return mesh.Grant{}, mesh.ErrRefused
	}
	return mesh.Grant{Expires: s.expires, Revision: 3, Settled: true, Manifest: cas.Ref{CID: cas.Sum([]byte("m")), Size: 1}, Key: s.key}, nil
}

func (s *studies) GrantedBlock(from index.NodeID, c cid.Cid) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocks[from][c]
}

func (s *studies) Push(_ context.Context, _ index.NodeID, _ mesh.Grant, p mesh.Push) iter.Seq2[cas.Block, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, p)
	blocks := s.pushes
	return func(yield func(cas.Block, error) bool) {
		for _, b := range blocks {
			if !yield(b, nil) {
				return
			}
		}
	}
}

// blocksOf makes n distinct blocks.
func blocksOf(n, size int) []cas.Block {
	out := make([]cas.Block, n)
	for i := range out {
		data := make([]byte, size)
		binary.BigEndian.PutUint32(data, uint32(i))
		out[i] = cas.Block{CID: cas.Sum(data), Data: data}
	}
	return out
}

func cidsOf(blocks []cas.Block) []cid.Cid {
	out := make([]cid.Cid, len(blocks))
	for i, b := range blocks {
		out[i] = b.CID
	}
	return out
}

// basket collects fetched blocks and refuses one that comes twice.
type basket struct {
	mu   sync.Mutex
	have map[cid.Cid][]byte
}

func (b *basket) got(blk cas.Block) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.have == nil {
		b.have = map[cid.Cid][]byte{}
	}
	if _, ok := b.have[blk.CID]; ok {
		return fmt.Errorf("block %s came twice", blk.CID)
	}
	b.have[blk.CID] = blk.Data
	return nil
}

func (b *basket) check(t *testing.T, want []cas.Block) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.have) != len(want) {
		t.Fatalf("%d blocks came, want %d", len(b.have), len(want))
	}
	for _, w := range want {
		if !bytes.Equal(b.have[w.CID], w.Data) {
			t.Fatalf("block %s is not what was stored", w.CID)
		}
	}
}
