package cas_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest"
)

// The crash harness: a store on a drive that fails, through several lives that
// power cuts end, beside a model of what it has promised.
//
//	go test -run TestCrashes ./cas                           some dozens of rounds
//	PRIORMESH_SOAK=20000 go test -run TestCrashes ./cas      so many; "1" is 5000
//	PRIORMESH_SEED=17 go test -run TestCrashes ./cas         that one, to the letter when it is even
//
// Rounds of even seeds have one worker, so that all that happens follows from
// the seed; odd ones have several at once.
func TestCrashes(t *testing.T) {
	t.Parallel()
	rounds, from := 60, uint64(0)
	if s := os.Getenv("PRIORMESH_SOAK"); s != "" {
		rounds, from = 5000, rand.Uint64N(1<<40)
		if n, err := strconv.Atoi(s); err == nil && n > 1 {
			rounds = n
		}
	}
	if s := os.Getenv("PRIORMESH_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		must(t, err)
		rounds, from = 1, n
	}
	if testing.Short() {
		rounds = min(rounds, 20)
	}
	seeds := make(chan uint64)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed := range seeds {
				if err := crashRound(t, seed); err != nil {
					t.Errorf("%v\nagain with PRIORMESH_SEED=%d", err, seed)
				}
			}
		})
	}
	for i := range rounds {
		if t.Failed() {
			break
		}
		seeds <- from + uint64(i)
	}
	close(seeds)
	workers.Wait()
}

// fate is what the model knows of one block on one shelf.
type fate int

const (
	never   fate = iota // never put: must not be there
	held                // acknowledged: must be there
	perhaps             // a put or a deletion that did not come to its end: there whole, or not there
	gone                // deleted, acknowledged: not there in this life; perhaps there in the next one, if the locator is made anew
)

// ward is the part of the blocks that one worker looks after: nobody else
// puts or deletes them, so the worker knows what must be.
type ward struct {
	shelf cas.ShelfID
	b     []cas.Block
	fates []fate
}

type crash struct {
	seed   uint64
	rnd    *rand.Rand // the main goroutine's
	drive  *castest.Drive
	dir    string
	keeps  bool // the locator survives, on the machine's own file system
	stale  bool // it survives as it was when the life began
	wards  []*ward
	rotten int // bits that were flipped at rest
	// common blocks are put by all workers, at the same time too, and deleted by none.
	common   *ward
	commonMu sync.Mutex
	s        *cas.Disk
	options  cas.DiskOptions
}

// crashRound is one story, told by its seed.
func crashRound(t *testing.T, seed uint64) (err error) {
	c := &crash{seed: seed, rnd: rand.New(rand.NewPCG(seed, 1)), drive: castest.NewDrive(seed), dir: "/store"}
	if c.keeps = seed%32 >= 30; c.keeps {
		if c.dir, err = os.MkdirTemp("", "crash"); err != nil {
			return err
		}
		defer os.RemoveAll(c.dir)
	}
	if err := makeAbove(c.drive, c.dir); err != nil {
		return err
	}
	workers := 1
	if seed%2 == 1 {
		workers = 2 + c.rnd.IntN(4)
	}
	for w := range workers {
		id := cas.ShelfID{byte(1 + w%2)}
		var blocks []cas.Block
		for i := range 12 + c.rnd.IntN(40) {
			size := []int{16 + c.rnd.IntN(40), 300, 512 - 64, 2000, 9000}[c.rnd.IntN(5)]
			blocks = append(blocks, castest.Blocks(seed<<20|uint64(w)<<10|uint64(i), 1, size)...)
		}
		c.wards = append(c.wards, &ward{id, blocks, make([]fate, len(blocks))})
	}
	c.common = &ward{cas.ShelfID{9}, castest.Blocks(seed<<20|1<<19, 200, 1000), make([]fate, 200)}
	c.options = cas.DiskOptions{
		Volatile: !c.keeps, Reserve: -1, CollectEvery: -1,
		PackSize: []int64{4 << 10, 20 << 10, 100 << 10}[c.rnd.IntN(3)],
	}
	for life := range 2 + c.rnd.IntN(4) {
		if err := c.live(); err != nil {
			return fmt.Errorf("seed %d, life %d, %d workers: %w", seed, life, workers, err)
		}
	}
	c.drive.Heal()
	c.drive.Capacity(-1)
	if err := c.open(); err != nil {
		return fmt.Errorf("seed %d, at the end: %w", seed, err)
	}
	err = c.check()
	if err == nil {
		err = c.leave()
	}
	return errors.Join(err, c.s.Close())
}

