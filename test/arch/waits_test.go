package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// waitMark stands before the reason why a wait needs no context, in a comment
// at the end of its first line or on the line above it.
const waitMark = "wait: "

// TestWaitsEnd: whatever may wait for long must end with a context. A select
// must have a case for that (or a default), and nothing else may wait: channels
// are only used in a select, and no lock, process, group of goroutines or
// connection is waited for, unless a comment says why the wait ends.
func TestWaitsEnd(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sources(t, false) {
		if strings.HasPrefix(f.pkg, "test/") || strings.HasSuffix(f.pkg, "test") || seen[f.name] {
			continue
		}
		seen[f.name] = true
		fset := token.NewFileSet()
		tree, err := parser.ParseFile(fset, filepath.Join(root(t), f.name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range waits(fset, tree) {
			t.Errorf("%s:%s", f.name, w)
		}
	}
}

// TestWaitsAreFound shows which statements count as a wait.
func TestWaitsAreFound(t *testing.T) {
	for body, want := range map[string]int{
		"<-c":                  1,
		"c <- 1":               1,
		"x := <-c; _=x":        1,
		"<-ctx.Done()":         0,
		"select { case <-c: }": 1,
		"select {}":            1,
		"select { case <-c: case <-ctx.Done(): }":      0,
		"select { case c <- 1: default: }":             0,
		"select { case <-c: <-d; case <-ctx.Done(): }": 1,
		"wg.Wait()":                                1,
		"cmd.Wait()":                               1,
		"c := make(chan int, 1); c <- 1":           0,
		"c := make(chan int); c <- 1":              1,
		"time.Sleep(1)":                            1,
		"net.Dial(a, b)":                           1,
		"unix.Flock(1, unix.LOCK_EX)":              1,
		"unix.Flock(1, unix.LOCK_EX|unix.LOCK_NB)": 0,
		"unix.Flock(1, how)":                       0,
		"<-c // wait: it is closed by close":       0,
		"<-c // wait: x":                           1,
		"// wait: it is closed by close\n<-c":      0,
		"go func() { <-c }()":                      1,
	} {
		fset := token.NewFileSet()
		tree, err := parser.ParseFile(fset, "x.go", "package x\nfunc f() {\n"+body+"\n}\n", parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := waits(fset, tree); len(got) != want {
			t.Errorf("%s: %v, want %d", body, got, want)
		}
	}
}

// waits returns the waits in a file that may never end.
func waits(fset *token.FileSet, tree *ast.File) []string {
	excused := map[int]bool{}
	for _, group := range tree.Comments {
		for _, c := range group.List {
			if _, why, ok := strings.Cut(c.Text, waitMark); ok && len(strings.Fields(why)) > 2 {
				line := fset.Position(c.Pos()).Line
				excused[line] = true
				excused[fset.Position(group.End()).Line+1] = true
			}
		}
	}
	var out []string
	find := func(n ast.Node, what string) {
		if line := fset.Position(n.Pos()).Line; !excused[line] {
			out = append(out, fmt.Sprintf("%d: %s", line, what))
		}
	}
	ofSelect, roomy := map[ast.Node]bool{}, withRoom(tree)
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectStmt:
			ends := false
			for _, s := range n.Body.List {
				comm := s.(*ast.CommClause).Comm
				ends = ends || comm == nil
				if comm == nil {
					continue
				}
				ast.Inspect(comm, func(c ast.Node) bool {
					if u, ok := c.(*ast.UnaryExpr); ok && u.Op == token.ARROW {
						ofSelect[u] = true
						ends = ends || isDone(u.X)
					}
					return true
				})
				ofSelect[comm] = true
			}
			if !ends {
				find(n, "a select that no context ends")
			}
		case *ast.UnaryExpr:
			if n.Op == token.ARROW && !ofSelect[n] && !isDone(n.X) {
				find(n, "a receive that no context ends")
			}
		case *ast.SendStmt:
			if id, ok := n.Chan.(*ast.Ident); !ofSelect[n] && (!ok || !roomy[id.Name]) {
				find(n, "a send that no context ends")
			}
		case *ast.CallExpr:
			if what := waitingCall(n); what != "" {
				find(n, what)
			}
		}
		return true
	})
	return out
}

// withRoom returns the buffered channels that the file creates: the single
// result of a goroutine fits.
func withRoom(tree *ast.File) map[string]bool {
	out := map[string]bool{}
	ast.Inspect(tree, func(n ast.Node) bool {
		as, ok := n.(*ast.AssignStmt)
		if !ok || len(as.Lhs) != 1 || len(as.Rhs) != 1 {
			return true
		}
		id, isName := as.Lhs[0].(*ast.Ident)
		call, isCall := as.Rhs[0].(*ast.CallExpr)
		if !isName || !isCall || len(call.Args) != 2 {
			return true
		}
		fn, isFn := call.Fun.(*ast.Ident)
		_, isChan := call.Args[0].(*ast.ChanType)
		if isFn && isChan && fn.Name == "make" {
			out[id.Name] = true
		}
		return true
	})
	return out
}

func isDone(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Done" && len(call.Args) == 0
}

// waitingCall returns the name of a call that may wait forever.
func waitingCall(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg := ""
	if id, ok := sel.X.(*ast.Ident); ok {
		pkg = id.Name
	}
	switch name := sel.Sel.Name; {
	case name == "Wait" && len(call.Args) == 0:
		return "a Wait that no context ends"
	case pkg == "time" && name == "Sleep":
		return "a sleep that no context ends"
	case pkg == "net" && strings.HasPrefix(name, "Dial") && len(name) < len("DialTimeout"):
		return "a dial that no context ends"
	case name == "Flock" && len(call.Args) == 2:
		for _, part := range flags(call.Args[1]) {
			if part == "LOCK_NB" || part == "LOCK_UN" || !strings.HasPrefix(part, "LOCK_") {
				return ""
			}
		}
		return "a lock that no context ends"
	}
	return ""
}

// flags returns the names in a | b | c.
func flags(e ast.Expr) []string {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return append(flags(e.X), flags(e.Y)...)
	case *ast.SelectorExpr:
		return []string{e.Sel.Name}
	case *ast.Ident:
		return []string{e.Name}
	}
	return nil
}
