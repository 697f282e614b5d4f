package cas_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		workUntilKilled(dir)
		return
	}
	if dir := os.Getenv(openDir); dir != "" {
		if err := openAndCheck(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Badger leaves these behind when it refuses to open what is damaged.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/dgraph-io/badger/v4.(*DB).monitorCache"),
		goleak.IgnoreTopFunction("github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators"))
}

var shelf = cas.ShelfID{1}

// kept finds the folder and the options of a store again.
var kept sync.Map

type keptDisk struct {
	dir string
	o   cas.DiskOptions
}

func openDisk(t testing.TB, dir string, o cas.DiskOptions) *cas.Disk {
	t.Helper()
	if o.Reserve == 0 {
		o.Reserve = 1 << 20
	}
	s, err := cas.OpenDisk(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	kept.Store(s, keptDisk{dir, o})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func closeDisk(t testing.TB, s *cas.Disk) (dir string) {
	t.Helper()
	must(t, s.Close())
	k, _ := kept.Load(s)
	return k.(keptDisk).dir
}

func reopenDisk(t testing.TB, s *cas.Disk) *cas.Disk {
	t.Helper()
	must(t, s.Close())
	k, _ := kept.Load(s)
	return openDisk(t, k.(keptDisk).dir, k.(keptDisk).o)
}

func TestMemory(t *testing.T) {
	castest.Run(t, castest.Backend{Open: func(*testing.T) cas.Store { return cas.NewMemory() }})
}

func TestDisk(t *testing.T) {
	t.Parallel()
	castest.Run(t, diskBackend(cas.DiskOptions{}))
}

// TestDiskInSmallPacks has a pack for every few blocks, and collects all the time.
func TestDiskInSmallPacks(t *testing.T) {
	t.Parallel()
	o := func(d *castest.Drive) cas.DiskOptions {
		return cas.DiskOptions{FS: d.FS(), Reserve: -1, PackSize: 64 << 10, CollectEvery: time.Millisecond}
	}
	castest.Run(t, castest.Backend{
		Open: func(t *testing.T) cas.Store {
			dir, d := t.TempDir(), castest.NewDrive(1)
			must(t, makeAbove(d, dir))
			return openDisk(t, dir, o(d))
		},
		Reopen: func(t *testing.T, s cas.Store) cas.Store { return reopenDisk(t, s.(*cas.Disk)) },
	})
}

// TestDiskWithoutItsLocator makes the locator anew whenever it is opened.
func TestDiskWithoutItsLocator(t *testing.T) {
	t.Parallel()
	b := diskBackend(cas.DiskOptions{Volatile: true, Reserve: -1, CollectEvery: -1})
	forgetful(&b)
	b.Corrupt = nil // it would open the store, which then does not know the block
	castest.Run(t, b)
}

func TestDiskOnADrive(t *testing.T) {
	t.Parallel()
	drives := sync.Map{}
	open := func(t *testing.T, d *castest.Drive) cas.Store {
		s := openDisk(t, "/store", cas.DiskOptions{FS: d.FS(), Volatile: true, Reserve: -1, PackSize: 4 << 20})
		drives.Store(s, d)
		return s
	}
	driveOf := func(s cas.Store) *castest.Drive { d, _ := drives.Load(s); return d.(*castest.Drive) }
	b := castest.Backend{
		Open: func(t *testing.T) cas.Store { return open(t, castest.NewDrive(1)) },
		Reopen: func(t *testing.T, s cas.Store) cas.Store {
			must(t, s.Close())
			return open(t, driveOf(s))
		},
		Corrupt: func(t *testing.T, s cas.Store, shelf cas.ShelfID, b cas.Block) cas.Store {
			if n := driveOf(s).Rot(record(shelf, b), len(b.Data)/2); n != 1 {
				t.Fatalf("found the block %d times", n)
			}
			return s
		},
	}
	forgetful(&b)
	castest.Run(t, b)
}

func TestVerifiedDisk(t *testing.T) {
	t.Parallel()
	castest.Run(t, castest.Backend{Open: func(t *testing.T) cas.Store {
		return verifiedStore{openDisk(t, "/store", cas.DiskOptions{FS: castest.NewDrive(1).FS(), Volatile: true, Reserve: -1})}
	}})
}

type verifiedStore struct{ cas.Store }

func (s verifiedStore) Shelf(id cas.ShelfID) cas.Shelf { return cas.Verified(s.Store.Shelf(id)) }

func diskBackend(o cas.DiskOptions) castest.Backend {
	return castest.Backend{
		Open: func(t *testing.T) cas.Store { return openDisk(t, t.TempDir(), o) },
		Reopen: func(t *testing.T, s cas.Store) cas.Store {
			return reopenDisk(t, s.(*cas.Disk))
		},
		Corrupt: func(t *testing.T, s cas.Store, shelf cas.ShelfID, b cas.Block) cas.Store {
			dir := closeDisk(t, s.(*cas.Disk))
			damage(t, dir, shelf, b)
			return openDisk(t, dir, o)
		},
	}
}

// forgetful is a backend that may have deleted blocks back when it is opened:
// a contract test that deletes and opens again does not hold for it.
func forgetful(b *castest.Backend) { b.Reopen = nil }

// record is what comes before the data of a block in its pack.
func record(shelf cas.ShelfID, b cas.Block) []byte {
	return append(append([]byte{0x89, 'P', 'M', 'R'}, shelf[:]...), b.CID.Hash()[2:]...)
}

// damage flips one bit in the middle of a block in the packs of dir.
func damage(t *testing.T, dir string, shelf cas.ShelfID, b cas.Block) {
	t.Helper()
	damageAt(t, dir, record(shelf, b), 64+len(b.Data)/2)
}

func damageAt(t *testing.T, dir string, what []byte, at int) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".pack" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if i := bytes.Index(b, what); i >= 0 {
			found++
			b[i+at] ^= 0x10
			return os.WriteFile(path, b, 0o600)
		}
		return nil
	})
	if err != nil || found != 1 {
		t.Fatalf("found the block %d times: %v", found, err)
	}
}

func TestDiskIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	openDisk(t, dir, cas.DiskOptions{})
	if _, err := cas.OpenDisk(dir, cas.DiskOptions{}); !errors.Is(err, cas.ErrInUse) {
		t.Fatalf("opened twice: %v", err)
	}
}

func TestDiskRefusesAnotherFormat(t *testing.T) {
	database := func(t *testing.T, dir, key, value string) {
		db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil))
		must(t, err)
		err = db.Update(func(txn *badger.Txn) error { return txn.Set([]byte(key), []byte(value)) })
		must(t, errors.Join(err, db.Close()))
	}
	for name, write := range map[string]func(t *testing.T, dir string){
		"blocks in Badger": func(t *testing.T, dir string) { database(t, dir, "\x00", "priormesh blocks 1") },
		"a later locator": func(t *testing.T, dir string) {
			database(t, filepath.Join(dir, "locator"), "\x00", "priormesh locator 2")
		},
		"a later pack": func(t *testing.T, dir string) {
			closeDisk(t, openDiskWith(t, dir))
			must(t, os.RemoveAll(filepath.Join(dir, "locator")))
			must(t, os.WriteFile(filepath.Join(dir, "packs", "0000000000000001.pack"), laterPack(), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir)
			if _, err := cas.OpenDisk(dir, cas.DiskOptions{}); !errors.Is(err, cas.ErrVersion) {
				t.Errorf("opened: %v", err)
			}
		})
	}
}

func openDiskWith(t *testing.T, dir string, blocks ...cas.Block) *cas.Disk {
	s := openDisk(t, dir, cas.DiskOptions{})
	must(t, s.Shelf(shelf).Put(t.Context(), blocks...))
	return s
}