// makeAbove makes what lies above a store, which is not the store's to make.
func makeAbove(drive *castest.Drive, dir string) error {
	d, at := drive.FS(), filepath.Dir(dir)
	err := errors.Join(d.MkdirAll(at), d.SyncDir(at))
	if at != filepath.Dir(at) {
		err = errors.Join(err, makeAbove(drive, at))
	}
	return err
}

// leave deletes everything; nothing may be left on the drive.
func (c *crash) leave() error {
	ctx := context.Background()
	if err := c.s.Shelves(ctx, cas.ShelfID{}, func(id cas.ShelfID) error { return c.s.Drop(ctx, id) }); err != nil {
		return err
	}
	if err := c.s.Collect(ctx); err != nil {
		return err
	}
	if n, sp := c.drive.Used(), c.s.Space(); n != 0 || sp != (cas.Space{}) {
		return fmt.Errorf("everything was deleted and collected, and %d bytes are on the drive: %+v", n, sp)
	}
	return nil
}

// open opens the store on a drive that is well, now and then after it was
// opened on one that is not.
func (c *crash) open() (err error) {
	c.options.FS = c.drive.FS()
	if c.rnd.IntN(4) == 0 {
		c.drive.Fail(castest.OpRead, 0.5)
		s, err := cas.OpenDisk(c.dir, c.options)
		c.drive.Heal()
		if err == nil {
			_ = s.Collect(context.Background())
			err = s.Close()
		}
		if err != nil && !errors.Is(err, syscall.EIO) {
			return fmt.Errorf("opening on a drive that does not read: %w", err)
		}
	}
	if c.s, err = cas.OpenDisk(c.dir, c.options); err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	if !c.keeps || c.stale {
		for _, w := range append(slices.Clone(c.wards), c.common) {
			for i, f := range w.fates {
				if f == gone {
					w.fates[i] = perhaps
				}
			}
		}
	}
	return nil
}

// live is one life of the store: it is opened, checked, worked with on a
// drive that begins to fail, and ended by a power cut, a close or a kill.
func (c *crash) live() error {
	c.drive.Heal()
	c.drive.Capacity(-1)
	if err := c.open(); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return errors.Join(err, c.s.Close())
	}
	if c.stale = c.keeps && c.rnd.IntN(3) == 0; c.stale {
		if err := c.copyLocator(); err != nil {
			return err
		}
	}
	// What is worked at once is what fails, so that each is met often.
	steps := 10 + c.rnd.IntN(80)
	switch c.rnd.IntN(7) {
	case 0:
		c.drive.Capacity(c.drive.Used() + c.rnd.Int64N(100<<10))
	case 1:
		c.drive.Fail([]castest.Op{castest.OpWrite, castest.OpSync, castest.OpSyncDir, castest.OpCreate, castest.OpRemove}[c.rnd.IntN(5)], 0.2)
	case 2:
		c.drive.FailNth(castest.OpSync, 1+c.rnd.IntN(20), errors.New("a cable that was pulled"))
		c.drive.FailNth(castest.OpSyncDir, 1+c.rnd.IntN(4), errors.New("a cable that was pulled"))
	case 3:
		c.drive.Fail(castest.OpRead, 0.05)
	case 4:
		c.drive.Flip(0.05)
	case 5:
		c.drive.Fail(castest.OpWrite, 0.03)
		c.drive.Fail(castest.OpSync, 0.03)
		c.drive.Fail(castest.OpRead, 0.01)
		c.drive.Fail(castest.OpTruncate, 0.1)
		c.drive.Capacity(c.drive.Used() + 40<<10 + c.rnd.Int64N(200<<10))
	}
	ending := c.rnd.IntN(4)
	if c.stale {
		ending = 1
	}
	if ending > 0 {
		c.drive.CutAfter(1 + c.rnd.IntN(steps*8*len(c.wards)))
	}
	var workers sync.WaitGroup
	errs := make([]error, len(c.wards))
	for i, w := range c.wards {
		rnd := rand.New(rand.NewPCG(c.rnd.Uint64(), 2))
		workers.Go(func() { errs[i] = c.work(w, rnd, steps) })
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, c.s.Close())
	}
	switch ending {
	case 0: // closed, and opened again without a cut
	case 1:
		c.drive.Cut()
	case 2: // closed and then cut: no sync may be missing
		err := c.s.Close()
		c.drive.Cut()
		return c.named("closing", err)
	case 3: // as after a kill: nothing is flushed, nothing is lost
		if !c.drive.IsCut(c.options.FS) {
			c.drive.CutAfter(0)
			c.drive.Fail(castest.OpSync, 1)
			c.drive.Fail(castest.OpWrite, 1)
		}
	}
	crashed := c.keeps && ending != 0
	if crashed && !c.stale {
		if err := c.copyLocator(); err != nil {
			return err
		}
	}
	if err := c.named("closing", c.s.Close()); err != nil {
		return err
	}
	if crashed {
		if err := c.takeCopy(); err != nil {
			return err
		}
	}
	if c.rnd.IntN(8) == 0 && c.drive.RotSomewhere() {
		c.rotten++
	}
	return nil
}

