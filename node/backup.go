package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/audit"
)

// A backup is a folder:
//
//	backup.json                      what it holds; put in place last, as one step
//	packs/NUMBER-SHA256.pack         packs of blocks as they lie in the home
//	set-ID/home.tar                  the small files: settings, keys, card, region, audit
//	set-ID/rows.zst                  the rows of index and catalogue (rows.go)
//	lock                             held by who writes or reads it
//
// backup.json is {"format", "sha256", "backup"}: the format of all of it, the
// SHA-256 of the bytes of "backup", and that, which names every file with its
// size and SHA-256. A file that it does not name is none of the backup. So one
// that is cut off leaves the one before as it was, and packs that are there
// already are not copied again.
//
// Order makes it consistent. Packs are copied first, while nothing is swept,
// evicted or collected; that takes long. Then, while no erasure goes on, come
// the rows, after them the keys, and the packs that were begun meanwhile:
// whatever the rows name was in a pack or in the keyring before.
const (
	backupFormat = "priormesh backup 1"
	backupFile   = "backup.json"
	packsDir     = "packs"
	setPrefix    = "set-"
	homeTar      = "home.tar"
	rowsFile     = "rows.zst"
	partFile     = ".part"

	copyBytes      = 1 << 20
	sectorBytes    = 4 << 10
	maxBackupJSON  = 256 << 20
	maxTarFile     = 64 << 20 // of what is read whole; the audit log is not
	backupTellEach = 250 * time.Millisecond
)

// Errors of backups.
var (
	ErrBackingUp     = errors.New("a backup is being made already; wait for its end, or break it off")
	ErrNoBackup      = errors.New("there is no complete backup in this folder")
	ErrBackupDamaged = errors.New("the backup is damaged")
	ErrTarget        = errors.New("the folder for the backup")
)

// BackupOptions say where a backup goes and what is in it.
type BackupOptions struct {
	Target     string
	Copies     bool // copies of other trusts' studies too
	WithoutKEK bool // the KEK is left out although it lies in the home
	Reread     bool // packs that the target has are read in the home once more
	Rate       int64
	Progress   func(api.BackupProgress)

	fs cas.FS // of the target; of tests
}

// backupManifest is what backup.json says.
type backupManifest struct {
	ID        string         `json:"id"`
	Node      string         `json:"node"`
	Trust     string         `json:"trust"`
	Version   string         `json:"version"`
	Begun     time.Time      `json:"begun"`
	Taken     time.Time      `json:"taken"` // what was acknowledged before is in it
	Epoch     uint64         `json:"epoch"`
	Seq       uint64         `json:"seq"`
	Studies   int            `json:"studies"`
	Rows      uint64         `json:"rows"`
	Copies    bool           `json:"copies"`
	KEK       string         `json:"kek"` // "in the backup", "left out", or where it comes from
	TrustKey  bool           `json:"trust_key"`
	Originals string         `json:"originals"`
	Missing   []string       `json:"missing"` // what could not be backed up
	Files     []backedUpFile `json:"files"`
}

type backedUpFile struct {
	Name   string `json:"name"` // below the target, with /
	Home   string `json:"home"` // below the home; of a tar, empty
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Mtime  int64  `json:"mtime,omitempty"` // of a pack in the home, Unix ns
	Holes  int64  `json:"holes,omitempty"` // bytes that could not be read, and are zeros here
}

type backupEnvelope struct {
	Format string          `json:"format"`
	SHA256 string          `json:"sha256"`
	Backup json.RawMessage `json:"backup"`
}

func encodeManifest(m backupManifest) ([]byte, error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	return json.Marshal(backupEnvelope{backupFormat, hex.EncodeToString(sum[:]), raw})
}

