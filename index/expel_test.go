package index

import (
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"
)

// expel lets some members vote to expel one.
func (r *region) expel(t interface {
	Helper()
	Fatal(...any)
}, whom TrustID, by ...TrustID) {
	t.Helper()
	roster := r.roster()
	for _, m := range by {
		v, err := Expel(trustKeyOf(m), roster, whom, roster.NextSerial(m))
		if err != nil {
			t.Fatal(err)
		}
		r.votes = append(r.votes, v)
	}
}

// expels is a well-formed, well-signed vote to expel, whatever rules it breaks.
func (r *region) expels(by TrustID, serial uint64, whom TrustID, turns []Turn, basis ...TrustID) Vote {
	slices.Sort(basis)
	v, err := Vote{Region: r.id, Op: OpExpel, Card: cardOf(whom), Basis: basis, Turns: turns, By: by, Serial: serial}.sign(trustKeyOf(by))
	if err != nil {
		panic(err)
	}
	return v
}

func TestExpelling(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC", "RDD", "REE")
	r.expel(t, "REE", "RBB", "RCC")
	roster := r.roster()
	if membersOf(roster) != "RAA RBB RCC RDD REE" || !reflect.DeepEqual(roster.Expulsions, []Expulsion{{"REE", 2, 3, []TrustID{"RBB", "RCC"}}}) {
		t.Fatalf("%s, %+v", membersOf(roster), roster.Expulsions)
	}
	if _, ok := roster.Allowed(nodeOf("REE")); !ok {
		t.Fatal("a minority keeps a node out")
	}
	r.expel(t, "REE", "RDD")
	roster = r.roster()
	if membersOf(roster) != "RAA RBB RCC RDD" || roster.Quorum() != 3 || len(roster.Expulsions) > 0 || len(roster.Faults) > 0 || len(roster.Unseated) > 0 ||
		!slices.Equal(roster.Expelled, []TrustID{"REE"}) {
		t.Fatalf("%+v", roster)
	}
	if _, ok := roster.Allowed(nodeOf("REE")); ok {
		t.Fatal("the node of an expelled trust is let in")
	}
	if have, need, by := roster.StandingOfExpulsion("REE"); have != 3 || need != 3 || len(by) != 3 {
		t.Fatalf("%d of %d, %v", have, need, by)
	}
	// An invitation has all that the roster rests on.
	if again := EvalRoster(r.id, roster.Votes(), nil); !reflect.DeepEqual(again, roster) {
		t.Fatalf("%+v", again)
	}
	// Life goes on: admitting, expelling the founder, and admitting again who was expelled, with another key too.
	r.admit(cardOf("RFF"))
	r.expel(t, "RAA", "RAA", "RCC", "RFF")
	if got := membersOf(r.roster()); got != "RBB RCC RDD RFF" {
		t.Fatal(got)
	}
	for _, card := range []Card{cardOf("REE"), cardWith("RAA", testKey("new"), testKey("new node"))} {
		if have, _, _ := r.roster().Standing(card.Hash()); have != 0 {
			t.Fatalf("%d old votes count for a new admission", have)
		}
		r.admit(card)
	}
	roster = r.roster()
	if got := membersOf(roster); got != "RAA RBB RCC RDD REE RFF" || len(roster.Faults) > 0 || len(roster.Candidates) > 0 || len(roster.Expelled) > 0 {
		t.Fatalf("%s %+v", got, roster.Faults)
	}
	if m, _ := roster.Member("RAA"); m.Disputed || !slices.Equal(m.TrustKey, testKey("new").Public().(ed25519.PublicKey)) {
		t.Fatalf("%+v", m)
	}
	for node, want := range map[NodeID]bool{nodeOf("REE"): true, nodeOf("RAA"): false, NodeIDOf(testKey("new node")): true} {
		if _, ok := roster.Allowed(node); ok != want {
			t.Fatalf("%s: %v", node, ok)
		}
	}
	// The old key of a trust that came back with a new one says nothing any more; the new one votes.
	if _, err := Expel(trustKeyOf("RAA"), roster, "RBB", roster.NextSerial("RAA")); err == nil {
		t.Fatal("the old key votes")
	}
	if v, err := Expel(testKey("new"), roster, "RBB", roster.NextSerial("RAA")); err != nil || v.Serial != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
}

