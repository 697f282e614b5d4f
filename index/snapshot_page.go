package index

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"math/bits"
)

// Page is some of the facts of a snapshot as they are stored and sent: header bytes, and beside them the payloads that the header commits
// to, with the salts of the batches in which they were said. As in a batch, a payload may be dropped.
//
//	header = map: 0 version (1), 1 node (32 bytes), 2 epoch, 3 group, 4 which (8 bytes as a number), 5 commitments, 32 bytes each, joined
//	hash   = SHA-256(header)
//
// Group k is the positions 64k+1 to 64k+64; bit i of which says that the fact at 64k+1+i is in the page. The facts of a group that hold make one
// page, if there are any; where their payloads are over MaxPagePayload together, a page ends before the fact that would take it over, and
// the next one begins there. So whoever has the same facts cuts the same pages, and a page stays the same until one of its facts is replaced or
// taken back.
type Page struct {
	_        struct{} `cbor:",toarray"`
	Header   []byte
	Payloads []Payload
}

// Limits on a page.
const (
	MaxPagePayload = 192 << 10 // bytes of the payloads of a page
	maxPageHeader  = 4 << 10
	MaxPageBytes   = MaxPagePayload + maxPageHeader + PageSpan*(saltSize+8) + 16 // bytes of an encoded page
)

type pageHeader struct {
	Version uint64 `cbor:"0,keyasint"`
	Node    []byte `cbor:"1,keyasint"`
	Epoch   Epoch  `cbor:"2,keyasint"`
	Group   uint64 `cbor:"3,keyasint"`
	Which   uint64 `cbor:"4,keyasint"`
	Commit  []byte `cbor:"5,keyasint"`
}

func (h pageHeader) at(bit int) Seq { return Seq(h.Group)*PageSpan + 1 + Seq(bit) }

// VerifiedPage is a page whose hash, form and commitments have been checked. Only Page.Verify and cutting pages make one.
type VerifiedPage struct {
	ref    PageRef
	header pageHeader
	page   Page
}

// Ref is what a sheet says of the page.
func (v VerifiedPage) Ref() PageRef { return v.ref }

// Node is whose facts these are.
func (v VerifiedPage) Node() NodeID { return NodeID(v.header.Node) }

// Epoch is of which epoch they are.
func (v VerifiedPage) Epoch() Epoch { return v.header.Epoch }

// Page returns what was verified.
func (v VerifiedPage) Page() Page { return v.page }

// Len is the number of facts in the page, those without payload included.
func (v VerifiedPage) Len() int { return len(v.page.Payloads) }

// Holes is the number of facts without payload.
func (v VerifiedPage) Holes() (n int) {
	for _, p := range v.page.Payloads {
		if p.dropped() {
			n++
		}
	}
	return n
}

// Facts yields the facts of the page in the order of their positions.
func (v VerifiedPage) Facts() iter.Seq[PageFact] {
	return func(yield func(PageFact) bool) {
		which := v.header.Which
		for i, p := range v.page.Payloads {
			f := PageFact{Seq: v.header.at(bits.TrailingZeros64(which)), Payload: p, Commitment: [32]byte(v.header.Commit[32*i:])}
			if !yield(f) {
				return
			}
			which &= which - 1
		}
	}
}

// PageFact is one fact of a page. Commitment is what the log commits to: it stands for a payload that was dropped, and is not looked at
// beside one that is there.
type PageFact struct {
	Seq        Seq
	Payload    Payload
	Commitment [32]byte
}

func (p Page) size() int {
	n := len(p.Header) + 16
	for _, p := range p.Payloads {
		n += len(p.Salt) + len(p.Data) + 8
	}
	return n
}

