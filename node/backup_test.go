package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/audit"
)

func (tr *trust) backs(target string, r api.BackupRequest) api.Backup {
	tr.t.Helper()
	r.Target = target
	b, err := tr.client().Backup(context.Background(), r, nil)
	if err != nil {
		tr.t.Fatal(err)
	}
	return b
}

// rises replaces tr by a node that is restored from a backup.
func (tr *trust) rises(target string) api.Restored {
	tr.t.Helper()
	tr.stop()
	if err := os.RemoveAll(tr.home.Dir); err != nil {
		tr.t.Fatal(err)
	}
	got := tr.restored(target)
	tr.start()
	return got
}

func (tr *trust) restored(target string) api.Restored {
	tr.t.Helper()
	dir := filepath.Join(tr.t.TempDir(), "restored")
	got, err := node.Restore(context.Background(), dir, target, node.RestoreOptions{})
	if err != nil {
		tr.t.Fatal(err)
	}
	if tr.home, err = node.OpenHome(dir); err != nil {
		tr.t.Fatal(err)
	}
	if r, err := audit.Verify(tr.home.Audit()); err != nil || len(r.Problems) > 0 || r.Events < 2 {
		tr.t.Errorf("the audit log after a restore: %+v, %v", r, err)
	}
	return got
}

func (tr *trust) epoch() int {
	tr.t.Helper()
	h, ok := tr.n.Archive().Index.Head(tr.n.Archive().Self)
	if !ok {
		tr.t.Fatal("no log")
	}
	return int(h.Epoch)
}

func (tr *trust) find(uid string) []api.Study {
	tr.t.Helper()
	var f api.Found
	tr.operator("GET", "/api/v1/studies?study="+uid, nil, &f)
	return f.Studies
}

