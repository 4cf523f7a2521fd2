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

// TestTOOL7ValuesAreJudged: a value that could have no effect, or another than was
// meant, is wrong usage; so is a flag that another makes useless.
func TestTOOL7ValuesAreJudged(t *testing.T) {
	t.Parallel()
	f, admin := serving(t)
	before := len(f.Journal(fabric.Query{Kind: fabric.Change}))
	iso := filepath.Join(t.TempDir(), "x.iso")
	for args, want := range map[string]string{
		"fail goalstate --times -3":                "--times",
		"fail goalstate --skip x":                  "not a number",
		"fail goalstate --rate -1":                 "must not be negative",
		"fail goalstate --truncate -5":             "must not be negative",
		"fail goalstate --delay -3s":               "must not be shorter than 0s",
		"fail goalstate --for 5":                   "not a duration such as",
		"fail goalstate --seed 3":                  "no effect without --probability",
		"fail goalstate --probability 2":           "not between 0 and 1",
		"fail goalstate --status 50":               "not between 200 and 599",
		"fail goalstate --status 500 --reset":      "no answer to change",
		"fail goalstate --header a@b=c":            "not the name of a header",
		"fail goalstate --when-header a@b":         "not the name of a header",
		"mend nope":                                `"nope" is not the id of a fault`,
		"journal --limit -1":                       "must not be negative",
		"journal --since -1":                       "must not be negative",
		"await status=x":                           `"x" is not a number`,
		"await request=goalstate:0":                `"0" is not a number from 1 on`,
		"await ready --timeout -1s":                "must not be shorter",
		"vm announce --set {}":                     "belong together",
		"vm frieze":                                "did you mean \"freeze\"?",
		"vm user-data":                             "an argument is missing: a file",
		"vm events x":                              "unexpected argument",
		"vm tag a":                                 "not NAME=VALUE",
		"vm tag a/b=c":                             "not allowed",
		"vm --notice 1s":                           "no effect without an action",
		"vm freeze --lasts 0s":                     "must not be shorter",
		"await event=Freeze:stopped":               "must be one of",
		"vm config":                                "belong together",
		"put x --file y --handler A.B":             "--handler has no effect with --file",
		"dvd":                                      `required flag(s) "out" not set`,
		"bundles":                                  `required flag(s) "out" not set`,
		"dvd --out " + iso + " --fs ios":           `did you mean "iso"?`,
		"dvd --out " + iso + " --spelling ns2":     `did you mean "ns1"?`,
		"dvd --out " + iso + " --pps runnning":     `did you mean "Running"?`,
		"dvd --out " + iso + " --user-data-file x": "unknown flag",
		"dvd --out " + iso + " --label " + strings.Repeat("x", 31): "1 to 30 printable",
		"env az --arm localhost":                                   "an address with a port",
		"env az --arm https://127.0.0.1:8443":                      "an address with a port",
		"serve --vm-id nope":                                       "must be a UUID",
		"serve --pps runnning":                                     `did you mean "Running"?`,
		"serve --vm a=10.0.0.300":                                  "is not an address",
		"serve --vm a=":                                            "is not an address",
		"serve --vm a --vm A":                                      "two virtual machines",
		"serve --vm =10.0.0.4":                                     "must be a name",
		"serve --vm a/b":                                           "must be a name",
		"serve --agent-version x":                                  "two to four numbers",
		"serve --extension-timeout 0s":                             "must not be shorter",
		"serve --retry-after -1s":                                  "must not be shorter",
		"serve --idle-exit -1s":                                    "must not be shorter",
		"serve --resource-group a/b":                               "must be a name",
		"serve --subscription a/b":                                 "must be a name",
	} {
		_, err := run(t, append([]string{admin}, strings.Fields(args)...)...)
		if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), want) {
			t.Errorf("fabric %s: %v, want exit status 2 and %q", args, err, want)
		}
	}
	// What only the fabric knows is refused by it.
	for args, want := range map[string]string{
		"fail goalstate --vm vm-1": `unknown virtual machine "vm-1"; did you mean "vm-01"?`,
		"journal --vm vm-1":        `did you mean "vm-01"?`,
		"await ready --vm vm-1":    `did you mean "vm-01"?`,
		"vm --vm vm-1":             `did you mean "vm-01"?`,
		"get --vm vm-1":            `did you mean "vm-01"?`,
		"mend 9999":                "fault 9999 does not exist",

		`vm config --set {"statusBlob":"PagBlob"}`: `did you mean "PageBlob"?`,
		`vm config --set {"statsBlob":"PageBlob"}`: `unknown field "statsBlob"; did you mean "statusBlob"?`,
		`vm config --set {}{}`:                     "something after the document",
		"get nope":                                 "404: ResourceNotFound: The Resource",
	} {
		if _, err := run(t, append([]string{admin}, strings.Fields(args)...)...); status(err) != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("fabric %s: %v, want exit status 1 and %q", args, err, want)
		}
	}
	r := fabric.Remote{URL: "http://" + strings.TrimPrefix(admin, "--admin=")}
	for _, q := range []struct{ method, path, body, want string }{
		{"POST", "/_fabric/faults", `{"kind":"goalstate","stauts":500}`, `unknown field "stauts"; did you mean "status"?`},
		{"POST", "/_fabric/faults", `{"kind":"goalstate","times":-1}`, "times is negative"},
		{"POST", "/_fabric/faults", `{"kind":"goalstate","vm":"vm-1"}`, `did you mean "vm-01"?`},
		{"POST", "/_fabric/vms/vm-01/claim", `{"hostname2":"x"}`, `did you mean "hostName"?`},
		{"GET", "/_fabric/journal?limt=1", "", `unknown parameter "limt"; did you mean "limit"?`},
		{"GET", "/_fabric/journal?limit=-1", "", "not a number from 0 on"},
		{"GET", "/_fabric/await?for=ready&timout=1s", "", `did you mean "timeout"?`},
		{"GET", "/_fabric/await?for=ready&timeout=-1s", "", "not a time limit"},
	} {
		if _, _, err := r.Do(t.Context(), q.method, q.path, []byte(q.body)); err == nil || !strings.Contains(err.Error(), q.want) {
			t.Errorf("%s %s %s: %v, want %q", q.method, q.path, q.body, err, q.want)
		}
	}
	if got := len(f.Journal(fabric.Query{Kind: fabric.Change})); len(f.Faults()) != 0 || got != before {
		t.Errorf("what was refused had an effect: %d changes, faults %v", got-before, f.Faults())
	}
	if _, err := os.Stat(iso); err == nil {
		t.Error("a medium was written")
	}
	for args, want := range map[string]string{"serve": `(default 1h30m0s)`, "dvd": `(default "udf")`, "fail": "affect only N requests (default: all)\n"} {
		if out, err := run(t, args, "--help"); err != nil || !strings.Contains(out, want) {
			t.Errorf("fabric %s --help: %v, no %q in %s", args, err, want, out)
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

// TestTOOL2ServeAsTyped: the command of README.md and of the help with which a
// fabric is started works on a machine without the platform's addresses; without
// its flag, and without a fabric, the error says what to do.
func TestTOOL2ServeAsTyped(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "(`fabric serve ")
	typed, _, ok := strings.Cut(rest, "`)")
	help, err := run(t, "env", "--help")
	if !ok || err != nil || !strings.Contains(help, "fabric serve "+typed+"\n") {
		t.Fatalf("README.md has %q, the help of env %v %s", typed, err, help)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	words := strings.Fields(strings.NewReplacer("127.0.0.1:8443", "127.0.0.1:0", "ca.pem", ca).Replace(typed))
	out, err := run(t, append([]string{"--admin=127.0.0.1:0", "serve", "--idle-exit", "1ms"}, words...)...)
	if err != nil || strings.Count(out, "127.0.0.1:") < 6 {
		t.Errorf("fabric serve %s: %v %s", typed, err, out)
	}
	if _, err := os.Stat(ca); err != nil {
		t.Error(err)
	}
	if _, err := run(t, "--admin=127.0.0.1:0", "serve", "--idle-exit", "1ms", "--wire", "192.0.2.1:80"); err == nil || !strings.Contains(err.Error(), "use --local") {
		t.Errorf("an address that does not exist: %v", err)
	}
	if _, err := run(t, "--admin=127.0.0.1:1", "get"); err == nil || !strings.Contains(err.Error(), "no fabric listens at http://127.0.0.1:1: start one with fabric serve") {
		t.Errorf("no fabric: %v", err)
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
	if got := oneLine(fabric.Entry{Kind: fabric.Maintenance, Detail: map[string]any{"type": "Freeze", "change": "started", "id": "X"}}); !strings.HasSuffix(got, " Freeze started X") {
		t.Errorf("%q", got)
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
