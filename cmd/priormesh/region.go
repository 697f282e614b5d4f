package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// Making a node and bringing it into a region: init, card, admit, join.

type initCmd struct {
	homeFlag
	Trust string   `required:"" placeholder:"ODS" help:"ODS code of the trust, such as RX1."`
	Name  *string  `placeholder:"NAME" help:"The trust's name as other trusts see it; the ODS code if not given."`
	HTTP  string   `name:"http" placeholder:"ADDR" default:"${http}" help:"Where DICOMweb and the operator API are served (default ${http}). Keep it on loopback or behind a proxy that authenticates."`
	DIMSE string   `name:"dimse" placeholder:"ADDR" help:"Reserved for the DIMSE service; nothing listens there yet."`
	Mesh  []string `sep:"none" placeholder:"MULTIADDR" help:"Where other nodes reach this one; may be repeated (default ${mesh})."`
	Found *string  `placeholder:"REGION" help:"Found a region of this name, with this trust as its first member."`

	TrustKey string `name:"trust-key" placeholder:"PATH" help:"Make a further node of a trust that has one: the file trust.key of the first. It is not copied."`
}

func (initCmd) Help() string {
	return `Makes the folder with keys, card and config.toml. Nothing is made if the folder already holds a node.

Example: the first trust of a region, and a second one that will join it.

    priormesh init --home /srv/priormesh --trust RX1 --name "Upper Vale" --found "Three Valleys"
    priormesh init --home /srv/priormesh --trust RX2 --name "Harbour"

A further node of a trust, for instance one that shares a bucket with the first (docs/operations.md), gets the trust's key for the moment. Then let a running node of the trust admit its card, and have it join like any other:

    priormesh init  --home /srv/second --trust RX1 --name "Upper Vale" --trust-key /media/safe/trust.key
    priormesh card  --home /srv/second > second.card
    priormesh admit --home /srv/priormesh second.card > second.invitation
    priormesh join  --home /srv/second second.invitation

Keep trust.key safe: it speaks for the trust. Only ` + "`admit`, `expel` and `revoke`" + ` need it; in between it may be kept offline.`
}

type made struct {
	Home        string   `json:"home"`
	Trust       string   `json:"trust"`
	Name        string   `json:"name"`
	HTTP        string   `json:"http"`
	Mesh        []string `json:"mesh"`
	Region      string   `json:"region,omitempty"` // founded
	Card        string   `json:"card"`
	Fingerprint string   `json:"fingerprint"` // of the trust key, to compare by telephone
}

func (c *initCmd) Run(p *program) error {
	conf := node.DefaultConfig()
	conf.Trust, conf.Name, conf.HTTP, conf.DIMSE = index.TrustID(c.Trust), c.Trust, c.HTTP, c.DIMSE
	found := ""
	for flag, text := range map[string]struct{ given, to *string }{"name": {c.Name, &conf.Name}, "found": {c.Found, &found}} {
		if text.given == nil {
			continue
		}
		if strings.TrimSpace(*text.given) == "" {
			return exit(exitWrongUse, "--%s is empty; give a name, or leave the flag out", flag)
		}
		*text.to = *text.given
	}
	if len(c.Mesh) > 0 {
		conf.Mesh = c.Mesh
	}
	if found != "" && c.TrustKey != "" {
		return exit(exitWrongUse, "--found and --trust-key do not go together: a further node joins the region that its trust is in, it cannot found one")
	}
	if err := conf.Check(); err != nil {
		return exitError{exitWrongUse, err}
	}
	home, err := node.InitHome(c.Home, node.InitOptions{Config: conf, Found: found, TrustKey: c.TrustKey})
	if err != nil {
		return err
	}
	text, card, err := cardOf(home)
	if err != nil {
		return err
	}
	if !loopback(conf.HTTP) && !p.json {
		p.note("warning: DICOMweb at %s asks nobody who they are, and is reached from other machines: whoever reaches it reads every study of the region. Put it behind a proxy that authenticates and a firewall, or serve it at %s", plain(conf.HTTP), node.DefaultConfig().HTTP)
	}
	m := made{home.Dir, c.Trust, conf.Name, conf.HTTP, conf.Mesh, found, text, card.Fingerprint()}
	return p.result(m, func(w io.Writer) {
		fmt.Fprintf(w, "made a node of %s (%s) in %s\n", m.Trust, plain(m.Name), m.Home)
		fmt.Fprintf(w, "  settings     %s\n", home.Dir+"/config.toml")
		key := home.Dir + "/trust.key"
		if c.TrustKey != "" {
			key = c.TrustKey
		}
		fmt.Fprintf(w, "  trust key    %s, fingerprint %s\n", key, m.Fingerprint)
		if c.TrustKey != "" {
			fmt.Fprintf(w, "next: give a running node of %s what `priormesh card --home %s` prints, with `priormesh admit`, and this one the invitation\n", m.Trust, quoted(home.Dir))
			return
		}
		if found != "" {
			fmt.Fprintf(w, "founded the region %q with %s as its member\n", found, m.Trust)
			fmt.Fprintf(w, "next: priormesh run --home %s\n", quoted(home.Dir))
			return
		}
		fmt.Fprintf(w, "next: give a member of the region what `priormesh card --home %s` prints, and tell them the fingerprint by telephone\n", quoted(home.Dir))
	})
}

