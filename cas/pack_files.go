package cas

import (
	lru "container/list"
	"sync"
)

// maxOpenPacks bounds the files that are open for reading: a store may have
// many thousands of packs, and a process some thousand files.
const maxOpenPacks = 128

// packFiles opens packs for reading and keeps the latest ones open.
type packFiles struct {
	open func(n uint64) (File, error)

	mu    sync.Mutex
	files map[uint64]*packFile
	order *lru.List // of *packFile, the one used last in front
}

type packFile struct {
	n    uint64
	file File
	err  error
	once sync.Once
	// Under packFiles.mu:
	users int
	gone  bool // no longer in files: the last user closes it
	at    *lru.Element
}

func newPackFiles(open func(uint64) (File, error)) *packFiles {
	return &packFiles{open: open, files: map[uint64]*packFile{}, order: lru.New()}
}

// acquire returns the open pack; it stays open until release.
func (p *packFiles) acquire(n uint64) (*packFile, error) {
	p.mu.Lock()
	f := p.files[n]
	if f == nil {
		f = &packFile{n: n}
		f.at = p.order.PushFront(f)
		p.files[n] = f
	} else {
		p.order.MoveToFront(f.at)
	}
	f.users++
	p.shrink(maxOpenPacks)
	p.mu.Unlock()
	f.once.Do(func() { f.file, f.err = p.open(n) })
	if f.err != nil {
		p.drop(f)
		p.release(f)
		return nil, f.err
	}
	return f, nil
}

// release is the end of a use.
func (p *packFiles) release(f *packFile) {
	p.mu.Lock()
	f.users--
	last := f.gone && f.users == 0
	p.mu.Unlock()
	if last {
		f.close()
	}
}

// shrink takes what nobody uses out, the longest unused first. p.mu is held.
func (p *packFiles) shrink(to int) {
	for at := p.order.Back(); at != nil && len(p.files) > to; {
		f := at.Value.(*packFile)
		at = at.Prev()
		if f.users == 0 {
			p.remove(f)
			f.close()
		}
	}
}

func (p *packFiles) remove(f *packFile) {
	if !f.gone {
		f.gone = true
		p.order.Remove(f.at)
		delete(p.files, f.n)
	}
}

func (p *packFiles) drop(f *packFile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(f)
}

// forget closes a pack as soon as nobody reads it.
func (p *packFiles) forget(n uint64) {
	p.mu.Lock()
	f := p.files[n]
	unused := false
	if f != nil {
		p.remove(f)
		unused = f.users == 0
	}
	p.mu.Unlock()
	if unused {
		f.close()
	}
}

// close closes all; nobody may be using one.
func (p *packFiles) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shrink(0)
}

// close has nothing to tell: nothing is ever written through these files.
func (f *packFile) close() {
	if f.file != nil {
		_ = f.file.Close()
	}
}