// decodeManifest takes the very bytes that encodeManifest made and no others.
func decodeManifest(b []byte) (m backupManifest, err error) {
	damaged := func(why string) error { return fmt.Errorf("%w: %s: %s", ErrBackupDamaged, backupFile, why) }
	var e backupEnvelope
	if json.Unmarshal(b, &e) != nil {
		return m, damaged("it is not what was written")
	}
	if e.Format != backupFormat && strings.HasPrefix(e.Format, "priormesh backup ") && len(e.Format) < 40 {
		return m, fmt.Errorf("this is a %q, and this version reads %q only: restore it with the version that made it", e.Format, backupFormat)
	}
	sum := sha256.Sum256(e.Backup)
	if e.Format != backupFormat || e.SHA256 != hex.EncodeToString(sum[:]) {
		return m, damaged("its checksum is wrong")
	}
	if again, err := json.Marshal(e); err != nil || !bytes.Equal(again, b) {
		return m, damaged("it is not what was written")
	}
	if err := json.Unmarshal(e.Backup, &m); err != nil {
		return m, damaged(err.Error())
	}
	return m, checkNames(m)
}

// checkNames keeps a manifest from naming what lies elsewhere.
func checkNames(m backupManifest) error {
	seen := make(map[string]bool)
	for _, f := range m.Files {
		dir, base := path.Split(f.Name)
		set := dir == setPrefix+m.ID+"/" && (base == homeTar || base == rowsFile) && f.Home == ""
		n, ok := cas.ParsePackName(strings.TrimPrefix(f.Home, "blocks/packs/"))
		pack := ok && f.Name == packTarget(n, f.SHA256) && f.Home == fmt.Sprintf("blocks/packs/%016x.pack", n)
		if !set && !pack || f.Size < 0 || len(f.SHA256) != 64 || seen[f.Name] || f.Home != "" && seen[f.Home] || strings.ContainsAny(m.ID, "/\\.") || m.ID == "" {
			return fmt.Errorf("%w: %s names a file that is none of a backup", ErrBackupDamaged, backupFile)
		}
		seen[f.Name] = true
		if f.Home != "" {
			seen[f.Home] = true
		}
	}
	if !seen[setPrefix+m.ID+"/"+homeTar] || !seen[setPrefix+m.ID+"/"+rowsFile] {
		return fmt.Errorf("%w: %s does not name all of it", ErrBackupDamaged, backupFile)
	}
	return nil
}

func packTarget(number uint64, sum string) string {
	return fmt.Sprintf("%s/%016x-%s.pack", packsDir, number, sum)
}

// Backup makes a backup of the home of a node that does not run. It returns
// ErrInUse if it does.
func Backup(ctx context.Context, home *Home, o Options, b BackupOptions) (out api.Backup, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{Options: o, home: home, started: o.Now(), group: new(errgroup.Group)}
	if n.unlock, err = lockHome(home.Dir); err != nil {
		return out, err
	}
	n.closers = append(n.closers, func() error { n.unlock(); return nil })
	defer func() { err = errors.Join(err, n.Close()) }()
	if home.Restored() {
		return out, errors.New("this home was restored from a backup and has not run since; run the node first")
	}
	if err := n.openStores(ctx); err != nil {
		return out, err
	}
	if n.anew != nil {
		return out, errors.New("the index of this home has lost what its node had said; run the node first")
	}
	return n.backup(ctx, b)
}

// Backup implements api.Node.
func (n *Node) Backup(ctx context.Context, r api.BackupRequest, progress func(api.BackupProgress)) (api.Backup, error) {
	return n.backup(ctx, BackupOptions{Target: r.Target, Copies: r.Copies, WithoutKEK: r.WithoutKEK, Reread: r.Reread, Rate: r.Rate, Progress: progress})
}

// backingUp is one backup that is being made.
type backingUp struct {
	n      *Node
	o      BackupOptions
	fs     cas.FS
	limit  *rate.Limiter
	dir    string // the target
	m      backupManifest
	old    map[string]backedUpFile // of the backup that is there, by name in the home
	there  map[string]int64        // packs in the target, and their sizes
	out    api.Backup
	copied int64
	p      api.BackupProgress
	told   time.Time
}

