package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/archive"
)

const (
	reserveFile = "reserve"
	partSuffix  = ".part" // of a ballast that is being made
	// diskEvery is how often the disk is looked at.
	diskEvery = time.Second
	// indexRoom is what the databases may write before it is looked at again:
	// they write through mappings of sparse files of up to 64 MiB.
	indexRoom = 64 << 20
	// minReserve is the least of which each part is worth having.
	minReserve = 4 * indexRoom
)

// level is how full the disk is.
type level int

const (
	roomy    level = iota // everything goes
	full                  // no images are stored
	critical              // nothing from outside is written, and the ballast has been thrown
	spent                 // critical, and that did not help: nothing is written at all
)

func (l level) String() string {
	switch l {
	case roomy:
		return "ok"
	case full:
		return "full"
	}
	return "critical"
}

// volume is the file system of the home folder.
type volume interface {
	// Free is how many bytes may still be written below dir.
	Free(dir string) (int64, error)
	// Total is how many bytes the file system of dir has, used or not.
	Total(dir string) (int64, error)
	// Allocated is how many bytes a file has been given; 0 if there is none.
	Allocated(name string) (int64, error)
	// Allocate makes a file of so many bytes that are really its own.
	Allocate(name string, size int64) error
	Remove(name string) error
}

// disk keeps a reserve of the disk free. One half of it is a file, the
// ballast: other programs that fill the disk cannot take that half, and when
// they have nearly taken the other the ballast is thrown. The index needs
// this. Its database writes through a mapping of sparse files, and a process
// that touches such a page of a disk without a free byte dies at once.
//
// The home works again by itself when there is room. disk implements
// archive.Room.
type disk struct {
	v       volume
	dir     string
	ballast string // the file
	reserve int64
	log     *slog.Logger
	changed func(level) // after each change of level

	mu    sync.Mutex
	free  int64
	level level
	err   error // the last look failed
}

// openDisk looks at the disk once. With a reserve of 0 it always has room.
func openDisk(v volume, dir, ballast string, reserve int64, log *slog.Logger) (*disk, error) {
	if total, err := v.Total(dir); err != nil {
		return nil, err
	} else if reserve >= total {
		return nil, fmt.Errorf("space.reserve in %s is %s, and the whole disk has %s: nothing could ever be stored; set it to a small part of the disk, such as \"512MiB\"", configFile, Size(reserve), Size(total))
	}
	d := &disk{v: v, dir: dir, ballast: ballast, reserve: reserve, log: log, changed: func(level) {}}
	if err := v.Remove(ballast + partSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	have, err := v.Allocated(ballast)
	if err != nil {
		return nil, err
	}
	if have > 0 && have != d.half() { // made for another reserve, or by a copy that left holes
		if err := v.Remove(ballast); err != nil {
			return nil, err
		}
	}
	d.look()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d, d.err
}

func (d *disk) half() int64 { return d.reserve / 2 }

// Bounds on what is free beside the ballast. Throwing it never brings what is
// free to where it would be made again.
func (d *disk) throwBelow() int64 { return max(d.reserve/8, indexRoom) }
func (d *disk) makeAbove() int64  { return d.half() + d.reserve/4 }

// look finds out how full the disk is, and throws the ballast or makes it anew.
func (d *disk) look() {
	l, free, err := d.measure()
	d.mu.Lock()
	was, failed := d.level, d.err != nil
	d.err = err
	if err == nil {
		d.level, d.free = l, free
	}
	d.mu.Unlock()
	if err != nil {
		if !failed {
			d.log.Error("how full the disk is cannot be told", "dir", d.dir, "error", err)
		}
		return
	}
	if l == was {
		return
	}
	switch l {
	case roomy:
		d.log.Info("the disk has room again: everything is taken", "free", Size(free))
	case full:
		d.log.Warn("the disk is full: no images are stored; reading goes on", "free", Size(free), "reserve", Size(d.reserve))
	case critical:
		d.log.Error("the disk is full, and the reserve is given up so that the index lives: nothing from outside is taken; free space now", "free", Size(free))
	case spent:
		d.log.Error("the disk has no room even for the index: nothing is written; reading goes on; free space now", "free", Size(free))
	}
	d.changed(l)
}

func (d *disk) measure() (l level, free int64, err error) {
	if free, err = d.v.Free(d.dir); err != nil || d.reserve == 0 {
		return roomy, free, err
	}
	have, err := d.v.Allocated(d.ballast)
	if err != nil {
		return l, free, err
	}
	switch {
	case have > 0 && free < d.throwBelow():
		if err := d.v.Remove(d.ballast); err != nil {
			return l, free, err
		}
		have = 0
	case have == 0 && free >= d.makeAbove():
		// Somebody else may be faster; then it stays as it was.
		if err := d.v.Allocate(d.ballast, d.half()); err == nil {
			have = d.half()
		} else if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			return l, free, err
		}
	}
	if free, err = d.v.Free(d.dir); err != nil {
		return l, free, err
	}
	switch {
	case have == 0 && free < d.throwBelow():
		return spent, free, nil
	case have == 0:
		return critical, free, nil
	case free < d.reserve-d.half():
		return full, free, nil
	}
	return roomy, free, nil
}

