package cas

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// ErrKEK says the key-encryption key cannot be used as it is.
var ErrKEK = errors.New("the key-encryption key is not usable")

const (
	kekTextLine = "priormesh-kek-1:"
	// maxKEKText bounds what a source of the KEK may say.
	maxKEKText = 4096
	// maxKEKWhy bounds what is repeated of a command's standard error.
	maxKEKWhy = 2048
	// kekCommandFor is how long a command may take.
	kekCommandFor = 30 * time.Second
)

// KEK is a key-encryption key: it wraps the study keys of a Keyring. It is
// only ever in memory; where it comes from is a KEKSource's affair.
type KEK struct {
	key  [32]byte
	from string
}

// NewKEK draws a KEK.
func NewKEK(rand io.Reader) (KEK, error) {
	k := KEK{from: "a new key"}
	if _, err := io.ReadFull(rand, k.key[:]); err != nil {
		return KEK{}, fmt.Errorf("making the key-encryption key: %w", err)
	}
	return k, nil
}

// ParseKEK reads the one line that every source gives; from says for errors
// where it came from.
func ParseKEK(b []byte, from string) (KEK, error) {
	text, ok := bytes.CutPrefix(bytes.TrimSpace(b), []byte(kekTextLine))
	k := KEK{from: from}
	if !ok || len(text) != hex.EncodedLen(len(k.key)) {
		return KEK{}, notKEK(from)
	}
	if _, err := hex.Decode(k.key[:], text); err != nil {
		return KEK{}, notKEK(from)
	}
	return k, nil
}

func notKEK(from string) error {
	return fmt.Errorf("%w: %s is not one line of %q and 64 hex digits", ErrKEK, from, kekTextLine)
}

// Text is the line that ParseKEK reads. It is the secret itself.
func (k KEK) Text() []byte { return []byte(kekTextLine + hex.EncodeToString(k.key[:]) + "\n") }

// Equal says whether two are the same key, wherever they come from.
func (k KEK) Equal(o KEK) bool { return k.key == o.key }

// String says where the KEK comes from, never what it is.
func (k KEK) String() string { return k.from }

// Format hides the key from every fmt verb.
func (k KEK) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.from) }

// KEKSource is where the KEK comes from.
type KEKSource struct {
	kind    string // file, env, credential, command
	name    string // file: a path
	command []string
}

// ParseKEKSource reads a source as it is written in a configuration:
// "file:PATH" (relative to home), "env:NAME", "credential:NAME" (a file in the
// folder that $CREDENTIALS_DIRECTORY names) or "command", which is run as
// it is given, without a shell.
func ParseKEKSource(text, home string, command []string) (KEKSource, error) {
	kind, name, _ := strings.Cut(text, ":")
	s := KEKSource{kind: kind, name: name}
	switch {
	case kind == "file" && name != "":
		if !filepath.IsAbs(name) {
			s.name = filepath.Join(home, name)
		}
		return s, nil
	case kind == "env" && name != "" && !strings.ContainsAny(name, "=\x00"):
		return s, nil
	case kind == "credential" && plainName(name):
		return s, nil
	case text == "command" && len(command) > 0 && filepath.IsAbs(command[0]):
		s.command = command
		return s, nil
	case text == "command" && len(command) > 0:
		return s, fmt.Errorf("the command %q must be given with its whole path", command[0])
	case text == "command":
		return s, errors.New(`"command" needs the command itself, as a list of its words`)
	}
	return s, fmt.Errorf(`%q is not "file:PATH", "env:NAME", "credential:NAME" or "command"`, text)
}

// plainName says whether a name stays in the folder that it is looked for in.
func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\\\x00")
}

// String says for people where that is.
func (s KEKSource) String() string {
	switch s.kind {
	case "file":
		return s.name
	case "env":
		return "the environment variable " + s.name
	case "credential":
		return "the credential " + s.name
	}
	return "the command " + s.command[0]
}

// File is the path of a source that is a file, else empty. Only such a source
// can be written.
func (s KEKSource) File() string {
	if s.kind == "file" {
		return s.name
	}
	return ""
}