// copyLocator keeps the locator as a crash at this point would leave it.
func (c *crash) copyLocator() (err error) {
	for range 100 {
		err = errors.Join(os.RemoveAll(c.dir+"/copy"), os.CopyFS(c.dir+"/copy", os.DirFS(c.dir+"/locator")))
		if !errors.Is(err, fs.ErrNotExist) {
			break // else Badger has just made a table of a log
		}
	}
	return err
}

func (c *crash) takeCopy() error {
	return errors.Join(os.RemoveAll(c.dir+"/locator"), os.Rename(c.dir+"/copy", c.dir+"/locator"))
}

// named says whether an error is one that a caller can tell from others.
func (c *crash) named(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, n := range []error{cas.ErrDiskFull, cas.ErrDiskFailed, cas.ErrNotFound, cas.ErrCorrupt, cas.ErrClosed, castest.ErrPowerCut} {
		if errors.Is(err, n) {
			return nil
		}
	}
	if what == "collecting" || what == "closing" {
		return nil
	}
	return fmt.Errorf("%s: an error without a name: %w", what, err)
}

// work does a worker's steps until the power is cut.
func (c *crash) work(w *ward, rnd *rand.Rand, steps int) error {
	ctx, shelf := context.Background(), c.s.Shelf(w.shelf)
	for range steps {
		if c.drive.IsCut(c.options.FS) {
			return nil
		}
		switch rnd.IntN(12) {
		default:
			var some []int
			var blocks []cas.Block
			for range 1 + rnd.IntN(4)*rnd.IntN(3) {
				i := rnd.IntN(len(w.b))
				some, blocks = append(some, i), append(blocks, w.b[i])
			}
			err := shelf.Put(ctx, blocks...)
			if err := c.named("putting", err); err != nil {
				return err
			}
			for _, i := range some {
				if err == nil {
					w.fates[i] = held
				} else if w.fates[i] != held {
					w.fates[i] = perhaps
				}
			}
		case 0, 1, 2:
			var some []int
			var cids []cid.Cid
			for range 1 + rnd.IntN(8) {
				i := rnd.IntN(len(w.b))
				some, cids = append(some, i), append(cids, w.b[i].CID)
			}
			err := shelf.Delete(ctx, cids...)
			if err := c.named("deleting", err); err != nil {
				return err
			}
			for _, i := range some {
				if w.fates[i] == never {
					continue
				}
				if w.fates[i] = gone; err != nil {
					w.fates[i] = perhaps
				}
			}
		case 3, 4, 5:
			i := rnd.IntN(len(w.b))
			got, err := shelf.Get(ctx, w.b[i].CID)
			if err := c.named("reading", err); err != nil {
				return err
			}
			if err == nil && !bytes.Equal(got, w.b[i].Data) {
				return fmt.Errorf("block %d: other bytes than were put", i)
			}
			if err == nil && (w.fates[i] == never || w.fates[i] == gone) {
				return fmt.Errorf("block %d is there and was %s", i, w.fates[i])
			}
			if w.fates[i] == held && errors.Is(err, cas.ErrNotFound) && c.rotten == 0 {
				return fmt.Errorf("block %d was acknowledged and is not found", i)
			}
		case 6:
			if err := c.named("collecting", c.s.Collect(ctx)); err != nil {
				return err
			}
		case 8:
			if err := c.putCommon(ctx, rnd); err != nil {
				return err
			}
		case 7:
			if rnd.IntN(6) > 0 || len(c.wards) > 2 && w != c.wards[0] && w != c.wards[1] {
				continue
			}
			// Only a shelf that nobody else uses can be dropped by the model.
			for _, o := range c.wards {
				if o != w && o.shelf == w.shelf {
					return nil
				}
			}
			err := c.s.Drop(ctx, w.shelf)
			if err := c.named("dropping", err); err != nil {
				return err
			}
			for i, f := range w.fates {
				if f != never {
					if w.fates[i] = gone; err != nil {
						w.fates[i] = perhaps
					}
				}
			}
		}
	}
	return nil
}