// loopback says whether an address is reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

type cardCmd struct{ homeFlag }

func (cardCmd) Help() string {
	return `The card holds the trust's code, name, public key and address; nothing in it is secret. A member endorses it, and compares the fingerprint with what you tell them by telephone, so that nobody slips in a card of their own.

Example:

    priormesh card --home /srv/priormesh > rx2.card`
}

func (c *cardCmd) Run(p *program) error {
	home, err := node.OpenHome(c.Home)
	if err != nil {
		return err
	}
	text, card, err := cardOf(home)
	if err != nil {
		return err
	}
	if !p.json {
		p.note("fingerprint %s: tell it to the member by telephone", card.Fingerprint())
	}
	return p.result(struct {
		Trust       string `json:"trust"`
		Name        string `json:"name"`
		Fingerprint string `json:"fingerprint"`
		Card        string `json:"card"`
	}{string(card.Trust), card.Name, card.Fingerprint(), text}, func(w io.Writer) { fmt.Fprintln(w, text) })
}

func cardOf(home *node.Home) (string, index.Card, error) {
	text, err := home.Card()
	if err != nil {
		return "", index.Card{}, err
	}
	card, err := index.ParseCard(text)
	if err != nil {
		return "", index.Card{}, fmt.Errorf("the card in %s cannot be read: %w", home.Dir, err)
	}
	return text, card, nil
}

type admitCmd struct {
	homeFlag
	Fingerprint string `placeholder:"XXXX-XXXX-XXXX-XXXX" help:"What the trust told you by telephone; the card is refused if it has another."`
	Card        string `arg:"" help:"The card, a file that holds it, or - for stdin."`
}

func (admitCmd) Help() string {
	return `A trust is admitted when more than half of the members have endorsed it. This prints the invitation once that is so, and ends with exit code 6 while endorsements are missing. Endorsing twice changes nothing, so repeat it to get the invitation after the others have endorsed.

Example:

    priormesh admit --home /srv/priormesh --fingerprint ABCD-EFGH-IJKL-MNOP rx2.card > rx2.invitation`
}

func (c *admitCmd) Run(p *program) error {
	text, err := p.text("card", c.Card, index.MaxCard)
	if err != nil {
		return err
	}
	card, err := index.ParseCard(text)
	if err != nil {
		return exitError{exitWrongUse, err}
	}
	told := bareFingerprint(c.Fingerprint)
	switch bare := bareFingerprint(card.Fingerprint()); {
	case c.Fingerprint == "" || told == bare:
	case len(told) != len(bare):
		return exit(exitWrongUse, "%q is not a fingerprint: 16 letters and digits, such as ABCD-EFGH-IJKL-MNOP", short(c.Fingerprint, 40))
	default:
		return exit(exitWrongUse, "the card's fingerprint is %s and not %s: it is not the card of whom you spoke to, or one of you misread; nothing was endorsed", card.Fingerprint(), c.Fingerprint)
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	before, _ := client.Status(p.ctx) // for the wording alone: without it, admitting goes on
	a, err := client.Admit(p.ctx, text)
	if err != nil {
		return err
	}
	member := before.Trust == string(card.Trust) || slices.ContainsFunc(before.Trusts, func(t api.TrustStatus) bool { return t.Trust == string(card.Trust) })
	switch {
	case p.json:
	case a.Node != "":
		p.note("%s (%s), fingerprint %s: its node %s is let in from now on; join with what is printed", card.Trust, plain(card.Name), card.Fingerprint(), a.Node)
	case member && a.Admitted:
		p.note("%s (%s), fingerprint %s: is a member already", card.Trust, plain(card.Name), card.Fingerprint())
	default:
		p.note("%s (%s), fingerprint %s: endorsed by %d of the %d members needed (%s)", card.Trust, plain(card.Name), card.Fingerprint(), a.Have, a.Need, list(a.By))
	}
	if a.Admitted || p.json {
		if err := p.result(a, func(w io.Writer) { fmt.Fprintln(w, a.Invitation) }); err != nil {
			return err
		}
	}
	if a.Admitted {
		return nil
	}
	return exit(exitNotYet, "%s is endorsed, %d of %d; ask %s to run `priormesh admit` with this card, then repeat this command for the invitation", a.Trust, a.Have, a.Need, p.others(client, a.Need-a.Have, a.By, a.Trust))
}

// bareFingerprint is a fingerprint as people type it, in one form.
func bareFingerprint(s string) string {
	return strings.ToUpper(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.In(r, unicode.Dash) }), ""))
}

