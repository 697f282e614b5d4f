package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Switch carries packets between its places. Each place has an address in
// 10.83.0.0/24, which exists in the places alone.
type Switch struct {
	now  func() time.Time
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.RWMutex
	rand   *rand.Rand // under mu
	places map[netip.Addr]*Place
	closed bool
}

const (
	mtu       = 1500
	tunPacket = 10_000 // packets that wait in the kernel for the switch
	mostHosts = 200
)

// NewSwitch joins nothing yet. rand decides what is lost, now is the clock.
func NewSwitch(rand *rand.Rand, now func() time.Time) (*Switch, error) {
	s := &Switch{now: now, rand: rand, places: make(map[netip.Addr]*Place)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// A Place is a network namespace with a loopback of its own and one line to
// the switch. The methods of a nil Place act where the caller is.
type Place struct {
	s        *Switch
	addr     netip.Addr
	ns       int
	tun      *os.File
	up, down *lane
}

// Place makes a place with a line to the switch. The error is ErrRights if
// this process may not.
func (s *Switch) Place(up, down Line) (*Place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.places) >= mostHosts {
		return nil, errors.New("the switch takes no more places")
	}
	p := &Place{s: s, addr: netip.AddrFrom4([4]byte{10, 83, 0, byte(len(s.places) + 2)})}
	if err := p.make(); err != nil {
		return nil, err
	}
	p.up = newLane(s.now, s.route)
	p.down = newLane(s.now, func(b []byte) { _, _ = p.tun.Write(b) }) // a packet that the place does not take is a lost one
	p.shape(up, down)
	s.places[p.addr] = p
	s.wg.Go(func() { p.up.run(s.ctx) })
	s.wg.Go(func() { p.down.run(s.ctx) })
	s.wg.Go(p.read)
	return p, nil
}

// make makes the namespace.
func (p *Place) make() error {
	return elsewhere(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("%w: %w", ErrRights, err)
		}
		if p.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return errors.Join(fmt.Errorf("%w: %w", ErrRights, err), unix.Close(p.ns))
		}
		if err := p.configure(fd); err != nil {
			return errors.Join(err, unix.Close(fd), unix.Close(p.ns))
		}
		p.tun = os.NewFile(uintptr(fd), "tun")
		return nil
	})
}

// elsewhere runs f, which may change the thread's network namespace, and brings
// the thread back. A thread that ended instead would take with it the processes
// that were started on it to end with their parent (PR_SET_PDEATHSIG counts the
// thread); only one that cannot be brought back does.
func elsewhere(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(here)
			err = f()
			if back := unix.Setns(here, unix.CLONE_NEWNET); back != nil {
				return errors.Join(err, back)
			}
			runtime.UnlockOSThread()
			return err
		}()
	}()
	return <-done
}

func (p *Place) configure(tun int) error {
	const name = "tun0"
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("%w: %w", ErrRights, err)
	}
	if err := unix.SetNonblock(tun, true); err != nil {
		return err
	}
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	mask := [4]byte{255, 255, 255, 0}
	addr := p.addr.As4()
	for _, step := range []struct {
		device  string
		request uint
		set     func(*unix.Ifreq) error
	}{
		{"lo", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
		{name, unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr[:]) }},
		{name, unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask[:]) }},
		{name, unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }},
		{name, unix.SIOCSIFTXQLEN, func(r *unix.Ifreq) error { r.SetUint32(tunPacket); return nil }},
		{name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		ifr, err := unix.NewIfreq(step.device)
		if err != nil {
			return err
		}
		if err := step.set(ifr); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(sock, step.request, ifr); err != nil {
			return fmt.Errorf("the place's device %s: %w", step.device, err)
		}
	}
	return nil
}

// read takes what leaves the place.
func (p *Place) read() {
	buf := make([]byte, 1<<16)
	for {
		n, err := p.tun.Read(buf)
		if err != nil {
			return
		}
		p.up.pass(append([]byte(nil), buf[:n]...))
	}
}

// route brings a packet to the place that it is for. What is for nobody, or is
// not IPv4, is dropped.
func (s *Switch) route(packet []byte) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return
	}
	to := netip.AddrFrom4([4]byte(packet[16:20]))
	s.mu.RLock()
	p := s.places[to]
	s.mu.RUnlock()
	if p != nil {
		p.down.pass(packet)
	}
}

func (p *Place) shape(up, down Line) {
	seed := func() *rand.Rand { return rand.New(rand.NewPCG(p.s.rand.Uint64(), p.s.rand.Uint64())) }
	p.up.set(NewShape(up, seed()))
	p.down.set(NewShape(down, seed()))
}

// Set changes the place's line. What is on its way arrives as it would have.
func (p *Place) Set(up, down Line) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.shape(up, down)
}

// Cut drops every packet, those on their way too, until Restore. Nobody is told.
func (p *Place) Cut() { p.up.cut.Store(true); p.down.cut.Store(true) }

// Restore lets packets pass again.
func (p *Place) Restore() { p.up.cut.Store(false); p.down.cut.Store(false) }

// Addr is the place's address.
func (p *Place) Addr() netip.Addr { return p.addr }

// Traffic is what the line has carried so far.
func (p *Place) Traffic() Traffic {
	return Traffic{Up: p.up.carried.Load(), Down: p.down.carried.Load(), LostUp: p.up.lost.Load(), LostDown: p.down.lost.Load()}
}

// Do runs f in the place: sockets that it makes and processes that it starts
// are the place's. It must do so itself, not by another goroutine.
func (p *Place) Do(f func() error) error {
	if p == nil {
		return f()
	}
	return elsewhere(func() error {
		if err := unix.Setns(p.ns, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// DialContext dials from the place. The address is an IP address and port.
func (p *Place) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = p.Do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens in the place.
func (p *Place) Listen(network, address string) (l net.Listener, err error) {
	err = p.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Forward makes a port of loopback in the place answer on the same port of
// loopback here, past the line, until the switch is closed.
func (p *Place) Forward(port int) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	context.AfterFunc(p.s.ctx, func() { l.Close() })
	p.s.wg.Go(func() { p.forward(p.s.ctx, l, port) })
	return nil
}

// Congestion names how TCP in the place answers loss: "cubic", "bbr", "reno",
// as far as the kernel has them. It counts for connections made later.
func (p *Place) Congestion(name string) error {
	return p.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte(name), 0) })
}

// Close ends all places; processes that run in them are the caller's to end
// before.
func (s *Switch) Close() error {
	s.mu.Lock()
	s.closed = true
	places := s.places
	s.places = nil
	s.mu.Unlock()
	s.stop()
	var errs []error
	for _, p := range places {
		errs = append(errs, p.tun.Close())
	}
	s.wg.Wait()
	for _, p := range places {
		errs = append(errs, unix.Close(p.ns))
	}
	return errors.Join(errs...)
}
