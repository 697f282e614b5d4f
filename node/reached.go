package node

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/priormesh/priormesh/index"
)

// reachedFile says how far the logs of other nodes had come, beside the index
// and not in it: an index that ends before has lost what it had, and answers say
// so until that is here again. saidFile is the same of the own log.
const reachedFile = "reached"

const (
	reachedForm = "priormesh reached 1 %08x\n" // CRC-32C of the lines that follow
	reachedLine = "%s %d %d\n"                 // node in hex, newest epoch, number in that
)

// reached is what reachedFile has: of each node the newest position that was here.
type reached struct {
	path string

	mu sync.Mutex
	at map[index.NodeID]index.Position
}

// openReached reads the note. One that is damaged is none: it is made anew of
// what the index has.
func openReached(path string) (*reached, error) {
	r := &reached{path: path, at: make(map[index.NodeID]index.Position)}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	damaged := fmt.Errorf("%s is damaged", path)
	var sum uint32
	head, lines, _ := bytes.Cut(b, []byte("\n"))
	if _, err := fmt.Sscanf(string(head)+"\n", reachedForm, &sum); err != nil || sum != crc32.Checksum(lines, crc32.MakeTable(crc32.Castagnoli)) {
		return r, damaged
	}
	for line := range bytes.Lines(lines) {
		var name string
		var p index.Position
		if _, err := fmt.Sscanf(string(line), reachedLine, &name, &p.Epoch, &p.Seq); err != nil {
			return r, damaged
		}
		id, err := hex.DecodeString(name)
		if err != nil || len(id) != len(index.NodeID{}) {
			return r, damaged
		}
		r.at[index.NodeID(id)] = p
	}
	return r, nil
}

// note keeps what the logs have come to, and forgets nodes of no member. What
// was reached once stays until it is here again.
func (r *reached) note(lags []index.Lag, self index.NodeID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := make(map[index.NodeID]index.Position)
	for _, l := range lags {
		if l.Node == self || l.Epoch == 0 {
			continue
		}
		p := index.Position{Epoch: l.Epoch, Seq: l.Applied}
		for _, q := range []index.Position{r.at[l.Node], now[l.Node]} {
			if later(q, p) {
				p = q
			}
		}
		now[l.Node] = p
	}
	for node, p := range r.at { // of which the index has nothing any more
		if slices.ContainsFunc(lags, func(l index.Lag) bool { return l.Node == node && l.Epoch == 0 }) {
			now[node] = p
		}
	}
	if maps.Equal(now, r.at) {
		return nil
	}
	var lines []byte
	for _, node := range slices.SortedFunc(maps.Keys(now), index.NodeID.Compare) {
		lines = fmt.Appendf(lines, reachedLine, hex.EncodeToString(node[:]), now[node].Epoch, now[node].Seq)
	}
	b := append(fmt.Appendf(nil, reachedForm, crc32.Checksum(lines, crc32.MakeTable(crc32.Castagnoli))), lines...)
	if err := writeFile(r.path, b); err != nil {
		return err
	}
	r.at = now
	return nil
}

func later(p, q index.Position) bool {
	return p.Epoch > q.Epoch || p.Epoch == q.Epoch && p.Seq > q.Seq
}

// add counts what had been reached and is not here among what was heard, and
// says how many facts of each node these are.
func (r *reached) add(lags []index.Lag) (out []index.Lag, lost map[index.NodeID]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost = make(map[index.NodeID]uint64)
	for i, l := range lags { // by node, then epoch
		p := r.at[l.Node]
		newest := i == len(lags)-1 || lags[i+1].Node != l.Node
		switch {
		case l.Epoch == p.Epoch && p.Seq > l.Applied:
			lost[l.Node] = uint64(p.Seq - l.Applied)
			l.Heard = max(l.Heard, p.Seq)
			out = append(out, l)
		case newest && p.Epoch > l.Epoch:
			lost[l.Node] = uint64(p.Seq)
			if l.Epoch > 0 { // else it stands for a log that is not known
				out = append(out, l)
			}
			out = append(out, index.Lag{Node: l.Node, Trust: l.Trust, Epoch: p.Epoch, Heard: p.Seq})
		default:
			out = append(out, l)
		}
	}
	return out, lost
}