// putCommon puts what others may be putting: nobody's acknowledgement may rest
// on a write of another's that fails.
func (c *crash) putCommon(ctx context.Context, rnd *rand.Rand) error {
	c.commonMu.Lock()
	next := slices.Index(c.common.fates, never)
	c.commonMu.Unlock()
	from := max(next, 0) + rnd.IntN(3)
	to := min(from+1+rnd.IntN(4), len(c.common.b))
	if from >= to {
		return nil
	}
	err := c.s.Shelf(c.common.shelf).Put(ctx, c.common.b[from:to]...)
	c.commonMu.Lock()
	defer c.commonMu.Unlock()
	for i := from; i < to; i++ {
		if err == nil {
			c.common.fates[i] = held
		} else if c.common.fates[i] != held {
			c.common.fates[i] = perhaps
		}
	}
	return c.named("putting", err)
}

func (f fate) String() string {
	return []string{"never put", "acknowledged", "perhaps there", "deleted"}[f]
}

// check compares a store that was just opened with the model.
func (c *crash) check() error {
	ctx, lost := context.Background(), 0
	all := map[cas.ShelfID]map[cid.Cid]int{}
	for _, w := range append(slices.Clone(c.wards), c.common) {
		shelf := c.s.Shelf(w.shelf)
		if all[w.shelf] == nil {
			all[w.shelf] = map[cid.Cid]int{}
		}
		for i, b := range w.b {
			got, err := shelf.Get(ctx, b.CID)
			has, hasErr := shelf.Has(ctx, b.CID)
			switch {
			case hasErr != nil:
				return hasErr
			case has == errors.Is(err, cas.ErrNotFound):
				return fmt.Errorf("block %d: Has is %v, Get says %v", i, has, err)
			case err == nil && !bytes.Equal(got, b.Data):
				return fmt.Errorf("block %d: other bytes than were put", i)
			case err == nil && (w.fates[i] == never || w.fates[i] == gone):
				return fmt.Errorf("block %d is there and was %s", i, w.fates[i])
			case err != nil && !errors.Is(err, cas.ErrNotFound) && !errors.Is(err, cas.ErrCorrupt):
				return err
			case errors.Is(err, cas.ErrCorrupt) && w.fates[i] == perhaps && c.stale:
				// It was deleted and its pack removed, and the locator that
				// came back knows of neither.
				if err := shelf.Delete(ctx, b.CID); err != nil {
					return err
				}
				has = false
			case err != nil && w.fates[i] == held, errors.Is(err, cas.ErrCorrupt):
				if lost++; lost > c.rotten {
					return fmt.Errorf("block %d was %s: %w", i, w.fates[i], err)
				}
				// Whoever has it puts it again, which mends it.
				if err := shelf.Put(ctx, b); err != nil {
					return fmt.Errorf("mending: %w", err)
				}
				if got, err := shelf.Get(ctx, b.CID); err != nil || !bytes.Equal(got, b.Data) {
					return fmt.Errorf("block %d was put again and is %d bytes, %v", i, len(got), err)
				}
				w.fates[i], has = held, true
			}
			if w.fates[i] == perhaps {
				if w.fates[i] = gone; has {
					w.fates[i] = held
				}
			}
			if has {
				all[w.shelf][b.CID] = len(b.Data)
			}
		}
	}
	c.rotten -= min(lost, c.rotten)
	total := int64(0)
	for id, want := range all {
		listed, bytes := 0, int64(0)
		if err := c.s.Shelf(id).Enumerate(ctx, cid.Undef, func(b cid.Cid, n int64) error {
			if listed++; int64(want[b]) != n {
				return fmt.Errorf("%s is listed with %d bytes, not %d", b, n, want[b])
			}
			bytes += n
			return nil
		}); err != nil {
			return err
		}
		n, size, err := c.s.Shelf(id).Size(ctx)
		if err != nil || listed != len(want) || n != listed || size != bytes {
			return fmt.Errorf("shelf %v: %d blocks are there, %d listed, %d counted with %d of %d bytes, %v", id, len(want), listed, n, size, bytes, err)
		}
		total += int64(n)
	}
	if sp := c.s.Space(); sp.Blocks != total || sp.Dead < 0 {
		return fmt.Errorf("%d blocks are there, space says %+v", total, sp)
	}
	return nil
}

