package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
	"github.com/priormesh/priormesh/simulations/link"
)

// How long things may take before a measurement gives up.
const (
	learnWithin = 60 * time.Second // of a study that another node has
	fetchWithin = 10 * time.Minute
	pollEvery   = 2 * time.Millisecond
)

// member is a trust's node in a process of its own, a region's member.
type member struct {
	trust  string
	home   *node.Home
	place  *link.Place // nil: here
	url    string
	token  string
	client *api.Client
	web    *http.Client
	pid    int
	end    func() error
	cpu    string // of a profiled node: where its profile is asked for
}

// memberSpec is how a member is to be.
type memberSpec struct {
	place    *link.Place
	listen   string // multiaddr; empty: loopback by TCP
	profiled bool   // run by this program, which can profile it, instead of by priormesh
}

// region starts nodes that are all admitted and hear each other.
func region(ctx context.Context, dir string, specs ...memberSpec) (members []*member, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, stopAll(members))
		}
	}()
	for i, s := range specs {
		m, err := newMember(dir, i, s)
		if err != nil {
			return members, err
		}
		if i > 0 {
			if err := m.join(ctx, members); err != nil {
				return members, err
			}
		}
		if err := m.start(ctx, s); err != nil {
			return members, err
		}
		members = append(members, m)
	}
	for _, m := range members {
		err := until(ctx, learnWithin, m.trust+" hears all others", func() (bool, error) {
			s, err := m.client.Status(ctx)
			heard := 0
			for _, t := range s.Trusts {
				if t.Heard && t.Behind == 0 {
					heard++
				}
			}
			return heard == len(members)-1, err
		})
		if err != nil {
			return members, err
		}
	}
	return members, nil
}

func stopAll(members []*member) error {
	var errs []error
	for _, m := range members {
		if m.end != nil {
			errs = append(errs, m.end())
		}
	}
	return errors.Join(errs...)
}

func newMember(dir string, i int, s memberSpec) (*member, error) {
	m := &member{trust: fmt.Sprintf("BENCH%d", i), place: s.place}
	web, err := freePort()
	if err != nil {
		return nil, err
	}
	c := node.DefaultConfig()
	c.Trust, c.Name, c.HTTP = index.TrustID(m.trust), m.trust, fmt.Sprintf("127.0.0.1:%d", web)
	c.Mesh = []string{s.listen}
	if s.listen == "" {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		c.Mesh[0] = fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)
	}
	c.Identity.DefaultIssuer = "BENCH"
	c.Archive.SettleAfter = node.Duration(200 * time.Millisecond)
	c.Completeness.HeardWithin = node.Duration(5 * time.Second)
	found := ""
	if i == 0 {
		found = "Bench"
	}
	if m.home, err = node.InitHome(filepath.Join(dir, m.trust), node.InitOptions{Config: c, Found: found}); err != nil {
		return nil, err
	}
	m.url = "http://" + c.HTTP
	if s.place != nil {
		if err := s.place.Forward(web); err != nil {
			return nil, err
		}
	}
	token, err := os.ReadFile(filepath.Join(m.home.Dir, "operator.token"))
	if err != nil {
		return nil, err
	}
	m.token = strings.TrimSpace(string(token))
	m.client, m.web = api.NewClient(m.url, m.token, nil), newClient()
	return m, nil
}

// join has all members so far admit this one.
func (m *member) join(ctx context.Context, members []*member) error {
	program, err := priormesh()
	if err != nil {
		return err
	}
	card, err := output(ctx, program, "card", "--home", m.home.Dir)
	if err != nil {
		return err
	}
	var invitation string
	err = until(ctx, learnWithin, m.trust+" is admitted", func() (bool, error) {
		for _, o := range members {
			a, err := o.client.Admit(ctx, strings.TrimSpace(card))
			if err != nil {
				return false, err
			}
			if a.Admitted {
				invitation = a.Invitation
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	return run(ctx, nil, program, "join", "--home", m.home.Dir, invitation)
}

func (m *member) start(ctx context.Context, s memberSpec) error {
	if s.profiled {
		c, err := startChild(ctx, m.place, "transfer-node", nodeTold{Home: m.home.Dir}, true)
		if err != nil {
			return err
		}
		m.pid, m.cpu = c.cmd.Process.Pid, "http://"+c.addr
		m.end = func() error {
			if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				return err
			}
			return c.wait(nil)
		}
		return nil
	}
	program, err := priormesh()
	if err != nil {
		return err
	}
	p, err := launchAt(ctx, m.place, "priormesh", m.url+"/readyz", nil, program, "run", "--home", m.home.Dir, "--log-level", "warn")
	if err != nil {
		return err
	}
	m.pid, m.end = p.cmd.Process.Pid, p.stop
	return nil
}

// nodeTold is what a process is told that is a node and can profile itself.
type nodeTold struct{ Home string }

// nodePart runs a node as `priormesh run` does. GET /start and GET /stop, at the
// address that it says it listens on, begin a CPU profile and give it.
func nodePart(ctx context.Context, t nodeTold) (any, error) {
	home, err := node.OpenHome(t.Home)
	if err != nil {
		return nil, err
	}
	n, err := node.Open(ctx, home, node.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Version: "bench"})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	var cpu strings.Builder
	mux := http.NewServeMux()
	mux.HandleFunc("/start", func(http.ResponseWriter, *http.Request) {
		cpu.Reset()
		_ = pprof.StartCPUProfile(&cpu)
	})
	mux.HandleFunc("/stop", func(w http.ResponseWriter, _ *http.Request) {
		pprof.StopCPUProfile()
		_, _ = io.WriteString(w, cpu.String())
	})
	s := &http.Server{Handler: mux}
	stopped := make(chan struct{})
	go func() { _ = s.Serve(l); close(stopped) }()
	listening(l.Addr().String())
	<-ctx.Done()
	err = s.Close()
	<-stopped
	return nil, errors.Join(err, n.Close())
}

// profile has a profiled member begin a profile; the function returned writes it to a file.
func (m *member) profile(ctx context.Context) (stop func(path string) error, err error) {
	ask := func(what string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.cpu+what, nil)
		if err != nil {
			return nil, err
		}
		resp, err := m.web.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return io.ReadAll(resp.Body)
	}
	if _, err := ask("/start"); err != nil {
		return nil, err
	}
	return func(path string) error {
		b, err := ask("/stop")
		if err != nil {
			return err
		}
		return os.WriteFile(path, b, 0o600)
	}, nil
}

// take stores a study at the member.
func (m *member) take(ctx context.Context, st study) error {
	s := &stow{url: m.url + "/dicom-web/studies", client: m.web}
	for files := range slices.Chunk(st.files, perPost) {
		if err := s.put(ctx, files); err != nil {
			return err
		}
	}
	return nil
}

// knows waits until the member has heard of all of a study, that it will not
// grow, and of so many other trusts that hold a copy.
func (m *member) knows(ctx context.Context, uid string, instances, copies int) error {
	return until(ctx, learnWithin, m.trust+" knows the study", func() (bool, error) {
		f, err := m.client.Find(ctx, api.Filter{Study: uid})
		return err == nil && len(f.Studies) == 1 && f.Studies[0].Instances == instances && f.Studies[0].Settled && len(f.Studies[0].Copies) >= copies, err
	})
}

// fetch brings a study and returns how long that took, until it was here and durable.
func (m *member) fetch(ctx context.Context, uid string) (time.Duration, error) {
	began := time.Now()
	if err := m.ask(ctx, uid); err != nil {
		return 0, err
	}
	err := until(ctx, fetchWithin, m.trust+" has the study", func() (bool, error) {
		f, err := m.client.FetchStatus(ctx, uid)
		if f.Error != "" {
			return false, errors.New(f.Error)
		}
		return f.State == "here", err
	})
	return time.Since(began), err
}

// ask asks for a study; the node has the wish when it returns.
func (m *member) ask(ctx context.Context, uid string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url+"/api/v1/fetches", strings.NewReader(`{"study":"`+uid+`"}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+m.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := m.web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("the request for a study: %s %.300s", resp.Status, b)
	}
	return err
}

// until asks again and again. An error ends it.
func until(ctx context.Context, within time.Duration, what string, done func() (bool, error)) error {
	for began := time.Now(); ; {
		ok, err := done()
		if ok && err == nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if time.Since(began) > within {
			return fmt.Errorf("not within %v: %s", within, what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}
