package node_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/archive"
)

// An index whose MANIFEST has lost its last byte names a table less: it is refused, with what to do, before that table is removed.
func TestAManifestThatIsCutOffIsRefusedAndNothingIsRemoved(t *testing.T) {
	r := region(t, "RX1")
	r[0].imports(study("1.2.3.1", ada, "20240101", 2)...)
	r[0].stop()
	dir := filepath.Join(r[0].home.Dir, "index")
	path := filepath.Join(dir, "MANIFEST")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := filesOf(t, dir)
	for name, b := range map[string][]byte{
		"a byte": whole[:len(whole)-1], "all but its head": whole[:8], "its last entries": whole[:16],
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := node.Open(context.Background(), r[0].home, node.Options{})
		if err == nil {
			n.Close()
		}
		if !errors.Is(err, archive.ErrIndexDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore") {
			t.Fatalf("%s: %v", name, err)
		}
		before["MANIFEST"] = string(b)
		if got := filesOf(t, dir); !sameFiles(got, before) {
			t.Fatalf("%s: the folder has changed", name)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	r[0].start()
	r[0].knows(1)
}

// filesOf is what a folder has.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

func sameFiles(a, b map[string]string) bool {
	for name, data := range a {
		if other, ok := b[name]; !ok || other != data {
			return false
		}
	}
	return len(a) == len(b)
}

// smallDatabase is the index's, with tables so small that a second of writing makes and replaces many.
func smallDatabase(dir string) badger.Options {
	return node.IndexOptions(dir).WithMemTableSize(64 << 10).WithNumLevelZeroTables(2).WithNumLevelZeroTablesStall(4).WithValueThreshold(1 << 10).
		WithBaseTableSize(32 << 10).WithBaseLevelSize(128 << 10).WithValueLogFileSize(1 << 20)
}

const (
	crashRows = 400 // keys that are written over and over
	crashDir  = "PRIORMESH_TEST_DATABASE"
)

func crashKey(n int) []byte { return fmt.Appendf(nil, "row %06d", n%crashRows) }

// crashGone says that a row's n-th writing takes it away.
func crashGone(n int) bool { return n%7 == 3 }

// TestMain is the process that is killed where one is asked for, and else runs the tests.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeForever(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForever writes rows, one after the other, and says of each that it is on disk.
func writeForever(dir string) error {
	db, err := node.OpenDatabase(smallDatabase(dir))
	if err != nil {
		return err
	}
	noise := rand.NewChaCha8([32]byte{})
	for n := 0; ; n++ {
		v := make([]byte, 300)
		binary.BigEndian.PutUint64(v, uint64(n))
		noise.Read(v[8:])
		if err := db.Update(func(txn *badger.Txn) error {
			if crashGone(n) {
				return txn.Delete(crashKey(n))
			}
			return txn.Set(crashKey(n), v)
		}); err != nil {
			return err
		}
		fmt.Println("wrote", n)
	}
}

// lacks names a row that a database does not have though it was said to be on disk; rows up to the last-th were, and later ones may be.
func lacks(db *badger.DB, last int) (why string) {
	if err := db.View(func(txn *badger.Txn) error {
		for k := range min(crashRows, last+1) {
			newest := last - (last-k)%crashRows // the last time that it was written
			item, err := txn.Get(crashKey(k))
			if errors.Is(err, badger.ErrKeyNotFound) {
				if !crashGone(newest) && !crashGone(newest+crashRows) {
					why = fmt.Sprintf("row %d has gone, written as %d of %d", k, newest, last)
				}
				continue
			}
			if err != nil {
				return err
			}
			v, err := item.ValueCopy(nil)
			if err != nil {
				return err
			}
			if has := int(binary.BigEndian.Uint64(v)); has < newest || has == newest && crashGone(newest) {
				why = fmt.Sprintf("row %d is as written as %d, not %d of %d", k, has, newest, last)
			}
		}
		return nil
	}); err != nil {
		return err.Error()
	}
	return why
}

// stopped is a database as a process that is killed leaves it.
type stopped struct {
	files map[string]string
	last  int // row that was said to be on disk
}

// put makes it anew, in place of the one before: all of them together are gigabytes.
func (s stopped) put(t *testing.T, dir string, manifest []byte) string {
	t.Helper()
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, data := range s.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if manifest != nil {
		if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), manifest, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// unnamed is how many of its tables the MANIFEST does not name.
func (s stopped) unnamed(t *testing.T, dir string) (n int) {
	t.Helper()
	f, err := os.Open(filepath.Join(s.put(t, dir, nil), "MANIFEST"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, 0, badger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name := range s.files {
		if id, ok := table.ParseFileID(name); ok {
			if _, named := m.Tables[id]; !named {
				n++
			}
		}
	}
	return n
}

// stopOften runs a process that writes, and takes what is on disk at n moments at which it is stopped.
func stopOften(t *testing.T, n int) []stopped {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	heard := make(chan struct{})
	defer func() {
		cmd.Process.Kill()
		<-heard
		cmd.Wait()
	}()
	var last atomic.Int64
	last.Store(-1)
	go func() {
		defer close(heard)
		defer io.Copy(io.Discard, out)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if _, text, ok := strings.Cut(lines.Text(), "wrote "); ok {
				if n, err := strconv.Atoi(text); err == nil {
					last.Store(int64(n))
				}
			}
		}
	}()
	var all []stopped
	for deadline := time.Now().Add(time.Minute); len(all) < n; {
		if time.Now().After(deadline) {
			t.Fatal("it does not write")
		}
		time.Sleep(time.Duration(1+rand.IntN(40)) * time.Millisecond)
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, []byte("State:\tT")) && allStopped(t, cmd.Process.Pid) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the process does not stand still, or has ended: %s", b)
			}
		}
		if at := int(last.Load()); at > crashRows {
			all = append(all, stopped{filesOf(t, dir), at})
		}
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// allStopped says that every thread of a process stands still.
func allStopped(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range threads {
		if b, err := os.ReadFile(path); err == nil && !bytes.Contains(b, []byte("State:\tT")) {
			return false
		}
	}
	return true
}

// entriesOf are the places in a MANIFEST where its entries begin, and its end.
func entriesOf(b []byte) []int {
	at := []int{8}
	for end := 8; end+8 <= len(b); {
		end += 8 + int(binary.BigEndian.Uint32(b[end:]))
		at = append(at, end)
	}
	return at
}

// A process that is killed at any moment, also while the MANIFEST grows by an entry, leaves a database that opens and has all that was said to be
// on disk. One of whose MANIFEST more is cut off is refused and left as it is, unless nothing is lost with it.
func TestADatabaseThatWasKilledOpensAndOneThatIsCutOffLosesNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		if os.Getenv("CI") == "true" {
			t.Fatal("a process cannot be looked at by /proc here")
		}
		t.Skip("NOT TESTED: databases of processes that are stopped at any moment, which /proc of Linux is needed for")
	}
	moments := 30
	if node.Stride(2) == 1 {
		moments = 300
	}
	all := stopOften(t, moments)
	copied := filepath.Join(t.TempDir(), "copied")
	opens := func(s stopped, manifest []byte, what string) {
		t.Helper()
		db, err := node.OpenDatabase(smallDatabase(s.put(t, copied, manifest)))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if why := lacks(db, s.last); why != "" {
			t.Errorf("%s: %s", what, why)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	unnamed, torn, refused, harmless := 0, 0, 0, 0
	for i, s := range all {
		manifest := []byte(s.files["MANIFEST"])
		opens(s, nil, "killed")
		// The entry that came next, of which the disk has got a part.
		if i+1 < len(all) {
			if next := []byte(all[i+1].files["MANIFEST"]); bytes.HasPrefix(next, manifest) && len(next) > len(manifest) {
				entries := entriesOf(next)
				first := entries[slices.Index(entries, len(manifest))+1]
				for end := len(manifest) + 1; end < first; end += node.Stride(17) {
					opens(s, next[:end], "killed with a part of an entry")
					torn++
				}
			}
		}
		unnamed += s.unnamed(t, copied)
		entries := entriesOf(manifest)
		from := entries[max(0, len(entries)-4)]
		for end := len(manifest) - 1; end >= from; end -= node.Stride(23) {
			dir := s.put(t, copied, manifest[:end])
			before := filesOf(t, dir)
			db, err := node.OpenDatabase(smallDatabase(dir))
			if errors.Is(err, archive.ErrIndexDamaged) {
				refused++
				if !sameFiles(filesOf(t, dir), before) {
					t.Fatalf("cut off at %d of %d: it is refused, and was changed", end, len(manifest))
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			harmless++
			if why := lacks(db, s.last); why != "" {
				t.Errorf("cut off at %d of %d: it opens, and %s", end, len(manifest), why)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d moments, with %d tables that no MANIFEST names; %d parts of an entry; of the cuts %d refused, %d without loss", len(all), unnamed, torn, refused, harmless)
	if node.Stride(2) == 1 && unnamed == 0 || torn == 0 || refused == 0 {
		t.Error("the test has shown nothing")
	}
}

// A table that was written and is not named yet is a crash's for as long as the log that it was made of is there; without that it is all there is.
func TestATableThatIsNotNamedYetIsNotRefusedBesideItsLog(t *testing.T) {
	dir, crashed := t.TempDir(), filepath.Join(t.TempDir(), "crashed")
	db, err := node.OpenDatabase(smallDatabase(dir))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		v := make([]byte, 100)
		binary.BigEndian.PutUint64(v, uint64(n))
		if err := db.Update(func(txn *badger.Txn) error {
			if crashGone(n) {
				return txn.Delete(crashKey(n))
			}
			return txn.Set(crashKey(n), v)
		}); err != nil {
			t.Fatal(err)
		}
	}
	s := stopped{filesOf(t, dir), 99} // all rows are in the log
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	tables := 0
	for name, data := range filesOf(t, dir) {
		if filepath.Ext(name) == ".sst" {
			s.files[name] = data
			tables++
		}
	}
	if tables != 1 || s.unnamed(t, crashed) != 1 {
		t.Fatalf("%d tables", tables)
	}
	db, err = node.OpenDatabase(smallDatabase(s.put(t, crashed, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if why := lacks(db, s.last); why != "" {
		t.Error(why)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for name := range s.files {
		if filepath.Ext(name) == ".mem" {
			delete(s.files, name)
		}
	}
	s.put(t, crashed, nil)
	before := filesOf(t, crashed)
	if db, err := node.OpenDatabase(smallDatabase(crashed)); !errors.Is(err, archive.ErrIndexDamaged) {
		if err == nil {
			db.Close()
		}
		t.Fatal(err)
	}
	if !sameFiles(filesOf(t, crashed), before) {
		t.Error("it is refused, and was changed")
	}
}