// A drive that fails a sync keeps what was acknowledged before, tells of what
// was not, and takes the next write.
func TestFailedSync(t *testing.T) {
	drive := castest.NewDrive(1)
	s := openDisk(t, "/store", cas.DiskOptions{FS: drive.FS(), Volatile: true, Reserve: -1, CollectEvery: -1})
	blocks := castest.Blocks(1, 3, 5000)
	must(t, s.Shelf(shelf).Put(t.Context(), blocks[0]))
	cable := errors.New("a cable that was pulled")
	drive.FailNth(castest.OpSync, 1, cable)
	if err := s.Shelf(shelf).Put(t.Context(), blocks[1]); !errors.Is(err, cas.ErrDiskFailed) || !errors.Is(err, cable) {
		t.Fatalf("a failed sync: %v", err)
	}
	if has, err := s.Shelf(shelf).Has(t.Context(), blocks[1].CID); has || err != nil {
		t.Fatal("what was not synced is there", err)
	}
	must(t, s.Shelf(shelf).Put(t.Context(), blocks[1:]...))
	drive.Cut()
	closeDead(t, s)
	s = openDisk(t, "/store", cas.DiskOptions{FS: drive.FS(), Volatile: true, Reserve: -1, CollectEvery: -1})
	for _, b := range blocks {
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(len(got), err)
		}
	}
}

// What a process wrote and could not sync is in memory when the next one
// starts. It must not be taken for durable.
func TestFailedSyncAndRestart(t *testing.T) {
	for seed := range uint64(20) {
		drive := castest.NewDrive(seed)
		o := cas.DiskOptions{FS: drive.FS(), Volatile: true, Reserve: -1, CollectEvery: -1}
		s := openDisk(t, "/store", o)
		blocks := castest.Blocks(1, 2, 5000)
		must(t, s.Shelf(shelf).Put(t.Context(), blocks[0]))
		drive.FailNth(castest.OpSync, 1, errors.New("a cable that was pulled"))
		if err := s.Shelf(shelf).Put(t.Context(), blocks[1]); !errors.Is(err, cas.ErrDiskFailed) {
			t.Fatal(err)
		}
		must(t, s.Close())
		s = openDisk(t, "/store", o)
		must(t, s.Shelf(shelf).Put(t.Context(), blocks[1]))
		drive.Cut()
		closeDead(t, s)
		o.FS = drive.FS()
		s = openDisk(t, "/store", o)
		for _, b := range blocks {
			if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
				t.Fatalf("seed %d: acknowledged, and lost: %v", seed, err)
			}
		}
		must(t, s.Close())
	}
}

func TestFullDrive(t *testing.T) {
	drive := castest.NewDrive(1)
	s := openDisk(t, "/store", cas.DiskOptions{FS: drive.FS(), Volatile: true, Reserve: -1, CollectEvery: -1, PackSize: 64 << 10})
	drive.Capacity(200 << 10)
	blocks := castest.Blocks(1, 60, 5000)
	var held []cas.Block
	for _, b := range blocks {
		if err := s.Shelf(shelf).Put(t.Context(), b); err == nil {
			held = append(held, b)
		} else if !errors.Is(err, cas.ErrDiskFull) {
			t.Fatal(err)
		}
	}
	if len(held) < 35 || len(held) > 40 {
		t.Fatalf("%d blocks of 5000 bytes are held on a drive of 200 KiB", len(held))
	}
	must(t, s.Shelf(shelf).Delete(t.Context(), cidsOf(held[:13])...))
	must(t, s.Collect(t.Context()))
	must(t, s.Shelf(shelf).Put(t.Context(), blocks[40:50]...))
	for _, b := range slices.Concat(held[13:], blocks[40:50]) {
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(len(got), err)
		}
	}
}

