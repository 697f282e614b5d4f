package index

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Options configure an Index. All but Region, Votes, Nodes, Revoked, Room and Spoken are required.
type Options struct {
	Self       ed25519.PrivateKey     // this node's key: signs its log
	Trust      TrustID                // this node's trust
	Region     RegionID               // zero before the trust has founded or joined one
	Votes      []Vote                 // votes known from elsewhere: the founding vote, an invitation's
	Nodes      []NodeFact             // nodes known from elsewhere: an invitation's
	Revoked    []Revocation           // revocations known from elsewhere
	FoldName   func(string) string    // comparable form of a name component: case, accents, padding
	NamesAgree func(a, b string) bool // whether two DICOM names can be one person's: a group of the one has, folded, the family name of a group of the other
	Now        func() time.Time       // dates the proofs of forks, and decides nothing
	Rand       io.Reader              // salts
	Log        *slog.Logger
	// Room says why nothing may be written now: a full disk. It is asked before each batch, this node's own or another's; nil: never.
	Room func(own bool) error
	// Spoken tells a database that has lost what this node has said; nil: nothing does.
	Spoken Spoken
	// Lost opens such a database all the same. Nothing is said before NewEpoch.
	Lost bool

	smallTxn bool // for tests: a database is enough that does not hold the fullest batch
}

// Index is the join of all logs this node has, and this node's own log. It is safe for concurrent use.
type Index struct {
	db     *badger.DB
	opt    Options
	self   NodeID
	fold   folder
	knows  understanding
	secret [32]byte // keys the hashes in this database's keys
	roster atomic.Pointer[Roster]

	write  sync.Mutex    // held by whoever writes
	turn   sync.RWMutex  // held by who reads and will not be disturbed by a purge again; wholly by a purge. Taken before write
	gate   sync.RWMutex  // held while something is written; wholly while files are purged. Taken after write
	purges atomic.Uint64 // how often a purge has begun to take rows away, or put them back: odd while some may be missing

	dropped      func()       // for tests: called when rows have been dropped, and those that stay are not yet back
	putBackFault func() error // for tests
	maxVotes     int          // maxLogVotes, but in tests
	costs        costs        // queryCosts, but in tests
	meet         bool         // for tests: all study UIDs have one hash
	writes       func()       // for tests: called before each transaction is committed
	late         uint64       // how often something of an earlier epoch of the own log was taken; under write
	checked      signatures   // under write
	spoken       Position     // as noted in Options.Spoken; under write
	lost         *LostError   // until NewEpoch; under write
	full         sync.Once    // said that there is no room for another author

	mu       sync.RWMutex // guards what follows; never held during I/O
	epoch    Epoch        // of the own log
	authors  []author     // by their number less one
	numbers  map[NodeID]authorNo
	droppers map[authorNo]bool // those whose facts were taken back
	logs     map[logID]logState
	taken    map[TrustID]int64 // bytes of other trusts' batches since Open
	nodes    map[NodeID][]nodeWord
	words    map[NodeID]int         // how many nodes an author speaks of
	votes    map[[32]byte]heardVote // by the hash of their whole encoding
	revoked  map[[32]byte]Revocation
	revokes  map[NodeID]int      // of how many revocations an author speaks
	bases    map[NodeID]Position // up to where snapshots cover
	blocks   map[authorNo]bool   // those some of whose facts lie in blocks
	counted  SnapshotCounts      // of the own log, when what holds was last counted
	watchers map[int]func(Fact)
	watchID  int
	events   []Fact
	telling  bool
}

// logID names one epoch of one node's log.
type logID struct {
	Node  NodeID
	Epoch Epoch
}

func (l logID) compare(o logID) int {
	if c := l.Node.Compare(o.Node); c != 0 {
		return c
	}
	return int(l.Epoch) - int(o.Epoch)
}

// logState is a log as far as it is stored.
type logState struct {
	last    link // zero before the first batch; of what a snapshot covers, its head
	base    Head // of the snapshot that the log begins with; zero: it begins at 1
	trust   TrustID
	missing int // facts without payload
	awaited int // and those that a retraction names, of which nothing was ever here
	unread  int
	fork    *Fork
	heard   Head // the highest head heard of
	noted   Seq  // as far as what was heard of is on the disk, where it is beyond what has come
	hole    Seq  // where the last hole was asked for, in memory only
}

// logRow is a logState in the database.
type logRow struct {
	Head    Head    `cbor:"1,keyasint"`
	Trust   TrustID `cbor:"2,keyasint"`
	Missing int     `cbor:"3,keyasint,omitempty"`
	Unread  int     `cbor:"4,keyasint,omitempty"`
	Base    *Head   `cbor:"6,keyasint,omitempty"`
	Heard   *Head   `cbor:"7,keyasint,omitempty"` // beyond Head: nobody need tell it again
}

// nodeWord is what somebody says of a node: its own trust's nodes, or (author zero) an invitation.
type nodeWord struct {
	author NodeID
	fact   NodeFact
}

// maxWords is how many nodes one author is heard about.
const maxWords = 4 * MaxNodes

const (
	formatVersion = 3       // another also where Options.FoldName comes to fold names otherwise: keys hold folded names
	maxLogVotes   = 512     // votes of one author's logs that are looked at
	minTxn        = 2 << 20 // bytes a transaction must hold, so that the fullest batch fits into one
)

// Rows of the meta table.
var (
	metaFormat  = []byte{tabMeta, 'f'}
	metaRegion  = []byte{tabMeta, 'r'}
	metaEpoch   = []byte{tabMeta, 'e'}
	metaRestate = []byte{tabMeta, 's'} // there while NewEpoch is at work
	metaSecret  = []byte{tabMeta, 'k'}
	metaBegan   = []byte{tabMeta, 'b'} // when NewEpoch was, for its owner
)

