package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/audit"
)

// Expel implements api.Node.
func (n *Node) Expel(ctx context.Context, trust string) (api.Expulsion, error) {
	whom := index.TrustID(strings.ToUpper(strings.TrimSpace(trust)))
	me := n.home.Config.Trust
	roster := n.index.Roster()
	m, member := roster.Member(whom)
	switch {
	case !member && !expelled(roster, whom):
		return api.Expulsion{}, fmt.Errorf("%w: %.12q is no member of the region; `priormesh status` lists them", api.ErrWrongUse, trust)
	case member:
		if _, voted := roster.Cast(me, index.OpExpel, m.Card); voted {
			break
		}
		key, err := n.home.TrustKey()
		if err != nil {
			return api.Expulsion{}, fmt.Errorf("%w: %w", api.ErrWrongUse, err)
		}
		vote, err := index.Expel(key, roster, whom, roster.NextSerial(me))
		if err != nil {
			return api.Expulsion{}, fmt.Errorf("%w: %w", api.ErrWrongUse, err)
		}
		st, err := index.VoteStatement(vote)
		if err != nil {
			return api.Expulsion{}, err
		}
		if err := n.audit.Append(audit.Event{Event: "expulsion.voted", Trust: string(whom), Detail: "key " + m.Card.Fingerprint()}); err != nil {
			return api.Expulsion{}, err
		}
		if _, err := n.index.Append(ctx, st); err != nil {
			return api.Expulsion{}, err
		}
		roster = n.index.Roster()
	}
	return expulsion(roster, whom), nil
}

// expulsion is how a trust's expulsion stands.
func expulsion(roster index.Roster, trust index.TrustID) api.Expulsion {
	have, need, by := roster.StandingOfExpulsion(trust)
	return api.Expulsion{Trust: string(trust), Have: have, Need: need, By: names(by), Expelled: expelled(roster, trust)}
}

func expelled(roster index.Roster, trust index.TrustID) bool {
	return slices.Contains(roster.Expelled, trust)
}

func names(trusts []index.TrustID) []string {
	out := make([]string, len(trusts))
	for i, t := range trusts {
		out[i] = string(t)
	}
	return out
}

// Revoke implements api.Node.
func (n *Node) Revoke(ctx context.Context, text string) (api.Revocation, error) {
	v, err := index.ParseRevocation(strings.TrimSpace(text))
	if err != nil {
		return api.Revocation{}, fmt.Errorf("%w: %w", api.ErrWrongUse, err)
	}
	roster := n.index.Roster()
	m, ok := roster.Member(v.Trust)
	switch {
	case v.Region != roster.Region:
		return api.Revocation{}, fmt.Errorf("%w: it was made for another region: have it made again in a home of a node of this one", api.ErrWrongUse)
	case !ok:
		return api.Revocation{}, fmt.Errorf("%w: it is of %s, which is no member of this region: none of its nodes is let in anyway", api.ErrWrongUse, v.Trust)
	case !m.TrustKey.Equal(v.TrustKey):
		return api.Revocation{}, fmt.Errorf("%w: it is signed with another key than that of %s (fingerprint %s): have it made again with that one", api.ErrWrongUse, v.Trust, m.Card.Fingerprint())
	}
	if t, ok := roster.Allowed(v.Node); ok && t != v.Trust {
		return api.Revocation{}, fmt.Errorf("%w: node %s is one of %s, and not of %s, whose word it is: it would change nothing", api.ErrWrongUse, v.Node, t, v.Trust)
	}
	if have, ok := roster.Revocation(v.Node); ok && !v.Supersedes(have) {
		out := n.revocation(have)
		out.Known = true
		return out, nil
	}
	st, err := index.RevocationStatement(v)
	if err != nil {
		return api.Revocation{}, err
	}
	if err := n.audit.Append(audit.Event{Event: "revocation.said", Trust: string(v.Trust), Node: v.Node.String()}); err != nil {
		return api.Revocation{}, err
	}
	_, err = n.index.Append(ctx, st)
	return n.revocation(v), err
}

func (n *Node) revocation(v index.Revocation) api.Revocation {
	out := api.Revocation{Trust: string(v.Trust), Node: v.Node.String(), Self: v.Node == n.index.Self(), Until: []api.LogEnd{}, Text: v.String()}
	for _, e := range v.Ends {
		out.Until = append(out.Until, api.LogEnd{Epoch: uint64(e.Epoch), Seq: uint64(e.Seq)})
	}
	return out
}

