package index

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// What was said, taken back, and said again in other words: the first words are in no file, the others are there.
func TestPurgeOfWhatIsSaidAgain(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	x := openIn(t, db, testOptions("RAA", foundRegion("RAA")))
	report := func(title string) Statement {
		st, err := ReportStatement(Report{Study: "1.2.3", ID: "R1", Issuer: "RAA", Status: ReportFinal, MediaType: "text/plain", Title: title})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	say(t, x, report("ERRONEOUS FINDING"))
	if err := db.Close(); err != nil { // down into the lower levels
		t.Fatal(err)
	}
	db = openDB(t, dir)
	if err := db.Flatten(1); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	x = openIn(t, db, testOptions("RAA", foundRegion("RAA")))
	reader := db.NewTransaction(false) // for it Badger keeps what was there
	defer reader.Discard()
	retract(t, x, KindReport, report("").Subject, 1)
	say(t, x, report("TRUE FINDING"))
	if err := x.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, err := x.Facts(KindReport, report("").Subject); err != nil || len(got) != 1 || !strings.Contains(string(got[0].Value), "TRUE FINDING") {
		t.Fatalf("%+v, %v", got, err)
	}
	// What is in the files is packed: the rows of every version are looked at.
	if err := db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{AllVersions: true})
		defer it.Close()
		again := 0
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			if strings.Contains(string(v), "ERRONEOUS FINDING") {
				t.Errorf("what was taken back is under %x", it.Item().Key())
			}
			if strings.Contains(string(v), "TRUE FINDING") {
				again++
			}
		}
		if again < 2 { // the fact and its batch
			t.Errorf("what was said again is there %d times", again)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// What one purge has kept aside and put back is in no file when it is taken back itself.
func TestPurgeOfWhatWasKeptAside(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	defer db.Close()
	x := openIn(t, db, testOptions("RAA", foundRegion("RAA")))
	study := func(uid, name string) Statement { return mustStudy(t, Study{UID: uid, Name: name}) }
	say(t, x, study("1.1", "ONE"), study("1.2", "TWO"), study("1.3", "THREE"))
	for i, name := range []string{"ONE", "TWO"} {
		reader := db.NewTransaction(false) // for it Badger keeps what was there
		defer reader.Discard()
		retract(t, x, KindStudy, fmt.Sprintf("1.%d", i+1), 1)
		if i == 1 {
			x = openIn(t, db, testOptions("RAA", foundRegion("RAA")))
		}
		if err := x.Purge(context.Background()); err != nil {
			t.Fatal(err)
		}
		there := db.NewTransaction(false)
		it := there.NewIterator(badger.IteratorOptions{AllVersions: true})
		for it.Rewind(); it.Valid(); it.Next() {
			if v, err := it.Item().ValueCopy(nil); err != nil || strings.Contains(string(v), name) {
				t.Errorf("%s is under %x, %v", name, it.Item().Key(), err)
			}
		}
		it.Close()
		there.Discard()
	}
	if s, ok := told(x, "1.3"); !ok || s[0].Value.Name != "THREE" {
		t.Fatalf("%+v", s)
	}
}
