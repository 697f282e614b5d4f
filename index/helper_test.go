package index

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/text/unicode/norm"
)

// testKey is the key of a made-up holder: the same for the same name.
func testKey(name string) ed25519.PrivateKey {
	if k, ok := keys.Load(name); ok {
		return k.(ed25519.PrivateKey)
	}
	seed := sha256.Sum256([]byte(name))
	k := ed25519.NewKeyFromSeed(seed[:])
	keys.Store(name, k)
	return k
}

func nodeKeyOf(t TrustID) ed25519.PrivateKey  { return testKey("node of " + string(t)) }
func trustKeyOf(t TrustID) ed25519.PrivateKey { return testKey("trust " + string(t)) }
func nodeOf(t TrustID) NodeID                 { return NodeIDOf(nodeKeyOf(t)) }

var keys, cards sync.Map // keys and signatures are slow, and the same ones are used over and over

func cardOf(t TrustID) Card {
	if c, ok := cards.Load(t); ok {
		return c.(Card)
	}
	c := cardWith(t, trustKeyOf(t), nodeKeyOf(t))
	cards.Store(t, c)
	return c
}

func cardWith(t TrustID, trustKey, nodeKey ed25519.PrivateKey) Card {
	cert, err := NewNodeCert(trustKey, t, nodeKey, 1)
	if err != nil {
		panic(err)
	}
	return Card{
		Trust: t, Name: "Trust " + string(t), TrustKey: trustKey.Public().(ed25519.PublicKey), NodeCert: cert,
		Addrs: []string{"/dns4/" + strings.ToLower(string(t)) + ".example/tcp/4400"},
	}
}

// region is a founded region with admitted trusts, and the votes that made it.
type region struct {
	id      RegionID
	votes   []Vote
	checked signatures
}

// foundRegion founds a region by the first trust and admits the others in order, each by all members before it.
func foundRegion(trusts ...TrustID) *region {
	v, err := Found(trustKeyOf(trusts[0]), "Test region", cardOf(trusts[0]))
	if err != nil {
		panic(err)
	}
	r := &region{id: v.Hash(), votes: []Vote{v}, checked: signatures{}}
	for _, t := range trusts[1:] {
		r.admit(cardOf(t))
	}
	return r
}

func (r *region) roster() Roster { return evalRoster(r.id, r.votes, nil, nil, r.checked) }

// admit lets every member vote for a card, on the roster as it was before the first of them.
func (r *region) admit(card Card) {
	roster := r.roster()
	for _, m := range roster.Members {
		v, err := Admit(trustKeyOf(m.Trust), roster, card, roster.NextSerial(m.Trust))
		if err != nil {
			panic(err)
		}
		r.votes = append(r.votes, v)
	}
}

// seeded is a deterministic io.Reader for salts.
type seeded struct{ *rand.ChaCha8 }

func newSeeded(seed string) seeded {
	return seeded{rand.NewChaCha8(sha256.Sum256([]byte(seed)))}
}