// Verify checks a page that a sheet names by its hash. node is whose page it is said to be.
func (p Page) Verify(node NodeID, hash [32]byte) (VerifiedPage, error) {
	malformed := func(why string) (VerifiedPage, error) {
		return VerifiedPage{}, &MalformedError{What: "page", Why: why}
	}
	if n := p.size(); n > MaxPageBytes {
		return VerifiedPage{}, &LimitError{What: "bytes of a page", Got: n, Limit: MaxPageBytes}
	}
	if len(p.Header) > maxPageHeader {
		return VerifiedPage{}, &LimitError{What: "bytes of a page's header", Got: len(p.Header), Limit: maxPageHeader}
	}
	if sha256.Sum256(p.Header) != hash {
		return VerifiedPage{}, &ForgedError{What: "a page", Node: node}
	}
	var h pageHeader
	if err := decode(batchMode, "page", p.Header, &h); err != nil {
		return VerifiedPage{}, err
	}
	facts := bits.OnesCount64(h.Which)
	switch {
	case h.Version != snapshotVersion:
		return malformed("it is of another version than its snapshot")
	case len(h.Node) != 32 || NodeID(h.Node) != node:
		return malformed("it is of another node's log")
	case h.Epoch < 1 || h.Epoch > MaxEpoch:
		return malformed(fmt.Sprintf("epoch outside 1 to %d", MaxEpoch))
	case h.Group >= uint64(MaxSeq)/PageSpan:
		return malformed("position out of range")
	case facts == 0 || len(h.Commit) != 32*facts:
		return malformed("its commitments are not as many as its facts")
	case len(p.Payloads) != facts:
		return malformed(fmt.Sprintf("%d payloads for %d facts", len(p.Payloads), facts))
	}
	v := VerifiedPage{ref: PageRef{First: h.at(bits.TrailingZeros64(h.Which)), Hash: hash}, header: h, page: p}
	bytes := 0
	for f := range v.Facts() {
		p := f.Payload
		bytes += len(p.Data)
		switch {
		case p.dropped():
			if len(p.Data) != 0 {
				return malformed("a payload without its salt")
			}
		case len(p.Salt) != saltSize:
			return malformed(fmt.Sprintf("a salt is not %d bytes", saltSize))
		case len(p.Data) > MaxPayload:
			return VerifiedPage{}, &LimitError{What: "bytes of a payload", Got: len(p.Data), Limit: MaxPayload}
		case p.commitment() != f.Commitment:
			return VerifiedPage{}, &ForgedError{What: fmt.Sprintf("the payload of fact %d", f.Seq), Node: node}
		}
	}
	if bytes > MaxPagePayload {
		return VerifiedPage{}, &LimitError{What: "bytes of the payloads of a page", Got: bytes, Limit: MaxPagePayload}
	}
	return v, nil
}

// ReadPage decodes a page and checks it against what a sheet of the snapshot says.
func (s Snapshot) ReadPage(ref PageRef, raw []byte) (VerifiedPage, error) {
	p, err := decodePage(raw)
	if err != nil {
		return VerifiedPage{}, err
	}
	v, err := p.Verify(s.Head.Node, ref.Hash)
	if err != nil {
		return VerifiedPage{}, err
	}
	last := v.header.at(63 - bits.LeadingZeros64(v.header.Which))
	switch {
	case v.header.Epoch != s.Head.Epoch:
		return VerifiedPage{}, &MalformedError{What: "page", Why: "it is of another epoch than its snapshot"}
	case v.ref.First != ref.First:
		return VerifiedPage{}, &MalformedError{What: "page", Why: "it does not begin where its sheet says"}
	case last > s.Head.Seq:
		return VerifiedPage{}, &MalformedError{What: "page", Why: "it goes on after the end of its snapshot"}
	}
	return v, nil
}

func decodePage(raw []byte) (p Page, err error) {
	if len(raw) > MaxPageBytes {
		return p, &LimitError{What: "bytes of a page", Got: len(raw), Limit: MaxPageBytes}
	}
	return p, decode(batchMode, "page", raw, &p)
}

