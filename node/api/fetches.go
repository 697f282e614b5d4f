package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node/archive"
)

// maxFetches bounds one answer about the queue.
const maxFetches = 1000

func (s *server) fetch(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Study    string `json:"study"`
		Priority string `json:"priority"`
	}
	if err := body(r, &in); err != nil {
		return err
	}
	p := archive.Interactive
	if in.Priority != "" {
		var ok bool
		if p, ok = archive.ParsePriority(in.Priority); !ok {
			return fmt.Errorf("%w: %.64q is none of \"emergency\", \"interactive\", \"prior\" and \"background\"", ErrWrongUse, in.Priority)
		}
	}
	if !dicom.UID(in.Study).Valid() {
		return fmt.Errorf("%w: send {\"study\": \"<Study Instance UID>\"}", ErrWrongUse)
	}
	if err := s.Archive.Ask(in.Study, p, "asked for by the operator"); err != nil {
		return err
	}
	f, err := s.fetchOf(in.Study)
	if err != nil {
		return err
	}
	return answer(w, http.StatusAccepted, f)
}

func (s *server) fetches(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, Fetches(s.Archive, maxFetches))
}

func (s *server) fetchStatus(w http.ResponseWriter, r *http.Request) error {
	f, err := s.fetchOf(r.PathValue("study"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, f)
}

func (s *server) cancel(w http.ResponseWriter, r *http.Request) error {
	study := r.PathValue("study")
	was, err := s.Archive.Cancel(study)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, Cancelled{Study: study, Was: was})
}

func (s *server) fetchOf(study string) (Fetch, error) {
	if t, ok := s.Archive.TaskOf(study); ok {
		return fetchJSON(s.Archive, t), nil
	}
	if said, err := s.Archive.Index.Study(study); err != nil || len(said) == 0 {
		return Fetch{Study: study, State: "unknown"}, err
	}
	here, err := s.Archive.Here(study)
	f := Fetch{Study: study, State: "elsewhere"}
	switch {
	case here:
		f.State = "here"
	case s.Archive.Cancelled(study):
		f.State = "cancelled"
	}
	return f, err
}

// Fetches shows the fetch queue, most urgent first, and most of it.
func Fetches(a *archive.Archive, most int) []Fetch {
	tasks := a.Tasks()
	out := make([]Fetch, min(len(tasks), most))
	for i := range out {
		out[i] = fetchJSON(a, tasks[i])
	}
	return out
}

func fetchJSON(a *archive.Archive, t archive.TaskStatus) Fetch {
	f := Fetch{
		Study: t.Study, State: string(t.State), Priority: t.Priority.String(), Reason: t.Reason, Waits: t.Why, Attempts: t.Attempts, Error: t.LastError,
		NextTry: t.NotBefore, Asked: t.Created, Rate: t.Rate, Instances: t.Instances, InstancesHere: t.InstancesHere, Bytes: t.Bytes, BytesHere: t.BytesHere,
	}
	if t.Refused != 0 {
		f.RefusedAt = time.UnixMilli(t.Refused).UTC()
	}
	roster := a.Index.Roster()
	for _, g := range t.Givers {
		trust, _ := roster.Allowed(g.Node)
		f.Holders = append(f.Holders, Giver{Trust: string(trust), Node: g.Node.String(), State: g.State, Bytes: g.Bytes})
	}
	return f
}
