package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	stopFor   = 20 * time.Second // a node gets to drain
	tailBytes = 4 << 10          // of a log that an error shows
)

// child is a node's process. It ends with this program, however that ends.
type child struct {
	cmd   *exec.Cmd
	log   string
	ready chan ready    // gets what the process says once it serves
	done  chan struct{} // closed when it has ended
	err   error         // how it ended; read after done
}

// startChild runs this program again as a node. Its log is appended to a file.
func startChild(exe, home, log string) (*child, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(exe, "run", "--json", "--home", home)
	cmd.Stderr = f
	cmd.SysProcAttr = childAttr()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, log: log, ready: make(chan ready, 1), done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Where the kernel ends a child with its parent, the parent is the
		// thread that made it, so that thread has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		in := bufio.NewReader(stdout)
		if line, err := in.ReadBytes('\n'); err == nil {
			var r ready
			if json.Unmarshal(line, &r) == nil && r.Ready {
				c.ready <- r
			}
		}
		_, _ = io.Copy(io.Discard, in)
		c.err = cmd.Wait()
		close(c.done)
	}()
	return c, <-started
}

// end asks the process to end, insists after a while, and waits for it.
func (c *child) end() error {
	select {
	case <-c.done:
		return nil
	default:
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	t := time.NewTimer(stopFor)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // its group: nothing of it stays
		<-c.done
		return fmt.Errorf("it had to be killed: it did not end within %v", stopFor)
	}
	return c.err
}

// tail is the end of the log.
func (c *child) tail() string {
	f, err := os.Open(c.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-tailBytes), io.SeekStart)
	}
	b, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
