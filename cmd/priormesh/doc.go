// Command priormesh is the program: one command for each thing that an operator does.
//
// What lives here: reading arguments, calling node and the operator API
// (node/api), and saying what came of it; and the demo, which drives a region
// of real processes by these same commands and checks what they did from
// outside. What may not be here: anything that a node decides.
//
// # What every command keeps to
//
// The result goes to stdout and everything else (notes, warnings, progress,
// errors) to stderr. With --json the result is one JSON object (import: one
// line for each file, then one line that sums up; it has "files" and no
// "file"), and an error is the JSON object {"error", "code"} on stderr. What a
// node says about studies is printed with control characters replaced, because
// it comes from files of anybody's making.
//
// The exit codes are in exit.go and in `priormesh --help`.
package main