func TestExpelRefusals(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	roster := r.roster()
	expel := func(by, whom TrustID, serial uint64) error {
		_, err := Expel(trustKeyOf(by), roster, whom, serial)
		return err
	}
	alone := foundRegion("RAA").roster()
	_, only := Expel(trustKeyOf("RAA"), alone, "RAA", 2)
	r.expel(t, "RCC", "RAA")
	roster = r.roster()
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"no member":      {expel("RAA", "RXX", 4), "no member"},
		"by a stranger":  {expel("RXX", "RAA", 1), "not on the roster itself"},
		"the only one":   {only, "only member"},
		"wrong serial":   {expel("RBB", "RAA", 9), "not the next"},
		"a second other": {expel("RAA", "RBB", roster.NextSerial("RAA")), "has voted to expel RCC already"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, c.err, c.want)
		}
	}
	v, err := Expel(trustKeyOf("RAA"), roster, "RCC", roster.NextSerial("RAA"))
	if err != nil || v.Hash() != r.votes[len(r.votes)-1].Hash() {
		t.Fatalf("voting twice makes another vote: %+v, %v", v, err)
	}
}

// What those who were expelled try with their old seats and the help of some keys of those who stay.
func TestExpelAttacks(t *testing.T) {
	all := []TrustID{"RAA", "RBB", "RCC", "RDD", "REE"}
	evil := cardOf("RXX")
	for name, c := range map[string]struct {
		expelled []TrustID
		votes    func(r *region) []Vote
		want     string
		fault    string
	}{
		"one and two others, one of whom voted, against another, on the old roster": {all[4:], func(r *region) []Vote {
			return []Vote{
				r.expels("RDD", 2, "RAA", nil, all...), r.expels("REE", 1, "RAA", nil, all...), r.expels("RCC", 4, "RAA", nil, all...),
			}
		}, "RAA RBB RCC RDD", "to expel another, on the same roster"},
		"both and one who voted, to admit a friend, on the roster before the last": {all[3:], func(r *region) []Vote {
			return []Vote{
				r.cast("RDD", 2, evil, all...), r.cast("REE", 1, evil, all...), r.cast("RCC", 5, evil, all...),
			}
		}, "RAA RBB RCC", "goes back"},
		"a seat of theirs on a roster of their own": {all[3:], func(r *region) []Vote {
			return []Vote{r.expels("RDD", 2, "RAA", nil, "RAA", "RDD"), r.expels("REE", 1, "RAA", nil, "RAA", "REE")}
		}, "RAA RBB RCC", ""},
		"back by turns that nobody decided": {all[3:], func(r *region) []Vote {
			v := Vote{Region: r.id, Op: OpExpel, Card: cardOf("RAA"), Basis: []TrustID{"RAA", "REE"}, Turns: []Turn{{"REE", 3}}, By: "REE", Serial: 1}
			v, err := v.sign(trustKeyOf("REE"))
			if err != nil {
				panic(err)
			}
			return []Vote{v}
		}, "RAA RBB RCC", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := foundRegion(all...)
			for i := range c.expelled {
				r.expel(t, c.expelled[len(c.expelled)-1-i], "RAA", "RBB", "RCC")
			}
			if got := membersOf(r.roster()); got != c.want {
				t.Fatal(got)
			}
			roster := EvalRoster(r.id, append(slices.Clone(r.votes), c.votes(r)...), nil)
			if again := EvalRoster(r.id, append(c.votes(r), r.votes...), nil); !reflect.DeepEqual(again, roster) {
				t.Fatal("the order of votes matters")
			}
			if got := membersOf(roster); got != c.want {
				t.Fatalf("members %s, want %s", got, c.want)
			}
			for _, n := range append(slices.Clone(c.expelled), "RXX") {
				if _, ok := roster.Allowed(nodeOf(n)); ok {
					t.Fatalf("the node of %s is let in", n)
				}
			}
			var faults []string
			for _, f := range roster.Faults {
				faults = append(faults, f.Why)
			}
			if !strings.Contains(strings.Join(faults, "; "), c.fault) {
				t.Fatalf("faults %q, want %q", faults, c.fault)
			}
		})
	}
}

