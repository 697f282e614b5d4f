package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/priormesh/priormesh/mesh/bare"
	"github.com/priormesh/priormesh/simulations/link"
)

// The line that studies are brought over.
const (
	lineRate  = 100.0                 // Mbit/s
	lineTrip  = 50 * time.Millisecond // there and back
	lineLoss  = 0.01                  // of the packets, each way, where some are lost
	thirdRate = 30.0                  // Mbit/s, of each of the three holders

	lineMB     = 500                    // the study
	lossyShare = 10                     // a line that loses packets is given so many times less
	thirdShare = 5                      // and one of three holders
	settleFor  = 300 * time.Millisecond // between two frames that are asked for beside another study

	// What a fetch over a line should reach.
	lineTarget  = 1.1 // times the line's own time
	tripsTarget = 5.0 // round trips until a frame, beside its own time
	thirdTarget = 2.5 // times the rate of one holder
)

// lineCase is a line with two nodes at its ends.
type lineCase struct {
	name       string
	way        bare.Way
	loss       float64
	congestion string // of TCP; empty: the kernel's own choice
}

var lineCases = []lineCase{
	{name: "TCP", way: bare.TLS},
	{name: "QUIC", way: bare.QUIC},
	{name: "TCP (reno), 1 % lost", way: bare.TLS, loss: lineLoss, congestion: "reno"},
	{name: "TCP (cubic), 1 % lost", way: bare.TLS, loss: lineLoss, congestion: "cubic"},
	{name: "TCP (BBR), 1 % lost", way: bare.TLS, loss: lineLoss, congestion: "bbr"},
	{name: "QUIC, 1 % lost", way: bare.QUIC, loss: lineLoss},
}

// lineGot is what was measured over one line.
type lineGot struct {
	mb          float64 // of the study
	fetch       time.Duration
	plainMB     float64
	plain       time.Duration
	frame       []time.Duration // a frame of a study of which nothing is here
	meta, after []time.Duration // the metadata of a series, and then a frame
	busy        []time.Duration // a frame while the line is full of another study
}

// lines prints what bringing studies over a line takes, against the line's own time.
func (b *transferBench) lines(ctx context.Context) error {
	fmt.Fprintf(b.out, "\nOver a line of %.0f Mbit/s and %v there and back: instances of 0.26 MB that do not compress; frames are of 0.26 MB; a line that loses packets loses %.0f %% of those each way\n",
		lineRate, lineTrip, 100*lineLoss)
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "line\tMB\tstudy, s\tof the line's own time\tplain libp2p stream\tframe, ms (slowest)\tround trips beside its own time\tmetadata of a series, ms\tthen a frame, ms\ta frame while another study comes, ms (slowest)")
	for i, c := range lineCases {
		if !strings.Contains(c.name, b.lineOf) {
			continue
		}
		got, err := b.line(ctx, c, mkdir(b.dir, fmt.Sprintf("line-%d", i)))
		if errors.Is(err, link.ErrRights) {
			fmt.Fprintf(t, "%s\tnot measured: %v\n", c.name, err)
			continue
		} else if errors.Is(err, errAbsent) {
			fmt.Fprintf(t, "%s\tthis kernel has none, or not for a place\n", c.name)
			continue
		} else if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		own := func(mb float64) float64 { return mb * mega / link.Mbit(lineRate) }
		frame, frameMost := middle(got.frame)
		meta, _ := middle(got.meta)
		after, _ := middle(got.after)
		busy, busyMost := middle(got.busy)
		fmt.Fprintf(t, "%s\t%.0f\t%.1f\t%.2f times\t%.2f times\t%.0f (%.0f)\t%.1f\t%.0f\t%.0f\t%.0f (%.0f)\n", c.name, got.mb, got.fetch.Seconds(),
			got.fetch.Seconds()/own(got.mb), got.plain.Seconds()/own(got.plainMB), ms(frame), ms(frameMost),
			(frame.Seconds()-own(fragment/mega))/lineTrip.Seconds(), ms(meta), ms(after), ms(busy), ms(busyMost))
	}
	fmt.Fprintf(t, "target, where nothing is lost\t\t\t%.1f times at most\t\t\t%.0f at most\n", lineTarget, tripsTarget)
	if err := t.Flush(); err != nil {
		return err
	}
	one, three, err := b.holders(ctx, mkdir(b.dir, "holders"))
	if errors.Is(err, link.ErrRights) {
		fmt.Fprintf(b.out, "Several holders: not measured: %v\n", err)
		return nil
	} else if err != nil {
		return fmt.Errorf("three holders: %w", err)
	}
	fmt.Fprintf(b.out, "A study of %.0f MB from a holder with %.0f Mbit/s: %.1f Mbit/s; from three such: %.1f, %.2f times as fast (target: %.1f times)\n",
		float64(b.lineMB/thirdShare), thirdRate, one, three, three/one, thirdTarget)
	return nil
}