// Open opens the index in db. The db must be opened with SyncWrites (or in memory), so that what Append returned is on disk, and a
// MemTableSize of 16 MiB or more; Open refuses others. Closing it is the caller's, after the last call to the index.
func Open(db *badger.DB, opt Options) (*Index, error) { return open(db, opt, thisUnderstanding()) }

func open(db *badger.DB, opt Options, knows understanding) (*Index, error) {
	switch {
	case len(opt.Self) != ed25519.PrivateKeySize:
		return nil, errors.New("index: Options.Self is not an Ed25519 private key")
	case !opt.Trust.Valid():
		return nil, badTrust
	case opt.FoldName == nil || opt.NamesAgree == nil || opt.Now == nil || opt.Rand == nil || opt.Log == nil:
		return nil, errors.New("index: Options lack FoldName, NamesAgree, Now, Rand or Log")
	case !db.Opts().SyncWrites && !db.Opts().InMemory:
		return nil, errors.New("index: the database is not opened with SyncWrites: what is acknowledged must be on disk")
	case db.MaxBatchSize() < minTxn && !opt.smallTxn:
		return nil, &LimitError{What: "bytes of a database transaction (set MemTableSize to 16 MiB or more), want at least its limit", Got: int(db.MaxBatchSize()), Limit: minTxn}
	}
	x := &Index{
		db: db, opt: opt, knows: knows, self: NodeIDOf(opt.Self), fold: opt.FoldName,
		checked: signatures{}, epoch: 1, numbers: map[NodeID]authorNo{}, droppers: map[authorNo]bool{}, logs: map[logID]logState{}, taken: map[TrustID]int64{}, watchers: map[int]func(Fact){},
		bases: map[NodeID]Position{}, blocks: map[authorNo]bool{},
		nodes: map[NodeID][]nodeWord{}, words: map[NodeID]int{}, votes: map[[32]byte]heardVote{}, maxVotes: maxLogVotes, costs: queryCosts,
		revoked: map[[32]byte]Revocation{}, revokes: map[NodeID]int{},
	}
	for _, v := range opt.Votes {
		x.hearVote(v)
	}
	for _, n := range opt.Nodes {
		x.hearNode(nodeWord{fact: n})
	}
	for _, v := range opt.Revoked {
		x.hearRevocation(NodeID{}, v)
	}
	if err := x.openMeta(); err != nil {
		return nil, err
	}
	if err := x.putBack(); err != nil {
		return nil, err
	}
	if err := x.db.View(x.loadLogs); err != nil {
		return nil, err
	}
	if err := x.checkSpoken(); err != nil {
		return nil, err
	}
	if err := x.db.View(x.loadRoster); err != nil {
		return nil, err
	}
	x.elect()
	if err := x.reread(); err != nil {
		return nil, err
	}
	x.tell() // nobody watches yet
	var restate bool
	err := x.db.View(func(txn *badger.Txn) (err error) {
		_, restate, err = get(txn, metaRestate)
		return err
	})
	if err == nil && restate && x.lost == nil {
		err = x.sayAgain(context.Background())
	}
	var full *roomError
	if errors.As(err, &full) { // what it says already is read and served; a later Open says the rest
		opt.Log.Error("this node's words are not all said again in the new epoch of its log", "error", err)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if x.lost == nil {
		x.noteSpoken(x.ownEnd())
	}
	return x, nil
}

// RegionError says that a database belongs to another region.
type RegionError struct{ Have, Want RegionID }

func (e *RegionError) Error() string {
	return fmt.Sprintf("this index belongs to region %.8s, not %.8s: a node joins one region in its life; use another home folder for another", e.Have, e.Want)
}

// ErrOldFormat says that an older program wrote the database, in a form that is not read any more.
var ErrOldFormat = errors.New("the index in this home was written by an older version of this program, and its form is not read any more: make a new home folder, join the region with it, and send or import the studies again")

func (x *Index) openMeta() error {
	return x.db.Update(func(txn *badger.Txn) error {
		v, ok, err := get(txn, metaFormat)
		switch {
		case err != nil:
			return err
		case ok && len(v) != 1:
			return errDamaged("its format")
		case ok && v[0] > formatVersion:
			return &VersionError{What: "index database", Got: uint64(v[0])}
		case ok && v[0] < formatVersion:
			return ErrOldFormat
		case !ok:
			if err := txn.Set(metaFormat, []byte{formatVersion}); err != nil {
				return err
			}
		}
		v, ok, err = get(txn, metaRegion)
		switch {
		case err != nil:
			return err
		case ok && len(v) != 32:
			return errDamaged("its region")
		case ok && RegionID(v) != x.opt.Region:
			return &RegionError{Have: RegionID(v), Want: x.opt.Region}
		case !ok && !x.opt.Region.IsZero():
			if err := txn.Set(metaRegion, x.opt.Region[:]); err != nil {
				return err
			}
		}
		v, ok, err = get(txn, metaSecret)
		switch {
		case err != nil:
			return err
		case ok && len(v) != len(x.secret):
			return errDamaged("its secret")
		case ok:
			copy(x.secret[:], v)
		default:
			if _, err := io.ReadFull(x.opt.Rand, x.secret[:]); err != nil {
				return fmt.Errorf("a secret for the index: %w", err)
			}
			if err := txn.Set(metaSecret, x.secret[:]); err != nil {
				return err
			}
		}
		v, ok, err = get(txn, metaEpoch)
		if err == nil && ok {
			if len(v) != 1 || v[0] == 0 {
				return errDamaged("its epoch")
			}
			x.epoch = Epoch(v[0])
		}
		return err
	})
}

func (x *Index) loadLogs(txn *badger.Txn) error {
	err := scan(txn, []byte{tabAuthor}, []byte{tabAuthor}, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
		v, err := value()
		if err != nil {
			return false, err
		}
		if len(k) != 3 || int(binary.BigEndian.Uint16(k[1:])) != len(x.authors)+1 {
			return false, errDamaged("the number of an author")
		}
		a, err := readAuthor(authorNo(len(x.authors)+1), v)
		x.authors, x.numbers[a.node] = append(x.authors, a), a.no
		return err == nil, err
	})
	if err != nil {
		return err
	}
	for _, a := range x.authors { // a retraction is there before what it drops, and a snapshot before its pages
		for table, have := range map[byte]map[authorNo]bool{tabRetract: x.droppers, tabSnapshot: x.blocks} {
			prefix := authorKey(table, a.no)
			if err := scan(txn, prefix, prefix, false, func([]byte, func() ([]byte, error)) (bool, error) {
				have[a.no] = true
				return false, nil
			}); err != nil {
				return err
			}
		}
	}
	err = scan(txn, []byte{tabLog}, []byte{tabLog}, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
		v, err := value()
		if err != nil {
			return false, err
		}
		var row logRow
		if decode(factMode, "log", v, &row) != nil || len(k) != 4 || x.numbers[row.Head.Node] != authorNo(binary.BigEndian.Uint16(k[1:])) {
			return false, errDamaged("a log")
		}
		id := logID{row.Head.Node, row.Head.Epoch}
		st := logState{trust: row.Trust, missing: row.Missing, unread: row.Unread}
		if row.Heard != nil {
			st.heard, st.noted = *row.Heard, row.Heard.Seq
		}
		if row.Base != nil {
			st.base = *row.Base
			if p := (Position{st.base.Epoch, st.base.Seq}); p.compare(x.bases[id.Node]) > 0 {
				x.bases[id.Node] = p
			}
		}
		switch {
		case row.Head.Seq == 0: // pages are here, and no batch yet
		case row.Base != nil && row.Base.same(row.Head):
			st.last = baseLink(row.Head)
		default:
			last, ok, err := x.coverIn(txn, id, row.Head.Seq)
			if err != nil {
				return false, err
			}
			if !ok || !last.head.same(row.Head) {
				return false, errDamaged("the end of a log")
			}
			st.last = last
		}
		x.logs[id] = st
		return true, nil
	})
	if err != nil {
		return err
	}
	err = scan(txn, []byte{tabDropped}, []byte{tabDropped}, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
		v, err := value()
		if err != nil || !bytes.Equal(v, awaited) {
			return true, err
		}
		no := int(binary.BigEndian.Uint16(k[1:]))
		if no < 1 || no > len(x.authors) || len(k) != 3+positionSize {
			return false, errDamaged("what was taken back")
		}
		id := logID{x.authors[no-1].node, keyPosition(k).Epoch}
		if st, ok := x.logs[id]; ok {
			st.awaited++
			x.logs[id] = st
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return scan(txn, []byte{tabFork}, []byte{tabFork}, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
		v, err := value()
		if err != nil {
			return false, err
		}
		var f Fork
		if decode(factMode, "fork", v, &f) != nil {
			return false, errDamaged("the proof of a fork")
		}
		f.Found = f.Found.UTC()
		id := logID{f.Node, f.Epoch}
		st := x.logs[id]
		st.fork = &f
		x.logs[id] = st
		return true, nil
	})
}

