package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

// version is set by the linker.
var version = "unversioned"

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // until the program ends
		<-signals
		signal.Stop(signals) // before anyone learns of the first: a second one ends the program as if there were no handler
		cancel()
	}()
	p := &program{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.run(os.Args[1:]))
}

// program is what commands get from outside.
type program struct {
	ctx            context.Context // ends at the first SIGINT or SIGTERM
	stdin          io.Reader
	stdout, stderr io.Writer
	json           bool
}

type commands struct {
	JSON    bool             `name:"json" help:"Print the result, and errors, as JSON."`
	Version kong.VersionFlag `help:"Print the version and exit."`

	Init    initCmd    `cmd:"" help:"Make a node's home folder, and found a region if asked."`
	Card    cardCmd    `cmd:"" help:"Print this trust's card, to give to a member of the region."`
	Admit   admitCmd   `cmd:"" help:"Endorse a trust; prints an invitation once enough members have."`
	Expel   expelCmd   `cmd:"" help:"Vote to expel a trust from the region."`
	Revoke  revokeCmd  `cmd:"" help:"Shut out a node of this trust whose key was stolen or replaced."`
	Join    joinCmd    `cmd:"" help:"Take an invitation: this node becomes part of the region."`
	Run     runCmd     `cmd:"" help:"Run the node until SIGTERM or Ctrl-C."`
	Import  importCmd  `cmd:"" help:"Store DICOM files and folders of them in the running node."`
	Find    findCmd    `cmd:"" help:"Find studies, wherever in the region they are."`
	Fetch   fetchCmd   `cmd:"" help:"Bring a study here, and wait until it is."`
	Link    linkCmd    `cmd:"" help:"Say of two numbers that they are one patient's, or two patients', and take it back."`
	Pin     pinCmd     `cmd:"" help:"Keep the copies of a study, whatever the quota."`
	Unpin   unpinCmd   `cmd:"" help:"Let the copies of a study go again when space is short."`
	Erase   eraseCmd   `cmd:"" help:"Erase all that is kept here of a study, for good."`
	Verify  verifyCmd  `cmd:"" help:"Read all that is kept here, and repair what is damaged."`
	Rekey   rekeyCmd   `cmd:"" help:"Wrap the study keys with a new key-encryption key."`
	Backup  backupCmd  `cmd:"" help:"Copy all that this node needs to live again into a folder."`
	Restore restoreCmd `cmd:"" help:"Make a home of a backup."`
	Status  statusCmd  `cmd:"" help:"Say how the node is and which trusts it hears."`
	Peers   peersCmd   `cmd:"" help:"List the other nodes of the region."`
	Audit   auditCmd   `cmd:"" help:"Search what was granted, refused and brought, and see that nobody altered it."`
	Demo    demoCmd    `cmd:"" help:"Run a region on this machine and watch priors arrive."`
}

const description = `One trust's node of a region that shares imaging without a hub: it keeps what it
receives, knows every study of the region, and brings a patient's earlier studies
from the trust that has them, byte for byte.

  priormesh demo --once                                  see it work
  priormesh init --home /srv/priormesh --trust RX1 --found "My region"
  priormesh run --home /srv/priormesh

` + exitHelp

// exited carries kong's wish to end (after --help, --version) up to run.
type exited int

// run carries out one command line and gives its exit code.
func (p *program) run(args []string) (code int) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case exited:
			code = int(v)
		default:
			panic(v)
		}
	}()
	var c commands
	parser, err := kong.New(&c, kong.Name("priormesh"), kong.Description(description),
		kong.Writers(p.stdout, p.stderr), kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, NoAppDescFormat: true, WrapUpperBound: 100}),
		kong.Vars{"version": version, "http": node.DefaultConfig().HTTP, "mesh": strings.Join(node.DefaultConfig().Mesh, ", ")})
	if err != nil {
		panic(err) // the grammar above is wrong, whatever the arguments
	}
	switch { // words that people try first
	case len(args) == 0:
		args = []string{"--help"}
	case args[0] == "help":
		args = append(slices.Clone(args[1:]), "--help")
	case args[0] == "version":
		args = []string{"--version"}
	}
	cmd, err := parser.Parse(args)
	if err != nil {
		report(p.stderr, exit(exitWrongUse, "%w; `priormesh %s--help` shows how it is used", err, named(err)), "", slices.Contains(args, "--json"))
		return exitWrongUse
	}
	if twice := givenTwice(cmd); twice != "" {
		report(p.stderr, exit(exitWrongUse, "--%s is given more than once, and only one would count; give it once", twice), "", c.JSON)
		return exitWrongUse
	}
	p.json = c.JSON
	if err := cmd.Run(p); err != nil {
		if errors.Is(err, context.Canceled) && p.ctx.Err() != nil && exitCode(err) == exitFailed {
			err = errors.New("interrupted before it was done")
		}
		report(p.stderr, err, homeIn(cmd), p.json)
		return exitCode(err)
	}
	return exitDone
}

