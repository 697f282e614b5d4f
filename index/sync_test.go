package index

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func newTestSync(t TrustID, logs *memoryLogs) *Sync {
	return NewSync(logs, SyncOptions{Self: nodeOf(t), Rand: rand.New(rand.NewPCG(1, 2))})
}

// converse delivers messages between two nodes until there are none, and returns them in words.
func converse(t *testing.T, syncs map[NodeID]*Sync, from NodeID, out []Outgoing, err error) string {
	t.Helper()
	var wire []envelope
	var said strings.Builder
	send := func(from NodeID, out []Outgoing, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			wire = append(wire, envelope{from, o.To, o.Message})
		}
	}
	send(from, out, err)
	for n := 0; len(wire) > 0; n++ {
		if n > 300 {
			t.Fatalf("the conversation does not end:\n%s", said.String())
		}
		e := wire[0]
		wire = wire[1:]
		fmt.Fprintf(&said, "%s -> %s %s\n", nameOf(e.from), nameOf(e.to), messageText(e.msg))
		out, err := syncs[e.to].Step(e.from, e.msg)
		send(e.to, out, err)
	}
	return said.String()
}

// Whoever makes two histories whose heads begin alike hides nothing: marks that are the same over hashes that are not lead to the heads.
func TestForkUnderEqualMarks(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	key := nodeKeyOf("RAA")
	v := sealed(t, key, 1, []Statement{note("x", "1")})[0]
	raw := laterHeader(key, v).Header
	first := map[[4]byte]uint64{}
	made := func(n uint64) []byte { // another text in the unknown field
		return encode(map[int]any{
			0: 2, 1: v.link.head.Node[:], 2: 1, 3: 1, 5: v.link.commit, 9: fmt.Sprintf("%016x", n),
		})
	}
	template := made(0)
	at := strings.Index(string(template), strings.Repeat("0", 16))
	if at < 0 || len(raw) == 0 {
		t.Fatal("no place for the text")
	}
	var pair [2][]byte
	for n := uint64(0); pair[1] == nil; n++ {
		const hex = "0123456789abcdef"
		for i := range 16 {
			template[at+i] = hex[n>>(4*(15-i))&15]
		}
		sum := sha256.Sum256(template)
		k := [4]byte(sum[:4])
		if m, ok := first[k]; ok {
			pair = [2][]byte{made(m), made(n)}
		}
		first[k] = n
	}
	syncs := map[NodeID]*Sync{}
	logs := map[TrustID]*memoryLogs{}
	for i, trust := range []TrustID{"RBB", "RCC"} {
		logs[trust] = newMemoryLogs(trust, r)
		b := v.Batch()
		b.Header, b.Sig = pair[i], signHeader(key, pair[i], 1)
		w, err := b.Verify()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := logs[trust].Take([]Verified{w}); err != nil {
			t.Fatal(err)
		}
		syncs[nodeOf(trust)] = newTestSync(trust, logs[trust])
	}
	a, b := logs["RBB"].Heads()[0], logs["RCC"].Heads()[0]
	if a.Hash == b.Hash || markOf(a, false) != markOf(b, false) {
		t.Fatal("the heads do not begin alike")
	}
	out, err := syncs[nodeOf("RBB")].Tick([]NodeID{nodeOf("RCC")})
	converse(t, syncs, nodeOf("RBB"), out, err)
	for trust, l := range logs {
		if f := l.Forks(); len(f) != 1 || f[0].Verify() != nil {
			t.Errorf("%s has %d proofs", trust, len(f))
		}
	}
	// And they agree that it is over.
	out, err = syncs[nodeOf("RBB")].Tick([]NodeID{nodeOf("RCC")})
	if said := converse(t, syncs, nodeOf("RBB"), out, err); said != "RBB -> RCC digest\n" {
		t.Fatalf("after both know of the fork they say\n%s", said)
	}
}

