package index

import "slices"

// lacks says whether payloads of a log are asked for.
func (s logState) lacks() bool { return s.missing > 0 || s.awaited > 0 }

// Holes implements Logs: the heads of logs some of whose payloads did not come, sorted. Heard says of such a head where one is missing.
func (x *Index) Holes() []Head {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []Head
	for _, st := range x.logs {
		if st.lacks() && st.fork == nil {
			out = append(out, st.last.head)
		}
	}
	slices.SortFunc(out, compareHeads)
	return out
}
