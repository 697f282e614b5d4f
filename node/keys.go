package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// kekNext is added to the name of a KEK file for the one that will take its
// place. While it is there a change of the KEK is under way: it is finished if
// any keyring is under the new one already, else undone.
const kekNext = ".new"

// KeysConfig says where the key-encryption key comes from.
type KeysConfig struct {
	KEK        string   `toml:"kek" comment:"Where the key comes from that wraps the study keys: file:PATH, env:NAME, credential:NAME (systemd) or command. It is one line, priormesh-kek-1: and 64 hex digits. priormesh rekey changes it"`
	KEKCommand []string `toml:"kek_command" comment:"The words of the command, its whole path first, if kek is \"command\". It is run once at each start, without a shell, and prints the line"`
}

func (h *Home) kekSource() (cas.KEKSource, error) {
	s, err := cas.ParseKEKSource(h.Config.Keys.KEK, h.Dir, h.Config.Keys.KEKCommand)
	if err != nil {
		return s, fmt.Errorf("keys.kek in %s: %w", h.path(configFile), err)
	}
	return s, nil
}

// keyrings are keyrings under one KEK, and where that is.
type keyrings struct {
	fs       cas.FS
	source   cas.KEKSource
	cabinets []cas.Cabinet
	rand     io.Reader
	progress func(done, total int)
}

// open opens all of them. A change of the KEK that was cut off is finished or
// undone first. A KEK is made only in a file, and only when no keyring is
// there yet.
func (k keyrings) open(ctx context.Context) ([]*cas.Keyring, error) {
	if err := k.recover(ctx); err != nil {
		return nil, err
	}
	kek, err := k.source.Read(ctx)
	if errors.Is(err, fs.ErrNotExist) && k.source.File() != "" {
		for _, c := range k.cabinets {
			switch there, eerr := cas.KeyringExists(ctx, c); {
			case eerr != nil:
				return nil, eerr
			case there:
				return nil, fmt.Errorf("%w: %s is missing; restore it from its backup, or copy it from another node of this trust: nothing else opens the study keys in %s", cas.ErrKEK, k.source, c)
			}
		}
		if kek, err = cas.NewKEK(k.rand); err == nil {
			err = cas.WriteKEK(k.fs, k.source.File(), kek)
		}
	}
	if err != nil {
		return nil, err
	}
	out := make([]*cas.Keyring, len(k.cabinets))
	for i, c := range k.cabinets {
		if out[i], err = cas.OpenKeyring(ctx, c, kek, k.rand); err != nil {
			if errors.Is(err, cas.ErrWrongKEK) {
				err = fmt.Errorf("%w; if `priormesh rekey` has changed it, say in %s where the new one is, or run the command again if it was cut off", err, configFile)
			}
			return nil, err
		}
	}
	return out, nil
}

// recover finishes or undoes what a cut-off change of a KEK file left.
func (k keyrings) recover(ctx context.Context) error {
	path := k.source.File()
	if path == "" {
		return nil
	}
	next, err := readKEKFile(path + kekNext)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	begun := false
	if err == nil {
		if begun, err = k.anyUnder(ctx, next); err != nil {
			return err
		}
	} else if !isRegular(path + kekNext) {
		return err
	}
	if !begun {
		return cas.DestroyKEK(k.fs, path+kekNext)
	}
	return k.finish(ctx, next)
}

// isRegular says whether a file can be read at all, so that what it holds is
// known to be no KEK.
func isRegular(path string) bool {
	_, err := cas.ReadSecret(path)
	return err == nil
}

func readKEKFile(path string) (cas.KEK, error) {
	s, err := cas.ParseKEKSource("file:"+path, "", nil)
	if err != nil {
		return cas.KEK{}, err
	}
	return s.Read(context.Background())
}

func (k keyrings) anyUnder(ctx context.Context, kek cas.KEK) (bool, error) {
	for _, c := range k.cabinets {
		fits, err := cas.KeyringFits(ctx, c, kek)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if fits || err != nil {
			return fits, err
		}
	}
	return false, nil
}

