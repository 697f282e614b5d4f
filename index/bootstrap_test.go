package index

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func snapshotMessageText(m Message) string {
	name := func(p Part, i uint64) string {
		switch p {
		case PartList, PartOffer:
			return p.String()
		}
		return fmt.Sprintf("%s %d", p, i)
	}
	switch m := m.(type) {
	case SnapshotOffer:
		v, err := m.Batch.Verify()
		if err != nil {
			return "an offer that does not verify"
		}
		o, err := ReadSnapshot(v)
		if err != nil {
			return "an offer without a snapshot"
		}
		return fmt.Sprintf("offer of %d/%d, %d facts in %d pages", o.Snapshot.Head.Epoch, o.Snapshot.Head.Seq, o.Snapshot.Facts, o.Snapshot.Pages)
	case WantParts:
		if m.Count > 1 {
			return fmt.Sprintf("want %s and %d more", name(m.Part, m.Index), m.Count-1)
		}
		return "want " + name(m.Part, m.Index)
	case Parts:
		switch {
		case len(m.Parts) == 0:
			return fmt.Sprintf("has no %s", name(m.Part, m.Index))
		case m.Part != PartPages:
			return name(m.Part, m.Index)
		}
		holes := 0
		for _, raw := range m.Parts {
			p, _ := decodePage(raw)
			for _, p := range p.Payloads {
				if p.dropped() {
					holes++
				}
			}
		}
		text := fmt.Sprintf("pages %d-%d", m.Index, m.Index+uint64(len(m.Parts))-1)
		if holes > 0 {
			text += fmt.Sprintf(" (%d without payload)", holes)
		}
		return text
	}
	return messageText(m)
}

// theatre plays transcripts of taking up snapshots of the log of RAA.
type theatre struct {
	t        *testing.T
	shelves  map[TrustID]*shelf
	machines map[TrustID]*Bootstrap
	liars    map[TrustID]string
	wire     []envelope
	out      strings.Builder
}

func newTheatre(t *testing.T) *theatre {
	return &theatre{t: t, shelves: map[TrustID]*shelf{}, machines: map[TrustID]*Bootstrap{}, liars: map[TrustID]string{}}
}

func (s *theatre) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *theatre) shelf(n TrustID) *shelf {
	if s.shelves[n] == nil {
		s.shelves[n] = newShelf(s.t, "RAA")
	}
	return s.shelves[n]
}

func (s *theatre) sent(from TrustID, out []Outgoing, err error) {
	if err != nil {
		text := err.Error()
		for n, t := range names {
			text = strings.ReplaceAll(text, n.String(), string(t))
		}
		s.printf("  %s says: %s", from, text)
	}
	for _, o := range out {
		raw := o.Message.Encode()
		if len(raw) > MaxMessage {
			s.t.Fatalf("a message of %d bytes", len(raw))
		}
		got, derr := DecodeMessage(raw)
		if derr != nil || !bytes.Equal(got.Encode(), raw) || reflect.TypeOf(got) != reflect.TypeOf(o.Message) {
			s.t.Fatalf("%s does not survive encoding: %v", snapshotMessageText(o.Message), derr)
		}
		s.wire = append(s.wire, envelope{nodeOf(from), o.To, got})
	}
}

func (s *theatre) deliver() {
	e := s.wire[0]
	s.wire = s.wire[1:]
	from, to := TrustID(nameOf(e.from)), TrustID(nameOf(e.to))
	s.printf("%s -> %s  %s", from, to, snapshotMessageText(e.msg))
	if m, ok := e.msg.(WantParts); ok {
		if msg := s.answer(to, m); msg != nil {
			s.sent(to, []Outgoing{{To: e.from, Message: msg}}, nil)
		}
		return
	}
	b := s.machines[to]
	out, err := b.Step(e.from, e.msg)
	s.sent(to, out, err)
	s.work(to)
}