// Self names this node.
func (x *Index) Self() NodeID { return x.self }

// Append says statements in this node's own log as one signed batch of at most MaxFacts facts and MaxBatch bytes. It is
// durable on return. A *ForkError says that peers hold another history of this log: this home was copied or restored from an older
// state; NewEpoch is the way on.
func (x *Index) Append(ctx context.Context, st ...Statement) (Head, error) {
	for _, s := range st {
		if _, err := x.knows.understand(s); err != nil {
			return Head{}, err
		}
	}
	x.write.Lock()
	head, err := x.say(ctx, st)
	x.write.Unlock()
	x.tell()
	return head, err
}

func (x *Index) say(ctx context.Context, st []Statement) (Head, error) {
	v, err := x.saySealed(ctx, st)
	if err != nil {
		return Head{}, err
	}
	return v.Head(), nil
}

// saySealed is say, and returns the batch.
func (x *Index) saySealed(ctx context.Context, st []Statement) (v Verified, err error) {
	if err := ctx.Err(); err != nil {
		return v, err
	}
	if err := x.room(true); err != nil {
		return v, err
	}
	if x.lost != nil {
		return v, x.lost
	}
	id := logID{x.self, x.ownEpoch()}
	state := x.state(id)
	if state.fork != nil {
		return v, &ForkError{Fork: *state.fork}
	}
	v, err = sealBatch(x.opt.Self, state.last.head, id.Epoch, st, x.opt.Rand)
	if err != nil {
		return v, err
	}
	w := x.begin()
	defer w.discard()
	if err := w.append(v, x.opt.Trust); err != nil {
		return v, err
	}
	if err := w.commit(); err != nil {
		return v, err
	}
	return v, nil
}

func (x *Index) room(own bool) error {
	if x.opt.Room == nil {
		return nil
	}
	if err := x.opt.Room(own); err != nil {
		return &roomError{err}
	}
	return nil
}

// roomError is why Options.Room let nothing be written.
type roomError struct{ err error }

func (e *roomError) Error() string { return e.err.Error() }
func (e *roomError) Unwrap() error { return e.err }

func (x *Index) ownEpoch() Epoch {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.epoch
}

func (x *Index) state(id logID) logState {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.logs[id]
}

// NewEpoch starts the next epoch of this node's log and says in it whatever this node currently says, for peers may
// lack some of it. It is for a home restored from backup or copied, and for a log that Forks lists. An interruption is made good by the
// next Open.
func (x *Index) NewEpoch(ctx context.Context) error {
	x.write.Lock()
	err := x.newEpoch()
	x.write.Unlock()
	if err != nil {
		return err
	}
	return x.sayAgain(ctx)
}

// sayAgain restates in the newest epoch. Peers may know another history of that: the home that was lost had begun it too. Then it is the next.
func (x *Index) sayAgain(ctx context.Context) error {
	for {
		err := x.restate(ctx)
		var fork *ForkError
		if !errors.As(err, &fork) {
			return err
		}
		x.write.Lock()
		err = x.newEpoch()
		x.write.Unlock()
		if err != nil {
			return err
		}
	}
}

