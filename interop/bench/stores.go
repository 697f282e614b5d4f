package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/archive"
)

// A store takes instances in. put is called by several writers at once, each
// with files of one study, and returns when all of them were answered for.
type store interface {
	put(ctx context.Context, files []string) error
	close() error
}

// A way is one column: a way into a store.
type way struct {
	name  string
	batch int // files one put takes
	most  int // writers, if not 0
	note  string
	// open opens an empty store in a folder. errAbsent: it is not installed.
	open func(ctx context.Context, dir string) (store, error)
}

var errAbsent = errors.New("not installed")

// plain is files: each written and synced, and its name too, since a file
// whose name is lost is lost.
type plain struct{ dir string }

func openPlain(_ context.Context, dir string) (store, error) { return &plain{dir}, nil }

func (p *plain) put(_ context.Context, files []string) error {
	var to string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		to = filepath.Join(p.dir, filepath.Base(filepath.Dir(f)))
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		out, err := os.Create(filepath.Join(to, filepath.Base(f)))
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
			return err
		}
	}
	d, err := os.Open(to)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (p *plain) close() error { return nil }

// inside is a node in this process: its archive without HTTP before it.
type inside struct {
	*node.Node
	buffers sync.Pool
}

func openInside(ctx context.Context, dir string) (store, error) {
	home, _, err := newHome(dir)
	if err != nil {
		return nil, err
	}
	return startInside(ctx, home)
}

func startInside(ctx context.Context, home *node.Home) (*inside, error) {
	n, err := node.Open(ctx, home, node.Options{Log: slog.New(slog.DiscardHandler), Version: "bench"})
	if err != nil {
		return nil, err
	}
	return &inside{n, sync.Pool{New: func() any { return new(bytes.Buffer) }}}, nil
}

// newHome is the home folder of a node that listens on loopback.
func newHome(dir string) (*node.Home, string, error) {
	web, err := freePort()
	if err != nil {
		return nil, "", err
	}
	c := node.DefaultConfig()
	c.Trust, c.Name = "BENCH", "Bench"
	c.HTTP, c.Mesh = fmt.Sprintf("127.0.0.1:%d", web), []string{"/ip4/127.0.0.1/tcp/0"}
	h, err := node.InitHome(filepath.Join(dir, "home"), node.InitOptions{Config: c, Found: "Bench"})
	return h, "http://" + c.HTTP, err
}

// put goes on to the next instance while the ones before become durable, as
// the node does with the parts of a request.
func (i *inside) put(ctx context.Context, files []string) error {
	buf := i.buffers.Get().(*bytes.Buffer)
	defer i.buffers.Put(buf)
	var finishing errgroup.Group
	finishing.SetLimit(4)
	for _, f := range files {
		if err := readAll(f, buf); err != nil {
			return errors.Join(err, finishing.Wait())
		}
		finish := i.Archive().Receive(ctx, bytes.NewReader(buf.Bytes()), archive.IngestOptions{Arrival: true})
		finishing.Go(func() error {
			_, err := finish()
			return err
		})
	}
	return finishing.Wait()
}

func (i *inside) close() error { return i.Close() }

// stow is a DICOMweb server in another process, stored to by STOW-RS.
type stow struct {
	*process
	url    string // of /studies
	client *http.Client
}

// priormesh is the program, built once.
var priormesh = sync.OnceValues(func() (string, error) {
	if *program != "" {
		return *program, nil
	}
	dir, err := os.MkdirTemp("", "priormesh-bench-")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "priormesh")
	out, err := exec.Command("go", "build", "-o", program, "github.com/priormesh/priormesh/cmd/priormesh").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("building priormesh: %w\n%s", err, out)
	}
	return program, err
})

func openSTOW(ctx context.Context, dir string) (store, error) {
	home, url, err := newHome(dir)
	if err != nil {
		return nil, err
	}
	return startSTOW(ctx, home, url)
}

func startSTOW(ctx context.Context, home *node.Home, url string) (*stow, error) {
	program, err := priormesh()
	if err != nil {
		return nil, err
	}
	p, err := launch(ctx, "priormesh", url+"/readyz", nil, program, "run", "--home", home.Dir)
	if err != nil {
		return nil, err
	}
	return &stow{p, url + "/dicom-web/studies", newClient()}, nil
}

// newClient keeps a connection for each writer.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64, WriteBufferSize: 256 << 10}}
}

const boundary = "priormesh-bench-9d2f1c"

func (s *stow) put(ctx context.Context, files []string) error {
	var parts []io.Reader
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			f.Close()
		}
	}()
	var length int64
	text := func(t string) {
		parts, length = append(parts, bytes.NewReader([]byte(t))), length+int64(len(t))
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		opened = append(opened, f)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		text("\r\n--" + boundary + "\r\nContent-Type: application/dicom\r\n\r\n")
		parts, length = append(parts, f), length+info.Size()
	}
	text("\r\n--" + boundary + "--\r\n")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, io.MultiReader(parts...))
	if err != nil {
		return err
	}
	req.ContentLength = length // Orthanc 1.10 takes no chunked body from everybody
	req.Header.Set("Content-Type", `multipart/related; type="application/dicom"; boundary=`+boundary)
	req.Header.Set("Accept", "application/dicom+json")
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("STOW-RS: %s %v %.500s", resp.Status, err, b)
	}
	return storedAll(b, len(files))
}

// storedAll holds the answer against what was sent (PS3.18 Table I.2-1).
func storedAll(answer []byte, want int) error {
	var ds map[string]struct{ Value []json.RawMessage }
	if err := json.Unmarshal(answer, &ds); err != nil {
		return fmt.Errorf("the answer is no DICOM JSON: %w", err)
	}
	if n := len(ds["00081199"].Value); n != want {
		return fmt.Errorf("of %d instances %d were stored: %.500s", want, n, answer)
	}
	return nil
}

func (s *stow) close() error {
	s.client.CloseIdleConnections()
	return s.stop()
}
