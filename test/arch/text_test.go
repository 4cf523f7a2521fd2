package arch

import (
	"bytes"
	"go/ast"
	"go/printer"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// asked are the functions with which code searches a text.
var asked = map[string][]string{
	"strings": {"Contains", "ContainsAny", "ContainsFunc", "ContainsRune", "Count", "Cut", "CutPrefix", "CutSuffix", "EqualFold", "Fields", "FieldsSeq", "HasPrefix", "HasSuffix", "Index", "IndexAny", "IndexByte", "IndexFunc", "IndexRune", "LastIndex", "LastIndexByte", "Lines", "Split", "SplitN", "SplitSeq"},
	"bytes":   {"Contains", "Count", "Cut", "CutPrefix", "CutSuffix", "EqualFold", "HasPrefix", "HasSuffix", "Index"},
	"regexp":  {"MatchString", "Match"},
	"slices":  {"Contains"},
}

// methods are the methods of a regular expression that do.
var methods = []string{"MatchString", "FindString", "FindStringSubmatch", "FindStringIndex", "FindAllString", "FindAllStringSubmatch"}

// texts are fields with free text of an error, a handler, a tool or a server.
var texts = []string{"Message", "Msg", "Stderr", "StdoutTail", "StderrTail", "Body", "Why", "WhyRan", "Reason", "Refusal", "LastError"}

// byText lists the functions that may search such texts, with the reason.
var byText = map[string]string{
	"agent/host.ExitError.Error":              "how the output of a tool is shown: its last line",
	"ovf.syntaxError":                         "the kind of a syntax error is in encoding/xml's text alone, and only its own constants are looked for, because the rest may quote a password; it chooses words, no code",
	"provisioning/userdata.explain":           "the line of a fault in YAML is in the library's text alone; a wrong guess shows another line",
	"provisioning.ConfigureSSHD.Apply":        "sshd names the keyword that it refuses in its text alone; a wrong guess asks it once more without an old name, and its second answer counts",
	"provisioning.sshdQuestion.complete":      "which part of the question is missing, and which directory that sshd's unit makes early in the boot, is in sshd's text alone; a wrong guess asks again, or makes an empty directory of root's",
	"provisioning.Machine.withUID":            "busybox's adduser has one exit code for everything; a wrong guess tries the next number, 50 at most",
	"provisioning.Machine.askDoas":            "doas has one exit code for everything, and a rule that wants a password is in its text alone, which nobody else writes; a wrong guess is a warning too many or too few",
	"protocol/internal/web.StatusError.Error": "how a body is shown",
}

// TestERR4NothingIsDecidedByText: an error carries its code from where it was
// created. Code that searches for words in an error, a status or the output of
// a command may find words that a script, a server or a file name has put
// there.
func TestERR4NothingIsDecidedByText(t *testing.T) {
	used := map[string]bool{}
	for _, f := range sources(t, false) {
		if strings.HasPrefix(f.pkg, "test/") {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			name := f.pkg + "." + receiver(fn) + fn.Name.Name
			for _, where := range looks(fn.Body) {
				if byText[name] != "" {
					used[name] = true
					continue
				}
				t.Errorf("%s: %s looks into a text: %s", f.name, name, where)
			}
		}
	}
	for name := range byText {
		if !used[name] {
			t.Errorf("%s does not look into a text any more: it needs no exception", name)
		}
	}
}

func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return ""
	}
	x := fn.Recv.List[0].Type
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	if id, ok := x.(*ast.Ident); ok {
		return id.Name + "."
	}
	return ""
}

// looks returns the expressions in a function that search the text of an error,
// or a variable with such a text, or compare such a text with another.
func looks(body *ast.BlockStmt) []string {
	vars := map[string]bool{}
	ast.Inspect(body, func(n ast.Node) bool {
		if a, ok := n.(*ast.AssignStmt); ok && len(a.Lhs) == len(a.Rhs) {
			for i, r := range a.Rhs {
				if id, ok := a.Lhs[i].(*ast.Ident); ok && says(r, vars) {
					vars[id.Name] = true
				}
			}
		}
		return true
	})
	var out []string
	ast.Inspect(body, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.CallExpr:
			s, ok := x.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, _ := s.X.(*ast.Ident)
			if pkg != nil && slices.Contains(asked[pkg.Name], s.Sel.Name) || slices.Contains(methods, s.Sel.Name) {
				if slices.ContainsFunc(x.Args, func(a ast.Expr) bool { return says(a, vars) }) {
					out = append(out, source(x))
				}
			}
		case *ast.BinaryExpr:
			if x.Op != token.EQL && x.Op != token.NEQ {
				return true
			}
			for _, pair := range [][2]ast.Expr{{x.X, x.Y}, {x.Y, x.X}} {
				if l, ok := pair[1].(*ast.BasicLit); ok && l.Kind == token.STRING && l.Value != `""` && says(pair[0], vars) {
					out = append(out, source(x))
				}
			}
		case *ast.SwitchStmt:
			if x.Tag != nil && says(x.Tag, vars) {
				out = append(out, source(x.Tag))
			}
		}
		return true
	})
	return out
}

// says reports whether an expression contains the text of an error.
func says(x ast.Expr, vars map[string]bool) bool {
	found := false
	ast.Inspect(x, func(n ast.Node) bool {
		switch e := n.(type) {
		case *ast.FuncLit, *ast.CompositeLit:
			return false
		case *ast.CallExpr:
			if s, ok := e.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Error" && len(e.Args) == 0 {
				found = true
			}
		case *ast.SelectorExpr:
			found = found || slices.Contains(texts, e.Sel.Name)
		case *ast.Ident:
			found = found || vars[e.Name]
		}
		return !found
	})
	return found
}

func source(x ast.Node) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, token.NewFileSet(), x); err != nil {
		return err.Error()
	}
	return b.String()
}
