package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/extlab"
	"github.com/azguest/azguest/test/fabric"
)

// serving starts a fabric with one virtual machine and returns its --admin flag.
func serving(t *testing.T) (*fabric.Fabric, string) {
	t.Helper()
	f := fabric.New(t)
	f.CreateVM("vm-01")
	addr, err := f.Listen(fabric.ARM, "127.0.0.1:0", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return f, "--admin=" + addr.(*net.TCPAddr).String()
}

// TestTOOL7MisspeltWordsAreRefused: a word of a fixed list is never accepted if
// it is not in the list; the refusal has the list, and the word that was meant.
func TestTOOL7MisspeltWordsAreRefused(t *testing.T) {
	t.Parallel()
	f, admin := serving(t)
	for args, want := range map[string]string{
		"fail nosuchkind":                `unknown kind "nosuchkind" (must be one of: versions, goalstate, `,
		"fail gaolstate --status 503":    `unknown kind "gaolstate"; did you mean "goalstate"?`,
		"fail status":                    `unknown kind "status"`, // an event: no request to fail
		"fail blobb*":                    `no kind matches "blobb*"`,
		"fail hostga.[":                  "syntax error in pattern",
		"journal --kind goalstat":        `did you mean "goalstate"?`,
		"await request=goalstat:2":       `did you mean "goalstate"?`,
		"await extension=Hello:succeede": `unknown state "succeede"; did you mean "succeeded"?`,
		"await handler=A.B:Raedy":        `unknown status "Raedy"; did you mean "Ready"?`,
		"await health=NotRedy/X":         `unknown state "NotRedy"; did you mean "NotReady"?`,
		"await redy":                     `unknown condition "redy"; did you mean "ready"?`,
		"await converged=1":              `unknown condition "converged=1"`,
		"vm migrat":                      `unknown action "migrat"; did you mean "migrate"?`,
		"env azz":                        `unknown client "azz"; did you mean "az"?`,
		"fial goalstate":                 `unknown command "fial"; did you mean "fail"?`,
		"ext lnit x.zip":                 `unknown command "lnit"; did you mean "lint"?`,
		"help jornal":                    `unknown command "jornal"; did you mean "journal"?`,
		"journal --folow":                `unknown flag "--folow"; did you mean "--follow"?`,
		"completion bahs":                `unknown command "bahs"; did you mean "bash"?`,
		"fail":                           "fail: an argument is missing; usage: fabric fail KIND",
		"put":                            "put: an argument is missing; usage: fabric put NAME",
		"journal x":                      "journal: unexpected argument",
		"ext run " + filepath.Join(t.TempDir(), "nosuch.zip"): "no such file",
	} {
		_, err := run(t, append([]string{admin}, strings.Fields(args)...)...)
		if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), want) {
			t.Errorf("fabric %s: %v, want exit status 2 and %q", args, err, want)
		}
	}
	// Programs that use the interface are refused, too.
	for _, path := range []string{"/_fabric/journal?kind=nosuchkind", "/_fabric/await?for=request%3Dnosuchkind"} {
		_, _, err := fabric.Remote{URL: "http://" + strings.TrimPrefix(admin, "--admin=")}.Do(t.Context(), "GET", path, nil)
		if err == nil || !strings.Contains(err.Error(), "nosuchkind") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := f.Fail(fabric.Fault{Kind: "nosuchkind"}); err == nil {
		t.Error("the package accepts a fault that never strikes")
	}
	if len(f.Faults()) != 0 {
		t.Errorf("faults: %v", f.Faults())
	}
	for _, kind := range append(fabric.Kinds(), "*", "blob*", "hostga.*") {
		if _, err := run(t, admin, "fail", kind, "--status", "503"); err != nil {
			t.Errorf("fabric fail %s: %v", kind, err)
		}
	}
	// The help names the kinds that exist.
	out, err := run(t, "journal", "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range fabric.Kinds() {
		if kind != "unknown" && kind != "fullconfig" && !strings.Contains(out, kind) {
			t.Errorf("the help of journal does not name %s", kind)
		}
	}
}

// TestTOOL8ExitStatus: every wrong use of every command is status 2, as the help
// says.
func TestTOOL8ExitStatus(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		words := strings.Fields(c.CommandPath())[1:]
		if _, err := run(t, append(words, "--nonsense")...); status(err) != 2 {
			t.Errorf("%s --nonsense: %v", c.CommandPath(), err)
		}
		if c.Name() != "help" && c.Name() != "await" {
			if _, err := run(t, append(words, "a", "b", "c", "d")...); status(err) != 2 {
				t.Errorf("%s a b c d: %v", c.CommandPath(), err)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{}))
	noZip := filepath.Join(t.TempDir(), "A.B__1.0.zip")
	if err := os.WriteFile(noZip, []byte("no zip"), 0o644); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[int]string{1: "ext lint " + noZip, 2: "ext lint /nonexistent/A.B__1.0.zip", 0: "--version"} {
		if _, err := run(t, strings.Fields(args)...); status(err) != want {
			t.Errorf("fabric %s: status %d (%v), want %d", args, status(err), err, want)
		}
	}
	if out, _ := run(t, "--version"); !strings.HasPrefix(out, "fabric development build (commit ") {
		t.Errorf("fabric --version: %s", out)
	}
	w := &checked{Writer: broken{}}
	if cmd := root(strings.NewReader(""), w, w); cmd.ExecuteContext(t.Context()) == nil && w.err == nil {
		t.Error("a failed write is not noticed")
	}
}

