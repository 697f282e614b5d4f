package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/node/archive"
)

// images makes the instances of a study with something in each that does not
// compress, so that each has a block of its own that can be found on the disk.
func images(root string, n int) [][]byte {
	noise := rand.New(rand.NewPCG(uint64(n), uint64(len(root))+uint64(root[len(root)-1])))
	var out [][]byte
	for _, i := range study(root, ada, "20200101", n) {
		b := append(i.Bytes(), 0xfc, 0xff, 0xfc, 0xff, 'O', 'B', 0, 0) // Data Set Trailing Padding
		b = binary.LittleEndian.AppendUint32(b, 32<<10)
		for range 32 << 10 / 8 {
			b = binary.LittleEndian.AppendUint64(b, noise.Uint64())
		}
		out = append(out, b)
	}
	return out
}

func (tr *trust) stores(list [][]byte) {
	tr.t.Helper()
	for _, b := range list {
		var r api.Receipt
		if code := tr.operator("POST", "/api/v1/instances", b, &r); code != 200 {
			tr.t.Fatalf("import: %d %+v", code, r)
		}
	}
}

// reads expects a study to be given byte for byte.
func (tr *trust) reads(uid string, want [][]byte) {
	tr.t.Helper()
	code, _, parts := tr.retrieve("studies/" + uid)
	if code != 200 || len(parts) != len(want) {
		tr.t.Fatalf("%s reads %s: %d, %d parts, %.300s", tr.home.Config.Trust, uid, code, len(parts), parts[0])
	}
	for i := range want {
		if !bytes.Equal(parts[i], want[i]) {
			tr.t.Errorf("%s: instance %d of %s is not what was sent", tr.home.Config.Trust, i, uid)
		}
	}
}

// copies has a study brought to tr whole, and the origin know of it.
func (tr *trust) copies(uid string, want [][]byte, origin *trust) {
	tr.t.Helper()
	tr.wait("knows all of the study", func() (bool, string) {
		var f api.Found
		tr.operator("GET", "/api/v1/studies?study="+uid, nil, &f)
		return len(f.Studies) == 1 && f.Studies[0].Instances == len(want) && f.Studies[0].Settled, fmt.Sprintf("%+v", f.Studies)
	})
	tr.reads(uid, want)
	tr.waitAvailability(uid, "ONLINE")
	origin.wait("knows of the copy", func() (bool, string) {
		var f api.Found
		origin.operator("GET", "/api/v1/studies?study="+uid, nil, &f)
		return slices.Contains(f.Studies[0].Copies, string(tr.home.Config.Trust)), fmt.Sprintf("%+v", f.Studies)
	})
}

func (tr *trust) client() *api.Client {
	tr.t.Helper()
	token, err := tr.home.Token()
	if err != nil {
		tr.t.Fatal(err)
	}
	return api.NewClient("http://"+tr.n.HTTPAddr(), token, nil)
}

func (tr *trust) verifies() api.VerifyReport {
	tr.t.Helper()
	r, err := tr.client().Verify(context.Background(), 0, "", nil)
	if err != nil {
		tr.t.Fatal(err)
	}
	return r
}

func (tr *trust) status() api.Status {
	tr.t.Helper()
	s, err := tr.client().Status(context.Background())
	if err != nil {
		tr.t.Fatal(err)
	}
	return s
}

// keyName is how the keyring calls the key of a study that origin received.
func keyName(uid string, origin *trust) string { return uid + "/" + origin.peer() }

func (tr *trust) peer() string {
	tr.t.Helper()
	key, err := tr.home.NodeKey()
	if err != nil {
		tr.t.Fatal(err)
	}
	return index.NodeIDOf(key).String()
}

// shelf is where tr has origin's version of a study.
func (tr *trust) shelf(uid string, origin *trust) (cas.Shelf, cas.Key) {
	tr.t.Helper()
	a := tr.n.Archive()
	key, err := a.Keys.Get(keyName(uid, origin))
	if err != nil {
		tr.t.Fatal(err)
	}
	if tr == origin {
		return a.Blocks.Shelf(key.Shelf()), key
	}
	return a.Copies.Shelf(key.Shelf()), key
}

