package index

import (
	"bytes"
	"encoding/binary"

	"github.com/dgraph-io/badger/v4"
)

// understanding is what a version of this program can read: up to which version the bodies of each kind. Its number grows with every
// version that reads more. What an earlier version has stored and not read, a later one reads when it opens the index.
type understanding struct {
	number uint64
	kinds  map[Kind]uint64
}

func thisUnderstanding() understanding {
	return understanding{number: 3, kinds: map[Kind]uint64{
		KindStudy: 1, KindHolding: 1, KindNode: 1, KindVote: 1, KindRetraction: 1, KindLink: 1, KindReport: 1, KindOffer: 1, KindSnapshot: 1, KindRevocation: 1,
	}}
}

func (u understanding) knows(k Kind) bool { return u.kinds[k] > 0 }

// understand reads the body of a fact of a known kind; it is nil of one of an unknown kind, which is none that can be read wrongly.
func (u understanding) understand(s Statement) (body any, err error) {
	known, ok := u.kinds[s.Kind]
	if !ok {
		return nil, nil
	}
	if s.Version > known {
		return nil, &VersionError{What: "fact", Got: s.Version}
	}
	switch s.Kind {
	case KindStudy:
		return decodeStudy(s.Subject, s.Body)
	case KindHolding:
		return decodeHolding(s.Subject, s.Body)
	case KindNode:
		return decodeNodeFact(s.Subject, s.Body)
	case KindVote:
		return decodeVoteFact(s.Subject, s.Body)
	case KindRetraction:
		return decodeRetraction(s.Subject, s.Body)
	case KindLink:
		return decodeLink(s.Subject, s.Body)
	case KindReport:
		return decodeReport(s.Subject, s.Body)
	case KindOffer:
		return decodeOffer(s.Subject, s.Body)
	case KindSnapshot:
		return decodeSnapshot(s.Subject, s.Body)
	case KindRevocation:
		return decodeRevocationFact(s.Subject, s.Body)
	}
	return nil, nil
}

// tabUnread holds the positions of facts that were not read, and why: unreadBody, or unreadKind.
const tabUnread = 0x22

const (
	unreadBody byte = 'b' // of a known kind, but not understood; counted
	unreadKind byte = 'k' // of an unknown kind; it holds like any other
)

// metaUnderstands holds the number of the understanding (8) by which everything was read that is in the tables.
var metaUnderstands = []byte{tabMeta, 'u'}

const rereadAtOnce = 64 // facts read again in one transaction

// reread applies what could not be read before, if this version understands more than the one that was here before. What comes of it is
// what would be there had it been understood from the start. An interruption is made good by the next Open.
func (x *Index) reread() error {
	fresh := len(x.logs) == 0
	v, ok, err := x.row(metaUnderstands)
	if err != nil || ok && len(v) != 8 {
		if err == nil {
			err = errDamaged("what is understood")
		}
		return err
	}
	var before uint64
	if ok {
		before = binary.BigEndian.Uint64(v)
	}
	switch {
	case before == x.knows.number:
		return nil
	case before > x.knows.number: // it would put what it cannot read in the place of what has been read
		return &VersionError{What: "index database", Got: before}
	}
	if !fresh {
		// A fact of a kind that was unknown holds, be it well formed or not. First all of those give way, then each is applied.
		for _, step := range []func(*writing, author, Position, byte) error{(*writing).unhold, (*writing).readAgain} {
			if err := x.eachUnread(step); err != nil {
				return err
			}
		}
	}
	return x.Update(func(txn *badger.Txn) error {
		return txn.Set(metaUnderstands, binary.BigEndian.AppendUint64(nil, x.knows.number))
	})
}

