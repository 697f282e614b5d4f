package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/priormesh/priormesh/index"
)

// saidFile says how far the node's own log had come for certain, beside the
// index and not in it: an index that knows of less is lost.
const saidFile = "said"

const saidForm = "priormesh said 1 %d %d\n"

// spoken is index.Spoken in a file of the home.
type spoken struct{ h *Home }

func (s spoken) Load() (p index.Position, err error) {
	b, err := os.ReadFile(s.h.path(saidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	_, err = fmt.Sscanf(string(b), saidForm, &p.Epoch, &p.Seq)
	if err != nil || fmt.Sprintf(saidForm, p.Epoch, p.Seq) != string(b) {
		return p, fmt.Errorf("%s does not say how far this node's log had come; restore the home from a backup with `priormesh restore`", s.h.path(saidFile))
	}
	return p, nil
}

func (s spoken) Store(p index.Position) error {
	return writeFile(s.h.path(saidFile), fmt.Appendf(nil, saidForm, p.Epoch, p.Seq))
}

// checkIndexThere looks for the index before Badger does, which removes tables
// that no MANIFEST names.
func (h *Home) checkIndexThere() error {
	said, err := spoken{h}.Load()
	if err != nil || said == (index.Position{}) {
		return err
	}
	if _, err := os.Stat(h.path("index", "MANIFEST")); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is gone; %w", ErrStoreLost, h.path("index", "MANIFEST"), &index.LostError{Said: said})
	} else if err != nil {
		return err
	}
	return nil
}