// Of two nodes whose names begin alike a mark cannot tell which is meant: the heads are shown.
func TestMarksThatCannotTell(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	logs := newMemoryLogs("RBB", r)
	h := logs.say(1, newSeeded("x"), note("x", "1"))
	s := newTestSync("RBB", logs)
	m := markOf(h, false)
	other := m
	other.Seq, other.Hash = 9, [4]byte{9}
	out, err := s.Step(nodeOf("RAA"), Summary{Buckets: []SummaryBucket{{Number: int(m.Prefix[0] >> 4), Marks: []Mark{m, other}}}})
	if err != nil || len(out) != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	if got, ok := out[0].Message.(Heads); !ok || len(got.Heads) != 1 || !got.Heads[0].same(h) {
		t.Errorf("told %s", messageText(out[0].Message))
	}
	if got, ok := out[1].Message.(Show); !ok || len(got.Marks) != 1 {
		t.Errorf("asked %s", messageText(out[1].Message))
	}
}

// What is held keeps to its limits, gives up the far end first, and loses count of nothing.
func TestHeldWithinLimits(t *testing.T) {
	payload := strings.Repeat("x", 60<<10)
	long := func(name string, n int) []Verified {
		var groups [][]Statement
		for i := range n {
			groups = append(groups, []Statement{note(fmt.Sprint(i), payload)})
		}
		return sealed(t, testKey(name), 1, groups...)
	}
	h := held{logs: map[logID]*heldLog{}}
	n := MaxHeldOf/(60<<10) + 5
	vs := long("one", n)
	id := logID{vs[0].link.head.Node, 1}
	for i := n - 1; i > 0; i-- { // the nearest last
		h.add(id, vs[i])
		if h.bytes > MaxHeldOf {
			t.Fatalf("%d bytes of one author", h.bytes)
		}
	}
	if !h.has(id, vs[1].link) || h.has(id, vs[n-1].link) {
		t.Fatal("the near end was given up, not the far one")
	}
	if h.add(id, vs[1]) || h.add(id, vs[n-1]) {
		t.Fatal("kept what was there, or does not fit")
	}
	if run := h.next(id, 0, MaxAnswer); len(run) > 0 {
		t.Fatal("gave what does not follow")
	}
	for i := range MaxHeld/MaxHeldOf + 2 {
		for _, v := range long(fmt.Sprint("other ", i), n)[1:] {
			h.add(logID{v.link.head.Node, 1}, v)
			if h.bytes > MaxHeld {
				t.Fatalf("%d bytes in all", h.bytes)
			}
		}
	}
	total := 0
	for id, log := range h.logs {
		sum := 0
		for _, v := range log.batches {
			sum += v.batch.size()
		}
		if sum != log.bytes || h.of(id.Node) > MaxHeldOf {
			t.Fatalf("%d bytes counted as %d", sum, log.bytes)
		}
		total += sum
	}
	if total != h.bytes || total < MaxHeld-MaxHeldOf {
		t.Fatalf("%d bytes counted as %d", total, h.bytes)
	}
	for id := range h.logs {
		h.drop(id)
	}
	if h.bytes != 0 || len(h.logs) != 0 {
		t.Fatalf("%d bytes of nothing", h.bytes)
	}
}

// Nobody is asked for more than the allowance, and with time everything comes.
func TestPullWithinAllowance(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	a, b := newMemoryLogs("RAA", r), newMemoryLogs("RBB", r)
	salt := newSeeded("pull")
	for i := range 60 {
		a.say(1, salt, note(fmt.Sprint(i), strings.Repeat("x", 60<<10)))
	}
	const rate = 100 << 10
	syncs := map[NodeID]*Sync{
		nodeOf("RAA"): newTestSync("RAA", a),
		nodeOf("RBB"): NewSync(b, SyncOptions{Self: nodeOf("RBB"), Rand: rand.New(rand.NewPCG(1, 2)), Pull: rate}),
	}
	peers := []NodeID{nodeOf("RAA")}
	size := func() (n int) {
		for _, f := range b.facts() {
			n += len(f.Body)
		}
		return n
	}
	ticks := 0
	for ; b.reached < a.reached; ticks++ {
		if ticks > 100 {
			t.Fatalf("%d of %d facts after %d ticks", b.reached, a.reached, ticks)
		}
		out, err := syncs[nodeOf("RBB")].Tick(peers)
		converse(t, syncs, nodeOf("RBB"), out, err)
		// A second's worth, or a message's, lies ready; one question more may be out.
		if got, most := size(), MaxMessage+MaxAnswer+(ticks+1)*2*rate; got > most {
			t.Fatalf("%d bytes after %d ticks, want at most %d", got, ticks+1, most)
		}
	}
	if ticks < 5 {
		t.Fatalf("3.6 MB at 100 KiB a second took %d ticks", ticks)
	}
}

