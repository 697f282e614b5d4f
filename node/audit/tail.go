package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// tail is how far a log has come, and where it begins: the number of the first
// event that is kept, with the hash before it.
type tail struct{ first, last place }

const (
	tailForm = "priormesh audit tail 1 %d %s %d %s"
	tailSlot = 256 // bytes; two of them take turns, so that one is whole after a crash
)

// tailFile is the file that keeps a tail. Nil keeps nothing.
type tailFile struct {
	f    *os.File
	next int
}

func openTail(path string) (*tailFile, *tail, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	b := make([]byte, 2*tailSlot)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, errors.Join(err, f.Close())
	}
	t, slot := decodeTail(b[:n])
	return &tailFile{f: f, next: 1 - slot}, t, nil
}

// readTail reads a tail; nil if there is none.
func readTail(path string) (*tail, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	t, _ := decodeTail(b)
	return t, err
}

// decodeTail returns the newer of the two, and where it stands.
func decodeTail(b []byte) (out *tail, slot int) {
	for i := range 2 {
		if len(b) < (i+1)*tailSlot {
			break
		}
		s := b[i*tailSlot : (i+1)*tailSlot]
		text, sum, ok := bytes.Cut(bytes.TrimRight(s, "\n "), []byte(" sum "))
		var t tail
		if !ok || string(sum) != tailSum(text) {
			continue
		}
		if _, err := fmt.Sscanf(string(text), tailForm, &t.first.seq, &t.first.hash, &t.last.seq, &t.last.hash); err != nil {
			continue
		}
		if out == nil || t.last.seq > out.last.seq || t.last.seq == out.last.seq && t.first.seq > out.first.seq {
			out, slot = &t, i
		}
	}
	return out, slot
}

func tailSum(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

func (t *tailFile) write(to tail) error {
	if t == nil {
		return nil
	}
	text := fmt.Appendf(nil, tailForm, to.first.seq, to.first.hash, to.last.seq, to.last.hash)
	text = append(append(text, " sum "...), tailSum(text)...)
	s := bytes.Repeat([]byte{' '}, tailSlot)
	copy(s, text)
	s[tailSlot-1] = '\n'
	_, err := t.f.WriteAt(s, int64(t.next)*tailSlot)
	t.next = 1 - t.next
	return err
}

func (t *tailFile) sync() error {
	if t == nil {
		return nil
	}
	return t.f.Sync()
}

func (t *tailFile) close() error {
	if t == nil {
		return nil
	}
	return t.f.Close()
}
