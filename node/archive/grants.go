package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
	"github.com/priormesh/priormesh/node/audit"
)

// maxGrantedSets bounds the memory of block lists of granted studies; the
// least recently used is forgotten and read again when needed.
const maxGrantedSets = 256

// maxGrants bounds what one peer may hold grants for at once; the oldest goes.
// A peer brings a few studies at a time.
const maxGrants = 64

// grants remembers what this node has granted and to whom, for as long as it
// holds, and answers for single blocks. A CID alone is not a permission.
type grants struct {
	a *Archive

	mu    sync.Mutex
	given map[index.NodeID]map[sourceID]given
	sets  map[cid.Cid]*blockSet // by study manifest: one for each revision of a source
	// forgets counts calls of forget, which a list that is being made must heed.
	forgets uint64
}

// given is what one peer may have, and until when.
type given struct {
	id       sourceID
	until    time.Time
	manifest cas.Ref
}

// blockSet is every block of one revision of a source: manifests and contents.
type blockSet struct {
	id    sourceID
	shelf cas.Shelf
	used  time.Time
	cids  map[cid.Cid]struct{}
}

func newGrants(a *Archive) *grants {
	return &grants{a: a, given: make(map[index.NodeID]map[sourceID]given), sets: make(map[cid.Cid]*blockSet)}
}

// Grant answers a peer that asks for a study. Whatever the reason for a no,
// the peer is told mesh.ErrRefused and no more; the reason is in the audit log.
func (a *Archive) Grant(ctx context.Context, from index.NodeID, req mesh.StudyRequest) (mesh.Grant, error) {
	id := sourceID{Study: req.Study, Origin: req.Origin}
	trust, _ := a.Index.Roster().Allowed(from)
	event := audit.Event{Event: "grant.refused", Node: from.String(), Trust: string(trust), Study: short(req.Study), Purpose: clip(req.Purpose)}
	g, err := a.grant(from, trust, id, req)
	if err != nil {
		event.Detail = err.Error()
		if aerr := a.refusals.write(from, event, a.Now(), a.Audit.Append); aerr != nil {
			a.Log.Error("a refusal could not be audited", "error", aerr)
		}
		return mesh.Grant{}, mesh.ErrRefused
	}
	event.Event, event.Expires = "grant.given", g.Expires
	// Nothing leaves that is not written down first.
	if err := a.Audit.Append(event); err != nil {
		a.Log.Error("a grant was withheld because it could not be audited", "error", err)
		return mesh.Grant{}, mesh.ErrRefused
	}
	a.grants.remember(from, id, given{id: id, until: g.Expires, manifest: g.Manifest})
	return g, nil
}

func (a *Archive) grant(from index.NodeID, trust index.TrustID, id sourceID, req mesh.StudyRequest) (mesh.Grant, error) {
	if err := a.Policy(access.Request{Requester: from, Trust: trust, Purpose: access.Purpose(req.Purpose)}); err != nil {
		return mesh.Grant{}, err
	}
	if a.erase.under(id) {
		return mesh.Grant{}, errErased
	}
	s, err := a.source(id)
	if err != nil {
		return mesh.Grant{}, err
	}
	if s.Revision == 0 || s.Manifest == nil || !s.Whole || s.Conflicts > 0 {
		return mesh.Grant{}, errors.New("no whole revision of the study is here")
	}
	key, err := a.Keys.Get(id.keyName())
	if err != nil {
		a.damage.look(id)
		return mesh.Grant{}, err
	}
	a.space.used(id)
	return mesh.Grant{
		Study: id.Study, Origin: id.Origin, Holder: a.Self, Requester: from, Purpose: req.Purpose,
		Expires: a.Now().Add(a.GrantFor).Truncate(time.Millisecond), Revision: s.Revision, Settled: s.Settled, Manifest: *s.Manifest, Key: key,
	}, nil
}

// GrantedBlock says whether a peer may have a block now.
func (a *Archive) GrantedBlock(from index.NodeID, c cid.Cid) bool {
	for _, g := range a.grants.of(from) {
		if a.grants.contains(g.id, g.manifest, c) {
			return true
		}
	}
	return false
}

// Get implements mesh.Blocks, for blocks that GrantedBlock has allowed.
func (a *Archive) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	id, shelf, err := a.grants.shelfOf(c)
	if err != nil {
		return nil, err
	}
	return a.give(ctx, id, shelf, c)
}

// give reads a block for a peer. One that is damaged is not here: others may have
// it.
func (a *Archive) give(ctx context.Context, id sourceID, shelf cas.Shelf, c cid.Cid) ([]byte, error) {
	noted, err := a.isNoted(id, c)
	if err != nil {
		return nil, err
	}
	if !noted {
		// A peer that is sent wrong bytes takes nothing more from this node, so
		// they are hashed before they leave.
		data, err := whole(ctx, shelf, c)
		if !cas.Damaged(err) {
			return data, err
		}
		a.damage.look(id)
	}
	return nil, fmt.Errorf("%w whole", cas.ErrNotFound)
}

