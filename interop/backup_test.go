package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

// A node that is backed up while it stores, dies with its disk, and is restored:
// all that was acknowledged before the backup is served byte for byte, under the
// same name, and the region believes what it says from then on.
func TestBackupUnderLoadAndRestore(t *testing.T) {
	members := region(t, "RAA", "RBB", "RCC")
	a := members[0]
	first, second := t.TempDir(), t.TempDir()
	before := synthesize(t, first, 300, 12, 128<<10)
	a.take(t, first)
	var load []file
	for s := range uint64(4) {
		load = append(load, synthesize(t, second, 310+s, 30, 256<<10)...)
	}
	byPath := map[string]file{}
	for _, f := range load {
		byPath[f.path] = f
	}
	peer := a.status(t).Peer
	target := filepath.Join(t.TempDir(), "backup")

	importer := start(t, "import", priormesh(t), "import", "--home", a.home, "--json", second)
	eventually(t, runDeadline, "the import gets going", func() error {
		if all, _ := acknowledged(t, importer); len(all) < len(load)/8 && importer.running() {
			return fmt.Errorf("%d of %d files answered", len(all), len(load))
		}
		return nil
	})
	_, safe := acknowledged(t, importer)
	var made api.Backup
	a.ask(t, &made, "backup", []string{target})
	if len(safe) < len(load)/8 || made.Studies < 2 || len(made.Missing) != 0 || made.KEK != "in the backup" {
		t.Fatalf("%d acknowledged before it, %+v", len(safe), made)
	}
	a.kill(t)
	<-importer.done
	var compared api.Restored
	if err := json.Unmarshal([]byte(must(t, priormesh(t), "restore", "--verify-only", "--json", target)), &compared); err != nil || compared.Backup != made.ID {
		t.Fatalf("%+v %v", compared, err)
	}
	if r := try(t, priormesh(t), "restore", "--home", a.home, target); r.code != 2 {
		t.Fatalf("a home was restored over another one: %d %s%s", r.code, r.stdout, r.stderr)
	}
	if err := os.RemoveAll(a.home); err != nil {
		t.Fatal(err)
	}
	must(t, priormesh(t), "restore", "--home", a.home, target)
	a.run(t)

	s := a.status(t)
	if s.Peer != peer || s.Trust != "RAA" {
		t.Errorf("it was %s, and is %s of %s", peer, s.Peer, s.Trust)
	}
	epoch := uint64(0)
	for _, b := range s.Basis {
		for _, l := range b.Logs {
			if l.Node == peer {
				epoch = l.Epoch
			}
		}
	}
	if epoch != 2 {
		t.Errorf("its log is in epoch %d", epoch)
	}
	a.serves(t, before[0].study, sums(before))
	acked := map[string]bool{}
	studies := map[string]bool{}
	for _, r := range safe {
		acked[byPath[r.File].sha256] = true
		studies[byPath[r.File].study] = true
	}
	for uid := range studies {
		got := curl(t, "-H", acceptAsIs, a.web+"/studies/"+uid).sums(t)
		for _, f := range byStudy(load)[uid] {
			if acked[f.sha256] && got[f.sha256] != 1 {
				t.Errorf("an instance that was acknowledged before the backup is there %d times", got[f.sha256])
			}
		}
	}
	// What was cut off is simply sent again, and the others hear of all of it.
	a.take(t, second)
	for uid, list := range byStudy(load) {
		for _, m := range members {
			m.knows(t, uid, len(list))
		}
		a.serves(t, uid, sums(list))
		members[1].request(t, uid)
		members[1].has(t, uid, len(list))
		members[1].serves(t, uid, sums(list))
	}
	for _, m := range members {
		if s := m.status(t); len(s.Forks) != 0 || len(s.Forked) != 0 {
			t.Errorf("%s sees forks: %+v", m.trust, s.Forked)
		}
	}
	must(t, priormesh(t), "verify", "--home", a.home)
}
