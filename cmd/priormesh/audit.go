package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/audit"
)

type auditCmd struct {
	homeFlag
	Since   words `placeholder:"TIME" help:"Events of this time and later: 2024-03-31, '2024-03-31 17:30' (this machine's time zone), or how long ago: 24h."`
	Until   words `placeholder:"TIME" help:"Events before this time; of a day, to its end."`
	Event   words `placeholder:"NAME" help:"Events of this name, such as grant.refused; with a dot at its end all that begin so: grant."`
	Trust   words `placeholder:"ODS" help:"Events about this trust."`
	Node    words `placeholder:"PEERID" help:"Events about this node; the beginning of its peer ID is enough."`
	Study   words `placeholder:"UID" help:"Events about this study. The log has a shortened hash of the UID, which is worked out from what you give."`
	Purpose words `placeholder:"TEXT" help:"Events of this purpose, such as 'direct care'."`
	Follow  bool  `help:"Go on with what comes, until Ctrl-C."`
	Verify  bool  `help:"Read the whole log and say whether it is as it was written; nothing is searched."`
}

func (auditCmd) Help() string {
	return `The log is read in the home folder, whether the node runs or not. What is asked for must all be true of an event; without a flag all are shown, the oldest first. The exit code is 4 when nothing matched.

At the trust that holds a study:
    grant.given      a node was allowed to have a study, for a purpose
    grant.refused    it was not; the detail says why, which the node is not told. Of one node 100 an hour are
                     written one by one, the others as a number
At the trust that asked:
    grant.got        a node allowed this one to have a study, until when
    grant.denied     it did not, or has not got it: it does not say which
    fetch.done       the study came, and from whom
At every node, when it obeys:
    trust.expelled   a trust is let in no more; the detail says by whose votes
    node.revoked     nor is a node; the detail says who has passed its trust's word on
Others: trust.endorsed, expulsion.voted, revocation.said and link.said (by this trust, here), node.presented, study.erase, study.erased, copy.erase, copy.erased, copy.evicted, repair.done, backup.taken, home.restored, home.begun.anew, and about the log itself audit.expired (the oldest files were removed, as audit.keep in config.toml asks) and audit.broken.

No patient is named. A study is 8 hexadecimal digits of the SHA-256 of its UID: --study works them out.

--verify: each event holds the hash of the one before, so what is altered, removed or put in between shows. How far the log had come is kept in another file of the home, so an end that was cut off shows too. Whoever can write the whole home can forge all of it: to be safe from that, keep the last hash that --verify prints, and compare it later with the event of that number. The exit code is 7 when something is wrong, and stays 7: what is lost does not come back.

Examples:

    who was given, or refused, a study
        priormesh audit --home /srv/priormesh --event grant. --study 1.2.826.0.1.3680043.8.498.1
    what a trust was refused last month
        priormesh audit --home /srv/priormesh --event grant.refused --trust RX2 --since 2024-03-01 --until 2024-03-31
    every day, by cron: is the log whole?
        priormesh audit --home /srv/priormesh --verify
    how often each trust was given something
        priormesh audit --home /srv/priormesh --event grant.given --json | jq -r .trust | sort | uniq -c

With --json each event is one line, exactly as it stands in the log: {"seq", "time", "prev", "event", "node", "trust", "study", "purpose", "expires", "detail", "hash"}. With --verify it is one object: {"files", "events", "first_event", "last_event", "last_hash", "from", "to", "problems"}.`
}

