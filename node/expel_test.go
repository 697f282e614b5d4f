package node_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/cas/castest/s3test"
	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

func (tr *trust) expels(whom *trust) api.Expulsion {
	tr.t.Helper()
	x, err := tr.n.Expel(context.Background(), string(whom.home.Config.Trust))
	if err != nil {
		tr.t.Fatal(err)
	}
	return x
}

// cutOff waits until a node has no connection to any other, which it would have if one of them let it in.
func (tr *trust) cutOff() {
	tr.t.Helper()
	began := time.Now()
	tr.wait("is connected to nobody", func() (bool, string) {
		for _, p := range tr.n.Peers() {
			if p.Connected {
				return false, p.Trust + " is connected"
			}
		}
		return true, ""
	})
	tr.t.Logf("%s is cut off after %s", tr.home.Config.Trust, time.Since(began))
}

// slow has a node that was not started yet give so little that a study is under way for long.
func (tr *trust) slow() {
	tr.t.Helper()
	path := filepath.Join(tr.home.Dir, "config.toml")
	b, err := os.ReadFile(path)
	if err != nil {
		tr.t.Fatal(err)
	}
	fast := regexp.MustCompile(`(?m)^serve_rate = .*$`)
	if !fast.Match(b) {
		tr.t.Fatalf("there is no fetch.serve_rate in\n%s", b)
	}
	if err := os.WriteFile(path, fast.ReplaceAll(b, []byte("serve_rate = '64KiB'")), 0o600); err != nil {
		tr.t.Fatal(err)
	}
	h, err := node.OpenHome(tr.home.Dir)
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.home = h
}

// underWay waits until some of a study has come and not all.
func (tr *trust) underWay(study string) {
	tr.t.Helper()
	tr.wait("the study is under way", func() (bool, string) {
		f := tr.fetch(study)
		return f.State == "active" && slices.ContainsFunc(f.Holders, func(g api.Giver) bool { return g.State == "gives" && g.Bytes > 0 }), fmt.Sprintf("%+v", f)
	})
}

func (tr *trust) fetch(study string) api.Fetch {
	tr.t.Helper()
	var f api.Fetch
	tr.operator("GET", "/api/v1/fetches/"+study, nil, &f)
	return f
}

// broken waits until nothing of a study comes any more.
func (tr *trust) broken(study string) {
	tr.t.Helper()
	tr.wait("the study comes no more", func() (bool, string) {
		f := tr.fetch(study)
		giving := slices.ContainsFunc(f.Holders, func(g api.Giver) bool { return g.State == "gives" })
		return !giving && f.State != "active" && f.State != "here", fmt.Sprintf("%+v", f)
	})
}

func (tr *trust) hearsOf(study string) {
	tr.t.Helper()
	tr.wait("hears of "+study, func() (bool, string) { return len(tr.find(study)) > 0, "not found" })
}

