package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node/archive"
)

// eraseWithin is how long a request for an erasure waits for its end.
const eraseWithin = 20 * time.Second

func (s *server) erase(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Study  string `json:"study"`
		Reason string `json:"reason"`
	}
	if err := body(r, &in); err != nil {
		return err
	}
	if !dicom.UID(in.Study).Valid() {
		return fmt.Errorf("%w: send {\"study\": \"<Study Instance UID>\", \"reason\": \"…\"}", ErrWrongUse)
	}
	reason := strings.TrimSpace(in.Reason)
	if reason == "" || len(reason) > archive.MaxReason || !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl) {
		return fmt.Errorf("%w: say why in one line of 1 to %d bytes, without naming the patient: the reason stays in the audit log", ErrWrongUse, archive.MaxReason)
	}
	ctx, cancel := context.WithTimeout(r.Context(), eraseWithin)
	defer cancel()
	if s.Stopping != nil {
		defer context.AfterFunc(s.Stopping, cancel)()
	}
	e, err := s.Archive.Erase(ctx, in.Study, reason)
	switch {
	case errors.Is(err, archive.ErrNotFound):
		if before, eerr := s.Archive.Erased(in.Study); eerr == nil && before.Done {
			fail(w, http.StatusNotFound, fmt.Sprintf("nothing is kept here of this study: it was erased at %s", before.When.Format(time.RFC3339)))
			return nil
		}
		fail(w, http.StatusNotFound, "nothing is kept here of such a study, so there is nothing to erase; check the Study Instance UID")
		return nil
	case errors.Is(err, archive.ErrErasing), errors.Is(err, archive.ErrSiblings):
		fail(w, http.StatusConflict, err.Error())
		return nil
	case err != nil:
		return err
	}
	code := http.StatusOK
	if !e.Done {
		code = http.StatusAccepted
	}
	return answer(w, code, s.erasureJSON(in.Study, e))
}

func (s *server) erasure(w http.ResponseWriter, r *http.Request) error {
	study := r.PathValue("study")
	e, err := s.Archive.Erased(study)
	if errors.Is(err, archive.ErrNotFound) {
		fail(w, http.StatusNotFound, "no study of this UID has been erased here")
		return nil
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, s.erasureJSON(study, e))
}

func (s *server) erasureJSON(study string, e archive.Erasure) Erasure {
	out := Erasure{Study: study, State: "active", When: e.When, Reason: e.Reason, Versions: e.Versions, Instances: e.Instances, Bytes: e.Bytes,
		Copies: []string{}, Others: []string{}, Problem: e.Problem}
	if e.Done {
		out.State = "erased"
	}
	own, _ := s.Archive.Index.TrustOf(s.Archive.Self)
	for _, t := range e.Copies {
		if t == own {
			continue // another node of this trust: it follows by itself
		}
		out.Copies = append(out.Copies, string(t))
	}
	for _, t := range e.Others {
		if t == own {
			out.Siblings = true
			continue
		}
		out.Others = append(out.Others, string(t))
	}
	return out
}
