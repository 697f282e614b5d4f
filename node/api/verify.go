package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// aliveEvery is how often a long verification says that it goes on.
const aliveEvery = 10 * time.Second

// maxLine bounds one line of a verification: its report names thousands of studies.
const maxLine = 16 << 20

// verify runs a verification for as long as its caller listens.
func (s *server) verify(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Rate  int64  `json:"rate"`
		Study string `json:"study"`
	}
	if err := body(r, &in); err != nil && !errors.Is(err, errNoBody) {
		return err
	}
	if in.Rate < 0 || in.Study != "" && !dicom.UID(in.Study).Valid() {
		return fmt.Errorf("%w: send {\"rate\": bytes a second, \"study\": \"<Study Instance UID>\"}; both may be left out", ErrWrongUse)
	}
	// To its end, or the server takes what it waits for as a body that stalls.
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if s.Stopping != nil {
		defer context.AfterFunc(s.Stopping, cancel)()
	}
	var mu sync.Mutex
	begun := false
	var last Verification
	say := func(v Verification) {
		mu.Lock()
		defer mu.Unlock()
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.WriteHeader(http.StatusOK)
		}
		last = v
		if json.NewEncoder(w).Encode(v) != nil || http.NewResponseController(w).Flush() != nil {
			cancel() // nobody listens
		}
	}
	ended := make(chan struct{})
	var alive sync.WaitGroup
	alive.Go(func() {
		tick := time.NewTicker(aliveEvery)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				mu.Lock()
				again := last
				mu.Unlock()
				if again.Progress != nil {
					say(again)
				}
			}
		}
	})
	report, err := s.Archive.Verify(ctx, archive.VerifyOptions{Rate: in.Rate, Study: in.Study, Progress: func(p archive.VerifyProgress) {
		v := VerifyProgress(p)
		say(Verification{Progress: &v})
	}})
	close(ended)
	alive.Wait()
	switch {
	case err == nil:
		v := VerifyJSON(report, s.Archive.Index.Roster(), s.Archive.Self)
		say(Verification{Report: &v})
	case !begun && errors.Is(err, archive.ErrNotFound):
		return s.notKept(ctx, w, in.Study)
	case !begun:
		return err
	case s.Stopping != nil && s.Stopping.Err() != nil:
		say(Verification{Error: "the node is stopping; what was found is noted, and repaired when it runs again"})
	case ctx.Err() == nil:
		s.Log.Error("a verification was broken off", "error", err)
		say(Verification{Error: err.Error()})
	}
	return nil
}

// notKept answers where only what is kept here can be meant.
func (s *server) notKept(ctx context.Context, w http.ResponseWriter, study string) error {
	found, _, err := s.Archive.Studies(ctx, index.Query{StudyUIDs: []string{study}})
	if err != nil {
		return err
	}
	var who []string
	for _, f := range found {
		for _, t := range slices.Concat(f.Trusts, f.Copies) {
			who = append(who, string(t))
		}
	}
	switch len(who) {
	case 0:
		return archive.ErrNotFound
	case 1:
		who[0] += " has it"
	default:
		who[len(who)-1] += " have it"
	}
	fail(w, http.StatusNotFound, "nothing of it is kept here; "+strings.Join(who, ", "))
	return nil
}

// VerifyJSON shows a report.
func VerifyJSON(r archive.VerifyReport, roster index.Roster, self index.NodeID) VerifyReport {
	out := VerifyReport{Studies: r.Studies, Instances: r.Instances, Blocks: r.Blocks, Bytes: r.Bytes, Found: []Finding{},
		MoreFound: r.MoreFound, Left: r.Left, Lost: r.Lost, CanRepair: r.CanRepair}
	for _, f := range r.Found {
		x := Finding{Damage: DamageJSON(f.Damage, roster, self), Repaired: f.Repaired, From: []string{}}
		for _, t := range f.From {
			x.From = append(x.From, string(t))
		}
		if f.Left != nil {
			left := DamageJSON(*f.Left, roster, self)
			x.Left = &left
		}
		out.Found = append(out.Found, x)
	}
	return out
}

// DamageJSON shows what is damaged.
func DamageJSON(d archive.Damage, roster index.Roster, self index.NodeID) Damage {
	trust, _ := roster.Allowed(d.Origin)
	out := Damage{Study: d.Study, Trust: string(trust), Own: d.Origin == self, Kinds: []string{}, Blocks: d.Blocks, Instances: d.Instances,
		Since: d.Since, Tried: d.Tried, Why: d.Why}
	for _, k := range d.Kinds {
		out.Kinds = append(out.Kinds, string(k))
	}
	return out
}

// Verify has the node read what it stores, all or one study, at so many bytes a
// second (0: as fast as it goes), and tells how far it is. It ends with ctx.
func (c *Client) Verify(ctx context.Context, rate int64, study string, progress func(VerifyProgress)) (VerifyReport, error) {
	var report VerifyReport
	err := c.stream(ctx, "/verifications", "while it verified", map[string]any{"rate": rate, "study": study}, func(line []byte) (bool, error) {
		var v Verification
		if err := json.Unmarshal(line, &v); err != nil {
			return false, c.notANode(err)
		}
		switch {
		case v.Report != nil:
			report = *v.Report
			return true, nil
		case v.Error != "":
			return false, &Error{http.StatusInternalServerError, v.Error}
		case v.Progress != nil && progress != nil:
			progress(*v.Progress)
		}
		return false, nil
	})
	return report, err
}
