package archive

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
	"github.com/priormesh/priormesh/node/audit"
)

// Errors that callers tell apart.
var (
	// ErrNotFound says that neither this node nor the index knows it.
	ErrNotFound = errors.New("no such study, series or instance is known")
	// ErrNotListed says that a remote study's contents were never asked for, so
	// that its series are not known here.
	ErrNotListed = errors.New("the contents of the remote study have not been listed here yet")
)

// Conflict says that a SOP Instance UID is taken here by other bytes. What was
// first is kept.
type Conflict struct{ Instance dicom.UID }

func (c *Conflict) Error() string {
	return fmt.Sprintf("conflict: SOP Instance UID %s is already stored here with different bytes; the first is kept, this one is refused; "+
		"find out which is right, and give the other a UID of its own", c.Instance.Short())
}

// Unavailable says that what was asked for exists but cannot be had now.
type Unavailable struct {
	Reason     string
	RetryAfter time.Duration
}

func (u *Unavailable) Error() string { return u.Reason }

// Transfers is what the archive needs of the mesh.
type Transfers interface {
	OpenStudy(context.Context, index.NodeID, mesh.StudyRequest) (*mesh.StudyStream, error)
	Draw(got func(cas.Block) error, have func(cid.Cid) bool) *mesh.Draw
	FetchBlocks(context.Context, []*mesh.StudyStream, []cid.Cid, func(cas.Block) error) ([]cid.Cid, error)
	Peers() []mesh.Peer
}

// Options are the archive's parts and settings.
type Options struct {
	DB *badger.DB // the index's database; tables 0x40-0x6f are the archive's
	// Blocks keeps what was received here, Copies what other trusts received.
	// They may be one store.
	Blocks, Copies cas.Store
	Keys           Keys
	// CopyKeys keeps the keys of copies, if Space.Shared; else Keys does.
	CopyKeys Keys
	Index    *index.Index
	Audit    *audit.Log
	Policy   access.Policy
	Self     index.NodeID
	Issuer   string // of Patient IDs that name none
	Now      func() time.Time
	Log      *slog.Logger

	Room  Room // nil: there always is
	Space SpaceOptions

	// Everything is verified in the background: so many bytes a second, a round
	// so long after the one before. Zero ScrubEvery: never.
	ScrubRate  int64
	ScrubEvery time.Duration
	scrubLimit limiter // of tests

	eraseFault func(step string) error // of tests

	PublishAfter, SettleAfter time.Duration
	Fetch                     Fetching // at the start: see SetFetching
	Limits                    dicom.Limits
	GrantFor                  time.Duration
	// Silence says of a node how long it has not been heard from, for people:
	// "RX2 has not been heard from since …"; empty when it is well.
	Silence func(index.NodeID) string
	// OnArrival is told of a study of which something has arrived. It must not
	// block.
	OnArrival func(study string)
}

const studyLocks = 64

// Archive is the node's studies: what was received here and copies of what
// others received.
type Archive struct {
	Options
	db       rows
	queue    *queue
	grants   *grants
	refusals refusals
	pub      *publisher
	space    *space
	damage   *damages
	erase    *erasures
	// locks are the studies', each of all that hash to it. Whoever needs several
	// of these takes them in this order: a source's gate, commits.turn, a study's
	// lock, the index's own. Nobody takes a second study's lock, waiting, and
	// nobody who has one waits at a gate: who shuts a gate waits for the lock.
	locks    [studyLocks]sync.Mutex
	commits  commits
	news     news
	foreseen foreseen

	unlookedMu   sync.Mutex   // held while a note and unlookedLeft change together
	unlookedLeft atomic.Int64 // studies that are noted in tableUnlooked
	unlookedNew  chan struct{}
	distrusted   distrusted
	lostStudies  lostStudies

	remotes remotes

	settings atomic.Pointer[Fetching]
	comings  comings

	indexDamaged atomic.Bool

	transfers Transfers
	group     *errgroup.Group
	stop      context.CancelFunc
	running   context.Context // until Close
}