// A trust that enough others vote out is cut off in the middle of what it is being sent, and hears nothing more; what it said stays. Admitted
// again it is one like any other.
func TestAnExpelledTrustIsCutOff(t *testing.T) {
	first := newTrust(t, "RX1", "Test region")
	first.slow()
	all := regionOf(t, first, "RX2", "RX3")
	a, b, out := all[0], all[1], all[2]
	d := joined(t, []*trust{out, a, b}, "RX4")[3] // RX3 is the first to vote for it
	out.imports(study("1.2.3.3", ada, "20240101", 1)...)
	a.stores(images("1.2.3.1", 200))
	for _, tr := range []*trust{a, b, d} {
		tr.hearsOf("1.2.3.3")
	}
	out.settled("1.2.3.1", 200)
	var f api.Fetch
	out.operator("POST", "/api/v1/fetches", []byte(`{"study": "1.2.3.1"}`), &f)
	out.underWay("1.2.3.1")

	if x := a.expels(out); x.Expelled || x.Have != 1 || x.Need != 3 || !slices.Equal(x.By, []string{"RX1"}) {
		t.Fatalf("%+v", x)
	}
	if x := a.expels(out); x.Have != 1 {
		t.Fatalf("a vote counts twice: %+v", x)
	}
	for _, tr := range []*trust{b, out} {
		tr.wait("shows the vote", func() (bool, string) {
			r := tr.status().Roster
			return len(r.Expulsions) == 1 && !r.Expulsions[0].Expelled && slices.Equal(r.Expulsions[0].By, []string{"RX1"}) && r.Expulsions[0].Need == 3, fmt.Sprintf("%+v", r)
		})
	}
	if w := strings.Join(out.status().Warnings, "; "); !strings.Contains(w, "1 of the 3 votes that expel this trust have been heard of (RX1)") {
		t.Fatalf("the one who is voted out is not told: %s", w)
	}
	if w := strings.Join(b.status().Warnings, "; "); strings.Contains(w, "votes that expel this trust") {
		t.Fatalf("another one is: %s", w)
	}
	if _, text := b.get("/metrics", ""); !strings.Contains(string(text), `priormesh_votes_open{to="expel"} 1`) || !strings.Contains(string(text), `priormesh_shut_out{what="trusts"} 0`) {
		t.Fatal("the metrics do not show the vote")
	}
	b.expels(out)
	d.wait("shows both votes", func() (bool, string) {
		r := d.status().Roster
		return len(r.Expulsions) == 1 && r.Expulsions[0].Have == 2, fmt.Sprintf("%+v", r)
	})
	if f := out.fetch("1.2.3.1"); f.State != "active" {
		t.Fatalf("a minority has ended a transfer, or it is too short: %+v", f)
	}
	if x := d.expels(out); !x.Expelled || x.Have != 3 {
		t.Fatalf("%+v", x)
	}
	out.cutOff()
	out.broken("1.2.3.1")
	for _, tr := range []*trust{a, b, d} {
		tr.wait("shows who is out", func() (bool, string) {
			s := tr.status()
			out := slices.ContainsFunc(s.Peers, func(p api.Peer) bool { return p.Trust == "RX3" && p.Out == "expelled" && !p.Connected })
			in := slices.ContainsFunc(s.Trusts, func(st api.TrustStatus) bool { return st.Trust == "RX3" })
			r := s.Roster
			return out && !in && len(r.Expulsions) == 1 && r.Expulsions[0].Expelled && slices.Equal(r.Expulsions[0].By, []string{"RX1", "RX2", "RX4"}) && r.Quorum == 2, fmt.Sprintf("%+v %+v", r, s.Peers)
		})
		tr.wait("has it in the audit log", func() (bool, string) {
			e := tr.events("trust.expelled")
			return len(e) == 1 && e[0].Trust == "RX3" && strings.Contains(e[0].Detail, "RX1, RX2, RX4"), fmt.Sprintf("%+v", e)
		})
		if e := tr.events("expulsion.voted"); len(e) != 1 || e[0].Trust != "RX3" {
			t.Fatalf("%+v", e)
		}
		if len(tr.find("1.2.3.3")) != 1 {
			t.Fatal("what it said before is not found any more")
		}
		tr.wait("names who is out, and nothing else, in every answer", func() (bool, string) {
			s := tr.n.Silence()
			return len(s) == 1 && strings.Contains(s[0], "RX3 was expelled"), strings.Join(s, "; ")
		})
	}
	if _, text := b.get("/metrics", ""); !strings.Contains(string(text), `priormesh_votes_open{to="expel"} 0`) || !strings.Contains(string(text), `priormesh_shut_out{what="trusts"} 1`) {
		t.Fatal("the metrics do not show who is out")
	}
	// RX3 had voted to admit RX4, in its own log alone. Somebody says it again.
	for _, tr := range []*trust{a, b, d} {
		tr.wait("hears again what RX3 voted", func() (bool, string) {
			again, err := tr.n.Index().Unspoken()
			return err == nil && len(again) == 0, fmt.Sprintf("%d unspoken, %v", len(again), err)
		})
		if !saidByOthers(tr, "RX3") {
			t.Fatal("nobody has said again what RX3 voted")
		}
	}
	// What only it holds waits for nobody to be reached.
	a.operator("POST", "/api/v1/fetches", []byte(`{"study": "1.2.3.3"}`), &f)
	a.wait("says why it does not come", func() (bool, string) {
		f := a.fetch("1.2.3.3")
		return f.State == "waiting" && strings.Contains(f.Waits, "RX3 is let in no more"), fmt.Sprintf("%+v", f)
	})
	b.imports(study("1.2.3.2", ada, "20240103", 1)...)
	out.imports(study("1.2.3.4", ada, "20240104", 1)...)
	for _, tr := range []*trust{a, d} {
		tr.hearsOf("1.2.3.2")
	}
	if len(out.find("1.2.3.2"))+len(a.find("1.2.3.4")) > 0 {
		t.Fatal("facts still go between them")
	}
	// A start changes nothing, and writes nothing down twice.
	a.stop()
	a.start()
	a.wait("hears the others", func() (bool, string) {
		s := a.n.Silence()
		return len(s) == 1 && strings.Contains(s[0], "RX3 was expelled"), strings.Join(s, "; ")
	})
	if e := a.events("trust.expelled"); len(e) != 1 {
		t.Fatalf("%+v", e)
	}

	card, err := out.home.Card()
	if err != nil {
		t.Fatal(err)
	}
	for i, tr := range []*trust{a, b} {
		tr.wait("votes to admit it", func() (bool, string) {
			x, err := tr.n.Admit(context.Background(), card)
			return err == nil && x.Have == i+1 && x.Need == 2 && x.Admitted == (i == 1), fmt.Sprintf("%+v, %v", x, err)
		})
	}
	out.hearsOf("1.2.3.2")
	a.hearsOf("1.2.3.4")
	a.wait("shows nobody as expelled", func() (bool, string) {
		r := a.status().Roster
		return len(r.Expulsions) == 0, fmt.Sprintf("%+v", r)
	})
}

