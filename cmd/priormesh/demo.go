package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node/api"
)

const (
	defaultData = "testdata/demo"
	stowParts   = 64   // instances in one STOW-RS request
	page        = 1000 // studies in one answer of find

	toldRefusals = 10 // refused files named to a person
	toldStudies  = 6  // studies named to a person
)

type demoCmd struct {
	Trusts  int           `default:"3" help:"How many trusts (2 to 8)."`
	Data    string        `placeholder:"DIR" help:"Folder of DICOM files; the bundled testdata/demo if not given."`
	Once    bool          `help:"Do the main job, check it, and end."`
	Keep    string        `placeholder:"DIR" help:"Make the homes and logs in this folder and leave them there."`
	Timeout time.Duration `default:"10m" help:"Give up when the main job takes longer."`
}

func (demoCmd) Help() string {
	return `Starts a region on this machine: each trust is a process of its own with its own home, keys and ports, and they talk over TCP. The trusts admit each other with cards and invitations. The files are dealt out: of a patient with several studies the earlier ones are imported at different trusts, and the newest then arrives at the first trust by STOW-RS. Its priors must come to the first trust by themselves, whole and byte for byte, and nobody else's; the demo reads each of their instances by WADO-RS and compares it with the file.

Exit code 0 means that every prior that should have come did, and that all bytes were the same. Files that a node refuses are listed and do not change that.

Examples:

    priormesh demo
    priormesh demo --once --data /mnt/cd --trusts 4
    priormesh demo --once --json | jq .priors

Without --once the region keeps running, for you to try things, until Ctrl-C.`
}

// demoResult is what `demo --json` prints.
type demoResult struct {
	Trusts   []demoTrustResult `json:"trusts"`
	Imported demoImported      `json:"imported"`
	Refusals []refusal         `json:"refusals"`
	Priors   demoPriors        `json:"priors"`
	Verified demoVerified      `json:"verified"`
	Seconds  float64           `json:"seconds"`
}

type demoTrustResult struct {
	ODS     string `json:"ods"`
	Peer    string `json:"peer"`
	HTTP    string `json:"http"`
	DIMSE   string `json:"dimse"`
	Studies int    `json:"studies"` // received there
}

type demoImported struct {
	Files    int   `json:"files"`
	Accepted int   `json:"accepted"`
	Refused  int   `json:"refused"`
	Bytes    int64 `json:"bytes"` // accepted
}

type refusal struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

// demoPriors counts studies. The clock starts when the first new study begins
// to be sent.
type demoPriors struct {
	Expected       int     `json:"expected"`
	Delivered      int     `json:"delivered"`
	SecondsToFirst float64 `json:"seconds_to_first"`
	SecondsToAll   float64 `json:"seconds_to_all"`
}

type demoVerified struct {
	Instances int `json:"instances"`
	Identical int `json:"identical"`
	Different int `json:"different"`
}

// demo is one run.
type demo struct {
	p      *program
	data   string
	plan   demoPlan
	region *demoRegion
	web    *http.Client
	began  time.Time
	told   io.Writer

	receipts []api.Receipt // by file of the plan
	result   demoResult
	dealt    bool // files have been offered: there is a result to print
}

var errTimeout = errors.New("the demo took too long")

func (c *demoCmd) Run(p *program) (err error) {
	if c.Trusts < 2 || c.Trusts > len(demoNames) {
		return exit(exitWrongUse, "--trusts is 2 to %d", len(demoNames))
	}
	d := &demo{p: p, began: time.Now(), told: p.stdout, web: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: uploads}}}
	if p.json {
		d.told = p.stderr
	}
	if d.data, err = dataFolder(c.Data); err != nil {
		return err
	}
	files, err := scanFolder(d.data)
	if err != nil {
		return fmt.Errorf("the files to show cannot be read: %w", err)
	}
	if len(files) == 0 {
		return exit(exitNotFound, "there is no file in %s", d.data)
	}
	d.plan = makePlan(files, c.Trusts)
	d.receipts = make([]api.Receipt, len(files))

	dir := c.Keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "priormesh-demo-"); err != nil {
			return err
		}
		defer func() {
			if rerr := os.RemoveAll(dir); err == nil {
				err = rerr
			}
		}()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(p.ctx)
	defer fail(nil)
	if d.region, err = newDemoRegion(dir, fail); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, d.region.end())
		d.web.CloseIdleConnections()
	}()

	job, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("%w: %v have passed (--timeout)", errTimeout, c.Timeout))
	err = d.run(job)
	if cause := context.Cause(ctx); err != nil && cause != nil && p.ctx.Err() == nil {
		err = cause // a process ended: what failed after that is no news
	}
	cancel()
	d.result.Seconds = seconds(time.Since(d.began))
	if p.json && d.dealt {
		if perr := p.line(d.result); perr != nil {
			return errors.Join(err, perr)
		}
	}
	if err != nil || c.Once {
		return err
	}
	d.invite()
	<-ctx.Done()
	if p.ctx.Err() != nil {
		d.tell("ending the region")
		return nil
	}
	return context.Cause(ctx)
}

