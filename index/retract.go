package index

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Retraction is the body of a "retraction" fact: its author takes back what it said of one subject, up to a position.
//
// Its subject is a hash (RetractionSubject), for a retraction stays in the log for good and must not name what it takes back. So it
// lists where the facts are that it takes back: a node that has their payloads drops them, one that has not does not miss them, and
// nobody fills them in again. (It asks for them, for what they are it cannot know: see setAwaited.) Many positions are said in several retractions.
type Retraction struct {
	Why       string     // Erased is the only one known
	Through   Position   // the last fact taken back; before the retraction itself
	Positions []Position // ascending, from 1 to MaxRetracted
}

// Erased is why a study is gone for good.
const Erased = "erased"

// Limits on a retraction.
const (
	MaxRetracted = 32 // positions in one
	maxWhy       = 64
)

// Position is a place in a node's log.
type Position struct {
	Epoch Epoch
	Seq   Seq
}

func (p Position) compare(o Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, o.Epoch), cmp.Compare(p.Seq, o.Seq))
}

// A position is 8 bytes: one of the epoch, seven of the number.
const (
	positionSize = 8
	maxPosition  = Seq(1)<<56 - 1
)

func (p Position) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(p.Epoch)<<56|uint64(p.Seq))
}

func readPosition(b []byte) (Position, error) {
	v := binary.BigEndian.Uint64(b)
	p := Position{Epoch(v >> 56), Seq(v) & maxPosition}
	if p.Epoch < 1 || p.Seq < 1 {
		return p, &MalformedError{What: "retraction", Why: "a position is none"}
	}
	return p, nil
}

// retractionBody is the CBOR of a Retraction.
type retractionBody struct {
	Why       string `cbor:"1,keyasint"`
	Through   []byte `cbor:"2,keyasint"`
	Positions []byte `cbor:"3,keyasint,omitempty"`
}

func (r Retraction) encode() []byte {
	b := retractionBody{Why: r.Why, Through: r.Through.append(nil)}
	for _, p := range r.Positions {
		b.Positions = p.append(b.Positions)
	}
	return encode(b)
}

func decodeRetraction(subject string, body []byte) (Retraction, error) {
	var b retractionBody
	if _, err := retractionHash(subject); err != nil {
		return Retraction{}, err
	}
	if err := decode(factMode, "retraction", body, &b); err != nil {
		return Retraction{}, err
	}
	r := Retraction{Why: b.Why}
	switch {
	case len(b.Why) == 0 || len(b.Why) > maxWhy || !plain(b.Why):
		return r, &MalformedError{What: "retraction", Why: fmt.Sprintf("its reason is empty, over %d bytes or no plain text", maxWhy)}
	case len(b.Through) != positionSize || len(b.Positions)%positionSize != 0:
		return r, &MalformedError{What: "retraction", Why: "a position is cut off"}
	case len(b.Positions) == 0: // what it takes back would depend on what comes first
		return r, &MalformedError{What: "retraction", Why: "it names no position"}
	case len(b.Positions) > MaxRetracted*positionSize:
		return r, &LimitError{What: "positions in a retraction", Got: len(b.Positions) / positionSize, Limit: MaxRetracted}
	}
	var err error
	if r.Through, err = readPosition(b.Through); err != nil {
		return r, err
	}
	for list := b.Positions; len(list) > 0; list = list[positionSize:] {
		p, err := readPosition(list[:positionSize])
		if err != nil {
			return r, err
		}
		if n := len(r.Positions); n > 0 && r.Positions[n-1].compare(p) >= 0 || p.compare(r.Through) > 0 {
			return r, &MalformedError{What: "retraction", Why: "its positions are not ascending to the last one taken back"}
		}
		r.Positions = append(r.Positions, p)
	}
	return r, nil
}

// hashOf is what a retraction calls a subject by.
func hashOf(kind Kind, subject string) [32]byte {
	b := append([]byte("priormesh-retraction-1\x00"), kind...)
	return sha256.Sum256(append(append(b, 0), subject...))
}

// RetractionSubject is the subject of the retractions of facts about a subject.
func RetractionSubject(kind Kind, subject string) string {
	h := hashOf(kind, subject)
	return hex.EncodeToString(h[:])
}

