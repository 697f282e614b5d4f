package archive

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
)

// A node that is killed while a study begins to come in has its key and blocks, and no
// row: what is whole is stored, and nobody is sent to look at the disk. Where what was
// acknowledged is gone from the catalogue, that is said.
func TestOnlyWhatWasAcknowledgedIsSaidToBeLost(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name string
		told bool
		rows []byte // tables of which the study's rows go
		lost bool
	}{
		{"the node was killed", false, nil, false},
		{"the source's row is lost", true, []byte{tableInstance, tableSource, tableSeries, tableSOP}, true},
		{"an instance's row is lost", true, []byte{tableInstance, tableSOP}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, t.TempDir(), "RAA", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RAA")
			for sop := range 2 {
				if err := h.take(image(doomedStudy, sop, byte(sop))); err != nil {
					t.Fatal(err)
				}
			}
			h.publishAll()
			id := h.id(doomedStudy)
			if c.told {
				if err := h.update(func(txn *badger.Txn) error {
					it := txn.NewIterator(badger.IteratorOptions{})
					defer it.Close()
					for it.Rewind(); it.Valid(); it.Next() {
						k := it.Item().KeyCopy(nil)
						mine := bytes.Contains(k, []byte(doomedStudy))
						if mine && bytes.IndexByte(c.rows, k[0]) >= 0 {
							if err := txn.Delete(k); err != nil {
								return err
							}
						}
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			} else { // another home, with what is on the shelf
				key, err := h.Keys.Get(id.keyName())
				if err != nil {
					t.Fatal(err)
				}
				killed := newHouse(t, t.TempDir(), "RAA", h.clock, "RAA")
				for b := range h.onShelf(id) {
					data, err := h.shelf(id, key).Get(ctx, b)
					if err == nil {
						err = killed.shelf(id, key).Put(ctx, cas.Block{CID: b, Data: data})
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if err := killed.Keys.Add(id.keyName(), key); err != nil {
					t.Fatal(err)
				}
				h = killed
			}
			var log bytes.Buffer
			h.Log = slog.New(slog.NewTextHandler(&log, nil))
			if n, err := h.RecoverLost(ctx); n != 2 || err != nil {
				t.Fatal(n, err)
			}
			if got := strings.Contains(log.String(), "level=ERROR"); got != c.lost || strings.Contains(log.String(), "the catalogue had lost instances") != c.lost {
				t.Errorf("said to be lost: %v, want %v\n%s", got, c.lost, log.String())
			}
			if !c.lost && !strings.Contains(log.String(), "had not been acknowledged yet") {
				t.Errorf("not said: %s", log.String())
			}
			for sop := range 2 {
				if err := h.gives(id, image(doomedStudy, sop, byte(sop))); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
