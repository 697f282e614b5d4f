package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/ipfs/go-cid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/archive"
	"github.com/priormesh/priormesh/node/audit"
	"github.com/priormesh/priormesh/node/priors"
)

const (
	grantFor     = 15 * time.Minute // a grant outlives a large study on a slow link
	drainFor     = 10 * time.Second // requests under way at SIGTERM
	headerWithin = 10 * time.Second // for a request's header to arrive
	idleFor      = 2 * time.Minute  // an HTTP connection between requests
)

// instanceLimits keep a few hostile senders at once from using up a small
// machine's memory; what modalities make stays far below them.
func instanceLimits() dicom.Limits {
	l := dicom.DefaultLimits()
	l.Head, l.Elements = 4<<20, 512<<10
	return l
}

// receivingMemory is what the headers of all instances that are being received
// may take together, beyond what each may have anyway. An ordinary one needs none
// of it.
const receivingMemory = 256 << 20

// receivingLimits are instanceLimits for the archive, which shares one budget.
func receivingLimits() dicom.Limits {
	l := instanceLimits()
	l.Budget = dicom.NewBudget(receivingMemory)
	return l
}

// Options are what a node is given from outside.
type Options struct {
	Now     func() time.Time
	Rand    io.Reader
	Log     *slog.Logger
	Version string
	Alone   bool // a node that was restored does not wait for a member
}

// Node is a running node.
type Node struct {
	Options
	home    *Home
	started time.Time
	token   string
	unlock  func()

	db      *badger.DB
	blocks  *cas.Disk
	keys    *cas.Keyring // of what this trust received
	hasOwn  bool         // the catalogue had studies that were received here, when the node started
	bucket  *cas.S3      // of originals; nil: they are on disk
	shared  bool         // originals are in a bucket, which other nodes of this trust may use too
	index   *index.Index
	audit   *audit.Log
	archive *archive.Archive
	mesh    *mesh.Mesh
	priors  *priors.Engine
	hearing *hearing

	adoption  *adoption
	snapshots *snapshots
	shutting  *shutting
	settings  *settings
	disk      *disk

	anew      *restoredMark // the home was restored, and the node has not begun anew
	gap       atomic.Pointer[gap]
	lost      string      // what its index had lost when it started, for the operator
	learning  atomic.Bool // nothing is said
	unready   atomic.Bool // nothing is given
	backingUp sync.Mutex

	listener net.Listener
	server   *http.Server
	group    *errgroup.Group
	stop     context.CancelFunc
	closers  []func() error // in the order of opening
}