// What a write left on a drive that was full must not come back when it was
// never put, or was deleted since.
func TestFullDriveLeavesNothingBehind(t *testing.T) {
	drive, dir := castest.NewDrive(1), t.TempDir()
	must(t, makeAbove(drive, dir))
	o := cas.DiskOptions{FS: drive.FS(), Reserve: -1, CollectEvery: -1}
	s := openDisk(t, dir, o)
	blocks := castest.Blocks(1, 5, 5000)
	must(t, s.Shelf(shelf).Put(t.Context(), blocks[0]))
	drive.Capacity(drive.Used() + 12_000)
	if err := s.Shelf(shelf).Put(t.Context(), blocks[1:4]...); !errors.Is(err, cas.ErrDiskFull) {
		t.Fatal(err)
	}
	// As long as the first of those, so that a whole record would follow it.
	must(t, s.Shelf(shelf).Put(t.Context(), blocks[4]))
	must(t, s.Shelf(shelf).Delete(t.Context(), blocks[2].CID))
	c := crash{dir: dir}
	must(t, c.copyLocator())
	drive.Cut()
	closeDead(t, s)
	must(t, c.takeCopy())
	o.FS = drive.FS()
	s = openDisk(t, dir, o)
	if has, err := s.Shelf(shelf).Has(t.Context(), blocks[2].CID); has || err != nil {
		t.Fatal("a deleted block came back", err)
	}
	for _, b := range []cas.Block{blocks[0], blocks[4]} {
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(len(got), err)
		}
	}
}

func closeDead(t *testing.T, s *cas.Disk) {
	t.Helper()
	_ = s.Close()
}

// TestPackOfAnything: arbitrary bytes as a pack never harm the store, and only
// blocks that are whole come out of it. (FuzzPack is for the reader alone.)
func TestPackOfAnything(t *testing.T) {
	good := castest.Blocks(1, 3, 300)
	pack := packOf(good...)
	packs := [][]byte{
		pack, pack[:len(pack)-7], pack[40:], append(slices.Clone(pack[:100]), pack...), laterPack(),
		bytes.Repeat([]byte{0x89, 'P', 'M', 'R'}, 200), {},
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		b := slices.Clone(pack)
		for range 1 + rnd.IntN(6) {
			from := rnd.IntN(len(b))
			switch to := from + rnd.IntN(min(len(b)-from, 90)); rnd.IntN(3) {
			case 0:
				b = slices.Delete(b, from, to)
			case 1:
				b = slices.Insert(b, rnd.IntN(len(b)), b[from:to]...)
			case 2:
				b[from] ^= byte(1 + rnd.IntN(255))
			}
		}
		packs = append(packs, b)
	}
	for i, data := range packs {
		d, ctx := castest.NewDrive(1).FS(), t.Context()
		must(t, d.MkdirAll("/store/packs"))
		file, err := d.Create("/store/packs/0000000000000007.pack")
		must(t, err)
		_, err = file.WriteAt(data, 0)
		must(t, errors.Join(err, file.Sync(), file.Close(), d.SyncDir("/store/packs")))
		s, err := cas.OpenDisk("/store", cas.DiskOptions{FS: d, Volatile: true, Reserve: -1, CollectEvery: -1})
		if errors.Is(err, cas.ErrVersion) {
			continue
		}
		must(t, err)
		must(t, s.Collect(ctx))
		must(t, s.Shelves(ctx, cas.ShelfID{}, func(id cas.ShelfID) error {
			return s.Shelf(id).Enumerate(ctx, cid.Undef, func(c cid.Cid, n int64) error {
				got, err := s.Shelf(id).Get(ctx, c)
				if err != nil || cas.Sum(got) != c || int64(len(got)) != n {
					t.Errorf("pack %d: a block of %d bytes is listed with %d, %v", i, len(got), n, err)
				}
				return nil
			})
		}))
		must(t, s.Shelf(shelf).Put(ctx, good...))
		must(t, s.Close())
	}
}

// The format, as doc.go has it.
func packOf(blocks ...cas.Block) []byte {
	b := packHead(1)
	for _, block := range blocks {
		b = append(b, rawRecord(shelf, block.CID, block.Data)...)
	}
	return b
}

func packHead(version uint32) []byte {
	b := append([]byte("PMPACK\r\n"), binary.BigEndian.AppendUint32(nil, version)...)
	b = binary.BigEndian.AppendUint64(b, 7)
	return sum(append(b, make([]byte, 8)...))
}

func laterPack() []byte { return packHead(2) }

