// Package access decides who may do what with a study, and why.
//
// A decision is one function, [Policy], over one [Request]. It reads nothing
// and keeps nothing: what it needs to know is in the request. Who a node
// belongs to is the index's word (the roster); writing a decision down is the
// audit's work. What does not belong here: keys, grants and their expiry
// (mesh carries them, node/archive makes them).
package access
