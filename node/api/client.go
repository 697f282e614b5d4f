package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds of the client. A slow disk behind a busy node is still a node; one
// that says nothing for this long is not answering.
const (
	dialFor   = 5 * time.Second
	answerFor = time.Minute     // a whole call that moves no instance
	stallFor  = 2 * time.Minute // between two reads of an instance that is sent, and for the answer after the last
	maxAnswer = 64 << 20        // bytes of an answer
	eraseLook = time.Second     // between two looks at an erasure that takes long
)

// Client calls the operator API of a running node.
type Client struct {
	base  string
	token string
	http  *http.Client
	stall time.Duration
}

// NewClient makes a client for the node at baseURL ("http://127.0.0.1:8080").
// With a nil h it dials directly, never by a proxy.
func NewClient(baseURL, token string, h *http.Client) *Client {
	if h == nil {
		h = &http.Client{Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialFor}).DialContext,
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     30 * time.Second, // less than the node's own, so that it never closes first
			WriteBufferSize:     64 << 10,
		}}
	}
	return &Client{base: strings.TrimSuffix(baseURL, "/"), token: token, http: h, stall: stallFor}
}

// Error is a node's refusal to do what was asked, in its own words.
type Error struct {
	Status int // of HTTP
	Text   string
}

func (e *Error) Error() string { return e.Text }

// ErrUnreachable is wrapped by errors of a node that does not answer at all.
var ErrUnreachable = errors.New("no node answers")

// Filter says which studies Find gives; an empty field asks for nothing.
type Filter struct {
	Patient, Issuer string // Patient ID and who issued it
	NHS             string
	Name            string // with * and ? as wildcards
	Born            string // birth date, as Since
	Accession       string // accession number; * and ? as wildcards
	Description     string // of the study; * and ? as wildcards
	BodyPart        string
	Trust           string // ODS code of a trust that received it
	Modality        string
	Since, Until    string // 2024-03-31 or 20240331
	Study           string // Study Instance UID
	Limit, Offset   int
	After           string // Found.Next of the page before
}

// Instance offers one instance. arrival says that it is new, so that its
// patient's priors are wanted; a backfill is not. What the node will never take
// is a Receipt with the outcome Refused and no error; an error means that the
// same instance may be accepted later. Offering an instance again is harmless.
func (c *Client) Instance(ctx context.Context, r io.Reader, arrival bool) (Receipt, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.stall, func() {
		cancel(fmt.Errorf("%w: nothing moved for %v while an instance was sent", ErrUnreachable, c.stall))
	})
	defer watch.Stop()
	req, err := c.request(ctx, http.MethodPost, "/instances?arrival="+strconv.FormatBool(arrival), &watched{r, watch, c.stall})
	if err != nil {
		return Receipt{}, err
	}
	req.Header.Set("Content-Type", "application/dicom")
	if s, ok := r.(io.Seeker); ok {
		if start, err := s.Seek(0, io.SeekCurrent); err == nil {
			// A connection that the node closed while it was idle is replaced.
			req.GetBody = func() (io.ReadCloser, error) {
				_, err := s.Seek(start, io.SeekStart)
				return io.NopCloser(&watched{r, watch, c.stall}), err
			}
		}
	}
	code, body, err := c.do(req)
	if err != nil {
		return Receipt{}, err
	}
	var got Receipt
	if json.Unmarshal(body, &got) != nil || got.Outcome == "" {
		return Receipt{}, answerError(code, body)
	}
	if code/100 == 5 {
		return got, &Error{code, got.Reason}
	}
	return got, nil
}

// watched notes that an instance moves.
type watched struct {
	io.Reader
	timer *time.Timer
	stall time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.stall)
	n, err := w.Reader.Read(p)
	w.timer.Reset(w.stall)
	return n, err
}

// Find gives the studies that match, newest first.
func (c *Client) Find(ctx context.Context, f Filter) (Found, error) {
	q := url.Values{}
	for name, v := range map[string]string{
		"patient": f.Patient, "issuer": f.Issuer, "nhs": f.NHS, "name": f.Name, "born": f.Born,
		"accession": f.Accession, "description": f.Description, "body": f.BodyPart, "trust": f.Trust, "modality": f.Modality,
		"since": f.Since, "until": f.Until, "study": f.Study, "after": f.After,
	} {
		if v != "" {
			q.Set(name, v)
		}
	}
	for name, n := range map[string]int{"limit": f.Limit, "offset": f.Offset} {
		if n != 0 {
			q.Set(name, strconv.Itoa(n))
		}
	}
	path := "/studies"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return call[Found](ctx, c, http.MethodGet, path, nil)
}