func rawRecord(shelf cas.ShelfID, c cid.Cid, data []byte) []byte {
	b := append(append([]byte{0x89, 'P', 'M', 'R'}, shelf[:]...), c.Hash()[2:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
	return append(sum(b), data...)
}

func sum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// TestPackFormat reads a pack that was made as doc.go says.
func TestPackFormat(t *testing.T) {
	dir := t.TempDir()
	blocks := castest.Blocks(1, 3, 300)
	must(t, os.MkdirAll(filepath.Join(dir, "packs"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "packs", "0000000000000007.pack"), packOf(blocks...), 0o600))
	s := openDisk(t, dir, cas.DiskOptions{})
	for _, b := range blocks {
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(len(got), err)
		}
	}
	must(t, s.Shelf(shelf).Put(t.Context(), castest.Blocks(2, 2, 300)...))
	closeDisk(t, s)
	got, err := os.ReadFile(filepath.Join(dir, "packs", "0000000000000008.pack"))
	must(t, err)
	want := packOf(castest.Blocks(2, 2, 300)...)
	want = slices.Concat(sum(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(slices.Clone(want[:12]), 8), 0)), want[32:])
	if !bytes.Equal(got, want) {
		t.Errorf("the pack is\n%s\nwant\n%s", hex.Dump(got), hex.Dump(want))
	}
}

const childDir = "PRIORMESH_TEST_CAS_CHILD"

var childOptions = cas.DiskOptions{Reserve: 1 << 20, PackSize: 2 << 20, CollectEvery: -1}

// workUntilKilled is the child process: it puts and deletes blocks from
// several goroutines, collects meanwhile, and says on stdout what is
// acknowledged, and what is about to be deleted.
func workUntilKilled(dir string) {
	s, err := cas.OpenDisk(dir, childOptions)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var out sync.Mutex
	say := func(what string, cids ...cid.Cid) {
		out.Lock()
		defer out.Unlock()
		for _, c := range cids {
			fmt.Println(what, c)
		}
	}
	ctx := context.Background()
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	for range 4 {
		go func() {
			var mine []cid.Cid
			for {
				size := []int{40, 900, 3000, 60_000, 300_000}[rand.IntN(5)]
				blocks := castest.Blocks(rand.Uint64(), 1+rand.IntN(3), size)
				check(s.Shelf(shelf).Put(ctx, blocks...))
				say("put", cidsOf(blocks)...)
				if mine = append(mine, cidsOf(blocks)...); len(mine) > 6 {
					n := rand.IntN(len(mine) - 2)
					say("deleting", mine[:n]...)
					check(s.Shelf(shelf).Delete(ctx, mine[:n]...))
					say("deleted", mine[:n]...)
					mine = mine[n:]
				}
			}
		}()
	}
	for {
		check(s.Collect(ctx))
	}
}

func TestAcknowledgedSurvivesKill(t *testing.T) {
	exe, err := os.Executable()
	must(t, err)
	dir := t.TempDir()
	fates := map[string]string{}
	for round := range 5 {
		child := exec.Command(exe)
		child.Env = append(os.Environ(), childDir+"="+dir)
		var stderr bytes.Buffer
		child.Stderr = &stderr
		stdout, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		lines := bufio.NewScanner(stdout)
		left, killed := 100+rand.IntN(400), false
		for lines.Scan() {
			what, c, _ := strings.Cut(lines.Text(), " ")
			fates[c] = what
			if left--; left == 0 {
				must(t, child.Process.Kill())
				killed = true
			}
		}
		_ = child.Wait()
		if !killed {
			t.Fatalf("round %d: the child ended by itself: %s", round, stderr.String())
		}
		s := openDisk(t, dir, childOptions)
		for line, what := range fates {
			c, err := cid.Decode(line)
			must(t, err)
			data, err := s.Shelf(shelf).Get(t.Context(), c)
			switch {
			case what == "put" && err != nil:
				t.Fatalf("round %d: acknowledged, and lost: %v", round, err)
			case what == "deleted" && !errors.Is(err, cas.ErrNotFound):
				t.Fatalf("round %d: deleted, and there: %v", round, err)
			case err != nil && !errors.Is(err, cas.ErrNotFound):
				t.Fatalf("round %d: %s: %v", round, what, err)
			case err == nil:
				must(t, cas.Block{CID: c, Data: data}.Verify())
			}
			if what == "deleting" {
				delete(fates, line)
			}
		}
		must(t, s.Collect(t.Context()))
		closeDisk(t, s)
	}
}
