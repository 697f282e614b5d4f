package node_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/cas/castest/s3test"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// What an answer rests on, by a clock that only the test moves.
func TestBasisByTheClock(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a, b := r[0], r[1]
	roster := a.n.Archive().Index.Roster()
	self, peer := a.n.Archive().Self, b.n.Archive().Self
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	lags := []index.Lag{{Node: self, Trust: "RX1", Epoch: 1, Applied: 7, Heard: 7}, {Node: peer, Trust: "RX2", Epoch: 1, Applied: 90, Heard: 90}, {Node: peer, Trust: "RX2", Epoch: 2, Applied: 3, Heard: 5}}
	if peer.Compare(self) < 0 {
		lags = append(lags[1:], lags[0])
	}
	of := func(now time.Time, told map[index.NodeID]time.Time, trust string) api.Basis {
		t.Helper()
		for _, x := range node.BasisOf(now, self, roster, lags, told) {
			if x.Trust == trust {
				return x
			}
		}
		t.Fatalf("nothing of %s", trust)
		return api.Basis{}
	}
	if x := of(at, nil, "RX1"); x.Age == nil || *x.Age != 0 || len(x.Logs) != 1 || x.Logs[0].Seq != 7 {
		t.Errorf("own: %+v", x)
	}
	if x := of(at, nil, "RX2"); x.Age != nil || !x.AsOf.IsZero() || x.Behind != 2 || len(x.Logs) != 1 || x.Logs[0].Epoch != 2 || x.Logs[0].Seq != 3 {
		t.Errorf("never told: %+v", x)
	}
	told := map[index.NodeID]time.Time{peer: at}
	for _, age := range []time.Duration{0, time.Second, 3 * time.Hour} {
		if x := of(at.Add(age), told, "RX2"); x.Age == nil || *x.Age != age.Seconds() || !x.AsOf.Equal(at) {
			t.Errorf("after %v: %+v", age, x)
		}
	}
	told[peer] = at.Add(3 * time.Hour) // it is back
	if x := of(at.Add(3*time.Hour), told, "RX2"); x.Age == nil || *x.Age != 0 {
		t.Errorf("back: %+v", x)
	}
	if x := of(at, told, "RX2"); x.Age != nil || !x.AsOf.IsZero() || !x.Logs[0].AsOf.IsZero() { // a clock that was set back
		t.Errorf("%+v", x)
	}
	// What a quarantined node says is not taken: however lately it was heard, nothing of it is fresh.
	for i := range lags {
		lags[i].Quarantined = lags[i].Node == peer && lags[i].Epoch == 2
	}
	if x := of(at.Add(3*time.Hour), told, "RX2"); x.Age != nil || !x.AsOf.IsZero() || !x.Logs[0].Quarantined {
		t.Errorf("quarantined: %+v", x)
	}
}

// Of a trust with two nodes the one that told longest ago counts, whichever it is; and one that never told most of all.
func TestBasisOfATrustWithTwoNodes(t *testing.T) {
	first := newTrust(t, "RX1", "Test region")
	server := s3test.Start(t)
	first.inBucket(server, server.Bucket("originals", false))
	first.start()
	second := sibling(first, first)
	second.start()
	one, two := first.n.Archive().Self, second.n.Archive().Self
	roster := first.n.Archive().Index.Roster()
	lags := []index.Lag{{Node: one, Trust: "RX1", Epoch: 1, Applied: 7, Heard: 7}, {Node: two, Trust: "RX1", Epoch: 1, Applied: 9, Heard: 9}}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ one, two, want time.Time }{
		{at, at.Add(-time.Hour), at.Add(-time.Hour)}, {at.Add(-time.Hour), at, at.Add(-time.Hour)}, {at, time.Time{}, time.Time{}}, {time.Time{}, at, time.Time{}},
	} {
		got := node.BasisOf(at, index.NodeID{}, roster, lags, map[index.NodeID]time.Time{one: c.one, two: c.two})
		if len(got) != 1 || len(got[0].Logs) != 2 || !got[0].AsOf.Equal(c.want) || (got[0].Age == nil) != c.want.IsZero() {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}

// One silent node of a trust that is heard by another is named in every answer: what it received is known to nobody else.
func TestASilentNodeOfATrustThatIsHeardIsNamed(t *testing.T) {
	r := region(t, "RX1", "RX2")
	first, other := r[0], r[1]
	second := sibling(first, first)
	second.start()
	id := second.n.Archive().Self
	says := func(tr *trust, want ...string) {
		t.Helper()
		tr.wait("says "+strings.Join(want, ", "), func() (bool, string) {
			res, _ := tr.get("/dicom-web/studies?PatientID=1", "application/dicom+json")
			got := strings.Join(res.Header.Values("Warning"), "; ")
			return strings.Count(got, id.String()) == len(want) && !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(got, w) }), got
		})
	}
	for _, tr := range []*trust{first, other} {
		says(tr)
	}
	second.stop()
	says(other, "RX1: its node "+id.String()+" has not been heard from since")
	says(first, "RX1: another node of this trust, "+id.String()+", has not been heard from since")
	second.start()
	for _, tr := range []*trust{first, other} {
		says(tr)
	}
}