// A member that signs a second vote under the serial by which it expelled somebody brings his seat back, and not his nodes.
func TestEquivocationLetsNobodyBackIn(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC", "RDD")
	r.expel(t, "RDD", "RAA", "RBB", "RCC")
	serial := r.votes[len(r.votes)-1].Serial
	r.votes = append(r.votes, r.cast("RCC", serial, cardOf("RXX"), "RAA", "RBB", "RCC", "RDD"))
	roster := r.roster()
	m, ok := roster.Member("RDD")
	if _, in := roster.Allowed(nodeOf("RDD")); !ok || !m.Suspended || in || len(roster.Faults) == 0 {
		t.Fatalf("%+v, let in: %v", m, in)
	}
	if _, in := roster.Allowed(nodeOf("RAA")); !in {
		t.Fatal("others fell")
	}
	// The way back: vote again.
	r.expel(t, "RDD", "RCC")
	if got := membersOf(r.roster()); got != "RAA RBB RCC" {
		t.Fatal(got)
	}
}

// Whatever order votes come in, and whichever are still missing, all who have the same votes have the same roster; and who is expelled
// by votes that are there is not brought back by more of honest members.
func TestExpulsionsHoldInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := foundRegion("RAA", "RBB", "RCC", "RDD")
		out := map[TrustID]bool{}
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			roster := r.roster()
			if len(roster.Members) < 3 {
				break
			}
			whom := rapid.SampledFrom(roster.Members).Draw(t, "whom").Trust
			by := rapid.Permutation(roster.Members).Draw(t, "by")
			for _, m := range by[:roster.Quorum()] {
				r.expel(t, whom, m.Trust)
			}
			out[whom] = true
			if rapid.Bool().Draw(t, "again") {
				r.admit(cardOf(whom))
				delete(out, whom)
			}
		}
		want := r.roster()
		for _, m := range want.Members {
			if out[m.Trust] {
				t.Fatalf("%s is a member", m.Trust)
			}
		}
		if len(want.Faults) > 0 {
			t.Fatalf("%+v", want.Faults)
		}
		if got := EvalRoster(r.id, rapid.Permutation(r.votes).Draw(t, "order"), nil); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
	})
}

// Three members each of whom has voted to expel another are stuck on that roster: no vote can be taken back. Another roster, with
// somebody whom two of them admit, lets them vote anew.
func TestThreeWhoExpelEachOther(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	r.expel(t, "RBB", "RAA")
	r.expel(t, "RCC", "RBB")
	r.expel(t, "RAA", "RCC")
	roster := r.roster()
	if got := membersOf(roster); got != "RAA RBB RCC" || len(roster.Expulsions) != 3 || len(roster.Faults) > 0 {
		t.Fatalf("%s %+v %+v", got, roster.Expulsions, roster.Faults)
	}
	if _, err := Expel(trustKeyOf("RAA"), roster, "RCC", roster.NextSerial("RAA")); err == nil {
		t.Fatal("it votes twice on one roster")
	}
	for _, by := range []TrustID{"RAA", "RBB"} {
		v, err := Admit(trustKeyOf(by), roster, cardOf("RDD"), roster.NextSerial(by))
		if err != nil {
			t.Fatal(err)
		}
		r.votes = append(r.votes, v)
	}
	r.expel(t, "RCC", "RAA", "RBB", "RDD")
	roster = r.roster()
	// What RCC had voted is not shown any more; RAA's vote of before is.
	if want := []Expulsion{{"RBB", 1, 2, []TrustID{"RAA"}}}; membersOf(roster) != "RAA RBB RDD" || !reflect.DeepEqual(roster.Expulsions, want) || len(roster.Faults) > 0 {
		t.Fatalf("%s %+v %+v", membersOf(roster), roster.Expulsions, roster.Faults)
	}
}

// Who was expelled can still complete, with a vote on the old roster, what others had voted there before, and nothing else.
func TestAnExpelledTrustCompletesAnOldAdmission(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC", "RDD")
	old := []TrustID{"RAA", "RBB", "RCC", "RDD"}
	for _, by := range []TrustID{"RAA", "RBB"} {
		v, err := Admit(trustKeyOf(by), r.roster(), cardOf("REE"), r.roster().NextSerial(by))
		if err != nil {
			t.Fatal(err)
		}
		r.votes = append(r.votes, v)
	}
	r.expel(t, "RDD", "RAA", "RBB", "RCC")
	late := r.cast("RDD", 1, cardOf("REE"), old...)
	alone := r.cast("RDD", 2, cardOf("RXX"), old...)
	if got := membersOf(EvalRoster(r.id, append(slices.Clone(r.votes), late, alone), nil)); got != "RAA RBB RCC REE" {
		t.Fatal(got)
	}
	// Once those who had voted for it have voted on the roster that follows, they cannot be brought to add to the old one.
	r.admit(cardOf("RFF"))
	more := r.cast("RAA", r.roster().NextSerial("RAA"), cardOf("RXX"), old...)
	again := r.cast("RBB", r.roster().NextSerial("RBB"), cardOf("RXX"), old...)
	roster := EvalRoster(r.id, append(slices.Clone(r.votes), alone, late, more, again), nil)
	if got := membersOf(roster); strings.Contains(got, "RXX") || !strings.Contains(got, "RFF") {
		t.Fatal(got)
	}
}

