package cas

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A key that cannot be opened makes way for another; its bytes are kept until the key is deleted or the KEK changed.
func TestSetAside(t *testing.T) {
	for _, end := range []string{"delete", "rekey"} {
		t.Run(end, func(t *testing.T) {
			r := openKeyring(t, t.TempDir(), testKEK(1))
			first, err := r.Create("1.2.3")
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(r.SetAside("1.2.3"), r.SetAside("9.9")); err != nil {
				t.Fatal(err)
			}
			if k, err := r.Get("1.2.3"); err != nil || k != first {
				t.Fatalf("a key that opens was set aside: %v", err)
			}
			place := file(r, "1.2.3")
			var bad [][]byte
			for _, spoil := range []func([]byte) []byte{
				func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
				func(b []byte) []byte { return b[:len(b)/2] },
			} {
				b, err := os.ReadFile(place)
				if err != nil {
					t.Fatal(err)
				}
				bad = append(bad, spoil(b))
				if err := os.WriteFile(place, bad[len(bad)-1], 0o600); err != nil {
					t.Fatal(err)
				}
				if err := r.SetAside("1.2.3"); err != nil {
					t.Fatal(err)
				}
				if _, err := r.Get("1.2.3"); !errors.Is(err, ErrNoKey) {
					t.Fatal(err)
				}
				if _, err := r.Create("1.2.3"); err != nil {
					t.Fatal(err)
				}
			}
			kept, err := filepath.Glob(place + "?*")
			if err != nil || len(kept) != len(bad) {
				t.Fatalf("%d values are kept, %v", len(kept), err)
			}
			for i, p := range kept {
				if b, err := os.ReadFile(p); err != nil || !bytes.Equal(b, bad[i]) {
					t.Fatalf("value %d is not what was there: %v", i, err)
				}
			}
			shelves := 0
			if err := r.Shelves(t.Context(), func(string, ShelfID) error { shelves++; return nil }); err != nil || shelves != 1 {
				t.Fatalf("%d shelves, %v", shelves, err)
			}
			if end == "delete" {
				err = r.Delete("1.2.3")
			} else {
				err = r.Rekey(t.Context(), testKEK(2), nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if kept, _ := filepath.Glob(place + "*"); len(kept) > 0 {
				t.Fatalf("still there: %v", kept)
			}
		})
	}
}
