package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/priormesh/priormesh/mesh/bare"
)

const (
	transferParts = "loopback,profile,line"

	studySlices = 190 // of 0.53 MB: 100 MB
	fileFrames  = 572 // of 0.52 MB: 300 MB
	bareStudy   = 512 << 10
	bareFile    = 1 << 20

	// What a fetch should reach.
	ofPlainTarget = 0.70
	orthancTarget = 5.0
	kuboTarget    = 10.0
)

type transferBench struct {
	dir    string // removed at the end
	model  model
	rounds int
	parts  []string
	ways   string
	slices int    // of the study
	frames int    // of the one file
	lineMB int    // of the study over a line
	lineOf string // lines to measure, by the words in their names; empty: all
	tries  int    // of a first frame over it
	few    int    // instances of a study of which a frame is asked for
	keep   string
	out    io.Writer
	next   int // number of the next study
}

func measureTransfer(ctx context.Context, args []string) (err error) {
	set := flag.NewFlagSet("transfer", flag.ContinueOnError)
	b := &transferBench{out: os.Stdout, next: 1, tries: 5, few: 20}
	var (
		dir  = set.String("dir", os.TempDir(), "`folder` on the disk to measure; about 3 GB a round are used and given back")
		only = set.String("only", transferParts, "`parts` to run: "+transferParts)
		from = set.String("ct", *ct, "a CT `file`, as for the store")
	)
	set.StringVar(program, "program", "", "a `priormesh` to measure; empty: it is built")
	set.IntVar(&b.rounds, "rounds", 3, "rounds; the table shows the median, and the slowest and the fastest")
	set.StringVar(&b.ways, "ways", "", "`ways` of the loopback part to run, by the words in their names; empty: all")
	set.IntVar(&b.slices, "slices", studySlices, "instances of 0.5 MB in the study")
	set.IntVar(&b.frames, "frames", fileFrames, "frames of 0.5 MB in the one file")
	set.IntVar(&b.lineMB, "line-mb", lineMB, "MB of the study that is brought over a line")
	set.StringVar(&b.lineOf, "lines", "", "`lines` of the line part to run, by the words in their names; empty: all")
	set.StringVar(&b.keep, "cpuprofile", "", "keep the CPU profiles of both sides in this `folder`")
	if err := set.Parse(args); err != nil {
		return err
	}
	b.parts = strings.Split(*only, ",")
	for _, p := range b.parts {
		if !slices.Contains(strings.Split(transferParts, ","), p) {
			return fmt.Errorf("there is no part %q, only %s", p, transferParts)
		}
	}
	if b.rounds < 1 || b.slices < 1 || b.frames < 2 || b.lineMB < thirdShare {
		return fmt.Errorf("want a round, an instance, two frames, and %d MB for a line at least", thirdShare)
	}
	if b.dir, err = os.MkdirTemp(*dir, "priormesh-transfer-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	built, err := priormesh()
	if err != nil {
		return err
	}
	if *program == "" {
		defer os.RemoveAll(filepath.Dir(built))
	}
	if b.model, err = openModel(*from); err != nil {
		return err
	}
	return b.run(ctx)
}

func (b *transferBench) run(ctx context.Context) error {
	one := b.model.slice(1, 1)
	fmt.Fprintf(b.out, "Bytes in motion. CT instances of %d bytes made from %s; zstd makes one %.2f times smaller. %s, %d CPUs, folder %s.\n",
		len(one), b.model.from, smaller(one), cpuName(), runtime.NumCPU(), filepath.Dir(b.dir))
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"loopback", b.loopback}, {"profile", b.profile}, {"line", b.lines}} {
		if !slices.Contains(b.parts, part.name) {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// sample is one transfer.
type sample struct {
	mb       float64 // a second, of what was moved
	from, to int64   // the most that each side had resident
}

// load is what is moved in one round: a study of many instances and one of one
// instance with many frames. None is moved twice.
type load struct {
	studies [2]study
	uids    [2]string
}

var loadNames = [2]string{"study", "file"}

func (b *transferBench) load() (l load, err error) {
	s := b.next
	b.next += 2
	dir := filepath.Join(b.dir, "in")
	made, err := writeStudies(dir, s, 1, b.slices, b.model.slice)
	if err != nil {
		return l, err
	}
	l.studies[0] = made[0]
	name := fmt.Sprintf("study-%04d", s+1)
	if l.studies[1], err = b.model.writeMultiframe(filepath.Join(dir, name, "0.dcm"), s+1, b.frames); err != nil {
		return l, err
	}
	for i, st := range l.studies {
		uids, err := uidsOf(st.files[0])
		if err != nil {
			return l, err
		}
		l.uids[i] = string(uids.Study)
	}
	syscall.Sync()
	return l, nil
}

// A mover is two servers, of which one has what the other is about to get.
type mover interface {
	// give stores a study at the one; it is not measured.
	give(ctx context.Context, l load, i int) error
	// move brings it to the other and returns how long that took.
	move(ctx context.Context, l load, i int) (time.Duration, error)
	// forget makes room before the next.
	forget(ctx context.Context, l load, i int) error
	pids() (from, to int)
	close() error
}

// moving is a row of the table.
type moving struct {
	name string
	note string
	open func(b *transferBench, ctx context.Context, dir string) (mover, error)
	bare bare.Way // not empty: what is moved is blocks from memory to nowhere
}

const (
	rowPlain   = "plain libp2p stream, TLS"
	rowOurs    = "Priormesh"
	rowKubo    = "Kubo, ipfs get"
	rowBitswap = "bitswap alone"
)

var movings = []moving{
	{name: rowPlain, bare: bare.TLS, note: "blocks in memory, each hashed by the receiver and forgotten"},
	{name: "plain libp2p stream, Noise", bare: bare.Noise, note: "the same"},
	{name: "plain libp2p stream, QUIC", bare: bare.QUIC, note: "the same"},
	{name: rowBitswap, bare: bare.Bitswap, note: "boxo's, one session, TLS; the receiver keeps them in memory"},
	{name: rowOurs, open: (*transferBench).openPair, note: "priormesh run at both ends; from the request to here and durable"},
	{name: "Orthanc, peer store", open: openOrthancPeers, note: "until the sender's answer; each file synced, the index not"},
	{name: "Orthanc, DICOMweb retrieve", open: openOrthancWeb, note: "until the receiver's answer; each file synced, the index not"},
	{name: rowKubo, open: openKuboPair, note: "private pair, from the command to its end: the repository as it syncs by default, and the files"},
}

// loopback prints the table of transfers on one machine.
func (b *transferBench) loopback(ctx context.Context) error {
	got := map[string]*[2][]sample{}
	absent := map[string]bool{}
	servers := map[string]mover{}
	defer func() {
		for _, m := range servers {
			_ = m.close()
		}
	}()
	var sizes [2]int64
	for round := range b.rounds {
		l, err := b.load()
		if err != nil {
			return err
		}
		for i := range sizes {
			sizes[i] = l.studies[i].bytes
		}
		for _, w := range movings {
			if absent[w.name] || b.ways != "" && !strings.Contains(w.name, b.ways) {
				continue
			}
			if got[w.name] == nil {
				got[w.name] = new([2][]sample)
			}
			if w.bare != "" {
				for i := range l.studies {
					s, err := b.bare(ctx, w.bare, l, i)
					if err != nil {
						return fmt.Errorf("%s: %w", w.name, err)
					}
					got[w.name][i] = append(got[w.name][i], s)
				}
				continue
			}
			m := servers[w.name]
			if m == nil {
				if m, err = w.open(b, ctx, mkdir(b.dir, fmt.Sprintf("pair-%d", len(servers)))); errors.Is(err, errAbsent) {
					absent[w.name] = true
					continue
				} else if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				servers[w.name] = m
			}
			for i := range l.studies {
				s, err := b.measure(ctx, m, l, i)
				if err != nil {
					return fmt.Errorf("%s, round %d, %s: %w", w.name, round+1, loadNames[i], err)
				}
				got[w.name][i] = append(got[w.name][i], s)
			}
		}
		if err := os.RemoveAll(filepath.Join(b.dir, "in")); err != nil {
			return err
		}
	}
	b.printLoopback(got, absent, sizes)
	var errs []error
	for name, m := range servers {
		errs = append(errs, m.close())
		delete(servers, name)
	}
	return errors.Join(errs...)
}

func (b *transferBench) measure(ctx context.Context, m mover, l load, i int) (s sample, err error) {
	if err := m.give(ctx, l, i); err != nil {
		return s, fmt.Errorf("giving it to the sender: %w", err)
	}
	syscall.Sync() // what one leaves unwritten must not slow the next
	from, to := m.pids()
	for _, pid := range []int{from, to} {
		if err := forgetPeak(pid); err != nil {
			return s, err
		}
	}
	took, err := m.move(ctx, l, i)
	if err != nil {
		return s, err
	}
	s.mb = float64(l.studies[i].bytes) / mega / took.Seconds()
	for pid, to := range map[int]*int64{from: &s.from, to: &s.to} {
		if *to, err = resident(pid, "VmHWM"); err != nil {
			return s, err
		}
	}
	return s, m.forget(ctx, l, i)
}

// median of some figures.
func median(v []float64) float64 {
	slices.Sort(v)
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func rates(all []sample) []float64 {
	var v []float64
	for _, s := range all {
		v = append(v, s.mb)
	}
	slices.Sort(v)
	return v
}

func (b *transferBench) printLoopback(got map[string]*[2][]sample, absent map[string]bool, sizes [2]int64) {
	fmt.Fprintf(b.out, "\nTwo processes on loopback, cold at the receiver: MB/s of DICOM bytes, median (slowest to fastest) of %d rounds; resident: the most that sender and receiver had, MiB\n", b.rounds)
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "way\tstudy of %d, %.0f MB\tone of %d frames, %.0f MB\tresident, study\tresident, file\thow\n", b.slices, float64(sizes[0])/mega, b.frames, float64(sizes[1])/mega)
	for _, w := range movings {
		switch {
		case absent[w.name]:
			fmt.Fprintf(t, "%s\tnot installed\n", w.name)
			continue
		case got[w.name] == nil:
			continue
		}
		fmt.Fprint(t, w.name)
		for _, all := range got[w.name] {
			v := rates(all)
			fmt.Fprintf(t, "\t%.0f (%.0f-%.0f)", median(v), v[0], v[len(v)-1])
		}
		for _, all := range got[w.name] {
			most := func(of func(sample) int64) float64 {
				return float64(of(slices.MaxFunc(all, func(x, y sample) int { return cmp.Compare(of(x), of(y)) }))) / (1 << 20)
			}
			fmt.Fprintf(t, "\t%.0f, %.0f", most(func(s sample) int64 { return s.from }), most(func(s sample) int64 { return s.to }))
		}
		fmt.Fprintf(t, "\t%s\n", w.note)
	}
	// Of the medians, the best of those whose name begins so.
	best := func(prefix string, i int) (m float64) {
		for name, all := range got {
			if strings.HasPrefix(name, prefix) {
				m = max(m, median(rates(all[i])))
			}
		}
		return m
	}
	for _, r := range []struct {
		name, of string
		target   float64
	}{
		{"Priormesh / the plain stream", rowPlain, ofPlainTarget},
		{"Priormesh / Orthanc's faster way", "Orthanc", orthancTarget},
		{"Priormesh / Kubo", "Kubo", kuboTarget},
		{"Priormesh / bitswap alone", rowBitswap, 0},
	} {
		if best(r.of, 0) == 0 || best(rowOurs, 0) == 0 {
			continue
		}
		fmt.Fprint(t, r.name)
		for i := range sizes {
			fmt.Fprintf(t, "\t%.2f times", best(rowOurs, i)/best(r.of, i))
		}
		aim := ""
		if r.target > 0 {
			aim = fmt.Sprintf("target: %g times at least", r.target)
		}
		fmt.Fprintf(t, "\t\t\t%s\n", aim)
	}
	t.Flush()
}

// bareTold is what a process is told that gives or takes blocks.
type bareTold struct {
	Way     bare.Way
	IP      string
	N, Size int
	Seed    uint64
	Address string // of the giver, for the taker
}

// bareGot is what the taker reports.
type bareGot struct {
	bare.Taken
	Peak int64
}

func givePart(ctx context.Context, t bareTold) (any, error) {
	g, err := bare.Give(ctx, t.Way, t.IP, t.N, t.Size, t.Seed)
	if err != nil {
		return nil, err
	}
	listening(g.Address())
	<-ctx.Done()
	return nil, g.Close()
}

func bareTakePart(ctx context.Context, t bareTold) (any, error) {
	got, err := bare.Take(ctx, t.Way, t.Address, time.Now)
	if err != nil {
		return nil, err
	}
	peak, err := resident(os.Getpid(), "VmHWM")
	return bareGot{got, peak}, err
}

// bare moves as many bytes as the study has, in blocks.
func (b *transferBench) bare(ctx context.Context, way bare.Way, l load, i int) (s sample, err error) {
	size := []int{bareStudy, bareFile}[i]
	t := bareTold{Way: way, IP: "127.0.0.1", N: max(1, int(l.studies[i].bytes)/size), Size: size, Seed: uint64(b.next)}
	giver, err := startChild(ctx, nil, "transfer-give", t, true)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, giver.kill()) }()
	t.Address = giver.addr
	taker, err := startChild(ctx, nil, "transfer-take", t, false)
	if err != nil {
		return s, err
	}
	var got bareGot
	if err := taker.wait(&got); err != nil {
		return s, err
	}
	s.mb, s.to = float64(got.Bytes)/mega/got.Took.Seconds(), got.Peak
	s.from, err = resident(giver.cmd.Process.Pid, "VmHWM")
	return s, err
}