// answer is what a peer says to a question, truly or not.
func (s *theatre) answer(who TrustID, m WantParts) Message {
	msg := mustAnswer(s.t, s.shelf(who), m)
	p, ok := msg.(Parts)
	lie := s.liars[who]
	if lie == "is silent" {
		return nil
	}
	if !ok || m.Part != PartPages || len(p.Parts) == 0 {
		if lie == "lies about lists" && ok && len(p.Parts) > 0 {
			p.Parts[0] = bytes.Clone(p.Parts[0])
			p.Parts[0][len(p.Parts[0])-1] ^= 1
			return p
		}
		return msg
	}
	p.Parts = slices.Clone(p.Parts)
	switch lie {
	case "alters":
		last := len(p.Parts) - 1
		p.Parts[last] = bytes.Clone(p.Parts[last])
		p.Parts[last][len(p.Parts[last])-1] ^= 1
	case "shuffles":
		slices.Reverse(p.Parts)
	case "gives one at a time":
		p.Parts = p.Parts[:1]
	case "cuts short":
		p.Parts[0] = p.Parts[0][:len(p.Parts[0])/2]
	case "gives more":
		for uint64(len(p.Parts)) <= m.Count {
			p.Parts = append(p.Parts, []byte{0})
		}
	case "keeps payloads back":
		for i, raw := range p.Parts {
			page, err := decodePage(raw)
			if err != nil {
				s.t.Fatal(err)
			}
			page.Payloads[0] = Payload{}
			p.Parts[i] = encode(page)
		}
	case "answers something else":
		p.Index++
	case "":
	default:
		s.t.Fatalf("unknown lie %q", lie)
	}
	return p
}

func (s *theatre) work(who TrustID) {
	b := s.machines[who]
	for i := 0; b.Busy(); i++ {
		if i > 10_000 {
			s.t.Fatal("work without end")
		}
		out, err := b.Work()
		s.sent(who, out, err)
		if err != nil {
			return
		}
	}
}

func (s *theatre) play(line string) {
	f := strings.Fields(line)
	scan := func(i int) (n int) {
		if _, err := fmt.Sscan(f[i], &n); err != nil {
			s.t.Fatal(line, err)
		}
		return n
	}
	owner := s.shelf("RAA")
	switch f[0] {
	case "say": // say 1 100 5000 a: RAA says notes 1 to 100, of 5000 bytes each, made of a
		var st []Statement
		for i := scan(1); i <= scan(2); i++ {
			st = append(st, note(fmt.Sprint(i), strings.Repeat(f[4], scan(3))))
		}
		s.printf("%s", headText(owner.say(st...).Head()))
	case "erase": // erase 7: RAA takes note 7 back
		owner.retract("note", f[1])
		s.printf("%s", headText(owner.head()))
	case "epoch": // RAA was restored, and says all anew
		owner.newEpoch()
		s.printf("%s", headText(owner.head()))
	case "snapshot": // RAA makes one
		o := owner.snapshot()
		s.printf("%s says at %d that %d facts in %d pages hold up to %d", nameOf(o.Snapshot.Head.Node), o.At.Seq, o.Snapshot.Facts, o.Snapshot.Pages, o.Snapshot.Head.Seq)
	case "copy": // copy RBB: it takes all batches of RAA that follow
		to := s.shelf(TrustID(f[1]))
		for _, v := range owner.batches {
			if v.First() == to.head().Seq+1 || v.First() == 1 && v.Head().Epoch > to.epoch {
				to.take(v)
			}
		}
		s.printf("%s has the log up to %d/%d", f[1], to.head().Epoch, to.head().Seq)
	case "follow": // follow RBB: it has heard of RAA's newest snapshot in the log
		out, err := s.machines[TrustID(f[1])].Take(*owner.finished)
		s.sent(TrustID(f[1]), out, err)
		s.work(TrustID(f[1]))
	case "start": // start RCC: a machine over what is there, also after a break; messages under way are lost
		b, err := NewBootstrap(s.shelf(TrustID(f[1])), BootstrapOptions{Node: nodeOf("RAA"), Self: nodeOf(TrustID(f[1])), Rand: rand.New(rand.NewPCG(1, 2))})
		if err != nil {
			s.t.Fatal(err)
		}
		s.machines[TrustID(f[1])] = b
		s.wire = slices.DeleteFunc(s.wire, func(e envelope) bool { return e.to == nodeOf(TrustID(f[1])) })
		s.work(TrustID(f[1]))
	case "tick": // tick RCC RAA RBB …: these are its peers now
		var peers []NodeID
		for _, t := range f[2:] {
			peers = append(peers, nodeOf(TrustID(t)))
		}
		out, err := s.machines[TrustID(f[1])].Tick(peers)
		s.sent(TrustID(f[1]), out, err)
		s.work(TrustID(f[1]))
	case "refill": // refill RCC
		b := s.machines[TrustID(f[1])]
		b.Refill(*s.shelf(TrustID(f[1])).finished)
		s.work(TrustID(f[1]))
	case "deliver": // deliver 3
		for range scan(1) {
			s.deliver()
		}
	case "run":
		for n := 0; len(s.wire) > 0; n++ {
			if n > 500 {
				s.t.Fatal("the conversation does not end")
			}
			s.deliver()
		}
	case "peer": // peer RBB alters: how it answers from now on; honestly when nothing is said
		s.liars[TrustID(f[1])] = strings.Join(f[2:], " ")
	case "progress":
		p := s.machines[TrustID(f[1])].Progress()
		s.printf("%d of %d pages up to %d, %d holed, %d bytes came, %d sources, dropping %v, done %v", p.Pages, p.Snapshot.Pages, p.Snapshot.Head.Seq, p.Holed, p.Bytes, p.Sources, p.Dropping, p.Done)
	case "state":
		lines := strings.Split(s.shelf(TrustID(f[1])).state(), "\n")
		if n := len(lines); n > 10 {
			lines = append(lines[:3], "…", lines[n-1])
		}
		s.printf("%s", strings.Join(lines, "\n"))
	case "same": // same RCC: it has what RAA has
		if a, b := s.shelf(TrustID(f[1])).state(), owner.state(); a != b {
			a, _, _ = strings.Cut(a, "\n")
			b, _, _ = strings.Cut(b, "\n")
			s.printf("no: %s has %s; RAA has %s", f[1], a, b)
		} else {
			s.printf("yes")
		}
	default:
		s.t.Fatalf("unknown line %q", line)
	}
}