// saidByOthers says whether a vote of a trust stands in the log of another.
func saidByOthers(tr *trust, of index.TrustID) bool {
	for _, v := range tr.n.Index().Votes() {
		if v.By != of {
			continue
		}
		st, err := index.VoteStatement(v)
		if err != nil {
			tr.t.Fatal(err)
		}
		said, err := tr.n.Index().Facts(st.Kind, st.Subject)
		if err != nil {
			tr.t.Fatal(err)
		}
		if slices.ContainsFunc(said, func(f index.Authored[[]byte]) bool { return f.Trust != of }) {
			return true
		}
	}
	return false
}

// A node whose trust revokes it is cut off, from its own trust's other node too; a node that was away obeys as soon as it hears.
func TestARevokedNodeIsCutOff(t *testing.T) {
	first := newTrust(t, "RX1", "Test region")
	first.slow()
	all := regionOf(t, first, "RX2", "RX3")
	a, b, away := all[0], all[1], all[2]
	stolen := sibling(b, b)
	stolen.start()
	stolen.wait("hears everybody", func() (bool, string) {
		s := stolen.n.Silence()
		return len(s) == 0, strings.Join(s, "; ")
	})
	a.stores(images("1.2.3.1", 200))
	stolen.imports(study("1.2.3.3", ada, "20240101", 1)...)
	for _, tr := range []*trust{a, b, away} {
		tr.hearsOf("1.2.3.3")
	}
	stolen.settled("1.2.3.1", 200)
	away.stop()
	var f api.Fetch
	stolen.operator("POST", "/api/v1/fetches", []byte(`{"study": "1.2.3.1"}`), &f)
	stolen.underWay("1.2.3.1")

	id := stolen.peer()
	revoke := func(by *trust, ends ...index.LogEnd) index.Revocation {
		t.Helper()
		v, err := by.home.RevokeNode(id, "", ends...)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	head, _ := a.n.Index().Head(stolen.n.Index().Self())
	end := index.LogEnd{Epoch: head.Epoch, Seq: head.Seq}
	if _, err := a.n.Revoke(context.Background(), revoke(a, end).String()); err == nil || !strings.Contains(err.Error(), "is one of RX2") {
		t.Fatalf("another trust revokes it: %v", err)
	}
	// The word of its trust may be given to any node.
	v, err := a.n.Revoke(context.Background(), revoke(b, end).String())
	if err != nil || v.Known || v.Trust != "RX2" || v.Node != id || len(v.Until) != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
	if v, err := a.n.Revoke(context.Background(), revoke(b, index.LogEnd{Epoch: end.Epoch, Seq: end.Seq + 1}).String()); err != nil || !v.Known || v.Until[0].Seq != uint64(end.Seq) {
		t.Fatalf("a later one vouches for more: %+v, %v", v, err)
	}
	stolen.cutOff()
	stolen.broken("1.2.3.1")
	shows := func(tr *trust, saidBy string) {
		t.Helper()
		tr.wait("shows that it is revoked", func() (bool, string) {
			s := tr.status()
			out := slices.ContainsFunc(s.Peers, func(p api.Peer) bool { return p.Peer == id && p.Trust == "RX2" && p.Out == "revoked" && !p.Connected })
			return out && len(s.Roster.Revoked) == 1 && s.Roster.Revoked[0].Node == id, fmt.Sprintf("%+v %+v", s.Roster, s.Peers)
		})
		tr.wait("has it in the audit log", func() (bool, string) {
			e := tr.events("node.revoked")
			return len(e) == 1 && e[0].Node == id && e[0].Trust == "RX2" && strings.Contains(e[0].Detail, "said by "+saidBy), fmt.Sprintf("%+v", e)
		})
	}
	inItsLog := "RX1 (node " + a.peer() + ")"
	shows(a, inItsLog)
	shows(b, inItsLog)
	if e := b.events("revocation.said"); len(e) != 0 {
		t.Fatalf("%+v", e)
	}
	if e := a.events("revocation.said"); len(e) != 1 {
		t.Fatalf("%+v", e)
	}
	// The one that was away lets it in while nobody tells it, and no longer. It may be told by the revoked node itself, which passes on what it has heard.
	a.stop()
	b.stop()
	away.start()
	away.wait("lets in the node, or has heard about it", func() (bool, string) {
		p := away.n.Peers()
		return slices.ContainsFunc(p, func(p api.Peer) bool { return p.Peer == id && (p.Connected || p.Out != "") }), fmt.Sprintf("%+v", p)
	})
	a.start()
	shows(away, inItsLog)
	stolen.cutOff()
	b.start()
	b.imports(study("1.2.3.2", ada, "20240103", 1)...)
	stolen.imports(study("1.2.3.4", ada, "20240104", 1)...)
	for _, tr := range []*trust{a, away} {
		tr.hearsOf("1.2.3.2")
		if len(tr.find("1.2.3.3")) != 1 {
			t.Fatal("what counts of what it said is not found any more")
		}
		tr.wait("lacks nothing", func() (bool, string) {
			s := tr.n.Silence()
			return len(s) == 0, strings.Join(s, "; ")
		})
	}
	if len(stolen.find("1.2.3.2"))+len(a.find("1.2.3.4"))+len(away.find("1.2.3.4"))+len(b.find("1.2.3.4")) > 0 {
		t.Fatal("facts still go between them")
	}
	// Its trust goes on with another node in its place.
	next := sibling(b, b)
	next.start()
	next.wait("is let in", func() (bool, string) {
		s := next.n.Silence()
		return len(s) == 0, strings.Join(s, "; ")
	})
	next.hearsOf("1.2.3.3")
	shows(next, "the invitation")
}

// Whoever joins after an expulsion has the same roster, and hears nothing of who was expelled.
func TestWhoJoinsAfterAnExpulsion(t *testing.T) {
	all := region(t, "RX1", "RX2", "RX3")
	a, b, out := all[0], all[1], all[2]
	out.imports(study("1.2.3.3", ada, "20240101", 1)...)
	a.hearsOf("1.2.3.3")
	a.expels(out)
	b.wait("expels it", func() (bool, string) {
		x, err := b.n.Expel(context.Background(), "rx3 ")
		return err == nil && x.Expelled, fmt.Sprintf("%+v, %v", x, err)
	})
	out.cutOff()
	all = joined(t, []*trust{a, b}, "RX4")
	d := all[2]
	d.wait("has the same roster", func() (bool, string) {
		r := d.status().Roster
		return len(r.Expulsions) == 1 && r.Expulsions[0].Expelled && r.Expulsions[0].Trust == "RX3" && r.Quorum == 2, fmt.Sprintf("%+v", r)
	})
	b.imports(study("1.2.3.2", ada, "20240102", 1)...)
	d.hearsOf("1.2.3.2")
	if len(d.find("1.2.3.3")) > 0 || len(a.find("1.2.3.3")) != 1 {
		t.Fatal("what an expelled trust said reaches who has joined since, or is gone where it was")
	}
	for _, c := range []struct {
		by   *trust
		whom string
		want string
	}{{a, "RX9", "no member of the region"}, {a, strings.Repeat("x", 1000), "no member of the region"}} {
		if _, err := c.by.n.Expel(context.Background(), c.whom); err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 300 {
			t.Errorf("%.20s: %v", c.whom, err)
		}
	}
}

// A copy of what a trust had that was expelled is kept, whatever the quota: nobody can be asked for it.
func TestCopiesOfAnExpelledTrustStay(t *testing.T) {
	all := region(t, "RX1", "RX2", "RX3")
	a, b, out := all[0], all[1], all[2]
	theirs, others := study("1.2.3.3", ada, "20240101", 2), study("1.2.3.2", ada, "20240102", 2)
	out.imports(theirs...)
	b.imports(others...)
	for _, list := range [][]dicomtest.Instance{theirs, others} { // the one that is to stay is the first to go
		a.hearsOf(list[0].Study)
		a.serves(list[0].Study, list)
		a.waitAvailability(list[0].Study, "ONLINE")
	}
	a.expels(out)
	b.wait("expels it", func() (bool, string) {
		x, err := b.n.Expel(context.Background(), "RX3")
		return err == nil && x.Expelled, fmt.Sprintf("%+v, %v", x, err)
	})
	out.cutOff()
	a.wait("shows it as expelled", func() (bool, string) {
		r := a.status().Roster
		return len(r.Expulsions) == 1 && r.Expulsions[0].Expelled, fmt.Sprintf("%+v", r)
	})
	a.stop()
	a.home.Config.Space.Copies, a.home.Config.Space.KeepCopies = 1, node.Duration(time.Millisecond)
	a.start()
	a.waitAvailability(others[0].Study, "NEARLINE")
	if got := a.availability(theirs[0].Study); got != "ONLINE" {
		t.Fatalf("%s: the only copy there is has gone", got)
	}
	a.serves(theirs[0].Study, theirs)
}

// A trust whose only node was revoked is named as that in every answer, not as one
// that is silent or was never there.
func TestATrustWithoutANodeIsNamed(t *testing.T) {
	all := region(t, "RX1", "RX2")
	a, b := all[0], all[1]
	b.imports(study("1.2.3.1", ada, "20240101", 1)...)
	a.hearsOf("1.2.3.1")
	head, _ := a.n.Index().Head(b.n.Index().Self())
	v, err := b.home.RevokeNode(b.peer(), "", index.LogEnd{Epoch: head.Epoch, Seq: head.Seq})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.n.Revoke(context.Background(), v.String()); err != nil {
		t.Fatal(err)
	}
	a.wait("names it", func() (bool, string) {
		f := a.finds("patient=nobody")
		return len(f.Studies) == 0 && len(f.Warnings) == 1 && strings.HasPrefix(f.Warnings[0], "RX2 has no node any more that is let in"), strings.Join(f.Warnings, "; ")
	})
	if f := a.finds("study=1.2.3.1"); len(f.Studies) != 1 {
		t.Errorf("what it told before: %+v", f)
	}
}

// What a node put into its trust's bucket stays its trust's when the node is revoked, and when the trust is expelled.
func TestABucketOutlivesWhoPutIntoIt(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket("originals", false)
	first := newTrust(t, "RX1", "Test region")
	first.inBucket(server, bucket)
	first.home.Config.Space.SweepAfter, first.home.Config.Space.RoundEvery = node.Duration(20*time.Millisecond), node.Duration(50*time.Millisecond)
	first.home.Config.Space.Copies, first.home.Config.Space.KeepCopies = 1, 0
	all := regionOf(t, first, "RX2")
	other := all[1]
	second := sibling(first, first)
	second.start()
	list := study("1.2.3.1", ada, "20240101", 3)
	second.imports(list...)
	first.serves("1.2.3.1", list)
	head, _ := first.n.Index().Head(second.n.Index().Self())
	v, err := first.home.RevokeNode(second.peer(), "", index.LogEnd{Epoch: head.Epoch, Seq: head.Seq})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.n.Revoke(context.Background(), v.String()); err != nil {
		t.Fatal(err)
	}
	second.cutOff()
	second.stop()
	own := func() {
		t.Helper()
		first.stop()
		first.start()
		first.serves("1.2.3.1", list)
		if s := first.status().Space; s.Copies.Studies != 0 || s.Originals.Studies != 1 {
			t.Fatalf("%+v", s)
		}
		if got := first.availability("1.2.3.1"); got != "ONLINE" {
			t.Fatal(got)
		}
	}
	own()
	other.serves("1.2.3.1", list)
	first.expels(first)
	other.wait("expels it too", func() (bool, string) {
		x, err := other.n.Expel(context.Background(), "RX1")
		return err == nil && x.Expelled, fmt.Sprintf("%+v, %v", x, err)
	})
	own()
}