// pair is two Priormesh nodes.
type pair struct{ members []*member }

func (b *transferBench) openPair(ctx context.Context, dir string) (mover, error) {
	members, err := region(ctx, dir, memberSpec{}, memberSpec{})
	if err != nil {
		return nil, err
	}
	return &pair{members}, nil
}

func (p *pair) give(ctx context.Context, l load, i int) error {
	if err := p.members[0].take(ctx, l.studies[i]); err != nil {
		return err
	}
	return p.members[1].knows(ctx, l.uids[i], len(l.studies[i].files), 0)
}

func (p *pair) move(ctx context.Context, l load, i int) (time.Duration, error) {
	return p.members[1].fetch(ctx, l.uids[i])
}

func (p *pair) forget(context.Context, load, int) error { return nil }
func (p *pair) pids() (from, to int)                    { return p.members[0].pid, p.members[1].pid }
func (p *pair) close() error                            { return stopAll(p.members) }

// orthancs is two Orthancs that know each other.
type orthancs struct {
	from, to *stow
	urls     [2]string
	web      bool // the receiver asks by DICOMweb; else the sender stores to its peer
}

func openOrthancPeers(_ *transferBench, ctx context.Context, dir string) (mover, error) {
	return openOrthancs(ctx, dir, false)
}

func openOrthancWeb(_ *transferBench, ctx context.Context, dir string) (mover, error) {
	return openOrthancs(ctx, dir, true)
}

