package index

import (
	"crypto/ed25519"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// cast makes a well-formed, well-signed vote to admit, whatever rules it breaks.
func (r *region) cast(by TrustID, serial uint64, card Card, basis ...TrustID) Vote {
	return r.castWith(trustKeyOf(by), by, serial, card, basis...)
}

func (r *region) castWith(key ed25519.PrivateKey, by TrustID, serial uint64, card Card, basis ...TrustID) Vote {
	slices.Sort(basis)
	basis = slices.Compact(basis)
	v, err := Vote{Region: r.id, Op: OpAdmit, Card: card, Basis: basis, By: by, Serial: serial}.sign(key)
	if err != nil {
		panic(err)
	}
	return v
}

func membersOf(r Roster) string {
	var out []string
	for _, m := range r.Members {
		s := string(m.Trust)
		if m.Disputed {
			s += "?"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestFoundingAndAdmitting(t *testing.T) {
	r := foundRegion("RAA")
	roster := r.roster()
	if membersOf(roster) != "RAA" || roster.Name != "Test region" || roster.Quorum() != 1 || !roster.Members[0].Founder {
		t.Fatalf("%+v", roster)
	}
	if trust, ok := roster.Allowed(nodeOf("RAA")); !ok || trust != "RAA" {
		t.Fatal("the founder's node is not let in")
	}
	for i, want := range []struct {
		trust  TrustID
		quorum int // of the roster before
	}{{"RBB", 1}, {"RCC", 2}, {"RDD", 2}, {"REE", 3}, {"RFF", 3}} {
		roster = r.roster()
		if roster.Quorum() != want.quorum {
			t.Fatalf("quorum %d of %d", roster.Quorum(), len(roster.Members))
		}
		card := cardOf(want.trust)
		var voters []TrustID
		for n, m := range roster.Members[:want.quorum] {
			if have, need, by := r.roster().Standing(card.Hash()); have != n || need != want.quorum || !slices.Equal(by, voters) {
				t.Fatalf("%s stands at %d of %d by %v", want.trust, have, need, by)
			}
			if _, ok := r.roster().Member(want.trust); ok {
				t.Fatalf("%s is in with %d votes", want.trust, n)
			}
			v, err := Admit(trustKeyOf(m.Trust), roster, card, roster.NextSerial(m.Trust))
			if err != nil {
				t.Fatal(err)
			}
			r.votes = append(r.votes, v)
			voters = append(voters, m.Trust)
		}
		if now := r.roster(); len(now.Members) != i+2 || len(now.Candidates) != 0 || len(now.Faults) != 0 {
			t.Fatalf("%+v", now)
		}
		if _, ok := r.roster().Allowed(nodeOf(want.trust)); !ok {
			t.Fatalf("the node of %s is not let in", want.trust)
		}
	}
	have, need, _ := r.roster().Standing(cardOf("RFF").Hash())
	if have != 3 || need != 3 {
		t.Fatalf("an admitted card stands at %d of %d", have, need)
	}
	if c := r.roster().Candidates; len(c) != 0 {
		t.Fatalf("%+v", c)
	}
}

func TestVotesSurviveEncoding(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	var again []Vote
	for _, v := range r.votes {
		w, err := DecodeVote(v.Encode())
		if err != nil || !reflect.DeepEqual(v, w) {
			t.Fatalf("%+v, %v", w, err)
		}
		again = append(again, w)
	}
	if !reflect.DeepEqual(EvalRoster(r.id, again, nil), r.roster()) {
		t.Fatal("another roster")
	}
}

func TestAdmitRefusals(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	roster := r.roster()
	admit := func(by TrustID, card Card, serial uint64) error {
		_, err := Admit(trustKeyOf(by), roster, card, serial)
		return err
	}
	forged := cardOf("RCC")
	forged.TrustKey = trustKeyOf("RXX").Public().(ed25519.PublicKey)
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a member":                     {admit("RAA", cardOf("RBB"), 3), "a member already"},
		"a member's code, another key": {admit("RAA", cardWith("RBB", testKey("x"), testKey("y")), 3), "under another key"},
		"a member's key, another code": {admit("RAA", cardWith("RCC", trustKeyOf("RBB"), testKey("y")), 3), "its key is that of member RBB"},
		"a member's node":              {admit("RAA", cardWith("RCC", testKey("x"), nodeKeyOf("RBB")), 3), "its node is that of member RBB"},
		"by a stranger":                {admit("RXX", cardOf("RCC"), 1), "not on the roster itself"},
		"a card that does not hold":    {admit("RAA", forged, 3), "does not verify"},
		"a serial used before":         {admit("RAA", cardOf("RCC"), 2), "not the next"},
		"a serial too far":             {admit("RAA", cardOf("RCC"), 4), "not the next"},
		"founding with another's card": {func() error { _, err := Found(trustKeyOf("RAA"), "x", cardOf("RBB")); return err }(), "another trust key"},
		"founding without a name":      {func() error { _, err := Found(trustKeyOf("RAA"), "", cardOf("RAA")); return err }(), "names the region"},
		"founding with a name too long": {func() error {
			_, err := Found(trustKeyOf("RAA"), strings.Repeat("x", MaxName+1), cardOf("RAA"))
			return err
		}(), "too long"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, c.err, c.want)
		}
	}
	v, err := Admit(trustKeyOf("RAA"), roster, cardOf("RCC"), 3)
	if err != nil {
		t.Fatal(err)
	}
	r.votes = append(r.votes, v)
	again, err := Admit(trustKeyOf("RAA"), r.roster(), cardOf("RCC"), r.roster().NextSerial("RAA"))
	if err != nil || again.Hash() != v.Hash() {
		t.Fatalf("voting twice makes another vote: %+v, %v", again, err)
	}
}

// What an attacker with some keys can try, and what comes of it.
func TestRosterAttacks(t *testing.T) {
	five := func() *region { return foundRegion("RAA", "RBB", "RCC", "RDD", "REE") }
	evil := cardOf("RXX")
	for name, c := range map[string]struct {
		region *region
		votes  func(r *region) []Vote
		want   string
		fault  string
	}{
		"nobody's signature": {five(), func(r *region) []Vote {
			var out []Vote
			for _, m := range []TrustID{"RAA", "RBB", "RCC", "RDD", "REE"} {
				out = append(out, r.castWith(testKey("thief"), m, r.roster().NextSerial(m), evil, "RAA", "RBB", "RCC", "RDD", "REE"))
			}
			return out
		}, "RAA RBB RCC RDD REE", ""},
		"a minority": {five(), func(r *region) []Vote {
			return []Vote{
				r.cast("RAA", 6, evil, "RAA", "RBB", "RCC", "RDD", "REE"), r.cast("RBB", 4, evil, "RAA", "RBB", "RCC", "RDD", "REE"),
			}
		}, "RAA RBB RCC RDD REE", ""},
		"one member many times": {five(), func(r *region) []Vote {
			var out []Vote
			for i := range uint64(5) {
				out = append(out, r.cast("RAA", 6+i, evil, "RAA", "RBB", "RCC", "RDD", "REE"))
			}
			return out
		}, "RAA RBB RCC RDD REE", ""},
		"the founder alone, on the first basis": {five(), func(r *region) []Vote {
			return []Vote{r.cast("RAA", 6, evil, "RAA")}
		}, "RAA RBB RCC RDD REE", "goes back"},
		"the founder alone, before anyone else voted": {foundRegion("RAA", "RBB"), func(r *region) []Vote {
			return []Vote{r.cast("RAA", 3, evil, "RAA")}
		}, "RAA RBB", "goes back"},
		"a majority of an old basis": {five(), func(r *region) []Vote {
			return []Vote{r.cast("RAA", 6, evil, "RAA", "RBB"), r.cast("RBB", 4, evil, "RAA", "RBB")}
		}, "RAA RBB RCC RDD REE", "goes back"},
		"a majority of an old basis, one of whom lags": {five(), func(r *region) []Vote {
			return []Vote{r.cast("RAA", 6, evil, "RAA", "RBB", "RCC"), r.cast("RBB", 4, evil, "RAA", "RBB", "RCC")}
		}, "RAA RBB RCC RDD REE", "goes back"},
		"an old basis under a serial left out": {five(), func(r *region) []Vote {
			return []Vote{r.cast("RAA", 9, evil, "RAA", "RBB"), r.cast("RBB", 9, evil, "RAA", "RBB")}
		}, "RAA RBB RCC RDD REE", "has not come yet"},
		"a basis of a majority's choosing": {five(), func(r *region) []Vote {
			return []Vote{r.cast("RDD", 2, evil, "RAA", "RDD"), r.cast("RAA", 6, evil, "RAA", "RDD")}
		}, "RAA RBB RCC RDD REE", "goes back"},
		"a basis without the founder": {five(), func(r *region) []Vote {
			return []Vote{r.cast("REE", 1, evil, "REE")}
		}, "RAA RBB RCC RDD REE", ""},
		"a basis that admits itself": {five(), func(r *region) []Vote {
			friend := cardOf("RYY")
			return []Vote{
				r.cast("RXX", 1, friend, "RAA", "RXX"), r.cast("RYY", 1, evil, "RAA", "RYY"),
				r.cast("RXX", 2, cardOf("RZZ"), "RAA", "RXX", "RYY"), r.cast("RYY", 2, cardOf("RZZ"), "RAA", "RXX", "RYY"),
			}
		}, "RAA RBB RCC RDD REE", ""},
		"a vote for oneself": {five(), func(r *region) []Vote {
			v := Vote{Region: r.id, Op: OpAdmit, Card: evil, Basis: []TrustID{"RAA", "RXX"}, By: "RXX", Serial: 1}
			v.Sig = ed25519.Sign(trustKeyOf("RXX"), v.signed())
			return []Vote{v}
		}, "RAA RBB RCC RDD REE", ""},
		"votes of another region": {foundRegion("RAA", "RBB"), func(r *region) []Vote {
			other, _ := Found(trustKeyOf("RAA"), "Other region", cardOf("RAA"))
			o := &region{id: other.Hash(), votes: []Vote{other}, checked: signatures{}}
			o.admit(evil)
			return o.votes
		}, "RAA RBB", ""},
		"members' votes with spoiled signatures": {foundRegion("RAA", "RBB", "RCC"), func(r *region) []Vote {
			var out []Vote
			for _, v := range r.votes {
				v.Sig = slices.Clone(v.Sig)
				v.Sig[0] ^= 1
				out = append(out, v)
			}
			return out
		}, "RAA RBB RCC", ""},
		"a second founding vote": {foundRegion("RAA", "RBB"), func(r *region) []Vote {
			v, _ := Found(trustKeyOf("RXX"), "Test region", evil)
			return []Vote{v}
		}, "RAA RBB", ""},
		"another key under a member's code": {foundRegion("RAA", "RBB", "RCC"), func(r *region) []Vote {
			swap := cardWith("RCC", testKey("thief"), testKey("thief's node"))
			return []Vote{r.cast("RAA", 4, swap, "RAA", "RBB"), r.cast("RBB", 2, swap, "RAA", "RBB")}
		}, "RAA RBB RCC?", ""},
		"one of the two voters signs for another key": {foundRegion("RAA", "RBB", "RCC"), func(r *region) []Vote {
			swap := cardWith("RCC", testKey("thief"), testKey("thief's node"))
			return []Vote{r.cast("RAA", 4, swap, "RAA", "RBB")}
		}, "RAA RBB RCC", ""},
		"two votes at one serial": {foundRegion("RAA", "RBB", "RCC"), func(r *region) []Vote {
			return []Vote{r.cast("RBB", 1, evil, "RAA", "RBB")}
		}, "RAA RBB", "another vote with the same serial"},
		"an unknown operation, and the votes after it": {foundRegion("RAA", "RBB"), func(r *region) []Vote {
			v := Vote{Region: r.id, Op: "rename", Card: cardOf("RBB"), Basis: []TrustID{"RAA", "RBB"}, By: "RAA", Serial: 3}
			v.Sig = ed25519.Sign(trustKeyOf("RAA"), v.signed())
			return []Vote{v, r.cast("RAA", 4, cardOf("RCC"), "RAA", "RBB"), r.cast("RBB", 1, cardOf("RCC"), "RAA", "RBB")}
		}, "RAA RBB RCC", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.region
			roster := EvalRoster(r.id, append(slices.Clone(r.votes), c.votes(r)...), nil)
			if again := EvalRoster(r.id, append(c.votes(r), r.votes...), nil); !reflect.DeepEqual(again, roster) {
				t.Fatalf("%+v\nand the other way round %+v", roster, again)
			}
			if got := membersOf(roster); got != c.want {
				t.Fatalf("members %s, want %s", got, c.want)
			}
			if _, ok := roster.Allowed(nodeOf("RXX")); ok {
				t.Fatal("the attacker's node is let in")
			}
			if _, ok := roster.Allowed(NodeIDOf(testKey("thief's node"))); ok {
				t.Fatal("the thief's node is let in")
			}
			var faults []string
			for _, f := range roster.Faults {
				faults = append(faults, f.Why)
			}
			if all := strings.Join(faults, "; "); c.fault == "" && all != "" || !strings.Contains(all, c.fault) {
				t.Fatalf("faults %q, want %q", all, c.fault)
			}
		})
	}
}

// A member whose votes were voided takes down what rested on them; the trusts that fell are named.
func TestEquivocationIsSaid(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	r.votes = append(r.votes, r.cast("RBB", 1, cardOf("RXX"), "RAA", "RBB"))
	roster := r.roster()
	if membersOf(roster) != "RAA RBB" || !slices.Equal(roster.Unseated, []TrustID{"RCC"}) {
		t.Fatalf("members %s, unseated %v", membersOf(roster), roster.Unseated)
	}
	// The way back: vote again.
	r.admit(cardOf("RCC"))
	if got := r.roster(); membersOf(got) != "RAA RBB RCC" || len(got.Unseated) != 0 {
		t.Fatalf("members %s, unseated %v", membersOf(got), got.Unseated)
	}
}

func TestDisputedTrustKeepsItsSeatOnly(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	swap := cardWith("RCC", testKey("thief"), testKey("thief's node"))
	r.votes = append(r.votes, r.cast("RAA", 4, swap, "RAA", "RBB"), r.cast("RBB", 2, swap, "RAA", "RBB"))
	roster := r.roster()
	if roster.Quorum() != 2 || membersOf(roster) != "RAA RBB RCC?" {
		t.Fatalf("%s, quorum %d", membersOf(roster), roster.Quorum())
	}
	if _, ok := roster.Allowed(nodeOf("RCC")); ok {
		t.Fatal("a node of a disputed trust is let in")
	}
	r.admit2(t, cardOf("RDD"), "RAA", "RBB")
	if got := membersOf(r.roster()); got != "RAA RBB RCC? RDD" {
		t.Fatal(got)
	}
	var fit *InvitationError
	_, err := VerifyInvitation(Invitation{Region: r.id, RegionName: "Test region", Votes: r.votes}, cardOf("RCC"))
	if err == nil {
		_, err = VerifyInvitation(Invitation{Region: r.id, RegionName: "Test region", Votes: r.votes}, swap)
	}
	if fmt.Sprintf("%T", err) != fmt.Sprintf("%T", fit) {
		t.Fatal(err)
	}
}

// admit2 lets some members vote.
func (r *region) admit2(t *testing.T, card Card, by ...TrustID) {
	t.Helper()
	roster := r.roster()
	for _, m := range by {
		v, err := Admit(trustKeyOf(m), roster, card, roster.NextSerial(m))
		if err != nil {
			t.Fatal(err)
		}
		r.votes = append(r.votes, v)
	}
}

func TestAddressesDoNotDivideVotes(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	moved := cardOf("RCC")
	moved.Addrs = []string{"/elsewhere"}
	r.votes = append(r.votes, r.cast("RAA", 3, cardOf("RCC"), "RAA", "RBB"), r.cast("RBB", 1, moved, "RAA", "RBB"))
	if got := membersOf(r.roster()); got != "RAA RBB RCC" {
		t.Fatal(got)
	}
}

func TestNodesOfATrust(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	cert := func(trust TrustID, key ed25519.PrivateKey, serial uint64) NodeCert {
		c, err := NewNodeCert(trustKeyOf(trust), trust, key, serial)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	shared := testKey("a node that serves two masters")
	forged := cert("RAA", testKey("n"), 2)
	forged.Trust = "RBB"
	roster := EvalRoster(r.id, r.votes, []NodeCert{
		cert("RAA", testKey("second"), 2), cert("RAA", shared, 3), cert("RBB", shared, 3), cert("RXX", testKey("stranger's"), 1), forged,
	})
	for name, c := range map[string]struct {
		node NodeID
		want TrustID
	}{
		"first":             {nodeOf("RAA"), "RAA"},
		"second":            {NodeIDOf(testKey("second")), "RAA"},
		"of two trusts":     {NodeIDOf(shared), ""},
		"of a stranger":     {NodeIDOf(testKey("stranger's")), ""},
		"of a forged trust": {forged.Node, ""},
	} {
		if got, _ := roster.Allowed(c.node); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if len(roster.Faults) != 1 || !strings.Contains(roster.Faults[0].Why, "let in for neither") {
		t.Fatalf("%+v", roster.Faults)
	}
	var many []NodeCert
	for i := range MaxNodes + 10 {
		many = append(many, cert("RBB", testKey(fmt.Sprint("node ", i)), uint64(i+10)))
	}
	roster = EvalRoster(r.id, r.votes, many)
	count := 0
	for _, n := range roster.Nodes() {
		if trust, _ := roster.Allowed(n); trust == "RBB" {
			count++
		}
	}
	if _, ok := roster.Allowed(NodeIDOf(testKey(fmt.Sprint("node ", MaxNodes+9)))); count != MaxNodes || !ok {
		t.Fatalf("%d nodes of a trust; the newest certified: %v", count, ok)
	}
}

func TestNoRegion(t *testing.T) {
	roster := EvalRoster(RegionID{}, foundRegion("RAA").votes, nil)
	if len(roster.Members) != 0 || roster.Quorum() != 0 || roster.NextSerial("RAA") != 1 {
		t.Fatalf("%+v", roster)
	}
	if _, err := Admit(trustKeyOf("RAA"), roster, cardOf("RBB"), 1); err == nil {
		t.Fatal("admitted to no region")
	}
}

// drawVotes draws votes of honest and dishonest members, rules kept and broken.
func drawVotes(t *rapid.T) (RegionID, []Vote) {
	r := foundRegion("RAA")
	pool := []TrustID{"RAA", "RBB", "RCC", "RDD", "REE"}
	for range rapid.IntRange(0, 9).Draw(t, "steps") {
		roster := r.roster()
		by := rapid.SampledFrom(pool).Draw(t, "by")
		card := cardOf(rapid.SampledFrom(pool).Draw(t, "whom"))
		if rapid.IntRange(0, 5).Draw(t, "swap") == 0 {
			card = cardWith(card.Trust, testKey("second key of "+string(card.Trust)), nodeKeyOf(card.Trust))
		}
		if rapid.IntRange(0, 2).Draw(t, "honest") > 0 {
			if v, err := Admit(trustKeyOf(by), roster, card, roster.NextSerial(by)); err == nil {
				r.votes = append(r.votes, v)
			}
			continue
		}
		var basis []TrustID
		for _, m := range pool {
			if m != card.Trust && (m == by || rapid.Bool().Draw(t, "in basis")) {
				basis = append(basis, m)
			}
		}
		if by != card.Trust {
			r.votes = append(r.votes, r.cast(by, rapid.Uint64Range(1, 6).Draw(t, "serial"), card, basis...))
		}
	}
	return r.id, r.votes
}

func TestOrderAndRepetitionOfVotesNeverMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id, votes := drawVotes(t)
		certs := []NodeCert{cardOf("RBB").NodeCert, cardOf("RCC").NodeCert}
		want := EvalRoster(id, votes, certs)
		shuffled := rapid.Permutation(append(slices.Clone(votes), votes[:len(votes)/2]...)).Draw(t, "order")
		if got := EvalRoster(id, shuffled, []NodeCert{certs[1], certs[0], certs[1]}); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
	})
}

