package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/simulations/synthetic"
)

// newcomer is a trust of the region that has said nothing: its node is the one
// that starts empty.
const newcomer index.TrustID = "RZZ"

// members is the region of the synthetic trusts and the newcomer, each with one
// node. Keys come from names, so every process makes the same.
type members struct {
	id    index.RegionID
	votes []index.Vote
	nodes map[index.TrustID]ed25519.PrivateKey
}

func newMembers(trusts []synthetic.Trust) (members, error) {
	key := func(what string, t index.TrustID) ed25519.PrivateKey {
		seed := sha256.Sum256([]byte("bench " + what + " " + string(t)))
		return ed25519.NewKeyFromSeed(seed[:])
	}
	m := members{nodes: map[index.TrustID]ed25519.PrivateKey{}}
	var names []index.TrustID
	for _, t := range append(slices.Clone(trusts), synthetic.Trust{ID: newcomer}) {
		names = append(names, t.ID)
		m.nodes[t.ID] = key("node", t.ID)
		cert, err := index.NewNodeCert(key("trust", t.ID), t.ID, m.nodes[t.ID], 1)
		if err != nil {
			return m, err
		}
		card := index.Card{Trust: t.ID, Name: "Trust " + string(t.ID), TrustKey: key("trust", t.ID).Public().(ed25519.PublicKey),
			NodeCert: cert, Addrs: []string{"/ip4/127.0.0.1/tcp/4001"}}
		if len(m.votes) == 0 {
			v, err := index.Found(key("trust", t.ID), "Bench", card)
			if err != nil {
				return m, err
			}
			m.id, m.votes = v.Hash(), append(m.votes, v)
			continue
		}
		roster := index.EvalRoster(m.id, m.votes, nil)
		for _, by := range names[:len(names)-1] {
			v, err := index.Admit(key("trust", by), roster, card, roster.NextSerial(by))
			if err != nil {
				return m, err
			}
			m.votes = append(m.votes, v)
		}
	}
	return m, nil
}

// Records on disk are a length of four bytes and the bytes.
const maxRecord = index.MaxMessage + 64

func writeRecord(w io.Writer, b []byte) error {
	_, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func readRecord(r io.Reader) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes", size)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, err
}

// A written log is a file of one Batches message a batch, each behind the
// position of its last fact, and a file of its head. The own trust's is a file
// of statements, which its node will say itself.

func logFile(dir string, t index.TrustID) string { return filepath.Join(dir, string(t)+".log") }
func headFile(dir string, t index.TrustID) string {
	return filepath.Join(dir, string(t)+".head")
}

const ownFile = "own.statements"

// writeLogs says all facts of a region: the first trust's into statements, the
// others' into logs of batches. It returns how many facts there are.
func writeLogs(ctx context.Context, dir string, r *synthetic.Region, batch int) (own, others int, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, 0, err
	}
	trusts := r.Trusts()
	m, err := newMembers(trusts)
	if err != nil {
		return 0, 0, err
	}
	type writer struct {
		f    *os.File
		w    *bufio.Writer
		head index.Head
		st   []index.Statement
	}
	salts := rand.NewChaCha8(sha256.Sum256([]byte("salts")))
	ws := make([]*writer, len(trusts))
	for i, t := range trusts {
		path := logFile(dir, t.ID)
		if i == 0 {
			path = filepath.Join(dir, ownFile)
		}
		f, err := os.Create(path)
		if err != nil {
			return 0, 0, err
		}
		defer f.Close()
		ws[i] = &writer{f: f, w: bufio.NewWriterSize(f, 1<<20)}
	}
	flush := func(i int) error {
		w := ws[i]
		if len(w.st) == 0 {
			return nil
		}
		defer func() { w.st = w.st[:0] }()
		if i == 0 {
			own += len(w.st)
			return writeRecord(w.w, encodeStatements(w.st))
		}
		others += len(w.st)
		v, err := index.SealBatch(m.nodes[trusts[i].ID], w.head, 1, w.st, salts)
		if err != nil {
			return err
		}
		w.head = v.Head()
		msg := index.Batches{Batches: []index.Batch{v.Batch()}}.Encode()
		if _, err := w.w.Write(binary.BigEndian.AppendUint64(nil, uint64(w.head.Seq))); err != nil {
			return err
		}
		return writeRecord(w.w, msg)
	}
	for i, s := range r.Facts() {
		st, err := index.StudyStatement(s)
		if err != nil {
			return 0, 0, err
		}
		if ws[i].st = append(ws[i].st, st); len(ws[i].st) < batch {
			continue
		}
		if err := errors.Join(flush(i), ctx.Err()); err != nil {
			return 0, 0, err
		}
	}
	for i, w := range ws {
		if err := errors.Join(flush(i), w.w.Flush()); err != nil {
			return 0, 0, err
		}
		if i > 0 && w.head.Seq > 0 {
			if err := os.WriteFile(headFile(dir, trusts[i].ID), w.head.Encode(), 0o600); err != nil {
				return 0, 0, err
			}
		}
	}
	return own, others, nil
}

