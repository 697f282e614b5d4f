package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestWalk(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "dir")
	for _, f := range []string{"dir/z.dcm", "dir/sub/a.dcm", "dir/sub/b.dcm", "dir/.hidden", "outside/secret.dcm"} {
		path := filepath.Join(base, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"dir/in": "sub/a.dcm", "dir/insub": "sub", "dir/loop": ".", "dir/out": "../outside", "dir/outfile": "../outside/secret.dcm",
		"dir/up": "..", "dir/nowhere": "missing", "link": "dir", "prefix": "dir", "dirx": "outside",
	} {
		if err := os.Symlink(target, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	// A folder whose name begins like the walked one's is outside of it.
	if err := os.Symlink("../dirx/secret.dcm", filepath.Join(dir, "similar")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}

	see := func(paths ...string) []string {
		var got []string
		err := walk(paths, func(f found) error {
			rel, _ := filepath.Rel(base, f.path)
			switch {
			case f.err == nil:
				rel += fmt.Sprint(" ", f.size)
			case errors.Is(f.err, errOutside):
				rel += " outside"
			case errors.Is(f.err, errNoFile):
				rel += " no file"
			case errors.Is(f.err, os.ErrNotExist):
				rel += " missing"
			default:
				rel += " " + f.err.Error()
			}
			got = append(got, rel)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := []string{"dir/.hidden 11", "dir/nowhere outside", "dir/out outside", "dir/outfile outside", "dir/pipe no file", "dir/similar outside",
		"dir/sub/a.dcm 13", "dir/sub/b.dcm 13", "dir/up outside", "dir/z.dcm 9"}
	if got := see(dir); !slices.Equal(got, want) {
		t.Errorf("walking the folder\n got %q\nwant %q", got, want)
	}
	// A path on the command line may be a link.
	for i := range want {
		want[i] = strings.Replace(want[i], "dir/", "link/", 1)
	}
	if got := see(filepath.Join(base, "link")); !slices.Equal(got, want) {
		t.Errorf("walking a link to the folder\n got %q\nwant %q", got, want)
	}
	if got := see(filepath.Join(dir, "outfile"), filepath.Join(dir, "pipe"), filepath.Join(base, "missing")); !slices.Equal(got, []string{"dir/outfile 18", "dir/pipe no file", "missing missing"}) {
		t.Errorf("walking single paths: %q", got)
	}

	stop := errors.New("enough")
	n := 0
	if err := walk([]string{dir}, func(found) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("the walk went on: %d visits, %v", n, err)
	}
}

func TestWalkIsBounded(t *testing.T) {
	dir := t.TempDir()
	deep := dir
	for range maxDepth + 2 {
		deep = filepath.Join(deep, "d")
	}
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(deep, "too-deep"), filepath.Join(filepath.Dir(filepath.Dir(deep)), "just")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var files, errs int
	if err := walk([]string{dir}, func(f found) error {
		if errors.Is(f.err, errDeep) {
			errs++
		} else if f.err == nil && filepath.Base(f.path) == "just" {
			files++
		}
		return nil
	}); err != nil || files != 1 || errs != 1 {
		t.Errorf("%d files, %d too deep, %v", files, errs, err)
	}
}