// dataFolder is where the files lie: as named, else with the working
// directory, else with the program (bin/priormesh in a copy of the sources).
func dataFolder(named string) (string, error) {
	if named != "" {
		if s, err := os.Stat(named); err != nil || !s.IsDir() {
			return "", exit(exitWrongUse, "--data %s is no folder that can be read", named)
		}
		return named, nil
	}
	try := []string{filepath.FromSlash(defaultData)}
	if exe, err := os.Executable(); err == nil {
		try = append(try, filepath.Join(filepath.Dir(filepath.Dir(exe)), filepath.FromSlash(defaultData)))
	}
	for _, dir := range try {
		if s, err := os.Stat(dir); err == nil && s.IsDir() {
			return dir, nil
		}
	}
	return "", exit(exitWrongUse, "the bundled files are not in %s; name a folder of DICOM files with --data", strings.Join(try, " or "))
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// tell says one step to whoever watches.
func (d *demo) tell(format string, args ...any) {
	fmt.Fprintf(d.told, "%7.1f s  %s\n", time.Since(d.began).Seconds(), plain(fmt.Sprintf(format, args...)))
}

func (d *demo) run(ctx context.Context) error {
	d.describe()
	if err := d.together(ctx); err != nil {
		return err
	}
	d.dealt = true
	if err := d.deal(ctx); err != nil {
		return err
	}
	if err := d.known(ctx, "every trust's index knows all of them"); err != nil {
		return err
	}
	expected, err := d.arrive(ctx)
	if err != nil {
		return err
	}
	if err := d.known(ctx, ""); err != nil {
		return err
	}
	if err := d.verify(ctx, expected); err != nil {
		return err
	}
	return d.judge(ctx, expected)
}

func (d *demo) describe() {
	studies := studiesOf(d.plan.files, func(int) bool { return true })
	patients := patientsOf(studies)
	several := 0
	for _, p := range patients {
		if len(p) > 1 {
			several++
		}
	}
	d.tell("%s in %s: %s of %s, %d of them with more than one", plural(len(d.plan.files), "file", "files"), d.data, plural(len(studies), "study", "studies"), plural(len(patients), "patient", "patients"), several)
}

// together makes the region: start, cards, endorsements, invitations.
func (d *demo) together(ctx context.Context) error {
	r := d.region
	for i := range d.plan.trusts {
		t, err := r.add()
		if err != nil {
			return err
		}
		how := "founded the region"
		if i > 0 {
			by, err := r.admit(ctx, t, r.trusts[:i])
			if err != nil {
				return err
			}
			how = "endorsed by " + strings.Join(by, " and ") + ", joined"
		}
		if err := r.start(ctx, t); err != nil {
			return err
		}
		d.result.Trusts = append(d.result.Trusts, demoTrustResult{ODS: t.ods, HTTP: t.web})
		d.tell("%s %s %s and runs (process %d, DICOMweb %s/dicom-web)", t.ods, t.name, how, t.child.cmd.Process.Pid, t.web)
	}
	if err := r.hearing(ctx); err != nil {
		return err
	}
	for i, t := range r.trusts {
		s, err := t.client.Status(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", t.ods, err)
		}
		d.result.Trusts[i].Peer, d.result.Trusts[i].DIMSE = s.Peer, s.DIMSE
	}
	d.tell("all %d trusts hear each other", len(r.trusts))
	return nil
}

func (d *demo) path(file int) string {
	return filepath.Join(d.data, filepath.FromSlash(d.plan.files[file].path))
}

// deal has each trust import what the plan gives it, as a backfill.
func (d *demo) deal(ctx context.Context) error {
	var all errgroup.Group
	for n, t := range d.region.trusts {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(uploads)
		all.Go(func() error {
			for _, b := range d.plan.bundles {
				if b.trust != n || len(b.imported) == 0 {
					continue
				}
				g.Go(func() error {
					for _, f := range b.imported {
						r, err := offer(ctx, t.client, found{path: d.path(f), size: d.plan.files[f].size}, false, &progress{})
						if err == nil && r.Outcome == unread {
							err = errors.New(r.Reason)
						}
						if err != nil {
							return fmt.Errorf("importing %s at %s: %w", d.plan.files[f].path, t.ods, err)
						}
						d.receipts[f] = r
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			d.tell("%s imported %s", t.ods, d.account(n))
			return nil
		})
	}
	err := all.Wait()
	d.count()
	return err
}

// account says what a trust took.
func (d *demo) account(trust int) string {
	studies := map[string]bool{}
	instances, refused := 0, 0
	for _, b := range d.plan.bundles {
		if b.trust != trust {
			continue
		}
		for _, f := range b.imported {
			if r := d.receipts[f]; accepted(r) {
				studies[r.Study] = true
				instances++
			} else {
				refused++
			}
		}
	}
	s := plural(len(studies), "study", "studies") + ", " + plural(instances, "instance", "instances")
	if refused > 0 {
		s += "; it refused " + plural(refused, "file", "files")
	}
	return s
}

func accepted(r api.Receipt) bool { return r.Outcome == api.Stored || r.Outcome == api.Duplicate }

// count brings the result up to what has been answered.
func (d *demo) count() {
	d.result.Imported, d.result.Refusals = demoImported{}, []refusal{}
	for i, r := range d.receipts {
		switch {
		case accepted(r):
			d.result.Imported.Accepted++
			d.result.Imported.Bytes += r.Bytes
		case r.Outcome != "":
			d.result.Imported.Refused++
			d.result.Refusals = append(d.result.Refusals, refusal{d.plan.files[i].path, r.Reason})
		default:
			continue // not offered yet
		}
		d.result.Imported.Files++
	}
}

// sizes is how many instances each accepted study has.
func (d *demo) sizes() map[string]int {
	n := map[string]int{}
	for _, r := range d.receipts {
		if r.Outcome == api.Stored {
			n[r.Study]++
		}
	}
	return n
}

// studies are all studies that a trust knows.
func studies(ctx context.Context, t *demoTrust) (map[string]api.Study, error) {
	all := map[string]api.Study{}
	for {
		got, err := t.client.Find(ctx, api.Filter{Limit: page, Offset: len(all)})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.ods, err)
		}
		before := len(all)
		for _, s := range got.Studies {
			all[s.Study] = s
		}
		if len(all) >= got.Total || len(all) == before {
			return all, nil
		}
	}
}

// known waits until every trust's index has every study that was accepted.
func (d *demo) known(ctx context.Context, say string) error {
	want := d.sizes()
	err := until(ctx, func(ctx context.Context) error {
		for _, t := range d.region.trusts {
			have, err := studies(ctx, t)
			if err != nil {
				return err
			}
			for uid, n := range want {
				if have[uid].Instances != n {
					return fmt.Errorf("%s knows %d of the %d instances of study %s", t.ods, have[uid].Instances, n, dicom.UID(uid).Short())
				}
			}
			if len(have) != len(want) {
				return fmt.Errorf("%s knows %d studies, %d were accepted", t.ods, len(have), len(want))
			}
		}
		return nil
	})
	if err == nil && say != "" {
		d.tell("%s: %d studies", say, len(want))
	}
	return err
}

// arrive sends the new studies to the first trust and waits for the priors.
func (d *demo) arrive(ctx context.Context) ([]dicom.UID, error) {
	first := d.region.trusts[0]
	start := time.Now()
	var mu sync.Mutex
	seen := map[string]time.Duration{} // when a study was first whole at the first trust
	size := d.sizes()
	look := func(ctx context.Context) error {
		have, err := studies(ctx, first)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for uid, s := range have {
			if _, before := seen[uid]; !before && s.Availability == "ONLINE" && s.Instances == size[uid] {
				seen[uid] = time.Since(start)
			}
		}
		return nil
	}
	// Looking goes on while studies are being sent: their priors may come before
	// the last one is.
	watching, stop := context.WithCancel(ctx)
	var watch errgroup.Group
	watch.Go(func() error {
		err := until(watching, func(ctx context.Context) error {
			if err := look(ctx); err != nil {
				return err
			}
			return errors.New("still sending")
		})
		if watching.Err() != nil {
			return nil
		}
		return err
	})
	n, err := d.send(ctx, first)
	stop()
	err = errors.Join(err, watch.Wait())
	d.count()
	if err != nil {
		return nil, err
	}
	d.tell("%s of %s arrived at %s by STOW-RS (%s)", plural(n.studies, "new study", "new studies"), plural(n.studies, "patient", "patients"), first.ods, plural(n.instances, "instance", "instances"))
	d.refusals()

	took := make([]bool, len(d.receipts))
	for i, r := range d.receipts {
		took[i] = accepted(r)
	}
	expected, here := d.plan.priors(took)
	if len(expected) > 0 {
		already := ""
		if len(here) > 0 {
			already = fmt.Sprintf(", %d already at %s", len(here), first.ods)
		}
		d.tell("%s elsewhere%s; nobody asks for them", plural(len(expected), "prior is", "priors are"), already)
	}
	d.result.Priors.Expected = len(expected)
	err = until(ctx, func(ctx context.Context) error {
		if err := look(ctx); err != nil {
			return err
		}
		d.delivered(expected, seen)
		if missing := len(expected) - d.result.Priors.Delivered; missing > 0 {
			return d.missing(ctx, expected, seen)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(expected) > 0 {
		d.tell("they came: the first prior was whole at %s after %.1f s, all %d after %.1f s (%s)", first.ods, d.result.Priors.SecondsToFirst, len(expected), d.result.Priors.SecondsToAll, shortIDs(expected))
	}
	return expected, nil
}

// shortIDs names studies as logs do.
func shortIDs(uids []dicom.UID) string {
	var ids []string
	for i, uid := range uids {
		if i == toldStudies {
			ids = append(ids, fmt.Sprintf("and %d more", len(uids)-i))
			break
		}
		ids = append(ids, uid.Short())
	}
	return strings.Join(ids, ", ")
}

// refusals lists the files that no node took.
func (d *demo) refusals() {
	all := d.result.Refusals
	if len(all) == 0 {
		return
	}
	d.tell("the nodes refused %s:", plural(len(all), "file", "files"))
	for i, r := range all {
		if i == toldRefusals && len(all) > i+1 {
			fmt.Fprintf(d.told, "%12s… and %d more; --json lists all\n", "", len(all)-i)
			break
		}
		fmt.Fprintf(d.told, "%12s%s: %s\n", "", plain(r.File), plain(r.Reason))
	}
}

// delivered brings the result up to what has been seen.
func (d *demo) delivered(expected []dicom.UID, seen map[string]time.Duration) {
	p := demoPriors{Expected: len(expected)}
	for _, uid := range expected {
		at, here := seen[string(uid)]
		if !here {
			continue
		}
		p.Delivered++
		if s := seconds(at); p.Delivered == 1 || s < p.SecondsToFirst {
			p.SecondsToFirst = s
		}
		p.SecondsToAll = max(p.SecondsToAll, seconds(at))
	}
	d.result.Priors = p
}

// missing names the priors that have not come, and why as far as the node says.
func (d *demo) missing(ctx context.Context, expected []dicom.UID, seen map[string]time.Duration) error {
	var lines []string
	for _, uid := range expected {
		if _, here := seen[string(uid)]; here {
			continue
		}
		line := "study " + uid.Short()
		if f, err := d.region.trusts[0].client.FetchStatus(ctx, string(uid)); err == nil {
			line += fmt.Sprintf(" (%s, %d of %d instances", f.State, f.InstancesHere, f.Instances)
			if f.Error != "" {
				line += ": " + f.Error
			}
			line += ")"
		}
		lines = append(lines, line)
	}
	return fmt.Errorf("%d of %d priors have not come to %s: %s", len(lines), len(expected), d.region.trusts[0].ods, strings.Join(lines, "; "))
}

type sent struct{ studies, instances int }

// send has the new studies arrive as a modality would send them.
func (d *demo) send(ctx context.Context, first *demoTrust) (sent, error) {
	studies := map[string]bool{}
	instances := 0
	for _, b := range d.plan.bundles {
		for _, run := range withoutRepeats(d.plan.files, b.arriving) {
			for part := range slices.Chunk(run, stowParts) {
				files := make([]demoFile, len(part))
				for i, f := range part {
					files[i] = d.plan.files[f]
				}
				answer, err := stow(ctx, d.web, first.web, d.data, files)
				if err != nil {
					return sent{}, fmt.Errorf("sending a new study to %s: %w", first.ods, err)
				}
				for i, f := range part {
					s, ok := answer[files[i].uids.Instance]
					if !ok {
						return sent{}, fmt.Errorf("%s's answer to STOW-RS does not say what became of %s", first.ods, files[i].path)
					}
					if !s.accepted {
						d.receipts[f] = api.Receipt{Outcome: api.Refused, Reason: s.reason}
						continue
					}
					r := api.Receipt{Outcome: api.Stored, Study: string(files[i].uids.Study), Series: string(files[i].uids.Series),
						Instance: string(files[i].uids.Instance), Bytes: files[i].size}
					// STOW-RS does not tell a repetition from a first; the demo sent both.
					for _, g := range b.arriving {
						if g != f && d.receipts[g].Outcome == api.Stored && d.receipts[g].Instance == r.Instance {
							r.Outcome = api.Duplicate
						}
					}
					d.receipts[f] = r
					studies[r.Study] = true
					instances++
				}
			}
		}
	}
	return sent{len(studies), instances}, nil
}

// verify reads every instance of the priors from the first trust, as a viewer
// would, and holds it against the file that was imported elsewhere.
func (d *demo) verify(ctx context.Context, expected []dicom.UID) error {
	first := d.region.trusts[0]
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for i, r := range d.receipts {
		f := d.plan.files[i]
		if r.Outcome != api.Stored || !slices.Contains(expected, dicom.UID(r.Study)) {
			continue
		}
		g.Go(func() error {
			same, err := wado(ctx, d.web, first.web, f.uids, d.path(i), r.SHA256)
			if err != nil {
				return fmt.Errorf("reading what was imported from %s back from %s: %w", f.path, first.ods, err)
			}
			mu.Lock()
			defer mu.Unlock()
			d.result.Verified.Instances++
			if same {
				d.result.Verified.Identical++
			} else {
				d.result.Verified.Different++
				d.tell("DIFFERENT: %s", f.path)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	v := d.result.Verified
	d.tell("%s of these priors read from %s by WADO-RS: %d identical to the files imported elsewhere, %d different", plural(v.Instances, "instance", "instances"), first.ods, v.Identical, v.Different)
	return nil
}

// judge says whether the demo did what it is to show: everything expected and
// nothing else.
func (d *demo) judge(ctx context.Context, expected []dicom.UID) error {
	var wrong []string
	for n, t := range d.region.trusts {
		should := map[string]bool{}
		for _, b := range d.plan.bundles {
			if b.trust != n {
				continue
			}
			for _, f := range slices.Concat(b.imported, b.arriving) {
				if accepted(d.receipts[f]) {
					should[d.receipts[f].Study] = true
				}
			}
		}
		if n == 0 {
			for _, uid := range expected {
				should[string(uid)] = true
			}
		}
		var s api.Status
		err := until(ctx, func(ctx context.Context) (err error) {
			if s, err = t.client.Status(ctx); err != nil {
				return err
			}
			for _, f := range s.Fetches {
				if should[f.Study] {
					return fmt.Errorf("%s is still bringing study %s", t.ods, dicom.UID(f.Study).Short())
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		d.result.Trusts[n].Studies = s.Studies.Own
		have, err := studies(ctx, t)
		if err != nil {
			return err
		}
		var holds []string
		for _, f := range s.Fetches {
			holds = append(holds, f.Study)
		}
		for uid, s := range have {
			if s.Availability == "ONLINE" {
				holds = append(holds, uid)
			}
		}
		for _, uid := range wrongly(holds, should) {
			wrong = append(wrong, t.ods+": "+uid)
		}
	}
	v := d.result.Verified
	switch {
	case len(wrong) > 0:
		return fmt.Errorf("studies of other patients were brought, which must never happen: %s", strings.Join(wrong, ", "))
	case v.Different > 0:
		return fmt.Errorf("%d of %d instances are not the bytes that were imported", v.Different, v.Instances)
	case len(expected) == 0:
		return exit(exitNotFound, "no patient in %s has an earlier study that another trust took, so there was no prior to bring; name another folder with --data", d.data)
	}
	d.tell("nothing else was moved: no other patient's study is where it did not arrive")
	return nil
}

// invite says what can be tried while the region runs.
func (d *demo) invite() {
	first := d.region.trusts[0]
	patient, study := d.plan.example()
	exe := quoted(d.region.exe)
	fmt.Fprintf(d.told, "\nThe region runs until Ctrl-C. Try, in another terminal:\n\n")
	for _, line := range []string{
		"curl -s -H 'Accept: application/dicom+json' " + quoted(first.web+"/dicom-web/studies?PatientID="+patient),
		"curl -s -H 'Accept: application/dicom+json' " + quoted(first.web+"/dicom-web/studies/"+string(study)+"/metadata"),
		exe + " find --home " + quoted(first.home.Dir) + " --patient " + quoted(patient),
	} {
		fmt.Fprintf(d.told, "  %s\n", plain(line))
	}
	for _, t := range d.region.trusts {
		fmt.Fprintf(d.told, "  %s status --home %s\n", exe, quoted(t.home.Dir))
	}
	fmt.Fprintf(d.told, "\nThe nodes' logs are %s\n", filepath.Join(d.region.dir, "RX*.log"))
}
