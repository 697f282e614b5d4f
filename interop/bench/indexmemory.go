package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// box is a memory cgroup for one process.
type box struct {
	dir     string
	unified bool // version 2
}

// newBox makes a cgroup with a limit, or says why none can be made.
func newBox(limit int64) (*box, string) {
	if os.Geteuid() != 0 {
		return nil, "not limited: a memory cgroup needs root"
	}
	name := fmt.Sprintf("priormesh-bench-%d", os.Getpid())
	for _, v := range []struct {
		root, has, limit string
		unified          bool
	}{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.limit_in_bytes", false},
		{"/sys/fs/cgroup", "cgroup.subtree_control", "memory.max", true},
	} {
		b, err := os.ReadFile(filepath.Join(v.root, v.has))
		if err != nil || v.unified && !strings.Contains(string(b), "memory") {
			continue
		}
		dir := filepath.Join(v.root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, fmt.Sprintf("not limited: %v", err)
		}
		x := &box{dir, v.unified}
		if err := os.WriteFile(filepath.Join(dir, v.limit), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
			return nil, fmt.Sprintf("not limited: %v", errors.Join(err, x.close()))
		}
		return x, ""
	}
	return nil, "not limited: no memory controller in /sys/fs/cgroup"
}

// said is what the kernel counted: the most that was used, page cache included,
// and how often the limit was met.
func (b *box) said() string {
	read := func(name string) string {
		v, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			return "?"
		}
		return strings.TrimSpace(string(v))
	}
	if b.unified {
		return fmt.Sprintf("most used with page cache %s bytes; %s", read("memory.peak"), strings.ReplaceAll(read("memory.events"), "\n", ", "))
	}
	return fmt.Sprintf("most used with page cache %s bytes; met the limit %s times", read("memory.max_usage_in_bytes"), read("memory.failcnt"))
}

// close removes the cgroup, whose process has ended.
func (b *box) close() error {
	var err error
	for range 50 {
		if err = os.Remove(b.dir); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// peaks are the most a process had resident: all of it, its own, and mapped files.
type peaks struct{ all, anon, file int64 }

// watch samples a process until stop is called.
func watch(pid int) (stop func() peaks) {
	var p peaks
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				name, v, _ := strings.Cut(line, ":")
				to := map[string]*int64{"VmHWM": &p.all, "RssAnon": &p.anon, "RssFile": &p.file}[name]
				if to == nil {
					continue
				}
				if n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64); err == nil {
					*to = max(*to, n<<10)
				}
			}
		}
	})
	return func() peaks { close(end); wg.Wait(); return p }
}

func (p peaks) String() string {
	const mib = 1 << 20
	return fmt.Sprintf("%d MiB (own at most %d, mapped files at most %d)", p.all/mib, p.anon/mib, p.file/mib)
}

// warm reads the files of a folder, so that the page cache has what it has room for.
func warm(dir string) error {
	return eachFile(dir, func(f *os.File) error {
		_, err := io.Copy(io.Discard, f)
		return err
	})
}

// eachFile opens the files of a folder, one after the other.
func eachFile(dir string, fn func(*os.File) error) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(fn(f), f.Close())
	})
}
