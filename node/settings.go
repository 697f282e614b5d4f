package node

import (
	"bytes"
	"context"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/api"
)

// settingsEvery is how often config.toml is looked at, and whether a time of
// full speed begins or ends.
const settingsEvery = 2 * time.Second

// settings keeps what may change while the node runs, [fetch], as config.toml has
// it. The file is read again and again: that sees every way in which it may be
// replaced, on every file system. A file that is being written is not taken for
// one that is complete: its content must be the same at two looks.
type settings struct {
	n    *Node
	read func() ([]byte, error)

	mu      sync.Mutex
	fetch   FetchConfig
	judged  []byte // what was last taken, or found bad
	before  []byte // at the look before
	since   time.Time
	problem string
	restart []string // settings that have changed and are taken at a start only
	rates   [2]mesh.Rates
}

func newSettings(n *Node) *settings {
	path := n.home.path(configFile)
	s := &settings{n: n, read: func() ([]byte, error) { return os.ReadFile(path) }, fetch: n.home.Config.Fetch, since: n.Now()}
	// What is there now may be younger than what the node was started with.
	if b, err := s.read(); err == nil {
		if c, err := parseConfig(path, b); err == nil && reflect.DeepEqual(c, n.home.Config) {
			s.judged = b
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bound()
	return s
}

func (s *settings) run(ctx context.Context) {
	look := time.NewTicker(settingsEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		s.look(false)
	}
}

// look takes config.toml if it has changed, at once or when its content has been
// the same at two looks. One that is bad changes nothing, and is said to be.
func (s *settings) look(atOnce bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.bound()
	log := s.n.Log
	b, err := s.read()
	if err != nil {
		if text := "it cannot be read: " + err.Error(); s.problem != text {
			s.problem = text
			log.Error("config.toml cannot be read; the settings stay as they were", "error", err)
		}
		s.judged, s.before = nil, nil
		return
	}
	stable := bytes.Equal(b, s.before)
	s.before = b
	if s.judged != nil && bytes.Equal(b, s.judged) || !stable && !atOnce {
		return
	}
	s.judged = b
	c, err := parseConfig(s.n.home.path(configFile), b)
	if err != nil {
		s.problem = err.Error()
		log.Error("config.toml is wrong; the settings stay as they were", "error", err)
		return
	}
	s.problem, s.since = "", s.n.Now()
	was := s.restart
	if s.restart = differ(reflect.ValueOf(s.n.home.Config), reflect.ValueOf(c), ""); len(s.restart) > 0 && !slices.Equal(was, s.restart) {
		log.Warn("settings have changed that are in force after the next start only", "settings", s.restart)
	}
	if !reflect.DeepEqual(c.Fetch, s.fetch) {
		s.fetch = c.Fetch
		s.n.archive.SetFetching(c.Fetch.fetching())
		log.Info("new settings of [fetch] are in force")
	}
}

// bound sets the rates that hold now.
func (s *settings) bound() {
	taking, serving := s.fetch.rates(s.n.Now())
	if now := [2]mesh.Rates{taking, serving}; now != s.rates {
		s.rates = now
		s.n.mesh.SetRates(taking, serving)
	}
}

// status is for people.
func (s *settings) status() api.Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := api.Settings{Since: s.since.UTC(), Problem: s.problem, Restart: append([]string{}, s.restart...),
		Rate: s.rates[0].All, Background: s.rates[0].Background, ServeRate: s.rates[1].All, ServeBackground: s.rates[1].Background}
	now := s.n.Now().Local()
	st.FullSpeed = slices.ContainsFunc(s.fetch.FullSpeed, func(w Window) bool { return w.Contains(now) })
	return st
}

// differ names the settings that differ, but for those of [fetch].
func differ(x, y reflect.Value, under string) (out []string) {
	for i := range x.NumField() {
		f := x.Type().Field(i)
		name := under + f.Tag.Get("toml")
		switch {
		case name == "fetch":
		case f.Type.Kind() == reflect.Struct:
			out = append(out, differ(x.Field(i), y.Field(i), name+".")...)
		case !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()):
			out = append(out, name)
		}
	}
	return out
}

// Reload takes config.toml now.
func (n *Node) Reload() { n.settings.look(true) }