func TestRevoking(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	second := testKey("second node of RBB")
	cert, err := NewNodeCert(trustKeyOf("RBB"), "RBB", second, 2)
	if err != nil {
		t.Fatal(err)
	}
	revoke := func(by, trust TrustID, n NodeID, ends ...LogEnd) Revocation {
		t.Helper()
		v, err := Revoke(trustKeyOf(by), r.id, trust, n, ends...)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	stolen := nodeOf("RBB")
	allowed := func(revoked ...Revocation) bool {
		roster := EvalRoster(r.id, r.votes, []NodeCert{cert}, revoked...)
		if _, ok := roster.Allowed(NodeIDOf(second)); !ok {
			t.Fatal("another node of the trust is out")
		}
		_, ok := roster.Allowed(stolen)
		return ok
	}
	elsewhere, err := Revoke(trustKeyOf("RBB"), RegionID{1}, "RBB", stolen)
	if err != nil {
		t.Fatal(err)
	}
	true1 := revoke("RBB", "RBB", stolen)
	for name, v := range map[string]Revocation{
		"another member's key":     revoke("RAA", "RBB", stolen),
		"another member's word":    revoke("RAA", "RAA", stolen),
		"a stranger's":             revoke("RXX", "RXX", stolen),
		"a key of nobody":          revoke("RXX", "RBB", stolen),
		"of another node":          revoke("RBB", "RBB", nodeOf("RXX")),
		"with a signature moved":   {Region: r.id, Trust: "RBB", TrustKey: true1.TrustKey, Node: stolen, Ends: []LogEnd{{1, 9}}, Sig: true1.Sig},
		"with no signature at all": {Region: r.id, Trust: "RBB", TrustKey: true1.TrustKey, Node: stolen, Sig: make([]byte, 64)},
		"made for another region":  elsewhere,
	} {
		if !allowed(v) {
			t.Errorf("%s revokes the node", name)
		}
	}
	if !allowed() || allowed(true1) {
		t.Fatal("the trust's own word does not")
	}
	// Nothing brings it back: no certificate of a higher serial, no other revocation.
	again, err := NewNodeCert(trustKeyOf("RBB"), "RBB", nodeKeyOf("RBB"), 99)
	if err != nil {
		t.Fatal(err)
	}
	early, late := revoke("RBB", "RBB", stolen, LogEnd{1, 5}), revoke("RBB", "RBB", stolen, LogEnd{1, 7})
	roster := EvalRoster(r.id, r.votes, []NodeCert{again}, late, true1, early)
	if _, ok := roster.Allowed(stolen); ok {
		t.Fatal("a certificate brings it back")
	}
	if v, ok := roster.Revocation(stolen); !ok || v.end(1) != 5 || !reflect.DeepEqual(roster, EvalRoster(r.id, r.votes, []NodeCert{again}, early, late, true1)) {
		t.Fatalf("%+v: the order matters", v)
	}
	text := true1.String()
	if got, err := ParseRevocation(text[:30] + "\n" + text[30:]); err != nil || !reflect.DeepEqual(got, true1) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := ParseRevocation(strings.Replace(text, "revocation", "card", 1)); err == nil {
		t.Fatal("a card is a revocation")
	}
}

// What a revoked node has said up to where its trust vouches for it reaches everybody, from others; and nothing after.
func TestLogOfARevokedNode(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	a, b, c := openTest(t, "RAA", r), openTest(t, "RBB", r), openTest(t, "RCC", r)
	say(t, b, note("x", "1"))
	end := say(t, b, note("x", "2"), note("y", "1"))
	copyLog(t, b, a, b.Self())
	last := say(t, b, note("x", "what the thief says")) // RAA has heard of it
	copyLog(t, b, a, b.Self())
	v, err := Revoke(trustKeyOf("RBB"), r.id, "RBB", b.Self(), LogEnd{end.Epoch, end.Seq})
	if err != nil {
		t.Fatal(err)
	}
	st, err := RevocationStatement(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Roster().Allowed(b.Self()); !ok {
		t.Fatal("it is revoked before anybody has said so")
	}
	say(t, a, st)
	copyLog(t, a, c, a.Self())
	for _, x := range []*Index{a, c, b} {
		if x == b {
			copyLog(t, a, b, a.Self()) // its own node learns of it, too
		}
		if _, ok := x.Roster().Allowed(b.Self()); ok || !slices.Equal(x.Roster().Revoked, []NodeID{b.Self()}) {
			t.Fatal("the node is let in")
		}
	}
	if after, behind, err := c.Heard(last); after != 0 || !behind || err != nil {
		t.Fatalf("%d, %v, %v", after, behind, err)
	}
	batches, err := a.Range(b.Self(), 1, 0, MaxAnswer)
	if err != nil || len(batches) != 3 {
		t.Fatalf("%d, %v", len(batches), err)
	}
	for i, batch := range batches {
		verified, err := batch.Verify()
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Take([]Verified{verified})
		var uncertified *UncertifiedError
		if i < 2 && err != nil || i == 2 && !errors.As(err, &uncertified) {
			t.Fatalf("batch %d: %v", i, err)
		}
	}
	if _, behind, err := c.Heard(last); behind || err != nil {
		t.Fatalf("%v, %v: it is asked for what is not taken", behind, err)
	}
	if h, _ := c.Head(b.Self()); h.Seq != end.Seq {
		t.Fatalf("it ends at %d, not at %d", h.Seq, end.Seq)
	}
	// What the thief said is marked where it was taken before.
	for subject, want := range map[string]bool{"x": true, "y": false} {
		if got, err := a.Facts("note", subject); err != nil || len(got) != 1 || got[0].Quarantined != want {
			t.Fatalf("%s: %+v, %v", subject, got, err)
		}
	}
	// Nor does he go on in an epoch that is not named.
	var uncertified *UncertifiedError
	if _, err := c.Take(sealed(t, nodeKeyOf("RBB"), end.Epoch+1, []Statement{note("z", "1")})); !errors.As(err, &uncertified) {
		t.Fatal(err)
	}
	// What was said after a start, and what an invitation brings, counts the same.
	opt := testOptions("RBB", r)
	opt.Self = testKey("another node")
	opt.Revoked = []Revocation{v}
	db := openDB(t, "")
	defer db.Close()
	if _, ok := openIn(t, db, opt).Roster().Allowed(b.Self()); ok {
		t.Fatal("the node is let in")
	}
	again := openIn(t, c.db, testOptions("RCC", r))
	if _, ok := again.Roster().Allowed(b.Self()); ok {
		t.Fatal("after a start the node is let in")
	}
}

// A version that did not know the operation kept votes to expel without looking at their cards. Such a row does not keep the index shut.
func TestAVoteKeptByAnOlderVersion(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	x := openTest(t, "RAA", r)
	v := r.expels("RBB", 1, "RAA", nil, "RAA", "RBB")
	v.Card.NodeCert.Sig = make([]byte, ed25519.SignatureSize)
	v.Sig = ed25519.Sign(trustKeyOf("RBB"), v.signed())
	if _, err := DecodeVote(v.Encode()); err == nil {
		t.Fatal("its card holds")
	}
	if err := x.Update(func(txn *badger.Txn) error { return txn.Set(voteKey(0, false, v), v.Encode()) }); err != nil {
		t.Fatal(err)
	}
	if got := membersOf(openIn(t, x.db, testOptions("RAA", r)).Roster()); got != "RAA RBB" {
		t.Fatal(got)
	}
}

// Nodes that have taken different parts of the log of one who is out agree that it is over; of a revoked node's log all come to have what
// its trust vouches for, and no more is asked for.
func TestNodesAgreeOnTheLogsOfThoseWhoAreOut(t *testing.T) {
	agree := func(a, b *Index) bool {
		t.Helper()
		of := func(x *Index) *Sync {
			return NewSync(x, SyncOptions{Self: x.Self(), Rand: rand.New(rand.NewPCG(1, 2))})
		}
		return of(a).Agree(of(b).view().digest(), nodeOf("RAA"), nodeOf("RBB"), nodeOf("RCC"))
	}
	statement := func(v Vote) Statement {
		t.Helper()
		st, err := VoteStatement(v)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	for _, how := range []string{"expelled", "revoked", "revoked and vouched for"} {
		t.Run(how, func(t *testing.T) {
			r := foundRegion("RAA", "RBB", "RCC")
			a, b, out := openTest(t, "RAA", r), openTest(t, "RBB", r), openTest(t, "RCC", r)
			say(t, out, note("x", "1"))
			copyLog(t, out, b, out.Self())
			end := say(t, out, note("x", "2"))
			say(t, out, note("x", "3"))
			copyLog(t, out, a, out.Self())
			last, _ := out.Head(out.Self())
			if _, behind, err := b.Heard(last); !behind || err != nil {
				t.Fatalf("%v, %v", behind, err)
			}
			if agree(a, b) {
				t.Fatal("they have the same of it already")
			}
			switch how {
			case "expelled":
				r.expel(t, "RCC", "RAA", "RBB")
				say(t, a, statement(r.votes[len(r.votes)-2]), statement(r.votes[len(r.votes)-1]))
			default:
				var ends []LogEnd
				if how != "revoked" {
					ends = []LogEnd{{end.Epoch, end.Seq}}
				}
				v, err := Revoke(trustKeyOf("RCC"), r.id, "RCC", out.Self(), ends...)
				if err != nil {
					t.Fatal(err)
				}
				st, err := RevocationStatement(v)
				if err != nil {
					t.Fatal(err)
				}
				say(t, a, st)
			}
			copyLog(t, a, b, a.Self())
			if how == "revoked and vouched for" {
				if agree(a, b) {
					t.Fatal("nobody notices that what counts is lacking")
				}
				if got := copyLogTo(t, a, b, out.Self(), end.Seq); got != end.Seq {
					t.Fatalf("it ends at %d, not at %d", got, end.Seq)
				}
			}
			if !agree(a, b) {
				t.Fatal("they would tell each other for ever")
			}
			if how != "revoked and vouched for" {
				c := openTest(t, "RBB", r) // has come since, and gets nothing of it
				copyLog(t, a, c, a.Self())
				if _, ok := c.Head(out.Self()); ok || !agree(a, c) || !agree(c, b) {
					t.Fatal("those who have come since would ask for ever")
				}
			}
			for _, x := range []*Index{a, b} {
				if l := lagOf(t, x, out.Self()); l.Heard != l.Applied {
					t.Fatalf("%d are on the way for ever", l.Heard-l.Applied)
				}
			}
		})
	}
}

// copyLogTo gives what one index has of a log up to a place to another, and returns how far that has it.
func copyLogTo(t *testing.T, from, to *Index, n NodeID, last Seq) Seq {
	t.Helper()
	h, _ := to.Head(n)
	batches, err := from.Range(n, 1, h.Seq, MaxAnswer)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		v, err := b.Verify()
		if err != nil {
			t.Fatal(err)
		}
		if v.Head().Seq > last {
			break
		}
		if _, err := to.Take([]Verified{v}); err != nil {
			t.Fatal(err)
		}
	}
	h, _ = to.Head(n)
	return h.Seq
}

// A version that knew no revocations kept them, well formed or not. One that knows them obeys those that hold when it opens the index.
func TestARevocationKeptByAnOlderVersion(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	second := testKey("second node of RBB")
	v, err := Revoke(trustKeyOf("RBB"), r.id, "RBB", NodeIDOf(second))
	if err != nil {
		t.Fatal(err)
	}
	st, err := RevocationStatement(v)
	if err != nil {
		t.Fatal(err)
	}
	forged := v
	forged.Node = nodeOf("RBB")
	bad := []Statement{
		{Kind: KindRevocation, Subject: forged.subject(), Body: encode(forged)},
		{Kind: KindRevocation, Subject: "x", Body: encode(v)},
		{Kind: KindRevocation, Subject: "y", Body: []byte{0xa0}},
		{Kind: KindRevocation, Subject: st.Subject, Body: []byte("of a later version"), Version: 2},
	}
	db := openDB(t, "")
	defer db.Close()
	old, err := open(db, testOptions("RAA", r), before())
	if err != nil {
		t.Fatal(err)
	}
	log := sealed(t, nodeKeyOf("RBB"), 1, append([]Statement{st}, bad...))
	if _, err := old.Take(log); err != nil {
		t.Fatal(err)
	}
	if n := len(old.Roster().Revoked); n > 0 {
		t.Fatalf("%d nodes are revoked by what is not known", n)
	}
	// It is relayed as it came.
	passed, err := old.Range(nodeOf("RBB"), 1, 0, MaxAnswer)
	if err != nil || len(passed) != 1 || !reflect.DeepEqual(passed[0].Payloads, log[0].Batch().Payloads) {
		t.Fatalf("%d batches, %v", len(passed), err)
	}
	for range 2 { // the second time from what was read the first time
		x, err := open(db, testOptions("RAA", r), thisUnderstanding())
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Roster().Revoked; !slices.Equal(got, []NodeID{NodeIDOf(second)}) {
			t.Fatalf("%v", got)
		}
		if l := lagOf(t, x, nodeOf("RBB")); l.Unread != len(bad) {
			t.Fatalf("%d unread, want %d", l.Unread, len(bad))
		}
	}
}

// What the roster rests on is said again when nobody who is let in says it: a vote that only the log of an expelled trust has is not to
// be had from others any more.
func TestWhatAnExpelledTrustVotedIsSaidAgain(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	a, c := openTest(t, "RAA", r), openTest(t, "RBB", r)
	gone := openTest(t, "RCC", r)
	x := r.cast("RCC", 1, cardOf("RXX"), "RAA", "RBB", "RCC")
	y := r.cast("RBB", r.roster().NextSerial("RBB"), cardOf("RXX"), "RAA", "RBB", "RCC")
	statement := func(v Vote) Statement {
		t.Helper()
		st, err := VoteStatement(v)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	say(t, gone, statement(x))
	copyLog(t, gone, a, gone.Self())
	r.expel(t, "RCC", "RAA", "RBB")
	for _, v := range r.votes[len(r.votes)-2:] {
		say(t, a, statement(v))
	}
	copyLog(t, a, c, a.Self())
	y.Serial = c.Roster().NextSerial("RBB")
	y, err := y.sign(trustKeyOf("RBB"))
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, statement(y))
	copyLog(t, c, a, c.Self())
	if got := membersOf(a.Roster()); got != "RAA RBB RXX" {
		t.Fatal(got)
	}
	if got := membersOf(c.Roster()); got != "RAA RBB" {
		t.Fatalf("%s: it needs no vote that it has not heard", got)
	}
	again, err := a.Unspoken()
	if err != nil {
		t.Fatal(err)
	}
	// Who is out says nothing again: nobody hears it.
	copyLog(t, a, gone, a.Self())
	if got := membersOf(gone.Roster()); strings.Contains(got, "RCC") {
		t.Fatal(got)
	}
	if again, err := gone.Unspoken(); err != nil || len(again) > 0 {
		t.Fatalf("%d, %v: said by who is out", len(again), err)
	}
	say(t, a, again...)
	copyLog(t, a, c, a.Self())
	if got := membersOf(c.Roster()); got != "RAA RBB RXX" {
		t.Fatal(got)
	}
	for _, x := range []*Index{a, c} {
		if again, err := x.Unspoken(); err != nil || len(again) > 0 {
			t.Fatalf("%d, %v: it is said twice", len(again), err)
		}
	}
}

// Of an author's logs so many votes are looked at. What was said again and is not looked at is said by somebody else too.
func TestWhatIsNotLookedAtIsNotSaid(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	r.expel(t, "RCC", "RAA", "RBB")
	a, b := openTest(t, "RAA", r), openTest(t, "RBB", r)
	a.maxVotes, b.maxVotes = 2, 2
	unspoken := func(x *Index) []Statement {
		t.Helper()
		again, err := x.Unspoken()
		if err != nil {
			t.Fatal(err)
		}
		return again
	}
	all := unspoken(a)
	if len(all) != len(r.votes) {
		t.Fatalf("%d of %d votes, which only an invitation has, are to be said", len(all), len(r.votes))
	}
	say(t, a, all...)
	if n := len(unspoken(a)); n > 0 {
		t.Fatalf("%d would be said for ever", n)
	}
	copyLog(t, a, b, a.Self())
	if n := len(unspoken(b)); n != len(all)-2 {
		t.Fatalf("%d are to be said, and %d were not looked at", n, len(all)-2)
	}
}
