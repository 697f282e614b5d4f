package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Relay is a line of TCP: it listens on loopback and carries what comes to
// another address, all connections over the one line. While it is cut nothing
// passes and nothing ends, as on a cable that somebody has pulled.
type Relay struct {
	l        net.Listener
	to       string
	now      func() time.Time
	up, down *pipe
	stop     context.CancelFunc
	wg       sync.WaitGroup
}

// piece is small, or what is being written would hide the rate.
const piece = 16 << 10

// NewRelay listens on loopback. up is the way from who dials the relay. Close
// ends it. A line of a relay has no loss: see the package.
func NewRelay(ctx context.Context, to string, up, down Line, now func() time.Time) (*Relay, error) {
	if up.Loss != 0 || down.Loss != 0 {
		return nil, errors.New("a relay of streams cannot lose packets; a Switch can")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	r := &Relay{l: l, to: to, now: now, stop: stop, up: newPipe(up), down: newPipe(down)}
	context.AfterFunc(ctx, func() { l.Close() })
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.carry(ctx, c) })
		}
	})
	return r, nil
}

// Addr is where the relay listens.
func (r *Relay) Addr() string { return r.l.Addr().String() }

// Carried is how many bytes have come out at either end.
func (r *Relay) Carried() (up, down int64) { return r.up.carried.Load(), r.down.carried.Load() }

// Cut stops all bytes until Restore.
func (r *Relay) Cut() { r.up.gate.cut(); r.down.gate.cut() }

// Restore lets bytes pass again.
func (r *Relay) Restore() { r.up.gate.restore(); r.down.gate.restore() }

// Close ends the relay and its connections.
func (r *Relay) Close() error {
	r.stop()
	err := r.l.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	r.wg.Wait()
	return err
}

func (r *Relay) carry(ctx context.Context, c net.Conn) {
	defer c.Close()
	s, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.to)
	if err != nil {
		return
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { c.Close(); s.Close() })()
	var wg sync.WaitGroup
	wg.Go(func() { r.up.run(ctx, r.now, s, c) })
	wg.Go(func() { r.down.run(ctx, r.now, c, s) })
	wg.Wait()
}

// pipe is one direction of a relay.
type pipe struct {
	mu      sync.Mutex
	shape   *Shape
	gate    gate
	carried atomic.Int64
}

func newPipe(l Line) *pipe {
	// A piece is not a packet: it waits where a packet would be dropped.
	p := &pipe{shape: NewShape(l, nil)}
	p.gate.restore()
	return p
}

type chunk struct {
	at time.Time
	b  []byte
}

// run carries bytes until either side ends. What is on its way is held here,
// and no more is read than the line has room for.
func (p *pipe) run(ctx context.Context, now func() time.Time, to, from net.Conn) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	onWay := make(chan chunk, 1<<12)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer stop()
		for c := range onWay {
			if sleep(ctx, c.at.Sub(now())) != nil || p.gate.wait(ctx) != nil {
				return
			}
			if _, err := to.Write(c.b); err != nil {
				from.Close() // nobody reads any more: nothing is taken either
				return
			}
			p.carried.Add(int64(len(c.b)))
		}
		if t, ok := to.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
	})
	for buf := make([]byte, piece); ; {
		n, err := from.Read(buf)
		if n > 0 && !p.send(ctx, now, append([]byte(nil), buf[:n]...), onWay) {
			break
		}
		if err != nil {
			break
		}
	}
	close(onWay)
	wg.Wait()
}

func (p *pipe) send(ctx context.Context, now func() time.Time, b []byte, onWay chan<- chunk) bool {
	for {
		p.mu.Lock()
		at := now()
		wait := p.shape.Wait(at, len(b))
		if wait == 0 {
			out, _ := p.shape.Pass(at, len(b))
			p.mu.Unlock()
			select {
			case onWay <- chunk{out, b}:
				return true
			case <-ctx.Done():
				return false
			}
		}
		p.mu.Unlock()
		if sleep(ctx, wait) != nil {
			return false
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gate is open or shut; at first it is shut.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // closed while the gate is open
}

func (g *gate) now() chan struct{} {
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
	return g.opened
}

func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.now():
		g.opened = nil
	default:
	}
}

func (g *gate) restore() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.now():
	default:
		close(g.opened)
	}
}

func (g *gate) wait(ctx context.Context) error {
	g.mu.Lock()
	open := g.now()
	g.mu.Unlock()
	select {
	case <-open:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
