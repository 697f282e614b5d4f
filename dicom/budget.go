package dicom

import (
	"sync/atomic"
	"unsafe"
)

// Budget is the memory that all scans which share it may have together, beyond
// FreeMemory for each. A scan that would exceed it fails with ErrBusy at once:
// one that waited would keep what it has from the others.
//
// What is taken for an instance belongs to Scan until it returns. With an error
// it has given all back; with an instance, whoever has that instance owes it,
// and gives it back by Release.
type Budget struct {
	bytes int64
	taken atomic.Int64
}

// NewBudget makes a budget of so many bytes.
func NewBudget(bytes int64) *Budget { return &Budget{bytes: bytes} }

// Take takes n bytes, or none and says ErrBusy.
func (b *Budget) Take(n int64) error {
	for {
		have := b.taken.Load()
		if n > b.bytes-have {
			return ErrBusy
		}
		if b.taken.CompareAndSwap(have, have+n) {
			return nil
		}
	}
}

// Give gives back n bytes that were taken.
func (b *Budget) Give(n int64) { b.taken.Add(-n) }

// Taken is what is taken now.
func (b *Budget) Taken() int64 { return b.taken.Load() }

// FreeMemory is what an instance may have without asking the budget. Nearly all
// instances stay below it, so that they are taken whatever others do.
const FreeMemory = 256 << 10

// budgetStep is what is taken at a time, so that not every attribute of every
// scan goes to the same word of memory.
const budgetStep = 64 << 10

// What things take in memory. A slice that grows has up to half of it unused.
const (
	elementMemory  = 2 * int64(unsafe.Sizeof(Element{}))
	itemMemory     = 2 * int64(unsafe.Sizeof(Dataset{}))
	fragmentMemory = 2 * int64(unsafe.Sizeof(Range{})+unsafe.Sizeof(false)+unsafe.Sizeof(int(0)))
	frameMemory    = int64(unsafe.Sizeof(Frame{}) + unsafe.Sizeof(Range{}))
)

// account is what one instance has of a budget. A nil one counts nothing.
type account struct {
	budget *Budget
	used   int64 // with what is free
	taken  int64
	err    error // ErrBusy, once it was said
}

func newAccount(b *Budget) *account {
	if b == nil {
		return nil
	}
	return &account{budget: b}
}

// use counts n bytes more.
func (a *account) use(n int64) error {
	if a == nil {
		return nil
	}
	if a.err != nil {
		return a.err
	}
	if more := a.used + n - FreeMemory - a.taken; more > 0 {
		more = (more + budgetStep - 1) / budgetStep * budgetStep
		if a.err = a.budget.Take(more); a.err != nil {
			return a.err
		}
		a.taken += more
	}
	a.used += n
	return nil
}

// less counts n bytes less.
func (a *account) less(n int64) {
	if a == nil {
		return
	}
	a.used -= n
	need := (max(a.used-FreeMemory, 0) + budgetStep - 1) / budgetStep * budgetStep
	if over := a.taken - need; over > 0 {
		a.budget.Give(over)
		a.taken -= over
	}
}

func (a *account) failed() error {
	if a == nil {
		return nil
	}
	return a.err
}

// Release gives back what the instance has of Limits.Budget; the instance is not
// used after it. More than one call, or one for no instance, does nothing.
func (i *Instance) Release() {
	if i != nil && i.mem != nil {
		i.mem.less(i.mem.used)
		i.mem = nil
	}
}