// RevokeNode makes the word by which this home's trust revokes a node of its
// region. The trust key is in the home, or in the file key. ends are how far
// the node's logs are vouched for, by epoch.
func (h *Home) RevokeNode(node, key string, ends ...index.LogEnd) (index.Revocation, error) {
	id, err := index.ParseNodeID(node)
	if err != nil {
		return index.Revocation{}, err
	}
	region, err := h.Region()
	if err != nil {
		return index.Revocation{}, err
	}
	k, err := h.TrustKey()
	if key != "" {
		k, err = readKey(key)
	}
	if err != nil {
		return index.Revocation{}, err
	}
	text, err := h.Card()
	if err != nil {
		return index.Revocation{}, err
	}
	card, err := index.ParseCard(text)
	if err != nil {
		return index.Revocation{}, err
	}
	if !card.TrustKey.Equal(k.Public()) {
		return index.Revocation{}, fmt.Errorf("the key is not that of %s, whose fingerprint is %s", card.Trust, card.Fingerprint())
	}
	return index.Revoke(k, region.Region, card.Trust, id, ends...)
}

// rosterStatus is what was voted about members, and which nodes were revoked.
func (n *Node) rosterStatus(roster index.Roster) api.Roster {
	out := api.Roster{Quorum: roster.Quorum(), Admissions: []api.Admission{}, Expulsions: []api.Expulsion{}, Revoked: []api.Revocation{}}
	for _, c := range roster.Candidates {
		out.Admissions = append(out.Admissions, api.Admission{Trust: string(c.Card.Trust), Have: c.Have, Need: c.Need, By: names(c.By)})
	}
	for _, x := range roster.Expulsions {
		out.Expulsions = append(out.Expulsions, expulsion(roster, x.Trust))
	}
	for _, t := range roster.Expelled {
		out.Expulsions = append(out.Expulsions, expulsion(roster, t))
	}
	for _, v := range roster.Revocations() {
		out.Revoked = append(out.Revoked, n.revocation(v))
	}
	return out
}

// shutOut lists the nodes that are let in no more: those that were revoked, and
// of expelled trusts those that were heard before.
func (n *Node) shutOut(roster index.Roster) (out []api.Peer) {
	add := func(id index.NodeID, trust index.TrustID, why string) {
		out = append(out, api.Peer{Trust: string(trust), Peer: id.String(), Addrs: []string{}, Out: why})
	}
	for _, v := range roster.Revocations() {
		add(v.Node, v.Trust, "revoked")
	}
	var last index.NodeID
	for _, l := range n.index.Lags() { // by node, then epoch
		_, in := roster.Allowed(l.Node)
		if l.Node != last && !in && expelled(roster, l.Trust) {
			add(l.Node, l.Trust, "expelled")
		}
		last = l.Node
	}
	return out
}

// rosterWarnings say what of who belongs to the region needs a person at this node.
func rosterWarnings(roster index.Roster, own index.TrustID, self index.NodeID) []string {
	var out []string
	if v, ok := roster.Revocation(self); ok && v.Trust == own {
		out = append(out, "this node has been revoked by its own trust: no other node lets it in, and what it says is not heard. Stop it, and make a new node in a new home with `priormesh init --trust-key`; if nobody of this trust revoked it, the trust key is in other hands: tell the region")
	}
	if expelled(roster, own) {
		out = append(out, "this trust has been expelled from the region: no node of it is let in by others, and nothing that they say comes here any more. A member can admit it again: `priormesh card`")
	}
	if i := slices.IndexFunc(roster.Expulsions, func(x index.Expulsion) bool { return x.Trust == own && x.Have < x.Need }); i >= 0 {
		x := roster.Expulsions[i]
		out = append(out, fmt.Sprintf("%d of the %d votes that expel this trust have been heard of (%s). The last ones are not told to who is expelled: if others refuse this node's connections, or are not heard from, it most likely has been; ask them", x.Have, x.Need, strings.Join(names(x.By), ", ")))
	}
	for _, m := range roster.Members {
		if m.Suspended {
			out = append(out, fmt.Sprintf("none of %s's nodes is let in: it was expelled by votes that are void, because somebody signed two under one number (see below); vote again with `priormesh expel`", m.Trust))
		}
	}
	return out
}
