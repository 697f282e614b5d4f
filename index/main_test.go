package index

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// raced says that the race detector is on, which makes everything five times slower.
var raced bool

// oneThread are tests that compute for long in one goroutine, without a database or with one that they fill to a limit: the race detector
// sees nothing in them that it does not see in shorter ones. With it they are left out, unless -run names some.
var oneThread = []func(*testing.T){
	TestHalvesHeal, TestHealingReplays, TestPushReachesTheRegion,
	TestEverybodyEndsUpWithTheSame, TestSameSeedSameTranscript,
	TestBootstrapWhateverHappens, TestNewerSnapshotsWhileTakingUp, TestBootstrapManyPeers,
	TestSyncGoesOnWithSnapshots, TestSyncTakesSnapshotsAmongLiars,
	TestOrderAndRepetitionOfVotesNeverMatter, TestStrangersVotesChangeNothing, TestHonestVotesOnlyAdd, TestExpulsionsHoldInAnyOrder,
	TestNamesAreToldApartAlikeFromEitherSide,
	TestDecodersAllocateInProportion, TestSnapshotDecodersAllocateInProportion,
	TestSnapshotOfManyRetractions, TestTheFullestRetractionsAreTaken, TestAPurgeTakesOnlyWhatItKnowsTheTrailOf,
}

// properties are tried a few times with the race detector, which does not need many to see a race in the database below them.
var properties = []func(*testing.T){
	TestNoBitOfABatchCanChange, TestPackAndUnpack, TestNoBitOfAPageCanChange, TestOnlyTouchedPagesChange, TestVotesAreNotDisplaced,
	TestPatientsDoNotDependOnTheOrder, TestACrowdedNumberIsTheSameFromEitherSide, TestQueriesFindWhatALookAtEverythingFinds, TestRetractionsAreIndependentOfOrder,
	TestWhatWasNotReadIsReadAfterAnUpgrade,
}

// How often a property is tried by `make unit`; `make soak` tries each 2,000 times. Without either it is rapid's 100.
const (
	triesRaced     = "5"
	triesOneThread = "50"
)

// TestMain shares the tests out among the two passes of `make unit`: one with the race detector, and one without it for what it
// cannot see, which PRIORMESH_ONE_THREAD asks for.
func TestMain(m *testing.M) {
	flag.Parse()
	switch {
	case os.Getenv("PRIORMESH_ONE_THREAD") != "":
		unlessSet("test.run", patternOf(slices.Concat(oneThread, properties)))
		unlessSet("rapid.checks", triesOneThread)
	case raced:
		if flag.Lookup("test.run").Value.String() == "" {
			unlessSet("test.skip", patternOf(oneThread))
			fmt.Printf("left out with the race detector: %d tests of one thread; PRIORMESH_ONE_THREAD=1 go test runs them\n", len(oneThread))
		}
		unlessSet("rapid.checks", triesRaced)
	}
	os.Exit(m.Run())
}

// Every property is in one of the lists: another one would be tried a few times and no more.
func TestPropertiesAreShared(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	shared := regexp.MustCompile(patternOf(slices.Concat(oneThread, properties)))
	found := 0
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Split(string(b), "\nfunc ")[1:] {
			if name, body, _ := strings.Cut(f, "("); strings.Contains(body, "\trapid.Check(") {
				found++
				if !shared.MatchString(name) {
					t.Errorf("%s: %s is in neither list", path, name)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no property was found")
	}
}

func unlessSet(name, value string) {
	if f := flag.Lookup(name); f.Value.String() == f.DefValue {
		if err := f.Value.Set(value); err != nil {
			panic(err)
		}
	}
}

// patternOf is what -run and -skip call tests.
func patternOf(tests []func(*testing.T)) string {
	var names []string
	for _, f := range tests {
		name := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name()
		names = append(names, name[strings.LastIndexByte(name, '.')+1:])
	}
	return "^(" + strings.Join(names, "|") + ")$"
}