func (x *Index) newEpoch() error {
	x.mu.RLock()
	next := max(x.epoch, x.spoken.Epoch)
	for id, st := range x.logs {
		if id.Node == x.self {
			next = max(next, id.Epoch, st.heard.Epoch)
		}
	}
	x.mu.RUnlock()
	next++
	if next > MaxEpoch {
		return &LimitError{What: "epochs of a log (give this node a new key)", Got: int(next), Limit: int(MaxEpoch)}
	}
	err := x.Update(func(txn *badger.Txn) error {
		if err := txn.Set(metaRestate, nil); err != nil {
			return err
		}
		if err := txn.Set(metaBegan, binary.BigEndian.AppendUint64(nil, uint64(x.opt.Now().Unix()))); err != nil {
			return err
		}
		return txn.Set(metaEpoch, []byte{byte(next)})
	})
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.epoch = next
	x.mu.Unlock()
	x.lost = nil
	return nil
}

// restate says again what this node said in earlier epochs and has not replaced since: a batch at a time, with nothing held between.
func (x *Index) restate(ctx context.Context) error {
	epoch := x.ownEpoch()
	if a, ok := x.known(x.self); ok {
		for _, table := range ownTables {
			for from := []byte{table.tab}; from != nil; {
				var err error
				if from, err = x.restateSome(ctx, a, table, from, epoch); err != nil {
					return err
				}
			}
		}
	}
	if err := x.restateRetractions(ctx, epoch); err != nil {
		return err
	}
	return x.Update(func(txn *badger.Txn) error { return txn.Delete(metaRestate) })
}

// restateRetractions says again those retractions that are not the newest of their subject: each names other positions, and a node that has
// not got the earlier epoch to its end may have only what one of them names.
func (x *Index) restateRetractions(ctx context.Context, epoch Epoch) error {
	all, err := x.ownFacts(ctx, string(KindRetraction), Position{}, func(s Statement) bool { return s.Kind == KindRetraction })
	if err != nil {
		return err
	}
	said := map[string]bool{}
	name := func(s Statement) string { return s.Subject + string(s.Body) }
	for _, f := range all {
		if f.at.Epoch >= epoch {
			said[name(f.said)] = true
		}
	}
	var lacking []Statement
	for _, f := range all {
		if !said[name(f.said)] {
			said[name(f.said)] = true
			lacking = append(lacking, f.said)
		}
	}
	for st := range slices.Chunk(lacking, MaxFacts) {
		x.write.Lock()
		_, err := x.say(ctx, st)
		x.write.Unlock()
		x.tell()
		if err != nil {
			return err
		}
	}
	return nil
}

// restateSome restates what a batch holds of a table, from a key on, and returns where to go on; nil at the end. Nothing else is said
// between reading and saying: what is newer must not be made old.
func (x *Index) restateSome(ctx context.Context, a author, table ownTable, from []byte, epoch Epoch) (next []byte, err error) {
	x.write.Lock()
	st, next, err := x.ownWords(a, table, from, epoch)
	if err == nil && len(st) > 0 {
		_, err = x.say(ctx, st)
	}
	x.write.Unlock()
	x.tell()
	return next, err
}

// ownTable is a table of what holds, and how this node's words are found in it.
type ownTable struct {
	tab  byte
	mine func(k []byte, no authorNo) bool
	find func(v []byte, no authorNo) (loc, bool, error)
}

var ownTables = []ownTable{
	{tabFact, func(k []byte, no authorNo) bool { return authorNo(binary.BigEndian.Uint16(k[len(k)-2:])) == no }, func(v []byte, _ authorNo) (loc, bool, error) {
		r, err := readRecord(v)
		return r.at, true, err
	}},
	{tabStudy, func([]byte, authorNo) bool { return true }, func(v []byte, no authorNo) (loc, bool, error) {
		list, err := readSaid(v)
		for _, s := range list {
			if s.author == no {
				return s.at, true, err
			}
		}
		return loc{}, false, err
	}},
	{tabHolding, func(k []byte, no authorNo) bool { return authorNo(binary.BigEndian.Uint16(k[9:])) == no }, func(v []byte, _ authorNo) (loc, bool, error) {
		h, err := readCopy(v)
		return h.at, true, err
	}},
}

// restateLook is how many rows are looked at together.
const restateLook = 1 << 16

// ownWords lists what this node has said before an epoch and still holds, in a table from a key on, as far as a batch goes.
func (x *Index) ownWords(a author, table ownTable, from []byte, before Epoch) (st []Statement, next []byte, err error) {
	err = x.View(func(txn *badger.Txn) error {
		st, next = nil, nil
		size, looked := 0, 0
		c := x.reading(txn)
		return scan(txn, []byte{table.tab}, from, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
			if len(k) < 9 && table.tab == tabStudy || len(k) != holdingKeySize && table.tab == tabHolding || len(k) < 5 {
				return false, errDamaged("a key")
			}
			if looked++; looked > restateLook {
				next = bytes.Clone(k)
				return false, nil
			}
			if !table.mine(k, a.no) {
				return true, nil
			}
			v, err := value()
			if err != nil {
				return false, err
			}
			at, ok, err := table.find(v, a.no)
			if err != nil || !ok || at.Epoch >= before {
				return err == nil, err
			}
			s, err := c.statement(a.no, at)
			if err != nil {
				return false, err
			}
			if s.Kind == KindSnapshot { // it is of its epoch
				return true, nil
			}
			if len(st) == MaxFacts || len(st) > 0 && size+len(s.Subject)+len(s.Body) > MaxBatch/2 {
				next = bytes.Clone(k)
				return false, nil
			}
			st = append(st, s)
			size += len(s.Subject) + len(s.Body) + 128
			return true, nil
		})
	})
	return st, next, err
}

