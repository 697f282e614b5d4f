package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/api"
)

const (
	snapshotFirst = time.Minute      // after the start, to let members be reached
	snapshotEvery = 10 * time.Minute // it is looked whether a snapshot is due
	purgeEvery    = 10 * time.Second
	// snapshotAbsent is how long after it was restored a node waits for members that are away before it makes a snapshot. What it said
	// after its backup and no member that is there has heard is left out of the snapshot, and so is withdrawn.
	snapshotAbsent = 7 * 24 * time.Hour
)

// snapshots makes snapshots of the own log when they are due.
type snapshots struct {
	n *Node

	mu    sync.Mutex
	waits string // why one that is due is not made
	fails error  // of the last
}

func (s *snapshots) run(ctx context.Context) {
	look := time.NewTimer(snapshotFirst)
	defer look.Stop()
	purge := time.NewTicker(purgeEvery)
	defer purge.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-purge.C:
			// What other trusts have taken back is mostly purged by who erases it here; a snapshot may find more, and waits for it.
			if err := s.n.index.Purge(ctx); err != nil && ctx.Err() == nil {
				s.n.Log.Error("what was taken back is not out of the files of the index yet; it is tried again", "error", err)
			}
		case <-look.C:
			s.look(ctx)
			look.Reset(snapshotEvery)
		}
	}
}

// look makes a snapshot if one is due, and goes on with one that has been begun.
func (s *snapshots) look(ctx context.Context) {
	waits, err := s.make(ctx)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	was := s.waits
	s.waits, s.fails = waits, err
	s.mu.Unlock()
	switch {
	case err != nil:
		s.n.Log.Error("a snapshot of this node's log could not be made; it is tried again", "error", err)
	case waits != "" && waits != was:
		s.n.Log.Warn("a snapshot of this node's log waits", "for", waits)
	}
}

func (s *snapshots) make(ctx context.Context) (waits string, err error) {
	level, _ := s.n.disk.now()
	if level == roomy {
		begun, err := s.n.index.FinishSnapshot(ctx)
		if err != nil {
			return "", err
		}
		if begun {
			s.n.Log.Info("a snapshot of this node's log that had been broken off was finished")
		}
	}
	counts, err := s.n.index.SnapshotCounts(ctx)
	if err != nil {
		return "", err
	}
	reason, due := index.SnapshotDue(counts)
	if !due {
		return "", nil
	}
	if level != roomy {
		return "room on the disk", nil
	}
	if waits, err := s.absent(); err != nil || waits != "" {
		return waits, err
	}
	began := s.n.Now()
	snap, err := s.n.index.MakeSnapshot(ctx)
	if errors.Is(err, index.ErrEarlierForked) {
		return err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	s.n.Log.Info("a snapshot of this node's log was made: others drop what does not hold any more", "why", string(reason), "facts", snap.Facts, "pages", snap.Pages,
		"position", uint64(snap.Head.Seq), "took", s.n.Now().Sub(began).Round(time.Millisecond).String())
	return "", nil
}

// absent says which members have not told yet, since this node began an epoch, what they have of its log. A node that was never restored
// waits for nobody: nobody has more of its log than it.
func (s *snapshots) absent() (string, error) {
	began, ok := s.n.index.EpochBegan()
	if !ok || s.n.Now().Sub(began) >= snapshotAbsent {
		return "", nil
	}
	told := map[index.NodeID]bool{s.n.index.Self(): true}
	for _, p := range s.n.mesh.Peers() {
		told[p.ID] = !p.Agreed.IsZero()
	}
	var away []string
	for _, k := range s.n.index.Nodes() {
		if !told[k.Node] && !slices.Contains(away, string(k.Trust)) {
			away = append(away, string(k.Trust))
		}
	}
	until := began.Add(snapshotAbsent).UTC().Format(time.RFC3339)
	if len(away) == 0 {
		n, err := s.n.index.EarlierLacks()
		if err != nil || n == 0 {
			return "", err
		}
		return fmt.Sprintf("%d facts that this node had said before it was restored and no member has given back; until %s at most", n, until), nil
	}
	slices.Sort(away)
	return fmt.Sprintf("%s to tell what they have of this node's log, which was begun anew %s; until %s at most", strings.Join(away, ", "), began.UTC().Format(time.RFC3339), until), nil
}

// status is what an operator sees of snapshots: of the own log, and of others' that are being taken up.
func (s *snapshots) status() (own api.Snapshot, taking []api.Bootstrap, err error) {
	made, at, ok, err := s.n.index.SnapshotOf(s.n.index.Self())
	if err != nil {
		return own, nil, err
	}
	if ok {
		own = api.Snapshot{Made: at.UTC(), Epoch: uint64(made.Head.Epoch), Position: uint64(made.Head.Seq), Facts: made.Facts}
	}
	s.mu.Lock()
	own.Waits = s.waits
	if s.fails != nil {
		own.Error = s.fails.Error()
	}
	s.mu.Unlock()
	roster := s.n.index.Roster()
	taking = []api.Bootstrap{}
	for id, p := range s.n.mesh.Bootstraps() {
		trust, _ := roster.Allowed(id)
		taking = append(taking, api.Bootstrap{Node: id.String(), Trust: string(trust), Pages: p.Pages, Of: p.Snapshot.Pages, Facts: p.Snapshot.Facts, Bytes: p.Bytes, Sources: p.Sources,
			Missing: p.Holed, Dropping: p.Dropping})
	}
	slices.SortFunc(taking, func(a, b api.Bootstrap) int { return strings.Compare(a.Trust+a.Node, b.Trust+b.Node) })
	return own, taking, nil
}
