package index

import (
	"fmt"
	"slices"
	"strings"
)

// memoryLogs are Logs without a disk, for transcripts and simulations.
type memoryLogs struct {
	key     TrustID
	region  *region // the votes known from elsewhere
	logs    map[logID]*memoryLog
	roster  Roster
	checked *Checked             // signatures of heads; may be nil
	anybody bool                 // certifies anybody
	reached Seq                  // positions of all logs together
	forked  bool                 // any of them
	heads   []Head               // of all logs, sorted
	missing int                  // holes of all logs together
	gone    map[memoryPlace]bool // positions that a retraction named
}

type memoryPlace struct {
	node NodeID
	at   Position
}

type memoryLog struct {
	batches []Verified
	holes   []Seq // positions whose payload did not come, sorted
	asked   Seq   // the hole that Heard named last
	fork    *Fork
	heard   Head
}

// erase drops the payloads that the retractions in a batch name, and waits for them no more.
func (m *memoryLogs) erasedBy(by Verified) {
	node := by.link.head.Node
	l := m.log(logID{node, by.link.head.Epoch})
	for _, p := range by.batch.Payloads {
		s, err := decodePayload(p.Data)
		if err != nil || s.Kind != KindRetraction {
			continue
		}
		r, err := decodeRetraction(s.Subject, s.Body)
		if err != nil {
			continue
		}
		for _, at := range r.Positions {
			if m.gone == nil {
				m.gone = map[memoryPlace]bool{}
			}
			m.gone[memoryPlace{node, at}] = true
			if of := m.logs[logID{node, at.Epoch}]; of != nil {
				m.filled(of, at.Seq)
			}
			for i, v := range l.batches {
				k := int(at.Seq) - int(v.link.first)
				if at.Epoch != v.link.head.Epoch || k < 0 || k >= len(v.batch.Payloads) {
					continue
				}
				if said, err := decodePayload(v.batch.Payloads[k].Data); err == nil && RetractionSubject(said.Kind, said.Subject) == s.Subject {
					l.batches[i].batch.Payloads = slices.Clone(v.batch.Payloads)
					l.batches[i].batch.Payloads[k] = Payload{}
				}
			}
		}
	}
}

// erase takes back what a node said of a subject.
func (m *memoryLogs) erase(epoch Epoch, rnd seeded, kind Kind, subject string) Head {
	r := Retraction{Why: Erased}
	for _, f := range m.facts() {
		if f.Author == nodeOf(m.key) && f.Kind == kind && f.Subject == subject {
			r.Positions = append(r.Positions, Position{f.Epoch, f.Seq})
		}
	}
	r.Through = r.Positions[len(r.Positions)-1]
	return m.say(epoch, rnd, Statement{Kind: KindRetraction, Subject: RetractionSubject(kind, subject), Body: r.encode()})
}

func newMemoryLogs(t TrustID, r *region) *memoryLogs {
	m := &memoryLogs{key: t, region: r, logs: map[logID]*memoryLog{}}
	m.join()
	return m
}

func (m *memoryLogs) join() {
	votes := slices.Clone(m.region.votes)
	for _, f := range m.facts() {
		if f.Kind == KindVote {
			if v, err := decodeVoteFact(f.Subject, f.Body); err == nil {
				votes = append(votes, v)
			}
		}
	}
	m.roster = evalRoster(m.region.id, votes, nil, nil, m.region.checked)
}

func (m *memoryLogs) facts() []Fact {
	var out []Fact
	for _, id := range m.ids() {
		for _, v := range m.logs[id].batches {
			for i, p := range v.batch.Payloads {
				if s, err := decodePayload(p.Data); err == nil && !p.dropped() {
					out = append(out, Fact{Author: id.Node, Epoch: id.Epoch, Seq: v.link.first + Seq(i), Kind: s.Kind, Subject: s.Subject, Body: s.Body})
				}
			}
		}
	}
	return out
}

func (m *memoryLogs) ids() []logID {
	var out []logID
	for id := range m.logs {
		out = append(out, id)
	}
	slices.SortFunc(out, logID.compare)
	return out
}

