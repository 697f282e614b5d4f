// Package interop runs Priormesh as its users do: as processes, by its
// commands, beside software of other makes (Orthanc, dicomweb-client, curl,
// DCMTK, pydicom). It holds only tests.
//
// What lives here: tests that need more than one process or somebody else's
// program, the helpers that start and end them, and interop/setup, which
// installs what a machine lacks. What may not: anything that a test inside one
// package can show, and any import of the packages under test apart from the
// shapes that they publish for others (node/api). The lines between nodes that
// are slow, long or cut come from package simulations/link.
//
// Rules of the house: every process listens on loopback only, is ended by its
// own process id, and its output is shown when the test fails. Nothing sleeps
// in hope; a test waits for a condition with a deadline. A tool that is not
// installed skips the tests that need it with one line that says so, and fails
// them when CI=true.
package interop
