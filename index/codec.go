package index

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Everything this package writes is core deterministic CBOR (RFC 8949 section
// 4.2.1). Decoding is bounded: no indefinite lengths, no duplicate keys, no tags,
// little nesting, and arrays no longer than their mode allows, so that what is
// allocated stays in proportion to what was read.
var (
	encMode = must(func() (cbor.EncMode, error) {
		o := cbor.CoreDetEncOptions()
		o.Time = cbor.TimeUnix
		return o.EncMode()
	}())
	wideMode   = must(decOptions(MaxHeads, cbor.ExtraDecErrorNone).DecMode())           // messages, invitations
	batchMode  = must(decOptions(MaxFacts, cbor.ExtraDecErrorNone).DecMode())           // batches, headers
	factMode   = must(decOptions(maxList, cbor.ExtraDecErrorNone).DecMode())            // payloads, fact bodies
	strictMode = must(decOptions(MaxMembers, cbor.ExtraDecErrorUnknownField).DecMode()) // what is signed field by field
)

func decOptions(array int, extra cbor.ExtraDecErrorCond) cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   8,
		MaxArrayElements:  array,
		MaxMapPairs:       64,
		ExtraReturnErrors: extra,
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // a wrong option of our own, seen by every test
	}
	return v
}

func encode(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("index: encoding a %T: %v", v, err)) // types of our own; none can fail
	}
	return b
}

// decode reads one CBOR item. The decoder's own words are kept out of the error:
// they may quote what they read, and that may be a patient's name.
func decode(mode cbor.DecMode, what string, b []byte, v any) error {
	if err := mode.Unmarshal(b, v); err != nil {
		return &MalformedError{What: what, Why: "not the CBOR it must be"}
	}
	return nil
}

// decodeStrict reads what is signed field by field: it must be exactly what encode would write of it.
func decodeStrict[T any](what string, b []byte) (T, error) {
	var v T
	if err := decode(strictMode, what, b, &v); err != nil {
		return v, err
	}
	if !bytes.Equal(encode(v), b) {
		return v, &MalformedError{What: what, Why: "not in its deterministic form"}
	}
	return v, nil
}
