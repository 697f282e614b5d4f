package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// Siblings are the other nodes of this trust. With Space.Shared they keep what
// they receive in the same store, and its keys in the same keyring, so that a
// node serves a sibling's study as soon as it has written the study into its
// own catalogue: it adopts it. What a sibling received is its affair alone:
// nothing of it is swept, counted, verified, evicted or erased from here.

// ErrSiblings says that a study was not received here but by another node of
// this trust, which is the one to erase it.
var ErrSiblings = errors.New("another node of this trust received the study and keeps it for all of them: erase it there, and it goes from here too")

// Keys keeps study keys by name; *cas.Keyring is one.
type Keys interface {
	Get(name string) (cas.Key, error)
	Create(name string) (cas.Key, error)
	Add(name string, k cas.Key) error
	Delete(name string) error
	SetAside(name string) error // what cannot be opened, so that there can be another
	Shelves(ctx context.Context, fn func(name string, id cas.ShelfID) error) error
}

// ours says whether a source's blocks lie where this node's own do.
func (a *Archive) ours(origin index.NodeID) bool { return origin == a.Self || a.sibling(origin) }

// sibling says whether a node keeps what it receives in the store that this
// one shares.
func (a *Archive) sibling(origin index.NodeID) bool {
	if !a.Space.Shared || origin == a.Self {
		return false
	}
	own, _ := a.Index.TrustOf(a.Self)
	trust, known := a.Index.TrustOf(origin)
	return known && trust == own
}

// store is where the blocks of a source lie.
func (a *Archive) store(origin index.NodeID) cas.Store {
	if a.ours(origin) {
		return a.Blocks
	}
	return a.Copies
}

// splitKeys keeps the keys of what this trust received in one keyring and those
// of copies in another.
type splitKeys struct {
	a            *Archive
	ours, copies Keys
}

func (k splitKeys) of(name string) Keys {
	origin, err := index.ParseNodeID(name[strings.LastIndexByte(name, '/')+1:])
	if err == nil && k.a.ours(origin) {
		return k.ours
	}
	return k.copies
}

func (k splitKeys) Get(name string) (cas.Key, error)    { return k.of(name).Get(name) }
func (k splitKeys) Create(name string) (cas.Key, error) { return k.of(name).Create(name) }
func (k splitKeys) Add(name string, key cas.Key) error  { return k.of(name).Add(name, key) }
func (k splitKeys) Delete(name string) error            { return k.of(name).Delete(name) }
func (k splitKeys) SetAside(name string) error          { return k.of(name).SetAside(name) }

// Shelves lists what opens shelves of copies: whose keys and shelves the shared
// store has is not for one node to say.
func (k splitKeys) Shelves(ctx context.Context, fn func(name string, id cas.ShelfID) error) error {
	return k.copies.Shelves(ctx, fn)
}

// Adopt has a study that a sibling received written into the catalogue. For
// any other it does nothing.
func (a *Archive) Adopt(study string) error {
	said, err := a.Index.Study(study)
	if err != nil {
		return err
	}
	for _, st := range said {
		if !a.sibling(st.Author) {
			continue
		}
		here, err := a.source(sourceID{study, st.Author})
		if err != nil && !errors.Is(err, errNoRecord) {
			return err
		}
		if here.Whole && here.Revision >= st.Value.Revision {
			continue
		}
		return a.Enqueue(study, Background, "another node of this trust has stored it", "")
	}
	return nil
}

// errNotShared says that a sibling's study is not, or not all, in the shared
// store: it is brought like anybody else's.
var errNotShared = errors.New("not in the shared store")

// adopt writes a sibling's study into the catalogue. Nothing is transferred.
func (a *Archive) adopt(ctx context.Context, id sourceID, st index.Study) error {
	ref, err := parseRef(st.Manifest)
	if err != nil {
		return err
	}
	key, err := a.Keys.Get(id.keyName())
	if errors.Is(err, cas.ErrNoKey) {
		return fmt.Errorf("%w: %w", errNotShared, err)
	}
	if err != nil {
		return err
	}
	t := &transfer{a: a, ctx: ctx, id: id, st: st, ref: ref, key: key, shared: make(map[cid.Cid]bool)}
	// Asked for all at once: one by one would be a request for each block.
	if err := a.shelf(id, key).Enumerate(ctx, cid.Undef, func(c cid.Cid, _ int64) error {
		t.shared[c] = true
		return nil
	}); err != nil {
		return err
	}
	err = t.run()
	if errors.Is(err, cas.ErrNotFound) || errors.Is(err, cas.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", errNotShared, err)
	}
	return err
}

// there says ErrNotFound unless the shared store has all of the blocks.
func (t *transfer) there(wants []mesh.Want) error {
	for _, w := range wants {
		if !t.shared[w.CID] {
			return fmt.Errorf("%w: %s of study %s", cas.ErrNotFound, w.CID, dicom.UID(t.id.Study).Short())
		}
	}
	return nil
}
