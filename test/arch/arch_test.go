// Package arch holds the rules of the architecture as tests: which packages may
// import which, which package alone uses a library, which names may only be
// mentioned in one place.
//
// In short: package agent is at the top; agent/host, agent/event, agent/config,
// agent/bound and agent/secret are at the bottom; between them imports only go
// down; and the emulator imports none of them.
package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/azguest/azguest/"

// may lists the packages of this module that a package may import, tests aside.
// A path that ends in "/..." stands for the package and everything below it.
var may = map[string][]string{
	"agent": {
		"agent/bound", "agent/config", "agent/disk", "agent/doctor", "agent/event", "agent/firewall", "agent/hook", "agent/host", "agent/host/cgroup", "agent/host/job", "agent/host/process", "agent/metadata", "agent/secret", "agent/status", "agent/update",
		"ovf/...", "protocol/...", "provisioning", "provisioning/access", "provisioning/disk", "provisioning/kvp", "provisioning/userdata", "extensions/...",
	},
	"agent/cmd/azguest":  {"agent", "agent/cli", "agent/config", "agent/host", "agent/host/job", "agent/host/process", "agent/log", "agent/tool", "agent/version"},
	"agent/cmd/agentctl": {"agent/ctl"},
	"agent/ctl":          {"agent/cli", "agent/config", "agent/doctor", "agent/host", "agent/metadata", "agent/secret", "agent/status", "agent/version"},
	"agent/doctor":       {"agent/config", "agent/host", "agent/secret", "agent/status"},

	"agent/bound":             {},
	"agent/cli":               {},
	"agent/config":            {"agent/bound", "agent/cli", "agent/host", "agent/secret"},
	"agent/crash":             {},
	"agent/disk":              {"agent/event", "agent/host"},
	"agent/event":             {"agent/bound", "agent/host", "agent/secret"},
	"agent/firewall":          {"agent/event", "agent/host"},
	"agent/hook":              {"agent/host", "agent/host/job", "agent/status"},
	"agent/host":              {"agent/bound", "agent/host/process", "agent/secret"},
	"agent/host/cgroup":       {"agent/host", "agent/host/process"},
	"agent/host/hosttest":     {"agent/host", "agent/host/cgroup"},
	"agent/host/job":          {"agent/host", "agent/host/cgroup", "agent/host/process", "agent/secret"},
	"agent/host/process":      {}, // the processes of the machine; needs no files
	"agent/log":               {"agent/host", "agent/secret"},
	"agent/metadata":          {"agent/bound", "agent/cli", "agent/host", "agent/secret"},
	"agent/host/unzip":        {"agent/bound", "agent/host"},
	"agent/secret":            {},
	"agent/status":            {"agent/bound", "agent/host", "agent/host/process", "agent/secret"},
	"agent/tool":              {"agent", "agent/bound", "agent/cli", "agent/config", "agent/event", "agent/firewall", "agent/hook", "agent/host", "agent/host/job", "agent/host/process", "agent/log", "agent/metadata", "agent/secret", "agent/status", "extensions/policy", "protocol/cms", "protocol/discover", "protocol/platform", "provisioning", "provisioning/generalize", "provisioning/userdata"},
	"agent/update":            {"agent/bound", "agent/event", "agent/host", "agent/host/cgroup", "agent/host/process", "agent/host/unzip", "agent/secret", "protocol", "protocol/cms"},
	"agent/update/updatetest": {},
	"agent/version":           {},

	"ovf":                   {"agent/bound", "agent/host", "agent/secret", "ovf/iso9660", "ovf/udf", "ovf/internal/..."},
	"ovf/iso9660":           {"ovf/internal/..."},
	"ovf/udf":               {"ovf/internal/..."},
	"ovf/internal/...":      {},
	"provisioning":          {"agent/bound", "agent/event", "agent/host", "agent/host/process", "agent/secret", "ovf"},
	"provisioning/...":      {"agent/bound", "agent/event", "agent/host", "agent/secret", "ovf", "provisioning"},
	"provisioning/userdata": {"agent/bound", "agent/cli", "agent/event", "agent/host", "agent/host/job", "agent/secret", "provisioning"}, // scripts run under supervisors
	"extensions":            {"agent/bound", "agent/event", "agent/host", "agent/host/cgroup", "agent/host/job", "agent/host/unzip", "agent/secret", "protocol", "extensions/..."},
	"extensions/fault":      {"agent/host"},
	"extensions/folder":     {"agent/host"},
	"extensions/handler":    {"agent/bound", "agent/host", "agent/host/cgroup", "agent/host/job", "agent/secret", "protocol", "extensions/fault", "extensions/folder", "extensions/plan"},
	"extensions/plan":       {"protocol"},
	"extensions/policy":     {"agent/bound", "agent/host", "extensions/fault", "extensions/handler", "extensions/plan"},
	"extensions/store":      {"agent/host", "agent/host/job", "extensions/fault", "extensions/folder", "extensions/handler", "extensions/plan"},
	"protocol":              {"agent/bound", "agent/secret"},
	"protocol/cms":          {"agent/bound", "agent/secret", "protocol/internal/cms"},
	"protocol/discover":     {"agent/bound", "agent/event", "agent/host", "agent/secret", "protocol", "protocol/internal/..."},
	"protocol/hostga":       {"agent/bound", "agent/event", "agent/secret", "protocol", "protocol/internal/..."},
	"protocol/imds":         {"agent/bound", "agent/event", "agent/secret", "protocol", "protocol/internal/..."},
	"protocol/internal/...": {"agent/bound", "agent/secret", "protocol", "protocol/internal/..."},
	"protocol/platform":     {"agent/bound", "agent/event", "agent/host", "agent/secret", "protocol/..."},
	"protocol/transfer":     {"agent/bound", "agent/event", "agent/host", "agent/secret", "protocol", "protocol/hostga", "protocol/internal/..."},
	"protocol/wire":         {"agent/bound", "agent/event", "agent/secret", "protocol", "protocol/internal/..."},

	"test/arch":     {},
	"test/arm":      {"test/bundles", "test/fabric", "test/machine", "test/machine/machinetest", "test/sandbox"},
	"test/arm/...":  {},
	"test/bundles":  {},
	"test/canary":   {},
	"test/extlab":   {"test/fabric", "test/machine", "test/release", "test/sandbox"},
	"test/fabric":   {"test/fabric/..."}, // if emulator and agent shared a struct, they would share its bugs
	"test/machine":  {"test/fabric", "test/sandbox"},
	"test/oracle":   {"test/fabric", "test/machine", "test/machine/machinetest", "test/sandbox"},
	"test/packages": {"test/sandbox"},
	"test/peak":     {},
	"test/release":  {},
	"test/sandbox":  {},
	"test/cmd/...":  {"test/..."},
	"test/chaos":    {"test/bundles", "test/fabric", "test/machine", "test/machine/machinetest", "test/sandbox"},
	"test/e2e":      {"test/bundles", "test/canary", "test/fabric", "test/machine", "test/machine/machinetest", "test/release", "test/sandbox"},
	"test/handlers": {"test/fabric", "test/machine", "test/machine/machinetest", "test/sandbox"},
	"test/vm":       {"test/bundles", "test/fabric", "test/machine", "test/sandbox"},

	"test/machine/machinetest": {"test/fabric", "test/machine", "test/release", "test/sandbox"},

	"test/fabric/...": {},
	"test/vm/...":     {"test/bundles", "test/fabric", "test/sandbox", "test/vm"},
}

