package archive

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/priormesh/priormesh/cas"
)

// gated is a shelf on a disk that writes when it is told to.
type gated struct {
	cas.Shelf
	write chan struct{}
	err   error
}

func (g *gated) Put(ctx context.Context, blocks ...cas.Block) error {
	<-g.write
	if g.err != nil {
		return g.err
	}
	return g.Shelf.Put(ctx, blocks...)
}

func block(i int) cas.Block {
	data := []byte(fmt.Sprintf("block number %d", i))
	return cas.Block{CID: cas.Sum(data), Data: data}
}

// What comes is there at once, durable when it is settled, and whoever can wait
// does while there is too much.
func TestLanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &gated{Shelf: cas.NewMemory().Shelf(cas.ShelfID{1}), write: make(chan struct{})}
		var held []bool
		l := newLanding(disk, func() int { return 20 }, func(full bool) { held = append(held, full) })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		for i := range 3 {
			if err := l.take(block(i)); err != nil {
				t.Fatal(err)
			}
		}
		settled, roomy := make(chan error, 1), make(chan error, 1)
		go func() { settled <- l.settle(t.Context()) }()
		go func() { roomy <- l.room(t.Context()) }()
		synctest.Wait()
		if len(settled)+len(roomy) != 0 || !l.has(block(2).CID) || string(l.get(block(0).CID)) != string(block(0).Data) {
			t.Fatal("what has not been written is taken for written, or is not there")
		}
		close(disk.write)
		synctest.Wait()
		if len(settled) != 1 || len(roomy) != 1 || <-settled != nil || <-roomy != nil || l.has(block(0).CID) {
			t.Fatal("what has been written is not taken for written")
		}
		if len(held) != 2 || !held[0] || held[1] {
			t.Fatalf("told %v, want that it has too much, and then that it has not", held)
		}
		for i := range 3 {
			if here, err := disk.Has(t.Context(), block(i).CID); !here || err != nil {
				t.Fatalf("block %d: %v, %v", i, here, err)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}

// What came before the end is written; nobody waits for what comes after it.
func TestLandingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &gated{Shelf: cas.NewMemory().Shelf(cas.ShelfID{1}), write: make(chan struct{})}
		l := newLanding(disk, func() int { return 1 << 20 }, func(bool) {})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		if err := l.take(block(0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it is being written
		cancel()
		if err := l.take(block(1)); err != nil {
			t.Fatal(err)
		}
		close(disk.write)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if err := l.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if here, err := disk.Has(t.Context(), block(1).CID); !here || err != nil {
			t.Fatalf("what came before the end: %v, %v", here, err)
		}
		if err := l.take(block(2)); !errors.Is(err, errLanded) || l.has(block(2).CID) {
			t.Fatalf("after the end a block is taken: %v", err)
		}
	})
}

// A disk that does not take what has come ends it, and everybody is told.
func TestLandingOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &gated{write: make(chan struct{}), err: cas.ErrDiskFull}
		l := newLanding(disk, func() int { return 1 }, func(bool) {})
		ended := make(chan error, 1)
		go func() { ended <- l.run(t.Context()) }()
		if err := l.take(block(0)); err != nil {
			t.Fatal(err)
		}
		waits := make(chan error, 2)
		go func() { waits <- l.settle(t.Context()) }()
		go func() { waits <- l.room(t.Context()) }()
		synctest.Wait()
		close(disk.write)
		for range 2 {
			if err := <-waits; !errors.Is(err, cas.ErrDiskFull) {
				t.Fatalf("whoever waits is told %v", err)
			}
		}
		if err := <-ended; !errors.Is(err, cas.ErrDiskFull) {
			t.Fatal(err)
		}
		if err := l.take(block(1)); !errors.Is(err, cas.ErrDiskFull) {
			t.Fatalf("a block is taken: %v", err)
		}
	})
}
