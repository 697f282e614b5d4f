package cas_test

import (
	"bufio"
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
		putUntilKilled(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// kept finds the folder of a store again.
var kept sync.Map

func openBadger(t testing.TB, dir string, o cas.BadgerOptions) *cas.Badger {
	t.Helper()
	if o.MinFree == 0 {
		o.MinFree = 1 << 20
	}
	s, err := cas.OpenBadger(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	kept.Store(s, dir)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func closeBadger(t testing.TB, s cas.Store) (dir string) {
	t.Helper()
	if err := s.(*cas.Badger).Close(); err != nil {
		t.Fatal(err)
	}
	d, _ := kept.Load(s)
	return d.(string)
}

func TestMemory(t *testing.T) {
	castest.Run(t, castest.Backend{Open: func(*testing.T) cas.Store { return cas.NewMemory() }})
}

func TestBadger(t *testing.T) {
	castest.Run(t, castest.Backend{
		Open: func(t *testing.T) cas.Store { return openBadger(t, t.TempDir(), cas.BadgerOptions{}) },
		Reopen: func(t *testing.T, s cas.Store) cas.Store {
			return openBadger(t, closeBadger(t, s), cas.BadgerOptions{})
		},
		Corrupt: func(t *testing.T, s cas.Store, _ cas.ShelfID, b cas.Block) cas.Store {
			// One bit, in a file of an earlier life: the newest is checked whole at opening.
			dir := closeBadger(t, s)
			s = openBadger(t, dir, cas.BadgerOptions{})
			dir = closeBadger(t, s)
			damage(t, dir, b.Data)
			return openBadger(t, dir, cas.BadgerOptions{})
		},
	})
}

// damage flips one bit in the middle of what is found in the files of dir.
func damage(t *testing.T, dir string, data []byte) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if at := bytes.Index(b, data); at >= 0 {
			found++
			b[at+len(data)/2] ^= 0x10
			return os.WriteFile(path, b, 0o600)
		}
		return nil
	})
	if err != nil || found != 1 {
		t.Fatalf("found the block %d times: %v", found, err)
	}
}

func TestBadgerIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	openBadger(t, dir, cas.BadgerOptions{})
	if _, err := cas.OpenBadger(dir, cas.BadgerOptions{}); !errors.Is(err, cas.ErrInUse) {
		t.Fatalf("opened twice: %v", err)
	}
}

func TestBadgerRefusesAnotherFormat(t *testing.T) {
	for name, entry := range map[string][2]string{
		"a later format":      {"\x00", "priormesh blocks 2"},
		"some other database": {"\x05key", "value"},
	} {
		dir := t.TempDir()
		db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil))
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(txn *badger.Txn) error { return txn.Set([]byte(entry[0]), []byte(entry[1])) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := cas.OpenBadger(dir, cas.BadgerOptions{}); !errors.Is(err, cas.ErrVersion) {
			t.Errorf("opened %s: %v", name, err)
		}
	}
}

