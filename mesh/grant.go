package mesh

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// Bounds on what a request or grant may say.
const (
	maxStudyName = 64 // a DICOM UID has no more
	maxPurpose   = 64
	maxManifest  = 256 // bytes of an encoded Ref
)

// grantContext keeps a grant's signature from being one of anything else.
const grantContext = "priormesh grant 1\x00"

// Grant is a holder's signed permission for one requester, purpose and study.
// It carries the study key and never shows it when printed.
type Grant struct {
	Study     string
	Origin    index.NodeID
	Holder    index.NodeID
	Requester index.NodeID
	Purpose   string
	Expires   time.Time // by the holder's clock; whole milliseconds
	Revision  uint64
	Settled   bool
	Manifest  cas.Ref
	Key       cas.Key
	Sig       []byte // by the holder's node key
}

// grantWire is a grant as it is signed and sent.
type grantWire struct {
	Study     string `cbor:"1,keyasint"`
	Origin    []byte `cbor:"2,keyasint"`
	Holder    []byte `cbor:"3,keyasint"`
	Requester []byte `cbor:"4,keyasint"`
	Purpose   string `cbor:"5,keyasint"`
	Expires   int64  `cbor:"6,keyasint"` // milliseconds since 1970
	Revision  uint64 `cbor:"7,keyasint"`
	Settled   bool   `cbor:"8,keyasint"`
	Manifest  []byte `cbor:"9,keyasint"` // a Ref's own encoding
	Key       []byte `cbor:"10,keyasint"`
}

var (
	encode = must(cbor.CoreDetEncOptions().EncMode())
	decode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
		MaxArrayElements:  maxWant + 16,
		MaxMapPairs:       16,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic("mesh: " + err.Error())
	}
	return v
}

// bytes is the deterministic CBOR that is signed.
func (g Grant) bytes() ([]byte, error) {
	ref, err := g.Manifest.MarshalCBOR()
	if err != nil {
		return nil, err
	}
	return encode.Marshal(grantWire{
		Study: g.Study, Origin: g.Origin[:], Holder: g.Holder[:], Requester: g.Requester[:], Purpose: g.Purpose,
		Expires: g.Expires.UnixMilli(), Revision: g.Revision, Settled: g.Settled, Manifest: ref, Key: g.Key[:],
	})
}

// sign signs the grant with the holder's node key and returns its bytes.
func (g *Grant) sign(key ed25519.PrivateKey) ([]byte, error) {
	b, err := g.bytes()
	if err != nil {
		return nil, err
	}
	g.Sig = ed25519.Sign(key, append([]byte(grantContext), b...))
	return b, nil
}

// Verify checks the signature against Holder. It says nothing about expiry,
// which only the holder judges.
func (g Grant) Verify() error {
	b, err := g.bytes()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadGrant, err)
	}
	if !ed25519.Verify(g.Holder[:], append([]byte(grantContext), b...), g.Sig) {
		return fmt.Errorf("%w: its signature is not that of node %s", ErrBadGrant, g.Holder)
	}
	return nil
}

// decodeGrant reads a grant's bytes and puts the signature to it. It checks
// form only.
func decodeGrant(b, sig []byte) (Grant, error) {
	var w grantWire
	if err := decode.Unmarshal(b, &w); err != nil {
		return Grant{}, fmt.Errorf("%w: a grant: %w", ErrBadMessage, err)
	}
	g := Grant{
		Study: w.Study, Purpose: w.Purpose, Expires: time.UnixMilli(w.Expires).UTC(),
		Revision: w.Revision, Settled: w.Settled, Sig: sig,
	}
	for _, f := range []struct{ to, from []byte }{
		{g.Origin[:], w.Origin}, {g.Holder[:], w.Holder}, {g.Requester[:], w.Requester}, {g.Key[:], w.Key},
	} {
		if len(f.from) != len(f.to) {
			return Grant{}, fmt.Errorf("%w: a grant has a field of %d bytes instead of %d", ErrBadMessage, len(f.from), len(f.to))
		}
		copy(f.to, f.from)
	}
	if len(w.Study) > maxStudyName || len(w.Purpose) > maxPurpose || len(w.Manifest) > maxManifest || len(sig) != ed25519.SignatureSize {
		return Grant{}, fmt.Errorf("%w: a grant has a field that is too long", ErrBadMessage)
	}
	if err := g.Manifest.UnmarshalCBOR(w.Manifest); err != nil {
		return Grant{}, fmt.Errorf("%w: a grant's manifest: %w", ErrBadMessage, err)
	}
	return g, nil
}

// fits says whether a grant is the answer to this question.
func (g Grant) fits(holder, requester index.NodeID, req StudyRequest) error {
	switch {
	case g.Holder != holder:
		return fmt.Errorf("%w: it names another holder than node %s, which sent it", ErrBadGrant, holder)
	case g.Requester != requester:
		return fmt.Errorf("%w: node %s sent one that is for another node", ErrBadGrant, holder)
	case g.Study != req.Study || g.Origin != req.Origin || g.Purpose != req.Purpose:
		return fmt.Errorf("%w: node %s sent one for another study, origin or purpose", ErrBadGrant, holder)
	}
	return g.Verify()
}

// Format hides the key from every fmt verb.
func (g Grant) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, fmt.Sprintf("mesh.Grant{by %s, for %s, until %s}", g.Holder, g.Requester, g.Expires.Format(time.RFC3339)))
}