// Open starts the node of a home folder. It serves when Open returns, and
// until Close.
func Open(ctx context.Context, home *Home, o Options) (n *Node, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n = &Node{Options: o, home: home, started: o.Now(), group: new(errgroup.Group)}
	if n.unlock, err = lockHome(home.Dir); err != nil {
		return nil, err
	}
	n.closers = append(n.closers, func() error { n.unlock(); return nil })
	// Left by a process that was killed; commands would take it for this one's.
	if err := os.Remove(home.path(runFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return n, errors.Join(err, n.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.anew, err = home.restored(); err != nil {
		return n, err
	}
	g, err := home.gap()
	if err != nil {
		return n, err
	}
	n.gap.Store(g)
	n.unready.Store(n.anew != nil)
	if err := n.openStores(ctx); err != nil {
		return n, err
	}
	if n.learning.Load() && n.anew.Known == nil {
		if n.anew.Known, err = n.archive.OwnRetractions(); err == nil {
			err = home.mark(*n.anew)
		}
		if err != nil {
			return n, err
		}
	}
	if err := n.openMesh(ctx); err != nil {
		return n, err
	}
	if err := n.serve(); err != nil {
		return n, err
	}
	return n, nil
}

func (n *Node) openStores(ctx context.Context) error {
	h := n.home
	var err error
	if n.token, err = h.Token(); err != nil {
		return err
	}
	key, err := h.NodeKey()
	if err != nil {
		return err
	}
	region, err := h.Region()
	if err != nil {
		return err
	}
	reserve := int64(h.Config.Space.Reserve)
	if n.disk, err = openDisk(machine{cas.OS()}, h.Dir, h.path(reserveFile), reserve, n.Log); err != nil {
		return fmt.Errorf("the disk of %s: %w", h.Dir, err)
	}
	if err := n.disk.canOpen(); err != nil {
		return err
	}
	if err := h.checkIndexThere(); err != nil {
		return err
	}
	if n.db, err = openIndex(h.path("index")); err != nil {
		return fmt.Errorf("the index in %s cannot be opened: %w", h.path("index"), err)
	}
	n.closers = append(n.closers, func() error {
		if err := n.disk.canOpen(); err != nil {
			// To close it is to write it, through a mapping: better as after a crash.
			n.Log.Warn("the disk is full, so the index is left as it is, with nothing lost")
			return nil
		}
		return n.db.Close()
	})
	if err := archive.CheckIndex(n.db); err != nil {
		return err
	}
	if err := n.checkCard(index.NodeIDOf(key)); err != nil {
		return err
	}
	if err := n.checkStores(ctx, index.NodeIDOf(key)); err != nil {
		return err
	}
	if n.blocks, err = cas.OpenDisk(h.path("blocks"), cas.DiskOptions{Log: n.Log, Reserve: n.disk.keptFree()}); err != nil {
		return fmt.Errorf("the blocks in %s cannot be opened: %w", h.path("blocks"), err)
	}
	n.closers = append(n.closers, n.blocks.Close)
	stores, err := h.openStores(ctx, n.hasOwn, n.Options)
	if err != nil {
		return err
	}
	var originals cas.Store = n.blocks
	if n.shared = stores.shared(); n.shared {
		originals, n.bucket = stores.originals, stores.originals
		n.closers = append(n.closers, originals.Close)
	}
	var copyKeys *cas.Keyring
	n.keys, copyKeys = stores.keys()
	if n.audit, err = audit.Open(h.path("audit"), audit.Options{Now: n.Now, Tail: h.path(auditedFile), Keep: int64(h.Config.Audit.Keep), Log: n.Log}); err != nil {
		return fmt.Errorf("%s: %w", h.path("audit"), err)
	}
	n.closers = append(n.closers, n.audit.Close)
	opt := index.Options{
		Self: key, Trust: h.Config.Trust, Region: region.Region, Votes: region.Votes, Nodes: region.Nodes, Revoked: region.Revoked,
		FoldName: dicom.FoldName, NamesAgree: dicom.NamesAgree, Now: n.Now, Rand: n.Rand, Log: n.Log,
		Room: func(own bool) error {
			if own && n.learning.Load() {
				return errLearning
			}
			return n.disk.Note(own)
		},
		Spoken: spoken{h}, Lost: n.anew != nil && n.anew.Lost != nil,
	}
	n.index, err = index.Open(n.db, opt)
	var lost *index.LostError
	// An index that knows nothing of its log was put there, or emptied; one that ends too early was on a disk that lost writes.
	if errors.As(err, &lost) && lost.Have.Seq > 0 && n.anew == nil {
		n.anew = &restoredMark{Restored: n.Now().UTC(), Copies: true, Lost: lost}
		n.unready.Store(true)
		if err := h.mark(*n.anew); err != nil {
			return err
		}
		opt.Lost = true
		n.index, err = index.Open(n.db, opt)
	}
	if err != nil {
		return err
	}
	// Not before: an epoch that has begun is said to its end by Open.
	n.learning.Store(n.anew != nil && !n.anew.Begun)
	if err := n.healLog(); err != nil {
		return err
	}
	if n.hearing, err = openHearing(n); err != nil {
		return err
	}
	c := h.Config
	n.archive, err = archive.Open(archive.Options{
		DB: n.db, Blocks: originals, Copies: n.blocks, Keys: n.keys, CopyKeys: copyKeys, Index: n.index, Audit: n.audit, Policy: access.Members,
		Self: n.index.Self(), Issuer: c.Issuer(), Now: n.Now, Log: n.Log,
		ScrubRate: int64(c.Verify.Rate), ScrubEvery: time.Duration(c.Verify.Every),
		PublishAfter: time.Duration(c.Archive.PublishAfter), SettleAfter: time.Duration(c.Archive.SettleAfter),
		Fetch:  c.Fetch.fetching(),
		Limits: receivingLimits(), GrantFor: grantFor, Silence: n.hearing.silenceOf,
		OnArrival: func(study string) { n.priors.Heard(study) },
		Room:      n.disk,
		Space: archive.SpaceOptions{Copies: int64(c.Space.Copies), SweepAfter: time.Duration(c.Space.SweepAfter),
			KeepFor: time.Duration(c.Space.KeepCopies), RoundEvery: time.Duration(c.Space.RoundEvery), Shared: n.shared},
	})
	return err
}

// checkCard keeps a home whose files do not belong together from running: under
// another trust's name its unqualified patient numbers would become that trust's.
func (n *Node) checkCard(self index.NodeID) error {
	text, err := n.home.Card()
	if err != nil {
		return err
	}
	card, err := index.ParseCard(text)
	if err != nil {
		return fmt.Errorf("%s: %w", n.home.path(cardFile), err)
	}
	if card.Trust != n.home.Config.Trust || card.NodeCert.Node != self {
		return fmt.Errorf("the files of %s do not belong together: %s is the card of %s and its node %s, %s says trust %s, and %s is the key of node %s; put back the ones that init made",
			n.home.Dir, cardFile, card.Trust, card.NodeCert.Node, configFile, n.home.Config.Trust, nodeKeyFile, self)
	}
	return nil
}

// healLog starts a new epoch if this node's own log is known to have two
// histories (its home was once an old copy): nobody takes anything from it
// otherwise, and nothing stored here would become known.
func (n *Node) healLog() error {
	head, ok := n.index.Head(n.index.Self())
	for _, f := range n.index.Forks() {
		if ok && f.Node == n.index.Self() && f.Epoch == head.Epoch && n.anew == nil {
			n.Log.Warn("this node's log has two histories: its home was copied, or restored from an old copy; a new epoch of the log begins. If neither is so, another process has the node's key")
			return n.index.NewEpoch(context.Background())
		}
	}
	return nil
}

// Memory is what a node keeps itself to while others need memory too, as a limit of the garbage collector.
const Memory = 1 << 30

// IndexOptions are those of the database of index and catalogue. They favour
// memory over speed: a node shares its machine, and the index is small and
// read by key. What Append returned must be on disk.
func IndexOptions(dir string) badger.Options {
	o := badger.DefaultOptions(dir).WithSyncWrites(true).WithCompression(options.ZSTD).WithZSTDCompressionLevel(1).WithNumVersionsToKeep(1).
		WithMemTableSize(16 << 20).WithNumMemtables(2).WithNumLevelZeroTables(10).WithNumLevelZeroTablesStall(20).WithBlockSize(6 << 10).WithBlockCacheSize(64 << 20).WithIndexCacheSize(64 << 20).
		WithNumCompactors(2).WithValueLogFileSize(64 << 20).WithLogger(nil).
		WithBaseTableSize(2 << 20).WithBaseLevelSize(512 << 20).
		WithChecksumVerificationMode(options.OnBlockRead)
	o.TableSizeMultiplier = 1 // a compaction builds a dozen tables at once, each in some fifteen times its size of memory
	return o
}

func (n *Node) openMesh(ctx context.Context) error {
	key, err := n.home.NodeKey()
	if err != nil {
		return err
	}
	if n.mesh, err = mesh.Open(ctx, mesh.Config{
		Key: key, Listen: n.home.Config.Mesh, Now: n.Now, Rand: n.Rand, Log: n.Log,
		Announce: n.home.Config.Network.Announce, Relay: n.home.Config.Network.Relay, UseRelays: n.home.Config.Network.UseRelays,
		Limits: mesh.Limits{LogPull: int(n.home.Config.Sync.Pull), LogSend: int(n.home.Config.Sync.Send)},
	}, mesh.Deps{
		Allowed: func(id index.NodeID) bool { _, ok := n.index.Roster().Allowed(id); return ok },
		Addrs:   n.addrs,
		Index:   n.index,
		Studies: silent{n},
		Blocks:  n.archive,
	}); err != nil {
		return fmt.Errorf("the mesh cannot be joined (`mesh` in %s says where this node listens): %w", n.home.path(configFile), err)
	}
	n.closers = append(n.closers, n.mesh.Close)
	if err := n.beginAnew(ctx); err != nil {
		return err
	}
	n.priors = priors.New(priors.Options{Index: n.index, Archive: n.archive, Self: n.index.Self(),
		Window: time.Duration(n.home.Config.Priors.Window), Now: n.Now, Log: n.Log})
	n.adoption = newAdoption(n)
	n.snapshots = &snapshots{n: n}
	n.settings = newSettings(n)
	n.shutting = &shutting{n: n, look: make(chan struct{}, 1)}
	n.archive.Start(n.mesh)
	n.closers = append(n.closers, n.archive.Close)
	unwatch := n.index.Watch(n.heard)
	n.archive.CatchUp()
	n.closers = append(n.closers, func() error { unwatch(); return nil })
	if err := n.priors.Start(); err != nil {
		return err
	}
	n.closers = append(n.closers, func() error { n.priors.Close(); return nil })
	run, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	n.group.Go(func() error { n.hearing.run(run); return nil })
	n.group.Go(func() error { n.settings.run(run); return nil })
	n.group.Go(func() error { n.adoption.run(run); return nil })
	n.group.Go(func() error { n.snapshots.run(run); return nil })
	n.group.Go(func() error { n.shutting.run(run); return nil })
	n.disk.changed = func(l level) {
		if l == roomy {
			n.archive.Kick()
		}
	}
	n.group.Go(func() error { n.disk.run(run); return nil })
	n.closers = append(n.closers, func() error { cancel(); return n.group.Wait() })
	if err := n.introduce(ctx); err != nil {
		return err
	}
	n.group.Go(func() error { n.watchMoves(run); return nil })
	return nil
}

// silent gives nothing before a node that was restored has begun anew.
type silent struct{ n *Node }

func (s silent) Grant(ctx context.Context, from index.NodeID, req mesh.StudyRequest) (mesh.Grant, error) {
	if s.n.unready.Load() {
		return mesh.Grant{}, mesh.ErrRefused
	}
	return s.n.archive.Grant(ctx, from, req)
}

func (s silent) GrantedBlock(from index.NodeID, c cid.Cid) bool {
	return !s.n.unready.Load() && s.n.archive.GrantedBlock(from, c)
}

func (s silent) Push(ctx context.Context, from index.NodeID, g mesh.Grant, p mesh.Push) iter.Seq2[cas.Block, error] {
	return s.n.archive.Push(ctx, from, g, p)
}

// addrs is where the other nodes of the region can be dialled.
func (n *Node) addrs() map[index.NodeID][]string {
	out := make(map[index.NodeID][]string)
	for _, k := range n.index.Nodes() {
		if k.Node != n.index.Self() {
			out[k.Node] = k.Addrs
		}
	}
	return out
}

// heard passes on what the index has learned. It must not block.
func (n *Node) heard(f index.Fact) {
	switch f.Kind {
	case index.KindStudy:
		n.archive.Due(f.Subject, f.Author)
		n.archive.News(f.Subject)
		n.priors.Heard(f.Subject)
		n.adoption.heard(f)
	case index.KindHolding:
		study, origin, _ := strings.Cut(f.Subject, "@") // the study, and whose
		n.archive.Due(study, f.Author)
		n.archive.News(study)
		if origin == n.index.Self().String() {
			n.priors.Heard(study) // what this node has lost comes back from a copy
		}
	case index.KindRetraction:
		n.archive.Retracted(f.Author, f.Subject)
	case index.KindVote, index.KindNode, index.KindRevocation:
		n.mesh.Recheck()
		n.shutting.changed()
	}
}

// introduce says in this node's log who it is and where it is reached, and
// repeats there the votes that its trust cast before the log began.
func (n *Node) introduce(ctx context.Context) error {
	text, err := n.home.Card()
	if err != nil {
		return err
	}
	card, err := index.ParseCard(text)
	if err != nil {
		return fmt.Errorf("%s: %w", n.home.path(cardFile), err)
	}
	var say []index.Statement
	for _, v := range n.index.Votes() {
		if v.By != n.home.Config.Trust {
			continue
		}
		st, err := index.VoteStatement(v)
		if err != nil {
			return err
		}
		said, err := n.index.Facts(st.Kind, st.Subject)
		if err != nil {
			return err
		}
		if len(said) == 0 {
			say = append(say, st)
		}
	}
	st, err := index.NodeStatement(index.NodeFact{Cert: card.NodeCert, Addrs: n.mesh.Addrs()})
	if err != nil {
		return err
	}
	said, err := n.index.Facts(st.Kind, st.Subject)
	if err != nil {
		return err
	}
	current := false
	for _, f := range said {
		current = current || f.Author == n.index.Self() && string(f.Value) == string(st.Body)
	}
	if !current {
		say = append(say, st)
	}
	return n.say(ctx, say)
}

// say says statements in this node's log, in as many batches as they take.
func (n *Node) say(ctx context.Context, say []index.Statement) error {
	for len(say) > 0 {
		k, size := 0, 0
		for k < len(say) && k < index.MaxFacts && (k == 0 || size+len(say[k].Body) <= index.MaxBatch/2) {
			size += len(say[k].Body)
			k++
		}
		if _, err := n.index.Append(ctx, say[:k]...); err != nil {
			return err
		}
		say = say[k:]
	}
	return nil
}

func (n *Node) serve() error {
	var err error
	if n.listener, err = net.Listen("tcp", n.home.Config.HTTP); err != nil {
		return fmt.Errorf("HTTP cannot be served: %w; change `http` in %s or stop what uses the port; the home that this one was copied or restored from must not run beside it", err, n.home.path(configFile))
	}
	host, _, _ := net.SplitHostPort(n.HTTPAddr())
	loopback := net.ParseIP(host).IsLoopback()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collector{n})
	stopping, stop := context.WithCancel(context.Background())
	n.server = &http.Server{
		Handler: api.New(api.Options{Node: n, Stopping: stopping, Archive: n.archive, Token: n.token, BaseURL: n.home.Config.BaseURL, Metrics: metrics, Log: n.Log, Limits: instanceLimits(), Loopback: loopback}),
		// A body may take as long as a large study takes: package api ends what
		// does not move at all.
		ReadHeaderTimeout: headerWithin, IdleTimeout: idleFor,
		ErrorLog: slog.NewLogLogger(n.Log.Handler(), slog.LevelDebug),
	}
	n.server.RegisterOnShutdown(stop)
	// Handlers use the stores, so they must have ended before those close.
	base, cut := context.WithCancel(context.Background())
	n.server.BaseContext = func(net.Listener) context.Context { return base }
	var handlers sync.WaitGroup
	inner := n.server.Handler
	n.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		inner.ServeHTTP(w, r)
	})
	served := make(chan error, 1)
	go func() { served <- n.server.Serve(n.listener) }()
	n.closers = append(n.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), drainFor)
		defer cancel()
		err := n.server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			n.Log.Warn("requests were still under way and have been cut off", "after", drainFor)
			err = n.server.Close()
		}
		cut()
		handlers.Wait()
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return err
	})
	if !loopback {
		n.Log.Warn("DICOMweb is served without authentication on an address that other machines may reach; put a proxy that authenticates before it, or set `http` to a loopback address", "http", n.HTTPAddr())
	}
	b, err := json.Marshal(Running{PID: os.Getpid(), HTTP: n.HTTPAddr()})
	if err != nil {
		return err
	}
	if err := writeFile(n.home.path(runFile), append(b, '\n')); err != nil {
		return err
	}
	n.closers = append(n.closers, func() error { return os.Remove(n.home.path(runFile)) })
	return nil
}

