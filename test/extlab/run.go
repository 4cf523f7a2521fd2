package extlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// A Plan is what to run a package with.
type Plan struct {
	Bundle    *Bundle
	Old       *Bundle // installed first; nil for none
	Settings  json.RawMessage
	Protected json.RawMessage
	Seq       int // of the settings; negative for the platform's choice
	Timeout   time.Duration
	Lab       Options
}

var (
	// ErrFailed says that everything was done and the extension failed.
	ErrFailed = errors.New("the extension failed")
	errWhose  = errors.New("nothing says whose package this is: give --name and --version")
)

func (p *Plan) check() error {
	for _, b := range []*Bundle{p.Bundle, p.Old} {
		if b != nil && (b.Name == "" || b.Version == "") {
			return fmt.Errorf("%s: %w", b.File, errWhose)
		}
	}
	if p.Old != nil {
		if !strings.EqualFold(p.Old.Name, p.Bundle.Name) {
			return fmt.Errorf("%s is not an older %s", p.Old.Name, p.Bundle.Name)
		}
		if p.Old.Version == p.Bundle.Version {
			return fmt.Errorf("both packages say that they are version %s", p.Old.Version)
		}
	}
	return nil
}

// Run installs a package on a machine of the emulated platform and says how
// it went; ErrFailed if the extension did not succeed.
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
	_, err = l.report(out, began, printed, state, failure, err)
	return err
}

func (l *Lab) install(_ context.Context, b *Bundle, seq int, public, protected json.RawMessage) error {
	if err := l.Publish(b.Name, b.Version, b.Data); err != nil {
		return err
	}
	return l.Put(b.Version, seq, public, protected, b.Version)
}

// report prints what happened since the steps that were printed already.
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
			fmt.Fprintf(out, ": %s", s.Cause)
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
				fmt.Fprintf(out, "             %s | %s\n", name, line)
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
			word = r.Handler + " (it has no status of its own)"
		}
		fmt.Fprintf(out, "  status: %s, code %s, sequence number %s: %s\n", word, r.Code, r.Seq, r.Message)
		for _, s := range r.Substatus {
			fmt.Fprintf(out, "    %s\n", s)
		}
		if r.Seq != "" {
			name := lib + "/" + l.handler + "-" + r.Version + "/status/" + r.Seq + ".status"
			if data, err := l.box.ReadFile(name); err == nil {
				for _, f := range LintStatus("status/"+r.Seq+".status", data) {
					fmt.Fprintf(out, "  %s\n", f)
				}
			}
		}
	}
	fmt.Fprintf(out, "  result after %.1f s: %s", time.Since(began).Seconds(), state)
	if failure != "" {
		fmt.Fprintf(out, ": %s", failure)
	}
	fmt.Fprintln(out)
	if h := hint(l.rights, told.String()+failure); h != "" && state != "Succeeded" {
		fmt.Fprintf(out, "  hint: %s\n", h)
	}
	switch {
	case waitErr != nil:
		return len(steps), fmt.Errorf("%w: %w", ErrFailed, waitErr)
	case state != "Succeeded":
		return len(steps), ErrFailed
	}
	return len(steps), nil
}
