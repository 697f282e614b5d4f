package castest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/priormesh/priormesh/cas"
)

// Op is a kind of thing that a drive is asked to do.
type Op string

// The operations of a file system and of its files.
const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRemove   Op = "remove"
	OpRename   Op = "rename"
	OpMkdir    Op = "mkdir"
	OpReadDir  Op = "readdir"
	OpSyncDir  Op = "syncdir"
	OpFree     Op = "free"
	OpStat     Op = "stat" // also Uncache
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpTruncate Op = "truncate"
)

// ErrPowerCut is what every operation on a file system of before a power cut
// gives.
var ErrPowerCut = errors.New("the power was cut")

// Drive is a drive in memory that keeps the promises of cas.FS and no other:
// the bytes of a file are durable after its Sync and the names in a folder
// after its SyncDir. It fails as it is told to, and as its seed says: the same
// calls in the same order on a drive of the same seed fail alike.
//
// A failed Sync is as bad as Linux makes it: some of the bytes are on disk,
// and the others are read back as if they were until the file is uncached or
// the power is cut, whatever a later Sync says.
type Drive struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	life  int
	dirs  map[string]*folder
	bytes int64 // of all files

	capacity int64
	odds     map[Op]float64
	flips    float64
	after    map[Op][]failure
	cutAfter int
	ops      int
}

type failure struct {
	n   int
	err error
}

// folder is a directory: its names as a process sees them and as they are on
// disk, and what was done to them since the last SyncDir, in order. Folders
// within a folder are names with a nil inode.
type folder struct {
	names   map[string]*inode
	durable map[string]*inode
	log     []nameOp
}

type nameOp struct {
	set   map[string]*inode
	unset []string
}

// inode is a file: bytes as a process sees them, and as they are on disk.
type inode struct {
	data    []byte
	disk    []byte
	changed map[int64]bool // sectors of data that the next Sync writes
	links   int
}

// sectorSize is what a drive writes at once, more or less.
const sectorSize = 512

// NewDrive is an empty drive of unlimited capacity.
func NewDrive(seed uint64) *Drive {
	d := &Drive{
		rnd:  rand.New(rand.NewPCG(seed, 0x647269766573)),
		dirs: map[string]*folder{}, odds: map[Op]float64{}, after: map[Op][]failure{}, capacity: -1,
	}
	d.dirs["/"] = newFolder()
	return d
}

func newFolder() *folder {
	return &folder{names: map[string]*inode{}, durable: map[string]*inode{}}
}

// Capacity is how many bytes the files may have together; negative: no limit.
func (d *Drive) Capacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// Used is how many bytes the files have together.
func (d *Drive) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytes
}

// Fail makes one in so many of an operation fail with EIO; 0: none.
func (d *Drive) Fail(op Op, odds float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.odds[op] = odds
}

// FailNth makes the nth operation of a kind from now on fail with an error.
func (d *Drive) FailNth(op Op, n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.after[op] = append(d.after[op], failure{n, err})
}

// Flip makes one in so many reads return one flipped bit.
func (d *Drive) Flip(odds float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flips = odds
}

// Heal ends all failures that were ordered.
func (d *Drive) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.odds)
	clear(d.after)
	d.flips, d.cutAfter = 0, 0
}

// Rot flips, on disk and in memory, one bit of the byte that lies so far
// behind the first place where a file has these bytes; it returns in how many
// files they were found.
func (d *Drive) Rot(what []byte, behind int) (found int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files() {
		i := bytes.Index(f.data, what)
		if i < 0 || i+len(what)+behind >= len(f.data) {
			continue
		}
		found++
		at := i + len(what) + behind
		f.data[at] ^= 0x10
		if at < len(f.disk) {
			f.disk[at] ^= 0x10
		}
	}
	return found
}

