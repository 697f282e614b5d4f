package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/api"
)

type linkCmd struct {
	homeFlag
	Same      bool   `xor:"verdict" help:"The two are one person's."`
	Merged    bool   `xor:"verdict" help:"The two are one person's, and ONE is given up for TWO (HL7 v2 A40)."`
	Different bool   `xor:"verdict" help:"The two are two people's."`
	Withdraw  bool   `xor:"verdict" help:"Take back what this node said of the two."`
	Reason    words  `placeholder:"TEXT" help:"By what it was decided, for whoever looks later. All nodes of the region get it: no patient's name belongs there."`
	One       string `arg:"" help:"A number and who issued it, as HL7 writes it: ID^^^ISSUER, such as 98890234^^^RX1; an NHS number is one of issuer NHS."`
	Two       string `arg:"" help:"Another one."`
}

func (linkCmd) Help() string {
	return `Whoever has found out that two numbers are one person's, or two people's, says it here, and all nodes of the region hear it. Nothing stored is changed. Each node has one word on each pair, the newest; --withdraw takes it back, and all is as it was. Without a verdict it is shown what nodes say of the two.

--same and --merged join the studies of the two numbers as if they bore one, unless two full birth dates contradict each other. --different, by whichever node, keeps them apart: where both are said the link is contested, and the studies are possible matches and no more, until one of the two takes its word back.

priormesh find lists possible matches where a number or a study is asked for. Compare them with the patient or the other hospital before you say that they are one person's: what you join here is shown, and brought as a prior, everywhere.

Examples:

    priormesh link --home /srv/priormesh --same --reason 'letter of the GP, 12 March' '98890234^^^RX1' '9434765919^^^NHS'
    the hospital has merged two of its numbers
        priormesh link --home /srv/priormesh --merged --reason 'PAS merge 2024-117' '123^^^RX1' '98890234^^^RX1'
    what is said of the two?
        priormesh link --home /srv/priormesh '98890234^^^RX1' '9434765919^^^NHS'

With --json: {"one", "two", "standing", "said": [{"trust", "node", "own", "verdict", "survives", "reason"}], "one_studies", "two_studies"}; standing is same, different, contested or none.`
}

func (c *linkCmd) Run(p *program) error {
	r := api.LinkRequest{Reason: string(c.Reason)}
	for text, at := range map[string]*api.Identifier{c.One: &r.One, c.Two: &r.Two} {
		id, issuer, ok := strings.Cut(text, "^^^")
		if !ok || strings.TrimSpace(id) == "" || strings.TrimSpace(issuer) == "" || strings.ContainsAny(issuer, "^") {
			return exit(exitWrongUse, "%s is not a number and who issued it: write ID^^^ISSUER, such as 98890234^^^RX1, in quotes", short(text, 40))
		}
		*at = api.Identifier{ID: id, Issuer: issuer}
	}
	if c.One == c.Two {
		return exit(exitWrongUse, "the two are one identifier")
	}
	for v, said := range map[index.Verdict]bool{index.Same: c.Same, index.Merged: c.Merged, index.Different: c.Different, index.Withdrawn: c.Withdraw} {
		if said {
			r.Verdict = string(v)
		}
	}
	switch {
	case r.Verdict == "" && c.Reason != "":
		return exit(exitWrongUse, "--reason goes with --same, --merged, --different or --withdraw; without these it is only shown what is said")
	case r.Verdict != "" && !c.Withdraw && c.Reason == "":
		return exit(exitWrongUse, "say by what it was decided: --reason 'letter of the GP, 12 March'")
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	l, err := client.Link(p.ctx, r)
	if err != nil {
		return err
	}
	if err := p.result(l, func(w io.Writer) { linkText(w, l) }); err != nil {
		return err
	}
	for _, x := range []struct {
		id api.Identifier
		n  int
	}{{l.One, l.OneStudies}, {l.Two, l.TwoStudies}} {
		if x.n == 0 && !p.json {
			p.note("no study that this node has heard of bears %s: see that the number and its issuer are right", cx(x.id))
		}
	}
	if len(l.Said) == 0 && r.Verdict == "" {
		return exit(exitNotFound, "nobody says anything of the two")
	}
	return nil
}

func linkText(w io.Writer, l api.Link) {
	what := map[string]string{
		"same":      "one person's",
		"different": "two people's",
		"contested": "contested: some say that they are one person's, others that they are two people's; studies of the one are possible matches of the other",
		"none":      "nobody says anything of the two",
	}[l.Standing]
	fmt.Fprintf(w, "%s (%s) and %s (%s): %s\n", cx(l.One), plural(l.OneStudies, "study", "studies"), cx(l.Two), plural(l.TwoStudies, "study", "studies"), or(what))
	for _, s := range l.Said {
		who := plain(s.Trust)
		if s.Own {
			who += " (this node)"
		}
		verdict := plain(s.Verdict)
		if s.Survives != nil {
			verdict += ", " + cx(*s.Survives) + " survives"
		}
		fmt.Fprintf(w, "  %s: %s (%s)\n", who, verdict, or(plain(s.Reason)))
	}
}

// cx is an identifier as HL7 writes it.
func cx(i api.Identifier) string { return plain(i.ID) + "^^^" + plain(i.Issuer) }
