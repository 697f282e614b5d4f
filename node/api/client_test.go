package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// operator answers one request with a fixed answer and keeps what was asked.
type operator struct {
	code   int
	answer string

	method, target, token, body string
}

func (o *operator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	o.method, o.target, o.token, o.body = r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), string(b)
	w.WriteHeader(o.code)
	io.WriteString(w, o.answer)
}

func clientOf(t *testing.T, h http.Handler) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return NewClient(s.URL+"/", "secret", nil)
}

func TestClientCalls(t *testing.T) {
	ctx := t.Context()
	for name, c := range map[string]struct {
		call         func(*Client) (any, error)
		answer       string
		method, path string
		body         string
	}{
		"arrival": {func(c *Client) (any, error) { return c.Instance(ctx, strings.NewReader("DICM"), true) },
			`{"outcome":"stored","study":"1.2","series":"","bytes":4,"sha256":"ab"}`, "POST", "/api/v1/instances?arrival=true", "DICM"},
		"backfill": {func(c *Client) (any, error) { return c.Instance(ctx, bytes.NewBufferString("DICM"), false) },
			`{"outcome":"duplicate","bytes":4}`, "POST", "/api/v1/instances?arrival=false", "DICM"},
		"find": {func(c *Client) (any, error) {
			return c.Find(ctx, Filter{Patient: "1 2", Issuer: "A&B", NHS: "943 476 5919", Name: "D*", Modality: "CT", Since: "20240101", Until: "2024-12-31", Study: "1.2", Limit: 5, Offset: 10})
		}, `{"studies":[{"study":"1.2","availability":"NEARLINE"}],"total":1,"warnings":["RX2"]}`, "GET",
			"/api/v1/studies?issuer=A%26B&limit=5&modality=CT&name=D%2A&nhs=943+476+5919&offset=10&patient=1+2&since=20240101&study=1.2&until=2024-12-31", ""},
		"find all": {func(c *Client) (any, error) { return c.Find(ctx, Filter{}) }, `{"studies":[],"total":0,"warnings":[]}`, "GET", "/api/v1/studies", ""},
		"fetch": {func(c *Client) (any, error) { return c.Fetch(ctx, "1.2", "") }, `{"study":"1.2","state":"queued"}`, "POST",
			"/api/v1/fetches", `{"study":"1.2"}`},
		"fetch status": {func(c *Client) (any, error) { return c.FetchStatus(ctx, "1.2/..") }, `{"study":"1.2","state":"here","instances":3}`, "GET",
			"/api/v1/fetches/1.2%2F..", ""},
		"status": {func(c *Client) (any, error) { return c.Status(ctx) }, `{"trust":"RX1","studies":{"own":3,"copies":1,"region":9}}`, "GET", "/api/v1/status", ""},
		"peers":  {func(c *Client) (any, error) { return c.Peers(ctx) }, `[{"trust":"RX2","connected":true,"rtt_ns":1000}]`, "GET", "/api/v1/peers", ""},
		"expel": {func(c *Client) (any, error) { return c.Expel(ctx, "RX2") }, `{"trust":"RX2","have":1,"need":2,"by":["RX1"],"expelled":false}`, "POST",
			"/api/v1/expulsions", `{"trust":"RX2"}`},
		"revoke": {func(c *Client) (any, error) { return c.Revoke(ctx, "text") }, `{"trust":"RX2","node":"n","known":true,"until":[{"epoch":1,"seq":7}],"revocation":"text"}`, "POST",
			"/api/v1/revocations", `{"revocation":"text"}`},
		"admit": {func(c *Client) (any, error) { return c.Admit(ctx, "card") }, `{"trust":"RX2","have":1,"need":2,"by":["RX1"],"admitted":false}`, "POST",
			"/api/v1/admissions", `{"card":"card"}`},
	} {
		t.Run(name, func(t *testing.T) {
			o := &operator{code: 200, answer: c.answer}
			got, err := c.call(clientOf(t, o))
			if err != nil {
				t.Fatal(err)
			}
			if o.method != c.method || o.target != c.path || o.body != c.body || o.token != "Bearer secret" {
				t.Errorf("asked %s %s with %q and %q, want %s %s with %q", o.method, o.target, o.body, o.token, c.method, c.path, c.body)
			}
			// Everything in the answer is in what the call gives.
			have, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			var want, all any
			if json.Unmarshal([]byte(c.answer), &want) != nil || json.Unmarshal(have, &all) != nil {
				t.Fatal("not JSON")
			}
			if !within(want, all) {
				t.Errorf("got %s of the answer %s", have, c.answer)
			}
		})
	}
}

// within reports whether what is in a is in b, but for fields that are empty in a.
func within(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		m, ok := b.(map[string]any)
		for k, v := range a {
			if v != "" && (!ok || !within(v, m[k])) {
				return false
			}
		}
		return ok
	case []any:
		l, ok := b.([]any)
		if !ok || len(l) != len(a) {
			return false
		}
		for i := range a {
			if !within(a[i], l[i]) {
				return false
			}
		}
		return true
	}
	return a == b
}

