package cas

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKEKSources(t *testing.T) {
	home := t.TempDir()
	want := testKEK(9)
	text := string(want.Text())
	write := func(name, content string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(home, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("kek", text, 0o600)
	write("readonly", text, 0o400)
	write("open", text, 0o640)
	write("empty", "", 0o600)
	write("short", kekTextLine+"abcd", 0o600)
	write("long", text+strings.Repeat(" ", maxKEKText), 0o600)
	write("credential", text, 0o444) // the service manager's folder is what protects it
	t.Setenv("CREDENTIALS_DIRECTORY", home)
	t.Setenv("PRIORMESH_TEST_KEK", text)
	t.Setenv("PRIORMESH_TEST_BAD", "priormesh-kek-2:00")
	sh := func(script string) []string { return []string{"/bin/sh", "-c", script} }
	say := "printf %s '" + strings.TrimSpace(text) + "'"
	for _, c := range []struct {
		name, source string
		command      []string
		wrong        string // part of the error; empty: it works
	}{
		{"a file of the home", "file:kek", nil, ""},
		{"a file elsewhere", "file:" + filepath.Join(home, "kek"), nil, ""},
		{"a file that cannot be written", "file:readonly", nil, ""},
		{"a file others may read", "file:open", nil, "0640"},
		{"an empty file", "file:empty", nil, "64 hex digits"},
		{"a short file", "file:short", nil, "64 hex digits"},
		{"a long file", "file:long", nil, "over the size limit"},
		{"no file", "file:none", nil, "none"},
		{"environment", "env:PRIORMESH_TEST_KEK", nil, ""},
		{"nothing in the environment", "env:PRIORMESH_TEST_NONE", nil, "is not set"},
		{"something else in the environment", "env:PRIORMESH_TEST_BAD", nil, "64 hex digits"},
		{"credential", "credential:credential", nil, ""},
		{"no credential", "credential:none", nil, "none"},
		{"command", "command", sh(say), ""},
		{"a command that fails", "command", sh(say + "; echo no token >&2; exit 3"), "no token"},
		{"a command that floods", "command", sh("head -c 100000000 /dev/zero; exit 0"), "more than"},
		{"a command that floods its errors", "command", sh("head -c 100000000 /dev/zero >&2; exit 1"), "exit status 1"},
		{"a command that says something else", "command", sh("echo secret-but-no-kek"), "64 hex digits"},
		{"a command that is not there", "command", []string{"/nonexistent/kms"}, "/nonexistent/kms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := ParseKEKSource(c.source, home, c.command)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Read(t.Context())
			switch {
			case c.wrong == "" && (err != nil || !got.Equal(want)):
				t.Errorf("%v", err)
			case c.wrong != "" && (!errors.Is(err, ErrKEK) || !strings.Contains(err.Error(), c.wrong)):
				t.Errorf("%v, want %q in it", err, c.wrong)
			case err != nil && (strings.Contains(err.Error(), strings.TrimPrefix(strings.TrimSpace(text), kekTextLine)) || strings.Contains(err.Error(), "secret-but")):
				t.Errorf("the error tells the secret: %v", err)
			case err != nil && len(err.Error()) > 2*maxKEKWhy:
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
	for _, bad := range []string{"", "kek", "file:", "env:", "env:A=B", "credential:", "credential:../kek", "credential:a/b", "credential:..", "vault:x"} {
		if _, err := ParseKEKSource(bad, home, nil); err == nil {
			t.Errorf("%q is taken for a source", bad)
		}
	}
	for _, bad := range [][]string{nil, {}, {"kms"}, {"./kms"}} {
		if _, err := ParseKEKSource("command", home, bad); err == nil {
			t.Errorf("%q is taken for a command", bad)
		}
	}
	os.Unsetenv("CREDENTIALS_DIRECTORY")
	s, err := ParseKEKSource("credential:credential", home, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context()); err == nil || !strings.Contains(err.Error(), "CREDENTIALS_DIRECTORY") {
		t.Error(err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	k := testKEK(1)
	const secret = "do-not-print-me"
	o := S3Options{Endpoint: "https://s3.example.nhs.uk", Bucket: "originals", AccessKey: secret, SecretKey: secret, SessionToken: secret}
	client, err := newS3client(o)
	if err != nil {
		t.Fatal(err)
	}
	defer client.close()
	bucket := &S3{s3client: *client}
	hidden := []string{strings.TrimPrefix(strings.TrimSpace(string(k.Text())), kekTextLine)[:8], "1 2 3 4", "0x2", secret, hex.EncodeToString([]byte(secret))}
	for _, form := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "% x", "%t"} {
		for _, what := range []any{k, &k, []KEK{k}, o, &o, []S3Options{o}, bucket} {
			text := fmt.Sprintf(form, what)
			for _, h := range hidden {
				if strings.Contains(strings.ToLower(text), h) {
					t.Errorf("%s of %T prints %s", form, what, text)
				}
			}
		}
	}
	if b, err := json.Marshal(o); err == nil {
		t.Errorf("JSON: %s", b)
	}
	if s := fmt.Sprintf("%v; %v", k, o); s != "KEK 1; bucket originals at https://s3.example.nhs.uk" {
		t.Error(s)
	}
}

func TestKEKFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	if err := WriteKEK(OS(), path, testKEK(1)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	hold := path + " held"
	if err := os.Link(path, hold); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := DestroyKEK(OS(), path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(hold)
	if err != nil || strings.Contains(string(b), kekTextLine) {
		t.Errorf("the bytes are still there: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzKEKText(f *testing.F) {
	f.Add([]byte(kekTextLine + strings.Repeat("0f", 32) + "\n"))
	f.Add([]byte("priormesh-kek-2:00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKEK(b, "kek")
		if err != nil && (!errors.Is(err, ErrKEK) || k != KEK{}) {
			t.Fatal(err)
		}
		if again, aerr := ParseKEK(k.Text(), "kek"); err == nil && (aerr != nil || !again.Equal(k)) {
			t.Fatal(aerr)
		}
	})
}
