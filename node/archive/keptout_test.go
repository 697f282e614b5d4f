package archive

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// lays puts all of another house's study on a shelf here, where a transfer finds it.
func (h *house) lays(from *house, study string) (id sourceID, st index.Study) {
	h.t.Helper()
	if err := h.carry(from, study, true); err != nil {
		h.t.Fatal(err)
	}
	id = from.id(study)
	key, err := from.Keys.Get(id.keyName())
	if err != nil {
		h.t.Fatal(err)
	}
	for c := range from.onShelf(id) {
		data, err := from.shelf(id, key).Get(context.Background(), c)
		if err == nil {
			err = h.shelf(id, key).Put(context.Background(), cas.Block{CID: c, Data: data})
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
	st, _ = h.statementOf(id)
	return id, st
}

// taken are two houses: the second tells of a study of two instances, of which the
// SOP Instance UID of the first is taken in the first house by other bytes, and of
// another study, of which no UID is.
func taken(t *testing.T) (h, b *house) {
	clock := &steppedClock{t: time.Unix(1_700_000_000, 0)}
	h = newHouse(t, t.TempDir(), "RAA", clock, "RAA", "RBB")
	b = newHouse(t, t.TempDir(), "RBB", clock, "RAA", "RBB")
	mine := image("1.2.7335", 1, 9)
	mine.SOP = image(doomedStudy, 1, 1).SOP
	err := errors.Join(h.take(mine), b.take(image(doomedStudy, 1, 1)), b.take(image(doomedStudy, 2, 2)), b.take(image(otherStudy, 1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	h.publishAll()
	b.publishAll()
	return h, b
}

// Nobody is told that a copy is here of which an instance was kept out: who asked
// for it would not get all of the study. Nor is the study shown as one that is here.
func TestACopyWithoutAnInstanceIsNotToldOf(t *testing.T) {
	h, b := taken(t)
	for _, study := range []string{doomedStudy, otherStudy} {
		id, st := h.lays(b, study)
		if err := h.adopt(t.Context(), id, st); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := h.Conflicts(10); err != nil || len(kept) != 1 || kept[0].Study != doomedStudy {
		t.Fatalf("kept out: %v, %v", kept, err)
	}
	told, err := h.Index.Said(index.KindHolding, "")
	if err != nil || len(told) != 1 || !strings.HasPrefix(told[0], otherStudy+"@") {
		t.Errorf("it has told of copies of %q, %v", told, err)
	}
	found, _, err := h.Studies(t.Context(), index.Query{StudyUIDs: []string{doomedStudy, otherStudy}})
	if err != nil || len(found) != 2 {
		t.Fatalf("%d studies are found, %v", len(found), err)
	}
	for _, f := range found {
		if want := f.UID == otherStudy; f.Here != want {
			t.Errorf("study %s: here %v, want %v", f.UID, f.Here, want)
		}
	}
}

// Who reads a study before it is brought is not given an instance whose SOP Instance
// UID is taken here by other bytes, and is told so before he is given the others.
func TestAReaderIsNotGivenWhatWillBeKeptOut(t *testing.T) {
	h, b := taken(t)
	h.lays(b, doomedStudy)
	h.lays(b, otherStudy)
	for _, c := range []struct {
		study string
		out   []string // of whose instances the UIDs are taken
	}{{doomedStudy, []string{image(doomedStudy, 1, 1).SOP}}, {otherStudy, nil}} {
		versions, err := h.versions(c.study)
		if err != nil || len(versions) != 1 {
			t.Fatal(len(versions), err)
		}
		v, p := versions[0], mesh.Push{Depth: mesh.PushNothing}
		entries, err := h.entries(t.Context(), v, Ref{Study: dicom.UID(c.study)}, p)
		if err == nil {
			err = h.lookAhead(t.Context(), v, entries, p)
		}
		if err != nil || len(entries) != v.said.Instances {
			t.Fatalf("%d instances are listed, %v", len(entries), err)
		}
		caveats, err := h.Caveats(c.study)
		if err != nil || strings.Contains(strings.Join(caveats, ". "), "1 instance of the study as RBB has it is not shown") != (len(c.out) > 0) {
			t.Errorf("study %s: a reader is told %q, %v", c.study, caveats, err)
		}
		var out []string
		for _, e := range entries {
			_, err := h.object(t.Context(), v, e, p)
			if errors.Is(err, errKeptOut) {
				out = append(out, e.inst.UID)
			} else if err != nil {
				t.Errorf("instance %s: %v", e.inst.UID, err)
			}
		}
		if !slices.Equal(out, c.out) {
			t.Errorf("study %s: %q are not given, want %q", c.study, out, c.out)
		}
	}
}
