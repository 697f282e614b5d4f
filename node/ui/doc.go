// Package ui will serve a node's web page: for an operator, what the node
// holds, whom it hears from and what it is bringing; for a radiologist, a
// patient's studies across the region.
//
// Nothing is here yet: node/api answers / with a plain list of addresses.
//
// What will live here: TypeScript sources, and the built files embedded into
// the program, so that a page needs nothing from outside the hospital. What
// may not: a call that is not in the operator API or DICOMweb, and any decision
// that the node makes. It imports nothing of this project.
package ui