// HTTPAddr is the address that HTTP is served on.
func (n *Node) HTTPAddr() string { return n.listener.Addr().String() }

// Archive is the node's archive, for a program that has the node in it.
func (n *Node) Archive() *archive.Archive { return n.archive }

// Close lets requests under way finish, brings what is acknowledged to rest
// and ends everything. It may be called on a node that Open could not finish.
func (n *Node) Close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		errs = append(errs, n.closers[i]())
	}
	n.closers = nil
	return errors.Join(errs...)
}

// Ready implements api.Node. A node serves from the moment it listens.
func (n *Node) Ready() error { return nil }

// Silence implements api.Node.
func (n *Node) Silence() []string {
	out := n.silence()
	for _, t := range n.index.Roster().Expelled {
		out = append(out, fmt.Sprintf("%s was expelled from the region: what it told before is found, what it has received since is not known here, and what only it holds cannot be brought", t))
	}
	return out
}

// silence is Silence without what status says in lists of its own.
func (n *Node) silence() []string {
	out := append(n.hearing.silence(), n.twins()...)
	if n.lost != "" {
		out = append(out, n.lost)
	}
	if text := n.gapText(); text != "" {
		out = append(out, text)
	}
	if left := n.archive.Unlooked(); left > 0 {
		out = append(out, fmt.Sprintf("this node's index had lost its newest writes, and %s received here not looked through yet: of these, instances that came shortly before that may be lacking in answers. It goes on by itself", counted(left, "study is", "studies are")))
	}
	if n.archive.IndexDamaged() {
		out = append(out, archive.ErrIndexDamaged.Error())
	}
	return out
}

