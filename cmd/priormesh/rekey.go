package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/node"
)

type rekeyCmd struct {
	homeFlag
	NewKEK     string   `name:"new-kek" placeholder:"SOURCE" help:"Where the new key comes from: file:PATH, env:NAME, credential:NAME or command. Not needed where the present one is in a file: then one is made."`
	NewCommand []string `sep:"none" placeholder:"WORD" help:"With --new-kek command: its words, the whole path first, one each time (--new-command=-d where one begins with a hyphen)."`
}

func (rekeyCmd) Help() string {
	return `Study keys are kept wrapped by one key, the key-encryption key (KEK). This wraps all of them with a new one; no image is touched. After it the old KEK opens nothing of this node any more, so run it when the KEK may have been seen by others, or at regular intervals if your rules ask for that. Backups that were taken before are still opened by the old KEK.

The node must not be running: stop it first. If the command is cut off anywhere, the node starts as before or with the change finished, and the command can be repeated.

Where the KEK is in a file (kek = "file:kek", the default), a new one is made and takes its place. Where it is not, put the new one where it will come from, name that with --new-kek, and afterwards write into config.toml what this command says.

If several nodes of the trust share a bucket: stop all of them, run this on one, then on each of the others with the same new KEK (--new-kek file:PATH of a copy of the first node's kek file), and start them.

Examples:

    priormesh rekey --home /srv/priormesh
    priormesh rekey --home /srv/priormesh --new-kek credential:kek2
    priormesh rekey --home /srv/priormesh --new-kek command --new-command /usr/bin/kms --new-command decrypt --new-command kek2`
}

func (c *rekeyCmd) Run(p *program) error {
	if len(c.NewCommand) > 0 && c.NewKEK != "command" {
		return exit(exitWrongUse, "--new-command goes with --new-kek command")
	}
	home, err := node.OpenHome(c.Home)
	if err != nil {
		return err
	}
	keys := 0
	done, err := home.Rekey(p.ctx, node.RekeyOptions{New: c.NewKEK, NewCommand: c.NewCommand, Rand: rand.Reader, Progress: func(n, of int) {
		if keys++; n == 1 && of >= 1000 && !p.json {
			p.note("wrapping %d keys anew", of)
		}
	}})
	switch {
	case errors.Is(err, node.ErrNoNewKEK), errors.Is(err, node.ErrNewKEK):
		return exitError{exitWrongUse, err}
	case errors.Is(err, node.ErrInUse):
		return exit(exitFailed, "%w: stop the node first; its keys are not wrapped anew while it runs", err)
	case errors.Is(err, cas.ErrUnavailable):
		return exit(exitNotYet, "%w; nothing is lost: repeat this command", err)
	case err != nil:
		return err
	}
	return p.result(struct {
		node.Rekeyed
		Keys int `json:"keys"`
	}{done, keys}, func(w io.Writer) {
		if done.Same && keys == 0 {
			fmt.Fprintf(w, "this is the present KEK already (%s): no key was wrapped anew\n", done.KEK)
		} else {
			fmt.Fprintf(w, "%s wrapped with the new KEK, in %s\n", plural(keys, "key is", "keys are"), list(done.Keyrings))
			fmt.Fprintf(w, "the KEK is %s\n", done.KEK)
			fmt.Fprintln(w, "keep a copy of the new KEK apart from the home: without it nothing opens the images. Backups from before are opened by the old one alone: keep that as long as them")
		}
		if done.Old != "" {
			fmt.Fprintf(w, "%s is the old KEK: it opens older backups only, and no backup of the home should hold it\n", done.Old)
		}
		if done.Setting != "" {
			fmt.Fprintf(w, "next: write kek = %q under [keys] in %s/config.toml; until then the node does not start\n", done.Setting, home.Dir)
		}
		if done.Setting == "command" {
			fmt.Fprintf(w, "      and the words of the command as kek_command\n")
		}
	})
}
