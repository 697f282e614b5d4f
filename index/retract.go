package index

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// Retraction is the body of a "retraction" fact: its author takes back what it said of one subject, up to a position.
//
// Its subject is a hash (RetractionSubject), for a retraction stays in the log for good and must not name what it takes back. So it
// lists where the facts are that it takes back: a node that has their payloads drops them, one that has not does not ask for them, and
// nobody fills them in again. Many positions are said in several retractions.
type Retraction struct {
	Why       string     // Erased is the only one known
	Through   Position   // the last fact taken back; before the retraction itself
	Positions []Position // ascending, at most MaxRetracted
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

func retractKey(author NodeID, hash [32]byte) []byte {
	return append(append([]byte{tabRetract}, author[:]...), hash[:]...)
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
func (w *writing) retracted(id logID, seq Seq, s Statement) (bool, error) {
	if !retractable(s.Kind) {
		return false, nil
	}
	v, ok, err := get(w.txn, retractKey(id.Node, hashOf(s.Kind, s.Subject)))
	if err != nil || !ok {
		return false, err
	}
	through, err := readThrough(v)
	return Position{id.Epoch, seq}.compare(through) <= 0, err
}

// anyDropped says whether a payload of a log is known to be dropped.
func (w *writing) anyDropped(id logID) (any bool, err error) {
	prefix := logPrefix(tabDropped, id)
	err = scan(w.txn, prefix, prefix, false, func([]byte, func() ([]byte, error)) (bool, error) {
		any = true
		return false, nil
	})
	return any, err
}

// misnamed says of a payload that is not waited for whether it is lacking nevertheless: because a retraction of something else named
// its position before it came.
func (w *writing) misnamed(id logID, seq Seq, p Payload) (bool, error) {
	if named, err := w.has(logKey(tabDropped, id, seq)); err != nil || !named {
		return false, err
	}
	s, err := decodePayload(p.Data)
	if err != nil {
		return true, nil
	}
	gone, err := w.retracted(id, seq, s)
	return !gone, err
}

// retract applies a retraction: payloads that it names and that are here are dropped, the rest is not waited for, and what its author
// said of the subject is no longer current. Until the next Purge a dropped payload stays where it was, to tell what has to go with it.
func (w *writing) retract(id logID, subject string, r Retraction, st *logState) error {
	hash, err := retractionHash(subject)
	if err != nil || r.Why != Erased {
		return err
	}
	key := retractKey(id.Node, hash)
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
	if err := w.set(key, through.append(nil)); err != nil {
		return err
	}
	var said *Statement
	for _, p := range r.Positions {
		s, err := w.drop(id, p, hash, st)
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
	return w.withdraw(id, *said, hash, through, st)
}

// drop drops the payload at a position, if it is what hash says, and returns it.
func (w *writing) drop(id logID, p Position, hash [32]byte, st *logState) (*Statement, error) {
	at := logID{id.Node, p.Epoch}
	state := w.state(at)
	if at == id {
		state = *st
	}
	named, err := w.has(logKey(tabDropped, at, p.Seq))
	if err != nil || named {
		return nil, err
	}
	v, here, err := get(w.txn, logKey(tabPayload, at, p.Seq))
	if err != nil {
		return nil, err
	}
	var said *Statement
	if here {
		if len(v) < saltSize {
			return nil, errDamaged("a payload")
		}
		s, err := decodePayload(v[saltSize:])
		if err != nil || !retractable(s.Kind) || hashOf(s.Kind, s.Subject) != hash {
			return nil, nil
		}
		if err := w.forgetUnread(at, p.Seq, &state); err != nil {
			return nil, err
		}
		said = &s
		if err := w.set(logKey(tabDoomed, at, p.Seq), nil); err != nil {
			return nil, err
		}
	} else {
		hole, err := w.has(logKey(tabHole, at, p.Seq))
		if err != nil {
			return nil, err
		}
		if hole {
			state.missing--
			if err := w.delete(logKey(tabHole, at, p.Seq)); err != nil {
				return nil, err
			}
		}
	}
	if err := w.set(logKey(tabDropped, at, p.Seq), nil); err != nil {
		return nil, err
	}
	switch {
	case at == id:
		*st = state
	case state.last.head.Seq > 0:
		return said, w.keep(at, state)
	}
	return said, nil
}

// withdraw takes what an author says of a subject out of the join, if it was said up to a position.
func (w *writing) withdraw(id logID, s Statement, hash [32]byte, through Position, st *logState) error {
	key := factKey(s.Kind, s.Subject, id.Node)
	v, ok, err := get(w.txn, key)
	if err != nil || !ok {
		return err
	}
	r, err := readRecord(v)
	if err != nil {
		return err
	}
	at := Position{r.epoch, r.seq}
	if at.compare(through) > 0 {
		return nil // said anew since
	}
	switch s.Kind {
	case KindStudy:
		err = w.removeStudy(id.Node, s.Subject)
	case KindLink:
		err = w.removeLink(id.Node, s.Subject)
	}
	if err != nil {
		return err
	}
	if err := w.delete(key); err != nil {
		return err
	}
	_, err = w.drop(id, at, hash, st) // a list may have left it out: a log that was restored has lost its end
	return err
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

// Said lists what this node currently says something about, of a kind and with subjects that begin with a text.
func (x *Index) Said(kind Kind, prefix string) (subjects []string, err error) {
	key := append(append([]byte{tabFact}, kind...), 0)
	key = append(key, prefix...)
	err = x.View(func(txn *badger.Txn) error {
		subjects = nil
		return scan(txn, key, key, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
			_, subject, author, ok := readFactKey(k)
			if !ok {
				return false, errDamaged("the key of a fact")
			}
			if author == x.self {
				subjects = append(subjects, subject)
			}
			return true, nil
		})
	})
	return subjects, err
}

// said lists where in the own log, after a position, something is said about a subject.
func (x *Index) said(ctx context.Context, kind Kind, subject string, after Position) (found []Position, err error) {
	err = x.View(func(txn *badger.Txn) error {
		found = nil
		prefix := append([]byte{tabPayload}, x.self[:]...)
		start := logKey(tabPayload, logID{x.self, after.Epoch}, after.Seq+1)
		n := 0
		var at []Position
		err := scan(txn, prefix, start, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
			if n++; n%1024 == 0 && ctx.Err() != nil {
				return false, ctx.Err()
			}
			v, err := value()
			if err != nil || len(v) < saltSize || !bytes.Contains(v, []byte(subject)) {
				return err == nil, err
			}
			s, err := decodePayload(v[saltSize:])
			if err == nil && s.Kind == kind && s.Subject == subject {
				at = append(at, Position{Epoch(binary.BigEndian.Uint64(k[len(k)-16:])), keySeq(k)})
			}
			return true, nil
		})
		for _, p := range at {
			_, gone, gerr := get(txn, logKey(tabDropped, logID{x.self, p.Epoch}, p.Seq))
			if gerr != nil {
				return gerr
			}
			if !gone {
				found = append(found, p)
			}
		}
		return err
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
			if len(k) != 1+32+32 {
				return false, errDamaged("the key of a retraction")
			}
			r := Retracted{Author: NodeID(k[1:33]), Subject: hex.EncodeToString(k[33:])}
			r.Through, err = readThrough(v)
			out = append(out, r)
			return err == nil, err
		})
	})
	return out, err
}