// everywhere may be imported by all of the product: it catches panics.
const everywhere = "agent/crash"

// owner lists the packages that may import an external package, tests aside.
// Test programs run processes; the release binaries don't contain them.
var owner = map[string][]string{
	"os/exec":                             {"agent/host/...", "test/..."},
	"net/http":                            {"protocol/...", "test/..."},
	"github.com/beevik/etree":             {"ovf", "protocol/wire"},
	"github.com/kardianos/service":        {"agent"},
	"github.com/go-co-op/gocron/v2":       {"agent"},
	"github.com/google/nftables":          {"agent/firewall"},
	"github.com/spf13/cobra":              {"agent/ctl", "agent/cmd/...", "test/cmd/..."},
	"software.sslmate.com/src/go-pkcs12":  {}, // tests compare this project's own reader with it
	"github.com/go-crypt/crypt":           {"provisioning"},
	"github.com/godbus/dbus/v5":           {"agent/host/cgroup", "agent", "protocol/discover"},
	"github.com/rogpeppe/go-internal/...": {"test/..."},
	"github.com/google/go-cmp/...":        {"test/..."},
}

// names lists the packages that may mention an exported name of another package
// of this module, tests aside.
var names = map[string][]string{
	"agent/host.Exec": {"agent/cmd/azguest", "test/..."},
}

