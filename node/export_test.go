package node

import (
	"context"
	"os"
	"time"

	badger "github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/api"
)

// StudyKey is the key of what a node has received of a study, or of another node's version of it.
func (n *Node) StudyKey(study, origin string) (cas.Key, error) {
	return n.keys.Get(study + "/" + origin)
}

// On has a backup written to another file system.
func (o BackupOptions) On(f cas.FS) BackupOptions {
	o.fs = f
	return o
}

// BackUp makes a backup of a running node.
func (n *Node) BackUp(ctx context.Context, o BackupOptions) (api.Backup, error) {
	return n.backup(ctx, o)
}

// BasisOf is basisOf.
var BasisOf = basisOf

// LackingOf is lackingOf.
var LackingOf = lackingOf

// Listened is listened.
type Listened = listened

// ListenedTo makes one.
func ListenedTo(id index.NodeID, trust index.TrustID, heard bool, last time.Time) Listened {
	return Listened{node: id, trust: trust, heard: heard, last: last}
}

// Transfers are the mesh's counters.
func (n *Node) Transfers() mesh.Counters { return n.mesh.Counters() }

// DB is the index's database.
func (n *Node) DB() *badger.DB { return n.db }

// Index is what the node knows.
func (n *Node) Index() *index.Index { return n.index }

// Stride is how far apart the places lie at which something is cut off or spoilt: n in a short run, and 1 in a long one, by PRIORMESH_SOAK, so that
// each is tried.
func Stride(n int) int {
	if os.Getenv("PRIORMESH_SOAK") != "" {
		return 1
	}
	return n
}

// OpenDatabase is openDatabase.
var OpenDatabase = openDatabase

// WrongOf is wrongOf.
var WrongOf = wrongOf
