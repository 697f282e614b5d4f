package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node/api"
)

type eraseCmd struct {
	homeFlag
	Reason string `required:"" placeholder:"TEXT" help:"Why, in one line of up to 200 bytes. It stays in the audit log: never put a patient's name, number or other data into it."`
	Yes    bool   `help:"Do not ask whether it is meant."`
	Study  string `arg:"" name:"studyuid" help:"Study Instance UID, as find prints it."`
}

func (eraseCmd) Help() string {
	return `Erases all that this node keeps under a Study Instance UID: what was received here and copies of what other trusts received. Their keys are destroyed first, so that nobody can read the images any more; then the images, every record of the study and what this node has told the region of it go, from the node's files too. It cannot be undone. The node carries it on if this command or the node itself is stopped.

What it cannot do: other trusts that hold a copy of what was received here erase it by themselves when their node hears of this, and not before; what another trust has received itself stays there, is still found, and comes here again when somebody reads it or it is a prior of what arrives; backups of this node, of its disk or of its keys are yours to deal with; and the audit log keeps that the study, under a shortened hash, was stored, given and erased.

The reason must not name the patient. A study that is received again after it was erased is a new study.

Example:

    priormesh erase --home /srv/priormesh --reason "request 2024-117" 1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.1`
}

func (c *eraseCmd) Run(p *program) error {
	if !dicom.UID(c.Study).Valid() {
		return exitError{exitWrongUse, noUID(c.Study)}
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	if !c.Yes {
		found, err := client.Find(p.ctx, api.Filter{Study: c.Study})
		if err != nil {
			return err
		}
		if err := c.confirm(p, found.Studies); err != nil {
			return err
		}
	}
	told := false
	e, err := client.Erase(p.ctx, c.Study, c.Reason, func(e api.Erasure) {
		if p.json || told && e.Problem == "" {
			return
		}
		told = true
		if e.Problem != "" {
			p.note("it could not go on: %s; the node tries again", plain(e.Problem))
			return
		}
		p.note("the study is being erased; the node carries it on also without this command")
	})
	switch {
	case err != nil && p.ctx.Err() != nil && e.Study != "":
		return exit(exitNotYet, "interrupted; the node carries the erasure on by itself")
	case err != nil:
		return err
	}
	return p.result(e, func(w io.Writer) { erased(w, e) })
}

// confirm asks a person whether it is meant.
func (c *eraseCmd) confirm(p *program, studies []api.Study) error {
	if !p.asked() {
		return exit(exitWrongUse, "nobody is there to be asked whether it is meant: say --yes to erase the study without a question")
	}
	for _, s := range studies {
		p.note("study %s: %s of %s, %s, received by %s", plain(s.Study), list(s.Modalities), or(dateText(s.Date)), plural(s.Instances, "instance", "instances"), list(s.Trusts))
	}
	if p.types("erase", fmt.Sprintf("Everything that is kept here of study %s will be erased. This cannot be undone.", plain(c.Study))) {
		return nil
	}
	return exit(exitFailed, "nothing was erased")
}

// asked reports whether a person is there to be asked.
func (p *program) asked() bool {
	in, ok := p.stdin.(*os.File)
	return ok && term.IsTerminal(int(in.Fd()))
}

// types asks a person to type a word if something is meant.
func (p *program) types(word, what string) bool {
	fmt.Fprintf(p.stderr, "%s Type %q to go on: ", what, word)
	line, err := bufio.NewReader(p.stdin).ReadString('\n')
	if err != nil {
		fmt.Fprintln(p.stderr)
	}
	return strings.TrimSpace(line) == word
}

func erased(w io.Writer, e api.Erasure) {
	fmt.Fprintf(w, "erased: %s, %s, %s, %s\n", plain(e.Study), plural(e.Versions, "version", "versions"), plural(e.Instances, "instance", "instances"), bytesText(e.Bytes))
	if len(e.Copies) > 0 {
		fmt.Fprintf(w, "copies: %s said to hold what was received here (%s) erase it when their nodes hear of this; the node cannot see when that is\n",
			plural(len(e.Copies), "trust that", "trusts that"), list(e.Copies))
	}
	if len(e.Others) > 0 {
		fmt.Fprintf(w, "others: what %s received of it (%s) stays there and is still found\n", plural(len(e.Others), "other trust", "other trusts"), list(e.Others))
	}
	if e.Siblings {
		fmt.Fprintln(w, "siblings: what other nodes of this trust received of it stays; erase it there")
	}
	fmt.Fprintln(w, "backups: copies of this node's disk or keys that were made before are not touched")
}
