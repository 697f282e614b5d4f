package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/api"
)

const (
	tableHeard byte = 0x70
	lookEvery       = time.Second      // at who is there
	noteEvery       = 10 * time.Second // when each was last heard from, on disk
)

// hearing knows which trusts have been heard from, and since when not. Every
// answer says it: "no priors" means little while a trust is silent.
type hearing struct {
	n *Node
	// before is what earlier runs of this node knew; a trust that has been
	// silent since before the start is named with the right time.
	before map[index.NodeID]seen

	reached *reached
}

// seen is when a node was last heard from, and when it last told of its own log
// and nothing of what it told was lacking here.
type seen struct{ heard, inStep time.Time }

func openHearing(n *Node) (*hearing, error) {
	h := &hearing{n: n, before: make(map[index.NodeID]seen)}
	var err error
	if h.reached, err = openReached(n.home.path(reachedFile)); err != nil {
		n.Log.Error("how far the logs of other nodes had come cannot be read; what the index may have lost of them is not noticed at this start", "error", err)
	}
	err = n.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableHeard}, PrefetchValues: true, PrefetchSize: 100})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			k := it.Item().Key()
			if len(k) != 1+len(index.NodeID{}) {
				return errors.New("the table of when nodes were last heard from is damaged")
			}
			id := index.NodeID(k[1:])
			if err := it.Item().Value(func(b []byte) error {
				var s seen
				if len(b) >= 8 {
					s.heard = time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
				}
				if len(b) == 16 {
					s.inStep = time.UnixMilli(int64(binary.BigEndian.Uint64(b[8:])))
				}
				h.before[id] = s
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return h, err
}

// run looks who has come back, so that what waits for them is tried at once,
// and notes when each was last heard from.
func (h *hearing) run(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	there := make(map[index.NodeID]bool)
	noted := h.n.Now()
	for {
		select {
		case <-ctx.Done():
			h.note()
			return
		case <-look.C:
		}
		var back []index.NodeID
		for _, p := range h.n.mesh.Peers() {
			if p.Connected && !there[p.ID] {
				back = append(back, p.ID)
			}
			there[p.ID] = p.Connected
		}
		if len(back) > 0 {
			h.n.archive.Back(back...)
		}
		if now := h.n.Now(); now.Sub(noted) >= noteEvery {
			noted = now
			h.note()
		}
	}
}

func (h *hearing) note() {
	if h.n.disk.Note(true) != nil {
		return
	}
	if err := h.reached.note(h.n.index.Lags(), h.n.index.Self()); err != nil {
		h.n.Log.Error("how far the logs of other nodes have come could not be noted", "error", err)
	}
	peers := h.n.mesh.Peers() // a few hundred at most: one transaction holds them
	if err := h.n.index.Update(func(txn *badger.Txn) error {
		for _, p := range peers {
			if p.LastHeard.IsZero() {
				continue
			}
			v := binary.BigEndian.AppendUint64(nil, uint64(p.LastHeard.UnixMilli()))
			if at := h.inStep(p); !at.IsZero() {
				v = binary.BigEndian.AppendUint64(v, uint64(at.UnixMilli()))
			}
			if err := txn.Set(append([]byte{tableHeard}, p.ID[:]...), v); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		h.n.Log.Error("when nodes were last heard from could not be noted", "error", err)
	}
}

// last is when a node was last heard from, in this run or an earlier one.
func (h *hearing) last(p mesh.Peer) time.Time {
	at := p.LastHeard
	if at.IsZero() {
		at = h.before[p.ID].heard
	}
	if at.After(h.n.Now().Add(clockSlack)) {
		return time.Time{} // the clock was ahead: nobody knows when that was
	}
	return at.UTC()
}

// inStep is when a node last told of its own log and nothing was lacking here,
// in this run or an earlier one.
func (h *hearing) inStep(p mesh.Peer) time.Time {
	if !p.InStep.IsZero() {
		return p.InStep.UTC()
	}
	return h.before[p.ID].inStep.UTC()
}

// basis is what answers rest on, for each trust on the roster.
func (h *hearing) basis() []api.Basis {
	told := make(map[index.NodeID]time.Time)
	for _, p := range h.n.mesh.Peers() {
		if at := h.inStep(p); !at.IsZero() {
			told[p.ID] = at
		}
	}
	lags, lost := h.lags()
	for node := range lost {
		delete(told, node) // it told of what is not here any more
	}
	return basisOf(h.n.Now(), h.n.index.Self(), h.n.index.Roster(), lags, told)
}

// lags is how far the logs have come, and of each node how many facts that had
// come are not here any more.
func (h *hearing) lags() (lags []index.Lag, lost map[index.NodeID]uint64) {
	return h.reached.add(h.n.index.Lags())
}

// clockSlack is by how much a time may be ahead of the clock and be taken for now.
const clockSlack = time.Second

// basisOf says for each trust how far its logs go here, and since when that is
// known to be all. Only a node itself can say that there is nothing newer in its
// log: told is when each last did and nothing was lacking. Of a trust with
// several nodes the oldest counts.
func basisOf(now time.Time, self index.NodeID, roster index.Roster, lags []index.Lag, told map[index.NodeID]time.Time) []api.Basis {
	logs := make(map[index.TrustID][]api.LogPosition)
	behind := make(map[index.TrustID]uint64)
	var before []api.LogEnd
	for i, l := range lags { // by node, then epoch
		if i > 0 && lags[i-1].Node != l.Node {
			before = nil
		}
		if l.Heard > l.Applied {
			behind[l.Trust] += uint64(l.Heard - l.Applied)
		}
		if i < len(lags)-1 && lags[i+1].Node == l.Node {
			if l.Applied > 0 {
				before = append(before, api.LogEnd{Epoch: uint64(l.Epoch), Seq: uint64(l.Applied)})
			}
			continue
		}
		if trust, ok := roster.Allowed(l.Node); !ok || trust != l.Trust {
			continue
		}
		p := api.LogPosition{Node: l.Node.String(), Epoch: uint64(l.Epoch), Seq: uint64(l.Applied), AsOf: told[l.Node].UTC(), Quarantined: l.Quarantined, Before: before}
		switch {
		case l.Node == self:
			p.AsOf = now.UTC()
		case l.Quarantined:
			p.AsOf = time.Time{} // what it has said since is not taken, however lately it was heard
		case p.AsOf.Sub(now) > clockSlack:
			p.AsOf = time.Time{} // a clock that was ahead has noted it
		}
		logs[l.Trust] = append(logs[l.Trust], p)
	}
	out := []api.Basis{}
	for _, m := range roster.Members {
		b := api.Basis{Trust: string(m.Trust), Behind: behind[m.Trust], Logs: logs[m.Trust]}
		if b.Logs == nil {
			b.Logs = []api.LogPosition{}
		}
		for i, l := range b.Logs {
			if i == 0 || l.AsOf.Before(b.AsOf) {
				b.AsOf = l.AsOf
			}
		}
		if !b.AsOf.IsZero() {
			age := max(0, now.Sub(b.AsOf).Seconds())
			b.Age = &age
		}
		out = append(out, b)
	}
	return out
}

// forks lists the logs that are quarantined, and what to do about each.
func (n *Node) forks() []api.Fork {
	out := []api.Fork{}
	for _, f := range n.index.Forks() {
		trust, _ := n.index.TrustOf(f.Node)
		head, _ := n.index.Head(f.Node)
		x := api.Fork{Node: f.Node.String(), Trust: string(trust), Epoch: uint64(f.Epoch), Position: uint64(f.Seq), Found: f.Found.UTC(),
			Own: f.Node == n.index.Self(), Over: head.Epoch > f.Epoch}
		switch {
		case x.Over && x.Own:
			x.Advice = fmt.Sprintf("this node has begun a new epoch of its log since, and is believed in that. What another home with its key received after position %d of epoch %d is not here, and this node does not know of it: at another member `priormesh find --trust %s` shows what was told of it; send here again what this node lacks",
				f.Seq, f.Epoch, n.home.Config.Trust)
		case x.Over:
			x.Advice = "nothing: the node has begun a new epoch of its log since, and is believed in that"
		case x.Own:
			x.Advice = "find the other process that has this node's key (the home that a backup was restored from, or a copy of it), end it for good, and then start this node again: it begins a new epoch by itself. If there is none, the disk may have lost what it said it had written (did the machine lose power?): see to it, and start this node again. If that is not so either, the key is in other hands: tell the region, and make a new home with a new key"
		default:
			x.Advice = "ask the trust whether two copies of that node's home run, its disk has lost what was written, or its key is in other hands; what it says is believed again when that is mended (of two copies, one ended) and the node started again"
		}
		out = append(out, x)
	}
	return out
}

// listened is whether a node is heard now, and when it was last.
type listened struct {
	node  index.NodeID
	trust index.TrustID
	heard bool
	last  time.Time // zero: never, as far as it is known
}

// nodes is what was heard of every other node that is let in.
func (h *hearing) nodes(roster index.Roster) (out []listened) {
	now := h.n.Now()
	peers := make(map[index.NodeID]mesh.Peer)
	for _, p := range h.n.mesh.Peers() {
		peers[p.ID] = p
	}
	for _, id := range roster.Nodes() {
		trust, in := roster.Allowed(id)
		if !in || id == h.n.index.Self() {
			continue
		}
		p := peers[id]
		p.ID = id
		out = append(out, listened{node: id, trust: trust, last: h.last(p),
			heard: p.Connected && now.Sub(p.LastHeard) <= time.Duration(h.n.home.Config.Completeness.HeardWithin)})
	}
	return out
}

// trusts is the state of every other trust on the roster. A trust is heard if
// any of its nodes is.
func (h *hearing) trusts(roster index.Roster, nodes []listened) []api.TrustStatus {
	lacking := make(map[index.TrustID]api.TrustStatus)
	lags, _ := h.lags()
	for i, l := range lags { // by node, then epoch
		x := lacking[l.Trust]
		if l.Heard > l.Applied {
			x.Behind += uint64(l.Heard - l.Applied)
		}
		x.Missing, x.Unread = x.Missing+l.Missing, x.Unread+l.Unread
		if l.Quarantined && (i == len(lags)-1 || lags[i+1].Node != l.Node) {
			x.Quarantined++
		}
		lacking[l.Trust] = x
	}
	out := []api.TrustStatus{}
	for _, m := range roster.Members {
		if m.Trust == h.n.home.Config.Trust {
			continue
		}
		st := lacking[m.Trust]
		st.Trust, st.Name = string(m.Trust), m.Name
		for _, n := range nodes {
			if n.trust != m.Trust {
				continue
			}
			if n.last.After(st.LastHeard) {
				st.LastHeard = n.last
			}
			st.Heard = st.Heard || n.heard
		}
		out = append(out, st)
	}
	return out
}

// silence has a text for each thing that an answer lacks, and of which trust.
func (h *hearing) silence() []string {
	roster := h.n.index.Roster()
	lags, lost := h.lags()
	nodes := h.nodes(roster)
	trusts := h.trusts(roster, nodes)
	var out []string
	trusts = slices.DeleteFunc(trusts, func(t api.TrustStatus) bool { // all of whose nodes were revoked: nobody is to be heard
		bare := bareOf(roster, index.TrustID(t.Trust))
		if bare {
			out = append(out, fmt.Sprintf("%s has no node any more that is let in, they were revoked by its own key: what they told before counts as far as the trust has said, and what it receives is not known here until it has another node admitted", t.Trust))
		}
		return bare
	})
	out = append(out, lackingOf(trusts, nodes, h.n.index.Self(), h.n.home.Config.Trust, roster, lags)...)
	for _, node := range slices.SortedFunc(maps.Keys(lost), index.NodeID.Compare) {
		trust, _ := roster.Allowed(node)
		out = append(out, fmt.Sprintf("%s: this node's index has lost %s of its node %s; they are asked of the others, and answers may lack studies until they are here. See to the disk",
			trust, counted(lost[node], "fact", "facts"), node))
	}
	return out
}

// bareOf says whether a trust has nodes that were revoked and no other.
func bareOf(roster index.Roster, trust index.TrustID) bool {
	for _, id := range roster.Nodes() {
		if t, in := roster.Allowed(id); in && t == trust {
			return false
		}
	}
	return slices.ContainsFunc(roster.Revocations(), func(v index.Revocation) bool { return v.Trust == trust })
}

func lackingOf(trusts []api.TrustStatus, nodes []listened, self index.NodeID, own index.TrustID, roster index.Roster, lags []index.Lag) []string {
	var out []string
	heard := map[index.TrustID]bool{own: true}
	for _, t := range trusts {
		heard[index.TrustID(t.Trust)] = t.Heard
		behind := ""
		if t.Behind > 0 {
			behind = notCome(t.Behind)
		}
		switch {
		case !t.Heard && behind != "":
			out = append(out, silentText(t)+", and "+behind)
		case !t.Heard:
			out = append(out, silentText(t))
		case behind != "":
			out = append(out, t.Trust+" "+behind)
		}
	}
	silent := make(map[index.NodeID]bool)
	of := make(map[index.TrustID][]listened)
	for _, n := range nodes {
		// Of a silent trust all nodes are, and that is said.
		if silent[n.node] = !n.heard; !n.heard && heard[n.trust] {
			of[n.trust] = append(of[n.trust], n)
		}
	}
	for _, trust := range slices.Sorted(maps.Keys(of)) {
		text := of[trust][0].text(own)
		if more := len(of[trust]) - 1; more > 0 { // a line each would crowd out what else is to be said
			text += fmt.Sprintf("; so it is with %s of its nodes", counted(more, "another one", "others"))
		}
		out = append(out, text)
	}
	for i, l := range lags { // by node, then epoch
		newest := i == len(lags)-1 || lags[i+1].Node != l.Node
		who := string(l.Trust)
		if l.Node == self {
			who = "this node itself (it was restored from a backup, or its index was damaged)"
		} else if l.Trust == own && l.Heard > l.Applied {
			out = append(out, fmt.Sprintf("%s: another node of this trust %s", l.Trust, notCome(uint64(l.Heard-l.Applied))))
		}
		if l.Quarantined && newest && l.Node != self {
			out = append(out, fmt.Sprintf("%s: its node %s has signed two histories; what it said since is not believed", l.Trust, l.Node))
		}
		if l.Missing > 0 {
			out = append(out, fmt.Sprintf("%s: the contents of %d of its facts have not arrived here", who, l.Missing))
		}
		if l.Unread > 0 {
			out = append(out, fmt.Sprintf("%s: %d of its facts cannot be read by this version; update this node", who, l.Unread))
		}
		if l.Epoch == 0 && l.Applied == 0 && l.Heard == 0 && l.Node != self && heard[l.Trust] && !silent[l.Node] {
			out = append(out, fmt.Sprintf("%s: nothing that its node %s has said has arrived here yet", l.Trust, l.Node))
		}
	}
	for _, t := range roster.Unseated {
		out = append(out, fmt.Sprintf("%s is not heard: votes that admitted it are void because their author signed two; admit it again", t))
	}
	return out
}

// notCome says how much of a log is not here.
func notCome(behind uint64) string {
	if behind > api.MaxBehind {
		return "says that it has said more than it gives, and more than any node can say: its log is not to be relied on; ask the trust"
	}
	return fmt.Sprintf("has announced %s not arrived here yet", counted(behind, "fact that has", "facts that have"))
}

func silentText(t api.TrustStatus) string {
	if t.LastHeard.IsZero() {
		return fmt.Sprintf("%s has never been heard from", t.Trust)
	}
	return fmt.Sprintf("%s has not been heard from since %s", t.Trust, t.LastHeard.Format(time.RFC3339))
}

// text says that a node is silent while its trust is heard.
func (l listened) text(own index.TrustID) string {
	since := "has never been heard from"
	if !l.last.IsZero() {
		since = "has not been heard from since " + l.last.Format(time.RFC3339)
	}
	if l.trust == own {
		return fmt.Sprintf("%s: another node of this trust, %s, %s; what it received since is not known here. If it is gone for good, revoke it", l.trust, l.node, since)
	}
	return fmt.Sprintf("%s: its node %s %s, though its trust is heard; what that node received since is not known here", l.trust, l.node, since)
}

// silenceOf is the text for one node, or for its trust where all of that is silent;
// empty if it is heard.
func (h *hearing) silenceOf(id index.NodeID) string {
	roster := h.n.index.Roster()
	trust, ok := roster.Allowed(id)
	if !ok {
		return "its holder is no longer on the roster"
	}
	nodes := h.nodes(roster)
	for _, t := range h.trusts(roster, nodes) {
		if t.Trust == string(trust) && !t.Heard {
			return silentText(t)
		}
	}
	for _, n := range nodes {
		if n.node == id && !n.heard {
			return n.text(h.n.home.Config.Trust)
		}
	}
	return ""
}
