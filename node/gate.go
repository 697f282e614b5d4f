package node

import (
	"context"
	"fmt"
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
	_, expelled := n.expelled(roster, whom)
	switch {
	case !member && !expelled:
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
		if err := n.audit.Append(audit.Event{Event: "trust.expelled", Trust: string(whom), Detail: "a vote of this trust, key " + m.Card.Fingerprint()}); err != nil {
			return api.Expulsion{}, err
		}
		if _, err := n.index.Append(ctx, st); err != nil {
			return api.Expulsion{}, err
		}
		roster = n.index.Roster()
	}
	have, need, by := roster.StandingOfExpulsion(whom)
	x := api.Expulsion{Trust: string(whom), Have: have, Need: need, By: []string{}}
	for _, t := range by {
		x.By = append(x.By, string(t))
	}
	_, x.Expelled = n.expelled(roster, whom)
	return x, nil
}

func (n *Node) expelled(roster index.Roster, trust index.TrustID) (index.TrustID, bool) {
	for _, t := range roster.Expelled {
		if t == trust {
			return t, true
		}
	}
	return "", false
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
	out := api.Revocation{Trust: string(v.Trust), Node: v.Node.String(), Self: v.Node == n.index.Self(), Text: v.String()}
	if have, ok := roster.Revocation(v.Node); ok && have.String() == v.String() {
		out.Known = true
		return out, nil
	}
	st, err := index.RevocationStatement(v)
	if err != nil {
		return api.Revocation{}, err
	}
	if err := n.audit.Append(audit.Event{Event: "node.revoked", Trust: string(v.Trust), Node: v.Node.String()}); err != nil {
		return api.Revocation{}, err
	}
	_, err = n.index.Append(ctx, st)
	return out, err
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

// rosterWarnings say what an operator should know of who belongs to the region.
func rosterWarnings(roster index.Roster, own index.TrustID, self index.NodeID) []string {
	var out []string
	if v, ok := roster.Revocation(self); ok && v.Trust == own {
		out = append(out, "this node has been revoked by its own trust: no other node lets it in, and what it says is not heard. If its key was replaced, stop it; make a new node with `priormesh init --trust-key`")
	}
	for _, t := range roster.Expelled {
		who := string(t) + " has"
		if t == own {
			who = "this trust has"
		}
		out = append(out, who+" been expelled from the region; what it said before is still found here, and nothing newer of it")
	}
	for _, m := range roster.Members {
		if m.Suspended {
			out = append(out, fmt.Sprintf("none of %s's nodes is let in: votes that expelled it are void, because their author signed two; vote again", m.Trust))
		}
	}
	for _, x := range roster.Expulsions {
		by := make([]string, len(x.By))
		for i, t := range x.By {
			by[i] = string(t)
		}
		out = append(out, fmt.Sprintf("%s wants %s to be expelled (%d of %d votes)", strings.Join(by, ", "), x.Trust, x.Have, x.Need))
	}
	return out
}
