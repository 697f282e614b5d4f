package mesh

import (
	"context"
	"errors"
	"sync"
	"time"

	boxo "github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/client"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

const (
	maxBitswapWants = 1024    // of one peer, queued here
	maxBitswapBytes = 4 << 20 // on their way to one peer
	maxBitswapCID   = 64      // bytes of an address in a want
)

// bitswap is boxo's, behind the same door as study streams: it gives a peer
// only what it may have by a grant, asks only holders that granted, and what
// it receives goes to whoever fetches, not into a store.
type bitswap struct {
	*boxo.Bitswap
	m         *Mesh
	providers *providers
}

func newBitswap(m *Mesh) *bitswap {
	p := &providers{of: make(map[cid.Cid]map[peer.ID]int)}
	return &bitswap{
		m:         m,
		providers: p,
		Bitswap: boxo.New(m.ctx, bsnet.NewFromIpfsHost(m.host), p, readOnly{m},
			boxo.WithPeerBlockRequestFilter(func(p peer.ID, c cid.Cid) bool {
				id, ok := nodeOf(p)
				return ok && m.granted(id, c)
			}),
			boxo.ProviderSearchDelay(time.Millisecond),
			boxo.WithClientOption(client.BroadcastControlEnable(true)),
			boxo.WithClientOption(client.BroadcastControlMaxPeers(0)),
			boxo.WithoutDuplicatedBlockStats(),
			boxo.MaxOutstandingBytesPerPeer(maxBitswapBytes),
			boxo.MaxQueuedWantlistEntriesPerPeer(maxBitswapWants),
			boxo.MaxCidSize(maxBitswapCID),
			boxo.EngineBlockstoreWorkerCount(4),
			boxo.EngineTaskWorkerCount(2),
			boxo.TaskWorkerCount(2),
		),
	}
}

// fetch asks the holders for the blocks and gives up when none came for the
// idle time: a holder that denies a block may well say nothing. came lists
// those that were given to got. An error is got's or the context's.
func (b *bitswap) fetch(ctx context.Context, cids []cid.Cid, holders map[cid.Cid][]index.NodeID, got func(cas.Block) error) (came map[cid.Cid]bool, err error) {
	came = make(map[cid.Cid]bool)
	session, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.m.ctx, cancel)()
	b.providers.add(holders)
	defer b.providers.remove(holders)
	in, err := b.NewSession(session).GetBlocks(session, cids)
	if err != nil {
		if ctx.Err() != nil {
			return came, ctx.Err()
		}
		return came, nil // the streams' errors say more
	}
	idle := time.NewTimer(b.m.cfg.Timing.Idle)
	defer idle.Stop()
	for len(came) < len(cids) {
		select {
		case <-ctx.Done():
			return came, ctx.Err()
		case <-idle.C:
			return came, nil
		case block, ok := <-in:
			if !ok {
				return came, ctx.Err()
			}
			got1 := cas.Block{CID: block.Cid(), Data: block.RawData()}
			if err := got1.Verify(); err != nil {
				// boxo names a block by the hash of its bytes, so this is a
				// block of another kind that nobody asked for.
				continue
			}
			if came[got1.CID] {
				continue
			}
			if err := b.m.taking.wait(ctx, nil, index.NodeID{}, Unattended, len(got1.Data)); err != nil {
				return came, ctx.Err()
			}
			if err := got(got1); err != nil {
				return came, err
			}
			came[got1.CID] = true
			b.m.counters.blocksFetched.Add(1)
			b.m.counters.blocksByBitswap.Add(1)
			b.m.counters.bytesFetched.Add(uint64(len(got1.Data)))
			idle.Reset(b.m.cfg.Timing.Idle)
		}
	}
	return came, nil
}

// providers is bitswap's content discovery: for a block that is being
// fetched, the holders that granted it. It knows nobody else.
type providers struct {
	mu sync.Mutex
	of map[cid.Cid]map[peer.ID]int // how many fetches name the holder
}

func (p *providers) add(holders map[cid.Cid][]index.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, ids := range holders {
		if p.of[c] == nil {
			p.of[c] = make(map[peer.ID]int)
		}
		for _, id := range ids {
			p.of[c][peerOf(id)]++
		}
	}
}

func (p *providers) remove(holders map[cid.Cid][]index.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, ids := range holders {
		for _, id := range ids {
			if p.of[c][peerOf(id)]--; p.of[c][peerOf(id)] == 0 {
				delete(p.of[c], peerOf(id))
			}
		}
		if len(p.of[c]) == 0 {
			delete(p.of, c)
		}
	}
}

// FindProvidersAsync implements routing.ContentDiscovery.
func (p *providers) FindProvidersAsync(_ context.Context, c cid.Cid, n int) <-chan peer.AddrInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(chan peer.AddrInfo, len(p.of[c]))
	for id := range p.of[c] {
		if n > 0 && len(out) == n {
			break
		}
		out <- peer.AddrInfo{ID: id}
	}
	close(out)
	return out
}

// readOnly is the node's store in boxo's shape. It only gives, and a block
// that cannot be read is one that is not here: one damaged block must not
// keep bitswap from serving the others of a message.
type readOnly struct{ m *Mesh }

var _ blockstore.Blockstore = readOnly{}

var errReadOnly = errors.New("bitswap writes nothing")

func (r readOnly) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	b, err := r.get(ctx, c)
	if err == nil {
		err = r.m.serving.wait(ctx, nil, index.NodeID{}, Unattended, len(b.RawData()))
	}
	return b, err
}

func (r readOnly) get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	data, err := r.m.read(ctx, c)
	if err != nil {
		return nil, err
	}
	if data == nil {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	return blocks.NewBlockWithCid(data, c)
}

func (r readOnly) Has(ctx context.Context, c cid.Cid) (bool, error) {
	r.m.life.RLock()
	defer r.m.life.RUnlock()
	if r.m.life.over {
		return false, ErrClosed
	}
	return r.m.deps.Blocks.Has(ctx, c)
}

func (r readOnly) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	b, err := r.get(ctx, c)
	if err != nil {
		return -1, err
	}
	return len(b.RawData()), nil
}

func (r readOnly) DeleteBlock(context.Context, cid.Cid) error          { return errReadOnly }
func (r readOnly) Put(context.Context, blocks.Block) error             { return errReadOnly }
func (r readOnly) PutMany(context.Context, []blocks.Block) error       { return errReadOnly }
func (r readOnly) AllKeysChan(context.Context) (<-chan cid.Cid, error) { return nil, errReadOnly }