// givenTwice names a flag that is given more than once and takes one value.
func givenTwice(cmd *kong.Context) string {
	seen := map[*kong.Flag]bool{}
	for _, p := range cmd.Path {
		if p.Flag == nil || p.Resolved || p.Flag.IsCumulative() {
			continue
		}
		if seen[p.Flag] && !p.Flag.IsBool() {
			return p.Flag.Name
		}
		seen[p.Flag] = true
	}
	return ""
}

// named is the command that a mistaken command line is about, with a space.
func named(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil && parse.Context.Selected() != nil {
		return parse.Context.Selected().Name + " "
	}
	return ""
}

// homeIn is the home folder that a command line is about.
func homeIn(cmd *kong.Context) string {
	for _, f := range cmd.Flags() {
		if f.Name == "home" {
			home, _ := cmd.FlagValue(f).(string)
			return home
		}
	}
	return ""
}

// result prints v as JSON, or by text when no JSON was asked for.
func (p *program) result(v any, text func(w io.Writer)) error {
	if !p.json {
		text(p.stdout)
		return nil
	}
	return p.line(v)
}

// line prints one line of JSON.
func (p *program) line(v any) error {
	e := json.NewEncoder(p.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// note is for people who watch: not part of the result.
func (p *program) note(format string, args ...any) {
	fmt.Fprintf(p.stderr, format+"\n", args...)
}

// watched reports whether a person sees stderr.
func (p *program) watched() bool {
	f, ok := p.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// homeFlag is the flag that all commands about one node have.
type homeFlag struct {
	Home string `required:"" placeholder:"DIR" env:"PRIORMESH_HOME" help:"Home folder of the node."`
}

// A command waits for this long for a node that is starting.
const (
	startFor   = 10 * time.Second
	startEvery = 50 * time.Millisecond
)

// client reaches the running node of a home folder.
func (h homeFlag) client(ctx context.Context) (*api.Client, error) {
	home, err := node.OpenHome(h.Home)
	if err != nil {
		// A node that runs goes on with the settings that it has, and can be asked.
		at := &node.Home{Dir: h.Home}
		if _, rerr := at.Running(); rerr != nil {
			return nil, err
		}
		home = at
	}
	running, err := runningOf(ctx, home)
	if err != nil {
		return nil, err
	}
	token, err := home.Token()
	if err != nil {
		return nil, err
	}
	return api.NewClient("http://"+running.HTTP, token, nil), nil
}

// runningOf is where a home's node serves. A process that has the home's lock
// but does not say yet where it serves is a node that starts, and is waited for.
func runningOf(ctx context.Context, home *node.Home) (node.Running, error) {
	ctx, cancel := context.WithTimeout(ctx, startFor)
	defer cancel()
	for {
		locked := home.Locked() // asked first: a node that is ready by now has said so
		running, err := home.Running()
		if !errors.Is(err, node.ErrNotRunning) || !locked {
			return running, err
		}
		select {
		case <-ctx.Done():
			if home.Restored() {
				return running, exit(exitNotYet, "this node was restored from a backup and serves nothing before it has reached a member of the region and begun anew: see its log, and whether the members run (`priormesh run --alone` does not wait)")
			}
			return running, err
		case <-time.After(startEvery):
		}
	}
}

// plain makes text from outside harmless to a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

// short cuts text for a column.
func short(s string, runes int) string {
	s = plain(s)
	if r := []rune(s); len(r) > runes {
		return string(r[:runes-1]) + "…"
	}
	return s
}

// list joins what may be empty.
func list(s []string) string {
	if len(s) == 0 {
		return "-"
	}
	return plain(strings.Join(s, ", "))
}

func plural(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}
