package cas

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ipfs/go-cid"
)

// MaxObject is the most bytes an object (a manifest) may have.
const MaxObject = 64 << 20

const (
	listVersion = 1
	maxChunks   = (MaxObject + MaxPlain - 1) / MaxPlain
)

// ErrSelfReference says an object or a manifest names itself.
var ErrSelfReference = errors.New("names itself")

// Ref names an object of any size up to MaxObject: one sealed block or, when
// Size is over MaxPlain, the sealed list of its chunks.
type Ref struct {
	CID  cid.Cid
	Size int64 // plaintext bytes of the object
}

func (r Ref) chunked() bool { return r.Size > MaxPlain }

func (r Ref) check() error {
	if r.Size < 0 || r.Size > MaxObject {
		return fmt.Errorf("%w: object of %d bytes, the limit is %d", ErrTooLarge, r.Size, MaxObject)
	}
	_, err := digestOf(r.CID)
	return err
}

// MarshalCBOR writes the Ref as DAG-CBOR: [link, size].
func (r Ref) MarshalCBOR() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return appendRef(nil, r), nil
}

// UnmarshalCBOR reads what MarshalCBOR wrote.
func (r *Ref) UnmarshalCBOR(b []byte) error {
	d := &decoder{b: b}
	got := d.ref("reference")
	if err := d.end(); err != nil {
		return err
	}
	*r = got
	return nil
}

func appendRef(b []byte, r Ref) []byte {
	b = appendHead(b, majArray, 2)
	return appendInt(appendLink(b, r.CID), r.Size)
}

func (d *decoder) ref(what string) Ref {
	d.tuple(what, 2)
	return Ref{CID: d.link(what), Size: int64(d.uint(what+" size", MaxObject))}
}

// PutObject seals data and stores it durably.
func PutObject(ctx context.Context, s Putter, k Key, data []byte) (Ref, error) {
	r, blocks, err := SealObject(k, data)
	if err != nil {
		return Ref{}, err
	}
	if err := s.Put(ctx, blocks...); err != nil {
		return Ref{}, err
	}
	return r, nil
}

// SealObject seals data. Once the blocks are stored, the Ref names it.
func SealObject(k Key, data []byte) (Ref, []Block, error) {
	r := Ref{Size: int64(len(data))}
	if r.Size > MaxObject {
		return Ref{}, nil, fmt.Errorf("%w: object of %d bytes, the limit is %d", ErrTooLarge, r.Size, MaxObject)
	}
	seal := newSealer(k)
	if !r.chunked() {
		b, err := seal.seal(domObject, data)
		if err != nil {
			return Ref{}, nil, err
		}
		r.CID = b.CID
		return r, []Block{b}, nil
	}
	var blocks []Block
	var chunks []cid.Cid
	for rest := data; len(rest) > 0; {
		n := min(len(rest), MaxPlain)
		b, err := seal.seal(domChunk, rest[:n])
		if err != nil {
			return Ref{}, nil, err
		}
		blocks, chunks, rest = append(blocks, b), append(chunks, b.CID), rest[n:]
	}
	list, err := seal.seal(domList, encodeList(r.Size, chunks))
	if err != nil {
		return Ref{}, nil, err
	}
	r.CID = list.CID
	return r, append(blocks, list), nil
}

// GetObject reads an object back. What it returns is exactly what was put
// under this Ref, or an error.
func GetObject(ctx context.Context, g Getter, k Key, r Ref) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	open := newSealer(k)
	if !r.chunked() {
		data, err := open.get(ctx, g, domObject, r.CID)
		if err != nil {
			return nil, err
		}
		if int64(len(data)) != r.Size {
			return nil, fmt.Errorf("%w: object %s has %d bytes, not %d", ErrLengths, r.CID, len(data), r.Size)
		}
		return data, nil
	}
	chunks, err := r.chunks(ctx, g, open)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, r.Size)
	for i, c := range chunks {
		p, err := open.get(ctx, g, domChunk, c)
		if err != nil {
			return nil, err
		}
		if want := min(int64(MaxPlain), r.Size-int64(len(data))); int64(len(p)) != want {
			return nil, fmt.Errorf("%w: chunk %d of object %s has %d bytes, not %d", ErrLengths, i, r.CID, len(p), want)
		}
		data = append(data, p...)
	}
	return data, nil
}

// Blocks lists every block of the object, the one named by the Ref first: what
// has to be here for GetObject, what a grant covers, what keeps it alive.
func (r Ref) Blocks(ctx context.Context, g Getter, k Key) ([]cid.Cid, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if !r.chunked() {
		return []cid.Cid{r.CID}, nil
	}
	chunks, err := r.chunks(ctx, g, newSealer(k))
	if err != nil {
		return nil, err
	}
	return append([]cid.Cid{r.CID}, chunks...), nil
}

func (r Ref) chunks(ctx context.Context, g Getter, open *sealer) ([]cid.Cid, error) {
	b, err := open.get(ctx, g, domList, r.CID)
	if err != nil {
		return nil, err
	}
	size, chunks, err := decodeList(b)
	if err != nil {
		return nil, fmt.Errorf("chunk list %s: %w", r.CID, err)
	}
	if size != r.Size {
		return nil, fmt.Errorf("%w: chunk list %s is of %d bytes, not %d", ErrLengths, r.CID, size, r.Size)
	}
	for _, c := range chunks {
		if c == r.CID {
			return nil, fmt.Errorf("%w: chunk list %s", ErrSelfReference, r.CID)
		}
	}
	return chunks, nil
}

func encodeList(size int64, chunks []cid.Cid) []byte {
	b := appendHead(nil, majMap, 3)
	b = appendInt(appendText(b, "v"), listVersion)
	b = appendInt(appendText(b, "size"), size)
	b = appendHead(appendText(b, "chunks"), majArray, uint64(len(chunks)))
	for _, c := range chunks {
		b = appendLink(b, c)
	}
	return b
}

func decodeList(b []byte) (size int64, chunks []cid.Cid, err error) {
	d := &decoder{b: b}
	d.open("chunk list", listVersion, 3)
	d.key("size")
	size = int64(d.uint("size", MaxObject))
	d.key("chunks")
	n := d.array("chunks", maxChunks, linkSize)
	chunks = make([]cid.Cid, 0, n)
	for range n {
		chunks = append(chunks, d.link("chunk"))
	}
	if err := d.end(); err != nil {
		return 0, nil, err
	}
	if want := (size + MaxPlain - 1) / MaxPlain; int64(n) != want {
		return 0, nil, fmt.Errorf("%w: %d chunks for %d bytes, %d are right", ErrLengths, n, size, want)
	}
	return size, chunks, nil
}

// open reads the beginning every map here has: its head and the version. The
// version is judged before the shape, which a later version may change.
func (d *decoder) open(what string, version, fields uint64) {
	n := d.fields(what)
	d.key("v")
	if v := d.uint("version", math.MaxUint64); d.err == nil && v != version {
		d.fail(ErrVersion, "%s of version %d, known is %d; update this node", what, v, version)
	}
	if d.err == nil && n != fields {
		d.fail(ErrMalformed, "%s has %d fields, not %d", what, n, fields)
	}
}