func (x *Index) row(k []byte) (v []byte, ok bool, err error) {
	err = x.View(func(txn *badger.Txn) error {
		v, ok, err = get(txn, k)
		return err
	})
	return v, ok, err
}

// Heads lists the head of every log, sorted by node, then epoch.
func (x *Index) Heads() []Head {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]Head, 0, len(x.logs))
	for _, st := range x.logs {
		if st.last.head.Seq > 0 {
			out = append(out, st.last.head)
		}
	}
	slices.SortFunc(out, compareHeads)
	return out
}

func compareHeads(a, b Head) int { return logID{a.Node, a.Epoch}.compare(logID{b.Node, b.Epoch}) }

// Head returns the head of a node's newest epoch.
func (x *Index) Head(n NodeID) (Head, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out Head
	for id, st := range x.logs {
		if id.Node == n && st.last.head.Seq > 0 && id.Epoch >= out.Epoch {
			out = st.last.head
		}
	}
	return out, out.Seq > 0
}

// Heard implements Logs.
func (x *Index) Heard(h Head) (after Seq, behind bool, err error) {
	if _, err := x.certified(h.Node); err != nil {
		return 0, false, err
	}
	if err := h.check(); err != nil {
		return 0, false, err
	}
	id := logID{h.Node, h.Epoch}
	st := x.state(id)
	if st.fork != nil {
		return 0, false, &ForkError{Fork: *st.fork}
	}
	if end, ok := x.ended(id); ok && h.Seq > end {
		// A peer has taken more of a revoked node's log before it knew; what counts of it ends earlier.
		return st.last.head.Seq, st.last.head.Seq < end, nil
	}
	if x.covered(id, h.Seq) && !st.last.head.same(h) {
		if st.base.Seq != h.Seq || st.base.same(h) {
			return 0, false, nil
		}
	}
	verdict, fork, err := x.chain(id, st).judgeHead(h)
	switch {
	case err != nil:
		return 0, false, err
	case verdict == forked:
		return 0, false, x.quarantine(fork)
	case verdict == known:
		if st.lacks() && h.Seq == st.last.head.Seq {
			return x.nextHole(id)
		}
		return 0, false, nil
	}
	if !st.heard.same(h) {
		if err := h.verify(); err != nil {
			return 0, false, err
		}
		x.mu.Lock()
		st = x.logs[id]
		if h.Seq > st.heard.Seq {
			st.heard = h
			x.logs[id] = st
		}
		x.mu.Unlock()
	}
	return st.last.head.Seq, h.Seq > st.last.head.Seq, nil
}

// nextHole returns the position before a fact whose payload is missing: each time another, round and round.
func (x *Index) nextHole(id logID) (Seq, bool, error) {
	var hole Seq
	a, ok := x.known(id.Node)
	if !ok {
		return 0, false, nil
	}
	st := x.state(id)
	first := st.base.Seq + 1 // what a snapshot covers comes in pages
	tables := []byte{tabHole}
	if st.awaited > 0 { // else there is nothing in it but what was taken back, and that may be much
		tables = append(tables, tabDropped)
	}
	err := x.View(func(txn *badger.Txn) error {
		hole = 0
		for _, from := range []Seq{max(st.hole+1, first), first} {
			for _, table := range tables {
				err := scan(txn, epochKey(table, a.no, id.Epoch), logKey(table, a.no, Position{id.Epoch, from}), true, func(k []byte, value func() ([]byte, error)) (bool, error) {
					v, err := value()
					if err != nil || table == tabDropped && !bytes.Equal(v, awaited) {
						return true, err
					}
					if at := keyPosition(k).Seq; hole == 0 || at < hole {
						hole = at
					}
					return false, nil
				})
				if err != nil {
					return err
				}
			}
			if hole > 0 {
				return nil
			}
		}
		return nil
	})
	if err != nil || hole == 0 {
		return 0, false, err
	}
	x.mu.Lock()
	st = x.logs[id]
	st.hole = hole
	x.logs[id] = st
	x.mu.Unlock()
	return hole - 1, true, nil
}

// certified returns the trust of a node whose log is taken.
func (x *Index) certified(n NodeID) (TrustID, error) {
	if n == x.self {
		return x.opt.Trust, nil
	}
	r := x.Roster()
	if t, ok := r.Allowed(n); ok {
		return t, nil
	}
	if v, ok := r.Revocation(n); ok && len(v.Ends) > 0 {
		return v.Trust, nil
	}
	return "", &UncertifiedError{Node: n}
}

// TrustOf names the trust whose node it is, or was: also of one that is let in no more, whose words were taken when it was. What a node has
// received stays its trust's.
func (x *Index) TrustOf(n NodeID) (TrustID, bool) {
	if n == x.self {
		return x.opt.Trust, true
	}
	r := x.Roster()
	if t, ok := r.Allowed(n); ok {
		return t, true
	}
	if a, ok := x.known(n); ok {
		return a.trust, true
	}
	v, ok := r.Revocation(n)
	return v.Trust, ok
}

// Ended implements Logs.
func (x *Index) Ended(n NodeID, e Epoch) (end Seq, over bool) {
	r := x.Roster()
	if _, in := r.Allowed(n); in || n == x.self {
		return 0, false
	}
	v, _ := r.Revocation(n)
	return v.end(e), true
}

// ended is the last fact that counts of a log whose node its trust has revoked.
func (x *Index) ended(id logID) (Seq, bool) {
	v, ok := x.Roster().Revocation(id.Node)
	return v.end(id.Epoch), ok && id.Node != x.self
}

// doubtful says of what stands at a place in a log that it may not be its author's word: the author signed two histories, or its trust
// has revoked it and vouches for less.
func (x *Index) doubtful(id logID, at Seq) bool {
	v, ok := x.Roster().Revocation(id.Node)
	return ok && len(v.Ends) > 0 && at > v.end(id.Epoch) || x.state(id).fork != nil
}

