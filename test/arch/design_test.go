package arch

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestDesignNamesTests: every test that DESIGN.md names must exist.
func TestDesignNamesTests(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(root(t), "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range sources(t, true) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				have[fn.Name.Name] = true
			}
		}
	}
	named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(b), -1)
	if len(named) < 20 {
		t.Errorf("only %d tests are named: has the form changed?", len(named))
	}
	for _, n := range named {
		if !have[n] {
			t.Errorf("DESIGN.md names %s, which is not there", n)
		}
	}
}
