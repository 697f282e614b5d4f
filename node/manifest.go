package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dgraph-io/ristretto/v2/z"
	"google.golang.org/protobuf/proto"

	"github.com/priormesh/priormesh/node/archive"
)

// rowsOfTable is how many of a table's newest rows are looked for elsewhere.
// What a table alone has came with its newest rows, all of one transaction.
const rowsOfTable = 64

// checkUnnamed looks at the tables that lie in a folder and that its MANIFEST
// does not name: Badger removes them when it opens. A crash leaves such tables,
// and then all that is in them is elsewhere too: a table is written before the
// MANIFEST names it, and what it was made of, a log of rows (.mem) or other
// tables, is removed after that. A table of which this is not so was named by an
// end of the MANIFEST that is gone. Nothing is changed here.
func checkUnnamed(o badger.Options, manifest []byte, m badger.Manifest, end int64) error {
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return err
	}
	past := replaced(manifest[:min(int64(len(manifest)), end)])
	e := elsewhere{o: o, m: m}
	defer e.close()
	var lost []string
	for _, entry := range entries {
		id, ok := table.ParseFileID(entry.Name())
		if _, named := m.Tables[id]; !ok || named || past(id) {
			continue
		}
		rows, err := newestRows(o, table.NewFilename(id, o.Dir))
		if err != nil {
			return err
		}
		for _, row := range rows {
			has, err := e.has(row)
			if err != nil {
				return err
			}
			if !has {
				lost = append(lost, filepath.Base(entry.Name()))
				break
			}
		}
	}
	if len(lost) == 0 {
		return nil
	}
	path := filepath.Join(o.Dir, badger.ManifestFilename)
	how := "has lost its end"
	switch {
	case manifest == nil:
		how = "is gone"
	case end < int64(len(manifest)):
		how = fmt.Sprintf("is cut off: its last entry begins at byte %d and is not whole at %d", end, len(manifest))
	}
	return fmt.Errorf("%w (%s %s, and does not name %s whole in %s, of which part is nowhere else: %s. Nothing was removed or changed: if the file can be put back as it was, the node starts)", archive.ErrIndexDamaged,
		path, how, counted(len(lost), "table that lies", "tables that lie"), o.Dir, strings.Join(lost[:min(len(lost), maxNamed)], ", "))
}

// maxNamed bounds how many tables an error names.
const maxNamed = 5

// replaced says of which tables a MANIFEST tells that others have taken their
// place: Badger removes their files after that, and late where they are read. One
// that was written anew, as a whole, begins with all tables there were, and has
// forgotten those that were none any more.
func replaced(manifest []byte) func(id uint64) bool {
	past := make(map[uint64]bool)
	first, newest := true, uint64(0)
	for b := manifest[min(8, len(manifest)):]; len(b) >= 8; first = false { // magic and version; then length, CRC, changes
		n := int(binary.BigEndian.Uint32(b))
		var set pb.ManifestChangeSet
		if n > len(b)-8 || proto.Unmarshal(b[8:8+n], &set) != nil {
			break
		}
		for _, c := range set.Changes {
			if c.Op == pb.ManifestChange_DELETE {
				past[c.Id] = true
			} else if first {
				newest = max(newest, c.Id)
			}
		}
		b = b[8+n:]
	}
	return func(id uint64) bool { return past[id] || id < newest }
}

// newestRows are keys of a table, with their versions, that came last; none if
// the table is not whole, as a crash leaves one.
func newestRows(o badger.Options, path string) (keys [][]byte, err error) {
	if err := checkTable(path); errors.Is(err, archive.ErrIndexDamaged) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	// How it is compressed only the MANIFEST says.
	for _, c := range []options.CompressionType{o.Compression, options.None, options.Snappy, options.ZSTD} {
		t, err := openTable(o, path, c)
		if err != nil {
			if ofMachine(err) {
				return nil, err
			}
			continue
		}
		keys, whole := rowsOf(t, t.MaxVersion())
		if err := t.Close(-1); err != nil {
			return nil, err
		}
		if whole {
			return keys, nil
		}
	}
	return nil, nil
}

// rowsOf are some of the rows of a version, and whether the table could be read
// to its end.
func rowsOf(t *table.Table, version uint64) (keys [][]byte, whole bool) {
	it := t.NewIterator(table.NOCACHE)
	defer it.Close()
	var n uint32
	of, every := 0, 1
	for it.Rewind(); it.Valid(); it.Next() {
		n++
		if y.ParseTs(it.Key()) != version {
			continue
		}
		if of%every == 0 {
			if len(keys) == rowsOfTable { // keep every second of them, from all over the table
				every *= 2
				for i := range rowsOfTable / 2 {
					keys[i] = keys[2*i]
				}
				keys = keys[:rowsOfTable/2]
			}
			if of%every == 0 {
				keys = append(keys, bytes.Clone(it.Key()))
			}
		}
		of++
	}
	return keys, n == t.KeyCount()
}

func openTable(o badger.Options, path string, c options.CompressionType) (*table.Table, error) {
	f, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return table.OpenTable(f, table.Options{ReadOnly: true, BlockSize: o.BlockSize, BloomFalsePositive: o.BloomFalsePositive,
		ChkMode: options.OnBlockRead, Compression: c, ZSTDCompressionLevel: o.ZSTDCompressionLevel})
}

// filesOf lists the files of a kind in a folder, sorted.
func filesOf(dir, ext string) (paths []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ext {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, err
}

// elsewhere looks for rows in the tables that are named, and in the logs of what
// is in no table yet.
type elsewhere struct {
	o      badger.Options
	m      badger.Manifest
	opened bool
	named  []*table.Table
	logs   [][]byte
}

func (e *elsewhere) open() error {
	if e.opened {
		return nil
	}
	e.opened = true
	for id, n := range e.m.Tables {
		t, err := openTable(e.o, table.NewFilename(id, e.o.Dir), n.Compression)
		if err != nil {
			return fmt.Errorf("%w (the table %s: %w)", archive.ErrIndexDamaged, table.IDToFilename(id), err)
		}
		e.named = append(e.named, t)
	}
	logs, err := filesOf(e.o.Dir, ".mem")
	if err != nil {
		return err
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		e.logs = append(e.logs, bytes.TrimRight(b, "\x00"))
	}
	return nil
}

func (e *elsewhere) close() {
	for _, t := range e.named {
		t.Close(-1)
	}
}

// has says whether a row, or one that has replaced it, is there.
func (e *elsewhere) has(row []byte) (bool, error) {
	if err := e.open(); err != nil {
		return false, err
	}
	if slices.ContainsFunc(e.logs, func(log []byte) bool { return bytes.Contains(log, row) }) {
		return true, nil
	}
	hash := y.Hash(y.ParseKey(row))
	for _, t := range e.named {
		if y.CompareKeys(row, t.Biggest()) > 0 || bytes.Compare(y.ParseKey(row), y.ParseKey(t.Smallest())) < 0 || t.DoesNotHave(hash) {
			continue
		}
		it := t.NewIterator(table.NOCACHE)
		it.Seek(y.KeyWithTs(y.ParseKey(row), 1<<64-1)) // the newest first
		found := it.Valid() && y.SameKey(it.Key(), row) && y.ParseTs(it.Key()) >= y.ParseTs(row)
		if err := it.Close(); err != nil {
			return false, err
		}
		if found {
			return true, nil
		}
	}
	return false, nil
}
