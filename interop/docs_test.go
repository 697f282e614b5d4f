package interop

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Links between the project's pages lead somewhere, and every decision is in
// the list of decisions.
func TestDocsHoldTogether(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/decisions/*.md", "../testdata/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	if len(pages) < 8 {
		t.Fatalf("only %d pages: %v", len(pages), pages)
	}
	link := regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
	list, err := os.ReadFile("../docs/decisions/README.md")
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := filepath.Glob("../docs/decisions/[0-9]*.md")
	if err != nil || len(decisions) == 0 {
		t.Fatalf("%d decisions: %v", len(decisions), err)
	}
	for _, d := range decisions {
		if !strings.Contains(string(list), "("+filepath.Base(d)+")") {
			t.Errorf("docs/decisions/README.md does not list %s", filepath.Base(d))
		}
	}
}
