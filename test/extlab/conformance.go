package extlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/azguest/azguest/test/sandbox"
)

// Results of a check.
const (
	Pass = "pass"
	Fail = "FAIL"
	Skip = "skip"
)

// A Verdict is the result of one check.
type Verdict struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Note   string `json:"note,omitempty"`
}

// conformance is the state of a run of the checks; each check leaves the
// extension installed for the next.
type conformance struct {
	*Lab
	p       Plan
	turn    int
	version string
	out     io.Writer
	list    []Verdict
	judged  int // number of steps that belong to finished checks
}

// errSkip is the reason why a check does not apply.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// Conformance runs all checks on a package and prints a line for each. The
// error is ErrFailed if a check failed.
func Conformance(ctx context.Context, p Plan, out io.Writer) ([]Verdict, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	c := &conformance{p: p, version: p.Bundle.Version, out: out}
	c.verdict("package", c.lint())
	p.Lab.SmallDisk = true
	l, err := New(ctx, p.Lab)
	if err != nil {
		return c.list, err
	}
	defer func() { _ = l.Close() }()
	c.Lab = l
	aboutRights(l.rights, out)
	l.handler = p.Bundle.Name
	for _, check := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"update from N-1", c.update},
		{"install and enable", c.install},
		{"status file", c.statusFile},
		{"no leaked secrets", c.secrets},
		{"restart of the agent", c.restart},
		{"reboot", c.reboot},
		{"new settings", c.again},
		{"gap in the sequence numbers", c.gap},
		{"version change, same number", c.sameNumber},
		{"background processes", c.child},
		{"signals and output", c.habits},
		{"killed command", c.kill},
		{"reboot during enable", c.rebootMeanwhile},
		{"full disk", c.full},
		{"disable and uninstall", c.remove},
		{"no leftovers", c.left},
		{"reinstall", c.anew},
	} {
		cctx, cancel := context.WithTimeout(ctx, p.Timeout)
		c.deaths = 0
		err := check.do(cctx)
		cancel()
		if c.deaths > 0 && err == nil {
			err = errNote(fmt.Sprintf("the agent was killed %d times during this check; check whether the handler kills it", c.deaths))
		}
		if ctx.Err() != nil {
			return c.list, ErrInterrupted
		}
		c.verdict(check.name, err)
		if c.list[len(c.list)-1].Result == Fail && check.name == "install and enable" {
			break // the following checks would be meaningless
		}
	}
	for _, v := range c.list {
		if v.Result == Fail {
			return c.list, ErrFailed
		}
	}
	return c.list, nil
}

func (c *conformance) verdict(name string, err error) {
	v := Verdict{Check: name, Result: Pass}
	if skip, ok := errors.AsType[errSkip](err); ok {
		v.Result, v.Note = Skip, string(skip)
	} else if note, ok := errors.AsType[errNote](err); ok {
		v.Note = string(note)
	} else if err != nil {
		v.Result, v.Note = Fail, err.Error()
		if h := hint(c.rights(), c.told(c.judged)+v.Note); h != "" {
			v.Note += "; hint: " + h
		}
	}
	c.judged = c.count()
	c.list = append(c.list, v)
	fmt.Fprintf(c.out, "%-4s  %-32s %s\n", v.Result, v.Check, strings.Join(strings.Fields(clean(v.Note)), " "))
}

// errNote is the remark of a check that passed.
type errNote string

func (e errNote) Error() string { return string(e) }

func (c *conformance) lint() error {
	bad, rest := []string{}, 0
	for _, f := range Lint(c.p.Bundle) {
		if f.Level == Error {
			bad = append(bad, f.String())
		} else {
			rest++
		}
	}
	if len(bad) > 0 {
		return errors.New(strings.Join(bad, "; "))
	}
	if rest > 0 {
		return errNote(fmt.Sprintf("%d warnings, see fabric ext lint", rest))
	}
	return nil
}

// put requests another run with the same settings.
func (c *conformance) put(seq int) error {
	c.turn++
	return c.Put(c.version, seq, c.p.Settings, c.p.Protected, strconv.Itoa(c.turn))
}

// good waits for the end of a run that must succeed.
func (c *conformance) good(ctx context.Context) error {
	state, failure, err := c.Settle(ctx)
	switch {
	case err != nil:
		if r := c.Row(); r != nil {
			return fmt.Errorf("%w; the last status is %q: %s", err, r.Status, r.Message())
		}
		return err
	case state != "Succeeded":
		return fmt.Errorf("%s %s", state, failure)
	}
	return nil
}

// since returns the steps after the first n.
func (c *conformance) since(n int) ([]Step, []string, error) {
	steps, err := c.Steps()
	if err != nil {
		return nil, nil, err
	}
	steps = steps[min(n, len(steps)):]
	var ops []string
	for _, s := range steps {
		ops = append(ops, s.Op)
	}
	return steps, ops, nil
}

// told returns the output of the commands after the first n.
func (c *conformance) told(n int) string {
	if c.Lab == nil {
		return ""
	}
	steps, _, err := c.since(n)
	if err != nil {
		return ""
	}
	var out strings.Builder
	for _, s := range steps {
		fmt.Fprintln(&out, s.Stdout, s.Stderr, s.Cause)
	}
	return out.String()
}

func (c *conformance) rights() sandbox.Rights {
	if c.Lab == nil {
		return sandbox.Root
	}
	return c.Lab.rights
}

func (c *conformance) count() int {
	if c.Lab == nil {
		return 0
	}
	steps, _ := c.Steps() // no steps count as 0
	return len(steps)
}