// eachUnread calls step for every fact that was not read, in the order of logs and positions, some in one transaction.
func (x *Index) eachUnread(step func(w *writing, a author, p Position, why byte) error) error {
	start := []byte{tabUnread}
	for {
		type noted struct {
			key []byte
			why byte
		}
		var some []noted
		err := x.db.View(func(txn *badger.Txn) error {
			return scan(txn, []byte{tabUnread}, start, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
				v, err := value()
				if err != nil || len(k) != 1+2+positionSize || len(v) != 1 {
					if err == nil {
						err = errDamaged("the position of an unread fact")
					}
					return false, err
				}
				some = append(some, noted{bytes.Clone(k), v[0]})
				return len(some) < rereadAtOnce, nil
			})
		})
		if err != nil || len(some) == 0 {
			return err
		}
		for len(some) > 0 {
			w := x.begin()
			n := 0
			for _, at := range some {
				if n > 0 && !w.roomForOne() {
					break
				}
				a, err := w.author(authorNo(binary.BigEndian.Uint16(at.key[1:])))
				if err == nil {
					err = step(w, a, keyPosition(at.key), at.why)
				}
				if err != nil {
					w.discard()
					return err
				}
				n++
			}
			err := w.commit()
			w.discard()
			if err != nil {
				return err
			}
			start = append(some[n-1].key, 0)
			some = some[n:]
		}
	}
}

// stored reads a fact at a position; ok is false where there is none that can be decoded.
func (w *writing) stored(a author, p Position) (s Statement, at loc, ok bool, err error) {
	payload, at, err := w.here(a.no, p)
	if err != nil || payload == nil {
		return s, at, false, err
	}
	s, derr := decodePayload(payload.Data)
	return s, at, derr == nil, nil
}

// unhold takes a fact of a kind that is known now out of the facts that hold, if it does.
func (w *writing) unhold(a author, p Position, why byte) error {
	s, _, ok, err := w.stored(a, p)
	if err != nil || !ok || why != unreadKind || !w.x.knows.knows(s.Kind) {
		return err
	}
	key := factKey(s.Kind, s.Subject, a.no)
	v, ok, err := get(w.txn, key)
	if err != nil || !ok {
		return err
	}
	r, err := readRecord(v)
	if err != nil || r.at.Position != p {
		return err
	}
	return w.delete(key)
}

// readAgain applies a fact that was not read. If it still cannot be, it is noted again.
func (w *writing) readAgain(a author, p Position, why byte) error {
	s, at, ok, err := w.stored(a, p)
	if err != nil || ok && why == unreadKind && !w.x.knows.knows(s.Kind) {
		return err
	}
	id := logID{a.node, p.Epoch}
	if p.Epoch < w.x.base(a.node).Epoch { // of a log that goes
		return w.delete(logKey(tabUnread, a.no, p))
	}
	st := w.state(id)
	if err := w.forgetUnread(a.no, p, &st); err != nil {
		return err
	}
	gone, err := w.dropped(a.no, p)
	if err == nil && ok && !gone {
		gone, err = w.retracted(a.no, p, s)
		if err == nil && gone { // by a retraction that was itself read only now
			if err = w.condemn(a.no, p); err == nil {
				err = w.setDropped(a.no, p)
			}
		}
	}
	if err != nil || gone {
		if err == nil {
			err = w.keep(id, st)
		}
		return err
	}
	if !ok {
		err = w.noteUnread(a.no, p, unreadBody, &st)
	} else {
		err = w.apply(id, a, at, s, st.trust, &st)
	}
	if err != nil {
		return err
	}
	return w.keep(id, st)
}

// noteUnread notes that a fact was not read.
func (w *writing) noteUnread(no authorNo, p Position, why byte, st *logState) error {
	if why == unreadBody {
		st.unread++
	}
	return w.set(logKey(tabUnread, no, p), []byte{why})
}

// forgetUnread takes the note back, if there is one.
func (w *writing) forgetUnread(no authorNo, p Position, st *logState) error {
	key := logKey(tabUnread, no, p)
	v, ok, err := get(w.txn, key)
	if err != nil || !ok {
		return err
	}
	if len(v) == 1 && v[0] == unreadBody {
		st.unread--
	}
	return w.delete(key)
}
