package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"
)

const (
	inStudy  = 32  // instances
	studies  = 48  // 0.5 MB an instance: 800 MB
	perPost  = 8   // instances in a STOW-RS request
	mega     = 1e6 // what MB means here
	allParts = "rates,share,space,idle"
)

var (
	dir           = flag.String("dir", os.TempDir(), "`folder` on the disk to measure; about 3 GB are used and given back")
	span          = flag.Duration("time", 2*time.Second, "how long each way is written to, with each number of writers, in each round")
	rounds        = flag.Int("rounds", 2, "rounds; the table shows the slowest and the fastest")
	ct            = flag.String("ct", "../shared/testdata/dicom/fo-dicom/GH1308.dcm", "a CT `file` of 512 x 512 samples of 16 bits, Explicit VR Little Endian, that all instances are made from; one is made up if there is none")
	only          = flag.String("only", allParts, "`parts` to run: rates, share, space, idle")
	writerNumbers = flag.String("writers", "1,4,16", "`numbers` of writers")
	ways          = flag.String("ways", "", "`ways` of the rates to run, by the words in their names; empty: all")
	program       = flag.String("program", "", "a `priormesh` to measure over HTTP; empty: it is built")
	cpu           = flag.String("cpuprofile", "", "keep the CPU profile of the share part in this `file`")
)

// commands are what the program does beside the store, and the processes that
// a measurement starts of itself.
var commands map[string]func(context.Context, []string) error

func init() {
	commands = map[string]func(context.Context, []string) error{
		"index":          measureIndex,
		"index-answer":   runPart(confined(answerPart)),
		"index-take":     runPart(confined(takePart)),
		"index-rest":     runPart(confined(restPart)),
		"index-ask":      runPart(confined(askPart)),
		"index-snapshot": runPart(confined(snapshotPart)),
		"transfer":       measureTransfer,
		"transfer-node":  runPart(nodePart),
		"transfer-give":  runPart(givePart),
		"transfer-take":  runPart(bareTakePart),
	}
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	do := measure
	if len(os.Args) > 1 && commands[os.Args[1]] != nil {
		do = func(ctx context.Context) error { return commands[os.Args[1]](ctx, os.Args[2:]) }
	} else {
		flag.Parse()
	}
	if err := do(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	dir     string
	model   model
	studies []study
}

func measure(ctx context.Context) (err error) {
	root, err := os.MkdirTemp(*dir, "priormesh-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	built, err := priormesh()
	if err != nil {
		return err
	}
	if *program == "" {
		defer os.RemoveAll(filepath.Dir(built))
	}
	b := &bench{dir: root}
	if b.model, err = openModel(*ct); err != nil {
		return err
	}
	b.studies, err = writeStudies(filepath.Join(root, "in"), 1, studies, inStudy, b.model.slice)
	if err != nil {
		return err
	}
	syscall.Sync()
	one, err := os.ReadFile(b.studies[0].files[0])
	if err != nil {
		return err
	}
	fmt.Printf("%d CT instances of %d bytes in studies of %d, made from %s; zstd makes one %.2f times smaller, the original %.2f times.\n%s, %d CPUs, folder %s.\n",
		studies*inStudy, len(one), inStudy, b.model.from, smaller(one), smaller(b.model.file), cpuName(), runtime.NumCPU(), *dir)
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"rates", b.rates}, {"share", b.share}, {"space", b.space}, {"idle", b.idle}} {
		if !slices.Contains(strings.Split(*only, ","), part.name) {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

func cpuName() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimLeft(strings.TrimSpace(name), ": \t")
		}
	}
	return runtime.GOARCH
}

// rate is one measurement.
type rate struct {
	instances int64
	bytes     int64
	took      time.Duration
}

func (r rate) mb() float64  { return float64(r.bytes) / mega / r.took.Seconds() }
func (r rate) ips() float64 { return float64(r.instances) / r.took.Seconds() }

// fill has writers put studies into a store until the time is up or there
// are none left. Each takes one study after the other.
func fill(ctx context.Context, s store, from []study, batch, writers int, span time.Duration) (rate, error) {
	var (
		next             atomic.Int64
		instances, bytes atomic.Int64
		wg               sync.WaitGroup
		errs             = make([]error, writers)
	)
	began := time.Now()
	for w := range writers {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(from) {
					return
				}
				st := from[n]
				for files := range slices.Chunk(st.files, batch) {
					if time.Since(began) > span || ctx.Err() != nil {
						return
					}
					if errs[w] = s.put(ctx, files); errs[w] != nil {
						return
					}
					instances.Add(int64(len(files)))
					bytes.Add(st.bytes * int64(len(files)) / int64(len(st.files)))
				}
			}
		})
	}
	wg.Wait()
	return rate{instances.Load(), bytes.Load(), time.Since(began)}, errors.Join(append(errs, ctx.Err())...)
}