func openOrthancs(ctx context.Context, dir string, web bool) (mover, error) {
	o := &orthancs{web: web}
	var ports [2]int
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
		o.urls[i] = fmt.Sprintf("http://127.0.0.1:%d", ports[i])
	}
	for i, to := range []**stow{&o.from, &o.to} {
		p, url, _, err := startOrthancAt(ctx, mkdir(dir, fmt.Sprint(i)), ports[i], o.urls[1-i])
		if err != nil {
			if o.from != nil {
				err = errors.Join(err, o.from.close())
			}
			return nil, err
		}
		*to = &stow{p, url + "/dicom-web/studies", newClient()}
	}
	return o, nil
}

func (o *orthancs) give(ctx context.Context, l load, i int) error {
	for files := range slices.Chunk(l.studies[i].files, perPost) {
		if err := o.from.put(ctx, files); err != nil {
			return err
		}
	}
	return nil
}

func (o *orthancs) move(ctx context.Context, l load, i int) (time.Duration, error) {
	id, err := o.find(ctx, o.urls[0], l.uids[i])
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if o.web {
		err = o.post(ctx, o.urls[1]+"/dicom-web/servers/there/retrieve", map[string]any{"Resources": []map[string]string{{"Study": l.uids[i]}}, "Synchronous": true})
	} else {
		err = o.post(ctx, o.urls[0]+"/peers/there/store", map[string]any{"Resources": []string{id}, "Synchronous": true})
	}
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	var there struct{ CountInstances int }
	if id, err = o.find(ctx, o.urls[1], l.uids[i]); err == nil {
		err = o.get(ctx, o.urls[1]+"/studies/"+id+"/statistics", &there)
	}
	if err == nil && there.CountInstances != len(l.studies[i].files) {
		err = fmt.Errorf("the other Orthanc has %d of %d instances", there.CountInstances, len(l.studies[i].files))
	}
	return took, err
}

