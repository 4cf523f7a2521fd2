package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/status"
)

// TestTOOL8WhatIsNotKnownIsRefused walks all commands: words, flags, arguments
// and output formats that a command does not know end with 64 and with our own
// sentence.
func TestTOOL8WhatIsNotKnownIsRefused(t *testing.T) {
	t.Parallel()
	root := machine(t, wellSnapshot())
	n := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		words := strings.Fields(c.CommandPath())[1:]
		refused := func(want string, args ...string) {
			t.Helper()
			n++
			args = append(slices.Clone(words), args...)
			code, out, errs := run(t, root, args...)
			if code != ExitUsage || out != "" || !strings.Contains(errs, want) || !strings.HasPrefix(errs, "agentctl: ") || !strings.Contains(errs, "See 'agentctl --help'") {
				t.Errorf("agentctl %q: %d, %q, %q; want %q", args, code, out, errs, want)
			}
		}
		if c.DisableFlagParsing {
			return
		}
		refused("unknown flag \"--nonsense\"", "--nonsense")
		if c.Flags().Lookup("json") != nil {
			refused(`did you mean "--json"?`, "--jsno")
		}
		for _, format := range []string{"json", "prometheus", "yaml"} {
			if !slices.Contains(formats(c), format) && c.Name() != "completion" && (c.Parent() == nil || c.Parent().Name() != "completion") && c.Name() != "help" {
				refused("unknown value of --output \""+format+`"`, append(arguments(c), "-o", format)...)
			}
		}
		if c.HasSubCommands() {
			refused("unknown command \"nonsense\"", "nonsense")
		} else if c.Name() != "help" {
			refused("unexpected argument \"c\"; usage: "+c.UseLine(), "a", "b", "c")
		}
		if strings.Contains(c.Use, " ") && arguments(c) != nil && c.Args(c, nil) != nil {
			refused("an argument is missing; usage: " + c.UseLine())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	a := &app{Env: Env{Root: root, Stdout: &bytes.Buffer{}}}
	walk(a.command())
	if n < 120 {
		t.Errorf("only %d command lines tried", n)
	}
	for args, want := range map[string]string{
		"stauts":                       `unknown command "stauts"; did you mean "status"?`,
		"ext shwo":                     `unknown command "shwo"; did you mean "show"? (must be one of: `,
		"ext show":                     "ext show: an argument is missing; usage: agentctl ext show NAME",
		"help stauts":                  `unknown command "stauts"; did you mean "status"?`,
		"help ext shwo":                `unknown command "shwo"; did you mean "show"?`,
		"completion bahs":              `unknown command "bahs"; did you mean "bash"?`,
		"explain AZ-PROV-" + "MEDAI":   `did you mean "AZ-PROV-MEDIA"?`,
		"status --wait=raedy":          `did you mean "ready"?`,
		"status --timeout 5":           `--timeout takes a duration such as 30s or 5m, not "5"`,
		"status --wait --timeout -1s":  "--timeout must not be negative",
		"status --timeout 5m":          "--timeout has no effect without --wait",
		"logs -n x":                    `--lines takes a number from 0 on, not "x"`,
		"status --json=maybe":          `--json takes true or false, not "maybe"`,
		"ext history -n -1":            `--lines takes a number from 0 on, not "-1"`,
		"logs -n -1":                   `not "-1"`,
		"config keys Provisoning":      `no setting begins with Provisoning; did you mean "Provisioning"?`,
		"config keys EnableFirewal":    `did you mean "OS.EnableFirewall"?`,
		"config show OS.EnbleFirewall": `did you mean "OS.EnableFirewall"?`,
		"config keys nonsense":         "run 'agentctl config keys'",
		"doctor nettwork":              `did you mean "network"?`,
		"doctor --color=no":            `unknown value of --color "no"`,
	} {
		if code, out, errs := run(t, root, strings.Fields(args)...); code != ExitUsage || out != "" || !strings.Contains(errs, want) {
			t.Errorf("agentctl %s: %d, %q, %q; want %q", args, code, out, errs, want)
		}
	}
	if code, out, _ := run(t, root, "--version"); code != 0 || !strings.HasPrefix(out, "agentctl 1.4.2 (go") {
		t.Errorf("agentctl --version: %d, %q", code, out)
	}
	if code, out, _ := run(t, root, "help", "ext", "show"); code != 0 || !strings.Contains(out, "agentctl ext show NAME") {
		t.Errorf("agentctl help ext show: %d, %q", code, out)
	}
}

// arguments returns as many arguments as a command needs.
func arguments(c *cobra.Command) []string {
	if !c.HasSubCommands() && c.Args != nil && c.Args(c, nil) != nil {
		return []string{"x"}
	}
	return nil
}

// A brokenPipe accepts a number of bytes, and then fails.
type brokenPipe struct {
	left int
	err  error
}

func (w *brokenPipe) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, w.err
	}
	return len(p), nil
}