// Has implements mesh.Blocks, as Get does.
func (a *Archive) Has(ctx context.Context, c cid.Cid) (bool, error) {
	id, shelf, err := a.grants.shelfOf(c)
	if errors.Is(err, cas.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if noted, err := a.isNoted(id, c); noted || err != nil {
		return false, err
	}
	return shelf.Has(ctx, c)
}

// shelfOf finds a block among what has been granted to anybody.
func (g *grants) shelfOf(c cid.Cid) (sourceID, cas.Shelf, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, set := range g.sets {
		if _, found := set.cids[c]; found {
			return set.id, set.shelf, nil
		}
	}
	return sourceID{}, nil, cas.ErrNotFound
}

// forget has the blocks of a source listed again when they are asked for: what
// of them can be read has changed.
func (g *grants) forget(id sourceID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgets++
	for k, set := range g.sets {
		if set.id == id {
			delete(g.sets, k)
		}
	}
}

// withdraw forgets all that was granted of a source.
func (g *grants) withdraw(id sourceID) {
	g.forget(id)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.given {
		delete(m, id)
	}
}

func (g *grants) remember(to index.NodeID, id sourceID, v given) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.a.Now()
	for peer, m := range g.given {
		for old, t := range m {
			if !t.until.After(now) {
				delete(m, old)
			}
		}
		if len(m) == 0 {
			delete(g.given, peer)
		}
	}
	if g.given[to] == nil {
		g.given[to] = make(map[sourceID]given)
	}
	g.given[to][id] = v
	for len(g.given[to]) > maxGrants {
		oldest := v
		for _, x := range g.given[to] {
			if x.until.Before(oldest.until) {
				oldest = x
			}
		}
		delete(g.given[to], oldest.id)
	}
}

// of is what a peer holds grants for, the newest first: it is most likely the
// one that is being used.
func (g *grants) of(peer index.NodeID) []given {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.a.Now()
	var out []given
	for _, v := range g.given[peer] {
		if v.until.After(now) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b given) int { return b.until.Compare(a.until) })
	return out
}

// covers says whether a peer holds a grant for a source.
func (g *grants) covers(peer index.NodeID, id sourceID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	v, ok := g.given[peer][id]
	return ok && v.until.After(g.a.Now())
}

// on is what peers hold grants for of one source.
func (g *grants) on(id sourceID) []given {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.a.Now()
	var out []given
	for _, m := range g.given {
		if v, ok := m[id]; ok && v.until.After(now) {
			out = append(out, v)
		}
	}
	return out
}

func (g *grants) contains(id sourceID, manifest cas.Ref, c cid.Cid) bool {
	g.mu.Lock()
	if set := g.sets[manifest.CID]; set != nil {
		set.used = g.a.Now()
		_, ok := set.cids[c]
		g.mu.Unlock()
		return ok
	}
	forgets := g.forgets
	g.mu.Unlock()

	shelf, cids, err := g.a.blocksOf(context.Background(), id, manifest)
	if err != nil {
		g.a.Log.Error("the blocks of a granted study cannot be listed", "study", short(id.Study), "error", err)
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := cids[c]
	if g.forgets != forgets {
		return ok
	}
	g.sets[manifest.CID] = &blockSet{id: id, shelf: shelf, used: g.a.Now(), cids: cids}
	for len(g.sets) > maxGrantedSets {
		var oldest cid.Cid
		for k, v := range g.sets {
			if !oldest.Defined() || v.used.Before(g.sets[oldest].used) {
				oldest = k
			}
		}
		delete(g.sets, oldest)
	}
	return ok
}

// blocksOf lists every block of one revision of a source. Of what is damaged
// here it lists what it can find, so that the rest can still be given.
func (a *Archive) blocksOf(ctx context.Context, id sourceID, manifest cas.Ref) (cas.Shelf, map[cid.Cid]struct{}, error) {
	key, err := a.Keys.Get(id.keyName())
	if err != nil {
		return nil, nil, err
	}
	shelf := a.shelf(id, key)
	out := make(map[cid.Cid]struct{})
	add := func(get cas.Getter, r cas.Ref) error {
		out[r.CID] = struct{}{}
		blocks, err := r.Blocks(ctx, get, key)
		for _, c := range blocks {
			out[c] = struct{}{}
		}
		return err
	}
	instance := func(series, uid string, ref cas.Ref) error {
		get := a.reading(id, key, damage{Series: series, SOP: uid, Of: &ref}, true, false)
		err := add(get, ref)
		if err != nil {
			return absentOr(err)
		}
		m, err := cas.LoadInstance(ctx, get, key, ref)
		for _, b := range m.Blocks {
			out[b.CID] = struct{}{}
		}
		return absentOr(err)
	}
	partly := false
	lists := func() error {
		get := a.reading(id, key, damage{Of: &manifest}, true, false)
		if err := add(get, manifest); err != nil {
			return err
		}
		study, err := cas.LoadStudy(ctx, get, key, manifest)
		if err != nil {
			return err
		}
		for _, se := range study.Series {
			get := a.reading(id, key, damage{Series: se.UID, Of: &manifest}, true, false)
			err := add(get, se.Manifest)
			var series cas.SeriesManifest
			if err == nil {
				series, err = cas.LoadSeries(ctx, get, key, se.Manifest)
			}
			if cas.Damaged(err) {
				partly = true
				continue
			}
			if err != nil {
				return err
			}
			for _, ie := range series.Instances {
				if err := instance(se.UID, ie.UID, ie.Manifest); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err = lists()
	if partly = partly || cas.Damaged(err); err != nil && !partly {
		return nil, nil, err
	}
	if partly {
		rows, err := a.instancesOf(id)
		if err != nil {
			return nil, nil, err
		}
		for _, row := range rows {
			if err := instance(row.Series, row.SOP, row.Manifest); err != nil {
				return nil, nil, err
			}
		}
	}
	return shelf, out, nil
}

// absentOr forgives damage.
func absentOr(err error) error {
	if cas.Damaged(err) {
		return nil
	}
	return err
}

// clip keeps what a stranger wrote from filling the audit log.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most]
	}
	return s
}
