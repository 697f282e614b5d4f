package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/archive"
)

type verifyCmd struct {
	homeFlag
	Rate  node.Size `placeholder:"SIZE" help:"Read at most so much a second, such as 50MiB. Without it as fast as it goes."`
	Study string    `placeholder:"UID" help:"Only this study, by its Study Instance UID."`
}

func (verifyCmd) Help() string {
	return `Reads every block, manifest and study key that is kept here and compares each with its address and with the catalogue. What is damaged or missing is named by its study and never served. While the node runs it is repaired at once from the trusts that hold copies, as far as they can be reached, and what could not be is tried again by itself. Of a node that does not run the home is read directly: nothing is repaired then, but all is noted, and repaired when the node runs.

The exit code is 0 when all is whole or has been repaired, and 7 when damage remains, or studies are lost since the node was restored from an older backup. Interrupting the command ends the verification; what it found stays noted.

Example:

    priormesh verify --home /srv/priormesh --rate 50MiB

With --json, stdout has one object: {"studies", "instances", "blocks", "bytes", "found": [...], "left", "lost", "can_repair"}.`
}

func (c *verifyCmd) Run(p *program) error {
	if c.Study != "" && !dicom.UID(c.Study).Valid() {
		return exit(exitWrongUse, "--study: %w", noUID(c.Study))
	}
	bar := p.progress("verifying")
	show := func(v api.VerifyProgress) {
		bar.of(v.Bytes)
		bar.at(v.BytesDone)
	}
	report, err := c.verify(p, show)
	bar.end()
	switch {
	case err != nil && p.ctx.Err() != nil:
		return exit(exitFailed, "interrupted; what was found so far is noted, and `priormesh status` lists it")
	case err != nil:
		return err
	}
	if err := p.result(report, func(w io.Writer) { verifyText(w, report) }); err != nil {
		return err
	}
	switch {
	case report.Left == 0 && report.Lost > 0:
		return exit(exitDamaged, "what is here is whole, and %s received here and gone, wholly or in part, since the restore; `priormesh status` lists what is lost, and from where it may come back", plural(report.Lost, "study was", "studies were"))
	case report.Left == 0:
		return nil
	}
	next := "what other trusts hold is repaired by itself when they can be reached; send what nobody holds here again, or restore it from a backup"
	if !report.CanRepair {
		next = "the node repairs what it can from other trusts when it runs: start it with `priormesh run --home " + quoted(c.Home) + "`"
	}
	return exit(exitDamaged, "damage remains in %s; %s; `priormesh status` lists what is left", plural(report.Left, "study", "studies"), next)
}

func (c *verifyCmd) verify(p *program, show func(api.VerifyProgress)) (api.VerifyReport, error) {
	client, err := c.client(p.ctx)
	if err == nil {
		return client.Verify(p.ctx, int64(c.Rate), c.Study, show)
	}
	if !errors.Is(err, node.ErrNotRunning) {
		return api.VerifyReport{}, err
	}
	home, err := node.OpenHome(c.Home)
	if err != nil {
		return api.VerifyReport{}, err
	}
	p.note("the node is not running: what is damaged is noted, and nothing is repaired before it runs")
	report, err := node.Verify(p.ctx, home, node.Options{Version: version}, archive.VerifyOptions{Rate: int64(c.Rate), Study: c.Study,
		Progress: func(v archive.VerifyProgress) { show(api.VerifyProgress(v)) }})
	if errors.Is(err, archive.ErrNotFound) {
		return report, exit(exitNotFound, "nothing of this study is kept here")
	}
	return report, err
}

func verifyText(w io.Writer, r api.VerifyReport) {
	for _, f := range r.Found {
		fmt.Fprintf(w, "%s: %s", studyOf(f.Damage), harm(f.Damage))
		if f.Repaired > 0 {
			fmt.Fprintf(w, "; %d repaired", f.Repaired)
			if len(f.From) > 0 {
				fmt.Fprintf(w, " from %s", list(f.From))
			}
		}
		switch {
		case f.Left == nil:
			fmt.Fprint(w, "; whole again")
		case f.Left.Why != "":
			fmt.Fprintf(w, "; NOT repaired: %s, because: %s", harm(*f.Left), plain(f.Left.Why))
		default:
			fmt.Fprintf(w, "; NOT repaired: %s", harm(*f.Left))
		}
		fmt.Fprintln(w)
	}
	if r.MoreFound > 0 {
		fmt.Fprintf(w, "and %s more\n", plural(r.MoreFound, "study", "studies"))
	}
	damaged := len(r.Found) + r.MoreFound
	result := "all whole"
	if damaged > 0 {
		result = fmt.Sprintf("damage in %s, %d not repaired", plural(damaged, "study", "studies"), r.Left)
	}
	fmt.Fprintf(w, "verified %s, %s, %s in %s: %s\n", plural(r.Studies, "study", "studies"), plural(r.Instances, "instance", "instances"),
		bytesText(r.Bytes), plural(r.Blocks, "block", "blocks"), result)
}

// studyOf names a version of a study.
func studyOf(d api.Damage) string {
	if d.Own {
		return plain(d.Study) + " (received here)"
	}
	return fmt.Sprintf("%s (copy of %s's)", plain(d.Study), or(plain(d.Trust)))
}

// harm says what is wrong with a version of a study.
func harm(d api.Damage) string {
	var parts []string
	for _, k := range d.Kinds {
		if k == string(archive.LostKey) {
			parts = append(parts, "the study key is lost")
		}
	}
	if d.Blocks > 0 {
		text := plural(d.Blocks, "block", "blocks")
		if d.Instances > 0 {
			text += " of " + plural(d.Instances, "instance", "instances")
		}
		parts = append(parts, text+" damaged or missing")
	}
	return strings.Join(parts, ", ")
}

// damageText is what status says of damage.
func damageText(w io.Writer, s api.Status, now time.Time) {
	for _, d := range s.Damage {
		fmt.Fprintf(w, "damaged: study %s: %s, found %s ago", studyOf(d), harm(d), ago(now.Sub(d.Since)))
		if d.Why != "" {
			fmt.Fprintf(w, "; not repaired: %s", plain(d.Why))
		}
		fmt.Fprintln(w)
	}
	if more := s.Damaged - len(s.Damage); more > 0 {
		fmt.Fprintf(w, "damaged: %s more\n", plural(more, "study", "studies"))
	}
	for _, l := range s.Lost {
		next := "no copy is known: have it sent again, or import it"
		if len(l.Copies) > 0 {
			next = "it comes back from " + list(l.Copies)
		}
		if l.Here > 0 {
			next = "no copy of them is known: have the study sent again, or import it"
			if len(l.Copies) > 0 {
				next = "have the study sent again, or import it; a copy with more is held by " + list(l.Copies)
			}
			fmt.Fprintf(w, "lost: %s of %d of study %s were received here and are gone since the restore; %s\n", plural(l.Told-l.Here, "instance", "instances"), l.Told, plain(l.Study), next)
			continue
		}
		fmt.Fprintf(w, "lost: study %s was received here and is gone since the restore; %s\n", plain(l.Study), next)
	}
	if more := s.LostAll.Studies - len(s.Lost); more > 0 {
		fmt.Fprintf(w, "lost: %s more\n", plural(more, "study", "studies"))
	}
}
