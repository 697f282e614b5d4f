package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/priormesh/priormesh/simulations/link"
	"github.com/priormesh/priormesh/simulations/synthetic"
)

// pages fills an empty node from one whose log begins with a snapshot: the log of one trust that has said everything.
func (b *indexBench) pages(ctx context.Context) error {
	opt := b.region
	opt.Trusts = synthetic.Trusts()[:1]
	n, err := b.load(ctx, mkdir(b.dir, "pages"), opt, "")
	if err != nil {
		return err
	}
	maker, err := b.start(ctx, "index-snapshot", part{Region: opt, Trust: opt.Trusts[0].ID, Home: n.home}, false)
	if err != nil {
		return err
	}
	var m made
	if err := maker.wait(&m); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\nA snapshot of a log of %d facts about %d studies, made and the log begun with it: %.1f s, %.2f CPUs busy; %d pages, %d facts of %.0f bytes\n",
		n.facts, opt.Studies, m.Took.Seconds(), m.CPU.Seconds()/m.Took.Seconds(), m.Pages, m.Facts, float64(m.Bytes)/float64(m.Facts))
	fmt.Fprintf(b.out, "An empty node takes it up over %.0f Mbit/s\n", b.rate)
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "messages\tfor\tbytes a study on the wire\tlink used\tstudies/s\tthe new node's CPUs\tthe old one's\tbound by")
	l, sent, carried, profiled, err := b.bootstrap(ctx, n, true)
	if err != nil {
		return err
	}
	bound, spent, err := b.bound(ctx, l, carried, profiled)
	if err != nil {
		return err
	}
	fmt.Fprintf(t, "pages, packed\t%.1f s\t%.0f\t%.0f %%\t%.0f\t%.2f busy\t%.2f busy\t%s\n", l.Take.Seconds(), float64(carried)/float64(opt.Studies), 100*b.used(l, carried),
		float64(opt.Studies)/l.Take.Seconds(), l.TakeCPU.Seconds()/l.Take.Seconds(), sent.TakeCPU.Seconds()/l.Take.Seconds(), bound)
	if err := t.Flush(); err != nil {
		return err
	}
	if spent != nil {
		b.printSpent("The new node's CPU time, pages", spent, l.Facts)
	}
	return os.RemoveAll(filepath.Join(b.dir, "pages"))
}

// used is how much of the link was.
func (b *indexBench) used(l loaded, carried int64) float64 {
	return float64(carried) * 8 / (b.rate * 1e6) / l.Take.Seconds()
}

// bound says what a new node was bound by, and where its CPU time went if that can be known.
func (b *indexBench) bound(ctx context.Context, l loaded, carried int64, profiled string) (by string, spent map[string]time.Duration, err error) {
	if _, err := exec.LookPath("go"); err == nil {
		if spent, err = profile(ctx, profiled, indexKinds); err != nil {
			return "", nil, err
		}
	}
	if b.used(l, carried) >= linkIsBound {
		return "the link", spent, nil
	}
	return "the new node's " + largest(spent, spent["signatures (Ed25519)"]+spent["hashes (SHA-256)"]), spent, nil
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
		used := b.used(l, carried)
		busy := l.TakeCPU.Seconds() / l.Take.Seconds()
		bound, spent, err := b.bound(ctx, l, carried, profiled)
		if err != nil {
			return err
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
	own := synthetic.Trusts()[0].ID // of the one that is full
	old, err := b.start(ctx, "index-answer", part{Region: n.region, Trust: own, Home: n.home, Network: "tcp", Addr: addr, Packed: packed}, true)
	if err != nil {
		return l, sent, 0, "", err
	}
	wide := link.Line{Rate: link.Mbit(b.rate)}
	r, err := link.NewRelay(ctx, addr, wide, wide, time.Now)
	if err != nil {
		_ = old.kill()
		return l, sent, 0, "", err
	}
	profiled = filepath.Join(b.dir, filepath.Base(dir)+".cpu")
	young, err := b.start(ctx, "index-take", part{Region: n.region, Trust: newcomer, Home: filepath.Join(dir, "index"), Logs: n.logs, Network: "tcp", Addr: r.Addr(),
		Packed: packed, Profile: profiled}, false)
	if err == nil {
		err = young.wait(&l)
	}
	if err != nil {
		_ = old.kill()
		_ = r.Close()
		return l, sent, 0, "", err
	}
	if err := old.wait(&sent); err != nil {
		_ = r.Close()
		return l, sent, 0, "", err
	}
	if err := r.Close(); err != nil {
		return l, sent, 0, "", err
	}
	_, carried = r.Carried()
	return l, sent, carried, profiled, os.RemoveAll(dir)
}