// Each thing that an answer lacks is said, whatever else is.
func TestAnswersSayWhatTheyLack(t *testing.T) {
	self, sibling, one, two := index.NodeID{1}, index.NodeID{2}, index.NodeID{3}, index.NodeID{4}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	trusts := []api.TrustStatus{{Trust: "RX2", Heard: true, Behind: 1}, {Trust: "RX3", Behind: 2}, {Trust: "RX4", Heard: true}, {Trust: "RX5"}}
	lags := []index.Lag{
		{Node: self, Trust: "RX1", Epoch: 1, Applied: 9, Heard: 9, Missing: 4, Unread: 5},
		{Node: sibling, Trust: "RX1", Epoch: 1, Applied: 1, Heard: 4},
		{Node: one, Trust: "RX2", Epoch: 1, Missing: 6, Unread: 7, Quarantined: true},
		{Node: two, Trust: "RX4"},
		{Node: index.NodeID{5}, Trust: "RX5"},
		{Node: index.NodeID{7}, Trust: "RX4"},
	}
	nodes := []node.Listened{
		node.ListenedTo(sibling, "RX1", false, time.Time{}), node.ListenedTo(one, "RX2", true, now), node.ListenedTo(index.NodeID{6}, "RX2", false, now),
		node.ListenedTo(index.NodeID{8}, "RX4", false, now), node.ListenedTo(index.NodeID{9}, "RX4", false, time.Time{}),
		node.ListenedTo(two, "RX4", true, now), node.ListenedTo(index.NodeID{7}, "RX4", false, time.Time{}), node.ListenedTo(index.NodeID{5}, "RX5", false, time.Time{}),
	}
	got := node.LackingOf(trusts, nodes, self, "RX1", index.Roster{Unseated: []index.TrustID{"RX6"}}, lags)
	want := []string{
		`^RX2 has announced 1 fact`, `^RX3 has never been heard from, and has announced 2 facts`, `^RX5 has never been heard from$`,
		`^RX1: another node of this trust, \S+, has never been heard from; .* revoke it$`, `^RX2: its node \S+ has not been heard from since 2026-03-01T12:00:00Z, though`, `^RX4: its node \S+ has not been heard from since .*; so it is with 2 others of its nodes$`,
		`^this node itself \(it was restored.*contents of 4 of its facts`, `^this node itself.*5 of its facts cannot be read`,
		`^RX1: another node of this trust has announced 3 facts`, `^RX2: its node \S+ has signed two histories`, `^RX2: the contents of 6`, `^RX2: 7 of its facts cannot be read by this version; update`,
		`^RX4: nothing that its node \S+ has said has arrived here yet$`, `^RX6 is not heard`,
	}
	if len(got) != len(want) {
		t.Fatalf("%d: %q", len(got), got)
	}
	for i := range want {
		if !regexp.MustCompile(want[i]).MatchString(got[i]) {
			t.Errorf("%q is not %s", got[i], want[i])
		}
	}
}