func TestDiskKeepsSpaceBack(t *testing.T) {
	s := openDisk(t, t.TempDir(), cas.DiskOptions{Reserve: 1 << 60})
	block := castest.Blocks(1, 1, 5000)[0]
	if err := s.Shelf(shelf).Put(t.Context(), block); !errors.Is(err, cas.ErrDiskFull) {
		t.Fatalf("put on a full disk: %v", err)
	}
	if has, err := s.Shelf(shelf).Has(t.Context(), block.CID); has || err != nil {
		t.Fatal(has, err)
	}
	if err := s.Shelf(shelf).Delete(t.Context(), block.CID); err != nil {
		t.Fatalf("a full disk must not stop deleting: %v", err)
	}
}

func TestDiskAfterClose(t *testing.T) {
	s, err := cas.OpenDisk(t.TempDir(), cas.DiskOptions{Reserve: 1 << 20})
	must(t, err)
	block := castest.Blocks(1, 1, 5000)[0]
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			for {
				if err := s.Shelf(shelf).Put(t.Context(), block); errors.Is(err, cas.ErrClosed) {
					return
				} else if err != nil {
					t.Error(err)
					return
				}
				if _, err := s.Shelf(shelf).Get(t.Context(), block.CID); err != nil && !errors.Is(err, cas.ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	waitFor(t, func() bool { has, err := s.Shelf(shelf).Has(t.Context(), block.CID); return has && err == nil })
	must(t, errors.Join(s.Close(), s.Close()))
	users.Wait()
	ctx := t.Context()
	_, getErr := s.Shelf(shelf).Get(ctx, block.CID)
	_, hasErr := s.Shelf(shelf).Has(ctx, block.CID)
	_, _, sizeErr := s.Shelf(shelf).Size(ctx)
	for name, err := range map[string]error{
		"Put": s.Shelf(shelf).Put(ctx, block), "Get": getErr, "Has": hasErr, "Size": sizeErr,
		"Delete":    s.Shelf(shelf).Delete(ctx, block.CID),
		"Enumerate": s.Shelf(shelf).Enumerate(ctx, cid.Undef, func(cid.Cid, int64) error { return nil }),
		"Shelves":   s.Shelves(ctx, cas.ShelfID{}, func(cas.ShelfID) error { return nil }),
		"Drop":      s.Drop(ctx, shelf),
		"Collect":   s.Collect(ctx),
	} {
		if !errors.Is(err, cas.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestCollectGivesSpaceBack(t *testing.T) {
	dir := t.TempDir()
	s := openDisk(t, dir, cas.DiskOptions{PackSize: 4 << 20, CollectEvery: -1})
	stay, gone := castest.Blocks(1, 10, 200_000), castest.Blocks(2, 100, 200_000)
	for i := range stay {
		must(t, s.Shelf(shelf).Put(t.Context(), append(gone[10*i:10*i+10:10*i+10], stay[i])...))
	}
	must(t, s.Shelf(shelf).Delete(t.Context(), cidsOf(gone)...))
	if sp := s.Space(); sp.Blocks != 10 || sp.Live != 10*200_064 || sp.Dead < 100*200_064 {
		t.Fatalf("before: %+v", sp)
	}

	// Others go on reading and writing meanwhile.
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	more := castest.Blocks(3, 50, 2000)
	others.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := s.Shelf(shelf).Put(t.Context(), more[i%len(more)]); err != nil {
				t.Error(err)
			}
			if got, err := s.Shelf(shelf).Get(t.Context(), stay[i%len(stay)].CID); err != nil || !bytes.Equal(got, stay[i%len(stay)].Data) {
				t.Error(len(got), err)
			}
		}
	})
	must(t, s.Collect(t.Context()))
	stop()
	others.Wait()

	if after := packBytes(t, dir); after > 12*200_064 {
		t.Errorf("%d bytes are left in the packs for %+v", after, s.Space())
	}
	for _, b := range gone {
		if has, err := s.Shelf(shelf).Has(t.Context(), b.CID); has || err != nil {
			t.Fatal("a deleted block came back", err)
		}
	}
	s = reopenDisk(t, s)
	for _, b := range stay {
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(len(got), err)
		}
	}
}

func TestSpaceComesBackByItself(t *testing.T) {
	dir := t.TempDir()
	s := openDisk(t, dir, cas.DiskOptions{PackSize: 1 << 20, CollectEvery: 20 * time.Millisecond})
	blocks := castest.Blocks(1, 60, 100_000)
	for i := range 6 {
		must(t, s.Shelf(shelf).Put(t.Context(), blocks[10*i:10*i+10]...))
	}
	before := packBytes(t, dir)
	must(t, s.Shelf(shelf).Delete(t.Context(), cidsOf(blocks)...))
	waitFor(t, func() bool { return packBytes(t, dir) < before/2 })
}

// A pack with a live block that cannot be read is kept, and everything else in
// it is collected; when the block is mended, the pack goes.
func TestCollectKeepsWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	o := cas.DiskOptions{PackSize: 1 << 20, CollectEvery: -1}
	s := openDisk(t, dir, o)
	blocks := castest.Blocks(1, 10, 100_000)
	must(t, s.Shelf(shelf).Put(t.Context(), blocks...))
	must(t, s.Shelf(shelf).Delete(t.Context(), cidsOf(blocks[:6])...))
	must(t, s.Close())
	damage(t, dir, shelf, blocks[7])
	damageAt(t, dir, record(shelf, blocks[8]), 30) // its head
	s = openDisk(t, dir, o)
	for range 2 {
		must(t, s.Collect(t.Context()))
		for i, b := range blocks[6:] {
			got, err := s.Shelf(shelf).Get(t.Context(), b.CID)
			if i == 1 || i == 2 {
				if !errors.Is(err, cas.ErrCorrupt) {
					t.Fatalf("a damaged block: %d bytes, %v", len(got), err)
				}
			} else if err != nil || !bytes.Equal(got, b.Data) {
				t.Fatal(len(got), err)
			}
		}
	}
	if n := len(packNames(t, dir)); n != 2 {
		t.Fatalf("%d packs, want the damaged one and the new one", n)
	}
	must(t, s.Shelf(shelf).Put(t.Context(), blocks[7:9]...))
	must(t, s.Collect(t.Context()))
	if n := len(packNames(t, dir)); n != 1 {
		t.Fatalf("%d packs after mending, want 1", n)
	}
	for _, b := range blocks[6:] {
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(len(got), err)
		}
	}
}

