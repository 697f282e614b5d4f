package index

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// view is the heads of all logs at one moment, by bucket.
type view struct {
	heads [DigestBuckets][]Head
	hash  [DigestBuckets][16]byte
	forks map[logID]Fork
}

func (s *Sync) view() *view {
	v := &view{}
	for _, f := range s.logs.Forks() {
		if v.forks == nil {
			v.forks = map[logID]Fork{}
		}
		v.forks[logID{f.Node, f.Epoch}] = f
	}
	ends := map[logID]Seq{} // of logs of those who are let in no more: nodes differ in how far they took them
	all := slices.DeleteFunc(s.logs.Heads(), func(h Head) bool {
		end, over := s.logs.Ended(h.Node, h.Epoch)
		if over {
			ends[logID{h.Node, h.Epoch}] = end
		}
		return over && end == 0
	})
	var b []byte
	for n := range v.hash { // sorted by node, so each bucket is a part
		end := 0
		for end < len(all) && int(all[end].Node[0]>>4) == n {
			end++
		}
		v.heads[n], all = all[:end:end], all[end:]
		b = b[:0]
		for _, h := range v.heads[n] {
			b = append(b, h.Node[:]...)
			b = binary.BigEndian.AppendUint64(b, uint64(h.Epoch))
			if v.forked(h) { // nodes may differ in how far they took it, and agree that it is over
				h.Seq, h.Hash = 0, [32]byte{}
			} else if end, over := ends[logID{h.Node, h.Epoch}]; over && h.Seq >= end {
				h.Seq, h.Hash = end, [32]byte{}
			}
			b = binary.BigEndian.AppendUint64(b, uint64(h.Seq))
			b = append(b, h.Hash[:]...)
		}
		sum := sha256.Sum256(b)
		v.hash[n] = [16]byte(sum[:16])
	}
	return v
}

func (v *view) digest() Digest { return Digest{Buckets: v.hash} }

func (v *view) forked(h Head) bool {
	_, ok := v.forks[logID{h.Node, h.Epoch}]
	return ok
}

// shown are the heads by which a peer is told of logs: of a forked one both that prove it.
func (v *view) shown(heads []Head) []Head {
	var out []Head
	for _, h := range heads {
		if f, ok := v.forks[logID{h.Node, h.Epoch}]; ok {
			out = append(out, f.Ours.Head, f.Theirs.Head)
			continue
		}
		out = append(out, h)
	}
	return out
}

// Agree says of a digest that a peer has sent whether the logs of some nodes, and those that share a bucket with them, end there where they end
// here. Of other logs it says nothing.
func (s *Sync) Agree(d Digest, nodes ...NodeID) bool {
	v := s.view()
	for _, id := range nodes {
		if n := id[0] >> 4; v.hash[n] != d.Buckets[n] {
			return false
		}
	}
	return true
}
