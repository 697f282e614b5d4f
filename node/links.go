package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/archive"
	"github.com/priormesh/priormesh/node/audit"
)

// Link implements api.Node.
func (n *Node) Link(ctx context.Context, r api.LinkRequest) (api.Link, error) {
	one, err := n.identifier(r.One)
	if err != nil {
		return api.Link{}, err
	}
	two, err := n.identifier(r.Two)
	if err != nil {
		return api.Link{}, err
	}
	if one == two {
		return api.Link{}, fmt.Errorf("%w: the two are one identifier", api.ErrWrongUse)
	}
	if r.Verdict == "" {
		return n.link(ctx, one, two)
	}
	v := index.Verdict(r.Verdict)
	switch v {
	case index.Same, index.Merged, index.Different, index.Withdrawn:
	default:
		return api.Link{}, fmt.Errorf("%w: the verdict is %s, %s, %s or %s", api.ErrWrongUse, index.Same, index.Merged, index.Different, index.Withdrawn)
	}
	if v == index.Withdrawn {
		before, err := n.index.Links(one, two)
		if err != nil {
			return api.Link{}, err
		}
		said := false
		for _, l := range before {
			said = said || l.Author == n.index.Self() && l.Value.Verdict != index.Withdrawn
		}
		if !said {
			return api.Link{}, fmt.Errorf("%w: this node has said nothing of the two that it could take back; what another node said only that one can", api.ErrWrongUse)
		}
	} else if strings.TrimSpace(r.Reason) == "" {
		return api.Link{}, fmt.Errorf("%w: say by what it was decided, for whoever looks later; no patient's name belongs there", api.ErrWrongUse)
	}
	st, err := index.LinkStatement(index.Link{One: one, Two: two, Verdict: v, Source: strings.TrimSpace(r.Reason)})
	var malformed *index.MalformedError
	var limit *index.LimitError
	if errors.As(err, &malformed) || errors.As(err, &limit) {
		return api.Link{}, fmt.Errorf("%w: %w", api.ErrWrongUse, err)
	}
	if err != nil {
		return api.Link{}, err
	}
	if err := n.audit.Append(audit.Event{Event: "link.said", Detail: fmt.Sprintf("%s, link %.8s", v, st.Subject)}); err != nil {
		return api.Link{}, err
	}
	if _, err := n.index.Append(ctx, st); err != nil {
		return api.Link{}, err
	}
	return n.link(ctx, one, two)
}

// identifier reads an identifier as the studies' own are read.
func (n *Node) identifier(i api.Identifier) (index.Identifier, error) {
	id, issuer := strings.TrimSpace(i.ID), strings.TrimSpace(i.Issuer)
	switch {
	case id == "" || issuer == "":
		return index.Identifier{}, fmt.Errorf("%w: an identifier is a number and who issued it: {\"id\": \"98890234\", \"issuer\": \"RX1\"}", api.ErrWrongUse)
	case archive.NHSIssuer(issuer):
		digits, ok := archive.NHSNumberOf(id, issuer)
		if !ok {
			return index.Identifier{}, fmt.Errorf("%w: what is said to be an NHS number is none: it has ten digits, of which the last checks the others", api.ErrWrongUse)
		}
		return index.Identifier{NHS: digits}, nil
	}
	out := index.Identifier{ID: id, Issuer: issuer}
	if out.Nobody() {
		return out, fmt.Errorf("%w: what is said to be a number is written where none is known, and stands on many people's studies: it cannot be linked", api.ErrWrongUse)
	}
	return out, nil
}

// link is what is said of two identifiers, and how many studies bear each.
func (n *Node) link(ctx context.Context, one, two index.Identifier) (api.Link, error) {
	out := api.Link{One: identifierJSON(one), Two: identifierJSON(two), Said: []api.LinkWord{}}
	said, err := n.index.Links(one, two)
	if err != nil {
		return out, err
	}
	joins, parts := false, false
	for _, l := range said {
		if l.Value.Verdict == index.Withdrawn {
			continue
		}
		w := api.LinkWord{Trust: string(l.Trust), Node: l.Author.String(), Verdict: string(l.Value.Verdict), Reason: l.Value.Source, Own: l.Author == n.index.Self()}
		switch l.Value.Verdict {
		case index.Same:
			joins = true
		case index.Merged:
			joins = true
			survives := identifierJSON(l.Value.Two)
			w.Survives = &survives
		case index.Different:
			parts = true
		}
		out.Said = append(out.Said, w)
	}
	switch {
	case joins && parts:
		out.Standing = "contested"
	case joins:
		out.Standing = "same"
	case parts:
		out.Standing = "different"
	default:
		out.Standing = "none"
	}
	for _, x := range []struct {
		id index.Identifier
		n  *int
	}{{one, &out.OneStudies}, {two, &out.TwoStudies}} {
		if *x.n, _, err = n.index.Count(ctx, index.Query{PatientID: literal(x.id.ID), Issuer: x.id.Issuer, NHS: x.id.NHS}); err != nil {
			return out, err
		}
	}
	return out, nil
}

// literal has no wildcards: a ? stands for itself too.
func literal(id string) string { return strings.ReplaceAll(id, "*", "?") }

func identifierJSON(i index.Identifier) api.Identifier {
	if i.NHS != "" {
		return api.Identifier{ID: i.NHS, Issuer: "NHS"}
	}
	return api.Identifier{ID: i.ID, Issuer: i.Issuer}
}