// Fetch asks the node to bring a study. priority is a class, or empty for that of
// somebody who waits.
func (c *Client) Fetch(ctx context.Context, study, priority string) (Fetch, error) {
	in := map[string]string{"study": study}
	if priority != "" {
		in["priority"] = priority
	}
	return call[Fetch](ctx, c, http.MethodPost, "/fetches", in)
}

// Cancel takes a study off the fetch queue.
func (c *Client) Cancel(ctx context.Context, study string) (Cancelled, error) {
	return call[Cancelled](ctx, c, http.MethodDelete, "/fetches/"+url.PathEscape(study), nil)
}

// FetchStatus says how far bringing a study is.
func (c *Client) FetchStatus(ctx context.Context, study string) (Fetch, error) {
	return call[Fetch](ctx, c, http.MethodGet, "/fetches/"+url.PathEscape(study), nil)
}

// Erase has the node erase all that it keeps of a study, and returns when that
// is done. told is called while it goes on.
func (c *Client) Erase(ctx context.Context, study, reason string, told func(Erasure)) (Erasure, error) {
	e, err := call[Erasure](ctx, c, http.MethodPost, "/erasures", map[string]string{"study": study, "reason": reason})
	for err == nil && e.State != "erased" {
		told(e)
		t := time.NewTimer(eraseLook)
		select {
		case <-ctx.Done():
			t.Stop()
			return e, ctx.Err()
		case <-t.C:
		}
		e, err = call[Erasure](ctx, c, http.MethodGet, "/erasures/"+url.PathEscape(study), nil)
	}
	return e, err
}

// Status says how the node is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/status", nil)
}

// Peers lists the other nodes.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	return call[[]Peer](ctx, c, http.MethodGet, "/peers", nil)
}

// Admit endorses the trust of a card.
func (c *Client) Admit(ctx context.Context, card string) (Admission, error) {
	return call[Admission](ctx, c, http.MethodPost, "/admissions", map[string]string{"card": card})
}

// Expel votes for the expulsion of a trust.
func (c *Client) Expel(ctx context.Context, trust string) (Expulsion, error) {
	return call[Expulsion](ctx, c, http.MethodPost, "/expulsions", map[string]string{"trust": trust})
}

// Revoke gives the node a trust's word that a node is not its own any more.
func (c *Client) Revoke(ctx context.Context, revocation string) (Revocation, error) {
	return call[Revocation](ctx, c, http.MethodPost, "/revocations", map[string]string{"revocation": revocation})
}

// Pin keeps the copies of a study from being evicted.
func (c *Client) Pin(ctx context.Context, study, reason string) (Pin, error) {
	return call[Pin](ctx, c, http.MethodPost, "/pins", map[string]string{"study": study, "reason": reason})
}

// Unpin takes a pin away.
func (c *Client) Unpin(ctx context.Context, study string) (Unpinned, error) {
	return call[Unpinned](ctx, c, http.MethodDelete, "/pins/"+url.PathEscape(study), nil)
}

// Pins lists what is pinned.
func (c *Client) Pins(ctx context.Context) ([]Pin, error) {
	return call[[]Pin](ctx, c, http.MethodGet, "/pins", nil)
}

func call[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	ctx, cancel := context.WithTimeoutCause(ctx, answerFor, fmt.Errorf("%w: nothing came within %v", ErrUnreachable, answerFor))
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return out, err
		}
		body = bytes.NewReader(b)
	}
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return out, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	code, b, err := c.do(req)
	if err != nil {
		return out, err
	}
	if code/100 != 2 {
		return out, answerError(code, b)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("the answer of %s is not what a node says (%w); is the address another program's?", c.base, err)
	}
	return out, nil
}

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/api/v1"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	return req, nil
}

// do sends a request and reads its whole answer.
func (c *Client) do(req *http.Request) (code int, body []byte, err error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, c.broken(req.Context(), err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, c.broken(req.Context(), err)
	}
	if len(body) > maxAnswer {
		return 0, nil, fmt.Errorf("the answer of %s is over %d MiB; ask for less at a time", c.base, maxAnswer>>20)
	}
	return resp.StatusCode, body, nil
}

// broken names an exchange that did not come to an end. The request's URL stays
// out of it: it may name a patient.
func (c *Client) broken(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, err)
}

// answerError is what an answer says that is no result.
func answerError(code int, body []byte) error {
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &said) != nil || said.Error == "" {
		said.Error = fmt.Sprintf("the answer is HTTP %d %s and not what a node says; is the address another program's?", code, http.StatusText(code))
	}
	return &Error{code, said.Error}
}