// middle gives the median and the longest.
func middle(all []time.Duration) (mid, most time.Duration) {
	var v []float64
	for _, d := range all {
		v, most = append(v, float64(d)), max(most, d)
	}
	return time.Duration(median(v)), most
}

// half is one end's share of a line: each way passes two ends.
func half(mbit, loss float64) link.Line {
	return link.Line{Rate: link.Mbit(mbit), Delay: lineTrip / 4, Loss: loss}
}

func listenAt(p *link.Place, way bare.Way) string {
	if way == bare.QUIC {
		return fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", p.Addr())
	}
	return fmt.Sprintf("/ip4/%s/tcp/4001", p.Addr())
}

func newSwitch() (*link.Switch, error) {
	return link.NewSwitch(rand.New(rand.NewPCG(1, 2)), time.Now)
}

// line measures one line. What is lost is lost at the sender's end.
func (b *transferBench) line(ctx context.Context, c lineCase, dir string) (got lineGot, err error) {
	s, err := newSwitch()
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, s.Close(), os.RemoveAll(dir)) }()
	from, err := s.Place(half(lineRate, c.loss), half(lineRate, c.loss))
	if err != nil {
		return got, err
	}
	to, err := s.Place(half(lineRate, 0), half(lineRate, 0))
	if err != nil {
		return got, err
	}
	if c.congestion != "" {
		for _, p := range []*link.Place{from, to} {
			if err := p.Congestion(c.congestion); err != nil {
				return got, errors.Join(errAbsent, err)
			}
		}
	}
	members, err := region(ctx, dir, memberSpec{place: from, listen: listenAt(from, c.way)}, memberSpec{place: to, listen: listenAt(to, c.way)})
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, stopAll(members)) }()
	sender, receiver := members[0], members[1]
	for i := range 2 * b.tries {
		st, err := b.give(ctx, sender, receiver, b.few, 0)
		if err != nil {
			return got, err
		}
		if i%2 == 1 {
			meta, err := receiver.metadata(ctx, st)
			if err != nil {
				return got, err
			}
			got.meta = append(got.meta, meta)
		}
		frame, err := receiver.frame(ctx, st.files[b.few/2])
		if err != nil {
			return got, err
		}
		if i%2 == 1 {
			got.after = append(got.after, frame)
		} else {
			got.frame = append(got.frame, frame)
		}
		// What comes behind the frame must not be in the way of the next.
		if _, err := receiver.fetch(ctx, st.uid); err != nil {
			return got, err
		}
	}
	mb := b.lineMB
	if c.loss > 0 {
		mb = max(1, mb/lossyShare)
	}
	st, err := b.give(ctx, sender, receiver, instancesOf(mb), 0)
	if err != nil {
		return got, err
	}
	got.mb = float64(st.bytes) / mega
	if got.fetch, err = receiver.fetch(ctx, st.uid); err != nil {
		return got, err
	}
	if got.busy, err = b.framesBeside(ctx, sender, receiver, mb); err != nil {
		return got, err
	}
	got.plainMB, got.plain, err = b.plainOver(ctx, c.way, from, to, mb)
	return got, err
}

// plainOver moves a fifth of so many MB by a plain stream over the same line.
func (b *transferBench) plainOver(ctx context.Context, way bare.Way, from, to *link.Place, mb int) (moved float64, took time.Duration, err error) {
	t := bareTold{Way: way, IP: from.Addr().String(), N: max(1, mb*mega/5/bareStudy), Size: bareStudy, Seed: uint64(b.next)}
	giver, err := startChild(ctx, from, "transfer-give", t, true)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, giver.kill()) }()
	t.Address = giver.addr
	taker, err := startChild(ctx, to, "transfer-take", t, false)
	if err != nil {
		return 0, 0, err
	}
	var got bareGot
	if err := taker.wait(&got); err != nil {
		return 0, 0, err
	}
	return float64(got.Bytes) / mega, got.Took, nil
}

// framesBeside asks for frames of studies of which nothing is here while another
// one comes.
func (b *transferBench) framesBeside(ctx context.Context, sender, receiver *member, mb int) (took []time.Duration, err error) {
	var of []study
	for range b.tries {
		st, err := b.give(ctx, sender, receiver, b.few, 0)
		if err != nil {
			return nil, err
		}
		of = append(of, st)
	}
	other, err := b.give(ctx, sender, receiver, instancesOf(mb), 0)
	if err != nil {
		return nil, err
	}
	if err := receiver.ask(ctx, other.uid); err != nil {
		return nil, err
	}
	for _, st := range of {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(settleFor):
		}
		d, err := receiver.frame(ctx, st.files[b.few/2])
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	for _, st := range append(of, other) {
		if _, err := receiver.fetch(ctx, st.uid); err != nil {
			return nil, err
		}
	}
	return took, nil
}

func instancesOf(mb int) int { return max(3, mb*mega/fragment) }

// give stores a study that does not compress at a node and waits until another
// knows all of it, and that so many others have a copy.
func (b *transferBench) give(ctx context.Context, at, known *member, instances, copies int) (st study, err error) {
	n := b.next
	b.next++
	made, err := writeStudies(filepath.Join(b.dir, "in"), n, 1, instances, b.model.encapsulated)
	if err != nil {
		return st, err
	}
	st = made[0]
	if st.uid, err = studyUID(st.files[0]); err != nil {
		return st, err
	}
	if err := at.take(ctx, st); err != nil {
		return st, err
	}
	syscall.Sync()
	return st, known.knows(ctx, st.uid, instances, copies)
}

// frame asks a node for the first frame of an instance, as a viewer does, and
// returns how long it took until all of it was here.
func (m *member) frame(ctx context.Context, file string) (time.Duration, error) {
	u, err := uidsOf(file)
	if err != nil {
		return 0, err
	}
	n, took, err := m.get(ctx, fmt.Sprintf("studies/%s/series/%s/instances/%s/frames/1", u.Study, u.Series, u.Instance), `multipart/related; type="image/jp2"; transfer-syntax=*`)
	if err == nil && n < fragment {
		err = fmt.Errorf("a frame of %d bytes came as %d", fragment, n)
	}
	return took, err
}

// metadata asks for that of a study's series.
func (m *member) metadata(ctx context.Context, st study) (time.Duration, error) {
	u, err := uidsOf(st.files[0])
	if err != nil {
		return 0, err
	}
	n, took, err := m.get(ctx, fmt.Sprintf("studies/%s/series/%s/metadata", u.Study, u.Series), "application/dicom+json")
	if err == nil && n < int64(100*len(st.files)) {
		err = fmt.Errorf("the metadata of %d instances came as %d bytes", len(st.files), n)
	}
	return took, err
}

func (m *member) get(ctx context.Context, path, accept string) (n int64, took time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/dicom-web/"+path, nil)
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Accept", accept)
	began := time.Now()
	resp, err := m.web.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return 0, 0, fmt.Errorf("%s: %s %s", path, resp.Status, strings.TrimSpace(string(b)))
	}
	n, err = io.Copy(io.Discard, resp.Body)
	return n, time.Since(began), err
}

// holders brings a study that one node has, and one that three have, and
// returns the rates in Mbit/s.
func (b *transferBench) holders(ctx context.Context, dir string) (one, three float64, err error) {
	s, err := newSwitch()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, s.Close(), os.RemoveAll(dir)) }()
	var specs []memberSpec
	for i := range 4 {
		up := thirdRate
		if i == 3 {
			up = lineRate
		}
		p, err := s.Place(half(up, 0), half(lineRate, 0))
		if err != nil {
			return 0, 0, err
		}
		specs = append(specs, memberSpec{place: p, listen: listenAt(p, bare.TLS)})
	}
	members, err := region(ctx, dir, specs...)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stopAll(members)) }()
	receiver := members[3]
	rate := func(st study) (float64, error) {
		took, err := receiver.fetch(ctx, st.uid)
		return float64(st.bytes) * 8 / mega / took.Seconds(), err
	}
	n := instancesOf(b.lineMB / thirdShare)
	shared, err := b.give(ctx, members[0], receiver, n, 0)
	if err != nil {
		return 0, 0, err
	}
	for _, m := range members[1:3] {
		if err := m.knows(ctx, shared.uid, n, 0); err != nil {
			return 0, 0, err
		}
		if _, err := m.fetch(ctx, shared.uid); err != nil {
			return 0, 0, err
		}
	}
	if err := receiver.knows(ctx, shared.uid, n, 2); err != nil {
		return 0, 0, err
	}
	alone, err := b.give(ctx, members[0], receiver, n, 0)
	if err != nil {
		return 0, 0, err
	}
	if one, err = rate(alone); err != nil {
		return 0, 0, err
	}
	three, err = rate(shared)
	return one, three, err
}
