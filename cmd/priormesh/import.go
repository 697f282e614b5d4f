package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/priormesh/priormesh/node/api"
)

// uploads is how many instances are sent at the same time: enough to keep the
// node's disk busy, few enough to leave it time for others.
const uploads = 4

type importCmd struct {
	homeFlag
	Arrival bool     `help:"The studies are new, not a backfill: priors of their patients are to be brought here."`
	Paths   []string `arg:"" name:"path" help:"DICOM files, and folders of them."`
}

func (importCmd) Help() string {
	return `Sends each file to the running node, which checks it and keeps it byte for byte. What the node refuses is shown with its reason, and the exit code is then 5, or 1 if no file at all was accepted. Importing again what is there changes nothing, so an import that was interrupted is just repeated. Where instances of one study name several patients a warning says which study.

An import is a backfill: it does not make the node bring other studies of the patients. With --arrival it does, as if a modality had sent them.

Example:

    priormesh import --home /srv/priormesh /mnt/archive/2019 /mnt/archive/2020

With --json, stdout has one line for each file: {"file", "outcome", "study", "series", "instance", "bytes", "sha256", "reason"}, outcome being stored, duplicate, refused, or unread for what could not be read from this machine's disk, and "mixed_patient" where instances of the study name several patients; and then one line that sums up: {"files", "stored", "duplicates", "refused", "unread", "bytes", "seconds"}.`
}

// unread is the outcome of what never reached the node.
const unread api.Outcome = "unread"

// imported is what became of one file.
type imported struct {
	File string `json:"file"`
	api.Receipt
}

type importSummary struct {
	Files      int     `json:"files"`
	Stored     int     `json:"stored"`
	Duplicates int     `json:"duplicates"`
	Refused    int     `json:"refused"`
	Unread     int     `json:"unread"`
	Bytes      int64   `json:"bytes"` // accepted
	Seconds    float64 `json:"seconds"`
}

func (s *importSummary) count(r api.Receipt) {
	s.Files++
	switch r.Outcome {
	case api.Stored:
		s.Stored++
	case api.Duplicate:
		s.Duplicates++
	case unread:
		s.Unread++
	default:
		s.Refused++
	}
	if r.Outcome == api.Stored || r.Outcome == api.Duplicate {
		s.Bytes += r.Bytes
	}
}

func (c *importCmd) Run(p *program) error {
	if !slices.ContainsFunc(c.Paths, exists) {
		return exit(exitWrongUse, "there is no file or folder %s", list(c.Paths))
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	bar := p.progress("importing")
	g, ctx := errgroup.WithContext(p.ctx)
	files, results := make(chan found), make(chan imported)
	g.Go(func() error {
		defer close(files)
		return walk(c.Paths, func(f found) error {
			select {
			case files <- f:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	if bar.bar != nil {
		g.Go(func() error { // ahead of the uploads, for an honest total
			var total int64
			return walk(c.Paths, func(f found) error {
				total += f.size
				bar.of(total)
				return ctx.Err()
			})
		})
	}
	senders, sctx := errgroup.WithContext(ctx)
	for range uploads {
		senders.Go(func() error {
			for f := range files {
				r, err := offer(sctx, client, f, c.Arrival, bar)
				if err != nil {
					return err
				}
				results <- imported{f.path, r}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(results)
		return senders.Wait()
	})
	var sum importSummary
	var printed error
	mixed := map[string]bool{}
	for r := range results {
		sum.count(r.Receipt)
		if r.MixedPatient && !mixed[r.Study] && !p.json {
			mixed[r.Study] = true
			fmt.Fprintf(bar, "warning: instances of study %s name several patients (this one: %s): it is kept as it is, found by each patient's number, and shown with a warning. Find out whose it is; `priormesh erase` takes out what was filed wrongly\n", plain(r.Study), plain(r.File))
		}
		switch {
		case p.json:
			printed = errors.Join(printed, p.line(r))
		case r.Outcome != api.Stored && r.Outcome != api.Duplicate:
			fmt.Fprintf(bar, "%s: %s: %s\n", plain(r.File), r.Outcome, plain(r.Reason))
			if r.Instance != "" {
				fmt.Fprintf(bar, "    instance %s of study %s\n", plain(r.Instance), plain(r.Study))
			}
		}
	}
	err = errors.Join(g.Wait(), printed)
	bar.end()
	sum.Seconds = time.Since(began).Seconds()
	if perr := p.result(sum, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %d stored, %d here already, %d refused, %d could not be read; %s accepted in %.1f s\n",
			plural(sum.Files, "file", "files"), sum.Stored, sum.Duplicates, sum.Refused, sum.Unread, bytesText(sum.Bytes), sum.Seconds)
	}); perr != nil {
		return perr
	}
	switch {
	case err != nil && p.ctx.Err() != nil:
		return exit(exitFailed, "interrupted; what is counted as stored is safe: repeat the command to go on")
	case err != nil && sum.Stored+sum.Duplicates > 0 && exitCode(err) == exitFailed:
		return exitError{exitPartly, fmt.Errorf("the import was given up after %s; what is counted as stored is safe, and the command can be repeated to go on: %w", plural(sum.Stored+sum.Duplicates, "file was accepted", "files were accepted"), err)}
	case err != nil:
		return fmt.Errorf("the import was given up; what is counted as stored is safe, and the command can be repeated to go on: %w", err)
	case sum.Files > 0 && sum.Stored+sum.Duplicates == 0:
		return exit(exitFailed, "nothing was imported of %s; the reasons are above", plural(sum.Files, "file", "files"))
	case sum.Refused+sum.Unread > 0:
		return exit(exitPartly, "%d of %d files were not imported; the reasons are above", sum.Refused+sum.Unread, sum.Files)
	case sum.Files == 0:
		return exit(exitNotFound, "there is no file in %s", list(c.Paths))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// reason is why an instance was refused, without the name of the package that
// found it out.
func reason(s string) string { return strings.TrimPrefix(s, "dicom: ") }

// offer sends one file to a node. An error means that the next file would
// fare no better; anything else is in the receipt.
func offer(ctx context.Context, client *api.Client, f found, arrival bool, bar *progress) (api.Receipt, error) {
	if f.err != nil {
		return api.Receipt{Outcome: unread, Reason: f.err.Error()}, nil
	}
	file, err := os.Open(f.path)
	if err != nil {
		return api.Receipt{Outcome: unread, Reason: bare(err).Error()}, nil
	}
	defer file.Close()
	disk := &source{ReadSeeker: file}
	sent := &counted{ReadSeeker: disk, bar: bar}
	r, err := client.Instance(ctx, sent, arrival)
	r.Reason = reason(r.Reason)
	bar.add(f.size - sent.n) // a refusal may come before the end
	var said *api.Error
	switch {
	case err == nil:
		return r, nil
	case disk.err != nil:
		return api.Receipt{Outcome: unread, Reason: bare(disk.err).Error()}, nil
	case errors.As(err, &said) && said.Status == http.StatusInternalServerError:
		return api.Receipt{Outcome: api.Refused, Reason: reason(said.Text)}, nil
	}
	return r, err
}

// source remembers that its reading failed, which an upload's error does not
// tell from a failing network.
type source struct {
	io.ReadSeeker
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.ReadSeeker.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
