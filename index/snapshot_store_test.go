package index

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// bringSnapshot takes up the snapshot of a node at one index from others.
func bringSnapshot(t testing.TB, to *Index, of NodeID, from map[NodeID]*Index) Progress {
	t.Helper()
	b, err := NewBootstrap(to.Snapshots(of), BootstrapOptions{Node: of, Self: to.Self(), Rand: rand.New(rand.NewPCG(1, 1))})
	if err != nil {
		t.Fatal(err)
	}
	var peers []NodeID
	for n := range from {
		peers = append(peers, n)
	}
	slices.SortFunc(peers, NodeID.Compare)
	for range 60 {
		out, err := b.Tick(peers)
		if err != nil {
			t.Fatal(err)
		}
		for len(out) > 0 || b.Busy() {
			if len(out) == 0 {
				if out, err = b.Work(); err == nil {
					err = to.Purge(context.Background())
				}
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
			o := out[0]
			out = out[1:]
			answer, err := AnswerParts(from[o.To], o.Message.(WantParts))
			if err != nil {
				t.Fatal(err)
			}
			msg, err := DecodeMessage(answer.Encode())
			if err != nil {
				t.Fatal(err)
			}
			more, err := b.Step(o.To, msg)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, more...)
		}
		if p := b.Progress(); p.Done {
			return p
		}
	}
	t.Fatalf("the snapshot was not taken up: %+v", b.Progress())
	return Progress{}
}