// twins says of which nodes, and whether of this one, two run with one key.
func (n *Node) twins() (out []string) {
	roster := n.index.Roster()
	if own := n.mesh.Twin(); !own.Seen.IsZero() {
		by, _ := roster.Allowed(own.By)
		out = append(out, fmt.Sprintf("two nodes run with the key of this node, as %s sees (%s): members hear one and turn the other away, and what that receives nobody hears of. End one of them for good (the home that a backup was restored from, or a copy), and send what it received to the other; if there is no other home, the key is in other hands: tell the region, and make a new home with a new key",
			by, strings.Join(own.At, " and ")))
	}
	for _, p := range n.mesh.Peers() {
		if p.Twin.Seen.IsZero() {
			continue
		}
		trust, _ := roster.Allowed(p.ID)
		out = append(out, fmt.Sprintf("two nodes run with the key of %s (node %s, seen at %s): one of them is turned away, and what it receives is not known here. The trust has to end one of them for good: tell it",
			trust, p.ID, strings.Join(p.Twin.At, " and ")))
	}
	return out
}

// Basis implements api.Node.
func (n *Node) Basis() []api.Basis { return n.hearing.basis() }

// muchTaken of one trust's facts may be why a disk is full.
const muchTaken = 64 << 20

// Hampered implements api.Node.
func (n *Node) Hampered() []string {
	var out []string
	full, bucket := n.disk.said(), n.bucketStatus().said()
	if trust, bytes := n.index.MostTaken(); full != "" && bytes >= muchTaken {
		full += fmt.Sprintf(". Of other trusts' facts %s were taken of %s since this node started, the most: if that is too much to be meant, ask that trust", Size(bytes), trust)
	}
	for _, said := range []string{full, bucket} {
		if said != "" {
			out = append(out, said)
		}
	}
	return out
}

