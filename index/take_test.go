package index

import (
	"fmt"
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
	if n, _, err := x.Count(Query{}); err != nil || n != len(groups) {
		t.Fatalf("%d of %d studies: %v", n, len(groups), err)
	}
}
