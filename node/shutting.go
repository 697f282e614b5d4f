package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/audit"
)

const (
	// tableShutOut has a row for each trust and node whose shutting out stands in
	// the audit log: shutTrust and the trust, or shutNode and the node.
	tableShutOut byte = 0x71
	shutTrust    byte = 't'
	shutNode     byte = 'n'

	shuttingRetry = time.Minute            // after something could not be written
	turnPerNode   = 100 * time.Millisecond // see turn
	maxSayersSaid = 3                      // who says a revocation, in an event
)

// shutting writes down who is shut out of the region, and says again what the
// roster rests on and only those say whom nobody hears any more. Shutting out
// itself is the gate's, which asks the roster.
type shutting struct {
	n    *Node
	look chan struct{} // a token says that the roster may have changed
}

// changed has the roster looked at soon. It does not wait.
func (s *shutting) changed() {
	select {
	case s.look <- struct{}{}:
	default:
	}
}

func (s *shutting) run(ctx context.Context) {
	err := s.write()
	due := time.NewTimer(s.turn())
	defer due.Stop()
	for waits := true; ; { // waits: for its turn
		if err != nil && ctx.Err() == nil {
			s.n.Log.Error("what follows from who was expelled or revoked could not all be written; it is tried again", "error", err)
			waits = true
			due.Reset(shuttingRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.look:
			err = s.write()
			if !waits {
				waits = true
				due.Reset(s.turn())
			}
		case <-due.C:
			waits = false
			err = errors.Join(s.write(), s.sayAgain(ctx))
		}
	}
}

// turn is when this node says again what somebody has to: at some time within so
// many turns as there are nodes, since one is enough and the others then hear it.
func (s *shutting) turn() time.Duration {
	span := turnPerNode * time.Duration(len(s.n.index.Roster().Nodes())+1)
	var b [8]byte
	if _, err := io.ReadFull(s.n.Rand, b[:]); err != nil {
		return span
	}
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(span))
}

// sayAgain says what the roster rests on and nobody says who is let in.
func (s *shutting) sayAgain(ctx context.Context) error {
	again, err := s.n.index.Unspoken()
	if err != nil || len(again) == 0 {
		return err
	}
	if err := s.n.say(ctx, again); err != nil {
		return err
	}
	s.n.Log.Info("what only those had said who are shut out of the region, and the roster rests on, is said again", "facts", len(again))
	return nil
}

// write writes into the audit log who has been shut out since it last did. After a crash in between an event stands there twice.
func (s *shutting) write() error {
	out, err := s.out()
	if err != nil {
		return err
	}
	written, err := s.written()
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(out)) {
		if written[k] {
			continue
		}
		if err := s.n.audit.Append(out[k]); err != nil {
			return err
		}
		s.n.Log.Warn("shut out of the region", "event", out[k].Event, "trust", out[k].Trust, "node", out[k].Node, "why", out[k].Detail)
		if err := s.row(func(txn *badger.Txn) error { return txn.Set([]byte(k), nil) }); err != nil {
			return err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(written)) {
		if _, still := out[k]; !still {
			if err := s.row(func(txn *badger.Txn) error { return txn.Delete([]byte(k)) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *shutting) row(change func(*badger.Txn) error) error {
	if err := s.n.disk.Note(true); err != nil {
		return err
	}
	return s.n.index.Update(change)
}

// out is who is shut out now: the event of each by the key of its row.
func (s *shutting) out() (map[string]audit.Event, error) {
	roster := s.n.index.Roster()
	out := make(map[string]audit.Event)
	for _, t := range roster.Expelled {
		_, _, by := roster.StandingOfExpulsion(t)
		out[string([]byte{tableShutOut, shutTrust})+string(t)] = audit.Event{Event: "trust.expelled", Trust: string(t), Detail: "by the votes of " + strings.Join(names(by), ", ")}
	}
	for _, v := range roster.Revocations() {
		by, err := s.sayers(v)
		if err != nil {
			return nil, err
		}
		out[string([]byte{tableShutOut, shutNode})+string(v.Node[:])] = audit.Event{Event: "node.revoked", Trust: string(v.Trust), Node: v.Node.String(), Detail: "by the key of its trust, said by " + by}
	}
	return out, nil
}

// sayers names who says a revocation.
func (s *shutting) sayers(v index.Revocation) (string, error) {
	st, err := index.RevocationStatement(v)
	if err != nil {
		return "", err
	}
	said, err := s.n.index.Facts(st.Kind, st.Subject)
	if err != nil {
		return "", err
	}
	var who []string
	for _, f := range said {
		if string(f.Value) == string(st.Body) {
			who = append(who, fmt.Sprintf("%s (node %s)", f.Trust, f.Author))
		}
	}
	switch {
	case len(who) == 0:
		return "the invitation that this node was let in by", nil
	case len(who) > maxSayersSaid:
		return fmt.Sprintf("%s and %d more", strings.Join(who[:maxSayersSaid], ", "), len(who)-maxSayersSaid), nil
	}
	return strings.Join(who, ", "), nil
}

// written lists the rows.
func (s *shutting) written() (map[string]bool, error) {
	rows := make(map[string]bool)
	return rows, s.n.index.View(func(txn *badger.Txn) error {
		clear(rows)
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableShutOut}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if !index.Purged(it.Item()) {
				rows[string(it.Item().Key())] = true
			}
		}
		return nil
	})
}
