// Command bench measures a node's store against others, in one run on one
// disk: how fast instances are taken in by 1, 4 and 16 writers beside plain
// files, Orthanc and Kubo; where the time goes; what lies on disk for what was
// taken in; what an idle node holds in memory.
//
//	go run ./interop/bench [-dir DIR] [-time 2s] [-rounds 2] [-only NAME,…]
//
// Others are measured as their makers ship them, as processes of their own, and
// left out with one line where they are not installed. All read the same files
// and answer for them before the next; a rate counts what was answered for.
// Nothing here asserts a time.
//
// What lives here: the clients, the table. What may not: anything that a test
// needs.
package main