// testFold and testNamesAgree stand in for those of package dicom, which this package does not know.
func testFold(s string) string {
	var b strings.Builder
	for _, r := range norm.NFD.String(strings.ToLower(strings.TrimSpace(s))) {
		if !unicode.Is(unicode.Mn, r) && r != ' ' && r != '-' {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func testNamesAgree(a, b string) bool {
	fa, ga := folder(testFold).parts(a)
	fb, gb := folder(testFold).parts(b)
	return fa != "" && fa == fb && ga != "" && ga == gb
}

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testOptions(t TrustID, r *region) Options {
	opt := Options{
		Self: nodeKeyOf(t), Trust: t, FoldName: testFold, NamesAgree: testNamesAgree,
		Now: func() time.Time { return testNow }, Rand: newSeeded(string(t)), Log: slog.New(slog.DiscardHandler), smallTxn: true,
	}
	if r != nil {
		opt.Region, opt.Votes = r.id, r.votes
	}
	return opt
}

// testBadger is a database on disk as a node has it, or without a folder one in memory, which is small: Badger clears all of a memtable when it
// makes one, which is most of what a test costs that opens many.
func testBadger(dir string) badger.Options {
	opt := badger.DefaultOptions(dir).WithLogger(nil).WithMemTableSize(16 << 20).WithNumMemtables(2).WithNumCompactors(2).WithBlockCacheSize(64 << 20).
		WithSyncWrites(true).WithValueLogFileSize(1 << 20)
	if dir == "" {
		opt = opt.WithInMemory(true).WithMemTableSize(4 << 20).WithValueThreshold(512 << 10).WithBlockCacheSize(1 << 20).WithSyncWrites(false)
	}
	return opt
}

func openDB(t testing.TB, dir string) *badger.DB {
	t.Helper()
	db, err := badger.Open(testBadger(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // before its folder goes; most have closed it by then
	return db
}

// openTest opens the index of a trust's node in memory.
func openTest(t testing.TB, trust TrustID, r *region) *Index {
	t.Helper()
	db := openDB(t, "")
	t.Cleanup(func() { db.Close() })
	return openIn(t, db, testOptions(trust, r))
}

// openLarge opens an index in the smallest memory that Open accepts.
func openLarge(t testing.TB, trust TrustID, r *region) *Index {
	t.Helper()
	db, err := badger.Open(testBadger("").WithMemTableSize(16 << 20))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	opt := testOptions(trust, r)
	opt.smallTxn = false
	return openIn(t, db, opt)
}

func openIn(t testing.TB, db *badger.DB, opt Options) *Index {
	t.Helper()
	x, err := Open(db, opt)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func mustStudy(t testing.TB, s Study) Statement {
	t.Helper()
	st, err := StudyStatement(s)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func say(t testing.TB, x *Index, st ...Statement) Head {
	t.Helper()
	h, err := x.Append(context.Background(), st...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// sealed makes the verified batches of a log, one for each group of statements.
func sealed(t testing.TB, key ed25519.PrivateKey, epoch Epoch, groups ...[]Statement) []Verified {
	t.Helper()
	var out []Verified
	var last Head
	rnd := newSeeded("salt")
	for _, g := range groups {
		v, err := sealBatch(key, last, epoch, g, rnd)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
		last = v.Head()
	}
	return out
}

func note(subject, body string) Statement {
	return Statement{Kind: "note", Subject: subject, Body: []byte(body)}
}

// copyLog moves a node's log from one index to another, as a peer would.
func copyLog(t testing.TB, from, to *Index, n NodeID) {
	t.Helper()
	for _, h := range from.Heads() {
		if h.Node != n {
			continue
		}
		var after Seq
		for after < h.Seq {
			batches, err := from.Range(n, h.Epoch, after, MaxAnswer)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range batches {
				v, err := b.Verify()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := to.Take([]Verified{v}); err != nil {
					t.Fatal(err)
				}
				after = v.Head().Seq
			}
		}
	}
}

// soak is how often something is tried: as often as the test says, or in the long form as often as PRIORMESH_SOAK says.
func soak(t testing.TB, n int) int {
	t.Helper()
	s := os.Getenv("PRIORMESH_SOAK")
	if s == "" {
		return n
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("PRIORMESH_SOAK=%q: want how often to try", s)
	}
	return n
}

func uidOf(i int) string { return fmt.Sprintf("1.2.826.0.1.%d", i) }

// signHeader signs header bytes as the batch that ends at seq of epoch 1.
func signHeader(key ed25519.PrivateKey, raw []byte, seq Seq) []byte {
	h := Head{Node: NodeIDOf(key), Epoch: 1, Seq: seq, Hash: sha256.Sum256(raw)}
	return ed25519.Sign(key, h.signed())
}

// laterHeader makes of a batch of this version one of a later version, whose header has a field more. It stands where the first stood.
func laterHeader(key ed25519.PrivateKey, v Verified) Batch {
	l := v.link
	h := map[int]any{0: batchVersion + 1, 1: l.head.Node[:], 2: l.head.Epoch, 3: l.first, 5: l.commit, 9: []any{"of a later version", 1}}
	if l.first > 1 {
		h[4] = l.prev[:]
	}
	b := v.Batch()
	b.Header = encode(h)
	head := Head{Node: l.head.Node, Epoch: l.head.Epoch, Seq: l.head.Seq, Hash: sha256.Sum256(b.Header)}
	b.Sig = ed25519.Sign(key, head.signed())
	return b
}

type badgerTxn = badger.Txn

// told is what the index says of a study, and whether anybody has told of it.
func told(x *Index, uid string) ([]Authored[Study], bool) {
	out, err := x.Study(uid)
	if err != nil {
		panic(err) // of a database that a test has not damaged
	}
	return out, len(out) > 0
}

func holders(x *Index, study string, origin NodeID) []Holder {
	out, err := x.Holders(study, origin)
	if err != nil {
		panic(err)
	}
	return out
}

// bg is the context of a query that nobody gives up.
var bg = context.Background()