// A head that no log reaches is said in words, and not as a number that is on the way.
func TestAHeadThatNoLogReachesIsSaidInWords(t *testing.T) {
	got := node.LackingOf([]api.TrustStatus{{Trust: "RX2", Heard: true, Behind: 1<<55 - 1}, {Trust: "RX3", Heard: true, Behind: api.MaxBehind}}, nil, index.NodeID{1}, "RX1", index.Roster{},
		[]index.Lag{{Node: index.NodeID{2}, Trust: "RX1", Epoch: 1, Applied: 1, Heard: 1 << 55}})
	if len(got) != 3 || !regexp.MustCompile(`^RX2 says that it has said more than it gives`).MatchString(got[0]) || !regexp.MustCompile(`^RX3 has announced 1000000000 facts`).MatchString(got[1]) ||
		!regexp.MustCompile(`^RX1: another node of this trust says that it has said more than it gives`).MatchString(got[2]) {
		t.Errorf("%q", got)
	}
}

// With a holder stopped what is known of it grows old, and says so everywhere;
// when it is back it is fresh again.
func TestAnswersSayWhatTheyRestOn(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a, b := r[0], r[1]
	b.imports(study("1.2.3.1", ada, "20200101", 1)...)
	a.waitAvailability("1.2.3.1", "NEARLINE")
	basis := func() api.Basis {
		t.Helper()
		var f api.Found
		a.operator("GET", "/api/v1/studies?study=1.2.3.1", nil, &f)
		if len(f.Basis) != 2 {
			t.Fatalf("%+v", f.Basis)
		}
		for _, x := range f.Basis {
			if x.Trust == "RX2" {
				return x
			}
		}
		t.Fatal("nothing of RX2")
		return api.Basis{}
	}
	head := func() index.Head {
		h, _ := b.n.Archive().Index.Head(b.n.Archive().Self)
		return h
	}
	a.wait("knows that it has all of RX2", func() (bool, string) {
		x := basis()
		return x.Age != nil && x.Behind == 0 && x.Logs[0].Seq == uint64(head().Seq) && x.Logs[0].Node == b.peer(), fmt.Sprintf("%+v", x)
	})
	b.stop()
	a.wait("takes nothing more for fresh", func() (bool, string) {
		one := basis()
		two := basis()
		return one.AsOf.Equal(two.AsOf) && *two.Age > *one.Age, ""
	})
	stopped := basis()
	var later api.Basis
	a.wait("says that it grows old", func() (bool, string) {
		later = basis()
		return *later.Age > *stopped.Age+1, fmt.Sprint(*later.Age)
	})
	if !later.AsOf.Equal(stopped.AsOf) {
		t.Errorf("it was heard from although it does not run: %v, %v", stopped.AsOf, later.AsOf)
	}
	res, body := a.get("/metrics", "")
	for _, want := range []string{`priormesh_log_lag_facts\{trust="RX2"\} 0\n`, `priormesh_log_age_seconds\{trust="RX2"\} [1-9]`, `priormesh_log_age_seconds\{trust="RX1"\} 0\n`,
		`priormesh_log_position\{node="[^"]+",trust="RX2"\} [1-9]`, `priormesh_forked_logs 0\n`} {
		if res.StatusCode != 200 || !regexp.MustCompile(want).Match(body) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	// It is the same after a restart of the one that asks.
	a.stop()
	a.start()
	if x := basis(); x.AsOf.Sub(stopped.AsOf).Abs() > time.Millisecond {
		t.Errorf("%v before, %v after a restart", stopped.AsOf, x.AsOf)
	}
	b.start()
	a.wait("is told again", func() (bool, string) {
		x := basis()
		return x.AsOf.After(stopped.AsOf) && x.Behind == 0, fmt.Sprintf("%+v", x)
	})
	var s api.Status
	a.operator("GET", "/api/v1/status", nil, &s)
	if len(s.Basis) != 2 || s.Forked == nil {
		t.Errorf("%+v", s.Basis)
	}
}
