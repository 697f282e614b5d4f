package cas

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// How the payload of a sealed block is made from its plaintext. A number is
// never given again, and what it means never changes.
const (
	codecStored = iota // it is the plaintext
	codecZstd
	codecPlanes

	codecs // the first number that is not known
)

const (
	// A plaintext under filterFrom is a header or a manifest.
	filterFrom = 4 << 10
	// What decides on a filter: some pieces of a plaintext, twice as long
	// where it has zstdSampled bytes.
	filterPieces, filterPiece = 8, 512
	// What decides on zstd, which must see more to find anything: pieces
	// of a plaintext of zstdSampled bytes, and all of a smaller one.
	zstdPieces, zstdPiece = 4, 8 << 10
	zstdSampled           = 128 << 10
)

// filters are what is tried, for native pixels of 16 bits in either byte
// order, of 8 bits, and of three colours of 8 bits.
var filters = [...]filter{{unitLE, 1}, {unitBE, 1}, {unitByte, 1}, {unitByte, 3}}

// packer is scratch memory for pack, unpacker for unpack, without state
// between calls.
type packer struct {
	planes planes
	huff   huff0.Scratch
	out    []byte // of planes
	zout   []byte // of zstd
	whole  bool   // zout is of the whole plaintext, not of the sample
	sample []byte
}

type unpacker struct {
	planes  planes
	huff    huff0.Scratch
	payload []byte
}

var (
	packers   = sync.Pool{New: func() any { return new(packer) }}
	unpackers = sync.Pool{New: func() any { return new(unpacker) }}
)

// pack chooses a codec for plain and makes the payload: plain itself, or
// bytes of p that are good until p is next used. It depends on plain alone,
// and computes with integers only, so that every machine does the same.
func (p *packer) pack(plain []byte) (codec byte, payload []byte) {
	f, planes, zstd := p.choose(plain)
	// Less than an eighth is not worth the time it costs each reader.
	codec, payload = codecStored, plain
	least := len(plain) - len(plain)/8
	if planes {
		p.out = p.planes.encode(&p.huff, p.out[:0], plain, f)
		if len(p.out) < least {
			codec, payload = codecPlanes, p.out
			least = len(p.out) - len(p.out)/16 // planes are quicker, both ways
		}
	}
	if zstd {
		if !p.whole {
			p.zout = compressor().EncodeAll(plain, p.zout[:0])
		}
		if len(p.zout) < least {
			codec, payload = codecZstd, p.zout
		}
	}
	return codec, payload
}

// choose says, from a little of plain, what to try with all of it.
func (p *packer) choose(plain []byte) (f filter, planes, zstd bool) {
	p.whole = false
	if len(plain) < filterFrom {
		return f, false, true
	}
	none := p.estimate(plain, filter{})
	best, seen := none, p.planes.groups*planesGroup
	for _, g := range filters {
		if n := p.estimate(plain, g); n < best {
			best, f = n, g
		}
	}
	// Where differences are clearly less than the bytes themselves it is an
	// image. Drawings and masks repeat themselves, which planes do not see.
	image := best < none-none/8
	sampled := zstdPieces * zstdPiece
	switch {
	case image && best < seen/6: // quick either way
		return f, true, true
	case image && f.unit != unitByte:
		return f, true, false
	case !image && len(plain) < zstdSampled, len(plain) <= sampled:
		p.whole, sampled = true, len(plain)
		p.zout = compressor().EncodeAll(plain, p.zout[:0])
	default:
		p.sample = p.sample[:0]
		for i := range zstdPieces {
			at := (len(plain) - zstdPiece) / (zstdPieces - 1) * i
			p.sample = append(p.sample, plain[at:at+zstdPiece]...)
		}
		p.zout = compressor().EncodeAll(p.sample, p.zout[:0])
	}
	z := len(p.zout) * seen / sampled
	if min(z, best) > seen-seen/16 {
		return f, false, false
	}
	zstd = z < best-best/16
	return f, !zstd, zstd
}

// estimate is about how many bytes the pieces of plain that are looked at
// become by f.
func (p *packer) estimate(plain []byte, f filter) int {
	piece := filterPiece
	if len(plain) >= zstdSampled {
		piece *= 2
	}
	p.planes.fit(filterPieces * piece)
	each := (len(plain) - piece - planesGroup) / (filterPieces - 1) / planesGroup * planesGroup
	for i := range filterPieces {
		at := planesGroup + i*each // a group before it to look back at
		p.planes.take(f, plain[:at+piece], at)
	}
	return p.planes.groups/4 + huffman(p.planes.low[:p.planes.nlow]) + huffman(p.planes.high[:p.planes.nhigh])
}

// huffman is about how many bytes b has when Huffman coded.
func huffman(b []byte) int {
	var counts [256]uint32
	for _, v := range b {
		counts[v]++
	}
	n := len(b)
	sum := n * log2(uint32(n))
	for _, c := range counts {
		if int(c) == n {
			return 0
		}
		sum -= int(c) * log2(c)
	}
	return max(sum/256, n) / 8
}

// log2 is 256 times the logarithm, nearly. That of 0 is 0.
func log2(n uint32) int {
	if n == 0 {
		return 0
	}
	k := bits.Len32(n) - 1
	return k<<8 + int(n<<8>>k)&255
}

// unpack returns the plaintext in memory of its own. It trusts nothing that
// a sealer says about sizes: what it allocates is bounded by MaxPlain.
func (u *unpacker) unpack(codec byte, payload []byte) ([]byte, error) {
	switch codec {
	case codecZstd:
		return unzstd(payload)
	case codecPlanes:
		return u.planes.decode(&u.huff, payload)
	}
	return nil, fmt.Errorf("%w: codec %d", ErrVersion, codec)
}

func unzstd(payload []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(payload); err != nil || !h.HasFCS {
		return nil, fmt.Errorf("%w: no zstd frame that tells its size", ErrMalformed)
	}
	if h.FrameContentSize > MaxPlain {
		return nil, fmt.Errorf("%w: claims %d bytes of plaintext, the limit is %d", ErrTooLarge, h.FrameContentSize, MaxPlain)
	}
	plain, err := decompressor().DecodeAll(payload, make([]byte, 0, h.FrameContentSize))
	if err != nil || uint64(len(plain)) != h.FrameContentSize {
		return nil, fmt.Errorf("%w: zstd: %d of %d bytes: %v", ErrMalformed, len(plain), h.FrameContentSize, err)
	}
	return plain, nil
}

// Both coders are pools of scratch memory, without state between calls.
var (
	compressor = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(2),
			zstd.WithWindowSize(MaxBlock),
			zstd.WithSingleSegment(true), // so the frame tells its size
			zstd.WithEncoderCRC(false),   // the seal's tag is stronger
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic("cas: " + err.Error())
		}
		return e
	})
	decompressor = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(2),
			zstd.WithDecoderMaxMemory(MaxBlock),
			zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderLowmem(true))
		if err != nil {
			panic("cas: " + err.Error())
		}
		return d
	})
)
