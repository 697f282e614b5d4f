package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

type backupCmd struct {
	homeFlag
	Copies     bool      `help:"Back up copies of other trusts' studies too. They can be brought again, so by default they are left out."`
	WithoutKEK bool      `name:"without-kek" help:"Leave out the key that wraps the study keys, although it lies in the home. Without that key the backup is worthless: keep it elsewhere."`
	Reread     bool      `help:"Read all blocks in the home once more, also those that the target has already."`
	Rate       node.Size `placeholder:"SIZE" help:"Copy at most so much a second, such as 50MiB."`
	Target     string    `arg:"" help:"Folder for the backup: a new or empty one, or one with an earlier backup of this node, which is brought up to date."`
}

func (backupCmd) Help() string {
	return `Copies all that this node needs to live again into a folder, while it runs or not: settings, keys, card, region, the index and the catalogue, the fetch queue, the audit log, and the blocks of all that was received here. Everything that was acknowledged before the backup was taken is in it. Run it every night with the same target: blocks that are there are not copied again. The backup that was there before is valid until the new one is complete, and then replaced by it.

The backup holds secrets: keep it where only you can read it, and on another machine's disk. If the key that wraps the study keys (the KEK) lies in the home it is in the backup, and whoever has the backup can read every image; with --without-kek, or if the KEK comes from elsewhere, it is not, and the backup is worthless without it: keep a copy of it. Originals that lie in a bucket stay there and are not in the backup.

A study that is erased later is in older backups still. The next backup to the same target takes its key out; other targets, and copies that were made of them, are yours to destroy.

If the disk of the target becomes full, or the command is interrupted, nothing of the new backup counts; blocks that were copied whole are used by the next one.

Examples:

    priormesh backup --home /srv/priormesh /mnt/backup/priormesh
    priormesh backup --home /srv/priormesh --rate 100MiB --without-kek /mnt/backup/priormesh

With --json, stdout has one object: {"id", "target", "taken", "studies", "packs", "bytes", "copied", "kek", "trust_key", "copies", "originals", "missing"}. The exit code is 7 when something of the home could not be read, and is lacking in the backup.`
}

func (c *backupCmd) Run(p *program) error {
	target, err := filepath.Abs(c.Target)
	if err != nil {
		return err
	}
	bar := p.progress("backing up")
	got, err := c.backup(p, api.BackupRequest{Target: target, Copies: c.Copies, WithoutKEK: c.WithoutKEK, Reread: c.Reread, Rate: int64(c.Rate)},
		func(b api.BackupProgress) {
			bar.of(b.Bytes)
			bar.at(b.BytesDone)
		})
	bar.end()
	switch {
	case err != nil && p.ctx.Err() != nil:
		return exit(exitFailed, "interrupted: there is no new backup; one that was there before is as it was")
	case err != nil:
		return err
	}
	if err := p.result(got, func(w io.Writer) { backupText(w, got) }); err != nil {
		return err
	}
	if !p.json {
		switch got.KEK {
		case "in the backup":
			p.note("KEY: the KEK is in the backup: whoever reads the backup can read every image. --without-kek leaves it out")
		case "left out":
			p.note("KEY: the KEK is NOT in the backup, which is worthless without it: keep a copy of it elsewhere")
		default:
			p.note("KEY: the KEK comes from %s and is NOT in the backup, which is worthless without it: see that it is kept", plain(got.KEK))
		}
	}
	if len(got.Missing) > 0 {
		return exit(exitDamaged, "the backup is complete, but for what the home itself has lost or cannot read: %s", list(got.Missing))
	}
	return nil
}

func (c *backupCmd) backup(p *program, r api.BackupRequest, show func(api.BackupProgress)) (api.Backup, error) {
	client, err := c.client(p.ctx)
	if err == nil {
		return client.Backup(p.ctx, r, show)
	}
	if !errors.Is(err, node.ErrNotRunning) {
		return api.Backup{}, err
	}
	home, err := node.OpenHome(c.Home)
	if err != nil {
		return api.Backup{}, err
	}
	got, err := node.Backup(p.ctx, home, node.Options{Version: version}, node.BackupOptions{Target: r.Target, Copies: r.Copies,
		WithoutKEK: r.WithoutKEK, Reread: r.Reread, Rate: r.Rate, Progress: show})
	if errors.Is(err, cas.ErrUnavailable) {
		return got, exit(exitNotYet, "%w", err)
	}
	return got, err
}

