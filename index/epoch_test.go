package index

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// image copies the folder of a database as a process that is killed now leaves it.
func image(t *testing.T, dir string) string {
	to := t.TempDir()
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "LOCK" {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(to, e.Name()))
		if err != nil {
			return err
		}
		err = pages(p, func(b []byte, at int64) error {
			_, err := f.WriteAt(b, at)
			return err
		})
		return errors.Join(err, f.Truncate(info.Size()), f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// A node that is killed at any write, while a new epoch is begun, and batches of earlier ones come back from peers, opens again, holds
// what it said, and says all of it in an epoch of which there is one history.
func TestKilledAtAnyWriteOfANewEpoch(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	words := func(x *Index, from, to int, say string) {
		var st []Statement
		for i := from; i < to; i++ {
			st = append(st, note(fmt.Sprint(i), say))
		}
		for len(st) > 0 {
			n := min(len(st), MaxFacts)
			if _, err := x.Append(context.Background(), st[:n]...); err != nil {
				t.Fatal(err)
			}
			st = st[n:]
		}
	}
	// The home that was lost said more than the backup has, and had begun the second epoch too.
	lost := openTest(t, "RAA", r)
	words(lost, 0, MaxFacts+9, "first")
	backup := lost.Heads()
	words(lost, 4, 12, "late")
	study := mustStudy(t, Study{UID: "1.2.3", Name: "DOE^JANE"})
	say(t, lost, study)
	if err := lost.NewEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := lost.Retract(context.Background(), KindStudy, "1.2.3"); err != nil {
		t.Fatal(err)
	}
	logOf := func(epoch Epoch, through Seq) (out []Verified) {
		raw, err := lost.Range(lost.Self(), epoch, 0, 100<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range raw {
			v, err := b.Verify()
			if err != nil {
				t.Fatal(err)
			}
			if v.Head().Seq <= through {
				out = append(out, v)
			}
		}
		return out
	}
	opened := 0
	check := func(step, dir string) {
		opened++
		db := openDB(t, dir)
		defer db.Close()
		x, err := Open(db, testOptions("RAA", r))
		if err != nil {
			t.Fatalf("killed %s: %v", step, err)
		}
		before, _ := x.Head(x.Self())
		if len(x.Forks()) > 0 && x.Forks()[0].Epoch == before.Epoch {
			if err := x.NewEpoch(context.Background()); err != nil {
				t.Fatalf("killed %s: %v", step, err)
			}
		}
		if h := say(t, x, note("x", "after")); h.Epoch < before.Epoch || len(x.Forks()) > 0 && h.Epoch == x.Forks()[0].Epoch {
			t.Fatalf("killed %s: it goes on in epoch %d", step, h.Epoch)
		}
		if got, err := x.Facts("note", "2"); err != nil || len(got) != 1 || string(got[0].Value) != "first" {
			t.Fatalf("killed %s: %v, %v", step, got, err)
		}
	}
	dir := t.TempDir()
	db := openDB(t, dir)
	step, writes := "", 0
	opt := testOptions("RAA", r)
	opt.Room = func(bool) error {
		if writes++; step != "" {
			check(fmt.Sprintf("%s at write %d", step, writes), image(t, dir))
		}
		return nil
	}
	x := openIn(t, db, opt)
	if _, err := x.Take(logOf(1, backup[0].Seq)); err != nil {
		t.Fatal(err)
	}
	do := func(name string, fn func() error) {
		step, writes = name, 0
		err := fn()
		var fork *ForkError
		if err != nil && !errors.As(err, &fork) {
			t.Fatalf("%s: %v", name, err)
		}
		check("after "+name, image(t, dir))
	}
	background := context.Background()
	do("as it begins anew", func() error { return x.NewEpoch(background) })
	do("as the end of the first epoch comes", func() error { _, err := x.Take(logOf(1, 1<<20)); return err })
	do("as it speaks", func() error { _, err := x.Append(background, note("y", "2")); return err })
	do("as the other second epoch comes", func() error { _, err := x.Take(logOf(2, 1<<20)); return err })
	if len(x.Forks()) != 1 {
		t.Fatalf("%d forks", len(x.Forks()))
	}
	do("as it begins once more", func() error { return x.NewEpoch(background) })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if opened < 12 {
		t.Fatalf("killed %d times", opened)
	}
}

// A new epoch that was not said to its end and turns out to have two histories gives way to the next when the index is opened; one that a
// full disk keeps from being said does not keep the index from being opened.
func TestABegunEpochThatForked(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	lost := openTest(t, "RAA", r)
	for i := range 2 * MaxFacts {
		say(t, lost, note(fmt.Sprint(i), "first"))
	}
	db := openDB(t, "")
	defer db.Close()
	opt := testOptions("RAA", r)
	room := 1 << 20
	full := errors.New("the disk is full")
	opt.Room = func(bool) error {
		if room--; room < 0 {
			return full
		}
		return nil
	}
	x := openIn(t, db, opt)
	copyLog(t, lost, x, lost.Self())
	if err := lost.NewEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	room = 1
	if err := x.NewEpoch(context.Background()); !errors.Is(err, full) {
		t.Fatal(err)
	}
	x = openIn(t, db, opt)
	head, _ := lost.Head(lost.Self())
	first, err := lost.Range(lost.Self(), 2, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	v, err := first[0].Verify()
	if err != nil {
		t.Fatal(err)
	}
	var fork *ForkError
	if _, err := x.Take([]Verified{v}); !errors.Is(err, full) {
		t.Fatal(err)
	}
	room = 1 << 20
	if _, err := x.Take([]Verified{v}); !errors.As(err, &fork) {
		t.Fatal(err)
	}
	x = openIn(t, db, opt)
	if h, _ := x.Head(x.Self()); h.Epoch != 3 || h.Seq != head.Seq {
		t.Fatalf("epoch %d ends at %d", h.Epoch, h.Seq)
	}
}