// blocks lists the blocks of a study: those that hold images, the largest, and
// the others: manifests and headers.
func (tr *trust) blocks(uid string, origin *trust) (large, small []cas.Block) {
	tr.t.Helper()
	shelf, _ := tr.shelf(uid, origin)
	err := shelf.Enumerate(context.Background(), cid.Undef, func(c cid.Cid, size int64) error {
		data, err := shelf.Get(context.Background(), c)
		if size > 16<<10 {
			large = append(large, cas.Block{CID: c, Data: data})
		} else {
			small = append(small, cas.Block{CID: c, Data: data})
		}
		return err
	})
	if err != nil || len(large) == 0 || len(small) == 0 {
		tr.t.Fatalf("%d large, %d small blocks, %v", len(large), len(small), err)
	}
	return large, small
}

// spoils changes a bit of each block where it lies on the disk of a node that
// does not run.
func (tr *trust) spoils(list ...cas.Block) {
	tr.t.Helper()
	found := 0
	err := filepath.WalkDir(filepath.Join(tr.home.Dir, "blocks"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		changed := false
		for _, x := range list {
			if at := bytes.Index(b, x.Data); at >= 0 {
				b[at+len(x.Data)/2] ^= 0x10
				changed = true
				found++
			}
		}
		if changed {
			return os.WriteFile(path, b, 0o600)
		}
		return nil
	})
	if err != nil || found < len(list) {
		tr.t.Fatalf("%d of %d blocks found on the disk, %v", found, len(list), err)
	}
}

func (tr *trust) loses(uid string, origin *trust, list ...cas.Block) {
	tr.t.Helper()
	shelf, _ := tr.shelf(uid, origin)
	for _, b := range list {
		if err := shelf.Delete(context.Background(), b.CID); err != nil {
			tr.t.Fatal(err)
		}
	}
}

// names expects a report to name these studies and no others.
func names(t *testing.T, r api.VerifyReport, want ...string) {
	t.Helper()
	var got []string
	for _, f := range r.Found {
		got = append(got, f.Study)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("damage is found in %v, want %v: %+v", got, want, r.Found)
	}
}

func (tr *trust) waitWhole() {
	tr.t.Helper()
	tr.wait("has no damage", func() (bool, string) {
		s := tr.status()
		return len(s.Damage) == 0 && s.Damaged == 0, fmt.Sprintf("%+v", s.Damage)
	})
}

// Bits that have changed on the disk, on either side of a copy.
func TestDamageIsNamedAndRepairedFromWhoHoldsTheStudy(t *testing.T) {
	for _, spoilt := range []int{0, 1} {
		t.Run([]string{"at the origin", "of a copy"}[spoilt], func(t *testing.T) {
			r := region(t, "RX1", "RX2")
			a, b := images("1.2.3.1", 4), images("1.2.3.2", 2)
			r[0].stores(b)
			r[1].copies("1.2.3.2", b, r[0])
			r[0].stores(a)
			r[1].copies("1.2.3.1", a, r[0])
			names(t, r[0].verifies())
			names(t, r[1].verifies())

			bad, good := r[spoilt], r[1-spoilt]
			large, _ := bad.blocks("1.2.3.1", r[0])
			bad.stop()
			bad.spoils(large[0], large[2])
			bad.start()
			bad.wait("hears the other", func() (bool, string) { return len(bad.n.Silence()) == 0, "" })
			got := bad.verifies()
			names(t, got, "1.2.3.1")
			if f := got.Found[0]; f.Trust != "RX1" || f.Own != (spoilt == 0) || f.Left != nil || got.Left != 0 || f.Blocks < 2 || f.Repaired < f.Blocks || !slices.Equal(f.From, []string{string(good.home.Config.Trust)}) || f.Instances < 2 {
				t.Errorf("%+v", f)
			}
			names(t, bad.verifies())
			bad.waitWhole()
			good.stop()
			bad.reads("1.2.3.1", a)
			bad.reads("1.2.3.2", b)
		})
	}
}

