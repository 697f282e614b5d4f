package api

import (
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
	if err := body(r, &in); err != nil {
		return err
	}
	if in.Rate < 0 || !filepath.IsAbs(in.Target) {
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
	var made Backup
	err := c.stream(ctx, "/backups", "while a backup was made", r, func(line []byte) (bool, error) {
		var l BackupLine
		if err := json.Unmarshal(line, &l); err != nil {
			return false, c.notANode(err)
		}
		switch {
		case l.Backup != nil:
			made = *l.Backup
			return true, nil
		case l.Error != "":
			return false, &Error{http.StatusInternalServerError, l.Error}
		case l.Progress != nil && progress != nil:
			progress(*l.Progress)
		}
		return false, nil
	})
	return made, err
}
