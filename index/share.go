package index

import (
	"cmp"
	"slices"
	"sync"
)

// Everybody keeps what each member says. A member that floods the region, by
// mistake or not, must not take the place of what the others say: of one trust no
// more is taken, since this node started, than there is left on the disk for all.
// So it is refused with half of that gone, and the others go on; the node says who
// it was.

// freeShare may have come of any trust, however little is left: Options.Room has
// the last word.
const freeShare = 64 << 20

// Share is how much of a trust's facts was taken since the start.
type Share struct {
	Trust TrustID
	Bytes int64
}

// ShareError says that a trust has said more than there is left for all.
type ShareError struct {
	Share
	Left int64
}

func (e *ShareError) Error() string {
	return "trust " + string(e.Trust) + " has said more since this node started than there is room left for on the disk: nothing more is taken of it"
}

// shares are the bytes of others' facts that were taken, by their trust.
type shares struct {
	mu    sync.Mutex
	taken map[TrustID]int64
	want  map[TrustID]int64 // what they would be with what was refused; none of whom nothing is
}

// share says whether so much more of a trust is taken.
func (x *Index) share(trust TrustID, n int) error {
	if x.opt.Left == nil || trust == x.opt.Trust {
		return nil
	}
	left := x.opt.Left()
	x.shares.mu.Lock()
	defer x.shares.mu.Unlock()
	s := Share{trust, x.shares.taken[trust]}
	want := s.Bytes + int64(n)
	if want <= max(x.freeShare, left) {
		delete(x.shares.want, trust)
		return nil
	}
	if x.shares.want[trust] == 0 {
		x.opt.Log.Error("a trust has said more since this node started than there is room left for on the disk: nothing more is taken of it until there is", "trust", string(trust), "bytes", s.Bytes, "left", left)
	}
	x.shares.want[trust] = want
	return &ShareError{s, left}
}

// shared counts what was taken.
func (x *Index) shared(trust TrustID, n int) {
	x.shares.mu.Lock()
	defer x.shares.mu.Unlock()
	x.shares.taken[trust] += int64(n)
}

// Overdrawn lists the trusts of which nothing more is taken for now.
func (x *Index) Overdrawn() (out []Share) {
	if x.opt.Left == nil {
		return nil
	}
	left := x.opt.Left()
	x.shares.mu.Lock()
	defer x.shares.mu.Unlock()
	for trust, want := range x.shares.want {
		if want > max(x.freeShare, left) {
			out = append(out, Share{trust, x.shares.taken[trust]})
		}
	}
	slices.SortFunc(out, func(a, b Share) int { return cmp.Compare(a.Trust, b.Trust) })
	return out
}