// into opens a store in a folder of its own for as long as do runs.
func (b *bench) into(ctx context.Context, w way, do func(s store) error) error {
	dir, err := os.MkdirTemp(b.dir, "store-")
	if err != nil {
		return err
	}
	s, err := w.open(ctx, dir)
	if err == nil {
		err = errors.Join(do(s), s.close())
	}
	err = errors.Join(err, os.RemoveAll(dir))
	syscall.Sync() // what one leaves unwritten must not slow the next
	return err
}

var allWays = []way{
	{"plain files", perPost, 0, "each file synced, its folder every 8", openPlain},
	{"Priormesh in process", perPost, 0, "the archive without HTTP", openInside},
	{"Priormesh STOW-RS", perPost, 0, "8 instances a request", openSTOW},
	{"Orthanc STOW-RS", perPost, 0, "8 instances a request, the same client", openOrthancSTOW},
	{"Orthanc C-STORE", inStudy, 0, "storescu, 32 instances an association", openOrthancCStore},
	{"Kubo ipfs add", inStudy, 4, "32 files a command, daemon offline", openKubo},
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// rates prints the table of durable ingest.
func (b *bench) rates(ctx context.Context) error {
	var writers []int
	for _, n := range strings.Split(*writerNumbers, ",") {
		v, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		writers = append(writers, v)
	}
	got := map[string]map[int][]rate{}
	absent := map[string]bool{}
	for range *rounds {
		for _, n := range writers {
			for _, w := range allWays {
				if absent[w.name] || *ways != "" && !strings.Contains(w.name, *ways) || w.most > 0 && n > w.most {
					continue
				}
				err := b.into(ctx, w, func(s store) error {
					r, err := fill(ctx, s, b.studies, w.batch, n, *span)
					if got[w.name] == nil {
						got[w.name] = map[int][]rate{}
					}
					got[w.name][n] = append(got[w.name][n], r)
					return err
				})
				if errors.Is(err, errAbsent) {
					absent[w.name] = true
				} else if err != nil {
					return fmt.Errorf("%s with %d writers: %w", w.name, n, err)
				}
			}
		}
	}
	fmt.Printf("\nIngest, MB/s (instances/s), slowest to fastest of %d rounds of %v\n", *rounds, *span)
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "way in")
	for _, n := range writers {
		fmt.Fprintf(t, "\t%d writer%s", n, plural(n))
	}
	fmt.Fprintln(t, "\thow")
	best := func(name string, n int) (m float64) {
		for _, r := range got[name][n] {
			m = max(m, r.mb())
		}
		return m
	}
	for _, w := range allWays {
		if absent[w.name] {
			fmt.Fprintf(t, "%s\tnot installed\n", w.name)
			continue
		}
		if got[w.name] == nil {
			continue
		}
		fmt.Fprint(t, w.name)
		for _, n := range writers {
			all := got[w.name][n]
			if len(all) == 0 {
				fmt.Fprint(t, "\t-")
				continue
			}
			slices.SortFunc(all, func(x, y rate) int { return int(x.mb()*1000 - y.mb()*1000) })
			lo, hi := all[0], all[len(all)-1]
			fmt.Fprintf(t, "\t%.0f-%.0f (%.0f-%.0f)", lo.mb(), hi.mb(), lo.ips(), hi.ips())
		}
		fmt.Fprintf(t, "\t%s\n", w.note)
	}
	for _, name := range []string{"Priormesh STOW-RS", "Priormesh in process"} {
		if got[name] == nil || got["Orthanc STOW-RS"] == nil && got["Orthanc C-STORE"] == nil {
			continue
		}
		fmt.Fprintf(t, "%s / Orthanc's faster way", name)
		for _, n := range writers {
			fmt.Fprintf(t, "\t%.1f times", best(name, n)/max(best("Orthanc STOW-RS", n), best("Orthanc C-STORE", n)))
		}
		fmt.Fprintln(t, "\tthe fastest of each")
	}
	return t.Flush()
}
