package cas

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

// Codec planes is for native pixels, which differ little from their
// neighbours and carry noise that no dictionary finds again. Each sample is
// replaced by its difference from an earlier one, small differences are
// folded to small numbers, low and high bytes go separate ways, groups of
// zeros are left out, and what remains is Huffman coded. doc.go has the
// format.

const (
	// planesHead is what comes before the streams: unit, lag, size.
	planesHead = 5
	// planesGroup is the plaintext bytes of a group.
	planesGroup = 32
	// planesChunk is the most bytes of a stream that share a Huffman table.
	planesChunk = 64 << 10
)

// A unit is how the bytes of a plaintext are read as samples.
type unit byte

const (
	unitByte unit = iota
	unitLE        // words of 16 bits, low byte first
	unitBE        // high byte first
)

// A filter predicts a sample from the one lag samples before it; with lag 0
// it predicts nothing.
type filter struct {
	unit unit
	lag  byte
}

// bytes is how far back the filter looks.
func (f filter) bytes() int {
	if f.unit == unitByte {
		return int(f.lag)
	}
	return 2 * int(f.lag)
}

// low is how many bytes a group of f has in the low stream, and in the high
// one when it is there.
func (f filter) low() int {
	if f.unit == unitByte {
		return planesGroup
	}
	return planesGroup / 2
}

// What a chunk of a stream is.
const (
	chunkRaw     = iota
	chunkRun     // one byte, repeated
	chunkHuffman // length, tree, four streams
)

// planes is a plaintext taken apart. Its slices are longer than what is in
// them, so that loops may write a group before they know whether it counts.
type planes struct {
	marks, low, high []byte // a mark is 0, 1 (low bytes only) or 2 (both)
	groups           int    // marks so far, one byte each
	nlow, nhigh      int    // bytes so far
}

// fit empties p and makes it large enough for n bytes of plaintext.
func (p *planes) fit(n int) {
	p.groups, p.nlow, p.nhigh = 0, 0, 0
	if n += 4 * planesGroup; n > len(p.low) {
		p.marks, p.low, p.high = make([]byte, n/planesGroup), make([]byte, n), make([]byte, n/2)
	}
}

// take adds the whole groups of buf[at:]. What lies before at is only looked
// back at; there must be enough of it.
func (p *planes) take(f filter, buf []byte, at int) {
	if f.unit == unitByte {
		p.takeBytes(buf, at, f.bytes())
	} else {
		p.takeWords(buf, at, f.bytes(), f.unit == unitBE)
	}
}

// takeAll takes a whole plaintext apart, as if zeros came before it.
func (p *planes) takeAll(f filter, plain []byte) {
	p.fit(len(plain))
	var begin [2 * (2*255 + planesGroup)]byte
	back := f.bytes()
	head := min((back+planesGroup-1)/planesGroup, len(plain)/planesGroup) * planesGroup
	copy(begin[back:], plain[:head])
	p.take(f, begin[:back+head], back)
	p.take(f, plain, head)
}

func (p *planes) takeWords(buf []byte, at, back int, swap bool) {
	le := binary.LittleEndian
	groups, nlow, nhigh := p.groups, p.nlow, p.nhigh
	for ; at+planesGroup <= len(buf); at += planesGroup {
		x, y := buf[at:at+planesGroup], buf[at-back:at-back+planesGroup]
		x0, x1, x2, x3 := le.Uint64(x), le.Uint64(x[8:]), le.Uint64(x[16:]), le.Uint64(x[24:])
		if back > 0 {
			y0, y1, y2, y3 := le.Uint64(y), le.Uint64(y[8:]), le.Uint64(y[16:]), le.Uint64(y[24:])
			if swap {
				x0, x1, x2, x3 = swap16(x0), swap16(x1), swap16(x2), swap16(x3)
				y0, y1, y2, y3 = swap16(y0), swap16(y1), swap16(y2), swap16(y3)
			}
			x0, x1, x2, x3 = sub16(x0, y0), sub16(x1, y1), sub16(x2, y2), sub16(x3, y3)
		} else if swap {
			x0, x1, x2, x3 = swap16(x0), swap16(x1), swap16(x2), swap16(x3)
		}
		x0, x1, x2, x3 = split16(fold16(x0)), split16(fold16(x1)), split16(fold16(x2)), split16(fold16(x3))
		low, high := p.low[nlow:nlow+16], p.high[nhigh:nhigh+16]
		le.PutUint64(low, x0&lowHalf|x1<<32)
		le.PutUint64(low[8:], x2&lowHalf|x3<<32)
		le.PutUint64(high, x0>>32|x1&^lowHalf)
		le.PutUint64(high[8:], x2>>32|x3&^lowHalf)
		any := x0 | x1 | x2 | x3
		l, h := nonzero(any), nonzero(any>>32)
		p.marks[groups] = byte(l + h)
		groups++
		nlow += l * 16
		nhigh += h * 16
	}
	p.groups, p.nlow, p.nhigh = groups, nlow, nhigh
}

