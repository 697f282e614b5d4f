package archive

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
)

// forgets has the catalogue lose what was written of a study since it had so many instances, as a disk does that lost its newest writes.
func (h *house) forgets(id sourceID, was source, kept map[string]bool) {
	h.t.Helper()
	all, err := h.instancesOf(id)
	if err == nil {
		err = h.update(func(txn *badger.Txn) error {
			for _, i := range all {
				if kept[i.SOP] {
					continue
				}
				if err := txn.Delete(id.instanceKey(tableInstance, i.Series, i.SOP)); err != nil {
					return err
				}
				if err := txn.Delete(append([]byte{tableSOP}, i.SOP...)); err != nil {
					return err
				}
			}
			return putRecord(txn, id.key(tableSource), was)
		})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// What the index has lost is stored again when there is room, and not swept before: whichever way it is found, and whatever passing
// reason there was.
func TestWhatTheIndexLostWaitsForRoom(t *testing.T) {
	ctx := context.Background()
	for name, find := range map[string]func(h *house) (found int, err error){
		"looking through": func(h *house) (int, error) {
			if h.Unlooked() == 0 {
				if err := h.LookThroughAll(ctx); err != nil {
					return 0, err
				}
			}
			h.lookThroughOnce(ctx)
			return 0, nil
		},
		"counting": func(h *house) (int, error) { return h.RecoverLost(ctx) },
	} {
		clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
		h := newHouse(t, t.TempDir(), "RAA", clock, "RAA")
		const study = "1.2.3"
		id := h.id(study)
		if err := h.take(image(study, 1, 1)); err != nil {
			t.Fatal(err)
		}
		h.publishAll()
		was, err := h.source(id)
		if err != nil {
			t.Fatal(err)
		}
		first, _ := h.instancesOf(id)
		if err := h.take(image(study, 2, 2)); err != nil {
			t.Fatal(err)
		}
		if name == "counting" { // that there were two is known
			was.Instances = 2
		}
		h.forgets(id, was, map[string]bool{first[0].SOP: true})
		room := &tightRoom{free: 1 << 40, reserve: 1, store: fmt.Errorf("%w: test", cas.ErrDiskFull)}
		h.Room = room
		if n, err := find(h); n != 0 || err != nil {
			t.Fatalf("%s: %d, %v", name, n, err)
		}
		if h.Unlooked() != 1 {
			t.Errorf("%s: %d studies are left to look through, want 1", name, h.Unlooked())
		}
		clock.step(100 * time.Hour)
		before := len(h.onShelf(id))
		if _, err := h.space.sweep(ctx, id); !errors.Is(err, errBusy) {
			t.Errorf("%s: it is swept: %v", name, err)
		}
		h.Archive = h.open()
		h.Room = room
		if n := len(h.onShelf(id)); n != before || h.Unlooked() != 1 {
			t.Errorf("%s: after a restart %d of %d blocks, %d studies are left", name, n, before, h.Unlooked())
		}
		room.store = nil
		// A limit that was set lower since is no reason either.
		limits := h.Limits
		h.Limits.Elements = 1
		if failed := h.lookThroughOnce(ctx); !failed || h.Unlooked() != 1 {
			t.Errorf("%s: beyond a limit: failed %v, %d left", name, failed, h.Unlooked())
		}
		h.Limits = limits
		if failed := h.lookThroughOnce(ctx); failed || h.Unlooked() != 0 {
			t.Errorf("%s: with room again: failed %v, %d left", name, failed, h.Unlooked())
		}
		for sop := 1; sop <= 2; sop++ {
			if err := h.gives(id, image(study, sop, byte(sop))); err != nil {
				t.Errorf("%s: instance %d: %v", name, sop, err)
			}
		}
		if _, err := h.space.sweep(ctx, id); err != nil {
			t.Errorf("%s: it is never swept: %v", name, err)
		}
	}
}
