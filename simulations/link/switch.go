package link

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// ErrRights says that this process may not make places.
var ErrRights = errors.New("network namespaces and tun devices, which places are made of, need Linux and root")

// lane is one direction of a place's line.
type lane struct {
	mu      sync.Mutex
	shape   *Shape
	now     func() time.Time
	held    chan chunk
	next    func(packet []byte)
	cut     atomic.Bool
	carried atomic.Int64 // bytes
	lost    atomic.Int64 // packets
}

// laneHolds is how many packets are on their way at most: 100 Mbit/s over a second.
const laneHolds = 1 << 14

func newLane(now func() time.Time, next func([]byte)) *lane {
	return &lane{shape: NewShape(Line{}, nil), now: now, held: make(chan chunk, laneHolds), next: next}
}

func (l *lane) set(s *Shape) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.free = l.shape.free
	l.shape = s
}

// pass takes a packet, which is the lane's from then on.
func (l *lane) pass(packet []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.shape.Pass(l.now(), len(packet))
	if ok && !l.cut.Load() {
		select {
		case l.held <- chunk{at, packet}:
			return
		default:
		}
	}
	l.lost.Add(1)
}

// run hands packets on in their time.
func (l *lane) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-l.held:
			if sleep(ctx, c.at.Sub(l.now())) != nil {
				return
			}
			if l.cut.Load() {
				l.lost.Add(1)
				continue
			}
			l.carried.Add(int64(len(c.b)))
			l.next(c.b)
		}
	}
}

// Traffic is what a place's line has carried.
type Traffic struct {
	Up, Down         int64 // bytes of packets, headers included
	LostUp, LostDown int64 // packets, by the line or its full queue, and while it was cut
}

// forward carries connections to a port of loopback here to the same port of
// loopback in the place.
func (p *Place) forward(ctx context.Context, l net.Listener, port int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			in, err := p.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				return
			}
			defer in.Close()
			defer context.AfterFunc(ctx, func() { c.Close(); in.Close() })()
			var both sync.WaitGroup
			one := func(to, from net.Conn) {
				_, err := io.Copy(to, from)
				if t, ok := to.(*net.TCPConn); ok && err == nil {
					_ = t.CloseWrite()
				} else {
					to.Close()
				}
			}
			both.Go(func() { one(in, c) })
			both.Go(func() { one(c, in) })
			both.Wait()
		})
	}
}