func encodeStatements(st []index.Statement) []byte {
	var b []byte
	for _, s := range st {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s.Subject)))
		b = append(b, s.Subject...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(s.Body)))
		b = append(b, s.Body...)
	}
	return b
}

func decodeStatements(b []byte) (out []index.Statement) {
	for len(b) > 0 {
		n := int(binary.BigEndian.Uint16(b))
		s := index.Statement{Kind: index.KindStudy, Subject: string(b[2 : 2+n])}
		b = b[2+n:]
		n = int(binary.BigEndian.Uint32(b))
		s.Body, b = b[4:4+n], b[4+n:]
		out = append(out, s)
	}
	return out
}

// readHeads reads the heads of the logs in a folder, sorted as Logs wants them.
func readHeads(dir string, trusts []synthetic.Trust) (out []index.Head, err error) {
	for _, t := range trusts {
		b, err := os.ReadFile(headFile(dir, t.ID))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h, err := index.DecodeHead(b)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b index.Head) int { return a.Node.Compare(b.Node) })
	return out, nil
}

// written are logs in files, for a peer that only answers: it implements
// index.Logs.
type written struct {
	heads []index.Head
	files map[index.NodeID]*writtenLog
}

type writtenLog struct {
	f  *os.File
	at []batchAt
}

type batchAt struct {
	last   index.Seq
	offset int64 // of its record
	size   int
}

func openWritten(dir string, trusts []synthetic.Trust) (w *written, err error) {
	m, err := newMembers(trusts)
	if err != nil {
		return nil, err
	}
	w = &written{files: map[index.NodeID]*writtenLog{}}
	if w.heads, err = readHeads(dir, trusts); err != nil {
		return nil, err
	}
	for _, t := range trusts[1:] {
		f, err := os.Open(logFile(dir, t.ID))
		if err != nil {
			return nil, err
		}
		l := &writtenLog{f: f}
		var b [12]byte
		for off := int64(0); ; {
			if _, err := f.ReadAt(b[:], off); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			size := int(binary.BigEndian.Uint32(b[8:]))
			l.at = append(l.at, batchAt{index.Seq(binary.BigEndian.Uint64(b[:])), off + 12, size})
			off += 12 + int64(size)
		}
		w.files[index.NodeIDOf(m.nodes[t.ID])] = l
	}
	return w, nil
}

func (w *written) Heads() []index.Head { return w.heads }

func (w *written) Forks() []index.Fork { return nil }

func (w *written) Holes() []index.Head { return nil }

func (w *written) Ended(index.NodeID, index.Epoch) (index.Seq, bool) { return 0, false }

func (w *written) Heard(index.Head) (index.Seq, bool, error) { return 0, false, nil }

func (w *written) Take([]index.Verified) (int, error) { return 0, nil }

func (w *written) Range(node index.NodeID, epoch index.Epoch, after index.Seq, maxBytes int) (out []index.Batch, err error) {
	l := w.files[node]
	if l == nil || epoch != 1 {
		return nil, nil
	}
	i := sort.Search(len(l.at), func(i int) bool { return l.at[i].last > after })
	for sum := 0; i < len(l.at) && (len(out) == 0 || sum+l.at[i].size <= maxBytes); i++ {
		b := make([]byte, l.at[i].size)
		if _, err := l.f.ReadAt(b, l.at[i].offset); err != nil {
			return nil, err
		}
		msg, err := index.DecodeMessage(b)
		if err != nil {
			return nil, err
		}
		out = append(out, msg.(index.Batches).Batches...)
		sum += l.at[i].size
	}
	return out, nil
}
