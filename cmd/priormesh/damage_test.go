package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

func TestVerifySaysWhatItFound(t *testing.T) {
	harmed := api.Damage{Study: "1.2.3", Trust: "RX2", Kinds: []string{"damaged", "missing"}, Blocks: 3, Instances: 2}
	left := harmed
	left.Blocks, left.Why = 1, "no other trust holds a copy"
	key := api.Damage{Study: "1.2.4", Trust: "RX1", Own: true, Kinds: []string{"key"}}
	for name, c := range map[string]struct {
		args   string
		answer any
		code   int
		stdout string
		stderr string
	}{
		"whole":        {"", api.VerifyReport{Studies: 2, Instances: 7, Blocks: 30, Bytes: 3_000_000, Found: []api.Finding{}, CanRepair: true}, 0, `^verified 2 studies, 7 instances, 3.0 MB in 30 blocks: all whole\n$`, `^$`},
		"repaired":     {"", api.VerifyReport{Studies: 2, Found: []api.Finding{{Damage: harmed, Repaired: 3, From: []string{"RX2", "RX3"}}}, CanRepair: true}, 0, `^1\.2\.3 \(copy of RX2's\): 3 blocks of 2 instances damaged or missing; 3 repaired from RX2, RX3; whole again\nverified .*: damage in 1 study, 0 not repaired\n$`, `^$`},
		"not repaired": {"--study 1.2.3 --rate 5MiB", api.VerifyReport{Studies: 2, Left: 1, Found: []api.Finding{{Damage: harmed, Repaired: 2, From: []string{"RX3"}, Left: &left}}, CanRepair: true}, 7, `2 repaired from RX3; NOT repaired: 1 block of 2 instances damaged or missing, because: no other trust holds a copy\n`, `^priormesh: damage remains in 1 study; what other trusts hold is repaired by itself.*priormesh status`},
		"a lost key":   {"", api.VerifyReport{Studies: 2, Left: 1, Found: []api.Finding{{Damage: key, Left: &key}}, MoreFound: 4}, 7, `^1\.2\.4 \(received here\): the study key is lost; NOT repaired: the study key is lost\nand 4 studies more\n`, `start it with .priormesh run`},
		"in JSON":      {"--json", api.VerifyReport{Studies: 2, Left: 1, Found: []api.Finding{{Damage: harmed, Left: &left}}, CanRepair: true}, 7, `^\{"studies":2,.*"found":\[\{"study":"1.2.3".*"left":1,"lost":0,"can_repair":true\}\n$`, `"code":7`},
		"lost":         {"", api.VerifyReport{Studies: 2, Lost: 3}, 7, `all whole`, `3 studies were received here and gone, wholly or in part, since the restore`},
		"no UID":       {"--study foo", nil, 2, `^$`, `no Study Instance UID`},
		"no rate":      {"--rate 5", nil, 2, `^$`, `has no unit`},
		"busy":         {"", &api.Error{Status: 409, Text: "a verification is under way already"}, 1, `^$`, `under way already`},
		"unknown":      {"--study 1.2", nil, 4, `^$`, `no such study`},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{answers: map[string]any{}}
			switch a := c.answer.(type) {
			case api.VerifyReport:
				f.answers["POST /api/v1/verifications"] = api.Verification{Report: &a}
			case *api.Error:
				f.answers["POST /api/v1/verifications"] = a
			}
			r := run(t, "", strings.Fields("verify --home "+homeOf(t, f)+" "+c.args)...)
			if r.code != c.code || !regexp.MustCompile(c.stdout).MatchString(r.stdout) || !regexp.MustCompile(c.stderr).MatchString(r.stderr) {
				t.Errorf("code %d, stdout\n%s\nstderr\n%s", r.code, r.stdout, r.stderr)
			}
			if name == "not repaired" && f.asked[0] != `POST /api/v1/verifications {"rate":5242880,"study":"1.2.3"}` {
				t.Errorf("asked %q", f.asked)
			}
		})
	}
	s := api.Status{Trust: "RX1", Damage: []api.Damage{left}, Damaged: 3, Doubts: api.Doubts{Possible: 2, Limited: 1}}
	var out bytes.Buffer
	statusText(&out, s, time.Now())
	if got := out.String(); !strings.Contains(got, "damaged: study 1.2.3 (copy of RX2's): 1 block of 2 instances damaged or missing, found ") || !strings.Contains(got, "no other trust holds a copy") || !strings.Contains(got, "damaged: 2 studies more") ||
		!strings.Contains(got, "in doubt: of the studies that arrived lately 2 have studies that only may be the patient's, 1 have more") {
		t.Errorf("status: %s", got)
	}
}

