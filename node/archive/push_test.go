package archive

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
)

// expected is the requester's side of a push: each block must be the one that it
// looks for.
type expected struct {
	t    fataler
	next func() (cas.Block, error, bool)
	came map[cid.Cid]int
}

func (e *expected) Get(_ context.Context, c cid.Cid) ([]byte, error) {
	b, err, more := e.next()
	if !more || err != nil || b.CID != c {
		e.t.Fatalf("%s is pushed (%v, %v) where %s is looked for", b.CID, more, err, c)
	}
	e.came[c]++
	if b.Data == nil {
		return nil, fmt.Errorf("%w at the holder", cas.ErrNotFound)
	}
	return b.Data, nil
}

// Holder and requester follow the manifests alike, whatever the holder lacks, and
// how far they go is what was asked for.
func TestBothSidesOfAPushFollowAlike(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	const study, instances = "1.2.3", 5
	for sop := range instances {
		i := image(study, sop+1, byte(sop))
		if sop%2 == 1 {
			i.Series = study + ".2"
		}
		if err := a.take(i); err != nil {
			t.Fatal(err)
		}
	}
	a.publishAll()
	b.hear(a)
	id := a.id(study)
	g, err := a.Grant(t.Context(), b.Self, mesh.StudyRequest{Study: study, Origin: a.Self, Purpose: string(access.DirectCare)})
	if err != nil {
		t.Fatal(err)
	}
	g.Study, g.Origin = study, a.Self
	shelf := a.shelf(id, g.Key)
	push := func(t fataler, p mesh.Push) map[cid.Cid]int {
		next, stop := iter.Pull2(a.Push(context.Background(), b.Self, g, p))
		defer stop()
		e := &expected{t: t, next: next, came: make(map[cid.Cid]int)}
		if err := follow(context.Background(), e, g.Key, g.Manifest, p, func(cas.StudyManifest) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if b, err, more := next(); more {
			t.Fatalf("%s is pushed behind the end: %v", b.CID, err)
		}
		for c, n := range e.came {
			if n != 1 {
				t.Fatalf("%s is pushed %d times", c, n)
			}
		}
		return e.came
	}
	for _, c := range []struct {
		p      mesh.Push
		blocks int
	}{
		{mesh.Push{}, 0},
		{mesh.Push{Depth: mesh.PushLists}, 1 + 2},
		{mesh.Push{Depth: mesh.PushManifests}, 1 + 2 + instances},
		{mesh.Push{Depth: mesh.PushHeaders}, 1 + 2 + 2*instances},
		{mesh.Push{Depth: mesh.PushHeaders, Series: study + ".2"}, 1 + 1 + 2*2},
		{mesh.Push{Depth: mesh.PushHeaders, Series: study + ".1", Instance: study + ".1.3"}, 1 + 1 + 2},
		{mesh.Push{Depth: mesh.PushHeaders, Series: "1.9"}, 1},
	} {
		if got := push(t, c.p); len(got) != c.blocks {
			t.Errorf("%+v brings %d blocks, want %d", c.p, len(got), c.blocks)
		}
	}

	var all []cas.Block
	if err := shelf.Enumerate(t.Context(), cid.Undef, func(c cid.Cid, _ int64) error {
		data, err := shelf.Get(t.Context(), c)
		all = append(all, cas.Block{CID: c, Data: data})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		lacking := rapid.SliceOfDistinct(rapid.SampledFrom(all), func(b cas.Block) string { return b.CID.String() }).Draw(t, "lacking")
		defer func() {
			if err := shelf.Put(context.Background(), lacking...); err != nil {
				t.Fatal(err)
			}
		}()
		for _, b := range lacking {
			if err := shelf.Delete(context.Background(), b.CID); err != nil {
				t.Fatal(err)
			}
		}
		push(t, mesh.Push{Depth: mesh.Depth(rapid.IntRange(0, int(mesh.PushHeaders)).Draw(t, "depth")), Series: rapid.SampledFrom([]string{"", study + ".1", study + ".2"}).Draw(t, "series")})
	})

	// What was granted can be withdrawn while it is pushed.
	next, stop := iter.Pull2(a.Push(t.Context(), b.Self, g, mesh.Push{Depth: mesh.PushHeaders}))
	defer stop()
	if _, err, more := next(); err != nil || !more {
		t.Fatalf("%v, %v", err, more)
	}
	a.grants.withdraw(id)
	if b, err, more := next(); more && err == nil {
		t.Fatalf("%s is pushed though the grant was withdrawn", b.CID)
	}
}