func (p *planes) takeBytes(buf []byte, at, back int) {
	le := binary.LittleEndian
	groups, nlow := p.groups, p.nlow
	for ; at+planesGroup <= len(buf); at += planesGroup {
		x, y := buf[at:at+planesGroup], buf[at-back:at-back+planesGroup]
		x0, x1, x2, x3 := le.Uint64(x), le.Uint64(x[8:]), le.Uint64(x[16:]), le.Uint64(x[24:])
		if back > 0 {
			x0, x1, x2, x3 = sub8(x0, le.Uint64(y)), sub8(x1, le.Uint64(y[8:])), sub8(x2, le.Uint64(y[16:])), sub8(x3, le.Uint64(y[24:]))
		}
		low := p.low[nlow : nlow+planesGroup]
		le.PutUint64(low, x0)
		le.PutUint64(low[8:], x1)
		le.PutUint64(low[16:], x2)
		le.PutUint64(low[24:], x3)
		l := nonzero(x0 | x1 | x2 | x3)
		p.marks[groups] = byte(l)
		groups++
		nlow += l * planesGroup
	}
	p.groups, p.nlow = groups, nlow
}

// packedMarks puts four marks into a byte, in place.
func (p *planes) packedMarks() []byte {
	n := (p.groups + 3) / 4
	clear(p.marks[p.groups : 4*n])
	for i := range n {
		m := p.marks[4*i : 4*i+4]
		p.marks[i] = m[0] | m[1]<<2 | m[2]<<4 | m[3]<<6
	}
	return p.marks[:n]
}

// encode appends the payload of plain to dst.
func (p *planes) encode(h *huff0.Scratch, dst, plain []byte, f filter) []byte {
	p.takeAll(f, plain)
	n := len(plain)
	dst = append(dst, byte(f.unit), f.lag, byte(n>>16), byte(n>>8), byte(n))
	dst = appendStream(h, dst, p.packedMarks())
	dst = appendStream(h, dst, p.low[:p.nlow])
	dst = appendStream(h, dst, p.high[:p.nhigh])
	return append(dst, plain[n/planesGroup*planesGroup:]...)
}

func appendStream(h *huff0.Scratch, dst, stream []byte) []byte {
	for len(stream) > 0 {
		chunk := stream[:min(len(stream), planesChunk)]
		stream = stream[len(chunk):]
		h.Reuse = huff0.ReusePolicyNone // each chunk brings its own tree
		out, _, err := huff0.Compress4X(chunk, h)
		switch {
		case err == huff0.ErrUseRLE:
			dst = append(dst, chunkRun, chunk[0])
		case err != nil || len(out)+2 >= len(chunk):
			dst = append(dst, chunkRaw)
			dst = append(dst, chunk...)
		default:
			dst = append(dst, chunkHuffman, byte(len(out)>>8), byte(len(out)))
			dst = append(dst, out...)
		}
	}
	return dst
}

// decode returns the plaintext of a payload.
func (p *planes) decode(h *huff0.Scratch, payload []byte) ([]byte, error) {
	if len(payload) < planesHead {
		return nil, fmt.Errorf("%w: planes: %d bytes", ErrTruncated, len(payload))
	}
	f := filter{unit(payload[0]), payload[1]}
	n := int(payload[2])<<16 | int(payload[3])<<8 | int(payload[4])
	switch {
	case f.unit > unitBE:
		return nil, fmt.Errorf("%w: planes: unit %d", ErrMalformed, f.unit)
	case n > MaxPlain:
		return nil, fmt.Errorf("%w: claims %d bytes of plaintext, the limit is %d", ErrTooLarge, n, MaxPlain)
	}
	p.fit(n)
	groups := n / planesGroup
	marks := p.marks[:(groups+3)/4]
	in, err := readStream(h, marks, payload[planesHead:])
	if err != nil {
		return nil, fmt.Errorf("marks: %w", err)
	}
	lows, highs, ok := countMarks(marks, groups, f.unit == unitByte)
	if !ok {
		return nil, fmt.Errorf("%w: planes: no such mark", ErrMalformed)
	}
	if in, err = readStream(h, p.low[:lows*f.low()], in); err != nil {
		return nil, fmt.Errorf("low bytes: %w", err)
	}
	if in, err = readStream(h, p.high[:highs*f.low()], in); err != nil {
		return nil, fmt.Errorf("high bytes: %w", err)
	}
	if len(in) != n%planesGroup {
		return nil, fmt.Errorf("%w: planes: %d bytes at the end instead of %d", ErrMalformed, len(in), n%planesGroup)
	}
	plain := make([]byte, n)
	body := plain[:groups*planesGroup]
	copy(plain[len(body):], in)
	switch f.unit {
	case unitByte:
		p.joinBytes(body, marks)
		accumulate8(body, f.bytes())
	default:
		p.joinWords(body, marks, f.lag == 1)
		if f.lag > 1 {
			accumulate16(body, f.bytes())
		}
		if f.unit == unitBE {
			swapBytes(body)
		}
	}
	return plain, nil
}

