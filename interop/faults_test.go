package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/priormesh/priormesh/simulations/link"
)

// transfersMost is what a node may use of memory while it brings studies.
const transfersMost = 300 << 20

// light insists that a node has stayed within transfersMost.
func (n *node) light(t testing.TB, during string) {
	t.Helper()
	peak, err := peakRSS(n.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s during %s: at most %d MiB of memory", n.trust, during, peak>>20)
	if peak > transfersMost && !soaking() { // the race detector takes some times as much
		t.Errorf("%s took %d MiB during %s, at most %d are right", n.trust, peak>>20, during, transfersMost>>20)
	}
}

// times is how much more a soak does.
func times(short, long int) int {
	if soaking() {
		return long
	}
	return short
}

// alter changes a byte of blocks in a stopped node's packs, each of least
// bytes of data at least; package cas documents the format. honest leaves the
// check sums as they were, so that the node itself sees the damage. Else they
// are made right, and only who hashes the block by its address can tell: such a
// node lies to its peers in good faith.
func (n *node) alter(t testing.TB, least int, honest bool, rng *rand.Rand) (blocks int) {
	t.Helper()
	const header, record = 32, 64
	table := crc32.MakeTable(crc32.Castagnoli)
	packs, err := filepath.Glob(filepath.Join(n.home, "blocks", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	more, _ := filepath.Glob(filepath.Join(n.home, "blocks", "*"))
	for _, path := range append(packs, more...) {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, []byte("PMPACK\r\n")) {
			continue
		}
		changed := false
		for at := header; at+record <= len(b) && bytes.HasPrefix(b[at:], []byte("\x89PMR")); {
			size := int(binary.BigEndian.Uint32(b[at+52:]))
			data := b[at+record : at+record+size]
			if size >= least {
				data[rng.IntN(size)] ^= 1 << rng.IntN(8)
				if !honest {
					binary.BigEndian.PutUint32(b[at+56:], crc32.Checksum(data, table))
					binary.BigEndian.PutUint32(b[at+60:], crc32.Checksum(b[at:at+60], table))
				}
				changed = true
				blocks++
			}
			at += record + size
		}
		if changed {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if blocks == 0 {
		t.Fatalf("%s has no block of %d bytes in its packs", n.trust, least)
	}
	return blocks
}

// A holder whose store is damaged, and one that sends wrong bytes under right
// addresses, cost a transfer nothing that another holder has: what arrives is
// what was sent in. Without another holder nothing arrives rather than
// something wrong.
func TestWrongBytesNeverArrive(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 21))
	const instances, size = 12, 256 << 10
	for i, honest := range []bool{true, false} {
		name := map[bool]string{true: "a store that is damaged", false: "a peer that lies"}[honest]
		t.Run(name, func(t *testing.T) {
			members := region(t, "RAA", "RBB", "RCC")
			a, b, c := members[0], members[1], members[2]
			dir := t.TempDir()
			shared := synthesize(t, dir, uint64(300+10*i), instances, size)
			alone := synthesize(t, dir, uint64(301+10*i), instances, size)
			b.take(t, dir)
			c.knows(t, shared[0].study, instances)
			c.request(t, shared[0].study)
			c.has(t, shared[0].study, instances)
			b.stop(t)
			t.Logf("%d blocks altered", b.alter(t, 64<<10, honest, rng))
			b.run(t)
			a.knows(t, shared[0].study, instances)
			a.knows(t, alone[0].study, instances)

			a.request(t, alone[0].study)
			a.request(t, shared[0].study)
			a.has(t, shared[0].study, instances)
			a.serves(t, shared[0].study, sums(shared))
			// Tried once at least, and nothing wrong is here or served.
			eventually(t, startDeadline, "the study that only "+b.trust+" has cannot be brought", func() error {
				f := a.operator(t, http.MethodGet, "/fetches/"+alone[0].study, nil)
				if f.State == "here" {
					t.Fatalf("a study of which its only holder gives wrong bytes is here: %+v", f)
				}
				if f.Attempts == 0 && f.State != "refused" {
					return fmt.Errorf("not tried yet: %+v", f)
				}
				return nil
			})
			known := map[string]bool{}
			for _, f := range alone {
				known[f.sha256] = true
			}
			if got := curl(t, "-H", acceptAsIs, a.web+"/studies/"+alone[0].study); got.status == http.StatusOK {
				for s := range got.sums(t) {
					if !known[s] {
						t.Error("an instance is served that nobody sent in")
					}
				}
			}
			if !a.running() || !c.running() {
				t.Error("a node ended of it")
			}
			a.light(t, "wrong bytes")
		})
	}
}

// placed makes a region over lines: each node in a network of its own, reached
// from here past the line.
func placed(t *testing.T, lines map[string]link.Line, trusts ...string) (members []*node, places map[string]*link.Place) {
	t.Helper()
	s, err := link.NewSwitch(rand.New(rand.NewPCG(seed(t), 22)), time.Now)
	if err == nil {
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	places = map[string]*link.Place{}
	for i, trust := range trusts {
		var p *link.Place
		if err == nil {
			p, err = s.Place(lines[trust], lines[trust])
		}
		if errors.Is(err, link.ErrRights) {
			need(t, "the right to make network namespaces (root has it)", "", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		places[trust] = p
		found := ""
		if i == 0 {
			found = "Interop"
		}
		n := newNodeIn(t, p, trust, found)
		n.set(t, quick)
		if i > 0 {
			n.must(t, "join", admit(t, n, members...))
		}
		n.run(t)
		members = append(members, n)
	}
	hearEachOther(t, members...)
	return members, places
}

// A line that is cut while a study comes over it, without a word to either
// end, delays the study and takes nothing of it.
func TestLinkCutDuringFetch(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 23))
	const size = 256 << 10
	instances := times(32, 256)
	line := link.Line{Rate: link.Mbit(20), Delay: 5 * time.Millisecond}
	members, places := placed(t, map[string]link.Line{"RAA": line}, "RAA", "RBB")
	a, b := members[0], members[1]
	const tries = 4 // for one cut that comes in time
	for cuts, vain := 0, 0; cuts < times(1, 4); {
		dir := t.TempDir()
		files := synthesize(t, dir, uint64(400+10*cuts+vain), instances, size)
		uid := files[0].study
		b.take(t, dir)
		a.knows(t, uid, instances)
		line := places["RAA"]
		before := line.Traffic().Down
		a.request(t, uid)
		at := before + int64(instances)*size/4 + rng.Int64N(int64(instances)*size/4)
		eventually(t, runDeadline, "the study is on its way", func() error {
			if got := line.Traffic().Down; got < at {
				return fmt.Errorf("%d of %d bytes passed", got-before, at-before)
			}
			return nil
		})
		line.Cut()
		if f := a.operator(t, http.MethodGet, "/fetches/"+uid, nil); f.State == "here" {
			if vain++; vain == tries {
				t.Fatalf("%d studies were here before the line was cut: nothing has been shown", vain)
			}
			line.Restore()
			continue
		}
		lost := line.Traffic().LostDown
		eventually(t, runDeadline, "packets are lost on the cut line", func() error {
			if line.Traffic().LostDown == lost {
				return errors.New("none yet")
			}
			return nil
		})
		line.Restore()
		a.has(t, uid, instances)
		a.serves(t, uid, sums(files))
		cuts, vain = cuts+1, 0
	}
	a.light(t, "a cut line")
	b.light(t, "a cut line")
}

// A receiver whose disk is full takes no study, loses none, says so, and goes
// on by itself when there is room.
func TestDiskFullDuringFetch(t *testing.T) {
	const megabytes, instances, size = 512, 320, 1 << 20
	disk, resize := smallDisk(t, megabytes)
	members := region(t, "RAA", "RBB")
	a, b := members[0], members[1]
	a.stop(t)
	must(t, command(t, "cp"), "-a", a.home, disk)
	a.home = filepath.Join(disk, filepath.Base(a.home))
	a.set(t, map[string]string{"reserve": `"256MiB"`})
	a.run(t)
	dir := t.TempDir()
	files := synthesize(t, dir, 500, instances, size)
	uid := files[0].study
	b.take(t, dir)
	a.knows(t, uid, instances)
	a.request(t, uid)
	eventually(t, runDeadline, "the disk is full", func() error {
		if !a.running() {
			t.Fatalf("the node died: %v", a.err)
		}
		s, f := a.status(t), a.operator(t, http.MethodGet, "/fetches/"+uid, nil)
		if f.State == "here" {
			t.Fatalf("%d MB went on a disk of %d", instances*size>>20, megabytes)
		}
		if s.Space.Level == "ok" {
			return fmt.Errorf("level %q with %d bytes free; %+v", s.Space.Level, s.Space.Free, f)
		}
		return nil
	})
	resize(4 * megabytes)
	a.has(t, uid, instances)
	a.serves(t, uid, sums(files))
	a.light(t, "a full disk")
}

// Fifty studies are wanted at once and come over a narrow line; an emergency
// that is asked for in the middle goes before all that have not begun. Each
// study is served as it was sent in, and mixed with none.
func TestFiftyTransfersAndAnEmergency(t *testing.T) {
	const instances, size = 2, 128 << 10
	studies := times(50, 200)
	members, places := placed(t, nil, "RAA", "RBB")
	a, b := members[0], members[1]
	dir := t.TempDir()
	files := map[string][]file{}
	var order []string
	for i := range studies + 1 {
		list := synthesize(t, dir, uint64(600+i), instances, size)
		files[list[0].study] = list
		order = append(order, list[0].study)
	}
	b.take(t, dir)
	eventually(t, runDeadline, "all studies are known", func() error {
		whole := 0
		for _, st := range a.find(t, "--limit", "1000").Studies {
			if st.Instances == instances {
				whole++
			}
		}
		if whole != len(order) {
			return fmt.Errorf("%d of %d", whole, len(order))
		}
		return nil
	})
	narrow := link.Line{Rate: link.Mbit(20), Delay: 5 * time.Millisecond}
	places["RAA"].Set(narrow, narrow)
	urgent := order[studies]
	here := func() (n int) {
		for _, uid := range order[:studies] {
			if a.operator(t, http.MethodGet, "/fetches/"+uid, nil).State == "here" {
				n++
			}
		}
		return n
	}
	for _, uid := range order[:studies] {
		a.operator(t, http.MethodPost, "/fetches", map[string]string{"study": uid, "priority": "background"})
	}
	eventually(t, runDeadline, "some are here", func() error {
		if here() < 2 {
			return errors.New("fewer than two")
		}
		return nil
	})
	a.operator(t, http.MethodPost, "/fetches", map[string]string{"study": urgent, "priority": "emergency"})
	before := here()
	eventually(t, runDeadline, "the emergency is here", func() error {
		if f := a.operator(t, http.MethodGet, "/fetches/"+urgent, nil); f.State != "here" {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
	// Those that came between are what was under way, and what comes while this
	// test looks; in its turn the emergency would have been the last.
	if after := here(); after > before+(studies-before)/2 {
		t.Errorf("%d of %d studies were here when the emergency was, %d when it was asked for", after, studies, before)
	} else {
		t.Logf("%d of %d were here when the emergency was asked for, %d when it was", before, studies, after)
	}
	eventually(t, runDeadline, "all are here", func() error {
		if n := here(); n != studies {
			return fmt.Errorf("%d of %d", n, studies)
		}
		return nil
	})
	for uid, list := range files {
		a.serves(t, uid, sums(list))
	}
	a.light(t, "fifty transfers at once")
	b.light(t, "fifty transfers at once")
}
