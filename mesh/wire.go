package mesh

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// The messages of a study stream: a CBOR array each, whose first element is
// its type. doc.go says what they mean.
const (
	typeRequest = 1 // [1, study, origin, purpose, priority, depth, series, instance]
	typeGranted = 2 // [2, grant, signature]
	typeRefused = 3 // [3]
	typeWant    = 4 // [4, priority, [address, …]]
	typeBlock   = 5 // [5, address, bytes]
	typeMissing = 6 // [6, address]
	typeExpired = 7 // [7]
	typePushed  = 8 // [8]
)

const (
	maxRequest = 512               // bytes of a Request
	maxAnswer  = 2 << 10           // bytes of what answers it
	maxWant    = 64                // addresses in one Want
	maxWantLen = 8 << 10           // bytes of a Want
	maxBlock   = cas.MaxBlock + 64 // bytes of a Block
)

type requestWire struct {
	_        struct{} `cbor:",toarray"`
	Type     uint8
	Study    string
	Origin   []byte
	Purpose  string
	Priority uint8
	Depth    uint8
	Series   string
	Instance string
}

type grantedWire struct {
	_     struct{} `cbor:",toarray"`
	Type  uint8
	Grant []byte
	Sig   []byte
}

type bareWire struct {
	_    struct{} `cbor:",toarray"`
	Type uint8
}

type wantWire struct {
	_        struct{} `cbor:",toarray"`
	Type     uint8
	Priority uint8
	CIDs     [][]byte
}

type missingWire struct {
	_    struct{} `cbor:",toarray"`
	Type uint8
	CID  []byte
}

func encodeRequest(r StudyRequest) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return encode.Marshal(requestWire{Type: typeRequest, Study: r.Study, Origin: r.Origin[:], Purpose: r.Purpose, Priority: r.Priority,
		Depth: uint8(r.Push.Depth), Series: r.Push.Series, Instance: r.Push.Instance})
}

func decodeRequest(b []byte) (StudyRequest, error) {
	var w requestWire
	if err := decode.Unmarshal(b, &w); err != nil {
		return StudyRequest{}, fmt.Errorf("%w: a request: %w", ErrBadMessage, err)
	}
	if w.Type != typeRequest || len(w.Origin) != len(index.NodeID{}) {
		return StudyRequest{}, fmt.Errorf("%w: a stream begins with no request", ErrBadMessage)
	}
	r := StudyRequest{Study: w.Study, Origin: index.NodeID(w.Origin), Purpose: w.Purpose, Priority: w.Priority,
		Push: Push{Depth: Depth(w.Depth), Series: w.Series, Instance: w.Instance}}
	return r, r.check()
}

func (r StudyRequest) check() error {
	if r.Study == "" || len(r.Study) > maxStudyName || len(r.Purpose) > maxPurpose {
		return fmt.Errorf("%w: a request names no study, or a name or purpose of more than %d bytes", ErrBadMessage, maxStudyName)
	}
	if p := r.Push; p.Depth > PushHeaders || len(p.Series) > maxStudyName || len(p.Instance) > maxStudyName ||
		p.Series == "" && p.Instance != "" || p.Depth == PushNothing && p != (Push{}) {
		return fmt.Errorf("%w: a request for a push that there is not", ErrBadMessage)
	}
	return nil
}

func encodeWant(priority uint8, cids []cid.Cid) ([]byte, error) {
	w := wantWire{Type: typeWant, Priority: priority, CIDs: make([][]byte, len(cids))}
	for i, c := range cids {
		w.CIDs[i] = c.Bytes()
	}
	return encode.Marshal(w)
}

func decodeWant(b []byte) (priority uint8, cids []cid.Cid, err error) {
	var w wantWire
	if err := decode.Unmarshal(b, &w); err != nil {
		return 0, nil, fmt.Errorf("%w: a want: %w", ErrBadMessage, err)
	}
	if w.Type != typeWant || len(w.CIDs) == 0 || len(w.CIDs) > maxWant {
		return 0, nil, fmt.Errorf("%w: a want of %d blocks", ErrBadMessage, len(w.CIDs))
	}
	cids = make([]cid.Cid, len(w.CIDs))
	for i, b := range w.CIDs {
		if cids[i], err = cas.ParseCID(b); err != nil {
			return 0, nil, fmt.Errorf("%w: a want: %w", ErrBadMessage, err)
		}
	}
	return w.Priority, cids, nil
}

// blockHeader is a Block up to its bytes, which are sent as they are.
func blockHeader(c cid.Cid, size int) []byte {
	address := c.Bytes()
	b := append([]byte{0x83, typeBlock, 0x58, byte(len(address))}, address...)
	switch {
	case size < 24:
		return append(b, 0x40|byte(size))
	case size < 1<<8:
		return append(b, 0x58, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 0x59), uint16(size))
	default:
		return binary.BigEndian.AppendUint32(append(b, 0x5a), uint32(size))
	}
}

// answer is what a holder sends after a grant.
type answer struct {
	kind uint8 // typeBlock, typeMissing, typeExpired or typePushed
	cid  cid.Cid
	data []byte
}

func decodeAnswer(b []byte) (answer, error) {
	bad := func(err error) (answer, error) {
		return answer{}, fmt.Errorf("%w: an answer: %w", ErrBadMessage, err)
	}
	if len(b) < 2 {
		return bad(fmt.Errorf("of %d bytes", len(b)))
	}
	a := answer{kind: b[1]}
	var address []byte
	switch a.kind {
	case typeBlock:
		return decodeBlock(b)
	case typeMissing:
		var w missingWire
		if err := decode.Unmarshal(b, &w); err != nil {
			return bad(err)
		}
		address = w.CID
	case typeExpired, typePushed:
		var w bareWire
		if err := decode.Unmarshal(b, &w); err != nil {
			return bad(err)
		}
		return a, nil
	default:
		return bad(fmt.Errorf("of type %d", a.kind))
	}
	var err error
	if a.cid, err = cas.ParseCID(address); err != nil {
		return bad(err)
	}
	return a, nil
}

// decodeBlock takes a Block apart without copying its bytes. Only the one
// encoding that blockHeader writes is taken.
func decodeBlock(b []byte) (answer, error) {
	const address = 4 // where it begins
	if len(b) > address {
		if end := address + int(b[3]); end <= len(b) {
			if c, err := cas.ParseCID(b[address:end]); err == nil {
				for _, head := range []int{1, 2, 3, 5} {
					size := len(b) - end - head
					if size >= 0 && bytes.HasPrefix(b, blockHeader(c, size)) && len(blockHeader(c, size)) == end+head {
						return answer{kind: typeBlock, cid: c, data: b[end+head:]}, nil
					}
				}
			}
		}
	}
	return answer{}, fmt.Errorf("%w: a block message of %d bytes", ErrBadMessage, len(b))
}