// readStream fills dst and returns what follows the stream.
func readStream(h *huff0.Scratch, dst, in []byte) ([]byte, error) {
	for len(dst) > 0 {
		chunk := dst[:min(len(dst), planesChunk)]
		dst = dst[len(chunk):]
		if len(in) < 2 {
			return nil, fmt.Errorf("%w: planes: a chunk of %d bytes is missing", ErrTruncated, len(chunk))
		}
		kind := in[0]
		in = in[1:]
		switch kind {
		case chunkRaw:
			if len(in) < len(chunk) {
				return nil, fmt.Errorf("%w: planes: %d of %d bytes", ErrTruncated, len(in), len(chunk))
			}
			in = in[copy(chunk, in):]
		case chunkRun:
			for i := range chunk {
				chunk[i] = in[0]
			}
			in = in[1:]
		case chunkHuffman:
			if len(in) < 2 || len(in)-2 < int(in[0])<<8|int(in[1]) {
				return nil, fmt.Errorf("%w: planes: Huffman chunk", ErrTruncated)
			}
			coded := in[2 : 2+(int(in[0])<<8|int(in[1]))]
			in = in[2+len(coded):]
			h, data, err := huff0.ReadTable(coded, h)
			if err != nil {
				return nil, fmt.Errorf("%w: planes: Huffman tree: %v", ErrMalformed, err)
			}
			out, err := h.Decoder().Decompress4X(chunk[:0:len(chunk)], data)
			if err != nil || len(out) != len(chunk) {
				return nil, fmt.Errorf("%w: planes: Huffman chunk: %d of %d bytes: %v", ErrMalformed, len(out), len(chunk), err)
			}
		default:
			return nil, fmt.Errorf("%w: planes: chunk of kind %d", ErrMalformed, kind)
		}
	}
	return in, nil
}

// countMarks tells how many groups have low and high bytes. It says whether
// all marks, and the bits after the last one, are as they may be.
func countMarks(marks []byte, groups int, bytes bool) (lows, highs int, ok bool) {
	const odd = 0x55
	wrong := byte(0)
	for _, m := range marks {
		low, high := m&odd, m>>1&odd
		wrong |= low & high
		lows += bits.OnesCount8(low)
		highs += bits.OnesCount8(high)
	}
	if groups%4 != 0 && marks[len(marks)-1]>>(groups%4*2) != 0 || bytes && highs > 0 || wrong != 0 {
		return 0, 0, false
	}
	return lows + highs, highs, true
}

// joinWords puts the words of dst together. If run, each is the sum of all
// differences up to it, otherwise just a difference.
func (p *planes) joinWords(dst, marks []byte, run bool) {
	le := binary.LittleEndian
	nlow, nhigh := 0, 0
	last := uint64(0) // the word before, in either half
	for i := 0; len(dst) >= planesGroup; i++ {
		mark := int(marks[i/4] >> (i % 4 * 2) & 3)
		l, h := mark&1|mark>>1, mark>>1
		ml, mh := -uint64(l), -uint64(h)
		low, high := p.low[nlow:nlow+16], p.high[nhigh:nhigh+16]
		l0, l1 := le.Uint64(low)&ml, le.Uint64(low[8:])&ml
		h0, h1 := le.Uint64(high)&mh, le.Uint64(high[8:])&mh
		x0, x1 := unfold16(join16(l0&lowHalf|h0<<32)), unfold16(join16(l0>>32|h0&^lowHalf))
		x2, x3 := unfold16(join16(l1&lowHalf|h1<<32)), unfold16(join16(l1>>32|h1&^lowHalf))
		if run {
			x0, last = sum16(x0, last)
			x1, last = sum16(x1, last)
			x2, last = sum16(x2, last)
			x3, last = sum16(x3, last)
		}
		d := dst[:planesGroup]
		le.PutUint64(d, x0)
		le.PutUint64(d[8:], x1)
		le.PutUint64(d[16:], x2)
		le.PutUint64(d[24:], x3)
		nlow += l * 16
		nhigh += h * 16
		dst = dst[planesGroup:]
	}
}

