package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/index"
)

func memoryDB(t interface{ Fatal(...any) }) *badger.DB {
	db, err := badger.Open(badger.DefaultOptions("").WithInMemory(true).WithLogger(nil).WithMemTableSize(1 << 20).WithValueThreshold(1 << 10).WithNumCompactors(2))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type fakeClock struct{ t time.Time }

func (c *fakeClock) now() time.Time { return c.t }

type fatal interface {
	Fatal(...any)
	Fatalf(string, ...any)
}

// queueOf opens a queue with so many places.
func queueOf(t fatal, db *badger.DB, clock *fakeClock, places int) *queue {
	q, err := openQueue(db, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	q.failed = func(err error) { t.Fatal(err) }
	q.setPlaces(places)
	return q
}

// begins is what take begins now, without waiting for anything.
func begins(t fatal, q *queue) *attempt {
	seeTo(t, q)
	q.mu.Lock()
	defer q.mu.Unlock()
	at, _ := q.beginLocked(context.Background())
	return at
}

// seeTo sees to what was said, as take does before anything else.
func seeTo(t fatal, q *queue) {
	q.mu.Lock()
	said := q.said
	q.said = nil
	q.mu.Unlock()
	for _, s := range said {
		if err := q.reopen(s); err != nil {
			t.Fatal(err)
		}
	}
}

func studyOf(at *attempt) string {
	if at == nil {
		return ""
	}
	return at.Study
}

func end(t fatal, q *queue, at *attempt, o outcome) {
	if err := q.done(at, o); err != nil {
		t.Fatal(err)
	}
	at.stop(nil)
}

func add(t fatal, q *queue, task Task) {
	if err := q.add(task, false); err != nil {
		t.Fatal(err)
	}
}

var errNoHolder = errors.New("no holder")

func TestQueueOrder(t *testing.T) {
	clock := &fakeClock{time.Unix(1000, 0)}
	db := memoryDB(t)
	defer db.Close()
	q := queueOf(t, db, clock, 2)
	for _, x := range []Task{
		{Study: "background", Priority: Background},
		{Study: "old prior", Priority: Prior, Order: "20100101"},
		{Study: "new prior", Priority: Prior, Order: "20200101"},
		{Study: "read", Priority: Interactive},
		{Study: "emergency", Priority: Emergency},
	} {
		add(t, q, x)
	}
	for _, want := range []string{"emergency", "read", "new prior", "old prior", "background", ""} {
		at := begins(t, q)
		if studyOf(at) != want {
			t.Errorf("%q begins, want %q", studyOf(at), want)
		}
		if at != nil {
			end(t, q, at, outcome{})
		}
	}
}

func TestAReaderHasAPlaceOfItsOwn(t *testing.T) {
	db := memoryDB(t)
	defer db.Close()
	q := queueOf(t, db, &fakeClock{time.Unix(1000, 0)}, 2)
	for i := range 3 {
		add(t, q, Task{Study: fmt.Sprint("prior ", i), Priority: Prior})
	}
	first, second := begins(t, q), begins(t, q)
	if first == nil || second == nil || begins(t, q) != nil {
		t.Fatal("not two of three begin at two places")
	}
	add(t, q, Task{Study: "read", Priority: Interactive})
	if at := begins(t, q); studyOf(at) != "read" || first.ctx.Err() != nil || second.ctx.Err() != nil {
		t.Fatalf("%q begins", studyOf(at))
	}
}

// An emergency that finds every place taken gets the one of the least urgent,
// which goes on later before others of its class, and counts no failure.
func TestAnEmergencyGetsAPlace(t *testing.T) {
	clock := &fakeClock{time.Unix(1000, 0)}
	db := memoryDB(t)
	defer db.Close()
	q := queueOf(t, db, clock, 2)
	for _, x := range []Task{{Study: "read", Priority: Interactive}, {Study: "prior", Priority: Prior}} {
		add(t, q, x)
		begins(t, q)
	}
	add(t, q, Task{Study: "read too", Priority: Interactive})
	begins(t, q)
	add(t, q, Task{Study: "other prior", Priority: Prior})
	q.report("prior", Progress{Instances: 10, InstancesHere: 4})
	prior := q.tasks["prior"].at
	add(t, q, Task{Study: "emergency", Priority: Emergency})
	if begins(t, q) != nil {
		t.Fatal("there are four under way at three places")
	}
	if !errors.Is(context.Cause(prior.ctx), errPaused) || q.tasks["read"].at.ctx.Err() != nil || q.tasks["read too"].at.ctx.Err() != nil {
		t.Fatal("not the prior, or not the prior alone, makes room")
	}
	if begins(t, q) != nil {
		t.Fatal("the place is taken before it is left")
	}
	end(t, q, prior, outcome{err: context.Cause(prior.ctx), wait: time.Hour})
	st, _ := q.get("prior")
	if st.State != Paused || st.Attempts != 0 || st.LastError != "" || st.InstancesHere != 4 {
		t.Errorf("what was paused: %+v", st)
	}
	at := begins(t, q)
	if studyOf(at) != "emergency" {
		t.Fatalf("%q begins", studyOf(at))
	}
	end(t, q, at, outcome{})
	if begins(t, q) != nil { // two readers are under way
		t.Fatal("a prior takes the readers' place")
	}
	end(t, q, q.tasks["read"].at, outcome{})
	if at := begins(t, q); studyOf(at) != "prior" {
		t.Errorf("%q goes on, want the one that was paused", studyOf(at))
	}
}

// What is under way with the share of what nobody waits for begins again when
// somebody does.
func TestWhatIsUnderWayBecomesUrgent(t *testing.T) {
	db := memoryDB(t)
	defer db.Close()
	q := queueOf(t, db, &fakeClock{time.Unix(1000, 0)}, 1)
	add(t, q, Task{Study: "s", Priority: Prior})
	at := begins(t, q)
	add(t, q, Task{Study: "s", Priority: Interactive})
	if !errors.Is(context.Cause(at.ctx), errRaised) {
		t.Fatal("it goes on as it was")
	}
	end(t, q, at, outcome{err: at.ctx.Err(), wait: time.Hour})
	at = begins(t, q)
	if at == nil || at.Priority != Interactive || at.Attempts != 0 {
		t.Fatalf("%+v", at)
	}
	add(t, q, Task{Study: "s", Priority: Interactive})
	if at.ctx.Err() != nil {
		t.Error("it begins again although it is as urgent as it can be")
	}
	end(t, q, at, outcome{})
	if _, queued := q.get("s"); !queued {
		t.Error("it was asked for again while under way, and is forgotten")
	}
}

func TestAFailedTaskWaitsAndAReaderEndsTheWait(t *testing.T) {
	clock := &fakeClock{time.Unix(1000, 0)}
	db := memoryDB(t)
	defer db.Close()
	q := queueOf(t, db, clock, 1)
	add(t, q, Task{Study: "s", Priority: Prior})
	var on []index.NodeID
	fail := func() {
		t.Helper()
		at := begins(t, q)
		if at == nil {
			t.Fatal("the task is not due")
		}
		end(t, q, at, outcome{err: errNoHolder, wait: time.Minute, on: on})
		if begins(t, q) != nil {
			t.Fatal("a failed task is tried again at once")
		}
	}
	fail()
	clock.t = clock.t.Add(time.Minute)
	fail()
	add(t, q, Task{Study: "s", Priority: Interactive})
	fail()
	q.kick()
	fail()
	q.back([]index.NodeID{{1}})
	on = []index.NodeID{{1}, {2}}
	fail()
	q.freed([]index.NodeID{{1}, {2}})
	q.back([]index.NodeID{{3}})
	if begins(t, q) != nil {
		t.Fatal("nobody came back, and it was tried")
	}
	q.back([]index.NodeID{{2}})
	fail()
	if st, _ := q.get("s"); st.Attempts != 6 || st.LastError != "no holder" || st.Priority != Interactive || st.State != Waiting {
		t.Errorf("%+v", st)
	}
	// Who comes back while it is being tried is not missed.
	clock.t = clock.t.Add(time.Minute)
	at := begins(t, q)
	q.back([]index.NodeID{{2}})
	end(t, q, at, outcome{err: errNoHolder, wait: time.Minute, on: on})
	if at = begins(t, q); at == nil {
		t.Error("a holder came back meanwhile, and it waits")
	}
}

func TestRefused(t *testing.T) {
	clock := &fakeClock{time.Unix(1_700_000_000, 0)}
	db := memoryDB(t)
	defer db.Close()
	q := queueOf(t, db, clock, 1)
	holder, other := index.NodeID{1}, index.NodeID{2}
	last := outcome{err: errNoHolder, refused: true, wait: time.Second, refusals: []Refusal{{Holder: holder, Revision: 1, Times: refusedTries}}}
	refuse := func(o outcome) {
		t.Helper()
		at := begins(t, q)
		if at == nil {
			t.Fatal("it is not tried")
		}
		end(t, q, at, o)
		clock.t = clock.t.Add(time.Hour)
		q.kick()
		q.back([]index.NodeID{holder})
		q.due("s")
		if st, _ := q.get("s"); st.State != Refused || begins(t, q) != nil {
			t.Fatalf("it has not ended: %+v", st)
		}
		add(t, q, Task{Study: "s", Priority: Prior, Reason: "a prior"})
		q = queueOf(t, db, clock, 1)
		if st, _ := q.get("s"); st.State != Refused || st.LastError != "no holder" || begins(t, q) != nil {
			t.Fatalf("after a rule has asked again, and a restart: %+v", st)
		}
		if q.wants("s") {
			t.Error("it is said to be wanted")
		}
	}
	add(t, q, Task{Study: "s", Priority: Prior})
	refuse(last)
	add(t, q, Task{Study: "s", Priority: Interactive, Reason: "read"})
	if st, _ := q.get("s"); st.Refusals != nil || st.Priority != Interactive || st.Attempts != 0 {
		t.Errorf("somebody reads it: %+v", st)
	}
	refuse(last)
	if err := q.add(Task{Study: "s", Priority: Background}, true); err != nil {
		t.Fatal(err)
	}
	if st, _ := q.get("s"); st.Refusals != nil || st.Priority != Background {
		t.Errorf("a person asks: %+v", st)
	}
	refuse(last)
	q.changed("s", other)
	at := begins(t, q)
	if at == nil || !at.spent(holder, index.NodeID{}, 1) || at.spent(holder, index.NodeID{}, 2) {
		t.Fatalf("another holder: %+v", at)
	}
	end(t, q, at, last)
	q.changed("s", holder)
	if at = begins(t, q); at == nil || at.spent(holder, index.NodeID{}, 1) {
		t.Fatalf("the holder has said something new: %+v", at)
	}
	// It speaks once more while it is being asked.
	q.changed("s", holder)
	end(t, q, at, last)
	if st, _ := q.get("s"); st.State == Refused {
		t.Fatalf("what was said meanwhile is missed: %+v", st)
	}
	refuse(last)
	clock.t = clock.t.Add(keepRefused)
	if err := q.prune(); err != nil {
		t.Fatal(err)
	}
	if _, queued := queueOf(t, db, clock, 1).get("s"); queued {
		t.Error("a refusal of long ago is still shown")
	}
}

func TestCancel(t *testing.T) {
	clock := &fakeClock{time.Unix(1000, 0)}
	db := memoryDB(t)
	defer db.Close()
	q := queueOf(t, db, clock, 1)
	cancel := func(want bool) {
		t.Helper()
		if was, err := q.cancel("s"); was != want || err != nil {
			t.Fatal(was, err)
		}
		if _, queued := q.get("s"); queued || len(q.list()) != 0 {
			t.Fatal("it is still shown")
		}
	}
	cancel(false)
	add(t, q, Task{Study: "s", Priority: Prior})
	cancel(true)
	cancel(false)
	if !q.cancelled("s") {
		t.Error("nobody can tell that it was taken off")
	}
	add(t, q, Task{Study: "s", Priority: Prior})
	at := begins(t, q)
	cancel(true)
	if !errors.Is(context.Cause(at.ctx), errOff) {
		t.Error("its transfer goes on")
	}
	// Asked for again before the transfer has ended.
	add(t, q, Task{Study: "s", Priority: Background})
	if q.cancelled("s") || begins(t, q) != nil {
		t.Error("it is brought twice at once")
	}
	end(t, q, at, outcome{err: at.ctx.Err(), wait: time.Hour})
	if at = begins(t, q); at == nil || at.Priority != Background {
		t.Fatalf("%+v", at)
	}
	cancel(true)
	end(t, q, at, outcome{}) // it had come whole just then
	if q = queueOf(t, db, clock, 1); len(q.list()) != 0 {
		t.Error("it is back after a restart")
	}
}

// Whoever looks at the queue, or takes from it, does not wait while another
// task is written to the disk.
func TestNobodyWaitsForTheDisk(t *testing.T) {
	db := memoryDB(t)
	defer db.Close()
	q := queueOf(t, db, &fakeClock{time.Unix(1000, 0)}, 4)
	write := q.update
	for _, s := range []string{"one", "two"} {
		add(t, q, Task{Study: s, Priority: Prior})
	}
	at := begins(t, q)
	writing, written := make(chan struct{}), make(chan struct{})
	q.update = func(f func(*badger.Txn) error) error {
		writing <- struct{}{}
		<-written
		return write(f)
	}
	ended := make(chan error, 2)
	go func() { ended <- q.add(Task{Study: "three", Priority: Prior}, false) }()
	<-writing
	go func() { ended <- q.done(at, outcome{err: errNoHolder, wait: time.Minute}) }()
	<-writing
	// Both are in the middle of writing.
	if other := begins(t, q); other == nil || other.Study == at.Study {
		t.Errorf("%q begins", studyOf(other))
	}
	if n := len(q.list()); n != 2 {
		t.Errorf("%d are listed: what is not on disk yet is not promised", n)
	}
	q.kick()
	close(written)
	if err := errors.Join(<-ended, <-ended); err != nil {
		t.Error(err)
	}
}

// Nobody in a class is passed by for ever: what has waited longest has its turn.
func TestNobodyStarvesInAClass(t *testing.T) {
	db := memoryDB(t)
	defer db.Close()
	rapid.Check(t, func(t *rapid.T) {
		q := queueOf(t, db, &fakeClock{time.Unix(1000, 0)}, 1)
		q.update = func(func(*badger.Txn) error) error { return nil }
		n := rapid.IntRange(1, 6).Draw(t, "before it")
		for i := range n {
			add(t, q, Task{Study: fmt.Sprint("before ", i), Priority: Prior, Order: "2"})
		}
		add(t, q, Task{Study: "old", Priority: Prior, Order: "1"})
		for i := range fairTurn * (n + 1) {
			add(t, q, Task{Study: fmt.Sprint("newer ", i), Priority: Prior, Order: "3"})
			at := begins(t, q)
			if at.Study == "old" {
				return
			}
			switch rapid.IntRange(0, 2).Draw(t, "how it ends") {
			case 0:
				end(t, q, at, outcome{})
			case 1:
				end(t, q, at, outcome{err: errNoHolder}) // and is due at once
			case 2:
				at.stop(errPaused)
				end(t, q, at, outcome{err: at.ctx.Err()})
				if at = begins(t, q); at.Study == "old" {
					return
				}
				end(t, q, at, outcome{})
			}
		}
		t.Fatal("what is wanted least is never brought")
	})
}

// Whatever is done to the queue, and however often it is opened anew, it holds
// exactly the studies that were asked for and neither finished nor taken off
// since; none is under way twice; what begins is of the most urgent class that
// is due; there are never more under way than places; and what was refused
// begins only after something has changed.
func TestQueueLosesNothing(t *testing.T) {
	db := memoryDB(t)
	defer db.Close()
	rapid.Check(t, func(t *rapid.T) {
		clock := &fakeClock{time.Unix(1000, 0)}
		if err := db.DropPrefix([]byte{tableTask}); err != nil {
			t.Fatal(err)
		}
		places := rapid.IntRange(1, 3).Draw(t, "places")
		q := queueOf(t, db, clock, places)
		want := make(map[string]Priority)
		refused := make(map[string]bool)
		active := make(map[string]*attempt)
		again := make(map[string]bool)
		pardoned := make(map[string]bool)
		study := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint(rapid.IntRange(1, 6).Draw(t, "study")) })
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				s, p, person := study.Draw(t, "s"), Priority(rapid.IntRange(0, 3).Draw(t, "p")), rapid.Bool().Draw(t, "person")
				if err := q.add(Task{Study: s, Priority: p}, person); err != nil {
					t.Fatal(err)
				}
				switch old, known := want[s]; {
				case refused[s] && (person || p <= Interactive):
					delete(refused, s)
					want[s] = p
				case !known || p < old && !refused[s]:
					want[s] = p
				}
				again[s] = active[s] != nil
				pardoned[s] = pardoned[s] || person
			},
			"take": func(t *rapid.T) {
				at := begins(t, q)
				if at == nil {
					return
				}
				s := at.Study
				if active[s] != nil {
					t.Fatalf("%s is brought twice at once", s)
				}
				if p, wanted := want[s]; !wanted || refused[s] || p != at.Priority {
					t.Fatalf("%s begins as %s: wanted %v as %s, refused %v", s, at.Priority, wanted, p, refused[s])
				}
				if n := len(active); n >= places+1 || n >= places && at.Priority > Interactive {
					t.Fatalf("%s begins as %s, and %d are under way at %d places", s, at.Priority, n, places)
				}
				for _, x := range q.list() {
					if x.Priority < at.Priority && (x.State == Queued || x.State == Paused) && active[x.Study] == nil {
						t.Fatalf("%s begins as %s before %s, which is due as %s", s, at.Priority, x.Study, x.Priority)
					}
				}
				active[s], again[s], pardoned[s] = at, false, false
			},
			"finish": func(t *rapid.T) {
				if len(active) == 0 {
					return
				}
				s := rapid.SampledFrom(slices.Sorted(maps.Keys(active))).Draw(t, "running")
				at := active[s]
				stopped := at.ctx.Err() != nil
				o := outcome{wait: time.Second}
				switch rapid.IntRange(0, 2).Draw(t, "how") {
				case 1:
					o.err = errNoHolder
				case 2:
					o.err, o.refused, o.refusals = errNoHolder, true, []Refusal{{Times: refusedTries}}
				}
				_, wanted := want[s]
				end(t, q, at, o)
				delete(active, s)
				switch {
				case !wanted:
				case o.err == nil && !again[s]:
					delete(want, s)
				case o.refused && !stopped && !pardoned[s]:
					refused[s] = true
				}
			},
			"cancel": func(t *rapid.T) {
				s := study.Draw(t, "s")
				was, err := q.cancel(s)
				if _, wanted := want[s]; err != nil || was != wanted {
					t.Fatalf("cancel: %v %v, wanted %v", was, err, wanted)
				}
				delete(want, s)
				delete(refused, s)
				again[s] = false
			},
			"a node says something": func(t *rapid.T) {
				s := study.Draw(t, "s")
				q.changed(s, index.NodeID{byte(rapid.IntRange(0, 1).Draw(t, "by"))})
				seeTo(t, q)
				delete(refused, s)
				pardoned[s] = true
			},
			"time passes": func(*rapid.T) { clock.t = clock.t.Add(time.Second) },
			"kick":        func(*rapid.T) { q.kick() },
			"crash": func(t *rapid.T) {
				q = queueOf(t, db, clock, places)
				clear(active)
				clear(again)
				clear(pardoned)
			},
			"": func(t *rapid.T) {
				var got, all []string
				for _, x := range q.list() {
					got = append(got, x.Study+" "+x.Priority.String())
				}
				for s, p := range want {
					all = append(all, s+" "+p.String())
				}
				sort.Strings(got)
				sort.Strings(all)
				if fmt.Sprint(got) != fmt.Sprint(all) {
					t.Fatalf("the queue holds %v, want %v", got, all)
				}
			},
		})
	})
}

// A rate is of the last seconds, whatever the clock does.
func TestMeter(t *testing.T) {
	var m meter
	now := time.Unix(1000, 0)
	if got := m.rate(now); got != 0 {
		t.Error(got)
	}
	for range 100 {
		m.add(now, 1000)
		now = now.Add(100 * time.Millisecond)
	}
	if got := m.rate(now); got < 8000 || got > 12000 {
		t.Errorf("%.0f bytes a second, want about 10000", got)
	}
	if got := m.rate(now.Add(time.Hour)); got != 0 {
		t.Errorf("%.0f bytes a second, an hour later", got)
	}
	m.add(now.Add(-time.Hour), 1) // set back
	if got := m.rate(now.Add(-time.Hour)); got > 10 {
		t.Errorf("%.0f bytes a second after the clock was set back", got)
	}
}
