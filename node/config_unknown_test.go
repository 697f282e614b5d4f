package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/node"
)

// What config.toml has too much is named with its line, on one line.
func TestAnUnknownSettingIsNamed(t *testing.T) {
	tr := newTrust(t, "RX1", "Test region")
	path := filepath.Join(tr.home.Dir, "config.toml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, "\n[fetch.wrong]\nfoo = 1\n"...)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = node.OpenHome(tr.home.Dir)
	if err == nil || !strings.Contains(err.Error(), "fetch.wrong") || !strings.Contains(err.Error(), "(line ") || strings.ContainsAny(err.Error(), "\n|") {
		t.Errorf("%v", err)
	}
}
