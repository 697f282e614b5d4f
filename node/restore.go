package node

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/archive"
	"github.com/priormesh/priormesh/node/audit"
)

// restoredFile marks a home that was restored and has not yet said anything.
const restoredFile = "restored.json"

// restoringFile marks a folder that is no home yet, for as long as a restore
// goes on.
const restoringFile = "restoring"

const (
	learnLook  = 100 * time.Millisecond
	learnSay   = 10 * time.Second
	learnOther = 10 * time.Second // for the other members, once one has told all it knows
)

// ErrNotEmpty says that something is where a home is to be made.
var ErrNotEmpty = errors.New("a home is restored into a new folder only")

// restoredMark is what restoredFile holds.
type restoredMark struct {
	Backup   string    `json:"backup"`
	Taken    time.Time `json:"taken"`
	Restored time.Time `json:"restored"`
	Copies   bool      `json:"copies"` // they are in the home
	// Known are this node's own retractions in the backup, nil before the first
	// start: what it learns beyond them was erased after it.
	Known map[string]index.Position `json:"known"`
	Begun bool                      `json:"begun,omitempty"` // the new epoch
	// Lost: it was not restored, its index has lost what it had said.
	Lost *index.LostError `json:"lost,omitempty"`
}

// Restored says whether the home was restored and its node has not begun anew.
func (h *Home) Restored() bool {
	_, err := os.Stat(h.path(restoredFile))
	return err == nil
}

func (h *Home) restored() (*restoredMark, error) {
	b, err := os.ReadFile(h.path(restoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := new(restoredMark)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%s: %w; restore once more", h.path(restoredFile), err)
	}
	return m, nil
}

func (h *Home) mark(m restoredMark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return writeFile(h.path(restoredFile), append(b, '\n'))
}

// RestoreOptions say how a home is restored.
type RestoreOptions struct {
	VerifyOnly bool // the backup is read and compared, and nothing is made
	Rand       io.Reader
	Now        func() time.Time
	Progress   func(api.BackupProgress)
}

// Restore makes a home of a backup. It is a home, and not only a folder, when
// all of it was read and compared: its settings are put in place last.
func Restore(ctx context.Context, dir, source string, o RestoreOptions) (out api.Restored, err error) {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if _, err := os.Stat(filepath.Join(source, backupFile)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %s", ErrNoBackup, source)
		}
		return out, err
	}
	// On a medium that cannot be written nobody writes a backup either.
	if unlock, err := lockHome(source); err == nil {
		defer unlock()
	} else if errors.Is(err, ErrInUse) {
		return out, fmt.Errorf("a backup is being written to %s: %w", source, err)
	}
	m, err := readManifest(source)
	if err != nil {
		return out, err
	}
	r := &restoring{ctx: ctx, o: o, source: source, dir: dir, m: m}
	out = api.Restored{Backup: m.ID, Taken: m.Taken, Trust: m.Trust, Node: m.Node, Studies: m.Studies, KEK: m.KEK, TrustKey: m.TrustKey,
		Copies: m.Copies, Originals: m.Originals, Missing: m.Missing}
	for _, f := range m.Files {
		out.Files++
		out.Bytes += f.Size
		r.p.Bytes += f.Size
	}
	if o.VerifyOnly {
		for _, f := range m.Files {
			if err := r.copy(f, nil); err != nil {
				return out, err
			}
		}
		return out, nil
	}
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	if slices.ContainsFunc(names, func(e fs.DirEntry) bool { return e.Name() == restoringFile }) {
		return out, fmt.Errorf("%w: %s holds what a restore left that was broken off, study keys among it: nothing in it is needed. Remove it (rm -r) and restore again", ErrNotEmpty, dir)
	}
	if len(names) > 0 {
		return out, fmt.Errorf("%w: %s is not empty; nothing was changed", ErrNotEmpty, dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return out, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return out, err
	}
	unlock, err := lockHome(dir)
	if err != nil {
		return out, err
	}
	defer unlock()
	if err := r.run(); err != nil {
		// What is half made holds keys, and must not be taken for a home.
		if left := r.undo(); left != nil {
			err = fmt.Errorf("%w; and what was restored so far could not be removed (%w): remove %s (rm -r), for it holds study keys, and restore again", err, left, dir)
		}
		return out, err
	}
	out.Home = dir
	return out, nil
}

type restoring struct {
	ctx    context.Context
	o      RestoreOptions
	source string
	dir    string
	m      backupManifest
	p      api.BackupProgress
	told   time.Time
	config []byte
}

func (r *restoring) at(name string) string { return filepath.Join(r.dir, filepath.FromSlash(name)) }

func (r *restoring) undo() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		at := r.at(e.Name())
		if e.Name() != "blocks" && e.Name() != "index" {
			errs = append(errs, destroyTree(at))
		}
		errs = append(errs, os.RemoveAll(at))
	}
	return errors.Join(append(errs, os.Remove(r.at(lockFile)))...)
}

