package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/cas/castest/s3test"
	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// inBucket has a node that was not started yet keep originals in a bucket.
func (tr *trust) inBucket(server *s3test.Server, bucket string) {
	tr.t.Helper()
	path := filepath.Join(tr.home.Dir, "s3.key")
	if err := os.WriteFile(path, []byte(s3test.Access+"\n"+s3test.Secret+"\n"), 0o600); err != nil {
		tr.t.Fatal(err)
	}
	tr.home.Config.S3 = node.S3Config{Endpoint: server.Endpoint, Bucket: bucket, Prefix: "rx1", Credentials: "file:s3.key"}
}

// sibling makes another node of a trust, and has a member let it in.
func sibling(of *trust, presents ...*trust) *trust {
	of.t.Helper()
	c := of.home.Config
	c.HTTP, c.Mesh = "127.0.0.1:0", []string{freeMesh(of.t)}
	h, err := node.InitHome(filepath.Join(of.t.TempDir(), "sibling"), node.InitOptions{Config: c, TrustKey: filepath.Join(of.home.Dir, "trust.key")})
	if err != nil {
		of.t.Fatal(err)
	}
	tr := &trust{t: of.t, home: h}
	of.t.Cleanup(tr.stop)
	files := []string{"kek"}
	if of.home.Config.S3.Bucket != "" {
		files = append(files, "s3.key")
	}
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(of.home.Dir, name))
		if err != nil {
			of.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.Dir, name), b, 0o600); err != nil {
			of.t.Fatal(err)
		}
	}
	card, err := h.Card()
	if err != nil {
		of.t.Fatal(err)
	}
	read, err := index.ParseCard(card)
	if err != nil {
		of.t.Fatal(err)
	}
	var a api.Admission
	for i, m := range presents {
		if a, err = m.n.Admit(context.Background(), card); err != nil || !a.Admitted || i == 0 && a.Node != read.NodeCert.Node.String() {
			of.t.Fatalf("%+v, %v", a, err)
		}
	}
	if _, err := h.Join(a.Invitation); err != nil {
		of.t.Fatal(err)
	}
	return tr
}

// transfers is how often a node has brought a study from another.
func (tr *trust) transfers() int {
	tr.t.Helper()
	return tr.audited("fetch.done")
}

// audited is how often a node has written down an event.
func (tr *trust) audited(event string) (n int) {
	tr.t.Helper()
	names, err := filepath.Glob(filepath.Join(tr.home.Dir, "audit", "*"))
	if err != nil || len(names) == 0 {
		tr.t.Fatal(names, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			tr.t.Fatal(err)
		}
		n += strings.Count(string(b), event)
	}
	return n
}

// serves says that a node gives a study, as soon as it has heard all of it.
func (tr *trust) serves(study string, want []dicomtest.Instance) {
	tr.t.Helper()
	var parts [][]byte
	tr.wait("the study is served", func() (bool, string) {
		code, _, got := tr.retrieve("studies/" + study)
		parts = got
		return code == http.StatusOK && len(got) == len(want), fmt.Sprintf("%d with %d instances", code, len(got))
	})
	same(tr.t, parts, want)
}