// Open reads the catalogue and the queue. Nothing moves until Start.
func Open(o Options) (*Archive, error) {
	q, err := openQueue(o.DB, o.Now)
	if err != nil {
		return nil, err
	}
	q.update = o.Index.Update
	q.failed = func(err error) { o.Log.Error("the fetch queue cannot be written", "error", err) }
	a := &Archive{Options: o, db: o.Index, queue: q, unlookedNew: make(chan struct{}, 1)}
	if o.Space.Shared {
		a.Keys = splitKeys{a, o.Keys, o.CopyKeys}
	}
	a.erase = newErasures(a)
	a.grants = newGrants(a)
	a.pub = newPublisher(a)
	a.commits.a = a
	a.news.of = make(map[string]chan struct{})
	a.comings.of = make(map[index.NodeID]int)
	a.SetFetching(o.Fetch)
	a.remotes.of = make(map[remoteID]*remote)
	a.space = newSpace(a)
	if err := a.pub.recover(); err != nil {
		return nil, err
	}
	if err := a.space.recover(); err != nil {
		return nil, err
	}
	if a.damage, err = openDamages(a); err != nil {
		return nil, err
	}
	if err := a.erase.recover(); err != nil {
		return nil, err
	}
	if err := a.erase.catchUp(); err != nil {
		return nil, err
	}
	if err := a.countUnlooked(); err != nil {
		return nil, err
	}
	return a, nil
}

// Start begins publishing and bringing. The mesh comes this late because the
// mesh itself asks the archive for grants and blocks.
func (a *Archive) Start(t Transfers) {
	ctx, cancel := context.WithCancel(context.Background())
	a.transfers, a.stop, a.running = audited{t, a}, cancel, ctx
	a.group = new(errgroup.Group)
	a.group.Go(func() error { a.pub.run(ctx); return nil })
	a.group.Go(func() error {
		if _, err := a.RecoverLost(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("what the catalogue may have lost could not be looked for; a verification does it again", "error", err)
		}
		a.lookThrough(ctx)
		return nil
	})
	a.group.Go(func() error { a.space.run(ctx); return nil })
	a.group.Go(func() error { a.erase.run(ctx); return nil })
	for range mendersMax {
		a.group.Go(func() error { a.mend(ctx); return nil })
	}
	if a.ScrubEvery > 0 {
		a.group.Go(func() error { a.scrub(ctx); return nil })
	}
	a.group.Go(func() error { a.dispatch(ctx); return nil })
}

// SetFetching changes the settings of the fetch queue. What is under way goes on.
func (a *Archive) SetFetching(f Fetching) {
	f = f.shared()
	a.settings.Store(&f)
	a.queue.setPlaces(f.Workers)
}

func (a *Archive) fetching() Fetching { return *a.settings.Load() }

// Close waits for what is under way to reach the disk or be given up.
func (a *Archive) Close() error {
	if a.stop == nil {
		return nil
	}
	a.stop()
	err := a.group.Wait()
	a.remotes.end()
	return errors.Join(err, a.refusals.end(a.Audit.Append))
}

// shelf is where the blocks of a source lie.
func (a *Archive) shelf(id sourceID, k cas.Key) cas.Shelf {
	return a.store(id.Origin).Shelf(k.Shelf())
}

// lock serialises changes to one study's records.
func (a *Archive) lock(study string) *sync.Mutex { return &a.locks[lockOf(study)] }

func lockOf(study string) int {
	h := fnv.New32a()
	h.Write([]byte(study))
	return int(h.Sum32() % studyLocks)
}

// news tells readers that wait that something of a study has changed.
type news struct {
	mu sync.Mutex
	of map[string]chan struct{}
}

// next returns a channel that is closed at the study's next change. Take it
// before looking, wait on it after.
func (n *news) next(study string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.of[study]
	if c == nil {
		c = make(chan struct{})
		n.of[study] = c
	}
	return c
}

func (n *news) tell(study string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.of[study]; c != nil {
		close(c)
		delete(n.of, study)
	}
}

func short(study string) string { return dicom.UID(study).Short() }
