package node_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// faulty is a file system that stops working after so many changes.
type faulty struct {
	cas.FS
	mu   sync.Mutex
	left int
	err  error
	n    int
}

func (f *faulty) step() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if f.left--; f.left < 0 {
		return f.err
	}
	return nil
}

func (f *faulty) Create(name string) (cas.File, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	x, err := f.FS.Create(name)
	return &faultyFile{x, f}, err
}

func (f *faulty) Rename(from, to string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *faulty) SyncDir(dir string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.SyncDir(dir)
}

func (f *faulty) MkdirAll(dir string) error {
	if err := f.step(); err != nil {
		return err
	}
	return f.FS.MkdirAll(dir)
}

func (f *faulty) Remove(name string) error {
	f.mu.Lock()
	dead := f.left < 0 && !errors.Is(f.err, syscall.ENOSPC)
	f.mu.Unlock()
	if dead {
		return f.err
	}
	return f.FS.Remove(name)
}

type faultyFile struct {
	cas.File
	f *faulty
}

func (x *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := x.f.step(); err != nil {
		n, _ := x.File.WriteAt(p[:len(p)/2], off) // a part gets there
		return n, err
	}
	return x.File.WriteAt(p, off)
}

func (x *faultyFile) Sync() error {
	if err := x.f.step(); err != nil {
		return err
	}
	return x.File.Sync()
}

// Wherever a backup is cut off, by a full disk or a dying one, the one before
// is restored, or the new one is whole.
func TestBackupCutOffAnywhere(t *testing.T) {
	a := newTrust(t, "RX1", "Test region")
	a.start()
	one, two := images("1.2.3.1", 2), images("1.2.3.2", 2)
	a.stores(one)
	target := filepath.Join(t.TempDir(), "backup")
	a.backs(target, api.BackupRequest{})
	a.stores(two)
	steps, stride := 0, node.Stride(3)
	for from, fault := range []error{syscall.ENOSPC, syscall.EIO} {
		for cut := from; ; cut += stride {
			dir := filepath.Join(t.TempDir(), "b")
			if err := os.CopyFS(dir, os.DirFS(target)); err != nil {
				t.Fatal(err)
			}
			if err := private(dir); err != nil {
				t.Fatal(err)
			}
			f := &faulty{FS: cas.OS(), left: cut, err: fault}
			_, err := a.n.BackUp(context.Background(), node.BackupOptions{Target: dir}.On(f))
			if err == nil && f.left < 0 && cut < 8 {
				t.Errorf("cut %d: a backup that lacks something is called complete", cut)
			}
			if err != nil && errors.Is(fault, syscall.ENOSPC) && !errors.Is(err, cas.ErrDiskFull) {
				t.Errorf("cut %d: a full disk is called %v", cut, err)
			}
			got, rerr := node.Restore(context.Background(), "", dir, node.RestoreOptions{VerifyOnly: true})
			if rerr != nil {
				t.Fatalf("cut %d by %v: %v", cut, fault, rerr)
			}
			if want := 1; err != nil && got.Studies != want && got.Studies != 2 || err == nil && got.Studies != 2 {
				t.Errorf("cut %d: %d studies and %v", cut, got.Studies, err)
			}
			// The next one comes to its end, and leaves nothing that is not of it.
			if last := err == nil; last || cut%2 == from {
				if _, err := a.n.BackUp(context.Background(), node.BackupOptions{Target: dir}); err != nil {
					t.Fatalf("cut %d: the one after: %v", cut, err)
				}
				left, _ := filepath.Glob(filepath.Join(dir, "*", "*.part"))
				sets, _ := filepath.Glob(filepath.Join(dir, "set-*"))
				if len(left) != 0 || len(sets) != 1 {
					t.Errorf("cut %d leaves %v and %v", cut, left, sets)
				}
				if last && f.left >= 0 {
					steps = cut
					break
				}
			}
			if cut > 200 {
				t.Fatal("no end of it")
			}
		}
	}
	if steps < 10 {
		t.Errorf("only %d steps", steps)
	}
}

