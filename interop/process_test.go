package interop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/priormesh/priormesh/simulations/link"
)

// How long things may take before a test gives up. They are generous because
// two cores may be running everything else at the same time; no test passes
// because of them.
const (
	startDeadline = 60 * time.Second
	stopDeadline  = 30 * time.Second
	runDeadline   = 2 * time.Minute
)

// tail is how much of a process's output a failed test shows.
const tail = 8 << 10

// process is a running program whose output is kept.
type process struct {
	name           string
	stdout, stderr string // files
	cmd            *exec.Cmd
	done           chan struct{} // closed when it has ended
	err            error         // its end; read after done
}

// start runs a program until the test ends or the test ends it.
func start(t testing.TB, name, program string, args ...string) *process {
	t.Helper()
	return startIn(t, nil, name, program, args...)
}

// startIn starts a program in a place; nil: here.
func startIn(t testing.TB, place *link.Place, name, program string, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{name: name, stdout: filepath.Join(dir, "stdout"), stderr: filepath.Join(dir, "stderr"),
		cmd: exec.Command(program, args...), done: make(chan struct{})}
	cmd := p.cmd
	for path, to := range map[string]*io.Writer{p.stdout: &cmd.Stdout, p.stderr: &cmd.Stderr} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		*to = f
	}
	cmd.SysProcAttr = endWithParent()
	if err := place.Do(cmd.Start); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		if p.running() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-p.done:
			case <-time.After(stopDeadline):
				t.Errorf("%s (process %d) did not end within %v of SIGTERM", name, cmd.Process.Pid, stopDeadline)
				p.kill(t)
			}
		}
		// A soak's programs look for these themselves.
		if strings.Contains(read(t, p.stderr), "WARNING: DATA RACE") {
			t.Errorf("%s (process %d) had a data race", name, cmd.Process.Pid)
		}
		if t.Failed() {
			t.Logf("---- end of the output of %s (process %d)\n%s%s", name, cmd.Process.Pid, end(p.stdout), end(p.stderr))
		}
	})
	return p
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the process to end and insists on exit code 0.
func (p *process) stop(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("%s had ended before it was asked to: %v", p.name, p.err)
	}
	select {
	case <-p.done:
	case <-time.After(stopDeadline):
		t.Fatalf("%s did not end within %v of SIGTERM", p.name, stopDeadline)
	}
	if p.err != nil {
		t.Fatalf("%s after SIGTERM: %v, want exit code 0", p.name, p.err)
	}
}

// kill ends the process as a power cut would, as far as the process can tell.
func (p *process) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("%s: %v", p.name, err)
	}
	<-p.done
}

// read is what the process has written so far to one of its outputs.
func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// end is the last of an output.
func end(path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-tail):]
}

// peakRSS is the largest resident size the process has had (VmHWM), in bytes.
// It is gone when the process is.
func peakRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if kb, ok := strings.CutPrefix(s.Text(), "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}

// result is how a command that was run to its end ended.
type result struct {
	stdout, stderr string
	code           int
}

// try runs a command to its end and returns what it printed, whatever its exit code.
func try(t testing.TB, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = endWithParent()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s %s did not end within %v\n%s%s", program, strings.Join(args, " "), runDeadline, r.stdout, r.stderr)
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		t.Fatalf("%s: %v", program, err)
	}
	return r
}

// must runs a command to its end and insists on exit code 0.
func must(t testing.TB, program string, args ...string) string {
	t.Helper()
	r := try(t, program, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", program, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// eventually waits until check is satisfied. What check returned last is in
// the failure, so it says what was true instead.
func eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	const pause = 50 * time.Millisecond
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
		time.Sleep(pause)
	}
}

var (
	handedOut   = map[int]bool{}
	handedOutMu sync.Mutex
)

// freePort is a TCP port of loopback that nothing listens on and that this
// run has not given to anybody before.
func freePort(t testing.TB) int {
	t.Helper()
	handedOutMu.Lock()
	defer handedOutMu.Unlock()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if !handedOut[port] {
			handedOut[port] = true
			return port
		}
	}
}
