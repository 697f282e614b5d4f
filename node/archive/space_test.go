package archive

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/access"
	"github.com/priormesh/priormesh/node/audit"
)

// house is an archive without a mesh, on stores in memory, that can be opened
// again: what is only in memory is lost then.
type house struct {
	*Archive
	t     fataler
	clock *steppedClock
	open  func() *Archive
	node  ed25519.PrivateKey
	trust index.TrustID
}

type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Cleanup(func())
}

type steppedClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *steppedClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *steppedClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func seedKey(name string) ed25519.PrivateKey {
	s := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(s[:])
}

func cardFor(trust index.TrustID) index.Card {
	key := seedKey("trust " + string(trust))
	cert, err := index.NewNodeCert(key, trust, seedKey("node "+string(trust)), 1)
	if err != nil {
		panic(err)
	}
	return index.Card{Trust: trust, Name: "Trust " + string(trust), TrustKey: key.Public().(ed25519.PublicKey), NodeCert: cert, Addrs: []string{"/ip4/127.0.0.1/tcp/1"}}
}

// votesFor is a region of the trusts, the first its founder.
func votesFor(trusts ...index.TrustID) (index.RegionID, []index.Vote) {
	v, err := index.Found(seedKey("trust "+string(trusts[0])), "Test region", cardFor(trusts[0]))
	if err != nil {
		panic(err)
	}
	votes := []index.Vote{v}
	for _, t := range trusts[1:] {
		roster := index.EvalRoster(v.Hash(), votes, nil)
		for _, m := range roster.Members {
			admit, err := index.Admit(seedKey("trust "+string(m.Trust)), roster, cardFor(t), roster.NextSerial(m.Trust))
			if err != nil {
				panic(err)
			}
			votes = append(votes, admit)
		}
	}
	return v.Hash(), votes
}