// Restarts leave small packs; they are merged.
func TestCollectMergesSmallPacks(t *testing.T) {
	dir := t.TempDir()
	blocks := castest.Blocks(1, 8, 1000)
	for _, b := range blocks {
		closeDisk(t, openDiskWith(t, dir, b))
	}
	if n := len(packNames(t, dir)); n != 8 {
		t.Fatalf("%d packs, want one of each life", n)
	}
	s := openDisk(t, dir, cas.DiskOptions{CollectEvery: -1})
	must(t, s.Collect(t.Context()))
	if n := len(packNames(t, dir)); n != 1 {
		t.Fatalf("%d packs", n)
	}
	for _, b := range blocks {
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(len(got), err)
		}
	}
}

// A locator that is lost or damaged in any file costs nothing that was put.
func TestLocatorIsMadeAnew(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, dir string){
		"gone":    func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) },
		"emptied": func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)); must(t, os.Mkdir(dir, 0o700)) },
		"without a manifest": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "MANIFEST")))
		},
		"manifest cut": func(t *testing.T, dir string) {
			must(t, os.Truncate(filepath.Join(dir, "MANIFEST"), 3))
		},
		"tables flipped": func(t *testing.T, dir string) { harmFiles(t, dir, "*.sst", func(b []byte) { b[len(b)/2] ^= 0x40 }) },
		"tables flipped at the start": func(t *testing.T, dir string) {
			harmFiles(t, dir, "*.sst", func(b []byte) { b[40] ^= 0x40 })
		},
		"tables gone": func(t *testing.T, dir string) {
			names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
			must(t, err)
			for _, name := range names {
				must(t, os.Remove(name))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			blocks := castest.Blocks(1, 300, 700)
			s := openDisk(t, dir, cas.DiskOptions{PackSize: 64 << 10, CollectEvery: -1})
			for at := 0; at < len(blocks); at += 20 {
				must(t, s.Shelf(shelf).Put(t.Context(), blocks[at:at+20]...))
			}
			closeDisk(t, s)
			harm(t, filepath.Join(dir, "locator"))
			s = openDisk(t, dir, cas.DiskOptions{})
			for _, b := range blocks {
				if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
					t.Fatal(len(got), err)
				}
			}
			n, bytes, err := s.Shelf(shelf).Size(t.Context())
			if n != 300 || bytes != 300*700 || err != nil || s.Space().Blocks != 300 {
				t.Fatal(n, bytes, err, s.Space())
			}
		})
	}
}