// Peers implements api.Node.
func (n *Node) Peers() []api.Peer {
	roster := n.index.Roster()
	out := []api.Peer{}
	for _, p := range n.mesh.Peers() {
		trust, _ := roster.Allowed(p.ID)
		addrs := p.Addrs
		if addrs == nil {
			addrs = []string{}
		}
		out = append(out, api.Peer{Trust: string(trust), Peer: p.ID.String(), Connected: p.Connected, Alive: p.Alive,
			LastHeard: n.hearing.last(p), RTT: p.RTT, Way: way(p, roster), Addrs: addrs, Twins: p.Twin.At,
			Wrong: api.Wrong{Blocks: p.WrongBlocks, Log: p.WrongLog, Gossip: p.WrongGossip, Last: p.WrongLast.UTC()}})
	}
	return append(out, n.shutOut(roster)...)
}

// wrongFor is how long status warns of a node that has sent what it must not.
const wrongFor = 24 * time.Hour

// wrongOf names the nodes that have lately sent what is not what it must be.
func wrongOf(peers []api.Peer, now time.Time) (out []string) {
	for _, p := range peers {
		w := p.Wrong
		if w.Blocks+w.Log+w.Gossip == 0 || now.Sub(w.Last) > wrongFor {
			continue
		}
		var what []string
		for _, x := range []struct {
			n         int
			one, many string
		}{{w.Log, "log message", "log messages"}, {w.Gossip, "packet of gossip", "packets of gossip"}, {w.Blocks, "block", "blocks"}} {
			if x.n > 0 {
				what = append(what, counted(x.n, x.one, x.many))
			}
		}
		out = append(out, fmt.Sprintf("the node %s of %s has sent %s that are forged, damaged or none, last at %s: they are refused, and the log says of the first what was wrong. Ask the trust whether it runs another version, its disk fails, or somebody else has the machine",
			p.Peer, p.Trust, strings.Join(what, ", "), w.Last.Format(time.RFC3339)))
	}
	return out
}