func TestBadgerKeepsSpaceBack(t *testing.T) {
	s := openBadger(t, t.TempDir(), cas.BadgerOptions{MinFree: 1 << 60})
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

func TestBadgerAfterClose(t *testing.T) {
	s, err := cas.OpenBadger(t.TempDir(), cas.BadgerOptions{})
	if err != nil {
		t.Fatal(err)
	}
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
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	users.Wait()
	_, getErr := s.Shelf(shelf).Get(t.Context(), block.CID)
	_, hasErr := s.Shelf(shelf).Has(t.Context(), block.CID)
	for name, err := range map[string]error{
		"Put": s.Shelf(shelf).Put(t.Context(), block), "Get": getErr, "Has": hasErr, "Delete": s.Shelf(shelf).Delete(t.Context(), block.CID),
		"Enumerate": s.Shelf(shelf).Enumerate(t.Context(), cid.Undef, func(cid.Cid, int64) error { return nil }),
		"Reclaim":   s.Reclaim(t.Context()),
	} {
		if !errors.Is(err, cas.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func TestBadgerReclaimsSpace(t *testing.T) {
	dir := t.TempDir()
	s := openBadger(t, dir, cas.BadgerOptions{FileSize: 4 << 20})
	stay, gone := castest.Blocks(1, 10, 200_000), castest.Blocks(2, 100, 200_000)
	for i := range stay {
		must(t, s.Shelf(shelf).Put(t.Context(), append(gone[10*i:10*i+10:10*i+10], stay[i])...))
	}
	var cids []cid.Cid
	for _, b := range gone {
		cids = append(cids, b.CID)
	}
	before := diskUse(t, dir)
	must(t, s.Shelf(shelf).Delete(t.Context(), cids...))

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
	for range 3 {
		must(t, s.Reclaim(t.Context()))
	}
	stop()
	others.Wait()

	if after := diskUse(t, dir); after > before/2 {
		t.Errorf("of %d bytes on disk %d are left after nine tenths were deleted", before, after)
	}
	for _, b := range gone {
		if has, err := s.Shelf(shelf).Has(t.Context(), b.CID); has || err != nil {
			t.Fatal("a deleted block came back", err)
		}
	}
	s = openBadger(t, closeBadger(t, s), cas.BadgerOptions{})
	for _, b := range stay {
		if got, err := s.Shelf(shelf).Get(t.Context(), b.CID); err != nil || !bytes.Equal(got, b.Data) {
			t.Fatal(len(got), err)
		}
	}
}

func TestBadgerReclaimsByItself(t *testing.T) {
	dir := t.TempDir()
	s := openBadger(t, dir, cas.BadgerOptions{FileSize: 1 << 20, GCInterval: 20 * time.Millisecond})
	blocks := castest.Blocks(1, 60, 100_000)
	var cids []cid.Cid
	for i := range 6 {
		must(t, s.Shelf(shelf).Put(t.Context(), blocks[10*i:10*i+10]...))
	}
	for _, b := range blocks {
		cids = append(cids, b.CID)
	}
	before := diskUse(t, dir)
	must(t, s.Shelf(shelf).Delete(t.Context(), cids...))
	waitFor(t, func() bool { return diskUse(t, dir) < before/2 })
}

// diskUse is what the files of dir really take; they are sparse.
func diskUse(t *testing.T, dir string) (n int64) {
	t.Helper()
	out, err := exec.Command("du", "-sk", dir).Output()
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(out), &n); err != nil {
		t.Fatal(err)
	}
	return n << 10
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

func TestBadgerLogsNoContent(t *testing.T) {
	var log bytes.Buffer
	dir := t.TempDir()
	s := openBadger(t, dir, cas.BadgerOptions{})
	block := cas.Block{Data: bytes.Repeat([]byte("DOE^JANE "), 500)}
	block.CID = cas.Sum(block.Data)
	must(t, s.Shelf(shelf).Put(t.Context(), block))
	closeBadger(t, s)
	closeBadger(t, openBadger(t, dir, cas.BadgerOptions{}))
	damage(t, dir, block.Data)
	s = openBadger(t, dir, cas.BadgerOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := s.Shelf(shelf).Get(t.Context(), block.CID); !errors.Is(err, cas.ErrCorrupt) {
		t.Fatal(err)
	}
	if log.Len() == 0 || strings.Contains(log.String(), "DOE") {
		t.Errorf("the log says %q", log.String())
	}
}

var shelf = cas.ShelfID{1}

const childDir = "PRIORMESH_TEST_CAS_CHILD"

// putUntilKilled is the child process: it puts blocks from several
// goroutines and says on stdout which are acknowledged.
func putUntilKilled(dir string) {
	s, err := cas.OpenBadger(dir, cas.BadgerOptions{FileSize: 4 << 20, MinFree: 1 << 20})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var out sync.Mutex
	for range 4 {
		go func() {
			for {
				size := []int{40, 900, 3000, 60_000, 500_000}[rand.IntN(5)]
				blocks := castest.Blocks(rand.Uint64(), 1+rand.IntN(3), size)
				if err := s.Shelf(shelf).Put(context.Background(), blocks...); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				out.Lock()
				for _, b := range blocks {
					fmt.Println(b.CID)
				}
				out.Unlock()
			}
		}()
	}
	select {}
}

func TestAcknowledgedSurvivesKill(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range 4 {
		child := exec.Command(exe)
		child.Env = append(os.Environ(), childDir+"="+dir)
		var stderr bytes.Buffer
		child.Stderr = &stderr
		stdout, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		lines := bufio.NewScanner(stdout)
		until := len(acked) + 20 + rand.IntN(150)
		for lines.Scan() {
			if acked[lines.Text()] = true; len(acked) == until {
				must(t, child.Process.Kill())
			}
		}
		_ = child.Wait()
		if len(acked) < until {
			t.Fatalf("round %d: the child ended by itself: %s", round, stderr.String())
		}
		s := openBadger(t, dir, cas.BadgerOptions{FileSize: 4 << 20})
		for line := range acked {
			c, err := cid.Decode(line)
			must(t, err)
			data, err := s.Shelf(shelf).Get(t.Context(), c)
			if err != nil {
				t.Fatalf("round %d: acknowledged, and lost: %v", round, err)
			}
			must(t, cas.Block{CID: c, Data: data}.Verify())
		}
		held := 0
		must(t, s.Shelf(shelf).Enumerate(t.Context(), cid.Undef, func(cid.Cid, int64) error { held++; return nil }))
		if held < len(acked) {
			t.Fatalf("round %d: %d blocks are listed, %d acknowledged", round, held, len(acked))
		}
		closeBadger(t, s)
	}
}

// Badger tells of a value log that failed to sync in its log only. The store
// listens for that line; an upgrade that words it otherwise has to fail here.
func TestBadgerStillWordsItSo(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/dgraph-io/badger/v4").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "value.go"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(source, []byte(`Errorf("Error while curlf sync: %v\n", err)`)) {
		t.Error("Badger no longer logs a failed sync in these words; see badgerLog")
	}
}