// moveTo puts every keyring that is not yet there under a KEK.
func (k keyrings) moveTo(ctx context.Context, next cas.KEK) error {
	for _, c := range k.cabinets {
		fits, err := cas.KeyringFits(ctx, c, next)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if fits {
			// Destroys what the change may have left of the old one.
			if _, err := cas.OpenKeyring(ctx, c, next, k.rand); err != nil {
				return err
			}
			continue
		}
		kek, err := k.source.Read(ctx)
		if err != nil {
			return err
		}
		r, err := cas.OpenKeyring(ctx, c, kek, k.rand)
		if err == nil {
			err = r.Rekey(ctx, next, k.progress)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finish puts every keyring under the KEK in the file beside, and that file in
// the place of the old one, which is destroyed.
func (k keyrings) finish(ctx context.Context, next cas.KEK) error {
	path := k.source.File()
	if err := k.moveTo(ctx, next); err != nil {
		return err
	}
	if err := cas.DestroyKEK(k.fs, path); err != nil {
		return err
	}
	if err := k.fs.Rename(path+kekNext, path); err != nil {
		return err
	}
	return k.fs.SyncDir(filepath.Dir(path))
}

// rekey changes the KEK. If it is in a file, that file holds the new one after.
func (k keyrings) rekey(ctx context.Context, next cas.KEK) error {
	if k.source.File() == "" {
		return k.moveTo(ctx, next)
	}
	if err := k.recover(ctx); err != nil {
		return err
	}
	now, err := k.source.Read(ctx)
	if err != nil {
		return err
	}
	if now.Equal(next) {
		return nil // a change to this very one was cut off, and is finished now
	}
	if err := cas.WriteKEK(k.fs, k.source.File()+kekNext, next); err != nil {
		return err
	}
	return k.finish(ctx, next)
}

// RekeyOptions say what the KEK is changed to.
type RekeyOptions struct {
	// New is where the new KEK comes from, as in config.toml; empty to make
	// one, which only a KEK file allows.
	New        string
	NewCommand []string
	Rand       io.Reader
	Progress   func(done, total int) // of the keys of one keyring
}

// Rekeyed says what Rekey has done.
type Rekeyed struct {
	Keyrings []string `json:"keyrings"`          // where they are
	KEK      string   `json:"kek"`               // where the new one is
	Setting  string   `json:"setting,omitempty"` // what config.toml must say from now on, if it does not
	Old      string   `json:"old,omitempty"`     // the file of the old one, which stays
	Same     bool     `json:"same,omitempty"`    // it is the one that was there before
}

// ErrNoNewKEK says that a new KEK has to be named.
var ErrNoNewKEK = errors.New("this node's KEK does not come from a file, so it is not made here: put the new one where it will come from, and name that with --new-kek")

// ErrNewKEK says that the KEK that was named cannot be had.
var ErrNewKEK = errors.New("the new KEK")

// Rekey puts the study keys of a node that does not run under a new KEK. No
// block is touched. After a cut anywhere it can be repeated, and the node
// starts.
func (h *Home) Rekey(ctx context.Context, o RekeyOptions) (Rekeyed, error) {
	unlock, err := lockHome(h.Dir)
	if err != nil {
		return Rekeyed{}, err
	}
	defer unlock()
	source, err := h.kekSource()
	if err != nil {
		return Rekeyed{}, err
	}
	// A path on the command line is one from where the operator stands.
	here, err := os.Getwd()
	if err != nil {
		return Rekeyed{}, err
	}
	var next cas.KEK
	var from cas.KEKSource
	switch {
	case o.New != "":
		if from, err = cas.ParseKEKSource(o.New, here, o.NewCommand); err == nil {
			next, err = from.Read(ctx)
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrNewKEK, err)
		}
	case source.File() == "":
		err = ErrNoNewKEK
	default:
		next, err = cas.NewKEK(o.Rand)
	}
	if err != nil {
		return Rekeyed{}, err
	}
	cabinets, bucket, err := h.cabinets(ctx, true, Options{Rand: o.Rand})
	if err != nil {
		return Rekeyed{}, err
	}
	if bucket != nil {
		defer bucket.Close()
	}
	k := keyrings{fs: cas.OS(), source: source, cabinets: cabinets, rand: o.Rand, progress: o.Progress}
	now, nerr := source.Read(ctx)
	out := Rekeyed{KEK: source.String(), Same: nerr == nil && now.Equal(next)}
	for _, c := range cabinets {
		out.Keyrings = append(out.Keyrings, c.String())
	}
	if source.File() != "" && from.File() == "" && o.New != "" {
		// The KEK leaves its file: only config.toml can say where it is now.
		if !out.Same {
			out.Old = source.File()
		}
		if err := k.recover(ctx); err != nil {
			return Rekeyed{}, err
		}
		err = k.moveTo(ctx, next)
	} else {
		err = k.rekey(ctx, next)
	}
	if err != nil {
		return Rekeyed{}, err
	}
	if source.File() == "" || from.File() == "" && o.New != "" {
		out.KEK = from.String()
		if o.New != h.Config.Keys.KEK {
			out.Setting = o.New
			if from.File() != "" {
				out.Setting = "file:" + from.File()
			}
		}
	}
	return out, nil
}

// ErrStoreLost says that the catalogue has studies whose blocks or keys are gone.
var ErrStoreLost = errors.New("part of the home is missing")

// checkStores keeps a node from starting with an empty store in the place of
// one that is lost: it would say of every study that it is here, and take what
// is sent again for a duplicate.
func (n *Node) checkStores(ctx context.Context, self index.NodeID) error {
	own, copies, err := archive.Holds(n.db, self)
	if err != nil {
		return err
	}
	n.hasOwn = own
	if err := n.home.checkPlace(own); err != nil {
		return err
	}
	if !own && !copies {
		blank, err := archive.Blank(n.db)
		if err == nil && blank {
			err = n.checkNotLost()
		}
		return err
	}
	need := map[string]string{"study keys": n.home.path("keys")}
	if copies || n.home.Config.S3.Bucket == "" {
		need["sealed blocks"] = n.home.path("blocks")
	}
	for what, path := range need {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return lost(what, path)
		} else if err != nil {
			return err
		}
	}
	local, err := cas.OpenFolder(cas.OS(), n.home.path("keys"))
	if err != nil {
		return err
	}
	there, err := cas.KeyringExists(ctx, local)
	if err == nil && !there {
		return lost("study keys", n.home.path("keys"))
	}
	return err
}

// checkNotLost keeps a node whose index is gone from starting as if it were
// new: it would deny every study that it holds.
func (n *Node) checkNotLost() error {
	keys, err := filepath.Glob(n.home.path("keys", "g*", "*"))
	if err != nil {
		return err
	}
	packs, err := filepath.Glob(n.home.path("blocks", "packs", "*.pack"))
	if err != nil || len(keys) == 0 || len(packs) == 0 {
		return err
	}
	return fmt.Errorf("%w: there are keys and blocks of studies here, and the index in %s knows of none: it is lost; restore the whole home from one backup, or make a new home with `priormesh init` and import there what is wanted", ErrStoreLost, n.home.path("index"))
}

func lost(what, path string) error {
	return fmt.Errorf("%w: the index knows of studies here and the %s in %s are gone; restore the whole home from one backup, or make a new home with `priormesh init` and give up what was here", ErrStoreLost, what, path)
}
