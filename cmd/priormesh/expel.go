package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// Shutting out: a trust by the votes of the others, a node by its own trust.

type expelCmd struct {
	homeFlag
	Yes   bool   `help:"Do not ask whether it is meant."`
	Trust string `arg:"" help:"ODS code of the trust."`
}

func (expelCmd) Help() string {
	return `Gives this trust's vote. A trust is expelled when more than half of the members, itself among them, have voted for it; in a region of two both have to. From that moment no node lets in a node of it: its connections end, and with them what it is being sent. What it said before is still found, and copies that trusts have of its studies stay. A trust leaves by voting for its own expulsion.

The vote needs the trust key and cannot be taken back. On one roster a trust has one such vote: it can vote to expel another when that one is out, or when somebody was admitted. A trust that was expelled can be admitted again, with a new key or the old one, like any other (` + "`priormesh admit`" + `).

If the key of a node was stolen, and not that of the trust, the trust revokes the node (` + "`priormesh revoke`" + `) and nobody has to be expelled.

It says who has voted and how many votes are needed; so does ` + "`priormesh status`" + `. Exit code 6: the vote is given, and others are missing. Voting twice changes nothing: repeat the command to see how far it is. Votes count on the roster on which they were given: when a trust is admitted or expelled before there are enough, repeat it to vote anew.

Examples:

    priormesh expel --home /srv/priormesh RX3
    without a question, for a script
        priormesh expel --home /srv/priormesh --yes --json RX3`
}

func (c *expelCmd) Run(p *program) error {
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	if !c.Yes {
		if !p.asked() {
			return exit(exitWrongUse, "nobody is there to be asked whether it is meant: say --yes to vote without a question")
		}
		if !p.types("expel", fmt.Sprintf("This trust votes to expel %s from the region. The vote cannot be taken back.", plain(c.Trust))) {
			return exit(exitFailed, "no vote was given")
		}
	}
	x, err := client.Expel(p.ctx, c.Trust)
	if err != nil {
		return err
	}
	if x.Expelled || p.json {
		if err := p.result(x, func(w io.Writer) {
			fmt.Fprintf(w, "%s is expelled: %s for it (%s)\n", plain(x.Trust), plural(x.Have, "member has voted", "members have voted"), list(x.By))
		}); err != nil {
			return err
		}
	}
	if x.Expelled {
		return nil
	}
	if !p.json {
		p.note("%s: %d of the %d votes needed to expel it are given (%s)", plain(x.Trust), x.Have, x.Need, list(x.By))
	}
	return exit(exitNotYet, "%s is not expelled yet, %d of %d; ask %s to run `priormesh expel %s`", plain(x.Trust), x.Have, x.Need,
		p.others(client, x.Need-x.Have, x.By, x.Trust), plain(x.Trust))
}

type revokeCmd struct {
	homeFlag
	TrustKey string   `name:"trust-key" placeholder:"PATH" help:"The trust key, if it is not in the home folder. It is not copied."`
	Until    []string `placeholder:"EPOCH:NUMBER" help:"How far what the node has said is still this trust's word, for each epoch; \"none\": each node keeps what it has, and takes no more. Without it: as far as this node has heard, if it runs."`
	Yes      bool     `help:"Do not ask whether it is meant."`
	What     string   `arg:"" help:"The peer ID of a node of this trust; or a revocation that was made elsewhere: its text, a file, or - for stdin."`
}

