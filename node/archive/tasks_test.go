package archive

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"
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

// due lists what take would give, without waiting.
func due(t interface{ Fatal(...any) }, q *queue, least Priority) string {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	got, err := q.take(ctx, least)
	if errors.Is(err, context.Canceled) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return got.Study
}

func TestQueueOrder(t *testing.T) {
	clock := &fakeClock{time.Unix(1000, 0)}
	db := memoryDB(t)
	defer db.Close()
	q, err := openQueue(db, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []Task{
		{Study: "background", Priority: Background},
		{Study: "old prior", Priority: Prior, Order: "20100101"},
		{Study: "new prior", Priority: Prior, Order: "20200101"},
		{Study: "read", Priority: Interactive},
		{Study: "emergency", Priority: Emergency},
	} {
		clock.t = clock.t.Add(time.Second)
		if err := q.add(x); err != nil {
			t.Fatal(err)
		}
	}
	if got := due(t, q, Interactive); got != "emergency" {
		t.Errorf("the readers' worker takes %q first", got)
	}
	if got := due(t, q, Interactive); got != "read" {
		t.Errorf("the readers' worker takes %q second", got)
	}
	if got := due(t, q, Interactive); got != "" {
		t.Errorf("the readers' worker took %q, which nobody is reading", got)
	}
	for _, want := range []string{"new prior", "old prior", "background", ""} {
		if got := due(t, q, Background); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAFailedTaskWaitsAndAReaderEndsTheWait(t *testing.T) {
	clock := &fakeClock{time.Unix(1000, 0)}
	db := memoryDB(t)
	defer db.Close()
	q, _ := openQueue(db, clock.now)
	if err := q.add(Task{Study: "s", Priority: Prior}); err != nil {
		t.Fatal(err)
	}
	fail := func() {
		t.Helper()
		if due(t, q, Background) != "s" {
			t.Fatal("the task is not due")
		}
		if err := q.done("s", time.Minute, errors.New("no holder")); err != nil {
			t.Fatal(err)
		}
		if due(t, q, Background) != "" {
			t.Fatal("a failed task is tried again at once")
		}
	}
	fail()
	clock.t = clock.t.Add(time.Minute)
	fail()
	if err := q.add(Task{Study: "s", Priority: Interactive}); err != nil {
		t.Fatal(err)
	}
	fail()
	q.kick()
	fail()
	if st, _ := q.get("s"); st.Attempts != 4 || st.LastError != "no holder" || st.Priority != Interactive {
		t.Errorf("%+v", st)
	}
}

// Whatever is done to the queue, and however often it is opened anew, it holds
// exactly the studies that were asked for and not finished since.
func TestQueueLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := &fakeClock{time.Unix(1000, 0)}
		db := memoryDB(t)
		defer db.Close()
		q, err := openQueue(db, clock.now)
		if err != nil {
			t.Fatal(err)
		}
		want := make(map[string]bool)
		active := make(map[string]bool)
		again := make(map[string]bool)
		study := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint(rapid.IntRange(1, 5).Draw(t, "study")) })
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				s := study.Draw(t, "s")
				if err := q.add(Task{Study: s, Priority: Priority(rapid.IntRange(0, 3).Draw(t, "p"))}); err != nil {
					t.Fatal(err)
				}
				want[s] = true
				again[s] = active[s]
			},
			"take": func(t *rapid.T) {
				if s := due(t, q, Background); s != "" {
					if active[s] || !want[s] {
						t.Fatalf("took %s: active %v, wanted %v", s, active[s], want[s])
					}
					active[s], again[s] = true, false
				}
			},
			"finish": func(t *rapid.T) {
				s := study.Draw(t, "s")
				if !active[s] {
					t.Skip()
				}
				fails := rapid.Bool().Draw(t, "fails")
				var err error
				if fails {
					err = errors.New("failed")
				}
				if err := q.done(s, time.Second, err); err != nil {
					t.Fatal(err)
				}
				if !fails && !again[s] {
					delete(want, s)
				}
				delete(active, s)
			},
			"time passes": func(*rapid.T) { clock.t = clock.t.Add(time.Second) },
			"kick":        func(*rapid.T) { q.kick() },
			"crash": func(t *rapid.T) {
				if q, err = openQueue(db, clock.now); err != nil {
					t.Fatal(err)
				}
				clear(active)
				clear(again)
			},
			"": func(t *rapid.T) {
				var got, all []string
				for _, x := range q.list() {
					got = append(got, x.Study)
				}
				for s := range want {
					all = append(all, s)
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