// Read gets the KEK. A file or credential that is not there is fs.ErrNotExist.
func (s KEKSource) Read(ctx context.Context) (KEK, error) {
	var b []byte
	var err error
	switch s.kind {
	case "file":
		b, err = ReadSecret(s.name)
	case "env":
		text, ok := os.LookupEnv(s.name)
		if !ok {
			return KEK{}, fmt.Errorf("%w: %s is not set", ErrKEK, s)
		}
		b = []byte(text)
	case "credential":
		b, err = ReadCredential(s.name)
	case "command":
		b, err = s.run(ctx)
	default:
		return KEK{}, fmt.Errorf("%w: no source is named", ErrKEK)
	}
	if err != nil {
		return KEK{}, fmt.Errorf("%w: %w", ErrKEK, err)
	}
	return ParseKEK(b, s.String())
}

// run gets the KEK from a command. Its output is the secret, so that no error
// repeats any of it. What the command leaves running in its process group ends
// with it.
func (s KEKSource) run(ctx context.Context) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, kekCommandFor)
	defer cancel()
	cmd := exec.CommandContext(limited, s.command[0], s.command[1:]...)
	ownGroup(cmd)
	var out, why bounded
	out.most, why.most = maxKEKText, maxKEKWhy
	cmd.Stdout, cmd.Stderr = &out, &why
	cmd.WaitDelay = time.Second // for what the command started and left behind
	err := cmd.Run()
	if cmd.Process != nil {
		_ = endGroup(cmd) // mostly there is nothing left of it
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well: only what it left behind still held its output
	}
	said := ""
	if text := strings.TrimSpace(strings.Map(printable, string(why.b))); text != "" {
		said = "; it said: " + text
	}
	switch {
	case err == nil && out.over:
		return nil, fmt.Errorf("%s gave more than %d bytes", s, maxKEKText)
	case err == nil:
		return out.b, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s was given up: %w%s", s, ctx.Err(), said)
	case limited.Err() != nil:
		return nil, fmt.Errorf("%s did not end within %s%s", s, kekCommandFor, said)
	}
	return nil, fmt.Errorf("%s: %w%s", s, err, said)
}

func printable(r rune) rune {
	if r == '\n' || r == '\t' {
		return ' '
	}
	if r < 0x20 || r == 0x7f {
		return -1
	}
	return r
}

// bounded takes the first bytes and swallows the rest.
type bounded struct {
	b    []byte
	most int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.most - len(b.b)
	b.over = b.over || len(p) > room
	b.b = append(b.b, p[:min(len(p), room)]...)
	return len(p), nil
}

// ReadSecret reads a small file that only its owner may read.
func ReadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read %s (mode %04o); make it 0600", path, info.Mode().Perm())
	}
	return readBounded(f, path)
}

// ReadCredential reads a credential that the service manager hands to this
// process alone: a file in the folder that $CREDENTIALS_DIRECTORY names.
func ReadCredential(name string) ([]byte, error) {
	if !plainName(name) {
		return nil, fmt.Errorf("%q is no name of a credential", name)
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, fmt.Errorf("the credential %s is asked for and CREDENTIALS_DIRECTORY is not set: start the node as a service that has LoadCredential=%s:…", name, name)
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, "the credential "+name)
}

func readBounded(r io.Reader, what string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKEKText+1))
	if err == nil && len(b) > maxKEKText {
		err = fmt.Errorf("%w: %s has over %d bytes", ErrTooLarge, what, maxKEKText)
	}
	return b, err
}

// WriteKEK keeps a KEK in a file that only its owner may read, whole or not at
// all.
func WriteKEK(f FS, path string, k KEK) error {
	if err := f.MkdirAll(filepath.Dir(path)); err != nil {
		return fmt.Errorf("keeping the key-encryption key: %w", err)
	}
	if err := writeDurably(f, path, k.Text()); err != nil {
		return fmt.Errorf("keeping the key-encryption key: %w", err)
	}
	return nil
}

// DestroyKEK overwrites and removes the file of a KEK; one that is not there
// is no error.
func DestroyKEK(f FS, path string) error {
	err := destroyFile(f, path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("destroying a key-encryption key: %w", err)
	}
	return nil
}