// RotSomewhere flips one bit of one file at random, if there is a file.
func (d *Drive) RotSomewhere() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := slices.DeleteFunc(d.files(), func(f *inode) bool { return len(f.disk) == 0 })
	if len(files) == 0 {
		return false
	}
	f := files[d.rnd.IntN(len(files))]
	at, bit := d.rnd.IntN(len(f.disk)), byte(1)<<d.rnd.IntN(8)
	f.disk[at] ^= bit
	if at < len(f.data) {
		f.data[at] ^= bit
	}
	return true
}

// files lists the files in the order of their names.
func (d *Drive) files() (files []*inode) {
	for _, dir := range slices.Sorted(maps.Keys(d.dirs)) {
		for _, name := range slices.Sorted(maps.Keys(d.dirs[dir].names)) {
			if f := d.dirs[dir].names[name]; f != nil {
				files = append(files, f)
			}
		}
	}
	return files
}

// Ops is how many operations the drive was asked for so far.
func (d *Drive) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// CutAfter cuts the power at the nth operation from now on.
func (d *Drive) CutAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAfter = n
}

// Cut cuts the power. Of what was not synced, each sector is on disk, is not,
// or is torn; what was done to the names of a folder since its SyncDir is done
// up to some point and not from there on. File systems and files that were
// opened before fail from now on; FS opens the drive anew.
func (d *Drive) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut()
}

// IsCut says whether the power was cut since a file system was opened.
func (d *Drive) IsCut(f cas.FS) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return f.(driveFS).life != d.life
}

func (d *Drive) cut() {
	d.life++
	d.cutAfter = 0
	seen := map[*inode]bool{}
	for _, dir := range slices.Sorted(maps.Keys(d.dirs)) {
		f := d.dirs[dir]
		if f == nil {
			continue // in a folder that is gone
		}
		names := f.durable
		for _, op := range f.log[:d.rnd.IntN(len(f.log)+1)] {
			op.apply(names)
		}
		for name := range f.names {
			// A folder whose name is not durable goes with all that is in it.
			if _, ok := names[name]; !ok && f.names[name] == nil {
				d.forgetBelow(path.Join(dir, name))
			}
		}
		f.names, f.durable, f.log = maps.Clone(names), names, nil
	}
	for dir, f := range d.dirs {
		if f == nil {
			delete(d.dirs, dir)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(d.dirs)) {
		for name, file := range d.dirs[dir].names {
			if full := path.Join(dir, name); file == nil && d.dirs[full] == nil {
				d.dirs[full] = newFolder() // its removal was undone
			}
		}
	}
	d.bytes = 0
	for _, f := range d.files() {
		if !seen[f] {
			seen[f] = true
			d.tear(f)
			f.links = 1
			d.bytes += int64(len(f.data))
		}
	}
}

func (d *Drive) forgetBelow(dir string) {
	for name := range d.dirs {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			d.dirs[name] = nil
		}
	}
}

func (op nameOp) apply(names map[string]*inode) {
	for _, name := range op.unset {
		delete(names, name)
	}
	maps.Copy(names, op.set)
}

// tear makes of a file what is left of it.
func (d *Drive) tear(f *inode) {
	if len(f.changed) > 0 || len(f.data) != len(f.disk) {
		size := len(f.disk)
		switch d.rnd.IntN(3) {
		case 0:
			size = len(f.data)
		case 1:
			if low, high := min(len(f.disk), len(f.data)), max(len(f.disk), len(f.data)); high > low {
				size = low + d.rnd.IntN(high-low+1)
			}
		}
		left := make([]byte, size)
		copy(left, f.disk)
		for _, s := range slices.Sorted(maps.Keys(f.changed)) {
			from := s * sectorSize
			to := min(from+sectorSize, int64(len(f.data)), int64(size))
			if from >= to {
				continue
			}
			switch d.rnd.IntN(4) {
			case 0, 1:
				copy(left[from:to], f.data[from:to])
			case 2:
				torn := from + d.rnd.Int64N(to-from)
				copy(left[from:torn], f.data[from:torn])
			}
		}
		f.disk = left
	}
	f.data, f.changed = bytes.Clone(f.disk), map[int64]bool{}
}

