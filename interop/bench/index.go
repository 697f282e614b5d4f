package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/simulations/synthetic"
)

const (
	indexParts  = "load,disk,query,memory,wire,pages,orthanc"
	smallRegion = 100_000 // what lookups are compared with
	loadLimit   = 2 << 30
	serveLimit  = 3 << 29
	diskTarget  = 400 // bytes a study
	ratioTarget = 2.0
	linkIsBound = 0.9 // of its rate
)

type indexBench struct {
	dir     string // removed at the end
	kept    string // a folder whose index is used again, or made
	region  synthetic.Options
	small   int
	batch   int
	draws   int
	each    time.Duration
	parts   []string
	rate    float64 // Mbit/s
	orthanc int
	profile string
	out     io.Writer
}

func measureIndex(ctx context.Context, args []string) (err error) {
	set := flag.NewFlagSet("index", flag.ContinueOnError)
	b := &indexBench{out: os.Stdout}
	var (
		dir     = set.String("dir", os.TempDir(), "`folder` on the disk to measure; about 2 KB a study are used and given back")
		studies = set.Int("studies", 1_000_000, "studies in the region")
		seed    = set.Uint64("seed", 1, "of the region")
		only    = set.String("only", indexParts, "`parts` to run: "+indexParts)
	)
	set.IntVar(&b.small, "small", smallRegion, "studies in the region that lookups are compared with")
	set.IntVar(&b.batch, "batch", index.MaxFacts, "facts in a batch of a log; a node that takes in studies as they are made has 1 to a few")
	set.IntVar(&b.draws, "draws", 2000, "times each question is asked")
	set.DurationVar(&b.each, "each", 30*time.Second, "at most for one question; the table says how often it was asked")
	set.Float64Var(&b.rate, "rate", 100, "of the link of the wire part, in `Mbit/s`")
	set.IntVar(&b.orthanc, "orthanc", 10_000, "`studies` that Orthanc and a node are asked about over HTTP")
	set.StringVar(&b.kept, "kept", "", "ask the index that an earlier run left in this `folder`; without one there, it is loaded and left there")
	set.StringVar(&b.profile, "cpuprofile", "", "keep the CPU profile of the load in this `file`")
	if err := set.Parse(args); err != nil {
		return err
	}
	b.parts = strings.Split(*only, ",")
	for _, p := range b.parts {
		if !slices.Contains(strings.Split(indexParts, ","), p) {
			return fmt.Errorf("there is no part %q, only %s", p, indexParts)
		}
	}
	if b.batch < 1 || b.batch > index.MaxFacts || b.draws < 1 || b.rate <= 0 {
		return fmt.Errorf("want a batch of 1 to %d, draws and a rate", index.MaxFacts)
	}
	b.region = synthetic.Defaults(*studies)
	b.region.Seed = *seed
	if b.dir, err = os.MkdirTemp(*dir, "priormesh-index-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	return b.run(ctx)
}

func (b *indexBench) has(parts ...string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return slices.Contains(b.parts, p) })
}

func (b *indexBench) run(ctx context.Context) error {
	fmt.Fprintf(b.out, "The index, %d studies, seed %d, %d facts a batch. %s, %d CPUs, folder %s.\n",
		b.region.Studies, b.region.Seed, b.batch, cpuName(), runtime.NumCPU(), filepath.Dir(b.dir))
	if b.has("load", "disk", "query", "memory", "wire") {
		var small *told
		if b.has("query") && b.small > 0 && b.small < b.region.Studies {
			opt := b.region
			opt.Studies = b.small
			n, err := b.load(ctx, filepath.Join(b.dir, "small"), opt, "")
			if err != nil {
				return err
			}
			if small, err = b.ask(ctx, n, false); err != nil {
				return err
			}
			if err := os.RemoveAll(filepath.Join(b.dir, "small")); err != nil {
				return err
			}
		}
		n, err := b.large(ctx)
		if err != nil {
			return err
		}
		if b.has("query") {
			large, err := b.ask(ctx, n, false)
			if err != nil {
				return err
			}
			b.printAsked(n, large, small)
		}
		if b.has("memory") {
			tight, err := b.ask(ctx, n, true)
			if err != nil {
				return err
			}
			b.printTight(n, tight)
		}
		if b.has("wire") {
			if err := b.wires(ctx, n); err != nil {
				return fmt.Errorf("wire: %w", err)
			}
		}
		if b.kept == "" {
			if err := os.RemoveAll(filepath.Join(b.dir, "large")); err != nil {
				return err
			}
		}
	}
	if b.has("pages") {
		if err := b.pages(ctx); err != nil {
			return fmt.Errorf("pages: %w", err)
		}
	}
	if b.has("orthanc") {
		if err := b.beside(ctx); err != nil {
			return fmt.Errorf("orthanc: %w", err)
		}
	}
	return nil
}

