package node

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/archive"
)

// Verify verifies what the home of a node that does not run stores. Damage is
// noted, and repaired when the node runs. It returns ErrInUse if it does.
func Verify(ctx context.Context, home *Home, o Options, v archive.VerifyOptions) (report api.VerifyReport, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{Options: o, home: home, started: o.Now(), group: new(errgroup.Group)}
	if n.unlock, err = lockHome(home.Dir); err != nil {
		return report, err
	}
	n.closers = append(n.closers, func() error { n.unlock(); return nil })
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.openStores(ctx); err != nil {
		return report, err
	}
	r, err := n.archive.Verify(ctx, v)
	return api.VerifyJSON(r, n.index.Roster(), n.index.Self()), err
}

// damage lists what is not whole here.
func (n *Node) damage() ([]api.Damage, int, error) {
	list, all, err := n.archive.Damage(maxListed)
	out := []api.Damage{}
	roster := n.index.Roster()
	for _, d := range list {
		out = append(out, api.DamageJSON(d, roster, n.index.Self()))
	}
	return out, all, err
}
