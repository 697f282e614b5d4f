package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/simulations/link"
)

const (
	startPartsIn = 60 * time.Second
	heard        = "listening "
)

// child is a process of this program, which does one part and nothing else, so
// that what it takes of memory and CPU is that part's.
type child struct {
	name     string
	cmd      *exec.Cmd
	out      bytes.Buffer
	errs     bytes.Buffer
	addr     string // where it listens; after listened
	listened chan struct{}
	read     chan struct{}
}

// startChild starts a part in a place, or here. It is told what to do as JSON.
func startChild(ctx context.Context, at *link.Place, name string, told any, listens bool) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(told)
	if err != nil {
		return nil, err
	}
	c := &child{name: name, cmd: exec.CommandContext(ctx, self, name, "-told", string(text)), listened: make(chan struct{}), read: make(chan struct{})}
	c.cmd.Stdout = &c.out
	if _, err := c.cmd.StdinPipe(); err != nil { // is closed when the process, or this one, has ended
		return nil, err
	}
	errs, err := c.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := at.Do(c.cmd.Start); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.read)
		for s := bufio.NewScanner(errs); s.Scan(); {
			if addr, ok := strings.CutPrefix(s.Text(), heard); ok && c.addr == "" {
				c.addr = addr
				close(c.listened)
				continue
			}
			if c.errs.Len() < 64<<10 {
				fmt.Fprintln(&c.errs, s.Text())
			}
		}
	}()
	if listens {
		select {
		case <-c.listened:
		case <-c.read:
			return nil, errors.Join(fmt.Errorf("%s ended before it listened", name), c.wait(nil))
		case <-time.After(startPartsIn):
			return nil, errors.Join(fmt.Errorf("%s does not listen after %v", name, startPartsIn), c.kill())
		}
	}
	return c, nil
}

// listening tells whoever started this process where it listens.
func listening(addr string) { fmt.Fprintf(os.Stderr, "%s%s\n", heard, addr) }

// wait waits for the process's end and reads its report.
func (c *child) wait(report any) error {
	<-c.read
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", c.name, err, c.errs.Bytes())
	}
	if report == nil {
		return nil
	}
	return json.Unmarshal(c.out.Bytes(), report)
}

func (c *child) kill() error {
	_ = c.cmd.Process.Kill()
	<-c.read
	_ = c.cmd.Wait()
	return nil
}

// runPart reads what it is told from the command line and answers on standard output.
func runPart[P any](do func(ctx context.Context, p P) (any, error)) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		debug.SetMemoryLimit(node.Memory) // as the program does
		set := flag.NewFlagSet("part", flag.ContinueOnError)
		told := set.String("told", "", "what to do, as JSON")
		if err := set.Parse(args); err != nil {
			return err
		}
		// Whoever started this holds the other end: gone, there is nobody to report to.
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		var p P
		if err := json.Unmarshal([]byte(*told), &p); err != nil {
			return err
		}
		out, err := do(ctx, p)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(out)
	}
}