// A file is one parsed Go file.
type file struct {
	pkg  string // folder, slash-separated, "" for the root
	name string // path from the root
	ast  *ast.File
}

// root returns the directory of go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

// skipped reports whether a directory has no source files of this project.
func skipped(d fs.DirEntry) bool {
	n := d.Name()
	return d.IsDir() && (n == "testdata" || n == "vendor" || len(n) > 1 && n[0] == '.' && n != ".ci")
}

// sources parses every Go file in this process. A test that used `go list`
// would still pass from the test cache after a rule was broken; opening the
// files makes the cache depend on them.
func sources(t *testing.T, tests bool) []file {
	t.Helper()
	top := root(t)
	var out []file
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if skipped(d) && path != top {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" || !tests && strings.HasSuffix(path, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		pkg := filepath.ToSlash(filepath.Dir(rel))
		if pkg == "." {
			pkg = ""
		}
		out = append(out, file{pkg, rel, parsed})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// matches reports whether pkg is in the list of paths and "/..." patterns.
func matches(pkg string, list []string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		base, deep := strings.CutSuffix(p, "/...")
		return pkg == base || deep && strings.HasPrefix(pkg, base+"/")
	})
}

// rule returns the line of a table for a key: the exact one, otherwise the
// longest matching pattern.
func rule(table map[string][]string, key string) (list []string, ok bool) {
	if list, ok = table[key]; ok {
		return list, true
	}
	best := ""
	for p, l := range table {
		if strings.HasSuffix(p, "/...") && matches(key, []string{p}) && len(p) > len(best) {
			best, list, ok = p, l, true
		}
	}
	return list, ok
}

