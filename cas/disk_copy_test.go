package cas

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// While packs are held none goes; the list has what was put before, of the
// shelves that are wanted, and a copy of it opens as a store.
func TestPacksCanBeCopiedWhileTheStoreIsUsed(t *testing.T) {
	ctx := context.Background()
	d, err := OpenDisk(filepath.Join(t.TempDir(), "d"), DiskOptions{Reserve: -1, CollectEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	one, two := d.Shelf(ShelfID{1}), d.Shelf(ShelfID{2})
	block := func(s string) Block {
		b := []byte(s)
		return Block{CID: Sum(b), Data: b}
	}
	put := func(s Shelf, text string) Block {
		t.Helper()
		b := block(text)
		if err := s.Put(ctx, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	a := put(one, "first")
	release, err := d.Hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all, err := d.Packs(ctx, nil)
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v %v", all, err)
	}
	put(two, "second")
	if list, err := d.Packs(ctx, nil); err != nil || len(list) != 2 {
		t.Fatalf("%+v %v", list, err)
	}
	list, err := d.Packs(ctx, func(id ShelfID) bool { return id == ShelfID{1} })
	if err != nil || len(list) != 1 || list[0] != all[0] {
		t.Fatalf("%+v %v", list, err)
	}
	if err := d.Drop(ctx, ShelfID{1}); err != nil {
		t.Fatal(err)
	}
	if err := d.Collect(ctx); !errors.Is(err, ErrHeld) {
		t.Fatalf("collected while packs are held: %v", err)
	}
	name := filepath.Join(d.PackDir(), all[0].Name)
	raw, err := os.ReadFile(name)
	if err != nil || int64(len(raw)) != all[0].Size {
		t.Fatalf("%d bytes of %d, %v", len(raw), all[0].Size, err)
	}
	release()
	if err := d.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead pack is there: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.MkdirAll(filepath.Join(dir, "packs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "packs", all[0].Name), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := OpenDisk(dir, DiskOptions{Reserve: -1, CollectEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := c.Shelf(ShelfID{1}).Get(ctx, a.CID); err != nil || string(got) != "first" {
		t.Errorf("%q %v", got, err)
	}
}