// others are the members to ask for so many more votes, as far as can be told:
// not those that have voted, and the one whom it is about only where it takes him.
func (p *program) others(client *api.Client, missing int, voted []string, about string) string {
	s, err := client.Status(p.ctx)
	if err != nil {
		return "other members"
	}
	var rest, whom []string
	for _, t := range s.Trusts {
		switch {
		case slices.Contains(voted, t.Trust):
		case t.Trust == about:
			whom = append(whom, t.Trust)
		default:
			rest = append(rest, t.Trust)
		}
	}
	if len(rest) < missing {
		rest = append(rest, whom...)
	}
	if len(rest) > missing && missing > 0 {
		return fmt.Sprintf("%d of %s", missing, list(rest))
	}
	return list(rest)
}

type joinCmd struct {
	homeFlag
	Invitation string `arg:"" help:"The invitation, a file that holds it, or - for stdin."`
}

func (joinCmd) Help() string {
	return `Checks that the invitation admits this trust, and keeps it in the home folder. The node must not be running.

Example:

    priormesh join --home /srv/priormesh rx2.invitation
    priormesh run  --home /srv/priormesh`
}

func (c *joinCmd) Run(p *program) error {
	text, err := p.text("invitation", c.Invitation, index.MaxInvitation)
	if err != nil {
		return err
	}
	home, err := node.OpenHome(c.Home)
	if err != nil {
		return err
	}
	roster, err := home.Join(text)
	var (
		malformed *index.MalformedError
		limit     *index.LimitError
		unfit     *index.InvitationError
	)
	switch {
	case errors.As(err, &malformed), errors.As(err, &limit), errors.As(err, &unfit):
		return exitError{exitWrongUse, err}
	case err != nil:
		return err
	}
	var members []string
	for _, m := range roster.Members {
		members = append(members, string(m.Trust))
	}
	return p.result(struct {
		Region  string   `json:"region"`
		Members []string `json:"members"`
	}{roster.Name, members}, func(w io.Writer) {
		fmt.Fprintf(w, "joined the region %q; its members are %s\n", roster.Name, list(members))
		fmt.Fprintf(w, "next: priormesh run --home %s\n", quoted(home.Dir))
	})
}

// text is a card or invitation: the argument itself, a file's content, or stdin.
func (p *program) text(kind, arg string, limit int64) (string, error) {
	if strings.HasPrefix(strings.TrimSpace(arg), "priormesh-") {
		return arg, nil
	}
	in := p.stdin
	if arg != "-" {
		f, err := os.Open(arg)
		if err != nil {
			return "", exit(exitWrongUse, "%q is no %s (it would begin with priormesh-%s-1:) and no file that can be read: %w", short(arg, 60), kind, kind, err)
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return "", exit(exitWrongUse, "%s is a folder; name the file in it that holds the %s", quoted(arg), kind)
		}
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, 2*limit+1))
	if err != nil {
		return "", err
	}
	if len(b) == 0 {
		return "", exit(exitWrongUse, "there is no %s in it: it is empty", kind)
	}
	return string(b), nil
}

// quoted is a word for a shell.
func quoted(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:=,@%") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
