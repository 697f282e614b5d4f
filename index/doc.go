// Package index holds what every node of a region knows: facts, the logs they
// travel in, the join of all logs, and the queries over it.
package index