func (revokeCmd) Help() string {
	return `Shuts out a node for good, because its key was stolen or another node has taken its place. The trust key signs it, so no vote is needed. It spreads like anything that nodes say; every node that hears of it ends the connections of the node at once and lets it in no more. It cannot be taken back, and no new certificate brings that key back: the node gets a new key, in a new home (` + "`priormesh init --trust-key`" + `).

Made in the home of a running node it is in force there at once, and elsewhere when it is heard: within seconds where nodes are connected, and at a node that was away as soon as it meets one that knows. Where the trust key is kept on a machine without a node, take a copy of card.txt, config.toml and region.txt of any node of the trust there as a home folder; the text that is printed is then given to any running node of the region, of this trust or another.

What the node has said up to --until is still found and is this trust's word; later words are not taken, and where they were taken before, they are marked as doubtful and make nothing certain. Without the flag that is as far as the node here has heard. If the thief may have said things in between, name the places: ` + "`priormesh status --json`" + ` has them under rests_on (epoch and seq, and those of earlier epochs under before). An epoch that is not named has nothing that counts. A second revocation of the same node may vouch for less, never for more; "none" vouches for nothing in particular and gives way to any other.

Examples:

    on a node of the trust that runs and has the trust key
        priormesh revoke --home /srv/second 12D3KooWExample
    with the trust key on a stick
        priormesh revoke --home /srv/second --trust-key /media/safe/trust.key 12D3KooWExample
    where the key is; and then anywhere
        priormesh revoke --home /media/safe/card --trust-key /media/safe/trust.key --until 1:2024 12D3KooWExample > stolen.revocation
        priormesh revoke --home /srv/priormesh stolen.revocation`
}

func (c *revokeCmd) Run(p *program) error {
	if _, err := index.ParseNodeID(c.What); err != nil {
		return c.take(p)
	}
	home, err := node.OpenHome(c.Home)
	if err != nil {
		return err
	}
	_, err = home.Running()
	running := err == nil
	if err != nil && !errors.Is(err, node.ErrNotRunning) {
		return err
	}
	var client *api.Client
	ends, err := c.ends()
	if err != nil {
		return err
	}
	if running {
		if client, err = c.client(p.ctx); err != nil {
			return err
		}
		heard, known, done, err := heardOf(p, client, string(home.Config.Trust), c.What)
		switch {
		case err != nil:
			return err
		case done != nil && len(c.Until) == 0:
			p.revoked(*done)
			return p.result(*done, func(w io.Writer) { fmt.Fprintln(w, done.Text) })
		case !known && !p.json:
			p.note("warning: no node %s of %s has been heard of here; compare the peer ID", c.What, plain(string(home.Config.Trust)))
		}
		if len(c.Until) == 0 {
			ends = heard
		}
	} else if len(c.Until) == 0 {
		return exit(exitWrongUse, "no node runs here that knows how far %s has been heard: say --until, with the places of `priormesh status --json` at a running node, or --until none", c.What)
	}
	if err := c.confirm(p, ends); err != nil {
		return err
	}
	v, err := home.RevokeNode(c.What, c.TrustKey, ends...)
	if err != nil {
		return exitError{exitWrongUse, err}
	}
	out := api.Revocation{Trust: string(v.Trust), Node: v.Node.String(), Until: []api.LogEnd{}, Text: v.String()}
	for _, e := range v.Ends {
		out.Until = append(out.Until, api.LogEnd{Epoch: uint64(e.Epoch), Seq: uint64(e.Seq)})
	}
	if running {
		if out, err = client.Revoke(p.ctx, v.String()); err != nil {
			return err
		}
		p.revoked(out)
	} else if !p.json {
		p.note("not in force yet: give this to a running node of the region, of whichever trust: priormesh revoke --home DIR FILE")
	}
	return p.result(out, func(w io.Writer) { fmt.Fprintln(w, out.Text) })
}