// A trust with two nodes over one bucket: what the first stores the second
// serves, without a transfer; when the first is gone for good a third is built
// from the bucket and the mesh.
func TestNodesOfOneTrustShareABucket(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket("originals", false)
	first := newTrust(t, "RX1", "Test region")
	first.inBucket(server, bucket)
	// Nobody may sweep or drop what another node has put into the bucket.
	first.home.Config.Space.SweepAfter = node.Duration(20 * time.Millisecond)
	first.home.Config.Space.RoundEvery = node.Duration(50 * time.Millisecond)
	first.home.Config.Space.Copies = 1
	first.home.Config.Space.KeepCopies = 0
	first.home.Config.Verify.Every = node.Duration(100 * time.Millisecond)
	first.start()
	list := study("1.2.3.1", ada, "20240101", 3)
	first.imports(list...)
	first.serves("1.2.3.1", list)
	// On the disk of the node there is nothing of it but the catalogue.
	for _, name := range []string{"keys/g1", "blocks"} {
		if n := bytesBelow(t, filepath.Join(first.home.Dir, name), ".pack"); n > 4096 {
			t.Errorf("%d bytes in %s, though originals are in the bucket", n, name)
		}
	}

	// The KEK of a trust is one for all its nodes.
	second := sibling(first, first)
	kek := filepath.Join(second.home.Dir, "kek")
	if err := os.Rename(kek, kek+" elsewhere"); err != nil {
		t.Fatal(err)
	}
	second.refuses(cas.ErrKEK, "another node of this trust")
	if err := os.Rename(kek+" elsewhere", kek); err != nil {
		t.Fatal(err)
	}
	second.start()
	second.serves("1.2.3.1", list)
	more := study("1.2.3.2", ada, "20240202", 2)
	first.imports(more...)
	second.serves("1.2.3.2", more)
	// A study that grows is followed.
	third := study("1.2.3.1", ada, "20240101", 5)
	first.imports(third[3:]...)
	second.serves("1.2.3.1", third)
	if n, m := first.transfers(), second.transfers(); n+m > 0 {
		t.Errorf("%d and %d transfers between nodes that share a bucket", n, m)
	}
	// And the other way round.
	back := study("1.2.3.3", ada, "20240303", 1)
	second.imports(back...)
	first.waitAvailability("1.2.3.3", "ONLINE") // by itself
	first.serves("1.2.3.3", back)

	// A sibling does not erase what is not its own.
	if _, code := eraseStudy(second, "1.2.3.2"); code == http.StatusOK {
		t.Error("a sibling's original was erased")
	}
	first.serves("1.2.3.2", more)
	second.serves("1.2.3.2", more)
	// Its origin does, and then it is nowhere.
	if said, code := eraseStudy(first, "1.2.3.2"); code != http.StatusOK {
		t.Fatal(code, said)
	}
	second.wait("the erased study is gone", func() (bool, string) {
		code, _, _ := second.retrieve("studies/1.2.3.2")
		return code == http.StatusNotFound, fmt.Sprint(code)
	})
	// Stored again it is a new study under the same name. A node that hears late
	// of the erasure must not take it away.
	first.imports(more...)
	second.serves("1.2.3.2", more)
	second.stop()
	if said, code := eraseStudy(first, "1.2.3.2"); code != http.StatusOK {
		t.Fatal(code, said)
	}
	first.imports(more...)
	before := second.audited("copy.erase")
	second.start()
	second.wait("the late erasure is heard of", func() (bool, string) {
		return second.audited("copy.erase") > before, "not yet"
	})
	for range 5 {
		second.serves("1.2.3.2", more)
		first.serves("1.2.3.2", more)
	}

	// The first node and its home are lost.
	first.stop()
	key, err := os.ReadFile(filepath.Join(first.home.Dir, "trust.key"))
	if err != nil {
		t.Fatal(err)
	}
	second.serves("1.2.3.1", third)
	safe := filepath.Join(t.TempDir(), "trust.key")
	if err := os.WriteFile(safe, key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(first.home.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(second.home.Dir, "trust.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	rebuilt := sibling(second, second)
	rebuilt.start()
	rebuilt.waitAvailability("1.2.3.3", "ONLINE") // by itself
	for uid, want := range map[string][]dicomtest.Instance{"1.2.3.1": third, "1.2.3.2": more, "1.2.3.3": back} {
		rebuilt.serves(uid, want)
	}
	if n := rebuilt.transfers(); n > 0 {
		t.Errorf("%d transfers while a node was rebuilt from the bucket", n)
	}
	// It goes on as a node of the trust.
	new := study("1.2.3.4", ada, "20240404", 1)
	rebuilt.imports(new...)
	second.serves("1.2.3.4", new)
	second.stop()
	second.start()
	second.serves("1.2.3.4", new)
}

func eraseStudy(tr *trust, uid string) (string, int) {
	tr.t.Helper()
	var out map[string]any
	code := tr.operator("POST", "/api/v1/erasures", fmt.Appendf(nil, `{"study":%q,"reason":"test"}`, uid), &out)
	return fmt.Sprint(out), code
}

func bytesBelow(t *testing.T, dir, suffix string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() || suffix != "" && !strings.HasSuffix(path, suffix) {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A bucket that is away for a while: errors that say so, nothing that is said
// to be stored, and all of it again when the bucket is back.
func TestABucketThatIsAway(t *testing.T) {
	server := s3test.Start(t)
	tr := newTrust(t, "RX1", "Test region")
	tr.inBucket(server, server.Bucket("originals", false))
	tr.start()
	list := study("1.2.3.1", ada, "20240101", 2)
	tr.imports(list...)
	tr.stop()

	// Where originals are cannot be changed by a setting.
	was := tr.home.Config.S3
	tr.home.Config.S3.Bucket = ""
	tr.refuses(node.ErrStoreLost, "originals/rx1")
	tr.home.Config.S3.Bucket = server.Bucket("another", false)
	tr.refuses(node.ErrStoreLost, "originals/rx1")
	tr.home.Config.S3 = was
	tr.home.Config.S3.Credentials = "file:none"
	tr.refuses(fs.ErrNotExist, "s3.credentials")
	tr.home.Config.S3 = was
	if err := os.Rename(filepath.Join(server.Root, "originals", "rx1"), filepath.Join(server.Root, "originals", "elsewhere")); err != nil {
		t.Fatal(err)
	}
	tr.refuses(cas.ErrBucket, "kept studies")
	if err := os.Rename(filepath.Join(server.Root, "originals", "elsewhere"), filepath.Join(server.Root, "originals", "rx1")); err != nil {
		t.Fatal(err)
	}
	tr.start()
	tr.serves("1.2.3.1", list)

	// Away and back, as the status and the metrics say.
	says := func(reachable bool) (bool, string) {
		var st api.Status
		tr.operator("GET", "/api/v1/status", nil, &st)
		_, ready := tr.get("/readyz", "")
		_, metrics := tr.get("/metrics", "")
		gauge := fmt.Sprintf("priormesh_bucket_reachable %d", map[bool]int{true: 1}[reachable])
		ok := st.Bucket != nil && st.Bucket.Reachable == reachable && st.Bucket.AwaySince.IsZero() == reachable &&
			strings.Contains(strings.Join(st.Warnings, "\n"), "has not been reached since") == !reachable &&
			strings.Contains(string(ready), "has not been reached since") == !reachable && strings.Contains(string(metrics), gauge)
		return ok, fmt.Sprintf("%+v, %v, %s", st.Bucket, st.Warnings, ready)
	}
	if ok, said := says(true); !ok {
		t.Error(said)
	}
	server.Stop()
	late := study("1.2.3.2", ada, "20240102", 1)
	stored := make(chan int)
	go func() {
		req, _ := http.NewRequest("POST", tr.url("/api/v1/instances"), bytes.NewReader(late[0].Bytes()))
		token, _ := tr.home.Token()
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			stored <- 0
			return
		}
		res.Body.Close()
		stored <- res.StatusCode
	}()
	tr.wait("says that the bucket is away", func() (bool, string) { return says(false) })
	server.Start()
	if code := <-stored; code != http.StatusOK {
		t.Errorf("what came while the bucket was away: %d", code)
	}
	if ok, said := says(true); !ok {
		t.Error(said)
	}
	tr.stop()

	// Both keyrings go under another KEK.
	if _, err := tr.home.Rekey(t.Context(), node.RekeyOptions{Rand: rand.Reader}); err != nil {
		t.Fatal(err)
	}
	tr.start()
	tr.serves("1.2.3.1", list)
	tr.stop()
}

func TestS3Credentials(t *testing.T) {
	tr := newTrust(t, "RX1", "Test region")
	tr.home.Config.S3 = node.S3Config{Endpoint: "http://127.0.0.1:1", Bucket: "originals", Credentials: "file:key"}
	path := filepath.Join(tr.home.Dir, "key")
	for content, text := range map[string]string{
		"top-secret":            "neither two lines",
		"":                      "neither two lines",
		`{"accessKey":"x"}`:     "neither two lines",
		"access\ntop-secret\nx": "neither two lines",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := node.Open(context.Background(), tr.home, node.Options{Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "top-secret") {
			t.Errorf("%q: %v", content, err)
		}
		if n != nil {
			n.Close()
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := node.Open(context.Background(), tr.home, node.Options{}); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Error(err)
		if n != nil {
			n.Close()
		}
	}
}
