package archive

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
)

// A study whose key was altered or cut off, and which nobody else has, can be sent again.
func TestAStudyWithADamagedKeyIsTakenAgain(t *testing.T) {
	for what, spoil := range map[string]func([]byte) []byte{
		"altered": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut off": func(b []byte) []byte { return b[:len(b)/2] },
		"empty":   func([]byte) []byte { return nil },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			h := newHouse(t, dir, "RAA", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RAA")
			if err := h.take(image(doomedStudy, 1, 1)); err != nil {
				t.Fatal(err)
			}
			h.publishAll()
			if err := filepath.WalkDir(filepath.Join(dir, "keys"), func(p string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || filepath.Base(p) == "keyring" {
					return err
				}
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				return os.WriteFile(p, spoil(b), 0o600)
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Keys.Get(h.id(doomedStudy).keyName()); !keyDamaged(err) || errors.Is(err, cas.ErrNoKey) {
				t.Fatalf("this test proves nothing: %v", err)
			}
			for i := range 2 {
				if err := h.take(image(doomedStudy, i+1, byte(i+1))); err != nil {
					t.Fatal(err)
				}
			}
			h.publishAll()
			for i := range 2 {
				if err := h.gives(h.id(doomedStudy), image(doomedStudy, i+1, byte(i+1))); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Who sends a copy of an instance that is erased meanwhile is told to send it again, and not that something is broken.
func TestACopyOfWhatVanishesIsToBeSentAgain(t *testing.T) {
	h := furnished(t)
	in := &ingest{a: h.Archive, ctx: context.Background(), id: h.id(doomedStudy), uids: dicom.UIDs{Study: doomedStudy, Series: "1.2.3", Instance: "1.2.3.4"}}
	var told *Unavailable
	if _, err := in.resent([32]byte{1}, 1); !errors.As(err, &told) || told.RetryAfter <= 0 {
		t.Fatal(err)
	}
}