// CutPages cuts facts into pages, one group at a time: what it needs in memory is one page. The facts are those that hold of one epoch, in
// ascending order of their positions. A payload that is not there counts as none towards MaxPagePayload: who lacks one may cut a group of
// very long facts elsewhere than its author did, and then has to fetch it.
func CutPages(node NodeID, epoch Epoch, facts iter.Seq2[PageFact, error]) iter.Seq2[VerifiedPage, error] {
	return func(yield func(VerifiedPage, error) bool) {
		var (
			h     = pageHeader{Version: snapshotVersion, Node: node[:], Epoch: epoch}
			p     Page
			bytes int
			last  Seq
		)
		cut := func() bool {
			if h.Which == 0 {
				return true
			}
			p.Header = encode(h)
			v := VerifiedPage{header: h, page: p, ref: PageRef{First: h.at(bits.TrailingZeros64(h.Which)), Hash: sha256.Sum256(p.Header)}}
			h.Which, h.Commit, p, bytes = 0, nil, Page{}, 0
			return yield(v, nil)
		}
		for f, err := range facts {
			if err == nil && (f.Seq <= last || f.Seq > MaxSeq) {
				err = &MalformedError{What: "snapshot", Why: fmt.Sprintf("its facts are not in ascending order after position %d", last)}
			}
			if n := len(f.Payload.Data); err == nil && n > MaxPayload {
				err = &LimitError{What: "bytes of a payload", Got: n, Limit: MaxPayload}
			}
			if err == nil && !f.Payload.dropped() && len(f.Payload.Salt) != saltSize {
				err = &MalformedError{What: "page", Why: fmt.Sprintf("a salt is not %d bytes", saltSize)}
			}
			if err != nil {
				yield(VerifiedPage{}, err)
				return
			}
			last = f.Seq
			group := uint64(f.Seq-1) / PageSpan
			if (group != h.Group || bytes+len(f.Payload.Data) > MaxPagePayload) && !cut() {
				return
			}
			if !f.Payload.dropped() {
				f.Commitment = f.Payload.commitment()
			}
			h.Group = group
			h.Which |= 1 << (uint64(f.Seq-1) % PageSpan)
			h.Commit = append(h.Commit, f.Commitment[:]...)
			p.Payloads = append(p.Payloads, f.Payload)
			bytes += len(f.Payload.Data)
		}
		cut()
	}
}

// SnapshotOut takes the parts of a snapshot as they are made: the pages of a sheet, then the sheet; at the end the list of sheets. Whoever
// serves a snapshot keeps sheets and list; the pages may be cut again from the facts.
type SnapshotOut interface {
	Page(i uint64, v VerifiedPage) error
	Sheet(i int, raw []byte) error
	List(raw []byte) error
}

// BuildSnapshot makes the snapshot at a head of the facts that hold there (see Snapshot), in ascending order of their positions. What it needs
// in memory is a page, a sheet and the list of sheets: 400 KiB at most beside what out keeps. Whoever has the same facts gets the
// same snapshot.
func BuildSnapshot(head Head, facts iter.Seq2[PageFact, error], out SnapshotOut) (Snapshot, error) {
	s := Snapshot{Head: head}
	if err := head.verify(); err != nil {
		return s, err
	}
	var sheet, list []PageRef
	flush := func() error {
		if len(list) == MaxSheets {
			return &LimitError{What: "sheets of a snapshot (this log is too large for one)", Got: MaxSheets + 1, Limit: MaxSheets}
		}
		raw := encodeRefs(sheet)
		list = append(list, PageRef{First: sheet[0].First, Hash: sha256.Sum256(raw)})
		sheet = sheet[:0]
		return out.Sheet(len(list)-1, raw)
	}
	bounded := func(yield func(PageFact, error) bool) {
		for f, err := range facts {
			if err == nil && f.Seq > head.Seq {
				err = &MalformedError{What: "snapshot", Why: fmt.Sprintf("a fact at %d is after its head at %d", f.Seq, head.Seq)}
			}
			if !yield(f, err) {
				return
			}
		}
	}
	for v, err := range CutPages(head.Node, head.Epoch, bounded) {
		if err != nil {
			return s, err
		}
		if err := out.Page(s.Pages, v); err != nil {
			return s, err
		}
		s.Facts += uint64(v.Len())
		s.Pages++
		s.Bytes += uint64(v.page.size())
		if sheet = append(sheet, v.ref); len(sheet) == MaxSheet {
			if err := flush(); err != nil {
				return s, err
			}
		}
	}
	if len(sheet) > 0 {
		if err := flush(); err != nil {
			return s, err
		}
	}
	raw := encodeRefs(list)
	s.Root = sha256.Sum256(raw)
	return s, out.List(raw)
}
