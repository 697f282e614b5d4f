package index

import (
	"flag"
	"os"
	"testing"
)

// raced says that the race detector is on, which makes everything five times slower.
var raced bool

// TestMain lets properties be tried less often with the race detector, which does not need many to see one. `make soak` tries them
// for long without it.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); raced && f.Value.String() == f.DefValue {
		if err := f.Value.Set("25"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
