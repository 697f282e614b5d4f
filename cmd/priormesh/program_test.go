package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// beProgram makes the test's own binary be the program, so that what is tested
// is a process with exit codes, signals and children.
const beProgram = "PRIORMESH_TEST_BE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(beProgram) != "" {
		main()
		return
	}
	os.Unsetenv("PRIORMESH_HOME")
	os.Exit(m.Run())
}

type ran struct {
	code           int
	stdout, stderr string
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), beProgram+"=1")
	return cmd
}

// run runs the program to its end, within the test's process.
func run(t *testing.T, stdin string, args ...string) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := (&program{ctx: t.Context(), stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr}).run(args)
	return ran{code, stdout.String(), stderr.String()}
}

// runProcess runs the program to its end, as a process of its own.
func runProcess(t *testing.T, stdin string, args ...string) ran {
	t.Helper()
	cmd := command(t, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// Exit codes and the two streams are a process's in the end.
func TestProcess(t *testing.T) {
	home := makeHome(t, "RX1", "")
	if r := runProcess(t, "", "status", "--json", "--home", home); r.code != 3 || r.stdout != "" || !strings.HasPrefix(r.stderr, `{"error":"the node is not running`) {
		t.Errorf("%+v", r)
	}
	if r := runProcess(t, "", "--help"); r.code != 0 || !strings.HasPrefix(r.stdout, "Usage: priormesh") || r.stderr != "" {
		t.Errorf("%+v", r)
	}
}

// fake is a node as the commands see it: the operator API with answers that a
// test sets.
type fake struct {
	mu       sync.Mutex
	offers   map[string]string // content offered -> "arrival=…"
	instance func(content string) (int, api.Receipt)
	answers  map[string]any // method and path -> JSON
	asked    []string
	polls    []api.Fetch // of one study, one after the other; the last one stays
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	f.asked = append(f.asked, r.Method+" "+r.URL.RequestURI()+" "+string(body))
	reply := func(code int, v any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") || len(r.Header.Get("Authorization")) < 40 {
		reply(401, map[string]string{"error": "no token"})
		return
	}
	key := r.Method + " " + r.URL.Path
	switch {
	case key == "POST /api/v1/instances":
		if f.offers == nil {
			f.offers = map[string]string{}
		}
		f.offers[string(body)] = r.URL.RawQuery
		code, receipt := f.instance(string(body))
		reply(code, receipt)
	case strings.HasPrefix(key, "GET /api/v1/fetches/") && len(f.polls) > 0:
		reply(200, f.polls[0])
		if len(f.polls) > 1 {
			f.polls = f.polls[1:]
		}
	case f.answers[key] != nil:
		if e, ok := f.answers[key].(*api.Error); ok {
			reply(e.Status, map[string]string{"error": e.Text})
			return
		}
		reply(200, f.answers[key])
	default:
		reply(404, map[string]string{"error": "no such study is known"})
	}
}

// offered is what was offered so far.
func (f *fake) offered() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.offers)
}

// homeOf makes a home whose node is f.
func homeOf(t *testing.T, f http.Handler) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	dir := makeHome(t, "RX1", "")
	lock(t, dir)
	leaveRunning(t, dir, s)
	return dir
}