func TestClientSaysWhatTheNodeSays(t *testing.T) {
	for name, c := range map[string]struct {
		code   int
		answer string
		want   string // in the error
	}{
		"unknown":        {404, `{"error":"no trust has it; check the UID"}`, "no trust has it; check the UID"},
		"wrong use":      {400, `{"error":"since must be a date"}`, "since must be a date"},
		"token":          {401, `{"error":"the token is needed"}`, "the token is needed"},
		"failure":        {500, `{"error":"disk"}`, "disk"},
		"another server": {502, `<html>`, "502 Bad Gateway"},
		"no text":        {500, `{}`, "500 Internal Server Error"},
	} {
		t.Run(name, func(t *testing.T) {
			client := clientOf(t, &operator{code: c.code, answer: c.answer})
			_, err := client.Status(t.Context())
			var said *Error
			if !errors.As(err, &said) || said.Status != c.code || !strings.Contains(said.Text, c.want) {
				t.Errorf("got %v, want HTTP %d with %q", err, c.code, c.want)
			}
			// The same for an instance: an answer that is no receipt is no outcome.
			if r, err := client.Instance(t.Context(), strings.NewReader("x"), false); !errors.As(err, &said) || r.Outcome != "" {
				t.Errorf("Instance gave %+v, %v", r, err)
			}
		})
	}
	client := clientOf(t, &operator{code: 200, answer: "hello"})
	if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("an answer that is no JSON: %v", err)
	}
}

func TestClientRefusals(t *testing.T) {
	for code, transient := range map[int]bool{409: false, 413: false, 422: false, 500: true, 507: true} {
		client := clientOf(t, &operator{code: code, answer: `{"outcome":"refused","bytes":0,"reason":"because"}`})
		r, err := client.Instance(t.Context(), strings.NewReader("x"), false)
		if r.Outcome != Refused || r.Reason != "because" {
			t.Errorf("HTTP %d: receipt %+v", code, r)
		}
		var said *Error
		if errors.As(err, &said) != transient || (err != nil) != transient {
			t.Errorf("HTTP %d: error %v", code, err)
		}
		if transient && (said.Status != code || said.Text != "because") {
			t.Errorf("HTTP %d: error %+v", code, said)
		}
	}
}

func TestClientWithoutNode(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	client := NewClient(s.URL, "secret", nil)
	_, err := client.Find(t.Context(), Filter{Name: "DOE^JANE"})
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), s.URL) {
		t.Errorf("got %v", err)
	}
	if strings.Contains(err.Error(), "DOE") || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells who was asked for, or the token: %v", err)
	}
	if _, err := client.Instance(t.Context(), strings.NewReader("x"), false); !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

// A node that takes an instance and says nothing does not hold the sender for ever.
func TestClientGivesUpOnSilence(t *testing.T) {
	release := make(chan struct{})
	var asked atomic.Bool
	client := clientOf(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		_, _ = io.Copy(io.Discard, r.Body)
		<-release
	}))
	defer close(release)
	client.stall = 50 * time.Millisecond
	_, err := client.Instance(t.Context(), strings.NewReader("x"), false)
	if !errors.Is(err, ErrUnreachable) || !asked.Load() {
		t.Errorf("got %v", err)
	}
}

// slow gives a byte at a time, the next one after a pause.
type slow struct {
	left  int
	pause time.Duration
}

func (s *slow) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(s.pause)
	s.left--
	p[0] = 'x'
	return 1, nil
}

// What moves slowly is not given up: the limit is on standing still.
func TestClientIsPatientWithSlowDisks(t *testing.T) {
	o := &operator{code: 200, answer: `{"outcome":"stored"}`}
	client := clientOf(t, o)
	client.stall = 5 * time.Second
	if _, err := client.Instance(t.Context(), &slow{20, time.Millisecond}, false); err != nil || len(o.body) != 20 {
		t.Errorf("%d of 20 bytes came, %v", len(o.body), err)
	}
}

func TestClientInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := clientOf(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	if _, err := client.Status(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A connection that the node closed while it was idle fails before anything is
// sent; net/http then asks for the body again, which must begin where the first did.
func TestClientBodyAgain(t *testing.T) {
	file := strings.NewReader("preamble DICM")
	if _, err := file.Seek(9, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	client := NewClient("http://node", "secret", &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if _, err := r.Body.Read(make([]byte, 2)); err != nil {
			return nil, err
		}
		again, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(again)
		if string(b) != "DICM" || err != nil {
			t.Errorf("the body again: %q, %v", b, err)
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"outcome":"stored"}`))}, nil
	})})
	if _, err := client.Instance(t.Context(), file, false); err != nil {
		t.Error(err)
	}
}

func TestClientBoundsAnswers(t *testing.T) {
	client := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := bytes.Repeat([]byte(" "), 1<<20)
		for range maxAnswer>>20 + 1 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "ask for less") {
		t.Errorf("got %v", err)
	}
}
