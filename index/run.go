package index

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"

	"github.com/dgraph-io/badger/v4"
)

// A run is a signed batch as it lies in the database: one row, keyed by the last position. Facts lie nowhere else; other rows say where.
//
// A header holds a hash of 32 bytes for each fact, which neither packs nor says anything that salt and payload do not. So a header that
// is exactly what this version would write is left out of the row, but for the hashes of absent payloads, and made again when it is
// asked for; any other is kept as it came.
type run struct {
	no       authorNo
	epoch    Epoch
	last     Seq
	prev     []byte // hash of the batch before
	header   []byte // nil: to be made
	sig      []byte
	payloads []Payload
	absent   [][]byte // commitments of absent payloads, in place, where header is nil
}

func (r *run) first() Seq { return r.last - Seq(len(r.payloads)) + 1 }

// at returns the payload at a position, nil when it is absent.
func (r *run) at(seq Seq) *Payload {
	if seq < r.first() || seq > r.last {
		return nil
	}
	if p := &r.payloads[seq-r.first()]; !p.dropped() {
		return p
	}
	return nil
}

const (
	runPlain = 0 // the header follows
	runBare  = 1 // the header is to be made
)

// newRun makes the row of a batch.
func newRun(no authorNo, v Verified, payloads []Payload) *run {
	r := &run{no: no, epoch: v.link.head.Epoch, last: v.link.head.Seq, sig: v.link.head.Sig, payloads: payloads}
	if v.link.first > 1 {
		r.prev = v.link.prev[:]
	}
	r.absent = make([][]byte, len(payloads))
	for i, p := range payloads {
		if p.dropped() {
			r.absent[i] = v.link.commit[i]
		}
	}
	if made := r.make(v.link.head.Node); sha256.Sum256(made) != v.link.head.Hash {
		r.header = v.batch.Header
	}
	return r
}

// make writes the header that this version would write.
func (r *run) make(node NodeID) []byte {
	h := header{Version: batchVersion, Node: node[:], Epoch: r.epoch, First: r.first(), Prev: r.prev, Commit: make([][]byte, len(r.payloads))}
	for i, p := range r.payloads {
		if p.dropped() {
			h.Commit[i] = r.absent[i]
			continue
		}
		c := p.commitment()
		h.Commit[i] = c[:]
	}
	return encode(h)
}

func (r *run) key() []byte { return logKey(tabRun, r.no, Position{r.epoch, r.last}) }

func (r *run) encode() []byte {
	n := 256 + len(r.header)
	for _, p := range r.payloads {
		n += len(p.Salt) + len(p.Data) + 36
	}
	b := make([]byte, 0, n)
	text := func(t []byte) { b = append(binary.AppendUvarint(b, uint64(len(t))), t...) }
	if r.header != nil {
		b = append(b, runPlain)
		text(r.header)
	} else {
		b = append(b, runBare)
		text(r.prev)
	}
	text(r.sig)
	b = binary.AppendUvarint(b, uint64(len(r.payloads)))
	for i, p := range r.payloads {
		switch {
		case !p.dropped():
			b = binary.AppendUvarint(b, uint64(len(p.Data))+1)
			b = append(append(b, p.Salt...), p.Data...)
		case r.header != nil:
			b = append(b, 0)
		default:
			b = append(append(b, 0), r.absent[i]...)
		}
	}
	return b
}

// readRun reads a row of the run table. What it returns shares v.
func readRun(k, v []byte) (*run, error) {
	f := fields{b: v}
	at := keyPosition(k)
	r := &run{no: authorNo(binary.BigEndian.Uint16(k[1:])), epoch: at.Epoch, last: at.Seq}
	kind := f.byte()
	switch text := f.take(f.uvarint()); kind {
	case runPlain:
		r.header = text
	case runBare:
		r.prev = text
	default:
		return nil, errDamaged("a batch")
	}
	r.sig = f.take(f.uvarint())
	n := f.uvarint()
	if f.bad || n < 1 || n > MaxFacts || uint64(r.last) < n || len(r.sig) != ed25519.SignatureSize {
		return nil, errDamaged("a batch")
	}
	r.payloads, r.absent = make([]Payload, n), make([][]byte, n)
	for i := range r.payloads {
		switch size := f.uvarint(); {
		case size > 0:
			r.payloads[i] = Payload{Salt: f.take(saltSize), Data: f.take(size - 1)}
		case r.header == nil:
			r.absent[i] = f.take(sha256.Size)
		}
	}
	if f.bad || len(f.b) != 0 {
		return nil, errDamaged("a batch")
	}
	return r, nil
}

// batch returns the batch as it came, as far as its payloads are here.
func (r *run) batch(node NodeID) Batch {
	b := Batch{Header: r.header, Sig: r.sig, Payloads: r.payloads}
	if b.Header == nil {
		b.Header = r.make(node)
	}
	return b
}

func (r *run) link(node NodeID) (link, error) {
	b := r.batch(node)
	l, err := parseLink(b.Header, b.Sig)
	if err != nil || l.head.Node != node || l.head.Epoch != r.epoch || l.head.Seq != r.last || len(l.commit) != len(r.payloads) {
		return link{}, errDamaged("a batch")
	}
	return l, nil
}

// cover reads the run that contains a position.
func cover(txn *badger.Txn, no authorNo, p Position) (r *run, err error) {
	err = scan(txn, epochKey(tabRun, no, p.Epoch), logKey(tabRun, no, p), true, func(k []byte, value func() ([]byte, error)) (bool, error) {
		v, err := value()
		if err != nil {
			return false, err
		}
		if r, err = readRun(k, v); err == nil && r.first() > p.Seq {
			r = nil
		}
		return false, err
	})
	return r, err
}

// runCache reads runs by the facts in them, and keeps some: facts that are asked for together often lie together.
type runCache struct {
	x    *Index
	txn  *badger.Txn
	runs map[string]*run
}

const cachedRuns = 64

func (x *Index) reading(txn *badger.Txn) *runCache {
	return &runCache{x: x, txn: txn, runs: map[string]*run{}}
}

func (c *runCache) run(no authorNo, l loc) (*run, error) {
	key := logKey(tabRun, no, Position{l.Epoch, l.last})
	if r := c.runs[string(key)]; r != nil {
		return r, nil
	}
	v, ok, err := get(c.txn, key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errDamaged("a batch that facts are in")
	}
	r, err := readRun(key, v)
	if err != nil {
		return nil, err
	}
	if len(c.runs) >= cachedRuns {
		clear(c.runs)
	}
	c.runs[string(key)] = r
	return r, nil
}

// statement reads the statement at a place.
func (c *runCache) statement(no authorNo, l loc) (Statement, error) {
	r, err := c.run(no, l)
	if err != nil {
		return Statement{}, err
	}
	p := r.at(l.Seq)
	if p == nil {
		return Statement{}, errDamaged("a fact")
	}
	s, err := decodePayload(p.Data)
	if err != nil {
		return Statement{}, errDamaged("a fact")
	}
	return s, nil
}

// body completes a record.
func (c *runCache) body(no authorNo, r record) ([]byte, error) {
	if !r.long {
		return r.body, nil
	}
	s, err := c.statement(no, r.at)
	return s.Body, err
}

// here is at, for a run that may not be there.
func (r *run) here(seq Seq) *Payload {
	if r == nil {
		return nil
	}
	return r.at(seq)
}
