package interop

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/node/api"
)

// Four trusts come together by cards and invitations alone; a node that
// nobody endorsed stays outside, and its victim says so once.
func TestFourNodesFormARegion(t *testing.T) {
	members := region(t, "RAA", "RBB", "RCC", "RDD")
	for _, n := range members {
		if s := n.status(t); s.Region == "" || len(s.Trusts) != 3 {
			t.Errorf("%s: region %q with %d other trusts, want 3", n.trust, s.Region, len(s.Trusts))
		}
		for _, p := range n.peers(t) {
			if !p.Connected {
				t.Errorf("%s is not connected to %s", n.trust, p.Trust)
			}
		}
	}
	a := members[0]

	t.Run("an invitation is for one trust", func(t *testing.T) {
		e := newNode(t, "REE", "")
		stolen := admit(t, members[3], members...) // D's own, once more
		if r := e.try(t, "join", stolen); r.code == 0 {
			t.Fatalf("E joined with D's invitation: %s", r.stdout)
		}
		if r := e.try(t, "run"); r.code == 0 {
			t.Fatalf("E runs although it is in no region: %s", r.stdout)
		}
	})

	t.Run("one endorsement is not a quorum", func(t *testing.T) {
		e := newNode(t, "RFF", "")
		var adm api.Admission
		a.ask(t, &adm, "admit", []string{e.card(t)}, codeNotYet)
		if adm.Admitted || adm.Need != 3 || adm.Have != 1 {
			t.Fatalf("after one endorsement in a region of four: %+v", adm)
		}
	})

	t.Run("a stranger cannot connect", func(t *testing.T) {
		// It founds a region of its own and endorses A there, so it dials A
		// with every right but A's.
		e := newNode(t, "REE", "Elsewhere")
		e.set(t, quick)
		e.run(t)
		admit(t, a, e)
		peer := e.status(t).Peer
		mentions := func() int {
			n := 0
			for line := range strings.Lines(read(t, a.stderr)) {
				if strings.Contains(line, peer) {
					n++
				}
			}
			return n
		}
		eventually(t, 15*time.Second, "A's log mentions the stranger", func() error {
			if mentions() == 0 {
				return errors.New("no line with its peer ID yet")
			}
			return nil
		})
		// It goes on trying; the log does not go on saying so.
		for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(200 * time.Millisecond) {
			if n := mentions(); n != 1 {
				t.Fatalf("A's log mentions the stranger %d times, want once", n)
			}
			for _, p := range e.peers(t) {
				if p.Connected {
					t.Fatalf("the stranger is connected to %s", p.Trust)
				}
			}
			for _, p := range a.peers(t) {
				if p.Peer == peer {
					t.Fatalf("A counts the stranger among its peers: %+v", p)
				}
			}
		}
	})

	for _, n := range members {
		n.stop(t)
	}
}

// completeness checks that an answer names exactly these trusts as unheard
// from, in its headers and in the command's answer.
func completeness(t testing.TB, n *node, query string, unheard ...string) error {
	t.Helper()
	a := curl(t, "-H", acceptJSON, n.web+query)
	if a.status != http.StatusOK && a.status != http.StatusNoContent {
		return fmt.Errorf("status %d: %.200s", a.status, a.body)
	}
	warnings := a.header.Values("Warning")
	if len(warnings) != len(unheard) {
		return fmt.Errorf("%d warnings %q, want one for each of %v", len(warnings), warnings, unheard)
	}
	for i, trust := range unheard {
		if w := warnings[i]; !strings.HasPrefix(w, "299 ") || !strings.Contains(w, trust) || !strings.Contains(w, "since") {
			return fmt.Errorf("warning %q does not say since when %s has not been heard from", w, trust)
		}
	}
	if f := n.find(t); len(f.Warnings) != len(unheard) {
		return fmt.Errorf("find says %q, want one warning for each of %v", f.Warnings, unheard)
	}
	return nil
}

// A study whose only holder is away is still found, and what an answer lacks
// is said; reading it fails in bounded time and says why; and it comes by
// itself when the holder is back.
func TestHolderStopped(t *testing.T) {
	members := region(t, "RAA", "RBB", "RCC")
	a, b := members[0], members[1]
	var uid string
	var files []file
	for uid, files = range byStudy(priorsOf(t, demoPatient)) {
		break
	}
	b.take(t, paths(files)...)
	a.knows(t, uid, len(files))
	query := "/studies?StudyInstanceUID=" + uid
	if err := completeness(t, a, query); err != nil {
		t.Fatalf("while everybody is there: %v", err)
	}

	b.stop(t)
	eventually(t, startDeadline, "A's answers name B", func() error { return completeness(t, a, query, "RBB") })
	found := curl(t, "-H", acceptJSON, a.web+query).datasets(t)
	if len(found) != 1 || found[0].text(tagStudy) != uid || found[0].text(tagAvailability) != "NEARLINE" {
		t.Fatalf("A's answer while B is away: %v", found)
	}
	// "Nothing found" is said with the same warning.
	if err := completeness(t, a, "/studies?PatientID=nobody", "RBB"); err != nil {
		t.Fatalf("an empty answer: %v", err)
	}

	// read_through is 3 s without progress; the rest is this machine's.
	const bound = 20 * time.Second
	read := curl(t, "-H", acceptAsIs, a.web+"/studies/"+uid)
	if read.status != http.StatusServiceUnavailable || read.took > bound {
		t.Fatalf("reading the study while B is away: status %d after %v, want 503 within %v", read.status, read.took, bound)
	}
	if body := string(read.body); !strings.Contains(body, "RBB") {
		t.Fatalf("503 does not say whom it waits for: %q", body)
	}
	if read.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}

	// The reading left a fetch in the queue; it survives A too.
	a.stop(t)
	a.run(t)
	b.run(t)
	a.has(t, uid, len(files))
	a.serves(t, uid, sums(files))
	eventually(t, startDeadline, "A's answers are complete again", func() error { return completeness(t, a, query) })
}

// When a study arrives at a trust, the patient's studies at other trusts come
// without anybody asking; the studies of others stay where they are.
func TestPriorsComeBeforeTheyAreAskedFor(t *testing.T) {
	members := region(t, "RAA", "RBB", "RCC")
	a, b, c := members[0], members[1], members[2]
	all := bundledFiles(t)
	priors := byStudy(priorsOf(t, demoPatient))
	uids := slices.Sorted(maps.Keys(priors))
	arriving := uids[0]
	var atB, atC []file
	for _, f := range all {
		switch {
		case f.study == arriving:
		case f.study == uids[1] || f.patient != demoPatient:
			atB = append(atB, f)
		default:
			atC = append(atC, f)
		}
	}
	b.take(t, paths(atB)...)
	c.take(t, paths(atC)...)
	studies := byStudy(all)
	for uid, files := range studies {
		if uid != arriving {
			a.knows(t, uid, len(files))
		}
	}
	if n := a.status(t).Studies.Copies; n != 0 {
		t.Fatalf("%d studies were brought although none had arrived", n)
	}

	curlStores(t, a.web, priors[arriving])
	for uid, files := range priors {
		a.has(t, uid, len(files))
		a.serves(t, uid, sums(files))
	}
	if s := a.status(t); s.Studies.Copies != len(priors)-1 || len(s.Fetches) != 0 {
		t.Fatalf("%d studies were brought, want the %d priors; under way: %+v", s.Studies.Copies, len(priors)-1, s.Fetches)
	}
}
