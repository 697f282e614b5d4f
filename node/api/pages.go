package api

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/priormesh/priormesh/index"
)

// pages remembers where pages of searches ended, so that the next page goes on there. A QIDO-RS client says only how many studies it has
// seen; what has come in since its last page would move all that follow, and a study could be passed over or told twice.
//
// Of two who asked for the same page both go on after the end that is nearer to the newest study: what went meanwhile let one of them see
// further than the other. One may be told a study again that he has seen, and none misses any.
type pages struct {
	mu   sync.Mutex
	ends map[pageEnd]index.Cursor
	old  map[pageEnd]index.Cursor // what was asked for longer ago
}

type pageEnd struct {
	query [32]byte
	seen  int
}

// keptPages is how many ends of pages are remembered at least, and half of what are at most.
const keptPages = 4096

func newPages() *pages { return &pages{ends: map[pageEnd]index.Cursor{}} }

// pageOf names a query, whichever page of it is asked for.
func pageOf(q index.Query) [32]byte {
	q.Offset, q.Limit, q.After = 0, 0, ""
	return sha256.Sum256(fmt.Appendf(nil, "%q", fmt.Sprintf("%#v", q)))
}

// after is where the pages ended by which so many studies were seen.
func (p *pages) after(query [32]byte, seen int) (index.Cursor, bool) {
	if seen == 0 {
		return "", false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := pageEnd{query, seen}
	c, ok := p.ends[k]
	if !ok {
		if c, ok = p.old[k]; ok {
			p.put(k, c)
		}
	}
	return c, ok
}

func (p *pages) ended(query [32]byte, seen int, at index.Cursor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := pageEnd{query, seen}
	for _, ends := range []map[pageEnd]index.Cursor{p.ends, p.old} {
		if before, ok := ends[k]; ok && before < at { // cursors are in the order of answers
			at = before
		}
	}
	p.put(k, at)
}

func (p *pages) put(k pageEnd, c index.Cursor) {
	if len(p.ends) >= keptPages {
		p.old, p.ends = p.ends, map[pageEnd]index.Cursor{}
	}
	p.ends[k] = c
}