func (d *disk) run(ctx context.Context) {
	t := time.NewTicker(diskEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			d.look()
		}
	}
}

func (d *disk) now() (level, int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.level, d.free
}

// canOpen refuses a disk so full that opening the databases would end the
// process: they write through mappings.
func (d *disk) canOpen() error {
	l, free := d.now()
	if d.reserve == 0 || l != spent {
		return nil
	}
	return fmt.Errorf("%w: %s are free, and the databases cannot be opened with less than %s; make room and start again, nothing is lost", cas.ErrDiskFull, Size(free), Size(indexRoom))
}

// Store implements archive.Room.
func (d *disk) Store() error {
	l, free := d.now()
	if l == roomy {
		return nil
	}
	return fmt.Errorf("%w: %s are free, and %s are kept for the index (space.reserve)", cas.ErrDiskFull, Size(free), Size(d.reserve))
}

// Note implements archive.Room.
func (d *disk) Note(own bool) error {
	l, free := d.now()
	if l < critical || own && l == critical {
		return nil
	}
	return fmt.Errorf("%w: %s are free, which is not enough for the index", cas.ErrDiskFull, Size(free))
}

// Free implements archive.Room: what is free beside the ballast, and how much
// of it is to be left.
func (d *disk) Free() (free, reserve int64) {
	l, free := d.now()
	reserve = d.reserve - d.half()
	if l >= critical {
		reserve = d.makeAbove()
	}
	return free, reserve
}

// keptFree is what the block store is to leave free by itself, in its options'
// terms: less than makes the disk full, for it is there for what is written
// faster than the disk is looked at.
func (d *disk) keptFree() int64 {
	if d.reserve == 0 {
		return -1
	}
	return d.reserve / 4
}

// space says for the status how much there is of what.
func (n *Node) space() (api.Space, error) {
	u, err := n.archive.SpaceUsed()
	if err != nil {
		return api.Space{}, err
	}
	held := func(h archive.Held) api.Held {
		return api.Held{Studies: h.Studies, Received: h.Received, Stored: h.Stored, Uncounted: h.Uncounted}
	}
	l, free := n.disk.now()
	return api.Space{Originals: held(u.Originals), Copies: held(u.Copies), Quota: u.Quota, Over: u.Over, Pinned: u.Pinned,
		Reclaimable: u.Dead, Unswept: u.Unswept, Damaged: u.Damaged, Free: free, Reserve: n.disk.reserve, Level: l.String()}, nil
}

// said says for people what does not go while the disk is as it is.
func (d *disk) said() string {
	l, free := d.now()
	switch l {
	case roomy:
		return ""
	case full:
		return fmt.Sprintf("the disk is full (%s free): no images are stored or brought until there is room; reading goes on", Size(free))
	case critical:
		return fmt.Sprintf("the disk is full and the reserve has been given up so that the index lives (%s free): nothing is stored, brought, or taken from other trusts until there is room; reading goes on", Size(free))
	}
	return fmt.Sprintf("the disk has no room even for the index (%s free): nothing is written until there is room; reading goes on", Size(free))
}

// machine is the volume of this machine.
type machine struct{ cas.FS }

// Total implements volume.
func (machine) Total(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(min(st.Blocks, 1<<40)) * int64(st.Bsize), nil
}

// Allocated counts what the file was given, not how long it is: a copy of the
// home may have left a hole in its place.
func (machine) Allocated(name string) (int64, error) {
	info, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int64(st.Blocks)*512 < info.Size() {
		return max(int64(st.Blocks)*512, 1), nil
	}
	return max(info.Size(), 1), nil
}

// Allocate implements volume. What is cut off is no ballast.
func (machine) Allocate(name string, size int64) (err error) {
	part := name + partSuffix
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	if err = allocate(f, size); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(part, name)
}

// zeros fills a file where nothing better can be had.
func zeros(f *os.File, size int64) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if _, err := f.WriteAt(buf[:min(int64(len(buf)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}
