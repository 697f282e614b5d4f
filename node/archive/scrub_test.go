package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
)

// spoiling is a store that gives some blocks otherwise than they were put, and
// cannot tell.
type spoiling struct {
	cas.Store
	mu    sync.Mutex
	spoil map[cid.Cid]func([]byte) ([]byte, error)
}

func (s *spoiling) Shelf(id cas.ShelfID) cas.Shelf { return spoiltShelf{s.Store.Shelf(id), s} }

type spoiltShelf struct {
	cas.Shelf
	s *spoiling
}

func (s spoiltShelf) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	b, err := s.Shelf.Get(ctx, c)
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	if f := s.s.spoil[c]; f != nil && err == nil {
		return f(b)
	}
	return b, err
}

// Delete takes the damaged place out of use.
func (s spoiltShelf) Delete(ctx context.Context, cids ...cid.Cid) error {
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	for _, c := range cids {
		delete(s.s.spoil, c)
	}
	return s.Shelf.Delete(ctx, cids...)
}

func flipped(b []byte) ([]byte, error) { b[len(b)/2] ^= 4; return b, nil }

// spoilt is a house with three studies of three instances on such a store.
func spoilt(t *testing.T) (*house, *spoiling) {
	t.Helper()
	h := newHouse(t, t.TempDir(), "RX1", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RX1")
	s := &spoiling{Store: h.Blocks, spoil: make(map[cid.Cid]func([]byte) ([]byte, error))}
	h.Blocks, h.Copies = s, s
	for _, study := range []string{"1.1", "1.2", "1.3"} {
		for i := range 3 {
			if err := h.take(image(study, i+1, byte(10*i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.publishAll()
	return h, s
}

// parts are the addresses of a study's manifest, of an instance's manifest and
// of a block of that instance.
func (h *house) parts(study string, sop int) (lists, manifest, block cid.Cid) {
	h.t.Helper()
	id := h.id(study)
	s, err := h.source(id)
	if err != nil {
		h.t.Fatal(err)
	}
	i := image(study, sop, 0)
	rec, err := h.instanceOf(id, i.Series, i.SOP)
	if err != nil {
		h.t.Fatal(err)
	}
	key, err := h.Keys.Get(id.keyName())
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := cas.LoadInstance(context.Background(), h.shelf(id, key), key, rec.Manifest)
	if err != nil {
		h.t.Fatal(err)
	}
	return s.Manifest.CID, rec.Manifest.CID, m.Blocks[len(m.Blocks)-1].CID
}

func (h *house) verifies(o VerifyOptions) VerifyReport {
	h.t.Helper()
	r, err := h.Verify(context.Background(), o)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func harmed(r VerifyReport) (out []string) {
	for _, f := range r.Found {
		out = append(out, f.Study)
	}
	return out
}

func TestVerifyFindsWhateverIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		what   func(lists, manifest, block cid.Cid) cid.Cid
		spoil  func([]byte) ([]byte, error)
		kind   DamageKind
		blocks int
	}{
		"a bit of a block":             {func(_, _, b cid.Cid) cid.Cid { return b }, flipped, DamagedBlock, 1},
		"a bit of an instance's list":  {func(_, m, _ cid.Cid) cid.Cid { return m }, flipped, DamagedBlock, 1},
		"a bit of the study's list":    {func(l, _, _ cid.Cid) cid.Cid { return l }, flipped, DamagedBlock, 1},
		"the store says that it is":    {func(_, _, b cid.Cid) cid.Cid { return b }, func([]byte) ([]byte, error) { return nil, cas.ErrCorrupt }, DamagedBlock, 1},
		"the disk cannot read it":      {func(_, _, b cid.Cid) cid.Cid { return b }, func([]byte) ([]byte, error) { return nil, syscall.EIO }, DamagedBlock, 1},
		"it is gone":                   {func(_, _, b cid.Cid) cid.Cid { return b }, func([]byte) ([]byte, error) { return nil, cas.ErrNotFound }, MissingBlock, 1},
		"a byte too many":              {func(_, _, b cid.Cid) cid.Cid { return b }, func(b []byte) ([]byte, error) { return append(b, 0), nil }, DamagedBlock, 1},
		"nothing is left of its bytes": {func(_, _, b cid.Cid) cid.Cid { return b }, func([]byte) ([]byte, error) { return nil, nil }, DamagedBlock, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h, s := spoilt(t)
			if r := h.verifies(VerifyOptions{}); len(r.Found) != 0 || r.Studies != 3 || r.Instances != 9 || r.CanRepair {
				t.Fatalf("while all is whole: %+v", r)
			}
			at := c.what(h.parts("1.2", 2))
			s.spoil[at] = c.spoil
			for range 2 { // finding it again finds nothing new
				r := h.verifies(VerifyOptions{})
				if !slices.Equal(harmed(r), []string{"1.2"}) || r.Left != 1 || r.Found[0].Blocks != c.blocks || !slices.Contains(r.Found[0].Kinds, c.kind) || r.Found[0].Left == nil {
					t.Fatalf("%+v", r)
				}
			}
			if r := h.verifies(VerifyOptions{Study: "1.1"}); len(r.Found) != 0 || r.Studies != 1 {
				t.Errorf("of another study: %+v", r)
			}
			if _, err := h.Verify(t.Context(), VerifyOptions{Study: "1.9"}); !errors.Is(err, ErrNotFound) {
				t.Errorf("of a study that is not here: %v", err)
			}
			list, n, err := h.Damage(10)
			if err != nil || n != 1 || len(list) != 1 || list[0].Study != "1.2" || list[0].Blocks != c.blocks {
				t.Errorf("%+v %d %v", list, n, err)
			}
			// It survives a restart, and is over when the block is whole again.
			h.Archive = h.open()
			if got := h.DamageCounts(); got.Blocks != c.blocks {
				t.Errorf("after a restart: %+v", got)
			}
			delete(s.spoil, at)
			if err := h.sweepDamage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, n, err := h.Damage(10); n != 0 || err != nil {
				t.Errorf("whole again: %d, %v", n, err)
			}
		})
	}
}

// A store that cannot be read at all is no damage of what is in it.
func TestAStoreThatIsOutOfReachIsNotDamage(t *testing.T) {
	h, s := spoilt(t)
	_, _, block := h.parts("1.2", 2)
	away := errors.New("the bucket does not answer")
	s.spoil[block] = func([]byte) ([]byte, error) { return nil, away }
	if r, err := h.Verify(t.Context(), VerifyOptions{}); !errors.Is(err, away) || len(r.Found) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, n, err := h.Damage(1); n != 0 || err != nil {
		t.Errorf("%d noted, %v", n, err)
	}
}

func TestNoWrongByteIsServed(t *testing.T) {
	h, s := spoilt(t)
	_, _, block := h.parts("1.2", 2)
	s.spoil[block] = flipped
	var gone *Unavailable
	if err := h.gives(h.id("1.2"), image("1.2", 2, 10)); !errors.As(err, &gone) {
		t.Errorf("reading it: %v", err)
	}
	if _, n, _ := h.Damage(1); n != 1 {
		t.Error("what a reader met is not noted")
	}
	for _, i := range []dicomtest.Instance{image("1.2", 1, 0), image("1.2", 3, 20), image("1.1", 2, 10)} {
		if err := h.gives(h.id(i.Study), i); err != nil {
			t.Errorf("%s: %v", i.SOP, err)
		}
	}
	// Nor to a peer that was granted the study.
	id := h.id("1.2")
	src, err := h.source(id)
	if err != nil {
		t.Fatal(err)
	}
	peer := index.NodeID{9}
	h.grants.remember(peer, id, given{id: id, until: h.Now().Add(time.Minute), manifest: *src.Manifest})
	if !h.GrantedBlock(peer, block) {
		t.Fatal("the block is not granted")
	}
	if data, err := h.Get(t.Context(), block); !errors.Is(err, cas.ErrNotFound) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if has, err := h.Has(t.Context(), block); has || err != nil {
		t.Errorf("has it: %v, %v", has, err)
	}
	_, manifest, other := h.parts("1.2", 3)
	for _, c := range []cid.Cid{manifest, other} {
		if !h.GrantedBlock(peer, c) {
			t.Fatal("a whole block is not granted")
		}
		if data, err := h.Get(t.Context(), c); err != nil || (cas.Block{CID: c, Data: data}).Verify() != nil {
			t.Errorf("a whole block: %v", err)
		}
	}
}

// A study of which a list is damaged is still granted block by block.
func TestWhatIsWholeOfADamagedStudyIsGranted(t *testing.T) {
	for _, what := range []string{"study", "instance"} {
		h, s := spoilt(t)
		id := h.id("1.2")
		src, err := h.source(id)
		if err != nil {
			t.Fatal(err)
		}
		_, all, err := h.blocksOf(t.Context(), id, *src.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		lists, manifest, block := h.parts("1.2", 2)
		_, _, other := h.parts("1.2", 3)
		at := map[string]cid.Cid{"study": lists, "instance": manifest}[what]
		s.spoil[at] = flipped
		peer := index.NodeID{9}
		h.grants.remember(peer, id, given{id: id, until: h.Now().Add(time.Minute), manifest: *src.Manifest})
		if !h.GrantedBlock(peer, other) {
			t.Errorf("%s: a whole block is not granted", what)
		}
		// When it is whole again everything is.
		delete(s.spoil, at)
		if err := h.sweepDamage(t.Context()); err != nil {
			t.Fatal(err)
		}
		for c := range all {
			if !h.GrantedBlock(peer, c) {
				t.Fatalf("%s: a block is not granted after the repair", what)
			}
		}
		_ = block
	}
}

// The store does not tell; what is sent again replaces it all the same.
func TestAResendReplacesWhatTheStoreTakesForWhole(t *testing.T) {
	h, s := spoilt(t)
	lists, manifest, block := h.parts("1.2", 2)
	for _, c := range []cid.Cid{manifest, block} {
		s.spoil[c] = flipped
	}
	if r := h.verifies(VerifyOptions{}); r.Left != 1 {
		t.Fatalf("%+v", r)
	}
	if err := h.take(image("1.2", 2, 10)); err != nil {
		t.Fatal(err)
	}
	if r := h.verifies(VerifyOptions{}); len(r.Found) != 0 {
		t.Errorf("after the re-send: %+v", r)
	}
	if err := h.gives(h.id("1.2"), image("1.2", 2, 10)); err != nil {
		t.Error(err)
	}
	if _, n, _ := h.Damage(1); n != 0 {
		t.Errorf("%d studies are still noted", n)
	}
	// So do the lists of a study that is published anew.
	s.spoil[lists] = flipped
	if r := h.verifies(VerifyOptions{}); r.Left != 1 {
		t.Fatalf("%+v", r)
	}
	if err := h.take(image("1.2", 4, 40)); err != nil {
		t.Fatal(err)
	}
	h.publishAll()
	if err := h.sweepDamage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := h.verifies(VerifyOptions{}); len(r.Found) != 0 {
		t.Errorf("after the new revision: %+v", r)
	}
}

// A copy that is evicted, and a study whose revision was replaced, take their
// records along.
func TestRecordsOfWhatIsGoneGo(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	from := newHouse(t, t.TempDir(), "RX2", clock, "RX1", "RX2")
	h := newHouse(t, t.TempDir(), "RX1", clock, "RX1", "RX2")
	for i := range 3 {
		if err := from.take(image("1.1", i+1, byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	from.publishAll()
	h.bringFrom(from, "1.1")
	id := from.id("1.1")
	key, err := h.Keys.Get(id.keyName())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Copies.Drop(t.Context(), key.Shelf()); err != nil {
		t.Fatal(err)
	}
	if r := h.verifies(VerifyOptions{}); !slices.Equal(harmed(r), []string{"1.1"}) || r.Found[0].Instances != 3 {
		t.Fatalf("%+v", r)
	}
	if here, err := h.Here("1.1"); err != nil || !here {
		t.Fatal(here, err) // it is not fetched as if it had never been here
	}
	found, _, err := h.Studies(context.Background(), index.Query{StudyUIDs: []string{"1.1"}})
	if err != nil || len(found) != 1 || found[0].Here {
		t.Errorf("a damaged copy is shown as here: %+v, %v", found, err)
	}
	l := h.lock("1.1")
	l.Lock()
	_, err = h.uncatalogue(id)
	l.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.sweepDamage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, n, err := h.Damage(1); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// counting is a limiter that counts what it is asked for.
type counting struct {
	mu    sync.Mutex
	bytes int64
	most  int
	then  func(total int64) error
}

func (c *counting) WaitN(_ context.Context, n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += int64(n)
	c.most = max(c.most, n)
	if c.then != nil {
		return c.then(c.bytes)
	}
	return nil
}

func TestEveryByteThatIsReadIsPaced(t *testing.T) {
	h, _ := spoilt(t)
	var needed int64
	for _, study := range []string{"1.1", "1.2", "1.3"} {
		src, err := h.source(h.id(study))
		if err != nil {
			t.Fatal(err)
		}
		shelf, blocks, err := h.blocksOf(t.Context(), h.id(study), *src.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		for c := range blocks {
			data, err := shelf.Get(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			needed += int64(len(data))
		}
	}
	var c counting
	var last VerifyProgress
	r := h.verifies(VerifyOptions{limit: &c, Progress: func(p VerifyProgress) { last = p }})
	// Blocks that instances share are read for each of them.
	if c.bytes != r.Bytes || c.bytes < needed || c.most > cas.MaxBlock {
		t.Errorf("paced %d bytes, at most %d at once; read %d, there are %d", c.bytes, c.most, r.Bytes, needed)
	}
	if last.StudiesDone != 3 || last.Studies != 3 || last.BytesDone != last.Bytes || last.Bytes == 0 {
		t.Errorf("progress ends with %+v", last)
	}
	if got := h.DamageCounts().BytesVerified; got != uint64(r.Bytes) {
		t.Errorf("metrics count %d of %d bytes", got, r.Bytes)
	}
}

func TestAVerificationIsBrokenOff(t *testing.T) {
	h, _ := spoilt(t)
	ctx, cancel := context.WithCancel(t.Context())
	c := counting{then: func(total int64) error {
		if total > 1000 {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}}
	if _, err := h.Verify(ctx, VerifyOptions{limit: &c}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, n, err := h.Damage(1); n != 0 || err != nil {
		t.Errorf("%d noted, %v", n, err)
	}
	h.damage.verifying.Lock()
	if _, err := h.Verify(t.Context(), VerifyOptions{}); !errors.Is(err, ErrVerifying) {
		t.Errorf("a second one at the same time: %v", err)
	}
	h.damage.verifying.Unlock()
	if r := h.verifies(VerifyOptions{}); r.Studies != 3 {
		t.Errorf("the next one: %+v", r)
	}
}

// The background round goes on where it was broken off, ends, rests, and
// begins anew when it is due.
func TestTheScrubGoesOnAfterARestart(t *testing.T) {
	h, s := spoilt(t)
	read := make(map[string]int) // blocks read, by round of the test
	round := "first"
	for _, study := range []string{"1.1", "1.2", "1.3"} {
		for i := range 3 {
			_, manifest, _ := h.parts(study, i+1)
			s.spoil[manifest] = func(b []byte) ([]byte, error) {
				read[round+" "+study]++
				return b, nil
			}
		}
	}
	h.ScrubEvery = 24 * time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	h.scrubLimit = &counting{then: func(int64) error {
		if read["first 1.2"] > 0 { // in the middle of the second study
			cancel()
			return ctx.Err()
		}
		return nil
	}}
	if _, err := h.scrubRound(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	began, err := h.scrubbed()
	if err != nil || began.Began == 0 || began.Done != 0 {
		t.Fatalf("%+v, %v", began, err)
	}
	h.Archive = h.open()
	h.Blocks, h.Copies, h.ScrubEvery = s, s, 24*time.Hour
	round = "second"
	wait, err := h.scrubRound(t.Context())
	if err != nil || wait != 24*time.Hour {
		t.Fatalf("%v, %v", wait, err)
	}
	if read["first 1.1"] != 3 || read["second 1.1"] != 0 || read["second 1.2"] != 3 || read["second 1.3"] != 3 {
		t.Errorf("read: %v", read)
	}
	if at := h.DamageCounts().LastVerified; !at.Equal(h.Now()) {
		t.Errorf("it ended at %v", at)
	}
	round = "rest"
	h.clock.step(23 * time.Hour)
	if wait, err := h.scrubRound(t.Context()); err != nil || wait != time.Hour || read["rest 1.1"] != 0 {
		t.Errorf("before it is due: %v, %v, %v", wait, err, read)
	}
	h.clock.step(time.Hour)
	round = "third"
	if _, err := h.scrubRound(t.Context()); err != nil || read["third 1.1"] != 3 || read["third 1.3"] != 3 {
		t.Errorf("when it is due: %v, %v", err, read)
	}
}

// The study at which it was broken off is erased meanwhile: the round begins
// anew rather than leaving anything out.
func TestAScrubWhosePlaceIsGone(t *testing.T) {
	h, _ := spoilt(t)
	if err := h.saveScrubbed(position{After: make([]byte, 32), Began: h.Now().UnixMilli()}); err != nil {
		t.Fatal(err)
	}
	h.ScrubEvery = time.Hour
	var c counting
	h.scrubLimit = &c
	if _, err := h.scrubRound(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := h.verifies(VerifyOptions{}); c.bytes != r.Bytes {
		t.Errorf("read %d bytes of %d", c.bytes, r.Bytes)
	}
}

// Studies grow, are replaced and swept while everything is verified.
func TestVerifyBesideWriters(t *testing.T) {
	h, _ := spoilt(t)
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				study := fmt.Sprintf("1.%d", w+1)
				if err := h.take(image(study, i+4, byte(i))); err != nil {
					t.Error(err)
				}
				if _, err := h.publish(ctx, study); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				if i%5 == 0 {
					if _, err := h.space.sweep(ctx, h.id(study)); err != nil && !errors.Is(err, errBusy) && ctx.Err() == nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 40 {
		if r := h.verifies(VerifyOptions{}); len(r.Found) != 0 {
			t.Errorf("%+v", r.Found)
		}
	}
	cancel()
	writers.Wait()
	if _, n, err := h.Damage(1); n != 0 || err != nil {
		t.Errorf("%d noted, %v", n, err)
	}
}
