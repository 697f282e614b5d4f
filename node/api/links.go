package api

import (
	"context"
	"fmt"
	"net/http"
)

// Identifier is a number of a patient and who issued it. NHS numbers are those of
// issuer NHS.
type Identifier struct {
	ID     string `json:"id"`
	Issuer string `json:"issuer"`
}

// LinkRequest is this node's word on two identifiers, in place of what it said of
// them before. Without a verdict nothing is said.
type LinkRequest struct {
	One     Identifier `json:"one"`               // of a merge: the one given up
	Two     Identifier `json:"two"`               // of a merge: the one that survives
	Verdict string     `json:"verdict,omitempty"` // same, merged, different, withdrawn
	Reason  string     `json:"reason,omitempty"`
}

// Link is what is said of two identifiers.
type Link struct {
	One Identifier `json:"one"`
	Two Identifier `json:"two"`
	// Standing is what the words come to: "same", "different", "contested" (both are
	// said: the studies are possible matches and no more) or "none".
	Standing   string     `json:"standing"`
	Said       []LinkWord `json:"said"` // what each node says now
	OneStudies int        `json:"one_studies"`
	TwoStudies int        `json:"two_studies"` // studies that bear it
}

// LinkWord is one node's word.
type LinkWord struct {
	Trust    string      `json:"trust"`
	Node     string      `json:"node"`
	Own      bool        `json:"own,omitempty"` // this node's: it can take it back
	Verdict  string      `json:"verdict"`
	Survives *Identifier `json:"survives,omitempty"` // of a merge
	Reason   string      `json:"reason,omitempty"`
}

func (s *server) link(w http.ResponseWriter, r *http.Request) error {
	var in LinkRequest
	if err := body(r, &in); err != nil {
		return err
	}
	if len(in.Reason) > maxReason {
		return fmt.Errorf("%w: the reason is over %d bytes", ErrWrongUse, maxReason)
	}
	l, err := s.Node.Link(r.Context(), in)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, l)
}

// Link says something of two identifiers of patients, or asks what is said.
func (c *Client) Link(ctx context.Context, r LinkRequest) (Link, error) {
	return call[Link](ctx, c, http.MethodPost, "/links", r)
}
