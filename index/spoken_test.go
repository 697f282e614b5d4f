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
	for range spokenEvery / MaxFacts {
		say(t, x, many...)
	}
	if said.at.Seq < spokenEvery {
		t.Fatalf("%+v", said.at)
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
