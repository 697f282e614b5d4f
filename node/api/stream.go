package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// stream sends a request that is answered line by line and gives each line to
// take, until that says it was the last. An answer that breaks off before, or
// from which nothing comes for a while, is an error.
func (c *Client) stream(ctx context.Context, path, doing string, request any, take func(line []byte) (last bool, err error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.stall, func() {
		cancel(fmt.Errorf("%w: nothing was heard for %v %s", ErrUnreachable, c.stall, doing))
	})
	defer watch.Stop()
	b, err := json.Marshal(request)
	if err != nil {
		return err
	}
	req, err := c.request(ctx, http.MethodPost, path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return c.broken(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if err != nil {
			return c.broken(ctx, err)
		}
		return answerError(resp.StatusCode, body)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		watch.Reset(c.stall)
		if last, err := take(lines.Bytes()); err != nil || last {
			return err
		}
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return c.broken(ctx, err)
}

func (c *Client) notANode(err error) error {
	return fmt.Errorf("the answer of %s is not what a node says (%w); is the address another program's?", c.base, err)
}