// FS is the drive as a file system, until the next power cut. What a process
// left behind without one is still in memory and not on disk.
func (d *Drive) FS() cas.FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	return driveFS{d, d.life}
}

type driveFS struct {
	d    *Drive
	life int
}

// begin counts an operation, and says whether it fails. It leaves d.mu locked.
func (f driveFS) begin(op Op, name string) error {
	d := f.d
	d.mu.Lock()
	if d.life != f.life {
		return fail(op, name, ErrPowerCut)
	}
	d.ops++
	if d.cutAfter > 0 {
		if d.cutAfter--; d.cutAfter == 0 {
			d.cut()
			return fail(op, name, ErrPowerCut)
		}
	}
	var err error
	list := d.after[op][:0]
	for _, a := range d.after[op] {
		if a.n--; a.n > 0 {
			list = append(list, a)
		} else {
			err = a.err
		}
	}
	if d.after[op] = list; err != nil {
		return fail(op, name, err)
	}
	if odds := d.odds[op]; odds > 0 && d.rnd.Float64() < odds {
		return fail(op, name, syscall.EIO)
	}
	return nil
}

func (f driveFS) end() { f.d.mu.Unlock() }

func fail(op Op, name string, err error) error {
	return &fs.PathError{Op: string(op), Path: name, Err: err}
}

// at finds the folder of a name.
func (f driveFS) at(name string) (dir *folder, base string, err error) {
	name = path.Clean("/" + name)
	dir = f.d.dirs[path.Dir(name)]
	if dir == nil {
		return nil, "", fs.ErrNotExist
	}
	return dir, path.Base(name), nil
}

func (dir *folder) do(op nameOp) {
	op.apply(dir.names)
	dir.log = append(dir.log, op)
}

func (f driveFS) Create(name string) (cas.File, error) {
	defer f.end()
	if err := f.begin(OpCreate, name); err != nil {
		return nil, err
	}
	dir, base, err := f.at(name)
	if err != nil {
		return nil, fail(OpCreate, name, err)
	}
	if _, ok := dir.names[base]; ok {
		return nil, fail(OpCreate, name, fs.ErrExist)
	}
	file := &inode{changed: map[int64]bool{}, links: 1}
	dir.do(nameOp{set: map[string]*inode{base: file}})
	return &driveFile{f, name, file, false}, nil
}

func (f driveFS) Open(name string) (cas.File, error) {
	defer f.end()
	if err := f.begin(OpOpen, name); err != nil {
		return nil, err
	}
	dir, base, err := f.at(name)
	if err != nil {
		return nil, fail(OpOpen, name, err)
	}
	file, ok := dir.names[base]
	if !ok {
		return nil, fail(OpOpen, name, fs.ErrNotExist)
	}
	if file == nil {
		return nil, fail(OpOpen, name, syscall.EISDIR)
	}
	return &driveFile{f, name, file, false}, nil
}

func (f driveFS) Remove(name string) error {
	defer f.end()
	if err := f.begin(OpRemove, name); err != nil {
		return err
	}
	dir, base, err := f.at(name)
	if err != nil {
		return fail(OpRemove, name, err)
	}
	file, ok := dir.names[base]
	if !ok {
		return fail(OpRemove, name, fs.ErrNotExist)
	}
	if file == nil {
		full := path.Clean("/" + name)
		if len(f.d.dirs[full].names) > 0 {
			return fail(OpRemove, name, syscall.ENOTEMPTY)
		}
		delete(f.d.dirs, full)
	} else {
		f.unlink(file)
	}
	dir.do(nameOp{unset: []string{base}})
	return nil
}

// unlink takes a name from a file. Its bytes are free with the last one, also
// while somebody has it open: that is more than a real drive gives, and a
// store that needs it would find less room there.
func (f driveFS) unlink(file *inode) {
	if file.links--; file.links == 0 {
		f.d.bytes -= int64(len(file.data))
	}
}

