package mesh_test

import (
	"context"
	"testing"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/mesh"
)

// BenchmarkFetch moves 64 blocks of 1 MiB from one holder to one requester on
// loopback, by a study stream and by bitswap.
func BenchmarkFetch(b *testing.B) {
	for _, door := range []string{"stream", "bitswap"} {
		b.Run(door, func(b *testing.B) {
			r := newRegion(b, 2)
			r.start()
			me, holder := r.nodes[0], r.nodes[1]
			blocks := blocksOf(64, cas.MaxBlock)
			holder.give(me, blocks...)
			b.SetBytes(64 * cas.MaxBlock)
			for b.Loop() {
				s := me.open(holder)
				if door == "bitswap" {
					must(b, s.Close())
				}
				missing, err := me.mesh.FetchBlocks(context.Background(), []*mesh.StudyStream{s}, cidsOf(blocks), func(cas.Block) error { return nil })
				must(b, err)
				if len(missing) > 0 {
					b.Fatalf("%d blocks are missing", len(missing))
				}
				must(b, s.Close())
			}
		})
	}
}
