package index

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/dgraph-io/badger/v4"
)

var errNotYet = errors.New("not yet")

// Options configure an Index.
type Options struct {
	Self       ed25519.PrivateKey // this node's key: signs its log
	Trust      TrustID            // this node's trust
	Region     RegionID           // zero before the trust has founded or joined one
	Votes      []Vote             // votes known from elsewhere: the founding vote, an invitation's
	FoldName   func(string) string
	NamesAgree func(a, b string) bool
	Now        func() time.Time
	Rand       io.Reader // salts
	Log        *slog.Logger
}

// Index is the join of all logs this node has, and this node's own log.
type Index struct{}

// Open opens the index in db, which must be opened with SyncWrites: what Append returned must be on disk.
func Open(db *badger.DB, opt Options) (*Index, error) { return nil, errNotYet }

// Append says statements in this node's own log as one signed batch of at most MaxFacts. It is durable on return.
func (x *Index) Append(ctx context.Context, st ...Statement) (Head, error) { return Head{}, errNotYet }

// NewEpoch starts the next epoch of this node's log and says its current facts again. For a restore from backup.
func (x *Index) NewEpoch(ctx context.Context) error { return errNotYet }

// Self names this node.
func (x *Index) Self() NodeID { return NodeID{} }

// Heads lists the head of every log, sorted by node, then epoch.
func (x *Index) Heads() []Head { return nil }

// Head returns the head of a node's newest epoch.
func (x *Index) Head(n NodeID) (Head, bool) { return Head{}, false }

// Heard implements Logs.
func (x *Index) Heard(h Head) (after Seq, behind bool, err error) { return 0, false, errNotYet }

// Range implements Logs.
func (x *Index) Range(node NodeID, epoch Epoch, after Seq, maxBytes int) ([]Batch, error) {
	return nil, errNotYet
}

// Take implements Logs.
func (x *Index) Take(batches []Verified) (fresh int, err error) { return 0, errNotYet }

// Watch calls fn for every fact, own or foreign, after it is durable and applied, in order for each author.
// fn may call the index, Append included, but must not block long.
func (x *Index) Watch(fn func(Fact)) (stop func()) { return func() {} }

// Roster returns the roster by the votes known now.
func (x *Index) Roster() Roster { return Roster{} }

// Votes lists the votes known now, for an invitation.
func (x *Index) Votes() []Vote { return nil }

// KnownNode is a certified node and where it is reached.
type KnownNode struct {
	Node  NodeID
	Trust TrustID
	Addrs []string
	URL   string
	Cert  NodeCert
}

// Nodes lists the nodes certified by members, with their addresses by their own word, a sibling's, or their card, in this order.
func (x *Index) Nodes() []KnownNode { return nil }

// Facts returns the current fact of each author about a subject.
func (x *Index) Facts(kind Kind, subject string) ([]Authored[[]byte], error) { return nil, errNotYet }

// Forks lists the proofs that nodes signed two histories.
func (x *Index) Forks() []Fork { return nil }

// Lag says how far this node's copy of a log is behind what it has heard of it.
type Lag struct {
	Node        NodeID
	Trust       TrustID
	Epoch       Epoch
	Applied     Seq  // the last fact stored
	Heard       Seq  // the highest head heard of
	Missing     int  // facts whose payload did not come, or was dropped
	Unread      int  // facts this version could not read
	Quarantined bool // see Forks
}

// Lags lists every log of every certified node; a node never heard of has Epoch 0.
func (x *Index) Lags() []Lag { return nil }
