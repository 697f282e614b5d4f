package index

import (
	"cmp"
	"slices"
)

// held keeps batches that came before the ones they follow on, within MaxHeld and MaxHeldOf. What does not fit is given up, from the end
// of the log: it can be asked for again.
type held struct {
	logs  map[logID]*heldLog
	bytes int
}

type heldLog struct {
	batches []Verified // sorted by first position
	bytes   int
}

func heldBefore(v Verified, first Seq) int { return cmp.Compare(v.link.first, first) }

// has says that the very batch is held.
func (h *held) has(id logID, l link) bool {
	log := h.logs[id]
	if log == nil {
		return false
	}
	i, ok := slices.BinarySearchFunc(log.batches, l.first, heldBefore)
	return ok && log.batches[i].link.head.same(l.head)
}

// add says whether the batch was kept. Of two that begin at one place the first is: the log tells, when it gets there, which follows.
func (h *held) add(id logID, v Verified) bool {
	log := h.logs[id]
	if log == nil {
		log = &heldLog{}
		h.logs[id] = log
	}
	i, ok := slices.BinarySearchFunc(log.batches, v.link.first, heldBefore)
	if !ok {
		log.batches = slices.Insert(log.batches, i, v)
		log.bytes += v.batch.size()
		h.bytes += v.batch.size()
	}
	for h.of(id.Node) > MaxHeldOf {
		h.cut(h.largest(func(o logID) bool { return o.Node == id.Node }))
	}
	for h.bytes > MaxHeld {
		h.cut(h.largest(func(logID) bool { return true }))
	}
	return !ok && h.has(id, v.link)
}

// of is how many bytes are held of an author.
func (h *held) of(n NodeID) (bytes int) {
	for id, log := range h.logs {
		if id.Node == n {
			bytes += log.bytes
		}
	}
	return bytes
}

func (h *held) largest(among func(logID) bool) (out logID) {
	most := -1
	for id, log := range h.logs {
		if among(id) && (log.bytes > most || log.bytes == most && id.compare(out) < 0) {
			out, most = id, log.bytes
		}
	}
	return out
}

// cut gives up the last batch of a log.
func (h *held) cut(id logID) {
	n := len(h.logs[id].batches)
	h.remove(id, n-1, n)
}

func (h *held) remove(id logID, from, to int) {
	log := h.logs[id]
	for _, v := range log.batches[from:to] {
		log.bytes -= v.batch.size()
		h.bytes -= v.batch.size()
	}
	log.batches = slices.Delete(log.batches, from, to)
	if len(log.batches) == 0 {
		delete(h.logs, id)
	}
}

// next takes out the first batches of a log that need not wait any more, the log having reached a position: as many as follow on each
// other, and one at least, but no more than maxBytes of them.
func (h *held) next(id logID, reached Seq, maxBytes int) []Verified {
	log := h.logs[id]
	if log == nil {
		return nil
	}
	n := 0
	for n < len(log.batches) && log.batches[n].link.first <= reached+1 {
		v := log.batches[n]
		if maxBytes -= v.batch.size(); maxBytes < 0 && n > 0 {
			break
		}
		reached = max(reached, v.link.head.Seq)
		n++
	}
	run := slices.Clone(log.batches[:n])
	h.remove(id, 0, n)
	return run
}

func (h *held) drop(id logID) {
	if log := h.logs[id]; log != nil {
		h.bytes -= log.bytes
		delete(h.logs, id)
	}
}