// Nobody is there to repair it: it is said, what is whole is given, and when
// the holder is back it is repaired by itself.
func TestDamageThatNobodyCanRepairYet(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a := images("1.2.3.1", 3)
	r[0].stores(a)
	r[1].copies("1.2.3.1", a, r[0])
	large, _ := r[0].blocks("1.2.3.1", r[0])
	r[1].stop()
	r[0].stop()
	r[0].spoils(large[1])
	r[0].start()

	got := r[0].verifies()
	names(t, got, "1.2.3.1")
	if got.Left != 1 || got.Found[0].Left == nil || !strings.Contains(got.Found[0].Left.Why, "RX2") {
		t.Errorf("%+v", got)
	}
	s := r[0].status()
	if s.Damaged != 1 || len(s.Damage) != 1 || s.Damage[0].Study != "1.2.3.1" || s.Damage[0].Trust != "RX1" || s.Damage[0].Since.IsZero() || !strings.Contains(s.Damage[0].Why, "RX2") ||
		!slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "damaged") }) {
		t.Errorf("%+v", s)
	}
	if got := r[0].availability("1.2.3.1"); got != "NEARLINE" {
		t.Errorf("a damaged study is %s", got)
	}
	whole, refused := 0, 0
	for i := range a {
		code, header, parts := r[0].retrieve(fmt.Sprintf("studies/1.2.3.1/series/1.2.3.1.1/instances/1.2.3.1.1.%d", i+1))
		switch {
		case code == 200 && bytes.Equal(parts[0], a[i]):
			whole++
		case code == 503 && header.Get("Retry-After") != "" && bytes.Contains(parts[0], []byte("damaged")) && bytes.Contains(parts[0], []byte("RX2")):
			refused++
		default:
			t.Errorf("instance %d: %d %v %.200s", i, code, header, parts[0])
		}
	}
	if refused == 0 || whole+refused != len(a) {
		t.Errorf("%d instances are given, %d are not", whole, refused)
	}
	res, b := r[0].get("/metrics", "")
	if res.StatusCode != 200 || !strings.Contains(string(b), "\npriormesh_damaged_blocks ") || strings.Contains(string(b), "\npriormesh_damaged_blocks 0\n") {
		t.Errorf("metrics do not tell of it: %s", b)
	}
	// It is remembered.
	r[0].stop()
	r[0].start()
	if s := r[0].status(); s.Damaged != 1 {
		t.Errorf("after a restart: %+v", s.Damage)
	}
	r[1].start()
	r[0].waitWhole()
	r[0].reads("1.2.3.1", a)
	names(t, r[0].verifies())
}