// Whatever is damaged in whichever file of the locator, the store opens and
// has every block, and does not take the process with it.
func TestLocatorDamagedAnywhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	blocks := castest.Blocks(1, 300, 100)
	must(t, openDiskWith(t, dir, blocks[:200]...).Close())
	s := openDiskWith(t, dir, blocks[200:]...)
	c := crash{dir: dir}
	must(t, c.copyLocator()) // with a log that is not a table yet
	must(t, s.Close())
	exe, err := os.Executable()
	must(t, err)
	rounds := 15
	if n, err := strconv.Atoi(os.Getenv("PRIORMESH_SOAK")); err == nil {
		rounds = max(n/50, rounds)
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range rounds {
		must(t, errors.Join(os.RemoveAll(dir+"/locator"), os.CopyFS(dir+"/locator", os.DirFS(dir+"/copy"))))
		names, err := filepath.Glob(dir + "/locator/*")
		must(t, err)
		name := names[rnd.IntN(len(names))]
		b, err := os.ReadFile(name)
		must(t, err)
		switch at := rnd.IntN(len(b) + 1); {
		case rnd.IntN(3) == 0:
			b = b[:at]
		default:
			// Logs are mostly empty: aim at what is written.
			at = rnd.IntN(max(len(bytes.TrimRight(b, "\x00")), 1))
			for i := at; i < min(at+1+rnd.IntN(2)*rnd.IntN(5000), len(b)); i++ {
				b[i] ^= byte(1 + rnd.IntN(255))
			}
		}
		must(t, os.WriteFile(name, b, 0o600))
		// In another process, because Badger may panic; but not for ever.
		var out []byte
		for range 3 {
			child := exec.Command(exe)
			child.Env = append(os.Environ(), openDir+"="+dir)
			if out, err = child.CombinedOutput(); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("seed %d, %s: %v\n%s", seed, filepath.Base(name), err, out)
		}
	}
}

const openDir = "PRIORMESH_TEST_CAS_OPEN"

// openAndCheck is the child process of TestLocatorDamagedAnywhere.
func openAndCheck(dir string) error {
	s, err := cas.OpenDisk(dir, cas.DiskOptions{Reserve: -1, CollectEvery: -1})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for _, b := range castest.Blocks(1, 300, 100) {
		if got, err := s.Shelf(shelf).Get(ctx, b.CID); err != nil || !bytes.Equal(got, b.Data) {
			return fmt.Errorf("%d bytes, %w", len(got), err)
		}
	}
	if n, _, err := s.Shelf(shelf).Size(ctx); n != 300 || err != nil {
		return fmt.Errorf("%d blocks, %w", n, err)
	}
	return s.Close()
}

func harmFiles(t *testing.T, dir, pattern string, harm func([]byte)) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatal("no such files", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		must(t, err)
		harm(b)
		must(t, os.WriteFile(name, b, 0o600))
	}
}

// Damage in the middle of a pack costs the blocks that it hits and no other,
// also when the locator is made anew.
func TestDamageCutsNothingOff(t *testing.T) {
	for name, at := range map[string]int{"data": 64 + 300, "head": 10, "length": 53} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			blocks := castest.Blocks(1, 50, 700)
			closeDisk(t, openDiskWith(t, dir, blocks...))
			damageAt(t, dir, record(shelf, blocks[0]), at)
			damageAt(t, dir, record(shelf, blocks[20]), at)
			damageAt(t, dir, record(shelf, blocks[49]), at)
			for _, remade := range []bool{false, true} {
				if remade {
					must(t, os.RemoveAll(filepath.Join(dir, "locator")))
				}
				s := openDisk(t, dir, cas.DiskOptions{})
				for i, b := range blocks {
					got, err := s.Shelf(shelf).Get(t.Context(), b.CID)
					want := error(nil)
					if i == 0 || i == 20 || i == 49 {
						if want = cas.ErrCorrupt; remade {
							want = cas.ErrNotFound
						}
					}
					if !errors.Is(err, want) || want == nil && !bytes.Equal(got, b.Data) {
						t.Fatalf("block %d: %d bytes, %v, want %v", i, len(got), err, want)
					}
				}
				closeDisk(t, s)
			}
		})
	}
}