// lostStudies lists what this node has lost since it was restored.
func (n *Node) lostStudies() ([]api.Lost, api.LostCounts, error) {
	out := []api.Lost{}
	list, all, alone, err := n.archive.LostStudies(maxListed)
	for _, l := range list {
		x := api.Lost{Study: l.Study, Here: l.Here, Told: l.Told, Copies: []string{}}
		for _, t := range l.Copies {
			x.Copies = append(x.Copies, string(t))
		}
		out = append(out, x)
	}
	return out, api.LostCounts{Studies: all, Alone: alone}, err
}

// counted is a number with what it counts.
func counted[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}

// maxListed bounds lists in a status.
const maxListed = 100

// Status implements api.Node.
func (n *Node) Status(ctx context.Context) (api.Status, error) {
	roster := n.index.Roster()
	own, copies, err := n.archive.Counts()
	if err != nil {
		return api.Status{}, err
	}
	region, _, err := n.index.Count(ctx, index.Query{})
	if err != nil {
		return api.Status{}, err
	}
	st := api.Status{
		Version: n.Version, Trust: string(n.home.Config.Trust), Name: n.home.Config.Name, Peer: n.index.Self().String(),
		Region: roster.Name, HTTP: n.HTTPAddr(), Mesh: n.mesh.Addrs(), Started: n.started.UTC(),
		Studies: api.StudyCounts{Own: own, Copies: copies, Region: region},
		Trusts:  n.hearing.trusts(roster, n.hearing.nodes(roster)), Conflicts: []api.Conflict{}, Forks: []string{}, Forked: n.forks(), Basis: n.Basis(), Warnings: n.silence(),
	}
	st.Doubts = api.Doubts(n.priors.Doubts())
	st.Roster, st.Peers = n.rosterStatus(roster), n.Peers()
	st.Warnings = append(st.Warnings, wrongOf(st.Peers, n.Now())...)
	if c := n.mesh.Counters(); n.home.Config.Network.Relay {
		st.Relay = &api.Relay{Circuits: c.CircuitsNow, Bytes: c.RelayedBytes}
	}
	if st.Snapshot, st.Taking, err = n.snapshots.status(); err != nil {
		return api.Status{}, err
	}
	for i, t := range st.Trusts {
		if st.Trusts[i].Studies, _, err = n.index.Count(ctx, index.Query{Trust: index.TrustID(t.Trust)}); err != nil {
			return api.Status{}, err
		}
	}
	if st.Fetches = api.Fetches(n.archive, maxListed+1); len(st.Fetches) > maxListed {
		st.Fetches = st.Fetches[:maxListed]
		st.Warnings = append(st.Warnings, fmt.Sprintf("the fetch queue is longer than the %d shown", maxListed))
	}
	kept, err := n.archive.Conflicts(maxListed)
	if err != nil {
		return api.Status{}, err
	}
	for _, c := range kept {
		trust, _ := n.index.TrustOf(c.Origin)
		st.Conflicts = append(st.Conflicts, api.Conflict{Study: c.Study, Instance: c.Instance, Trust: string(trust)})
	}
	if st.Lost, st.LostAll, err = n.lostStudies(); err != nil {
		return api.Status{}, err
	}
	if l := st.LostAll; l.Studies > 0 {
		text := fmt.Sprintf("%s received here and gone, wholly or in part, since this node was restored from an older backup: see the list of what is lost (--json: `lost`)", counted(l.Studies, "study was", "studies were"))
		if l.Alone > 0 {
			text += fmt.Sprintf("; of %d nobody is known to hold a copy: have these sent here again, or import them", l.Alone)
		}
		st.Warnings = append(st.Warnings, text)
	}
	if st.Damage, st.Damaged, err = n.damage(); err != nil {
		return api.Status{}, err
	}
	if st.Damaged > 0 {
		st.Warnings = append(st.Warnings, fmt.Sprintf("%s damaged in part here: see the list of damage above (--json: `damage`); what other trusts hold copies of is repaired by itself, the rest must be sent here again or restored", counted(st.Damaged, "study is", "studies are")))
	}
	for _, f := range st.Forked {
		if f.Over {
			continue
		}
		st.Forks = append(st.Forks, f.Node)
		who := fmt.Sprintf("node %s of %s", f.Node, f.Trust)
		if f.Own {
			who = "this node"
		}
		st.Warnings = append(st.Warnings, fmt.Sprintf("%s has signed two histories of its log (epoch %d, at %d) and is quarantined: %s", who, f.Epoch, f.Position, f.Advice))
	}
	for study, why := range n.archive.Untold() {
		st.Warnings = append(st.Warnings, fmt.Sprintf("study %s is stored here and could not be told to the region yet: %s", study, why))
	}
	for _, what := range n.audit.Warnings() {
		st.Warnings = append(st.Warnings, fmt.Sprintf("the audit log was not as it was written when this node started (%s): see `priormesh audit --verify`, and keep a copy of the folder audit for whoever looks into it", what))
	}
	st.Warnings = append(st.Warnings, rosterWarnings(roster, n.home.Config.Trust, n.index.Self())...)
	for _, f := range roster.Faults {
		st.Warnings = append(st.Warnings, fmt.Sprintf("a vote of %s (serial %d) does not count: %s", f.By, f.Serial, f.Why))
	}
	st.Bucket = (*api.Bucket)(n.bucketStatus())
	if st.Space, err = n.space(); err != nil {
		return api.Status{}, err
	}
	st.Warnings = append(append([]string{}, n.Hampered()...), st.Warnings...)
	if st.Settings = n.settings.status(); st.Settings.Problem != "" {
		st.Warnings = append(st.Warnings, "config.toml is wrong, and the settings are as they were before it was changed: "+st.Settings.Problem)
	}
	if len(st.Settings.Restart) > 0 {
		st.Warnings = append(st.Warnings, fmt.Sprintf("these settings have changed in config.toml and are in force after the next start only: %s", strings.Join(st.Settings.Restart, ", ")))
	}
	if st.Space.Over {
		st.Warnings = append(st.Warnings, fmt.Sprintf("copies of other trusts' studies take %s, their quota is %s, and all of them are pinned, lately used, or nowhere else to be had: raise space.copies or unpin some", Size(st.Space.Copies.Stored), Size(st.Space.Quota)))
	}
	if st.Space.Damaged > 0 {
		st.Warnings = append(st.Warnings, fmt.Sprintf("%s no longer needed, because not all of it can be read; `priormesh verify` says what is damaged", counted(st.Space.Damaged, "study keeps what is", "studies keep what is")))
	}
	return st, nil
}