func (n *Node) backup(ctx context.Context, o BackupOptions) (api.Backup, error) {
	if !n.backingUp.TryLock() {
		return api.Backup{}, ErrBackingUp
	}
	defer n.backingUp.Unlock()
	b := &backingUp{n: n, o: o, fs: o.fs, dir: o.Target, old: make(map[string]backedUpFile), there: make(map[string]int64)}
	if b.fs == nil {
		b.fs = cas.OS()
	}
	b.limit = rate.NewLimiter(rate.Inf, copyBytes)
	if o.Rate > 0 {
		b.limit = rate.NewLimiter(rate.Limit(o.Rate), copyBytes)
	}
	unlock, err := b.prepare()
	if err != nil {
		return api.Backup{}, b.named(err)
	}
	defer unlock()
	if err := b.run(ctx); err != nil {
		b.tidy() // what is half done
		return api.Backup{}, b.named(err)
	}
	return b.out, nil
}

// named says of a full disk which one it is.
func (b *backingUp) named(err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) || errors.Is(err, cas.ErrDiskFull) {
		return err
	}
	return fmt.Errorf("the disk of the backup in %s is full: %w (%w); make room there, or name a folder on another disk. A backup that was there before is as it was", b.dir, err, cas.ErrDiskFull)
}

func (b *backingUp) at(name ...string) string {
	return filepath.Join(append([]string{b.dir}, name...)...)
}

// prepare makes the target and looks what is in it.
func (b *backingUp) prepare() (unlock func(), err error) {
	if !filepath.IsAbs(b.dir) {
		return nil, fmt.Errorf("%w %q: a whole path is needed", ErrTarget, b.dir)
	}
	home, err := filepath.EvalSymlinks(b.n.home.Dir)
	if err != nil {
		return nil, err
	}
	if home, err = filepath.Abs(home); err != nil {
		return nil, err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(b.dir))
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrTarget, b.dir, err)
	}
	real := filepath.Join(parent, filepath.Base(b.dir))
	if r, err := filepath.EvalSymlinks(b.dir); err == nil {
		real = r
	}
	for x, y := range map[string]string{real + "/": home + "/", home + "/": real + "/"} {
		if strings.HasPrefix(x, y) {
			return nil, fmt.Errorf("%w %s and the home %s lie in each other: choose a folder elsewhere, best on another machine's disk", ErrTarget, b.dir, b.n.home.Dir)
		}
	}
	names, err := b.fs.ReadDir(b.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w %s: %w", ErrTarget, b.dir, err)
	}
	for _, name := range names {
		if name != backupFile && name != backupFile+partFile && name != packsDir && name != lockFile && name != "lost+found" && !strings.HasPrefix(name, setPrefix) {
			return nil, fmt.Errorf("%w %s holds %q, which is none of a backup: choose an empty folder, or one with a backup of this node", ErrTarget, b.dir, name)
		}
	}
	for _, dir := range []string{b.dir, b.at(packsDir)} {
		if err := b.fs.MkdirAll(dir); err != nil {
			return nil, fmt.Errorf("%w %s: %w", ErrTarget, b.dir, err)
		}
	}
	if info, err := os.Stat(b.dir); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, errors.Join(err, fmt.Errorf("%w %s may be read by others, and it will hold keys: `chmod 700` it", ErrTarget, b.dir))
	}
	free, err := lockHome(b.dir)
	if err != nil {
		return nil, fmt.Errorf("%w %s is in use by another backup or a restore: %w", ErrTarget, b.dir, err)
	}
	defer func() {
		if err != nil {
			free()
		}
	}()
	old, err := readManifest(b.dir)
	switch {
	case errors.Is(err, ErrNoBackup):
		err = nil
	case err != nil:
		return nil, fmt.Errorf("%w; the backup that is there is not overwritten: choose another folder", err)
	case old.Node != b.n.index.Self().String():
		return nil, fmt.Errorf("%w %s holds the backup of another node, %s of %s: choose another folder", ErrTarget, b.dir, old.Node, old.Trust)
	}
	for _, f := range old.Files {
		if f.Home != "" {
			b.old[f.Home] = f
		}
	}
	packs, err := os.ReadDir(b.at(packsDir))
	if err != nil {
		return nil, err
	}
	for _, p := range packs {
		if info, err := p.Info(); err == nil && info.Mode().IsRegular() {
			b.there[packsDir+"/"+p.Name()] = info.Size()
		}
	}
	id := make([]byte, 4)
	if _, err := io.ReadFull(b.n.Rand, id); err != nil {
		return nil, err
	}
	now := b.n.Now().UTC()
	b.m = backupManifest{ID: now.Format("20060102T150405Z") + "-" + hex.EncodeToString(id), Node: b.n.index.Self().String(),
		Trust: string(b.n.home.Config.Trust), Version: b.n.Version, Begun: now, Missing: []string{}, Copies: b.o.Copies, Originals: b.n.home.Config.S3.place()}
	return free, nil
}