func retractionHash(subject string) (h [32]byte, err error) {
	b, err := hex.DecodeString(subject)
	if err != nil || len(b) != len(h) || hex.EncodeToString(b) != subject {
		return h, &MalformedError{What: "retraction", Why: "its subject is no hash in hex"}
	}
	return [32]byte(b), nil
}

// retractable are the kinds that may be taken back: votes and nodes say who is in the region, and stay.
func retractable(k Kind) bool {
	switch k {
	case KindStudy, KindHolding, KindLink, KindReport, KindOffer:
		return true
	}
	return false
}

func retractKey(no authorNo, hash [32]byte) []byte {
	return append(authorKey(tabRetract, no), hash[:]...)
}

func readThrough(v []byte) (Position, error) {
	if len(v) != positionSize {
		return Position{}, errDamaged("a retraction")
	}
	p, err := readPosition(v)
	if err != nil {
		return p, errDamaged("a retraction")
	}
	return p, nil
}

// retracted says whether the author of a fact has taken it back.
func (w *writing) retracted(no authorNo, p Position, s Statement) (bool, error) {
	_, gone, err := takenBack(w.txn, no, p, s)
	return gone, err
}

// takenBack says up to where the author of a fact has taken back what it said of its subject, and whether this fact is among it.
func takenBack(txn *badger.Txn, no authorNo, p Position, s Statement) (through Position, gone bool, err error) {
	if !retractable(s.Kind) {
		return through, false, nil
	}
	v, ok, err := get(txn, retractKey(no, hashOf(s.Kind, s.Subject)))
	if err != nil || !ok {
		return through, false, err
	}
	through, err = readThrough(v)
	return through, err == nil && p.compare(through) <= 0, err
}

// retract applies a retraction: payloads that it names and that are here are dropped, the rest is not waited for, and what its author
// said of the subject is no longer current. Until the next Purge a dropped payload stays where it was, to tell what has to go with it.
func (w *writing) retract(id logID, a author, subject string, r Retraction, st *logState) error {
	hash, err := retractionHash(subject)
	if err != nil || r.Why != Erased {
		return err
	}
	key := retractKey(a.no, hash)
	v, ok, err := get(w.txn, key)
	if err != nil {
		return err
	}
	through := r.Through
	if ok {
		before, err := readThrough(v)
		if err != nil {
			return err
		}
		if before.compare(through) > 0 {
			through = before
		}
	}
	w.droppers[a.no] = true
	if err := w.set(key, through.append(nil)); err != nil {
		return err
	}
	var said *Statement
	for _, p := range r.Positions {
		s, err := w.drop(id, a, p, hash, st)
		if err != nil {
			return err
		}
		if s != nil {
			said = s
		}
	}
	if said == nil {
		return nil
	}
	_, err = w.withdraw(id, a, *said, hash, through, st)
	return err
}

// drop drops the payload at a position, if it is what hash says, and returns it.
func (w *writing) drop(id logID, a author, p Position, hash [32]byte, st *logState) (*Statement, error) {
	at := logID{id.Node, p.Epoch}
	state := w.state(at)
	if at == id {
		state = *st
	}
	named, err := w.dropped(a.no, p)
	if err != nil || named {
		return nil, err
	}
	payload, _, err := w.here(a.no, p)
	if err != nil {
		return nil, err
	}
	var said *Statement
	if payload != nil {
		s, err := decodePayload(payload.Data)
		if err != nil || !retractable(s.Kind) || hashOf(s.Kind, s.Subject) != hash {
			return nil, nil
		}
		if err := w.forgetUnread(a.no, p, &state); err != nil {
			return nil, err
		}
		said = &s
		if err := w.condemn(a.no, p); err != nil {
			return nil, err
		}
	}
	hole, err := w.has(logKey(tabHole, a.no, p))
	if err != nil {
		return nil, err
	}
	if hole {
		state.missing--
		if err = w.delete(logKey(tabHole, a.no, p)); err == nil {
			err = w.setAwaited(a.no, p, &state)
		}
	} else {
		err = w.setDropped(a.no, p)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case at == id:
		*st = state
	case state.last.head.Seq > 0 || w.x.hasLog(at):
		return said, w.keep(at, state)
	}
	return said, nil
}

// condemn marks a payload that is here for the next purge. The header stays what it is when the payload is gone.
func (w *writing) condemn(no authorNo, p Position) error {
	r, err := w.cover(no, p)
	if err != nil {
		return err
	}
	if pl := r.here(p.Seq); pl != nil { // else it lies in a block
		c := pl.commitment()
		r.commit[p.Seq-r.first()] = c[:]
		w.changed[string(r.key())] = true
	}
	return w.set(logKey(tabDoomed, no, p), nil)
}