// Rename moves a file within its folder.
func (f driveFS) Rename(from, to string) error {
	defer f.end()
	if err := f.begin(OpRename, from); err != nil {
		return err
	}
	dir, base, err := f.at(from)
	if err != nil {
		return fail(OpRename, from, err)
	}
	toDir, toBase, err := f.at(to)
	if err != nil {
		return fail(OpRename, to, err)
	}
	file := dir.names[base]
	if file == nil {
		return fail(OpRename, from, fs.ErrNotExist)
	}
	if dir != toDir {
		return fail(OpRename, from, syscall.EXDEV)
	}
	if old := dir.names[toBase]; old != nil && old != file {
		f.unlink(old)
	}
	dir.do(nameOp{set: map[string]*inode{toBase: file}, unset: []string{base}})
	return nil
}

func (f driveFS) MkdirAll(name string) error {
	defer f.end()
	if err := f.begin(OpMkdir, name); err != nil {
		return err
	}
	name = path.Clean("/" + name)
	for at := "/"; at != name; {
		next, _, _ := strings.Cut(strings.TrimPrefix(name[len(at):], "/"), "/")
		dir := f.d.dirs[at]
		child := path.Join(at, next)
		if file, ok := dir.names[next]; !ok {
			dir.do(nameOp{set: map[string]*inode{next: nil}})
			f.d.dirs[child] = newFolder()
		} else if file != nil {
			return fail(OpMkdir, child, syscall.ENOTDIR)
		}
		at = child
	}
	return nil
}

func (f driveFS) ReadDir(name string) ([]string, error) {
	defer f.end()
	if err := f.begin(OpReadDir, name); err != nil {
		return nil, err
	}
	dir := f.d.dirs[path.Clean("/"+name)]
	if dir == nil {
		return nil, fail(OpReadDir, name, fs.ErrNotExist)
	}
	return slices.Sorted(maps.Keys(dir.names)), nil
}

func (f driveFS) SyncDir(name string) error {
	defer f.end()
	if err := f.begin(OpSyncDir, name); err != nil {
		return err
	}
	dir := f.d.dirs[path.Clean("/"+name)]
	if dir == nil {
		return fail(OpSyncDir, name, fs.ErrNotExist)
	}
	dir.durable, dir.log = maps.Clone(dir.names), nil
	return nil
}

func (f driveFS) Free(name string) (int64, error) {
	defer f.end()
	if err := f.begin(OpFree, name); err != nil {
		return 0, err
	}
	if f.d.capacity < 0 {
		return 1 << 50, nil
	}
	return max(f.d.capacity-f.d.bytes, 0), nil
}

// driveFile is a cas.File that can also be cut and uncached.
type driveFile struct {
	fs     driveFS
	name   string
	file   *inode
	closed bool
}

func (f *driveFile) begin(op Op) error {
	err := f.fs.begin(op, f.name)
	if err == nil && f.closed {
		err = fail(op, f.name, fs.ErrClosed)
	}
	return err
}