// tables are all that is answered, in an order that does not depend on the database.
func tables(t testing.TB, x *Index) string {
	t.Helper()
	var out strings.Builder
	err := x.View(func(txn *badger.Txn) error {
		out.Reset()
		a, err := x.Studies(bg, Query{})
		if err != nil {
			return err
		}
		slices.SortFunc(a.Studies, func(a, b StudyAnswer) int { return strings.Compare(a.UID, b.UID) })
		for _, s := range a.Studies {
			fmt.Fprintf(&out, "%s\n", s.UID)
			for _, st := range s.Statements {
				fmt.Fprintf(&out, "  %d/%d %s %s %v\n", st.Epoch, st.Seq, st.Value.Name, st.Value.Description, st.Value.Patient)
			}
			for _, h := range s.Holdings {
				fmt.Fprintf(&out, "  held %d/%d revision %d\n", h.Epoch, h.Seq, h.Value.Revision)
			}
		}
		n, exact, err := x.Count(bg, Query{})
		fmt.Fprintf(&out, "%d studies, exactly %v\n", n, exact)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// busyLog lets a node say what a node says in time: studies that are corrected, copies that come and go, and what is taken back.
func busyLog(t testing.TB, x *Index, rnd *rand.Rand, n int) {
	t.Helper()
	ctx := context.Background()
	for i := range n {
		uid := fmt.Sprintf("1.2.%d", rnd.IntN(n/2+1))
		st := mustStudy(t, Study{UID: uid, Name: fmt.Sprintf("Family%d^Given", rnd.IntN(9)), BirthDate: "19500607", Date: fmt.Sprintf("2025%02d10", 1+rnd.IntN(12)), Time: "101112", Modalities: []string{"CT"},
			Patient: []PatientID{{fmt.Sprint("P", rnd.IntN(9)), "RAA"}}, Description: fmt.Sprint("as said the ", i)})
		switch rnd.IntN(10) {
		case 0:
			if _, err := x.Retract(ctx, KindStudy, uid); err != nil {
				t.Fatal(err)
			}
		case 1:
			h, err := HoldingStatement(Holding{Study: uid, Origin: nodeOf("RBB"), Revision: uint64(i), Instances: rnd.IntN(2)})
			if err != nil {
				t.Fatal(err)
			}
			say(t, x, h)
		case 2:
			say(t, x, st, note(fmt.Sprint("n", rnd.IntN(5)), fmt.Sprint(i)))
		default:
			say(t, x, st)
		}
	}
}

// Whoever takes up a snapshot, with the log, with some of it, or with nothing, answers as who has the log: at once, and after a restart.
func TestSnapshotInTheDatabase(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		r := foundRegion("RAA", "RBB", "RCC", "RDD")
		author := openTest(t, "RAA", r)
		busyLog(t, author, rnd, 150)
		log, some := openTest(t, "RBB", r), openTest(t, "RCC", r)
		copyLog(t, author, some, author.Self())
		busyLog(t, author, rnd, 150)
		copyLog(t, author, log, author.Self())
		want := tables(t, author)
		if got := tables(t, log); got != want {
			t.Fatalf("seed %d: the log does not bring\n%s\nbut\n%s", seed, want, got)
		}
		snap, err := author.MakeSnapshot(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if got := tables(t, author); got != want {
			t.Fatalf("seed %d: its author shows after the snapshot\n%s\nwant\n%s", seed, got, want)
		}
		dir := t.TempDir()
		db := openDB(t, dir)
		fresh := openIn(t, db, testOptions("RDD", r))
		sources := map[NodeID]*Index{author.Self(): author}
		for _, x := range []*Index{log, some, fresh} {
			p := bringSnapshot(t, x, author.Self(), sources)
			if p.Snapshot.Root != snap.Root || p.Holed != 0 {
				t.Fatalf("seed %d: %+v", seed, p)
			}
			if got := tables(t, x); got != want {
				t.Fatalf("seed %d: after the snapshot\n%s\nwant\n%s", seed, got, want)
			}
			if h, ok := x.Head(author.Self()); !ok || h.Seq != snap.Head.Seq {
				t.Fatalf("seed %d: its head is %v", seed, h)
			}
			sources[x.Self()] = x
		}
		// It goes on from there, and the author's next snapshot is taken up from those who took the first.
		busyLog(t, author, rnd, 60)
		want = tables(t, author)
		for _, x := range []*Index{log, some, fresh} {
			copyLog(t, author, x, author.Self())
			if got := tables(t, x); got != want {
				t.Fatalf("seed %d: what was said after the snapshot leads to\n%s\nwant\n%s", seed, got, want)
			}
		}
		snap, err = author.MakeSnapshot(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		bringSnapshot(t, log, author.Self(), map[NodeID]*Index{author.Self(): author})
		bringSnapshot(t, fresh, author.Self(), map[NodeID]*Index{log.Self(): log})
		if got := tables(t, fresh); got != want {
			t.Fatalf("seed %d: after the second snapshot\n%s\nwant\n%s", seed, got, want)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = openDB(t, dir)
		fresh = openIn(t, db, testOptions("RDD", r))
		if got := tables(t, fresh); got != want {
			t.Fatalf("seed %d: after a restart\n%s\nwant\n%s", seed, got, want)
		}
		if b := fresh.base(author.Self()); b != snap.through() {
			t.Fatalf("seed %d: the log begins at %v after a restart, want %v", seed, b, snap.through())
		}
		// What is covered is not taken again.
		before := fresh.Heads()
		copyLog(t, some, fresh, author.Self())
		if !slices.EqualFunc(before, fresh.Heads(), Head.same) && fresh.Heads()[0].Seq < before[0].Seq {
			t.Fatalf("seed %d: covered batches were taken", seed)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What was taken back is in no file of a node that has the newer snapshot, also of one that never heard the retraction.
func TestSnapshotLeavesNoTrace(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	authorDir := t.TempDir()
	authorDB := openDB(t, authorDir)
	author := openIn(t, authorDB, testOptions("RAA", r))
	secret, replaced := "QWXZJVKPLM", "BRTHGFDSNC"
	busyLog(t, author, rand.New(rand.NewPCG(3, 3)), 80)
	say(t, author, mustStudy(t, Study{UID: "9.9.9", Name: secret + "^First", Date: "20250101", Description: replaced}))
	say(t, author, mustStudy(t, Study{UID: "9.9.9", Name: secret + "^Ganz", Date: "20250101", Description: secret}))
	busyLog(t, author, rand.New(rand.NewPCG(4, 4)), 80)
	dir := t.TempDir()
	db := openDB(t, dir)
	other := openIn(t, db, testOptions("RBB", r))
	copyLog(t, author, other, author.Self())
	// A snapshot leaves out what the study was at first: nobody can take it back any more.
	if _, err := author.MakeSnapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	bringSnapshot(t, other, author.Self(), map[NodeID]*Index{author.Self(): author})
	for _, x := range []*Index{author, other} {
		if err := x.Purge(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{dir, authorDir} {
		if n := occurrences(t, dir, replaced)[replaced]; n != 0 {
			t.Fatalf("what the snapshot left out is still in the files, %d times", n)
		}
	}
	if _, err := author.Retract(context.Background(), KindStudy, "9.9.9"); err != nil {
		t.Fatal(err)
	}
	if err := author.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := author.MakeSnapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	bringSnapshot(t, other, author.Self(), map[NodeID]*Index{author.Self(): author})
	if got, want := tables(t, other), tables(t, author); got != want {
		t.Fatalf("after the snapshot\n%s\nwant\n%s", got, want)
	}
	if err := other.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := author.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, db := range []*badger.DB{db, authorDB} {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{dir, authorDir} {
		for text, n := range occurrences(t, dir, secret, strings.ToLower(secret)) {
			if n != 0 {
				t.Fatalf("%s is still in the files, %d times", text, n)
			}
		}
	}
}

// A node that is killed at any write, while a snapshot is made, or taken up by one that has the log or has nothing, opens again, goes on,
// and in the end answers as if nothing had happened; one that has the log does at any time.
func TestSnapshotBrokenOffAtEveryWrite(t *testing.T) {
	ctx := context.Background()
	r := foundRegion("RAA", "RBB", "RCC")
	rnd := rand.New(rand.NewPCG(7, 7))
	authorDir, logDir, freshDir := t.TempDir(), t.TempDir(), t.TempDir()
	author, log, fresh := openDB(t, authorDir), openDB(t, logDir), openDB(t, freshDir)
	defer func() {
		for _, db := range []*badger.DB{author, log, fresh} {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	said, heard, empty := openIn(t, author, testOptions("RAA", r)), openIn(t, log, testOptions("RBB", r)), openIn(t, fresh, testOptions("RCC", r))
	busyLog(t, said, rnd, 60)
	if err := said.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	busyLog(t, said, rnd, 90)
	copyLog(t, said, heard, said.Self())
	if _, err := said.Retract(ctx, KindStudy, "1.2.3"); err != nil {
		t.Fatal(err)
	}
	copyLog(t, said, heard, said.Self())
	want := tables(t, said)
	id := said.Self()

	opened := 0
	watch := func(x *Index, dir, what string, goesOn func(x *Index)) {
		n := 0
		x.writes = func() {
			n++
			opened++
			db := openDB(t, image(t, dir))
			defer func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}()
			again, err := Open(db, x.opt)
			if err != nil {
				t.Fatalf("%s, killed at write %d: %v", what, n, err)
			}
			goesOn(again)
			if got := tables(t, again); got != want {
				t.Fatalf("%s, killed at write %d: it answers\n%s\nwant\n%s", what, n, got, want)
			}
		}
	}
	watch(said, authorDir, "as it makes a snapshot", func(x *Index) {
		if got := tables(t, x); got != want {
			t.Fatalf("its author answers\n%s\nwant\n%s", got, want)
		}
		if _, err := x.MakeSnapshot(ctx); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := said.MakeSnapshot(ctx); err != nil {
		t.Fatal(err)
	}
	said.writes = nil
	sources := map[NodeID]*Index{id: said}
	watch(heard, logDir, "with the log", func(x *Index) {
		if got := tables(t, x); got != want {
			t.Fatalf("with the log it answers\n%s\nwant\n%s", got, want)
		}
		bringSnapshot(t, x, id, sources)
		if _, err := Open(x.db, x.opt); err != nil {
			t.Fatal(err)
		}
	})
	bringSnapshot(t, heard, id, sources)
	heard.writes = nil
	sources = map[NodeID]*Index{heard.Self(): heard}
	watch(empty, freshDir, "with nothing", func(x *Index) { bringSnapshot(t, x, id, sources) })
	bringSnapshot(t, empty, id, sources)
	empty.writes = nil
	for _, x := range []*Index{said, heard, empty} {
		if got := tables(t, x); got != want {
			t.Fatalf("in the end it answers\n%s\nwant\n%s", got, want)
		}
		if len(x.Forks()) > 0 || len(x.Holes()) > 0 {
			t.Fatalf("forks %v, holes %v", x.Forks(), x.Holes())
		}
		rows := 0
		if err := x.View(func(txn *badger.Txn) error {
			a, _ := x.known(id)
			rows = 0
			for _, table := range []byte{tabRun, tabPart, tabHole, tabDoomed} {
				prefix := authorKey(table, a.no)
				if err := scan(txn, prefix, prefix, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
					if keyPosition(k).compare(x.base(id)) <= 0 {
						rows++
					}
					return true, nil
				}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if rows > 0 {
			t.Fatalf("%d rows are left of what the snapshot covers", rows)
		}
	}
	if opened < 20 {
		t.Fatalf("killed %d times", opened)
	}
	t.Logf("killed %d times", opened)
}
