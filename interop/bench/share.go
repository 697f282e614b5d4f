package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
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
	{"compress", []string{"github.com/klauspost/compress", "github.com/klauspost/compress/huff0", module + "cas.(*packer)", module + "cas.(*planes)", module + "cas.pack", module + "cas.huffman"}},
	{"blocks on disk (write, sync)", []string{module + "cas.osFile", module + "cas.(*Disk)", module + "cas.(*disk", module + "cas.(*pack", module + "cas.syncData"}},
	{"Badger", []string{"github.com/dgraph-io"}},
	{"scan and meaning of the header", []string{module + "dicom."}},
	{"told to the region (publish, index)", []string{module + "index.", module + "node/archive.(*Archive).publish", module + "node/archive.(*publisher)"}},
	{"HTTP and the network", []string{"net/http", "mime/multipart", "net.", "internal/poll.(*FD).Read", "net/textproto", "bufio."}},
	{"cutting into blocks", []string{module + "cas."}},
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcAssistAlloc"}},
	{"the rest of the archive", []string{module + "node"}},
	{"(this measurement)", []string{"main.(*looker)", "runtime/pprof", "runtime.GoroutineProfile"}},
	{"reading the files", []string{"main.readAll", "os.(*File).Read"}},
}

func kindOf(kinds []kind, stack []string) string {
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
	looks := &looker{of: "main.(*inside).put"}
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
		stop := looks.start()
		r, err = fill(ctx, s, b.studies, perPost, writers, *span*2)
		stop()
		pprof.StopCPUProfile()
		used = cpuTime() - before
		return err
	})
	if err != nil {
		return err
	}
	if spent, err = profile(ctx, path, kinds); err != nil {
		return err
	}
	var all time.Duration
	for _, d := range spent {
		all += d
	}
	fmt.Printf("\nWhere the time goes, in process with %d writers: %.0f MB/s, %.0f instances/s, %.2f CPUs busy\n", writers, r.mb(), r.ips(), used.Seconds()/r.took.Seconds())
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "the CPUs\tof their time\tms an instance")
	for _, name := range byCount(spent) {
		fmt.Fprintf(t, "%s\t%.1f %%\t%.2f\n", name, 100*float64(spent[name])/float64(max(all, 1)), float64(spent[name].Microseconds())/1000/float64(r.instances))
	}
	fmt.Fprintln(t, "\t\t\nan instance is or waits\tof its time\tms an instance")
	for i, name := range byCount(looks.writers) {
		if i == 10 {
			break
		}
		seen := float64(looks.writers[name])
		fmt.Fprintf(t, "%s\t%.1f %%\t%.2f\n", name, 100*seen/float64(max(looks.total, 1)), seen*r.took.Seconds()*1000/float64(looks.ticks)/float64(r.instances))
	}
	fmt.Fprintln(t, "\t\t\nthe disk is being synced\tof the time\t")
	for _, name := range byCount(looks.syncs) {
		fmt.Fprintf(t, "%s\t%.1f %%\t\n", name, 100*float64(looks.syncs[name])/float64(max(looks.ticks, 1)))
	}
	return t.Flush()
}

// byCount lists the names with the most first.
func byCount[N cmp.Ordered](counts map[string]N) []string {
	return slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		return cmp.Or(cmp.Compare(counts[y], counts[x]), cmp.Compare(x, y))
	})
}

// profile reads a CPU profile by the toolchain's own reader: time by kind.
func profile(ctx context.Context, path string, kinds []kind) (map[string]time.Duration, error) {
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
			spent[kindOf(kinds, stack)] += took
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

// looker looks a hundred times a second at what all goroutines are doing.
type looker struct {
	of      string         // how a function that a writer has in its stack begins
	writers map[string]int // what they were seen in
	total   int
	syncs   map[string]int // ticks at which something was being synced, and for whom
	ticks   int
}

func (l *looker) start() (stop func()) {
	l.writers, l.syncs = map[string]int{}, map[string]int{}
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
			if n, ok := runtime.GoroutineProfile(records); ok {
				l.look(records[:n])
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

func (l *looker) look(records []runtime.StackRecord) {
	l.ticks++
	syncing := map[string]bool{}
	for _, r := range records {
		var stack []string
		for frames := runtime.CallersFrames(r.Stack()); ; {
			f, more := frames.Next()
			stack = append(stack, f.Function)
			if !more {
				break
			}
		}
		if slices.ContainsFunc(stack, func(f string) bool { return strings.HasPrefix(f, l.of) }) {
			if what := doing(stack); what != "in "+l.of { // that is put itself, which waits for the last
				l.writers[what]++
				l.total++
			}
		}
		if slices.ContainsFunc(stack, isSync) {
			syncing[syncFor(stack)] = true
		}
	}
	for who := range syncing {
		l.syncs[who]++
	}
}

// doing tells what a writer does or waits for: by the innermost function of
// this project, since what it calls is only how.
func doing(stack []string) string {
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

func isSync(f string) bool {
	switch f {
	case "os.(*File).Sync", "syscall.Fdatasync", "syscall.Fsync", "golang.org/x/sys/unix.Msync", "golang.org/x/sys/unix.Fdatasync", "golang.org/x/sys/unix.Fsync":
		return true
	}
	return false
}

// syncFor tells whose bytes are being synced.
func syncFor(stack []string) string {
	has := func(word string) bool {
		return slices.ContainsFunc(stack, func(f string) bool { return strings.Contains(f, word) })
	}
	switch {
	case has("dgraph-io/badger"):
		return "by Badger"
	case has(module + "cas.(*Keyring)"):
		return "for a key"
	case has(module + "cas."):
		return "for blocks"
	}
	return "for others"
}
