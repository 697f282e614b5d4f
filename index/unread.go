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
	return understanding{number: 1, kinds: map[Kind]uint64{
		KindStudy: 1, KindHolding: 1, KindNode: 1, KindVote: 1, KindRetraction: 1, KindLink: 1, KindReport: 1, KindOffer: 1,
	}}
}

func (u understanding) knows(k Kind) bool { return u.kinds[k] > 0 }

// understand checks a fact of a known kind; one of an unknown kind is none that can be read wrongly.
func (u understanding) understand(s Statement) (err error) {
	known, ok := u.kinds[s.Kind]
	if !ok {
		return nil
	}
	if s.Version > known {
		return &VersionError{What: "fact", Got: s.Version}
	}
	switch s.Kind {
	case KindStudy:
		_, err = decodeStudy(s.Subject, s.Body)
	case KindHolding:
		_, err = decodeHolding(s.Subject, s.Body)
	case KindNode:
		_, err = decodeNodeFact(s.Subject, s.Body)
	case KindVote:
		_, err = decodeVoteFact(s.Subject, s.Body)
	case KindRetraction:
		_, err = decodeRetraction(s.Subject, s.Body)
	case KindLink:
		_, err = decodeLink(s.Subject, s.Body)
	case KindReport:
		_, err = decodeReport(s.Subject, s.Body)
	case KindOffer:
		_, err = decodeOffer(s.Subject, s.Body)
	}
	return err
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
		for _, step := range []func(*writing, logID, Seq, byte) error{(*writing).unhold, (*writing).readAgain} {
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
func (x *Index) eachUnread(step func(w *writing, id logID, seq Seq, why byte) error) error {
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
				if err != nil || len(k) != 1+32+8+8 || len(v) != 1 {
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
				if n > 0 && !w.roomFor(1, MaxPayload) {
					break
				}
				id := logID{NodeID(at.key[1:33]), Epoch(binary.BigEndian.Uint64(at.key[33:41]))}
				if err := step(w, id, keySeq(at.key), at.why); err != nil {
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
func (w *writing) stored(id logID, seq Seq) (s Statement, ok bool, err error) {
	v, here, err := get(w.txn, logKey(tabPayload, id, seq))
	if err != nil || !here || len(v) < saltSize {
		return s, false, err
	}
	s, derr := decodePayload(v[saltSize:])
	return s, derr == nil, nil
}

// unhold takes a fact of a kind that is known now out of the facts that hold, if it does.
func (w *writing) unhold(id logID, seq Seq, why byte) error {
	s, ok, err := w.stored(id, seq)
	if err != nil || !ok || why != unreadKind || !w.x.knows.knows(s.Kind) {
		return err
	}
	key := factKey(s.Kind, s.Subject, id.Node)
	v, ok, err := get(w.txn, key)
	if err != nil || !ok {
		return err
	}
	r, err := readRecord(v)
	if err != nil || r.epoch != id.Epoch || r.seq != seq {
		return err
	}
	return w.delete(key)
}

// readAgain applies a fact that was not read. If it still cannot be, it is noted again.
func (w *writing) readAgain(id logID, seq Seq, why byte) error {
	s, ok, err := w.stored(id, seq)
	if err != nil || ok && why == unreadKind && !w.x.knows.knows(s.Kind) {
		return err
	}
	st := w.state(id)
	if err := w.forgetUnread(id, seq, &st); err != nil {
		return err
	}
	gone, err := w.has(logKey(tabDropped, id, seq))
	if err == nil && ok && !gone {
		gone, err = w.retracted(id, seq, s)
		if err == nil && gone { // by a retraction that was itself read only now
			err = w.set(logKey(tabDropped, id, seq), nil)
			if err == nil {
				err = w.set(logKey(tabDoomed, id, seq), nil)
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
		err = w.noteUnread(id, seq, unreadBody, &st)
	} else {
		err = w.apply(id, seq, s, st.trust, &st)
	}
	if err != nil {
		return err
	}
	return w.keep(id, st)
}

// noteUnread notes that a fact was not read.
func (w *writing) noteUnread(id logID, seq Seq, why byte, st *logState) error {
	if why == unreadBody {
		st.unread++
	}
	return w.set(logKey(tabUnread, id, seq), []byte{why})
}

// forgetUnread takes the note back, if there is one.
func (w *writing) forgetUnread(id logID, seq Seq, st *logState) error {
	key := logKey(tabUnread, id, seq)
	v, ok, err := get(w.txn, key)
	if err != nil || !ok {
		return err
	}
	if len(v) == 1 && v[0] == unreadBody {
		st.unread--
	}
	return w.delete(key)
}
