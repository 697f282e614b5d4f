package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node/api"
)

// pollEvery is how often a command asks how far a fetch is.
const pollEvery = 250 * time.Millisecond

// maxAsks bounds how often a fetch is asked for again when the node has no
// task for it and no error: the study may have grown just then.
const maxAsks = 5

type fetchCmd struct {
	homeFlag
	Priority string        `placeholder:"CLASS" default:"interactive" enum:"emergency,interactive,prior,background" help:"How urgent it is: emergency, interactive (the default), prior or background."`
	Cancel   bool          `help:"Take the study off the queue instead. What has come of it is used if it is asked for again soon."`
	Wait     time.Duration `placeholder:"DURATION" default:"-1ns" help:"Give up waiting after this long (90s, 10m, 0s); the node goes on. Without it the command waits until the study is here."`
	Study    string        `arg:"" name:"studyuid" help:"Study Instance UID, as find prints it."`
}

func (fetchCmd) Help() string {
	return `Asks the node to bring a study from whichever trust holds it, and waits until it is here whole. The request is kept on the node's disk: it outlives this command, the node's process and the absence of the holder. Ctrl-C ends the waiting and not the fetch; --cancel ends the fetch. What is more urgent goes first; an emergency gets the place of something less urgent that is under way, which goes on later where it was.

The exit code is 0 once the study is here, 1 if everybody who has it has refused it, 4 if no trust says that it has it, 6 if the wait ended first, was interrupted, or the study was taken off the queue meanwhile. With --json there is a line whenever something has changed; the last one says how it ended.

Examples:

    priormesh fetch --home /srv/priormesh --wait 10m 1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.1
    priormesh fetch --home /srv/priormesh --priority emergency 1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.1
    priormesh fetch --home /srv/priormesh --cancel 1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.1`
}

func (c *fetchCmd) Run(p *program) error {
	if !dicom.UID(c.Study).Valid() {
		return exitError{exitWrongUse, noUID(c.Study)}
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	if c.Cancel {
		return c.cancel(p, client)
	}
	ctx := p.ctx
	if c.Wait >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Wait)
		defer cancel()
	}
	f, err := client.Fetch(p.ctx, c.Study, c.Priority)
	if err != nil {
		return err
	}
	f, err = c.follow(ctx, p, client, f)
	switch {
	case err != nil && p.ctx.Err() != nil:
		return p.queued(f, "interrupted; the study stays in the node's queue and comes by itself")
	case err != nil && ctx.Err() != nil:
		return p.queued(f, fmt.Sprintf("not here after %v; the study stays in the node's queue and comes by itself", c.Wait))
	case err != nil:
		return err
	}
	return p.result(f, func(w io.Writer) { fmt.Fprintf(w, "here: %s\n", f.Study) })
}

func (c *fetchCmd) cancel(p *program, client *api.Client) error {
	got, err := client.Cancel(p.ctx, c.Study)
	if err != nil {
		return err
	}
	if !got.Was {
		return exit(exitNotFound, "the study is not in the node's queue; `priormesh status` lists it")
	}
	return p.result(got, func(w io.Writer) { fmt.Fprintf(w, "taken off the queue: %s\n", got.Study) })
}

func noUID(s string) error {
	return fmt.Errorf("%q is no Study Instance UID: it has 1 to 64 digits and dots; `priormesh find` prints it", short(s, 70))
}

// queued says that a study has not come yet.
func (p *program) queued(f api.Fetch, text string) error {
	if p.json {
		if err := p.line(f); err != nil {
			return err
		}
	}
	if f.Error != "" {
		text += "; the last attempt failed: " + plain(f.Error)
	}
	return exit(exitNotYet, "%s", text)
}

// follow waits until a study is here. Beside an error it gives what was known last.
func (c *fetchCmd) follow(ctx context.Context, p *program, client *api.Client, f api.Fetch) (api.Fetch, error) {
	bar := p.progress("fetching")
	defer bar.end()
	var shown, waits string
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var trouble string
	gone, asks := false, 1
	for {
		again := false
		bar.of(f.Bytes)
		bar.at(f.BytesHere)
		bar.say(fetchText(f))
		if now := fmt.Sprint(f); p.json && now != shown && f.State != "here" {
			if err := p.line(f); err != nil {
				return f, err
			}
			shown = now
		}
		switch f.State {
		case "here":
			return f, nil
		case "cancelled":
			return f, exit(exitNotYet, "the study was taken off the node's queue; repeat the command to ask for it again")
		case "refused":
			return f, exit(exitFailed, "%s; %s", plain(f.Waits), plain(f.Error))
		case "unknown":
			return f, exit(exitNotFound, "no trust says that it has this study; check the UID with `priormesh find --study`")
		case "elsewhere":
			// Its task may have ended between two looks of the node; if it is
			// still not here at the next answer, the task has ended too early.
			if gone && asks == maxAsks {
				return f, fmt.Errorf("the study is not here after it was asked for %d times; the node's log says why; repeat the command to ask again", asks)
			}
			again = gone
			gone = !gone
		default:
			gone = false
		}
		if f.Error != "" && f.Error != trouble && !p.json {
			fmt.Fprintf(bar, "attempt %d failed: %s; the node tries again\n", f.Attempts, plain(f.Error))
		}
		if (f.State == "waiting" || f.State == "paused") && f.Waits != "" && f.Waits != waits && !p.json {
			fmt.Fprintf(bar, "%s: %s\n", f.State, plain(f.Waits))
			waits = f.Waits
		}
		trouble = f.Error
		select {
		case <-ctx.Done():
			return f, ctx.Err()
		case <-tick.C:
		}
		var err error
		last := f
		if again {
			f, err = client.Fetch(ctx, c.Study, c.Priority)
			asks++
		} else {
			f, err = client.FetchStatus(ctx, c.Study)
		}
		if err != nil {
			return last, err
		}
	}
}

// fetchText is what a fetch does, in a few words.
func fetchText(f api.Fetch) string {
	switch f.State {
	case "active":
		var from []string
		for _, h := range f.Holders {
			if h.State == "gives" {
				from = append(from, h.Trust)
			}
		}
		if len(from) == 0 {
			return plain(f.Waits)
		}
		return fmt.Sprintf("%s/s from %s", bytesText(int64(f.Rate)), list(from))
	case "queued", "paused", "waiting", "refused":
		return plain(f.Waits)
	}
	return f.State
}