// Whole files of the store are gone.
func TestPacksThatAreGone(t *testing.T) {
	for _, lost := range []int{0, 1} {
		t.Run([]string{"at the origin", "of a copy"}[lost], func(t *testing.T) {
			r := region(t, "RX1", "RX2")
			a := images("1.2.3.1", 3)
			r[0].stores(a)
			r[1].copies("1.2.3.1", a, r[0])
			r[lost].stop()
			packs, err := filepath.Glob(filepath.Join(r[lost].home.Dir, "blocks", "packs", "*.pack"))
			if err != nil || len(packs) == 0 {
				t.Fatalf("%v, %v", packs, err)
			}
			for _, name := range packs {
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
			r[lost].start()
			r[lost].wait("hears the other", func() (bool, string) { return len(r[lost].n.Silence()) == 0, "" })
			got := r[lost].verifies()
			names(t, got, "1.2.3.1")
			if got.Left != 0 || got.Found[0].Instances != 3 {
				t.Errorf("%+v", got)
			}
			names(t, r[lost].verifies())
			r[1-lost].stop()
			r[lost].reads("1.2.3.1", a)
		})
	}
}

// A radiologist sees the image, and nobody had to verify anything.
func TestReadingRepairs(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a := images("1.2.3.1", 3)
	r[0].stores(a)
	r[1].copies("1.2.3.1", a, r[0])
	large, _ := r[0].blocks("1.2.3.1", r[0])
	r[0].stop()
	r[0].spoils(large...)
	r[0].start()
	r[0].wait("hears the other", func() (bool, string) { return len(r[0].n.Silence()) == 0, "" })
	r[0].reads("1.2.3.1", a)
	// And of a copy, with all that there is of it gone.
	shelf, key := r[1].shelf("1.2.3.1", r[0])
	if err := r[1].n.Archive().Copies.Drop(context.Background(), key.Shelf()); err != nil {
		t.Fatal(err)
	}
	r[1].reads("1.2.3.1", a)
	r[1].waitWhole()
	names(t, r[1].verifies())
	if n, _, err := shelf.Size(context.Background()); n == 0 || err != nil {
		t.Errorf("%d blocks, %v", n, err)
	}
}

// A holder that is damaged itself gives what it has; two mend each other.
func TestTwoDamagedCopiesMendEachOther(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a := images("1.2.3.1", 4)
	r[0].stores(a)
	r[1].copies("1.2.3.1", a, r[0])
	large, small := r[0].blocks("1.2.3.1", r[0])
	r[0].loses("1.2.3.1", r[0], large[0])
	r[0].loses("1.2.3.1", r[0], small...)
	r[1].loses("1.2.3.1", r[0], large[1])
	wait(t, "both are whole", func() (bool, string) {
		x, y := r[0].verifies(), r[1].verifies()
		return x.Left+y.Left == 0 && len(x.Found)+len(y.Found) == 0, fmt.Sprintf("%+v %+v", x.Found, y.Found)
	})
	r[0].reads("1.2.3.1", a)
	r[1].reads("1.2.3.1", a)
}

func TestALostKeyComesBackFromAHolder(t *testing.T) {
	for _, lost := range []int{0, 1} {
		t.Run([]string{"at the origin", "of a copy"}[lost], func(t *testing.T) {
			r := region(t, "RX1", "RX2")
			a := images("1.2.3.1", 2)
			r[0].stores(a)
			r[1].copies("1.2.3.1", a, r[0])
			bad, good := r[lost], r[1-lost]
			_, before := bad.shelf("1.2.3.1", r[0])
			if err := bad.n.Archive().Keys.Delete(keyName("1.2.3.1", r[0])); err != nil {
				t.Fatal(err)
			}
			got := bad.verifies()
			names(t, got, "1.2.3.1")
			if f := got.Found[0]; !slices.Equal(f.Kinds, []string{"key"}) || f.Left != nil || !slices.Equal(f.From, []string{string(good.home.Config.Trust)}) {
				t.Errorf("%+v", f)
			}
			if _, after := bad.shelf("1.2.3.1", r[0]); after != before {
				t.Error("another key came back")
			}
			good.stop()
			bad.reads("1.2.3.1", a)
		})
	}
}

// The key was lost while no holder was there, and more of the study arrived.
func TestANewKeyTakesBackWhatTheLostOneSealed(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a := images("1.2.3.1", 3)
	r[0].stores(a[:2])
	r[1].copies("1.2.3.1", a[:2], r[0])
	r[1].stop()
	if err := r[0].n.Archive().Keys.Delete(keyName("1.2.3.1", r[0])); err != nil {
		t.Fatal(err)
	}
	r[0].stores(a[2:])
	r[0].verifies()
	if s := r[0].status(); s.Damaged != 1 || s.Damage[0].Instances != 2 {
		t.Errorf("%+v", s.Damage)
	}
	r[1].start()
	r[0].waitWhole()
	r[0].reads("1.2.3.1", a)
	names(t, r[0].verifies())
}

// The catalogue has all that a study's own lists say.
func TestOwnListsAreWrittenAnew(t *testing.T) {
	r := region(t, "RX1")
	a := images("1.2.3.1", 2)
	r[0].stores(a)
	r[0].wait("has settled the whole study", func() (bool, string) { // it may have settled with the first image alone
		var f api.Found
		r[0].operator("GET", "/api/v1/studies?study=1.2.3.1", nil, &f)
		return len(f.Studies) == 1 && f.Studies[0].Settled && f.Studies[0].Instances == len(a), fmt.Sprintf("%+v", f.Studies)
	})
	shelf, key := r[0].shelf("1.2.3.1", r[0])
	said, _ := r[0].n.Archive().Index.Study("1.2.3.1")
	var ref cas.Ref
	if err := ref.UnmarshalCBOR(said[0].Value.Manifest); err != nil {
		t.Fatal(err)
	}
	list, err := cas.LoadStudy(context.Background(), shelf, key, ref)
	if err != nil {
		t.Fatal(err)
	}
	r[0].loses("1.2.3.1", r[0], cas.Block{CID: ref.CID}, cas.Block{CID: list.Series[0].Manifest.CID})
	got := r[0].verifies()
	names(t, got, "1.2.3.1")
	if got.Left != 0 {
		t.Errorf("%+v", got.Found)
	}
	names(t, r[0].verifies())
	r[0].reads("1.2.3.1", a)
}

func TestSendingItAgainMendsIt(t *testing.T) {
	r := region(t, "RX1")
	a := images("1.2.3.1", 3)
	r[0].stores(a)
	large, small := r[0].blocks("1.2.3.1", r[0])
	r[0].stop()
	r[0].spoils(large[0])
	r[0].start()
	r[0].loses("1.2.3.1", r[0], small[0])
	if got := r[0].verifies(); got.Left != 1 || !strings.Contains(got.Found[0].Left.Why, "no other trust holds a copy") {
		t.Fatalf("%+v", got)
	}
	r[0].stores(a)
	r[0].waitWhole()
	names(t, r[0].verifies())
	r[0].reads("1.2.3.1", a)
}

// A home whose node does not run is verified too; what is found is noted.
func TestAStoppedNodesHomeIsVerified(t *testing.T) {
	r := region(t, "RX1", "RX2")
	a := images("1.2.3.1", 3)
	r[0].stores(a)
	r[1].copies("1.2.3.1", a, r[0])
	large, _ := r[0].blocks("1.2.3.1", r[0])
	if _, err := node.Verify(context.Background(), r[0].home, node.Options{}, archive.VerifyOptions{}); err == nil {
		t.Error("a running node's home was opened")
	}
	r[0].stop()
	r[0].spoils(large[0])
	got, err := node.Verify(context.Background(), r[0].home, node.Options{}, archive.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names(t, got, "1.2.3.1")
	if got.Left != 1 || got.CanRepair {
		t.Errorf("%+v", got)
	}
	r[0].start()
	r[0].waitWhole()
	r[0].reads("1.2.3.1", a)
}

// A verification ends with whoever asked for it, and with the node.
func TestAVerificationEndsWithItsCaller(t *testing.T) {
	r := region(t, "RX1")
	r[0].stores(images("1.2.3.1", 40)) // more than is read before the pace counts
	slow := func(ctx context.Context, told func()) error {
		_, err := r[0].client().Verify(ctx, 1, "", func(p api.VerifyProgress) {
			if p.Studies != 1 || p.Bytes < 1<<20 || p.BytesDone > p.Bytes {
				t.Errorf("%+v", p)
			}
			told()
		})
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := slow(ctx, cancel); err == nil || ctx.Err() == nil {
		t.Fatalf("it has ended by itself: %v", err)
	}
	r[0].wait("can verify again", func() (bool, string) {
		_, err := r[0].client().Verify(context.Background(), 0, "", nil)
		return err == nil, fmt.Sprint(err)
	})
	var once sync.Once
	began, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- slow(context.Background(), func() { once.Do(func() { close(began) }) }) }()
	<-began
	if _, err := r[0].client().Verify(context.Background(), 0, "", nil); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("a second one: %v", err)
	}
	r[0].stop()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("when the node stops: %v", err)
	}
}

// What comes and goes while it is verified is no damage.
func TestAVerificationRaisesNoFalseAlarm(t *testing.T) {
	r := region(t, "RX1", "RX2")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		wg.Go(func() {
			for i := range 4 {
				list := images(fmt.Sprintf("1.2.3.%d", 10*w+i+1), 3)
				for _, b := range list {
					var got api.Receipt
					if code := r[0].operator("POST", "/api/v1/instances", b, &got); code != 200 {
						t.Errorf("%d %+v", code, got)
					}
				}
			}
		})
	}
	var reader sync.WaitGroup
	reader.Go(func() { // revisions of copies follow each other too
		for {
			select {
			case <-stop:
				return
			default:
			}
			for i := range 30 {
				_, _, _ = r[1].retrieve(fmt.Sprintf("studies/1.2.3.%d", i+1))
			}
		}
	})
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	for rounds := 0; ; rounds++ {
		for _, tr := range r {
			if got := tr.verifies(); len(got.Found) > 0 {
				t.Errorf("%s: %+v", tr.home.Config.Trust, got.Found)
			}
		}
		select {
		case <-ended:
		default:
			continue
		}
		break
	}
	close(stop)
	reader.Wait()
}
