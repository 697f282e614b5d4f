package archive

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// follow reads the manifests of a study, and the headers, as far as a push goes:
// each block once, in the order in which they name each other. The holder follows
// them to know what to push and the requester to know what must come next, so
// nothing has to be said about order, and nothing comes that was not asked for.
// What get does not have is passed over with all that it names.
//
// opened is called when the study's own manifest has been read.
func follow(ctx context.Context, get cas.Getter, key cas.Key, manifest cas.Ref, p mesh.Push, opened func(cas.StudyManifest) error) error {
	if p.Depth == mesh.PushNothing {
		return nil
	}
	study, err := cas.LoadStudy(ctx, get, key, manifest)
	if err != nil {
		return absentOr(err)
	}
	if err := opened(study); err != nil {
		return err
	}
	seen := make(map[cid.Cid]bool)
	for _, se := range study.Series {
		if p.Series != "" && se.UID != p.Series {
			continue
		}
		series, err := cas.LoadSeries(ctx, get, key, se.Manifest)
		if err != nil {
			if err = absentOr(err); err != nil {
				return err
			}
			continue
		}
		if p.Depth < mesh.PushManifests {
			continue
		}
		for _, ie := range series.Instances {
			if p.Instance != "" && ie.UID != p.Instance {
				continue
			}
			m, err := cas.LoadInstance(ctx, get, key, ie.Manifest)
			if err != nil {
				if err = absentOr(err); err != nil {
					return err
				}
				continue
			}
			if p.Depth < mesh.PushHeaders {
				continue
			}
			for _, b := range headerOf(m) {
				if seen[b.CID] {
					continue
				}
				seen[b.CID] = true
				if _, err := get.Get(ctx, b.CID); absentOr(err) != nil {
					return err
				}
			}
		}
	}
	return nil
}

// headerOf is what holds an instance's header.
func headerOf(m cas.InstanceManifest) []cas.BlockRef {
	return m.Covering(cas.Range{Len: m.HeaderLen})
}

// errPushEnded says that the peer has gone.
var errPushEnded = errors.New("nobody takes what is pushed")

// Push implements mesh.StudyServer.
func (a *Archive) Push(ctx context.Context, from index.NodeID, g mesh.Grant, p mesh.Push) iter.Seq2[cas.Block, error] {
	id := sourceID{Study: g.Study, Origin: g.Origin}
	return func(yield func(cas.Block, error) bool) {
		get := pushing{a: a, id: id, from: from, shelf: a.shelf(id, g.Key), yield: yield}
		err := follow(ctx, get, g.Key, g.Manifest, p, func(cas.StudyManifest) error { return nil })
		if err != nil && !errors.Is(err, errPushEnded) {
			yield(cas.Block{}, fmt.Errorf("study %s: %w", short(id.Study), err))
		}
	}
}

// pushing is a source's shelf that shows a peer what is read from it.
type pushing struct {
	a     *Archive
	id    sourceID
	from  index.NodeID
	shelf cas.Shelf
	yield func(cas.Block, error) bool
}

func (p pushing) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if !p.a.grants.covers(p.from, p.id) {
		return nil, mesh.ErrRefused // withdrawn, or erased
	}
	data, err := p.a.give(ctx, p.id, p.shelf, c)
	if err != nil && !errors.Is(err, cas.ErrNotFound) {
		return nil, err
	}
	if !p.yield(cas.Block{CID: c, Data: data}, nil) {
		return nil, errPushEnded
	}
	return data, err
}
