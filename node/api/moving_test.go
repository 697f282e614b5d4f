package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestARequestThatStandsStillIsEnded(t *testing.T) {
	ended := make(chan error, 1)
	s := httptest.NewServer(moving(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}), 50*time.Millisecond))
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
	if err := <-ended; err == nil {
		t.Error("half a body was taken for the whole")
	}
}

func TestAnAnswerNobodyReadsIsEnded(t *testing.T) {
	ended := make(chan error, 1)
	s := httptest.NewServer(moving(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 1<<20)
		for range 1 << 10 { // more than any socket buffer takes
			if _, err := w.Write(buf); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}), 50*time.Millisecond))
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := <-ended; err == nil {
		t.Error("1 GiB went to a client that reads nothing")
	}
}

// The answer may come long after the body, and the connection is good for
// another request long after that.
func TestSlowIsNotStill(t *testing.T) {
	const idle = 30 * time.Millisecond
	s := httptest.NewServer(moving(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		select {
		case <-r.Context().Done():
			t.Error("the request was ended while it was being answered")
		case <-time.After(3 * idle):
		}
		io.WriteString(w, "done")
	}), idle))
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for range 2 {
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		if !strings.Contains(string(b), "done") {
			t.Errorf("got %q", b)
		}
		time.Sleep(3 * idle)
	}
}