func TestRestoredNodeBeginsAnew(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	a, b, c := r[0], r[1], r[2]
	kept, grown, erased, copied := images("1.2.3.1", 3), images("1.2.3.2", 4), images("1.2.3.3", 2), images("1.2.3.4", 2)
	a.stores(kept)
	a.stores(grown[:2])
	a.stores(erased)
	b.stores(copied)
	a.copies("1.2.3.4", copied, b)
	target := filepath.Join(t.TempDir(), "backup")
	id := a.peer()
	first := a.backs(target, api.BackupRequest{})
	if first.Studies != 3 || first.KEK != "in the backup" || !first.TrustKey || len(first.Missing) != 0 || !first.SameDisk {
		t.Fatalf("%+v", first)
	}

	// What happens after the backup: one study grows, one comes, one is erased.
	a.stores(grown[2:])
	late := images("1.2.3.5", 2)
	a.stores(late)
	b.copies("1.2.3.5", late, a)
	only := images("1.2.3.7", 1)
	a.stores(only)
	b.wait("knows all that came late", func() (bool, string) {
		s := b.find("1.2.3.7")
		return len(s) == 1 && s[0].Settled, fmt.Sprintf("%+v", s)
	})
	told, err := b.n.Archive().Index.Study("1.2.3.5")
	if err != nil || len(told) != 1 {
		t.Fatal(told, err)
	}
	b.copies("1.2.3.2", grown, a)
	if e, err := a.client().Erase(context.Background(), "1.2.3.3", "asked for", func(api.Erasure) {}); err != nil || e.State != "erased" {
		t.Fatalf("%+v %v", e, err)
	}
	for _, m := range []*trust{b, c} {
		m.wait("hears of the erasure and of what came late", func() (bool, string) {
			return len(m.find("1.2.3.3")) == 0 && len(m.find("1.2.3.5")) == 1 && len(m.find("1.2.3.7")) == 1, ""
		})
	}

	got := a.rises(target)
	if got.Node != id || got.Backup != first.ID || a.peer() != id {
		t.Fatalf("%+v", got)
	}
	if a.epoch() != 2 {
		t.Fatalf("epoch %d", a.epoch())
	}
	if a.home.Restored() {
		t.Error("the mark of the restore stays")
	}
	a.reads("1.2.3.1", kept)
	a.reads("1.2.3.2", grown[:2])
	if s := a.find("1.2.3.3"); len(s) != 0 {
		t.Errorf("a study that was erased after the backup is back: %+v", s)
	}
	if code, _, _ := a.retrieve("studies/1.2.3.3"); code != 404 {
		t.Errorf("it is served: %d", code)
	}
	if _, err := a.n.Archive().Keys.Get(keyName("1.2.3.3", a)); err == nil {
		t.Error("its key is back")
	}
	// What came after the backup comes back from the copy, for who reads it too, and is its own as it was told.
	a.reads("1.2.3.5", late)
	a.waitAvailability("1.2.3.5", "ONLINE")
	a.reads("1.2.3.5", late)
	if _, err := a.n.Archive().Keys.Get(keyName("1.2.3.5", a)); err != nil {
		t.Errorf("it came back, and is not its own: %v", err)
	}
	c.copies("1.2.3.5", late, a)
	if now, err := c.n.Archive().Index.Study("1.2.3.5"); err != nil || len(now) != 1 || now[0].Value.Revision != told[0].Value.Revision || now[0].Value.Instances != 2 {
		t.Errorf("%+v, was %+v: %v", now, told, err)
	}
	// What nobody else has is neither unknown nor empty.
	if s := a.find("1.2.3.7"); len(s) != 1 || s[0].Availability != "NEARLINE" || !s[0].Lost || len(s[0].Copies) != 0 {
		t.Errorf("what nobody has: %+v", s)
	}
	if w, err := a.n.Archive().Caveats("1.2.3.7"); err != nil || len(w) != 1 || !strings.Contains(w[0], "1 instances) and has nothing of it since it was restored") || !strings.Contains(w[0], "send it here again") {
		t.Errorf("what is not in the backup is not said: %q %v", w, err)
	}
	for _, path := range []string{"", "/series", "/metadata", "/instances"} {
		if resp, body := a.get("/dicom-web/studies/1.2.3.7"+path, "*/*"); resp.StatusCode != 503 || !strings.Contains(string(body), "send it here again") {
			t.Errorf("%q of it: %d %s", path, resp.StatusCode, body)
		}
	}
	// The copy was left out: it is known, and comes again.
	if s := a.find("1.2.3.4"); len(s) != 1 || s[0].Availability != "NEARLINE" {
		t.Errorf("a copy that the backup did not have: %+v", s)
	}
	a.reads("1.2.3.4", copied)
	// A copy of all that a study had grown to gives all of it, and the others are told who has that.
	revision := func(m *trust) uint64 {
		said, err := m.n.Archive().Index.Study("1.2.3.2")
		if err != nil || len(said) != 1 {
			t.Fatal(said, err)
		}
		return said[0].Value.Revision
	}
	anew := revision(a)
	b.wait("has the study as it is told now", func() (bool, string) {
		s := b.find("1.2.3.2")
		return revision(b) == anew && s[0].Availability == "ONLINE", fmt.Sprintf("%+v", s)
	})
	for _, m := range []*trust{a, c} {
		m.wait("names who has more", func() (bool, string) {
			f := m.finds("study=1.2.3.2")
			return len(f.Studies) == 1 && f.Studies[0].Instances == 2 && strings.Contains(strings.Join(f.Warnings, " "), "and RX2 holds a copy with more"), fmt.Sprintf("%+v", f)
		})
	}
	// And of what was received here that is said to whoever looks.
	part := func(want bool) {
		t.Helper()
		if f := a.finds("study=1.2.3.2"); strings.Contains(strings.Join(f.Warnings, " "), "2 instances in 1 series (CT), of 4 that it had before") != want {
			t.Errorf("%+v", f)
		}
		if _, h, _ := a.retrieve("studies/1.2.3.2"); strings.Contains(strings.Join(h.Values("Warning"), " "), "of 4 instances of this study that this node had received it has 2 since it was restored from an older backup; RX2 has a copy with more") != want {
			t.Errorf("%q", h.Values("Warning"))
		}
		if st := a.status(); slices.ContainsFunc(st.Lost, func(l api.Lost) bool {
			return l.Study == "1.2.3.2" && l.Here == 2 && l.Told == 4 && slices.Equal(l.Copies, []string{"RX2"})
		}) != want {
			t.Errorf("%+v", st.Lost)
		}
	}
	part(true)
	// What it received after the backup and nobody has heard of is on no list: that there may be some is said.
	said := func(want bool) {
		t.Helper()
		const text = "and nobody else had heard of is in no answer and on no list"
		_, h, _ := a.retrieve("studies/1.2.3.1")
		if f := a.finds("patient=nobody"); strings.Contains(strings.Join(f.Warnings, " "), text) != want || strings.Contains(strings.Join(a.status().Warnings, " "), text) != want || strings.Contains(strings.Join(h.Values("Warning"), " "), text) != want {
			t.Errorf("%q, %q, %q", f.Warnings, a.status().Warnings, h.Values("Warning"))
		}
	}
	said(true)
	a.stop()
	a.start()
	said(true)
	for range 2 {
		b.reads("1.2.3.2", grown)
		if s := b.find("1.2.3.2"); s[0].Instances != 4 || s[0].AtLeast {
			t.Errorf("%+v", s)
		}
		if res, body := b.get("/dicom-web/studies/1.2.3.2/instances", "application/dicom+json"); res.StatusCode != 200 || strings.Count(string(body), `"00080018"`) != 4 {
			t.Errorf("it lists %d: %s", res.StatusCode, body)
		}
		if v := b.verifies(); v.Left != 0 {
			t.Errorf("%+v", v)
		}
		b.stop()
		b.start()
	}
	a.stores(grown)
	part(false)
	b.wait("has the study as it is told again", func() (bool, string) {
		s := b.find("1.2.3.2")
		return revision(b) > anew && s[0].Availability == "ONLINE" && len(b.finds("study=1.2.3.2").Warnings) == 0, fmt.Sprintf("%+v %q", s, b.finds("study=1.2.3.2").Warnings)
	})
	b.reads("1.2.3.2", grown)
	// Peers take what it says.
	fresh := images("1.2.3.6", 2)
	a.stores(fresh)
	c.copies("1.2.3.6", fresh, a)
	c.reads("1.2.3.1", kept)
	if v := a.verifies(); v.Left != 0 {
		t.Errorf("%+v", v)
	}
	for _, m := range r {
		if f := m.n.Archive().Index.Forks(); len(f) != 0 {
			t.Errorf("forks at %s: %+v", m.home.Config.Trust, f)
		}
	}
	// Once more from the same backup: the epoch of the first restore is learned of.
	a.rises(target)
	if a.epoch() != 3 {
		t.Errorf("epoch %d after the second restore", a.epoch())
	}
	b.wait("hears the third epoch", func() (bool, string) {
		h, _ := b.n.Archive().Index.Head(a.n.Archive().Self)
		return h.Epoch == 3 && len(b.n.Archive().Index.Forks()) == 0, fmt.Sprint(h.Epoch)
	})
}

