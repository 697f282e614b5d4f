package main

import (
	"fmt"
	"io"

	"github.com/priormesh/priormesh/dicom"
)

type pinCmd struct {
	homeFlag
	Reason string `placeholder:"TEXT" help:"Why, for whoever looks later."`
	Study  string `arg:"" name:"studyuid" help:"Study Instance UID, as find prints it."`
}

func (pinCmd) Help() string {
	return `Keeps this node's copies of a study, whatever space.copies in config.toml and the disk say. What was received here is never evicted and needs no pin. A study that is not here is not brought by it; once it comes it stays.

Example:

    priormesh pin --home /srv/priormesh --reason "teaching file" 1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.1`
}

func (c *pinCmd) Run(p *program) error {
	if !dicom.UID(c.Study).Valid() {
		return exitError{exitWrongUse, noUID(c.Study)}
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	pin, err := client.Pin(p.ctx, c.Study, c.Reason)
	if err != nil {
		return err
	}
	if !pin.Here {
		p.note("the study is not here whole; `priormesh fetch --home %s %s` brings it", c.Home, pin.Study)
	}
	return p.result(pin, func(w io.Writer) { fmt.Fprintf(w, "pinned: %s\n", pin.Study) })
}

type unpinCmd struct {
	homeFlag
	Study string `arg:"" name:"studyuid" help:"Study Instance UID."`
}

func (unpinCmd) Help() string {
	return `Takes a pin away: the copies of the study go like others when they are the least recently used.

Example:

    priormesh unpin --home /srv/priormesh 1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.1`
}

func (c *unpinCmd) Run(p *program) error {
	if !dicom.UID(c.Study).Valid() {
		return exitError{exitWrongUse, noUID(c.Study)}
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	u, err := client.Unpin(p.ctx, c.Study)
	if err != nil {
		return err
	}
	return p.result(u, func(w io.Writer) {
		if u.Was {
			fmt.Fprintf(w, "no longer pinned: %s\n", u.Study)
		} else {
			fmt.Fprintf(w, "was not pinned: %s\n", u.Study)
		}
	})
}