// status is what main makes of an error.
func status(err error) int {
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	if _, ok := errors.AsType[notTried](err); ok {
		return 3
	}
	return 1
}

// TestTOOL11ProtectedArray: protected settings may be a list, and modules that
// no command runs may name any interpreter.
func TestTOOL11ProtectedArray(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "p.json")
	if err := os.WriteFile(file, []byte(` [{"name": "a"}, 1]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := settings(file, nil, true); err != nil || !json.Valid(data) {
		t.Errorf("protected settings: %s, %v", data, err)
	}
	if _, err := settings(file, nil, false); err == nil {
		t.Error("public settings are a list")
	}
	_, admin := serving(t)
	out, err := run(t, admin, "put", "X", "--handler", "No.Such", "--protected-settings", `[1]`)
	if err == nil || !strings.Contains(err.Error(), "ArtifactNotFound") { // not refused for the settings
		t.Errorf("put: %s %v", out, err)
	}
	if _, err := run(t, admin, "put", "X", "--handler", "No.Such", "--protected-settings", `"x"`); err == nil || strings.Contains(err.Error(), "ArtifactNotFound") {
		t.Errorf("put of a text: %v", err)
	}

	b := bundles.Bundle{
		Name: "Pub.Type", Version: "1.0.0", Install: "run.py install", Enable: "run.py enable", Update: "run.py update", Disable: "run.py disable", Uninstall: "run.py uninstall",
		Files: map[string]string{"run.py": "#!/usr/bin/env python3\n", "lib/module.py": "#!/usr/bin/env python\n", "old.py": "#!/usr/bin/python\n"},
	}
	for name, want := range map[string]int{"run.py": 0, "old.py": 1} {
		b.Install, b.Enable = name, name
		zip, err := b.Write(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		opened, err := extlab.Open(zip)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range extlab.Lint(opened) {
			if strings.Contains(f.Message, "no program named python") {
				n++
			}
		}
		if n != want {
			t.Errorf("commands run %s: %d warnings about python, want %d: %v", name, n, want, extlab.Lint(opened))
		}
	}
}

// TestTOOL13AzureCLI: README has the lines that "fabric env az" prints; test/arm
// runs them.
func TestTOOL13AzureCLI(t *testing.T) {
	t.Parallel()
	out, err := run(t, "env", "az")
	if err != nil || strings.Count(out, "\n") != 5 {
		t.Fatalf("%s %v", out, err)
	}
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if !strings.Contains(string(readme), "\n    "+line) {
			t.Errorf("README.md does not have %s", line)
		}
	}
	out, err = run(t, "env", "az", "--arm", "10.0.0.1:443", "--ca", "/x/ca.pem")
	if err != nil || !strings.Contains(out, "https://10.0.0.1:443 ") || !strings.Contains(out, "=/x/ca.pem\n") {
		t.Errorf("%s %v", out, err)
	}
}

// TestTOOL14FollowAndAwait: the journal can be followed, one line an event; a
// wait that is not met says so in one sentence.
func TestTOOL14FollowAndAwait(t *testing.T) {
	t.Parallel()
	f, admin := serving(t)
	_, err := run(t, admin, "await", "ready", "--timeout", "10ms")
	if err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "408") || !strings.Contains(err.Error(), "not met after 10ms: wait for health=Ready of vm-01: health is not reported") {
		t.Errorf("await: %v", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	o := &output{line: make(chan struct{})}
	cmd := root(strings.NewReader(""), o, o)
	cmd.SetArgs([]string{admin, "journal", "-f", "--kind", "change"})
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	vm := f.VM("vm-01")
	vm.Announce(false)
	<-o.line
	vm.Announce(false)
	for strings.Count(o.String(), "\n") < 2 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("follow ended with %v", err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(o.String()) {
		if !strings.Contains(line, " change\n") || !strings.Contains(line, " vm-01 ") || seen[line] {
			t.Errorf("a line of the journal: %q", line)
		}
		seen[line] = true
	}
	if got := oneLine(fabric.Entry{Kind: "goalstate", Method: "GET", URL: "/a\x1b\n", Code: 503, Fault: "#1 503"}); strings.ContainsAny(got, "\x1b\n") || !strings.Contains(got, "GET /a?? -> 503  fault: #1 503") {
		t.Errorf("an entry in one line: %q", got)
	}
}

// TestTOOL2ReadmeFabricCommands: the commands of README.md for extension authors
// work as typed; those that run a package are parsed, test/extlab runs them.
func TestTOOL2ReadmeFabricCommands(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	b := bundles.Samples()[0]
	b.Name, b.Version = "Contoso.Hello", "1.0.0"
	dir := t.TempDir()
	if _, err := b.Write(dir); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(readme)) {
		command, ok := strings.CutPrefix(line, "    fabric ")
		if !ok {
			continue
		}
		n++
		words := strings.Fields(strings.ReplaceAll(command, "./", dir+"/"))
		if words[1] != "lint" {
			words = append(words, "--help")
		}
		if out, err := run(t, words...); err != nil {
			t.Errorf("fabric %s: %v %s", command, err, out)
		}
	}
	if n < 3 {
		t.Errorf("%d commands of fabric", n)
	}
}
