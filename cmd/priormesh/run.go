package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/priormesh/priormesh/node"
)

type runCmd struct {
	homeFlag
	LogLevel logLevel `placeholder:"LEVEL" default:"info" help:"debug, info, warn or error."`
	LogJSON  bool     `name:"log-json" help:"Write the log as JSON lines."`
	Alone    bool     `help:"A node that was restored from a backup begins without waiting for a member: studies that were erased since may be shown until one is reached."`
}

type logLevel slog.Level

// UnmarshalText reads a level.
func (l *logLevel) UnmarshalText(b []byte) error {
	if err := (*slog.Level)(l).UnmarshalText(b); err != nil {
		return fmt.Errorf("%q is none of debug, info, warn and error", short(string(b), 20))
	}
	return nil
}

func (runCmd) Help() string {
	return `The log goes to stderr. One line on stdout says when the node is ready. SIGTERM or Ctrl-C lets what is under way finish and ends with 0; a second one ends at once. What is changed in [fetch] of config.toml is in force within seconds, or at once by SIGHUP; what else is changed needs a restart.

Example:

    priormesh run --home /srv/priormesh --log-level warn`
}

// ready is what `run --json` prints once the node serves.
type ready struct {
	Ready    bool   `json:"ready"`
	Trust    string `json:"trust"`
	PID      int    `json:"pid"`
	HTTP     string `json:"http"`
	DICOMweb string `json:"dicomweb"`
}

func (c *runCmd) Run(p *program) error {
	// A node shares its machine. Beyond this the garbage collector works harder; it is no hard limit. GOMEMLIMIT says otherwise.
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(node.Memory)
	}
	home, err := node.OpenHome(c.Home)
	if err != nil {
		return err
	}
	options := &slog.HandlerOptions{Level: slog.Level(c.LogLevel)}
	var handler slog.Handler = slog.NewTextHandler(p.stderr, options)
	if c.LogJSON {
		handler = slog.NewJSONHandler(p.stderr, options)
	}
	log := slog.New(handler)
	n, err := node.Open(p.ctx, home, node.Options{Now: time.Now, Rand: rand.Reader, Log: log, Version: version, Alone: c.Alone})
	if err != nil {
		if p.ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // asked to end before it had begun
		}
		return err
	}
	web := "http://" + n.HTTPAddr()
	log.Info("the node runs", "version", version, "trust", string(home.Config.Trust), "http", web)
	if err := p.result(ready{true, string(home.Config.Trust), os.Getpid(), web, web + "/dicom-web"}, func(w io.Writer) {
		fmt.Fprintf(w, "ready: DICOMweb %s/dicom-web\n", web)
	}); err != nil {
		return errors.Join(fmt.Errorf("nobody reads stdout: %w", err), n.Close())
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for p.ctx.Err() == nil {
		select {
		case <-hangups:
			n.Reload()
		case <-p.ctx.Done():
		}
	}
	log.Info("asked to end; finishing what is under way")
	if err := n.Close(); err != nil {
		return fmt.Errorf("the node did not end cleanly; what it acknowledged is on disk: %w", err)
	}
	log.Info("the node has ended")
	return nil
}