func (c *auditCmd) Run(p *program) error {
	home, err := node.OpenHome(c.Home)
	if err != nil {
		return err
	}
	dir, tail := home.Audit()
	if c.Verify {
		if c.Follow || c.Since+c.Until+c.Event+c.Trust+c.Node+c.Study+c.Purpose != "" {
			return exit(exitWrongUse, "--verify reads the whole log; it goes with no other flag")
		}
		return verifyAudit(p, dir, tail)
	}
	want := audit.Filter{Event: string(c.Event), Trust: string(c.Trust), Node: string(c.Node), Purpose: string(c.Purpose)}
	if want.Since, err = moment(string(c.Since), false); err != nil {
		return exit(exitWrongUse, "--since: %w", err)
	}
	if want.Until, err = moment(string(c.Until), true); err != nil {
		return exit(exitWrongUse, "--until: %w", err)
	}
	if !want.Until.IsZero() && !want.Since.Before(want.Until) {
		return exit(exitWrongUse, "--until is not after --since")
	}
	if c.Study != "" {
		uid := dicom.UID(c.Study)
		if !uid.Valid() {
			return exit(exitWrongUse, "--study: %w", noUID(string(c.Study)))
		}
		want.Study = uid.Short()
	}
	found := false
	show := func(e audit.Entry) error {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		found = true
		if p.json {
			_, err := fmt.Fprintf(p.stdout, "%s\n", e.Raw)
			return err
		}
		return auditLine(p.stdout, e)
	}
	if c.Follow {
		err := audit.Follow(p.ctx, dir, want, show)
		if p.ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := audit.Search(dir, want, show); err != nil {
		return err
	}
	if found {
		return nil
	}
	if c.Event == "" {
		return exit(exitNotFound, "no event matches")
	}
	named := false
	if err := audit.Search(dir, audit.Filter{Event: string(c.Event)}, func(audit.Entry) error { named = true; return nil }); err != nil {
		return err
	}
	if !named {
		return exit(exitNotFound, "no event matches: none of the whole log is named %q; `priormesh audit --help` lists the names", string(c.Event))
	}
	return exit(exitNotFound, "no event matches")
}

func auditLine(w io.Writer, e audit.Entry) error {
	text := fmt.Sprintf("%s  %6d  %-14s", e.Time.Local().Format(time.DateTime), e.Seq, plain(e.Event.Event))
	for _, part := range []struct{ name, value string }{
		{"trust", e.Trust}, {"study", e.Study}, {"purpose", e.Purpose}, {"node", e.Node},
	} {
		if part.value != "" {
			text += fmt.Sprintf("  %s %s", part.name, plain(part.value))
		}
	}
	if !e.Expires.IsZero() {
		text += "  until " + e.Expires.Local().Format(time.TimeOnly)
	}
	if e.Detail != "" {
		text += "  (" + plain(e.Detail) + ")"
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

func verifyAudit(p *program, dir, tail string) error {
	r, err := audit.Verify(dir, tail)
	if err != nil {
		return err
	}
	if err := p.result(r, func(w io.Writer) {
		if r.Events == 0 {
			fmt.Fprintln(w, "nothing has been written down yet")
		} else {
			fmt.Fprintf(w, "%s, %d to %d, in %s; from %s to %s\n", plural(int(r.Events), "event", "events"), r.First, r.Last, plural(r.Files, "file", "files"),
				r.From.Local().Format(time.DateTime), r.To.Local().Format(time.DateTime))
			fmt.Fprintf(w, "the last has hash %s\n", r.LastHash)
		}
		for _, b := range r.Problems {
			where := ""
			if b.File != "" {
				where = b.File + ", "
			}
			fmt.Fprintf(w, "%sbehind event %d: %s\n", where, b.After, plain(b.What))
		}
		if r.More > 0 {
			fmt.Fprintf(w, "and %d more\n", r.More)
		}
	}); err != nil {
		return err
	}
	if n := len(r.Problems) + r.More; n > 0 {
		return exit(exitDamaged, "the audit log is not as it was written (%s): keep a copy of the folder %s, and find out who could write there; docs/operations.md says what to do", plural(n, "problem", "problems"), quoted(dir))
	}
	if !p.json {
		fmt.Fprintln(p.stdout, "the log is as it was written")
	}
	return nil
}

// moment reads a point in time; zero of nothing. A day that something ends with
// ends at its end.
func moment(s string, end bool) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, form := range []string{time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(form, s, time.Local); err == nil {
			return t, nil
		}
	}
	t, err := time.ParseInLocation(time.DateOnly, s, time.Local)
	if err != nil {
		return t, errors.New("write the time like 2024-03-31, '2024-03-31 17:30' or, so long ago, 24h")
	}
	if end {
		t = t.AddDate(0, 0, 1)
	}
	return t, nil
}