// withdraw takes what an author says of a subject out of the join, if it was said up to a position.
func (w *writing) withdraw(id logID, a author, s Statement, hash [32]byte, through Position, st *logState) (removed bool, err error) {
	var at loc
	switch s.Kind {
	case KindStudy:
		at, removed, err = w.removeStudy(a, s.Subject, through)
	case KindHolding:
		var h Holding
		if h, err = decodeHolding(s.Subject, s.Body); err != nil {
			return false, nil // it was never understood
		}
		at, removed, err = w.removeHolding(a, h, through)
	default:
		at, removed, err = w.removeFact(a, s, through)
	}
	if err != nil || !removed {
		return false, err
	}
	_, err = w.drop(id, a, at.Position, hash, st) // a list may have left it out: a log that was restored has lost its end
	return true, err
}

// removeFact takes an author's current fact about a subject away, if it was said up to a position.
func (w *writing) removeFact(a author, s Statement, through Position) (at loc, removed bool, err error) {
	key := factKey(s.Kind, s.Subject, a.no)
	v, ok, err := get(w.txn, key)
	if err != nil || !ok {
		return loc{}, false, err
	}
	r, err := readRecord(v)
	if err != nil || r.at.Position.compare(through) > 0 {
		return loc{}, false, err
	}
	if s.Kind == KindLink {
		if err := w.removeLink(a, s.Subject); err != nil {
			return loc{}, false, err
		}
	}
	return r.at, true, w.delete(key)
}

// Retract takes back what this node has said about a subject: a study, or a holding. It returns how many facts there were. What is
// retracted is gone from every answer when it returns; Purge takes it off the disk.
func (x *Index) Retract(ctx context.Context, kind Kind, subject string) (facts int, err error) {
	if !retractable(kind) {
		return 0, &MalformedError{What: "retraction", Why: "facts of this kind are not taken back"}
	}
	if err := (Statement{Kind: kind, Subject: subject}).check(); err != nil {
		return 0, err
	}
	// The whole of the own log is read, so it is done before anybody has to wait for it.
	head, _ := x.Head(x.self)
	found, err := x.said(ctx, kind, subject, Position{})
	if err != nil {
		return 0, err
	}
	x.write.Lock()
	err = func() error {
		late, err := x.said(ctx, kind, subject, Position{head.Epoch, head.Seq})
		if err != nil {
			return err
		}
		for _, p := range late {
			if !slices.Contains(found, p) {
				found = append(found, p)
			}
		}
		return x.sayRetracted(ctx, kind, subject, found)
	}()
	x.write.Unlock()
	x.tell()
	return len(found), err
}

// Said lists what this node currently says something about, of a kind and with subjects that begin with a text. Of studies the text is
// empty or a whole UID, and of holdings empty or a whole UID and "@", with more or without.
func (x *Index) Said(kind Kind, prefix string) (subjects []string, err error) {
	a, ok := x.known(x.self)
	if !ok {
		return nil, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		subjects = nil
		c := x.reading(txn)
		switch kind {
		case KindStudy:
			from := []byte{tabStudy}
			if prefix != "" {
				from = studyRow(x.studyKey(prefix))
			}
			return scan(txn, from, from, true, func(_ []byte, value func() ([]byte, error)) (bool, error) {
				v, err := value()
				if err != nil {
					return false, err
				}
				list, err := readSaid(v)
				for _, s := range list {
					if s.author != a.no {
						continue
					}
					st, err := c.statement(s.author, s.at)
					if err != nil {
						return false, err
					}
					if prefix == "" || st.Subject == prefix {
						subjects = append(subjects, st.Subject)
					}
				}
				return err == nil, err
			})
		case KindHolding:
			uid, _, _ := strings.Cut(prefix, "@")
			hs := newHoldings(c)
			defer hs.close()
			return hs.by(uid, a.no, func(h heldBy) error {
				s, err := c.statement(a.no, h.at)
				if err == nil && strings.HasPrefix(s.Subject, prefix) {
					subjects = append(subjects, s.Subject)
				}
				return err
			})
		}
		key := append(append([]byte{tabFact}, kind...), 0)
		key = append(key, prefix...)
		return scan(txn, key, key, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
			_, subject, no, ok := readFactKey(k)
			if !ok {
				return false, errDamaged("the key of a fact")
			}
			if no == a.no {
				subjects = append(subjects, subject)
			}
			return true, nil
		})
	})
	return subjects, err
}

