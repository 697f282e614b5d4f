package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/simulations/synthetic"
)

// An httpQuestion is asked of two servers in the same words.
type httpQuestion struct {
	name string
	of   func(r *synthetic.Region, s index.Study, rnd *rand.Rand) url.Values
}

const page = 100

var httpQuestions = []httpQuestion{
	{"patient, by number", func(_ *synthetic.Region, s index.Study, _ *rand.Rand) url.Values {
		return url.Values{"PatientID": {s.Patient[0].ID}}
	}},
	{"worklist: a day, first 100", func(_ *synthetic.Region, s index.Study, _ *rand.Rand) url.Values {
		return url.Values{"StudyDate": {s.Date}, "limit": {fmt.Sprint(page)}}
	}},
	{"name prefix, a month", func(_ *synthetic.Region, s index.Study, rnd *rand.Rand) url.Values {
		d := around(s.Date, 30, rnd)
		return url.Values{"PatientName": {prefix(s.Name, rnd)}, "StudyDate": {d.From + "-" + d.To}, "limit": {fmt.Sprint(page)}}
	}},
	{"family and given name", func(_ *synthetic.Region, s index.Study, _ *rand.Rand) url.Values {
		c := strings.Split(s.Name, "^")
		return url.Values{"PatientName": {c[0] + "^" + c[1] + "*"}, "limit": {fmt.Sprint(page)}}
	}},
	{"accession number", func(_ *synthetic.Region, s index.Study, _ *rand.Rand) url.Values {
		return url.Values{"AccessionNumber": {s.Accession}}
	}},
	{"20 study UIDs", func(r *synthetic.Region, s index.Study, rnd *rand.Rand) url.Values {
		uids := []string{s.UID}
		for len(uids) < min(20, r.Len()) {
			if _, s := r.Study(rnd.IntN(r.Len())); !slices.Contains(uids, s.UID) {
				uids = append(uids, s.UID)
			}
		}
		return url.Values{"StudyInstanceUID": {strings.Join(uids, ",")}}
	}},
	{"modality in a month, first 100", func(_ *synthetic.Region, s index.Study, rnd *rand.Rand) url.Values {
		d := around(s.Date, 30, rnd)
		return url.Values{"ModalitiesInStudy": {s.Modalities[0]}, "StudyDate": {d.From + "-" + d.To}, "limit": {fmt.Sprint(page)}}
	}},
}