// destroyTree overwrites and removes a file, or all files of a folder: keys of
// studies that are erased meanwhile may be among them.
func destroyTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		return cas.DestroyFile(cas.OS(), p)
	})
}

func (r *restoring) run() error {
	if err := writeFile(r.at(restoringFile), []byte(r.m.ID+"\n")); err != nil {
		return err
	}
	for _, dir := range []string{"blocks", "blocks/packs", "keys", "audit"} {
		if err := os.MkdirAll(r.at(dir), 0o700); err != nil {
			return err
		}
	}
	var tarName, rowsName backedUpFile
	for _, f := range r.m.Files {
		switch {
		case strings.HasSuffix(f.Name, "/"+homeTar):
			tarName = f
		case strings.HasSuffix(f.Name, "/"+rowsFile):
			rowsName = f
		default:
			if err := r.file(f); err != nil {
				return err
			}
		}
	}
	// Both are read twice: what is in them is used only when it has been compared.
	for _, f := range []backedUpFile{tarName, rowsName} {
		if err := r.copy(f, nil); err != nil {
			return err
		}
	}
	if err := r.untar(tarName); err != nil {
		return err
	}
	rows, err := os.Open(filepath.Join(r.source, filepath.FromSlash(rowsName.Name)))
	if err != nil {
		return err
	}
	defer rows.Close()
	n, err := loadRows(r.at("index"), &cancelled{r.ctx, rows})
	if err != nil {
		return fmt.Errorf("the index: %w", err)
	}
	if n != r.m.Rows {
		return fmt.Errorf("%w: the index has %d rows and not %d", ErrBackupDamaged, n, r.m.Rows)
	}
	return r.finish()
}

// finish makes it a home.
func (r *restoring) finish() error {
	key, err := readKey(r.at(nodeKeyFile))
	if err != nil {
		return err
	}
	if got := index.NodeIDOf(key).String(); got != r.m.Node {
		return fmt.Errorf("%w: its key is of node %s", ErrBackupDamaged, got)
	}
	log, err := audit.Open(r.at("audit"), audit.Options{Now: r.o.Now, Tail: r.at(auditedFile), Moved: true})
	if err != nil {
		return err
	}
	err = log.Append(audit.Event{Event: "home.restored", Detail: "from backup " + r.m.ID})
	if err := errors.Join(err, log.Close()); err != nil {
		return err
	}
	token := make([]byte, 32)
	if _, err := io.ReadFull(r.o.Rand, token); err != nil {
		return err
	}
	if err := writeFile(r.at(tokenFile), []byte(hex.EncodeToString(token)+"\n")); err != nil {
		return err
	}
	mark := restoredMark{Backup: r.m.ID, Taken: r.m.Taken, Restored: r.o.Now().UTC(), Copies: r.m.Copies}
	if err := (&Home{Dir: r.dir}).mark(mark); err != nil {
		return err
	}
	if err := syncTree(r.dir); err != nil {
		return err
	}
	if err := os.Remove(r.at(restoringFile)); err != nil {
		return err
	}
	return writeFile(r.at(configFile), r.config)
}

// syncTree makes durable which files a folder has. The files are already.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		d, err := os.Open(p)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	})
}

func (r *restoring) file(f backedUpFile) error {
	to, err := os.OpenFile(r.at(f.Home), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = r.copy(f, to)
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// copy reads a file of the backup, compares it, and writes it to w, if any.
func (r *restoring) copy(f backedUpFile, w io.Writer) error {
	from, err := os.Open(filepath.Join(r.source, filepath.FromSlash(f.Name)))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", ErrBackupDamaged, f.Name)
	}
	if err != nil {
		return err
	}
	defer from.Close()
	h := sha256.New()
	buf := make([]byte, copyBytes)
	size := int64(0)
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n, err := from.Read(buf)
		h.Write(buf[:n])
		if size += int64(n); size > f.Size {
			break
		}
		if w != nil {
			if _, err := w.Write(buf[:n]); err != nil {
				if errors.Is(err, syscall.ENOSPC) {
					err = fmt.Errorf("the disk of %s is full: %w", r.dir, err)
				}
				return err
			}
		}
		r.tell(int64(n))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrBackupDamaged, f.Name, err)
		}
	}
	if size != f.Size || hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%w: %s is not what was written (size or SHA-256): nothing of it is used; take another backup", ErrBackupDamaged, f.Name)
	}
	return nil
}

