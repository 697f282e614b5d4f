package mesh

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
)

// FetchBlocks is a Draw for once: it draws the blocks from the streams, and what
// they could not give from those holders by bitswap. got is called once for each
// block, verified, one at a time; Data is the callee's own. missing lists what
// nobody gave; err then says why, if it was not that every holder said it does
// not have them. They are as urgent as the most urgent stream. An error of got or of ctx ends the fetch at once and is
// returned as it is. A stream that owes blocks at the end is closed.
func (m *Mesh) FetchBlocks(ctx context.Context, streams []*StudyStream, cids []cid.Cid, got func(cas.Block) error) (missing []cid.Cid, err error) {
	return m.fetch(ctx, streams, cids, got, true)
}

// Blocks is FetchBlocks from this stream alone.
func (s *StudyStream) Blocks(ctx context.Context, cids []cid.Cid, got func(cas.Block) error) (missing []cid.Cid, err error) {
	if s.closed() {
		return distinct(cids), ErrClosed
	}
	return s.m.fetch(ctx, []*StudyStream{s}, cids, got, false)
}

func (m *Mesh) fetch(ctx context.Context, streams []*StudyStream, cids []cid.Cid, got func(cas.Block) error, bitswap bool) (missing []cid.Cid, err error) {
	cids = distinct(cids)
	if len(cids) == 0 {
		return nil, nil
	}
	if !m.tasks.enter() {
		return cids, ErrClosed
	}
	defer m.tasks.leave()
	// Fetches that share streams take turns. In one order, so that no two wait
	// for each other.
	ordered := slices.Clone(streams)
	slices.SortFunc(ordered, func(a, b *StudyStream) int { return cmp.Compare(a.id, b.id) })
	ordered = slices.Compact(ordered)
	for _, s := range ordered {
		select {
		case <-s.turn:
			defer func() { s.turn <- struct{}{} }()
		case <-ctx.Done():
			return cids, ctx.Err()
		}
	}
	given := make(map[cid.Cid]bool, len(cids))
	d := m.Draw(func(b cas.Block) error {
		err := got(b)
		given[b.CID] = err == nil
		return err
	}, nil)
	for _, s := range ordered {
		d.Add(s)
	}
	wants := make([]Want, len(cids))
	for i, c := range cids {
		wants[i].CID = c
	}
	priority := uint8(math.MaxUint8)
	for _, s := range streams {
		priority = min(priority, s.priority)
	}
	missing, err = d.fetch(ctx, wants, priority, bitswap)
	d.release()
	// Some may have come between the end of the wait and that of the Draw.
	return slices.DeleteFunc(missing, func(c cid.Cid) bool { return given[c] }), err
}

// distinct drops repeated addresses, keeping the order.
func distinct(cids []cid.Cid) []cid.Cid {
	seen := make(map[cid.Cid]bool, len(cids))
	out := make([]cid.Cid, 0, len(cids))
	for _, c := range cids {
		if !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	return out
}
