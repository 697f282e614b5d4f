package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	pace "golang.org/x/time/rate"

	"github.com/priormesh/priormesh/simulations/synthetic"
)

// relay is a link of limited rate between two sockets on loopback.
type relay struct {
	l        net.Listener
	to       string
	rate     float64 // bytes a second, each way
	up, down atomic.Int64
	wg       sync.WaitGroup
}

func newRelay(ctx context.Context, to string, rate float64) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{l: l, to: to, rate: rate}
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

func (r *relay) carry(ctx context.Context, c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer s.Close()
	var wg sync.WaitGroup
	one := func(to, from net.Conn, count *atomic.Int64) {
		// Small buffers, or what the kernel holds would hide the rate.
		const piece = 16 << 10
		bucket := pace.NewLimiter(pace.Limit(r.rate), piece)
		buf := make([]byte, piece)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				if bucket.WaitN(ctx, n) != nil {
					break
				}
				count.Add(int64(n))
				if _, werr := to.Write(buf[:n]); werr != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		if t, ok := to.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
	}
	wg.Go(func() { one(s, c, &r.up) })
	wg.Go(func() { one(c, s, &r.down) })
	wg.Wait()
}

func (r *relay) close() error {
	err := r.l.Close()
	r.wg.Wait()
	return err
}

// wires fills an empty node from a full one over a link of limited rate.
func (b *indexBench) wires(ctx context.Context, n *filled) error {
	fmt.Fprintf(b.out, "\nAn empty node beside one of %d studies, over %.0f Mbit/s: the step machine and the index of each in a process of its own\n", n.region.Studies, b.rate)
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "messages\tfor\tbytes a study on the wire\tlink used\tcame twice\tstudies/s\tthe new node's CPUs\tthe old one's\tbound by")
	type run struct {
		name  string
		spent map[string]time.Duration
		facts int
	}
	var runs []run
	for _, packed := range []bool{false, true} {
		name := map[bool]string{false: "as they are", true: "packed, as the mesh sends them"}[packed]
		l, sent, carried, profiled, err := b.bootstrap(ctx, n, packed)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		used := float64(carried) * 8 / (b.rate * 1e6) / l.Take.Seconds()
		busy := l.TakeCPU.Seconds() / l.Take.Seconds()
		bound := "the link"
		var spent map[string]time.Duration
		if _, err := exec.LookPath("go"); err == nil {
			if spent, err = profile(ctx, profiled, indexKinds); err != nil {
				return err
			}
		}
		if used < linkIsBound {
			verify := spent["signatures (Ed25519)"] + spent["hashes (SHA-256)"]
			bound = "the new node's " + largest(spent, verify)
		}
		fmt.Fprintf(t, "%s\t%.1f s\t%.0f\t%.0f %%\t%.1f %%\t%.0f\t%.2f busy\t%.2f busy\t%s\n", name, l.Take.Seconds(), float64(carried)/float64(n.region.Studies), 100*used, 100*float64(l.Twice)/float64(l.Facts),
			float64(n.region.Studies)/l.Take.Seconds(), busy, sent.TakeCPU.Seconds()/l.Take.Seconds(), bound)
		runs = append(runs, run{name, spent, l.Facts})
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range runs {
		if r.spent != nil {
			b.printSpent("The new node's CPU time, "+r.name, r.spent, r.facts)
		}
	}
	return nil
}

// largest names what takes most of the time, signatures and hashes together as verification.
func largest(spent map[string]time.Duration, verify time.Duration) string {
	most, name := verify, "verification"
	for _, k := range byCount(spent) {
		if k != "signatures (Ed25519)" && k != "hashes (SHA-256)" && spent[k] > most {
			most, name = spent[k], k
		}
	}
	return name
}

func (b *indexBench) bootstrap(ctx context.Context, n *filled, packed bool) (l, sent loaded, carried int64, profiled string, err error) {
	dir, err := os.MkdirTemp(b.dir, "wire-")
	if err != nil {
		return l, sent, 0, "", err
	}
	port, err := freePort()
	if err != nil {
		return l, sent, 0, "", err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	own := synthetic.Trusts()[0].ID
	old, err := b.start(ctx, "index-answer", part{Region: n.region, Trust: own, Home: n.home, Network: "tcp", Addr: addr, Packed: packed}, true)
	if err != nil {
		return l, sent, 0, "", err
	}
	r, err := newRelay(ctx, addr, b.rate*1e6/8)
	if err != nil {
		_ = old.kill()
		return l, sent, 0, "", err
	}
	profiled = filepath.Join(b.dir, filepath.Base(dir)+".cpu")
	young, err := b.start(ctx, "index-take", part{Region: n.region, Trust: newcomer, Home: filepath.Join(dir, "index"), Logs: n.logs, Network: "tcp", Addr: r.l.Addr().String(),
		Packed: packed, Profile: profiled}, false)
	if err == nil {
		err = young.wait(&l)
	}
	if err != nil {
		_ = old.kill()
		_ = r.close()
		return l, sent, 0, "", err
	}
	if err := old.wait(&sent); err != nil {
		_ = r.close()
		return l, sent, 0, "", err
	}
	if err := r.close(); err != nil {
		return l, sent, 0, "", err
	}
	return l, sent, r.down.Load(), profiled, os.RemoveAll(dir)
}
