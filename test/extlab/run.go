package extlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// A Plan describes the run of a package.
type Plan struct {
	Bundle    *Bundle
	Old       *Bundle // installed first; nil for none
	Settings  json.RawMessage
	Protected json.RawMessage
	Seq       int // sequence number of the settings; negative for the platform's choice
	Timeout   time.Duration
	Lab       Options
}

var (
	// ErrFailed means that the run was completed and the extension failed.
	ErrFailed = errors.New("the extension failed")
	// ErrInterrupted means that the user cancelled the run.
	ErrInterrupted = errors.New("interrupted")
	// ErrPlan means that the arguments are invalid.
	ErrPlan  = errors.New("invalid arguments")
	errWhose = errors.New("unknown name or version: give --name and --version")
)

// The names and versions that the platform accepts.
var (
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)
	versionForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+){1,3}$`)
)

func (p *Plan) check() error {
	if err := p.wrong(); err != nil {
		return fmt.Errorf("%w: %w", ErrPlan, err)
	}
	return nil
}

func (p *Plan) wrong() error {
	for _, b := range []*Bundle{p.Bundle, p.Old} {
		switch {
		case b == nil:
		case b.Name == "" || b.Version == "":
			return fmt.Errorf("%s: %w", b.File, errWhose)
		case !nameForm.MatchString(b.Name):
			return fmt.Errorf("%s: the name %q is not Publisher.Type: give --name", b.File, b.Name)
		case !versionForm.MatchString(b.Version):
			return fmt.Errorf("%s: the version %q is not two to four numbers separated by dots: give --version", b.File, b.Version)
		}
	}
	if p.Old != nil {
		if !strings.EqualFold(p.Old.Name, p.Bundle.Name) {
			return fmt.Errorf("%s is not the same extension as %s", p.Old.Name, p.Bundle.Name)
		}
		if p.Old.Version == p.Bundle.Version {
			return fmt.Errorf("both packages have version %s", p.Old.Version)
		}
	}
	switch {
	case p.Timeout <= 0:
		return errors.New("the time limit must be positive")
	case p.Seq > math.MaxInt32:
		return fmt.Errorf("the sequence number %d is larger than the platform allows", p.Seq)
	case p.Seq >= 0 && p.Settings == nil && p.Protected == nil:
		return errors.New("a sequence number needs settings, and there are none")
	}
	return nil
}

// Run installs a package on a machine of the emulated platform and prints the
// result; the error is ErrFailed if the extension did not succeed.
func Run(ctx context.Context, p Plan, out io.Writer) error {
	if err := p.check(); err != nil {
		return err
	}
	l, err := New(ctx, p.Lab)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	aboutRights(l.rights, out)
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	began := time.Now()
	printed := 0
	if p.Old != nil {
		if err := l.install(ctx, p.Old, -1, p.Settings, p.Protected); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s\n", p.Old.Name, p.Old.Version)
		state, failure, err := l.Settle(ctx)
		if printed, err = l.report(out, began, printed, state, failure, err); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	if err := l.install(ctx, p.Bundle, p.Seq, p.Settings, p.Protected); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s %s\n", p.Bundle.Name, p.Bundle.Version)
	state, failure, err := l.Settle(ctx)
	if _, err = l.report(out, began, printed, state, failure, err); errors.Is(err, ErrFailed) {
		for _, f := range Lint(p.Bundle) {
			if f.Level == Error {
				fmt.Fprintf(out, "  lint: %s\n", f)
			}
		}
	}
	return err
}

func (l *Lab) install(_ context.Context, b *Bundle, seq int, public, protected json.RawMessage) error {
	if err := l.Publish(b.Name, b.Version, b.Data); err != nil {
		return err
	}
	return l.Put(b.Version, seq, public, protected, b.Version)
}

// maxStatus is the maximum size of a status file that is read, in bytes; it is
// larger than the platform's limit.
const maxStatus = 1 << 20

// clean replaces characters in a handler's output that could control the
// terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), "\r"))
}

// report prints the steps after the first from.
func (l *Lab) report(out io.Writer, began time.Time, from int, state, failure string, waitErr error) (int, error) {
	steps, err := l.Steps()
	if err != nil {
		return from, err
	}
	var told strings.Builder
	for _, s := range steps[from:] {
		took := "still running"
		if !s.End.IsZero() {
			took = fmt.Sprintf("%.3f s, exit %d", s.End.Sub(s.Begin).Seconds(), s.Code)
			if s.Class != "ok" && s.Class != "failed" {
				took += " (" + s.Class + ")"
			}
		}
		fmt.Fprintf(out, "  %7.3f s  %-9s %-8s %s", s.Begin.Sub(began).Seconds(), s.Op, s.Version, took)
		if s.Cause != "" {
			fmt.Fprintf(out, ": %s", clean(s.Cause))
		}
		fmt.Fprintln(out)
		for name, text := range map[string]string{"stdout": s.Stdout, "stderr": s.Stderr} {
			if text = strings.TrimRight(text, "\n"); text == "" {
				continue
			}
			if len(text) > 4096 {
				text = "… " + tail(text, 4096)
			}
			for line := range strings.SplitSeq(text, "\n") {
				fmt.Fprintf(out, "             %s | %s\n", name, clean(line))
			}
		}
		fmt.Fprintln(&told, s.Stdout, s.Stderr, s.Cause)
	}
	r := l.Row()
	if r == nil {
		fmt.Fprintln(out, "  no status")
	} else {
		word := r.Status
		if word == "" {
			word = r.HandlerStatus + " (no extension status)"
		}
		if r.Code != "" {
			word += ", code " + r.Code
		}
		if r.Seq != "" {
			word += ", sequence number " + r.Seq
		}
		fmt.Fprintf(out, "  status: %s: %s\n", word, clean(r.Message()))
		for _, s := range r.Substatus {
			fmt.Fprintf(out, "    %s\n", clean(s))
		}
		if r.Seq != "" {
			name := lib + "/" + l.handler + "-" + r.Version + "/status/" + r.Seq + ".status"
			if data, err := l.ReadTail(name, maxStatus); err == nil {
				for _, f := range LintStatus("status/"+r.Seq+".status", data) {
					fmt.Fprintf(out, "  %s\n", f)
				}
			}
		}
	}
	fmt.Fprintf(out, "  result after %.1f s: %s", time.Since(began).Seconds(), state)
	if failure != "" {
		// The message has already been printed.
		if r != nil && r.Message() != "" {
			failure = strings.Replace(failure, r.Message(), "…", 1)
		}
		fmt.Fprintf(out, ": %s", clean(failure))
	}
	fmt.Fprintln(out)
	if l.deaths > 0 {
		fmt.Fprintf(out, "  the agent was killed %d times, and restarted as by systemd; check whether the handler kills it\n", l.deaths)
	}
	if state != "Succeeded" {
		if h := hint(l.rights, told.String()+failure); h != "" {
			fmt.Fprintf(out, "  hint: %s\n", h)
		}
	}
	switch {
	case errors.Is(waitErr, ErrInterrupted):
		return len(steps), waitErr
	case waitErr != nil:
		return len(steps), fmt.Errorf("%w: %w", ErrFailed, waitErr)
	case state != "Succeeded":
		return len(steps), ErrFailed
	}
	return len(steps), nil
}