// find gives Orthanc's own name of a study.
func (o *orthancs) find(ctx context.Context, url, uid string) (string, error) {
	b, err := json.Marshal(map[string]any{"Level": "Study", "Query": map[string]string{"StudyInstanceUID": uid}})
	if err != nil {
		return "", err
	}
	var ids []string
	if err := o.call(ctx, http.MethodPost, url+"/tools/find", b, &ids); err != nil {
		return "", err
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("%d studies were found in Orthanc, want 1", len(ids))
	}
	return ids[0], nil
}

func (o *orthancs) post(ctx context.Context, url string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return o.call(ctx, http.MethodPost, url, b, nil)
}

func (o *orthancs) get(ctx context.Context, url string, out any) error {
	return o.call(ctx, http.MethodGet, url, nil, out)
}

func (o *orthancs) call(ctx context.Context, method, url string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	resp, err := o.from.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %v %.500s", url, resp.Status, err, b)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

func (o *orthancs) forget(ctx context.Context, l load, i int) error {
	for _, url := range o.urls {
		id, err := o.find(ctx, url, l.uids[i])
		if err != nil {
			return err
		}
		if err := o.call(ctx, http.MethodDelete, url+"/studies/"+id, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

func (o *orthancs) pids() (from, to int) { return o.from.cmd.Process.Pid, o.to.cmd.Process.Pid }
func (o *orthancs) close() error         { return errors.Join(o.from.close(), o.to.close()) }

// kubos is two Kubo nodes that know nobody but each other.
type kubos struct {
	from, to *kubo
	dir      string
	cids     map[string]string // by Study Instance UID
}

func openKuboPair(_ *transferBench, ctx context.Context, dir string) (mover, error) {
	program, err := findKubo()
	if err != nil {
		return nil, err
	}
	k := &kubos{dir: dir, cids: map[string]string{}}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)
	if k.from, err = startKubo(ctx, program, mkdir(dir, "from"), `["`+address+`"]`); err != nil {
		return nil, err
	}
	if k.to, err = startKubo(ctx, program, mkdir(dir, "to"), "[]"); err != nil {
		return nil, errors.Join(err, k.from.close())
	}
	id, err := k.from.say(ctx, "id", "-f", "<id>")
	if err == nil {
		_, err = k.to.say(ctx, "swarm", "connect", address+"/p2p/"+strings.TrimSpace(id))
	}
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

// say runs a command of ipfs and returns what it printed.
func (k *kubo) say(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, k.program, args...)
	cmd.Env = append(os.Environ(), k.env...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %.500s", err, exit.Stderr)
		}
		return "", fmt.Errorf("ipfs %s: %w", args[0], err)
	}
	return string(out), nil
}

func (k *kubos) give(ctx context.Context, l load, i int) error {
	out, err := k.from.say(ctx, "add", "-r", "-Q", "--progress=false", l.studies[i].dir)
	k.cids[l.uids[i]] = strings.TrimSpace(out)
	return err
}

func (k *kubos) move(ctx context.Context, l load, i int) (time.Duration, error) {
	to := filepath.Join(k.dir, "got")
	began := time.Now()
	_, err := k.to.say(ctx, "get", "--progress=false", "-o", to, k.cids[l.uids[i]])
	took := time.Since(began)
	if err == nil {
		err = sameSize(to, l.studies[i].bytes)
	}
	return took, errors.Join(err, os.RemoveAll(to))
}

// sameSize holds a folder against the bytes that should be in it.
func sameSize(dir string, want int64) error {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err == nil && n != want {
		err = fmt.Errorf("%d bytes came of %d", n, want)
	}
	return err
}

func (k *kubos) forget(context.Context, load, int) error { return nil }
func (k *kubos) pids() (from, to int)                    { return k.from.cmd.Process.Pid, k.to.cmd.Process.Pid }
func (k *kubos) close() error                            { return errors.Join(k.from.close(), k.to.close()) }

func output(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %.500s", err, exit.Stderr)
		}
		return "", fmt.Errorf("%s %s: %w", filepath.Base(program), args[0], err)
	}
	return string(out), nil
}