func backupText(w io.Writer, b api.Backup) {
	fmt.Fprintf(w, "backup %s is complete in %s: all that was acknowledged until %s, %s received here, %s in all, %s newly copied\n",
		b.ID, plain(b.Target), b.Taken.Format(time.RFC3339), plural(b.Studies, "study", "studies"), bytesText(b.Bytes), bytesText(b.Copied))
	if b.Originals != "disk" {
		fmt.Fprintf(w, "originals: they stay in %s and are NOT in the backup\n", plain(b.Originals))
	}
	if b.TrustKey {
		fmt.Fprintln(w, "trust.key: it is in the backup; it may be kept offline instead")
	} else {
		fmt.Fprintln(w, "trust.key: it is not in the home and not in the backup; see that it is kept")
	}
	if b.Copies {
		fmt.Fprintln(w, "copies: those of other trusts' studies are in the backup")
	}
	if b.SameDisk {
		fmt.Fprintln(w, "warning: the backup lies on the disk of the home, and is lost with it")
	}
}

type restoreCmd struct {
	Home       string `placeholder:"NEWDIR" env:"PRIORMESH_HOME" help:"New folder for the home; it must be empty, or not be there."`
	VerifyOnly bool   `help:"Read the whole backup and compare it; make nothing."`
	Source     string `arg:"" help:"Folder of the backup."`
}

func (restoreCmd) Help() string {
	return `Makes a home of a backup. Every file is read and compared with its size and SHA-256 first; if anything differs nothing is made. With --verify-only nothing is made in any case: do that often, and a whole restore on another machine now and then.

The home that the backup was taken of must never run again. If it does, two nodes speak with one voice, and the region takes nothing more from either: see that the old machine is off and its home is gone.

When the restored node runs, it waits until it reaches a member, learns what it had said after the backup was taken, begins a new epoch of its log, erases again what had been erased since, and then serves. Studies that were received after the backup are not in it; they are found, and lie where copies were brought. If the KEK is not in the backup put it where config.toml says before the node runs.

Examples:

    priormesh restore --verify-only /mnt/backup/priormesh
    priormesh restore --home /srv/priormesh-new /mnt/backup/priormesh
    priormesh run --home /srv/priormesh-new

With --json, stdout has one object: {"home", "backup", "taken", "trust", "node", "studies", "files", "bytes", "kek", "trust_key", "copies", "originals", "missing"}.`
}

func (c *restoreCmd) Run(p *program) error {
	if c.Home == "" && !c.VerifyOnly {
		return exit(exitWrongUse, "--home names the new folder; with --verify-only none is needed")
	}
	bar := p.progress("restoring")
	if c.VerifyOnly {
		bar.end()
		bar = p.progress("comparing")
	}
	got, err := node.Restore(p.ctx, c.Home, c.Source, node.RestoreOptions{VerifyOnly: c.VerifyOnly, Progress: func(b api.BackupProgress) {
		bar.of(b.Bytes)
		bar.at(b.BytesDone)
	}})
	bar.end()
	switch {
	case err != nil && p.ctx.Err() != nil:
		return exit(exitFailed, "interrupted: nothing was restored")
	case errors.Is(err, node.ErrNoBackup), errors.Is(err, node.ErrNotEmpty):
		return exitError{exitWrongUse, err}
	case errors.Is(err, node.ErrBackupDamaged):
		return exitError{exitDamaged, err}
	case err != nil:
		return err
	}
	return p.result(got, func(w io.Writer) { restoredText(w, got) })
}

func restoredText(w io.Writer, r api.Restored) {
	fmt.Fprintf(w, "backup %s of %s, node %s, taken %s: %s, %s, all as written\n", r.Backup, plain(r.Trust), r.Node,
		r.Taken.Format(time.RFC3339), plural(r.Files, "file", "files"), bytesText(r.Bytes))
	for _, m := range r.Missing {
		fmt.Fprintf(w, "lacking: %s\n", plain(m))
	}
	if r.Originals != "disk" {
		fmt.Fprintf(w, "originals: they are in %s, not in the backup\n", plain(r.Originals))
	}
	if r.KEK != "in the backup" {
		fmt.Fprintf(w, "KEK: it is NOT in the backup (%s): the node does not start before it is where config.toml says\n", plain(r.KEK))
	}
	if r.Home == "" {
		return
	}
	fmt.Fprintf(w, "restored to %s\n", plain(r.Home))
	fmt.Fprintln(w, "WARNING: the home that this backup was taken of must never run again. Two nodes with one key contradict each other, and the region takes nothing more from them")
	fmt.Fprintf(w, "next: `priormesh run --home %s`; it waits for a member, and then begins anew\n", quoted(r.Home))
}