// A signature that verified once is known; one that differs in any part is not.
func TestCheckedRemembersWhatVerified(t *testing.T) {
	c := NewChecked(4)
	h := sealed(t, testKey("a"), 1, []Statement{note("x", "1")})[0].Head()
	for range 2 {
		if err := c.head(h); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*Head){
		"signature": func(h *Head) { h.Sig = slices.Clone(h.Sig); h.Sig[9] ^= 1 },
		"hash":      func(h *Head) { h.Hash[3] ^= 1 },
		"position":  func(h *Head) { h.Seq++ },
		"epoch":     func(h *Head) { h.Epoch++ },
		"node":      func(h *Head) { h.Node = NodeIDOf(testKey("b")) },
	} {
		bad := h
		change(&bad)
		var forged *ForgedError
		for range 2 {
			if err := c.head(bad); !errors.As(err, &forged) {
				t.Errorf("another %s: %v", name, err)
			}
		}
	}
	for i := range 100 {
		var seed [32]byte
		binary.BigEndian.PutUint64(seed[:], uint64(i))
		if err := c.head(sealed(t, ed25519.NewKeyFromSeed(seed[:]), 1, []Statement{note("x", "1")})[0].Head()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.seen.now) + len(c.seen.old); n > 8 {
		t.Fatalf("remembers %d", n)
	}
}

// A region of 200 logs is summed up in a few KB, and asked about in one message.
func TestMessagesOfALargeRegion(t *testing.T) {
	var marks []Mark
	var wanted []Wanted
	for i := range 200 {
		h := Head{Node: NodeID(sha256.Sum256([]byte{byte(i)})), Epoch: 1, Seq: 200_000, Hash: sha256.Sum256([]byte{byte(i), 1})}
		marks = append(marks, markOf(h, false))
		wanted = append(wanted, Wanted{Node: h.Node, Epoch: 1, After: 200_000})
	}
	slices.SortFunc(marks, Mark.compare)
	var s Summary
	for n := range DigestBuckets {
		b := SummaryBucket{Number: n}
		for _, m := range marks {
			if int(m.Prefix[0]>>4) == n {
				b.Marks = append(b.Marks, m)
			}
		}
		s.Buckets = append(s.Buckets, b)
	}
	for name, c := range map[string]struct {
		m    Message
		most int
	}{
		"digest":  {Digest{}, 300},
		"summary": {s, 4 << 10},
		"want":    {Want{ID: 1, Logs: wanted}, 8 << 10},
	} {
		if n := len(c.m.Encode()); n > c.most {
			t.Errorf("a %s takes %d bytes, want %d", name, n, c.most)
		}
	}
}

// Time that passes in small steps and in large ones comes to the same allowance.
func TestAllowanceIsByTime(t *testing.T) {
	a, b := bucket{rate: 3 << 20}, bucket{rate: 3 << 20}
	a.pass(time.Second)
	for range 10 {
		b.pass(100 * time.Millisecond)
	}
	if d := a.bytes - b.bytes; d < 0 || d > 10 || a.bytes != 3<<20 {
		t.Fatalf("%d and %d", a.bytes, b.bytes)
	}
	a.pass(time.Hour)
	if a.bytes != a.most() {
		t.Fatalf("%d bytes saved up", a.bytes)
	}
}

// watchedLogs are logs that count what is taken of them, and whose disk may be full.
type watchedLogs struct {
	*memoryLogs
	takes int
	most  int // bytes of one
	full  error
}

func (w *watchedLogs) Take(batches []Verified) (int, error) {
	w.takes++
	if w.full != nil {
		return 0, w.full
	}
	size := 0
	for _, v := range batches {
		size += v.batch.size()
	}
	w.most = max(w.most, size)
	return w.memoryLogs.Take(batches)
}

// notes are batches of a fact each.
func notes(t *testing.T, trust TrustID, n, size int) []Verified {
	var groups [][]Statement
	for i := range n {
		groups = append(groups, []Statement{note(fmt.Sprint(i), strings.Repeat("x", size))})
	}
	return sealed(t, nodeKeyOf(trust), 1, groups...)
}

func batchesOf(vs []Verified) (out []Batch) {
	for _, v := range vs {
		out = append(out, v.Batch())
	}
	return out
}

// What was held is taken by the transaction, not by the batch, when what was missing before it comes.
func TestHeldIsTakenTogether(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	logs := &watchedLogs{memoryLogs: newMemoryLogs("RBB", r)}
	s := NewSync(logs, SyncOptions{Self: nodeOf("RBB"), Rand: rand.New(rand.NewPCG(1, 2))})
	vs := notes(t, "RAA", 400, 4<<10)
	for i := 1; i < len(vs); i += 100 {
		if _, err := s.Step(nodeOf("RAA"), Batches{Batches: batchesOf(vs[i:min(i+100, len(vs))])}); err != nil {
			t.Fatal(err)
		}
	}
	logs.takes = 0
	if _, err := s.Step(nodeOf("RAA"), Batches{Batches: batchesOf(vs[:1])}); err != nil {
		t.Fatal(err)
	}
	if n := logs.Heads()[0].Seq; n != 400 || s.held.bytes != 0 || len(s.held.logs) != 0 {
		t.Fatalf("the log ends at %d, %d bytes are held", n, s.held.bytes)
	}
	if logs.takes > 5 || logs.most > MaxAnswer {
		t.Fatalf("taken %d times, %d bytes at most", logs.takes, logs.most)
	}
}

// Only what was taken counts as new, and is handed on: not what comes after the place where the store stopped, nor what was there.
func TestOnlyWhatWasTakenIsHandedOn(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	logs := newMemoryLogs("RBB", r)
	vs := notes(t, "RAA", 6, 10)
	if _, err := logs.Take(vs[:2]); err != nil {
		t.Fatal(err)
	}
	s := newTestSync("RBB", logs)
	s.Met(nodeOf("RCC"))
	// A second history goes on from the fourth.
	other := sealed(t, nodeKeyOf("RAA"), 1, []Statement{note("y", "1")}, []Statement{note("y", "2")}, []Statement{note("y", "3")}, []Statement{note("y", "4")}, []Statement{note("y", "5")})
	out, err := s.Step(nodeOf("RAA"), Batches{Batches: append(batchesOf(vs[:4]), batchesOf(other[4:])...)})
	if err != nil || len(out) != 1 {
		t.Fatalf("%v, %v", out, err)
	}
	if got := messageText(out[0].Message); got != "push RAA 1/3-3 1/4-4" || s.news != 2 {
		t.Fatalf("handed on %s, %d new", got, s.news)
	}
}

// A peer that answers every question in time, with what is known or with nothing, and says truly that there is more, keeps nobody from
// asking those who give it; and is not asked without end where nobody else is there.
func TestUselessAnswersStarveNoLog(t *testing.T) {
	for name, c := range map[string]struct {
		logs  int
		alone bool
		say   func(id uint64, old []Batch, more []Head) []Message
	}{
		"old batches": {logs: 3, say: func(id uint64, old []Batch, more []Head) []Message {
			return []Message{Batches{ID: id, Batches: old, Heads: more}}
		}},
		"one old batch": {logs: 3, say: func(id uint64, old []Batch, more []Head) []Message {
			return []Message{Batches{ID: id, Batches: old[:1], Heads: more}}
		}},
		"nothing, and claims again": {logs: 3, say: func(id uint64, _ []Batch, more []Head) []Message {
			return []Message{Batches{ID: id}, Heads{Heads: more}}
		}},
		"old batches, alone": {logs: 1, alone: true, say: func(id uint64, old []Batch, more []Head) []Message {
			return []Message{Batches{ID: id, Batches: old, Heads: more}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			authors := []TrustID{"RAA", "RCC", "RDD"}[:c.logs]
			r := foundRegion("RAA", "RBB", "RCC", "RDD", "REE")
			honest, logs := newMemoryLogs("RAA", r), newMemoryLogs("REE", r)
			var old []Batch
			var more []Head
			for _, a := range authors {
				vs := notes(t, a, 3, 10)
				if _, err := honest.Take(vs); err != nil {
					t.Fatal(err)
				}
				if _, err := logs.Take(vs[:1]); err != nil {
					t.Fatal(err)
				}
				old, more = append(old, vs[0].Batch()), append(more, vs[2].Head())
			}
			slices.SortFunc(more, compareSigned)
			self, hostile, good := nodeOf("REE"), nodeOf("RBB"), nodeOf("RAA")
			s, other := newTestSync("REE", logs), newTestSync("RAA", honest)
			asked := 0
			type late struct {
				at  time.Duration
				msg Message
			}
			var answers []late
			now := time.Duration(0)
			var send func(out []Outgoing, err error)
			send = func(out []Outgoing, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range out {
					want, isWant := o.Message.(Want)
					switch {
					case o.To == good:
						back, err := other.Step(self, o.Message)
						if err != nil {
							t.Fatal(err)
						}
						for _, b := range back {
							send(s.Step(good, b.Message))
						}
					case isWant:
						asked++
						for _, m := range c.say(want.ID, old, more) {
							answers = append(answers, late{now + time.Second, m})
						}
					}
				}
			}
			peers := []NodeID{hostile, good}
			calm := func() { // what it heard in one exchange counts no more
				if _, err := other.Tick([]NodeID{self}); err != nil {
					t.Fatal(err)
				}
			}
			if c.alone {
				peers = peers[:1]
			}
			send(s.Step(hostile, Heads{Heads: more}))
			for ; now < 300*time.Second; now += 100 * time.Millisecond {
				if now%DefaultTick == 0 {
					calm()
					send(s.Tick(peers))
				}
				send(s.Pass(100 * time.Millisecond))
				for len(answers) > 0 && answers[0].at <= now {
					m := answers[0].msg
					answers = answers[1:]
					send(s.Step(hostile, m))
				}
				if now%DefaultTick == 0 && asked > 0 { // it is heard first, always
					send(s.Step(hostile, Heads{Heads: more}))
				}
				if !c.alone && logs.reached == honest.reached {
					break
				}
			}
			switch {
			case asked == 0:
				t.Fatal("the hostile peer was not asked")
			case c.alone && asked > 30:
				t.Fatalf("asked %d times in vain", asked)
			case !c.alone && (logs.reached != honest.reached || now > 15*time.Second):
				t.Fatalf("%d of %d facts after %v; the hostile peer was asked %d times", logs.reached, honest.reached, now, asked)
			}
		})
	}
}

// A long log keeps no other waiting, and none is forgotten: logs are asked for in their order, each question beginning after the log that
// the peer answered last.
func TestQuestionsGoRoundTheLogs(t *testing.T) {
	authors := []TrustID{"RAA", "RCC", "RDD", "REE"}
	s := newTestSync("RBB", newMemoryLogs("RBB", foundRegion("RAA", "RBB", "RCC", "RDD", "REE")))
	slices.SortFunc(authors, func(a, b TrustID) int { return nodeOf(a).Compare(nodeOf(b)) })
	logs, have := map[NodeID][]Batch{}, map[NodeID]int{}
	var heads []Head
	for _, a := range authors {
		vs := notes(t, a, 3, 10)
		logs[nodeOf(a)], heads = batchesOf(vs), append(heads, vs[2].Head())
	}
	peer := nodeOf("RAA")
	out, err := s.Step(peer, headsOf(slices.Clone(heads)))
	for n := range 3 * len(authors) {
		var want Want
		for _, o := range out {
			if m, ok := o.Message.(Want); ok && o.To == peer && want.ID == 0 {
				want = m
			}
		}
		if err != nil || len(want.Logs) == 0 {
			t.Fatalf("question %d: %+v, %v", n, out, err)
		}
		var expected, asked []string
		for i := range authors {
			if a := nodeOf(authors[(n+i)%len(authors)]); have[a] < len(logs[a]) {
				expected = append(expected, fmt.Sprintf("%s after %d", nameOf(a), have[a]))
			}
		}
		for _, l := range want.Logs {
			asked = append(asked, fmt.Sprintf("%s after %d", nameOf(l.Node), l.After))
		}
		if !slices.Equal(asked, expected) {
			t.Fatalf("question %d is for %q, want %q", n, asked, expected)
		}
		l := want.Logs[0] // one batch of the first of them: all that fits
		out, err = s.Step(peer, Batches{ID: want.ID, Batches: logs[l.Node][l.After : l.After+1], Heads: heads})
		have[l.Node]++
	}
}

// While the store fails nothing is asked for but what shows, now and then, whether it still does; then everything comes, unprompted.
func TestNothingIsPulledThatCannotBeStored(t *testing.T) {
	r := foundRegion("RAA", "RBB")
	a := newMemoryLogs("RAA", r)
	b := &watchedLogs{memoryLogs: newMemoryLogs("RBB", r), full: errors.New("no space left on device")}
	if _, err := a.Take(notes(t, "RAA", 40, 50<<10)); err != nil {
		t.Fatal(err)
	}
	other := newTestSync("RAA", a)
	s := NewSync(b, SyncOptions{Self: nodeOf("RBB"), Rand: rand.New(rand.NewPCG(1, 2))})
	wants, failed := 0, 0
	var send func(out []Outgoing, err error)
	send = func(out []Outgoing, err error) {
		t.Helper()
		if err != nil {
			if !errors.Is(err, b.full) {
				t.Fatal(err)
			}
			failed++
		}
		for _, o := range out {
			if _, ok := o.Message.(Want); ok {
				wants++
			}
			back, err := other.Step(nodeOf("RBB"), o.Message)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range back {
				send(s.Step(nodeOf("RAA"), m.Message))
			}
		}
	}
	run := func(ticks int, tell bool) {
		for range ticks {
			if _, err := other.Tick([]NodeID{nodeOf("RBB")}); err != nil {
				t.Fatal(err)
			}
			out, err := s.Tick([]NodeID{nodeOf("RAA")})
			if !tell { // no exchange: what is known must do
				out = slices.DeleteFunc(out, func(o Outgoing) bool { _, ok := o.Message.(Digest); return ok })
			}
			send(out, err)
			for range 15 {
				send(s.Pass(100 * time.Millisecond))
			}
		}
	}
	run(1, true)
	if wants != 1 || failed != 1 {
		t.Fatalf("asked %d times in the first exchange, failed %d times", wants, failed)
	}
	run(100, true)
	if wants < 5 || wants > 10 {
		t.Fatalf("asked %d times in 100 exchanges", wants)
	}
	b.full = nil
	run(maxRest+2, false)
	if b.reached != a.reached {
		t.Fatalf("%d of %d facts", b.reached, a.reached)
	}
	if s.store != (rest{}) {
		t.Fatal("still rests")
	}
}

// Payloads that nobody has are asked for less and less; who comes is asked at once, for each of them, and so is who has some to give.
func TestHolesNobodyCanFill(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC", "RDD")
	vs := notes(t, "RAA", 9, 10)
	without := func(trust TrustID, lacks ...Seq) *memoryLogs {
		m := newMemoryLogs(trust, r)
		for _, v := range vs {
			b := v.Batch()
			if slices.Contains(lacks, v.link.head.Seq) {
				b = lack(v, v.link.head.Seq)
			}
			w, err := b.Verify()
			if err == nil {
				_, err = m.Take([]Verified{w})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	lacks := []Seq{2, 5, 7}
	here := without("RBB", lacks...)
	s := newTestSync("RBB", here)
	others := map[NodeID]*Sync{
		nodeOf("RCC"): newTestSync("RCC", without("RCC", lacks...)),
		nodeOf("RDD"): newTestSync("RDD", without("RDD", 2, 7)),
		nodeOf("RAA"): newTestSync("RAA", without("RAA")),
	}
	wants := 0
	var send func(out []Outgoing, err error)
	send = func(out []Outgoing, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			if _, ok := o.Message.(Want); ok {
				wants++
			}
			back, err := others[o.To].Step(s.self, o.Message)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range back {
				send(s.Step(o.To, m.Message))
			}
		}
	}
	run := func(ticks int, trusts ...TrustID) {
		t.Helper()
		var peers []NodeID
		for _, p := range trusts {
			peers = append(peers, nodeOf(p))
		}
		wants = 0
		for range ticks {
			send(s.Tick(peers))
		}
	}
	run(300, "RCC")
	if wants < 3*5 || wants > 3*10 {
		t.Errorf("asked %d times in 300 exchanges for three payloads that are not there", wants)
	}
	if run(300, "RCC"); wants > 3*2 {
		t.Errorf("asked %d times in 300 exchanges later", wants)
	}
	// Who comes is asked for all of them, and gives one.
	if run(20, "RCC", "RDD"); here.missing != 2 {
		t.Fatalf("%d payloads are missing", here.missing)
	}
	// Who has been away may have got them.
	if run(10, "RCC", "RAA"); here.missing != 0 {
		t.Fatalf("%d payloads are missing", here.missing)
	}
	if run(10, "RCC"); wants != 0 || len(s.holes) > 0 {
		t.Fatalf("asked %d times for nothing", wants)
	}
}