// Where the CPU time of a transfer goes.
var transferKinds = []kind{
	{"hash (SHA-256)", []string{"crypto/sha256", "crypto/internal/fips140/sha256", "github.com/minio/sha256-simd"}},
	{"TLS", []string{"crypto/tls"}},
	{"seal or open (AES-GCM)", []string{module + "cas.Key", module + "cas.(*Key)", module + "cas.sealed", "crypto/internal/fips140/aes", "crypto/cipher"}},
	{"compress or expand", []string{"github.com/klauspost/compress", module + "cas.unpack", module + "cas.pack"}},
	{"sockets (read, write)", []string{"internal/poll.(*FD)", "syscall.Syscall", "net."}},
	{"yamux, libp2p", []string{"github.com/libp2p/go-yamux", "github.com/libp2p"}},
	{"CBOR", []string{"github.com/fxamacker/cbor"}},
	{"Badger", []string{"github.com/dgraph-io"}},
	{"blocks on disk", []string{module + "cas.osFile", module + "cas.(*Disk)", module + "cas.(*disk", module + "cas.(*pack", module + "cas.syncData", "hash/crc32"}},
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcAssistAlloc"}},
	{"the mesh", []string{module + "mesh."}},
	{"the archive", []string{module + "node"}},
	{"cas, the rest", []string{module + "cas."}},
	{"the index", []string{module + "index."}},
	{"moving and clearing memory", []string{"runtime.memmove", "runtime.memclr", "runtime.mallocgc", "runtime.growslice", "runtime.makeslice"}},
}

