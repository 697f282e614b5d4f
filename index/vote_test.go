package index

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"
)

// Whatever a member puts into its log, and in whatever order the payloads come: the votes of its trust are looked at, and every node looks
// at the same ones.
func TestVotesAreNotDisplaced(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC", "RDD", "REE")
	const limit = 8
	var own, junk []Vote
	for _, v := range r.votes {
		if v.By == "RBB" {
			own = append(own, v)
		}
	}
	for i := range 12 {
		forged := r.votes[i%len(r.votes)]
		forged.Sig = slices.Clone(forged.Sig) // a variant of a true vote, of RBB's own too
		forged.Sig[i] ^= byte(1 + i)
		junk = append(junk, forged, r.castWith(testKey("nobody"), "RBB", uint64(10+i), cardOf("RXX"), "RAA", "RBB"))
	}
	rapid.Check(t, func(t *rapid.T) {
		votes := rapid.Permutation(append(slices.Clone(own), junk...)).Draw(t, "log")
		var st []Statement
		for _, v := range votes {
			st = append(st, Statement{Kind: KindVote, Subject: v.subject(), Body: v.Encode()})
		}
		cut := rapid.IntRange(1, len(st)-1).Draw(t, "cut")
		log := []Verified{}
		var last Head
		for _, group := range [][]Statement{st[:cut], st[cut:]} {
			v, err := sealBatch(nodeKeyOf("RBB"), last, 1, group, newSeeded("salt"))
			if err != nil {
				t.Fatal(err)
			}
			log, last = append(log, v), v.Head()
		}
		// looked is what a node looks at that gets the payloads in an order.
		looked := func(order []int, again bool) map[[32]byte]heardVote {
			db, err := badger.Open(testBadger(""))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			opt := testOptions("RAA", r)
			x, err := Open(db, opt)
			if err != nil {
				t.Fatal(err)
			}
			x.maxVotes = limit
			take := func(v Verified, has func(i int) bool) {
				v.batch.Payloads = slices.Clone(v.batch.Payloads)
				for i := range v.batch.Payloads {
					if !has(i) {
						v.batch.Payloads[i] = Payload{}
					}
				}
				if _, err := x.Take([]Verified{v}); err != nil {
					t.Fatal(err)
				}
			}
			for _, v := range log {
				take(v, func(int) bool { return false })
			}
			for _, n := range order {
				if n < cut {
					take(log[0], func(i int) bool { return i == n })
				} else {
					take(log[1], func(i int) bool { return i == n-cut })
				}
			}
			if again {
				if x, err = Open(db, opt); err != nil {
					t.Fatal(err)
				}
			}
			if err := evaluates(x, own, limit); err != nil {
				t.Fatal(err)
			}
			return x.votes
		}
		order := make([]int, len(st))
		for i := range order {
			order[i] = i
		}
		one, two := looked(order, false), looked(rapid.Permutation(order).Draw(t, "order"), true)
		if !slices.Equal(sortedHashes(one), sortedHashes(two)) {
			t.Fatalf("%d votes and %d others", len(one), len(two))
		}
	})
}

func sortedHashes(votes map[[32]byte]heardVote) (out []string) {
	for h := range maps.Keys(votes) {
		out = append(out, fmt.Sprintf("%x", h))
	}
	slices.Sort(out)
	return out
}

// evaluates says what is wrong with the rows of votes.
func evaluates(x *Index, own []Vote, limit int) error {
	a, _ := x.known(nodeOf("RBB"))
	n := 0
	if err := x.View(func(txn *badger.Txn) error {
		n = 0
		if err := scan(txn, authorKey(tabVote, a.no), authorKey(tabVote, a.no), false, func([]byte, func() ([]byte, error)) (bool, error) {
			n++
			return true, nil
		}); err != nil {
			return err
		}
		for _, v := range own {
			if _, ok, err := get(txn, voteKey(a.no, true, v)); err != nil || !ok {
				return errors.Join(err, fmt.Errorf("vote %d of RBB is displaced", v.Serial))
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if n != limit {
		return fmt.Errorf("%d votes are looked at", n)
	}
	return nil
}