func (x *Index) chain(id logID, st logState) chain {
	return chain{last: st.last, cover: func(seq Seq) (l link, ok bool, err error) {
		switch {
		case seq >= st.last.first && seq <= st.last.head.Seq:
			return st.last, true, nil
		case seq == st.base.Seq: // of what a snapshot covers its end is known
			return baseLink(st.base), true, nil
		}
		err = x.View(func(txn *badger.Txn) error {
			l, ok, err = x.coverIn(txn, id, seq)
			return err
		})
		return l, ok, err
	}}
}

// coverIn reads the stored batch that contains a position.
func (x *Index) coverIn(txn *badger.Txn, id logID, seq Seq) (l link, ok bool, err error) {
	a, known := x.known(id.Node)
	if !known {
		return link{}, false, nil
	}
	r, err := cover(txn, a.no, Position{id.Epoch, seq})
	if err != nil || r == nil {
		return link{}, false, err
	}
	l, err = r.link(id.Node)
	return l, err == nil, err
}

// quarantine keeps the proof of a fork and returns it as the error it is. The first proof of an epoch is kept.
func (x *Index) quarantine(f *Fork) error {
	x.write.Lock()
	defer x.write.Unlock()
	id := logID{f.Node, f.Epoch}
	if st := x.state(id); st.fork != nil {
		return &ForkError{Fork: *st.fork}
	}
	if err := x.keepFork(id, f); err != nil {
		return err
	}
	return &ForkError{Fork: *f}
}

func (x *Index) keepFork(id logID, f *Fork) error {
	f.Found = x.opt.Now().UTC().Truncate(time.Second)
	err := x.Update(func(txn *badger.Txn) error {
		return txn.Set(append(append([]byte{tabFork}, id.Node[:]...), byte(id.Epoch)), encode(f))
	})
	if err != nil {
		return err
	}
	x.mu.Lock()
	st := x.logs[id]
	st.fork = f
	x.logs[id] = st
	x.mu.Unlock()
	x.opt.Log.Error("a node signed two histories of its log; nothing more is taken from this epoch",
		"node", f.Node.String(), "epoch", uint64(f.Epoch), "position", uint64(f.Seq))
	return nil
}

// Range implements Logs.
func (x *Index) Range(node NodeID, epoch Epoch, after Seq, maxBytes int) ([]Batch, error) {
	var out []Batch
	a, ok := x.known(node)
	if !ok {
		return nil, nil
	}
	dropped := x.drops(a.no)
	if base := x.base(node); epoch < base.Epoch {
		return nil, nil
	} else if epoch == base.Epoch {
		after = max(after, base.Seq)
	}
	size := 0
	err := x.View(func(txn *badger.Txn) error {
		out, size = nil, 0
		return scan(txn, epochKey(tabRun, a.no, epoch), logKey(tabRun, a.no, Position{epoch, after + 1}), true, func(k []byte, value func() ([]byte, error)) (bool, error) {
			v, err := value()
			if err != nil {
				return false, err
			}
			r, err := readRun(k, v)
			if err == nil {
				err = r.load(txn)
			}
			if err != nil {
				return false, err
			}
			b := r.batch(node)
			if dropped {
				if b.Payloads, err = withoutDropped(txn, r, x.drops(r.no)); err != nil {
					return false, err
				}
			}
			if size += b.size(); size > maxBytes && len(out) > 0 {
				return false, nil
			}
			out = append(out, b)
			return size < maxBytes, nil
		})
	})
	return out, err
}

// withoutDropped leaves out what was retracted: it lies in its run until it is purged, or for good where its retraction does not list it.
func withoutDropped(txn *badger.Txn, r *run, drops bool) ([]Payload, error) {
	if !drops {
		return slices.Clone(r.payloads), nil // its author has taken nothing back
	}
	out := slices.Clone(r.payloads)
	for i := range out {
		if out[i].dropped() {
			continue
		}
		p := Position{r.epoch, r.first() + Seq(i)}
		_, gone, err := get(txn, logKey(tabDropped, r.no, p))
		if err == nil && !gone {
			if s, derr := decodePayload(out[i].Data); derr == nil {
				_, gone, err = takenBack(txn, r.no, p, s)
			}
		}
		if err != nil {
			return nil, err
		}
		if gone {
			out[i] = Payload{}
		}
	}
	return out, nil
}

// Forks lists the proofs that nodes signed two histories, sorted by node and epoch.
func (x *Index) Forks() []Fork {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []Fork
	for _, st := range x.logs {
		if st.fork != nil {
			out = append(out, *st.fork)
		}
	}
	slices.SortFunc(out, func(a, b Fork) int { return logID{a.Node, a.Epoch}.compare(logID{b.Node, b.Epoch}) })
	return out
}

// MostTaken names the other trust of which most was taken since Open, and how many bytes of facts that were.
func (x *Index) MostTaken() (most TrustID, bytes int64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for trust, n := range x.taken {
		if n > bytes || n == bytes && trust < most {
			most, bytes = trust, n
		}
	}
	return most, bytes
}

// Lag says how far this node's copy of a log is behind what it has heard of it.
type Lag struct {
	Node        NodeID
	Trust       TrustID
	Epoch       Epoch
	Applied     Seq  // the last fact stored
	Heard       Seq  // the highest head heard of since Open
	Missing     int  // facts whose payload did not come; not those their author retracted
	Unread      int  // facts this version could not read
	Quarantined bool // see Forks
}

