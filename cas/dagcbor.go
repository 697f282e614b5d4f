package cas

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
)

// Manifests are DAG-CBOR (https://ipld.io/specs/codecs/dag-cbor/spec/) in the
// one form that has no choices: shortest heads, definite lengths, map keys by
// length and then bytes, links as tag 42, nothing else. The decoder accepts
// that form only and never allocates for a count it has not seen the bytes of.

var (
	// ErrMalformed says bytes are not in the form a manifest has.
	ErrMalformed = errors.New("malformed")
	// ErrTruncated says bytes end before they should.
	ErrTruncated = errors.New("ends early")
	// ErrTooMany says a count is over its limit.
	ErrTooMany = errors.New("over the count limit")
)

const (
	majUint  = 0
	majNeg   = 1
	majBytes = 2
	majText  = 3
	majArray = 4
	majMap   = 5
	majTag   = 6

	cborNull = 0xf6
	linkTag  = 42
	linkSize = 2 + 2 + 1 + cidLen // tag, byte string head, identity prefix, CID
)

func appendHead(b []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(b, m|byte(n))
	case n <= math.MaxUint8:
		return append(b, m|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, m|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, m|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, m|27), n)
	}
}

func appendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendHead(b, majNeg, uint64(-1-n))
	}
	return appendHead(b, majUint, uint64(n))
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majText, uint64(len(s))), s...)
}

func appendBytes(b, p []byte) []byte { return append(appendHead(b, majBytes, uint64(len(p))), p...) }

// appendLink writes a CID that has passed digestOf.
func appendLink(b []byte, c cid.Cid) []byte {
	b = appendHead(b, majTag, linkTag)
	b = appendHead(b, majBytes, 1+cidLen)
	return append(append(b, 0), c.KeyString()...)
}

// decoder reads strictly and keeps the first error; after it every read
// gives zero, so callers check once, at the end.
type decoder struct {
	b   []byte
	off int
	err error
}

func (d *decoder) fail(kind error, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w at byte %d: %s", kind, d.off, fmt.Sprintf(format, args...))
	}
}

func (d *decoder) left() int { return len(d.b) - d.off }

// head reads a head of the wanted major type and of the shortest form.
func (d *decoder) head(major byte, what string) uint64 {
	if d.err != nil {
		return 0
	}
	if d.left() < 1 {
		d.fail(ErrTruncated, "%s is missing", what)
		return 0
	}
	first := d.b[d.off]
	if first>>5 != major {
		d.fail(ErrMalformed, "%s is of another type", what)
		return 0
	}
	info := first & 31
	if info < 24 {
		d.off++
		return uint64(info)
	}
	if info > 27 {
		d.fail(ErrMalformed, "%s has an indefinite or reserved length", what)
		return 0
	}
	size := 1 << (info - 24)
	if d.left() < 1+size {
		d.fail(ErrTruncated, "%s is missing", what)
		return 0
	}
	var n uint64
	for _, x := range d.b[d.off+1 : d.off+1+size] {
		n = n<<8 | uint64(x)
	}
	if shortest := len(appendHead(nil, major, n)); shortest != 1+size {
		d.fail(ErrMalformed, "%s is not in its shortest form", what)
		return 0
	}
	d.off += 1 + size
	return n
}

// uint reads a number from 0 to limit.
func (d *decoder) uint(what string, limit uint64) uint64 {
	n := d.head(majUint, what)
	if n > limit {
		d.fail(ErrTooLarge, "%s is %d, the limit is %d", what, n, limit)
		return 0
	}
	return n
}

// length reads a count of bytes.
func (d *decoder) length(what string) int64 { return int64(d.uint(what, math.MaxInt64)) }

func (d *decoder) int(what string) int64 {
	if d.err == nil && d.left() > 0 && d.b[d.off]>>5 == majNeg {
		n := d.head(majNeg, what)
		if n > math.MaxInt64 {
			d.fail(ErrTooLarge, "%s is under the least number", what)
			return 0
		}
		return -1 - int64(n)
	}
	return d.length(what)
}

func (d *decoder) take(major byte, what string, limit int) []byte {
	n := d.head(major, what)
	if n > uint64(limit) {
		d.fail(ErrTooLarge, "%s has %d bytes, the limit is %d", what, n, limit)
	} else if n > uint64(d.left()) {
		d.fail(ErrTruncated, "%s has %d of its %d bytes", what, d.left(), n)
	}
	if d.err != nil {
		return nil
	}
	p := d.b[d.off : d.off+int(n)]
	d.off += int(n)
	return p
}

func (d *decoder) text(what string, limit int) string {
	p := d.take(majText, what, limit)
	if !utf8.Valid(p) {
		d.fail(ErrMalformed, "%s is not UTF-8", what)
		return ""
	}
	return string(p)
}

// bytes copies; empty and absent are both nil.
func (d *decoder) bytes(what string, limit int) []byte {
	p := d.take(majBytes, what, limit)
	if len(p) == 0 {
		return nil
	}
	return bytes.Clone(p)
}

func (d *decoder) link(what string) cid.Cid {
	if n := d.head(majTag, what); d.err == nil && n != linkTag {
		d.fail(ErrMalformed, "%s has tag %d, not %d", what, n, linkTag)
	}
	p := d.take(majBytes, what, 1+cidLen)
	if d.err != nil {
		return cid.Undef
	}
	if len(p) != 1+cidLen || p[0] != 0 {
		d.fail(ErrMalformed, "%s is no link", what)
		return cid.Undef
	}
	c, err := ParseCID(p[1:])
	if err != nil {
		d.fail(ErrMalformed, "%s: %v", what, err)
	}
	return c
}

// array reads the head of an array of at most limit elements, each of which
// takes at least least bytes. Whoever allocates for the count it returns
// allocates no more than a small multiple of the bytes that are there.
func (d *decoder) array(what string, limit, least int) int {
	n := d.head(majArray, what)
	if n > uint64(limit) {
		d.fail(ErrTooMany, "%d %s, the limit is %d", n, what, limit)
	} else if n > uint64(d.left()/least) {
		d.fail(ErrTruncated, "%d %s do not fit into the %d bytes left", n, what, d.left())
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

// tuple reads the head of an array of exactly n elements.
func (d *decoder) tuple(what string, n uint64) {
	if got := d.head(majArray, what); d.err == nil && got != n {
		d.fail(ErrMalformed, "%s has %d fields, not %d", what, got, n)
	}
}

// fields reads the head of a map.
func (d *decoder) fields(what string) uint64 { return d.head(majMap, what) }

// key reads a map key that can only be this one.
func (d *decoder) key(name string) {
	if d.err != nil {
		return
	}
	at := d.off
	if got := d.text("the key "+name, 32); d.err == nil && got != name {
		d.off = at
		d.fail(ErrMalformed, "the key %s is missing", name)
	}
}

// null consumes a null if that is what comes next.
func (d *decoder) null() bool {
	if d.err == nil && d.left() > 0 && d.b[d.off] == cborNull {
		d.off++
		return true
	}
	return false
}

// end says whether all was read, and read well.
func (d *decoder) end() error {
	if d.err == nil && d.left() > 0 {
		d.fail(ErrMalformed, "%d bytes follow the end", d.left())
	}
	return d.err
}
