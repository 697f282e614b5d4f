package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// A kind is what time is spent on. A stack is of the first kind of which one of
// its functions is, beginning with the innermost function.
type kind struct {
	name  string
	words []string // beginnings of function names, without the module
}

const module = "github.com/priormesh/priormesh/"

var kinds = []kind{
	{"hash (SHA-256)", []string{"crypto/sha256", "crypto/internal/fips140/sha256"}},
	{"seal (AES-GCM, HMAC)", []string{"crypto/internal/fips140/aes", "crypto/aes", "crypto/cipher", "crypto/hmac", "crypto/internal/fips140/hmac", "crypto/internal/fips140deps/byteorder"}},
	{"compress", []string{"github.com/klauspost/compress", module + "cas.compress", module + "cas.(*codec", module + "cas.encode", module + "cas.codec"}},
	{"blocks on disk (write, sync)", []string{module + "cas.osFile", module + "cas.(*Disk)", module + "cas.(*disk", module + "cas.(*pack", module + "cas.syncData"}},
	{"Badger", []string{"github.com/dgraph-io"}},
	{"scan and meaning of the header", []string{module + "dicom."}},
	{"told to the region (publish, index)", []string{module + "index.", module + "node/archive.(*Archive).publish", module + "node/archive.(*publisher)"}},
	{"HTTP and the network", []string{"net/http", "mime/multipart", "net.", "internal/poll.(*FD).Read", "net/textproto", "bufio."}},
	{"cutting into blocks", []string{module + "cas."}},
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcAssistAlloc"}},
	{"the rest of the archive", []string{module + "node"}},
	{"reading the files", []string{"main.readAll", "os.(*File).Read"}},
}

func kindOf(stack []string) string {
	for _, f := range stack {
		for _, k := range kinds {
			for _, w := range k.words {
				if strings.HasPrefix(f, w) {
					return k.name
				}
			}
		}
	}
	return "other"
}

// share fills a node in this process with four writers and prints on what its
// CPU time went, and for what its writers waited.
func (b *bench) share(ctx context.Context) error {
	const writers = 4
	path := *cpu
	if path == "" {
		f, err := os.CreateTemp(b.dir, "cpu-")
		if err != nil {
			return err
		}
		f.Close()
		path = f.Name()
	}
	var r rate
	var spent map[string]time.Duration
	var used time.Duration
	waits := &sampler{of: "main.(*inside).put"}
	err := b.into(ctx, way{open: openInside}, func(s store) error {
		out, err := os.Create(path)
		if err != nil {
			return err
		}
		defer out.Close()
		before := cpuTime()
		if err := pprof.StartCPUProfile(out); err != nil {
			return err
		}
		stop := waits.start()
		r, err = fill(ctx, s, b.studies, perPost, writers, *span*2)
		stop()
		pprof.StopCPUProfile()
		used = cpuTime() - before
		return err
	})
	if err != nil {
		return err
	}
	if spent, err = profile(ctx, path); err != nil {
		return err
	}
	var all time.Duration
	for _, d := range spent {
		all += d
	}
	samples := 0
	for _, n := range waits.counts {
		samples += n
	}
	fmt.Printf("\nWhere the time goes, in process with %d writers: %.0f MB/s, %.0f instances/s, %.2f CPUs busy\n", writers, r.mb(), r.ips(), used.Seconds()/r.took.Seconds())
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tCPU time\tCPU ms an instance\ta writer's time")
	names := map[string]bool{}
	for name := range spent {
		names[name] = true
	}
	for name := range waits.counts {
		names[name] = true
	}
	order := make([]string, 0, len(names))
	for name := range names {
		order = append(order, name)
	}
	slices.SortFunc(order, func(x, y string) int {
		return cmp.Or(cmp.Compare(spent[y], spent[x]), cmp.Compare(waits.counts[y], waits.counts[x]))
	})
	for _, name := range order {
		fmt.Fprintf(t, "%s\t%.1f %%\t%.2f\t%.1f %%\n", name, 100*float64(spent[name])/float64(all),
			float64(spent[name].Microseconds())/1000/float64(r.instances), 100*float64(waits.counts[name])/float64(max(samples, 1)))
	}
	return t.Flush()
}

// profile reads a CPU profile by the toolchain's own reader: time by kind.
func profile(ctx context.Context, path string) (map[string]time.Duration, error) {
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", path).Output()
	if err != nil {
		return nil, fmt.Errorf("reading the profile: %w", err)
	}
	// Stacks stand between lines of dashes: the first line begins with the
	// time, all end with a function, the innermost first.
	spent := map[string]time.Duration{}
	var took time.Duration
	var stack []string
	flush := func() {
		if len(stack) > 0 {
			spent[kindOf(stack)] += took
		}
		took, stack = 0, nil
	}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		line := s.Text()
		if strings.HasPrefix(line, "-----------+") {
			flush()
			continue
		}
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if d, err := time.ParseDuration(fields[0]); err == nil && len(fields) > 1 {
			took, fields = d, fields[1:]
		} else if took == 0 {
			continue // before the first stack
		}
		stack = append(stack, strings.TrimSuffix(strings.Join(fields, " "), " (inline)"))
	}
	flush()
	return spent, nil
}

// sampler looks a hundred times a second at what the goroutines are doing that
// have the function of in their stack.
type sampler struct {
	of     string
	counts map[string]int
}

func (s *sampler) start() (stop func()) {
	s.counts = map[string]int{}
	var wg sync.WaitGroup
	end := make(chan struct{})
	wg.Go(func() {
		records := make([]runtime.StackRecord, 4096)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			n, ok := runtime.GoroutineProfile(records)
			if !ok {
				continue
			}
			for _, r := range records[:n] {
				var stack []string
				ours := false
				for frames := runtime.CallersFrames(r.Stack()); ; {
					f, more := frames.Next()
					stack = append(stack, f.Function)
					ours = ours || f.Function == s.of
					if !more {
						break
					}
				}
				if ours {
					s.counts[waiting(stack)]++
				}
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

// waiting tells what a writer does or waits for: by the innermost function of
// this project, since what it calls is only how.
func waiting(stack []string) string {
	for _, f := range stack {
		if name, ok := strings.CutPrefix(f, module); ok {
			return "in " + name
		}
		if strings.HasPrefix(f, "main.") {
			return "in " + f
		}
	}
	return "other"
}
