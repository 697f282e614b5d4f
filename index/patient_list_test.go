package index

import (
	"fmt"
	"strings"
	"testing"
)

// Persons under a longer identifier that begins as a cut key does are not read without bound, nor are rows looked at; that there may be
// more is said.
func TestPersonsUnderALongerIdentifierAreNotReadWithoutBound(t *testing.T) {
	x := openTest(t, "RAA", foundRegion("RAA"))
	long := strings.Repeat("1", maxKeyText)
	say(t, x, mustStudy(t, Study{UID: uidOf(0), Name: "DOE^JANE", BirthDate: "19700101", Patient: []PatientID{{long, "A"}}}))
	var others []Statement
	for i := range 20 {
		others = append(others, mustStudy(t, Study{UID: uidOf(1 + i), Name: fmt.Sprint("OTHER^", i), BirthDate: "19700101", Patient: []PatientID{{long + "2", "A"}}}))
	}
	say(t, x, others...)
	for _, c := range []struct {
		rows, unwanted int
		more           bool
	}{{21, 20, false}, {20, 20, true}, {21, 3, true}, {maxKeyRows, maxUnwanted, false}} {
		err := x.db.View(func(txn *badgerTxn) error {
			r := x.peopleIn(bg, txn).(*peopleRows)
			r.rows, r.unwanted = c.rows, c.unwanted
			found, more, err := r.bearers(Identifier{Issuer: "A", ID: long}, maxBearers)
			if more != c.more || !more && len(found) != 1 || len(r.read) > c.unwanted+2 {
				t.Errorf("%+v: %d found of %d read, more %v", c, len(found), len(r.read), more)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := x.db.View(func(txn *badgerTxn) error {
		for _, c := range []struct {
			unwanted int
			full     bool
		}{{3, true}, {20, false}} {
			r := x.peopleIn(bg, txn).(*peopleRows)
			r.unwanted = c.unwanted
			if p, err := patientOf(uidOf(0), r, x.fold, testNamesAgree); err != nil || p.Incomplete != c.full {
				t.Errorf("%+v: incomplete %v, %v", c, p.Incomplete, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Those whose names differ are not read, but looked at.
	err = x.db.View(func(txn *badgerTxn) error {
		r := x.peopleIn(bg, txn).(*peopleRows)
		r.rows = 10
		_, more, err := r.namesakes("19700101", "DOE^JANE", maxNamesakes)
		if !more {
			t.Error("all rows of a day were looked at")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
