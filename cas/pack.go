package cas

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

// The format of a pack; see doc.go.
const (
	packHeader   = 32
	recordHeader = 64
	packVersion  = 1
	packSuffix   = ".pack"
)

var (
	packMagic   = []byte("PMPACK\r\n")
	recordMagic = []byte{0x89, 'P', 'M', 'R'}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// blockID names a block on a shelf.
type blockID struct {
	shelf  ShelfID
	digest [sha256.Size]byte
}

// place is where the record of a block begins, and the length of its data.
type place struct {
	pack   uint64
	offset uint32
	length uint32
}

// extent is the bytes of the whole record.
func (p place) extent() int64 { return recordHeader + int64(p.length) }

func (p place) end() int64 { return int64(p.offset) + p.extent() }

// before says whether p was written before o.
func (p place) before(o place) bool {
	return p.pack < o.pack || p.pack == o.pack && p.offset < o.offset
}

func packName(n uint64) string { return fmt.Sprintf("%016x%s", n, packSuffix) }

func parsePackName(name string) (n uint64, ok bool) {
	hex, ok := strings.CutSuffix(name, packSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, err == nil && packName(n) == name
}

func appendPackHeader(b []byte, number uint64) []byte {
	at := len(b)
	b = append(b, packMagic...)
	b = binary.BigEndian.AppendUint32(b, packVersion)
	b = binary.BigEndian.AppendUint64(b, number)
	b = append(b, make([]byte, 8)...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// checkPackHeader refuses what a later version wrote. A header that is damaged
// is none: records are found without it.
func checkPackHeader(b []byte) error {
	if len(b) < packHeader || !bytes.HasPrefix(b, packMagic) ||
		binary.BigEndian.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return nil
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != packVersion {
		return fmt.Errorf("%w: pack of version %d, known is %d; update this node", ErrVersion, v, packVersion)
	}
	return nil
}

func appendRecordHeader(b []byte, id blockID, length int, dataCRC uint32) []byte {
	at := len(b)
	b = append(b, recordMagic...)
	b = append(b, id.shelf[:]...)
	b = append(b, id.digest[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	b = binary.BigEndian.AppendUint32(b, dataCRC)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// header is a record's header that checks.
type header struct {
	id     blockID
	length int
	crc    uint32
}

func parseRecordHeader(b []byte) (h header, ok bool) {
	if len(b) < recordHeader || !bytes.HasPrefix(b, recordMagic) ||
		binary.BigEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return h, false
	}
	copy(h.id.shelf[:], b[4:])
	copy(h.id.digest[:], b[20:])
	length := binary.BigEndian.Uint32(b[52:])
	h.length, h.crc = int(length), binary.BigEndian.Uint32(b[56:])
	return h, 1 <= length && length <= MaxBlock
}

// checkRecord returns the data of the record in b if b is, whole and
// undamaged, the record of this block.
func checkRecord(b []byte, id blockID) (data []byte, crc uint32, why string) {
	h, ok := parseRecordHeader(b)
	switch {
	case !ok:
		return nil, 0, "the head of its record is damaged"
	case h.id != id || recordHeader+h.length != len(b):
		return nil, 0, "another record is in its place"
	case crc32.Checksum(b[recordHeader:], castagnoli) != h.crc:
		return nil, 0, "its bytes have changed on the disk"
	}
	return b[recordHeader:len(b):len(b)], h.crc, ""
}

// scanResult is what a scan could not read.
type scanResult struct {
	damaged    int64 // bytes that belong to no whole record
	unreadable int   // places that could not be read
}

const (
	// scanTries is how often what does not read or check is read in all: it
	// may be the reading that failed.
	scanTries = 3
	// sector is what a failed read loses.
	sector = 4096
)

// scanPack calls fn with each record between from and size, in order; offset
// is where its header begins. With data, only records whose data checks are
// passed, and data is valid during the call; without, what the data of a
// record is like is looked at only behind damage.
//
// Damage does not end a scan. Where no header is in its place the next one is
// searched for. What is found so may be bytes inside a block that somebody
// shaped like a record, so from there on a record counts only if its data has
// the digest that it claims.
func scanPack(f io.ReaderAt, from, size int64, data bool, fn func(offset int64, h header, data []byte) error) (res scanResult, err error) {
	r := scanReader{f: f, size: size, ahead: 16 << 10}
	if data {
		r.ahead = 512 << 10
	}
	searching := false
	for at := from; at+recordHeader <= size; {
		h, ok := header{}, false
		for try := 0; try < scanTries && !ok; try++ {
			if try > 0 {
				r.forget()
			}
			b := r.bytes(at, recordHeader)
			if h, ok = parseRecordHeader(b); b == nil && try == scanTries-1 {
				res.unreadable++
			}
		}
		end := at + recordHeader + int64(h.length)
		if !ok || end > size {
			searching = true
			next := r.search(at+1, &res)
			res.damaged += next - at
			at = next
			continue
		}
		var bytes []byte
		if data || searching {
			for try := 0; try < scanTries && bytes == nil; try++ {
				if try > 0 {
					r.forget()
				}
				b := r.bytes(at, recordHeader+h.length)
				if b == nil {
					if try == scanTries-1 {
						res.unreadable++
					}
					continue
				}
				if d, _, why := checkRecord(b, h.id); why == "" && (!searching || sha256.Sum256(d) == h.id.digest) {
					bytes = d
				}
			}
			if bytes == nil {
				next := end
				if searching {
					next = r.search(at+1, &res)
				}
				res.damaged += next - at
				at = next
				continue
			}
		}
		if err := fn(at, h, bytes); err != nil {
			return res, err
		}
		at = end
	}
	return res, nil
}

// scanReader reads a pack forward through one buffer.
type scanReader struct {
	f     io.ReaderAt
	size  int64
	ahead int
	buf   []byte // what is read, beginning at at
	at    int64
}

// bytes returns n bytes at off, or nil when they cannot be read or end before.
func (r *scanReader) bytes(off int64, n int) []byte {
	if off+int64(n) > r.size {
		return nil
	}
	if off < r.at || off+int64(n) > r.at+int64(len(r.buf)) {
		for want := min(int64(max(n, r.ahead)), r.size-off); ; want = int64(n) {
			if r.fill(off, int(want)) {
				break
			}
			if want == int64(n) {
				return nil
			}
		}
	}
	return r.buf[off-r.at:][:n]
}

func (r *scanReader) fill(off int64, n int) bool {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	r.buf, r.at = r.buf[:n], off
	got, err := r.f.ReadAt(r.buf, off)
	if got < n {
		r.buf = r.buf[:0]
		if err != nil && !errors.Is(err, io.EOF) {
			return false
		}
	}
	return got == n
}

func (r *scanReader) forget() { r.buf = r.buf[:0] }

// search returns where the next bytes are that begin like a record, or the
// end. What cannot be read is stepped over.
func (r *scanReader) search(from int64, res *scanResult) int64 {
	for at := from; at+recordHeader <= r.size; {
		n := min(int64(r.ahead), r.size-at)
		b := r.bytes(at, int(n))
		if b == nil {
			n = min(sector-at%sector, r.size-at)
			if b = r.bytes(at, int(n)); b == nil {
				res.unreadable++
				at += n
				continue
			}
		}
		if i := bytes.Index(b, recordMagic); i >= 0 {
			return at + int64(i)
		}
		at += max(n-int64(len(recordMagic))+1, 1)
	}
	return r.size
}