func private(dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return os.Chmod(p, 0o600)
	})
}

func TestBackupRefusesATargetWithoutRoom(t *testing.T) {
	a := newTrust(t, "RX1", "Test region")
	a.start()
	a.stores(images("1.2.3.1", 2))
	_, err := a.n.BackUp(context.Background(), node.BackupOptions{Target: filepath.Join(t.TempDir(), "b")}.On(tight{cas.OS()}))
	if !errors.Is(err, cas.ErrDiskFull) || !strings.Contains(err.Error(), "needs") {
		t.Fatal(err)
	}
}

type tight struct{ cas.FS }

func (tight) Free(string) (int64, error) { return 1000, nil }

// A backup that is broken off leaves nothing half.
func TestBackupBrokenOff(t *testing.T) {
	a := newTrust(t, "RX1", "Test region")
	a.start()
	a.stores(images("1.2.3.1", 3))
	a.settled("1.2.3.1", 3)
	target := filepath.Join(t.TempDir(), "backup")
	ctx, cancel := context.WithCancel(context.Background())
	_, err := a.n.BackUp(ctx, node.BackupOptions{Target: target, Progress: func(p api.BackupProgress) {
		if p.Phase == "index" {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := node.Restore(context.Background(), "", target, node.RestoreOptions{VerifyOnly: true}); !errors.Is(err, node.ErrNoBackup) {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(target, "set-*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if b := a.backs(target, api.BackupRequest{}); b.Copied != 0 {
		t.Errorf("%d bytes of blocks that were there are copied again", b.Copied)
	}
}

// A home that has lost a pack is backed up as far as it goes, and the backup
// says what it lacks.
func TestBackupOfADamagedHome(t *testing.T) {
	a := newTrust(t, "RX1", "Test region")
	a.start()
	one, two := images("1.2.3.1", 2), images("1.2.3.2", 2)
	a.stores(one)
	target := filepath.Join(t.TempDir(), "backup")
	a.backs(target, api.BackupRequest{}) // which ends the pack
	a.stores(two)
	a.verifies()
	packs, _ := filepath.Glob(filepath.Join(a.home.Dir, "blocks", "packs", "*.pack"))
	if len(packs) < 2 {
		t.Fatalf("%d packs", len(packs))
	}
	if err := os.Remove(packs[0]); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	got := a.backs(other, api.BackupRequest{})
	if len(got.Missing) != 1 || !strings.Contains(got.Missing[0], filepath.Base(packs[0])) {
		t.Fatalf("%+v", got.Missing)
	}
	if r, err := node.Restore(context.Background(), "", other, node.RestoreOptions{VerifyOnly: true}); err != nil || len(r.Missing) != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	a.rises(other)
	a.reads("1.2.3.2", two)
	if v := a.verifies(); v.Left != 1 {
		t.Errorf("%+v", v)
	}
}

// An erasure that is asked for while a backup is made waits for the part that
// has to fit together, and is done after.
func TestErasureDuringABackup(t *testing.T) {
	a := newTrust(t, "RX1", "Test region")
	a.start()
	a.stores(images("1.2.3.1", 2))
	kept := images("1.2.3.2", 2)
	a.stores(kept)
	target := filepath.Join(t.TempDir(), "backup")
	client := a.client()
	var once, during sync.Once
	erased := make(chan error, 1)
	if _, err := a.n.BackUp(context.Background(), node.BackupOptions{Target: target, Progress: func(p api.BackupProgress) {
		switch p.Phase {
		case "blocks": // goes on beside it
			once.Do(func() {
				if e, err := client.Erase(context.Background(), "1.2.3.1", "first", func(api.Erasure) {}); err != nil || e.State != "erased" {
					t.Errorf("%+v %v", e, err)
				}
			})
		case "keys":
			during.Do(func() {
				go func() {
					e, err := client.Erase(context.Background(), "1.2.3.2", "second", func(api.Erasure) {})
					if err == nil && e.State != "erased" {
						err = fmt.Errorf("%+v", e)
					}
					erased <- err
				}()
				a.wait("has the erasure written down", func() (bool, string) {
					_, err := a.n.Archive().Erased("1.2.3.2")
					return err == nil, fmt.Sprint(err)
				})
				if _, err := a.n.Archive().Keys.Get(keyName("1.2.3.2", a)); err != nil {
					t.Errorf("the key went while keys are copied: %v", err)
				}
			})
		}
	}}); err != nil {
		t.Fatal(err)
	}
	if err := <-erased; err != nil {
		t.Fatal(err)
	}
	a.rises(target)
	if s := a.find("1.2.3.1"); len(s) != 0 {
		t.Errorf("%+v", s)
	}
	a.reads("1.2.3.2", kept) // nobody else knows that it was erased after
}

// Two homes with one key contradict each other: the region takes nothing more
// from that log, says so, and believes the restored one again when it is alone
// and has begun another epoch.
func TestOldHomeBesideTheRestoredOne(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	old, b, c := r[0], r[1], r[2]
	old.stores(images("1.2.3.1", 2))
	target := filepath.Join(t.TempDir(), "backup")
	old.backs(target, api.BackupRequest{})
	id := old.peer()
	known := func(uid string) {
		t.Helper()
		b.waitAvailability(uid, "NEARLINE")
		c.waitAvailability(uid, "NEARLINE")
	}
	twin := &trust{t: t}
	t.Cleanup(twin.stop)
	twin.restored(target)
	// The restored one runs, without asking; then the old one, which must not; and
	// the restored one again, while nobody is there to tell it.
	old.stop()
	n, err := node.Open(context.Background(), twin.home, node.Options{Alone: true})
	if err != nil {
		t.Fatal(err)
	}
	twin.n = n
	if twin.epoch() != 2 {
		t.Fatalf("epoch %d", twin.epoch())
	}
	twin.stores(images("1.2.4.1", 1))
	known("1.2.4.1")
	twin.stop()
	old.start()
	old.wait("hears that it has lived on", func() (bool, string) { return old.epoch() == 2, "" })
	old.stores(images("1.2.4.2", 1))
	known("1.2.4.2")
	old.stop()
	b.stop()
	c.stop()
	twin.start()
	twin.stores(images("1.2.4.3", 1))
	twin.wait("has told its log", func() (bool, string) {
		said, _ := twin.n.Archive().Index.Study("1.2.4.3")
		return len(said) == 1, ""
	})
	b.start()
	c.start()
	for _, m := range []*trust{b, c, twin} {
		m.wait("quarantines the log", func() (bool, string) {
			s := m.status()
			for _, f := range s.Forked {
				if f.Node == id && f.Trust == "RX1" && f.Epoch == 2 && f.Position > 0 && f.Advice != "" && !f.Found.IsZero() && f.Own == (m == twin) && !f.Over {
					return len(s.Forks) == 1 && strings.Contains(strings.Join(s.Warnings, "\n"), "two histories"), strings.Join(s.Warnings, "\n")
				}
			}
			return false, fmt.Sprintf("%+v", s.Forked)
		})
	}
	twin.stop()
	twin.start()
	if twin.epoch() != 3 {
		t.Errorf("epoch %d", twin.epoch())
	}
	fresh := images("1.2.3.9", 2)
	twin.stores(fresh)
	for _, m := range []*trust{b, c} {
		m.copies("1.2.3.9", fresh, twin)
		m.wait("says that it is over", func() (bool, string) {
			s := m.status()
			return len(s.Forks) == 0 && len(s.Forked) > 0 && s.Forked[0].Over, fmt.Sprintf("%+v", s.Forked)
		})
	}
}