// large loads the region, unless an index of it was kept.
func (b *indexBench) large(ctx context.Context) (*filled, error) {
	if b.kept == "" {
		n, err := b.load(ctx, filepath.Join(b.dir, "large"), b.region, b.profile)
		if err != nil {
			return nil, err
		}
		return n, b.printLoad(ctx, n)
	}
	want, err := json.Marshal(b.region)
	if err != nil {
		return nil, err
	}
	switch said, err := os.ReadFile(filepath.Join(b.kept, keptRegion)); {
	case err == nil && !bytes.Equal(said, want):
		return nil, fmt.Errorf("-kept: the index in %s is of another region, %s; asked for is %s", b.kept, said, want)
	case err == nil:
		fmt.Fprintf(b.out, "\nNot loaded: the index in %s is used again\n", b.kept)
		return filledIn(b.kept, b.region), nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := os.Remove(b.kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("-kept: there is no index that this command left, but something else: %w", err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(b.kept), filepath.Base(b.kept)+"-")
	if err != nil {
		return nil, err
	}
	n, err := b.load(ctx, dir, b.region, b.profile)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, keptRegion), want, 0o644)
	}
	if err == nil {
		err = os.Rename(dir, b.kept)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	at := filledIn(b.kept, b.region)
	n.logs, n.home, n.profile = at.logs, at.home, cmp.Or(b.profile, filepath.Join(b.kept, "cpu"))
	return n, b.printLoad(ctx, n)
}

// The folder of a filled index.
const (
	logsFolder = "logs"
	homeFolder = "index"
	keptRegion = "region.json" // whose it is; in a folder of -kept
)

// filled is a node's index on disk, and how it came there.
type filled struct {
	region   synthetic.Options
	logs     string
	home     string
	facts    int
	made     time.Duration // the logs, before
	loaded   loaded
	resident peaks
	limit    string
	profile  string
	disk     int64 // after a stop
	rested   int64 // after Badger compacted all it could
	asking   peaks
	asklimit string
}

func filledIn(dir string, opt synthetic.Options) *filled {
	return &filled{region: opt, logs: filepath.Join(dir, logsFolder), home: filepath.Join(dir, homeFolder)}
}

