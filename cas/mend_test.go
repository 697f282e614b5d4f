package cas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
)

// menders gives what a test says, and mends from another shelf.
type menders struct {
	get    func(cid.Cid) ([]byte, error)
	from   Shelf
	mended []cid.Cid
	why    []error
}

func (m *menders) Get(_ context.Context, c cid.Cid) ([]byte, error) { return m.get(c) }

func (m *menders) Mend(ctx context.Context, c cid.Cid, damage error) ([]byte, error) {
	m.mended, m.why = append(m.mended, c), append(m.why, damage)
	return m.from.Get(ctx, c)
}

func TestReadersTurnToAMenderOnlyWhenABlockIsDamaged(t *testing.T) {
	ctx := t.Context()
	key := Key{1}
	shelf := NewMemory().Shelf(key.Shelf())
	content := bytes.Repeat([]byte("abcdefgh"), 100)
	w := NewWriter(ctx, shelf, key)
	if err := w.Write(Span{}, content); err != nil {
		t.Fatal(err)
	}
	written, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	man := InstanceManifest{UID: "1.2", Size: written.Size, SHA256: written.SHA256, HeaderLen: written.Size, Blocks: written.Blocks}
	ref, err := SaveInstance(ctx, shelf, key, man)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func([]byte) ([]byte, error)
		mends bool
	}{
		"whole":       {func(b []byte) ([]byte, error) { return b, nil }, false},
		"one bit":     {func(b []byte) ([]byte, error) { return flip(b, len(b)/2), nil }, true},
		"version bit": {func(b []byte) ([]byte, error) { return flip(b, 0), nil }, true},
		"cut":         {func(b []byte) ([]byte, error) { return b[:min(3, len(b))], nil }, true},
		"missing":     {func([]byte) ([]byte, error) { return nil, ErrNotFound }, true},
		"corrupt":     {func([]byte) ([]byte, error) { return nil, fmt.Errorf("x: %w", ErrCorrupt) }, true},
		"a bad disk":  {func([]byte) ([]byte, error) { return nil, syscall.EIO }, true},
		"closed":      {func([]byte) ([]byte, error) { return nil, ErrClosed }, false},
		"given up":    {func([]byte) ([]byte, error) { return nil, context.Canceled }, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &menders{from: shelf, get: func(at cid.Cid) ([]byte, error) {
				b, err := shelf.Get(ctx, at)
				if err != nil {
					t.Fatal(err)
				}
				return c.spoil(b)
			}}
			got, err := LoadInstance(ctx, m, key, ref)
			if err == nil {
				var read []byte
				if read, err = io.ReadAll(got.Reader(ctx, m, key)); err == nil && !bytes.Equal(read, content) {
					t.Errorf("read %d bytes that were not written", len(read))
				}
			}
			if _, direct := c.spoil(nil); !c.mends && direct != nil && !errors.Is(err, direct) || c.mends && err != nil {
				t.Errorf("got %v", err)
			}
			if want := map[bool]int{true: 1 + len(man.Blocks)}[c.mends]; len(m.mended) != want {
				t.Errorf("%d blocks mended, want %d", len(m.mended), want)
			}
			for _, why := range m.why {
				if !Damaged(why) {
					t.Errorf("the mender is told %v", why)
				}
			}
		})
	}
}

func flip(b []byte, at int) []byte {
	if at < len(b) {
		b[at] ^= 0x80
	}
	return b
}
