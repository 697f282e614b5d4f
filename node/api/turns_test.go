package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/priormesh/priormesh/node/archive"
)

// So many searches run, so many wait, and whoever comes then is told to ask again; one that nobody waits for gives its place away.
func TestSearchesTakeTurns(t *testing.T) {
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	turns := newTurns(1, 1, stopping)
	running, ended := make(chan struct{}), make(chan error, 3)
	go func() {
		ended <- turns.take(context.Background(), func(ctx context.Context) error {
			close(running)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-running
	second, cancel := context.WithCancel(context.Background())
	never := func(context.Context) error { t.Error("it was let in"); return nil }
	go func() { ended <- turns.take(second, never) }()
	for turns.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	var wait *archive.Unavailable
	if err := turns.take(context.Background(), never); !errors.As(err, &wait) || wait.RetryAfter <= 0 {
		t.Error(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := turns.waiting.Load(); n != 0 {
		t.Errorf("%d wait", n)
	}
	// A node that stops does not wait for them.
	stop()
	if err := <-ended; !errors.As(err, &wait) {
		t.Error(err)
	}
	turns.stopping = nil
	if err := turns.take(context.Background(), func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}

// Who is told to ask again is told when.
func TestWhoIsToAskAgainIsToldWhen(t *testing.T) {
	s := &server{Options: Options{Token: "t", Log: slog.New(slog.DiscardHandler)}}
	h := s.operator(func(http.ResponseWriter, *http.Request) error {
		return &archive.Unavailable{Reason: "later", RetryAfter: 1500 * time.Millisecond}
	})
	r := httptest.NewRequest(http.MethodGet, "/api/v1/studies", nil)
	r.Header.Set("Authorization", "Bearer t")
	w := httptest.NewRecorder()
	h(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "2" {
		t.Error(w.Code, w.Header())
	}
}