func kekForTests() cas.KEK {
	k, err := cas.NewKEK(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

const (
	sweepAfter = 10 * time.Minute
	grantedFor = 15 * time.Minute
)

func newHouse(t fataler, dir string, trust index.TrustID, clock *steppedClock, trusts ...index.TrustID) *house {
	t.Helper()
	region, votes := votesFor(trusts...)
	db, err := badger.Open(badger.DefaultOptions("").WithInMemory(true).WithLogger(nil).WithMemTableSize(16 << 20).WithNumCompactors(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	folder, err := cas.OpenFolder(cas.OS(), filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := cas.OpenKeyring(context.Background(), folder, kekForTests(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	events, err := audit.Open(filepath.Join(dir, "audit"), audit.Options{Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close() })
	h := &house{t: t, clock: clock, node: seedKey("node " + string(trust)), trust: trust}
	x, err := index.Open(db, index.Options{Self: h.node, Trust: trust, Region: region, Votes: votes,
		FoldName: dicom.FoldName, NamesAgree: dicom.NamesAgree, Now: clock.now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	store := cas.NewMemory()
	limits := dicom.DefaultLimits()
	h.open = func() *Archive {
		a, err := Open(Options{
			DB: db, Blocks: store, Copies: store, Keys: keys, Index: x, Audit: events, Policy: access.Members,
			Self: x.Self(), Issuer: string(trust), Now: clock.now, Log: slog.New(slog.DiscardHandler), Limits: limits,
			PublishAfter: time.Second, SettleAfter: time.Minute, GrantFor: grantedFor,
			Fetch:   Fetching{RetryMin: time.Second, RetryMax: time.Minute, ReadThrough: time.Second},
			Silence: func(index.NodeID) string { return "" }, OnArrival: func(string) {},
			Space: SpaceOptions{SweepAfter: sweepAfter, KeepFor: time.Hour, RoundEvery: 24 * time.Hour},
		})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	h.Archive = h.open()
	return h
}

func (h *house) id(study string) sourceID { return sourceID{study, h.Self} }

func (h *house) take(i dicomtest.Instance) error {
	_, err := h.Ingest(context.Background(), bytes.NewReader(i.Bytes()), IngestOptions{})
	return err
}

// publishAll tells of everything that was received.
func (h *house) publishAll() {
	h.t.Helper()
	var own []string
	if err := h.db.View(func(txn *badger.Txn) error {
		return eachRecord(txn, []byte{tableSource}, func(k []byte, _ source) error {
			if id, _, _ := parseSourceID(k); id.Origin == h.Self {
				own = append(own, id.Study)
			}
			return nil
		})
	}); err != nil {
		h.t.Fatal(err)
	}
	for _, study := range own {
		if _, err := h.publish(context.Background(), study); err != nil {
			h.t.Fatal(err)
		}
	}
}

// hear takes all that another house has said.
func (h *house) hear(from *house) {
	h.t.Helper()
	batches, err := from.Index.Range(from.Self, 1, 0, 1<<30)
	if err != nil {
		h.t.Fatal(err)
	}
	var verified []index.Verified
	for _, b := range batches {
		v, err := b.Verify()
		if err != nil {
			h.t.Fatal(err)
		}
		verified = append(verified, v)
	}
	if _, err := h.Index.Take(verified); err != nil {
		h.t.Fatal(err)
	}
}

// bringFrom copies a study as a transfer does, but for the wire.
func (h *house) bringFrom(from *house, study string) {
	h.t.Helper()
	if err := h.carry(from, study, false); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) carry(from *house, study string, listOnly bool) error {
	ctx := context.Background()
	h.hear(from)
	id := from.id(study)
	st, ok := h.statementOf(id)
	if !ok {
		return fmt.Errorf("%s has not told of %s", from.trust, study)
	}
	done, err := h.writing(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	key, err := from.Keys.Get(id.keyName())
	if err != nil {
		return err
	}
	ref, err := parseRef(st.Manifest)
	if err != nil {
		return err
	}
	_, want, err := from.blocksOf(ctx, id, ref)
	if err != nil {
		return err
	}
	m, err := cas.LoadStudy(ctx, from.shelf(id, key), key, ref)
	if err != nil {
		return err
	}
	if listOnly {
		want = map[cid.Cid]struct{}{ref.CID: {}}
		for _, s := range m.Series {
			want[s.Manifest.CID] = struct{}{}
		}
	}
	for c := range want {
		data, err := from.shelf(id, key).Get(ctx, c)
		if err != nil {
			return err
		}
		if err := h.shelf(id, key).Put(ctx, cas.Block{CID: c, Data: data}); err != nil {
			return err
		}
	}
	if err := h.Keys.Add(id.keyName(), key); err != nil || listOnly {
		return err
	}
	shared := make(map[cid.Cid]bool)
	for c := range want {
		shared[c] = true
	}
	t := &transfer{a: h.Archive, ctx: ctx, id: id, st: st, ref: ref, key: key, shared: shared}
	series, err := t.seriesManifests(m)
	if err != nil {
		return err
	}
	for _, se := range series {
		for _, e := range se.Instances {
			b := batch{list: []wanted{{series: se.UID, entry: e}}}
			if err := t.ask(&b); err != nil {
				return err
			}
			if _, err := t.land(b); err != nil {
				return err
			}
		}
	}
	if _, err := t.finish(series, 0); err != nil {
		return err
	}
	s, err := index.HoldingStatement(index.Holding{Study: study, Origin: id.Origin, Revision: st.Revision, Instances: st.Instances})
	if err != nil {
		return err
	}
	_, err = h.Index.Append(ctx, s)
	return err
}

// gives reads an instance back.
func (h *house) gives(id sourceID, i dicomtest.Instance) error {
	rec, err := h.instanceOf(id, i.Series, i.SOP)
	if err != nil {
		return err
	}
	o := &Object{a: h.Archive, id: id, series: i.Series, sop: i.SOP, rec: rec}
	r, err := o.Open(context.Background())
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(b, i.Bytes()) {
		err = errors.New("other bytes came back")
	}
	return err
}

// onShelf is what lies on a source's shelf.
func (h *house) onShelf(id sourceID) map[cid.Cid]struct{} {
	h.t.Helper()
	out := make(map[cid.Cid]struct{})
	key, err := h.Keys.Get(id.keyName())
	if errors.Is(err, cas.ErrNoKey) {
		return out
	}
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.shelf(id, key).Enumerate(context.Background(), cid.Undef, func(c cid.Cid, _ int64) error {
		out[c] = struct{}{}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *house) shelves() (n int) {
	h.t.Helper()
	if err := h.Copies.Shelves(context.Background(), cas.ShelfID{}, func(cas.ShelfID) error { n++; return nil }); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// exact says how a shelf differs from what the published revision needs.
func (h *house) exact(id sourceID) error {
	s, err := h.source(id)
	if err != nil {
		return err
	}
	_, want, err := h.blocksOf(context.Background(), id, *s.Manifest)
	if err != nil {
		return err
	}
	if have := h.onShelf(id); !maps.Equal(have, want) {
		return fmt.Errorf("%d blocks on the shelf, %d are needed", len(have), len(want))
	}
	return nil
}

// settle lets every grant and grace pass, and tidies up.
func (h *house) settle() {
	for range 3 {
		h.clock.step(grantedFor + sweepAfter + 2*time.Minute)
		h.publishAll()
		h.space.pass(context.Background())
	}
}

func image(study string, sop int, fill byte) dicomtest.Instance {
	return dicomtest.Instance{Study: study, Series: study + ".1", SOP: fmt.Sprintf("%s.1.%d", study, sop), PatientID: "P", Name: "Doe^Jane", Frames: 3, Fill: fill, Modality: "CT", Number: sop}
}

// Whatever comes, is broken off, refused, sent again, told, granted, brought or
// evicted, and however often the node starts anew: in the end every shelf has
// exactly the blocks that are needed, and every instance reads back.
func TestSweepLeavesExactlyWhatIsNeeded(t *testing.T) {
	root := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		dir := filepath.Join(root, fmt.Sprint(run))
		clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
		a := newHouse(t, filepath.Join(dir, "a"), "RX1", clock, "RX1", "RX2")
		b := newHouse(t, filepath.Join(dir, "b"), "RX2", clock, "RX1", "RX2")
		stored := map[string]dicomtest.Instance{} // by SOP Instance UID
		studies := []string{"1.1", "1.2", "1.3"}
		drawn := func(t *rapid.T) dicomtest.Instance {
			return image(rapid.SampledFrom(studies).Draw(t, "study"), rapid.IntRange(1, 4).Draw(t, "sop"), byte(rapid.IntRange(0, 2).Draw(t, "fill")))
		}
		peer := index.NodeIDOf(seedKey("node RX2"))
		t.Repeat(map[string]func(*rapid.T){
			"store": func(t *rapid.T) {
				i := drawn(t)
				old, taken := stored[i.SOP]
				err := a.take(i)
				var conflict *Conflict
				switch {
				case !taken || old.Fill == i.Fill:
					if err != nil {
						t.Fatal(err)
					}
					stored[i.SOP] = i
				case !errors.As(err, &conflict):
					t.Fatalf("other bytes under one UID: %v", err)
				}
			},
			"break off": func(t *rapid.T) {
				i := drawn(t)
				data := i.Bytes()
				cut := rapid.IntRange(len(data)/2, len(data)-1).Draw(t, "cut")
				if _, err := a.Ingest(context.Background(), bytes.NewReader(data[:cut]), IngestOptions{}); err == nil {
					t.Fatal("half an instance was stored")
				}
			},
			"publish": func(t *rapid.T) { a.publishAll() },
			"grant": func(t *rapid.T) {
				id := a.id(rapid.SampledFrom(studies).Draw(t, "study"))
				if s, err := a.source(id); err == nil && s.Manifest != nil {
					a.grants.remember(peer, id, given{id: id, until: clock.now().Add(grantedFor), manifest: *s.Manifest})
				}
			},
			"bring": func(t *rapid.T) {
				study := rapid.SampledFrom(studies).Draw(t, "study")
				if _, err := a.source(a.id(study)); err != nil {
					return
				}
				if err := b.carry(a, study, rapid.Bool().Draw(t, "list only")); err != nil {
					t.Fatal(err)
				}
			},
			"evict": func(t *rapid.T) {
				clock.step(b.Space.KeepFor)
				if _, err := b.space.evictOne(context.Background(), a.id(rapid.SampledFrom(studies).Draw(t, "study")), "test"); err != nil {
					t.Fatal(err)
				}
			},
			"time": func(t *rapid.T) {
				clock.step(time.Duration(rapid.IntRange(1, 20).Draw(t, "minutes")) * time.Minute)
				a.space.pass(context.Background())
				b.space.pass(context.Background())
			},
			"restart": func(t *rapid.T) { a.Archive, b.Archive = a.open(), b.open() },
			"": func(t *rapid.T) { // what is granted can be given, and what is here is read
				for id, m := range a.grants.given[peer] {
					if m.until.After(clock.now()) {
						if _, _, err := a.blocksOf(context.Background(), id, m.manifest); err != nil {
							t.Fatalf("a granted revision: %v", err)
						}
					}
				}
				for _, i := range stored {
					if err := a.gives(a.id(i.Study), i); err != nil {
						t.Fatal(err)
					}
				}
			},
		})
		a.settle()
		b.settle()
		wantShelves := map[string]bool{}
		for _, i := range stored {
			wantShelves[i.Study] = true
		}
		for study := range wantShelves {
			if err := a.exact(a.id(study)); err != nil {
				t.Fatalf("originals of %s: %v", study, err)
			}
		}
		if n := a.shelves(); n != len(wantShelves) {
			t.Fatalf("%d shelves for %d studies", n, len(wantShelves))
		}
		for _, study := range studies {
			id := a.id(study)
			if _, err := a.Keys.Get(id.keyName()); wantShelves[study] != (err == nil) {
				t.Fatalf("study %s is here: %v, its key: %v", study, wantShelves[study], err)
			}
			if s, err := b.source(id); err == nil && s.Whole {
				for _, e := range stored {
					if _, err := b.instanceOf(id, e.Series, e.SOP); e.Study == study && err == nil {
						if err := b.gives(id, e); err != nil {
							t.Fatalf("a copy: %v", err)
						}
					}
				}
			}
		}
		// Copies: all of them go when they must, and nothing is left.
		clock.step(2 * b.Space.KeepFor)
		b.Space.Copies = 1
		b.space.pass(context.Background())
		if n := b.shelves(); n != 0 {
			t.Fatalf("%d shelves are left of copies that were evicted", n)
		}
		for table := byte(0x40); table < 0x60; table++ {
			if err := b.db.View(func(txn *badger.Txn) error {
				it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{table}})
				defer it.Close()
				if it.Rewind(); it.Valid() {
					return fmt.Errorf("table 0x%02x has rows of copies that were evicted", table)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A sweep and those who write the same study do not disturb each other: blocks
// that a writer finds on the shelf are there until he refers to them.
func TestSweepBesideWriters(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RX1", clock, "RX1")
	const study, writers, each = "1.1", 4, 40
	var wg, sweeping sync.WaitGroup
	stop := make(chan struct{})
	sweeping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				a.space.tend(context.Background(), a.id(study))
			}
		}
	})
	var mu sync.Mutex
	stored := map[string]dicomtest.Instance{}
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				// Broken off first, so that its blocks lie there unreferenced.
				i := image(study, n%25+1, byte(n%25))
				data := i.Bytes()
				if w%2 == 0 {
					if _, err := a.Ingest(context.Background(), bytes.NewReader(data[:len(data)-1]), IngestOptions{}); err == nil {
						t.Error("half an instance was stored")
					}
				}
				if err := a.take(i); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				stored[i.SOP] = i
				mu.Unlock()
				if n%7 == 0 {
					if _, err := a.publish(context.Background(), study); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	sweeping.Wait()
	for _, i := range stored {
		if err := a.gives(a.id(study), i); err != nil {
			t.Errorf("instance %s: %v", i.SOP, err)
		}
	}
	a.settle()
	if err := a.exact(a.id(study)); err != nil {
		t.Error(err)
	}
}

// A peer that was granted a revision is given all of it, although a newer one
// has come; when the grant ends the old one goes.
func TestAGrantedRevisionStaysAsLongAsTheGrant(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RX1", clock, "RX1", "RX2")
	id, peer := a.id("1.1"), index.NodeIDOf(seedKey("node RX2"))
	told := func(sop int) cas.Ref {
		t.Helper()
		if err := a.take(image("1.1", sop, byte(sop))); err != nil {
			t.Fatal(err)
		}
		a.publishAll()
		s, err := a.source(id)
		if err != nil {
			t.Fatal(err)
		}
		return *s.Manifest
	}
	first := told(1)
	_, wanted, err := a.blocksOf(t.Context(), id, first)
	if err != nil {
		t.Fatal(err)
	}
	if second := told(2); second == first {
		t.Fatal("another instance made no other revision")
	}
	a.grants.remember(peer, id, given{id: id, until: clock.now().Add(grantedFor), manifest: first})
	clock.step(sweepAfter + time.Minute)
	a.space.pass(t.Context())
	if _, ok := a.space.sweeps[id]; !ok {
		t.Error("nobody comes back when the grant has ended")
	}
	have := a.onShelf(id)
	for c := range wanted {
		if _, ok := have[c]; !ok || !a.GrantedBlock(peer, c) {
			t.Fatal("a block that a peer was granted is gone")
		}
	}
	clock.step(grantedFor)
	a.space.pass(t.Context())
	if err := a.exact(id); err != nil {
		t.Error(err)
	}
	if r := a.onShelf(id); len(r) >= len(have) {
		t.Errorf("%d blocks after the grant ended, %d before", len(r), len(have))
	}
}

func TestNothingIsSweptWhatCannotBeTold(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RX1", clock, "RX1")
	id := a.id("1.1")
	for n := range 3 {
		if err := a.take(image("1.1", n, byte(n))); err != nil {
			t.Fatal(err)
		}
	}
	data := image("1.1", 9, 9).Bytes()
	if _, err := a.Ingest(t.Context(), bytes.NewReader(data[:len(data)-1]), IngestOptions{}); err == nil {
		t.Fatal("half an instance was stored")
	}
	rec, err := a.instanceOf(id, "1.1.1", "1.1.1.1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := a.Keys.Get(id.keyName())
	if err != nil {
		t.Fatal(err)
	}
	lost, err := a.shelf(id, key).Get(t.Context(), rec.Manifest.CID)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.shelf(id, key).Delete(t.Context(), rec.Manifest.CID); err != nil {
		t.Fatal(err)
	}
	before := a.onShelf(id)
	a.settle()
	// The new revision's manifests have come; nothing has gone.
	for c := range before {
		if _, ok := a.onShelf(id)[c]; !ok {
			t.Fatal("a block was swept although a manifest is lost that may refer to it")
		}
	}
	if u, err := a.SpaceUsed(); err != nil || u.Damaged != 1 {
		t.Errorf("%+v %v, want one damaged study", u, err)
	}
	// Once it is mended the rest goes.
	if err := a.shelf(id, key).Put(t.Context(), cas.Block{CID: rec.Manifest.CID, Data: lost}); err != nil {
		t.Fatal(err)
	}
	clock.step(damageRetry)
	a.settle()
	if err := a.exact(id); err != nil {
		t.Error(err)
	}
	if u, err := a.SpaceUsed(); err != nil || u.Damaged != 0 || u.Unswept != 0 {
		t.Errorf("%+v %v, want none damaged or unswept", u, err)
	}
}

// A shelf goes only if no key opens it, whatever the catalogue says, and not
// before a second look.
func TestShelvesThatNoKeyOpensGo(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RX1", clock, "RX1")
	put := func(k cas.Key) {
		b, err := k.Seal([]byte("left behind"))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Blocks.Shelf(k.Shelf()).Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := a.Keys.Create("a study that the catalogue has lost")
	if err != nil {
		t.Fatal(err)
	}
	put(kept)
	put(cas.Key{1})
	if err := a.take(image("1.1", 1, 1)); err != nil {
		t.Fatal(err)
	}
	for round, want := range []int{3, 2, 2} {
		clock.step(25 * time.Hour)
		a.space.pass(t.Context())
		if n := a.shelves(); n != want {
			t.Fatalf("%d shelves after round %d, want %d", n, round+1, want)
		}
	}
	// While a key is missing that a holder may give back nothing goes at all.
	if err := a.Keys.Delete(a.id("1.1").keyName()); err != nil {
		t.Fatal(err)
	}
	put(cas.Key{2})
	for range 3 {
		clock.step(25 * time.Hour)
		a.space.pass(t.Context())
	}
	if n := a.shelves(); n != 3 {
		t.Fatalf("%d shelves, want 3: a key is lost", n)
	}
}

// here lists the studies of which a house has whole copies.
func (h *house) copiesHere(from *house) string {
	var out []string
	for _, study := range []string{"1.1", "1.2", "1.3", "1.4", "1.5", "1.6"} {
		if s, err := h.source(from.id(study)); err == nil && s.Whole {
			out = append(out, study)
		}
	}
	return fmt.Sprint(out)
}

func TestTheLeastRecentlyUsedCopyGoesFirst(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, filepath.Join(t.TempDir(), "a"), "RX1", clock, "RX1", "RX2")
	b := newHouse(t, filepath.Join(t.TempDir(), "b"), "RX2", clock, "RX1", "RX2")
	for n := 1; n <= 6; n++ {
		study := fmt.Sprintf("1.%d", n)
		if err := a.take(image(study, 1, byte(n))); err != nil {
			t.Fatal(err)
		}
		a.publishAll()
		b.bringFrom(a, study)
		clock.step(time.Minute)
	}
	if err := b.take(image("2.1", 1, 1)); err != nil {
		t.Fatal(err)
	}
	b.publishAll()
	b.space.pass(t.Context())
	used, err := b.SpaceUsed()
	if err != nil || used.Copies.Studies != 6 || used.Originals.Studies != 1 || used.Copies.Stored == 0 || used.Copies.Received != 6*int64(len(image("1.1", 1, 1).Bytes())) {
		t.Fatalf("%+v %v", used, err)
	}
	one := used.Copies.Stored / 6
	atMost := func(copies int64) {
		t.Helper()
		b.Space.Copies = copies * (one + one/8)
		b.space.again = time.Time{}
		b.space.pass(t.Context())
	}

	// Young copies stay, whatever the quota.
	atMost(1)
	if got := b.copiesHere(a); got != "[1.1 1.2 1.3 1.4 1.5 1.6]" {
		t.Fatalf("%s, want all: all are young", got)
	}
	if u, _ := b.SpaceUsed(); u.Over {
		t.Log("said to be over already") // sums may be some seconds old
	}
	clock.step(time.Minute)
	if u, _ := b.SpaceUsed(); !u.Over {
		t.Error("over the quota, and nobody is told")
	}

	clock.step(2 * time.Hour)
	// 1.1 is read, 1.2 pinned, 1.3 is in the queue, 1.4 granted: 1.5 is the oldest that may go.
	if err := b.gives(a.id("1.1"), image("1.1", 1, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Pin("1.2", "teaching"); err != nil {
		t.Fatal(err)
	}
	add(t, b.queue, Task{Study: "1.3", Priority: Background})
	s, err := b.source(a.id("1.4"))
	if err != nil {
		t.Fatal(err)
	}
	b.grants.remember(a.Self, a.id("1.4"), given{id: a.id("1.4"), until: clock.now().Add(grantedFor), manifest: *s.Manifest})
	atMost(5)
	if got := b.copiesHere(a); got != "[1.1 1.2 1.3 1.4 1.6]" {
		t.Fatalf("%s, want all but 1.5", got)
	}
	atMost(1)
	if got := b.copiesHere(a); got != "[1.1 1.2 1.3 1.4]" {
		t.Fatalf("%s, want those that are in use", got)
	}
	a.hear(b)
	for study, want := range map[string]bool{"1.1": true, "1.5": false, "1.6": false} {
		holders, err := a.Index.Holders(study, a.Self)
		if err != nil {
			t.Fatal(err)
		}
		holds := slices.ContainsFunc(holders, func(h index.Holder) bool { return h.Node == b.Self })
		if holds != want {
			t.Errorf("the other node believes that a copy of %s is there: %v, want %v", study, holds, want)
		}
	}
	if got, err := b.Here("1.5"); got || err != nil {
		t.Errorf("1.5 is said to be here: %v %v", got, err)
	}

	// What kept them passes.
	if was, err := b.Unpin("1.2"); !was || err != nil {
		t.Fatal(was, err)
	}
	if was, err := b.Unpin("1.2"); was || err != nil {
		t.Fatal(was, err)
	}
	b.queue.setPlaces(1)
	at, err := b.queue.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end(t, b.queue, at, outcome{})
	clock.step(2 * time.Hour)
	// Somebody asks for 1.3, which is here.
	if err := b.Enqueue("1.3", Prior, "a prior", ""); err != nil {
		t.Fatal(err)
	}
	// 1.4 is nowhere else as it is here.
	if err := b.updateSource(a.id("1.4"), func(_ *badger.Txn, s *source) error { s.Revision = 99; return nil }); err != nil {
		t.Fatal(err)
	}
	atMost(1)
	if got := b.copiesHere(a); got != "[1.3 1.4]" {
		t.Fatalf("%s, want what was asked for and the last of its kind", got)
	}
	if err := b.gives(b.id("2.1"), image("2.1", 1, 1)); err != nil {
		t.Errorf("the original: %v", err)
	}
	// It comes again.
	b.bringFrom(a, "1.5")
	if err := b.gives(a.id("1.5"), image("1.5", 1, 5)); err != nil {
		t.Error(err)
	}
	if got, err := b.Here("1.5"); !got || err != nil {
		t.Errorf("1.5 was brought again: here %v %v", got, err)
	}
}

// What was received here is counted when no more of it comes, long before it is
// swept; and a pin shows at once.
func TestOriginalsAreCountedSoon(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, filepath.Join(t.TempDir(), "a"), "RX1", clock, "RX1")
	a.Space.SweepAfter = time.Hour
	if err := a.take(image("1.1", 1, 1)); err != nil {
		t.Fatal(err)
	}
	a.space.pass(t.Context())
	if u, err := a.SpaceUsed(); err != nil || u.Originals.Stored != 0 || u.Originals.Uncounted != 1 {
		t.Errorf("before: %+v, %v", u, err)
	}
	if _, err := a.Pin("1.1", "teaching"); err != nil {
		t.Fatal(err)
	}
	if u, err := a.SpaceUsed(); err != nil || u.Pinned != 1 {
		t.Errorf("pinned: %+v, %v", u, err)
	}
	clock.step(time.Minute)
	a.space.pass(t.Context())
	if u, err := a.SpaceUsed(); err != nil || u.Originals.Stored == 0 || u.Originals.Uncounted != 0 || u.Unswept != 1 {
		t.Errorf("after: %+v, %v", u, err)
	}
}

// The order outlives a restart, within the hour that a use may be late on disk.
func TestLastUseIsRemembered(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, filepath.Join(t.TempDir(), "a"), "RX1", clock, "RX1", "RX2")
	b := newHouse(t, filepath.Join(t.TempDir(), "b"), "RX2", clock, "RX1", "RX2")
	for n := 1; n <= 3; n++ {
		study := fmt.Sprintf("1.%d", n)
		if err := a.take(image(study, 1, byte(n))); err != nil {
			t.Fatal(err)
		}
		a.publishAll()
		b.bringFrom(a, study)
		clock.step(time.Minute)
	}
	clock.step(2 * time.Hour)
	if err := b.gives(a.id("1.1"), image("1.1", 1, 1)); err != nil {
		t.Fatal(err)
	}
	b.space.pass(t.Context())
	b.Archive = b.open()
	b.Space.KeepFor, b.Space.Copies = 0, 1
	b.space.evict(t.Context(), 1, "test")
	if got := b.copiesHere(a); got != "[1.1 1.3]" {
		t.Errorf("%s are left, want that the least recently used of three is gone", got)
	}
}

// tightRoom is a disk as a test wants it.
type tightRoom struct {
	store, note   error
	free, reserve int64
}

func (r *tightRoom) Store() error         { return r.store }
func (r *tightRoom) Note(bool) error      { return r.note }
func (r *tightRoom) Free() (int64, int64) { return r.free, r.reserve }

func TestAFullDiskRefusesAndIsGivenRoom(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, filepath.Join(t.TempDir(), "a"), "RX1", clock, "RX1", "RX2")
	b := newHouse(t, filepath.Join(t.TempDir(), "b"), "RX2", clock, "RX1", "RX2")
	for n := 1; n <= 3; n++ {
		if err := a.take(image(fmt.Sprintf("1.%d", n), 1, byte(n))); err != nil {
			t.Fatal(err)
		}
		a.publishAll()
		b.bringFrom(a, fmt.Sprintf("1.%d", n))
		clock.step(time.Minute)
	}
	clock.step(2 * time.Hour)
	room := &tightRoom{free: 1 << 30, reserve: 1 << 20, store: fmt.Errorf("%w: test", cas.ErrDiskFull)}
	b.Room = room
	if err := b.take(image("2.1", 1, 1)); !errors.Is(err, cas.ErrDiskFull) {
		t.Errorf("stored on a full disk: %v", err)
	}
	if err := b.carry(a, "1.1", false); !errors.Is(err, cas.ErrDiskFull) {
		t.Errorf("brought to a full disk: %v", err)
	}
	if err := b.gives(a.id("1.1"), image("1.1", 1, 1)); err != nil {
		t.Errorf("reading: %v", err)
	}
	clock.step(2 * time.Hour)
	b.space.pass(t.Context())
	if got := b.copiesHere(a); got != "[1.1 1.2 1.3]" {
		t.Fatalf("%s: copies went although there is room", got)
	}
	// A byte too few, and one copy goes; its bytes are waited for.
	room.free = room.reserve + room.reserve/4 - 1
	b.space.pass(t.Context())
	b.space.pass(t.Context())
	if got := b.copiesHere(a); got != "[1.1 1.3]" {
		t.Fatalf("%s are left, want that one of three is gone, the least recently used", got)
	}
	clock.step(freedWithin)
	b.space.pass(t.Context())
	if got := b.copiesHere(a); got != "[1.1]" {
		t.Fatalf("%s are left: what went did not help", got)
	}
	// With no room for a record nothing at all is written.
	room.note = cas.ErrDiskFull
	clock.step(freedWithin)
	b.space.pass(t.Context())
	if got := b.copiesHere(a); got != "[1.1]" {
		t.Fatalf("%s are left", got)
	}
	room.store, room.note, room.free = nil, nil, 1<<30
	if err := b.take(image("2.1", 1, 1)); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

func TestACopyOfTheOwnTrustIsNeverEvicted(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RX1", clock, "RX1")
	sibling := seedKey("another node of RX1")
	cert, err := index.NewNodeCert(seedKey("trust RX1"), "RX1", sibling, 2)
	if err != nil {
		t.Fatal(err)
	}
	st, err := index.NodeStatement(index.NodeFact{Cert: cert, Addrs: []string{"/ip4/127.0.0.1/tcp/2"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Index.Append(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if a.space.foreign(sourceID{"1.1", index.NodeIDOf(sibling)}) {
		t.Error("a study of another node of the trust counts as a copy of another trust's")
	}
	if !a.space.foreign(sourceID{"1.1", index.NodeIDOf(seedKey("a stranger"))}) {
		t.Error("a stranger's study counts as the trust's own")
	}
}

// Whatever has become of a copy: when it goes, nobody is left believing that it is here.
func TestEvictionTakesBackWhatWasTold(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	if err := b.take(image("1.2.3", 1, 1)); err != nil {
		t.Fatal(err)
	}
	b.publishAll()
	a.bringFrom(b, "1.2.3")
	id := b.id("1.2.3")
	holds := func() bool {
		holders, err := a.Index.Holders("1.2.3", b.Self)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(holders, func(h index.Holder) bool { return h.Node == a.Self })
	}
	if !holds() {
		t.Fatal("nobody was told of the copy")
	}
	// As after damage to its list.
	if err := a.updateSource(id, func(_ *badger.Txn, s *source) error { s.Whole = false; return nil }); err != nil {
		t.Fatal(err)
	}
	clock.step(2 * time.Hour)
	if gone, err := a.space.evictOne(context.Background(), id, "a test"); !gone || err != nil {
		t.Fatal(gone, err)
	}
	if holds() {
		t.Fatal("the region still believes that the copy is here")
	}
}

// What is due while sweeps are held back, or the disk is full, is not looked at
// again and again.
func TestHeldSweepsWait(t *testing.T) {
	h := furnished(t)
	id := h.id(doomedStudy)
	h.space.sweepAt(id, h.clock.now())
	h.clock.step(time.Hour)
	release, err := h.HoldSweeps(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if wait := h.space.pass(t.Context()); wait < heldAgain {
		t.Errorf("held back it looks again in %v", wait)
	}
	select {
	case <-h.space.wake: // of what was stored before
	default:
	}
	release()
	select {
	case <-h.space.wake:
	default:
		t.Error("nobody is told that sweeps may go on")
	}
	h.Room = &tightRoom{note: cas.ErrDiskFull}
	if wait := h.space.pass(t.Context()); wait < heldAgain {
		t.Errorf("with a full disk it looks again in %v", wait)
	}
	h.Room = nil
	if h.space.pass(t.Context()); len(h.space.due(h.clock.now())) != 0 {
		t.Error("what was due stays so")
	}
}
