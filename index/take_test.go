package index

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// An answer full of batches of one fact each, as a node says them that takes in a study at a time, is more than one
// transaction holds.
func TestTakeManyBatchesOfOneFact(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	x := openTest(t, "RAA", r)
	var groups [][]Statement
	for i := range 3000 {
		groups = append(groups, []Statement{mustStudy(t, Study{
			UID: fmt.Sprintf("1.2.826.0.1.3680043.9.7002.21.1623066357.%08d", i), Patient: []PatientID{{fmt.Sprintf("P%06d", i), "RBB"}, {fmt.Sprintf("%010d", i), "NHS"}}, Name: "NETHERLECROFT^MARGARET^ANNE", BirthDate: "19700101", Sex: "F",
			Date: "20240101", Time: "101010", Accession: fmt.Sprintf("A%07d", i), AccessionIssuer: "RBB", Description: "CT THORAX ABDOMEN PELVIS WITH CONTRAST", Referring: "HATHERENSTONE^A^^DR", Modalities: []string{"CT"}, Manifest: make([]byte, 44),
		})})
	}
	fresh, err := x.Take(sealed(t, nodeKeyOf("RBB"), 1, groups...))
	if err != nil || fresh != len(groups) {
		t.Fatalf("%d of %d batches were taken: %v", fresh, len(groups), err)
	}
	if n, _, err := x.Count(bg, Query{}); err != nil || n != len(groups) {
		t.Fatalf("%d of %d studies: %v", n, len(groups), err)
	}
}

// That no further author can be numbered is this node's limit: the peer that brings a log is not blamed, and the other logs in its
// message are taken.
func TestTakeWithoutRoomForAnotherAuthor(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	x := openTest(t, "RAA", r)
	known := sealed(t, nodeKeyOf("RBB"), 1, []Statement{note("x", "1")}, []Statement{note("x", "2")})
	if _, err := x.Take(known[:1]); err != nil {
		t.Fatal(err)
	}
	x.mu.Lock()
	x.authors = append(x.authors, make([]author, maxNumbered-len(x.authors))...)
	x.mu.Unlock()
	other := sealed(t, nodeKeyOf("RCC"), 1, []Statement{note("x", "1")})
	var full *FullError
	if n, err := x.Take(other); n != 0 || !errors.As(err, &full) {
		t.Fatalf("took %d: %v", n, err)
	}
	s := NewSync(x, SyncOptions{Self: x.Self(), Rand: rand.New(rand.NewPCG(1, 2))})
	if _, err := s.Step(nodeOf("RBB"), Batches{Batches: []Batch{other[0].Batch(), known[1].Batch()}}); err != nil {
		t.Fatalf("blamed for it: %v", err)
	}
	if h, _ := x.Head(nodeOf("RBB")); h.Seq != 2 {
		t.Fatalf("the other log was not taken: %d", h.Seq)
	}
	for i := range 2 * MaxUseless {
		if _, err := s.Step(nodeOf("RBB"), Batches{Batches: []Batch{other[0].Batch()}}); err != nil {
			t.Fatalf("blamed for it the %dth time: %v", i+2, err)
		}
	}
	// What is here already is no use all the same.
	var flood *FloodError
	for range 2 * MaxUseless {
		if _, err := s.Step(nodeOf("RBB"), Batches{Batches: []Batch{known[1].Batch()}}); errors.As(err, &flood) {
			return
		}
	}
	t.Error("what is here already may be sent without end")
}