// wanted says which shelves are backed up, and which files of keys. Nil: all.
func (b *backingUp) wanted(ctx context.Context) (shelf func(cas.ShelfID) bool, keys map[string]bool, err error) {
	if b.m.Copies {
		return nil, nil, nil
	}
	shelves, keys := make(map[cas.ShelfID]bool), make(map[string]bool)
	if b.n.shared { // what was received here is in the bucket
		return func(cas.ShelfID) bool { return false }, keys, nil
	}
	self := b.n.index.Self().String()
	err = b.n.keys.Shelves(ctx, func(name string, id cas.ShelfID) error {
		if strings.HasSuffix(name, "/"+self) {
			shelves[id], keys[b.n.keys.Place(name)] = true, true
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if err != nil {
		b.missing("a study key here cannot be read, so which blocks are of copies cannot be told: everything is in the backup. `priormesh verify` says which study it is of")
		b.m.Copies = true
		return nil, nil, nil
	}
	return func(id cas.ShelfID) bool { return shelves[id] }, keys, nil
}

func (b *backingUp) missing(text string) {
	if !slices.Contains(b.m.Missing, text) {
		b.m.Missing = append(b.m.Missing, text)
	}
}

func (b *backingUp) run(ctx context.Context) error {
	sweeps, err := b.n.archive.HoldSweeps(ctx)
	if err != nil {
		return err
	}
	defer sweeps()
	collector, err := b.n.blocks.Hold(ctx)
	if err != nil {
		return err
	}
	defer collector()
	shelf, _, err := b.wanted(ctx)
	if err != nil {
		return err
	}
	packs, err := b.n.blocks.Packs(ctx, shelf)
	if err != nil {
		return err
	}
	done := make(map[uint64]backedUpFile)
	if err := b.packs(ctx, packs, done); err != nil {
		return err
	}
	erasures, err := b.n.archive.HoldErasures(ctx)
	if err != nil {
		return err
	}
	defer erasures()
	if err := b.set(ctx, done); err != nil {
		return err
	}
	return b.commit()
}

// set copies what has to fit together.
func (b *backingUp) set(ctx context.Context, done map[uint64]backedUpFile) error {
	if err := b.fs.MkdirAll(b.at(setPrefix + b.m.ID)); err != nil {
		return err
	}
	b.m.Taken = b.n.Now().UTC()
	if head, ok := b.n.index.Head(b.n.index.Self()); ok {
		b.m.Epoch, b.m.Seq = uint64(head.Epoch), uint64(head.Seq)
	}
	var err error
	if b.m.Studies, _, err = b.n.archive.Counts(); err != nil {
		return err
	}
	if _, all, err := b.n.archive.Damage(1); err != nil {
		return err
	} else if all > 0 {
		b.missing(fmt.Sprintf("%s damaged here, and in the backup as they are: `priormesh status` lists them", counted(all, "study is", "studies are")))
	}
	b.p.Phase = "index"
	b.tell(true)
	var rows *sink
	b.m.Rows, err = writeRows(b.n.index, func() (io.Writer, error) {
		if rows != nil {
			rows.drop()
		}
		var err error
		rows, err = b.create(ctx, setPrefix+b.m.ID+"/"+rowsFile)
		return rows, err
	})
	if rows != nil && err != nil {
		rows.drop()
	}
	if err != nil {
		return fmt.Errorf("the index: %w", err)
	}
	f, err := rows.finish(rows.name)
	if err != nil {
		return err
	}
	b.m.Files = append(b.m.Files, f)
	// The keys after the rows: a key is there before the first row that needs it.
	shelf, keys, err := b.wanted(ctx)
	if err != nil {
		return err
	}
	b.p.Phase = "keys"
	b.tell(true)
	if err := b.home(ctx, keys); err != nil {
		return err
	}
	packs, err := b.n.blocks.Packs(ctx, shelf)
	if err != nil {
		return err
	}
	b.p.Phase = "blocks"
	if err := b.packs(ctx, packs, done); err != nil {
		return err
	}
	for _, p := range packs {
		if f, ok := done[p.Number]; ok {
			b.m.Files = append(b.m.Files, f)
			b.out.Bytes += f.Size
			b.out.Packs++
		}
	}
	return nil
}

// packs copies packs that are not in the target.
func (b *backingUp) packs(ctx context.Context, list []cas.Pack, done map[uint64]backedUpFile) error {
	b.p.Phase = "blocks"
	type job struct {
		cas.Pack
		mtime int64
		known backedUpFile // in the target
		has   bool
	}
	var todo []job
	need := int64(0)
	for _, p := range list {
		if _, ok := done[p.Number]; ok {
			continue
		}
		info, err := os.Stat(filepath.Join(b.n.blocks.PackDir(), p.Name))
		if errors.Is(err, fs.ErrNotExist) {
			b.missing(fmt.Sprintf("the pack %s is gone from the disk, with the blocks in it", p.Name))
			continue
		}
		if err != nil {
			return err
		}
		j := job{Pack: p, mtime: info.ModTime().UnixNano()}
		j.Size = min(p.Size, info.Size())
		if j.Size < p.Size {
			b.missing(fmt.Sprintf("the pack %s is shorter on the disk than it was", p.Name))
		}
		j.known, j.has = b.old["blocks/packs/"+p.Name]
		size, there := b.there[j.known.Name]
		j.has = j.has && there && size == j.known.Size && j.known.Size == j.Size && j.known.Mtime == j.mtime && j.known.Holes == 0
		if !j.has {
			need += j.Size
		}
		todo = append(todo, j)
		b.p.Bytes += j.Size
	}
	if err := b.room(need); err != nil {
		return err
	}
	b.tell(true)
	for _, j := range todo {
		if err := ctx.Err(); err != nil {
			return err
		}
		if j.has && !b.o.Reread {
			done[j.Number] = j.known
			b.p.BytesDone += j.Size
			b.tell(false)
			continue
		}
		f, err := b.pack(ctx, j.Pack, j.mtime)
		if err != nil {
			return err
		}
		done[j.Number] = f
	}
	return b.fs.SyncDir(b.at(packsDir))
}

// room refuses a backup that cannot fit, and one that would take the node's own
// disk.
func (b *backingUp) room(need int64) error {
	free, err := b.fs.Free(b.dir)
	if err != nil {
		return err
	}
	keep := int64(0)
	var home, target unix.Stat_t
	if unix.Stat(b.n.home.Dir, &home) == nil && unix.Stat(b.dir, &target) == nil && home.Dev == target.Dev {
		keep = int64(b.n.home.Config.Space.Reserve)
		b.out.SameDisk = true
	}
	if free-keep < need {
		return fmt.Errorf("%w %s needs %s and its disk has %s free: %w", ErrTarget, b.dir, Size(need), Size(max(0, free-keep)), syscall.ENOSPC)
	}
	return nil
}

// pack copies one pack. What the disk cannot read is zeros in the copy, where a
// store that opens it finds damage, as it does in the pack itself.
func (b *backingUp) pack(ctx context.Context, p cas.Pack, mtime int64) (backedUpFile, error) {
	from, err := os.Open(filepath.Join(b.n.blocks.PackDir(), p.Name))
	if err != nil {
		return backedUpFile{}, err
	}
	defer from.Close()
	s, err := b.create(ctx, packsDir+"/"+p.Name+partFile)
	if err != nil {
		return backedUpFile{}, err
	}
	f, err := b.fill(ctx, s, from, p)
	if err != nil {
		s.drop()
		return f, err
	}
	f.Mtime = mtime
	return f, nil
}

func (b *backingUp) fill(ctx context.Context, s *sink, from io.ReaderAt, p cas.Pack) (backedUpFile, error) {
	buf := make([]byte, copyBytes)
	holes := int64(0)
	for at := int64(0); at < p.Size; {
		part := buf[:min(int64(len(buf)), p.Size-at)]
		n, err := from.ReadAt(part, at)
		if n < len(part) {
			if err != nil && !errors.Is(err, io.EOF) {
				holes += readSectors(from, part, at)
			} else {
				return backedUpFile{}, fmt.Errorf("the pack %s changed while it was copied", p.Name)
			}
		}
		if err := b.limit.WaitN(ctx, len(part)); err != nil {
			return backedUpFile{}, err
		}
		if _, err := s.Write(part); err != nil {
			return backedUpFile{}, err
		}
		at += int64(len(part))
		b.p.BytesDone += int64(len(part))
		b.tell(false)
	}
	sum := s.sum()
	name := packTarget(p.Number, sum)
	var f backedUpFile
	var err error
	if size, ok := b.there[name]; ok && size == p.Size {
		s.drop() // an earlier backup, or one that was cut off, has it
		f = backedUpFile{Name: name, Size: p.Size, SHA256: sum}
	} else if f, err = s.finish(name); err != nil {
		return f, err
	} else {
		b.copied += f.Size
		b.there[name] = f.Size
	}
	if f.Home, f.Holes = "blocks/packs/"+p.Name, holes; holes > 0 {
		b.missing(fmt.Sprintf("%d bytes of the pack %s cannot be read from the disk", holes, p.Name))
	}
	return f, nil
}

// readSectors reads what can be read, and leaves zeros for the rest.
func readSectors(from io.ReaderAt, part []byte, at int64) (holes int64) {
	for off := 0; off < len(part); off += sectorBytes {
		sector := part[off:min(off+sectorBytes, len(part))]
		if n, _ := from.ReadAt(sector, at+int64(off)); n < len(sector) {
			clear(sector)
			holes += int64(len(sector))
		}
	}
	return holes
}

// home writes the small files, one after another, into a tar.
func (b *backingUp) home(ctx context.Context, keys map[string]bool) error {
	h := b.n.home
	s, err := b.create(ctx, setPrefix+b.m.ID+"/"+homeTar)
	if err != nil {
		return err
	}
	t := tar.NewWriter(s)
	err = b.homeFiles(ctx, h, t, keys)
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		s.drop()
		return err
	}
	f, err := s.finish(s.name)
	b.m.Files = append(b.m.Files, f)
	return err
}

func (b *backingUp) homeFiles(ctx context.Context, h *Home, t *tar.Writer, keys map[string]bool) error {
	for _, name := range []string{configFile, nodeKeyFile, cardFile, regionFile} {
		if err := tarFile(t, h.path(name), name); err != nil {
			return err
		}
	}
	may := []string{trustKeyFile, originalsFile}
	source, err := h.kekSource()
	if err != nil {
		return err
	}
	kek, inHome := h.inHome(source.File())
	switch {
	case inHome && b.o.WithoutKEK:
		b.m.KEK = "left out"
	case inHome:
		b.m.KEK = "in the backup"
		if err := tarFile(t, h.path(kek), kek); err != nil {
			return fmt.Errorf("the KEK: %w", err)
		}
	default:
		b.m.KEK = source.String()
	}
	c := h.Config.S3
	if kind, name, _ := strings.Cut(c.Credentials, ":"); c.Bucket != "" && kind == "file" {
		if in, ok := h.inHome(h.abs(name)); ok {
			may = append(may, in)
		}
	}
	if c.Bucket != "" && c.CAFile != "" {
		if in, ok := h.inHome(h.abs(c.CAFile)); ok {
			may = append(may, in)
		}
	}
	for _, name := range may {
		err := tarFile(t, h.path(name), name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		b.m.TrustKey = b.m.TrustKey || name == trustKeyFile
	}
	if err := b.auditLog(t); err != nil {
		return err
	}
	return filepath.WalkDir(h.path("keys"), func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // destroyed meanwhile
			}
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		in, err := filepath.Rel(h.path("keys"), p)
		if err != nil {
			return err
		}
		in = filepath.ToSlash(in)
		if strings.HasSuffix(in, ".tmp") || keys != nil && strings.Contains(in, "/") && !keys[in] {
			return nil
		}
		err = tarFile(t, p, "keys/"+in)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func (h *Home) abs(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return h.path(name)
}

// inHome is the name below the home of a file that lies there.
func (h *Home) inHome(file string) (name string, ok bool) {
	if file == "" {
		return "", false
	}
	dir, err := filepath.Abs(h.Dir)
	if err != nil {
		return "", false
	}
	if file, err = filepath.Abs(file); err != nil {
		return "", false
	}
	name, err = filepath.Rel(dir, file)
	return filepath.ToSlash(name), err == nil && filepath.IsLocal(name)
}

func tarFile(t *tar.Writer, file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxTarFile {
		return fmt.Errorf("%s is not a small file, as it should be", file)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTarFile))
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = t.Write(data)
	return err
}

// auditLog copies the audit log up to the last event that is whole.
func (b *backingUp) auditLog(t *tar.Writer) error {
	if err := b.n.audit.Append(audit.Event{Event: "backup.taken", Detail: b.m.ID}); err != nil {
		return err
	}
	return b.n.audit.Copy(func(name string, size int64, r io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: "audit/" + name, Mode: 0o600, Size: size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := io.CopyN(t, r, size)
		return err
	})
}

// commit makes the backup the one that the target holds, and only then removes
// what is not of it.
func (b *backingUp) commit() error {
	for _, dir := range []string{b.at(setPrefix + b.m.ID), b.at(packsDir), b.dir} {
		if err := b.fs.SyncDir(dir); err != nil {
			return err
		}
	}
	raw, err := encodeManifest(b.m)
	if err != nil {
		return err
	}
	part := b.at(backupFile + partFile)
	if err := b.fs.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := b.fs.Create(part)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(raw, 0); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = b.fs.Rename(part, b.at(backupFile))
	}
	if err == nil {
		err = b.fs.SyncDir(b.dir)
	}
	if err != nil {
		_ = b.fs.Remove(part)
		return err
	}
	b.out.ID, b.out.Target, b.out.Taken = b.m.ID, b.dir, b.m.Taken
	b.out.Studies, b.out.Copied, b.out.KEK, b.out.TrustKey = b.m.Studies, b.copied, b.m.KEK, b.m.TrustKey
	b.out.Copies, b.out.Originals, b.out.Missing = b.m.Copies, b.m.Originals, b.m.Missing
	for _, f := range b.m.Files {
		if f.Home == "" {
			b.out.Bytes += f.Size
		}
	}
	b.tidy()
	return nil
}

// tidy removes what the backup in the target does not name. Sets hold keys, so
// they are overwritten first. That it fails is no harm: the next one does it.
func (b *backingUp) tidy() {
	keep := map[string]bool{}
	m, err := readManifest(b.dir)
	if err != nil && !errors.Is(err, ErrNoBackup) {
		return
	}
	complete := err == nil && m.ID == b.m.ID
	for _, f := range m.Files {
		keep[f.Name] = true
	}
	entries, err := os.ReadDir(b.at(packsDir))
	if err != nil {
		return
	}
	for _, e := range entries {
		// Whole packs of a backup that did not come to its end serve the next one.
		name := packsDir + "/" + e.Name()
		if strings.HasSuffix(name, partFile) || complete && !keep[name] && strings.HasSuffix(name, ".pack") {
			_ = b.fs.Remove(b.at(name))
		}
	}
	if entries, err = os.ReadDir(b.dir); err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), setPrefix) || keep[e.Name()+"/"+homeTar] {
			continue
		}
		for _, name := range []string{homeTar, rowsFile} {
			file := b.at(e.Name(), name)
			if name == homeTar {
				_ = cas.DestroyFile(b.fs, file)
			}
			_ = b.fs.Remove(file)
		}
		_ = b.fs.Remove(b.at(e.Name()))
	}
	_ = b.fs.SyncDir(b.dir)
}