// profile prints on what the CPU time of both sides of a fetch goes. The nodes
// are run by this program, which can profile them.
func (b *transferBench) profile(ctx context.Context) (err error) {
	if _, err := exec.LookPath("go"); err != nil {
		fmt.Fprintln(b.out, "\nWhere the CPU time of a fetch goes is not shown: reading a profile needs the go command")
		return nil
	}
	members, err := region(ctx, mkdir(b.dir, "profiled"), memberSpec{profiled: true}, memberSpec{profiled: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopAll(members)) }()
	p := &pair{members}
	dir := b.keep
	if dir == "" {
		dir = b.dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range loadNames {
		var loads []load
		for range b.rounds {
			l, err := b.load()
			if err != nil {
				return err
			}
			if err := p.give(ctx, l, i); err != nil {
				return err
			}
			loads = append(loads, l)
		}
		syscall.Sync()
		var stops []func(string) error
		for _, m := range members {
			stop, err := m.profile(ctx)
			if err != nil {
				return err
			}
			stops = append(stops, stop)
		}
		var took time.Duration
		var bytes int64
		for _, l := range loads {
			d, err := p.move(ctx, l, i)
			if err != nil {
				return err
			}
			took, bytes = took+d, bytes+l.studies[i].bytes
		}
		fmt.Fprintf(b.out, "\nWhere the CPU time goes, fetching the %s %d times: %.0f MB/s\n", loadNames[i], len(loads), float64(bytes)/mega/took.Seconds())
		t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
		for k, side := range []string{"sender", "receiver"} {
			path := filepath.Join(dir, loadNames[i]+"-"+side+".pprof")
			if err := stops[k](path); err != nil {
				return err
			}
			spent, err := profile(ctx, path, transferKinds)
			if err != nil {
				return err
			}
			var all time.Duration
			for _, d := range spent {
				all += d
			}
			fmt.Fprintf(t, "the %s, %.2f CPUs\tof it\tms a MB\n", side, all.Seconds()/took.Seconds())
			for _, name := range byCount(spent) {
				fmt.Fprintf(t, "%s\t%.1f %%\t%.2f\n", name, 100*float64(spent[name])/float64(max(all, 1)), float64(spent[name].Microseconds())/1000/(float64(bytes)/mega))
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(b.dir, "in")); err != nil {
			return err
		}
	}
	return nil
}