// TestTOOL8OutputThatDoesNotArrive: a command whose output can't be written has
// failed. A reader that has seen enough is no reason to print anything.
func TestTOOL8OutputThatDoesNotArrive(t *testing.T) {
	t.Parallel()
	root := machine(t, wellSnapshot())
	for _, args := range []string{"status", "status --json", "status --prometheus", "config keys", "explain", "doctor", "man", "help", "version"} {
		for _, fault := range []error{unix.ENOSPC, unix.EPIPE, unix.EBADF} {
			var errs bytes.Buffer
			code := Main(t.Context(), strings.Fields(args), Env{Version: "1.4.2", Stdout: &brokenPipe{20, fault}, Stderr: &errs, Root: root, Now: func() time.Time { return now }})
			said := strings.Contains(errs.String(), "agentctl: write output: "+fault.Error())
			if code != ExitOutput || said == errors.Is(fault, unix.EPIPE) {
				t.Errorf("agentctl %s, %v: %d, %q", args, fault, code, errs.String())
			}
		}
	}
	// A command that would go on for ever ends.
	put(t, root, "/var/log/waagent.log", "a line of the log\nanother line\n")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code := Main(ctx, []string{"logs", "--follow"}, Env{Stdout: &brokenPipe{20, unix.ENOSPC}, Stderr: &bytes.Buffer{}, Root: root, Now: time.Now})
	if code != ExitOutput || ctx.Err() != nil {
		t.Errorf("agentctl logs --follow: %d, %v", code, ctx.Err())
	}
}

// TestTOOL8LinesAreBrokenAtWords: no line of the status is wider than the
// terminal, unless a single word is.
func TestTOOL8LinesAreBrokenAtWords(t *testing.T) {
	t.Parallel()
	for _, width := range []int{40, 80, 200} {
		for _, color := range []bool{false, true} {
			s := sickSnapshot()
			s.Problems = append(s.Problems, s.Problems...)
			v := view{snap: s, now: now, width: width, color: color}
			var out bytes.Buffer
			v.render(&out)
			for line := range strings.Lines(out.String()) {
				line = strings.TrimSuffix(line, "\n")
				if columns(line) > width && len(strings.Fields(line)) > 2 {
					t.Errorf("%d columns: a line has %d: %q", width, columns(line), line)
				}
			}
		}
	}
	for _, c := range []struct {
		text string
		room int
		want []string
	}{
		{"one two  three", 0, []string{"one two  three"}},
		{"0123456789 0123456789 0123456789", 21, []string{"0123456789 0123456789", "0123456789"}},
		{"  0123456789 0123456789 0123456789", 23, []string{"  0123456789 0123456789", "  0123456789"}},
		{"\x1b[31m0123456789\x1b[0m 0123456789 x", 21, []string{"\x1b[31m0123456789\x1b[0m 0123456789", "x"}},
		{"机器名称名称 机器名称名称", 20, []string{"机器名称名称", "机器名称名称"}},
		{"a " + strings.Repeat("x", 30) + " b", 20, []string{"a", strings.Repeat("x", 30), "b"}},
	} {
		if got := wrap(c.text, c.room); !slices.Equal(got, c.want) {
			t.Errorf("wrap(%q, %d): %q, want %q", c.text, c.room, got, c.want)
		}
	}
}

// TestTOOL9ANoteIsNoFailure: doctor ends with 0 if there is nothing to do, and
// says so to a user who may not run a check.
func TestTOOL9ANoteIsNoFailure(t *testing.T) {
	t.Parallel()
	root := machine(t, wellSnapshot()) // has no /sys/fs/cgroup
	code, out, errs := run(t, root, "doctor", "-o", "json")
	var got struct {
		Findings []doctor.Finding
		ExitCode int `json:"exit_code"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %q, %q", err, out, errs)
	}
	worst := 0
	for _, f := range got.Findings {
		switch f.State { //nolint:exhaustive // the other states change nothing
		case status.Error:
			worst = ExitFailed
		case status.Warn:
			worst = max(worst, ExitDegraded)
		}
		if f.Code == "AZ-CG-MISSING" && f.State != doctor.Note {
			t.Errorf("%s is %s", f.Code, f.State)
		}
	}
	if code != worst || got.ExitCode != worst {
		t.Errorf("exit code %d (in JSON: %d), want %d", code, got.ExitCode, worst)
	}
	if _, out, _ := run(t, root, "doctor"); !strings.Contains(out, "\nnote     cgroups        /sys/fs/cgroup is empty\n") && !strings.HasPrefix(out, "note     cgroups") {
		t.Errorf("doctor prints\n%s", out)
	}
	refused := notAsked(fmt.Errorf("connect to the agent: %w", &os.SyscallError{Syscall: "connect", Err: unix.EACCES}))
	if refused.State != doctor.Note || !refused.Network() || !strings.Contains(refused.Evidence, "run as root for this check") {
		t.Errorf("as another user: %+v", refused)
	}
	if f := notAsked(errors.New("the agent is busy")); f.State != status.Unknown || !f.Network() {
		t.Errorf("another fault: %+v", f)
	}
}
