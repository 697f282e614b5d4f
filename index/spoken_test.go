package index

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// noted is a Spoken in memory.
type noted struct {
	at   Position
	fail error
	fn   func(Position)
}

func (n *noted) Load() (Position, error) { return n.at, n.fail }

func (n *noted) Store(p Position) error {
	if n.fail == nil {
		if n.fn != nil {
			n.fn(p)
		}
		n.at = p
	}
	return n.fail
}

// A database that was emptied, or put back, under a node that has spoken is not opened; one that is as it was is, killed whenever.
func TestADatabaseThatLostWhatWasSaid(t *testing.T) {
	r := foundRegion("RAA")
	said := &noted{}
	opt := testOptions("RAA", r)
	opt.Spoken = said
	dir := t.TempDir()
	db := openDB(t, dir)
	opens := func(dir string, want bool) {
		t.Helper()
		db := openDB(t, dir)
		defer db.Close()
		opt := opt
		opt.Spoken = &noted{at: said.at}
		var lost *LostError
		if x, err := Open(db, opt); want && err != nil || !want && (!errors.As(err, &lost) || !strings.Contains(err.Error(), "priormesh restore")) {
			t.Fatalf("opened: %t, %v", x != nil, err)
		}
	}
	said.fn = func(Position) { opens(image(t, dir), true) } // before it is noted
	x := openIn(t, db, opt)
	if said.at != (Position{}) {
		t.Fatalf("%+v before anything is said", said.at)
	}
	opens(t.TempDir(), true)
	say(t, x, note("x", "1"))
	said.fn = nil
	if said.at != (Position{1, 1}) {
		t.Fatalf("%+v", said.at)
	}
	opens(t.TempDir(), false)
	old := image(t, dir)
	var many []Statement
	for i := range MaxFacts {
		many = append(many, note(fmt.Sprint(i), "2"))
	}
	said.fail = errors.New("the disk is full")
	say(t, x, many...)
	said.fail = nil
	say(t, x, many...)
	if said.at != (Position{1, 1 + 2*MaxFacts}) {
		t.Fatalf("%+v", said.at)
	}
	var before []Position // noted before anybody can learn of it
	said.fn = func(p Position) { before = append(before, x.ownEnd()) }
	say(t, x, note("x", "3"))
	said.fn = nil
	if said.at.Seq != 2+2*MaxFacts || len(before) != 1 || before[0].Seq != 1+2*MaxFacts {
		t.Fatalf("%+v, %+v", said.at, before)
	}
	opens(old, false)
	opens(image(t, dir), true)
	old = image(t, dir)
	if err := x.NewEpoch(context.Background()); err != nil || said.at.Epoch != 2 {
		t.Fatalf("%+v, %v", said.at, err)
	}
	opens(old, false)
	opens(image(t, dir), true)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	opens(dir, true)
}

// Such a database is opened when that is asked for: it says nothing before it has begun an epoch that it has not spoken in.
func TestADatabaseThatLostWhatWasSaidGoesOnInANewEpoch(t *testing.T) {
	r := foundRegion("RAA")
	said := &noted{}
	opt := testOptions("RAA", r)
	opt.Spoken = said
	dir := t.TempDir()
	x := openIn(t, openDB(t, dir), opt)
	say(t, x, note("x", "1"))
	old := image(t, dir)
	say(t, x, note("x", "2"))
	if err := x.NewEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	opt.Spoken, opt.Lost = &noted{at: said.at}, true
	y := openIn(t, openDB(t, old), opt)
	var lost *LostError
	if _, err := y.Append(context.Background(), note("y", "1")); !errors.As(err, &lost) || lost.Have != (Position{1, 1}) || lost.Said != said.at {
		t.Fatal(err)
	}
	if err := y.NewEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	say(t, y, note("y", "1"))
	if end := y.ownEnd(); end.Epoch != said.at.Epoch+1 {
		t.Fatalf("it goes on at %+v, having spoken up to %+v", end, said.at)
	}
}