// Votes that no member signed change nothing.
func TestStrangersVotesChangeNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id, votes := drawVotes(t)
		want := EvalRoster(id, votes, nil)
		r := &region{id: id}
		junk := slices.Clone(votes)
		for range rapid.IntRange(1, 5).Draw(t, "junk") {
			by := rapid.SampledFrom([]TrustID{"RAA", "RBB", "RCC", "RYY"}).Draw(t, "by")
			junk = append(junk, r.castWith(testKey("thief"), by, rapid.Uint64Range(1, 6).Draw(t, "serial"), cardOf("RXX"), "RAA", by))
		}
		got := EvalRoster(id, rapid.Permutation(junk).Draw(t, "order"), nil)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
	})
}

// Honest members who vote only on the roster they see, in any order and as late as may be, never lose a member and never void a vote.
func TestHonestVotesOnlyAdd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := foundRegion("RAA")
		pool := []TrustID{"RAA", "RBB", "RCC", "RDD", "REE", "RFF"}
		seen := map[TrustID]int{} // how many of the votes each has heard of, its own aside
		before := ""
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			by := rapid.SampledFrom(pool).Draw(t, "by")
			seen[by] = rapid.IntRange(seen[by], len(r.votes)).Draw(t, "heard")
			known := slices.Clone(r.votes[:seen[by]])
			for _, v := range r.votes[seen[by]:] {
				if v.By == by {
					known = append(known, v)
				}
			}
			roster := evalRoster(r.id, known, nil, nil, r.checked)
			if v, err := Admit(trustKeyOf(by), roster, cardOf(rapid.SampledFrom(pool).Draw(t, "whom")), roster.NextSerial(by)); err == nil {
				r.votes = append(r.votes, v)
			}
			now := r.roster()
			for _, m := range strings.Fields(before) {
				if _, ok := now.Member(TrustID(m)); !ok {
					t.Fatalf("%s fell from the roster", m)
				}
			}
			if len(now.Faults) > 0 || len(now.Unseated) > 0 {
				t.Fatalf("%+v", now.Faults)
			}
			before = membersOf(now)
		}
	})
}

// A member that puts others' votes into its log with signatures that do not hold changes nothing, before or after a restart.
func TestSpoiledVotesInALogChangeNothing(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	db := openDB(t, "")
	defer db.Close()
	x := openIn(t, db, testOptions("RAA", r))
	want := x.Roster()
	var st []Statement
	for _, v := range r.votes {
		v.Sig = slices.Clone(v.Sig)
		v.Sig[0] ^= 1
		s, err := VoteStatement(v)
		if err != nil {
			t.Fatal(err)
		}
		st = append(st, s)
	}
	if _, err := x.Take(sealed(t, nodeKeyOf("RBB"), 1, st)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := x.Roster(); !reflect.DeepEqual(got, want) || len(x.Votes()) != len(r.votes) {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
		x = openIn(t, db, testOptions("RAA", r))
	}
}