func (r *restoring) tell(n int64) {
	r.p.BytesDone += n
	if r.o.Progress != nil && time.Since(r.told) >= backupTellEach {
		r.told = time.Now()
		r.o.Progress(r.p)
	}
}

// untar puts the small files into place, but for the settings.
func (r *restoring) untar(f backedUpFile) error {
	from, err := os.Open(filepath.Join(r.source, filepath.FromSlash(f.Name)))
	if err != nil {
		return err
	}
	defer from.Close()
	t := tar.NewReader(&cancelled{r.ctx, from})
	made := map[string]bool{}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrBackupDamaged, f.Name, err)
		}
		if h.Typeflag != tar.TypeReg || path.Clean(h.Name) != h.Name || !filepath.IsLocal(h.Name) || made[h.Name] || h.Name == lockFile || h.Name == restoredFile || h.Name == tokenFile {
			return fmt.Errorf("%w: %s holds %q", ErrBackupDamaged, f.Name, h.Name)
		}
		made[h.Name] = true
		if h.Name == configFile {
			if r.config, err = io.ReadAll(io.LimitReader(t, maxTarFile)); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(r.at(h.Name)), 0o700); err != nil {
			return err
		}
		to, err := os.OpenFile(r.at(h.Name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, t)
		if err == nil {
			err = to.Sync()
		}
		if err = errors.Join(err, to.Close()); err != nil {
			return err
		}
	}
	for _, name := range []string{nodeKeyFile, cardFile, regionFile} {
		if !made[name] {
			return fmt.Errorf("%w: %s lacks %s", ErrBackupDamaged, f.Name, name)
		}
	}
	if len(r.config) == 0 {
		return fmt.Errorf("%w: %s lacks %s", ErrBackupDamaged, f.Name, configFile)
	}
	return nil
}

// cancelled is a reader that ends with a context.
type cancelled struct {
	ctx context.Context
	io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}

// errLearning keeps a restored node silent until it knows what it said before.
var errLearning = errors.New("this node was restored from a backup, or its index has lost what it had said, and it says nothing before a member has told it what it had said since")

// beginAnew brings a node that was restored back into the region: it learns
// from members what it had said after the backup, begins a new epoch of its log,
// and does again what it had done. Nothing is said or given before.
func (n *Node) beginAnew(ctx context.Context) error {
	m := n.anew
	if m == nil {
		return nil
	}
	if !m.Begun {
		if m.Lost == nil { // else nobody else knows better what it had said
			if err := n.learn(ctx); err != nil {
				return err
			}
		}
		n.learning.Store(false)
		if err := n.index.NewEpoch(ctx); err != nil {
			return err
		}
		m.Begun = true
		if err := n.home.mark(*m); err != nil {
			return err
		}
	}
	n.learning.Store(false)
	done, err := n.archive.Restored(ctx, archive.RestoredOptions{Known: m.Known, Copies: m.Copies})
	if err != nil {
		return fmt.Errorf("what the backup lacks could not be brought in line with the region; start the node again: %w", err)
	}
	head, _ := n.index.Head(n.index.Self())
	if m.Lost != nil {
		return n.foundAgain(ctx, head.Epoch)
	}
	if err := n.audit.Append(audit.Event{Event: "home.begun.anew", Detail: fmt.Sprintf("backup %s, epoch %d, %d studies erased again", m.Backup, head.Epoch, done.Erased)}); err != nil {
		return err
	}
	if err := n.noteGap(m); err != nil {
		return err
	}
	if err := n.begun(); err != nil {
		return err
	}
	n.Log.Warn("this node was restored from a backup; a new epoch of its log has begun. The home that the backup was taken of must never run again",
		"backup", m.Backup, "taken", m.Taken, "epoch", uint64(head.Epoch), "erased_again", done.Erased, "copies_forgotten", done.Copies, "told_anew", done.Renewed)
	if done.Lost > 0 {
		n.Log.Warn("studies that were received here after the backup are not in it: they are found, and come back from where copies are; send the others here again", "studies", done.Lost)
	}
	return nil
}

// gapFile is in a home that was restored: from when on it may lack what nobody knows of.
const gapFile = "gap.json"

// gapSaid is for how long every answer of a restored node says that there is a gap:
// in that time what was sent to it is to be sent again.
const gapSaid = 7 * 24 * time.Hour

