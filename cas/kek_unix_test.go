//go:build unix

package cas

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a command has started ends with it, whichever way it ends.
func TestKEKCommandLeavesNothingBehind(t *testing.T) {
	line := strings.TrimSpace(string(testKEK(9).Text()))
	for _, c := range []struct {
		name, then string
		give       bool // the caller gives up
		want       error
	}{
		{"given up", "wait", true, context.Canceled},
		{"ended well", "echo " + line, false, nil},
		{"half a line", "printf %s " + line[:30], false, ErrKEK},
		{"failed", "exit 3", false, ErrKEK},
	} {
		t.Run(c.name, func(t *testing.T) {
			held := filepath.Join(t.TempDir(), "held")
			if err := syscall.Mkfifo(held, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := ParseKEKSource("command", "", []string{"/bin/sh", "-c", "sleep 300 >" + held + " & " + c.then})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			begun, ended := make(chan error, 1), make(chan error, 1)
			go func() {
				f, err := os.Open(held) // waits for the one who writes
				begun <- err
				if err == nil {
					_, err = io.Copy(io.Discard, f) // until nobody holds it
					f.Close()
				}
				ended <- err
			}()
			done := make(chan error, 1)
			go func() {
				k, err := s.Read(ctx)
				if err == nil && !k.Equal(testKEK(9)) {
					err = errors.New("another key")
				}
				done <- err
			}()
			if err := within(t, begun); err != nil {
				t.Fatal(err)
			}
			if c.give {
				cancel()
			}
			if err := within(t, done); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if err := within(t, ended); err != nil {
				t.Error(err)
			}
		})
	}
}

func within(t *testing.T, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(25 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

func TestKEKCommandEndsWithItsCaller(t *testing.T) {
	s, err := ParseKEKSource("command", "", []string{"/bin/sh", "-c", "sleep 300"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Read(ctx); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), kekCommandFor.String()) {
		t.Error(err)
	}
}
