package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

func nodeNamed(seed byte) string {
	key := ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), seed))
	return index.NodeIDOf(key).String()
}

func TestExpelAndRevoke(t *testing.T) {
	id, other := nodeNamed(1), nodeNamed(2)
	three := api.Status{Trust: "RX1", Trusts: []api.TrustStatus{{Trust: "RX2"}, {Trust: "RX3"}}}
	four := api.Status{Trust: "RX1", Trusts: []api.TrustStatus{{Trust: "RX2"}, {Trust: "RX3"}, {Trust: "RX4"}, {Trust: "RX5"}}}
	two := api.Status{Trust: "RX1", Trusts: []api.TrustStatus{{Trust: "RX3"}}}
	some := api.Expulsion{Trust: "RX3", Have: 1, Need: 2, By: []string{"RX1"}}
	most := api.Expulsion{Trust: "RX3", Have: 1, Need: 3, By: []string{"RX1"}}
	done := api.Expulsion{Trust: "RX3", Have: 2, Need: 2, By: []string{"RX1", "RX2"}, Expelled: true}
	revoked := api.Revocation{Trust: "RX1", Node: id, Until: []api.LogEnd{{Epoch: 1, Seq: 7}, {Epoch: 3, Seq: 2}}, Text: "priormesh-revocation-1:abc"}
	heard := api.Status{Trust: "RX1", Basis: []api.Basis{{Trust: "RX1", Logs: []api.LogPosition{{Node: id, Epoch: 3, Seq: 2, Before: []api.LogEnd{{Epoch: 1, Seq: 7}}}}},
		{Trust: "RX2", Logs: []api.LogPosition{{Node: other, Epoch: 1, Seq: 4}}}}}
	already := api.Status{Trust: "RX1", Roster: api.Roster{Revoked: []api.Revocation{revoked}}}
	known := revoked
	known.Known = true
	self := revoked
	self.Self = true
	text := func() string {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		n, err := index.ParseNodeID(id)
		if err != nil {
			t.Fatal(err)
		}
		v, err := index.Revoke(key, index.RegionID{1}, "RX1", n)
		if err != nil {
			t.Fatal(err)
		}
		return v.String()
	}()
	file := filepath.Join(t.TempDir(), "revocation")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	answers := func(kv ...any) *fake {
		f := &fake{answers: map[string]any{}}
		for i := 0; i < len(kv); i += 2 {
			f.answers[kv[i].(string)] = kv[i+1]
		}
		return f
	}
	const expulsions, revocations, status = "POST /api/v1/expulsions", "POST /api/v1/revocations", "GET /api/v1/status"
	refusal := &api.Error{Status: 400, Text: api.ErrWrongUse.Error() + ": no vote for RX3: on this roster RX1 has voted to expel RX2 already"}
	for name, c := range map[string]struct {
		node           *fake // nil: none runs
		args           string
		stdin          string
		code           int
		stdout, stderr string
	}{
		"expelled":                  {answers(expulsions, done), "expel --yes RX3", "", 0, `^RX3 is expelled: 2 members have voted for it \(RX1, RX2\)\n$`, ""},
		"expelled, in JSON":         {answers(expulsions, done), "expel --yes --json RX3", "", 0, `^\{"trust":"RX3","have":2,"need":2,"by":\["RX1","RX2"\],"expelled":true\}\n$`, ""},
		"votes are missing":         {answers(expulsions, some, status, three), "expel --yes RX3", "", 6, "", `(?s)RX3: 1 of the 2 votes needed .* given \(RX1\).*not expelled yet, 1 of 2; ask RX2 to run .priormesh expel RX3`},
		"of several":                {answers(expulsions, most, status, four), "expel --yes RX3", "", 6, "", `ask 2 of RX2, RX4, RX5 to run`},
		"of two":                    {answers(expulsions, some, status, two), "expel --yes RX3", "", 6, "", `ask RX3 to run`},
		"votes are missing in JSON": {answers(expulsions, some), "expel --yes --json RX3", "", 6, `^\{"trust":"RX3","have":1,.*"expelled":false\}\n$`, `^\{"error":"RX3 is not expelled yet, 1 of 2; ask other members.*","code":6\}\n$`},
		"the node refuses":          {answers(expulsions, refusal), "expel --yes RX3", "", 2, "", `^priormesh: no vote for RX3: on this roster RX1 has voted`},
		"nobody is asked":           {answers(expulsions, done), "expel RX3", "expel\n", 2, "", `say --yes`},
		"no trust":                  {answers(), "expel --yes", "", 2, "", `<trust>`},
		"no node":                   {nil, "expel --yes RX3", "", 3, "", `the node is not running`},

		"revoke, no answer":              {answers(status, heard, revocations, revoked), "revoke " + id, "revoke\n", 2, "", `say --yes`},
		"revoke another trust's":         {answers(status, heard), "revoke --yes " + other, "", 2, "", `is one of RX2: that trust alone can revoke it.*priormesh expel RX2`},
		"revoke twice":                   {answers(status, already), "revoke --yes " + id, "", 0, `^priormesh-revocation-1:abc\n$`, `of RX1 is revoked already, what it said up to 1:7, 3:2 counts; a later revocation counts only if`},
		"revoke without a node":          {nil, "revoke --yes " + id, "", 2, "", `say --until`},
		"revoke to nowhere":              {nil, "revoke --yes --until 7 " + id, "", 2, "", `--until is an epoch and a number, such as 1:2024, or none`},
		"revoke in no region":            {nil, "revoke --yes --until 1:7 " + id, "", 2, "", `in no region yet`},
		"revoke what is none":            {answers(), "revoke --yes DOE", "", 2, "", `"DOE" is no revocation \(it would begin with priormesh-revocation-1:\) and no file`},
		"revoke by a card":               {answers(), "revoke --yes priormesh-card-1:abc", "", 2, "", `this is a card, not a revocation|incomplete or was altered`},
		"a revocation, and an end":       {answers(), "revoke --until 1:7 " + file, "", 2, "", `is no peer ID; --trust-key and --until are for making a revocation`},
		"a revocation from a file":       {answers(revocations, revoked), "revoke " + file, "", 0, "", `node ` + id + ` of RX1 is revoked, what it said up to 1:7, 3:2 counts; the region hears of it now\n$`},
		"a revocation that is known":     {answers(revocations, known), "revoke -", text, 0, "", `is revoked already`},
		"a revocation of the node":       {answers(revocations, self), "revoke " + file, "", 0, "", `this node itself is revoked.*stop this one for good`},
		"a revocation in JSON":           {answers(revocations, revoked), "revoke --json " + file, "", 0, `^\{"trust":"RX1","node":"` + id + `","until":\[\{"epoch":1,"seq":7\},\{"epoch":3,"seq":2\}\],"revocation":"priormesh-revocation-1:abc"\}\n$`, ""},
		"a revocation, no node":          {nil, "revoke " + file, "", 3, "", `the node is not running`},
		"a revocation, the node refuses": {answers(revocations, &api.Error{Status: 400, Text: "it was made for another region"}), "revoke " + file, "", 2, "", `^priormesh: it was made for another region\n$`},

		"status": {answers(status, api.Status{Trust: "RX1", Roster: api.Roster{Quorum: 2, Admissions: []api.Admission{{Trust: "RX9", Have: 1, Need: 2, By: []string{"RX2"}}},
			Expulsions: []api.Expulsion{some, {Trust: "RX4", Have: 3, Need: 3, By: []string{"RX1", "RX2", "RX5"}, Expelled: true}}, Revoked: []api.Revocation{revoked}}}), "status", "", 0,
			`(?s)vote: to admit RX9, 1 of the 2 needed \(RX2\).*vote: to expel RX3, 1 of the 2 needed \(RX1\); .*priormesh expel RX3.*expelled: RX4, by RX1, RX2, RX5;.*revoked: node ` + id + ` of RX1, what it said up to 1:7, 3:2 counts`, ""},
		"peers": {answers("GET /api/v1/peers", []api.Peer{{Trust: "RX4", Peer: other, Out: "expelled"}, {Trust: "RX1", Peer: id, Out: "revoked"}}), "peers", "", 0,
			`(?s)RX4 +expelled +- +never +- +` + other + `.*RX1 +revoked +- +never +- +` + id, ""},
	} {
		t.Run(name, func(t *testing.T) {
			home := makeHome(t, "RX1", "")
			if c.node != nil {
				home = homeOf(t, c.node)
			}
			args := strings.Fields(c.args)
			r := run(t, c.stdin, append([]string{args[0], "--home", home}, args[1:]...)...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			for what, got := range map[string][2]string{"stdout": {r.stdout, c.stdout}, "stderr": {r.stderr, c.stderr}} {
				if got[1] == "" && got[0] != "" || !regexp.MustCompile(got[1]).MatchString(got[0]) {
					t.Errorf("%s is\n%s\nwant %s", what, got[0], got[1])
				}
			}
			if c.node != nil && c.code == 2 && slices.ContainsFunc(c.node.asked, func(a string) bool { return strings.HasPrefix(a, "POST") }) != (name == "the node refuses" || name == "a revocation, the node refuses") {
				t.Errorf("asked of the node: %q", c.node.asked)
			}
		})
	}
}

// starts runs the node of a home until the test ends, and returns how to end it before.
func starts(t *testing.T, dir string) (n *node.Node, stop func()) {
	t.Helper()
	home, err := node.OpenHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n, err = node.Open(context.Background(), home, node.Options{Version: "test"}); err != nil {
		t.Fatal(err)
	}
	open := true
	stop = func() {
		if open {
			open = false
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return n, stop
}

// again runs the program until it ends as it should: nodes take a moment to hear of each other.
func again(t *testing.T, code int, stdout string, args ...string) ran {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		r := run(t, "", args...)
		if r.code == code && strings.Contains(r.stdout, stdout) {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q: %+v, want exit code %d and %q", args, r, code, stdout)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Three trusts by the commands alone: a node is revoked with a key that lies elsewhere, and its trust is voted out.
func TestExpelAndRevokeAtNodes(t *testing.T) {
	a := makeHome(t, "RX1", "Test region")
	starts(t, a)
	join := func(dir string, members ...string) {
		t.Helper()
		card := run(t, "", "card", "--home", dir)
		var invitation string
		for i, m := range members {
			code := 6
			if i == len(members)-1 {
				code = 0
			}
			invitation = again(t, code, "", "admit", "--home", m, card.stdout).stdout
		}
		if r := run(t, invitation, "join", "--home", dir, "-"); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		starts(t, dir)
	}
	b, c := makeHome(t, "RX2", ""), makeHome(t, "RX3", "")
	join(b, a)
	join(c, a, b)
	// The trust key of RX3 lies elsewhere, with what else it takes to make a revocation.
	safe := t.TempDir()
	for _, name := range []string{"trust.key", "card.txt", "config.toml", "region.txt"} {
		text, err := os.ReadFile(filepath.Join(c, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(safe, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(c, "trust.key")); err != nil {
		t.Fatal(err)
	}
	var s api.Status
	if err := json.Unmarshal([]byte(run(t, "", "status", "--home", c, "--json").stdout), &s); err != nil {
		t.Fatal(err)
	}
	if r := run(t, "", "revoke", "--home", c, "--yes", s.Peer); r.code != 2 || !strings.Contains(r.stderr, "trust.key is not here") {
		t.Errorf("%+v", r)
	}
	if r := run(t, "", "revoke", "--home", a, "--yes", "--trust-key", filepath.Join(safe, "trust.key"), nodeNamed(3)); r.code != 2 || !strings.Contains(r.stderr, "the key is not that of RX1") {
		t.Errorf("%+v", r)
	}
	if r := run(t, "", "revoke", "--home", a, "--yes", nodeNamed(4)); r.code != 0 || !strings.Contains(r.stderr, "warning: no node "+nodeNamed(4)+" of RX1 has been heard of here") {
		t.Errorf("%+v", r)
	}
	again(t, 0, "RX3", "peers", "--home", a)
	made := run(t, "", "revoke", "--home", safe, "--yes", "--until", "1:1", s.Peer)
	if made.code != 0 || !strings.HasPrefix(made.stdout, "priormesh-revocation-1:") || !strings.Contains(made.stderr, "not in force yet") {
		t.Fatalf("%+v", made)
	}
	if r := run(t, "", "status", "--home", a); strings.Contains(r.stdout, "revoked: node "+s.Peer) {
		t.Fatalf("%+v", r)
	}
	if r := run(t, made.stdout, "revoke", "--home", a, "-"); r.code != 0 || !strings.Contains(r.stderr, "of RX3 is revoked, what it said up to 1:1 counts") {
		t.Fatalf("%+v", r)
	}
	for _, home := range []string{a, b} {
		again(t, 0, "RX3    revoked", "peers", "--home", home)
		again(t, 0, "revoked: node "+s.Peer+" of RX3", "status", "--home", home)
		again(t, 0, "said by RX1", "audit", "--home", home, "--event", "node.revoked")
	}
	// And the trust is voted out.
	if r := run(t, "", "expel", "--home", a, "--yes", "RX9"); r.code != 2 || !strings.Contains(r.stderr, `"RX9" is no member of the region`) {
		t.Errorf("%+v", r)
	}
	if r := run(t, "", "expel", "--home", a, "--yes", "rx3"); r.code != 6 || !strings.Contains(r.stderr, "1 of 2; ask RX2") {
		t.Fatalf("%+v", r)
	}
	again(t, 0, "vote: to expel RX3, 1 of the 2 needed (RX1)", "status", "--home", b)
	if r := run(t, "", "expel", "--home", b, "--yes", "--json", "RX3"); r.code != 0 || !strings.Contains(r.stdout, `"by":["RX1","RX2"],"expelled":true`) {
		t.Fatalf("%+v", r)
	}
	again(t, 0, "RX3 is expelled", "expel", "--home", a, "--yes", "RX3")
	again(t, 0, "expelled: RX3, by RX1, RX2", "status", "--home", a)
	again(t, 0, "by the votes of RX1, RX2", "audit", "--home", a, "--event", "trust.expelled", "--trust", "RX3")
	again(t, 0, "expelled", "peers", "--home", a)
}
