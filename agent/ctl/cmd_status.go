package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/status"
)

func (a *app) statusCmd() *cobra.Command {
	var (
		wait       string
		timeout    time.Duration
		prometheus bool
	)
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the agent, with problems and fixes first",
		Long: `status shows the state of the agent, problems first. It works even when the
agent is down.

With --wait, it waits until the machine is ready (provisioned, and the platform
has accepted a status report) or converged (ready, and the latest goal state is
applied: no extension is running or will be retried). It stops after --timeout,
or as soon as provisioning fails.

Exit codes: 0 healthy, 1 degraded or starting, 2 failed, 3 not running,
4 unknown, 64 wrong usage.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			// A flag with an optional value takes it only with '='; users write
			// a space.
			if len(args) == 1 {
				if !c.Flags().Changed("wait") || wait != "ready" {
					return usage("unexpected argument %q", args[0])
				}
				wait = args[0]
			}
			if prometheus {
				a.output = "prometheus"
			}
			if wait != "" {
				if err := cli.OneOf("value of --wait", wait, "ready", "converged"); err != nil {
					return exitWith(ExitUsage, err)
				}
			}
			switch {
			case timeout < 0:
				return usage("--timeout must not be negative")
			case wait == "" && c.Flags().Changed("timeout"):
				return usage("--timeout has no effect without --wait")
			case wait == "":
				return exit(a.showStatus())
			}
			ctx := c.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not %s after %s", wait, timeout))
				defer cancel()
			}
			err := a.wait(ctx, wait)
			code := a.showStatus()
			if err != nil {
				// A wait that failed never ends with 0.
				return exitWith(max(code, ExitDegraded), err)
			}
			return exit(code)
		},
	}
	c.Flags().BoolVar(&prometheus, "prometheus", false, "print metrics for the textfile collector of node_exporter")
	c.Flags().StringVar(&wait, "wait", "", "wait until ready or converged")
	c.Flags().Lookup("wait").NoOptDefVal = "ready"
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait; 0: no limit")
	_ = c.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{"ready", "converged"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) view() view {
	s, life, err := a.load()
	return view{
		snap: s, snapErr: err, life: life, now: a.Now(), width: a.Width,
		color: a.color == "always" || a.color == "auto" && a.TTY && !a.NoColor,
	}
}

// observed is what agentctl adds to the snapshot in JSON.
type observed struct {
	At      time.Time   `json:"at"`
	AgeS    float64     `json:"age_s"` // of the snapshot
	Life    status.Life `json:"life"`
	Verdict verdict     `json:"verdict"`
}

// showStatus prints the status and returns the exit code.
func (a *app) showStatus() int {
	v := a.view()
	ver := v.verdict()
	switch a.output {
	case "json":
		o := observed{At: v.now.UTC(), Life: v.life, Verdict: ver}
		have := v.snapErr == nil || errors.Is(v.snapErr, status.ErrSchema)
		if !have {
			a.json(struct {
				SchemaVersion int      `json:"schema_version"`
				Observed      observed `json:"observed"`
			}{status.Schema, o})
			break
		}
		o.AgeS = max(0, v.now.Sub(v.snap.WrittenAt).Seconds())
		a.json(struct {
			status.Snapshot
			Observed observed `json:"observed"`
		}{v.snap, o})
	case "prometheus":
		v.prometheus(a.Stdout)
	default:
		v.render(a.Stdout)
	}
	return ver.ExitCode
}

func (a *app) json(v any) {
	var plain, safe strings.Builder
	e := json.NewEncoder(&plain)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // plain values
	// The encoder does not escape all characters that control a terminal. They
	// occur only in strings, where escapes mean the same.
	for _, r := range plain.String() {
		switch {
		case r == '\n' || !controls(r):
			safe.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&safe, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&safe, `\u%04x`, r)
		}
	}
	a.text("%s", safe.String())
}

// wait waits until the goal ("ready" or "converged") is reached. It checks
// again whenever something in the run directory changes; it does not poll.
func (a *app) wait(ctx context.Context, goal string) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	defer w.Close() // read only
	dir := a.paths().Dir
	for {
		// The directory comes and goes with the agent's unit, so its parents
		// are watched as well. They are watched before the snapshot is read, so
		// that no change is missed.
		for d := dir; ; d = filepath.Dir(d) {
			if err := w.Add(d); err == nil && d != dir || d == filepath.Dir(d) {
				break
			} else if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("wait: watch %s: %w", d, err)
			}
		}
		s, life, err := a.load()
		if err == nil && life.Running {
			switch {
			case goal == "ready" && s.Ready(), goal == "converged" && s.Converged():
				return nil
			case s.Provisioning.State == status.ProvFailed:
				return errors.New("provisioning failed")
			}
		}
		if err := next(ctx, w, a.paths().Snapshot, dir); err != nil {
			return err
		}
	}
}

// next waits for a change that may matter.
func next(ctx context.Context, w *fsnotify.Watcher, file, dir string) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case ev := <-w.Events:
			if filepath.Dir(ev.Name) == filepath.Dir(file) && ev.Name != dir && ev.Name != file && !ev.Has(fsnotify.Remove) {
				continue // a temporary file, the lock, the socket
			}
			return nil
		case err := <-w.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				return nil // something was missed: look again
			}
			return fmt.Errorf("wait: %w", err)
		}
	}
}

// prometheus writes the text format for node_exporter's textfile collector.
func (v view) prometheus(w io.Writer) {
	ver := v.verdict()
	gauge := func(name, help string, value float64) {
		fmt.Fprintf(w, "# HELP azguest_%s %s\n# TYPE azguest_%s gauge\nazguest_%s %s\n", name, help, name, name, strconv.FormatFloat(value, 'f', -1, 64))
	}
	gauge("status", "0 healthy, 1 degraded, 2 failed, 3 not running, 4 unknown", float64(ver.ExitCode))
	up := 0.0
	if v.life.Running {
		up = 1
	}
	gauge("up", "1 if the agent is running", up)
	if v.snapErr != nil {
		return
	}
	s := v.snap
	gauge("snapshot_age_seconds", "age of the status snapshot", v.now.Sub(s.WrittenAt).Seconds())
	if t := s.Platform.LastReport.AcceptedAt; !t.IsZero() {
		gauge("report_accepted_timestamp_seconds", "time of the last accepted status report", float64(t.Unix()))
	}
	gauge("goal_state_lag_seconds", "time from receiving to applying the goal state", s.Platform.GoalState.LagS)
	gauge("resident_memory_bytes", "memory of the agent", float64(s.Agent.RSS))
	gauge("restarts", "restarts of the agent since boot", float64(s.Agent.Restarts))
	gauge("disk_used_bytes", "disk space used by the agent", float64(s.Disk.Used))
	gauge("telemetry_dropped", "dropped telemetry events", float64(s.Telemetry.Dropped))
	if len(ver.Codes) > 0 {
		fmt.Fprint(w, "# HELP azguest_problem 1 for each reported code\n# TYPE azguest_problem gauge\n")
		for _, c := range ver.Codes {
			fmt.Fprintf(w, "azguest_problem{code=%s} 1\n", label(c))
		}
	}
	if len(s.Extensions) > 0 {
		fmt.Fprint(w, "# HELP azguest_extension_state 0 failed, 1 waiting or warning, 2 running, 3 ok\n# TYPE azguest_extension_state gauge\n")
		for _, e := range s.Extensions {
			_, rank := extWord(e, v.now)
			fmt.Fprintf(w, "azguest_extension_state{name=%s,config=%s,version=%s} %d\n", label(e.Name), label(e.Config), label(e.Version), rank)
		}
	}
}

func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(clean(s)) + `"`
}
