package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// backup makes a backup for as long as its caller listens.
func (s *server) backup(w http.ResponseWriter, r *http.Request) error {
	var in BackupRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Rate < 0 || !filepath.IsAbs(in.Target) {
		return fmt.Errorf("%w: send {\"target\": \"<whole path of a folder>\"}", ErrWrongUse)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if s.Stopping != nil {
		defer context.AfterFunc(s.Stopping, cancel)()
	}
	var mu sync.Mutex
	last := BackupLine{Progress: &BackupProgress{Phase: "blocks"}}
	say := func(l BackupLine) {
		if json.NewEncoder(w).Encode(l) != nil || http.NewResponseController(w).Flush() != nil {
			cancel() // nobody listens
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	ended := make(chan struct{})
	var alive sync.WaitGroup
	alive.Go(func() {
		tick := time.NewTicker(aliveEvery)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				mu.Lock()
				say(last)
				mu.Unlock()
			}
		}
	})
	got, err := s.Node.Backup(ctx, in, func(p BackupProgress) {
		mu.Lock()
		defer mu.Unlock()
		last = BackupLine{Progress: &p}
		say(last)
	})
	close(ended)
	alive.Wait()
	switch {
	case err == nil:
		say(BackupLine{Backup: &got})
	case s.Stopping != nil && s.Stopping.Err() != nil:
		say(BackupLine{Error: "the node is stopping; the backup that was there before is as it was"})
	case ctx.Err() == nil || !errors.Is(err, context.Canceled):
		s.Log.Error("a backup could not be made", "error", err)
		say(BackupLine{Error: err.Error()})
	}
	return nil
}

// Backup has the node make a backup of its home. When ctx ends it is broken
// off, and nothing of it counts.
func (c *Client) Backup(ctx context.Context, r BackupRequest, progress func(BackupProgress)) (Backup, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.stall, func() {
		cancel(fmt.Errorf("%w: nothing came for %v while a backup was made", ErrUnreachable, c.stall))
	})
	defer watch.Stop()
	b, err := json.Marshal(r)
	if err != nil {
		return Backup{}, err
	}
	req, err := c.request(ctx, http.MethodPost, "/backups", bytes.NewReader(b))
	if err != nil {
		return Backup{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return Backup{}, c.broken(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if err != nil {
			return Backup{}, c.broken(ctx, err)
		}
		return Backup{}, answerError(resp.StatusCode, body)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		watch.Reset(c.stall)
		var l BackupLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return Backup{}, fmt.Errorf("the answer of %s is not what a node says (%w); is the address another program's?", c.base, err)
		}
		switch {
		case l.Backup != nil:
			return *l.Backup, nil
		case l.Error != "":
			return Backup{}, &Error{http.StatusInternalServerError, l.Error}
		case l.Progress != nil && progress != nil:
			progress(*l.Progress)
		}
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return Backup{}, c.broken(ctx, err)
}
