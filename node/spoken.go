package node

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"

	"github.com/priormesh/priormesh/index"
)

// saidFile says how far the node's own log has come, beside the index and not
// in it: an index that knows of less is lost. It is written with each batch of
// facts, in turn at one of two places, so that a write that is cut off leaves
// the other.
const saidFile = "said"

const (
	saidForm  = "priormesh said 2 %d %d %08x\n" // epoch, number, CRC-32C of what is before it
	saidPlace = 512                             // bytes from one place to the next: a sector each
)

// spoken is index.Spoken in a file of the home.
type spoken struct{ h *Home }

func (s spoken) path() string { return s.h.path(saidFile) }

func saidLine(p index.Position) []byte {
	text := fmt.Sprintf("priormesh said 2 %d %d ", p.Epoch, p.Seq)
	return fmt.Appendf(nil, saidForm, p.Epoch, p.Seq, crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)))
}

func (s spoken) Load() (index.Position, error) {
	b, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return index.Position{}, nil
	}
	if err != nil {
		return index.Position{}, err
	}
	p, _, err := s.newest(b)
	return p, err
}

// newest is the position that the file tells, and the place of the other one.
func (s spoken) newest(b []byte) (p index.Position, other int64, err error) {
	found := false
	for at := 0; at < 2*saidPlace && at < len(b); at += saidPlace {
		var q index.Position
		var sum uint32
		line := bytes.TrimRight(b[at:min(len(b), at+saidPlace)], "\x00")
		if _, err := fmt.Sscanf(string(line), saidForm, &q.Epoch, &q.Seq, &sum); err != nil || !bytes.Equal(saidLine(q), line) {
			continue
		}
		if !found || q.Epoch > p.Epoch || q.Epoch == p.Epoch && q.Seq > p.Seq {
			p, other = q, int64(saidPlace-at)
		}
		found = true
	}
	if !found {
		return p, 0, fmt.Errorf("%s does not say how far this node's log had come; restore the home from a backup with `priormesh restore`", s.path())
	}
	return p, other, nil
}

func (s spoken) Store(p index.Position) error {
	place := make([]byte, saidPlace)
	copy(place, saidLine(p))
	f, err := os.OpenFile(s.path(), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return writeFile(s.path(), slices.Concat(place, make([]byte, saidPlace)))
	}
	if err != nil {
		return err
	}
	b := make([]byte, 2*saidPlace)
	_, err = f.ReadAt(b, 0)
	var at int64
	if err == nil {
		_, at, err = s.newest(b)
	}
	if err == nil {
		_, err = f.WriteAt(place, at)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// checkIndexThere looks for the index before Badger does, which removes tables
// that no MANIFEST names.
func (h *Home) checkIndexThere() error {
	said, err := spoken{h}.Load()
	if err != nil || said == (index.Position{}) {
		return err
	}
	if _, err := os.Stat(h.path("index", "MANIFEST")); errors.Is(err, fs.ErrNotExist) {
		if tables, err := filesOf(h.path("index"), ".sst"); err != nil || len(tables) > 0 {
			return errors.Join(err, fmt.Errorf("%w: %s is gone, and %s beside it. Nothing was removed or changed: put the file back as it was, and the node starts; where it cannot be had, restore the whole home from a backup with `priormesh restore`. Keep this home until then: what was received here since lies in it alone",
				ErrStoreLost, h.path("index", "MANIFEST"), counted(len(tables), "table that it names lies", "tables that it names lie")))
		}
		return fmt.Errorf("%w: %s is gone; %w", ErrStoreLost, h.path("index", "MANIFEST"), &index.LostError{Said: said})
	} else if err != nil {
		return err
	}
	return nil
}
