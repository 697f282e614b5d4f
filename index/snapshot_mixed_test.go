package index

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// counts compares what logs count with what is in the tables.
func checkCounts(t *testing.T, x *Index) (bad string) {
	t.Helper()
	holes, unread := map[logID]int{}, map[logID]int{}
	err := x.View(func(txn *badger.Txn) error {
		clear(holes)
		clear(unread)
		for _, a := range x.authors {
			for _, tab := range []byte{tabHole, tabUnread} {
				p := authorKey(tab, a.no)
				if err := scan(txn, p, p, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
					v, err := value()
					at := keyPosition(k)
					if tab == tabHole {
						holes[logID{a.node, at.Epoch}]++
					} else if len(v) == 1 && v[0] == unreadBody {
						unread[logID{a.node, at.Epoch}]++
					}
					return true, err
				}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	for id, st := range x.logs {
		if st.missing != holes[id] || st.unread != unread[id] {
			bad += fmt.Sprintf("epoch %d: missing %d, holes %d; unread %d, rows %d; ", id.Epoch, st.missing, holes[id], st.unread, unread[id])
		}
	}
	return bad
}

type revNode struct {
	x     *Index
	store SnapshotStore
	o     Offered
}

func mixedRun(t *testing.T, seed uint64, steps int) {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(seed, 77))
	r := foundRegion("RAA", "RBB", "RCC", "RDD")
	author := openTest(t, "RAA", r)
	id := author.Self()
	nodes := []*revNode{{x: openTest(t, "RBB", r)}, {x: openTest(t, "RCC", r)}}
	var trail []string
	fail := func(format string, args ...any) {
		t.Helper()
		n := len(trail)
		t.Fatalf("seed %d: %s\n%s", seed, fmt.Sprintf(format, args...), strings.Join(trail[max(0, n-60):], "\n"))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			fail("%v", err)
		}
	}
	note2 := func(f string, a ...any) { trail = append(trail, fmt.Sprintf(f, a...)) }
	pickSource := func(n *revNode) *Index {
		if rnd.IntN(3) > 0 {
			return author
		}
		return nodes[rnd.IntN(len(nodes))].x
	}
	uids := 12
	sayOne := func(i int) {
		uid := fmt.Sprintf("1.2.%d", rnd.IntN(uids))
		switch rnd.IntN(12) {
		case 0, 1:
			_, err := author.Retract(ctx, KindStudy, uid)
			must(err)
			note2("retract %s", uid)
		case 2:
			h, err := HoldingStatement(Holding{Study: uid, Origin: nodeOf("RBB"), Revision: uint64(i), Instances: rnd.IntN(2)})
			must(err)
			say(t, author, h)
		case 3:
			hs, _ := HoldingStatement(Holding{Study: uid, Origin: nodeOf("RBB")})
			_, err := author.Retract(ctx, KindHolding, hs.Subject)
			must(err)
		case 4: // a body of a later version
			st := Statement{Kind: KindStudy, Subject: uid, Body: []byte{0xff}}
			author.write.Lock()
			_, err := author.saySealed(ctx, []Statement{st})
			author.write.Unlock()
			must(err)
			note2("unread %s", uid)
		default:
			var sts []Statement
			for range 1 + rnd.IntN(6) {
				sts = append(sts, mustStudy(t, Study{UID: fmt.Sprintf("1.2.%d", rnd.IntN(uids)), Name: fmt.Sprintf("Family%d^Given", rnd.IntN(5)), Date: "20250110", Description: fmt.Sprint("as said the ", i),
					Patient: []PatientID{{fmt.Sprint("P", rnd.IntN(5)), "RAA"}}}), note(fmt.Sprint("n", rnd.IntN(6)), fmt.Sprint(i)))
			}
			h := say(t, author, sts...)
			note2("say to %d/%d", h.Epoch, h.Seq)
		}
	}
	copySome := func(n *revNode, from *Index, most int, holes bool) {
		for _, h := range from.Heads() {
			if h.Node != id {
				continue
			}
			var after Seq
			if !n.x.covered(logID{id, h.Epoch}, h.Seq) {
				after = n.x.state(logID{id, h.Epoch}).last.head.Seq
			} else {
				continue
			}
			if rnd.IntN(4) == 0 {
				after = 0 // again: fills
			}
			bs, err := from.Range(id, h.Epoch, after, MaxAnswer)
			must(err)
			for i, b := range bs {
				if i >= most {
					break
				}
				if holes && rnd.IntN(3) == 0 {
					b.Payloads = append([]Payload{}, b.Payloads...)
					b.Payloads[rnd.IntN(len(b.Payloads))] = Payload{}
				}
				v, err := b.Verify()
				must(err)
				_, err = n.x.Take([]Verified{v})
				var gap *GapError
				if errors.As(err, &gap) {
					break
				}
				must(err)
				note2("%p takes batch %d/%d-%d", n, h.Epoch, v.First(), v.Head().Seq)
			}
		}
	}
	pull := func(n *revNode, from *Index, pages int, holes bool) (whole bool) {
		offer, _, ok, err := from.Offer(id)
		must(err)
		if ok {
			v, err := offer.Batch.Verify()
			must(err)
			o, err := ReadSnapshot(v)
			must(err)
			if n.store == nil {
				n.store = n.x.Snapshots(id)
			}
			if _, err = n.store.Begin(o); err != nil {
				fail("begin: %v", err)
			}
		}
		if n.store == nil {
			return false
		}
		o, pending, err := n.store.Pending()
		must(err)
		if !pending {
			n.store = nil
			return true
		}
		n.o = o
		root := o.Snapshot.Root
		raw, err := n.store.Sheet(-1)
		must(err)
		if raw == nil {
			if raw, ok, err = from.Part(id, root, PartList, 0); err != nil || !ok {
				must(err)
				return false
			}
			must(n.store.TakeSheet(-1, raw))
		}
		list, err := o.Snapshot.ReadList(raw)
		must(err)
		whole = true
		for i := range list {
			raw, err := n.store.Sheet(i)
			must(err)
			if raw == nil {
				if raw, ok, err = from.Part(id, root, PartSheet, uint64(i)); err != nil || !ok {
					must(err)
					return false
				}
				must(n.store.TakeSheet(i, raw))
			}
			refs, err := o.Snapshot.ReadSheet(list, i, raw)
			must(err)
			states, err := n.store.Have(refs)
			must(err)
			for _, j := range rnd.Perm(len(refs)) {
				st := states[j]
				if st == PageWhole {
					continue
				}
				if pages == 0 {
					whole = whole && st != PageAbsent
					continue
				}
				raw, ok, err := from.Part(id, root, PartPages, uint64(i*MaxSheet+j))
				must(err)
				if !ok {
					whole = whole && st != PageAbsent
					continue
				}
				pages--
				v, err := o.Snapshot.ReadPage(refs[j], raw)
				must(err)
				if holes && rnd.IntN(2) == 0 {
					p := v.Page()
					p.Payloads = append([]Payload{}, p.Payloads...)
					p.Payloads[rnd.IntN(len(p.Payloads))] = Payload{}
					if v, err = p.Verify(id, refs[j].Hash); err != nil {
						fail("%v", err)
					}
				}
				got, err := n.store.TakePages([]VerifiedPage{v})
				must(err)
				if got[0] == PageAbsent {
					fail("page %d is absent after it was taken", j)
				}
				note2("%p takes page %d (%d facts) state %d", n, refs[j].First, v.Len(), got[0])
			}
		}
		return whole
	}
	finishSome := func(n *revNode, most int) {
		for range most {
			done, err := n.store.Finish(n.o)
			must(err)
			note2("%p finishes %v: %v", n, n.o.Snapshot.through(), done)
			if done {
				n.store = nil
				return
			}
			if rnd.IntN(2) == 0 {
				must(n.x.Purge(ctx))
			}
		}
	}
	// check wants the counts to be right everywhere, and all to answer as before but the one who was told something: 0 is the author, 1 the
	// first of the others.
	answers := make([]string, 1+len(nodes))
	check := func(what string, told int) {
		for i, n := range append([]*revNode{{x: author}}, nodes...) {
			if bad := checkCounts(t, n.x); bad != "" {
				fail("%s: %p counts: %s", what, n, bad)
			}
			got := tables(t, n.x)
			if i == told || answers[i] == "" {
				answers[i] = got
			} else if got != answers[i] {
				fail("%s: node %d answers\n%s\nbut had answered\n%s", what, i, got, answers[i])
			}
		}
	}
	finishing := map[*revNode]bool{}
	for i := range steps {
		pick := rnd.IntN(len(nodes))
		n := nodes[pick]
		what, told := "", -1
		switch k := rnd.IntN(20); {
		case k < 7:
			what, told = "say", 0
			sayOne(i)
		case k == 7 && rnd.IntN(4) == 0 && author.ownEpoch() < 6:
			what, told = "epoch", 0
			must(author.NewEpoch(ctx))
			note2("new epoch")
		case k == 8 && rnd.IntN(2) == 0:
			what = "make"
			s, err := author.MakeSnapshot(ctx)
			if err != nil && !errors.Is(err, ErrEarlier) {
				must(err)
			}
			note2("snapshot through %v", s.through())
		case k < 12:
			what, told = "copy", 1+pick
			copySome(n, pickSource(n), 1+rnd.IntN(8), true)
		case k < 16:
			what, told = "pull", 1+pick
			if finishing[n] && n.store != nil {
				finishSome(n, 1+rnd.IntN(4))
			} else if w := pull(n, pickSource(n), 1+rnd.IntN(4), true); w && n.store != nil && rnd.IntN(2) == 0 {
				finishing[n] = true
				finishSome(n, 1+rnd.IntN(4))
			}
			finishing[n] = finishing[n] && n.store != nil
		case k == 16:
			what = "purge"
			must(n.x.Purge(ctx))
		case k == 17:
			what = "purge author"
			must(author.Purge(ctx))
		case k == 18:
			what = "restart"
			x, err := Open(n.x.db, n.x.opt)
			must(err)
			n.x, n.store = x, nil
			finishing[n] = false
			note2("%p restarts", n)
		case k == 19:
			what = "restart author"
			x, err := Open(author.db, author.opt)
			must(err)
			author = x
		}
		check(what, told)
	}
	note2("--- end")
	must(author.Purge(ctx))
	want := tables(t, author)
	for i, n := range nodes {
		for try := 0; ; try++ {
			if w := pull(n, author, 1000, false); w && n.store != nil {
				finishSome(n, 400)
			}
			copySome(n, author, 1000, false)
			for _, h := range author.Heads() { // fill all
				bs, err := author.Range(id, h.Epoch, 0, 64<<20)
				must(err)
				for _, b := range bs {
					v, _ := b.Verify()
					_, err := n.x.Take([]Verified{v})
					var gap *GapError
					if err != nil && !errors.As(err, &gap) {
						must(err)
					}
				}
			}
			must(n.x.Purge(ctx))
			// refill
			if n.store == nil {
				s := n.x.Snapshots(id)
				if offer, root, ok, _ := author.Offer(id); ok {
					v, _ := offer.Batch.Verify()
					o, _ := ReadSnapshot(v)
					_, pend, perr := s.Pending()
					note2("pending %v %v, base %v", pend, perr, n.x.base(id))
					if !pend && n.x.base(id) == o.Snapshot.through() {
						raw, _ := s.Sheet(-1)
						list, err := o.Snapshot.ReadList(raw)
						must(err)
						for k := range list {
							raw, _ := s.Sheet(k)
							refs, err := o.Snapshot.ReadSheet(list, k, raw)
							must(err)
							states, err := s.Have(refs)
							must(err)
							for j, st := range states {
								if st == PageAbsent {
									fail("page %d absent after finish", j)
								}
								note2("state of page %d: %d", refs[j].First, st)
								if st == PageHoled {
									raw, ok, err := author.Part(id, root, PartPages, uint64(k*MaxSheet+j))
									must(err)
									if !ok {
										fail("author has not page %d", j)
									}
									v, err := o.Snapshot.ReadPage(refs[j], raw)
									must(err)
									_, err = s.TakePages([]VerifiedPage{v})
									must(err)
								}
							}
						}
					}
				}
			}
			if bad := checkCounts(t, n.x); bad != "" {
				fail("end: %s", bad)
			}
			if got := tables(t, n.x); got == want && n.x.base(id) == author.base(id) && n.store == nil {
				break
			} else if try > 12 {
				fail("node %d answers\n%s\nwant\n%s", i, got, want)
			}
		}
		missing := 0
		for _, l := range n.x.Lags() {
			if l.Node == id {
				missing += l.Missing
			}
			if l.Missing < 0 || l.Unread < 0 {
				fail("lag %+v", l)
			}
		}
		if missing > 0 {
			var why []string
			for lid, st := range n.x.logs {
				if st.missing > 0 {
					_ = n.x.View(func(txn *badger.Txn) error {
						a, _ := n.x.known(id)
						p := epochKey(tabHole, a.no, lid.Epoch)
						return scan(txn, p, p, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
							at := keyPosition(k)
							b, _ := blockIn(txn, a.no, at)
							c, _ := cover(txn, a.no, at)
							oa, _ := author.known(id)
							var gone bool
							_ = author.View(func(t2 *badger.Txn) error {
								_, gone, _ = get(t2, logKey(tabDropped, oa.no, at))
								ab, _ := blockIn(t2, oa.no, at)
								if ab != nil {
									sl := ab.at(at.Seq)
									s, _ := decodePayload(sl.payload.Data)
									why = append(why, fmt.Sprintf("author block in %v dropped %v %v %q", sl.in, sl.payload.dropped(), s.Kind, s.Subject))
								}
								return nil
							})
							why = append(why, fmt.Sprintf("%v base %v last %d inblock %v run %v author dropped %v", at, n.x.base(id), st.last.head.Seq, b != nil && b.at(at.Seq).in, c != nil, gone))
							return true, nil
						})
					})
				}
			}
			fail("node %d still misses %d\nauthor base %v\n%s", i, missing, author.base(id), strings.Join(why, "\n"))
		}
		x, err := Open(n.x.db, n.x.opt)
		must(err)
		if got := tables(t, x); got != want {
			fail("node %d after restart answers\n%s\nwant\n%s", i, got, want)
		}
	}
}

// Whatever is said, taken back, snapshotted, taken as batches or pages, whole or with holes, in whatever order and with whatever breaks: in the
// end all answer as the author does.
func TestSnapshotsMixedAtRandom(t *testing.T) {
	seeds := 12
	if raced {
		seeds = 3
	}
	for seed := range soak(t, seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { mixedRun(t, uint64(seed), 220+seed%7*60) })
	}
}

// 16 pages of long payloads do not fit into a transaction: memtables of 16 MiB, as the node has.
func TestSnapshotOfLongPayloads(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	author := openLarge(t, "RAA", r)
	body := strings.Repeat("x", 2900)
	for i := range 40 {
		var st []Statement
		for j := range 32 {
			st = append(st, note(fmt.Sprint("n", i, "/", j), body))
		}
		say(t, author, st...)
	}
	if _, err := author.MakeSnapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
}
