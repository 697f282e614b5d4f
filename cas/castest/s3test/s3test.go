// Package s3test runs a real S3 server for tests: versitygw over a folder, on
// a free port of this machine.
package s3test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	// Access and Secret are the server's only account.
	Access = "priormesh-test"
	Secret = "not a secret, a test"

	buildFor = 8 * time.Minute
	startFor = 30 * time.Second
)

// Server is an S3 server. What it keeps lies in Root, a folder for each bucket.
type Server struct {
	Endpoint string
	Root     string

	t       testing.TB
	program string
	args    []string
	cmd     *exec.Cmd
	log     *tail
	waited  chan struct{}
}

var program = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		setup := filepath.Join(dir, "interop", "setup")
		if _, err := os.Stat(setup); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), buildFor)
			defer cancel()
			cmd := exec.CommandContext(ctx, setup, "versitygw")
			var said bytes.Buffer
			cmd.Stderr = &said
			out, err := cmd.Output()
			if err != nil {
				return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
			}
			return strings.TrimSpace(string(out)), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("interop/setup is not above this folder")
		}
	}
})

// Start runs a server until the end of the test. Where there is none to be had
// the test is skipped, but fails with CI=true. args are further ones of its
// posix backend.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	path, err := program()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no S3 server to test with: %v", err)
		}
		t.Skipf("no S3 server to test with: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	s := &Server{t: t, program: path, Endpoint: "http://" + addr, Root: t.TempDir(), log: new(tail)}
	s.args = append([]string{"--port", addr, "--access", Access, "--secret", Secret, "--quiet", "--keep-alive", "posix"}, append(args, s.Root)...)
	t.Cleanup(s.Stop)
	s.Start()
	return s
}

// Start runs a server that was stopped, where it was.
func (s *Server) Start() {
	s.t.Helper()
	s.cmd = exec.Command(s.program, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = endWithParent()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.waited = make(chan struct{})
	go func(cmd *exec.Cmd, waited chan struct{}) {
		cmd.Wait()
		close(waited)
	}(s.cmd, s.waited)
	for deadline := time.Now().Add(startFor); ; time.Sleep(20 * time.Millisecond) {
		res, err := http.Get(s.Endpoint + "/")
		if err == nil {
			res.Body.Close()
			return
		}
		select {
		case <-s.waited:
			s.t.Fatalf("the S3 server has ended: %s", s.log)
		default:
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the S3 server does not answer: %v\n%s", err, s.log)
		}
	}
}

// Stop kills the server, as a crash would.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.waited
	s.cmd = nil
}

// Client is a client of the server that is not ours.
func (s *Server) Client() *minio.Client {
	s.t.Helper()
	c, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(Access, Secret, "")})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// Bucket makes a bucket.
func (s *Server) Bucket(name string, locked bool) string {
	s.t.Helper()
	if err := s.Client().MakeBucket(context.Background(), name, minio.MakeBucketOptions{ObjectLocking: locked}); err != nil {
		s.t.Fatalf("%v\n%s", err, s.log)
	}
	return name
}

// tail keeps the last of what a process says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

var _ io.Writer = (*tail)(nil)

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if n := len(l.b) - 8192; n > 0 {
		l.b = l.b[n:]
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}