func (b *indexBench) load(ctx context.Context, dir string, opt synthetic.Options, profile string) (*filled, error) {
	n := filledIn(dir, opt)
	n.profile = profile
	r, err := synthetic.New(opt)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	own, others, err := writeLogs(ctx, n.logs, r, b.batch)
	if err != nil {
		return nil, err
	}
	n.facts, n.made = own+others, time.Since(began)
	syscall.Sync()
	if n.profile == "" {
		n.profile = filepath.Join(dir, "cpu")
	}
	socket := filepath.Join(dir, "peer")
	var peer *child
	if last := len(r.Trusts()) - 1; last > 0 {
		if peer, err = b.start(ctx, "index-answer", part{Region: opt, Trust: r.Trusts()[last].ID, Logs: n.logs, Network: "unix", Addr: socket}, true); err != nil {
			return nil, err
		}
	}
	limit, why := newBox(loadLimit)
	p := part{Region: opt, Trust: r.Trusts()[0].ID, Home: n.home, Logs: n.logs, Network: "unix", Addr: socket, Own: true, Profile: n.profile}
	err = b.boxed(ctx, "index-take", p, limit, &n.loaded, &n.resident, &n.limit)
	if limit == nil {
		n.limit = why
	}
	if peer != nil && err != nil {
		err = errors.Join(err, peer.kill())
	} else if peer != nil {
		err = peer.wait(nil)
	}
	if err != nil {
		return nil, err
	}
	if n.disk, err = onDisk(n.home); err != nil {
		return nil, err
	}
	if b.has("disk") && opt.Studies == b.region.Studies {
		rest, err := b.start(ctx, "index-rest", part{Region: opt, Home: n.home}, false)
		if err != nil {
			return nil, err
		}
		if err := rest.wait(nil); err != nil {
			return nil, err
		}
		if n.rested, err = onDisk(n.home); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// boxed runs a part in a cgroup, if there is one, and watches its memory.
func (b *indexBench) boxed(ctx context.Context, name string, p part, limit *box, out any, resident *peaks, said *string) error {
	if limit != nil {
		p.Cgroup = limit.dir
	}
	c, err := b.start(ctx, name, p, false)
	if err == nil {
		stop := watch(c.cmd.Process.Pid)
		err = c.wait(out)
		*resident = stop()
	}
	if limit != nil {
		*said = "in a memory cgroup: " + limit.said()
		if err != nil {
			err = fmt.Errorf("%w (%s)", err, *said)
		}
		err = errors.Join(err, limit.close())
	}
	return err
}

// start starts a part of this measurement.
func (b *indexBench) start(ctx context.Context, name string, p part, listens bool) (*child, error) {
	p.Draws, p.Each = b.draws, b.each
	return startChild(ctx, nil, name, p, listens)
}

// Where the CPU time of an index goes.
var indexKinds = []kind{
	{"signatures (Ed25519)", []string{"crypto/ed25519", "crypto/internal/fips140/ed25519", "crypto/internal/fips140/edwards25519"}},
	{"hashes (SHA-256)", []string{"crypto/sha256", "crypto/internal/fips140/sha256"}},
	{"CBOR", []string{"github.com/fxamacker/cbor"}},
	{"zstd (Badger's blocks, packed messages)", []string{"github.com/klauspost/compress/zstd"}},
	{"Badger", []string{"github.com/dgraph-io"}},
	{"names (folding)", []string{module + "dicom.", "golang.org/x/text"}},
	{"the index", []string{module + "index."}},
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcAssistAlloc"}},
	{"the connection, reading what to say", []string{"main.", "net.", "bufio.", "os."}},
}

func (b *indexBench) printLoad(ctx context.Context, n *filled) error {
	l := n.loaded
	studies := float64(n.region.Studies)
	fmt.Fprintf(b.out, "\nLoad: %d facts of %d studies; the logs were made before, in %.1f s. Opened in %v\n", n.facts, n.region.Studies, n.made.Seconds(), l.Open.Round(time.Millisecond))
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tfacts\tfacts/s\tCPU a fact, µs\tCPUs busy\tfor")
	row := func(what string, facts int, took, cpu time.Duration, rest string) {
		f := float64(max(facts, 1))
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.1f\t%.2f\t%.1f s%s\n", what, facts, f/took.Seconds(), float64(cpu.Microseconds())/f, cpu.Seconds()/took.Seconds(), took.Seconds(), rest)
	}
	row("others' logs, from a peer", l.Facts, l.Take, l.TakeCPU, fmt.Sprintf(" (%d batches, %.0f bytes of messages a fact; %d facts came twice)", l.Batches, float64(l.Received)/float64(max(l.Facts+l.Twice, 1)), l.Twice))
	row("own, appended", l.Own, l.Append, l.AppendCPU, "")
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "%.0f studies/s in all\n", studies/(l.Take+l.Append).Seconds())
	fmt.Fprintf(b.out, "Resident while loading, at most: %v; target < %d MiB; %s\n", n.resident, loadLimit>>20, n.limit)
	fmt.Fprintf(b.out, "On disk after a stop: %.0f bytes a study (%.1f MB)", float64(n.disk)/studies, float64(n.disk)/mega)
	if n.rested > 0 {
		fmt.Fprintf(b.out, "; compacted: %.0f (%.1f MB)", float64(n.rested)/studies, float64(n.rested)/mega)
	}
	fmt.Fprintf(b.out, "; target < %d\n", diskTarget)
	if _, err := exec.LookPath("go"); err != nil {
		fmt.Fprintln(b.out, "Where the CPU time went is not shown: reading a profile needs the go command")
		return nil
	}
	spent, err := profile(ctx, n.profile, indexKinds)
	if err != nil {
		return err
	}
	b.printSpent("The load's CPU time", spent, n.facts)
	return nil
}

func (b *indexBench) printSpent(what string, spent map[string]time.Duration, facts int) {
	var all time.Duration
	for _, d := range spent {
		all += d
	}
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\tof it\tµs a fact\n", what)
	for _, name := range byCount(spent) {
		fmt.Fprintf(t, "%s\t%.1f %%\t%.1f\n", name, 100*float64(spent[name])/float64(max(all, 1)), float64(spent[name].Microseconds())/float64(max(facts, 1)))
	}
	t.Flush()
}

// ask asks a node's index in a process of its own: where the page cache has room for the files, or confined to so much memory with what
// the cache keeps for it, and with nothing of it there at first.
func (b *indexBench) ask(ctx context.Context, n *filled, tight bool) (*told, error) {
	out := new(told)
	var limit *box
	n.asklimit = "with room for its files in the page cache"
	if tight {
		if err := forget(n.home); err != nil {
			return nil, err
		}
		var why string
		if limit, why = newBox(serveLimit); limit == nil {
			n.asklimit = why
		}
	} else if err := warm(n.home); err != nil {
		return nil, err
	}
	return out, b.boxed(ctx, "index-ask", part{Region: n.region, Trust: synthetic.Trusts()[0].ID, Home: n.home}, limit, out, &n.asking, &n.asklimit)
}

func (b *indexBench) printAsked(n *filled, large, small *told) {
	fmt.Fprintf(b.out, "\nQuestions to an index of %d studies, in process, in ms; opened in %v\n", n.region.Studies, large.Open.Round(time.Millisecond))
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "question\tasked\tstudies\tp50\tp99\tmost\ttarget")
	if small != nil {
		fmt.Fprintf(t, "\tp99 at %d\tratio", b.small)
	}
	fmt.Fprintln(t)
	for i, a := range large.Asked {
		gave := ""
		if a.GaveUp > 0 {
			gave = fmt.Sprintf(" (%d given up)", a.GaveUp)
		}
		fmt.Fprintf(t, "%s\t%d\t%.1f%s\t%s\t%s\t%s\t%s", a.Name, a.Draws, a.Found, gave, inMS(a.P50), inMS(a.P99), inMS(a.Max), a.Target)
		if small != nil {
			s := small.Asked[i]
			fmt.Fprintf(t, "\t%s\t%.1f", inMS(s.P99), float64(a.P99)/float64(max(s.P99, 1)))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	if small != nil {
		fmt.Fprintf(b.out, "Target for lookups of a patient: a ratio of at most %.0f\n", ratioTarget)
	}
	b.printResident(n)
}

func (b *indexBench) printResident(n *filled) {
	fmt.Fprintf(b.out, "Resident while asked, at most: %v; target < %d MiB; %s\n", n.asking, serveLimit>>20, n.asklimit)
}

// printTight prints what it costs to have less memory than files.
func (b *indexBench) printTight(n *filled, tight *told) {
	fmt.Fprintf(b.out, "\nThe same questions with %d MiB for the node and for what the page cache keeps for it, in ms; opened in %v\n", serveLimit>>20, tight.Open.Round(time.Millisecond))
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "question\tasked\tp50\tp99\tmost")
	for _, a := range tight.Asked {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", a.Name, a.Draws, inMS(a.P50), inMS(a.P99), inMS(a.Max))
	}
	t.Flush()
	b.printResident(n)
}

func inMS(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }
