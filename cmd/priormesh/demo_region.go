package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// demoTrust is one trust of the demo: its home and its running node.
type demoTrust struct {
	ods, name string
	home      *node.Home
	child     *child
	client    *api.Client
	web       string // http://127.0.0.1:PORT
}

// demoNames are invented; the ODS codes beside them are RX1, RX2, …
var demoNames = []string{"Upper Vale Hospital", "Harbour Infirmary", "Moorside General", "Northgate Hospital", "Saint Odo's",
	"Fenland Hospital", "Castle Infirmary", "Three Rivers General"}

// portTries is how often a node is started on other ports when another program
// took one in between.
const portTries = 3

// demoRegion is the trusts and their processes.
type demoRegion struct {
	dir    string
	exe    string
	trusts []*demoTrust
	fail   context.CancelCauseFunc // ends the demo when a process ends by itself
	ending chan struct{}
}

func newDemoRegion(dir string, fail context.CancelCauseFunc) (*demoRegion, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &demoRegion{dir: dir, exe: exe, fail: fail, ending: make(chan struct{})}, nil
}

// add makes the home of one more trust. The first one founds the region.
func (r *demoRegion) add() (*demoTrust, error) {
	n := len(r.trusts)
	t := &demoTrust{ods: fmt.Sprintf("RX%d", n+1), name: demoNames[n]}
	conf := node.DefaultConfig()
	conf.Trust, conf.Name = index.TrustID(t.ods), t.name
	conf.Identity.DefaultIssuer = demoIssuer
	conf.Space.Reserve = 0 // a demo is no archive, and its homes share one disk
	if err := freePorts(&conf); err != nil {
		return nil, err
	}
	found := ""
	if n == 0 {
		found = "Demo region"
	}
	var err error
	if t.home, err = node.InitHome(filepath.Join(r.dir, t.ods), node.InitOptions{Config: conf, Found: found}); err != nil {
		return nil, err
	}
	r.trusts = append(r.trusts, t)
	return t, nil
}

// freePorts lets the system choose. Between here and the node's start another
// program may take one; start tries again then.
func freePorts(c *node.Config) error {
	var ports [2]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("no free port on loopback: %w", err)
		}
		defer l.Close() // both are held until both are known
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	c.HTTP = fmt.Sprintf("127.0.0.1:%d", ports[0])
	c.Mesh = []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", ports[1])}
	return nil
}

// start runs a trust's node and waits until it serves.
func (r *demoRegion) start(ctx context.Context, t *demoTrust) error {
	log := filepath.Join(r.dir, t.ods+".log")
	for try := 1; ; try++ {
		c, err := startChild(r.exe, t.home.Dir, log)
		if err != nil {
			return fmt.Errorf("%s's node cannot be started: %w", t.ods, err)
		}
		t.child = c
		select {
		case said := <-c.ready:
			t.web = said.HTTP
			token, err := t.home.Token()
			if err != nil {
				return err
			}
			t.client = api.NewClient(t.web, token, nil)
			go r.watch(t)
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.done:
		}
		if tail := c.tail(); try == portTries || !strings.Contains(tail, "address already in use") {
			return ended(t)
		}
		if err := t.otherPorts(); err != nil {
			return err
		}
	}
}

// watch ends the demo when a node ends that nobody asked to.
func (r *demoRegion) watch(t *demoTrust) {
	select {
	case <-r.ending:
	case <-t.child.done:
		select {
		case <-r.ending:
		default:
			r.fail(ended(t))
		}
	}
}

func ended(t *demoTrust) error {
	how := "with exit code 0"
	if t.child.err != nil {
		how = t.child.err.Error()
	}
	return fmt.Errorf("%s's node has ended by itself (%s); the end of its log:\n%s", t.ods, how, t.child.tail())
}

// otherPorts changes config.toml, as an operator would with an editor.
func (t *demoTrust) otherPorts() error {
	conf := t.home.Config
	if err := freePorts(&conf); err != nil {
		return err
	}
	b, err := toml.Marshal(conf)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.home.Dir, "config.toml"), b, 0o600); err != nil {
		return err
	}
	t.home, err = node.OpenHome(t.home.Dir)
	return err
}

// admit has the members endorse a trust by its card, one after the other,
// until it is admitted, and joins it with the invitation.
func (r *demoRegion) admit(ctx context.Context, t *demoTrust, members []*demoTrust) (by []string, err error) {
	card, err := t.home.Card()
	if err != nil {
		return nil, err
	}
	var a api.Admission
	err = until(ctx, func(ctx context.Context) error {
		// A member that has not heard the others' endorsements yet counts fewer;
		// endorsing again changes nothing.
		for _, m := range members {
			if a, err = m.client.Admit(ctx, card); err != nil {
				return fmt.Errorf("%s does not endorse %s: %w", m.ods, t.ods, err)
			}
			if a.Admitted {
				return nil
			}
		}
		return fmt.Errorf("%s has %d of the %d endorsements needed", t.ods, a.Have, a.Need)
	})
	if err != nil {
		return nil, err
	}
	if _, err := t.home.Join(a.Invitation); err != nil {
		return nil, err
	}
	return a.By, nil
}

// hearing waits until every node hears every other one.
func (r *demoRegion) hearing(ctx context.Context) error {
	return until(ctx, func(ctx context.Context) error {
		for _, t := range r.trusts {
			s, err := t.client.Status(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", t.ods, err)
			}
			heard := 0
			for _, o := range s.Trusts {
				if o.Heard && o.Behind == 0 {
					heard++
				}
			}
			if heard != len(r.trusts)-1 {
				return fmt.Errorf("%s hears %d of the %d other trusts", t.ods, heard, len(r.trusts)-1)
			}
		}
		return nil
	})
}

// end ends all processes, the last started first.
func (r *demoRegion) end() error {
	close(r.ending)
	ends := make([]error, len(r.trusts))
	running := 0
	done := make(chan struct{})
	for i, t := range r.trusts {
		if t.child == nil {
			continue
		}
		running++
		go func() {
			if err := t.child.end(); err != nil {
				ends[i] = fmt.Errorf("%s's node: %w; the end of its log:\n%s", t.ods, err, t.child.tail())
			}
			done <- struct{}{}
		}()
	}
	for range running {
		<-done
	}
	return errors.Join(ends...)
}

// until asks again and again until check is satisfied. When ctx ends first,
// what check said last is in the error.
func until(ctx context.Context, check func(context.Context) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, errTimeout) {
				return cause
			}
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}