// gap is what gapFile holds.
type gap struct {
	Taken    time.Time `json:"taken"`
	Restored time.Time `json:"restored"`
}

func (h *Home) gap() (*gap, error) {
	b, err := os.ReadFile(h.path(gapFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	g := new(gap)
	if err == nil {
		err = json.Unmarshal(b, g)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; it only says from when on this restored node may lack something: once all was sent here again remove it", h.path(gapFile), err)
	}
	return g, nil
}

// gapText says what a node that was restored lately may lack without knowing it.
func (n *Node) gapText() string {
	g := n.gap.Load()
	if g == nil || n.Now().Sub(g.Restored) >= gapSaid {
		return ""
	}
	return fmt.Sprintf("this node was restored from a backup of %s: what it received after that and nobody else had heard of is in no answer and on no list. Have what was sent here from then on sent again (this is said until %s)",
		g.Taken.UTC().Format(time.RFC3339), g.Restored.Add(gapSaid).UTC().Format(time.RFC3339))
}

// noteGap writes down what gapText says, before the mark of the restore goes.
func (n *Node) noteGap(m *restoredMark) error {
	g := gap{Taken: m.Taken, Restored: m.Restored}
	b, err := json.Marshal(g)
	if err != nil {
		return err
	}
	if err := writeFile(n.home.path(gapFile), append(b, '\n')); err != nil {
		return err
	}
	n.gap.Store(&g)
	return nil
}

// begun lets a node go on as any other.
func (n *Node) begun() error {
	if err := os.Remove(n.home.path(restoredFile)); err != nil {
		return err
	}
	if err := syncTree(n.home.Dir); err != nil {
		return err
	}
	n.anew = nil
	n.unready.Store(false)
	return nil
}

// foundAgain stores from their blocks the studies that an index has lost with
// what it had said, and says that the disk is not to be trusted.
func (n *Node) foundAgain(ctx context.Context, epoch index.Epoch) error {
	lost := n.anew.Lost
	if err := n.archive.LookThroughAll(ctx); err != nil {
		return fmt.Errorf("which studies the index may have lost instances of could not be noted; start the node again: %w", err)
	}
	instances, err := n.archive.RecoverLost(ctx)
	if err != nil {
		return fmt.Errorf("what the index has lost could not be stored again from its blocks; start the node again: %w", err)
	}
	n.lost = fmt.Sprintf("the index on this node's disk had lost its newest writes when this node started: its own log ended at fact %d of epoch %d and had reached fact %d of epoch %d. %s from their blocks, and epoch %d of the log has begun. Studies that had grown in that time are found again as all that was received here is looked through. See to the disk: it has lost what it said it had written",
		lost.Have.Seq, lost.Have.Epoch, lost.Said.Seq, lost.Said.Epoch, counted(instances, "instance was stored again", "instances were stored again"), epoch)
	if err := n.audit.Append(audit.Event{Event: "home.begun.anew", Detail: fmt.Sprintf("the index had lost what was said, epoch %d, %d instances stored again", epoch, instances)}); err != nil {
		return err
	}
	if err := n.begun(); err != nil {
		return err
	}
	n.Log.Error(n.lost)
	return nil
}

// learn waits until a member has told all that it knows of this node's log and
// of its own, and for a moment until the other ones that are there have.
func (n *Node) learn(ctx context.Context) error {
	others := 0
	for _, k := range n.index.Nodes() {
		if k.Node != n.index.Self() {
			others++
		}
	}
	if others == 0 || n.Alone {
		if n.Alone && others > 0 {
			n.Log.Warn("this node was restored from a backup and begins without asking a member: studies that it had erased since may be shown until one is reached")
		}
		return nil
	}
	n.Log.Warn("this node was restored from a backup and waits for a member to tell it what it had said since; until then it serves nothing. `priormesh run --alone` does not wait")
	tick := time.NewTicker(learnLook)
	defer tick.Stop()
	var first, said time.Time
	said = time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		told, connected := 0, 0
		for _, p := range n.mesh.Peers() {
			if p.Connected {
				connected++
				if !p.Agreed.IsZero() {
					told++
				}
			}
		}
		now := time.Now()
		if told > 0 && first.IsZero() {
			first = now
		}
		if told > 0 && (told == others || told == connected && now.Sub(first) >= learnOther/5 || now.Sub(first) >= learnOther) {
			return nil
		}
		if now.Sub(said) >= learnSay {
			said = now
			n.Log.Warn("still waiting for a member. If members run and are connected, see whether the node of the old home still runs somewhere: they speak with it instead of this one", "connected", connected, "of", others)
		}
	}
}