// said lists where in the own log, after a position, something is said about a subject.
func (x *Index) said(ctx context.Context, kind Kind, subject string, after Position) (found []Position, err error) {
	all, err := x.ownFacts(ctx, subject, after, func(s Statement) bool { return s.Kind == kind && s.Subject == subject })
	for _, f := range all {
		found = append(found, f.at)
	}
	return found, err
}

type ownFact struct {
	at   Position
	said Statement
}

// ownFacts lists the facts of the own log after a position that are wanted and have not been taken back, in their order. Each of them has a
// text in it.
func (x *Index) ownFacts(ctx context.Context, text string, after Position, want func(Statement) bool) (found []ownFact, err error) {
	a, ok := x.known(x.self)
	if !ok {
		return nil, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		found = nil
		n := 0
		at := map[Position]Statement{}
		look := func(p Position, pl Payload) {
			if pl.dropped() || p.compare(after) <= 0 {
				return
			}
			if s, err := decodePayload(pl.Data); err == nil && want(s) {
				at[p] = s
			}
		}
		for _, table := range []byte{tabPart, tabBlock} {
			err := scan(txn, authorKey(table, a.no), logKey(table, a.no, Position{after.Epoch, after.Seq + 1}), true, func(k []byte, value func() ([]byte, error)) (bool, error) {
				if n++; n%64 == 0 && ctx.Err() != nil {
					return false, ctx.Err()
				}
				v, err := value()
				if err != nil || !bytes.Contains(v, []byte(text)) {
					return err == nil, err
				}
				if table == tabPart {
					r, err := readPart(k, v)
					if err != nil {
						return false, err
					}
					for i, p := range r.payloads {
						look(Position{r.epoch, r.first() + Seq(i)}, p)
					}
					return true, nil
				}
				b, err := readBlock(k, v)
				if err != nil {
					return false, err
				}
				for i := range b.slots {
					look(Position{b.epoch, b.first() + Seq(i)}, b.slots[i].payload)
				}
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		for _, p := range slices.SortedFunc(maps.Keys(at), Position.compare) {
			_, gone, err := get(txn, logKey(tabDropped, a.no, p))
			if err != nil {
				return err
			}
			if !gone {
				found = append(found, ownFact{p, at[p]})
			}
		}
		return nil
	})
	return found, err
}

// sayRetracted appends retractions of the facts at some positions. The caller holds write.
func (x *Index) sayRetracted(ctx context.Context, kind Kind, subject string, at []Position) error {
	if len(at) == 0 {
		return nil
	}
	through := at[len(at)-1]
	var st []Statement
	for part := range slices.Chunk(at, MaxRetracted) {
		st = append(st, Statement{
			Kind: KindRetraction, Subject: RetractionSubject(kind, subject),
			Body: Retraction{Why: Erased, Through: through, Positions: part}.encode(),
		})
	}
	for group := range slices.Chunk(st, MaxFacts) {
		if _, err := x.say(ctx, group); err != nil {
			return err
		}
	}
	return nil
}

// Retracted is one author's retraction of one subject, which Subject names by its hash as RetractionSubject does.
type Retracted struct {
	Author  NodeID
	Subject string
	Through Position
}

// Retractions lists what has been taken back, in the whole region.
func (x *Index) Retractions() (out []Retracted, err error) {
	err = x.View(func(txn *badger.Txn) error {
		out = nil
		return scan(txn, []byte{tabRetract}, []byte{tabRetract}, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
			v, err := value()
			if err != nil {
				return false, err
			}
			if len(k) != 1+2+32 {
				return false, errDamaged("the key of a retraction")
			}
			a, err := x.author(txn, authorNo(binary.BigEndian.Uint16(k[1:])))
			if err != nil {
				return false, err
			}
			r := Retracted{Author: a.node, Subject: hex.EncodeToString(k[3:])}
			r.Through, err = readThrough(v)
			out = append(out, r)
			return err == nil, err
		})
	})
	slices.SortFunc(out, func(a, b Retracted) int {
		return cmp.Or(a.Author.Compare(b.Author), strings.Compare(a.Subject, b.Subject))
	})
	return out, err
}