// Bytes in a block that are shaped like a record are not taken for one, even
// when damage makes the store search for records.
func TestForgedRecordIsNoBlock(t *testing.T) {
	dir := t.TempDir()
	victim := castest.Blocks(1, 1, 500)[0]
	forged := rawRecord(shelf, victim.CID, []byte("not what its address says"))
	outer := cas.Block{Data: append(append(make([]byte, 100), forged...), make([]byte, 100)...)}
	outer.CID = cas.Sum(outer.Data)
	closeDisk(t, openDiskWith(t, dir, outer, castest.Blocks(2, 1, 500)[0]))
	damageAt(t, dir, record(shelf, outer), 10)
	must(t, os.RemoveAll(filepath.Join(dir, "locator")))
	s := openDisk(t, dir, cas.DiskOptions{})
	if has, err := s.Shelf(shelf).Has(t.Context(), victim.CID); has || err != nil {
		t.Fatal("the forged record was taken for a block", err)
	}
	if _, err := s.Shelf(shelf).Get(t.Context(), castest.Blocks(2, 1, 500)[0].CID); err != nil {
		t.Fatal(err)
	}
}

func TestManyPacksAreFewOpenFiles(t *testing.T) {
	dir := t.TempDir()
	s := openDisk(t, dir, cas.DiskOptions{PackSize: 1, CollectEvery: -1})
	blocks := castest.Blocks(1, 400, 100)
	must(t, s.Shelf(shelf).Put(t.Context(), blocks...))
	if n := len(packNames(t, dir)); n != 400 {
		t.Fatalf("%d packs, want one for each block", n)
	}
	var readers sync.WaitGroup
	for r := range 4 {
		readers.Go(func() {
			for i := range blocks {
				b := blocks[(i*(r+1))%len(blocks)]
				if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
					t.Error(len(got), err)
				}
			}
		})
	}
	readers.Wait()
	if n := openFilesBelow(t, filepath.Join(dir, "packs")); n > 150 {
		t.Errorf("%d packs are open", n)
	}
}

func openFilesBelow(t *testing.T, dir string) (n int) {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("the system lists no open files: ", err)
		}
		t.Skip("NOT COUNTED: this system lists no open files: ", err)
	}
	for _, e := range names {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}

func TestDiskLogsNoContent(t *testing.T) {
	var log bytes.Buffer
	dir := t.TempDir()
	block := cas.Block{Data: bytes.Repeat([]byte("DOE^JANE "), 500)}
	block.CID = cas.Sum(block.Data)
	closeDisk(t, openDiskWith(t, dir, block))
	damage(t, dir, shelf, block)
	must(t, os.RemoveAll(filepath.Join(dir, "locator")))
	s := openDisk(t, dir, cas.DiskOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := s.Shelf(shelf).Get(t.Context(), block.CID); !errors.Is(err, cas.ErrNotFound) {
		t.Fatal(err)
	}
	if log.Len() == 0 || strings.Contains(log.String(), "DOE") {
		t.Errorf("the log says %q", log.String())
	}
}

func cidsOf(blocks []cas.Block) (cids []cid.Cid) {
	for _, b := range blocks {
		cids = append(cids, b.CID)
	}
	return cids
}

func packNames(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
	must(t, err)
	return names
}

func packBytes(t testing.TB, dir string) (n int64) {
	t.Helper()
	for _, name := range packNames(t, dir) {
		if info, err := os.Stat(name); err == nil {
			n += info.Size()
		}
	}
	return n
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