// state is the join: each author's newest word on each subject, logs, forks and roster, in words.
func (m *memoryLogs) state() string {
	newest := map[string]Fact{}
	for _, f := range m.facts() { // sorted by epoch and position for each author
		newest[fmt.Sprintf("%s %s %s", f.Author, f.Kind, f.Subject)] = f
	}
	var out []string
	for _, f := range newest {
		body := string(f.Body)
		if f.Kind == KindVote {
			body = "(vote)"
		}
		if f.Kind == KindRetraction {
			body = "(retraction)"
		}
		if len(body) > 24 {
			body = fmt.Sprintf("(%d bytes)", len(body))
		}
		out = append(out, fmt.Sprintf("%s says %s/%.12s %s", nameOf(f.Author), f.Kind, f.Subject, body))
	}
	slices.Sort(out)
	var logs []string
	for _, h := range m.Heads() {
		logs = append(logs, headText(h))
	}
	for _, id := range m.ids() {
		if f := m.logs[id].fork; f != nil {
			out = append(out, fmt.Sprintf("%s forked epoch %d near %d", nameOf(id.Node), id.Epoch, f.Seq))
		}
	}
	return fmt.Sprintf("logs %s; members %s\n%s", strings.Join(logs, ", "), membersOf(m.roster), strings.Join(out, "\n"))
}

func (m *memoryLogs) log(id logID) *memoryLog {
	l := m.logs[id]
	if l == nil {
		l = &memoryLog{}
		m.logs[id] = l
	}
	return l
}

func (l *memoryLog) chain() chain {
	c := chain{cover: func(seq Seq) (link, bool, error) {
		for _, v := range l.batches {
			if v.link.first <= seq && seq <= v.link.head.Seq {
				return v.link, true, nil
			}
		}
		return link{}, false, nil
	}}
	if n := len(l.batches); n > 0 {
		c.last = l.batches[n-1].link
	}
	return c
}

func (m *memoryLogs) certified(n NodeID) error {
	if m.anybody {
		return nil
	}
	if _, ok := m.roster.Allowed(n); !ok && n != nodeOf(m.key) {
		return &UncertifiedError{Node: n}
	}
	return nil
}

func (m *memoryLogs) say(epoch Epoch, rnd seeded, st ...Statement) Head {
	id := logID{nodeOf(m.key), epoch}
	v, err := sealBatch(nodeKeyOf(m.key), m.log(id).chain().last.head, epoch, st, rnd)
	if err != nil {
		panic(err)
	}
	if _, err := m.Take([]Verified{v}); err != nil {
		panic(err)
	}
	return v.Head()
}

func (m *memoryLogs) Forks() []Fork {
	if !m.forked {
		return nil
	}
	var out []Fork
	for _, l := range m.logs {
		if l.fork != nil {
			out = append(out, *l.fork)
		}
	}
	slices.SortFunc(out, func(a, b Fork) int { return logID{a.Node, a.Epoch}.compare(logID{b.Node, b.Epoch}) })
	return out
}

func (m *memoryLogs) Holes() []Head {
	if m.missing == 0 {
		return nil
	}
	var out []Head
	for _, id := range m.ids() {
		if l := m.logs[id]; len(l.holes) > 0 && l.fork == nil {
			out = append(out, l.batches[len(l.batches)-1].link.head)
		}
	}
	return out
}

// filled says that a payload is not waited for any more, and whether it was.
func (m *memoryLogs) filled(l *memoryLog, at Seq) bool {
	i, ok := slices.BinarySearch(l.holes, at)
	if ok {
		l.holes = slices.Delete(l.holes, i, i+1)
		m.missing--
	}
	return ok
}

// note takes note of the payloads that did not come with a batch.
func (m *memoryLogs) note(l *memoryLog, v Verified) {
	for i, p := range v.batch.Payloads {
		at := v.link.first + Seq(i)
		if p.dropped() && !m.gone[memoryPlace{v.link.head.Node, Position{v.link.head.Epoch, at}}] {
			l.holes = append(l.holes, at)
			m.missing++
		}
	}
}