// Admit implements api.Node.
func (n *Node) Admit(ctx context.Context, text string) (api.Admission, error) {
	card, err := index.ParseCard(strings.TrimSpace(text))
	if err != nil {
		return api.Admission{}, fmt.Errorf("%w: %w", api.ErrWrongUse, err)
	}
	me, further := n.home.Config.Trust, ""
	roster := n.index.Roster()
	if m, ok := roster.Member(card.Trust); ok {
		if m.Card.Hash() != card.Hash() {
			return api.Admission{}, fmt.Errorf("%w: %s is a member already, with another key or name; compare the card with the trust by telephone (its fingerprint is %s)", api.ErrWrongUse, card.Trust, card.Fingerprint())
		}
		_, known := roster.Allowed(card.NodeCert.Node)
		if !known && card.Trust != me && card.NodeCert.Node != m.Card.NodeCert.Node {
			return api.Admission{}, fmt.Errorf("%w: %s is a member; a further node of it is admitted at a node of %s", api.ErrWrongUse, card.Trust, card.Trust)
		}
		if err := n.present(ctx, roster, card); err != nil {
			return api.Admission{}, err
		}
		roster = n.index.Roster()
		if _, in := roster.Allowed(card.NodeCert.Node); in && !known {
			further = card.NodeCert.Node.String()
		}
	} else if _, voted := roster.Cast(me, index.OpAdmit, card); !voted {
		key, err := n.home.TrustKey()
		if err != nil {
			return api.Admission{}, fmt.Errorf("%w: %w", api.ErrWrongUse, err)
		}
		vote, err := index.Admit(key, roster, card, roster.NextSerial(me))
		if err != nil {
			return api.Admission{}, fmt.Errorf("%w: %w", api.ErrWrongUse, err)
		}
		st, err := index.VoteStatement(vote)
		if err != nil {
			return api.Admission{}, err
		}
		if err := n.audit.Append(audit.Event{Event: "trust.endorsed", Trust: string(card.Trust), Detail: "key " + card.Fingerprint()}); err != nil {
			return api.Admission{}, err
		}
		if _, err := n.index.Append(ctx, st); err != nil {
			return api.Admission{}, err
		}
		roster = n.index.Roster()
	}
	have, need, by := roster.Standing(card.Hash())
	a := api.Admission{Trust: string(card.Trust), Have: have, Need: need, By: names(by), Node: further}
	if _, a.Admitted = roster.Member(card.Trust); a.Admitted {
		inv := index.Invitation{Region: roster.Region, RegionName: roster.Name, Votes: n.index.Votes(), Revoked: roster.Revocations()}
		for _, k := range n.index.Nodes() {
			inv.Nodes = append(inv.Nodes, index.NodeFact{Cert: k.Cert, Addrs: k.Addrs})
		}
		a.Invitation = inv.String()
	}
	return a, nil
}

// present says in this node's log that a card's node is another one of this
// trust, so that the region lets it in: its own word would not be heard.
func (n *Node) present(ctx context.Context, roster index.Roster, card index.Card) error {
	if _, known := roster.Allowed(card.NodeCert.Node); known || card.Trust != n.home.Config.Trust {
		return nil
	}
	st, err := index.NodeStatement(index.NodeFact{Cert: card.NodeCert, Addrs: card.Addrs})
	if err != nil {
		return err
	}
	if err := n.audit.Append(audit.Event{Event: "node.presented", Trust: string(card.Trust), Node: card.NodeCert.Node.String()}); err != nil {
		return err
	}
	_, err = n.index.Append(ctx, st)
	return err
}
