package interop

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/priormesh/priormesh/node/api"
)

// smallDisk mounts a file system of its own, which ends with the test.
func smallDisk(t testing.TB, megabytes int) (dir string, resize func(megabytes int)) {
	t.Helper()
	mount := command(t, "mount")
	dir = filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	size := func(mb int) string { return fmt.Sprintf("size=%dm", mb) }
	if out, err := exec.Command(mount, "-t", "tmpfs", "-o", size(megabytes), "priormesh-test", dir).CombinedOutput(); err != nil {
		need(t, "the right to mount a file system (root has it)", "", fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out))))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	return dir, func(mb int) { must(t, mount, "-o", "remount,"+size(mb), dir) }
}

// fillUp is another program that writes until there is not a byte left.
func fillUp(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for buf := make([]byte, 1<<20); len(buf) > 0; {
		if _, err := f.Write(buf); errors.Is(err, syscall.ENOSPC) {
			buf = buf[:len(buf)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that fills up, by the node and by others, stops what is written and
// nothing else: what was acknowledged is there and is served, the process
// lives, and it goes on by itself when there is room.
func TestFullDisk(t *testing.T) {
	const megabytes = 512
	disk, resize := smallDisk(t, megabytes)
	n := newNode(t, "RAA", "Full")
	must(t, command(t, "cp"), "-a", n.home, disk)
	n.home = filepath.Join(disk, filepath.Base(n.home))
	n.set(t, quick)
	n.set(t, map[string]string{"reserve": `"256MiB"`})
	n.run(t)

	dir := t.TempDir()
	var files []file
	for s := range uint64(8) {
		files = append(files, synthesize(t, dir, 900+s, 40, 1<<20)...)
	}
	stored := map[string][]file{}
	stow := func(f file) int {
		t.Helper()
		return curl(t, "-H", `Content-Type: multipart/related; type="application/dicom"`, "-H", acceptJSON,
			"-F", "file=@"+f.path+";type=application/dicom", n.web+"/studies").status
	}
	served := func() {
		t.Helper()
		for uid, list := range stored {
			n.serves(t, uid, sums(list))
		}
	}
	level := func(want string) {
		t.Helper()
		eventually(t, runDeadline, "the disk is "+want, func() error {
			if !n.running() {
				t.Fatalf("the node died: %v", n.err)
			}
			s := n.status(t)
			said := strings.Contains(strings.Join(s.Warnings, " "), "disk")
			if s.Space.Level != want || said != (want != "ok") {
				return fmt.Errorf("it is %q with %d bytes free, warnings %q", s.Space.Level, s.Space.Free, s.Warnings)
			}
			return nil
		})
	}

	var refused file
	for _, f := range files {
		if code := stow(f); code == http.StatusInsufficientStorage {
			refused = f
			break
		} else if code != http.StatusOK {
			t.Fatalf("STOW-RS: HTTP %d, want 200 until the disk is full, then 507", code)
		}
		stored[f.study] = append(stored[f.study], f)
	}
	if refused.path == "" {
		t.Fatalf("%d MB went on a disk of %d MB", len(files), megabytes)
	}
	level("full")
	ready, err := get(strings.TrimSuffix(n.web, "/dicom-web") + "/readyz")
	if err != nil || !strings.Contains(string(ready), "the disk is full") {
		t.Errorf("/readyz: %q %v, want a node that is ready and says that its disk is full", ready, err)
	}
	served()

	n.kill(t)
	n.run(t)
	level("full")
	served()
	if code := stow(refused); code != http.StatusInsufficientStorage {
		t.Errorf("STOW-RS on a full disk after a restart: HTTP %d, want 507", code)
	}

	// Another program takes the rest, and then what the node gave up to live.
	other := filepath.Join(disk, "other")
	for range 2 {
		fillUp(t, other)
		level("critical")
		served()
		if code := stow(refused); code != http.StatusInsufficientStorage {
			t.Errorf("STOW-RS without a byte: HTTP %d, want 507", code)
		}
	}
	if _, err := os.Stat(filepath.Join(n.home, "reserve")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the reserve is kept although the disk is without a byte: %v", err)
	}

	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	resize(2 * megabytes)
	level("ok")
	if info, err := os.Stat(filepath.Join(n.home, "reserve")); err != nil || info.Size() != 128<<20 {
		t.Errorf("the reserve is not made again: %v", err)
	}
	if code := stow(refused); code != http.StatusOK {
		t.Errorf("STOW-RS after there was room again: HTTP %d, want 200", code)
	}
	stored[refused.study] = append(stored[refused.study], refused)
	served()
	n.stop(t)
	n.run(t)
	served()
	if s := n.status(t); s.Space.Originals.Studies != len(stored) || s.Space.Reserve != 256<<20 || s.Space.Level != "ok" {
		t.Errorf("%+v", s.Space)
	}
	var none api.Space
	if s := n.status(t).Space; s == none {
		t.Error("the status says nothing of space")
	}
}