// fill supplies payloads that were missing.
func (m *memoryLogs) fill(l *memoryLog, v Verified) bool {
	i, ok := slices.BinarySearchFunc(l.batches, v.link.first, heldBefore)
	if len(l.holes) == 0 || !ok {
		return false
	}
	any := false
	for k, p := range v.batch.Payloads {
		if p.dropped() || !m.filled(l, v.link.first+Seq(k)) {
			continue
		}
		l.batches[i].batch.Payloads = slices.Clone(l.batches[i].batch.Payloads)
		l.batches[i].batch.Payloads[k] = p
		any = true
	}
	return any
}

// lack makes a copy of a batch without some payloads, as those have it to whom they did not come.
func lack(v Verified, drop ...Seq) Batch {
	b := v.Batch()
	b.Payloads = slices.Clone(b.Payloads)
	for _, at := range drop {
		b.Payloads[at-v.link.first] = Payload{}
	}
	return b
}

func (m *memoryLogs) grow(h Head) {
	i, ok := slices.BinarySearchFunc(m.heads, h, compareHeads)
	if !ok {
		m.heads = slices.Insert(m.heads, i, h)
	}
	m.heads[i] = h
}

func (m *memoryLogs) Heads() []Head {
	return slices.Clone(m.heads)
}

func (m *memoryLogs) Ended(n NodeID, _ Epoch) (Seq, bool) {
	return 0, m.certified(n) != nil
}

func (m *memoryLogs) Heard(h Head) (Seq, bool, error) {
	if err := m.certified(h.Node); err != nil {
		return 0, false, err
	}
	l := m.log(logID{h.Node, h.Epoch})
	if l.fork != nil {
		return 0, false, &ForkError{Fork: *l.fork}
	}
	c := l.chain()
	verdict, fork, err := c.judgeHead(h)
	switch {
	case err != nil:
		return 0, false, err
	case verdict == forked:
		l.fork, m.forked = fork, true
		return 0, false, &ForkError{Fork: *fork}
	case verdict == known && len(l.holes) > 0 && h.Seq == c.last.head.Seq:
		i, ok := slices.BinarySearch(l.holes, l.asked)
		if ok {
			i++
		}
		l.asked = l.holes[i%len(l.holes)]
		return l.asked - 1, true, nil
	case verdict == known:
		return 0, false, nil
	}
	if err := m.checked.head(h); err != nil {
		return 0, false, err
	}
	if h.Seq > l.heard.Seq {
		l.heard = h
	}
	return c.last.head.Seq, true, nil
}

func (m *memoryLogs) Range(n NodeID, e Epoch, after Seq, maxBytes int) ([]Batch, error) {
	var out []Batch
	size := 0
	if l := m.logs[logID{n, e}]; l != nil {
		for _, v := range l.batches {
			if v.link.head.Seq <= after {
				continue
			}
			if size += v.batch.size(); size > maxBytes && len(out) > 0 {
				break
			}
			out = append(out, v.batch)
		}
	}
	return out, nil
}

func (m *memoryLogs) Take(batches []Verified) (fresh int, err error) {
	votes := false
	defer func() {
		if votes {
			m.join()
		}
	}()
	for _, v := range batches {
		if err := m.certified(v.link.head.Node); err != nil {
			return fresh, err
		}
		l := m.log(logID{v.link.head.Node, v.link.head.Epoch})
		if l.fork != nil {
			return fresh, &ForkError{Fork: *l.fork}
		}
		c := l.chain()
		verdict, fork, err := c.judgeBatch(v.link)
		switch {
		case err != nil:
			return fresh, err
		case verdict == follows:
			l.batches = append(l.batches, v)
			m.note(l, v)
			m.erasedBy(v)
			m.reached += Seq(len(v.link.commit))
			m.grow(v.link.head)
			fresh++
			for _, p := range v.batch.Payloads {
				s, err := decodePayload(p.Data)
				votes = votes || err == nil && s.Kind == KindVote
			}
		case verdict == known && m.fill(l, v):
			fresh++
			m.erasedBy(v)
			votes = true
		case verdict == ahead:
			return fresh, &GapError{Node: v.link.head.Node, Epoch: v.link.head.Epoch, After: c.last.head.Seq, First: v.link.first}
		case verdict == forked:
			l.fork, m.forked = fork, true
			return fresh, &ForkError{Fork: *fork}
		}
	}
	return fresh, nil
}