// A home from init to a flipped bit, by the program alone.
func TestVerifyARealHome(t *testing.T) {
	dir := makeHome(t, "RX1", "Region")
	if r := run(t, "", "verify", "--home", dir); r.code != 0 || !strings.Contains(r.stdout, "all whole") || !strings.Contains(r.stderr, "not running") {
		t.Fatalf("an empty home: %+v", r)
	}
	home, err := node.OpenHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	var n *node.Node
	start := func() {
		if n, err = node.Open(t.Context(), home, node.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	stop := func() {
		if n != nil {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
			n = nil
		}
	}
	t.Cleanup(stop)
	start()
	files := t.TempDir()
	noise := rand.New(rand.NewPCG(1, 2))
	for _, uid := range []string{"1.2.3.2", "1.2.3.1"} {
		b := dicomtest.Instance{Study: uid, Series: uid + ".1", SOP: uid + ".1.1", PatientID: "A1", Name: "Doe^Jane", Date: "20200101", Modality: "CT", Frames: 1}.Bytes()
		b = append(b, 0xfc, 0xff, 0xfc, 0xff, 'O', 'B', 0, 0)
		b = binary.LittleEndian.AppendUint32(b, 32<<10)
		for range 32 << 10 / 8 {
			b = binary.LittleEndian.AppendUint64(b, noise.Uint64())
		}
		name := filepath.Join(files, uid)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := run(t, "", "import", "--home", dir, name); r.code != 0 {
			t.Fatalf("%+v", r)
		}
	}
	if r := run(t, "", "verify", "--home", dir, "--rate", "1GiB"); r.code != 0 || !strings.Contains(r.stdout, "verified 2 studies, 2 instances") || !strings.Contains(r.stdout, "all whole") || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	sealed := largest(t, n, home, "1.2.3.1")
	stop()
	flipOnDisk(t, filepath.Join(dir, "blocks"), sealed)
	r := run(t, "", "verify", "--home", dir)
	if r.code != 7 || !strings.HasPrefix(r.stdout, "1.2.3.1 (received here): 1 block of 1 instance damaged or missing; NOT repaired") || strings.Contains(r.stdout, "1.2.3.2 ") || !strings.Contains(r.stderr, "start it with") {
		t.Errorf("%+v", r)
	}
	start()
	r = run(t, "", "verify", "--home", dir, "--json")
	var report api.VerifyReport
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 7 || report.Left != 1 || !report.CanRepair || len(report.Found) != 1 || report.Found[0].Study != "1.2.3.1" {
		t.Errorf("%v %+v", err, r)
	}
	if r := run(t, "", "verify", "--home", dir, "--study", "1.2.3.2"); r.code != 0 {
		t.Errorf("the other study: %+v", r)
	}
	if r := run(t, "", "verify", "--home", dir, "--study", "1.2.3.9"); r.code != 4 {
		t.Errorf("no such study: %+v", r)
	}
	if r := run(t, "", "status", "--home", dir); !strings.Contains(r.stdout, "damaged: study 1.2.3.1 (received here): 1 block of 1 instance") || !strings.Contains(r.stdout, "no other trust holds a copy") {
		t.Errorf("%+v", r)
	}
	if r := run(t, "", "import", "--home", dir, filepath.Join(files, "1.2.3.1")); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if r := run(t, "", "verify", "--home", dir); r.code != 0 || !strings.Contains(r.stdout, "all whole") {
		t.Errorf("after it was sent again: %+v", r)
	}
}

// largest is the block of a study that holds what does not compress.
func largest(t *testing.T, n *node.Node, home *node.Home, uid string) (data []byte) {
	t.Helper()
	private, err := home.NodeKey()
	if err != nil {
		t.Fatal(err)
	}
	a := n.Archive()
	key, err := a.Keys.Get(uid + "/" + index.NodeIDOf(private).String())
	if err != nil {
		t.Fatal(err)
	}
	shelf := a.Blocks.Shelf(key.Shelf())
	if err := shelf.Enumerate(t.Context(), cid.Undef, func(c cid.Cid, size int64) error {
		if int(size) <= len(data) {
			return nil
		}
		data, err = shelf.Get(t.Context(), c)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return data
}

func flipOnDisk(t *testing.T, dir string, sealed []byte) {
	t.Helper()
	found := false
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(b, sealed)
		if at < 0 {
			return nil
		}
		found = true
		b[at+len(sealed)/2] ^= 1
		return os.WriteFile(path, b, 0o600)
	}); err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
}