func imports(f file) []string {
	var out []string
	for _, i := range f.ast.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func TestImports(t *testing.T) {
	for _, f := range sources(t, false) {
		allowed, known := rule(may, f.pkg)
		if !known {
			t.Errorf("%s: package %q is not in the table: say in test/arch what it may import", f.name, f.pkg)
			continue
		}
		for _, imp := range imports(f) {
			if own, ok := strings.CutPrefix(imp, module); ok && own != everywhere && !matches(own, allowed) {
				t.Errorf("%s: %s may not import %s", f.name, f.pkg, own)
			}
		}
	}
}

func TestOwners(t *testing.T) {
	for _, f := range sources(t, false) {
		for _, imp := range imports(f) {
			if owners, ok := rule(owner, imp); ok && !matches(f.pkg, owners) {
				t.Errorf("%s: only %s may import %s", f.name, strings.Join(owners, ", "), imp)
			}
		}
	}
}

// TestFabricImportsNothing also covers the fabric's tests, so that the emulator
// is not adapted to the agent.
func TestFabricImportsNothing(t *testing.T) {
	for _, f := range sources(t, true) {
		if !matches(f.pkg, []string{"test/fabric/..."}) || !strings.HasSuffix(f.name, "_test.go") {
			continue
		}
		for _, imp := range imports(f) {
			if own, ok := strings.CutPrefix(imp, module); ok && !matches(own, []string{"test/fabric/...", "test/bundles"}) {
				t.Errorf("%s imports %s", f.name, own)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, f := range sources(t, false) {
		for name, where := range names {
			pkg, ident, _ := strings.Cut(name, ".")
			if f.pkg == pkg || matches(f.pkg, where) {
				continue
			}
			local := ""
			for _, i := range f.ast.Imports {
				if i.Path.Value != strconv.Quote(module+pkg) {
					continue
				}
				local = filepath.Base(pkg)
				if i.Name != nil {
					local = i.Name.Name
				}
			}
			if local == "" {
				continue
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == ident {
					if x, ok := s.X.(*ast.Ident); ok && x.Name == local {
						t.Errorf("%s: only %s may say %s.%s", f.name, strings.Join(where, ", "), local, ident)
					}
				}
				return true
			})
		}
	}
}

// TestNoInit: what happens at program start is written in main, not hidden in
// init functions.
func TestNoInit(t *testing.T) {
	for _, f := range sources(t, false) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: has an init function", f.name)
			}
		}
	}
}

