package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
)

var errPower = errors.New("the power is gone")

// named says where in the catalogue and the index a text is, in any version of any row.
func (h *house) named(text string) (where []byte) {
	h.t.Helper()
	if err := h.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{AllVersions: true, PrefetchValues: true, PrefetchSize: 100})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			if bytes.Contains(append(append(it.Item().KeyCopy(nil), 0xff), v...), []byte(text)) {
				where = append(where, it.Item().Key()[0])
			}
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return where
}

// erases erases a study, all in this goroutine.
func (h *house) erases(study string) {
	h.t.Helper()
	if _, err := h.erase.condemn(sourceID{Study: study}, "a test"); err != nil {
		h.t.Fatal(err)
	}
	h.erase.pass(context.Background())
	if e, err := h.Erased(study); err != nil || !e.Done || e.Unclean {
		h.t.Fatalf("%+v, %v", e, err)
	}
}

// listens lets the archive hear of retractions as the node does.
func (h *house) listens() {
	h.t.Cleanup(h.Index.Watch(func(f index.Fact) {
		if f.Kind == index.KindRetraction {
			h.Retracted(f.Author, f.Subject)
		}
	}))
}

const (
	doomedStudy = "1.2.5113"
	otherStudy  = "1.2.6224"
)

// furnished is a house with a study to be erased and another.
func furnished(t *testing.T) *house {
	h := newHouse(t, t.TempDir(), "RAA", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RAA")
	for i := range 3 {
		for _, study := range []string{doomedStudy, otherStudy} {
			if err := h.take(image(study, i+1, byte(i))); err != nil {
				t.Fatal(err)
			}
		}
		h.publishAll()
	}
	if _, err := h.Pin(doomedStudy, "for a test"); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) grantedTo(study string) error {
	_, err := h.grant(seedNode("RAA"), "RAA", h.id(study), mesh.StudyRequest{Study: study, Origin: h.Self, Purpose: string(access.DirectCare)})
	return err
}

func seedNode(t index.TrustID) index.NodeID { return index.NodeIDOf(seedKey("node " + string(t))) }

// An erasure that is cut off after any step is finished by the next start, and until then nobody gets at the study.
func TestACutOffErasureIsFinished(t *testing.T) {
	for _, step := range []string{"keys", "shelves", "catalogue", "rows", "index", "purge", "record", "clean"} {
		t.Run(step, func(t *testing.T) {
			h := furnished(t)
			key, err := h.Keys.Get(h.id(doomedStudy).keyName())
			if err != nil {
				t.Fatal(err)
			}
			if len(h.named(doomedStudy)) == 0 || len(h.named("1.2.5113.")) == 0 {
				t.Fatal("the study is not found before it is erased: this test proves nothing")
			}
			if _, err := h.erase.condemn(sourceID{Study: doomedStudy}, "a test"); err != nil {
				t.Fatal(err)
			}
			h.eraseFault = func(s string) error {
				if s == step {
					return errPower
				}
				return nil
			}
			if err := h.erase.all(context.Background()); !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			if e, err := h.Erased(doomedStudy); err != nil || e.Done || !strings.Contains(e.Problem, errPower.Error()) {
				t.Fatalf("%+v, %v", e, err)
			}
			if _, err := h.erase.condemn(sourceID{Study: doomedStudy}, "a test"); !errors.Is(err, ErrErasing) {
				t.Fatal(err)
			}
			for range 2 { // this run, and the next start
				if _, err := h.versions(doomedStudy); !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
				if found, _, err := h.Studies(context.Background(), index.Query{}); err != nil || len(found) != 1 || found[0].UID != otherStudy {
					t.Fatalf("%d studies are found while one of two is erased, %v", len(found), err)
				}
				if h.grantedTo(doomedStudy) == nil {
					t.Fatal("it is granted while it is erased")
				}
				if step == "clean" {
					break // only its record's traces are left
				}
				if err := h.take(image(doomedStudy, 9, 9)); !errors.As(err, new(*Unavailable)) {
					t.Fatalf("it is stored while it is erased: %v", err)
				}
				if again, err := h.publish(context.Background(), doomedStudy); err != nil || !again.IsZero() {
					t.Fatal(again, err)
				}
				h.Archive = h.open()
			}
			h.Archive = h.open()
			h.erase.pass(context.Background())
			h.check(key)
			// It is a study like any other when it comes again.
			if err := h.take(image(doomedStudy, 1, 0)); err != nil {
				t.Fatal(err)
			}
			h.publishAll()
			if err := h.gives(h.id(doomedStudy), image(doomedStudy, 1, 0)); err != nil {
				t.Fatal(err)
			}
			if again, err := h.Keys.Get(h.id(doomedStudy).keyName()); err != nil || again == key {
				t.Fatalf("the old key is used again, %v", err)
			}
			if err := h.grantedTo(doomedStudy); err != nil {
				t.Fatal(err)
			}
			h.erases(doomedStudy)
			h.check(key)
		})
	}
}

// check is what holds once the study is erased.
func (h *house) check(key cas.Key) {
	h.t.Helper()
	if where := h.named(doomedStudy); len(where) > 0 {
		h.t.Fatalf("it is named in rows of the tables %x", where)
	}
	if _, err := h.Keys.Get(h.id(doomedStudy).keyName()); !errors.Is(err, cas.ErrNoKey) {
		h.t.Fatal(err)
	}
	if n, _, err := h.Blocks.Shelf(key.Shelf()).Size(context.Background()); n != 0 || err != nil {
		h.t.Fatalf("%d blocks are left, %v", n, err)
	}
	if _, err := h.versions(doomedStudy); !errors.Is(err, ErrNotFound) {
		h.t.Fatal(err)
	}
	if h.grantedTo(doomedStudy) == nil {
		h.t.Fatal("it is granted")
	}
	if e, err := h.Erased(doomedStudy); err != nil || !e.Done || e.Unclean || e.Reason != "a test" {
		h.t.Fatalf("%+v, %v", e, err)
	}
	for i := range 3 {
		if err := h.gives(h.id(otherStudy), image(otherStudy, i+1, byte(i))); err != nil {
			h.t.Fatalf("the other study: %v", err)
		}
	}
	if err := h.grantedTo(otherStudy); err != nil {
		h.t.Fatal(err)
	}
	if n, _, err := h.Index.Count(context.Background(), index.Query{}); n != 1 || err != nil {
		h.t.Fatalf("%d studies are found, %v", n, err)
	}
	h.settle() // and nothing that happens later names it again
	if where := h.named(doomedStudy); len(where) > 0 {
		h.t.Fatalf("it is named again in rows of the tables %x", where)
	}
}

// A study that begins to be erased while a search is answered is left out of the answer.
func TestAStudyErasedDuringASearchIsLeftOut(t *testing.T) {
	h := furnished(t)
	ans, err := h.Index.Studies(context.Background(), index.Query{StudyUIDs: []string{doomedStudy}})
	if err != nil || len(ans.Studies) != 1 {
		t.Fatal(len(ans.Studies), err)
	}
	if _, err := h.erase.condemn(sourceID{Study: doomedStudy}, "a test"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.found(ans.Studies[0]); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if found, _, err := h.Studies(context.Background(), index.Query{}); err != nil || len(found) != 1 || found[0].UID != otherStudy {
		t.Fatalf("%d studies are found, %v", len(found), err)
	}
	if listed, err := h.List(t.Context(), Ref{Study: doomedStudy}, true); !errors.Is(err, ErrNotFound) {
		t.Fatal(len(listed), err)
	}
}

// While one version of a study is being erased the study is not shown as one that is here, nothing of that version is given any more, and
// the other version stays.
func TestAStudyIsNotAllHereWhileOneVersionIsErased(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	trusts := []index.TrustID{"RAA", "RBB", "RCC"}
	h := newHouse(t, t.TempDir(), "RAA", clock, trusts...)
	b := newHouse(t, t.TempDir(), "RBB", clock, trusts...)
	c := newHouse(t, t.TempDir(), "RCC", clock, trusts...)
	if err := errors.Join(b.take(image(doomedStudy, 1, 1)), c.take(image(doomedStudy, 2, 2)), c.take(image(otherStudy, 1, 1))); err != nil {
		t.Fatal(err)
	}
	b.publishAll()
	c.publishAll()
	h.bringFrom(b, doomedStudy)
	h.bringFrom(c, doomedStudy)
	h.bringFrom(c, otherStudy)
	shown := func(study string, want bool) {
		t.Helper()
		found, _, err := h.Studies(t.Context(), index.Query{StudyUIDs: []string{study}})
		if err != nil || len(found) != 1 || found[0].Here != want || found[0].Part == want {
			t.Errorf("here %v is wanted: %+v, %v", want, found, err)
		}
		if here, err := h.Here(study); err != nil || here != want {
			t.Errorf("here %v, want %v, %v", here, want, err)
		}
	}
	whole := func() (of []index.NodeID) {
		t.Helper()
		versions, err := h.versions(doomedStudy)
		if err != nil || len(versions) != 2 {
			t.Fatal(len(versions), err)
		}
		for _, v := range versions {
			if v.whole() {
				of = append(of, v.id.Origin)
			}
		}
		return of
	}
	shown(doomedStudy, true)
	if of := whole(); len(of) != 2 {
		t.Errorf("%d versions are whole", len(of))
	}
	if _, err := h.erase.condemn(c.id(doomedStudy), "a test"); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"while it is erased", "when it is gone"} {
		shown(doomedStudy, false)
		if of := whole(); len(of) != 1 || of[0] != b.Self {
			t.Errorf("%s the versions of %v are whole", when, of)
		}
		shown(otherStudy, true)
		h.erase.pass(context.Background())
	}
	if _, err := h.source(c.id(doomedStudy)); !errors.Is(err, errNoRecord) {
		t.Fatalf("the copy is still there, %v", err)
	}
	h.bringFrom(c, doomedStudy)
	shown(doomedStudy, true)
}

// While rows of one study are purged nothing is missing of another whose keys continue theirs: neither its pin, nor that its SOP Instance
// UIDs are taken.
func TestNothingOfOthersIsMissingDuringAPurge(t *testing.T) {
	const gone, stays = "1.2.3.1", "1.2.3.10"
	h := newHouse(t, t.TempDir(), "RAA", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RAA")
	img := image(stays, 1, 1)
	if err := h.take(img); err != nil {
		t.Fatal(err)
	}
	list, err := h.instancesOf(h.id(stays))
	if err != nil || len(list) != 1 {
		t.Fatal(len(list), err)
	}
	sop := list[0].SOP
	if _, err := h.Pin(stays, "for a test"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var errs []error
		for range 25 {
			errs = append(errs, h.Index.Drop(context.Background(), [][]byte{pinKey(gone), append([]byte{tableSOP}, sop[:len(sop)-1]...)}, nil))
		}
		done <- errors.Join(errs...)
	}()
	for {
		if pinned, err := h.pinned(stays); !pinned || err != nil {
			t.Fatalf("the pin is not found, %v", err)
		}
		if pins, err := h.Pins(); len(pins) != 1 || err != nil {
			t.Fatalf("%d pins, %v", len(pins), err)
		}
		if known, _ := h.readable(context.Background(), dicom.UID(sop)); !known {
			t.Fatal("an instance is not known")
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

func TestWhatIsNotHereCannotBeErased(t *testing.T) {
	h := furnished(t)
	if _, err := h.Erase(context.Background(), "1.2.3.4", "a test"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	for _, reason := range []string{"", strings.Repeat("x", MaxReason+1)} {
		if _, err := h.Erase(context.Background(), doomedStudy, reason); err == nil {
			t.Fatalf("%q was accepted", reason)
		}
	}
}

// Who is sending an instance of the study is stopped; who comes while it is being erased waits and begins a new one.
func TestWritersMakeWayForAnErasure(t *testing.T) {
	h := furnished(t)
	r, w := io.Pipe()
	late := image(doomedStudy, 7, 7)
	sent := late.Bytes()
	broken := make(chan error, 1)
	go func() {
		_, err := h.Ingest(context.Background(), r, IngestOptions{})
		broken <- err
		r.Close()
	}()
	if _, err := w.Write(sent[:len(sent)/2]); err != nil {
		t.Fatal(err)
	}
	started, goOn := make(chan struct{}), make(chan struct{})
	h.eraseFault = func(step string) error {
		if step == "shelves" {
			close(started)
			<-goOn
		}
		return nil
	}
	if _, err := h.erase.condemn(sourceID{Study: doomedStudy}, "a test"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- h.erase.all(context.Background()) }()
	for part := sent[len(sent)/2:]; len(part) > 0; part = part[1:] {
		if _, err := w.Write(part[:1]); err != nil {
			break
		}
	}
	w.Close()
	if err := <-broken; !errors.As(err, new(*Unavailable)) {
		t.Fatalf("the sender was told %v", err)
	}
	<-started
	h.eraseFault = nil
	after := make(chan error, 1)
	go func() { after <- h.take(image(doomedStudy, 8, 8)) }()
	for !h.space.gate.wanted(h.id(doomedStudy)) {
		time.Sleep(time.Millisecond)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-after; err != nil {
		t.Fatal(err)
	}
	list, err := h.instancesOf(h.id(doomedStudy))
	if err != nil || len(list) != 1 {
		t.Fatalf("%d instances, %v", len(list), err)
	}
	if err := h.gives(h.id(doomedStudy), image(doomedStudy, 8, 8)); err != nil {
		t.Fatal(err)
	}
}

// Copies of what their origins have erased go, and nothing else: not the versions that others have received.
func TestCopiesGoWithTheirOriginals(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
		trusts := []index.TrustID{"RAA", "RBB", "RCC"}
		var all []*house
		for _, ods := range trusts {
			all = append(all, newHouse(t, t.TempDir(), ods, clock, trusts...))
		}
		a, b, c := all[0], all[1], all[2]
		img := func(i int) dicomtest.Instance { return image(doomedStudy, i, byte(i)) }
		for i, h := range map[int]*house{1: a, 2: c} {
			if err := h.take(img(i)); err != nil {
				t.Fatal(err)
			}
			if err := h.take(image(otherStudy, i, byte(i))); err != nil {
				t.Fatal(err)
			}
			h.publishAll()
			b.hear(h)
			b.bringFrom(h, doomedStudy)
			b.bringFrom(h, otherStudy)
		}
		if err := b.take(img(1)); err != nil { // the same instance as the copy has
			t.Fatal(err)
		}
		b.publishAll()
		if !restarted {
			b.listens()
		}
		a.erases(doomedStudy)
		c.erases(doomedStudy)
		b.hear(a)
		b.hear(c)
		if restarted {
			b.Archive = b.open()
		}
		if !b.erase.pending(sourceID{doomedStudy, a.Self}) {
			t.Fatal("nothing is known of the retraction")
		}
		b.erase.pass(context.Background())
		for _, h := range []*house{a, c} {
			id := sourceID{doomedStudy, h.Self}
			if _, err := b.source(id); !errors.Is(err, errNoRecord) {
				t.Fatal(err)
			}
			if _, err := b.Keys.Get(id.keyName()); !errors.Is(err, cas.ErrNoKey) {
				t.Fatal(err)
			}
			if list, err := b.instancesOf(id); len(list) != 0 || err != nil {
				t.Fatal(len(list), err)
			}
			if b.erase.pending(id) {
				t.Fatal("it is looked for again")
			}
			if err := b.gives(sourceID{otherStudy, h.Self}, image(otherStudy, map[*house]int{a: 1, c: 2}[h], byte(map[*house]int{a: 1, c: 2}[h]))); err != nil {
				t.Fatal(err)
			}
			if got, err := b.Index.Holders(doomedStudy, h.Self); err != nil || len(got) != 0 {
				t.Fatalf("%+v", got)
			}
		}
		if err := b.gives(b.id(doomedStudy), img(1)); err != nil {
			t.Fatalf("what was received here: %v", err)
		}
		if said, _ := b.Index.Study(doomedStudy); len(said) != 1 || said[0].Author != b.Self {
			t.Fatalf("%+v", said)
		}
		b.Archive = b.open()
		if b.erase.pending(sourceID{doomedStudy, a.Self}) {
			t.Fatal("it is looked for again after a restart")
		}
		// The origin hears that the copy is gone, and then has nothing that names the study but what others have received.
		a.hear(b)
		a.erase.pass(context.Background())
		if said, _ := a.Index.Study(doomedStudy); len(said) != 1 || said[0].Author != b.Self {
			t.Fatalf("%+v", said)
		}
		// Received anew there, it comes anew here.
		if err := a.take(img(5)); err != nil {
			t.Fatal(err)
		}
		a.publishAll()
		b.hear(a)
		b.bringFrom(a, doomedStudy)
		if err := b.gives(sourceID{doomedStudy, a.Self}, img(5)); err != nil {
			t.Fatal(err)
		}
		b.erase.pass(context.Background())
		if err := b.gives(sourceID{doomedStudy, a.Self}, img(5)); err != nil {
			t.Fatalf("an old retraction has taken the new copy: %v", err)
		}
	}
}

// A node that has evicted its copy has still told that it had one.
func TestWhatWasToldOfAnEvictedCopyGoesToo(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	b.listens()
	if err := a.take(image(doomedStudy, 1, 1)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	b.hear(a)
	b.bringFrom(a, doomedStudy)
	id := sourceID{doomedStudy, a.Self}
	clock.step(24 * time.Hour)
	if gone, err := b.space.evictOne(context.Background(), id, "a test"); !gone || err != nil {
		t.Fatal(gone, err)
	}
	a.erases(doomedStudy)
	b.hear(a)
	b.erase.pass(context.Background())
	if told, err := b.Index.Said(index.KindHolding, ""); len(told) != 0 || err != nil {
		t.Fatal(told, err)
	}
	a.hear(b)
	if err := a.Index.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	if where := a.named(doomedStudy); len(where) > 0 {
		t.Fatalf("the origin: it is named in rows of the tables %x", where)
	}
	if where := b.named(doomedStudy); len(where) > 0 {
		t.Fatalf("the copy: it is named in rows of the tables %x", where)
	}
}

// bringWithConflicts is bringFrom of a study with instances whose SOP Instance UIDs are taken here by other bytes.
func (h *house) bringWithConflicts(from *house, study string, want int) {
	h.t.Helper()
	h.hear(from)
	id := from.id(study)
	done, err := h.writing(context.Background(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	defer done()
	if err := h.carry(from, study, false); err != nil {
		h.t.Fatal(err)
	}
	kept, err := h.Conflicts(10)
	if err != nil || len(kept) != want {
		h.t.Fatal(kept, err)
	}
	if err := h.updateSource(id, func(_ *badger.Txn, s *source) error {
		s.Conflicts = want
		s.Instances -= want
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
}

// What is kept out because of a copy is no longer when that copy is gone, and is brought again: from a version of the same study and from
// another study.
func TestNothingIsKeptOutByWhatIsGone(t *testing.T) {
	const study, elsewhere = doomedStudy, "1.2.7335"
	for _, evicted := range []bool{false, true} {
		clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
		trusts := []index.TrustID{"RAA", "RBB", "RCC"}
		h := newHouse(t, t.TempDir(), "RAA", clock, trusts...)
		b := newHouse(t, t.TempDir(), "RBB", clock, trusts...)
		c := newHouse(t, t.TempDir(), "RCC", clock, trusts...)
		first := image(study, 1, 1)
		abroad := image(elsewhere, 1, 3)
		abroad.SOP = first.SOP
		second := image(study, 2, 2)
		err := errors.Join(b.take(first), b.take(second), c.take(image(study, 2, 9)), c.take(image(study, 3, 9)), c.take(abroad), c.take(image(elsewhere, 2, 3)))
		if err != nil {
			t.Fatal(err)
		}
		b.publishAll()
		c.publishAll()
		h.bringFrom(b, study)
		h.bringWithConflicts(c, study, 1)
		h.bringWithConflicts(c, elsewhere, 2)
		if err := h.updateSource(c.id(elsewhere), func(_ *badger.Txn, s *source) error { s.Conflicts = 1; return nil }); err != nil {
			t.Fatal(err)
		}
		if evicted {
			clock.step(2 * time.Hour)
			if gone, err := h.space.evictOne(context.Background(), b.id(study), "a test"); !gone || err != nil {
				t.Fatal(gone, err)
			}
		} else {
			h.listens()
			b.erases(study)
			h.hear(b)
			h.erase.pass(context.Background())
		}
		if _, err := h.source(b.id(study)); !errors.Is(err, errNoRecord) {
			t.Fatalf("the copy is still there, %v", err)
		}
		if kept, err := h.Conflicts(10); len(kept) != 0 || err != nil {
			t.Fatalf("kept out by what is gone: %v, %v", kept, err)
		}
		for _, s := range []string{study, elsewhere} {
			if src, err := h.source(c.id(s)); err != nil || src.Whole || src.Conflicts != 0 {
				t.Fatalf("%+v, %v", src, err)
			}
			// An evicted copy does not come back with the other version before somebody asks.
			if _, queued := h.TaskOf(s); queued != (s == elsewhere || !evicted) {
				t.Fatalf("evicted %t, study %s: queued %t", evicted, s, queued)
			}
			h.bringFrom(c, s)
		}
		if err := errors.Join(h.gives(c.id(study), image(study, 2, 9)), h.gives(c.id(study), image(study, 3, 9)), h.gives(c.id(elsewhere), abroad)); err != nil {
			t.Fatal(err)
		}
	}
}

// A transfer that began while an instance had to be kept out does not end as if it still were.
func TestATransferNoticesThatAConflictIsOver(t *testing.T) {
	h := furnished(t)
	id := sourceID{otherStudy, seedNode("RBB")}
	own, err := h.source(h.id(otherStudy))
	if err != nil {
		t.Fatal(err)
	}
	tr := &transfer{a: h.Archive, ctx: t.Context(), id: id, ref: *own.Manifest, st: index.Study{UID: otherStudy, Revision: 1, Instances: 3}}
	for _, kept := range []bool{false, true} {
		if kept {
			if err := h.update(func(txn *badger.Txn) error {
				return putRecord(txn, id.instanceKey(tableConflict, otherStudy+".1", otherStudy+".1.1"), int64(1))
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tr.finish(nil, 1); err != nil {
			t.Fatal(err)
		}
		if s, err := h.source(id); err != nil || s.Whole != kept {
			t.Fatalf("kept out %t: %+v, %v", kept, s, err)
		}
	}
}

// Who asks for an erasure that is under way waits for its end, also when only a copy is being erased: then for that of the rest.
func TestErasingAgainJoinsTheErasure(t *testing.T) {
	for _, copyFirst := range []bool{false, true} {
		h := furnished(t)
		scope := sourceID{Study: doomedStudy}
		if copyFirst {
			scope.Origin = seedNode("RBB")
		}
		if _, err := h.erase.condemn(scope, "the first"); err != nil {
			t.Fatal(err)
		}
		if copyFirst {
			short, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := h.Erase(short, doomedStudy, "too early"); !errors.Is(err, ErrErasing) {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { h.erase.run(ctx); close(ended) }()
		want := "the first"
		if copyFirst {
			want = "the second"
		}
		e, err := h.Erase(ctx, doomedStudy, "the second")
		cancel()
		<-ended
		if err != nil || !e.Done || e.Reason != want {
			t.Fatalf("copy first %t: %+v, %v", copyFirst, e, err)
		}
		if where := h.named(doomedStudy); len(where) > 0 {
			t.Fatalf("it is named in rows of the tables %x", where)
		}
	}
}

// Nothing of a study is brought while a copy that its origin has erased is still to go, and it is not tried all the time; when the copy
// is gone it is tried at once.
func TestAFetchWaitsForTheErasureOfTheCopy(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	b.listens()
	b.running = t.Context()
	if err := a.take(image(doomedStudy, 1, 1)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	b.bringFrom(a, doomedStudy)
	a.erases(doomedStudy)
	if err := a.take(image(doomedStudy, 2, 2)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	b.hear(a)
	id := a.id(doomedStudy)
	st, told := b.statementOf(id)
	if !told || !b.erase.pending(id) {
		t.Fatal("the retraction, or the new study, was not heard of")
	}
	if err := b.updateSource(id, func(_ *badger.Txn, s *source) error { s.Whole = false; return nil }); err != nil {
		t.Fatal(err)
	}
	err := b.bringSource(t.Context(), id, st, Task{})
	if !errors.Is(err, errRetracted) || errors.Is(err, errMoved) {
		t.Fatal(err)
	}
	if err := b.bringLists(t.Context(), id, st, mesh.Push{Depth: mesh.PushLists}); !errors.Is(err, errRetracted) {
		t.Fatal(err)
	}
	add(t, b.queue, Task{Study: doomedStudy})
	at, err := b.queue.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end(t, b.queue, at, outcome{err: errRetracted, wait: time.Hour})
	if task, _ := b.TaskOf(doomedStudy); task.Attempts != 1 || task.NotBefore.IsZero() {
		t.Fatalf("%+v", task)
	}
	b.erase.pass(context.Background())
	if b.erase.pending(id) {
		t.Fatal("the copy is still to go")
	}
	if task, queued := b.TaskOf(doomedStudy); queued && !task.NotBefore.IsZero() {
		t.Fatalf("%+v", task)
	}
}

// A fetch that waited while its study was erased and received anew, and so is counted from its first revision again, brings nothing of what
// it was asked for: it is tried again for what there is now.
func TestAFetchOfWhatWasReceivedAnewBeginsAgain(t *testing.T) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	a := newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b := newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	for sop := range 3 {
		if err := a.take(image(doomedStudy, sop, byte(sop))); err != nil {
			t.Fatal(err)
		}
		a.publishAll()
	}
	b.hear(a)
	id := a.id(doomedStudy)
	asked, _ := b.statementOf(id)
	a.erases(doomedStudy)
	if err := a.take(image(doomedStudy, 5, 5)); err != nil {
		t.Fatal(err)
	}
	a.publishAll()
	b.hear(a)
	now, told := b.statementOf(id)
	if !told || now.Revision >= asked.Revision || now.Instances != 1 {
		t.Fatalf("%v %+v", told, now)
	}
	if err := b.bringSource(t.Context(), id, asked, Task{}); !errors.Is(err, errMoved) {
		t.Errorf("what was erased is asked for: %v", err)
	}
	if err := b.bringSource(t.Context(), id, now, Task{}); err == nil || errors.Is(err, errMoved) {
		t.Errorf("what there is now is not asked for: %v", err)
	}
}