// Lags lists every log, and with Epoch 0 every certified node of which no log is known, sorted by node and epoch.
func (x *Index) Lags() []Lag {
	r := x.Roster()
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []Lag
	seen := map[NodeID]bool{}
	for id, st := range x.logs {
		seen[id.Node] = true
		trust := st.trust
		if t, ok := r.Allowed(id.Node); ok {
			trust = t
		}
		heard := st.heard.Seq
		if end, over := x.Ended(id.Node, id.Epoch); over {
			heard = min(heard, end) // what follows does not come any more
		}
		out = append(out, Lag{
			Node: id.Node, Trust: trust, Epoch: id.Epoch, Applied: st.last.head.Seq, Heard: max(heard, st.last.head.Seq),
			Missing: st.missing, Unread: st.unread, Quarantined: st.fork != nil,
		})
	}
	for _, n := range r.nodes {
		if !seen[n.id] {
			out = append(out, Lag{Node: n.id, Trust: n.trust})
		}
	}
	slices.SortFunc(out, func(a, b Lag) int { return logID{a.Node, a.Epoch}.compare(logID{b.Node, b.Epoch}) })
	return out
}

// Behind says whether a node's key has signed heads that have not come, since it began the newest epoch of which something has: what a
// restored node lost of an earlier one comes no more; or whether contents of its facts have not. It is asked when a peer has told all that
// it has, and what it finds is kept: after a restart nobody tells it again.
func (x *Index) Behind(node NodeID) bool {
	var unnoted []logID
	behind, missing := false, false
	x.mu.RLock()
	for e := Epoch(1); e <= MaxEpoch; e++ {
		id := logID{node, e}
		if st, ok := x.logs[id]; ok {
			behind = st.heard.Seq > st.last.head.Seq || behind && st.last.head.Seq == 0
			missing = missing || st.missing > 0
			if st.heard.Seq > max(st.last.head.Seq, st.noted) {
				unnoted = append(unnoted, id)
			}
		}
	}
	x.mu.RUnlock()
	for _, id := range unnoted {
		var full *roomError // said by whoever keeps the disk
		if err := x.note(id); errors.As(err, &full) {
			break
		} else if err != nil {
			x.opt.Log.Warn("that facts of a node have not come could not be written down; it is tried again", "node", node.String(), "error", err)
			break
		}
	}
	return behind || missing
}

// note writes down what was heard of a log.
func (x *Index) note(id logID) error {
	if err := x.room(false); err != nil {
		return err
	}
	trust, err := x.certified(id.Node)
	if err != nil {
		return nil // nobody's any more
	}
	x.write.Lock()
	defer x.write.Unlock()
	w := x.begin()
	defer w.discard()
	st := w.state(id)
	if st.fork != nil || st.heard.Seq <= max(st.last.head.Seq, st.noted) {
		return nil
	}
	st.trust = cmp.Or(st.trust, trust)
	if err := w.keep(id, st); err != nil {
		return err
	}
	return w.commit()
}

// Watch calls fn for every fact, own or foreign, after it is durable and applied, in order for each log.
// fn may call the index, Append included, but must not block long: it holds up whoever brought the fact.
func (x *Index) Watch(fn func(Fact)) (stop func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watchID++
	id := x.watchID
	x.watchers[id] = fn
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.watchers, id)
	}
}

// tell hands committed facts to the watchers. One caller does it at a time, for all: so the order holds, and a
// watcher that appends finds its own fact told after it returns.
func (x *Index) tell() {
	x.mu.Lock()
	if x.telling {
		x.mu.Unlock()
		return
	}
	x.telling = true
	for len(x.events) > 0 {
		events := x.events
		x.events = nil
		ids := make([]int, 0, len(x.watchers))
		for id := range x.watchers {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		fns := make([]func(Fact), len(ids))
		for i, id := range ids {
			fns[i] = x.watchers[id]
		}
		x.mu.Unlock()
		for _, f := range events {
			for _, fn := range fns {
				fn(f)
			}
		}
		x.mu.Lock()
	}
	x.telling = false
	x.mu.Unlock()
}

// Roster returns the roster by the votes known now.
func (x *Index) Roster() Roster { return *x.roster.Load() }

// Votes lists the votes the roster rests on, for an invitation.
func (x *Index) Votes() []Vote { return x.Roster().Votes() }

// KnownNode is a certified node and where it is reached.
type KnownNode struct {
	Node  NodeID
	Trust TrustID
	Cert  NodeCert
	Addrs []string
	URL   string
}

// Nodes lists the nodes certified by members, sorted, with their addresses by their own word, else a sibling's, else an
// invitation's, else their card's.
func (x *Index) Nodes() []KnownNode {
	r := x.Roster()
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]KnownNode, 0, len(r.nodes))
	for _, n := range r.nodes {
		k := KnownNode{Node: n.id, Trust: n.trust, Cert: n.cert, Addrs: n.addrs}
		rank := 0
		for _, w := range x.nodes[n.id] {
			its := 1 // an invitation's word
			if t, ok := r.Allowed(w.author); ok && t == n.trust {
				its = 2
			}
			if w.author == n.id {
				its = 3
			}
			if w.fact.Cert.Trust == n.trust && its > rank && (its > 1 || w.author.IsZero()) {
				rank, k.Addrs, k.URL = its, w.fact.Addrs, w.fact.URL
			}
		}
		out = append(out, k)
	}
	return out
}

// Facts returns the current fact of each author about a subject, sorted by author.
func (x *Index) Facts(kind Kind, subject string) ([]Authored[[]byte], error) {
	if err := (Statement{Kind: kind, Subject: subject}).check(); err != nil {
		return nil, err
	}
	var out []Authored[[]byte]
	err := x.View(func(txn *badger.Txn) error {
		out = nil
		c := x.reading(txn)
		if kind == KindStudy || kind == KindHolding {
			return c.typedFacts(kind, subject, func(a author, at loc, trust TrustID) error {
				s, err := c.statement(a.no, at)
				out = append(out, authored(x, a.node, trust, at, s.Body))
				return err
			})
		}
		prefix := factPrefix(kind, subject)
		return scan(txn, prefix, prefix, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
			v, err := value()
			if err != nil {
				return false, err
			}
			r, err := readRecord(v)
			if err != nil {
				return false, err
			}
			_, _, no, ok := readFactKey(k)
			if !ok {
				return false, errDamaged("the key of a fact")
			}
			a, err := x.author(txn, no)
			if err != nil {
				return false, err
			}
			body, err := c.body(no, r)
			out = append(out, authored(x, a.node, cmp.Or(r.trust, a.trust), r.at, body))
			return err == nil, err
		})
	})
	slices.SortFunc(out, func(a, b Authored[[]byte]) int { return a.Author.Compare(b.Author) })
	return out, err
}

