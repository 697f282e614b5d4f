package node

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/ristretto/v2/z"
	"github.com/klauspost/compress/zstd"

	"github.com/priormesh/priormesh/index"
)

// The rows of the index and the catalogue in a backup are one zstd stream of
//
//	"priormesh rows 1\n"
//	for each row, in key order: length of the key (uvarint), key, length of the
//	    value (uvarint), value, user meta (1)
//	0 (uvarint), number of rows (uvarint)
//
// They are as one transaction saw them. (Badger's own backup reads each part of
// the keys in a transaction of its own: a study could be in it without its
// instances.)
const rowsMagic = "priormesh rows 1\n"

const (
	maxRowKey   = 65000    // Badger's own limit
	maxRowValue = 64 << 20 // far beyond what is ever written
	rowsBatch   = 4 << 20  // bytes given to Badger at once
)

var errRows = errors.New("the rows of the index in the backup are damaged")

// writeRows writes all rows. begin gives an empty place to write to: when a
// purge has come between, the rows are written once more.
func writeRows(x *index.Index, begin func() (io.Writer, error)) (rows uint64, err error) {
	err = x.View(func(txn *badger.Txn) error {
		rows = 0
		to, err := begin()
		if err != nil {
			return err
		}
		enc, err := zstd.NewWriter(to, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(enc, 1<<20)
		io.WriteString(w, rowsMagic) // an error comes back with the flush
		it := txn.NewIterator(badger.IteratorOptions{PrefetchValues: true, PrefetchSize: 256})
		defer it.Close()
		var b []byte
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			if index.Purged(item) {
				continue
			}
			err := item.Value(func(v []byte) error {
				b = binary.AppendUvarint(b[:0], uint64(len(item.Key())))
				b = append(b, item.Key()...)
				b = binary.AppendUvarint(b, uint64(len(v)))
				b = append(b, v...)
				b = append(b, item.UserMeta())
				_, err := w.Write(b)
				return err
			})
			if err != nil {
				return errors.Join(err, enc.Close())
			}
			rows++
		}
		_, err = w.Write(binary.AppendUvarint([]byte{0}, rows))
		if err == nil {
			err = w.Flush()
		}
		return errors.Join(err, enc.Close())
	})
	return rows, err
}

// readRows calls fn with each row; key and value are valid during the call.
func readRows(from io.Reader, fn func(key, value []byte, meta byte) error) (rows uint64, err error) {
	dec, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return 0, err
	}
	defer dec.Close()
	r := bufio.NewReaderSize(dec, 1<<20)
	damaged := func(err error) error {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%w: %w", errRows, err)
	}
	magic := make([]byte, len(rowsMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != rowsMagic {
		return 0, damaged(err)
	}
	part := func(limit uint64, b []byte) ([]byte, error) {
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return nil, err
		}
		if n > limit {
			return nil, fmt.Errorf("%d bytes, the limit is %d", n, limit)
		}
		if uint64(cap(b)) < n {
			b = make([]byte, n)
		}
		_, err = io.ReadFull(r, b[:n])
		return b[:n], err
	}
	var key, value []byte
	for {
		if key, err = part(maxRowKey, key); err != nil {
			return rows, damaged(err)
		}
		if len(key) == 0 {
			break
		}
		if value, err = part(maxRowValue, value); err != nil {
			return rows, damaged(err)
		}
		meta, err := r.ReadByte()
		if err != nil {
			return rows, damaged(err)
		}
		if err := fn(key, value, meta); err != nil {
			return rows, err
		}
		rows++
	}
	said, err := binary.ReadUvarint(r)
	if err != nil || said != rows {
		return rows, damaged(err)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		return rows, damaged(errors.New("something follows the last row"))
	}
	return rows, nil
}

// loadRows makes a database of rows in a folder that has none.
func loadRows(dir string, from io.Reader) (rows uint64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	db, err := openIndex(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	w := db.NewStreamWriter()
	if err := w.Prepare(); err != nil {
		return 0, err
	}
	buf := z.NewBuffer(rowsBatch, "restore")
	defer func() { buf.Release() }()
	flush := func() error {
		err := w.Write(buf)
		buf.Reset()
		return err
	}
	rows, err = readRows(from, func(key, value []byte, meta byte) error {
		badger.KVToBuffer(&pb.KV{Key: key, Value: value, UserMeta: []byte{meta}, Version: 1, StreamId: 1}, buf)
		if buf.LenNoPadding() >= rowsBatch {
			return flush()
		}
		return nil
	})
	if err != nil {
		w.Cancel()
		return rows, err
	}
	if !buf.IsEmpty() {
		if err := flush(); err != nil {
			w.Cancel()
			return rows, err
		}
	}
	return rows, w.Flush()
}