func TestBackupIsIncrementalAndLosesErasedKeys(t *testing.T) {
	a := newTrust(t, "RX1", "Test region")
	a.start()
	one, two := images("1.2.3.1", 3), images("1.2.3.2", 3)
	a.stores(one)
	a.settled("1.2.3.1", 3)
	target := filepath.Join(t.TempDir(), "backup")
	first := a.backs(target, api.BackupRequest{})
	again := a.backs(target, api.BackupRequest{})
	if first.Copied == 0 || again.Copied != 0 || again.Packs != first.Packs || again.ID == first.ID {
		t.Fatalf("%+v\n%+v", first, again)
	}
	a.stores(two)
	third := a.backs(target, api.BackupRequest{Reread: true})
	if third.Copied == 0 || third.Copied >= third.Bytes {
		t.Fatalf("%+v", third)
	}
	sets, _ := filepath.Glob(filepath.Join(target, "set-*"))
	if len(sets) != 1 || filepath.Base(sets[0]) != "set-"+third.ID {
		t.Errorf("sets: %v", sets)
	}
	if e, err := a.client().Erase(context.Background(), "1.2.3.1", "asked for", func(api.Erasure) {}); err != nil || e.State != "erased" {
		t.Fatalf("%+v %v", e, err)
	}
	a.backs(target, api.BackupRequest{})
	err := filepath.WalkDir(target, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a.rises(target)
	if s := a.find("1.2.3.1"); len(s) != 0 {
		t.Errorf("erased and there: %+v", s)
	}
	a.reads("1.2.3.2", two)
	if keys, err := filepath.Glob(filepath.Join(a.home.Dir, "keys", "g1", "*")); err != nil || len(keys) != 1 {
		t.Errorf("%d keys: %v", len(keys), err)
	}
}

// A node that does not run is backed up by its home, and with --copies its
// copies are too.
func TestBackupOfAHomeAtRestWithCopies(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a, b := r[0], r[1]
	list := images("1.2.3.4", 3)
	b.stores(list)
	a.copies("1.2.3.4", list, b)
	a.stop()
	target := filepath.Join(t.TempDir(), "backup")
	got, err := node.Backup(context.Background(), a.home, node.Options{}, node.BackupOptions{Target: target, Copies: true, WithoutKEK: true})
	if err != nil || !got.Copies || got.KEK != "left out" {
		t.Fatalf("%+v %v", got, err)
	}
	kek, err := os.ReadFile(filepath.Join(a.home.Dir, "kek"))
	if err != nil {
		t.Fatal(err)
	}
	a.restored(target)
	if _, err := node.Open(context.Background(), a.home, node.Options{}); err == nil || !strings.Contains(err.Error(), "kek") {
		t.Fatalf("without the KEK: %v", err)
	}
	if err := os.WriteFile(filepath.Join(a.home.Dir, "kek"), kek, 0o600); err != nil {
		t.Fatal(err)
	}
	a.start()
	b.stop()
	a.reads("1.2.3.4", list)
}

func TestBackupRefusesWhatIsNone(t *testing.T) {
	a, other := newTrust(t, "RX1", "Test region"), newTrust(t, "RX2", "Another")
	a.start()
	other.start()
	a.stores(images("1.2.3.1", 2))
	dir := t.TempDir()
	target := filepath.Join(dir, "backup")
	try := func(tr *trust, target, want string) {
		t.Helper()
		_, err := tr.client().Backup(context.Background(), api.BackupRequest{Target: target}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", target, err, want)
		}
	}
	try(a, filepath.Join(a.home.Dir, "backup"), "lie in each other")
	try(a, filepath.Dir(a.home.Dir), "lie in each other")
	try(a, filepath.Join(dir, "no", "such"), "no such file")
	if err := os.WriteFile(filepath.Join(dir, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	try(a, dir, "photo.jpg")
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	try(a, open, "may be read by others")
	a.backs(target, api.BackupRequest{})
	try(other, target, "another node")
	if _, err := node.Restore(context.Background(), dir, target, node.RestoreOptions{}); !errors.Is(err, node.ErrNotEmpty) {
		t.Error(err)
	}
	// A restore that was killed: what it left is not taken for a home, and may go.
	cut := filepath.Join(t.TempDir(), "cut")
	ctx, kill := context.WithCancel(context.Background())
	if _, err := node.Restore(ctx, cut, target, node.RestoreOptions{Progress: func(api.BackupProgress) {
		left := filepath.Join(t.TempDir(), "left")
		if err := os.CopyFS(left, os.DirFS(cut)); err != nil {
			t.Error(err)
		}
		cut = left
		kill()
	}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := node.Restore(context.Background(), cut, target, node.RestoreOptions{}); !errors.Is(err, node.ErrNotEmpty) || !strings.Contains(err.Error(), "Remove it (rm -r) and restore again") {
		t.Error(err)
	}
	if _, err := node.Restore(context.Background(), a.home.Dir, target, node.RestoreOptions{}); !errors.Is(err, node.ErrNotEmpty) || strings.Contains(err.Error(), "rm -r") {
		t.Error(err)
	}
	if _, err := node.Restore(context.Background(), filepath.Join(dir, "x"), dir, node.RestoreOptions{}); !errors.Is(err, node.ErrNoBackup) {
		t.Error(err)
	}
}

// Whatever byte of a backup changes, and whatever is missing, nothing is made.
func TestDamagedBackupIsRefused(t *testing.T) {
	a := newTrust(t, "RX1", "Test region")
	a.start()
	a.stores(images("1.2.3.1", 2))
	target := filepath.Join(t.TempDir(), "backup")
	a.backs(target, api.BackupRequest{})
	a.stop()
	tries := 0
	refused := func(what string) {
		t.Helper()
		home := filepath.Join(t.TempDir(), "home")
		if _, err := node.Restore(context.Background(), home, target, node.RestoreOptions{VerifyOnly: true}); !errors.Is(err, node.ErrBackupDamaged) {
			t.Errorf("%s: --verify-only says %v", what, err)
		}
		if tries++; tries%node.Stride(3) != 0 {
			return
		}
		_, err := node.Restore(context.Background(), home, target, node.RestoreOptions{})
		if !errors.Is(err, node.ErrBackupDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		if left, _ := os.ReadDir(home); len(left) != 0 {
			t.Errorf("%s leaves %v", what, left)
		}
	}
	files := 0
	err := filepath.WalkDir(target, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "lock" {
			return err
		}
		files++
		good, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, at := range []int{0, 1, len(good) / 3, len(good) / 2, len(good) - 2, len(good) - 1} {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				return err
			}
			if e.Name() == "backup.json" && bytes.Contains(bad[:40], []byte(`"priormesh backup `)) && !bytes.Contains(bad[:40], []byte(`"priormesh backup 1"`)) {
				continue
			}
			refused(fmt.Sprintf("byte %d of %s", at, e.Name()))
		}
		if err := os.WriteFile(path, good[:len(good)-1], 0o600); err != nil {
			return err
		}
		refused(e.Name() + " cut")
		if e.Name() != "backup.json" {
			if err := os.Remove(path); err != nil {
				return err
			}
			refused(e.Name() + " missing")
		}
		return os.WriteFile(path, good, 0o600)
	})
	if err != nil || files < 4 {
		t.Fatalf("%d files, %v", files, err)
	}
	// One of another version is named as such.
	path := filepath.Join(target, "backup.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var e map[string]json.RawMessage
	if err := json.Unmarshal(good, &e); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"priormesh backup 0", "priormesh backup 2"} {
		bad := bytes.Replace(good, []byte("priormesh backup 1"), []byte(v), 1)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := node.Restore(context.Background(), filepath.Join(t.TempDir(), "h"), target, node.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), v) {
			t.Errorf("%s: %v", v, err)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	a.rises(target)
	a.reads("1.2.3.1", images("1.2.3.1", 2))
}

// A restored node that stops while it says everything anew starts again.
func TestRestoredNodeCutOffAsItBegins(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a, b := r[0], r[1]
	kept, erased := images("1.2.3.1", 2), images("1.2.3.2", 2)
	a.stores(kept)
	a.stores(erased)
	a.settled("1.2.3.2", 2)
	target := filepath.Join(t.TempDir(), "backup")
	a.backs(target, api.BackupRequest{})
	if e, err := a.client().Erase(context.Background(), "1.2.3.2", "asked for", func(api.Erasure) {}); err != nil || e.State != "erased" {
		t.Fatalf("%+v %v", e, err)
	}
	b.wait("hears of the erasure", func() (bool, string) { return len(b.find("1.2.3.2")) == 0, "" })
	a.stop()
	a.restored(target)
	key, err := a.home.NodeKey()
	if err != nil {
		t.Fatal(err)
	}
	region, err := a.home.Region()
	if err != nil {
		t.Fatal(err)
	}
	db, err := badger.Open(node.IndexOptions(filepath.Join(a.home.Dir, "index")))
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Open(db, index.Options{Self: key, Trust: a.home.Config.Trust, Region: region.Region, Votes: region.Votes, Nodes: region.Nodes,
		FoldName: dicom.FoldName, NamesAgree: dicom.NamesAgree, Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	cut, cancel := context.WithCancel(context.Background())
	cancel()
	if err := x.NewEpoch(cut); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	a.start()
	if got := a.epoch(); got < 2 {
		t.Errorf("epoch %d", got)
	}
	a.reads("1.2.3.1", kept)
	if s := a.find("1.2.3.2"); len(s) != 0 {
		t.Errorf("a study that was erased after the backup is back: %+v", s)
	}
	fresh := images("1.2.3.3", 2)
	a.stores(fresh)
	b.copies("1.2.3.3", fresh, a)
	if f := b.n.Archive().Index.Forks(); len(f) != 0 {
		t.Errorf("forks: %+v", f)
	}
}

// What this node received after the backup comes back from who holds a copy, and is
// its own again: nobody else may keep it, for its origin is said to have it.
func TestWhatARestoreLostComesBackFromItsCopies(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	a, b, c := r[0], r[1], r[2]
	a.stores(images("1.2.3.1", 1))
	target := filepath.Join(t.TempDir(), "backup")
	a.backs(target, api.BackupRequest{})
	more, nowhere := images("1.2.3.5", 5), images("1.2.3.6", 2)
	held := more[:4]
	a.stores(held)
	a.stores(nowhere)
	for _, m := range []*trust{b, c} {
		m.copies("1.2.3.5", held, a)
	}
	b.wait("hears of both", func() (bool, string) { return len(b.find("1.2.3.6")) == 1, "" })
	before := b.find("1.2.3.5")[0]
	a.rises(target)

	// Where nobody has it, that is said: it is not denied.
	for _, path := range []string{"studies/1.2.3.6", "studies/1.2.3.6/series/1.2.3.6.1"} {
		code, header, parts := a.retrieve(path)
		if code != 503 || header.Get("Retry-After") == "" || !strings.Contains(string(parts[0]), "has nothing of it since it was restored from an older backup") || !strings.Contains(string(parts[0]), "Nobody is known to hold a copy") {
			t.Errorf("%s: %d %s", path, code, parts)
		}
	}
	if res, body := a.get("/dicom-web/studies/1.2.3.6/series", "application/dicom+json"); res.StatusCode != 503 || !strings.Contains(string(body), "Nobody is known to hold a copy") {
		t.Errorf("series: %d %s", res.StatusCode, body)
	}
	if s := a.find("1.2.3.6"); len(s) != 1 || s[0].Availability != "NEARLINE" || !s[0].Lost {
		t.Errorf("%+v", s)
	}
	if w, err := a.n.Archive().Caveats("1.2.3.6"); err != nil || len(w) != 1 || !strings.Contains(w[0], "2 instances) and has nothing of it since it was restored") {
		t.Errorf("%q %v", w, err)
	}
	// By the fetch queue alone.
	a.waitAvailability("1.2.3.5", "ONLINE")
	a.reads("1.2.3.5", held)
	if s := a.find("1.2.3.5"); s[0].Lost || s[0].Instances != 4 || s[0].PatientID == "" {
		t.Errorf("%+v", s)
	}
	if got := a.status().Studies; got.Own != 2 || got.Copies != 0 {
		t.Errorf("%+v", got)
	}
	// What is gone for good is named until it is sent again, also where somebody keeps
	// a copy of what another trust received of it.
	gone := func(want string) {
		t.Helper()
		n := min(len(want), 1)
		if v := a.verifies(); v.Lost != n || v.Left != 0 {
			t.Errorf("%+v", v)
		}
		var st api.Status
		var got string
		a.wait("status counts again", func() (bool, string) {
			st, got = a.status(), ""
			for _, l := range st.Lost {
				got += l.Study + " " + strings.Join(l.Copies, " ")
			}
			return got == want, got
		})
		said := strings.Contains(strings.Join(st.Warnings, " "), "nobody is known to hold a copy")
		_, text := a.get("/metrics", "")
		if st.LostAll != (api.LostCounts{Studies: n, Alone: n}) || said != (want != "") || !strings.Contains(string(text), fmt.Sprintf(`priormesh_lost_studies{what="alone"} %d`, n)) {
			t.Errorf("lost: %q, %+v, %q", got, st.LostAll, st.Warnings)
		}
	}
	gone("1.2.3.6 ")
	theirs := study("1.2.3.6", ada, "20200101", 4)[3:]
	b.imports(theirs...)
	c.wait("knows both versions", func() (bool, string) {
		s := c.find("1.2.3.6")
		return len(s) == 1 && len(s[0].Versions) == 2, fmt.Sprintf("%+v", s)
	})
	c.retrieve("studies/1.2.3.6")
	a.wait("hears of a copy of the other version", func() (bool, string) {
		s := a.find("1.2.3.6")
		return len(s) == 1 && slices.Equal(s[0].Copies, []string{"RX3"}) && s[0].Lost && len(s[0].LostCopies) == 0, fmt.Sprintf("%+v", s)
	})
	gone("1.2.3.6 ")
	a.stop()
	a.start()
	gone("1.2.3.6 ")
	a.stores(nowhere)
	gone("")
	// As it was told: nothing has to be brought again by anybody, and more may come.
	if after := b.find("1.2.3.5")[0]; after.Availability != "ONLINE" || !after.Received.Equal(before.Received) {
		t.Errorf("%+v, was %+v", after, before)
	}
	a.stores(more[4:])
	b.copies("1.2.3.5", more, a)
	a.reads("1.2.3.5", more)
	// The origin gives it, whoever else is gone.
	c.stop()
	b.stop()
	a.stop()
	a.start()
	a.reads("1.2.3.5", more)
	b.start()
	b.wait("has told its whole", func() (bool, string) { return b.availability("1.2.3.5") == "ONLINE", "" })
}

// A reader and an arrival bring it as they bring anybody's.
func TestWhatARestoreLostIsReadThroughAndAPrior(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a, b := r[0], r[1]
	a.imports(study("1.2.3.1", grace, "20200101", 1)...)
	target := filepath.Join(t.TempDir(), "backup")
	a.backs(target, api.BackupRequest{})
	read, prior := study("1.2.3.5", grace, "20210101", 3), study("1.2.3.6", ada, "20200101", 3)
	for _, list := range [][]dicomtest.Instance{read, prior} {
		a.imports(list...)
		b.wait("knows all", func() (bool, string) { s := b.find(list[0].Study); return len(s) == 1 && s[0].Instances == 3, "" })
		_, _, parts := b.retrieve("studies/" + list[0].Study)
		same(t, parts, list)
		b.waitAvailability(list[0].Study, "ONLINE")
	}
	a.rises(target)
	res, body := a.get("/dicom-web/studies/1.2.3.5/series", "application/dicom+json")
	if res.StatusCode != 200 || !strings.Contains(string(body), "1.2.3.5.1") {
		t.Errorf("series: %d %s", res.StatusCode, body)
	}
	code, _, parts := a.retrieve("studies/1.2.3.5")
	if code != 200 {
		t.Fatalf("%d %s", code, parts)
	}
	same(t, parts, read)
	if code, _ := a.stow(study("1.2.3.9", ada, "20240101", 1)...); code != 200 {
		t.Fatal(code)
	}
	a.waitAvailability("1.2.3.6", "ONLINE")
	_, _, parts = a.retrieve("studies/1.2.3.6")
	same(t, parts, prior)
}

// A copy that is told of only when the node is long up again is enough: what was lost
// comes back without anybody asking.
func TestWhatARestoreLostComesBackWhenACopyIsTold(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	a, b, c := r[0], r[1], r[2]
	a.stores(images("1.2.3.1", 1))
	target := filepath.Join(t.TempDir(), "backup")
	a.backs(target, api.BackupRequest{})
	late := images("1.2.3.5", 2)
	a.stores(late)
	c.wait("knows all of the study", func() (bool, string) {
		s := c.find("1.2.3.5")
		return len(s) == 1 && s[0].Instances == 2 && s[0].Settled, fmt.Sprintf("%+v", s)
	})
	c.stop() // it never hears of the copy
	b.copies("1.2.3.5", late, a)
	b.stop()
	a.stop()
	c.start()
	a.rises(target)
	if s := a.find("1.2.3.5"); len(s) != 1 || !s[0].Lost || s[0].Coming || len(s[0].Copies) != 0 {
		t.Fatalf("%+v", s)
	}
	if q := a.n.Archive().Tasks(); len(q) != 0 {
		t.Fatalf("asked for although nobody is known to have it: %+v", q)
	}
	b.start()
	a.waitAvailability("1.2.3.5", "ONLINE")
	a.reads("1.2.3.5", late)
	if s := a.find("1.2.3.5"); s[0].Lost || s[0].Instances != 2 {
		t.Errorf("%+v", s)
	}
}