// typedFacts calls fn for each author's current word on a study, or on a copy of one.
func (c *runCache) typedFacts(kind Kind, subject string, fn func(a author, at loc, trust TrustID) error) error {
	if kind == KindStudy {
		all, err := c.studyStatements(subject)
		for _, st := range all {
			if err := fn(author{st.no, st.author, st.trust}, st.at, st.trust); err != nil {
				return err
			}
		}
		return err
	}
	uid, text, _ := strings.Cut(subject, "@")
	origin, err := ParseNodeID(text)
	if err != nil {
		return nil // nobody has said such a thing
	}
	hs := newHoldings(c)
	defer hs.close()
	_, err = hs.of(uid, origin, func(h heldBy) error { return fn(h.author, h.at, h.trust) })
	return err
}

func authored[T any](x *Index, node NodeID, trust TrustID, at loc, v T) Authored[T] {
	return Authored[T]{
		Author: node, Trust: trust, Epoch: at.Epoch, Seq: at.Seq,
		Quarantined: x.doubtful(logID{node, at.Epoch}, at.Seq), Value: v,
	}
}

// loadRoster reads votes and nodes from the database.
func (x *Index) loadRoster(txn *badger.Txn) error {
	err := scan(txn, []byte{tabVote}, []byte{tabVote}, true, func(_ []byte, value func() ([]byte, error)) (bool, error) {
		raw, err := value()
		if err != nil {
			return false, err
		}
		v, err := keptVote(raw)
		if err != nil {
			return false, err
		}
		x.hearVote(v)
		return true, nil
	})
	if err != nil {
		return err
	}
	if err := x.loadFacts(txn, KindNode, func(author NodeID, trust TrustID, body []byte) error {
		n, err := decodeNode(body)
		if err != nil {
			return errDamaged("a node")
		}
		if trust == n.Cert.Trust {
			x.hearNode(nodeWord{author: author, fact: n})
		}
		return nil
	}); err != nil {
		return err
	}
	return x.loadFacts(txn, KindRevocation, func(author NodeID, _ TrustID, body []byte) error {
		// A version that did not know revocations kept them as they came, and reread has not taken out yet those that do not hold.
		if v, err := decodeRevocation(body); err == nil {
			x.hearRevocation(author, v)
		}
		return nil
	})
}

// loadFacts calls fn for everybody's current facts of a kind.
func (x *Index) loadFacts(txn *badger.Txn, kind Kind, fn func(author NodeID, trust TrustID, body []byte) error) error {
	prefix := append(append([]byte{tabFact}, kind...), 0)
	c := x.reading(txn)
	return scan(txn, prefix, prefix, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
		v, err := value()
		if err != nil {
			return false, err
		}
		r, err := readRecord(v)
		if err != nil {
			return false, err
		}
		_, _, no, ok := readFactKey(k)
		if !ok {
			return false, errDamaged("the key of a fact")
		}
		a, err := x.author(txn, no)
		if err != nil {
			return false, err
		}
		body, err := c.body(no, r)
		if err != nil {
			return false, err
		}
		return true, fn(a.node, cmp.Or(r.trust, a.trust), body)
	})
}

// hearRevocation notes a revocation, which verifies, and who says it. The caller holds mu, or is Open.
func (x *Index) hearRevocation(author NodeID, v Revocation) {
	h := sha256.Sum256(encode(v))
	if _, known := x.revoked[h]; known || x.revokes[author] >= maxWords && !author.IsZero() {
		return
	}
	x.revokes[author]++
	x.revoked[h] = v
}

// heardVote is a vote and from how many it was heard: from how many authors, and from outside the logs.
type heardVote struct {
	vote  Vote
	times int
}

// hearVote notes a vote as it came. Its signature counts as part of it: anybody can put a vote of another's into his log with a signature
// that does not hold, and must not displace the true one by it.
func (x *Index) hearVote(v Vote) {
	h := sha256.Sum256(v.Encode())
	x.votes[h] = heardVote{v, x.votes[h].times + 1}
}

// forgetVote is for a vote that one of those it was heard from does not hold any more.
func (x *Index) forgetVote(v Vote) {
	h := sha256.Sum256(v.Encode())
	if heard := x.votes[h]; heard.times > 1 {
		x.votes[h] = heardVote{v, heard.times - 1}
	} else {
		delete(x.votes, h)
	}
}

// hearNode notes what an author says of a node of its own trust, in place of what it said of it before. The caller holds mu, or is Open.
func (x *Index) hearNode(w nodeWord) {
	words := slices.Clone(x.nodes[w.fact.Cert.Node])
	i := slices.IndexFunc(words, func(o nodeWord) bool { return o.author == w.author })
	switch {
	case i >= 0:
		words[i] = w
	case x.words[w.author] >= maxWords && !w.author.IsZero():
		return
	default:
		x.words[w.author]++
		words = append(words, w)
	}
	x.nodes[w.fact.Cert.Node] = words
}

// elect computes the roster from the votes and certificates known. The caller holds write, or is Open.
func (x *Index) elect() {
	var certs []NodeCert
	x.mu.RLock()
	votes := make([]Vote, 0, len(x.votes))
	for _, heard := range x.votes {
		votes = append(votes, heard.vote)
	}
	for _, words := range x.nodes {
		for _, w := range words {
			certs = append(certs, w.fact.Cert)
		}
	}
	revoked := slices.Collect(maps.Values(x.revoked))
	x.mu.RUnlock()
	r := evalRoster(x.opt.Region, votes, certs, revoked, x.checked)
	x.roster.Store(&r)
}
