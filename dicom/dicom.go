package dicom

import "io"

// MaxPiece is the most bytes a Piece holds. A piece is in memory before it is
// handed on, so that a small one stays in the processor's cache: with 1 MiB a
// scan took five times as long.
const MaxPiece = 64 << 10

// Limits bound what an instance may ask for. A zero field means its default.
type Limits struct {
	Head      int64 // bytes before the three UIDs are known; they are held in memory
	Header    int64 // bytes of attribute values kept in memory; beyond it longer ones become Bulk
	Value     int64 // a longer attribute value is not kept: Element.Bulk
	Depth     int   // sequences within sequences
	Elements  int   // attributes and items, at any depth
	Fragments int   // of encapsulated Pixel Data
	Frames    int
	Inflated  int64 // bytes a deflated body may grow to
	Ratio     int64 // inflated over deflated bytes, once more than 64 MiB came out

	// Budget is shared by scans that go on at once; nil: each for itself. Who
	// sets it owes Release to each Instance that Scan returns.
	Budget *Budget
}

// DefaultLimits suit what modalities make: whole slide images, enhanced
// multi-frame, structure sets of hundreds of megabytes.
func DefaultLimits() Limits {
	return Limits{
		Head:      16 << 20,
		Header:    64 << 20,
		Value:     1 << 20,
		Depth:     128,
		Elements:  2 << 20,
		Fragments: 1 << 20,
		Frames:    1 << 20,
		Inflated:  4 << 30,
		Ratio:     400,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	pick(&l.Head, d.Head)
	pick(&l.Header, d.Header)
	pick(&l.Value, d.Value)
	pick(&l.Depth, d.Depth)
	pick(&l.Elements, d.Elements)
	pick(&l.Fragments, d.Fragments)
	pick(&l.Frames, d.Frames)
	pick(&l.Inflated, d.Inflated)
	pick(&l.Ratio, d.Ratio)
	return l
}

func pick[T int | int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Range is a run of bytes.
type Range struct{ Off, Len int64 }

// End is the offset after the last byte.
func (r Range) End() int64 { return r.Off + r.Len }

// Section says which part of an instance a Piece belongs to.
type Section uint8

const (
	SectionHeader  Section = iota // preamble to the Pixel Data element's own header and offset table
	SectionFrame                  // a frame, with the item headers of its fragments
	SectionBulk                   // a value longer than Limits.Value
	SectionTrailer                // all that follows Pixel Data
	SectionOpaque                 // the compressed body of a deflated instance
)

func (s Section) String() string {
	switch s {
	case SectionHeader:
		return "header"
	case SectionFrame:
		return "frame"
	case SectionBulk:
		return "bulk"
	case SectionTrailer:
		return "trailer"
	case SectionOpaque:
		return "opaque"
	}
	return "section?"
}

// Piece is a run of consecutive bytes of the instance, all of one section and,
// in frames, of one frame.
//
// Frame is the frame as far as it can be told before the end: encapsulated
// frames without an offset table are only certain then, and Instance.Pixel
// decides. Every place where a frame may begin begins a piece. A byte that two
// 1-bit frames share belongs to the earlier one's piece; an attribute's padding
// and the delimiter after the last fragment to the last frame's.
type Piece struct {
	Section Section
	Frame   int    // from 0, of SectionFrame
	Data    []byte // at most MaxPiece
}

// UIDs place an instance.
type UIDs struct{ Study, Series, Instance, Class, TransferSyntax UID }

// Handler receives an instance while it is read.
type Handler struct {
	// Begin is called once, as soon as the Study, Series and SOP Instance UIDs
	// are known and before the first Piece. An error ends the scan.
	Begin func(UIDs) error
	// Piece receives the instance in order; put end to end the pieces are exactly
	// the bytes read. Data is valid only during the call. An error ends the scan.
	Piece func(Piece) error
}

// Instance is what Scan learned.
//
// Offsets count from the first byte of the instance. A deflated instance has no
// attribute at any offset of its own, so there HeaderLen, Bulk and all of Pixel
// count in the stream that Inflate makes of it; Size and Trailer still count in
// the instance as it is.
type Instance struct {
	UIDs
	Size        int64
	HeaderLen   int64   // bytes before the Pixel Data element; without one, before the Trailer
	Meta, Data  Dataset // group 0002, and all the rest but pixel data
	Pixel       *PixelData
	Trailer     Range // after Pixel Data, or after the last attribute when there is none
	HasPreamble bool
	HasMeta     bool
	Deflated    bool

	mem *account // what Release gives back
}

// PixelData says where the pixels lie: (7FE0,0010) or its Float and Double Float kin.
type PixelData struct {
	Tag            Tag
	VR             VR
	Encapsulated   bool
	Value          Range    // without the element's own header; encapsulated: offset table item to sequence delimiter
	Fragments      []Range  // contents of the items after the offset table
	Offsets        []uint64 // of the Extended Offset Table, else of the Basic one
	NumberOfFrames int      // as the attribute says, 1 when it says nothing
	// Frames has one entry a frame where frames can be told apart. Where they
	// cannot (video, a damaged table without codec marks) it has one entry with
	// everything.
	Frames []Frame
}

// Frame is one frame: the bytes of Parts put end to end.
type Frame struct {
	Parts []Range
	// BitOffset and Bits are set only for native 1-bit frames that do not begin
	// and end on byte boundaries: the frame is Bits bits from bit BitOffset of
	// the first byte, the least significant bit of a byte being the first.
	BitOffset, Bits int64
}

// Scan reads one instance from r to its end in one pass, never holding pixel
// data. With h.Piece == nil and r an io.Seeker it skips long values instead of
// reading them; r is then taken from its current position.
//
// Errors wrap or are ErrNotDICOM, ErrTruncated, ErrMediaDirectory,
// ErrMissingUID, ErrLimit, ErrMalformed, ErrBusy, or are r's or h's own.
func Scan(r io.Reader, lim Limits, h Handler) (*Instance, error) {
	return scan(r, lim.withDefaults(), h)
}

// Inflate gives the instance in r as Explicit VR Little Endian: a deflated one
// with its body inflated and its meta header saying so, any other unchanged.
// Reading fails with ErrLimit where the body grows beyond lim.
func Inflate(r io.Reader, lim Limits) io.Reader { return newInflater(r, lim.withDefaults()) }