// beside asks Orthanc and a node that hold the same studies the same questions.
func (b *indexBench) beside(ctx context.Context) (err error) {
	opt := synthetic.Options{Seed: b.region.Seed, Studies: b.orthanc, Trusts: synthetic.Trusts()[:1]}
	r, err := synthetic.New(opt)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "orthanc")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files, err := writeInstances(filepath.Join(dir, "in"), r)
	if err != nil {
		return err
	}
	orthanc, web, _, err := startOrthanc(ctx, mkdir(dir, "server"))
	if errors.Is(err, errAbsent) {
		fmt.Fprintln(b.out, "\nOrthanc beside a node: Orthanc with its DICOMweb plugin is not installed")
		return nil
	}
	if err != nil {
		return err
	}
	theirs := &stow{orthanc, web + "/dicom-web/studies", newClient()}
	defer func() { err = errors.Join(err, theirs.close()) }()
	home, web, err := newHome(dir)
	if err != nil {
		return err
	}
	if *program == "" {
		built, err := priormesh()
		if err != nil {
			return err
		}
		defer os.RemoveAll(filepath.Dir(built))
	}
	if err := settleAtOnce(home); err != nil {
		return err
	}
	ours, err := startSTOW(ctx, home, web)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()

	fmt.Fprintf(b.out, "\nThe same %d studies, of one small instance each, in a node (`priormesh run`) and in Orthanc (SQLite); QIDO-RS over HTTP by one client\n", r.Len())
	var filled [2]time.Duration
	for i, s := range []*stow{ours, theirs} {
		began := time.Now()
		for some := range slices.Chunk(files, 50) {
			if err := s.put(ctx, some); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		filled[i] = time.Since(began)
		// Stored is not yet found: the node tells its index a little later.
		for last := (url.Values{"limit": {"1"}, "offset": {fmt.Sprint(r.Len() - 1)}}); ; {
			found, err := s.ask(ctx, last)
			if err != nil {
				return err
			}
			if len(found) == 1 {
				break
			}
			if time.Since(began) > filled[i]+10*time.Minute {
				return fmt.Errorf("%s does not find all it has stored", s.name)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	fmt.Fprintf(b.out, "Stored in %.1f and %.1f s\n", filled[0].Seconds(), filled[1].Seconds())
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "question\tasked\tstudies\tnode: p50\tp99\tOrthanc: p50\tp99\tOrthanc / node: p50\tp99\tsame answers")
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }
	for n, q := range httpQuestions {
		rnd := rand.New(rand.NewPCG(opt.Seed, uint64(n)))
		var took [2][]time.Duration
		same, sum := 0, 0
		for began := time.Now(); len(took[0]) < b.draws && (len(took[0]) < 3 || time.Since(began) < 2*b.each); {
			_, s := r.Study(rnd.IntN(r.Len()))
			what := q.of(r, s, rnd)
			var found [2][]string
			for i, server := range []*stow{ours, theirs} {
				at := time.Now()
				if found[i], err = server.ask(ctx, what); err != nil {
					return fmt.Errorf("%s: %s: %w", server.name, q.name, err)
				}
				took[i] = append(took[i], time.Since(at))
			}
			if len(found[0]) < page && !slices.Contains(found[0], s.UID) {
				return fmt.Errorf("%s: the node's answer lacks the study asked for", q.name)
			}
			sum += len(found[0])
			// A full page may be another page: QIDO-RS says nothing of order.
			if slices.Equal(found[0], found[1]) || len(found[0]) == page && len(found[1]) == page {
				same++
			}
		}
		draws := len(took[0])
		p50, p99, _ := quantiles(took[0])
		o50, o99, _ := quantiles(took[1])
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%s\t%s\t%s\t%s\t%.1f\t%.1f\t%d of %d\n", q.name, draws, float64(sum)/float64(draws), ms(p50), ms(p99), ms(o50), ms(o99),
			float64(o50)/float64(p50), float64(o99)/float64(p99), same, draws)
	}
	return t.Flush()
}

// settleAtOnce keeps a node from saying everything again half a minute after
// it was stored, while it is asked.
func settleAtOnce(home *node.Home) error {
	path := filepath.Join(home.Dir, "config.toml")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), "settle_after") })
	if at < 0 {
		return fmt.Errorf("%s has no settle_after", path)
	}
	lines[at] = `settle_after = "100ms"`
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600)
}

// writeInstances writes one instance of each study.
func writeInstances(dir string, r *synthetic.Region) (files []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for i := range r.Len() {
		_, s := r.Study(i)
		b := dicomtest.Instance{Study: s.UID, Series: s.UID + ".1", SOP: s.UID + ".1.1", PatientID: s.Patient[0].ID, Issuer: s.Patient[0].Issuer, Name: s.Name,
			BirthDate: s.BirthDate, Sex: s.Sex, Date: s.Date, Time: s.Time, Accession: s.Accession, Referring: s.Referring, Description: s.Description,
			Modality: s.Modalities[0], Number: 1}.Bytes()
		path := filepath.Join(dir, fmt.Sprintf("%d.dcm", i))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return nil, err
		}
		files = append(files, path)
	}
	return files, nil
}

// ask asks for studies and returns their UIDs, sorted.
func (s *stow) ask(ctx context.Context, q url.Values) ([]string, error) {
	// Orthanc 1.10 takes these as they are only.
	plain := strings.NewReplacer("%2A", "*", "%5E", "^").Replace(q.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"?"+plain, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/dicom+json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return nil, fmt.Errorf("QIDO-RS: %s %v %.300s", resp.Status, err, b)
	}
	var found []struct {
		UID struct{ Value []string } `json:"0020000D"`
	}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &found); err != nil {
			return nil, err
		}
	}
	out := make([]string, 0, len(found))
	for _, f := range found {
		out = append(out, strings.Join(f.UID.Value, " "))
	}
	slices.Sort(out)
	return out, nil
}