// TestPackagesAreDocumented: every package has a package comment.
func TestPackagesAreDocumented(t *testing.T) {
	doc := map[string]bool{}
	for _, f := range sources(t, true) {
		doc[f.pkg] = doc[f.pkg] || f.ast.Doc != nil
	}
	for pkg, ok := range doc {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// TestNoMachinePaths: the project must work in a clean clone on any machine, so
// no file names a directory of the machine on which it was written.
func TestNoMachinePaths(t *testing.T) {
	// Written so that this file does not contain them.
	forbidden := [][]byte{
		[]byte("/wo" + "rk/"), []byte("/tmp/br" + "ief"), []byte("/root/." + "pyenv"), []byte("/root/" + "go/"), []byte("/home/" + "runner"),
		[]byte("fixtures/" + "waagent/NOTICE"),
	}
	top := root(t)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == ".git" || n == ".build" || n == ".cache" || n == "vendor" {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || d.Name() == ".git" { // the .git file of a second working tree
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0 {
			return nil // a locally built program, or an image
		}
		for _, bad := range forbidden {
			for i, line := range bytes.Split(b, []byte("\n")) {
				if at := bytes.Index(line, bad); at == 0 || at > 0 && !pathByte(line[at-1]) {
					t.Errorf("%s:%d: names the machine path %s", path[len(top)+1:], i+1, bad)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pathByte reports whether c can stand before a slash inside a longer path.
func pathByte(c byte) bool {
	return c == '.' || c == '-' || c == '_' || c == '}' || c == ')' ||
		'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// TestNBR7ProgramsAreWrittenSafely: a file that os.WriteFile has written can't
// always be executed, because a process that another test has just forked may
// still have it open. host.Root and sandbox.Sandbox write programs safely.
func TestNBR7ProgramsAreWrittenSafely(t *testing.T) {
	for _, f := range sources(t, true) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 3 {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || fun.Sel.Name != "WriteFile" {
				return true
			}
			if pkg, ok := fun.X.(*ast.Ident); !ok || pkg.Name != "os" {
				return true
			}
			lit, ok := call.Args[2].(*ast.BasicLit)
			if !ok {
				return true
			}
			if perm, err := strconv.ParseUint(lit.Value, 0, 32); err == nil && perm&0o111 != 0 {
				t.Errorf("%s: os.WriteFile writes a program (%s)", f.name, lit.Value)
			}
			return true
		})
	}
}

// TestPanicsAreCaught: the Go runtime prints the value of a panic, which may have
// a secret in it. So each goroutine of the agent starts with a deferred function
// of agent/crash, or does all of its work in host.Safely, and nothing else
// recovers. What runs when a context or a time ends may also be one statement, or
// a function that is named: they cancel, close and stop.
func TestPanicsAreCaught(t *testing.T) {
	helpers := []string{"agent/host/hosttest", "agent/update/updatetest"} // of tests
	guarded := func(body *ast.BlockStmt) (ok bool) {
		ast.Inspect(body, func(n ast.Node) bool {
			if s, is := n.(*ast.SelectorExpr); is {
				x, _ := s.X.(*ast.Ident)
				ok = ok || x != nil && (x.Name == "crash" || x.Name == "host" && s.Sel.Name == "Safely")
			}
			return !ok
		})
		return ok
	}
	for _, f := range sources(t, false) {
		if !matches(f.pkg, []string{"agent/...", "extensions/...", "ovf/...", "protocol/...", "provisioning/..."}) || slices.Contains(helpers, f.pkg) {
			continue
		}
		unguarded := func(fun ast.Expr) bool {
			lit, ok := fun.(*ast.FuncLit)
			return !ok || !guarded(lit.Body)
		}
		const missing = "a goroutine without crash.Guard, crash.Catch or host.Safely"
		// What is deferred after Guard runs before it, see there.
		inspectGuards(f.ast, func(later ast.Stmt) {
			t.Errorf("%s: a function that is deferred after crash.Guard (byte %d)", f.name, later.Pos()-f.ast.FileStart)
		})
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				if unguarded(n.Call.Fun) {
					t.Errorf("%s: %s", f.name, missing)
				}
			case *ast.CallExpr:
				s, ok := n.Fun.(*ast.SelectorExpr)
				if ok && s.Sel.Name == "Go" && len(n.Args) == 1 && unguarded(n.Args[0]) {
					t.Errorf("%s: %s", f.name, missing)
				}
				if ok && s.Sel.Name == "AfterFunc" && len(n.Args) == 2 {
					if lit, is := n.Args[1].(*ast.FuncLit); is && len(lit.Body.List) > 1 && unguarded(lit) {
						t.Errorf("%s: AfterFunc starts %s", f.name, missing)
					}
				}
				if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "recover" && f.pkg != everywhere {
					t.Errorf("%s: recovers, which is for package crash", f.name)
				}
			}
			return true
		})
	}
}

// inspectGuards calls found for each function that is deferred after crash.Guard
// in the same function.
func inspectGuards(f *ast.File, found func(ast.Stmt)) {
	ast.Inspect(f, func(n ast.Node) bool {
		body, ok := n.(*ast.BlockStmt)
		if !ok {
			return true
		}
		guarded := false
		for _, s := range body.List {
			d, ok := s.(*ast.DeferStmt)
			if !ok {
				continue
			}
			if guarded {
				found(d)
			}
			if sel, ok := d.Call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Guard" {
				guarded = true
			}
		}
		return true
	})
}

// TestProgramsArePrivate: the programs keep their memory out of core files, and
// what they print of a panic has no data in it, from their first statements on.
func TestProgramsArePrivate(t *testing.T) {
	seen := 0
	for _, f := range sources(t, false) {
		if !matches(f.pkg, []string{"agent/cmd/..."}) {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Name.Name != "main" {
				continue
			}
			seen++
			var calls []string
			for _, s := range fn.Body.List[:min(2, len(fn.Body.List))] {
				ast.Inspect(s, func(n ast.Node) bool {
					if sel, ok := n.(*ast.SelectorExpr); ok {
						if x, ok := sel.X.(*ast.Ident); ok {
							calls = append(calls, x.Name+"."+sel.Sel.Name)
						}
					}
					return true
				})
			}
			if !slices.Equal(calls, []string{"crash.Private", "crash.Guard"}) {
				t.Errorf("%s: main begins with %v, not with crash.Private and crash.Guard", f.name, calls)
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d programs, want azguest and agentctl", seen)
	}
}