func (f *driveFile) ReadAt(b []byte, off int64) (n int, err error) {
	defer f.fs.end()
	if err := f.begin(OpRead); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fail(OpRead, f.name, fs.ErrInvalid)
	}
	if off < int64(len(f.file.data)) {
		n = copy(b, f.file.data[off:])
	}
	if d := f.fs.d; n > 0 && d.flips > 0 && d.rnd.Float64() < d.flips {
		b[d.rnd.IntN(n)] ^= 1 << d.rnd.IntN(8)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes a part when it fails, and when the drive is full.
func (f *driveFile) WriteAt(b []byte, off int64) (n int, err error) {
	defer f.fs.end()
	d := f.fs.d
	if err = f.begin(OpWrite); err != nil {
		if d.life != f.fs.life || f.closed || len(b) == 0 {
			return 0, err
		}
		b = b[:d.rnd.IntN(len(b))]
	}
	if off < 0 {
		return 0, fail(OpWrite, f.name, fs.ErrInvalid)
	}
	data := f.file.data
	if grow := off + int64(len(b)) - int64(len(data)); grow > 0 {
		if d.capacity >= 0 && f.file.links > 0 {
			if room := max(d.capacity-d.bytes, 0); grow > room {
				if err == nil {
					err = fail(OpWrite, f.name, syscall.ENOSPC)
				}
				b = b[:max(int64(len(b))-(grow-room), 0)]
				grow = max(off+int64(len(b))-int64(len(data)), 0)
			}
		}
		if len(b) == 0 {
			return 0, err
		}
		was := int64(len(data))
		f.file.data = append(data, make([]byte, grow)...)
		f.change(was, was+grow)
		if f.file.links > 0 {
			d.bytes += grow
		}
	}
	n = copy(f.file.data[off:], b)
	f.change(off, off+int64(n))
	return n, err
}

func (f *driveFile) change(from, to int64) {
	for s := from / sectorSize; s*sectorSize < to; s++ {
		f.file.changed[s] = true
	}
}

func (f *driveFile) Size() (int64, error) {
	defer f.fs.end()
	if err := f.begin(OpStat); err != nil {
		return 0, err
	}
	return int64(len(f.file.data)), nil
}

func (f *driveFile) Sync() error {
	defer f.fs.end()
	if err := f.begin(OpSync); err != nil {
		if f.fs.d.life == f.fs.life && !f.closed {
			f.syncSome()
		}
		return err
	}
	f.write(slices.Collect(maps.Keys(f.file.changed)))
	return nil
}

// syncSome is a sync that fails: some sectors are written, and all are taken
// for written from now on.
func (f *driveFile) syncSome() {
	var some []int64
	for _, s := range slices.Sorted(maps.Keys(f.file.changed)) {
		if f.fs.d.rnd.IntN(2) == 0 {
			some = append(some, s)
		}
	}
	f.write(some)
}

func (f *driveFile) write(sectors []int64) {
	file := f.file
	if len(file.disk) > len(file.data) {
		file.disk = file.disk[:len(file.data)]
	}
	file.disk = append(file.disk, make([]byte, len(file.data)-len(file.disk))...)
	for _, s := range sectors {
		from := s * sectorSize
		if to := min(from+sectorSize, int64(len(file.data))); from < to {
			copy(file.disk[from:to], file.data[from:to])
		}
	}
	file.changed = map[int64]bool{}
}

// Uncache makes the file what is on disk where it is not changed.
func (f *driveFile) Uncache() error {
	defer f.fs.end()
	if err := f.begin(OpStat); err != nil {
		return err
	}
	file := f.file
	for s := int64(0); s*sectorSize < int64(len(file.data)); s++ {
		if from := s * sectorSize; !file.changed[s] {
			clear(file.data[from:min(from+sectorSize, int64(len(file.data)))])
			if from < int64(len(file.disk)) {
				copy(file.data[from:min(from+sectorSize, int64(len(file.data)))], file.disk[from:])
			}
		}
	}
	return nil
}

func (f *driveFile) Truncate(size int64) error {
	defer f.fs.end()
	if err := f.begin(OpTruncate); err != nil {
		return err
	}
	was := int64(len(f.file.data))
	if size < 0 || size > was {
		return fail(OpTruncate, f.name, fs.ErrInvalid)
	}
	f.file.data = f.file.data[:size:size]
	f.change(size, was)
	if f.file.links > 0 {
		f.fs.d.bytes -= was - size
	}
	return nil
}

func (f *driveFile) Close() error {
	f.fs.d.mu.Lock()
	defer f.fs.d.mu.Unlock()
	if f.closed {
		return fail("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	return nil
}

// String names the drive in messages of tests.
func (d *Drive) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("drive of %d files, %d bytes, life %d", len(d.files()), d.bytes, d.life)
}
