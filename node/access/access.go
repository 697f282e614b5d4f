package access

import (
	"errors"

	"github.com/priormesh/priormesh/index"
)

// Purpose is why somebody asks for a study.
type Purpose string

// DirectCare is a clinician's need for a patient in front of them.
const DirectCare Purpose = "direct care"

// ErrRefused is the policy's no. What a stranger is told is the caller's
// business: outside it must look the same as absence.
var ErrRefused = errors.New("refused by policy")

// Request is what a policy judges.
type Request struct {
	Requester index.NodeID
	Trust     index.TrustID // the roster's word for whose node Requester is
	Purpose   Purpose
}

// Policy decides. Nil means yes; an error wraps ErrRefused and says why, for
// this node's own audit only.
type Policy func(Request) error

// Members grants direct care to every trust on the roster and nothing else.
func Members(r Request) error {
	switch {
	case r.Trust == "":
		return errors.Join(ErrRefused, errors.New("the requester's node belongs to no trust on the roster"))
	case r.Purpose != DirectCare:
		return errors.Join(ErrRefused, errors.New("only the purpose \"direct care\" is granted"))
	}
	return nil
}
