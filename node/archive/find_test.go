package archive

import (
	"math"
	"slices"
	"testing"

	"github.com/priormesh/priormesh/index"
)

// What a copy has and its origin has lost, by a restore from an older backup, is
// said to be there.
func TestACopyThatHasMoreIsSaid(t *testing.T) {
	a := furnished(t)
	origin := index.NodeID{7}
	got, err := a.found(index.StudyAnswer{UID: "1.2.3", Matching: 1,
		Statements: []index.Authored[index.Study]{{Author: origin, Trust: "RX2", Value: index.Study{UID: "1.2.3", Series: 1, Instances: 2}}},
		Holdings: []index.Authored[index.Holding]{{Trust: "RX3", Value: index.Holding{Study: "1.2.3", Origin: origin, Instances: 4}},
			{Trust: "RX4", Value: index.Holding{Study: "1.2.3", Origin: origin, Instances: 2}}}})
	if err != nil || !got.AtLeast || len(got.Versions) != 1 || len(got.Versions[0].Fuller) != 1 || got.Versions[0].Fuller[0] != "RX3" || len(got.Copies) != 2 {
		t.Errorf("%+v %v", got, err)
	}
}

// What this node said that it received, and lost when it was restored from an
// older backup, is said to be lost; and so is it that not all copies are named.
func TestWhatIsLostIsSaid(t *testing.T) {
	a := furnished(t)
	of := func(author index.NodeID) index.StudyAnswer {
		return index.StudyAnswer{UID: "1.2.3", Matching: 1, Left: true, Statements: []index.Authored[index.Study]{{Author: author, Trust: "RX2", Value: index.Study{UID: "1.2.3", Series: 1, Instances: 2}}}}
	}
	if got, err := a.found(of(a.Self)); err != nil || !got.Lost || got.Here || !got.MoreCopies {
		t.Errorf("its own, of which nothing is here: %+v %v", got, err)
	}
	if got, err := a.found(of(index.NodeID{7})); err != nil || got.Lost {
		t.Errorf("another's: %+v %v", got, err)
	}
}

// Two people may each agree with a version that says little: they are not shown
// together for that.
func TestAVersionThatSaysLittleJoinsNoTwoPeople(t *testing.T) {
	said := []index.Study{{}, {Name: "Lovelace^Ada"}, {Name: "Hopper^Grace"}, {BirthDate: "18151210"}, {Name: "Lovelace^Ada", BirthDate: "19061209"}, {Mixed: true}}
	versions := make([]version, len(said))
	for i := range said {
		versions[i] = version{id: sourceID{"1.2.3", index.NodeID{byte(i)}}, said: said[i]}
	}
	group(versions)
	got := make([]int, len(said))
	for _, v := range versions {
		got[v.id.Origin[0]] = v.group
	}
	for i, want := range []int{0, 0, 1, 0, 2, 3} {
		if got[i] != want {
			t.Errorf("%d: %v, want %v", i, got[i], want)
		}
	}
}

// Who are two people to the index are so where two received one study; a sex that
// was corrected takes no version away.
func TestVersionsOfTwoPeopleAreTheIndexs(t *testing.T) {
	for _, c := range []struct {
		x, y index.Study
		want bool
	}{
		{index.Study{Name: "SMITH^BABY", Sex: "M"}, index.Study{Name: "SMITH^BABY", Sex: "F"}, true},
		{index.Study{Sex: "M"}, index.Study{Sex: "F"}, true},
		{index.Study{Name: "FERN^JOHN^^^JR"}, index.Study{Name: "FERN^JOHN SR"}, true},
		{index.Study{Name: "SMITH^TWIN I"}, index.Study{Name: "SMITH^TWIN II"}, true},
		{index.Study{Name: "SMITH^BABY", Sex: "M"}, index.Study{Name: "SMITH^BABY", Sex: "O"}, false},
		{index.Study{Name: "MOSS^JANE", Sex: "M"}, index.Study{Name: "MOSS^JANE", Sex: "F"}, false},
		{index.Study{Name: "MOSS^JANE^^MISS", Sex: "F"}, index.Study{Name: "MOSS^JANE^LEE", Sex: "F"}, false},
	} {
		for _, said := range [][]index.Study{{c.x, c.y}, {c.y, c.x}} {
			versions := []version{{said: said[0]}, {said: said[1]}}
			group(versions)
			if got := versions[1].stranger(); got != c.want {
				t.Errorf("%+v: %v, want %v", said, got, c.want)
			}
		}
	}
}

// What others say of sizes is not believed to fit.
func TestSizesAddUp(t *testing.T) {
	a := furnished(t)
	huge := index.Study{UID: "1.2.3", Series: math.MaxInt, Instances: math.MaxInt, Bytes: math.MaxInt64}
	said := func(n byte, modality string) index.Authored[index.Study] {
		huge.Modalities = []string{modality}
		return index.Authored[index.Study]{Author: index.NodeID{n}, Trust: "RX2", Value: huge}
	}
	huge.Manifest = manifestOf(t, a)
	got, err := a.found(index.StudyAnswer{UID: "1.2.3", Matching: 3, Statements: []index.Authored[index.Study]{said(7, "CT"), said(8, "MR"), said(9, "US")}})
	if err != nil || got.Bytes != math.MaxInt64 || got.Instances != math.MaxInt || got.Study.Series != math.MaxInt {
		t.Errorf("%+v %v", got, err)
	}
}

// manifestOf is a reference to a manifest that can be read.
func manifestOf(t *testing.T, a *house) []byte {
	t.Helper()
	a.publishAll()
	s, err := a.source(a.id(doomedStudy))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Manifest.MarshalCBOR()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is here goes before what is only told of, whatever is told.
func TestNobodyGoesBeforeWhatIsHereByAWord(t *testing.T) {
	a := furnished(t)
	manifest := manifestOf(t, a)
	ref, err := parseRef(manifest)
	if err != nil {
		t.Fatal(err)
	}
	of := func(n byte, instances int, manifest []byte, here source) version {
		return a.versionOf(index.Authored[index.Study]{Author: index.NodeID{n}, Value: index.Study{UID: "1.2.3", Instances: instances, Revision: 1, Manifest: manifest}}, here)
	}
	whole := func(instances int) source {
		return source{Whole: true, Manifest: &ref, Revision: 1, Instances: instances}
	}
	list := []version{of(1, 900, nil, source{}), of(2, 1, manifest, source{}), of(3, 800, manifest, source{}), of(4, 900, manifest, whole(2)), of(5, 3, manifest, whole(3))}
	list = append(list, version{id: sourceID{"1.2.3", a.Self}, own: true, here: source{Instances: 1}})
	arrange(list)
	var got []byte
	for _, v := range list[1:] {
		got = append(got, v.id.Origin[0])
	}
	if !list[0].own || !slices.Equal(got, []byte{5, 4, 3, 2, 1}) {
		t.Errorf("%v %v", list[0].own, got)
	}
}