// leaveRunning leaves in a home what its node writes about itself.
func leaveRunning(t *testing.T, home string, s *httptest.Server) {
	t.Helper()
	running, err := json.Marshal(node.Running{PID: os.Getpid(), HTTP: strings.TrimPrefix(s.URL, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "run.json"), running, 0o600); err != nil {
		t.Fatal(err)
	}
}

// lock holds a home as its node does, until the test ends or the node is to.
func lock(t *testing.T, home string) (end func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(home, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

func makeHome(t *testing.T, trust, found string) string {
	t.Helper()
	conf := node.DefaultConfig()
	conf.Trust, conf.Name = index.TrustID(trust), "Trust "+trust
	if err := freePorts(&conf); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), trust)
	if _, err := node.InitHome(dir, node.InitOptions{Config: conf, Found: found}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestExitCodes(t *testing.T) {
	answers := func(kv ...any) *fake {
		f := &fake{answers: map[string]any{}}
		for i := 0; i < len(kv); i += 2 {
			f.answers[kv[i].(string)] = kv[i+1]
		}
		return f
	}
	study := api.Study{Study: "1.2.3", PatientID: "98", Issuer: "RX2", Name: "DOE^JANE\x1b[2J", Date: "20240331", Modalities: []string{"CT", "SR"},
		Description: "Head", Instances: 42, Trusts: []string{"RX2"}, Availability: "NEARLINE"}
	found := api.Found{Studies: []api.Study{study}, Total: 3, Warnings: []string{"RX3 has not been heard from since noon"}}
	survives := api.Identifier{ID: "98", Issuer: "RX1"}
	linked := api.Link{One: survives, Two: api.Identifier{ID: "9434765919", Issuer: "NHS"}, Standing: "contested", OneStudies: 2, Said: []api.LinkWord{
		{Trust: "RX1", Own: true, Verdict: "merged", Survives: &survives, Reason: "letter"}, {Trust: "RX2", Verdict: "different"}}}
	nothing := api.Found{Studies: []api.Study{}, Warnings: []string{"RX3 has not been heard from since noon"}}
	card := func() string {
		home, err := node.OpenHome(makeHome(t, "RX7", ""))
		if err != nil {
			t.Fatal(err)
		}
		text, err := home.Card()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}()
	file := filepath.Join(t.TempDir(), "card")
	if err := os.WriteFile(file, []byte(card+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	halfway := api.Admission{Trust: "RX7", Have: 1, Need: 2, By: []string{"RX1"}}
	members := api.Status{Trusts: []api.TrustStatus{{Trust: "RX2"}, {Trust: "RX3"}}}
	admitted := api.Admission{Trust: "RX7", Have: 2, Need: 2, By: []string{"RX1", "RX2"}, Admitted: true, Invitation: "priormesh-invitation-1:abc"}

	for name, c := range map[string]struct {
		node   *fake // nil: no node
		args   string
		stdin  string
		code   int
		stdout string // regular expressions; "" means empty
		stderr string
	}{
		"no command":            {nil, "", "", 0, `(?s)Usage: priormesh <command>.*Exit codes:.*  6  not yet`, ""},
		"help":                  {nil, "find --help", "", 0, `(?s)Examples:.*priormesh find --home`, ""},
		"version":               {nil, "--version", "", 0, `unversioned`, ""},
		"unknown command":       {nil, "compact", "", 2, "", `^priormesh: unexpected argument compact.*--help`},
		"unknown flag":          {nil, "find --home HOME --colour", "", 2, "", `unknown flag --colour.*priormesh find --help`},
		"unknown flag in JSON":  {nil, "find --json --home HOME --colour", "", 2, "", `^\{"error":"unknown flag --colour.*","code":2\}\n$`},
		"no home given":         {nil, "find", "", 2, "", `missing flags: --home=DIR`},
		"no home there":         {nil, "status --home HOME/none", "", 2, "", `not a home folder.*priormesh init --home`},
		"not running":           {nil, "status --home HOME", "", 3, "", `the node is not running.*priormesh run --home`},
		"not running in JSON":   {nil, "--json status --home HOME", "", 3, "", `^\{"error":"the node is not running.*","code":3\}\n$`},
		"init twice":            {nil, "init --home HOME --trust RX1", "", 2, "", `already holds a node`},
		"init a bad code":       {nil, "init --home HOME/new --trust rx-1", "", 2, "", `not an ODS code`},
		"init without a trust":  {nil, "init --home HOME/new", "", 2, "", `--trust`},
		"run without a region":  {nil, "run --home HOME", "", 6, "", `in no region yet`},
		"init with no name":     {nil, "init --home HOME/new --trust RX1 --name=", "", 2, "", `--name is empty`},
		"init of no region":     {nil, "init --home HOME/new --trust RX1 --found=", "", 2, "", `--found is empty`},
		"init, no port":         {nil, "init --home HOME/new --trust RX1 --http localhost", "", 2, "", `http: "localhost" is not a host and port`},
		"init, a bad port":      {nil, "init --home HOME/new --trust RX1 --http 127.0.0.1:80800", "", 2, "", `not a host and port`},
		"init, no multiaddr":    {nil, "init --home HOME/new --trust RX1 --mesh 127.0.0.1:4001", "", 2, "", `mesh: "127.0.0.1:4001" is not a multiaddr`},
		"init, QUIC by half":    {nil, "init --home HOME/new --trust RX1 --mesh /ip4/0.0.0.0/udp/4001", "", 2, "", `QUIC is written /udp/4001/quic-v1`},
		"init, a web socket":    {nil, "init --home HOME/new --trust RX1 --mesh /ip4/0.0.0.0/tcp/4001/ws", "", 2, "", `a node speaks TCP and QUIC`},
		"init, a name":          {nil, "init --home HOME/new --trust RX1 --mesh /dns4/mesh.example/tcp/4001", "", 2, "", `a name goes into network.announce`},
		"init, the wrong IP":    {nil, "init --home HOME/new --trust RX1 --mesh /ip4/::1/tcp/4001", "", 2, "", `not a multiaddr`},
		"init, any IPv6":        {nil, "init --home HOME/new --trust RX1 --mesh /ip6/::/tcp/4001", "", 0, `made a node`, ""},
		"init in a file":        {nil, "init --home HOME/config.toml --trust RX1", "", 2, "", `not a home folder: .*config.toml is a file`},
		"a file for a home":     {nil, "status --home HOME/config.toml", "", 2, "", `not a home folder: .*config.toml is a file`},
		"a bad log level":       {nil, "run --home HOME --log-level loud", "", 2, "", `log-level: "loud" is none of debug, info, warn and error`},
		"card":                  {nil, "card --home HOME", "", 0, `^priormesh-card-1:\S+\n$`, `fingerprint [A-Z2-7]{4}-`},
		"card in JSON":          {nil, "card --home HOME --json", "", 0, `^\{"trust":"RX1","name":"Trust RX1","fingerprint":"[-A-Z2-7]+","card":"priormesh-card-1:\S+"\}\n$`, ""},
		"join what is none":     {nil, "join --home HOME priormesh-invitation-1:xyz", "", 2, "", `incomplete or was altered`},
		"join a card":           {nil, "join --home HOME " + file, "", 2, "", `this is a card, not an invitation`},
		"join a folder":         {nil, "join --home HOME HOME", "", 2, "", `is a folder; name the file in it that holds the invitation`},
		"join from no file":     {nil, "join --home HOME nowhere", "", 2, "", `is no invitation .* no such file`},
		"join from empty stdin": {nil, "join --home HOME -", "", 2, "", `empty`},

		"admit, quorum missing":           {answers("POST /api/v1/admissions", halfway, "GET /api/v1/status", members), "admit --home HOME " + file, "", 6, "", `(?s)endorsed by 1 of the 2.*RX7 is endorsed, 1 of 2; ask 1 of RX2, RX3 to run`},
		"admit, quorum in JSON":           {answers("POST /api/v1/admissions", halfway), "admit --home HOME --json -", card, 6, `^\{"trust":"RX7","have":1,"need":2,"by":\["RX1"\],"admitted":false\}\n$`, `^\{"error":"RX7 is endorsed, 1 of 2.*","code":6\}\n$`},
		"admitted":                        {answers("POST /api/v1/admissions", admitted), "admit --home HOME " + card, "", 0, `^priormesh-invitation-1:abc\n$`, `endorsed by 2 of the 2`},
		"admit a member":                  {answers("POST /api/v1/admissions", admitted, "GET /api/v1/status", api.Status{Trusts: []api.TrustStatus{{Trust: "RX7"}}}), "admit --home HOME " + card, "", 0, `^priormesh-invitation-1:abc\n$`, `^RX7 \(Trust RX7\), fingerprint \S+: is a member already\n$`},
		"admit a further node":            {answers("POST /api/v1/admissions", api.Admission{Trust: "RX7", Need: 2, By: []string{}, Admitted: true, Invitation: "priormesh-invitation-1:abc", Node: "12D3KooWX"}, "GET /api/v1/status", api.Status{Trust: "RX7"}), "admit --home HOME " + card, "", 0, `^priormesh-invitation-1:abc\n$`, `its node 12D3KooWX is let in from now on; join with what is printed\n$`},
		"admit the founder":               {answers("POST /api/v1/admissions", api.Admission{Trust: "RX7", Need: 2, By: []string{}, Admitted: true, Invitation: "priormesh-invitation-1:abc"}, "GET /api/v1/status", api.Status{Trust: "RX7"}), "admit --home HOME " + card, "", 0, `^priormesh-invitation-1:abc\n$`, `is a member already\n$`},
		"admit a folder":                  {answers(), "admit --home HOME HOME", "", 2, "", `is a folder; name the file in it that holds the card`},
		"admit by what is no fingerprint": {answers(), "admit --home HOME --fingerprint ABCD-ABCD " + file, "", 2, "", `"ABCD-ABCD" is not a fingerprint: 16 letters`},
		"admit what is no card":           {answers(), "admit --home HOME priormesh-card-1:xyz", "", 2, "", `incomplete or was altered`},
		"admit another's card":            {answers(), "admit --home HOME --fingerprint ABCD-ABCD-ABCD-ABCD " + file, "", 2, "", `nothing was endorsed`},
		"admit, the node says no":         {answers("POST /api/v1/admissions", &api.Error{Status: 400, Text: api.ErrWrongUse.Error() + ": RX7 is a member already, with another key"}), "admit --home HOME " + file, "", 2, "", `^priormesh: RX7 is a member already, with another key\n$`},

		"find damaged":               {answers("GET /api/v1/studies", api.Found{Total: 1, Studies: []api.Study{{Study: "1.2.3", Damaged: true, Availability: "NEARLINE"}}}), "find --home HOME", "", 0, ` damaged +1\.2\.3\n$`, `^damaged: .* of 1 study`},
		"find":                       {answers("GET /api/v1/studies", found), "find --home HOME --patient 98 --since 2024-01-01", "", 0, `98 \(RX2\) +DOE\^JANE.+ 2024-03-31 +CT, SR +Head +42 +RX2 +elsewhere +1\.2\.3\n$`, `(?s)warning: RX3.*2 more: go on with --offset 1`},
		"find in JSON":               {answers("GET /api/v1/studies", found), "find --home HOME --json", "", 0, `^\{"studies":\[\{"study":"1.2.3".*"warnings":\["RX3 has not been heard from since noon"\]\}\n$`, ""},
		"find nothing":               {answers("GET /api/v1/studies", nothing), "find --home HOME", "", 4, "", `^priormesh: no study matched.*may not be all there is: RX3`},
		"find a name":                {answers("GET /api/v1/studies", found), "find --home HOME --name doe^jane", "", 0, `1\.2\.3`, `names were compared whole: with \* at the end, as in --name 'doe\*',`},
		"find a pattern":             {answers("GET /api/v1/studies", found), "find --home HOME --name doe^j*", "", 0, `1\.2\.3`, `^warning: RX3[^\n]*\n[^\n]*more: go on[^\n]*\n$`},
		"find twice":                 {answers(), "find --home HOME --patient 98 --patient 99", "", 2, "", `--patient is given more than once`},
		"find two kinds":             {answers(), "find --home HOME --modality CT,MR", "", 2, "", `--modality takes one code`},
		"link":                       {answers("POST /api/v1/links", linked), "link --home HOME --same --reason letter 98^^^RX1 9434765919^^^NHS", "", 0, `^98\^\^\^RX1 \(2 studies\) and 9434765919\^\^\^NHS \(0 studies\): contested.*\n  RX1 \(this node\): merged, 98\^\^\^RX1 survives \(letter\)\n  RX2: different \(-\)\n$`, `no study .* bears 9434765919\^\^\^NHS`},
		"link, asked":                {answers("POST /api/v1/links", api.Link{Standing: "none"}), "link --home HOME 98^^^RX1 99^^^RX1", "", 4, `nobody says anything`, `nobody says anything`},
		"link without a reason":      {answers(), "link --home HOME --same 98^^^RX1 99^^^RX1", "", 2, "", `--reason 'letter`},
		"link by two verdicts":       {answers(), "link --home HOME --same --different --reason why 98^^^RX1 99^^^RX1", "", 2, "", `can't be used together`},
		"link of no issuer":          {answers(), "link --home HOME --same --reason why 98 99^^^RX1", "", 2, "", `98 is not a number and who issued it`},
		"link of one":                {answers(), "link --home HOME --same --reason why 98^^^RX1 98^^^RX1", "", 2, "", `one identifier`},
		"link, a reason alone":       {answers(), "link --home HOME --reason why 98^^^RX1 99^^^RX1", "", 2, "", `--reason goes with`},
		"nothing in JSON":            {answers("GET /api/v1/studies", nothing), "find --home HOME --json", "", 4, `^\{"studies":\[\],"total":0,"warnings":\["RX3.*"\]\}\n$`, `"code":4`},
		"find for no ID":             {answers(), "find --home HOME --patient=", "", 2, "", `--patient: is empty; leave the flag out`},
		"find for a blank ID":        {answers(), "find --home HOME --json --nhs=\u00a0", "", 2, "", `--nhs: is empty.*"code":2`},
		"find at no trust":           {answers("GET /api/v1/studies", api.Found{Basis: []api.Basis{{Trust: "RX1"}, {Trust: "RX2"}}}), "find --home HOME --trust RX9", "", 2, "", `--trust: RX9 is not a trust of this region; there are RX1, RX2`},
		"find at a trust":            {answers("GET /api/v1/studies", api.Found{Basis: []api.Basis{{Trust: "RX1"}, {Trust: "RX2"}}}), "find --home HOME --trust rx2", "", 4, "", `no study matched`},
		"find at who has left":       {answers("GET /api/v1/studies", api.Found{Studies: []api.Study{study}, Total: 1, Basis: []api.Basis{{Trust: "RX1"}}}), "find --home HOME --trust RX9", "", 0, `1\.2\.3`, ``},
		"find, what tells two apart": {answers("GET /api/v1/studies", api.Found{Total: 1, Studies: []api.Study{{Study: "1.2.3", Name: "DOE^JANE", BirthDate: "19580331", Sex: "F", Accession: "RAD-7", Instances: 3, AtLeast: true}}}), "find --home HOME", "", 0, `(?s)NAME +BORN +SEX +ACCESSION +DATE.*DOE\^JANE +1958-03-31 +F +RAD-7 .* 3\+ `, ``},
		"find a page":                {answers("GET /api/v1/studies", api.Found{Studies: []api.Study{study}, Total: 3, Next: "0aff"}), "find --home HOME --limit 1", "", 0, `1\.2\.3`, `^2 more: go on with --after 0aff\n$`},
		"find a later page":          {answers("GET /api/v1/studies", api.Found{Studies: []api.Study{study}, Total: 3, Next: "0bff"}), "find --home HOME --after 0aff", "", 0, `1\.2\.3`, `^there are more: go on with --after 0bff\n$`},
		"find after two":             {answers(), "find --home HOME --after 0aff --offset 3", "", 2, "", `--after or --offset`},
		"find after nothing":         {answers(), "find --home HOME --after zzz", "", 2, "", `--after: zzz is not what a page of before ended with`},
		"help of a command":          {nil, "help find", "", 0, `Usage: priormesh find`, ""},
		"version as a word":          {nil, "version", "", 0, `unversioned`, ""},
		"find a bad date":            {answers(), "find --home HOME --since yesterday", "", 2, "", `--since: is no date; write it like`},
		"find a bad number":          {answers("GET /api/v1/studies", &api.Error{Status: 400, Text: "this is no NHS number"}), "find --home HOME --nhs 1", "", 2, "", `this is no NHS number`},
		"find before it begins":      {answers(), "find --home HOME --since 2024-01-02 --until 20240101", "", 2, "", `--until 2024-01-01 is before --since 2024-01-02`},
		"find one day":               {answers("GET /api/v1/studies", nothing), "find --home HOME --since 2024-01-02 --until 20240102", "", 4, "", `no study matched`},
		"find no UID":                {answers(), "find --home HOME --study foo", "", 2, "", `--study: "foo" is no Study Instance UID`},
		"find from before the first": {answers(), "find --home HOME --offset -1", "", 2, "", `--offset: "-1" is not a number from 0`},
		"find from nowhere":          {answers(), "find --home HOME --offset", "", 2, "", `--offset: .*number`},
		"find too many":              {answers(), "find --home HOME --limit 1001", "", 2, "", `--limit is 1 to 1000`},
		"the node fails":             {answers("GET /api/v1/status", &api.Error{Status: 500, Text: "the disk fails"}), "status --home HOME", "", 1, "", `^priormesh: the disk fails\n$`},
		"status":                     {answers("GET /api/v1/status", api.Status{Trust: "RX1", Name: "Vale", Region: "Valleys", Warnings: []string{"RX3 is silent"}, Trusts: []api.TrustStatus{{Trust: "RX3", Name: "Moor"}}}), "status --home HOME", "", 0, `(?s)RX1 \(Vale\) in the region "Valleys".*RX3 +Moor +never \(silent\).*warning: RX3 is silent`, ""},
		"status of what is lacking": {answers("GET /api/v1/status", api.Status{Trust: "RX1", Basis: []api.Basis{
			{Trust: "RX3", AsOf: time.Now(), Logs: []api.LogPosition{{Epoch: 2, Seq: 913}, {Epoch: 1, Seq: 7}}}, {Trust: "RX4", AsOf: time.Now(), Logs: []api.LogPosition{{Epoch: 1, Seq: 5, Quarantined: true}}}},
			Trusts: []api.TrustStatus{{Trust: "RX3", Name: "Moor", Heard: true, LastHeard: time.Now(), Behind: 12, Missing: 3, Unread: 2}, {Trust: "RX4", Name: "Dale", Heard: true, LastHeard: time.Now(), Quarantined: 1}},
			Peers:  []api.Peer{{Trust: "RX3", Connected: true, Way: api.Way{Transport: "tcp", Relay: "12D4", RelayTrust: "RX2"}}, {Trust: "RX3", Connected: true, Way: api.Way{Transport: "quic"}}, {Trust: "RX4", Way: api.Way{}}},
			Forked: []api.Fork{{Node: "12D3", Trust: "RX4", Epoch: 1, Position: 4}}}), "status --home HOME", "", 0,
			`(?s)HEARD +WAY +LACKING +ALL KNOWN +LOG +STUDIES.*RX3 +Moor +\S.* ago +tcp by RX2, quic +12 on the way, 3 without contents, 2 unread +\S.* ago +2/913, 1/7 +0\n.*RX4 +Dale +\S.* ago +- +- +no: quarantined +1/5 .*quarantined: node 12D3 of RX4`, ""},
		"peers": {answers("GET /api/v1/peers", []api.Peer{
			{Trust: "RX3", Connected: true, RTT: time.Millisecond, Way: api.Way{Transport: "quic", Since: time.Now().Add(-90 * time.Second)}, Addrs: []string{"/ip4/1.2.3.4/tcp/1"}},
			{Trust: "RX4", Connected: true, Way: api.Way{Transport: "tcp", Relay: "12D3", RelayTrust: "RX3", Since: time.Now().Add(-90 * time.Second)}}, {Trust: "RX5"}}),
			"peers --home HOME", "", 0, `(?s)RX3 +quic +1 min +never +1ms.*RX4 +tcp by RX3 +1 min +never +-.*RX5 +no +- +never`, ""},
		"status of a relay":  {answers("GET /api/v1/status", api.Status{Trust: "RX1", Relay: &api.Relay{Circuits: 2, Bytes: 3 << 20}}), "status --home HOME", "", 0, `relay +carries 2 connections between other nodes, 3 ?MiB`, ""},
		"no peers":           {answers("GET /api/v1/peers", []api.Peer{}), "peers --home HOME", "", 0, `no other node is known`, ""},
		"peers in JSON":      {answers("GET /api/v1/peers", []api.Peer{}), "peers --home HOME --json", "", 0, `^\[\]\n$`, ""},
		"fetch what is none": {answers(), "fetch --home HOME DOE", "", 2, "", `no Study Instance UID`},
		"fetch the unknown":  {answers(), "fetch --home HOME 1.2", "", 4, "", `no such study is known`},
		"fetch, cannot wait": {answers("POST /api/v1/fetches", api.Fetch{Study: "1.2", State: "waiting", Error: "RX2 is away"}), "fetch --home HOME --wait 0s 1.2", "", 6, "", `(?s)stays in the node's queue.*RX2 is away`},
		"import no file":     {answers(), "import --home HOME HOME/keys-none", "", 2, "", `there is no file or folder .*keys-none`},
		"import some paths":  {judged(), "import --home HOME HOME/keys-none HOME/config.toml", "", 5, `^2 files: 1 stored.*1 could not be read`, `keys-none: unread: no such file`},
		"demo of one trust":  {nil, "demo --trusts 1", "", 2, "", `--trusts is 2 to`},
		"demo without files": {nil, "demo --data HOME/none", "", 2, "", `no folder`},
		"demo of no bundle":  {nil, "demo --once", "", 2, "", `name a folder of DICOM files with --data`},
	} {
		t.Run(name, func(t *testing.T) {
			var home string
			if c.node != nil {
				home = homeOf(t, c.node)
			} else {
				home = makeHome(t, "RX1", "")
			}
			r := run(t, c.stdin, strings.Fields(strings.ReplaceAll(c.args, "HOME", home))...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			for what, got := range map[string][2]string{"stdout": {r.stdout, c.stdout}, "stderr": {r.stderr, c.stderr}} {
				if got[1] == "" && got[0] != "" || !regexp.MustCompile(got[1]).MatchString(got[0]) {
					t.Errorf("%s is\n%s\nwant %s", what, got[0], got[1])
				}
				if strings.Contains(got[0], "\x1b") {
					t.Errorf("%s holds terminal controls: %q", what, got[0])
				}
			}
		})
	}
}

func TestFindAsksWhatItIsTold(t *testing.T) {
	f := &fake{answers: map[string]any{"GET /api/v1/studies": api.Found{Studies: []api.Study{{Study: "1.2"}}, Total: 1}}}
	home := homeOf(t, f)
	r := run(t, "", "find", "--home", home, "--patient", "9 8", "--issuer", "RX2", "--nhs", "943 476 5919", "--name", "DOE*", "--modality", "CT",
		"--since", "2024-01-02", "--until", "20240203", "--study", "1.2", "--limit", "7", "--offset", "3")
	want := "GET /api/v1/studies?issuer=RX2&limit=7&modality=CT&name=DOE%2A&nhs=943+476+5919&offset=3&patient=9+8&since=20240102&study=1.2&until=20240203 "
	if r.code != 0 || len(f.asked) != 1 || f.asked[0] != want {
		t.Errorf("code %d, asked %q, want %q", r.code, f.asked, want)
	}
}

// A node that was killed leaves run.json behind.
func TestNodeThatWasKilled(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	home := makeHome(t, "RX1", "")
	leaveRunning(t, home, s)
	s.Close()
	if r := run(t, "", "find", "--home", home, "--name", "DOE^JANE"); r.code != 3 || !strings.Contains(r.stderr, "`priormesh run --home "+home+"`") || strings.Contains(r.stderr, "DOE") {
		t.Errorf("code %d, %s", r.code, r.stderr)
	}
	// What works on the home of a node that does not run works on this one.
	home = makeHome(t, "RX2", "One")
	leaveRunning(t, home, s)
	for _, args := range [][]string{{"verify", "--home", home}, {"backup", "--home", home, filepath.Join(t.TempDir(), "backup")}} {
		if r := run(t, "", args...); r.code != 0 {
			t.Errorf("%s: %+v", args[0], r)
		}
	}
}

func TestFetchWaitsUntilTheStudyIsHere(t *testing.T) {
	f := &fake{answers: map[string]any{"POST /api/v1/fetches": api.Fetch{Study: "1.2", State: "queued"}},
		polls: []api.Fetch{{Study: "1.2", State: "active", Bytes: 10, BytesHere: 3}, {Study: "1.2", State: "waiting", Attempts: 1, Error: "RX2 broke off"},
			{Study: "1.2", State: "elsewhere"}, {Study: "1.2", State: "here"}}}
	r := run(t, "", "fetch", "--home", homeOf(t, f), "1.2")
	if r.code != 0 || r.stdout != "here: 1.2\n" || r.stderr != "attempt 1 failed: RX2 broke off; the node tries again\n" {
		t.Errorf("%+v", r)
	}
	asked := func() (n int) {
		for _, a := range f.asked {
			if strings.HasPrefix(a, "POST /api/v1/fetches ") {
				n++
			}
		}
		f.asked = nil
		return n
	}
	asked()
	// The study grew after the fetch of what was known of it had ended.
	f.polls = []api.Fetch{{Study: "1.2", State: "elsewhere"}, {Study: "1.2", State: "elsewhere"}, {Study: "1.2", State: "active"}, {Study: "1.2", State: "here"}}
	if r := run(t, "", "fetch", "--home", homeOf(t, f), "1.2"); r.code != 0 || asked() != 2 {
		t.Errorf("a fetch that has to be asked for again: %+v", r)
	}
	f.polls = []api.Fetch{{Study: "1.2", State: "elsewhere"}}
	if r := run(t, "", "fetch", "--home", homeOf(t, f), "1.2"); r.code != 1 || !strings.Contains(r.stderr, "asked for 5 times") || asked() != maxAsks {
		t.Errorf("a fetch that never comes to anything: %+v", r)
	}
	f.polls = []api.Fetch{{Study: "1.2", State: "active", Instances: 5, InstancesHere: 2}}
	if r := run(t, "", "fetch", "--json", "--wait", "600ms", "--home", homeOf(t, f), "1.2"); r.code != 6 || !strings.Contains(r.stdout, `"instances_here":2`) || !strings.Contains(r.stderr, "not here after 600ms") {
		t.Errorf("a fetch that takes longer than the wait: %+v", r)
	}
}

// Settings that cannot be read any more change nothing in a node that runs: it can be asked.
func TestCommandsReachANodeWhoseSettingsAreWrong(t *testing.T) {
	f := &fake{answers: map[string]any{"GET /api/v1/studies": api.Found{Studies: []api.Study{{Study: "1.2.3", PatientID: "A1"}}, Total: 1}}}
	home := homeOf(t, f)
	path := filepath.Join(home, "config.toml")
	wrong, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.WriteString("\nwrokers = 3\n"); err != nil {
		t.Fatal(err)
	}
	if err := wrong.Close(); err != nil {
		t.Fatal(err)
	}
	if r := run(t, "", "find", "--home", home, "--patient", "A1"); r.code != 0 || !strings.Contains(r.stdout, "1.2.3") {
		t.Errorf("%+v", r)
	}
	if err := os.Remove(filepath.Join(home, "run.json")); err != nil {
		t.Fatal(err)
	}
	if r := run(t, "", "find", "--home", home, "--patient", "A1"); r.code != 1 || !strings.Contains(r.stderr, "wrokers") {
		t.Errorf("of a node that does not run: %+v", r)
	}
}

// Ctrl-C ends the waiting, not the fetch.
func TestFetchInterrupted(t *testing.T) {
	f := &fake{answers: map[string]any{"POST /api/v1/fetches": api.Fetch{Study: "1.2", State: "queued"}}, polls: []api.Fetch{{Study: "1.2", State: "queued"}}}
	cmd := command(t, "fetch", "--home", homeOf(t, f), "1.2")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command polls", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.asked) > 1
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 6 || !strings.Contains(stderr.String(), "stays in the node's queue") {
		t.Errorf("code %d, %s", cmd.ProcessState.ExitCode(), stderr.String())
	}
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// judged is a fake that judges instances by their content.
func judged() *fake {
	return &fake{instance: func(content string) (int, api.Receipt) {
		switch {
		case strings.HasPrefix(content, "bad"):
			return 422, api.Receipt{Outcome: api.Refused, Reason: "dicom: not DICOM\x1b"}
		case strings.HasPrefix(content, "again"):
			return 200, api.Receipt{Outcome: api.Duplicate, Bytes: int64(len(content))}
		case strings.HasPrefix(content, "other"):
			return 409, api.Receipt{Outcome: api.Refused, Reason: "conflict"}
		case strings.HasPrefix(content, "trouble"):
			return 500, api.Receipt{Outcome: api.Refused, Reason: "the node could not store it"}
		case strings.HasPrefix(content, "full"):
			return 507, api.Receipt{Outcome: api.Refused, Reason: "the node's disk is full"}
		case strings.HasPrefix(content, "away"):
			return 503, api.Receipt{Outcome: api.Refused, Reason: "the node's store cannot be reached"}
		}
		return 200, api.Receipt{Outcome: api.Stored, Study: "1.2", Instance: "1.3", Bytes: int64(len(content)), SHA256: "ab"}
	}}
}

func makeFiles(t *testing.T, contents ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i, c := range contents {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.dcm", i)), []byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestImport(t *testing.T) {
	dir := makeFiles(t, "good one", "again two", "good three")
	f := judged()
	home := homeOf(t, f)
	// Not a terminal: no bar, nothing at all on stderr when all is well.
	r := run(t, "", "import", "--home", home, dir)
	if r.code != 0 || r.stderr != "" || !regexp.MustCompile(`^3 files: 2 stored, 1 here already, 0 refused, 0 could not be read; 27 bytes accepted in \S+ s\n$`).MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
	for content, arrival := range f.offered() {
		if arrival != "arrival=false" {
			t.Errorf("%q was offered with %s", content, arrival)
		}
	}
	if r := run(t, "", "import", "--home", home, "--arrival", dir); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if got := f.offered(); len(got) != 3 || got["good one"] != "arrival=true" {
		t.Errorf("offers %q", got)
	}

	dir = makeFiles(t, "good one", "bad", "other bytes", "again", "trouble")
	if err := os.Symlink("/", filepath.Join(dir, "root")); err != nil {
		t.Fatal(err)
	}
	r = run(t, "", "import", "--home", home, dir)
	for _, want := range []string{"01.dcm: refused: not DICOM\uFFFD\n", "02.dcm: refused: conflict\n", "04.dcm: refused: the node could not store it\n",
		"root: unread: a symbolic link to outside", "priormesh: 4 of 6 files were not imported"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("stderr does not say %q:\n%s", want, r.stderr)
		}
	}
	if r.code != 5 || !strings.HasPrefix(r.stdout, "6 files: 1 stored, 1 here already, 3 refused, 1 could not be read;") {
		t.Errorf("%+v", r)
	}

	r = run(t, "", "import", "--home", home, "--json", dir)
	lines := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	var outcomes []string
	for _, line := range lines[:len(lines)-1] {
		var got imported
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if got.Reason == "not DICOM\x1b" != (filepath.Base(got.File) == "01.dcm") || strings.Contains(got.Reason, "dicom: ") {
			t.Errorf("%s: the reason is %q", got.File, got.Reason)
		}
		outcomes = append(outcomes, filepath.Base(got.File)+" "+string(got.Outcome))
	}
	slices.Sort(outcomes)
	want := []string{"00.dcm stored", "01.dcm refused", "02.dcm refused", "03.dcm duplicate", "04.dcm refused", "root unread"}
	if r.code != 5 || !slices.Equal(outcomes, want) {
		t.Errorf("code %d, lines %q, want %q", r.code, outcomes, want)
	}
	var sum importSummary
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil || sum.Files != 6 || sum.Stored != 1 || sum.Duplicates != 1 || sum.Refused != 3 || sum.Unread != 1 {
		t.Errorf("summary %s", lines[len(lines)-1])
	}
	if !regexp.MustCompile(`^\{"error":".*","code":5\}\n$`).MatchString(r.stderr) {
		t.Errorf("stderr %q", r.stderr)
	}
	if r := run(t, "", "import", "--home", home, makeFiles(t, "bad", "bad too")); r.code != 1 || !strings.HasSuffix(r.stderr, "priormesh: nothing was imported of 2 files; the reasons are above\n") {
		t.Errorf("nothing but what is refused: %+v", r)
	}
	if r := run(t, "", "import", "--home", home, t.TempDir()); r.code != 4 {
		t.Errorf("an empty folder: %+v", r)
	}
}

// A full disk, a store that is away, or a node that is gone, ends an import at once: the next file
// would fare no better.
func TestImportGivesUp(t *testing.T) {
	contents := []string{""}
	for i := range 200 {
		contents = append(contents, fmt.Sprint("good ", i))
	}
	for content, text := range map[string]string{"full": "disk is full", "away": "store cannot be reached"} {
		contents[0] = content
		f := judged()
		r := run(t, "", "import", "--home", homeOf(t, f), makeFiles(t, contents...))
		want := 5 // what was sent beside it was accepted
		if strings.Contains(r.stdout, " 0 stored, 0 here already") {
			want = 1
		}
		if r.code != want || !strings.Contains(r.stderr, text) || !strings.Contains(r.stderr, "can be repeated") || len(f.offered()) > 150 {
			t.Errorf("after %d offers: %+v", len(f.offered()), r)
		}
	}

	late, offers := judged(), 0
	late.instance = func(string) (int, api.Receipt) { // offered one at a time, by the fake's lock
		if offers++; offers > 100 {
			return 507, api.Receipt{Outcome: api.Refused, Reason: "the node's disk is full"}
		}
		return 200, api.Receipt{Outcome: api.Stored}
	}
	if r := run(t, "", "import", "--json", "--home", homeOf(t, late), makeFiles(t, contents[1:]...)); r.code != 5 || !strings.Contains(r.stderr, `"code":5`) || !strings.Contains(r.stderr, "files were accepted") {
		t.Errorf("a disk that was full after a while: %+v", r.stderr)
	}

	var s *httptest.Server
	f := judged()
	n := 0
	f.instance = func(string) (int, api.Receipt) {
		if n++; n == 10 {
			s.CloseClientConnections()
			s.Listener.Close()
		}
		return 200, api.Receipt{Outcome: api.Stored}
	}
	s = httptest.NewServer(f)
	home := makeHome(t, "RX1", "")
	lock(t, home)
	leaveRunning(t, home, s)
	if r := run(t, "", "import", "--json", "--home", home, makeFiles(t, contents[1:]...)); r.code != 3 || !strings.Contains(r.stderr, `"code":3`) {
		t.Errorf("%+v", r)
	}
}

func TestInitCardAdmitJoinRun(t *testing.T) {
	base := t.TempDir()
	a, b := filepath.Join(base, "a"), filepath.Join(base, "b c")
	init := func(home, trust string, more ...string) ran {
		conf := node.DefaultConfig()
		if err := freePorts(&conf); err != nil {
			t.Fatal(err)
		}
		return run(t, "", append([]string{"init", "--home", home, "--trust", trust, "--http", conf.HTTP, "--mesh", conf.Mesh[0]}, more...)...)
	}
	if r := init(a, "RX1", "--found", "Two", "--name", "Vale"); r.code != 0 || !strings.Contains(r.stdout, `founded the region "Two"`) || !strings.Contains(r.stdout, "next: priormesh run --home "+a) {
		t.Fatalf("%+v", r)
	}
	r := init(b, "RX2", "--json")
	var m made
	if err := json.Unmarshal([]byte(r.stdout), &m); err != nil || r.code != 0 || m.Trust != "RX2" || m.Name != "RX2" || m.Region != "" || m.Fingerprint == "" || !strings.HasPrefix(m.Card, "priormesh-card-1:") {
		t.Fatalf("%+v", r)
	}
	if r := run(t, "", "card", "--home", b); strings.TrimSpace(r.stdout) != m.Card {
		t.Fatalf("card prints %q, init %q", r.stdout, m.Card)
	}

	first := startRun(t, a)
	r = run(t, m.Card, "admit", "--home", a, "--fingerprint", strings.ReplaceAll(strings.ToLower(m.Fingerprint), "-", " "), "-")
	if r.code != 0 || !strings.HasPrefix(r.stdout, "priormesh-invitation-1:") {
		t.Fatalf("%+v", r)
	}
	invitation := filepath.Join(base, "invitation")
	if err := os.WriteFile(invitation, []byte(r.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	// The invitation is RX2's alone.
	if r := run(t, "", "join", "--home", makeHome(t, "RX3", ""), invitation); r.code != 2 || !strings.Contains(r.stderr, "does not let RX3 in: it admits RX1, RX2 and was made for another trust") {
		t.Fatalf("%+v", r)
	}
	if r := init(a, "RX1"); r.code != 2 || !strings.Contains(r.stderr, "already holds a node") {
		t.Errorf("init where a node runs: %+v", r)
	}
	if r := run(t, "", "join", "--home", a, invitation); r.code != 1 || !strings.Contains(r.stderr, "another process runs this node") {
		t.Fatalf("joining while the node runs: %+v", r)
	}
	if r := run(t, "", "join", "--home", b, invitation); r.code != 0 || !strings.Contains(r.stdout, `joined the region "Two"; its members are RX1, RX2`) || !strings.Contains(r.stdout, "--home '"+b+"'") {
		t.Fatalf("%+v", r)
	}
	second := startRun(t, b, "--json", "--log-json", "--log-level", "debug")
	eventually(t, "RX1 hears RX2", func() bool {
		r := run(t, "", "peers", "--json", "--home", a)
		var peers []api.Peer
		return json.Unmarshal([]byte(r.stdout), &peers) == nil && len(peers) == 1 && peers[0].Connected
	})
	if r := run(t, "", "run", "--home", a); r.code != 1 || !strings.Contains(r.stderr, "another process runs this node") {
		t.Errorf("a second process on one home: %+v", r)
	}
	second.end(t, syscall.SIGTERM)
	first.end(t, os.Interrupt)
	if !regexp.MustCompile(`^ready: DICOMweb http://127\.0\.0\.1:\d+/dicom-web\n$`).MatchString(first.stdout.String()) {
		t.Errorf("run printed %q", first.stdout.String())
	}
	var said ready
	if err := json.Unmarshal(second.stdout.Bytes(), &said); err != nil || !said.Ready || said.Trust != "RX2" || said.DICOMweb != said.HTTP+"/dicom-web" || said.PID != second.cmd.Process.Pid {
		t.Errorf("run --json printed %q", second.stdout.String())
	}
	for line := range strings.Lines(second.stderr.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line of the JSON log is none: %s", line)
		}
	}
	if !strings.Contains(first.stderr.String(), `msg="the node has ended"`) {
		t.Errorf("the log does not say that the node has ended:\n%s", first.stderr.String())
	}
	if r := run(t, "", "status", "--home", a); r.code != 3 {
		t.Errorf("after the end: %+v", r)
	}
}

// What holds the lock and has not said yet where it serves is a node that starts.
func TestCommandsWaitForANodeThatStarts(t *testing.T) {
	s := httptest.NewServer(&fake{answers: map[string]any{"GET /api/v1/status": api.Status{Trust: "RX1"}}})
	defer s.Close()
	home := makeHome(t, "RX1", "")
	unlock := lock(t, home)
	done := make(chan ran, 1)
	go func() { done <- run(t, "", "status", "--home", home) }()
	select {
	case r := <-done:
		t.Fatalf("it did not wait: %+v", r)
	case <-time.After(4 * startEvery):
	}
	leaveRunning(t, home, s)
	if r := <-done; r.code != 0 || !strings.HasPrefix(r.stdout, "RX1") {
		t.Errorf("%+v", r)
	}
	if err := os.Remove(filepath.Join(home, "run.json")); err != nil {
		t.Fatal(err)
	}
	go func() { done <- run(t, "", "status", "--home", home) }()
	unlock() // the node could not start
	if r := <-done; r.code != 3 {
		t.Errorf("%+v", r)
	}
}

func TestRunWithoutTheNodesKey(t *testing.T) {
	home := makeHome(t, "RX1", "Alone")
	if err := os.Remove(filepath.Join(home, "node.key")); err != nil {
		t.Fatal(err)
	}
	if r := run(t, "", "run", "--home", home); r.code != 1 || !strings.Contains(r.stderr, "put the file back from a backup") {
		t.Errorf("%+v", r)
	}
}

// running is `priormesh run`.
type running struct {
	cmd            *exec.Cmd
	stdout, stderr lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

func (l *lockedBuffer) String() string { return string(l.Bytes()) }

func startRun(t *testing.T, home string, more ...string) *running {
	t.Helper()
	r := start(t, append([]string{"run", "--home", home}, more...)...)
	eventually(t, "the node says that it is ready", func() bool { return bytes.Contains(r.stdout.Bytes(), []byte("\n")) })
	return r
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{cmd: command(t, args...)}
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%q wrote\n%s%s", args, r.stdout.String(), r.stderr.String())
		}
	})
	return r
}

// end asks for an end and insists on exit code 0.
func (r *running) end(t *testing.T, s os.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("after %v: %v\n%s", s, err, r.stderr.String())
	}
}

// A second signal ends at once, whatever is still under way.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	home := makeHome(t, "RX1", "Alone")
	r := startRun(t, home)
	// A STOW-RS request that never ends keeps the node from draining.
	body, w := io.Pipe()
	defer w.Close()
	web := strings.TrimSpace(strings.TrimPrefix(r.stdout.String(), "ready: DICOMweb "))
	go func() {
		req, err := http.NewRequest(http.MethodPost, web+"/studies", body)
		if err == nil {
			req.Header.Set("Content-Type", `multipart/related; type="application/dicom"; boundary=x`)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		}
	}()
	if _, err := w.Write([]byte("--x\r\nContent-Type: application/dicom\r\n\r\n")); err != nil { // taken when the connection is there
		t.Fatal(err)
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node begins to drain", func() bool { return strings.Contains(r.stderr.String(), "asked to end") })
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait()
	if st, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !st.Signaled() || st.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want by the signal", r.cmd.ProcessState)
	}
}

func TestProgressIsSilentUnlessWatched(t *testing.T) {
	var out bytes.Buffer
	bar := (&program{stderr: &out}).progress("importing")
	bar.of(10)
	bar.add(5)
	bar.at(7)
	fmt.Fprint(bar, "a line")
	bar.end()
	if out.String() != "a line" {
		t.Errorf("wrote %q", out.String())
	}
}

func TestTextForPeople(t *testing.T) {
	for got, want := range map[string]string{
		plain("a\x1b[31m\nb\u202e"):       "a\uFFFD[31m\uFFFDb\uFFFD",
		short("Müller^Jürgen", 8):         "Müller^…",
		quoted("/srv/a b'c"):              `'/srv/a b'\''c'`,
		quoted("/srv/a_b-1.2"):            "/srv/a_b-1.2",
		quoted(""):                        "''",
		ago(500 * time.Millisecond):       "less than a second",
		ago(59*time.Second + 900e6):       "59s",
		ago(3*time.Minute + time.Second):  "3 min",
		ago(25*time.Hour + 2*time.Minute): "25 h 2 min",
		ago(72 * time.Hour):               "3 days",
		bytesText(999):                    "999 bytes",
		bytesText(1500):                   "1.5 kB",
		bytesText(999_960):                "1.0 MB",
		bytesText(3 << 40):                "3.3 TB",
		dateText("20240331"):              "2024-03-31",
		dateText("soon"):                  "soon",
		list(nil):                         "-",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	v := "20240230"
	if day(&v) == nil {
		t.Error("30 February is a day")
	}
}
