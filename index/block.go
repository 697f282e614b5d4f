package index

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/dgraph-io/badger/v4"
)

// A block is where facts lie that came in pages, and those of the log once a snapshot covers them: of 16 neighbouring positions, which
// begin after a multiple of 16, those that hold. It is keyed by the last of the positions. Of a fact whose payload is absent it has the
// commitment.
type block struct {
	no    authorNo
	epoch Epoch
	last  Seq
	slots [partSize]slot
}

// slot is one position of a block.
type slot struct {
	in      bool
	payload Payload
	commit  [32]byte // of a payload that is absent
}

func (s *slot) commitment() [32]byte {
	if s.payload.dropped() {
		return s.commit
	}
	return s.payload.commitment()
}

// blockEnd is the last position of the block that a position lies in.
func blockEnd(seq Seq) Seq { return (seq + partSize - 1) / partSize * partSize }

func blockKey(no authorNo, p Position) []byte {
	return logKey(tabBlock, no, Position{p.Epoch, blockEnd(p.Seq)})
}

func inBlock(p Position) loc { return loc{Position: p, last: blockEnd(p.Seq), block: true} }

func (b *block) key() []byte { return logKey(tabBlock, b.no, Position{b.epoch, b.last}) }

func (b *block) first() Seq { return b.last - partSize + 1 }

// at is the slot of a position, which is one of the block's.
func (b *block) at(seq Seq) *slot { return &b.slots[seq-b.first()] }

func (b *block) empty() bool {
	for i := range b.slots {
		if b.slots[i].in {
			return false
		}
	}
	return true
}

func (b *block) encode() []byte {
	var v []byte
	for i := range b.slots {
		s := &b.slots[i]
		switch {
		case !s.in:
		case s.payload.dropped():
			v = append(append(v, byte(i), 0), s.commit[:]...)
		default:
			v = binary.AppendUvarint(append(v, byte(i)), uint64(len(s.payload.Data))+1)
			v = append(append(v, s.payload.Salt...), s.payload.Data...)
		}
	}
	return v
}

// size is what the block takes as a row, generously.
func (b *block) size() (n int) {
	for i := range b.slots {
		n += len(b.slots[i].payload.Data) + 64
	}
	return n
}

// readBlock reads a row of the table of blocks. What it returns shares v.
func readBlock(k, v []byte) (*block, error) {
	at := keyPosition(k)
	b := &block{no: authorNo(binary.BigEndian.Uint16(k[1:])), epoch: at.Epoch, last: at.Seq}
	f := fields{b: v}
	for len(f.b) > 0 {
		i := f.byte()
		if i >= partSize {
			return nil, errDamaged("facts of a page")
		}
		s := &b.slots[i]
		s.in = true
		if n := f.uvarint(); n > 0 {
			s.payload = Payload{Salt: f.take(saltSize), Data: f.take(n - 1)}
		} else {
			copy(s.commit[:], f.take(sha256.Size))
		}
	}
	if f.bad || at.Seq%partSize != 0 {
		return nil, errDamaged("facts of a page")
	}
	return b, nil
}

// part is the payloads of a block as a part of a batch has them.
func (b *block) part() *part {
	p := &part{no: b.no, epoch: b.epoch, last: b.last, payloads: make([]Payload, partSize)}
	for i := range b.slots {
		p.payloads[i] = b.slots[i].payload
	}
	return p
}

func blockIn(txn *badger.Txn, no authorNo, p Position) (*block, error) {
	k := blockKey(no, p)
	v, ok, err := get(txn, k)
	if err != nil || !ok {
		return nil, err
	}
	return readBlock(k, v)
}

// block returns the block of a position, an empty one if there is none.
func (w *writing) block(no authorNo, p Position) (*block, error) {
	k := blockKey(no, p)
	if b := w.blocks[string(k)]; b != nil {
		return b, nil
	}
	b, err := blockIn(w.txn, no, p)
	if err != nil {
		return nil, err
	}
	if b == nil {
		b = &block{no: no, epoch: p.Epoch, last: blockEnd(p.Seq)}
	}
	w.blocks[string(k)] = b
	return b, nil
}

// setBlock writes a block, or that there is none any more.
func (w *writing) setBlock(b *block) error {
	w.read.keepAs(b.key(), b.part())
	if b.empty() {
		return w.delete(b.key())
	}
	return w.set(b.key(), b.encode())
}

// slot returns the slot of a position in the blocks, nil when no page that holds it is here.
func (w *writing) slot(no authorNo, p Position) (*slot, error) {
	if !w.x.paged(no) && !w.pages[no] {
		return nil, nil
	}
	b, err := w.block(no, p)
	if err != nil || !b.at(p.Seq).in {
		return nil, err
	}
	return b.at(p.Seq), nil
}

// here returns the payload at a position, wherever it lies, nil when it is absent; and where.
func (w *writing) here(no authorNo, p Position) (*Payload, loc, error) {
	s, err := w.slot(no, p)
	if err != nil {
		return nil, loc{}, err
	}
	if s != nil && !s.payload.dropped() {
		return &s.payload, inBlock(p), nil
	}
	r, err := w.cover(no, p)
	if pl := r.here(p.Seq); err == nil && pl != nil {
		return pl, r.loc(p.Seq), nil
	}
	return nil, loc{}, err
}

// paged says whether facts of an author lie in blocks.
func (x *Index) paged(no authorNo) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.blocks[no]
}

// hasLog says whether anything of a log is here, be it pages alone.
func (x *Index) hasLog(id logID) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	st, ok := x.logs[id]
	return ok && st.trust != "" && st.fork == nil
}

// base is up to where a snapshot covers a node's log: nothing up to there is taken, asked for or given but in pages.
func (x *Index) base(n NodeID) Position {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.bases[n]
}

func (x *Index) covered(id logID, seq Seq) bool {
	return Position{id.Epoch, seq}.compare(x.base(id.Node)) <= 0
}
