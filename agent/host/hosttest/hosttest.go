// Package hosttest stands in for the machine in tests that are about
// decisions, not about Linux: it records commands and answers from a table.
package hosttest

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	"github.com/azguest/azguest/agent/host"
)

// Runner answers commands. The key of Answers is the command line, or its
// first word, or "*"; a command without an answer is "not installed".
type Runner struct {
	Answers map[string]Answer

	mu   sync.Mutex // guards cmds
	cmds []host.Cmd
}

// Answer is what a command prints and returns.
type Answer struct {
	Stdout, Stderr string
	Code           int
	// Do runs first, so that a command can have an effect on a Root.
	Do func(host.Cmd) error
}

// Run implements host.Runner.
func (r *Runner) Run(ctx context.Context, c host.Cmd) (host.Result, error) {
	r.mu.Lock()
	r.cmds = append(r.cmds, c)
	r.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return host.Result{Code: -1}, err
	}
	a, ok := r.Answers[c.String()]
	if !ok {
		a, ok = r.Answers[c.Name]
	}
	if !ok {
		a, ok = r.Answers["*"]
	}
	if !ok {
		return host.Result{Code: -1}, fmt.Errorf("run %s: %w", c.Name, exec.ErrNotFound)
	}
	if a.Do != nil {
		if err := a.Do(c); err != nil {
			return host.Result{Code: -1}, err
		}
	}
	res := host.Result{Stdout: []byte(a.Stdout), Stderr: []byte(a.Stderr), Code: a.Code}
	if a.Code != 0 {
		return res, &host.ExitError{Cmd: c.Name, Code: a.Code, Stderr: a.Stderr}
	}
	return res, nil
}

// Commands returns the command lines that were run, in order.
func (r *Runner) Commands() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, c := range r.cmds {
		out = append(out, c.String())
	}
	return out
}

// Ran reports whether a command line with this prefix was run.
func (r *Runner) Ran(prefix string) bool {
	for _, c := range r.Commands() {
		if strings.HasPrefix(c, prefix) {
			return true
		}
	}
	return false
}
