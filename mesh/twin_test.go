package mesh_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/priormesh/priormesh/mesh"
)

// Two processes with one key: every peer says so, and both are told, also the one that is turned away.
func TestTwoNodesWithOneKeyAreSeenAndTold(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	r.start()
	a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
	second := *b
	second.log = new(logbook)
	cfg, deps := second.config()
	m, err := mesh.Open(context.Background(), cfg, deps)
	must(t, err)
	second.mesh = m
	defer m.Close()
	for _, p := range []*node{a, c} {
		eventually(t, fmt.Sprintf("%s sees two of %s", p.trust, b.trust), func() bool {
			twin := p.peer(b).Twin
			return !twin.Seen.IsZero() && len(twin.At) == 2
		})
		if twin := p.peer(a).Twin; p != a && !twin.Seen.IsZero() {
			t.Errorf("%s sees two of %s: %+v", p.trust, a.trust, twin)
		}
		eventually(t, "it is in its log", func() bool { return p.log.count("two nodes run with one key") == 1 })
	}
	for name, p := range map[string]*node{"first": b, "second": &second} {
		eventually(t, "the "+name+" is told", func() bool { return !p.mesh.Twin().Seen.IsZero() })
		if by := p.mesh.Twin().By; by != a.id && by != c.id {
			t.Errorf("the %s was told by %s", name, by)
		}
		if p.log.count("another node runs with this node's key") != 1 {
			t.Errorf("the log of the %s does not say it", name)
		}
		if n := p.log.count("most likely it does not know yet"); n != 0 {
			t.Errorf("the log of the %s says %d times that it was not admitted", name, n)
		}
	}
}

// A node that is started again, or has several ways, is one.
func TestANodeThatIsStartedAgainIsOne(t *testing.T) {
	t.Parallel()
	r := newRegion(t, 3)
	listening(r.nodes, nil, byTCP, byQUIC)
	r.start()
	b := r.nodes[1]
	for i := range 4 {
		if i%2 == 0 {
			b.mesh.Crash()
		} else {
			must(t, b.mesh.Close())
		}
		b.start()
		r.meet(r.nodes...)
	}
	time.Sleep(3 * time.Second) // for what there is of further connections
	for _, p := range r.nodes {
		for _, q := range r.nodes {
			if twin := p.peer(q).Twin; !twin.Seen.IsZero() {
				t.Errorf("%s sees two of %s: %+v", p.trust, q.trust, twin)
			}
		}
		if twin := p.mesh.Twin(); !twin.Seen.IsZero() {
			t.Errorf("%s was told that there are two of it: %+v", p.trust, twin)
		}
	}
}
