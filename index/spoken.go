package index

import "fmt"

// Spoken keeps, outside of the database, the position that this node's own log has reached. A database that is emptied, put back to what it
// was, or whose last writes the disk has lost, does not know that its numbers are taken: the node would say other things under them, and be
// in the wrong before the whole region. What is stored is on disk when Store returns, and is the old or the new position whenever a crash
// comes.
type Spoken interface {
	Load() (Position, error) // zero if nothing was stored
	Store(Position) error
}

// LostError says that the database knows less of this node's own log than it has said.
type LostError struct{ Have, Said Position }

func (e *LostError) Error() string {
	return fmt.Sprintf("the index has lost what this node has said: its own log ends at fact %d of epoch %d and had reached fact %d of epoch %d; it must not say other things under the same numbers. Restore the home from a backup with `priormesh restore`, which starts a new epoch, or make a new home with `priormesh init`",
		e.Have.Seq, e.Have.Epoch, e.Said.Seq, e.Said.Epoch)
}

// ownEnd is the last position of the own log.
func (x *Index) ownEnd() Position {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return Position{x.epoch, x.logs[logID{x.self, x.epoch}].last.head.Seq}
}

// checkSpoken is for Open.
func (x *Index) checkSpoken() error {
	if x.opt.Spoken == nil {
		return nil
	}
	var err error
	if x.spoken, err = x.opt.Spoken.Load(); err != nil {
		return err
	}
	end := x.ownEnd()
	if end.compare(x.spoken) < 0 {
		x.lost = &LostError{Have: end, Said: x.spoken}
		if !x.opt.Lost {
			return x.lost
		}
	}
	return nil
}

// noteSpoken notes that the own log has come to its end, before anybody else can learn of it. It comes after what was said is on disk: a crash
// between leaves the note behind, never ahead. The caller holds write, or is Open.
func (x *Index) noteSpoken(end Position) {
	if x.opt.Spoken == nil || end.Seq == 0 || end.compare(x.spoken) <= 0 {
		return
	}
	if err := x.opt.Spoken.Store(end); err != nil {
		x.opt.Log.Error("how far this node's own log has come could not be noted; it is tried again with the next facts", "error", err)
		return
	}
	x.spoken = end
}
