package mesh

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// FetchBlocks is the one door for blocks: the first stream gives what it can,
// then the others, then bitswap asks all those holders at once for what is
// still missing. got is called once for each block, verified, one at a time;
// Data is the callee's own. missing lists what nobody gave; err then says why,
// if it was not that every holder said it does not have them. An error of got
// or of ctx ends the fetch at once and is returned as it is.
func (m *Mesh) FetchBlocks(ctx context.Context, streams []*StudyStream, cids []cid.Cid, got func(cas.Block) error) (missing []cid.Cid, err error) {
	todo := distinct(cids)
	var failures []error
	// Who may be asked for what by bitswap: holders that did not say that
	// they lack the block, and never one that sent a wrong one or whose grant
	// has run out.
	lacks := make(map[index.NodeID]map[cid.Cid]bool)
	for _, s := range streams {
		if len(todo) == 0 {
			return nil, nil
		}
		var stop error // of got
		left, err := s.Blocks(ctx, todo, func(b cas.Block) error {
			stop = got(b)
			return stop
		})
		switch {
		case stop != nil:
			return left, stop
		case ctx.Err() != nil:
			return left, ctx.Err()
		case err != nil:
			failures = append(failures, err)
		}
		todo = left
		if lacks[s.holder] == nil {
			lacks[s.holder] = make(map[cid.Cid]bool)
		}
		if err == nil {
			for _, c := range left {
				lacks[s.holder][c] = true
			}
		}
	}
	for _, s := range streams {
		if s.spoilt.Load() {
			delete(lacks, s.holder)
		}
	}
	if len(todo) == 0 {
		return nil, nil
	}
	holders := make(map[cid.Cid][]index.NodeID)
	var open []cid.Cid
	for _, c := range todo {
		for id, lacked := range lacks {
			if !lacked[c] && m.peers.link(id) != nil {
				holders[c] = append(holders[c], id)
			}
		}
		if len(holders[c]) > 0 {
			open = append(open, c)
		}
	}
	if len(open) > 0 {
		came, err := m.bitswap.fetch(ctx, open, holders, got)
		todo = without(todo, came)
		if err != nil {
			return todo, err
		}
	}
	if len(todo) == 0 {
		return nil, nil
	}
	if err := errors.Join(failures...); err != nil {
		return todo, fmt.Errorf("%d of %d blocks did not come: %w", len(todo), len(cids), err)
	}
	return todo, nil
}

func without(cids []cid.Cid, gone map[cid.Cid]bool) []cid.Cid {
	out := cids[:0:0]
	for _, c := range cids {
		if !gone[c] {
			out = append(out, c)
		}
	}
	return out
}
