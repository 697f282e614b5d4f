package api

import (
	"io"
	"net/http"
	"time"
)

// stallAfter is how long a request's body or its answer may stand still. A
// study may take hours on a slow link; a peer that has vanished may not keep
// its place that long.
const stallAfter = 2 * time.Minute

// moving ends requests that have stopped moving. There is no limit on the
// whole: only on each step.
func moving(h http.Handler, idle time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetWriteDeadline(time.Time{}) // of the request before on this connection
		if r.Body != http.NoBody {
			r.Body = &movingBody{r.Body, rc, idle}
		}
		h.ServeHTTP(&movingWriter{w, rc, idle}, r)
	})
}

type movingBody struct {
	io.ReadCloser
	rc   *http.ResponseController
	idle time.Duration
}

func (b *movingBody) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(time.Now().Add(b.idle))
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		// The server goes on reading to see whether the client leaves; that may
		// take as long as the answer takes.
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

type movingWriter struct {
	http.ResponseWriter
	rc   *http.ResponseController
	idle time.Duration
}

func (w *movingWriter) Write(p []byte) (int, error) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(w.idle))
	return w.ResponseWriter.Write(p)
}

func (w *movingWriter) Flush() {
	_ = w.rc.SetWriteDeadline(time.Now().Add(w.idle))
	_ = w.rc.Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *movingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
