package index

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"

	"github.com/dgraph-io/badger/v4"
)

// A run is a signed batch as it lies in the database: a row with what is signed, keyed by the last position, and the payloads beside it
// in parts of a few, for a fact is mostly read alone. Facts lie nowhere else; other rows say where.
//
// A header holds a hash of 32 bytes for each fact, which neither packs nor says anything that salt and payload do not. So a header that
// is exactly what this version would write is left out of the row, but for the hashes of payloads that are not there or will not stay,
// and made again when it is asked for; any other is kept as it came.
type run struct {
	no       authorNo
	epoch    Epoch
	last     Seq
	prev     []byte // hash of the batch before
	header   []byte // nil: to be made
	sig      []byte
	commit   [][]byte // commitments that payloads do not tell, in place
	payloads []Payload
}

// part is some payloads of a run, in one row, keyed by the position of its last.
type part struct {
	no       authorNo
	epoch    Epoch
	last     Seq
	payloads []Payload
}

const partSize = 4

func (r *run) first() Seq { return r.last - Seq(len(r.payloads)) + 1 }

func (p *part) first() Seq { return p.last - Seq(len(p.payloads)) + 1 }

// loc is where a fact of a run lies.
func (r *run) loc(seq Seq) loc {
	i := (seq - r.first()) / partSize
	return loc{Position: Position{r.epoch, seq}, last: min(r.first()+(i+1)*partSize-1, r.last)}
}

// at returns the payload at a position, nil when it is absent.
func (p *part) at(seq Seq) *Payload {
	if seq < p.first() || seq > p.last {
		return nil
	}
	if pl := &p.payloads[seq-p.first()]; !pl.dropped() {
		return pl
	}
	return nil
}

const (
	runPlain = 0 // the header follows
	runBare  = 1 // the header is to be made
)

// newRun makes the rows of a batch.
func newRun(no authorNo, v Verified, payloads []Payload) *run {
	r := &run{no: no, epoch: v.link.head.Epoch, last: v.link.head.Seq, sig: v.link.head.Sig, payloads: payloads, commit: make([][]byte, len(payloads))}
	if v.link.first > 1 {
		r.prev = v.link.prev[:]
	}
	for i, p := range payloads {
		if p.dropped() {
			r.commit[i] = v.link.commit[i]
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
		if h.Commit[i] = r.commit[i]; h.Commit[i] == nil {
			c := p.commitment()
			h.Commit[i] = c[:]
		}
	}
	return encode(h)
}

func (r *run) key() []byte { return logKey(tabRun, r.no, Position{r.epoch, r.last}) }

func (p *part) key() []byte { return logKey(tabPart, p.no, Position{p.epoch, p.last}) }

func (r *run) encode() []byte {
	b := make([]byte, 0, 128+len(r.header)+len(r.sig))
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
	for i, c := range r.commit {
		if c != nil && r.header == nil {
			b = append(append(b, byte(i)), c...)
		}
	}
	return b
}

func (p *part) encode() []byte {
	n := 16
	for _, pl := range p.payloads {
		n += len(pl.Salt) + len(pl.Data) + 4
	}
	b := binary.AppendUvarint(make([]byte, 0, n), uint64(len(p.payloads)))
	for _, pl := range p.payloads {
		if pl.dropped() {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(pl.Data))+1)
		b = append(append(b, pl.Salt...), pl.Data...)
	}
	return b
}

// parts are a run's payloads as they lie.
func (r *run) parts() (out []*part) {
	for i := 0; i < len(r.payloads); i += partSize {
		some := r.payloads[i:min(i+partSize, len(r.payloads))]
		out = append(out, &part{r.no, r.epoch, r.first() + Seq(i+len(some)-1), some})
	}
	return out
}

// readRun reads a row of the run table, without its payloads. What it returns shares v.
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
	r.payloads, r.commit = make([]Payload, n), make([][]byte, n)
	for len(f.b) > 0 {
		i := f.byte()
		if uint64(i) >= n {
			return nil, errDamaged("a batch")
		}
		r.commit[i] = f.take(sha256.Size)
	}
	if f.bad {
		return nil, errDamaged("a batch")
	}
	return r, nil
}

// readPart reads a row of the table of parts. What it returns shares v.
func readPart(k, v []byte) (*part, error) {
	f := fields{b: v}
	at := keyPosition(k)
	p := &part{no: authorNo(binary.BigEndian.Uint16(k[1:])), epoch: at.Epoch, last: at.Seq}
	n := f.uvarint()
	if f.bad || n < 1 || n > partSize || uint64(p.last) < n {
		return nil, errDamaged("facts of a batch")
	}
	p.payloads = make([]Payload, n)
	for i := range p.payloads {
		if size := f.uvarint(); size > 0 {
			p.payloads[i] = Payload{Salt: f.take(saltSize), Data: f.take(size - 1)}
		}
	}
	if f.bad || len(f.b) != 0 {
		return nil, errDamaged("facts of a batch")
	}
	return p, nil
}

// load reads a run's payloads.
func (r *run) load(txn *badger.Txn) error {
	for _, p := range r.parts() {
		v, ok, err := get(txn, p.key())
		if err != nil {
			return err
		}
		if !ok {
			return errDamaged("facts of a batch")
		}
		got, err := readPart(p.key(), v)
		if err != nil {
			return err
		}
		if len(got.payloads) != len(p.payloads) {
			return errDamaged("facts of a batch")
		}
		copy(p.payloads, got.payloads)
	}
	for i, p := range r.payloads {
		if p.dropped() && r.commit[i] == nil && r.header == nil {
			return errDamaged("facts of a batch")
		}
	}
	return nil
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

// cover reads the run that contains a position, nil if there is none.
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
	if err == nil && r != nil {
		err = r.load(txn)
	}
	return r, err
}

// here returns the payload at a position, nil when it, or the run, is absent.
func (r *run) here(seq Seq) *Payload {
	if r == nil || seq < r.first() || seq > r.last || r.payloads[seq-r.first()].dropped() {
		return nil
	}
	return &r.payloads[seq-r.first()]
}

// runCache reads facts by where they lie, and keeps the parts they lie in: facts that are asked for together often lie together.
type runCache struct {
	x     *Index
	txn   *badger.Txn
	parts map[string]*part
}

const cachedParts = 256

func (x *Index) reading(txn *badger.Txn) *runCache {
	return &runCache{x: x, txn: txn, parts: map[string]*part{}}
}

func (c *runCache) keep(p *part) { c.keepAs(p.key(), p) }

func (c *runCache) keepAs(key []byte, p *part) {
	if len(c.parts) >= cachedParts {
		clear(c.parts)
	}
	c.parts[string(key)] = p
}

// statement reads the statement at a place.
func (c *runCache) statement(no authorNo, l loc) (Statement, error) {
	key := logKey(tabPart, no, Position{l.Epoch, l.last})
	if l.block {
		key[0] = tabBlock
	}
	p := c.parts[string(key)]
	if p == nil {
		v, ok, err := get(c.txn, key)
		if err != nil {
			return Statement{}, err
		}
		if !ok {
			return Statement{}, errDamaged("facts of a batch")
		}
		if l.block {
			var b *block
			if b, err = readBlock(key, v); err == nil {
				p = b.part()
			}
		} else {
			p, err = readPart(key, v)
		}
		if err != nil {
			return Statement{}, err
		}
		c.keepAs(key, p)
	}
	pl := p.at(l.Seq)
	if pl == nil {
		return Statement{}, errDamaged("a fact")
	}
	s, err := decodePayload(pl.Data)
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
