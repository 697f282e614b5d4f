package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// Exit codes. They do not change: scripts rely on them.
const (
	exitDone       = 0 // what was asked for is done
	exitFailed     = 1 // it is not; the error says why
	exitWrongUse   = 2 // the command line, a file named on it or what is in it is wrong
	exitNotRunning = 3 // the node is not running or does not answer
	exitNotFound   = 4 // nothing matched, or no such study is known
	exitPartly     = 5 // done but for some files
	exitNotYet     = 6 // somebody else has to act first: vote, invite, be reachable
	exitDamaged    = 7 // what is stored is damaged in part and not repaired
)

const exitHelp = `Exit codes:
  0  done
  1  failed; the error says why. Of an import: no file was accepted
  2  wrong use: the command line, or what it names
  3  the node is not running or does not answer
  4  nothing matched, or no such study is known
  5  partly done: some files were accepted, some refused or unreadable, or the import was given up
  6  not yet: votes are missing, or a study has not come so far
  7  damage remains: what is stored here is not all whole`

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	error
}

func (e exitError) Unwrap() error { return e.error }

func exit(code int, format string, args ...any) error {
	return exitError{code, fmt.Errorf(format, args...)}
}

// exitCode is what an error means to whoever called the program.
func exitCode(err error) int {
	var own exitError
	var said *api.Error
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &own):
		return own.code
	case errors.Is(err, node.ErrNotRunning), errors.Is(err, api.ErrUnreachable):
		return exitNotRunning
	case errors.Is(err, node.ErrNoHome), errors.Is(err, node.ErrHomeExists):
		return exitWrongUse
	case errors.Is(err, node.ErrNoRegion):
		return exitNotYet
	case errors.As(err, &said) && said.Status == http.StatusNotFound:
		return exitNotFound
	case errors.As(err, &said) && said.Status == http.StatusBadRequest:
		return exitWrongUse
	}
	return exitFailed
}

// report says an error to whoever called the program. home is the home folder
// that the command was about, if any.
func report(w io.Writer, err error, home string, asJSON bool) {
	text := err.Error()
	var said *api.Error
	if errors.As(err, &said) {
		// The exit code says this already.
		text = strings.Replace(text, api.ErrWrongUse.Error()+": ", "", 1)
	}
	if errors.Is(err, api.ErrUnreachable) {
		run := "priormesh run"
		if home != "" {
			run += " --home " + quoted(home)
		}
		text += "; see whether the node runs, and start it with `" + run + "` if it does not"
	}
	if !asJSON {
		fmt.Fprintln(w, "priormesh: "+text)
		return
	}
	b, merr := json.Marshal(struct {
		Error string `json:"error"`
		Code  int    `json:"code"`
	}{text, exitCode(err)})
	if merr != nil {
		panic(merr) // a string and a number always marshal
	}
	fmt.Fprintf(w, "%s\n", b)
}