// ends reads --until.
func (c *revokeCmd) ends() (ends []index.LogEnd, err error) {
	if slices.Equal(c.Until, []string{"none"}) {
		return nil, nil
	}
	for _, u := range c.Until {
		e, n, ok := strings.Cut(u, ":")
		epoch, err := strconv.ParseUint(e, 10, 8)
		seq, err2 := strconv.ParseUint(n, 10, 56)
		if !ok || err != nil || err2 != nil {
			return nil, exit(exitWrongUse, "--until is an epoch and a number, such as 1:2024, or none")
		}
		ends = append(ends, index.LogEnd{Epoch: index.Epoch(epoch), Seq: index.Seq(seq)})
	}
	slices.SortFunc(ends, func(a, b index.LogEnd) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return ends, nil
}

// confirm asks a person whether it is meant.
func (c *revokeCmd) confirm(p *program, ends []index.LogEnd) error {
	if c.Yes {
		return nil
	}
	if !p.asked() {
		return exit(exitWrongUse, "nobody is there to be asked whether it is meant: say --yes to revoke the node without a question")
	}
	upTo := "Each node keeps what it has of it, and takes no more"
	if len(ends) > 0 {
		var places []string
		for _, e := range ends {
			places = append(places, fmt.Sprintf("%d:%d", e.Epoch, e.Seq))
		}
		upTo = "What it has said up to " + list(places) + " still counts"
	}
	if p.types("revoke", fmt.Sprintf("Node %s will be let in by nobody any more, for good. %s. This cannot be undone.", c.What, upTo)) {
		return nil
	}
	return exit(exitFailed, "nothing was revoked")
}

// heardOf is how far a node has heard one of its trust, whether it knows of it at
// all, and the revocation, if it is revoked already.
func heardOf(p *program, client *api.Client, trust, id string) (ends []index.LogEnd, known bool, done *api.Revocation, err error) {
	s, err := client.Status(p.ctx)
	if err != nil {
		return nil, false, nil, err
	}
	for _, v := range s.Roster.Revoked {
		if v.Node == id {
			v.Known = true
			return nil, true, &v, nil
		}
	}
	end := func(epoch, seq uint64) {
		if seq > 0 {
			ends = append(ends, index.LogEnd{Epoch: index.Epoch(epoch), Seq: index.Seq(seq)})
		}
	}
	for _, b := range s.Basis {
		for _, l := range b.Logs {
			if l.Node != id {
				continue
			}
			if b.Trust != trust {
				return nil, true, nil, exit(exitWrongUse, "node %s is one of %s: that trust alone can revoke it. The region can expel a trust: `priormesh expel %s`", id, plain(b.Trust), plain(b.Trust))
			}
			known = true
			for _, e := range l.Before {
				end(e.Epoch, e.Seq)
			}
			end(l.Epoch, l.Seq)
		}
	}
	return ends, known, nil, nil
}

func (p *program) revoked(v api.Revocation) {
	if p.json {
		return
	}
	switch {
	case v.Known:
		p.note("node %s of %s is revoked already, %s; a later revocation counts only if it vouches for less", v.Node, plain(v.Trust), vouched(v))
	case v.Self:
		p.note("this node itself is revoked, %s: others let it in no more as soon as they hear of it; when `priormesh status` at another node says so, stop this one for good", vouched(v))
	default:
		p.note("node %s of %s is revoked, %s; the region hears of it now", v.Node, plain(v.Trust), vouched(v))
	}
}

// vouched says how far a revoked node's word counts.
func vouched(v api.Revocation) string {
	if len(v.Until) == 0 {
		return "with no end named for what it said"
	}
	var ends []string
	for _, e := range v.Until {
		ends = append(ends, fmt.Sprintf("%d:%d", e.Epoch, e.Seq))
	}
	return "what it said up to " + list(ends) + " counts"
}

// take gives a running node a revocation that was made elsewhere.
func (c *revokeCmd) take(p *program) error {
	if c.TrustKey != "" || len(c.Until) > 0 {
		return exit(exitWrongUse, "%q is no peer ID; --trust-key and --until are for making a revocation", short(strings.TrimSpace(c.What), 60))
	}
	text, err := p.text("revocation", c.What, index.MaxRevocation)
	if err != nil {
		return err
	}
	if _, err := index.ParseRevocation(text); err != nil {
		return exitError{exitWrongUse, err}
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	v, err := client.Revoke(p.ctx, text)
	if err != nil {
		return err
	}
	p.revoked(v)
	return p.result(v, func(io.Writer) {}) // in words it is said
}