// TestBootstrapTranscripts plays testdata/bootstrap/*.txt as TestTranscripts does its own.
func TestBootstrapTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/bootstrap/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newTheatre(t)
			var got strings.Builder
			skip := false
			for line := range strings.Lines(string(raw)) {
				line = strings.TrimRight(line, "\n")
				switch {
				case skip && line != "":
				case line == "----":
					skip = true
				case strings.HasPrefix(line, "#"), line == "":
					if skip || s.out.Len() > 0 {
						got.WriteString("----\n" + s.out.String())
						s.out.Reset()
					}
					skip = false
					got.WriteString(line + "\n")
				default:
					got.WriteString(line + "\n")
					s.play(line)
				}
			}
			if s.out.Len() > 0 || skip {
				got.WriteString("----\n" + s.out.String())
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != string(raw) {
				t.Fatalf("this happens now (run with -update when it should):\n%s", got.String())
			}
		})
	}
}

// conversation lets machines take up snapshots from peers without printing, and counts.
type conversation struct {
	t       testing.TB
	shelves map[NodeID]*shelf
	rnd     *rand.Rand
	loss    float64
	lie     func(from NodeID, m Message) Message
	most    int // bytes asked for at one time
}

func (c *conversation) run(b *Bootstrap, peers []NodeID, ticks int, each func()) (lied []error) {
	c.t.Helper()
	self := b.opt.Self
	var wire []envelope
	send := func(out []Outgoing, err error) {
		var p *PeerError
		if errors.As(err, &p) {
			lied = append(lied, err)
		} else if err != nil {
			c.t.Fatal(err)
		}
		for _, o := range out {
			wire = append(wire, envelope{self, o.To, o.Message})
		}
		outstanding := 0
		for _, s := range b.sources {
			if len(s.asked) > MaxPartsAsked {
				c.t.Fatalf("%d questions to one peer", len(s.asked))
			}
			for _, q := range s.asked {
				outstanding += q.limit
			}
		}
		c.most = max(c.most, outstanding)
		if b.now != nil && len(b.now.open) > maxOpenSheets {
			c.t.Fatalf("%d sheets in memory", len(b.now.open))
		}
	}
	for range ticks {
		send(b.Tick(peers))
		for n := 0; len(wire) > 0 || b.Busy(); n++ {
			if n > 20_000 {
				c.t.Fatal("the conversation does not end")
			}
			if b.Busy() {
				send(b.Work())
				if b.Progress().Done {
					return lied
				}
				continue
			}
			if each != nil {
				each()
			}
			i := c.rnd.IntN(min(len(wire), 8))
			e := wire[i]
			wire = slices.Delete(wire, i, i+1)
			if c.rnd.Float64() < c.loss {
				continue
			}
			if m, ok := e.msg.(WantParts); ok {
				msg := mustAnswer(c.t, c.shelves[e.to], m)
				if c.lie != nil {
					msg = c.lie(e.to, msg)
				}
				if msg != nil {
					wire = append(wire, envelope{e.to, self, msg})
				}
				continue
			}
			send(b.Step(e.from, e.msg))
		}
	}
	return lied
}

