package mesh

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// countingScope counts what is reserved for a peer.
type countingScope struct {
	*network.NullScope
	reserved *atomic.Int64
}

func (s countingScope) BeginSpan() (network.ResourceScopeSpan, error) { return s, nil }

func (s countingScope) ReserveMemory(n int, _ uint8) error { s.reserved.Add(int64(n)); return nil }

// A sender may have a window on its way from the beginning, and no more until
// somebody reads; and all of it is counted as the peer's.
func TestStreamWindow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, ok := <-accepted
	if !ok {
		t.Fatal("nothing was accepted")
	}
	var reserved atomic.Int64
	client, err := newMuxer().NewConn(near, false, countingScope{&network.NullScope{}, new(atomic.Int64)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := newMuxer().NewConn(far, true, countingScope{&network.NullScope{}, &reserved})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s, err := client.OpenStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.AcceptStream(); err != nil {
		t.Fatal(err)
	}
	if err := s.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := s.Write(make([]byte, 4*streamWindow))
	if late := net.Error(nil); !errors.As(err, &late) || !late.Timeout() {
		t.Fatalf("%d bytes could be written that nobody read: %v", n, err)
	}
	if n != streamWindow {
		t.Errorf("%d bytes could be written that nobody read, want %d", n, streamWindow)
	}
	if got := reserved.Load(); got != streamWindow {
		t.Errorf("%d bytes were reserved for them", got)
	}
}