func (p *planes) joinBytes(dst, marks []byte) {
	nlow := 0
	for i := 0; len(dst) >= planesGroup; i++ {
		if marks[i/4]>>(i%4*2)&1 != 0 {
			copy(dst[:planesGroup], p.low[nlow:nlow+planesGroup])
			nlow += planesGroup
		}
		dst = dst[planesGroup:]
	}
}

// accumulate16 adds to each word the one back bytes before it. The length of
// b is a multiple of planesGroup.
func accumulate16(b []byte, back int) {
	le := binary.LittleEndian
	for i := back; i < len(b); i += 2 {
		le.PutUint16(b[i:], le.Uint16(b[i:])+le.Uint16(b[i-back:]))
	}
}

// accumulate8 is accumulate16 for bytes.
func accumulate8(b []byte, back int) {
	le := binary.LittleEndian
	switch {
	case back == 0:
	case back == 1:
		last := uint64(0)
		for ; len(b) >= 8; b = b[8:] {
			x := le.Uint64(b)
			x = add8(x, x<<8)
			x = add8(x, x<<16)
			x = add8(x, x<<32)
			x = add8(x, last)
			last = x >> 56 * eachByte
			le.PutUint64(b, x)
		}
	case back == 3:
		var x, y, z byte
		for ; len(b) >= 3; b = b[3:] {
			x, y, z = x+b[0], y+b[1], z+b[2]
			b[0], b[1], b[2] = x, y, z
		}
		for i, v := range []byte{x, y}[:len(b)] {
			b[i] += v
		}
	default:
		for i := back; i < len(b); i++ {
			b[i] += b[i-back]
		}
	}
}

func swapBytes(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, swap16(binary.LittleEndian.Uint64(b)))
	}
}

// Four words, or eight bytes, at once in a uint64.
const (
	eachByte  = 0x0101_0101_0101_0101
	eachWord  = 0x0001_0001_0001_0001
	topOfByte = 0x8080_8080_8080_8080
	topOfWord = 0x8000_8000_8000_8000
	evenBytes = 0x00ff_00ff_00ff_00ff
	evenWords = 0x0000_ffff_0000_ffff
	lowHalf   = 0x0000_0000_ffff_ffff
)

func swap16(x uint64) uint64   { return x>>8&evenBytes | x&evenBytes<<8 }
func sub16(x, y uint64) uint64 { return (x | topOfWord - y&^topOfWord) ^ (x^^y)&topOfWord }
func add8(x, y uint64) uint64  { return (x&^topOfByte + y&^topOfByte) ^ (x^y)&topOfByte }
func sub8(x, y uint64) uint64  { return (x | topOfByte - y&^topOfByte) ^ (x^^y)&topOfByte }

// fold16 makes 0, -1, 1, -2, … 0, 1, 2, 3, …; unfold16 the reverse.
func fold16(x uint64) uint64   { return x<<1&^eachWord ^ x>>15&eachWord*0xffff }
func unfold16(x uint64) uint64 { return x>>1&^topOfWord ^ x&eachWord*0xffff }

// split16 moves the low bytes of words to the low half and the high bytes to
// the high half; join16 the reverse.
func split16(x uint64) uint64 { return swap(swap(x, 8, 0x0000_ff00_0000_ff00), 16, 0xffff_0000) }
func join16(x uint64) uint64  { return swap(swap(x, 16, 0xffff_0000), 8, 0x0000_ff00_0000_ff00) }

// swap exchanges the bits of mask with those n higher.
func swap(x uint64, n uint, mask uint64) uint64 {
	t := (x ^ x>>n) & mask
	return x ^ t ^ t<<n
}

// sum16 adds to each word all those below it and the one in last. It has
// words of 32 bits to do it in, so nothing is carried into a neighbour.
func sum16(x, last uint64) (sum, next uint64) {
	even, odd := x&evenWords, x>>16&evenWords
	even += (even+odd)<<32 + last
	odd += even
	return even&evenWords | odd<<16&^evenWords, odd >> 32 & 0xffff * 0x1_0000_0001
}

func nonzero(x uint64) int { return int((x | -x) >> 63) }