// tell tells how far it is.
func (b *backingUp) tell(now bool) {
	if b.o.Progress == nil || !now && time.Since(b.told) < backupTellEach {
		return
	}
	b.told = time.Now()
	b.p.Copied = b.copied
	b.o.Progress(b.p)
}

// sink is a file of the target that is being written.
type sink struct {
	b    *backingUp
	ctx  context.Context
	name string
	f    cas.File
	h    hash.Hash
	size int64
}

func (b *backingUp) create(ctx context.Context, name string) (*sink, error) {
	if err := b.fs.Remove(b.at(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := b.fs.Create(b.at(name))
	if err != nil {
		return nil, err
	}
	return &sink{b: b, ctx: ctx, name: name, f: f, h: sha256.New()}, nil
}

func (s *sink) Write(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.f.WriteAt(p, s.size)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.h.Write(p[:n])
	s.size += int64(n)
	return n, err
}

func (s *sink) sum() string { return hex.EncodeToString(s.h.Sum(nil)) }

// finish makes it durable under its name.
func (s *sink) finish(name string) (backedUpFile, error) {
	err := s.f.Sync()
	if cerr := s.f.Close(); err == nil {
		err = cerr
	}
	if err == nil && name != s.name {
		err = s.b.fs.Rename(s.b.at(s.name), s.b.at(name))
	}
	return backedUpFile{Name: name, Size: s.size, SHA256: s.sum()}, err
}

func (s *sink) drop() {
	_ = s.f.Close()
	_ = s.b.fs.Remove(s.b.at(s.name))
}

// readManifest reads what a folder says it holds.
func readManifest(dir string) (backupManifest, error) {
	f, err := os.Open(filepath.Join(dir, backupFile))
	if errors.Is(err, fs.ErrNotExist) {
		return backupManifest{}, fmt.Errorf("%w: %s", ErrNoBackup, dir)
	}
	if err != nil {
		return backupManifest{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBackupJSON+1))
	if err != nil {
		return backupManifest{}, err
	}
	if len(b) > maxBackupJSON {
		return backupManifest{}, fmt.Errorf("%w: %s is too large", ErrBackupDamaged, backupFile)
	}
	return decodeManifest(b)
}
