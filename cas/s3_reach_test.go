package cas

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A store that is away is said to be, from the first failed try to the first
// answer; one that has been away for long gets one try.
func TestAnObjectStoreThatIsAwayIsRemembered(t *testing.T) {
	var away atomic.Bool
	var tries atomic.Int32
	c, err := newS3client(S3Options{
		Endpoint: "http://127.0.0.1:1", Bucket: "originals", AccessKey: "a", SecretKey: "b",
		Retry: S3Retry{Min: time.Millisecond, Max: time.Millisecond, Total: 50 * time.Millisecond},
		Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			tries.Add(1)
			if away.Load() {
				return nil, errors.New("no route")
			}
			return &http.Response{StatusCode: 404, Header: http.Header{}, Request: r, Body: io.NopCloser(strings.NewReader("<Error><Code>NoSuchKey</Code></Error>"))}, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	s := &S3{s3client: *c}
	read := func() error {
		_, err := s.read(context.Background(), "x", 10)
		return err
	}
	if err := read(); errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if since, _ := s.Away(); !since.IsZero() {
		t.Errorf("away since %v", since)
	}
	away.Store(true)
	if err := read(); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	since, tried := s.Away()
	if since.IsZero() || tried.Before(since) {
		t.Errorf("away since %v, tried at %v", since, tried)
	}
	s.state.reach.since = since.Add(-time.Hour)
	tries.Store(0)
	if err := read(); !errors.Is(err, ErrUnavailable) || tries.Load() != 1 {
		t.Errorf("%v after %d tries, want 1", err, tries.Load())
	}
	away.Store(false)
	if err := read(); errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if since, _ := s.Away(); !since.IsZero() {
		t.Errorf("back, and away since %v", since)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
