package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
)

// restoredHouse is a house that was restored without a study of three instances, and
// maybe more, as it knows of it, and what a holder would give of that.
func restoredHouse(t *testing.T, more ...dicomtest.Instance) (h *house, told index.Study, key cas.Key, blocks []cas.Block) {
	ctx := context.Background()
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	old := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	for sop := range 3 {
		if err := old.take(image(doomedStudy, sop, byte(sop))); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range more {
		if err := old.take(i); err != nil {
			t.Fatal(err)
		}
	}
	old.publishAll()
	id := old.id(doomedStudy)
	key, err := old.Keys.Get(id.keyName())
	if err != nil {
		t.Fatal(err)
	}
	for c := range old.onShelf(id) {
		data, err := old.shelf(id, key).Get(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, cas.Block{CID: c, Data: data})
	}
	h = newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	h.hear(old)
	if err := h.Index.NewEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	if r, err := h.Restored(ctx, RestoredOptions{Copies: true}); err != nil || r.Lost != 1 {
		t.Fatal(r, err)
	}
	told, _ = h.statementOf(id)
	return h, told, key, blocks
}

// comesBack is a transfer of the study whose blocks have come.
func (h *house) comesBack(told index.Study, key cas.Key, blocks []cas.Block) *transfer {
	h.t.Helper()
	id := h.id(told.UID)
	done, err := h.writing(context.Background(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	defer done()
	if err := h.returns(id); err != nil {
		h.t.Fatal(err)
	}
	if err := h.Keys.Add(id.keyName(), key); err != nil {
		h.t.Fatal(err)
	}
	ref, err := parseRef(told.Manifest)
	if err == nil {
		err = h.shelf(id, key).Put(context.Background(), blocks...)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	t := &transfer{a: h.Archive, ctx: context.Background(), id: id, st: told, ref: ref, key: key, shared: make(map[cid.Cid]bool)}
	for _, b := range blocks {
		t.shared[b.CID] = true
	}
	return t
}

func (t *transfer) part(n int) error {
	m, err := t.studyManifest()
	if err != nil {
		return err
	}
	series, err := t.seriesManifests(m)
	if err != nil {
		return err
	}
	for _, e := range series[0].Instances[:n] {
		b := batch{list: []wanted{{series: series[0].UID, entry: e}}}
		if err := t.ask(&b); err != nil {
			return err
		}
		if _, err := t.land(b); err != nil {
			return err
		}
	}
	return nil
}

// What comes back is own as it was told, however often the node stops in between:
// what has come so far is never taken, or told, for all there is.
func TestALostStudyIsOwnAgain(t *testing.T) {
	ctx := context.Background()
	h, told, key, blocks := restoredHouse(t)
	id := h.id(doomedStudy)
	here := func(want bool) {
		t.Helper()
		s, err := h.source(id)
		if err != nil && !errors.Is(err, errNoRecord) {
			t.Fatal(err)
		}
		if got, err := h.Here(doomedStudy); err != nil || got != want || s.lost() == want {
			t.Fatalf("here %v, lost %v: %v", got, s.lost(), err)
		}
		if st, _ := h.statementOf(id); st.Revision != told.Revision || st.Instances != 3 || !bytes.Equal(st.Manifest, told.Manifest) {
			t.Fatalf("it was told anew: %+v", st)
		}
	}
	here(false)
	if err := h.comesBack(told, key, blocks).part(2); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h.Archive = h.open()
		if n, err := h.RecoverLost(ctx); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		if r, err := h.Restored(ctx, RestoredOptions{Copies: true}); err != nil || r.Lost != 1 || r.Renewed != 0 {
			t.Fatal(r, err)
		}
		h.publishAll()
		h.settle()
		here(false)
	}
	if own, _, err := h.Counts(); own != 0 || err != nil {
		t.Fatal(own, err)
	}
	if err := h.comesBack(told, key, blocks).run(); err != nil {
		t.Fatal(err)
	}
	here(true)
	h.settle()
	for sop := range 3 {
		if err := h.gives(id, image(doomedStudy, sop, byte(sop))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.grant(seedNode("RBB"), "RBB", id, mesh.StudyRequest{Study: id.Study, Origin: id.Origin, Purpose: string(access.DirectCare)}); err != nil {
		t.Fatal(err)
	}
	if r := h.verifies(VerifyOptions{}); r.Left != 0 {
		t.Fatalf("%+v", r)
	}
	if err := h.exact(id); err != nil {
		t.Fatal(err)
	}
	// And grows like any other.
	if err := h.take(image(doomedStudy, 3, 3)); err != nil {
		t.Fatal(err)
	}
	h.publishAll()
	if st, _ := h.statementOf(id); st.Instances != 4 || st.Revision <= told.Revision || st.Mixed || st.Name != told.Name {
		t.Fatalf("%+v", st)
	}
}

// What is received while it comes back stays, and is told with the rest.
func TestWhatIsReceivedWhileALostStudyComesBack(t *testing.T) {
	h, told, key, blocks := restoredHouse(t)
	id := h.id(doomedStudy)
	comes := h.comesBack(told, key, blocks)
	if err := comes.part(1); err != nil {
		t.Fatal(err)
	}
	// The same again; a new one; and others under UIDs of what comes back.
	other := image(otherStudy, 1, 9)
	other.SOP = image(doomedStudy, 1, 0).SOP
	for _, i := range []dicomtest.Instance{image(doomedStudy, 0, 0), image(doomedStudy, 7, 7), other} {
		if err := h.take(i); err != nil {
			t.Fatal(err)
		}
	}
	h.publishAll()
	if err := comes.run(); err != nil {
		t.Fatal(err)
	}
	h.publishAll()
	for _, i := range []dicomtest.Instance{image(doomedStudy, 0, 0), image(doomedStudy, 2, 2), image(doomedStudy, 7, 7)} {
		if err := h.gives(id, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.gives(h.id(otherStudy), other); err != nil {
		t.Fatal(err)
	}
	if st, _ := h.statementOf(id); st.Instances != 3 || st.Revision <= told.Revision || st.Mixed {
		t.Fatalf("%+v", st)
	}
	h.settle()
	if r := h.verifies(VerifyOptions{}); r.Left != 0 {
		t.Fatalf("%+v", r)
	}
}

// A study whose instances name two patients is told of as such when it has come back,
// whichever of them were lost and which were received since.
func TestALostStudyOfTwoPeopleIsSaidToBe(t *testing.T) {
	grace := image(doomedStudy, 7, 7)
	grace.PatientID, grace.Name = "Q", "Hopper^Grace"
	check := func(h *house, want bool) {
		t.Helper()
		h.publishAll()
		st, _ := h.statementOf(h.id(doomedStudy))
		if st.Instances != 5 || st.Mixed != want {
			t.Errorf("%d instances, of two people: %v, want %v", st.Instances, st.Mixed, want)
		}
		caveats, err := h.Caveats(doomedStudy)
		if err != nil || strings.Contains(strings.Join(caveats, ". "), "name several patients") != want {
			t.Errorf("a reader is told %q, %v", caveats, err)
		}
	}
	// The lost ones are of two, or of one; the one after them is of the first.
	for _, i := range []dicomtest.Instance{grace, image(doomedStudy, 7, 7)} {
		h, told, key, blocks := restoredHouse(t, i)
		if err := h.comesBack(told, key, blocks).run(); err != nil {
			t.Fatal(err)
		}
		if err := h.take(image(doomedStudy, 8, 8)); err != nil {
			t.Fatal(err)
		}
		check(h, i.Name == grace.Name)
	}
	// Those that were lost are of one, and what was received meanwhile of another, or not.
	for _, i := range []dicomtest.Instance{grace, image(doomedStudy, 7, 7)} {
		h, told, key, blocks := restoredHouse(t, image(doomedStudy, 8, 8))
		comes := h.comesBack(told, key, blocks)
		if err := h.take(i); err != nil {
			t.Fatal(err)
		}
		if err := comes.run(); err != nil {
			t.Fatal(err)
		}
		check(h, i.Name == grace.Name)
	}
}

// The UID of an instance that was received here since as one of another study stays
// that study's, also if the bytes are the same: what comes back is told without it.
func TestALostStudyTakesNoUIDFromAnother(t *testing.T) {
	h, told, key, blocks := restoredHouse(t)
	i := image(doomedStudy, 1, 1)
	sum := sha256.Sum256(i.Bytes())
	sopKey := append([]byte{tableSOP}, i.SOP...)
	if err := h.update(func(txn *badger.Txn) error {
		return putRecord(txn, sopKey, sop{Study: otherStudy, Series: otherStudy + ".1", Origin: h.Self, SHA256: sum[:]})
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.comesBack(told, key, blocks).run(); err != nil {
		t.Fatal(err)
	}
	h.publishAll()
	if st, _ := h.statementOf(h.id(doomedStudy)); st.Instances != 2 || st.Revision <= told.Revision {
		t.Errorf("%d instances, revision %d after %d", st.Instances, st.Revision, told.Revision)
	}
	if err := h.db.View(func(txn *badger.Txn) error {
		first, err := getRecord[sop](txn, sopKey)
		if err == nil && first.Study != otherStudy {
			t.Errorf("the UID is that of an instance of %s", first.Study)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// A copy has not kept the UID of what comes back: a trust's own goes before it.
func TestALostStudyGoesBeforeACopy(t *testing.T) {
	h, told, key, blocks := restoredHouse(t)
	b := newHouse(t, t.TempDir(), "RBB", h.clock, "RAA", "RBB")
	taken := image(otherStudy, 1, 9)
	taken.SOP = image(doomedStudy, 1, 1).SOP
	if err := b.take(taken); err != nil {
		t.Fatal(err)
	}
	b.publishAll()
	h.bringFrom(b, otherStudy)
	if err := h.comesBack(told, key, blocks).run(); err != nil {
		t.Fatal(err)
	}
	if err := h.gives(h.id(doomedStudy), image(doomedStudy, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if kept, err := h.Conflicts(10); err != nil || len(kept) != 1 || kept[0].Origin != b.Self {
		t.Fatal(kept, err)
	}
}

// It is wanted as soon as somebody tells of a copy, and not before.
func TestALostStudyIsAskedForWhereItIs(t *testing.T) {
	h, told, _, _ := restoredHouse(t)
	if err := h.Refresh(doomedStudy); err != nil {
		t.Fatal(err)
	}
	if q := h.Tasks(); len(q) != 0 {
		t.Fatalf("%+v", q)
	}
	b := newHouse(t, t.TempDir(), "RBB", h.clock, "RAA", "RBB")
	st, err := index.HoldingStatement(index.Holding{Study: doomedStudy, Origin: h.Self, Revision: told.Revision, Instances: 3})
	if err == nil {
		_, err = b.Index.Append(context.Background(), st)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.hear(b)
	if err := h.Refresh(doomedStudy); err != nil {
		t.Fatal(err)
	}
	if q := h.Tasks(); len(q) != 1 || q[0].Study != doomedStudy || q[0].Priority != Background {
		t.Fatalf("%+v", q)
	}
	if got, _, err := h.Studies(t.Context(), index.Query{}); err != nil || len(got) != 1 || !got[0].Lost || !got[0].Coming || len(got[0].Copies) != 1 {
		t.Fatalf("%+v %v", got, err)
	}
}

// A copy that only a node has which is let in no more does not come back: that is said, so that the study is sent again.
func TestACopyAtANodeThatIsShutOutIsNotCountedOn(t *testing.T) {
	h, told, _, _ := restoredHouse(t)
	holder := newHouse(t, t.TempDir(), "RBB", h.clock, "RAA", "RBB")
	s, err := index.HoldingStatement(index.Holding{Study: doomedStudy, Origin: h.Self, Revision: told.Revision, Instances: told.Instances})
	if err == nil {
		_, err = holder.Index.Append(t.Context(), s)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.hear(holder)
	says := func(want string, alone int) {
		t.Helper()
		if _, all, n, err := h.LostStudies(10); all != 1 || n != alone || err != nil {
			t.Errorf("%d lost, %d of them nowhere, %v; want %d", all, n, err, alone)
		}
		caveats, err := h.Caveats(doomedStudy)
		if err != nil || len(caveats) != 1 || !strings.Contains(caveats[0], want) {
			t.Errorf("%q, %v", caveats, err)
		}
	}
	says("Copies are said to be at RBB", 0)
	region, _ := votesFor("RAA", "RBB")
	v, err := index.Revoke(seedKey("trust RBB"), region, "RBB", holder.Self)
	if err == nil {
		s, err = index.RevocationStatement(v)
	}
	if err == nil {
		_, err = h.Index.Append(t.Context(), s)
	}
	if err != nil {
		t.Fatal(err)
	}
	says("Nobody is known to hold a copy", 1)
}

// A note of before said when, and not of how much: what is lost wholly is counted by it as before.
func TestNotesOfTheLostOfBefore(t *testing.T) {
	h, _, _, _ := restoredHouse(t)
	if err := h.update(func(txn *badger.Txn) error {
		return putRecord(txn, h.id(doomedStudy).key(tableLost), time.Unix(1_700_000_000, 0).UnixMilli())
	}); err != nil {
		t.Fatal(err)
	}
	if _, all, alone, err := h.LostStudies(10); all != 1 || alone != 1 || err != nil {
		t.Errorf("%d lost, %d alone, %v", all, alone, err)
	}
	if err := h.take(image(doomedStudy, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, all, _, err := h.LostStudies(10); all != 0 || err != nil {
		t.Errorf("%d lost, %v", all, err)
	}
	if w, err := h.Caveats(doomedStudy); err != nil {
		t.Errorf("%q, %v", w, err)
	}
}

// Where counting what is lost takes long, whoever asks often is told of the last
// count; a verification counts itself.
func TestALongCountOfTheLostIsKept(t *testing.T) {
	h, _, _, _ := restoredHouse(t)
	lost := func() int {
		t.Helper()
		_, all, _, err := h.LostStudies(10)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if n := lost(); n != 1 {
		t.Fatalf("%d lost", n)
	}
	// Each look at the clock is a second later than the one before.
	h.Now = func() time.Time { h.clock.step(time.Second); return h.clock.now() }
	if n := lost(); n != 1 {
		t.Fatalf("%d lost", n)
	}
	for sop := range 3 {
		if err := h.take(image(doomedStudy, sop, byte(sop))); err != nil {
			t.Fatal(err)
		}
	}
	if n := lost(); n != 1 {
		t.Errorf("a count of a second is made again at once: %d", n)
	}
	if r, err := h.Verify(t.Context(), VerifyOptions{}); err != nil || r.Lost != 0 {
		t.Errorf("verified: %+v, %v", r, err)
	}
	h.clock.step(20 * time.Second)
	if n := lost(); n != 0 {
		t.Errorf("%d lost after a count's twentyfold time", n)
	}
}
