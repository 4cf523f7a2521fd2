package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLeftOutWithRaceRunsWithout: scripts/test --full runs what test/peak leaves
// out with the race detector.
func TestLeftOutWithRaceRunsWithout(t *testing.T) {
	script, err := os.ReadFile(filepath.Join(root(t), "scripts/test"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^peak='(.*)'$`).FindSubmatch(script)
	if line == nil {
		t.Fatal("scripts/test has no list of them")
	}
	runs := regexp.MustCompile("^(" + string(line[1]) + ")")
	seen := 0
	for _, f := range sources(t, true) {
		// Packages below test/ and extensions are not run with it.
		if !strings.HasSuffix(f.name, "_test.go") || strings.HasPrefix(f.name, "extensions/") || strings.HasPrefix(f.name, "test/") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), f.name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(fn.Name.Name, "Test") || !uses(fn, "peak") {
				continue
			}
			seen++
			if !runs.MatchString(fn.Name.Name) {
				t.Errorf("%s: %s is left out by scripts/test", f.name, fn.Name.Name)
			}
		}
	}
	if seen < 5 {
		t.Errorf("found %d tests that use test/peak", seen)
	}
}

// uses reports whether the function names something of a package.
func uses(fn *ast.FuncDecl, pkg string) bool {
	found := false
	ast.Inspect(fn, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			id, ok := s.X.(*ast.Ident)
			found = found || ok && id.Name == pkg
		}
		return !found
	})
	return found
}