// longNotes are notes s0, s1, … of so many bytes each.
func longNotes(n, size int) (out []Statement) {
	body := strings.Repeat("x", size)
	for i := range n {
		out = append(out, note(fmt.Sprint("s", i), body))
	}
	return out
}

func bootstrapOver(t testing.TB, s *shelf, seed uint64) *Bootstrap {
	t.Helper()
	b, err := NewBootstrap(s, BootstrapOptions{Node: nodeOf("RAA"), Self: nodeOf("RZZ"), Rand: rand.New(rand.NewPCG(seed, 1))})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sameFacts(t testing.TB, a, b *shelf) {
	t.Helper()
	if !maps.EqualFunc(a.facts, b.facts, func(x, y PageFact) bool {
		return x.Commitment == y.Commitment && bytes.Equal(x.Payload.Data, y.Payload.Data) && bytes.Equal(x.Payload.Salt, y.Payload.Salt)
	}) {
		t.Fatalf("%d facts here, %d there, and not the same", len(a.facts), len(b.facts))
	}
}

// A log of several sheets, taken up over a net that loses and swaps messages, with breaks, from peers of which some lie: whatever
// happens, in the end all is here, no page was taken twice but for losses, and no more was asked for at once than may be.
func TestBootstrapWhateverHappens(t *testing.T) {
	// A log of which one fact holds in each of 2300 groups.
	owner := newShelf(t, "RAA")
	for i := range Seq(2300) {
		f := madeFacts(int(i%700), i*PageSpan+1+i%PageSpan)[0]
		f.Commitment = f.Payload.commitment()
		owner.facts[Position{1, f.Seq}] = f
	}
	snap := owner.build(headAt(t, 1, 2300*PageSpan))
	st, err := SnapshotStatement(snap)
	if err != nil {
		t.Fatal(err)
	}
	v, err := sealBatch(nodeKeyOf("RAA"), snap.Head, 1, []Statement{st}, newSeeded("x"))
	if err != nil {
		t.Fatal(err)
	}
	o, err := ReadSnapshot(v)
	if err != nil {
		t.Fatal(err)
	}
	owner.finished = &o
	if o.Snapshot.sheets() < 3 {
		t.Fatalf("%d pages are too few", o.Snapshot.Pages)
	}
	copyOf := func() *shelf {
		s := newShelf(t, "RAA")
		s.sheets, s.pages, s.finished, s.facts = owner.sheets, owner.pages, owner.finished, owner.facts
		return s
	}
	peers := []NodeID{nodeOf("RAA"), nodeOf("RBB"), nodeOf("RCC"), nodeOf("RDD")}
	for seed := range uint64(4) {
		c := &conversation{t: t, rnd: rand.New(rand.NewPCG(seed, 2)), loss: 0.05 * float64(seed), shelves: map[NodeID]*shelf{}}
		for _, p := range peers {
			c.shelves[p] = copyOf()
		}
		c.shelves[nodeOf("RDD")] = newShelf(t, "RAA") // it has nothing
		if seed > 1 {
			c.lie = func(from NodeID, m Message) Message {
				p, ok := m.(Parts)
				if from != nodeOf("RCC") || !ok || len(p.Parts) == 0 || c.rnd.IntN(3) > 0 {
					return m
				}
				p.Parts = slices.Clone(p.Parts)
				i := c.rnd.IntN(len(p.Parts))
				p.Parts[i] = bytes.Clone(p.Parts[i])
				p.Parts[i][c.rnd.IntN(len(p.Parts[i]))] ^= 1
				return p
			}
		}
		s := newShelf(t, "RAA")
		b := bootstrapOver(t, s, seed)
		lied := c.run(b, peers, 3, nil)
		for breaks := 0; !b.Progress().Done; breaks++ {
			if breaks > 100 {
				t.Fatalf("seed %d: %+v", seed, b.Progress())
			}
			b = bootstrapOver(t, s, seed+uint64(breaks))
			lied = append(lied, c.run(b, peers, 3, nil)...)
		}
		for _, err := range lied {
			if p := err.(*PeerError); p.Peer != nodeOf("RCC") {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if (seed > 1) != (len(lied) > 0) {
			t.Fatalf("seed %d: %d lies", seed, len(lied))
		}
		if s.taken != int(o.Snapshot.Pages) {
			t.Fatalf("seed %d: %d pages taken of %d", seed, s.taken, o.Snapshot.Pages)
		}
		if c.most > MaxOutstanding || c.most == 0 {
			t.Fatalf("seed %d: %d bytes outstanding", seed, c.most)
		}
		sameFacts(t, s, owner)
		if !s.head().same(o.Snapshot.Head) {
			t.Fatal("the log does not begin at the snapshot's head")
		}
	}
}

// Snapshot after snapshot comes while one is being taken up: what was fetched stays, and the end is reached.
func TestNewerSnapshotsWhileTakingUp(t *testing.T) {
	owner := newShelf(t, "RAA")
	owner.say(longNotes(64*40, 1500)...)
	first := owner.snapshot()
	s := newShelf(t, "RAA")
	b := bootstrapOver(t, s, 1)
	c := &conversation{t: t, rnd: rand.New(rand.NewPCG(1, 1)), shelves: map[NodeID]*shelf{nodeOf("RAA"): owner}}
	n, made := 0, 0
	c.run(b, []NodeID{nodeOf("RAA")}, 40, func() {
		if n++; n%9 == 0 && made < 5 {
			made++
			owner.say(note("s1", fmt.Sprint("again", made)), note(fmt.Sprint("s", 64*made*5), "again"))
			owner.snapshot()
		}
	})
	if !b.Progress().Done || made != 5 || b.last.Snapshot.Root != owner.finished.Snapshot.Root {
		t.Fatalf("%+v after %d newer ones", b.Progress(), made)
	}
	if most := int(first.Snapshot.Pages) + made*3; s.taken > most {
		t.Fatalf("%d pages taken, want no more than %d", s.taken, most)
	}
	through := owner.finished.Snapshot.through()
	want := newShelf(t, "RAA")
	for at, f := range owner.facts {
		if at.compare(through) <= 0 {
			want.facts[at] = f
		}
	}
	sameFacts(t, s, want)
}

// Once what a snapshot leaves out is being dropped, that is brought to its end, and then a newer one is taken up.
func TestNewerSnapshotWhileDropping(t *testing.T) {
	owner := newShelf(t, "RAA")
	owner.say(note("a", "1"), note("b", "2"), note("a", "3"))
	peer := nodeOf("RAA")
	s := newShelf(t, "RAA")
	first := owner.snapshot()
	b := bootstrapOver(t, s, 1)
	if _, err := b.Take(first); err != nil {
		t.Fatal(err)
	}
	out, err := b.Tick([]NodeID{peer})
	for !b.complete() {
		if err != nil {
			t.Fatal(err)
		}
		if b.Busy() {
			more, err := b.Work()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, more...)
			continue
		}
		q := out[0].Message.(WantParts)
		more, serr := b.Step(peer, mustAnswer(t, owner, q))
		out, err = append(out[1:], more...), serr
	}
	if _, err := b.Work(); err != nil || !b.Progress().Dropping || b.Progress().Done {
		t.Fatalf("%+v, %v", b.Progress(), err)
	}
	owner.say(note("b", "4"))
	second := owner.snapshot()
	begins := s.begins
	if out, err := b.Take(second); err != nil || len(out) > 0 || b.now.offer.Snapshot.Root != first.Snapshot.Root {
		t.Fatalf("%v, %v: the first is given up", out, err)
	}
	if s.begins != begins {
		t.Fatal("the store is asked to begin while it drops")
	}
	// Nor does a break change that.
	b = bootstrapOver(t, s, 1)
	if _, err := b.Take(second); err != nil || b.now.offer.Snapshot.Root != first.Snapshot.Root {
		t.Fatalf("%v: the first is given up after a break", err)
	}
	for b.Busy() {
		if _, err := b.Work(); err != nil {
			t.Fatal(err)
		}
	}
	if !b.Progress().Done || s.finished.Snapshot.Root != first.Snapshot.Root {
		t.Fatalf("%+v", b.Progress())
	}
	if _, err := b.Take(second); err != nil || b.Progress().Done || b.Progress().Snapshot.Root != second.Snapshot.Root {
		t.Fatalf("%+v, %v", b.Progress(), err)
	}
}

// Errors of the store are no fault of a peer, and what failed is done again.
func TestBootstrapWhenItsStoreFails(t *testing.T) {
	owner := newShelf(t, "RAA")
	owner.say(note("a", "1"), note("b", "2"))
	owner.snapshot()
	s := newShelf(t, "RAA")
	b := bootstrapOver(t, s, 1)
	peer := nodeOf("RAA")
	step := func(out []Outgoing, err error) ([]Outgoing, error) {
		t.Helper()
		if err != nil || len(out) != 1 {
			t.Fatal(out, err)
		}
		return b.Step(peer, mustAnswer(t, owner, out[0].Message.(WantParts)))
	}
	var uncertified error = &UncertifiedError{Node: peer}
	s.refuse = uncertified
	if out, err := step(b.Tick([]NodeID{peer})); err != nil || len(out) != 0 || b.now != nil {
		t.Fatalf("an author that is not certified: %v, %v", out, err)
	}
	s.refuse = &ForgedError{What: "a head", Node: peer}
	b.Tick(nil) // it goes and comes
	if _, err := step(b.Tick([]NodeID{peer})); !errors.As(err, new(*PeerError)) {
		t.Fatalf("a forged head: %v", err)
	}
	s.refuse = nil
	b.Tick(nil)
	out, err := step(b.Tick([]NodeID{peer}))
	work := func() {
		t.Helper()
		for b.Busy() {
			o, werr := b.Work()
			if werr != nil {
				t.Fatal(werr)
			}
			out = append(out, o...)
		}
	}
	work()
	out, err = step(out, err) // the list
	work()
	out, err = step(out, err) // the sheet
	broken := errors.New("disk")
	s.broken = broken
	if _, err = step(out, err); !errors.Is(err, broken) {
		t.Fatalf("a broken store: %v", err)
	}
	out, err = b.Tick([]NodeID{peer})
	out, err = step(out, err)
	work()
	if err != nil || !b.Progress().Done || len(out) != 0 {
		t.Fatalf("%+v, %v, %v", b.Progress(), out, err)
	}
}

// A peer that floods is named; one that is nobody's peer is not listened to.
func TestBootstrapFlood(t *testing.T) {
	owner := newShelf(t, "RAA")
	owner.say(note("a", "1"))
	owner.snapshot()
	s := newShelf(t, "RAA")
	b := bootstrapOver(t, s, 1)
	if out, err := b.Step(nodeOf("RBB"), Parts{}); err != nil || out != nil {
		t.Fatal("a stranger is listened to")
	}
	b.Tick([]NodeID{nodeOf("RBB")})
	flood := Parts{Node: nodeOf("RAA"), Part: PartPages, Parts: [][]byte{make([]byte, 1000)}}
	for i := 1; ; i++ {
		_, err := b.Step(nodeOf("RBB"), flood)
		var f *FloodError
		if errors.As(err, &f) {
			if i != MaxUseless+1 {
				t.Fatalf("after %d", i)
			}
			break
		}
		if err != nil || i > 2*MaxUseless {
			t.Fatal(i, err)
		}
	}
	if p := b.Progress(); p.Sources != 0 || p.Bytes != 0 {
		t.Fatalf("%+v", p)
	}
	if _, err := b.Step(nodeOf("RBB"), Heads{}); err == nil {
		t.Fatal("another message is taken")
	}
}

// What may be asked for between two ticks is bounded.
func TestBootstrapBytesPerTick(t *testing.T) {
	owner := newShelf(t, "RAA")
	owner.say(longNotes(64*20, 2900)...)
	owner.snapshot()
	s := newShelf(t, "RAA")
	b := bootstrapOver(t, s, 1)
	b.opt.BytesPerTick = 1 << 20
	c := &conversation{t: t, rnd: rand.New(rand.NewPCG(1, 1)), shelves: map[NodeID]*shelf{nodeOf("RAA"): owner}}
	var before uint64
	ticks := 0
	for !b.Progress().Done && ticks < 100 {
		c.run(b, []NodeID{nodeOf("RAA")}, 1, nil)
		ticks++
		now := b.Progress().Bytes
		if now-before > 1<<20+MaxAnswer {
			t.Fatalf("%d bytes between two ticks", now-before)
		}
		before = now
	}
	if !b.Progress().Done || ticks < 4 {
		t.Fatalf("done in %d ticks: %+v", ticks, b.Progress())
	}
}

// More peers than are asked, coming and going: none of their places is taken for another's.
func TestBootstrapSources(t *testing.T) {
	s := newShelf(t, "RAA")
	b := bootstrapOver(t, s, 1)
	var many []NodeID
	for i := range 100 {
		many = append(many, NodeID{byte(i), 1})
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		rnd.Shuffle(len(many), func(i, j int) { many[i], many[j] = many[j], many[i] })
		if _, err := b.Tick(many[:rnd.IntN(100)]); err != nil {
			t.Fatal(err)
		}
		var slots uint64
		for i, s := range b.sources {
			if slots>>s.slot&1 == 1 || s.slot >= MaxSources || i > 0 && b.sources[i-1].node.Compare(s.node) >= 0 {
				t.Fatalf("slot %d of %d sources", s.slot, len(b.sources))
			}
			slots |= 1 << s.slot
		}
		if slots != b.slots || len(b.sources) > MaxSources {
			t.Fatalf("slots %x, want %x", b.slots, slots)
		}
	}
}

// With many peers at hand no more is asked for at once than may come in; and who takes a place that somebody left is asked for what that one
// had not.
func TestBootstrapManyPeers(t *testing.T) {
	owner := newShelf(t, "RAA")
	owner.say(longNotes(64*80, 2900)...)
	o := owner.snapshot()
	b := bootstrapOver(t, newShelf(t, "RAA"), 1)
	var many []NodeID
	for i := range MaxSources {
		many = append(many, NodeID{byte(i), 1})
	}
	if _, err := b.Take(o); err != nil {
		t.Fatal(err)
	}
	asked := map[NodeID]int{}
	var wire []Outgoing
	work := func(out []Outgoing, err error) {
		t.Helper()
		for wire = append(wire, out...); err == nil && b.Busy(); wire = append(wire, out...) {
			out, err = b.Work()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	work(b.Tick(many))
	for len(wire) > 0 {
		q := wire[0]
		wire = wire[1:]
		if m := q.Message.(WantParts); m.Part != PartPages {
			work(b.Step(q.To, mustAnswer(t, owner, m)))
			continue
		}
		asked[q.To]++
	}
	outstanding := 0
	for _, s := range b.sources {
		for _, q := range s.asked {
			outstanding += q.limit
		}
	}
	if outstanding > MaxOutstanding || outstanding < MaxOutstanding/2 || len(asked) < 8 {
		t.Fatalf("%d bytes are under way from %d peers", outstanding, len(asked))
	}
	// All who were asked have nothing; others come in their places.
	for _, s := range slices.Clone(b.sources) {
		for _, q := range slices.Clone(s.asked) {
			work(b.Step(s.node, Parts{Node: nodeOf("RAA"), Root: o.Snapshot.Root, Part: q.part, Index: q.index}))
		}
	}
	wire = nil
	var others []NodeID
	for i := range MaxSources {
		others = append(others, NodeID{byte(i), 2})
	}
	work(b.Tick(others))
	for _, open := range b.now.open {
		for i, p := range open.pages {
			if p.lacks != 0 || p.tried != 0 {
				t.Fatalf("page %d is held against those who came", i)
			}
		}
	}
	if len(wire) == 0 {
		t.Fatal("those who came are not asked")
	}
}
